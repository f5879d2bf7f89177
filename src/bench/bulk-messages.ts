/** Messages by frame length, out of memory and out of what threads read themselves, by suite, and small ones: in turn with the AWS Encryption SDK. */

import { createCipheriv } from 'node:crypto'
import { readSync } from 'node:fs'
import { mkdtemp, open, rm, writeFile, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Keyring } from '../bulk/keyring.ts'
import { decrypt, decryptStream, encrypt, encryptStream } from '../bulk/stream.ts'
import { signedSuite, unsignedSuite, type Suite } from '../bulk/suites.ts'
import {
  cellsOf,
  context,
  directions,
  dropped,
  frameLengths,
  measureRates,
  sdkDecrypt,
  sdkEncrypt,
  setRatio,
  showLength,
  type Figures,
  type Subject,
  type Way,
} from './bulk-kit.ts'
import { figure, inTurns, type BarChart, type Side, type Table, type View } from './part.ts'

const smallBytes = 1024

export async function measureMessages(subject: Subject): Promise<void> {
  for (const frameLength of frameLengths) {
    await measureFrames(subject, frameLength)
    await measureSources(subject, frameLength)
    await measureSigned(subject, frameLength)
  }
  await measureSmall(subject)
}

async function measureFrames(subject: Subject, frameLength: number): Promise<void> {
  const { source, keyring, pool, figures, sdk } = subject
  const options = { keyring, pool, context, frameLength }
  const message = await encrypt(source, options)
  const at = `${frameLength}`
  await measureRates(subject, at, source.length, [
    { name: 'encrypt', run: () => dropped(encryptStream([source], { ...options, lend: true })) },
    ...sdkEncrypt(sdk, { source, frameLength }),
    { name: 'decrypt', run: () => dropped(decryptStream([message], { ...options, lend: true })) },
    ...sdkDecrypt(sdk, message),
    { name: 'encrypt-bytes', run: () => encrypt(source, options) },
    { name: 'decrypt-bytes', run: () => decrypt(message, options) },
    { name: 'one-thread', run: async () => sealFrames(source, frameLength) },
  ])
  for (const way of directions) setRatio(figures, `${at}/${way}-by-sdk`, `${at}/${way}`, `${at}/sdk-${way}`)
  setRatio(figures, `${at}/encrypt-by-one-thread`, `${at}/encrypt`, `${at}/one-thread`)
}

/** Sources that threads read themselves: shared memory, and a file that the system has in its own. */
async function measureSources(subject: Subject, frameLength: number): Promise<void> {
  const { keyring, pool, figures, sdk } = subject
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
      ...sdkEncrypt(sdk, { source, frameLength, kind: '-shared' }),
      ...sdkDecrypt(sdk, message, '-shared'),
    ])
  } finally {
    for (const handle of files) await handle.close()
    await rm(folder, { recursive: true, force: true })
  }
  for (const kind of ['shared', 'file'])
    setRatio(figures, `${at}/encrypt-${kind}-by-one-thread`, `${at}/encrypt-${kind}`, `${at}/one-thread-${kind}`)
  for (const way of directions) setRatio(figures, `${at}/${way}-shared-by-sdk`, `${at}/${way}-shared`, `${at}/sdk-${way}-shared`)
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

/** Figures of 64 KiB have the shorter name: they were there first. */
const signedAt = (frameLength: number): string => (frameLength === 65_536 ? 'signed' : `signed/${frameLength}`)

/** A quarter of the bytes: nothing signed goes faster than its hash. */
async function measureSigned(subject: Subject, frameLength: number): Promise<void> {
  const { keyring, pool, figures, sdk } = subject
  const source = subject.source.subarray(0, subject.source.length / 4)
  const options = { keyring, pool, context, frameLength, suite: signedSuite }
  const message = await encrypt(source, options)
  const at = signedAt(frameLength)
  await measureRates(subject, at, source.length, [
    { name: 'encrypt', run: () => dropped(encryptStream([source], { ...options, lend: true })) },
    ...sdkEncrypt(sdk, { source, frameLength, suiteId: sdk?.signedSuiteId }),
    { name: 'decrypt', run: () => dropped(decryptStream([message], { ...options, lend: true })) },
    ...sdkDecrypt(sdk, message),
  ])
  for (const way of directions) setRatio(figures, `${at}/${way}-by-sdk`, `${at}/${way}`, `${at}/sdk-${way}`)
}

/** Messages of 1 KiB, one after the other, whose data key is at hand: with the SDK's cache, and (its raw keyring costs little) without. */
async function measureSmall(subject: Subject): Promise<void> {
  const { keyring, pool, figures, part, sdk } = subject
  const plaintext = subject.source.subarray(0, smallBytes)
  const cached = await keyOf(keyring, unsignedSuite)
  const options = { keyring: cached, pool, context }
  const message = await encrypt(plaintext, options)
  const sdkOptions = sdk && { suiteId: sdk.suiteId, encryptionContext: context, plaintextLength: smallBytes }
  const ways: readonly Way[] = [
    { name: 'encrypt', run: () => encrypt(plaintext, options) },
    { name: 'decrypt', run: () => decrypt(message, options) },
    ...(sdk && sdkOptions
      ? [
          { name: 'sdk-encrypt', run: () => sdk.encrypt(sdk.keyring, plaintext, sdkOptions) },
          { name: 'sdk-encrypt-cached', run: () => sdk.encrypt(sdk.caching, plaintext, sdkOptions) },
          { name: 'sdk-decrypt', run: () => sdk.decrypt(sdk.keyring, message) },
          { name: 'sdk-decrypt-cached', run: () => sdk.decrypt(sdk.caching, message) },
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
  for (const way of directions)
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

export function messageViews(figures: Readonly<Figures>): readonly View[] {
  const cell = cellsOf(figures)
  const frames: Table = {
    kind: 'table',
    title: 'One message, by frame length',
    columns: ['', 'Holdfast', 'AWS SDK', 'times the SDK', 'whole', 'one thread', 'times one thread'],
    rows: frameLengths.flatMap((length) =>
      directions.map((way) => [
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
      directions.flatMap((way) =>
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
  const suites: Table = {
    kind: 'table',
    title: 'With a signature and without',
    about: 'Suite 0x0478, and 0x0578, which signs the whole message with ECDSA P-384. Each beside the SDK with the same suite.',
    columns: ['', 'Unsigned', 'AWS SDK', 'times it', 'Signed', 'AWS SDK', 'times it'],
    rows: frameLengths.flatMap((length) =>
      directions.map((way) => [
        `${showLength(length)}, ${way}`,
        ...[`${length}`, signedAt(length)].flatMap((at) => [cell(`${at}/${way}`), cell(`${at}/sdk-${way}`), cell(`${at}/${way}-by-sdk`)]),
      ]),
    ),
  }
  const small: Table = {
    kind: 'table',
    title: 'Messages of 1 KiB, the data key cached',
    columns: ['', 'Holdfast', 'AWS SDK', 'times it', 'AWS SDK, caching', 'times it'],
    rows: directions.map((way) => [
      way,
      cell(`small/${way}`),
      cell(`small/sdk-${way}`),
      cell(`small/${way}-by-sdk`),
      cell(`small/sdk-${way}-cached`),
      cell(`small/${way}-by-sdk-cached`),
    ]),
  }
  const bar = (name: string, id: string) => (id in figures ? [{ name, figure: id }] : [])
  const chart: BarChart = {
    kind: 'bars',
    title: 'Encrypting and decrypting one message',
    y: { label: 'MB/s' },
    groups: frameLengths.flatMap((length) =>
      directions.map((way) => ({
        name: `${showLength(length)}, ${way}`,
        bars: [...bar('Holdfast', `${length}/${way}`), ...bar('AWS SDK', `${length}/sdk-${way}`)],
      })),
    ),
  }
  return [frames, chart, sources, suites, small]
}
