/**
 * Messages of the AWS Encryption SDK, byte by byte (its specification, data-format/*.md): header, frames, footer. A format file: no I/O, no keys.
 * Nothing that a message says of its own size is believed before it was held against a limit, and nothing is allocated for it before. Big-endian.
 *
 *     version 2 header        version u8 = 2 | suite u16 | message id 32 | context | data keys | content type u8 | frame length u32 | commitment 32
 *                             then tag 16, its IV being 12 zero bytes
 *     version 1 header        version u8 = 1 | type u8 = 0x80 | suite u16 | message id 16 | context | data keys | content type u8 | 4 zero bytes |
 *                             IV length u8 = 12 | frame length u32, then IV 12 | tag 16
 *     context                 byte length of what follows u16, 0 when there is none | pairs u16 | each: u16 name | u16 value; sorted by name
 *     data keys               count u16 | each: u16 provider id | u16 provider info | u16 ciphertext
 *     frame                   sequence number u32, from 1 | IV 12 | ciphertext, of the frame length | tag 16
 *     last frame              0xffffffff | sequence number u32 | IV 12 | length u32, 0 to the frame length | ciphertext | tag 16
 *     body without frames     IV 12 | length u64 | ciphertext | tag 16
 *     footer of signed ones   u16 signature, DER, over everything before it
 */

import { suites, type Suite } from './suites.ts'

export type EncryptionContext = Readonly<Record<string, string>>

export interface EncryptedDataKey {
  /** `aws-kms`, or the namespace of whoever made it. */
  readonly providerId: string
  /** For `aws-kms` the key's ARN. */
  readonly providerInfo: Buffer
  readonly ciphertext: Buffer
}

export interface MessageHeader {
  readonly suite: Suite
  readonly messageId: Buffer
  /** What the message carries: pairs that were kept out are not here. */
  readonly context: EncryptionContext
  readonly encryptedDataKeys: readonly EncryptedDataKey[]
  /** Of plaintext; 0 = the body is one piece without frames (version 1 only). */
  readonly frameLength: number
  /** Of the committing suites: 32 bytes. */
  readonly commitment: Buffer | undefined
}

/** As it stands in a message. */
export interface WrittenHeader {
  readonly header: MessageHeader
  /** What the tag authenticates, together with the pairs that were kept out. */
  readonly body: Buffer
  readonly iv: Buffer
  readonly tag: Buffer
  /** Of all of it, in the message. */
  readonly byteLength: number
}

export interface HeaderLimits {
  /** 64 unless given. */
  readonly maxEncryptedDataKeys: number
}

export const defaultHeaderLimits: HeaderLimits = { maxEncryptedDataKeys: 64 }
/** The context has 64 KiB at the most; what data keys hold beside it is some hundred bytes each. */
const maxHeaderBytes = 2 ** 20

export const ivBytes = 12
export const tagBytes = 16
export const commitmentBytes = 32
export const maxUint16 = 0xffff
export const maxUint32 = 0xffffffff
/** In the place of a sequence number: the last frame follows. */
export const lastFrameMark = maxUint32
/** Before its ciphertext. */
export const frameHeadBytes = 4 + ivBytes
export const frameOverhead = frameHeadBytes + tagBytes
/** Of the last frame, before its ciphertext. */
export const lastFrameHeadBytes = 4 + 4 + ivBytes + 4
export const lastFrameOverhead = lastFrameHeadBytes + tagBytes
/** Of a body without frames, before its ciphertext. */
export const singleHeadBytes = ivBytes + 8

/** Where a signed message says by which key: a compressed point, base64. */
export const publicKeyName = 'aws-crypto-public-key'
/** Names that begin so are the SDK's own. */
const reservedPrefix = 'aws-crypto-'

/**
 * `malformed`: these bytes are no message, or were damaged; `truncated`: it ends too soon; `trailing`: bytes follow it; `unauthentic`: its
 * tags, commitment or signature are wrong for this key and context; `context`: not the one that was asked for; `policy`: a suite that was not
 * allowed; `limit`: a size beyond what the reader takes.
 */
export type MessageFault = 'malformed' | 'truncated' | 'trailing' | 'unauthentic' | 'context' | 'policy' | 'limit'

/** What is wrong with a message. */
export class MessageError extends Error {
  override readonly name = 'MessageError'
  readonly fault: MessageFault
  constructor(fault: MessageFault, message: string, options?: ErrorOptions) {
    super(message, options)
    this.fault = fault
  }
}

/** The pairs as they are authenticated and, in raw keyrings, as data keys are bound to them: u16 count and pairs, sorted; nothing for none. */
export function encodePairs(context: EncryptionContext): Buffer {
  const pairs = Object.entries(context).map(([name, value]) => [utf8(name), utf8(value)] as const)
  if (pairs.length === 0) return Buffer.alloc(0)
  pairs.sort(([a], [b]) => Buffer.compare(a, b))
  return Buffer.concat([
    uint16(pairs.length, 'pairs of the encryption context'),
    ...pairs.flat().flatMap((text) => withLength(text, 'a part of the encryption context')),
  ])
}

/** Without the tag. @throws RangeError for what no message can hold. */
export function encodeHeaderBody({ suite, messageId, context, encryptedDataKeys, frameLength, commitment }: MessageHeader): Buffer {
  const pairs = encodePairs(context)
  const framed = frameLength > 0
  const tail = Buffer.alloc(suite.version === 1 ? 4 + 1 + 4 : 4)
  if (suite.version === 1) tail[4] = ivBytes
  tail.writeUInt32BE(frameLength, tail.length - 4)
  return Buffer.concat([
    suite.version === 1 ? Buffer.of(1, 0x80) : Buffer.of(2),
    uint16(suite.id, ''),
    messageId,
    uint16(pairs.length, 'bytes of the encryption context'),
    pairs,
    uint16(encryptedDataKeys.length, 'encrypted data keys'),
    ...encryptedDataKeys.flatMap(({ providerId, providerInfo, ciphertext }) => [
      ...withLength(utf8(providerId), 'a provider id'),
      ...withLength(providerInfo, 'provider info'),
      ...withLength(ciphertext, 'an encrypted data key'),
    ]),
    Buffer.of(framed ? 2 : 1),
    tail,
    commitment ?? Buffer.alloc(0),
  ])
}

const utf8 = (text: string): Buffer => {
  if (/\p{Surrogate}/u.test(text)) throw new RangeError('half of a surrogate pair is no text')
  return Buffer.from(text)
}
const uint16 = (value: number, what: string): Buffer => {
  if (value > maxUint16) throw new RangeError(`${what}: ${value} are more than the ${maxUint16} that a message can hold`)
  const bytes = Buffer.allocUnsafe(2)
  bytes.writeUInt16BE(value)
  return bytes
}
const withLength = (bytes: Buffer, what: string): Buffer[] => [uint16(bytes.length, `bytes of ${what}`), bytes]

/** More bytes are needed before the header can be read: so many in all, at least. */
class Needs extends Error {
  readonly bytes: number
  constructor(bytes: number) {
    super()
    this.bytes = bytes
  }
}

/** The header at the beginning of `bytes`, whose memory it keeps; or how many bytes there must be, at least, to get on. @throws MessageError */
export function parseHeader(bytes: Buffer, limits: HeaderLimits): WrittenHeader | { readonly needs: number } {
  try {
    return readHeader(bytes, limits)
  } catch (error) {
    if (!(error instanceof Needs)) throw error
    if (error.bytes > maxHeaderBytes) throw new MessageError('limit', `the header has more than ${maxHeaderBytes} bytes`)
    return { needs: error.bytes }
  }
}

function readHeader(bytes: Buffer, { maxEncryptedDataKeys }: HeaderLimits): WrittenHeader {
  let at = 0
  const take = (count: number): Buffer => {
    if (at + count > bytes.length) throw new Needs(at + count)
    return bytes.subarray(at, (at += count))
  }
  const uint8 = (): number => take(1).readUInt8()
  const uint16 = (): number => take(2).readUInt16BE()
  const field = (): Buffer => take(uint16())

  const version = uint8()
  if (version !== 1 && version !== 2) throw new MessageError('malformed', notAMessage(bytes))
  if (version === 1 && uint8() !== 0x80) throw new MessageError('malformed', notAMessage(bytes))
  const suiteId = uint16()
  const suite = suites.get(suiteId)
  if (suite?.version !== version) throw malformed(`no suite of version ${version} has the id 0x${suiteId.toString(16).padStart(4, '0')}`)
  const messageId = take(suite.messageIdBytes)
  const context = readContext(field())
  const count = uint16()
  if (count === 0) throw malformed('there is no encrypted data key')
  if (count > maxEncryptedDataKeys)
    throw new MessageError('limit', `the message has ${count} encrypted data keys; ${maxEncryptedDataKeys} are allowed`)
  const encryptedDataKeys = Array.from({ length: count }, (): EncryptedDataKey => {
    const [providerId, providerInfo, ciphertext] = [field(), field(), field()]
    return { providerId: readText(providerId), providerInfo, ciphertext }
  })
  const contentType = uint8()
  if (contentType !== 2 && !(contentType === 1 && version === 1)) throw malformed(`${contentType} is no content type`)
  if (version === 1) {
    if (take(4).some((byte) => byte !== 0)) throw malformed('reserved bytes are not zero')
    if (uint8() !== ivBytes) throw malformed(`IVs have ${ivBytes} bytes`)
  }
  const frameLength = take(4).readUInt32BE()
  if ((contentType === 2) !== frameLength > 0) throw malformed(`a frame length of ${frameLength} with content type ${contentType}`)
  const commitment = suite.commits ? take(commitmentBytes) : undefined
  const body = bytes.subarray(0, at)
  const iv = version === 1 ? take(ivBytes) : Buffer.alloc(ivBytes)
  const tag = take(tagBytes)
  return { header: { suite, messageId, context, encryptedDataKeys, frameLength, commitment }, body, iv, tag, byteLength: at }
}

function readContext(bytes: Buffer): EncryptionContext {
  const context = Object.create(null) as Record<string, string>
  if (bytes.length === 0) return context
  let at = 0
  const take = (count: number): Buffer => {
    if (at + count > bytes.length) throw malformed('the encryption context is longer than its length')
    return bytes.subarray(at, (at += count))
  }
  const field = (): Buffer => take(take(2).readUInt16BE())
  for (let left = take(2).readUInt16BE(); left > 0; left--) {
    const [name, value] = [readText(field()), readText(field())]
    if (name in context) throw malformed('a name is twice in the encryption context')
    context[name] = value
  }
  if (at !== bytes.length) throw malformed('the encryption context is shorter than its length')
  return context
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
function readText(bytes: Buffer): string {
  try {
    return decoder.decode(bytes)
  } catch {
    throw malformed('a text is not UTF-8')
  }
}

const malformed = (what: string): MessageError => new MessageError('malformed', `the header is damaged: ${what}`)

/** Base64 of a message begins with "AQ" or "AY" (version 1) or "Ag" (version 2). */
const notAMessage = (bytes: Buffer): string =>
  /^A[QYg][A-Za-z0-9+/]/.test(bytes.toString('latin1', 0, 3))
    ? 'this is no message of the AWS Encryption SDK but may be the base64 of one: decode it first'
    : 'this is no message of the AWS Encryption SDK (of its versions 1 and 2)'

/** What the tag of a piece of the body authenticates beside it (data-format/message-body-aad.md); a template for many. */
export type BodyAad = Buffer
const labels = {
  frame: 'AWSKMSEncryptionClient Frame',
  last: 'AWSKMSEncryptionClient Final Frame',
  single: 'AWSKMSEncryptionClient Single Block',
} as const

export const bodyAad = (messageId: Uint8Array, kind: keyof typeof labels): BodyAad =>
  Buffer.concat([messageId, Buffer.from(labels[kind]), Buffer.alloc(4 + 8)])

/** `plaintextBytes` < 2^53. */
export function fillBodyAad(aad: BodyAad, sequence: number, plaintextBytes: number): BodyAad {
  aad.writeUInt32BE(sequence, aad.length - 12)
  aad.writeUInt32BE(Math.floor(plaintextBytes / 2 ** 32), aad.length - 8)
  aad.writeUInt32BE(plaintextBytes >>> 0, aad.length - 4)
  return aad
}

/** @throws RangeError for names that are the SDK's own. */
export function checkCallersContext(context: EncryptionContext): void {
  const name = Object.keys(context).find((name) => name.startsWith(reservedPrefix))
  if (name !== undefined)
    throw new RangeError(`the encryption context's name "${name}" is reserved: names may not begin with "${reservedPrefix}"`)
}
