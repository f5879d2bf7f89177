/**
 * Key material: made, used, replaced and destroyed in the token, with the store saying at every moment what may exist there.
 *
 * The order of writes is what makes a stop at any point harmless. Making: the row that names the CKA_ID is durable before the object
 * exists, and turns `ready` after it was checked. Destroying: the state `Destroying` is durable before the first object goes, and the
 * row goes last. `recover` runs the same functions over whatever a dead process left.
 */

import { randomBytes } from 'node:crypto'
import { TokenError } from '../hsm/token.ts'
import type { BackingKeyRecord, KeyRecord } from '../store/store.ts'
import { additionalData, encodeHeader, type Ciphertext } from './ciphertext.ts'
import { kmsError } from './errors.ts'
import type { Service } from './service.ts'
import { newCkaId } from './system-keys.ts'

export type EncryptionContext = Readonly<Record<string, string>>

/** Encrypts 1…4096 bytes under the key's current material. */
export async function encrypt(
  service: Service,
  key: KeyRecord,
  plaintext: Uint8Array,
  context: EncryptionContext | undefined,
): Promise<{ readonly blob: Buffer; readonly materialId: string }> {
  const { token } = service
  const scheme = token.capabilities().wrapScheme
  if (!scheme) throw kmsError('UnsupportedOperationException', 'The connected token has no mechanism for symmetric encryption.')
  const drawn = service.budget.draw(key)
  const backing = drawn instanceof Promise ? await drawn : drawn
  const header = encodeHeader({ scheme, keyId: key.keyId, materialId: backing.materialId })
  const wrapped = await onToken(service, key, () => token.wrap(backing.ckaId, additionalData(header, context), plaintext))
  if (wrapped.scheme !== scheme) throw new Error(`the token used ${wrapped.scheme} where ${scheme} was announced`)
  return { blob: Buffer.concat([header, wrapped.body]), materialId: backing.materialId }
}

/** The reverse. Every reason why it can't be opened is one InvalidCiphertextException. The caller wipes the answer. */
export async function decrypt(
  service: Service,
  key: KeyRecord,
  ciphertext: Ciphertext,
  context: EncryptionContext | undefined,
): Promise<Buffer> {
  const backing = service.store.view.backingKey(ciphertext.materialId)
  if (!backing || backing.keyArn !== key.arn || backing.state !== 'ready') throw kmsError('InvalidCiphertextException')
  return onToken(service, key, () =>
    service.token.unwrap(backing.ckaId, ciphertext.scheme, additionalData(ciphertext.header, context), ciphertext.body),
  )
}

/** A key whose object the token does not show becomes Unavailable; it is never taken for deleted. */
async function onToken<T>(service: Service, key: KeyRecord, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (!(error instanceof TokenError) || error.failure !== 'missing') throw error
    await markUnavailable(service, key.arn)
    throw kmsError('KMSInvalidStateException', `${key.arn} is unavailable.`, { cause: error })
  }
}

export async function markUnavailable(service: Service, arn: string): Promise<void> {
  await service.store.updateKey(arn, (current) => (current.state === 'Enabled' ? { state: 'Unavailable' } : {}))
  service.log.error({ key: arn }, 'the token does not show the objects of this key: it is Unavailable until they are back')
}

const labelOf = (keyId: string, ordinal: number): string => `kms/${keyId}/${ordinal}`

function newBacking(service: Service, key: Pick<KeyRecord, 'arn' | 'keyId'>, ordinal: number): BackingKeyRecord {
  const label = labelOf(key.keyId, ordinal)
  return {
    materialId: randomBytes(32).toString('hex'),
    keyArn: key.arn,
    ckaId: newCkaId(service.token),
    // PKCS#11 devices keep 40 bytes of a label at least; a multi-Region id with its prefix needs 42.
    label: label.length <= 40 ? label : label.replaceAll('-', '').slice(0, 40),
    ordinal,
    state: 'creating',
    createdAt: service.clock.now(),
    encryptionsReserved: 0,
    creator: service.instance.id,
  }
}

/** Makes a key and its first material. `key` comes in state Creating and goes Enabled. */
export async function createKey(service: Service, key: KeyRecord): Promise<KeyRecord> {
  const backing = newBacking(service, key, 1)
  await service.store.insertKey(key, backing)
  try {
    await service.token.generateKey({ kind: 'wrapping', ckaId: backing.ckaId, label: backing.label })
  } catch (error) {
    await undoLoudly(service, key.arn, () => undoCreation(service, key))
    throw error
  }
  return service.store.promoteBackingKey(backing.materialId, () => ({ state: 'Enabled', creator: null }))
}

/** Gives a key new material; what the old material encrypted stays readable. */
export async function rotateMaterial(service: Service, key: KeyRecord): Promise<KeyRecord> {
  const ordinal = (service.store.view.backingKeys(key.arn).at(-1)?.ordinal ?? 0) + 1
  const backing = newBacking(service, key, ordinal)
  await service.store.insertBackingKey(backing)
  try {
    await service.token.generateKey({ kind: 'wrapping', ckaId: backing.ckaId, label: backing.label })
  } catch (error) {
    await undoLoudly(service, key.arn, () => undoRotation(service, backing))
    throw error
  }
  return service.store.promoteBackingKey(backing.materialId, () => ({}))
}

/** The caller is told why the token failed, not why cleaning up did: start-up and the job try that again. */
async function undoLoudly(service: Service, arn: string, undo: () => Promise<void>): Promise<void> {
  try {
    await undo()
  } catch (error) {
    service.log.warn({ key: arn, err: error }, 'what a failed key generation left could not be removed yet')
  }
}

/** For a key that nobody was told of. */
export async function undoCreation(service: Service, key: KeyRecord): Promise<void> {
  for (const backing of service.store.view.backingKeys(key.arn)) await service.token.destroyKey(backing.ckaId, backing.label)
  await service.store.deleteKey(key.arn)
}

export async function undoRotation(service: Service, backing: BackingKeyRecord): Promise<void> {
  await service.token.destroyKey(backing.ckaId, backing.label)
  await service.store.deleteBackingKey(backing.materialId)
}

/**
 * Destroys a key in state Destroying: its objects, then its row. May be run again after a stop at any point.
 * @returns how many objects this run destroyed.
 */
export async function destroyKey(service: Service, key: KeyRecord, record: (destroyed: number) => Promise<void>): Promise<number> {
  let destroyed = 0
  for (const backing of service.store.view.backingKeys(key.arn)) {
    destroyed += await service.token.destroyKey(backing.ckaId, backing.label)
    const left = (await service.token.objects(backing.ckaId)).filter((object) => object.label === backing.label)
    if (left.length > 0) throw new Error(`${left.length} objects of ${key.arn} are still in the token after their destruction`)
  }
  await record(destroyed)
  await service.store.deleteKey(key.arn)
  return destroyed
}
