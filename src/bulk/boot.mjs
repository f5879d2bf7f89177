/** What a thread of a pool begins with: Node 20 does not carry a loader into worker threads, so this one registers it before a program in TypeScript is read. */

import { workerData } from 'node:worker_threads'

const program = start(workerData.program)

async function start(url) {
  if (url.endsWith('.ts')) (await import('tsx/esm/api')).register()
  return import(url)
}

export default async ({ task, input }) => (await program)[task](input)
