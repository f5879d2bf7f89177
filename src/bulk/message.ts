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
export const lastFrameMark = 0xff_ff_ff_ff
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
  const names = Object.keys(context)
  if (names.length === 0) return Buffer.alloc(0)
  const pairs = names.map((name) => [utf8(name), utf8(context[name] ?? '')] as const)
  if (pairs.length > 1) pairs.sort(([a], [b]) => Buffer.compare(a, b))
  const out = Buffer.allocUnsafe(pairs.reduce((sum, [name, value]) => sum + 4 + name.length + value.length, 2))
  let at = writeUint16(out, pairs.length, 0, 'pairs of the encryption context')
  for (const [name, value] of pairs)
    at = writeField(out, value, writeField(out, name, at, 'a name in the encryption context'), 'a value in the encryption context')
  return out
}

/** Without the tag. @throws RangeError for what no message can hold. */
export function encodeHeaderBody({ suite, messageId, context, encryptedDataKeys, frameLength, commitment }: MessageHeader): Buffer {
  const pairs = encodePairs(context)
  const keys = encryptedDataKeys.map(({ providerId, providerInfo, ciphertext }) => [utf8(providerId), providerInfo, ciphertext] as const)
  const keyBytes = keys.reduce((sum, fields) => fields.reduce((bytes, field) => bytes + 2 + field.length, sum), 0)
  const out = Buffer.alloc(fixedHeaderBytes + messageId.length + pairs.length + keyBytes + (commitment?.length ?? 0))
  let at = out.writeUInt8(suite.version)
  if (suite.version === 1) at = out.writeUInt8(version1Type, at)
  at = out.writeUInt16BE(suite.id, at)
  at += messageId.copy(out, at)
  at = writeUint16(out, pairs.length, at, 'bytes of the encryption context')
  at += pairs.copy(out, at)
  at = writeUint16(out, keys.length, at, 'encrypted data keys')
  for (const [providerId, providerInfo, ciphertext] of keys) {
    at = writeField(out, providerId, at, 'a provider id')
    at = writeField(out, providerInfo, at, 'provider info')
    at = writeField(out, ciphertext, at, 'an encrypted data key')
  }
  at = out.writeUInt8(frameLength > 0 ? contentTypes.framed : contentTypes.single, at)
  if (suite.version === 1) at = out.writeUInt8(ivBytes, at + reservedBytes)
  at = out.writeUInt32BE(frameLength, at)
  if (commitment) at += commitment.copy(out, at)
  return out.subarray(0, at)
}

const version1Type = 0x80
const reservedBytes = 4
const contentTypes = { single: 1, framed: 2 } as const
/** Of both versions, at the most: version, type, suite, three lengths and counts, content type, reserved, IV length, frame length. */
const fixedHeaderBytes = 1 + 1 + 2 + 2 + 2 + 1 + reservedBytes + 1 + 4

function utf8(text: string): Buffer {
  if (/\p{Surrogate}/u.test(text)) throw new RangeError('half of a surrogate pair is no text')
  return Buffer.from(text)
}

/** Where to go on. @throws RangeError */
function writeUint16(out: Buffer, value: number, at: number, what: string): number {
  if (value > maxUint16) throw new RangeError(`${value} ${what}: a message can hold ${maxUint16}`)
  return out.writeUInt16BE(value, at)
}
function writeField(out: Buffer, bytes: Buffer, at: number, what: string): number {
  const begin = writeUint16(out, bytes.length, at, `bytes of ${what}`)
  return begin + bytes.copy(out, begin)
}

/** A header at the beginning of the bytes, whose memory it keeps; or how many bytes there must be, at least, to get on. @throws MessageError */
export type HeaderParser = (bytes: Buffer) => WrittenHeader | { readonly needs: number }

/** To be given what is there, and all of it again when there is more: what was read once stays read, in however many pieces a header comes. */
export function headerParser(limits: HeaderLimits): HeaderParser {
  const reading = readHeader(limits)
  reading.next()
  return (bytes) => {
    const { done, value } = reading.next(bytes)
    return done ? value : { needs: value }
  }
}

export const parseHeader = (bytes: Buffer, limits: HeaderLimits): ReturnType<HeaderParser> => headerParser(limits)(bytes)

/** Waits for bytes: yields how many there must be in all, and is given all that are there. */
type Waiting<Value> = Generator<number, Value, Buffer>

/** Fields one after the other, of bytes that grow. They are places, not views: an earlier, shorter memory is not held by what was in it. */
class GrowingCursor {
  bytes: Buffer = Buffer.alloc(0)
  at = 0
  /** A place as it is in all the bytes. */
  view([from, to]: readonly [from: number, to: number]): Buffer {
    return this.bytes.subarray(from, to)
  }
  *take(count: number): Waiting<readonly [from: number, to: number]> {
    if (this.at + count > this.bytes.length) yield* this.#wait(count)
    const from = this.at
    this.at += count
    return [from, this.at]
  }
  *uint8(): Waiting<number> {
    if (this.at + 1 > this.bytes.length) yield* this.#wait(1)
    return this.bytes.readUInt8(this.at++)
  }
  *uint16(): Waiting<number> {
    if (this.at + 2 > this.bytes.length) yield* this.#wait(2)
    this.at += 2
    return this.bytes.readUInt16BE(this.at - 2)
  }
  *field(): Waiting<readonly [from: number, to: number]> {
    return yield* this.take(yield* this.uint16())
  }
  /** Apart from what reads, which is not to pay for it when the bytes are there. */
  *#wait(count: number): Waiting<void> {
    while (this.at + count > this.bytes.length) {
      if (this.at + count > maxHeaderBytes) throw new MessageError('limit', `the header has more than ${maxHeaderBytes} bytes`)
      this.bytes = yield this.at + count
    }
  }
}

function* readHeader({ maxEncryptedDataKeys }: HeaderLimits): Waiting<WrittenHeader> {
  const cursor = new GrowingCursor()
  const version = yield* cursor.uint8()
  if (version !== 1 && version !== 2) throw new MessageError('malformed', notAMessage(cursor.bytes))
  if (version === 1 && (yield* cursor.uint8()) !== version1Type) throw new MessageError('malformed', notAMessage(cursor.bytes))
  const suiteId = yield* cursor.uint16()
  const suite = suites.get(suiteId)
  if (suite?.version !== version) throw malformed(`no suite of version ${version} has the id 0x${suiteId.toString(16).padStart(4, '0')}`)
  const messageId = yield* cursor.take(suite.messageIdBytes)
  const context = readContext(cursor.view(yield* cursor.field()))
  const count = yield* cursor.uint16()
  if (count === 0) throw malformed('there is no encrypted data key')
  if (count > maxEncryptedDataKeys)
    throw new MessageError(
      'limit',
      `the message has ${count} encrypted data keys; ${maxEncryptedDataKeys} are allowed (maxEncryptedDataKeys)`,
    )
  const fields: (readonly [from: number, to: number])[] = []
  while (fields.length < 3 * count) fields.push(yield* cursor.field())
  const contentType = yield* cursor.uint8()
  const framed = contentType === contentTypes.framed
  if (!framed && !(contentType === contentTypes.single && version === 1)) throw malformed(`${contentType} is no content type`)
  if (version === 1) {
    const reserved = yield* cursor.take(reservedBytes)
    if (cursor.view(reserved).some((byte) => byte !== 0)) throw malformed('reserved bytes are not zero')
    if ((yield* cursor.uint8()) !== ivBytes) throw malformed(`IVs have ${ivBytes} bytes`)
  }
  const lengthField = yield* cursor.take(4)
  const frameLength = cursor.view(lengthField).readUInt32BE()
  if (framed !== frameLength > 0) throw malformed(`a frame length of ${frameLength} with content type ${contentType}`)
  const commitment = suite.commits ? yield* cursor.take(commitmentBytes) : undefined
  const bodyBytes = cursor.at
  const iv = version === 1 ? yield* cursor.take(ivBytes) : undefined
  const tag = yield* cursor.take(tagBytes)
  const views = fields.map((field) => cursor.view(field))
  const encryptedDataKeys: EncryptedDataKey[] = []
  for (let at = 0; at < views.length; at += 3) {
    const [provider, providerInfo, ciphertext] = views.slice(at, at + 3) as [Buffer, Buffer, Buffer]
    encryptedDataKeys.push({ providerId: readText(provider), providerInfo, ciphertext })
  }
  return {
    header: {
      suite,
      messageId: cursor.view(messageId),
      context,
      encryptedDataKeys,
      frameLength,
      commitment: commitment && cursor.view(commitment),
    },
    body: cursor.view([0, bodyBytes]),
    iv: iv ? cursor.view(iv) : Buffer.alloc(ivBytes),
    tag: cursor.view(tag),
    byteLength: cursor.at,
  }
}

/** Of a context that is all there. */
function readContext(bytes: Buffer): EncryptionContext {
  const context = Object.create(null) as Record<string, string>
  if (bytes.length === 0) return context
  const cursor = new ContextCursor(bytes)
  for (let left = cursor.uint16(); left > 0; left--) {
    const name = cursor.text()
    if (name in context) throw malformed('a name is twice in the encryption context')
    context[name] = cursor.text()
  }
  if (cursor.at !== bytes.length) throw malformed('the encryption context is shorter than its length')
  return context
}

class ContextCursor {
  readonly #bytes: Buffer
  at = 0
  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }
  uint16(): number {
    return this.#bytes.readUInt16BE(this.#take(2))
  }
  text(): string {
    const length = this.uint16()
    const from = this.#take(length)
    return readText(this.#bytes.subarray(from, from + length))
  }
  /** Where they begin. */
  #take(count: number): number {
    const from = this.at
    this.at += count
    if (this.at > this.#bytes.length) throw malformed('the encryption context is longer than its length')
    return from
  }
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
