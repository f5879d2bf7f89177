/**
 * Starts a worker thread of ours that is written in TypeScript.
 *
 * Node 20 does not carry a loader given with `--import` into worker threads, so a thread begins in a one-line program
 * that registers tsx for itself and then imports the real one. Refuses nothing; what the program throws arrives as the
 * worker's `error` event.
 */

import { Worker } from 'node:worker_threads'

/**
 * @param program URL of the worker's TypeScript file.
 * @param data arrives there as `workerData`.
 */
export function startWorker(program: URL, data: unknown): Worker {
  const register = JSON.stringify(import.meta.resolve('tsx/esm/api'))
  const boot = `import { register } from ${register}; register(); await import(${JSON.stringify(program.href)})`
  // No execArgv: flags of the parent (a test runner's, an inspector's) are not for a database thread.
  return new Worker(new URL(`data:text/javascript,${encodeURIComponent(boot)}`), { workerData: data, execArgv: [] })
}
