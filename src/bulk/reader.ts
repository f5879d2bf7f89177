/** A source of bytes, read chunk by chunk and as much at a time as is wanted. */

/** A Readable, a generator, an array of chunks: asked for the next one when there is room to work on it. Until then a chunk must stay as it is; then it may be used again. */
export type Source = AsyncIterable<Uint8Array> | Iterable<Uint8Array>

/** A source that gave nothing for so long is not worth waiting for with what is whole already. Files and networks at work are quicker. */
const pauseMs = 10

export class Reader {
  readonly #source: Source
  readonly #iterator: AsyncIterator<Uint8Array> | Iterator<Uint8Array>
  /** To be read again, the next one last. */
  readonly #left: Uint8Array[] = []
  /** Asked for, and not yet handed on. */
  #asked: Promise<Uint8Array | undefined> | undefined
  #timer: NodeJS.Timeout | undefined
  #onPause: (() => void) | undefined
  #ended = false

  constructor(source: Source) {
    this.#source = source
    this.#iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]()
  }

  /** The next bytes, never none; nothing at the end. */
  async next(): Promise<Uint8Array | undefined> {
    const left = this.#left.pop()
    if (left) return left
    const asked = this.#asked ?? this.#read()
    this.#asked = undefined
    return asked
  }

  /** Whether the source gives nothing for a while. What it gives then, or how it fails, is still for `next` to say. */
  async pauses(): Promise<boolean> {
    if (this.#left.length > 0) return false
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

  async #read(): Promise<Uint8Array | undefined> {
    while (!this.#ended) {
      const { done, value } = await this.#iterator.next()
      if (done) this.#ended = true
      else if (bytesOf(value).length > 0) return value
    }
    return undefined
  }

  /** What was read too far comes again, first; its memory must stay as it is. */
  unread(bytes: Uint8Array): void {
    if (bytes.length > 0) this.#left.push(bytes)
  }

  /** `begun` and what follows it, in memory of their own: at least so many bytes, unless the source ends, and no more than `atMost`. */
  async gather(begun: Buffer, atLeast: number, atMost: number): Promise<Buffer> {
    const parts: Uint8Array[] = [begun]
    let length = begun.length
    while (length < atLeast) {
      const bytes = await this.next()
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
    if (!this.#asked) await this.#iterator.return?.()
    else {
      if ('destroy' in this.#source && typeof this.#source.destroy === 'function') this.#source.destroy()
      const told = Promise.resolve(this.#iterator.return?.())
      told.catch(() => {})
    }
  }
}

/** @throws TypeError for what are no bytes: text of a stream with an encoding, numbers of an array of bytes. */
export function bytesOf(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk
  throw new TypeError(`the source gives a ${typeof chunk}, not chunks of bytes (Buffer or Uint8Array)`)
}
