/**
 * Whatever is sent to the door: an answer in the protocol's own form, never a 500, never a crash. The real door, road, store and token.
 *
 * The seed is printed; HOLDFAST_FUZZ_SEED repeats a run, HOLDFAST_FUZZ_RUNS makes it longer.
 */

import { createHash, randomInt } from 'node:crypto'
import { Agent, request } from 'node:http'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { signRequest } from '../../src/auth/sigv4.ts'
import { silentLog, type Log } from '../../src/base/log.ts'
import { apis } from '../../src/kms/operations/index.ts'
import type { Member, Shape } from '../../src/kms/shape.ts'
import { administer, openInProcess, rawCall, type Credentials, type InProcess } from './holdfast.ts'

const seed = Number(process.env['HOLDFAST_FUZZ_SEED'] ?? randomInt(2 ** 31))
const numRuns = Number(process.env['HOLDFAST_FUZZ_RUNS'] ?? 300)
console.log(`fuzz: HOLDFAST_FUZZ_SEED=${seed}`)

let holdfast: InProcess
/** What the service called a defect of its own. */
const defects: unknown[] = []
const log: Log = { ...silentLog, error: (fields, message) => void defects.push({ message, error: String(fields['err']) }) }
const agent = new Agent({ keepAlive: true, maxSockets: 4 })
/** A key to play with, and a blob of it. */
let keyId: string
let blob: Buffer
/** May do everything; named nowhere below, so that nobody takes that away. */
let user: Credentials

beforeAll(async () => {
  holdfast = await openInProcess({ log })
  const nowMs = holdfast.clock.now()
  const everything = JSON.stringify({ Version: '2012-10-17', Statement: { Effect: 'Allow', Action: '*', Resource: '*' } })
  for (const UserName of ['caller', 'fuzz']) await administer(holdfast, 'CreateUser', { UserName }, { nowMs })
  await administer(holdfast, 'PutUserPolicy', { UserName: 'caller', PolicyName: 'all', PolicyDocument: everything }, { nowMs })
  const { AccessKey } = await administer<{ AccessKey: { AccessKeyId: string; SecretAccessKey: string } }>(
    holdfast,
    'CreateAccessKey',
    { UserName: 'caller' },
    { nowMs },
  )
  user = { accessKeyId: AccessKey.AccessKeyId, secretAccessKey: AccessKey.SecretAccessKey }
  ;({ keyId, blob } = await newBlob())
})

afterAll(async () => {
  agent.destroy()
  await holdfast.close()
})

async function newKey(): Promise<string> {
  const { json } = await rawCall(holdfast, 'kms', 'CreateKey', {}, { nowMs: holdfast.clock.now() })
  return (json['KeyMetadata'] as { readonly KeyId: string }).KeyId
}

async function newBlob(): Promise<{ readonly keyId: string; readonly blob: Buffer }> {
  const id = await newKey()
  const input = { KeyId: id, Plaintext: 'QUFB', EncryptionContext: { a: 'b' } }
  const { json } = await rawCall(holdfast, 'kms', 'Encrypt', input, { nowMs: holdfast.clock.now() })
  return { keyId: id, blob: Buffer.from(json['CiphertextBlob'] as string, 'base64') }
}

interface Answer {
  readonly status: number
  readonly type: string
  readonly text: string
}

function send(headers: Readonly<Record<string, string>>, body: Uint8Array, path = '/'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request(
      new URL(holdfast.endpoint + path),
      { method: 'POST', headers: { ...headers, 'content-length': body.length }, agent },
      (answer) => {
        const chunks: Buffer[] = []
        answer.on('data', (chunk: Buffer) => chunks.push(chunk))
        answer.on('error', reject)
        answer.on('end', () =>
          resolve({ status: answer.statusCode ?? 0, type: answer.headers['content-type'] ?? '', text: Buffer.concat(chunks).toString() }),
        )
      },
    )
    sent.on('error', reject)
    sent.end(body)
  })
}

type SigningName = 'kms' | 'sts' | 'cloudtrail' | 'holdfast'

function sign(
  service: SigningName,
  headers: Readonly<Record<string, string>>,
  body: Uint8Array,
  credentials: Credentials = user,
): Record<string, string> {
  const { endpoint, region, clock } = holdfast
  return signRequest({ method: 'POST', url: `${endpoint}/`, headers, body, service, region, credentials, timeMs: clock.now() })
}

/** What is wrong with an answer of the JSON protocol; undefined when nothing is. */
function flawOf({ status, type, text }: Answer): string | undefined {
  if (defects.length > 0) return `a defect: ${JSON.stringify(defects.splice(0))}`
  if (status >= 500 || status < 200) return `status ${status}: ${text}`
  if (type !== 'application/x-amz-json-1.1') return `content type ${type}`
  // Of what answers nothing.
  if (status === 200 && text === '') return undefined
  const answer = JSON.parse(text) as { readonly __type?: unknown }
  if (status !== 200 && (typeof answer.__type !== 'string' || !/^[A-Za-z]+Exception$/.test(answer.__type))) return `no error type: ${text}`
  return undefined
}

const never = (what: string): never => {
  throw new Error(what)
}

async function expectSound(answer: Promise<Answer>): Promise<Answer> {
  const settled = await answer
  const flaw = flawOf(settled)
  return flaw === undefined ? settled : never(flaw)
}

// oxlint-disable-next-line typescript/no-explicit-any
const holds = (property: fc.IAsyncProperty<any>, runs = numRuns): Promise<void> => fc.assert(property, { seed, numRuns: runs })

const jsonApis = apis.filter(({ target }) => target !== undefined)
const targets = jsonApis.flatMap(({ target, signingName, operations }) =>
  [...operations.values()].map((operation) => ({
    target: `${target}.${operation.name}`,
    signingName: signingName as SigningName,
    operation,
  })),
)
const anyTarget = fc.constantFrom(...targets)
const jsonHeaders = (target: string): Record<string, string> => ({ 'content-type': 'application/x-amz-json-1.1', 'x-amz-target': target })

test('any bytes as a body', async () => {
  await holds(
    fc.asyncProperty(anyTarget, fc.uint8Array({ maxLength: 400 }), async ({ target, signingName }, body) => {
      await expectSound(send(sign(signingName, jsonHeaders(target), body), body))
    }),
  )
  expect(defects).toEqual([])
})

test('any JSON as a body, its depth, its names and its numbers', async () => {
  const text = fc.oneof(
    fc.json({ maxDepth: 6 }),
    fc.constantFrom(
      '{"a":1,"a":2}',
      '{"__proto__":{"KeyId":"x"}}',
      '[]',
      'null',
      '1e999',
      '"x"',
      '['.repeat(5000),
      `{"a":${'{"a":'.repeat(40)}1${'}'.repeat(41)}`,
      '{"KeyId":"\\ud800"}',
      '\ufeff{}',
    ),
  )
  await holds(
    fc.asyncProperty(anyTarget, text, async ({ target, signingName }, json) => {
      const body = Buffer.from(json)
      await expectSound(send(sign(signingName, jsonHeaders(target), body), body))
    }),
  )
  expect(defects).toEqual([])
})

/** Text that something may come of. */
const word = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 20 }),
  fc.constantFrom(
    'alias/fuzz',
    'alias/aws/x',
    'fuzz',
    'default',
    'x'.repeat(3000),
    '\u0000',
    "'; DROP TABLE keys; --",
    '__proto__',
    '*',
    '',
  ),
  fc.constantFrom('own key').map(() => keyId),
  fc.constantFrom('own key').map(() => `arn:aws:kms:us-east-1:111122223333:key/${keyId}`),
  fc.constantFrom(
    'arn:aws:kms:us-east-1:111122223333:alias/fuzz',
    'arn:aws:kms:eu-west-1:111122223333:key/x',
    'arn:aws:iam::111122223333:role/fuzz',
  ),
)

const ownValues: Readonly<Record<Member<unknown, boolean>['kind'], (member: Member<unknown, boolean>) => fc.Arbitrary<unknown>>> = {
  string: () => word,
  boolean: () => fc.boolean(),
  integer: () => fc.oneof(fc.integer(), fc.integer({ min: 0, max: 40 }), fc.double()),
  timestamp: () => fc.oneof(fc.double(), fc.integer({ min: 0, max: 2_000_000_000 })),
  blob: () =>
    fc.oneof(
      fc.uint8Array({ maxLength: 64 }).map((bytes) => Buffer.from(bytes).toString('base64')),
      fc.constantFrom('own blob').map(() => blob.toString('base64')),
      fc.base64String(),
    ),
  list: ({ fields }) => fc.array(fields ? bodyFor(fields) : word, { maxLength: 4 }),
  map: () =>
    fc.dictionary(
      fc.string({ unit: 'binary', maxLength: 8 }),
      fc.oneof({ weight: 5, arbitrary: fc.string({ unit: 'binary' }) }, { weight: 1, arbitrary: fc.jsonValue() }),
      { maxKeys: 4 },
    ),
  structure: ({ fields }) => bodyFor(fields ?? {}),
}

const policyText = (statement: object): string => JSON.stringify({ Version: '2012-10-17', Statement: statement })

/** What makes sense in members of these names, so that many requests come through to the end. */
const sensible: Readonly<Record<string, fc.Arbitrary<unknown>>> = {
  ...Object.fromEntries(
    ['KeyId', 'TargetKeyId', 'SourceKeyId', 'DestinationKeyId'].map((name) => [
      name,
      fc.constantFrom('', 'arn:aws:kms:us-east-1:111122223333:key/').map((prefix) => prefix + keyId),
    ]),
  ),
  ...Object.fromEntries(['AliasName', 'Marker'].map((name) => [name, fc.constantFrom('alias/fuzz', 'alias/other', 'alias/fuzz/x')])),
  ...Object.fromEntries(['UserName', 'RoleName'].map((name) => [name, fc.constantFrom('fuzz', 'other')])),
  PolicyName: fc.constantFrom('default', 'all'),
  Policy: fc.constant(policyText({ Effect: 'Allow', Principal: '*', Action: 'kms:*', Resource: '*' })),
  PolicyDocument: fc.constant(policyText({ Effect: 'Allow', Action: 'kms:*', Resource: '*' })),
  AssumeRolePolicyDocument: fc.constant(policyText({ Effect: 'Allow', Principal: { AWS: '111122223333' }, Action: 'sts:AssumeRole' })),
  Path: fc.constant('/fuzz/'),
  KeySpec: fc.constantFrom('AES_256', 'AES_128', 'SYMMETRIC_DEFAULT', 'RSA_2048'),
  CustomerMasterKeySpec: fc.constant('SYMMETRIC_DEFAULT'),
  KeyUsage: fc.constantFrom('ENCRYPT_DECRYPT', 'SIGN_VERIFY'),
  Origin: fc.constantFrom('AWS_KMS', 'EXTERNAL'),
  EncryptionAlgorithm: fc.constantFrom('SYMMETRIC_DEFAULT', 'RSAES_OAEP_SHA_1'),
  CiphertextBlob: fc.constantFrom('own blob').map(() => blob.toString('base64')),
  ...Object.fromEntries(
    ['EncryptionContext', 'SourceEncryptionContext', 'DestinationEncryptionContext'].map((name) => [name, fc.constant({ a: 'b' })]),
  ),
  DryRunModifiers: fc.constant(['IGNORE_CIPHERTEXT']),
  Status: fc.constantFrom('Active', 'Inactive'),
  AccountId: fc.constantFrom('222233334444', '333344445555'),
  AttributeKey: fc.constantFrom('EventName', 'Username', 'ReadOnly', 'ResourceName'),
  EventCategory: fc.constant('insight'),
  PendingWindowInDays: fc.integer({ min: 6, max: 31 }),
  NumberOfBytes: fc.integer({ min: 0, max: 1025 }),
  Limit: fc.integer({ min: 1, max: 3 }),
  Tags: fc.constant([{ TagKey: 'a', TagValue: 'b', Key: 'a', Value: 'b' }]),
}

/** Something for a member: mostly what makes sense there, else anything of its kind, now and then anything. */
function valueFor(name: string, member: Member<unknown, boolean>): fc.Arbitrary<unknown> {
  const own = ownValues[member.kind](member)
  return fc.oneof(
    { weight: 14, arbitrary: sensible[name] ?? own },
    { weight: 2, arbitrary: own },
    { weight: 1, arbitrary: fc.jsonValue() },
    { weight: 1, arbitrary: fc.constant(null) },
  )
}

function bodyFor(shape: Shape): fc.Arbitrary<unknown> {
  const members = Object.entries(shape).map(([name, member]) => [name, valueFor(name, member as Member<unknown, boolean>)] as const)
  const required = Object.keys(shape).filter((name) => shape[name]?.optional === false)
  return fc.oneof(
    fc.record(Object.fromEntries(members), { requiredKeys: required }),
    // With few optional members: each one more is one more that may be wrong.
    fc.record(Object.fromEntries(members.filter(([name]) => required.includes(name) || sensible[name])), { requiredKeys: required }),
    fc.record(Object.fromEntries(members.filter(([name]) => required.includes(name))), { requiredKeys: required }),
  )
}

test('any JSON that looks like a request, for every operation', { timeout: 600_000 }, async () => {
  const perOperation = Math.max(10, Math.ceil((2 * numRuns) / targets.length))
  const answered = new Set<string>()
  for (const { target, signingName, operation } of targets) {
    await holds(
      fc.asyncProperty(bodyFor(operation.input), async (input) => {
        const body = Buffer.from(JSON.stringify(input))
        const { status } = await expectSound(send(sign(signingName, jsonHeaders(target), body), body))
        if (status === 200) answered.add(operation.name)
      }),
      perOperation,
    )
    if ((await stateOf(keyId)) !== 'Enabled') ({ keyId, blob } = await newBlob())
  }
  expect(defects).toEqual([])
  // Most of what is built was reached to its end.
  expect(answered.size).toBeGreaterThan(20)
})

async function stateOf(id: string): Promise<unknown> {
  const { json } = await rawCall(holdfast, 'kms', 'DescribeKey', { KeyId: id }, { nowMs: holdfast.clock.now() })
  return (json['KeyMetadata'] as { readonly KeyState?: string } | undefined)?.KeyState
}

/** What a header may carry on the wire. */
const headerText = fc.string({
  unit: fc
    .integer({ min: 0x20, max: 0xff })
    .filter((code) => code !== 0x7f)
    .map((code) => String.fromCharCode(code)),
  maxLength: 200,
})

test('any Authorization header, any date, any target', async () => {
  const body = Buffer.from('{}')
  const spoiled = fc.oneof(
    fc.record({
      header: fc.constantFrom(
        'authorization',
        'x-amz-date',
        'x-amz-security-token',
        'x-amz-target',
        'x-amz-content-sha256',
        'host',
        'content-type',
      ),
      text: headerText,
    }),
    // Near to a good one: pieces of it exchanged, doubled, left out.
    fc
      .array(
        fc.oneof(
          headerText,
          fc.constantFrom(
            'AWS4-HMAC-SHA256 ',
            'Credential=',
            'AKIAEXAMPLE',
            '/20260101',
            '/us-east-1',
            '/kms',
            '/aws4_request',
            ', ',
            'SignedHeaders=',
            'host;x-amz-date',
            ';',
            'Signature=',
            '0'.repeat(64),
            '=',
            ',',
          ),
        ),
        { maxLength: 14 },
      )
      .map((pieces) => ({ header: 'authorization', text: pieces.join('') })),
    fc
      .tuple(fc.nat(), fc.integer({ min: 0x20, max: 0x7e }))
      .map(([at, code]) => ({ header: 'authorization', at, text: String.fromCharCode(code) })),
  )
  await holds(
    fc.asyncProperty(spoiled, async (change) => {
      const headers = sign('kms', jsonHeaders('TrentService.ListKeys'), body)
      // Node writes the host itself where it is given none.
      if (change.header === 'host' && change.text.trim() === '') return
      const whole = headers[change.header] ?? ''
      const at = 'at' in change ? change.at % Math.max(1, whole.length) : undefined
      headers[change.header] = at === undefined ? change.text : whole.slice(0, at) + change.text + whole.slice(at + 1)
      const answer = await send(headers, body)
      // A host that is none at all is refused by the parser of HTTP itself, before the door.
      if (change.header === 'host' && answer.status === 400 && answer.text === '') return
      const flaw = flawOf(answer)
      if (flaw !== undefined) never(flaw)
      if (answer.status === 200 && headers[change.header] !== whole && change.header !== 'content-type') {
        // Only what was not signed, or says the same in other letters, may be changed.
        if (!['x-amz-content-sha256'].includes(change.header) && headers[change.header]?.trim().replaceAll(/\s+/g, ' ') !== whole)
          never(`accepted with ${change.header}: ${headers[change.header]}`)
      }
    }),
  )
  expect(defects).toEqual([])
})

test('any session token', async () => {
  const body = Buffer.from('{}')
  const tokenText = fc.oneof(
    fc.base64String({ maxLength: 2000 }),
    headerText,
    // As a token begins: the number of a wrap scheme, then whatever.
    fc
      .tuple(fc.integer({ min: 0, max: 7 }), fc.uint8Array({ maxLength: 300 }))
      .map(([scheme, rest]) => Buffer.from([scheme, ...rest]).toString('base64')),
  )
  const seen = new Set<unknown>()
  await holds(
    fc.asyncProperty(tokenText, async (sessionToken) => {
      const answer = await expectSound(
        send(sign('kms', jsonHeaders('TrentService.ListKeys'), body, { ...user, accessKeyId: 'ASIAEXAMPLE', sessionToken }), body),
      )
      seen.add((JSON.parse(answer.text) as { readonly __type?: unknown }).__type)
    }),
  )
  // Nothing about the token's inside is told.
  expect(
    [...seen].filter(
      (type) => !['UnrecognizedClientException', 'InvalidSignatureException', 'IncompleteSignatureException'].includes(String(type)),
    ),
  ).toEqual([])
})

test('any blob to decrypt: refused without a hint, and never taken for another', async () => {
  ;({ keyId, blob } = await newBlob())
  const mutation = fc.oneof(
    fc.uint8Array({ maxLength: 500 }).map((bytes) => () => Buffer.from(bytes)),
    fc.nat().map((bit) => () => {
      const changed = Buffer.from(blob)
      const at = bit % (blob.length * 8)
      changed[at >> 3] = (changed[at >> 3] ?? 0) ^ (1 << (at & 7))
      return changed
    }),
    fc.nat().map((length) => () => blob.subarray(0, length % blob.length)),
    fc.uint8Array({ minLength: 1, maxLength: 5000 }).map((more) => () => Buffer.concat([blob, more])),
    // A header that anyone can make fit, with another scheme or material and any body.
    fc.tuple(fc.integer({ min: 0, max: 8 }), fc.uint8Array({ maxLength: 600 }), fc.boolean()).map(([scheme, rest, ownBody]) => () => {
      const header = Buffer.from(blob.subarray(0, 60))
      header[2] = scheme
      createHash('sha256').update(header.subarray(0, 52)).digest().copy(header, 52, 0, 8)
      return Buffer.concat([header, ownBody ? blob.subarray(60) : rest])
    }),
  )
  const seen = new Set<string>()
  await holds(
    fc.asyncProperty(mutation, fc.constantFrom('Decrypt', 'ReEncrypt'), async (make, operation) => {
      const changed = make()
      const contexts =
        operation === 'Decrypt' ? { EncryptionContext: { a: 'b' } } : { SourceEncryptionContext: { a: 'b' }, DestinationKeyId: keyId }
      const body = Buffer.from(JSON.stringify({ CiphertextBlob: changed.toString('base64'), ...contexts }))
      const answer = await expectSound(send(sign('kms', jsonHeaders(`TrentService.${operation}`), body), body))
      if (answer.status === 200 && !changed.equals(blob)) never('a changed blob was opened')
      if (answer.status !== 200) seen.add(String((JSON.parse(answer.text) as { readonly __type: unknown }).__type))
    }),
    2 * numRuns,
  )
  expect(
    [...seen].filter(
      (type) => !['InvalidCiphertextException', 'AccessDeniedException', 'ValidationException', 'KMSInvalidStateException'].includes(type),
    ),
  ).toEqual([])
  expect(defects).toEqual([])
})

test('any policy: refused, or stored and asked afterwards', { timeout: 300_000 }, async () => {
  const arnText = fc.constantFrom(
    '*',
    'arn:aws:iam::111122223333:root',
    'arn:aws:iam::111122223333:user/fuzz',
    '111122223333',
    'arn:aws:kms:*',
    'arn:aws:kms:us-east-1:111122223333:key/*',
    '${aws:username}',
    '${',
    '${aws:x}${*}',
    '',
    'nonsense',
  )
  const oneOrMore = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | T[]> => fc.oneof(value, fc.array(value, { maxLength: 3 }))
  const action = fc.constantFrom('kms:*', 'kms:Describe*', 'KMS:DescribeKey', 'kms:PutKeyPolicy', '*', 'kms:', 'kms:?', 'x', '')
  const operator = fc.constantFrom(
    'StringEquals',
    'StringLike',
    'StringNotEqualsIfExists',
    'ForAllValues:StringLike',
    'ForAnyValue:StringEquals',
    'NumericLessThan',
    'DateGreaterThan',
    'Bool',
    'IpAddress',
    'NotIpAddress',
    'ArnLike',
    'Null',
    'BinaryEquals',
    'Nonsense',
    'ForAllValues:Null',
  )
  const conditionKey = fc.constantFrom(
    'kms:ViaService',
    'kms:EncryptionContext:a',
    'kms:EncryptionContextKeys',
    'aws:SourceIp',
    'aws:CurrentTime',
    'aws:PrincipalTag/x',
    'aws:ResourceTag/',
    'kms:ResourceAliases',
    '__proto__',
    'constructor',
    'aws:',
  )
  const conditionValue = oneOrMore(
    fc.oneof(word, fc.constantFrom('10.0.0.0/8', '::/0', '1.2.3.4/99', '2026-01-01', 'true', '1e5', 'AA=='), fc.boolean(), fc.integer()),
  )
  /** Mostly what may be there, so that many documents are stored and asked. */
  const mostly = (good: fc.Arbitrary<unknown>, bad: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> =>
    fc.oneof({ weight: 12, arbitrary: good }, { weight: 1, arbitrary: bad })
  const principal = fc.oneof(fc.constant('*'), fc.record({ AWS: fc.constantFrom('*', 'arn:aws:iam::111122223333:root', '111122223333') }))
  const goodCondition = fc.oneof(
    fc.record({ StringLike: fc.record({ 'kms:EncryptionContext:a': fc.constantFrom('b', '*', '?', 'c', '${aws:username}') }) }),
    fc.record({ 'ForAnyValue:StringEquals': fc.record({ 'kms:EncryptionContextKeys': fc.constantFrom('a', 'b') }) }),
    fc.record({ IpAddress: fc.record({ 'aws:SourceIp': fc.constantFrom('127.0.0.0/8', '::/0', '10.0.0.1') }) }),
    fc.record({ DateGreaterThanIfExists: fc.record({ 'aws:CurrentTime': fc.constantFrom('2026-01-01T00:00:00Z', '2030-01-01') }) }),
    fc.record({ Null: fc.record({ 'kms:ViaService': fc.constantFrom('true', 'false') }) }),
  )
  const statement = fc.record(
    {
      Sid: mostly(fc.uuid(), word),
      Effect: mostly(fc.constantFrom('Allow', 'Deny'), fc.constantFrom('allow', '', 1)),
      Principal: mostly(
        principal,
        fc.oneof(fc.record({ AWS: oneOrMore(arnText) }), fc.record({ Service: oneOrMore(word) }), fc.jsonValue()),
      ),
      Action: mostly(fc.constantFrom('kms:*', 'kms:Describe*', 'KMS:Encrypt', 'kms:?ncrypt'), oneOrMore(action)),
      Resource: mostly(fc.constant('*'), oneOrMore(arnText)),
      Condition: mostly(
        goodCondition,
        fc.dictionary(operator, fc.dictionary(conditionKey, conditionValue, { maxKeys: 2 }), { maxKeys: 3 }),
      ),
    },
    { requiredKeys: ['Effect', 'Principal', 'Action', 'Resource'] },
  )
  const inverted = fc.record({
    Effect: fc.constantFrom('Allow', 'Deny'),
    NotPrincipal: fc.record({ AWS: oneOrMore(arnText) }),
    NotAction: oneOrMore(action),
    NotResource: oneOrMore(arnText),
  })
  const document = fc.oneof(
    {
      weight: 6,
      arbitrary: fc
        .record(
          {
            Version: mostly(fc.constantFrom('2012-10-17', '2008-10-17'), fc.constantFrom('2020-01-01', 1)),
            Id: word,
            Statement: fc.oneof({ weight: 8, arbitrary: oneOrMore(statement) }, { weight: 1, arbitrary: inverted }),
          },
          { requiredKeys: ['Version', 'Statement'] },
        )
        .map((value) => JSON.stringify(value)),
    },
    { weight: 1, arbitrary: fc.json() },
    { weight: 1, arbitrary: fc.string({ maxLength: 100 }) },
  )
  await administer(holdfast, 'CreateUser', { UserName: 'policed' }, { nowMs: holdfast.clock.now() })
  let policed = await newKey()
  let stored = 0
  await holds(
    fc.asyncProperty(document, async (Policy) => {
      const put = async (target: string, signingName: SigningName, input: object): Promise<Answer> => {
        const body = Buffer.from(JSON.stringify(input))
        return expectSound(send(sign(signingName, jsonHeaders(target), body, holdfast.credentials), body))
      }
      await put('Holdfast.PutUserPolicy', 'holdfast', { UserName: 'policed', PolicyName: 'fuzz', PolicyDocument: Policy })
      const kept = await put('TrentService.PutKeyPolicy', 'kms', { KeyId: policed, Policy, BypassPolicyLockoutSafetyCheck: true })
      if (kept.status === 200) stored++
      const body = Buffer.from(JSON.stringify({ KeyId: policed, Plaintext: 'QUFB', EncryptionContext: { a: 'b' } }))
      await expectSound(send(sign('kms', jsonHeaders('TrentService.Encrypt'), body), body))
      // A policy may well lock everybody out: then another key serves.
      if (kept.status !== 200 && kept.text.includes('AccessDenied')) policed = await newKey()
    }),
  )
  expect(stored).toBeGreaterThan(numRuns / 20)
  expect(defects).toEqual([])
})

test('any form to STS', async () => {
  const parameter = fc.tuple(
    fc.constantFrom(
      'Action',
      'Version',
      'RoleArn',
      'RoleSessionName',
      'Policy',
      'DurationSeconds',
      'Tags.member.1.Key',
      'Tags.member.1.Value',
      'Tags',
      'PolicyArns.member.1.arn',
      '',
      '%',
    ),
    fc.oneof(word, fc.constantFrom('AssumeRole', 'GetCallerIdentity', '2011-06-15', '3600', '{}', '%zz', '+')),
  )
  const form = fc.oneof(
    fc
      .array(parameter, { maxLength: 8 })
      .map((pairs) =>
        Buffer.from(pairs.map(([name, value]) => `${name}=${encodeURIComponent(value.replaceAll(/\p{Surrogate}/gu, ''))}`).join('&')),
      ),
    fc
      .array(parameter, { maxLength: 6 })
      .map((pairs) =>
        Buffer.from(
          new URLSearchParams([
            ['Action', 'AssumeRole'],
            ['Version', '2011-06-15'],
            ['RoleArn', 'arn:aws:iam::111122223333:role/fuzz'],
            ['RoleSessionName', 'fuzz'],
            ...pairs,
          ]).toString(),
        ),
      ),
    fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
  )
  await holds(
    fc.asyncProperty(form, async (body) => {
      const { status, type, text } = await send(sign('sts', { 'content-type': 'application/x-www-form-urlencoded' }, body), body)
      if (defects.length > 0 || status >= 500 || type !== 'text/xml' || !/^<(?:\w+Response) /.test(text))
        never(`${status} ${type} ${text} ${JSON.stringify(defects)}`)
    }),
  )
  expect(defects).toEqual([])
})

test('after all of it the service serves as before', async () => {
  const nowMs = holdfast.clock.now()
  const id = await newKey()
  const made = await rawCall(holdfast, 'kms', 'Encrypt', { KeyId: id, Plaintext: 'QUFB' }, { nowMs })
  const back = await rawCall(holdfast, 'kms', 'Decrypt', { CiphertextBlob: made.json['CiphertextBlob'] }, { nowMs })
  expect(back.json['Plaintext']).toBe('QUFB')
  expect((await fetch(`${holdfast.endpoint}/healthz`)).status).toBe(200)
  expect(defects).toEqual([])
})
