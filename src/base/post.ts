/**
 * One HTTP POST, whole in both directions: what our own clients of AWS-like services send. Bounded in time and in what it takes in; follows
 * no redirect. Answers hold data keys and new credentials, so that nothing is sent over plain HTTP to another machine unless the caller says so.
 */

import { request as httpRequest, type Agent as HttpAgent } from 'node:http'
import { request as httpsRequest, type Agent as HttpsAgent } from 'node:https'
import { rootCertificates } from 'node:tls'
import { isLoopback } from './loopback.ts'

export interface PostOptions {
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
  /** For each stretch of silence. */
  readonly timeoutMs: number
  readonly maxAnswerBytes: number
  /** PEM that is trusted besides the public authorities; over HTTPS, and without an agent. */
  readonly trust?: string | undefined
  /** Keeps connections; without one each call has its own. */
  readonly agent?: HttpAgent | HttpsAgent | undefined
  /** Also over plain HTTP to another machine, where anybody on the way can read it. */
  readonly allowPlainHttp?: boolean | undefined
}

export interface PostAnswer {
  readonly status: number
  /** The caller wipes it where it holds secrets. */
  readonly body: Buffer
}

/** What was about to be said would have been readable on the way. */
export class PlainHttpError extends Error {
  override readonly name = 'PlainHttpError'
  /** Without a word on how to allow it, which differs from caller to caller. */
  constructor({ origin }: URL) {
    super(`${origin} is plain HTTP to another machine: data keys and secrets in the answers could be read on the way. Use https://`)
  }
}

/** @throws PlainHttpError */
export function refusePlainHttp(url: URL, isAllowed: boolean): void {
  // An IPv6 address stands in brackets.
  if (url.protocol === 'http:' && !isAllowed && !isLoopback(url.hostname.replace(/^\[(.*)\]$/, '$1'))) throw new PlainHttpError(url)
}

/** @throws PlainHttpError, Error with the system's `code` where there is one. */
export async function post(url: URL, options: PostOptions): Promise<PostAnswer> {
  const { headers, body, timeoutMs, maxAnswerBytes, trust, agent, allowPlainHttp = false } = options
  refusePlainHttp(url, allowPlainHttp)
  return new Promise((resolve, reject) => {
    const common = {
      method: 'POST',
      headers: { ...headers, 'content-length': Buffer.byteLength(body) },
      timeout: timeoutMs,
      agent: agent ?? false,
    } as const
    const request =
      url.protocol === 'https:'
        ? httpsRequest(url, { ...common, ...(trust !== undefined && { ca: [...rootCertificates, trust] }) })
        : httpRequest(url, common)
    const chunks: Buffer[] = []
    const fail = (error: Error): void => {
      for (const chunk of chunks) chunk.fill(0)
      reject(error)
    }
    request.on('error', fail)
    request.on('timeout', () => request.destroy(new Error(`no answer within ${timeoutMs / 1000} s`)))
    request.on('response', (response) => {
      let length = 0
      response.on('data', (chunk: Buffer) => {
        length += chunk.length
        if (length > maxAnswerBytes) request.destroy(new Error('the answer is too long'))
        else chunks.push(chunk)
      })
      response.on('error', fail)
      response.on('end', () => {
        const whole = Buffer.concat(chunks)
        for (const chunk of chunks) chunk.fill(0)
        resolve({ status: response.statusCode ?? 0, body: whole })
      })
    })
    request.end(body)
  })
}
