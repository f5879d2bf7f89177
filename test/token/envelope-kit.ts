/** A client of /envelope/…, signed by the AWS SDK's own signer; the answer with everything by which a client tells a whole one from a part. */
import { createHash, createHmac } from 'node:crypto'
import { request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http'
import { SignatureV4 } from '@smithy/signature-v4'
import type { Checksum, SourceData } from '@smithy/types'
import type { Credentials } from './holdfast.ts'

class NodeSha256 implements Checksum {
  readonly #hash: { update(data: Uint8Array): unknown; digest(): Buffer }
  constructor(key?: SourceData) {
    this.#hash = key === undefined ? createHash('sha256') : createHmac('sha256', bytesOf(key))
  }
  update(data: Uint8Array | string): void {
    this.#hash.update(bytesOf(data))
  }
  digest(): Promise<Uint8Array> {
    return Promise.resolve(new Uint8Array(this.#hash.digest()))
  }
  reset(): void {
    throw new Error('not used')
  }
}

const bytesOf = (data: SourceData): Uint8Array =>
  typeof data === 'string'
    ? Buffer.from(data)
    : ArrayBuffer.isView(data)
      ? Buffer.from(data.buffer, data.byteOffset, data.byteLength)
      : new Uint8Array(data)

export interface EnvelopeAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, unknown>>
  readonly body: Buffer
  /** The chunked coding came to its end: without it the answer was cut short. */
  readonly ended: boolean
  readonly outcome: string | undefined
  readonly json: Readonly<Record<string, unknown>>
}

export interface Sending {
  readonly at: { readonly endpoint: string; readonly region: string }
  readonly credentials: Credentials
  readonly path: string
  /** Without the prefix `x-holdfast-`. */
  readonly headers?: Readonly<Record<string, string>>
  readonly nowMs?: number
  /** Hex, or UNSIGNED-PAYLOAD unless given. */
  readonly payload?: string
  /** More headers, not signed. */
  readonly unsigned?: Readonly<Record<string, string>>
  readonly method?: string
}

export const sha256 = (body: Buffer): string => createHash('sha256').update(body).digest('hex')

/** Where a request goes, and its headers, for whichever client. */
export async function sign(sending: Sending): Promise<{ readonly url: URL; readonly headers: Readonly<Record<string, string>> }> {
  const { at, credentials, path, method = 'POST' } = sending
  const url = new URL(path, at.endpoint)
  const signer = new SignatureV4({ credentials, region: at.region, service: 'kms', sha256: NodeSha256 })
  const headers = Object.fromEntries(Object.entries(sending.headers ?? {}).map(([name, value]) => [`x-holdfast-${name}`, value]))
  const signed = await signer.sign(
    {
      method,
      protocol: url.protocol,
      hostname: url.hostname,
      port: Number(url.port),
      path: url.pathname,
      query: {},
      headers: { host: url.host, ...headers, 'x-amz-content-sha256': sending.payload ?? 'UNSIGNED-PAYLOAD' },
    },
    { signingDate: new Date(sending.nowMs ?? Date.now()) },
  )
  return { url, headers: { ...signed.headers, ...sending.unsigned } }
}

/** The head of a request, sent; its body is for the caller to write. */
export async function begin(
  sending: Sending,
): Promise<{ readonly request: ClientRequest; readonly answer: Promise<EnvelopeAnswer>; readonly answering: Promise<IncomingMessage> }> {
  const { url, headers } = await sign(sending)
  const request = httpRequest(url, { method: sending.method ?? 'POST', agent: false, headers })
  // What a broken connection does to whoever still writes, the answer tells too.
  request.on('error', () => undefined)
  const answering = new Promise<IncomingMessage>((resolve, reject) => {
    request.on('response', resolve)
    request.on('error', reject)
  })
  answering.catch(() => undefined)
  const answer = answering.then(collect)
  answer.catch(() => undefined)
  return { request, answer, answering }
}

function collect(response: IncomingMessage): Promise<EnvelopeAnswer> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    response.on('data', (chunk: Buffer) => chunks.push(chunk))
    response.on('error', () => undefined)
    response.on('close', () => {
      const body = Buffer.concat(chunks)
      resolve({
        status: response.statusCode ?? 0,
        headers: response.headers,
        body,
        ended: response.complete,
        outcome: response.trailers['x-holdfast-outcome'],
        json:
          response.headers['content-type'] === 'application/x-amz-json-1.1' ? (JSON.parse(body.toString()) as EnvelopeAnswer['json']) : {},
      })
    })
  })
}

/** One request with its body whole. */
export async function send(sending: Sending, body: Buffer): Promise<EnvelopeAnswer> {
  const { request, answer } = await begin(sending)
  request.end(body)
  return answer
}

export const contextHeader = (context: Readonly<Record<string, string>>): string => Buffer.from(JSON.stringify(context)).toString('base64')
