/**
 * Key material: made, used, replaced and destroyed in the token, with the store saying at every moment what may exist there.
 *
 * The order of writes is what makes a stop at any point harmless. Making: the row that names the CKA_ID is durable before the object
 * exists, and turns `ready` after it was checked. Destroying: the state `Destroying` is durable before the first object goes, and the
 * row goes last. Whoever gives up unfinished material first takes it over in the store (`claimBackingKey`), so that nobody, not even a
 * process that was only thought dead, can finish it after its object was destroyed.
 */

import { randomBytes } from 'node:crypto'
import { TokenError, type Token, type TokenObject, type WrapScheme } from '../hsm/token.ts'
import { StoreConflict, type BackingKeyRecord, type KeyChange, type KeyRecord, type RotationType } from '../store/store.ts'
import { additionalData, encodeHeader, type Ciphertext } from './ciphertext.ts'
import { kmsError } from './errors.ts'
import type { Claim } from './leftovers.ts'
import type { Service } from './service.ts'
import { tokenKind } from './specs.ts'
import { newCkaId } from './system-keys.ts'

export type EncryptionContext = Readonly<Record<string, string>>

/** What the token makes of 1…4096 bytes under the key's current material. For a whole blob, whatever the key's origin: `cipher.ts`. */
export async function wrapUnder(
  service: Service,
  key: KeyRecord,
  plaintext: Uint8Array,
  context: EncryptionContext | undefined,
): Promise<{ readonly header: Buffer; readonly body: Buffer; readonly materialId: string }> {
  const token = service.tokenOf(key)
  let scheme = token.capabilities().wrapScheme
  if (!scheme) throw kmsError('UnsupportedOperationException', 'The connected token has no mechanism for symmetric encryption.')
  for (let isLast = false; ; isLast = true) {
    const drawn = service.budget.draw(key)
    const backing = drawn instanceof Promise ? await drawn : drawn
    const header = headerOf(key, backing, scheme)
    const wrapped = await onToken(service, key, () => token.wrap(backing.ckaId, additionalData(header, context), plaintext))
    if (wrapped.scheme === scheme) return { header, body: wrapped.body, materialId: backing.materialId }
    if (isLast) throw new Error(`the token used ${wrapped.scheme} where ${scheme} was announced`)
    // Material from before the token's scheme changed is of objects for another one: the header must say that one.
    scheme = wrapped.scheme
  }
}

/** A header is the same in all blobs of one material and scheme. Nobody writes into it. */
const headers = new WeakMap<BackingKeyRecord, { readonly scheme: WrapScheme; readonly header: Buffer }>()

function headerOf({ keyId, origin }: KeyRecord, backing: BackingKeyRecord, scheme: WrapScheme): Buffer {
  let known = headers.get(backing)
  if (known?.scheme !== scheme) {
    known = { scheme, header: encodeHeader({ scheme, keyId, materialId: backing.materialId, doubly: origin === 'EXTERNAL_KEY_STORE' }) }
    headers.set(backing, known)
  }
  return known.header
}

/** The reverse. Every reason why it can't be opened is one InvalidCiphertextException. The caller wipes the answer. */
export async function unwrapUnder(
  service: Service,
  key: KeyRecord,
  ciphertext: Ciphertext,
  context: EncryptionContext | undefined,
): Promise<Buffer> {
  const backing = service.store.view.backingKey(key.arn, ciphertext.materialId)
  if (backing?.state !== 'ready') throw kmsError('InvalidCiphertextException')
  return onToken(service, key, () =>
    service.tokenOf(key).unwrap(backing.ckaId, ciphertext.scheme, additionalData(ciphertext.header, context), ciphertext.body),
  )
}

/** The material that a key works with now. Of keys that never rotate it is the only one. */
export function currentMaterial({ store }: Service, key: KeyRecord): BackingKeyRecord {
  const backing = key.materialId === null ? undefined : store.view.backingKey(key.arn, key.materialId)
  if (backing?.state !== 'ready') throw kmsError('KMSInvalidStateException', `${key.arn} is unavailable.`)
  return backing
}

/** Work of the token with a key's current material: everything but symmetric encryption, which has a budget to draw on. */
export function withMaterial<T>(service: Service, key: KeyRecord, work: (token: Token, ckaId: string) => Promise<T>): Promise<T> {
  const { ckaId } = currentMaterial(service, key)
  return onToken(service, key, () => work(service.tokenOf(key), ckaId))
}

/** A key whose object the token does not show becomes Unavailable; it is never taken for deleted. */
export async function onToken<T>(service: Service, key: KeyRecord, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (!(error instanceof TokenError) || error.failure !== 'missing') throw error
    // Imported material may be deleted, even imported again, while a call is under way: then nothing is lost.
    const isSame = key.origin !== 'EXTERNAL' || service.store.view.key(key.arn)?.version === key.version
    if (!isSame) throw kmsError('KMSInvalidStateException', `${key.arn} is pending import.`, { cause: error })
    await markUnavailable(service, key.arn)
    throw kmsError('KMSInvalidStateException', `${key.arn} is unavailable.`, { cause: error })
  }
}

async function markUnavailable(service: Service, arn: string): Promise<void> {
  // Of the calls that meet this together the first one says it; only then does a failure to write it matter.
  if (service.store.view.key(arn)?.state !== 'Enabled') return
  await service.store.updateKey(arn, (current) => (current.state === 'Enabled' ? { state: 'Unavailable' } : {}))
  service.log.error({ key: arn }, 'the token does not show the objects of this key: it is Unavailable until they are back')
}

/** At most 40 bytes, which is what the smallest devices keep of a label: the digits of the key id, and which generation. */
const labelOf = (keyId: string, ordinal: number): string => `kms/${keyId.replace(/^mrk-/, '').replaceAll('-', '')}/${ordinal}`

export function newBacking(service: Service, key: KeyRecord, ordinal: number, rotationType: RotationType | null): BackingKeyRecord {
  const now = service.clock.now()
  return {
    materialId: randomBytes(32).toString('hex'),
    keyArn: key.arn,
    ckaId: newCkaId(service.tokenOf(key)),
    label: labelOf(key.keyId, ordinal),
    ordinal,
    state: 'creating',
    createdAt: now,
    encryptionsReserved: 0,
    validTo: null,
    description: null,
    rotationType,
    rotatedAt: rotationType && now,
    rotationRecorded: false,
    creator: service.instance.id,
  }
}

/** Makes a key and its first material, of the kind that its spec and usage ask for. `key` comes in state Creating and goes Enabled. */
export function createKey(service: Service, key: KeyRecord): Promise<KeyRecord> {
  const backing = newBacking(service, key, 1, null)
  return make(
    service,
    key,
    backing,
    // AWS managed keys do not count.
    () => service.store.insertKey(key, backing, key.managedBy === null ? service.config.quotas.keys : undefined),
    () => ({ state: 'Enabled', creator: null }),
  )
}

/**
 * Gives a key new material; what the old material encrypted stays readable.
 * @param change what becomes of the key with it; throws to leave it as it is
 * @throws StoreConflict when another rotation of this key came first, or it is being destroyed.
 */
export function rotateMaterial(
  service: Service,
  key: KeyRecord,
  type: RotationType,
  change: (current: KeyRecord) => KeyChange = () => ({}),
): Promise<KeyRecord> {
  const ordinal = (service.store.view.backingKeys(key.arn).at(-1)?.ordinal ?? 0) + 1
  const backing = newBacking(service, key, ordinal, type)
  return make(
    service,
    key,
    backing,
    () => service.store.insertBackingKey(backing),
    (current) => {
      if (current.state === 'Destroying') throw new StoreConflict(`rotate ${key.arn}: it is being destroyed`)
      if (current.materialId !== key.materialId) throw new StoreConflict(`rotate ${key.arn}: another rotation came first`)
      return change(current)
    },
  )
}

async function make(
  service: Service,
  key: KeyRecord,
  backing: BackingKeyRecord,
  insert: () => Promise<void>,
  change: (current: KeyRecord) => KeyChange,
): Promise<KeyRecord> {
  service.making.add(backing.ckaId)
  try {
    await insert()
    try {
      await generate(service, key, backing)
      return await service.store.promoteBackingKey(backing, backing.creator, change)
    } catch (error) {
      await abandonLoudly(service, key, backing)
      throw error
    }
  } finally {
    service.making.delete(backing.ckaId)
  }
}

/** Material of a multi-Region key can be brought to other tokens from its birth on, and no other ever. */
export async function generate(service: Service, key: KeyRecord, { ckaId, label }: BackingKeyRecord): Promise<void> {
  await service.tokenOf(key).generateKey({ kind: tokenKind(key), ckaId, label, ...(key.multiRegion && { replicable: true }) })
}

/** The caller is told why making the key failed, not why cleaning up did: the lifecycle job tries that again. */
export async function abandonLoudly(service: Service, key: KeyRecord, backing: BackingKeyRecord): Promise<void> {
  try {
    await removeMaterial(service, key, [await claimMaterial(service, backing)])
  } catch (error) {
    service.log.warn({ key: backing.keyArn, err: error }, 'what a failed key generation left could not be removed yet')
  }
}

/** Material of one key that was begun and not finished, and whose it is now. */
export interface ClaimedMaterial {
  readonly backing: BackingKeyRecord
  readonly claim: Claim
}

export async function claimMaterial({ store, instance }: Service, backing: BackingKeyRecord): Promise<ClaimedMaterial> {
  const ours = await store.claimBackingKey(backing, backing.creator, instance.id)
  const isFinished = !ours && store.view.backingKey(backing.keyArn, backing.materialId)?.state === 'ready'
  return { backing, claim: ours ? 'ours' : isFinished ? 'finished' : 'theirs' }
}

/**
 * Removes material that was begun and not finished, and its key if that was never answered for.
 * @returns whether there was anything to remove.
 */
export async function removeMaterial(service: Service, key: KeyRecord, claimed: readonly ClaimedMaterial[]): Promise<boolean> {
  const { store } = service
  const token = service.tokenOf(key)
  // Where another has taken it over, that one may have looked before the object was there.
  const unfinished = claimed.filter(({ claim }) => claim !== 'finished')
  await Promise.all(unfinished.map(({ backing: { ckaId, label } }) => token.destroyKey(ckaId, label)))
  const ours = claimed.filter(({ claim }) => claim === 'ours')
  for (const { backing } of ours) {
    // A replica has several at once, and goes with the last.
    const isLast = store.view.backingKeys(backing.keyArn).length === 1
    if (isLast && store.view.key(backing.keyArn)?.state === 'Creating') await store.deleteKey(backing.keyArn, key.createdAt)
    else await store.deleteBackingKey(backing)
  }
  return ours.length > 0
}

/** Whether the token shows, now, objects for everything that the key ever encrypted with. */
export async function isWhole(service: Service, key: KeyRecord): Promise<boolean> {
  for (const backing of service.store.view.backingKeys(key.arn)) {
    if (backing.state === 'ready' && (await objectsOf(service, key, backing)).length === 0) return false
  }
  return true
}

/** Objects as a key's rows name them. */
export type ShownObjects = ReadonlySet<string>
const shownName = ({ ckaId, label }: Pick<TokenObject, 'ckaId' | 'label'>): string => `${ckaId} ${label}`
export const shownObjects = (objects: readonly TokenObject[]): ShownObjects => new Set(objects.map(shownName))

/** The same as `isWhole`, by a list of all that the token shows. */
export function isShown({ store }: Service, key: KeyRecord, objects: ShownObjects): boolean {
  return store.view.backingKeys(key.arn).every((backing) => backing.state !== 'ready' || objects.has(shownName(backing)))
}

async function objectsOf(service: Service, key: KeyRecord, { ckaId, label }: BackingKeyRecord): Promise<readonly TokenObject[]> {
  return (await service.tokenOf(key).objects(ckaId)).filter((object) => object.label === label)
}

/**
 * Destroys a key in state Destroying: its objects, then its row. May be run again after a stop at any point.
 * @returns how many objects this run destroyed.
 */
export async function destroyKey(service: Service, key: KeyRecord, record: (destroyed: number) => Promise<void>): Promise<number> {
  let destroyed = 0
  const { view } = service.store
  // Another process may have come to the end meanwhile, and the replica be made anew: its objects are not those that were to go.
  const current = view.key(key.arn)
  if (current?.state !== 'Destroying' || current.createdAt !== key.createdAt) throw new StoreConflict(`destroy ${key.arn}: it is gone`)
  for (const backing of view.backingKeys(key.arn)) {
    // Imported material that was deleted has no object left.
    if (backing.state === 'absent') continue
    destroyed += await service.tokenOf(key).destroyKey(backing.ckaId, backing.label)
    const left = await objectsOf(service, key, backing)
    if (left.length > 0) throw new Error(`${left.length} objects of ${key.arn} are still in the token after their destruction`)
  }
  await record(destroyed)
  await service.store.deleteKey(key.arn, key.createdAt)
  return destroyed
}
