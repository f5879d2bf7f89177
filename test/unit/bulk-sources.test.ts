import {
  appendFileSync,
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { openBulkPool, type BulkPool, type Slab } from '../../src/bulk/bulk-pool.ts'
import { SourceFailure } from '../../src/bulk/chunks.ts'
import type { Keyring } from '../../src/bulk/keyring.ts'
import type { Source } from '../../src/bulk/reader.ts'
import { decryptStream, encryptStream, readHeader } from '../../src/bulk/stream.ts'
import { signedSuite, suites, unsignedSuite } from '../../src/bulk/suites.ts'
import { bytes, drain, faultOf, headerOf, keyring, sdk, sdkKeyring, sdkSuite, withoutFrames } from './bulk-kit.ts'

const pool = openBulkPool({ threads: 2 })
const dir = mkdtempSync(join(tmpdir(), 'holdfast-sources-'))
const handles: FileHandle[] = []
afterEach(async () => {
  for (const handle of handles.splice(0)) await handle.close()
})
afterAll(async () => {
  await pool.close()
  rmSync(dir, { recursive: true, force: true })
})

const path = join(dir, 'source')
async function inFile(whole: Uint8Array, flags = 'r'): Promise<FileHandle> {
  writeFileSync(path, whole)
  const handle = await open(path, flags)
  handles.push(handle)
  makeOld()
  return handle
}
/** Changes show in the file's times, whose clock is a coarse one: those of before were long ago. */
function makeOld(): void {
  utimesSync(path, 1, 1)
}
/** In place, with the byte that is there: nothing but the times tells of it. */
function overwrite(): void {
  const file = openSync(path, 'r+')
  writeSync(file, readFileSync(path), 0, 1, 0)
  closeSync(file)
}
/** The same by somebody who puts the time back. */
function overwriteUnseen(): void {
  const { ctimeNs } = statSync(path, { bigint: true })
  while (statSync(path, { bigint: true }).ctimeNs === ctimeNs) {
    overwrite()
    makeOld()
  }
}
/** The same bytes where threads see them; they begin where nothing is aligned. */
function shared(whole: Uint8Array): Uint8Array {
  const view = new Uint8Array(new SharedArrayBuffer(whole.length + 3), 3)
  view.set(whole)
  return view
}

type Kind = readonly [name: string, source: (whole: Uint8Array) => Source | Promise<Source>]
const kinds: readonly Kind[] = [
  ['a file', inFile],
  ['shared memory', (whole) => [shared(whole)]],
]

/** What a run of usual length holds of frames of 4 KiB; more than four of them make longer ones. */
const run = 254 * 4096
const sizes = [0, 1, 4095, 4097, 16_384, 16_385, 5 * 4096 - 8, 5 * 4096, run - 1, run, run + 1, 5 * run + 77]

describe.each(kinds)('%s', (_name, source) => {
  describe.each([unsignedSuite, signedSuite])('$name', (suite) => {
    test.each(sizes)('of %i bytes becomes a message that the SDK reads, and one of the SDK is read from it', async (size) => {
      const plaintext = bytes(size)
      const options = { keyring, pool, suite, frameLength: 4096, borrow: true }
      const { out, error } = await drain(encryptStream(await source(plaintext), options))
      expect(error).toBeUndefined()
      expect(Buffer.from((await sdk.decrypt(sdkKeyring, out)).plaintext).equals(plaintext)).toBe(true)
      const { result } = await sdk.encrypt(sdkKeyring, plaintext, { suiteId: sdkSuite(suite.id), frameLength: 4096 })
      const opened = await drain(decryptStream(await source(result), { keyring, pool, borrow: true, lend: true }))
      expect(opened.error).toBeUndefined()
      expect(opened.out.equals(plaintext)).toBe(true)
    })
  })

  test.each([1, 7, 8, 9, 1000, 100_000, 3_000_000])('of frames of %i bytes is read to its last byte', async (frameLength) => {
    for (const size of [17_000, frameLength * 2 - 8, frameLength * 2 - 1, frameLength * 2].filter((size) => size > 0)) {
      const plaintext = bytes(size)
      const { out: message } = await drain(encryptStream(await source(plaintext), { keyring, pool, frameLength, borrow: true }))
      const { out, error } = await drain(decryptStream(await source(message), { keyring, pool, borrow: true }))
      expect([error, out.equals(plaintext)]).toEqual([undefined, true])
    }
  })

  test('that is cut off, goes on or was changed is the error that it is in other sources, and no byte came out that is not of the plaintext', async () => {
    const frameLength = 3000
    const plaintext = bytes(10 * frameLength - 2)
    const { out: message } = await drain(encryptStream([plaintext], { keyring, pool, frameLength }))
    const head = headerOf(message).byteLength
    const edges = [0, head, head + 16, head + 3032, head + 3032 + 39, message.length - 3040, message.length - 33, message.length - 1]
    const lengths = [...edges, ...Array.from({ length: 40 }, (_, n) => Math.floor((n * message.length) / 40))]
    const read = async (bytes: Uint8Array) => drain(decryptStream(await source(bytes), { keyring, pool, borrow: true }))
    for (const length of lengths) {
      const { out, error } = await read(message.subarray(0, length))
      expect(faultOf(error), `cut at ${length}`).toBe('truncated')
      expect(plaintext.subarray(0, out.length).equals(out) && out.length < plaintext.length).toBe(true)
    }
    for (const more of [1, 8, 9, 31, 40, 3032, 3040, 3041, 10_000]) {
      const { out, error } = await read(Buffer.concat([message, Buffer.alloc(more)]))
      expect(faultOf(error), `${more} more`).toBe('trailing')
      expect(plaintext.subarray(0, out.length).equals(out) && out.length < plaintext.length).toBe(true)
    }
    const last = message.length - 3022 - 16
    for (const at of [...lengths.slice(1), last - 24, last - 20, last - 16, last - 4, last - 3, last - 1]) {
      const changed = Buffer.from(message)
      changed[at] = (changed[at] ?? 0) ^ 1
      const { out, error } = await read(changed)
      expect(faultOf(error), `byte ${at}`).toBeOneOf(['malformed', 'truncated', 'trailing', 'unauthentic', 'limit', 'policy'])
      expect(plaintext.subarray(0, out.length).equals(out) && out.length < plaintext.length).toBe(true)
    }
  })

  test('is told of as it goes out, to its last byte', async () => {
    const plaintext = bytes(9_000_000)
    const taken: number[] = []
    const onTaken = (bytes: number): void => void taken.push(bytes)
    const { out } = await drain(encryptStream(await source(plaintext), { keyring, pool, borrow: true, onTaken }))
    const sealed = taken.splice(0)
    await drain(decryptStream(await source(out), { keyring, pool, borrow: true, onTaken }))
    const sum = (all: readonly number[]): number => all.reduce((total, bytes) => total + bytes, 0)
    expect([sum(sealed), sum(taken)]).toEqual([plaintext.length, out.length - headerOf(out).byteLength])
    expect(Math.min(sealed.length, taken.length)).toBeGreaterThan(4)
  })

  test('whose reader leaves in the middle is let go of at once', async () => {
    const from = await source(bytes(30_000_000))
    const stream = encryptStream(from, { keyring, pool, borrow: true })
    await stream.next()
    await stream.next()
    await stream.return?.()
    if (!(Symbol.iterator in from) && !(Symbol.asyncIterator in from)) await from.close()
    expect((await stream.next()).done).toBe(true)
  })

  test('is read no further than a slow reader lets it, and not copied to seal it', async () => {
    const slabs = new Set<Slab>()
    const watched: BulkPool = {
      ...pool,
      takeSlab(size) {
        const slab = pool.takeSlab(size)
        slabs.add(slab)
        return slab
      },
    }
    const stream = encryptStream(await source(bytes(60_000_000)), { keyring, pool: watched, borrow: true, lend: true })
    for (let read = 0; read < 4; read++) expect((await stream.next()).done).toBe(false)
    expect(slabs.size).toBeLessThanOrEqual(2 * pool.threads + 2)
    expect([...slabs].map(({ touched }) => touched)).toEqual(Array(slabs.size).fill(0))
    await stream.return?.()
  })
})

describe('chunks in shared memory', () => {
  test('are copied unless they may be borrowed: whoever fills them again is not in the way', async () => {
    const room = shared(Buffer.alloc(100_000))
    const plaintext = bytes(3_000_000)
    function* refilled() {
      for (let at = 0; at < plaintext.length; at += room.length) {
        room.set(plaintext.subarray(at, at + room.length))
        yield room
      }
    }
    const { out } = await drain(encryptStream(refilled(), { keyring, pool }))
    expect(Buffer.from((await sdk.decrypt(sdkKeyring, out)).plaintext).equals(plaintext)).toBe(true)
  })

  test('of any length, among others, come back', async () => {
    const chunk = fc.record({ length: fc.integer({ min: 0, max: 9000 }), isShared: fc.boolean() })
    await fc.assert(
      fc.asyncProperty(
        fc.array(chunk, { maxLength: 12 }),
        fc.array(chunk, { minLength: 1, maxLength: 12 }),
        fc.integer({ min: 1, max: 9000 }),
        async (written, read, frameLength) => {
          const plaintext = bytes(written.reduce((sum, { length }) => sum + length, 0))
          const options = { keyring, pool, frameLength, borrow: true }
          const split = (whole: Buffer, chunks: readonly { readonly length: number; readonly isShared: boolean }[]): Uint8Array[] => {
            let at = 0
            const parts = chunks.map(({ length, isShared }) => {
              const part = whole.subarray(at, (at += length))
              return isShared ? shared(part) : part
            })
            return [...parts, whole.subarray(at)]
          }
          const message = (await drain(encryptStream(split(plaintext, written), options))).out
          const { out, error } = await drain(decryptStream(split(message, read), options))
          expect(error).toBeUndefined()
          expect(out.equals(plaintext)).toBe(true)
        },
      ),
      { numRuns: 60 },
    )
  })
})

test('what is no source is refused with what sources are', async () => {
  const wrong: readonly (readonly [unknown, RegExp])[] = [
    [open(process.execPath).then((handle) => handle.close()), /this one is a Promise: await it$/],
    [{ fd: 3 }, /a source is chunks of bytes .* or an open file \(a FileHandle\); this one is of type object$/],
    [null, /of type object$/],
    [undefined, /of type undefined$/],
    ['text', /of type string$/],
    [() => [], /of type function$/],
  ]
  for (const [given, said] of wrong) {
    const source = given as Source
    for (const read of [() => drain(encryptStream(source, { keyring, pool })), () => drain(decryptStream(source, { keyring, pool }))]) {
      const { error } = await read()
      expect(error).toBeInstanceOf(TypeError)
      expect(String(error)).toMatch(said)
    }
    await expect(readHeader(source)).rejects.toThrow(said)
  }
  await wrong[0]?.[0]
})

describe('a file', () => {
  test.each<[string, () => void, RegExp]>([
    ['becomes shorter', () => truncateSync(path, 5_000_000), /became shorter while it was read: nothing is at byte/],
    ['becomes longer', () => appendFileSync(path, 'x'), /became longer while it was read: it had 40000000 bytes, and has 40000001/],
    ['is changed in place', overwrite, /was changed while it was read/],
    ['is changed in place and given its old time', overwriteUnseen, /was changed while it was read/],
  ])('that %s while it is read is an error', async (_what, change, said) => {
    const stream = encryptStream(await inFile(bytes(40_000_000)), { keyring, pool, lend: true })
    await stream.next()
    await stream.next()
    change()
    const { error } = await drain(stream)
    expect(error).toBeInstanceOf(SourceFailure)
    expect(String(error)).toMatch(said)
  })

  describe.each([0, 1, 5000, 16_384, 16_385, 2_000_000])('of %i bytes', (size) => {
    const lengthen = (by: number): void => truncateSync(path, statSync(path).size + by)
    test.each<[string, () => void]>([
      ['became shorter', () => lengthen(-1)],
      ['became longer', () => lengthen(1)],
      ['was changed', overwrite],
    ])('that %s while the data key was asked for is an error', async (what, change) => {
      if (size === 0 && what !== 'became longer') return
      const changing: Keyring = {
        encrypting: (request) => (change(), keyring.encrypting(request)),
        decrypting: (request) => (change(), keyring.decrypting(request)),
      }
      const { out: message } = await drain(encryptStream([bytes(size)], { keyring, pool, frameLength: 4096 }))
      const sealed = await drain(encryptStream(await inFile(bytes(size)), { keyring: changing, pool }))
      expect(sealed.error).toBeInstanceOf(SourceFailure)
      expect(String(sealed.error)).toContain(`the file ${what} while it was read`)
      const opened = await drain(decryptStream(await inFile(message), { keyring: changing, pool }))
      expect(opened.error).toBeInstanceOf(SourceFailure)
      expect(String(opened.error)).toContain(`the file ${what} while it was read`)
    })
  })

  test.each([unsignedSuite, signedSuite])(
    'that is changed when only its last bytes are still to be read is an error: $name',
    async (suite) => {
      const { out: message } = await drain(encryptStream([bytes(2_000_000)], { keyring, pool, suite }))
      const changing: BulkPool = {
        ...pool,
        seal: (order) => (order.run.last && overwrite(), pool.seal(order)),
        open: (order) => (order.run.end !== 'none' && overwrite(), pool.open(order)),
      }
      const sealed = await drain(encryptStream(await inFile(bytes(2_000_000)), { keyring, pool: changing, suite }))
      expect(String(sealed.error)).toContain('the file was changed while it was read')
      expect(faultOf((await drain(decryptStream([sealed.out], { keyring, pool }))).error)).toBe('truncated')
      const opened = await drain(decryptStream(await inFile(message), { keyring, pool: changing }))
      expect(String(opened.error)).toContain('the file was changed while it was read')
      expect(opened.out.length).toBeLessThan(2_000_000)
    },
  )

  test.each([100, 100_000])('of %i bytes that cannot be read is an error that says why', async (size) => {
    const { error } = await drain(encryptStream(await inFile(bytes(size), 'a'), { keyring, pool }))
    // Appending empties nothing, and does not allow to read.
    expect(error).toBeInstanceOf(SourceFailure)
    expect(String(error)).toMatch(/cannot be read: EBADF/)
    const closed = await inFile(bytes(size))
    await closed.close()
    for (const read of [encryptStream(closed, { keyring, pool }), decryptStream(closed, { keyring, pool })]) {
      const { error } = await drain(read)
      expect(error).toBeInstanceOf(SourceFailure)
      expect(String(error)).toMatch(/cannot be read: .*closed/)
    }
  })

  test('that is a folder is an error that says so', async () => {
    const folder = await open(dir)
    handles.push(folder)
    const { error } = await drain(encryptStream(folder, { keyring, pool }))
    expect(error).toBeInstanceOf(SourceFailure)
    expect(String(error)).toMatch(/cannot be read: EISDIR/)
  })

  test.each([700, 5000, 65_536, 400_000, 1_100_000, 3_000_000])(
    'with a signature over frames of %i bytes is read once',
    async (frameLength) => {
      const plaintext = bytes(8_000_000)
      const { out: message } = await drain(encryptStream([plaintext], { keyring, pool, suite: signedSuite, frameLength }))
      const handle = await inFile(message)
      const read = vi.spyOn(handle, 'read')
      const { out, error } = await drain(decryptStream(handle, { keyring, pool }))
      expect([error, out.equals(plaintext)]).toEqual([undefined, true])
      const results = await Promise.all(read.mock.results.map(async ({ value }) => (await value).bytesRead))
      expect(results.reduce((sum, bytes) => sum + bytes, 0)).toBe(message.length)
    },
  )

  test.runIf(process.platform === 'linux')('that only says that it is empty, or is none, is read as a stream', async () => {
    for (const name of ['/proc/self/status', '/dev/null']) {
      const handle = await open(name)
      handles.push(handle)
      const { out } = await drain(encryptStream(handle, { keyring, pool }))
      const { plaintext } = await sdk.decrypt(sdkKeyring, out)
      expect(plaintext.includes('Name:')).toBe(name !== '/dev/null')
    }
  })

  test.each([0, 100, 100_000])('of %i bytes stays open whatever is done with it', async (size) => {
    const { out } = await drain(encryptStream([bytes(size)], { keyring, pool, context: { app: 'db' } }))
    const handle = await inFile(out)
    expect((await readHeader(handle)).header.context).toMatchObject({ app: 'db' })
    const left = decryptStream(handle, { keyring, pool })
    await left.header
    await left.return?.()
    // Once more to its end: nothing was closed, and it begins at its beginning again.
    for (let time = 0; time < 2; time++) {
      expect((await drain(decryptStream(handle, { keyring, pool }))).out.equals(bytes(size))).toBe(true)
      expect((await handle.stat()).size).toBe(out.length)
    }
  })

  test.runIf(process.platform === 'linux')('that never ends stays open, too, when its reader leaves', async () => {
    const handle = await open('/dev/zero')
    handles.push(handle)
    const stream = encryptStream(handle, { keyring, pool })
    for (let piece = 0; piece < 4; piece++) expect((await stream.next()).done).toBe(false)
    await stream.return?.()
    expect((await handle.read(Buffer.alloc(4), 0, 4, null)).bytesRead).toBe(4)
  })

  test('of a message without frames is held against its tag, its end and the limit', async () => {
    const plaintext = bytes(3_000_000)
    const message = await withoutFrames(suites.get(0x0078) ?? unsignedSuite, plaintext)
    const changed = Buffer.from(message)
    changed.writeUInt8(changed.readUInt8(2_000_000) ^ 1, 2_000_000)
    const options = { keyring, pool, commitmentPolicy: 'REQUIRE_ENCRYPT_ALLOW_DECRYPT' } as const
    const read = async (bytes: Uint8Array, limits = {}) => drain(decryptStream(await inFile(bytes), { ...options, limits }))
    expect((await read(message)).out.equals(plaintext)).toBe(true)
    const wrong = [
      await read(changed),
      await read(message.subarray(0, -1)),
      await read(Buffer.concat([message, Buffer.of(0)])),
      await read(message, { maxFrameLength: 2_999_999 }),
    ]
    expect(wrong.map(({ out, error }) => [faultOf(error), out.length])).toEqual([
      ['unauthentic', 0],
      ['truncated', 0],
      ['trailing', 0],
      ['limit', 0],
    ])
  })
})
