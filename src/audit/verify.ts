/**
 * Verifies a trail, or an export of one, offline: with Node's own crypto and the audit key's public half.
 *
 * Finds every record that was changed, removed, added or moved, and every forged seal, and says where. What it cannot
 * see is said in docs/audit-format.md: records after the last seal rewritten with their hashes, or cut off together with
 * the newest seals. A seal kept elsewhere (`expectedSeal`) closes that.
 */

import { createPublicKey } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import { openAuditLogReadOnly } from '../store/audit-log.ts'
import type { AuditLogReader, StoredRecord, StoredSeal } from '../store/audit-log.ts'
import { chainStart, keyIdOf, recordHash, verifySeal } from './chain.ts'
import { parseExport } from './export.ts'
import type { ExportedSeal } from './export.ts'
import { holds, recordsPerBlock } from './lookup.ts'
import type { AuditRecord } from './trail.ts'

export interface Problem {
  /** The record where it is, or the first of several. */
  readonly sequence: number
  /** The seal's number, when it is about a seal. */
  readonly seal?: number
  readonly what: string
}

export interface TrailVerdict {
  readonly trailId: string
  /** How many records were read. */
  readonly records: number
  readonly firstSequence: number | undefined
  readonly lastSequence: number | undefined
  /** Up to where records were removed on purpose, as a signed statement says; 0 if none were. */
  readonly prunedSequence: number
  /** How many seals verified. */
  readonly seals: number
  /** Up to here the records are as they were sealed. What follows is protected by its hashes alone. */
  readonly sealedSequence: number
  /** The newest seal that verified: to be kept elsewhere and handed in as `expectedSeal` next time. */
  readonly lastSeal: ExportedSeal | undefined
  readonly keys: readonly { readonly keyId: string; readonly pem: string; readonly given: boolean }[]
  /** In the order found; empty when all is well. At most 1,000, the last of them then counts the rest. */
  readonly problems: readonly Problem[]
}

export interface VerifyOptions {
  /** The audit key's public half, PEM, from a source other than the trail; several one after the other. Without it a trail re-signed under another key passes. */
  readonly publicKeyPem?: string
  /** A seal of this trail that was kept elsewhere. */
  readonly expectedSeal?: ExportedSeal
}

/** What there is to verify, wherever it comes from. */
export interface TrailSource {
  readonly trailId: string
  /** SubjectPublicKeyInfo by key id. */
  readonly keys: ReadonlyMap<string, Uint8Array>
  readonly seals: readonly StoredSeal[]
  /** Where the chain begins: after record `sequence`, which had this hash. */
  readonly start: { readonly sequence: number; readonly hash: Uint8Array }
  /** Whether seals must be numbered without a gap. An export leaves some out. */
  readonly allSeals: boolean
  readonly records: AsyncIterable<StoredRecord>
}

const maxProblems = 1000
const recordsPerPage = 1000

/** Verifies a trail's file, which a running service may go on appending to: what is there when it starts is verified. */
export async function verifyTrail(file: string, options: VerifyOptions = {}): Promise<TrailVerdict> {
  const log = openAuditLogReadOnly(file)
  try {
    return await verify(
      {
        trailId: log.trailId,
        keys: new Map(log.keys().map(({ keyId, spki }) => [keyId, spki])),
        seals: log.seals(),
        start: chainStart(log.trailId),
        allSeals: true,
        records: pages(log),
      },
      options,
      (record, text, report) => checkFilter(log, record, text, report),
    )
  } finally {
    log.close()
  }
}

/** Verifies what `exportTrail` wrote. `chunks` may be split anywhere, as a file's stream is. @throws Error on what is no export. */
export async function verifyExport(chunks: AsyncIterable<string>, options: VerifyOptions = {}): Promise<TrailVerdict> {
  return verify(await parseExport(chunks), options)
}

async function* pages(log: AuditLogReader): AsyncGenerator<StoredRecord> {
  let next = log.firstSequence()
  while (next !== undefined) {
    const page: StoredRecord[] = [...log.records(next, Number.MAX_SAFE_INTEGER, recordsPerPage)]
    yield* page
    const last = page.at(-1)
    next = last && page.length === recordsPerPage ? last.sequence + 1 : undefined
    // A service that verifies in its own process must not stand still for it.
    await setImmediate()
  }
}

type Report = (sequence: number, what: string, seal?: number) => void

/** A record that its block's filter denies would be hidden from lookups. */
function checkFilter(log: AuditLogReader, record: StoredRecord, text: string, report: Report): void {
  const block = log.block(Math.floor(record.sequence / recordsPerBlock))
  if (!block) return
  let parsed: AuditRecord
  try {
    parsed = JSON.parse(text) as AuditRecord
    if (!holds(block, parsed)) report(record.sequence, `the lookup filter of its block hides record ${record.sequence}`)
  } catch {
    // No JSON: its hash has said so already.
  }
}

async function verify(
  source: TrailSource,
  options: VerifyOptions,
  alsoCheck?: (record: StoredRecord, text: string, report: Report) => void,
): Promise<TrailVerdict> {
  const problems: Problem[] = []
  let unlisted = 0
  const report: Report = (sequence, what, seal) => {
    if (problems.length < maxProblems - 1) problems.push({ sequence, ...(seal !== undefined && { seal }), what })
    else unlisted++
  }

  const given = options.publicKeyPem === undefined ? undefined : readPublicKeys(options.publicKeyPem)
  const keys = new Map([...source.keys, ...(given ?? [])])
  const own = checkSeals(source, keys, given, report)
  const kept = options.expectedSeal && checkExpected(options.expectedSeal, source.trailId, keys, given, report)
  const known = own.some(({ number, hash }) => number === kept?.number && Buffer.compare(hash, kept.hash) === 0)
  const good = kept && !known ? [...own, kept] : own

  // Where the chain begins: at its start, or after what was removed on purpose.
  const pruned = good.filter(({ kind }) => kind === 'prune').toSorted((a, b) => b.sequence - a.sequence)[0]
  const prunedSequence = pruned && pruned.sequence > source.start.sequence ? pruned.sequence : 0
  const toCompare = new Map<number, StoredSeal[]>()
  for (const seal of good) {
    if (seal.sequence > source.start.sequence) toCompare.set(seal.sequence, [...(toCompare.get(seal.sequence) ?? []), seal])
  }

  let expected = source.start.sequence + 1
  // What the next record may be chained to: the hash stored before it and, if that did not fit, the one computed there.
  let previous: readonly Uint8Array[] | undefined = [source.start.hash]
  let sealedSequence = 0
  let count = 0
  let firstSequence: number | undefined
  let lastSequence: number | undefined

  const compareSeals = (sequence: number, hashes: readonly Uint8Array[]): void => {
    for (const seal of toCompare.get(sequence) ?? []) {
      if (hashes.some((hash) => Buffer.compare(hash, seal.hash) === 0)) sealedSequence = Math.max(sealedSequence, sequence)
      else {
        const from = Math.max(sealedSequence, prunedSequence) + 1
        report(
          from,
          `records ${from} to ${sequence} are not those that seal ${seal.number} covers: some were changed and the hashes made anew`,
          seal.number,
        )
      }
    }
  }
  const skipPruned = (): void => {
    if (!pruned || expected > prunedSequence) return
    expected = prunedSequence + 1
    previous = [pruned.hash]
    compareSeals(prunedSequence, [pruned.hash])
  }

  for await (const record of source.records) {
    const { sequence, hash } = record
    const text: unknown = record.text
    count++
    firstSequence ??= sequence
    lastSequence = sequence
    // Removal goes from the bottom up, so an interrupted one leaves records below the statement, the first without its predecessor.
    if (expected <= prunedSequence && sequence > expected) {
      if (sequence > prunedSequence) skipPruned()
      else {
        expected = sequence
        previous = undefined
      }
    }
    if (sequence > expected) {
      report(expected, sequence - 1 === expected ? `record ${expected} is missing` : `records ${expected} to ${sequence - 1} are missing`)
      previous = undefined
    } else if (sequence < expected) {
      report(sequence, `record ${sequence} stands after record ${expected - 1}`)
      previous = undefined
    }
    const computed: readonly Uint8Array[] | undefined =
      typeof text === 'string' ? previous?.map((before) => recordHash({ sequence: sequence - 1, hash: before }, text)) : []
    const fits: boolean = computed === undefined || computed.some((one) => isHash(hash) && Buffer.compare(one, hash) === 0)
    // A hash made anew for a changed record shows at the next one, and from there nobody can tell the two apart.
    if (!fits)
      report(
        sequence,
        `record ${sequence} was changed, or is not the one that belongs here, or record ${sequence - 1} was changed with its hash`,
      )
    previous = fits ? [hash] : [hash, ...(computed ?? []).slice(0, 1)].filter(isHash)
    compareSeals(sequence, previous)
    if (typeof text === 'string') alsoCheck?.(record, text, report)
    expected = sequence + 1
  }
  skipPruned()

  const covering = good.filter((seal) => seal.sequence >= expected).toSorted((a, b) => b.sequence - a.sequence)[0]
  if (covering)
    report(expected, `records ${expected} to ${covering.sequence} are missing: seal ${covering.number} covers them`, covering.number)
  if (unlisted > 0) problems.push({ sequence: problems.at(-1)?.sequence ?? 0, what: `${unlisted} more problems are not listed` })

  const seals = own.filter(({ kind }) => kind === 'seal')
  const newest = seals.at(-1)
  return {
    trailId: source.trailId,
    records: count,
    firstSequence,
    lastSequence,
    prunedSequence,
    seals: seals.length,
    sealedSequence,
    lastSeal: newest && { ...newest, trailId: source.trailId },
    keys: [...keys].map(([keyId, spki]) => ({ keyId, pem: encodePem(spki), given: given?.has(keyId) ?? false })),
    problems,
  }
}

const isHash = (value: unknown): value is Uint8Array => value instanceof Uint8Array && value.length === 32

/** The seals that verify, in order of their numbers; the others are reported. */
function checkSeals(
  { trailId, seals, allSeals }: TrailSource,
  keys: ReadonlyMap<string, Uint8Array>,
  given: ReadonlyMap<string, Uint8Array> | undefined,
  report: Report,
): StoredSeal[] {
  const good: StoredSeal[] = []
  for (const seal of seals) {
    const fault = sealFault(seal, trailId, keys, given)
    if (fault === undefined) good.push(seal)
    else report(seal.sequence, `seal ${seal.number} at record ${seal.sequence} ${fault}`, seal.number)
  }
  if (allSeals) {
    // Retention removes old seals with their records, so only then may the first one be another than 1.
    let next = good.some(({ kind }) => kind === 'prune') ? (seals[0]?.number ?? 1) : 1
    let sequence = 0
    for (const seal of seals) {
      if (seal.number !== next)
        report(sequence + 1, `${seal.number - 1 === next ? `seal ${next} is` : `seals ${next} to ${seal.number - 1} are`} missing`, next)
      next = seal.number + 1
      sequence = seal.sequence
    }
  }
  return good
}

function checkExpected(
  seal: ExportedSeal,
  trailId: string,
  keys: ReadonlyMap<string, Uint8Array>,
  given: ReadonlyMap<string, Uint8Array> | undefined,
  report: Report,
): ExportedSeal | undefined {
  let fault: string | undefined
  if (seal.trailId !== trailId) fault = `belongs to trail ${seal.trailId} and not to this one, ${trailId}`
  else fault = sealFault(seal, trailId, keys, given)
  if (fault === undefined) return seal
  report(seal.sequence, `the expected seal ${seal.number} ${fault}`, seal.number)
  return undefined
}

function sealFault(
  seal: StoredSeal,
  trailId: string,
  keys: ReadonlyMap<string, Uint8Array>,
  given: ReadonlyMap<string, Uint8Array> | undefined,
): string | undefined {
  const spki = keys.get(seal.keyId)
  if (!spki) return `names a public key that is not there (${seal.keyId})`
  if (keyIdOf(spki) !== seal.keyId) return `names a public key that was changed (${seal.keyId})`
  if (given && !given.has(seal.keyId)) return `was made with a key other than the one given (${seal.keyId})`
  try {
    return verifySeal({ ...seal, trailId }, spki) ? undefined : 'is forged or was changed'
  } catch {
    // A time or a hash that cannot even be written down.
    return 'is forged or was changed'
  }
}

/** Public keys by id, from one or several PEM blocks. @throws Error naming the fault. */
function readPublicKeys(pem: string): ReadonlyMap<string, Uint8Array> {
  const blocks = pem.match(/-----BEGIN PUBLIC KEY-----[^-]+-----END PUBLIC KEY-----/g)
  if (!blocks) throw new Error('No public key in PEM ("-----BEGIN PUBLIC KEY-----") was found')
  return new Map(
    blocks.map((block) => {
      const spki = createPublicKey(block).export({ type: 'spki', format: 'der' })
      return [keyIdOf(spki), spki]
    }),
  )
}

const encodePem = (spki: Uint8Array): string =>
  `-----BEGIN PUBLIC KEY-----\n${(
    Buffer.from(spki)
      .toString('base64')
      .match(/.{1,64}/g) ?? []
  ).join('\n')}\n-----END PUBLIC KEY-----\n`
