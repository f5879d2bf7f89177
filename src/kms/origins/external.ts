/** Origin EXTERNAL: the caller imports the material (BYOK); until then the key waits for it. */

import { kmsError } from '../errors.ts'
import { checkKind } from '../specs.ts'
import type { Origin } from './origin.ts'

export const external: Origin = {
  check(call, wanted) {
    if (wanted.customKeyStoreId !== undefined) {
      throw kmsError('UnsupportedOperationException', 'Keys with Origin EXTERNAL cannot be in a custom key store.')
    }
    if (wanted.xksKeyId !== undefined) {
      throw kmsError('ValidationException', 'XksKeyId is valid only with Origin EXTERNAL_KEY_STORE and a CustomKeyStoreId.')
    }
    checkKind(call.service.tokenOf({ token: call.service.tokenName(call.region) }), wanted)
  },
  async create({ service: { store } }, key) {
    await store.insertKey({ ...key, state: 'PendingImport', creator: null }, undefined)
    return store.view.key(key.arn) ?? { ...key, state: 'PendingImport', creator: null }
  },
}
