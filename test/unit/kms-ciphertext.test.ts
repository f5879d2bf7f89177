/** The ciphertext blob as a format: what is made reads back, what was changed is refused, and no context looks like another. */

import { createHash } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { wrapSchemes, type WrapScheme } from '../../src/hsm/token.ts'
import {
  additionalData,
  encodeContext,
  encodeHeader,
  encodeOuter,
  headerBytes,
  parseCiphertext,
  parseOuter,
} from '../../src/kms/ciphertext.ts'

const hex = (characters: number) =>
  fc.string({ unit: fc.constantFrom(...'0123456789abcdef'.split('')), minLength: characters, maxLength: characters })
const scheme = fc.constantFrom(...(Object.keys(wrapSchemes) as WrapScheme[]))
const keyId = fc.oneof(
  fc.uuid(),
  hex(32).map((id) => `mrk-${id}`),
)
const header = fc.record({ scheme, keyId, materialId: hex(64), doubly: fc.boolean() })
const body = fc.uint8Array({ minLength: 1, maxLength: 300 }).map((bytes) => Buffer.from(bytes))
/** Text as a request may bring it: any well-formed Unicode, often the same few names so that contexts overlap. */
const text = fc.oneof(fc.constantFrom('', 'a', 'b', 'ab', 'A', '__proto__', 'ä', '\u{1f511}'), fc.string({ unit: 'binary', maxLength: 12 }))
const context = fc.dictionary(text, text, { maxKeys: 5, noNullPrototype: false })

const some = Buffer.alloc(headerBytes, 7)

describe('the header', () => {
  test('reads back what it was made from, with the body behind it', () => {
    fc.assert(
      fc.property(header, body, (given, bytes) => {
        const made = encodeHeader(given)
        expect(made).toHaveLength(headerBytes)
        expect(parseCiphertext(Buffer.concat([made, bytes]))).toEqual({ ...given, header: made, body: bytes })
      }),
    )
  })

  test('is these very bytes for ever', () => {
    const made = encodeHeader({
      scheme: 'gcm-iv-in',
      keyId: '1234abcd-12ab-34cd-56ef-1234567890ab',
      materialId: '00112233445566778899aabbccddeeff'.repeat(2),
      doubly: false,
    })
    expect(made.toString('hex')).toBe(
      '480101001234abcd12ab34cd56ef1234567890ab' + '00112233445566778899aabbccddeeff'.repeat(2) + '0b8482b779b41ea4',
    )
  })

  test('is refused when any one of its bits is another', () => {
    fc.assert(
      fc.property(header, (given) => {
        const blob = Buffer.concat([encodeHeader(given), Buffer.from('body')])
        for (let bit = 0; bit < headerBytes * 8; bit++) {
          const changed = Buffer.from(blob)
          changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
          expect(parseCiphertext(changed), `bit ${bit}`).toBeUndefined()
        }
      }),
      { numRuns: 20 },
    )
  })

  test('alone, or cut anywhere, is refused', () => {
    fc.assert(
      fc.property(header, fc.nat({ max: headerBytes }), (given, length) => {
        expect(parseCiphertext(encodeHeader(given).subarray(0, length))).toBeUndefined()
      }),
    )
  })

  test('is refused for a scheme or a kind of key id that no version had, even with a fitting checksum', () => {
    const known = new Set<number>(Object.values(wrapSchemes))
    for (const [at, refused] of [
      [2, (value: number) => !known.has(value)],
      [3, (value: number) => value > 1],
    ] as const) {
      for (let value = 0; value < 256; value++) {
        const blob = resealed(at, value)
        expect(parseCiphertext(blob) === undefined, `byte ${at} = ${value}`).toBe(refused(value))
      }
    }
  })

  test('cannot be made for ids of another length', () => {
    for (const id of ['', 'mrk-12', '1234abcd', '1234abcd-12ab-34cd-56ef-1234567890zz']) {
      expect(() => encodeHeader({ scheme: 'gcm-iv-in', keyId: id, materialId: '0'.repeat(64), doubly: false }), id).toThrow(RangeError)
    }
    expect(() => encodeHeader({ scheme: 'gcm-iv-in', keyId: 'mrk-' + '0'.repeat(32), materialId: '00', doubly: false })).toThrow(RangeError)
  })

  test('never makes the parser throw, whatever the bytes', () => {
    const anything = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      // Close to the real thing, so that every check is reached.
      fc
        .tuple(fc.constantFrom(0x48, 0x47), fc.constantFrom(1, 2), fc.uint8Array({ minLength: 50, maxLength: 120 }))
        .map(([a, b, rest]) => Uint8Array.from([a, b, ...rest])),
    )
    fc.assert(
      fc.property(anything, (bytes) => {
        const parsed = parseCiphertext(Buffer.from(bytes))
        expect(parsed === undefined || parsed.body.length > 0).toBe(true)
      }),
      { numRuns: 1000 },
    )
  })
})

describe('the body of a blob that was encrypted twice', () => {
  const bytes = (minLength: number, maxLength = minLength) => fc.uint8Array({ minLength, maxLength }).map((given) => Buffer.from(given))
  const outer = fc.record({
    ciphertextMetadata: bytes(0, 20),
    initializationVector: fc.oneof(bytes(12), bytes(16)),
    authenticationTag: bytes(16),
    ciphertext: bytes(1, 200),
  })

  test('reads back what it was made from', () => {
    fc.assert(
      fc.property(outer, (given) => {
        expect(parseOuter(encodeOuter(given))).toEqual(given)
      }),
    )
  })

  test('is these very bytes for ever', () => {
    const made = encodeOuter({
      ciphertextMetadata: Buffer.from('aabb', 'hex'),
      initializationVector: Buffer.alloc(12, 1),
      authenticationTag: Buffer.alloc(16, 2),
      ciphertext: Buffer.from('cc', 'hex'),
    })
    expect(made.toString('hex')).toBe(`02aabb0c${'01'.repeat(12)}${'02'.repeat(16)}cc`)
  })

  test('is refused when it is cut, or has a length that the protocol does not have', () => {
    fc.assert(
      fc.property(outer, (given) => {
        const made = encodeOuter(given)
        const ciphertextAt = made.length - given.ciphertext.length
        for (let length = 0; length <= ciphertextAt; length++) expect(parseOuter(made.subarray(0, length)), `${length}`).toBeUndefined()
      }),
      { numRuns: 50 },
    )
    const long = {
      ciphertextMetadata: Buffer.alloc(21),
      initializationVector: Buffer.alloc(12),
      authenticationTag: Buffer.alloc(16),
      ciphertext: Buffer.alloc(9),
    }
    expect(parseOuter(encodeOuter(long))).toBeUndefined()
    for (const length of [0, 11, 13, 15, 17]) {
      expect(
        parseOuter(encodeOuter({ ...long, ciphertextMetadata: Buffer.alloc(0), initializationVector: Buffer.alloc(length) })),
      ).toBeUndefined()
    }
  })

  test('never makes the parser throw, whatever the bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 120 }), (given) => {
        const parsed = parseOuter(Buffer.from(given))
        expect(parsed === undefined || parsed.ciphertext.length > 0).toBe(true)
      }),
      { numRuns: 1000 },
    )
  })
})

describe('the encryption context by itself', () => {
  test('is what the additional data has behind the header', () => {
    fc.assert(
      fc.property(context, (given) => {
        expect(Buffer.concat([some, encodeContext(given)])).toEqual(additionalData(some, given))
      }),
    )
  })
})

describe('the additional data', () => {
  test('differs for different contexts', () => {
    fc.assert(
      fc.property(context, context, (a, b) => {
        const same = isDeepStrictEqual({ ...a }, { ...b })
        expect(additionalData(some, a).equals(additionalData(some, b))).toBe(same)
      }),
      { numRuns: 5000 },
    )
  })

  test('says exactly which context it was made from', () => {
    fc.assert(
      fc.property(context, (given) => {
        expect(readBack(additionalData(some, given))).toEqual(
          Object.entries(given).sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b))),
        )
      }),
    )
  })

  test('is the same in whatever order the pairs come', () => {
    fc.assert(
      fc.property(context, fc.infiniteStream(fc.nat()), (given, order) => {
        const shuffled = Object.fromEntries(
          Object.entries(given)
            .map((pair) => [order.next().value ?? 0, pair] as const)
            .sort(([a], [b]) => a - b)
            .map(([, pair]) => pair),
        )
        expect(additionalData(some, shuffled)).toEqual(additionalData(some, given))
      }),
    )
  })

  test('is the header alone without a context and with an empty one', () => {
    expect(additionalData(some, undefined)).toEqual(some)
    expect(additionalData(some, {})).toEqual(some)
  })

  test('orders names by their bytes, not by UTF-16 units', () => {
    // U+FF61 is one unit above the surrogates and three bytes below the four of U+1F511.
    const names = readBack(additionalData(some, { '\u{1f511}': '', '\uff61': '' })).map(([name]) => name)
    expect(names).toEqual(['\uff61', '\u{1f511}'])
  })
})

/** A whole blob with one byte of the header set and the checksum made to fit, as anybody could. */
function resealed(at: number, value: number): Buffer {
  const blob = Buffer.concat([
    encodeHeader({ scheme: 'gcm-iv-in', keyId: 'mrk-' + 'a'.repeat(32), materialId: 'b'.repeat(64), doubly: false }),
    Buffer.from('body'),
  ])
  blob[at] = value
  createHash('sha256').update(blob.subarray(0, 52)).digest().copy(blob, 52, 0, 8)
  return blob
}

/** The reader that the page on the format describes. */
function readBack(data: Buffer): [string, string][] {
  const pairs: [string, string][] = []
  let at = headerBytes
  const next = (): string => {
    const length = data.readUInt32BE(at)
    at += 4 + length
    return data.toString('utf8', at - length, at)
  }
  while (at < data.length) pairs.push([next(), next()])
  return pairs
}
