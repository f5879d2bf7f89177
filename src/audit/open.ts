/**
 * Opens the audit trail.
 *
 * Group commit: records that arrive while commits are under way form the next batch, so the number of fsyncs follows the
 * disk and not the load. A second batch is handed over while the first is being committed, once it is worth it: the append
 * thread then goes on without this thread, whose turns take longer than a commit. On this thread a record costs its
 * serialisation; hashing and SQL are the append thread's.
 * Appending refuses when too much waits: a trail that cannot keep up must stop the calls it is to record.
 */

import { randomBytes } from 'node:crypto'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { StoredSeal } from '../store/audit-log.ts'
import { openThread } from '../store/worker.ts'
import { encodeSealStatement, keyIdOf, sha256, verifySeal } from './chain.ts'
import type { ChainHead, SealStatement } from './chain.ts'
import type { AuditRecord, LookupPage, Trail } from './trail.ts'
import type { TrailRequest, TrailState, TrailThreadData } from './worker.ts'

export interface TrailOptions {
  /** The SQLite file; made with its directory if missing. */
  readonly file: string
  readonly clock: Clock
  /** Signs a SHA-256 digest with the audit key in the HSM; an ECDSA signature is DER (RFC 3279). */
  readonly sign: (digest: Uint8Array) => Promise<{ readonly algorithm: string; readonly signature: Uint8Array }>
  /** The audit key's SubjectPublicKeyInfo, DER. Asked for once, at the first seal. */
  readonly publicKey: () => Promise<Uint8Array>
  readonly log?: Log
  /** The longest that records stay unsealed while the HSM answers. 60 s unless told. */
  readonly sealEveryMs?: number
  /** Seals earlier when this many records wait for it. 10,000 unless told. */
  readonly sealEveryRecords?: number
  /** Records that may wait to become durable before `append` refuses. 20,000 unless told. */
  readonly maxPending?: number
  /** Hears of every commit: how many records, and how long from hand-over to durable. */
  readonly onCommit?: (records: number, seconds: number) => void
}

interface Batch {
  readonly texts: string[]
  /** Shared by all appends of the batch: they become durable together or not at all. */
  readonly durable: Promise<void>
  readonly resolve: () => void
  readonly reject: (error: Error) => void
}

/** A transaction longer than this would keep the next batch waiting for nothing. */
const recordsPerCommit = 1000
const maxCommitsUnderWay = 2
/** A commit costs as much as some dozen records, most of it in waking threads: fewer wait until none is under way. */
const recordsWorthACommit = 8
const blocksPerRound = 4
const recordsPerRemoval = 2000

export async function openTrail(options: TrailOptions): Promise<Trail> {
  const { file, clock, log, sealEveryMs = 60_000, sealEveryRecords = 10_000, maxPending = 20_000, onCommit } = options
  const program = new URL('./worker.ts', import.meta.url)
  const data: TrailThreadData = { file, trailId: randomBytes(16).toString('hex'), nowMs: clock.now() }
  const appender = await openThread<TrailRequest>(program, data, `the audit trail ${file}`)
  // Second, because the first makes the file, and not waited for: nothing needs it before the first call is answered.
  const reading = openThread<TrailRequest>(program, data, `the audit trail ${file}`)
  reading.catch((error: unknown) => log?.error({ err: error }, 'audit trail cannot be read; lookups and retention fail'))
  const askReader = async (request: TrailRequest): Promise<unknown> => (await reading).call(request)
  const stateNow = async (): Promise<TrailState> => (await appender.call({ kind: 'state' })) as TrailState

  // --- Appending

  let pending = 0
  let queue: Batch[] = []
  let underWay = 0
  let scheduled = false
  let closing = false
  let unsealed = 0

  const newBatch = (): Batch => {
    let resolve!: () => void
    let reject!: (error: Error) => void
    const durable = new Promise<void>((yes, no) => {
      resolve = yes
      reject = no
    })
    return { texts: [], durable, resolve, reject }
  }
  const commitNext = (): void => {
    scheduled = false
    const batch = queue[0]
    if (!batch || underWay === maxCommitsUnderWay || (underWay > 0 && batch.texts.length < recordsWorthACommit)) return
    queue = queue.slice(1)
    underWay++
    const startedAt = performance.now()
    const count = batch.texts.length
    const settle = (): void => {
      pending -= count
      underWay--
      commitNext()
    }
    const committed = (): void => {
      onCommit?.(count, (performance.now() - startedAt) / 1000)
      unsealed += count
      batch.resolve()
      settle()
      if (unsealed >= sealEveryRecords) sealSoon()
    }
    const failed = (error: Error): void => {
      log?.error({ err: error, records: count }, 'audit records not written; their calls fail')
      batch.reject(error)
      settle()
    }
    appender.call({ kind: 'append', texts: batch.texts }).then(committed, failed)
  }

  // --- Sealing

  let publicKey: Promise<Uint8Array> | undefined
  const getPublicKey = (): Promise<Uint8Array> => {
    publicKey ??= options.publicKey().catch((error: unknown) => {
      publicKey = undefined
      throw error
    })
    return publicKey
  }

  /** Signs and stores one statement; false when another process took its number first. */
  const makeSeal = async (kind: 'seal' | 'prune', { trailId, lastNumber }: TrailState, { sequence, hash }: ChainHead): Promise<boolean> => {
    const spki = await getPublicKey()
    const keyId = keyIdOf(spki)
    const statement: SealStatement = { trailId, number: lastNumber + 1, kind, sequence, hash, timeMs: clock.now(), keyId }
    const { algorithm, signature } = await options.sign(sha256(Buffer.from(encodeSealStatement(statement))))
    // A signature that nobody could verify must not look like protection.
    if (!verifySeal({ ...statement, algorithm, signature }, spki))
      throw new Error('the signature made by the HSM does not verify under its public key')
    const { number, timeMs } = statement
    const seal: StoredSeal = { number, kind, sequence, hash, timeMs, keyId, algorithm, signature }
    return (await appender.call({ kind: 'insert-seal', seal, key: { keyId, spki } })) as boolean
  }

  const sealOnce = async (): Promise<void> => {
    for (;;) {
      const state = await stateNow()
      if (state.head.sequence <= state.sealedSequence) break
      unsealed = 0
      if (await makeSeal('seal', state, state.head)) break
    }
    // Behind the seal, because it may take long after a burst and nothing waits for it.
    let filed = blocksPerRound
    while (filed === blocksPerRound) filed = closing ? 0 : ((await askReader({ kind: 'file-blocks', limit: blocksPerRound })) as number)
  }
  /** The seal under way, or the last one: one is made at a time. */
  let sealing = Promise.resolve()
  const seal = (): Promise<void> => {
    const before = Promise.allSettled([sealing, ...queue.map(({ durable }) => durable)])
    const done = before.then(sealOnce)
    sealing = done.catch(() => undefined)
    return done
  }
  let sealQueued = false
  const sealSoon = (): void => {
    if (sealQueued || closing) return
    sealQueued = true
    seal()
      .catch((error: unknown) => log?.error({ err: error }, 'audit trail not sealed; tried again at the next interval'))
      .finally(() => (sealQueued = false))
  }
  const timer = setInterval(sealSoon, sealEveryMs).unref()

  let closed: Promise<void> | undefined
  const close = async (): Promise<void> => {
    closing = true
    clearInterval(timer)
    await seal().catch((error: unknown) => log?.error({ err: error }, 'audit trail not sealed at close; the next start seals it'))
    await appender.close()
    const reader = await reading.catch(() => undefined)
    await reader?.close()
  }

  return {
    append(record: AuditRecord) {
      if (closing) return Promise.reject(new Error('the audit trail is closed'))
      if (pending >= maxPending) return Promise.reject(new Error(`the audit trail is ${pending} records behind and takes no more`))
      const text = JSON.stringify(record)
      let batch = queue.at(-1)
      if (!batch || batch.texts.length >= recordsPerCommit) queue.push((batch = newBatch()))
      batch.texts.push(text)
      pending++
      // After what else this turn brings: calls that end together are committed together.
      if (!scheduled && underWay < maxCommitsUnderWay) {
        scheduled = true
        setImmediate(commitNext)
      }
      return batch.durable
    },
    lookup: async (query) => (await askReader({ kind: 'lookup', query })) as LookupPage,
    pending: () => pending,
    async sealed() {
      const { head, sealedSequence, sealedAtMs } = (await askReader({ kind: 'state' })) as TrailState
      return { unsealed: Math.max(0, head.sequence - sealedSequence), lastSealMs: sealedAtMs }
    },
    seal,
    async prune(beforeMs) {
      const state = await stateNow()
      const upTo = (await askReader({ kind: 'seal-at', timeMs: beforeMs - 1 })) as StoredSeal | undefined
      if (!upTo || state.firstSequence === undefined || upTo.sequence < state.firstSequence)
        return { records: 0, sequence: (state.firstSequence ?? state.head.sequence + 1) - 1 }
      // The signed statement comes first: a stop between the two leaves records that could go, never a gap without its reason.
      while (!(await makeSeal('prune', await stateNow(), upTo)));
      let records = 0
      for (;;) {
        const removed = (await askReader({ kind: 'remove', sequence: upTo.sequence, limit: recordsPerRemoval })) as number
        records += removed
        if (removed < recordsPerRemoval) return { records, sequence: upTo.sequence }
      }
    },
    close: () => (closed ??= close()),
  }
}
