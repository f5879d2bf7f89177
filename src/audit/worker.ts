/**
 * A thread of the trail: owns one connection to its file and does what it is asked, one thing after the other.
 *
 * The trail runs two of them: one appends and seals, so that nothing stands between a record and its commit; the other
 * answers lookups, files blocks and removes what retention lets go.
 */

import { parentPort, workerData } from 'node:worker_threads'
import { openAuditLog } from '../store/audit-log.ts'
import type { AuditLog, StoredKey, StoredSeal } from '../store/audit-log.ts'
import type { ThreadCall, ThreadWord } from '../store/worker.ts'
import { chainStart, recordHash } from './chain.ts'
import type { ChainHead } from './chain.ts'
import { fileBlocks, lookup, recordsPerBlock } from './lookup.ts'
import type { LookupQuery } from './trail.ts'

export type TrailRequest =
  /** Answers the head's sequence number when all are durable. */
  | { readonly kind: 'append'; readonly texts: readonly string[] }
  /** Answers TrailState. */
  | { readonly kind: 'state' }
  /** Answers the newest seal made at or before the time, or undefined. */
  | { readonly kind: 'seal-at'; readonly timeMs: number }
  /** Answers whether it was inserted. */
  | { readonly kind: 'insert-seal'; readonly seal: StoredSeal; readonly key: StoredKey }
  /** Answers a LookupPage. */
  | { readonly kind: 'lookup'; readonly query: LookupQuery }
  /** Files some blocks; answers how many. */
  | { readonly kind: 'file-blocks'; readonly limit: number }
  /** Removes some records; answers how many. */
  | { readonly kind: 'remove'; readonly sequence: number; readonly limit: number }

export interface TrailState {
  readonly trailId: string
  readonly head: ChainHead
  readonly firstSequence: number | undefined
  /** The highest number of a seal of either kind; 0 when there is none. */
  readonly lastNumber: number
  /** Up to where a `seal` reaches; 0 when there is none. */
  readonly sealedSequence: number
  /** When that seal was made. */
  readonly sealedAtMs: number | undefined
}

export interface TrailThreadData {
  readonly file: string
  readonly trailId: string
  readonly nowMs: number
}

function serve(log: AuditLog, request: TrailRequest): unknown {
  const start = chainStart(log.trailId)
  switch (request.kind) {
    case 'append':
      return log.append(request.texts, (previous, text) => recordHash(previous ?? start, text)).sequence
    case 'state': {
      const last = log.lastSeal()
      return {
        trailId: log.trailId,
        head: log.head() ?? start,
        firstSequence: log.firstSequence(),
        lastNumber: log.lastNumber(),
        sealedSequence: last?.sequence ?? 0,
        sealedAtMs: last?.timeMs,
      } satisfies TrailState
    }
    case 'seal-at':
      return log.sealAt(request.timeMs)
    case 'insert-seal':
      return log.insertSeal(request.seal, request.key)
    case 'lookup':
      return lookup(log, request.query)
    case 'file-blocks':
      return fileBlocks(log, request.limit)
    case 'remove':
      break
  }
  return log.removeRecords(request.sequence, request.limit, recordsPerBlock)
}

const port = parentPort
if (!port) throw new Error('worker.ts runs as a worker thread only')
const say = (word: ThreadWord): void => port.postMessage(word)

try {
  const { file, trailId, nowMs } = workerData as TrailThreadData
  const log = openAuditLog(file, { trailId, nowMs })
  port.on('message', ({ id, request }: ThreadCall<TrailRequest>) => {
    if (!request) {
      log.close()
      port.close()
      return
    }
    try {
      say({ id, answer: serve(log, request) })
    } catch (error) {
      say({ id, error: { code: (error as { code?: string }).code ?? 'ERROR', message: (error as Error).message } })
    }
  })
  say({ opened: true })
} catch (error) {
  say({ refused: (error as Error).message })
  port.close()
}
