/**
 * Quotas: how fast an account may call, and how much it may have. AWS's published defaults ("Request quotas" and "Resource quotas" of the KMS
 * developer guide); STS and CloudTrail have one each. All of them are configuration.
 *
 * Request quotas are token buckets, one for each account, region and class of operations, that hold a second's worth. The processes of one service
 * share them (`Buckets`); several services on one database each allow the whole rate.
 */

import type { KeyRecord } from '../store/store.ts'
import { sharingQuota } from './cryptographic.ts'
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

function classOf(name: string, key: KeyRecord | undefined, keyPairSpec: unknown): string {
  if (sharingQuota.has(name)) {
    const spec = key?.spec ?? ''
    return spec.startsWith('RSA_') ? 'rsa' : spec.startsWith('ECC_') ? 'ecc' : 'symmetric'
  }
  return typeof keyPairSpec === 'string' ? `GenerateDataKeyPair ${keyPairSpec}` : name
}

/** Holds at most `capacity`, is full when it is made, and fills at `rate` a second. */
export class Bucket {
  readonly rate: number
  readonly #capacity: number
  #level: number
  #at: number
  constructor(rate: number, nowMs: number) {
    this.rate = rate
    // A rate below one a second must still let one through.
    this.#capacity = Math.max(1, rate)
    this.#level = this.#capacity
    this.#at = nowMs
  }
  /** Whether there was one to take. A clock that steps back fills nothing. */
  take(nowMs: number): boolean {
    this.#fill(nowMs)
    if (this.#level < 1) return false
    this.#level -= 1
    return true
  }
  /** What others took is gone, there or not: below nothing it is owed. */
  owe(taken: number, nowMs: number): void {
    this.#fill(nowMs)
    this.#level -= taken
  }
  /** How much it lacks to be full. */
  missing(nowMs: number): number {
    this.#fill(nowMs)
    return this.#capacity - this.#level
  }
  #fill(nowMs: number): void {
    this.#level = Math.min(this.#capacity, this.#level + (Math.max(0, nowMs - this.#at) / 1000) * this.rate)
    this.#at = nowMs
  }
}

/** What was taken from a bucket, for other processes. Plain data. */
export interface Taking {
  readonly name: string
  readonly rate: number
  readonly taken: number
}

interface Named {
  readonly name: string
  readonly bucket: Bucket
  /** Since the others were told. */
  taken: number
}

/**
 * Buckets by name, one for all processes of a service. Each process has every bucket whole, so that nobody waits for another process and a caller on one
 * connection has the whole rate; and each hears, a moment later, what was taken elsewhere, which is then missing here, too. So together they allow what
 * one would in the long run. In the first moment of a burst each may allow a bucketful; what that was too much is owed before anything more is allowed.
 */
export class Buckets {
  readonly #all = new Map<string, Named>()
  /** Those with something untold. */
  #untold: Named[] = []

  /** Takes one, if it is there. A bucket whose rate has changed is another one. */
  take(name: string, rate: number, nowMs: number): boolean {
    const named = this.#named(name, rate, nowMs)
    if (!named.bucket.take(nowMs)) return false
    if (named.taken === 0) this.#untold.push(named)
    named.taken += 1
    return true
  }

  /** What was taken here and has not been asked for yet. */
  takings(): readonly Taking[] {
    if (this.#untold.length === 0) return []
    const untold = this.#untold
    this.#untold = []
    return untold.map((named) => {
      const { name, bucket, taken } = named
      named.taken = 0
      return { name, rate: bucket.rate, taken }
    })
  }

  /** All that is missing, whoever took it: what a process that has just started has to hear. */
  missing(nowMs: number): readonly Taking[] {
    return [...this.#all.values()]
      .map(({ name, bucket }) => ({ name, rate: bucket.rate, taken: bucket.missing(nowMs) }))
      .filter(({ taken }) => taken > 0)
  }

  takenElsewhere(takings: readonly Taking[], nowMs: number): void {
    for (const { name, rate, taken } of takings) {
      // Of a rate that is no more, here or there, nothing is owed.
      const known = this.#all.get(name)
      if (!known || known.bucket.rate === rate) this.#named(name, rate, nowMs).bucket.owe(taken, nowMs)
    }
  }

  #named(name: string, rate: number, nowMs: number): Named {
    let named = this.#all.get(name)
    if (named?.bucket.rate !== rate) this.#all.set(name, (named = { name, bucket: new Bucket(rate, nowMs), taken: 0 }))
    return named
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

export function openThrottle(rates: RequestRates, buckets: Buckets): Throttle {
  const known = new Map(Object.entries(rates))
  // Accounts are made by the operator, so neither these nor the buckets can grow by a caller's will.
  const refused = new Map<string, { readonly accountId: string; readonly className: string; count: number }>()

  const take = (accountId: string, className: string, scope: string, nowMs: number, isKms = true): void => {
    const rate = known.get(className)
    if (rate === undefined || buckets.take(`${accountId} ${scope} ${className}`, rate, nowMs)) return
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
      if (!sharingQuota.has(operation.name)) return
      keys.forEach(({ customKeyStoreId: id, accountId }, at) => {
        if (id !== null && keys.findIndex((key) => key.customKeyStoreId === id) === at) take(accountId, 'customKeyStore', id, nowMs)
      })
    },
    throttled: () => [...refused.values()],
  }
}
