import { createPublicKey } from 'node:crypto'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import type { Worker } from 'node:worker_threads'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openCryptoPool, type CryptoPool } from '../../src/bulk/crypto-pool.ts'

/** The threads that were started, to be killed: nothing else can get at them. */
const threads: Worker[] = []
const module = createRequire(import.meta.url)('node:worker_threads') as { Worker: typeof Worker }
const { Worker: Original } = module
let pool: CryptoPool
beforeAll(() => {
  module.Worker = class extends Original {
    constructor(...args: ConstructorParameters<typeof Worker>) {
      super(...args)
      threads.push(this)
    }
  }
  pool = openCryptoPool()
})
afterAll(async () => {
  module.Worker = Original
  await pool.close()
})

const kill = async (): Promise<void> => {
  await Promise.all(threads.splice(0).map((thread) => thread.terminate()))
}

test('threads that are killed cost what they were at; what waited for them is done by others', async () => {
  await pool.keyPair('ECC_NIST_P256')
  // As many as there are threads; nobody finds one of them in the time that a signal takes.
  const taken = Array.from({ length: Math.max(1, availableParallelism() - 1) }, () => pool.keyPair('RSA_4096'))
  const lost = Promise.allSettled(taken)
  const waiting = Promise.allSettled(Array.from({ length: 8 }, () => pool.keyPair('ECC_NIST_P256')))
  await kill()
  for (const outcome of await lost)
    expect(outcome).toMatchObject({ status: 'rejected', reason: { message: expect.stringMatching(/exited|terminat/i) } })
  const made = (await waiting).filter((each) => each.status === 'fulfilled')
  expect(made.length).toBeGreaterThan(0)
})

test('a thread that is killed while it has nothing to do costs nothing', async () => {
  await pool.keyPair('ECC_NIST_P256')
  await kill()
  const { publicKey } = await pool.keyPair('ECC_NIST_P384')
  expect(createPublicKey({ key: publicKey, format: 'der', type: 'spki' }).asymmetricKeyDetails?.namedCurve).toBe('secp384r1')
})
