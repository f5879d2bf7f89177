/** The query protocol: forms in, XML out. */

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { awsQuery } from '../../src/http/aws-query.ts'
import { kmsError, KmsError } from '../../src/kms/errors.ts'
import type { Operation } from '../../src/kms/operation.ts'
import { apis } from '../../src/kms/operations/index.ts'

const query = awsQuery(apis)
const find = (form: string) => query.find({}, Buffer.from(form))
const read = (form: string) => {
  const { operation } = find(form)
  return query.readBody(operation, Buffer.from(form))
}
/** What a form says, or the KmsError that refuses it. Throws for anything else. */
const readOrRefuse = (form: string): object => {
  try {
    return read(form)
  } catch (error) {
    if (error instanceof KmsError) return error
    throw error
  }
}
const assumeRole = 'Action=AssumeRole&Version=2011-06-15'

test('an action is found by its name and version, and signed for sts', () => {
  const { operation, signingName } = find('Version=2011-06-15&Action=GetCallerIdentity')
  expect(operation.name).toBe('GetCallerIdentity')
  expect(signingName).toBe('sts')
})

test.each([
  '',
  'Action=GetCallerIdentity',
  'Action=GetCallerIdentity&Version=2012-01-01',
  'Action=Encrypt&Version=2011-06-15',
  'Action=constructor&Version=2011-06-15',
  '%%%=1',
])('%j is an unknown operation', (form) => {
  expect(() => find(form)).toThrow(KmsError)
})

test('numbers, structures and lists follow from the shape', () => {
  const form = `${assumeRole}&RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Fr&RoleSessionName=s&DurationSeconds=900&Tags.member.1.Key=a&Tags.member.1.Value=b+c&Tags.member.2.Key=d&Tags.member.2.Value=&TransitiveTagKeys.member.1=a&PolicyArns=&Other=1`
  expect(read(form)).toEqual({
    RoleArn: 'arn:aws:iam::111122223333:role/r',
    RoleSessionName: 's',
    DurationSeconds: 900,
    Tags: [
      { Key: 'a', Value: 'b c' },
      { Key: 'd', Value: '' },
    ],
    TransitiveTagKeys: ['a'],
    PolicyArns: [],
  })
})

test('a number that is none is left for the shape to refuse', () => {
  expect(read(`${assumeRole}&DurationSeconds=1e3`)).toEqual({ DurationSeconds: '1e3' })
})

test('a list ends where its count does', () => {
  expect(read(`${assumeRole}&TransitiveTagKeys.member.1=a&TransitiveTagKeys.member.3=c&TransitiveTagKeys.member.02=d`)).toEqual({
    TransitiveTagKeys: ['a'],
  })
})

test.each([`${assumeRole}&RoleArn=a&RoleArn=b`, `${assumeRole}&${Array.from({ length: 1001 }, (_, n) => `p${n}=`).join('&')}`])(
  'a parameter twice, or too many, is refused',
  (form) => {
    expect(() => find(form)).toThrow(/given twice|too many/)
  },
)

test('bytes that are not UTF-8 are refused', () => {
  expect(() => query.find({}, Buffer.from([0x41, 0xff]))).toThrow(/UTF-8/)
})

test('any form is read or refused, never a crash', () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.tuple(
          fc.constantFrom('Tags.member.1.Key', 'Tags.member.1', 'Tags', 'DurationSeconds', 'Tags.member.1.Key.x', '__proto__'),
          fc.string(),
        ),
      ),
      (pairs) => {
        expect(readOrRefuse(`${assumeRole}&${new URLSearchParams(pairs).toString()}`)).toBeTypeOf('object')
      },
    ),
  )
})

const named = (name: string): Operation => ({ name }) as Operation

test('an answer is the XML that AWS SDKs read', () => {
  const { contentType, text, status } = query.encodeAnswer(
    named('AssumeRole'),
    { Credentials: { AccessKeyId: 'A', Expiration: new Date(0) }, PackedPolicySize: 6, SourceIdentity: undefined, List: ['a', { B: 1 }] },
    'r-1',
  )
  expect({ contentType, status }).toEqual({ contentType: 'text/xml', status: 200 })
  expect(text).toBe(
    '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>' +
      '<Credentials><AccessKeyId>A</AccessKeyId><Expiration>1970-01-01T00:00:00Z</Expiration></Credentials>' +
      '<PackedPolicySize>6</PackedPolicySize><List><member>a</member><member><B>1</B></member></List>' +
      '</AssumeRoleResult><ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata></AssumeRoleResponse>',
  )
})

test('errors have the names and statuses that STS gives them', () => {
  const error = (code: Parameters<typeof kmsError>[0]) => query.encodeError(kmsError(code, 'w <&> "'), 'r')
  expect(error('UnrecognizedClientException')).toEqual({
    status: 403,
    contentType: 'text/xml',
    text: '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code><Message>w &lt;&amp;&gt; &quot;</Message></Error><RequestId>r</RequestId></ErrorResponse>',
  })
  expect(error('InvalidSignatureException').text).toContain('<Code>SignatureDoesNotMatch</Code>')
  expect(error('AccessDeniedException')).toMatchObject({ status: 403, text: expect.stringContaining('<Code>AccessDenied</Code>') })
  expect(error('ValidationException')).toMatchObject({ status: 400, text: expect.stringContaining('<Code>ValidationError</Code>') })
  expect(error('KMSInternalException')).toMatchObject({ status: 500, text: expect.stringContaining('<Type>Receiver</Type>') })
})

test('text that XML cannot hold becomes the replacement character, so that the answer stays XML', () => {
  const { text } = query.encodeAnswer(named('X'), { A: 'a\u0000b\u001f\ud800\t\n' }, 'r')
  expect(text).toContain('<A>a\ufffdb\ufffd\ufffd\t\n</A>')
})

test('a form of very many parameters is refused without being taken apart, whatever their names', () => {
  expect(() => find(`${assumeRole}${'&a='.repeat(400_000)}`)).toThrow(/too many/)
  expect(() => find(`${assumeRole}${'&'.repeat(1_000)}`)).toThrow(/too many/)
})
