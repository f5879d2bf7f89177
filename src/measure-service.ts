/**
 * The service that `measure.ts` measures, a process of its own as it is in earnest: what measures must not share its event loop or its heap.
 *
 * Started by fork; takes one ServiceOrder, answers where it listens, answers every later message with what it noted since the last, and closes
 * everything when its parent disconnects. Here alone can the audit trail be switched off: no setting leads here.
 */

import { once } from 'node:events'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { Trail } from './audit/trail.ts'
import { openLog } from './base/log.ts'
import { Spans, timed } from './base/spans.ts'
import type { Observed } from './bench/part.ts'
import type { Config } from './config/settings.ts'
import { TokenError, type Token } from './hsm/token.ts'
import type { Fittings } from './ground.ts'
import { openHouse } from './house.ts'

export interface ServiceOrder {
  readonly config: Config
  readonly audit: 'on' | 'off'
  readonly spans: boolean
}

export interface ServiceAddress {
  readonly url: string
  readonly opsUrl: string
  readonly xksUrl?: string
}

/** Why there is no service. */
export interface Refusal {
  readonly refusal: string
  /** The token refused the PIN, and each further try may lock it. */
  readonly isPin: boolean
}

export interface Noted extends Observed {
  /** What the token said when it refused the PIN, if it has since the start. */
  readonly refusedPin: string | undefined
}

const deviceCalls: readonly (keyof Token)[] = ['wrap', 'unwrap', 'signMessage', 'mac', 'decryptOaep', 'random', 'deriveSharedSecret']
const resolutionMs = 2

/** A trail that forgets: what is appended counts as durable at once. */
const withoutAudit = (trail: Trail): Trail =>
  new Proxy(trail, {
    get(target, name) {
      if (name === 'append') return () => Promise.resolve()
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })

/** @param tokens gets the tokens that are opened */
function fittingsFor({ audit, spans: wanted }: ServiceOrder, tokens: Token[]): Fittings {
  const spans = wanted ? new Spans() : undefined
  return {
    ...(spans && { spans }),
    token(token) {
      tokens.push(token)
      return spans ? timed(token, deviceCalls, spans, 'device') : token
    },
    ...((spans || audit === 'off') && {
      trail: (trail: Trail) => {
        const kept = audit === 'off' ? withoutAudit(trail) : trail
        return spans ? timed(kept, ['append'], spans, 'audit') : kept
      },
    }),
  }
}

process.once('message', (order: ServiceOrder) => {
  // Lines are made and written as in earnest, to where nobody reads them.
  const log = openLog({ level: 'info', destination: '/dev/null' })
  const delay = monitorEventLoopDelay({ resolution: resolutionMs })
  const serveUntilDisconnected = async (): Promise<void> => {
    const tokens: Token[] = []
    const fittings = fittingsFor(order, tokens)
    const house = await openHouse(order.config, log, fittings)
    process.on('message', () => {
      // What the histogram holds is the time between two looks, and those are `resolutionMs` apart by themselves.
      const eventLoopDelayP99Ms = Math.max(0, delay.percentile(99) / 1e6 - resolutionMs)
      const refusedPin = tokens.map((token) => token.health()).find(({ state }) => state === 'stopped-pin')?.detail
      process.send?.({ eventLoopDelayP99Ms, spans: fittings.spans?.take() ?? {}, refusedPin } satisfies Noted)
      delay.reset()
    })
    delay.enable()
    const { url, opsUrl, xksUrl } = house
    process.send?.({ url, opsUrl, ...(xksUrl !== undefined && { xksUrl }) } satisfies ServiceAddress)
    if (process.connected) await once(process, 'disconnect')
    await house.close()
    log.flush()
  }
  serveUntilDisconnected().catch((error: unknown) => {
    const refusal = error instanceof Error ? error.message : String(error)
    const isPin = error instanceof TokenError && error.code?.includes('PIN') === true
    process.send?.({ refusal, isPin } satisfies Refusal, undefined, undefined, () => process.exit(1))
  })
})
// Ctrl-C is for every process of a terminal; this one ends when the bench ends it.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => undefined)
