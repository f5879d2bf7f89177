/** The service: what every operation may reach, opened once, closed once. A plain record; whoever needs a part takes it from here. */

import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import type { Trail } from '../audit/trail.ts'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { Metrics } from '../base/metrics.ts'
import type { Spans } from '../base/spans.ts'
import { TokenError, type Token } from '../hsm/token.ts'
import type { InstanceRecord, KeyRecord, Store } from '../store/store.ts'
import { openBudget, type Budget, type BudgetLimits } from './budget.ts'
import { openGrantTokens, type GrantTokens } from './grant-tokens.ts'
import { openIdentities, type Identities } from './identity.ts'
import { openManagedKeys, type AwsServices, type ManagedKeys } from './managed-keys.ts'
import { Buckets, openThrottle, type RequestRates, type ResourceQuotas, type Throttle } from './quotas.ts'
import { openKeyStores, type KeyStoreRooms, type KeyStores } from './connected-key-stores.ts'
import { isKeyStoreId } from './key-stores.ts'
import { deadInstances, startLifecycle } from './lifecycle.ts'
import { bindStoredPolicies } from './policy-principals.ts'
import { openStrangers, type Strangers } from './strangers.ts'
import { openUsage, type Usage, type UsageSettings } from './usage.ts'
import type { DataKeyPairSpec } from './specs.ts'
import { openXksClient, xksDeadlineMs } from '../xks/client.ts'
import { openServiceKey, type ServiceKey } from './service-key.ts'
import type { SystemKey } from './system-keys.ts'

export interface ServiceConfig {
  /** The first is home. */
  readonly regions: readonly string[]
  /** The account that is made at the first start; only its root administers accounts. */
  readonly accountId: string
  readonly lifecycleIntervalMs: number
  readonly budget: BudgetLimits
  /** Of the service key; the standard one unless given. */
  readonly sealBudget?: BudgetLimits
  /** Requests a second by class; what is not named is not limited. */
  readonly requestRates: RequestRates
  readonly quotas: ResourceQuotas
  /** Who counts as a service of AWS, for its managed keys and `kms:ViaService`. */
  readonly awsServices: AwsServices
  readonly usage: UsageSettings
}

/** Software's slow work, done by threads that are not ours. All throw Busy when too much waits for them. */
export interface Offload {
  /** A new key pair, PKCS#8 and SubjectPublicKeyInfo, DER; The caller wipes the private key. */
  keyPair(spec: DataKeyPairSpec): Promise<{ readonly privateKey: Buffer; readonly publicKey: Buffer }>
  /** Whether r and s sign the digest for the public point; all as long as the curve's coordinates, the digest at most. */
  isEcdsaSignature(question: Readonly<Record<'x' | 'y' | 'digest' | 'r' | 's', Buffer> & { readonly curve: string }>): Promise<boolean>
  /** The public key's 32 bytes, SHA-512 of the message. */
  isEd25519phSignature(question: Readonly<Record<'publicKey' | 'digest' | 'signature', Buffer>>): Promise<boolean>
}

export interface Service {
  readonly config: ServiceConfig
  /** The home token: the service's own keys, random bytes. */
  readonly token: Token
  /** The token that holds a key's material. @throws TokenError `unavailable` when the configuration has no token of that name. */
  tokenOf(key: Pick<KeyRecord, 'token'>): Token
  /** The name of the token that a region's new keys are made in. */
  readonly tokenName: (region: string) => string
  readonly store: Store
  readonly trail: Trail
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
  readonly instance: Omit<InstanceRecord, 'heartbeatAt'>
  /** CKA_IDs that this process is making right now; what is unfinished and not in here is a leftover. */
  readonly making: Set<string>
  readonly budget: Budget
  readonly usage: Usage
  /** Of all quotas of requests, those of XKS stores too. */
  readonly buckets: Buckets
  readonly throttle: Throttle
  readonly strangers: Strangers
  readonly identities: Identities
  readonly keyStores: KeyStores
  readonly managedKeys: ManagedKeys
  /** Makes and reads the tokens that name grants. */
  readonly grantTokens: GrantTokens
  readonly offload: Offload
  /** Only in a service that the bench measures. */
  readonly spans?: Spans
  /** Encrypts access key secrets and session tokens. */
  readonly serviceKey: ServiceKey
  /** Signs attestations; the same key seals the audit trail. */
  readonly auditKey: SystemKey
  /** Looks for due work now and waits for it; the timer does the same. */
  runLifecycle(): Promise<void>
  /** Stops the jobs and leaves the list of instances. Token, store and trail belong to who opened them. */
  close(): Promise<void>
}

/** What is opened before the service; who opened it (rooms.ts) closes it after the service. */
export interface Foundations {
  readonly config: ServiceConfig
  readonly token: Token
  /** By name, the home token among them as `default`; by default there is no other. */
  readonly tokens?: ReadonlyMap<string, Token>
  /** The name of each region's token, where it is not home. */
  readonly regionTokens?: ReadonlyMap<string, string>
  /** What custom key stores may be connected to; by default any external key manager and no token. */
  readonly keyStoreRooms?: KeyStoreRooms
  readonly store: Store
  readonly trail: Trail
  readonly offload: Offload
  readonly spans?: Spans
  readonly auditKey: SystemKey
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
}

/**
 * Makes or finds the service's own key, finishes or undoes what an earlier process left half done, then starts the jobs.
 * @throws when the token does not show a service key that the store knows: it is the wrong token, or has lost its objects.
 */
export async function openService(foundations: Foundations): Promise<Service> {
  const { store, clock } = foundations
  const tokens = foundations.tokens ?? new Map([['default', foundations.token]])
  const keyStoreRooms = foundations.keyStoreRooms ?? {
    keyStoreTokens: new Map(),
    xks: openXksClient({ connectTo: new Map(), deadlineMs: xksDeadlineMs, clock }),
  }
  const instance = { id: randomUUID(), host: hostname(), pid: process.pid }
  const serviceKey = await openServiceKey(foundations, foundations.config.sealBudget)
  await store.heartbeat({ ...instance, heartbeatAt: clock.now() })
  await bindStoredPolicies(store, instance.id, (await deadInstances({ store, instance, clock })).others)

  const buckets = new Buckets()
  const usage = await openUsage(foundations, foundations.config.usage)
  const service: Service = {
    ...foundations,
    tokenOf({ token: name }) {
      // The material of a key in a custom key store is in what that is connected to.
      const token = tokens.get(name) ?? (isKeyStoreId(name) ? service.keyStores.tokenOf(name) : undefined)
      if (!token) throw new TokenError('unavailable', `the key is in the token ${name}, which is not configured`)
      return token
    },
    tokenName: (region) => foundations.regionTokens?.get(region) ?? 'default',
    instance,
    serviceKey,
    making: new Set(),
    budget: openBudget(() => service, foundations.config.budget, foundations.metrics),
    usage,
    buckets,
    throttle: openThrottle(foundations.config.requestRates, buckets),
    strangers: openStrangers({ ...foundations, region: foundations.config.regions[0] ?? '' }),
    identities: openIdentities(() => service),
    managedKeys: openManagedKeys(() => service, foundations.config.awsServices),
    keyStores: openKeyStores(() => service, keyStoreRooms),
    grantTokens: await openGrantTokens({ ...foundations, serviceKey }),
    runLifecycle: () => lifecycle.run(),
    async close() {
      await lifecycle.stop()
      await service.strangers.close()
      await service.budget.close()
      await service.keyStores.close()
      await usage.close()
      await store.removeInstance(instance.id)
    },
  }
  const lifecycle = startLifecycle(service)
  try {
    await lifecycle.run()
  } catch (error) {
    await service.close().catch(() => undefined)
    throw error
  }
  foundations.metrics.total('holdfast_throttled_total', 'Calls turned away because an account was over its request quota.', () =>
    service.throttle
      .throttled()
      .map(({ accountId, className, count }) => ({ labels: { account: accountId, class: className }, value: count })),
  )
  foundations.metrics.gauge('holdfast_keys', 'Keys in the store.', () => store.view.keyCount(), 'max')
  return service
}
