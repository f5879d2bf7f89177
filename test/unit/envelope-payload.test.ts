/** The hash of a body that passes by: the same in whatever pieces it comes, however long it is, and what it was made of is wiped. */

import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, expect, test } from 'vitest'
import { openBulkPool, PoolFailure, slabBytes, type BulkPool, type Slab } from '../../src/bulk/bulk-pool.ts'
import { PayloadHash } from '../../src/http/envelope-payload.ts'

const pool = openBulkPool({ threads: 1 })
afterAll(() => pool.close())

const digestOf = async (from: BulkPool, pieces: readonly Uint8Array[]): Promise<string> => {
  const hash = new PayloadHash(from)
  try {
    for (const piece of pieces) await hash.update(piece)
    return await hash.digest()
  } finally {
    await hash.close()
  }
}
const expected = (pieces: readonly Uint8Array[]): string => {
  const hash = createHash('sha256')
  for (const piece of pieces) hash.update(piece)
  return hash.digest('hex')
}

/** A pool whose slabs are seen. */
function watched(base: BulkPool) {
  const taken: Slab[] = []
  const given: Slab[] = []
  const seen: BulkPool = {
    ...base,
    takeSlab(bytes) {
      const slab = base.takeSlab(bytes)
      taken.push(slab)
      return slab
    },
    giveSlab(slab) {
      given.push(slab)
      base.giveSlab(slab)
    },
  }
  return { pool: seen, taken, given }
}

test('pieces of any lengths, around the edges of what is handed over at once', async () => {
  const edge = fc.integer({ min: -2, max: 2 }).map((by) => slabBytes + by)
  const length = fc.oneof(fc.integer({ min: 0, max: 70_000 }), edge, fc.constant(3 * slabBytes + 5))
  await fc.assert(
    fc.asyncProperty(fc.array(length, { maxLength: 6 }), async (lengths) => {
      const pieces = lengths.map((bytes, at) => Buffer.alloc(bytes, at + 1))
      expect(await digestOf(pool, pieces)).toBe(expected(pieces))
    }),
    { numRuns: 25 },
  )
})

test('a short body wakes no thread', async () => {
  const never: BulkPool = { ...pool, hasher: () => Promise.reject(new Error('a thread was asked for')) }
  expect(await digestOf(never, [Buffer.from('a'), Buffer.alloc(slabBytes - 1)])).toBe(
    expected([Buffer.from('a'), Buffer.alloc(slabBytes - 1)]),
  )
})

test('what was hashed is wiped and its memory used again, wherever it stopped', async () => {
  for (const { bytes, isDigested } of [
    { bytes: 10, isDigested: false },
    { bytes: 3 * slabBytes, isDigested: false },
    { bytes: 3 * slabBytes + 7, isDigested: true },
  ]) {
    const { pool: seen, taken, given } = watched(pool)
    const hash = new PayloadHash(seen)
    await hash.update(Buffer.alloc(bytes, 7))
    if (isDigested) await hash.digest()
    await hash.close()
    expect(new Set(given)).toEqual(new Set(taken))
    expect(taken.length).toBe(bytes > slabBytes ? 2 : 1)
    for (const { memory } of taken) expect(memory.includes(7)).toBe(false)
  }
})

test('when its thread is lost, whoever waits hears of it, and its memory is wiped and given to nobody', async () => {
  const own = openBulkPool({ threads: 1 })
  const { pool: seen, taken, given } = watched(own)
  const hash = new PayloadHash(seen)
  await hash.update(Buffer.alloc(slabBytes + 1, 7))
  await own.close()
  const ended = async (): Promise<void> => {
    await hash.update(Buffer.alloc(2 * slabBytes, 7))
    await hash.digest()
  }
  await expect(ended()).rejects.toThrow(PoolFailure)
  await hash.close()
  expect(given).toEqual([])
  for (const { memory } of taken) expect(memory.includes(7)).toBe(false)
})
