import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { CKA, CKR } from '../../src/hsm/constants.ts'
import { errorClasses } from '../../src/hsm/errors.ts'
import { TokenError, type Token } from '../../src/hsm/token.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { CapturedLog, newCkaId, openLab, outcome, recovered } from './open.ts'
import { RawModule } from './raw-module.ts'
import { FaultFile, buildShim, shimEnv, type Fault } from './shim.ts'

const shim = buildShim()

describe.skipIf(shim === undefined)('trouble with the device', () => {
  let lab: LabToken
  let faults: FaultFile
  let token: Token
  let log: CapturedLog
  const ckaId = newCkaId()
  const aad = Buffer.from('context')
  let body: Buffer
  let pin: string

  beforeAll(async () => {
    const soft = await makeSoftHsmToken()
    faults = new FaultFile(soft.dir)
    lab = { ...soft, library: shim ?? '', env: { ...soft.env, ...shimEnv({ module: soft.library, faults }) } }
    pin = readFileSync(lab.pinFile, 'utf8')
    await reopen()
    await token.generateKey({ kind: 'wrapping', ckaId, label: 'kms/test/1' })
    ;({ body } = await token.wrap(ckaId, aad, Buffer.from('kept')))
  })
  beforeEach(async () => {
    if (token.health().state !== 'up') await reopen()
  })
  afterEach(() => {
    faults.set()
    // Whatever happened, no PIN and no plaintext has reached the log.
    for (const secret of [pin, 'kept']) if (log.text().includes(secret)) throw new Error('a secret was logged')
  })
  afterAll(async () => {
    await token.close()
    await lab.remove()
  })

  async function reopen(): Promise<void> {
    await token?.close()
    log = new CapturedLog()
    // One worker: a fault meets the call that it is meant for.
    token = await openLab(lab, { sessions: 1, deadlineMs: 1_500 }, log)
  }

  const wrap = (): Promise<unknown> => token.wrap(ckaId, aad, Buffer.from('plain'))
  const unwrap = async (): Promise<string> => (await token.unwrap(ckaId, 'gcm-iv-in', aad, body)).toString()

  /** The token serves again, with the key and the data it had. */
  async function heals(): Promise<void> {
    faults.set()
    await recovered(token)
    expect(await unwrap()).toBe('kept')
    expect(await outcome(wrap())).toBe('done')
  }

  describe('is not noticed by the caller when', () => {
    test.each<[string, Fault]>([
      ['the session is lost', { function: 'C_EncryptInit', rv: CKR.CKR_SESSION_HANDLE_INVALID }],
      ['the session is closed by the device in the middle of a call', { function: 'C_Encrypt', rv: CKR.CKR_SESSION_CLOSED }],
      ['an earlier operation is still active', { function: 'C_EncryptInit', rv: CKR.CKR_OPERATION_ACTIVE }],
      ['the operation is not initialized any more', { function: 'C_Encrypt', rv: CKR.CKR_OPERATION_NOT_INITIALIZED }],
      ['the login is lost', { function: 'C_EncryptInit', rv: CKR.CKR_USER_NOT_LOGGED_IN }],
      ['the handle is stale', { function: 'C_EncryptInit', rv: CKR.CKR_KEY_HANDLE_INVALID }],
      ['the object handle is stale', { function: 'C_EncryptInit', rv: CKR.CKR_OBJECT_HANDLE_INVALID }],
      ['the device stumbles once', { function: 'C_Encrypt', rv: CKR.CKR_DEVICE_ERROR }],
      ['the device says only that something failed', { function: 'C_Encrypt', rv: CKR.CKR_FUNCTION_FAILED }],
      ['a code of the vendor’s comes', { function: 'C_Encrypt', rv: 0x8000_0384 }],
      ['the answer is lost after the work was done', { function: 'C_Encrypt', rv: CKR.CKR_DEVICE_ERROR, when: 'after' }],
      ['somebody really logs out', { function: 'C_EncryptInit', rv: 'logout' }],
      ['all sessions are really closed', { function: 'C_EncryptInit', rv: 'close-all' }],
    ])('%s', async (_case, fault) => {
      const { respawns } = token.health()
      faults.set(fault)
      expect(await outcome(wrap())).toBe('done')
      expect(faults.left()).toEqual([0])
      expect(token.health()).toMatchObject({ state: 'up', respawns })
      await heals()
    })

    test('the login is lost while it decrypts', async () => {
      faults.set({ function: 'C_DecryptInit', rv: 'logout' })
      expect(await unwrap()).toBe('kept')
      await heals()
    })
  })

  describe('is an error the caller may try again, and over by itself, when', () => {
    // The pause before a new agent doubles with every one that did not last: here each case starts with the shortest.
    beforeEach(reopen)

    test.each<[string, Fault]>([
      ['the device is removed', { function: '*', rv: CKR.CKR_DEVICE_REMOVED, count: 'always' }],
      ['the token is not present', { function: '*', rv: CKR.CKR_TOKEN_NOT_PRESENT, count: 'always' }],
      ['the device only answers errors', { function: '*', rv: CKR.CKR_DEVICE_ERROR, count: 'always' }],
      ['the library forgot that it was initialized', { function: '*', rv: CKR.CKR_CRYPTOKI_NOT_INITIALIZED, count: 'always' }],
      ['every call fails with a code of the vendor’s', { function: '*', rv: 0x8000_0384, count: 'always' }],
      ['the crypto fails again and again', { function: 'C_EncryptInit', rv: CKR.CKR_GENERAL_ERROR, count: 'always' }],
      ['a call crashes the library', { function: 'C_Encrypt', rv: 'segv' }],
      ['a call aborts the process', { function: 'C_EncryptInit', rv: 'abort' }],
    ])('%s', async (_case, fault) => {
      faults.set(fault)
      expect(await outcome(wrap())).toBe('unavailable')
      await heals()
      expect(token.health().state).toBe('up')
    })

    test('a call hangs: it ends at its deadline, and nobody waits for the agent that hangs', async () => {
      faults.set({ function: 'C_Encrypt', rv: 'hang' })
      const calls = await Promise.all([wrap(), wrap(), wrap()].map(outcome))
      expect(calls).toEqual(['unavailable', 'unavailable', 'unavailable'])
      await heals()
    })

    test('the device hangs at login too: calls are refused at once meanwhile', async () => {
      faults.set({ function: 'C_Encrypt', rv: 'segv' }, { function: 'C_Login', rv: 'hang' })
      expect(await outcome(wrap())).toBe('unavailable')
      while (faults.left()[1] !== 0) await sleep(20)
      const refused = await Promise.all(Array.from({ length: 100 }, () => outcome(wrap())))
      expect(new Set(refused)).toEqual(new Set(['unavailable']))
      expect(token.health().state).not.toBe('up')
      await reopen()
      await heals()
    })

    test('the device has no session left: busy, not broken', async () => {
      const { respawns } = token.health()
      faults.set({ function: 'C_EncryptInit', rv: CKR.CKR_SESSION_COUNT }, { function: 'C_Encrypt', rv: CKR.CKR_DEVICE_MEMORY })
      expect([await outcome(wrap()), await outcome(wrap())]).toEqual(['busy', 'busy'])
      await heals()
      expect(token.health().respawns).toBe(respawns)
    })

    test('many calls are under way: every one of them ends', async () => {
      faults.set({ function: 'C_Encrypt', rv: 'abort', skip: 20 })
      const outcomes = await Promise.all(Array.from({ length: 200 }, () => outcome(wrap())))
      expect(outcomes).toHaveLength(200)
      expect(new Set(outcomes)).toEqual(new Set(['done', 'unavailable']))
      await heals()
    })
  })

  describe('a token that is gone', () => {
    test('is unavailable, never a missing key and never a bad ciphertext, and serves again once it is back', async () => {
      const home = join(lab.dir, 'token')
      renameSync(home, `${home}-away`)
      try {
        const outcomes = [await outcome(wrap()), await outcome(unwrap()), await outcome(token.objects(ckaId))]
        expect(outcomes).toEqual(['unavailable', 'unavailable', 'unavailable'])
      } finally {
        renameSync(`${home}-away`, home)
      }
      await heals()
    })

    test('shows no objects at all: that is not taken for deletion', async () => {
      faults.set({ function: 'C_FindObjects', rv: 'empty', count: 'always' })
      expect(await outcome(token.objects(ckaId))).toBe('unavailable')
      await heals()
      expect(await token.objects(ckaId)).toHaveLength(1)
    })
  })

  describe('a key', () => {
    test('that another process destroyed is missing, once a new agent has looked for it too', async () => {
      const gone = newCkaId()
      await token.generateKey({ kind: 'wrapping', ckaId: gone, label: 'kms/test/gone' })
      const module = new RawModule(lab.library, lab.env)
      try {
        const session = await module.login(lab.label, pin)
        await module.call('C_FindObjectsInit', session, [{ type: CKA.CKA_ID, value: Buffer.from(gone, 'hex') }])
        const [key] = await module.call<Buffer[]>('C_FindObjects', session, 5)
        await module.call('C_FindObjectsFinal', session)
        await module.call('C_DestroyObject', session, key)
      } finally {
        await module.end()
      }
      const { respawns } = token.health()
      expect(await outcome(token.wrap(gone, aad, Buffer.from('x')))).toBe('missing')
      expect(token.health().respawns).toBe(respawns + 1)
      expect(await outcome(token.wrap(gone, aad, Buffer.from('x')))).toBe('missing')
      expect(token.health().respawns).toBe(respawns + 1)
      expect(await unwrap()).toBe('kept')
    })

    test('whose generation got no answer is found by its CKA_ID, not made twice', async () => {
      const doubtful = newCkaId()
      faults.set({ function: 'C_GenerateKey', rv: CKR.CKR_DEVICE_ERROR, when: 'after' })
      expect(await outcome(token.generateKey({ kind: 'wrapping', ckaId: doubtful, label: 'kms/test/doubtful' }))).toBe('unavailable')
      await recovered(token)
      expect(await token.objects(doubtful)).toHaveLength(1)
      expect(await token.destroyKey(doubtful, 'kms/test/doubtful')).toBe(1)
    })

    test.each([
      { attribute: 'CKA_EXTRACTABLE', value: true },
      { attribute: 'CKA_SENSITIVE', value: false },
      { attribute: 'CKA_NEVER_EXTRACTABLE', value: false },
      { attribute: 'CKA_ALWAYS_SENSITIVE', value: false },
      { attribute: 'CKA_LOCAL', value: false },
      { attribute: 'CKA_PRIVATE', value: false },
      { attribute: 'CKA_WRAP', value: true },
    ] as const)('that the token made with $attribute $value is destroyed and never used', async ({ attribute, value }) => {
      const weak = newCkaId()
      faults.set({ function: 'C_GetAttributeValue', count: 'always', attribute: { type: CKA[attribute], value } })
      const made = token.generateKey({ kind: 'wrapping', ckaId: weak, label: 'kms/test/weak' })
      await expect(made).rejects.toMatchObject({ failure: 'unsupported' })
      await expect(made).rejects.toThrow(`${attribute} is ${value}`)
      faults.set()
      expect(await token.objects(weak)).toEqual([])
    })
  })

  describe('bad input', () => {
    test('is told from a broken device that answers with the same code', async () => {
      const changed = Buffer.from(body)
      changed[20] = (changed[20] ?? 0) ^ 1
      // SoftHSM's word for a bad tag is CKR_GENERAL_ERROR.
      expect(await outcome(token.unwrap(ckaId, 'gcm-iv-in', aad, changed))).toBe('rejected')
      faults.set({ function: '*', rv: CKR.CKR_GENERAL_ERROR, count: 'always' })
      expect(await outcome(unwrap())).toBe('unavailable')
      await heals()
    })

    test.each([...errorClasses.caller, ...errorClasses.unsupported])(
      'code %i while it decrypts is a refusal only when it comes twice, and needs no new agent',
      async (rv) => {
        const { respawns } = token.health()
        faults.set({ function: 'C_Decrypt', rv, count: 2 })
        expect(await outcome(unwrap())).toBe('rejected')
        faults.set({ function: 'C_DecryptInit', rv })
        expect(await unwrap()).toBe('kept')
        expect(token.health().respawns).toBe(respawns)
      },
    )

    test.each([...errorClasses.caller, ...errorClasses.unsupported])('code %i once while it encrypts is nobody’s fault', async (rv) => {
      faults.set({ function: 'C_Encrypt', rv })
      expect(await outcome(wrap())).toBe('done')
      expect(faults.left()).toEqual([0])
    })
  })

  describe('a wrong PIN', () => {
    const logins = 1000
    const countLogins = (...more: Fault[]): void => faults.set(...more, { function: 'C_Login', count: logins })
    const used = (): number => logins - Number(faults.left().at(-1))

    test('is tried once when the service starts, and the error says what to do', async () => {
      await token.close()
      const wrong = join(lab.dir, 'wrong-pin')
      writeFileSync(wrong, 'not-the-pin', { mode: 0o600 })
      countLogins()
      const opening = openLab({ ...lab, pinFile: wrong }, { sessions: 1 }, log)
      await expect(opening).rejects.toBeInstanceOf(TokenError)
      await expect(opening).rejects.toMatchObject({ failure: 'unavailable', code: 'CKR_PIN_INCORRECT' })
      await expect(opening).rejects.toThrow(`${wrong} (CKR_PIN_INCORRECT): correct it, then restart`)
      await sleep(700)
      expect(used()).toBe(1)
      expect(log.text()).not.toContain('not-the-pin')
      await reopen()
    })

    test.each([CKR.CKR_PIN_INCORRECT, CKR.CKR_PIN_LOCKED, CKR.CKR_PIN_EXPIRED])(
      'that the token refuses with %i when it comes back stops everything: no further try, by no agent',
      async (rv) => {
        countLogins({ function: 'C_Encrypt', rv: 'segv' }, { function: 'C_Login', rv, count: 1 })
        expect(await outcome(wrap())).toBe('unavailable')
        while (token.health().state !== 'stopped-pin') await sleep(20)
        // Longer than the first pauses before a new agent: none comes.
        await sleep(1_200)
        expect(await outcome(unwrap())).toBe('unavailable')
        expect(token.health().state).toBe('stopped-pin')
        expect(used()).toBe(0)
        faults.set()
        await reopen()
        expect(await unwrap()).toBe('kept')
      },
    )
  })
})
