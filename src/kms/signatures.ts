/**
 * Whether a signature is good, by the public key alone. What is refused: any encoding but the one that the algorithm prescribes (DER that is not
 * the shortest, bytes behind the end, RSA signatures of another length than the modulus), and PSS salts of another length than the digest.
 *
 * A message that comes as its digest cannot be handed to OpenSSL through Node, which always hashes. RSA is therefore opened here and what must
 * be in it compared (RFC 8017 8.1.2, 8.2.2); ECDSA is put together from multiples of points, in a thread. Ed25519ph OpenSSL 3.0 does not know.
 */

import { constants, createHash, publicDecrypt, verify, type KeyObject } from 'node:crypto'
import { curveOf, modulusBytes } from './public-keys.ts'
import type { Offload, Service } from './service.ts'
import type { SigningRow } from './specs.ts'

type Hash = SigningRow['hash']

/** What is asked: is `signature` one of `message`, by this key? `form` says what the message is. */
export interface SignatureQuestion {
  readonly key: KeyObject
  readonly row: SigningRow
  readonly form: 'message' | 'digest'
  readonly message: Buffer
  readonly signature: Buffer
}

/** @returns false for whatever is wrong with the signature. */
export const isSignature = async (service: Pick<Service, 'offload'>, question: SignatureQuestion): Promise<boolean> =>
  judges[question.row.scheme](question, service.offload)

const judges: Readonly<Record<SigningRow['scheme'], (asked: SignatureQuestion, offload: Offload) => boolean | Promise<boolean>>> = {
  pkcs1(asked) {
    const { key, row, signature } = asked
    return opened(key, signature)?.equals(pkcs1Encoding(row.hash, digestOf(asked), modulusBytes(key))) ?? false
  },
  pss(asked) {
    const encoded = opened(asked.key, asked.signature)
    return encoded !== undefined && isPssEncoding(encoded, asked.row.hash, digestOf(asked))
  },
  ecdsa({ key, row, form, message, signature }, offload) {
    const curve = curveOf(key)
    const pair = readPair(signature, curve.coordinateBytes)
    if (!pair) return false
    if (form === 'message') return verified(row.hash, message, { key, dsaEncoding: 'ieee-p1363' }, Buffer.concat(pair))
    const { x = '', y = '' } = key.export({ format: 'jwk' })
    const [r, s] = pair
    return offload.isEcdsaSignature({
      curve: curve.name,
      x: Buffer.from(x, 'base64url'),
      y: Buffer.from(y, 'base64url'),
      digest: message,
      r,
      s,
    })
  },
  eddsa: ({ key, message, signature }) => verified(undefined, message, { key }, signature),
  'eddsa-prehashed'(asked, offload) {
    const { x = '' } = asked.key.export({ format: 'jwk' })
    return offload.isEd25519phSignature({ publicKey: Buffer.from(x, 'base64url'), digest: digestOf(asked), signature: asked.signature })
  },
}

const digestOf = ({ form, row, message }: SignatureQuestion): Buffer =>
  form === 'digest' ? message : createHash(row.hash).update(message).digest()

/** Off the event loop: on the larger curves it takes a millisecond. */
function verified(
  hash: Hash | undefined,
  message: Buffer,
  key: { readonly key: KeyObject; readonly dsaEncoding?: 'ieee-p1363' },
  signature: Buffer,
): Promise<boolean> {
  return new Promise((resolve, reject) => {
    verify(hash, message, key, signature, (error, good) => (error ? reject(error) : resolve(good)))
  })
}

// ---- RSA ----

/** The encoded message in an RSA signature; undefined when it is none of this key's size. */
function opened(key: KeyObject, signature: Buffer): Buffer | undefined {
  if (signature.length !== modulusBytes(key)) return undefined
  try {
    return publicDecrypt({ key, padding: constants.RSA_NO_PADDING }, signature)
  } catch {
    // A number above the modulus.
    return undefined
  }
}

/** DER of DigestInfo up to the digest (RFC 8017 9.2, note 1). */
const digestInfos: Readonly<Record<Hash, string>> = {
  sha256: '3031300d060960864801650304020105000420',
  sha384: '3041300d060960864801650304020205000430',
  sha512: '3051300d060960864801650304020305000440',
}

/** EMSA-PKCS1-v1_5 (RFC 8017 9.2). */
function pkcs1Encoding(hash: Hash, digest: Buffer, bytes: number): Buffer {
  const info = Buffer.from(digestInfos[hash], 'hex')
  const padding = Buffer.alloc(bytes - 3 - info.length - digest.length, 0xff)
  return Buffer.concat([Buffer.of(0, 1), padding, Buffer.of(0), info, digest])
}

/** EMSA-PSS-VERIFY (RFC 8017 9.1.2) with a salt as long as the digest, for moduli of whole bytes. */
function isPssEncoding(encoded: Buffer, hash: Hash, digest: Buffer): boolean {
  const dbBytes = encoded.length - digest.length - 1
  const maskedDb = encoded.subarray(0, dbBytes)
  const h = encoded.subarray(dbBytes, -1)
  // The modulus has one bit more than the encoding may fill.
  if (encoded.at(-1) !== 0xbc || (maskedDb[0] ?? 0) >= 0x80) return false
  const mask = mgf1(hash, h, dbBytes)
  const db = Buffer.from(maskedDb.map((byte, index) => byte ^ (mask[index] ?? 0)))
  db[0] = (db[0] ?? 0) & 0x7f
  const zeros = dbBytes - digest.length - 1
  if (db[zeros] !== 1 || db.subarray(0, zeros).some((byte) => byte !== 0)) return false
  const salt = db.subarray(zeros + 1)
  return createHash(hash).update(Buffer.alloc(8)).update(digest).update(salt).digest().equals(h)
}

function mgf1(hash: Hash, seed: Buffer, bytes: number): Buffer {
  const parts: Buffer[] = []
  for (let made = 0, counter = 0; made < bytes; counter++) {
    const count = Buffer.alloc(4)
    count.writeUInt32BE(counter)
    const part = createHash(hash).update(seed).update(count).digest()
    parts.push(part)
    made += part.length
  }
  return Buffer.concat(parts).subarray(0, bytes)
}

// ---- ECDSA ----

/** r and s out of Ecdsa-Sig-Value (RFC 3279 2.2.3), each of a coordinate's length; undefined for anything but its one DER encoding. */
function readPair(der: Buffer, bytes: number): readonly [Buffer, Buffer] | undefined {
  // SEQUENCE; from 128 bytes on, only with P-521, the length has a byte of its own.
  const long = der[1] === 0x81
  const start = long ? 3 : 2
  const length = der[start - 1] ?? 0
  if (der[0] !== 0x30 || der.length !== start + length || length < (long ? 0x80 : 0) || (!long && length >= 0x80)) return undefined
  const first = readInteger(der, start, bytes)
  const second = first && readInteger(der, first.end, bytes)
  return first && second?.end === der.length ? [first.value, second.value] : undefined
}

function readInteger(der: Buffer, at: number, bytes: number): { readonly value: Buffer; readonly end: number } | undefined {
  const length = der[at + 1] ?? 0
  const content = der.subarray(at + 2, at + 2 + length)
  if (der[at] !== 0x02 || length === 0 || length >= 0x80 || content.length !== length) return undefined
  const [head = 0, next = 0] = content
  // Negative, or not the shortest form.
  if (head >= 0x80 || (head === 0 && length > 1 && next < 0x80)) return undefined
  const value = head === 0 ? content.subarray(1) : content
  if (value.length > bytes) return undefined
  return { value: Buffer.concat([Buffer.alloc(bytes - value.length), value]), end: at + 2 + length }
}
