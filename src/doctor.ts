/**
 * `holdfast doctor`: the token as its library shows it and as the self-test proved it, then the database held against it.
 * Part of the wiring, since it opens token and store. It changes nothing: it makes no token, no database and no
 * key but the self-test's throw-away ones, and a database of another version is left as it is.
 */

import { existsSync } from 'node:fs'
import { silentLog } from './base/log.ts'
import { systemClock } from './base/clock.ts'
import type { Examination } from './cli/wiring.ts'
import { openToken } from './hsm/client.ts'
import { diagnose, DoctorError, inspectModule, renderDoctor, type DoctorReport } from './hsm/doctor.ts'
import { readProfile } from './hsm/profile.ts'
import { canaryLabel, TokenError, type Token, type TokenObject, type WrapScheme } from './hsm/token.ts'
import { isSymmetric } from './kms/specs.ts'
import { serviceKeyNames } from './kms/service-key.ts'
import { findSystemKey } from './kms/system-keys.ts'
import { openStore } from './store/open.ts'
import { StoreFailure, type ImportObject, type Store } from './store/store.ts'
import { homeToken, type TokenPlan } from './tokens.ts'

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
/** What the security officers made for replication. */
const transportLabel = /^holdfast\/transport\b/

/** What was found of one token. */
interface TokenExamination {
  readonly name: string
  readonly device: DoctorReport | undefined
  readonly inventory: Inventory | undefined
  readonly problems: readonly string[]
}

export async function examine(request: {
  readonly tokens: readonly TokenPlan[]
  readonly database: string
  /** How many there will be of the service, and why. */
  readonly processes: { readonly count: number; readonly why: string }
}): Promise<Examination> {
  const { tokens, database, processes } = request
  const all = await Promise.all(tokens.map((plan) => examineToken(plan, database, processes.count)))
  const [home, ...others] = all
  const missing = await tokensNotConfigured(tokens, database)
  let text = `API processes: ${processes.count} (${processes.why})\n\n`
  for (const { name, device, inventory, problems } of all) {
    if (all.length > 1) text += `${name === home?.name ? '' : '\n'}== token ${name} ==\n`
    if (device) text += renderDoctor(device)
    if (inventory) text += `\n${renderInventory(inventory)}`
    for (const problem of problems) text += `\nPROBLEM: ${problem}\n`
  }
  for (const problem of missing) text += `\nPROBLEM: ${problem}\n`
  return {
    text,
    report: {
      processes,
      device: home?.device,
      inventory: home?.inventory,
      problems: [...(home?.problems ?? []), ...missing],
      tokens: others,
    },
    healthy:
      missing.length === 0 &&
      all.every(({ problems, device, inventory }) => problems.length === 0 && device?.healthy === true && isSound(inventory)),
  }
}

async function examineToken({ name, config }: TokenPlan, database: string, processes: number): Promise<TokenExamination> {
  let device: DoctorReport | undefined
  let inventory: Inventory | undefined
  const problems: string[] = []
  try {
    const library = await inspectModule({ library: config.library, ...(config.env && { env: config.env }) })
    device = diagnose(library)
    const token = await openToken({ ...config, provision: false }, { log: silentLog })
    try {
      const info = token.info()
      device = diagnose(library, { info, capabilities: token.capabilities(), profile: readProfile(config.profile ?? info.profile) })
      const shown = library.slots.find((slot) => slot.token?.label === info.label && slot.token.serial === info.serial)?.token
      const wanted = config.sessions ?? readProfile(config.profile ?? info.profile).limits.sessions
      problems.push(...tooManySessions(processes, wanted, shown?.maxSessions ?? null))
      if (existsSync(database)) inventory = await takeInventory(token, name, database)
    } finally {
      await token.close()
    }
  } catch (error) {
    problems.push(problemOf(error))
  }
  return { name, device, inventory, problems }
}

/**
 * Each process takes its sessions and one that keeps the login.
 * @param most that the token allows at once; null for any number
 */
export function tooManySessions(processes: number, wanted: number, most: number | null): readonly string[] {
  if (most === null || processes === 1 || processes * (wanted + 1) <= most) return []
  const left = Math.floor(most / processes) - 1
  const fix = left >= 1 ? `set HOLDFAST_PKCS11_SESSIONS to ${left}, or HOLDFAST_PROCESSES to less` : 'set HOLDFAST_PROCESSES to less'
  return [`${processes} processes would take ${processes * (wanted + 1)} sessions, and the token allows ${most}: ${fix}.`]
}

function problemOf(error: unknown): string {
  if (error instanceof TokenError || error instanceof DoctorError || error instanceof StoreFailure) return error.message
  throw error
}

/** Keys are kept with the name of their token: one that the configuration no longer has is where nobody looks. */
async function tokensNotConfigured(tokens: readonly TokenPlan[], database: string): Promise<readonly string[]> {
  if (!existsSync(database)) return []
  try {
    const store = await openStore({ file: database, clock: systemClock, readOnly: true })
    try {
      const counts = new Map<string, number>()
      for (const { token } of store.view.allKeys()) counts.set(token, (counts.get(token) ?? 0) + 1)
      for (const { name } of tokens) counts.delete(name)
      // What is in a custom key store only the service can look at: it alone can open the PIN.
      for (const { id } of store.view.allKeyStores()) counts.delete(id)
      return [...counts].map(
        ([name, count]) => `${count} of the keys are in the token ${name}, which is not configured: name it in HOLDFAST_TOKENS.`,
      )
    } finally {
      await store.close()
    }
  } catch (error) {
    // Told with each token already.
    problemOf(error)
    return []
  }
}

const isSound = (inventory: Inventory | undefined): boolean =>
  !inventory || inventory.keysWithoutObjects.length + inventory.keysWithHalfTheirObjects.length === 0

async function takeInventory(token: Token, name: string, database: string): Promise<Inventory> {
  const store = await openStore({ file: database, clock: systemClock, readOnly: true })
  try {
    const imports = (await store.importObjects()).filter((object) => object.token === name)
    return compare(store, await token.allObjects(), token.capabilities().wrapSchemes, name, imports)
  } finally {
    await store.close()
  }
}

/**
 * Only private and secret key objects count: they hold the key. A key's objects are those of its CKA_ID and its label.
 * @param wrapSchemes those that work on this token
 * @param imports objects of imports that are under way
 * @param tokenName which of the configured tokens it is: only its keys are looked for, and only home has the service's own
 */
export function compare(
  store: Pick<Store, 'view'>,
  objects: readonly TokenObject[],
  wrapSchemes: readonly WrapScheme[],
  tokenName = homeToken,
  imports: readonly Pick<ImportObject, 'ckaId' | 'label'>[] = [],
): Inventory {
  const nameOf = ({ ckaId, label }: { readonly ckaId: string; readonly label: string }): string => `${ckaId} ${label}`
  const shown = new Map<string, TokenObject[]>()
  for (const object of objects) shown.set(nameOf(object), [...(shown.get(nameOf(object)) ?? []), object])
  const known = new Set(imports.map(nameOf))
  const keysWithoutObjects: KeyName[] = []
  const keysWithHalfTheirObjects: KeyName[] = []
  const look = (key: string, { ckaId, label }: { readonly ckaId: string; readonly label: string }, mayHaveTwo: boolean): void => {
    const own = shown.get(nameOf({ ckaId, label })) ?? []
    if (own.length === 0) keysWithoutObjects.push({ key, ckaId, label })
    else if (mayHaveTwo && isHalf(own, wrapSchemes)) keysWithHalfTheirObjects.push({ key, ckaId, label })
  }
  let keys = 0
  for (const key of store.view.allKeys()) {
    if (key.token !== tokenName) continue
    keys++
    for (const backing of store.view.backingKeys(key.arn)) {
      known.add(nameOf(backing))
      // Of other specs a key is one secret or private object: an HMAC key's is for MACs alone.
      if (backing.state === 'ready') look(key.arn, backing, isSymmetric(key))
    }
  }
  for (const name of tokenName === homeToken ? [...serviceKeyNames(store), 'audit' as const] : []) {
    const key = findSystemKey(store, name)
    if (!key) continue
    known.add(nameOf(key))
    look(`the service’s own key ${name}`, key, true)
  }
  const unknown = objects
    .filter((object) => !known.has(nameOf(object)) && object.label !== canaryLabel && !transportLabel.test(object.label))
    .map(({ ckaId, label, objectClass }): ObjectName => ({ ckaId, label, objectClass }))
  return {
    keys,
    keysWithoutObjects,
    keysWithHalfTheirObjects,
    objectsWithoutKeys: unknown.filter(({ label }) => keyLabel.test(label)),
    leftovers: unknown.filter(({ label }) => systemLabel.test(label)),
  }
}

/** Of a key that encrypts: an object for MACs alone is half a cbc-hmac key. An AES key alone may be a whole one for GCM, but not on a token that has no GCM. */
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
