/** The body of the GCM schemes, in its parts. */

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { joinGcmBody, splitGcmBody } from '../../src/hsm/gcm-body.ts'
import { wrapSchemes, type WrapScheme } from '../../src/hsm/token.ts'

const schemes = Object.keys(wrapSchemes) as WrapScheme[]
const ofLength = (length: number) => fc.uint8Array({ minLength: length, maxLength: length }).map((bytes) => Buffer.from(bytes))

test('property: what is joined comes apart again into the same parts, which are views of it', () => {
  const iv = fc.constantFrom(12, 16).chain(ofLength)
  const ciphertext = fc.uint8Array({ maxLength: 100 }).map((bytes) => Buffer.from(bytes))
  fc.assert(
    fc.property(iv, ciphertext, ofLength(16), (...[givenIv, givenText, givenTag]) => {
      const given = { iv: givenIv, ciphertext: givenText, tag: givenTag }
      const { scheme, body } = joinGcmBody(given)
      const parts = splitGcmBody(scheme, body)
      expect(parts).toEqual(given)
      expect(body[0]).toBe(givenIv.length)
      expect([parts?.iv.buffer, parts?.tag.buffer]).toEqual([body.buffer, body.buffer])
    }),
  )
})

test('the scheme that unwraps a body is one with an IV of its length', () => {
  const of = (length: number) => joinGcmBody({ iv: Buffer.alloc(length), ciphertext: Buffer.alloc(1), tag: Buffer.alloc(16) }).scheme
  expect([of(12), of(16)]).toEqual(['gcm-iv-in', 'gcm-iv-tail'])
})

test('only the bodies of GCM come apart', () => {
  const { body } = joinGcmBody({ iv: Buffer.alloc(12), ciphertext: Buffer.alloc(1), tag: Buffer.alloc(16) })
  expect(schemes.filter((scheme) => splitGcmBody(scheme, body))).toEqual(['gcm-iv-in', 'gcm-iv-back', 'gcm-iv-tail'])
})
