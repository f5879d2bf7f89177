/** Starting the bench's own programs. */

import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { loaderFlags, programOf } from '../base/program.ts'

export function startChild(file: string): ChildProcess {
  return fork(programOf(new URL(file, import.meta.url)), [], {
    execArgv: [...process.execArgv, ...loaderFlags],
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
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
    child.send(order)
  })
}

/** Ends a child that ends with its parent, and waits for it. */
export async function endChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  if (child.connected) child.disconnect()
  await ended
}
