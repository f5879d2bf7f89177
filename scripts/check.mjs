/**
 * `npm run check`: types, lint, format, dead code, imports and tests. Runs all of them, whatever fails, and closes with a
 * summary; exit code 1 when any failed. `-- --no-tests` leaves the tests out, but for the one that reads the imports.
 */
import { spawn } from 'node:child_process'
import { argv, execPath, exit, stderr, stdout } from 'node:process'
import { checkNode, ensureDependencies, orSayWhatIsMissing, root } from './machine.mjs'

await orSayWhatIsMissing(() => {
  checkNode()
  ensureDependencies({ dev: true })
})

const withTests = !argv.includes('--no-tests')
const bin = (name) => `node_modules/.bin/${name}`
const reading = [
  { name: 'types', command: [bin('tsc')] },
  { name: 'lint', command: [bin('oxlint'), '--type-aware', '--deny-warnings'] },
  { name: 'format', command: [bin('oxfmt'), '--check'] },
  { name: 'dead code', command: [bin('knip')] },
]
const running = withTests
  ? { name: 'tests', command: [execPath, 'scripts/test.mjs'] }
  : { name: 'imports', command: [execPath, 'scripts/test.mjs', 'test/architecture.test.ts'] }

/** Runs one step; its output is kept together unless it goes straight to the terminal. */
function step({ name, command: [program, ...args] }, { live }) {
  const startedAt = performance.now()
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd: root, stdio: ['ignore', live ? 'inherit' : 'pipe', live ? 'inherit' : 'pipe'] })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk) => (output += chunk))
    child.on('error', (error) => resolve({ name, passed: false, seconds: 0, output: error.message }))
    child.on('close', (code) => resolve({ name, passed: code === 0, seconds: (performance.now() - startedAt) / 1000, output }))
  })
}

const outcomes = await Promise.all(reading.map((each) => step(each, { live: false })))
for (const { name, passed, output } of outcomes) if (!passed) stderr.write(`\n--- ${name}\n${output}\n`)
outcomes.push(await step(running, { live: true }))

stdout.write('\n')
for (const { name, passed, seconds } of outcomes) stdout.write(`${passed ? 'ok    ' : 'FAILED'} ${name} (${seconds.toFixed(1)} s)\n`)
exit(outcomes.every(({ passed }) => passed) ? 0 : 1)
