/**
 * Every step at which replicating, rotating, moving and destroying a multi-Region key can stop, on two SoftHSM2 tokens: afterwards nothing is
 * lost in either token, nothing is orphaned, and what one region encrypts the other decrypts.
 */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { trustTransportKeys } from '../../softhsm/provision.mjs'
import { ManualClock } from '../../src/base/clock.ts'
import type { Token } from '../../src/hsm/token.ts'
import {
  callRoad,
  dayMs,
  inspect,
  Journal,
  keyIdOf,
  openLabToken,
  openRooms,
  otherRegion,
  region,
  smallBudget,
  Tripwire,
  type Entry,
  type Mishap,
  type Rooms,
} from './crash-rooms.ts'
import type { Line, Task } from './crash-child.ts'
import { builtProgram } from '../programs.ts'
import { cleanEnvironment } from './environment.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'

const program = builtProgram('test/token/crash-child.ts')

let labs: readonly LabToken[] = []
let tokens: readonly Token[] = []
let runs = 0

beforeAll(async () => {
  labs = await Promise.all(['here', 'there'].map((label) => makeSoftHsmToken({ label })))
  await trustTransportKeys(labs.map((lab) => ({ ...lab, env: { SOFTHSM2_CONF: lab.env['SOFTHSM2_CONF'] ?? '' } })))
  tokens = await Promise.all(labs.map((lab) => openLabToken(lab)))
})
afterAll(async () => {
  await Promise.all(tokens.map((token) => token.close()))
  for (const lab of labs) await lab.remove()
})

const text = Buffer.from('text').toString('base64')

async function primary(rooms: Rooms, journal: Journal): Promise<string> {
  return keyIdOf(await callRoad(rooms, 'CreateKey', { MultiRegion: true }, journal))
}

/** With a material that is no longer current. */
async function rotated(rooms: Rooms, journal: Journal): Promise<string> {
  const keyId = await primary(rooms, journal)
  await callRoad(rooms, 'RotateKeyOnDemand', { KeyId: keyId }, journal)
  return keyId
}

async function pair(rooms: Rooms, journal: Journal): Promise<string> {
  const keyId = await primary(rooms, journal)
  await callRoad(rooms, 'ReplicateKey', { KeyId: keyId, ReplicaRegion: otherRegion }, journal)
  return keyId
}

interface Scenario {
  readonly mishaps: readonly Mishap[]
  prepare(rooms: Rooms, journal: Journal): Promise<string>
  attempt(rooms: Rooms, journal: Journal, keyId: string): Promise<unknown>
  /** What must hold of the key in the end: all of it or nothing, where calls are concerned. */
  readonly ends: (keys: readonly (string | undefined)[]) => boolean
}

const scenarios: Readonly<Record<string, Scenario>> = {
  ReplicateKey: {
    mishaps: ['before', 'cut'],
    prepare: rotated,
    attempt: (rooms, journal, keyId) => callRoad(rooms, 'ReplicateKey', { KeyId: keyId, ReplicaRegion: otherRegion }, journal),
    ends: ([here, there]) => here === 'Enabled' && (there === undefined || there === 'Enabled'),
  },
  'ReplicateKey of a key for imports': {
    mishaps: ['cut'],
    prepare: async (rooms, journal) => keyIdOf(await callRoad(rooms, 'CreateKey', { MultiRegion: true, Origin: 'EXTERNAL' }, journal)),
    attempt: (rooms, journal, keyId) => callRoad(rooms, 'ReplicateKey', { KeyId: keyId, ReplicaRegion: otherRegion }, journal),
    ends: ([here, there]) => here === 'PendingImport' && (there === undefined || there === 'PendingImport'),
  },
  rotation: {
    mishaps: ['cut'],
    prepare: pair,
    attempt: (rooms, journal, keyId) => callRoad(rooms, 'RotateKeyOnDemand', { KeyId: keyId }, journal),
    ends: ([here, there]) => here === 'Enabled' && there === 'Enabled',
  },
  UpdatePrimaryRegion: {
    mishaps: ['after'],
    prepare: pair,
    attempt: (rooms, journal, keyId) => callRoad(rooms, 'UpdatePrimaryRegion', { KeyId: keyId, PrimaryRegion: otherRegion }, journal),
    ends: ([here, there]) => here === 'Enabled' && there === 'Enabled',
  },
  'the replica’s destruction': {
    mishaps: ['cut'],
    async prepare(rooms, journal) {
      const keyId = await pair(rooms, journal)
      await callRoad(rooms, 'ScheduleKeyDeletion', { KeyId: keyId, PendingWindowInDays: 7 }, journal)
      await callRoad(rooms, 'ScheduleKeyDeletion', { KeyId: keyId, PendingWindowInDays: 7 }, undefined, otherRegion)
      rooms.clock.advance(7 * dayMs)
      return keyId
    },
    attempt: (rooms) => rooms.service.runLifecycle(),
    ends: ([here, there]) => here === 'PendingDeletion' && there === undefined,
  },
}

/** To end before one of these is to end before the next write. */
const withoutEffect =
  /^(?:token\.(?:objects|allObjects|transportKey|exportKey)|store\.(?:instances|acquireLease|releaseLease|importObjects?)) /

/** All that a multi-Region key must be at any time. */
async function inspectAll(rooms: Rooms, journal: Journal): Promise<readonly string[]> {
  const problems = [...(await inspect(rooms, journal))]
  const { view } = rooms.store
  for (const { arn } of view.allKeys()) {
    // What is encrypted here uses up budget: the rotation that follows is waited for, and looked at when it is over.
    await rooms.service.budget.close()
    const key = view.key(arn)
    if (!key) continue
    const related = view.multiRegionKeys(key.accountId, key.keyId)
    const primaries = related.filter(({ primaryRegion, region: own }) => primaryRegion === own)
    if (primaries.length !== 1) problems.push(`${key.keyId} has ${primaries.length} primaries`)
    const materials = (of: { readonly arn: string }) => view.backingKeys(of.arn).map(({ materialId }) => materialId)
    for (const other of related) {
      if (other.primaryRegion !== key.primaryRegion || other.materialId !== key.materialId)
        problems.push(`${key.arn} and ${other.arn} differ`)
      if (materials(other).join() !== materials(key).join()) problems.push(`${other.arn} has not the material of ${key.arn}`)
    }
    for (const other of related) {
      if (key.state !== 'Enabled' || other.state !== 'Enabled') continue
      const { CiphertextBlob } = await callRoad(rooms, 'Encrypt', { KeyId: key.arn, Plaintext: text }, undefined, key.region)
      const { Plaintext } = await callRoad(rooms, 'Decrypt', { CiphertextBlob }, undefined, other.region)
      if (Plaintext !== text) problems.push(`${other.arn} does not decrypt what ${key.arn} encrypts`)
    }
  }
  return problems
}

/** An empty store, on tokens without keys of ours. */
async function fresh() {
  const [token, otherToken] = tokens
  if (!token || !otherToken) throw new Error('two tokens')
  for (const each of tokens) {
    const ours = (await each.allObjects()).filter(({ label }) => !/^holdfast\/(?:canary|transport)/.test(label))
    for (const { ckaId, label } of ours) await each.destroyKey(ckaId, label)
  }
  const wire = new Tripwire()
  const dir = join(labs[0]?.dir ?? '', `run-${++runs}`)
  return { wire, options: { dir, token, otherToken, clock: new ManualClock(Date.UTC(2026, 0, 1)), wire } }
}

const endOf = (rooms: Rooms, keyId: string): readonly (string | undefined)[] =>
  [region, otherRegion].map((at) => rooms.store.view.keyById(at, keyId)?.state)

describe.each(Object.entries(scenarios))('%s', (_name, scenario) => {
  test.each(scenario.mishaps)('holds when any one step goes wrong: %s', { timeout: 120_000 }, async (mishap) => {
    const { options, wire } = await fresh()
    const journal = new Journal()
    let rooms = await openRooms(options)
    try {
      const planned = await scenario.prepare(rooms, journal)
      wire.arm()
      await scenario.attempt(rooms, journal, planned)
      const taken = wire.disarm().steps
      const steps = mishap === 'cut' ? taken.filter((step) => !withoutEffect.test(step)) : taken
      expect(steps.length).toBeGreaterThan(1)
      for (const step of steps) {
        const keyId = await scenario.prepare(rooms, journal)
        wire.arm(step, mishap)
        // Which error, if any, is the caller's affair: the journal knows what was answered.
        await scenario.attempt(rooms, journal, keyId).catch(() => undefined)
        expect(wire.disarm().fired, step).toBe(true)
        if (mishap === 'cut') {
          await rooms.close()
          rooms = await openRooms(options)
        }
        await rooms.service.runLifecycle()
        expect([step, endOf(rooms, keyId), scenario.ends(endOf(rooms, keyId))]).toEqual([step, endOf(rooms, keyId), true])
      }
      // What a step lost or left stays lost or left: looked for once.
      expect(await inspectAll(rooms, journal)).toEqual([])
    } finally {
      await rooms.close()
    }
  })
})

test('keys that are related draw on one budget, and rotate as one when it is used', async () => {
  const { options } = await fresh()
  const rooms = await openRooms({ ...options, budget: smallBudget })
  try {
    const journal = new Journal()
    const keyId = await pair(rooms, journal)
    const counts = new Map<string, number>()
    for (let i = 0; i < 20; i++) {
      const [at, elsewhere] = i % 2 === 0 ? [region, otherRegion] : [otherRegion, region]
      const { CiphertextBlob } = await callRoad(rooms, 'Encrypt', { KeyId: keyId, Plaintext: text }, undefined, at)
      const opened = await callRoad(rooms, 'Decrypt', { CiphertextBlob }, undefined, elsewhere)
      const material = String(opened['KeyMaterialId'])
      counts.set(material, (counts.get(material) ?? 0) + 1)
    }
    await rooms.service.budget.close()
    expect(counts.size).toBeGreaterThan(2)
    for (const [material, count] of counts) {
      const rows = [region, otherRegion].map((at) => rooms.store.view.backingKey(rooms.store.view.keyById(at, keyId)?.arn ?? '', material))
      expect(rows[0]?.encryptionsReserved).toBe(rows[1]?.encryptionsReserved)
      expect(rows[0]?.encryptionsReserved).toBeLessThanOrEqual(smallBudget.ceiling)
      expect(count).toBeLessThanOrEqual(rows[0]?.encryptionsReserved ?? 0)
    }
    expect(await inspectAll(rooms, journal)).toEqual([])
  } finally {
    await rooms.close()
  }
})

test('two regions on one token replicate to each other when it trusts its own transport key', async () => {
  const { options } = await fresh()
  const [lab] = labs
  if (!lab) throw new Error('a token')
  const provisioned = { ...lab, env: { SOFTHSM2_CONF: lab.env['SOFTHSM2_CONF'] ?? '' } }
  const { otherToken: _other, ...onOne } = options
  const rooms = await openRooms(onOne)
  try {
    const journal = new Journal()
    const keyId = await primary(rooms, journal)
    const replicate = () => callRoad(rooms, 'ReplicateKey', { KeyId: keyId, ReplicaRegion: otherRegion }, journal)
    await expect(replicate()).rejects.toThrow(/The key material cannot be copied from token to token: .*CKA_TRUSTED/)
    await trustTransportKeys([provisioned, provisioned])
    await replicate()
    await callRoad(rooms, 'RotateKeyOnDemand', { KeyId: keyId }, journal)
    expect(await inspectAll(rooms, journal)).toEqual([])
  } finally {
    await rooms.close()
  }
})

test(
  'a process that is killed while the material goes over leaves nothing that the next one does not remove',
  { timeout: 120_000 },
  async () => {
    const [lab, otherLab] = await Promise.all(['mine', 'yours'].map((label) => makeSoftHsmToken({ label })))
    if (!lab || !otherLab) throw new Error('two tokens')
    try {
      await trustTransportKeys([lab, otherLab].map((each) => ({ ...each, env: { SOFTHSM2_CONF: each.env['SOFTHSM2_CONF'] ?? '' } })))
      const entries: Entry[] = []
      const run = async (step: string | undefined): Promise<readonly Line[]> => {
        const task: Task = {
          lab,
          otherLab,
          scenario: 'ReplicateKey',
          mishap: 'kill-during',
          nowMs: Date.UTC(2026, 0, 1),
          entries,
          last: step === undefined,
          ...(step !== undefined && { step }),
        }
        const file = join(lab.dir, 'task.json')
        writeFileSync(file, JSON.stringify(task))
        const child = spawn(process.execPath, [program, file], {
          stdio: ['ignore', 'pipe', 'inherit'],
          env: cleanEnvironment(),
        })
        let said = ''
        child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text))
        const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
        expect({ step, code, signal }).toEqual(
          step === undefined ? { step, code: 0, signal: null } : { step, code: null, signal: 'SIGKILL' },
        )
        return said
          .trim()
          .split('\n')
          .map((line) => JSON.parse(line) as Line)
      }
      for (const step of ['token.adoptKey 2', 'store.updateKeys 1', undefined]) {
        const lines = await run(step)
        entries.push(...lines.flatMap((line) => ('entry' in line ? [line.entry] : [])))
        // Of what the one before left.
        expect(
          lines.flatMap((line) => ('problems' in line ? [line.problems] : [])),
          `before ${step ?? 'the end'}`,
        ).toEqual([[]])
      }
    } finally {
      await lab.remove()
      await otherLab.remove()
    }
  },
)

test('a multi-Region key whose kind the token can never copy is refused before it is made', async () => {
  const { options } = await fresh()
  const token = new Proxy(options.token, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target)
      if (property === 'capabilities') return () => ({ ...target.capabilities(), replicableKinds: ['HMAC_256 GENERATE_VERIFY_MAC'] })
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
  const rooms = await openRooms({ ...options, token })
  try {
    const before = (await token.allObjects()).length
    await expect(callRoad(rooms, 'CreateKey', { MultiRegion: true })).rejects.toMatchObject({
      code: 'UnsupportedOperationException',
      message:
        'KeySpec SYMMETRIC_DEFAULT is not supported for multi-Region keys: the connected token cannot copy such a key to another token.',
    })
    expect([...rooms.store.view.allKeys()]).toEqual([])
    expect(await token.allObjects()).toHaveLength(before)
    // Of one region, of a kind that can be copied, or with material from outside, it is made.
    for (const input of [
      {},
      { MultiRegion: true, KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' },
      { MultiRegion: true, Origin: 'EXTERNAL' },
    ])
      expect(keyIdOf(await callRoad(rooms, 'CreateKey', input))).toMatch(/^(?:mrk-)?[0-9a-f-]{32,36}$/)
  } finally {
    await rooms.close()
  }
})
