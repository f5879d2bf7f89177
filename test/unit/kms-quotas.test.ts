import * as sdk from '@aws-sdk/client-kms'
import { expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { readConfig } from '../../src/config/read.ts'
import type { Call } from '../../src/kms/operation.ts'
import { apis } from '../../src/kms/operations/index.ts'
import { openThrottle, standardRates, type RequestRates } from '../../src/kms/quotas.ts'
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
  const throttle = openThrottle({ CreateKey: 1 })
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
    const throttle = openThrottle(rates)
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
