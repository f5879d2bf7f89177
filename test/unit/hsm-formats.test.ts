import { createSign, generateKeyPairSync, verify } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CKA, nameOf } from '../../src/hsm/constants.ts'
import { encodeEcdsaSignature, encodeEcPublicKey, encodeRsaPublicKey, readEcPoint, readEcPrivateKey } from '../../src/hsm/der.ts'
import { template, TemplateError } from '../../src/hsm/template.ts'
import {
  encodeAnswer,
  encodeRequest,
  findFrame,
  headerBytes,
  operations,
  parseAnswerHead,
  parseRequest,
  requestBytes,
  statuses,
  type Operation,
} from '../../src/hsm/wire.ts'

describe('templates', () => {
  test('carry the number of each attribute and its value as given', () => {
    const label = 'kms/x/1'
    const id = Buffer.from('0102', 'hex')
    expect(template({ CKA_TOKEN: true, CKA_LABEL: label, CKA_ID: id, CKA_VALUE_LEN: 32 })).toEqual([
      { type: 0x1, value: true },
      { type: 0x3, value: label },
      { type: 0x102, value: id },
      { type: 0x161, value: 32 },
    ])
  })

  test('leave out what the product refuses', () => {
    expect(template({ CKA_TOKEN: true, CKA_MODIFIABLE: false }, [CKA.CKA_MODIFIABLE])).toEqual([{ type: 1, value: true }])
  })

  test.each([
    ['undefined', { CKA_TOKEN: undefined }],
    ['a fraction', { CKA_VALUE_LEN: 1.5 }],
    ['a negative number', { CKA_VALUE_LEN: -1 }],
    ['more than 32 bits', { CKA_VALUE_LEN: 2 ** 32 }],
    ['NaN', { CKA_VALUE_LEN: Number.NaN }],
  ])('refuse %s, which would crash or lie in the binding', (_what, values) => {
    expect(() => template(values)).toThrow(TemplateError)
  })

  test('refuse an attribute whose number is not known', () => {
    expect(() => template({ CKA_NONSENSE: true } as never)).toThrow('CKA_NONSENSE has no number')
  })
})

test('a number without a name is shown as a number of its kind', () => {
  expect(nameOf('CKR', 0x30)).toBe('CKR_DEVICE_ERROR')
  expect(nameOf('CKR', 0x8000_0384)).toBe('CKR_0x80000384')
})

describe('DER', () => {
  test('an RSA public key is read back by OpenSSL', () => {
    for (const modulusLength of [1024, 2048, 3072]) {
      const { publicKey } = generateKeyPairSync('rsa', { modulusLength })
      const jwk = publicKey.export({ format: 'jwk' })
      const modulus = Buffer.from(jwk.n ?? '', 'base64url')
      const der = encodeRsaPublicKey(modulus, Buffer.from(jwk.e ?? '', 'base64url'))
      expect(der.equals(publicKey.export({ format: 'der', type: 'spki' }))).toBe(true)
      // Some tokens answer the modulus with zeros in front.
      expect(encodeRsaPublicKey(Buffer.concat([Buffer.alloc(2), modulus]), Buffer.from([0, 1, 0, 1])).equals(der)).toBe(true)
    }
  })

  test.each([
    ['P-256', 'prime256v1', '06082a8648ce3d030107'],
    ['P-384', 'secp384r1', '06052b81040022'],
    ['P-521', 'secp521r1', '06052b81040023'],
    ['secp256k1', 'secp256k1', '06052b8104000a'],
  ])('a public key on %s is read back, from a wrapped point or a bare one', (_name, namedCurve, oid) => {
    const { publicKey } = generateKeyPairSync('ec', { namedCurve })
    const der = publicKey.export({ format: 'der', type: 'spki' })
    const { x = '', y = '' } = publicKey.export({ format: 'jwk' })
    const point = Buffer.concat([Buffer.of(4), Buffer.from(x, 'base64url'), Buffer.from(y, 'base64url')])
    const wrapped = Buffer.concat([Buffer.from(point.length < 0x80 ? [4, point.length] : [4, 0x81, point.length]), point])
    expect(readEcPoint(point)?.equals(point)).toBe(true)
    expect(readEcPoint(wrapped)?.equals(point)).toBe(true)
    expect(encodeEcPublicKey(Buffer.from(oid, 'hex'), point).equals(der)).toBe(true)
  })

  test('a bare point whose coordinates begin like a length is not mistaken for a wrapped one', () => {
    const point = Buffer.concat([Buffer.from([4, 63]), Buffer.alloc(63, 1)])
    expect(readEcPoint(point)?.equals(point)).toBe(true)
  })

  test.each([
    ['nothing', ''],
    ['infinity', '00'],
    ['infinity in an OCTET STRING', '040100'],
    ['infinity as long as a point', '00'.repeat(65)],
    ['a compressed point', `02${'11'.repeat(32)}`],
    ['a compressed point in an OCTET STRING', `042102${'11'.repeat(32)}`],
    ['a hybrid point', `06${'11'.repeat(64)}`],
    ['a point that is too short', `04${'11'.repeat(63)}`],
    ['a point in an OCTET STRING of another length', `044204${'11'.repeat(64)}`],
    ['a point in another element', `034104${'11'.repeat(64)}`],
  ])('%s is no point that node:crypto is shown', (_name, told) => {
    expect(readEcPoint(Buffer.from(told, 'hex'))).toBeUndefined()
  })

  test.each([
    ['prime256v1', '06082a8648ce3d030107'],
    ['secp384r1', '06052b81040022'],
    ['secp521r1', '06052b81040023'],
    ['secp256k1', '06052b8104000a'],
  ])('an EC private key on %s is read from its PKCS#8', (namedCurve, oid) => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve })
    const read = readEcPrivateKey(privateKey.export({ format: 'der', type: 'pkcs8' }))
    expect(read?.parameters.toString('hex')).toBe(oid)
    expect(read?.secret.equals(Buffer.from(privateKey.export({ format: 'jwk' }).d ?? '', 'base64url'))).toBe(true)
  })

  test('what is no PKCS#8 of an EC key is read as none: other keys, and every cut', () => {
    const ec = generateKeyPairSync('ec', { namedCurve: 'prime256v1' }).privateKey
    const whole = ec.export({ format: 'der', type: 'pkcs8' })
    for (let length = 0; length < whole.length; length += 1) expect(readEcPrivateKey(whole.subarray(0, length))).toBeUndefined()
    expect(readEcPrivateKey(Buffer.concat([whole, Buffer.of(0)]))).toBeUndefined()
    const others = [
      ec.export({ format: 'der', type: 'sec1' }),
      generateKeyPairSync('ed25519').privateKey.export({ format: 'der', type: 'pkcs8' }),
      generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey.export({ format: 'der', type: 'pkcs8' }),
    ]
    for (const other of others) expect(readEcPrivateKey(other)).toBeUndefined()
  })

  test('whatever bytes come as a private key, reading them ends with a key or with none', () => {
    const whole = generateKeyPairSync('ec', { namedCurve: 'prime256v1' }).privateKey.export({ format: 'der', type: 'pkcs8' })
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.nat(255), fc.uint8Array({ maxLength: 60 }), (at, byte, bytes) => {
        const changed = Buffer.from(whole)
        changed[at] = byte
        for (const input of [changed, Buffer.from(bytes)]) {
          const read = readEcPrivateKey(input)
          expect(read === undefined || input.includes(read.secret)).toBe(true)
        }
      }),
    )
  })

  test('a signature of two raw halves becomes one that OpenSSL verifies, whatever their leading bytes', () => {
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' })
    const lengths = new Set<number>()
    for (let index = 0; index < 300; index += 1) {
      const message = Buffer.from(String(index))
      const raw = createSign('sha256').update(message).sign({ key: privateKey, dsaEncoding: 'ieee-p1363' })
      const signature = encodeEcdsaSignature(raw)
      lengths.add(signature.length)
      expect(verify('sha256', message, publicKey, signature)).toBe(true)
    }
    expect(lengths.size).toBeGreaterThan(1)
  })

  test('the numbers of a signature are in their shortest form', () => {
    const raw = Buffer.concat([Buffer.alloc(31), Buffer.of(0x80), Buffer.alloc(31), Buffer.of(0x7f)])
    expect(encodeEcdsaSignature(raw).toString('hex')).toBe('30070202008002017f')
    expect(encodeEcdsaSignature(Buffer.alloc(64)).toString('hex')).toBe('3006020100020100')
  })
})

describe('frames', () => {
  const bytes = (maxLength: number): fc.Arbitrary<Buffer> => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array))
  const request = fc.record({
    id: fc.integer({ min: 0, max: 0xffff_ffff }),
    operation: fc.constantFrom(...(Object.keys(operations) as Operation[])),
    scheme: fc.integer({ min: 0, max: 255 }),
    dueMs: fc.double({ noNaN: true }),
    ckaId: bytes(32).map((buffer) => buffer.toString('hex')),
    aad: bytes(300),
    data: bytes(300),
  })

  test('requests survive the way in any number and any cut', () => {
    fc.assert(
      fc.property(fc.array(request, { maxLength: 5 }), fc.nat(2000), (requests, cut) => {
        const batch = Buffer.alloc(requests.reduce((sum, each) => sum + requestBytes(each), 0))
        let end = 0
        for (const each of requests) end = encodeRequest(each, batch, end)
        expect(end).toBe(batch.length)
        const received = Math.min(cut, batch.length)
        let at = 0
        let count = 0
        for (const limit of [received, batch.length]) {
          for (;;) {
            const length = findFrame(batch, at, limit)
            if (length === undefined) break
            expect(parseRequest(batch, at, length)).toEqual(requests[count])
            at += length
            count += 1
          }
        }
        expect(count).toBe(requests.length)
      }),
    )
  })

  test('answers survive it too', () => {
    const answer = fc.record({
      id: fc.integer({ min: 0, max: 0xffff_ffff }),
      worker: fc.integer({ min: 0, max: 255 }),
      failure: fc.constantFrom(...statuses),
      number: fc.integer({ min: 0, max: 255 }),
      fatal: fc.boolean(),
      microseconds: fc.integer({ min: 0, max: 0xffff_ffff }),
    })
    fc.assert(
      fc.property(answer, bytes(500), (head, data) => {
        const target = Buffer.alloc(headerBytes + data.length)
        expect(encodeAnswer(head, data, target, 0)).toBe(target.length)
        expect(findFrame(target, 0, target.length)).toBe(target.length)
        expect(parseAnswerHead(target, 0)).toEqual(head)
        expect(target.subarray(headerBytes).equals(data)).toBe(true)
      }),
    )
  })

  test('what is no request is refused, never read beyond its end', () => {
    fc.assert(
      fc.property(bytes(200), (noise) => {
        const outcome = (): unknown => {
          try {
            const length = findFrame(noise, 0, noise.length)
            if (length === undefined) return 'incomplete'
            const { aad, data } = parseRequest(noise, 0, length)
            return 24 + noise.readUInt16LE(10) + aad.length + data.length - length
          } catch (error) {
            if (error instanceof RangeError) return 'refused'
            throw error
          }
        }
        expect(['incomplete', 'refused', 0]).toContain(outcome())
      }),
    )
  })
})
