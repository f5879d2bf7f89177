/**
 * So many pieces of work to a turn of the event loop, the others in the turns after it, in the order in which they came.
 *
 * What comes together stays together: three hundred calls whose records became durable by one commit are answered in one turn, so that their
 * callers ask again together. In such a turn nothing else is heard of, no timer and no other caller, for as long as all of it takes. Work that is
 * spread over turns comes back spread.
 */
export class Turns {
  readonly #perTurn: number
  #begun = 0
  #isCounting = false
  readonly #waiting: (() => void)[] = []

  constructor(perTurn: number) {
    this.#perTurn = perTurn
  }

  /** Undefined when the work may begin now; otherwise resolves in the turn in which it may. */
  take(): Promise<void> | undefined {
    if (!this.#isCounting) {
      this.#isCounting = true
      setImmediate(this.#turn)
    }
    if (this.#begun < this.#perTurn) {
      this.#begun++
      return undefined
    }
    return new Promise((begin) => this.#waiting.push(begin))
  }

  readonly #turn = (): void => {
    const begin = this.#waiting.splice(0, this.#perTurn)
    this.#begun = begin.length
    for (const each of begin) each()
    // Who comes while others wait does so behind them, which #begun sees to: it is full then.
    this.#isCounting = begin.length > 0
    if (this.#isCounting) setImmediate(this.#turn)
  }
}

/** Of this process: it has one event loop. Work is what a call does between two waits, some 30 to 60 µs. */
export const turns = new Turns(32)
