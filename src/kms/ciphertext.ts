/**
 * CiphertextBlob: the bytes that Encrypt and GenerateDataKey hand out. Format, byte by byte: docs/ciphertext-blob.md.
 *
 *     0       format   0x48 ('H')
 *     1       version  1
 *     2       scheme   how the body was made (hsm/token.ts wrapSchemes)
 *     3       key kind 0 = UUID key id, 1 = multi-Region `mrk-` key id
 *     4…19    key id   16 bytes
 *    20…51    key material id, 32 bytes
 *    52…59    the first 8 bytes of SHA-256 over bytes 0…51: tells a damaged header (InvalidCiphertextException) from a genuine one whose
 *             key is gone (AccessDeniedException, as AWS). Whether the blob is genuine only the token can tell.
 *    60…      body     what the token made of the plaintext
 *
 * The header and the encryption context are authenticated by the token together with the plaintext; the context is not in the
 * blob. A format file: no I/O, no keys.
 */

import { createHash } from 'node:crypto'
import { wrapSchemes, type WrapScheme } from '../hsm/token.ts'

export const headerBytes = 60
const checksumAt = 52
const format = 0x48
const version = 1

export interface CiphertextHeader {
  readonly scheme: WrapScheme
  readonly keyId: string
  /** 64 hex characters. */
  readonly materialId: string
}

export interface Ciphertext extends CiphertextHeader {
  readonly header: Buffer
  readonly body: Buffer
}

const schemeByNumber: ReadonlyMap<number, WrapScheme> = new Map(
  Object.entries(wrapSchemes).map(([name, number]) => [number, name as WrapScheme]),
)

export function encodeHeader({ scheme, keyId, materialId }: CiphertextHeader): Buffer {
  const multiRegion = keyId.startsWith('mrk-')
  const header = Buffer.allocUnsafe(headerBytes)
  header[0] = format
  header[1] = version
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
  if (blob.length <= headerBytes || blob[0] !== format || blob[1] !== version) return undefined
  if (!checksum(blob).equals(blob.subarray(checksumAt, headerBytes))) return undefined
  const scheme = schemeByNumber.get(blob[2] ?? 0)
  const kind = blob[3]
  if (!scheme || (kind !== 0 && kind !== 1)) return undefined
  const id = blob.toString('hex', 4, 20)
  return {
    scheme,
    keyId: kind === 1 ? `mrk-${id}` : `${id.slice(0, 8)}-${id.slice(8, 12)}-${id.slice(12, 16)}-${id.slice(16, 20)}-${id.slice(20)}`,
    materialId: blob.toString('hex', 20, checksumAt),
    header: blob.subarray(0, headerBytes),
    body: blob.subarray(headerBytes),
  }
}

/**
 * The additional authenticated data: header, then the encryption context as a set: pairs in byte order of their names, each name and
 * value as its UTF-8 bytes behind a 32-bit big-endian length. No two contexts share an encoding.
 */
export function additionalData(header: Buffer, context: Readonly<Record<string, string>> | undefined): Buffer {
  if (!context) return header
  const pairs = Object.entries(context).map(([name, value]) => [Buffer.from(name), Buffer.from(value)] as const)
  if (pairs.length === 0) return header
  pairs.sort(([a], [b]) => Buffer.compare(a, b))
  const parts: Buffer[] = [header]
  for (const pair of pairs) {
    for (const bytes of pair) {
      const length = Buffer.allocUnsafe(4)
      length.writeUInt32BE(bytes.length)
      parts.push(length, bytes)
    }
  }
  return Buffer.concat(parts)
}
