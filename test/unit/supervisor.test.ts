/** What the supervisor of several processes does when things happen at once; the processes are real, and do nothing. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, onTestFailed, onTestFinished, test } from 'vitest'
import { builtProgram } from '../programs.ts'
import type { Order } from './supervised.ts'

interface Line {
  readonly msg: string
  readonly pid?: number
  readonly err?: { readonly message: string }
}

interface Supervised {
  readonly order: (order: Order) => void
  /** The lines of the log that say so. */
  readonly said: (message: string) => readonly Line[]
  /** Resolves when it has been said so often. */
  readonly until: (message: string, times: number) => Promise<void>
  /** Those that have served, in the order in which they began. */
  readonly pids: () => readonly number[]
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
    expect.poll(() => said(message).length, { timeout: 120_000, message }).toBeGreaterThanOrEqual(times)
  await until('a process serves', 2)
  onTestFailed(() => console.log(text))
  return { order: (order) => child.send(order), said, until, pids: () => said('a process serves').map(({ pid }) => pid ?? 0), ended }
}

const endAll = (pids: readonly number[]): void => pids.forEach((pid) => process.kill(pid, 'SIGTERM'))

test('told to end while it replaces the processes, it starts no other one', { timeout: 180_000 }, async () => {
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

test('one that is told to end before it can hear ends as soon as it can, and serves nobody', { timeout: 180_000 }, async () => {
  const { order, said, until, pids, ended } = await startSupervised()
  order({ type: 'obey' })
  order({ type: 'restart' })
  order({ type: 'close' })
  await until('told to close', 1)
  endAll(pids())
  expect(await ended).toEqual([0, null])
  expect(said('a process serves')).toHaveLength(2)
  expect(said('a process did not end in time and is killed')).toEqual([])
})

test('a process that the system refuses to start is tried again later, and the others serve meanwhile', { timeout: 180_000 }, async () => {
  const { order, said, until, pids, ended } = await startSupervised()
  const refused = 'a process could not be started'
  // The one is said by an event, the other thrown.
  order({ type: 'start with', execPath: '/nonexistent/node' })
  await until('told to start with', 1)
  process.kill(pids()[0] ?? 0, 'SIGKILL')
  await until(refused, 1)
  order({ type: 'start with', execPath: '' })
  await expect.poll(() => said(refused).some(({ err }) => err?.message.includes('ENOENT') === false), { timeout: 120_000 }).toBe(true)
  expect(said(refused)[0]?.err?.message).toContain('ENOENT')
  order({ type: 'start with', execPath: process.execPath })
  await until('a process serves', 3)
  order({ type: 'close' })
  endAll(pids().slice(1))
  expect(await ended).toEqual([0, null])
  expect(said('a process has ended by itself')).toHaveLength(1)
})

test('one that is still starting when all are replaced is replaced, too', { timeout: 180_000 }, async () => {
  const { order, said, until, pids, ended } = await startSupervised()
  const [killed = 0, old = 0] = pids()
  order({ type: 'hold' })
  await until('told to hold', 1)
  process.kill(killed, 'SIGKILL')
  await until('held', 1)
  const starting = said('held')[0]?.pid ?? 0
  order({ type: 'hold no more' })
  order({ type: 'restart' })
  await until('a process serves', 3)
  endAll([old, starting])
  const toldAndEnded = 'a process was told to end and has'
  await until('replacing the processes has ended', 1)
  expect(said(toldAndEnded).map(({ pid }) => pid)).toEqual([old, starting])
  order({ type: 'close' })
  await until('told to close', 1)
  endAll(pids().filter((pid) => ![killed, old, starting].includes(pid)))
  expect(await ended).toEqual([0, null])
})
