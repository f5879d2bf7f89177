/**
 * Key material that comes from outside: wrapped by its owner under an RSA key pair of the token, unwrapped into the token, never seen here.
 *
 * What may be in the token without being a key's material is a row of `ImportObject`, durable before the object exists: wrapping key pairs,
 * material on its way in, material on its way out. One write makes such an object a key's material, one write takes it away, and whoever
 * stops in between leaves a row by which the lifecycle job finds the object and removes it.
 *
 * A material's id follows from the key's id and the material's fingerprint, so the same material has the same id whenever, and in
 * whichever region of a multi-Region key, it is imported.
 */

import { createHash } from 'node:crypto'
import { TokenError, type ImportAlgorithm, type Token, type TokenKeyKind } from '../hsm/token.ts'
import {
  StoreConflict,
  type BackingKeyRecord,
  type ImportObject,
  type KeyRecord,
  type KeyState,
  type MaterialChange,
} from '../store/store.ts'
import { parseKmsArn } from './arn.ts'
import { kmsError } from './errors.ts'
import { removeTogether, type Claim } from './leftovers.ts'
import { keyEvent } from './record.ts'
import { primaryOf, relatedKeys } from './multi-region.ts'
import { hasExpired, pendingRotation } from './rotation.ts'
import { seal, unseal } from './seal.ts'
import type { Service } from './service.ts'
import { isSymmetric, tokenKind } from './specs.ts'
import { newCkaId } from './system-keys.ts'

const dayMs = 86_400_000
/** How long a wrapping key and its import token are good for (AWS). */
const parametersMs = dayMs

/** Each is an object in the device: of one key the oldest goes when there are more, of one account no more are made. */
const maxWrappingKeysOfKey = 4
const maxWrappingKeysOfAccount = 100

/** RSA key pairs take a device seconds: one is made at a time, and few callers wait for their turn, so that others get at the device. */
const maxWaitingForWrappingKey = 8

export const wrappingKeySpecs = ['RSA_2048', 'RSA_3072', 'RSA_4096'] as const
export type WrappingKeySpec = (typeof wrappingKeySpecs)[number]
export const importAlgorithms = [
  'RSAES_OAEP_SHA_1',
  'RSAES_OAEP_SHA_256',
  'RSA_AES_KEY_WRAP_SHA_1',
  'RSA_AES_KEY_WRAP_SHA_256',
] as const satisfies readonly ImportAlgorithm[]

/** Holds a change against the newest record. @throws KmsError to leave the key as it is. */
type Admit = (current: KeyRecord) => void

// ---- the materials of a key ----

const currentOrdinal = (key: KeyRecord, materials: readonly BackingKeyRecord[]): number =>
  materials.find(({ materialId }) => materialId === key.materialId)?.ordinal ?? 0

/** Whether everything that the key has to have is in the token: what it encrypted with before, and what it encrypts with now. */
function isComplete(service: Service, key: KeyRecord, materials: readonly BackingKeyRecord[]): boolean {
  const primary = primaryOf(service, key)
  const wanted = primary === key ? materials : service.store.view.backingKeys(primary.arn)
  const current = currentOrdinal(primary, wanted)
  const associated = wanted.filter(({ ordinal }) => ordinal <= current)
  const has = new Set(materials.filter(({ state }) => state === 'ready').map(({ materialId }) => materialId))
  return associated.length > 0 && associated.every(({ materialId }) => has.has(materialId))
}

/** The state of a key that is not in use: one that lacks imported material waits for it. */
export function restingState(service: Service, key: KeyRecord): KeyState {
  if (key.origin !== 'EXTERNAL') return 'Disabled'
  return isComplete(service, key, service.store.view.backingKeys(key.arn)) ? 'Disabled' : 'PendingImport'
}

/** What a key's metadata says of its imported material. Undefined for keys that have none now. */
export function expirationOf({ store }: Pick<Service, 'store'>, key: KeyRecord): { readonly validTo: number | null } | undefined {
  if (key.origin !== 'EXTERNAL' || key.materialId === null) return undefined
  const materials = store.view.backingKeys(key.arn)
  const current = materials.find(({ materialId }) => materialId === key.materialId)
  if (current?.state !== 'ready') return undefined
  const ends = materials.filter(({ ordinal }) => ordinal <= current.ordinal).flatMap(({ validTo }) => validTo ?? [])
  return { validTo: ends.length > 0 ? Math.min(...ends) : null }
}

/** Whether a key lives on material whose time is over and which the lifecycle job has not ended yet. */
export function isExpired(service: Pick<Service, 'store' | 'clock'>, key: KeyRecord): boolean {
  const { validTo = null } = (livesOnMaterial.has(key.state) && expirationOf(service, key)) || {}
  return validTo !== null && validTo <= service.clock.now()
}

/** In these states it comes to wait for its material when that ends. */
const livesOnMaterial: ReadonlySet<KeyState> = new Set<KeyState>(['Enabled', 'Disabled', 'Unavailable'])

const materialIdOf = (key: KeyRecord, fingerprint: string): string =>
  createHash('sha256').update(`holdfast imported material\n${key.keyId}\n${fingerprint}`).digest('hex')

// ---- objects ----

const digitsOf = (keyId: string): string => keyId.replace(/^mrk-/, '').replaceAll('-', '')

/** Labels of at most 40 bytes, as all. Those of material begin like its key's others. */
function newObject(service: Service, key: KeyRecord, kind: 'wrapping' | 'material', dueAt: number | null): ImportObject {
  const digits = digitsOf(key.keyId)
  return {
    ckaId: newCkaId(service.tokenOf(key)),
    label: kind === 'wrapping' ? 'holdfast/import' : `kms/${digits}/i`,
    keyArn: key.arn,
    accountId: key.accountId,
    token: key.token,
    kind,
    createdAt: service.clock.now(),
    dueAt,
    creator: service.instance.id,
  }
}

/** The object that was a material's, as what is to be removed. */
const released = (service: Service, key: KeyRecord, { ckaId, label }: BackingKeyRecord, kind: 'material' | 'expired'): ImportObject => ({
  ckaId,
  label,
  keyArn: key.arn,
  accountId: key.accountId,
  token: key.token,
  kind,
  createdAt: service.clock.now(),
  dueAt: service.clock.now(),
  creator: service.instance.id,
})

/** Takes over what is to be removed. */
async function claimObject(service: Service, object: ImportObject): Promise<Claim> {
  if (await service.store.claimImportObject(object.ckaId, object.creator, service.instance.id)) return 'ours'
  return (await isFinished(service, object)) ? 'finished' : 'theirs'
}

/**
 * Destroys an object that is no key's material, then forgets it. May be run again after a stop at any point. Leaves alone what turns out to be
 * finished.
 */
async function removeObject(service: Service, object: ImportObject, claim?: Claim): Promise<void> {
  const { store, clock, trail } = service
  const { ckaId, label, keyArn: arn } = object
  const claimed = claim ?? (await claimObject(service, object))
  if (claimed === 'finished') return
  // Where another has taken it over, that one may have looked before the object was there.
  await service.tokenOf(object).destroyKey(ckaId, label)
  if (claimed === 'theirs') return
  if (object.kind === 'expired') {
    const { accountId, region, name } = parseKmsArn(arn) ?? { accountId: object.accountId, region: '', name: '' }
    const key = store.view.key(arn)
    const material = key && isSymmetric(key) && store.view.backingKeys(arn).find((backing) => backing.ckaId === ckaId)
    const details = { ...(material && { service: { keyMaterialId: material.materialId } }) }
    await trail.append(keyEvent(clock.now(), { arn, accountId, region, keyId: name }, 'DeleteExpiredKeyMaterial', details))
  }
  await store.deleteImportObject(ckaId)
}

/** Whether what looked half made has become a key's material, or a wrapping key for its day. */
async function isFinished({ store }: Service, { ckaId, keyArn: arn }: ImportObject): Promise<boolean> {
  const isMaterial = store.view.backingKeys(arn).some((backing) => backing.ckaId === ckaId && backing.state === 'ready')
  return isMaterial || (await store.importObject(ckaId))?.creator === null
}

/** While `work` runs, what it makes or removes is no leftover. */
async function making<T>({ making: names }: Service, { ckaId }: Pick<ImportObject, 'ckaId'>, work: () => Promise<T>): Promise<T> {
  names.add(ckaId)
  try {
    return await work()
  } finally {
    names.delete(ckaId)
  }
}

/**
 * The caller is told why it failed, not why cleaning up did: the lifecycle job tries that again.
 * @param why what the token was asked for failed with
 */
async function removeLoudly(service: Service, object: ImportObject, why?: unknown): Promise<void> {
  const { store, instance } = service
  try {
    // A token that refuses has made nothing, and to look for it would cost a fresh agent: anybody can send what is refused.
    const isRefusal = why instanceof TokenError && (why.failure === 'rejected' || why.failure === 'unsupported')
    if (!isRefusal) await removeObject(service, object)
    else if (await store.claimImportObject(object.ckaId, instance.id, instance.id)) await store.deleteImportObject(object.ckaId)
  } catch (error) {
    service.log.warn({ key: object.keyArn, err: error }, 'what a failed import left in the token could not be removed yet')
  }
}

/** Whether an object is due, or was left by a process that is no more or by a failure of this one. For the lifecycle job. */
export function isLeftImport(
  service: Service,
  { ckaId, creator, dueAt, keyArn: arn }: ImportObject,
  isDead: (id: string) => boolean,
): boolean {
  const { store, clock, instance, making: names } = service
  if (names.has(ckaId)) return false
  if (creator !== null) return creator === instance.id || isDead(creator)
  return (dueAt !== null && dueAt <= clock.now()) || !store.view.key(arn)
}

/** Removes such ones. */
export function removeLeftImports(service: Service, left: readonly ImportObject[]): Promise<void> {
  return removeTogether(service, left, {
    arnOf: ({ keyArn: arn }) => arn,
    claim: (object) => making(service, object, () => claimObject(service, object)),
    async remove(object, claim) {
      await making(service, object, () => removeObject(service, object, claim))
      if (object.creator !== null)
        service.log.warn({ key: object.keyArn }, 'an object that an interrupted import left in the token is removed')
    },
  })
}

// ---- parameters ----

/** What an import token holds. */
interface ImportClaims {
  readonly keyArn: string
  readonly wrappingCkaId: string
  readonly algorithm: ImportAlgorithm
  readonly expiresAt: number
}

export interface ImportParameters {
  readonly importToken: Buffer
  readonly publicKey: Buffer
  readonly validTo: number
}

const turns = new WeakMap<Token, { last: Promise<unknown>; waiting: number }>()

/** One after the other on each token. */
async function inTurn<T>(token: Token, work: () => Promise<T>): Promise<T> {
  let turn = turns.get(token)
  if (!turn) turns.set(token, (turn = { last: Promise.resolve(), waiting: 0 }))
  if (turn.waiting >= maxWaitingForWrappingKey) throw kmsError('ThrottlingException', 'Rate exceeded')
  turn.waiting++
  const mine = turn.last.then(work, work)
  turn.last = mine.catch(() => undefined)
  try {
    return await mine
  } finally {
    turn.waiting--
  }
}

/** Room for one more wrapping key of this key. */
async function makeRoom(service: Service, key: KeyRecord): Promise<void> {
  const wrapping = (await service.store.importObjects(key.accountId)).filter(({ kind }) => kind === 'wrapping')
  const ofKey = wrapping.filter(({ keyArn: arn }) => arn === key.arn)
  const made = ofKey.filter(({ ckaId, creator }) => creator === null && !service.making.has(ckaId))
  const surplus = made.slice(0, Math.max(0, ofKey.length - maxWrappingKeysOfKey + 1))
  for (const oldest of surplus) await making(service, oldest, () => removeObject(service, oldest))
  if (wrapping.length - surplus.length >= maxWrappingKeysOfAccount) {
    throw kmsError(
      'LimitExceededException',
      `The account has ${maxWrappingKeysOfAccount} wrapping keys for imports that have not expired; the limit is reached.`,
    )
  }
}

/** @throws KmsError when the token cannot take a key like this so. */
export function checkImport(token: Token, key: Pick<KeyRecord, 'spec' | 'usage'>, algorithm: ImportAlgorithm, spec: WrappingKeySpec): void {
  const { importAlgorithms: taken, keyKinds } = token.capabilities()
  if (!taken.includes(algorithm))
    throw unsupported(`WrappingAlgorithm ${algorithm} is not supported: the connected token cannot unwrap it.`)
  if (!keyKinds.includes(importKind(spec)))
    throw unsupported(`WrappingKeySpec ${spec} is not supported: the connected token cannot make it.`)
  const isDirect = algorithm.startsWith('RSAES_')
  // AWS, GetParametersForImport: private keys that are longer than what RSA encrypts. And AES key wrap, which AWS takes for private keys alone, tells the
  // length in blocks of 8 bytes: where the token does not tell it either, 32 bytes would pass for the 28 of HMAC_224.
  const isTooLong = key.spec.startsWith('RSA_') || (key.spec === 'ECC_NIST_P521' && spec === 'RSA_2048')
  if (isDirect ? isTooLong : key.spec === 'HMAC_224') {
    throw unsupported(`WrappingAlgorithm ${algorithm} with WrappingKeySpec ${spec} is not valid for key spec ${key.spec}.`)
  }
}

const unsupported = (message: string) => kmsError('UnsupportedOperationException', message)
const importKind = (spec: WrappingKeySpec): TokenKeyKind => `import ${spec}`

/** A fresh wrapping key pair, and the token that ties it to this key. */
export async function makeParameters(
  service: Service,
  key: KeyRecord,
  algorithm: ImportAlgorithm,
  spec: WrappingKeySpec,
): Promise<ImportParameters> {
  const { store, clock, instance } = service
  const token = service.tokenOf(key)
  return inTurn(token, async () => {
    await makeRoom(service, key)
    const expiresAt = clock.now() + parametersMs
    const object = newObject(service, key, 'wrapping', expiresAt)
    const { ckaId, label } = object
    return making(service, object, async () => {
      await store.insertImportObject(object)
      try {
        await token.generateKey({ kind: importKind(spec), ckaId, label })
        const publicKey = await token.publicKey(ckaId)
        const claims: ImportClaims = { keyArn: key.arn, wrappingCkaId: ckaId, algorithm, expiresAt }
        const importToken = await seal(service, Buffer.from(JSON.stringify(claims)), 'import')
        if (!(await store.claimImportObject(ckaId, instance.id, null))) {
          throw new StoreConflict(`wrapping key ${ckaId}: another has taken it over`)
        }
        return { importToken, publicKey, validTo: expiresAt }
      } catch (error) {
        await removeLoudly(service, object)
        throw error
      }
    })
  })
}

const invalidImportToken = () => kmsError('InvalidImportTokenException')
const expiredImportToken = () => kmsError('ExpiredImportTokenException')

/** @throws KmsError when the token is none of ours, another key's, or its time is over. */
async function openImportToken(service: Service, key: KeyRecord, importToken: Buffer): Promise<ImportClaims> {
  const plain = await unseal(service, importToken, 'import')
  if (!plain) throw invalidImportToken()
  const claims = JSON.parse(plain.toString()) as ImportClaims
  if (claims.keyArn !== key.arn) throw invalidImportToken()
  if (claims.expiresAt <= service.clock.now() || !(await isWrappingKeyThere(service, claims))) throw expiredImportToken()
  return claims
}

async function isWrappingKeyThere({ store }: Service, { wrappingCkaId }: ImportClaims): Promise<boolean> {
  const object = await store.importObject(wrappingCkaId)
  return object?.kind === 'wrapping' && object.creator === null
}

// ---- import ----

export type ImportType = 'NEW_KEY_MATERIAL' | 'EXISTING_KEY_MATERIAL'

export interface WantedImport {
  readonly importToken: Buffer
  readonly wrapped: Buffer
  /** null for material that does not expire. */
  readonly validTo: number | null
  readonly type: ImportType | undefined
  readonly description: string | undefined
  readonly materialId: string | undefined
}

/**
 * Unwraps the material into the token and makes it the key's, or finds that it is the key's already.
 * @param tell hears, once it was unwrapped, whether it had to be unpadded in our memory on its way: that is so whatever becomes of the import
 * @returns the id of the material.
 */
export async function importMaterial(
  service: Service,
  key: KeyRecord,
  wanted: WantedImport,
  admit: Admit,
  tell: (exposed: boolean) => void,
): Promise<string> {
  const { store } = service
  const claims = await openImportToken(service, key, wanted.importToken)
  const object = newObject(service, key, 'material', null)
  return making(service, object, async () => {
    await store.insertImportObject(object)
    try {
      const { fingerprint, exposed } = await unwrapInto(service, key, object, claims, wanted.wrapped)
      tell(exposed)
      const materialId = materialIdOf(key, fingerprint)
      let change: MaterialChange | undefined
      await store.changeMaterial(key.arn, (current, materials) => {
        admit(current)
        change = planImport(service, current, materials, materialId, wanted, object)
        return change
      })
      // The token had it already: what counts is the object that the key's blobs were made with.
      if (!change?.adopt) await removeLoudly(service, object)
      if (change?.release) await removeLoudly(service, change.release)
      return materialId
    } catch (error) {
      await removeLoudly(service, object, error)
      throw error
    }
  })
}

async function unwrapInto(service: Service, key: KeyRecord, { ckaId, label }: ImportObject, claims: ImportClaims, wrapped: Buffer) {
  const { wrappingCkaId, algorithm } = claims
  try {
    return await service.tokenOf(key).importKey({ kind: tokenKind(key), ckaId, label, wrappingCkaId, algorithm, wrapped })
  } catch (error) {
    // Its time was over, or a newer one took its place, while this call was under way.
    if (error instanceof TokenError && error.failure === 'missing' && !(await isWrappingKeyThere(service, claims)))
      throw expiredImportToken()
    throw error
  }
}

const incorrectMaterial = () => kmsError('IncorrectKeyMaterialException')

/** What an import does to the key as it is now. @throws KmsError when it may not be imported. */
function planImport(
  service: Service,
  key: KeyRecord,
  materials: readonly BackingKeyRecord[],
  materialId: string,
  wanted: WantedImport,
  object: ImportObject,
): MaterialChange {
  if (wanted.materialId !== undefined && wanted.materialId !== materialId) throw incorrectMaterial()
  const known = materials.find((material) => material.materialId === materialId)
  const type = wanted.type ?? (materials.length === 0 ? 'NEW_KEY_MATERIAL' : 'EXISTING_KEY_MATERIAL')
  const fresh = { ckaId: object.ckaId, label: object.label, state: 'ready' } as const
  const adopt = { ckaId: object.ckaId, creator: object.creator }

  if (known) {
    if (type === 'NEW_KEY_MATERIAL') throw incorrectMaterial()
    // Objects that the token lost come back too.
    const isReplaced = known.state === 'absent' || key.state === 'Unavailable'
    const put = {
      ...known,
      ...(isReplaced && fresh),
      validTo: wanted.validTo,
      description: wanted.description ?? known.description,
    }
    return {
      key: afterImport(service, key, replace(materials, put)),
      put,
      ...(isReplaced && { adopt }),
      ...(isReplaced && known.state === 'ready' && { release: released(service, key, known, 'material') }),
    }
  }

  const primary = primaryOf(service, key)
  const template = primary === key ? undefined : service.store.view.backingKey(primary.arn, materialId)
  // A replica takes what its primary has, and nothing else.
  if (primary !== key ? !template : type === 'EXISTING_KEY_MATERIAL') throw incorrectMaterial()
  const pending = pendingRotation(key, materials)
  // One that has expired is gone, and this one takes its place.
  const expired = !template && pending && hasExpired(pending, service.clock.now()) ? pending : undefined
  if (!template && pending && !expired) {
    throw kmsError(
      'KMSInvalidStateException',
      `New key material (id: ${materialId}) cannot be imported into KMS key ${key.arn}, because another key material (id: ${pending.materialId}) is pending rotation.`,
    )
  }
  const put: BackingKeyRecord = {
    materialId,
    keyArn: key.arn,
    ...fresh,
    ordinal: (template ?? expired)?.ordinal ?? (materials.at(-1)?.ordinal ?? 0) + 1,
    createdAt: service.clock.now(),
    encryptionsReserved: template?.encryptionsReserved ?? 0,
    creator: null,
    validTo: wanted.validTo,
    description: wanted.description ?? null,
    // What the primary has rotated to and recorded, its replica has too.
    rotationType: template?.rotationType ?? null,
    rotatedAt: template?.rotatedAt ?? null,
    rotationRecorded: template !== undefined,
  }
  // What was imported for a rotation that its primary gave up, or that never came.
  const stale = materials.find(({ ordinal }) => ordinal === put.ordinal)
  const isCurrent = template ? primary.materialId === materialId : materials.length === 0
  const current = isCurrent ? { ...key, materialId } : key
  return {
    key: { ...(isCurrent && { materialId }), ...afterImport(service, current, replace(materials, put)) },
    put,
    adopt,
    ...(stale && { drop: stale.materialId }),
    ...(stale?.state === 'ready' && { release: released(service, key, stale, 'material') }),
  }
}

const replace = (materials: readonly BackingKeyRecord[], put: BackingKeyRecord): readonly BackingKeyRecord[] => [
  ...materials.filter(({ materialId }) => materialId !== put.materialId),
  put,
]

/** What was disabled on purpose stays so; what only waited for its material works again. */
function afterImport(service: Service, key: KeyRecord, materials: readonly BackingKeyRecord[]): { readonly state?: KeyState } {
  const waited = key.state === 'PendingImport' || key.state === 'Unavailable'
  return waited && isComplete(service, key, materials) ? { state: 'Enabled' } : {}
}

// ---- the end of material ----

/** Deletes the key's current material, or the one that is named. @returns the id of the material, if there was one. */
export async function deleteMaterial(
  service: Service,
  key: KeyRecord,
  named: string | undefined,
  admit: Admit,
): Promise<string | undefined> {
  let ended: BackingKeyRecord | undefined
  let wasPending = false
  await endMaterial(service, key, 'material', (current, materials) => {
    admit(current)
    const materialId = named ?? current.materialId
    ended = materials.find((material) => material.materialId === materialId)
    if (named !== undefined && !ended) throw kmsError('NotFoundException', `Key material '${named}' of key '${key.arn}' does not exist`)
    wasPending = ended !== undefined && ended === pendingRotation(current, materials)
    return ended
  })
  // It was gone, and its object perhaps could not be destroyed then: whoever asks again is answered when it is.
  const left = ended?.state === 'absent' ? await service.store.importObject(ended.ckaId) : undefined
  if (left && !service.making.has(left.ckaId)) await making(service, left, () => removeObject(service, left))
  // What a primary gives up before its rotation, its replicas need not have either (AWS).
  const replicas = wasPending && primaryOf(service, key) === key ? relatedKeys(service, key).filter(({ arn }) => arn !== key.arn) : []
  for (const replica of replicas) {
    await endMaterial(service, replica, 'material', (current, materials) => {
      const pending = pendingRotation(current, materials)
      return pending?.materialId === ended?.materialId ? pending : undefined
    })
  }
  return ended?.materialId
}

/** What is due of a key's imported material, undefined for nothing. For the lifecycle job. */
export function expireMaterial(service: Service, key: KeyRecord): (() => Promise<void>) | undefined {
  const isDue = (backing: BackingKeyRecord): boolean => backing.state === 'ready' && hasExpired(backing, service.clock.now())
  if (key.origin !== 'EXTERNAL' || key.state === 'Destroying') return undefined
  const due = service.store.view.backingKeys(key.arn).filter(isDue)
  if (due.length === 0) return undefined
  return async () => {
    for (const { materialId } of due) {
      await endMaterial(service, key, 'expired', (_current, materials) =>
        materials.find((material) => material.materialId === materialId && isDue(material)),
      )
      service.log.info({ key: key.arn, material: materialId }, 'imported key material has expired and is destroyed')
    }
  }
}

/** Takes a material away from its key in the store, then out of the token. `choose` is asked under the newest records. */
async function endMaterial(
  service: Service,
  key: KeyRecord,
  kind: 'material' | 'expired',
  choose: (current: KeyRecord, materials: readonly BackingKeyRecord[]) => BackingKeyRecord | undefined,
): Promise<void> {
  let object: ImportObject | undefined
  const work = async (): Promise<void> => {
    await service.store.changeMaterial(key.arn, (current, materials) => {
      const ended = choose(current, materials)
      object = undefined
      if (ended?.state !== 'ready') return { key: {} }
      object = released(service, key, ended, kind)
      service.making.add(object.ckaId)
      // What no ciphertext can depend on yet is forgotten; the rest waits to be imported again.
      if (ended === pendingRotation(current, materials)) return { key: {}, drop: ended.materialId, release: object }
      const put: BackingKeyRecord = { ...ended, state: 'absent', validTo: null }
      return { key: livesOnMaterial.has(current.state) ? { state: 'PendingImport' } : {}, put, release: object }
    })
    if (object) await removeObject(service, object)
  }
  try {
    await work()
  } finally {
    if (object) service.making.delete(object.ckaId)
  }
}
