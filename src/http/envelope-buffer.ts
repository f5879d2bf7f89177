/**
 * What callers have asked to be held until a signature is verified: plaintext of whole messages, in memory, which has a bound for each message and one for
 * all of them together.
 */

import { copyInto } from '../bulk/frames.ts'
import { kmsError } from '../kms/errors.ts'

export interface BufferLimits {
  /** Of one message. */
  readonly bufferBytes: number
  /** Of all of them. */
  readonly totalBufferBytes: number
}

export class Buffers {
  readonly #limits: BufferLimits
  #bytes = 0

  constructor(limits: BufferLimits) {
    this.#limits = limits
  }

  /** That are held. */
  get bytes(): number {
    return this.#bytes
  }

  /**
   * The same pieces, the first one when the last one is there. They may be memory that is used again; what comes out is valid until the next is asked
   * for, and wiped then.
   * @throws KmsError RequestEntityTooLargeException, ThrottlingException, and what `pieces` throws
   */
  async *whole(pieces: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
    const held: Buffer[] = []
    let bytes = 0
    try {
      for await (const piece of pieces) {
        this.#admit(bytes, piece.length)
        bytes += piece.length
        this.#bytes += piece.length
        const own = Buffer.allocUnsafeSlow(piece.length)
        copyInto(own, 0, piece)
        held.push(own)
      }
      for (const piece of held) {
        yield piece
        piece.fill(0)
      }
    } finally {
      for (const piece of held) piece.fill(0)
      this.#bytes -= bytes
    }
  }

  #admit(before: number, more: number): void {
    const { bufferBytes, totalBufferBytes } = this.#limits
    if (before + more > bufferBytes) {
      throw kmsError(
        'RequestEntityTooLargeException',
        `The message has more than the ${bufferBytes} bytes that x-holdfast-buffer may hold until its signature is verified ` +
          '(envelope.bufferBytes). Decrypt it without, and use nothing of an answer that does not end with its trailer.',
      )
    }
    if (this.#bytes + more > totalBufferBytes)
      throw kmsError('ThrottlingException', 'Other messages hold the memory that there is for x-holdfast-buffer. Try again.')
  }
}
