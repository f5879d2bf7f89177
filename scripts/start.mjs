/**
 * `npm start`: from a fresh clone to a running service, in this process and terminal. Installs what is missing, then does
 * what `holdfast serve` does; arguments are passed on to it.
 */
import { argv } from 'node:process'
import { checkNode, ensureDependencies, ensureSoftHsm, orSayWhatIsMissing, usesSoftHsm } from './machine.mjs'

await orSayWhatIsMissing(async () => {
  checkNode()
  ensureDependencies({ dev: false })
  const { importProgram } = await import('./programs.mjs')
  const { readConfig } = await importProgram('config/read')
  if (usesSoftHsm(readConfig)) ensureSoftHsm()
  const { run } = await importProgram('main')
  process.exitCode = await run(['serve', ...argv.slice(2)])
})
