/** Holdfast's own: how much was called, of which keys, and what it would cost on AWS KMS. Of the caller's account, in all regions. */

import type { UsageQuery } from '../../store/store.ts'
import { pricedRotations } from '../../store/usage.ts'
import { isKeyId } from '../arn.ts'
import { keyMonths, requestCost, rounded, type Life } from '../cost.ts'
import { kmsError } from '../errors.ts'
import { operation, type Call } from '../operation.ts'
import { pageAsked, pageShown } from '../page.ts'
import { oneOf, optional, string } from '../shape.ts'
import { dayOf } from '../usage.ts'
import { listing } from './members.ts'

const dayMs = 86_400_000
const day = string({ pattern: /[0-9]{4}-[0-9]{2}-[0-9]{2}/ })

function readDay(text: string, member: string): number {
  const ms = Date.parse(text)
  // What no calendar has (30 February) is either nothing or another day.
  if (Number.isNaN(ms) || dayOf(ms) !== text) throw kmsError('ValidationException', `${member} ${text} is not a date.`)
  return ms
}

export const GetUsage = operation({
  input: {
    StartDate: optional(day),
    EndDate: optional(day),
    KeyId: optional(string({ min: 1, max: 2048 })),
    Granularity: optional(oneOf('DAILY', 'TOTAL'), 'TOTAL'),
    ...listing,
  },
  output: ['StartDate', 'EndDate', 'Estimate', 'Usage', 'NextMarker', 'Truncated'],
  resources: () => ['*'],
  readOnly: true,
  async run(call, input) {
    const today = dayOf(call.nowMs)
    const end = input.EndDate ?? today
    // The month so far, as a bill has it.
    const start = input.StartDate ?? `${end.slice(0, 7)}-01`
    const toMs = readDay(end, 'EndDate') + dayMs
    const fromMs = readDay(start, 'StartDate')
    if (fromMs >= toMs) throw kmsError('ValidationException', 'StartDate must not be later than EndDate.')

    const { service, principal } = call
    const { prices } = service.config.usage
    // Both forms of a key's name; the region of an ARN is left aside, since a key id is one key, or one of several regions.
    const keyId = input.KeyId?.replace(/^arn:.*:key\//, '')
    if (keyId !== undefined && !isKeyId(keyId)) throw kmsError('NotFoundException', `Invalid keyId '${input.KeyId}'`)
    const query: UsageQuery = { accountId: principal.accountId, fromDay: start, toDay: end, ...(keyId !== undefined && { keyId }) }
    await service.usage.flush()
    const { after, limit } = pageAsked(call, 100)
    const { items, rest } = pageShown(call, await service.store.usage(query, input.Granularity === 'DAILY', after, limit), (row) => ({
      ...(row.day !== '' && { Date: row.day }),
      Region: row.region,
      ...(row.keyId !== '' && { KeyId: row.keyId }),
      Operation: row.operation,
      Calls: row.calls,
      Cost: rounded(requestCost(prices, row.price, row.calls)),
    }))
    // Of the whole, so it is said once and not on every page.
    const estimate = input.Marker === undefined && { Estimate: await estimateOf(call, query, fromMs, Math.min(toMs, call.nowMs)) }
    return { StartDate: start, EndDate: end, ...estimate, Usage: items, ...rest }
  },
})

async function estimateOf(
  { service }: Call,
  query: UsageQuery,
  fromMs: number,
  toMs: number,
): Promise<Readonly<Record<string, string | number>>> {
  const { prices } = service.config.usage
  const totals = await service.store.usageTotals(query)
  const months = (await livesOf(service, query, fromMs)).reduce((sum, life) => sum + keyMonths(life, fromMs, toMs), 0)
  const requestsCost = totals.reduce((sum, { price, calls }) => sum + requestCost(prices, price, calls), 0)
  const keysCost = months * prices.keyMonth
  return {
    Currency: 'USD',
    KeyMonths: rounded(months),
    KeyCost: rounded(keysCost),
    Calls: totals.reduce((sum, { calls }) => sum + calls, 0),
    RequestCost: rounded(requestsCost),
    TotalCost: rounded(keysCost + requestsCost),
  }
}

/** Every key that was there after `fromMs`. AWS counts none that is waiting for its deletion; here it counts until it is destroyed. */
async function livesOf({ store, config }: Call['service'], { accountId, keyId }: UsageQuery, fromMs: number): Promise<readonly Life[]> {
  const lives: Life[] = []
  for (const region of config.regions) {
    const keys =
      keyId === undefined
        ? store.view.listKeys(accountId, region, undefined, Number.MAX_SAFE_INTEGER).items
        : [store.view.keyById(region, keyId)].flatMap((key) => (key?.accountId === accountId ? [key] : []))
    for (const key of keys) {
      // AWS charges nothing for having the keys that it manages.
      if (key.state === 'Creating' || key.managedBy !== null) continue
      lives.push({ beganAt: key.createdAt, endedAt: Infinity, rotations: pricedRotations(store.view.backingKeys(key.arn)) })
    }
  }
  const ended = await store.keyLives(accountId, fromMs)
  return [...lives, ...ended.filter(({ keyArn }) => keyId === undefined || keyArn.endsWith(`/${keyId}`))]
}
