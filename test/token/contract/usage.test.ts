/** Usage: when a key was last used, what was called on which day, and what that would cost on AWS KMS. */
import {
  CreateAliasCommand,
  DecryptCommand,
  DescribeKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GenerateRandomCommand,
  GetKeyLastUsageCommand,
  ReEncryptCommand,
} from '@aws-sdk/client-kms'
import { describe, expect, test } from 'vitest'
import { administer, makeAccount, makeUser, rawCall } from '../holdfast.ts'
import { absentKeyId, describeOurs, expectRefusal, freshAlias, given, refusalOf, useContract, withoutMetadata } from './kit.ts'

const contract = useContract({ env: { HOLDFAST_USAGE_FLUSH_INTERVAL_MS: '100', HOLDFAST_USAGE_PRICE_REQUESTS: '30' } })

const lastUsageOf = async (keyId: string) => withoutMetadata(await contract.kms.send(new GetKeyLastUsageCommand({ KeyId: keyId })))
const encrypt = async (keyId: string, kms = contract.kms) => kms.send(new EncryptCommand({ KeyId: keyId, Plaintext: Buffer.from('text') }))

describe('GetKeyLastUsage', () => {
  test('is empty for a key that was never used for cryptography, whatever else was done with it', async () => {
    const key = await contract.key()
    await contract.kms.send(new DescribeKeyCommand({ KeyId: key.KeyId }))
    const created = key.CreationDate
    expect(await lastUsageOf(key.Arn)).toEqual({
      KeyId: key.KeyId,
      KeyLastUsage: {},
      TrackingStartDate: created,
      KeyCreationDate: created,
    })
  })

  test('tells the last successful operation, when it was, and by which request', async () => {
    const key = await contract.key()
    const before = Date.now()
    const { CiphertextBlob: blob } = await encrypt(key.KeyId)
    const { $metadata: metadata } = await contract.kms.send(new DecryptCommand({ CiphertextBlob: blob }))
    await refusalOf(contract.kms.send(new EncryptCommand({ KeyId: key.KeyId, Plaintext: Buffer.from('x'), DryRun: true })))
    await refusalOf(contract.kms.send(new DecryptCommand({ CiphertextBlob: blob, EncryptionContext: { wrong: 'context' } })))
    const { KeyLastUsage: last } = await lastUsageOf(key.KeyId)
    expect(last).toEqual({
      Operation: 'Decrypt',
      Timestamp: expect.any(Date),
      CloudTrailEventId: expect.stringMatching(/^[0-9a-f-]{36}$/),
      KmsRequestId: metadata.requestId,
    })
    expect(Math.abs(given(last?.Timestamp).getTime() - before)).toBeLessThan(300_000)
  })

  test('counts ReEncrypt for the key it comes from and for the key it goes to', async () => {
    const [from, to] = [await contract.key(), await contract.key()]
    const { CiphertextBlob: blob } = await encrypt(from.KeyId)
    await contract.kms.send(new ReEncryptCommand({ CiphertextBlob: blob, DestinationKeyId: to.KeyId }))
    for (const key of [from, to]) expect((await lastUsageOf(key.KeyId)).KeyLastUsage?.Operation).toBe('ReEncrypt')
  })

  test('takes a key id or key ARN, no alias, in every state of the key', async () => {
    const key = await contract.keyPendingDeletion()
    expect((await lastUsageOf(key.Arn)).KeyLastUsage).toEqual({})
    const alias = freshAlias()
    await contract.kms.send(new CreateAliasCommand({ AliasName: alias, TargetKeyId: (await contract.key()).KeyId }))
    await expectRefusal(lastUsageOf(alias), 'NotFoundException', `Invalid keyId '${alias}'`)
    expect((await refusalOf(lastUsageOf(absentKeyId))).name).toBe('NotFoundException')
  })
})

interface Usage {
  readonly StartDate: string
  readonly EndDate: string
  readonly Estimate?: Readonly<Record<string, number | string>>
  readonly Usage: readonly Readonly<Record<string, string | number>>[]
  readonly Truncated: boolean
  readonly NextMarker?: string
}

describeOurs('holdfast:GetUsage', () => {
  const usage = (input: Readonly<Record<string, unknown>> = {}) => administer<Usage>(contract.ours, 'GetUsage', input)
  const today = () => new Date().toISOString().slice(0, 10)
  /** Of one key: operation by operation. */
  const callsOf = async (keyId: string) =>
    Object.fromEntries((await usage({ KeyId: keyId })).Usage.map(({ Operation: operation, Calls: calls }) => [operation, calls]))

  test('counts the calls that succeeded, by key and operation', async () => {
    const key = await contract.key()
    for (let i = 0; i < 3; i++) await encrypt(key.KeyId)
    const { CiphertextBlob: blob } = await contract.kms.send(new GenerateDataKeyCommand({ KeyId: key.Arn, KeySpec: 'AES_256' }))
    await contract.kms.send(new DecryptCommand({ CiphertextBlob: blob }))
    await refusalOf(contract.kms.send(new DecryptCommand({ CiphertextBlob: blob, EncryptionContext: { a: 'b' } })))
    await contract.kms.send(new ReEncryptCommand({ CiphertextBlob: blob, DestinationKeyId: key.KeyId }))
    const expected = { CreateKey: 1, Encrypt: 3, GenerateDataKey: 1, Decrypt: 1, ReEncrypt: 2 }
    expect(await callsOf(key.KeyId)).toEqual(expected)
    // By its ARN it is the same key, and asking has changed nothing.
    expect(await callsOf(key.Arn)).toEqual(expected)
  })

  test('adds what later flushes bring to what is there', async () => {
    const key = await contract.key()
    for (let round = 1; round <= 3; round++) {
      await encrypt(key.KeyId)
      expect((await callsOf(key.KeyId))['Encrypt']).toBe(round)
    }
  })

  test('has calls without a key under no key, day by day where that is asked for', async () => {
    await contract.kms.send(new GenerateRandomCommand({ NumberOfBytes: 16 }))
    const { Usage: rows, StartDate: start, EndDate: end } = await usage({ Granularity: 'DAILY', Limit: 1000 })
    expect([start, end]).toEqual([`${today().slice(0, 7)}-01`, today()])
    const random = rows.filter(({ Operation: operation }) => operation === 'GenerateRandom')
    expect(random).toEqual([
      { Date: today(), Region: contract.region, Operation: 'GenerateRandom', Calls: expect.any(Number), Cost: expect.any(Number) },
    ])
    expect((await usage({ StartDate: '2020-01-01', EndDate: '2020-12-31' })).Usage).toEqual([])
  })

  test('of a key takes its id or ARN, also when there is no such key any more, but no alias', async () => {
    expect((await usage({ KeyId: absentKeyId })).Usage).toEqual([])
    const answer = await rawCall(contract.ours, 'holdfast', 'GetUsage', { KeyId: 'alias/app' })
    expect(answer.json).toEqual({ __type: 'NotFoundException', message: "Invalid keyId 'alias/app'" })
  })

  test('pages, and says its estimate once', async () => {
    await encrypt((await contract.key()).KeyId)
    const whole = await usage({ Limit: 1000 })
    const paged: unknown[] = []
    let marker: string | undefined
    let estimates = 0
    do {
      const page = await usage({ Limit: 2, ...(marker !== undefined && { Marker: marker }) })
      paged.push(...page.Usage)
      if (page.Estimate) estimates++
      marker = page.NextMarker
    } while (marker !== undefined)
    expect(paged).toEqual(whole.Usage)
    expect(estimates).toBe(1)
  })

  test('estimates by the configured prices: requests by the ten thousand, a key by the hour of its month', async () => {
    const key = await contract.key()
    for (let i = 0; i < 4; i++) await encrypt(key.KeyId)
    const { Estimate: estimate } = await usage({ KeyId: key.KeyId })
    const now = new Date()
    const hours = 24 * new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 1, 0)).getUTCDate()
    const month = Math.round(1e6 / hours) / 1e6
    expect(estimate).toEqual({
      Currency: 'USD',
      KeyMonths: month,
      KeyCost: month,
      Calls: 5,
      // 30 dollars for ten thousand, in this test.
      RequestCost: 0.015,
      TotalCost: expect.closeTo(month + 0.015, 5),
    })
  })

  test('shows an account its own usage alone', async () => {
    const root = await makeAccount(contract.ours, '777788889999')
    const kms = contract.client({ credentials: root })
    const key = await contract.key({}, kms)
    await encrypt(key.KeyId, kms)
    const theirs = await administer<Usage>(contract.ours, 'GetUsage', {}, { credentials: root })
    expect(theirs.Usage.map(({ Operation: operation, Calls: calls }) => [operation, calls])).toEqual([
      ['CreateKey', 1],
      ['Encrypt', 1],
    ])
    expect((await usage({ KeyId: key.KeyId })).Usage).toEqual([])
  })

  test('is a matter of permission', async () => {
    const user = await makeUser(contract.ours, `accountant-${process.pid}`)
    const answer = await rawCall(contract.ours, 'holdfast', 'GetUsage', {}, { credentials: user })
    expect(answer.json).toMatchObject({ __type: 'AccessDeniedException' })
  })

  test.each([
    [{ StartDate: '2026-02-30' }, 'StartDate 2026-02-30 is not a date.'],
    [{ EndDate: '2026-13-01' }, 'EndDate 2026-13-01 is not a date.'],
    [{ StartDate: '2026-02-02', EndDate: '2026-02-01' }, 'StartDate must not be later than EndDate.'],
    [
      { StartDate: 'yesterday' },
      "1 validation error detected: Value 'yesterday' at 'startDate' failed to satisfy constraint: Member must satisfy regular expression pattern: [0-9]{4}-[0-9]{2}-[0-9]{2}",
    ],
  ])('refuses %o', async (input, message) => {
    const answer = await rawCall(contract.ours, 'holdfast', 'GetUsage', input)
    expect(answer.json).toEqual({ __type: 'ValidationException', message })
  })

  // The last one: the port is another afterwards.
  test('is whole after an orderly end, and after a kill has all but what was counted since the last flush', async () => {
    const { ours } = contract
    const key = await contract.key()
    const use = async (times: number) => {
      for (let i = 0; i < times; i++)
        expect((await rawCall(ours, 'kms', 'Encrypt', { KeyId: key.Arn, Plaintext: 'AAAA' })).status).toBe(200)
    }
    const counted = async () => (await callsOf(key.KeyId))['Encrypt'] ?? 0
    await use(3)
    // Asked for, they are written.
    expect(await counted()).toBe(3)
    await use(2)
    await ours.kill9()
    await ours.restart()
    const left = await counted()
    expect([3, 4, 5]).toContain(left)
    const last = await rawCall(ours, 'kms', 'GetKeyLastUsage', { KeyId: key.KeyId })
    expect(last.json['KeyLastUsage']).toMatchObject({ Operation: 'Encrypt' })
    await use(4)
    await ours.restart()
    expect(await counted()).toBe(left + 4)
  })
})
