/**
 * What happens when the device, the library or the agent fails: each row of the error classes, injected by the shim
 * between the agent and a real SoftHSM token.
 */
import { spawn } from 'node:child_process'
import { constants, createPublicKey, generateKeyPairSync, publicEncrypt } from 'node:crypto'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { TokenError, type OaepAlgorithm, type Token, type TokenKeyKind } from '../../src/hsm/token.ts'
import { builtProgram } from '../programs.ts'
import { configFor, failureOf, freshId, lives, makeWrappingKey, open, until, type OpenedToken } from './hsm-fixture.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { buildShim, FaultFile, shimEnv, type Fault } from './shim.ts'
import { wrapFor } from './wrapped-material.ts'

const library = buildShim()
const none = Buffer.alloc(0)
const plaintext = Buffer.alloc(32, 1)

describe.skipIf(library === undefined)('a device that fails', () => {
  let lab: LabToken
  let faults: FaultFile
  let opened: OpenedToken
  let token: Token
  let key: string

  const openShim = (deadlineMs = 2000): Promise<OpenedToken> =>
    open(lab, { library: library ?? '', env: { ...lab.env, ...shimEnv({ module: lab.library, faults }) }, deadlineMs })
  const use = (ckaId = key): Promise<string> => failureOf(token.wrap(ckaId, none, plaintext))
  const up = (): Promise<void> => until('the token to be up', () => token.health().state === 'up')

  beforeAll(async () => {
    lab = await makeSoftHsmToken({ label: 'faults' })
    faults = new FaultFile(lab.dir)
    opened = await openShim()
    token = opened.token
    key = await makeWrappingKey(token)
  })
  afterEach(async () => {
    faults.set()
    await up()
    await until('an answer', async () => (await use()) === 'none')
  })
  afterAll(async () => {
    await token.close()
    await lab.remove()
  })

  /** What a caller sees of faults, how often each is left over, and how many agents they cost. */
  async function under(
    ...list: Fault[]
  ): Promise<{ readonly failure: string; readonly left: readonly unknown[]; readonly respawns: number }> {
    const { respawns } = token.health()
    faults.set(...list)
    return { failure: await use(), left: faults.left(), respawns: token.health().respawns - respawns }
  }
  const healed = { failure: 'none', left: [0], respawns: 0 }

  test.each([
    ['CKR_OBJECT_HANDLE_INVALID', 0x82],
    ['CKR_KEY_HANDLE_INVALID', 0x60],
  ])('a stale handle (%s) is looked up again', async (_name, rv) => {
    expect(await under({ function: 'C_EncryptInit', rv })).toEqual(healed)
  })

  test.each([
    ['CKR_SESSION_HANDLE_INVALID', 0xb3],
    ['CKR_SESSION_CLOSED', 0xb0],
    ['CKR_OPERATION_ACTIVE', 0x90],
    ['CKR_OPERATION_NOT_INITIALIZED', 0x91],
    ['CKR_BUFFER_TOO_SMALL', 0x150],
  ])('a lost session (%s) is replaced by a new one', async (_name, rv) => {
    expect(await under({ function: 'C_EncryptInit', rv })).toEqual(healed)
    expect(await under({ function: 'C_Encrypt', rv })).toEqual(healed)
  })

  test('a lost login (CKR_USER_NOT_LOGGED_IN) is made again', async () => {
    expect(await under({ function: 'C_EncryptInit', rv: 0x101 })).toEqual(healed)
  })

  describe('in an operation of a key pair or a MAC key', () => {
    const digest = Buffer.alloc(32, 2)
    const peer = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'der', type: 'spki' })
    const made: Partial<Record<TokenKeyKind, string>> = {}
    const keyOf = async (kind: TokenKeyKind): Promise<string> => {
      const ckaId = made[kind] ?? freshId()
      if (made[kind] === undefined) await token.generateKey({ kind, ckaId, label: `kms/${kind}` })
      made[kind] = ckaId
      return ckaId
    }
    const oaep = async (algorithm: OaepAlgorithm): Promise<Buffer> => {
      const ckaId = await keyOf('RSA_2048 ENCRYPT_DECRYPT')
      const key = createPublicKey({ key: await token.publicKey(ckaId), format: 'der', type: 'spki' })
      const oaepHash = algorithm === 'RSAES_OAEP_SHA_1' ? 'sha1' : 'sha256'
      const ciphertext = publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, digest)
      return await token.decryptOaep(ckaId, algorithm, ciphertext)
    }
    const uses: readonly (readonly [string, string, () => Promise<Buffer>])[] = [
      [
        'a signature',
        'C_SignInit',
        async () => await token.signMessage(await keyOf('ECC_NIST_P256 SIGN_VERIFY'), 'ECDSA_SHA_256', 'digest', digest),
      ],
      ['a MAC', 'C_Sign', async () => await token.mac(await keyOf('HMAC_256 GENERATE_VERIFY_MAC'), 'HMAC_SHA_256', digest)],
      ['a decryption in the device', 'C_DecryptInit', async () => await oaep('RSAES_OAEP_SHA_1')],
      ['a decryption by raw RSA', 'C_Decrypt', async () => await oaep('RSAES_OAEP_SHA_256')],
      ['a shared secret', 'C_DeriveKey', async () => await token.deriveSharedSecret(await keyOf('ECC_NIST_P256 KEY_AGREEMENT'), peer)],
    ]

    test.each(uses)('%s: a lost session or login and a stale handle are healed, a device that fails is told', async (_what, name, call) => {
      await call()
      for (const rv of [0xb3, 0x82, 0x101, 0x30]) {
        faults.set({ function: name, rv })
        expect(`0x${rv.toString(16)}: ${await failureOf(call())}`).toBe(`0x${rv.toString(16)}: none`)
        expect(faults.left()).toEqual([0])
      }
      faults.set({ function: name, rv: 0xb1 })
      expect(await failureOf(call())).toBe('busy')
      faults.set()
      expect(await failureOf(call())).toBe('none')
    })

    test('a shared secret is destroyed in the device when reading it fails', async () => {
      const ckaId = await keyOf('ECC_NIST_P256 KEY_AGREEMENT')
      // The worker that is asked must know the key, else it fails before there is a secret; which one it is depends on what such a call takes.
      for (let tries = 0; tries < 5 && faults.left()[1] !== 0; tries += 1) {
        faults.set()
        await token.deriveSharedSecret(ckaId, peer)
        faults.set({ function: 'C_GetAttributeValue', rv: 0x30, count: 'always' }, { function: 'C_DestroyObject' })
        await failureOf(token.deriveSharedSecret(ckaId, peer))
      }
      expect(faults.left()[1]).toBe(0)
    })
  })

  test('a real logout is healed, and every key is found again', async () => {
    const other = await makeWrappingKey(token)
    faults.set({ function: 'C_EncryptInit', rv: 'logout' })
    expect(await Promise.all([use(), use(other), use(), use(other)])).toEqual(['none', 'none', 'none', 'none'])
    // The word of it comes by another way than the answers.
    await until('the login to be told', () => opened.log.some(({ message }) => message.startsWith('logged in again')))
  })

  test('the loss of all sessions, the anchor among them, is healed', async () => {
    const { respawns } = token.health()
    faults.set({ function: 'C_EncryptInit', rv: 'close-all' })
    const answers = await Promise.all(Array.from({ length: 20 }, () => use()))
    expect(answers.every((answer) => answer === 'none')).toBe(true)
    expect(token.health().respawns).toBe(respawns)
  })

  test.each([
    ['CKR_SESSION_COUNT', 0xb1],
    ['CKR_DEVICE_MEMORY', 0x31],
    ['CKR_HOST_MEMORY', 0x02],
    ['CKR_FUNCTION_REJECTED', 0x200],
  ])('a device without room (%s) is reported as busy', async (_name, rv) => {
    faults.set({ function: 'C_EncryptInit', rv })
    expect(await use()).toBe('busy')
    expect(await use()).toBe('none')
  })

  test.each([
    ['CKR_DEVICE_ERROR', 0x30],
    ['CKR_DEVICE_REMOVED', 0x32],
    ['CKR_TOKEN_NOT_PRESENT', 0xe0],
    ['CKR_TOKEN_NOT_RECOGNIZED', 0xe1],
    ['CKR_CRYPTOKI_NOT_INITIALIZED', 0x190],
    ['CKR_GENERAL_ERROR', 0x05],
    ['CKR_FUNCTION_FAILED', 0x06],
    ['a code of the vendor', 0x8000_0384],
  ])('trouble that the canary does not confirm (%s) is repeated', async (_name, rv) => {
    expect(await under({ function: 'C_Encrypt', rv })).toEqual(healed)
  })

  test.each([['CKR_TOKEN_NOT_PRESENT', 0xe0]])(
    'a device that is gone (%s): refused at once while it lasts, back by itself afterwards',
    async (_name, rv) => {
      faults.set({ function: 'C_EncryptInit', rv, count: 'always' })
      expect(await use()).toBe('unavailable')
      await until('the token to be down', () => token.health().state === 'down')
      const begun = performance.now()
      for (let index = 0; index < 100; index += 1) expect(await use()).toBe('unavailable')
      // Not timed for speed: if each were waited for anywhere, all of them would take a hundred seconds at least.
      expect(performance.now() - begun).toBeLessThan(50_000)
      faults.set()
      await up()
      expect(await use()).toBe('none')
    },
  )

  test('a call that never returns ends at its deadline, and a new agent serves', async () => {
    const [pid, { respawns }] = [opened.pid(), token.health()]
    faults.set({ function: 'C_Encrypt', rv: 'hang' })
    // Either may be the one that comes first.
    expect(['unavailable', 'none,unavailable']).toContain([...new Set(await Promise.all([use(), use()]))].sort().join())
    await up()
    expect(token.health().respawns).toBe(respawns + 1)
    await until('the hung agent to be gone', () => !lives(pid))
  })

  test.each(['segv', 'abort'] as const)('a crash of the library (%s) costs the calls under way, and a new agent serves', async (rv) => {
    const { respawns } = token.health()
    faults.set({ function: 'C_Encrypt', rv })
    expect(await use()).toBe('unavailable')
    await up()
    expect(token.health().respawns).toBe(respawns + 1)
  })

  test('a library that crashes at every start is tried less and less often', async () => {
    const { respawns } = token.health()
    faults.set({ function: 'C_Initialize', rv: 'abort', count: 'always' })
    process.kill(opened.pid(), 'SIGKILL')
    await until('two attempts', () => token.health().respawns >= respawns + 2)
    expect(token.health().state).toBe('down')
    expect(await use()).toBe('unavailable')
  })

  test('an agent killed under load: every call is answered or refused, and the service recovers', async () => {
    let answered = 0
    let refused = 0
    const load = { on: true }
    const callers = Array.from({ length: 32 }, async () => {
      while (load.on) {
        const failure = await use()
        expect(['none', 'unavailable']).toContain(failure)
        if (failure === 'none') answered += 1
        else {
          refused += 1
          await new Promise((resolve) => setTimeout(resolve, 5))
        }
      }
    })
    for (let round = 0; round < 3; round += 1) {
      const before = answered
      await until('some answers', () => answered > before + 200)
      process.kill(opened.pid(), 'SIGKILL')
      await until('some refusals', () => token.health().state !== 'up')
      await up()
    }
    const before = answered
    await until('answers after the last kill', () => answered > before + 200)
    load.on = false
    await Promise.all(callers)
    expect(refused).toBeGreaterThan(0)
    expect(token.health().queued).toBe(0)
  })

  test('signals meant for the whole process group do not end the agent', async () => {
    const pid = opened.pid()
    process.kill(pid, 'SIGINT')
    process.kill(pid, 'SIGTERM')
    await token.check()
    expect(await use()).toBe('none')
    expect(opened.pid()).toBe(pid)
  })

  describe('key generation', () => {
    test('is not repeated when the answer was lost; the object can be asked for by its id', async () => {
      const ckaId = freshId()
      faults.set({ function: 'C_GenerateKey', rv: 0x30, when: 'after' })
      expect(await failureOf(token.generateKey({ kind: 'wrapping', ckaId, label: 'kms/lost/1' }))).toBe('unavailable')
      expect(await token.objects(ckaId)).toHaveLength(1)
      expect(await use(ckaId)).toBe('none')
    })

    test('is repeated when session or login were lost before it began', async () => {
      for (const fault of [
        { function: 'C_GetSessionInfo', rv: 0xb3 },
        { function: 'C_FindObjectsInit', rv: 0xb3 },
        { function: 'C_FindObjectsInit', rv: 0x101 },
      ]) {
        faults.set(fault)
        expect(await use(await makeWrappingKey(token))).toBe('none')
      }
    })

    test.each([
      ['CKA_SENSITIVE', 0x103, false],
      ['CKA_EXTRACTABLE', 0x162, true],
      ['CKA_ALWAYS_SENSITIVE', 0x165, false],
      ['CKA_NEVER_EXTRACTABLE', 0x164, false],
      ['CKA_LOCAL', 0x163, false],
      ['CKA_PRIVATE', 0x002, false],
      ['CKA_TOKEN', 0x001, false],
      ['CKA_WRAP', 0x106, true],
      ['CKA_MODIFIABLE', 0x170, true],
    ] as const)('a key that says %s is wrong is destroyed and refused', async (name, type, value) => {
      const ckaId = freshId()
      faults.set({ function: 'C_GetAttributeValue', count: 'always', attribute: { type, value } })
      const failure = await token.generateKey({ kind: 'wrapping', ckaId, label: 'kms/weak/1' }).catch((error: unknown) => error)
      expect(failure).toBeInstanceOf(TokenError)
      expect(failure).toMatchObject({ failure: 'unsupported', message: expect.stringContaining(name) as string })
      faults.set()
      expect(await token.objects(ckaId)).toEqual([])
    })
  })

  test('imported material that is not protected is refused when it is destroyed, and otherwise still there to be destroyed', async () => {
    const wrappingCkaId = freshId()
    await token.generateKey({ kind: 'import RSA_2048', ckaId: wrappingCkaId, label: 'kms/import' })
    const algorithm = 'RSAES_OAEP_SHA_1'
    const wrapped = wrapFor(await token.publicKey(wrappingCkaId), algorithm, Buffer.alloc(32, 7))
    const label = 'kms/weak/i'
    const weak = { function: 'C_GetAttributeValue', count: 'always', attribute: { type: 0x162, value: true } } as const
    for (const [faultsThen, failure, left] of [
      [[weak], 'unsupported', 0],
      [[weak, { function: 'C_DestroyObject', rv: 0x30, count: 'always' }], 'unavailable', 1],
    ] as const) {
      const ckaId = freshId()
      faults.set(...faultsThen)
      expect(await failureOf(token.importKey({ kind: 'wrapping', ckaId, label, wrappingCkaId, algorithm, wrapped }))).toBe(failure)
      faults.set()
      expect(await token.destroyKey(ckaId, label)).toBe(left)
    }
  })

  test('a key that one agent does not show is used through another, while calls on other keys go on', async () => {
    const ckaId = await makeWrappingKey(token)
    const pid = opened.pid()
    // The handle is stale, and both searches for it find nothing; the canary, whose search comes between (two calls: what is there, then
    // nothing more), is there.
    faults.set(
      { function: 'C_EncryptInit', rv: 0x82 },
      { function: 'C_FindObjects', rv: 'empty' },
      { function: 'C_FindObjects', rv: 'empty', skip: 2 },
    )
    const [found, ...others] = await Promise.all([use(ckaId), ...Array.from({ length: 20 }, () => use())])
    expect(found).toBe('none')
    expect(others.every((failure) => failure === 'none')).toBe(true)
    expect(opened.pid()).not.toBe(pid)
  })

  test('closing answers also the calls of an agent that was replaced and hangs', async () => {
    const closing = await openShim(60_000)
    // What hangs is one of two, so that there is another to ask.
    await until('both sessions', () => closing.token.health().sessions === 2)
    const own = await makeWrappingKey(closing.token)
    faults.set({ function: 'C_Encrypt', rv: 'hang' })
    const hung = failureOf(closing.token.wrap(own, none, plaintext))
    await until('the hang', () => faults.left()[0] === 0)
    // A key that is not there brings a new agent; the old one is left with the call that hangs.
    expect(await closing.token.objects(freshId())).toEqual([])
    expect(closing.token.health().respawns).toBe(1)
    process.kill(closing.pid(), 'SIGKILL')
    await until('the new agent to be gone', () => closing.token.health().state !== 'up')
    await closing.token.close()
    expect(await Promise.race([hung, new Promise((resolve) => setTimeout(resolve, 20_000, 'never'))])).toBe('unavailable')
  })

  test('a token whose directory goes away is down, and back when the directory is', async () => {
    const directory = `${readFileSync(lab.env['SOFTHSM2_CONF'] ?? '', 'utf8')
      .match(/directories\.tokendir\s*=\s*(.+)/)?.[1]
      ?.trim()}`
    renameSync(directory, `${directory}.away`)
    try {
      await until('a refusal', async () => (await use()) === 'unavailable')
      await until('the token to be down', () => token.health().state === 'down')
    } finally {
      renameSync(`${directory}.away`, directory)
    }
    await up()
    expect(await use()).toBe('none')
  })
})

describe.skipIf(library === undefined)('a PIN that is refused', () => {
  let lab: LabToken
  let faults: FaultFile
  const shimmed = (): Parameters<typeof open>[1] => ({
    library: library ?? '',
    env: { ...lab.env, ...shimEnv({ module: lab.library, faults }) },
  })
  /** Logins so far, counted by a fault that does nothing. */
  const countLogins = (): (() => number) => {
    faults.set({ function: 'C_Login', rv: 'forward', count: 1000 })
    return () => 1000 - Number(faults.left()[0])
  }

  beforeAll(async () => {
    lab = await makeSoftHsmToken({ label: 'pin' })
    faults = new FaultFile(lab.dir)
  })
  afterAll(() => lab.remove())

  test('after a respawn stops the token for good: no further login, every call refused at once', async () => {
    const pinFile = `${lab.dir}/changing-pin`
    writeFileSync(pinFile, readFileSync(lab.pinFile, 'utf8'), { mode: 0o600 })
    const stopping = await open(lab, { ...shimmed(), pinFile })
    const { token } = stopping
    try {
      const key = await makeWrappingKey(token)
      writeFileSync(pinFile, '000000wrong')
      const logins = countLogins()
      process.kill(stopping.pid(), 'SIGKILL')
      await until('the stop', () => token.health().state === 'stopped-pin')
      expect(logins()).toBe(1)
      // The right PIN comes back; nothing may try it before an operator restarts the service.
      writeFileSync(pinFile, readFileSync(lab.pinFile, 'utf8'))
      await new Promise((resolve) => setTimeout(resolve, 1500))
      expect(await failureOf(token.wrap(key, none, plaintext))).toBe('unavailable')
      expect(token.health()).toMatchObject({ state: 'stopped-pin', sessions: 0 })
      expect(logins()).toBe(1)
    } finally {
      await token.close()
    }
  })
})

describe.skipIf(library === undefined)('an agent whose service dies', () => {
  test.each([
    ['idle', 'none'],
    ['hung in the library', 'hang'],
  ] as const)('ends when it is %s', async (_what, mode) => {
    const lab = await makeSoftHsmToken({ label: 'orphan' })
    try {
      const faults = new FaultFile(lab.dir)
      const config = configFor(lab, { library: library ?? '', env: { ...lab.env, ...shimEnv({ module: lab.library, faults }) } })
      const program = `
        import { openToken } from ${JSON.stringify(builtProgram('src/hsm/client.ts'))}
        const log = { info: (fields) => { if (fields.pid) process.stdout.write(fields.pid + '\\n') }, warn() {}, error() {} }
        const token = await openToken(${JSON.stringify(config)}, { log })
        process.stdin.once('data', () => token.check())
        process.stdout.write('ready\\n')`
      const service = spawn(process.execPath, ['--input-type=module', '-e', program], {
        stdio: ['pipe', 'pipe', 'inherit'],
      })
      let output = ''
      service.stdout.on('data', (text: Buffer) => {
        output += text.toString()
      })
      await until('the service', () => output.includes('ready'))
      const pid = Number(output.split('\n')[0])
      expect(lives(pid)).toBe(true)
      if (mode === 'hang') {
        faults.set({ function: 'C_Encrypt', rv: 'hang' })
        service.stdin.write('check\n')
        await until('the hang', () => faults.left()[0] === 0)
      }
      service.kill('SIGKILL')
      await until('the agent to end', () => !lives(pid))
    } finally {
      await lab.remove()
    }
  })
})
