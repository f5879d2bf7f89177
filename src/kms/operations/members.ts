/** Members that several operations share, with the bounds of AWS's model. */

import { keySpecs } from '../specs.ts'
import { boolean, integer, list, oneOf, optional, string, structure } from '../shape.ts'

/** The deprecated member CustomerMasterKeySpec knows these and no newer ones, in the order of AWS's model. */
export const customerMasterKeySpecs = keySpecs.slice(0, keySpecs.indexOf('SM2') + 1)

export const encryptionAlgorithm = oneOf('SYMMETRIC_DEFAULT', 'RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256', 'SM2PKE')
/** Whoever reads the trail is not to name grants by it, so messages, which are recorded, do not show it either. */
export const grantToken = string({ min: 1, max: 8192, secret: true })
export const grantTokens = optional(list(grantToken, { max: 10 }))
export const dryRun = optional(boolean)
export const marker = optional(string({ min: 1, max: 1024, pattern: /[\u0020-\u00FF]*/ }))
/** What asks for a page of a listing. */
export const listing = { Limit: optional(integer({ min: 1, max: 1000 })), Marker: marker } as const
/** Of users and roles, as in IAM. */
export const principalName = string({ min: 1, max: 64, pattern: /[\w+=,.@-]+/ })
/** Far above what a key can have, so that it is the quota that speaks; low enough for policies that look through all of them. */
export const maxTagsGiven = 1000
export const tagList = list(structure({ TagKey: string({ min: 1, max: 128 }), TagValue: string({ max: 256 }) }), { max: maxTagsGiven })
export const policyText = string({ min: 1, max: 131072, pattern: /[\u0009\u000A\u000D\u0020-\u00FF]+/ })

/** What signs for a store of an XKS proxy, with the bounds of AWS's API and of the proxy's specification. */
export const xksCredential = structure({
  AccessKeyId: string({ min: 20, max: 30, pattern: /^[A-Z2-7]+$/, secret: true }),
  RawSecretAccessKey: string({ min: 43, max: 64, pattern: String.raw`^[a-zA-Z0-9\/+=]+$`, secret: true }),
})
