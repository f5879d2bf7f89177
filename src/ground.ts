/** What every room of the house is opened with, and how all are closed. Part of the wiring. */

import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Trail } from './audit/trail.ts'
import type { Clock } from './base/clock.ts'
import type { Log } from './base/log.ts'
import type { Metrics } from './base/metrics.ts'
import type { Spans } from './base/spans.ts'
import { within } from './base/within.ts'
import type { Places } from './config/places.ts'
import { ConfigError } from './config/read.ts'
import type { Config } from './config/settings.ts'
import type { Token } from './hsm/token.ts'
import type { Membership } from './processes.ts'

export interface Ground {
  readonly config: Config
  readonly places: Places
  readonly log: Log
  readonly metrics: Metrics
  readonly clock: Clock
  readonly fittings: Fittings
  readonly opened: Opened
}

/** What the bench puts in the place of rooms of a house that it measures. No setting leads here. */
export interface Fittings {
  readonly spans?: Spans
  readonly token?: (token: Token) => Token
  readonly trail?: (trail: Trail) => Trail
  /** This house is one of several on the same ports; its supervisor has the operations port, and speaks for all. */
  readonly membership?: Membership | undefined
}

/** What is open, in the order of opening. Closed from the end; a failure to close one does not keep the others open. */
export class Opened {
  readonly #closers: { readonly name: string; readonly close: () => Promise<void> }[] = []
  readonly #timeoutMs: number
  /** @param drainTimeoutMs what the ports may take to finish calls */
  constructor(drainTimeoutMs: number) {
    this.#timeoutMs = closeTimeoutMs + drainTimeoutMs
  }
  add<T extends { close(): Promise<void> }>(name: string, room: T): T {
    this.#closers.push({ name, close: () => room.close() })
    return room
  }
  async close(log: Log): Promise<void> {
    for (const { name, close } of this.#closers.splice(0).reverse()) {
      log.debug({ room: name }, 'closing')
      try {
        await within(this.#timeoutMs, close(), () => new Error(`not done within ${this.#timeoutMs} ms`))
      } catch (error) {
        log.error({ room: name, err: error }, 'could not be closed cleanly')
      }
    }
  }
}

/** No room needs longer, the drain time aside. */
export const closeTimeoutMs = 60_000

/** Made with its parents, for its owner alone. @throws ConfigError when it cannot be. */
export async function makeDataDir(dataDir: string): Promise<void> {
  try {
    // Only where the parent is missing: Node's recursive form never ends where the system answers ENOENT for other reasons (/proc).
    await mkdir(dataDir, { recursive: !existsSync(dirname(dataDir)), mode: 0o700 })
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code !== 'EEXIST') throw new ConfigError([`HOLDFAST_DATA_DIR is ${dataDir}, which cannot be made: ${message}. Choose another.`])
  }
}
