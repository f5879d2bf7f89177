/**
 * `npm test`: every test, on a machine that may be fresh. Installs what is missing first; arguments go to vitest
 * (`npm test -- test/unit/config.test.ts`). On CI, as root, further tokens and clients are installed too.
 */
import { spawnSync } from 'node:child_process'
import { argv, env, execPath, exit } from 'node:process'
import {
  checkNode,
  ensureCompiler,
  ensureDependencies,
  ensureOtherTools,
  ensureSoftHsm,
  findProgram,
  orSayWhatIsMissing,
  root,
} from './machine.mjs'

await orSayWhatIsMissing(() => {
  checkNode()
  ensureSoftHsm()
  // The fault-injecting PKCS#11 library of the tests is C.
  ensureCompiler()
  if (env.CI && !(findProgram('pkcsslotd') && findProgram('chromium'))) ensureOtherTools()
  ensureDependencies({ dev: true })
})
const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--config', 'test/vitest.config.ts', ...argv.slice(2)]
exit(spawnSync(execPath, vitest, { cwd: root, stdio: 'inherit' }).status ?? 1)
