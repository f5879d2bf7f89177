/** The policy of a store of the XKS proxy: which statement decides about which request, and what is no policy. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { compileXksPolicy, XksPolicyError, type PolicyRequest } from '../../src/xks/policy.ts'
import type { AskedMetadata } from '../../src/xks/requests.ts'

const request = (metadata: Partial<AskedMetadata> = {}, more: Partial<PolicyRequest> = {}): PolicyRequest => ({
  metadata: {
    kmsRequestId: 'r',
    kmsOperation: 'GenerateDataKey',
    awsPrincipalArn: 'arn:aws:iam::111111111111:role/Backup',
    kmsKeyArn: 'arn:aws:kms:eu-central-1:222222222222:key/k',
    kmsViaService: 's3.eu-central-1.amazonaws.com',
    awsSourceVpc: 'vpc-1',
    awsSourceVpce: 'vpce-1',
    ...metadata,
  },
  externalKeyId: 'vault.one',
  region: 'eu-central-1',
  ...more,
})
const decide = (statements: readonly unknown[], asked = request()) =>
  compileXksPolicy(JSON.stringify({ Statement: statements })).decide(asked)
const failureOf = (work: () => unknown): unknown => {
  try {
    work()
    return undefined
  } catch (error) {
    return error
  }
}
const meets = (condition: Readonly<Record<string, unknown>>, asked = request()): boolean =>
  decide([{ Effect: 'Deny', ...condition }], asked) !== undefined

test('the first statement that matches decides, and is named; where none does, nothing is said', () => {
  const statements = [
    { Sid: 'Backups', Effect: 'Allow', Principal: '*:role/Backup' },
    { Effect: 'Deny', Operation: ['Generate*', 'Encrypt'] },
    { Sid: 'Late', Effect: 'Allow', Principal: '*' },
  ]
  expect(decide(statements)).toEqual({ allowed: true, statement: 'Backups' })
  const other = { awsPrincipalArn: 'arn:aws:iam::111111111111:user/x' }
  expect(decide(statements, request(other))).toEqual({ allowed: false, statement: '#2' })
  expect(decide(statements, request({ ...other, kmsOperation: 'Decrypt' }))).toEqual({ allowed: true, statement: 'Late' })
  expect(decide(statements.slice(0, 2), request({ ...other, kmsOperation: 'Decrypt' }))).toBeUndefined()
})

describe('a condition', () => {
  test.each([
    ['Principal', 'arn:aws:iam::*:role/*', 'arn:aws:iam::*:user/*'],
    ['Account', '111111111111', '222222222222'],
    ['Region', 'eu-*', 'us-*'],
    ['ViaService', 's3.*', 'ebs.*'],
    ['Operation', 'GenerateDataKey*', 'Decrypt'],
    ['Key', 'arn:aws:kms:*:222222222222:key/?', 'arn:aws:kms:*:333333333333:*'],
    ['ExternalKeyId', 'vault.*', 'Vault.*'],
    ['SourceVpc', 'vpc-1', 'vpc-2'],
    ['SourceVpce', 'vpce-?', 'vpc-1'],
  ])('on %s is met by %s and not by %s; of several patterns one is enough', (name, good, bad) => {
    expect([meets({ [name]: good }), meets({ [name]: bad }), meets({ [name]: [bad, good] }), meets({ [name]: [bad, 'x'] })]).toEqual([
      true,
      false,
      true,
      false,
    ])
  })

  test('is one of several that all must be met', () => {
    expect(meets({ Region: 'eu-*', Operation: 'Generate*' })).toBe(true)
    expect(meets({ Region: 'eu-*', Operation: 'Decrypt' })).toBe(false)
  })

  test('on what is not said is met by * alone', () => {
    const direct = request()
    const { kmsViaService: _via, ...metadata } = direct.metadata
    for (const [pattern, met] of [
      ['*', true],
      ['?*', false],
      ['s3.*', false],
    ] as const)
      expect(meets({ ViaService: pattern }, { ...direct, metadata })).toBe(met)
  })

  test.each([
    ['AWS Internal', '222222222222'],
    ['ec2.amazonaws.com', '222222222222'],
    ['arn:aws:sts::333333333333:assumed-role/r/s', '333333333333'],
  ])('on the account of %s is about %s', (awsPrincipalArn, account) => {
    expect(meets({ Account: account }, request({ awsPrincipalArn }))).toBe(true)
    expect(meets({ Account: '444444444444' }, request({ awsPrincipalArn }))).toBe(false)
  })

  test('has no variables', () => {
    expect(meets({ Principal: '${aws:username}' }, request({ awsPrincipalArn: '${aws:username}' }))).toBe(true)
  })
})

test.each([
  ['no', /not JSON/],
  ['[]', /must be a JSON object/],
  ['{}', /Statement must be a list/],
  ['{"Statement":[]}', /Statement must be a list/],
  ['{"Statement":[5]}', /Statement 1 must be a JSON object/],
  ['{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*"}]}', /has "Version", which is none of Statement/],
  ['{"Statement":[{"Effect":"deny","Principal":"*"}]}', /Effect must be Allow or Deny/],
  ['{"Statement":[{"Effect":"Deny"}]}', /has no condition/],
  ['{"Statement":[{"Effect":"Deny","Action":"*"}]}', /has "Action", which is none of Sid, Effect, Principal/],
  ['{"Statement":[{"Effect":"Deny","Principal":[]}]}', /empty list/],
  ['{"Statement":[{"Effect":"Deny","Principal":{"AWS":"*"}}]}', /must be text/],
  ['{"Statement":[{"Effect":"Deny","Principal":["*",7]}]}', /must be text/],
  ['{"Statement":[{"Sid":"a b","Effect":"Deny","Principal":"*"}]}', /Sid must be/],
  [
    '{"Statement":[{"Sid":"a","Effect":"Deny","Principal":"*"},{"Sid":"a","Effect":"Deny","Principal":"*"}]}',
    /Two statements have the Sid "a"/,
  ],
  [JSON.stringify({ Statement: Array.from({ length: 201 }, () => ({ Effect: 'Deny', Principal: '*' })) }), /1 to 200/],
  [JSON.stringify({ Statement: [{ Effect: 'Deny', Operation: Array.from({ length: 401 }, () => 'x') }] }), /401 patterns/],
  [' '.repeat(16_385), /longer than 16384/],
])('%.80s is no policy', (text, message) => {
  expect(() => compileXksPolicy(text)).toThrow(message)
})

test('whatever the text is, it is a policy or an XksPolicyError', () => {
  const statement = fc.dictionary(
    fc.constantFrom('Sid', 'Effect', 'Principal', 'Key', 'Other', '__proto__'),
    fc.oneof(fc.string(), fc.jsonValue(), fc.constantFrom('Allow', 'Deny')),
  )
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.json(),
        fc.array(statement).map((Statement) => JSON.stringify({ Statement })),
      ),
      (text) => {
        expect(failureOf(() => compileXksPolicy(text).decide(request()))).toSatisfy(
          (error) => error === undefined || error instanceof XksPolicyError,
        )
      },
    ),
  )
})
