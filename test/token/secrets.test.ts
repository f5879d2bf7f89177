/**
 * Secrets are planted through every operation and in streams, in calls that succeed and in calls that fail in every way, and then looked for
 * wherever they must not be: log, audit trail, metrics, error bodies, databases, temporary files, command lines, environments.
 */
import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { signRequest } from '../../src/auth/sigv4.ts'
import { deriveKeys } from '../../src/bulk/derive.ts'
import { readHeader } from '../../src/bulk/stream.ts'
import { apis } from '../../src/kms/operations/index.ts'
import { cleanEnvironment } from './environment.ts'
import { begin, contextHeader, send, type EnvelopeAnswer, type Sending } from './envelope-kit.ts'
import { administer, makeAccount, makeUser, rawCall, startHoldfast, type Credentials, type Holdfast, type RawAnswer } from './holdfast.ts'

const run = promisify(execFile)

let holdfast: Holdfast
/** Where the service, and the commands, may make files that nobody asked for. */
const temporary = mkdtempSync(join(tmpdir(), 'holdfast-secrets-'))
/** Where the commands were told to write. */
const targets = mkdtempSync(join(tmpdir(), 'holdfast-targets-'))
beforeAll(async () => {
  const env = {
    HOLDFAST_LOG_LEVEL: 'trace',
    HOLDFAST_XKS_PROXY_PORT: '0',
    HOLDFAST_ENVELOPE_CACHE_MAX_AGE_MS: '3600000',
    HOLDFAST_ENVELOPE_BUFFER_BYTES: '2000000',
    TMPDIR: temporary,
  }
  holdfast = await startHoldfast({ env })
  await plant()
})
afterAll(async () => {
  await holdfast?.remove()
  for (const dir of [temporary, targets]) rmSync(dir, { recursive: true, force: true })
})

// ---- planting ----

/** What must be found nowhere, by what it is. */
const secrets = new Map<string, string>()
/** What callers were answered, but for the members that are secrets by purpose. */
const answers: { readonly operation: string; readonly answer: RawAnswer }[] = []

const base64 = (text: string) => Buffer.from(text, 'latin1').toString('base64')
let markers = 0
/** A new secret text. */
function marker(what: string): string {
  const text = `SECRET-${++markers}-${Math.random().toString(36).slice(2)}-${Math.random().toString(36).slice(2)}`
  secrets.set(`${what} ${markers}`, text)
  return text
}

async function call(
  api: 'kms' | 'holdfast' | 'cloudtrail',
  operation: string,
  body: unknown,
  credentials?: Credentials,
): Promise<RawAnswer> {
  const answer = await rawCall(holdfast, api, operation, body, credentials ? { credentials } : {})
  answers.push({ operation, answer })
  return answer
}

/** The bytes of a member of an answer, remembered as a secret. */
function remember(what: string, answer: RawAnswer, member: string): void {
  const value = answer.json[member]
  if (typeof value !== 'string') throw new Error(`${what}: ${answer.status} ${answer.text}`)
  secrets.set(what, Buffer.from(value, 'base64').toString('latin1'))
}

const document = (...statements: readonly object[]) => JSON.stringify({ Version: '2012-10-17', Statement: statements })

async function plant(): Promise<void> {
  const { credentials } = holdfast
  secrets.set('the secret of the root', credentials.secretAccessKey)
  for (const name of ['pin', 'so-pin']) {
    const file = findFile(holdfast.dir, name)
    if (file) secrets.set(`the token's ${name}`, readFileSync(file, 'utf8').trim())
  }
  expect([...secrets.keys()]).toEqual(['the secret of the root', "the token's pin", "the token's so-pin"])

  const made = await call('kms', 'CreateKey', {})
  const KeyId = String((made.json['KeyMetadata'] as Readonly<Record<string, unknown>>)['KeyId'])

  // Plaintext that arrives, in calls that succeed, that fail, and that are not even understood.
  const encrypt = (more: Readonly<Record<string, unknown>> = {}) => ({ KeyId, Plaintext: base64(marker('a plaintext')), ...more })
  const encrypted = await call('kms', 'Encrypt', encrypt())
  expect(encrypted.status).toBe(200)
  await call('kms', 'Encrypt', encrypt({ DryRun: true }))
  await call('kms', 'Encrypt', encrypt({ KeyId: 'nonsense' }))
  await call('kms', 'Encrypt', encrypt({ EncryptionAlgorithm: 'RSAES_OAEP_SHA_1' }))
  await call('kms', 'Encrypt', encrypt({ EncryptionContext: { a: 1 } }))
  await call('kms', 'Encrypt', encrypt({ GrantTokens: ['x'] }))
  await call('kms', 'Encrypt', { KeyId, Plaintext: base64(marker('a plaintext that is too long') + 'x'.repeat(4096)) })
  await call('kms', 'Encrypt', { KeyId, Plaintext: marker('a plaintext without base64') })
  await call('kms', 'Encrypt', { KeyId, Plaintext: [marker('a plaintext in a list')] })
  await call('kms', 'Encrypt', { KeyId, Plaintext: { nested: marker('a plaintext in a structure') } })
  await call('kms', 'Encrypt', `{"KeyId":"${KeyId}","Plaintext":"${base64(marker('a plaintext in broken JSON'))}"`)
  await call(
    'kms',
    'Encrypt',
    `{"Plaintext":"${base64(marker('a plaintext twice'))}","Plaintext":"${base64(marker('a plaintext twice'))}"}`,
  )
  await call('kms', 'GenerateMac', { KeyId, Message: base64(marker('a message')), MacAlgorithm: 'HMAC_SHA_256' })
  await call('kms', 'NoSuchOperation', encrypt())

  // Signatures that do not hold, over bodies that hold secrets.
  const stranger = { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: marker('a stranger’s secret') }
  await call('kms', 'Encrypt', encrypt(), stranger)
  await call('kms', 'Encrypt', encrypt(), { accessKeyId: credentials.accessKeyId, secretAccessKey: marker('a wrong secret') })
  await call('kms', 'Encrypt', encrypt(), { ...credentials, sessionToken: marker('a session token of nobody') })

  // Plaintext that leaves.
  const blob = encrypted.json['CiphertextBlob']
  await call('kms', 'Decrypt', { CiphertextBlob: blob })
  remember('a data key', await call('kms', 'GenerateDataKey', { KeyId, KeySpec: 'AES_256' }), 'Plaintext')
  remember('a long data key', await call('kms', 'GenerateDataKey', { KeyId, NumberOfBytes: 1024 }), 'Plaintext')
  remember('random bytes', await call('kms', 'GenerateRandom', { NumberOfBytes: 64 }), 'Plaintext')
  await call('kms', 'ReEncrypt', { CiphertextBlob: blob, DestinationKeyId: KeyId })
  await call('kms', 'GenerateDataKeyWithoutPlaintext', { KeyId, KeySpec: 'AES_128' })
  await call('kms', 'Decrypt', { CiphertextBlob: blob, EncryptionContext: { wrong: 'context' } })
  await call('kms', 'DisableKey', { KeyId })
  await call('kms', 'Encrypt', encrypt())
  await call('kms', 'EnableKey', { KeyId })

  // Credentials of users, accounts and sessions.
  const user = await makeUser(holdfast, 'secret-user', {
    p: JSON.parse(document({ Effect: 'Allow', Action: 'kms:*', Resource: '*' })) as object,
  })
  secrets.set('a user’s secret', user.secretAccessKey)
  await call('kms', 'Encrypt', encrypt(), user)
  const account = await makeAccount(holdfast, '999900001111')
  secrets.set('the secret of another account’s root', account.secretAccessKey)
  await call('kms', 'Encrypt', encrypt(), account)
  await administer(holdfast, 'CreateRole', {
    RoleName: 'secret-role',
    AssumeRolePolicyDocument: document({ Effect: 'Allow', Principal: { AWS: user.arn }, Action: 'sts:AssumeRole' }),
  })
  const session = await assumeRole(user, `arn:aws:iam::${holdfast.accountId}:role/secret-role`)
  secrets.set('a session’s secret', session.secretAccessKey)
  secrets.set('a session’s token', session.sessionToken ?? '')
  await call('kms', 'Encrypt', encrypt(), session)
  await call('kms', 'Encrypt', encrypt(), { ...session, secretAccessKey: marker('a wrong session secret') })
  await administer(holdfast, 'UpdateAccessKey', { AccessKeyId: user.accessKeyId, Status: 'Inactive' })
  await call('kms', 'Encrypt', encrypt(), user)

  await plantXks(KeyId)
  await plantStreams(KeyId)

  // Every operation of every API with a secret where it has no business, and with a body that fits nothing.
  for (const { name, operations } of apis) {
    if (name === 'sts') continue
    for (const operation of operations.keys()) {
      await call(name, operation, { Plaintext: base64(marker('a stray plaintext')), SecretAccessKey: marker('a stray secret'), KeyId: 7 })
    }
  }
}

/** Stores of the XKS proxy, and what AWS KMS sends through them. */
async function plantXks(KeyId: string): Promise<void> {
  const UriPathPrefix = '/secret'
  const made = await call('holdfast', 'CreateXksStore', { UriPathPrefix })
  const credential = made.json['XksProxyAuthenticationCredential'] as { readonly AccessKeyId: string; readonly RawSecretAccessKey: string }
  secrets.set('the secret of an XKS store', credential.RawSecretAccessKey)
  const own = { AccessKeyId: 'A'.repeat(20), RawSecretAccessKey: base64(marker('an XKS secret of one’s own').padEnd(39, 'x')).slice(0, 64) }
  secrets.set('an XKS secret of one’s own', own.RawSecretAccessKey)
  const added = await call('holdfast', 'AddXksCredential', { UriPathPrefix, XksProxyAuthenticationCredential: own })
  expect(added.status).toBe(200)
  for (const RawSecretAccessKey of [marker('an XKS secret that cannot be one'), own.RawSecretAccessKey]) {
    await call('holdfast', 'AddXksCredential', { UriPathPrefix, XksProxyAuthenticationCredential: { ...own, RawSecretAccessKey } })
    await call('holdfast', 'CreateXksStore', { UriPathPrefix: '/x y', XksProxyAuthenticationCredential: { ...own, RawSecretAccessKey } })
  }
  await call('holdfast', 'AddXksKey', { UriPathPrefix, ExternalKeyId: 'k', KeyId })

  const { xksUrl } = JSON.parse(readFileSync(join(holdfast.dir, 'endpoint.json'), 'utf8')) as { readonly xksUrl: string }
  const ask = async (what: string, body: unknown, secretAccessKey = credential.RawSecretAccessKey): Promise<RawAnswer> => {
    const url = `${xksUrl}/secret/kms/xks/v1/keys/k/${what}`
    const text = typeof body === 'string' ? body : JSON.stringify(body)
    const credentials = { accessKeyId: credential.AccessKeyId, secretAccessKey }
    const { host: _host, ...headers } = signRequest({
      method: 'POST',
      url,
      headers: { 'content-type': 'application/json' },
      body: text,
      service: 'kms-xks-proxy',
      region: holdfast.region,
      credentials,
      timeMs: Date.now(),
    })
    const answer = await fetch(url, { method: 'POST', headers, body: text })
    const answered = await answer.text()
    const json = JSON.parse(answered) as RawAnswer['json']
    answers.push({ operation: `XKS ${what}`, answer: { status: answer.status, headers: answer.headers, text: answered, json } })
    return { status: answer.status, headers: answer.headers, text: answered, json }
  }
  const requestMetadata = {
    kmsRequestId: 'r',
    kmsOperation: 'Encrypt',
    awsPrincipalArn: 'AWS Internal',
    kmsKeyArn: 'arn:aws:kms:eu-west-1:111122223333:key/k',
  }
  const body = (more: Readonly<Record<string, unknown>> = {}) => ({
    requestMetadata,
    encryptionAlgorithm: 'AES_GCM',
    ciphertextDataIntegrityValueAlgorithm: 'SHA_256',
    plaintext: base64(marker('a plaintext for the XKS proxy')),
    ...more,
  })
  const encrypted = await ask('encrypt', body())
  expect(encrypted.status).toBe(200)
  expect((await ask('decrypt', { requestMetadata, encryptionAlgorithm: 'AES_GCM', ...encrypted.json })).status).toBe(200)
  const refused = [
    await ask('encrypt', body({ encryptionAlgorithm: 'no' })),
    await ask('encrypt', body({ plaintext: marker('a plaintext without base64') })),
    await ask('encrypt', body({ plaintext: [marker('a plaintext in a list')] })),
    await ask('encrypt', body({ plaintext: base64(marker('a plaintext that is too long') + 'x'.repeat(4300)) })),
    await ask('encrypt', JSON.stringify(body()).slice(0, -1)),
    await ask('encrypt', body(), marker('a wrong XKS secret')),
    await ask('nothing', body()),
  ]
  expect(refused.map(({ status }) => status)).toEqual([400, 400, 400, 501, 400, 401, 404])
  await call('holdfast', 'DisableXksStore', { UriPathPrefix })
  expect((await ask('encrypt', body())).status).toBe(400)
}

/** What commands said on standard error. */
const said: string[] = []

/** Streams over HTTP, and the commands that make the same messages: what passes them, and the keys that it passes under. */
async function plantStreams(KeyId: string): Promise<void> {
  const base = { at: holdfast, credentials: holdfast.credentials }
  const encrypting = (headers: Sending['headers'] = {}, more: Partial<Sending> = {}): Sending => ({
    ...base,
    path: '/envelope/encrypt',
    headers: { key: KeyId, ...headers },
    ...more,
  })
  const decrypting = (headers: Sending['headers'] = {}, more: Partial<Sending> = {}): Sending => ({
    ...base,
    path: '/envelope/decrypt',
    headers,
    ...more,
  })
  const heard = async (what: string, sending: Sending, body: Buffer): Promise<EnvelopeAnswer> => {
    const answer = await send(sending, body)
    const headers = new Headers(Object.entries(answer.headers).map(([name, value]) => [name, String(value)]))
    // The body of a stream is for its caller; an error is not.
    const text = answer.status === 200 ? '' : answer.body.toString('latin1')
    answers.push({ operation: what, answer: { status: answer.status, headers, text, json: answer.json } })
    return answer
  }
  /** A text, and so much behind it: MiB, to be under way when something goes wrong. */
  const plaintext = (what: string, mebibytes = 0): Buffer =>
    Buffer.concat([Buffer.from(marker(what)), Buffer.alloc(mebibytes * 1_048_576), Buffer.from(marker(`the end of ${what}`))])

  const messages: Buffer[] = []
  for (const suite of ['0x0478', '0x0578']) {
    for (const mebibytes of [0, 3]) {
      const body = plaintext('a stream', mebibytes)
      const sealed = await heard('encrypt a stream', encrypting({ suite }, { unsigned: { 'content-length': String(body.length) } }), body)
      expect(sealed.outcome).toBe('complete')
      messages.push(sealed.body)
      const opened = await heard('decrypt a stream', decrypting(), sealed.body)
      expect(opened.body.equals(body)).toBe(true)
      // A second message of the data key that is kept.
      await heard('encrypt a stream', encrypting({ suite }, { unsigned: { 'content-length': '4' } }), Buffer.from('text'))
    }
  }
  // The keys of all of them, as their callers could have them.
  for (const message of messages) {
    const { header } = await readHeader([message])
    const { suite, messageId, context, encryptedDataKeys } = header
    const CiphertextBlob = encryptedDataKeys[0]?.ciphertext.toString('base64')
    const answer = await call('kms', 'Decrypt', { CiphertextBlob, EncryptionContext: { ...context } })
    remember(`the data key of message ${messageId.toString('hex')}`, answer, 'Plaintext')
    const { key } = deriveKeys(suite, Buffer.from(String(answer.json['Plaintext']), 'base64'), messageId)
    secrets.set(`the key of message ${messageId.toString('hex')}`, key.toString('latin1'))
  }

  // What ends badly, before the first byte and after it.
  const flipped = (message: Buffer, at: number): Buffer => {
    const changed = Buffer.from(message)
    changed[at] = (changed[at] ?? 0) ^ 1
    return changed
  }
  const [short, , signed, longSigned] = messages as [Buffer, Buffer, Buffer, Buffer]
  const long = plaintext('a stream that breaks', 12)
  const sealed = await heard('encrypt a stream', encrypting(), long)
  const broken = await heard('a stream that breaks', decrypting(), flipped(sealed.body, sealed.body.length - 40))
  expect({ status: broken.status, outcome: broken.outcome }).toEqual({ status: 200, outcome: undefined })
  const wrongHash = { payload: 'a'.repeat(64) }
  const stranger = { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: marker('a stranger’s secret') }
  const wrong = { accessKeyId: holdfast.credentials.accessKeyId, secretAccessKey: marker('a wrong secret') }
  const refused = [
    await heard('a wrong hash', encrypting({}, wrongHash), plaintext('a stream with a wrong hash')),
    await heard('a stranger', encrypting({}, { credentials: stranger }), plaintext('a stream of a stranger')),
    await heard('a wrong secret', encrypting({}, { credentials: wrong }), plaintext('a stream with a wrong signature')),
    await heard(
      'no such session',
      encrypting({}, { credentials: { ...wrong, sessionToken: marker('a session token') } }),
      plaintext('one'),
    ),
    await heard('no such key', encrypting({ key: 'alias/absent' }), plaintext('a stream under no key', 3)),
    await heard('no such suite', encrypting({ suite: marker('a secret for a suite') }), plaintext('a stream of no suite')),
    await heard('no such header', encrypting({ secret: marker('a secret in a header') }), plaintext('a stream with a header')),
    await heard('no context', encrypting({ context: base64(`{"a":"${marker('a broken context')}`) }), plaintext('no context')),
    await heard('no length', encrypting({ 'frame-length': marker('a secret for a length') }), plaintext('no length')),
    await heard('no policy', decrypting({ 'commitment-policy': marker('a secret for a policy') }), short),
    await heard('no wish', decrypting({ buffer: marker('a secret for a wish') }), short),
    await heard('a changed frame', decrypting(), flipped(short, short.length - 20)),
    await heard('a changed header', decrypting(), flipped(short, 60)),
    await heard('another context', decrypting({ context: contextHeader({ a: 'b' }) }), short),
    await heard('a wrong signature', decrypting({ buffer: 'true' }), flipped(signed, signed.length - 5)),
    await heard('too long to be held', decrypting({ buffer: 'true' }), longSigned),
  ]
  expect(refused.map(({ status }) => status)).toEqual([...Array.from({ length: 15 }, () => 400), 413])
  await call('holdfast', 'CreateUser', { UserName: 'no-streams' })
  const { json } = await call('holdfast', 'CreateAccessKey', { UserName: 'no-streams' })
  const made = json['AccessKey'] as { readonly AccessKeyId: string; readonly SecretAccessKey: string }
  secrets.set('the secret of who may not', made.SecretAccessKey)
  const denied = { accessKeyId: made.AccessKeyId, secretAccessKey: made.SecretAccessKey }
  const may = await heard('who may not', encrypting({}, { credentials: denied }), plaintext('a stream of who may not'))
  expect(may.json['__type']).toBe('AccessDeniedException')
  // Who goes away in the middle.
  const leaving = await begin(encrypting())
  leaving.request.write(plaintext('a stream that is left', 8))
  await leaving.answering
  leaving.request.destroy()

  // The commands, whose targets appear whole or not at all.
  const command = (words: readonly string[], input: Buffer): Promise<number | null> =>
    new Promise((resolve) => {
      const child = execFile(
        process.execPath,
        ['scripts/holdfast.mjs', ...words],
        { env: { ...cleanEnvironment(), HOLDFAST_DATA_DIR: holdfast.dir, TMPDIR: temporary } },
        (error, _stdout, stderr) => {
          said.push(stderr)
          resolve(error ? Number(error.code) : 0)
        },
      )
      child.stdin?.on('error', () => undefined)
      child.stdin?.end(input)
    })
  const file = join(targets, 'message')
  writeFileSync(join(targets, 'broken'), flipped(sealed.body, sealed.body.length - 40))
  const codes = [
    await command(['encrypt', '--key', KeyId, '--sign', '--output', file], plaintext('the input of a command', 2)),
    await command(['decrypt', file, '--output', join(targets, 'never')], Buffer.alloc(0)),
  ]
  expect(codes).toEqual([0, 0])
  rmSync(join(targets, 'never'))
  const failed = [
    await command(['decrypt', join(targets, 'broken'), '--output', join(targets, 'never')], Buffer.alloc(0)),
    await command(['decrypt', '--buffer', '--output', join(targets, 'never')], flipped(readFileSync(file), readFileSync(file).length - 5)),
    await command(['encrypt', '--key', 'alias/absent', '--output', join(targets, 'never')], plaintext('the input of no key')),
  ]
  expect(failed).toEqual([1, 1, 1])
}

/** Through the SDK, whose answer keeps the credentials out of our list of answers. */
async function assumeRole(user: Credentials, roleArn: string): Promise<Credentials> {
  const { AssumeRoleCommand, STSClient } = await import('@aws-sdk/client-sts')
  const client = new STSClient({ endpoint: holdfast.endpoint, region: holdfast.region, credentials: user, maxAttempts: 1 })
  const { Credentials: made } = await client.send(new AssumeRoleCommand({ RoleArn: roleArn, RoleSessionName: 'secret-session' }))
  return { accessKeyId: made?.AccessKeyId ?? '', secretAccessKey: made?.SecretAccessKey ?? '', sessionToken: made?.SessionToken ?? '' }
}

// ---- looking ----

function* filesBelow(dir: string): Generator<string> {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name)
    if (entry.isDirectory()) yield* filesBelow(path)
    else yield path
  }
}

function findFile(dir: string, name: string): string | undefined {
  return [...filesBelow(dir)].find((path) => path.endsWith(`/${name}`))
}

/** A secret as it could be written. */
function forms(secret: string): readonly Buffer[] {
  const bytes = Buffer.from(secret, 'latin1')
  const texts = [
    bytes.toString('base64'),
    bytes.toString('base64url'),
    bytes.toString('hex'),
    bytes.toString('hex').toUpperCase(),
    encodeURIComponent(secret),
    JSON.stringify(secret).slice(1, -1),
  ]
  return [bytes, ...texts.map((text) => Buffer.from(text.replace(/=+$/, '')))]
}

/** Which secrets are in these bytes, by what they are. */
function found(bytes: Buffer | string): readonly string[] {
  const haystack = typeof bytes === 'string' ? Buffer.from(bytes, 'utf8') : bytes
  return [...secrets].filter(([, secret]) => forms(secret).some((form) => haystack.includes(form))).map(([what]) => what)
}

/** The service and every process it started. */
function processes(): readonly number[] {
  const parents = new Map<number, number>()
  for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    try {
      parents.set(Number(name), Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${name}/status`, 'utf8'))?.[1]))
    } catch {
      // It has ended meanwhile.
    }
  }
  const below = (pid: number): readonly number[] => [
    pid,
    ...[...parents].filter(([, parent]) => parent === pid).flatMap(([child]) => below(child)),
  ]
  return below(holdfast.pid)
}

test('the search finds what is there', () => {
  const secret = [...secrets.values()].find((text) => text.startsWith('SECRET-')) ?? ''
  for (const form of forms(secret))
    expect(found(Buffer.concat([Buffer.from('before '), form, Buffer.from(' after')])).length).toBeGreaterThan(0)
  expect(found('nothing')).toEqual([])
  expect(secrets.size).toBeGreaterThan(100)
})

describe('secrets', () => {
  test('are in no log line, at the most talkative level', async () => {
    // Once the last call is in it, everything before is too.
    const last = (await call('kms', 'ListKeys', {})).headers.get('x-amzn-requestid') ?? ''
    await vi.waitUntil(() => holdfast.log().includes(last), { timeout: 30_000 })
    expect(holdfast.log()).toContain('"operation":"GenerateDataKey"')
    expect(found(holdfast.log())).toEqual([])
  })

  test('are in no audit record', async () => {
    const { stdout } = await run(process.execPath, ['scripts/holdfast.mjs', 'audit', 'export'], {
      env: { ...cleanEnvironment(), HOLDFAST_DATA_DIR: holdfast.dir },
      maxBuffer: 64 * 1024 * 1024,
    })
    expect(stdout.split('\n').length).toBeGreaterThan(100)
    expect(stdout).toContain('"eventName":"GenerateDataKey"')
    expect(found(stdout)).toEqual([])
  })

  test('are in no answer but the one that is for them', () => {
    const purpose: ReadonlySet<string> = new Set(['Plaintext', 'AccessKey', 'plaintext', 'XksProxyAuthenticationCredential'])
    for (const { operation, answer } of answers) {
      const rest = Object.fromEntries(Object.entries(answer.json).filter(([member]) => !purpose.has(member)))
      expect({ operation, found: found(answer.status === 200 ? JSON.stringify(rest) : answer.text) }).toEqual({ operation, found: [] })
      expect({ operation, found: found([...answer.headers].flat().join('\n')) }).toEqual({ operation, found: [] })
    }
  })

  test('are on no page of the operations port', async () => {
    for (const path of ['/metrics', '/readyz', '/healthz', '/']) {
      const answer = await fetch(holdfast.opsEndpoint + path)
      expect({ path, found: found(await answer.text()) }).toEqual({ path, found: [] })
    }
  })

  test('are in no figure of the streams, which were counted', async () => {
    const page = await (await fetch(`${holdfast.opsEndpoint}/metrics`)).text()
    for (const state of ['complete', 'refused', 'aborted'])
      expect(page).toMatch(new RegExp(`^holdfast_envelope_streams_total\\{.*state="${state}".*\\} [1-9]`, 'm'))
    expect(page).toMatch(/^holdfast_envelope_cached_keys(?:\{.*\})? [1-9]/m)
    expect(page).toMatch(/^holdfast_envelope_buffered_bytes(?:\{.*\})? 0$/m)
    expect(found(page)).toEqual([])
  })

  test('are in nothing that a command said, and in no file that was left over', () => {
    expect(said).toHaveLength(5)
    expect(found(said.join('\n'))).toEqual([])
    expect(readdirSync(targets).sort()).toEqual(['broken', 'message'])
    for (const dir of [targets, temporary])
      for (const path of filesBelow(dir)) expect({ path, found: found(readFileSync(path)) }).toEqual({ path, found: [] })
  })

  test('are in no command line and no environment of the service or of a process that it started', () => {
    const pids = processes()
    expect(pids.length).toBeGreaterThan(1)
    for (const pid of pids) {
      for (const name of ['cmdline', 'environ']) {
        const bytes = readFileSync(`/proc/${pid}/${name}`)
        expect({ pid, name, found: found(bytes) }).toEqual({ pid, name, found: [] })
      }
    }
  })

  test('are in no file of the data directory but those that are for them', () => {
    const meant: Readonly<Record<string, readonly string[]>> = {
      [join(holdfast.dir, 'credentials')]: ['the secret of the root'],
      [findFile(holdfast.dir, 'pin') ?? '']: ["the token's pin"],
      [findFile(holdfast.dir, 'so-pin') ?? '']: ["the token's so-pin"],
    }
    let files = 0
    for (const path of filesBelow(holdfast.dir)) {
      files++
      expect({ path, found: found(readFileSync(path)) }).toEqual({ path, found: meant[path] ?? [] })
    }
    expect(files).toBeGreaterThan(5)
  })
})

test('nobody but the owner may open the data directory or anything in it that matters', () => {
  const mode = (path: string) => (statSync(path).mode & 0o777).toString(8)
  expect(mode(holdfast.dir)).toBe('700')
  for (const path of filesBelow(holdfast.dir)) {
    // Where the service listens is no secret.
    if (path.endsWith('/endpoint.json')) continue
    expect({ path, others: statSync(path).mode & 0o077 }).toEqual({ path, others: 0 })
  }
  expect(existsSync(join(holdfast.dir, 'credentials'))).toBe(true)
})
