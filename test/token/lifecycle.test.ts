/**
 * What happens to keys over days, between two instances and with a device that comes and goes. The clock is moved by the test; token and
 * database are real.
 */

import { spawn } from 'node:child_process'
import { mkdirSync, readdirSync, renameSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { silentLog, type Log } from '../../src/base/log.ts'
import { TokenError, type Token } from '../../src/hsm/token.ts'
import { keyArn } from '../../src/kms/arn.ts'
import { newCkaId } from '../../src/kms/system-keys.ts'
import type { BackingKeyRecord, KeyRecord, KeyState } from '../../src/store/store.ts'
import type { Task } from './crash-child.ts'
import {
  accountId,
  callRoad,
  dayMs,
  inspect,
  Journal,
  keyIdOf,
  openLabToken,
  region,
  Tripwire,
  type Output,
  type Rooms,
} from './crash-rooms.ts'
import { openStore } from '../../src/store/open.ts'
import { builtProgram } from '../programs.ts'
import { samplePrincipal } from '../unit/store-suite.ts'
import { cleanEnvironment } from './environment.ts'
import { makeSoftHsmToken } from './lab.ts'
import { useRooms } from './rooms-kit.ts'

const here = useRooms(2)

const makeKey = async (rooms: Rooms, input: Output = {}): Promise<string> => keyIdOf(await callRoad(rooms, 'CreateKey', input))
const encrypt = async (rooms: Rooms, keyId: string): Promise<string> =>
  (await callRoad(rooms, 'Encrypt', { KeyId: keyId, Plaintext: 'dGV4dA==' }))['CiphertextBlob'] as string
const decrypt = async (rooms: Rooms, blob: string): Promise<unknown> =>
  (await callRoad(rooms, 'Decrypt', { CiphertextBlob: blob }))['Plaintext']
const schedule = (rooms: Rooms, keyId: string): Promise<Output> =>
  callRoad(rooms, 'ScheduleKeyDeletion', { KeyId: keyId, PendingWindowInDays: 7 })
const stateOf = async (rooms: Rooms, keyId: string): Promise<unknown> =>
  ((await callRoad(rooms, 'DescribeKey', { KeyId: keyId }))['KeyMetadata'] as Output)['KeyState']
const objectsIn = async (token: Token, keyId: string): Promise<number> =>
  (await token.allObjects()).filter(({ label }) => label.startsWith(`kms/${keyId.replaceAll('-', '')}/`)).length

async function outcome(call: Promise<unknown>): Promise<string> {
  try {
    await call
    return 'answered'
  } catch (error) {
    const { code, message } = error as { readonly code?: string; readonly message: string }
    return `${code}: ${message}`
  }
}

async function destructionsOf(rooms: Rooms, keyId: string): Promise<readonly Output[]> {
  const { events } = await rooms.trail.lookup({ accountId, region, attribute: { name: 'EventName', value: 'DeleteKey' }, limit: 50 })
  return events
    .map(({ record }) => record)
    .filter((record) => (record['serviceEventDetails'] as { readonly keyId: string }).keyId === keyId)
}

describe('the waiting period', () => {
  test('ends after its last millisecond, and then the key is destroyed in the token', async () => {
    const rooms = await here.open()
    const keyId = await makeKey(rooms)
    const arn = keyArn(region, accountId, keyId)
    const blob = await encrypt(rooms, keyId)
    await callRoad(rooms, 'CreateAlias', { AliasName: 'alias/doomed', TargetKeyId: keyId })
    expect(await schedule(rooms, keyId)).toMatchObject({ DeletionDate: (here.clock.now() + 7 * dayMs) / 1000 })

    here.clock.advance(7 * dayMs - 1)
    await rooms.service.runLifecycle()
    expect(await stateOf(rooms, keyId)).toBe('PendingDeletion')
    expect(await objectsIn(rooms.token, keyId)).toBe(1)

    here.clock.advance(1)
    await rooms.service.runLifecycle()
    expect(await objectsIn(rooms.token, keyId)).toBe(0)
    expect(await outcome(stateOf(rooms, keyId))).toBe(`NotFoundException: Key '${arn}' does not exist`)
    expect(await outcome(decrypt(rooms, blob))).toMatch(
      /^AccessDeniedException: The ciphertext refers to a customer master key that does not exist/,
    )
    expect((await callRoad(rooms, 'ListKeys', {}))['Keys']).toEqual([])
    expect((await callRoad(rooms, 'ListAliases', {}))['Aliases']).toEqual([])
    expect(await outcome(callRoad(rooms, 'CancelKeyDeletion', { KeyId: keyId }))).toMatch(/^NotFoundException/)
    expect(await destructionsOf(rooms, keyId)).toEqual([
      expect.objectContaining({
        eventType: 'AwsServiceEvent',
        eventTime: '2026-01-08T00:00:00Z',
        additionalEventData: { objectsDestroyed: 1 },
        resources: [{ accountId, type: 'AWS::KMS::Key', ARN: arn }],
      }),
    ])
  })

  test('can be cancelled as long as the destruction has not begun, even when it is over', async () => {
    const rooms = await here.open()
    const [before, after] = [await makeKey(rooms), await makeKey(rooms)]
    for (const keyId of [before, after]) await schedule(rooms, keyId)
    here.clock.advance(7 * dayMs - 1)
    await callRoad(rooms, 'CancelKeyDeletion', { KeyId: before })
    here.clock.advance(2)
    await callRoad(rooms, 'CancelKeyDeletion', { KeyId: after })
    await rooms.service.runLifecycle()
    for (const keyId of [before, after]) {
      expect(await stateOf(rooms, keyId)).toBe('Disabled')
      await callRoad(rooms, 'EnableKey', { KeyId: keyId })
      expect(await decrypt(rooms, await encrypt(rooms, keyId))).toBe('dGV4dA==')
    }
  })

  test('cannot be cancelled once the destruction has begun; it is pending deletion to the end', async () => {
    const wire = new Tripwire()
    const rooms = await here.open({ wire })
    const keyId = await makeKey(rooms)
    const arn = keyArn(region, accountId, keyId)
    await schedule(rooms, keyId)
    here.clock.advance(7 * dayMs)
    wire.arm('token.destroyKey 1')
    await rooms.service.runLifecycle()
    expect(wire.disarm().fired).toBe(true)
    expect(await stateOf(rooms, keyId)).toBe('PendingDeletion')
    for (const operation of ['CancelKeyDeletion', 'EnableKey', 'ScheduleKeyDeletion']) {
      expect(await outcome(callRoad(rooms, operation, { KeyId: keyId }))).toBe(`KMSInvalidStateException: ${arn} is pending deletion.`)
    }
    await rooms.service.runLifecycle()
    expect(await outcome(stateOf(rooms, keyId))).toMatch(/^NotFoundException/)
    expect(await inspect(rooms, new Journal())).toEqual([])
  })

  test('has one end when a cancellation and the job meet: cancelled and whole, or destroyed', async () => {
    const rooms = await here.open()
    const ends = new Set<string>()
    for (let round = 0; round < 12; round++) {
      const keyId = await makeKey(rooms)
      const blob = await encrypt(rooms, keyId)
      await schedule(rooms, keyId)
      here.clock.advance(7 * dayMs)
      const job = rooms.service.runLifecycle()
      // A little later each time, so that the two meet at different points.
      for (let turn = 0; turn < round; turn++) await new Promise((resolve) => setImmediate(resolve))
      const cancelled = await outcome(callRoad(rooms, 'CancelKeyDeletion', { KeyId: keyId }))
      await job
      ends.add(cancelled.replace(keyId, '…'))
      const present = cancelled === 'answered'
      expect(await objectsIn(rooms.token, keyId), cancelled).toBe(present ? 1 : 0)
      expect((await destructionsOf(rooms, keyId)).length).toBe(present ? 0 : 1)
      if (present) await callRoad(rooms, 'EnableKey', { KeyId: keyId })
      expect((await outcome(decrypt(rooms, blob))) === 'answered').toBe(present)
    }
    expect(
      [...ends].every((end) => /^(?:answered|KMSInvalidStateException|NotFoundException)/.test(end)),
      [...ends].join(),
    ).toBe(true)
  })
})

describe('two instances on one database and one token', () => {
  const pair = async (): Promise<readonly [Rooms, Rooms]> => [
    await here.open({ token: here.token }),
    await here.open({ token: here.other }),
  ]

  test("see each other's keys and aliases by themselves", async () => {
    const [a, b] = await pair()
    const [first, second] = [await makeKey(a), await makeKey(b)]
    await callRoad(a, 'CreateAlias', { AliasName: 'alias/shared', TargetKeyId: first })
    const target = async (rooms: Rooms): Promise<unknown> =>
      ((await callRoad(rooms, 'DescribeKey', { KeyId: 'alias/shared' }))['KeyMetadata'] as Output)['KeyId']
    await expect.poll(() => outcome(target(b)), { timeout: 30_000 }).toBe('answered')
    expect(await target(b)).toBe(first)
    await expect.poll(() => a.store.view.keyById(region, second)?.state, { timeout: 30_000 }).toBe('Enabled')
    await callRoad(a, 'UpdateAlias', { AliasName: 'alias/shared', TargetKeyId: second })
    await expect.poll(() => target(b), { timeout: 30_000 }).toBe(second)
    // And the material: what one encrypts the other decrypts, also with a key that is younger than its own process of the library.
    expect(await decrypt(b, await encrypt(a, first))).toBe('dGV4dA==')
    expect(await decrypt(a, await encrypt(b, second))).toBe('dGV4dA==')
  })

  test('destroy a key once, whoever is asked first', async () => {
    const [a, b] = await pair()
    const keys = [await makeKey(a), await makeKey(a), await makeKey(a)]
    for (const keyId of keys) await schedule(a, keyId)
    await expect
      .poll(() => [...b.store.view.allKeys()].filter(({ state }) => state === 'PendingDeletion').length, { timeout: 30_000 })
      .toBe(3)
    here.clock.advance(7 * dayMs)
    for (const { service, store } of [a, b]) await store.heartbeat({ ...service.instance, heartbeatAt: here.clock.now() })
    await Promise.all([a, b, a, b].map(({ service }) => service.runLifecycle()))
    for (const keyId of keys) {
      expect(await destructionsOf(a, keyId)).toEqual([expect.objectContaining({ additionalEventData: { objectsDestroyed: 1 } })])
      expect(await objectsIn(here.token, keyId)).toBe(0)
    }
    for (const { store } of [a, b]) await expect.poll(() => [...store.view.allKeys()], { timeout: 30_000 }).toEqual([])
    expect(await inspect(a, new Journal())).toEqual([])
  })

  test('leave the job to the one that has the lease, until that one ends', async () => {
    const [a, b] = await pair()
    await a.service.runLifecycle()
    const keyId = await makeKey(b)
    await schedule(b, keyId)
    here.clock.advance(7 * dayMs)
    for (const { service, store } of [a, b]) await store.heartbeat({ ...service.instance, heartbeatAt: here.clock.now() })
    await expect.poll(() => a.store.view.keyById(region, keyId)?.state, { timeout: 30_000 }).toBe('PendingDeletion')
    // Time has passed beyond the lease, so it is taken anew; from then on the other one leaves the job alone.
    await a.service.runLifecycle()
    expect(await destructionsOf(b, keyId)).toHaveLength(1)
    const other = await makeKey(b)
    await schedule(b, other)
    await b.store.updateKey(keyArn(region, accountId, other), () => ({ deletionAt: here.clock.now() }))
    await b.service.runLifecycle()
    expect(await stateOf(b, other)).toBe('PendingDeletion')
    await a.close()
    await b.service.runLifecycle()
    expect(await outcome(stateOf(b, other))).toMatch(/^NotFoundException/)
  })

  test('take over at once what a killed one on the same machine held and had begun', async () => {
    const survivor = await here.open()
    await survivor.service.close()
    const task: Task = {
      lab: { library: here.lab.library, label: here.lab.label, pinFile: here.lab.pinFile, env: here.lab.env, dir: here.dir },
      scenario: 'destruction',
      mishap: 'kill',
      step: 'token.destroyKey 1',
      nowMs: here.clock.now(),
      entries: [],
      last: false,
    }
    await survivor.close()
    // The other process makes a key, lets its time run out, and dies when it has just begun to destroy it.
    const file = join(here.dir, 'task.json')
    mkdirSync(here.dir, { recursive: true })
    writeFileSync(file, JSON.stringify(task))
    const child = spawn(process.execPath, [builtProgram('test/token/crash-child.ts'), file], {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: cleanEnvironment(),
    })
    expect(await new Promise((resolve) => child.once('close', (_code, signal) => resolve(signal)))).toBe('SIGKILL')

    // No second has passed on the clock since the dead one took the lease.
    here.clock.advance(7 * dayMs)
    const rooms = await here.open()
    expect([...rooms.store.view.allKeys()]).toEqual([])
    expect((await rooms.store.instances()).map(({ id }) => id)).toEqual([rooms.service.instance.id])
    expect(await inspect(rooms, new Journal())).toEqual([])
  })

  test('cannot hurt each other when one is only thought dead: a key is made whole or not at all', async () => {
    const gate = openGate()
    const slow = await here.open({ token: heldUp(here.token, gate) })
    const other = await here.open({ token: here.other })
    const first = await makeKey(other)
    gate.close()
    const making = outcome(makeKey(slow))
    await gate.reached
    await expect.poll(() => [...other.store.view.allKeys()].filter(({ state }) => state === 'Creating').length, { timeout: 30_000 }).toBe(1)
    // For a while nothing is heard of the slow one: the other tidies up after it.
    here.clock.advance(60_000)
    await other.store.heartbeat({ ...other.service.instance, heartbeatAt: here.clock.now() })
    await slow.store.releaseLease('lifecycle', slow.service.instance.id)
    await other.service.runLifecycle()
    expect([...other.store.view.allKeys()].map(({ keyId }) => keyId)).toEqual([first])
    // It was not dead. Its key is refused to it, and what it made in the token is gone again.
    gate.open()
    expect(await making).toMatch(/^KMSInternalException/)
    expect(await inspect(other, new Journal())).toEqual([])
  })
})

describe('an instance', () => {
  test('is dead when its process is gone, when nothing was heard of it for long, or when it ended; else it is left alone', async () => {
    const rooms = await here.open()
    const gone = spawn(process.execPath, ['-e', ''])
    await new Promise((resolve) => gone.once('close', resolve))
    const host = hostname()
    const now = here.clock.now()
    const listed = [
      { id: 'process gone', host, pid: gone.pid ?? 0, heartbeatAt: now, dead: true },
      { id: 'running here', host, pid: process.pid, heartbeatAt: now, dead: false },
      { id: 'running here, silent', host, pid: process.pid, heartbeatAt: now - 31_000, dead: true },
      { id: 'elsewhere', host: 'another-host', pid: gone.pid ?? 0, heartbeatAt: now - 29_000, dead: false },
      { id: 'elsewhere, silent', host: 'another-host', pid: 1, heartbeatAt: now - 31_000, dead: true },
    ]
    for (const { dead: _, ...instance } of listed) await rooms.store.heartbeat(instance)
    const all = [...listed, { id: 'ended in order', dead: true }]
    for (const { id } of all) await insertUnfinished(rooms, id)
    await rooms.service.runLifecycle()
    const left = [...rooms.store.view.allKeys()].map(({ description }) => description)
    expect(left.toSorted()).toEqual(
      all
        .filter(({ dead }) => !dead)
        .map(({ id }) => id)
        .toSorted(),
    )
    expect((await rooms.store.instances()).map(({ id }) => id).toSorted()).toEqual(
      [rooms.service.instance.id, ...listed.filter(({ dead }) => !dead).map(({ id }) => id)].toSorted(),
    )
  })

  test('binds what one of a former version stored by names beside it, when that has ended', async () => {
    mkdirSync(here.dir, { recursive: true })
    const former = await openStore({ file: join(here.dir, 'holdfast.db'), clock: here.clock, log: silentLog })
    await former.heartbeat({ id: 'former', host: hostname(), pid: process.pid, heartbeatAt: here.clock.now() })
    const rooms = await here.open()
    const key = rooms.store.view.keyById(region, await makeKey(rooms))
    const user = samplePrincipal('alice', { uniqueId: 'AIDAALICEALICEALICE' })
    await rooms.store.insertPrincipal(user)
    await former.refresh()
    const policyOf = (principal: string): string =>
      JSON.stringify({ Statement: [{ Effect: 'Allow', Principal: { AWS: principal }, Action: 'kms:*', Resource: '*' }] })
    await former.updateKey(key?.arn ?? '', () => ({ policy: policyOf(user.arn) }))
    await rooms.store.refresh()
    const stored = (): string | undefined => rooms.store.view.key(key?.arn ?? '')?.policy
    await rooms.service.runLifecycle()
    expect(stored()).toBe(policyOf(user.arn))
    await former.removeInstance('former')
    await former.close()
    await rooms.service.runLifecycle()
    expect(stored()).toBe(policyOf(user.uniqueId))
  })

  test('removes what it could not finish itself, as soon as the device is back', async () => {
    let down = false
    const token = new Proxy(here.token, {
      get(target, property) {
        const value: unknown = Reflect.get(target, property, target)
        if (typeof value !== 'function') return value
        if (property !== 'generateKey' && property !== 'destroyKey') return value.bind(target)
        return async (...values: unknown[]) => {
          // The object is made, the answer is lost, and then nothing gets through.
          if (property === 'generateKey' || !down) await (value as (...values: unknown[]) => Promise<unknown>).apply(target, values)
          if (down) throw new TokenError('unavailable', 'no answer')
          return 0
        }
      },
    })
    const rooms = await here.open({ token })
    down = true
    expect(await outcome(makeKey(rooms))).toMatch(/^DependencyTimeoutException/)
    await rooms.service.runLifecycle()
    expect([...rooms.store.view.allKeys()].map(({ state }) => state)).toEqual(['Creating'])
    expect((await callRoad(rooms, 'ListKeys', {}))['Keys']).toEqual([])
    down = false
    await rooms.service.runLifecycle()
    expect([...rooms.store.view.allKeys()]).toEqual([])
    expect(await inspect(rooms, new Journal())).toEqual([])
  })

  test('left many keys unmade: one agent looks for all of them, what is there is destroyed, and none stays', async () => {
    const token = await openLabToken(here.lab)
    const rooms = await here.open({ token })
    const { store, service } = rooms
    const whole = await makeKey(rooms)
    const sample = store.view.key(keyArn(region, accountId, whole))
    const [material] = store.view.backingKeys(sample?.arn ?? '')
    if (sample === undefined || material === undefined) throw new Error('no key was made')
    const unmade = await Promise.all(
      Array.from({ length: 8 }, async (_, n): Promise<BackingKeyRecord> => {
        const keyId = `00000000-0000-4000-8000-00000000000${n}`
        const arn = keyArn(region, accountId, keyId)
        const backing: BackingKeyRecord = {
          ...material,
          materialId: `${n}`.repeat(64),
          keyArn: arn,
          ckaId: newCkaId(token),
          label: `kms/${keyId.replaceAll('-', '')}/1`,
          state: 'creating',
          creator: 'a process that is no more',
        }
        await store.insertKey({ ...sample, arn, keyId, state: 'Creating', materialId: null, creator: backing.creator }, backing)
        return backing
      }),
    )
    // Of some the objects are there, made by another process of the library.
    for (const { ckaId, label } of unmade.slice(0, 3)) await here.other.generateKey({ kind: 'wrapping', ckaId, label })
    const { respawns } = token.health()
    await service.runLifecycle()
    expect(token.health().respawns).toBe(respawns + 1)
    expect([...store.view.allKeys()].map(({ keyId }) => keyId)).toEqual([whole])
    expect((await token.allObjects()).filter(({ label }) => label.startsWith('kms/0000'))).toEqual([])
    expect(await decrypt(rooms, await encrypt(rooms, whole))).toBe('dGV4dA==')
    await rooms.close()
    await token.close()
  })
})

describe('a key whose object the token does not show', () => {
  /** Takes the one object file away that `make` adds; answers how to put it back. */
  async function hideObjectOf(
    make: () => Promise<string>,
  ): Promise<{ readonly keyId: string; readonly hide: () => void; readonly restore: () => void }> {
    const files = (): readonly string[] =>
      readdirSync(here.lab.dir, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.object'))
    const before = new Set(files())
    const keyId = await make()
    const added = files().filter((name) => !before.has(name))
    if (added.length !== 1) throw new Error(`a key added ${added.length} object files`)
    const file = join(here.lab.dir, added[0] ?? '')
    const aside = join(here.lab.dir, `aside`)
    return { keyId, hide: () => renameSync(file, aside), restore: () => renameSync(aside, file) }
  }

  test('is Unavailable, never deleted, and Enabled again when the object is back', async () => {
    const said: string[] = []
    let rooms = await here.open()
    const { keyId, hide, restore } = await hideObjectOf(() => makeKey(rooms))
    const arn = keyArn(region, accountId, keyId)
    const blob = await encrypt(rooms, keyId)
    await rooms.close()

    hide()
    const blind = await openLabToken(here.lab)
    const log: Log = { ...silentLog, error: (_fields, message) => void said.push(message) }
    rooms = await here.open({ token: blind, log })
    expect(await stateOf(rooms, keyId)).toBe('Enabled')
    expect(await outcome(decrypt(rooms, blob))).toBe(`KMSInvalidStateException: ${arn} is unavailable.`)
    expect(await stateOf(rooms, keyId)).toBe('Unavailable')
    expect(await outcome(encrypt(rooms, keyId))).toBe(`KMSInvalidStateException: ${arn} is unavailable.`)
    expect(said).toEqual([expect.stringContaining('it is Unavailable until they are back')])
    // Rounds of the job and a restart change nothing.
    await rooms.service.runLifecycle()
    await rooms.close()
    rooms = await here.open({ token: blind, log })
    expect(await stateOf(rooms, keyId)).toBe('Unavailable')

    // Its time may run out meanwhile, but what is not there cannot be destroyed and is not forgotten.
    await schedule(rooms, keyId)
    here.clock.advance(7 * dayMs)
    await rooms.service.runLifecycle()
    expect(await stateOf(rooms, keyId)).toBe('PendingDeletion')
    expect(said.at(-1)).toContain('nothing is destroyed')
    await callRoad(rooms, 'CancelKeyDeletion', { KeyId: keyId })
    await callRoad(rooms, 'EnableKey', { KeyId: keyId })
    expect(await outcome(decrypt(rooms, blob))).toMatch(/is unavailable/)
    await rooms.close()
    await blind.close()

    restore()
    const seeing = await openLabToken(here.lab)
    rooms = await here.open({ token: seeing })
    expect(await stateOf(rooms, keyId)).toBe('Enabled')
    expect(await decrypt(rooms, blob)).toBe('dGV4dA==')
    await rooms.close()
    await seeing.close()
  })

  test('is asked for together with all others: one listing in a round, and none when no key waits', async () => {
    const asked: string[] = []
    const token = new Proxy(here.token, {
      get(target, property) {
        const value: unknown = Reflect.get(target, property, target)
        if (typeof value !== 'function') return value
        if (property === 'objects' || property === 'allObjects') asked.push(property)
        return value.bind(target)
      },
    })
    const rooms = await here.open({ token })
    const keyIds = [await makeKey(rooms), await makeKey(rooms), await makeKey(rooms)]
    const [lost] = rooms.store.view.backingKeys(keyArn(region, accountId, keyIds[2] ?? ''))
    await here.token.destroyKey(lost?.ckaId ?? '', lost?.label ?? '')
    for (const keyId of keyIds) await rooms.store.updateKey(keyArn(region, accountId, keyId), () => ({ state: 'Unavailable' }))
    asked.length = 0
    await rooms.service.runLifecycle()
    expect(asked).toEqual(['allObjects'])
    expect(await Promise.all(keyIds.map((keyId) => stateOf(rooms, keyId)))).toEqual(['Enabled', 'Enabled', 'Unavailable'])
    await rooms.store.updateKey(keyArn(region, accountId, keyIds[2] ?? ''), () => ({ state: 'Disabled' }))
    asked.length = 0
    await rooms.service.runLifecycle()
    expect(asked).toEqual([])
  })

  test('and whose destruction had begun is forgotten only after a fresh agent looked, and the record says that there was nothing', async () => {
    const said: string[] = []
    const other = await openLabToken(here.lab)
    const log: Log = { ...silentLog, warn: (_fields, message) => void said.push(message) }
    const rooms = await here.open({ token: other, log })
    const keyId = await makeKey(rooms)
    const arn = keyArn(region, accountId, keyId)
    const [lost] = rooms.store.view.backingKeys(arn)
    await here.token.destroyKey(lost?.ckaId ?? '', lost?.label ?? '')
    await rooms.store.updateKey(arn, () => ({ state: 'Destroying' }))
    const { respawns } = other.health()
    await rooms.service.runLifecycle()
    expect(other.health().respawns).toBe(respawns + 1)
    expect(rooms.store.view.key(arn)).toBeUndefined()
    expect(await destructionsOf(rooms, keyId)).toEqual([
      expect.objectContaining({
        additionalEventData: { objectsDestroyed: 0, note: expect.stringContaining('shows no object of this key') as string },
      }),
    ])
    expect(said).toEqual([expect.stringContaining('shows no object of this key')])
    await rooms.close()
    await other.close()
  })

  test('is not taken for missing because somebody hands in a blob of another kind', async () => {
    const rooms = await here.open()
    const keyId = await makeKey(rooms)
    const blob = Buffer.from(await encrypt(rooms, keyId), 'base64')
    const { createHash } = await import('node:crypto')
    for (const scheme of [1, 2, 3, 4, 5]) {
      const forged = Buffer.from(blob)
      forged[2] = scheme
      createHash('sha256').update(forged.subarray(0, 52)).digest().copy(forged, 52, 0, 8)
      for (const body of [forged, Buffer.concat([forged, Buffer.alloc(400, 1)]), forged.subarray(0, 61)]) {
        if (body.equals(blob)) continue
        expect(await outcome(decrypt(rooms, body.toString('base64'))), `scheme ${scheme}`).toBe('InvalidCiphertextException: ')
      }
    }
    expect(await stateOf(rooms, keyId)).toBe('Enabled')
    expect(await decrypt(rooms, blob.toString('base64'))).toBe('dGV4dA==')
  })
})

describe('a device that is down', () => {
  test('is a retryable error to callers, changes no key, and serves again when it is back', async () => {
    const pids: number[] = []
    const log: Log = {
      ...silentLog,
      info: (fields, message) => void (message === 'the token is ready' && pids.push(Number(fields['pid']))),
    }
    const own = await makeSoftHsmToken()
    const token = await openLabToken(own, log)
    const rooms = await here.open({ token, dir: join(own.dir, 'run') })
    const keyId = await makeKey(rooms)
    const blob = await encrypt(rooms, keyId)

    // The token's directory goes away, so that a new process of the library finds nothing either.
    const tokenDir = join(own.dir, 'token')
    renameSync(tokenDir, `${tokenDir}-away`)
    process.kill(pids.at(-1) ?? 0, 'SIGKILL')
    await expect.poll(() => outcome(decrypt(rooms, blob)), { timeout: 30_000 }).toMatch(/^DependencyTimeoutException/)
    expect(await outcome(makeKey(rooms))).toMatch(/^DependencyTimeoutException/)
    expect(await outcome(callRoad(rooms, 'GenerateRandom', { NumberOfBytes: 1024 }))).toMatch(/^(?:DependencyTimeoutException|answered)/)
    // What needs no device goes on, and no key is blamed.
    expect(await stateOf(rooms, keyId)).toBe('Enabled')
    await rooms.service.runLifecycle()

    renameSync(`${tokenDir}-away`, tokenDir)
    await expect.poll(() => outcome(decrypt(rooms, blob)), { timeout: 60_000, interval: 500 }).toBe('answered')
    await rooms.service.runLifecycle()
    expect(await inspect(rooms, new Journal())).toEqual([])
    await rooms.close()
    await token.close()
    await own.remove()
  })
})

// ---- what the tests above stand on ----

/** A key and its material as an instance leaves them that stops right after it wrote them. Its description is the instance's id. */
async function insertUnfinished(rooms: Rooms, creator: string): Promise<void> {
  const keyId = crypto.randomUUID()
  const state: KeyState = 'Creating'
  const key: KeyRecord = {
    arn: keyArn(region, accountId, keyId),
    region,
    accountId,
    keyId,
    state,
    spec: 'SYMMETRIC_DEFAULT',
    usage: 'ENCRYPT_DECRYPT',
    origin: 'AWS_KMS',
    customKeyStoreId: null,
    xksKeyId: null,
    description: creator,
    multiRegion: false,
    primaryRegion: null,
    token: 'default',
    createdAt: here.clock.now(),
    deletionAt: null,
    deletionWindowDays: null,
    policy: '{}',
    tags: [],
    materialId: null,
    creator,
    rotationPeriodDays: null,
    nextRotationAt: null,
    managedBy: null,
    version: 1,
  }
  const backing: BackingKeyRecord = {
    materialId: Buffer.from(keyId).toString('hex').slice(0, 64),
    keyArn: key.arn,
    ckaId: newCkaId(rooms.token),
    label: `kms/${keyId}/1`.slice(0, 40),
    ordinal: 1,
    state: 'creating',
    createdAt: here.clock.now(),
    encryptionsReserved: 0,
    validTo: null,
    description: null,
    rotationType: null,
    rotatedAt: null,
    rotationRecorded: false,
    creator,
  }
  await rooms.store.insertKey(key, backing)
}

interface Gate {
  readonly reached: Promise<void>
  close(): void
  open(): void
  pass(): Promise<void>
}

function openGate(): Gate {
  let reach = (): void => undefined
  let open = (): void => undefined
  let way: Promise<void> = Promise.resolve()
  const reached = new Promise<void>((resolve) => (reach = resolve))
  let isClosed = false
  return {
    reached,
    close() {
      isClosed = true
      way = new Promise((resolve) => (open = resolve))
    },
    open: () => open(),
    async pass() {
      if (isClosed) reach()
      await way
    },
  }
}

/** A token whose key generation waits at the gate. */
const heldUp = (token: Token, gate: Gate): Token =>
  new Proxy(token, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target)
      if (typeof value !== 'function') return value
      if (property !== 'generateKey') return value.bind(target)
      return async (...values: unknown[]) => {
        await gate.pass()
        return (value as (...values: unknown[]) => Promise<unknown>).apply(target, values)
      }
    },
  })
