/**
 * `holdfast bench`: gives the parts of the bench (`bench/part.ts`) what they measure, and takes it away again. Part of the wiring.
 *
 * The measured token is the configured one; without a configured module, SoftHSM2 tokens of the bench's own. Services have databases of their own, in
 * a directory in the configured data directory: what an fsync costs depends on the file system. In a configured token everything that was made
 * is destroyed at the end, by the rows and the list that name it; what a run that was killed left there, the next run on that token destroys.
 */

import { execFileSync, fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { mkdir, readFile, rm } from 'node:fs/promises'
import { cpus, release, totalmem } from 'node:os'
import { basename, isAbsolute, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { findSoftHsm } from '../softhsm/find.mjs'
import { provisionSoftHsm } from '../softhsm/provision.mjs'
import { compileShim } from '../softhsm/shim.mjs'
import { systemClock } from './base/clock.ts'
import { openLog } from './base/log.ts'
import { OperatorError } from './base/operator-error.ts'
import { loaderFlags, programOf } from './base/program.ts'
import type { BenchService, BenchToken, Means, Observed, PartContext, ServiceOptions, TokenOptions } from './bench/part.ts'
import { selfSigned } from './bench/certificate.ts'
import { parts } from './bench/parts.ts'
import { planFor, runParts, type Bench, type Machine, type PlanWishes } from './bench/run.ts'
import { parseCredentials } from './cli/credentials-file.ts'
import { placesIn } from './config/places.ts'
import { childEnvironment } from './config/read.ts'
import type { Config } from './config/settings.ts'
import { openToken, type SelfTestMemory } from './hsm/client.ts'
import { readProfile } from './hsm/profile.ts'
import type { RawLoopOrder, RawLoopResult } from './hsm/raw-loop.ts'
import type { Token } from './hsm/token.ts'
import type { ServiceAddress, ServiceOrder } from './measure-service.ts'
import { fillGrants } from './store/fill-grants.ts'
import { objectsNamedIn, type NamedObject } from './store/token-objects.ts'
import { planTokens, type TokenPlan } from './tokens.ts'

export interface BenchWishes extends PlanWishes {
  /** Names of parts; all unless told. */
  readonly parts?: readonly string[]
}

type Reached = TokenPlan['config']

/** @param progress takes one line at a time: what is being measured */
export async function measure(config: Config, wishes: BenchWishes, progress: (part: string, text: string) => void): Promise<Bench> {
  const chosen = parts.filter(({ name }) => wishes.parts?.includes(name) ?? true)
  const unknown = wishes.parts?.find((name) => !parts.some((part) => part.name === name))
  if (unknown !== undefined)
    throw new OperatorError(`There is no part ${JSON.stringify(unknown)}, only ${parts.map(({ name }) => name).join(', ')}.`)
  await mkdir(config.dataDir, { recursive: true, mode: 0o700 })
  const site = await openSite(config)
  try {
    const plan = planFor(wishes)
    const machine = await site.describe()
    const context = (name: string): PartContext => ({
      plan,
      progress: (text) => progress(name, text),
      withService: (run, options = {}) => site.withService(run, options),
      withToken: (run, options = {}) => site.withToken(run, options),
      means: site.means,
    })
    return await runParts(chosen, context, plan, machine, systemClock)
  } finally {
    await site.close()
  }
}

interface Model {
  readonly reached: Reached
  setLatency(ms: number): void
}

/** The directory in which one run of the bench keeps everything, and what it brings up. */
interface Site {
  readonly means: Means
  withService<T>(run: (service: BenchService) => Promise<T>, options: ServiceOptions): Promise<T>
  withToken<T>(run: (token: BenchToken) => Promise<T>, options: TokenOptions): Promise<T>
  describe(): Promise<Machine>
  close(): Promise<void>
}

const sitePrefix = 'bench-'
const journalOf = (dir: string): string => join(dir, 'keys')
/** Whose directory it is, and which token has its keys. */
interface Owner {
  readonly pid: number
  readonly token?: { readonly library: string; readonly label: string; readonly serial: string }
}

async function openSite(config: Config): Promise<Site> {
  const log = openLog({ level: 'error', destination: '/dev/null' })
  const dir = mkdtempSync(join(config.dataDir, sitePrefix))
  const isConfigured = config.pkcs11.library !== undefined
  const own = ownConfig(config, dir)
  const memories = new Map<string, unknown>()
  const memory = (name: string): SelfTestMemory => ({ recall: () => memories.get(name), keep: (proof) => void memories.set(name, proof) })
  const say = (owner: Owner): void => writeFileSync(join(dir, 'owner.json'), JSON.stringify(owner))
  let services = 0
  let reached: Reached
  let sessions: number
  let token: Machine['token']
  let maxObjects: number | null
  try {
    say({ pid: process.pid })
    const planned = isConfigured ? (await planTokens(own, false)).tokens[0]?.config : await softHsm(join(dir, 'token'))
    if (!planned) throw new Error('no token is planned')
    reached = planned
    const opened = await openToken({ ...reached, provision: true }, { log, selfTest: memory('measured') })
    try {
      const { limits } = readProfile(reached.profile ?? opened.info().profile)
      sessions = await sessionsOf(opened, reached.sessions ?? limits.sessions)
      token = describeToken(opened, reached, sessions)
      maxObjects = limits.objects
      if (isConfigured) {
        say({ pid: process.pid, token: identify(opened, reached) })
        await clearLeftovers(config.dataDir, opened, reached)
      } else removeLeftovers(config.dataDir)
    } finally {
      await opened.close()
    }
  } catch (error) {
    await rm(dir, { recursive: true, force: true })
    throw error
  }

  const shim = compileShim(dir)
  const noModel =
    shim === undefined
      ? 'There is no C compiler (cc) on this machine, which the latency model needs.'
      : findSoftHsm() === undefined
        ? 'SoftHSM2 is not installed on this machine: the latency model stands on it.'
        : undefined
  let models = 0
  /** SoftHSM2 behind the shim: one token for all, a latency for each that opens it. Nothing waits to begin with. */
  const openModel = async (): Promise<Model> => {
    if (shim === undefined || noModel !== undefined) throw new OperatorError(noModel ?? '')
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

  return {
    means: {
      noModel,
      sessions,
      manyProcesses: Math.max(2, Math.min(cpus().length, 4)),
      maxObjects,
      fillGrants,
      rawLoop: (order) =>
        rawLoop({ ...order, library: reached.library, tokenLabel: reached.tokenLabel, pinFile: reached.pinFile }, reached.env),
    },
    async withToken(run, options) {
      const model = options.model ? await openModel() : undefined
      const base = model?.reached ?? reached
      const wanted = {
        ...base,
        provision: true,
        ...(options.sessions !== undefined && { sessions: options.sessions }),
        ...(options.scheme !== undefined && { profile: profileWith(dir, base.profile ?? token.profile, options.scheme) }),
      }
      const name = options.model ? 'model' : (options.scheme ?? 'measured')
      const opened = await openToken(wanted, { log, selfTest: memory(name) })
      try {
        return await run({
          token: opened,
          sessions: await sessionsOf(opened, options.sessions ?? sessions),
          newKey() {
            const made = { ckaId: randomBytes(opened.capabilities().keyIdBytes).toString('hex'), label: 'holdfast/bench' }
            if (!options.model) appendFileSync(journalOf(dir), `${JSON.stringify(made)}\n`, { mode: 0o600 })
            return made
          },
          setLatency: (ms) => model?.setLatency(ms),
        })
      } finally {
        await opened.close()
      }
    },
    async withService(run, options) {
      const dataDir = join(dir, `service-${(services += 1)}`)
      mkdirSync(dataDir, { mode: 0o700 })
      const modelled = options.latencyMs === undefined ? undefined : await openModel()
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
      const start = (): Promise<StartedService> => (processes === 1 ? startService(order, env) : startProgram(mine, processes, env))
      let house = await start()
      try {
        modelled?.setLatency(options.latencyMs ?? 0)
        const credentials = parseCredentials(await readFile(placesIn(dataDir).credentials, 'utf8')).get('default')
        if (!credentials) throw new Error('the service made no credentials')
        return await run({
          endpoint: new URL(house.url),
          region: mine.regions[0] ?? '',
          credentials,
          ...(house.xksUrl !== undefined && { xks: { endpoint: new URL(house.xksUrl), ca: readFileSync(certificateIn(dataDir), 'utf8') } }),
          now: () => systemClock.now(),
          database: placesIn(dataDir).database,
          observe: () => house.observe(),
          cpuSeconds: () => house.cpuSeconds(),
          async restart() {
            await house.close()
            const startedAt = performance.now()
            house = await start()
            const tookMs = performance.now() - startedAt
            return { tookMs, endpoint: new URL(house.url) }
          },
        })
      } finally {
        await house.close()
        if (isConfigured && !modelled) {
          const named = objectsNamedIn(placesIn(dataDir).database)
          appendFileSync(journalOf(dir), named.map((object) => `${JSON.stringify(object)}\n`).join(''), { mode: 0o600 })
        }
        await rm(dataDir, { recursive: true, force: true })
      }
    },
    describe: async () => describeMachine(token),
    async close() {
      if (isConfigured && existsSync(journalOf(dir))) {
        const opened = await openToken({ ...reached, provision: true }, { log, selfTest: memory('measured') })
        try {
          await destroyNamed(opened, namedIn(dir))
        } finally {
          await opened.close()
        }
      }
      await rm(dir, { recursive: true, force: true })
    },
  }
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
async function sessionsOf(token: Token, wanted: number): Promise<number> {
  const until = performance.now() + sessionsOpenWithinMs
  while (token.health().sessions < wanted && performance.now() < until) await sleep(20)
  return token.health().sessions
}

const sessionsOpenWithinMs = 10_000

const isLittleEndian = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1

// ---- taking everything away again ----

const identify = (token: Token, { library }: Reached): NonNullable<Owner['token']> => ({
  library,
  label: token.info().label,
  serial: token.info().serial,
})

function namedIn(dir: string): readonly NamedObject[] {
  const listed = existsSync(journalOf(dir)) ? readFileSync(journalOf(dir), 'utf8').split('\n') : []
  const services = readdirSync(dir).filter((name) => name.startsWith('service-'))
  return [
    // A line that was not finished names a key that was not made.
    ...listed.filter((line) => line.endsWith('}')).map((line) => JSON.parse(line) as NamedObject),
    ...services.flatMap((name) => objectsNamedIn(placesIn(join(dir, name)).database)),
  ]
}

/** Destroys what is there of these objects, each by its CKA_ID and its label. Nothing else in the token is touched. */
async function destroyNamed(token: Token, named: readonly NamedObject[]): Promise<void> {
  if (named.length === 0) return
  const name = ({ ckaId, label }: NamedObject): string => `${ckaId} ${label}`
  const ours = new Map(named.map((object) => [name(object), object]))
  const there = new Set((await token.allObjects()).map(name))
  for (const [each, { ckaId, label }] of ours) if (there.has(each)) await token.destroyKey(ckaId, label)
}

/** Directories of runs that are over but were killed. */
function leftovers(dataDir: string): readonly { readonly dir: string; readonly owner: Owner }[] {
  return readdirSync(dataDir)
    .filter((name) => name.startsWith(sitePrefix))
    .flatMap((name) => {
      const dir = join(dataDir, name)
      const file = join(dir, 'owner.json')
      if (!existsSync(file)) return []
      try {
        const owner = JSON.parse(readFileSync(file, 'utf8')) as Owner
        return isRunning(owner.pid) ? [] : [{ dir, owner }]
      } catch {
        return []
      }
    })
}

function removeLeftovers(dataDir: string): void {
  for (const { dir, owner } of leftovers(dataDir)) if (!owner.token) rmSync(dir, { recursive: true, force: true })
}

async function clearLeftovers(dataDir: string, token: Token, reached: Reached): Promise<void> {
  removeLeftovers(dataDir)
  const here = JSON.stringify(identify(token, reached))
  for (const { dir, owner } of leftovers(dataDir)) {
    if (JSON.stringify(owner.token) !== here) continue
    await destroyNamed(token, namedIn(dir))
    rmSync(dir, { recursive: true, force: true })
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

// ---- the processes ----

interface StartedService extends ServiceAddress {
  observe(): Promise<Observed>
  cpuSeconds(): number | undefined
  close(): Promise<void>
}

/** Starts the service in its own process. */
async function startService(order: ServiceOrder, env: Readonly<Record<string, string>>): Promise<StartedService> {
  const child = fork(programOf(new URL('measure-service.ts', import.meta.url)), [], {
    execArgv: [...process.execArgv, ...loaderFlags],
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env,
  })
  const ended = once(child, 'exit')
  const answer = async <T>(message: object): Promise<T> => {
    const given = new Promise<T>((resolve, reject) => {
      const onEnd = (code: number | null, signal: string | null): void =>
        reject(new Error(`the service ended with ${signal ?? `code ${code}`}`))
      child.once('exit', onEnd)
      child.once('message', (value) => {
        child.off('exit', onEnd)
        resolve(value as T)
      })
    })
    child.send(message)
    return given
  }
  const address = await answer<ServiceAddress>(order)
  return {
    ...address,
    observe: () => answer<Observed>({}),
    cpuSeconds: () => cpuSecondsOf(child.pid ?? 0),
    async close() {
      if (child.connected) child.disconnect()
      await ended
    },
  }
}

/** Starts the service as `holdfast serve` does, in several processes on one listener. It notes nothing for the bench. */
async function startProgram(config: Config, processes: number, env: Readonly<Record<string, string>>): Promise<StartedService> {
  const [, program] = process.argv
  if (program === undefined) throw new Error('this process does not know its program')
  const file = join(config.dataDir, 'config.json')
  // An empty table is a default, which a file does not spell out.
  const isEmpty = (value: unknown): boolean => typeof value === 'object' && value !== null && Object.keys(value).length === 0
  writeFileSync(
    file,
    JSON.stringify({ ...config, processes }, (_name, value: unknown) => (isEmpty(value) ? undefined : value)),
  )
  const kept = Object.entries(env).filter(([name]) => !name.startsWith('HOLDFAST_'))
  const child = fork(program, ['serve'], {
    env: { ...Object.fromEntries(kept), HOLDFAST_CONFIG: file },
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  })
  const ended = once(child, 'exit')
  let running = true
  void ended.then(() => (running = false))
  const { endpoint } = placesIn(config.dataDir)
  const until = performance.now() + startWithinMs
  while (!existsSync(endpoint)) {
    if (!running || performance.now() > until) {
      child.kill('SIGKILL')
      await ended
      throw new Error(`the service in ${processes} processes did not start`)
    }
    await sleep(50)
  }
  const address = JSON.parse(await readFile(endpoint, 'utf8')) as ServiceAddress
  return {
    ...address,
    observe: () => Promise.reject(new Error('a service of several processes notes nothing for the bench')),
    cpuSeconds: () => cpuSecondsOf(child.pid ?? 0),
    async close() {
      child.kill('SIGTERM')
      await ended
    },
  }
}

const startWithinMs = 60_000

/** Of a process and all that it started, from /proc; undefined where there is none. Of 1/100 s, as Linux counts for programs. */
function cpuSecondsOf(root: number): number | undefined {
  if (!existsSync('/proc/self/stat')) return undefined
  const parents = new Map<number, { readonly parent: number; readonly ticks: number }>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      const text = readFileSync(`/proc/${name}/stat`, 'utf8')
      // After the name, which may hold anything, in brackets: state, parent, …; 12th and 13th are user and system time.
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
      parents.set(Number(name), { parent: Number(fields[1]), ticks: Number(fields[11]) + Number(fields[12]) })
    } catch {
      // It has ended meanwhile.
    }
  }
  const isOurs = (pid: number): boolean => pid === root || (pid > 1 && isOurs(parents.get(pid)?.parent ?? 0))
  let ticks = 0
  for (const [pid, { ticks: used }] of parents) if (isOurs(pid)) ticks += used
  return ticks / 100
}

/** Runs the raw token loop in its own process; undefined where the token cannot do it. */
function rawLoop(order: RawLoopOrder, env: Readonly<Record<string, string>> | undefined): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const child = fork(programOf(new URL('hsm/raw-loop.ts', import.meta.url)), [], {
      execArgv: [...loaderFlags],
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      ...(env && { env }),
    })
    let perSecond: number | undefined
    child.once('message', (result) => (perSecond = (result as RawLoopResult).perSecond))
    child.once('error', reject)
    child.once('close', () => resolve(perSecond))
    child.send(order)
  })
}

// ---- what the figures were taken on ----

function describeToken(token: Token, { library }: Reached, sessions: number): Machine['token'] {
  const { profile, manufacturer, model, firmware } = token.info()
  const { wrapScheme, wrapSchemes } = token.capabilities()
  return {
    library: basename(library),
    profile: isAbsolute(profile) ? basename(profile) : profile,
    manufacturer,
    model,
    firmware,
    sessions,
    wrapScheme: wrapScheme ?? null,
    wrapSchemes,
  }
}

function describeMachine(token: Machine['token']): Machine {
  const all = cpus()
  const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { readonly version: string }
  return {
    cpu: all[0]?.model.trim() ?? 'unknown',
    cores: all.length,
    memoryBytes: totalmem(),
    platform: `${process.platform} ${process.arch} ${release()}`,
    versions: { holdfast: manifest.version, commit: commit(), node: process.versions.node, openssl: process.versions.openssl },
    token,
  }
}

/** Which version of the sources, where they are a working copy of git. */
function commit(): string | null {
  try {
    const cwd = fileURLToPath(new URL('..', import.meta.url))
    return execFileSync('git', ['rev-parse', '--short=12', 'HEAD'], { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return null
  }
}
