/**
 * What bulk encryption gives: messages of the AWS Encryption SDK by Holdfast and by that SDK's implementation for Node, of the same bytes, with the same
 * raw AES keyring, in turn. Beside them what the machine can do: one thread of node:crypto, and OpenSSL alone.
 *
 * The source is in memory, in shared memory or in a file, the same for each side; what comes out is counted and dropped. Holdfast lends its pieces, as a writer
 * to a file takes them.
 */

import { spawn } from 'node:child_process'
import { createCipheriv, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readSync } from 'node:fs'
import { mkdtemp, open, rm, writeFile, type FileHandle } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { openBulkPool, slabBytes, type BulkPool } from '../bulk/bulk-pool.ts'
import { copyInto, sealRoom } from '../bulk/frames.ts'
import { rawAesKeyring, type Keyring } from '../bulk/keyring.ts'
import { decrypt, decryptStream, encrypt, encryptStream } from '../bulk/stream.ts'
import { signedSuite, unsignedSuite, type Suite } from '../bulk/suites.ts'
import {
  figure,
  inTurns,
  median,
  ratioOf,
  type BarChart,
  type Figure,
  type Part,
  type PartContext,
  type PartReport,
  type Plan,
  type Side,
  type Table,
} from './part.ts'
import { showNumber } from './text.ts'

type Sdk = typeof import('@aws-crypto/client-node')

const mebi = 2 ** 20
/** The length of one message follows from how long a side is to be measured: 256 MiB in a full run, with a long stream of 4 GiB. */
const sizesOf = ({ durationMs }: Plan) => {
  const mebibytes = 2 ** Math.max(0, Math.floor(Math.log2(durationMs / 10)))
  return { bytes: mebibytes * mebi, longBytes: 16 * mebibytes * mebi }
}
const frameLengths = [4096, 65_536, 1_048_576] as const
/** So many times as fast as the SDK it is to be. */
const wanted: Readonly<Record<number, number>> = { 4096: 6, 65_536: 4.5, 1_048_576: 2.5 }
const smallBytes = 1024
const context = { app: 'bench' }
const names = { namespace: 'holdfast-bench', name: 'bench' }
const showLength = (bytes: number): string => (bytes >= mebi ? `${bytes / mebi} MiB` : `${bytes / 1024} KiB`)

/** One way of doing it to the same bytes. */
interface Way {
  readonly name: string
  readonly run: () => Promise<unknown>
}

export const bulkPart: Part = {
  name: 'bulk',
  title: 'Bulk encryption',
  async run(part): Promise<PartReport> {
    const { bytes, longBytes } = sizesOf(part.plan)
    const figures: Record<string, Figure> = {}
    const lacking: string[] = []
    const sdk = await loadSdk(lacking)
    const pool = openBulkPool()
    const key = randomBytes(32)
    const keyring = rawAesKeyring({ ...names, key })
    try {
      // The largest first: memory that is mapped once is there for all that follows.
      const rss = await growth(part, keyring, pool, longBytes)
      figures['rss/growth'] = figure('bytes', 'lower', rss)
      const source = Buffer.alloc(bytes, 'what is encrypted ')
      const subject: Subject = { part, source, keyring, pool, figures, key, ...(sdk && { sdk }) }
      for (const frameLength of frameLengths) {
        await measureFrames(subject, frameLength)
        await measureSources(subject, frameLength)
      }
      await measureSigned(subject)
      await measureSmall(subject)
      await measureParts(subject)
      const openssl = await opensslSpeed(part)
      if (openssl === undefined) lacking.push('What OpenSSL does alone: there is no `openssl` command.')
      else figures['openssl'] = figure('MB/s', 'higher', openssl)
    } finally {
      await pool.close()
    }
    return { about: about(bytes), figures, views: views(figures), lacking, headlines: headlines(figures) }
  },
}

interface Subject {
  readonly part: PartContext
  readonly source: Buffer
  readonly key: Buffer
  readonly keyring: Keyring
  readonly pool: BulkPool
  readonly figures: Record<string, Figure>
  readonly sdk?: Sdk
}

/** The SDK is there for development only. */
async function loadSdk(lacking: string[]): Promise<Sdk | undefined> {
  try {
    return await import('@aws-crypto/client-node')
  } catch {
    lacking.push('The AWS Encryption SDK: the package @aws-crypto/client-node is not installed.')
    return undefined
  }
}

function sdkClient({ sdk, key }: Subject) {
  if (!sdk) return undefined
  const { buildClient, CommitmentPolicy, RawAesKeyringNode, RawAesWrappingSuiteIdentifier } = sdk
  const keyring = new RawAesKeyringNode({
    keyNamespace: names.namespace,
    keyName: names.name,
    unencryptedMasterKey: new Uint8Array(key),
    wrappingSuite: RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING,
  })
  const cache = sdk.getLocalCryptographicMaterialsCache(16)
  return {
    ...buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT),
    keyring,
    caching: new sdk.NodeCachingMaterialsManager({ backingMaterials: keyring, cache, maxAge: 3_600_000 }),
    suiteId: sdk.AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA512_COMMIT_KEY,
    signedSuiteId: sdk.AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA512_COMMIT_KEY_ECDSA_P384,
  }
}

async function dropped(stream: AsyncIterable<Buffer>): Promise<number> {
  let length = 0
  for await (const piece of stream) length += piece.length
  return length
}

/** Each way once in each round, all of the bytes; MB/s by `prefix/name`. */
async function measureRates({ part, figures }: Subject, prefix: string, bytes: number, ways: readonly Way[]): Promise<void> {
  // Code is compiled, threads are started, memory is mapped.
  for (const { run } of ways) await run()
  const sides = ways.map(({ name, run }): Side => ({
    name,
    async measure() {
      const begin = performance.now()
      await run()
      return { rate: bytes / 1000 / (performance.now() - begin) }
    },
  }))
  const numbers = await inTurns(part, sides, `bulk encryption, ${prefix}`)
  for (const { name } of ways) figures[`${prefix}/${name}`] = figure('MB/s', 'higher', numbers.get(`${name}/rate`) ?? [])
}

function setRatio(figures: Record<string, Figure>, id: string, of: string, by: string): void {
  const [first, second] = [figures[of], figures[by]]
  if (first && second) figures[id] = ratioOf(first, second)
}

async function measureFrames(subject: Subject, frameLength: number): Promise<void> {
  const { source, keyring, pool, figures } = subject
  const client = sdkClient(subject)
  const options = { keyring, pool, context, frameLength }
  const message = await encrypt(source, options)
  const at = `${frameLength}`
  await measureRates(subject, at, source.length, [
    { name: 'encrypt', run: () => dropped(encryptStream([source], { ...options, lend: true })) },
    ...(client
      ? [
          {
            name: 'sdk-encrypt',
            run: () => client.encrypt(client.keyring, source, { suiteId: client.suiteId, encryptionContext: context, frameLength }),
          },
        ]
      : []),
    { name: 'decrypt', run: () => dropped(decryptStream([message], { ...options, lend: true })) },
    ...(client ? [{ name: 'sdk-decrypt', run: () => client.decrypt(client.keyring, message) }] : []),
    { name: 'encrypt-bytes', run: () => encrypt(source, options) },
    { name: 'decrypt-bytes', run: () => decrypt(message, options) },
    { name: 'one-thread', run: async () => sealFrames(source, frameLength) },
  ])
  for (const way of ['encrypt', 'decrypt']) setRatio(figures, `${at}/${way}-by-sdk`, `${at}/${way}`, `${at}/sdk-${way}`)
  setRatio(figures, `${at}/encrypt-by-one-thread`, `${at}/encrypt`, `${at}/one-thread`)
}

/** Sources that threads read themselves: shared memory, and a file that the system has in its own. */
async function measureSources(subject: Subject, frameLength: number): Promise<void> {
  const { keyring, pool, figures } = subject
  const client = sdkClient(subject)
  const options = { keyring, pool, context, frameLength, borrow: true, lend: true }
  const source = share(subject.source)
  const message = share(await encrypt(source, { keyring, pool, context, frameLength }))
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-bench-'))
  const files: FileHandle[] = []
  const inFile = async (name: string, bytes: Buffer): Promise<FileHandle> => {
    await writeFile(join(folder, name), bytes, { mode: 0o600 })
    const handle = await open(join(folder, name))
    files.push(handle)
    return handle
  }
  const at = `${frameLength}`
  try {
    const [sourceFile, messageFile] = [await inFile('source', source), await inFile('message', message)]
    await measureRates(subject, at, source.length, [
      { name: 'encrypt-shared', run: () => dropped(encryptStream([source], options)) },
      { name: 'one-thread-shared', run: async () => sealFrames(source, frameLength) },
      { name: 'encrypt-file', run: () => dropped(encryptStream(sourceFile, options)) },
      { name: 'one-thread-file', run: async () => sealFile(sourceFile, source.length, frameLength) },
      { name: 'decrypt-shared', run: () => dropped(decryptStream([message], options)) },
      { name: 'decrypt-file', run: () => dropped(decryptStream(messageFile, options)) },
      ...(client
        ? [
            {
              name: 'sdk-encrypt-shared',
              run: () => client.encrypt(client.keyring, source, { suiteId: client.suiteId, encryptionContext: context, frameLength }),
            },
            { name: 'sdk-decrypt-shared', run: () => client.decrypt(client.keyring, message) },
          ]
        : []),
    ])
  } finally {
    for (const handle of files) await handle.close()
    await rm(folder, { recursive: true, force: true })
  }
  for (const kind of ['shared', 'file'])
    setRatio(figures, `${at}/encrypt-${kind}-by-one-thread`, `${at}/encrypt-${kind}`, `${at}/one-thread-${kind}`)
  for (const way of ['encrypt', 'decrypt'])
    setRatio(figures, `${at}/${way}-shared-by-sdk`, `${at}/${way}-shared`, `${at}/sdk-${way}-shared`)
}

const share = (bytes: Buffer): Buffer => Buffer.from(new SharedArrayBuffer(bytes.length)).fill(bytes)

/** What one thread of node:crypto does: independent frames, each into memory of its own. */
function sealFrames(source: Buffer, frameLength: number): void {
  const seal = frameSealer()
  for (let at = 0; at < source.length; at += frameLength) seal(source.subarray(at, at + frameLength))
}

/** The same of what it reads, into memory that it uses again. */
function sealFile({ fd }: FileHandle, bytes: number, frameLength: number): void {
  const seal = frameSealer()
  const room = Buffer.alloc(Math.max(frameLength, 65_536))
  for (let position = 0; position < bytes; position += room.length) {
    const read = readSync(fd, room, 0, room.length, position)
    for (let at = 0; at < read; at += frameLength) seal(room.subarray(at, Math.min(read, at + frameLength)))
  }
}

function frameSealer(): (frame: Buffer) => void {
  const key = Buffer.alloc(32, 1)
  const iv = Buffer.alloc(12)
  const aad = Buffer.alloc(76)
  let sequence = 0
  return (frame) => {
    iv.writeUInt32BE(sequence++, 8)
    const gcm = createCipheriv('aes-256-gcm', key, iv)
    gcm.setAAD(aad)
    gcm.update(frame)
    gcm.final()
    gcm.getAuthTag()
  }
}

async function measureSigned(subject: Subject): Promise<void> {
  const { source, keyring, pool, figures } = subject
  const client = sdkClient(subject)
  const part = source.subarray(0, source.length / 4)
  const frameLength = 65_536
  const options = { keyring, pool, context, frameLength, suite: signedSuite }
  const message = await encrypt(part, options)
  await measureRates(subject, 'signed', part.length, [
    { name: 'encrypt', run: () => dropped(encryptStream([part], { ...options, lend: true })) },
    ...(client
      ? [
          {
            name: 'sdk-encrypt',
            run: () => client.encrypt(client.keyring, part, { suiteId: client.signedSuiteId, encryptionContext: context, frameLength }),
          },
        ]
      : []),
    { name: 'decrypt', run: () => dropped(decryptStream([message], { ...options, lend: true })) },
    ...(client ? [{ name: 'sdk-decrypt', run: () => client.decrypt(client.keyring, message) }] : []),
  ])
  for (const way of ['encrypt', 'decrypt']) setRatio(figures, `signed/${way}-by-sdk`, `signed/${way}`, `signed/sdk-${way}`)
}

/** Messages of 1 KiB, one after the other, whose data key is at hand: with the SDK's cache, and (its raw keyring costs little) without. */
async function measureSmall(subject: Subject): Promise<void> {
  const { keyring, pool, figures, part } = subject
  const client = sdkClient(subject)
  const plaintext = subject.source.subarray(0, smallBytes)
  const cached = await keyOf(keyring, unsignedSuite)
  const options = { keyring: cached, pool, context }
  const message = await encrypt(plaintext, options)
  const sdkOptions = client && { suiteId: client.suiteId, encryptionContext: context, plaintextLength: smallBytes }
  const ways: readonly Way[] = [
    { name: 'encrypt', run: () => encrypt(plaintext, options) },
    { name: 'decrypt', run: () => decrypt(message, options) },
    ...(client && sdkOptions
      ? [
          { name: 'sdk-encrypt', run: () => client.encrypt(client.keyring, plaintext, sdkOptions) },
          { name: 'sdk-encrypt-cached', run: () => client.encrypt(client.caching, plaintext, sdkOptions) },
          { name: 'sdk-decrypt', run: () => client.decrypt(client.keyring, message) },
          { name: 'sdk-decrypt-cached', run: () => client.decrypt(client.caching, message) },
        ]
      : []),
  ]
  const sides = ways.map(({ name, run }): Side => ({
    name,
    async measure() {
      await again(run, part.plan.warmupMs)
      return { rate: await again(run, part.plan.durationMs) }
    },
  }))
  const numbers = await inTurns(part, sides, 'bulk encryption, small messages')
  for (const { name } of ways) figures[`small/${name}`] = figure('calls/s', 'higher', numbers.get(`${name}/rate`) ?? [])
  for (const way of ['encrypt', 'decrypt'])
    for (const kind of ['', '-cached']) setRatio(figures, `small/${way}-by-sdk${kind}`, `small/${way}`, `small/sdk-${way}${kind}`)
}

/** One after the other for so long; how many a second. */
async function again(run: () => Promise<unknown>, forMs: number): Promise<number> {
  const startedAt = performance.now()
  let count = 0
  let tookMs = 0
  do {
    await run()
    count++
    tookMs = performance.now() - startedAt
  } while (tookMs < forMs)
  return (count * 1000) / tookMs
}

/** One data key for all. */
async function keyOf(keyring: Keyring, suite: Suite): Promise<Keyring> {
  const { dataKey, encryptedDataKeys } = await keyring.encrypting({ suite, context })
  return {
    encrypting: async () => ({ dataKey: Buffer.from(dataKey), encryptedDataKeys }),
    decrypting: async () => ({ dataKey: Buffer.from(dataKey) }),
  }
}

/** Where the time goes, at 64 KiB: the cipher into memory that is used again, the copies, handing runs to threads and back. Each for the same bytes, in one thread. */
async function measureParts(subject: Subject): Promise<void> {
  const { source, pool, figures } = subject
  const slab = pool.takeSlab(slabBytes)
  const cipher = createCipheriv('aes-256-gcm', Buffer.alloc(32, 1), Buffer.alloc(12))
  const piece = source.subarray(0, 65_536)
  const key = new SharedArrayBuffer(32)
  const runs = Math.ceil(source.length / mebi)
  const nothing = {
    cipher: unsignedSuite.cipher,
    key,
    messageId: new Uint8Array(32),
    slab: slab.shared,
    run: { at: 40, plaintextBytes: 0, frameLength: 65_536, firstSequence: 1, last: true },
  }
  const frames = mebi / piece.length
  const full = { at: sealRoom(frames), plaintextBytes: mebi, frameLength: piece.length, firstSequence: 1, last: false }
  const slabs = Array.from({ length: 2 * pool.threads }, () => pool.takeSlab(slabBytes))
  await measureRates(subject, 'parts', runs * mebi, [
    {
      name: 'threads',
      run: async () => {
        let left = runs
        await Promise.all(
          slabs.map(async ({ shared }) => {
            while (left-- > 0) await pool.seal({ ...nothing, slab: shared, run: full })
          }),
        )
      },
    },
    {
      name: 'cipher',
      run: async () => {
        for (let n = 0; n < runs * 16; n++) cipher.update(piece)
      },
    },
    {
      name: 'copy-in',
      run: async () => {
        for (let n = 0; n < runs; n++) copyInto(slab.memory, 520, source.subarray(n * mebi, (n + 1) * mebi))
      },
    },
    {
      name: 'copy-back',
      run: async () => {
        for (let n = 0; n < runs * 16; n++) copyInto(slab.memory, 16 + (n % 16) * 65_568, piece)
      },
    },
    {
      name: 'hand-over',
      run: async () => {
        for (let n = 0; n < runs; n++) await pool.seal(nothing)
      },
    },
  ])
  for (const used of [slab, ...slabs]) pool.giveSlab(used)
  setRatio(figures, 'parts/threads-by-one-thread', 'parts/threads', '65536/one-thread')
}

/** How much memory more the process has at the most while a long stream passes, in bytes; once, the stream being long. */
async function growth({ progress }: PartContext, keyring: Keyring, pool: BulkPool, bytes: number): Promise<readonly number[]> {
  progress(`bulk encryption: a stream of ${bytes / mebi} MiB`)
  const chunk = Buffer.alloc(mebi, 3)
  function* source() {
    for (let given = 0; given < bytes; given += chunk.length) yield chunk
  }
  const before = process.memoryUsage.rss()
  let most = before
  let seen = 0
  for await (const piece of decryptStream(encryptStream(source(), { keyring, pool, lend: true }), { keyring, pool, lend: true })) {
    seen += piece.length
    if (seen % (64 * mebi) < piece.length) most = Math.max(most, process.memoryUsage.rss())
  }
  if (seen !== bytes) throw new Error(`of ${bytes} bytes ${seen} came back`)
  return [Math.max(0, Math.max(most, process.memoryUsage.rss()) - before)]
}

/** MB/s of one thread, without Node; undefined where there is no such command. */
async function opensslSpeed({ plan, progress }: PartContext): Promise<readonly number[] | undefined> {
  progress('bulk encryption: openssl speed')
  const rounds: number[] = []
  while (rounds.length < plan.rounds) {
    const child = spawn('openssl', ['speed', '-seconds', '1', '-bytes', '65536', '-mr', '-evp', 'aes-256-gcm'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
    try {
      await once(child, 'close')
    } catch {
      return undefined
    }
    const rate = Number(/^\+F:\d+:[^:]*:([\d.]+)/m.exec(text)?.[1])
    if (!Number.isFinite(rate)) return undefined
    rounds.push(rate / 1e6)
  }
  return rounds
}

const about = (bytes: number): readonly string[] => [
  `Messages of ${showLength(bytes)}, suite 0x0478 (AES-256-GCM, HKDF, key commitment), by Holdfast with ${availableParallelism()} threads and by the AWS Encryption SDK for JavaScript, whose data keys come from one raw AES key. The source is in memory, the output is counted and dropped. Holdfast's pieces are lent, as to a writer that awaits each write; "whole" is bytes in, bytes out, in memory of their own.`,
  'One thread is node:crypto sealing frames one by one into fresh memory, on the main thread. OpenSSL alone is `openssl speed -evp aes-256-gcm` in blocks of 64 KiB, one thread.',
]

function views(figures: Readonly<Record<string, Figure>>): PartReport['views'] {
  const cell = (id: string): string | { readonly figure: string } => (id in figures ? { figure: id } : '–')
  const ways = ['encrypt', 'decrypt'] as const
  const frames: Table = {
    kind: 'table',
    title: 'One message, by frame length',
    columns: ['', 'Holdfast', 'AWS SDK', 'times the SDK', 'whole', 'one thread', 'times one thread'],
    rows: frameLengths.flatMap((length) =>
      ways.map((way) => [
        `${showLength(length)}, ${way}`,
        cell(`${length}/${way}`),
        cell(`${length}/sdk-${way}`),
        cell(`${length}/${way}-by-sdk`),
        cell(`${length}/${way}-bytes`),
        way === 'encrypt' ? cell(`${length}/one-thread`) : '',
        way === 'encrypt' ? cell(`${length}/encrypt-by-one-thread`) : '',
      ]),
    ),
  }
  const places = { shared: 'shared memory', file: 'a file' } as const
  const sources: Table = {
    kind: 'table',
    title: 'Out of what threads read themselves',
    about:
      'The same message out of shared memory that is lent (borrow), and out of a file that the system has in memory. The SDK is given the same shared memory; the one thread reads the same.',
    columns: ['', 'Holdfast', 'AWS SDK', 'times the SDK', 'one thread', 'times one thread'],
    rows: frameLengths.flatMap((length) =>
      ways.flatMap((way) =>
        (['shared', 'file'] as const).map((kind) => [
          `${showLength(length)}, ${way}, ${places[kind]}`,
          cell(`${length}/${way}-${kind}`),
          kind === 'shared' ? cell(`${length}/sdk-${way}-shared`) : '',
          kind === 'shared' ? cell(`${length}/${way}-shared-by-sdk`) : '',
          way === 'encrypt' ? cell(`${length}/one-thread-${kind}`) : '',
          way === 'encrypt' ? cell(`${length}/encrypt-${kind}-by-one-thread`) : '',
        ]),
      ),
    ),
  }
  const signed: Table = {
    kind: 'table',
    title: 'Signed (0x0578), frames of 64 KiB',
    columns: ['', 'Holdfast', 'AWS SDK', 'times the SDK'],
    rows: ways.map((way) => [way, cell(`signed/${way}`), cell(`signed/sdk-${way}`), cell(`signed/${way}-by-sdk`)]),
  }
  const small: Table = {
    kind: 'table',
    title: 'Messages of 1 KiB, the data key cached',
    columns: ['', 'Holdfast', 'AWS SDK', 'times it', 'AWS SDK, caching', 'times it'],
    rows: ways.map((way) => [
      way,
      cell(`small/${way}`),
      cell(`small/sdk-${way}`),
      cell(`small/${way}-by-sdk`),
      cell(`small/sdk-${way}-cached`),
      cell(`small/${way}-by-sdk-cached`),
    ]),
  }
  const parts: Table = {
    kind: 'table',
    title: 'Where the time goes at 64 KiB, in one thread',
    about:
      'The cipher alone, the copy into shared memory on the main thread, the copy back from OpenSSL in the threads, and handing a run of 1 MiB to a thread and back, waiting for it; and what bounds all of it, the threads sealing slabs that nobody fills.',
    columns: ['', 'rate'],
    rows: [
      ['the cipher (one GCM, 64 KiB at a time)', cell('parts/cipher')],
      ['copying in', cell('parts/copy-in')],
      ['copying back', cell('parts/copy-back')],
      ['handing over', cell('parts/hand-over')],
      ['the threads, nobody filling or reading', cell('parts/threads')],
      ['times one thread of node:crypto', cell('parts/threads-by-one-thread')],
      ['OpenSSL alone', cell('openssl')],
      ['memory more for the longest stream', cell('rss/growth')],
    ],
  }
  const bar = (name: string, id: string) => (id in figures ? [{ name, figure: id }] : [])
  const chart: BarChart = {
    kind: 'bars',
    title: 'Encrypting and decrypting one message',
    y: { label: 'MB/s' },
    groups: frameLengths.flatMap((length) =>
      ways.map((way) => ({
        name: `${showLength(length)}, ${way}`,
        bars: [...bar('Holdfast', `${length}/${way}`), ...bar('AWS SDK', `${length}/sdk-${way}`)],
      })),
    ),
  }
  return [frames, chart, sources, signed, small, parts]
}

function headlines(figures: Readonly<Record<string, Figure>>): readonly string[] {
  const of = (id: string): string => (figures[id] ? showNumber(figures[id].median) : '–')
  const byLength = frameLengths.map(
    (length) => `${of(`${length}/encrypt-by-sdk`)}/${of(`${length}/decrypt-by-sdk`)}× at ${showLength(length)} (wanted ${wanted[length]}×)`,
  )
  const shared = frameLengths.map((length) => `${of(`${length}/encrypt-shared-by-sdk`)}/${of(`${length}/decrypt-shared-by-sdk`)}×`)
  const byThread = ['', '-shared', '-file'].map((kind) => `${of(`65536/encrypt${kind}-by-one-thread`)}×`)
  return [
    `Bulk, encrypting/decrypting against the AWS Encryption SDK: ${byLength.join(', ')}; out of shared memory ${shared.join(', ')}; out of memory, shared memory, a file ${byThread.join(', ')} one thread (wanted 1.6×)`,
    `Bulk, messages of 1 KiB: ${of('small/encrypt-by-sdk')}/${of('small/decrypt-by-sdk')}× the SDK (wanted 8×); a long stream takes ${showNumber(median(figures['rss/growth']?.rounds ?? []) / mebi)} MiB more memory (wanted at most 200)`,
  ]
}
