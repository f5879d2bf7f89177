import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { cleanEnvironment } from '../token/environment.ts'

const work = fileURLToPath(new URL('../.work/', import.meta.url))
const config = JSON.stringify(fileURLToPath(new URL('../vitest.config.ts', import.meta.url)))
const vitest = fileURLToPath(new URL('../../node_modules/vitest/vitest.mjs', import.meta.url))

const tests = `
  import { appendFileSync } from 'node:fs'
  import { expect, test } from 'vitest'
  let attempts = 0
  test('races', () => expect(++attempts).toBe(2))
  test('holds', () => {})
  test('is broken', () => {
    appendFileSync('attempts', 'b')
    throw new Error('as ever')
  })
  test('is a property', () => {
    appendFileSync('attempts', 'p')
    throw new Error('Property failed after 7 tests')
  })`

test('on CI a test gets a second attempt and is listed if it needed it; what a property test found is found, and without CI nothing is tried again', async () => {
  mkdirSync(work, { recursive: true })
  const dir = mkdtempSync(join(work, 'flaky-'))
  try {
    writeFileSync(join(dir, 'some.test.mjs'), tests)
    writeFileSync(
      join(dir, 'config.mjs'),
      `import { default as ours } from ${config}
       const { retry, reporters } = ours.test
       export default { test: { root: ${JSON.stringify(dir)}, include: ['*.test.mjs'], retry, reporters } }`,
    )
    const run = async (env: Readonly<Record<string, string>>): Promise<{ readonly said: string; readonly attempts: string }> => {
      writeFileSync(join(dir, 'attempts'), '')
      const child = spawn(process.execPath, [vitest, 'run', '--config', join(dir, 'config.mjs')], {
        cwd: dir,
        env: { ...cleanEnvironment(), CI: '', ...env },
        stdio: ['ignore', 'ignore', 'pipe'],
      })
      const [said] = await Promise.all([text(child.stderr), new Promise((resolve) => child.once('close', resolve))])
      expect(child.exitCode).toBe(1)
      return { said, attempts: readFileSync(join(dir, 'attempts'), 'utf8') }
    }
    const onCi = await run({ CI: 'true' })
    expect(onCi.said.match(/^FLAKY: .*$/gm)).toEqual([
      'FLAKY: some.test.mjs > races: passed only at its second attempt; the first: expected 1 to be 2 // Object.is equality',
    ])
    expect(onCi.said).toContain('1 FLAKY: to be mended.')
    expect(onCi.attempts).toBe('bbp')
    const elsewhere = await run({})
    expect(elsewhere.said).not.toContain('FLAKY')
    expect(elsewhere.attempts).toBe('bp')
  } finally {
    rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  }
})
