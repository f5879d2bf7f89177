/**
 * The door for AWS calls: a request's bytes in, `execute()`, an answer's bytes out, one log line. It stands before
 * Express, which alone would cost more than half of the throughput, and hands on what is no AWS call.
 *
 * Refuses a body longer than the limit before it is buffered, and further calls while too many are under way. It decides
 * nothing about a call: who may do what, and what is recorded, is the road's business.
 */

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { Metrics } from '../base/metrics.ts'
import { turns } from '../base/turns.ts'
import { kmsError, KmsError } from '../kms/errors.ts'
import { execute, type Authenticated, type Incoming, type RequestFacts } from '../kms/operation.ts'
import type { Api } from '../kms/operations/index.ts'
import type { Service } from '../kms/service.ts'
import { awsJson } from './aws-json.ts'
import { awsQuery } from './aws-query.ts'
import { addChunk } from './chunks.ts'
import { readFacts, signedRequest, writeAnswer } from './exchange.ts'
import type { Protocol, Rendered, Row } from './protocol.ts'

export interface DoorOptions {
  readonly service: Service
  readonly apis: readonly Api[]
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
  readonly maxBodyBytes: number
  readonly maxConcurrentCalls: number
  /** What the long bodies under way may hold together; 64 of the longest unless told. */
  readonly maxLongBodiesBytes?: number
  /** Answers what is no AWS call. */
  readonly otherwise: (request: IncomingMessage, response: ServerResponse) => void
}

export interface Door {
  handle(request: IncomingMessage, response: ServerResponse): void
  /** Calls under way. */
  calls(): number
}

/** Everything the log says about a call; filled on the way, written once. A type, since an interface is no record of fields. */
type CallEvent = {
  requestId: string
  sourceIp: string
  operation?: string
  region?: string
  principal?: string
  bytes?: number
  status?: number
  code?: string
  ms?: number
}

export function openDoor(options: DoorOptions): Door {
  const { service, clock, log, metrics, maxBodyBytes, maxConcurrentCalls, otherwise } = options
  const json = awsJson(options.apis)
  const query = awsQuery(options.apis)
  const longBodies = new LongBodies(options.maxLongBodiesBytes ?? 64 * maxBodyBytes)
  let calls = 0

  async function answer(protocol: Protocol, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const startedAt = performance.now()
    const facts = readFacts(request, clock)
    const event: CallEvent = { requestId: facts.requestId, sourceIp: facts.sourceIp }
    let rendered: Rendered
    let executed = false
    try {
      if (calls > maxConcurrentCalls) throw kmsError('ThrottlingException', 'Rate exceeded')
      const body = await readBody(request, response, maxBodyBytes, longBodies)
      if (!body) return log.debug({ ...event }, 'the caller went away before the request was complete')
      event.bytes = body.length
      const beginning = turns.take()
      if (beginning) await beginning
      const row = protocol.find(request.headers, body)
      const { operation } = row
      event.operation = operation.name
      executed = true
      const output = await execute(service, operation, new Received(service, protocol, row, request, body, facts, event))
      rendered = protocol.encodeAnswer(operation, output, facts.requestId)
      event.code = 'ok'
    } catch (cause) {
      const error = cause instanceof KmsError ? cause : unexpected(cause, event)
      event.code = error.code
      rendered = protocol.encodeError(error, facts.requestId)
    }
    const answering = turns.take()
    if (answering) await answering
    // What never reached the road is counted here; the road counts the rest itself.
    if (!executed) {
      metrics.call('none', event.code, performance.now() - startedAt)
      service.strangers.count({
        eventSource: 'kms.amazonaws.com',
        accountId: service.config.accountId,
        errorCode: event.code,
        sourceIp: facts.sourceIp,
      })
    }
    writeAnswer(request, response, rendered, facts.requestId)
    service.spans?.add('total', performance.now() - startedAt)
    event.status = rendered.status
    event.ms = Math.round((performance.now() - startedAt) * 1000) / 1000
    log.event(event, 'call')
  }

  function unexpected(cause: unknown, event: CallEvent): KmsError {
    log.error({ ...event, err: cause }, 'a call failed outside the road')
    return kmsError('KMSInternalException', 'The request failed because of an internal error. Retry the request.', { cause })
  }

  async function call(protocol: Protocol, request: IncomingMessage, response: ServerResponse): Promise<void> {
    calls++
    try {
      await answer(protocol, request, response)
    } catch (cause) {
      log.error({ err: cause }, 'an answer could not be written')
      response.destroy()
    } finally {
      calls--
      longBodies.release(request)
    }
  }

  return {
    handle(request, response) {
      if (request.headers['x-amz-target'] !== undefined) void call(json, request, response)
      else if (request.method === 'POST' && request.url?.split('?', 1)[0] === '/')
        void call(isForm(request) ? query : json, request, response)
      else otherwise(request, response)
    },
    calls: () => calls,
  }
}

/** A request on its road. A class, so that a call makes one object and no closures. */
class Received implements Incoming {
  readonly #service: Service
  readonly #protocol: Protocol
  readonly #row: Row
  readonly #request: IncomingMessage
  readonly #body: Buffer
  readonly #event: CallEvent
  readonly facts: RequestFacts
  constructor(
    service: Service,
    protocol: Protocol,
    row: Row,
    request: IncomingMessage,
    body: Buffer,
    facts: RequestFacts,
    event: CallEvent,
  ) {
    this.#service = service
    this.#protocol = protocol
    this.#row = row
    this.#request = request
    this.#body = body
    this.#event = event
    this.facts = facts
  }
  authenticate(): Promise<Authenticated> | Authenticated {
    const caller = this.#service.identities.authenticate(signedRequest(this.#request, this.#body), this.#row.signingName)
    return caller instanceof Promise ? caller.then((known) => this.#note(known)) : this.#note(caller)
  }
  #note(caller: Authenticated): Authenticated {
    this.#event.principal = caller.principal.arn
    this.#event.region = caller.region
    return caller
  }
  body(): Readonly<Record<string, unknown>> {
    return this.#protocol.readBody(this.#row.operation, this.#body)
  }
}

const isForm = (request: IncomingMessage): boolean => /^application\/x-www-form-urlencoded\b/i.test(request.headers['content-type'] ?? '')

/** So much of every body is held without asking; nearly no request is longer. */
const ordinaryBodyBytes = 65_536

/**
 * What bodies hold beyond the ordinary: whoever reaches the port, with or without an access key, can leave thousands of the longest
 * unfinished. Only long bodies compete for this room, so that who takes all of it keeps no ordinary request out.
 */
class LongBodies {
  readonly #held = new Map<IncomingMessage, number>()
  readonly #maxBytes: number
  #bytes = 0
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }
  /** Whether a body of which `length` bytes have come may be held. */
  admit(request: IncomingMessage, length: number): boolean {
    if (length <= ordinaryBodyBytes) return true
    const more = length - ordinaryBodyBytes - (this.#held.get(request) ?? 0)
    if (this.#bytes + more > this.#maxBytes) return false
    this.#bytes += more
    this.#held.set(request, length - ordinaryBodyBytes)
    return true
  }
  release(request: IncomingMessage): void {
    if (this.#held.size === 0) return
    this.#bytes -= this.#held.get(request) ?? 0
    this.#held.delete(request)
  }
}

/**
 * The whole body, or undefined when the connection ended first.
 * @throws KmsError RequestEntityTooLargeException, as soon as the length is known, ThrottlingException when other long bodies leave no room;
 *   the rest of the body is then `writeAnswer`'s to drop.
 */
function readBody(
  request: IncomingMessage,
  response: ServerResponse,
  maxBytes: number,
  longBodies: LongBodies,
): Promise<Buffer | undefined> {
  return new Promise((resolve, reject) => {
    if (Number(request.headers['content-length'] ?? 0) > maxBytes) return reject(tooLarge(maxBytes))
    if (request.headers.expect !== undefined) response.writeContinue()
    let first: Buffer | undefined
    let chunks: Buffer[] | undefined
    let length = 0
    let refused = false
    request.on('data', (chunk: Buffer) => {
      length += chunk.length
      if (refused) return
      if (length > maxBytes || !longBodies.admit(request, length)) {
        refused = true
        chunks = undefined
        reject(length > maxBytes ? tooLarge(maxBytes) : kmsError('ThrottlingException', 'Rate exceeded'))
        return
      }
      // Nearly every request is one chunk.
      if (first === undefined) first = chunk
      else addChunk((chunks ??= [first]), chunk)
    })
    request.on('end', () => resolve(chunks ? Buffer.concat(chunks, length) : (first ?? noBytes)))
    request.on('error', () => resolve(undefined))
    request.on('close', () => resolve(undefined))
  })
}

const noBytes = Buffer.alloc(0)

function tooLarge(maxBytes: number): KmsError {
  return kmsError('RequestEntityTooLargeException', `The request body is longer than ${maxBytes} bytes.`)
}
