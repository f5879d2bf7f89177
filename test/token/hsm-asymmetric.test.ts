import {
  constants,
  createECDH,
  createHash,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  publicEncrypt,
  randomBytes,
  verify,
  type KeyObject,
  type KeyPairKeyObjectResult,
} from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  TokenError,
  type MacAlgorithm,
  type MacKeyKind,
  type OaepAlgorithm,
  type SigningAlgorithm,
  type Token,
  type TokenKeyKind,
} from '../../src/hsm/token.ts'
import { makeOpenCryptokiToken, makeSoftHsmToken, type LabToken } from './lab.ts'
import { newCkaId, openLab, outcome } from './open.ts'

const rsaSizes = [2048, 3072, 4096] as const
const hashes = [256, 384, 512] as const
const curves = { ECC_NIST_P256: 'prime256v1', ECC_NIST_P384: 'secp384r1', ECC_NIST_P521: 'secp521r1' } as const
const macs = [224, 256, 384, 512] as const

/** The keys of one token, each made once. */
class Keys {
  readonly #made = new Map<TokenKeyKind, Promise<string>>()
  readonly #token: Token
  constructor(token: Token) {
    this.#token = token
  }
  async of(kind: TokenKeyKind): Promise<string> {
    const make = async (): Promise<string> => {
      const ckaId = newCkaId(this.#token.capabilities().keyIdBytes)
      await this.#token.generateKey({ kind, ckaId, label: `kms/${kind}` })
      return ckaId
    }
    const made = this.#made.get(kind) ?? make()
    this.#made.set(kind, made)
    return await made
  }
  async publicKey(kind: TokenKeyKind): Promise<KeyObject> {
    return createPublicKey({ key: await this.#token.publicKey(await this.of(kind)), format: 'der', type: 'spki' })
  }
}

/** How another implementation checks a signature by this algorithm. */
function accepts(publicKey: KeyObject, algorithm: SigningAlgorithm, message: Buffer, signature: Buffer): boolean {
  const hash = algorithm === 'ED25519_SHA_512' ? null : `sha${algorithm.slice(-3)}`
  const pss = algorithm.startsWith('RSASSA_PSS')
  return verify(
    hash,
    message,
    { key: publicKey, ...(pss && { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: Number(algorithm.slice(-3)) / 8 }) },
    signature,
  )
}

const changed = (buffer: Buffer, bit: number): Buffer => {
  const copy = Buffer.from(buffer)
  copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7))
  return copy
}

/** SubjectPublicKeyInfo of P-256 around these bytes. */
const p256Spki = (point: Buffer): Buffer => {
  const algorithm = Buffer.from('301306072a8648ce3d020106082a8648ce3d030107', 'hex')
  const body = Buffer.concat([algorithm, Buffer.of(3, point.length + 1, 0), point])
  return Buffer.concat([Buffer.of(0x30, body.length), body])
}

/** Points of P-256, y² = x³ - 3x + b, that are none, by the first x that will do. */
function strangePoints(): { readonly onTwist: Buffer; readonly beyondPrime: Buffer } {
  const p = 2n ** 256n - 2n ** 224n + 2n ** 192n + 2n ** 96n - 1n
  const b = 0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604bn
  const root = (square: bigint): bigint => {
    let [result, base] = [1n, square % p]
    for (let left = (p + 1n) / 4n; left > 0n; left >>= 1n) {
      if (left & 1n) result = (result * base) % p
      base = (base * base) % p
    }
    return result
  }
  const encode = (x: bigint, y: bigint) => Buffer.from(`04${[x, y].map((number) => number.toString(16).padStart(64, '0')).join('')}`, 'hex')
  let [onTwist, beyondPrime]: (Buffer | undefined)[] = []
  for (let x = 1n; !onTwist || !beyondPrime; x++) {
    const square = (((x ** 3n - 3n * x + b) % p) + p) % p
    const y = root(square)
    // The prime is 3 mod 4: what is no square has the opposite of one.
    if ((y * y) % p === square) beyondPrime ??= encode(x + p, y)
    else onTwist ??= encode(x, root(p - square))
  }
  return { onTwist, beyondPrime }
}

const protectedAttributes = {
  CKA_TOKEN: true,
  CKA_PRIVATE: true,
  CKA_MODIFIABLE: false,
  CKA_SENSITIVE: true,
  CKA_EXTRACTABLE: false,
  CKA_ALWAYS_SENSITIVE: true,
  CKA_NEVER_EXTRACTABLE: true,
}

/** What a private or secret key may do, of all that such a key could. */
const uses: readonly (readonly [TokenKeyKind, readonly string[]])[] = [
  ['RSA_2048 SIGN_VERIFY', ['CKA_SIGN']],
  ['RSA_2048 ENCRYPT_DECRYPT', ['CKA_DECRYPT']],
  ['import RSA_2048', ['CKA_DECRYPT', 'CKA_UNWRAP']],
  ['ECC_NIST_P256 SIGN_VERIFY', ['CKA_SIGN']],
  ['ECC_NIST_P256 KEY_AGREEMENT', ['CKA_DERIVE']],
  ['ECC_NIST_EDWARDS25519 SIGN_VERIFY', ['CKA_SIGN']],
  ['HMAC_256 GENERATE_VERIFY_MAC', ['CKA_SIGN', 'CKA_VERIFY']],
]
const everyUse = ['CKA_ENCRYPT', 'CKA_DECRYPT', 'CKA_SIGN', 'CKA_SIGN_RECOVER', 'CKA_VERIFY', 'CKA_WRAP', 'CKA_UNWRAP', 'CKA_DERIVE']

describe('SoftHSM2', () => {
  let lab: LabToken
  let token: Token
  let keys: Keys

  beforeAll(async () => {
    lab = await makeSoftHsmToken()
    token = await openLab(lab, { sessions: 2 })
    keys = new Keys(token)
  })
  afterAll(async () => {
    await token.close()
    await lab.remove()
  })

  test('proved every kind of key, and every algorithm but the one that it does not know', () => {
    const { keyKinds, algorithms, probes } = token.capabilities()
    const signing = [...rsaSizes.map((bits) => `RSA_${bits}`), ...Object.keys(curves), 'ECC_SECG_P256K1', 'ECC_NIST_EDWARDS25519']
    expect([...keyKinds].sort()).toEqual(
      [
        'wrapping',
        'signing',
        ...signing.map((spec) => `${spec} SIGN_VERIFY`),
        ...rsaSizes.flatMap((bits) => [`RSA_${bits} ENCRYPT_DECRYPT`, `import RSA_${bits}`]),
        ...Object.keys(curves).map((spec) => `${spec} KEY_AGREEMENT`),
        ...macs.map((bits) => `HMAC_${bits} GENERATE_VERIFY_MAC`),
      ].sort(),
    )
    expect(algorithms).toEqual(expect.arrayContaining(['ED25519_SHA_512', 'RSAES_OAEP_SHA_256', 'ECDH', 'RSASSA_PSS_SHA_512']))
    // SoftHSM 2.6.1 takes the parameter and signs as if there were none: only the proof finds out.
    expect(algorithms).not.toContain('ED25519_PH_SHA_512')
    expect(probes.find(({ name }) => name === 'ECC_NIST_EDWARDS25519 SIGN_VERIFY')).toEqual({
      name: 'ECC_NIST_EDWARDS25519 SIGN_VERIFY',
      passed: true,
      detail: 'ED25519_SHA_512; not ED25519_PH_SHA_512: the token ignores that the message is a digest',
    })
  })

  test.each(uses)('a key of kind %s is protected and has no use but its own', async (kind, granted) => {
    const objects = await token.objects(await keys.of(kind))
    const secret = objects.find(({ objectClass }) => objectClass !== 'CKO_PUBLIC_KEY')
    expect(secret?.attributes).toMatchObject({ ...protectedAttributes, CKA_LOCAL: true })
    expect(everyUse.filter((name) => secret?.attributes[name] === true)).toEqual(granted)
    expect(objects).toHaveLength(kind.startsWith('HMAC') ? 1 : 2)
  })

  describe('signatures', () => {
    const rows: readonly (readonly [TokenKeyKind, SigningAlgorithm])[] = [
      ...rsaSizes.flatMap((bits) =>
        hashes.flatMap((hash) => [
          [`RSA_${bits} SIGN_VERIFY`, `RSASSA_PKCS1_V1_5_SHA_${hash}`] as const,
          [`RSA_${bits} SIGN_VERIFY`, `RSASSA_PSS_SHA_${hash}`] as const,
        ]),
      ),
      ['ECC_NIST_P256 SIGN_VERIFY', 'ECDSA_SHA_256'],
      ['ECC_NIST_P384 SIGN_VERIFY', 'ECDSA_SHA_384'],
      ['ECC_NIST_P521 SIGN_VERIFY', 'ECDSA_SHA_512'],
      ['ECC_SECG_P256K1 SIGN_VERIFY', 'ECDSA_SHA_256'],
    ]
    test.each(rows)('of %s by %s, of a message or its digest, are accepted by OpenSSL', async (kind, algorithm) => {
      const [ckaId, publicKey] = [await keys.of(kind), await keys.publicKey(kind)]
      for (const length of [1, 100, 4096]) {
        const message = randomBytes(length)
        const digest = createHash(`sha${algorithm.slice(-3)}`)
          .update(message)
          .digest()
        for (const signature of [
          await token.signMessage(ckaId, algorithm, 'message', message),
          await token.signMessage(ckaId, algorithm, 'digest', digest),
        ]) {
          expect(accepts(publicKey, algorithm, message, signature)).toBe(true)
          expect(accepts(publicKey, algorithm, changed(message, 3), signature)).toBe(false)
        }
      }
    })

    test('by ED25519_SHA_512 are over the message itself', async () => {
      const kind = 'ECC_NIST_EDWARDS25519 SIGN_VERIFY'
      const [ckaId, publicKey] = [await keys.of(kind), await keys.publicKey(kind)]
      expect(publicKey.asymmetricKeyType).toBe('ed25519')
      for (const length of [1, 64, 4096]) {
        const message = randomBytes(length)
        const signature = await token.signMessage(ckaId, 'ED25519_SHA_512', 'message', message)
        expect(signature).toHaveLength(64)
        expect(accepts(publicKey, 'ED25519_SHA_512', message, signature)).toBe(true)
      }
      expect(await outcome(token.signMessage(ckaId, 'ED25519_SHA_512', 'digest', randomBytes(64)))).toBe('rejected')
      expect(await outcome(token.signMessage(ckaId, 'ED25519_PH_SHA_512', 'digest', randomBytes(64)))).toBe('unsupported')
    })

    test('ECDSA answers the shortest DER of r and s, whatever their first bytes', async () => {
      const ckaId = await keys.of('ECC_NIST_P256 SIGN_VERIFY')
      const publicKey = await keys.publicKey('ECC_NIST_P256 SIGN_VERIFY')
      const message = randomBytes(32)
      const made = await Promise.all(Array.from({ length: 200 }, () => token.signMessage(ckaId, 'ECDSA_SHA_256', 'message', message)))
      expect(made.every((signature) => accepts(publicKey, 'ECDSA_SHA_256', message, signature))).toBe(true)
      // Of 200 pairs some have a byte more, for the sign, and some one or two less.
      expect(new Set(made.map(({ length }) => length)).size).toBeGreaterThan(2)
    })

    test('are refused for a digest of another length, and for a key of another sort', async () => {
      const [rsa, ec] = [await keys.of('RSA_2048 SIGN_VERIFY'), await keys.of('ECC_NIST_P256 SIGN_VERIFY')]
      for (const length of [1, 31, 33, 48, 64]) {
        expect(await outcome(token.signMessage(rsa, 'RSASSA_PSS_SHA_256', 'digest', randomBytes(length)))).toBe('rejected')
        expect(await outcome(token.signMessage(ec, 'ECDSA_SHA_256', 'digest', randomBytes(length)))).toBe('rejected')
      }
      for (const length of [0, 4097]) {
        expect(await outcome(token.signMessage(rsa, 'RSASSA_PSS_SHA_256', 'message', randomBytes(length)))).toBe('rejected')
      }
      const digest = randomBytes(32)
      expect(await outcome(token.signMessage(ec, 'RSASSA_PSS_SHA_256', 'digest', digest))).toBe('rejected')
      expect(await outcome(token.signMessage(rsa, 'ECDSA_SHA_256', 'digest', digest))).toBe('rejected')
      expect(await outcome(token.signMessage(await keys.of('HMAC_256 GENERATE_VERIFY_MAC'), 'ECDSA_SHA_256', 'digest', digest))).toBe(
        'rejected',
      )
      expect(await outcome(token.signMessage(newCkaId(), 'ECDSA_SHA_256', 'digest', digest))).toBe('missing')
    })

    test('are refused by the device for keys of another use', async () => {
      const digest = randomBytes(32)
      expect(await outcome(token.signMessage(await keys.of('RSA_2048 ENCRYPT_DECRYPT'), 'RSASSA_PSS_SHA_256', 'digest', digest))).toBe(
        'rejected',
      )
      expect(await outcome(token.signMessage(await keys.of('ECC_NIST_P256 KEY_AGREEMENT'), 'ECDSA_SHA_256', 'digest', digest))).toBe(
        'rejected',
      )
    })
  })

  describe('RSAES-OAEP', () => {
    const algorithms = { RSAES_OAEP_SHA_1: 'sha1', RSAES_OAEP_SHA_256: 'sha256' } as const
    const rows = rsaSizes.flatMap((bits) => (Object.keys(algorithms) as OaepAlgorithm[]).map((algorithm) => [bits, algorithm] as const))
    const sealing = (key: KeyObject, algorithm: OaepAlgorithm, message: Buffer, label?: Buffer): Buffer =>
      publicEncrypt(
        { key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: algorithms[algorithm], ...(label && { oaepLabel: label }) },
        message,
      )

    test.each(rows)('with RSA_%i, %s: what OpenSSL encrypts, the token decrypts', async (bits, algorithm) => {
      const kind = `RSA_${bits} ENCRYPT_DECRYPT` as const
      const [ckaId, publicKey] = [await keys.of(kind), await keys.publicKey(kind)]
      const longest = bits / 8 - 2 * createHash(algorithms[algorithm]).digest().length - 2
      for (const length of [0, 1, 32, longest]) {
        const message = randomBytes(length)
        expect(await token.decryptOaep(ckaId, algorithm, sealing(publicKey, algorithm, message))).toEqual(message)
      }
    })

    test.each(Object.keys(algorithms) as OaepAlgorithm[])(
      '%s: refuses whatever is wrong with a ciphertext in the same words',
      async (algorithm) => {
        const kind = 'RSA_2048 ENCRYPT_DECRYPT'
        const [ckaId, publicKey] = [await keys.of(kind), await keys.publicKey(kind)]
        const good = sealing(publicKey, algorithm, Buffer.from('message'))
        const raw = (block: Buffer): Buffer => publicEncrypt({ key: publicKey, padding: constants.RSA_NO_PADDING }, block)
        const first = Buffer.alloc(256, 1)
        const zeros = Buffer.alloc(256)
        zeros[255] = 2
        const bad = [
          changed(good, 2047),
          changed(good, 1000),
          sealing(publicKey, algorithm, Buffer.from('message'), Buffer.from('label')),
          sealing(publicKey, algorithm === 'RSAES_OAEP_SHA_1' ? 'RSAES_OAEP_SHA_256' : 'RSAES_OAEP_SHA_1', Buffer.from('message')),
          publicEncrypt({ key: publicKey, padding: constants.RSA_PKCS1_PADDING }, Buffer.from('message')),
          raw(first),
          raw(zeros),
        ]
        const refusals = new Set<string>()
        for (const ciphertext of bad) {
          const refusal = await token.decryptOaep(ckaId, algorithm, ciphertext).catch((error: unknown) => error)
          refusals.add(JSON.stringify(refusal instanceof TokenError ? [refusal.failure, refusal.message, refusal.code] : 'none'))
        }
        expect(refusals.size).toBe(1)
        expect([...refusals][0]).toContain('rejected')
        // What shows without a key: another length, a number that is no residue.
        for (const ciphertext of [
          good.subarray(1),
          Buffer.concat([good, Buffer.of(0)]),
          Buffer.alloc(256, 255),
          Buffer.of(0),
          Buffer.alloc(4096),
        ]) {
          expect(await outcome(token.decryptOaep(ckaId, algorithm, ciphertext))).toBe('rejected')
        }
        // And the session goes on.
        expect((await token.decryptOaep(ckaId, algorithm, good)).toString()).toBe('message')
      },
    )

    test('is refused for keys of another use or sort', async () => {
      const ciphertext = Buffer.alloc(256, 1)
      for (const kind of ['RSA_2048 SIGN_VERIFY', 'ECC_NIST_P256 SIGN_VERIFY', 'HMAC_256 GENERATE_VERIFY_MAC'] as const) {
        for (const algorithm of ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'] as const) {
          expect(await outcome(token.decryptOaep(await keys.of(kind), algorithm, ciphertext))).toBe('rejected')
        }
      }
    })
  })

  describe('MACs', () => {
    test.each(macs)('HMAC_SHA_%i are of the hash’s length, the same for the same message and for no other', async (bits) => {
      const algorithm: MacAlgorithm = `HMAC_SHA_${bits}`
      const ckaId = await keys.of(`HMAC_${bits} GENERATE_VERIFY_MAC`)
      for (const length of [1, 64, 200, 4096]) {
        const message = randomBytes(length)
        const made = await token.mac(ckaId, algorithm, message)
        expect(made).toHaveLength(bits / 8)
        expect(await token.mac(ckaId, algorithm, message)).toEqual(made)
        expect(await token.mac(ckaId, algorithm, changed(message, 7))).not.toEqual(made)
      }
    })

    test('are refused for keys of another sort, and for no message', async () => {
      expect(await outcome(token.mac(await keys.of('RSA_2048 SIGN_VERIFY'), 'HMAC_SHA_256', Buffer.from('m')))).toBe('rejected')
      expect(await outcome(token.mac(await keys.of('HMAC_256 GENERATE_VERIFY_MAC'), 'HMAC_SHA_256', Buffer.alloc(0)))).toBe('rejected')
      expect(await outcome(token.mac(newCkaId(), 'HMAC_SHA_256', Buffer.from('m')))).toBe('missing')
    })
  })

  describe('key agreement', () => {
    const rows = Object.entries(curves) as [keyof typeof curves, string][]
    const spki = ({ publicKey }: KeyPairKeyObjectResult): Buffer => publicKey.export({ format: 'der', type: 'spki' })

    test.each(rows)('on %s gives the secret that the other side has, leading zeros and all', async (spec, namedCurve) => {
      const kind = `${spec} KEY_AGREEMENT` as const
      const [ckaId, publicKey] = [await keys.of(kind), await keys.publicKey(kind)]
      expect(publicKey.asymmetricKeyDetails?.namedCurve).toBe(namedCurve)
      // One in 256 begins with a zero byte, of P-521 every other one. On P-384 they would take long to find.
      let wanted = spec === 'ECC_NIST_P384' ? 0 : 1
      for (let tries = 0; tries < 4 || wanted > 0; tries += 1) {
        const peer = generateKeyPairSync('ec', { namedCurve })
        const secret = diffieHellman({ privateKey: peer.privateKey, publicKey })
        if (tries >= 4 && secret[0] !== 0) continue
        if (secret[0] === 0) wanted -= 1
        expect(await token.deriveSharedSecret(ckaId, spki(peer))).toEqual(secret)
      }
    })

    test('leaves no secret behind in the device', async () => {
      const before = await token.allObjects()
      const ckaId = await keys.of('ECC_NIST_P256 KEY_AGREEMENT')
      for (let count = 0; count < 20; count += 1) {
        await token.deriveSharedSecret(ckaId, spki(generateKeyPairSync('ec', { namedCurve: 'P-256' })))
      }
      expect(await token.allObjects()).toHaveLength(before.length)
    })

    test('refuses what is no point of the curve before the device sees it', async () => {
      const ckaId = await keys.of('ECC_NIST_P256 KEY_AGREEMENT')
      const good = spki(generateKeyPairSync('ec', { namedCurve: 'P-256' }))
      const { onTwist, beyondPrime } = strangePoints()
      expect(p256Spki(good.subarray(-65))).toEqual(good)
      const bad: Readonly<Record<string, Buffer>> = {
        'a point off the curve': changed(good, good.length * 8 - 1),
        'the point at infinity': Buffer.concat([Buffer.from('3019301306072a8648ce3d020106082a8648ce3d030107030200', 'hex'), Buffer.of(0)]),
        'another curve': spki(generateKeyPairSync('ec', { namedCurve: 'P-384' })),
        'another curve of the same size': spki(generateKeyPairSync('ec', { namedCurve: 'secp256k1' })),
        'explicit parameters': generateKeyPairSync('ec', { namedCurve: 'P-256', paramEncoding: 'explicit' }).publicKey.export({
          format: 'der',
          type: 'spki',
        }),
        'an RSA key': generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey.export({ format: 'der', type: 'spki' }),
        X25519: generateKeyPairSync('x25519').publicKey.export({ format: 'der', type: 'spki' }),
        'a byte behind it': Buffer.concat([good, Buffer.of(0)]),
        'a byte less': good.subarray(0, -1),
        'the bare point': good.subarray(-65),
        'a compressed point': p256Spki(Buffer.from(createECDH('prime256v1').generateKeys('hex', 'compressed'), 'hex')),
        'a hybrid point': p256Spki(Buffer.from(createECDH('prime256v1').generateKeys('hex', 'hybrid'), 'hex')),
        'a point of order two on another curve': p256Spki(Buffer.concat([good.subarray(-65, -32), Buffer.alloc(32)])),
        zeros: p256Spki(Buffer.concat([Buffer.of(4), Buffer.alloc(64)])),
        'a point on the twist': p256Spki(onTwist),
        'a coordinate that is not below the prime': p256Spki(beyondPrime),
        'lengths in a long form': Buffer.concat([Buffer.of(0x30, 0x81), good.subarray(1)]),
        'an indefinite length': Buffer.concat([Buffer.of(0x30, 0x80), good.subarray(2), Buffer.of(0, 0)]),
        'unused bits in the BIT STRING': changed(good, 8 * (good.length - 66)),
        'the algorithm id-ecDH': Buffer.from(good.toString('hex').replace('3059301306072a8648ce3d0201', '3057301106052b8104010c'), 'hex'),
        PEM: Buffer.from(generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'pem', type: 'spki' })),
        noise: randomBytes(91),
        nothing: Buffer.alloc(0),
      }
      for (const [what, publicKey] of Object.entries(bad)) {
        expect(`${what}: ${await outcome(token.deriveSharedSecret(ckaId, publicKey))}`).toBe(`${what}: rejected`)
      }
      expect(await outcome(token.deriveSharedSecret(ckaId, good))).toBe('done')
    })

    test('is refused for keys of another use or sort', async () => {
      const peer = spki(generateKeyPairSync('ec', { namedCurve: 'P-256' }))
      for (const kind of ['ECC_NIST_P256 SIGN_VERIFY', 'RSA_2048 SIGN_VERIFY', 'ECC_NIST_EDWARDS25519 SIGN_VERIFY'] as const) {
        expect(`${kind}: ${await outcome(token.deriveSharedSecret(await keys.of(kind), peer))}`).toBe(`${kind}: rejected`)
      }
    })
  })

  test('a replicable key may leave the device, but only under a trusted key', async () => {
    for (const kind of ['wrapping', 'ECC_NIST_P256 SIGN_VERIFY', 'HMAC_256 GENERATE_VERIFY_MAC'] as const) {
      const objects = await token.generateKey({ kind, ckaId: newCkaId(), label: 'kms/mrk', replicable: true })
      const secret = objects.find(({ objectClass }) => objectClass !== 'CKO_PUBLIC_KEY')
      expect(secret?.attributes).toMatchObject({
        ...protectedAttributes,
        CKA_LOCAL: true,
        CKA_EXTRACTABLE: true,
        CKA_WRAP_WITH_TRUSTED: true,
        CKA_NEVER_EXTRACTABLE: false,
      })
    }
  })

  test('another agent of the same token goes on with the keys', async () => {
    const [rsa, ec] = [await keys.of('RSA_2048 SIGN_VERIFY'), await keys.of('ECC_NIST_P256 SIGN_VERIFY')]
    const message = Buffer.from('message')
    const other = await openLab(lab, { sessions: 1, provision: false })
    try {
      const [first, second] = await Promise.all([
        other.signMessage(rsa, 'RSASSA_PSS_SHA_256', 'message', message),
        other.signMessage(ec, 'ECDSA_SHA_256', 'message', message),
      ])
      expect(accepts(await keys.publicKey('RSA_2048 SIGN_VERIFY'), 'RSASSA_PSS_SHA_256', message, first)).toBe(true)
      expect(accepts(await keys.publicKey('ECC_NIST_P256 SIGN_VERIFY'), 'ECDSA_SHA_256', message, second)).toBe(true)
    } finally {
      await other.close()
    }
  })
})

describe('openCryptoki', () => {
  let lab: LabToken | undefined
  let token: Token
  let keys: Keys

  beforeAll(async () => {
    lab = await makeOpenCryptokiToken()
    if (lab === undefined) return
    token = await openLab(lab)
    keys = new Keys(token)
  })
  afterAll(async () => {
    if (lab === undefined) return
    await token.close()
    await lab.remove()
  })

  test('signs with RSA, decrypts OAEP with both hashes and makes MACs; keys of curves it has none', async ({ skip }) => {
    if (lab === undefined) skip('this machine lacks the module')
    const { keyKinds, algorithms } = token.capabilities()
    expect(keyKinds).toEqual(expect.arrayContaining(['RSA_2048 SIGN_VERIFY', 'RSA_4096 ENCRYPT_DECRYPT', 'HMAC_512 GENERATE_VERIFY_MAC']))
    expect(keyKinds.filter((kind) => kind.startsWith('ECC_'))).toEqual([])
    expect(await outcome(token.generateKey({ kind: 'ECC_NIST_P256 SIGN_VERIFY', ckaId: newCkaId(), label: 'kms/none' }))).toBe(
      'unsupported',
    )

    const message = randomBytes(50)
    for (const algorithm of algorithms.filter((name) => name.startsWith('RSASSA')) as SigningAlgorithm[]) {
      const signature = await token.signMessage(await keys.of('RSA_2048 SIGN_VERIFY'), algorithm, 'message', message)
      expect(accepts(await keys.publicKey('RSA_2048 SIGN_VERIFY'), algorithm, message, signature)).toBe(true)
    }
    const ckaId = await keys.of('RSA_2048 ENCRYPT_DECRYPT')
    const publicKey = await keys.publicKey('RSA_2048 ENCRYPT_DECRYPT')
    for (const [algorithm, oaepHash] of [
      ['RSAES_OAEP_SHA_1', 'sha1'],
      ['RSAES_OAEP_SHA_256', 'sha256'],
    ] as const) {
      const ciphertext = publicEncrypt({ key: publicKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, message)
      expect(await token.decryptOaep(ckaId, algorithm, ciphertext)).toEqual(message)
      expect(await outcome(token.decryptOaep(ckaId, algorithm, changed(ciphertext, 2047)))).toBe('rejected')
    }
    for (const kind of keyKinds.filter((each): each is MacKeyKind => each.startsWith('HMAC'))) {
      const bits = Number(kind.slice(5, 8)) as 224 | 256 | 384 | 512
      expect(await token.mac(await keys.of(kind), `HMAC_SHA_${bits}`, message)).toHaveLength(bits / 8)
    }
    expect(algorithms).toEqual(expect.arrayContaining(['RSASSA_PSS_SHA_512', 'RSAES_OAEP_SHA_256', 'HMAC_SHA_512']))
  })
})
