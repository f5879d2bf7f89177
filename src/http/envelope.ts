/**
 * `POST /envelope/encrypt` and `/envelope/decrypt`: messages of the AWS Encryption SDK made and read while they pass, for callers who have no such
 * SDK. Signed like any call of KMS, with the payload's hash or UNSIGNED-PAYLOAD; what is to be done is in signed headers; both bodies are bytes.
 *
 * A stream is one caller's: so many at once for each, back-pressure from the answer's reader to the request's sender, an end when nothing moves or
 * when it has taken too long, and nothing left of it when the caller goes away. An answer that could not be finished is no answer: its connection is
 * destroyed, so that its last chunk never comes; a whole one ends with the trailer `x-holdfast-outcome: complete`. What fails before the first
 * byte is an error in JSON.
 */

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { PoolFailure, type BulkPool } from '../bulk/bulk-pool.ts'
import type { Keyring } from '../bulk/keyring.ts'
import { MessageError } from '../bulk/message.ts'
import { decryptStream, encryptStream, type MessageStream } from '../bulk/stream.ts'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { Metrics } from '../base/metrics.ts'
import type { DataKeyCache } from '../envelope/cache.ts'
import { DataKeyError } from '../envelope/kms-keyring.ts'
import { SignatureError } from '../auth/sigv4.ts'
import { kmsError, KmsError } from '../kms/errors.ts'
import type { Authenticated, Operation } from '../kms/operation.ts'
import type { Api } from '../kms/operations/index.ts'
import type { Service } from '../kms/service.ts'
import { encodeJsonError } from './aws-json.ts'
import { Buffers, type BufferLimits } from './envelope-buffer.ts'
import { Exchange, Gone, type ExchangeLimits, type StreamEvent } from './envelope-exchange.ts'
import { encodeContext, maxFrameLength, readWanted, type Direction } from './envelope-headers.ts'
import { callerKeyring, openCallerKms, type CallerKms, type KeyOperations } from './envelope-keys.ts'
import { dropRest, readFacts, signedRequest, writeAnswer } from './exchange.ts'

export interface EnvelopeOptions {
  readonly service: Service
  readonly apis: readonly Api[]
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
  readonly pool: BulkPool
  readonly limits: EnvelopeLimits
  /** Without it every message has a data key of its own. */
  readonly cache: DataKeyCache | undefined
}

export interface EnvelopeLimits extends ExchangeLimits, BufferLimits {
  readonly maxStreams: number
  readonly maxStreamsPerCaller: number
}

export interface EnvelopeDoor {
  /** Whether a request is for it. */
  takes(request: IncomingMessage): boolean
  handle(request: IncomingMessage, response: ServerResponse): void
  /** Whether a stream is under way on this connection, which has its own limits of time. */
  isStreaming(socket: Socket): boolean
}

const paths: Readonly<Record<string, Direction>> = { '/envelope/encrypt': 'encrypt', '/envelope/decrypt': 'decrypt' }
const operationOf = { encrypt: 'GenerateDataKey', decrypt: 'Decrypt' } as const

export function openEnvelopeDoor(options: EnvelopeOptions): EnvelopeDoor {
  const { service, clock, log, metrics, limits } = options
  const operations = findOperations(options.apis)
  const perCaller = new Map<string, number>()
  /** The request that is a stream, or the last of them: one may follow before the one before it was answered. */
  const streaming = new WeakMap<Socket, IncomingMessage>()
  const buffers = new Buffers(limits)
  const ended = new Map<string, number>()
  const moved = { encrypt: 0, decrypt: 0 }
  const open = { encrypt: 0, decrypt: 0 }
  watch(metrics, { open, ended, moved, buffers, cache: options.cache })

  /** One request from its headers to its last byte. @throws KmsError for an answer in JSON, Gone where there is nobody to answer */
  async function stream(exchange: Exchange, direction: Direction): Promise<void> {
    const { facts, event } = exchange
    let caller: Authenticated | undefined
    const kms = openCallerKms(service, operations, facts, () => {
      if (caller) return caller
      throw exchange.refused
    })
    const operation = operationOf[direction]
    try {
      caller = await authenticate(exchange)
    } catch (error) {
      exchange.refused = error
      return kms.fail(operation, error)
    }
    event.principal = caller.principal.arn
    event.region = caller.region
    const name = caller.principal.arn
    const before = perCaller.get(name) ?? 0
    // Who is not known, and who is turned away, takes nobody's place.
    if (before >= limits.maxStreamsPerCaller || open.encrypt + open.decrypt >= limits.maxStreams)
      return kms.fail(operation, kmsError('ThrottlingException', 'Rate exceeded'))
    perCaller.set(name, before + 1)
    open[direction]++
    try {
      await pass(exchange, direction, kms, caller)
    } catch (cause) {
      const error = cause instanceof Gone ? cause : toKmsError(cause)
      // What was asked for in somebody's name is on record, whatever became of it.
      if (error instanceof KmsError && kms.calls === 0) return await kms.fail(operation, error)
      throw error
    } finally {
      open[direction]--
      const left = (perCaller.get(name) ?? 1) - 1
      if (left === 0) perCaller.delete(name)
      else perCaller.set(name, left)
    }
  }

  async function pass(exchange: Exchange, direction: Direction, kms: CallerKms, caller: Authenticated): Promise<void> {
    const { request, response, event } = exchange
    const wanted = readWanted(direction, request, caller.region)
    const length = request.headers['content-length']
    const cached = options.cache && { cache: options.cache, plaintextBytes: length === undefined ? undefined : Number(length) }
    const keyring = openKeyring(() => callerKeyring(service, kms, caller, wanted.choice, cached))
    const source = exchange.body(options.pool, (bytes) => {
      event.bytesIn += bytes
      moved[direction] += bytes
    })
    const common = { keyring, pool: options.pool, lend: true }
    const made: MessageStream =
      direction === 'encrypt'
        ? encryptStream(source, { ...common, ...wanted.encrypt })
        : decryptStream(source, { ...common, ...wanted.decrypt, limits: { maxFrameLength } })
    let pieces: AsyncIterableIterator<Buffer> = made
    try {
      if (wanted.isBuffered && (await made.header).suite.signature) pieces = buffers.whole(made)
      // The first run of frames is there before the answer begins: whatever is wrong until then is said in words.
      const head = direction === 'encrypt' ? await pieces.next() : undefined
      let piece = await pieces.next()
      response.writeHead(200, {
        'x-amzn-RequestId': exchange.facts.requestId,
        'Cache-Control': 'no-store',
        'Content-Type': 'application/octet-stream',
        ...(direction === 'decrypt' && { 'x-holdfast-context': encodeContext((await made.header).context) }),
        Trailer: 'x-holdfast-outcome',
      })
      event.status = 200
      if (head && !head.done) {
        await exchange.write(head.value)
        event.bytesOut += head.value.length
      }
      for (; !piece.done; piece = await pieces.next()) {
        await exchange.write(piece.value)
        event.bytesOut += piece.value.length
      }
      response.addTrailers({ 'x-holdfast-outcome': 'complete' })
      await exchange.end()
    } finally {
      await pieces.return?.()
      await made.return?.()
    }
  }

  async function authenticate({ request }: Exchange): Promise<Authenticated> {
    return service.identities.authenticate(signedRequest(request, undefined), 'kms')
  }

  /** Turns what went wrong into what the caller is told. */
  function toKmsError(cause: unknown): KmsError {
    if (cause instanceof KmsError) return cause
    if (cause instanceof SignatureError) return kmsError(cause.code, cause.message, { cause })
    if (cause instanceof DataKeyError) {
      const said = cause.failures.map(({ error }) => error).find((error) => error instanceof KmsError)
      return said ?? kmsError(cause.failures.length > 0 ? 'KMSInternalException' : 'IncorrectKeyException', cause.message, { cause })
    }
    if (cause instanceof MessageError) return kmsError('InvalidCiphertextException', cause.message, { cause })
    if (cause instanceof RangeError) return kmsError('ValidationException', cause.message, { cause })
    log.error({ err: cause }, cause instanceof PoolFailure ? 'a thread ended under a stream' : 'a stream failed')
    return kmsError('KMSInternalException', 'The request failed because of an internal error. Retry the request.', { cause })
  }

  async function serve(request: IncomingMessage, response: ServerResponse, direction: Direction): Promise<void> {
    const startedAt = performance.now()
    const facts = readFacts(request, clock)
    const event: StreamEvent = { requestId: facts.requestId, sourceIp: facts.sourceIp, direction, bytesIn: 0, bytesOut: 0 }
    const exchange = new Exchange(request, response, facts, event, limits)
    streaming.set(request.socket, request)
    let state = 'complete'
    try {
      await stream(exchange, direction)
      event.code = 'ok'
    } catch (cause) {
      // Before it was refused the caller may have gone, which explains everything else.
      const error = exchange.gone ?? (cause instanceof Gone ? cause : toKmsError(cause))
      event.code = error.code
      state = error instanceof Gone ? 'gone' : response.headersSent ? 'aborted' : 'refused'
      if (error instanceof Gone || response.headersSent) response.destroy()
      else {
        const rendered = encodeJsonError(error)
        event.status = rendered.status
        writeAnswer(request, response, rendered, facts.requestId)
      }
    } finally {
      exchange.close()
      if (streaming.get(request.socket) === request) streaming.delete(request.socket)
      ended.set(`${direction}\n${state}`, (ended.get(`${direction}\n${state}`) ?? 0) + 1)
      event.ms = Math.round((performance.now() - startedAt) * 1000) / 1000
      log.info({ ...event, state }, 'stream')
    }
  }

  return {
    takes: ({ url = '' }) => pathOf(url) in paths,
    handle(request, response) {
      const direction = paths[pathOf(request.url ?? '')]
      if (direction === undefined || request.method !== 'POST') {
        response.writeHead(405, { Allow: 'POST', 'Content-Length': 0 }).flushHeaders()
        dropRest(request, () => response.end())
        return
      }
      serve(request, response, direction).catch((cause: unknown) => {
        log.error({ err: cause }, 'a stream could not be answered')
        response.destroy()
      })
    },
    isStreaming: (socket) => streaming.has(socket),
  }
}

/** @throws KmsError ValidationException for keys that cannot be meant so */
function openKeyring(open: () => Keyring): Keyring {
  try {
    return open()
  } catch (cause) {
    throw cause instanceof DataKeyError ? kmsError('ValidationException', cause.message, { cause }) : cause
  }
}

const pathOf = (url: string): string => url.split('?', 1)[0] ?? ''

function findOperations(apis: readonly Api[]): KeyOperations {
  const kms = apis.find(({ name }) => name === 'kms')?.operations
  const named = (name: keyof KeyOperations): Operation => {
    const operation = kms?.get(name)
    if (!operation) throw new Error(`there is no operation ${name}`)
    return operation
  }
  return { GenerateDataKey: named('GenerateDataKey'), Encrypt: named('Encrypt'), Decrypt: named('Decrypt') }
}

function watch(
  metrics: Metrics,
  {
    open,
    ended,
    moved,
    buffers,
    cache,
  }: {
    readonly open: Readonly<Record<Direction, number>>
    readonly ended: ReadonlyMap<string, number>
    readonly moved: Readonly<Record<Direction, number>>
    readonly buffers: Buffers
    readonly cache: DataKeyCache | undefined
  },
): void {
  const byDirection = (values: Readonly<Record<Direction, number>>) => () =>
    Object.entries(values).map(([kind, value]) => ({ labels: { kind }, value }))
  metrics.gauge('holdfast_envelope_streams', 'Streams of bulk encryption under way, by direction.', byDirection(open))
  metrics.total('holdfast_envelope_bytes_total', 'Bytes that callers sent to be encrypted or decrypted in bulk.', byDirection(moved))
  metrics.total(
    'holdfast_envelope_streams_total',
    'Streams that ended: complete, refused before the first byte, aborted after it, or gone with their caller or their time.',
    () =>
      [...ended].map(([name, value]) => {
        const [kind = '', state = ''] = name.split('\n')
        return { labels: { kind, state }, value }
      }),
  )
  metrics.gauge(
    'holdfast_envelope_buffered_bytes',
    'Plaintext that is held until the signature of its message is verified.',
    () => buffers.bytes,
  )
  if (!cache) return
  metrics.gauge('holdfast_envelope_cached_keys', 'Data keys that are kept for further messages.', () => cache.figures().entries)
  metrics.total(
    'holdfast_envelope_cache_total',
    'Requests for a data key: answered by one that was kept (hit), or not (miss), or never kept (bypass).',
    () => {
      const { hits, misses, bypassed } = cache.figures()
      return Object.entries({ hit: hits, miss: misses, bypass: bypassed }).map(([kind, value]) => ({ labels: { kind }, value }))
    },
  )
}
