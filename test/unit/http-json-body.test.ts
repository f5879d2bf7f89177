/** JSON bodies by properties: what JSON.parse reads is read alike, unless two readers could see two requests in it. */

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { readJsonBody } from '../../src/http/json-body.ts'
import { KmsError } from '../../src/kms/errors.ts'

const refused = (text: string | Uint8Array): boolean => {
  try {
    readJsonBody(Buffer.from(text))
    return false
  } catch (error) {
    if (error instanceof KmsError && error.code === 'SerializationException') return true
    throw error
  }
}

const anObject = fc.dictionary(fc.string({ unit: 'grapheme' }), fc.jsonValue({ maxDepth: 6, stringUnit: 'grapheme' }), {
  noNullPrototype: true,
})

test('an object comes out as JSON.parse reads it', () => {
  fc.assert(
    fc.property(anObject, fc.boolean(), (value, spaced) => {
      const text = JSON.stringify(value, undefined, spaced ? 2 : undefined)
      expect(readJsonBody(Buffer.from(text))).toEqual(JSON.parse(text))
    }),
    { numRuns: 500 },
  )
})

/** What JSON.parse makes an object of. */
const isJsonObject = (bytes: Uint8Array): boolean => {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString())
    return typeof value === 'object' && value !== null && !Array.isArray(value)
  } catch {
    return false
  }
}

test('any bytes are read or refused, never a crash, and what is no JSON object is refused', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.uint8Array({ maxLength: 300 }),
        fc.string().map((text) => Buffer.from(text)),
        fc.json().map((text) => Buffer.from(text)),
      ),
      (bytes) => {
        expect(refused(bytes) || isJsonObject(bytes) || bytes.length === 0).toBe(true)
      },
    ),
    { numRuns: 2000 },
  )
})

test('a changed byte of a good body never makes something of what is no JSON object', () => {
  fc.assert(
    fc.property(anObject, fc.nat(), fc.integer({ min: 0, max: 255 }), (value, at, byte) => {
      const bytes = Buffer.from(JSON.stringify(value))
      bytes[at % bytes.length] = byte
      expect(refused(bytes) || isJsonObject(bytes)).toBe(true)
    }),
    { numRuns: 1000 },
  )
})

test('a name given twice is refused at any depth, also when it is spelt in two ways', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'grapheme' }),
      fc.jsonValue(),
      fc.jsonValue(),
      fc.integer({ min: 0, max: 5 }),
      (name, one, two, depth) => {
        const twice = `{${JSON.stringify(name)}:${JSON.stringify(one)},${JSON.stringify(name)}:${JSON.stringify(two)}}`
        const nested = `${'{"a":['.repeat(depth)}${twice}${']}'.repeat(depth)}`
        expect(refused(nested)).toBe(true)
      },
    ),
  )
  expect(refused(String.raw`{"KeyId":"a","Key\u0049d":"b"}`)).toBe(true)
  expect(refused('{"__proto__":1,"__proto__":2}')).toBe(true)
})

test('colons, quotes and braces inside text are text', () => {
  expect(readJsonBody(Buffer.from(String.raw`{"a:\"b":"{[\"::\\\"]}","c":":"}`))).toEqual({ 'a:"b': '{["::\\"]}', c: ':' })
})

test('__proto__ is a name like any other and changes no prototype', () => {
  const body = readJsonBody(Buffer.from('{"__proto__":{"polluted":true}}'))
  expect(Object.entries(body)).toEqual([['__proto__', { polluted: true }]])
  expect(({} as { polluted?: boolean }).polluted).toBeUndefined()
})

test('nesting has a limit, and 32 levels are within it', () => {
  const nested = (depth: number): string => `{"a":${'['.repeat(depth - 1)}${']'.repeat(depth - 1)}}`
  expect(refused(nested(32))).toBe(false)
  expect(refused(nested(33))).toBe(true)
  expect(refused(nested(500_000))).toBe(true)
})

test('text must be well-formed Unicode', () => {
  expect(refused(Buffer.from('7b2261223a22ff227d', 'hex'))).toBe(true)
  expect(refused(Buffer.from('7b2261223a22eda080227d', 'hex'))).toBe(true)
  expect(refused(String.raw`{"a":"\ud800"}`)).toBe(true)
  expect(refused(String.raw`{"\udc00":1}`)).toBe(true)
  expect(refused(String.raw`{"a":[{"b":"\ud83d"}]}`)).toBe(true)
  expect(readJsonBody(Buffer.from(String.raw`{"a":"\ud83d\ude00"}`))).toEqual({ a: '😀' })
})

test.each(['null', '[]', '1', '"x"', 'true', '{}{}', '{"a":1,}', "{'a':1}", '\ufeff{}', '{"a":NaN}', ' '])('%j is refused', (text) => {
  expect(refused(text)).toBe(true)
})

test('an empty body is an empty request', () => {
  expect(readJsonBody(Buffer.alloc(0))).toEqual({})
})
