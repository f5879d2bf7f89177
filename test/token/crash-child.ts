/**
 * A process that is to be killed. It opens the rooms on what the one before left, says whether everything is in order, tries a scenario, and
 * dies at the step it was told. What must survive its death is written to standard output, a line each, before it goes on.
 */

import { existsSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ManualClock } from '../../src/base/clock.ts'
import {
  destroyAllKeys,
  inspect,
  openLabToken,
  openRooms,
  replicationScenarios,
  scenarios,
  Journal,
  Tripwire,
  type Entry,
  type Mishap,
} from './crash-rooms.ts'
import type { LabToken } from './lab.ts'

export interface Task {
  readonly lab: Pick<LabToken, 'library' | 'label' | 'pinFile' | 'env' | 'dir'>
  /** The token of the other region, where it has its own. */
  readonly otherLab?: Task['lab']
  readonly scenario: string
  readonly mishap: Mishap
  /** Where it dies; absent to record the steps. */
  readonly step?: string
  readonly nowMs: number
  /** All calls so far. */
  readonly entries: readonly Entry[]
  /** Nothing is tried, only inspected. */
  readonly last: boolean
}

export type Line =
  | { readonly problems: readonly string[]; readonly nowMs: number }
  | { readonly entry: Entry }
  /** The clock when the step under test begins. */
  | { readonly nowMs: number }
  /** The scenario came to its end, by these steps. */
  | { readonly steps: readonly string[] }

function tell(line: Line): void {
  // Synchronous: what was told is told, whatever happens next.
  writeSync(1, `${JSON.stringify(line)}\n`)
}

const task = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')) as Task
const { lab, scenario: name, step, mishap } = task
const open = (one: Task['lab']) => openLabToken({ ...one, soPinFile: '', remove: async () => undefined })
const token = await open(lab)
const otherToken = task.otherLab && (await open(task.otherLab))
const clock = new ManualClock(task.nowMs)
const wire = new Tripwire()
const credentials = join(lab.dir, 'credentials.json')
const published = (credential: object): Promise<void> => writeFile(credentials, JSON.stringify(credential))

if (name === 'first start') {
  // What the last start left, finished by this one …
  const rooms = await openRooms({ dir: lab.dir, token, clock, published })
  const problems = [...(await inspect(rooms, new Journal()))]
  const known = rooms.store.view.accessKeysOf('arn:aws:iam::111122223333:root')[0]?.accessKeyId
  const { accessKeyId } = (existsSync(credentials) ? JSON.parse(readFileSync(credentials, 'utf8')) : {}) as {
    readonly accessKeyId?: string
  }
  if (known === undefined || known !== accessKeyId)
    problems.push(`the credentials file has ${String(accessKeyId)}, the store ${String(known)}`)
  tell({ problems, nowMs: clock.now() })
  await rooms.close()
  if (!task.last) {
    // … and then everything anew.
    await destroyAllKeys(token)
    for (const file of ['holdfast.db', 'audit.db'])
      for (const suffix of ['', '-wal', '-shm']) rmSync(join(lab.dir, file + suffix), { force: true })
    rmSync(credentials, { force: true })
    wire.arm(step, mishap)
    const again = await openRooms({ dir: lab.dir, token, clock, wire, published })
    tell({ steps: wire.disarm().steps })
    await again.close()
  }
} else {
  const scenario = scenarios[name] ?? replicationScenarios[name]
  if (!scenario) throw new Error(`no scenario is called ${name}`)
  const journal = new Journal((entry) => tell({ entry }))
  journal.entries.push(...task.entries)
  const budget = scenario.budget && { budget: scenario.budget }
  const rooms = await openRooms({ dir: lab.dir, token, clock, wire, ...(otherToken && { otherToken }), ...budget })
  tell({ problems: await inspect(rooms, journal), nowMs: clock.now() })
  if (!task.last) {
    const prepared = await scenario.prepare(rooms, journal)
    tell({ nowMs: clock.now() })
    wire.arm(step, mishap)
    await scenario.attempt(rooms, journal, prepared)
    tell({ steps: wire.disarm().steps })
  }
  await rooms.close()
}
await otherToken?.close()
await token.close()
