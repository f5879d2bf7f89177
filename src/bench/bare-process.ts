/**
 * The baseline: a bare node:http server that only parses the JSON body and verifies one SigV4 signature with a key it already has, then answers as
 * many bytes as Encrypt does. What a service costs beyond this is its own doing.
 *
 * Started by fork; takes the signing credentials, answers its port, ends when its parent does.
 */

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { systemClock } from '../base/clock.ts'
import { deriveSigningKey, readAuthorization, verifySignature } from '../auth/sigv4.ts'

export interface BareOrder {
  readonly secretAccessKey: string
  /** What to answer: as long as a real answer. */
  readonly answer: string
}

process.once('message', ({ secretAccessKey, answer }: BareOrder) => {
  let signingKey: Buffer | undefined
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const body = chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks)
      const signed = { method: request.method ?? '', path: request.url ?? '/', query: '', headers: request.headers, body }
      const received = readAuthorization(signed, systemClock.now())
      signingKey ??= deriveSigningKey(secretAccessKey, received.date, received.region, received.service)
      verifySignature(signed, received, signingKey)
      JSON.parse(body.toString())
      const bytes = Buffer.from(answer)
      response.writeHead(200, { 'Content-Type': 'application/x-amz-json-1.1', 'Content-Length': bytes.length })
      response.end(bytes)
    })
  })
  server.listen(0, '127.0.0.1', () => process.send?.({ port: (server.address() as AddressInfo).port }))
})
process.once('disconnect', () => process.exit(0))
