/** The house: opens each room with what it needs, in the order in which they need each other, and closes all in the other. Part of the wiring. */

import { systemClock } from './base/clock.ts'
import type { Log } from './base/log.ts'
import { openMetrics } from './base/metrics.ts'
import { placesIn } from './config/places.ts'
import type { Config } from './config/settings.ts'
import { announce, greet } from './endpoint.ts'
import { makeDataDir, Opened, type Fittings, type Ground } from './ground.ts'
import { openReadiness, type Readiness } from './http/ops.ts'
import type { Listener } from './http/server.ts'
import type { Service } from './kms/service.ts'
import { openDoors, openMainPort, openOpsPort, openXksPort, tlsOf, xksTls } from './ports.ts'
import type { Shared } from './processes.ts'
import { openAudit, openMemory, openServiceRoom, type Memory } from './rooms.ts'
import { watchKeyStores, watchRooms } from './serve-metrics.ts'
import { homeToken, planTokens } from './tokens.ts'

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

/** Opens the house; what was opened is closed again when a later room cannot be. */
export async function openHouse(config: Config, log: Log, fittings: Fittings = {}): Promise<House> {
  const opened = new Opened(config.http.drainTimeoutMs)
  const metrics = openMetrics(fittings.membership?.name)
  try {
    return await openRooms({ config, places: placesIn(config.dataDir), log, metrics, clock: systemClock, fittings, opened })
  } catch (error) {
    await opened.close(log)
    throw error
  }
}

async function openRooms(ground: Ground): Promise<House> {
  const { config, places, log, metrics, fittings, opened } = ground
  const { membership } = fittings
  await makeDataDir(config.dataDir)
  // The operations port first: a start that waits for the device shows as not ready, not as dead.
  const state: State = { draining: false }
  const readiness = readinessOf(state)
  const ops = membership ? undefined : opened.add('operations port', await openOpsPort(config, log, { metrics, readiness }))

  const plans = await planTokens(config)
  const memory = await openMemory(ground, plans)
  const { tokens, store } = (state.memory = memory)
  const audit = await openAudit(ground, memory)
  const service = (state.service = await openServiceRoom(ground, plans, memory, audit))
  const doors = openDoors(ground, service)
  if (membership) {
    await membership.join()
    // Ended after the ports, when no more calls come to be counted, and before the rooms whose figures are asked for.
    opened.add('figures', membership)
  }
  const main = await openMainPort(ground, doors)
  const xks = await openXksPort(ground, service, tokens)
  watchRooms(metrics, { tokens: tokens.all, store, trail: audit.trail, main, calls: () => doors.door.calls() })
  watchKeyStores(metrics, service)

  const address = { url: main.url, xksUrl: xks?.url }
  if (ops) opened.add('endpoint file', await announce(places.endpoint, { ...address, opsUrl: ops.url }))
  log.info(
    {
      ...address,
      opsUrl: ops?.url,
      regions: config.regions,
      token: tokens.home.info(),
      wrapScheme: tokens.home.capabilities().wrapScheme,
      tokens: Object.fromEntries(plans.regions),
    },
    'ready',
  )
  const reload = (tlsOf(config) ?? xksTls(config)) && (() => [main, ops, xks].forEach((listener) => listener?.reloadCertificate()))
  const shared = sharedBy(service, { main, ...(xks && { xks }) })
  membership?.ready(address, { readiness, metricValues: () => metrics.values(), reload, shared })
  const opsUrl = ops?.url ?? ''
  return {
    url: main.url,
    opsUrl,
    ...(xks && { xksUrl: xks.url }),
    greeting: greet(config, places.credentials, main.url, opsUrl),
    reload,
    close() {
      state.draining = true
      return opened.close(log)
    },
  }
}

/** How far the house has come. */
interface State {
  memory?: Memory
  service?: Service
  draining: boolean
}

function readinessOf(state: State): () => Promise<Readiness> {
  const notYet = (): Promise<never> => Promise.reject(new Error('starting'))
  const others = () => [...(state.memory?.tokens.all ?? [])].filter(([name]) => name !== homeToken)
  return openReadiness({
    checks: {
      token: () => state.memory?.tokens.home.check() ?? notYet(),
      store: () => state.memory?.store.ping() ?? notYet(),
      service: () => (state.service ? Promise.resolve() : notYet()),
    },
    // Told, and not decisive: without one of these only the keys in it stand still.
    parts: () => Object.fromEntries(others().map(([name, token]) => [`token ${name}`, () => token.check()])),
    draining: () => state.draining,
  })
}

/** What is limited for all processes together, of this one. */
function sharedBy({ buckets, clock }: Service, listeners: Readonly<Record<string, Listener>>): Shared {
  return {
    takings: () => buckets.takings(),
    takenElsewhere: (takings) => buckets.takenElsewhere(takings, clock.now()),
    missing: () => buckets.missing(clock.now()),
    connections: () => Object.fromEntries(Object.entries(listeners).map(([name, listener]) => [name, listener.established()])),
    connectionsElsewhere(counts) {
      for (const [name, listener] of Object.entries(listeners)) listener.connectionsElsewhere(counts[name] ?? 0)
    },
  }
}
