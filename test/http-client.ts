/** One HTTP request at a time, on a connection of its own, over HTTP/1.1 (plain or TLS) and HTTP/2: what a client sees, and no more. */
import { request as plainRequest } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { request as tlsRequest } from 'node:https'

export interface Asked {
  readonly method?: string
  readonly path: string
  /** On HTTP/2 too the host is called `host`: it goes as `:authority`. */
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string | Buffer
}
export interface HttpAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, unknown>>
  readonly text: string
}
export interface Server {
  /** `https://127.0.0.1:1234` */
  readonly url: string
  /** PEM of its certificate, or of the authority. */
  readonly ca?: string
  /** Whom the certificate is for, where that is not the host of the URL. */
  readonly name?: string
}
export type Ask = (server: Server, asked: Asked) => Promise<HttpAnswer>

export const askHttp1: Ask = ({ url, ca, name }, { method = 'POST', path, headers = {}, body = '' }) =>
  new Promise((resolve, reject) => {
    const { protocol, hostname, port } = new URL(url)
    const send = protocol === 'https:' ? tlsRequest : plainRequest
    const tls = { ...(ca !== undefined && { ca }), ...(name !== undefined && { servername: name }) }
    const request = send({ host: hostname, port, agent: false, method, path, headers, ...tls }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text: Buffer.concat(chunks).toString() }),
      )
    })
    request.on('error', reject)
    request.end(body)
  })

export const askHttp2: Ask = ({ url, ca, name }, { method = 'POST', path, headers = {}, body = '' }) =>
  new Promise((resolve, reject) => {
    const session = connectHttp2(url, { ...(ca !== undefined && { ca }), ...(name !== undefined && { servername: name }) })
    session.on('error', reject)
    const { host, ...others } = headers
    const stream = session.request(
      { ':method': method, ':path': path, ...(host !== undefined && { ':authority': host }), ...others },
      { endStream: body.length === 0 },
    )
    const chunks: Buffer[] = []
    let answered: Readonly<Record<string, unknown>> = {}
    stream.on('response', (head) => (answered = head))
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('error', reject)
    stream.on('close', () => {
      session.close()
      resolve({ status: Number(answered[':status'] ?? 0), headers: answered, text: Buffer.concat(chunks).toString() })
    })
    if (body.length > 0) stream.end(body)
  })
