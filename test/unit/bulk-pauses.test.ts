/** What is not whole yet when a source pauses goes into the next run, whose memory is its own. */

import { afterAll, describe, expect, test } from 'vitest'
import { openBulkPool } from '../../src/bulk/bulk-pool.ts'
import { decryptStream, encryptStream, type MessageStream } from '../../src/bulk/stream.ts'
import { bytes, drain, keyring } from './bulk-kit.ts'

// One thread: runs wait for it while slabs are filled again.
const pool = openBulkPool({ threads: 1 })
afterAll(() => pool.close())

const inShared = (whole: Uint8Array): Uint8Array => {
  const view = new Uint8Array(new SharedArrayBuffer(whole.length))
  view.set(whole)
  return view
}
const piecesOf = (whole: Uint8Array, length: number): Uint8Array[] =>
  Array.from({ length: Math.ceil(whole.length / length) }, (_, n) => whole.subarray(n * length, (n + 1) * length))

const givers: readonly (readonly [string, (whole: Buffer) => readonly Uint8Array[]])[] = [
  ['memory', (whole) => [whole]],
  ['shared memory', (whole) => [inShared(whole)]],
  ['shared memory, in pieces that are copied', (whole) => piecesOf(inShared(whole), 4000)],
]

/** All that comes out, of a source that gives the second part when what is whole of the first has come out. */
async function passed(
  first: readonly Uint8Array[],
  second: readonly Uint8Array[],
  make: (source: AsyncIterable<Uint8Array>) => MessageStream,
) {
  let comeOut = (): void => {}
  const out = new Promise<void>((resolve) => (comeOut = resolve))
  const stream = make(
    (async function* () {
      yield* first
      await out
      yield* second
    })(),
  )
  const pieces: Buffer[] = []
  const header = await stream.header
  for await (const piece of stream) {
    pieces.push(Buffer.from(piece))
    // The head, and the frames that were whole: more will not come before the source goes on.
    if (Buffer.concat(pieces).length >= header.frameLength) comeOut()
  }
  return Buffer.concat(pieces)
}

describe.each(givers)('a source of %s that pauses within a frame', (_name, give) => {
  test.each([true, false])('becomes the message of what it gave, and back (borrow: %s)', async (borrow) => {
    for (let round = 0; round < 8; round++) {
      const [frame, rest] = [65_536, 40_000 + round]
      const plaintext = bytes(frame + rest + 3 * 2 ** 20)
      const parts = (whole: Buffer, at: number) => [give(whole.subarray(0, at)), give(whole.subarray(at))] as const
      const message = await passed(...parts(plaintext, frame + rest), (source) => encryptStream(source, { keyring, pool, borrow }))
      const read = await drain(decryptStream([message], { keyring, pool }))
      expect([read.error, read.out.equals(plaintext)]).toEqual([undefined, true])
      const at = message.length - plaintext.length + frame + rest
      const opened = await passed(...parts(message, at), (source) => decryptStream(source, { keyring, pool, borrow }))
      expect(opened.equals(plaintext)).toBe(true)
    }
  })
})
