/** Rotation of key material: schedules, rotation on demand, the list of materials, and what stays readable. */
import { CloudTrailClient, LookupEventsCommand } from '@aws-sdk/client-cloudtrail'
import {
  CancelKeyDeletionCommand,
  CreateAliasCommand,
  DecryptCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  DisableKeyRotationCommand,
  EnableKeyRotationCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GetKeyRotationStatusCommand,
  ListKeyRotationsCommand,
  paginateListKeyRotations,
  ReEncryptCommand,
  RotateKeyOnDemandCommand,
  ScheduleKeyDeletionCommand,
  type ListKeyRotationsCommandInput,
} from '@aws-sdk/client-kms'
import { describe, expect, test } from 'vitest'
import { makeUser } from '../holdfast.ts'
import {
  absentKeyId,
  describeOurs,
  expectProblems,
  expectRefusal,
  freshAlias,
  given,
  refusalOf,
  useContract,
  withoutMetadata,
} from './kit.ts'

/** So that a test comes to the end of it. */
const limit = 3
const contract = useContract({ env: { HOLDFAST_QUOTA_ON_DEMAND_ROTATIONS: String(limit), HOLDFAST_REQUEST_RATES: 'off' } })
const dayMs = 86_400_000

const statusOf = async (keyId: string) => withoutMetadata(await contract.kms.send(new GetKeyRotationStatusCommand({ KeyId: keyId })))
const enable = (keyId: string, days?: number) =>
  contract.kms.send(new EnableKeyRotationCommand({ KeyId: keyId, RotationPeriodInDays: days }))
const disable = (keyId: string) => contract.kms.send(new DisableKeyRotationCommand({ KeyId: keyId }))
const rotate = (keyId: string) => contract.kms.send(new RotateKeyOnDemandCommand({ KeyId: keyId }))
const rotationsOf = async (input: ListKeyRotationsCommandInput) =>
  withoutMetadata(await contract.kms.send(new ListKeyRotationsCommand(input)))
const materialOf = async (keyId: string) =>
  given((await contract.kms.send(new DescribeKeyCommand({ KeyId: keyId }))).KeyMetadata?.CurrentKeyMaterialId)
const encrypt = async (keyId: string, text: string) =>
  given((await contract.kms.send(new EncryptCommand({ KeyId: keyId, Plaintext: Buffer.from(text) }))).CiphertextBlob)
const decrypt = (blob: Uint8Array) => contract.kms.send(new DecryptCommand({ CiphertextBlob: blob }))

describe('a schedule', () => {
  test('is off on a new key, on for a year where no period is said, and shows its dates only while it is on', async () => {
    const key = await contract.key()
    expect(await statusOf(key.KeyId)).toEqual({ KeyId: key.KeyId, KeyRotationEnabled: false })
    const before = Date.now()
    await enable(key.KeyId)
    const status = await statusOf(key.Arn)
    expect(status).toEqual({ KeyId: key.KeyId, KeyRotationEnabled: true, RotationPeriodInDays: 365, NextRotationDate: expect.any(Date) })
    expect(Math.abs(given(status.NextRotationDate).getTime() - before - 365 * dayMs)).toBeLessThan(300_000)
    await disable(key.KeyId)
    await disable(key.KeyId)
    expect(await statusOf(key.KeyId)).toEqual({ KeyId: key.KeyId, KeyRotationEnabled: false })
  })

  test.each([90, 2560])('has a period of %i days as it was set, and of a year when it is set again without one', async (days) => {
    const key = await contract.key()
    await enable(key.KeyId, days)
    const first = await statusOf(key.KeyId)
    expect(first.RotationPeriodInDays).toBe(days)
    expect(Math.abs(given(first.NextRotationDate).getTime() - Date.now() - days * dayMs)).toBeLessThan(300_000)
    await enable(key.KeyId)
    expect((await statusOf(key.KeyId)).RotationPeriodInDays).toBe(365)
    await enable(key.KeyId, days)
    await disable(key.KeyId)
    await enable(key.KeyId)
    expect((await statusOf(key.KeyId)).RotationPeriodInDays).toBe(365)
  })

  test('that is asked for again with the same period keeps its date; with another it begins anew', async () => {
    const key = await contract.key()
    await enable(key.KeyId, 100)
    const first = await statusOf(key.KeyId)
    await enable(key.KeyId, 100)
    expect(await statusOf(key.KeyId)).toEqual(first)
    await enable(key.KeyId, 200)
    const second = await statusOf(key.KeyId)
    expect(second.RotationPeriodInDays).toBe(200)
    expect(Math.abs(given(second.NextRotationDate).getTime() - given(first.NextRotationDate).getTime() - 100 * dayMs)).toBeLessThan(300_000)
  })

  test('is shown for a disabled key, hidden while its deletion is pending, and back when that is cancelled', async () => {
    const key = await contract.key()
    await enable(key.KeyId, 180)
    const on = await statusOf(key.KeyId)
    await contract.kms.send(new DisableKeyCommand({ KeyId: key.KeyId }))
    expect(await statusOf(key.KeyId)).toEqual(on)
    await contract.kms.send(new ScheduleKeyDeletionCommand({ KeyId: key.KeyId, PendingWindowInDays: 7 }))
    expect(await statusOf(key.KeyId)).toEqual({ KeyId: key.KeyId, KeyRotationEnabled: false })
    await contract.kms.send(new CancelKeyDeletionCommand({ KeyId: key.KeyId }))
    expect(await statusOf(key.KeyId)).toEqual(on)
  })

  test('cannot be changed on a key that is disabled or waits for its deletion', async () => {
    const [disabled, doomed] = [await contract.disabledKey(), await contract.keyPendingDeletion()]
    for (const change of [enable, disable, rotate]) {
      await expectRefusal(change(disabled.KeyId), 'DisabledException', `${disabled.Arn} is disabled.`)
      await expectRefusal(change(doomed.KeyId), 'KMSInvalidStateException', `${doomed.Arn} is pending deletion.`)
    }
  })

  test('has bounds on its period', async () => {
    const key = await contract.key()
    await expectProblems(enable(key.KeyId, 89), [
      "Value '89' at 'rotationPeriodInDays' failed to satisfy constraint: Member must have value greater than or equal to 90",
    ])
    await expectProblems(enable(key.KeyId, 2561), [
      "Value '2561' at 'rotationPeriodInDays' failed to satisfy constraint: Member must have value less than or equal to 2560",
    ])
    expect(await statusOf(key.KeyId)).toEqual({ KeyId: key.KeyId, KeyRotationEnabled: false })
  })
})

describe('rotation on demand', () => {
  test('gives the key new material; what the old one encrypted stays readable and says by which', async () => {
    const key = await contract.key()
    const first = await materialOf(key.KeyId)
    const old = await encrypt(key.KeyId, 'before')
    const answer = await rotate(key.KeyId)
    expect(withoutMetadata(answer)).toEqual({ KeyId: key.Arn })
    const second = await materialOf(key.KeyId)
    expect(second).not.toBe(first)

    const opened = await decrypt(old)
    expect(Buffer.from(given(opened.Plaintext)).toString()).toBe('before')
    expect(opened.KeyMaterialId).toBe(first)
    const young = await encrypt(key.KeyId, 'after')
    expect(await decrypt(young)).toMatchObject({ KeyMaterialId: second })
    expect(await contract.kms.send(new GenerateDataKeyCommand({ KeyId: key.KeyId, KeySpec: 'AES_256' }))).toMatchObject({
      KeyMaterialId: second,
    })
    const moved = await contract.kms.send(new ReEncryptCommand({ CiphertextBlob: old, DestinationKeyId: key.KeyId }))
    expect(moved).toMatchObject({ SourceKeyMaterialId: first, DestinationKeyMaterialId: second })
    const spoilt = Buffer.from(old)
    spoilt[spoilt.length - 1] = (spoilt.at(-1) ?? 0) ^ 1
    expect((await refusalOf(decrypt(spoilt))).name).toBe('InvalidCiphertextException')
    expect((await statusOf(key.KeyId)).OnDemandRotationStartDate).toBeUndefined()
  })

  test('leaves the schedule alone, whether it is on or off', async () => {
    const key = await contract.key()
    await rotate(key.KeyId)
    expect(await statusOf(key.KeyId)).toEqual({ KeyId: key.KeyId, KeyRotationEnabled: false })
    await enable(key.KeyId, 90)
    const before = await statusOf(key.KeyId)
    await rotate(key.KeyId)
    expect(await statusOf(key.KeyId)).toEqual(before)
  })

  test('of one key by several callers at once leaves one current material, and every blob readable', async () => {
    const key = await contract.key()
    const outcomes = await Promise.allSettled([rotate(key.KeyId), rotate(key.KeyId), encrypt(key.KeyId, 'meanwhile')])
    expect(outcomes.some(({ status }) => status === 'fulfilled')).toBe(true)
    const refusals = outcomes.flatMap((result) => (result.status === 'rejected' ? [(result.reason as Error).name] : []))
    expect(refusals.filter((name) => name !== 'ConflictException')).toEqual([])
    const { Rotations: all } = await rotationsOf({ KeyId: key.KeyId, IncludeKeyMaterial: 'ALL_KEY_MATERIAL' })
    expect(all?.filter(({ KeyMaterialState: state }) => state === 'CURRENT').map(({ KeyMaterialId: id }) => id)).toEqual([
      await materialOf(key.KeyId),
    ])
    expect(all?.at(-1)?.KeyMaterialState).toBe('CURRENT')
    expect(await decrypt(await encrypt(key.KeyId, 'afterwards'))).toMatchObject({ KeyMaterialId: all?.at(-1)?.KeyMaterialId })
  })
})

describeOurs('the limit of rotations on demand', () => {
  test('ends them, and nothing else', async () => {
    const key = await contract.key()
    for (let round = 0; round < limit; round++) await rotate(key.KeyId)
    await expectRefusal(
      rotate(key.KeyId),
      'LimitExceededException',
      `The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations can be performed for this key: ${key.Arn}`,
    )
    expect((await rotationsOf({ KeyId: key.KeyId })).Rotations).toHaveLength(limit)
    await enable(key.KeyId)
    expect((await statusOf(key.KeyId)).KeyRotationEnabled).toBe(true)
  })
})

describe('ListKeyRotations', () => {
  test('is empty on a new key; with all key material it has the first one, without a date', async () => {
    const key = await contract.key()
    expect(await rotationsOf({ KeyId: key.KeyId })).toEqual({ Rotations: [], Truncated: false })
    expect(await rotationsOf({ KeyId: key.Arn, IncludeKeyMaterial: 'ALL_KEY_MATERIAL' })).toEqual({
      Rotations: [{ KeyId: key.KeyId, KeyMaterialId: key.CurrentKeyMaterialId, KeyMaterialState: 'CURRENT' }],
      Truncated: false,
    })
  })

  test('has an entry for each rotation, oldest first, and pages through them', async () => {
    const key = await contract.key()
    const materials = [given(key.CurrentKeyMaterialId)]
    for (let round = 0; round < limit; round++) {
      await rotate(key.KeyId)
      materials.push(await materialOf(key.KeyId))
    }
    const { Rotations: rotations } = await rotationsOf({ KeyId: key.KeyId, IncludeKeyMaterial: 'ROTATIONS_ONLY' })
    expect(rotations).toEqual(
      materials.slice(1).map((id, index) => ({
        KeyId: key.KeyId,
        KeyMaterialId: id,
        KeyMaterialState: index === limit - 1 ? 'CURRENT' : 'NON_CURRENT',
        RotationDate: expect.any(Date),
        RotationType: 'ON_DEMAND',
      })),
    )
    const paged: (string | undefined)[] = []
    let pages = 0
    const input = { KeyId: key.KeyId, IncludeKeyMaterial: 'ALL_KEY_MATERIAL', Limit: 1 } as const
    for await (const page of paginateListKeyRotations({ client: contract.kms }, input)) {
      pages++
      expect(page.Truncated).toBe(pages < materials.length)
      paged.push(...(page.Rotations ?? []).map(({ KeyMaterialId: id }) => id))
    }
    expect(paged).toEqual(materials)
    await expectRefusal(rotationsOf({ KeyId: key.KeyId, Marker: 'nonsense' }), 'InvalidMarkerException', 'Could not deserialize marker')
  })

  test('works in every state of the key', async () => {
    for (const key of [await contract.disabledKey(), await contract.keyPendingDeletion()])
      expect(await rotationsOf({ KeyId: key.KeyId })).toEqual({ Rotations: [], Truncated: false })
  })
})

describe('a key that cannot rotate', () => {
  const kinds = [
    { KeySpec: 'RSA_2048', KeyUsage: 'ENCRYPT_DECRYPT' },
    { KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' },
    { KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' },
  ] as const
  test.each(kinds)('$KeySpec: refused without words, after its state; a schedule can be switched off, which it is', async (kind) => {
    const key = await contract.key(kind)
    for (const call of [enable(key.KeyId), rotate(key.KeyId), rotationsOf({ KeyId: key.KeyId })])
      await expectRefusal(call, 'UnsupportedOperationException', '')
    await disable(key.KeyId)
    expect(await statusOf(key.KeyId)).toEqual({ KeyId: key.KeyId, KeyRotationEnabled: false })
    await contract.kms.send(new DisableKeyCommand({ KeyId: key.KeyId }))
    await expectRefusal(rotate(key.KeyId), 'DisabledException', `${key.Arn} is disabled.`)
    await expectRefusal(enable(key.KeyId), 'DisabledException', `${key.Arn} is disabled.`)
  })

  test('EXTERNAL without material: its origin has no schedule in any state, and it is pending import', async () => {
    const key = await contract.key({ Origin: 'EXTERNAL' })
    const wrong = `${key.Arn} origin is EXTERNAL which is not valid for this operation.`
    for (const call of [enable(key.KeyId), disable(key.KeyId), statusOf(key.KeyId)])
      await expectRefusal(call, 'UnsupportedOperationException', wrong)
    await expectRefusal(rotate(key.KeyId), 'KMSInvalidStateException', `${key.Arn} is pending import.`)
    expect(await rotationsOf({ KeyId: key.KeyId })).toEqual({ Rotations: [], Truncated: false })
  })
})

describe('the operations of rotation', () => {
  const calls = [
    ['EnableKeyRotation', enable],
    ['DisableKeyRotation', disable],
    ['GetKeyRotationStatus', statusOf],
    ['RotateKeyOnDemand', rotate],
    ['ListKeyRotations', (keyId: string) => rotationsOf({ KeyId: keyId })],
  ] as const
  test.each(calls)('%s takes a key id or key ARN, no alias', async (_name, call) => {
    const key = await contract.key()
    const alias = freshAlias()
    await contract.kms.send(new CreateAliasCommand({ AliasName: alias, TargetKeyId: key.KeyId }))
    await expectRefusal(call(alias), 'NotFoundException', `Invalid keyId '${alias}'`)
    const arn = `arn:aws:kms:${contract.region}:${contract.accountId}:key/${absentKeyId}`
    await expectRefusal(call(absentKeyId), 'NotFoundException', `Key '${arn}' does not exist`)
    await call(key.Arn)
  })
})

describeOurs('in policies and in the trail', () => {
  test('a policy may bound the period by kms:RotationPeriodInDays', async () => {
    const key = await contract.key()
    const user = await makeUser(contract.ours, `rotator-${process.pid}`, {
      rotate: {
        Version: '2012-10-17',
        Statement: [
          {
            Effect: 'Allow',
            Action: 'kms:EnableKeyRotation',
            Resource: '*',
            Condition: { NumericLessThanEquals: { 'kms:RotationPeriodInDays': '180' } },
          },
        ],
      },
    })
    const kms = contract.client({ credentials: user })
    const ask = (days?: number) => kms.send(new EnableKeyRotationCommand({ KeyId: key.KeyId, RotationPeriodInDays: days }))
    expect((await refusalOf(ask(181))).name).toBe('AccessDeniedException')
    expect((await refusalOf(ask())).name).toBe('AccessDeniedException')
    await ask(180)
    expect((await statusOf(key.KeyId)).RotationPeriodInDays).toBe(180)
    // Who says none has said a year.
    const other = await makeUser(contract.ours, `yearly-${process.pid}`, {
      rotate: {
        Version: '2012-10-17',
        Statement: [
          { Effect: 'Allow', Action: 'kms:*', Resource: '*' },
          { Effect: 'Deny', Action: 'kms:*', Resource: '*', Condition: { NumericEquals: { 'kms:RotationPeriodInDays': '365' } } },
        ],
      },
    })
    const kmsOfOther = contract.client({ credentials: other })
    const askAs = (days?: number) => kmsOfOther.send(new EnableKeyRotationCommand({ KeyId: key.KeyId, RotationPeriodInDays: days }))
    expect((await refusalOf(askAs())).name).toBe('AccessDeniedException')
    await askAs(364)
  })

  test('a rotation is recorded twice: the call, and the rotation itself as an event of the service', async () => {
    const key = await contract.key()
    const first = await materialOf(key.KeyId)
    await rotate(key.KeyId)
    const trail = new CloudTrailClient({
      endpoint: contract.ours.endpoint,
      region: contract.region,
      credentials: contract.ours.credentials,
      maxAttempts: 1,
    })
    const { Events: events = [] } = await trail.send(
      new LookupEventsCommand({ LookupAttributes: [{ AttributeKey: 'ResourceName', AttributeValue: key.Arn }] }),
    )
    trail.destroy()
    const records = events.map((event) => JSON.parse(given(event.CloudTrailEvent)) as Readonly<Record<string, unknown>>)
    expect(records.find(({ eventName }) => eventName === 'RotateKeyOnDemand')).toMatchObject({
      requestParameters: { keyId: key.KeyId },
      responseElements: { keyId: key.Arn },
      readOnly: false,
    })
    expect(records.filter(({ eventName }) => eventName === 'RotateKey')).toEqual([
      expect.objectContaining({
        eventType: 'AwsServiceEvent',
        userIdentity: { accountId: contract.accountId, invokedBy: 'AWS Internal' },
        serviceEventDetails: {
          rotationType: 'ON_DEMAND',
          keyOrigin: 'AWS_KMS',
          previousKeyMaterialId: first,
          currentKeyMaterialId: await materialOf(key.KeyId),
          keyId: key.KeyId,
        },
      }),
    ])
  })
})
