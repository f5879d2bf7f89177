/** Key material as AWS's users wrap it: by node:crypto, for a public key that the token handed out. */
import { constants, createCipheriv, createPublicKey, publicEncrypt, randomBytes } from 'node:crypto'
import type { ImportAlgorithm } from '../../src/hsm/token.ts'

export interface WrapOptions {
  /** In place of the fresh AES key of 32 bytes. */
  readonly aesKey?: Buffer
}

/** AES key wrap with padding (RFC 5649). */
export function wrapPadded(aesKey: Buffer, material: Buffer): Buffer {
  const cipher = createCipheriv(`id-aes${8 * aesKey.length}-wrap-pad`, aesKey, Buffer.from('a65959a6', 'hex'))
  return Buffer.concat([cipher.update(material), cipher.final()])
}

export function wrapFor(
  spki: Buffer,
  algorithm: ImportAlgorithm,
  material: Buffer,
  { aesKey = randomBytes(32) }: WrapOptions = {},
): Buffer {
  const key = createPublicKey({ key: spki, format: 'der', type: 'spki' })
  const oaep = (bytes: Buffer): Buffer =>
    publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: algorithm.endsWith('SHA_1') ? 'sha1' : 'sha256' }, bytes)
  return algorithm.startsWith('RSA_AES') ? Buffer.concat([oaep(aesKey), wrapPadded(aesKey, material)]) : oaep(material)
}
