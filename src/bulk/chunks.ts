/**
 * What sources give, and what the runs of a message are put together from: bytes in memory, or a part of a file, which the thread reads that works on
 * it. Neither the event loop nor libuv's threads touch what is not in their memory.
 */

import { readSync } from 'node:fs'

/** Of a regular file that stays open for so long as it is read. */
export interface FilePart {
  readonly fd: number
  /** From the file's beginning. */
  readonly position: number
  readonly length: number
}

export type Chunk = Uint8Array | FilePart

export const cutChunk = (chunk: Chunk, from: number, to: number): Chunk =>
  chunk instanceof Uint8Array ? chunk.subarray(from, to) : { fd: chunk.fd, position: chunk.position + from, length: to - from }

/** The source could not be read as it was meant to be. The message is not at fault. */
export class SourceFailure extends Error {
  override readonly name = 'SourceFailure'
}

/** @param position where it had bytes before */
export const shrunk = (position: number): SourceFailure =>
  new SourceFailure(`the file became shorter while it was read: nothing is at byte ${position} any more`)

/** @param cause what the system said */
export const unreadable = (cause: unknown): SourceFailure =>
  new SourceFailure(`the file cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })

/** The bytes of a run, in order: in the run's own memory, at their place there (so many), in memory elsewhere, or in a file. */
export type RunPart = number | Chunk

/** Of a file, what is read at a time: it is still in the processor's cache when the cipher takes it. */
const readBytes = 2 ** 17
/** A thread's own; wiped with the end of each run. Some room more, for whole frames with their heads. */
let scratch: Buffer | undefined
const scratchBytes = readBytes + 4096

/** A run's bytes one after the other. */
export class Cursor {
  readonly #memory: Buffer
  readonly #parts: readonly RunPart[]
  #next = 0
  /** In the run's memory, of the next part. */
  #place: number
  #bytes: Buffer = none
  #at = 0
  /** What is still to be read of a file. */
  #file: FilePart | undefined
  readonly #fileBytes: number
  #scratched = 0

  /**
   * @param at where the run's first byte would be in its memory
   * @param stride how far apart frames are: whole ones are read from files at a time
   */
  constructor(memory: Buffer, at: number, parts: readonly RunPart[], stride: number) {
    this.#memory = memory
    this.#place = at
    this.#parts = parts
    this.#fileBytes = stride > scratchBytes ? readBytes : scratchBytes - (scratchBytes % stride)
  }

  /** The next bytes, at least one and at the most so many; good until the next are asked for. @throws SourceFailure */
  some(atMost: number): Buffer {
    while (this.#at === this.#bytes.length) this.#advance()
    const from = this.#at
    this.#at = Math.min(this.#bytes.length, from + atMost)
    return from === 0 && this.#at === this.#bytes.length ? this.#bytes : this.#bytes.subarray(from, this.#at)
  }

  /** The next few bytes, exactly so many; good until the next are asked for. */
  take(count: number): Buffer {
    const bytes = this.some(count)
    if (bytes.length === count) return bytes
    const gathered = Buffer.alloc(count)
    for (let done = bytes.copy(gathered); done < count;) done += this.some(count - done).copy(gathered, done)
    return gathered
  }

  uint32(): number {
    if (this.#at + 4 > this.#bytes.length) return this.take(4).readUInt32BE()
    this.#at += 4
    return this.#bytes.readUInt32BE(this.#at - 4)
  }

  /** Nothing that was read from files stays. */
  wipe(): void {
    scratch?.fill(0, 0, this.#scratched)
    this.#scratched = 0
  }

  #advance(): void {
    this.#at = 0
    if (this.#file) return this.#readFile(this.#file)
    const part = this.#parts[this.#next++]
    if (part === undefined) throw new RangeError('a run has fewer bytes than it was said to have')
    const length = typeof part === 'number' ? part : part.length
    this.#bytes = none
    if (typeof part === 'number') this.#bytes = this.#memory.subarray(this.#place, this.#place + length)
    else if (part instanceof Uint8Array) this.#bytes = Buffer.from(part.buffer, part.byteOffset, length)
    else if (length > 0) this.#file = part
    this.#place += length
  }

  #readFile({ fd, position, length }: FilePart): void {
    scratch ??= Buffer.alloc(scratchBytes)
    const read = readAt(fd, scratch.subarray(0, Math.min(length, this.#fileBytes)), position)
    if (read === 0) throw shrunk(position)
    this.#scratched = Math.max(this.#scratched, read)
    this.#bytes = scratch.subarray(0, read)
    this.#file = read === length ? undefined : { fd, position: position + read, length: length - read }
  }
}

const none = Buffer.alloc(0)

function readAt(fd: number, target: Buffer, position: number): number {
  try {
    return readSync(fd, target, 0, target.length, position)
  } catch (cause) {
    throw unreadable(cause)
  }
}
