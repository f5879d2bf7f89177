/**
 * The operations port: is the process there, can it serve, what has it counted. Open to whoever reaches the port, so there are states and counts, by the
 * ids of keys, accounts and credentials: nothing secret, and not who did what.
 */

import type { Express } from 'express'
import type { Log } from '../base/log.ts'
import type { MetricsPage } from '../base/metrics.ts'
import { within } from '../base/within.ts'
import { endWithJson, plainExpress } from './app.ts'

export interface Readiness {
  readonly ready: boolean
  /** What was checked, and what is wrong where something is. */
  readonly checks: Readonly<Record<string, { readonly ok: boolean; readonly detail: string }>>
}

export interface ReadinessOptions {
  /** One function per thing that must work; it rejects when it does not. */
  readonly checks: Readonly<Record<string, () => Promise<void>>>
  /** What is told with them and does not decide whether the service is ready. */
  readonly parts?: () => Readonly<Record<string, () => Promise<void>>>
  /** True once the service is going down: it still answers, but wants no new callers. */
  readonly draining: () => boolean
  /** A check that takes longer has failed. */
  readonly checkTimeoutMs?: number
}

export interface OpsOptions {
  readonly metrics: {
    /** @param overall of all processes together, where there are several; else of each */
    page(overall: boolean): Promise<MetricsPage>
  }
  readonly readiness: () => Promise<Readiness>
  readonly log: Log
}

/** How long an outcome is told again: a prober cannot load the device. */
const freshForMs = 1000

export function openOps({ metrics, readiness, log }: OpsOptions): Express {
  const app = plainExpress()
  app.get('/healthz', (_request, response) => void response.json({ status: 'ok' }))
  app.get('/readyz', async (_request, response) => {
    const outcome = await readiness()
    response
      .status(outcome.ready ? 200 : 503)
      .set('Cache-Control', 'no-store')
      .json(outcome)
  })
  for (const [path, overall] of [
    ['/metrics', false],
    ['/metrics/overall', true],
  ] as const) {
    app.get(path, async (_request, response) => {
      const { contentType, text } = await metrics.page(overall)
      response.set('Content-Type', contentType).send(text)
    })
  }
  return endWithJson(app, log)
}

/** The answer of what goes down: it serves whom it has, and wants no new callers. */
export const shuttingDown: Readiness = { ready: false, checks: { process: { ok: false, detail: 'shutting down' } } }

/** Runs all checks at once; askers within a second share one run. */
export function openReadiness({ checks, parts, draining, checkTimeoutMs = 5000 }: ReadinessOptions): () => Promise<Readiness> {
  let at = Number.NEGATIVE_INFINITY
  let last: Promise<Readiness> | undefined
  const run = async (): Promise<Readiness> => {
    const outcomes = await Promise.all(
      Object.entries({ ...parts?.(), ...checks }).map(async ([name, check]) => {
        try {
          await within(checkTimeoutMs, check(), () => new Error(`no answer within ${checkTimeoutMs} ms`))
          return [name, { ok: true, detail: 'ok' }] as const
        } catch (error) {
          return [name, { ok: false, detail: error instanceof Error ? error.message : String(error) }] as const
        }
      }),
    )
    return { ready: outcomes.every(([name, { ok }]) => ok || !Object.hasOwn(checks, name)), checks: Object.fromEntries(outcomes) }
  }
  return () => {
    if (draining()) return Promise.resolve(shuttingDown)
    if (!last || performance.now() - at > freshForMs) {
      at = performance.now()
      last = run()
    }
    return last
  }
}
