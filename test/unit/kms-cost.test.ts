/** What usage would cost: months by the hour, requests by the ten thousand. */

import { describe, expect, test } from 'vitest'
import { keyMonths, months, requestCost, standardPrices } from '../../src/kms/cost.ts'

const at = (text: string): number => Date.parse(text)

describe('months', () => {
  test.each([
    ['2026-01-01T00:00Z', '2026-02-01T00:00Z', 1],
    ['2026-01-01T00:00Z', '2027-01-01T00:00Z', 12],
    // A month has its own hours: half of February, half of March.
    ['2026-02-15T00:00Z', '2026-03-16T12:00Z', 0.5 + 372 / 744],
    // A begun hour is a whole one.
    ['2026-01-01T00:00:00Z', '2026-01-01T00:00:01Z', 1 / 744],
    ['2026-01-01T00:00Z', '2026-01-01T00:00Z', 0],
    ['2026-01-02T00:00Z', '2026-01-01T00:00Z', 0],
  ])('from %s to %s', (from, to, expected) => {
    expect(months(at(from), at(to))).toBeCloseTo(expected, 12)
  })
})

test('a key is paid from its making to its end, and once more for each of its first two rotations from then on', () => {
  const from = at('2026-01-01T00:00Z')
  const to = at('2026-07-01T00:00Z')
  const life = { beganAt: at('2025-06-01T00:00Z'), endedAt: Infinity, rotations: [at('2026-03-01T00:00Z'), at('2026-05-01T00:00Z')] }
  expect(keyMonths(life, from, to)).toBeCloseTo(6 + 4 + 2, 12)
  expect(keyMonths({ ...life, endedAt: at('2026-04-01T00:00Z') }, from, to)).toBeCloseTo(3 + 1, 12)
  expect(keyMonths({ ...life, endedAt: at('2025-12-01T00:00Z') }, from, to)).toBe(0)
  expect(keyMonths({ beganAt: at('2026-08-01T00:00Z'), endedAt: Infinity, rotations: [] }, from, to)).toBe(0)
})

test('requests have the price of their class, and of the standard one where it is not known any more', () => {
  expect(requestCost(standardPrices, 'standard', 1_000_000)).toBeCloseTo(3, 12)
  expect(requestCost(standardPrices, 'asymmetric', 10_000)).toBeCloseTo(0.15, 12)
  expect(requestCost(standardPrices, 'rsaKeyPair', 10)).toBeCloseTo(0.012, 12)
  expect(requestCost(standardPrices, 'toString', 10_000)).toBeCloseTo(0.03, 12)
  expect(requestCost(standardPrices, 'keyMonth', 10_000)).toBeCloseTo(0.03, 12)
})
