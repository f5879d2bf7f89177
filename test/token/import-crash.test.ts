/**
 * Every step at which an import, a deletion, a return and an expiry of key material can stop: afterwards nothing is lost, nothing is orphaned,
 * and every call that was answered is effective and in the trail. On a real SoftHSM2 token and a real SQLite file.
 */

import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import {
  callRoad,
  destroyAllKeys,
  inspect,
  keyIdOf,
  openRooms,
  Journal,
  Tripwire,
  type Mishap,
  type Output,
  type Rooms,
  type Scenario,
} from './crash-rooms.ts'
import { wrapMaterial } from './import-kit.ts'
import { useLab } from './rooms-kit.ts'

const here = useLab()
let runs = 0

const makeExternalKey = async (rooms: Rooms, journal: Journal): Promise<string> =>
  keyIdOf(await callRoad(rooms, 'CreateKey', { Origin: 'EXTERNAL' }, journal))

const askParameters = (rooms: Rooms, journal: Journal, keyId: string): Promise<Output> =>
  callRoad(rooms, 'GetParametersForImport', { KeyId: keyId, WrappingAlgorithm: 'RSAES_OAEP_SHA_1', WrappingKeySpec: 'RSA_2048' }, journal)

/** What ImportKeyMaterial is to be given. */
async function prepareImport(rooms: Rooms, journal: Journal, keyId: string, material: Buffer, more: Output = {}): Promise<Output> {
  const { ImportToken, PublicKey } = await askParameters(rooms, journal, keyId)
  const wrapped = wrapMaterial(Buffer.from(PublicKey as string, 'base64'), 'RSAES_OAEP_SHA_1', material)
  return {
    KeyId: keyId,
    ImportToken,
    EncryptedKeyMaterial: wrapped.toString('base64'),
    ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
    ...more,
  }
}

const encryptText = (rooms: Rooms, journal: Journal, keyId: unknown): Promise<Output> =>
  callRoad(rooms, 'Encrypt', { KeyId: keyId, Plaintext: 'dGV4dA==' }, journal)

const scenarios: Readonly<Record<string, Scenario>> = {
  GetParametersForImport: {
    prepare: makeExternalKey,
    attempt: (rooms, journal, keyId) => askParameters(rooms, journal, keyId as string),
  },
  ImportKeyMaterial: {
    prepare: async (rooms, journal) => prepareImport(rooms, journal, await makeExternalKey(rooms, journal), randomBytes(32)),
    async attempt(rooms, journal, input) {
      const { KeyId } = await callRoad(rooms, 'ImportKeyMaterial', input as Output, journal)
      await encryptText(rooms, journal, KeyId)
    },
  },
  'deletion and return of imported material': {
    async prepare(rooms, journal) {
      const keyId = await makeExternalKey(rooms, journal)
      const input = await prepareImport(rooms, journal, keyId, randomBytes(32))
      await callRoad(rooms, 'ImportKeyMaterial', input, journal)
      await encryptText(rooms, journal, keyId)
      return input
    },
    async attempt(rooms, journal, input) {
      await callRoad(rooms, 'DeleteImportedKeyMaterial', { KeyId: (input as Output)['KeyId'] }, journal)
      await callRoad(rooms, 'ImportKeyMaterial', input as Output, journal)
    },
  },
  'expiry of imported material': {
    async prepare(rooms, journal) {
      const keyId = await makeExternalKey(rooms, journal)
      const expires = { ExpirationModel: 'KEY_MATERIAL_EXPIRES', ValidTo: rooms.clock.now() / 1000 + 3600 }
      await callRoad(rooms, 'ImportKeyMaterial', await prepareImport(rooms, journal, keyId, randomBytes(32), expires), journal)
      rooms.clock.advance(3_600_000)
    },
    attempt: (rooms) => rooms.service.runLifecycle(),
  },
}

const mishaps: readonly Mishap[] = ['before', 'after', 'cut']

describe.each(Object.entries(scenarios))('%s', (_name, scenario) => {
  test.each(mishaps)('holds when any one step goes wrong: %s', { timeout: 300_000 }, async (mishap) => {
    await destroyAllKeys(here.token)
    const journal = new Journal()
    const wire = new Tripwire()
    const options = { dir: join(here.lab.dir, `run-${++runs}`), token: here.token, clock: new ManualClock(Date.UTC(2026, 0, 1)), wire }
    let rooms = await openRooms(options)
    try {
      const planned = await scenario.prepare(rooms, journal)
      wire.arm()
      await scenario.attempt(rooms, journal, planned)
      const { steps } = wire.disarm()
      expect(steps.length).toBeGreaterThan(3)
      for (const step of steps) {
        const prepared = await scenario.prepare(rooms, journal)
        wire.arm(step, mishap)
        // Which error, if any, is the caller's affair: the journal knows what was answered.
        await scenario.attempt(rooms, journal, prepared).catch(() => undefined)
        const { fired } = wire.disarm()
        expect(fired, step).toBe(true)
        if (mishap === 'cut') {
          await rooms.close()
          rooms = await openRooms(options)
        }
        await rooms.service.runLifecycle()
        const found = mishap === 'cut' ? [] : await inspect(rooms, journal)
        expect(found, step).toEqual([])
      }
      // What a step lost or left stays so.
      expect(await inspect(rooms, journal)).toEqual([])
    } finally {
      await rooms.close()
    }
  })
})
