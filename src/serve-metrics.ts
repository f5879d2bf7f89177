/** What the metrics page shows of the rooms of a service: read from them at each scrape, or counted as they tell. Part of the wiring. */

import type { Trail } from './audit/trail.ts'
import { systemClock } from './base/clock.ts'
import type { Metrics, Sample } from './base/metrics.ts'
import type { Token, TokenHealth } from './hsm/token.ts'
import type { Listener } from './http/server.ts'
import { standardBudget } from './kms/budget.ts'
import { managerStates, type KeyStoreHealth } from './kms/key-store-health.ts'
import type { Service } from './kms/service.ts'
import type { Store } from './store/store.ts'

/** Counts calls to the proxies of external key stores. */
export function watchProxies(metrics: Metrics): (outcome: string, seconds: number) => void {
  const counts = new Map<string, number>()
  metrics.total('holdfast_xks_calls_total', 'Calls to the proxies of external key stores, by how they ended (ok for success).', () =>
    [...counts].map(([kind, value]) => ({ labels: { kind }, value })),
  )
  const observe = metrics.seconds(
    'holdfast_xks_call_seconds',
    'How long calls to the proxies of external key stores took, with a second try.',
  )
  return (outcome, seconds) => {
    counts.set(outcome, (counts.get(outcome) ?? 0) + 1)
    observe(seconds)
  }
}

/** What the proxies of connected external key stores said of their health: AWS's XksExternalKeyManagerStates. */
export function watchKeyStores(metrics: Metrics, { keyStores }: Pick<Service, 'keyStores'>): void {
  const labelsOf = ({ keyStore: { id, accountId, region } }: KeyStoreHealth) => ({ store: id, account: accountId, region })
  metrics.gauge(
    'holdfast_xks_up',
    '1 if the proxy of a connected external key store served when it was last asked for its health.',
    () => keyStores.health().map((health) => ({ labels: labelsOf(health), value: health.isServing ? 1 : 0 })),
    'min',
  )
  metrics.gauge(
    'holdfast_xks_key_managers',
    'External key managers behind a proxy, by the state that it said they were in.',
    () =>
      keyStores.health().flatMap((health) => {
        const { managers } = health
        return managers ? managerStates.map((state) => ({ labels: { ...labelsOf(health), state }, value: managers[state] })) : []
      }),
    'max',
  )
}

/** Metrics of what is, read at each scrape. */
export function watchRooms(
  metrics: Metrics,
  rooms: {
    readonly tokens: ReadonlyMap<string, Token>
    readonly store: Store
    readonly trail: Pick<Trail, 'pending' | 'sealed'>
    readonly main: Listener
    readonly calls: () => number
  },
): void {
  const { tokens, store, trail, main, calls } = rooms
  const perToken = (read: (health: TokenHealth) => number) => (): readonly Sample[] =>
    [...tokens].map(([name, token]) => ({ labels: { token: name }, value: read(token.health()) }))
  metrics.gauge('holdfast_calls_under_way', 'Calls between their first byte and their answer.', calls)
  metrics.gauge('holdfast_connections', 'Open connections on the main port.', () => main.connections())
  metrics.total('holdfast_connections_sent_away_total', 'Connections on the main port that had to go to make room for others.', () =>
    main.sentAway(),
  )
  const up = perToken(({ state }) => (state === 'up' ? 1 : 0))
  metrics.gauge('holdfast_token_up', '1 while the token answers, by its last call.', up, 'min')
  metrics.gauge(
    'holdfast_token_queue',
    'Calls that wait for the device or are under way in it.',
    perToken(({ queued }) => queued),
  )
  metrics.gauge(
    'holdfast_token_sessions',
    'Sessions at work on the device.',
    perToken(({ sessions }) => sessions),
  )
  metrics.total(
    'holdfast_token_respawns_total',
    'How often the process that talks to the device was replaced.',
    perToken(({ respawns }) => respawns),
  )
  metrics.total(
    'holdfast_token_calls_total',
    'Calls that the device was given, by what it was asked for; custom key stores not among them.',
    () =>
      [...tokens].flatMap(([name, token]) =>
        [...token.asked()].map(([operation, value]) => ({ labels: { token: name, operation }, value })),
      ),
  )
  metrics.gauge('holdfast_audit_pending', 'Audit records that are not durable yet.', () => trail.pending())
  // Without the trail there is no number; the rest of the page is shown.
  const sealed = () => trail.sealed().catch(() => undefined)
  metrics.gauge(
    'holdfast_audit_unsealed',
    'Audit records since the last seal, of all processes on the trail.',
    async () => (await sealed())?.unsealed,
    'max',
  )
  const sealAge = async (): Promise<number | undefined> => {
    const lastSealMs = (await sealed())?.lastSealMs
    return lastSealMs === undefined ? undefined : (systemClock.now() - lastSealMs) / 1000
  }
  metrics.gauge('holdfast_audit_last_seal_age_seconds', 'How long ago the audit trail was last sealed.', sealAge, 'max')
  metrics.gauge(
    'holdfast_gcm_budget_share',
    'The highest share of its budget of encryptions that a current backing key has used; it is rotated at 0.5, and refused at 1.',
    () => (mostUsed(store, 1)[0]?.encryptionsReserved ?? 0) / standardBudget.ceiling,
    'max',
  )
  metrics.gauge(
    'holdfast_gcm_encryptions_reserved',
    'Encryptions reserved under the current backing key, for the ten keys with the most.',
    () => mostUsed(store, 10).map(({ keyArn, encryptionsReserved }) => ({ labels: { key: keyArn }, value: encryptionsReserved })),
    'max',
  )
}

function mostUsed(store: Store, limit: number): readonly { readonly keyArn: string; readonly encryptionsReserved: number }[] {
  const used: { readonly keyArn: string; readonly encryptionsReserved: number }[] = []
  for (const { arn, materialId } of store.view.allKeys()) {
    const backing = materialId === null ? undefined : store.view.backingKey(arn, materialId)
    if (!backing || (backing.encryptionsReserved <= (used.at(-1)?.encryptionsReserved ?? -1) && used.length === limit)) continue
    used.push(backing)
    used.sort((a, b) => b.encryptionsReserved - a.encryptionsReserved)
    used.length = Math.min(used.length, limit)
  }
  return used
}
