/**
 * A stream as HTTP has it: the body of a request and that of its answer while both are under way, the clocks over them, and the turns of the event loop
 * that they are given.
 */

import type { IncomingMessage, ServerResponse } from 'node:http'
import { SignatureError } from '../auth/sigv4.ts'
import { discard } from '../base/discard.ts'
import { Turns } from '../base/turns.ts'
import { PoolFailure, type BulkPool } from '../bulk/bulk-pool.ts'
import { kmsError, KmsError } from '../kms/errors.ts'
import type { Direction } from './envelope-headers.ts'
import { PayloadHash } from './envelope-payload.ts'
import type { readFacts } from './exchange.ts'

/** What the log says. A type, since an interface is no record of fields. */
export type StreamEvent = {
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

/** The caller is gone, or took too long: there is nobody to answer. */
export class Gone extends Error {
  readonly code: 'CallerGone' | 'IdleTimeout' | 'TotalTimeout'
  constructor(code: Gone['code'], options?: ErrorOptions) {
    super(code, options)
    this.code = code
  }
}

export interface ExchangeLimits {
  /** How long nothing may move, in either direction. */
  readonly idleTimeoutMs: number
  readonly totalTimeoutMs: number
}

/**
 * What all streams together may do in one turn of the event loop: so many pieces, of what is read or of `pieceBytes` of what is written, some 50 µs each.
 * Between two turns everything else has its own: calls that came meanwhile are answered first, however fast a stream could go. Where there is nothing
 * else, turns are short, and a stream has as many as it can use.
 */
const turns = new Turns(2)
const pieceBytes = 131_072

/** A request and its answer while both are under way, and the two clocks over them. */
export class Exchange {
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
  readonly #onClose: () => void
  /** Ends the wait for what is being written, if any is. */
  #giveUp = (): void => undefined

  constructor(
    request: IncomingMessage,
    response: ServerResponse,
    facts: ReturnType<typeof readFacts>,
    event: StreamEvent,
    limits: ExchangeLimits,
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
    this.#onClose = () => {
      if (response.writableFinished) return
      leave('CallerGone')
      this.#giveUp()
    }
    response.on('close', this.#onClose)
  }

  /** The request's bytes, each chunk until the next is asked for. @throws KmsError after the last one, when they are not those that were signed, Gone, PoolFailure */
  async *body(pool: BulkPool, count: (bytes: number) => void): AsyncGenerator<Uint8Array> {
    const { request, response } = this
    const stated = request.headers['x-amz-content-sha256']
    const hash = stated === 'UNSIGNED-PAYLOAD' ? undefined : new PayloadHash(pool)
    if (request.headers.expect !== undefined) response.writeContinue()
    try {
      // The connection is still needed when the body is not: for an answer that says why.
      for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        const begin = turns.take()
        if (begin) await begin
        this.#idle.refresh()
        count(chunk.length)
        const hashed = hash?.update(chunk)
        if (hashed) await hashed
        yield chunk
        discard(chunk)
      }
      if (hash && (await hash.digest()) !== stated) throw kmsError(...payloadMismatch)
    } catch (cause) {
      throw cause instanceof KmsError || cause instanceof PoolFailure ? cause : (this.gone ?? new Gone('CallerGone', { cause }))
    } finally {
      await hash?.close()
    }
  }

  /** Resolves when the bytes are the system's. @throws Gone */
  async write(bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length; at += pieceBytes) {
      const begin = turns.take()
      if (begin) await begin
      await this.#unlessGone((done) => this.response.write(bytes.subarray(at, at + pieceBytes), done))
      this.#idle.refresh()
    }
  }

  /** Resolves when everything is the system's. @throws Gone */
  async end(): Promise<void> {
    await this.#unlessGone((done) => this.response.end(done))
  }

  /** Of a connection that has ended nothing is heard by who writes to it. */
  #unlessGone(write: (done: () => void) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const fail = (): void => reject(this.gone ?? new Gone('CallerGone'))
      if (this.gone) return fail()
      this.#giveUp = fail
      write(() => (this.gone ? fail() : resolve()))
    })
  }

  close(): void {
    clearTimeout(this.#idle)
    clearTimeout(this.#total)
    this.response.off('close', this.#onClose)
  }
}

const payloadMismatch = ['InvalidSignatureException', SignatureError.mismatch().message] as const
