/**
 * How a lookup finds records without an index on the append path.
 *
 * Records are filed by number in blocks of 1024. For a full block a filter (Bloom, 1/1000 false alarms) holds every
 * attribute value that occurs in it, and the block's earliest and latest event time. A lookup walks blocks from the
 * newest down, skips those that cannot match and reads the rest. An index per attribute was measured at 2 to 11 µs of
 * CPU per appended record; this costs 4, later, in a thread that nobody waits for.
 */

import type { AuditLog, AuditLogReader, StoredBlock } from '../store/audit-log.ts'
import { sha256 } from './chain.ts'
import type { AuditRecord, LookupPage, LookupQuery } from './trail.ts'

type AttributeName = NonNullable<LookupQuery['attribute']>['name']

export const recordsPerBlock = 1024

/** A lookup answers what it has after reading this many records, so that a rare value cannot hold the thread. */
const recordsPerLookup = 50_000

/** Block n holds the records n·1024 … n·1024+1023. */
const blockOf = (sequence: number): number => Math.floor(sequence / recordsPerBlock)

interface UserIdentity {
  readonly type?: unknown
  readonly userName?: unknown
  readonly arn?: unknown
  readonly accessKeyId?: unknown
}

/** CloudTrail's Username: a user's name, `root`, or the session's name of an assumed role. */
export function usernameOf(record: AuditRecord): string | undefined {
  const identity = record['userIdentity'] as UserIdentity | undefined
  if (typeof identity?.userName === 'string') return identity.userName
  if (identity?.type === 'Root') return 'root'
  // arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION
  if (identity?.type === 'AssumedRole' && typeof identity.arn === 'string') return identity.arn.slice(identity.arn.lastIndexOf('/') + 1)
  return undefined
}

/** A record's values of each attribute. */
const valuesOf: Readonly<Record<AttributeName, (record: AuditRecord) => readonly unknown[]>> = {
  EventId: (record) => [record.eventID],
  EventName: (record) => [record.eventName],
  EventSource: (record) => [record.eventSource],
  ReadOnly: (record) => [String(record.readOnly)],
  Username: (record) => [usernameOf(record)],
  AccessKeyId: (record) => [(record['userIdentity'] as UserIdentity | undefined)?.accessKeyId],
  ResourceName: (record) => resourcesOf(record).map(({ ARN }) => ARN),
  ResourceType: (record) => resourcesOf(record).map(({ type }) => type),
}

const resourcesOf = (record: AuditRecord): readonly { readonly ARN?: unknown; readonly type?: unknown }[] =>
  Array.isArray(record['resources']) ? record['resources'] : []

// --- Filters

const probes = 10
/** With 10 probes and 15 bits per value one absent value in about a thousand seems present. */
const bitsPerValue = 15

/** What the filter holds per record: its scope alone, and each attribute's values within that scope. */
function tokensOf(record: AuditRecord): readonly string[] {
  const scope = scopeToken(record.recipientAccountId, record.awsRegion)
  const tokens = [scope]
  for (const [name, values] of Object.entries(valuesOf)) {
    for (const value of values(record)) if (typeof value === 'string') tokens.push(attributeToken(scope, name, value))
  }
  return tokens
}
const scopeToken = (accountId: string, region: string): string => `${accountId}\n${region}`
const attributeToken = (scope: string, name: string, value: string): string => `${scope}\n${name}\n${value}`

/** The same places at every call: they are handed out in one array. */
function bitsOf(token: string, bits: number): Float64Array {
  const digest = sha256(Buffer.from(token))
  const first = digest.readUInt32LE(0)
  const second = (digest.readUInt32LE(4) | 1) >>> 0
  for (let i = 0; i < probes; i++) places[i] = ((first + i * second) % 2 ** 32) % bits
  return places
}
const places = new Float64Array(probes)

function encodeFilter(tokens: ReadonlySet<string>): Buffer {
  const filter = Buffer.alloc(Math.max(8, Math.ceil((tokens.size * bitsPerValue) / 8)))
  for (const token of tokens) {
    for (const bit of bitsOf(token, filter.length * 8)) filter[bit >>> 3] = (filter[bit >>> 3] ?? 0) | (1 << (bit & 7))
  }
  return filter
}

function mayHold(filter: Uint8Array, token: string): boolean {
  for (const bit of bitsOf(token, filter.length * 8)) if (!((filter[bit >>> 3] ?? 0) & (1 << (bit & 7)))) return false
  return true
}

/** Whether lookups find the record in a block that is summed up like this. */
export function holds(block: StoredBlock, record: AuditRecord): boolean {
  const timeMs = Date.parse(record.eventTime)
  return !(timeMs < block.minMs || timeMs > block.maxMs) && tokensOf(record).every((token) => mayHold(block.filter, token))
}

/**
 * A record's text without what differs between the calls of one second that are alike: what was asked, what was answered, and the two ids. Undefined
 * where the text has not the order in which this program writes it.
 */
function outlineOf(text: string): { readonly rest: string; readonly eventId: string } | undefined {
  const from = text.indexOf(',"requestParameters":')
  const to = text.lastIndexOf(',"readOnly":')
  if (from < 0 || to < from) return undefined
  const [, eventId] = lastMemberIsId.exec(text.slice(Math.max(from, to - 64), to)) ?? []
  // Resources are members of the record's end; a caller's own word for something of the middle is none.
  if (eventId === undefined || text.includes('"resources":', from) !== text.includes('"resources":', to)) return undefined
  return { rest: text.slice(0, from) + text.slice(to), eventId }
}
const lastMemberIsId = /,"eventID":"([0-9a-f-]{36})"$/

/** Whether all that lookups go by, but for the event's id, is in what `outlineOf` left. */
function tellsAll(rest: string): boolean {
  try {
    const record = JSON.parse(rest) as object
    return attributeMembers.every((member) => Object.hasOwn(record, member))
  } catch {
    return false
  }
}
const attributeMembers = ['userIdentity', 'eventTime', 'eventSource', 'eventName', 'awsRegion', 'readOnly', 'recipientAccountId']

/** The filter and the times of a block's records. Exported for its tests. */
export function summarise(log: Pick<AuditLogReader, 'recordsDown'>, number: number): StoredBlock {
  const tokens = new Set<string>()
  // The scope of each outline: a record like one before adds nothing but its id, and need not be parsed.
  const scopes = new Map<string, string>()
  let minMs = Number.MAX_SAFE_INTEGER
  let maxMs = 0
  for (const { text } of log.recordsDown(number * recordsPerBlock, (number + 1) * recordsPerBlock - 1)) {
    const outline = outlineOf(text)
    const known = outline && scopes.get(outline.rest)
    if (known !== undefined) {
      tokens.add(attributeToken(known, 'EventId', outline?.eventId ?? ''))
      continue
    }
    const record = JSON.parse(text) as AuditRecord
    const timeMs = Date.parse(record.eventTime)
    // A time that cannot be read must not hide its block.
    minMs = Math.min(minMs, Number.isNaN(timeMs) ? 0 : timeMs)
    maxMs = Math.max(maxMs, Number.isNaN(timeMs) ? Number.MAX_SAFE_INTEGER : timeMs)
    for (const token of tokensOf(record)) tokens.add(token)
    if (outline && tellsAll(outline.rest)) scopes.set(outline.rest, scopeToken(record.recipientAccountId, record.awsRegion))
  }
  return { number, minMs, maxMs, filter: encodeFilter(tokens) }
}

/** Up to which block all have a filter: blocks are added at the end and go at the beginning, so no gap comes after. */
const filedTo = new WeakMap<AuditLog, number>()

/** Files up to `limit` full blocks that have no filter yet, newest first; answers how many. */
export function fileBlocks(log: AuditLog, limit: number): number {
  const head = log.head()
  const first = log.firstSequence()
  if (!head || first === undefined) return 0
  const newest = blockOf(head.sequence + 1) - 1
  const oldest = Math.max(blockOf(first), (filedTo.get(log) ?? -1) + 1)
  let filed = 0
  for (let number = newest; number >= oldest; number--) {
    if (log.block(number)) continue
    if (filed === limit) return filed
    log.insertBlock(summarise(log, number))
    filed++
  }
  filedTo.set(log, newest)
  return filed
}

// --- Lookups

export function lookup(log: AuditLogReader, query: LookupQuery): LookupPage {
  return log.snapshot(() => lookupOn(log, query))
}

function lookupOn(log: AuditLogReader, query: LookupQuery): LookupPage {
  const { accountId, region, attribute, startMs = 0, endMs = Number.MAX_SAFE_INTEGER, before = Number.MAX_SAFE_INTEGER, limit } = query
  const events: { readonly sequence: number; readonly record: AuditRecord }[] = []
  const first = log.firstSequence()
  const top = Math.min(before - 1, log.head()?.sequence ?? 0)
  if (first === undefined) return { events, next: undefined }

  const scope = scopeToken(accountId, region)
  const token = attribute ? attributeToken(scope, attribute.name, attribute.value) : scope
  // A record that does not contain the value as JSON writes it need not be parsed. ReadOnly is not a string there.
  const written =
    attribute && attribute.name !== 'ReadOnly' && attribute.value !== 'root' ? JSON.stringify(attribute.value).slice(1, -1) : ''
  const matches = (record: AuditRecord): boolean => {
    if (record.recipientAccountId !== accountId || record.awsRegion !== region) return false
    const timeMs = Date.parse(record.eventTime)
    if (timeMs < startMs || timeMs > endMs) return false
    return !attribute || valuesOf[attribute.name](record).includes(attribute.value)
  }

  let read = 0
  for (let number = blockOf(top); number >= blockOf(first); number--) {
    const block = log.block(number)
    if (block && (block.maxMs < startMs || block.minMs > endMs || !mayHold(block.filter, token))) continue
    for (const { sequence, text } of log.recordsDown(number * recordsPerBlock, Math.min(top, (number + 1) * recordsPerBlock - 1))) {
      read++
      if (!text.includes(written)) continue
      const record = JSON.parse(text) as AuditRecord
      if (!matches(record)) continue
      // One more than asked for is how we know that there is a next page.
      if (events.length === limit) return { events, next: events.at(-1)?.sequence }
      events.push({ sequence, record })
    }
    if (read >= recordsPerLookup && number > blockOf(first)) return { events, next: number * recordsPerBlock }
  }
  return { events, next: undefined }
}
