import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CKA, CKM, parameterKind } from '../../src/hsm/constants.ts'
import type { Token, WrapScheme } from '../../src/hsm/token.ts'
import { makeOpenCryptokiToken, makeSoftHsmToken, makeTpm2Token, type LabToken } from './lab.ts'
import { newCkaId, openLab, outcome, writeProfile } from './open.ts'
import { RawModule } from './raw-module.ts'
import { buildShim, shimEnv } from './shim.ts'

const shim = buildShim()

/** SoftHSM behind the shim, so that it plays another device. */
async function shimmed(settings: Omit<Parameters<typeof shimEnv>[0], 'module'>): Promise<LabToken | undefined> {
  if (shim === undefined) return undefined
  const lab = await makeSoftHsmToken()
  return { ...lab, library: shim, env: { ...lab.env, ...shimEnv({ module: lab.library, ...settings }) } }
}

/** The token, or the end of the test: its maker has said loudly what is missing. */
function here(lab: LabToken | undefined, skip: (note?: string) => never): LabToken {
  return lab ?? skip('this machine lacks the module')
}

const gcmBytes = 1 + 12 + 32 + 16
const noGcm = [CKM.CKM_AES_GCM]

/** Each scheme on each module that can show it. `bytes`: the documented length of a body for 32 bytes. */
const rows: readonly {
  readonly scheme: WrapScheme
  readonly on: string
  readonly make: () => Promise<LabToken | undefined>
  readonly base: string
  readonly wrap: WrapScheme | 'probe'
  readonly bytes: number
  /** How many changed bodies are tried: a TPM takes 0.1 s for each. */
  readonly changes: number
}[] = [
  { scheme: 'gcm-iv-in', on: 'SoftHSM2', make: () => makeSoftHsmToken(), base: 'softhsm2', wrap: 'probe', bytes: gcmBytes, changes: 500 },
  {
    scheme: 'gcm-iv-back',
    on: 'a device that writes its IV back at C_EncryptInit',
    make: () => shimmed({ gcm: 'back-init' }),
    base: 'softhsm2',
    wrap: 'gcm-iv-back',
    bytes: gcmBytes,
    changes: 500,
  },
  {
    scheme: 'gcm-iv-back',
    on: 'a device that writes its IV back at C_Encrypt',
    make: () => shimmed({ gcm: 'back-encrypt' }),
    base: 'softhsm2',
    wrap: 'probe',
    bytes: gcmBytes,
    changes: 500,
  },
  {
    scheme: 'gcm-iv-tail',
    on: 'a device that appends its IV',
    make: () => shimmed({ gcm: 'tail' }),
    base: 'softhsm2',
    wrap: 'probe',
    bytes: gcmBytes + 4,
    changes: 500,
  },
  { scheme: 'cbc-hmac', on: 'openCryptoki', make: makeOpenCryptokiToken, base: 'opencryptoki', wrap: 'probe', bytes: 140, changes: 500 },
  {
    scheme: 'cbc-hmac',
    on: 'SoftHSM2 without AES-GCM',
    make: () => shimmed({ hide: noGcm }),
    base: 'softhsm2',
    wrap: 'probe',
    bytes: 140,
    changes: 500,
  },
  { scheme: 'rsa-oaep', on: 'a TPM', make: makeTpm2Token, base: 'tpm2', wrap: 'rsa-oaep', bytes: 319, changes: 12 },
  {
    scheme: 'rsa-oaep',
    on: 'SoftHSM2 without AES',
    make: () => shimmed({ hide: [CKM.CKM_AES_KEY_GEN] }),
    base: 'softhsm2',
    wrap: 'probe',
    bytes: 319,
    changes: 100,
  },
]

describe.each(rows)('$scheme on $on', ({ scheme, make, base, wrap, bytes, changes }) => {
  let lab: LabToken | undefined
  let token: Token
  let profile: string
  const ckaId = newCkaId()

  beforeAll(async () => {
    lab = await make()
    if (lab === undefined) return
    profile = writeProfile(lab, base, { wrap })
    token = await openLab(lab, { profile })
    await token.generateKey({ kind: 'wrapping', ckaId, label: 'kms/test/1' })
  })
  afterAll(async () => {
    if (lab === undefined) return
    await token.close()
    await lab.remove()
  })

  test('is what the self-test found, and new keys are as protected as was asked', async ({ skip }) => {
    here(lab, skip)
    expect(token.capabilities().wrapScheme).toBe(scheme)
    const objects = await token.objects(ckaId)
    const secret = objects.filter(({ objectClass }) => objectClass !== 'CKO_PUBLIC_KEY')
    expect(secret).toHaveLength(scheme === 'cbc-hmac' ? 2 : 1)
    for (const { attributes } of secret) {
      expect(attributes).toMatchObject({
        CKA_TOKEN: true,
        CKA_PRIVATE: true,
        CKA_SENSITIVE: true,
        CKA_EXTRACTABLE: false,
        CKA_ALWAYS_SENSITIVE: true,
        CKA_NEVER_EXTRACTABLE: true,
        CKA_LOCAL: true,
      })
    }
  })

  test('gives back what went in, for every length of plaintext and additional data', async ({ skip }) => {
    here(lab, skip)
    for (const [plaintextBytes, aadBytes] of [
      [1, 0],
      [32, 100],
      [33, 1],
      [4096, 12_288],
      [16, 8192],
    ] as const) {
      const [plaintext, aad] = [randomBytes(plaintextBytes), randomBytes(aadBytes)]
      const { scheme: used, body } = await token.wrap(ckaId, aad, plaintext)
      expect(used).toBe(scheme)
      expect(body.length - bytes).toBe(plaintextBytes - 32)
      expect(body.includes(plaintext.subarray(0, 16)) && plaintextBytes > 1).toBe(false)
      expect(await token.unwrap(ckaId, used, aad, body)).toEqual(plaintext)
    }
  })

  test('never makes the same body twice', async ({ skip }) => {
    here(lab, skip)
    const made = await Promise.all(Array.from({ length: 50 }, () => token.wrap(ckaId, Buffer.alloc(0), Buffer.alloc(32))))
    expect(new Set(made.map(({ body }) => body.toString('hex'))).size).toBe(50)
    const ivs = made.map(({ body }) => body.subarray(0, 16).toString('hex'))
    // In rsa-oaep the head is hash and length; what differs comes after it.
    expect(new Set(ivs).size).toBe(50)
  })

  test('refuses every change of body, additional data, key and scheme, all alike', async ({ skip }) => {
    here(lab, skip)
    const aad = randomBytes(40)
    const { body } = await token.wrap(ckaId, aad, randomBytes(32))
    const changed = (buffer: Buffer, bit: number): Buffer => {
      const copy = Buffer.from(buffer)
      copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      return copy
    }
    const bits = body.length * 8
    const step = Math.max(1, Math.floor(bits / changes))
    const positions = Array.from({ length: Math.ceil(bits / step) }, (_, index) => index * step)
    const failures = new Set<string>()
    for (const bit of positions) failures.add(await outcome(token.unwrap(ckaId, scheme, aad, changed(body, bit))))
    for (const bit of [0, 77, 319]) failures.add(await outcome(token.unwrap(ckaId, scheme, changed(aad, bit), body)))
    for (const length of [1, 12, 13, 28, 29, 48, body.length - 16, body.length - 1]) {
      failures.add(await outcome(token.unwrap(ckaId, scheme, aad, body.subarray(0, length))))
    }
    failures.add(await outcome(token.unwrap(ckaId, scheme, aad, Buffer.concat([body, Buffer.alloc(1)]))))
    failures.add(await outcome(token.unwrap(ckaId, scheme, Buffer.concat([aad, Buffer.alloc(1)]), body)))
    expect([...failures]).toEqual(['rejected'])
    expect((await token.unwrap(ckaId, scheme, aad, body)).length).toBe(32)
  })

  test('refuses a body of another key', async ({ skip }) => {
    here(lab, skip)
    const other = newCkaId()
    await token.generateKey({ kind: 'wrapping', ckaId: other, label: 'kms/test/2' })
    const { body } = await token.wrap(other, Buffer.alloc(0), Buffer.from('x'))
    expect(await outcome(token.unwrap(ckaId, scheme, Buffer.alloc(0), body))).toBe('rejected')
    expect((await token.unwrap(other, scheme, Buffer.alloc(0), body)).toString()).toBe('x')
  })

  test('is read by another agent later', async ({ skip }) => {
    const same = here(lab, skip)
    const { body } = await token.wrap(ckaId, Buffer.from('aad'), Buffer.from('kept'))
    await token.close()
    token = await openLab(same, { profile, provision: false })
    expect((await token.unwrap(ckaId, scheme, Buffer.from('aad'), body)).toString()).toBe('kept')
  })
})

describe('a body', () => {
  test('of gcm-iv-in is laid out as documented: another program reads it', async () => {
    const lab = await makeSoftHsmToken()
    const token = await openLab(lab)
    const module = new RawModule(lab.library, lab.env)
    try {
      const ckaId = newCkaId()
      await token.generateKey({ kind: 'wrapping', ckaId, label: 'kms/test/1' })
      const { body } = await token.wrap(ckaId, Buffer.from('context'), Buffer.from('plain'))
      const session = await module.login(lab.label, readFileSync(lab.pinFile, 'utf8'))
      await module.call('C_FindObjectsInit', session, [{ type: CKA.CKA_ID, value: Buffer.from(ckaId, 'hex') }])
      const [key] = await module.call<Buffer[]>('C_FindObjects', session, 2)
      await module.call('C_FindObjectsFinal', session)
      const parameter = { type: parameterKind.gcm, iv: body.subarray(1, 13), ivBits: 96, aad: Buffer.from('context'), tagBits: 128 }
      await module.call('C_DecryptInit', session, { mechanism: CKM.CKM_AES_GCM, parameter }, key)
      expect((await module.call<Buffer>('C_Decrypt', session, body.subarray(13), Buffer.alloc(64))).toString()).toBe('plain')
    } finally {
      await module.end()
      await token.close()
      await lab.remove()
    }
  })

  test('stays readable when the profile or the firmware brings another scheme for new ones', async ({ skip }) => {
    const lab = here(await shimmed({ hide: noGcm }), skip)
    const before = await openLab(lab)
    const ckaId = newCkaId()
    await before.generateKey({ kind: 'wrapping', ckaId, label: 'kms/test/1' })
    const old = await before.wrap(ckaId, Buffer.from('aad'), Buffer.from('old'))
    await before.close()
    // The same token, with AES-GCM after all.
    const after = await openLab(lab, { env: { SHIM_HIDE: '' } })
    try {
      expect(old.scheme).toBe('cbc-hmac')
      expect(after.capabilities().wrapScheme).toBe('gcm-iv-in')
      const fresh = await after.wrap(ckaId, Buffer.from('aad'), Buffer.from('new'))
      expect((await after.unwrap(ckaId, old.scheme, Buffer.from('aad'), old.body)).toString()).toBe('old')
      expect((await after.unwrap(ckaId, fresh.scheme, Buffer.from('aad'), fresh.body)).toString()).toBe('new')
      expect(await outcome(after.unwrap(ckaId, fresh.scheme, Buffer.from('aad'), old.body))).toBe('rejected')
      expect(await outcome(after.unwrap(ckaId, old.scheme, Buffer.from('aad'), fresh.body))).toBe('rejected')
    } finally {
      await after.close()
      await lab.remove()
    }
  })
})

test('a device that keeps the IV it chose is never given a plaintext to lose: the scheme is not used', async ({ skip }) => {
  const lab = here(await shimmed({ gcm: 'back-never' }), skip)
  const token = await openLab(lab, { profile: writeProfile(lab, 'softhsm2', { wrap: 'gcm-iv-back' }) })
  try {
    const { wrapScheme, wrapSchemes, replicableKinds, probes } = token.capabilities()
    expect(wrapSchemes).toEqual(['cbc-hmac', 'rsa-oaep'])
    expect(wrapScheme).toBe('cbc-hmac')
    // Two objects under one CKA_ID do not travel.
    expect(replicableKinds).not.toContain('wrapping')
    expect(replicableKinds).toContain('HMAC_256 GENERATE_VERIFY_MAC')
    expect(probes.find(({ name }) => name === 'gcm-iv-back')).toMatchObject({
      passed: false,
      detail: 'the device encrypted without giving its IV back',
    })
    expect(probes.find(({ name }) => name === 'scheme of the profile')?.detail).toContain('gcm-iv-back does not work on this token')
  } finally {
    await token.close()
    await lab.remove()
  }
})
