/**
 * Quotas: how fast an account may call, and how much it may have. AWS's published defaults ("Request quotas" and "Resource quotas" of the KMS
 * developer guide); STS and CloudTrail have one each. All of them are configuration.
 *
 * Request quotas are token buckets, one for each account, region and class of operations, that hold a second's worth. They are kept in this
 * process: several instances on one database each allow the whole rate.
 */

import type { KeyRecord } from '../store/store.ts'
import { kmsError } from './errors.ts'
import type { Call } from './operation.ts'

/** What a region of an account may have. */
export interface ResourceQuotas {
  readonly keys: number
  readonly aliasesPerKey: number
  readonly grantsPerKey: number
  readonly policyBytes: number
  readonly tagsPerKey: number
  readonly customKeyStores: number
  readonly onDemandRotations: number
}

export const standardResources: ResourceQuotas = {
  keys: 100_000,
  aliasesPerKey: 50,
  grantsPerKey: 50_000,
  policyBytes: 32_768,
  tagsPerKey: 50,
  customKeyStores: 10,
  onDemandRotations: 25,
}

/** Requests a second by class. What has no rate is not limited. */
export type RequestRates = Readonly<Record<string, number>>

/** Cryptographic operations share a quota by the type of the key; data key pairs have one for each spec; the rest have their own. */
export const standardRates: RequestRates = {
  symmetric: 10_000,
  rsa: 1000,
  ecc: 1000,
  customKeyStore: 1800,
  'GenerateDataKeyPair ECC_NIST_EDWARDS25519': 100,
  'GenerateDataKeyPair ECC_NIST_P256': 100,
  'GenerateDataKeyPair ECC_NIST_P384': 100,
  'GenerateDataKeyPair ECC_NIST_P521': 100,
  'GenerateDataKeyPair ECC_SECG_P256K1': 100,
  'GenerateDataKeyPair RSA_2048': 1,
  'GenerateDataKeyPair RSA_3072': 0.5,
  'GenerateDataKeyPair RSA_4096': 0.1,
  CancelKeyDeletion: 5,
  ConnectCustomKeyStore: 5,
  CreateAlias: 5,
  CreateCustomKeyStore: 5,
  CreateGrant: 50,
  CreateKey: 5,
  DeleteAlias: 15,
  DeleteCustomKeyStore: 5,
  DeleteImportedKeyMaterial: 15,
  DescribeCustomKeyStores: 5,
  DescribeKey: 2000,
  DisableKey: 5,
  DisableKeyRotation: 5,
  DisconnectCustomKeyStore: 5,
  EnableKey: 5,
  EnableKeyRotation: 15,
  GetKeyPolicy: 1000,
  GetKeyRotationStatus: 1000,
  GetParametersForImport: 0.25,
  GetPublicKey: 2000,
  ImportKeyMaterial: 15,
  ListAliases: 500,
  ListGrants: 100,
  ListKeyPolicies: 100,
  ListKeyRotations: 100,
  ListKeys: 500,
  ListResourceTags: 2000,
  ListRetirableGrants: 100,
  PutKeyPolicy: 15,
  ReplicateKey: 5,
  RetireGrant: 50,
  RevokeGrant: 50,
  RotateKeyOnDemand: 5,
  ScheduleKeyDeletion: 15,
  TagResource: 10,
  UntagResource: 5,
  UpdateAlias: 5,
  UpdateCustomKeyStore: 5,
  UpdateKeyDescription: 5,
  UpdatePrimaryRegion: 5,
  // CloudTrail's quota.
  LookupEvents: 2,
  // AWS gives it to the operations of STS together; this is the one here that makes something.
  AssumeRole: 600,
}

const cryptographic: ReadonlySet<string> = new Set([
  'Decapsulate',
  'Decrypt',
  'DeriveSharedSecret',
  'Encapsulate',
  'Encrypt',
  'GenerateDataKey',
  'GenerateDataKeyWithoutPlaintext',
  'GenerateMac',
  'GenerateRandom',
  'ReEncrypt',
  'Sign',
  'Verify',
  'VerifyMac',
])

function classOf(name: string, key: KeyRecord | undefined, keyPairSpec: unknown): string {
  if (cryptographic.has(name)) {
    const spec = key?.spec ?? ''
    return spec.startsWith('RSA_') ? 'rsa' : spec.startsWith('ECC_') ? 'ecc' : 'symmetric'
  }
  return typeof keyPairSpec === 'string' ? `GenerateDataKeyPair ${keyPairSpec}` : name
}

/** Holds at most `capacity`, is full when it is made, and fills at `rate` a second. */
export class Bucket {
  readonly #rate: number
  readonly #capacity: number
  #level: number
  #at: number
  constructor(rate: number, nowMs: number) {
    this.#rate = rate
    // A rate below one a second must still let one through.
    this.#capacity = Math.max(1, rate)
    this.#level = this.#capacity
    this.#at = nowMs
  }
  /** Whether there was one to take. A clock that steps back fills nothing. */
  take(nowMs: number): boolean {
    this.#level = Math.min(this.#capacity, this.#level + (Math.max(0, nowMs - this.#at) / 1000) * this.#rate)
    this.#at = nowMs
    if (this.#level < 1) return false
    this.#level -= 1
    return true
  }
}

export interface Throttle {
  /**
   * Charges a call to its caller's account, whosever the key is (developer guide, "Cross-account requests").
   * @param keys that the caller may use, the one that the call is counted by first; of a call that was refused none
   * @throws KmsError ThrottlingException
   */
  charge(call: Call, keys: readonly KeyRecord[]): void
  /** How many calls were turned away, by account and class. */
  throttled(): readonly { readonly accountId: string; readonly className: string; readonly count: number }[]
}

export function openThrottle(rates: RequestRates): Throttle {
  const known = new Map(Object.entries(rates))
  // Accounts are made by the operator, so these cannot grow by a caller's will.
  const accounts = new Map<string, Map<string, Bucket>>()
  const refused = new Map<string, { readonly accountId: string; readonly className: string; count: number }>()

  const bucketOf = (accountId: string, name: string, rate: number, nowMs: number): Bucket => {
    let buckets = accounts.get(accountId)
    if (!buckets) accounts.set(accountId, (buckets = new Map()))
    let bucket = buckets.get(name)
    if (!bucket) buckets.set(name, (bucket = new Bucket(rate, nowMs)))
    return bucket
  }

  const take = (accountId: string, className: string, scope: string, nowMs: number, isKms = true): void => {
    const rate = known.get(className)
    if (rate === undefined || bucketOf(accountId, `${scope} ${className}`, rate, nowMs).take(nowMs)) return
    const who = `${accountId} ${className}`
    const counted = refused.get(who)
    if (counted) counted.count += 1
    else refused.set(who, { accountId, className, count: 1 })
    throw kmsError(
      'ThrottlingException',
      isKms ? 'You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.' : 'Rate exceeded',
    )
  }

  return {
    charge({ operation, principal, region, input, service }, keys) {
      // Not when the call came: one whose body was slow to arrive would set the bucket back, and the next call would fill it again.
      const nowMs = service.clock.now()
      take(
        principal.accountId,
        classOf(operation.name, keys[0], input['KeyPairSpec']),
        region,
        nowMs,
        operation.eventSource === 'kms.amazonaws.com',
      )
      // What stands behind a key store has a limit of its own, whoever its callers are.
      if (!cryptographic.has(operation.name)) return
      keys.forEach(({ customKeyStoreId: id, accountId }, at) => {
        if (id !== null && keys.findIndex((key) => key.customKeyStoreId === id) === at) take(accountId, 'customKeyStore', id, nowMs)
      })
    },
    throttled: () => [...refused.values()],
  }
}
