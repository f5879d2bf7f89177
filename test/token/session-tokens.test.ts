/** Session tokens that nobody issued: whoever reaches the port can send them, and only the device can tell them from genuine ones. */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import type { Token } from '../../src/hsm/token.ts'
import { samplePrincipal } from '../unit/store-suite.ts'
import { openRooms, type Rooms } from './crash-rooms.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { openLab } from './open.ts'

const clock = new ManualClock(Date.UTC(2026, 0, 1))
let lab: LabToken
let token: Token
let rooms: Rooms
let asked = 0

beforeAll(async () => {
  lab = await makeSoftHsmToken()
  token = await openLab(lab)
  const counting = new Proxy(token, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target)
      if (property === 'unwrap') asked++
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  rooms = await openRooms({ dir: join(lab.dir, 'run'), token: counting, clock })
})
afterAll(async () => {
  await rooms.close()
  await token.close()
  await lab.remove()
})

async function send(sessionToken: string, accessKeyId = 'ASIAAAAAAAAAAAAAAAAA'): Promise<string> {
  const headers = {
    host: 'localhost',
    'x-amz-date': '20260101T000000Z',
    'x-amz-security-token': sessionToken,
    authorization:
      `AWS4-HMAC-SHA256 Credential=${accessKeyId}/20260101/us-east-1/kms/aws4_request, ` +
      `SignedHeaders=host;x-amz-date;x-amz-security-token, Signature=${'0'.repeat(64)}`,
  }
  try {
    await rooms.service.identities.authenticate({ method: 'POST', path: '/', query: '', headers, body: Buffer.alloc(0) }, 'kms')
    return 'accepted'
  } catch (error) {
    return (error as { readonly code: string }).code
  }
}

const junk = (): string => Buffer.concat([Buffer.from([1]), randomBytes(200)]).toString('base64')

test('one that the device has refused is not shown to it again', async () => {
  const one = junk()
  asked = 0
  expect(await Promise.all([send(one), send(one), send(one)])).toEqual(Array<string>(3).fill('UnrecognizedClientException'))
  expect(await send(one)).toBe('UnrecognizedClientException')
  expect(asked).toBe(1)
})

test('one that cannot be a token is refused without the device', async () => {
  asked = 0
  for (const text of ['', 'AQ==', 'no base64 at all, but long enough to be a token of some kind', 'A'.repeat(10_000)]) {
    expect(await send(text)).not.toBe('accepted')
  }
  expect(asked).toBe(0)
})

test('of many at once only some get to the device', async () => {
  asked = 0
  const codes = await Promise.all(Array.from({ length: 100 }, () => send(junk())))
  expect(asked).toBe(32)
  expect(codes.filter((code) => code === 'ThrottlingException')).toHaveLength(68)
})

test('one of a role that was made anew under the old name is nobody’s, even where no time has passed', async () => {
  const { store, identities } = rooms.service
  const role = samplePrincipal('session-role', { kind: 'role', createdAt: clock.now() })
  await store.insertPrincipal(role)
  const { arn: roleArn, uniqueId: roleId } = role
  const now = clock.now()
  const { sessionToken, accessKeyId } = await identities.issueSession({
    roleArn,
    roleId,
    sessionName: 'one',
    issuedAt: now,
    expiresAt: now + 3_600_000,
    tags: {},
  })
  // No more than the signature is wrong.
  expect(await send(sessionToken, accessKeyId)).toBe('InvalidSignatureException')
  await store.deletePrincipal(roleArn)
  await store.insertPrincipal({ ...role, uniqueId: 'AROAANOTHER', createdAt: now })
  expect(await send(sessionToken, accessKeyId)).toBe('UnrecognizedClientException')
})
