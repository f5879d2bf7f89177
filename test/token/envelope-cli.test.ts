/**
 * `holdfast encrypt`, `decrypt`, `inspect`, `rewrap` against a service in a process of its own, and the AWS Encryption SDK at the other end: what comes
 * out, and that nothing lies under the target's name until all of it does. Where signals and pipes matter, the command is a process too.
 */
import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  appendFileSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { open, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { AlgorithmSuiteIdentifier, buildClient, CommitmentPolicy, KmsKeyringNode } from '@aws-crypto/client-node'
import { CreateAliasCommand, CreateKeyCommand, KMS, ReplicateKeyCommand } from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { runCommandLine } from '../../src/cli/commands.ts'
import type { ClientSettings, Wiring } from '../../src/cli/wiring.ts'
import { builtProgram } from '../programs.ts'
import { cleanEnvironment } from './environment.ts'
import { startHoldfast, type Holdfast } from './holdfast.ts'

let holdfast: Holdfast
let kms: KMS
let key: string
let farKey: string
const dir = mkdtempSync(join(tmpdir(), 'holdfast-envelope-'))

beforeAll(async () => {
  // A token for each Region: between two of them a multi-Region key can be copied.
  holdfast = await startHoldfast({ env: { HOLDFAST_LOG_LEVEL: 'trace', HOLDFAST_REGIONS: 'us-east-1,eu-west-1' } })
  kms = new KMS({ ...holdfast, endpoint: holdfast.endpoint, region: holdfast.region, credentials: holdfast.credentials, maxAttempts: 1 })
  const far = new KMS({ endpoint: holdfast.endpoint, region: 'eu-west-1', credentials: holdfast.credentials, maxAttempts: 1 })
  key = (await kms.send(new CreateKeyCommand({}))).KeyMetadata?.Arn ?? ''
  farKey = (await far.send(new CreateKeyCommand({}))).KeyMetadata?.Arn ?? ''
  far.destroy()
  await kms.send(new CreateAliasCommand({ AliasName: 'alias/app', TargetKeyId: key }))
})
afterAll(async () => {
  kms?.destroy()
  await holdfast?.remove()
  rmSync(dir, { recursive: true, force: true })
})

interface Ran {
  readonly code: number | null
  /** That ended it. */
  readonly signal?: NodeJS.Signals | null
  readonly out: Buffer
  readonly err: string
}

function start(words: readonly string[]): ChildProcess {
  return spawn(process.execPath, [builtProgram('test/token/main-program.ts'), ...words], {
    cwd: dir,
    env: { ...cleanEnvironment(), HOLDFAST_DATA_DIR: holdfast.dir },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
}

function ended(child: ChildProcess): Promise<Ran> {
  const out: Buffer[] = []
  let err = ''
  child.stdout?.on('data', (chunk: Buffer) => out.push(chunk))
  child.stderr?.on('data', (chunk: Buffer) => (err += chunk.toString()))
  return new Promise((resolve) => child.once('close', (code, signal) => resolve({ code, signal, out: Buffer.concat(out), err })))
}

/** The program itself. */
function program(words: readonly string[], input?: Buffer): Promise<Ran> {
  const child = start(words)
  child.stdin?.on('error', () => undefined)
  child.stdin?.end(input)
  return ended(child)
}

/** What happens while a command is at work. */
interface Meanwhile {
  /** So many pieces have come out on standard output. */
  readonly onOutput?: (pieces: number) => void
  /** A call to the service is made. */
  readonly onCall?: () => void
}

/** The same command line without a process of its own. Files are those of the folder. */
async function cli(
  words: readonly string[],
  input: Buffer = Buffer.alloc(0),
  settings: Partial<ClientSettings> = {},
  { onOutput = () => undefined, onCall = () => undefined }: Meanwhile = {},
): Promise<Ran> {
  const out: Buffer[] = []
  let err = ''
  const placed = words.map((word, at) => (!word.startsWith('-') && (at === 1 || words[at - 1] === '--output') ? path(word) : word))
  // These commands need no more of it.
  const wiring: Pick<Wiring, 'print' | 'printError' | 'streams' | 'nowMs' | 'clientSettings'> = {
    print: async (text) => void out.push(Buffer.from(text)),
    printError: async (text) => void (err += text),
    streams: {
      input: () => Readable.from([input], { objectMode: false }),
      write: async (bytes) => onOutput(out.push(Buffer.from(bytes))),
      outputIsTerminal: () => false,
      errorIsTerminal: () => false,
      interruption: () => ({ signal: new AbortController().signal, close: () => undefined }),
    },
    // Calls are signed with it.
    nowMs: () => (onCall(), Date.now()),
    clientSettings: () => ({
      endpoint: holdfast.endpoint,
      isOwnService: true,
      region: holdfast.region,
      callRegion: holdfast.region,
      credentials: holdfast.credentials,
      credentialsFile: join(holdfast.dir, 'credentials'),
      awsCredentialsFile: '',
      profile: 'default',
      trust: undefined,
      ...settings,
    }),
  }
  const code = await runCommandLine(placed, wiring as Wiring)
  return { code, out: Buffer.concat(out), err: err.replaceAll(`${dir}/`, '') }
}

const path = (name: string): string => join(dir, name)
const place = (name: string, bytes: Buffer): string => {
  writeFileSync(path(name), bytes)
  return name
}
/** Changes show in a file's times, whose clock is a coarse one: those of before were long ago. */
const makeOld = (name: string): void => utimesSync(path(name), 1, 1)
/** In place, with the byte that is there: nothing but the times tells of it. */
function overwrite(name: string): void {
  const file = openSync(path(name), 'r+')
  writeSync(file, readFileSync(path(name)), 0, 1, 0)
  closeSync(file)
}
/** What lies in the folder but what was put there. */
const leftovers = (): readonly string[] => readdirSync(dir).filter((name) => name.startsWith('.'))
const done = { code: 0, err: '' }

describe('there and back', () => {
  const plaintext = randomBytes(3 * 1_048_576 + 7)

  test('a file becomes a message and the message the file, for their owner alone', async () => {
    place('big.img', plaintext)
    expect(await program(['encrypt', 'big.img', '--key', 'alias/app', '--context', 'app=db', '--output', 'big.enc'])).toMatchObject(done)
    expect(await program(['decrypt', 'big.enc', '--context', 'app=db', '--key', 'alias/app', '--output', 'big.out'])).toMatchObject(done)
    expect(readFileSync(path('big.out')).equals(plaintext)).toBe(true)
    expect([statSync(path('big.enc')).mode & 0o777, statSync(path('big.out')).mode & 0o777]).toEqual([0o600, 0o600])
    expect(leftovers()).toEqual([])
  })

  test.each([0, 1, 100_000])('%d bytes through pipes, signed and not', async (length) => {
    const text = randomBytes(length)
    for (const sign of [[], ['--sign'], ['--suite', '0x0578']]) {
      const sealed = await cli(['encrypt', '--key', key, '--frame-length', '4096', ...sign], text)
      expect(sealed).toMatchObject(done)
      const opened = await cli(['decrypt', '-', ...(sign.length > 0 ? ['--buffer'] : [])], sealed.out)
      expect({ ...opened, out: opened.out.equals(text) }).toEqual({ ...done, out: true })
    }
  })

  test('the AWS Encryption SDK reads what it writes, and it what the SDK writes', async () => {
    const { encrypt, decrypt } = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
    const client = (region: string) => new KMS({ endpoint: holdfast.endpoint, region, credentials: holdfast.credentials })
    const keyring = new KmsKeyringNode({ generatorKeyId: key, keyIds: [farKey], clientProvider: (region) => client(region) as never })
    const sealed = await cli(['encrypt', '--key', farKey, '--key', 'alias/app', '--context', 'app=db', '--sign'], plaintext)
    const read = await decrypt(keyring, sealed.out)
    expect(read.plaintext.equals(plaintext)).toBe(true)
    expect(read.messageHeader.encryptionContext).toMatchObject({ app: 'db' })
    const written = await encrypt(keyring, plaintext, { encryptionContext: { app: 'db' }, frameLength: 1000 })
    place('sdk.msg', written.result)
    for (const one of [key, farKey]) {
      const opened = await cli(['decrypt', 'sdk.msg', '--key', one, '--context', 'app=db'])
      expect({ ...opened, out: opened.out.equals(plaintext) }).toEqual({ ...done, out: true })
    }
  })

  test('older suites of the SDK are read when that is allowed', async () => {
    const { encrypt } = buildClient(CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT)
    const keyring = new KmsKeyringNode({ generatorKeyId: key, clientProvider: () => kms as never })
    const { result } = await encrypt(keyring, Buffer.from('old'), {
      suiteId: AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA256,
    })
    const refused = await cli(['decrypt'], result)
    expect(refused).toMatchObject({ code: 1, out: Buffer.alloc(0) })
    expect(refused.err).toContain('does not commit to its key')
    const opened = await cli(['decrypt', '--commitment-policy', 'require-encrypt-allow-decrypt'], result)
    expect(opened).toMatchObject({ ...done, out: Buffer.from('old') })
  })

  test('a multi-Region key opens in the Region that is asked for', async () => {
    const { KeyMetadata } = await kms.send(new CreateKeyCommand({ MultiRegion: true }))
    const arn = KeyMetadata?.Arn ?? ''
    await kms.send(new ReplicateKeyCommand({ KeyId: arn, ReplicaRegion: 'eu-west-1' }))
    const sealed = await cli(['encrypt', '--key', arn], Buffer.from('text'))
    const opened = await cli(['decrypt', '--key', arn.replace('us-east-1', 'eu-west-1')], sealed.out)
    expect(opened).toMatchObject({ ...done, out: Buffer.from('text') })
    expect(await cli(['decrypt', '--region', 'eu-west-1'], sealed.out)).toMatchObject({ ...done, out: Buffer.from('text') })
  })

  test('frames longer than is usual are read when that is allowed', async () => {
    const { out } = await cli(['encrypt', '--key', key, '--frame-length', '67108865'], Buffer.from('text'))
    expect(await cli(['decrypt'], out)).toMatchObject({ code: 1, err: expect.stringMatching(/67108864 are allowed \(maxFrameLength\)/) })
    expect(await cli(['decrypt', '--max-frame-length', '67108865'], out)).toMatchObject({ ...done, out: Buffer.from('text') })
    const again = await cli(['rewrap', '--key', key, '--encrypt-again', '--max-frame-length', '67108865'], out)
    expect(again).toMatchObject(done)
  })

  test('pairs that are kept out must be given to decrypt', async () => {
    const sealed = await cli(['encrypt', '--key', key, '--context', 'tenant=7', '--keep-out', 'tenant'], Buffer.from('text'))
    expect(sealed.out.includes('tenant')).toBe(false)
    expect((await cli(['decrypt'], sealed.out)).code).toBe(1)
    expect(await cli(['decrypt', '--context', 'tenant=7'], sealed.out)).toMatchObject({ ...done, out: Buffer.from('text') })
  })
})

describe('the target', () => {
  test('that is there stays as it is, unless it is to be replaced', async () => {
    place('taken', Buffer.from('precious'))
    const refused = await cli(['encrypt', '--key', key, '--output', 'taken'], Buffer.from('text'))
    expect(refused).toMatchObject({ code: 1, err: 'taken is there already. --force replaces it.\n' })
    expect(readFileSync(path('taken'), 'utf8')).toBe('precious')
    expect(await cli(['encrypt', '--key', key, '--output', 'taken', '--force'], Buffer.from('text'))).toMatchObject(done)
    expect(await cli(['decrypt', 'taken'])).toMatchObject({ ...done, out: Buffer.from('text') })
  })

  test('may have as long a name as the file system has', async () => {
    const long = 'é'.repeat(127)
    expect(await cli(['encrypt', '--key', key, '--output', long], Buffer.from('text'))).toMatchObject(done)
    expect(await cli(['decrypt', long])).toMatchObject({ ...done, out: Buffer.from('text') })
    expect(leftovers()).toEqual([])
  })

  test('that is no regular file is never replaced', async () => {
    symlinkSync('/dev/null', path('device'))
    const refused = await cli(['encrypt', '--key', key, '--output', 'device', '--force'], Buffer.from('text'))
    expect(refused).toMatchObject({ code: 1 })
    expect(refused.err).toContain('device is no regular file')
  })

  test('of a message that is cut short, changed or under another context is not made', async () => {
    const { out: message } = await cli(['encrypt', '--key', key, '--context', 'app=db'], randomBytes(200_000))
    const flipped = Buffer.from(message)
    flipped[message.length - 100_000] = (flipped[message.length - 100_000] ?? 0) ^ 1
    const cases: readonly (readonly [Buffer, readonly string[], RegExp])[] = [
      [message.subarray(0, -1), [], /ends too soon/],
      [message.subarray(0, 100), [], /ends too soon, in its header/],
      [Buffer.alloc(0), [], /the source is empty/],
      [flipped, [], /not authentic|unauthentic|changed/],
      [Buffer.concat([message, Buffer.of(0)]), [], /bytes follow the message/],
      [Buffer.from('plain text'), [], /no message of the AWS Encryption SDK/],
      [message, ['--context', 'app=web'], /another value of "app"/],
      [message, ['--key', farKey], /The message is under .* not /],
      [message, ['--account', '999999999999'], /which the discovery filter leaves out/],
      [message, ['--key', 'alias/absent'], /NotFoundException/],
    ]
    for (const [bytes, flags, said] of cases) {
      place('message', bytes)
      const ran = await cli(['decrypt', 'message', ...flags, '--output', 'never'])
      expect(ran).toMatchObject({ code: 1, err: expect.stringMatching(said) })
      expect(ran.err).toContain('Nothing was written to never.')
      expect(readdirSync(dir)).not.toContain('never')
      expect(leftovers()).toEqual([])
    }
  })

  test('of a signed message whose signature is wrong is not made, and --buffer writes nothing', async () => {
    const { out: message } = await cli(['encrypt', '--key', key, '--sign'], randomBytes(100))
    const wrong = Buffer.from(message)
    wrong[message.length - 3] = (wrong[message.length - 3] ?? 0) ^ 1
    place('message', wrong)
    expect(await cli(['decrypt', 'message', '--output', 'never'])).toMatchObject({ code: 1, err: expect.stringContaining('signature') })
    expect(readdirSync(dir)).not.toContain('never')
    expect(await cli(['decrypt', 'message', '--buffer'])).toMatchObject({ code: 1, out: Buffer.alloc(0) })
  })

  test('is not there when the program is killed half-way, and is not there when it is interrupted, nor anything beside it', async () => {
    const stopped = async (signal: NodeJS.Signals): Promise<Ran> => {
      const child = start(['encrypt', '--key', key, '--output', 'never'])
      const run = ended(child)
      child.stdin?.on('error', () => undefined)
      child.stdin?.write(randomBytes(8 * 1_048_576))
      // Something is written, and more is waited for.
      await vi.waitUntil(() => leftovers().some((name) => statSync(path(name)).size > 0), { timeout: 60_000, interval: 20 })
      child.kill(signal)
      return run
    }
    expect(await stopped('SIGINT')).toMatchObject({ signal: 'SIGINT', err: 'Interrupted. Nothing was written to never.\n' })
    expect(readdirSync(dir)).not.toContain('never')
    expect(leftovers()).toEqual([])
    await stopped('SIGKILL')
    expect(readdirSync(dir)).not.toContain('never')
    expect(leftovers()).toHaveLength(1)
    for (const name of leftovers()) {
      expect(name).toMatch(/^\.never\.[0-9a-f]{12}\.part$/)
      expect(statSync(path(name)).mode & 0o777).toBe(0o600)
      rmSync(path(name))
    }
  })

  test('of a file that changes meanwhile is not all of it', async () => {
    const changes: readonly (readonly [said: string, change: () => void])[] = [
      ['became longer', () => appendFileSync(path('changing'), 'more')],
      ['became shorter', () => truncateSync(path('changing'), 100)],
      ['was changed', () => overwrite('changing')],
    ]
    // Short, and longer than what all threads have under way: with the header it changes, and when the first frames are out.
    const lengths = [
      [5000, 1],
      [Math.max(40_000_000, availableParallelism() * 2 ** 23), 2],
    ] as const
    for (const [length, piece] of lengths) {
      for (const [said, change] of changes) {
        place('changing', Buffer.alloc(0))
        truncateSync(path('changing'), length)
        makeOld('changing')
        const onOutput = (pieces: number): void => void (pieces === piece && change())
        const ran = await cli(['encrypt', 'changing', '--key', key], undefined, {}, { onOutput })
        expect(ran).toMatchObject({ code: 1, err: expect.stringContaining(`changing: the file ${said} while it was read`) })
        expect(ran.err).toContain('NOT all of it')
      }
    }
  })

  test.each([100, 100_000])('of a file of %i bytes that is changed in place meanwhile is not made', async (length) => {
    const text = randomBytes(length)
    const { out: message } = await cli(['encrypt', '--key', key], text)
    const commands: readonly (readonly [bytes: Buffer, words: readonly string[]])[] = [
      [text, ['encrypt', 'changing', '--key', key]],
      [text, ['encrypt', 'changing', '--key', key, '--sign']],
      [message, ['decrypt', 'changing']],
      [message, ['rewrap', 'changing', '--key', farKey]],
      [message, ['rewrap', 'changing', '--key', farKey, '--encrypt-again']],
    ]
    for (const [bytes, words] of commands) {
      place('changing', bytes)
      makeOld('changing')
      const ran = await cli([...words, '--output', 'never'], undefined, {}, { onCall: () => overwrite('changing') })
      expect({ words, ...ran }).toMatchObject({
        words,
        code: 1,
        err: expect.stringMatching(/^changing: the file was changed while it was read: .*\. Nothing was written to never\.\n$/),
      })
      expect(readdirSync(dir)).not.toContain('never')
      expect(leftovers()).toEqual([])
    }
  })

  test('of a pipe that has a name is made of what comes through it', async () => {
    execFileSync('mkfifo', [path('pipe')])
    const text = randomBytes(300_000)
    const [made] = await Promise.all([program(['encrypt', 'pipe', '--key', key, '--output', 'piped']), writeFile(path('pipe'), text)])
    expect(made).toMatchObject(done)
    expect((await cli(['decrypt', 'piped'])).out.equals(text)).toBe(true)
  })

  // Ctrl-C under npm arrives twice.
  test.each([
    ['SIGINT', 'one'],
    ['SIGTERM', 'one'],
    ['SIGINT', 'two at once'],
  ] as const)(
    'of a pipe that nobody writes to is not made when %s ends the program, for which %s are enough',
    async (signal, many) => {
      const pipe = `silent-${signal}-${many.length}`
      execFileSync('mkfifo', [path(pipe)])
      // Who has both ends of a pipe waits for nobody to open it.
      const silent = await open(path(pipe), 'r+')
      onTestFinished(() => silent.close())
      const child = start(['encrypt', pipe, '--key', key, '--output', 'never'])
      const run = ended(child)
      // The header is written, and the first bytes are waited for.
      await vi.waitUntil(() => leftovers().some((name) => statSync(path(name)).size > 0), { timeout: 30_000, interval: 20 })
      child.kill(signal)
      if (many !== 'one') child.kill(signal)
      expect(await run).toMatchObject({ code: null, signal, err: 'Interrupted. Nothing was written to never.\n' })
      expect(readdirSync(dir)).not.toContain('never')
      expect(leftovers()).toEqual([])
    },
    // One that waits for a second signal waits for ever.
    60_000,
  )

  test('a reader that goes away ends the program with an error', async () => {
    const child = start(['encrypt', '--key', key])
    const run = ended(child)
    child.stdin?.on('error', () => undefined)
    child.stdout?.destroy()
    child.stdin?.end(randomBytes(8 * 1_048_576))
    const { code, err } = await run
    expect(code).toBe(1)
    expect(err).toContain('EPIPE')
  })
})

describe('inspect and rewrap', () => {
  test('a header is shown without asking anybody, to people and to programs', async () => {
    const { out } = await cli(['encrypt', '--key', key, '--context', 'app=db'], Buffer.from('text'))
    const nowhere = { endpoint: 'http://127.0.0.1:1', credentials: undefined, credentialsFile: '/nowhere' }
    const shown = await cli(['inspect'], out, nowhere)
    expect(shown).toMatchObject(done)
    expect(shown.out.toString()).toContain(`aws-kms ${key}`)
    const { code, out: json } = await cli(['inspect', '--json'], out.subarray(0, 700), nowhere)
    expect(code).toBe(0)
    expect(JSON.parse(json.toString())).toMatchObject({
      version: 2,
      suite: '0x0478',
      signed: false,
      commits: true,
      encryptionContext: { app: 'db' },
      encryptedDataKeys: [{ provider: 'aws-kms', key }],
      frameLength: 65_536,
    })
  })

  test('what would move a terminal is not printed', async () => {
    const { out } = await cli(['encrypt', '--key', key, '--context', 'app=\u001b[2Jdb'], Buffer.from('text'))
    expect((await cli(['inspect'], out)).out.toString()).toContain('app = ?[2Jdb')
  })

  test('a message is moved to another key, body byte for byte, and is no longer under the old one', async () => {
    const plaintext = randomBytes(300_000)
    const { out } = await cli(['encrypt', '--key', 'alias/app', '--context', 'app=db'], plaintext)
    place('moving', out)
    const moved = await cli(['rewrap', 'moving', '--key', farKey, '--output', 'moving', '--force'])
    expect(moved).toMatchObject({ code: 0, err: expect.stringContaining('Destroy the message as it was') })
    const now = readFileSync(path('moving'))
    const headerBytes = async (message: Buffer): Promise<number> => {
      const { headerBytes } = JSON.parse((await cli(['inspect', '--json'], message)).out.toString()) as { headerBytes: number }
      return headerBytes
    }
    expect(now.subarray(await headerBytes(now)).equals(out.subarray(await headerBytes(out)))).toBe(true)
    expect((await cli(['decrypt', 'moving', '--key', 'alias/app'])).code).toBe(1)
    const opened = await cli(['decrypt', 'moving', '--key', farKey, '--context', 'app=db'])
    expect({ ...opened, out: opened.out.equals(plaintext) }).toEqual({ ...done, out: true })
    const client = new KMS({ endpoint: holdfast.endpoint, region: 'eu-west-1', credentials: holdfast.credentials })
    const keyring = new KmsKeyringNode({ keyIds: [farKey], clientProvider: () => client as never })
    expect((await buildClient().decrypt(keyring, now)).plaintext.equals(plaintext)).toBe(true)
    client.destroy()
  })

  test('a further key is added beside the one that is there; a new data key is made when that is asked for', async () => {
    const { out } = await cli(['encrypt', '--key', key, '--sign'], Buffer.from('signed'))
    expect(await cli(['rewrap', '--key', farKey], out)).toMatchObject({ code: 1, err: expect.stringContaining('the message is signed') })
    const again = await cli(['rewrap', '--key', farKey, '--encrypt-again'], out)
    expect(again).toMatchObject(done)
    expect(await cli(['decrypt', '--key', farKey], again.out)).toMatchObject({ ...done, out: Buffer.from('signed') })
    const { out: plain } = await cli(['encrypt', '--key', key], Buffer.from('text'))
    const both = await cli(['rewrap', '--key', farKey, '--add'], plain)
    for (const one of [key, farKey])
      expect(await cli(['decrypt', '--key', one], both.out)).toMatchObject({ ...done, out: Buffer.from('text') })
  })

  test('an older message is moved under another IV, and every SDK reads it still', async () => {
    const { encrypt, decrypt } = buildClient(CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT)
    const keyring = new KmsKeyringNode({ generatorKeyId: key, clientProvider: () => kms as never })
    const suiteId = AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA256
    const { result } = await encrypt(keyring, Buffer.from('old'), { suiteId, frameLength: 2 })
    expect(await cli(['rewrap', '--key', farKey], result)).toMatchObject({ code: 1, err: expect.stringContaining('does not commit') })
    const allow = ['--commitment-policy', 'require-encrypt-allow-decrypt']
    // Nobody need be warned: the two headers are not under one IV.
    const moved = await cli(['rewrap', '--key', farKey, ...allow], result)
    expect(moved).toMatchObject(done)
    const client = new KMS({ endpoint: holdfast.endpoint, region: 'eu-west-1', credentials: holdfast.credentials })
    const far = new KmsKeyringNode({ keyIds: [farKey], clientProvider: () => client as never })
    expect((await decrypt(far, moved.out)).plaintext.toString()).toBe('old')
    client.destroy()
    expect(await cli(['decrypt', ...allow], moved.out)).toMatchObject({ ...done, out: Buffer.from('old') })
    const again = await cli(['rewrap', '--key', key, '--encrypt-again', ...allow], moved.out)
    expect(await cli(['decrypt'], again.out)).toMatchObject({ ...done, out: Buffer.from('old') })
  })

  test('a changed header is not moved', async () => {
    const { out } = await cli(['encrypt', '--key', key], Buffer.from('text'))
    const changed = Buffer.from(out)
    changed[10] = (changed[10] ?? 0) ^ 1
    expect(await cli(['rewrap', '--key', farKey], changed)).toMatchObject({ code: 1, out: Buffer.alloc(0) })
  })
})

describe('what is asked for wrongly', () => {
  test.each([
    [['encrypt'], 'encrypt needs --key KEY.'],
    [['encrypt', '--key', 'k', '--context', 'x'], '--context must be NAME=VALUE'],
    [['encrypt', '--key', 'k', '--context', 'x=1', '--context', 'x=2'], 'gives "x" twice'],
    [['encrypt', '--key', 'k', '--keep-out', 'x'], 'names no pair of the context'],
    [['encrypt', '--key', 'k', '--frame-length', '0'], '--frame-length must be a whole number'],
    [['encrypt', '--key', 'k', '--suite', '0x0078'], '--suite must be 0x0478'],
    [['encrypt', '--key', 'k', '--suite', '0x0478', '--sign'], 'give one of them'],
    [['encrypt', '--key', 'arn:aws:s3:::b'], 'is no key id, key ARN, alias or alias ARN'],
    [['encrypt', '--key', 'k', '--endpoint', 'ftp://x'], '--endpoint must be a URL'],
    [['decrypt', '--key', 'k', '--account', '1'], 'leave them out, or the keys'],
    [['decrypt', '--buffer-limit', '5'], '--buffer-limit is for --buffer'],
    [['decrypt', '--max-frame-length', '0'], '--max-frame-length must be a whole number'],
    [['decrypt', '--commitment-policy', 'none'], '--commitment-policy must be one of'],
    [['rewrap', '--key', 'k', '--add', '--encrypt-again'], 'give one of them'],
    [['encrypt', '--key', 'k', '--context', 'aws-crypto-x=1'], 'reserved'],
  ])('%j', async (words, said) => {
    const ran = await cli(words, Buffer.from('text'))
    expect(ran).toMatchObject({ code: 2, err: expect.stringContaining(said) })
    expect(ran.out).toHaveLength(0)
  })

  test('a file that is not there, a folder, and a service that does not answer', async () => {
    mkdirSync(path('folder'))
    expect(await cli(['decrypt', 'absent'])).toMatchObject({ code: 1, err: expect.stringContaining('absent cannot be read') })
    expect(await cli(['decrypt', 'folder'])).toMatchObject({ code: 1, err: 'folder is a directory.\n' })
    const { code, err } = await cli(['encrypt', '--key', key, '--endpoint', 'http://127.0.0.1:1', '--output', 'never'], Buffer.from('text'))
    expect({ code, err }).toEqual({ code: 1, err: expect.stringContaining('ECONNREFUSED') })
    expect(readdirSync(dir)).not.toContain('never')
  })
})

describe('the library, packed and unpacked elsewhere, on plain Node', () => {
  const app = mkdtempSync(join(tmpdir(), 'holdfast-library-'))
  const modules = join(app, 'node_modules')
  const root = fileURLToPath(new URL('../..', import.meta.url))
  const run = promisify(execFile)

  beforeAll(async () => {
    // As `npm install` of the packed file would, but for the packages that are here already.
    const env = cleanEnvironment()
    await run('npm', ['pack', '--silent', '--pack-destination', app], { cwd: root, env })
    mkdirSync(modules)
    const [packed = ''] = readdirSync(app).filter((name) => name.endsWith('.tgz'))
    await run('tar', ['-xzf', join(app, packed), '-C', modules])
    renameSync(join(modules, 'package'), join(modules, 'holdfast'))
    for (const name of ['piscina', '@types']) symlinkSync(join(root, 'node_modules', name), join(modules, name))
  })
  afterAll(() => rmSync(app, { recursive: true, force: true }))

  const program = `
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { buffer } from 'node:stream/consumers'
import { decryptStream, encrypt, encryptStream, decrypt, kmsKeyring, openDataKeyCache, signedSuite, MessageError, DataKeyError } from 'holdfast'

const [endpoint = '', region = '', key = '', accessKeyId = '', secretAccessKey = ''] = process.argv.slice(2)
const at = { endpoint, region, credentials: async () => ({ accessKeyId, secretAccessKey }) }
const keyring = kmsKeyring({ ...at, keys: [key] })
const chunks = Array.from({ length: 40 }, (_, at) => Buffer.alloc(100_000, at))
const plaintext = Buffer.concat(chunks)

let message = Buffer.alloc(0)
await pipeline(Readable.from(chunks), (source) => encryptStream(source, { keyring, context: { app: 'db' } }), async (sealed) => {
  for await (const piece of sealed) message = Buffer.concat([message, piece])
})
const opened = decryptStream([message], { keyring: kmsKeyring({ ...at, discovery: { accounts: [key.split(':')[4] ?? ''] } }), context: { app: 'db' } })
const { encryptedDataKeys } = await opened.header
const streamed = await buffer(Readable.from(opened))

const cache = openDataKeyCache({ maxAgeMs: 60_000, maxMessages: 10, maxBytes: 1e9, capacity: 10 })
const cached = cache.wrap(keyring, { keySet: 'mine', plaintextBytes: 4 })
for (let times = 0; times < 3; times++) await encrypt(Buffer.from('text'), { keyring: cached })
const signed = await decrypt(await encrypt(Buffer.from('signed'), { keyring, suite: signedSuite }), { keyring })
const wrong = await decrypt(message.subarray(1), { keyring }).catch((error) => error instanceof MessageError)
const denied = await encrypt(Buffer.from('x'), { keyring: kmsKeyring({ ...at, keys: ['alias/absent'] }) }).catch((error) => error instanceof DataKeyError)
console.log(JSON.stringify({
  same: streamed.equals(plaintext),
  key: encryptedDataKeys[0]?.providerInfo.toString(),
  hits: cache.figures().hits,
  signed: signed.plaintext.toString(),
  wrong,
  denied,
}))
keyring.close()
cache.close()
`

  test('encrypts and decrypts streams with data keys from the service, and lets the program end', async () => {
    writeFileSync(join(app, 'app.mjs'), program)
    const { accessKeyId, secretAccessKey } = holdfast.credentials
    const words = ['app.mjs', holdfast.endpoint, holdfast.region, key, accessKeyId, secretAccessKey]
    const { stdout, stderr } = await run(process.execPath, words, { cwd: app, env: cleanEnvironment() })
    expect({ ...(JSON.parse(stdout) as object), stderr }).toEqual({
      same: true,
      key,
      hits: 2,
      signed: 'signed',
      wrong: true,
      denied: true,
      stderr: '',
    })
  })

  test('has declarations that a strict program is checked against', async () => {
    writeFileSync(
      join(app, 'app.mts'),
      `${program}\n// @ts-expect-error -- frames are counted in bytes\nencryptStream([], { keyring, frameLength: 'many' })\n`,
    )
    const flags = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2023', '--types', 'node', '--skipLibCheck', 'false']
    const { stdout } = await run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), ...flags, 'app.mts'], {
      cwd: app,
    }).catch((error: { readonly stdout: string }) => error)
    expect(stdout).toBe('')
  })
})

test('no plaintext and no data key is in the log, the audit trail or the command lines', async () => {
  const secret = Buffer.from(`SECRET-${randomBytes(16).toString('hex')}`)
  const sealed = await program(['encrypt', '--key', key, '--context', 'app=db'], secret)
  const { out } = await program(['decrypt'], sealed.out)
  expect(out).toEqual(secret)
  const places = [
    holdfast.log(),
    ...readdirSync(holdfast.dir)
      .filter((name) => name.includes('.db'))
      .map((name) => readFileSync(join(holdfast.dir, name), 'latin1')),
  ]
  for (const text of places) {
    expect(text.includes(secret.toString())).toBe(false)
    expect(text.includes(secret.toString('base64'))).toBe(false)
  }
})
