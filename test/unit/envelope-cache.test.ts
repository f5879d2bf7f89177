/** Data keys that serve several messages: for whom, how often, how long, and that nothing of them stays. */

import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import type { DataKeyRequest, Keyring } from '../../src/bulk/keyring.ts'
import { signedSuite, suites, unsignedSuite } from '../../src/bulk/suites.ts'
import { openDataKeyCache, type CacheOptions } from '../../src/envelope/cache.ts'

const limits = { maxAgeMs: 60_000, maxMessages: 100, maxBytes: 1_000_000, capacity: 10 }
const request = { suite: unsignedSuite, context: { app: 'db', tenant: '1' } }

/** Each data key is another, and says which. */
function countingKeyring(): Keyring & { readonly made: () => number; readonly opened: () => number } {
  let [made, opened] = [0, 0]
  return {
    async encrypting({ suite }) {
      const dataKey = Buffer.alloc(suite.keyBytes, ++made)
      return { dataKey, encryptedDataKeys: [{ providerId: 'test', providerInfo: Buffer.from('key'), ciphertext: Buffer.from([made]) }] }
    },
    async decrypting({ suite, encryptedDataKeys }) {
      opened++
      return { dataKey: Buffer.alloc(suite.keyBytes, encryptedDataKeys[0]?.ciphertext[0]) }
    },
    made: () => made,
    opened: () => opened,
  }
}

function open(change: Partial<CacheOptions> = {}) {
  let nowMs = 0
  const keyring = countingKeyring()
  const cache = openDataKeyCache({ ...limits, now: () => nowMs, ...change })
  return {
    cache,
    keyring,
    pass: (ms: number) => void (nowMs += ms),
    /** The number of the data key that a message of so many bytes is encrypted under. */
    use: async (bytes: number | undefined = 1000, keySet = 'mine', one: DataKeyRequest = request): Promise<number | undefined> => {
      const { dataKey } = await cache.wrap(keyring, { keySet, plaintextBytes: bytes }).encrypting(one)
      const number = dataKey[0]
      // As whoever asks does.
      dataKey.fill(0)
      return number
    },
  }
}

describe('encrypting', () => {
  test('messages of one key set, context and suite share a data key, which the wiping of one does not touch', async () => {
    const { use, cache } = open()
    expect([await use(), await use(), await use()]).toEqual([1, 1, 1])
    expect(await use(1000, 'mine', { ...request, context: { tenant: '1', app: 'db' } })).toBe(1)
    expect(cache.figures()).toEqual({ entries: 1, hits: 3, misses: 1, bypassed: 0 })
  })

  test.each([
    ['key set', 'another', request],
    ['context', 'mine', { ...request, context: { app: 'db' } }],
    ['context whose text is cut elsewhere', 'mine', { ...request, context: { app: 'dbtenant', '': '1' } }],
  ])('another %s has another data key', async (_what, keySet, other) => {
    const { use } = open()
    await use()
    expect(await use(1000, keySet, other)).toBe(2)
    expect(await use()).toBe(1)
  })

  test('a data key serves no message after its age', async () => {
    const { use, pass } = open()
    await use()
    pass(59_999)
    expect(await use()).toBe(1)
    pass(1)
    expect(await use()).toBe(2)
  })

  test('its age begins before the KMS is asked', async () => {
    let nowMs = 0
    const slow = countingKeyring()
    const cache = openDataKeyCache({ ...limits, now: () => nowMs })
    const wrapped = cache.wrap(
      {
        ...slow,
        async encrypting(one) {
          nowMs += 60_000
          return slow.encrypting(one)
        },
      },
      { keySet: 'mine', plaintextBytes: 1 },
    )
    await wrapped.encrypting(request)
    expect(cache.figures().entries).toBe(0)
  })

  test('a data key serves as many messages as are allowed and no more', async () => {
    const { use } = open({ maxMessages: 3 })
    expect([await use(), await use(), await use(), await use()]).toEqual([1, 1, 1, 2])
  })

  test('messages at the same time are counted before any is encrypted', async () => {
    const { use } = open({ maxMessages: 3 })
    await use()
    const numbers = await Promise.all([use(), use(), use(), use()])
    expect(numbers.filter((number) => number === 1)).toHaveLength(2)
  })

  test('a data key serves as many bytes as are allowed and no more', async () => {
    const { use } = open({ maxBytes: 2500 })
    expect([await use(), await use(), await use(), await use(500)]).toEqual([1, 1, 2, 2])
  })

  test('under no data key more is encrypted than the limits say, whatever comes in whatever order', async () => {
    const message = fc.record({
      bytes: fc.integer({ min: 0, max: 600 }),
      pass: fc.integer({ min: 0, max: 40 }),
      together: fc.integer({ min: 1, max: 3 }),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(message, { maxLength: 40 }), async (messages) => {
        const { use, pass } = open({ maxMessages: 5, maxBytes: 1000, maxAgeMs: 100 })
        const uses = new Map<number, { messages: number; bytes: number }>()
        for (const { bytes, pass: ms, together } of messages) {
          pass(ms)
          for (const number of await Promise.all(Array.from({ length: together }, () => use(bytes)))) {
            const so = uses.get(number ?? 0) ?? { messages: 0, bytes: 0 }
            uses.set(number ?? 0, { messages: so.messages + 1, bytes: so.bytes + bytes })
          }
        }
        for (const { messages: count, bytes } of uses.values()) expect(count <= 5 && bytes <= 1000).toBe(true)
      }),
    )
  })

  test('a message longer than all that is allowed, one of unknown length and a signed one have data keys that are not kept', async () => {
    const { use, cache, keyring } = open()
    await use(limits.maxBytes + 1)
    await cache.wrap(keyring, { keySet: 'mine' }).encrypting(request)
    await use(1, 'mine', { ...request, suite: signedSuite })
    expect(cache.figures()).toEqual({ entries: 0, hits: 0, misses: 0, bypassed: 3 })
  })

  test('suites that use the data key itself share none', async () => {
    const { use, cache } = open()
    const suite = suites.get(0x0078)
    if (!suite) throw new Error('no such suite')
    expect([await use(1, 'mine', { ...request, suite }), await use(1, 'mine', { ...request, suite })]).toEqual([1, 2])
    expect(cache.figures().entries).toBe(0)
  })

  test('beyond the capacity the one goes that was not used for longest', async () => {
    const { use, cache } = open({ capacity: 2 })
    await use(1, 'a')
    await use(1, 'b')
    await use(1, 'a')
    await use(1, 'c')
    expect(cache.figures().entries).toBe(2)
    expect(await use(1, 'a')).toBe(1)
    expect(await use(1, 'b')).toBe(4)
  })

  test('what fails is not kept', async () => {
    const { cache, keyring } = open()
    const failing: Keyring = { ...keyring, encrypting: () => Promise.reject(new Error('no')) }
    await expect(cache.wrap(failing, { keySet: 'mine', plaintextBytes: 1 }).encrypting(request)).rejects.toThrow('no')
    expect(cache.figures().entries).toBe(0)
  })

  test('a kept data key is handed out only when that is permitted each time', async () => {
    const { cache, keyring } = open()
    let allowed = true
    const permit = async (): Promise<void> => {
      if (!allowed) throw new Error('not any more')
    }
    const wrapped = cache.wrap(keyring, { keySet: 'mine', plaintextBytes: 1, permit })
    await wrapped.encrypting(request)
    await wrapped.encrypting(request)
    allowed = false
    await expect(wrapped.encrypting(request)).rejects.toThrow('not any more')
    expect(keyring.made()).toBe(1)
  })

  test('a key whose time ends while it is being permitted is not used', async () => {
    const { cache, keyring, pass } = open()
    const wrapped = cache.wrap(keyring, { keySet: 'mine', plaintextBytes: 1, permit: async () => pass(60_000) })
    await wrapped.encrypting(request)
    expect((await wrapped.encrypting(request)).dataKey[0]).toBe(2)
  })

  test('what goes is wiped: for its age, for another, for want of room, and at the end', async () => {
    const allocate = vi.spyOn(Buffer, 'alloc')
    onTestFinished(() => allocate.mockRestore())
    const { use, cache, pass } = open({ capacity: 2, maxMessages: 1 })
    for (const keySet of ['first', 'first', 'second', 'third']) await use(1, keySet)
    pass(limits.maxAgeMs)
    await use(1, 'third')
    cache.close()
    const ours = allocate.mock.results.map(({ value }) => value as Buffer).filter(({ length }) => length === unsignedSuite.keyBytes)
    // Five made, five kept for a while.
    expect(ours).toHaveLength(10)
    for (const dataKey of ours) expect(dataKey).toEqual(Buffer.from(new Uint8Array(unsignedSuite.keyBytes)))
  })

  test('nothing is kept after closing', async () => {
    const { use, cache } = open()
    await use()
    cache.close()
    expect(await use()).toBe(2)
    expect(cache.figures().entries).toBe(0)
  })
})

describe('decrypting', () => {
  test('the same message needs one call, another message its own', async () => {
    const { cache, keyring, pass } = open()
    const { encryptedDataKeys } = await keyring.encrypting(request)
    const other = (await keyring.encrypting(request)).encryptedDataKeys
    const wrapped = cache.wrap(keyring, { keySet: 'mine' })
    const openOne = async (carried = encryptedDataKeys, context: Readonly<Record<string, string>> = request.context) => {
      const { dataKey } = await wrapped.decrypting({ ...request, context, encryptedDataKeys: carried })
      const number = dataKey[0]
      dataKey.fill(0)
      return number
    }
    expect([await openOne(), await openOne(), await openOne(other)]).toEqual([1, 1, 2])
    expect(keyring.opened()).toBe(2)
    await openOne(encryptedDataKeys, { app: 'another' })
    expect(keyring.opened()).toBe(3)
    pass(60_000)
    await openOne()
    expect(keyring.opened()).toBe(4)
  })

  test('what is kept to encrypt under is not what is kept to decrypt with', async () => {
    const { cache, keyring } = open()
    const wrapped = cache.wrap(keyring, { keySet: 'mine', plaintextBytes: 1 })
    const { encryptedDataKeys } = await wrapped.encrypting(request)
    await wrapped.decrypting({ ...request, encryptedDataKeys })
    expect(keyring.opened()).toBe(1)
  })
})

test.each([
  ['maxAgeMs', 0],
  ['maxMessages', 2 ** 32 + 1],
  ['maxBytes', 1.5],
  ['capacity', -1],
])('a cache with %s of %d cannot be opened', (name, value) => {
  expect(() => openDataKeyCache({ ...limits, [name]: value })).toThrow(name)
})
