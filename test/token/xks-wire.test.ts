/**
 * The XKS proxy as AWS KMS meets it, each line of the specification (1.0.3) over HTTP, TLS and HTTP/2: the real door and the real inside on a
 * real token. Requests are signed by another implementation than ours.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes } from 'node:crypto'
import { SignatureV4 } from '@smithy/signature-v4'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { openMetrics } from '../../src/base/metrics.ts'
import { listen, type Listener } from '../../src/http/server.ts'
import { openXksDoor, xksSuites } from '../../src/http/xks.ts'
import { openXksHealth, type XksHealth } from '../../src/kms/xks/health.ts'
import { openXksProxy, type XksProxy } from '../../src/kms/xks/proxy.ts'
import { makeAuthority, type Authority } from '../certificates.ts'
import { askHttp1, askHttp2, type Ask, type HttpAnswer, type Server } from '../http-client.ts'
import { administer, openInProcess, rawCall, type InProcess } from './holdfast.ts'
import { wrapMaterial } from './import-kit.ts'
import type { ConsoleFile, StoreCredential } from './xks-kit.ts'

const region = 'eu-central-1'
const hostName = 'proxy.xks.test'
const prefix = '/tenant'
let ours: InProcess
let authority: Authority
let health: XksHealth
let proxy: XksProxy
let plain: Listener
let overTls: Listener
let credential: StoreCredential
/** What the external key `imported` is made of. */
const material = randomBytes(32)

const own = <T = Readonly<Record<string, unknown>>>(operation: string, input: Readonly<Record<string, unknown>>): Promise<T> =>
  administer<T>(ours, operation, input, { nowMs: ours.clock.now() })
async function kms(operation: string, input: Readonly<Record<string, unknown>>): Promise<Readonly<Record<string, unknown>>> {
  const { status, json } = await rawCall(ours, 'kms', operation, input, { nowMs: ours.clock.now() })
  if (status !== 200) throw new Error(`${operation} answered ${JSON.stringify(json)}`)
  return json
}
const newKey = async (input: Readonly<Record<string, unknown>> = {}): Promise<string> =>
  ((await kms('CreateKey', input))['KeyMetadata'] as { readonly Arn: string }).Arn
async function showKey(externalId: string, arn?: string): Promise<string> {
  const shown = arn ?? (await newKey())
  await own('AddXksKey', { UriPathPrefix: prefix, ExternalKeyId: externalId, KeyId: shown })
  return shown
}

const longId = 'L'.repeat(128)
beforeAll(async () => {
  ours = await openInProcess()
  authority = makeAuthority()
  const { certFile, keyFile } = authority.issue(hostName, [hostName])
  const { clock, service, token } = ours
  const log = silentLog
  health = openXksHealth({
    tokens: new Map([['default', token]]),
    fleetSize: async () => 2,
    product: 'Holdfast test',
    clock,
    log,
    slowMs: 60_000,
  })
  proxy = openXksProxy(service, { health: health.read })
  const door = openXksDoor({
    proxy,
    clock,
    log,
    metrics: openMetrics(),
    deadlineMs: 20_000,
    maxCalls: 64,
    bodyTimeoutMs: 10_000,
    holdMs: 0,
  })
  const listening = (tls: Parameters<typeof listen>[0]['tls']): Promise<Listener> =>
    listen({
      name: 'xks',
      host: '127.0.0.1',
      port: 0,
      tls,
      maxConnections: 1000,
      headersTimeoutMs: 10_000,
      requestTimeoutMs: 30_000,
      idleTimeoutMs: 120_000,
      drainTimeoutMs: 5000,
      handle: (request, response) => door.handle(request, response),
      handleHttp2: (request, response) => door.handle(request, response),
      log,
    })
  plain = await listening(undefined)
  overTls = await listening({ certFile, keyFile, suites: xksSuites })
  const made = await own<ConsoleFile>('CreateXksStore', { UriPathPrefix: prefix, Regions: [region], RequestRate: 1_000_000 })
  credential = made.XksProxyAuthenticationCredential
  await showKey('one')
  await showKey('A-z.0_9')
  await showKey(longId)
  await kms('DisableKey', { KeyId: await showKey('disabled') })
  await kms('ScheduleKeyDeletion', { KeyId: await showKey('doomed'), PendingWindowInDays: 7 })
  const imported = await newKey({ Origin: 'EXTERNAL' })
  const parameters = await kms('GetParametersForImport', {
    KeyId: imported,
    WrappingAlgorithm: 'RSAES_OAEP_SHA_256',
    WrappingKeySpec: 'RSA_2048',
  })
  const publicKey = Buffer.from(String(parameters['PublicKey']), 'base64')
  await kms('ImportKeyMaterial', {
    KeyId: imported,
    ImportToken: parameters['ImportToken'],
    EncryptedKeyMaterial: wrapMaterial(publicKey, 'RSAES_OAEP_SHA_256', material).toString('base64'),
    ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
  })
  await showKey('imported', imported)
})
afterAll(async () => {
  await plain?.close()
  await overTls?.close()
  await proxy?.close()
  await health?.close()
  await ours?.close()
  authority?.remove()
})

/** What the signer wants of a hash: SHA-256, with a secret HMAC. */
class Hash {
  readonly #hash
  constructor(secret?: unknown) {
    this.#hash = secret === undefined ? createHash('sha256') : createHmac('sha256', secret as Buffer)
  }
  update(data: string | Uint8Array): void {
    this.#hash.update(data)
  }
  digest(): Promise<Uint8Array> {
    return Promise.resolve(new Uint8Array(this.#hash.digest()))
  }
}

interface Signing {
  readonly path: string
  readonly body: string
  readonly method?: string
  readonly host?: string
  /** Signed besides host and x-amz-date. */
  readonly headers?: Readonly<Record<string, string>>
  readonly service?: string
  readonly region?: string
  readonly accessKeyId?: string
  readonly secretAccessKey?: string
  /** Of the signer's clock. */
  readonly skewMs?: number
}

async function sign(signing: Signing): Promise<Record<string, string>> {
  const { path, body, method = 'POST', host = hostName, headers = {}, skewMs = 0 } = signing
  const { accessKeyId = credential.AccessKeyId, secretAccessKey = credential.RawSecretAccessKey } = signing
  const signer = new SignatureV4({
    service: signing.service ?? 'kms-xks-proxy',
    region: signing.region ?? region,
    credentials: { accessKeyId, secretAccessKey },
    sha256: Hash,
    applyChecksum: false,
  })
  const signed = await signer.sign(
    { method, protocol: 'https:', hostname: host, path, query: {}, headers: { host, ...headers }, body },
    { signingDate: new Date(ours.clock.now() + skewMs) },
  )
  return signed.headers
}

const metadata = {
  awsPrincipalArn: 'arn:aws:iam::123456789012:user/Alice',
  kmsKeyArn: 'arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab',
  kmsOperation: 'Encrypt',
  kmsRequestId: '4112f4d6-db54-4af4-ae30-c55a22a8dfae',
} as const
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
type Json = Readonly<Record<string, unknown>>
const text = Buffer.from('a data key that KMS has encrypted')
const encryptBody = (more: Json = {}): Json => ({
  requestMetadata: metadata,
  plaintext: base64(text),
  encryptionAlgorithm: 'AES_GCM',
  ...more,
})
const decryptBody = (encrypted: Json, more: Json = {}): Json => {
  const { ciphertext, initializationVector, authenticationTag, ciphertextMetadata } = encrypted
  return {
    requestMetadata: metadata,
    encryptionAlgorithm: 'AES_GCM',
    ciphertext,
    initializationVector,
    authenticationTag,
    ciphertextMetadata,
    ...more,
  }
}
const pathOf = (api: string, id = 'one', at = prefix): string => `${at}/kms/xks/v1/${api === 'health' ? 'health' : `keys/${id}/${api}`}`

const without = <T>(members: Readonly<Record<string, T>>, name: string): Record<string, T> =>
  Object.fromEntries(Object.entries(members).filter(([each]) => each !== name))

interface Answer {
  readonly status: number
  readonly json: Json
  readonly headers: HttpAnswer['headers']
}

const transports: readonly { readonly name: string; readonly ask: Ask; readonly server: () => Server }[] = [
  { name: 'HTTP', ask: askHttp1, server: () => ({ url: plain.url }) },
  { name: 'TLS', ask: askHttp1, server: () => ({ url: overTls.url, ca: authority.ca, name: hostName }) },
  { name: 'HTTP/2', ask: askHttp2, server: () => ({ url: overTls.url, ca: authority.ca, name: hostName }) },
]

describe.each(transports)('over $name', ({ ask, server }) => {
  /** A signed request; `change` is what happens to its headers after that. */
  async function send(
    api: string,
    id: string | undefined,
    body: Json | string,
    more: Partial<Signing> & { readonly change?: (headers: Record<string, string>) => Record<string, string>; readonly sent?: string } = {},
  ): Promise<Answer> {
    const { change = (headers) => headers, sent, ...signing } = more
    const path = pathOf(api, id)
    const whole = typeof body === 'string' ? body : JSON.stringify(body)
    const headers = change(await sign({ path, body: whole, headers: { 'content-type': 'application/json' }, ...signing }))
    const answer = await ask(server(), { path, headers, body: sent ?? whole })
    return { status: answer.status, headers: answer.headers, json: JSON.parse(answer.text) as Json }
  }
  const refusalOf = async (answering: Promise<Answer>): Promise<string> => {
    const { status, json } = await answering
    expect(json['errorMessage']).toMatch(/^[\x20-\x7e]{1,511}$/)
    return `${status} ${json['errorName'] as string}`
  }
  const bytes = (answer: Answer, name: string): Buffer => Buffer.from(String(answer.json[name]), 'base64')

  test('GetHealthStatus: all members, one entry for the token, which did real crypto', async () => {
    const { status, json, headers } = await send('health', undefined, {
      requestMetadata: { kmsRequestId: 'r', kmsOperation: 'KmsHealthCheck' },
    })
    expect([status, headers['content-type']]).toEqual([200, 'application/json'])
    expect(json).toEqual({
      xksProxyFleetSize: 2,
      xksProxyVendor: 'Holdfast',
      xksProxyModel: 'Holdfast test',
      ekmVendor: 'SoftHSM project',
      ekmFleetDetails: [{ id: 'default', model: expect.stringMatching(/^SoftHSM v2/), healthStatus: 'ACTIVE' }],
    })
  })

  test('GetKeyMetadata: AES_256, both usages, and whether it is enabled', async () => {
    const statuses = []
    for (const id of ['one', 'A-z.0_9', longId, 'disabled', 'doomed']) {
      const { status, json } = await send('metadata', id, { requestMetadata: { ...metadata, kmsOperation: 'CreateKey' } })
      expect([status, json]).toEqual([200, { keySpec: 'AES_256', keyUsage: ['ENCRYPT', 'DECRYPT'], keyStatus: expect.any(String) }])
      statuses.push(json['keyStatus'])
    }
    expect(statuses).toEqual(['ENABLED', 'ENABLED', 'ENABLED', 'DISABLED', 'DISABLED'])
  })

  test.each([
    ['1 byte, no AAD', 1, undefined],
    ['300 bytes, 40 of AAD', 300, 40],
    ['4300 bytes, 8192 of AAD', 4300, 8192],
  ])('Encrypt and Decrypt: %s', async (_what, length, aadLength) => {
    const plaintext = randomBytes(length)
    const aad = aadLength === undefined ? Buffer.alloc(0) : randomBytes(aadLength)
    const bound = aadLength === undefined ? {} : { additionalAuthenticatedData: base64(aad) }
    const made = await send(
      'encrypt',
      'one',
      encryptBody({ plaintext: base64(plaintext), ...bound, ciphertextDataIntegrityValueAlgorithm: 'SHA_256' }),
    )
    expect(made.status).toBe(200)
    const [ciphertext, iv, tag, meta] = ['ciphertext', 'initializationVector', 'authenticationTag', 'ciphertextMetadata'].map((name) =>
      bytes(made, name),
    )
    if (!ciphertext || !iv || !tag || !meta) throw new Error('not reached')
    expect([ciphertext.length, iv.length, tag.length]).toEqual([length, 12, 16])
    expect(meta.length).toBeLessThanOrEqual(20)
    const cdiv = createHash('sha256')
      .update(Buffer.concat([aad, meta, iv, ciphertext, tag]))
      .digest()
    expect(bytes(made, 'ciphertextDataIntegrityValue')).toEqual(cdiv)
    const opened = await send('decrypt', 'one', decryptBody(made.json, bound))
    expect(opened).toMatchObject({ status: 200, json: { plaintext: base64(plaintext) } })
    expect(Object.keys(opened.json)).toEqual(['plaintext'])
  })

  test('what the device authenticates is AAD and metadata behind their lengths: other software opens it, and makes what it opens', async () => {
    const aad = randomBytes(33)
    const framed = (meta: Buffer): Buffer => Buffer.concat([Buffer.from([0, aad.length]), aad, Buffer.from([meta.length]), meta])
    const bound = { additionalAuthenticatedData: base64(aad) }
    const made = await send('encrypt', 'imported', encryptBody(bound))
    const meta = bytes(made, 'ciphertextMetadata')
    const decipher = createDecipheriv('aes-256-gcm', material, bytes(made, 'initializationVector'))
    decipher.setAAD(framed(meta)).setAuthTag(bytes(made, 'authenticationTag'))
    expect(Buffer.concat([decipher.update(bytes(made, 'ciphertext')), decipher.final()])).toEqual(text)

    const iv = randomBytes(12)
    const cipher = createCipheriv('aes-256-gcm', material, iv).setAAD(framed(meta))
    const ciphertext = Buffer.concat([cipher.update(text), cipher.final()])
    const foreign = {
      ciphertext: base64(ciphertext),
      initializationVector: base64(iv),
      authenticationTag: base64(cipher.getAuthTag()),
      ciphertextMetadata: base64(meta),
    }
    expect(await send('decrypt', 'imported', decryptBody(foreign, bound))).toMatchObject({ status: 200, json: { plaintext: base64(text) } })
  })

  test('a CDIV is sent only when it is asked for; AAD that is empty is AAD that is absent', async () => {
    const made = await send('encrypt', 'one', encryptBody({ additionalAuthenticatedData: '' }))
    expect(Object.keys(made.json).sort()).toEqual(['authenticationTag', 'ciphertext', 'ciphertextMetadata', 'initializationVector'])
    expect((await send('decrypt', 'one', decryptBody(made.json))).status).toBe(200)
  })

  test('what the specification may have one day is taken; requestMetadata is not judged', async () => {
    const odd = {
      ...metadata,
      kmsOperation: 'AnOperationOfTheFuture',
      kmsRequestId: '¿ not a UUID',
      SourceIdentity: 'x',
      more: { deep: [1] },
    }
    const principals = ['AWS Internal', 'ec2.amazonaws.com', `arn:aws:iam::123456789012:role/${'x'.repeat(2010)}`]
    for (const awsPrincipalArn of principals) {
      const body = encryptBody({
        requestMetadata: { ...odd, awsPrincipalArn, kmsKeyArn: `arn:${'k'.repeat(2044)}` },
        aFieldOfTheFuture: true,
      })
      expect((await send('encrypt', 'one', body)).status).toBe(200)
    }
  })

  describe('every error has its status', () => {
    const encrypt = (more: Json = {}, id = 'one') => send('encrypt', id, encryptBody(more))

    test('400 ValidationException: what is missing, of another type, or no base64', async () => {
      const needs: readonly (readonly [string, Json, readonly string[]])[] = [
        ['health', { requestMetadata: { kmsRequestId: 'r', kmsOperation: 'o' } }, ['kmsRequestId', 'kmsOperation']],
        ['metadata', { requestMetadata: metadata }, ['kmsRequestId', 'kmsOperation', 'awsPrincipalArn']],
        ['encrypt', encryptBody(), ['kmsRequestId', 'kmsOperation', 'awsPrincipalArn', 'kmsKeyArn']],
        ['decrypt', decryptBody((await encrypt()).json), ['kmsRequestId', 'kmsOperation', 'awsPrincipalArn', 'kmsKeyArn']],
      ]
      for (const [api, body, names] of needs) {
        const told = body['requestMetadata'] as Json
        for (const name of names) {
          for (const requestMetadata of [without(told, name), { ...told, [name]: 7 }]) {
            expect([api, name, await refusalOf(send(api, 'one', { ...body, requestMetadata }))]).toEqual([
              api,
              name,
              '400 ValidationException',
            ])
          }
        }
      }
      const made = (await encrypt()).json
      const bad: readonly (readonly [string, Json | string])[] = [
        ['health', '{}'],
        ['health', { requestMetadata: {} }],
        ['health', ''],
        ['encrypt', '[]'],
        ['encrypt', '{"requestMetadata":'],
        ['encrypt', without(encryptBody(), 'plaintext')],
        ['encrypt', without(encryptBody(), 'encryptionAlgorithm')],
        ['encrypt', encryptBody({ encryptionAlgorithm: 'AES_CBC' })],
        ['encrypt', encryptBody({ plaintext: '' })],
        ['encrypt', encryptBody({ plaintext: '_-_-' })],
        ['encrypt', encryptBody({ plaintext: 'YQ' })],
        ['encrypt', encryptBody({ additionalAuthenticatedData: '%%' })],
        ['encrypt', encryptBody({ ciphertextDataIntegrityValueAlgorithm: 'SHA_1' })],
        ['decrypt', without(decryptBody(made), 'ciphertext')],
        ['decrypt', decryptBody(made, { initializationVector: base64(Buffer.alloc(11)) })],
        ['decrypt', decryptBody(made, { authenticationTag: base64(Buffer.alloc(15)) })],
        ['decrypt', decryptBody(made, { ciphertextMetadata: base64(Buffer.alloc(21)) })],
      ]
      for (const [api, body] of bad)
        expect([api, body, await refusalOf(send(api, 'one', body))]).toEqual([api, body, '400 ValidationException'])
    })

    test('400 InvalidStateException: a key that is disabled or about to be deleted', async () => {
      for (const id of ['disabled', 'doomed']) {
        expect(await refusalOf(encrypt({}, id))).toBe('400 InvalidStateException')
        expect(await refusalOf(send('decrypt', id, decryptBody((await encrypt()).json)))).toBe('400 InvalidStateException')
      }
    })

    test('400 InvalidCiphertextException: any bit of ciphertext, tag, IV, metadata or AAD, and another key', async () => {
      const bound = { additionalAuthenticatedData: base64(Buffer.from('bound')) }
      const { json } = await encrypt(bound)
      const flipped = (name: string): Json => {
        const value = Buffer.from(String({ ...json, ...bound }[name]), 'base64')
        value[0] = (value[0] ?? 0) ^ 1
        return { ...bound, [name]: base64(value) }
      }
      for (const name of ['ciphertext', 'authenticationTag', 'initializationVector', 'ciphertextMetadata', 'additionalAuthenticatedData']) {
        expect([name, await refusalOf(send('decrypt', 'one', decryptBody(json, flipped(name))))]).toEqual([
          name,
          '400 InvalidCiphertextException',
        ])
      }
      expect(await refusalOf(send('decrypt', 'one', decryptBody(json)))).toBe('400 InvalidCiphertextException')
      expect(await refusalOf(send('decrypt', longId, decryptBody(json, bound)))).toBe('400 InvalidCiphertextException')
    })

    test('404 KeyNotFoundException, and 404 InvalidUriPathException where there is no store', async () => {
      expect(await refusalOf(encrypt({}, 'no-such-key'))).toBe('404 KeyNotFoundException')
      expect(await refusalOf(encrypt({}, '..'))).toBe('404 KeyNotFoundException')
      expect(await refusalOf(send('metadata', 'no-such-key', { requestMetadata: metadata }))).toBe('404 KeyNotFoundException')
      const answer = await ask(server(), { path: pathOf('health', '', '/stranger'), body: '{}' })
      expect([answer.status, JSON.parse(answer.text)]).toMatchObject([404, { errorName: 'InvalidUriPathException' }])
    })

    test('501 UnsupportedOperationException: more than can be taken, of plaintext, of AAD, of the request as a whole', async () => {
      expect(await refusalOf(encrypt({ plaintext: base64(Buffer.alloc(4301)) }))).toBe('501 UnsupportedOperationException')
      expect(await refusalOf(encrypt({ additionalAuthenticatedData: base64(Buffer.alloc(8193)) }))).toBe(
        '501 UnsupportedOperationException',
      )
      expect(await refusalOf(encrypt({ plaintext: base64(Buffer.alloc(70_000)) }))).toBe('501 UnsupportedOperationException')
    })

    test('403 AccessDeniedException by a policy, from which health is exempt; 400 InvalidStateException while the store is off; 429 over its quota', async () => {
      const Statement = [{ Sid: 'not-alice', Effect: 'Deny', Principal: '*Alice' }]
      await own('PutXksPolicy', { UriPathPrefix: prefix, Policy: JSON.stringify({ Statement }) })
      const look = { requestMetadata: { kmsRequestId: 'r', kmsOperation: 'KmsHealthCheck' } }
      expect(await refusalOf(encrypt())).toBe('403 AccessDeniedException')
      expect((await send('health', undefined, look)).status).toBe(200)
      await own('DeleteXksPolicy', { UriPathPrefix: prefix })
      await own('DisableXksStore', { UriPathPrefix: prefix })
      expect(await refusalOf(encrypt())).toBe('400 InvalidStateException')
      expect(await refusalOf(send('metadata', 'one', { requestMetadata: metadata }))).toBe('400 InvalidStateException')
      expect(await refusalOf(send('health', undefined, look))).toBe('400 InvalidStateException')
      await own('EnableXksStore', { UriPathPrefix: prefix })
      await own('UpdateXksStore', { UriPathPrefix: prefix, RequestRate: 1 })
      // The clock stands still.
      const seen = new Set<unknown>()
      for (let call = 0; call < 5; call++) seen.add((await encrypt()).json['errorName'])
      expect(seen).toContain('ThrottlingException')
      await own('UpdateXksStore', { UriPathPrefix: prefix, RequestRate: 1_000_000 })
      expect((await encrypt()).status).toBe(200)
    })
  })

  describe('the signature', () => {
    const look = { requestMetadata: { kmsRequestId: 'r', kmsOperation: 'KmsHealthCheck' } }
    const ask = (more: Parameters<typeof send>[3]) => send('health', undefined, look, more)

    test.each<[string, Parameters<typeof send>[3]]>([
      ['host and x-amz-date alone', { headers: {} }],
      [
        'more headers',
        {
          headers: {
            'content-type': 'application/json',
            'x-other': 'a   b',
            'x-amz-content-sha256': createHash('sha256').update(JSON.stringify(look)).digest('hex'),
          },
        },
      ],
      ['the port in the host', { host: `${hostName}:8443` }],
      ['a clock almost five minutes off', { skewMs: 295_000 }],
      ['a clock almost five minutes off the other way', { skewMs: -295_000 }],
    ])('holds with %s', async (_what, more) => {
      expect((await ask(more)).status).toBe(200)
    })

    const edited = (from: RegExp, to: string) => ({
      change: (headers: Record<string, string>) => {
        const authorization = (headers['authorization'] ?? '').replace(from, to)
        expect(authorization).not.toBe(headers['authorization'])
        return { ...headers, authorization }
      },
    })
    test.each<[string, Parameters<typeof send>[3]]>([
      ['another secret', { secretAccessKey: 'x'.repeat(64) }],
      ['an access key id that is not known', { accessKeyId: 'A'.repeat(24) }],
      ['one that can be none', { accessKeyId: 'InvalidBETWEEN20and30chars' }],
      ['another region', { region: 'us-east-1' }],
      ['another service', { service: 'kms' }],
      ['a clock more than five minutes slow', { skewMs: -301_000 }],
      ['a clock more than five minutes fast', { skewMs: 301_000 }],
      ['another body', { sent: '{"requestMetadata":{"kmsRequestId":"s","kmsOperation":"KmsHealthCheck"}}' }],
      ['another host', { change: (headers) => ({ ...headers, host: 'another.xks.test' }) }],
      [
        'another time',
        {
          change: (headers) => ({
            ...headers,
            'x-amz-date': (headers['x-amz-date'] ?? '').replace(/..Z$/, (end) => (end === '00Z' ? '01Z' : '00Z')),
          }),
        },
      ],
      ['no time', { change: (headers) => without(headers, 'x-amz-date') }],
      ['no Authorization', { change: (headers) => without(headers, 'authorization') }],
      ['an empty Authorization', { change: (headers) => ({ ...headers, authorization: ' ' }) }],
      ['another scheme', edited(/^AWS4-HMAC-SHA256/, 'AWS4-HMAC-SHA512')],
      ['the host not signed', edited(/SignedHeaders=content-type;host;/, 'SignedHeaders=content-type;')],
      ['the time not signed', edited(/;x-amz-date,/, ',')],
      ['a signed header that is not there', edited(/SignedHeaders=/, 'SignedHeaders=a;')],
      ['a pseudo-header among the signed', edited(/SignedHeaders=/, 'SignedHeaders=:method;')],
      ['a signature of another length', edited(/Signature=../, 'Signature=')],
      ['a signature in capitals', edited(/Signature=.*$/, `Signature=${'A'.repeat(64)}`)],
      ['another day in its scope', edited(/\/\d{8}\//, '/20200101/')],
      ['another end of its scope', edited(/aws4_request/, 'aws5_request')],
      ['another method', { method: 'GET' }],
    ])('does not hold with %s: 401', async (_what, more) => {
      expect(await refusalOf(ask(more))).toBe('401 AuthenticationFailedException')
    })

    test('is looked at before everything that it protects, and after the route and the method', async () => {
      const wrong = { secretAccessKey: 'x'.repeat(64) }
      expect(await refusalOf(send('encrypt', 'no-such-key', '{}', wrong))).toBe('401 AuthenticationFailedException')
      expect(await refusalOf(send('encrypt', 'disabled', encryptBody(), wrong))).toBe('401 AuthenticationFailedException')
    })
  })

  test('with several credentials each signs, and one that is removed signs no more', async () => {
    const { XksProxyAuthenticationCredential: second } = await own<ConsoleFile>('AddXksCredential', { UriPathPrefix: prefix })
    const look = { requestMetadata: { kmsRequestId: 'r', kmsOperation: 'KmsHealthCheck' } }
    const asSecond = { accessKeyId: second.AccessKeyId, secretAccessKey: second.RawSecretAccessKey }
    expect((await send('health', undefined, look, asSecond)).status).toBe(200)
    expect((await send('health', undefined, look)).status).toBe(200)
    await own('RemoveXksCredential', { UriPathPrefix: prefix, AccessKeyId: second.AccessKeyId })
    expect(await refusalOf(send('health', undefined, look, asSecond))).toBe('401 AuthenticationFailedException')
  })
})

test('every answer of the three was recorded, and nothing that was encrypted is in a record', async () => {
  const { events } = await ours.service.trail.lookup({
    accountId: ours.accountId,
    region: ours.region,
    attribute: { name: 'EventName', value: 'Decrypt' },
    limit: 50,
  })
  const records = events.map(({ record }) => JSON.stringify(record))
  expect(records.length).toBeGreaterThan(0)
  for (const record of records) expect(record).not.toContain(base64(text))
})
