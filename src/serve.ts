/**
 * The service: opens each room with what it needs, tells where it listens, and closes everything in the other order when
 * a signal says so. SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reads the TLS certificates again; SIGUSR2 replaces the processes of a
 * service that has several, one after the other.
 */

import { existsSync, readFileSync } from 'node:fs'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { dirname, relative } from 'node:path'
import { openBulkPool } from './bulk/bulk-pool.ts'
import { openCryptoPool } from './bulk/crypto-pool.ts'
import { openTrail } from './audit/open.ts'
import type { Trail } from './audit/trail.ts'
import { systemClock } from './base/clock.ts'
import { openLog, type Log, type OpenLog } from './base/log.ts'
import { joinMetrics, openMetrics } from './base/metrics.ts'
import type { Spans } from './base/spans.ts'
import { within } from './base/within.ts'
import { exitCodes } from './cli/command.ts'
import { saveProfile } from './cli/credentials-file.ts'
import { placesIn } from './config/places.ts'
import { ConfigError, readConfig } from './config/read.ts'
import type { Config } from './config/settings.ts'
import { openDataKeyCache } from './envelope/cache.ts'
import type { Token } from './hsm/token.ts'
import { openApp } from './http/app.ts'
import { openDoor } from './http/door.ts'
import { openEnvelopeDoor } from './http/envelope.ts'
import { openOps, openReadiness, type OpsOptions } from './http/ops.ts'
import { listen, type Listener, type TlsFiles } from './http/server.ts'
import { openXksDoor, xksSuites } from './http/xks.ts'
import { standardBudget } from './kms/budget.ts'
import { bootstrapAccount } from './kms/identity.ts'
import { standardRates } from './kms/quotas.ts'
import { isKeyStoreId } from './kms/key-stores.ts'
import { apis } from './kms/operations/index.ts'
import { openService, type Service } from './kms/service.ts'
import { deadInstances } from './kms/lifecycle.ts'
import { ensureSystemKey } from './kms/system-keys.ts'
import { openXksHealth } from './kms/xks/health.ts'
import { openXksProxy } from './kms/xks/proxy.ts'
import { isMember, joinProcesses, leaveProcesses, planProcesses, superviseProcesses, type Membership, type Processes } from './processes.ts'
import { openStore } from './store/open.ts'
import type { Store } from './store/store.ts'
import { openXksClient } from './xks/client.ts'
import { homeToken, keyStoreTokens, openTokens, planTokens, type OpenTokens } from './tokens.ts'
import { watchKeyStores, watchProxies, watchRooms } from './serve-metrics.ts'

/** Runs the service until a signal ends it; answers the exit code. */
export async function serve(): Promise<number> {
  const { config, warnings } = readOwnConfig()
  const log = openLog({ level: config.logLevel })
  const membership = isMember() ? joinProcesses(log) : undefined
  // The supervisor has said them.
  if (!membership) for (const warning of warnings) log.warn({}, warning)
  const signals = membership ? undefined : listenForSignals(log)
  const endOnDefect = (error: unknown): void => {
    log.error({ err: error }, 'a defect: the service ends')
    log.flush()
    process.exit(exitCodes.failed)
  }
  process.on('uncaughtException', endOnDefect)
  process.on('unhandledRejection', endOnDefect)
  try {
    const house = await (!membership && planProcesses(config).count > 1
      ? openProcesses(config, log)
      : openHouse(config, log, { membership }))
    if (house.reload) signals?.onReload(house.reload)
    if (house.restart) signals?.onRestart(house.restart)
    if (!membership) process.stderr.write(house.greeting)
    const reason = await (membership ?? signals)?.stop
    log.info({ reason }, 'stopping: calls under way are finished')
    await house.close()
    log.info({}, 'stopped')
    return exitCodes.done
  } catch (error) {
    log.debug({ err: error }, 'the service could not start')
    throw error
  } finally {
    log.flush()
    signals?.close()
    leaveProcesses()
    process.off('uncaughtException', endOnDefect)
    process.off('unhandledRejection', endOnDefect)
  }
}

/** @throws ConfigError; one of several processes, which reads what may have changed since the first was started, can end then. */
function readOwnConfig(): ReturnType<typeof readConfig> {
  try {
    return readConfig()
  } catch (error) {
    leaveProcesses()
    throw error
  }
}

/** The same as `openHouse`, in several processes. */
async function openProcesses(config: Config, log: Log): Promise<House> {
  const opened = new Opened(config.http.drainTimeoutMs)
  try {
    await makeDataDir(config.dataDir)
    let processes: Processes | undefined
    const ops = opened.add(
      'operations port',
      await openOpsPort(config, log, {
        metrics: { page: (overall) => processes?.page(overall) ?? joinMetrics([]) },
        readiness: async () => processes?.readiness() ?? { ready: false, checks: { service: { ok: false, detail: 'starting' } } },
      }),
    )
    const drainWithinMs = closeTimeoutMs + config.http.drainTimeoutMs
    processes = opened.add('processes', await superviseProcesses(planProcesses(config).count, drainWithinMs, log))
    const { url, xksUrl } = processes.address
    const reloadAll = (): void => processes?.reload()
    const places = placesIn(config.dataDir)
    opened.add('endpoint file', await announce(places.endpoint, { url, opsUrl: ops.url, xksUrl }))
    log.info({ url, opsUrl: ops.url, xksUrl, regions: config.regions, processes: planProcesses(config).count }, 'ready')
    return {
      url,
      opsUrl: ops.url,
      greeting: greet(config, places.credentials, url, ops.url),
      reload:
        (tlsOf(config) ?? xksTls(config)) &&
        (() => {
          ops.reloadCertificate()
          reloadAll()
        }),
      restart: () => void processes?.restart(),
      close: () => opened.close(log),
    }
  } catch (error) {
    await opened.close(log)
    throw error
  }
}

const tlsOf = ({ tls: { certFile, keyFile } }: Config): TlsFiles | undefined =>
  certFile === undefined || keyFile === undefined ? undefined : { certFile, keyFile }

const openOpsPort = (config: Config, log: Log, told: OpsOptions): Promise<Listener> =>
  listen({
    ...config.http,
    tls: tlsOf(config),
    log,
    name: 'ops',
    host: config.opsHost ?? config.host,
    port: config.opsPort,
    handle: openOps(told),
  })

/** What is open, in the order of opening. Closed from the end; a failure to close one does not keep the others open. */
class Opened {
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
const closeTimeoutMs = 60_000

/** Everything, open and answering. */
export interface House {
  readonly url: string
  readonly opsUrl: string
  /** Of the XKS proxy, where there is one. */
  readonly xksUrl?: string
  /** For whoever started it in a terminal. */
  readonly greeting: string
  /** Reads the certificate again; undefined without TLS. */
  readonly reload: (() => void) | undefined
  /** Replaces its processes while callers are served; only where there are several. */
  readonly restart?: () => void
  /** Turns callers away, finishes calls under way, seals the audit trail, closes everything. */
  close(): Promise<void>
}

/** What the bench puts in the place of rooms of a house that it measures. No setting leads here. */
export interface Fittings {
  readonly spans?: Spans
  readonly token?: (token: Token) => Token
  readonly trail?: (trail: Trail) => Trail
  /** This house is one of several on the same ports; its supervisor has the operations port, and speaks for all. */
  readonly membership?: Membership | undefined
}

/** Opens the house; what was opened is closed again when a later room cannot be. */
export async function openHouse(config: Config, log: Log, fittings: Fittings = {}): Promise<House> {
  const opened = new Opened(config.http.drainTimeoutMs)
  try {
    return await openRooms(config, log, opened, fittings)
  } catch (error) {
    await opened.close(log)
    throw error
  }
}

/** Made with its parents, for its owner alone. @throws ConfigError when it cannot be. */
async function makeDataDir(dataDir: string): Promise<void> {
  try {
    // Only where the parent is missing: Node's recursive form never ends where the system answers ENOENT for other reasons (/proc).
    await mkdir(dataDir, { recursive: !existsSync(dirname(dataDir)), mode: 0o700 })
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code !== 'EEXIST') throw new ConfigError([`HOLDFAST_DATA_DIR is ${dataDir}, which cannot be made: ${message}. Choose another.`])
  }
}

async function openRooms(config: Config, log: Log, opened: Opened, fittings: Fittings): Promise<House> {
  const places = placesIn(config.dataDir)
  const metrics = openMetrics(fittings.membership?.name)
  const clock = systemClock
  await makeDataDir(config.dataDir)

  // The operations port first: a start that waits for the device shows as not ready, not as dead.
  let tokens: OpenTokens | undefined
  let store: Store | undefined
  let service: Service | undefined
  let draining = false
  const notYet = (): Promise<never> => Promise.reject(new Error('starting'))
  const { membership } = fittings
  const tls = tlsOf(config)
  const limits = { tls, log, ...config.http }
  const readiness = openReadiness({
    checks: {
      token: () => tokens?.home.check() ?? notYet(),
      store: () => store?.ping() ?? notYet(),
      service: () => (service ? Promise.resolve() : notYet()),
    },
    // Told, and not decisive: without one of these only the keys in it stand still.
    parts: () => Object.fromEntries(others(tokens).map(([name, token]) => [`token ${name}`, () => token.check()])),
    draining: () => draining,
  })
  const ops = membership ? undefined : opened.add('operations port', await openOpsPort(config, log, { metrics, readiness }))

  const plans = await planTokens(config)
  // Together: with many keys each of the two takes its time, in processes and threads of its own.
  const [storing, reaching] = await Promise.allSettled([
    openStore({ file: places.database, clock, log, ...(membership && { onWritten: membership.tellWritten }) }),
    openTokens(plans, log),
  ])
  if (storing.status === 'fulfilled') opened.add('store', storing.value)
  if (reaching.status === 'fulfilled') opened.add('tokens', reaching.value)
  if (reaching.status === 'rejected') throw reaching.reason
  if (storing.status === 'rejected') throw storing.reason
  tokens = reaching.value
  store = storing.value
  membership?.onWritten(() => storing.value.refresh())
  const token = tokens.home
  const auditKey = await ensureSystemKey({ token, store }, 'audit', 'signing')
  const observeCommit = metrics.seconds('holdfast_audit_commit_seconds', 'How long audit records took to become durable.')
  const trail = await openTrail({
    file: places.auditTrail,
    clock,
    log,
    sign: (digest) => token.sign(auditKey.ckaId, digest),
    publicKey: () => token.publicKey(auditKey.ckaId),
    sealEveryMs: config.audit.sealIntervalMs,
    onCommit: (_records, seconds) => observeCommit(seconds),
  })
  opened.add('audit trail', trail)
  const offload = opened.add('crypto threads', openCryptoPool())
  opened.add('retention', pruneDaily(trail, config.audit.retentionDays, log))
  service = opened.add(
    'service',
    await openService({
      config: {
        regions: config.regions,
        accountId: config.accountId,
        lifecycleIntervalMs: config.lifecycle.intervalMs,
        budget: standardBudget,
        requestRates: config.quotas.requestRates === 'off' ? {} : { ...standardRates, ...config.quotas.requestRates },
        quotas: config.quotas,
        awsServices: config.awsServices,
        usage: {
          ...config.usage,
          prices: {
            keyMonth: config.usage.pricePerKeyMonth,
            requests: {
              standard: config.usage.pricePerRequests,
              asymmetric: config.usage.pricePerAsymmetricRequests,
              eccKeyPair: config.usage.pricePerEccKeyPairs,
              rsaKeyPair: config.usage.pricePerRsaKeyPairs,
            },
          },
        },
      },
      token: fittings.token?.(token) ?? token,
      tokens: fittings.token ? new Map([...tokens.all].map(([name, one]) => [name, fittings.token?.(one) ?? one])) : tokens.all,
      regionTokens: plans.regions,
      keyStoreRooms: {
        keyStoreTokens: keyStoreTokens(config, log),
        xks: openXksClient({
          caFile: config.xks.caFile,
          connectTo: new Map(Object.entries(config.xks.connectTo)),
          deadlineMs: config.xks.deadlineMs,
          clock,
          onCall: watchProxies(metrics),
        }),
        healthIntervalMs: config.xks.healthIntervalMs,
      },
      store,
      trail: fittings.trail?.(trail) ?? trail,
      offload,
      ...(fittings.spans && { spans: fittings.spans }),
      auditKey,
      clock,
      log,
      metrics,
    }),
  )
  const unknown = new Set([...store.view.allKeys()].map(({ token: name }) => name).filter((name) => !isKeyStoreId(name)))
  for (const { name } of plans.tokens) unknown.delete(name)
  for (const name of unknown) log.error({ token: name }, 'keys are in a token that is not configured: they are unavailable until it is')
  // The file comes before the row: a key that only the database knew could never be used.
  const isNew = await bootstrapAccount(service, (credential) => saveProfile(places.credentials, 'default', credential))
  if (isNew)
    log.info(
      { accountId: config.accountId, credentials: places.credentials },
      'the account was made; its root access key is in the credentials file',
    )

  const app = openApp()
  const { cacheMaxAgeMs, cacheMaxMessages, cacheMaxBytes, cacheCapacity, threads } = config.envelope
  const dataKeys =
    cacheMaxAgeMs === undefined
      ? undefined
      : openDataKeyCache({ maxAgeMs: cacheMaxAgeMs, maxMessages: cacheMaxMessages, maxBytes: cacheMaxBytes, capacity: cacheCapacity })
  if (dataKeys) opened.add('data keys', { close: async () => dataKeys.close() })
  // Streams take what calls leave: a processor is the event loop's, and on the others a thread of theirs gets a third of the time of one that answers calls.
  const spareProcessors = Math.max(1, availableParallelism() - 1)
  const pool = opened.add('bulk threads', openBulkPool({ niceness: 5, threads: threads ?? spareProcessors }))
  const envelope = openEnvelopeDoor({ service, apis, clock, log, metrics, pool, limits: config.envelope, cache: dataKeys })
  const door = openDoor({
    service,
    apis,
    clock,
    log,
    metrics,
    ...config.http,
    otherwise: (request, response) => (envelope.takes(request) ? envelope.handle(request, response) : app(request, response)),
  })
  if (membership) {
    await membership.join()
    // Ended after the ports, so that it has counted all, and before what it reads.
    opened.add('figures', membership)
  }
  const main = opened.add(
    'main port',
    await listen({
      ...limits,
      name: 'kms',
      host: config.host,
      port: config.port,
      handle: (request, response) => door.handle(request, response),
      takesLong: (socket) => envelope.isStreaming(socket),
    }),
  )
  const xks = config.xksProxy.port === undefined ? undefined : await openXks(config, config.xksProxy.port, service, tokens, opened)
  watchRooms(metrics, { tokens: tokens.all, store, trail, main, calls: () => door.calls() })
  watchKeyStores(metrics, service)
  const address = { url: main.url, xksUrl: xks?.url }
  if (ops) opened.add('endpoint file', await announce(places.endpoint, { ...address, opsUrl: ops.url }))
  log.info(
    {
      ...address,
      opsUrl: ops?.url,
      regions: config.regions,
      token: token.info(),
      wrapScheme: token.capabilities().wrapScheme,
      tokens: Object.fromEntries(plans.regions),
    },
    'ready',
  )
  const opsUrl = ops?.url ?? ''
  const reload = (tls ?? xksTls(config)) && (() => [main, ops, xks].forEach((listener) => listener?.reloadCertificate()))
  const { buckets } = service
  const listeners = { main, ...(xks && { xks }) }
  membership?.ready(address, {
    readiness,
    metricValues: () => metrics.values(),
    reload,
    shared: {
      takings: () => buckets.takings(),
      takenElsewhere: (takings) => buckets.takenElsewhere(takings, clock.now()),
      missing: () => buckets.missing(clock.now()),
      connections: () => Object.fromEntries(Object.entries(listeners).map(([name, listener]) => [name, listener.established()])),
      connectionsElsewhere(counts) {
        for (const [name, listener] of Object.entries(listeners)) listener.connectionsElsewhere(counts[name] ?? 0)
      },
    },
  })
  return {
    url: main.url,
    opsUrl,
    ...(xks && { xksUrl: xks.url }),
    greeting: greet(config, places.credentials, main.url, opsUrl),
    reload,
    close() {
      draining = true
      return opened.close(log)
    },
  }
}

/** What the XKS proxy shows in the TLS handshake: a certificate of its own, else that of the other ports. */
function xksTls({ tls, xksProxy }: Config): TlsFiles | undefined {
  const { clientCaFile, clientNames } = xksProxy
  const { certFile, keyFile } = xksProxy.certFile === undefined ? tls : xksProxy
  if (certFile === undefined || keyFile === undefined) return undefined
  const clients = clientCaFile !== undefined && clientNames !== undefined ? { caFile: clientCaFile, names: clientNames } : undefined
  return { certFile, keyFile, suites: xksSuites, ...(clients && { clients }) }
}

/** How long the body of a request to the XKS proxy may take: none is longer than a few packets. */
const xksBodyTimeoutMs = 1000
/** How long who asks too often, or cannot sign, waits to be told so. */
const xksHoldMs = 100

async function openXks(config: Config, port: number, service: Service, tokens: OpenTokens, opened: Opened): Promise<Listener> {
  const { clock, log, metrics, store } = service
  const { deadlineMs, maxCalls } = config.xksProxy
  const health = openXksHealth({
    tokens: tokens.all,
    fleetSize: async () => (await store.instances()).length - (await deadInstances(service)).known.length,
    product: `Holdfast ${ownVersion()}`,
    clock,
    log,
    slowMs: deadlineMs / 2,
  })
  opened.add('XKS health', health)
  // The first look at the tokens is over before anybody can ask what it found.
  await health.read()
  const proxy = opened.add('XKS proxy', openXksProxy(service, { health: health.read }))
  const door = openXksDoor({ proxy, clock, log, metrics, deadlineMs, maxCalls, bodyTimeoutMs: xksBodyTimeoutMs, holdMs: xksHoldMs })
  const listener = await listen({
    ...config.http,
    // Nobody waits that long for an answer.
    headersTimeoutMs: Math.min(config.http.headersTimeoutMs, xksBodyTimeoutMs * 5),
    name: 'xks',
    host: config.xksProxy.host ?? config.host,
    port,
    tls: xksTls(config),
    handle: (request, response) => door.handle(request, response),
    handleHttp2: (request, response) => door.handle(request, response),
    log,
  })
  metrics.gauge('holdfast_xks_proxy_connections', 'Open connections on the port of the XKS proxy.', () => listener.connections())
  return opened.add('XKS port', listener)
}

/** What `package.json` says. */
function ownVersion(): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { readonly version: string }
  return version
}

/** All but home. */
const others = (tokens: OpenTokens | undefined): readonly (readonly [string, Token])[] =>
  [...(tokens?.all ?? [])].filter(([name]) => name !== homeToken)

/** Once a day, and at the start, removes audit records older than the retention. Without one, never. */
function pruneDaily(
  trail: { prune(beforeMs: number): Promise<{ readonly records: number }> },
  retentionDays: number | undefined,
  log: Log,
): { close(): Promise<void> } {
  if (retentionDays === undefined) return { close: async () => undefined }
  const dayMs = 86_400_000
  let round = Promise.resolve()
  const removeOld = async (): Promise<void> => {
    try {
      const { records } = await trail.prune(systemClock.now() - retentionDays * dayMs)
      if (records > 0) log.info({ records, retentionDays }, 'audit records past their retention were removed')
    } catch (error) {
      log.error({ err: error }, 'audit records past their retention could not be removed; it is tried again tomorrow')
    }
  }
  const prune = (): void => {
    round = removeOld()
  }
  prune()
  const timer = setInterval(prune, dayMs)
  timer.unref()
  return {
    async close() {
      clearInterval(timer)
      await round
    },
  }
}

/** Where a caller on this machine reaches what listens on every address. */
const reachable = (url: string): string => url.replace('://0.0.0.0:', '://127.0.0.1:').replace('://[::]:', '://[::1]:')

/** Says in the data directory where this process listens, for as long as it does. What another living process says there stays. */
async function announce(
  file: string,
  { url, opsUrl, xksUrl }: { readonly url: string; readonly opsUrl: string; readonly xksUrl: string | undefined },
): Promise<{ close(): Promise<void> }> {
  if (announcedByAnother(file)) return { close: async () => undefined }
  const urls = { url: reachable(url), opsUrl: reachable(opsUrl), ...(xksUrl !== undefined && { xksUrl: reachable(xksUrl) }) }
  const text = `${JSON.stringify({ ...urls, pid: process.pid })}\n`
  const beside = `${file}.${process.pid}`
  await writeFile(beside, text)
  await rename(beside, file)
  return {
    async close() {
      // Another instance may have announced itself since.
      if (existsSync(file) && readFileSync(file, 'utf8') === text) await rm(file, { force: true })
    },
  }
}

function announcedByAnother(file: string): boolean {
  try {
    const { pid } = JSON.parse(readFileSync(file, 'utf8')) as { readonly pid?: unknown }
    return typeof pid === 'number' && pid !== process.pid && process.kill(pid, 0)
  } catch {
    // Not there, not ours to read, or of a process that is no more.
    return false
  }
}

function greet(config: Config, credentials: string, mainUrl: string, opsUrl: string): string {
  const quoted = (path: string): string => (/^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", String.raw`'\''`)}'`)
  const near = relative(process.cwd(), credentials)
  const file = quoted(near.startsWith('..') ? credentials : near)
  const trust = config.tls.certFile === undefined ? '' : `AWS_CA_BUNDLE=${quoted(config.tls.certFile)} `
  const url = reachable(mainUrl)
  return [
    '',
    `Holdfast answers at ${mainUrl} for ${config.regions.join(', ')}; readiness and metrics at ${opsUrl}. Try:`,
    '',
    `  ${trust}AWS_SHARED_CREDENTIALS_FILE=${file} aws --endpoint-url ${url} --region ${config.regions[0]} kms create-key`,
    '',
    '',
  ].join('\n')
}

interface Signals {
  /** Resolves with the signal's name at the first SIGTERM or SIGINT. A later one ends the process at once. */
  readonly stop: Promise<string>
  /** What SIGHUP does. */
  onReload(reload: () => void): void
  /** What SIGUSR2 does. */
  onRestart(restart: () => void): void
  close(): void
}

function listenForSignals(log: OpenLog): Signals {
  let reload: (() => void) | undefined
  let restart: (() => void) | undefined
  let askedAt: number | undefined
  let stopped = (_reason: string): void => undefined
  const stop = new Promise<string>((resolve) => (stopped = resolve))
  const onStop = (signal: NodeJS.Signals): void => {
    // Ctrl-C under npm arrives twice: from the terminal and passed on by npm.
    if (askedAt !== undefined && performance.now() - askedAt < 1000) return
    if (askedAt !== undefined) {
      log.warn({ signal }, 'told again: ending at once')
      log.flush()
      process.exit(exitCodes.failed)
    }
    askedAt = performance.now()
    stopped(signal)
  }
  const onHangup = (): void => {
    // A terminal that closes sends it too; a service that was started in one goes with it.
    if (reload) reload()
    else if (process.stdout.isTTY) onStop('SIGHUP')
  }
  process.on('SIGTERM', onStop)
  process.on('SIGINT', onStop)
  process.on('SIGHUP', onHangup)
  const onRestart = (): void => {
    if (restart) restart()
    else
      log.warn(
        {},
        'SIGUSR2 replaces the processes of a service that has several (HOLDFAST_PROCESSES); this one has not, or has not started yet',
      )
  }
  process.on('SIGUSR2', onRestart)
  return {
    stop,
    onReload(next) {
      reload = next
    },
    onRestart(next) {
      restart = next
    },
    close() {
      process.off('SIGTERM', onStop)
      process.off('SIGINT', onStop)
      process.off('SIGHUP', onHangup)
      process.off('SIGUSR2', onRestart)
    },
  }
}
