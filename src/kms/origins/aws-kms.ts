/** Origin AWS_KMS: the material is made in the token that holds the region's keys, and never leaves it. */

import { kmsError } from '../errors.ts'
import { createKey } from '../material.ts'
import { checkKind } from '../specs.ts'
import type { Origin } from './origin.ts'

export const awsKms: Origin = {
  check(call, wanted) {
    if (wanted.customKeyStoreId !== undefined) {
      throw kmsError('CustomKeyStoreNotFoundException', `Custom key store ${wanted.customKeyStoreId} does not exist.`)
    }
    if (wanted.xksKeyId !== undefined) {
      throw kmsError('ValidationException', 'XksKeyId is valid only with Origin EXTERNAL_KEY_STORE and a CustomKeyStoreId.')
    }
    checkKind(call.service.tokenOf({ token: call.service.tokenName(call.region) }), wanted)
  },
  create: (call, key) => createKey(call.service, key),
}
