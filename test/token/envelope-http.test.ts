/**
 * /envelope/encrypt and /envelope/decrypt on a real token, behind the real door: what callers get, who may, what is recorded, and that a part is
 * never taken for the whole.
 */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { AlgorithmSuiteIdentifier, buildClient, CommitmentPolicy, KmsKeyringNode } from '@aws-crypto/client-node'
import { CreateAliasCommand, CreateGrantCommand, CreateKeyCommand, DisableKeyCommand, EnableKeyCommand, KMS } from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { openMetrics, type Metrics } from '../../src/base/metrics.ts'
import { openBulkPool, type BulkPool } from '../../src/bulk/bulk-pool.ts'
import { encrypt } from '../../src/bulk/stream.ts'
import { openDataKeyCache, type CacheLimits } from '../../src/envelope/cache.ts'
import { openApp } from '../../src/http/app.ts'
import { openDoor } from '../../src/http/door.ts'
import { openEnvelopeDoor, type EnvelopeLimits } from '../../src/http/envelope.ts'
import { listen, type ListenOptions } from '../../src/http/server.ts'
import { apis } from '../../src/kms/operations/index.ts'
import { kmsKeyring } from '../../src/library.ts'
import { begin, contextHeader, send, sha256, sign, type Sending } from './envelope-kit.ts'
import { makeUser, openInProcess, type Credentials, type InProcess } from './holdfast.ts'

let house: InProcess
let pool: BulkPool
let kms: KMS
let key: string
let main: Doors
const closers: (() => Promise<void>)[] = []

interface Doors {
  readonly at: { readonly endpoint: string; readonly region: string }
  readonly metrics: Metrics
}

const standard: EnvelopeLimits = {
  maxStreams: 32,
  maxStreamsPerCaller: 8,
  idleTimeoutMs: 60_000,
  totalTimeoutMs: 600_000,
  bufferBytes: 16 * 1_048_576,
  totalBufferBytes: 64 * 1_048_576,
}

/** Another door into the same service. */
async function openDoors(
  limits: Partial<EnvelopeLimits> = {},
  cacheLimits?: CacheLimits,
  listening: Partial<ListenOptions> = {},
): Promise<Doors> {
  const { service, clock } = house
  const metrics = openMetrics()
  const cache = cacheLimits && openDataKeyCache(cacheLimits)
  const common = { service, apis, clock, log: silentLog, metrics }
  const envelope = openEnvelopeDoor({ ...common, pool, limits: { ...standard, ...limits }, cache })
  const app = openApp(silentLog)
  const door = openDoor({
    ...common,
    maxBodyBytes: 1_048_576,
    maxConcurrentCalls: 100,
    otherwise: (request, response) => (envelope.takes(request) ? envelope.handle(request, response) : app(request, response)),
  })
  const listener = await listen({
    name: 'test',
    host: '127.0.0.1',
    port: 0,
    tls: undefined,
    maxConnections: 100,
    headersTimeoutMs: 10_000,
    requestTimeoutMs: 30_000,
    idleTimeoutMs: 60_000,
    drainTimeoutMs: 5_000,
    log: silentLog,
    ...listening,
    handle: (request, response) => door.handle(request, response),
    takesLong: (socket) => envelope.isStreaming(socket),
  })
  closers.push(async () => {
    await listener.close()
    cache?.close()
  })
  return { at: { endpoint: listener.url, region: 'us-east-1' }, metrics }
}

beforeAll(async () => {
  house = await openInProcess()
  pool = openBulkPool({ threads: 2 })
  kms = new KMS({ ...house, maxAttempts: 1 })
  const { KeyMetadata } = await kms.send(new CreateKeyCommand({}))
  key = KeyMetadata?.Arn ?? ''
  await kms.send(new CreateAliasCommand({ AliasName: 'alias/app', TargetKeyId: key }))
  main = await openDoors()
})
afterAll(async () => {
  for (const close of closers) await close()
  kms.destroy()
  await pool.close()
  await house.close()
})

type Asking = Partial<Omit<Sending, 'path'>>

const asking = (path: string, { at = main.at, credentials = house.credentials, ...rest }: Asking): Sending => ({
  at,
  credentials,
  nowMs: house.clock.now(),
  path,
  ...rest,
})
const encrypting = (rest: Asking = {}): Sending => asking('/envelope/encrypt', { ...rest, headers: { key: 'alias/app', ...rest.headers } })
const decrypting = (rest: Asking = {}): Sending => asking('/envelope/decrypt', rest)

async function encrypted(plaintext: Buffer, rest: Asking = {}): Promise<Buffer> {
  const answer = await send(encrypting(rest), plaintext)
  expect({ status: answer.status, text: answer.status === 200 ? '' : answer.body.toString() }).toEqual({ status: 200, text: '' })
  return answer.body
}

describe('both directions', () => {
  test.each([0, 1, 65_535, 65_536, 65_537, 3 * 1_048_576 + 7])('%d bytes come back as they were', async (length) => {
    const plaintext = randomBytes(length)
    const sealed = await send(encrypting(), plaintext)
    expect({ status: sealed.status, ended: sealed.ended, outcome: sealed.outcome }).toEqual({
      status: 200,
      ended: true,
      outcome: 'complete',
    })
    const opened = await send(decrypting(), sealed.body)
    expect({ status: opened.status, ended: opened.ended, outcome: opened.outcome }).toEqual({
      status: 200,
      ended: true,
      outcome: 'complete',
    })
    expect(opened.body.equals(plaintext)).toBe(true)
  })

  test.each([
    ['0x0478', AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA512_COMMIT_KEY],
    ['0x0578', AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA512_COMMIT_KEY_ECDSA_P384],
  ])('the AWS Encryption SDK reads suite %s, and what it writes is read', async (suite, suiteId) => {
    const context = { app: 'db', ключ: 'значение' }
    const plaintext = randomBytes(100_000)
    const { decrypt, encrypt } = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
    const keyring = new KmsKeyringNode({ generatorKeyId: key, clientProvider: () => kms as never })
    const sealed = await encrypted(plaintext, { headers: { suite, 'frame-length': '4096', context: contextHeader(context) } })
    const read = await decrypt(keyring, sealed)
    expect(read.plaintext.equals(plaintext)).toBe(true)
    expect(read.messageHeader.encryptionContext).toMatchObject(context)
    expect(read.messageHeader.suiteId).toBe(suiteId)
    const written = await encrypt(keyring, plaintext, { suiteId, encryptionContext: context })
    const opened = await send(decrypting({ headers: { key, context: contextHeader({ app: 'db' }) } }), written.result)
    expect(opened.outcome).toBe('complete')
    expect(opened.body.equals(plaintext)).toBe(true)
    expect(JSON.parse(Buffer.from(String(opened.headers['x-holdfast-context']), 'base64').toString())).toMatchObject(context)
  })

  test('several keys of several regions are each enough', async () => {
    const far = new KMS({ ...house, region: 'eu-west-1', maxAttempts: 1 })
    const { KeyMetadata } = await far.send(new CreateKeyCommand({}))
    far.destroy()
    const other = KeyMetadata?.Arn ?? ''
    const sealed = await encrypted(Buffer.from('text'), { headers: { key: `alias/app, ${other}` } })
    for (const one of [{ key }, { key: other }]) {
      expect((await send(decrypting({ headers: one }), sealed)).body.toString()).toBe('text')
    }
    // Who discovers is in a region, and so are the keys that are asked.
    const alone = await encrypted(Buffer.from('text'), { headers: { key: other } })
    expect((await send(decrypting(), alone)).json['__type']).toBe('IncorrectKeyException')
    expect((await send(decrypting({ at: { ...main.at, region: 'eu-west-1' } }), alone)).body.toString()).toBe('text')
  })

  test('names that objects have by themselves are names like others', async () => {
    const context = JSON.parse('{"constructor":"a","__proto__":"b"}') as Record<string, string>
    const keptOut = JSON.parse('{"toString":"c","hasOwnProperty":"d"}') as Record<string, string>
    const headers = { context: contextHeader(context), 'kept-out': contextHeader(keptOut) }
    const sealed = await encrypted(Buffer.from('text'), { headers })
    expect((await send(decrypting(), sealed)).status).toBe(400)
    const opened = await send(decrypting({ headers: { context: contextHeader(keptOut) } }), sealed)
    expect(opened.body.toString()).toBe('text')
    expect(JSON.parse(Buffer.from(String(opened.headers['x-holdfast-context']), 'base64').toString())).toEqual(context)
  })

  test('pairs that are kept out of the message must be given', async () => {
    const headers = { context: contextHeader({ app: 'db' }), 'kept-out': contextHeader({ tenant: '7' }) }
    const sealed = await encrypted(Buffer.from('text'), { headers })
    expect(sealed.includes('tenant')).toBe(false)
    expect((await send(decrypting(), sealed)).json['__type']).toBe('InvalidCiphertextException')
    expect((await send(decrypting({ headers: { context: contextHeader({ tenant: '8' }) } }), sealed)).status).toBe(400)
    expect((await send(decrypting({ headers: { context: contextHeader({ tenant: '7' }) } }), sealed)).body.toString()).toBe('text')
  })

  test('a body that comes byte by byte and with pauses is a body', async () => {
    const { request, answer } = await begin(encrypting())
    for (const byte of Buffer.from('slow and steady')) {
      request.write(Buffer.of(byte))
      await new Promise((resolve) => setImmediate(resolve))
    }
    request.end()
    const sealed = await answer
    expect((await send(decrypting(), sealed.body)).body.toString()).toBe('slow and steady')
  })

  test('a request may take longer to arrive than other requests may', async () => {
    const slow = await openDoors({}, undefined, { headersTimeoutMs: 200, requestTimeoutMs: 300 })
    const { request, answer } = await begin(encrypting({ at: slow.at }))
    request.write('one')
    // As long as Node looks for requests that are late at least three times.
    await new Promise((resolve) => setTimeout(resolve, 700))
    request.end('two')
    expect((await answer).outcome).toBe('complete')
  })
})

describe('the signature', () => {
  const plaintext = randomBytes(300_000)

  test('over the payload is enough in both directions', async () => {
    const sealed = await encrypted(plaintext, { payload: sha256(plaintext) })
    expect((await send(decrypting({ payload: sha256(sealed) }), sealed)).body.equals(plaintext)).toBe(true)
  })

  test('over another payload gets no whole answer: neither a message nor its trailer', async () => {
    const sealed = await encrypted(plaintext)
    const long = randomBytes(20 * 1_048_576)
    const payload = sha256(Buffer.from('other'))
    const judged = async (sending: Sending, body: Buffer): Promise<unknown> => {
      const { status, ended, outcome, json } = await send(sending, body)
      return status === 200 ? { ended, outcome } : json['__type']
    }
    expect(await judged(encrypting({ payload }), plaintext)).toBe('InvalidSignatureException')
    expect(await judged(decrypting({ payload }), sealed)).toBe('InvalidSignatureException')
    expect(await judged(encrypting({ payload }), long)).toEqual({ ended: false, outcome: undefined })
  })

  test.each([
    ['a header that is not signed', { unsigned: { 'x-holdfast-suite': '0x0578' } }, 'InvalidSignatureException'],
    ['a payload in signed chunks', { payload: 'STREAMING-AWS4-HMAC-SHA256-PAYLOAD' }, 'InvalidSignatureException'],
    ['another secret', { credentials: { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: 'x' } }, 'UnrecognizedClientException'],
    ['an old date', { nowMs: 1 }, 'InvalidSignatureException'],
  ])('%s is refused, and the refusal is on record', async (_what, rest, code) => {
    const append = vi.spyOn(house.service.trail, 'append')
    try {
      const answer = await send(encrypting(rest), plaintext)
      expect({ status: answer.status, code: answer.json['__type'] }).toEqual({ status: 400, code })
      expect(append.mock.calls.map(([record]) => [record['eventName'], record['errorCode']])).toEqual([['GenerateDataKey', code]])
    } finally {
      append.mockRestore()
    }
  })
})

describe('who may', () => {
  let user: Credentials & { readonly arn: string }
  beforeAll(async () => {
    const statement = {
      Effect: 'Allow',
      Action: 'kms:Decrypt',
      Resource: '*',
      Condition: { StringEquals: { 'kms:EncryptionContext:app': 'db' } },
    }
    user = await makeUser(house, 'reader', { read: { Version: '2012-10-17', Statement: [statement] } })
  })

  test('is what policies say of GenerateDataKey and Decrypt, with the context as a condition', async () => {
    const context = contextHeader({ app: 'db' })
    const denied = await send(encrypting({ credentials: user }), Buffer.from('text'))
    expect(denied.json['__type']).toBe('AccessDeniedException')
    expect(String(denied.json['Message'])).toContain('kms:GenerateDataKey')
    const sealed = await encrypted(Buffer.from('text'), { headers: { context } })
    const other = await encrypted(Buffer.from('text'), { headers: { context: contextHeader({ app: 'web' }) } })
    expect((await send(decrypting({ credentials: user }), sealed)).body.toString()).toBe('text')
    expect((await send(decrypting({ credentials: user }), other)).json['__type']).toBe('AccessDeniedException')
  })

  test('a grant is enough, and its token before it is known everywhere', async () => {
    const { GrantToken } = await kms.send(
      new CreateGrantCommand({ KeyId: key, GranteePrincipal: user.arn, Operations: ['GenerateDataKey'] }),
    )
    const sealed = await encrypted(Buffer.from('text'), { credentials: user, headers: { key, 'grant-tokens': GrantToken ?? '' } })
    expect((await send(decrypting(), sealed)).body.toString()).toBe('text')
  })

  test('each call is on record under the one request id of the answer, with the context and without the bytes', async () => {
    const append = vi.spyOn(house.service.trail, 'append')
    try {
      const sealed = await send(encrypting({ headers: { context: contextHeader({ app: 'db' }) } }), Buffer.from('text'))
      const opened = await send(decrypting(), sealed.body)
      const seen = append.mock.calls.map(([record]) => record)
      expect(seen.map((record) => [record['eventName'], record['errorCode'], record['requestID']])).toEqual([
        ['GenerateDataKey', undefined, sealed.headers['x-amzn-requestid']],
        ['Decrypt', undefined, opened.headers['x-amzn-requestid']],
      ])
      for (const record of seen) expect(record['requestParameters']).toMatchObject({ encryptionContext: { app: 'db' } })
    } finally {
      append.mockRestore()
    }
  })

  test('a disabled key encrypts nothing and decrypts nothing', async () => {
    const { KeyMetadata } = await kms.send(new CreateKeyCommand({}))
    const own = KeyMetadata?.Arn ?? ''
    const sealed = await encrypted(Buffer.from('text'), { headers: { key: own } })
    await kms.send(new DisableKeyCommand({ KeyId: own }))
    expect((await send(encrypting({ headers: { key: own } }), Buffer.from('text'))).json['__type']).toBe('DisabledException')
    expect((await send(decrypting(), sealed)).json['__type']).toBe('DisabledException')
    await kms.send(new EnableKeyCommand({ KeyId: own }))
    expect((await send(decrypting(), sealed)).body.toString()).toBe('text')
  })
})

describe('what is refused', () => {
  test.each<[string, Readonly<Record<string, string>>, string | RegExp]>([
    ['an empty header', { key: '' }, /^The header x-holdfast-key is empty/],
    ['thousands of keys', { key: Array.from({ length: 4000 }, (_, n) => n).join(',') }, /^4000 keys are named; a message is under 64/],
    ['a key that is none', { key: 'arn:aws:s3:::bucket' }, /is no key id, key ARN, alias or alias ARN/],
    ['a key twice', { key: 'alias/app,alias/app' }, /named twice/],
    ['a header that means nothing', { keys: 'x' }, /^The header x-holdfast-keys means nothing here/],
    ['a context that is no base64', { context: '{"app":"db"}' }, /must be the base64 of a JSON object/],
    ['a context that is no JSON', { context: 'AAAA' }, /must be the base64 of a JSON object/],
    ['a context with a number', { context: Buffer.from('{"a":1}').toString('base64') }, /must be the base64 of a JSON object/],
    [
      'a context with a name twice',
      { context: Buffer.from('{"a":"1","a":"2"}').toString('base64') },
      /must be the base64 of a JSON object/,
    ],
    ['a name of the SDK', { context: contextHeader({ 'aws-crypto-public-key': 'x' }) }, /reserved/],
    [
      'a pair both in and out',
      { context: contextHeader({ a: '1' }), 'kept-out': contextHeader({ a: '1' }) },
      /is in x-holdfast-context and/,
    ],
    ['an older suite', { suite: '0x0078' }, /must be 0x0478/],
    ['a frame of nothing', { 'frame-length': '0' }, /from 1 to 16777216/],
    ['a frame too long', { 'frame-length': '16777217' }, /from 1 to 16777216/],
  ])('%s', async (_what, headers, message) => {
    const append = vi.spyOn(house.service.trail, 'append')
    try {
      const answer = await send(encrypting({ headers }), Buffer.from('text'))
      expect({ status: answer.status, code: answer.json['__type'] }).toEqual({ status: 400, code: 'ValidationException' })
      expect(answer.json['message']).toMatch(message)
      expect(append.mock.calls.map(([record]) => record['errorCode'])).toEqual(['ValidationException'])
    } finally {
      append.mockRestore()
    }
  })

  test('encrypting without a word on the key', async () => {
    const answer = await send(asking('/envelope/encrypt', {}), Buffer.from('text'))
    expect(answer.json).toMatchObject({ __type: 'ValidationException', message: expect.stringMatching(/^Say which keys to encrypt under/) })
  })

  test('decrypting with a key that is empty, which is not taken for any key', async () => {
    const answer = await send(decrypting({ headers: { key: '' } }), await encrypted(Buffer.from('text')))
    expect(answer.json).toMatchObject({ __type: 'ValidationException', message: expect.stringContaining('x-holdfast-key is empty') })
  })

  test('decrypting what is no message, and the refusal is on record', async () => {
    const append = vi.spyOn(house.service.trail, 'append')
    try {
      const answer = await send(decrypting(), Buffer.from('no message at all'))
      expect({ status: answer.status, code: answer.json['__type'] }).toEqual({ status: 400, code: 'InvalidCiphertextException' })
      expect(append.mock.calls.map(([record]) => [record['eventName'], record['errorCode']])).toEqual([
        ['Decrypt', 'InvalidCiphertextException'],
      ])
    } finally {
      append.mockRestore()
    }
  })

  test('keys of accounts that are not asked for', async () => {
    const sealed = await encrypted(Buffer.from('text'))
    expect((await send(decrypting({ headers: { accounts: '999999999999' } }), sealed)).json['__type']).toBe('IncorrectKeyException')
    expect((await send(decrypting({ headers: { accounts: `999999999999, ${house.accountId}` } }), sealed)).body.toString()).toBe('text')
  })

  test('another method', async () => {
    const answer = await send(encrypting({ method: 'PUT' }), Buffer.alloc(0))
    expect({ status: answer.status, allow: answer.headers['allow'] }).toEqual({ status: 405, allow: 'POST' })
  })

  test('a long body is refused without being read to its end, and the answer arrives', async () => {
    const { request, answer } = await begin(encrypting({ headers: { key: 'alias/absent' } }))
    const chunk = Buffer.alloc(65_536)
    let ended = false
    request.on('close', () => (ended = true))
    const write = (): void => {
      if (!ended) request.write(chunk, () => setImmediate(write))
    }
    write()
    expect((await answer).json['__type']).toBe('NotFoundException')
    await vi.waitUntil(() => ended, { timeout: 30_000 })
  })
})

describe('a part is never a whole', () => {
  /** More than is under way at once, so that some is out when the end is found missing. */
  const length = 12 * 1_048_576
  let sealed: Buffer
  beforeAll(async () => {
    sealed = await encrypted(randomBytes(length))
  })

  test.each([
    ['cut short at its end', (message: Buffer) => message.subarray(0, -1)],
    ['cut short in the middle', (message: Buffer) => message.subarray(0, 10 * 1_048_576)],
    ['with a byte changed late', (message: Buffer) => flipped(message, message.length - 40)],
    ['with bytes behind it', (message: Buffer) => Buffer.concat([message, Buffer.of(0)])],
  ])('a message %s: the connection breaks, without last chunk or trailer', async (_what, change) => {
    const answer = await send(decrypting(), change(sealed))
    expect({ status: answer.status, ended: answer.ended, outcome: answer.outcome }).toEqual({
      status: 200,
      ended: false,
      outcome: undefined,
    })
    expect(answer.body.length).toBeLessThan(length)
  })

  test('what is wrong at the beginning is said before anything is sent', async () => {
    for (const message of [flipped(sealed, 40), flipped(sealed, 400), sealed.subarray(0, 1000), Buffer.alloc(0)]) {
      const answer = await send(decrypting(), message)
      expect({ status: answer.status, code: answer.json['__type'] }).toEqual({ status: 400, code: 'InvalidCiphertextException' })
    }
  })

  test('a signed message whose signature is wrong ends without its last piece', async () => {
    const signed = await encrypted(randomBytes(length), { headers: { suite: '0x0578' } })
    const answer = await send(decrypting(), flipped(signed, signed.length - 5))
    expect({ ended: answer.ended, outcome: answer.outcome }).toEqual({ ended: false, outcome: undefined })
  })
})

describe('clients that are not ours', () => {
  /** Breaks off after some MiB. */
  const length = 12 * 1_048_576
  let broken: Buffer
  beforeAll(async () => {
    const message = await encrypted(randomBytes(length))
    broken = flipped(message, message.length - 40)
  })

  /** What came back on a connection until it ended. */
  async function speak(write: (socket: Socket) => void, at = main.at): Promise<string> {
    const socket = connect(Number(new URL(at.endpoint).port), '127.0.0.1')
    const chunks: Buffer[] = []
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    socket.on('error', () => undefined)
    write(socket)
    await new Promise((resolve) => socket.once('close', resolve))
    return Buffer.concat(chunks).toString('latin1')
  }
  const headOf = ({ url, headers }: Awaited<ReturnType<typeof sign>>, version = '1.1'): string => {
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
    return `POST ${url.pathname} HTTP/${version}\r\n${lines.join('')}`
  }

  test('fetch rejects an answer that was cut short', async () => {
    const { url, headers } = await sign(decrypting())
    const { host: _host, ...sent } = headers
    const answer = await fetch(url, { method: 'POST', headers: sent, body: new Uint8Array(broken) })
    expect(answer.status).toBe(200)
    await expect(answer.arrayBuffer()).rejects.toThrow('terminated')
  })

  test('curl ends with a failure, and says that bytes are missing', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'holdfast-curl-'))
    onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
    writeFileSync(join(dir, 'body'), broken)
    const { url, headers } = await sign(decrypting())
    const words = Object.entries(headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`])
    const code = await new Promise((resolve) => {
      execFile('curl', ['-sS', '-X', 'POST', '-T', join(dir, 'body'), '-o', join(dir, 'out'), ...words, url.href], (error) =>
        resolve(error ? error.code : 0),
      )
    })
    // The connection ended before the last chunk, or was reset with bytes of the request on their way.
    expect([18, 55, 56]).toContain(code)
  })

  test('HTTP/1.0, where a part would look whole, is refused before anything is decrypted', async () => {
    const message = await encrypted(Buffer.from('the plaintext'))
    const signed = await sign(decrypting())
    const answer = await speak((socket) => {
      socket.write(`${headOf(signed, '1.0')}content-length: ${message.length}\r\n\r\n`)
      socket.write(message)
    })
    expect(answer).toMatch(/^HTTP\/1\.1 400 /)
    expect(answer).toContain('HTTP/1.1 is needed')
    expect(answer).not.toContain('the plaintext')
  })

  test.each([
    ['in chunks, without the last', 'transfer-encoding: chunked\r\n\r\n', 'c\r\nhalf a text, \r\n'],
    ['in the middle of a chunk', 'transfer-encoding: chunked\r\n\r\n', 'ff\r\nhalf a text, '],
    ['shorter than it was said to be', 'content-length: 1000\r\n\r\n', 'half a text, '],
  ])('a body that ends %s, becomes no whole message', async (_what, rest, body) => {
    const signed = await sign(encrypting())
    const answer = await speak((socket) => socket.end(`${headOf(signed)}${rest}${body}`))
    expect(answer).not.toContain('x-holdfast-outcome: complete')
    expect(answer).not.toMatch(/\r\n0\r\n/)
  })

  test('a stream that was asked for before the one before it was answered may take its time', async () => {
    const slow = await openDoors({}, undefined, { headersTimeoutMs: 200, requestTimeoutMs: 300 })
    const signed = await sign(encrypting({ at: slow.at }))
    const head = `${headOf(signed)}content-length: 4\r\n`
    const answer = await speak((socket) => {
      socket.write(`${head}\r\ntext${head}connection: close\r\n\r\nte`)
      // As long as Node looks for requests that are late at least three times.
      socket.once('data', () => setTimeout(() => socket.write('xt'), 700))
    }, slow.at)
    expect(answer.match(/x-holdfast-outcome: complete/g)).toHaveLength(2)
  })
})

describe('a signed message that is to be held until its signature is verified', () => {
  const buffered = (rest: Asking = {}): Sending => decrypting({ ...rest, headers: { buffer: 'true', ...rest.headers } })
  const plaintext = randomBytes(6 * 1_048_576)
  let signed: Buffer
  beforeAll(async () => {
    signed = await encrypted(plaintext, { headers: { suite: '0x0578' } })
  })

  test('comes whole', async () => {
    const { status, outcome, body } = await send(buffered(), signed)
    expect({ status, outcome, same: body.equals(plaintext) }).toEqual({ status: 200, outcome: 'complete', same: true })
  })

  test.each([
    ['with another signature', (message: Buffer) => flipped(message, message.length - 5)],
    ['cut short', (message: Buffer) => message.subarray(0, -1)],
    ['with a byte changed late', (message: Buffer) => flipped(message, message.length - 400)],
    ['with bytes behind it', (message: Buffer) => Buffer.concat([message, Buffer.of(0)])],
  ])('%s is an error in words, and no byte of it comes', async (_what, change) => {
    const answer = await send(buffered(), change(signed))
    expect({ status: answer.status, code: answer.json['__type'] }).toEqual({ status: 400, code: 'InvalidCiphertextException' })
  })

  test('beyond what may be held of one it is refused; without the header, and not signed, it is not held', async () => {
    const doors = await openDoors({ bufferBytes: plaintext.length - 1 })
    const answer = await send(buffered({ at: doors.at }), signed)
    expect({ status: answer.status, ...answer.json }).toEqual({
      status: 413,
      __type: 'RequestEntityTooLargeException',
      message: expect.stringMatching(/^The message has more than the 6291455 bytes that x-holdfast-buffer may hold/),
    })
    const unsigned = await encrypted(plaintext)
    expect((await send(buffered({ at: doors.at }), unsigned)).body.equals(plaintext)).toBe(true)
    for (const headers of [{}, { buffer: 'false' }])
      expect((await send(decrypting({ at: doors.at, headers }), signed)).body.equals(plaintext)).toBe(true)
    const exact = await openDoors({ bufferBytes: plaintext.length, totalBufferBytes: plaintext.length })
    expect((await send(buffered({ at: exact.at }), signed)).body.equals(plaintext)).toBe(true)
  })

  test('who finds no room is told to try again, and finds it when others have gone', async () => {
    const doors = await openDoors({ totalBufferBytes: 8 * 1_048_576 })
    const held = async (): Promise<number> =>
      Number(/^holdfast_envelope_buffered_bytes (\d+)$/m.exec((await doors.metrics.page()).text)?.[1])
    const long = await encrypted(randomBytes(7 * 1_048_576), { headers: { suite: '0x0578' } })
    const first = await begin(buffered({ at: doors.at }))
    first.request.write(long.subarray(0, 6.5 * 1_048_576))
    // Of six runs that are there, four may be under way.
    await vi.waitUntil(async () => (await held()) > 2 * 1_048_576, { timeout: 30_000, interval: 20 })
    const second = await send(buffered({ at: doors.at }), signed)
    expect({ status: second.status, ...second.json }).toEqual({
      status: 400,
      __type: 'ThrottlingException',
      message: 'Other messages hold the memory that there is for x-holdfast-buffer. Try again.',
    })
    first.request.destroy()
    await vi.waitUntil(async () => (await held()) === 0, { timeout: 30_000, interval: 20 })
    expect((await send(buffered({ at: doors.at }), signed)).body.equals(plaintext)).toBe(true)
  })

  test('is a wish for decrypting, true or false', async () => {
    expect((await send(buffered({ headers: { buffer: 'yes' } }), signed)).json).toMatchObject({
      __type: 'ValidationException',
      message: 'x-holdfast-buffer must be true or false.',
    })
    const answer = await send(encrypting({ headers: { buffer: 'true' } }), plaintext)
    expect(answer.json['message']).toMatch(/^The header x-holdfast-buffer means nothing here/)
  })
})

function flipped(message: Buffer, at: number): Buffer {
  const changed = Buffer.from(message)
  changed[at] = (changed[at] ?? 0) ^ 1
  return changed
}

describe('limits', () => {
  /** What a client hears of a connection that was destroyed. */
  const broken = /socket hang up|ECONNRESET|EPIPE/
  /** Until the figures of the door say so. */
  const until = async ({ metrics }: Doors, line: string): Promise<void> => {
    await vi.waitUntil(async () => (await metrics.page()).text.includes(`${line}\n`), { timeout: 30_000, interval: 20 })
  }

  test('a caller has so many streams at once; another is told to try again, and may when one has ended', async () => {
    const doors = await openDoors({ maxStreamsPerCaller: 2 })
    const open = [await begin(encrypting({ at: doors.at })), await begin(encrypting({ at: doors.at }))]
    for (const { request } of open) request.write('begun')
    await until(doors, 'holdfast_envelope_streams{kind="encrypt"} 2')
    // Both have a data key, so both count as their caller's.
    const third = await send(encrypting({ at: doors.at }), Buffer.from('text'))
    expect(third.json).toEqual({ __type: 'ThrottlingException', message: 'Rate exceeded' })
    const other = await makeUser(house, 'writer', {
      all: { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: 'kms:*', Resource: '*' }] },
    })
    expect((await send(encrypting({ at: doors.at, credentials: other, headers: { key } }), Buffer.from('text'))).outcome).toBe('complete')
    for (const { request, answer } of open) {
      request.end()
      expect((await answer).outcome).toBe('complete')
    }
    await until(doors, 'holdfast_envelope_streams{kind="encrypt"} 0')
    expect((await send(encrypting({ at: doors.at }), Buffer.from('text'))).outcome).toBe('complete')
  })

  test('all callers together have so many', async () => {
    const doors = await openDoors({ maxStreams: 1 })
    const first = await begin(encrypting({ at: doors.at }))
    first.request.write('begun')
    await until(doors, 'holdfast_envelope_streams{kind="encrypt"} 1')
    expect((await send(decrypting({ at: doors.at }), Buffer.from('text'))).json['__type']).toBe('ThrottlingException')
    // Who is not known is told so: places are for those who are.
    const unknown = { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: 'x' }
    const refused = await send(decrypting({ at: doors.at, credentials: unknown }), Buffer.from('text'))
    expect(refused.json['__type']).toBe('UnrecognizedClientException')
    first.request.end()
    expect((await first.answer).outcome).toBe('complete')
  })

  test('a stream in which nothing moves ends, whichever side stands still', async () => {
    const doors = await openDoors({ idleTimeoutMs: 3000 })
    const silent = await begin(encrypting({ at: doors.at }))
    silent.request.write('begun')
    // Who does not read: more than the sockets between hold.
    const deaf = await begin(encrypting({ at: doors.at }))
    deaf.request.end(Buffer.alloc(64 * 1_048_576))
    const response = await deaf.answering
    const closed = new Promise((resolve) => response.on('close', resolve))
    response.on('error', () => undefined)
    response.pause()
    await until(doors, 'holdfast_envelope_streams_total{kind="encrypt",state="gone"} 2')
    response.resume()
    await closed
    await expect(silent.answer).rejects.toThrow(broken)
    expect({ complete: response.complete, trailers: response.trailers }).toEqual({ complete: false, trailers: {} })
  })

  test('a stream that takes too long in all ends, though it moves', async () => {
    const doors = await openDoors({ totalTimeoutMs: 1000 })
    const { request, answer } = await begin(encrypting({ at: doors.at }))
    let over = false
    request.on('close', () => (over = true))
    const write = (): void => {
      if (!over) request.write('.', () => setTimeout(write, 10))
    }
    write()
    await expect(answer).rejects.toThrow(broken)
    await until(doors, 'holdfast_envelope_streams{kind="encrypt"} 0')
  })

  test('a caller who goes away leaves nothing', async () => {
    const doors = await openDoors()
    const uploading = await begin(encrypting({ at: doors.at }))
    uploading.request.write(Buffer.alloc(1_000_000))
    const reading = await begin(encrypting({ at: doors.at }))
    reading.request.write(Buffer.alloc(8 * 1_048_576))
    await reading.answering
    await until(doors, 'holdfast_envelope_streams{kind="encrypt"} 2')
    uploading.request.destroy()
    reading.request.destroy()
    await until(doors, 'holdfast_envelope_streams{kind="encrypt"} 0')
    await until(doors, 'holdfast_envelope_streams_total{kind="encrypt",state="gone"} 2')
    expect((await send(encrypting({ at: doors.at }), Buffer.from('text'))).outcome).toBe('complete')
  })

  test('who does not read stops who sends: no more is taken than a bound', async () => {
    const doors = await openDoors()
    const { request } = await begin(encrypting({ at: doors.at }))
    const chunk = Buffer.alloc(1_048_576)
    let sent = 0
    let stuck = false
    const write = (): void => {
      if (sent >= 256 || stuck) return
      sent++
      if (request.write(chunk)) setImmediate(write)
      else request.once('drain', write)
    }
    request.once('response', (answer: { pause(): void }) => answer.pause())
    write()
    // Nothing moves any more when two looks a while apart see the same.
    let before = -1
    await vi.waitUntil(
      () => {
        const same = sent === before && sent > 0
        before = sent
        return same
      },
      { timeout: 30_000, interval: 500 },
    )
    stuck = true
    expect(sent).toBeLessThan(128)
    request.destroy()
    await until(doors, 'holdfast_envelope_streams{kind="encrypt"} 0')
  })
})

describe('data keys that are kept', () => {
  const limits: CacheLimits = { maxAgeMs: 3_600_000, maxMessages: 3, maxBytes: 1_000_000, capacity: 10 }
  /** The names of what was called, and how it ended. */
  const called = async (run: () => Promise<unknown>): Promise<readonly string[]> => {
    const append = vi.spyOn(house.service.trail, 'append')
    try {
      await run()
      return append.mock.calls.map(([record]) => [record['eventName'], record['errorCode']].filter(Boolean).join(' '))
    } finally {
      append.mockRestore()
    }
  }
  const text = Buffer.from('text')
  // Its length must be known before its bytes.
  const known = { 'content-length': String(text.length) }

  test('serve the same caller again, by a decision and a record each time, and show in the metrics', async () => {
    const doors = await openDoors({}, limits)
    const once = encrypting({ at: doors.at, unsigned: known })
    const messages: Buffer[] = []
    const seal = async () => messages.push((await send(once, text)).body)
    expect(await called(seal)).toEqual(['GenerateDataKey'])
    expect(await called(seal)).toEqual(['GenerateDataKey DryRunOperationException'])
    expect(await called(seal)).toEqual(['GenerateDataKey DryRunOperationException'])
    expect(await called(seal)).toEqual(['GenerateDataKey'])
    const open = async (message: Buffer) => expect((await send(decrypting({ at: doors.at }), message)).body.toString()).toBe('text')
    const [first, second, , fourth] = messages as [Buffer, Buffer, Buffer, Buffer]
    expect(await called(() => open(first))).toEqual(['Decrypt'])
    expect(await called(() => open(second))).toEqual(['Decrypt DryRunOperationException'])
    expect(await called(() => open(fourth))).toEqual(['Decrypt'])
    const { text: page } = await doors.metrics.page()
    expect(page).toContain('holdfast_envelope_cached_keys 3\n')
    for (const [kind, count] of [
      ['hit', 3],
      ['miss', 4],
      ['bypass', 0],
    ] as const)
      expect(page).toContain(`holdfast_envelope_cache_total{kind="${kind}"} ${count}\n`)
  })

  test('serve nobody else, nor another context, nor who may no longer', async () => {
    const doors = await openDoors({}, limits)
    const user = await makeUser(house, 'keeper', {
      all: { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: 'kms:*', Resource: '*' }] },
    })
    const { KeyMetadata } = await kms.send(new CreateKeyCommand({}))
    const own = KeyMetadata?.Arn ?? ''
    const by = (rest: Asking) => encrypting({ at: doors.at, unsigned: known, ...rest, headers: { key: own, ...rest.headers } })
    expect(await called(() => send(by({}), text))).toEqual(['GenerateDataKey'])
    expect(await called(() => send(by({ credentials: user }), text))).toEqual(['GenerateDataKey'])
    expect(await called(() => send(by({ headers: { context: contextHeader({ a: 'b' }) } }), text))).toEqual(['GenerateDataKey'])
    await kms.send(new DisableKeyCommand({ KeyId: own }))
    const refused = await send(by({}), text)
    expect(refused.json['__type']).toBe('DisabledException')
  })

  test('serve no message whose key was disabled, though it or the caller names another that is not', async () => {
    const doors = await openDoors({}, limits)
    const create = async (AliasName: string): Promise<string> => {
      const { KeyMetadata } = await kms.send(new CreateKeyCommand({}))
      await kms.send(new CreateAliasCommand({ AliasName, TargetKeyId: KeyMetadata?.KeyId }))
      return KeyMetadata?.Arn ?? ''
    }
    const [lost, left] = [await create('alias/lost'), await create('alias/left')]
    const keyring = kmsKeyring({ ...doors.at, credentials: house.credentials, now: () => house.clock.now(), keys: [lost] })
    // What the message says of the other key is made up: nobody has opened it.
    const forged = { providerId: 'aws-kms', providerInfo: Buffer.from(left), ciphertext: Buffer.from('made up') }
    const message = await encrypt(text, {
      keyring: {
        ...keyring,
        async encrypting(request) {
          const { dataKey, encryptedDataKeys } = await keyring.encrypting(request)
          return { dataKey, encryptedDataKeys: [...encryptedDataKeys, forged] }
        },
      },
      pool,
    })
    keyring.close()
    const askings = [{}, { key: 'alias/left,alias/lost' }].map((headers) => decrypting({ at: doors.at, headers }))
    for (const asking of askings) expect((await send(asking, message)).body.toString()).toBe('text')
    await kms.send(new DisableKeyCommand({ KeyId: lost }))
    const refusals = askings.map(async (asking) => (await send(asking, message)).json['__type'])
    expect(await Promise.all(refusals)).toEqual(['DisabledException', 'IncorrectKeyException'])
  })
})
