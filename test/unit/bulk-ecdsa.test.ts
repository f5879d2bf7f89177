/** ECDSA from the digest on, against OpenSSL, which hashes by itself; and the cases that a sum of points has to itself. */
import { createECDH, createHash, createPrivateKey, generateKeyPairSync, sign, type KeyObject } from 'node:crypto'
import { availableParallelism } from 'node:os'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { openCryptoPool } from '../../src/bulk/crypto-pool.ts'
import { isEcdsaSignature, type EcdsaQuestion } from '../../src/bulk/ecdsa.ts'

const curves = [
  { curve: 'prime256v1', hash: 'sha256', bytes: 32, order: 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n },
  {
    curve: 'secp384r1',
    hash: 'sha384',
    bytes: 48,
    order: 0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973n,
  },
  {
    curve: 'secp521r1',
    hash: 'sha512',
    bytes: 66,
    order:
      0x1fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409n,
  },
  { curve: 'secp256k1', hash: 'sha256', bytes: 32, order: 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n },
] as const
type Kind = (typeof curves)[number]

const toBytes = (value: bigint, bytes: number): Buffer => Buffer.from(value.toString(16).padStart(bytes * 2, '0'), 'hex')
const toNumber = (bytes: Uint8Array): bigint => BigInt(`0x${Buffer.from(bytes).toString('hex')}`)
const modulo = (value: bigint, m: bigint): bigint => ((value % m) + m) % m

/** By Fermat: slow, short, and not what is tested. */
function inverse(value: bigint, m: bigint): bigint {
  let [result, base, exponent] = [1n, modulo(value, m), m - 2n]
  for (; exponent > 0n; exponent >>= 1n) {
    if (exponent & 1n) result = (result * base) % m
    base = (base * base) % m
  }
  return result
}

function pointOf(key: KeyObject): Pick<EcdsaQuestion, 'x' | 'y'> {
  const { x = '', y = '' } = key.export({ format: 'jwk' })
  return { x: Buffer.from(x, 'base64url'), y: Buffer.from(y, 'base64url') }
}

/** scalar·G. */
function baseMultiple({ curve, bytes }: Kind, scalar: bigint): { readonly x: Buffer; readonly y: Buffer } {
  const ecdh = createECDH(curve)
  ecdh.setPrivateKey(toBytes(scalar, bytes))
  const point = ecdh.getPublicKey()
  return { x: point.subarray(1, 1 + bytes), y: point.subarray(1 + bytes) }
}

/** A signature by its definition (FIPS 186-5 6.4.1), with a secret and a nonce of one's choice. */
function signWith(kind: Kind, secret: bigint, nonce: bigint, digest: Buffer): Pick<EcdsaQuestion, 'r' | 's'> {
  const { order, bytes } = kind
  const r = modulo(toNumber(baseMultiple(kind, nonce).x), order)
  const s = modulo(inverse(nonce, order) * (toNumber(digest) + r * secret), order)
  return { r: toBytes(r, bytes), s: toBytes(s, bytes) }
}

describe.each(curves)('On $curve', (kind) => {
  const { curve, hash, bytes, order } = kind
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: curve })
  const point = pointOf(publicKey)
  const digestOf = (message: Uint8Array): Buffer => createHash(hash).update(message).digest()
  const halves = (message: Uint8Array, key: KeyObject = privateKey): Pick<EcdsaQuestion, 'r' | 's'> => {
    const raw = sign(hash, message, { key, dsaEncoding: 'ieee-p1363' })
    return { r: raw.subarray(0, bytes), s: raw.subarray(bytes) }
  }

  test('what OpenSSL signs is a signature of the digest, and of no other', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), fc.nat(), fc.nat({ max: 7 }), (message, at, bit) => {
        const digest = digestOf(message)
        const question = { curve, ...point, ...halves(message), digest }
        expect(isEcdsaSignature(question)).toBe(true)
        for (const part of ['digest', 'r', 's'] as const) {
          const turned = Buffer.from(question[part])
          const index = at % turned.length
          turned[index] = (turned[index] ?? 0) ^ (1 << bit)
          expect(isEcdsaSignature({ ...question, [part]: turned })).toBe(false)
        }
      }),
      { numRuns: 15 },
    )
  })

  test('the other key’s signature is none', () => {
    const other = generateKeyPairSync('ec', { namedCurve: curve })
    const message = Buffer.from('text')
    expect(isEcdsaSignature({ curve, ...point, ...halves(message, other.privateKey), digest: digestOf(message) })).toBe(false)
  })

  test('s may be on either side of the middle: both are signatures', () => {
    const digest = digestOf(Buffer.of(1))
    const { r, s } = halves(Buffer.of(1))
    expect(isEcdsaSignature({ curve, ...point, r, s: toBytes(order - toNumber(s), bytes), digest })).toBe(true)
  })

  test('numbers out of range are none', () => {
    const digest = digestOf(Buffer.of(1))
    const good = halves(Buffer.of(1))
    for (const number of [0n, order, order + 1n, 2n ** BigInt(bytes * 8) - 1n]) {
      for (const part of ['r', 's'] as const) {
        expect(isEcdsaSignature({ curve, ...point, ...good, [part]: toBytes(number, bytes), digest })).toBe(false)
      }
    }
  })

  test('a digest of zeros is signed as every other', () => {
    const zeros = Buffer.alloc(Number(hash.slice(3)) / 8)
    const signature = signWith(kind, 7n, 1234567n, zeros)
    expect(isEcdsaSignature({ curve, ...baseMultiple(kind, 7n), ...signature, digest: zeros })).toBe(true)
    expect(isEcdsaSignature({ curve, ...baseMultiple(kind, 8n), ...signature, digest: zeros })).toBe(false)
  })

  test('the sum may be of a point with itself, and of a point with its opposite it is none', () => {
    const nonce = 987654321n
    const r = modulo(toNumber(baseMultiple(kind, nonce).x), order)
    // Q = e/r·G, so that Q + e/r·G is twice Q. The digest is small: it must fit.
    const digest = Buffer.alloc(Number(hash.slice(3)) / 8)
    digest[digest.length - 1] = 5
    const secret = modulo(5n * inverse(r, order), order)
    const doubled = signWith(kind, secret, nonce, digest)
    expect(isEcdsaSignature({ curve, ...baseMultiple(kind, secret), ...doubled, digest })).toBe(true)
    // Q = -e/r·G: their sum is no point, and no s makes it one.
    const opposite = order - secret
    expect(isEcdsaSignature({ curve, ...baseMultiple(kind, opposite), r: toBytes(r, bytes), s: toBytes(1n, bytes), digest })).toBe(false)
  })
})

describe('The pool of threads', () => {
  const pool = openCryptoPool()
  afterAll(() => pool.close())

  test('makes pairs and judges signatures over digests', async () => {
    const made = await pool.keyPair('ECC_NIST_P384')
    const key = createPrivateKey({ key: made.privateKey, format: 'der', type: 'pkcs8' })
    const raw = sign('sha384', Buffer.from('text'), { key, dsaEncoding: 'ieee-p1363' })
    const question = {
      curve: 'secp384r1',
      ...pointOf(key),
      digest: createHash('sha384').update('text').digest(),
      r: raw.subarray(0, 48),
      s: raw.subarray(48),
    }
    expect(await pool.isEcdsaSignature(question)).toBe(true)
    expect(await pool.isEcdsaSignature({ ...question, digest: createHash('sha384').update('other').digest() })).toBe(false)
    await expect(pool.isEcdsaSignature({ ...question, curve: 'none' })).rejects.toThrow('no such curve: none')
  })

  test('judges a signature while key pairs are being made', async () => {
    const threads = availableParallelism()
    let made = 0
    const pairs = Array.from({ length: threads + 4 }, () => pool.keyPair('RSA_2048').then(() => (made += 1)))
    const word = Buffer.alloc(32, 1)
    expect(await pool.isEcdsaSignature({ curve: 'prime256v1', x: word, y: word, digest: word, r: Buffer.alloc(32), s: word })).toBe(false)
    // Behind them it would have come when no thread had any left to begin with.
    expect(made).toBeLessThan(4)
    await Promise.all(pairs)
  })

  test('turns away what would wait behind hundreds, at once', async () => {
    const all = await Promise.allSettled(Array.from({ length: 400 }, () => pool.keyPair('ECC_NIST_P256')))
    const refused = all.filter((each) => each.status === 'rejected')
    expect(refused.length).toBeGreaterThan(0)
    expect(refused.length).toBeLessThan(200)
    for (const { reason } of refused) expect((reason as Error).name).toBe('Busy')
    await expect(pool.keyPair('ECC_NIST_P256')).resolves.toBeDefined()
  })
})
