/**
 * `holdfast bench`: brings up a service with a SoftHSM2 token and a data directory of its own, measures it beside its
 * baselines (`bench/bench.ts`), and takes it down again. The configured token is not touched. Part of the wiring.
 *
 * The data directory lies in the configured one: what an fsync costs depends on the file system.
 */

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { runBench, type BenchOptions, type BenchSubjects } from './bench/bench.ts'
import { runGrantsBench } from './bench/grants.ts'
import { runKeysBench } from './bench/keys.ts'
import { systemClock } from './base/clock.ts'
import { loaderFlags, programOf } from './base/program.ts'
import { parseCredentials } from './cli/credentials-file.ts'
import { placesIn, type Config } from './config.ts'
import type { RawLoopOrder, RawLoopResult } from './hsm/raw-loop.ts'
import type { ServiceAddress } from './measure-service.ts'
import { fillGrants } from './store/fill-grants.ts'
import { planTokens } from './tokens.ts'

export async function measure(
  config: Config,
  { grants, keys, ...options }: BenchOptions & { readonly grants?: number; readonly keys?: number },
): Promise<unknown> {
  if (keys !== undefined) {
    return withService(config, ({ service: few }) =>
      withService(config, ({ service: many, restart }) => runKeysBench({ few, many, restart }, keys, options)),
    )
  }
  if (grants === undefined) return withService(config, (subjects) => runBench(subjects, options))
  return withService(config, ({ service: few }) =>
    withService(config, ({ service: many, database }) =>
      runGrantsBench({ few, many, fill: (count) => fillGrants(database, count) }, grants, options),
    ),
  )
}

/** Brings up a service for a measurement, and takes it down after it. */
async function withService<T>(
  config: Config,
  run: (subjects: BenchSubjects & { readonly database: string; readonly restart: () => Promise<number> }) => Promise<T>,
): Promise<T> {
  await mkdir(config.dataDir, { recursive: true, mode: 0o700 })
  const dataDir = await mkdtemp(join(config.dataDir, 'bench-'))
  const own: Config = {
    ...config,
    dataDir,
    host: '127.0.0.1',
    port: 0,
    opsPort: 0,
    opsHost: undefined,
    // One region has one token: the measured device does no other work.
    regions: config.regions.slice(0, 1),
    regionTokens: {},
    tokens: {},
    pkcs11: { ...config.pkcs11, library: undefined, tokenLabel: undefined, tokenSerial: undefined, pinFile: undefined, profile: undefined },
    quotas: { ...config.quotas, requestRates: 'off' },
    tls: { certFile: undefined, keyFile: undefined, allowPlainHttp: false },
  }
  try {
    let house = await startService(own)
    try {
      const credentials = parseCredentials(await readFile(placesIn(dataDir).credentials, 'utf8')).get('default')
      if (!credentials) throw new Error('the service made no credentials')
      const token = (await planTokens(own, false)).tokens[0]?.config
      if (!token) throw new Error('the service made no token')
      const service = { endpoint: new URL(house.url), region: own.regions[0] ?? '', credentials, now: () => systemClock.now() }
      return await run({
        service,
        sessions: await sessionsOf(house.opsUrl),
        rawLoop: (order) => rawLoop({ ...token, ...order }),
        database: placesIn(dataDir).database,
        async restart() {
          await house.close()
          const startedAt = performance.now()
          house = await startService(own)
          return performance.now() - startedAt
        },
      })
    } finally {
      await house.close()
    }
  } finally {
    await rm(dataDir, { recursive: true, force: true })
  }
}

/** Starts the service in its own process. */
async function startService(config: Config): Promise<ServiceAddress & { close(): Promise<void> }> {
  const child = fork(programOf(new URL('measure-service.ts', import.meta.url)), [], {
    execArgv: [...process.execArgv, ...loaderFlags],
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  const ended = once(child, 'exit')
  const address = await new Promise<ServiceAddress>((resolve, reject) => {
    child.once('message', (message) => resolve(message as ServiceAddress))
    child.once('error', reject)
    child.once('close', (code, signal) => reject(new Error(`the service ended with ${signal ?? `code ${code}`}`)))
    child.send(config)
  })
  return {
    ...address,
    async close() {
      if (child.connected) child.disconnect()
      await ended
    },
  }
}

/** How many sessions the service has on its token, by its own metrics. */
async function sessionsOf(opsUrl: string): Promise<number> {
  const page = await (await fetch(`${opsUrl}/metrics`)).text()
  const [, sessions] = /^holdfast_token_sessions(?:\{[^}]*\})? (\d+)$/m.exec(page) ?? []
  if (sessions === undefined) throw new Error('the service does not say how many sessions it has')
  return Number(sessions)
}

/** Runs the raw token loop in its own process. Answers calls a second. */
function rawLoop({
  library,
  tokenLabel,
  pinFile,
  durationMs,
  operation,
  sessions,
  env,
}: Required<RawLoopOrder> & { readonly env?: Readonly<Record<string, string>> }): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = fork(programOf(new URL('hsm/raw-loop.ts', import.meta.url)), [], {
      execArgv: [...loaderFlags],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      ...(env && { env }),
    })
    child.once('message', (result) => resolve((result as RawLoopResult).perSecond))
    child.once('error', reject)
    child.once('close', (code, signal) => reject(new Error(`the raw token loop ended with ${signal ?? `code ${code}`}`)))
    child.send({ library, tokenLabel, pinFile, durationMs, operation, sessions } satisfies RawLoopOrder)
  })
}
