/**
 * `holdfast bench`: gives the parts of the bench (`bench/part.ts`) what they measure, and takes it away again. Part of the wiring.
 *
 * The measured token is the configured one; without a configured module, SoftHSM2 tokens of the bench's own. Services have databases of their own, in
 * a directory in the configured data directory: what an fsync costs depends on the file system. In a configured token everything that was made,
 * but for the canary (the service's mark), is destroyed at the end, by the rows and the list that name it; what a run that was killed left there, the
 * next run on that token destroys.
 */

import { randomBytes } from 'node:crypto'
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { mkdir, readFile, rm } from 'node:fs/promises'
import { cpus } from 'node:os'
import { isAbsolute, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { findSoftHsm } from '../softhsm/find.mjs'
import { provisionSoftHsm } from '../softhsm/provision.mjs'
import { compileShim } from '../softhsm/shim.mjs'
import { systemClock } from './base/clock.ts'
import { openLog } from './base/log.ts'
import { OperatorError } from './base/operator-error.ts'
import type { BenchService, BenchToken, Means, PartContext, ServiceOptions, TokenOptions } from './bench/part.ts'
import { selfSigned } from './bench/certificate.ts'
import { stopChildren } from './bench/child.ts'
import { endLoad } from './bench/load.ts'
import { parts } from './bench/parts.ts'
import { planFor, runParts, type Bench, type Machine, type PlanWishes } from './bench/run.ts'
import { parseCredentials } from './cli/credentials-file.ts'
import { placesIn } from './config/places.ts'
import { childEnvironment } from './config/read.ts'
import type { Config } from './config/settings.ts'
import { openToken, type SelfTestMemory } from './hsm/client.ts'
import { readProfile } from './hsm/profile.ts'
import { TokenError, type Token } from './hsm/token.ts'
import type { ServiceOrder } from './measure-service.ts'
import { fillGrants } from './store/fill-grants.ts'
import {
  clearLeftovers,
  destroyNamed,
  identify,
  journalOf,
  makeSite,
  namedIn,
  removeLeftovers,
  removeSite,
  sayOwner,
} from './measure-leftovers.ts'
import { describeMachine, describeToken } from './measure-machine.ts'
import { PinRefusal, rawLoop, startProgram, startService, type StartedService } from './measure-processes.ts'
import { objectsNamedIn, type NamedObject } from './store/token-objects.ts'
import { planTokens, type TokenPlan } from './tokens.ts'

export interface BenchWishes extends PlanWishes {
  /** Names of parts; all unless told. */
  readonly parts?: readonly string[]
}

type Reached = TokenPlan['config']

/** How a run goes on its way. */
export interface Watching {
  /** Takes one line at a time: what is being measured. */
  readonly progress: (part: string, text: string) => void
  /** Ends the part under way; no other is begun. */
  readonly stop: AbortSignal
  /** Gets the figures before anything is taken away, which may fail. */
  readonly keep: (run: Bench) => Promise<void>
  /** Is told in a sentence what could not be taken away, and why. */
  readonly leave: (left: string) => void
}

export async function measure(config: Config, wishes: BenchWishes, { progress, stop, keep, leave }: Watching): Promise<void> {
  const chosen = parts.filter(({ name }) => wishes.parts?.includes(name) ?? true)
  const unknown = wishes.parts?.find((name) => !parts.some((part) => part.name === name))
  if (unknown !== undefined)
    throw new OperatorError(`There is no part ${JSON.stringify(unknown)}, only ${parts.map(({ name }) => name).join(', ')}.`)
  await mkdir(config.dataDir, { recursive: true, mode: 0o700 })
  const site = await openSite(config, stop)
  try {
    const plan = planFor(wishes)
    const machine = await site.describe()
    const context = (name: string): PartContext => ({
      plan,
      progress(text) {
        site.ending.throwIfAborted()
        progress(name, text)
      },
      withService: (run, options = {}) => site.withService(run, options),
      withToken: (run, options = {}) => site.withToken(run, options),
      means: site.means,
    })
    await keep(await runParts(chosen, context, plan, machine, systemClock, site.ending))
  } finally {
    // Whatever becomes of them, what was made is taken away.
    await endLoad().catch(stopChildren)
    const left = await site.close()
    if (left !== undefined) leave(left)
  }
}

interface Model {
  readonly reached: Reached
  setLatency(ms: number): void
}

/** The directory in which one run of the bench keeps everything, and what it brings up. */
interface Site {
  readonly means: Means
  /** Aborted when the run is told to stop, and when the token refuses the PIN: each further try may lock it. */
  readonly ending: AbortSignal
  withService<T>(run: (service: BenchService) => Promise<T>, options: ServiceOptions): Promise<T>
  withToken<T>(run: (token: BenchToken) => Promise<T>, options: TokenOptions): Promise<T>
  describe(): Promise<Machine>
  /** Takes away what was made. Answers what is left, in a sentence; undefined when nothing is. */
  close(): Promise<string | undefined>
}

async function openSite(config: Config, stop: AbortSignal): Promise<Site> {
  const log = openLog({ level: 'error', destination: '/dev/null' })
  const dir = makeSite(config.dataDir)
  const isConfigured = config.pkcs11.library !== undefined
  const own = ownConfig(config, dir)
  const memories = new Map<string, unknown>()
  const memory = (name: string): SelfTestMemory => ({ recall: () => memories.get(name), keep: (proof) => void memories.set(name, proof) })
  const ending = new AbortController()
  let refused: Error | undefined
  const end = (why: unknown): void => {
    ending.abort(why)
    stopChildren()
  }
  const refuse = (error: Error): void => {
    refused ??= error
    end(error)
  }
  const onStop = (): void => end(new Error('the run was told to stop'))
  stop.addEventListener('abort', onStop)
  if (stop.aborted) onStop()
  /** Whatever logs in to the token, here or in another process. */
  const loggingIn = async <T>(login: () => Promise<T>): Promise<T> => {
    ending.signal.throwIfAborted()
    try {
      return await login()
    } catch (error) {
      if (error instanceof PinRefusal || (error instanceof TokenError && error.code?.includes('PIN'))) refuse(error)
      throw error
    }
  }

  let services = 0
  let reached: Reached
  let sessions: number
  let token: Machine['token']
  let maxObjects: number | null
  try {
    sayOwner(dir, { pid: process.pid })
    const planned = isConfigured ? (await planTokens(own, false)).tokens[0]?.config : await softHsm(join(dir, 'token'))
    if (!planned) throw new Error('no token is planned')
    reached = planned
    const opened = await loggingIn(() => openToken({ ...planned, provision: true }, { log, selfTest: memory('measured') }))
    try {
      const { limits } = readProfile(reached.profile ?? opened.info().profile)
      sessions = await sessionsOf(opened, reached.sessions ?? limits.sessions, ending.signal)
      token = describeToken(opened, reached.library, sessions)
      maxObjects = limits.objects
      if (isConfigured) {
        sayOwner(dir, { pid: process.pid, token: identify(opened, reached.library) })
        await clearLeftovers(config.dataDir, opened, reached.library)
      } else await removeLeftovers(config.dataDir)
    } finally {
      await opened.close()
    }
  } catch (error) {
    stop.removeEventListener('abort', onStop)
    await removeSite(dir)
    throw error
  }

  const latency = latencyModel(dir)
  return {
    ending: ending.signal,
    means: {
      noModel: latency.missing,
      sessions,
      manyProcesses: Math.max(2, Math.min(cpus().length, 4)),
      maxObjects,
      fillGrants,
      async rawLoop({ latencyMs, ...order }) {
        const model = latencyMs === undefined ? undefined : await latency.open()
        model?.setLatency(latencyMs ?? 0)
        const { library, tokenLabel, pinFile, env } = model?.reached ?? reached
        return loggingIn(() => rawLoop({ ...order, library, tokenLabel, pinFile }, env, ending.signal))
      },
    },
    async withToken(run, options) {
      const model = options.model ? await latency.open() : undefined
      const base = model?.reached ?? reached
      const wanted = {
        ...base,
        provision: true,
        ...(options.sessions !== undefined && { sessions: options.sessions }),
        ...(options.scheme !== undefined && { profile: profileWith(dir, base.profile ?? token.profile, options.scheme) }),
      }
      const name = options.model ? 'model' : (options.scheme ?? 'measured')
      const opened = await loggingIn(() => openToken(wanted, { log, selfTest: memory(name) }))
      const close = (): void => void opened.close()
      ending.signal.addEventListener('abort', close)
      try {
        const open = await sessionsOf(opened, options.sessions ?? sessions, ending.signal)
        ending.signal.throwIfAborted()
        return await run({
          token: opened,
          sessions: open,
          newKey() {
            const made = { ckaId: randomBytes(opened.capabilities().keyIdBytes).toString('hex'), label: 'holdfast/bench' }
            if (!options.model) appendFileSync(journalOf(dir), `${JSON.stringify(made)}\n`, { mode: 0o600 })
            return made
          },
          setLatency: (ms) => model?.setLatency(ms),
        })
      } finally {
        ending.signal.removeEventListener('abort', close)
        await opened.close()
      }
    },
    async withService(run, options) {
      const dataDir = join(dir, `service-${(services += 1)}`)
      mkdirSync(dataDir, { mode: 0o700 })
      const modelled = options.latencyMs === undefined ? undefined : await latency.open()
      const pkcs11 = modelled
        ? { ...own.pkcs11, library: modelled.reached.library, tokenLabel: modelled.reached.tokenLabel, pinFile: modelled.reached.pinFile }
        : own.pkcs11
      const mine: Config = {
        ...own,
        dataDir,
        pkcs11: { ...pkcs11, ...(options.sessions !== undefined && { sessions: options.sessions }) },
        xksProxy: { ...own.xksProxy, ...(options.xks && xksProxyIn(dataDir)) },
      }
      const order: ServiceOrder = { config: mine, audit: options.audit ?? 'on', spans: options.spans ?? false }
      const env = { ...childEnvironment(), ...modelled?.reached.env }
      const { processes = 1 } = options
      const start = (): Promise<StartedService> =>
        loggingIn(() => (processes === 1 ? startService(order, env, ending.signal) : startProgram(mine, processes, env, ending.signal)))
      let house: StartedService | undefined
      try {
        let serving = (house = await start())
        modelled?.setLatency(options.latencyMs ?? 0)
        const credentials = parseCredentials(await readFile(placesIn(dataDir).credentials, 'utf8')).get('default')
        if (!credentials) throw new Error('the service made no credentials')
        return await run({
          endpoint: new URL(serving.url),
          region: mine.regions[0] ?? '',
          credentials,
          ...(serving.xksUrl !== undefined && {
            xks: { endpoint: new URL(serving.xksUrl), ca: readFileSync(certificateIn(dataDir), 'utf8') },
          }),
          now: () => systemClock.now(),
          database: placesIn(dataDir).database,
          observe: () => serving.observe(),
          metrics: async () => (await fetch(new URL('/metrics', serving.opsUrl))).text(),
          cpuSeconds: () => serving.cpuSeconds(),
          async restart() {
            await serving.close()
            const startedAt = performance.now()
            serving = house = await start()
            const tookMs = performance.now() - startedAt
            return { tookMs, endpoint: new URL(serving.url) }
          },
        })
      } catch (error) {
        // Its agent logs in anew when it must, which nobody here hears of.
        const pin = await house?.refusedPin()
        if (pin !== undefined) refuse(new PinRefusal(pin))
        throw error
      } finally {
        await house?.close()
        if (isConfigured && !modelled) {
          const named = objectsNamedIn(placesIn(dataDir).database)
          appendFileSync(journalOf(dir), named.map((object) => `${JSON.stringify(object)}\n`).join(''), { mode: 0o600 })
        }
        await rm(dataDir, { recursive: true, force: true })
      }
    },
    describe: async () => describeMachine(token),
    async close() {
      stop.removeEventListener('abort', onStop)
      let named: readonly NamedObject[] = []
      try {
        if (isConfigured) named = namedIn(dir)
        if (named.length > 0) {
          if (refused) throw refused
          const opened = await openToken({ ...reached, provision: true }, { log, selfTest: memory('measured') })
          try {
            await destroyNamed(opened, named)
          } finally {
            await opened.close()
          }
        }
        await removeSite(dir)
        return undefined
      } catch (error) {
        const why = error instanceof Error ? error.message : String(error)
        return named.length === 0
          ? `${dir} could not be removed (${why}): the next run of the bench removes it.`
          : `Up to ${named.length} keys of this run are still in the token ${JSON.stringify(reached.tokenLabel)} (${why}). ` +
              `${dir} names them, and the next run of the bench on this token destroys them: leave it there until then.`
      }
    },
  }
}

/** SoftHSM2 behind the shim: one token for all in `dir`, a latency for each that opens it. Nothing waits to begin with. */
function latencyModel(dir: string): {
  /** Why there is none on this machine. */
  readonly missing: string | undefined
  open(): Promise<Model>
} {
  const shim = compileShim(dir)
  const missing =
    shim === undefined
      ? 'There is no C compiler (cc) on this machine, which the latency model needs.'
      : findSoftHsm() === undefined
        ? 'SoftHSM2 is not installed on this machine: the latency model stands on it.'
        : undefined
  let models = 0
  const open = async (): Promise<Model> => {
    if (shim === undefined || missing !== undefined) throw new OperatorError(missing ?? '')
    const made = await softHsm(join(dir, 'model'))
    const file = join(dir, `latency-${(models += 1)}`)
    writeFileSync(file, Buffer.alloc(4))
    return {
      reached: { ...made, library: shim, env: { ...made.env, SHIM_MODULE: made.library, SHIM_LATENCY_FILE: file } },
      setLatency(ms) {
        const bytes = Buffer.alloc(4)
        new DataView(bytes.buffer, bytes.byteOffset).setUint32(0, Math.round(ms * 1000), isLittleEndian)
        // In place: the module has mapped this very file.
        writeFileSync(file, bytes, { flag: 'r+' })
      },
    }
  }
  return { missing, open }
}

const certificateIn = (dataDir: string): string => join(dataDir, 'xks-certificate.pem')

/** Makes a certificate in the data directory. */
function xksProxyIn(dataDir: string): Partial<Config['xksProxy']> {
  const [certFile, keyFile] = [certificateIn(dataDir), join(dataDir, 'xks-key.pem')]
  const { cert, key } = selfSigned('localhost')
  writeFileSync(certFile, cert)
  writeFileSync(keyFile, key, { mode: 0o600 })
  return { port: 0, certFile, keyFile }
}

/** What every service of the bench has in common. */
function ownConfig(config: Config, dir: string): Config {
  return {
    ...config,
    dataDir: dir,
    host: '127.0.0.1',
    port: 0,
    opsPort: 0,
    opsHost: undefined,
    // One region has one token: the measured device does no other work.
    regions: config.regions.slice(0, 1),
    regionTokens: {},
    tokens: {},
    keyStoreTokens: {},
    quotas: { ...config.quotas, requestRates: 'off' },
    tls: { certFile: undefined, keyFile: undefined, allowPlainHttp: false },
    xksProxy: { ...config.xksProxy, port: undefined, host: undefined, clientCaFile: undefined, clientNames: undefined },
  }
}

async function softHsm(dir: string): Promise<Reached> {
  const library = findSoftHsm()
  if (library === undefined)
    throw new OperatorError(
      'No PKCS#11 module is configured and SoftHSM2 is not installed: set HOLDFAST_PKCS11_LIBRARY, or run: apt-get install softhsm2',
    )
  const made = await provisionSoftHsm({ dir, label: 'holdfast-bench', library })
  return { library, tokenLabel: made.label, pinFile: made.pinFile, env: { ...childEnvironment(), ...made.env } }
}

/** The token's profile with another wrap scheme, as a file. */
function profileWith(dir: string, profile: string, scheme: string): string {
  const source = isAbsolute(profile) ? profile : fileURLToPath(new URL(`../native-config/${profile}.json`, import.meta.url))
  const fields = {
    ...(JSON.parse(readFileSync(source, 'utf8')) as object),
    wrap: { value: scheme, why: 'The bench measures every scheme that the token has.' },
  }
  const path = join(dir, `profile-${scheme}.json`)
  writeFileSync(path, JSON.stringify(fields))
  return path
}

/** The first session serves as soon as it is there; the others follow. A device that has fewer than it was asked for gives what it has. */
async function sessionsOf(token: Token, wanted: number, ending: AbortSignal): Promise<number> {
  const until = performance.now() + sessionsOpenWithinMs
  while (!ending.aborted && token.health().sessions < wanted && performance.now() < until) await sleep(20)
  return token.health().sessions
}

const sessionsOpenWithinMs = 10_000

const isLittleEndian = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1
