/**
 * `npm run bench`: from a fresh clone to figures, in this process and terminal. Installs what is missing, then does what `holdfast bench` does;
 * arguments are passed on to it. Where the packages for development were left out they stay so: the report says what is not measured without them.
 */
import { argv } from 'node:process'
import { checkNode, ensureDependencies, ensureSoftHsm, lockfileInstalled, orSayWhatIsMissing, root, usesSoftHsm } from './machine.mjs'

const words = argv.slice(2)
await orSayWhatIsMissing(async () => {
  checkNode()
  ensureDependencies({ dev: !lockfileInstalled(root, { dev: false }) })
  const { importProgram } = await import('./programs.mjs')
  const { readConfig } = await importProgram('config/read')
  if (!words.some((word) => /^--(?:compare|help)\b/.test(word)) && usesSoftHsm(readConfig)) ensureSoftHsm()
  const { run } = await importProgram('main')
  process.exitCode = await run(['bench', ...words])
})
