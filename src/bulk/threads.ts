/** Worker threads that start when there is work, end when there has been none for a while, and are replaced when they were lost, also for what waits already. */

import type { MessagePort } from 'node:worker_threads'
import { Piscina } from 'piscina'
import { programOf } from '../base/program.ts'

export interface Threads {
  /** @throws what the task throws, or why its thread ended before it did; so much else of the same threads may then be lost, too. */
  readonly run: <Answer>(task: string, input: unknown, transferList?: MessagePort[]) => Promise<Answer>
  /** Tasks that no thread has taken up. */
  readonly waiting: () => number
  /** Ends the threads, whatever they are at. */
  readonly close: () => Promise<void>
}

type PoolOptions = NonNullable<ConstructorParameters<typeof Piscina>[0]>

const idleMs = 60_000

/** @param program what the threads run, with an export `wake` that does nothing */
export function openThreads(program: URL, { workerData, ...options }: PoolOptions): Threads {
  const underWay = new Set<(cause: unknown) => void>()
  const pool = new Piscina({
    filename: new URL('./boot.mjs', import.meta.url).href,
    workerData: { ...(workerData as object | undefined), program: programOf(program).href },
    // Flags of the parent (a test runner's, an inspector's) are not for these.
    execArgv: [],
    minThreads: 0,
    idleTimeout: idleMs,
    ...options,
  })
  // A thread ended before it took up any work: what waits would wait for ever.
  pool.on('error', (cause) => {
    for (const fail of underWay) fail(cause)
  })
  return {
    run<Answer>(task: string, input: unknown, transferList: MessagePort[] = []): Promise<Answer> {
      return new Promise<Answer>((resolve, reject) => {
        const fail = (cause: unknown): void => {
          underWay.delete(fail)
          reject(cause instanceof Error ? cause : new Error('a thread ended', { cause }))
          // The pool replaces a thread when more work comes, which may be never; what waits already must not wait for that.
          if (pool.queueSize > 0 && underWay.size > 0) pool.run({ task: 'wake' }).catch(() => {})
        }
        underWay.add(fail)
        const run = pool.run({ task, input }, { transferList }) as Promise<Answer>
        run.then((answer) => {
          underWay.delete(fail)
          return resolve(answer)
        }, fail)
      })
    },
    waiting: () => pool.queueSize,
    close: () => pool.destroy(),
  }
}
