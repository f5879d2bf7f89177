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
import { runBench, type BenchOptions, type BenchReport } from './bench/bench.ts'
import { systemClock } from './base/clock.ts'
import { parseCredentials } from './cli/credentials-file.ts'
import { placesIn, type Config } from './config.ts'
import type { RawLoopOrder, RawLoopResult } from './hsm/raw-loop.ts'
import { planTokens } from './tokens.ts'

export async function measure(config: Config, options: BenchOptions): Promise<BenchReport> {
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
    const house = await startService(own)
    try {
      const credentials = parseCredentials(await readFile(placesIn(dataDir).credentials, 'utf8')).get('default')
      if (!credentials) throw new Error('the service made no credentials')
      const token = (await planTokens(own, false)).tokens[0]?.config
      if (!token) throw new Error('the service made no token')
      const service = { endpoint: new URL(house.url), region: own.regions[0] ?? '', credentials, now: () => systemClock.now() }
      return await runBench({ service, rawLoop: (durationMs) => rawLoop({ ...token, durationMs }) }, options)
    } finally {
      await house.close()
    }
  } finally {
    await rm(dataDir, { recursive: true, force: true })
  }
}

/** Starts the service in its own process. */
async function startService(config: Config): Promise<{ readonly url: string; close(): Promise<void> }> {
  const child = fork(new URL('measure-service.ts', import.meta.url), [], {
    execArgv: [...process.execArgv, '--import', import.meta.resolve('tsx')],
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  const ended = once(child, 'exit')
  const { url } = await new Promise<{ readonly url: string }>((resolve, reject) => {
    child.once('message', (message) => resolve(message as { readonly url: string }))
    child.once('error', reject)
    child.once('close', (code, signal) => reject(new Error(`the service ended with ${signal ?? `code ${code}`}`)))
    child.send(config)
  })
  return {
    url,
    async close() {
      if (child.connected) child.disconnect()
      await ended
    },
  }
}

/** Runs the raw token loop in its own process. Answers encryptions a second. */
function rawLoop({
  library,
  tokenLabel,
  pinFile,
  durationMs,
  env,
}: RawLoopOrder & { readonly env?: Readonly<Record<string, string>> }): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = fork(new URL('hsm/raw-loop.ts', import.meta.url), [], {
      execArgv: ['--import', import.meta.resolve('tsx')],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      ...(env && { env }),
    })
    child.once('message', (result) => resolve((result as RawLoopResult).perSecond))
    child.once('error', reject)
    child.once('close', (code, signal) => reject(new Error(`the raw token loop ended with ${signal ?? `code ${code}`}`)))
    child.send({ library, tokenLabel, pinFile, durationMs } satisfies RawLoopOrder)
  })
}
