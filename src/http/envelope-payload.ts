/**
 * The SHA-256 of a body that passes by, made beside the event loop, which could do little else meanwhile: a long body is copied, a piece at a time, into
 * memory that a thread of the bulk pool hashes while the next piece comes. No more than two pieces are there at any time. A short body is hashed
 * where it is, at its end.
 */

import { createHash } from 'node:crypto'
import { slabBytes, type BulkPool, type Hasher, type Slab } from '../bulk/bulk-pool.ts'
import { copyInto } from '../bulk/frames.ts'

export class PayloadHash {
  readonly #pool: BulkPool
  #filling: Slab
  #filled = 0
  #other: Slab | undefined
  #hasher: Hasher | undefined
  /** The thread's work on the other slab. */
  #underWay: Promise<void> = Promise.resolve()

  /** Must be closed. */
  constructor(pool: BulkPool) {
    this.#pool = pool
    this.#filling = pool.takeSlab(slabBytes)
  }

  /** Undefined when the next bytes may come at once; otherwise resolves when they may. @throws PoolFailure */
  update(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#filled + bytes.length > slabBytes) return this.#handOverAnd(bytes)
    copyInto(this.#filling.memory, this.#filled, bytes)
    this.#filled += bytes.length
    this.#filling.touched = Math.max(this.#filling.touched, this.#filled)
    return undefined
  }

  /** In hex. @throws PoolFailure */
  async digest(): Promise<string> {
    if (!this.#hasher) return createHash('sha256').update(this.#filling.memory.subarray(0, this.#filled)).digest('hex')
    await this.#handOver(this.#hasher)
    await this.#underWay
    return Buffer.from(await this.#hasher.digest()).toString('hex')
  }

  /** Once, when nothing else is asked of it any more. What was in the slabs is wiped as soon as the thread has left them. */
  async close(): Promise<void> {
    const isLost = await this.#underWay.then(
      () => false,
      () => true,
    )
    this.#hasher?.close()
    for (const slab of [this.#filling, this.#other]) {
      // After a failure some thread may still be reading: nobody else gets its slab.
      if (isLost) slab?.memory.fill(0, 0, slab.touched)
      else if (slab) this.#pool.giveSlab(slab)
    }
  }

  async #handOverAnd(bytes: Uint8Array): Promise<void> {
    this.#hasher ??= await this.#pool.hasher()
    for (let at = 0; at < bytes.length;) {
      const piece = bytes.subarray(at, at + slabBytes - this.#filled)
      void this.update(piece)
      at += piece.length
      if (this.#filled === slabBytes) await this.#handOver(this.#hasher)
    }
  }

  async #handOver(hasher: Hasher): Promise<void> {
    await this.#underWay
    const full = this.#filling
    this.#underWay = hasher.update({ slab: full.shared, length: this.#filled })
    // Who waits for it next hears of it.
    this.#underWay.catch(() => undefined)
    this.#filling = this.#other ?? this.#pool.takeSlab(slabBytes)
    this.#other = full
    this.#filled = 0
  }
}
