/**
 * One row per kind of key and per signature algorithm: what the device calls it, its sizes, what it may be used for.
 * Whoever has the row needs to know nothing else; below this table nobody compares an algorithm's name.
 *
 * To support another kind of key, add its row: generation, the self-test and the list of key specs follow from it.
 */
import { CKA, CKG, CKK, CKM } from './constants.ts'
import type { SignatureAlgorithm } from './token.ts'
import type { AttributeName, AttributeValue } from './template.ts'
import type { OaepHash } from './profile.ts'

/** Every usage attribute of each class. All are written out in every template: the defaults differ between products. */
export const usageAttributes = {
  secret: ['CKA_ENCRYPT', 'CKA_DECRYPT', 'CKA_SIGN', 'CKA_VERIFY', 'CKA_WRAP', 'CKA_UNWRAP', 'CKA_DERIVE'],
  private: ['CKA_DECRYPT', 'CKA_SIGN', 'CKA_SIGN_RECOVER', 'CKA_UNWRAP', 'CKA_DERIVE'],
  public: ['CKA_ENCRYPT', 'CKA_VERIFY', 'CKA_VERIFY_RECOVER', 'CKA_WRAP'],
} as const satisfies Record<string, readonly (keyof typeof CKA)[]>

/** A key of one object. */
export interface SecretKeyRow {
  readonly shape: 'secret'
  readonly keyType: number
  /** The mechanism that generates it. */
  readonly generate: number
  readonly bytes: number
  readonly usage: readonly (typeof usageAttributes.secret)[number][]
}

/** A key of a private and a public object. */
export interface KeyPairRow {
  readonly shape: 'pair'
  readonly keyType: number
  readonly generate: number
  /** Held against the mechanism's key size range: bits of the modulus or the field. */
  readonly bits: number
  /** What the public template says of the size or curve. */
  readonly parameters: Readonly<Partial<Record<AttributeName, AttributeValue>>>
  readonly publicUsage: readonly (typeof usageAttributes.public)[number][]
  readonly privateUsage: readonly (typeof usageAttributes.private)[number][]
}

export type KeyRow = SecretKeyRow | KeyPairRow

const publicExponent = Buffer.from([1, 0, 1])

function rsa(bits: number, publicUsage: KeyPairRow['publicUsage'], privateUsage: KeyPairRow['privateUsage']): KeyPairRow {
  return {
    shape: 'pair',
    keyType: CKK.CKK_RSA,
    generate: CKM.CKM_RSA_PKCS_KEY_PAIR_GEN,
    bits,
    parameters: { CKA_MODULUS_BITS: bits, CKA_PUBLIC_EXPONENT: publicExponent },
    publicUsage,
    privateUsage,
  }
}

/** @param oid the curve as a DER OBJECT IDENTIFIER, hex (RFC 5480, SEC 2) */
function ec(bits: number, oid: string): KeyPairRow {
  return {
    shape: 'pair',
    keyType: CKK.CKK_EC,
    generate: CKM.CKM_EC_KEY_PAIR_GEN,
    bits,
    parameters: { CKA_EC_PARAMS: Buffer.from(oid, 'hex') },
    publicUsage: ['CKA_VERIFY'],
    privateUsage: ['CKA_SIGN'],
  }
}

/** Most products want the general key type for HMAC; some only know one type per hash. */
function hmac(bytes: number, keyType: number = CKK.CKK_GENERIC_SECRET): SecretKeyRow {
  return {
    shape: 'secret',
    keyType,
    generate: CKM.CKM_GENERIC_SECRET_KEY_GEN,
    bytes,
    usage: ['CKA_SIGN', 'CKA_VERIFY'],
  }
}

export const keyRows = {
  'aes-256': { shape: 'secret', keyType: CKK.CKK_AES, generate: CKM.CKM_AES_KEY_GEN, bytes: 32, usage: ['CKA_ENCRYPT', 'CKA_DECRYPT'] },
  'hmac-224': hmac(28),
  'hmac-256': hmac(32),
  'hmac-256-typed': hmac(32, CKK.CKK_SHA256_HMAC),
  'hmac-384': hmac(48),
  'hmac-512': hmac(64),
  'rsa-2048-wrap': rsa(2048, ['CKA_ENCRYPT'], ['CKA_DECRYPT']),
  'rsa-2048-sign': rsa(2048, ['CKA_VERIFY'], ['CKA_SIGN']),
  'rsa-3072-sign': rsa(3072, ['CKA_VERIFY'], ['CKA_SIGN']),
  'rsa-4096-sign': rsa(4096, ['CKA_VERIFY'], ['CKA_SIGN']),
  'ec-p256': ec(256, '06082a8648ce3d030107'),
  'ec-p384': ec(384, '06052b81040022'),
  'ec-p521': ec(521, '06052b81040023'),
  'ec-k256': ec(256, '06052b8104000a'),
  'ed-25519': {
    shape: 'pair',
    keyType: CKK.CKK_EC_EDWARDS,
    generate: CKM.CKM_EC_EDWARDS_KEY_PAIR_GEN,
    bits: 256,
    parameters: { CKA_EC_PARAMS: Buffer.from('06032b6570', 'hex') },
    publicUsage: ['CKA_VERIFY'],
    privateUsage: ['CKA_SIGN'],
  },
} as const satisfies Record<string, KeyRow>

export type KeyRowName = keyof typeof keyRows

/** How a private key signs a digest that was computed outside. */
export interface SignatureRow {
  readonly keyType: number
  readonly mechanism: number
  readonly digestBytes: number
  /** Put before the digest: the DigestInfo of RFC 8017 section 9.2 for RSA. */
  readonly prefix: Buffer
  /** The device answers r and s side by side; the caller wants them as DER (RFC 3279 section 2.2.3). */
  readonly rawPair: boolean
}

export const signatureRows: Readonly<Record<SignatureAlgorithm, SignatureRow>> = {
  ECDSA_SHA_256: { keyType: CKK.CKK_EC, mechanism: CKM.CKM_ECDSA, digestBytes: 32, prefix: Buffer.alloc(0), rawPair: true },
  RSASSA_PKCS1_V1_5_SHA_256: {
    keyType: CKK.CKK_RSA,
    mechanism: CKM.CKM_RSA_PKCS,
    digestBytes: 32,
    prefix: Buffer.from('3031300d060960864801650304020105000420', 'hex'),
    rawPair: false,
  },
}

/** The algorithm by which a private key of this type signs a SHA-256 digest here, undefined if none. */
export function findSignature(keyType: number): (SignatureRow & { readonly algorithm: SignatureAlgorithm }) | undefined {
  for (const [algorithm, row] of Object.entries(signatureRows)) {
    if (row.keyType === keyType) return { ...row, algorithm: algorithm as SignatureAlgorithm }
  }
  return undefined
}

/** The kinds of key that sign for the service itself, best first: the first the token can make is used. */
export const signingKinds: readonly KeyRowName[] = ['ec-p256', 'rsa-2048-sign']

/** The kinds of key that make the MAC of the cbc-hmac scheme, best first. */
export const macKinds: readonly KeyRowName[] = ['hmac-256', 'hmac-256-typed']

/** The hashes of RSAES-OAEP. `id` is stored in blobs: never reuse one. */
export const oaepRows: Readonly<Record<OaepHash, { readonly id: number; readonly hash: number; readonly mgf: number }>> = {
  sha1: { id: 1, hash: CKM.CKM_SHA_1, mgf: CKG.CKG_MGF1_SHA1 },
  sha224: { id: 2, hash: CKM.CKM_SHA224, mgf: CKG.CKG_MGF1_SHA224 },
  sha256: { id: 3, hash: CKM.CKM_SHA256, mgf: CKG.CKG_MGF1_SHA256 },
  sha384: { id: 4, hash: CKM.CKM_SHA384, mgf: CKG.CKG_MGF1_SHA384 },
  sha512: { id: 5, hash: CKM.CKM_SHA512, mgf: CKG.CKG_MGF1_SHA512 },
}

/** How the self-test proves a kind of key: generate a throw-away one and use it. */
export interface KeySpecRow {
  readonly key: KeyRowName
  /** The mechanism a signature or MAC over `inputBytes` bytes is made with. */
  readonly mechanism: number
  readonly inputBytes: number
  /** Another row whose self-test stands for this one, because generating this key takes seconds; its size is held against the mechanism's range. */
  readonly provedBy?: string
}

/** KMS key specs beside SYMMETRIC_DEFAULT, which follows from the wrap schemes. */
export const keySpecRows: Readonly<Record<string, KeySpecRow>> = {
  ECC_NIST_P256: { key: 'ec-p256', mechanism: CKM.CKM_ECDSA, inputBytes: 32 },
  ECC_NIST_P384: { key: 'ec-p384', mechanism: CKM.CKM_ECDSA, inputBytes: 48 },
  ECC_NIST_P521: { key: 'ec-p521', mechanism: CKM.CKM_ECDSA, inputBytes: 64 },
  ECC_SECG_P256K1: { key: 'ec-k256', mechanism: CKM.CKM_ECDSA, inputBytes: 32 },
  ECC_NIST_EDWARDS25519: { key: 'ed-25519', mechanism: CKM.CKM_EDDSA, inputBytes: 32 },
  RSA_2048: { key: 'rsa-2048-sign', mechanism: CKM.CKM_RSA_PKCS, inputBytes: 51 },
  RSA_3072: { key: 'rsa-3072-sign', mechanism: CKM.CKM_RSA_PKCS, inputBytes: 51, provedBy: 'RSA_2048' },
  RSA_4096: { key: 'rsa-4096-sign', mechanism: CKM.CKM_RSA_PKCS, inputBytes: 51, provedBy: 'RSA_2048' },
  HMAC_224: { key: 'hmac-224', mechanism: CKM.CKM_SHA224_HMAC, inputBytes: 32 },
  HMAC_256: { key: 'hmac-256', mechanism: CKM.CKM_SHA256_HMAC, inputBytes: 32 },
  HMAC_384: { key: 'hmac-384', mechanism: CKM.CKM_SHA384_HMAC, inputBytes: 48 },
  HMAC_512: { key: 'hmac-512', mechanism: CKM.CKM_SHA512_HMAC, inputBytes: 64 },
}

/** Keys that can prove login, token and crypto in one operation, best first: smallest and found on most products. */
export interface CanaryRow {
  readonly key: KeyRowName
  readonly use: 'encrypt' | 'sign'
  readonly mechanism: number
}

export const canaryRows: readonly CanaryRow[] = [
  { key: 'aes-256', use: 'encrypt', mechanism: CKM.CKM_AES_CBC },
  { key: 'hmac-256', use: 'sign', mechanism: CKM.CKM_SHA256_HMAC },
  { key: 'hmac-256-typed', use: 'sign', mechanism: CKM.CKM_SHA256_HMAC },
  { key: 'ec-p256', use: 'sign', mechanism: CKM.CKM_ECDSA },
  { key: 'rsa-2048-sign', use: 'sign', mechanism: CKM.CKM_RSA_PKCS },
]
