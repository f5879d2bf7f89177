import fc from 'fast-check'
import { describe, expect, test, vi } from 'vitest'
import { encodeHeaderBody, encodePairs, headerParser, MessageError, parseHeader, type MessageHeader } from '../../src/bulk/message.ts'
import { readHeader } from '../../src/bulk/stream.ts'
import { suites, unsignedSuite, type Suite } from '../../src/bulk/suites.ts'

const limits = { maxEncryptedDataKeys: 64 }
const text = fc.string({ unit: 'grapheme', maxLength: 20 })
const blob = (length?: number) =>
  fc.uint8Array(length === undefined ? { maxLength: 300 } : { minLength: length, maxLength: length }).map((b) => Buffer.from(b))
const anyHeader: fc.Arbitrary<MessageHeader> = fc.constantFrom<Suite>(...suites.values()).chain((suite) =>
  fc.record({
    suite: fc.constant(suite),
    messageId: blob(suite.messageIdBytes),
    context: fc.dictionary(text, text, { maxKeys: 8, noNullPrototype: false }),
    encryptedDataKeys: fc.array(fc.record({ providerId: text, providerInfo: blob(), ciphertext: blob() }), { minLength: 1, maxLength: 5 }),
    frameLength: fc.integer({ min: suite.version === 1 ? 0 : 1, max: 2 ** 32 - 1 }),
    commitment: suite.commits ? blob(32) : fc.constant(undefined),
  }),
)
const write = (header: MessageHeader): Buffer =>
  Buffer.concat([encodeHeaderBody(header), Buffer.alloc(header.suite.version === 1 ? 12 : 0, 7), Buffer.alloc(16, 9)])
/** Undefined when there is none; what is no MessageError is thrown. */
function faultOf(bytes: Buffer): string | undefined {
  try {
    parseHeader(bytes, limits)
    return undefined
  } catch (error) {
    if (error instanceof MessageError) return error.fault
    throw error
  }
}
const plain = (header: MessageHeader): unknown => ({ ...header, context: { ...header.context } })

/** Header bytes with one thing changed. */
const example: MessageHeader = {
  suite: unsignedSuite,
  messageId: Buffer.alloc(32, 1),
  context: { app: 'db', apq: 'ab' },
  encryptedDataKeys: [{ providerId: 'aws-kms', providerInfo: Buffer.from('arn'), ciphertext: Buffer.from('key') }],
  frameLength: 4096,
  commitment: Buffer.alloc(32, 2),
}

describe('a header', () => {
  test('that was written is read as it was, whatever follows it', () => {
    fc.assert(
      fc.property(anyHeader, blob(), (header, rest) => {
        const bytes = write(header)
        const read = parseHeader(Buffer.concat([bytes, rest]), limits)
        if ('needs' in read) throw new Error('it is all there')
        expect(plain(read.header)).toEqual(plain(header))
        expect(read.byteLength).toBe(bytes.length)
        expect(read.body).toEqual(encodeHeaderBody(header))
        expect(read.tag).toEqual(Buffer.alloc(16, 9))
      }),
    )
  })

  test('asks for more bytes as long as it is not all there, never for more than it has', () => {
    fc.assert(
      fc.property(anyHeader, (header) => {
        const bytes = write(header)
        for (let length = 0; length < bytes.length;) {
          const read = parseHeader(bytes.subarray(0, length), limits)
          if (!('needs' in read)) throw new Error(`it was read from ${length} of ${bytes.length} bytes`)
          expect(read.needs).toBeGreaterThan(length)
          expect(read.needs).toBeLessThanOrEqual(bytes.length)
          length = read.needs
        }
      }),
      { numRuns: 50 },
    )
  })

  test('of any bytes is read, needs more, or is a MessageError', () => {
    fc.assert(
      fc.property(anyHeader, fc.nat(), fc.integer({ min: 0, max: 255 }), (header, where, byte) => {
        const bytes = write(header)
        bytes[where % bytes.length] = byte
        expect(faultOf(bytes)).toBeOneOf([undefined, 'malformed', 'limit'])
      }),
    )
  })

  test('has its pairs sorted by the bytes of their names, which is not the order of UTF-16', () => {
    const [after, before] = ['\u{10000}', '\uffff']
    expect(after < before).toBe(true)
    const pairs = encodePairs({ [after]: '1', [before]: '2', a: '3' })
    expect(pairs.toString('hex')).toBe(['0003', '000161', '000133', '0003efbfbf', '000132', '0004f0908080', '000131'].join(''))
  })

  test.each<[string, (bytes: Buffer) => Buffer, RegExp]>([
    ['another version', (b) => (b.writeUInt8(3, 0), b), /no message/],
    ['base64', (b) => Buffer.from(b.toString('base64')), /base64/],
    ['an unknown suite', (b) => (b.writeUInt16BE(0x0479, 1), b), /0x0479/],
    ['a suite of version 1', (b) => (b.writeUInt16BE(0x0178, 1), b), /0x0178/],
    ['no data key', (b) => (b.writeUInt16BE(0, 57), b), /no encrypted data key/],
    ['a context of fewer pairs', (b) => (b.writeUInt16BE(1, 37), b), /shorter than its length/],
    ['a context of more pairs', (b) => (b.writeUInt16BE(3, 37), b), /longer than its length/],
    ['a name twice', (b) => (b.write('app', 50), b), /twice/],
    ['a text that is not UTF-8', (b) => (b.writeUInt8(0xff, 41), b), /UTF-8/],
    ['another content type', (b) => (b.writeUInt8(1, b.length - 53), b), /content type/],
    ['a frame length of 0', (b) => (b.writeUInt32BE(0, b.length - 52), b), /frame length of 0/],
  ])('with %s is damaged', (_what, change, message) => {
    expect(() => parseHeader(change(write(example)), limits)).toThrow(message)
  })

  test('that claims more data keys than are allowed is refused by its count alone', () => {
    const bytes = write(example).subarray(0, 59)
    bytes.writeUInt16BE(0xffff, 57)
    expect(() => parseHeader(bytes, limits)).toThrow(/65535 encrypted data keys; 64 are allowed/)
  })

  test('that claims a megabyte is refused before it is there', () => {
    const encryptedDataKeys = Array.from({ length: 30 }, () => ({
      providerId: 'p',
      providerInfo: Buffer.alloc(0xffff),
      ciphertext: Buffer.alloc(1),
    }))
    const bytes = write({ ...example, encryptedDataKeys })
    expect(() => parseHeader(bytes.subarray(0, 2 ** 20), limits)).toThrow(/more than 1048576 bytes/)
  })

  test('is the same in whatever pieces it came, none of which must be kept', () => {
    fc.assert(
      fc.property(anyHeader, fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }), (header, steps) => {
        const bytes = write(header)
        const parse = headerParser(limits)
        let read = parse(Buffer.alloc(0))
        for (let length = 0, step = 0; 'needs' in read; step++) {
          length += steps[step % steps.length] ?? 1
          const given = Buffer.from(bytes.subarray(0, length))
          read = parse(given)
          if ('needs' in read) given.fill(0xee)
        }
        expect(plain(read.header)).toEqual(plain(header))
        expect(read.byteLength).toBe(bytes.length)
      }),
    )
  })

  test('is gone through once, in however many pieces it comes', async () => {
    const context = Object.fromEntries(Array.from({ length: 500 }, (_, n) => [`name ${n}`, `value ${n}`]))
    const [key] = example.encryptedDataKeys
    if (!key) throw new Error('the example has a data key')
    const bytes = write({ ...example, context, encryptedDataKeys: Array.from({ length: 64 }, () => key) })
    const decode = vi.spyOn(TextDecoder.prototype, 'decode')
    try {
      const pieces = Array.from({ length: Math.ceil(bytes.length / 10) }, (_, n) => bytes.subarray(10 * n, 10 * (n + 1)))
      const { header } = await readHeader(pieces)
      expect(header.encryptedDataKeys.length).toBe(64)
      expect(decode).toHaveBeenCalledTimes(2 * 500 + 64)
    } finally {
      decode.mockRestore()
    }
  })

  test('of as many data keys as it can say is read at once where that is allowed', async () => {
    const none = { providerId: '', providerInfo: Buffer.alloc(0), ciphertext: Buffer.alloc(0) }
    const bytes = write({ ...example, encryptedDataKeys: Array.from({ length: 65_535 }, () => none) })
    const { header } = await readHeader([bytes], { maxEncryptedDataKeys: 65_535 })
    expect(header.encryptedDataKeys.length).toBe(65_535)
  })

  test.each<[string, Partial<MessageHeader>, RegExp]>([
    ['too large a context', { context: { a: 'x'.repeat(40_000), b: 'y'.repeat(40_000) } }, /bytes of the encryption context/],
    ['too long a value', { context: { a: 'x'.repeat(70_000) } }, /bytes of a value/],
    ['half a surrogate pair', { context: { a: '\ud800' } }, /surrogate/],
    [
      'too long a data key',
      { encryptedDataKeys: [{ providerId: 'p', providerInfo: Buffer.alloc(0), ciphertext: Buffer.alloc(70_000) }] },
      /data key/,
    ],
  ])('cannot be written with %s', (_what, change, message) => {
    expect(() => encodeHeaderBody({ ...example, ...change })).toThrow(message)
  })
})
