/** The audit record: what of a call goes into the trail, and what never does. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Principal } from '../../src/auth/principal.ts'
import { kmsError } from '../../src/kms/errors.ts'
import type { Operation } from '../../src/kms/operation.ts'
import { buildRecord, buildRecords, eventTime, type RecordedCall } from '../../src/kms/record.ts'
import {
  blob,
  boolean,
  integer,
  list,
  optional,
  readInput,
  string,
  stringMap,
  structure,
  timestamp,
  type Member,
  type Shape,
} from '../../src/kms/shape.ts'

const root: Principal = {
  type: 'Root',
  arn: 'arn:aws:iam::111122223333:root',
  accountId: '111122223333',
  principalId: '111122223333',
  accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
  tags: new Map(),
  identityPolicies: [],
}

function callOf(shape: Shape, input: RecordedCall['input'], more: Partial<RecordedCall> = {}): RecordedCall {
  const operation = {
    name: 'Encrypt',
    eventSource: 'kms.amazonaws.com',
    readOnly: true,
    input: shape,
    responseElements: undefined,
  } as unknown as Operation
  return {
    service: { config: { accountId: '111122223333' } } as RecordedCall['service'],
    operation,
    facts: { requestId: 'r-1', sourceIp: '127.0.0.1', userAgent: 'aws-cli', tls: undefined, host: 'localhost', receivedAt: 0 },
    principal: root,
    region: 'us-east-1',
    nowMs: Date.UTC(2026, 0, 2, 3, 4, 5, 678),
    input,
    note: {},
    touched: [],
    ...more,
  }
}

/** 16 random characters: what turns up nowhere by chance. */
const planted = fc.string({ unit: fc.constantFrom(...'ABCDEFGHJKLMNPQRSTUVWXYZ'.split('')), minLength: 16, maxLength: 16 })

interface Drawn {
  readonly member: Member<unknown, boolean>
  readonly value: unknown
  readonly secrets: readonly string[]
  readonly open: readonly string[]
}

/** Any member of any shape with a value for it; what is secret and what is not in the value is known. */
const { drawn } = fc.letrec<{ drawn: Drawn; leaf: Drawn }>((tie) => ({
  leaf: fc.oneof(
    planted.map((text): Drawn => ({ member: optional(string()), value: text, secrets: [], open: [text] })),
    planted.map((text): Drawn => ({ member: optional(string({ secret: true })), value: text, secrets: [text], open: [] })),
    planted.map((text): Drawn => ({
      member: optional(blob({ min: 0, max: 100 })),
      value: Buffer.from(text).toString('base64'),
      secrets: [text],
      open: [],
    })),
    planted.map((text): Drawn => ({ member: optional(stringMap), value: { [text]: 'v' }, secrets: [], open: [text] })),
    fc.boolean().map((value): Drawn => ({ member: optional(boolean), value, secrets: [], open: [] })),
    fc.nat({ max: 1000 }).map((value): Drawn => ({ member: optional(integer()), value, secrets: [], open: [] })),
    fc.nat({ max: 1000 }).map((value): Drawn => ({ member: optional(timestamp), value, secrets: [], open: [] })),
  ),
  drawn: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    tie('leaf'),
    // Items of one list are of one kind, so the same item twice.
    tie('drawn').map((item): Drawn => ({ ...item, member: optional(list(item.member)), value: [item.value, item.value] })),
    fc.array(tie('drawn'), { maxLength: 3 }).map((members): Drawn => {
      const named = members.map((each, index) => [`Inner${index}`, each] as const)
      return {
        member: optional(structure(Object.fromEntries(named.map(([name, each]) => [name, each.member])))),
        value: Object.fromEntries(named.map(([name, each]) => [name, each.value])),
        secrets: members.flatMap((each) => each.secrets),
        open: members.flatMap((each) => each.open),
      }
    }),
  ),
}))

/** Every way in which bytes could stand in the text. */
const disguises = (secret: string): readonly string[] => {
  const bytes = Buffer.from(secret)
  return [secret, bytes.toString('base64'), bytes.toString('hex'), [...bytes].join(','), JSON.stringify(bytes)]
}

test('no blob and no secret is ever in a record, whatever the shape; everything else is', () => {
  fc.assert(
    fc.property(fc.array(drawn, { minLength: 1, maxLength: 4 }), (members) => {
      const shape = Object.fromEntries(members.map((each, index) => [`Member${index}`, each.member]))
      const body = Object.fromEntries(members.map((each, index) => [`Member${index}`, each.value]))
      const text = JSON.stringify(
        buildRecord(callOf(shape, readInput(shape, body)), { Plaintext: 'PLANTEDINANSWER', CiphertextBlob: 'PLANTEDINANSWER' }, undefined),
      )
      for (const secret of members.flatMap((each) => each.secrets)) for (const form of disguises(secret)) expect(text).not.toContain(form)
      for (const open of members.flatMap((each) => each.open)) expect(text).toContain(open)
      expect(text).not.toContain('PLANTEDINANSWER')
    }),
    { numRuns: 1000 },
  )
})

describe('the records of a call', () => {
  const touched = (...accounts: readonly string[]) =>
    accounts.map((accountId, index) => ({ arn: `arn:${accountId}:${index}`, accountId, type: 'AWS::KMS::Key' }))
  const recordsOf = (...accounts: readonly string[]) => buildRecords(callOf({}, {}, { touched: touched(...accounts) }), {}, undefined)

  test('are one where it was about nothing but the caller’s own', () => {
    for (const accounts of [[], ['111122223333'], ['111122223333', '111122223333']]) {
      const [record, ...more] = recordsOf(...accounts)
      expect(more).toEqual([])
      expect(JSON.parse(JSON.stringify(record))).not.toHaveProperty('sharedEventID')
    }
  })

  test('are one more for each other account, each with what is that account’s, and nothing of who called but the account and the id', () => {
    const [mine, ...others] = recordsOf('111122223333', '222233334444', '333344445555', '222233334444')
    expect(mine['resources']).toHaveLength(4)
    expect(others.map(({ recipientAccountId, resources }) => [recipientAccountId, (resources as readonly object[]).length])).toEqual([
      ['222233334444', 2],
      ['333344445555', 1],
    ])
    for (const other of others) {
      expect(other['sharedEventID']).toBe(mine['sharedEventID'])
      expect(other['userIdentity']).toEqual({ type: 'AWSAccount', principalId: root.principalId, accountId: root.accountId })
      expect(JSON.stringify(other)).not.toContain(root.accessKeyId)
    }
    expect(new Set([mine, ...others].map(({ eventID }) => eventID)).size).toBe(3)
  })

  test('are one for a caller whom nobody knows', () => {
    const unknown = callOf({}, {}, { touched: touched('222233334444'), principal: undefined })
    expect(buildRecords(unknown, undefined, kmsError('UnrecognizedClientException'))).toHaveLength(1)
  })
})

describe('a record', () => {
  test('has the fields of CloudTrail 1.11', () => {
    const record = buildRecord(
      callOf(
        { KeyId: string(), EncryptionContext: optional(stringMap), When: optional(timestamp) },
        { KeyId: 'alias/x', EncryptionContext: { a: 'b' }, When: 0 },
        {
          note: { keyMaterialId: 'ab' },
          touched: [{ arn: 'arn:k', accountId: '111122223333', type: 'AWS::KMS::Key' }],
          facts: {
            requestId: 'r-1',
            sourceIp: '::1',
            userAgent: 'boto3',
            tls: { version: 'TLSv1.3', cipherSuite: 'TLS_AES_256_GCM_SHA384' },
            host: 'kms.test',
            receivedAt: 0,
          },
        },
      ),
      {},
      undefined,
    )
    expect(record.eventID).toMatch(/^[0-9a-f-]{36}$/)
    expect(JSON.parse(JSON.stringify(record))).toEqual({
      eventVersion: '1.11',
      userIdentity: {
        type: 'Root',
        principalId: '111122223333',
        arn: 'arn:aws:iam::111122223333:root',
        accountId: '111122223333',
        accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
      },
      eventTime: '2026-01-02T03:04:05Z',
      eventSource: 'kms.amazonaws.com',
      eventName: 'Encrypt',
      awsRegion: 'us-east-1',
      sourceIPAddress: '::1',
      userAgent: 'boto3',
      requestParameters: { keyId: 'alias/x', encryptionContext: { a: 'b' }, when: '1970-01-01T00:00:00.000Z' },
      responseElements: null,
      additionalEventData: { keyMaterialId: 'ab' },
      requestID: 'r-1',
      eventID: record.eventID,
      readOnly: true,
      resources: [{ accountId: '111122223333', type: 'AWS::KMS::Key', ARN: 'arn:k' }],
      eventType: 'AwsApiCall',
      managementEvent: true,
      recipientAccountId: '111122223333',
      eventCategory: 'Management',
      tlsDetails: { tlsVersion: 'TLSv1.3', cipherSuite: 'TLS_AES_256_GCM_SHA384', clientProvidedHostHeader: 'kms.test' },
    })
  })

  test('of a failure does not hold whatever the caller sent, and of a success it does', () => {
    const shape = { KeyId: string(), EncryptionContext: optional(stringMap) }
    const input = { KeyId: 'alias/x', EncryptionContext: { a: 'x'.repeat(1_000_000) } }
    const failed = JSON.stringify(buildRecord(callOf(shape, input), undefined, kmsError('AccessDeniedException', 'no')))
    expect(failed.length).toBeLessThan(20_000)
    expect(JSON.parse(failed)).toMatchObject({ requestParameters: { omitted: expect.stringMatching(/^1000\d\d\d characters$/) } })
    expect(buildRecord(callOf(shape, input), {}, undefined)['requestParameters']).toEqual({
      keyId: 'alias/x',
      encryptionContext: { a: input.EncryptionContext.a },
    })
    const host = 'h'.repeat(30_000)
    const tls = { version: 'TLSv1.3', cipherSuite: 'c' }
    const facts = { requestId: 'r', sourceIp: '::1', userAgent: undefined, tls, host, receivedAt: 0 }
    expect(JSON.stringify(buildRecord(callOf({}, {}, { facts }), {}, undefined)).length).toBeLessThan(3000)
  })

  test('of a failure has its code, and its words when it has any', () => {
    expect(buildRecord(callOf({}, {}), undefined, kmsError('NotFoundException', 'gone'))).toMatchObject({
      errorCode: 'NotFoundException',
      errorMessage: 'gone',
    })
    const silent: unknown = JSON.parse(JSON.stringify(buildRecord(callOf({}, {}), undefined, kmsError('InvalidCiphertextException'))))
    expect(silent).toMatchObject({ errorCode: 'InvalidCiphertextException' })
    expect(silent).not.toHaveProperty('errorMessage')
  })

  test('of a call that failed before its caller was known says so', () => {
    const record = buildRecord(
      callOf({ KeyId: string() }, undefined, { principal: undefined }),
      undefined,
      kmsError('InvalidSignatureException', 'no'),
    )
    expect(record).toMatchObject({ userIdentity: { type: 'Unknown' }, requestParameters: null, recipientAccountId: '111122223333' })
  })

  test('does not grow with what a caller makes up', () => {
    const long = 'x'.repeat(100_000)
    const { facts } = callOf({}, {})
    const record = buildRecord(callOf({}, {}, { facts: { ...facts, userAgent: long } }), undefined, kmsError('ValidationException', long))
    expect(JSON.stringify(record).length).toBeLessThan(4000)
  })

  test('names a session, its role and when it began', () => {
    const session: Principal = {
      ...root,
      type: 'AssumedRole',
      arn: 'arn:aws:sts::111122223333:assumed-role/Reader/sam',
      principalId: 'AROAX:sam',
      session: {
        roleArn: 'arn:aws:iam::111122223333:role/Reader',
        roleId: 'AROAX',
        roleName: 'Reader',
        sessionName: 'sam',
        issuedAt: 0,
        expiresAt: 1,
      },
    }
    expect(buildRecord(callOf({}, {}, { principal: session }), {}, undefined)['userIdentity']).toMatchObject({
      type: 'AssumedRole',
      principalId: 'AROAX:sam',
      sessionContext: {
        sessionIssuer: {
          type: 'Role',
          principalId: 'AROAX',
          arn: 'arn:aws:iam::111122223333:role/Reader',
          accountId: '111122223333',
          userName: 'Reader',
        },
        attributes: { creationDate: '1970-01-01T00:00:00.000Z', mfaAuthenticated: 'false' },
      },
    })
  })

  test('has its own event id each time', () => {
    const ids = new Set(Array.from({ length: 100 }, () => buildRecord(callOf({}, {}), {}, undefined).eventID))
    expect(ids.size).toBe(100)
  })
})

test('event times are whole seconds in UTC, whichever order they come in', () => {
  for (const [ms, text] of [
    [0, '1970-01-01T00:00:00Z'],
    [1999, '1970-01-01T00:00:01Z'],
    [1000, '1970-01-01T00:00:01Z'],
    [Date.UTC(2026, 11, 31, 23, 59, 59, 999), '2026-12-31T23:59:59Z'],
    [0, '1970-01-01T00:00:00Z'],
  ] as const) {
    expect(eventTime(ms)).toBe(text)
  }
})
