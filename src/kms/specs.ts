/**
 * Key specs: what a key of each can be for, and with which algorithms. AWS's tables "Key spec reference" and "Key type reference" as one; lists
 * are in AWS's order, in which they are answered.
 */

import type { MacAlgorithm, OaepAlgorithm, SigningAlgorithm, Token, TokenKeyKind } from '../hsm/token.ts'
import type { KeyRecord } from '../store/store.ts'
import { kmsError, type KmsError } from './errors.ts'

export const keyUsages = ['SIGN_VERIFY', 'ENCRYPT_DECRYPT', 'GENERATE_VERIFY_MAC', 'KEY_AGREEMENT', 'ENCAPSULATE_DECAPSULATE'] as const
export type KeyUsage = (typeof keyUsages)[number]

/** What a spec's keys do under one usage. */
interface UsageRow {
  readonly algorithms: readonly string[]
  /** What the token calls such a key; undefined where PKCS#11 as it is spoken here has no word for it. */
  readonly kind: TokenKeyKind | undefined
}

type SpecRow = Readonly<Partial<Record<KeyUsage, UsageRow>>>

const oaep: readonly OaepAlgorithm[] = ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256']
const rsaSignatures: readonly SigningAlgorithm[] = [
  'RSASSA_PKCS1_V1_5_SHA_256',
  'RSASSA_PKCS1_V1_5_SHA_384',
  'RSASSA_PKCS1_V1_5_SHA_512',
  'RSASSA_PSS_SHA_256',
  'RSASSA_PSS_SHA_384',
  'RSASSA_PSS_SHA_512',
]

const rsa = (spec: 'RSA_2048' | 'RSA_3072' | 'RSA_4096'): SpecRow => ({
  ENCRYPT_DECRYPT: { algorithms: oaep, kind: `${spec} ENCRYPT_DECRYPT` },
  SIGN_VERIFY: { algorithms: rsaSignatures, kind: `${spec} SIGN_VERIFY` },
})
const nistCurve = (spec: 'ECC_NIST_P256' | 'ECC_NIST_P384' | 'ECC_NIST_P521', signature: string): SpecRow => ({
  SIGN_VERIFY: { algorithms: [signature], kind: `${spec} SIGN_VERIFY` },
  KEY_AGREEMENT: { algorithms: ['ECDH'], kind: `${spec} KEY_AGREEMENT` },
})
const hmac = (bits: 224 | 256 | 384 | 512): SpecRow => ({
  GENERATE_VERIFY_MAC: { algorithms: [`HMAC_SHA_${bits}`], kind: `HMAC_${bits} GENERATE_VERIFY_MAC` },
})
const mlDsa: SpecRow = { SIGN_VERIFY: { algorithms: ['ML_DSA_SHAKE_256'], kind: undefined } }
const mlKem: SpecRow = { ENCAPSULATE_DECAPSULATE: { algorithms: ['ML_KEM'], kind: undefined } }

/** In the order of AWS's model: messages list the names so. */
const specs = {
  RSA_2048: rsa('RSA_2048'),
  RSA_3072: rsa('RSA_3072'),
  RSA_4096: rsa('RSA_4096'),
  ECC_NIST_P256: nistCurve('ECC_NIST_P256', 'ECDSA_SHA_256'),
  ECC_NIST_P384: nistCurve('ECC_NIST_P384', 'ECDSA_SHA_384'),
  ECC_NIST_P521: nistCurve('ECC_NIST_P521', 'ECDSA_SHA_512'),
  ECC_SECG_P256K1: { SIGN_VERIFY: { algorithms: ['ECDSA_SHA_256'], kind: 'ECC_SECG_P256K1 SIGN_VERIFY' } },
  SYMMETRIC_DEFAULT: { ENCRYPT_DECRYPT: { algorithms: ['SYMMETRIC_DEFAULT'], kind: 'wrapping' } },
  HMAC_224: hmac(224),
  HMAC_256: hmac(256),
  HMAC_384: hmac(384),
  HMAC_512: hmac(512),
  SM2: {
    ENCRYPT_DECRYPT: { algorithms: ['SM2PKE'], kind: undefined },
    SIGN_VERIFY: { algorithms: ['SM2DSA'], kind: undefined },
    KEY_AGREEMENT: { algorithms: ['ECDH'], kind: undefined },
  },
  ML_DSA_44: mlDsa,
  ML_DSA_65: mlDsa,
  ML_DSA_87: mlDsa,
  ECC_NIST_EDWARDS25519: {
    SIGN_VERIFY: { algorithms: ['ED25519_PH_SHA_512', 'ED25519_SHA_512'], kind: 'ECC_NIST_EDWARDS25519 SIGN_VERIFY' },
  },
  ML_KEM_512: mlKem,
  ML_KEM_768: mlKem,
  ML_KEM_1024: mlKem,
} as const satisfies Record<string, SpecRow>

export type KeySpec = keyof typeof specs
export const keySpecs = Object.keys(specs) as readonly KeySpec[]

/** @throws KmsError where AWS has no such keys. */
export function checkUsage(spec: KeySpec, usage: KeyUsage): void {
  if (!Object.hasOwn(specs[spec], usage)) throw kmsError('ValidationException', `KeyUsage ${usage} is not compatible with KeySpec ${spec}`)
}

/** What a key has of its spec. Records come from the store, which keeps what `checkUsage` let in. */
function rowOf(key: Pick<KeyRecord, 'spec' | 'usage'>): UsageRow {
  const row = (specs as Readonly<Record<string, SpecRow | undefined>>)[key.spec]?.[key.usage as KeyUsage]
  if (!row) throw new Error(`no key is of spec ${key.spec} for ${key.usage}`)
  return row
}

/** The algorithms that a key works with, in AWS's order. */
export const algorithmsOf = (key: Pick<KeyRecord, 'spec' | 'usage'>): readonly string[] => rowOf(key).algorithms

/** The kind of token key that holds a key's material. @throws KmsError for specs that no token here can have. */
export function tokenKind(key: Pick<KeyRecord, 'spec' | 'usage'>): TokenKeyKind {
  const { kind } = rowOf(key)
  if (kind === undefined) throw noMechanism(key.spec)
  return kind
}

/** @throws KmsError when this token cannot make such a key. */
export function checkKind(token: Token, key: Pick<KeyRecord, 'spec' | 'usage'>): void {
  const kind = tokenKind(key)
  const { wrapScheme, keyKinds } = token.capabilities()
  if (kind === 'wrapping' ? wrapScheme === undefined : !keyKinds.includes(kind)) throw noMechanism(key.spec)
}

/** @throws KmsError when a key of this token's own making could never be copied to another region's token. */
export function checkReplicable(token: Token, key: Pick<KeyRecord, 'spec' | 'usage'>): void {
  if (token.capabilities().replicableKinds.includes(tokenKind(key))) return
  throw kmsError(
    'UnsupportedOperationException',
    `KeySpec ${key.spec} is not supported for multi-Region keys: the connected token cannot copy such a key to another token.`,
  )
}

export const noMechanism = (spec: string): KmsError =>
  kmsError('UnsupportedOperationException', `KeySpec ${spec} is not supported: the connected token has no mechanism for it.`)

/** Whether the key has a public half. */
export const isKeyPair = (key: Pick<KeyRecord, 'spec'>): boolean => !isSymmetric(key) && !key.spec.startsWith('HMAC_')

/** Only these encrypt with AES-GCM in the token, rotate, and show which material they use. */
export const isSymmetric = (key: Pick<KeyRecord, 'spec'>): boolean => key.spec === 'SYMMETRIC_DEFAULT'

// ---- algorithms ----

/** What a signature is made of, beside the key. */
export interface SigningRow {
  readonly scheme: 'pss' | 'pkcs1' | 'ecdsa' | 'eddsa' | 'eddsa-prehashed'
  readonly hash: 'sha256' | 'sha384' | 'sha512'
  /** Bytes of a message that is a digest. */
  readonly digestBytes: number
  readonly messageTypes: readonly MessageType[]
}

export const messageTypes = ['RAW', 'DIGEST', 'EXTERNAL_MU'] as const
export type MessageType = (typeof messageTypes)[number]

function signing(scheme: SigningRow['scheme'], bits: 256 | 384 | 512, types: readonly MessageType[] = ['RAW', 'DIGEST']): SigningRow {
  return { scheme, hash: `sha${bits}`, digestBytes: bits / 8, messageTypes: types }
}

/** In the order of AWS's model. */
export const signingRows: Readonly<Record<SigningAlgorithm, SigningRow>> = {
  RSASSA_PSS_SHA_256: signing('pss', 256),
  RSASSA_PSS_SHA_384: signing('pss', 384),
  RSASSA_PSS_SHA_512: signing('pss', 512),
  RSASSA_PKCS1_V1_5_SHA_256: signing('pkcs1', 256),
  RSASSA_PKCS1_V1_5_SHA_384: signing('pkcs1', 384),
  RSASSA_PKCS1_V1_5_SHA_512: signing('pkcs1', 512),
  ECDSA_SHA_256: signing('ecdsa', 256),
  ECDSA_SHA_384: signing('ecdsa', 384),
  ECDSA_SHA_512: signing('ecdsa', 512),
  ED25519_SHA_512: signing('eddsa', 512, ['RAW']),
  ED25519_PH_SHA_512: signing('eddsa-prehashed', 512, ['DIGEST']),
}

/** The hash of RSAES-OAEP, for its mask too, and how many bytes of a modulus the padding takes (RFC 8017 7.1.1). */
export const oaepRows: Readonly<Record<OaepAlgorithm, { readonly hash: 'sha1' | 'sha256'; readonly paddingBytes: number }>> = {
  RSAES_OAEP_SHA_1: { hash: 'sha1', paddingBytes: 2 * 20 + 2 },
  RSAES_OAEP_SHA_256: { hash: 'sha256', paddingBytes: 2 * 32 + 2 },
}

/** @throws KmsError for more than RSA of the key's size can encrypt. */
export function checkOaepLength({ spec }: Pick<KeyRecord, 'spec'>, algorithm: OaepAlgorithm, plaintext: Uint8Array): void {
  const most = Number(spec.slice('RSA_'.length)) / 8 - oaepRows[algorithm].paddingBytes
  if (plaintext.length <= most) return
  throw kmsError('ValidationException', `Algorithm ${algorithm} and key spec ${spec} cannot encrypt data larger than ${most} bytes.`)
}

/** In the order in which AWS's messages list them. */
export const macAlgorithms = ['HMAC_SHA_384', 'HMAC_SHA_256', 'HMAC_SHA_224', 'HMAC_SHA_512'] as const satisfies readonly MacAlgorithm[]

/** @throws KmsError where a key of this spec and usage does not work so. */
export function checkAlgorithm(key: Pick<KeyRecord, 'spec' | 'usage'>, algorithm: string): void {
  if (!algorithmsOf(key).includes(algorithm)) {
    throw kmsError('InvalidKeyUsageException', `Algorithm ${algorithm} is incompatible with key spec ${key.spec}.`)
  }
}

// ---- data key pairs ----

/** In the order of AWS's model: whether this service makes such pairs for callers. The others OpenSSL, as Node has it, does not know. */
const pairSpecs = {
  RSA_2048: true,
  RSA_3072: true,
  RSA_4096: true,
  ECC_NIST_P256: true,
  ECC_NIST_P384: true,
  ECC_NIST_P521: true,
  ECC_SECG_P256K1: true,
  SM2: false,
  ECC_NIST_EDWARDS25519: true,
  ML_KEM_512: false,
  ML_KEM_768: false,
  ML_KEM_1024: false,
} as const

type PairSpec = keyof typeof pairSpecs
export type DataKeyPairSpec = { [S in PairSpec]: (typeof pairSpecs)[S] extends true ? S : never }[PairSpec]
export const pairSpecNames = Object.keys(pairSpecs) as readonly PairSpec[]

/** @throws KmsError for pairs that cannot be made here. */
export function checkPairSpec(spec: PairSpec): DataKeyPairSpec {
  if (!pairSpecs[spec]) throw kmsError('UnsupportedOperationException', `KeyPairSpec ${spec} is not supported.`)
  return spec as DataKeyPairSpec
}
