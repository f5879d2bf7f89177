/**
 * A listening socket and its limits: HTTP/1.1 over TCP or TLS 1.2 and later, and HTTP/2 where it is wanted, with bounds on connections, on
 * how long a request may take to arrive and on how long nothing may happen. Clients may be asked for a certificate.
 *
 * No `upgrade` listener, on purpose: some clients offer h2c with every request, and Node would then take their requests
 * for upgrades. The certificate can be replaced while connections go on; closing lets calls under way finish.
 */

import { readFileSync } from 'node:fs'
import { createServer as createHttpServer, STATUS_CODES, type RequestListener, type ServerOptions, type ServerResponse } from 'node:http'
import { createServer as createHttpsServer, type Server as TlsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { createSecureContext, type SecureContextOptions, type TLSSocket } from 'node:tls'
import { OperatorError } from '../base/operator-error.ts'
import type { Log } from '../base/log.ts'
import { Connections } from './connections.ts'
import { admitClients, serveHttp2, type ClientCertificates, type Http2Handler } from './tls-connections.ts'

export interface TlsFiles {
  readonly certFile: string
  readonly keyFile: string
  /** Only clients with a certificate of these are spoken with. */
  readonly clients?: ClientCertificates
  /** OpenSSL's names; its own choice without. */
  readonly suites?: readonly string[]
}

export interface ListenOptions {
  /** For the log: `kms`, `ops`, `xks`. */
  readonly name: string
  readonly host: string
  /** 0 takes a free one. */
  readonly port: number
  /** Paths of PEM files; plain HTTP without. */
  readonly tls: TlsFiles | undefined
  readonly maxConnections: number
  readonly headersTimeoutMs: number
  readonly requestTimeoutMs: number
  readonly idleTimeoutMs: number
  readonly drainTimeoutMs: number
  readonly handle: RequestListener
  /** Whether a request is being worked on while it arrives, and has limits of its own instead of `requestTimeoutMs`. */
  readonly takesLong?: (socket: Socket) => boolean
  /** With it clients may choose HTTP/2 in the TLS handshake (ALPN). */
  readonly handleHttp2?: Http2Handler
  readonly log: Log
}

export interface Listener {
  /** `http://127.0.0.1:8480` */
  readonly url: string
  readonly port: number
  /** Open connections. */
  connections(): Promise<number>
  /** Those that other processes have to count with: a handshake concerns the process alone that it goes on in. */
  established(): number
  /** Those sent away since the start, to make room for others. */
  sentAway(): number
  /** So many are established in other processes on the same port, and count against `maxConnections` here. */
  connectionsElsewhere(count: number): void
  /** Reads the certificate and key again for new connections. Answers whether they were taken; if not, the old ones stay and the log says why. */
  reloadCertificate(): boolean
  /** Stops accepting, ends who has asked for nothing, lets calls under way finish for `drainTimeoutMs`, then ends what is left. */
  close(): Promise<void>
}

/** Starts to listen. @throws Error with a fix when the address cannot be had or the certificate cannot be used. */
export async function listen(options: ListenOptions): Promise<Listener> {
  const { name, host, tls, log } = options
  let draining = false
  const connections = new Connections({
    max: options.maxConnections,
    takesLong: options.takesLong,
    onLimit: (limit) => (server.maxConnections = limit),
  })
  const handle: RequestListener = (request, response) => {
    if (!connections.asks(request.socket, response)) return
    if (draining) endAfter(response)
    options.handle(request, response)
  }
  const { handleHttp2 } = options
  const tlsServer =
    tls &&
    createHttpsServer({
      ...limits(options),
      ...readFiles(tls),
      handshakeTimeout: options.headersTimeoutMs,
      ...(handleHttp2 && { ALPNProtocols: ['h2', 'http/1.1'] }),
      ...(tls.clients && { requestCert: true, rejectUnauthorized: true }),
    })
  // What speaks HTTP/2 is taken away before it comes here.
  tlsServer?.on('secureConnection', (socket) => connections.idles(socket))
  const server = tlsServer ?? createHttpServer(limits(options))
  const http2 = tlsServer && handleHttp2 && serveHttp2(tlsServer, { ...options, connections, handle: handleHttp2 })
  if (tlsServer && tls.clients)
    admitClients(tlsServer, tls.clients.names, (names) =>
      log.warn({ listener: name, names }, 'a client whose certificate is for another name was turned away'),
    )
  server.maxConnections = options.maxConnections
  server.on('connection', (socket) => {
    connections.opened(socket)
    if (tls) connections.handshakes(socket)
    else connections.idles(socket)
  })
  // A connection on which nothing moves, whatever the reason: the reader of an answer that does not read it.
  server.setTimeout(options.idleTimeoutMs + options.requestTimeoutMs, (socket) => socket.destroy())
  server.on('request', handle)
  server.on('checkContinue', (request, response) => {
    // Whoever asks first may be refused and then need not send the body, so where the next request begins would be a guess.
    endAfter(response)
    handle(request, response)
  })
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    // Node says it once for each request, and leaves the connection as it is.
    if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT' && options.takesLong?.(socket)) return
    refuseMalformed(error, socket, connections.hasAsked(socket))
  })
  server.on('tlsClientError', (error, socket: TLSSocket) => {
    log.debug({ listener: name, err: error }, 'a TLS handshake failed')
    // What took too long Node tells and leaves open, and words for the peer would wait for the handshake's end.
    socket.destroy()
  })
  const crowded = everySoOften((closed) =>
    log.warn({ listener: name, maxConnections: options.maxConnections, closed }, 'too many connections: new ones were closed'),
  )
  server.on('drop', () => {
    crowded()
    connections.dropped()
  })

  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => reject(new OperatorError(listenProblem(options, cause), { cause })))
    server.listen({ host, port: options.port }, resolve)
  })
  server.removeAllListeners('error')
  server.on('error', (error) => log.error({ listener: name, err: error }, 'the listener failed'))
  const { port } = server.address() as AddressInfo

  return {
    url: `${tls ? 'https' : 'http'}://${urlHost(host)}:${port}`,
    port,
    connections: () => new Promise((resolve, reject) => server.getConnections((error, count) => (error ? reject(error) : resolve(count)))),
    established: () => connections.established,
    sentAway: () => connections.sentAway,
    connectionsElsewhere: (count) => connections.elsewhere(count),
    reloadCertificate() {
      if (!tls) return false
      try {
        ;(server as TlsServer).setSecureContext(readFiles(tls))
        log.info({ listener: name, certFile: tls.certFile }, 'the certificate was read again')
        return true
      } catch (error) {
        log.error({ listener: name, err: error }, 'the new certificate cannot be used; the old one stays')
        return false
      }
    },
    async close() {
      draining = true
      // Whoever is served while the listener drains is told that the connection ends with this answer.
      for (const response of connections.owed()) endAfter(response)
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      // Not at once: the first request of one that has just come may be on its way.
      const silent = setTimeout(() => connections.endSilent(), 1000)
      // A connection whose answer had begun when close() looked becomes idle later.
      http2?.close()
      const sweep = setInterval(() => server.closeIdleConnections(), 50)
      const force = setTimeout(() => {
        log.warn({ listener: name }, 'calls were still under way when the time to finish them was over')
        http2?.destroy()
        server.closeAllConnections()
      }, options.drainTimeoutMs)
      await closed
      clearTimeout(silent)
      clearInterval(sweep)
      clearTimeout(force)
    },
  }
}

/** Says it the first time, and then every ten seconds how often it happened: what anybody can make happen must not fill the log. */
function everySoOften(say: (times: number) => void): () => void {
  let times = 0
  let timer: NodeJS.Timeout | undefined
  const quiet = (): void => {
    timer = undefined
    if (times === 0) return
    say(times)
    times = 0
    timer = setTimeout(quiet, 10_000).unref()
  }
  return () => {
    times += 1
    if (!timer) quiet()
  }
}

function limits(options: ListenOptions): ServerOptions {
  return {
    headersTimeout: Math.min(options.headersTimeoutMs, options.requestTimeoutMs),
    requestTimeout: options.requestTimeoutMs,
    keepAliveTimeout: options.idleTimeoutMs,
    // How often the two timeouts above are looked at.
    connectionsCheckingInterval: Math.max(50, Math.min(5000, Math.floor(options.headersTimeoutMs / 4))),
    maxHeaderSize: 32_768,
    requireHostHeader: true,
    insecureHTTPParser: false,
  }
}

/** What the files say, proved to belong together. */
function readFiles({ certFile, keyFile, clients, suites }: TlsFiles): SecureContextOptions {
  const context: SecureContextOptions = {
    cert: readFileSync(certFile),
    key: readFileSync(keyFile),
    minVersion: 'TLSv1.2',
    ...(clients && { ca: readFileSync(clients.caFile) }),
    ...(suites && { ciphers: suites.join(':') }),
  }
  try {
    createSecureContext(context)
  } catch (cause) {
    throw new OperatorError(
      `The certificate in ${certFile} and the key in ${keyFile} cannot be used together: ${cause instanceof Error ? cause.message : ''}`,
      { cause },
    )
  }
  return context
}

function endAfter(response: ServerResponse): void {
  if (!response.headersSent) response.setHeader('Connection', 'close')
}

/** Bytes that are no HTTP request, or came too slowly: one bare answer, and the connection ends. */
function refuseMalformed(error: NodeJS.ErrnoException, socket: Socket, answering: boolean): void {
  // Where an answer has begun, or may have, more bytes would be taken for part of it.
  if (!socket.writable || answering || error.code === 'ECONNRESET') return void socket.destroy()
  const status = error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : error.code === 'HPE_HEADER_OVERFLOW' ? 431 : 400
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`, () => socket.destroy())
}

const portSettings: Readonly<Record<string, string>> = { ops: 'HOLDFAST_OPS_PORT', xks: 'HOLDFAST_XKS_PROXY_PORT' }

function listenProblem({ name, host, port }: ListenOptions, cause: NodeJS.ErrnoException): string {
  const where = `${urlHost(host)}:${port}`
  const setting = portSettings[name] ?? 'HOLDFAST_PORT'
  if (cause.code === 'EADDRINUSE')
    return `${where} is in use: stop what listens there, or set ${setting} to another port (0 takes a free one).`
  if (cause.code === 'EACCES') return `This user may not listen on ${where}: set ${setting} to a port above 1023.`
  return `Cannot listen on ${where}: ${cause.message}.`
}

const urlHost = (host: string): string => (host.includes(':') ? `[${host}]` : host)
