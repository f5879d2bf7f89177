/** The proxy's side of the protocol as a format: what is read, what is refused, and that client and proxy understand each other. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  authenticatedData,
  decryptBody,
  encryptBody,
  errorBody,
  errorStatuses,
  integrityValue,
  isUriPathPrefix,
  maxAadBytes,
  maxMetadataBytes,
  maxPlaintextBytes,
  metadataBody,
  readDecrypted,
  readEncrypted,
  readError,
  readExternalKey,
  uriPath,
  type ErrorName,
} from '../../src/xks/protocol.ts'
import {
  decryptedBody,
  encryptedBody,
  externalKeyBody,
  InvalidRequest,
  oversized,
  readDecrypt,
  readEncrypt,
  readMembers,
  readMetadata,
  toldMetadata,
  type Members,
} from '../../src/xks/requests.ts'

const bytes = (minLength: number, maxLength = minLength) => fc.uint8Array({ minLength, maxLength }).map((given) => Buffer.from(given))
const metadata = fc.record({
  kmsRequestId: fc.string(),
  kmsOperation: fc.string(),
  awsPrincipalArn: fc.string(),
  kmsKeyArn: fc.string(),
})
const outer = fc.record({
  ciphertextMetadata: bytes(0, maxMetadataBytes),
  initializationVector: fc.oneof(bytes(12), bytes(16)),
  authenticationTag: bytes(16),
  ciphertext: bytes(1, 60),
})
const aad = bytes(0, 40)

describe('the additional authenticated data of the key', () => {
  test('is the AAD behind 16 bits of length, then the metadata behind 8; what is absent has length 0', () => {
    expect(authenticatedData(Buffer.alloc(0), Buffer.alloc(0))).toEqual(Buffer.from([0, 0, 0]))
    expect(authenticatedData(Buffer.from('ab'), Buffer.from('c'))).toEqual(Buffer.from([0, 2, 0x61, 0x62, 1, 0x63]))
    expect(authenticatedData(Buffer.alloc(maxAadBytes), Buffer.alloc(maxMetadataBytes))).toHaveLength(8215)
  })

  test('is different for different pairs, wherever the border is', () => {
    fc.assert(
      fc.property(aad, bytes(0, 20), aad, bytes(0, 20), (one, bound, other, otherBound) => {
        const same = one.equals(other) && bound.equals(otherBound)
        expect(authenticatedData(one, bound).equals(authenticatedData(other, otherBound))).toBe(same)
      }),
    )
    expect(authenticatedData(Buffer.from('ab'), Buffer.from('c'))).not.toEqual(authenticatedData(Buffer.from('a'), Buffer.from('bc')))
  })
})

describe('what our client asks', () => {
  test('is read as it was meant', () => {
    fc.assert(
      fc.property(metadata, bytes(1, 60), aad, outer, (about, plaintext, bound, made) => {
        const encrypting = readMembers(Buffer.from(encryptBody(about, plaintext, bound)))
        expect(readMetadata(encrypting, 'encrypt')).toEqual(about)
        expect(readEncrypt(encrypting)).toEqual({ plaintext, aad: bound, integrity: true })
        const decrypting = readMembers(Buffer.from(decryptBody(about, made, bound)))
        expect(readDecrypt(decrypting)).toEqual({ outer: made, aad: bound })
        expect(toldMetadata(decrypting)).toEqual(about)
        expect(readMetadata(readMembers(Buffer.from(metadataBody(about))), 'metadata')).toEqual(about)
      }),
    )
  })

  test('is answered so that it believes it', () => {
    fc.assert(
      fc.property(outer, aad, (made, bound) => {
        const answer: unknown = JSON.parse(encryptedBody(made, integrityValue(made, bound)))
        expect(readEncrypted(answer, made.ciphertext.length, bound)).toEqual(made)
        expect(JSON.parse(encryptedBody(made, undefined))).not.toHaveProperty('ciphertextDataIntegrityValue')
        expect(readDecrypted(JSON.parse(decryptedBody(made.ciphertext)), made.ciphertext.length)).toEqual(made.ciphertext)
      }),
    )
    for (const [enabled, keyStatus] of [
      [true, 'ENABLED'],
      [false, 'DISABLED'],
    ] as const) {
      expect(readExternalKey(JSON.parse(externalKeyBody(enabled)))).toEqual({
        keySpec: 'AES_256',
        keyUsage: ['ENCRYPT', 'DECRYPT'],
        keyStatus,
      })
    }
  })

  test('is told every error in a form that the specification allows', () => {
    for (const name of Object.keys(errorStatuses) as ErrorName[]) {
      fc.assert(
        fc.property(fc.string({ unit: 'binary', maxLength: 600 }), (text) => {
          const body = errorBody(name, text)
          expect((JSON.parse(body) as { readonly errorMessage: string }).errorMessage).toMatch(/^[\x20-\x7e]{0,511}$/)
          expect(readError(JSON.parse(body)).name).toBe(name)
        }),
        { numRuns: 5 },
      )
    }
  })
})

test('whatever the body is, it is read or InvalidRequest', () => {
  const failureOf = (read: () => unknown): unknown => {
    try {
      read()
      return undefined
    } catch (error) {
      return error
    }
  }
  const isRightful = (error: unknown): boolean =>
    error === undefined || (error instanceof InvalidRequest && /^[\x20-\x7e]+$/.test(error.message))
  const value = fc.oneof(fc.jsonValue(), fc.string(), fc.base64String())
  const body = fc.record(
    {
      requestMetadata: fc.oneof(metadata, fc.jsonValue()),
      plaintext: value,
      ciphertext: value,
      additionalAuthenticatedData: value,
      encryptionAlgorithm: fc.constantFrom('AES_GCM', 'AES_GCM', 5),
      initializationVector: value,
      authenticationTag: value,
      ciphertextMetadata: value,
      ciphertextDataIntegrityValueAlgorithm: fc.constantFrom('SHA_256', null, 'MD5'),
    },
    { requiredKeys: [] },
  )
  fc.assert(
    fc.property(
      fc.oneof(
        body.map((given) => Buffer.from(JSON.stringify(given))),
        bytes(0, 60),
      ),
      (text) => {
        const readers = [(members: Members) => readMetadata(members, 'decrypt'), readEncrypt, readDecrypt, toldMetadata]
        expect(readers.map((read) => failureOf(() => read(readMembers(text))))).toSatisfy((failures: unknown[]) =>
          failures.every(isRightful),
        )
      },
    ),
  )
})

test('a name that every object has is not taken for a member', () => {
  const members = readMembers(
    Buffer.from(
      '{"requestMetadata":{"kmsRequestId":"r","kmsOperation":"o"},"__proto__":{"plaintext":"AA=="},"encryptionAlgorithm":"AES_GCM"}',
    ),
  )
  expect(() => readEncrypt(members)).toThrow(InvalidRequest)
})

test('sizes are refused above what a proxy must take, and not before', () => {
  expect(oversized(Buffer.alloc(maxPlaintextBytes), Buffer.alloc(maxAadBytes))).toBeUndefined()
  expect(oversized(Buffer.alloc(maxPlaintextBytes + 1), Buffer.alloc(0))).toMatch(/4300 bytes/)
  expect(oversized(Buffer.alloc(1), Buffer.alloc(maxAadBytes + 1))).toMatch(/8192 bytes/)
})

test('a prefix is empty or path segments, and makes a path that AWS takes', () => {
  const awsForm = /^(\/[a-zA-Z0-9/_-]+\/kms\/xks\/v\d{1,2})$|^(\/kms\/xks\/v\d{1,2})$/
  for (const good of ['', '/a', '/tenant-1/of_2', `/${'x'.repeat(116)}`]) {
    expect(isUriPathPrefix(good)).toBe(true)
    expect(uriPath(good)).toMatch(awsForm)
    expect(uriPath(good).length).toBeLessThanOrEqual(128)
  }
  for (const bad of ['a', '/', '/a/', '//a', '/a b', '/ä', '/a?b', `/${'x'.repeat(117)}`]) expect(isUriPathPrefix(bad)).toBe(false)
})
