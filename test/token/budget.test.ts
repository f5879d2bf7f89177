/** The GCM budget with small numbers: no material encrypts more often than it may, the count is never too low, and keys rotate by themselves. */

import { expect, test } from 'vitest'
import { TokenError, type Token } from '../../src/hsm/token.ts'
import type { BudgetLimits } from '../../src/kms/budget.ts'
import type { BackingKeyRecord } from '../../src/store/store.ts'
import { accountId, callRoad, inspect, Journal, keyIdOf, region, type Output, type Rooms } from './crash-rooms.ts'
import { useRooms } from './rooms-kit.ts'

const here = useRooms(2)

const open = (budget: BudgetLimits, more: { readonly token?: Token } = {}): Promise<Rooms> => here.open({ budget, ...more })

const makeKey = async (rooms: Rooms): Promise<string> => keyIdOf(await callRoad(rooms, 'CreateKey', {}))
const encrypt = (rooms: Rooms, keyId: string): Promise<Output> => callRoad(rooms, 'Encrypt', { KeyId: keyId, Plaintext: 'dGV4dA==' })
const materials = (rooms: Rooms, keyId: string): readonly BackingKeyRecord[] =>
  rooms.store.view.backingKeys(rooms.store.view.keyById(region, keyId)?.arn ?? '')

/** How many of these blobs each material made; every one of them must open. */
async function countByMaterial(rooms: Rooms, blobs: readonly Output[]): Promise<ReadonlyMap<string, number>> {
  const counts = new Map<string, number>()
  for (const { CiphertextBlob } of blobs) {
    const { Plaintext, KeyMaterialId } = await callRoad(rooms, 'Decrypt', { CiphertextBlob })
    expect(Plaintext).toBe('dGV4dA==')
    counts.set(KeyMaterialId as string, (counts.get(KeyMaterialId as string) ?? 0) + 1)
  }
  return counts
}

function expectWithin(counts: ReadonlyMap<string, number>, all: readonly BackingKeyRecord[], ceiling: number): void {
  for (const { materialId, encryptionsReserved } of all) {
    expect(encryptionsReserved).toBeLessThanOrEqual(ceiling)
    expect(counts.get(materialId) ?? 0).toBeLessThanOrEqual(encryptionsReserved)
  }
}

const errorOf = (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => 'answered',
    (error: unknown) => String((error as { readonly code?: string }).code),
  )

test('at half of the budget a key gets new material by itself, once, and what the old one encrypted still opens', async () => {
  const rooms = await open({ block: 2, rotateAt: 4, ceiling: 8 })
  const keyId = await makeKey(rooms)
  const [first] = materials(rooms, keyId)
  const blobs: Output[] = []
  for (let i = 0; i < 3; i++) blobs.push(await encrypt(rooms, keyId))
  await rooms.service.budget.close()
  expect(materials(rooms, keyId).map(({ ordinal, state }) => `${ordinal} ${state}`)).toEqual(['1 ready', '2 ready'])
  expect((await rooms.service.metrics.page()).text).toMatch(/^holdfast_gcm_rotations_total 1$/m)
  blobs.push(await encrypt(rooms, keyId))
  const [, second] = materials(rooms, keyId)
  expect(rooms.store.view.keyById(region, keyId)?.materialId).toBe(second?.materialId)
  expect(await countByMaterial(rooms, blobs)).toEqual(
    new Map([
      [first?.materialId, 3],
      [second?.materialId, 1],
    ]),
  )
  const { KeyMetadata } = await callRoad(rooms, 'DescribeKey', { KeyId: keyId })
  expect(KeyMetadata).toMatchObject({ CurrentKeyMaterialId: second?.materialId, KeyState: 'Enabled' })
})

test('many callers at once never pass the ceiling of any material, and start no more rotations than there are halves', async () => {
  const limits = { block: 4, rotateAt: 16, ceiling: 24 }
  const rooms = await open(limits)
  const keyId = await makeKey(rooms)
  const blobs: Output[] = []
  for (let burst = 0; burst < 6; burst++) blobs.push(...(await Promise.all(Array.from({ length: 40 }, () => encrypt(rooms, keyId)))))
  await rooms.service.budget.close()
  const all = materials(rooms, keyId)
  expectWithin(await countByMaterial(rooms, blobs), all, limits.ceiling)
  // Each but the newest was left at its half at the earliest.
  for (const { encryptionsReserved } of all.slice(0, -1)) expect(encryptionsReserved).toBeGreaterThanOrEqual(limits.rotateAt)
  expect(await inspect(rooms, new Journal())).toEqual([])
})

test('two instances share one budget and one rotation', async () => {
  const limits = { block: 3, rotateAt: 9, ceiling: 15 }
  const [a, b] = [await open(limits), await open(limits, { token: here.other })]
  const keyId = await makeKey(a)
  await expect.poll(() => b.store.view.keyById(region, keyId)?.state, { timeout: 30_000 }).toBe('Enabled')
  const blobs: Output[] = []
  const refusals = new Set<string>()
  const caller = async (rooms: Rooms): Promise<void> => {
    for (let i = 0; i < 25; i++) {
      try {
        blobs.push(await encrypt(rooms, keyId))
      } catch (error) {
        refusals.add((error as { readonly code: string }).code)
      }
    }
  }
  await Promise.all([a, b, a, b].map(caller))
  await Promise.all([a, b].map(({ service }) => service.budget.close()))
  // Whoever comes to the ceiling while the other one rotates is told to try again.
  expect([...refusals].filter((code) => code !== 'ThrottlingException')).toEqual([])
  expect(blobs.length).toBeGreaterThan(limits.ceiling)
  expectWithin(await countByMaterial(a, blobs), materials(a, keyId), limits.ceiling)
  await a.service.runLifecycle()
  expect(await inspect(a, new Journal())).toEqual([])
})

test('a process that ends without a word leaves a count that is too high, never too low', async () => {
  const limits = { block: 10, rotateAt: 1000, ceiling: 2000 }
  const first = await open(limits)
  const keyId = await makeKey(first)
  let made = 0
  for (let run = 0; run < 4; run++) {
    // Opened anew without closing what was: all that a dead process hands on is the database.
    const rooms = await open(limits)
    for (let i = 0; i < 3; i++, made++) await encrypt(rooms, keyId)
    const [material] = materials(rooms, keyId)
    expect(material?.encryptionsReserved).toBe((run + 1) * limits.block)
    expect(material?.encryptionsReserved).toBeGreaterThanOrEqual(made)
  }
})

test('at the ceiling, when no new material can be made, encryption stops with a retryable error and decryption goes on', async () => {
  const limits = { block: 2, rotateAt: 4, ceiling: 8 }
  let broken = false
  const failing = new Proxy(here.token, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target)
      if (typeof value !== 'function') return value
      if (property !== 'generateKey') return value.bind(target)
      return async (...values: unknown[]) => {
        if (broken) throw new TokenError('unavailable', 'no answer')
        return (value as (...values: unknown[]) => Promise<unknown>).apply(target, values)
      }
    },
  })
  const rooms = await open(limits, { token: failing })
  const keyId = await makeKey(rooms)
  broken = true
  const blobs: Output[] = []
  for (let i = 0; i < limits.ceiling; i++) blobs.push(await encrypt(rooms, keyId))
  expect(await Promise.all(Array.from({ length: 5 }, () => errorOf(encrypt(rooms, keyId))))).toEqual(
    Array(5).fill('DependencyTimeoutException'),
  )
  expect([...(await countByMaterial(rooms, blobs)).values()]).toEqual([limits.ceiling])
  expect(materials(rooms, keyId).map(({ encryptionsReserved }) => encryptionsReserved)).toEqual([limits.ceiling])
  broken = false
  blobs.push(await encrypt(rooms, keyId))
  expect([...(await countByMaterial(rooms, blobs)).values()]).toEqual([limits.ceiling, 1])
  expect(await inspect(rooms, new Journal())).toEqual([])
  expect(rooms.store.view.account(accountId)).toBeDefined()
  expect((await rooms.service.metrics.page()).text).toMatch(/^holdfast_gcm_rotation_failures_total [1-9]/m)
})

test('a ceiling that no whole number of blocks fills is still never passed', async () => {
  const limits = { block: 5, rotateAt: 1_000_000, ceiling: 12 }
  const rooms = await open(limits)
  const keyId = await makeKey(rooms)
  const blobs = await Promise.all(Array.from({ length: 33 }, () => encrypt(rooms, keyId)))
  const counts = await countByMaterial(rooms, blobs)
  expectWithin(counts, materials(rooms, keyId), limits.ceiling)
  expect(Math.max(...counts.values())).toBeLessThanOrEqual(10)
})
