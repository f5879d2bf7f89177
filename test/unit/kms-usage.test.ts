/** Counting calls: what is counted, what is written when, what two processes make of it together, and what survives a store that fails. */

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { ManualClock } from '../../src/base/clock.ts'
import type { Call } from '../../src/kms/operation.ts'
import { openUsage, standardUsage, type Usage } from '../../src/kms/usage.ts'
import { StoreFailure, type Store, type UsageQuery } from '../../src/store/store.ts'
import { accountId, backEnds, region, sampleBackingKey, sampleKey, type TestDatabase } from './store-suite.ts'

const dayMs = 86_400_000
const key = sampleKey({ keyId: 'one' })
const year: UsageQuery = { accountId, fromDay: '2026-01-01', toDay: '2026-12-31' }

describe.each(backEnds)('usage on $name', ({ make }) => {
  let database: TestDatabase
  let store: Store
  let clock: ManualClock
  let opened: Usage[]
  beforeEach(async () => {
    database = make()
    store = await database.open()
    clock = new ManualClock(Date.UTC(2026, 0, 31, 23, 59))
    opened = []
    await store.insertKey(key, sampleBackingKey(key, { rotationType: 'BUDGET', rotatedAt: 5 }))
  })
  afterEach(async () => {
    for (const usage of opened) await usage.close()
    await database.drop()
  })

  async function open(on = store, settings = standardUsage): Promise<Usage> {
    const usage = await openUsage({ store: on, clock, log: silentLog }, settings)
    opened.push(usage)
    return usage
  }
  const { arn } = key
  /** As much of a call as counting looks at. */
  function call(
    name: string,
    arns: readonly string[] = [arn],
    more: { readonly eventSource?: string; readonly pairSpec?: string } = {},
  ): Call {
    return {
      operation: { name, eventSource: more.eventSource ?? 'kms.amazonaws.com' },
      touched: arns.map((each) => ({ arn: each, accountId, type: each.includes(':key/') ? 'AWS::KMS::Key' : 'AWS::KMS::Alias' })),
      nowMs: clock.now(),
      input: more.pairSpec === undefined ? {} : { KeyPairSpec: more.pairSpec },
      principal: { accountId },
      region,
      facts: { requestId: `request of ${name}` },
    } as unknown as Call
  }
  const counted = async (byDay = false, query = year) =>
    (await store.usage(query, byDay, undefined, 1000)).items.map(({ day, keyId, operation, price, calls }) =>
      [day, keyId, operation, price, calls].filter((part) => part !== '').join(' '),
    )

  test('is written at a flush, by day, key and operation', async () => {
    const usage = await open()
    usage.count(call('Encrypt'), 'e1')
    usage.count(call('Encrypt'), 'e2')
    usage.count(call('ListKeys', []), 'e3')
    usage.count(call('CreateAlias', [`arn:aws:kms:${region}:${accountId}:alias/a`, arn]), 'e4')
    usage.count(call('LookupEvents', [], { eventSource: 'cloudtrail.amazonaws.com' }), 'e5')
    clock.advance(60_000)
    usage.count(call('Encrypt'), 'e6')
    expect(await counted()).toEqual([])
    await usage.flush()
    expect(await counted(true)).toEqual([
      '2026-01-31 ListKeys standard 1',
      '2026-01-31 one CreateAlias standard 1',
      '2026-01-31 one Encrypt standard 2',
      '2026-02-01 one Encrypt standard 1',
    ])
    expect(await counted()).toEqual(['ListKeys standard 1', 'one CreateAlias standard 1', 'one Encrypt standard 3'])
    expect(await counted(false, { ...year, toDay: '2026-01-31', keyId: 'one' })).toEqual([
      'one CreateAlias standard 1',
      'one Encrypt standard 2',
    ])
    await usage.flush()
    expect(await store.usageTotals(year)).toEqual([{ price: 'standard', calls: 5 }])
  })

  test('of two processes is added up, and what was counted last is in at the close', async () => {
    const other = await database.open()
    const [a, b] = [await open(), await open(other)]
    for (let round = 0; round < 3; round++) {
      a.count(call('Encrypt'), 'a')
      b.count(call('Encrypt'), 'b')
      await Promise.all([a.flush(), b.flush()])
    }
    a.count(call('Encrypt'), 'a')
    await a.close()
    expect(await counted()).toEqual(['one Encrypt standard 7'])
  })

  test('loses nothing to a store that fails for a while, and counts nothing twice', async () => {
    let failing = true
    const brittle = new Proxy(store, {
      get(target, property) {
        const value: unknown = Reflect.get(target, property, target)
        if (property === 'addUsage' && failing) return () => Promise.reject(new StoreFailure('the disk is full', 'SQLITE_FULL'))
        return typeof value === 'function' ? (value.bind(target) as unknown) : value
      },
    })
    const usage = await open(brittle)
    for (let round = 0; round < 3; round++) {
      usage.count(call('Encrypt'), `e${round}`)
      await expect(usage.flush()).rejects.toThrow(StoreFailure)
    }
    failing = false
    usage.count(call('Decrypt'), 'last')
    await usage.flush()
    await usage.flush()
    expect(await counted()).toEqual(['one Decrypt standard 1', 'one Encrypt standard 3'])
    expect(await store.lastUse(arn)).toMatchObject({ operation: 'Decrypt', eventId: 'last' })
  })

  test('is written by itself every so often', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    try {
      const usage = await open()
      usage.count(call('Encrypt'), 'e')
      vi.advanceTimersByTime(standardUsage.flushIntervalMs)
    } finally {
      vi.useRealTimers()
    }
    await vi.waitFor(async () => expect(await counted()).toEqual(['one Encrypt standard 1']), { timeout: 30_000 })
  })

  test('is priced by what the key is and what was asked of it', async () => {
    const keys = (['RSA_2048', 'RSA_3072', 'ECC_NIST_P256', 'HMAC_256', 'SYMMETRIC_DEFAULT'] as const).map((spec) =>
      sampleKey({ spec, keyId: spec.toLowerCase().replaceAll('_', '-') }),
    )
    for (const key of keys) await store.insertKey(key, sampleBackingKey(key))
    const usage = await open()
    for (const key of keys) {
      usage.count(call('DescribeKey', [key.arn]), 'e')
      usage.count(call(key.spec.startsWith('HMAC') ? 'GenerateMac' : key.spec === 'SYMMETRIC_DEFAULT' ? 'Encrypt' : 'Sign', [key.arn]), 'e')
    }
    const symmetric = keys.at(-1)?.arn ?? ''
    usage.count(call('GenerateDataKeyPair', [symmetric], { pairSpec: 'RSA_2048' }), 'e')
    usage.count(call('GenerateDataKeyPairWithoutPlaintext', [symmetric], { pairSpec: 'ECC_NIST_P256' }), 'e')
    await usage.flush()
    expect(await counted()).toEqual([
      'ecc-nist-p256 DescribeKey standard 1',
      'ecc-nist-p256 Sign asymmetric 1',
      'hmac-256 DescribeKey standard 1',
      'hmac-256 GenerateMac standard 1',
      'rsa-2048 DescribeKey standard 1',
      'rsa-2048 Sign standard 1',
      'rsa-3072 DescribeKey standard 1',
      'rsa-3072 Sign asymmetric 1',
      'symmetric-default DescribeKey standard 1',
      'symmetric-default Encrypt standard 1',
      'symmetric-default GenerateDataKeyPair rsaKeyPair 1',
      'symmetric-default GenerateDataKeyPairWithoutPlaintext eccKeyPair 1',
    ])
  })

  test('is kept for so many days, and the lives of keys with it', async () => {
    const usage = await open(store, { ...standardUsage, retentionDays: 31 })
    usage.count(call('Encrypt'), 'e')
    await usage.flush()
    await store.deleteKey(key.arn)
    const [life] = await store.keyLives(accountId, 0)
    expect(life).toMatchObject({ keyArn: key.arn, beganAt: key.createdAt, rotations: [] })
    expect(await store.lastUse(key.arn)).toBeUndefined()
    clock.advance(31 * dayMs)
    await usage.flush()
    expect(await counted()).toEqual(['one Encrypt standard 1'])
    clock.advance(dayMs)
    // A use that comes in after its key has gone does not stay.
    usage.count(call('Decrypt'), 'late')
    await usage.flush()
    expect(await counted()).toEqual(['one Decrypt standard 1'])
    expect(await store.lastUse(key.arn)).toBeUndefined()
  })

  test('the last use is the latest, whichever process had it, in memory or written', async () => {
    const other = await database.open()
    const [a, b] = [await open(), await open(other)]
    expect(await a.lastUse(arn)).toBeUndefined()
    a.count(call('Encrypt'), 'first')
    expect(await a.lastUse(arn)).toMatchObject({ operation: 'Encrypt', eventId: 'first', requestId: 'request of Encrypt' })
    a.count(call('DescribeKey'), 'no use')
    expect((await a.lastUse(arn))?.eventId).toBe('first')
    clock.advance(5)
    b.count(call('Decrypt'), 'second')
    await b.flush()
    // What is written later and was earlier does not come over it.
    await a.flush()
    for (const usage of [a, b]) expect(await usage.lastUse(arn)).toMatchObject({ operation: 'Decrypt', eventId: 'second', at: clock.now() })
  })

  test('is tracked since the first process that could', async () => {
    const first = await open()
    const since = clock.now()
    clock.advance(dayMs)
    expect([first.trackedSince(), (await open(await database.open())).trackedSince()]).toEqual([since, since])
  })
})
