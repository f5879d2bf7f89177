/**
 * Making, checking and destroying key objects.
 *
 * Whatever a template asked for, the token's own word counts: after generation the attributes are read back, and a key
 * that could leave the device, or has left it, is destroyed before anyone learns of it.
 */
import { CKA, CKO } from './constants.ts'
import { keyRows, usageAttributes, type KeyPairRow, type KeyRow, type KeyRowName, type SecretKeyRow } from './algorithms.ts'
import { findDeviceError } from './errors.ts'
import type { ProviderProfile } from './profile.ts'
import { placeOf, readNumber, type DeviceSession, type Handle, type KeyObjects } from './session.ts'
import { template, type AttributeName, type AttributeValue } from './template.ts'
import type { TokenObject } from './token.ts'

/** The token made a key that does not protect itself as asked. It has been destroyed. */
export class Unprotected extends Error {
  override readonly name = 'Unprotected'
}

export interface KeyNaming {
  /** false: a session object, gone with the session. */
  readonly token: boolean
  readonly ckaId: Buffer
  readonly label: string
  /** May leave the device, but only under a key that the security officer marked CKA_TRUSTED. */
  readonly replicable?: boolean
  /** Its material was not generated in this device. */
  readonly imported?: boolean
}

type Usage = Partial<Record<AttributeName, boolean>>

const usage = (all: readonly AttributeName[], granted: readonly AttributeName[]): Usage =>
  Object.fromEntries(all.map((name) => [name, granted.includes(name)]))

/** What a generated key must say of itself. Public keys need no secrecy. */
const protection = {
  CKA_PRIVATE: true,
  CKA_SENSITIVE: true,
  CKA_EXTRACTABLE: false,
  CKA_ALWAYS_SENSITIVE: true,
  CKA_NEVER_EXTRACTABLE: true,
  CKA_LOCAL: true,
} as const

/** One that came from outside: how it was kept before, no token knows. */
const importedProtection = { CKA_PRIVATE: true, CKA_SENSITIVE: true, CKA_EXTRACTABLE: false } as const

/** And one that may be copied to another token, by that token's key which the security officer trusted. */
const replicableProtection = { ...protection, CKA_EXTRACTABLE: true, CKA_NEVER_EXTRACTABLE: false, CKA_WRAP_WITH_TRUSTED: true } as const

const adoptedProtection = { ...importedProtection, CKA_EXTRACTABLE: true, CKA_WRAP_WITH_TRUSTED: true } as const

/** For the template: whether it can leave. */
const leaving = ({ replicable = false }: KeyNaming): Usage =>
  replicable ? { CKA_EXTRACTABLE: true, CKA_WRAP_WITH_TRUSTED: true } : { CKA_EXTRACTABLE: false }

/** Last in every template: SoftHSM 2.6.1 takes no CKA_WRAP_WITH_TRUSTED once it has read it. */
const fixed = { CKA_MODIFIABLE: false } as const

export type Attributes = Readonly<Partial<Record<AttributeName, AttributeValue>>>

const identity = (row: KeyRow, { token, ckaId, label }: KeyNaming): Attributes => ({
  CKA_KEY_TYPE: row.keyType,
  CKA_TOKEN: token,
  CKA_ID: ckaId,
  CKA_LABEL: label,
  CKA_PRIVATE: true,
})

/** What a key is, however it comes into the device: without what tells its size or holds its value. */
export const secretAttributes = (row: SecretKeyRow, naming: KeyNaming): Attributes => ({
  CKA_CLASS: CKO.CKO_SECRET_KEY,
  ...identity(row, naming),
  CKA_SENSITIVE: true,
  ...leaving(naming),
  ...usage(usageAttributes.secret, row.usage),
  ...fixed,
})

export const privateAttributes = (row: KeyPairRow, naming: KeyNaming): Attributes => ({
  CKA_CLASS: CKO.CKO_PRIVATE_KEY,
  ...identity(row, naming),
  CKA_SENSITIVE: true,
  ...leaving(naming),
  ...usage(usageAttributes.private, row.privateUsage),
  ...fixed,
})

/** The public half is private too: without it anyone who reaches the token could put another key in its place. */
export const publicAttributes = (row: KeyPairRow, naming: KeyNaming): Attributes => ({
  CKA_CLASS: CKO.CKO_PUBLIC_KEY,
  ...identity(row, naming),
  ...usage(usageAttributes.public, row.publicUsage),
  ...fixed,
})

/** Generates the object or pair of one row; nothing is checked yet. */
function generate(session: DeviceSession, row: KeyRow, naming: KeyNaming, profile: ProviderProfile): Handle[] {
  const { omit } = profile.template
  if (row.shape === 'secret') {
    return [session.generateSecret(row.generate, template({ CKA_VALUE_LEN: row.bytes, ...secretAttributes(row, naming) }, omit))]
  }
  const pair = session.generatePair(
    row.generate,
    template({ ...row.parameters, ...publicAttributes(row, naming) }, omit),
    template(privateAttributes(row, naming), omit),
  )
  return [pair.privateKey, pair.publicKey]
}

/**
 * The first thing wrong with an object that was generated from `row`, undefined if nothing is.
 * @param omit CKA_ numbers that the template did not have: what the token does by itself is no broken promise
 */
export function findWeakness(
  object: TokenObject,
  row: KeyRow,
  { token, replicable = false, imported = false }: Pick<KeyNaming, 'token' | 'replicable' | 'imported'>,
  omit: readonly number[],
): string | undefined {
  if (object.attributes['CKA_TOKEN'] !== token) return `CKA_TOKEN is ${String(object.attributes['CKA_TOKEN'])}`
  // Whoever may change a key may also give it uses that it was made without.
  if (!omit.includes(CKA.CKA_MODIFIABLE) && object.attributes['CKA_MODIFIABLE'] === true) return 'CKA_MODIFIABLE is true'
  if (object.objectClass === 'CKO_PUBLIC_KEY') return undefined
  const [generated, brought] = replicable ? [replicableProtection, adoptedProtection] : [protection, importedProtection]
  for (const [name, wanted] of Object.entries(imported ? brought : generated)) {
    if (object.attributes[name] !== wanted) return `${name} is ${String(object.attributes[name])}`
  }
  // More uses than were asked for are ways out: a key that may derive or wrap can hand on what it knows.
  const granted: readonly string[] = row.shape === 'secret' ? row.usage : row.privateUsage
  for (const name of usageAttributes[row.shape === 'secret' ? 'secret' : 'private']) {
    if (!granted.includes(name) && object.attributes[name] === true) return `${name} is true`
  }
  return undefined
}

/** The objects as the token describes them. @throws Unprotected, and then the caller destroys them */
export function readBack(
  session: DeviceSession,
  handles: readonly Handle[],
  row: KeyRow,
  naming: KeyNaming,
  profile: ProviderProfile,
): readonly TokenObject[] {
  return handles.map((handle) => {
    const object = session.describe(handle)
    const weakness = findWeakness(object, row, naming, profile.template.omit)
    if (weakness !== undefined) throw new Unprotected(`the token made a key whose ${weakness}; it was destroyed`)
    return object
  })
}

/**
 * Generates the objects of all rows under one CKA_ID and reads them back. All are there and as promised, or all that
 * were made are destroyed again and the reason is thrown.
 */
export function makeKey(
  session: DeviceSession,
  rows: readonly KeyRowName[],
  naming: KeyNaming,
  profile: ProviderProfile,
): { readonly handles: readonly Handle[]; readonly objects: readonly TokenObject[] } {
  const handles: Handle[] = []
  const objects: TokenObject[] = []
  try {
    for (const name of rows) {
      const row = keyRows[name]
      const made = generate(session, row, naming, profile)
      handles.push(...made)
      objects.push(...readBack(session, made, row, naming, profile))
    }
  } catch (error) {
    destroyAll(session, handles)
    throw error
  }
  return { handles, objects }
}

/** Destroys what can be destroyed and lets nothing keep it from the rest. @returns whether that is all */
export function destroyAll(session: DeviceSession, handles: readonly Handle[]): boolean {
  let all = true
  for (const handle of handles) {
    try {
      session.destroy(handle)
    } catch (error) {
      if (findDeviceError(error) === undefined) throw error
      all = false
    }
  }
  return all
}

/** Sorts handles by what they are for. Of two objects for the same use, the first one found is taken. */
export function sortObjects(session: DeviceSession, handles: readonly Handle[]): KeyObjects {
  const sorted: { -readonly [K in keyof KeyObjects]: KeyObjects[K] } = {
    aes: undefined,
    mac: undefined,
    privateKey: undefined,
    publicKey: undefined,
  }
  for (const handle of handles) {
    const { objectClass, keyType } = session.kind(handle)
    const place = placeOf(objectClass, keyType)
    if (place !== undefined) sorted[place] ??= handle
  }
  return sorted
}

/** The key type of a private key object. */
export function keyTypeOf(session: DeviceSession, object: Handle): number {
  return readNumber(session.attributes(object, ['CKA_KEY_TYPE'])[0])
}
