/** What is sealed under the service key: counted, never too often under one key, and readable for ever, with small numbers. */

import { expect, test } from 'vitest'
import type { Token } from '../../src/hsm/token.ts'
import type { BudgetLimits } from '../../src/kms/budget.ts'
import { makeAccessKey, type Credential } from '../../src/kms/identity.ts'
import { seal, unseal } from '../../src/kms/seal.ts'
import { serviceKeyNames } from '../../src/kms/service-key.ts'
import { accountId, inspect, Journal, Tripwire, type Rooms } from './crash-rooms.ts'
import { useRooms } from './rooms-kit.ts'

const here = useRooms(2)
const root = `arn:aws:iam::${accountId}:root`

const sealIn = ({ service }: Rooms, text: string): Promise<Buffer> => seal(service, Buffer.from(text), 'session')
const openIn = async ({ service }: Rooms, sealed: Uint8Array): Promise<string | undefined> =>
  (await unseal(service, sealed, 'session'))?.toString()

const generationOf = (sealed: Buffer): number => (sealed.readUInt8(0) < 0x80 ? 0 : sealed.readUInt32BE(1))
const countByGeneration = (all: readonly Buffer[]): readonly number[] => {
  const counts: number[] = []
  for (const sealed of all) counts[generationOf(sealed)] = (counts[generationOf(sealed)] ?? 0) + 1
  return counts
}
const secretOf = async ({ service, store }: Rooms, { accessKeyId }: Credential): Promise<string | undefined> =>
  (await unseal(service, store.view.accessKey(accessKeyId)?.sealedSecret ?? Buffer.alloc(0), `access-key/${accessKeyId}`))?.toString(
    'latin1',
  )

test('a key that has sealed half of its budget is followed by another, and what all of them sealed still opens', async () => {
  const limits: BudgetLimits = { block: 3, rotateAt: 6, ceiling: 12 }
  const rooms = await here.open({ sealBudget: limits })
  const credential = await makeAccessKey(rooms.service, { accountId, principalArn: root })
  const sealed: Buffer[] = []
  for (let n = 0; n < 30; n++) sealed.push(await sealIn(rooms, `text ${n}`))
  const counts = countByGeneration(sealed)
  expect(counts.length).toBeGreaterThan(4)
  for (const count of counts) expect(count).toBeLessThanOrEqual(limits.rotateAt)
  expect(serviceKeyNames(rooms.store)).toEqual(['service', ...counts.slice(1).map((_, index) => `service/${index + 1}`)])
  expect((await rooms.service.metrics.page()).text).toMatch(new RegExp(`^holdfast_service_key_generation ${counts.length - 1}$`, 'm'))

  await rooms.close()
  const again = await here.open({ sealBudget: limits })
  for (const [n, each] of sealed.entries()) expect(await openIn(again, each)).toBe(`text ${n}`)
  expect(await secretOf(again, credential)).toBe(credential.secretAccessKey)
  await again.store.deleteAccessKey(credential.accessKeyId)
  expect(await inspect(again, new Journal())).toEqual([])
})

test('what is not to the letter as it was sealed opens under no generation', async () => {
  const rooms = await here.open({ sealBudget: { block: 1, rotateAt: 2, ceiling: 4 } })
  let sealed = await sealIn(rooms, 'secret')
  while (generationOf(sealed) < 2) sealed = await sealIn(rooms, 'secret')
  expect(await openIn(rooms, sealed)).toBe('secret')
  for (let at = 0; at < sealed.length; at++) {
    const changed = Buffer.from(sealed)
    changed.writeUInt8(changed.readUInt8(at) ^ 1, at)
    expect(await openIn(rooms, changed), `byte ${at}`).toBeUndefined()
  }
  expect(await unseal(rooms.service, sealed, 'import')).toBeUndefined()
  const withoutHead = Buffer.concat([Buffer.of(sealed.readUInt8(0) & 0x7f), sealed.subarray(5)])
  const first = Buffer.concat([sealed.subarray(0, 1), Buffer.alloc(4), sealed.subarray(5)])
  for (const text of [withoutHead, first, sealed.subarray(0, 5), Buffer.of(0x81), Buffer.alloc(0)])
    expect(await openIn(rooms, text)).toBeUndefined()
})

test('two instances share one count, and each opens what the other sealed under a key that it has not heard of yet', async () => {
  const limits: BudgetLimits = { block: 2, rotateAt: 6, ceiling: 12 }
  const [a, b] = [await here.open({ sealBudget: limits }), await here.open({ sealBudget: limits, token: here.other })]
  const sealed: Buffer[] = []
  for (let n = 0; n < 12; n++) {
    const each = await sealIn(n % 3 === 0 ? b : a, `text ${n}`)
    expect(await openIn(n % 3 === 0 ? a : b, each)).toBe(`text ${n}`)
    sealed.push(each)
  }
  await Promise.all([a, b, a, b, a].map(async (rooms, n) => sealed.push(await sealIn(rooms, `text ${12 + n}`))))
  for (const count of countByGeneration(sealed)) expect(count ?? 0).toBeLessThanOrEqual(limits.rotateAt)
  expect(countByGeneration(sealed).length).toBeGreaterThan(1)
  for (const rooms of [a, b]) for (const each of sealed) expect(await openIn(rooms, each)).toMatch(/^text \d+$/)
  expect(await inspect(a, new Journal())).toEqual([])
})

test('while no other key can be made the present one serves to its ceiling, and no further', async () => {
  let broken = false
  const generateKey: Token['generateKey'] = (request) =>
    broken ? Promise.reject(new Error('no room for another key')) : here.token.generateKey(request)
  const token = new Proxy(here.token, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name)
      return name === 'generateKey' ? generateKey : typeof member === 'function' ? member.bind(target) : member
    },
  })
  const limits: BudgetLimits = { block: 2, rotateAt: 4, ceiling: 8 }
  const rooms = await here.open({ sealBudget: limits, token })
  broken = true
  const sealed: Buffer[] = []
  const untilRefused = async (): Promise<void> => {
    for (;;) sealed.push(await sealIn(rooms, 'text'))
  }
  await expect(untilRefused()).rejects.toThrow('no room for another key')
  expect(countByGeneration(sealed)).toHaveLength(1)
  expect(sealed.length).toBeLessThanOrEqual(limits.ceiling)
  expect(sealed.length).toBeGreaterThan(limits.ceiling - 3 * limits.block)
  expect((await rooms.service.metrics.page()).text).toMatch(/^holdfast_service_key_rotation_failures_total [1-9]/m)
  broken = false
  expect(generationOf(await sealIn(rooms, 'text'))).toBe(1)
  expect(await inspect(rooms, new Journal())).toEqual([])
})

test.each(['before', 'after', 'cut'] as const)(
  'a stop at any step of making another key (%s) loses nothing and leaves nothing',
  async (mishap) => {
    const limits: BudgetLimits = { block: 1, rotateAt: 2, ceiling: 1000 }
    const wire = new Tripwire()
    let rooms = await here.open({ sealBudget: limits, wire })
    const turn = async (): Promise<void> => {
      const before = serviceKeyNames(rooms.store).length
      while (serviceKeyNames(rooms.store).length === before) kept.push(await sealIn(rooms, 'kept'))
    }
    const kept: Buffer[] = []
    wire.arm()
    await turn()
    const { steps } = wire.disarm()
    expect(steps.length).toBeGreaterThan(3)
    for (const step of steps) {
      wire.arm(step, mishap)
      await turn().catch(() => undefined)
      wire.disarm()
      await rooms.close()
      rooms = await here.open({ sealBudget: limits, wire })
      await turn()
      for (const each of kept.splice(0)) expect(await openIn(rooms, each), step).toBe('kept')
      expect(await inspect(rooms, new Journal()), step).toEqual([])
    }
  },
)
