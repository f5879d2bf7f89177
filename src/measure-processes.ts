/** The processes that the bench starts: the measured service, alone or as several processes, and the raw token loop. */

import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { loaderFlags, programOf } from './base/program.ts'
import type { Observed } from './bench/part.ts'
import { placesIn } from './config/places.ts'
import type { Config } from './config/settings.ts'
import type { RawLoopAnswer, RawLoopOrder, RawLoopResult } from './hsm/raw-loop.ts'
import type { Noted, Refusal, ServiceAddress, ServiceOrder } from './measure-service.ts'

type Environment = Readonly<Record<string, string>>

export interface StartedService extends ServiceAddress {
  observe(): Promise<Observed>
  cpuSeconds(): number | undefined
  /** What the token said when it refused the PIN after the start; undefined when it did not, or nobody knows. */
  refusedPin(): Promise<string | undefined>
  close(): Promise<void>
}

/** @param stop ends it, started or not; what waits for it then fails */
export async function startService(order: ServiceOrder, env: Environment, stop: AbortSignal): Promise<StartedService> {
  const child = fork(programOf(new URL('measure-service.ts', import.meta.url)), [], {
    execArgv: [...process.execArgv, ...loaderFlags],
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env,
  })
  const close = endedWith(child, stop)
  const answer = async <T>(message: object): Promise<T> => {
    const given = new Promise<T>((resolve, reject) => {
      const onEnd = (code: number | null, signal: string | null): void =>
        reject(new Error(`the service ended with ${signal ?? `code ${code}`}`))
      child.once('exit', onEnd)
      child.once('message', (value) => {
        child.off('exit', onEnd)
        resolve(value as T)
      })
      child.send(message, (error) => error && reject(error))
    })
    return given
  }
  const started = await answer<ServiceAddress | Refusal>(order)
  if ('refusal' in started) {
    await close()
    throw failureOf(started)
  }
  const observe = (): Promise<Noted> => answer<Noted>({})
  return {
    ...started,
    observe,
    cpuSeconds: () => cpuSecondsOf(child.pid ?? 0),
    refusedPin: async () => (child.connected ? (await observe().catch(() => undefined))?.refusedPin : undefined),
    close,
  }
}

/**
 * Starts the service as `holdfast serve` does, in several processes on one listener. It notes nothing for the bench.
 *
 * @param stop as for `startService`
 */
export async function startProgram(config: Config, processes: number, env: Environment, stop: AbortSignal): Promise<StartedService> {
  const file = join(config.dataDir, 'config.json')
  // An empty table is a default, which a file does not spell out.
  const isEmpty = (value: unknown): boolean => typeof value === 'object' && value !== null && Object.keys(value).length === 0
  writeFileSync(
    file,
    JSON.stringify({ ...config, processes }, (_name, value: unknown) => (isEmpty(value) ? undefined : value)),
  )
  const kept = Object.entries(env).filter(([name]) => !name.startsWith('HOLDFAST_'))
  const child = fork(programOf(new URL('measure-program.ts', import.meta.url)), [], {
    execArgv: [...process.execArgv, ...loaderFlags],
    env: { ...Object.fromEntries(kept), HOLDFAST_CONFIG: file },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  })
  const lastWords = lastWordsOf(child)
  const close = endedWith(child, stop)
  const { endpoint } = placesIn(config.dataDir)
  const until = performance.now() + startWithinMs
  while (!existsSync(endpoint)) {
    const isRunning = child.exitCode === null && child.signalCode === null
    if (!isRunning || performance.now() > until) {
      child.kill('SIGKILL')
      await close()
      throw failureOf({ refusal: `the service in ${processes} processes did not start: ${lastWords()}` })
    }
    await sleep(50)
  }
  const address = JSON.parse(await readFile(endpoint, 'utf8')) as ServiceAddress
  return {
    ...address,
    observe: () => Promise.reject(new Error('a service of several processes notes nothing for the bench')),
    cpuSeconds: () => cpuSecondsOf(child.pid ?? 0),
    refusedPin: () => Promise.resolve(undefined),
    close,
  }
}

/** Such a child ends with its parent. Answers what ends it now and waits for it. */
function endedWith(child: ChildProcess, stop: AbortSignal): () => Promise<void> {
  // A child that was disconnected from here has no `close` on Node 20.
  const ended = Promise.all([once(child, 'exit'), child.stderr && once(child.stderr, 'close')])
  const disconnect = (): void => {
    if (child.connected) child.disconnect()
  }
  stop.addEventListener('abort', disconnect)
  if (stop.aborted) disconnect()
  return async () => {
    disconnect()
    await ended
    stop.removeEventListener('abort', disconnect)
  }
}

/** Of its standard error, which has to be read. */
function lastWordsOf(child: ChildProcess): () => string {
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(-4000)))
  return () => said.trim().split('\n').slice(-2).join(' ') || 'it did not say why'
}

/** The token refused the PIN, and each further try may lock it. */
export class PinRefusal extends Error {}

/** Of a process that only has words it is told by them. */
function failureOf({ refusal, isPin = /\bPIN\b|_PIN_/.test(refusal) }: Partial<Refusal> & Pick<Refusal, 'refusal'>): Error {
  return isPin ? new PinRefusal(refusal) : new Error(refusal)
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

/**
 * Runs the raw token loop in its own process; undefined where the token cannot do it.
 *
 * @param stop ends it
 * @throws with what kept it from running: the module, the login, the device
 */
export function rawLoop(
  order: RawLoopOrder,
  env: Readonly<Record<string, string>> | undefined,
  stop: AbortSignal,
): Promise<RawLoopResult | undefined> {
  return new Promise((resolve, reject) => {
    const child = fork(programOf(new URL('hsm/raw-loop.ts', import.meta.url)), [], {
      execArgv: [...loaderFlags],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      ...(env && { env }),
    })
    const lastWords = lastWordsOf(child)
    // Its objects are of its sessions, and go with them.
    const kill = (): void => void child.kill('SIGKILL')
    stop.addEventListener('abort', kill)
    let answer: RawLoopAnswer | undefined
    child.once('message', (told) => (answer = told as RawLoopAnswer))
    child.once('error', reject)
    child.once('close', (code, signal) => {
      stop.removeEventListener('abort', kill)
      if (answer === undefined) reject(failureOf({ refusal: `the raw loop ended with ${signal ?? `code ${code}`}: ${lastWords()}` }))
      else if ('perSecond' in answer) resolve(answer)
      else if (answer.unsupported) resolve(undefined)
      else reject(failureOf({ refusal: `the raw loop: ${answer.failure}` }))
    })
    child.send(order, (error) => error && reject(error))
  })
}
