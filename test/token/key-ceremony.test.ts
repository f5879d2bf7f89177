/** docs/key-ceremony.md is true: its commands are taken from the page and run, in its order, in one shell. */
import { execFile } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openInProcess, type InProcess } from './holdfast.ts'

let holdfast: InProcess
const dir = mkdtempSync(join(tmpdir(), 'holdfast-ceremony-'))
beforeAll(async () => {
  holdfast = await openInProcess()
})
afterAll(async () => {
  rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  await holdfast.close()
})

const page = readFileSync(new URL('../../docs/key-ceremony.md', import.meta.url), 'utf8')
const blocks = [...page.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, commands]) => commands ?? '')

/** A directory for the PATH in which `aws` is the stand-in. */
function makeProgramDirectory(): string {
  const programs = join(dir, 'programs')
  mkdirSync(programs)
  const standIn = fileURLToPath(new URL('./aws-stand-in.mjs', import.meta.url))
  const aws = join(programs, 'aws')
  writeFileSync(aws, `#!/bin/sh\nexec '${process.execPath}' --no-warnings '${standIn}' "$@"\n`)
  chmodSync(aws, 0o755)
  return programs
}

test('every command of the key ceremony works, in the order of the page', { timeout: 120_000 }, async () => {
  expect(blocks.length).toBeGreaterThan(5)
  const table = join(dir, 'table')
  mkdirSync(table)
  const { endpoint, region, credentials } = holdfast
  const env = {
    PATH: `${makeProgramDirectory()}:${process.env['PATH'] ?? ''}`,
    HOME: dir,
    AWS_ENDPOINT_URL: endpoint,
    AWS_REGION: region,
    AWS_ACCESS_KEY_ID: credentials.accessKeyId,
    AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
  }
  const said = await new Promise<string>((resolve, reject) => {
    // Pipes fail as a whole, and the first command that fails ends it.
    const shell = execFile('bash', ['-euo', 'pipefail', '-s'], { cwd: table, env }, (error, stdout, stderr) =>
      error ? reject(new Error(`${error.message}\n${stdout}\n${stderr}`)) : resolve(stdout),
    )
    shell.stdin?.end(blocks.join('\n'))
  })
  expect(said).toContain('Verified OK')
  // Both sides of each journey read the same digest aloud.
  const digests = [...said.matchAll(/^SHA2-256\(.*\)= ([0-9a-f]{64})$/gm)].map(([, digest]) => digest)
  expect(digests).toHaveLength(4)
  expect(new Set(digests).size).toBe(2)
  // What must not outlive the ceremony.
  expect(readdirSync(table).filter((name) => /^(?:material|aes)\.bin$|^private\.(?:pem|der)$/.test(name))).toEqual([])
  expect([...holdfast.store.view.allKeys()].map(({ state, origin, spec }) => `${origin} ${spec} ${state}`).sort()).toEqual([
    'EXTERNAL RSA_3072 Enabled',
    'EXTERNAL SYMMETRIC_DEFAULT Enabled',
  ])
})
