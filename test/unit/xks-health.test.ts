/** GetHealthStatus from what was seen, with tokens that do what the test says. */

import { expect, onTestFinished, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { TokenError, type Token, type TokenHealth } from '../../src/hsm/token.ts'
import { openXksHealth, type HealthOptions } from '../../src/kms/xks/health.ts'
import { readHealth } from '../../src/xks/protocol.ts'

interface FakeToken {
  readonly token: Token
  works: boolean
  state: TokenHealth['state']
  respawns: number
  /** How long a look takes. */
  takesMs: number
}

function fakeToken(): FakeToken {
  const fake = {
    works: true,
    state: 'up' as TokenHealth['state'],
    respawns: 0,
    takesMs: 0,
    token: {
      async check() {
        if (fake.takesMs > 0) await new Promise((resolve) => setTimeout(resolve, fake.takesMs))
        if (!fake.works) throw new TokenError('unavailable', 'gone')
      },
      health: () => ({ state: fake.state, detail: '', queued: 0, sessions: 1, respawns: fake.respawns }),
      info: () => ({ manufacturer: 'Maker', model: 'Box', firmware: '1.2' }),
    } as unknown as Token,
  }
  return fake
}

/** It looks all the time. */
function open(tokens: ReadonlyMap<string, FakeToken>, more: Partial<HealthOptions> = {}) {
  const clock = new ManualClock()
  const health = openXksHealth({
    tokens: new Map([...tokens].map(([name, { token }]) => [name, token])),
    fleetSize: async () => 3,
    product: 'Holdfast 1.2.3',
    clock,
    log: silentLog,
    slowMs: 1000,
    lookEveryMs: 5,
    ...more,
  })
  onTestFinished(() => health.close())
  const states = async (): Promise<readonly string[]> => (await health.read()).ekmFleetDetails.map(({ healthStatus }) => healthStatus)
  return { clock, health, states }
}

test('a token whose canary key works is ACTIVE, with the hardware’s own names and the number of instances', async () => {
  const { health } = open(new Map([['default', fakeToken()]]))
  const answer = await health.read()
  expect(answer).toEqual({
    xksProxyFleetSize: 3,
    xksProxyVendor: 'Holdfast',
    xksProxyModel: 'Holdfast 1.2.3',
    ekmVendor: 'Maker',
    ekmFleetDetails: [{ id: 'default', model: 'Box 1.2', healthStatus: 'ACTIVE' }],
  })
  expect(readHealth(answer)).toEqual(answer)
})

test('one whose canary key does not work is UNAVAILABLE, then DEGRADED for a minute after it works again', async () => {
  const fake = fakeToken()
  const { clock, states } = open(new Map([['default', fake]]))
  expect(await states()).toEqual(['ACTIVE'])
  fake.works = false
  await expect.poll(states).toEqual(['UNAVAILABLE'])
  fake.works = true
  await expect.poll(states).toEqual(['DEGRADED'])
  clock.advance(61_000)
  await expect.poll(states).toEqual(['ACTIVE'])
})

test('a look that is slow is DEGRADED', async () => {
  const fake = fakeToken()
  fake.takesMs = 30
  const { states } = open(new Map([['default', fake]]), { slowMs: 10 })
  expect(await states()).toEqual(['DEGRADED'])
})

test('what is known of a token now counts more than its last look', async () => {
  const fake = fakeToken()
  const { clock, states } = open(new Map([['default', fake]]))
  expect(await states()).toEqual(['ACTIVE'])
  for (const state of ['down', 'starting', 'stopped-pin'] as const) {
    fake.state = state
    expect(await states()).toEqual(['UNAVAILABLE'])
  }
  fake.state = 'up'
  fake.respawns = 1
  expect(await states()).toEqual(['DEGRADED'])
  clock.advance(61_000)
  await expect.poll(states).toEqual(['ACTIVE'])
})

test('a look that does not end is waited for by nobody, and after 20 seconds its token is UNAVAILABLE', async () => {
  const fake = fakeToken()
  const { clock, states } = open(new Map([['default', fake]]))
  expect(await states()).toEqual(['ACTIVE'])
  let hung = false
  let letGo = (): void => undefined
  Object.assign(fake.token, {
    check: () => {
      hung = true
      return new Promise<void>((resolve) => (letGo = resolve))
    },
  })
  await expect.poll(() => hung).toBe(true)
  clock.advance(15_000)
  expect(await states()).toEqual(['ACTIVE'])
  clock.advance(6_000)
  expect(await states()).toEqual(['UNAVAILABLE'])
  letGo()
})

test('each token is an entry of its own; of more than ten the worst are shown and the best', async () => {
  const tokens = new Map(Array.from({ length: 13 }, (_, n) => [`t${n}`, fakeToken()]))
  const { health } = open(tokens)
  for (const [name, fake] of tokens) fake.state = name === 't12' ? 'up' : 'down'
  const { ekmFleetDetails } = await health.read()
  expect(ekmFleetDetails.map(({ healthStatus }) => healthStatus)).toEqual([...Array.from({ length: 9 }, () => 'UNAVAILABLE'), 'ACTIVE'])
  expect(ekmFleetDetails.at(-1)?.id).toBe('t12')
})

test('a token that was never reached has no names, and the health is told all the same; so it is when nobody can count the instances', async () => {
  const fake = fakeToken()
  fake.works = false
  fake.state = 'down'
  Object.assign(fake.token, {
    info: () => {
      throw new TokenError('unavailable', 'never reached')
    },
  })
  const { health } = open(new Map([['default', fake]]), { fleetSize: () => Promise.reject(new Error('no store')) })
  const answer = await health.read()
  expect(answer).toMatchObject({
    xksProxyFleetSize: 1,
    ekmVendor: 'unknown',
    ekmFleetDetails: [{ model: 'unknown', healthStatus: 'UNAVAILABLE' }],
  })
  expect(readHealth(answer)).toEqual(answer)
})
