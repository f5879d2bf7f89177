/** The service: what every operation may reach, opened once, closed once. A plain record; whoever needs a part takes it from here. */

import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import type { Trail } from '../audit/trail.ts'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { Metrics } from '../base/metrics.ts'
import type { Token } from '../hsm/token.ts'
import type { InstanceRecord, KeyRecord, Store } from '../store/store.ts'
import { openBudget, type Budget, type BudgetLimits } from './budget.ts'
import { openIdentities, type Identities } from './identity.ts'
import { startLifecycle } from './lifecycle.ts'
import { ensureSystemKey, type SystemKey } from './system-keys.ts'

export interface ServiceConfig {
  /** The first is home. */
  readonly regions: readonly string[]
  /** The account that is made at the first start; only its root administers accounts. */
  readonly accountId: string
  readonly lifecycleIntervalMs: number
  readonly budget: BudgetLimits
}

export interface Service {
  readonly config: ServiceConfig
  /** The home token: the service's own keys, random bytes. */
  readonly token: Token
  /** The token that holds a key's material. */
  tokenOf(key: Pick<KeyRecord, 'region'>): Token
  readonly store: Store
  readonly trail: Trail
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
  readonly instance: Omit<InstanceRecord, 'heartbeatAt'>
  /** CKA_IDs that this process is making right now; what is unfinished and not in here is a leftover. */
  readonly making: Set<string>
  readonly budget: Budget
  readonly identities: Identities
  /** Encrypts access key secrets and session tokens. */
  readonly serviceKey: SystemKey
  /** Signs attestations; the same key seals the audit trail. */
  readonly auditKey: SystemKey
  /** Looks for due work now and waits for it; the timer does the same. */
  runLifecycle(): Promise<void>
  /** Stops the jobs and leaves the list of instances. Token, store and trail belong to who opened them. */
  close(): Promise<void>
}

/** What is opened before the service: main.ts owns these and closes them after it. */
export interface Foundations {
  readonly config: ServiceConfig
  readonly token: Token
  readonly store: Store
  readonly trail: Trail
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
  const instance = { id: randomUUID(), host: hostname(), pid: process.pid }
  const serviceKey = await ensureSystemKey(foundations, 'service', 'wrapping')
  await store.heartbeat({ ...instance, heartbeatAt: clock.now() })

  const service: Service = {
    ...foundations,
    tokenOf: () => foundations.token,
    instance,
    serviceKey,
    making: new Set(),
    budget: openBudget(() => service, foundations.config.budget, foundations.metrics),
    identities: openIdentities(() => service),
    runLifecycle: () => lifecycle.run(),
    async close() {
      await lifecycle.stop()
      await service.budget.close()
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
  foundations.metrics.gauge('holdfast_keys', 'Keys in the store.', () => store.view.keyCount())
  return service
}
