/**
 * Durations by the million in little room: counts in buckets that are 1.6 % wide, from 10 ns to days. No duration is dropped, and what several
 * processes counted can be added up.
 */

const perDoubling = 44
const smallestMs = 1e-5
const buckets = 40 * perDoubling

export class Durations {
  readonly #counts: Float64Array
  #count = 0
  #sumMs = 0

  constructor(counts: Float64Array = new Float64Array(buckets), sumMs = 0) {
    this.#counts = counts
    this.#sumMs = sumMs
    for (const count of counts) this.#count += count
  }

  add(ms: number): void {
    const bucket = ms <= smallestMs ? 0 : Math.min(buckets - 1, Math.floor(Math.log2(ms / smallestMs) * perDoubling))
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1
    this.#count++
    this.#sumMs += ms
  }

  addAll(other: Durations): void {
    for (const [bucket, count] of other.#counts.entries()) this.#counts[bucket] = (this.#counts[bucket] ?? 0) + count
    this.#count += other.#count
    this.#sumMs += other.#sumMs
  }

  get count(): number {
    return this.#count
  }

  get meanMs(): number {
    return this.#sumMs / this.#count
  }

  /** The middle of the bucket that the share falls into; not a number while there is none. */
  at(share: number): number {
    let left = Math.min(this.#count, Math.max(1, Math.ceil(share * this.#count)))
    for (const [bucket, count] of this.#counts.entries()) {
      left -= count
      if (count > 0 && left <= 0) return smallestMs * 2 ** ((bucket + 0.5) / perDoubling)
    }
    return Number.NaN
  }

  /** For another process. */
  pack(): PackedDurations {
    return { counts: this.#counts, sumMs: this.#sumMs }
  }
}

export interface PackedDurations {
  readonly counts: Float64Array
  readonly sumMs: number
}
