/**
 * The proxy's side of the protocol: what KMS asks for, read strictly, and the answers. A format file: no I/O.
 *
 * Members that the spec does not have are ignored, and so are values of `kmsOperation` that it does not name (appendix B). What is longer than a proxy must
 * take is read all the same, since it is refused only after the key was found: see `oversized`.
 */

import { isUtf8 } from 'node:buffer'
import { isRecord } from '../base/is-record.ts'
import { ivBytes, maxAadBytes, maxMetadataBytes, maxPlaintextBytes, tagBytes, type ExternalCiphertext } from './protocol.ts'

/** `requestMetadata`: who asks KMS for what. Opaque texts; of which calls which are there the spec says (see `required`). */
export interface AskedMetadata {
  readonly kmsRequestId: string
  readonly kmsOperation: string
  readonly awsPrincipalArn?: string
  readonly kmsKeyArn?: string
  readonly kmsViaService?: string
  readonly awsSourceVpc?: string
  readonly awsSourceVpce?: string
}

export interface AskedEncrypt {
  readonly plaintext: Buffer
  readonly aad: Buffer
  /** The answer is to have an integrity value. */
  readonly integrity: boolean
}

export interface AskedDecrypt {
  readonly outer: ExternalCiphertext
  readonly aad: Buffer
}

/** The request is none of the protocol: ValidationException. The text is for whoever reads the proxy's log or KMS's. */
export class InvalidRequest extends Error {}

export type Members = Readonly<Record<string, unknown>>

/** @throws InvalidRequest when the body is no JSON object. */
export function readMembers(body: Buffer): Members {
  if (!isUtf8(body)) throw new InvalidRequest('The body is not UTF-8.')
  let value: unknown
  try {
    value = JSON.parse(body.toString())
  } catch {
    throw new InvalidRequest('The body is not JSON.')
  }
  return objectOf(value, 'The body')
}

const metadataNames = [
  'kmsRequestId',
  'kmsOperation',
  'awsPrincipalArn',
  'kmsKeyArn',
  'kmsViaService',
  'awsSourceVpc',
  'awsSourceVpce',
] as const satisfies readonly (keyof AskedMetadata)[]

const required = {
  health: ['kmsRequestId', 'kmsOperation'],
  metadata: ['kmsRequestId', 'kmsOperation', 'awsPrincipalArn'],
  encrypt: ['kmsRequestId', 'kmsOperation', 'awsPrincipalArn', 'kmsKeyArn'],
  decrypt: ['kmsRequestId', 'kmsOperation', 'awsPrincipalArn', 'kmsKeyArn'],
} as const satisfies Readonly<Record<string, readonly (keyof AskedMetadata)[]>>

/** ARNs are the longest, and as long as this (spec, "awsPrincipalArn"). */
const maxTextLength = 2048

/** What a request says about itself, whether it is valid or not: for the record. */
export function toldMetadata(members: Members): Partial<AskedMetadata> {
  const told = valueOf(members, 'requestMetadata')
  if (typeof told !== 'object' || told === null) return {}
  const known: { -readonly [N in keyof AskedMetadata]?: string } = {}
  for (const name of metadataNames) {
    const value = valueOf(told as Members, name)
    if (typeof value === 'string') known[name] = value
  }
  return known
}

/** @throws InvalidRequest */
export function readMetadata(members: Members, api: keyof typeof required): AskedMetadata {
  const told = objectOf(valueOf(members, 'requestMetadata'), 'requestMetadata')
  const needed: readonly string[] = required[api]
  const metadata: Record<string, string> = {}
  for (const name of metadataNames) {
    const value = valueOf(told, name)
    if (typeof value === 'string' && value.length > maxTextLength)
      throw new InvalidRequest(`requestMetadata.${name} is longer than ${maxTextLength} characters.`)
    if (typeof value === 'string') metadata[name] = value
    else if (value !== undefined || needed.includes(name)) throw new InvalidRequest(`requestMetadata.${name} must be a string.`)
  }
  return metadata as unknown as AskedMetadata
}

/** @throws InvalidRequest */
export function readEncrypt(members: Members): AskedEncrypt {
  requireAlgorithm(members)
  const algorithm = valueOf(members, 'ciphertextDataIntegrityValueAlgorithm')
  if (algorithm !== undefined && algorithm !== 'SHA_256')
    throw new InvalidRequest('ciphertextDataIntegrityValueAlgorithm must be SHA_256, or absent.')
  const aad = readOptional(members, 'additionalAuthenticatedData')
  return { aad, integrity: algorithm !== undefined, plaintext: readBytes(members, 'plaintext', (length) => length > 0, 'at least 1 byte') }
}

/** @throws InvalidRequest */
export function readDecrypt(members: Members): AskedDecrypt {
  requireAlgorithm(members)
  const ciphertextMetadata = readOptional(members, 'ciphertextMetadata')
  if (ciphertextMetadata.length > maxMetadataBytes)
    throw new InvalidRequest(`ciphertextMetadata must have at most ${maxMetadataBytes} bytes.`)
  return {
    aad: readOptional(members, 'additionalAuthenticatedData'),
    outer: {
      ciphertextMetadata,
      ciphertext: readBytes(members, 'ciphertext', (length) => length > 0, 'at least 1 byte'),
      initializationVector: readBytes(members, 'initializationVector', (length) => ivBytes.includes(length), '12 or 16 bytes'),
      authenticationTag: readBytes(members, 'authenticationTag', (length) => length === tagBytes, `${tagBytes} bytes`),
    },
  }
}

/** Why a request is more than this proxy takes, for UnsupportedOperationException. */
export function oversized(text: Uint8Array, aad: Uint8Array): string | undefined {
  if (text.length > maxPlaintextBytes) return `This proxy takes up to ${maxPlaintextBytes} bytes at a time.`
  return aad.length > maxAadBytes ? `This proxy takes up to ${maxAadBytes} bytes of additionalAuthenticatedData.` : undefined
}

/** @param integrity undefined where it was not asked for */
export const encryptedBody = (outer: ExternalCiphertext, integrity: Buffer | undefined): string =>
  JSON.stringify({
    ciphertext: outer.ciphertext.toString('base64'),
    initializationVector: outer.initializationVector.toString('base64'),
    authenticationTag: outer.authenticationTag.toString('base64'),
    ciphertextMetadata: outer.ciphertextMetadata.toString('base64'),
    ...(integrity && { ciphertextDataIntegrityValue: integrity.toString('base64') }),
  })

export const decryptedBody = (plaintext: Buffer): string => `{"plaintext":"${plaintext.toString('base64')}"}`

export const externalKeyBody = (enabled: boolean): string =>
  JSON.stringify({ keySpec: 'AES_256', keyUsage: ['ENCRYPT', 'DECRYPT'], keyStatus: enabled ? 'ENABLED' : 'DISABLED' })

function objectOf(value: unknown, name: string): Members {
  if (!isRecord(value)) throw new InvalidRequest(`${name} must be a JSON object.`)
  return value
}

/** A member that is null is absent. */
function valueOf(members: Members, name: string): unknown {
  return (Object.hasOwn(members, name) ? members[name] : undefined) ?? undefined
}

function requireAlgorithm(members: Members): void {
  if (valueOf(members, 'encryptionAlgorithm') !== 'AES_GCM') throw new InvalidRequest('encryptionAlgorithm must be AES_GCM.')
}

const nothing = Buffer.alloc(0)
const readOptional = (members: Members, name: string): Buffer =>
  valueOf(members, name) === undefined ? nothing : readBytes(members, name, () => true, '')

function readBytes(members: Members, name: string, fits: (length: number) => boolean, wanted: string): Buffer {
  const text = valueOf(members, name)
  if (typeof text !== 'string') throw new InvalidRequest(`${name} must be a string.`)
  const bytes = Buffer.from(text, 'base64')
  // Node skips what is no base64, and takes other alphabets: only what encodes back to the same text was base64 (RFC 4648, section 4).
  if (bytes.toString('base64') !== text) throw new InvalidRequest(`${name} is not base64.`)
  if (!fits(bytes.length)) throw new InvalidRequest(`${name} must have ${wanted}; it has ${bytes.length}.`)
  return bytes
}
