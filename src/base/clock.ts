/**
 * Time, handed in. Nothing else in the house reads the system's clock for a decision, so that a test can let
 * thirty days pass in a line.
 */
export interface Clock {
  /** Milliseconds since the Unix epoch. */
  now(): number
}

export const systemClock: Clock = { now: () => Date.now() }

/** A clock that stands still until it is moved: for tests of waiting periods, leases and expiry. */
export class ManualClock implements Clock {
  #now: number
  constructor(startMs: number = Date.now()) {
    this.#now = startMs
  }
  now(): number {
    return this.#now
  }
  advance(ms: number): void {
    this.#now += ms
  }
}
