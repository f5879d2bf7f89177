import * as sdk from '@aws-sdk/client-kms'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { readConfig } from '../../src/config/read.ts'
import type { Call } from '../../src/kms/operation.ts'
import { apis } from '../../src/kms/operations/index.ts'
import { Buckets, openThrottle, standardRates, type RequestRates } from '../../src/kms/quotas.ts'
import { keySpecs } from '../../src/kms/specs.ts'
import type { KeyRecord } from '../../src/store/store.ts'

test('every operation of AWS KMS has a request quota, and no other name but those that are slow to answer or to make', () => {
  const names = Object.keys(sdk).flatMap((name) =>
    name.endsWith('Command') && name !== '$Command' ? [name.slice(0, -'Command'.length)] : [],
  )
  const shared = /^(?:Decapsulate|Decrypt|DeriveSharedSecret|Encapsulate|Encrypt|Generate.*|ReEncrypt|Sign|Verify|VerifyMac)$/
  // AWS publishes none for the newest.
  const unlimited = new Set(['GetKeyLastUsage'])
  const without = names.filter((name) => !shared.test(name) && !unlimited.has(name) && !Object.hasOwn(standardRates, name))
  expect(without).toEqual([])
  const known = new Set([
    ...names,
    'LookupEvents',
    'AssumeRole',
    'symmetric',
    'rsa',
    'ecc',
    'customKeyStore',
    ...keySpecs.map((spec) => `GenerateDataKeyPair ${spec}`),
  ])
  expect(Object.keys(standardRates).filter((name) => !known.has(name))).toEqual([])
})

test('request quotas are given by class, or switched off; a class that is not there is refused', () => {
  const read = (value: string) => readConfig({ HOLDFAST_REQUEST_RATES: value }).config.quotas.requestRates
  expect(read('CreateKey=50, symmetric=20000')).toEqual({ CreateKey: 50, symmetric: 20_000 })
  expect(read('GenerateDataKeyPair RSA_4096=2')).toEqual({ 'GenerateDataKeyPair RSA_4096': 2 })
  expect(read('off')).toBe('off')
  for (const wrong of ['CreateKeys=5', 'CreateKey=0', 'CreateKey=fast', 'CreateKey', '5']) {
    expect(() => read(wrong)).toThrow(/HOLDFAST_REQUEST_RATES must be off, or requests a second by class/)
  }
})

test('no operation of an API that is not limited shares the name of a quota', () => {
  const free = apis.flatMap(({ name, operations }) => (name === 'holdfast' ? [...operations.keys()] : []))
  expect(free).toContain('CreateUser')
  expect(free.filter((name) => Object.hasOwn(standardRates, name))).toEqual([])
})

test('a call that was long under way does not fill the bucket for the next one', () => {
  const clock = new ManualClock()
  const throttle = openThrottle({ CreateKey: 1 }, new Buckets())
  const charge = (nowMs: number) => {
    const call = {
      operation: { name: 'CreateKey', eventSource: 'kms.amazonaws.com' },
      principal: { accountId: '1' },
      region: 'r',
      input: {},
      nowMs,
      service: { clock },
    }
    throttle.charge(call as unknown as Call, [])
  }
  charge(clock.now())
  for (let call = 0; call < 3; call++) {
    expect(() => charge(clock.now() - 30_000)).toThrow('You have exceeded the rate')
    expect(() => charge(clock.now())).toThrow('You have exceeded the rate')
  }
  clock.advance(1000)
  charge(clock.now())
})

test('a call takes one from each key store that it works with, and one from the quota of its caller', () => {
  const clock = new ManualClock()
  const key = (customKeyStoreId: string | null, accountId = '1') =>
    ({ spec: 'SYMMETRIC_DEFAULT', customKeyStoreId, accountId }) as KeyRecord
  const chargeAs = (rates: RequestRates) => {
    const throttle = openThrottle(rates, new Buckets())
    return (name: string, ...keys: KeyRecord[]) => {
      const call = {
        operation: { name, eventSource: 'kms.amazonaws.com' },
        principal: { accountId: '1' },
        region: 'r',
        input: {},
        service: { clock },
      }
      throttle.charge(call as unknown as Call, keys)
      return throttle
    }
  }
  const charge = chargeAs({ customKeyStore: 2 })
  charge('ReEncrypt', key('cks-one'), key('cks-two', '2'))
  // Both of its keys are there: that is one.
  charge('ReEncrypt', key('cks-one'), key('cks-one'))
  expect(() => charge('Encrypt', key('cks-one'))).toThrow('You have exceeded the rate')
  charge('ReEncrypt', key(null), key('cks-two', '2'))
  expect(() => charge('ReEncrypt', key(null), key('cks-two', '2'))).toThrow('You have exceeded the rate')
  // Only cryptographic operations reach what stands behind it.
  expect(charge('DescribeKey', key('cks-one')).throttled()).toEqual([
    { accountId: '1', className: 'customKeyStore', count: 1 },
    { accountId: '2', className: 'customKeyStore', count: 1 },
  ])
  const twice = chargeAs({ symmetric: 2 })
  for (let call = 0; call < 2; call++) twice('ReEncrypt', key('cks-one'), key('cks-two'))
  expect(() => twice('ReEncrypt', key('cks-one'), key('cks-two'))).toThrow('You have exceeded the rate')
})

describe('a quota that several processes share', () => {
  const rate = 20
  const tellEveryMs = 100

  /** Processes that tell each other of their takings as they do, and how many requests come to each in each of the moments between. */
  function run(demand: readonly (readonly number[])[]): readonly number[] {
    let nowMs = 1_000_000
    const count = demand[0]?.length ?? 0
    const processes = Array.from({ length: count }, () => new Buckets())
    const allowed: number[] = []
    for (const moment of demand) {
      let taken = 0
      for (let at = 0; at < tellEveryMs; at += 10) {
        nowMs += 10
        for (const [process, requests] of moment.entries()) {
          const now = Math.floor(((at + 10) * requests) / tellEveryMs) - Math.floor((at * requests) / tellEveryMs)
          for (let n = 0; n < now; n++) if (processes[process]?.take('quota', rate, nowMs)) taken++
        }
      }
      const told = processes.map((one) => one.takings())
      for (const [from, takings] of told.entries())
        for (const [to, process] of processes.entries()) if (to !== from) process.takenElsewhere(takings, nowMs)
      allowed.push(taken)
    }
    return allowed
  }
  const sum = (numbers: readonly number[]): number => numbers.reduce((all, one) => all + one, 0)

  test('is not exceeded in the long run, however the requests are spread; at first by no more than a bucketful of each process', () => {
    fc.assert(
      fc.property(
        fc
          .integer({ min: 1, max: 5 })
          .chain((count) =>
            fc.array(fc.array(fc.integer({ min: 0, max: 30 }), { minLength: count, maxLength: count }), { minLength: 1, maxLength: 200 }),
          ),
        (demand) => {
          const count = demand[0]?.length ?? 1
          let until = 0
          for (const [at, allowed] of run(demand).entries()) {
            until += allowed
            // What the others take before one hears of it: a bucketful, and what comes in meanwhile.
            const unheard = (count - 1) * (rate + (rate * tellEveryMs) / 1000)
            expect(until).toBeLessThanOrEqual(unheard + rate + ((at + 1) * tellEveryMs * rate) / 1000)
          }
          // Ten seconds of nothing pay every debt; then a bucketful and what comes in a second are there, and not more.
          const idle = Array.from({ length: 100 }, () => demand[0]?.map(() => 0) ?? [])
          const last = Array.from({ length: 10 }, () => [30, ...(demand[0]?.slice(1).map(() => 0) ?? [])])
          const answered = sum(run([...demand, ...idle, ...last]).slice(-10))
          expect(answered).toBeGreaterThanOrEqual(rate + rate - 1)
          expect(answered).toBeLessThanOrEqual(rate + rate)
        },
      ),
    )
  })

  test('is a caller’s whole, though all requests come to one of the processes', () => {
    const seconds = 30
    const alone = run(Array.from({ length: seconds * 10 }, () => [30, 0, 0, 0]))
    expect(sum(alone)).toBeGreaterThanOrEqual(seconds * rate)
    // Within the quota nobody is turned away, not for a moment.
    expect(run(Array.from({ length: seconds * 10 }, () => [2, 0, 0, 0])).every((taken) => taken === 2)).toBe(true)
    expect(run(Array.from({ length: seconds * 10 }, (_, at) => (at % 2 === 0 ? [2, 0] : [0, 2]))).every((taken) => taken === 2)).toBe(true)
  })

  test('is all used, and no more, when all processes are asked for more', () => {
    const seconds = 60
    const all = run(Array.from({ length: seconds * 10 }, () => [30, 30, 30]))
    expect(sum(all)).toBeLessThanOrEqual(3 * rate + seconds * rate)
    expect(sum(all)).toBeGreaterThanOrEqual(seconds * rate)
  })

  test('is as empty to a process that has just started as it is to the others', () => {
    const nowMs = 1_000_000
    const old = new Buckets()
    for (let n = 0; n < rate; n++) expect(old.take('quota', rate, nowMs)).toBe(true)
    const fresh = new Buckets()
    fresh.takenElsewhere(old.missing(nowMs), nowMs)
    expect(fresh.take('quota', rate, nowMs)).toBe(false)
    expect(fresh.take('quota', rate, nowMs + 50)).toBe(true)
  })

  test('is told of once, and begins anew when its rate is changed', () => {
    const buckets = new Buckets()
    expect(buckets.take('quota', 1, 0)).toBe(true)
    expect(buckets.takings()).toEqual([{ name: 'quota', rate: 1, taken: 1 }])
    expect(buckets.takings()).toEqual([])
    expect(buckets.take('quota', 1, 0)).toBe(false)
    expect(buckets.take('quota', 2, 0)).toBe(true)
    expect(buckets.takings()).toEqual([{ name: 'quota', rate: 2, taken: 1 }])
  })
})
