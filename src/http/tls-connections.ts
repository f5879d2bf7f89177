/**
 * What happens to a TLS connection before it carries requests: whether its client's certificate is for a name that may call, and whether it
 * speaks HTTP/2, which the two sides agree on in the handshake (ALPN, RFC 7301).
 *
 * One listener serves both versions, so that the limits and the certificate are the same. A connection may have so many requests under way
 * (`maxStreams`), headers so long, and be idle for so long; a client that breaks HTTP/2's rules loses the connection.
 */

import { createServer, type Http2ServerRequest, type Http2ServerResponse, type ServerHttp2Session } from 'node:http2'
import type { Server as TlsServer } from 'node:https'
import type { PeerCertificate, TLSSocket } from 'node:tls'
import type { Log } from '../base/log.ts'
import type { Connections } from './connections.ts'

export type Http2Handler = (request: Http2ServerRequest, response: Http2ServerResponse) => void

export interface ClientCertificates {
  /** PEM of the authorities; nobody else's certificate counts. */
  readonly caFile: string
  /** Which subjects: a DNS name of the subjectAltName, or the common name. */
  readonly names: readonly string[]
}

/** Requests that one connection may have under way, and how long its headers may be. */
export const connectionLimits = { maxStreams: 128, maxHeaderBytes: 16_384, maxHeaders: 100 } as const

/**
 * Turns away who has no certificate for one of `names`. That it is valid and of the right authority, Node has seen to.
 * Call it after everything else that listens for connections has been set up: it stands before them.
 */
export function admitClients(server: TlsServer, names: readonly string[], refused: (names: readonly string[]) => void): void {
  const admitted = new Set(names.map((name) => name.toLowerCase()))
  const next = takeConnections(server)
  server.on('secureConnection', (socket) => {
    const subjects = namesOf(socket.getPeerCertificate())
    if (socket.authorized && subjects.some((name) => admitted.has(name.toLowerCase()))) return next(socket)
    refused(subjects)
    socket.destroy()
  })
}

/** The names that a certificate is for: those of subjectAltName, then the common name. */
export function namesOf({ subject, subjectaltname = '' }: Pick<PeerCertificate, 'subject' | 'subjectaltname'>): readonly string[] {
  // A name with a comma in it is quoted, and is none that a configuration could hold.
  const alternative = subjectaltname.split(', ').flatMap((entry) => (entry.startsWith('DNS:') ? [entry.slice(4)] : []))
  return [...alternative, ...[subject?.CN ?? []].flat()]
}

/** HTTP/2's side of a listener. */
export interface Http2Side {
  /** Tells every connection that no more requests are taken; what is under way is finished. */
  close(): void
  /** Ends them all. */
  destroy(): void
}

export function serveHttp2(
  server: TlsServer,
  options: {
    readonly name: string
    readonly idleTimeoutMs: number
    readonly handle: Http2Handler
    readonly connections: Pick<Connections, 'idles' | 'works'>
    readonly log: Log
  },
): Http2Side {
  const { name, idleTimeoutMs, handle, connections, log } = options
  const sessions = new Set<ServerHttp2Session>()
  let closing = false
  const http2 = createServer({
    settings: { maxConcurrentStreams: connectionLimits.maxStreams, maxHeaderListSize: connectionLimits.maxHeaderBytes, enablePush: false },
    maxHeaderListPairs: connectionLimits.maxHeaders,
    maxSessionInvalidFrames: 100,
    maxSessionRejectedStreams: 100,
  })
  http2.on('request', handle)
  // Whoever asks first may send: the body's limit holds in any case.
  http2.on('checkContinue', (request, response) => {
    response.writeContinue()
    handle(request, response)
  })
  http2.on('session', (session) => {
    sessions.add(session)
    session.once('close', () => sessions.delete(session))
    session.setTimeout(idleTimeoutMs, () => session.destroy())
    session.on('error', (error) => log.debug({ listener: name, err: error }, 'an HTTP/2 connection broke'))
    if (closing) session.close()
  })
  /** Tells when requests are under way on it. */
  const watch = (session: ServerHttp2Session, socket: TLSSocket): void => {
    let underWay = 0
    session.on('stream', (stream) => {
      underWay += 1
      connections.works(socket)
      stream.once('close', () => {
        underWay -= 1
        if (underWay === 0) connections.idles(socket)
      })
    })
  }
  http2.on('sessionError', () => undefined)
  const http1 = takeConnections(server)
  server.on('secureConnection', (socket) => {
    if (socket.alpnProtocol !== 'h2') return http1(socket)
    // The session is made while this is emitted; what it calls its socket may not be destroyed.
    http2.once('session', (session) => watch(session, socket))
    http2.emit('connection', socket)
    connections.idles(socket)
  })
  return {
    close() {
      closing = true
      for (const session of sessions) session.close()
    },
    destroy() {
      for (const session of sessions) session.destroy()
    },
  }
}

/** Takes new connections from whoever had them, and answers how to hand one on. */
function takeConnections(server: TlsServer): (socket: TLSSocket) => void {
  const former = server.listeners('secureConnection') as ((socket: TLSSocket) => void)[]
  server.removeAllListeners('secureConnection')
  return (socket) => {
    for (const listener of former) listener.call(server, socket)
  }
}
