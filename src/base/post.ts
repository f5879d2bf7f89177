/**
 * One HTTP POST, whole in both directions: what our own clients of AWS-like services send. Bounded in time and in what it takes in; follows
 * no redirect.
 */

import { request as httpRequest, type Agent as HttpAgent } from 'node:http'
import { request as httpsRequest, type Agent as HttpsAgent } from 'node:https'
import { rootCertificates } from 'node:tls'

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
}

export interface PostAnswer {
  readonly status: number
  /** The caller wipes it where it holds secrets. */
  readonly body: Buffer
}

/** @throws Error with the system's `code` where there is one. */
export function post(url: URL, { headers, body, timeoutMs, maxAnswerBytes, trust, agent }: PostOptions): Promise<PostAnswer> {
  return new Promise((resolve, reject) => {
    const options = {
      method: 'POST',
      headers: { ...headers, 'content-length': Buffer.byteLength(body) },
      timeout: timeoutMs,
      agent: agent ?? false,
    } as const
    const request =
      url.protocol === 'https:'
        ? httpsRequest(url, { ...options, ...(trust !== undefined && { ca: [...rootCertificates, trust] }) })
        : httpRequest(url, options)
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
