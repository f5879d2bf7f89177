/** What the bench is to the services that it measures: starts one in one process and one in several, says so, and waits to be killed. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { childEnvironment, readConfig } from '../../src/config/read.ts'
import { startProgram, startService } from '../../src/measure-processes.ts'

const { config } = readConfig()
const { signal } = new AbortController()
const placed = (name: string): typeof config => {
  const dataDir = join(config.dataDir, name)
  mkdirSync(dataDir)
  return { ...config, dataDir }
}
await Promise.all([
  startService({ config: placed('one'), audit: 'on', spans: false }, childEnvironment(), signal),
  startProgram(placed('several'), 2, childEnvironment(), signal),
])
process.stdout.write('both serve\n')
setInterval(() => undefined, 60_000)
