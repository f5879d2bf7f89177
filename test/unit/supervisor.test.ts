/** What the supervisor of several processes does when things happen at once; the processes are real, and do nothing. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, onTestFinished, test } from 'vitest'
import { builtProgram } from '../programs.ts'
import type { Order } from './supervised.ts'

interface Line {
  readonly msg: string
  readonly pid?: number
  readonly err?: { readonly message: string }
}

interface Supervised {
  order(order: Order): void
  /** The lines of the log that say so. */
  said(message: string): readonly Line[]
  /** Resolves when it has been said so often. */
  until(message: string, times: number): Promise<void>
  /** Those that have served, in the order in which they began. */
  pids(): readonly number[]
  /** Resolves when it and all its processes have ended. */
  readonly ended: Promise<readonly unknown[]>
}

async function startSupervised(): Promise<Supervised> {
  const child = spawn(process.execPath, [builtProgram('test/unit/supervised.ts')], { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] })
  const ended = once(child, 'close')
  // Its processes end with it.
  onTestFinished(async () => {
    child.kill('SIGKILL')
    await ended
  })
  let text = ''
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
  const said = (message: string): readonly Line[] =>
    text
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as Line)
      .filter(({ msg }) => msg === message)
  const until = (message: string, times: number): Promise<void> =>
    expect.poll(() => said(message).length, { timeout: 30_000, message }).toBeGreaterThanOrEqual(times)
  await until('a process serves', 2)
  return { order: (order) => child.send(order), said, until, pids: () => said('a process serves').map(({ pid }) => pid ?? 0), ended }
}

const endAll = (pids: readonly number[]): void => pids.forEach((pid) => process.kill(pid, 'SIGTERM'))

test('told to end while it replaces the processes, it starts no other one, and ends with those that there are', async () => {
  const { order, said, until, pids, ended } = await startSupervised()
  order({ type: 'restart' })
  // The first of the old ones ends when it may, below.
  await until('a process serves', 3)
  order({ type: 'close' })
  await until('told to close', 1)
  endAll(pids())
  expect(await ended).toEqual([0, null])
  expect(said('a process serves')).toHaveLength(3)
})
