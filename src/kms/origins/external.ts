/** Origin EXTERNAL: the caller imports the material (BYOK); until then the key waits for it. */

import { checkKind } from '../specs.ts'
import { refuseKeyStore } from './custom-key-store.ts'
import type { Origin } from './origin.ts'

export const external: Origin = {
  check(call, wanted) {
    refuseKeyStore(call, wanted, 'EXTERNAL')
    checkKind(call.service.tokenOf({ token: call.service.tokenName(call.region) }), wanted)
  },
  async create({ service: { store, config } }, key) {
    await store.insertKey({ ...key, state: 'PendingImport', creator: null }, undefined, config.quotas.keys)
    return store.view.key(key.arn) ?? { ...key, state: 'PendingImport', creator: null }
  },
}
