import { expect, test } from 'vitest'
import { discard } from '../../src/base/discard.ts'

test('a block that has memory of its own is freed', () => {
  for (let n = 0; n < 3; n++) {
    const block = Buffer.alloc(65_536, 1)
    const { buffer } = block
    discard(block)
    expect([block.length, buffer.byteLength]).toEqual([0, 0])
  }
})

test('what shares its memory, may be read by threads, or is short stays as it is', () => {
  const whole = Buffer.alloc(65_536, 1)
  const blocks = [whole.subarray(1), whole.subarray(0, 8192), Buffer.from(new SharedArrayBuffer(8192)).fill(1), Buffer.alloc(100, 1)]
  for (const block of blocks) discard(block)
  expect(blocks.map(({ length }) => length)).toEqual([65_535, 8192, 8192, 100])
  expect(blocks.every((block) => block.every((byte) => byte === 1))).toBe(true)
})

test('many gigabytes of blocks pass through a process that stays small', () => {
  const before = process.memoryUsage.rss()
  for (let n = 0; n < 4096; n++) discard(Buffer.allocUnsafeSlow(1_048_576).fill(1, 0, 4096))
  expect(process.memoryUsage.rss() - before).toBeLessThan(256 * 1_048_576)
})
