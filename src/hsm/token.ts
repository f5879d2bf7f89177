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

/** What a KMS key of a spec can be for, in AWS's words. Symmetric encryption is the kind `wrapping`. */
export type KeyPairKind =
  | `${RsaSpec} ${'ENCRYPT_DECRYPT' | 'SIGN_VERIFY'}`
  | `${NistCurveSpec} ${'SIGN_VERIFY' | 'KEY_AGREEMENT'}`
  | `${OtherCurveSpec} SIGN_VERIFY`
type RsaSpec = 'RSA_2048' | 'RSA_3072' | 'RSA_4096'
type NistCurveSpec = 'ECC_NIST_P256' | 'ECC_NIST_P384' | 'ECC_NIST_P521'
type OtherCurveSpec = 'ECC_SECG_P256K1' | 'ECC_NIST_EDWARDS25519'
export type MacKeyKind = `${'HMAC_224' | 'HMAC_256' | 'HMAC_384' | 'HMAC_512'} GENERATE_VERIFY_MAC`

/**
 * What kind of key to make. `wrapping` is whatever objects the profile's wrap scheme needs under one CKA_ID; `signing` signs for the service
 * itself; `import …` is an RSA key pair that unwraps imported key material and nothing else; the rest are KMS keys by spec and usage.
 */
export type TokenKeyKind = 'wrapping' | 'signing' | `import ${RsaSpec}` | KeyPairKind | MacKeyKind

/** In AWS's words. */
export type SigningAlgorithm =
  | `${'RSASSA_PSS' | 'RSASSA_PKCS1_V1_5'}_SHA_${256 | 384 | 512}`
  | `ECDSA_SHA_${256 | 384 | 512}`
  | 'ED25519_SHA_512'
  | 'ED25519_PH_SHA_512'
export type OaepAlgorithm = 'RSAES_OAEP_SHA_1' | 'RSAES_OAEP_SHA_256'
export type MacAlgorithm = `HMAC_SHA_${224 | 256 | 384 | 512}`
export type TokenAlgorithm = SigningAlgorithm | OaepAlgorithm | MacAlgorithm | 'ECDH'
export type ImportAlgorithm = OaepAlgorithm | 'RSA_AES_KEY_WRAP_SHA_1' | 'RSA_AES_KEY_WRAP_SHA_256'

/** Key material that came from outside, as a token object. */
export interface Imported {
  readonly objects: readonly TokenObject[]
  /**
   * 32 bytes hex that are equal for equal material and say nothing about it: SHA-256 over the public key (SPKI), or over what the key itself
   * makes of a constant in the device (AES-CBC, HMAC). By it the same material is known again.
   */
  readonly fingerprint: string
  /** The token could not unwrap what RSA protected without our memory: it was unpadded here and wiped at once. For the audit. */
  readonly exposed: boolean
}

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
  /** What `generateKey` can make here; a KMS key of another kind is UnsupportedOperationException. */
  readonly keyKinds: readonly TokenKeyKind[]
  /** What keys of those kinds can do here; another algorithm of a kind's is answered `unsupported`. */
  readonly algorithms: readonly TokenAlgorithm[]
  /** Of those kinds, which can be made `replicable`; whether a copy ever leaves is then up to the security officers. */
  readonly replicableKinds: readonly TokenKeyKind[]
  /** What `importKey` can take here, by kind of key. */
  readonly importAlgorithms: readonly ImportAlgorithm[]
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
   * How many calls the device was given since this was opened, by what it was asked for; each is one request to the agent. Random bytes are fetched in
   * advance, many at a time: `random` counts what was fetched.
   */
  asked(): ReadonlyMap<string, number>

  /**
   * Generates non-extractable token objects under `ckaId`, reads their attributes back and destroys them again if
   * any protective attribute is wrong. On `unavailable` the caller must ask `objects(ckaId)` before trying again.
   */
  generateKey(request: {
    readonly kind: TokenKeyKind
    readonly ckaId: string
    readonly label: string
    /** EXTRACTABLE, but only under a key that is CKA_TRUSTED: what a multi-Region key must be from its birth. */
    readonly replicable?: boolean
  }): Promise<readonly TokenObject[]>
  /** Destroys every object with this CKA_ID whose label is `label`; answers how many. 0, no error, only after an agent that was started to look found none either. */
  destroyKey(ckaId: string, label: string): Promise<number>
  /** The objects with this CKA_ID, read from the token now. */
  objects(ckaId: string): Promise<readonly TokenObject[]>
  /** Every private or secret key object that the login shows. */
  allObjects(): Promise<readonly TokenObject[]>

  /** Encrypts 1…4300 bytes with the profile's scheme; `aad` (0…12,288 bytes) is authenticated. Never retried after a doubtful answer by the caller: a fresh call is harmless. */
  wrap(ckaId: string, aad: Uint8Array, plaintext: Uint8Array): Promise<{ readonly scheme: WrapScheme; readonly body: Buffer }>
  /** The reverse. `rejected` for any change of any bit of `aad` or `body`, all alike. */
  unwrap(ckaId: string, scheme: WrapScheme, aad: Uint8Array, body: Uint8Array): Promise<Buffer>

  /** Bytes from C_GenerateRandom, prefetched in batches; each byte is handed out once. */
  random(bytes: number): Promise<Buffer>

  /**
   * Signs for a KMS key. `message` is 1…4096 bytes, or the digest where `form` says so: of the algorithm's length, else `rejected`. ECDSA answers
   * DER (RFC 3279), the others their raw bytes. PSS salts are as long as the digest.
   */
  signMessage(ckaId: string, algorithm: SigningAlgorithm, form: 'message' | 'digest', message: Uint8Array): Promise<Buffer>
  /** RSAES-OAEP without a label. `rejected`, in equal time and words, for whatever is wrong with the ciphertext. */
  decryptOaep(ckaId: string, algorithm: OaepAlgorithm, ciphertext: Uint8Array): Promise<Buffer>
  /** The MAC of 1…4096 bytes. */
  mac(ckaId: string, algorithm: MacAlgorithm, message: Uint8Array): Promise<Buffer>
  /** Raw Z of ECDH (SEC 1 3.3.1) with another party's SubjectPublicKeyInfo, DER. `rejected` when that is no point of the key's curve. */
  deriveSharedSecret(ckaId: string, publicKey: Uint8Array): Promise<Buffer>

  /**
   * Brings wrapped key material into the device under `ckaId` as non-extractable token objects, which are read back as those of `generateKey` are.
   * Symmetric and HMAC keys come raw, private keys as PKCS#8 inside RSA_AES_KEY_WRAP (CKM_RSA_AES_KEY_WRAP, RFC 5649).
   * `rejected` when it does not unwrap, or is not a key of `kind`.
   */
  importKey(request: {
    readonly kind: TokenKeyKind
    readonly ckaId: string
    readonly label: string
    /** An `import …` key pair of this token. */
    readonly wrappingCkaId: string
    readonly algorithm: ImportAlgorithm
    readonly wrapped: Uint8Array
  }): Promise<Imported>

  /**
   * For multi-Region keys, made by `generateKey` with `replicable`: the material, wrapped for the token whose transport key this SPKI is. Refused
   * by the device unless the security officer marked that public key CKA_TRUSTED in this token.
   */
  exportKey(ckaId: string, transportPublicKey: Uint8Array): Promise<{ readonly wrapped: Buffer }>
  /** The other side: unwraps with this token's transport key into an object that is again only wrappable by trusted keys. */
  adoptKey(request: {
    readonly kind: TokenKeyKind
    readonly ckaId: string
    readonly label: string
    readonly wrapped: Uint8Array
  }): Promise<readonly TokenObject[]>
  /** This token's transport key, SubjectPublicKeyInfo; undefined when it was not set up for replication. */
  transportKey(): Promise<Buffer | undefined>

  sign(ckaId: string, digest: Uint8Array): Promise<{ readonly algorithm: SignatureAlgorithm; readonly signature: Buffer }>
  /** SubjectPublicKeyInfo, DER. */
  publicKey(ckaId: string): Promise<Buffer>

  /** Real crypto on the canary key now; throws TokenError. */
  check(): Promise<void>
  /** Waits for what is under way, logs out, ends the agent. */
  close(): Promise<void>
}
