/**
 * Every step at which making, rotating and destroying keys, changing aliases and the first start can stop: at each the call fails, or fails
 * although it happened, or the process is killed. Afterwards nothing is lost, nothing is orphaned, and every call that was answered is
 * effective and in the trail. On a real SoftHSM2 token and a real SQLite file.
 */

import { spawn } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { describe, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import type { Line, Task } from './crash-child.ts'
import { destroyAllKeys, inspect, Journal, openRooms, scenarios, Tripwire, type Mishap } from './crash-rooms.ts'
import { builtProgram } from '../programs.ts'
import { cleanEnvironment } from './environment.ts'
import { makeSoftHsmToken } from './lab.ts'
import { useLab } from './rooms-kit.ts'

const startMs = Date.UTC(2026, 0, 1)

const here = useLab()
let runs = 0

/** An empty store on a token without keys of ours, so that every scenario starts from nothing. */
async function startFromNothing(): Promise<string> {
  await destroyAllKeys(here.token)
  return join(here.lab.dir, `run-${++runs}`)
}

/** The outcome of what may fail: the journal knows which calls were answered. */
const failureOf = (attempt: Promise<unknown>): Promise<Error | undefined> =>
  attempt.then(
    () => undefined,
    (error: unknown) => error as Error,
  )

describe.each(Object.entries(scenarios))('%s', (_name, scenario) => {
  test.each(['before', 'after'] as const)('holds when any one step fails %s it happened', { timeout: 300_000 }, async (mishap) => {
    const dir = await startFromNothing()
    const journal = new Journal()
    const wire = new Tripwire()
    const options = { dir, token: here.token, clock: new ManualClock(startMs), wire, ...(scenario.budget && { budget: scenario.budget }) }
    let rooms = await openRooms(options)

    const planned = await scenario.prepare(rooms, journal)
    wire.arm()
    await scenario.attempt(rooms, journal, planned)
    const { steps } = wire.disarm()
    expect(steps.length).toBeGreaterThan(1)

    for (const step of steps) {
      const prepared = await scenario.prepare(rooms, journal)
      wire.arm(step, mishap)
      await failureOf(scenario.attempt(rooms, journal, prepared))
      expect(wire.disarm().fired, step).toBe(true)
      // The same process tidies up after itself …
      await rooms.service.budget.close()
      await rooms.service.runLifecycle()
      expect(await inspect(rooms, journal), step).toEqual([])
    }
    // … and the next one finds nothing left to do.
    await rooms.close()
    rooms = await openRooms(options)
    expect(await inspect(rooms, journal)).toEqual([])
    await rooms.close()
  })
})

test.each(['before', 'after'] as const)(
  'the first start holds when any one step fails %s it happened',
  { timeout: 300_000 },
  async (mishap) => {
    const wire = new Tripwire()
    const tryOnce = async (step: string | undefined): Promise<readonly string[]> => {
      const dir = await startFromNothing()
      const clock = new ManualClock(startMs)
      const files: string[] = []
      const published = async ({ accessKeyId }: { readonly accessKeyId: string }): Promise<void> => void files.push(accessKeyId)
      wire.arm(step, mishap)
      const opening = openRooms({ dir, token: here.token, clock, wire, published })
      expect((await failureOf(opening)) === undefined, step).toBe(step === undefined)
      const { steps, fired } = wire.disarm()
      expect(fired, step).toBe(step !== undefined)
      if (step === undefined) await (await opening).close()
      const rooms = await openRooms({ dir, token: here.token, clock, published })
      expect(await inspect(rooms, new Journal()), step).toEqual([])
      // The credentials file ends with the key that the store has.
      expect(rooms.store.view.accessKeysOf('arn:aws:iam::111122223333:root').map(({ accessKeyId }) => accessKeyId)).toEqual(files.slice(-1))
      await rooms.close()
      rmSync(dir, { recursive: true, maxRetries: 5 })
      return steps
    }
    const steps = await tryOnce(undefined)
    expect(steps.length).toBeGreaterThan(5)
    for (const step of steps) await tryOnce(step)
  },
)

// ---- killed ----

const program = builtProgram('test/token/crash-child.ts')

interface Ended {
  readonly lines: readonly Line[]
  readonly signal: NodeJS.Signals | null
  readonly code: number | null
  readonly errors: string
}

async function runChild(task: Task): Promise<Ended> {
  const file = join(task.lab.dir, 'task.json')
  writeFileSync(file, JSON.stringify(task))
  const child = spawn(process.execPath, [program, file], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: cleanEnvironment(),
  })
  const lines: Line[] = []
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text))
  const reader = createInterface({ input: child.stdout }).on('line', (line) => lines.push(JSON.parse(line) as Line))
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) =>
    child.once('close', (...ended) => resolve(ended)),
  )
  reader.close()
  return { lines, code, signal, errors }
}

/** Kills at one step after the other; each process inspects what the one before it left. Answers the steps. */
async function killEverywhere(scenario: string, mishap: Mishap): Promise<readonly string[]> {
  const own = await makeSoftHsmToken()
  try {
    const { library, label, pinFile, env, dir } = own
    const journal = new Journal()
    let nowMs = startMs
    /** @returns the steps it took, if it came to its end */
    const run = async (step: string | undefined, last: boolean): Promise<readonly string[] | undefined> => {
      const task: Task = {
        lab: { library, label, pinFile, env, dir },
        scenario,
        mishap,
        nowMs,
        entries: journal.entries,
        last,
        ...(step !== undefined && { step }),
      }
      const ended = await runChild(task)
      let steps: readonly string[] | undefined
      for (const line of ended.lines) {
        if ('entry' in line) journal.note(line.entry)
        if ('nowMs' in line) nowMs = line.nowMs
        if ('problems' in line && line.problems.length > 0) throw new Error(`found at ${step ?? 'the end'}: ${line.problems.join('; ')}`)
        if ('steps' in line) steps = line.steps
      }
      const expected = step === undefined ? { code: 0, signal: null } : { code: null, signal: 'SIGKILL' }
      expect({ code: ended.code, signal: ended.signal, errors: ended.errors }, step).toEqual({ ...expected, errors: '' })
      return steps
    }
    const steps = (await run(undefined, false)) ?? []
    for (const step of steps) await run(step, false)
    await run(undefined, true)
    return steps
  } finally {
    await own.remove()
  }
}

test.concurrent.each([...Object.keys(scenarios), 'first start'])(
  '%s holds when the process is killed before any one step',
  { timeout: 900_000 },
  async (scenario) => {
    expect((await killEverywhere(scenario, 'kill')).length).toBeGreaterThan(1)
  },
)

test.concurrent.each(['CreateKey', 'destruction'])(
  '%s holds when the process is killed in the middle of any one step',
  { timeout: 900_000 },
  async (scenario) => {
    expect((await killEverywhere(scenario, 'kill-during')).length).toBeGreaterThan(1)
  },
)
