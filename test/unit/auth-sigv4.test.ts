import { Buffer } from 'node:buffer'
import { createHash, createHmac } from 'node:crypto'
import { SignatureV4 } from '@smithy/signature-v4'
import type { Checksum, HttpRequest, SourceData } from '@smithy/types'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  deriveSigningKey,
  readAuthorization,
  SignatureError,
  signRequest,
  SigningKeyCache,
  statedPayloadHash,
  verifySignature,
  type SignedRequest,
} from '../../src/auth/sigv4.ts'

const secret = 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY'
const accessKeyId = 'AKIDEXAMPLE'
const credentials = { accessKeyId, secretAccessKey: secret }
const now = Date.UTC(2026, 0, 1, 0, 10, 0)
const mismatch = /^The request signature we calculated does not match the signature you provided\./

/** What the whole of the road does with a request. */
function accept(request: SignedRequest, nowMs: number = now): ReturnType<typeof readAuthorization> {
  const received = readAuthorization(request, nowMs)
  verifySignature(request, received, deriveSigningKey(secret, received.date, received.region, received.service))
  return received
}

function refusal(run: () => unknown): SignatureError {
  try {
    run()
  } catch (error) {
    if (error instanceof SignatureError) return error
    throw error
  }
  throw new Error('was accepted')
}

function outcome(request: SignedRequest): string {
  try {
    accept(request)
    return 'accepted'
  } catch (error) {
    return error instanceof SignatureError ? 'refused' : String(error)
  }
}

function signed(
  changes: { headers?: Record<string, string>; body?: string; timeMs?: number; sessionToken?: string } = {},
): SignedRequest & {
  headers: Record<string, string>
  body: Uint8Array
} {
  const body = Buffer.from(changes.body ?? '{"KeyId":"alias/x"}')
  const headers = signRequest({
    method: 'POST',
    url: 'http://127.0.0.1:8480/',
    headers: { 'Content-Type': 'application/x-amz-json-1.1', 'X-Amz-Target': 'TrentService.DescribeKey', ...changes.headers },
    body,
    service: 'kms',
    region: 'us-east-1',
    credentials: changes.sessionToken === undefined ? credentials : { ...credentials, sessionToken: changes.sessionToken },
    timeMs: changes.timeMs ?? now,
  })
  return { method: 'POST', path: '/', query: '', headers, body }
}

class NodeSha256 implements Checksum {
  readonly #hash: { update(data: Uint8Array): unknown; digest(): Buffer }
  constructor(key?: SourceData) {
    this.#hash = key === undefined ? createHash('sha256') : createHmac('sha256', bytes(key))
  }
  update(data: Uint8Array | string): void {
    this.#hash.update(bytes(data))
  }
  digest(): Promise<Uint8Array> {
    return Promise.resolve(new Uint8Array(this.#hash.digest()))
  }
  reset(): void {
    throw new Error('not used')
  }
}

function bytes(data: SourceData): Uint8Array {
  if (typeof data === 'string') return Buffer.from(data)
  return ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data)
}

function sdkSigner(region: string, service: string, applyChecksum: boolean, sessionToken?: string): SignatureV4 {
  return new SignatureV4({
    credentials: sessionToken === undefined ? credentials : { ...credentials, sessionToken },
    region,
    service,
    applyChecksum,
    sha256: NodeSha256,
  })
}

const token = fc
  .stringMatching(/^[a-z][a-z0-9-]{0,12}$/)
  .filter((name) => !/^(?:proxy-|sec-|x-amz-date|authorization|host|te|from|date$)/.test(name))
const headerValue = fc.stringMatching(/^[ -~\t]{0,40}$/)
const pathText = fc.array(
  fc.oneof(
    fc.constantFrom('.', '..', '', 'a b', '%20', 'a/b', '~-_.', "!'()*", 'é', '%C3%A9'),
    fc.string({ maxLength: 6, unit: 'grapheme' }),
  ),
  {
    maxLength: 5,
  },
)
const anyRequest = fc.record({
  method: fc.constantFrom('POST', 'GET', 'PUT', 'DELETE'),
  path: pathText.map((parts) => `/${parts.map((part) => encodeURI(part).replaceAll(/[?#]/g, '')).join('/')}`),
  query: fc.dictionary(
    fc.string({ minLength: 1, maxLength: 8, unit: 'grapheme' }),
    fc.oneof(fc.string({ maxLength: 8, unit: 'grapheme' }), fc.array(fc.string({ maxLength: 4, unit: 'grapheme' }), { maxLength: 3 })),
    {
      maxKeys: 4,
    },
  ),
  headers: fc.dictionary(token, headerValue, { maxKeys: 6 }),
  body: fc.uint8Array({ maxLength: 200 }),
  region: fc.constantFrom('us-east-1', 'eu-west-1', 'x'),
  service: fc.constantFrom('kms', 'sts'),
  applyChecksum: fc.boolean(),
  sessionToken: fc.option(fc.stringMatching(/^[A-Za-z0-9+/=]{1,60}$/), { nil: undefined }),
})
type AnyRequest = typeof anyRequest extends fc.Arbitrary<infer T> ? T : never

/** The query as an HTTP client would put it on the wire. */
function rawQuery(query: AnyRequest['query']): string {
  const encode = (text: string): string => encodeURIComponent(text)
  return Object.entries(query)
    .flatMap(([name, value]) => (Array.isArray(value) ? value : [value]).map((item) => `${encode(name)}=${encode(item)}`))
    .join('&')
}

async function signBySdk(request: AnyRequest): Promise<SignedRequest & { headers: Record<string, string>; body: Uint8Array }> {
  const http = {
    method: request.method,
    protocol: 'http:',
    hostname: '127.0.0.1',
    path: request.path,
    query: request.query,
    headers: { ...request.headers, host: '127.0.0.1:8480' },
    body: request.body,
  } satisfies HttpRequest & { body: Uint8Array }
  const signer = sdkSigner(request.region, request.service, request.applyChecksum, request.sessionToken)
  const { headers } = await signer.sign(http, { signingDate: new Date(now) })
  return { method: request.method, path: request.path, query: rawQuery(request.query), headers, body: request.body }
}

describe('known vectors of the SigV4 test suite', () => {
  it('derives the signing keys of the documentation', () => {
    expect(deriveSigningKey(secret, '20120215', 'us-east-1', 'iam').toString('hex')).toBe(
      'f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d',
    )
    expect(deriveSigningKey(secret, '20150830', 'us-east-1', 'iam').toString('hex')).toBe(
      'c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9',
    )
  })

  const suite: { name: string; method: string; query?: string; headers?: Record<string, string>; signature: string }[] = [
    { name: 'get-vanilla', method: 'GET', signature: '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31' },
    { name: 'post-vanilla', method: 'POST', signature: '5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b' },
    {
      name: 'get-vanilla-query-order-key-case',
      method: 'GET',
      query: 'Param2=value2&Param1=value1',
      signature: 'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500',
    },
    {
      name: 'get-header-value-trim',
      method: 'GET',
      headers: { 'my-header1': ' value1', 'my-header2': ' "a   b   c"' },
      signature: 'acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736',
    },
  ]
  it.each(suite)('$name verifies', ({ method, query, headers, signature }) => {
    const names = ['host', ...Object.keys(headers ?? {}), 'x-amz-date'].join(';')
    const request = {
      method,
      path: '/',
      query: query ?? '',
      headers: {
        host: 'example.amazonaws.com',
        'x-amz-date': '20150830T123600Z',
        ...headers,
        authorization: `AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=${names}, Signature=${signature}`,
      },
      body: Buffer.alloc(0),
    }
    expect(accept(request, Date.UTC(2015, 7, 30, 12, 36)).accessKeyId).toBe('AKIDEXAMPLE')
  })
})

describe('against the signer of the AWS SDK', () => {
  it('whatever the SDK signs is accepted', async () => {
    await fc.assert(
      fc.asyncProperty(anyRequest, async (generated) => {
        const request = await signBySdk(generated)
        const received = accept(request)
        expect(received).toMatchObject({ accessKeyId, region: generated.region, service: generated.service, timeMs: now })
        expect(received.sessionToken).toBe(generated.sessionToken)
      }),
      { numRuns: 400 },
    )
  })

  it('what signRequest signs has the signature that the SDK computes', async () => {
    await fc.assert(
      fc.asyncProperty(anyRequest, async (generated) => {
        const ours = signRequest({
          method: generated.method,
          url: `http://127.0.0.1:8480/${rawQuery(generated.query) === '' ? '' : `?${rawQuery(generated.query)}`}`,
          headers: generated.headers,
          body: generated.body,
          service: generated.service,
          region: generated.region,
          credentials: generated.sessionToken === undefined ? credentials : { ...credentials, sessionToken: generated.sessionToken },
          timeMs: now,
        })
        const theirs = await signBySdk({ ...generated, path: '/', applyChecksum: false })
        expect(ours['authorization']).toBe(theirs.headers['authorization'])
        accept({ method: generated.method, path: '/', query: rawQuery(generated.query), headers: ours, body: generated.body })
      }),
      { numRuns: 300 },
    )
  })

  it('any change to what is signed is found', async () => {
    const tamperings = [
      'method',
      'path',
      'query',
      'header',
      'body',
      'signature',
      'time',
      'region',
      'service',
      'dropped header',
      'extra signed header',
    ] as const
    await fc.assert(
      fc.asyncProperty(anyRequest, fc.constantFrom(...tamperings), fc.nat(), async (generated, what, at) => {
        const request = await signBySdk(generated)
        const headers = { ...request.headers }
        let changed: SignedRequest = { ...request, headers }
        const authorization = headers['authorization'] ?? ''
        if (what === 'method') changed = { ...changed, method: `${request.method}X` }
        if (what === 'path') changed = { ...changed, path: `${request.path.replace(/\/$/, '')}/tampered` }
        if (what === 'query') changed = { ...changed, query: `${request.query}&tampered=1` }
        if (what === 'body') {
          const body = Uint8Array.from([...request.body, 0])
          body[at % body.length] = (body[at % body.length] ?? 0) ^ 1
          changed = { ...changed, body }
        }
        const names = /SignedHeaders=([^,]+)/.exec(authorization)?.[1]?.split(';') ?? []
        const name = names[at % names.length] ?? ''
        if (what === 'header') headers[name] = `${headers[name]?.trimEnd()}!`
        if (what === 'dropped header') delete headers[name]
        if (what === 'extra signed header') {
          headers['zz-tampered'] = 'x'
          headers['authorization'] = authorization.replace(/SignedHeaders=([^,]+)/, 'SignedHeaders=$1;zz-tampered')
        }
        if (what === 'signature') {
          const digit = authorization.length - 64 + (at % 64)
          const flipped = authorization[digit] === '0' ? '1' : '0'
          headers['authorization'] = authorization.slice(0, digit) + flipped + authorization.slice(digit + 1)
        }
        if (what === 'time') headers['x-amz-date'] = '20260101T001001Z'
        if (what === 'region') headers['authorization'] = authorization.replace(`/${generated.region}/`, '/us-west-2/')
        if (what === 'service') headers['authorization'] = authorization.replace(`/${generated.service}/`, '/s3/')
        expect(refusal(() => accept(changed)).code).toMatch(/^(?:InvalidSignature|IncompleteSignature)Exception$/)
      }),
      { numRuns: 600 },
    )
  })
})

describe('what is signed', () => {
  it('host is taken as received, with or without a port', () => {
    for (const host of ['127.0.0.1', '127.0.0.1:8480', 'kms.example.com']) {
      const headers = { host, 'x-amz-date': '20260101T001000Z' }
      const key = deriveSigningKey(secret, '20260101', 'us-east-1', 'kms')
      const bodyHash = createHash('sha256').update('{}').digest('hex')
      const canonical = `POST\n/\n\nhost:${host}\nx-amz-date:20260101T001000Z\n\nhost;x-amz-date\n${bodyHash}`
      const hash = createHash('sha256').update(canonical).digest('hex')
      const signature = createHmac('sha256', key)
        .update(`AWS4-HMAC-SHA256\n20260101T001000Z\n20260101/us-east-1/kms/aws4_request\n${hash}`)
        .digest('hex')
      const authorization = `AWS4-HMAC-SHA256 Credential=${accessKeyId}/20260101/us-east-1/kms/aws4_request,SignedHeaders=host;x-amz-date,Signature=${signature}`
      const request = { method: 'POST', path: '/', query: '', headers: { ...headers, authorization }, body: Buffer.from('{}') }
      expect(accept(request).signature).toBe(signature)
    }
  })

  it('a session token that is sent but not signed is read all the same', () => {
    const request = signed()
    request.headers['x-amz-security-token'] = 'IQoJb3JpZ2lu'
    expect(accept(request).sessionToken).toBe('IQoJb3JpZ2lu')
  })

  it('duplicate headers are signed as one line joined by commas', () => {
    const request = signed({ headers: { 'x-list': 'a,b  c' } })
    expect(accept({ ...request, headers: { ...request.headers, 'x-list': ['a', ' b  c'] } }).accessKeyId).toBe(accessKeyId)
  })

  it('a Date header serves in place of X-Amz-Date, in either form', () => {
    for (const date of ['20260101T001000Z', 'Thu, 01 Jan 2026 00:10:00 GMT']) {
      const key = deriveSigningKey(secret, '20260101', 'us-east-1', 'kms')
      const bodyHash = createHash('sha256').update('').digest('hex')
      const hash = createHash('sha256').update(`POST\n/\n\ndate:${date}\nhost:h\n\ndate;host\n${bodyHash}`).digest('hex')
      const signature = createHmac('sha256', key)
        .update(`AWS4-HMAC-SHA256\n20260101T001000Z\n20260101/us-east-1/kms/aws4_request\n${hash}`)
        .digest('hex')
      const authorization = `AWS4-HMAC-SHA256 Credential=${accessKeyId}/20260101/us-east-1/kms/aws4_request, SignedHeaders=date;host, Signature=${signature}`
      const request = { method: 'POST', path: '/', query: '', headers: { host: 'h', date, authorization }, body: Buffer.alloc(0) }
      expect(accept(request).timeMs).toBe(now)
    }
  })

  it('a signed x-amz-content-sha256 must be the hash of the body that came', () => {
    const hash = createHash('sha256').update('{}').digest('hex')
    const right = signed({ body: '{}', headers: { 'x-amz-content-sha256': hash } })
    expect(accept(right).accessKeyId).toBe(accessKeyId)
    expect(refusal(() => accept({ ...right, body: Buffer.from('{ }') })).message).toMatch(mismatch)
    for (const claim of ['UNSIGNED-PAYLOAD', 'STREAMING-AWS4-HMAC-SHA256-PAYLOAD', '']) {
      const request = signed({ body: '{}', headers: { 'x-amz-content-sha256': claim } })
      expect(refusal(() => accept(request))).toMatchObject({ code: 'InvalidSignatureException' })
    }
  })

  it('UNSIGNED-PAYLOAD is refused even when the signature was made over it', async () => {
    const request = await signBySdk({
      method: 'POST',
      path: '/',
      query: {},
      headers: { 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD' },
      body: Buffer.from('{}'),
      region: 'us-east-1',
      service: 'kms',
      applyChecksum: true,
      sessionToken: undefined,
    })
    expect(refusal(() => accept(request)).message).toBe(`The value of 'x-amz-content-sha256' must be the SHA-256 hash of the payload.`)
  })
})

describe('a stream that nobody has read', () => {
  const sha256 = createHash('sha256').update('{}').digest('hex')
  const sign = async (stated: string, headers: Record<string, string> = {}): Promise<SignedRequest> => ({
    ...(await signBySdk({
      method: 'POST',
      path: '/',
      query: {},
      headers: { ...headers, 'x-amz-content-sha256': stated },
      body: Buffer.from('{}'),
      region: 'us-east-1',
      service: 'kms',
      applyChecksum: true,
      sessionToken: undefined,
    })),
    body: undefined,
  })

  it('is held against the hash that it states', async () => {
    const request = await sign(sha256)
    expect(statedPayloadHash(request, accept(request))).toBe(sha256)
    const other = { ...request, headers: { ...request.headers, 'x-amz-content-sha256': sha256.replace(/^./, '0') } }
    expect(refusal(() => accept(other)).message).toMatch(mismatch)
  })

  it('may leave its payload unsigned', async () => {
    const request = await sign('UNSIGNED-PAYLOAD')
    expect(statedPayloadHash(request, accept(request))).toBeUndefined()
    expect(refusal(() => accept({ ...request, headers: { ...request.headers, 'x-amz-content-sha256': sha256 } })).message).toMatch(mismatch)
  })

  it('must state a hash or that there is none, and sign what it states', async () => {
    for (const stated of ['', 'STREAMING-AWS4-HMAC-SHA256-PAYLOAD', sha256.toUpperCase()]) {
      const request = { ...signed({ body: '{}', headers: { 'x-amz-content-sha256': stated } }), body: undefined }
      expect(refusal(() => accept(request)).message).toMatch(/^The header 'x-amz-content-sha256' must be the SHA-256 hash/)
    }
    expect(refusal(() => accept({ ...signed(), body: undefined })).code).toBe('InvalidSignatureException')
    const unsigned = signed()
    unsigned.headers['x-amz-content-sha256'] = 'UNSIGNED-PAYLOAD'
    expect(refusal(() => accept({ ...unsigned, body: undefined })).message).toBe(
      "'X-Amz-Content-Sha256' must be a 'SignedHeader' in the AWS Authorization.",
    )
  })

  it('says with signed headers only what is to be done with it', async () => {
    const request = await sign('UNSIGNED-PAYLOAD', { 'x-holdfast-key': 'alias/app' })
    expect(accept(request).signedHeaders).toContain('x-holdfast-key')
    const more = { ...request, headers: { ...request.headers, 'x-holdfast-context': 'e30=' } }
    expect(refusal(() => accept(more)).message).toBe("'x-holdfast-context' must be a 'SignedHeader' in the AWS Authorization.")
  })
})

describe('refusals', () => {
  it('exactly five minutes early or late is accepted, a second more is not', () => {
    expect(accept(signed({ timeMs: now - 300_000 })).timeMs).toBe(now - 300_000)
    expect(accept(signed({ timeMs: now + 300_000 })).timeMs).toBe(now + 300_000)
    expect(accept(signed({ timeMs: now - 300_000 }), now + 999).timeMs).toBe(now - 300_000)
    expect(refusal(() => accept(signed({ timeMs: now - 301_000 })))).toMatchObject({
      code: 'InvalidSignatureException',
      message: 'Signature expired: 20260101T000459Z is now earlier than 20260101T000500Z (20260101T001000Z - 5 min.)',
    })
    expect(refusal(() => accept(signed({ timeMs: now + 301_000 })))).toMatchObject({
      code: 'InvalidSignatureException',
      message: 'Signature not yet current: 20260101T001501Z is still later than 20260101T001500Z (20260101T001000Z + 5 min.)',
    })
  })

  it('moments that do not exist are no dates', () => {
    const bad = [
      '20260230T000000Z',
      '20261301T000000Z',
      '20260101T240000Z',
      '20260101T006000Z',
      '2026-01-01T00:10:00Z',
      '20260101T001000',
      '',
      '2026010aT001000Z',
    ]
    for (const date of bad) {
      const request = signed()
      request.headers['x-amz-date'] = date
      expect(refusal(() => accept(request))).toMatchObject({ code: 'IncompleteSignatureException' })
    }
    for (const real of ['20240229T000000Z', '20260131T235959Z']) {
      const request = signed()
      request.headers['x-amz-date'] = real
      expect(refusal(() => accept(request)).message).toMatch(/^Signature (?:expired|not yet current): /)
    }
  })

  const without = (name: string): SignedRequest => {
    const request = signed()
    const { [name]: _dropped, ...headers } = request.headers
    return { ...request, headers }
  }
  const withAuthorization = (change: (authorization: string) => string): SignedRequest => {
    const request = signed()
    request.headers['authorization'] = change(request.headers['authorization'] ?? '')
    return request
  }
  const table: [name: string, request: SignedRequest, code: string, message: string | RegExp][] = [
    ['no Authorization header', without('authorization'), 'MissingAuthenticationTokenException', 'Missing Authentication Token'],
    [
      'a presigned query',
      { ...without('authorization'), query: 'X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00' },
      'IncompleteSignatureException',
      /^Presigned requests are not supported/,
    ],
    [
      'Basic authentication',
      withAuthorization(() => 'Basic QUxBRERJTg=='),
      'IncompleteSignatureException',
      /^Authorization header requires 'Credential' parameter\. Authorization header requires 'Signature' parameter\. Authorization header requires 'SignedHeaders' parameter\.$/,
    ],
    [
      'no date at all beside missing parameters',
      { ...signed(), headers: { host: 'h', authorization: 'AWS4-HMAC-SHA256 Credential=a/b/c/d/e' } },
      'IncompleteSignatureException',
      /'X-Amz-Date' or a 'Date' header\.$/,
    ],
    [
      'another algorithm',
      withAuthorization((text) => text.replace('AWS4-HMAC-SHA256', 'AWS4-ECDSA-P256-SHA256')),
      'IncompleteSignatureException',
      `Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'.`,
    ],
    ['a parameter without equal-sign', withAuthorization((text) => `${text}, x`), 'IncompleteSignatureException', /missing equal-sign/],
    [
      'a parameter given twice',
      withAuthorization((text) => `${text}, Signature=00`),
      'IncompleteSignatureException',
      /^Duplicate parameter/,
    ],
    [
      'a credential of four parts',
      withAuthorization((text) => text.replace('/aws4_request', '')),
      'IncompleteSignatureException',
      'Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term.',
    ],
    [
      'a wrong terminator',
      withAuthorization((text) => text.replace('/aws4_request', '/aws5_request')),
      'InvalidSignatureException',
      `Credential should be scoped with a valid terminator: 'aws4_request', not 'aws5_request'.`,
    ],
    [
      'a scope of another day',
      withAuthorization((text) => text.replace('/20260101/', '/20251231/')),
      'InvalidSignatureException',
      `Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20251231' != '20260101', from '20260101T001000Z'.`,
    ],
    [
      'an unsigned host',
      withAuthorization((text) => text.replace('host;', '')),
      'InvalidSignatureException',
      `'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.`,
    ],
    [
      'an unsigned date',
      withAuthorization((text) => text.replace(';x-amz-date', '')),
      'InvalidSignatureException',
      `'X-Amz-Date' must be a 'SignedHeader' in the AWS Authorization.`,
    ],
    [
      'an unsigned target',
      withAuthorization((text) => text.replace(';x-amz-target', '')),
      'InvalidSignatureException',
      `'X-Amz-Target' must be a 'SignedHeader' in the AWS Authorization.`,
    ],
    [
      'a header signed twice',
      withAuthorization((text) => text.replace('host;', 'host;host;')),
      'IncompleteSignatureException',
      /each once/,
    ],
    ['a signature that is no hash', withAuthorization((text) => text.slice(0, -1)), 'InvalidSignatureException', mismatch],
    [
      'a signature in capitals',
      withAuthorization((text) => text.replace(/[a-f0-9]{64}$/, (hex) => hex.toUpperCase())),
      'InvalidSignatureException',
      mismatch,
    ],
    ['a signed header that did not come', without('content-type'), 'InvalidSignatureException', mismatch],
    [
      'two Authorization headers',
      { ...signed(), headers: { ...signed().headers, authorization: ['a', 'b'] } },
      'IncompleteSignatureException',
      `The header 'authorization' must be sent once.`,
    ],
  ]
  it.each(table)('%s', (_name, request, code, message) => {
    const error = refusal(() => accept(request))
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) })
  })

  it('the scope must name a service and a region of this endpoint', () => {
    const request = signed()
    const expectation = { services: new Set(['sts']), regions: new Set(['eu-west-1']) }
    expect(refusal(() => readAuthorization(request, now, expectation))).toMatchObject({
      code: 'InvalidSignatureException',
      message: `Credential should be scoped to a valid region, not 'us-east-1'. Credential should be scoped to correct service: 'sts'.`,
    })
    expect(readAuthorization(request, now, { services: new Set(['kms']), regions: new Set(['us-east-1']) }).region).toBe('us-east-1')
  })

  it('nothing that is sent makes anything but a SignatureError', () => {
    const fragment = fc.oneof(
      fc.constantFrom(
        'AWS4-HMAC-SHA256 ',
        'Credential=',
        'SignedHeaders=',
        'Signature=',
        'host',
        'x-amz-date',
        ';',
        ',',
        '/',
        '=',
        '20260101',
        'aws4_request',
      ),
      fc.string({ maxLength: 10, unit: 'binary' }),
      fc.constant('0'.repeat(64)),
    )
    const text = fc.array(fragment, { maxLength: 14 }).map((parts) => parts.join(''))
    const names = fc.constantFrom(
      'authorization',
      'x-amz-date',
      'date',
      'host',
      'x-amz-target',
      'x-amz-content-sha256',
      'x-amz-security-token',
      '__proto__',
      'constructor',
    )
    const wellMade = signed()
    fc.assert(
      fc.property(
        fc.dictionary(names, fc.oneof(text, fc.array(text, { maxLength: 3 }))),
        fc.boolean(),
        text,
        text,
        (headers, keepGood, path, query) => {
          const request = {
            method: 'POST',
            path,
            query,
            headers: keepGood ? { ...wellMade.headers, ...headers } : headers,
            body: Buffer.from('x'),
          }
          expect(outcome(request)).toMatch(/^(?:accepted|refused)$/)
        },
      ),
      { numRuns: 3000 },
    )
  })

  it('no refusal repeats the signature or the session token', () => {
    const request = signed({ sessionToken: 'SECRETTOKEN' })
    request.headers['x-amz-date'] = '20260101T001001Z'
    const error = refusal(() => accept(request))
    expect(error.message).not.toMatch(/SECRETTOKEN|[a-f0-9]{64}/)
  })
})

describe('the cache of signing keys', () => {
  const scope = (id: string, region = 'us-east-1') => ({ accessKeyId: id, date: '20260101', region, service: 'kms' })

  it('asks for the secret once per scope', () => {
    const cache = new SigningKeyCache()
    let asked = 0
    const get = (): string => {
      asked++
      return secret
    }
    const first = cache.get(scope('A'), get).toString('hex')
    expect(cache.get(scope('A'), get).toString('hex')).toBe(first)
    expect(first).toBe(deriveSigningKey(secret, '20260101', 'us-east-1', 'kms').toString('hex'))
    expect(cache.get(scope('A', 'eu-west-1'), get).toString('hex')).not.toBe(first)
    expect(asked).toBe(2)
  })

  it('is bounded, drops the least recently used and wipes it', () => {
    const cache = new SigningKeyCache(2)
    const a = cache.get(scope('A'), () => 'a')
    const b = cache.get(scope('B'), () => 'b')
    cache.find(scope('A'))
    cache.get(scope('C'), () => 'c')
    expect(cache.size).toBe(2)
    expect(cache.find(scope('B'))).toBeUndefined()
    expect(b.every((byte) => byte === 0)).toBe(true)
    expect(cache.find(scope('A'))).toBe(a)
    expect(a.some((byte) => byte !== 0)).toBe(true)
  })
})
