import { readFileSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { CKA, CKM, CKR, parameterKind } from '../../src/hsm/constants.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { RawModule, type RawError } from './raw-module.ts'
import { FaultFile, buildShim, shimEnv, type ShimGcm } from './shim.ts'

const shim = buildShim()

describe.skipIf(shim === undefined)('the PKCS#11 shim', () => {
  let token: LabToken
  let pin: string
  let faults: FaultFile
  const open: RawModule[] = []

  beforeAll(async () => {
    token = await makeSoftHsmToken()
    pin = readFileSync(token.pinFile, 'utf8')
    faults = new FaultFile(token.dir)
  })
  afterEach(async () => {
    for (const module of open.splice(0)) await module.end()
    faults.set()
  })
  afterAll(() => token.remove())

  function load(library: string | undefined, settings: Partial<Parameters<typeof shimEnv>[0]> = {}): RawModule {
    if (library === undefined) throw new Error('not reached: the suite is skipped')
    const module = new RawModule(library, { ...token.env, ...shimEnv({ module: token.library, faults, ...settings }) })
    open.push(module)
    return module
  }

  async function loggedIn(settings: Partial<Parameters<typeof shimEnv>[0]> = {}): Promise<{ module: RawModule; session: Buffer }> {
    const module = load(shim, settings)
    return { module, session: await module.login(token.label, pin) }
  }

  /** A session key for AES, gone with its process. */
  function makeKey(module: RawModule, session: Buffer): Promise<Buffer> {
    return module.call<Buffer>('C_GenerateKey', session, { mechanism: CKM.CKM_AES_KEY_GEN }, [
      { type: CKA.CKA_TOKEN, value: false },
      { type: CKA.CKA_VALUE_LEN, value: 32 },
      { type: CKA.CKA_ENCRYPT, value: true },
      { type: CKA.CKA_DECRYPT, value: true },
      { type: CKA.CKA_EXTRACTABLE, value: false },
    ])
  }

  const gcm = (iv: Buffer): unknown => ({
    mechanism: CKM.CKM_AES_GCM,
    parameter: { type: parameterKind.gcm, iv, ivBits: iv.length * 8, aad: Buffer.from('context'), tagBits: 128 },
  })

  async function decrypts(module: RawModule, session: Buffer, key: Buffer, iv: Buffer, sealed: Buffer): Promise<string> {
    await module.call('C_DecryptInit', session, gcm(iv), key)
    return (await module.call<Buffer>('C_Decrypt', session, sealed, Buffer.alloc(64))).toString()
  }

  test('it is the module behind it when nothing is asked of it', async () => {
    const direct = load(token.library)
    const through = load(shim)
    const seen = []
    for (const module of [direct, through]) {
      const session = await module.login(token.label, pin)
      const [slot] = await module.call<Buffer[]>('C_GetSlotList', true)
      const key = await makeKey(module, session)
      await module.call('C_EncryptInit', session, gcm(Buffer.alloc(12, 7)), key)
      const sealed = await module.call<Buffer>('C_Encrypt', session, Buffer.from('plain'), Buffer.alloc(64))
      const opened = await decrypts(module, session, key, Buffer.alloc(12, 7), sealed)
      await module.call('C_DigestInit', session, { mechanism: CKM.CKM_SHA256 })
      seen.push({
        opened,
        info: await module.call('C_GetInfo'),
        mechanisms: await module.call('C_GetMechanismList', slot),
        gcm: await module.call('C_GetMechanismInfo', slot, CKM.CKM_AES_GCM),
        digest: await module.call('C_Digest', session, Buffer.from('x'), Buffer.alloc(32)),
        random: (await module.call<Buffer>('C_GenerateRandom', session, Buffer.alloc(16))).length,
      })
    }
    expect(seen[1]).toEqual(seen[0])
    expect(seen[0]?.opened).toBe('plain')
  })

  describe('AES-GCM with an IV of the device', () => {
    const modes: readonly { mode: ShimGcm; asks: number; writtenBackBy: 'C_EncryptInit' | 'C_Encrypt' | 'nobody'; appended: number }[] = [
      { mode: 'back-init', asks: 12, writtenBackBy: 'C_EncryptInit', appended: 0 },
      { mode: 'back-encrypt', asks: 12, writtenBackBy: 'C_Encrypt', appended: 0 },
      { mode: 'back-never', asks: 12, writtenBackBy: 'nobody', appended: 0 },
      { mode: 'tail', asks: 0, writtenBackBy: 'nobody', appended: 16 },
    ]
    test.each(modes)('$mode: an IV of the caller is refused', async ({ mode }) => {
      const { module, session } = await loggedIn({ gcm: mode })
      const key = await makeKey(module, session)
      expect(await module.code('C_EncryptInit', session, gcm(Buffer.alloc(12, 7)), key)).toBe(CKR.CKR_MECHANISM_PARAM_INVALID)
    })

    test.each(modes)('$mode: its own IV is written back by $writtenBackBy, with $appended bytes appended', async (row) => {
      const { module, session } = await loggedIn({ gcm: row.mode })
      const key = await makeKey(module, session)
      const iv = Buffer.alloc(row.asks)
      await module.call('C_EncryptInit', session, gcm(iv), key)
      expect(iv.some((byte) => byte !== 0)).toBe(row.writtenBackBy === 'C_EncryptInit')
      const sealed = await module.call<Buffer>('C_Encrypt', session, Buffer.from('plain'), Buffer.alloc(64))
      expect(sealed.length).toBe(5 + 16 + row.appended)
      expect(iv.some((byte) => byte !== 0)).toBe(row.writtenBackBy !== 'nobody')
      const ivUsed = row.appended > 0 ? sealed.subarray(21) : iv
      // Without the IV the plaintext is lost: SoftHSM's code for a tag that does not fit.
      const opened = await decrypts(module, session, key, ivUsed, sealed.subarray(0, 21)).catch((error: RawError) => error.code)
      expect(opened).toBe(row.mode === 'back-never' ? CKR.CKR_GENERAL_ERROR : 'plain')
    })

    test('tail: a buffer without room for the IV is refused and the operation stays active', async () => {
      const { module, session } = await loggedIn({ gcm: 'tail' })
      const key = await makeKey(module, session)
      await module.call('C_EncryptInit', session, gcm(Buffer.alloc(0)), key)
      expect(await module.code('C_Encrypt', session, Buffer.from('plain'), Buffer.alloc(36))).toBe(CKR.CKR_BUFFER_TOO_SMALL)
      expect(await module.call('C_Encrypt', session, Buffer.from('plain'), Buffer.alloc(37))).toHaveLength(37)
    })
  })

  test('a hidden mechanism is not listed, has no information and cannot be used', async () => {
    const { module, session } = await loggedIn({ hide: [CKM.CKM_AES_GCM, CKM.CKM_AES_KEY_GEN] })
    const [slot] = await module.call<Buffer[]>('C_GetSlotList', true)
    const shown = await module.call<number[]>('C_GetMechanismList', slot)
    expect(shown).toContain(CKM.CKM_AES_CBC)
    expect(shown).not.toContain(CKM.CKM_AES_GCM)
    expect(await module.code('C_GetMechanismInfo', slot, CKM.CKM_AES_GCM)).toBe(CKR.CKR_MECHANISM_INVALID)
    expect(await module.code('C_EncryptInit', session, gcm(Buffer.alloc(12)), session)).toBe(CKR.CKR_MECHANISM_INVALID)
    expect(await module.code('C_GenerateKey', session, { mechanism: CKM.CKM_AES_KEY_GEN }, [])).toBe(CKR.CKR_MECHANISM_INVALID)
  })

  describe('faults', () => {
    const random = (module: RawModule, session: Buffer): Promise<number> => module.code('C_GenerateRandom', session, Buffer.alloc(8))

    test('a code is returned as often as asked, to the function that was named', async () => {
      const { module, session } = await loggedIn()
      faults.set({ function: 'C_GenerateRandom', rv: CKR.CKR_DEVICE_ERROR, count: 2 })
      expect(await module.code('C_GetSessionInfo', session)).toBe(0)
      expect([await random(module, session), await random(module, session), await random(module, session)]).toEqual([0x30, 0x30, 0])
      expect(faults.left()).toEqual([0])
    })

    test('processes use up one fault together', async () => {
      const [one, other] = [await loggedIn(), await loggedIn()]
      faults.set({ function: 'C_GenerateRandom', rv: CKR.CKR_DEVICE_ERROR, count: 25 })
      const codes = await Promise.all(
        [one, other].map(async ({ module, session }) => {
          const seen = []
          for (let call = 0; call < 25; call++) seen.push(await random(module, session))
          return seen
        }),
      )
      expect(codes.flat().filter((code) => code === CKR.CKR_DEVICE_ERROR)).toHaveLength(25)
    })

    test('the first calls may pass, several faults take turns, and * is any function', async () => {
      const { module, session } = await loggedIn()
      faults.set({ function: 'C_GenerateRandom', rv: 0x30, skip: 1 }, { function: '*', rv: 0xe0, count: 'always' })
      expect([await random(module, session), await random(module, session), await random(module, session)]).toEqual([0, 0x30, 0xe0])
      expect(await module.code('C_GetSessionInfo', session)).toBe(0xe0)
      expect(faults.left()).toEqual([0, 'always'])
      faults.set()
      expect(await random(module, session)).toBe(0)
    })

    test('an answer can be lost after the work was done', async () => {
      const { module, session } = await loggedIn()
      const label = [{ type: CKA.CKA_LABEL, value: 'doubtful' }]
      faults.set({ function: 'C_GenerateKey', rv: CKR.CKR_DEVICE_ERROR, when: 'after' })
      const template = [...label, { type: CKA.CKA_VALUE_LEN, value: 32 }]
      expect(await module.code('C_GenerateKey', session, { mechanism: CKM.CKM_AES_KEY_GEN }, template)).toBe(CKR.CKR_DEVICE_ERROR)
      await module.call('C_FindObjectsInit', session, label)
      expect(await module.call('C_FindObjects', session, 5)).toHaveLength(1)
    })

    test('objects can be invisible, and an attribute reported wrong', async () => {
      const { module, session } = await loggedIn()
      const key = await makeKey(module, session)
      const extractable = async (): Promise<Buffer | undefined> =>
        (await module.call<{ value: Buffer }[]>('C_GetAttributeValue', session, key, [{ type: CKA.CKA_EXTRACTABLE }]))[0]?.value
      expect(Buffer.from((await extractable()) ?? [])).toEqual(Buffer.from([0]))
      faults.set(
        { function: 'C_FindObjects', rv: 'empty' },
        { function: 'C_GetAttributeValue', count: 'always', attribute: { type: CKA.CKA_EXTRACTABLE, value: true } },
      )
      expect(Buffer.from((await extractable()) ?? [])).toEqual(Buffer.from([1]))
      const found = []
      for (let search = 0; search < 2; search++) {
        await module.call('C_FindObjectsInit', session, [])
        found.push((await module.call<Buffer[]>('C_FindObjects', session, 5)).length)
        await module.call('C_FindObjectsFinal', session)
      }
      expect(found).toEqual([0, 1])
    })

    test('a session can really lose its login, and all sessions really be closed', async () => {
      const { module, session } = await loggedIn()
      const [slot] = await module.call<Buffer[]>('C_GetSlotList', true)
      const other = await module.call<Buffer>('C_OpenSession', slot, 6)
      const state = async (): Promise<number> => (await module.call<{ state: number }>('C_GetSessionInfo', other)).state
      expect(await state()).toBe(3)
      faults.set({ function: 'C_GenerateRandom', rv: 'logout' })
      expect(await random(module, session)).toBe(0)
      expect(await state()).toBe(2)
      faults.set({ function: 'C_GenerateRandom', rv: 'close-all' })
      expect(await random(module, session)).toBe(CKR.CKR_SESSION_HANDLE_INVALID)
      expect(await module.code('C_GetSessionInfo', other)).toBe(CKR.CKR_SESSION_HANDLE_INVALID)
    })

    test('a delay comes before the call', async () => {
      const { module, session } = await loggedIn()
      faults.set({ function: 'C_GenerateRandom', delayMs: 120 })
      const start = performance.now()
      expect(await random(module, session)).toBe(0)
      expect(performance.now() - start).toBeGreaterThanOrEqual(119)
    })

    test('latency is added to every call', async () => {
      const { module, session } = await loggedIn({ latencyUs: 30_000 })
      const start = performance.now()
      for (let call = 0; call < 4; call++) await random(module, session)
      expect(performance.now() - start).toBeGreaterThanOrEqual(119)
    })

    test.each([
      { rv: 'segv', signal: 'SIGSEGV' },
      { rv: 'abort', signal: 'SIGABRT' },
    ] as const)('$rv ends the process with $signal', async ({ rv, signal }) => {
      const { module, session } = await loggedIn()
      faults.set({ function: 'C_GenerateRandom', rv })
      await expect(random(module, session)).rejects.toMatchObject({ signal })
    })

    test('a call that hangs gives no answer until its process is killed', async () => {
      const { module, session } = await loggedIn()
      faults.set({ function: 'C_GenerateRandom', rv: 'hang' })
      const call = random(module, session)
      const silent = new Promise((resolve) => setTimeout(resolve, 300, 'silent'))
      expect(await Promise.race([call, silent])).toBe('silent')
      expect(faults.left()).toEqual([0])
      await Promise.all([expect(call).rejects.toMatchObject({ signal: 'SIGKILL' }), module.end()])
    })
  })
})
