/**
 * So many calls at work at once, the others waiting in turn: one from each lane, round and round, so that a lane with a thousand calls
 * delays another lane's one call by one call.
 *
 * Nobody waits longer than `maxWaitMs`. Who would, by the pace at which calls end just now, is refused at once: an early refusal is worth
 * more to the caller than a late one, and costs less.
 */

export interface GateLimits {
  /** Calls at work at once. */
  readonly maxRunning: number
  /** Calls of one lane that may wait. */
  readonly maxWaiting: number
  readonly maxWaitMs: number
}

interface Waiting {
  readonly decide: (admitted: boolean) => void
  readonly timer: NodeJS.Timeout
}

export class FairGate {
  readonly #limits: GateLimits
  /** Those with somebody waiting; the first has the next turn. */
  readonly #lanes = new Map<string, Waiting[]>()
  #running = 0
  #waiting = 0
  /** Between two calls that end while others wait: smoothed. */
  #paceMs = 0
  #lastEnd = 0

  constructor(limits: GateLimits) {
    this.#limits = limits
  }

  get running(): number {
    return this.#running
  }
  get waiting(): number {
    return this.#waiting
  }

  /** Whether a call of this lane would be refused now. */
  isFull(lane: string): boolean {
    if (this.#running < this.#limits.maxRunning) return false
    const ahead = this.#lanes.get(lane)?.length ?? 0
    const lanes = Math.max(1, this.#lanes.size + (ahead === 0 ? 1 : 0))
    return ahead >= this.#limits.maxWaiting || (ahead + 1) * lanes * this.#paceMs > this.#limits.maxWaitMs
  }

  /** True when the call may begin, false when it is refused. Who was let in must `leave`. */
  enter(lane: string): true | Promise<boolean> {
    if (this.#running < this.#limits.maxRunning) {
      this.#running += 1
      return true
    }
    if (this.isFull(lane)) return Promise.resolve(false)
    return new Promise((decide) => {
      const queue = this.#lanes.get(lane) ?? []
      if (queue.length === 0) this.#lanes.set(lane, queue)
      const timer = setTimeout(() => {
        // It is the oldest of its lane: all wait as long.
        queue.shift()
        if (queue.length === 0) this.#lanes.delete(lane)
        this.#waiting -= 1
        decide(false)
      }, this.#limits.maxWaitMs)
      queue.push({ decide, timer })
      this.#waiting += 1
    })
  }

  leave(): void {
    const [turn] = this.#lanes
    const now = performance.now()
    if (turn === undefined) {
      this.#running -= 1
      this.#lastEnd = 0
      // Nobody waits, perhaps because of a pace that once was: it is forgotten as it was learnt.
      this.#paceMs -= this.#paceMs / 32
      return
    }
    if (this.#lastEnd > 0) this.#paceMs += (now - this.#lastEnd - this.#paceMs) / 32
    this.#lastEnd = now
    const [lane, queue] = turn
    this.#lanes.delete(lane)
    const next = queue.shift()
    if (queue.length > 0) this.#lanes.set(lane, queue)
    this.#waiting -= 1
    clearTimeout(next?.timer)
    next?.decide(true)
  }
}
