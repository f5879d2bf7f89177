/**
 * `holdfast doctor`: the token as its library shows it and as the self-test proved it, then the database held against it.
 * Part of the wiring, since it opens token and store. It changes nothing: it makes no token, no database and no
 * key but the self-test's throw-away ones, and a database of another version is left as it is.
 */

import { existsSync } from 'node:fs'
import { silentLog } from './base/log.ts'
import { systemClock } from './base/clock.ts'
import type { Examination } from './cli/wiring.ts'
import { openToken, type TokenConfig } from './hsm/client.ts'
import { diagnose, DoctorError, inspectModule, renderDoctor, type DoctorReport } from './hsm/doctor.ts'
import { readProfile } from './hsm/profile.ts'
import { canaryLabel, TokenError, type Token, type TokenObject, type WrapScheme } from './hsm/token.ts'
import { findSystemKey, systemKeyNames } from './kms/system-keys.ts'
import { openStore } from './store/open.ts'
import { StoreFailure, type Store } from './store/store.ts'

/** The database against the token: what one has and the other does not show. */
interface Inventory {
  readonly keys: number
  readonly keysWithoutObjects: readonly KeyName[]
  /** Of the two objects of a cbc-hmac key only one is there. */
  readonly keysWithHalfTheirObjects: readonly KeyName[]
  readonly objectsWithoutKeys: readonly ObjectName[]
  /** What a self-test or a start that was stopped left. */
  readonly leftovers: readonly ObjectName[]
}

/** `key` is an ARN, or the name of one of the service's own. */
interface KeyName {
  readonly key: string
  readonly ckaId: string
  readonly label: string
}

interface ObjectName {
  readonly ckaId: string
  readonly label: string
  readonly objectClass: string
}

/** The labels that objects of ours get; other objects on the token are none of our business. */
const keyLabel = /^kms\//
const systemLabel = /^holdfast\//

export async function examine(request: {
  readonly tokenConfig: Omit<TokenConfig, 'provision'>
  readonly database: string
}): Promise<Examination> {
  const { tokenConfig, database } = request
  let text = ''
  let device: DoctorReport | undefined
  let inventory: Inventory | undefined
  const problems: string[] = []
  try {
    const library = await inspectModule({ library: tokenConfig.library, ...(tokenConfig.env && { env: tokenConfig.env }) })
    device = diagnose(library)
    const token = await openToken({ ...tokenConfig, provision: false }, { log: silentLog })
    try {
      const info = token.info()
      device = diagnose(library, { info, capabilities: token.capabilities(), profile: readProfile(tokenConfig.profile ?? info.profile) })
      if (existsSync(database)) inventory = await takeInventory(token, database)
    } finally {
      await token.close()
    }
  } catch (error) {
    if (!(error instanceof TokenError || error instanceof DoctorError || error instanceof StoreFailure)) throw error
    problems.push(error.message)
  }
  if (device) text += renderDoctor(device)
  if (inventory) text += `\n${renderInventory(inventory)}`
  for (const problem of problems) text += `\nPROBLEM: ${problem}\n`
  return {
    text,
    report: { device, inventory, problems },
    healthy: problems.length === 0 && device?.healthy === true && isSound(inventory),
  }
}

const isSound = (inventory: Inventory | undefined): boolean =>
  !inventory || inventory.keysWithoutObjects.length + inventory.keysWithHalfTheirObjects.length === 0

async function takeInventory(token: Token, database: string): Promise<Inventory> {
  const store = await openStore({ file: database, clock: systemClock, readOnly: true })
  try {
    return compare(store, await token.allObjects(), token.capabilities().wrapSchemes)
  } finally {
    await store.close()
  }
}

/**
 * Only private and secret key objects count: they hold the key. A key's objects are those of its CKA_ID and its label.
 * @param wrapSchemes those that work on this token
 */
export function compare(store: Pick<Store, 'view'>, objects: readonly TokenObject[], wrapSchemes: readonly WrapScheme[]): Inventory {
  const nameOf = ({ ckaId, label }: { readonly ckaId: string; readonly label: string }): string => `${ckaId} ${label}`
  const shown = new Map<string, TokenObject[]>()
  for (const object of objects) shown.set(nameOf(object), [...(shown.get(nameOf(object)) ?? []), object])
  const known = new Set<string>()
  const keysWithoutObjects: KeyName[] = []
  const keysWithHalfTheirObjects: KeyName[] = []
  const look = (key: string, { ckaId, label }: { readonly ckaId: string; readonly label: string }): void => {
    const own = shown.get(nameOf({ ckaId, label })) ?? []
    if (own.length === 0) keysWithoutObjects.push({ key, ckaId, label })
    else if (isHalf(own, wrapSchemes)) keysWithHalfTheirObjects.push({ key, ckaId, label })
  }
  let keys = 0
  for (const { arn } of store.view.allKeys()) {
    keys++
    for (const backing of store.view.backingKeys(arn)) {
      known.add(nameOf(backing))
      if (backing.state === 'ready') look(arn, backing)
    }
  }
  for (const name of systemKeyNames) {
    const key = findSystemKey(store, name)
    if (!key) continue
    known.add(nameOf(key))
    look(`the service’s own key ${name}`, key)
  }
  const unknown = objects
    .filter((object) => !known.has(nameOf(object)) && object.label !== canaryLabel)
    .map(({ ckaId, label, objectClass }): ObjectName => ({ ckaId, label, objectClass }))
  return {
    keys,
    keysWithoutObjects,
    keysWithHalfTheirObjects,
    objectsWithoutKeys: unknown.filter(({ label }) => keyLabel.test(label)),
    leftovers: unknown.filter(({ label }) => systemLabel.test(label)),
  }
}

/** A key for MACs alone is half a cbc-hmac key. An AES key alone may be a whole one for GCM, but not on a token that has no GCM. */
function isHalf(objects: readonly TokenObject[], wrapSchemes: readonly WrapScheme[]): boolean {
  const secret = objects.filter(({ objectClass }) => objectClass === 'CKO_SECRET_KEY')
  const aes = secret.filter(({ keyType }) => keyType === 'CKK_AES').length
  if (secret.length === 0) return false
  return aes === 0 || (aes === secret.length && !wrapSchemes.some((scheme) => scheme.startsWith('gcm')))
}

function renderInventory({ keys, keysWithoutObjects, keysWithHalfTheirObjects, objectsWithoutKeys, leftovers }: Inventory): string {
  const problem =
    (what: string) =>
    ({ key, ckaId, label }: KeyName) =>
      `  PROBLEM: ${key} has ${what} on the token (CKA_ID ${ckaId}, label ${label}). Restore it from the token's backup.`
  const note =
    (what: string) =>
    ({ ckaId, label, objectClass }: ObjectName) =>
      `  note: the token has ${objectClass} ${label} (CKA_ID ${ckaId}), which ${what}.`
  return [
    `Keys in the database: ${keys}`,
    ...keysWithoutObjects.map(problem('no object')),
    ...keysWithHalfTheirObjects.map(problem('only one of its two objects')),
    ...objectsWithoutKeys.map(note('no key of this database uses')),
    ...leftovers.map(note('a self-test or an interrupted start left behind, or belongs to another database')),
    '',
  ].join('\n')
}
