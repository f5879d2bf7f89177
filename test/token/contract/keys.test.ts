/** Keys: made, shown, listed, enabled, disabled, scheduled for deletion, described. */
import {
  CancelKeyDeletionCommand,
  CreateKeyCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EnableKeyCommand,
  GetKeyPolicyCommand,
  ListKeysCommand,
  ListResourceTagsCommand,
  paginateListKeys,
  ScheduleKeyDeletionCommand,
  UpdateKeyDescriptionCommand,
  type KeySpec,
  type KeyUsageType,
} from '@aws-sdk/client-kms'
import { describe, expect, test } from 'vitest'
import { describeOurs, expectProblems, expectRefusal, given, useContract, uuid, withoutMetadata } from './kit.ts'

const contract = useContract()
const metadataOf = async (keyId: string) => given((await contract.kms.send(new DescribeKeyCommand({ KeyId: keyId }))).KeyMetadata)
const dayMs = 86_400_000

describe('CreateKey', () => {
  test('without parameters makes a symmetric encryption key, enabled, of the caller’s account and region', async () => {
    const before = Date.now()
    const { KeyMetadata: metadata } = await contract.kms.send(new CreateKeyCommand({}))
    const keyId = given(metadata?.KeyId)
    expect(keyId).toMatch(uuid)
    expect(metadata).toEqual({
      AWSAccountId: contract.accountId,
      KeyId: keyId,
      Arn: `arn:aws:kms:${contract.region}:${contract.accountId}:key/${keyId}`,
      CreationDate: expect.any(Date),
      Enabled: true,
      Description: '',
      KeyUsage: 'ENCRYPT_DECRYPT',
      KeyState: 'Enabled',
      Origin: 'AWS_KMS',
      KeyManager: 'CUSTOMER',
      CustomerMasterKeySpec: 'SYMMETRIC_DEFAULT',
      KeySpec: 'SYMMETRIC_DEFAULT',
      EncryptionAlgorithms: ['SYMMETRIC_DEFAULT'],
      MultiRegion: false,
      CurrentKeyMaterialId: expect.stringMatching(/^[0-9a-f]{64}$/),
    })
    expect(Math.abs(given(metadata?.CreationDate).getTime() - before)).toBeLessThan(300_000)
    expect(await metadataOf(keyId)).toEqual(metadata)
  })

  test('keeps the description, the tags and the policy that it is given', async () => {
    const policy = JSON.stringify({
      Version: '2012-10-17',
      Statement: [
        { Sid: 'own', Effect: 'Allow', Principal: { AWS: `arn:aws:iam::${contract.accountId}:root` }, Action: 'kms:*', Resource: '*' },
      ],
    })
    const key = await contract.key({
      Description: 'for invoices — été',
      Policy: policy,
      Tags: [
        { TagKey: 'team', TagValue: 'payments' },
        { TagKey: 'empty', TagValue: '' },
      ],
    })
    expect(key.Description).toBe('for invoices — été')
    expect((await contract.kms.send(new GetKeyPolicyCommand({ KeyId: key.KeyId }))).Policy).toBe(policy)
    expect(
      (await contract.kms.send(new ListResourceTagsCommand({ KeyId: key.KeyId }))).Tags?.sort((a, b) =>
        given(a.TagKey) < given(b.TagKey) ? -1 : 1,
      ),
    ).toEqual([
      { TagKey: 'empty', TagValue: '' },
      { TagKey: 'team', TagValue: 'payments' },
    ])
  })

  test('takes the old name of KeySpec, but not both names at once', async () => {
    expect((await contract.key({ CustomerMasterKeySpec: 'SYMMETRIC_DEFAULT' })).KeySpec).toBe('SYMMETRIC_DEFAULT')
    expect(
      (await contract.key({ KeySpec: 'SYMMETRIC_DEFAULT', KeyUsage: 'ENCRYPT_DECRYPT', Origin: 'AWS_KMS', MultiRegion: false }))
        .CustomerMasterKeySpec,
    ).toBe('SYMMETRIC_DEFAULT')
    await expectRefusal(
      contract.key({ KeySpec: 'SYMMETRIC_DEFAULT', CustomerMasterKeySpec: 'SYMMETRIC_DEFAULT' }),
      'ValidationException',
      'You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.',
    )
  })

  test.each<KeySpec>(['RSA_2048', 'ECC_NIST_P256', 'HMAC_256', 'ML_DSA_65'])('of spec %s wants to be told the usage', async (spec) => {
    await expectRefusal(
      contract.key({ KeySpec: spec }),
      'ValidationException',
      'You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.',
    )
  })

  test.each<{ readonly spec: KeySpec; readonly usage: KeyUsageType }>([
    { spec: 'RSA_2048', usage: 'KEY_AGREEMENT' },
    { spec: 'ECC_NIST_P256', usage: 'ENCRYPT_DECRYPT' },
    { spec: 'SYMMETRIC_DEFAULT', usage: 'SIGN_VERIFY' },
    { spec: 'HMAC_256', usage: 'ENCRYPT_DECRYPT' },
    { spec: 'ECC_SECG_P256K1', usage: 'KEY_AGREEMENT' },
    { spec: 'ML_DSA_44', usage: 'GENERATE_VERIFY_MAC' },
  ])('refuses the usage $usage for the spec $spec', async ({ spec, usage }) => {
    await expectRefusal(
      contract.key({ KeySpec: spec, KeyUsage: usage }),
      'ValidationException',
      `KeyUsage ${usage} is not compatible with KeySpec ${spec}`,
    )
  })

  test('makes no key when its tags or its policy are refused', async () => {
    const count = async () => {
      let keys = 0
      for await (const page of paginateListKeys({ client: contract.kms }, {})) keys += page.Keys?.length ?? 0
      return keys
    }
    const before = await count()
    const twice = [
      { TagKey: 'a', TagValue: '1' },
      { TagKey: 'a', TagValue: '2' },
    ]
    await expectRefusal(contract.key({ Tags: twice }), 'TagException', 'Duplicate tag keys')
    await expectRefusal(
      contract.key({ Tags: [{ TagKey: 'AWS:x', TagValue: '' }] }),
      'TagException',
      'Tags beginning with aws: are reserved',
    )
    await expectRefusal(contract.key({ Policy: '{"Version"' }), 'MalformedPolicyDocumentException', /./)
    expect(await count()).toBe(before)
  })

  describeOurs('of a key store that is not there', () => {
    test('is refused, never made as something else', async () => {
      await expectRefusal(contract.key({ CustomKeyStoreId: 'cks-1234567890abcdef0' }), 'CustomKeyStoreNotFoundException', /./)
      await expectRefusal(contract.key({ XksKeyId: 'external-1' }), 'ValidationException', /./)
    })
  })
})

describe('ListKeys', () => {
  test('shows id and ARN of every key of the account in the region, in pages of the size asked for', async () => {
    const keys = []
    for (let i = 0; i < 5; i++) keys.push(await contract.key())
    const seen: string[] = []
    let marker: string | undefined
    let pages = 0
    do {
      const page = await contract.kms.send(new ListKeysCommand({ Limit: 2, ...(marker !== undefined && { Marker: marker }) }))
      for (const entry of given(page.Keys)) {
        expect(entry).toEqual({
          KeyId: expect.stringMatching(/./),
          KeyArn: `arn:aws:kms:${contract.region}:${contract.accountId}:key/${entry.KeyId}`,
        })
        seen.push(given(entry.KeyId))
      }
      expect(page.Truncated).toBe(page.NextMarker !== undefined)
      expect(page.Truncated === true ? page.Keys?.length : 2).toBe(2)
      marker = page.NextMarker
      pages++
    } while (marker !== undefined)
    expect(new Set(seen).size).toBe(seen.length)
    expect(seen).toEqual(expect.arrayContaining(keys.map(({ KeyId }) => KeyId)))
    expect(pages).toBe(Math.ceil(seen.length / 2))
  })

  test('fits up to a hundred keys on a page when not told otherwise, and up to a thousand when asked', async () => {
    const page = await contract.kms.send(new ListKeysCommand({ Limit: 1000 }))
    expect(page.Truncated).toBe(false)
    expect('NextMarker' in page && page.NextMarker !== undefined).toBe(false)
    const first = await contract.kms.send(new ListKeysCommand({}))
    expect(first.Keys?.length).toBe(Math.min(100, given(page.Keys).length))
  })

  test('refuses a marker that no listing gave', async () => {
    await expectRefusal(contract.kms.send(new ListKeysCommand({ Marker: 'nonsense' })), 'InvalidMarkerException', /./)
    await expectRefusal(
      contract.kms.send(new ListKeysCommand({ Marker: Buffer.from('{}').toString('base64') })),
      'InvalidMarkerException',
      /./,
    )
  })

  test('in another region shows that region’s keys only', async () => {
    const key = await contract.key({}, contract.client({ region: contract.otherRegion }))
    const here = (await contract.kms.send(new ListKeysCommand({ Limit: 1000 }))).Keys?.map(({ KeyId }) => KeyId)
    const there = (await contract.client({ region: contract.otherRegion }).send(new ListKeysCommand({ Limit: 1000 }))).Keys?.map(
      ({ KeyId }) => KeyId,
    )
    expect(there).toContain(key.KeyId)
    expect(here).not.toContain(key.KeyId)
  })
})

describe('EnableKey and DisableKey', () => {
  test('switch the key, show in its metadata, answer nothing, and may be repeated', async () => {
    const { KeyId } = await contract.key()
    for (const { command, Enabled, KeyState } of [
      { command: new DisableKeyCommand({ KeyId }), Enabled: false, KeyState: 'Disabled' },
      { command: new DisableKeyCommand({ KeyId }), Enabled: false, KeyState: 'Disabled' },
      { command: new EnableKeyCommand({ KeyId }), Enabled: true, KeyState: 'Enabled' },
      { command: new EnableKeyCommand({ KeyId }), Enabled: true, KeyState: 'Enabled' },
    ]) {
      expect(withoutMetadata(await contract.kms.send(command))).toEqual({})
      expect(await metadataOf(KeyId)).toMatchObject({ Enabled, KeyState })
    }
  })
})

describe('UpdateKeyDescription', () => {
  test('replaces the description and may empty it', async () => {
    const { KeyId } = await contract.key({ Description: 'old' })
    for (const Description of ['new', '', 'x'.repeat(8192)]) {
      expect(withoutMetadata(await contract.kms.send(new UpdateKeyDescriptionCommand({ KeyId, Description })))).toEqual({})
      expect((await metadataOf(KeyId)).Description).toBe(Description)
    }
  })
})

describe('ScheduleKeyDeletion', () => {
  test('disables the key, sets the date and answers the key’s ARN; without a period it is 30 days', async () => {
    const { KeyId, Arn } = await contract.key()
    const answer = withoutMetadata(await contract.kms.send(new ScheduleKeyDeletionCommand({ KeyId })))
    expect(answer).toEqual({ KeyId: Arn, DeletionDate: expect.any(Date), KeyState: 'PendingDeletion', PendingWindowInDays: 30 })
    expect(Math.abs(given(answer.DeletionDate).getTime() - Date.now() - 30 * dayMs)).toBeLessThan(dayMs)
    const metadata = await metadataOf(KeyId)
    expect(metadata).toMatchObject({ Enabled: false, KeyState: 'PendingDeletion', DeletionDate: answer.DeletionDate })
  })

  test.each([7, 30])('takes a period of %i days', async (days) => {
    const { KeyId } = await contract.key()
    const answer = await contract.kms.send(new ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: days }))
    expect(answer.PendingWindowInDays).toBe(days)
    expect(Math.abs(given(answer.DeletionDate).getTime() - Date.now() - days * dayMs)).toBeLessThan(dayMs)
  })

  test.each([1, 6, 31, 365])('refuses a period of %i days, which the model allows and the service does not', async (days) => {
    const { KeyId } = await contract.key()
    await expectRefusal(contract.kms.send(new ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: days })), 'ValidationException', /./)
    expect((await metadataOf(KeyId)).KeyState).toBe('Enabled')
  })

  test.each([
    { days: 0, rule: 'greater than or equal to 1' },
    { days: 366, rule: 'less than or equal to 365' },
  ])('refuses a period of $days days in the words of the model', async ({ days, rule }) => {
    const { KeyId } = await contract.key()
    await expectProblems(contract.kms.send(new ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: days })), [
      `Value '${days}' at 'pendingWindowInDays' failed to satisfy constraint: Member must have value ${rule}`,
    ])
  })

  test('of a key that is pending deletion is refused and changes nothing', async () => {
    const { KeyId, Arn } = await contract.keyPendingDeletion()
    const { DeletionDate } = await metadataOf(KeyId)
    await expectRefusal(
      contract.kms.send(new ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: 30 })),
      'KMSInvalidStateException',
      `${Arn} is pending deletion.`,
    )
    expect((await metadataOf(KeyId)).DeletionDate).toEqual(DeletionDate)
  })

  test('works on a disabled key too', async () => {
    const { KeyId } = await contract.disabledKey()
    expect((await contract.kms.send(new ScheduleKeyDeletionCommand({ KeyId }))).KeyState).toBe('PendingDeletion')
  })
})

describe('CancelKeyDeletion', () => {
  test('leaves the key disabled and without a date, and answers its ARN', async () => {
    const { KeyId, Arn } = await contract.keyPendingDeletion()
    expect(withoutMetadata(await contract.kms.send(new CancelKeyDeletionCommand({ KeyId })))).toEqual({ KeyId: Arn })
    const metadata = await metadataOf(KeyId)
    expect(metadata).toMatchObject({ Enabled: false, KeyState: 'Disabled' })
    expect(metadata.DeletionDate).toBeUndefined()
  })

  test('of a key that is not pending deletion is refused', async () => {
    const enabled = await contract.key()
    const disabled = await contract.disabledKey()
    for (const { KeyId, Arn } of [enabled, disabled]) {
      await expectRefusal(
        contract.kms.send(new CancelKeyDeletionCommand({ KeyId })),
        'KMSInvalidStateException',
        `${Arn} is not pending deletion.`,
      )
    }
  })
})
