/** What a client of an XKS proxy sends and believes, as a format. The contract tests have the proxy itself. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  decryptBody,
  encryptBody,
  integrityValue,
  InvalidAnswer,
  readDecrypted,
  readEncrypted,
  readError,
  readExternalKey,
  readHealth,
} from '../../src/xks/protocol.ts'

const bytes = (minLength: number, maxLength = minLength) => fc.uint8Array({ minLength, maxLength }).map((given) => Buffer.from(given))
const aad = bytes(0, 40)
const outer = fc.record({
  ciphertextMetadata: bytes(0, 20),
  initializationVector: fc.oneof(bytes(12), bytes(16)),
  authenticationTag: bytes(16),
  ciphertext: bytes(1, 60),
})
type Outer = Parameters<typeof integrityValue>[0]

/** What a proxy answers. */
const answerOf = (made: Outer, bound: Buffer): Record<string, unknown> => ({
  ciphertext: made.ciphertext.toString('base64'),
  initializationVector: made.initializationVector.toString('base64'),
  authenticationTag: made.authenticationTag.toString('base64'),
  ...(made.ciphertextMetadata.length > 0 && { ciphertextMetadata: made.ciphertextMetadata.toString('base64') }),
  ciphertextDataIntegrityValue: integrityValue(made, bound).toString('base64'),
  somethingOfALaterVersion: { ignored: true },
})

test('the integrity value is that of the specification’s example', () => {
  const made = {
    ciphertextMetadata: Buffer.from('a2V5X3ZlcnNpb249MQ==', 'base64'),
    initializationVector: Buffer.from('HMrlRw85cAJUd5Ax', 'base64'),
    ciphertext: Buffer.from('ghxkK1txeDNn3q8Y', 'base64'),
    authenticationTag: Buffer.from('vBxN2ncH1oEkR8WVXpmyYQ==', 'base64'),
  }
  const bound = Buffer.from('cHJvamVjdD1uaWxlLGRlcGFydG1lbnQ9bWFya2V0aW5n', 'base64')
  expect(integrityValue(made, bound).toString('base64')).toBe('qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=')
})

describe('an answer to Encrypt', () => {
  test('reads back what the proxy made, and nothing else is taken for it', () => {
    fc.assert(
      fc.property(outer, aad, fc.nat(), (made, bound, at) => {
        const answer = answerOf(made, bound)
        expect(readEncrypted(answer, made.ciphertext.length, bound)).toEqual(made)
        expect(() => readEncrypted(answer, made.ciphertext.length + 1, bound)).toThrow(InvalidAnswer)
        expect(() => readEncrypted(answer, made.ciphertext.length, Buffer.concat([bound, Buffer.from('x')]))).toThrow(InvalidAnswer)
        // Any one byte changed on the way, wherever.
        for (const name of ['ciphertext', 'initializationVector', 'authenticationTag', 'ciphertextDataIntegrityValue']) {
          const changed = Buffer.from(String(answer[name]), 'base64')
          const index = at % changed.length
          changed[index] = (changed[index] ?? 0) ^ 1
          expect(() => readEncrypted({ ...answer, [name]: changed.toString('base64') }, made.ciphertext.length, bound)).toThrow(
            InvalidAnswer,
          )
        }
      }),
    )
  })

  test('is handed back to Decrypt as it came', () => {
    fc.assert(
      fc.property(outer, aad, (made, bound) => {
        const sent = JSON.parse(decryptBody({ kmsRequestId: 'r', kmsOperation: 'Decrypt' }, made, bound)) as Record<string, unknown>
        const { ciphertextDataIntegrityValue: _value, somethingOfALaterVersion: _more, ...answer } = answerOf(made, bound)
        expect(sent).toEqual({
          ...answer,
          requestMetadata: { kmsRequestId: 'r', kmsOperation: 'Decrypt' },
          encryptionAlgorithm: 'AES_GCM',
          ...(bound.length > 0 && { additionalAuthenticatedData: bound.toString('base64') }),
        })
      }),
    )
  })
})

test('no context is sent as no data to authenticate', () => {
  const body = JSON.parse(encryptBody({ kmsRequestId: 'r', kmsOperation: 'Encrypt' }, Buffer.from('p'), Buffer.alloc(0))) as object
  expect(body).not.toHaveProperty('additionalAuthenticatedData')
  expect(body).toMatchObject({ ciphertextDataIntegrityValueAlgorithm: 'SHA_256' })
})

test('whatever a proxy answers is read or is an InvalidAnswer', () => {
  const names =
    'ciphertext initializationVector authenticationTag plaintext keySpec keyUsage keyStatus errorName xksProxyFleetSize xksProxyVendor xksProxyModel ekmVendor ekmFleetDetails __proto__'
  const anything = fc.oneof(
    fc.jsonValue(),
    fc.dictionary(fc.constantFrom(...names.split(' ')), fc.oneof(fc.jsonValue(), fc.constant('AAAA')), { noNullPrototype: false }),
  )
  const readers = [
    (answer: unknown) => readEncrypted(answer, 3, Buffer.alloc(0)),
    (answer: unknown) => readDecrypted(answer, 3),
    readExternalKey,
    readHealth,
    readError,
  ]
  fc.assert(
    fc.property(anything, fc.nat({ max: readers.length - 1 }), (answer, which) => {
      let failure: unknown
      try {
        readers[which]?.(answer)
      } catch (error) {
        failure = error
      }
      expect(failure === undefined || failure instanceof InvalidAnswer).toBe(true)
    }),
    { numRuns: 1000 },
  )
})

test('a proxy’s own words are cut and cleaned before they reach a log', () => {
  const { name, message } = readError({ errorName: 'InternalException', errorMessage: `\u001b[31m${'x'.repeat(600)}` })
  expect([name, message.length, /^[\x20-\x7e]*$/.test(message)]).toEqual(['InternalException', 511, true])
})
