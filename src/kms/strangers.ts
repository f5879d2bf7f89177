/**
 * What nobody has signed anybody can send: whoever reaches a port could fill the disk with records of it. So of such requests each lane (a door, a key
 * store) has so many in the audit a second. The others are counted, and one record of the service's own says, now and then, how many there were, of
 * what kind and from where: what is missing in the trail is said in the trail.
 *
 * A process that is killed loses what it has counted since the last of these records, `summariseAfterMs` at the most.
 */

import type { AuditRecord, Trail } from '../audit/trail.ts'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { Metrics } from '../base/metrics.ts'
import { Bucket } from './quotas.ts'
import { serviceEvent } from './record.ts'

/** A request whose sender is not known. */
export interface Stranger {
  /** `xks.holdfast` for the XKS proxy, `kms.amazonaws.com` for the main port. */
  readonly eventSource: string
  /** Of a key store, whose lane is its own. */
  readonly prefix?: string
  /** Whose trail it is in. */
  readonly accountId: string
  /** A fixed name: of an error, or a status. */
  readonly errorCode: string
  readonly sourceIp: string
}

export interface Strangers {
  /** Whether the request is to have a record of its own, which is its caller's to make. If not, it has been counted. */
  isRecorded(request: Stranger): boolean
  /** Of requests that never have one. */
  count(request: Stranger): void
  /** Says what has not been said. */
  close(): Promise<void>
}

/** In each lane, by each process. */
const recordsASecond = 10
/** Whoever has many addresses does not make the record long. */
const maxAddresses = 16

interface Lane {
  readonly of: Stranger
  readonly records: Bucket
  /** Since the process started. */
  total: number
  unsaid: Unsaid | undefined
}

interface Unsaid {
  readonly sinceMs: number
  requests: number
  readonly byErrorCode: Map<string, number>
  readonly byAddress: Map<string, number>
}

export interface StrangersOptions {
  readonly trail: Pick<Trail, 'append'>
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
  readonly region: string
  /** After the first that is counted. 10 s unless told. */
  readonly summariseAfterMs?: number
}

export function openStrangers({ trail, clock, log, metrics, region, summariseAfterMs = 10_000 }: StrangersOptions): Strangers {
  const lanes = new Map<string, Lane>()
  let timer: NodeJS.Timeout | undefined
  let saying = Promise.resolve()
  metrics.total(
    'holdfast_audit_unrecorded_total',
    'Requests of unknown senders that the audit has the number of, not each by itself; by port, and URI path prefix of the key store.',
    () =>
      [...lanes.values()]
        .filter(({ total }) => total > 0)
        .map(({ of: { eventSource, prefix = '' }, total }) => ({
          labels: { kind: eventSource === 'xks.holdfast' ? 'xks' : 'kms', prefix },
          value: total,
        })),
  )

  const laneOf = (request: Stranger): Lane => {
    const name = `${request.eventSource} ${request.accountId} ${request.prefix ?? ''}`
    let lane = lanes.get(name)
    if (!lane) lanes.set(name, (lane = { of: request, records: new Bucket(recordsASecond, clock.now()), total: 0, unsaid: undefined }))
    return lane
  }

  const countIn = (lane: Lane, { errorCode, sourceIp }: Stranger): void => {
    lane.total += 1
    const unsaid = (lane.unsaid ??= { sinceMs: clock.now(), requests: 0, byErrorCode: new Map(), byAddress: new Map() })
    unsaid.requests += 1
    add(unsaid.byErrorCode, errorCode, 1)
    add(unsaid.byAddress, unsaid.byAddress.has(sourceIp) || unsaid.byAddress.size < maxAddresses ? sourceIp : 'others', 1)
    timer ??= setTimeout(sayAll, summariseAfterMs).unref()
  }

  const say = async (lane: Lane): Promise<void> => {
    const { unsaid } = lane
    if (!unsaid) return
    lane.unsaid = undefined
    try {
      await trail.append(summary(lane.of, unsaid, region, clock.now()))
    } catch (error) {
      log.error({ err: error }, 'the audit could not be told how many requests it has no record of; it is tried again')
      const later: Unsaid | undefined = lane.unsaid
      lane.unsaid = later ? join(unsaid, later) : unsaid
      timer ??= setTimeout(sayAll, summariseAfterMs).unref()
    }
  }
  const sayAll = (): void => {
    timer = undefined
    saying = saying.then(async () => void (await Promise.all([...lanes.values()].map(say))))
  }

  return {
    isRecorded(request) {
      const lane = laneOf(request)
      if (lane.records.take(clock.now())) return true
      countIn(lane, request)
      return false
    },
    count: (request) => countIn(laneOf(request), request),
    async close() {
      clearTimeout(timer)
      sayAll()
      await saying
      clearTimeout(timer)
    },
  }
}

function add(counts: Map<string, number>, name: string, by: number): void {
  counts.set(name, (counts.get(name) ?? 0) + by)
}

function join(first: Unsaid, second: Unsaid): Unsaid {
  first.requests += second.requests
  for (const [code, count] of second.byErrorCode) add(first.byErrorCode, code, count)
  for (const [address, count] of second.byAddress)
    add(first.byAddress, first.byAddress.has(address) || first.byAddress.size < maxAddresses ? address : 'others', count)
  return first
}

function summary({ eventSource, prefix, accountId }: Stranger, unsaid: Unsaid, region: string, nowMs: number): AuditRecord {
  const { sinceMs, requests, byErrorCode, byAddress } = unsaid
  return {
    ...serviceEvent(nowMs, { accountId, region }, eventSource, 'UnrecordedRequests'),
    serviceEventDetails: {
      ...(prefix !== undefined && { uriPathPrefix: prefix }),
      requests,
      since: new Date(sinceMs).toISOString(),
      byErrorCode: Object.fromEntries(byErrorCode),
      bySourceIPAddress: Object.fromEntries(byAddress),
    },
  }
}
