/**
 * GetHealthStatus, from what was seen: every token does real crypto on its canary key, which no KMS key is, every `lookEveryMs`, and the call
 * itself waits for no device. What a look has found is told for 20 s at most; a token whose looks end no more is UNAVAILABLE after that.
 *
 * ACTIVE: the last look was quick and nothing was wrong for a minute. DEGRADED: it serves, but a look was slow or failed, or the process that
 * talks to it was replaced, within that minute. UNAVAILABLE: the last look failed, or nobody is there to be asked now.
 */

import type { Clock } from '../../base/clock.ts'
import type { Log } from '../../base/log.ts'
import { within } from '../../base/within.ts'
import type { Token } from '../../hsm/token.ts'
import type { Health } from '../../xks/protocol.ts'

/** GetHealthStatus' answer, from a round trip on the canary key that is at most 20 s old. Never throws: what cannot be reached is UNAVAILABLE. */
export type HealthSource = () => Promise<Health>

export interface HealthOptions {
  /** By name; each is an entry of the answer, up to ten. */
  readonly tokens: ReadonlyMap<string, Token>
  /** How many processes serve from this store. */
  readonly fleetSize: () => Promise<number>
  /** `Holdfast 1.2.3` */
  readonly product: string
  readonly clock: Clock
  readonly log: Log
  /** Above it a look is slow. */
  readonly slowMs: number
  readonly lookEveryMs?: number
}

export interface XksHealth {
  readonly read: HealthSource
  close(): Promise<void>
}

type Status = 'ACTIVE' | 'DEGRADED' | 'UNAVAILABLE'

const toldForMs = 20_000
const rememberedForMs = 60_000
/** A look that takes longer has failed: AWS KMS would have gone long before. */
const lookTimeoutMs = 5000
const maxEntries = 10

export function openXksHealth(options: HealthOptions): XksHealth {
  const { clock, log, product, fleetSize, lookEveryMs = 10_000 } = options
  const watched = [...options.tokens].map(([name, token]) => new Watched(name, token, options))
  let size = 1
  let looking: Promise<void> | undefined
  const lookAtAll = async (): Promise<void> => {
    const counting = fleetSize().then(
      (count) => void (size = Math.max(1, count)),
      (error: unknown) => log.warn({ err: error }, 'the instances could not be counted'),
    )
    await Promise.all([counting, ...watched.map((each) => each.look())])
  }
  const look = (): Promise<void> => (looking ??= lookAtAll().finally(() => (looking = undefined)))
  void look()
  const timer = setInterval(() => void look(), lookEveryMs)
  timer.unref()

  return {
    async read(): Promise<Health> {
      // Only the first time, right after the start.
      if (watched.some(({ lookedAt }) => lookedAt === undefined)) await look()
      const now = clock.now()
      const entries = watched.map((each) => ({ id: each.name, ...each.describe(), healthStatus: each.status(now) }))
      return {
        xksProxyFleetSize: size,
        xksProxyVendor: 'Holdfast',
        xksProxyModel: product,
        ekmVendor: watched[0]?.describe().vendor ?? 'unknown',
        ekmFleetDetails: shown(entries).map(({ id, model, healthStatus }) => ({ id, model, healthStatus })),
      }
    },
    async close() {
      clearInterval(timer)
      await looking
    },
  }
}

/** Of more than ten those that are worst off, and the best one: that all are UNAVAILABLE must be true of all. */
function shown<T extends { readonly healthStatus: Status }>(entries: readonly T[]): readonly T[] {
  if (entries.length <= maxEntries) return entries
  const order: readonly Status[] = ['UNAVAILABLE', 'DEGRADED', 'ACTIVE']
  const sorted = entries.toSorted((a, b) => order.indexOf(a.healthStatus) - order.indexOf(b.healthStatus))
  return [...sorted.slice(0, maxEntries - 1), ...sorted.slice(-1)]
}

class Watched {
  readonly name: string
  readonly #token: Token
  readonly #options: HealthOptions
  lookedAt: number | undefined
  #works = false
  /** When something was last wrong with it. */
  #troubledAt = Number.NEGATIVE_INFINITY
  #respawns: number

  constructor(name: string, token: Token, options: HealthOptions) {
    this.name = name
    this.#token = token
    this.#options = options
    this.#respawns = token.health().respawns
  }

  async look(): Promise<void> {
    const { clock, log, slowMs } = this.#options
    const startedAt = performance.now()
    const failure = await within(lookTimeoutMs, this.#token.check(), () => new Error(`no answer within ${lookTimeoutMs} ms`)).then(
      () => undefined,
      (error: unknown) => error ?? new Error('no reason given'),
    )
    const ms = performance.now() - startedAt
    if ((failure === undefined) !== this.#works || this.lookedAt === undefined) {
      if (failure === undefined) log.info({ token: this.name, ms: Math.round(ms) }, 'the canary key of a token works')
      else log.warn({ token: this.name, err: failure }, 'the canary key of a token does not work: the XKS proxy says UNAVAILABLE')
    }
    this.lookedAt = clock.now()
    this.#works = failure === undefined
    if (failure !== undefined || ms > slowMs) this.#troubledAt = this.lookedAt
  }

  status(now: number): Status {
    const { state, respawns } = this.#token.health()
    if (respawns !== this.#respawns) {
      this.#respawns = respawns
      this.#troubledAt = now
    }
    const isFresh = this.lookedAt !== undefined && now - this.lookedAt <= toldForMs
    if (!isFresh || !this.#works || state !== 'up') return 'UNAVAILABLE'
    return now - this.#troubledAt <= rememberedForMs ? 'DEGRADED' : 'ACTIVE'
  }

  /** Of the hardware. */
  describe(): { readonly vendor: string; readonly model: string } {
    try {
      const { manufacturer, model, firmware } = this.#token.info()
      return { vendor: manufacturer || 'unknown', model: [model, firmware].filter((part) => part !== '').join(' ') || 'unknown' }
    } catch {
      // It has never been reached.
      return { vendor: 'unknown', model: 'unknown' }
    }
  }
}
