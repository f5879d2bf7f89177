/** Turns: who is let in, who waits, who is refused. */

import fc from 'fast-check'
import { expect, onTestFinished, test, vi } from 'vitest'
import { FairGate } from '../../src/http/fair-gate.ts'

const patient = { maxWaiting: 1000, maxWaitMs: 60_000 }

test('whoever comes, no more than the limit are at work, all are let in, and lanes take turns', async () => {
  const lane = fc.constantFrom('a', 'b', 'c')
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 4 }), fc.array(fc.option(lane), { maxLength: 60 }), async (maxRunning, steps) => {
      const gate = new FairGate({ maxRunning, ...patient })
      let admitted = 0
      let left = 0
      const waiting: Promise<undefined>[] = []
      const order: string[] = []
      for (const step of steps) {
        if (step === null) {
          if (admitted > left) {
            left += 1
            gate.leave()
          }
        } else {
          const entered = gate.enter(step)
          if (entered === true) admitted += 1
          else {
            waiting.push(
              entered.then((isIn) => {
                admitted += 1
                order.push(isIn ? step : 'refused')
                return undefined
              }),
            )
          }
        }
        await Promise.resolve()
        expect(gate.running).toBeLessThanOrEqual(maxRunning)
        expect(admitted - left).toBeLessThanOrEqual(maxRunning)
      }
      // Nobody comes any more: everybody gets a turn.
      const counted = order.length
      while (admitted > left) {
        left += 1
        gate.leave()
        await Promise.resolve()
      }
      await Promise.all(waiting)
      expect([gate.running, gate.waiting]).toEqual([0, 0])
      expect(order).not.toContain('refused')
      // While several lanes wait, none is served twice before the others were served once.
      const rest = order.slice(counted)
      const outOfTurn = rest.filter((each, at) => each === rest[at + 1] && rest.slice(at + 2).some((later) => later !== each))
      expect(outOfTurn).toEqual([])
    }),
  )
})

test('a lane has so many who wait and no more, whatever the others have', async () => {
  const gate = new FairGate({ maxRunning: 1, maxWaiting: 2, maxWaitMs: 60_000 })
  expect(gate.enter('a')).toBe(true)
  const [first, second, third] = [gate.enter('a'), gate.enter('a'), gate.enter('a')]
  expect(gate.isFull('a')).toBe(true)
  expect(gate.isFull('b')).toBe(false)
  expect(await third).toBe(false)
  for (const each of [first, second]) {
    gate.leave()
    expect(await each).toBe(true)
  }
  gate.leave()
  expect(gate.enter('b')).toBe(true)
})

test('who has waited long enough is refused, oldest first, and takes no turn afterwards', async () => {
  const gate = new FairGate({ maxRunning: 1, maxWaiting: 10, maxWaitMs: 20 })
  expect(gate.enter('a')).toBe(true)
  expect(await Promise.all([gate.enter('a'), gate.enter('a'), gate.enter('b')])).toEqual([false, false, false])
  expect(gate.waiting).toBe(0)
  gate.leave()
  expect(gate.running).toBe(0)
  expect(gate.enter('a')).toBe(true)
})

test('who would wait too long by the pace at which calls end is refused at once', async () => {
  const gate = new FairGate({ maxRunning: 1, maxWaiting: 1000, maxWaitMs: 500 })
  expect(gate.enter('a')).toBe(true)
  // Calls that take 100 ms each: the pace is learnt while others wait.
  for (let call = 0; call < 6; call++) {
    const waiting = gate.enter('a')
    await new Promise((resolve) => setTimeout(resolve, 100))
    gate.leave()
    expect(await waiting).toBe(true)
  }
  const outcomes = Array.from({ length: 200 }, () => gate.enter('a'))
  expect(gate.isFull('a')).toBe(true)
  expect(await outcomes.at(-1)).toBe(false)
  while (gate.running > 0) {
    gate.leave()
    await Promise.resolve()
  }
  expect(await Promise.all(outcomes.map((each) => Promise.resolve(each)))).toContain(false)
})

test('a pace that once was slow is forgotten when calls end and nobody waits', () => {
  vi.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout'] })
  onTestFinished(() => void vi.useRealTimers())
  const gate = new FairGate({ maxRunning: 1, maxWaiting: 1000, maxWaitMs: 50 })
  expect(gate.enter('a')).toBe(true)
  // Somebody comes to wait just before a slow call ends.
  for (let call = 0; call < 40 && !gate.isFull('a'); call++) {
    vi.advanceTimersByTime(100)
    void gate.enter('a')
    gate.leave()
  }
  expect(gate.isFull('a')).toBe(true)
  gate.leave()
  for (let call = 0; call < 40; call++) {
    expect(gate.enter('a')).toBe(true)
    gate.leave()
  }
  expect(gate.enter('a')).toBe(true)
  expect(gate.isFull('a')).toBe(false)
})
