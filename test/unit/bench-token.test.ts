/** Which operations the bench asks a token for. That it measures them is shown by test/token/bench.test.ts. */

import { describe, expect, test } from 'vitest'
import { inTurnOfSchemes, unbatchedBytes } from '../../src/bench/token.ts'
import { PrefetchedRandom } from '../../src/hsm/prefetched.ts'

describe('of the wrap schemes of a token', () => {
  const idsOf = (...args: Parameters<typeof inTurnOfSchemes>): readonly (readonly [scheme: string | undefined, ids: readonly string[]])[] =>
    inTurnOfSchemes(...args).map(({ scheme, operations }) => [scheme, operations.map(({ id }) => id)])
  const gcm = ['wrap-gcm', 'unwrap-gcm', 'gcm-32', 'gcm-4k']

  test('each is measured, whichever is in use', () => {
    const turns = idsOf('cbc-hmac', ['gcm-iv-in', 'cbc-hmac', 'rsa-oaep'])
    const usual = turns[0]?.[1] ?? []
    expect(turns[0]?.[0]).toBe('cbc-hmac')
    expect(usual).toEqual(expect.arrayContaining(['wrap-cbc-hmac', 'unwrap-cbc-hmac', 'hmac-256', 'new-aes', 'random-32']))
    expect(usual.filter((id) => gcm.includes(id))).toEqual([])
    expect(turns.slice(1)).toEqual([
      ['gcm-iv-in', gcm],
      ['rsa-oaep', ['wrap-rsa-oaep', 'unwrap-rsa-oaep']],
    ])
  })

  test('the one in use has the ids of its kind, and a second of that kind has its name in them', () => {
    const turns = idsOf('gcm-iv-back', ['gcm-iv-in', 'gcm-iv-back'])
    expect(turns[0]?.[1]).toEqual(expect.arrayContaining(gcm))
    expect(turns[1]).toEqual(['gcm-iv-in', gcm.map((id) => `${id}-gcm-iv-in`)])
    const all = turns.flatMap(([, ids]) => ids)
    expect(new Set(all).size).toBe(all.length)
  })

  test('a token without any is asked for all that needs none', () => {
    const turns = idsOf(undefined, [])
    expect(turns.map(([scheme]) => scheme)).toEqual([undefined])
    const ids = turns.flatMap(([, each]) => each)
    expect(ids).toContain('ecdsa-p256')
    expect(ids.filter((id) => /wrap|gcm/.test(id))).toEqual([])
  })
})

test('random bytes that are measured as coming from the token are asked of it at each call', async () => {
  const asked: number[] = []
  const random = new PrefetchedRandom(async (bytes) => {
    asked.push(bytes)
    return Buffer.alloc(bytes)
  })
  for (let call = 0; call < 3; call++) await random.take(unbatchedBytes, () => true)
  expect(asked).toEqual([unbatchedBytes, unbatchedBytes, unbatchedBytes])
})
