/**
 * `POST /envelope/encrypt` and `/envelope/decrypt`: messages of the AWS Encryption SDK made and read while they pass, for callers who have no such
 * SDK. Signed like any call of KMS, with the payload's hash or UNSIGNED-PAYLOAD; what is to be done is in signed headers; both bodies are bytes.
 *
 * A stream is one caller's: so many at once for each, back-pressure from the answer's reader to the request's sender, an end when nothing moves or
 * when it has taken too long, and nothing left of it when the caller goes away. An answer that could not be finished is no answer: its connection is
 * destroyed, so that its last chunk never comes; a whole one ends with the trailer `x-holdfast-outcome: complete`. What fails before the first
 * byte is an error in JSON.
 */

import { createHash } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { PoolFailure, type BulkPool } from '../bulk/bulk-pool.ts'
import type { Keyring } from '../bulk/keyring.ts'
import { MessageError, type EncryptionContext } from '../bulk/message.ts'
import { decryptStream, encryptStream, type CommitmentPolicy, type MessageStream } from '../bulk/stream.ts'
import { suites } from '../bulk/suites.ts'
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
import { callerKeyring, openCallerKms, type CallerKms, type KeyChoice, type KeyOperations } from './envelope-keys.ts'
import { dropRest, readFacts, signedRequest, writeAnswer } from './exchange.ts'
import { readJsonBody } from './json-body.ts'

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

export interface EnvelopeLimits {
  readonly maxStreams: number
  readonly maxStreamsPerCaller: number
  /** How long nothing may move, in either direction. */
  readonly idleTimeoutMs: number
  readonly totalTimeoutMs: number
}

export interface EnvelopeDoor {
  /** Whether a request is for it. */
  takes(request: IncomingMessage): boolean
  handle(request: IncomingMessage, response: ServerResponse): void
  /** Whether a stream is under way on this connection, which has its own limits of time. */
  isStreaming(socket: Socket): boolean
}

type Direction = 'encrypt' | 'decrypt'

/** What the log says. A type, since an interface is no record of fields. */
type StreamEvent = {
  requestId: string
  sourceIp: string
  direction: Direction
  principal?: string
  region?: string
  bytesIn: number
  bytesOut: number
  status?: number
  code?: string
  ms?: number
}

const paths: Readonly<Record<string, Direction>> = { '/envelope/encrypt': 'encrypt', '/envelope/decrypt': 'decrypt' }
const operationOf = { encrypt: 'GenerateDataKey', decrypt: 'Decrypt' } as const
/** A longer one would be held in memory whole, by every stream that has one. */
const maxFrameLength = 16 * 1_048_576

/** The caller is gone, or took too long: there is nobody to answer. */
class Gone extends Error {
  readonly code: 'CallerGone' | 'IdleTimeout' | 'TotalTimeout'
  constructor(code: Gone['code']) {
    super(code)
    this.code = code
  }
}

export function openEnvelopeDoor(options: EnvelopeOptions): EnvelopeDoor {
  const { service, clock, log, metrics, limits } = options
  const operations = findOperations(options.apis)
  const perCaller = new Map<string, number>()
  const streaming = new WeakSet<Socket>()
  const ended = new Map<string, number>()
  const moved = { encrypt: 0, decrypt: 0 }
  const open = { encrypt: 0, decrypt: 0 }
  watch(metrics, { open, ended, moved, cache: options.cache })

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
    const wanted = readWanted(direction, exchange, caller)
    const length = request.headers['content-length']
    const cached = options.cache && { cache: options.cache, plaintextBytes: length === undefined ? undefined : Number(length) }
    const keyring = openKeyring(() => callerKeyring(service, kms, caller, wanted.choice, cached))
    const source = exchange.body((bytes) => {
      event.bytesIn += bytes
      moved[direction] += bytes
    })
    const common = { keyring, pool: options.pool, lend: true }
    const made: MessageStream =
      direction === 'encrypt'
        ? encryptStream(source, { ...common, ...wanted.encrypt })
        : decryptStream(source, { ...common, ...wanted.decrypt, limits: { maxFrameLength } })
    try {
      // The first run of frames is there before the answer begins: whatever is wrong until then is said in words.
      const head = direction === 'encrypt' ? await made.next() : undefined
      let piece = await made.next()
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
      for (; !piece.done; piece = await made.next()) {
        await exchange.write(piece.value)
        event.bytesOut += piece.value.length
      }
      response.addTrailers({ 'x-holdfast-outcome': 'complete' })
      await exchange.end()
    } finally {
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
    streaming.add(request.socket)
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
      streaming.delete(request.socket)
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

/** A request and its answer while both are under way, and the two clocks over them. */
class Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly facts: ReturnType<typeof readFacts>
  readonly event: StreamEvent
  /** Why the caller could not be established. */
  refused: unknown
  /** Why there is nobody to answer any more. */
  gone: Gone | undefined
  readonly #idle: NodeJS.Timeout
  readonly #total: NodeJS.Timeout
  readonly #closed: Promise<never>
  readonly #onClose: () => void

  constructor(
    request: IncomingMessage,
    response: ServerResponse,
    facts: ReturnType<typeof readFacts>,
    event: StreamEvent,
    limits: EnvelopeLimits,
  ) {
    this.request = request
    this.response = response
    this.facts = facts
    this.event = event
    const leave = (code: Gone['code']): void => {
      this.gone ??= new Gone(code)
      // Its body ends in an error too, and nothing waits for it any longer.
      request.destroy(this.gone)
      response.destroy()
    }
    this.#idle = setTimeout(leave, limits.idleTimeoutMs, 'IdleTimeout')
    this.#total = setTimeout(leave, limits.totalTimeoutMs, 'TotalTimeout')
    let onClose = (): void => undefined
    this.#closed = new Promise((_resolve, reject) => {
      onClose = () => {
        if (response.writableFinished) return
        leave('CallerGone')
        reject(this.gone)
      }
    })
    // Whoever waits for it hears of it; often nobody does.
    this.#closed.catch(() => undefined)
    this.#onClose = onClose
    response.on('close', onClose)
  }

  /** The request's bytes. @throws KmsError after the last one, when they are not those that were signed */
  async *body(count: (bytes: number) => void): AsyncGenerator<Uint8Array> {
    const { request, response } = this
    const stated = request.headers['x-amz-content-sha256']
    const hash = stated === 'UNSIGNED-PAYLOAD' ? undefined : createHash('sha256')
    if (request.headers.expect !== undefined) response.writeContinue()
    try {
      // The connection is still needed when the body is not: for an answer that says why.
      for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        this.#idle.refresh()
        hash?.update(chunk)
        count(chunk.length)
        yield chunk
      }
    } catch (cause) {
      throw this.gone ?? (cause instanceof KmsError ? cause : new Gone('CallerGone'))
    }
    if (hash && hash.digest('hex') !== stated) throw kmsError(...payloadMismatch)
  }

  /** Resolves when the bytes are the system's. @throws Gone */
  async write(bytes: Buffer): Promise<void> {
    await Promise.race([new Promise<void>((resolve) => this.response.write(bytes, () => resolve())), this.#closed])
    if (this.gone) throw this.gone
    this.#idle.refresh()
  }

  /** Resolves when everything is the system's. @throws Gone */
  async end(): Promise<void> {
    await Promise.race([new Promise<void>((resolve) => this.response.end(resolve)), this.#closed])
  }

  close(): void {
    clearTimeout(this.#idle)
    clearTimeout(this.#total)
    this.response.off('close', this.#onClose)
  }
}

const payloadMismatch = ['InvalidSignatureException', SignatureError.mismatch().message] as const

interface Wanted {
  readonly choice: KeyChoice
  readonly encrypt: {
    readonly context: EncryptionContext
    readonly keptOut: readonly string[]
    readonly suite?: NonNullable<ReturnType<typeof suites.get>>
    readonly frameLength?: number
  }
  readonly decrypt: { readonly context: EncryptionContext; readonly commitmentPolicy?: CommitmentPolicy }
}

const commitmentPolicies: ReadonlySet<string> = new Set<CommitmentPolicy>([
  'REQUIRE_ENCRYPT_REQUIRE_DECRYPT',
  'REQUIRE_ENCRYPT_ALLOW_DECRYPT',
  'FORBID_ENCRYPT_ALLOW_DECRYPT',
])

/** What may be said, by direction. Whatever else begins with `x-holdfast-` is refused, not ignored. */
const known: Readonly<Record<Direction, readonly string[]>> = {
  encrypt: ['key', 'grant-tokens', 'context', 'kept-out', 'suite', 'frame-length'],
  decrypt: ['key', 'grant-tokens', 'context', 'accounts', 'commitment-policy'],
}

/** @throws KmsError ValidationException */
function readWanted(direction: Direction, { request }: Exchange, { region }: Authenticated): Wanted {
  if (request.httpVersion === '1.0') throw invalid('HTTP/1.1 is needed: an answer of HTTP/1.0 that was cut short looks whole.')
  const unknown = Object.keys(request.headers).find(
    (name) => name.startsWith(prefix) && !known[direction].includes(name.slice(prefix.length)),
  )
  if (unknown !== undefined) throw invalid(`The header ${unknown} means nothing here. Known: ${known[direction].join(', ')}.`)
  const header = (name: string): string | undefined => {
    const value = request.headers[prefix + name]
    return typeof value === 'string' && value !== '' ? value : undefined
  }
  const list = (name: string): readonly string[] =>
    header(name)
      ?.split(',')
      .map((item) => item.trim()) ?? []
  const keys = list('key')
  const accounts = header('accounts') === undefined ? undefined : list('accounts')
  if (direction === 'encrypt' && keys.length === 0)
    throw invalid('Say which keys to encrypt under: x-holdfast-key, ids, ARNs or aliases with commas between them.')
  if (keys.length > 0 && accounts) throw invalid('x-holdfast-accounts is for keys that are not named.')
  const context = readContext(header('context'), 'context')
  const keptOut = readContext(header('kept-out'), 'kept-out')
  const twice = Object.keys(keptOut).find((name) => name in context)
  if (twice !== undefined) throw invalid(`${JSON.stringify(twice)} is in x-holdfast-context and in x-holdfast-kept-out.`)
  const suite = readSuite(header('suite'))
  const frameLength = header('frame-length')
  if (frameLength !== undefined && !(/^\d{1,8}$/.test(frameLength) && Number(frameLength) >= 1 && Number(frameLength) <= maxFrameLength))
    throw invalid(`x-holdfast-frame-length must be a whole number from 1 to ${maxFrameLength}.`)
  const commitmentPolicy = header('commitment-policy')
  if (commitmentPolicy !== undefined && !commitmentPolicies.has(commitmentPolicy))
    throw invalid(`x-holdfast-commitment-policy must be one of ${[...commitmentPolicies].join(', ')}.`)
  return {
    choice: { keys, grantTokens: list('grant-tokens'), discovery: keys.length > 0 ? undefined : { accounts, regions: [region] } },
    encrypt: {
      context: { ...context, ...keptOut },
      keptOut: Object.keys(keptOut),
      ...(suite && { suite }),
      ...(frameLength !== undefined && { frameLength: Number(frameLength) }),
    },
    decrypt: { context, ...(commitmentPolicy !== undefined && { commitmentPolicy: commitmentPolicy as CommitmentPolicy }) },
  }
}

const prefix = 'x-holdfast-'
const invalid = (message: string): KmsError => kmsError('ValidationException', message)

function readSuite(text: string | undefined): ReturnType<typeof suites.get> {
  if (text === undefined) return undefined
  const suite = /^0x[0-9a-f]{4}$/i.test(text) ? suites.get(Number(text)) : undefined
  if (!suite?.commits) throw invalid('x-holdfast-suite must be 0x0478 (not signed) or 0x0578 (signed).')
  return suite
}

/** Base64 of a JSON object of text, as S3 has it in `x-amz-server-side-encryption-context`. */
function readContext(text: string | undefined, name: string): EncryptionContext {
  const context = Object.create(null) as Record<string, string>
  if (text === undefined) return context
  const wrong = (cause?: unknown): KmsError =>
    kmsError('ValidationException', `${prefix}${name} must be the base64 of a JSON object whose values are text.`, { cause })
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text)) throw wrong()
  let pairs: Readonly<Record<string, unknown>>
  try {
    pairs = readJsonBody(Buffer.from(text, 'base64'))
  } catch (cause) {
    throw wrong(cause)
  }
  for (const [key, value] of Object.entries(pairs)) {
    if (typeof value !== 'string') throw wrong()
    context[key] = value
  }
  return context
}

const encodeContext = (context: EncryptionContext): string => Buffer.from(JSON.stringify(context)).toString('base64')

function watch(
  metrics: Metrics,
  {
    open,
    ended,
    moved,
    cache,
  }: {
    readonly open: Readonly<Record<Direction, number>>
    readonly ended: ReadonlyMap<string, number>
    readonly moved: Readonly<Record<Direction, number>>
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
