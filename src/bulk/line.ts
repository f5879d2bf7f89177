/**
 * The body of one message under way: runs of frames on slabs, worked on by several threads at once, handed on in order. What is in memory at any time
 * is bounded: so many slabs, however long the stream.
 */

import { longSlabBytes, own, PoolFailure, slabBytes, type BulkPool, type Notary, type Slab } from './bulk-pool.ts'
import type { RunOrder } from './bulk-worker.ts'
import { cutChunk, type Chunk, type FilePart, type RunPart } from './chunks.ts'
import { copyInto, isFewUs, openRun, sealRoom, sealRun, zero, type OpenRun, type SealRun } from './frames.ts'
import { frameOverhead, lastFrameOverhead, maxUint32 } from './message.ts'
import type { Suite } from './suites.ts'

export interface LineOptions {
  readonly pool: BulkPool
  readonly suite: Suite
  /** The line wipes it. */
  readonly key: Buffer
  readonly messageId: Buffer
  /** Of plaintext; of a body without frames, its length. */
  readonly frameLength: number
  /** Pieces are the slabs themselves. */
  readonly lend: boolean
  /** Chunks in shared memory stay where they are until a thread takes them. */
  readonly borrow: boolean
  /** Told of so many bytes of the body more, with what they became. */
  readonly onTaken: ((bytes: number) => void) | undefined
  readonly notary: Notary | undefined
}

interface Run {
  readonly slab: Slab
  /** Bytes of the source. */
  readonly taken: number
  /** The bytes it became. */
  readonly bytes: Promise<number>
  settled: boolean
}

/** Of frames; a run of tiny ones would keep a thread for long. */
const maxFramesInRun = 4096
/** Of slabs that hold a long frame each. */
const longFramesBytes = 2 ** 26

/** Shorter chunks cost less to copy than to tell of. */
const borrowedBytes = 4096
const staysWhereItIs = (chunk: Chunk, borrow: boolean): chunk is FilePart | Uint8Array<SharedArrayBuffer> =>
  !(chunk instanceof Uint8Array) || (borrow && chunk.length >= borrowedBytes && chunk.buffer instanceof SharedArrayBuffer)

const none = Buffer.alloc(0)

/** The bytes of a run as they come in: copied to its slab, or left where threads can read them. */
export class Load {
  readonly slab: Slab
  /** So many whole frames it is to hold. */
  readonly frames: number
  length = 0
  /** Where its first byte has its place on the slab. */
  readonly at: number
  readonly #borrow: boolean
  readonly #chunks: Chunk[] = []

  constructor(slab: Slab, at: number, frames: number, borrow: boolean) {
    this.slab = slab
    this.frames = frames
    this.at = at
    this.#borrow = borrow
  }

  add(chunk: Chunk): void {
    if (staysWhereItIs(chunk, this.#borrow)) {
      this.#chunks.push(chunk)
      this.length += chunk.length
    } else this.#copy(chunk)
  }

  #copy(chunk: Uint8Array): void {
    const { slab, length } = this
    this.length += chunk.length
    const end = this.at + this.length
    copyInto(slab.memory, this.at + length, chunk)
    slab.touched = Math.max(slab.touched, end)
    const last = this.#chunks.at(-1)
    const copied = last && this.#isCopied(last) ? this.#chunks.pop() : undefined
    this.#chunks.push(slab.memory.subarray(end - chunk.length - (copied?.length ?? 0), end))
  }

  /** What lies there and behind it, in order, which this then lacks. Until something is added to it. */
  cut(at: number): Chunk[] {
    const rest: Chunk[] = []
    while (this.length > at) {
      const chunk = this.#chunks.pop()
      if (!chunk) break
      this.length -= chunk.length
      const kept = Math.max(0, at - this.length)
      rest.unshift(cutChunk(chunk, kept, chunk.length))
      if (kept === 0) continue
      this.#chunks.push(cutChunk(chunk, 0, kept))
      this.length += kept
    }
    return rest
  }

  /** The same into another load. Of this one's slab it is copied: the slab is shared memory, too, but it is used again before the other run is done. */
  moveRest(at: number, to: Load): void {
    for (const chunk of this.cut(at)) {
      if (chunk instanceof Uint8Array && this.#isCopied(chunk)) to.#copy(chunk)
      else to.add(chunk)
    }
  }

  /** The number that is there in memory. */
  uint32(at: number): number {
    let value = 0
    let begin = 0
    let left = 4
    for (const chunk of this.#chunks) {
      const bytes = chunk instanceof Uint8Array ? chunk : none
      for (let from = at + 4 - left - begin; left > 0 && from < bytes.length; from++, left--) value = value * 256 + (bytes[from] ?? 0)
      begin += chunk.length
    }
    return value
  }

  get parts(): readonly RunPart[] {
    return this.#chunks.map((chunk) => (this.#isCopied(chunk) ? chunk.length : chunk))
  }

  #isCopied(chunk: Chunk): boolean {
    return chunk instanceof Uint8Array && chunk.buffer === this.slab.shared
  }
}

export class Line {
  readonly frameLength: number
  readonly notary: Notary | undefined
  readonly #options: LineOptions
  /** Of whole frames: on a slab, and in a run whose bytes come little by little. */
  readonly #maxFrames: number
  readonly #usualFrames: number
  readonly #slabBytes: number
  readonly #maxRuns: number
  readonly #runs: Run[] = []
  /** All that were taken, and those of them that nobody is at. */
  readonly #slabs: Slab[] = []
  readonly #free: Slab[] = []
  #lent: Slab | undefined
  /** The key where threads can see it. */
  #shared: SharedArrayBuffer | undefined
  #messageId: Uint8Array | undefined
  #sequence = 1
  /** What the notary was given is in the order of the message. */
  #told: Promise<unknown> = Promise.resolve()
  #poolFailed = false
  #closed = false

  constructor(options: LineOptions) {
    const { pool, frameLength, notary, borrow } = options
    this.#options = options
    this.notary = notary
    this.frameLength = frameLength
    const frameBytes = frameLength + frameOverhead
    const framesIn = (bytes: number): number => Math.min(maxFramesInRun, Math.max(1, Math.floor((bytes - lastFrameOverhead) / frameBytes)))
    const usualBytes = borrow ? longSlabBytes(pool.threads) : slabBytes
    this.#usualFrames = framesIn(slabBytes)
    this.#maxFrames = framesIn(usualBytes)
    this.#slabBytes = Math.max(usualBytes, frameBytes + lastFrameOverhead)
    const runs = 2 * pool.threads
    this.#maxRuns = this.#slabBytes === usualBytes ? runs : Math.min(runs, Math.max(1, Math.floor(longFramesBytes / this.#slabBytes)))
  }

  /** As many runs are under way as may be. */
  get full(): boolean {
    return this.#runs.length >= this.#maxRuns
  }
  get runs(): number {
    return this.#runs.length
  }
  /** The number of the next run's first frame. */
  get sequence(): number {
    return this.#sequence
  }
  /** The oldest run is done. */
  get ready(): boolean {
    return this.#runs[0]?.settled === true
  }

  /**
   * To be filled with plaintext, or with frames.
   * @param next what is there for it and for runs after it. If it need not be copied, runs are long, but all threads are to have of it
   * @throws RangeError when the machine has no memory for a frame so long
   */
  load(kind: 'plaintext' | 'frames', next?: Chunk): Load {
    const { pool, borrow } = this.#options
    const shared = next && staysWhereItIs(next, borrow) ? next.length / (2 * pool.threads) : 0
    const frames = Math.min(this.#maxFrames, Math.max(this.#usualFrames, Math.floor(shared / Math.max(1, this.frameLength))))
    return new Load(this.#slab(), kind === 'plaintext' ? sealRoom(frames) : 0, frames, borrow)
  }

  #slab(): Slab {
    const free = this.#free.pop()
    if (free) return free
    const slab = this.#options.pool.takeSlab(this.#slabBytes)
    this.#slabs.push(slab)
    return slab
  }

  /** Plaintext becomes frames. */
  seal(load: Load, last: boolean): void {
    const { slab, parts, length: plaintextBytes } = load
    const { frameLength, notary } = this
    const frames = last ? Math.max(1, Math.ceil(plaintextBytes / frameLength)) : plaintextBytes / frameLength
    const run: SealRun = { parts, at: load.at, plaintextBytes, frameLength, firstSequence: this.#next(frames, last), last }
    // Frames are no secret; where plaintext was on the slab, they go with it.
    if (slab.touched > 0) slab.touched = Math.max(slab.touched, sealRoom(frames) + plaintextBytes)
    const sealed =
      last && this.#isSmall(load, frames)
        ? Promise.resolve(sealRun(this.#keys, slab.memory, run))
        : this.#options.pool.seal(this.#order(slab, run))
    if (!notary) return this.#add(load, sealed)
    const told = Promise.all([sealed, this.#told]).then(([length]) => ({ length, hashed: notary.update({ slab: slab.shared, length }) }))
    this.#told = told
    told.catch(() => undefined)
    const done = async (): Promise<number> => {
      // Where an earlier run failed, so has the notary's turn for this one, while a thread is still at its slab.
      await Promise.allSettled([sealed])
      const { length, hashed } = await told
      await hashed
      return length
    }
    this.#add(load, done())
  }

  /** Frames become plaintext. */
  open(load: Load, { wholeFrames, end, endBytes }: Pick<OpenRun, 'wholeFrames' | 'end' | 'endBytes'>): void {
    const { slab, parts, length: bytes } = load
    const { frameLength, notary } = this
    const frames = wholeFrames + (end === 'last' ? 1 : 0)
    const run: OpenRun = { parts, wholeFrames, frameLength, firstSequence: this.#sequence, end, endBytes }
    this.#sequence += frames
    slab.touched = Math.max(slab.touched, wholeFrames * frameLength + endBytes)
    const open = async (): Promise<number> =>
      end !== 'none' && this.#isSmall(load, frames)
        ? openRun(this.#keys, slab.memory, run)
        : this.#options.pool.open(this.#order(slab, run))
    this.#add(load, notary ? notary.update({ slab: slab.shared, length: bytes }).then(open) : open())
  }

  /** The oldest run's bytes, as soon as they are done; a piece that was lent before is taken back. @throws MessageError, PoolFailure */
  async next(): Promise<Buffer> {
    this.#takeBack()
    const run = this.#runs[0]
    if (!run) throw new Error('no run is under way')
    const bytes = run.slab.memory.subarray(0, await run.bytes)
    this.#runs.shift()
    this.#options.onTaken?.(run.taken)
    if (this.#options.lend) {
      this.#lent = run.slab
      return bytes
    }
    const piece = Buffer.allocUnsafe(bytes.length)
    copyInto(piece, 0, bytes)
    this.#free.push(run.slab)
    return piece
  }

  /** When all threads have left the slabs: key and slabs are wiped. Again: nothing. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    if (this.#runs.length > 0) await Promise.allSettled(this.#runs.map(({ bytes }) => bytes))
    this.notary?.close()
    this.#options.key.fill(0)
    if (this.#shared) new Uint8Array(this.#shared).fill(0)
    // After a failure some thread may still be writing: nobody else gets its slab.
    const isLost = this.#poolFailed
    if (!isLost) await Promise.all(this.#slabs.map((slab) => this.#options.pool.wipe(slab)))
    for (const slab of this.#slabs) {
      if (isLost) zero(slab.memory, slab.touched)
      else this.#options.pool.giveSlab(slab)
    }
  }

  #takeBack(): void {
    if (this.#lent) this.#free.push(this.#lent)
    this.#lent = undefined
  }

  #add({ slab, length }: Load, bytes: Promise<number>): void {
    const run: Run = { slab, taken: length, bytes, settled: false }
    this.#runs.push(run)
    bytes.then(
      () => (run.settled = true),
      // Told by `next`, in its turn.
      (error: unknown) => {
        run.settled = true
        this.#poolFailed ||= error instanceof PoolFailure
      },
    )
  }

  /** The first sequence number of so many frames. */
  #next(frames: number, last: boolean): number {
    const first = this.#sequence
    this.#sequence += frames
    // The last frame alone may have the number that marks it.
    if (this.#sequence - 1 > maxUint32 - (last ? 0 : 1))
      throw new RangeError(`a message has ${maxUint32} frames at the most: longer frames are needed`)
    return first
  }

  #isSmall({ length, parts }: Load, frames: number): boolean {
    const isThere = parts.every((part) => typeof part === 'number' || part instanceof Uint8Array)
    return this.#runs.length === 0 && isFewUs(length, frames) && isThere
  }

  get #keys() {
    const { suite, key, messageId } = this.#options
    return { cipher: suite.cipher, key, messageId }
  }

  #order<Kind>(slab: Slab, run: Kind): RunOrder<Kind> {
    const { suite, key, messageId } = this.#options
    if (!this.#shared) {
      this.#shared = new SharedArrayBuffer(key.length)
      new Uint8Array(this.#shared).set(key)
    }
    return { cipher: suite.cipher, key: this.#shared, messageId: (this.#messageId ??= own(messageId)), slab: slab.shared, run }
  }
}
