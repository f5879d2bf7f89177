import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Worker } from 'node:worker_threads'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openBulkPool, PoolFailure, slabBytes, type BulkPool, type Slab } from '../../src/bulk/bulk-pool.ts'
import type { Source } from '../../src/bulk/reader.ts'
import { decryptStream, encrypt, encryptStream } from '../../src/bulk/stream.ts'
import { signedSuite, unsignedSuite } from '../../src/bulk/suites.ts'
import { bytes, drain, keyring, sdk, sdkKeyring } from './bulk-kit.ts'

/** The threads that were started, to be killed: nothing else can get at them. */
const threads: Worker[] = []
const module = createRequire(import.meta.url)('node:worker_threads') as { Worker: typeof Worker }
const { Worker: Original } = module
let pool: BulkPool
beforeAll(() => {
  module.Worker = class extends Original {
    constructor(...args: ConstructorParameters<typeof Worker>) {
      super(...args)
      threads.push(this)
    }
  }
  pool = openBulkPool({ threads: 2 })
})
afterAll(async () => {
  module.Worker = Original
  await pool.close()
  await handle?.close()
  rmSync(dir, { recursive: true, force: true })
})

const dir = mkdtempSync(join(tmpdir(), 'holdfast-pool-'))
const file = join(dir, 'source')
let handle: FileHandle | undefined

const chunk = bytes(100_000)
/** Without end; counts what was asked of it. */
function endless() {
  const source = {
    given: 0,
    closed: false,
    *[Symbol.iterator]() {
      try {
        for (;;) {
          source.given += chunk.length
          yield chunk
        }
      } finally {
        source.closed = true
      }
    },
  }
  return source
}

/** The same pool, and what was lent and handed over. */
function watched(): { readonly pool: BulkPool; readonly slabs: Set<Slab>; readonly given: Slab[]; readonly keys: Set<SharedArrayBuffer> } {
  const slabs = new Set<Slab>()
  const given: Slab[] = []
  const keys = new Set<SharedArrayBuffer>()
  return {
    slabs,
    given,
    keys,
    pool: {
      ...pool,
      seal: (order) => {
        keys.add(order.key)
        return pool.seal(order)
      },
      open: (order) => {
        keys.add(order.key)
        return pool.open(order)
      },
      takeSlab(size) {
        const slab = pool.takeSlab(size)
        slabs.add(slab)
        return slab
      },
      giveSlab(slab) {
        given.push(slab)
        pool.giveSlab(slab)
      },
    },
  }
}

/** The same pool, whose threads are killed with so many runs to seal. Those of frames of a byte take long: the last one, and more, are not done then. */
function deadly(of: BulkPool, runs: number): { readonly pool: BulkPool; killed(): Promise<void> } {
  let orders = 0
  const ending: Promise<number>[] = []
  return {
    pool: {
      ...of,
      seal(order) {
        const sealed = of.seal(order)
        if (++orders === runs) ending.push(...threads.splice(0).map((thread) => thread.terminate()))
        return sealed
      },
    },
    async killed() {
      expect(ending.length).toBeGreaterThan(0)
      await Promise.all(ending)
    },
  }
}

function expectWiped({ slabs, given, keys }: ReturnType<typeof watched>): void {
  expect([given.length, given.every((slab) => slabs.has(slab)), new Set(given).size]).toEqual([slabs.size, true, slabs.size])
  for (const { memory } of slabs) expect(memory.equals(Buffer.alloc(memory.length))).toBe(true)
  for (const key of keys) expect(Buffer.from(key).equals(Buffer.alloc(32))).toBe(true)
}

describe.each([unsignedSuite, signedSuite])('$name', (suite) => {
  test('a thread that is killed is an error of its stream, and the pool works on', async () => {
    const plaintext = bytes(100_000)
    const dying = deadly(pool, 5)
    const { out, error } = await drain(encryptStream([plaintext], { keyring, pool: dying.pool, suite, frameLength: 1 }))
    await dying.killed()
    expect(error).toBeInstanceOf(PoolFailure)
    expect(String(error)).toMatch(/ended before/)
    expect(out.length).toBeLessThan(plaintext.length * 33)
    const message = await encrypt(bytes(3_000_000), { keyring, pool, suite })
    expect(Buffer.from((await sdk.decrypt(sdkKeyring, message)).plaintext).equals(bytes(3_000_000))).toBe(true)
  })

  test('all that was used is wiped and given back: after the end', async () => {
    const at = watched()
    const plaintext = bytes(5_000_000)
    const { out } = await drain(encryptStream([plaintext], { keyring, pool: at.pool, suite, lend: true }))
    expect(at.keys.size).toBe(1)
    expectWiped(at)
    const reading = watched()
    const { out: back } = await drain(decryptStream([out], { keyring, pool: reading.pool, lend: true }))
    expect(back.equals(plaintext)).toBe(true)
    expectWiped(reading)
  })

  test('when the reader leaves in the middle', async () => {
    const at = watched()
    const source = endless()
    const readable = Readable.from(encryptStream(source, { keyring, pool: at.pool, suite }))
    await once(readable, 'readable')
    readable.read()
    readable.destroy()
    await once(readable, 'close')
    while (!source.closed) await new Promise(setImmediate)
    expectWiped(at)
  })

  test('when a frame was forged, and when the source broke', async () => {
    const message = await encrypt(bytes(5_000_000), { keyring, pool, suite })
    message.writeUInt8(message.readUInt8(3_000_000) ^ 1, 3_000_000)
    for (const source of [[message], [message.subarray(0, 3_000_000)]]) {
      const at = watched()
      expect((await drain(decryptStream(source, { keyring, pool: at.pool }))).error).toBeDefined()
      expectWiped(at)
    }
  })

  test('when a thread was lost: no other stream gets the slabs, in which it may still write', async () => {
    const at = watched()
    let orders = 0
    const losing: BulkPool = {
      ...at.pool,
      seal: async (order) => (++orders === 3 ? Promise.reject(new PoolFailure('lost')) : at.pool.seal(order)),
    }
    expect((await drain(encryptStream([bytes(5_000_000)], { keyring, pool: losing, suite }))).error).toBeInstanceOf(PoolFailure)
    expect(at.given).toEqual([])
    expect(at.slabs.size).toBeGreaterThan(2)
    for (const { memory } of at.slabs) expect(memory.equals(Buffer.alloc(memory.length))).toBe(true)
    for (const key of at.keys) expect(Buffer.from(key).equals(Buffer.alloc(32))).toBe(true)
  })

  test('when only the header was asked for', async () => {
    const at = watched()
    const source = endless()
    source[Symbol.iterator]().next()
    const stream = encryptStream(source, { keyring, pool: at.pool, suite })
    expect((await stream.header).suite).toBe(suite)
    await stream.return?.()
    expect((await stream.next()).done).toBe(true)
    expectWiped(at)
  })
})

describe.each<readonly [name: string, source: (whole: Buffer) => Promise<Source>]>([
  ['shared memory', async (whole) => [Buffer.from(new SharedArrayBuffer(whole.length)).fill(whole)]],
  [
    'a file',
    async (whole) => {
      writeFileSync(file, whole)
      await handle?.close()
      return (handle = await open(file))
    },
  ],
])('of %s', (_name, source) => {
  const plaintext = bytes(9_000_000)

  test('that is sealed nothing is copied to slabs, and that is opened nothing stays there', async () => {
    const at = watched()
    const { out } = await drain(encryptStream(await source(plaintext), { keyring, pool: at.pool, borrow: true, lend: true }))
    expect([...at.slabs].filter(({ memory }) => memory.includes(plaintext.subarray(0, 61)))).toEqual([])
    expect([...at.keys].every((key) => Buffer.from(key).equals(Buffer.alloc(32)))).toBe(true)
    const reading = watched()
    const { out: back } = await drain(decryptStream(await source(out), { keyring, pool: reading.pool, borrow: true, lend: true }))
    expect(back.equals(plaintext)).toBe(true)
    for (const { memory } of reading.slabs) expect(memory.includes(plaintext.subarray(0, 61))).toBe(false)
    expect(reading.given.length).toBe(reading.slabs.size)
  })

  test('long slabs that no thread could wipe are wiped all the same', async () => {
    const { out } = await drain(encryptStream([plaintext], { keyring, pool }))
    const at = watched()
    const tired: BulkPool = { ...at.pool, wipe: async () => undefined }
    const { out: back } = await drain(decryptStream(await source(out), { keyring, pool: tired, borrow: true, lend: true }))
    expect(back.equals(plaintext)).toBe(true)
    for (const { memory } of at.slabs) expect(memory.includes(plaintext.subarray(0, 61))).toBe(false)
  })

  test('a forged frame ends the stream, and nothing of the others stays', async () => {
    const message = await encrypt(plaintext, { keyring, pool })
    message.writeUInt8(message.readUInt8(7_000_000) ^ 1, 7_000_000)
    const at = watched()
    const { error } = await drain(decryptStream(await source(message), { keyring, pool: at.pool, borrow: true }))
    expect(String(error)).toMatch(/frame 107 is not authentic/)
    for (const { memory } of at.slabs) expect(memory.includes(plaintext.subarray(0, 61))).toBe(false)
    expect(at.given.length).toBe(at.slabs.size)
  })

  test('a thread that is killed is an error of its stream, and the pool works on', async () => {
    const dying = deadly(pool, 5)
    const from = await source(plaintext.subarray(0, 100_000))
    const { error } = await drain(encryptStream(from, { keyring, pool: dying.pool, borrow: true, frameLength: 1 }))
    await dying.killed()
    expect(error).toBeInstanceOf(PoolFailure)
    const { out } = await drain(encryptStream(await source(plaintext), { keyring, pool, borrow: true }))
    expect(Buffer.from((await sdk.decrypt(sdkKeyring, out)).plaintext).equals(plaintext)).toBe(true)
  })
})

test('the data key is wiped by the stream that asked for it', async () => {
  const seen: Buffer[] = []
  const watching = {
    encrypting: async (request: Parameters<typeof keyring.encrypting>[0]) => {
      const made = await keyring.encrypting(request)
      seen.push(made.dataKey)
      return made
    },
    decrypting: async (request: Parameters<typeof keyring.decrypting>[0]) => {
      const found = await keyring.decrypting(request)
      seen.push(found.dataKey)
      return found
    },
  }
  const message = await encrypt(bytes(10), { keyring: watching, pool })
  await drain(decryptStream([message], { keyring: watching, pool }))
  expect(seen).toEqual([Buffer.alloc(32), Buffer.alloc(32)])
})

test('a reader that stops stops the source: what is held is bounded', async () => {
  const at = watched()
  const source = endless()
  const stream = encryptStream(source, { keyring, pool: at.pool })
  let read = 0
  for (let n = 0; n < 40; n++) {
    read += (await stream.next()).value?.length ?? 0
    expect(source.given - read).toBeLessThan((2 * pool.threads + 2) * slabBytes)
  }
  expect(read).toBeGreaterThan(30 * 2 ** 20)
  expect(at.slabs.size).toBeLessThanOrEqual(2 * pool.threads + 2)
  await stream.return?.()
  expect(source.closed).toBe(true)
})

test('pieces that are not lent stay as they are', async () => {
  const pieces: Buffer[] = []
  for await (const piece of encryptStream([bytes(8_000_000)], { keyring, pool })) pieces.push(piece)
  expect(Buffer.from((await sdk.decrypt(sdkKeyring, Buffer.concat(pieces))).plaintext).equals(bytes(8_000_000))).toBe(true)
})

test('many streams at once share the threads, signed ones too', async () => {
  const all = Array.from({ length: 12 }, async (_, n) => {
    const plaintext = bytes(200_000 * n, `${n}`)
    const suite = n % 2 === 0 ? signedSuite : unsignedSuite
    const message = encryptStream(Readable.from([plaintext]), { keyring, pool, suite, frameLength: 10_000 })
    const { out, error } = await drain(decryptStream(message, { keyring, pool }))
    expect(error).toBeUndefined()
    expect(out.equals(plaintext)).toBe(true)
  })
  await Promise.all(all)
})

test('streams stand in a pipeline, whose errors are theirs', async () => {
  const out: Buffer[] = []
  const sink = async (source: AsyncIterable<Buffer>) => {
    for await (const piece of source) out.push(piece)
  }
  const there = (source: AsyncIterable<Buffer>) => encryptStream(source, { keyring, pool })
  const back = (source: AsyncIterable<Buffer>) => decryptStream(source, { keyring, pool })
  await pipeline(Readable.from([bytes(2_000_000)]), there, back, sink)
  expect(Buffer.concat(out).equals(bytes(2_000_000))).toBe(true)
  await expect(pipeline(Readable.from([bytes(2_000_000)]), back, sink)).rejects.toThrow('no message')
})

test('a pool that was closed fails what is under way, and what comes', async () => {
  const closing = openBulkPool({ threads: 1 })
  const stream = encryptStream(endless(), { keyring, pool: closing })
  await stream.next()
  await stream.next()
  await closing.close()
  expect((await drain(stream)).error).toBeInstanceOf(PoolFailure)
})

test('the only thread is killed: streams that waited for it end, or go on with the next', async () => {
  const single = openBulkPool({ threads: 1 })
  await encrypt(bytes(2_000_000), { keyring, pool: single })
  const dying = deadly(single, 4)
  const streams = Array.from({ length: 4 }, () => drain(encryptStream([bytes(50_000)], { keyring, pool: dying.pool, frameLength: 1 })))
  const errors = (await Promise.all(streams)).map(({ error }) => error).filter((error) => error !== undefined)
  await dying.killed()
  expect(errors.length).toBeGreaterThan(0)
  for (const error of errors) expect(error).toBeInstanceOf(PoolFailure)
  expect((await encrypt(bytes(2_000_000), { keyring, pool: single })).length).toBeGreaterThan(2_000_000)
  await single.close()
})

test.runIf(process.platform === 'linux')('the threads of a pool stand back as far as they are told, and nobody else does', async () => {
  const before = niceOf('self')

  const polite = openBulkPool({ threads: 1, niceness: 7 })
  const known = new Set(readdirSync('/proc/self/task'))
  await encrypt(bytes(200_000), { keyring, pool: polite })
  const nice = readdirSync('/proc/self/task')
    .filter((task) => !known.has(task))
    .map((task) => niceOf(`self/task/${task}`))
  expect(nice).toContain(Math.min(19, before + 7))
  expect(niceOf('self')).toBe(before)
  await polite.close()
})

/** The 19th field of proc(5)'s stat; the second, in brackets, may have blanks. */
const niceOf = (of: string): number => Number(readFileSync(`/proc/${of}/stat`, 'utf8').split(') ')[1]?.split(' ')[16])
