/**
 * The inside of the XKS proxy (AWS KMS External Key Store Proxy API Specification 1.0.3): what one request means once the door has its bytes.
 *
 * The door (`http/`) does TLS, HTTP/1.1 and HTTP/2, the routes, 405 and the body's cap; everything after is here: signature, fields, policy, key,
 * device, audit, answer.
 */

import type { Health } from '../../xks/protocol.ts'

export type XksApi = 'health' | 'metadata' | 'encrypt' | 'decrypt'

/** One request, after routing, method and body cap. */
export interface XksRequest {
  /** The store's: '' or `/tenant`, one that `has` knows. */
  readonly prefix: string
  readonly api: XksApi
  /** Of the spec's alphabet, 1 to 128 characters; undefined for health alone. */
  readonly externalKeyId: string | undefined
  /** As on the wire, for the signature: with a query string if there was one. */
  readonly method: string
  readonly path: string
  /** Names in lower case; with `host`, which is `:authority` where HTTP/2 has no other. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly body: Buffer
  /** When its first byte was there, in ms since 1970. */
  readonly receivedAt: number
  /** When its answer is too late, in ms since 1970. */
  readonly deadline: number
  readonly remoteAddress: string
}

/** What is sent: JSON, `application/json`. */
export interface XksAnswer {
  readonly status: number
  readonly body: string
}

export interface XksProxy {
  /** Whether a URI path prefix ('' or '/tenant') is a store's. An unknown one is 404 InvalidUriPathException, before authentication. */
  has(prefix: string): boolean
  /** Authenticates, reads, authorizes, does it, records it, answers. Never throws. The audit record is durable when it resolves. */
  answer(request: XksRequest): Promise<XksAnswer>
  /** Resolves when no request is under way. */
  close(): Promise<void>
}

/** GetHealthStatus' answer, from a round trip on the canary key that is at most 20 s old. Never throws: what cannot be reached is UNAVAILABLE. */
export type HealthSource = () => Promise<Health>
