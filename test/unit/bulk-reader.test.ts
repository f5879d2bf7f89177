import { afterAll, expect, test } from 'vitest'
import { openBulkPool } from '../../src/bulk/bulk-pool.ts'
import { decryptStream, encryptStream } from '../../src/bulk/stream.ts'
import { signedSuite, unsignedSuite } from '../../src/bulk/suites.ts'
import { bytes, drain, keyring } from './bulk-kit.ts'

const pool = openBulkPool({ threads: 1 })
afterAll(() => pool.close())

/** One piece of memory for all chunks, with something else in it as soon as the next one is asked for. */
async function* reused(whole: Uint8Array, length: number): AsyncGenerator<Uint8Array> {
  const memory = Buffer.alloc(length)
  for (let at = 0; at < whole.length; at += length) {
    const chunk = memory.subarray(0, Math.min(length, whole.length - at))
    chunk.set(whole.subarray(at, at + length))
    yield chunk
    memory.fill(0xa5)
  }
}

test.each([unsignedSuite, signedSuite].flatMap((suite) => [1, 37, 200, 65_536].map((length) => ({ suite, length }))))(
  "$suite.name: a chunk of $length bytes is the source's again when the next one is asked for",
  async ({ suite, length }) => {
    for (const [size, frameLength] of [
      [700, 96],
      [5000, 1024],
      [length < 100 ? 2000 : 1_300_000, 65_536],
    ] as const) {
      const plaintext = bytes(size)
      const options = { keyring, pool, suite, frameLength, context: { app: 'db' } }
      const { out: message } = await drain(encryptStream(reused(plaintext, length), options))
      const { out, error } = await drain(decryptStream(reused(message, length), { keyring, pool }))
      expect(error).toBeUndefined()
      expect(out.equals(plaintext)).toBe(true)
    }
  },
)
