/**
 * Key specs: what a key of each can be for, and with which algorithms. AWS's tables "Key spec reference" and "Key type reference" as one; lists
 * are in AWS's order, in which they are answered.
 */

import type { Token, TokenKeyKind } from '../hsm/token.ts'
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

const oaep = ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256']
const rsaSignatures = [
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
    SIGN_VERIFY: { algorithms: ['ED25519_SHA_512', 'ED25519_PH_SHA_512'], kind: 'ECC_NIST_EDWARDS25519 SIGN_VERIFY' },
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

const noMechanism = (spec: string): KmsError =>
  kmsError('UnsupportedOperationException', `KeySpec ${spec} is not supported: the connected token has no mechanism for it.`)

/** Only these encrypt with AES-GCM in the token, rotate, and show which material they use. */
export const isSymmetric = (key: Pick<KeyRecord, 'spec'>): boolean => key.spec === 'SYMMETRIC_DEFAULT'
