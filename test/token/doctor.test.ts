import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CKM } from '../../src/hsm/constants.ts'
import { DoctorError, diagnose, inspectModule, renderDoctor, type ModuleReport, type OpenedToken } from '../../src/hsm/doctor.ts'
import { readProfile } from '../../src/hsm/profile.ts'
import type { TokenInfo } from '../../src/hsm/token.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { openLab } from './open.ts'
import { FaultFile, buildShim, shimEnv } from './shim.ts'

let token: LabToken
let module: ModuleReport

beforeAll(async () => {
  token = await makeSoftHsmToken({ label: 'doctor' })
  module = await inspectModule({ library: token.library, env: environment() })
})
afterAll(() => token.remove())

const environment = (more: Readonly<Record<string, string>> = {}): Record<string, string | undefined> => ({
  PATH: process.env['PATH'],
  ...token.env,
  ...more,
})

/** The token as the agent would describe it, had it passed these probes. */
function opened(profile: string, passed: Partial<OpenedToken['capabilities']>): OpenedToken {
  const shown = module.slots.find((slot) => slot.token?.label === 'doctor')?.token
  if (shown === undefined) throw new Error('the token is not shown')
  const info: TokenInfo = { profile, library: token.library, ...shown }
  const capabilities = { wrapScheme: undefined, wrapSchemes: [], keyKinds: [], algorithms: [], probes: [], ...passed }
  return { info, capabilities, profile: readProfile(profile) }
}

const told = (report: ReturnType<typeof diagnose>, subject: string): string | undefined =>
  report.findings.find((finding) => finding.subject.startsWith(subject))?.text

describe('a library is inspected', () => {
  test('in another process: its slots, tokens and mechanisms come back, and it is never loaded here', () => {
    expect(module).toMatchObject({ library: token.library, manufacturer: 'SoftHSM', cryptoki: '2.40' })
    const slot = module.slots.find((found) => found.token?.label === 'doctor')
    expect(slot?.token).toMatchObject({
      manufacturer: 'SoftHSM project',
      model: 'SoftHSM v2',
      initialized: true,
      userPinSet: true,
      userPinLocked: false,
      maxSessions: null,
      pinLength: [4, 255],
    })
    expect(slot?.mechanisms.find(({ number }) => number === CKM.CKM_AES_GCM)).toEqual({
      number: 0x1087,
      name: 'CKM_AES_GCM',
      minKeySize: 16,
      maxKeySize: 32,
      flags: ['encrypt', 'decrypt'],
    })
    expect(slot?.mechanisms.find(({ number }) => number === CKM.CKM_EDDSA)?.name).toBe('CKM_EDDSA')
    expect(module.slots.filter((found) => found.token?.initialized === false)).toHaveLength(1)
    const loaded = process.report.getReport() as unknown as { sharedObjects: readonly string[] }
    expect(loaded.sharedObjects.length).toBeGreaterThan(0)
    expect(loaded.sharedObjects).not.toContain(token.library)
  })

  test('and a library that is not there is an error that names it', async () => {
    const asked = inspectModule({ library: '/nowhere/lib.so', env: environment() })
    await expect(asked).rejects.toThrow(DoctorError)
    await expect(asked).rejects.toThrow('/nowhere/lib.so cannot be used: ')
  })

  const shim = buildShim()
  describe.skipIf(shim === undefined)('even when it', () => {
    const inspect = (more: Partial<Parameters<typeof shimEnv>[0]>, timeoutMs = 60_000): Promise<ModuleReport> =>
      inspectModule({ library: shim ?? '', env: environment(shimEnv({ module: token.library, ...more })), timeoutMs })

    test('crashes: the error says with which signal', async () => {
      const faults = new FaultFile(token.dir)
      faults.set({ function: 'C_GetTokenInfo', rv: 'segv' })
      await expect(inspect({ faults })).rejects.toThrow('ended its process with SIGSEGV')
    })

    test('hangs: its process is killed after the time allowed', async () => {
      const faults = new FaultFile(token.dir)
      faults.set({ function: 'C_GetSlotList', rv: 'hang' })
      await expect(inspect({ faults }, 1_500)).rejects.toThrow('did not answer in 1500 ms')
    })

    test('cannot read one slot: the others are shown', async () => {
      const faults = new FaultFile(token.dir)
      faults.set({ function: 'C_GetTokenInfo', rv: 0x30 })
      const report = diagnose(await inspect({ faults }))
      expect(report.module.slots.map((slot) => slot.problem === undefined)).toEqual([false, true])
      expect(told(report, 'slot 0x')).toMatch(/^It cannot be read: CKR_DEVICE_ERROR/)
      expect(report.healthy).toBe(false)
    })

    test('lacks a mechanism: that is not listed', async () => {
      const report = await inspect({ hide: [CKM.CKM_AES_GCM] })
      expect(report.slots[0]?.mechanisms.map(({ name }) => name)).not.toContain('CKM_AES_GCM')
      expect(report.slots[0]?.mechanisms.map(({ name }) => name)).toContain('CKM_AES_CBC')
    })
  })
})

describe('the diagnosis', () => {
  const softHsm = (): OpenedToken =>
    opened('softhsm2', {
      wrapScheme: 'gcm-iv-in',
      wrapSchemes: ['gcm-iv-in', 'cbc-hmac'],
      keyKinds: ['wrapping', 'RSA_2048 SIGN_VERIFY', 'ECC_NIST_EDWARDS25519 SIGN_VERIFY'],
      algorithms: ['RSASSA_PSS_SHA_256', 'ED25519_SHA_512'],
      probes: [
        { name: 'gcm-iv-in', passed: true, detail: 'wraps and unwraps' },
        { name: 'HMAC_256 GENERATE_VERIFY_MAC', passed: false, detail: 'C_Sign answered CKR_DEVICE_ERROR' },
      ],
    })

  test('lists every KMS key spec and usage with why it is possible or not', () => {
    const { keySpecs } = diagnose(module, softHsm())
    expect(new Set(keySpecs.map(({ spec }) => spec)).size).toBe(20)
    const specs = new Map(keySpecs.map((row) => [`${row.spec} ${row.usage}`, row]))
    expect(specs.size).toBe(keySpecs.length)
    expect(specs.get('RSA_2048 SIGN_VERIFY')).toMatchObject({ supported: true })
    expect(specs.get('RSA_2048 ENCRYPT_DECRYPT')).toMatchObject({ supported: false })
    expect(specs.get('SYMMETRIC_DEFAULT ENCRYPT_DECRYPT')).toMatchObject({ supported: true, detail: 'by gcm-iv-in' })
    expect(specs.get('HMAC_256 GENERATE_VERIFY_MAC')).toMatchObject({ supported: false, detail: 'C_Sign answered CKR_DEVICE_ERROR' })
    expect(keySpecs.find(({ spec }) => spec === 'SM2')).toMatchObject({
      supported: false,
      detail: 'this version of the service does not use it',
    })
  })

  test('says what each thing that is missing costs', () => {
    const report = diagnose(module, softHsm())
    expect(report.healthy).toBe(true)
    expect(told(report, 'key specs')).toMatch(
      /^CreateKey answers UnsupportedOperationException here for RSA_3072 for SIGN_VERIFY, .*ML_KEM_1024 for ENCAPSULATE_DECAPSULATE\.$/,
    )
    expect(told(report, 'algorithms')).toMatch(/^Keys can be made, but RSASSA_PKCS1_V1_5_SHA_256, .*ED25519_PH_SHA_512 are answered Unsupp/)
    expect(told(report, 'RSA-OAEP with SHA-256')).toMatch(/raw RSA/)
    expect(told(report, 'AES key wrap')).toBeUndefined()
    expect(told(report, 'wrap scheme')).toBeUndefined()
    const other = diagnose(module, opened('cloudhsm5', { wrapScheme: 'gcm-iv-back', wrapSchemes: ['gcm-iv-back'] }))
    expect(told(other, 'AES key wrap')).toMatch(/lists no CKM_0x8000216f: ImportKeyMaterial by RSA_AES_KEY_WRAP/)
    expect(told(other, 'ECDH')).toMatch(/DeriveSharedSecret/)
    expect(told(other, 'capacity')).toBe(
      'The product holds 3300 objects, enough for about 3300 backing keys; each rotation makes one more.',
    )
  })

  test('counts two objects for a key whose scheme takes two', () => {
    const report = diagnose(module, opened('yubihsm2', { wrapScheme: 'cbc-hmac', wrapSchemes: ['cbc-hmac'] }))
    expect(told(report, 'capacity')).toContain('256 objects, enough for about 128 backing keys')
    expect(told(report, 'wrap scheme cbc-hmac')).toContain('no usable AES-GCM')
  })

  test('is a problem when no scheme works, or not the one the profile expects', () => {
    const none = diagnose(module, opened('softhsm2', {}))
    expect(none.healthy).toBe(false)
    expect(none.findings[0]).toMatchObject({ level: 'problem', subject: 'wrap scheme' })
    const other = diagnose(module, opened('softhsm2', { wrapScheme: 'cbc-hmac', wrapSchemes: ['cbc-hmac'] }))
    expect(told(other, 'wrap scheme')).toMatch(/^The profile expects gcm-iv-in, which failed; new blobs get cbc-hmac\./)
  })

  test('tells of a PIN that is locked, nearly locked, unset or to be changed, and of a token that is gone', () => {
    const withToken = (change: object): ModuleReport => ({
      ...module,
      slots: module.slots.map((slot) => (slot.token?.label === 'doctor' ? { ...slot, token: { ...slot.token, ...change } } : slot)),
    })
    const ofToken = (change: object): string | undefined => told(diagnose(withToken(change), softHsm()), 'token "doctor"')
    expect(ofToken({})).toBeUndefined()
    expect(ofToken({ userPinLocked: true, userPinLastTry: true })).toMatch(/locked after too many/)
    expect(ofToken({ userPinLastTry: true })).toMatch(/One more wrong PIN locks the token/)
    expect(ofToken({ userPinSet: false })).toMatch(/No user PIN is set/)
    expect(ofToken({ userPinToBeChanged: true })).toMatch(/must be changed/)
    expect(ofToken({ serial: 'another' })).toBe('The library no longer shows it.')
  })

  test('without an opened token says what is there, and that nothing was tested', () => {
    const report = diagnose(module)
    expect(report).toMatchObject({ token: undefined, keySpecs: [], healthy: true })
    expect(told(report, 'self-test')).toMatch(/No token was opened/)
    expect(diagnose({ ...module, slots: [] })).toMatchObject({
      healthy: false,
      findings: [{ text: 'No slot holds an initialized token.' }, {}],
    })
  })

  test('of a token that was really opened: SoftHSM2 can make every kind of key but ML-DSA and SM2', async () => {
    const real = await openLab(token)
    const info = real.info()
    const capabilities = real.capabilities()
    await real.close()
    const report = diagnose(await inspectModule({ library: token.library, env: environment() }), {
      info,
      capabilities,
      profile: readProfile(info.profile),
    })
    expect(report.healthy).toBe(true)
    expect(told(report, 'key specs')).toMatch(/here for SM2 for SIGN_VERIFY, .*KEY_AGREEMENT, ML_DSA_44 for SIGN_VERIFY, /)
    expect(told(report, 'algorithms')).toBe('Keys can be made, but ED25519_PH_SHA_512 is answered UnsupportedOperationException here.')
    expect(report.findings.map(({ subject }) => subject)).toEqual(['RSA-OAEP with SHA-256', 'key specs', 'algorithms'])
    const failed = report.probes.filter(({ passed, name }) => !passed && !name.startsWith('import ')).map(({ name }) => name)
    expect(failed).toEqual(['gcm-iv-back', 'gcm-iv-tail'])
    expect(renderDoctor(report)).toContain('This token can be used.')
  })

  test('is a table to read, in lines that fit, and the same as JSON', () => {
    const report = diagnose(module, softHsm())
    const text = renderDoctor(report)
    expect(text).toMatch(/^Library \/.*libsofthsm2\.so\n {2}Implementation of PKCS11, SoftHSM, version 2\.\d+, PKCS#11 2\.40\n/)
    expect(text).toMatch(/\n {2}CKM_AES_GCM +16-32 +encrypt decrypt\n/)
    expect(text).toMatch(/\n {2}SYMMETRIC_DEFAULT +ENCRYPT_DECRYPT +yes +by gcm-iv-in\n/)
    expect(text).toMatch(/\n {2}HMAC_256 +GENERATE_VERIFY_MAC +no +C_Sign answered CKR_DEVICE_ERROR\n/)
    expect(text).toMatch(/This token can be used\.\n$/)
    for (const line of text.split('\n')) expect(line.length).toBeLessThanOrEqual(140)
    expect(JSON.parse(JSON.stringify(report))).toMatchObject({
      healthy: true,
      wrapScheme: 'gcm-iv-in',
      profile: { name: 'softhsm2', unverified: [] },
      token: { label: 'doctor' },
      keySpecs: report.keySpecs,
      findings: report.findings,
      module: { library: token.library, slots: [{ token: { label: 'doctor' } }, { token: { initialized: false } }] },
    })
  })

  test('marks what a profile says that nobody verified on hardware', () => {
    expect(diagnose(module, softHsm()).profile?.unverified).toEqual([])
    const luna = diagnose(module, opened('luna7', { wrapScheme: 'gcm-iv-tail', wrapSchemes: ['gcm-iv-tail'] }))
    expect(luna.profile?.unverified).toContain('limits.sessions')
    expect(renderDoctor(luna)).toContain('not verified on hardware: match, ')
  })
})
