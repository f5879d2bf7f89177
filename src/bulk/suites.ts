/**
 * The algorithm suites of the AWS Encryption SDK, one row each (its specification, framework/algorithm-suites.md). Those that commit to their key
 * are written and read; the older ones are read where the caller allows it.
 */

export interface Suite {
  /** Two bytes on the wire. */
  readonly id: number
  readonly name: string
  /** Of the message format. */
  readonly version: 1 | 2
  /** OpenSSL's name. */
  readonly cipher: 'aes-128-gcm' | 'aes-192-gcm' | 'aes-256-gcm'
  /** Of the data key, and of the key that is derived from it. */
  readonly keyBytes: 16 | 24 | 32
  readonly messageIdBytes: 16 | 32
  /** HKDF's hash; the oldest suites use the data key as it is. */
  readonly derivation: 'sha256' | 'sha384' | 'sha512' | undefined
  /** The header says, in a way that cannot be met by two keys, which data key the message is under. */
  readonly commits: boolean
  readonly signature: SignatureKind | undefined
}

export interface SignatureKind {
  /** OpenSSL's name. */
  readonly curve: 'prime256v1' | 'secp384r1'
  readonly hash: 'sha256' | 'sha384'
  /** Of a coordinate. */
  readonly fieldBytes: 32 | 48
}

const p256 = { curve: 'prime256v1', hash: 'sha256', fieldBytes: 32 } as const
const p384 = { curve: 'secp384r1', hash: 'sha384', fieldBytes: 48 } as const

/** keyBits, HKDF's hash, signature; of version 1. */
const older = (id: number, keyBits: 128 | 192 | 256, derivation: Suite['derivation'], signature: SignatureKind | undefined): Suite => ({
  id,
  name: `AES_${keyBits}_GCM${derivation ? `_HKDF_${derivation.toUpperCase()}` : ''}${signature ? `_ECDSA_P${signature.fieldBytes * 8}` : ''}`,
  version: 1,
  cipher: `aes-${keyBits}-gcm`,
  keyBytes: (keyBits / 8) as Suite['keyBytes'],
  messageIdBytes: 16,
  derivation,
  commits: false,
  signature,
})

const committing = (id: number, signature: SignatureKind | undefined): Suite => ({
  id,
  name: `AES_256_GCM_HKDF_SHA512_COMMIT_KEY${signature ? '_ECDSA_P384' : ''}`,
  version: 2,
  cipher: 'aes-256-gcm',
  keyBytes: 32,
  messageIdBytes: 32,
  derivation: 'sha512',
  commits: true,
  signature,
})

/** Frames can be made and read side by side: what bulk encryption takes unless it is told otherwise. */
export const unsignedSuite = committing(0x0478, undefined)
/** With a signature over the whole message, by a key pair made for it. Hashing for it is sequential: no message goes faster than SHA-384. */
export const signedSuite = committing(0x0578, p384)

const rows: readonly Suite[] = [
  older(0x0014, 128, undefined, undefined),
  older(0x0046, 192, undefined, undefined),
  older(0x0078, 256, undefined, undefined),
  older(0x0114, 128, 'sha256', undefined),
  older(0x0146, 192, 'sha256', undefined),
  older(0x0178, 256, 'sha256', undefined),
  older(0x0214, 128, 'sha256', p256),
  older(0x0346, 192, 'sha384', p384),
  older(0x0378, 256, 'sha384', p384),
  unsignedSuite,
  signedSuite,
]

export const suites: ReadonlyMap<number, Suite> = new Map(rows.map((suite) => [suite.id, suite]))
