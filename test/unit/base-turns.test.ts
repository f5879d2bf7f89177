/** How much is begun in one turn of the event loop. */

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Turns } from '../../src/base/turns.ts'

/** Does `pieces` of work for each number, those of one number in one turn; answers the turn of each, in the order in which they were begun. */
async function turnsOf(turns: Turns, pieces: readonly number[]): Promise<readonly { readonly piece: number; readonly turn: number }[]> {
  let turn = 0
  let isCounting = true
  const count = (): void => {
    turn++
    if (isCounting) setImmediate(count)
  }
  setImmediate(count)
  const begun: { readonly piece: number; readonly turn: number }[] = []
  const all: Promise<void>[] = []
  let piece = 0
  for (const many of pieces) {
    for (let n = 0; n < many; n++) {
      const mine = piece++
      const begin = (): void => void begun.push({ piece: mine, turn })
      const waiting = turns.take()
      if (waiting) all.push(waiting.then(begin))
      else begin()
    }
    await new Promise((resolve) => setImmediate(resolve))
  }
  await Promise.all(all)
  isCounting = false
  return begun
}

test('whatever comes when, no turn begins more than so much, all is begun, and in the order in which it came', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 5 }),
      fc.array(fc.integer({ min: 0, max: 12 }), { maxLength: 12 }),
      async (perTurn, pieces) => {
        const begun = await turnsOf(new Turns(perTurn), pieces)
        expect(begun.map(({ piece }) => piece)).toEqual(Array.from({ length: pieces.reduce((sum, many) => sum + many, 0) }, (_, n) => n))
        const perTurnOf = new Map<number, number>()
        for (const { turn } of begun) perTurnOf.set(turn, (perTurnOf.get(turn) ?? 0) + 1)
        // What a turn's immediates begin and what comes after them, before the next, is of two turns; the test's own count lies between them.
        for (const many of perTurnOf.values()) expect(many).toBeLessThanOrEqual(2 * perTurn)
      },
    ),
    { numRuns: 40 },
  )
})

test('work that comes together is spread: a timer that is due runs before the last of it', async () => {
  const turns = new Turns(2)
  const order: string[] = []
  setTimeout(() => order.push('timer'), 0)
  const since = performance.now()
  while (performance.now() - since < 3);
  await Promise.all(
    Array.from({ length: 40 }, async (_, n) => {
      const waiting = turns.take()
      if (waiting) await waiting
      order.push(String(n))
    }),
  )
  expect(order.indexOf('timer')).toBeGreaterThan(0)
  expect(order.indexOf('timer')).toBeLessThan(39)
  expect(order.filter((name) => name !== 'timer')).toEqual(Array.from({ length: 40 }, (_, n) => String(n)))
})

test('as long as less comes than a turn takes, nothing waits', () => {
  const turns = new Turns(3)
  expect([turns.take(), turns.take(), turns.take()]).toEqual([undefined, undefined, undefined])
  expect(turns.take()).toBeInstanceOf(Promise)
})
