/** Origin AWS_CLOUDHSM: the material is made in a custom key store of type AWS_CLOUDHSM, another token. */

import { createKey } from '../material.ts'
import { checkKind } from '../specs.ts'
import { connectedKeyStore, refuseExternalKey } from './custom-key-store.ts'
import type { Origin } from './origin.ts'

export const cloudHsm: Origin = {
  check(call, wanted) {
    refuseExternalKey(wanted)
    connectedKeyStore(call, wanted, 'AWS_CLOUDHSM')
  },
  async create(call, draft, wanted) {
    const key = { ...draft, token: connectedKeyStore(call, wanted, 'AWS_CLOUDHSM').id }
    await call.service.keyStores.ready(key)
    checkKind(call.service.tokenOf(key), wanted)
    return createKey(call.service, key)
  },
}
