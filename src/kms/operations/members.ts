/** Members that several operations share, with the bounds of AWS's model. */

import { boolean, list, oneOf, optional, string, structure } from '../shape.ts'

/** In the order of AWS's model. The deprecated member CustomerMasterKeySpec knows these and no newer ones. */
export const customerMasterKeySpecs = [
  'RSA_2048',
  'RSA_3072',
  'RSA_4096',
  'ECC_NIST_P256',
  'ECC_NIST_P384',
  'ECC_NIST_P521',
  'ECC_SECG_P256K1',
  'SYMMETRIC_DEFAULT',
  'HMAC_224',
  'HMAC_256',
  'HMAC_384',
  'HMAC_512',
  'SM2',
] as const

export const keySpecs = [
  ...customerMasterKeySpecs,
  'ML_DSA_44',
  'ML_DSA_65',
  'ML_DSA_87',
  'ECC_NIST_EDWARDS25519',
  'ML_KEM_512',
  'ML_KEM_768',
  'ML_KEM_1024',
] as const

type KeySpec = (typeof keySpecs)[number]

export const keyUsages = ['SIGN_VERIFY', 'ENCRYPT_DECRYPT', 'GENERATE_VERIFY_MAC', 'KEY_AGREEMENT', 'ENCAPSULATE_DECAPSULATE'] as const
type KeyUsage = (typeof keyUsages)[number]

/** What a key of a spec can be made for: AWS's table "Key spec reference". */
export const usagesBySpec: Readonly<Record<KeySpec, readonly KeyUsage[]>> = {
  RSA_2048: ['ENCRYPT_DECRYPT', 'SIGN_VERIFY'],
  RSA_3072: ['ENCRYPT_DECRYPT', 'SIGN_VERIFY'],
  RSA_4096: ['ENCRYPT_DECRYPT', 'SIGN_VERIFY'],
  ECC_NIST_P256: ['SIGN_VERIFY', 'KEY_AGREEMENT'],
  ECC_NIST_P384: ['SIGN_VERIFY', 'KEY_AGREEMENT'],
  ECC_NIST_P521: ['SIGN_VERIFY', 'KEY_AGREEMENT'],
  ECC_SECG_P256K1: ['SIGN_VERIFY'],
  SYMMETRIC_DEFAULT: ['ENCRYPT_DECRYPT'],
  HMAC_224: ['GENERATE_VERIFY_MAC'],
  HMAC_256: ['GENERATE_VERIFY_MAC'],
  HMAC_384: ['GENERATE_VERIFY_MAC'],
  HMAC_512: ['GENERATE_VERIFY_MAC'],
  SM2: ['ENCRYPT_DECRYPT', 'SIGN_VERIFY', 'KEY_AGREEMENT'],
  ML_DSA_44: ['SIGN_VERIFY'],
  ML_DSA_65: ['SIGN_VERIFY'],
  ML_DSA_87: ['SIGN_VERIFY'],
  ECC_NIST_EDWARDS25519: ['SIGN_VERIFY'],
  ML_KEM_512: ['ENCAPSULATE_DECAPSULATE'],
  ML_KEM_768: ['ENCAPSULATE_DECAPSULATE'],
  ML_KEM_1024: ['ENCAPSULATE_DECAPSULATE'],
}

export const encryptionAlgorithm = oneOf('SYMMETRIC_DEFAULT', 'RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256', 'SM2PKE')
export const grantTokens = optional(list(string({ min: 1, max: 8192 }), { max: 10 }))
export const dryRun = optional(boolean)
export const marker = optional(string({ min: 1, max: 1024, pattern: /[\u0020-\u00FF]*/ }))
/** Far above what a key can have, so that it is the quota that speaks; low enough for policies that look through all of them. */
export const maxTagsGiven = 1000
export const tagList = list(structure({ TagKey: string({ min: 1, max: 128 }), TagValue: string({ max: 256 }) }), { max: maxTagsGiven })
export const policyText = string({ min: 1, max: 131072, pattern: /[\u0009\u000A\u000D\u0020-\u00FF]+/ })
