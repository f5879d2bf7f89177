/** Aliases: names for keys, unique in an account and region, moved and removed without touching the key. */
import {
  CreateAliasCommand,
  DeleteAliasCommand,
  DescribeKeyCommand,
  EncryptCommand,
  ListAliasesCommand,
  paginateListAliases,
  UpdateAliasCommand,
  type AliasListEntry,
} from '@aws-sdk/client-kms'
import { describe, expect, test } from 'vitest'
import { absentKeyId, expectProblems, expectRefusal, freshAlias, given, useContract, withoutMetadata } from './kit.ts'

const contract = useContract({ env: { HOLDFAST_QUOTA_ALIASES_PER_KEY: '60' } })
const arnOf = (name: string, region = contract.region) => `arn:aws:kms:${region}:${contract.accountId}:${name}`
const create = (AliasName: string, TargetKeyId: string) => contract.kms.send(new CreateAliasCommand({ AliasName, TargetKeyId }))

async function aliasesOf(input: { readonly KeyId?: string } = {}): Promise<AliasListEntry[]> {
  const found: AliasListEntry[] = []
  for await (const page of paginateListAliases({ client: contract.kms, pageSize: 100 }, input)) found.push(...(page.Aliases ?? []))
  return found
}

const namesOf = (entries: readonly AliasListEntry[]) => entries.map(({ AliasName }) => given(AliasName)).sort()

async function aliasFor(keyId: string): Promise<string> {
  const name = freshAlias()
  await create(name, keyId)
  return name
}

describe('CreateAlias', () => {
  test('names a key by its id or by its ARN and answers nothing', async () => {
    const key = await contract.key()
    for (const target of [key.KeyId, key.Arn]) {
      const name = freshAlias()
      expect(withoutMetadata(await create(name, target))).toEqual({})
      expect((await contract.kms.send(new DescribeKeyCommand({ KeyId: name }))).KeyMetadata?.Arn).toBe(key.Arn)
    }
  })

  test('wants the prefix', async () => {
    await expectRefusal(
      create('no-prefix', (await contract.key()).KeyId),
      'ValidationException',
      'Alias must start with the prefix "alias/". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html',
    )
  })

  test('refuses the prefix of AWS’s own aliases, and only that', async () => {
    const { KeyId } = await contract.key()
    await expectRefusal(create('alias/aws/mine', KeyId), 'NotAuthorizedException', '')
    const name = freshAlias().replace('contract', 'awesome')
    await create(name, KeyId)
    expect((await aliasesOf({ KeyId })).map(({ AliasName }) => AliasName)).toEqual([name])
  })

  test('refuses characters that no alias has', async () => {
    const { KeyId } = await contract.key()
    await expectProblems(create('alias/with space', KeyId), [
      "Value 'alias/with space' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$",
    ])
    await expectRefusal(create('alias/my:alias', KeyId), 'ValidationException', 'alias/my:alias contains invalid characters for an alias')
    await expectRefusal(create('alias/', KeyId), 'ValidationException', /./)
  })

  test('takes a name of 256 characters and none longer', async () => {
    const { KeyId } = await contract.key()
    const longest = freshAlias().padEnd(256, 'x')
    await create(longest, KeyId)
    expect((await aliasesOf({ KeyId })).map(({ AliasName }) => AliasName)).toEqual([longest])
    const longer = `${longest}x`
    await expectProblems(create(longer, KeyId), [
      `Value '${longer}' at 'aliasName' failed to satisfy constraint: Member must have length less than or equal to 256`,
    ])
  })

  test('refuses to name an alias', async () => {
    const name = await aliasFor((await contract.key()).KeyId)
    for (const target of [name, arnOf(name)]) {
      await expectRefusal(create(freshAlias(), target), 'ValidationException', 'Aliases must refer to keys. Not aliases')
    }
  })

  test('refuses a name that exists, also for the same key', async () => {
    const key = await contract.key()
    const name = await aliasFor(key.KeyId)
    for (const target of [key.KeyId, (await contract.key()).KeyId]) {
      await expectRefusal(create(name, target), 'AlreadyExistsException', `An alias with the name ${arnOf(name)} already exists`)
    }
  })

  test('gives a name to one of many that ask for it at once', async () => {
    const keys = await Promise.all(Array.from({ length: 8 }, () => contract.key()))
    const name = freshAlias()
    const outcomes = await Promise.allSettled(keys.map(({ KeyId }) => create(name, KeyId)))
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    const refused = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [(outcome.reason as Error).name] : []))
    expect(refused).toEqual(Array.from({ length: 7 }, () => 'AlreadyExistsException'))
    const winner = keys[outcomes.findIndex(({ status }) => status === 'fulfilled')]
    expect((await contract.kms.send(new DescribeKeyCommand({ KeyId: name }))).KeyMetadata?.Arn).toBe(winner?.Arn)
  })

  test('refuses a key that is not there or is pending deletion', async () => {
    await expectRefusal(
      create(freshAlias(), absentKeyId),
      'NotFoundException',
      `Key 'arn:aws:kms:${contract.region}:${contract.accountId}:key/${absentKeyId}' does not exist`,
    )
    const doomed = await contract.keyPendingDeletion()
    await expectRefusal(create(freshAlias(), doomed.KeyId), 'KMSInvalidStateException', `${doomed.Arn} is pending deletion.`)
  })

  test('lets each region have the same name for another key', async () => {
    const elsewhere = contract.client({ region: contract.otherRegion })
    const here = await contract.key()
    const there = await contract.key({}, elsewhere)
    const name = await aliasFor(here.KeyId)
    await elsewhere.send(new CreateAliasCommand({ AliasName: name, TargetKeyId: there.KeyId }))
    expect((await contract.kms.send(new DescribeKeyCommand({ KeyId: name }))).KeyMetadata?.Arn).toBe(here.Arn)
    expect((await elsewhere.send(new DescribeKeyCommand({ KeyId: name }))).KeyMetadata?.Arn).toBe(there.Arn)
  })
})

describe('UpdateAlias', () => {
  test('moves the name to another key, and what asks by the name follows', async () => {
    const [from, to] = [await contract.key(), await contract.key()]
    const name = await aliasFor(from.KeyId)
    const [before] = await aliasesOf({ KeyId: from.KeyId })
    expect(withoutMetadata(await contract.kms.send(new UpdateAliasCommand({ AliasName: name, TargetKeyId: to.KeyId })))).toEqual({})
    expect((await contract.kms.send(new EncryptCommand({ KeyId: name, Plaintext: Buffer.from('x') }))).KeyId).toBe(to.Arn)
    expect(await aliasesOf({ KeyId: from.KeyId })).toEqual([])
    const [after] = await aliasesOf({ KeyId: to.KeyId })
    expect(after).toMatchObject({ AliasName: name, AliasArn: arnOf(name), TargetKeyId: to.KeyId, CreationDate: before?.CreationDate })
    expect(given(after?.LastUpdatedDate).getTime()).toBeGreaterThanOrEqual(given(before?.LastUpdatedDate).getTime())
  })

  test('of an alias that is not there is refused', async () => {
    const name = freshAlias()
    await expectRefusal(
      contract.kms.send(new UpdateAliasCommand({ AliasName: name, TargetKeyId: (await contract.key()).KeyId })),
      'NotFoundException',
      `Alias ${arnOf(name)} is not found.`,
    )
  })

  test('refuses a target that is an alias, is not there or is pending deletion; the alias stays where it was', async () => {
    const key = await contract.key()
    const name = await aliasFor(key.KeyId)
    const other = await aliasFor((await contract.key()).KeyId)
    const doomed = await contract.keyPendingDeletion()
    const move = (TargetKeyId: string) => contract.kms.send(new UpdateAliasCommand({ AliasName: name, TargetKeyId }))
    await expectRefusal(move(other), 'ValidationException', 'Aliases must refer to keys. Not aliases')
    await expectRefusal(move(absentKeyId), 'NotFoundException', /^Key '.*' does not exist$/)
    await expectRefusal(move(doomed.KeyId), 'KMSInvalidStateException', `${doomed.Arn} is pending deletion.`)
    expect((await aliasesOf({ KeyId: key.KeyId })).map(({ TargetKeyId }) => TargetKeyId)).toEqual([key.KeyId])
  })

  test('moves a name to a key of the same type and usage only, whatever the spec', async () => {
    const [symmetric, rsa, longer, curve, other] = [
      await contract.key(),
      await contract.key({ KeySpec: 'RSA_2048', KeyUsage: 'ENCRYPT_DECRYPT' }),
      await contract.key({ KeySpec: 'RSA_2048', KeyUsage: 'SIGN_VERIFY' }),
      await contract.key({ KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' }),
      await contract.key({ KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' }),
    ]
    const move = (AliasName: string, TargetKeyId: string) => contract.kms.send(new UpdateAliasCommand({ AliasName, TargetKeyId }))
    const ofSymmetric = await aliasFor(symmetric.KeyId)
    await expectRefusal(
      move(ofSymmetric, rsa.KeyId),
      'ValidationException',
      `Alias ${ofSymmetric} cannot be changed from a symmetric CMK to an asymmetric CMK. The type of the current CMK and the new CMK must be the same.`,
    )
    const ofRsa = await aliasFor(rsa.KeyId)
    await expectRefusal(move(ofRsa, symmetric.KeyId), 'ValidationException', /from an asymmetric CMK to a symmetric CMK/)
    for (const [target, usage] of [
      [longer, 'SIGN_VERIFY'],
      [other, 'GENERATE_VERIFY_MAC'],
    ] as const) {
      await expectRefusal(
        move(ofSymmetric, target.KeyId),
        'ValidationException',
        `Alias ${ofSymmetric} cannot be changed from a CMK with key usage ENCRYPT_DECRYPT to a CMK with key usage ${usage}. The key usage of the current CMK and the new CMK must be the same.`,
      )
    }
    expect(namesOf(await aliasesOf({ KeyId: symmetric.KeyId }))).toEqual([ofSymmetric])
    expect(namesOf(await aliasesOf({ KeyId: rsa.KeyId }))).toEqual([ofRsa])
    const signing = await aliasFor(longer.KeyId)
    await move(signing, curve.KeyId)
    expect(namesOf(await aliasesOf({ KeyId: curve.KeyId }))).toEqual([signing])
  })

  test('checks the name as CreateAlias does', async () => {
    const { KeyId } = await contract.key()
    const move = (AliasName: string) => contract.kms.send(new UpdateAliasCommand({ AliasName, TargetKeyId: KeyId }))
    await expectRefusal(move('no-prefix'), 'ValidationException', /^Alias must start with the prefix "alias\/"\./)
    await expectRefusal(move('alias/aws/s3'), 'NotAuthorizedException', '')
  })
})

describe('DeleteAlias', () => {
  test('removes the name, answers nothing, leaves the key, and frees the name', async () => {
    const key = await contract.key()
    const name = await aliasFor(key.KeyId)
    expect(withoutMetadata(await contract.kms.send(new DeleteAliasCommand({ AliasName: name })))).toEqual({})
    expect(await aliasesOf({ KeyId: key.KeyId })).toEqual([])
    expect((await contract.kms.send(new DescribeKeyCommand({ KeyId: key.KeyId }))).KeyMetadata?.KeyState).toBe('Enabled')
    await expectRefusal(
      contract.kms.send(new DescribeKeyCommand({ KeyId: name })),
      'NotFoundException',
      `Alias ${arnOf(name)} is not found.`,
    )
    await create(name, (await contract.key()).KeyId)
  })

  test('of an alias that is not there is refused', async () => {
    const name = freshAlias()
    await expectRefusal(
      contract.kms.send(new DeleteAliasCommand({ AliasName: name })),
      'NotFoundException',
      `Alias ${arnOf(name)} is not found.`,
    )
    await expectRefusal(contract.kms.send(new DeleteAliasCommand({ AliasName: 'no-prefix' })), 'ValidationException', /./)
  })
})

describe('ListAliases', () => {
  test('shows name, ARN, the target’s plain id and both dates', async () => {
    const { KeyId } = await contract.key()
    const name = await aliasFor(KeyId)
    expect(await aliasesOf({ KeyId })).toEqual([
      { AliasName: name, AliasArn: arnOf(name), TargetKeyId: KeyId, CreationDate: expect.any(Date), LastUpdatedDate: expect.any(Date) },
    ])
  })

  test('of one key, named by id or ARN, shows its aliases and no others; also while it is pending deletion', async () => {
    const key = await contract.key()
    const names = [await aliasFor(key.KeyId), await aliasFor(key.KeyId)].sort()
    await aliasFor((await contract.key()).KeyId)
    for (const KeyId of [key.KeyId, key.Arn]) expect(namesOf(await aliasesOf({ KeyId }))).toEqual(names)
    const unnamed = await contract.key()
    expect(await aliasesOf({ KeyId: unnamed.KeyId })).toEqual([])
  })

  test('of a key that is not there is refused', async () => {
    await expectRefusal(contract.kms.send(new ListAliasesCommand({ KeyId: absentKeyId })), 'NotFoundException', /^Key '.*' does not exist$/)
  })

  test('pages, each alias once, fifty on a page unless told otherwise', async () => {
    const { KeyId } = await contract.key()
    const names: string[] = []
    for (let i = 0; i < 53; i++) names.push(await aliasFor(KeyId))
    const first = await contract.kms.send(new ListAliasesCommand({ KeyId }))
    expect(first.Aliases).toHaveLength(50)
    expect(first.Truncated).toBe(true)
    const second = await contract.kms.send(new ListAliasesCommand({ KeyId, Marker: given(first.NextMarker) }))
    expect(second.Truncated).toBe(false)
    expect(second.NextMarker).toBeUndefined()
    expect(namesOf([...given(first.Aliases), ...given(second.Aliases)])).toEqual(names.sort())
    const small = await contract.kms.send(new ListAliasesCommand({ KeyId, Limit: 1 }))
    expect(small.Aliases).toHaveLength(1)
    // A marker is good for the listing that gave it only.
    await expectRefusal(contract.kms.send(new ListAliasesCommand({ Marker: 'nonsense' })), 'InvalidMarkerException', /./)
  })
})
