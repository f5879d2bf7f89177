import { fork } from 'node:child_process'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { RawLoopOrder, RawLoopResult } from '../../src/hsm/raw-loop.ts'
import { builtProgram } from '../programs.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'

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
