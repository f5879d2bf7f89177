/**
 * The door of the XKS proxy (AWS KMS External Key Store Proxy API Specification 1.0.3): routes, methods, sizes and time; what a request means
 * is `XksProxy`'s.
 *
 * The path is taken as it stands: no decoding, no normalising, no query, so that what was signed is what was meant. In this order: route
 * (404), method (405), room for the call (429), the length of the body (501); then the call, stores taking turns (`FairGate`). An answer
 * that comes later than the deadline is worth nothing to AWS KMS, which waits for 250 ms: 503 is sent instead. Who asks too often, or cannot
 * sign, gets the answer after a moment: a loop of such requests then costs the others little.
 *
 * HTTP/1.1 and HTTP/2 look alike from here on. Nobody has signed what is refused here: it is logged, and the audit has the number of it.
 */

import type { IncomingMessage, ServerResponse } from 'node:http'
import { constants, type Http2ServerRequest, type Http2ServerResponse } from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { Metrics } from '../base/metrics.ts'
import type { XksAnswer, XksProxy } from '../kms/xks/proxy.ts'
import type { XksApi } from '../kms/xks/request.ts'
import { errorBody, errorStatuses, type ErrorName } from '../xks/protocol.ts'
import { addChunk } from './chunks.ts'
import { dropRest } from './exchange.ts'
import { FairGate } from './fair-gate.ts'
import { connectionLimits } from './tls-connections.ts'

type Request = IncomingMessage | Http2ServerRequest
type Response = ServerResponse | Http2ServerResponse

export interface XksDoorOptions {
  readonly proxy: XksProxy
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
  /** From the first byte to the answer. */
  readonly deadlineMs: number
  /** Calls at work at once, of all stores together. */
  readonly maxCalls: number
  /** How long a body may take to arrive. */
  readonly bodyTimeoutMs: number
  /** How long a 401 or 429 is held back; not beyond the deadline. */
  readonly holdMs: number
  /** Requests that are arriving or waiting or at work, of all connections: what bodies may hold together follows from it. */
  readonly maxOpen?: number
}

export interface XksDoor {
  handle(request: Request, response: Response): void
}

/** The longest request of the spec, with ARNs of 2048 characters, has 30,000 bytes. */
export const maxXksBodyBytes = 65_536
/** Those of which a proxy must have one at least, in OpenSSL's names: the first two are of TLS 1.3. */
export const xksSuites = [
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
] as const
/** The spec's longest URI is 256 characters long, without what follows the version. */
const maxPathLength = 512
const maxWaitingPerStore = 512
/** An answer that the inside owes at the deadline may come so much later; then the door answers by itself. */
const graceMs = 30

export interface Target {
  readonly prefix: string
  readonly api: XksApi
  readonly externalKeyId: string | undefined
}

const route = /^((?:\/[A-Za-z0-9_-]+)*?)\/kms\/xks\/v1\/(?:(health)|keys\/([A-Za-z0-9._-]{1,128})\/(metadata|encrypt|decrypt))$/

/** Which call a path names; undefined for every other path. */
export function readTarget(path: string): Target | undefined {
  if (path.length > maxPathLength) return undefined
  const [, prefix = '', health, externalKeyId, action] = route.exec(path) ?? []
  const api = health ?? action
  return api === undefined ? undefined : { prefix, api: api as XksApi, externalKeyId }
}

/** Said before a call has begun. */
interface Refusal {
  readonly status: number
  readonly name: ErrorName | undefined
  readonly message: string
  readonly headers?: Readonly<Record<string, string>>
}

const refusal = (name: ErrorName, message: string): Refusal => ({ status: errorStatuses[name], name, message })
const refusals = {
  noSuchPath: refusal('InvalidUriPathException', 'There is no key store at this URI path.'),
  // The spec has a status for it and no name.
  onlyPost: { status: 405, name: undefined, message: '', headers: { allow: 'POST' } },
  tooMany: refusal('ThrottlingException', 'Too many requests at once. Try again later.'),
  tooLong: refusal('UnsupportedOperationException', `The request is longer than ${maxXksBodyBytes} bytes.`),
  twice: refusal('ValidationException', 'A header that may be there once is there twice.'),
  twoHosts: refusal('ValidationException', 'The headers host and :authority name different hosts.'),
  // KMS has long gone when this is sent.
  tooSlow: { status: 408, name: undefined, message: '' },
} satisfies Record<string, Refusal>

const held: ReadonlySet<number> = new Set([errorStatuses.AuthenticationFailedException, errorStatuses.ThrottlingException])

/** How a body did not arrive. */
type NoBody = 'gone' | 'tooLong' | 'tooSlow'

/** What the log says of a request. A type, since an interface is no record of fields. */
type Event = { prefix?: string; api?: XksApi; path?: string; remoteAddress: string; status?: number; code?: string; ms?: number }

export function openXksDoor(options: XksDoorOptions): XksDoor {
  const { proxy, clock, log, metrics, deadlineMs, bodyTimeoutMs, holdMs, maxOpen = 4096 } = options
  const gate = new FairGate({ maxRunning: options.maxCalls, maxWaiting: maxWaitingPerStore, maxWaitMs: deadlineMs / 2 })
  const perConnection = new WeakMap<object, number>()
  /** Ends the waiting for a body; of who has waited longest first. */
  const arriving = new Set<() => void>()
  let open = 0
  const refused = new Map<string, number>()
  metrics.gauge('holdfast_xks_proxy_calls', 'Calls of external key stores at work.', () => gate.running)
  metrics.gauge('holdfast_xks_proxy_waiting', 'Calls of external key stores that wait for their turn.', () => gate.waiting)
  metrics.total('holdfast_xks_proxy_refused_total', 'Requests to the XKS proxy that ended at the door, by status.', () =>
    [...refused].map(([kind, value]) => ({ labels: { kind }, value })),
  )

  const count = (status: number): void => {
    refused.set(String(status), (refused.get(String(status)) ?? 0) + 1)
  }

  const refuse = (request: Request, response: Response, event: Event, { status, name, message, headers }: Refusal): void => {
    count(status)
    event.status = status
    event.code = name ?? String(status)
    proxy.refusedAtDoor(event.prefix, event.code, event.remoteAddress)
    log.info(event, 'an XKS request was refused at the door')
    sendEarly(request, response, status, name === undefined ? '' : errorBody(name, message), headers)
  }

  async function call(target: Target, request: Request, response: Response, event: Event): Promise<void> {
    const startedAt = performance.now()
    const receivedAt = clock.now()
    const body = await readBody(request, bodyTimeoutMs, arriving)
    if (!Buffer.isBuffer(body)) {
      if (body === 'gone') return log.debug(event, 'the caller went away before the request was complete')
      return refuse(request, response, event, refusals[body])
    }
    const msLeft = (): number => Math.max(0, deadlineMs - (performance.now() - startedAt))
    const entered = gate.enter(target.prefix)
    if (entered !== true && !(await entered)) {
      body.fill(0)
      await sleep(Math.min(holdMs, msLeft()))
      return refuse(request, response, event, refusals.tooMany)
    }
    let late = false
    const finish = ({ status, body: text }: XksAnswer, code?: ErrorName): void => {
      if (late) return
      event.status = status
      if (code !== undefined) event.code = code
      event.ms = Math.round((performance.now() - startedAt) * 1000) / 1000
      log.info(event, 'xks call')
      send(response, status, text)
    }
    const fail = (code: ErrorName, message: string): void => finish({ status: errorStatuses[code], body: errorBody(code, message) }, code)
    const overdue = setTimeout(() => {
      count(errorStatuses.DependencyTimeoutException)
      fail('DependencyTimeoutException', `No answer within ${deadlineMs} ms.`)
      late = true
    }, msLeft() + graceMs)
    let answer: XksAnswer | undefined
    try {
      answer = await proxy.answer({
        ...target,
        method: request.method ?? '',
        path: request.url ?? '',
        headers: headersOf(request),
        body,
        receivedAt,
        deadline: receivedAt + deadlineMs,
        remoteAddress: event.remoteAddress,
      })
    } catch (cause) {
      log.error({ ...event, err: cause }, 'an XKS call failed outside its road')
      fail('InternalException', 'The request failed because of an internal error.')
    } finally {
      clearTimeout(overdue)
      gate.leave()
      body.fill(0)
    }
    if (answer && held.has(answer.status)) await sleep(Math.min(holdMs, msLeft()))
    if (answer) finish(answer)
  }

  /** Why a request is not even read; undefined when it is. */
  function problemOf(target: Target, request: Request): Refusal | undefined {
    if (!proxy.has(target.prefix)) return refusals.noSuchPath
    if (request.method !== 'POST') return refusals.onlyPost
    if ((perConnection.get(connectionOf(request)) ?? 0) >= connectionLimits.maxStreams || gate.isFull(target.prefix))
      return refusals.tooMany
    if (hasTwice(request.rawHeaders)) return refusals.twice
    const authority = request.headers[':authority']
    if (authority !== undefined && request.headers.host !== undefined && authority !== request.headers.host) return refusals.twoHosts
    if (Number(request.headers['content-length'] ?? 0) > maxXksBodyBytes) return refusals.tooLong
    return open < maxOpen || makeRoom() ? undefined : refusals.tooMany
  }

  /**
   * Bodies of KMS come at once. Whoever leaves thousands of them unfinished, which needs no credential, must not keep it out: the one that has
   * been arriving longest goes.
   */
  function makeRoom(): boolean {
    const [giveUp] = arriving
    giveUp?.()
    return giveUp !== undefined
  }

  return {
    handle(request, response) {
      const path = request.url ?? ''
      const event: Event = { remoteAddress: addressOf(request) }
      response.on('error', () => undefined)
      request.on('error', () => undefined)
      if (path === '/ping' && (request.method === 'GET' || request.method === 'HEAD')) {
        request.resume()
        return send(response, 200, 'pong\n', { 'content-type': 'text/plain' })
      }
      const target = readTarget(path)
      if (!target) return refuse(request, response, { ...event, path: path.slice(0, maxPathLength) }, refusals.noSuchPath)
      Object.assign(event, { prefix: target.prefix, api: target.api })
      const problem = problemOf(target, request)
      if (problem) return refuse(request, response, event, problem)
      const connection = connectionOf(request)
      open += 1
      perConnection.set(connection, (perConnection.get(connection) ?? 0) + 1)
      call(target, request, response, event)
        .catch((cause: unknown) => {
          log.error({ ...event, err: cause }, 'an XKS answer could not be sent')
          request.destroy()
        })
        .finally(() => {
          open -= 1
          perConnection.set(connection, (perConnection.get(connection) ?? 1) - 1)
        })
    },
  }
}

/** Of a name that Node keeps the first value of, a second one would be lost in silence. */
const onceOnly: ReadonlySet<string> = new Set(['host', 'authorization', 'content-type', 'content-length'])

function hasTwice(rawHeaders: readonly string[]): boolean {
  const seen = new Set<string>()
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = (rawHeaders[at] ?? '').toLowerCase()
    if (onceOnly.has(name) && seen.size === seen.add(name).size) return true
  }
  return false
}

/** HTTP/2's host is `:authority`; names with a colon are for nobody else. */
function headersOf({ headers }: Request): Readonly<Record<string, string | readonly string[] | undefined>> {
  const authority = headers[':authority']
  if (headers[':method'] === undefined) return headers
  const own = Object.entries(headers).filter(([name]) => !name.startsWith(':'))
  return { ...Object.fromEntries(own), ...(authority !== undefined && { host: authority }) }
}

/** Of HTTP/2 each request has a `socket` of its own, which is none; and one that was reset is still being worked at. */
const connectionOf = (request: Request): object => ('stream' in request ? request.stream.session : undefined) ?? request.socket

function addressOf({ socket }: Request): string {
  const address = socket.remoteAddress ?? ''
  // A socket open for both families shows IPv4 callers in IPv6's clothes.
  return address.startsWith('::ffff:') ? address.slice(7) : address
}

/**
 * The whole body, or why there is none. What arrived until then is wiped.
 * @param arriving where to leave, meanwhile, what says that it comes too slowly
 */
function readBody(request: Request, timeoutMs: number, arriving: Set<() => void>): Promise<Buffer | NoBody> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    let length = 0
    let settled = false
    const settle = (outcome: Buffer | NoBody): void => {
      if (settled) return
      settled = true
      clearTimeout(timer)
      arriving.delete(giveUp)
      request.off('data', take)
      for (const chunk of chunks) if (chunk !== outcome) chunk.fill(0)
      resolve(outcome)
    }
    const giveUp = (): void => settle('tooSlow')
    const timer = setTimeout(giveUp, timeoutMs)
    arriving.add(giveUp)
    const take = (chunk: Buffer): void => {
      length += chunk.length
      addChunk(chunks, chunk)
      if (length > maxXksBodyBytes) settle('tooLong')
    }
    request.on('data', take)
    request.on('end', () => settle(chunks.length === 1 ? (chunks[0] ?? nothing) : Buffer.concat(chunks, length)))
    request.on('aborted', () => settle('gone'))
    request.on('error', () => settle('gone'))
    request.on('close', () => settle('gone'))
  })
}

const nothing = Buffer.alloc(0)

/** @param rest what is done, before the answer ends, about the rest of a body that nobody waits for; over HTTP/1.1 */
function send(
  response: Response,
  status: number,
  text: string,
  more: Readonly<Record<string, string>> = {},
  rest?: (done: () => void) => void,
): void {
  if (response.headersSent || response.destroyed) return
  const writable = response as ServerResponse
  writable.writeHead(status, {
    ...(text !== '' && { 'content-type': 'application/json' }),
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
    ...more,
  })
  // As text, so that Node sends it in one piece with the headers.
  if (!rest) return void writable.end(text)
  if (text === '') writable.flushHeaders()
  else writable.write(text)
  rest(() => writable.end())
}

/** An answer that did not wait for its request's body. */
function sendEarly(request: Request, response: Response, status: number, text: string, headers?: Readonly<Record<string, string>>): void {
  if ('stream' in request) {
    // HTTP/2 has a word for "send no more of it".
    const { stream } = request
    if (!request.complete) stream.once('finish', () => stream.close(constants.NGHTTP2_NO_ERROR))
    send(response, status, text, headers)
  } else if (status === 408) {
    response.once('finish', () => request.destroy())
    send(response, status, text, headers)
  } else send(response, status, text, headers, request.complete ? undefined : (done) => dropRest(request, done))
}
