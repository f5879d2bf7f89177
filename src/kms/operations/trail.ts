/** CloudTrail's LookupEvents, answered from the audit trail. API version 2013-11-01. */

import { usernameOf } from '../../audit/lookup.ts'
import type { AuditRecord, LookupQuery } from '../../audit/trail.ts'
import { kmsError } from '../errors.ts'
import { seconds } from '../metadata.ts'
import { operation, type Call } from '../operation.ts'
import { integer, list, oneOf, optional, string, structure, timestamp } from '../shape.ts'

const attributeKeys = [
  'EventId',
  'EventName',
  'ReadOnly',
  'Username',
  'ResourceType',
  'ResourceName',
  'EventSource',
  'AccessKeyId',
] as const

/** CloudTrail's, and what it answers where it is not told. */
const maxResults = 50

function readToken(call: Call, token: string | undefined): number | undefined {
  if (token === undefined) return undefined
  const [name, before] = Buffer.from(token, 'base64').toString().split('/')
  if (name !== call.operation.name || !/^[0-9]{1,15}$/.test(before ?? '')) throw kmsError('InvalidNextTokenException', 'Invalid token.')
  return Number(before)
}

interface Shown {
  readonly userIdentity?: { readonly accessKeyId?: string }
  readonly resources?: readonly { readonly type: string; readonly ARN: string }[]
}

function event(record: AuditRecord): Readonly<Record<string, unknown>> {
  const { userIdentity = {}, resources = [] } = record as Shown
  return {
    EventId: record.eventID,
    EventName: record.eventName,
    ReadOnly: String(record.readOnly),
    AccessKeyId: userIdentity.accessKeyId,
    EventTime: seconds(Date.parse(record.eventTime)),
    EventSource: record.eventSource,
    Username: usernameOf(record),
    Resources: resources.map(({ type, ARN }) => ({ ResourceType: type, ResourceName: ARN })),
    CloudTrailEvent: JSON.stringify(record),
  }
}

export const LookupEvents = operation({
  input: {
    LookupAttributes: optional(list(structure({ AttributeKey: oneOf(...attributeKeys), AttributeValue: string({ min: 1, max: 2000 }) }))),
    StartTime: optional(timestamp),
    EndTime: optional(timestamp),
    EventCategory: optional(oneOf('insight')),
    // Its bounds have an error of their own.
    MaxResults: optional(integer()),
    NextToken: optional(string()),
  },
  output: ['Events', 'NextToken'],
  resources: () => ['*'],
  readOnly: true,
  async run(call, input) {
    const attributes = input.LookupAttributes ?? []
    if (attributes.length > 1) throw kmsError('InvalidLookupAttributesException', 'You can specify only one lookup attribute.')
    const limit = input.MaxResults ?? maxResults
    if (limit < 1 || limit > maxResults) {
      throw kmsError(
        'InvalidMaxResultsException',
        `A max results value of ${limit} is invalid. Specify max results between 1 and ${maxResults}.`,
      )
    }
    if (input.StartTime !== undefined && input.EndTime !== undefined && input.StartTime > input.EndTime) {
      throw kmsError('InvalidTimeRangeException', 'The start time must not be later than the end time.')
    }
    // There are no Insights events here; a lookup of them finds none.
    if (input.EventCategory !== undefined) return { Events: [] }
    const [attribute] = attributes
    const query: LookupQuery = {
      accountId: call.principal.accountId,
      region: call.region,
      limit,
      ...(attribute && { attribute: { name: attribute.AttributeKey, value: attribute.AttributeValue } }),
      ...(input.StartTime !== undefined && { startMs: input.StartTime }),
      ...(input.EndTime !== undefined && { endMs: input.EndTime }),
    }
    const before = readToken(call, input.NextToken)
    const found = await call.service.trail.lookup(before === undefined ? query : { ...query, before })
    return {
      Events: found.events.map(({ record }) => event(record)),
      ...(found.next !== undefined && { NextToken: Buffer.from(`${call.operation.name}/${found.next}`).toString('base64') }),
    }
  },
})
