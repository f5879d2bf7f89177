/** Origin AWS_KMS: the material is made in the token that holds the region's keys, and never leaves it. */

import { createKey } from '../material.ts'
import { checkKind, checkReplicable } from '../specs.ts'
import { refuseKeyStore } from './custom-key-store.ts'
import type { Origin } from './origin.ts'

export const awsKms: Origin = {
  check(call, wanted) {
    refuseKeyStore(call, wanted, 'AWS_KMS')
    const token = call.service.tokenOf({ token: call.service.tokenName(call.region) })
    checkKind(token, wanted)
    if (wanted.multiRegion) checkReplicable(token, wanted)
  },
  create: (call, key) => createKey(call.service, key),
}
