/**
 * AWS Signature Version 4, sign and verify side by side over one canonical form.
 *
 * A request runs through `readAuthorization` (what does the header claim?), the caller looks the access key up, takes the
 * signing key from a `SigningKeyCache`, and `verifySignature` decides. A verified call costs two SHA-256 (body, canonical
 * request) and one HMAC. Headers are taken as received and as the client chose to sign them: Host is never rebuilt.
 *
 * A body that is read while it is worked on has no hash yet: its signature is held against the one that `x-amz-content-sha256`
 * states, which may be UNSIGNED-PAYLOAD, and whoever reads the stream holds the bytes against `statedPayloadHash`.
 *
 * Refused: presigned queries, SigV4A, payloads in signed chunks, unsigned payloads but of such a stream, a signature that does not
 * cover Host, its own date and X-Amz-Target, more than five minutes of skew. Everything refused is a SignatureError, whatever the input.
 *
 * Spec: "Create a signed AWS API request" in the IAM user guide; wording of the errors as AWS answers them.
 */

import { Buffer } from 'node:buffer'
import * as crypto from 'node:crypto'

/** A request as it came over the wire, nothing decoded. */
export interface SignedRequest {
  readonly method: string
  /** Raw, as received, without the query. */
  readonly path: string
  /** Raw, without `?`. */
  readonly query: string
  /** Lower-case names, as node:http gives them. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  /** Undefined for a stream that nobody has read yet. */
  readonly body: Uint8Array | undefined
}

export type SignatureErrorCode = 'MissingAuthenticationTokenException' | 'IncompleteSignatureException' | 'InvalidSignatureException'

/** The caller could not be established. `message` is for the caller: AWS's words, no secret, nothing of the signature. */
export class SignatureError extends Error {
  override readonly name = 'SignatureError'
  readonly code: SignatureErrorCode
  constructor(code: SignatureErrorCode, message: string) {
    super(message)
    this.code = code
  }

  static mismatch(): SignatureError {
    return new SignatureError(
      'InvalidSignatureException',
      'The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.',
    )
  }
}

export interface ReceivedSignature {
  readonly accessKeyId: string
  /** YYYYMMDD of the credential scope. */
  readonly date: string
  readonly region: string
  readonly service: string
  /** Lower-case, in the order received, each once. */
  readonly signedHeaders: readonly string[]
  /** 64 lower-case hex digits. */
  readonly signature: string
  readonly sessionToken?: string
  /** The signed time, ms since the epoch. */
  readonly timeMs: number
  /** The same time as the string to sign has it, YYYYMMDDTHHMMSSZ. */
  readonly timestamp: string
}

/** What the credential scope must say. */
export interface SignatureExpectation {
  /** Services this operation may be signed for; any if absent. */
  readonly services?: ReadonlySet<string>
  /** Regions the endpoint answers for; any if absent. */
  readonly regions?: ReadonlySet<string>
}

export interface SigningCredentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string
}

export interface RequestToSign {
  readonly method: string
  readonly url: URL | string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array | string
  readonly service: string
  readonly region: string
  readonly credentials: SigningCredentials
  readonly timeMs: number
}

const algorithm = 'AWS4-HMAC-SHA256'
const terminator = 'aws4_request'
const allowedSkewMs = 5 * 60_000
const unsignedPayload = 'UNSIGNED-PAYLOAD'

/**
 * What the Authorization header claims, checked for everything that needs no secret: form, signed headers, time, scope.
 *
 * @throws SignatureError, and nothing else
 */
export function readAuthorization(request: SignedRequest, nowMs: number, expect: SignatureExpectation = {}): ReceivedSignature {
  const parameters = readParameters(request)
  const signedHeaders = readSignedHeaders(request, parameters.signedHeaders)
  const timestamp = readTimestamp(request, signedHeaders)
  const timeMs = parseTimestamp(timestamp)
  if (timeMs === undefined) {
    throw incomplete(`Date must be in ISO-8601 'basic format'. Got '${excerpt(timestamp)}'. See http://en.wikipedia.org/wiki/ISO_8601`)
  }
  requireCurrent(timestamp, timeMs, nowMs)
  const scope = readScope(parameters.credential, timestamp, expect)
  if (!isHex64(parameters.signature)) throw SignatureError.mismatch()
  const sessionToken = singleHeader(request, 'x-amz-security-token')
  const { accessKeyId, date, region, service } = scope
  const received = { accessKeyId, date, region, service, signedHeaders, signature: parameters.signature, timeMs, timestamp }
  return sessionToken === undefined ? received : { ...received, sessionToken }
}

/**
 * Recomputes the signature over the request as received and compares in constant time.
 *
 * @param signingKey from `deriveSigningKey` for the received date, region and service
 * @throws SignatureError InvalidSignatureException
 */
export function verifySignature(request: SignedRequest, received: ReceivedSignature, signingKey: Buffer): void {
  const bodyHash = request.body === undefined ? (statedPayloadHash(request, received) ?? unsignedPayload) : sha256Hex(request.body)
  // The hash of what is there is always computed; a client that signed another one (or UNSIGNED-PAYLOAD) signed another request.
  if (request.body !== undefined && received.signedHeaders.includes('x-amz-content-sha256')) {
    const claimed = request.headers['x-amz-content-sha256']
    if (claimed !== bodyHash) {
      if (typeof claimed !== 'string' || isHex64(claimed)) throw SignatureError.mismatch()
      throw new SignatureError('InvalidSignatureException', `The value of 'x-amz-content-sha256' must be the SHA-256 hash of the payload.`)
    }
  }
  const headerLines = canonicalHeaders(request.headers, received.signedHeaders)
  const path = canonicalPath(request.path)
  const query = canonicalQuery(request.query)
  const canonical = `${request.method}\n${path}\n${query}\n${headerLines}\n${received.signedHeaders.join(';')}\n${bodyHash}`
  const expected = signatureOf(canonical, received, signingKey)
  if (!crypto.timingSafeEqual(expected, Buffer.from(received.signature, 'hex'))) throw SignatureError.mismatch()
}

/**
 * The SHA-256 that a stream's bytes must have, in hex; undefined where its signature leaves them out (UNSIGNED-PAYLOAD).
 * @throws SignatureError InvalidSignatureException when the request does not say, or says it unsigned
 */
export function statedPayloadHash(
  request: Pick<SignedRequest, 'headers'>,
  received: Pick<ReceivedSignature, 'signedHeaders'>,
): string | undefined {
  const stated = request.headers['x-amz-content-sha256']
  if (stated !== undefined && !received.signedHeaders.includes('x-amz-content-sha256')) throw mustBeSigned('X-Amz-Content-Sha256')
  if (stated === unsignedPayload) return undefined
  if (typeof stated === 'string' && isHex64(stated)) return stated
  throw invalid(`The header 'x-amz-content-sha256' must be the SHA-256 hash of the payload in lower-case hex, or ${unsignedPayload}.`)
}

/** The chain of four HMACs that binds a secret to a day, a region and a service. 32 bytes. */
export function deriveSigningKey(secret: string, date: string, region: string, service: string): Buffer {
  const start = Buffer.from(`AWS4${secret}`, 'utf8')
  const byDate = hmac(start, date)
  const byRegion = hmac(byDate, region)
  const byService = hmac(byRegion, service)
  const key = hmac(byService, terminator)
  for (const intermediate of [start, byDate, byRegion, byService]) intermediate.fill(0)
  return key
}

type Scope = Pick<ReceivedSignature, 'accessKeyId' | 'date' | 'region' | 'service'>

/**
 * Signing keys already derived, the least recently used dropped (and wiped) first.
 * A key handed out is good until the next call of this cache: verify with it at once, do not hold it across an await.
 */
export class SigningKeyCache {
  readonly #keys = new Map<string, Buffer>()
  readonly #capacity: number
  /** Used last, so that it has its place already. */
  #newest = ''

  constructor(capacity = 4096) {
    this.#capacity = capacity
  }

  get size(): number {
    return this.#keys.size
  }

  /** Undefined when the key must be derived: fetch the secret, then `get`. */
  find(scope: Scope): Buffer | undefined {
    const name = cacheName(scope)
    const key = this.#keys.get(name)
    if (key !== undefined && name !== this.#newest) {
      this.#keys.delete(name)
      this.#keys.set(name, key)
      this.#newest = name
    }
    return key
  }

  /** The key for this scope, derived from the secret and kept unless it is there already. */
  get(scope: Scope, secret: () => string): Buffer {
    const known = this.find(scope)
    if (known !== undefined) return known
    const key = deriveSigningKey(secret(), scope.date, scope.region, scope.service)
    this.#newest = cacheName(scope)
    this.#keys.set(this.#newest, key)
    if (this.#keys.size > this.#capacity) {
      const [oldest] = this.#keys.keys()
      if (oldest !== undefined) this.#drop(oldest)
    }
    return key
  }

  #drop(name: string): void {
    this.#keys.get(name)?.fill(0)
    this.#keys.delete(name)
  }
}

function cacheName(scope: Scope): string {
  return `${scope.accessKeyId}/${scope.date}/${scope.region}/${scope.service}`
}

/** Headers that intermediaries or HTTP libraries rewrite: signing them would break the signature underway. */
const unsignedHeaders: ReadonlySet<string> = new Set([
  'authorization',
  'connection',
  'expect',
  'keep-alive',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'user-agent',
  'x-amzn-trace-id',
])

/**
 * The client's side: answers the headers to send, which are the given ones (lower-cased) plus host, x-amz-date,
 * x-amz-security-token where there is one, and authorization.
 */
export function signRequest(request: RequestToSign): Record<string, string> {
  const url = new URL(request.url)
  const timestamp = formatTimestamp(request.timeMs)
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries(request.headers ?? {})) headers[name.toLowerCase()] = value
  headers['host'] = url.host
  headers['x-amz-date'] = timestamp
  delete headers['authorization']
  if (request.credentials.sessionToken !== undefined) headers['x-amz-security-token'] = request.credentials.sessionToken

  const scope = {
    accessKeyId: request.credentials.accessKeyId,
    date: timestamp.slice(0, 8),
    region: request.region,
    service: request.service,
  }
  const signedHeaders = Object.keys(headers)
    .filter((name) => !unsignedHeaders.has(name))
    .sort()
  const canonical = [
    request.method.toUpperCase(),
    canonicalPath(url.pathname),
    canonicalQuery(url.search.slice(1)),
    canonicalHeaders(headers, signedHeaders),
    signedHeaders.join(';'),
    // A body that is sent in pieces: its hash is known beforehand, or is not to be looked at.
    headers['x-amz-content-sha256'] ?? sha256Hex(request.body ?? ''),
  ].join('\n')
  const key = deriveSigningKey(request.credentials.secretAccessKey, scope.date, scope.region, scope.service)
  const signature = signatureOf(canonical, { ...scope, timestamp }, key).toString('hex')
  key.fill(0)
  headers['authorization'] =
    `${algorithm} Credential=${cacheName(scope)}/${terminator}, SignedHeaders=${signedHeaders.join(';')}, Signature=${signature}`
  return headers
}

// ---- the canonical form, one for both sides ----

function signatureOf(canonicalRequest: string, scope: Omit<Scope, 'accessKeyId'> & { readonly timestamp: string }, key: Buffer): Buffer {
  const stringToSign = `${algorithm}\n${scope.timestamp}\n${scope.date}/${scope.region}/${scope.service}/${terminator}\n${sha256Hex(canonicalRequest)}`
  return hmac(key, stringToSign)
}

/** `name:value\n` for each signed header. A signed header that did not arrive can never verify. */
function canonicalHeaders(headers: SignedRequest['headers'], names: readonly string[]): string {
  let lines = ''
  for (const name of names) {
    const value = headers[name]
    if (typeof value === 'string') lines += `${name}:${foldSpaces(value)}\n`
    else if (Array.isArray(value)) lines += `${name}:${(value as readonly string[]).map(foldSpaces).join(',')}\n`
    else throw SignatureError.mismatch()
  }
  return lines
}

/** Trims, and makes one space of every run of blanks. Values that need neither, nearly all, are only looked at. */
function foldSpaces(value: string): string {
  const last = value.length - 1
  if (last < 0) return value
  const plain =
    value.charCodeAt(0) > 0x20 &&
    value.charCodeAt(last) > 0x20 &&
    !value.includes('  ') &&
    !value.includes('\t') &&
    !value.includes('\u00a0')
  return plain ? value : value.replace(/[ \t]+/g, ' ').replace(/^ | $/g, '')
}

/** Normalised, then each byte outside the unreserved set percent-encoded once more: what every service but S3 does. */
function canonicalPath(path: string): string {
  if (path === '/' || path === '') return '/'
  const segments: string[] = []
  for (const segment of path.split('/')) {
    if (segment === '' || segment === '.') continue
    if (segment === '..') segments.pop()
    else segments.push(encode(segment))
  }
  const trailing = path.endsWith('/') && segments.length > 0 ? '/' : ''
  return `/${segments.join('/')}${trailing}`
}

function canonicalQuery(query: string): string {
  if (query === '') return ''
  const pairs: [name: string, value: string][] = []
  for (const part of query.split('&')) {
    if (part === '') continue
    const equals = part.indexOf('=')
    pairs.push(equals < 0 ? [recode(part), ''] : [recode(part.slice(0, equals)), recode(part.slice(equals + 1))])
  }
  pairs.sort((a, b) => compare(a[0], b[0]) || compare(a[1], b[1]))
  return pairs.map(([name, value]) => `${name}=${value}`).join('&')
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

function recode(text: string): string {
  let decoded: string
  try {
    decoded = decodeURIComponent(text)
  } catch {
    throw incomplete('Illegal hex character in escape % pattern.')
  }
  return encode(decoded)
}

/** RFC 3986 percent-encoding. A lone surrogate cannot be encoded and cannot have been signed. */
function encode(text: string): string {
  try {
    return encodeURIComponent(text).replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
  } catch {
    throw SignatureError.mismatch()
  }
}

// ---- reading the header ----

interface Parameters {
  readonly credential: string
  readonly signedHeaders: string
  readonly signature: string
}

function readParameters(request: SignedRequest): Parameters {
  const header = singleHeader(request, 'authorization')
  if (header === undefined || header === '') {
    if (/(?:^|&)X-Amz-(?:Algorithm|Credential|Signature)=/i.test(request.query)) {
      throw incomplete('Presigned requests are not supported by this endpoint. Sign with an Authorization header.')
    }
    throw new SignatureError('MissingAuthenticationTokenException', 'Missing Authentication Token')
  }
  const space = header.indexOf(' ')
  const scheme = space < 0 ? header : header.slice(0, space)
  if (scheme !== algorithm && scheme.startsWith('AWS')) throw incomplete(`Unsupported AWS 'algorithm': '${excerpt(scheme)}'.`)

  let credential: string | undefined
  let signedHeaders: string | undefined
  let signature: string | undefined
  if (scheme === algorithm && space > 0) {
    for (const part of header.slice(space + 1).split(',')) {
      const pair = part.trim()
      const equals = pair.indexOf('=')
      if (equals < 0) throw incomplete('Invalid key=value pair (missing equal-sign) in Authorization header.')
      const value = pair.slice(equals + 1)
      switch (pair.slice(0, equals)) {
        case 'Credential':
          credential = once(credential, value)
          break
        case 'SignedHeaders':
          signedHeaders = once(signedHeaders, value)
          break
        case 'Signature':
          signature = once(signature, value)
          break
        default:
          // AWS ignores parameters that it does not know.
          break
      }
    }
  }
  if (credential && signedHeaders && signature) return { credential, signedHeaders, signature }
  const missing: string[] = []
  if (!credential) missing.push(`Authorization header requires 'Credential' parameter.`)
  if (!signature) missing.push(`Authorization header requires 'Signature' parameter.`)
  if (!signedHeaders) missing.push(`Authorization header requires 'SignedHeaders' parameter.`)
  if (request.headers['x-amz-date'] === undefined && request.headers['date'] === undefined) missing.push(dateRequired)
  throw incomplete(missing.join(' '))
}

const dateRequired = `Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.`

function once(before: string | undefined, value: string): string {
  if (before !== undefined) throw incomplete('Duplicate parameter in Authorization header.')
  return value
}

function readSignedHeaders(request: SignedRequest, list: string): readonly string[] {
  const names = knownLists.get(list) ?? parseSignedHeaders(list)
  // Who changes the target under the signature changes which operation the body is for.
  if (request.headers['x-amz-target'] !== undefined && !names.includes('x-amz-target')) throw mustBeSigned('X-Amz-Target')
  // And a stream's headers are all there is to say what is to be done with it.
  if (request.body === undefined) {
    for (const name in request.headers) if (name.startsWith('x-holdfast-') && !names.includes(name)) throw mustBeSigned(name)
  }
  return names
}

/** A client signs the same list in every call, so a few lists serve all. Bounded: beyond it lists are parsed each time. */
const knownLists = new Map<string, readonly string[]>()
const maxKnownLists = 256
const maxKnownListLength = 512

function parseSignedHeaders(list: string): readonly string[] {
  const names = list.split(';')
  if (names.includes('') || list !== list.toLowerCase() || new Set(names).size !== names.length) {
    throw incomplete(`Authorization header requires 'SignedHeaders' to be lower-case header names, each once, separated by semicolons.`)
  }
  if (!names.includes('host')) throw mustBeSigned('Host')
  if (knownLists.size < maxKnownLists && list.length <= maxKnownListLength) knownLists.set(list, names)
  return names
}

/** The signed time as the string to sign has it: X-Amz-Date, else Date, which may have either form. */
function readTimestamp(request: SignedRequest, signedHeaders: readonly string[]): string {
  const amzDate = singleHeader(request, 'x-amz-date')
  if (amzDate !== undefined) {
    if (!signedHeaders.includes('x-amz-date')) throw mustBeSigned('X-Amz-Date')
    return amzDate.trim()
  }
  const date = singleHeader(request, 'date')?.trim()
  if (date === undefined) throw incomplete(dateRequired)
  if (!signedHeaders.includes('date')) throw mustBeSigned('Date')
  if (!/^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$/.test(date)) return date
  const parsed = Date.parse(date)
  return Number.isNaN(parsed) ? date : formatTimestamp(parsed)
}

function requireCurrent(timestamp: string, timeMs: number, nowMs: number): void {
  // Timestamps have whole seconds, so now has too: exactly five minutes is still allowed, as at AWS.
  const now = Math.floor(nowMs / 1000) * 1000
  if (timeMs < now - allowedSkewMs) {
    const limit = formatTimestamp(now - allowedSkewMs)
    throw invalid(`Signature expired: ${timestamp} is now earlier than ${limit} (${formatTimestamp(now)} - 5 min.)`)
  }
  if (timeMs > now + allowedSkewMs) {
    const limit = formatTimestamp(now + allowedSkewMs)
    throw invalid(`Signature not yet current: ${timestamp} is still later than ${limit} (${formatTimestamp(now)} + 5 min.)`)
  }
}

function readScope(credential: string, timestamp: string, expect: SignatureExpectation): Scope {
  const [accessKeyId, date, region, service, term, ...rest] = credential.split('/')
  if (!accessKeyId || date === undefined || region === undefined || service === undefined || term === undefined || rest.length > 0) {
    throw incomplete('Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term.')
  }
  const wrong: string[] = []
  if (region === '' || expect.regions?.has(region) === false) {
    wrong.push(`Credential should be scoped to a valid region, not '${excerpt(region)}'.`)
  }
  if (service === '' || expect.services?.has(service) === false) {
    const [correct = ''] = expect.services ?? []
    wrong.push(`Credential should be scoped to correct service: '${correct}'.`)
  }
  if (term !== terminator) {
    wrong.push(`Credential should be scoped with a valid terminator: '${terminator}', not '${excerpt(term)}'.`)
  }
  const day = timestamp.slice(0, 8)
  if (date !== day) {
    wrong.push(
      `Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '${excerpt(date)}' != '${day}', from '${timestamp}'.`,
    )
  }
  if (wrong.length > 0) throw invalid(wrong.join(' '))
  return { accessKeyId, date, region, service }
}

/** A header that means nothing when it is sent twice. */
function singleHeader(request: SignedRequest, name: string): string | undefined {
  const value = request.headers[name]
  if (value === undefined || typeof value === 'string') return value
  if (value.length === 1) return value[0]
  throw incomplete(`The header '${name}' must be sent once.`)
}

function incomplete(message: string): SignatureError {
  return new SignatureError('IncompleteSignatureException', message)
}

function invalid(message: string): SignatureError {
  return new SignatureError('InvalidSignatureException', message)
}

function mustBeSigned(name: string): SignatureError {
  const title = name === 'Host' ? `'Host' or ':authority'` : `'${name}'`
  return invalid(`${title} must be a 'SignedHeader' in the AWS Authorization.`)
}

/** What is echoed to the caller: short and printable. */
function excerpt(text: string): string {
  return text.slice(0, 64).replace(/[^\x20-\x7e]/g, '?')
}

// ---- small things ----

/** YYYYMMDDTHHMMSSZ, or undefined if it is no such moment. */
function parseTimestamp(text: string): number | undefined {
  if (text.length !== 16 || text[8] !== 'T' || text[15] !== 'Z') return undefined
  const day = digits(text, 6, 8)
  const hour = digits(text, 9, 11)
  const minute = digits(text, 11, 13)
  const second = digits(text, 13, 15)
  if (!(day >= 1 && hour <= 23 && minute <= 59 && second <= 59)) return undefined
  const midnight = Date.UTC(digits(text, 0, 4), digits(text, 4, 6) - 1, day)
  // Date.UTC lets month 13 and the 30th of February roll over; such a day does not come back as written.
  if (Number.isNaN(midnight)) return undefined
  const date = new Date(midnight)
  if (date.getUTCDate() !== day || date.getUTCMonth() + 1 !== digits(text, 4, 6)) return undefined
  return midnight + ((hour * 60 + minute) * 60 + second) * 1000
}

/** NaN if one of them is none. */
function digits(text: string, from: number, to: number): number {
  let value = 0
  for (let index = from; index < to; index++) {
    const digit = text.charCodeAt(index) - 0x30
    if (digit < 0 || digit > 9) return Number.NaN
    value = value * 10 + digit
  }
  return value
}

function formatTimestamp(timeMs: number): string {
  const iso = new Date(timeMs).toISOString()
  return `${iso.slice(0, 4)}${iso.slice(5, 7)}${iso.slice(8, 13)}${iso.slice(14, 16)}${iso.slice(17, 19)}Z`
}

function isHex64(text: string): boolean {
  if (text.length !== 64) return false
  for (let index = 0; index < 64; index++) {
    const code = text.charCodeAt(index)
    if (!((code >= 0x30 && code <= 0x39) || (code >= 0x61 && code <= 0x66))) return false
  }
  return true
}

/** crypto.hash, one native call, came with Node 20.12. */
const sha256Hex: (data: string | Uint8Array) => string =
  typeof crypto.hash === 'function'
    ? (data) => crypto.hash('sha256', data, 'hex')
    : (data) => crypto.createHash('sha256').update(data).digest('hex')

function hmac(key: Buffer, text: string): Buffer {
  return crypto.createHmac('sha256', key).update(text, 'utf8').digest()
}
