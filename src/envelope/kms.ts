/**
 * The three calls of a KMS that an encrypted data key needs, whoever makes them: signed HTTP to Holdfast or AWS KMS (`openKmsClients`), or
 * the service itself in its own process.
 *
 * What it answers is checked for its form here; whether the key that answered is the one that was meant is the keyring's business.
 */

import { Agent as HttpAgent } from 'node:http'
import { Agent as HttpsAgent } from 'node:https'
import { rootCertificates } from 'node:tls'
import { setTimeout as sleep } from 'node:timers/promises'
import { signRequest, type SigningCredentials } from '../auth/sigv4.ts'
import { systemClock } from '../base/clock.ts'
import { isRecord } from '../base/is-record.ts'
import { PlainHttpError, post } from '../base/post.ts'

/** Name-value pairs that a data key is bound to. */
export type Context = Readonly<Record<string, string>>

export interface KeyRequest {
  /** Key id, key ARN, alias or alias ARN. */
  readonly keyId: string
  readonly context: Context
  readonly grantTokens: readonly string[]
}

/** All throw KmsFailure. Plaintext belongs to the caller, who wipes it. */
export interface Kms {
  generateDataKey(request: KeyRequest & { readonly bytes: number }): Promise<GeneratedDataKey>
  encrypt(request: KeyRequest & { readonly plaintext: Buffer }): Promise<EncryptedDataKeyAnswer>
  decrypt(request: KeyRequest & { readonly ciphertext: Uint8Array }): Promise<{ readonly plaintext: Buffer; readonly keyId: string }>
}

export interface EncryptedDataKeyAnswer {
  readonly ciphertext: Buffer
  /** The key's ARN, whatever it was called by. */
  readonly keyId: string
}

export interface GeneratedDataKey extends EncryptedDataKeyAnswer {
  readonly plaintext: Buffer
}

/** A KMS said no, did not answer, or answered what cannot be used. */
export class KmsFailure extends Error {
  override readonly name = 'KmsFailure'
  /** AWS's name of the error; `Unreachable`, `PlainHttp` and `MalformedAnswer` are ours. */
  readonly code: string
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** The KMS of a region. Undefined: keys there are left alone. */
export type Regions = (region: string) => Kms | undefined

export interface KmsClientOptions {
  /**
   * Where to call, for every region: `https://holdfast.example:8480`. `{region}` in it stands for the region. AWS KMS itself without.
   */
  readonly endpoint?: string | undefined
  /** The endpoint may be plain HTTP on another machine, where data keys can be read on the way: something else keeps them secret there. */
  readonly allowPlainHttp?: boolean | undefined
  readonly credentials: SigningCredentials | (() => SigningCredentials | Promise<SigningCredentials>)
  /** PEM of certificates that are trusted besides the public authorities. */
  readonly trust?: string | undefined
  /** For each try of a call; 30 s unless told. */
  readonly timeoutMs?: number | undefined
  /** Milliseconds since the epoch; the system's clock unless told. */
  readonly now?: (() => number) | undefined
}

export interface KmsClients {
  readonly of: Regions
  /** Ends idle connections. */
  close(): void
}

const maxAnswerBytes = 1_048_576
const maxTries = 3
/** Before the second try, at most; doubled for the third. */
const firstPauseMs = 100

/** Errors that AWS's SDKs try again; the three calls may be made twice. */
const retriedCodes: ReadonlySet<string> = new Set([
  'ThrottlingException',
  'Throttling',
  'RequestLimitExceeded',
  'KMSInternalException',
  'DependencyTimeoutException',
  'KeyUnavailableException',
  'InternalFailure',
  'ServiceUnavailable',
])

export function openKmsClients(options: KmsClientOptions): KmsClients {
  const { credentials, trust, timeoutMs = 30_000, now = () => systemClock.now(), allowPlainHttp } = options
  const keep = { keepAlive: true, maxFreeSockets: 8 }
  const plain = new HttpAgent(keep)
  const tls = new HttpsAgent({ ...keep, ...(trust !== undefined && { ca: [...rootCertificates, trust] }) })
  const clients = new Map<string, Kms>()

  const call = async (region: string, operation: string, input: Readonly<Record<string, unknown>>): Promise<Answer> => {
    const url = endpointOf(options.endpoint, region)
    const body = JSON.stringify(input)
    for (let tried = 1; ; tried++) {
      const signer = typeof credentials === 'function' ? await credentials() : credentials
      const headers = signRequest({
        method: 'POST',
        url,
        headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amz-target': `TrentService.${operation}` },
        body,
        service: 'kms',
        region,
        credentials: signer,
        timeMs: now(),
      })
      const agent = url.protocol === 'https:' ? tls : plain
      const answer = await send(url, { headers, body, timeoutMs, maxAnswerBytes, agent, allowPlainHttp })
      if (!(answer instanceof Retryable)) return new Answer(operation, answer)
      if (tried === maxTries) throw answer.failure
      // oxlint-disable-next-line no-restricted-globals -- spreads callers, decides nothing
      await sleep(Math.random() * firstPauseMs * 2 ** (tried - 1))
    }
  }

  const open = (region: string): Kms => ({
    async generateDataKey({ bytes, ...request }) {
      const answer = await call(region, 'GenerateDataKey', { ...members(request), NumberOfBytes: bytes })
      return { plaintext: answer.bytes('Plaintext'), ciphertext: answer.bytes('CiphertextBlob'), keyId: answer.text('KeyId') }
    },
    async encrypt({ plaintext, ...request }) {
      const answer = await call(region, 'Encrypt', { ...members(request), Plaintext: plaintext.toString('base64') })
      return { ciphertext: answer.bytes('CiphertextBlob'), keyId: answer.text('KeyId') }
    },
    async decrypt({ ciphertext, ...request }) {
      const answer = await call(region, 'Decrypt', { ...members(request), CiphertextBlob: Buffer.from(ciphertext).toString('base64') })
      return { plaintext: answer.bytes('Plaintext'), keyId: answer.text('KeyId') }
    },
  })

  return {
    of(region) {
      let client = clients.get(region)
      if (!client) clients.set(region, (client = open(region)))
      return client
    },
    close() {
      plain.destroy()
      tls.destroy()
    },
  }
}

function members({ keyId, context, grantTokens }: KeyRequest): Readonly<Record<string, unknown>> {
  return {
    KeyId: keyId,
    ...(Object.keys(context).length > 0 && { EncryptionContext: context }),
    ...(grantTokens.length > 0 && { GrantTokens: grantTokens }),
  }
}

/** A region's name becomes part of a host name, and may come out of a message. */
const regionForm = /^[a-z0-9-]{1,64}$/

/** Where a region's KMS is. @throws KmsFailure */
export function endpointOf(endpoint: string | undefined, region: string): URL {
  if (!regionForm.test(region)) throw new KmsFailure('Unreachable', `${JSON.stringify(region)} is no name of a region.`)
  const aws = `https://kms.${region}.amazonaws.com${region.startsWith('cn-') ? '.cn' : ''}`
  return new URL('/', endpoint?.replaceAll('{region}', region) ?? aws)
}

class Retryable {
  readonly failure: KmsFailure
  constructor(failure: KmsFailure) {
    this.failure = failure
  }
}

/** One try. @throws KmsFailure that trying again cannot help */
async function send(url: URL, options: Parameters<typeof post>[1]): Promise<Readonly<Record<string, unknown>> | Retryable> {
  let status: number
  let members: Readonly<Record<string, unknown>> | undefined
  try {
    const { status: code, body } = await post(url, options)
    status = code
    members = parseObject(body.toString('utf8'))
    body.fill(0)
  } catch (cause) {
    if (cause instanceof PlainHttpError) throw new KmsFailure('PlainHttp', `${cause.message}, or say allowPlainHttp.`, { cause })
    const said = cause instanceof Error ? cause.message : ''
    return new Retryable(new KmsFailure('Unreachable', `The call to ${url.origin} failed: ${said}.`, { cause }))
  }
  if (status === 200 && members) return members
  // The name may come with its namespace in front or a URI behind.
  const type = members?.['__type']
  const code = typeof type === 'string' ? type.replace(/^.*#/, '').replace(/:.*$/, '') : `HTTP ${status}`
  const said = members?.['message'] ?? members?.['Message']
  const failure = new KmsFailure(code, typeof said === 'string' ? said : '')
  if (status >= 500 || status === 429 || retriedCodes.has(code)) return new Retryable(failure)
  throw failure
}

function parseObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isRecord(value) ? value : undefined
  } catch {
    return undefined
  }
}

/** A successful answer, whose members are held to their form. */
class Answer {
  readonly #operation: string
  readonly #members: Readonly<Record<string, unknown>>
  constructor(operation: string, members: Readonly<Record<string, unknown>>) {
    this.#operation = operation
    this.#members = members
  }
  text(name: string): string {
    const value = this.#members[name]
    if (typeof value === 'string' && value !== '') return value
    throw new KmsFailure('MalformedAnswer', `The KMS answered ${this.#operation} without a usable ${name}.`)
  }
  bytes(name: string): Buffer {
    // From base64 into memory of its own: what comes out of Node's pool is shared with whatever else is in it.
    const text = this.text(name)
    const bytes = Buffer.alloc(Buffer.byteLength(text, 'base64'))
    return bytes.subarray(0, bytes.write(text, 'base64'))
  }
}
