/**
 * One row per kind of key and per algorithm: what the device calls it, its sizes, what it may be used for.
 * Whoever has the row needs to know nothing else; below this table nobody compares an algorithm's name.
 *
 * To support another kind of key, add its row: generation, the self-test and the lists of what the token can do follow from it.
 */
import type { Mechanism } from 'pkcs11js'
import { CKA, CKG, CKK, CKM, parameterKind } from './constants.ts'
import type { MacAlgorithm, OaepAlgorithm, SignatureAlgorithm, SigningAlgorithm, TokenAlgorithm, TokenKeyKind } from './token.ts'
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
function ec(
  bits: number,
  oid: string,
  publicUsage: KeyPairRow['publicUsage'] = ['CKA_VERIFY'],
  privateUsage: KeyPairRow['privateUsage'] = ['CKA_SIGN'],
): KeyPairRow {
  return {
    shape: 'pair',
    keyType: CKK.CKK_EC,
    generate: CKM.CKM_EC_KEY_PAIR_GEN,
    bits,
    parameters: { CKA_EC_PARAMS: Buffer.from(oid, 'hex') },
    publicUsage,
    privateUsage,
  }
}

/** The curves that are named by their OBJECT IDENTIFIER. */
const oids = { p256: '06082a8648ce3d030107', p384: '06052b81040022', p521: '06052b81040023', k256: '06052b8104000a' }

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

const rsaSign = (bits: number): KeyPairRow => rsa(bits, ['CKA_VERIFY'], ['CKA_SIGN'])
const rsaDecrypt = (bits: number): KeyPairRow => rsa(bits, ['CKA_ENCRYPT'], ['CKA_DECRYPT'])
/** Decrypts too: where the device cannot unwrap by itself, what RSA protected is unpadded outside. */
const rsaImport = (bits: number): KeyPairRow => rsa(bits, ['CKA_ENCRYPT'], ['CKA_DECRYPT', 'CKA_UNWRAP'])
const ecDerive = (bits: number, oid: string): KeyPairRow => ec(bits, oid, [], ['CKA_DERIVE'])

export const keyRows = {
  'aes-256': { shape: 'secret', keyType: CKK.CKK_AES, generate: CKM.CKM_AES_KEY_GEN, bytes: 32, usage: ['CKA_ENCRYPT', 'CKA_DECRYPT'] },
  'hmac-224': hmac(28),
  'hmac-224-typed': hmac(28, CKK.CKK_SHA224_HMAC),
  'hmac-256': hmac(32),
  'hmac-256-typed': hmac(32, CKK.CKK_SHA256_HMAC),
  'hmac-384': hmac(48),
  'hmac-384-typed': hmac(48, CKK.CKK_SHA384_HMAC),
  'hmac-512': hmac(64),
  'hmac-512-typed': hmac(64, CKK.CKK_SHA512_HMAC),
  'rsa-2048-sign': rsaSign(2048),
  'rsa-3072-sign': rsaSign(3072),
  'rsa-4096-sign': rsaSign(4096),
  'rsa-2048-decrypt': rsaDecrypt(2048),
  'rsa-3072-decrypt': rsaDecrypt(3072),
  'rsa-4096-decrypt': rsaDecrypt(4096),
  'rsa-2048-import': rsaImport(2048),
  'rsa-3072-import': rsaImport(3072),
  'rsa-4096-import': rsaImport(4096),
  'ec-p256': ec(256, oids.p256),
  'ec-p384': ec(384, oids.p384),
  'ec-p521': ec(521, oids.p521),
  'ec-k256': ec(256, oids.k256),
  'ec-p256-derive': ecDerive(256, oids.p256),
  'ec-p384-derive': ecDerive(384, oids.p384),
  'ec-p521-derive': ecDerive(521, oids.p521),
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

/** How a private key signs what was hashed outside, or a message that only the device hashes. */
export interface SigningRow {
  readonly keyType: number
  readonly mechanism: Mechanism
  /** Hashes the message here, in node:crypto's spelling. */
  readonly hash: string
  readonly digestBytes: number
  /** The device wants the message itself, for it hashes more than that. */
  readonly whole?: boolean
  /** Put before the digest: the DigestInfo of RFC 8017 section 9.2 for RSA. */
  readonly prefix: Buffer
  /** The device answers r and s side by side; the caller wants them as DER (RFC 3279 section 2.2.3). */
  readonly rawPair: boolean
}

const nothing = Buffer.alloc(0)

const pkcs1 = (hash: string, digestBytes: number, prefix: string): SigningRow => ({
  keyType: CKK.CKK_RSA,
  mechanism: { mechanism: CKM.CKM_RSA_PKCS },
  hash,
  digestBytes,
  prefix: Buffer.from(prefix, 'hex'),
  rawPair: false,
})
const pss = (hash: string, digestBytes: number, hashAlg: number, mgf: number): SigningRow => {
  const parameter = { type: parameterKind.pss, hashAlg, mgf, saltLen: digestBytes }
  const mechanism = { mechanism: CKM.CKM_RSA_PKCS_PSS, parameter }
  return { keyType: CKK.CKK_RSA, mechanism, hash, digestBytes, prefix: nothing, rawPair: false }
}
const ecdsa = (hash: string, digestBytes: number): SigningRow => ({
  keyType: CKK.CKK_EC,
  mechanism: { mechanism: CKM.CKM_ECDSA },
  hash,
  digestBytes,
  prefix: nothing,
  rawPair: true,
})
const edwards = { keyType: CKK.CKK_EC_EDWARDS, hash: 'sha512', digestBytes: 64, prefix: nothing, rawPair: false }

/** CK_EDDSA_PARAMS with phFlag and no context, as 64-bit machines lay it out; the binding knows no such structure. */
const prehashed = Buffer.alloc(24)
prehashed[0] = 1

export const signingRows: Readonly<Record<SigningAlgorithm, SigningRow>> = {
  RSASSA_PKCS1_V1_5_SHA_256: pkcs1('sha256', 32, '3031300d060960864801650304020105000420'),
  RSASSA_PKCS1_V1_5_SHA_384: pkcs1('sha384', 48, '3041300d060960864801650304020205000430'),
  RSASSA_PKCS1_V1_5_SHA_512: pkcs1('sha512', 64, '3051300d060960864801650304020305000440'),
  RSASSA_PSS_SHA_256: pss('sha256', 32, CKM.CKM_SHA256, CKG.CKG_MGF1_SHA256),
  RSASSA_PSS_SHA_384: pss('sha384', 48, CKM.CKM_SHA384, CKG.CKG_MGF1_SHA384),
  RSASSA_PSS_SHA_512: pss('sha512', 64, CKM.CKM_SHA512, CKG.CKG_MGF1_SHA512),
  ECDSA_SHA_256: ecdsa('sha256', 32),
  ECDSA_SHA_384: ecdsa('sha384', 48),
  ECDSA_SHA_512: ecdsa('sha512', 64),
  ED25519_SHA_512: { ...edwards, mechanism: { mechanism: CKM.CKM_EDDSA }, whole: true },
  ED25519_PH_SHA_512: { ...edwards, mechanism: { mechanism: CKM.CKM_EDDSA, parameter: prehashed } },
}

/** By which the service itself signs, with the first that the key's type fits. */
const ownSignatures: readonly SignatureAlgorithm[] = ['ECDSA_SHA_256', 'RSASSA_PKCS1_V1_5_SHA_256']

/** The algorithm by which a private key of this type signs a SHA-256 digest here, undefined if none. */
export function findSignature(keyType: number): (SigningRow & { readonly algorithm: SignatureAlgorithm }) | undefined {
  const algorithm = ownSignatures.find((name) => signingRows[name].keyType === keyType)
  return algorithm && { ...signingRows[algorithm], algorithm }
}

/** The kinds of key that sign for the service itself, best first: the first the token can make is used. */
export const signingKinds: readonly KmsKind[] = ['ECC_NIST_P256 SIGN_VERIFY', 'RSA_2048 SIGN_VERIFY']

/** The kinds of key that make the MAC of the cbc-hmac scheme, best first. */
export const macKinds: readonly KeyRowName[] = ['hmac-256', 'hmac-256-typed']

export const macRows: Readonly<Record<MacAlgorithm, { readonly mechanism: Mechanism; readonly hash: string; readonly bytes: number }>> = {
  HMAC_SHA_224: { mechanism: { mechanism: CKM.CKM_SHA224_HMAC }, hash: 'sha224', bytes: 28 },
  HMAC_SHA_256: { mechanism: { mechanism: CKM.CKM_SHA256_HMAC }, hash: 'sha256', bytes: 32 },
  HMAC_SHA_384: { mechanism: { mechanism: CKM.CKM_SHA384_HMAC }, hash: 'sha384', bytes: 48 },
  HMAC_SHA_512: { mechanism: { mechanism: CKM.CKM_SHA512_HMAC }, hash: 'sha512', bytes: 64 },
}

/** The hashes of RSAES-OAEP. `id` is stored in blobs: never reuse one. */
export const oaepRows: Readonly<Record<OaepHash, { readonly id: number; readonly hash: number; readonly mgf: number }>> = {
  sha1: { id: 1, hash: CKM.CKM_SHA_1, mgf: CKG.CKG_MGF1_SHA1 },
  sha224: { id: 2, hash: CKM.CKM_SHA224, mgf: CKG.CKG_MGF1_SHA224 },
  sha256: { id: 3, hash: CKM.CKM_SHA256, mgf: CKG.CKG_MGF1_SHA256 },
  sha384: { id: 4, hash: CKM.CKM_SHA384, mgf: CKG.CKG_MGF1_SHA384 },
  sha512: { id: 5, hash: CKM.CKM_SHA512, mgf: CKG.CKG_MGF1_SHA512 },
}

export const oaepHashes: Readonly<Record<OaepAlgorithm, OaepHash>> = { RSAES_OAEP_SHA_1: 'sha1', RSAES_OAEP_SHA_256: 'sha256' }

export type KmsKind = Exclude<TokenKeyKind, 'wrapping' | 'signing'>

/** What keys of a kind are made of, and what the self-test must see them do. */
export interface KindRow {
  /** Alternatives, best first. */
  readonly keys: readonly KeyRowName[]
  readonly algorithms: readonly TokenAlgorithm[]
  /** Another kind whose self-test stands for this one, because generating such a key takes long; its size is held against the mechanism's range. */
  readonly provedBy?: KmsKind
}

const rsaSignatures = Object.keys(signingRows).filter((name) => name.startsWith('RSA')) as SigningAlgorithm[]
const oaepAlgorithms = Object.keys(oaepHashes) as OaepAlgorithm[]

/** KMS keys, and the keys that unwrap imported ones, by kind. Symmetric keys follow from the wrap schemes. */
export const kindRows: Readonly<Record<KmsKind, KindRow>> = {
  'RSA_2048 SIGN_VERIFY': { keys: ['rsa-2048-sign'], algorithms: rsaSignatures },
  'RSA_3072 SIGN_VERIFY': { keys: ['rsa-3072-sign'], algorithms: rsaSignatures, provedBy: 'RSA_2048 SIGN_VERIFY' },
  'RSA_4096 SIGN_VERIFY': { keys: ['rsa-4096-sign'], algorithms: rsaSignatures, provedBy: 'RSA_2048 SIGN_VERIFY' },
  'RSA_2048 ENCRYPT_DECRYPT': { keys: ['rsa-2048-decrypt'], algorithms: oaepAlgorithms },
  'RSA_3072 ENCRYPT_DECRYPT': { keys: ['rsa-3072-decrypt'], algorithms: oaepAlgorithms, provedBy: 'RSA_2048 ENCRYPT_DECRYPT' },
  'RSA_4096 ENCRYPT_DECRYPT': { keys: ['rsa-4096-decrypt'], algorithms: oaepAlgorithms, provedBy: 'RSA_2048 ENCRYPT_DECRYPT' },
  'ECC_NIST_P256 SIGN_VERIFY': { keys: ['ec-p256'], algorithms: ['ECDSA_SHA_256'] },
  'ECC_NIST_P384 SIGN_VERIFY': { keys: ['ec-p384'], algorithms: ['ECDSA_SHA_384'] },
  'ECC_NIST_P521 SIGN_VERIFY': { keys: ['ec-p521'], algorithms: ['ECDSA_SHA_512'] },
  'ECC_NIST_P256 KEY_AGREEMENT': { keys: ['ec-p256-derive'], algorithms: ['ECDH'] },
  'ECC_NIST_P384 KEY_AGREEMENT': { keys: ['ec-p384-derive'], algorithms: ['ECDH'] },
  'ECC_NIST_P521 KEY_AGREEMENT': { keys: ['ec-p521-derive'], algorithms: ['ECDH'] },
  'ECC_SECG_P256K1 SIGN_VERIFY': { keys: ['ec-k256'], algorithms: ['ECDSA_SHA_256'] },
  'ECC_NIST_EDWARDS25519 SIGN_VERIFY': { keys: ['ed-25519'], algorithms: ['ED25519_SHA_512', 'ED25519_PH_SHA_512'] },
  'HMAC_224 GENERATE_VERIFY_MAC': { keys: ['hmac-224', 'hmac-224-typed'], algorithms: ['HMAC_SHA_224'] },
  'HMAC_256 GENERATE_VERIFY_MAC': { keys: ['hmac-256', 'hmac-256-typed'], algorithms: ['HMAC_SHA_256'] },
  'HMAC_384 GENERATE_VERIFY_MAC': { keys: ['hmac-384', 'hmac-384-typed'], algorithms: ['HMAC_SHA_384'] },
  'HMAC_512 GENERATE_VERIFY_MAC': { keys: ['hmac-512', 'hmac-512-typed'], algorithms: ['HMAC_SHA_512'] },
  // The self-test decrypts with a key of this sort, where the token makes such; what it unwraps is a proof of its own.
  'import RSA_2048': { keys: ['rsa-2048-import'], algorithms: oaepAlgorithms, provedBy: 'RSA_2048 ENCRYPT_DECRYPT' },
  'import RSA_3072': { keys: ['rsa-3072-import'], algorithms: oaepAlgorithms, provedBy: 'RSA_2048 ENCRYPT_DECRYPT' },
  'import RSA_4096': { keys: ['rsa-4096-import'], algorithms: oaepAlgorithms, provedBy: 'RSA_2048 ENCRYPT_DECRYPT' },
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
