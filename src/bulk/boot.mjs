/** What a thread of a pool begins with: Node 20 does not carry a loader into worker threads, so this one registers it before the real program is read. */

import { workerData } from 'node:worker_threads'
import { register } from 'tsx/esm/api'

register()
const program = import(workerData.program)

export default async ({ task, input }) => (await program)[task](input)
