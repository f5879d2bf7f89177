/** The owner's side of an import: key material wrapped by node:crypto, as AWS documents it. */

import { constants, createCipheriv, createPublicKey, generateKeyPairSync, publicEncrypt, randomBytes, type KeyObject } from 'node:crypto'

export const wrappingAlgorithms = ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256', 'RSA_AES_KEY_WRAP_SHA_1', 'RSA_AES_KEY_WRAP_SHA_256'] as const
export type WrappingAlgorithm = (typeof wrappingAlgorithms)[number]

/** @param publicKey what GetParametersForImport answered */
export function wrapMaterial(publicKey: Uint8Array, algorithm: WrappingAlgorithm, material: Uint8Array): Buffer {
  const key = createPublicKey({ key: Buffer.from(publicKey), format: 'der', type: 'spki' })
  const oaepHash = algorithm.endsWith('SHA_1') ? 'sha1' : 'sha256'
  const encrypt = (bytes: Uint8Array): Buffer => publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, bytes)
  if (algorithm.startsWith('RSAES_')) return encrypt(material)
  const aes = randomBytes(32)
  // RFC 5649, with its own initial value.
  const wrap = createCipheriv('id-aes256-wrap-pad', aes, Buffer.from('A65959A6', 'hex'))
  return Buffer.concat([encrypt(aes), wrap.update(material), wrap.final()])
}

export interface OwnKey {
  readonly publicKey: KeyObject
  readonly privateKey: KeyObject
  /** PKCS#8, DER. */
  readonly material: Buffer
}

const own = ({ publicKey, privateKey }: { readonly publicKey: KeyObject; readonly privateKey: KeyObject }): OwnKey => ({
  publicKey,
  privateKey,
  material: privateKey.export({ format: 'der', type: 'pkcs8' }),
})

export const makeRsa = (modulusLength: number): OwnKey => own(generateKeyPairSync('rsa', { modulusLength }))
export const makeEc = (namedCurve: string): OwnKey => own(generateKeyPairSync('ec', { namedCurve }))
