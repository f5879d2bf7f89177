/**
 * The client of an XKS proxy: signs a call, sends it, and believes no answer that the protocol does not have.
 *
 * HTTPS only, certificates verified against the endpoint's name, TLS 1.2 or later, connections kept. A call has `deadlineMs` (250, the
 * spec's) for everything from the connection to the last byte, and one more try when the network let it down; what the proxy itself
 * answered is final. Nothing is sent that is not encrypted already: what goes to a proxy was encrypted in our own HSM before.
 */

import { readFileSync } from 'node:fs'
import { Agent, request as httpsRequest } from 'node:https'
import type { TLSSocket } from 'node:tls'
import { createSecureContext, rootCertificates } from 'node:tls'
import { signRequest } from '../auth/sigv4.ts'
import type { Clock } from '../base/clock.ts'
import {
  decryptBody,
  encryptBody,
  InvalidAnswer,
  maxAnswerBytes,
  metadataBody,
  paths,
  readDecrypted,
  readEncrypted,
  readError,
  readExternalKey,
  readHealth,
  signingService,
  type ErrorName,
  type ExternalCiphertext,
  type ExternalKey,
  type Health,
  type RequestMetadata,
} from './protocol.ts'

/** Why a proxy did not do what it was asked: its own word for it, or one of these. */
export type XksFailure =
  | ErrorName
  /** No connection, or it broke. */
  | 'unreachable'
  /** Connected, and no whole answer within the deadline. */
  | 'timeout'
  /** A certificate that is not trusted or not for this name, or no TLS at all. */
  | 'tls'
  /** An answer that the protocol does not have. */
  | 'invalid-response'
  /** Every key manager behind the proxy is UNAVAILABLE. */
  | 'unhealthy'

export class XksError extends Error {
  override readonly name = 'XksError'
  readonly failure: XksFailure
  /** Of `unhealthy`: what the proxy said. */
  readonly health: Health | undefined
  constructor(failure: XksFailure, message: string, options?: ErrorOptions & { readonly health?: Health }) {
    super(message, options)
    this.failure = failure
    this.health = options?.health
  }
}

/** Where a proxy is and how one signs for it. */
export interface ProxySettings {
  /** `https://` and a host name, no port. */
  readonly endpoint: string
  /** Ends in `/kms/xks/v1`. */
  readonly path: string
  /** That of the key store: the region of the signature. */
  readonly region: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
}

/** Every call throws XksError, and nothing else but for defects of ours. */
export interface XksClient {
  /** GetHealthStatus. @throws XksError `unhealthy` as well. */
  health(proxy: ProxySettings, metadata: RequestMetadata): Promise<Health>
  /** GetKeyMetadata. */
  externalKey(proxy: ProxySettings, externalKeyId: string, metadata: RequestMetadata): Promise<ExternalKey>
  encrypt(
    proxy: ProxySettings,
    externalKeyId: string,
    metadata: RequestMetadata,
    plaintext: Uint8Array,
    aad: Uint8Array,
  ): Promise<ExternalCiphertext>
  decrypt(
    proxy: ProxySettings,
    externalKeyId: string,
    metadata: RequestMetadata,
    outer: ExternalCiphertext,
    aad: Uint8Array,
  ): Promise<Buffer>
  close(): void
}

export interface XksClientOptions {
  /** PEM certificates that are trusted besides the public ones. */
  readonly caFile?: string | undefined
  /** Where to connect instead, by host name of the endpoint. The certificate must still be for that name. */
  readonly connectTo: ReadonlyMap<string, { readonly host: string; readonly port: number }>
  readonly deadlineMs: number
  readonly clock: Clock
  /** Called once for each call, with how it ended. */
  readonly onCall?: (outcome: 'ok' | XksFailure, seconds: number) => void
}

const httpsPort = 443
/** The spec's: everything of one try. */
export const xksDeadlineMs = 250
/** Connections to one proxy at a time; AWS's own default is 1800 calls in a second, of up to 250 ms. */
const maxConnections = 512
/** How long an idle connection is kept; load balancers close theirs after 60 s or so. */
const idleMs = 30_000

const triedAgain: ReadonlySet<XksFailure> = new Set<XksFailure>(['unreachable', 'timeout'])

export function openXksClient(options: XksClientOptions): XksClient {
  const { clock, deadlineMs, connectTo } = options
  const agent = new Agent({
    keepAlive: true,
    maxSockets: maxConnections,
    maxFreeSockets: 64,
    timeout: idleMs,
    // Made once: reading a hundred certificates for each connection would take longer than a call may.
    secureContext: createSecureContext({
      minVersion: 'TLSv1.2',
      ...(options.caFile !== undefined && { ca: [...rootCertificates, readFileSync(options.caFile, 'utf8')] }),
    }),
  })

  const once = (url: URL, headers: Readonly<Record<string, string>>, body: string): Promise<{ status: number; body: Buffer }> =>
    new Promise((resolve, reject) => {
      const target = connectTo.get(url.hostname) ?? { host: url.hostname, port: httpsPort }
      let connected = false
      const request = httpsRequest({
        agent,
        ...target,
        servername: url.hostname,
        method: 'POST',
        path: url.pathname,
        headers: { ...headers, 'content-length': Buffer.byteLength(body) },
      })
      const deadline = setTimeout(() => {
        request.destroy(
          connected
            ? new XksError('timeout', `no answer within ${deadlineMs} ms`)
            : new XksError('unreachable', `no connection within ${deadlineMs} ms`),
        )
      }, deadlineMs)
      const fail = (error: Error): void => {
        clearTimeout(deadline)
        reject(error instanceof XksError ? error : new XksError(failureOf(error), error.message, { cause: error }))
      }
      request.on('error', fail)
      request.on('socket', (socket) => {
        if (request.reusedSocket) connected = true
        else (socket as TLSSocket).once('secureConnect', () => (connected = true))
      })
      request.on('response', (response) => {
        const chunks: Buffer[] = []
        let bytes = 0
        response.on('data', (chunk: Buffer) => {
          bytes += chunk.length
          if (bytes > maxAnswerBytes) request.destroy(new XksError('invalid-response', `an answer of more than ${maxAnswerBytes} bytes`))
          else chunks.push(chunk)
        })
        response.on('error', fail)
        response.on('end', () => {
          clearTimeout(deadline)
          resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) })
        })
      })
      request.end(body)
    })

  const ask = async <T>(proxy: ProxySettings, path: string, body: string, read: (answer: unknown) => T): Promise<T> => {
    const url = new URL(proxy.endpoint + proxy.path + path)
    const send = () =>
      once(
        url,
        signRequest({
          method: 'POST',
          url: url.href,
          headers: { 'content-type': 'application/json' },
          body,
          service: signingService,
          region: proxy.region,
          credentials: proxy,
          timeMs: clock.now(),
        }),
        body,
      )
    const answer = await send().catch((error: unknown) => {
      if (error instanceof XksError && triedAgain.has(error.failure)) return send()
      throw error
    })
    return readAnswer(answer, read)
  }

  const call = async <T>(proxy: ProxySettings, path: string, body: string, read: (answer: unknown) => T): Promise<T> => {
    const startedAt = performance.now()
    const tell = (outcome: 'ok' | XksFailure) => options.onCall?.(outcome, (performance.now() - startedAt) / 1000)
    try {
      const answer = await ask(proxy, path, body, read)
      tell('ok')
      return answer
    } catch (error) {
      if (error instanceof XksError) tell(error.failure)
      throw error
    }
  }

  return {
    health: (proxy, metadata) =>
      call(proxy, paths.health, metadataBody(metadata), (answer) => {
        const health = readHealth(answer)
        if (health.ekmFleetDetails.every(({ healthStatus }) => healthStatus === 'UNAVAILABLE')) {
          throw new XksError('unhealthy', 'every external key manager is UNAVAILABLE', { health })
        }
        return health
      }),
    externalKey: (proxy, externalKeyId, metadata) => call(proxy, paths.metadata(externalKeyId), metadataBody(metadata), readExternalKey),
    encrypt: (proxy, externalKeyId, metadata, plaintext, aad) =>
      call(proxy, paths.encrypt(externalKeyId), encryptBody(metadata, plaintext, aad), (answer) =>
        readEncrypted(answer, plaintext.length, aad),
      ),
    decrypt: (proxy, externalKeyId, metadata, outer, aad) =>
      call(proxy, paths.decrypt(externalKeyId), decryptBody(metadata, outer, aad), (answer) =>
        readDecrypted(answer, outer.ciphertext.length),
      ),
    close: () => agent.destroy(),
  }
}

function readAnswer<T>({ status, body }: { readonly status: number; readonly body: Buffer }, read: (answer: unknown) => T): T {
  try {
    const answer: unknown = JSON.parse(body.toString())
    if (status === 200) return read(answer)
    const { name, message } = readError(answer)
    throw new XksError(name, message)
  } catch (error) {
    if (error instanceof InvalidAnswer || error instanceof SyntaxError) {
      // Of JSON that cannot be read the text says what stands there, which is for nobody's log.
      const reason = error instanceof InvalidAnswer ? error.message : 'not JSON'
      throw new XksError('invalid-response', `status ${status}: ${reason}`)
    }
    throw error
  }
}

/** OpenSSL's words for a certificate or a handshake; everything else is the network. */
const tlsTrouble = /^(?:ERR_TLS|ERR_SSL|EPROTO|CERT_|SELF_SIGNED|DEPTH_ZERO|UNABLE_TO_|INVALID_CA|HOSTNAME_MISMATCH)/

function failureOf(error: Error): XksFailure {
  const { code } = error as { readonly code?: unknown }
  return typeof code === 'string' && tlsTrouble.test(code) ? 'tls' : 'unreachable'
}
