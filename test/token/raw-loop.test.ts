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

const measure = (order: Pick<RawLoopOrder, 'operation' | 'sessions'>): Promise<number> =>
  new Promise((resolve, reject) => {
    const child = fork(builtProgram('src/hsm/raw-loop.ts'), [], {
      execArgv: [],
      env: { PATH: process.env['PATH'] ?? '', ...lab.env },
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    let rate = Number.NaN
    child.once('message', (result) => {
      rate = (result as RawLoopResult).perSecond
    })
    child.once('close', (code, signal) => (code === 0 ? resolve(rate) : reject(new Error(`ended with ${signal ?? code}`))))
    const { library, label: tokenLabel, pinFile } = lab
    child.send({ library, tokenLabel, pinFile, durationMs: 50, ...order } satisfies RawLoopOrder)
  })

test('the raw loop measures each operation in as many sessions as it is told, and ends by itself', async () => {
  expect(await measure({})).toBeGreaterThan(0)
  expect(await measure({ operation: 'sign-rsa-2048', sessions: 2 })).toBeGreaterThan(0)
  expect(await measure({ operation: 'sign-ecdsa-p256', sessions: 3 })).toBeGreaterThan(0)
})
