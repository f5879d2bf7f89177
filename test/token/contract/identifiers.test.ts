/** What may stand for a key in a request: key id, key ARN, alias, alias ARN; and what is said of what stands for none. */
import {
  CancelKeyDeletionCommand,
  CreateAliasCommand,
  DecryptCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EnableKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GenerateDataKeyWithoutPlaintextCommand,
  GetKeyPolicyCommand,
  ListAliasesCommand,
  ListKeyPoliciesCommand,
  ListResourceTagsCommand,
  PutKeyPolicyCommand,
  ReEncryptCommand,
  ScheduleKeyDeletionCommand,
  TagResourceCommand,
  UntagResourceCommand,
  UpdateKeyDescriptionCommand,
} from '@aws-sdk/client-kms'
import { beforeAll, describe, expect, test } from 'vitest'
import { absentKeyId, expectRefusal, freshAlias, given, refusalOf, useContract, type TestKey } from './kit.ts'

const contract = useContract()
let key: TestKey
let alias: string
let blob: Uint8Array
let policy: string
beforeAll(async () => {
  key = await contract.key()
  alias = freshAlias()
  await contract.kms.send(new CreateAliasCommand({ AliasName: alias, TargetKeyId: key.KeyId }))
  blob = given((await contract.kms.send(new EncryptCommand({ KeyId: key.KeyId, Plaintext: Buffer.from('x') }))).CiphertextBlob)
  policy = given((await contract.kms.send(new GetKeyPolicyCommand({ KeyId: key.KeyId }))).Policy)
})

interface Row {
  readonly operation: string
  /** The answer, or what of it says the key. */
  readonly call: (KeyId: string) => Promise<unknown>
}
const kms = () => contract.kms

/** Operations that take an alias, with the key that their answers name. */
const takeAliases: readonly Row[] = [
  { operation: 'DescribeKey', call: async (KeyId) => (await kms().send(new DescribeKeyCommand({ KeyId }))).KeyMetadata?.Arn },
  { operation: 'Encrypt', call: async (KeyId) => (await kms().send(new EncryptCommand({ KeyId, Plaintext: Buffer.from('x') }))).KeyId },
  { operation: 'Decrypt', call: async (KeyId) => (await kms().send(new DecryptCommand({ KeyId, CiphertextBlob: blob }))).KeyId },
  {
    operation: 'ReEncrypt, for the source',
    call: async (SourceKeyId) =>
      (await kms().send(new ReEncryptCommand({ SourceKeyId, DestinationKeyId: key.KeyId, CiphertextBlob: blob }))).SourceKeyId,
  },
  {
    operation: 'ReEncrypt, for the destination',
    call: async (DestinationKeyId) => (await kms().send(new ReEncryptCommand({ DestinationKeyId, CiphertextBlob: blob }))).KeyId,
  },
  {
    operation: 'GenerateDataKey',
    call: async (KeyId) => (await kms().send(new GenerateDataKeyCommand({ KeyId, KeySpec: 'AES_256' }))).KeyId,
  },
  {
    operation: 'GenerateDataKeyWithoutPlaintext',
    call: async (KeyId) => (await kms().send(new GenerateDataKeyWithoutPlaintextCommand({ KeyId, KeySpec: 'AES_256' }))).KeyId,
  },
]

/** Operations that take a key id or key ARN only. They may be repeated on one key, in this order. */
const takeKeysOnly: readonly Row[] = [
  { operation: 'EnableKey', call: (KeyId) => kms().send(new EnableKeyCommand({ KeyId })) },
  { operation: 'DisableKey', call: (KeyId) => kms().send(new DisableKeyCommand({ KeyId })) },
  { operation: 'UpdateKeyDescription', call: (KeyId) => kms().send(new UpdateKeyDescriptionCommand({ KeyId, Description: 'd' })) },
  { operation: 'TagResource', call: (KeyId) => kms().send(new TagResourceCommand({ KeyId, Tags: [{ TagKey: 'a', TagValue: 'b' }] })) },
  { operation: 'UntagResource', call: (KeyId) => kms().send(new UntagResourceCommand({ KeyId, TagKeys: ['a'] })) },
  { operation: 'ListResourceTags', call: (KeyId) => kms().send(new ListResourceTagsCommand({ KeyId })) },
  { operation: 'GetKeyPolicy', call: (KeyId) => kms().send(new GetKeyPolicyCommand({ KeyId })) },
  { operation: 'PutKeyPolicy', call: (KeyId) => kms().send(new PutKeyPolicyCommand({ KeyId, Policy: policy })) },
  { operation: 'ListKeyPolicies', call: (KeyId) => kms().send(new ListKeyPoliciesCommand({ KeyId })) },
  { operation: 'ListAliases', call: (KeyId) => kms().send(new ListAliasesCommand({ KeyId })) },
  {
    operation: 'ScheduleKeyDeletion and CancelKeyDeletion',
    async call(KeyId) {
      await kms().send(new ScheduleKeyDeletionCommand({ KeyId }))
      return kms().send(new CancelKeyDeletionCommand({ KeyId }))
    },
  },
]

const aliasArn = (name: string, region = contract.region) => `arn:aws:kms:${region}:${contract.accountId}:${name}`
const keyArn = (id: string, region = contract.region) => `arn:aws:kms:${region}:${contract.accountId}:key/${id}`

describe.each(takeAliases)('$operation', ({ call }) => {
  test('takes key id, key ARN, alias name and alias ARN, and answers the key’s ARN for each', async () => {
    for (const reference of [key.KeyId, key.Arn, alias, aliasArn(alias)]) expect(await call(reference)).toBe(key.Arn)
  })

  test('says of an alias that is not there that it is not found', async () => {
    const name = freshAlias()
    for (const reference of [name, aliasArn(name)])
      await expectRefusal(call(reference), 'NotFoundException', `Alias ${aliasArn(name)} is not found.`)
  })
})

describe.each(takeKeysOnly)('$operation', ({ call }) => {
  test('takes key id and key ARN, but no alias', async () => {
    const { KeyId, Arn } = await contract.key()
    await expect(call(KeyId)).resolves.toBeDefined()
    await expect(call(Arn)).resolves.toBeDefined()
    for (const reference of [alias, aliasArn(alias)])
      await expectRefusal(call(reference), 'NotFoundException', `Invalid keyId '${reference}'`)
  })
})

describe.each([...takeAliases, ...takeKeysOnly])('$operation', ({ call }) => {
  test('says of a key that is not there that it does not exist, by its ARN, however it was named', async () => {
    const multiRegion = `mrk-${absentKeyId.replaceAll('-', '')}`
    for (const id of [absentKeyId, multiRegion]) {
      for (const reference of [id, keyArn(id)])
        await expectRefusal(call(reference), 'NotFoundException', `Key '${keyArn(id)}' does not exist`)
    }
  })

  test('says of what is no key id that it is none', async () => {
    for (const reference of ['fake-key-id', absentKeyId.replaceAll('-', ''), 'mrk-fake-key-id']) {
      await expectRefusal(call(reference), 'NotFoundException', `Invalid keyId '${reference}'`)
    }
  })

  test('refuses an ARN of another region', async () => {
    await expectRefusal(call(keyArn(key.KeyId, contract.otherRegion)), 'NotFoundException', `Invalid arn ${contract.otherRegion}`)
  })

  test('refuses ARNs that are no key’s: of another service, another partition, another form', async () => {
    for (const reference of [
      'arn:aws:kms',
      `arn:aws:s3:::bucket`,
      `arn:aws-cn:kms:${contract.region}:${contract.accountId}:key/${key.KeyId}`,
      `arn:aws:kms:${contract.region}:${contract.accountId}:grant/${key.KeyId}`,
      `arn:aws:kms:${contract.region}:${contract.accountId}:key/`,
      `arn:aws:kms:${contract.region}::key/${key.KeyId}`,
    ]) {
      const { name, status } = await refusalOf(call(reference))
      expect({ reference, name: ['InvalidArnException', 'NotFoundException'].includes(name) ? 'refused' : name, status }).toEqual({
        reference,
        name: 'refused',
        status: 400,
      })
    }
  })
})

test('a key of one region is not there in another', async () => {
  const elsewhere = contract.client({ region: contract.otherRegion })
  await expectRefusal(
    elsewhere.send(new DescribeKeyCommand({ KeyId: key.KeyId })),
    'NotFoundException',
    `Key '${keyArn(key.KeyId, contract.otherRegion)}' does not exist`,
  )
  await expectRefusal(elsewhere.send(new DescribeKeyCommand({ KeyId: key.Arn })), 'NotFoundException', `Invalid arn ${contract.region}`)
  await expectRefusal(
    elsewhere.send(new DescribeKeyCommand({ KeyId: alias })),
    'NotFoundException',
    `Alias ${aliasArn(alias, contract.otherRegion)} is not found.`,
  )
})
