/** What listens: the operations port, the main port with what answers behind it, the port of the XKS proxy. Part of the wiring. */

import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import type { Log } from './base/log.ts'
import { openBulkPool } from './bulk/bulk-pool.ts'
import type { Config } from './config/settings.ts'
import { openDataKeyCache, type DataKeyCache } from './envelope/cache.ts'
import type { Ground } from './ground.ts'
import { openApp } from './http/app.ts'
import { openDoor, type Door } from './http/door.ts'
import { openEnvelopeDoor, type EnvelopeDoor } from './http/envelope.ts'
import { openOps, type OpsOptions } from './http/ops.ts'
import { listen, type Listener, type TlsFiles } from './http/server.ts'
import { openXksDoor, xksSuites } from './http/xks.ts'
import { deadInstances } from './kms/lifecycle.ts'
import { apis } from './kms/operations/index.ts'
import type { Service } from './kms/service.ts'
import { openXksHealth, type XksHealth } from './kms/xks/health.ts'
import { openXksProxy } from './kms/xks/proxy.ts'
import type { OpenTokens } from './tokens.ts'

export const tlsOf = ({ tls: { certFile, keyFile } }: Config): TlsFiles | undefined =>
  certFile === undefined || keyFile === undefined ? undefined : { certFile, keyFile }

/** What the XKS proxy shows in the TLS handshake: a certificate of its own, else that of the other ports. */
export function xksTls({ tls, xksProxy }: Config): TlsFiles | undefined {
  const { clientCaFile, clientNames } = xksProxy
  const { certFile, keyFile } = xksProxy.certFile === undefined ? tls : xksProxy
  if (certFile === undefined || keyFile === undefined) return undefined
  const clients = clientCaFile !== undefined && clientNames !== undefined ? { caFile: clientCaFile, names: clientNames } : undefined
  return { certFile, keyFile, suites: xksSuites, ...(clients && { clients }) }
}

export const openOpsPort = (config: Config, log: Log, told: Omit<OpsOptions, 'log'>): Promise<Listener> =>
  listen({
    ...config.http,
    tls: tlsOf(config),
    log,
    name: 'ops',
    host: config.opsHost ?? config.host,
    port: config.opsPort,
    handle: openOps({ ...told, log }),
  })

export interface Doors {
  readonly door: Door
  readonly envelope: EnvelopeDoor
}

/** What answers behind the main port: calls, streams, and a word to whoever asks for something else. */
export function openDoors({ config, clock, log, metrics, opened }: Ground, service: Service): Doors {
  const app = openApp(log)
  const cache = openCache(config)
  if (cache) opened.add('data keys', { close: async () => cache.close() })
  // Streams take what calls leave: a processor is the event loop's, and on the others threads of theirs run when nothing else of the service has to.
  const spareProcessors = Math.max(1, availableParallelism() - 1)
  const pool = opened.add('bulk threads', openBulkPool({ niceness: 10, threads: config.envelope.threads ?? spareProcessors }))
  const envelope = openEnvelopeDoor({ service, apis, clock, log, metrics, pool, limits: config.envelope, cache })
  const door = openDoor({
    service,
    apis,
    clock,
    log,
    metrics,
    ...config.http,
    otherwise: (request, response) => (envelope.takes(request) ? envelope.handle(request, response) : app(request, response)),
  })
  return { door, envelope }
}

/** Of data keys that serve several messages, where that is wanted. */
function openCache({ envelope }: Config): DataKeyCache | undefined {
  const { cacheMaxAgeMs: maxAgeMs, cacheMaxMessages: maxMessages, cacheMaxBytes: maxBytes, cacheCapacity: capacity } = envelope
  return maxAgeMs === undefined ? undefined : openDataKeyCache({ maxAgeMs, maxMessages, maxBytes, capacity })
}

export async function openMainPort({ config, log, opened }: Ground, { door, envelope }: Doors): Promise<Listener> {
  const listener = await listen({
    ...config.http,
    tls: tlsOf(config),
    log,
    name: 'kms',
    host: config.host,
    port: config.port,
    handle: (request, response) => door.handle(request, response),
    takesLong: (socket) => envelope.isStreaming(socket),
  })
  return opened.add('main port', listener)
}

/** How long the body of a request to the XKS proxy may take: none is longer than a few packets. */
const xksBodyTimeoutMs = 1000
/** How long who asks too often, or cannot sign, waits to be told so. */
const xksHoldMs = 100

/** The XKS proxy and its port, where it is wanted. */
export async function openXksPort(ground: Ground, service: Service, tokens: OpenTokens): Promise<Listener | undefined> {
  const { config, clock, log, metrics, opened } = ground
  const { port, host, deadlineMs, maxCalls } = config.xksProxy
  if (port === undefined) return undefined
  const health = opened.add('XKS health', watchTokens(service, tokens, deadlineMs / 2))
  // The first look at the tokens is over before anybody can ask what it found.
  await health.read()
  const proxy = opened.add('XKS proxy', openXksProxy(service, { health: health.read }))
  const door = openXksDoor({ proxy, clock, log, metrics, deadlineMs, maxCalls, bodyTimeoutMs: xksBodyTimeoutMs, holdMs: xksHoldMs })
  const listener = await listen({
    ...config.http,
    // Nobody waits that long for an answer.
    headersTimeoutMs: Math.min(config.http.headersTimeoutMs, xksBodyTimeoutMs * 5),
    name: 'xks',
    host: host ?? config.host,
    port,
    tls: xksTls(config),
    handle: (request, response) => door.handle(request, response),
    handleHttp2: (request, response) => door.handle(request, response),
    log,
  })
  metrics.gauge('holdfast_xks_proxy_connections', 'Open connections on the port of the XKS proxy.', () => listener.connections())
  return opened.add('XKS port', listener)
}

function watchTokens(service: Service, tokens: OpenTokens, slowMs: number): XksHealth {
  const { store, clock, log } = service
  return openXksHealth({
    tokens: tokens.all,
    fleetSize: async () => (await store.instances()).length - (await deadInstances(service)).known.length,
    product: `Holdfast ${ownVersion()}`,
    clock,
    log,
    slowMs,
  })
}

/** What `package.json` says. */
function ownVersion(): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { readonly version: string }
  return version
}
