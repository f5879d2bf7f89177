import { fork } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CKM } from '../../src/hsm/constants.ts'
import type { RawLoopOrder, RawLoopResult } from '../../src/hsm/raw-loop.ts'
import { PinRefusal, rawLoop } from '../../src/measure-processes.ts'
import { builtProgram } from '../programs.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { buildShim, shimEnv } from './shim.ts'

let lab: LabToken
beforeAll(async () => {
  lab = await makeSoftHsmToken()
})
afterAll(async () => {
  await lab.remove()
})

const measure = (order: Pick<RawLoopOrder, 'operation' | 'sessions' | 'warmupMs'>): Promise<RawLoopResult | undefined> =>
  new Promise((resolve, reject) => {
    const child = fork(builtProgram('src/hsm/raw-loop.ts'), [], {
      execArgv: [],
      env: { PATH: process.env['PATH'] ?? '', ...lab.env },
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    let result: RawLoopResult | undefined
    child.once('message', (told) => {
      result = told as RawLoopResult
    })
    child.once('close', (code, signal) => (code === 0 ? resolve(result) : reject(new Error(`ended with ${signal ?? code}`))))
    const { library, label: tokenLabel, pinFile } = lab
    child.send({ library, tokenLabel, pinFile, durationMs: 50, ...order } satisfies RawLoopOrder)
  })

test.each<Pick<RawLoopOrder, 'operation' | 'sessions' | 'warmupMs'>>([
  {},
  { operation: 'encrypt-alone', sessions: 2, warmupMs: 50 },
  { operation: 'sign-rsa-2048', sessions: 2 },
  { operation: 'sign-ecdsa-p256', sessions: 3 },
])('the raw loop measures %j, tells its rate and its processor time, and ends by itself', async (order) => {
  const { perSecond, cpuMicroseconds } = (await measure(order)) ?? { perSecond: 0, cpuMicroseconds: 0 }
  expect(perSecond).toBeGreaterThan(0)
  expect(cpuMicroseconds).toBeGreaterThan(0)
})

/** As the bench runs it. */
const run = (order: Partial<RawLoopOrder> = {}, env: Readonly<Record<string, string>> = {}): Promise<RawLoopResult | undefined> => {
  const { library, label: tokenLabel, pinFile } = lab
  const whole = { PATH: process.env['PATH'] ?? '', ...lab.env, ...env }
  return rawLoop({ library, tokenLabel, pinFile, durationMs: 50, ...order }, whole, new AbortController().signal)
}

test('what keeps the raw loop from running is told: the module, the token, the PIN', async () => {
  await expect(run({ library: '/nowhere/module.so' })).rejects.toThrow(/^the raw loop: .*module\.so/)
  await expect(run({ tokenLabel: 'another' })).rejects.toThrow('the raw loop: no token is labelled another')
  const pinFile = join(lab.dir, 'wrong-pin')
  writeFileSync(pinFile, 'wrong', { mode: 0o600 })
  const refused = await run({ pinFile }).catch((error: unknown) => error)
  expect(refused).toBeInstanceOf(PinRefusal)
  expect(refused).toMatchObject({ message: expect.stringMatching(/^the raw loop: C_Login answered CKR_PIN_INCORRECT$/) })
})

const shim = buildShim()

test.skipIf(shim === undefined)('a mechanism that the token has not is no failure of the raw loop: there is no figure then', async () => {
  const env = shimEnv({ module: lab.library, hide: [CKM.CKM_AES_GCM] })
  await expect(run({ library: shim ?? '' }, env)).resolves.toBeUndefined()
  await expect(run({ library: shim ?? '', operation: 'sign-ecdsa-p256' }, env)).resolves.toMatchObject({ perSecond: expect.any(Number) })
})

test('a raw loop that is told to stop ends at once', async () => {
  const { library, label: tokenLabel, pinFile } = lab
  const stop = new AbortController()
  const env = { PATH: process.env['PATH'] ?? '', ...lab.env }
  const running = rawLoop({ library, tokenLabel, pinFile, durationMs: 3_600_000 }, env, stop.signal)
  stop.abort()
  await expect(running).rejects.toThrow('SIGKILL')
})
