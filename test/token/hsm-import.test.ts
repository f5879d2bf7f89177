/**
 * Key material from outside, wrapped by node:crypto and unwrapped by a real token: what comes in is the key that was sent,
 * protected as a key that was generated there; and what is not such a key does not come in at all.
 */
import {
  createHash,
  createHmac,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  randomBytes,
  verify,
} from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  TokenError,
  type ImportAlgorithm,
  type Imported,
  type KeyPairKind,
  type MacAlgorithm,
  type Token,
  type TokenKeyKind,
} from '../../src/hsm/token.ts'
import { open as openWithLog } from './hsm-fixture.ts'
import { makeOpenCryptokiToken, makeSoftHsmToken, type LabToken } from './lab.ts'
import { CapturedLog, newCkaId, openLab, outcome, recovered } from './open.ts'
import { wrapFor, wrapPadded, type WrapOptions } from './wrapped-material.ts'

interface WrappingKey {
  readonly ckaId: string
  readonly spki: Buffer
}

async function makeWrappingKey(token: Token, kind: TokenKeyKind = 'import RSA_2048'): Promise<WrappingKey> {
  const ckaId = newCkaId(token.capabilities().keyIdBytes)
  await token.generateKey({ kind, ckaId, label: 'kms/import' })
  return { ckaId, spki: await token.publicKey(ckaId) }
}

let lab: LabToken
let token: Token
let wrapping: WrappingKey
const log = new CapturedLog()

beforeAll(async () => {
  lab = await makeSoftHsmToken()
  token = await openLab(lab, {}, log)
  wrapping = await makeWrappingKey(token)
})
afterAll(async () => {
  await token?.close()
  await lab?.remove()
})

/** Those of these that the token has secret or private objects of. */
async function leftOf(ckaIds: readonly string[]): Promise<readonly string[]> {
  const there = new Set((await token.allObjects()).map(({ ckaId }) => ckaId))
  return ckaIds.filter((ckaId) => there.has(ckaId))
}

interface Attempt {
  readonly ckaId: string
  readonly imported: Promise<Imported>
}

function bring(kind: TokenKeyKind, algorithm: ImportAlgorithm, wrapped: Uint8Array): Attempt {
  const ckaId = newCkaId()
  return { ckaId, imported: token.importKey({ kind, ckaId, label: `kms/${ckaId}`, wrappingCkaId: wrapping.ckaId, algorithm, wrapped }) }
}

const bringMaterial = (kind: TokenKeyKind, algorithm: ImportAlgorithm, material: Buffer, options?: WrapOptions): Attempt =>
  bring(kind, algorithm, wrapFor(wrapping.spki, algorithm, material, options))

const algorithms = ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256', 'RSA_AES_KEY_WRAP_SHA_1', 'RSA_AES_KEY_WRAP_SHA_256'] as const
const behindAes = ['RSA_AES_KEY_WRAP_SHA_1', 'RSA_AES_KEY_WRAP_SHA_256'] as const

const protectedAttributes = { CKA_TOKEN: true, CKA_PRIVATE: true, CKA_SENSITIVE: true, CKA_EXTRACTABLE: false, CKA_MODIFIABLE: false }
/** By which a token tells a key that came from outside. */
const broughtAttributes = { CKA_LOCAL: false, CKA_ALWAYS_SENSITIVE: false, CKA_NEVER_EXTRACTABLE: false }

test('the token says what it takes in', () => {
  expect(token.capabilities().importAlgorithms).toEqual(algorithms)
})

describe.each(algorithms)('%s', (algorithm) => {
  test('brings an AES key in, not extractable, and only what RSA protects may have passed through memory', async () => {
    const { ckaId, imported } = bringMaterial('wrapping', algorithm, randomBytes(32))
    const { objects, fingerprint, exposed } = await imported
    expect(objects).toMatchObject([
      {
        ckaId,
        label: `kms/${ckaId}`,
        objectClass: 'CKO_SECRET_KEY',
        keyType: 'CKK_AES',
        attributes: { ...protectedAttributes, ...broughtAttributes },
      },
    ])
    expect(fingerprint).toMatch(/^[0-9a-f]{64}$/)
    // SoftHSM unwraps by OAEP with SHA-1 itself and knows no other.
    expect(exposed).toBe(algorithm.endsWith('SHA_256'))
    const aad = randomBytes(10)
    const plaintext = randomBytes(100)
    const { scheme, body } = await token.wrap(ckaId, aad, plaintext)
    expect(await token.unwrap(ckaId, scheme, aad, body)).toEqual(plaintext)
    expect(await token.objects(ckaId)).toEqual(objects)
  })

  test.each([
    ['HMAC_224', 28],
    ['HMAC_256', 32],
    ['HMAC_384', 48],
    ['HMAC_512', 64],
  ] as const)('brings a key for %s in, which makes the MACs of the key that was sent', async (spec, bytes) => {
    const material = randomBytes(bytes)
    const { ckaId, imported } = bringMaterial(`${spec} GENERATE_VERIFY_MAC`, algorithm, material)
    expect((await imported).objects).toMatchObject([{ attributes: { ...protectedAttributes, CKA_SIGN: true, CKA_ENCRYPT: false } }])
    const message = randomBytes(50)
    const mac = await token.mac(ckaId, spec.replace('_', '_SHA_') as MacAlgorithm, message)
    expect(mac).toEqual(
      createHmac(`sha${spec.slice(5)}`, material)
        .update(message)
        .digest(),
    )
  })

  test('refuses symmetric keys of another length, and leaves nothing behind', async () => {
    const wrong = [
      ...[1, 16, 24, 31, 33, 64].map((bytes) => ['wrapping', bytes] as const),
      ...[20, 47, 49, 64].map((bytes) => ['HMAC_384 GENERATE_VERIFY_MAC', bytes] as const),
    ]
    const refused: string[] = []
    for (const [kind, bytes] of wrong) {
      const { ckaId, imported } = bringMaterial(kind, algorithm, randomBytes(bytes))
      expect(await outcome(imported), `${bytes} bytes`).toBe('rejected')
      refused.push(ckaId)
    }
    expect(await leftOf(refused)).toEqual([])
  })

  test('knows the same material again, and tells other material apart', async () => {
    const [material, other] = [randomBytes(32), randomBytes(32)]
    const { fingerprint } = await bringMaterial('wrapping', algorithm, material).imported
    for (const again of algorithms) expect((await bringMaterial('wrapping', again, material).imported).fingerprint).toBe(fingerprint)
    expect((await bringMaterial('wrapping', algorithm, other).imported).fingerprint).not.toBe(fingerprint)
    expect(fingerprint).not.toBe(createHash('sha256').update(material).digest('hex'))
  })

  test('refuses what was changed at any place, cut or lengthened, and stays well', async () => {
    const wrapped = wrapFor(wrapping.spki, algorithm, randomBytes(32))
    const changed = [0, 1, 128, 255, ...(wrapped.length > 256 ? [256, 263, 264, wrapped.length - 1] : [])].map((at) => {
      const copy = Buffer.from(wrapped)
      copy[at] = (copy[at] ?? 0) ^ 1
      return copy
    })
    const cut = [1, 8, 40, 255].map((bytes) => wrapped.subarray(0, wrapped.length - bytes))
    const longer = [Buffer.concat([wrapped, Buffer.alloc(1)]), Buffer.concat([wrapped, Buffer.alloc(8)])]
    const refused: string[] = []
    for (const bytes of [...changed, ...cut, ...longer, Buffer.alloc(wrapped.length), Buffer.alloc(wrapped.length, 0xff), Buffer.of(1)]) {
      const { ckaId, imported } = bring('wrapping', algorithm, bytes)
      expect(await outcome(imported)).toBe('rejected')
      refused.push(ckaId)
    }
    expect(await leftOf(refused)).toEqual([])
    expect(await outcome(bring('wrapping', algorithm, wrapped).imported)).toBe('done')
    expect(token.health()).toMatchObject({ state: 'up', respawns: 0 })
  })
})

const curveNames = {
  ECC_NIST_P256: 'prime256v1',
  ECC_NIST_P384: 'secp384r1',
  ECC_NIST_P521: 'secp521r1',
  ECC_SECG_P256K1: 'secp256k1',
} as const
const curveSpecs = Object.keys(curveNames) as (keyof typeof curveNames)[]
const hashes = { ECC_NIST_P256: 256, ECC_NIST_P384: 384, ECC_NIST_P521: 512, ECC_SECG_P256K1: 256 } as const

const pkcs8 = (key: ReturnType<typeof createPrivateKey>): Buffer => key.export({ format: 'der', type: 'pkcs8' })
const spkiOf = (key: ReturnType<typeof createPrivateKey>): Buffer => createPublicKey(key).export({ format: 'der', type: 'spki' })

/** The PKCS#8 with neither the public key nor the curve repeated inside (RFC 5915 leaves both out): what some exporters write. */
function sparsePkcs8(key: ReturnType<typeof createPrivateKey>, bytes: number): Buffer {
  const { d = '' } = key.export({ format: 'jwk' })
  const der = (tag: number, ...parts: Buffer[]): Buffer => {
    const content = Buffer.concat(parts)
    return Buffer.concat([Buffer.from(content.length < 128 ? [tag, content.length] : [tag, 0x81, content.length]), content])
  }
  const secret = Buffer.from(d, 'base64url')
  const inner = der(0x30, Buffer.from('020101', 'hex'), der(0x04, Buffer.concat([Buffer.alloc(bytes - secret.length), secret])))
  const spki = spkiOf(key)
  // SEQUENCE { SEQUENCE { ecPublicKey, curve }, … }: the inner one is the algorithm here too.
  const at = (spki[1] ?? 0) > 0x80 ? 3 : 2
  const algorithm = spki.subarray(at, at + 2 + (spki[at + 1] ?? 0))
  return der(0x30, Buffer.from('020100', 'hex'), algorithm, der(0x04, inner))
}

/** PKCS#8 of the numbers of an RSA key (RFC 8017 A.1.2), whatever they are. */
function rsaPkcs8(numbers: readonly Buffer[]): Buffer {
  const der = (tag: number, ...parts: readonly Buffer[]): Buffer => {
    const content = Buffer.concat(parts)
    const { length } = content
    return Buffer.concat([Buffer.from(length < 128 ? [tag, length] : [tag, 0x82, length >> 8, length & 0xff]), content])
  }
  const zero = Buffer.from('020100', 'hex')
  const key = der(0x30, zero, ...numbers.map((number) => der(0x02, Buffer.of(0), number)))
  return der(0x30, zero, Buffer.from('300d06092a864886f70d0101010500', 'hex'), der(0x04, key))
}

describe('private keys', () => {
  test.each(behindAes.flatMap((algorithm) => curveSpecs.map((spec) => [spec, algorithm] as const)))(
    'of %s come in by %s and sign; the public key is found from what they sign',
    async (spec, algorithm) => {
      const { privateKey } = generateKeyPairSync('ec', { namedCurve: curveNames[spec] })
      const { ckaId, imported } = bringMaterial(`${spec} SIGN_VERIFY`, algorithm, pkcs8(privateKey))
      const { objects, fingerprint } = await imported
      expect(objects).toMatchObject([
        { objectClass: 'CKO_PRIVATE_KEY', attributes: { ...protectedAttributes, ...broughtAttributes, CKA_SIGN: true, CKA_DERIVE: false } },
        { objectClass: 'CKO_PUBLIC_KEY', attributes: { CKA_TOKEN: true, CKA_PRIVATE: true, CKA_MODIFIABLE: false } },
      ])
      expect(await token.publicKey(ckaId)).toEqual(spkiOf(privateKey))
      expect(fingerprint).toBe(createHash('sha256').update(spkiOf(privateKey)).digest('hex'))
      const message = randomBytes(20)
      const signature = await token.signMessage(ckaId, `ECDSA_SHA_${hashes[spec]}`, 'message', message)
      expect(verify(`sha${hashes[spec]}`, message, createPublicKey(privateKey), signature)).toBe(true)
    },
  )

  test.each(['ECC_NIST_P256', 'ECC_NIST_P384', 'ECC_NIST_P521'] as const)(
    'of %s come in for key agreement and sign nothing',
    async (spec) => {
      const { privateKey } = generateKeyPairSync('ec', { namedCurve: curveNames[spec] })
      const { ckaId, imported } = bringMaterial(`${spec} KEY_AGREEMENT`, 'RSA_AES_KEY_WRAP_SHA_256', pkcs8(privateKey))
      expect((await imported).objects[0]).toMatchObject({ attributes: { ...protectedAttributes, CKA_SIGN: false, CKA_DERIVE: true } })
      expect(await token.publicKey(ckaId)).toEqual(spkiOf(privateKey))
      const peer = generateKeyPairSync('ec', { namedCurve: curveNames[spec] })
      const secret = await token.deriveSharedSecret(ckaId, peer.publicKey.export({ format: 'der', type: 'spki' }))
      expect(secret).toEqual(diffieHellman({ privateKey: peer.privateKey, publicKey: createPublicKey(privateKey) }))
    },
  )

  test.each(['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'] as const)('of EC that RSA alone wraps come in by %s', async (algorithm) => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' })
    const { ckaId, imported } = bringMaterial('ECC_NIST_P256 SIGN_VERIFY', algorithm, pkcs8(privateKey))
    const { objects, exposed } = await imported
    expect(objects[0]).toMatchObject({ attributes: protectedAttributes })
    expect(exposed).toBe(algorithm === 'RSAES_OAEP_SHA_256')
    expect(await token.publicKey(ckaId)).toEqual(spkiOf(privateKey))
  })

  test('of EC come in without the public key in their PKCS#8', async () => {
    for (const [spec, bytes] of [
      ['ECC_NIST_P256', 32],
      ['ECC_NIST_P384', 48],
    ] as const) {
      const { privateKey } = generateKeyPairSync('ec', { namedCurve: curveNames[spec] })
      const sparse = sparsePkcs8(privateKey, bytes)
      expect(spkiOf(createPrivateKey({ key: sparse, format: 'der', type: 'pkcs8' }))).toEqual(spkiOf(privateKey))
      for (const algorithm of ['RSA_AES_KEY_WRAP_SHA_256', 'RSAES_OAEP_SHA_256'] as const) {
        const { ckaId, imported } = bringMaterial(`${spec} SIGN_VERIFY`, algorithm, sparse)
        await imported
        expect(await token.publicKey(ckaId)).toEqual(spkiOf(privateKey))
      }
    }
  })

  test.each([2048, 4096] as const)('of RSA-%i come in to sign and to decrypt', async (bits) => {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: bits })
    const signing = bringMaterial(`RSA_${bits} SIGN_VERIFY`, 'RSA_AES_KEY_WRAP_SHA_256', pkcs8(privateKey))
    expect((await signing.imported).objects[0]).toMatchObject({
      attributes: { ...protectedAttributes, CKA_SIGN: true, CKA_DECRYPT: false },
    })
    expect(await token.publicKey(signing.ckaId)).toEqual(spkiOf(privateKey))
    const message = randomBytes(20)
    const signature = await token.signMessage(signing.ckaId, 'RSASSA_PKCS1_V1_5_SHA_256', 'message', message)
    expect(verify('sha256', message, createPublicKey(privateKey), signature)).toBe(true)

    const decrypting = bringMaterial(`RSA_${bits} ENCRYPT_DECRYPT`, 'RSA_AES_KEY_WRAP_SHA_1', pkcs8(privateKey))
    expect((await decrypting.imported).objects[0]).toMatchObject({ attributes: { CKA_SIGN: false, CKA_DECRYPT: true } })
    expect((await decrypting.imported).fingerprint).toBe((await signing.imported).fingerprint)
    const ciphertext = wrapFor(await token.publicKey(decrypting.ckaId), 'RSAES_OAEP_SHA_256', message)
    expect(await token.decryptOaep(decrypting.ckaId, 'RSAES_OAEP_SHA_256', ciphertext)).toEqual(message)
  })

  test('that are not of the kind asked for are refused, and leave nothing behind', async () => {
    const p256 = pkcs8(generateKeyPairSync('ec', { namedCurve: 'prime256v1' }).privateKey)
    const k256 = pkcs8(generateKeyPairSync('ec', { namedCurve: 'secp256k1' }).privateKey)
    const rsa = pkcs8(generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey)
    const wrong: readonly [KeyPairKind, Buffer][] = [
      ['ECC_NIST_P384 SIGN_VERIFY', p256],
      ['ECC_SECG_P256K1 SIGN_VERIFY', p256],
      ['ECC_NIST_P256 KEY_AGREEMENT', k256],
      ['RSA_2048 SIGN_VERIFY', p256],
      ['ECC_NIST_P256 SIGN_VERIFY', rsa],
      ['RSA_3072 ENCRYPT_DECRYPT', rsa],
      ['RSA_2048 SIGN_VERIFY', pkcs8(generateKeyPairSync('rsa', { modulusLength: 2040 }).privateKey)],
      ['ECC_NIST_P256 SIGN_VERIFY', randomBytes(138)],
      ['RSA_2048 SIGN_VERIFY', randomBytes(1200)],
      ['ECC_NIST_P256 SIGN_VERIFY', p256.subarray(0, 100)],
      ['RSA_2048 SIGN_VERIFY', rsa.subarray(0, 1000)],
      ['ECC_NIST_P256 SIGN_VERIFY', randomBytes(32)],
    ]
    const refused: string[] = []
    for (const [kind, material] of wrong) {
      for (const algorithm of behindAes) {
        const { ckaId, imported } = bringMaterial(kind, algorithm, material)
        expect(await outcome(imported), `${material.length} bytes as ${kind}`).toBe('rejected')
        refused.push(ckaId)
      }
    }
    expect(await leftOf(refused)).toEqual([])
    for (const algorithm of ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'] as const) {
      for (const material of [k256, randomBytes(138), p256.subarray(0, 100), randomBytes(32)]) {
        expect(await outcome(bringMaterial('ECC_NIST_P256 SIGN_VERIFY', algorithm, material).imported)).toBe('rejected')
      }
    }
    expect(token.health()).toMatchObject({ state: 'up', respawns: 0 })
  })

  test('whose numbers do not belong together are refused', async () => {
    const key = pkcs8(generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey)
    // In the modulus, and in the public exponent behind it.
    for (const at of [100, 298]) {
      const changed = Buffer.from(key)
      changed[at] = (changed[at] ?? 0) ^ 0x10
      expect(await outcome(bringMaterial('RSA_2048 SIGN_VERIFY', 'RSA_AES_KEY_WRAP_SHA_256', changed).imported)).toBe('rejected')
    }
  })

  test('of RSA whose public exponent makes every signature good or slow, or whose primes are too long, are refused', async () => {
    const {
      n = '',
      e = '',
      d = '',
      p = '',
      q = '',
      dp = '',
      dq = '',
      qi = '',
    } = generateKeyPairSync('rsa', {
      modulusLength: 2048,
    }).privateKey.export({ format: 'jwk' })
    const good = [n, e, d, p, q, dp, dq, qi].map((number) => Buffer.from(number, 'base64url'))
    const changed = (changes: Readonly<Record<number, Buffer>>): Buffer => rsaPkcs8(good.map((number, index) => changes[index] ?? number))
    const one = Buffer.of(1)
    const read = (bytes: Buffer): bigint => BigInt(`0x${bytes.toString('hex')}`)
    const write = (number: bigint): Buffer => Buffer.from(number.toString(16).padStart(512, '0'), 'hex')
    const [modulus, prime] = [read(good[0] as Buffer), read(good[3] as Buffer)]
    // As good an exponent as the usual one, but as long as the modulus: 65537 + (p - 1)(q - 1).
    const order = (prime - 1n) * (modulus / prime - 1n)
    const long = Buffer.alloc(2000, 0xff)
    const bring = (material: Buffer) => outcome(bringMaterial('RSA_2048 SIGN_VERIFY', 'RSA_AES_KEY_WRAP_SHA_1', material).imported)
    expect({
      'as it was': await bring(changed({})),
      'exponent 1': await bring(changed({ 1: one, 2: one, 5: one, 6: one })),
      'exponent as long as the modulus': await bring(changed({ 1: write(65537n + order) })),
      'a prime of 16,000 bits': await bring(changed({ 3: long, 5: long })),
    }).toEqual({
      'as it was': 'done',
      'exponent 1': 'rejected',
      'exponent as long as the modulus': 'rejected',
      'a prime of 16,000 bits': 'rejected',
    })
  })

  test('of RSA that RSA alone would wrap, and of Ed25519, which SoftHSM does not take in, are told so', async () => {
    const ed = pkcs8(generateKeyPairSync('ed25519').privateKey)
    expect(await outcome(bringMaterial('RSA_2048 SIGN_VERIFY', 'RSAES_OAEP_SHA_256', randomBytes(100)).imported)).toBe('rejected')
    expect(await outcome(bringMaterial('ECC_NIST_EDWARDS25519 SIGN_VERIFY', 'RSA_AES_KEY_WRAP_SHA_256', ed).imported)).toBe('unsupported')
  })
})

test('an AES key between RSA and the material has 256 bits where this program sees it', async () => {
  for (const bytes of [16, 24]) {
    const { imported } = bringMaterial('wrapping', 'RSA_AES_KEY_WRAP_SHA_256', randomBytes(32), { aesKey: randomBytes(bytes) })
    expect(await outcome(imported)).toBe('rejected')
  }
})

test('another hash or another key than it was wrapped with is refused', async () => {
  const material = randomBytes(32)
  const other = await makeWrappingKey(token)
  const sha1 = wrapFor(wrapping.spki, 'RSAES_OAEP_SHA_1', material)
  const sha256 = wrapFor(wrapping.spki, 'RSAES_OAEP_SHA_256', material)
  expect(await outcome(bring('wrapping', 'RSAES_OAEP_SHA_256', sha1).imported)).toBe('rejected')
  expect(await outcome(bring('wrapping', 'RSAES_OAEP_SHA_1', sha256).imported)).toBe('rejected')
  expect(await outcome(bring('wrapping', 'RSAES_OAEP_SHA_256', wrapFor(other.spki, 'RSAES_OAEP_SHA_256', material)).imported)).toBe(
    'rejected',
  )
  const aesKey = randomBytes(32)
  const swapped = Buffer.concat([wrapFor(wrapping.spki, 'RSAES_OAEP_SHA_1', randomBytes(32)), wrapPadded(aesKey, material)])
  expect(await outcome(bring('wrapping', 'RSA_AES_KEY_WRAP_SHA_1', swapped).imported)).toBe('rejected')
})

test.each(['import RSA_3072', 'import RSA_4096'] as const)('%s key pairs unwrap too', async (kind) => {
  const larger = await makeWrappingKey(token, kind)
  for (const algorithm of algorithms) {
    const ckaId = newCkaId()
    const wrapped = wrapFor(larger.spki, algorithm, randomBytes(32))
    const imported = await token.importKey({ kind: 'wrapping', ckaId, label: 'kms/x', wrappingCkaId: larger.ckaId, algorithm, wrapped })
    expect(imported.objects).toHaveLength(1)
  }
})

test('a CKA_ID that is taken is not used again, and a wrapping key that is not there is missing', async () => {
  const wrapped = wrapFor(wrapping.spki, 'RSAES_OAEP_SHA_1', randomBytes(32))
  const request = { kind: 'wrapping', label: 'kms/x', algorithm: 'RSAES_OAEP_SHA_1', wrapped } as const
  expect(await outcome(token.importKey({ ...request, ckaId: wrapping.ckaId, wrappingCkaId: wrapping.ckaId }))).toBe('rejected')
  expect(await outcome(token.importKey({ ...request, ckaId: newCkaId(), wrappingCkaId: newCkaId() }))).toBe('missing')
})

test('no key but one made for it unwraps anything', async () => {
  const ckaId = newCkaId()
  await token.generateKey({ kind: 'RSA_2048 SIGN_VERIFY', ckaId, label: 'kms/sign' })
  const spki = await token.publicKey(ckaId)
  for (const algorithm of algorithms) {
    const wrapped = wrapFor(spki, algorithm, randomBytes(32))
    const call = token.importKey({ kind: 'wrapping', ckaId: newCkaId(), label: 'kms/x', wrappingCkaId: ckaId, algorithm, wrapped })
    expect(await outcome(call)).not.toBe('done')
  }
})

test('neither an error nor the log holds any of the material', async () => {
  const material = Buffer.from('material that nobody else may see')
  const errors = await Promise.all(
    algorithms.map((algorithm) =>
      bringMaterial('wrapping', algorithm, material).imported.then(
        () => undefined,
        (error: unknown) => error,
      ),
    ),
  )
  const said = [
    ...errors.map((error) => (error instanceof TokenError ? `${error.message} ${error.stack}` : 'not refused')),
    log.text(),
  ].join()
  expect(errors.every((error) => error instanceof TokenError)).toBe(true)
  for (const encoding of ['utf8', 'hex', 'base64'] as const) expect(said).not.toContain(material.toString(encoding))
})

test('an agent that is killed in the middle has brought in a whole key or none that counts, and nothing is done twice', async () => {
  const opened = await openWithLog(lab)
  try {
    const pairs: Attempt[] = []
    for (const afterMs of [0, 25]) {
      const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' })
      const ckaId = newCkaId()
      const imported = opened.token.importKey({
        kind: 'ECC_NIST_P256 SIGN_VERIFY',
        ckaId,
        label: `kms/${ckaId}`,
        wrappingCkaId: wrapping.ckaId,
        algorithm: 'RSA_AES_KEY_WRAP_SHA_256',
        wrapped: wrapFor(wrapping.spki, 'RSA_AES_KEY_WRAP_SHA_256', pkcs8(privateKey)),
      })
      pairs.push({ ckaId, imported })
      const settled = outcome(imported)
      await sleep(afterMs)
      process.kill(opened.pid(), 'SIGKILL')
      expect(['done', 'unavailable']).toContain(await settled)
      await recovered(opened.token)
    }
    const shown = await opened.token.allObjects()
    for (const { ckaId, imported } of pairs) {
      const privateHalves = shown.filter((object) => object.ckaId === ckaId)
      const isDone = (await outcome(imported)) === 'done'
      expect(privateHalves.length).toBeGreaterThanOrEqual(isDone ? 1 : 0)
      expect(privateHalves.length).toBeLessThanOrEqual(1)
      // The private half comes last: where it is, the public one is.
      const objects = privateHalves.length === 0 ? [] : await opened.token.objects(ckaId)
      expect(objects).toHaveLength(2 * privateHalves.length)
    }
  } finally {
    await opened.token.close()
  }
})

describe('openCryptoki, which unwraps by OAEP itself and leaves what it unwrapped unprotected until told again', () => {
  let other: LabToken | undefined
  let second: Token
  beforeAll(async () => {
    other = await makeOpenCryptokiToken()
    if (other !== undefined) second = await openLab(other)
  })
  afterAll(async () => {
    await second?.close()
    await other?.remove()
  })

  test('takes HMAC keys in, protected, and never through memory', async ({ skip }) => {
    skip(other === undefined, 'openCryptoki is not there')
    expect(second.capabilities().importAlgorithms).toEqual(['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'])
    const { ckaId: wrappingCkaId, spki } = await makeWrappingKey(second)
    for (const algorithm of ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'] as const) {
      const material = randomBytes(32)
      const request = { kind: 'HMAC_256 GENERATE_VERIFY_MAC', label: 'kms/x', wrappingCkaId, algorithm } as const
      const ckaId = newCkaId()
      const imported = await second.importKey({ ...request, ckaId, wrapped: wrapFor(spki, algorithm, material) })
      expect(imported.exposed).toBe(false)
      expect(imported.objects).toMatchObject([{ attributes: protectedAttributes }])
      const message = randomBytes(10)
      expect(await second.mac(ckaId, 'HMAC_SHA_256', message)).toEqual(createHmac('sha256', material).update(message).digest())
      for (const bytes of [31, 33]) {
        const wrong = second.importKey({ ...request, ckaId: newCkaId(), wrapped: wrapFor(spki, algorithm, randomBytes(bytes)) })
        expect(await outcome(wrong)).toBe('rejected')
      }
      const changed = wrapFor(spki, algorithm, material)
      changed[100] = (changed[100] ?? 0) ^ 1
      expect(await outcome(second.importKey({ ...request, ckaId: newCkaId(), wrapped: changed }))).toBe('rejected')
    }
  })

  test('takes no symmetric key in, for its own are of two objects', async ({ skip }) => {
    skip(other === undefined, 'openCryptoki is not there')
    const { ckaId: wrappingCkaId, spki } = await makeWrappingKey(second)
    const wrapped = wrapFor(spki, 'RSAES_OAEP_SHA_256', randomBytes(32))
    const request = {
      kind: 'wrapping',
      ckaId: newCkaId(),
      label: 'kms/x',
      wrappingCkaId,
      algorithm: 'RSAES_OAEP_SHA_256',
      wrapped,
    } as const
    await expect(second.importKey(request)).rejects.toThrow('a wrapping key of this token consists of 2 objects')
  })
})
