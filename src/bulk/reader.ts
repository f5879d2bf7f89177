/** A source of bytes, read chunk by chunk and as much at a time as is wanted. */

/** A Readable, a generator, an array of chunks: asked for the next one when there is room to work on it. */
export type Source = AsyncIterable<Uint8Array> | Iterable<Uint8Array>

export class Reader {
  readonly #iterator: AsyncIterator<Uint8Array> | Iterator<Uint8Array>
  /** To be read again, the next one last. */
  readonly #left: Uint8Array[] = []
  #ended = false

  constructor(source: Source) {
    this.#iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]()
  }

  /** The next bytes, never none; nothing at the end. */
  async next(): Promise<Uint8Array | undefined> {
    const left = this.#left.pop()
    if (left) return left
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
      parts.push(taken)
      length += taken.length
      this.unread(bytes.subarray(taken.length))
    }
    return Buffer.concat(parts, length)
  }

  /** The source is told that no more is wanted. */
  async close(): Promise<void> {
    if (this.#ended) return
    this.#ended = true
    await this.#iterator.return?.()
  }
}

/** @throws TypeError for what are no bytes: text of a stream with an encoding, numbers of an array of bytes. */
export function bytesOf(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk
  throw new TypeError(`the source gives a ${typeof chunk}, not chunks of bytes (Buffer or Uint8Array)`)
}
