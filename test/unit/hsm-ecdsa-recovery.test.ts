/** The public key of an EC key, from its signatures alone; node:crypto says what is right. */
import { createHash, generateKeyPairSync, randomBytes, sign } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { curves, recoverPublicKeys } from '../../src/hsm/ecdsa-recovery.ts'

const names = {
  ECC_NIST_P256: 'prime256v1',
  ECC_NIST_P384: 'secp384r1',
  ECC_NIST_P521: 'secp521r1',
  ECC_SECG_P256K1: 'secp256k1',
} as const
const specs = Object.keys(names) as (keyof typeof names)[]

function makeKey(spec: keyof typeof names): { point: Buffer; signDigest: (message: Buffer) => { digest: Buffer; signature: Buffer } } {
  const pair = generateKeyPairSync('ec', { namedCurve: names[spec] })
  const { x = '', y = '' } = pair.publicKey.export({ format: 'jwk' })
  return {
    point: Buffer.concat([Buffer.of(4), Buffer.from(x, 'base64url'), Buffer.from(y, 'base64url')]),
    signDigest: (message) => ({
      digest: createHash(curves[spec].hash).update(message).digest(),
      signature: sign(curves[spec].hash, message, { key: pair.privateKey, dsaEncoding: 'ieee-p1363' }),
    }),
  }
}

describe.each(specs)('%s', (spec) => {
  const curve = curves[spec]

  test('has its generator on the curve, and a field in which (p + 1) / 4 takes square roots', () => {
    const [x, y] = curve.g
    expect((y * y - x * x * x - curve.a * x - curve.b) % curve.p).toBe(0n)
    expect(curve.p % 4n).toBe(3n)
  })

  test('tells the key of a signature as one of few points, and two signatures tell it alone', () => {
    for (let round = 0; round < 4; round += 1) {
      const { point, signDigest } = makeKey(spec)
      const [first, second] = [randomBytes(20), randomBytes(20)].map((message) => {
        const { digest, signature } = signDigest(message)
        return recoverPublicKeys(curve, digest, signature).map((candidate) => candidate.toString('hex'))
      })
      expect(first?.length).toBeLessThanOrEqual(4)
      expect(first?.filter((candidate) => second?.includes(candidate))).toEqual([point.toString('hex')])
    }
  })

  test('answers other points, or none, for a signature of something else', () => {
    const { point, signDigest } = makeKey(spec)
    const { digest, signature } = signDigest(randomBytes(20))
    for (const at of [0, 10, signature.length - 1]) {
      const changed = Buffer.from(signature)
      changed[at] = (changed[at] ?? 0) ^ 1
      expect(recoverPublicKeys(curve, digest, changed).some((candidate) => candidate.equals(point))).toBe(false)
    }
    const other = createHash(curve.hash).update(digest).digest()
    expect(recoverPublicKeys(curve, other, signature).some((candidate) => candidate.equals(point))).toBe(false)
  })

  test('answers none for numbers that are no signature', () => {
    const digest = randomBytes(32)
    const half = curve.bytes
    for (const signature of [Buffer.alloc(2 * half), Buffer.alloc(2 * half, 0xff), Buffer.alloc(2 * half + 1, 1), Buffer.alloc(0)]) {
      expect(recoverPublicKeys(curve, digest, signature)).toEqual([])
    }
  })
})

test('whatever bytes come as a signature, the answer is points of the curve', () => {
  const curve = curves.ECC_NIST_P256
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), fc.uint8Array({ maxLength: 70 }), (digest, signature) => {
      for (const point of recoverPublicKeys(curve, Buffer.from(digest), Buffer.from(signature))) {
        const x = BigInt(`0x${point.toString('hex', 1, 33)}`)
        const y = BigInt(`0x${point.toString('hex', 33)}`)
        expect((y * y - x * x * x - curve.a * x - curve.b) % curve.p).toBe(0n)
      }
    }),
    { numRuns: 25 },
  )
})
