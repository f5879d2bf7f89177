/** CreateAccount, stopped at any step or left unanswered, and asked again. */

import { expect, test } from 'vitest'
import { rootArn } from '../../src/kms/arn.ts'
import { unseal } from '../../src/kms/seal.ts'
import { callRoad, Tripwire, type Output, type Rooms } from './crash-rooms.ts'
import { useRooms } from './rooms-kit.ts'

const here = useRooms()

let accounts = 0
const freshAccount = (): string => String(200_000_000_000 + ++accounts)
const create = (rooms: Rooms, AccountId: string, ClientToken?: string): Promise<Output> =>
  callRoad(rooms, 'CreateAccount', { AccountId, ...(ClientToken !== undefined && { ClientToken }) })
const codeOf = (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => 'answered',
    (error: unknown) => String((error as { readonly code?: string }).code),
  )

/** The account's root has one access key, which is the one that was answered. */
async function expectKey({ service, store }: Rooms, accountId: string, answer: Output): Promise<void> {
  const key = answer['AccessKey'] as Readonly<Record<'AccessKeyId' | 'SecretAccessKey' | 'Status', string>>
  const [only, ...more] = store.view.accessKeysOf(rootArn(accountId))
  expect([only?.accessKeyId, more.length, key.Status]).toEqual([key.AccessKeyId, 0, 'Active'])
  const secret = await unseal(service, only?.sealedSecret ?? Buffer.alloc(0), `access-key/${key.AccessKeyId}`)
  expect(secret?.toString('latin1')).toBe(key.SecretAccessKey)
}

test.each(['before', 'after', 'cut'] as const)(
  'stopped at any step (%s) it is made whole when the same request comes again',
  async (mishap) => {
    const wire = new Tripwire()
    let rooms = await here.open({ wire })
    wire.arm()
    await create(rooms, freshAccount(), 'token')
    const { steps } = wire.disarm()
    expect(steps).toContain('store.insertAccount 1')
    for (const step of steps) {
      const accountId = freshAccount()
      wire.arm(step, mishap)
      expect(await codeOf(create(rooms, accountId, 'token')), step).not.toBe('answered')
      expect(wire.disarm().fired, step).toBe(true)
      await rooms.close()
      rooms = await here.open({ wire })
      await expectKey(rooms, accountId, await create(rooms, accountId, 'token'))
    }
  },
)

test('the same request is answered the same for a day; another one, or one without a token, meets the account that there is', async () => {
  const rooms = await here.open()
  const accountId = freshAccount()
  const first = await create(rooms, accountId, 'token')
  here.clock.advance(24 * 3_600_000)
  expect(await create(rooms, accountId, 'token')).toEqual(first)
  await expectKey(rooms, accountId, first)
  for (const other of ['another', undefined]) expect(await codeOf(create(rooms, accountId, other))).toBe('AlreadyExistsException')
  here.clock.advance(1)
  expect(await codeOf(create(rooms, accountId, 'token'))).toBe('AlreadyExistsException')

  const plain = freshAccount()
  await create(rooms, plain)
  for (const again of ['token', undefined]) expect(await codeOf(create(rooms, plain, again))).toBe('AlreadyExistsException')
})

test('an access key that was deleted or switched off since is not shown again, and no other is made', async () => {
  const rooms = await here.open()
  for (const end of ['delete', 'off'] as const) {
    const accountId = freshAccount()
    const { AccessKey } = await create(rooms, accountId, 'token')
    const { AccessKeyId } = AccessKey as { readonly AccessKeyId: string }
    await (end === 'delete' ? rooms.store.deleteAccessKey(AccessKeyId) : rooms.store.setAccessKeyActive(AccessKeyId, false))
    expect(await codeOf(create(rooms, accountId, 'token'))).toBe('AlreadyExistsException')
    expect(rooms.store.view.accessKeysOf(rootArn(accountId))).toHaveLength(end === 'delete' ? 0 : 1)
  }
})

test('the same request made twice at once is answered once, with one access key', async () => {
  const rooms = await here.open()
  const accountId = freshAccount()
  const answers = await Promise.all([create(rooms, accountId, 'token'), create(rooms, accountId, 'token')])
  expect(answers[0]).toEqual(answers[1])
  await expectKey(rooms, accountId, answers[0] ?? {})
})
