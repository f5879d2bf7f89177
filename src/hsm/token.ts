/**
 * What the rest of the house sees of a PKCS#11 token: key identifiers and bytes in, bytes out. Behind it stands an
 * agent process that loads the vendor's library (see `agent.ts`); nothing here loads native code.
 *
 * A key is named by its CKA_ID in hex, chosen by the caller before generation, so that after a doubtful answer the
 * token can be asked whether the object exists.
 */

/** Why a token did not do what it was asked. The kinds are what a caller can act on; `detail` is for the log. */
export type TokenFailure =
  /** The input was refused: bad tag, wrong context, wrong key. Deterministic; never retried. */
  | 'rejected'
  /** The token, healthy and logged in, does not show this key. Not proof that it is gone. */
  | 'missing'
  /** The queue is full or the device is out of sessions. Nothing was done; try again later. */
  | 'busy'
  /** The agent or device is down, or the answer did not come in time. The outcome of a write is unknown. */
  | 'unavailable'
  /** This token has no mechanism for it. */
  | 'unsupported'

export class TokenError extends Error {
  override readonly name = 'TokenError'
  readonly failure: TokenFailure
  /** `CKR_…` name or number where the device gave one. */
  readonly code: string | undefined
  constructor(failure: TokenFailure, message: string, code?: string, options?: ErrorOptions) {
    super(message, options)
    this.failure = failure
    this.code = code
  }
}

/** How a blob's body was made; stored in the blob, readable for ever. Values are part of the format: never reuse one. */
export const wrapSchemes = { 'gcm-iv-in': 1, 'gcm-iv-back': 2, 'gcm-iv-tail': 3, 'cbc-hmac': 4, 'rsa-oaep': 5 } as const
export type WrapScheme = keyof typeof wrapSchemes

/** What kind of key to make. `wrapping` is whatever objects the profile's wrap scheme needs under one CKA_ID. */
export type TokenKeyKind = 'wrapping' | 'signing'

/** One object as the token describes it now. Absent attributes are undefined, never guessed. */
export interface TokenObject {
  readonly ckaId: string
  readonly label: string
  /** `CKO_SECRET_KEY`, `CKO_PRIVATE_KEY`, `CKO_PUBLIC_KEY`. */
  readonly objectClass: string
  readonly keyType: string
  readonly attributes: Readonly<Record<string, boolean | number | string | undefined>>
}

export interface TokenInfo {
  readonly profile: string
  readonly library: string
  readonly label: string
  readonly serial: string
  readonly manufacturer: string
  readonly model: string
  readonly firmware: string
}

/** What this token can do, proved by a self-test with throw-away keys when the agent logged in. */
export interface Capabilities {
  /** The scheme that new blobs get; undefined when the token has none and can make no KMS key. */
  readonly wrapScheme: WrapScheme | undefined
  readonly wrapSchemes: readonly WrapScheme[]
  /** How long a CKA_ID must be on this token, in bytes. */
  readonly keyIdBytes: number
  /** KMS key specs that follow from the mechanisms that passed. */
  readonly keySpecs: readonly string[]
  /** One row per probed ability, for `holdfast doctor`. */
  readonly probes: readonly { readonly name: string; readonly passed: boolean; readonly detail: string }[]
}

/** The label of the key object by which the agent knows its token; every provisioned token has it. */
export const canaryLabel = 'holdfast/canary'

export type SignatureAlgorithm = 'ECDSA_SHA_256' | 'RSASSA_PKCS1_V1_5_SHA_256'

export interface TokenHealth {
  readonly state: 'up' | 'starting' | 'down' | 'stopped-pin'
  readonly detail: string
  readonly queued: number
  readonly sessions: number
  readonly respawns: number
}

export interface Token {
  info(): TokenInfo
  capabilities(): Capabilities
  health(): TokenHealth

  /**
   * Generates non-extractable token objects under `ckaId`, reads their attributes back and destroys them again if
   * any protective attribute is wrong. On `unavailable` the caller must ask `objects(ckaId)` before trying again.
   */
  generateKey(request: { readonly kind: TokenKeyKind; readonly ckaId: string; readonly label: string }): Promise<readonly TokenObject[]>
  /** Destroys every object with this CKA_ID whose label is `label`; answers how many. 0, no error, only after an agent that was started to look found none either. */
  destroyKey(ckaId: string, label: string): Promise<number>
  /** The objects with this CKA_ID, read from the token now. */
  objects(ckaId: string): Promise<readonly TokenObject[]>
  /** Every private or secret key object that the login shows. */
  allObjects(): Promise<readonly TokenObject[]>

  /** Encrypts 1…4096 bytes with the profile's scheme; `aad` (0…12,288 bytes) is authenticated. Never retried after a doubtful answer by the caller: a fresh call is harmless. */
  wrap(ckaId: string, aad: Uint8Array, plaintext: Uint8Array): Promise<{ readonly scheme: WrapScheme; readonly body: Buffer }>
  /** The reverse. `rejected` for any change of any bit of `aad` or `body`, all alike. */
  unwrap(ckaId: string, scheme: WrapScheme, aad: Uint8Array, body: Uint8Array): Promise<Buffer>

  /** Bytes from C_GenerateRandom, prefetched in batches; each byte is handed out once. */
  random(bytes: number): Promise<Buffer>

  sign(ckaId: string, digest: Uint8Array): Promise<{ readonly algorithm: SignatureAlgorithm; readonly signature: Buffer }>
  /** SubjectPublicKeyInfo, DER. */
  publicKey(ckaId: string): Promise<Buffer>

  /** Real crypto on the canary key now; throws TokenError. */
  check(): Promise<void>
  /** Waits for what is under way, logs out, ends the agent. */
  close(): Promise<void>
}
