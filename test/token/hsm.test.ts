/**
 * The device layer on a real SoftHSM token: keys, limits, several processes, opening and closing. The wrap schemes are in
 * `wrap-schemes.test.ts`, trouble in `recovery.test.ts` and `hsm-recovery.test.ts`.
 */
import { createHash, createPublicKey, createVerify, randomBytes } from 'node:crypto'
import { chmodSync, copyFileSync, readFileSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { TokenError, type Token } from '../../src/hsm/token.ts'
import { maxWrapBytes } from '../../src/hsm/wrap.ts'
import { failureOf, freshId, lives, makeWrappingKey, open, until, type OpenedToken } from './hsm-fixture.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { buildShim, FaultFile, shimEnv } from './shim.ts'

let lab: LabToken
let opened: OpenedToken
let token: Token

beforeAll(async () => {
  lab = await makeSoftHsmToken({ label: 'hsm' })
  opened = await open(lab)
  token = opened.token
})
afterAll(async () => {
  await token.close()
  await lab.remove()
})

describe('a token that was opened', () => {
  test('says what it is', () => {
    expect(token.info()).toMatchObject({ profile: 'softhsm2', label: 'hsm', manufacturer: 'SoftHSM project', library: lab.library })
    expect(token.health()).toMatchObject({ state: 'up', queued: 0, respawns: 0 })
  })

  test('has proved its schemes and kinds of key by using them', () => {
    const { wrapScheme, wrapSchemes: passed, keyKinds, replicableKinds, probes, keyIdBytes } = token.capabilities()
    expect(wrapScheme).toBe('gcm-iv-in')
    expect(passed).toEqual(['gcm-iv-in', 'cbc-hmac', 'rsa-oaep'])
    expect(keyKinds).toEqual(expect.arrayContaining(['wrapping', 'signing', 'RSA_4096 SIGN_VERIFY', 'HMAC_256 GENERATE_VERIFY_MAC']))
    expect(probes.find(({ name }) => name === 'gcm-iv-back')).toMatchObject({ passed: false })
    expect(replicableKinds).toEqual(keyKinds)
    expect(keyIdBytes).toBe(16)
  })

  test('leaves nothing of the self-test behind but the canary', async () => {
    const labels = (await token.allObjects()).map(({ label }) => label)
    expect(labels).not.toContain('holdfast/self-test')
    expect(labels.filter((label) => label === 'holdfast/canary')).toHaveLength(1)
  })

  test('is proved with session objects, where it knows them: no object comes into the token or goes', async () => {
    const tokens = join(dirname(lab.env['SOFTHSM2_CONF'] ?? ''), 'tokens')
    const [folder = ''] = readdirSync(tokens)
    // SoftHSM counts in it what was made and destroyed.
    const generation = (): string => readFileSync(join(tokens, folder, 'generation')).toString('hex')
    const before = generation()
    const another = await open(lab)
    try {
      expect(another.token.capabilities()).toEqual(token.capabilities())
      expect(generation()).toBe(before)
    } finally {
      await another.token.close()
    }
    const ckaId = await makeWrappingKey(token)
    expect(generation()).not.toBe(before)
    await token.destroyKey(ckaId, `kms/${ckaId}/1`)
  })

  test('computes with the canary when checked', async () => {
    expect(await failureOf(token.check())).toBe('none')
  })
})

describe('keys', () => {
  test('a wrapping key has the attributes that protect it and no use but its own', async () => {
    const ckaId = freshId()
    const objects = await token.generateKey({ kind: 'wrapping', ckaId, label: 'kms/attributes/1' })
    expect(objects).toHaveLength(1)
    expect(objects[0]).toMatchObject({ ckaId, label: 'kms/attributes/1', objectClass: 'CKO_SECRET_KEY', keyType: 'CKK_AES' })
    expect(objects[0]?.attributes).toEqual({
      CKA_TOKEN: true,
      CKA_PRIVATE: true,
      CKA_MODIFIABLE: false,
      CKA_LOCAL: true,
      CKA_SENSITIVE: true,
      CKA_EXTRACTABLE: false,
      CKA_ALWAYS_SENSITIVE: true,
      CKA_NEVER_EXTRACTABLE: true,
      CKA_ENCRYPT: true,
      CKA_DECRYPT: true,
      CKA_SIGN: false,
      CKA_VERIFY: false,
      CKA_WRAP: false,
      CKA_UNWRAP: false,
      CKA_DERIVE: false,
      CKA_VALUE_LEN: 32,
      CKA_KEY_GEN_MECHANISM: 'CKM_AES_KEY_GEN',
    })
    expect(await token.objects(ckaId)).toEqual(objects)
  })

  test('a signing key signs digests that its public key verifies', async () => {
    const ckaId = freshId()
    const objects = await token.generateKey({ kind: 'signing', ckaId, label: 'audit' })
    expect(objects.map(({ objectClass }) => objectClass)).toEqual(['CKO_PRIVATE_KEY', 'CKO_PUBLIC_KEY'])
    expect(objects[0]?.attributes).toMatchObject({ CKA_SENSITIVE: true, CKA_EXTRACTABLE: false, CKA_SIGN: true, CKA_DECRYPT: false })
    const message = randomBytes(100)
    const { algorithm, signature } = await token.sign(ckaId, createHash('sha256').update(message).digest())
    expect(algorithm).toBe('ECDSA_SHA_256')
    const publicKey = createPublicKey({ key: await token.publicKey(ckaId), format: 'der', type: 'spki' })
    expect(createVerify('sha256').update(message).verify(publicKey, signature)).toBe(true)
    expect(createVerify('sha256').update('other').verify(publicKey, signature)).toBe(false)
  })

  test('a CKA_ID that is taken is refused, and the key that has it stays', async () => {
    const ckaId = await makeWrappingKey(token)
    expect(await failureOf(token.generateKey({ kind: 'wrapping', ckaId, label: 'kms/again/1' }))).toBe('rejected')
    expect(await token.objects(ckaId)).toHaveLength(1)
  })

  test('a CKA_ID of another length than the token wants is refused', async () => {
    expect(await failureOf(token.generateKey({ kind: 'wrapping', ckaId: 'abcd', label: 'kms/short/1' }))).toBe('rejected')
  })

  test('only objects with both the id and the label are destroyed', async () => {
    const ckaId = freshId()
    await token.generateKey({ kind: 'wrapping', ckaId, label: 'kms/mine/1' })
    expect(await token.destroyKey(ckaId, 'kms/other/1')).toBe(0)
    expect(await token.objects(ckaId)).toHaveLength(1)
    expect(await token.destroyKey(ckaId, 'kms/mine/1')).toBe(1)
    expect(await token.objects(ckaId)).toEqual([])
    expect(await token.destroyKey(ckaId, 'kms/mine/1')).toBe(0)
  })

  test('a key that the token does not show is missing, also for a second agent, and costs no third', async () => {
    const before = token.health().respawns
    const ckaId = freshId()
    expect(await failureOf(token.wrap(ckaId, Buffer.alloc(0), Buffer.from('x')))).toBe('missing')
    expect(token.health().respawns).toBe(before + 1)
    expect(await failureOf(token.wrap(ckaId, Buffer.alloc(0), Buffer.from('x')))).toBe('missing')
    expect(token.health().respawns).toBe(before + 1)
  })
})

const shim = buildShim()

test.skipIf(shim === undefined)('a token without any usable mechanism has no scheme, and no software takes its place', async () => {
  const [aesGcm, sha256Hmac, oaep] = [0x1087, 0x251, 0x9]
  const env = { ...lab.env, ...shimEnv({ module: lab.library, hide: [aesGcm, sha256Hmac, oaep] }) }
  const other = await open(lab, { library: shim ?? '', env })
  try {
    expect(other.token.capabilities().wrapScheme).toBeUndefined()
    expect(other.token.capabilities().wrapSchemes).toEqual([])
    expect(other.token.capabilities().keyKinds).not.toContain('wrapping')
    expect(await failureOf(other.token.generateKey({ kind: 'wrapping', ckaId: freshId(), label: 'kms/none/1' }))).toBe('unsupported')
  } finally {
    await other.token.close()
  }
})

test.skipIf(shim === undefined)('the service signs with RSA on a token without elliptic curves', async () => {
  const ecKeyPairGen = 0x1040
  const env = { ...lab.env, ...shimEnv({ module: lab.library, hide: [ecKeyPairGen] }) }
  const other = await open(lab, { library: shim ?? '', env })
  try {
    const ckaId = freshId()
    await other.token.generateKey({ kind: 'signing', ckaId, label: 'audit' })
    const { algorithm, signature } = await other.token.sign(ckaId, createHash('sha256').update('text').digest())
    expect(algorithm).toBe('RSASSA_PKCS1_V1_5_SHA_256')
    const publicKey = createPublicKey({ key: await other.token.publicKey(ckaId), format: 'der', type: 'spki' })
    expect(publicKey.asymmetricKeyDetails).toMatchObject({ modulusLength: 2048, publicExponent: 65537n })
    expect(createVerify('sha256').update('text').verify(publicKey, signature)).toBe(true)
  } finally {
    await other.token.close()
  }
})

describe('random bytes', () => {
  test('each is handed out once, whatever the sizes', async () => {
    const parts = await Promise.all(Array.from({ length: 2000 }, (_, index) => token.random(index % 50 === 0 ? 5000 : 16 + (index % 17))))
    const seen = new Set(parts.map((part) => part.subarray(0, 16).toString('hex')))
    expect(seen.size).toBe(parts.length)
    expect(await token.random(100_000)).toHaveLength(100_000)
  })

  test('answers that are longer than the pipe between the processes has room for come whole from all sessions at once', async () => {
    const parts = await Promise.all(Array.from({ length: 24 }, () => token.random(1024 * 1024)))
    expect(new Set(parts.map((part) => part.length))).toEqual(new Set([1024 * 1024]))
    // Bytes of a neighbour's answer, or of its header, would be there twice.
    const seen = new Set(parts.flatMap((part) => Array.from({ length: 1024 }, (_, at) => part.toString('hex', at * 1024, at * 1024 + 16))))
    expect(seen.size).toBe(24 * 1024)
  })

  test('no bytes, or more than a mebibyte, are refused', async () => {
    expect(await failureOf(token.random(0))).toBe('rejected')
    expect(await failureOf(token.random(1024 * 1024 + 1))).toBe('rejected')
  })
})

describe('limits', () => {
  test('empty and oversized input is refused before it reaches the device', async () => {
    const ckaId = await makeWrappingKey(token)
    const none = Buffer.alloc(0)
    const failures = await Promise.all(
      [
        token.wrap(ckaId, none, none),
        token.wrap(ckaId, none, Buffer.alloc(maxWrapBytes + 1)),
        token.wrap(ckaId, Buffer.alloc(12_289), Buffer.alloc(1)),
        token.unwrap(ckaId, 'gcm-iv-in', none, none),
        token.unwrap(ckaId, 'gcm-iv-in', none, Buffer.alloc(10_000)),
        token.sign(ckaId, Buffer.alloc(31)),
      ].map(failureOf),
    )
    expect(new Set(failures)).toEqual(new Set(['rejected']))
    expect(await failureOf(token.wrap(ckaId, none, Buffer.alloc(maxWrapBytes)))).toBe('none')
    await token.check()
  })

  test('when the queue is full the next call is refused as busy, and the others are answered', async () => {
    const small = await open(lab, { queueLimit: 8 })
    try {
      const ckaId = await makeWrappingKey(small.token)
      const failures = await Promise.all(
        Array.from({ length: 20 }, () => failureOf(small.token.wrap(ckaId, Buffer.alloc(0), Buffer.alloc(1)))),
      )
      expect(failures.filter((failure) => failure === 'none')).toHaveLength(8)
      expect(failures.filter((failure) => failure === 'busy')).toHaveLength(12)
      expect(await failureOf(small.token.wrap(ckaId, Buffer.alloc(0), Buffer.alloc(1)))).toBe('none')
    } finally {
      await small.token.close()
    }
  })
})

test('with many keys, a new agent finds each without a search', async () => {
  const big = await makeSoftHsmToken({ label: 'big' })
  try {
    const first = await open(big, { sessions: 1 })
    const ids: string[] = []
    for (let index = 0; index < 150; index += 1) ids.push(await makeWrappingKey(first.token))
    await first.token.close()
    // The module is told to find nothing once the agent is ready: every handle must be known by then.
    const faults = shim === undefined ? undefined : new FaultFile(big.dir)
    const env = faults === undefined ? big.env : { ...big.env, ...shimEnv({ module: big.library, faults }) }
    const second = await open(big, { sessions: 2, library: shim ?? big.library, env })
    try {
      faults?.set({ function: 'C_FindObjectsInit', rv: 0x30, count: 'always' })
      const failures = await Promise.all(ids.map((ckaId) => failureOf(second.token.wrap(ckaId, Buffer.alloc(0), Buffer.alloc(32)))))
      expect(failures.filter((failure) => failure !== 'none')).toEqual([])
    } finally {
      await second.token.close()
    }
  } finally {
    await big.remove()
  }
})

test('a key that one process makes is used by another without a search error', async () => {
  const other = await open(lab)
  try {
    const ckaId = await makeWrappingKey(other.token)
    const { body, scheme } = await token.wrap(ckaId, Buffer.from('a'), Buffer.from('b'))
    expect((await other.token.unwrap(ckaId, scheme, Buffer.from('a'), body)).toString()).toBe('b')
    expect(await other.token.destroyKey(ckaId, `kms/${ckaId}/1`)).toBe(1)
    expect(await failureOf(token.wrap(ckaId, Buffer.from('a'), Buffer.from('b')))).toBe('missing')
  } finally {
    await other.token.close()
  }
})

test('keys that two processes make at the same time are all usable in both', async () => {
  const pair = [await open(lab), await open(lab)] as const
  try {
    const made = await Promise.all(
      pair.map(async ({ token: maker }) => {
        const ids: string[] = []
        for (let index = 0; index < 40; index += 1) ids.push(await makeWrappingKey(maker))
        return ids
      }),
    )
    for (const ckaId of made.flat()) {
      for (const { token: user } of pair) expect(await failureOf(user.wrap(ckaId, Buffer.alloc(0), Buffer.alloc(1)))).toBe('none')
    }
  } finally {
    await Promise.all(pair.map(({ token: each }) => each.close()))
  }
})

describe('what cannot be opened says what to do', () => {
  const refusalOf = async (overrides: Parameters<typeof open>[1]): Promise<TokenError> => {
    try {
      await (await open(lab, overrides)).token.close()
    } catch (error) {
      if (error instanceof TokenError) return error
      throw error
    }
    throw new Error('it was opened')
  }

  test('a library that is not there', async () => {
    const error = await refusalOf({ library: '/nonexistent/libpkcs11.so' })
    expect(error.failure).toBe('unavailable')
    expect(error.message).toContain('/nonexistent/libpkcs11.so cannot be loaded')
  })

  test('a label that no token has: the message lists those present', async () => {
    const error = await refusalOf({ tokenLabel: 'nobody', startTimeoutMs: 3000 })
    expect(error.message).toContain('no token "nobody" is present')
    expect(error.message).toContain('"hsm"')
  })

  test('a token that was never provisioned, when it may not be', async () => {
    const bare = await makeSoftHsmToken({ label: 'bare' })
    try {
      await expect(open(bare, { provision: false })).rejects.toThrow('no key labelled holdfast/canary')
    } finally {
      await bare.remove()
    }
  })

  test('a PIN file that everyone may read', async () => {
    const pinFile = `${lab.dir}/open-pin`
    copyFileSync(lab.pinFile, pinFile)
    chmodSync(pinFile, 0o644)
    expect((await refusalOf({ pinFile })).message).toContain('chmod 600')
  })
})

test('closing answers what is under way, refuses what comes later, and ends the agent', async () => {
  const other = await open(lab)
  const ckaId = await makeWrappingKey(other.token)
  const pid = other.pid()
  const calls = Array.from({ length: 100 }, () => failureOf(other.token.wrap(ckaId, Buffer.alloc(0), Buffer.alloc(1))))
  const closed = other.token.close()
  expect(await failureOf(other.token.random(8))).toBe('unavailable')
  expect(new Set(await Promise.all(calls))).toEqual(new Set(['none']))
  await closed
  await until('the agent to end', () => !lives(pid))
})

test('neither PIN nor plaintext is in the log', async () => {
  const pin = readFileSync(lab.pinFile, 'utf8').trim()
  expect(JSON.stringify(opened.log)).not.toContain(pin)
})
