/**
 * The body of one message under way: runs of frames on slabs, worked on by several threads at once, handed on in order. What is in memory at any time
 * is bounded: so many slabs, however long the stream.
 */

import { own, PoolFailure, slabBytes, type BulkPool, type Notary, type Slab } from './bulk-pool.ts'
import type { RunOrder } from './bulk-worker.ts'
import { copyInto, isFewUs, openRun, sealRoom, sealRun, type OpenRun, type SealRun } from './frames.ts'
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
  readonly notary: Notary | undefined
}

interface Run {
  readonly slab: Slab
  /** The bytes it became. */
  readonly bytes: Promise<number>
  settled: boolean
}

/** Of frames; a run of tiny ones would keep a thread for long. */
const maxFramesInRun = 4096
/** Of slabs that hold a long frame each. */
const longFramesBytes = 2 ** 26

export class Line {
  /** Of whole frames, on a slab. */
  readonly framesInRun: number
  readonly frameLength: number
  readonly notary: Notary | undefined
  readonly #options: LineOptions
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
    this.#options = options
    this.notary = options.notary
    this.frameLength = options.frameLength
    const frameBytes = options.frameLength + frameOverhead
    this.framesInRun = Math.min(maxFramesInRun, Math.max(1, Math.floor((slabBytes - lastFrameOverhead) / frameBytes)))
    this.#slabBytes = Math.max(slabBytes, frameBytes + lastFrameOverhead)
    const runs = 2 * options.pool.threads
    this.#maxRuns = this.#slabBytes === slabBytes ? runs : Math.min(runs, Math.max(1, Math.floor(longFramesBytes / this.#slabBytes)))
  }

  /** Where plaintext to be sealed begins on a slab, and how much of it there is room for. */
  get plaintextAt(): number {
    return sealRoom(this.framesInRun)
  }
  get plaintextCapacity(): number {
    return this.framesInRun * this.frameLength
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

  /** To be filled. @throws RangeError when the machine has no memory for a frame so long */
  slab(): Slab {
    const free = this.#free.pop()
    if (free) return free
    const slab = this.#options.pool.takeSlab(this.#slabBytes)
    this.#slabs.push(slab)
    return slab
  }

  put(slab: Slab, at: number, bytes: Uint8Array): void {
    copyInto(slab.memory, at, bytes)
    slab.touched = Math.max(slab.touched, at + bytes.length)
  }

  /** Plaintext at `plaintextAt` becomes frames. */
  seal(slab: Slab, plaintextBytes: number, last: boolean): void {
    const { frameLength, notary } = this
    const frames = last ? Math.max(1, Math.ceil(plaintextBytes / frameLength)) : plaintextBytes / frameLength
    const run: SealRun = { at: this.plaintextAt, plaintextBytes, frameLength, firstSequence: this.#next(frames, last), last }
    // The head and the tag of a last frame of a byte or none.
    slab.touched = Math.max(slab.touched, this.plaintextAt + lastFrameOverhead)
    const sealed =
      last && this.#isSmall(plaintextBytes, frames)
        ? Promise.resolve(sealRun(this.#keys, slab.memory, run))
        : this.#options.pool.seal(this.#order(slab, run))
    if (!notary) return this.#add(slab, sealed)
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
    this.#add(slab, done())
  }

  /** Frames at the slab's beginning, `bytes` in all, become plaintext. */
  open(slab: Slab, bytes: number, { wholeFrames, end, endBytes }: Pick<OpenRun, 'wholeFrames' | 'end' | 'endBytes'>): void {
    const { frameLength, notary } = this
    const frames = wholeFrames + (end === 'last' ? 1 : 0)
    const run: OpenRun = { wholeFrames, frameLength, firstSequence: this.#sequence, end, endBytes }
    this.#sequence += frames
    const open = async (): Promise<number> =>
      end !== 'none' && this.#isSmall(bytes, frames)
        ? openRun(this.#keys, slab.memory, run)
        : this.#options.pool.open(this.#order(slab, run))
    this.#add(slab, notary ? notary.update({ slab: slab.shared, length: bytes }).then(open) : open())
  }

  /** The oldest run's bytes, as soon as they are done; a piece that was lent before is taken back. @throws MessageError, PoolFailure */
  async next(): Promise<Buffer> {
    this.#takeBack()
    const run = this.#runs[0]
    if (!run) throw new Error('no run is under way')
    const bytes = run.slab.memory.subarray(0, await run.bytes)
    this.#runs.shift()
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
    for (const slab of this.#slabs) {
      // After a failure some thread may still be writing: nobody else gets its slab.
      if (this.#poolFailed) slab.memory.fill(0, 0, slab.touched)
      else this.#options.pool.giveSlab(slab)
    }
  }

  #takeBack(): void {
    if (this.#lent) this.#free.push(this.#lent)
    this.#lent = undefined
  }

  #add(slab: Slab, bytes: Promise<number>): void {
    const run: Run = { slab, bytes, settled: false }
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

  #isSmall(bytes: number, frames: number): boolean {
    return this.#runs.length === 0 && isFewUs(bytes, frames)
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
