import { randomBytes } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { PassThrough } from 'node:stream'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { openBulkPool } from '../../src/bulk/bulk-pool.ts'
import type { Keyring } from '../../src/bulk/keyring.ts'
import { decrypt, decryptStream, encrypt, encryptStream, readHeader } from '../../src/bulk/stream.ts'
import { signedSuite, suites, unsignedSuite } from '../../src/bulk/suites.ts'
import {
  bytes,
  drain,
  faultOf,
  headerOf,
  inChunks,
  keyring,
  olderSdk,
  sdk,
  sdkKeyring,
  sdkSuite,
  takeApart,
  withoutFrames,
} from './bulk-kit.ts'

const pool = openBulkPool({ threads: 2 })
afterAll(() => pool.close())
const both = [unsignedSuite, signedSuite]
const context = { app: 'db', größe: 'ü\u{1f511}', empty: '' }

/** What a run holds of frames of 4 KiB, so that sizes around it are in one run, in two, and in three. */
const run = 254 * 4096
const sizes = [0, 1, 4095, 4096, 4097, 3 * 4096, 50_000, run - 1, run, run + 1, 3 * run + 77]

describe.each(both)('$name', (suite) => {
  test.each(sizes)('what is written, %i bytes, the SDK reads, and what it writes is read', async (size) => {
    const plaintext = bytes(size)
    const ours = await encrypt(plaintext, { keyring, pool, suite, context, frameLength: 4096 })
    const read = await sdk.decrypt(sdkKeyring, ours)
    expect(read.plaintext.equals(plaintext)).toBe(true)
    expect(read.messageHeader.encryptionContext).toMatchObject(context)
    const theirs = await sdk.encrypt(sdkKeyring, plaintext, { suiteId: sdkSuite(suite.id), encryptionContext: context, frameLength: 4096 })
    const opened = await decrypt(theirs.result, { keyring, pool, context })
    expect(opened.plaintext.equals(plaintext)).toBe(true)
    expect(opened.header.suite).toBe(suite)
    expect(opened.header.context).toMatchObject(context)
  })

  test('a message fed and read byte by byte is the same', async () => {
    const plaintext = bytes(700)
    const options = { keyring, pool, suite, frameLength: 96 }
    const { out: message } = await drain(encryptStream(inChunks(plaintext, 1), options))
    const { out, error } = await drain(decryptStream(inChunks(message, 1), options))
    expect(error).toBeUndefined()
    expect(out.equals(plaintext)).toBe(true)
  })

  test('a message of no context, and frames of a byte each, is read by the SDK', async () => {
    const message = await encrypt(bytes(300), { keyring, pool, suite, frameLength: 1 })
    expect(Buffer.from((await sdk.decrypt(sdkKeyring, message)).plaintext).equals(bytes(300))).toBe(true)
    expect(message.length).toBe(headerOf(message).byteLength + 299 * 33 + 41 + takeApart(message).footer.length)
  })

  test('what is cut off anywhere ends with an error, and no byte came out that is not of the plaintext', async () => {
    const plaintext = bytes(100)
    const message = await encrypt(plaintext, { keyring, pool, suite, frameLength: 32 })
    for (let length = 0; length < message.length; length++) {
      const { out, error } = await drain(decryptStream([message.subarray(0, length)], { keyring, pool }))
      expect(faultOf(error), `cut at ${length}`).toBe('truncated')
      expect(plaintext.subarray(0, 96).subarray(0, out.length).equals(out)).toBe(true)
    }
  })

  test('a byte changed anywhere is an error, and no byte came out that is not of the plaintext', async () => {
    const plaintext = bytes(70)
    const message = await encrypt(plaintext, { keyring, pool, suite, frameLength: 32 })
    for (let at = 0; at < message.length; at++) {
      const changed = Buffer.from(message)
      changed[at] = (changed[at] ?? 0) ^ (1 << (at % 8))
      const { out, error } = await drain(decryptStream([changed], { keyring, pool }))
      expect(faultOf(error), `byte ${at}`).toBeOneOf(['malformed', 'truncated', 'trailing', 'unauthentic', 'limit', 'policy'])
      expect(plaintext.subarray(0, out.length).equals(out)).toBe(true)
    }
  })

  test('bytes that follow are an error, and the last frames do not come out', async () => {
    const message = await encrypt(bytes(100), { keyring, pool, suite, frameLength: 32 })
    for (const more of [[Buffer.of(0)], [message], [Buffer.alloc(0), Buffer.of(1)]]) {
      const { out, error } = await drain(decryptStream([message, ...more], { keyring, pool }))
      expect(faultOf(error)).toBe('trailing')
      expect(out.length).toBe(0)
    }
  })
})

describe('frames', () => {
  const options = { keyring, pool, frameLength: 32 }
  const message = encrypt(bytes(32 * 5 + 3), options)
  const other = encrypt(bytes(32 * 5 + 3), options)
  type Change = (frames: readonly Buffer[], others: readonly Buffer[]) => readonly (Buffer | undefined)[]
  test.each<[string, Change, string]>([
    ['in another order', ([a, b, c, ...rest]) => [a, c, b, ...rest], 'malformed'],
    ['twice', ([a, b, ...rest]) => [a, b, b, ...rest], 'malformed'],
    ['left out', ([a, , ...rest]) => [a, ...rest], 'malformed'],
    ['left out at the beginning', ([, ...rest]) => rest, 'malformed'],
    ['of another message', ([a, , ...rest], [, b]) => [a, b, ...rest], 'unauthentic'],
    ['of another message, all of them', (_, others) => others, 'unauthentic'],
    ['last of another message', (frames, others) => [...frames.slice(0, -1), others.at(-1)], 'unauthentic'],
    ['last missing', (frames) => frames.slice(0, -1), 'truncated'],
    ['last before others', (frames) => [frames[0], frames.at(-1), frames[1]], 'trailing'],
    ['last twice', (frames) => [...frames, frames.at(-1)], 'trailing'],
    ['none', () => [], 'truncated'],
  ])('%s are an error', async (_what, change, fault) => {
    const { head, frames } = takeApart(await message)
    const changed = change(frames, takeApart(await other).frames).filter((frame) => frame !== undefined)
    const { error } = await drain(decryptStream([head, ...changed], options))
    expect(faultOf(error)).toBe(fault)
  })

  test('after the last are trailing bytes, also when the last says that it is the first', async () => {
    const { head, frames } = takeApart(await message)
    const early = Buffer.from(frames.at(-1) ?? '')
    early.writeUInt32BE(1, 4)
    expect(faultOf((await drain(decryptStream([head, early], options))).error)).toBe('unauthentic')
  })

  test('whose last claims more than a frame are an error before it is there', async () => {
    const { head, frames } = takeApart(await message)
    const huge = Buffer.from(frames.at(-1)?.subarray(0, 24) ?? '')
    huge.writeUInt32BE(0xffffffff, 20)
    const { error } = await drain(decryptStream([head, ...frames.slice(0, -1), huge], options))
    expect(String(error)).toMatch(/the last frame claims 4294967295 bytes; frames have 32/)
  })
})

test('any bytes, in any chunks, under any context and frame length, come back', async () => {
  const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 }).filter((name) => !name.startsWith('aws-crypto-'))
  await fc.assert(
    fc.asyncProperty(
      fc.uint8Array({ maxLength: 5000 }),
      fc.record({ context: fc.dictionary(text, text, { maxKeys: 4 }), frameLength: fc.integer({ min: 1, max: 3000 }), lend: fc.boolean() }),
      fc.integer({ min: 1, max: 1500 }),
      fc.integer({ min: 1, max: 1500 }),
      async (plaintext, options, written, read) => {
        const all = { ...options, context: { ...options.context }, keyring, pool }
        const message = (await drain(encryptStream(inChunks(plaintext, written), all))).out
        const { out, error } = await drain(decryptStream(inChunks(message, read), all))
        expect(error).toBeUndefined()
        expect(out.equals(plaintext)).toBe(true)
      },
    ),
    { numRuns: 60 },
  )
})

test('bytes at once are in memory of their own, whatever a stream may lend', async () => {
  const plaintext = bytes(9_000_000)
  const options = { keyring, pool, lend: true }
  const message = await encrypt(plaintext, options)
  expect((await decrypt(message, options)).plaintext.equals(plaintext)).toBe(true)
})

test('a long frame is read and written in one piece, beside many at once', async () => {
  const plaintext = bytes(5_000_001)
  const frameLength = 2 ** 21
  const message = await encrypt(plaintext, { keyring, pool, frameLength })
  expect(Buffer.from((await sdk.decrypt(sdkKeyring, message)).plaintext).equals(plaintext)).toBe(true)
  expect((await decrypt(message, { keyring, pool })).plaintext.equals(plaintext)).toBe(true)
  expect(faultOf((await drain(decryptStream([message], { keyring, pool, limits: { maxFrameLength: frameLength - 1 } }))).error)).toBe(
    'limit',
  )
})

describe('the older suites', () => {
  const older = [...suites.values()].filter(({ commits }) => !commits)
  const allowed = { commitmentPolicy: 'REQUIRE_ENCRYPT_ALLOW_DECRYPT' } as const

  test.each(older)('$name of the SDK is read where it is allowed, and refused unless it is', async ({ id }) => {
    for (const size of [0, 1, 128, 300]) {
      const plaintext = bytes(size)
      const { result } = await olderSdk.encrypt(sdkKeyring, plaintext, {
        suiteId: sdkSuite(id),
        encryptionContext: context,
        frameLength: 128,
      })
      const never = { ...keyring, decrypting: () => Promise.reject(new Error('no key is asked for')) }
      expect(faultOf((await drain(decryptStream([result], { keyring: never, pool }))).error)).toBe('policy')
      expect((await decrypt(result, { keyring, pool, context, ...allowed })).plaintext.equals(plaintext)).toBe(true)
      const changed = Buffer.from(result)
      changed.writeUInt8(changed.readUInt8(result.length - 5) ^ 1, result.length - 5)
      expect(faultOf((await drain(decryptStream([changed], { keyring, pool, ...allowed }))).error)).toBe('unauthentic')
    }
  })

  const plain = suites.get(0x0078) ?? unsignedSuite

  test.each([0, 1, 70_000, 3_000_000])('a body without frames, %i bytes, is read as the SDK reads it', async (size) => {
    const plaintext = bytes(size)
    const message = await withoutFrames(plain, plaintext)
    expect(Buffer.from((await olderSdk.decrypt(sdkKeyring, message)).plaintext).equals(plaintext)).toBe(true)
    const { out, error } = await drain(decryptStream(inChunks(message, 10_000), { keyring, pool, ...allowed }))
    expect(error).toBeUndefined()
    expect(out.equals(plaintext)).toBe(true)
  })

  test('a body without frames is held against its tag, its end and the limit', async () => {
    const message = await withoutFrames(plain, bytes(50))
    const faults: unknown[] = []
    const begin = headerOf(message).byteLength
    for (let at = begin; at < message.length; at++) {
      const changed = Buffer.from(message)
      changed.writeUInt8(changed.readUInt8(at) ^ 0x80, at)
      const { out, error } = await drain(decryptStream([changed], { keyring, pool, ...allowed }))
      expect(out.length).toBe(0)
      faults.push(faultOf(error))
      expect(faultOf((await drain(decryptStream([message.subarray(0, at)], { keyring, pool, ...allowed }))).error)).toBe('truncated')
    }
    expect(new Set(faults)).toEqual(new Set(['unauthentic', 'limit', 'truncated']))
    expect(faultOf((await drain(decryptStream([message, Buffer.of(0)], { keyring, pool, ...allowed }))).error)).toBe('trailing')
  })
})

describe('the encryption context', () => {
  const pairs = { app: 'db', tenant: 'seven', zone: 'b' }
  const secret = { tenant: 'seven' }

  test('pairs that are kept out are not in the message, and must be known to read it', async () => {
    const message = await encrypt(bytes(10), { keyring, pool, context: pairs, keptOut: ['tenant'] })
    expect(message.includes('seven')).toBe(false)
    const { plaintext, header } = await decrypt(message, { keyring, pool, context: secret })
    expect(plaintext.equals(bytes(10))).toBe(true)
    expect({ ...header.context }).toEqual({ app: 'db', zone: 'b' })
    for (const context of [undefined, {}, { tenant: 'eight' }, { ...secret, more: '1' }])
      expect(faultOf((await drain(decryptStream([message], { keyring, pool, ...(context && { context }) }))).error)).toBe('unauthentic')
  })

  test('what the header is authenticated with is the whole of it, whatever the data key is bound to', async () => {
    const kept = Buffer.alloc(32, 5)
    const careless: Keyring = {
      encrypting: async () => ({
        dataKey: Buffer.from(kept),
        encryptedDataKeys: [{ providerId: 'p', providerInfo: Buffer.alloc(0), ciphertext: Buffer.of(1) }],
      }),
      decrypting: async () => ({ dataKey: Buffer.from(kept) }),
    }
    const message = await encrypt(bytes(10), { keyring: careless, pool, context: pairs, keptOut: ['tenant'] })
    expect((await decrypt(message, { keyring: careless, pool, context: secret })).plaintext.length).toBe(10)
    for (const context of [{}, { tenant: 'eight' }, { ...secret, more: '1' }])
      expect(String((await drain(decryptStream([message], { keyring: careless, pool, context }))).error)).toMatch(/header is not authentic/)
  })

  test('another value than the message has is an error before any key is asked for', async () => {
    const message = await encrypt(bytes(10), { keyring, pool, context: pairs })
    const never = { ...keyring, decrypting: () => Promise.reject(new Error('no key is asked for')) }
    const { error } = await drain(decryptStream([message], { keyring: never, pool, context: { zone: 'c' } }))
    expect(String(error)).toMatch(/another value of "zone"/)
    expect((await decrypt(message, { keyring, pool, context: { zone: 'b' } })).plaintext.length).toBe(10)
  })

  test('a name that prototypes have is a name', async () => {
    const context = JSON.parse('{"__proto__":"a","constructor":"b","toString":"c"}') as Record<string, string>
    const message = await encrypt(bytes(10), { keyring, pool, context })
    const { header } = await decrypt(message, { keyring, pool })
    expect(new Map(Object.entries(header.context))).toEqual(new Map(Object.entries(context)))
    expect(
      Buffer.from((await sdk.decrypt(sdkKeyring, await encrypt(bytes(10), { keyring, pool, context: { constructor: 'b' } }))).plaintext)
        .length,
    ).toBe(10)
  })

  test.each<[string, object, RegExp]>([
    ['a reserved name', { context: { 'aws-crypto-public-key': 'x' } }, /reserved/],
    ['a pair to keep out that is not there', { context: { a: 'b' }, keptOut: ['c'] }, /"c" is to be kept out/],
    ['frames of nothing', { frameLength: 0 }, /frame length of 0/],
    ['frames too long', { frameLength: 2 ** 32 }, /4294967296/],
    ['frames of half bytes', { frameLength: 1.5 }, /1\.5/],
    ['an older suite', { suite: suites.get(0x0178) }, /only read/],
  ])('%s is refused at once', (_what, options, message) => {
    expect(() => encryptStream([], { keyring, pool, ...options })).toThrow(message)
  })
})

describe('a data key', () => {
  test('that the message does not commit to is an error, though all else would fit', async () => {
    const message = await encrypt(bytes(10), { keyring, pool })
    const other = { ...keyring, decrypting: async () => ({ dataKey: randomBytes(32) }) }
    expect(String((await drain(decryptStream([message], { keyring: other, pool }))).error)).toMatch(/commits to another data key/)
  })

  test('of the wrong length is refused', async () => {
    const short = {
      ...keyring,
      encrypting: async () => ({ ...(await keyring.encrypting({ suite: unsignedSuite, context: {} })), dataKey: randomBytes(16) }),
    }
    await expect(encrypt(bytes(10), { keyring: short, pool })).rejects.toThrow('the data key has 16 bytes')
  })

  test('that cannot be had is the error of the stream and of its header, and the source is closed', async () => {
    const broken = { ...keyring, encrypting: () => Promise.reject(new Error('no such key')) }
    let closed = false
    const source = (function* () {
      try {
        yield bytes(10)
      } finally {
        closed = true
      }
    })()
    source.next()
    const stream = encryptStream(source, { keyring: broken, pool })
    await expect(stream.header).rejects.toThrow('no such key')
    expect(String((await drain(stream)).error)).toMatch('no such key')
    expect(closed).toBe(true)
  })
})

describe('a signature', () => {
  const big = bytes(3 * run)
  const message = encrypt(big, { keyring, pool, suite: signedSuite, frameLength: 4096 })

  test('that is wrong is an error at the end: the last frames do not come out', async () => {
    const forged = Buffer.from(await message)
    forged.writeUInt8(forged.readUInt8(forged.length - 1) ^ 1, forged.length - 1)
    const { out, error } = await drain(decryptStream([forged], { keyring, pool }))
    expect(String(error)).toMatch(/signature is wrong/)
    expect(out.length).toBeLessThan(big.length)
    expect(big.subarray(0, out.length).equals(out)).toBe(true)
  })

  test('that is to be waited for lets nothing out before it is verified', async () => {
    const forged = Buffer.from(await message)
    forged.writeUInt8(forged.readUInt8(forged.length - 1) ^ 1, forged.length - 1)
    const holdBytes = big.length
    const wrong = await drain(decryptStream([forged], { keyring, pool, holdBytes }))
    expect([faultOf(wrong.error), wrong.out.length]).toEqual(['unauthentic', 0])
    const right = await drain(decryptStream([await message], { keyring, pool, holdBytes, lend: true }))
    expect(right.out.equals(big)).toBe(true)
    const long = await drain(decryptStream([await message], { keyring, pool, holdBytes: holdBytes - 1 }))
    expect([faultOf(long.error), long.out.length]).toEqual(['limit', 0])
  })

  test('of another message is an error', async () => {
    const { head, frames } = takeApart(await encrypt(bytes(50), { keyring, pool, suite: signedSuite }))
    const { footer } = takeApart(await encrypt(bytes(50), { keyring, pool, suite: signedSuite }))
    const { out, error } = await drain(decryptStream([head, ...frames, footer], { keyring, pool }))
    expect([faultOf(error), out.length]).toEqual(['unauthentic', 0])
  })
})

describe('a source', () => {
  test('that fails is the error of the stream', async () => {
    async function* failing() {
      yield bytes(100)
      throw new Error('the disk is gone')
    }
    expect(String((await drain(encryptStream(failing(), { keyring, pool }))).error)).toMatch('the disk is gone')
    expect(String((await drain(decryptStream(failing(), { keyring, pool }))).error)).toMatch(/no message|the disk is gone/)
  })

  describe.each(both)('that pauses, $name', (suite) => {
    const frameLength = 1000
    const plaintext = bytes(3 * frameLength + 1)
    /** All but the last bytes, then nothing more before it is told to go on. */
    function pausing(whole: Buffer, held: number) {
      const gate = new EventEmitter()
      const told = once(gate, 'open')
      async function* source() {
        yield whole.subarray(0, whole.length - held)
        await told
        yield whole.subarray(whole.length - held)
      }
      return { source: source(), goOn: () => gate.emit('open') }
    }
    /** So many bytes, in however many pieces. */
    async function take(stream: AsyncIterator<Buffer>, length: number): Promise<Buffer> {
      const pieces: Buffer[] = []
      for (let taken = 0; taken < length; taken += pieces.at(-1)?.length ?? 0) pieces.push((await stream.next()).value)
      return Buffer.concat(pieces)
    }

    test('does not keep back frames that are whole, sealing', async () => {
      const { source, goOn } = pausing(plaintext, 1)
      const stream = encryptStream(source, { keyring, pool, suite, frameLength })
      const head = Buffer.from((await stream.next()).value ?? '')
      // The third might be the message's last, for all that is known.
      const frames = await take(stream, 2 * (frameLength + 32))
      goOn()
      const { out, error } = await drain(stream)
      expect(error).toBeUndefined()
      const message = Buffer.concat([head, frames, out])
      expect(takeApart(message).frames.map(({ length }) => length)).toEqual([1032, 1032, 1032, 41])
      expect((await decrypt(message, { keyring, pool })).plaintext.equals(plaintext)).toBe(true)
    })

    test('does not keep back frames that are whole, opening', async () => {
      const message = await encrypt(plaintext, { keyring, pool, suite, frameLength })
      const { frames, footer } = takeApart(message)
      const { source, goOn } = pausing(message, 1000 + (frames.at(-1)?.length ?? 0) + footer.length)
      const stream = decryptStream(source, { keyring, pool })
      const begin = await take(stream, 2 * frameLength)
      goOn()
      const { out, error } = await drain(stream)
      expect(error).toBeUndefined()
      expect(Buffer.concat([begin, out]).equals(plaintext)).toBe(true)
    })

    test('is closed when its reader leaves meanwhile', async () => {
      const source = new PassThrough()
      source.write(plaintext.subarray(0, 2500))
      const stream = encryptStream(source, { keyring, pool, suite, frameLength })
      await stream.next()
      await take(stream, 2 * (frameLength + 32))
      await stream.return?.()
      expect(source.destroyed).toBe(true)
    })
  })

  test('of text is refused, not encoded', async () => {
    const source = ['text'] as unknown as Iterable<Uint8Array>
    expect(String((await drain(encryptStream(source, { keyring, pool }))).error)).toMatch(/gives a string, not chunks of bytes/)
  })

  test('whose header alone is asked for is read no further, and closed', async () => {
    const message = await encrypt(bytes(100_000), { keyring, pool, context })
    const source = inChunks(message, 100)
    const { header } = await readHeader(source)
    expect(header.context).toMatchObject(context)
    expect(source.next().done).toBe(true)
    expect(
      faultOf(
        (
          await drain(
            (async function* () {
              yield (await readHeader([message.subarray(0, 50)])).body
            })(),
          )
        ).error,
      ),
    ).toBe('truncated')
  })
})
