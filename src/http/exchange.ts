/** A request as the road knows it, and an answer as the wire has it: what the doors for signed requests have in common. */

import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { TLSSocket } from 'node:tls'
import type { SignedRequest } from '../auth/sigv4.ts'
import type { Clock } from '../base/clock.ts'
import type { RequestFacts } from '../kms/operation.ts'
import type { Rendered } from './protocol.ts'

/** What a caller signed. The body is undefined where it is a stream. */
export function signedRequest(request: IncomingMessage, body: Buffer | undefined): SignedRequest {
  const url = request.url ?? '/'
  const mark = url.indexOf('?')
  return {
    method: request.method ?? '',
    path: mark < 0 ? url : url.slice(0, mark),
    query: mark < 0 ? '' : url.slice(mark + 1),
    headers: request.headers,
    body,
  }
}

export function readFacts(request: IncomingMessage, clock: Clock): RequestFacts {
  const { socket, headers } = request
  const address = socket.remoteAddress ?? ''
  return {
    requestId: randomUUID(),
    // A socket open for both families shows IPv4 callers in IPv6's clothes.
    sourceIp: address.startsWith('::ffff:') ? address.slice(7) : address,
    userAgent: headers['user-agent'],
    tls: socket instanceof TLSSocket ? tlsFacts(socket) : undefined,
    host: headers.host ?? '',
    receivedAt: clock.now(),
  }
}

/** What a connection negotiated stays as it is: asked once. */
const tlsFactsOf = new WeakMap<TLSSocket, NonNullable<RequestFacts['tls']>>()

function tlsFacts(socket: TLSSocket): NonNullable<RequestFacts['tls']> {
  let facts = tlsFactsOf.get(socket)
  if (!facts) {
    facts = { version: socket.getProtocol() ?? '', cipherSuite: socket.getCipher().name }
    tlsFactsOf.set(socket, facts)
  }
  return facts
}

/**
 * Writes an answer whole. Header names are spelt as AWS spells them: at least one client compares `Content-Length` letter
 * by letter. Never compressed, and no cache keeps a plaintext.
 */
export function writeAnswer(
  request: IncomingMessage,
  response: ServerResponse,
  { status, contentType, text }: Rendered,
  requestId: string,
): void {
  if (response.destroyed || response.headersSent) return
  response.writeHead(status, {
    'x-amzn-RequestId': requestId,
    'Cache-Control': 'no-store',
    'Content-Type': contentType,
    'Content-Length': Buffer.byteLength(text),
  })
  // As text, so that Node sends it in one piece with the headers.
  if (request.complete) return void response.end(text)
  response.write(text)
  dropRest(request, () => response.end())
}

/** Of a body that nobody wants any more, so much is read and dropped, for so long, before the connection ends. */
const maxDroppedBytes = 1_048_576
const maxDroppingMs = 2_000

/**
 * What still comes of a body after its answer was written: a little is read, then no more, so that its sender has time to find the answer; then the
 * connection ends. Ended at once, under a sender who asked for that (`Connection: close`) and is still sending, it would be reset, and with it would go
 * what the sender had not read yet.
 * @param done called once, when the body or the patience with it has ended; not when its sender has gone
 */
export function dropRest(request: IncomingMessage, done: () => void): void {
  // Who asked before sending (Expect: 100-continue), and was not told to, sends nothing.
  const isAsking = request.headers.expect !== undefined && request.readableFlowing === null && !request.readableDidRead
  if (request.complete || request.destroyed || isAsking) return done()
  let dropped = 0
  const enough = setTimeout(() => {
    done()
    request.destroy()
  }, maxDroppingMs)
  request.on('data', (chunk: Buffer) => {
    dropped += chunk.length
    chunk.fill(0)
    if (dropped > maxDroppedBytes) request.pause()
  })
  request.on('end', () => {
    clearTimeout(enough)
    done()
  })
  request.on('close', () => clearTimeout(enough))
  request.on('error', () => undefined)
  request.resume()
}
