/**
 * `holdfast serve` as the bench measures it in several processes. Started by fork, with its configuration in the environment; ends, with all that it
 * started, when its parent disconnects or is gone, however that ended. The processes that it starts for itself run this same file, and end with it.
 */

import { exitCodes } from './cli/command.ts'
import { isMember } from './processes.ts'
import { serve } from './serve.ts'

if (!isMember()) {
  const end = (): void => void process.kill(process.pid, 'SIGTERM')
  process.once('disconnect', end)
  // Who has nothing left to do ends, whether or not the parent is there still.
  process.channel?.unref()
  if (!process.connected) end()
}
process.exitCode = await serve().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
  return exitCodes.failed
})
