/**
 * Random bytes from the device, fetched in batches ahead of need. Each byte is handed out once and wiped here.
 */

/** Random bytes fetched at a time, and the level at which the next are fetched. */
const batchBytes = 16_384
const lowBytes = 8192

const nothing = Buffer.alloc(0)

export class PrefetchedRandom {
  readonly #fetch: (bytes: number) => Promise<Buffer>
  #bytes: Buffer = nothing
  #used = 0
  readonly #ready: Buffer[] = []
  #readyBytes = 0
  #fetching: Promise<void> | undefined

  /** @param fetch asks the device for as many bytes */
  constructor(fetch: (bytes: number) => Promise<Buffer>) {
    this.#fetch = fetch
  }

  /** @param ahead whether the device may be asked for more than this call needs */
  async take(bytes: number, ahead: () => boolean): Promise<Buffer> {
    if (bytes > batchBytes) return await this.#fetch(bytes)
    for (;;) {
      if (this.#used + bytes <= this.#bytes.length) break
      // What is left of the batch is too short for this call and is thrown away.
      this.#bytes.fill(0)
      const next = this.#ready.shift()
      if (next === undefined) {
        this.#bytes = nothing
        this.#used = 0
        await this.#refill()
      } else {
        this.#readyBytes -= next.length
        this.#bytes = next
        this.#used = 0
      }
    }
    const taken = Buffer.allocUnsafeSlow(bytes)
    this.#bytes.copy(taken, 0, this.#used, this.#used + bytes)
    this.#bytes.fill(0, this.#used, this.#used + bytes)
    this.#used += bytes
    if (this.#bytes.length - this.#used + this.#readyBytes < lowBytes && ahead()) {
      // A failure is the next caller's to see.
      this.#refill().catch(() => {})
    }
    return taken
  }

  /** Nothing is to be taken any more. */
  wipe(): void {
    for (const buffer of [this.#bytes, ...this.#ready]) buffer.fill(0)
  }

  async #refill(): Promise<void> {
    this.#fetching ??= this.#add()
    await this.#fetching
  }

  async #add(): Promise<void> {
    try {
      const batch = await this.#fetch(batchBytes)
      this.#ready.push(batch)
      this.#readyBytes += batch.length
    } finally {
      this.#fetching = undefined
    }
  }
}
