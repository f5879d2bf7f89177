/**
 * The XKS proxy API, version 1 (AWS KMS External Key Store Proxy API Specification 1.0.3): what both sides share, and the client's side, which is what
 * is sent and what an answer must look like to be believed; the proxy's side is `requests.ts`. A format file: no I/O. The spec's words are kept
 * for names that travel.
 *
 * Answers are read strictly (a length that is not the spec's, or base64 that is none, is no answer); members that the spec does not have
 * are ignored, as it asks.
 */

import { createHash, timingSafeEqual } from 'node:crypto'
import { isRecord } from '../base/is-record.ts'

/** `<XksProxyUriEndpoint><XksProxyUriPath>` and this is where a call goes. */
export const paths = {
  health: '/health',
  metadata: (externalKeyId: string) => `/keys/${externalKeyId}/metadata`,
  encrypt: (externalKeyId: string) => `/keys/${externalKeyId}/encrypt`,
  decrypt: (externalKeyId: string) => `/keys/${externalKeyId}/decrypt`,
} as const

export const signingService = 'kms-xks-proxy'

/** A URI path prefix: '' or `/tenant`, so long that the whole path has at most the 128 characters of `XksProxyUriPath`. */
export const isUriPathPrefix = (text: string): boolean => text.length <= 117 && /^(?:\/[A-Za-z0-9_-]+)*$/.test(text)
/** What AWS calls `XksProxyUriPath`. */
export const uriPath = (prefix: string): string => `${prefix}/kms/xks/v1`

/** Lengths in bytes, before base64. */
export const ivBytes: readonly number[] = [12, 16]
export const tagBytes = 16
const cdivBytes = 32
export const maxMetadataBytes = 20
/** What a proxy must take at least. */
export const maxPlaintextBytes = 4300
export const maxAadBytes = 8192
/** No answer of the spec is longer: a plaintext in base64 with its fields. */
export const maxAnswerBytes = 65_536

/** Who asks for what, for the proxy's log and its own authorization. */
export interface RequestMetadata {
  readonly kmsRequestId: string
  readonly kmsOperation: string
  readonly awsPrincipalArn?: string
  readonly kmsKeyArn?: string
}

export interface ExternalCiphertext {
  readonly initializationVector: Buffer
  readonly authenticationTag: Buffer
  readonly ciphertext: Buffer
  /** What the proxy wants to see again, up to 20 bytes; empty when it sent none. */
  readonly ciphertextMetadata: Buffer
}

export interface ExternalKey {
  readonly keySpec: string
  readonly keyUsage: readonly string[]
  readonly keyStatus: string
}

export interface Health {
  readonly xksProxyFleetSize: number
  readonly xksProxyVendor: string
  readonly xksProxyModel: string
  readonly ekmVendor: string
  readonly ekmFleetDetails: readonly { readonly id: string; readonly model: string; readonly healthStatus: string }[]
}

/** The proxy answered, and this is no answer of the protocol. */
export class InvalidAnswer extends Error {}

/** Every `errorName` of the spec, with its status. */
export const errorStatuses = {
  ValidationException: 400,
  InvalidStateException: 400,
  InvalidCiphertextException: 400,
  InvalidKeyUsageException: 400,
  AuthenticationFailedException: 401,
  AccessDeniedException: 403,
  KeyNotFoundException: 404,
  InvalidUriPathException: 404,
  ThrottlingException: 429,
  InternalException: 500,
  UnsupportedOperationException: 501,
  DependencyTimeoutException: 503,
} as const
export type ErrorName = keyof typeof errorStatuses
const isErrorName = (name: unknown): name is ErrorName => typeof name === 'string' && Object.hasOwn(errorStatuses, name)

/** What a proxy sends for an error. The text is printable ASCII under 512 characters, as the spec demands. */
export const errorBody = (name: ErrorName, message: string): string =>
  JSON.stringify({ errorName: name, errorMessage: asErrorMessage(message) })

const asErrorMessage = (message: string): string => message.slice(0, 511).replace(/[^\x20-\x7e]/g, '?')

export function encryptBody(metadata: RequestMetadata, plaintext: Uint8Array, aad: Uint8Array): string {
  return JSON.stringify({
    requestMetadata: metadata,
    plaintext: base64(plaintext),
    encryptionAlgorithm: 'AES_GCM',
    ...(aad.length > 0 && { additionalAuthenticatedData: base64(aad) }),
    ciphertextDataIntegrityValueAlgorithm: 'SHA_256',
  })
}

export function decryptBody(metadata: RequestMetadata, outer: ExternalCiphertext, aad: Uint8Array): string {
  return JSON.stringify({
    requestMetadata: metadata,
    ciphertext: base64(outer.ciphertext),
    encryptionAlgorithm: 'AES_GCM',
    initializationVector: base64(outer.initializationVector),
    authenticationTag: base64(outer.authenticationTag),
    ...(outer.ciphertextMetadata.length > 0 && { ciphertextMetadata: base64(outer.ciphertextMetadata) }),
    ...(aad.length > 0 && { additionalAuthenticatedData: base64(aad) }),
  })
}

export const metadataBody = (metadata: RequestMetadata): string => JSON.stringify({ requestMetadata: metadata })

/** @throws InvalidAnswer also when the integrity value is not that of what arrived: it was changed on the way, or never made properly. */
export function readEncrypted(answer: unknown, plaintextBytes: number, aad: Uint8Array): ExternalCiphertext {
  const members = readObject(answer)
  const outer: ExternalCiphertext = {
    ciphertext: readBytes(members, 'ciphertext', (length) => length === plaintextBytes),
    initializationVector: readBytes(members, 'initializationVector', (length) => ivBytes.includes(length)),
    authenticationTag: readBytes(members, 'authenticationTag', (length) => length === tagBytes),
    ciphertextMetadata:
      members['ciphertextMetadata'] === undefined || members['ciphertextMetadata'] === null
        ? Buffer.alloc(0)
        : readBytes(members, 'ciphertextMetadata', (length) => length <= maxMetadataBytes),
  }
  const cdiv = readBytes(members, 'ciphertextDataIntegrityValue', (length) => length === cdivBytes)
  if (!timingSafeEqual(cdiv, integrityValue(outer, aad))) throw new InvalidAnswer('ciphertextDataIntegrityValue does not fit the answer')
  return outer
}

/**
 * What the key itself authenticates (spec, Encrypt): `additionalAuthenticatedData` and `ciphertextMetadata`, kept apart by their lengths; what is absent has
 * length 0.
 *
 * It never begins with 0x48 0x01, since no AAD has 18,433 bytes: so nothing that is encrypted here is a CiphertextBlob of the same key, or the reverse.
 */
export function authenticatedData(aad: Uint8Array, metadata: Uint8Array): Buffer {
  const framed = Buffer.allocUnsafe(2 + aad.length + 1 + metadata.length)
  framed.writeUInt16BE(aad.length)
  framed.set(aad, 2)
  framed.writeUInt8(metadata.length, 2 + aad.length)
  framed.set(metadata, 2 + aad.length + 1)
  return framed
}

/** CDIV: over the decoded bytes, without lengths; what is absent is empty (appendix C). */
export function integrityValue(outer: ExternalCiphertext, aad: Uint8Array): Buffer {
  return createHash('sha256')
    .update(aad)
    .update(outer.ciphertextMetadata)
    .update(outer.initializationVector)
    .update(outer.ciphertext)
    .update(outer.authenticationTag)
    .digest()
}

export function readDecrypted(answer: unknown, ciphertextBytes: number): Buffer {
  return readBytes(readObject(answer), 'plaintext', (length) => length === ciphertextBytes)
}

export function readExternalKey(answer: unknown): ExternalKey {
  const members = readObject(answer)
  const keyUsage = members['keyUsage']
  if (!Array.isArray(keyUsage) || keyUsage.length > 10 || !keyUsage.every((usage): usage is string => typeof usage === 'string')) {
    throw new InvalidAnswer('keyUsage must be a list of at most 10 strings')
  }
  const keyStatus = readText(members, 'keyStatus')
  if (keyStatus !== 'ENABLED' && keyStatus !== 'DISABLED') throw new InvalidAnswer('keyStatus must be ENABLED or DISABLED')
  return { keySpec: readText(members, 'keySpec'), keyUsage, keyStatus }
}

const healthStates: readonly string[] = ['ACTIVE', 'DEGRADED', 'UNAVAILABLE']

export function readHealth(answer: unknown): Health {
  const members = readObject(answer)
  const size = members['xksProxyFleetSize']
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 1)
    throw new InvalidAnswer('xksProxyFleetSize must be a positive integer')
  const fleet = members['ekmFleetDetails']
  if (!Array.isArray(fleet) || fleet.length < 1 || fleet.length > 10) throw new InvalidAnswer('ekmFleetDetails must have 1 to 10 entries')
  return {
    xksProxyFleetSize: size,
    xksProxyVendor: readText(members, 'xksProxyVendor'),
    xksProxyModel: readText(members, 'xksProxyModel'),
    ekmVendor: readText(members, 'ekmVendor'),
    ekmFleetDetails: fleet.map((each: unknown) => {
      const manager = readObject(each)
      const healthStatus = readText(manager, 'healthStatus')
      if (!healthStates.includes(healthStatus)) throw new InvalidAnswer(`healthStatus must be one of ${healthStates.join(', ')}`)
      return { id: readText(manager, 'id'), model: readText(manager, 'model'), healthStatus }
    }),
  }
}

/** The name is what counts; the text is the proxy's own, for the log only. */
export function readError(answer: unknown): { readonly name: ErrorName; readonly message: string } {
  const members = readObject(answer)
  const name = members['errorName']
  if (!isErrorName(name)) throw new InvalidAnswer('errorName is none of the protocol')
  const message = members['errorMessage']
  // Printable ASCII under 512 characters, says the spec; a proxy that sends more must not fill the log.
  return { name, message: typeof message === 'string' ? asErrorMessage(message) : '' }
}

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')
const base64Form = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/

function readObject(value: unknown): Readonly<Record<string, unknown>> {
  if (!isRecord(value)) throw new InvalidAnswer('not a JSON object')
  return value
}

function readText(members: Readonly<Record<string, unknown>>, name: string): string {
  const value = members[name]
  if (typeof value !== 'string') throw new InvalidAnswer(`${name} must be a string`)
  return value
}

function readBytes(members: Readonly<Record<string, unknown>>, name: string, fits: (length: number) => boolean): Buffer {
  const text = readText(members, name)
  if (!base64Form.test(text)) throw new InvalidAnswer(`${name} is not base64`)
  const bytes = Buffer.from(text, 'base64')
  if (!fits(bytes.length)) throw new InvalidAnswer(`${name} has ${bytes.length} bytes`)
  return bytes
}
