/**
 * The other side of the comparison: what the token does, by node:crypto (OpenSSL) with the key in memory. One row for each operation; `open` makes its key
 * and answers one call, synchronous.
 */

import {
  constants,
  createCipheriv,
  createDecipheriv,
  createHmac,
  generateKeyPairSync,
  privateDecrypt,
  publicEncrypt,
  randomBytes,
  sign,
  timingSafeEqual,
  type KeyObject,
} from 'node:crypto'

/** As long as the encryption context of the bench's requests. */
const aad = Buffer.alloc(96, 1)

type Open = () => () => void

const gcmEncrypt =
  (bytes: number, fresh: boolean): Open =>
  () => {
    const key = randomBytes(32)
    const plaintext = Buffer.alloc(bytes, 2)
    return () => seal(key, fresh ? randomBytes(bytes) : plaintext)
  }

function seal(key: Buffer, plaintext: Buffer): { readonly iv: Buffer; readonly body: Buffer; readonly tag: Buffer } {
  const iv = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(aad)
  const body = Buffer.concat([cipher.update(plaintext), cipher.final()])
  return { iv, body, tag: cipher.getAuthTag() }
}

const gcmDecrypt: Open = () => {
  const key = randomBytes(32)
  const { iv, body, tag } = seal(key, randomBytes(32))
  return () => {
    const decipher = createDecipheriv('aes-256-gcm', key, iv).setAAD(aad).setAuthTag(tag)
    return Buffer.concat([decipher.update(body), decipher.final()])
  }
}

function sealCbc(keys: readonly [Buffer, Buffer], plaintext: Buffer): { readonly iv: Buffer; readonly body: Buffer; readonly tag: Buffer } {
  const iv = randomBytes(16)
  const cipher = createCipheriv('aes-256-cbc', keys[0], iv)
  const body = Buffer.concat([cipher.update(plaintext), cipher.final()])
  return { iv, body, tag: createHmac('sha256', keys[1]).update(aad).update(iv).update(body).digest() }
}

const cbcEncrypt: Open = () => {
  const keys = [randomBytes(32), randomBytes(32)] as const
  return () => sealCbc(keys, randomBytes(32))
}

const cbcDecrypt: Open = () => {
  const keys = [randomBytes(32), randomBytes(32)] as const
  const { iv, body, tag } = sealCbc(keys, randomBytes(32))
  return () => {
    if (!timingSafeEqual(tag, createHmac('sha256', keys[1]).update(aad).update(iv).update(body).digest())) throw new Error('not the MAC')
    const decipher = createDecipheriv('aes-256-cbc', keys[0], iv)
    return Buffer.concat([decipher.update(body), decipher.final()])
  }
}

const rsa = (modulusLength: number): { readonly publicKey: KeyObject; readonly privateKey: KeyObject } =>
  generateKeyPairSync('rsa', { modulusLength })
const oaep = (key: KeyObject) => ({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' })

/** A digest, as the token gets one: the message is the 32 bytes whose hash is signed, and hashing them takes a quarter of a microsecond. */
const message = Buffer.alloc(32, 3)
const signRsa =
  (bits: number): Open =>
  () => {
    const { privateKey } = rsa(bits)
    return () => sign('sha256', message, privateKey)
  }
const signEc =
  (namedCurve: string, hash: string): Open =>
  () => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve })
    return () => sign(hash, message, privateKey)
  }

/** By the operation's id in `token.ts`. */
export const softwareOperations = {
  'wrap-gcm': gcmEncrypt(32, true),
  'unwrap-gcm': gcmDecrypt,
  'wrap-cbc-hmac': cbcEncrypt,
  'unwrap-cbc-hmac': cbcDecrypt,
  'wrap-rsa-oaep': () => {
    const { publicKey } = rsa(2048)
    return () => publicEncrypt(oaep(publicKey), randomBytes(32))
  },
  'unwrap-rsa-oaep': () => {
    const { publicKey, privateKey } = rsa(2048)
    const ciphertext = publicEncrypt(oaep(publicKey), randomBytes(32))
    return () => privateDecrypt(oaep(privateKey), ciphertext)
  },
  'gcm-32': gcmEncrypt(32, false),
  'gcm-4k': gcmEncrypt(4096, false),
  'hmac-256': () => {
    const key = randomBytes(32)
    return () => createHmac('sha256', key).update(message).digest()
  },
  'ecdsa-p256': signEc('P-256', 'sha256'),
  'ecdsa-p384': signEc('P-384', 'sha384'),
  'rsa-2048': signRsa(2048),
  'rsa-3072': signRsa(3072),
  'rsa-4096': signRsa(4096),
  'oaep-2048': () => {
    const { publicKey, privateKey } = rsa(2048)
    const ciphertext = publicEncrypt(oaep(publicKey), randomBytes(32))
    return () => privateDecrypt(oaep(privateKey), ciphertext)
  },
  'new-aes': () => () => randomBytes(32),
  'new-p256': () => () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  'new-rsa-2048': () => () => rsa(2048),
  'random-32': () => () => randomBytes(32),
  'random-32k': () => () => randomBytes(32_768),
} as const satisfies Readonly<Record<string, Open>>

export type SoftwareOperation = keyof typeof softwareOperations
