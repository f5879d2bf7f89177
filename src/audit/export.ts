/**
 * A trail, or a stretch of one, as lines of JSON that carry their proof along: for archives, log systems and retention.
 *
 * A head line, then the public keys and seals, then the records, each verbatim as it was hashed. Written by
 * `exportTrail`, read back by `parseExport` for `verifyExport`. Reading refuses a line that is not written exactly as
 * it would be here, so that no change of the file goes unseen by being equivalent.
 */

import { setImmediate } from 'node:timers/promises'
import { openAuditLogReadOnly } from '../store/audit-log.ts'
import type { AuditLogReader, StoredKey, StoredRecord, StoredSeal } from '../store/audit-log.ts'
import { chainStart } from './chain.ts'
import { recordsPerBlock } from './lookup.ts'
import type { AuditRecord } from './trail.ts'
import type { TrailSource } from './verify.ts'

/** A seal together with the trail that it belongs to. */
export interface ExportedSeal extends StoredSeal {
  readonly trailId: string
}

/** All bounds inclusive; the records lie between the first and the last that satisfy all that are given. */
export interface ExportRange {
  readonly fromSequence?: number
  readonly toSequence?: number
  /** By eventTime. */
  readonly fromMs?: number
  readonly toMs?: number
}

const recordsPerPage = 1000

/** The export's lines, each with its line feed. */
export async function* exportTrail(file: string, range: ExportRange = {}): AsyncGenerator<string> {
  const log = openAuditLogReadOnly(file)
  try {
    const { from, to } = boundsOf(log, range)
    const [before] = log.records(from - 1, from - 1, 1)
    const start =
      before ?? (from === 1 ? chainStart(log.trailId) : log.seals().find(({ kind, sequence }) => kind === 'prune' && sequence === from - 1))
    if (!start) throw new Error(`the trail ${file} is broken before record ${from}: verify it first`)
    yield encodeHead({ trail: log.trailId, after: from - 1, hash: start.hash })
    for (const key of log.keys()) yield encodeKey(key)
    for (const seal of log.seals()) {
      if (seal.kind === 'seal' && seal.sequence >= from && seal.sequence <= to) yield encodeSeal({ ...seal, trailId: log.trailId })
    }
    for (let next = from; next <= to;) {
      const page: StoredRecord[] = [...log.records(next, to, recordsPerPage)]
      for (const record of page) yield encodeRecord(record)
      next = (page.at(-1)?.sequence ?? to) + 1
      await setImmediate()
    }
  } finally {
    log.close()
  }
}

/** The newest seal, for keeping elsewhere; undefined while there is none. */
export function findLastSeal(file: string): ExportedSeal | undefined {
  const log = openAuditLogReadOnly(file)
  try {
    const seal = log.lastSeal()
    return seal && { ...seal, trailId: log.trailId }
  } finally {
    log.close()
  }
}

function boundsOf(log: AuditLogReader, range: ExportRange): { readonly from: number; readonly to: number } {
  const { fromSequence = 1, toSequence = Number.MAX_SAFE_INTEGER, fromMs = 0, toMs = Number.MAX_SAFE_INTEGER } = range
  const head = log.head()?.sequence ?? 0
  const lowest = Math.max(fromSequence, log.firstSequence() ?? head + 1)
  const highest = Math.min(toSequence, head)
  if (range.fromMs === undefined && range.toMs === undefined) return { from: lowest, to: highest }
  const inTime = (text: string): boolean => {
    const timeMs = Date.parse((JSON.parse(text) as AuditRecord).eventTime)
    return timeMs >= fromMs && timeMs <= toMs
  }
  let from: number | undefined
  let to = lowest - 1
  // Blocks know their times; only those in which the stretch may begin or end are read.
  for (let number = Math.floor(lowest / recordsPerBlock); number <= Math.floor(highest / recordsPerBlock); number++) {
    const block = log.block(number)
    if (block && (block.maxMs < fromMs || block.minMs > toMs)) continue
    for (const { sequence, text } of log.records(
      Math.max(lowest, number * recordsPerBlock),
      Math.min(highest, (number + 1) * recordsPerBlock - 1),
    )) {
      if (!inTime(text)) continue
      from ??= sequence
      to = sequence
    }
  }
  return { from: from ?? lowest, to: from === undefined ? lowest - 1 : to }
}

// --- Lines

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')

const encodeHead = ({ trail, after, hash }: { readonly trail: string; readonly after: number; readonly hash: Uint8Array }): string =>
  `${JSON.stringify({ holdfastAuditExport: 1, trail, after, hash: hex(hash) })}\n`

const encodeKey = ({ keyId, spki }: StoredKey): string => `${JSON.stringify({ publicKey: { keyId, spki: base64(spki) } })}\n`

/** One seal as one line of JSON: in exports, and to be kept elsewhere. */
export const encodeSeal = ({ trailId, number, kind, sequence, hash, timeMs, keyId, algorithm, signature }: ExportedSeal): string =>
  `${JSON.stringify({ seal: { trail: trailId, number, kind, sequence, hash: hex(hash), time: new Date(timeMs).toISOString(), key: keyId, algorithm, signature: base64(signature) } })}\n`

const encodeRecord = ({ sequence, hash, text }: StoredRecord): string => `{"sequence":${sequence},"hash":"${hex(hash)}","record":${text}}\n`

const recordLine = /^\{"sequence":([1-9][0-9]*),"hash":"([0-9a-f]{64})","record":(.*)\}$/s

class NotAnExport extends Error {
  override readonly name = 'NotAnExport'
}

/** Refuses a line that says the same in another way than `written` does. */
function exactly<T>(line: string, value: T, written: string): T {
  if (`${line}\n` !== written) throw new NotAnExport(`the line ${JSON.stringify(line.slice(0, 80))} is not as an export has it`)
  return value
}

function parseLine(line: string): Record<string, unknown> {
  try {
    return Object(JSON.parse(line)) as Record<string, unknown>
  } catch {
    throw new NotAnExport(`the line ${JSON.stringify(line.slice(0, 80))} is not JSON`)
  }
}

/** A seal from its line. @throws NotAnExport */
export function parseSeal(line: string): ExportedSeal {
  const fields = Object(parseLine(line)['seal']) as Record<string, unknown>
  const seal = {
    trailId: String(fields['trail']),
    number: Number(fields['number']),
    kind: fields['kind'] === 'prune' ? ('prune' as const) : ('seal' as const),
    sequence: Number(fields['sequence']),
    hash: Buffer.from(String(fields['hash']), 'hex'),
    timeMs: Date.parse(String(fields['time'])),
    keyId: String(fields['key']),
    algorithm: String(fields['algorithm']),
    signature: Buffer.from(String(fields['signature']), 'base64'),
  }
  if (Number.isNaN(seal.timeMs)) throw new NotAnExport('the seal has no time')
  return exactly(line, seal, encodeSeal(seal))
}

function parseHead(line: string): { readonly trail: string; readonly after: number; readonly hash: Uint8Array } {
  const fields = parseLine(line)
  if (fields['holdfastAuditExport'] !== 1) throw new NotAnExport('the first line is not the head of an audit export')
  const head = { trail: String(fields['trail']), after: Number(fields['after']), hash: Buffer.from(String(fields['hash']), 'hex') }
  return exactly(line, head, encodeHead(head))
}

function parseKey(line: string): StoredKey {
  const fields = Object(parseLine(line)['publicKey']) as Record<string, unknown>
  const key = { keyId: String(fields['keyId']), spki: Buffer.from(String(fields['spki']), 'base64') }
  return exactly(line, key, encodeKey(key))
}

/** Reads an export's front matter and answers it with the records still to come. @throws NotAnExport */
export async function parseExport(chunks: AsyncIterable<string>): Promise<TrailSource> {
  const lines = linesOf(chunks)
  const next = async (): Promise<string | undefined> => {
    const { value, done } = await lines.next()
    return done ? undefined : value
  }
  const { trail: trailId, after: sequence, hash } = parseHead((await next()) ?? '')
  const keys = new Map<string, Uint8Array>()
  const seals: StoredSeal[] = []
  let line = await next()
  for (; line !== undefined && !recordLine.test(line); line = await next()) {
    if (line.startsWith('{"publicKey":')) {
      const { keyId, spki } = parseKey(line)
      keys.set(keyId, spki)
    } else {
      const seal = parseSeal(line)
      if (seal.trailId !== trailId) throw new NotAnExport(`seal ${seal.number} belongs to another trail`)
      seals.push(seal)
    }
  }
  return { trailId, keys, seals, start: { sequence, hash }, allSeals: false, records: recordsOf(line, lines) }
}

async function* recordsOf(first: string | undefined, rest: AsyncGenerator<string>): AsyncGenerator<StoredRecord> {
  if (first !== undefined) yield parseRecord(first)
  for await (const line of rest) yield parseRecord(line)
}

function parseRecord(line: string): StoredRecord {
  const [, sequence, hash, text] = recordLine.exec(line) ?? []
  if (sequence === undefined || hash === undefined || text === undefined) {
    throw new NotAnExport(`the line ${JSON.stringify(line.slice(0, 80))} is not a record of an export`)
  }
  return { sequence: Number(sequence), hash: Buffer.from(hash, 'hex'), text }
}

async function* linesOf(chunks: AsyncIterable<string>): AsyncGenerator<string> {
  let rest = ''
  for await (const chunk of chunks) {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    yield* lines
  }
  if (rest !== '') throw new NotAnExport('the last line is cut off')
}
