/** AWS Signature Version 4: sign and verify side by side. */

import type { Buffer } from 'node:buffer'

/** A request as it came over the wire, nothing decoded. */
export interface SignedRequest {
  readonly method: string
  /** Raw, as received, without the query. */
  readonly path: string
  /** Raw, without `?`. */
  readonly query: string
  /** Lower-case names, as node:http gives them. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly body: Uint8Array
}

export type SignatureErrorCode =
  | 'MissingAuthenticationTokenException'
  | 'IncompleteSignatureException'
  | 'InvalidSignatureException'
  | 'UnrecognizedClientException'
  | 'ExpiredTokenException'

/** The request's signature cannot be accepted. `message` is for the caller and holds no secret. */
export class SignatureError extends Error {
  override readonly name = 'SignatureError'
  readonly code: SignatureErrorCode
  constructor(code: SignatureErrorCode, message: string) {
    super(message)
    this.code = code
  }
}

export interface ReceivedSignature {
  readonly accessKeyId: string
  /** YYYYMMDD of the credential scope. */
  readonly date: string
  readonly region: string
  readonly service: string
  /** Lower-case, in order, each once. */
  readonly signedHeaders: readonly string[]
  /** 64 lower-case hex digits. */
  readonly signature: string
  readonly sessionToken?: string
  /** The signed time, ms since the epoch. */
  readonly timeMs: number
}

export interface SignatureExpectation {
  /** Services the endpoint answers for; any if absent. */
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

export function readAuthorization(_request: SignedRequest, _nowMs: number, _expect: SignatureExpectation = {}): ReceivedSignature {
  throw new Error('not built')
}

export function verifySignature(_request: SignedRequest, _received: ReceivedSignature, _signingKey: Buffer): void {
  throw new Error('not built')
}

export function deriveSigningKey(_secret: string, _date: string, _region: string, _service: string): Buffer {
  throw new Error('not built')
}

/** Derived keys, least recently used dropped first. */
export class SigningKeyCache {
  constructor(_capacity = 4096) {}
  /** The signing key for this scope; `secret` is asked for only on a miss. */
  get(_received: Pick<ReceivedSignature, 'accessKeyId' | 'date' | 'region' | 'service'>, _secret: () => string): Buffer {
    throw new Error('not built')
  }
  /** As `get` for callers that must wait for the secret: undefined on a miss. */
  find(_received: Pick<ReceivedSignature, 'accessKeyId' | 'date' | 'region' | 'service'>): Buffer | undefined {
    throw new Error('not built')
  }
  /** Forgets every key derived for this access key: call when it is deleted or made inactive. */
  forget(_accessKeyId: string): void {}
}

/** Answers the headers to send: the given ones plus host, x-amz-date, x-amz-security-token and authorization. */
export function signRequest(_request: RequestToSign): Record<string, string> {
  throw new Error('not built')
}
