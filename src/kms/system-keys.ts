/**
 * Keys that the service needs for itself, one object set in the token each: `service` (access key secrets, session tokens; see service-key.ts) and `audit`
 * (seals of the audit trail). Which CKA_ID is the key is a setting in the store.
 *
 * Any number of processes may start together on an empty store. Each names its candidate in the setting before it makes the object, and
 * the first that can write its own as the key has made the key; a candidate is never touched while it could still become the key. What
 * a stopped start left is in the list of candidates, and the next start removes it.
 */

import { randomBytes } from 'node:crypto'
import { OperatorError } from '../base/operator-error.ts'
import { TokenError, type Token, type TokenKeyKind } from '../hsm/token.ts'
import type { Store } from '../store/store.ts'

export interface SystemKey {
  /** CKA_ID in hex. */
  readonly ckaId: string
  readonly label: string
}

/** Of the service key each generation (see service-key.ts). */
export type ServiceKeyName = 'service' | `service/${number}`
export type SystemKeyName = ServiceKeyName | 'audit'
type SystemKeyKind = Extract<TokenKeyKind, 'wrapping' | 'signing'>

interface Setting {
  /** Made and checked. From then on its absence is an alarm, never a reason to make another one. */
  readonly key?: SystemKey
  /** Objects that may exist and are not the key, or not yet. */
  readonly candidates: readonly SystemKey[]
}

interface Rooms {
  readonly token: Token
  readonly store: Store
}

export async function ensureSystemKey({ token, store }: Rooms, name: SystemKeyName, kind: SystemKeyKind): Promise<SystemKey> {
  const setting = `system-key/${name}`
  const read = (): Setting => JSON.parse(store.view.setting(setting) ?? '{"candidates":[]}') as Setting
  /** Changes the setting under its newest value; `change` answers undefined to leave it. */
  const update = async (change: (current: Setting) => Setting | undefined): Promise<Setting> => {
    for (;;) {
      const text = store.view.setting(setting)
      const current = read()
      const next = change(current)
      if (!next) return current
      if (await store.compareAndSetSetting(setting, text, JSON.stringify(next))) return next
    }
  }
  const without = (all: readonly SystemKey[], one: SystemKey): readonly SystemKey[] => all.filter(({ ckaId }) => ckaId !== one.ckaId)

  let mine: SystemKey | undefined
  if (!read().key) {
    const candidate: SystemKey = { ckaId: newCkaId(token), label: `holdfast/${name}` }
    const { candidates } = await update((now) => (now.key ? undefined : { candidates: [...now.candidates, candidate] }))
    if (candidates.includes(candidate)) {
      mine = candidate
      await token.generateKey({ kind, ckaId: mine.ckaId, label: mine.label })
      await update((now) => (now.key ? undefined : { key: candidate, candidates: without(now.candidates, candidate) }))
    }
  }
  const { key } = read()
  if (mine && key?.ckaId !== mine.ckaId) {
    // Another was first, and may have looked for leftovers before this one was there.
    await token.destroyKey(mine.ckaId, mine.label)
  }
  if (!key) throw new Error(`the store lost its setting ${setting}`)
  if (!(await isUsable(token, key, kind))) {
    throw new OperatorError(
      `The token ${JSON.stringify(token.info().label)} (serial ${token.info().serial}) does not show the key ${key.label} (CKA_ID ${key.ckaId}) that this data directory was set up with. ` +
        'It is another token, or has lost its objects. Configure the right token, or restore its backup; nothing was changed.',
    )
  }
  for (const left of read().candidates) {
    await token.destroyKey(left.ckaId, left.label)
    await update((current) => ({ ...current, candidates: without(current.candidates, left) }))
  }
  return key
}

/**
 * Whether the token shows the key. It is used, not searched for: its agent knows where it is, and a search takes as long as the token has objects.
 * @throws TokenError for whatever else is the matter
 */
async function isUsable(token: Token, { ckaId }: SystemKey, kind: SystemKeyKind): Promise<boolean> {
  try {
    if (kind === 'signing') await token.sign(ckaId, randomBytes(32))
    else await token.wrap(ckaId, Buffer.alloc(0), randomBytes(32))
    return true
  } catch (error) {
    if (error instanceof TokenError && error.failure === 'missing') return false
    throw error
  }
}

/** What was made under this name, undefined before the first start. */
export function findSystemKey({ view }: Pick<Store, 'view'>, name: SystemKeyName): SystemKey | undefined {
  return (JSON.parse(view.setting(`system-key/${name}`) ?? '{}') as Partial<Setting>).key
}

/** A CKA_ID as long as this token wants it. */
export const newCkaId = (token: Token): string => randomBytes(token.capabilities().keyIdBytes).toString('hex')
