import { once } from 'node:events'
import { pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'
import { expect, test } from 'vitest'
import { noTurns, openTurns, takeTurns } from '../../src/hsm/turns.ts'
import { builtProgram } from '../programs.ts'

const counters = { creating: 0, searching: 1, met: 2, done: 3 }

/** Takes turns of one kind again and again, and looks who else is inside. */
const source = `
  import { workerData } from 'node:worker_threads'
  const { takeTurns } = await import(workerData.program)
  const seen = new Int32Array(workerData.seen)
  const [mine, theirs] = workerData.turn === 'create' ? [0, 1] : [1, 0]
  const take = takeTurns(workerData.turns)
  for (let n = 0; n < workerData.times; n++) {
    take(workerData.turn, () => {
      Atomics.add(seen, mine, 1)
      for (let spin = 0; spin < 200; spin++) if (Atomics.load(seen, theirs) > 0) Atomics.add(seen, 2, 1)
      Atomics.sub(seen, mine, 1)
    })
  }
  Atomics.add(seen, 3, 1)`

test('threads that search and threads that make objects are never inside together, and all of them come to their end', async () => {
  const turns = openTurns()
  const shared = new SharedArrayBuffer(4 * 4)
  const workers = (['create', 'create', 'search', 'search'] as const).map(
    (turn) =>
      new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`), {
        workerData: { turn, turns, seen: shared, times: 3000, program: pathToFileURL(builtProgram('src/hsm/turns.ts')).href },
        execArgv: [],
      }),
  )
  await Promise.all(workers.map((worker) => once(worker, 'exit')))
  const seen = new Int32Array(shared)
  expect(seen[counters.done]).toBe(4)
  expect(seen[counters.met]).toBe(0)
  expect([seen[counters.creating], seen[counters.searching]]).toEqual([0, 0])
})

test('a turn ends when what was done in it failed', () => {
  const take = takeTurns(openTurns())
  expect(() =>
    take('create', () => {
      throw new Error('the device')
    }),
  ).toThrow('the device')
  expect(take('search', () => 'found')).toBe('found')
  expect(take('create', () => 'made')).toBe('made')
  expect(noTurns('create', () => noTurns('search', () => 'both'))).toBe('both')
})
