/**
 * Messages of the AWS Encryption SDK on the command line: files and pipes of any length. Data keys come from any KMS; a file appears under its name
 * only when all of it is there and authentic.
 */

import { open } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import type { SigningCredentials } from '../auth/sigv4.ts'
import { PoolFailure } from '../bulk/bulk-pool.ts'
import type { CommitmentPolicy, ReadLimits } from '../bulk/header.ts'
import { SourceFailure } from '../bulk/chunks.ts'
import { MessageError, publicKeyName, type EncryptionContext, type WrittenHeader } from '../bulk/message.ts'
import type { Source } from '../bulk/reader.ts'
import { decryptStream, encryptStream, readHeader, splitHeader } from '../bulk/stream.ts'
import { signedSuite, suites, unsignedSuite, type Suite } from '../bulk/suites.ts'
import { KmsFailure, openKmsClients, type KmsClients } from '../envelope/kms.ts'
import { DataKeyError, kmsKeyring, printable, type Discovery, type KmsKeyring } from '../envelope/kms-keyring.ts'
import { forgeableWithOld, rewrapHeader } from '../envelope/rewrap.ts'
import { credentialsFromFile, readPlainHttp } from './client.ts'
import { CommandFailure, exitCodes, UsageError, type Arguments } from './command.ts'
import { openProgress } from './progress.ts'
import { openTargetFile } from './target-file.ts'
import type { Wiring } from './wiring.ts'

const defaultFrameLength = 65_536

const policies: Readonly<Record<string, CommitmentPolicy>> = {
  'require-encrypt-require-decrypt': 'REQUIRE_ENCRYPT_REQUIRE_DECRYPT',
  'require-encrypt-allow-decrypt': 'REQUIRE_ENCRYPT_ALLOW_DECRYPT',
  'forbid-encrypt-allow-decrypt': 'FORBID_ENCRYPT_ALLOW_DECRYPT',
}

export async function encrypt(args: Arguments, wiring: Wiring): Promise<number> {
  const context = readContext(args)
  const options = {
    context,
    keptOut: readKeptOut(args, context),
    suite: readSuite(args),
    frameLength: readInteger(args, 'frame-length', 1, 2 ** 32 - 1) ?? defaultFrameLength,
  }
  return withKms(args, wiring, ({ keyring }) => {
    const to = keyring(args.flags['key'] ?? [])
    return transform(args, wiring, (source, onTaken) => encryptStream(source, { ...options, keyring: to, lend: true, onTaken }))
  })
}

export async function decrypt(args: Arguments, wiring: Wiring): Promise<number> {
  if (args.flags['buffer-limit'] && !args.flags['buffer']) throw new UsageError('--buffer-limit is for --buffer: give both, or neither.')
  const holdBytes = args.flags['buffer'] && (readInteger(args, 'buffer-limit', 1, Number.MAX_SAFE_INTEGER) ?? 2 ** 30)
  const options = {
    context: readContext(args),
    commitmentPolicy: readPolicy(args),
    limits: readLimits(args),
    ...(holdBytes !== undefined && { holdBytes }),
  }
  return withKms(args, wiring, ({ keyring, regionGiven }) => {
    const from = keyring(args.flags['key'] ?? [], readDiscovery(args, regionGiven))
    return transform(args, wiring, (source, onTaken) => decryptStream(source, { ...options, keyring: from, lend: true, onTaken }))
  })
}

export async function inspect(args: Arguments, wiring: Wiring): Promise<number> {
  const input = await openInput(args, wiring)
  try {
    const written = await readHeader(input.source, { maxEncryptedDataKeys: 65_535 })
    await wiring.print(args.flags['json'] ? `${JSON.stringify(headerFacts(written), undefined, 2)}\n` : describeHeader(written))
    return exitCodes.done
  } catch (error) {
    throw inWords(error, input.name)
  } finally {
    await input.close()
  }
}

export async function rewrap(args: Arguments, wiring: Wiring): Promise<number> {
  const again = args.flags['encrypt-again'] !== undefined
  if (again && args.flags['add']) throw new UsageError('--add keeps the data key, --encrypt-again makes a new one: give one of them.')
  const context = readContext(args)
  const commitmentPolicy = readPolicy(args)
  const limits = readLimits(args)
  return withKms(args, wiring, ({ keyring, regionGiven }) => {
    const to = keyring(args.flags['key'] ?? [])
    const from = keyring(args.flags['from'] ?? [], readDiscovery(args, regionGiven))
    const move = { from, to, context, commitmentPolicy, limits }
    return transform(args, wiring, (source, onTaken) =>
      again
        ? encryptedAgain(source, { ...move, onTaken })
        : rewrapped(source, { ...move, onTaken, add: args.flags['add'] !== undefined }, wiring),
    )
  })
}

interface Move {
  readonly from: KmsKeyring
  readonly to: KmsKeyring
  readonly context: EncryptionContext
  readonly commitmentPolicy: CommitmentPolicy
  readonly limits: Partial<ReadLimits>
  readonly onTaken: (bytes: number) => void
}

async function* rewrapped(source: Source, move: Move & { readonly add: boolean }, wiring: Wiring): AsyncGenerator<Uint8Array> {
  const { written, rest } = await splitHeader(source)
  try {
    yield await rewrapHeader(written, move)
    for await (const bytes of rest) {
      move.onTaken(bytes.length)
      yield bytes
    }
  } finally {
    await rest.return?.()
  }
  if (forgeableWithOld(written.header.suite)) {
    await wiring.printError('Destroy the message as it was: whoever has both could change the body unnoticed (holdfast help rewrap).\n')
  }
}

/** Frame length and context as before; what was kept out stays out. Of an older suite it becomes today's. */
async function* encryptedAgain(source: Source, { from, to, context, commitmentPolicy, limits, onTaken }: Move): AsyncGenerator<Uint8Array> {
  const plain = decryptStream(source, { keyring: from, context, commitmentPolicy, limits, onTaken })
  try {
    const header = await plain.header
    const carried = Object.entries(header.context).filter(([name]) => name !== publicKeyName)
    yield* encryptStream(plain, {
      keyring: to,
      context: { ...context, ...Object.fromEntries(carried) },
      keptOut: Object.keys(context).filter((name) => !Object.hasOwn(header.context, name)),
      suite: header.suite.signature ? signedSuite : unsignedSuite,
      frameLength: header.frameLength || defaultFrameLength,
      lend: true,
    })
  } finally {
    await plain.return?.()
  }
}

// ---- what the command line says ----

function readContext({ flags }: Arguments): EncryptionContext {
  const context = Object.create(null) as Record<string, string>
  for (const pair of flags['context'] ?? []) {
    const at = pair.indexOf('=')
    if (at < 1) throw new UsageError(`--context must be NAME=VALUE; it is ${JSON.stringify(pair)}.`)
    const name = pair.slice(0, at)
    if (name in context) throw new UsageError(`--context gives ${JSON.stringify(name)} twice.`)
    context[name] = pair.slice(at + 1)
  }
  return context
}

function readKeptOut({ flags }: Arguments, context: EncryptionContext): readonly string[] {
  const names = flags['keep-out'] ?? []
  for (const name of names) {
    if (!(name in context)) throw new UsageError(`--keep-out ${name} names no pair of the context: give --context ${name}=VALUE too.`)
  }
  return names
}

function readSuite({ flags }: Arguments): Suite {
  const [text] = flags['suite'] ?? []
  const suite =
    text === undefined ? undefined : suites.get(/^(?:0x)?[0-9a-f]{4}$/i.test(text) ? Number.parseInt(text.replace(/^0x/i, ''), 16) : -1)
  if (text !== undefined && suite !== unsignedSuite && suite !== signedSuite)
    throw new UsageError(`--suite must be 0x0478 (not signed) or 0x0578 (signed); it is ${JSON.stringify(text)}.`)
  if (flags['sign'] && suite === unsignedSuite)
    throw new UsageError('--sign makes suite 0x0578, and --suite asks for 0x0478: give one of them.')
  return suite ?? (flags['sign'] ? signedSuite : unsignedSuite)
}

function readPolicy({ flags }: Arguments): CommitmentPolicy {
  const [text = 'require-encrypt-require-decrypt'] = flags['commitment-policy'] ?? []
  const name = text.toLowerCase().replaceAll('_', '-')
  const policy = Object.hasOwn(policies, name) ? policies[name] : undefined
  if (!policy)
    throw new UsageError(`--commitment-policy must be one of ${Object.keys(policies).join(', ')}; it is ${JSON.stringify(text)}.`)
  return policy
}

function readInteger({ flags }: Arguments, name: string, min: number, max: number): number | undefined {
  const [text] = flags[name] ?? []
  if (text === undefined) return undefined
  const number = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN
  if (!(number >= min && number <= max))
    throw new UsageError(`--${name} must be a whole number from ${min} to ${max}; it is ${JSON.stringify(text)}.`)
  return number
}

function readLimits(args: Arguments): Partial<ReadLimits> {
  const maxFrameLength = readInteger(args, 'max-frame-length', 1, 2 ** 32 - 1)
  return maxFrameLength === undefined ? {} : { maxFrameLength }
}

function readDiscovery({ flags }: Arguments, region: string | undefined): Discovery {
  const [partition] = flags['partition'] ?? []
  return { accounts: flags['account'], partition, ...(region !== undefined && { regions: [region] }) }
}

// ---- the KMS ----

interface Keyrings {
  /** Strict, or over what the message names where no key is. */
  readonly keyring: (keys: readonly string[], discovery?: Discovery) => KmsKeyring
  /** By the flag. */
  readonly regionGiven: string | undefined
}

async function withKms(args: Arguments, wiring: Wiring, run: (keyrings: Keyrings) => Promise<number>): Promise<number> {
  const settings = wiring.clientSettings()
  const flag = (name: string): string | undefined => args.flags[name]?.[0]
  const endpoint = flag('endpoint') ?? settings.endpoint
  const isAws = endpoint === 'aws'
  const allowPlainHttp = !isAws && readPlainHttp(args, readEndpoint(endpoint), flag('endpoint') === undefined && settings.isOwnService)
  const profile = flag('profile')
  const credentials = async (): Promise<SigningCredentials> =>
    (profile === undefined ? settings.credentials : undefined) ??
    credentialsFromFile({
      ...settings,
      profile: profile ?? settings.profile,
      ...(isAws && { credentialsFile: settings.awsCredentialsFile }),
    })
  const signer = await credentials()
  const clients: KmsClients = openKmsClients({
    endpoint: isAws ? undefined : endpoint,
    allowPlainHttp,
    credentials: signer,
    trust: settings.trust,
    now: () => wiring.nowMs(),
  })
  const grantTokens = args.flags['grant-token']
  const region = flag('region') ?? settings.callRegion
  const keyring: Keyrings['keyring'] = (keys, discovery) => {
    const isFiltered = discovery !== undefined && (discovery.accounts !== undefined || discovery.partition !== undefined)
    if (keys.length > 0 && isFiltered)
      throw new UsageError('--account and --partition are for keys that are not named: leave them out, or the keys.')
    try {
      return kmsKeyring({ kms: clients.of, region, keys, grantTokens, discovery: keys.length > 0 ? undefined : discovery })
    } catch (error) {
      throw error instanceof DataKeyError ? new UsageError(error.message, { cause: error }) : error
    }
  }
  try {
    return await run({ keyring, regionGiven: flag('region') })
  } finally {
    clients.close()
  }
}

/** That of some region, where each has one of its own. @throws UsageError */
function readEndpoint(endpoint: string): URL {
  const text = endpoint.replaceAll('{region}', 'us-east-1')
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url && ['http:', 'https:'].includes(url.protocol)) return url
  throw new UsageError(`--endpoint must be a URL such as https://holdfast.example:8480, or aws; it is ${JSON.stringify(endpoint)}.`)
}

// ---- bytes in, bytes out ----

interface Input {
  /** A regular file is read by the threads. */
  readonly source: Source
  readonly name: string
  /** Of a file. */
  readonly bytes: number | undefined
  close(): Promise<void>
}

/** Of a device. */
const chunkBytes = 1_048_576

async function openInput(args: Arguments, wiring: Wiring): Promise<Input> {
  const path = args.positionals['FILE']
  if (path === undefined || path === '-') return inputOf(wiring.streams.input(), 'standard input')
  try {
    const handle = await open(path, 'r')
    const found = await handle.stat()
    if (found.isDirectory()) {
      await handle.close()
      throw new CommandFailure(`${path} is a directory.`)
    }
    if (!found.isFile()) return inputOf(handle.createReadStream({ highWaterMark: chunkBytes }), path)
    return { source: handle, name: path, bytes: found.size, close: () => handle.close() }
  } catch (cause) {
    if (cause instanceof CommandFailure) throw cause
    throw new CommandFailure(`${path} cannot be read: ${cause instanceof Error ? cause.message : ''}.`, { cause })
  }
}

const inputOf = (readable: Readable, name: string): Input => ({
  source: readable,
  name,
  bytes: undefined,
  close: async () => void readable.destroy(),
})

interface Output {
  write(bytes: Uint8Array): Promise<void>
  commit(): Promise<void>
  abandon(): Promise<void>
  readonly name: string
}

async function openOutput(args: Arguments, wiring: Wiring): Promise<Output> {
  const path = args.flags['output']?.[0]
  if (path === undefined || path === '-') {
    if (path === undefined && wiring.streams.outputIsTerminal()) {
      throw new UsageError('Bytes do not belong on a terminal: give --output FILE, or --output - to have them there all the same.')
    }
    const nothing = async (): Promise<void> => undefined
    return { write: (bytes) => wiring.streams.write(bytes), commit: nothing, abandon: nothing, name: 'standard output' }
  }
  return { ...(await openTargetFile(path, args.flags['force'] !== undefined)), name: path }
}

/** Passes the input through to the output; the output is there whole, or not at all. */
async function transform(
  args: Arguments,
  wiring: Wiring,
  work: (source: Source, onTaken: (bytes: number) => void) => AsyncIterable<Uint8Array>,
): Promise<number> {
  const input = await openInput(args, wiring)
  const interruption = wiring.streams.interruption()
  let output: Output | undefined
  let wrote = 0
  const wantsProgress = wiring.streams.errorIsTerminal() && args.flags['quiet'] === undefined
  const progress = wantsProgress ? openProgress(input.bytes, (text) => void wiring.printError(text)) : undefined
  try {
    const target = (output = await openOutput(args, wiring))
    const pass = async (): Promise<void> => {
      for await (const piece of work(input.source, (bytes) => progress?.add(bytes))) {
        interruption.signal.throwIfAborted()
        wrote += piece.length
        await target.write(piece)
      }
    }
    await unlessAborted(interruption.signal, pass)
    await output.commit()
    return exitCodes.done
  } catch (error) {
    await output?.abandon()
    progress?.close()
    if (interruption.signal.aborted) throw new CommandFailure(`Interrupted. ${leftBehind(output, wrote)}`, { cause: error })
    const failure = inWords(error, input.name)
    throw failure instanceof CommandFailure && output
      ? new CommandFailure(`${failure.message} ${leftBehind(output, wrote)}`, { cause: error })
      : failure
  } finally {
    progress?.close()
    interruption.close()
    await input.close()
  }
}

/** Does not wait for work that is given up: what it waits for, a named pipe or a service, may never come. @throws the signal's reason */
async function unlessAborted(signal: AbortSignal, work: () => Promise<void>): Promise<void> {
  signal.throwIfAborted()
  const aborted = new Promise<never>((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))
  await Promise.race([work(), aborted])
  signal.throwIfAborted()
}

function leftBehind(output: Output | undefined, wrote: number): string {
  if (output && output.name !== 'standard output') return `Nothing was written to ${output.name}.`
  return wrote > 0 ? 'What was written to standard output is NOT all of it: do not use it.' : 'Nothing was written.'
}

/** What went wrong, for whoever typed the command. A defect stays what it is. */
function inWords(error: unknown, input: string): unknown {
  if (error instanceof CommandFailure || error instanceof UsageError) return error
  if (error instanceof MessageError || error instanceof SourceFailure)
    return new CommandFailure(ended(`${input}: ${error.message}`), { cause: error })
  if (error instanceof DataKeyError || error instanceof KmsFailure || error instanceof PoolFailure)
    return new CommandFailure(ended(error.message), { cause: error })
  // An encryption context, or frames, that no message can hold.
  if (error instanceof RangeError) return new UsageError(ended(error.message), { cause: error })
  if (error instanceof Error && 'syscall' in error) return new CommandFailure(ended(error.message), { cause: error })
  return error
}

const ended = (sentence: string): string => (/[.!?]$/.test(sentence) ? sentence : `${sentence}.`)

// ---- a header for the eye ----

function headerFacts({ header, byteLength }: WrittenHeader) {
  const { suite, messageId, context, encryptedDataKeys, frameLength, commitment } = header
  return {
    version: suite.version,
    suite: `0x${suite.id.toString(16).padStart(4, '0')}`,
    suiteName: suite.name,
    signed: suite.signature !== undefined,
    commits: suite.commits,
    messageId: messageId.toString('hex'),
    encryptionContext: { ...context },
    encryptedDataKeys: encryptedDataKeys.map(({ providerId, providerInfo, ciphertext }) => ({
      provider: providerId,
      key: providerId === 'aws-kms' ? providerInfo.toString('utf8') : providerInfo.toString('base64'),
      bytes: ciphertext.length,
    })),
    frameLength,
    ...(commitment && { commitment: commitment.toString('hex') }),
    headerBytes: byteLength,
  }
}

function describeHeader(written: WrittenHeader): string {
  const { version, suite, suiteName, signed, commits, messageId, encryptionContext, encryptedDataKeys, frameLength, headerBytes } =
    headerFacts(written)
  const pairs = Object.entries(encryptionContext)
  return [
    `message     ${messageId}`,
    `format      version ${version}, header of ${headerBytes} bytes`,
    `suite       ${suite} ${suiteName}: ${signed ? 'signed' : 'not signed'}, ${commits ? 'commits to its key' : 'does not commit to its key'}`,
    `frames      ${frameLength === 0 ? 'none: the body is one piece' : `of ${frameLength} bytes`}`,
    ...encryptedDataKeys.map(({ provider, key, bytes }) => `data key    ${printable(provider)} ${printable(key)}, ${bytes} bytes`),
    ...(pairs.length === 0 ? ['context     none'] : pairs.map(([name, value]) => `context     ${printable(name)} = ${printable(value)}`)),
    'Nothing of this is verified.',
    '',
  ].join('\n')
}
