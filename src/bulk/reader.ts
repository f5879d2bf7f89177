/** A source of bytes, read chunk by chunk and as much at a time as is wanted. */

import type { BigIntStats } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { shrunk, SourceFailure, unreadable, type Chunk, type FilePart } from './chunks.ts'

/**
 * A Readable, a generator, an array of chunks: asked for the next one when there is room to work on it. Until then a chunk must stay as it is; then it may be used again (but
 * for the option `borrow`). Or a file, which must stay open, and as it is, until the stream has ended: threads read it from its beginning to its end. It is
 * not closed. A short one (16 KiB) and what is no regular file the event loop reads, the latter from where it stands. A regular file that does not say the same length and the
 * same times of its last changes (mtime, ctime) at the end as before the data key was asked for is a SourceFailure; what says no length (pipes, devices, /proc) is read until
 * nothing comes.
 */
export type Source = AsyncIterable<Uint8Array> | Iterable<Uint8Array> | FileHandle

/** A source that gave nothing for so long is not worth waiting for with what is whole already. Files and networks at work are quicker. */
const pauseMs = 10
/** What is read of a file at a time where threads do not. */
const fileChunkBytes = 2 ** 20
/** A shorter file is not worth a thread. */
const shortFileBytes = 16_384

export class Reader {
  readonly #source: Source
  /** None before it is asked for, nor of files that threads read. */
  #iterator: AsyncIterator<Uint8Array> | Iterator<Uint8Array> | undefined
  #file: OpenFile | undefined
  /** To be read again, the next one last. */
  readonly #left: Uint8Array[] = []
  /** Asked for, and not yet handed on. */
  #asked: Promise<Uint8Array | undefined> | undefined
  #timer: NodeJS.Timeout | undefined
  #onPause: (() => void) | undefined
  #ended = false

  /** @throws TypeError for what is no source */
  constructor(source: Source) {
    this.#source = source
    if (!isFile(source)) this.#iterator = iteratorOf(source)
  }

  /** From here on a file must stay as it is; nothing is read yet. @throws SourceFailure */
  async open(): Promise<void> {
    await this.#openFile()
  }

  /** The next bytes, never none; nothing at the end. Of a file they are still to be read: `expectUnchanged`. @throws SourceFailure, and what the source throws */
  async next(): Promise<Chunk | undefined> {
    const file = await this.#openFile()
    if (!file) return this.#nextBytes()
    // Threads read again what was read too far.
    for (const { length } of this.#left.splice(0)) file.unread(length)
    return file.part()
  }

  /** The same in memory, of files, too. */
  async bytes(): Promise<Uint8Array | undefined> {
    return this.#bytes(fileChunkBytes)
  }

  /** @param atMost of a file that threads could read; other sources give what they give */
  async #bytes(atMost: number): Promise<Uint8Array | undefined> {
    const file = await this.#openFile()
    return file ? (this.#left.pop() ?? file.bytes(atMost)) : this.#nextBytes()
  }

  /** Whether the source gives nothing for a while. What it gives then, or how it fails, is still for `next` to say. */
  async pauses(): Promise<boolean> {
    if (this.#left.length > 0 || this.#file) return false
    const asked = (this.#asked ??= this.#read())
    return new Promise((resolve) => {
      this.#onPause = () => resolve(true)
      const goOn = (): void => {
        this.#onPause = undefined
        resolve(false)
      }
      asked.then(goOn, goOn)
      // One for the whole stream, set back each time: a new one for every chunk would cost more than the rest of this.
      this.#timer = this.#timer?.refresh() ?? setTimeout(() => this.#onPause?.(), pauseMs)
    })
  }

  async #nextBytes(): Promise<Uint8Array | undefined> {
    const left = this.#left.pop()
    if (left) return left
    const asked = this.#asked ?? this.#read()
    this.#asked = undefined
    return asked
  }

  async #read(): Promise<Uint8Array | undefined> {
    while (!this.#ended && this.#iterator) {
      const { done, value } = await this.#iterator.next()
      if (done) this.#ended = true
      else if (bytesOf(value).length > 0) return value
    }
    return undefined
  }

  /** When all that it gave has been read, by threads, too: a file is what it was when it was opened. @throws SourceFailure */
  async expectUnchanged(): Promise<void> {
    await this.#file?.expectUnchanged()
  }

  /** A file that threads can read: regular, and worth it. A file may say that it is empty and still have something in it (/proc). */
  async #openFile(): Promise<OpenFile | undefined> {
    if (this.#iterator || this.#file || !isFile(this.#source)) return this.#file
    const found = await lookAt(this.#source)
    if (found.isFile() && found.size > shortFileBytes) this.#file = new OpenFile(this.#source, found)
    else this.#iterator = readToEnd(this.#source, found)
    return this.#file
  }

  /** What was read too far comes again, first; its memory must stay as it is. */
  unread(chunk: Chunk): void {
    if (!(chunk instanceof Uint8Array)) this.#file?.unread(chunk.length)
    else if (chunk.length > 0) this.#left.push(chunk)
  }

  /** `begun` and what follows it, in memory of their own: at least so many bytes, unless the source ends, and no more than `atMost`. */
  async gather(begun: Buffer, atLeast: number, atMost: number): Promise<Buffer> {
    const parts: Uint8Array[] = [begun]
    let length = begun.length
    while (length < atLeast) {
      const bytes = await this.#bytes(atMost - length)
      if (!bytes) break
      const taken = bytes.subarray(0, atMost - length)
      // Of its own: a chunk is the source's again when the next one is asked for.
      parts.push(Buffer.from(taken))
      length += taken.length
      this.unread(bytes.subarray(taken.length))
    }
    return Buffer.concat(parts, length)
  }

  /** The source is told that no more is wanted. One that is being waited for may hear it late: a generator does when it has come to its next chunk. */
  async close(): Promise<void> {
    clearTimeout(this.#timer)
    if (this.#ended) return
    this.#ended = true
    if (!this.#asked) await this.#iterator?.return?.()
    else {
      if ('destroy' in this.#source && typeof this.#source.destroy === 'function') this.#source.destroy()
      const told = Promise.resolve(this.#iterator?.return?.())
      told.catch(() => {})
    }
  }
}

/** From its beginning to its end, as it was at first. */
class OpenFile {
  readonly #handle: FileHandle
  readonly #found: BigIntStats
  readonly #size: number
  #position = 0

  constructor(handle: FileHandle, found: BigIntStats) {
    this.#handle = handle
    this.#found = found
    this.#size = Number(found.size)
  }

  /** All that is left. */
  part(): FilePart | undefined {
    const position = this.#position
    if (position === this.#size) return undefined
    this.#position = this.#size
    return { fd: this.#handle.fd, position, length: this.#size - position }
  }

  async bytes(atMost: number): Promise<Uint8Array | undefined> {
    const wanted = Math.min(atMost, this.#size - this.#position)
    if (wanted === 0) {
      await this.expectUnchanged()
      return undefined
    }
    const room = Buffer.allocUnsafe(wanted)
    const read = await readInto(this.#handle, room, this.#position)
    if (read === 0) throw shrunk(this.#position)
    this.#position += read
    return room.subarray(0, read)
  }

  unread(bytes: number): void {
    this.#position -= bytes
  }

  async expectUnchanged(): Promise<void> {
    expectSame(await lookAt(this.#handle), this.#found)
  }
}

/** What is not worth a thread, or has no length that threads could go by: a regular file from its beginning, all else from where it stands. Not by a ReadStream, which closes what it read. */
async function* readToEnd(handle: FileHandle, found: BigIntStats): AsyncGenerator<Uint8Array, void> {
  const room = Buffer.allocUnsafe(found.isFile() ? shortFileBytes : fileChunkBytes)
  let used = 0
  try {
    for (let position = 0; ;) {
      const read = await readInto(handle, room, found.isFile() ? position : null)
      used = Math.max(used, read)
      position += read
      // How much came says little: files of /proc and /sys have more than they say, or less.
      if (found.isFile() && (read === 0 || position > found.size)) expectSame(await lookAt(handle), found)
      if (read === 0) return
      yield room.subarray(0, read)
    }
  } finally {
    room.fill(0, 0, used)
  }
}

/** Of one open file, which is one inode. Nobody can set ctime: it also tells of a writer who put mtime back. Where file systems have none, mtime has to do. @throws SourceFailure */
function expectSame(now: BigIntStats, before: BigIntStats): void {
  if (now.size < before.size) throw shrunk(Number(now.size))
  if (now.size > before.size)
    throw new SourceFailure(`the file became longer while it was read: it had ${before.size} bytes, and has ${now.size}`)
  if (now.mtimeNs !== before.mtimeNs || now.ctimeNs !== before.ctimeNs)
    throw new SourceFailure('the file was changed while it was read: what is in it, its name, or its attributes')
}

async function lookAt(handle: FileHandle): Promise<BigIntStats> {
  try {
    return await handle.stat({ bigint: true })
  } catch (cause) {
    throw unreadable(cause)
  }
}

/** So many bytes; none at the end. */
async function readInto(handle: FileHandle, room: Buffer, position: number | null): Promise<number> {
  try {
    return (await handle.read(room, 0, room.length, position)).bytesRead
  } catch (cause) {
    throw unreadable(cause)
  }
}

/** @throws TypeError for what is no source */
export function isFile(source: Source): source is FileHandle {
  // Of callers in plain JavaScript it may be anything.
  const given: unknown = source
  if (typeof given === 'object' && given !== null) {
    if (Symbol.asyncIterator in given || Symbol.iterator in given) return false
    if ('fd' in given && 'stat' in given && typeof given.stat === 'function') return true
  }
  const what = given instanceof Promise ? 'a Promise: await it' : `of type ${typeof given}`
  throw new TypeError(
    `a source is chunks of bytes (a Readable, a generator, an array of Buffers) or an open file (a FileHandle); this one is ${what}`,
  )
}

const iteratorOf = (source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): AsyncIterator<Uint8Array> | Iterator<Uint8Array> =>
  Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]()

/** @throws TypeError for what are no bytes: text of a stream with an encoding, numbers of an array of bytes. */
export function bytesOf(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk
  throw new TypeError(`the source gives a ${typeof chunk}, not chunks of bytes (Buffer or Uint8Array)`)
}
