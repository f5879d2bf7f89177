/**
 * Threads of ours that do what must not happen on the event loop: a worker written in TypeScript, asked and answered by
 * number.
 *
 * A thread begins in a line of its own, which gives it a loader if it needs one (`base/program.ts`). After a thread has
 * ended, whatever the reason, every call is refused; nothing is restarted here.
 */

import { Worker } from 'node:worker_threads'
import { loaderLine, programOf } from '../base/program.ts'
import { StoreFailure } from './store.ts'

/** To the thread. `undefined` in place of a request: close. */
export interface ThreadCall<Request> {
  readonly id: number
  readonly request: Request | undefined
}

/** From the thread. `opened` comes first, or `refused` and then the end. */
export type ThreadWord =
  | { readonly opened: true }
  | { readonly refused: string }
  | { readonly notice: unknown }
  | { readonly id: number; readonly answer: unknown }
  | { readonly id: number; readonly error: { readonly code: string; readonly message: string } }

export interface Thread<Request> {
  /**
   * Resolves with the thread's answer.
   * @throws StoreFailure with the thread's code, or `ENDED` when it is closed or died.
   */
  call(request: Request): Promise<unknown>
  /** Lets what was asked before finish, then ends the thread. */
  close(): Promise<void>
}

/**
 * Starts a thread and waits until it has opened what it needs.
 * @param program URL of the worker's TypeScript file.
 * @param data arrives there as `workerData`.
 * @param what names the thread's task in errors.
 * @throws StoreFailure `OPEN` with the reason when it refuses.
 */
export async function openThread<Request>(
  program: URL,
  data: unknown,
  what: string,
  onNotice?: (notice: unknown) => void,
): Promise<Thread<Request>> {
  const boot = `${loaderLine} await import(${JSON.stringify(programOf(program).href)})`
  // No execArgv: flags of the parent (a test runner's, an inspector's) are not for a database thread.
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(boot)}`), { workerData: data, execArgv: [] })

  const waiting = new Map<number, { readonly resolve: (answer: unknown) => void; readonly reject: (error: Error) => void }>()
  let nextId = 1
  let ended: string | undefined
  let onOpen: ((refusal: string | undefined) => void) | undefined

  const end = (why: string): void => {
    ended ??= why
    onOpen?.(why)
    for (const { reject } of waiting.values()) reject(new StoreFailure(ended, 'ENDED'))
    waiting.clear()
  }
  const take = (id: number) => {
    const one = waiting.get(id)
    waiting.delete(id)
    return one
  }
  worker.on('message', (word: ThreadWord) => {
    if ('answer' in word) take(word.id)?.resolve(word.answer)
    else if ('error' in word) take(word.id)?.reject(new StoreFailure(word.error.message, word.error.code))
    else if ('notice' in word) onNotice?.(word.notice)
    else onOpen?.('refused' in word ? word.refused : undefined)
  })
  worker.on('error', (error) => end(`${what} failed: ${error.message}`))
  const exited = new Promise<void>((resolve) =>
    worker.once('exit', () => {
      end(`${what} is closed`)
      resolve()
    }),
  )
  const post = (call: ThreadCall<Request>): void => worker.postMessage(call, [])

  const refusal = await new Promise<string | undefined>((resolve) => (onOpen = resolve))
  onOpen = undefined
  if (refusal !== undefined) {
    await exited
    throw new StoreFailure(`${what}: ${refusal}`, 'OPEN')
  }

  return {
    call(request) {
      if (ended !== undefined) return Promise.reject(new StoreFailure(ended, 'ENDED'))
      const id = nextId++
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject })
        post({ id, request })
      })
    },
    async close() {
      if (ended === undefined) post({ id: 0, request: undefined })
      await exited
    },
  }
}
