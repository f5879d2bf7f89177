/** Request shapes: AWS's words for what is wrong, all of it in one message, and nothing of a secret in any. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { KmsError } from '../../src/kms/errors.ts'
import {
  blob,
  boolean,
  integer,
  list,
  oneOf,
  optional,
  readInput,
  string,
  stringMap,
  structure,
  timestamp,
  type Shape,
} from '../../src/kms/shape.ts'

function refusalOf(shape: Shape, body: unknown): KmsError {
  try {
    readInput(shape, body as Record<string, unknown>)
  } catch (error) {
    if (error instanceof KmsError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

const all = {
  Name: optional(string({ min: 1, max: 4, pattern: /[a-z]+/ })),
  Text: optional(string()),
  Token: optional(string({ min: 6, max: 6, pattern: /\d*/, secret: true })),
  Choice: optional(oneOf('ONE', 'TWO')),
  Flag: optional(boolean),
  Count: optional(integer({ min: 1, max: 10 })),
  When: optional(timestamp),
  Bytes: optional(blob({ min: 1, max: 4 })),
  Names: optional(list(string({ min: 1, max: 3 }), { max: 3 })),
  Blobs: optional(list(blob({ min: 1, max: 4 }))),
  Map: optional(stringMap),
  Tags: optional(list(structure({ TagKey: string({ min: 1, max: 8 }), TagValue: string({ max: 8 }) }))),
  Inner: optional(structure({ Deep: structure({ Key: string({ min: 2 }) }) })),
} satisfies Shape

describe('a constraint that is broken', () => {
  const cases: readonly (readonly [string, unknown, string])[] = [
    [
      'too long',
      { Name: 'abcde' },
      "Value 'abcde' at 'name' failed to satisfy constraint: Member must have length less than or equal to 4",
    ],
    [
      'off the pattern',
      { Name: 'A1' },
      "Value 'A1' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-z]+",
    ],
    [
      'off the enumeration',
      { Choice: 'THREE' },
      "Value 'THREE' at 'choice' failed to satisfy constraint: Member must satisfy enum value set: [ONE, TWO]",
    ],
    ['too great', { Count: 11 }, "Value '11' at 'count' failed to satisfy constraint: Member must have value less than or equal to 10"],
    ['too small', { Count: 0 }, "Value '0' at 'count' failed to satisfy constraint: Member must have value greater than or equal to 1"],
    [
      'too many bytes',
      { Bytes: 'AAAAAAAA' },
      "Value at 'bytes' failed to satisfy constraint: Member must have length less than or equal to 4",
    ],
    ['no bytes', { Bytes: '' }, "Value at 'bytes' failed to satisfy constraint: Member must have length greater than or equal to 1"],
    [
      'a long list',
      { Names: ['a', 'b', 'c', 'd'] },
      "Value at 'names' failed to satisfy constraint: Member must have length less than or equal to 3",
    ],
    [
      'a bad item',
      { Names: ['a', 'abcd'] },
      "Value '[a, abcd]' at 'names' failed to satisfy constraint: Member must satisfy constraint: [Member must have length less than or equal to 3, Member must have length greater than or equal to 1]",
    ],
    ['a null item', { Names: [null] }, "Value null at 'names.1.member' failed to satisfy constraint: Member must not be null"],
    [
      'nested in a list',
      {
        Tags: [
          { TagKey: 'a', TagValue: '' },
          { TagKey: '', TagValue: '' },
        ],
      },
      "Value '' at 'tags.2.member.tagKey' failed to satisfy constraint: Member must have length greater than or equal to 1",
    ],
    [
      'nested in structures',
      { Inner: { Deep: { Key: 'x' } } },
      "Value 'x' at 'inner.deep.key' failed to satisfy constraint: Member must have length greater than or equal to 2",
    ],
    ['missing below', { Inner: {} }, "Value null at 'inner.deep' failed to satisfy constraint: Member must not be null"],
  ]
  test.each(cases)('is told in the words of AWS: %s', (_what, body, words) => {
    expect(refusalOf(all, body)).toMatchObject({ code: 'ValidationException', message: `1 validation error detected: ${words}` })
  })

  test('is told together with every other one', () => {
    expect(refusalOf(all, { Name: '', Count: 99, Choice: 'x', Tags: [{}] }).message).toBe(
      '6 validation errors detected: ' +
        "Value '' at 'name' failed to satisfy constraint: Member must have length greater than or equal to 1; " +
        "Value '' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-z]+; " +
        "Value 'x' at 'choice' failed to satisfy constraint: Member must satisfy enum value set: [ONE, TWO]; " +
        "Value '99' at 'count' failed to satisfy constraint: Member must have value less than or equal to 10; " +
        "Value null at 'tags.1.member.tagKey' failed to satisfy constraint: Member must not be null; " +
        "Value null at 'tags.1.member.tagValue' failed to satisfy constraint: Member must not be null",
    )
  })

  test('is told without its value when it is a secret', () => {
    expect(refusalOf(all, { Token: 'hunter2' }).message).toBe(
      "2 validation errors detected: Value at 'token' failed to satisfy constraint: Member must have length less than or equal to 6; " +
        "Value at 'token' failed to satisfy constraint: Member must satisfy regular expression pattern: \\d*",
    )
  })

  test('thousands of times makes no message of megabytes', () => {
    for (const [body, count] of [
      [{ Names: Array.from({ length: 20_000 }, () => '') }, 2],
      [{ Tags: Array.from({ length: 10_000 }, () => ({})) }, 20_000],
    ] as const) {
      const { message } = refusalOf(all, body)
      expect(message.startsWith(`${count} validation errors detected: Value`)).toBe(true)
      expect(message.length).toBeLessThan(10_000)
    }
  })
})

test('a required member that is absent or null must not be null', () => {
  for (const body of [{}, { KeyId: null }, { keyId: 'lower case is another name' }]) {
    expect(refusalOf({ KeyId: string() }, body).message).toBe(
      "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null",
    )
  }
})

test('an optional member that is null counts as absent', () => {
  expect(readInput(all, { Name: null, Tags: null, Map: null })).toEqual({})
})

describe('a value of the wrong JSON type', () => {
  const wrong: Readonly<Record<string, readonly unknown[]>> = {
    Name: [1, true, [], {}],
    Token: [1, {}],
    Choice: [0, false, []],
    Flag: ['true', 1, [], {}],
    Count: ['1', true, [], {}, 2 ** 31, -(2 ** 31), 1e300],
    When: ['2026-01-01T00:00:00Z', true, [], {}, 1e13],
    Bytes: [1, [], {}, 'no base64', 'AAA', '====', 'AAA=A', 'QQ ==', 'QQ==\n'],
    Names: ['a', {}, 1, [1], [[]]],
    Blobs: ['AA==', [1]],
    Map: ['a', [], 1, { a: 1 }, { a: null }, { a: {} }, { a: ['x'] }],
    Tags: [{}, 'x', ['x'], [[]], [{ TagKey: 1 }]],
    Inner: ['x', [], 1, { Deep: [] }],
  }
  test.each(Object.entries(wrong))('is a SerializationException at once, whatever else is wrong: %s', (name, values) => {
    for (const value of values) {
      expect(refusalOf(all, { Count: 99, [name]: value }), JSON.stringify(value)).toMatchObject({ code: 'SerializationException' })
    }
  })

  test('names what it met and what it wanted', () => {
    expect(refusalOf(all, { Name: 1 }).message).toBe('NUMBER_VALUE cannot be converted to String')
    expect(refusalOf(all, { Name: true }).message).toBe('TRUE_VALUE cannot be converted to String')
    expect(refusalOf(all, { Flag: 'yes' }).message).toBe('STRING_VALUE cannot be converted to Boolean')
    expect(refusalOf(all, { Name: [] }).message).toBe('Start of list found where not expected')
    expect(refusalOf(all, { Name: {} }).message).toBe('Start of structure or map found where not expected')
    expect(refusalOf(all, { Bytes: '*' }).message).toBe('')
  })
})

test('whole numbers may come as fractions, and fractions are cut', () => {
  expect(readInput(all, { Count: 7.0 })).toEqual({ Count: 7 })
  expect(readInput(all, { Count: 7.9 })).toEqual({ Count: 7 })
})

test('a timestamp is seconds on the wire and milliseconds inside', () => {
  expect(readInput(all, { When: 1_767_225_600.5 })).toEqual({ When: 1_767_225_600_500 })
})

test('a pattern is held against the whole value, line ends included', () => {
  for (const value of ['a\n', '\na', 'a-', '-a']) expect(refusalOf(all, { Name: value }).code, value).toBe('ValidationException')
})

test('members that the shape does not name are ignored, whatever they hold', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (more) => {
      const unknown = Object.fromEntries(Object.entries(more).filter(([name]) => !Object.hasOwn(all, name)))
      expect(readInput(all, { ...unknown, Name: 'abc' })).toEqual({ Name: 'abc' })
    }),
  )
})

test('names like __proto__ and constructor are data in a map and harmless outside one', () => {
  const body = JSON.parse(
    '{"Map":{"__proto__":"p","constructor":"c","toString":"t"},"__proto__":{"Name":"abc"},"constructor":{"Name":"x"}}',
  ) as object
  const input = readInput(all, body as Record<string, unknown>)
  expect(Object.entries(input.Map ?? {})).toEqual([
    ['__proto__', 'p'],
    ['constructor', 'c'],
    ['toString', 't'],
  ])
  expect(input.Name).toBeUndefined()
  expect(Object.getPrototypeOf(input)).toBe(Object.prototype)
  expect(({} as { Name?: string }).Name).toBeUndefined()
  // A shape's member is found on the body itself, never on what the body inherits.
  expect(refusalOf({ toString: string() }, {}).message).toContain("Value null at 'toString'")
})

function outcome(body: Readonly<Record<string, unknown>>): string {
  try {
    readInput(all, body)
    return 'read'
  } catch (error) {
    return error instanceof KmsError ? error.code : String(error)
  }
}

test('whatever the body, the answer is a reading of it or one KmsError', () => {
  const guided = fc.record(
    Object.fromEntries(
      Object.keys(all).map((name) => [name, fc.oneof(fc.jsonValue(), fc.constantFrom('ONE', 'abc', 5, true, 'QUI=', ['a'], { a: 'b' }))]),
    ),
    { requiredKeys: [] },
  )
  fc.assert(
    fc.property(fc.oneof(guided, fc.dictionary(fc.string(), fc.jsonValue())), (body) => {
      expect(['read', 'ValidationException', 'SerializationException']).toContain(outcome(body))
    }),
    { numRuns: 2000 },
  )
})

test('base64 is read as it was written and nothing else passes', () => {
  const wide = { Bytes: blob({ min: 0, max: 1_000_000 }) }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      expect(readInput(wide, { Bytes: Buffer.from(bytes).toString('base64') }).Bytes.equals(bytes)).toBe(true)
    }),
  )
  const long = Buffer.alloc(700_001, 1)
  expect(readInput(wide, { Bytes: long.toString('base64') }).Bytes.equals(long)).toBe(true)
})
