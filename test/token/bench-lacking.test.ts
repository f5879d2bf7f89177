/** The bench on a token that lacks what a part needs, as short as it can be: it says what was not measured, and measures the rest. */

import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Bench } from '../../src/bench/run.ts'
import { builtProgram } from '../programs.ts'
import { cleanEnvironment } from './environment.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { buildShim, shimEnv } from './shim.ts'

const aesGcm = 0x1087

let lab: LabToken
let dir: string
beforeAll(async () => {
  lab = await makeSoftHsmToken()
  dir = mkdtempSync(join(tmpdir(), 'holdfast-bench-lacking-'))
})
afterAll(async () => {
  rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  await lab.remove()
})

interface Ran {
  readonly code: unknown
  readonly out: string
  readonly run: Bench
}

/** The part on external key stores, with a profile of SoftHSM2 in which some things are otherwise. */
async function benchXks(
  name: string,
  change: (profile: Record<string, unknown>) => void,
  env: Readonly<Record<string, string>>,
): Promise<Ran> {
  const profile = JSON.parse(readFileSync(new URL('../../native-config/softhsm2.json', import.meta.url), 'utf8')) as Record<string, unknown>
  change(profile)
  const [profileFile, output] = [join(dir, `${name}.json`), join(dir, name)]
  writeFileSync(profileFile, JSON.stringify(profile))
  const short = ['--quick', '--rounds', '1', '--seconds', '0.02', '--parts', 'xks', '--output', output]
  const child = spawn(process.execPath, [builtProgram('test/token/main-program.ts'), 'bench', ...short], {
    env: {
      ...cleanEnvironment(),
      ...lab.env,
      HOLDFAST_DATA_DIR: join(dir, 'data'),
      HOLDFAST_PKCS11_LIBRARY: lab.library,
      HOLDFAST_PKCS11_PROFILE: profileFile,
      HOLDFAST_PKCS11_TOKEN_LABEL: lab.label,
      HOLDFAST_PKCS11_PIN_FILE: lab.pinFile,
      ...env,
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let out = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  return { code, out, run: JSON.parse(readFileSync(join(output, 'bench.json'), 'utf8')) as Bench }
}

const shim = buildShim()

test.skipIf(shim === undefined)(
  'a token without AES-GCM has no external key store, which is said and is no failure',
  async () => {
    const { code, out, run } = await benchXks(
      'without-gcm',
      (profile) => (profile['wrap'] = { value: 'cbc-hmac', why: 'Set by a test.' }),
      { ...shimEnv({ module: lab.library, hide: [aesGcm] }), HOLDFAST_PKCS11_LIBRARY: shim ?? '' },
    )
    expect(out).toContain('Not measured: This token has no AES-GCM, which the keys of an external key store need.')
    expect(run.parts.map(({ name, failure, figures }) => ({ name, failure, figures }))).toEqual([
      { name: 'xks', failure: null, figures: {} },
    ])
    expect(code).toBe(0)
  },
  300_000,
)

test('no more keys are made than a quarter of the objects that the token holds', async () => {
  const { code, run } = await benchXks(
    'small',
    (profile) => {
      const limits = profile['limits'] as Record<string, unknown>
      limits['objects'] = { value: 48, why: 'Set by a test.' }
    },
    {},
  )
  expect(code).toBe(0)
  const measured = Object.keys(run.parts[0]?.figures ?? {}).flatMap((id) => /^(\d+)-keys\/encrypt\/throughput$/.exec(id)?.[1] ?? [])
  expect(measured).toEqual(['10', '12'])
}, 300_000)
