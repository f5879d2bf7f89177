/**
 * Which calls were made of which keys. The road counts a call that succeeded in memory, and nothing more; what has been counted goes to the
 * store every few seconds and at the end. A process that dies loses what it counted since, which is less than one flush; a store that is down
 * for a while loses nothing.
 *
 * A call counts for the account of its key, once for each key that it works on; a call without a key counts for the caller's account.
 */

import type { AuditRecord } from '../audit/trail.ts'
import type { LastUse, UsageRow } from '../store/store.ts'
import { priceClass, standardPrices, type Prices } from './cost.ts'
import { keyUses } from './cryptographic.ts'
import type { Call } from './operation.ts'
import type { Service } from './service.ts'

export interface UsageSettings {
  readonly flushIntervalMs: number
  readonly retentionDays: number
  readonly prices: Prices
}

export const standardUsage: UsageSettings = { flushIntervalMs: 10_000, retentionDays: 400, prices: standardPrices }

export interface Usage {
  /**
   * Counts a call that succeeded.
   * @param eventId of its audit record
   * @param ofOwners the records that other accounts, whose keys it used, have of it: a key's last use is named by its owner's
   */
  count(call: Call, eventId: string, ofOwners?: readonly AuditRecord[]): void
  /** Remembers a use of a key that was no call of an API: it counts for nothing but the key's last use. */
  used(use: LastUse): void
  /** A key's last cryptographic operation, as far as this process and the store know. */
  lastUse(keyArn: string): Promise<LastUse | undefined>
  /** Since when uses are counted. */
  trackedSince(): number
  /** What has been counted is in the store when it resolves. */
  flush(): Promise<void>
  close(): Promise<void>
}

const dayMs = 86_400_000
export const dayOf = (ms: number): string => new Date(ms).toISOString().slice(0, 10)

/** In one transaction, so that no flush holds up other writes for long. */
const rowsPerWrite = 500

const sinceSetting = 'usage/tracked-since'

/** Calls by key ARN (or, without a key, its beginning), then by operation; a data key pair's spec goes with the operation. */
type Counts = Map<string, Map<string, number>>

export async function openUsage({ store, clock, log }: Pick<Service, 'store' | 'clock' | 'log'>, settings: UsageSettings): Promise<Usage> {
  if (store.view.setting(sinceSetting) === undefined) await store.compareAndSetSetting(sinceSetting, undefined, String(clock.now()))

  /** By day. Nearly always there is one. */
  let days = new Map<number, Counts>()
  const uses = new Map<string, LastUse>()
  let today = -1
  let counts: Counts = new Map()

  const add = (day: number, name: string, operation: string): void => {
    if (day !== today) {
      today = day
      counts = days.get(day) ?? new Map<string, Map<string, number>>()
      days.set(day, counts)
    }
    let operations = counts.get(name)
    if (!operations) counts.set(name, (operations = new Map()))
    operations.set(operation, (operations.get(operation) ?? 0) + 1)
  }

  const rowsOf = (taken: ReadonlyMap<number, Counts>): UsageRow[] => {
    const rows: UsageRow[] = []
    for (const [day, byName] of taken) {
      for (const [name, operations] of byName) {
        const [, , , region = '', accountId = '', resource = ''] = name.split(':')
        const spec = store.view.key(name)?.spec
        for (const [counted, calls] of operations) {
          const [operation = '', pairSpec] = counted.split(' ')
          rows.push({
            accountId,
            day: dayOf(day * dayMs),
            region,
            keyId: resource.slice('key/'.length),
            operation,
            price: priceClass(operation, spec, pairSpec),
            calls,
          })
        }
      }
    }
    return merged(rows)
  }

  /** Written in parts; a part that failed waits for the next flush. One whose failing COMMIT did happen counts twice then. */
  let waitingRows: UsageRow[] = []
  let prunedOn = -1

  const prune = async (): Promise<void> => {
    const day = Math.floor(clock.now() / dayMs)
    if (day === prunedOn) return
    const before = (day - settings.retentionDays) * dayMs
    await store.pruneUsage(dayOf(before), before)
    prunedOn = day
  }

  const write = async (): Promise<void> => {
    waitingRows = merged([...waitingRows, ...rowsOf(days)])
    days = new Map()
    today = -1
    const used = [...uses.values()]
    while (waitingRows.length > 0) {
      await store.addUsage(waitingRows.slice(0, rowsPerWrite), [])
      waitingRows = waitingRows.slice(rowsPerWrite)
    }
    for (let at = 0; at < used.length; at += rowsPerWrite) {
      const part = used.slice(at, at + rowsPerWrite)
      await store.addUsage([], part)
      // One that was used again meanwhile stays for the next flush.
      for (const use of part) if (uses.get(use.keyArn) === use) uses.delete(use.keyArn)
    }
    await prune()
  }

  let flushing: Promise<void> = Promise.resolve()
  const flush = (): Promise<void> => {
    flushing = flushing.then(write, write)
    return flushing
  }
  const timer = setInterval(() => {
    flush().catch((error: unknown) => log.error({ err: error }, 'usage could not be written; it is kept and tried again'))
  }, settings.flushIntervalMs)
  timer.unref()

  const used = (use: LastUse): void => {
    if ((uses.get(use.keyArn)?.at ?? 0) <= use.at) uses.set(use.keyArn, use)
  }

  return {
    used,
    count({ operation, touched, nowMs, input, principal, region, facts }, eventId, ofOwners = []) {
      if (operation.eventSource !== 'kms.amazonaws.com') return
      const day = Math.floor(nowMs / dayMs)
      const pairSpec = operation.name.startsWith('GenerateDataKeyPair') ? input['KeyPairSpec'] : undefined
      const counted = typeof pairSpec === 'string' ? `${operation.name} ${pairSpec}` : operation.name
      const isUse = keyUses.has(operation.name)
      let ofKey = false
      for (const { arn, accountId, type } of touched) {
        if (type !== 'AWS::KMS::Key') continue
        ofKey = true
        add(day, arn, counted)
        if (!isUse) continue
        const ofOwner = ofOwners.find(({ recipientAccountId }) => recipientAccountId === accountId)
        used({ keyArn: arn, operation: operation.name, at: nowMs, eventId: ofOwner?.eventID ?? eventId, requestId: facts.requestId })
      }
      if (!ofKey) add(day, `arn:aws:kms:${region}:${principal.accountId}:`, counted)
    },
    async lastUse(keyArn) {
      const stored = await store.lastUse(keyArn)
      const here = uses.get(keyArn)
      return here && here.at >= (stored?.at ?? 0) ? here : stored
    },
    trackedSince: () => Number(store.view.setting(sinceSetting)),
    flush,
    async close() {
      clearInterval(timer)
      await flush()
    },
  }
}

/** Rows that say the same of the same, added up: what failed to be written waits in as few as it can. */
function merged(rows: readonly UsageRow[]): UsageRow[] {
  const sums = new Map<string, UsageRow>()
  for (const row of rows) {
    const name = [row.accountId, row.day, row.region, row.keyId, row.operation, row.price].join(' ')
    const before = sums.get(name)
    sums.set(name, before ? { ...row, calls: before.calls + row.calls } : row)
  }
  return [...sums.values()]
}
