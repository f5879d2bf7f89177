/** What a block's row says of its records: the same whether a record is read as a whole or known from one like it. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { holds, recordsPerBlock, summarise } from '../../src/audit/lookup.ts'
import type { AuditRecord } from '../../src/audit/trail.ts'

/** Names that could be taken for a record's own, and text that looks like its members. */
const word = fc.oneof(
  fc.constantFrom('resources', 'readOnly', 'eventID', 'requestParameters', 'recipientAccountId', 'a', 'é', '\\', '"'),
  fc.constantFrom(',"readOnly":', ',"requestParameters":', '"resources":[', ',"eventID":"00000000-0000-4000-8000-000000000000"'),
  fc.string({ maxLength: 8 }),
)
const words = fc.dictionary(word, word, { maxKeys: 4, noNullPrototype: true })
const few = <T>(...values: readonly T[]) => fc.constantFrom(...values)

const record: fc.Arbitrary<AuditRecord> = fc
  .record({
    userName: few('alice', 'bob', ',"readOnly":'),
    eventTime: few('2031-05-01T12:00:00Z', '2031-05-01T12:00:01Z', 'never'),
    eventName: few('Encrypt', 'Decrypt'),
    awsRegion: few('us-east-1', 'eu-west-1'),
    error: fc.option(word, { nil: undefined }),
    asked: fc.oneof(words, fc.constant(null), fc.record({ encryptionContext: words })),
    note: fc.option(words, { nil: undefined }),
    eventID: fc.oneof(fc.uuid(), word),
    readOnly: fc.boolean(),
    arn: few('arn:1', 'arn:2', undefined),
    host: fc.option(word, { nil: undefined }),
  })
  .map(({ userName, eventTime, eventName, awsRegion, error, asked, note, eventID, readOnly, arn, host }) => ({
    eventVersion: '1.11',
    userIdentity: { type: 'IAMUser', userName, accessKeyId: `AKIA${userName}` },
    eventTime,
    eventSource: 'kms.amazonaws.com',
    eventName,
    awsRegion,
    ...(error !== undefined && { errorCode: 'E', errorMessage: error }),
    requestParameters: asked,
    responseElements: null,
    ...(note && { additionalEventData: note }),
    requestID: 'r',
    eventID,
    readOnly,
    ...(arn !== undefined && { resources: [{ accountId: '1', type: 'AWS::KMS::Key', ARN: arn }] }),
    recipientAccountId: '111122223333',
    ...(host !== undefined && { tlsDetails: { clientProvidedHostHeader: host } }),
  }))

const logOf = (records: readonly AuditRecord[]) => ({
  recordsDown: (from: number, to: number) =>
    records
      .map((each, at) => ({ sequence: recordsPerBlock + at, text: JSON.stringify(each) }))
      .filter(({ sequence }) => sequence >= from && sequence <= to)
      .reverse()
      .values() as IterableIterator<{ readonly sequence: number; readonly text: string }>,
})

describe('a block of records', () => {
  it('says the same of records in the order in which they are written and in any other', () => {
    fc.assert(
      fc.property(fc.array(record, { minLength: 1, maxLength: 30 }), (records) => {
        const block = summarise(logOf(records), 1)
        // With its last member first a record is read as a whole.
        const whole = summarise(logOf(records.map(({ requestParameters, ...rest }) => ({ ...rest, requestParameters }))), 1)
        expect(block).toEqual(whole)
        for (const each of records) expect(holds(block, each)).toBe(true)
      }),
      { numRuns: 1000 },
    )
  })

  it('holds every id of many records that are alike', () => {
    const [one] = fc.sample(record, { numRuns: 1, seed: 1 })
    const ids = fc.sample(fc.uuid(), { numRuns: 500, seed: 2 })
    const records = ids.map((eventID) => ({ ...one, eventID }) as AuditRecord)
    const block = summarise(logOf(records), 1)
    for (const each of records) expect(holds(block, each)).toBe(true)
  })
})
