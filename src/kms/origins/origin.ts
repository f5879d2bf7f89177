/** Where a new key's material comes from: what CreateKey asks of each `Origin`. One file beside this for each, and `table.ts` with all. */

import type { KeyRecord } from '../../store/store.ts'
import type { Call } from '../operation.ts'
import type { KeySpec, KeyUsage } from '../specs.ts'

/** What CreateKey was asked for, as far as an origin cares. Spec and usage are known to fit each other. */
export interface WantedKey {
  readonly spec: KeySpec
  readonly usage: KeyUsage
  readonly multiRegion: boolean
  readonly customKeyStoreId: string | undefined
  readonly xksKeyId: string | undefined
}

export interface Origin {
  /** @throws KmsError for what cannot be made so, before anything of the key is decided. */
  check(call: Call, wanted: WantedKey): void
  /** Makes the key. It comes in state Creating, belongs to this instance, and its policy and tags are judged. */
  create(call: Call, key: KeyRecord, wanted: WantedKey): Promise<KeyRecord>
}
