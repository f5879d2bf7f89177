/**
 * Rotation by the calendar: what is due when, what happens once, and what a stop at any step leaves. The clock is moved by the test; token and
 * database are real.
 */

import { describe, expect, test } from 'vitest'
import { keyArn } from '../../src/kms/arn.ts'
import {
  accountId,
  callRoad,
  dayMs,
  inspect,
  Journal,
  keyIdOf,
  region,
  smallBudget,
  Tripwire,
  type Output,
  type Rooms,
} from './crash-rooms.ts'
import { useRooms } from './rooms-kit.ts'

const here = useRooms(2)

const makeKey = async (rooms: Rooms): Promise<string> => keyIdOf(await callRoad(rooms, 'CreateKey', {}))
/** A key that rotates every 90 days, the first time 90 days from now. */
async function makeRotatingKey(rooms: Rooms): Promise<string> {
  const keyId = await makeKey(rooms)
  await callRoad(rooms, 'EnableKeyRotation', { KeyId: keyId, RotationPeriodInDays: 90 })
  return keyId
}
const encrypt = async (rooms: Rooms, keyId: string): Promise<Output> => callRoad(rooms, 'Encrypt', { KeyId: keyId, Plaintext: 'dGV4dA==' })
const decrypt = (rooms: Rooms, blob: unknown): Promise<Output> => callRoad(rooms, 'Decrypt', { CiphertextBlob: blob })
const materialOf = async (rooms: Rooms, keyId: string): Promise<string> =>
  ((await callRoad(rooms, 'DescribeKey', { KeyId: keyId }))['KeyMetadata'] as { readonly CurrentKeyMaterialId: string })
    .CurrentKeyMaterialId
const statusOf = (rooms: Rooms, keyId: string): Promise<Output> => callRoad(rooms, 'GetKeyRotationStatus', { KeyId: keyId })
const nextOf = async (rooms: Rooms, keyId: string): Promise<number> => ((await statusOf(rooms, keyId))['NextRotationDate'] as number) * 1000
const rotationsOf = async (rooms: Rooms, keyId: string): Promise<readonly Output[]> =>
  (await callRoad(rooms, 'ListKeyRotations', { KeyId: keyId }))['Rotations'] as readonly Output[]
async function recordsOf(rooms: Rooms, keyId: string): Promise<readonly Output[]> {
  const { events } = await rooms.trail.lookup({ accountId, region, attribute: { name: 'EventName', value: 'RotateKey' }, limit: 50 })
  return events
    .map(({ record }) => record as Output)
    .filter((record) => (record['serviceEventDetails'] as { readonly keyId: string }).keyId === keyId)
}
async function outcome(call: Promise<unknown>): Promise<string> {
  try {
    await call
    return 'answered'
  } catch (error) {
    const { code, message } = error as { readonly code?: string; readonly message: string }
    return `${code ?? 'Error'}: ${message}`
  }
}

describe('an automatic rotation', () => {
  test('comes when its period is over, not a millisecond earlier, and every period thereafter', async () => {
    const rooms = await here.open()
    const keyId = await makeRotatingKey(rooms)
    const begun = here.clock.now()
    const first = await materialOf(rooms, keyId)
    const { CiphertextBlob: old } = await encrypt(rooms, keyId)

    here.clock.advance(90 * dayMs - 1)
    await rooms.service.runLifecycle()
    expect(await rotationsOf(rooms, keyId)).toEqual([])

    // The job looks once in a while: that it comes late does not move the dates.
    here.clock.advance(60_001)
    await rooms.service.runLifecycle()
    await rooms.service.runLifecycle()
    const second = await materialOf(rooms, keyId)
    expect(second).not.toBe(first)
    expect(await rotationsOf(rooms, keyId)).toEqual([
      {
        KeyId: keyId,
        KeyMaterialId: second,
        KeyMaterialState: 'CURRENT',
        RotationDate: here.clock.now() / 1000,
        RotationType: 'AUTOMATIC',
      },
    ])
    expect(await nextOf(rooms, keyId)).toBe(begun + 180 * dayMs)
    expect(await decrypt(rooms, old)).toMatchObject({ Plaintext: 'dGV4dA==', KeyMaterialId: first })
    expect(await encrypt(rooms, keyId)).toMatchObject({ KeyId: keyArn(region, accountId, keyId) })
    expect(await decrypt(rooms, (await encrypt(rooms, keyId))['CiphertextBlob'])).toMatchObject({ KeyMaterialId: second })
    expect(await recordsOf(rooms, keyId)).toEqual([
      expect.objectContaining({
        eventType: 'AwsServiceEvent',
        eventTime: '2026-04-01T00:01:00Z',
        serviceEventDetails: {
          rotationType: 'AUTOMATIC',
          keyOrigin: 'AWS_KMS',
          previousKeyMaterialId: first,
          currentKeyMaterialId: second,
          keyId,
        },
      }),
    ])

    here.clock.advance(90 * dayMs)
    await rooms.service.runLifecycle()
    expect((await rotationsOf(rooms, keyId)).map(({ KeyMaterialState: state }) => state)).toEqual(['NON_CURRENT', 'CURRENT'])
    expect(await inspect(rooms, new Journal())).toEqual([])
  })

  test('does not come for a key that is disabled or waits for its deletion; it comes as soon as the key is enabled again', async () => {
    const rooms = await here.open()
    const [paused, saved] = [await makeRotatingKey(rooms), await makeRotatingKey(rooms)]
    await callRoad(rooms, 'DisableKey', { KeyId: paused })
    here.clock.advance(89 * dayMs)
    await callRoad(rooms, 'ScheduleKeyDeletion', { KeyId: saved, PendingWindowInDays: 30 })
    here.clock.advance(20 * dayMs)
    await rooms.service.runLifecycle()
    for (const keyId of [paused, saved]) expect(await rotationsOf(rooms, keyId)).toEqual([])
    await callRoad(rooms, 'CancelKeyDeletion', { KeyId: saved })
    for (const keyId of [paused, saved]) await callRoad(rooms, 'EnableKey', { KeyId: keyId })
    await rooms.service.runLifecycle()
    for (const keyId of [paused, saved]) {
      expect(await rotationsOf(rooms, keyId)).toHaveLength(1)
      // What was missed is not made up for: the period begins anew.
      expect(await nextOf(rooms, keyId)).toBe(here.clock.now() + 90 * dayMs)
    }
  })

  test('does not come once the schedule is off', async () => {
    const rooms = await here.open()
    const keyId = await makeRotatingKey(rooms)
    await callRoad(rooms, 'DisableKeyRotation', { KeyId: keyId })
    here.clock.advance(3650 * dayMs)
    await rooms.service.runLifecycle()
    expect(await rotationsOf(rooms, keyId)).toEqual([])
    // Switched on again it starts from then, with AWS's default where no period is said.
    await callRoad(rooms, 'EnableKeyRotation', { KeyId: keyId })
    await rooms.service.runLifecycle()
    expect(await rotationsOf(rooms, keyId)).toEqual([])
    expect(await nextOf(rooms, keyId)).toBe(here.clock.now() + 365 * dayMs)
  })

  test('comes once, however many instances look for it', async () => {
    const [a, b] = [await here.open({ token: here.token }), await here.open({ token: here.other })]
    const keys = [await makeRotatingKey(a), await makeRotatingKey(a)]
    await expect.poll(() => [...b.store.view.allKeys()].filter((key) => key.nextRotationAt !== null).length, { timeout: 30_000 }).toBe(2)
    here.clock.advance(90 * dayMs)
    for (const { service, store } of [a, b]) await store.heartbeat({ ...service.instance, heartbeatAt: here.clock.now() })
    await Promise.all([a, b, a, b].map(({ service }) => service.runLifecycle()))
    // Of what the other one wrote each hears a moment later.
    for (const { store } of [a, b]) await store.refresh()
    for (const keyId of keys) {
      expect(await rotationsOf(a, keyId)).toHaveLength(1)
      expect(await recordsOf(a, keyId)).toHaveLength(1)
      await expect.poll(async () => materialOf(b, keyId), { timeout: 30_000 }).toBe(await materialOf(a, keyId))
      expect(await decrypt(b, (await encrypt(a, keyId))['CiphertextBlob'])).toMatchObject({ Plaintext: 'dGV4dA==' })
    }
    expect(await inspect(a, new Journal())).toEqual([])
  })

  test.each(['before', 'after'] as const)('comes once and is recorded when any one step fails %s it happened', async (mishap) => {
    const wire = new Tripwire()
    const rooms = await here.open({ wire })
    const attempt = async (step: string | undefined): Promise<readonly string[]> => {
      const keyId = await makeRotatingKey(rooms)
      const { CiphertextBlob: old } = await encrypt(rooms, keyId)
      here.clock.advance(90 * dayMs)
      await rooms.store.heartbeat({ ...rooms.service.instance, heartbeatAt: here.clock.now() })
      wire.arm(step, mishap)
      await outcome(rooms.service.runLifecycle())
      const { steps, fired } = wire.disarm()
      expect(fired, step).toBe(step !== undefined)
      // Whoever did not record it had half a minute; then the job does.
      await rooms.service.runLifecycle()
      here.clock.advance(30_000)
      await rooms.service.runLifecycle()
      expect(await rotationsOf(rooms, keyId), step).toHaveLength(1)
      // Twice at worst: where it was recorded and that could not be noted.
      const records = await recordsOf(rooms, keyId)
      expect(records.length, step).toBeGreaterThanOrEqual(1)
      expect(new Set(records.map(({ serviceEventDetails: details }) => JSON.stringify(details))).size, step).toBe(1)
      expect(await decrypt(rooms, old), step).toMatchObject({ Plaintext: 'dGV4dA==' })
      expect(await inspect(rooms, new Journal()), step).toEqual([])
      await callRoad(rooms, 'DisableKeyRotation', { KeyId: keyId })
      return steps
    }
    const steps = await attempt(undefined)
    expect(steps).toEqual(expect.arrayContaining(['store.insertBackingKey 1', 'token.generateKey 1', 'trail.append 1']))
    for (const step of steps) await attempt(step)
  })
})

describe('a rotation on demand', () => {
  test('is refused while an automatic one is near, and allowed again after it', async () => {
    const rooms = await here.open()
    const keyId = await makeRotatingKey(rooms)
    const rotate = () => outcome(callRoad(rooms, 'RotateKeyOnDemand', { KeyId: keyId }))
    here.clock.advance(90 * dayMs - 20 * 60_000 - 1)
    expect(await rotate()).toBe('answered')
    here.clock.advance(1)
    const refused =
      'ConflictException: An automatic rotation of this key is currently in progress or scheduled to begin within the next 20 minutes.'
    expect(await rotate()).toBe(refused)
    here.clock.advance(20 * 60_000)
    expect(await rotate()).toBe(refused)
    await rooms.service.runLifecycle()
    expect(await rotate()).toBe('answered')
    expect((await rotationsOf(rooms, keyId)).map(({ RotationType: type }) => type)).toEqual(['ON_DEMAND', 'AUTOMATIC', 'ON_DEMAND'])
  })

  test('shows when it began while the token is at it, and one that comes second leaves nothing', async () => {
    let release = (): void => undefined
    let held: Promise<void> | undefined
    const slow = new Proxy(here.token, {
      get(target, property) {
        const value: unknown = Reflect.get(target, property, target)
        if (typeof value !== 'function') return value
        if (property !== 'generateKey') return value.bind(target)
        return async (...values: unknown[]) => {
          await held
          return (value as (...values: unknown[]) => Promise<unknown>).apply(target, values)
        }
      },
    })
    const rooms = await here.open({ token: slow })
    const keyId = await makeKey(rooms)
    held = new Promise((resolve) => (release = resolve))
    const calls: Promise<string>[] = []
    for (const materials of [2, 3]) {
      calls.push(outcome(callRoad(rooms, 'RotateKeyOnDemand', { KeyId: keyId })))
      await expect.poll(() => rooms.store.view.backingKeys(keyArn(region, accountId, keyId)).length, { timeout: 30_000 }).toBe(materials)
    }
    expect(await statusOf(rooms, keyId)).toMatchObject({ OnDemandRotationStartDate: here.clock.now() / 1000 })
    expect(await rotationsOf(rooms, keyId)).toEqual([])
    release()
    const said = (await Promise.all(calls)).map((text) => text.replace(/:.*/, ''))
    expect(new Set(said)).toEqual(new Set(['answered', 'ConflictException']))
    expect(await statusOf(rooms, keyId)).toEqual({ KeyId: keyId, KeyRotationEnabled: false })
    expect(await rotationsOf(rooms, keyId)).toHaveLength(1)
    expect(await inspect(rooms, new Journal())).toEqual([])
  })
})

test('a rotation because of the budget is listed as automatic, says its reason in the trail, and is none on demand', async () => {
  const rooms = await here.open({ budget: smallBudget })
  const keyId = await makeKey(rooms)
  for (let i = 0; i < 4; i++) await encrypt(rooms, keyId)
  await rooms.service.budget.close()
  expect(await rotationsOf(rooms, keyId)).toEqual([expect.objectContaining({ RotationType: 'AUTOMATIC', KeyMaterialState: 'CURRENT' })])
  expect(await recordsOf(rooms, keyId)).toEqual([
    expect.objectContaining({
      serviceEventDetails: expect.objectContaining({ rotationType: 'AUTOMATIC' }),
      additionalEventData: { reason: 'the former key material has used half of its budget of encryptions' },
    }),
  ])
  expect(await statusOf(rooms, keyId)).toEqual({ KeyId: keyId, KeyRotationEnabled: false })
})
