/**
 * CiphertextBlob: the bytes that Encrypt and GenerateDataKey hand out. Format, byte by byte: docs/ciphertext-blob.md.
 *
 *     0       format   0x48 ('H')
 *     1       version  1; 2 when the body was encrypted a second time, outside, by the proxy of an external key store
 *     2       scheme   how the body was made (hsm/token.ts wrapSchemes)
 *     3       key kind 0 = UUID key id, 1 = multi-Region `mrk-` key id
 *     4…19    key id   16 bytes
 *    20…51    key material id, 32 bytes
 *    52…59    the first 8 bytes of SHA-256 over bytes 0…51: tells a damaged header (InvalidCiphertextException) from a genuine one whose
 *             key is gone (AccessDeniedException, as AWS). Whether the blob is genuine only the token can tell.
 *    60…      body     what the token made of the plaintext; in version 2 what the proxy made of that:
 *
 *             1: length of metadata (0…20)  metadata  1: length of IV (12 or 16)  IV  16: tag  ciphertext
 *
 * The header and the encryption context are authenticated by the token together with the plaintext; the context is not in the
 * blob. A format file: no I/O, no keys.
 */

import { createHash } from 'node:crypto'
import { wrapSchemes, type WrapScheme } from '../hsm/token.ts'
import { ivBytes, maxMetadataBytes, tagBytes, type ExternalCiphertext } from '../xks/protocol.ts'

export const headerBytes = 60
const checksumAt = 52
const format = 0x48
const versions = { inside: 1, outside: 2 } as const

export interface CiphertextHeader {
  readonly scheme: WrapScheme
  readonly keyId: string
  /** 64 hex characters. */
  readonly materialId: string
  /** Encrypted a second time by an external key. */
  readonly doubly: boolean
}

export interface Ciphertext extends CiphertextHeader {
  readonly header: Buffer
  /** For the token, or for the proxy first: see `parseOuter`. */
  readonly body: Buffer
}

const schemeByNumber: ReadonlyMap<number, WrapScheme> = new Map(
  Object.entries(wrapSchemes).map(([name, number]) => [number, name as WrapScheme]),
)

export function encodeHeader({ scheme, keyId, materialId, doubly }: CiphertextHeader): Buffer {
  const multiRegion = keyId.startsWith('mrk-')
  const header = Buffer.allocUnsafe(headerBytes)
  header[0] = format
  header[1] = doubly ? versions.outside : versions.inside
  header[2] = wrapSchemes[scheme]
  header[3] = multiRegion ? 1 : 0
  const idBytes = header.write(multiRegion ? keyId.slice(4) : keyId.replaceAll('-', ''), 4, 'hex')
  const materialBytes = header.write(materialId, 20, 'hex')
  checksum(header).copy(header, checksumAt)
  if (idBytes !== 16 || materialBytes !== 32) throw new RangeError('a key id has 16 bytes, a key material id 32')
  return header
}

const checksum = (header: Buffer): Buffer =>
  createHash('sha256')
    .update(header.subarray(0, checksumAt))
    .digest()
    .subarray(0, headerBytes - checksumAt)

/** undefined for what no version of this format could have made; that the bytes are genuine only the token can tell. */
export function parseCiphertext(blob: Buffer): Ciphertext | undefined {
  const version = blob[1]
  if (blob.length <= headerBytes || blob[0] !== format || (version !== versions.inside && version !== versions.outside)) return undefined
  if (!checksum(blob).equals(blob.subarray(checksumAt, headerBytes))) return undefined
  const scheme = schemeByNumber.get(blob[2] ?? 0)
  const kind = blob[3]
  if (!scheme || (kind !== 0 && kind !== 1)) return undefined
  const id = blob.toString('hex', 4, 20)
  return {
    scheme,
    keyId: kind === 1 ? `mrk-${id}` : `${id.slice(0, 8)}-${id.slice(8, 12)}-${id.slice(12, 16)}-${id.slice(16, 20)}-${id.slice(20)}`,
    materialId: blob.toString('hex', 20, checksumAt),
    doubly: version === versions.outside,
    header: blob.subarray(0, headerBytes),
    body: blob.subarray(headerBytes),
  }
}

/** The body of a blob that was encrypted a second time. */
export function encodeOuter({ ciphertextMetadata, initializationVector, authenticationTag, ciphertext }: ExternalCiphertext): Buffer {
  return Buffer.concat([
    Buffer.from([ciphertextMetadata.length]),
    ciphertextMetadata,
    Buffer.from([initializationVector.length]),
    initializationVector,
    authenticationTag,
    ciphertext,
  ])
}

/** undefined for what `encodeOuter` could not have made. */
export function parseOuter(body: Buffer): ExternalCiphertext | undefined {
  const metadataEnd = 1 + (body[0] ?? 0)
  const ivEnd = metadataEnd + 1 + (body[metadataEnd] ?? 0)
  const tagEnd = ivEnd + tagBytes
  if (metadataEnd - 1 > maxMetadataBytes || !ivBytes.includes(ivEnd - metadataEnd - 1) || tagEnd >= body.length) return undefined
  return {
    ciphertextMetadata: body.subarray(1, metadataEnd),
    initializationVector: body.subarray(metadataEnd + 1, ivEnd),
    authenticationTag: body.subarray(ivEnd, tagEnd),
    ciphertext: body.subarray(tagEnd),
  }
}

/**
 * The additional authenticated data: header, then the encryption context as a set: pairs in byte order of their names, each name and
 * value as its UTF-8 bytes behind a 32-bit big-endian length. No two contexts share an encoding.
 */
export function additionalData(header: Buffer, context: Readonly<Record<string, string>> | undefined): Buffer {
  return context ? encodeBehind(header, context) : header
}

/** The encryption context by itself: what the proxy of an external key store authenticates. At most as long as the context may be. */
export const encodeContext = (context: Readonly<Record<string, string>>): Buffer => encodeBehind(noBytes, context)

const noBytes = Buffer.alloc(0)

/** With the beginning it is made in one piece. */
function encodeBehind(beginning: Buffer, context: Readonly<Record<string, string>>): Buffer {
  const names = Object.keys(context)
  if (names.length === 0) return beginning
  if (names.length > 1) names.sort(compareUtf8)
  let bytes = beginning.length
  for (const name of names) bytes += 8 + Buffer.byteLength(name) + Buffer.byteLength(context[name] ?? '')
  const encoded = Buffer.allocUnsafe(bytes)
  encoded.set(beginning)
  let at = beginning.length
  for (const name of names) at = putText(encoded, putText(encoded, at, name), context[name] ?? '')
  return encoded
}

function putText(target: Buffer, at: number, text: string): number {
  const length = target.write(text, at + 4)
  target.writeUInt32BE(length, at)
  return at + 4 + length
}

/** The order of the texts' UTF-8 bytes, which is that of their code points; that of UTF-16 puts surrogates before U+E000. */
function compareUtf8(a: string, b: string): number {
  const shorter = Math.min(a.length, b.length)
  for (let at = 0; at < shorter; at++) {
    const one = a.charCodeAt(at)
    const other = b.charCodeAt(at)
    if (one !== other) return rank(one) - rank(other)
  }
  return a.length - b.length
}
const rank = (unit: number): number => (unit < 0xd800 ? unit : unit < 0xe000 ? unit + 0x2000 : unit - 0x800)
