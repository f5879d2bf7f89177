/**
 * Encryption under a KMS key as the XKS proxy API has it: IV, ciphertext and tag by themselves, AES-256-GCM in the device, and `ciphertextMetadata` that says
 * which material of the key it was, so that a key rotates behind one external key id.
 *
 *     0       format   1
 *     1…16    the first 16 bytes of the key material id
 *
 * A format byte that is not ours, or material that the key does not have, is no ciphertext of this key. The metadata is authenticated.
 */

import { timingSafeEqual } from 'node:crypto'
import { joinGcmBody, splitGcmBody } from '../../hsm/gcm-body.ts'
import { TokenError } from '../../hsm/token.ts'
import type { BackingKeyRecord, KeyRecord } from '../../store/store.ts'
import { authenticatedData, integrityValue, type ExternalCiphertext } from '../../xks/protocol.ts'
import type { AskedDecrypt, AskedEncrypt } from '../../xks/requests.ts'
import { onToken } from '../material.ts'
import type { Service } from '../service.ts'
import { XksRefusal } from './refusal.ts'

type Rooms = Pick<Service, 'store' | 'budget' | 'tokenOf' | 'log'>

const format = 1
const shortIdBytes = 16
export const metadataBytes = 1 + shortIdBytes

/** The same in all ciphertexts of one material. Nobody writes into it. */
const metadatas = new WeakMap<BackingKeyRecord, Buffer>()

function metadataOf(backing: BackingKeyRecord): Buffer {
  let metadata = metadatas.get(backing)
  if (!metadata) {
    metadata = Buffer.alloc(metadataBytes)
    metadata[0] = format
    metadata.write(backing.materialId, 1, shortIdBytes, 'hex')
    metadatas.set(backing, metadata)
  }
  return metadata
}

export interface Encrypted {
  readonly outer: ExternalCiphertext
  /** Only where it was asked for. */
  readonly integrity: Buffer | undefined
  readonly materialId: string
}

/** Under the key's current material, one encryption taken from its budget. With an integrity value what was made has been opened again, and was the same. */
export async function encryptUnder(service: Service, key: KeyRecord, asked: AskedEncrypt): Promise<Encrypted> {
  for (let isLast = false; ; isLast = true) {
    const made = await encryptOnce(service, key, asked)
    if (!asked.integrity) return { ...made, integrity: undefined }
    // First the hash, then the proof: a bit that flips after the hash was taken shows in one of the two (spec, appendix C).
    const integrity = integrityValue(made.outer, asked.aad)
    if (await opensAgain(service, key, made, asked)) return { ...made, integrity }
    service.log.error({ key: key.arn, materialId: made.materialId }, 'the device could not decrypt what it had just encrypted')
    if (isLast) throw new XksRefusal('InternalException', 'The key manager could not decrypt what it had encrypted.')
  }
}

async function encryptOnce(
  service: Service,
  key: KeyRecord,
  { plaintext, aad }: AskedEncrypt,
): Promise<{ readonly outer: ExternalCiphertext; readonly materialId: string; readonly backing: BackingKeyRecord }> {
  const drawn = service.budget.draw(key)
  const backing = drawn instanceof Promise ? await drawn : drawn
  const ciphertextMetadata = metadataOf(backing)
  const data = authenticatedData(aad, ciphertextMetadata)
  const { scheme, body } = await onToken(service, key, () => service.tokenOf(key).wrap(backing.ckaId, data, plaintext))
  const parts = splitGcmBody(scheme, body)
  if (!parts) throw new XksRefusal('UnsupportedOperationException', 'The key manager that holds this key has no AES-GCM.')
  return {
    outer: { ciphertextMetadata, initializationVector: parts.iv, ciphertext: parts.ciphertext, authenticationTag: parts.tag },
    materialId: backing.materialId,
    backing,
  }
}

async function opensAgain(
  service: Service,
  key: KeyRecord,
  made: { readonly outer: ExternalCiphertext; readonly backing: BackingKeyRecord },
  { plaintext, aad }: AskedEncrypt,
): Promise<boolean> {
  let opened: Buffer | undefined
  try {
    opened = await open(service, key, made.backing, { outer: made.outer, aad })
    return opened.length === plaintext.length && timingSafeEqual(opened, plaintext)
  } catch (error) {
    if (error instanceof TokenError && error.failure === 'rejected') return false
    throw error
  } finally {
    opened?.fill(0)
  }
}

/** The reverse of `encryptUnder`. The caller wipes the plaintext. */
export async function decryptUnder(
  service: Service,
  key: KeyRecord,
  asked: AskedDecrypt,
): Promise<{ readonly plaintext: Buffer; readonly materialId: string }> {
  const backing = findMaterial(service, key, asked.outer.ciphertextMetadata)
  if (!backing) throw new XksRefusal('InvalidCiphertextException', 'The ciphertext was not made under this key.')
  if (backing.state !== 'ready')
    throw new XksRefusal('InvalidStateException', 'The key material that the ciphertext was made with is not in the key manager.')
  return { plaintext: await open(service, key, backing, asked), materialId: backing.materialId }
}

function open(service: Service, key: KeyRecord, { ckaId }: BackingKeyRecord, { outer, aad }: AskedDecrypt): Promise<Buffer> {
  const { scheme, body } = joinGcmBody({ iv: outer.initializationVector, ciphertext: outer.ciphertext, tag: outer.authenticationTag })
  const data = authenticatedData(aad, outer.ciphertextMetadata)
  return onToken(service, key, () => service.tokenOf(key).unwrap(ckaId, scheme, data, body))
}

/** By the short ids of a key's materials: ids, since their records change more often than the key's. */
const materials = new WeakMap<KeyRecord, ReadonlyMap<string, string>>()

function findMaterial({ store }: Rooms, key: KeyRecord, metadata: Buffer): BackingKeyRecord | undefined {
  if (metadata.length !== metadataBytes || metadata[0] !== format) return undefined
  const shortId = metadata.toString('hex', 1)
  let materialId = materials.get(key)?.get(shortId)
  if (materialId === undefined) {
    const known = new Map(store.view.backingKeys(key.arn).map((each) => [each.materialId.slice(0, 2 * shortIdBytes), each.materialId]))
    materials.set(key, known)
    materialId = known.get(shortId)
  }
  return materialId === undefined ? undefined : store.view.backingKey(key.arn, materialId)
}
