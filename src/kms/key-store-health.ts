/**
 * How the proxies of connected external key stores are: each is asked for its health now and then (`KmsHealthCheck`), as AWS KMS asks them for its
 * metrics. What is found is shown and logged when it changes. It connects and disconnects nothing: as at AWS a key store stays CONNECTED while
 * its proxy is away, and its keys work as soon as that is back.
 */

import { randomUUID } from 'node:crypto'
import type { KeyStoreRecord } from '../store/store.ts'
import { XksError, type ProxySettings, type XksClient } from '../xks/client.ts'
import type { Health } from '../xks/protocol.ts'
import type { Service } from './service.ts'

export const managerStates = ['ACTIVE', 'DEGRADED', 'UNAVAILABLE'] as const

export interface KeyStoreHealth {
  readonly keyStore: Pick<KeyStoreRecord, 'id' | 'accountId' | 'region'>
  /** Whether the proxy answered, and has a key manager that serves. */
  readonly isServing: boolean
  /** How many external key managers it said to be in each state; undefined where it did not say. */
  readonly managers: Readonly<Record<(typeof managerStates)[number], number>> | undefined
}

interface KeyStoreWatch {
  /** Asks all that are connected, if it is time to. In the background: a proxy that hangs holds up nothing. */
  lookWhenDue(): void
  /** What the last look found. */
  read(): readonly KeyStoreHealth[]
  /** Resolves when nobody is being asked. */
  close(): Promise<void>
}

/** Asks every `intervalMs`; with 0 never. */
export function openKeyStoreWatch(
  service: () => Pick<Service, 'store' | 'clock' | 'log'>,
  options: {
    readonly xks: Pick<XksClient, 'health'>
    readonly proxyOf: (keyStore: KeyStoreRecord) => Promise<ProxySettings>
    readonly intervalMs: number
  },
): KeyStoreWatch {
  const { xks, proxyOf, intervalMs } = options
  let found = new Map<string, KeyStoreHealth>()

  const ask = async (keyStore: KeyStoreRecord): Promise<KeyStoreHealth> => {
    const { id, accountId, region } = keyStore
    const before = found.get(id)
    const told = (health: Health | undefined, isServing: boolean): KeyStoreHealth => ({
      keyStore: { id, accountId, region },
      isServing,
      managers: health && counted(health),
    })
    try {
      const about = { kmsRequestId: randomUUID(), kmsOperation: 'KmsHealthCheck' }
      const now = told(await xks.health(await proxyOf(keyStore), about), true)
      if (before?.isServing === false) service().log.info({ keyStore: id }, 'the proxy of a connected external key store serves again')
      return now
    } catch (error) {
      const about = error instanceof XksError ? { failure: error.failure, reason: error.message } : { err: error }
      if (before?.isServing !== false)
        service().log.warn({ keyStore: id, ...about }, 'the proxy of a connected external key store does not serve')
      return told(error instanceof XksError ? error.health : undefined, false)
    }
  }

  /** Never rejects. */
  const look = async (): Promise<void> => {
    const connected = service()
      .store.view.allKeyStores()
      .filter(({ state, backing }) => state === 'CONNECTED' && backing.type === 'EXTERNAL_KEY_STORE')
    const results = await Promise.all(connected.map(ask))
    found = new Map(results.map((health) => [health.keyStore.id, health]))
  }

  let lookedAt: number | undefined
  const looking = new Set<Promise<void>>()
  return {
    lookWhenDue() {
      const now = service().clock.now()
      // From the first round on: who connected it asked just then.
      lookedAt ??= now
      if (intervalMs === 0 || now - lookedAt < intervalMs) return
      lookedAt = now
      const task = look().finally(() => looking.delete(task))
      looking.add(task)
    },
    read: () => [...found.values()],
    async close() {
      await Promise.all(looking)
    },
  }
}

function counted({ ekmFleetDetails }: Health): NonNullable<KeyStoreHealth['managers']> {
  const of = (state: string): number => ekmFleetDetails.filter(({ healthStatus }) => healthStatus === state).length
  return { ACTIVE: of('ACTIVE'), DEGRADED: of('DEGRADED'), UNAVAILABLE: of('UNAVAILABLE') }
}
