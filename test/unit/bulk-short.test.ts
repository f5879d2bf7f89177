import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { openBulkPool } from '../../src/bulk/bulk-pool.ts'
import type { Keyring } from '../../src/bulk/keyring.ts'
import { decrypt, decryptStream, encrypt, encryptStream, type DecryptOptions } from '../../src/bulk/stream.ts'
import { signedSuite, unsignedSuite } from '../../src/bulk/suites.ts'
import { bytes, drain, headerOf, inChunks, keyring, olderSdk, sdk, sdkKeyring, sdkSuite, takeApart } from './bulk-kit.ts'

const pool = openBulkPool({ threads: 1 })
afterAll(() => pool.close())
const context = { app: 'db', größe: 'ü\u{1f511}', empty: '' }

/** What becomes of a message that is there, and of the same one as it passes: one of them when they are alike. */
async function bothWays(message: Uint8Array, options: DecryptOptions) {
  const there = await decrypt(message, options).then(
    ({ plaintext }) => ({ plaintext: Buffer.from(plaintext), error: undefined }),
    (error: unknown) => ({ plaintext: undefined, error }),
  )
  const { out, error } = await drain(decryptStream([message], options))
  expect(there).toEqual({ plaintext: error === undefined ? out : undefined, error })
  return there
}

/** Around what is done where it is called: no byte, one frame, eight frames and nine, 16 KiB with and without what a message adds. */
const sizes = [
  [0, 65_536],
  [1, 1],
  [8, 1],
  [9, 1],
  [1024, 65_536],
  [1024, 1024],
  [8 * 700, 700],
  [8 * 700 + 1, 700],
  [16_000, 65_536],
  [16_384, 65_536],
  [16_385, 65_536],
] as const

test.each(sizes)(
  '%i bytes in frames of %i are the same message whether they are there or pass, and the SDK reads it',
  async (size, frameLength) => {
    const plaintext = bytes(size)
    const options = { keyring, pool, context, frameLength }
    for (const message of [await encrypt(plaintext, options), (await drain(encryptStream(inChunks(plaintext, 1000), options))).out]) {
      expect((await bothWays(message, { keyring, pool, context })).plaintext?.equals(plaintext)).toBe(true)
      expect(Buffer.from((await sdk.decrypt(sdkKeyring, message)).plaintext).equals(plaintext)).toBe(true)
      expect(takeApart(message).frames.length).toBe(Math.max(1, Math.ceil(size / frameLength)))
    }
  },
)

test('any short message of any making is opened alike, there or as it passes', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.uint8Array({ maxLength: 300 }),
      fc.record({ frameLength: fc.integer({ min: 1, max: 120 }), suite: fc.constantFrom(unsignedSuite, signedSuite) }),
      fc.dictionary(fc.constantFrom('a', 'b', '__proto__', 'constructor'), fc.string({ unit: 'grapheme', maxLength: 5 })),
      fc.subarray(['a', 'b', '__proto__', 'constructor']),
      async (plaintext, options, pairs, names) => {
        const keptOut = names.filter((name) => Object.hasOwn(pairs, name))
        const message = await encrypt(plaintext, { ...options, context: pairs, keptOut, keyring, pool })
        expect((await bothWays(message, { keyring, pool, context: pairs })).plaintext?.equals(plaintext)).toBe(true)
      },
    ),
    { numRuns: 60 },
  )
})

describe('of a short message that is there, streams say the same', () => {
  const made = encrypt(bytes(80), { keyring, pool, context, frameLength: 32 })

  test('when it is cut off anywhere', async () => {
    const message = await made
    for (let length = 0; length < message.length; length++)
      expect((await bothWays(message.subarray(0, length), { keyring, pool })).error, `cut at ${length}`).toMatchObject({
        fault: 'truncated',
      })
  })

  test('when any bit of any byte is changed', async () => {
    const message = await made
    for (let at = 0; at < message.length; at++) {
      for (const bit of [1, 1 << ((at % 7) + 1)]) {
        const changed = Buffer.from(message)
        changed[at] = (changed[at] ?? 0) ^ bit
        expect((await bothWays(changed, { keyring, pool })).error, `byte ${at}`).toHaveProperty('fault')
      }
    }
  })

  test('when frames are missing, twice, in another order, or of another message, and when bytes follow', async () => {
    const { head, frames } = takeApart(await made)
    const others = takeApart(await encrypt(bytes(80), { keyring, pool, context, frameLength: 32 })).frames
    const [a, b, c] = frames as [Buffer, Buffer, Buffer]
    for (const [changed, fault] of [
      [[], 'truncated'],
      [[a, c], 'malformed'],
      [[b, c], 'malformed'],
      [[c], 'malformed'],
      [[b, a, c], 'malformed'],
      [[a, a, c], 'malformed'],
      [[a, b], 'truncated'],
      [[a, b, c, c], 'trailing'],
      [[a, b, c, Buffer.of(0)], 'trailing'],
      [others, 'unauthentic'],
      [[a, ...others.slice(1)], 'unauthentic'],
    ] as const)
      expect((await bothWays(Buffer.concat([head, ...changed]), { keyring, pool })).error).toMatchObject({ fault })
  })

  test('when the context, the policy or the limits are others', async () => {
    const message = await made
    const older = await olderSdk.encrypt(sdkKeyring, bytes(80), { suiteId: sdkSuite(0x0178), frameLength: 32 })
    expect((await bothWays(message, { keyring, pool, context: { app: 'other' } })).error).toMatchObject({ fault: 'context' })
    expect((await bothWays(message, { keyring, pool, context: { more: 'x' } })).error).toMatchObject({ fault: 'unauthentic' })
    expect((await bothWays(message, { keyring, pool, limits: { maxFrameLength: 31 } })).error).toMatchObject({ fault: 'limit' })
    expect((await bothWays(message, { keyring, pool, limits: { maxEncryptedDataKeys: 0 } })).error).toMatchObject({ fault: 'limit' })
    expect((await bothWays(older.result, { keyring, pool })).error).toMatchObject({ fault: 'policy' })
    const allowed = await bothWays(older.result, { keyring, pool, commitmentPolicy: 'REQUIRE_ENCRYPT_ALLOW_DECRYPT' })
    expect(allowed.plaintext?.equals(bytes(80))).toBe(true)
  })

  test('when the source is none', async () => {
    for (const none of ['text', [1, 2], undefined] as unknown as Uint8Array[]) {
      await expect(encrypt(none, { keyring, pool })).rejects.toThrow(/not chunks of bytes/)
      await expect(decrypt(none, { keyring, pool })).rejects.toThrow(/not chunks of bytes/)
    }
  })
})

test('a keyring is asked once for a short message, and its data key is wiped, whatever becomes of it', async () => {
  const message = await encrypt(bytes(100), { keyring, pool })
  const asked: Buffer[] = []
  const watched: Keyring = {
    async encrypting(request) {
      const made = await keyring.encrypting(request)
      asked.push(made.dataKey)
      return made
    },
    async decrypting(request) {
      const found = await keyring.decrypting(request)
      asked.push(found.dataKey)
      return found
    },
  }
  const changed = Buffer.from(message)
  changed[message.length - 1] = (message.at(-1) ?? 0) ^ 1
  await encrypt(bytes(100), { keyring: watched, pool })
  await decrypt(message, { keyring: watched, pool })
  await expect(decrypt(changed, { keyring: watched, pool })).rejects.toThrow(/frame 1 is not authentic/)
  await expect(decrypt(message.subarray(0, -1), { keyring: watched, pool })).rejects.toThrow(/ends too soon/)
  expect(asked.length).toBe(4)
  expect(asked.every((key) => key.length === 32 && key.every((byte) => byte === 0))).toBe(true)
})

test("the caller's bytes stay as they are, and what is answered does not change with them", async () => {
  const plaintext = bytes(100)
  const message = await encrypt(plaintext, { keyring, pool, context })
  const given = Buffer.from(message)
  const { plaintext: opened, header } = await decrypt(given, { keyring, pool })
  expect(given.equals(message)).toBe(true)
  given.fill(0)
  expect(opened.equals(plaintext)).toBe(true)
  expect(header).toEqual(headerOf(message).header)
  expect(plaintext.equals(bytes(100))).toBe(true)
})
