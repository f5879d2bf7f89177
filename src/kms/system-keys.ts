/**
 * Keys that the service needs for itself, one object set in the token each: `service` (access key secrets, session tokens) and `audit`
 * (seals of the audit trail). Their CKA_IDs are settings in the store, written before the objects are made, so that a stop at any
 * moment leaves either nothing or something that the next start finds and finishes.
 */

import { randomBytes } from 'node:crypto'
import type { Token, TokenKeyKind } from '../hsm/token.ts'
import type { Store } from '../store/store.ts'

export interface SystemKey {
  /** CKA_ID in hex. */
  readonly ckaId: string
  readonly label: string
}

interface Setting extends SystemKey {
  /** The objects were made and checked. From then on their absence is an alarm, never a reason to make new ones. */
  readonly ready: boolean
}

export async function ensureSystemKey(
  { token, store }: { readonly token: Token; readonly store: Store },
  name: 'service' | 'audit',
  kind: TokenKeyKind,
): Promise<SystemKey> {
  const setting = `system-key/${name}`
  for (;;) {
    const text = store.view.setting(setting)
    if (text === undefined) {
      const intent: Setting = { ckaId: newCkaId(token), label: `holdfast/${name}`, ready: false }
      await store.compareAndSetSetting(setting, undefined, JSON.stringify(intent))
      continue
    }
    const known = JSON.parse(text) as Setting
    const objects = await token.objects(known.ckaId)
    if (known.ready) {
      if (objects.length > 0) return { ckaId: known.ckaId, label: known.label }
      throw new Error(
        `The token ${JSON.stringify(token.info().label)} (serial ${token.info().serial}) does not show the key ${known.label} (CKA_ID ${known.ckaId}) that this data directory was set up with. ` +
          'It is another token, or has lost its objects. Configure the right token, or restore its backup; nothing was changed.',
      )
    }
    // What an interrupted start left is removed first: it may be half of a key.
    if (objects.length > 0) await token.destroyKey(known.ckaId, known.label)
    await token.generateKey({ kind, ckaId: known.ckaId, label: known.label })
    await store.compareAndSetSetting(setting, text, JSON.stringify({ ...known, ready: true }))
  }
}

/** A CKA_ID as long as this token wants it. */
export const newCkaId = (token: Token): string => randomBytes(token.capabilities().keyIdBytes).toString('hex')
