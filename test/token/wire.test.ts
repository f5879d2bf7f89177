/**
 * The service on raw sockets, signed by a signer of this file's own: what clients that are no SDK count on, header by header, and
 * what is said of signatures that do not hold.
 */
import { createHash, createHmac } from 'node:crypto'
import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { administer, makeUser, openInProcess, rawCall, startHoldfast, type Credentials, type Holdfast, type InProcess } from './holdfast.ts'

let holdfast: Holdfast
let host: string
let port: number
let keyArn: string
beforeAll(async () => {
  holdfast = await startHoldfast({ env: { HOLDFAST_LOG_LEVEL: 'warn' } })
  ;({ host } = new URL(holdfast.endpoint))
  port = Number(new URL(holdfast.endpoint).port)
  const made = await rawCall(holdfast, 'kms', 'CreateKey', {})
  keyArn = (made.json['KeyMetadata'] as { readonly Arn: string }).Arn
})
afterAll(() => holdfast?.remove())

// ---- a client of a few lines ----

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
const hmac = (key: Buffer | string, text: string) => createHmac('sha256', key).update(text).digest()

interface Request {
  /** As they are to be sent, in this order. Host and X-Amz-Date among them. */
  readonly headers: Readonly<Record<string, string>>
  /** Lower case; sorted by the signer. */
  readonly signed: readonly string[]
  readonly body: string
  readonly service?: string
  readonly region?: string
  readonly credentials?: Credentials
  /** What follows the path: nothing unless given. */
  readonly query?: string
}

/** The Authorization header, by the book: "Create a signed AWS API request". */
function authorization({
  headers,
  signed,
  body,
  service = 'kms',
  region = 'us-east-1',
  credentials = holdfast.credentials,
  query = '',
}: Request): string {
  const lower = Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value.trim().replaceAll(/ +/g, ' ')]),
  )
  const names = [...signed].sort()
  const date = lower['x-amz-date'] ?? ''
  const scope = `${date.slice(0, 8)}/${region}/${service}/aws4_request`
  const canonical = ['POST', '/', query, ...names.map((name) => `${name}:${lower[name]}`), '', names.join(';'), sha256(body)].join('\n')
  const key = ['aws4_request'].reduce(
    hmac,
    [date.slice(0, 8), region, service].reduce(hmac, Buffer.from(`AWS4${credentials.secretAccessKey}`)),
  )
  const signature = hmac(key, ['AWS4-HMAC-SHA256', date, scope, sha256(canonical)].join('\n')).toString('hex')
  return `AWS4-HMAC-SHA256 Credential=${credentials.accessKeyId}/${scope}, SignedHeaders=${names.join(';')}, Signature=${signature}`
}

const amzDate = (ms = Date.now()) => new Date(ms).toISOString().replaceAll(/[-:]|\.\d{3}/g, '')

interface Answer {
  readonly status: number
  /** As received, in order. */
  readonly headerLines: readonly string[]
  readonly body: string
  readonly json: Readonly<Record<string, unknown>>
  header(name: string): string | undefined
}

function parseAnswer(text: string): Answer {
  const end = text.indexOf('\r\n\r\n')
  const [statusLine = '', ...headerLines] = text.slice(0, end).split('\r\n')
  const body = text.slice(end + 4)
  const header = (name: string) =>
    headerLines
      .find((line) => line.toLowerCase().startsWith(`${name.toLowerCase()}:`))
      ?.slice(name.length + 1)
      .trim()
  const json = (/^\s*\{/.test(body) ? JSON.parse(body) : {}) as Readonly<Record<string, unknown>>
  return { status: Number(statusLine.split(' ')[1]), headerLines, body, json, header }
}

/** Sends bytes, then each further part once another answer began, and reads until the other side closes. */
function exchange(bytes: string, ...further: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes))
    let received = ''
    let answers = 0
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => {
      received += text
      const begun = received.split('HTTP/1.1 ').length - 1
      for (; answers < begun; answers++) {
        const next = further.shift()
        if (next !== undefined) socket.write(next)
      }
    })
    socket.on('error', reject)
    socket.on('close', () => resolve(received))
  })
}

/** One signed request on a connection of its own. `separator` stands between a header's name and its value; an empty `authorize` leaves the header out. */
async function send(request: Request, { separator = ': ', authorize = authorization(request) } = {}): Promise<Answer> {
  const lines = Object.entries({ ...request.headers, ...(authorize !== '' && { Authorization: authorize }) })
  const head = lines.map(([name, value]) => `${name}${separator}${value}\r\n`).join('')
  const close = Object.keys(request.headers).some((name) => name.toLowerCase() === 'connection') ? '' : `Connection${separator}close\r\n`
  const query = request.query ? `?${request.query}` : ''
  return parseAnswer(await exchange(`POST /${query} HTTP/1.1\r\n${head}${close}\r\n${request.body}`))
}

/** What a request for an operation has in most clients. */
function requestFor(
  operation: string,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): Request & { readonly headers: Readonly<Record<string, string>> } {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  const all = {
    Host: host,
    'X-Amz-Date': amzDate(),
    'X-Amz-Target': `TrentService.${operation}`,
    'Content-Type': 'application/x-amz-json-1.1',
    'Content-Length': String(Buffer.byteLength(text)),
    ...headers,
  }
  return { headers: all, signed: ['content-type', 'host', 'x-amz-date', 'x-amz-target'], body: text }
}

const encryptBody = () => ({ KeyId: keyArn, Plaintext: Buffer.from('x').toString('base64') })

// ---- answers ----

describe('an answer', () => {
  test('spells its headers as AWS does: clients compare them letter by letter', async () => {
    const answer = await send(requestFor('Encrypt', encryptBody()))
    expect(answer.status).toBe(200)
    const names = answer.headerLines.map((line) => line.split(':')[0])
    expect(names).toContain('Content-Length')
    expect(names).toContain('Content-Type')
    expect(names.filter((name) => /^(?:content-length|transfer-encoding)$/i.test(name ?? ''))).toEqual(['Content-Length'])
    expect(Number(answer.header('Content-Length'))).toBe(Buffer.byteLength(answer.body))
    expect(answer.header('Content-Type')).toBe('application/x-amz-json-1.1')
    expect(answer.header('x-amzn-RequestId')).toMatch(/^[0-9a-f-]{36}$/)
  })

  test('is never compressed and has no checksum, whatever the client would take', async () => {
    const request = requestFor('ListKeys', { Limit: 1000 }, { 'Accept-Encoding': 'gzip, deflate, br' })
    const answer = await send(request)
    expect(answer.status).toBe(200)
    expect(answer.header('Content-Encoding')).toBeUndefined()
    expect(answer.header('x-amz-crc32')).toBeUndefined()
    expect(answer.json['Keys']).toBeInstanceOf(Array)
  })

  test('of what answers nothing is an empty body', async () => {
    for (const operation of ['EnableKey', 'EnableKeyRotation', 'DisableKeyRotation']) {
      const answer = await send(requestFor(operation, { KeyId: keyArn }))
      expect([answer.status, answer.header('Content-Length'), answer.body]).toEqual([200, '0', ''])
    }
    expect((await send(requestFor('ListGrants', { KeyId: keyArn }))).json).toEqual({ Grants: [], Truncated: false })
  })

  test('says the true time, by which clients set their clocks', async () => {
    const answer = await send(requestFor('ListKeys', {}))
    expect(Math.abs(Date.parse(answer.header('Date') ?? '') - Date.now())).toBeLessThan(60_000)
  })

  test('to what fails is the error’s bare name in __type, with its words', async () => {
    const answer = await send(requestFor('DescribeKey', { KeyId: 'nonsense' }))
    expect(answer.status).toBe(400)
    expect(answer.body).toBe(JSON.stringify({ __type: 'NotFoundException', message: "Invalid keyId 'nonsense'" }))
    expect(answer.header('Content-Type')).toBe('application/x-amz-json-1.1')
  })

  test('to what fails without words is the name alone', async () => {
    for (const [operation, body, type] of [
      ['Decrypt', { CiphertextBlob: 'AAAA' }, 'InvalidCiphertextException'],
      ['Decrypt', { CiphertextBlob: '***' }, 'SerializationException'],
      ['CreateAlias', { AliasName: 'alias/aws/x', TargetKeyId: keyArn }, 'NotAuthorizedException'],
    ] as const) {
      expect((await send(requestFor(operation, body))).body).toBe(JSON.stringify({ __type: type }))
    }
  })

  test('to who may not spells Message with a capital', async () => {
    const user = await makeUser(holdfast, 'wire-user')
    const request = { ...requestFor('Encrypt', encryptBody()), credentials: user }
    const answer = await send(request)
    expect(answer.status).toBe(400)
    expect(answer.json).toEqual({
      __type: 'AccessDeniedException',
      Message: `User: ${user.arn} is not authorized to perform: kms:Encrypt on resource: ${keyArn} because no identity-based policy allows the kms:Encrypt action`,
    })
  })

  test('to an unknown operation, or to none, is JSON with status 400', async () => {
    for (const headers of [{ 'X-Amz-Target': 'TrentService.NoSuch' }, { 'X-Amz-Target': 'Nothing' }]) {
      const answer = await send(requestFor('ListKeys', {}, headers))
      expect(answer.status).toBe(400)
      expect(answer.json['__type']).toBe('UnknownOperationException')
    }
    const { 'X-Amz-Target': _target, ...headers } = requestFor('ListKeys', {}).headers
    const answer = await send({ headers, signed: ['host', 'x-amz-date'], body: '{}' })
    expect(answer.status).toBe(400)
    expect(answer.json['__type']).toBe('UnknownOperationException')
  })
})

// ---- requests as clients send them ----

describe('a request', () => {
  const more = {
    'amz-sdk-invocation-id': '6a1f',
    'amz-sdk-request': 'attempt=1; max=3',
    'X-Amz-User-Agent': 'aws-sdk-js/3',
    'User-Agent': 'test',
  }
  test.each([
    { client: 'boto3 and the CLI', signed: 'content-type;host;x-amz-date;x-amz-target' },
    {
      client: 'the SDK for JavaScript v3',
      signed:
        'amz-sdk-invocation-id;amz-sdk-request;content-length;content-type;host;x-amz-content-sha256;x-amz-date;x-amz-target;x-amz-user-agent',
    },
    {
      client: 'the SDK for Go v2',
      signed: 'amz-sdk-invocation-id;amz-sdk-request;content-length;content-type;host;x-amz-date;x-amz-target',
    },
    { client: 'the SDK for Go v1 and libmongocrypt', signed: 'content-length;content-type;host;x-amz-date;x-amz-target' },
    { client: 'the SDK for Ruby', signed: 'content-type;host;x-amz-content-sha256;x-amz-date;x-amz-target' },
    { client: 'a signer that signs no more than it must', signed: 'host;x-amz-date;x-amz-target' },
  ])('signed over the headers of $client is taken', async ({ signed }) => {
    const request = requestFor('Encrypt', encryptBody(), more)
    const headers = { ...request.headers, 'X-Amz-Content-Sha256': sha256(request.body) }
    const answer = await send({ ...request, headers, signed: signed.split(';') })
    expect(answer.json).toMatchObject({ KeyId: keyArn })
  })

  test('as libmongocrypt writes it is taken: no port in Host, no space after the colon, spaces in the JSON, one call per connection', async () => {
    const body = `{ "Plaintext" : "${Buffer.from('x').toString('base64')}" , "KeyId" : "${keyArn}" }`
    const request = requestFor('Encrypt', body, { Host: '127.0.0.1', Connection: 'close', Accept: 'application/json' })
    const answer = await send(
      { ...request, signed: ['content-length', 'content-type', 'host', 'x-amz-date', 'x-amz-target'] },
      { separator: ':' },
    )
    expect(answer.status).toBe(200)
    expect(answer.header('Connection')).toBe('close')
    const blob = String(answer.json['CiphertextBlob'])
    const opened = await send({
      ...requestFor('Decrypt', `{ "CiphertextBlob" : "${blob}" }`, { Connection: 'close' }),
      signed: ['content-length', 'content-type', 'host', 'x-amz-date', 'x-amz-target'],
    })
    expect(opened.json['Plaintext']).toBe(Buffer.from('x').toString('base64'))
  })

  test('that offers h2c with every POST, as the JDK’s client does, is taken', async () => {
    const request = requestFor(
      'ListKeys',
      {},
      { Connection: 'Upgrade, HTTP2-Settings', Upgrade: 'h2c', 'HTTP2-Settings': 'AAEAAEAAAAIAAAABAAMAAABk' },
    )
    const bytesOf = (each: Request): string => {
      const lines = Object.entries({ ...each.headers, Authorization: authorization(each) }).map(([name, value]) => `${name}: ${value}\r\n`)
      return `POST / HTTP/1.1\r\n${lines.join('')}\r\n${each.body}`
    }
    // The connection stays open, and takes the next request.
    const last = requestFor('ListKeys', {}, { Connection: 'close' })
    const text = await exchange(bytesOf(request), bytesOf(request), bytesOf(last))
    expect(text.match(/HTTP\/1\.1 200 OK/g)).toHaveLength(3)
  })

  test('with header values in odd spacing is taken as it was signed', async () => {
    const request = requestFor('ListKeys', {}, { 'X-Amz-Meta': '  a   b  ' })
    const answer = await send({ ...request, signed: [...request.signed, 'x-amz-meta'] })
    expect(answer.status).toBe(200)
  })

  test('in chunks is taken', async () => {
    const body = JSON.stringify(encryptBody())
    const { 'Content-Length': _length, ...headers } = requestFor('Encrypt', body, {
      'Transfer-Encoding': 'chunked',
      Connection: 'close',
    }).headers
    const request: Request = { headers, signed: ['host', 'x-amz-date', 'x-amz-target'], body }
    const head = Object.entries({ ...headers, Authorization: authorization(request) })
      .map(([name, value]) => `${name}: ${value}\r\n`)
      .join('')
    const chunks = body.replaceAll(/[^]/g, '1\r\n$&\r\n')
    const text = await exchange(`POST / HTTP/1.1\r\n${head}\r\n${chunks}0\r\n\r\n`)
    expect(parseAnswer(text).status).toBe(200)
  })

  test('of STS is a form, and its answer XML', async () => {
    const body = 'Action=GetCallerIdentity&Version=2011-06-15'
    const headers = {
      Host: host,
      'X-Amz-Date': amzDate(),
      'Content-Type': 'application/x-www-form-urlencoded; charset=utf-8',
      'Content-Length': String(body.length),
    }
    const request: Request = { headers, signed: ['content-type', 'host', 'x-amz-date'], body, service: 'sts' }
    const answer = await send(request)
    expect(answer.status).toBe(200)
    expect(answer.header('Content-Type')).toBe('text/xml')
    expect(answer.body).toContain(`<Arn>arn:aws:iam::${holdfast.accountId}:root</Arn>`)
    const refused = await send({ ...request, service: 'kms' })
    expect(refused.status).toBe(403)
    expect(refused.body).toContain('<Code>SignatureDoesNotMatch</Code>')
  })

  test('for anything else is 404, and for /healthz 200', async () => {
    const get = async (path: string) => parseAnswer(await exchange(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`))
    expect(await get('/healthz')).toMatchObject({ status: 200, json: { status: 'ok' } })
    for (const path of ['/', '/readyz', '/metrics', '/../credentials', '/%2e%2e/credentials']) expect((await get(path)).status).toBe(404)
  })
})

// ---- signatures that do not hold ----

describe('a signature', () => {
  const typeOf = async (request: Request, options: Parameters<typeof send>[1] = {}) => {
    const { status, json } = await send(request, options)
    return { status, type: json['__type'], message: json['message'] }
  }
  const mismatch = {
    status: 400,
    type: 'InvalidSignatureException',
    message:
      'The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.',
  }

  test('by another secret does not match', async () => {
    const { accessKeyId } = holdfast.credentials
    const request = requestFor('ListKeys', {})
    expect(await typeOf({ ...request, credentials: { accessKeyId, secretAccessKey: 'x'.repeat(40) } })).toEqual(mismatch)
  })

  test('over another body, target, date or header does not match', async () => {
    const request = requestFor('ListKeys', '{"Limit":1}')
    const authorize = authorization(request)
    expect(await typeOf({ ...request, body: '{"Limit":2}' }, { authorize })).toEqual(mismatch)
    for (const headers of [
      { 'X-Amz-Target': 'TrentService.ListAliases' },
      { 'X-Amz-Date': amzDate(Date.now() - 2000) },
      { Host: 'localhost' },
      { 'Content-Type': 'application/json' },
    ]) {
      expect(await typeOf({ ...request, headers: { ...request.headers, ...headers } }, { authorize })).toEqual(mismatch)
    }
    expect(await typeOf({ ...request, query: 'a=b' }, { authorize })).toEqual(mismatch)
  })

  test('that claims another hash of the body, or none, does not match', async () => {
    for (const hash of [sha256('other'), 'UNSIGNED-PAYLOAD']) {
      const request = requestFor('ListKeys', {}, { 'X-Amz-Content-Sha256': hash })
      const { status, type } = await typeOf({ ...request, signed: [...request.signed, 'x-amz-content-sha256'] })
      expect({ status, type }).toEqual({ status: 400, type: 'InvalidSignatureException' })
    }
  })

  test('by a key that nobody has is of an unrecognized client', async () => {
    const request = { ...requestFor('ListKeys', {}), credentials: { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: 'x'.repeat(40) } }
    expect(await typeOf(request)).toEqual({
      status: 400,
      type: 'UnrecognizedClientException',
      message: 'The security token included in the request is invalid.',
    })
  })

  test('that is missing is missed', async () => {
    expect(await typeOf(requestFor('ListKeys', {}), { authorize: '' })).toEqual({
      status: 400,
      type: 'MissingAuthenticationTokenException',
      message: 'Missing Authentication Token',
    })
  })

  test.each([
    { what: 'without a credential', authorize: 'AWS4-HMAC-SHA256 SignedHeaders=host, Signature=ab' },
    { what: 'without its headers', authorize: 'AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/kms/aws4_request, Signature=ab' },
    { what: 'without itself', authorize: 'AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/kms/aws4_request, SignedHeaders=host' },
    { what: 'in another scheme of AWS', authorize: 'AWS4-ECDSA-P256-SHA256 Credential=a, SignedHeaders=host, Signature=ab' },
    { what: 'that is no list of pairs', authorize: 'AWS4-HMAC-SHA256 nonsense' },
  ])('$what is incomplete', async ({ authorize }) => {
    const { status, type } = await typeOf(requestFor('ListKeys', {}), { authorize })
    expect({ status, type }).toEqual({ status: 400, type: 'IncompleteSignatureException' })
  })

  test('without a date is incomplete', async () => {
    const request = requestFor('ListKeys', {})
    const { 'X-Amz-Date': _date, ...headers } = request.headers
    const { status, type } = await typeOf({ ...request, headers }, { authorize: authorization(request) })
    expect({ status, type }).toEqual({ status: 400, type: 'IncompleteSignatureException' })
  })

  test('of an hour ago has expired, and of an hour ahead is not yet current', async () => {
    const at = (ms: number) => typeOf(requestFor('ListKeys', {}, { 'X-Amz-Date': amzDate(Date.now() + ms) }))
    expect(await at(-3_600_000)).toEqual({
      status: 400,
      type: 'InvalidSignatureException',
      message: expect.stringMatching(/^Signature expired: \d{8}T\d{6}Z is now earlier than \d{8}T\d{6}Z \(\d{8}T\d{6}Z - 5 min\.\)$/),
    })
    expect(await at(3_600_000)).toEqual({
      status: 400,
      type: 'InvalidSignatureException',
      message: expect.stringMatching(/^Signature not yet current: /),
    })
    expect((await at(-240_000)).status).toBe(200)
    expect((await at(240_000)).status).toBe(200)
  })

  test('for another service or another region is told the right one', async () => {
    const request = requestFor('ListKeys', {})
    expect(await typeOf({ ...request, service: 's3' })).toEqual({
      status: 400,
      type: 'InvalidSignatureException',
      message: "Credential should be scoped to correct service: 'kms'.",
    })
    expect(await typeOf({ ...request, region: 'ap-south-1' })).toEqual({
      status: 400,
      type: 'InvalidSignatureException',
      message: "Credential should be scoped to a valid region, not 'ap-south-1'.",
    })
    expect((await typeOf({ ...request, region: 'eu-west-1' })).status).toBe(200)
  })

  test('must cover host, date and target', async () => {
    for (const signed of [
      ['x-amz-date', 'x-amz-target'],
      ['host', 'x-amz-target'],
      ['host', 'x-amz-date'],
    ]) {
      const { status, type } = await typeOf({ ...requestFor('ListKeys', {}), signed })
      expect({ status, type }).toEqual({ status: 400, type: 'InvalidSignatureException' })
    }
  })

  test('is not repeated back, nor is anything else of it', async () => {
    const request = requestFor('ListKeys', {})
    const authorize = `${authorization(request).slice(0, -4)}0000`
    const { body } = await send(request, { authorize })
    expect(body).not.toContain(/Signature=(\w+)/.exec(authorize)?.[1])
    expect(body).not.toMatch(/[0-9a-f]{40}/)
  })
})

describe('a session', () => {
  test('may send its token without signing it', async () => {
    const user = await makeUser(holdfast, 'wire-session-user')
    await administer(holdfast, 'CreateRole', {
      RoleName: 'wire-role',
      AssumeRolePolicyDocument: JSON.stringify({
        Version: '2012-10-17',
        Statement: [{ Effect: 'Allow', Principal: { AWS: user.arn }, Action: 'sts:AssumeRole' }],
      }),
    })
    await administer(holdfast, 'PutRolePolicy', {
      RoleName: 'wire-role',
      PolicyName: 'p',
      PolicyDocument: JSON.stringify({ Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: 'kms:ListKeys', Resource: '*' }] }),
    })
    const session = await assumeRole(holdfast, user, `arn:aws:iam::${holdfast.accountId}:role/wire-role`, 900)
    const token = { 'X-Amz-Security-Token': session.sessionToken ?? '' }
    const request = { ...requestFor('ListKeys', {}, token), credentials: session }
    expect((await send(request)).status).toBe(200)
    expect((await send({ ...request, signed: [...request.signed, 'x-amz-security-token'] })).status).toBe(200)
    expect((await send({ ...request, headers: { ...request.headers, 'X-Amz-Security-Token': 'AAAA' } })).json['__type']).toBe(
      'UnrecognizedClientException',
    )
  })

  test('ends at its second, and then says so', async () => {
    const inProcess = await openInProcess()
    try {
      const user = await makeUserAt(inProcess)
      const session = await assumeRole(inProcess, user, `arn:aws:iam::${inProcess.accountId}:role/clock-role`, 900)
      const list = () => rawCall(inProcess, 'kms', 'ListKeys', {}, { credentials: session, nowMs: inProcess.clock.now() })
      expect((await list()).status).toBe(200)
      inProcess.clock.advance(899_000)
      expect((await list()).status).toBe(200)
      inProcess.clock.advance(1_000)
      const answer = await list()
      expect(answer.status).toBe(400)
      expect(answer.json).toEqual({ __type: 'ExpiredTokenException', message: 'The security token included in the request is expired' })
    } finally {
      await inProcess.close()
    }
  })
})

/** A user and a role that trusts it and may list keys, on a service with a clock of its own. */
async function makeUserAt(at: InProcess): Promise<Credentials> {
  const options = { nowMs: at.clock.now() }
  const document = (statement: object) => JSON.stringify({ Version: '2012-10-17', Statement: [statement] })
  const { User } = await administer<{ User: { Arn: string } }>(at, 'CreateUser', { UserName: 'clock-user' }, options)
  const { AccessKey } = await administer<{ AccessKey: { AccessKeyId: string; SecretAccessKey: string } }>(
    at,
    'CreateAccessKey',
    { UserName: 'clock-user' },
    options,
  )
  const trust = document({ Effect: 'Allow', Principal: { AWS: User.Arn }, Action: 'sts:AssumeRole' })
  await administer(at, 'CreateRole', { RoleName: 'clock-role', AssumeRolePolicyDocument: trust }, options)
  const policy = document({ Effect: 'Allow', Action: 'kms:ListKeys', Resource: '*' })
  await administer(at, 'PutRolePolicy', { RoleName: 'clock-role', PolicyName: 'p', PolicyDocument: policy }, options)
  return { accessKeyId: AccessKey.AccessKeyId, secretAccessKey: AccessKey.SecretAccessKey }
}

/** STS AssumeRole as a form, read from its XML. */
async function assumeRole(at: Holdfast | InProcess, credentials: Credentials, roleArn: string, seconds: number): Promise<Credentials> {
  const body = new URLSearchParams({
    Action: 'AssumeRole',
    Version: '2011-06-15',
    RoleArn: roleArn,
    RoleSessionName: 'wire',
    DurationSeconds: String(seconds),
  }).toString()
  const nowMs = 'clock' in at ? at.clock.now() : Date.now()
  const headers = { Host: new URL(at.endpoint).host, 'X-Amz-Date': amzDate(nowMs), 'Content-Type': 'application/x-www-form-urlencoded' }
  const request: Request = { headers, signed: ['host', 'x-amz-date'], body, service: 'sts', credentials }
  const { Host: _host, ...sent } = headers
  const answer = await fetch(`${at.endpoint}/`, { method: 'POST', headers: { ...sent, Authorization: authorization(request) }, body })
  const text = await answer.text()
  const element = (name: string): string => {
    const found = new RegExp(`<${name}>([^<]+)</${name}>`).exec(text)?.[1]
    if (found === undefined) throw new Error(`AssumeRole answered ${answer.status} ${text}`)
    return found
  }
  return { accessKeyId: element('AccessKeyId'), secretAccessKey: element('SecretAccessKey'), sessionToken: element('SessionToken') }
}
