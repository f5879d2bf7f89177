/** Starting the bench's own programs. */

import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { loaderFlags, programOf } from '../base/program.ts'

const running = new Set<ChildProcess>()

export function startChild(file: string): ChildProcess {
  const child = fork(programOf(new URL(file, import.meta.url)), [], {
    execArgv: [...process.execArgv, ...loaderFlags],
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  running.add(child)
  child.once('exit', () => running.delete(child))
  return child
}

/** Kills all of them: who waits for one is told at once. They hold nothing that would be left. */
export function stopChildren(): void {
  for (const child of running) child.kill('SIGKILL')
}

/** Sends `order` and answers the next message; rejects when the child ends first. */
export function ask<T>(child: ChildProcess, order: object): Promise<T> {
  return new Promise((resolve, reject) => {
    const onMessage = (value: unknown): void => {
      child.off('exit', onExit)
      resolve(value as T)
    }
    const onExit = (code: number | null, signal: string | null): void => {
      child.off('message', onMessage)
      reject(new Error(`a process of the bench ended with ${signal ?? `code ${code}`}`))
    }
    child.once('message', onMessage)
    child.once('exit', onExit)
    child.send(order, (error) => error && reject(error))
  })
}

/** Ends a child that ends with its parent, and waits for it. */
export async function endChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  if (child.connected) child.disconnect()
  await ended
}
