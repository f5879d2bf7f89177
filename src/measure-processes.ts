/** The processes that the bench starts: the measured service, alone or as several processes, and the raw token loop. */

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { loaderFlags, programOf } from './base/program.ts'
import type { Observed } from './bench/part.ts'
import { placesIn } from './config/places.ts'
import type { Config } from './config/settings.ts'
import type { RawLoopOrder, RawLoopResult } from './hsm/raw-loop.ts'
import type { ServiceAddress, ServiceOrder } from './measure-service.ts'

export interface StartedService extends ServiceAddress {
  observe(): Promise<Observed>
  cpuSeconds(): number | undefined
  close(): Promise<void>
}

/** Starts the service in its own process. */
export async function startService(order: ServiceOrder, env: Readonly<Record<string, string>>): Promise<StartedService> {
  const child = fork(programOf(new URL('measure-service.ts', import.meta.url)), [], {
    execArgv: [...process.execArgv, ...loaderFlags],
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env,
  })
  const ended = once(child, 'exit')
  const answer = async <T>(message: object): Promise<T> => {
    const given = new Promise<T>((resolve, reject) => {
      const onEnd = (code: number | null, signal: string | null): void =>
        reject(new Error(`the service ended with ${signal ?? `code ${code}`}`))
      child.once('exit', onEnd)
      child.once('message', (value) => {
        child.off('exit', onEnd)
        resolve(value as T)
      })
    })
    child.send(message)
    return given
  }
  const address = await answer<ServiceAddress>(order)
  return {
    ...address,
    observe: () => answer<Observed>({}),
    cpuSeconds: () => cpuSecondsOf(child.pid ?? 0),
    async close() {
      if (child.connected) child.disconnect()
      await ended
    },
  }
}

/** Starts the service as `holdfast serve` does, in several processes on one listener. It notes nothing for the bench. */
export async function startProgram(config: Config, processes: number, env: Readonly<Record<string, string>>): Promise<StartedService> {
  const [, program] = process.argv
  if (program === undefined) throw new Error('this process does not know its program')
  const file = join(config.dataDir, 'config.json')
  // An empty table is a default, which a file does not spell out.
  const isEmpty = (value: unknown): boolean => typeof value === 'object' && value !== null && Object.keys(value).length === 0
  writeFileSync(
    file,
    JSON.stringify({ ...config, processes }, (_name, value: unknown) => (isEmpty(value) ? undefined : value)),
  )
  const kept = Object.entries(env).filter(([name]) => !name.startsWith('HOLDFAST_'))
  const child = fork(program, ['serve'], {
    env: { ...Object.fromEntries(kept), HOLDFAST_CONFIG: file },
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  })
  const ended = once(child, 'exit')
  let running = true
  void ended.then(() => (running = false))
  const { endpoint } = placesIn(config.dataDir)
  const until = performance.now() + startWithinMs
  while (!existsSync(endpoint)) {
    if (!running || performance.now() > until) {
      child.kill('SIGKILL')
      await ended
      throw new Error(`the service in ${processes} processes did not start`)
    }
    await sleep(50)
  }
  const address = JSON.parse(await readFile(endpoint, 'utf8')) as ServiceAddress
  return {
    ...address,
    observe: () => Promise.reject(new Error('a service of several processes notes nothing for the bench')),
    cpuSeconds: () => cpuSecondsOf(child.pid ?? 0),
    async close() {
      child.kill('SIGTERM')
      await ended
    },
  }
}

const startWithinMs = 60_000

/** Of a process and all that it started, from /proc; undefined where there is none. Of 1/100 s, as Linux counts for programs. */
function cpuSecondsOf(root: number): number | undefined {
  if (!existsSync('/proc/self/stat')) return undefined
  const parents = new Map<number, { readonly parent: number; readonly ticks: number }>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      const text = readFileSync(`/proc/${name}/stat`, 'utf8')
      // After the name, which may hold anything, in brackets: state, parent, …; 12th and 13th are user and system time.
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
      parents.set(Number(name), { parent: Number(fields[1]), ticks: Number(fields[11]) + Number(fields[12]) })
    } catch {
      // It has ended meanwhile.
    }
  }
  const isOurs = (pid: number): boolean => pid === root || (pid > 1 && isOurs(parents.get(pid)?.parent ?? 0))
  let ticks = 0
  for (const [pid, { ticks: used }] of parents) if (isOurs(pid)) ticks += used
  return ticks / 100
}

/** Runs the raw token loop in its own process; undefined where the token cannot do it. */
export function rawLoop(order: RawLoopOrder, env: Readonly<Record<string, string>> | undefined): Promise<RawLoopResult | undefined> {
  return new Promise((resolve, reject) => {
    const child = fork(programOf(new URL('hsm/raw-loop.ts', import.meta.url)), [], {
      execArgv: [...loaderFlags],
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      ...(env && { env }),
    })
    let result: RawLoopResult | undefined
    child.once('message', (told) => (result = told as RawLoopResult))
    child.once('error', reject)
    child.once('close', () => resolve(result))
    child.send(order)
  })
}
