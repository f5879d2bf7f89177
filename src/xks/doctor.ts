/**
 * `holdfast xks doctor`: the whole conversation that AWS KMS has with an XKS proxy, held with one that is running, good calls and bad ones,
 * and every answer judged by the specification (1.0.3). Then the calls are timed against AWS's 250 ms, and the certificate is looked at.
 *
 * It needs a credential of the store and, for the calls on a key, an external key id. It encrypts nothing but random bytes of its own. A
 * certificate that is not trusted is told, and does not keep the rest from being looked at: nothing secret is sent.
 */

import { randomBytes } from 'node:crypto'
import { connect as connectHttp2 } from 'node:http2'
import { Agent as PlainAgent, request as plainRequest, type ClientRequest, type IncomingMessage } from 'node:http'
import { Agent as TlsAgent, request as tlsRequest } from 'node:https'
import { isIP } from 'node:net'
import { connect as tlsConnect, rootCertificates, type ConnectionOptions, type PeerCertificate, type TLSSocket } from 'node:tls'
import { signRequest, type SigningCredentials } from '../auth/sigv4.ts'
import type { Clock } from '../base/clock.ts'
import {
  decryptBody,
  encryptBody,
  errorStatuses,
  maxAadBytes,
  maxPlaintextBytes,
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
} from './protocol.ts'

export interface DoctorOptions {
  /** `https://proxy.example.com`; plain HTTP for a proxy behind something that speaks TLS. */
  readonly endpoint: URL
  /** Where to connect instead of the endpoint's own address. */
  readonly connectTo?: { readonly host: string; readonly port: number }
  /** XksProxyUriPath: ends in `/kms/xks/v1`. */
  readonly path: string
  readonly region: string
  readonly credentials: SigningCredentials
  /** Without it no call on a key is made. */
  readonly externalKeyId?: string
  /** PEM of authorities besides the public ones. */
  readonly ca?: string
  /** PEM, for a proxy that asks for a client certificate. */
  readonly client?: { readonly cert: string; readonly key: string }
  /** How many Encrypt and how many Decrypt calls are timed. */
  readonly calls: number
  readonly clock: Clock
}

/** `wrong` means that AWS KMS will not work with it, or not as it should; `note` is for whoever runs it. */
export interface Finding {
  readonly verdict: 'ok' | 'wrong' | 'note'
  readonly what: string
  readonly detail: string
}

export interface Latency {
  readonly call: string
  readonly calls: number
  readonly p50Ms: number
  readonly p95Ms: number
  readonly p99Ms: number
  readonly maxMs: number
  /** Calls that took longer than AWS KMS waits. */
  readonly tooLate: number
}

export interface ConnectionReport {
  readonly tlsVersion: string
  readonly suite: string
  /** `h2` where the proxy offers it. */
  readonly alpn: string
  readonly commonName: string
  readonly names: readonly string[]
  readonly issuer: string
  readonly validUntil: string
  readonly daysLeft: number
}

export interface ProxyReport {
  readonly healthy: boolean
  readonly findings: readonly Finding[]
  readonly connection: ConnectionReport | undefined
  readonly latency: readonly Latency[]
}

/** How long AWS KMS waits for an answer, the network included. */
const awsDeadlineMs = 250
/** What the round trip on the network should not exceed. */
const awsRoundTripMs = 35
/** How long the examination itself waits. */
const patienceMs = 5000
const requiredSuites: ReadonlySet<string> = new Set([
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
])
const dayMs = 86_400_000

interface Sent {
  readonly method?: string
  /** After the version: `/health`. A path that begins with `//` is taken as it is, from its second stroke. */
  readonly call: string
  readonly body: string
  /** What becomes of the headers after signing. */
  readonly change?: (headers: Record<string, string>) => Record<string, string>
  readonly credentials?: SigningCredentials
  readonly timeMs?: number
  readonly service?: string
  /** What is sent in the place of the body that was signed. */
  readonly instead?: string
}

interface Answer {
  readonly status: number
  readonly body: Buffer
  readonly contentType: string
}

export async function examineProxy(options: DoctorOptions): Promise<ProxyReport> {
  const findings: Finding[] = []
  const tell = (verdict: Finding['verdict'], what: string, detail = ''): void => void findings.push({ verdict, what, detail })
  judgeAddress(options, tell)
  let connection: ConnectionReport | undefined
  const latency: Latency[] = []
  const wire = new Wire(options)
  try {
    if (options.endpoint.protocol === 'https:') connection = await examineTls(options, tell)
    const talk = new Talk(options, wire, tell)
    await talk.health()
    await talk.refusals()
    if (connection?.alpn === 'h2') await talk.overHttp2()
    if (options.externalKeyId === undefined) tell('note', 'no external key id was given: metadata, encrypt and decrypt were not looked at')
    else {
      await talk.key(options.externalKeyId)
      latency.push(...(await talk.time(options.externalKeyId)))
    }
  } catch (error) {
    // What went before is told all the same.
    tell('wrong', 'the conversation ended early', error instanceof Error ? error.message : String(error))
  } finally {
    wire.close()
  }
  for (const { call, p99Ms, tooLate, calls } of latency) {
    const verdict = p99Ms > awsDeadlineMs ? 'wrong' : tooLate > 0 ? 'note' : 'ok'
    tell(
      verdict,
      `${call}: p99 ${p99Ms} ms against the ${awsDeadlineMs} ms that AWS KMS waits`,
      tooLate > 0 ? `${tooLate} of ${calls} later` : '',
    )
  }
  return { healthy: findings.every(({ verdict }) => verdict !== 'wrong'), findings, connection, latency }
}

type Tell = (verdict: Finding['verdict'], what: string, detail?: string) => void

/** What AWS says of XksProxyUriEndpoint and XksProxyUriPath, before anything is sent. */
function judgeAddress({ endpoint, path }: DoctorOptions, tell: Tell): void {
  if (endpoint.protocol !== 'https:')
    tell('note', 'the endpoint is plain HTTP', 'AWS KMS speaks HTTPS only: something in front of the proxy must')
  if (isIP(endpoint.hostname.replace(/^\[|\]$/g, '')) !== 0) tell('note', 'the endpoint is an IP address', 'AWS KMS takes a DNS name only')
  if (endpoint.protocol === 'https:' && endpoint.port !== '')
    tell('note', `the endpoint is on port ${endpoint.port}`, 'AWS KMS always connects to port 443')
  if (!/^(?:\/[a-zA-Z0-9/_-]+)?\/kms\/xks\/v\d{1,2}$/.test(path) || path.length < 10 || path.length > 128)
    tell('wrong', `${path} is no XksProxyUriPath`, 'it must end in /kms/xks/v1 and be 10 to 128 characters long')
  if (endpoint.origin.length + path.length > 256) tell('wrong', 'endpoint and path together are longer than 256 characters')
}

async function examineTls(options: DoctorOptions, tell: Tell): Promise<ConnectionReport> {
  const { endpoint, clock } = options
  const socket = await connectTls(options, { ALPNProtocols: ['h2', 'http/1.1'] })
  const certificate = socket.getPeerCertificate()
  const { authorized, authorizationError } = socket
  const report: ConnectionReport = {
    tlsVersion: socket.getProtocol() ?? '',
    suite: socket.getCipher().name,
    alpn: socket.alpnProtocol === false ? '' : (socket.alpnProtocol ?? ''),
    commonName: oneName(certificate.subject),
    names: (certificate.subjectaltname ?? '').split(', ').flatMap((entry) => (entry.startsWith('DNS:') ? [entry.slice(4)] : [])),
    issuer: oneName(certificate.issuer),
    validUntil: new Date(certificate.valid_to).toISOString(),
    daysLeft: Math.floor((Date.parse(certificate.valid_to) - clock.now()) / dayMs),
  }
  socket.destroy()
  tell(
    authorized ? 'ok' : 'wrong',
    authorized ? 'the certificate is trusted and for this host' : 'the certificate is not trusted',
    authorized ? '' : String(authorizationError),
  )
  const host = endpoint.hostname.toLowerCase()
  const common = report.commonName.toLowerCase()
  const fits = common === host || (common.startsWith('*.') && host.slice(host.indexOf('.')) === common.slice(1))
  tell(
    fits ? 'ok' : 'note',
    `the common name is ${report.commonName || 'missing'}`,
    fits ? '' : `AWS wants it to be ${host} or *${host.slice(host.indexOf('.'))}`,
  )
  const { daysLeft } = report
  tell(
    daysLeft < 0 ? 'wrong' : daysLeft < 30 ? 'note' : 'ok',
    daysLeft < 0 ? 'the certificate has expired' : `the certificate is good for ${daysLeft} more days`,
  )
  tell(requiredSuites.has(report.suite) ? 'ok' : 'wrong', `${report.tlsVersion}, ${report.suite}`)
  // AWS KMS may come with TLS 1.2 and is free to have no HTTP/2.
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const outcome = await connectTls(options, { minVersion: version, maxVersion: version, ciphers: [...requiredSuites].join(':') }).then(
      (other) => other.destroy() && undefined,
      (error: Error) => error,
    )
    if (!outcome) tell('ok', `${version} with a suite of the specification`)
    else tell(report.tlsVersion === version ? 'wrong' : 'note', `no ${version} with a suite of the specification`, outcome.message)
  }
  return report
}

const oneName = (subject: PeerCertificate['subject'] | undefined): string => [subject?.CN ?? ''].flat().join()

const tlsOptions = ({ endpoint, connectTo, ca, client }: DoctorOptions): ConnectionOptions => ({
  ...(connectTo ?? { host: endpoint.hostname, port: Number(endpoint.port || 443) }),
  ...(isIP(endpoint.hostname) === 0 && { servername: endpoint.hostname }),
  minVersion: 'TLSv1.2',
  rejectUnauthorized: false,
  ...(ca !== undefined && { ca: [...rootCertificates, ca] }),
  ...client,
})

function connectTls(options: DoctorOptions, more: ConnectionOptions): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = tlsConnect({ ...tlsOptions(options), ...more }, () => resolve(socket))
    socket.setTimeout(patienceMs, () => socket.destroy(new Error(`no TLS connection within ${patienceMs} ms`)))
    socket.on('error', reject)
  })
}

/** One connection that is kept, and what is signed for it. */
class Wire {
  readonly #options: DoctorOptions
  readonly #agent: PlainAgent
  readonly #send: (path: string, method: string, headers: Record<string, string>) => ClientRequest

  constructor(options: DoctorOptions) {
    this.#options = options
    const { endpoint, connectTo } = options
    const keep = { keepAlive: true, maxSockets: 1 }
    const overTls = endpoint.protocol === 'https:'
    const agent = (this.#agent = overTls ? new TlsAgent({ ...keep, ...tlsOptions(options) }) : new PlainAgent(keep))
    const where = connectTo ?? { host: endpoint.hostname.replace(/^\[|\]$/g, ''), port: Number(endpoint.port || (overTls ? 443 : 80)) }
    this.#send = (path, method, headers) => (overTls ? tlsRequest : plainRequest)({ agent, ...where, path, method, headers })
  }

  sign({ method = 'POST', call, body, credentials, timeMs, service, change = (headers) => headers }: Sent): {
    path: string
    method: string
    headers: Record<string, string>
  } {
    const { endpoint, clock, region } = this.#options
    const path = call.startsWith('//') ? call.slice(1) : this.#options.path + call
    const headers = signRequest({
      method,
      url: endpoint.origin + path,
      headers: { 'content-type': 'application/json' },
      body,
      service: service ?? signingService,
      region,
      credentials: credentials ?? this.#options.credentials,
      timeMs: timeMs ?? clock.now(),
    })
    return { path, method, headers: change(headers) }
  }

  ask(sent: Sent): Promise<Answer> {
    const { path, method, headers } = this.sign(sent)
    const body = sent.instead ?? sent.body
    return new Promise((resolve, reject) => {
      const request = this.#send(path, method, { ...headers, 'content-length': String(Buffer.byteLength(body)) })
      const late = setTimeout(() => request.destroy(new Error(`no answer within ${patienceMs} ms`)), patienceMs)
      request.on('error', (error) => {
        clearTimeout(late)
        reject(error)
      })
      request.on('response', (response: IncomingMessage) => {
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.on('error', reject)
        response.on('end', () => {
          clearTimeout(late)
          resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks), contentType: response.headers['content-type'] ?? '' })
        })
      })
      request.end(body)
    })
  }

  close(): void {
    this.#agent.destroy()
  }
}

/** What a call that must fail must fail with. */
type Refused = ErrorName | '405'

class Talk {
  readonly #options: DoctorOptions
  readonly #wire: Wire
  readonly #tell: Tell
  #count = 0

  constructor(options: DoctorOptions, wire: Wire, tell: Tell) {
    this.#options = options
    this.#wire = wire
    this.#tell = tell
  }

  #metadata(kmsOperation: string, onKey = true): Parameters<typeof metadataBody>[0] {
    return {
      kmsRequestId: `holdfast-doctor-${++this.#count}`,
      kmsOperation,
      ...(onKey && {
        awsPrincipalArn: 'arn:aws:iam::111122223333:role/holdfast-doctor',
        kmsKeyArn: `arn:aws:kms:${this.#options.region}:111122223333:key/00000000-0000-4000-8000-000000000000`,
      }),
    }
  }

  #healthBody(kmsOperation = 'KmsHealthCheck'): string {
    return metadataBody(this.#metadata(kmsOperation, false))
  }

  /** The call must succeed, and its answer be what `read` takes. */
  async #works<T>(what: string, sent: Sent, read: (answer: unknown) => T): Promise<T | undefined> {
    const { status, body, contentType } = await this.#wire.ask(sent)
    try {
      const answer: unknown = JSON.parse(body.toString())
      if (status !== 200) {
        const { name, message } = readError(answer)
        this.#tell('wrong', what, `${status} ${name}: ${message}`)
        return undefined
      }
      const value = read(answer)
      if (!/^application\/json\b/.test(contentType)) this.#tell('wrong', what, `the content type is ${contentType || 'missing'}`)
      else this.#tell('ok', what)
      return value
    } catch (error) {
      this.#tell('wrong', what, `${status}: ${error instanceof SyntaxError ? 'not JSON' : error instanceof Error ? error.message : ''}`)
      return undefined
    }
  }

  /** The call must be refused, with this name and its status. */
  async #refused(what: string, expected: Refused, sent: Sent): Promise<void> {
    const { status, body } = await this.#wire.ask(sent)
    const seen = seenIn(status, body)
    this.#tell(seen === expected ? 'ok' : 'wrong', `${what}: ${expected}`, seen === expected ? '' : `it answered ${status} ${seen}`)
  }

  async health(): Promise<void> {
    for (const operation of [
      'CreateCustomKeyStore',
      'ConnectCustomKeyStore',
      'UpdateCustomKeyStore',
      'KmsHealthCheck',
      'AnOperationOfTheFuture',
    ]) {
      const health = await this.#works(`health for ${operation}`, { call: paths.health, body: this.#healthBody(operation) }, readHealth)
      if (!health || operation !== 'KmsHealthCheck') continue
      const states = health.ekmFleetDetails.map(({ id, model, healthStatus }) => `${id} (${model}) ${healthStatus}`)
      const worst = health.ekmFleetDetails.every(({ healthStatus }) => healthStatus === 'UNAVAILABLE')
      this.#tell(
        worst ? 'wrong' : 'ok',
        `${health.xksProxyModel}, instances: ${health.xksProxyFleetSize}; ${health.ekmVendor}: ${states.join(', ')}`,
      )
    }
    const unknown = JSON.stringify({ requestMetadata: { ...this.#metadata('KmsHealthCheck', false), aFieldOfTheFuture: {} }, another: [1] })
    await this.#works('health with members of the future', { call: paths.health, body: unknown }, readHealth)
  }

  async refusals(): Promise<void> {
    const { credentials, clock } = this.#options
    const health = { call: paths.health, body: this.#healthBody() }
    const key = this.#options.externalKeyId ?? 'no-such-key'
    for (const call of [paths.health, paths.metadata(key), paths.encrypt(key), paths.decrypt(key)]) {
      await this.#refused(`GET ${call}`, '405', { method: 'GET', call, body: '' })
    }
    await this.#refused('a path that no store has', 'InvalidUriPathException', { ...health, call: '//no-such-store/kms/xks/v1/health' })
    const as = (change: Partial<SigningCredentials>): Sent => ({ ...health, credentials: { ...credentials, ...change } })
    const cases: readonly (readonly [string, Sent])[] = [
      [
        'another secret',
        as({ secretAccessKey: `${credentials.secretAccessKey.slice(0, -1)}${credentials.secretAccessKey.endsWith('A') ? 'B' : 'A'}` }),
      ],
      ['an access key id that is not known', as({ accessKeyId: 'A'.repeat(20) })],
      ['an access key id that can be none', as({ accessKeyId: 'InvalidBETWEEN20and30' })],
      ['a clock six minutes slow', { ...health, timeMs: clock.now() - 360_000 }],
      ['a clock six minutes fast', { ...health, timeMs: clock.now() + 360_000 }],
      ['another service', { ...health, service: 'kms' }],
      ['a body that was not signed', { ...health, instead: this.#healthBody() }],
      ['no signature', { ...health, change: (headers) => without(headers, 'authorization') }],
    ]
    for (const [what, sent] of cases) await this.#refused(what, 'AuthenticationFailedException', sent)
    await this.#refused('health without metadata', 'ValidationException', { ...health, body: '{}' })
    await this.#refused('no JSON', 'ValidationException', { ...health, body: '{"requestMetadata":' })
  }

  async key(id: string): Promise<void> {
    const metadata = { call: paths.metadata(id), body: metadataBody(this.#metadata('CreateKey')) }
    const key = await this.#works('metadata of the key', metadata, readExternalKey)
    if (!key) return
    const isUsable =
      key.keySpec === 'AES_256' && ['ENCRYPT', 'DECRYPT'].every((usage) => key.keyUsage.includes(usage)) && key.keyStatus === 'ENABLED'
    this.#tell(
      isUsable ? 'ok' : 'wrong',
      `the key is ${key.keySpec}, ${key.keyUsage.join(' and ')}, ${key.keyStatus}`,
      isUsable ? '' : 'AWS KMS takes AES_256, ENCRYPT and DECRYPT, ENABLED only',
    )
    const absent = 'holdfast-doctor-no-such-key'
    await this.#refused('a key that is not there', 'KeyNotFoundException', { ...metadata, call: paths.metadata(absent) })

    const [short, aad] = [randomBytes(300), randomBytes(40)]
    for (const [what, plaintext, data] of [
      ['encrypt of 300 bytes', short, aad],
      ['encrypt of one byte without AAD', randomBytes(1), Buffer.alloc(0)],
      [`encrypt of ${maxPlaintextBytes} bytes with ${maxAadBytes} of AAD`, randomBytes(maxPlaintextBytes), randomBytes(maxAadBytes)],
    ] as const) {
      const outer = await this.#encrypt(`${what}, its integrity value right`, id, plaintext, data)
      if (!outer) continue
      const body = decryptBody(this.#metadata('Decrypt'), outer, data)
      const opened = await this.#works(what.replace('encrypt', 'decrypt'), { call: paths.decrypt(id), body }, (answer) =>
        readDecrypted(answer, plaintext.length),
      )
      if (opened && !opened.equals(plaintext)) this.#tell('wrong', what.replace('encrypt', 'decrypt'), 'another plaintext came back')
      if (plaintext === short) await this.#tampered(id, outer, data)
    }
    const algorithm = encryptBody(this.#metadata('Encrypt'), short, aad).replace('AES_GCM', 'AES_CBC')
    await this.#refused('an algorithm that is none', 'ValidationException', { call: paths.encrypt(id), body: algorithm })
  }

  #encrypt(what: string, id: string, plaintext: Buffer, aad: Buffer): Promise<ExternalCiphertext | undefined> {
    const body = encryptBody(this.#metadata('GenerateDataKey'), plaintext, aad)
    return this.#works(what, { call: paths.encrypt(id), body }, (answer) => readEncrypted(answer, plaintext.length, aad))
  }

  /** One bit changed anywhere is InvalidCiphertextException. */
  async #tampered(id: string, outer: ExternalCiphertext, aad: Buffer): Promise<void> {
    const flipped = (bytes: Buffer): Buffer => Buffer.from(bytes.map((byte, at) => (at === 0 ? byte ^ 1 : byte)))
    const changes: readonly (readonly [string, ExternalCiphertext, Buffer])[] = [
      ['ciphertext', { ...outer, ciphertext: flipped(outer.ciphertext) }, aad],
      ['tag', { ...outer, authenticationTag: flipped(outer.authenticationTag) }, aad],
      ['IV', { ...outer, initializationVector: flipped(outer.initializationVector) }, aad],
      ['AAD', outer, flipped(aad)],
      ...(outer.ciphertextMetadata.length === 0
        ? []
        : [['metadata', { ...outer, ciphertextMetadata: flipped(outer.ciphertextMetadata) }, aad] as const]),
    ]
    for (const [what, changed, data] of changes) {
      const body = decryptBody(this.#metadata('Decrypt'), changed, data)
      await this.#refused(`decrypt with another ${what}`, 'InvalidCiphertextException', { call: paths.decrypt(id), body })
    }
    const body = decryptBody(this.#metadata('Decrypt'), { ...outer, initializationVector: Buffer.alloc(5) }, aad)
    await this.#refused('decrypt with an IV of 5 bytes', 'ValidationException', { call: paths.decrypt(id), body })
  }

  /** One call after the other, on one connection. */
  async time(id: string): Promise<readonly Latency[]> {
    const [plaintext, aad] = [randomBytes(300), randomBytes(40)]
    const outer = await this.#encrypt('a ciphertext to be timed with', id, plaintext, aad)
    if (!outer) return []
    const timed = async (call: string, send: () => Sent): Promise<Latency> => {
      const times: number[] = []
      const unlike = new Set<string>()
      for (let n = 0; n < this.#options.calls; n++) {
        const sent = send()
        const startedAt = performance.now()
        const { status, body } = await this.#wire.ask(sent)
        times.push(performance.now() - startedAt)
        if (status !== 200) unlike.add(`${status} ${seenIn(status, body)}`)
      }
      if (unlike.size > 0) this.#tell('wrong', `timing ${call}`, `some answers were ${[...unlike].join(', ')}`)
      return latencyOf(call, times)
    }
    const rows = [
      await timed('health', () => ({ call: paths.health, body: this.#healthBody() })),
      await timed('encrypt', () => ({ call: paths.encrypt(id), body: encryptBody(this.#metadata('Encrypt'), plaintext, aad) })),
      await timed('decrypt', () => ({ call: paths.decrypt(id), body: decryptBody(this.#metadata('Decrypt'), outer, aad) })),
    ]
    const nearest = Math.min(...rows.map(({ p50Ms }) => p50Ms))
    if (nearest > awsRoundTripMs)
      this.#tell(
        'note',
        `the quickest answers take ${nearest} ms from here`,
        `AWS wants a network round trip of ${awsRoundTripMs} ms at most`,
      )
    return rows
  }

  /** The signed host is `:authority` there. */
  overHttp2(): Promise<void> {
    const { endpoint, connectTo } = this.#options
    const body = this.#healthBody()
    const { path, headers } = this.#wire.sign({ call: paths.health, body })
    const { host, ...others } = headers
    return new Promise((resolve) => {
      const { host: address, port } = connectTo ?? { host: endpoint.hostname, port: Number(endpoint.port || 443) }
      const session = connectHttp2(endpoint.origin, { ...tlsOptions(this.#options), host: address, port })
      const end = (verdict: Finding['verdict'], detail = ''): void => {
        clearTimeout(late)
        session.destroy()
        this.#tell(verdict, 'health over HTTP/2', detail)
        resolve()
      }
      const late = setTimeout(() => end('wrong', `no answer within ${patienceMs} ms`), patienceMs)
      session.on('error', (error: Error) => end('wrong', error.message))
      const stream = session.request({ ':method': 'POST', ':path': path, ':authority': host ?? '', ...others })
      stream.on('error', (error: Error) => end('wrong', error.message))
      stream.on('response', ({ ':status': status }) => end(status === 200 ? 'ok' : 'wrong', status === 200 ? '' : `it answered ${status}`))
      stream.end(body)
    })
  }
}

const without = (headers: Record<string, string>, name: string): Record<string, string> =>
  Object.fromEntries(Object.entries(headers).filter(([each]) => each !== name))

/** The error's name; of what is no error of the protocol what can be said, 405 by its number. */
function seenIn(status: number, body: Buffer): string {
  if (status === 405) return '405'
  try {
    const { name } = readError(JSON.parse(body.toString()))
    return errorStatuses[name] === status ? name : `${name} with status ${status}`
  } catch {
    return status === 200 ? 'as if all were well' : 'with no error of the protocol'
  }
}

function latencyOf(call: string, times: readonly number[]): Latency {
  const sorted = times.toSorted((a, b) => a - b)
  const at = (share: number): number => rounded(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0)
  return {
    call,
    calls: times.length,
    p50Ms: at(0.5),
    p95Ms: at(0.95),
    p99Ms: at(0.99),
    maxMs: rounded(sorted.at(-1) ?? 0),
    tooLate: times.filter((ms) => ms > awsDeadlineMs).length,
  }
}

const rounded = (ms: number): number => Math.round(ms * 100) / 100

/** For a terminal. */
export function describeProxy({ healthy, findings, connection, latency }: ProxyReport): string {
  const marks = { ok: 'ok   ', wrong: 'WRONG', note: 'note ' } as const
  const lines = findings.map(({ verdict, what, detail }) => `${marks[verdict]}  ${what}${detail === '' ? '' : `: ${detail}`}`)
  if (connection) {
    const { commonName, names, issuer, validUntil, daysLeft, tlsVersion, suite, alpn } = connection
    lines.push(
      '',
      `Certificate   CN ${commonName || '-'}; names ${names.join(', ') || '-'}; from ${issuer || '-'}; until ${validUntil} (${daysLeft} days)`,
      `Connection    ${tlsVersion}, ${suite}, ${alpn === 'h2' ? 'HTTP/2 and HTTP/1.1' : 'HTTP/1.1'}`,
    )
  }
  if (latency.length > 0) {
    lines.push(
      '',
      `${'Latency, ms'.padEnd(14)}${['calls', 'p50', 'p95', 'p99', 'max', `>${awsDeadlineMs}`].map((head) => head.padStart(9)).join('')}`,
    )
    for (const { call, calls, p50Ms, p95Ms, p99Ms, maxMs, tooLate } of latency) {
      lines.push(`${call.padEnd(14)}${[calls, p50Ms, p95Ms, p99Ms, maxMs, tooLate].map((value) => String(value).padStart(9)).join('')}`)
    }
  }
  const wrong = findings.filter(({ verdict }) => verdict === 'wrong').length
  lines.push('', healthy ? 'AWS KMS can work with this proxy.' : `${wrong} of ${findings.length} findings are wrong.`, '')
  return lines.join('\n')
}
