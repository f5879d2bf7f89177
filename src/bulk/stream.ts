/**
 * Messages of the AWS Encryption SDK made and read as they pass: `encryptStream`, `decryptStream`, and the same for bytes.
 */

import { sharedPool, type BulkPool, type Notary } from './bulk-pool.ts'
import { cutChunk, type FilePart } from './chunks.ts'
import { tooLongALast, truncated } from './frames.ts'
import { believeHeader, makeHeader, tooLong, type Believing, type CommitmentPolicy, type HeaderWish, type ReadLimits } from './header.ts'
import type { Keyring } from './keyring.ts'
import { Line, type Load } from './line.ts'
import {
  checkCallersContext,
  defaultHeaderLimits,
  frameOverhead,
  headerParser,
  lastFrameHeadBytes,
  lastFrameMark,
  lastFrameOverhead,
  maxUint32,
  MessageError,
  publicKeyName,
  singleHeadBytes,
  tagBytes,
  type EncryptionContext,
  type HeaderLimits,
  type MessageHeader,
  type WrittenHeader,
} from './message.ts'
import { isFile, Reader, type Source } from './reader.ts'
import { isShort, openShort, readShort, sealShort } from './short.ts'
import { unsignedSuite, type Suite } from './suites.ts'

/** What comes out, in order, each piece as soon as it may be seen. To stop early is to `return` (as leaving a `for await` does, or destroying a Readable made of it). */
export interface MessageStream extends AsyncIterableIterator<Buffer> {
  /** As soon as it is made or believed (decrypting: the data key was found and the header's tag verified). Rejected with what went wrong before. */
  readonly header: Promise<MessageHeader>
}

interface Common {
  readonly keyring: Keyring
  /** The threads that do the work; those that the program shares, unless given. */
  readonly pool?: BulkPool
  /**
   * The pieces that come out are views of memory that is used again once the next is asked for: right for who has written each away before
   * (`await file.write(piece)`), wrong for who keeps them or queues them (pipeline, Readable.from). Without it each piece is memory of its own.
   */
  readonly lend?: boolean
  /**
   * Chunks in shared memory (of a SharedArrayBuffer) are read where they are, by the threads: each must stay as it is until all that it became has come out. Without it
   * they are copied, as all others are, and may change once the next is asked for. Decrypting, only memory whose every writer is trusted: what is changed meanwhile could come
   * out unauthenticated.
   */
  readonly borrow?: boolean
  /** Told with each piece that comes out of how many bytes of the source, headers and signatures aside, it was made. */
  readonly onTaken?: (bytes: number) => void
}

export interface EncryptOptions extends Common {
  readonly context?: EncryptionContext
  /** Names of pairs of `context` that are not written into the message: who decrypts must know them ("required encryption context"). */
  readonly keptOut?: readonly string[]
  readonly suite?: Suite
  /** Of plaintext, 1 to 2^32-1; 64 KiB unless given. */
  readonly frameLength?: number
}

export interface DecryptOptions extends Common {
  /** What the message must have been encrypted with. Pairs that it does not carry are taken for kept out, and authenticated with it. */
  readonly context?: EncryptionContext
  /** Messages of the older suites, which do not commit to their key, are refused unless `REQUIRE_ENCRYPT_ALLOW_DECRYPT` (or the SDK's oldest, `FORBID_ENCRYPT_ALLOW_DECRYPT`). */
  readonly commitmentPolicy?: CommitmentPolicy
  readonly limits?: Partial<ReadLimits>
  /**
   * Signed messages: nothing comes out before the signature is verified; so many bytes are held for it at the most. Without it frames come out as
   * they are authenticated, the last ones after the signature, and a wrong one is an error at the end. Messages that are not signed do not change by it.
   */
  readonly holdBytes?: number
}

const defaultFrameLength = 65_536
const defaultReadLimits: ReadLimits = { ...defaultHeaderLimits, maxFrameLength: 2 ** 26 }

/** @throws RangeError at once, for options that no message can meet. Everything else is thrown by the stream: PoolFailure, what the keyring or the source threw. */
export function encryptStream(source: Source, options: EncryptOptions): MessageStream {
  const wish = wishOf(options)
  return new Stream(() => openSealing(source, wish, options))
}

/** What is wrong with the message is a MessageError, thrown by the stream; besides it PoolFailure, and what the keyring or the source threw. */
export function decryptStream(source: Source, options: DecryptOptions): MessageStream {
  const believing = believingOf(options)
  return new Stream(() => openOpening(source, believing, options))
}

/** The same for bytes that are there: a message of its own memory. */
export function encrypt(plaintext: Uint8Array, options: Omit<EncryptOptions, 'onTaken'>): Promise<Buffer> {
  const wish = wishOf(options)
  return isShort(plaintext, wish) ? sealShort(plaintext, wish) : collect(encryptStream([plaintext], { ...options, lend: false }))
}

export async function decrypt(
  message: Uint8Array,
  options: Omit<DecryptOptions, 'onTaken'>,
): Promise<{ readonly plaintext: Buffer; readonly header: MessageHeader }> {
  const believing = believingOf(options)
  const short = readShort(message, believing.limits)
  if (short) return openShort(short, believing)
  const stream = decryptStream([message], { ...options, lend: false })
  const plaintext = await collect(stream)
  return { plaintext, header: await stream.header }
}

function wishOf({
  keyring,
  context = {},
  keptOut = [],
  suite = unsignedSuite,
  frameLength = defaultFrameLength,
}: EncryptOptions): HeaderWish {
  checkCallersContext(context)
  if (!suite.commits) throw new RangeError(`${suite.name} is only read: it does not commit to its key`)
  if (!Number.isInteger(frameLength) || frameLength < 1 || frameLength > maxUint32)
    throw new RangeError(`a frame length of ${frameLength}: frames have 1 to ${maxUint32} bytes`)
  const unknown = keptOut.find((name) => !Object.hasOwn(context, name))
  if (unknown !== undefined) throw new RangeError(`"${unknown}" is to be kept out of the message, but is not in the encryption context`)
  return { keyring, suite, context, keptOut, frameLength }
}

const believingOf = ({ keyring, context, commitmentPolicy, limits }: DecryptOptions): Believing => ({
  keyring,
  context,
  commitmentPolicy,
  limits: limits ? { ...defaultReadLimits, ...limits } : defaultReadLimits,
})

async function collect(stream: MessageStream): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const piece of stream) pieces.push(piece)
  return pieces.length === 1 && pieces[0] ? pieces[0] : Buffer.concat(pieces)
}

/** A message whose header is there. It is closed when its pieces end, or instead of them; again: nothing. */
interface Opened {
  readonly header: MessageHeader
  pieces(): AsyncGenerator<Buffer, void>
  close(): Promise<void>
}

/** Nothing begins before the header or a piece is asked for. */
class Stream implements MessageStream {
  readonly #open: () => Promise<Opened>
  #opened: Promise<Opened> | undefined
  #pieces: AsyncGenerator<Buffer, void> | undefined

  constructor(open: () => Promise<Opened>) {
    this.#open = open
  }

  get header(): Promise<MessageHeader> {
    return this.#openOnce().then(({ header }) => header)
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async next(): Promise<IteratorResult<Buffer, void>> {
    if (!this.#pieces) {
      const message = await this.#openOnce()
      this.#pieces ??= message.pieces()
    }
    return this.#pieces.next()
  }

  async return(): Promise<IteratorResult<Buffer, void>> {
    // What was not begun never will be.
    this.#opened ??= Promise.resolve(nothing)
    await this.#pieces?.return()
    const message = await this.#opened.catch(() => nothing)
    this.#pieces ??= nothing.pieces()
    await message.close()
    return { done: true, value: undefined }
  }

  #openOnce(): Promise<Opened> {
    return (this.#opened ??= this.#open())
  }
}

/** In the place of a message that its reader did not wait for. */
const nothing: Opened = {
  get header(): never {
    throw new Error('the stream was ended by its reader before it began')
  },
  async *pieces() {},
  async close() {},
}

class OpenedBody implements Opened {
  readonly header: MessageHeader
  readonly #line: Line
  readonly #reader: Reader
  readonly #pieces: () => AsyncGenerator<Buffer, void>

  constructor(header: MessageHeader, line: Line, reader: Reader, pieces: () => AsyncGenerator<Buffer, void>) {
    this.header = header
    this.#line = line
    this.#reader = reader
    this.#pieces = pieces
  }
  pieces(): AsyncGenerator<Buffer, void> {
    return this.#pieces()
  }
  close(): Promise<void> {
    return closeBoth(this.#line, this.#reader)
  }
}

async function openSealing(
  source: Source,
  wish: HeaderWish,
  { pool = sharedPool(), lend = false, borrow = false, onTaken }: EncryptOptions,
): Promise<Opened> {
  const { suite, frameLength } = wish
  const reader = new Reader(source)
  let notary: Notary | undefined
  try {
    // Not after the data key was waited for: what changes meanwhile has changed while it was read.
    await reader.open()
    notary = suite.signature && (await pool.notary(suite.signature))
    const context = notary?.publicKey
      ? { ...wish.context, [publicKeyName]: Buffer.from(notary.publicKey).toString('base64') }
      : wish.context
    const { header, head, key } = await makeHeader({ ...wish, context })
    const line = new Line({
      pool,
      suite,
      key,
      messageId: header.messageId,
      frameLength,
      lend,
      borrow: borrow || isFile(source),
      onTaken,
      notary,
    })
    try {
      await notary?.update(head)
      return new OpenedBody(header, line, reader, () => sealPieces(reader, line, head))
    } catch (error) {
      await line.close()
      throw error
    }
  } catch (error) {
    notary?.close()
    await reader.close()
    throw error
  }
}

async function* sealPieces(reader: Reader, line: Line, head: Buffer): AsyncGenerator<Buffer, void> {
  try {
    yield head
    let load: Load | undefined
    for (;;) {
      // Whatever is whole does not wait for a source that pauses, but for the last byte, as below.
      const whole = load ? Math.floor((load.length - 1) / line.frameLength) : 0
      if ((whole > 0 || line.runs > 0) && (await reader.pauses())) {
        if (load && whole > 0) {
          const sealed = load
          load = line.load('plaintext')
          sealed.moveRest(whole * line.frameLength, load)
          line.seal(sealed, false)
        }
        while (line.runs > 0) yield await line.next()
      }
      const chunk = await reader.next()
      if (!chunk) break
      for (let at = 0; at < chunk.length;) {
        // A full slab waits for a byte more: the message's last frame is made when it is known to be the last.
        if (load && load.length === load.frames * line.frameLength) {
          line.seal(load, false)
          while (line.full || line.ready) yield await line.next()
          load = undefined
        }
        load ??= line.load('plaintext', cutChunk(chunk, at, chunk.length))
        const taken = Math.min(chunk.length - at, load.frames * line.frameLength - load.length)
        load.add(cutChunk(chunk, at, at + taken))
        at += taken
      }
    }
    line.seal(load ?? line.load('plaintext'), true)
    while (line.runs > 1) yield await line.next()
    const last = await line.next()
    // All has been read, and the message is not whole yet.
    await reader.expectUnchanged()
    yield last
    if (line.notary) yield encodeFooter(await line.notary.sign())
  } finally {
    await closeBoth(line, reader)
  }
}

async function openOpening(source: Source, believing: Believing, options: DecryptOptions): Promise<Opened> {
  const { pool = sharedPool(), lend = false, borrow = false, onTaken } = options
  const { limits } = believing
  const reader = new Reader(source)
  let notary: Notary | undefined
  try {
    const { written, bytes } = await readWrittenHeader(reader, limits)
    const { header } = written
    const { suite, messageId } = header
    const key = await believeHeader(written, believing)
    try {
      notary = suite.signature && (await pool.notary(suite.signature, Buffer.from(header.context[publicKeyName] ?? '', 'base64')))
      await notary?.update(bytes)
      const single = header.frameLength === 0
      const frameLength = single ? await readSingleLength(reader, limits) : header.frameLength
      const holdBytes = notary && options.holdBytes
      // What is hashed in order lies on slabs.
      const mayBorrow = !notary && (borrow || isFile(source))
      const line = new Line({
        pool,
        suite,
        key,
        messageId,
        frameLength,
        lend: lend && holdBytes === undefined,
        borrow: mayBorrow,
        onTaken,
        notary,
      })
      return new OpenedBody(header, line, reader, () =>
        holdBytes === undefined ? openPieces(reader, line, single) : held(openPieces(reader, line, single), holdBytes),
      )
    } catch (error) {
      key.fill(0)
      throw error
    }
  } catch (error) {
    notary?.close()
    await reader.close()
    throw error
  }
}

/** Of a body without frames, which stays unread. */
async function readSingleLength(reader: Reader, limits: ReadLimits): Promise<number> {
  const head = await reader.gather(Buffer.alloc(0), singleHeadBytes, singleHeadBytes)
  if (head.length < singleHeadBytes) throw truncated('before its body')
  reader.unread(head)
  const length = head.readBigUInt64BE(singleHeadBytes - 8)
  if (length > limits.maxFrameLength) throw tooLong(`one piece of ${length} bytes`, limits)
  return Number(length)
}

async function* openPieces(reader: Reader, line: Line, single: boolean): AsyncGenerator<Buffer, void> {
  try {
    // A signature covers what was hashed in order, in memory.
    const first = line.notary ? undefined : await reader.next()
    if (first && !(first instanceof Uint8Array)) yield* openFile(first, line, single)
    else {
      if (first) reader.unread(first)
      yield* openBytes(reader, line, single)
    }
    while (line.runs > 1) yield await line.next()
    const signature = line.notary && (await readFooter(reader))
    if (await reader.next()) throw new MessageError('trailing', 'bytes follow the message')
    const last = await line.next()
    await reader.expectUnchanged()
    if (line.notary && signature && !(await line.notary.verify(signature)))
      throw new MessageError('unauthentic', 'the signature is wrong: what came out of this message before was not what its author signed')
    if (last.length > 0) yield last
  } finally {
    await closeBoth(line, reader)
  }
}

/** Until the last run is under way. Where frames lie shows as they come. */
async function* openBytes(reader: Reader, line: Line, single: boolean): AsyncGenerator<Buffer, void> {
  const stride = line.frameLength + frameOverhead
  for (;;) {
    let load: Load | undefined
    /** Where the next frame begins. */
    let frameAt = 0
    let end = single ? { at: singleHeadBytes + line.frameLength + tagBytes, bytes: line.frameLength } : undefined
    for (;;) {
      // As when sealing: what is whole goes out when the source pauses.
      const whole = end || !load ? 0 : Math.floor(load.length / stride)
      if ((whole > 0 || line.runs > 0) && (await reader.pauses())) {
        if (load && whole > 0) {
          const opened = load
          load = line.load('frames')
          opened.moveRest(whole * stride, load)
          line.open(opened, { wholeFrames: whole, end: 'none', endBytes: 0 })
          frameAt -= whole * stride
        }
        while (line.runs > 0) yield await line.next()
      }
      const chunk = await reader.bytes()
      if (!chunk) throw truncated(single ? 'in its body' : `in frame ${line.sequence + Math.floor((load?.length ?? 0) / stride)}`)
      load ??= line.load('frames', chunk)
      const capacity = load.frames * stride
      const taken = Math.min(chunk.length, (end?.at ?? capacity) - load.length)
      load.add(chunk.subarray(0, taken))
      reader.unread(chunk.subarray(taken))
      while (!end && frameAt < capacity && load.length >= frameAt + 4) {
        if (load.uint32(frameAt) !== lastFrameMark) frameAt += stride
        else if (load.length < frameAt + lastFrameHeadBytes) break
        else end = lastFrame(load.uint32(frameAt + lastFrameHeadBytes - 4), frameAt, line.frameLength)
      }
      // Of what follows the last frame, some may be here already.
      if (end && load.length > end.at)
        for (const rest of load.cut(end.at).toReversed()) reader.unread(rest instanceof Uint8Array ? Buffer.from(rest) : rest)
      if (load.length < (end?.at ?? capacity)) continue
      const wholeFrames = Math.floor(frameAt / stride)
      line.open(load, { wholeFrames, end: single ? 'single' : end ? 'last' : 'none', endBytes: end?.bytes ?? 0 })
      break
    }
    if (end) return
    while (line.full || line.ready) yield await line.next()
  }
}

/** The same for all the rest of a file: where frames lie follows from its length, and the threads find whether they do. */
async function* openFile(rest: FilePart, line: Line, single: boolean): AsyncGenerator<Buffer, void> {
  const { frameLength } = line
  if (single) {
    const bytes = singleHeadBytes + frameLength + tagBytes
    if (rest.length < bytes) throw truncated('in its body')
    if (rest.length > bytes) throw new MessageError('trailing', 'bytes follow the message')
    const load = line.load('frames')
    load.add(rest)
    line.open(load, { wholeFrames: 0, end: 'single', endBytes: frameLength })
    return
  }
  const stride = frameLength + frameOverhead
  const { whole, endBytes } = layout(rest.length, frameLength)
  for (let frame = 0, at = 0; ;) {
    const load = line.load('frames', cutChunk(rest, at, rest.length))
    const frames = Math.min(load.frames, whole - frame)
    const isLast = endBytes !== undefined && frame + frames === whole && frames < load.frames
    const end = at + frames * stride + (isLast ? lastFrameOverhead + endBytes : 0)
    load.add(cutChunk(rest, at, end))
    at = end
    frame += frames
    line.open(load, { wholeFrames: frames, end: isLast ? 'last' : 'none', endBytes: isLast ? endBytes : 0 })
    if (isLast) return
    while (line.full || line.ready) yield await line.next()
    if (frame < whole || endBytes !== undefined) continue
    while (line.runs > 0) yield await line.next()
    throw truncated(`in frame ${line.sequence}`)
  }
}

/** How a body of so many bytes would be made up: whole frames, and a last one of so many bytes, unless no message has this length. */
function layout(bytes: number, frameLength: number): { readonly whole: number; readonly endBytes: number | undefined } {
  const stride = frameLength + frameOverhead
  const whole = Math.floor(bytes / stride)
  // The head of the last frame is longer than others: of as many bytes as they have, it is longer than they are.
  for (const count of [whole, whole - 1]) {
    const endBytes = bytes - count * stride - lastFrameOverhead
    if (count >= 0 && endBytes >= 0 && endBytes <= frameLength) return { whole: count, endBytes }
  }
  return { whole, endBytes: undefined }
}

function lastFrame(bytes: number, at: number, frameLength: number): { readonly at: number; readonly bytes: number } {
  if (bytes > frameLength) throw tooLongALast(bytes, frameLength)
  return { at: at + lastFrameHeadBytes + bytes + tagBytes, bytes }
}

/** Nothing of it before all of it. */
async function* held(pieces: AsyncIterable<Buffer>, maxBytes: number): AsyncGenerator<Buffer, void> {
  const all: Buffer[] = []
  let length = 0
  for await (const piece of pieces) {
    length += piece.length
    if (length > maxBytes)
      throw new MessageError('limit', `the message has more than the ${maxBytes} bytes that may be held until its signature is verified`)
    all.push(piece)
  }
  yield* all
}

async function readWrittenHeader(
  reader: Reader,
  limits: HeaderLimits,
): Promise<{ readonly written: WrittenHeader; readonly bytes: Buffer }> {
  const parse = headerParser(limits)
  let bytes: Buffer = Buffer.alloc(0)
  for (let needs = 1; ;) {
    // Of what is there already twice as much each time: a long header is not copied once for each of its fields.
    bytes = await reader.gather(bytes, needs, Math.max(needs, 2 * bytes.length, usualHeaderBytes))
    if (bytes.length === 0) throw new MessageError('truncated', 'there is no message: the source is empty')
    if (bytes.length < needs) throw truncated('in its header')
    const written = parse(bytes)
    if ('needs' in written) needs = written.needs
    else {
      reader.unread(bytes.subarray(written.byteLength))
      return { written, bytes: bytes.subarray(0, written.byteLength) }
    }
  }
}

const usualHeaderBytes = 4096

const encodeFooter = (signature: Uint8Array): Buffer => {
  const footer = Buffer.alloc(2 + signature.length)
  footer.writeUInt16BE(signature.length)
  footer.set(signature, 2)
  return footer
}

async function readFooter(reader: Reader): Promise<Buffer> {
  const head = await reader.gather(Buffer.alloc(0), 2, 2)
  const length = head.length === 2 ? head.readUInt16BE() : 0
  const signature = await reader.gather(Buffer.alloc(0), length, length)
  if (head.length < 2 || signature.length < length) throw truncated('in its signature')
  return signature
}

async function closeBoth(line: Line, reader: Reader): Promise<void> {
  try {
    await line.close()
  } finally {
    await reader.close()
  }
}

/** What a message says of itself; believed by nobody yet. The source is read no further than it must, and closed. @throws MessageError */
export async function readHeader(source: Source, limits: Partial<HeaderLimits> = {}): Promise<WrittenHeader> {
  const { written, rest } = await splitHeader(source, limits)
  await rest.return?.()
  return written
}

/** The same, and what follows it, untouched; the source is closed with that. @throws MessageError */
export async function splitHeader(
  source: Source,
  limits: Partial<HeaderLimits> = {},
): Promise<{ readonly written: WrittenHeader; readonly rest: AsyncIterableIterator<Uint8Array> }> {
  const reader = new Reader(source)
  try {
    const { written } = await readWrittenHeader(reader, { ...defaultHeaderLimits, ...limits })
    const rest: AsyncIterableIterator<Uint8Array> = {
      [Symbol.asyncIterator]: () => rest,
      async next() {
        const value = await reader.bytes()
        return value ? { value } : { value, done: true }
      },
      async return() {
        await reader.close()
        return { value: undefined, done: true }
      },
    }
    return { written, rest }
  } catch (error) {
    await reader.close()
    throw error
  }
}
