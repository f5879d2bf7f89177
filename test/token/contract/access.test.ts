/**
 * Who may do what: users, roles, accounts, key policies, identity policies and their conditions, seen from outside through the AWS
 * SDKs. Users and accounts are made by Holdfast's own operations, so that this file is about Holdfast only.
 */
import {
  CreateAliasCommand,
  CreateKeyCommand,
  DecryptCommand,
  DeleteAliasCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EnableKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GenerateRandomCommand,
  GetKeyPolicyCommand,
  ListAliasesCommand,
  ListKeysCommand,
  ListResourceTagsCommand,
  PutKeyPolicyCommand,
  ReEncryptCommand,
  ScheduleKeyDeletionCommand,
  TagResourceCommand,
  UntagResourceCommand,
  UpdateAliasCommand,
  type CreateKeyCommandInput,
  type KMSClient,
} from '@aws-sdk/client-kms'
import { AssumeRoleCommand, GetCallerIdentityCommand, STSClient, type AssumeRoleCommandInput } from '@aws-sdk/client-sts'
import { beforeAll, expect, test } from 'vitest'
import { administer, makeAccount, makeUser, rawCall, type Credentials } from '../holdfast.ts'
import { describeOurs, expectRefusal, freshAlias, given, refusalOf, useContract, type TestKey } from './kit.ts'

const contract = useContract()
const secret = Buffer.from('a secret')

type Statement = Readonly<Record<string, unknown>>
const allow = (Action: string | readonly string[], more: Statement = {}): Statement => ({ Effect: 'Allow', Action, Resource: '*', ...more })
const deny = (Action: string | readonly string[], more: Statement = {}): Statement => ({ Effect: 'Deny', Action, Resource: '*', ...more })
const document = (...statements: readonly Statement[]) => ({ Version: '2012-10-17', Statement: statements })
/** For key policies: who it is about. */
const by = (principal: string, statement: Statement): Statement => ({ ...statement, Principal: { AWS: principal } })
const rootOf = (accountId: string) => `arn:aws:iam::${accountId}:root`
const everything = () => by(rootOf(contract.accountId), allow('kms:*'))

let names = 0
const freshName = (): string => `u${process.pid}-${++names}`

interface User extends Credentials {
  readonly arn: string
  readonly name: string
  readonly kms: KMSClient
}

/** A user with these statements as its identity policy. */
async function userWith(statements: readonly Statement[] = [], more: Parameters<typeof makeUser>[3] = {}): Promise<User> {
  const name = freshName()
  const made = await makeUser(contract.ours, name, statements.length > 0 ? { inline: document(...statements) } : {}, more)
  return { ...made, name, kms: contract.client({ credentials: made }) }
}

const keyWith = (...statements: readonly Statement[]): Promise<TestKey> =>
  contract.key({ Policy: JSON.stringify(document(everything(), ...statements)) })

/** A key whose policy says nothing of the account: identity policies count for nothing. */
const keyOnlyFor = (...statements: readonly Statement[]): Promise<TestKey> =>
  contract.key({ Policy: JSON.stringify(document(...statements)), BypassPolicyLockoutSafetyCheck: true })

const encrypt = (kms: KMSClient, KeyId: string, EncryptionContext?: Record<string, string>) =>
  kms.send(new EncryptCommand({ KeyId, Plaintext: secret, ...(EncryptionContext && { EncryptionContext }) }))
const decrypt = (
  kms: KMSClient,
  CiphertextBlob: Uint8Array | undefined,
  more: { KeyId?: string; EncryptionContext?: Record<string, string> } = {},
) => kms.send(new DecryptCommand({ CiphertextBlob, ...more }))

const noIdentity = (user: User, action: string, resource: string) =>
  `User: ${user.arn} is not authorized to perform: ${action} on resource: ${resource} because no identity-based policy allows the ${action} action`

/** Allowed or not, whatever the words. */
async function isAllowed(call: Promise<unknown>): Promise<boolean> {
  try {
    await call
    return true
  } catch (error) {
    const { name, message } = error as Error
    if (name === 'AccessDeniedException') return false
    throw new Error(`neither allowed nor denied: ${name} ${message}`, { cause: error })
  }
}

const unseenCiphertext =
  'The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.'

describeOurs('a user', () => {
  test('without policies may do nothing with a key whose policy leaves it to the account', async () => {
    const user = await userWith()
    const key = await contract.key()
    await expectRefusal(encrypt(user.kms, key.KeyId), 'AccessDeniedException', noIdentity(user, 'kms:Encrypt', key.Arn))
    await expectRefusal(
      user.kms.send(new DescribeKeyCommand({ KeyId: key.KeyId })),
      'AccessDeniedException',
      noIdentity(user, 'kms:DescribeKey', key.Arn),
    )
    await expectRefusal(user.kms.send(new ListKeysCommand({})), 'AccessDeniedException', noIdentity(user, 'kms:ListKeys', '*'))
    await expectRefusal(user.kms.send(new CreateKeyCommand({})), 'AccessDeniedException', noIdentity(user, 'kms:CreateKey', '*'))
    await expectRefusal(
      user.kms.send(new GenerateRandomCommand({ NumberOfBytes: 8 })),
      'AccessDeniedException',
      noIdentity(user, 'kms:GenerateRandom', '*'),
    )
  })

  test('may do what its identity policy allows, on the keys it names, and no more', async () => {
    const [mine, other] = [await contract.key(), await contract.key()]
    const user = await userWith([allow('kms:Encrypt', { Resource: mine.Arn })])
    const { CiphertextBlob } = await encrypt(user.kms, mine.KeyId)
    await expectRefusal(encrypt(user.kms, other.KeyId), 'AccessDeniedException', noIdentity(user, 'kms:Encrypt', other.Arn))
    await expectRefusal(
      decrypt(user.kms, CiphertextBlob, { KeyId: mine.KeyId }),
      'AccessDeniedException',
      noIdentity(user, 'kms:Decrypt', mine.Arn),
    )
  })

  test('is told of a blob that it may not open only what is said of one that nobody has', async () => {
    const key = await contract.key()
    const user = await userWith([allow('kms:Encrypt')])
    const { CiphertextBlob } = await encrypt(user.kms, key.KeyId)
    await expectRefusal(decrypt(user.kms, CiphertextBlob), 'AccessDeniedException', unseenCiphertext)
    await expectRefusal(
      user.kms.send(new ReEncryptCommand({ CiphertextBlob, DestinationKeyId: key.KeyId })),
      'AccessDeniedException',
      unseenCiphertext,
    )
  })

  test('is refused what any statement denies, whoever allows it', async () => {
    const user = await userWith([allow('kms:*'), deny('kms:Decrypt')])
    const key = await contract.key()
    const { CiphertextBlob } = await encrypt(user.kms, key.KeyId)
    await expectRefusal(
      decrypt(user.kms, CiphertextBlob, { KeyId: key.KeyId }),
      'AccessDeniedException',
      `User: ${user.arn} is not authorized to perform: kms:Decrypt on resource: ${key.Arn} with an explicit deny in an identity-based policy`,
    )
    const guarded = await keyWith(by(user.arn, deny('kms:Encrypt')))
    await expectRefusal(
      encrypt(user.kms, guarded.KeyId),
      'AccessDeniedException',
      `User: ${user.arn} is not authorized to perform: kms:Encrypt on resource: ${guarded.Arn} with an explicit deny in a resource-based policy`,
    )
  })

  test('is helped by no identity policy where the key’s policy does not name the account', async () => {
    const admin = await userWith([allow('kms:*')])
    const named = await userWith()
    const key = await keyOnlyFor(by(named.arn, allow(['kms:Encrypt', 'kms:DescribeKey'])))
    await expectRefusal(
      encrypt(admin.kms, key.KeyId),
      'AccessDeniedException',
      `User: ${admin.arn} is not authorized to perform: kms:Encrypt on resource: ${key.Arn} because no resource-based policy allows the kms:Encrypt action`,
    )
    // The root is the account: it is not named either.
    expect(await isAllowed(encrypt(contract.kms, key.KeyId))).toBe(false)
    // Whom the key's policy names needs no other.
    expect(await isAllowed(encrypt(named.kms, key.KeyId))).toBe(true)
    expect(await isAllowed(named.kms.send(new DisableKeyCommand({ KeyId: key.KeyId })))).toBe(false)
  })

  test('is refused before it is told that a dry run would have succeeded', async () => {
    const user = await userWith()
    const { KeyId } = await contract.key()
    expect((await refusalOf(user.kms.send(new EncryptCommand({ KeyId, Plaintext: secret, DryRun: true })))).name).toBe(
      'AccessDeniedException',
    )
  })

  test('has other rights from the moment its policy is changed', async () => {
    const user = await userWith()
    const { KeyId } = await contract.key()
    const put = (PolicyDocument: string) =>
      administer(contract.ours, 'PutUserPolicy', { UserName: user.name, PolicyName: 'p', PolicyDocument })
    expect(await isAllowed(encrypt(user.kms, KeyId))).toBe(false)
    await put(JSON.stringify(document(allow('kms:Encrypt'))))
    expect(await isAllowed(encrypt(user.kms, KeyId))).toBe(true)
    await put(JSON.stringify(document(allow('kms:Describe*'))))
    expect(await isAllowed(encrypt(user.kms, KeyId))).toBe(false)
    await put(JSON.stringify(document(allow('kms:enc?ypt'))))
    expect(await isAllowed(encrypt(user.kms, KeyId))).toBe(true)
    await administer(contract.ours, 'DeleteUserPolicy', { UserName: user.name, PolicyName: 'p' })
    expect(await isAllowed(encrypt(user.kms, KeyId))).toBe(false)
  })

  test('cannot sign with a key that is inactive or deleted, or once it is gone itself', async () => {
    const invalid = { name: 'UnrecognizedClientException', message: 'The security token included in the request is invalid.', status: 400 }
    const user = await userWith([allow('kms:*')])
    const list = () => user.kms.send(new ListKeysCommand({}))
    const set = (Status: string) => administer(contract.ours, 'UpdateAccessKey', { AccessKeyId: user.accessKeyId, Status })
    await list()
    await set('Inactive')
    expect(await refusalOf(list())).toEqual(invalid)
    await set('Active')
    await list()
    await administer(contract.ours, 'DeleteAccessKey', { AccessKeyId: user.accessKeyId })
    expect(await refusalOf(list())).toEqual(invalid)
    const gone = await userWith([allow('kms:*')])
    await gone.kms.send(new ListKeysCommand({}))
    await administer(contract.ours, 'DeleteUser', { UserName: gone.name })
    expect(await refusalOf(gone.kms.send(new ListKeysCommand({})))).toEqual(invalid)
  })

  test('has no secret that an older access key of its had', async () => {
    const user = await userWith([allow('kms:*')])
    const wrong = contract.client({
      credentials: { accessKeyId: user.accessKeyId, secretAccessKey: `${user.secretAccessKey.slice(0, -1)}!` },
    })
    expect((await refusalOf(wrong.send(new ListKeysCommand({})))).name).toBe('InvalidSignatureException')
  })
})

describeOurs('aliases and tags', () => {
  test('an alias is made, moved and removed with both the alias’s and the key’s permission', async () => {
    const [one, two] = [await contract.key(), await contract.key()]
    const AliasName = freshAlias()
    const aliasArn = `arn:aws:kms:${contract.region}:${contract.accountId}:${AliasName}`
    const onAlias = await userWith([allow('kms:*Alias', { Resource: aliasArn })])
    const onKeys = await userWith([allow('kms:*Alias', { Resource: [one.Arn, two.Arn] })])
    const onOneKey = await userWith([allow('kms:*Alias', { Resource: [aliasArn, one.Arn] })])
    const onAll = await userWith([allow('kms:*Alias', { Resource: [aliasArn, one.Arn, two.Arn] })])
    const create = (user: User) => user.kms.send(new CreateAliasCommand({ AliasName, TargetKeyId: one.KeyId }))
    const move = (user: User) => user.kms.send(new UpdateAliasCommand({ AliasName, TargetKeyId: two.KeyId }))
    const remove = (user: User) => user.kms.send(new DeleteAliasCommand({ AliasName }))
    await expectRefusal(create(onAlias), 'AccessDeniedException', noIdentity(onAlias, 'kms:CreateAlias', one.Arn))
    await expectRefusal(create(onKeys), 'AccessDeniedException', noIdentity(onKeys, 'kms:CreateAlias', aliasArn))
    await create(onOneKey)
    await expectRefusal(move(onOneKey), 'AccessDeniedException', noIdentity(onOneKey, 'kms:UpdateAlias', two.Arn))
    await move(onAll)
    await expectRefusal(remove(onOneKey), 'AccessDeniedException', noIdentity(onOneKey, 'kms:DeleteAlias', two.Arn))
    await remove(onAll)
  })

  test('a key is made with tags by who may tag', async () => {
    const maker = await userWith([allow('kms:CreateKey')])
    const tagger = await userWith([allow(['kms:CreateKey', 'kms:TagResource'])])
    const make = (user: User, Tags?: { TagKey: string; TagValue: string }[]) =>
      user.kms.send(new CreateKeyCommand({ ...(Tags && { Tags }) }))
    const tags = [{ TagKey: 'team', TagValue: 'a' }]
    expect(await isAllowed(make(maker))).toBe(true)
    expect(await isAllowed(make(maker, tags))).toBe(false)
    expect(await isAllowed(make(tagger, tags))).toBe(true)
  })

  test('listings of the account need the permission on everything', async () => {
    const { Arn } = await contract.key()
    const one = await userWith([allow(['kms:ListKeys', 'kms:ListAliases'], { Resource: Arn })])
    const all = await userWith([allow(['kms:ListKeys', 'kms:ListAliases'])])
    for (const command of [new ListKeysCommand({}), new ListAliasesCommand({}), new ListAliasesCommand({ KeyId: Arn })]) {
      expect(await isAllowed(one.kms.send(command))).toBe(false)
      expect(await isAllowed(all.kms.send(command))).toBe(true)
    }
  })
})

describeOurs('a condition', () => {
  /** A user who may encrypt if the condition holds. */
  const encrypterIf = (Condition: Statement, more?: Parameters<typeof makeUser>[3]) =>
    userWith([allow(['kms:Encrypt', 'kms:GenerateDataKey'], { Condition })], more)
  let key: TestKey
  beforeAll(async () => {
    key = await contract.key({ Tags: [{ TagKey: 'team', TagValue: 'red' }] })
  })

  test('on a value of the encryption context', async () => {
    const user = await encrypterIf({ StringEquals: { 'kms:EncryptionContext:tenant': 'blue' } })
    expect(await isAllowed(encrypt(user.kms, key.KeyId, { tenant: 'blue' }))).toBe(true)
    expect(await isAllowed(encrypt(user.kms, key.KeyId, { tenant: 'blue', more: 'x' }))).toBe(true)
    for (const context of [undefined, { tenant: 'green' }, { tenant: 'Blue' }, { other: 'blue' }]) {
      expect(await isAllowed(encrypt(user.kms, key.KeyId, context))).toBe(false)
    }
  })

  test('on the names in the encryption context', async () => {
    const user = await encrypterIf({
      'ForAllValues:StringEquals': { 'kms:EncryptionContextKeys': ['tenant', 'stage'] },
      Null: { 'kms:EncryptionContextKeys': 'false' },
    })
    expect(await isAllowed(encrypt(user.kms, key.KeyId, { tenant: 'x' }))).toBe(true)
    expect(await isAllowed(encrypt(user.kms, key.KeyId, { tenant: 'x', stage: 'y' }))).toBe(true)
    expect(await isAllowed(encrypt(user.kms, key.KeyId, { tenant: 'x', other: 'y' }))).toBe(false)
    expect(await isAllowed(encrypt(user.kms, key.KeyId))).toBe(false)
  })

  test('with a variable of the caller', async () => {
    const statement = allow(['kms:Encrypt', 'kms:Decrypt'], {
      Condition: { StringEquals: { 'kms:EncryptionContext:owner': '${aws:username}' } },
    })
    const [one, two] = [await userWith([statement]), await userWith([statement])]
    const { CiphertextBlob } = await encrypt(one.kms, key.KeyId, { owner: one.name })
    expect(await isAllowed(encrypt(two.kms, key.KeyId, { owner: one.name }))).toBe(false)
    expect(await isAllowed(decrypt(one.kms, CiphertextBlob, { EncryptionContext: { owner: one.name } }))).toBe(true)
    expect(await isAllowed(decrypt(two.kms, CiphertextBlob, { EncryptionContext: { owner: one.name } }))).toBe(false)
  })

  test('on the tags of the key, which is as good as the tags are now', async () => {
    const { KeyId } = await contract.key({ Tags: [{ TagKey: 'team', TagValue: 'red' }] })
    const user = await encrypterIf({ StringEquals: { 'aws:ResourceTag/team': 'red' } })
    expect(await isAllowed(encrypt(user.kms, KeyId))).toBe(true)
    await contract.kms.send(new TagResourceCommand({ KeyId, Tags: [{ TagKey: 'team', TagValue: 'green' }] }))
    expect(await isAllowed(encrypt(user.kms, KeyId))).toBe(false)
    await contract.kms.send(new UntagResourceCommand({ KeyId, TagKeys: ['team'] }))
    expect(await isAllowed(encrypt(user.kms, KeyId))).toBe(false)
  })

  test('on the tags of the caller, against those of the key', async () => {
    const condition = { StringEquals: { 'aws:ResourceTag/team': '${aws:PrincipalTag/team}' } }
    const [red, green, none] = [
      await encrypterIf(condition, { tags: { team: 'red' } }),
      await encrypterIf(condition, { tags: { team: 'green' } }),
      await encrypterIf(condition),
    ]
    expect(await isAllowed(encrypt(red.kms, key.KeyId))).toBe(true)
    expect(await isAllowed(encrypt(green.kms, key.KeyId))).toBe(false)
    expect(await isAllowed(encrypt(none.kms, key.KeyId))).toBe(false)
  })

  test('on tags that are being set or removed', async () => {
    const { KeyId } = await contract.key()
    const user = await userWith([
      allow('kms:TagResource', {
        Condition: { StringEquals: { 'aws:RequestTag/stage': ['dev', 'test'] }, 'ForAllValues:StringEquals': { 'aws:TagKeys': ['stage'] } },
      }),
      allow('kms:UntagResource', { Condition: { 'ForAnyValue:StringEquals': { 'aws:TagKeys': ['stage'] } } }),
    ])
    const tag = (tags: Record<string, string>) =>
      user.kms.send(new TagResourceCommand({ KeyId, Tags: Object.entries(tags).map(([TagKey, TagValue]) => ({ TagKey, TagValue })) }))
    expect(await isAllowed(tag({ stage: 'dev' }))).toBe(true)
    expect(await isAllowed(tag({ stage: 'prod' }))).toBe(false)
    expect(await isAllowed(tag({ stage: 'dev', other: 'x' }))).toBe(false)
    expect(await isAllowed(user.kms.send(new UntagResourceCommand({ KeyId, TagKeys: ['other'] })))).toBe(false)
    expect(await isAllowed(user.kms.send(new UntagResourceCommand({ KeyId, TagKeys: ['stage'] })))).toBe(true)
  })

  test('on the alias by which the key was asked for, and on the aliases that it has', async () => {
    const { KeyId } = await contract.key()
    const name = freshAlias()
    await contract.kms.send(new CreateAliasCommand({ AliasName: name, TargetKeyId: KeyId }))
    const byAlias = await encrypterIf({ StringEquals: { 'kms:RequestAlias': name } })
    expect(await isAllowed(encrypt(byAlias.kms, name))).toBe(true)
    expect(await isAllowed(encrypt(byAlias.kms, `arn:aws:kms:${contract.region}:${contract.accountId}:${name}`))).toBe(true)
    expect(await isAllowed(encrypt(byAlias.kms, KeyId))).toBe(false)
    const named = await encrypterIf({ 'ForAnyValue:StringLike': { 'kms:ResourceAliases': `${name.slice(0, -1)}?` } })
    expect(await isAllowed(encrypt(named.kms, KeyId))).toBe(true)
    await contract.kms.send(new DeleteAliasCommand({ AliasName: name }))
    expect(await isAllowed(encrypt(named.kms, KeyId))).toBe(false)
  })

  test.each<{ readonly what: string; readonly holds: Statement; readonly fails: Statement }>([
    {
      what: 'the address',
      holds: { IpAddress: { 'aws:SourceIp': '127.0.0.0/8' } },
      fails: { IpAddress: { 'aws:SourceIp': ['10.0.0.0/8', '::1/128'] } },
    },
    { what: 'the transport', holds: { Bool: { 'aws:SecureTransport': 'false' } }, fails: { Bool: { 'aws:SecureTransport': 'true' } } },
    {
      what: 'the caller’s account',
      holds: { StringEquals: { 'kms:CallerAccount': '111122223333' } },
      fails: { StringEquals: { 'kms:CallerAccount': '444455556666' } },
    },
    {
      what: 'the caller’s ARN',
      holds: { ArnLike: { 'aws:PrincipalArn': 'arn:aws:iam::*:user/*' } },
      fails: { ArnLike: { 'aws:PrincipalArn': 'arn:aws:iam::*:role/*' } },
    },
    {
      what: 'the caller’s kind',
      holds: { StringEquals: { 'aws:PrincipalType': 'User' } },
      fails: { StringEquals: { 'aws:PrincipalType': 'Account' } },
    },
    {
      what: 'the region',
      holds: { StringEquals: { 'aws:RequestedRegion': 'us-east-1' } },
      fails: { StringEquals: { 'aws:RequestedRegion': 'eu-west-1' } },
    },
    {
      what: 'the time',
      holds: { DateGreaterThan: { 'aws:CurrentTime': '2020-01-01T00:00:00Z' } },
      fails: { DateLessThan: { 'aws:CurrentTime': '2020-01-01T00:00:00Z' } },
    },
    {
      what: 'the key’s spec',
      holds: { StringEquals: { 'kms:KeySpec': 'SYMMETRIC_DEFAULT' } },
      fails: { StringEquals: { 'kms:KeySpec': 'RSA_2048' } },
    },
    {
      what: 'the key’s usage',
      holds: { StringEquals: { 'kms:KeyUsage': 'ENCRYPT_DECRYPT' } },
      fails: { StringEquals: { 'kms:KeyUsage': 'SIGN_VERIFY' } },
    },
    {
      what: 'the key’s origin',
      holds: { StringEquals: { 'kms:KeyOrigin': 'AWS_KMS' } },
      fails: { StringEquals: { 'kms:KeyOrigin': 'EXTERNAL' } },
    },
    {
      what: 'whether the key is multi-Region',
      holds: { Bool: { 'kms:MultiRegion': 'false' } },
      fails: { Bool: { 'kms:MultiRegion': 'true' } },
    },
    {
      what: 'the algorithm',
      holds: { StringEquals: { 'kms:EncryptionAlgorithm': 'SYMMETRIC_DEFAULT' } },
      fails: { StringEquals: { 'kms:EncryptionAlgorithm': 'RSAES_OAEP_SHA_256' } },
    },
    {
      what: 'a service in between, of which there is none',
      holds: { StringEqualsIfExists: { 'kms:ViaService': 's3.us-east-1.amazonaws.com' } },
      fails: { StringEquals: { 'kms:ViaService': 's3.us-east-1.amazonaws.com' } },
    },
    {
      what: 'the key’s account',
      holds: { StringEquals: { 'aws:ResourceAccount': '111122223333' } },
      fails: { StringEquals: { 'aws:ResourceAccount': '4' } },
    },
    {
      what: 'the program',
      holds: { StringLike: { 'aws:UserAgent': 'aws-sdk-js/*' } },
      fails: { StringLike: { 'aws:UserAgent': 'curl*' } },
    },
  ])('on $what', async ({ holds, fails }) => {
    expect(await isAllowed(encrypt((await encrypterIf(holds)).kms, key.KeyId))).toBe(true)
    expect(await isAllowed(encrypt((await encrypterIf(fails)).kms, key.KeyId))).toBe(false)
    // In a key's own policy it means the same.
    const user = await userWith()
    const [open, closed] = [
      await keyOnlyFor(by(user.arn, allow('kms:Encrypt', { Condition: holds }))),
      await keyOnlyFor(by(user.arn, allow('kms:Encrypt', { Condition: fails }))),
    ]
    expect(await isAllowed(encrypt(user.kms, open.KeyId))).toBe(true)
    expect(await isAllowed(encrypt(user.kms, closed.KeyId))).toBe(false)
  })

  test('on the waiting period, which is 30 days when it is not said', async () => {
    const user = await userWith([
      allow('kms:ScheduleKeyDeletion', { Condition: { NumericGreaterThanEquals: { 'kms:ScheduleKeyDeletionPendingWindowInDays': '14' } } }),
    ])
    const schedule = async (days?: number) => {
      const { KeyId } = await contract.key()
      return user.kms.send(new ScheduleKeyDeletionCommand({ KeyId, ...(days !== undefined && { PendingWindowInDays: days }) }))
    }
    expect(await isAllowed(schedule(7))).toBe(false)
    expect(await isAllowed(schedule(14))).toBe(true)
    expect(await isAllowed(schedule())).toBe(true)
  })

  test('on what kind of key is made, also where the request leaves it to the default', async () => {
    const user = await userWith([
      allow('kms:CreateKey', {
        Condition: {
          StringEquals: { 'kms:KeySpec': 'SYMMETRIC_DEFAULT', 'kms:KeyUsage': 'ENCRYPT_DECRYPT', 'kms:KeyOrigin': 'AWS_KMS' },
          Bool: { 'kms:MultiRegion': 'false', 'kms:BypassPolicyLockoutSafetyCheck': 'false' },
        },
      }),
    ])
    const make = (input: CreateKeyCommandInput) => user.kms.send(new CreateKeyCommand(input))
    expect(await isAllowed(make({}))).toBe(true)
    for (const input of [
      { KeySpec: 'RSA_2048', KeyUsage: 'SIGN_VERIFY' },
      { MultiRegion: true },
      { Origin: 'EXTERNAL' },
      { BypassPolicyLockoutSafetyCheck: true },
    ] as const) {
      expect(await isAllowed(make(input))).toBe(false)
    }
  })

  test('of ReEncrypt is asked of each key with its own context', async () => {
    const [from, to] = [await contract.key(), await contract.key()]
    const user = await userWith([
      allow('kms:Encrypt'),
      allow('kms:ReEncryptFrom', { Resource: from.Arn, Condition: { StringEquals: { 'kms:EncryptionContext:side': 'source' } } }),
      allow('kms:ReEncryptTo', { Resource: to.Arn, Condition: { StringEquals: { 'kms:EncryptionContext:side': 'destination' } } }),
    ])
    const move = async (source: string, destination: string, DestinationKeyId = to.KeyId) =>
      user.kms.send(
        new ReEncryptCommand({
          CiphertextBlob: (await encrypt(user.kms, from.KeyId, { side: source })).CiphertextBlob,
          SourceEncryptionContext: { side: source },
          DestinationEncryptionContext: { side: destination },
          DestinationKeyId,
        }),
      )
    expect(await isAllowed(move('source', 'destination'))).toBe(true)
    expect(await isAllowed(move('destination', 'destination'))).toBe(false)
    expect(await isAllowed(move('source', 'source'))).toBe(false)
    expect(await isAllowed(move('source', 'destination', from.KeyId))).toBe(false)
    const same = await userWith([
      allow(['kms:Encrypt', 'kms:ReEncrypt*'], { Condition: { BoolIfExists: { 'kms:ReEncryptOnSameKey': 'true' } } }),
    ])
    const { CiphertextBlob } = await encrypt(same.kms, from.KeyId)
    expect(await isAllowed(same.kms.send(new ReEncryptCommand({ CiphertextBlob, DestinationKeyId: from.KeyId })))).toBe(true)
    expect(await isAllowed(same.kms.send(new ReEncryptCommand({ CiphertextBlob, DestinationKeyId: to.KeyId })))).toBe(false)
  })
})

describeOurs('a key policy', () => {
  test('protects its author from locking itself out, by the author’s own rights', async () => {
    const user = await userWith([allow('kms:*')])
    const { KeyId } = await contract.key()
    const put = (statements: readonly Statement[], BypassPolicyLockoutSafetyCheck?: boolean) =>
      user.kms.send(
        new PutKeyPolicyCommand({
          KeyId,
          Policy: JSON.stringify(document(...statements)),
          ...(BypassPolicyLockoutSafetyCheck !== undefined && { BypassPolicyLockoutSafetyCheck }),
        }),
      )
    const another = await userWith()
    const lockedOut = 'The new key policy will not allow you to update the key policy in the future.'
    await expectRefusal(put([by(another.arn, allow('kms:*'))]), 'MalformedPolicyDocumentException', lockedOut)
    await expectRefusal(put([everything(), by(user.arn, deny('kms:Put*'))]), 'MalformedPolicyDocumentException', lockedOut)
    await put([by(user.arn, allow('kms:*'))])
    await put([by(another.arn, allow('kms:*'))], true)
    expect(await isAllowed(user.kms.send(new GetKeyPolicyCommand({ KeyId })))).toBe(false)
    expect(await isAllowed(another.kms.send(new GetKeyPolicyCommand({ KeyId })))).toBe(true)
  })

  test('for everybody opens the key to the account’s users, who need no policy of their own', async () => {
    const user = await userWith()
    const key = await keyOnlyFor(by('*', allow('kms:Encrypt')))
    expect(await isAllowed(encrypt(user.kms, key.KeyId))).toBe(true)
    expect(await isAllowed(user.kms.send(new DescribeKeyCommand({ KeyId: key.KeyId })))).toBe(false)
  })

  test('with NotAction and NotPrincipal speaks of the others', async () => {
    const [one, two] = [await userWith([allow('kms:*')]), await userWith([allow('kms:*')])]
    const key = await keyWith({
      Effect: 'Deny',
      NotPrincipal: { AWS: [one.arn, rootOf(contract.accountId)] },
      NotAction: 'kms:DescribeKey',
      Resource: '*',
    })
    expect(await isAllowed(encrypt(one.kms, key.KeyId))).toBe(true)
    expect(await isAllowed(encrypt(two.kms, key.KeyId))).toBe(false)
    expect(await isAllowed(two.kms.send(new DescribeKeyCommand({ KeyId: key.KeyId })))).toBe(true)
  })
})

describeOurs('a role', () => {
  const stsOf = (credentials: Credentials = contract.ours.credentials) =>
    new STSClient({ endpoint: contract.ours.endpoint, region: contract.region, credentials, maxAttempts: 1 })

  async function roleFor(principal: string, statements: readonly Statement[], trust: Statement = {}, more: Statement = {}) {
    const RoleName = freshName()
    const { Role } = await administer<{ Role: { Arn: string; RoleId: string } }>(contract.ours, 'CreateRole', {
      RoleName,
      AssumeRolePolicyDocument: JSON.stringify(
        document({ Effect: 'Allow', Principal: { AWS: principal }, Action: 'sts:AssumeRole', ...trust }),
      ),
      ...more,
    })
    if (statements.length > 0) {
      await administer(contract.ours, 'PutRolePolicy', {
        RoleName,
        PolicyName: 'inline',
        PolicyDocument: JSON.stringify(document(...statements)),
      })
    }
    return { name: RoleName, arn: Role.Arn, id: Role.RoleId }
  }

  const assume = (who: Credentials, RoleArn: string, more: Partial<AssumeRoleCommandInput> = {}) =>
    stsOf(who).send(new AssumeRoleCommand({ RoleArn, RoleSessionName: 'session-1', ...more }))

  async function sessionOf(
    who: Credentials,
    roleArn: string,
    more: Partial<AssumeRoleCommandInput> = {},
  ): Promise<Credentials & { readonly kms: KMSClient }> {
    const { Credentials: made } = await assume(who, roleArn, more)
    const credentials = {
      accessKeyId: given(made?.AccessKeyId),
      secretAccessKey: given(made?.SecretAccessKey),
      sessionToken: given(made?.SessionToken),
    }
    return { ...credentials, kms: contract.client({ credentials }) }
  }

  test('is assumed by whom it trusts, and its session has the role’s rights, not the caller’s', async () => {
    const user = await userWith()
    const role = await roleFor(user.arn, [allow('kms:Encrypt')])
    const answer = await assume(user, role.arn)
    expect(answer.AssumedRoleUser).toEqual({
      AssumedRoleId: `${role.id}:session-1`,
      Arn: `arn:aws:sts::${contract.accountId}:assumed-role/${role.name}/session-1`,
    })
    expect(answer.Credentials?.AccessKeyId).toMatch(/^ASIA[A-Z2-7]{16}$/)
    expect(Math.abs(given(answer.Credentials?.Expiration).getTime() - Date.now() - 3_600_000)).toBeLessThan(60_000)
    const session = await sessionOf(user, role.arn)
    const { KeyId, Arn } = await contract.key()
    expect(await isAllowed(encrypt(session.kms, KeyId))).toBe(true)
    await expectRefusal(
      session.kms.send(new DescribeKeyCommand({ KeyId })),
      'AccessDeniedException',
      `User: arn:aws:sts::${contract.accountId}:assumed-role/${role.name}/session-1 is not authorized to perform: kms:DescribeKey on resource: ${Arn} because no identity-based policy allows the kms:DescribeKey action`,
    )
    const identity = await stsOf(session).send(new GetCallerIdentityCommand({}))
    expect(identity).toMatchObject({ UserId: `${role.id}:session-1`, Account: contract.accountId, Arn: answer.AssumedRoleUser?.Arn })
  })

  test('is not assumed by others, by the root, or when it is not there, in words that do not tell which', async () => {
    const [user, other] = [await userWith(), await userWith([allow('sts:AssumeRole')])]
    const role = await roleFor(user.arn, [])
    for (const call of [assume(other, role.arn), assume(user, `${role.arn}-not-there`)]) {
      const refusal = await refusalOf(call)
      expect(refusal).toMatchObject({ name: 'AccessDenied', status: 403 })
      expect(refusal.message).toMatch(/is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::/)
    }
    const ofRoot = await roleFor(rootOf(contract.accountId), [])
    expect((await refusalOf(assume(contract.ours.credentials, ofRoot.arn))).name).toBe('AccessDenied')
  })

  test('that trusts its account is assumed by users whose own policies allow it', async () => {
    const role = await roleFor(rootOf(contract.accountId), [])
    const [may, mayNot] = [await userWith([allow('sts:AssumeRole', { Resource: role.arn })]), await userWith()]
    await expect(assume(may, role.arn)).resolves.toBeDefined()
    expect((await refusalOf(assume(mayNot, role.arn))).name).toBe('AccessDenied')
  })

  test('may want an external id', async () => {
    const user = await userWith()
    const role = await roleFor(user.arn, [], { Condition: { StringEquals: { 'sts:ExternalId': 'agreed' } } })
    await expect(assume(user, role.arn, { ExternalId: 'agreed' })).resolves.toBeDefined()
    expect((await refusalOf(assume(user, role.arn, { ExternalId: 'guessed' }))).name).toBe('AccessDenied')
    expect((await refusalOf(assume(user, role.arn))).name).toBe('AccessDenied')
  })

  test('session is limited by the policy that it was given', async () => {
    const user = await userWith()
    const role = await roleFor(user.arn, [allow(['kms:Encrypt', 'kms:DescribeKey'])])
    const session = await sessionOf(user, role.arn, { Policy: JSON.stringify(document(allow(['kms:DescribeKey', 'kms:Decrypt']))) })
    const { KeyId } = await contract.key()
    expect(await isAllowed(session.kms.send(new DescribeKeyCommand({ KeyId })))).toBe(true)
    const refusal = await refusalOf(encrypt(session.kms, KeyId))
    expect(refusal.message).toContain('because no session policy allows the kms:Encrypt action')
    expect(await isAllowed(session.kms.send(new DisableKeyCommand({ KeyId })))).toBe(false)
  })

  test('session carries tags, which conditions see, if the role lets it', async () => {
    const user = await userWith()
    const statement = allow('kms:Encrypt', { Condition: { StringEquals: { 'aws:PrincipalTag/team': 'red' } } })
    const role = await roleFor(user.arn, [statement], { Action: ['sts:AssumeRole', 'sts:TagSession'] })
    const { KeyId } = await contract.key()
    const tagged = (Value: string) => sessionOf(user, role.arn, { Tags: [{ Key: 'team', Value }] })
    expect(await isAllowed(encrypt((await tagged('red')).kms, KeyId))).toBe(true)
    expect(await isAllowed(encrypt((await tagged('green')).kms, KeyId))).toBe(false)
    expect(await isAllowed(encrypt((await sessionOf(user, role.arn)).kms, KeyId))).toBe(false)
    const untaggable = await roleFor(user.arn, [statement])
    expect((await refusalOf(assume(user, untaggable.arn, { Tags: [{ Key: 'team', Value: 'red' }] }))).name).toBe('AccessDenied')
  })

  test('is named in key policies by its own ARN or by a session’s', async () => {
    const user = await userWith()
    const role = await roleFor(user.arn, [])
    const [session, other] = [await sessionOf(user, role.arn), await sessionOf(user, role.arn, { RoleSessionName: 'session-2' })]
    const forRole = await keyOnlyFor(by(role.arn, allow('kms:Encrypt')))
    const forSession = await keyOnlyFor(by(`arn:aws:sts::${contract.accountId}:assumed-role/${role.name}/session-1`, allow('kms:Encrypt')))
    expect(await isAllowed(encrypt(session.kms, forRole.KeyId))).toBe(true)
    expect(await isAllowed(encrypt(other.kms, forRole.KeyId))).toBe(true)
    expect(await isAllowed(encrypt(session.kms, forSession.KeyId))).toBe(true)
    expect(await isAllowed(encrypt(other.kms, forSession.KeyId))).toBe(false)
    expect(await isAllowed(encrypt(user.kms, forRole.KeyId))).toBe(false)
  })

  test('takes its sessions with it when it is deleted, also when another of its name is made', async () => {
    const user = await userWith()
    const role = await roleFor(user.arn, [allow('kms:ListKeys')])
    const session = await sessionOf(user, role.arn)
    await session.kms.send(new ListKeysCommand({}))
    await administer(contract.ours, 'DeleteRole', { RoleName: role.name })
    expect((await refusalOf(session.kms.send(new ListKeysCommand({})))).name).toBe('UnrecognizedClientException')
    await administer(contract.ours, 'CreateRole', {
      RoleName: role.name,
      AssumeRolePolicyDocument: JSON.stringify(document({ Effect: 'Allow', Principal: { AWS: user.arn }, Action: 'sts:AssumeRole' })),
    })
    await administer(contract.ours, 'PutRolePolicy', {
      RoleName: role.name,
      PolicyName: 'p',
      PolicyDocument: JSON.stringify(document(allow('kms:ListKeys'))),
    })
    expect((await refusalOf(session.kms.send(new ListKeysCommand({})))).name).toBe('UnrecognizedClientException')
  })

  test('session lasts as long as it was asked to, within what the role allows', async () => {
    const user = await userWith()
    const role = await roleFor(user.arn, [], {}, { MaxSessionDuration: 7200 })
    for (const DurationSeconds of [900, 7200]) {
      const { Credentials: made } = await assume(user, role.arn, { DurationSeconds })
      expect(Math.abs(given(made?.Expiration).getTime() - Date.now() - DurationSeconds * 1000)).toBeLessThan(60_000)
    }
    await expect(refusalOf(assume(user, role.arn, { DurationSeconds: 7201 }))).resolves.toMatchObject({ name: 'ValidationError' })
    await expect(refusalOf(assume(user, role.arn, { DurationSeconds: 899 }))).resolves.toMatchObject({
      name: 'ValidationError',
      message:
        "1 validation error detected: Value '899' at 'durationSeconds' failed to satisfy constraint: Member must have value greater than or equal to 900",
    })
  })

  test('session token is worth nothing with another key, altered, or left out', async () => {
    const user = await userWith()
    const role = await roleFor(user.arn, [allow('kms:ListKeys')])
    const [one, two] = [await sessionOf(user, role.arn), await sessionOf(user, role.arn)]
    const list = (credentials: Credentials) => rawCall(contract.ours, 'kms', 'ListKeys', {}, { credentials })
    const typeOf = async (credentials: Credentials) => (await list(credentials)).json['__type']
    const token = given(one.sessionToken)
    const { accessKeyId, secretAccessKey } = one
    expect((await list({ accessKeyId, secretAccessKey, sessionToken: token })).status).toBe(200)
    expect(await typeOf({ accessKeyId, secretAccessKey, sessionToken: given(two.sessionToken) })).toBe('UnrecognizedClientException')
    expect(await typeOf({ accessKeyId, secretAccessKey })).toBe('UnrecognizedClientException')
    const middle = Buffer.from(token, 'base64')
    middle[40] = given(middle[40]) ^ 1
    for (const altered of [middle.toString('base64'), token.slice(0, -4), 'nonsense', Buffer.alloc(40).toString('base64')]) {
      expect(await typeOf({ accessKeyId, secretAccessKey, sessionToken: altered })).toBe('UnrecognizedClientException')
    }
    expect(await typeOf({ accessKeyId, secretAccessKey: two.secretAccessKey, sessionToken: token })).toBe('InvalidSignatureException')
    // A user's own key does not become a session by a token beside it.
    expect(await typeOf({ accessKeyId: user.accessKeyId, secretAccessKey: user.secretAccessKey, sessionToken: token })).toBe(
      'UnrecognizedClientException',
    )
  })
})

describeOurs('another account', () => {
  const guestId = '444455556666'
  let guest: Credentials
  let guestKms: KMSClient
  beforeAll(async () => {
    guest = await makeAccount(contract.ours, guestId)
    guestKms = contract.client({ credentials: guest })
  })

  /** A user of the other account. */
  async function guestUser(statements: readonly Statement[]): Promise<User> {
    return userWith(statements, { credentials: guest })
  }

  test('has keys, aliases and users of its own, and sees none of ours', async () => {
    const AliasName = freshAlias()
    const [ours, theirs] = [await contract.key(), await contract.key({}, guestKms)]
    expect(theirs.Arn).toContain(`:${guestId}:key/`)
    await contract.kms.send(new CreateAliasCommand({ AliasName, TargetKeyId: ours.KeyId }))
    await guestKms.send(new CreateAliasCommand({ AliasName, TargetKeyId: theirs.KeyId }))
    expect((await encrypt(contract.kms, AliasName)).KeyId).toBe(ours.Arn)
    expect((await encrypt(guestKms, AliasName)).KeyId).toBe(theirs.Arn)
    const listed = (await guestKms.send(new ListKeysCommand({ Limit: 1000 }))).Keys?.map(({ KeyArn }) => KeyArn)
    expect(listed).toContain(theirs.Arn)
    expect(listed?.every((arn) => arn?.includes(`:${guestId}:`))).toBe(true)
    await expectRefusal(
      encrypt(guestKms, ours.KeyId),
      'NotFoundException',
      `Key 'arn:aws:kms:${contract.region}:${guestId}:key/${ours.KeyId}' does not exist`,
    )
  })

  test('is told nothing of our keys: whether they are there or not reads the same', async () => {
    const { Arn } = await contract.key()
    const absent = `${Arn.slice(0, -12)}000000000000`
    const alias = freshAlias()
    for (const call of [
      (KeyId: string) => encrypt(guestKms, KeyId),
      (KeyId: string) => guestKms.send(new DescribeKeyCommand({ KeyId })),
      (KeyId: string) => guestKms.send(new GenerateDataKeyCommand({ KeyId, KeySpec: 'AES_256' })),
    ]) {
      const [present, missing] = [await refusalOf(call(Arn)), await refusalOf(call(absent))]
      expect(present).toEqual(missing)
      expect(present.name).toBe('AccessDeniedException')
      expect(present.message).toContain('does not exist')
      expect((await refusalOf(call(`arn:aws:kms:${contract.region}:${contract.accountId}:${alias}`))).name).toBe('AccessDeniedException')
    }
    const aliases = (KeyId: string) => refusalOf(guestKms.send(new ListAliasesCommand({ KeyId })))
    expect(await aliases(Arn)).toEqual(await aliases(absent))
    expect((await aliases(Arn)).name).toBe('AccessDeniedException')
  })

  test('uses our key when the key’s policy lets the account and the account lets the user', async () => {
    const key = await keyWith(
      by(rootOf(guestId), allow(['kms:Encrypt', 'kms:Decrypt', 'kms:DescribeKey', 'kms:ReEncrypt*', 'kms:GenerateDataKey*'])),
    )
    const [may, mayNot] = [await guestUser([allow('kms:*', { Resource: key.Arn })]), await guestUser([])]
    expect(await isAllowed(encrypt(guestKms, key.Arn))).toBe(true)
    expect(await isAllowed(encrypt(mayNot.kms, key.Arn))).toBe(false)
    const { CiphertextBlob, KeyId } = await encrypt(may.kms, key.Arn)
    expect(KeyId).toBe(key.Arn)
    expect((await decrypt(may.kms, CiphertextBlob)).KeyId).toBe(key.Arn)
    expect((await may.kms.send(new DescribeKeyCommand({ KeyId: key.Arn }))).KeyMetadata?.AWSAccountId).toBe(contract.accountId)
    await expectRefusal(decrypt(mayNot.kms, CiphertextBlob), 'AccessDeniedException', unseenCiphertext)
    // By the alias's ARN too.
    const name = freshAlias()
    await contract.kms.send(new CreateAliasCommand({ AliasName: name, TargetKeyId: key.KeyId }))
    expect((await encrypt(may.kms, `arn:aws:kms:${contract.region}:${contract.accountId}:${name}`)).KeyId).toBe(key.Arn)
    // And moves what is in it to a key of its own.
    const own = await contract.key({}, guestKms)
    const mover = await guestUser([allow('kms:*')])
    const moved = await mover.kms.send(new ReEncryptCommand({ CiphertextBlob, DestinationKeyId: own.KeyId }))
    expect(moved).toMatchObject({ SourceKeyId: key.Arn, KeyId: own.Arn })
  })

  test('may name our key by its bare id where the blob says the same, and is told nothing by it', async () => {
    const [ours, hidden, own] = [
      await keyWith(by(rootOf(guestId), allow(['kms:Decrypt', 'kms:ReEncrypt*']))),
      await contract.key(),
      await contract.key({}, guestKms),
    ]
    const [{ CiphertextBlob: blob }, { CiphertextBlob: hiddenBlob }] = await Promise.all([
      encrypt(contract.kms, ours.KeyId),
      encrypt(contract.kms, hidden.KeyId),
    ])
    const missing = (id: string) => `Key 'arn:aws:kms:${contract.region}:${guestId}:key/${id}' does not exist`
    expect((await decrypt(guestKms, blob, { KeyId: ours.KeyId })).KeyId).toBe(ours.Arn)
    const move = { CiphertextBlob: blob, SourceKeyId: ours.KeyId, DestinationKeyId: own.KeyId }
    expect(await guestKms.send(new ReEncryptCommand(move))).toMatchObject({ SourceKeyId: ours.Arn, KeyId: own.Arn })
    for (const DestinationKeyId of [ours.KeyId, hidden.KeyId]) {
      await expectRefusal(
        guestKms.send(new ReEncryptCommand({ ...move, DestinationKeyId })),
        'NotFoundException',
        missing(DestinationKeyId),
      )
    }
    await expectRefusal(decrypt(guestKms, hiddenBlob, { KeyId: ours.KeyId }), 'NotFoundException', missing(ours.KeyId))
    await expectRefusal(decrypt(guestKms, hiddenBlob, { KeyId: hidden.KeyId }), 'NotFoundException', missing(hidden.KeyId))
  })

  test('needs the key’s policy, whatever its own policies say', async () => {
    const { Arn } = await contract.key()
    const user = await guestUser([allow('kms:*')])
    expect(await isAllowed(encrypt(user.kms, Arn))).toBe(false)
    const { CiphertextBlob } = await encrypt(contract.kms, Arn)
    await expectRefusal(decrypt(user.kms, CiphertextBlob), 'AccessDeniedException', unseenCiphertext)
  })

  test('user named in the key’s policy still needs its own account’s leave', async () => {
    const [with_, without] = [await guestUser([allow('kms:Encrypt')]), await guestUser([])]
    const key = await keyWith(by(with_.arn, allow('kms:Encrypt')), by(without.arn, allow('kms:Encrypt')))
    expect(await isAllowed(encrypt(with_.kms, key.Arn))).toBe(true)
    expect(await isAllowed(encrypt(without.kms, key.Arn))).toBe(false)
  })

  test('manages no key of ours, even if the key’s policy says it may', async () => {
    const key = await keyWith(by(rootOf(guestId), allow('kms:*')))
    const KeyId = key.Arn
    const policy = JSON.stringify(document(everything()))
    const refusals = await Promise.all(
      [
        guestKms.send(new DisableKeyCommand({ KeyId })),
        guestKms.send(new EnableKeyCommand({ KeyId })),
        guestKms.send(new GetKeyPolicyCommand({ KeyId })),
        guestKms.send(new PutKeyPolicyCommand({ KeyId, Policy: policy })),
        guestKms.send(new ScheduleKeyDeletionCommand({ KeyId })),
        guestKms.send(new TagResourceCommand({ KeyId, Tags: [{ TagKey: 'a', TagValue: 'b' }] })),
        guestKms.send(new ListResourceTagsCommand({ KeyId })),
        guestKms.send(new CreateAliasCommand({ AliasName: freshAlias(), TargetKeyId: KeyId })),
      ].map(refusalOf),
    )
    expect(refusals.map(({ name }) => name)).toEqual(Array.from({ length: 8 }, () => 'AccessDeniedException'))
    expect((await contract.kms.send(new DescribeKeyCommand({ KeyId }))).KeyMetadata?.KeyState).toBe('Enabled')
  })

  test('makes no accounts', async () => {
    const answer = await rawCall(contract.ours, 'holdfast', 'CreateAccount', { AccountId: '777788889999' }, { credentials: guest })
    expect(answer.json['__type']).toBe('AccessDeniedException')
    expect(answer.json['Message']).toContain('holdfast:CreateAccount')
  })
})

describeOurs('Holdfast’s own operations', () => {
  test('are allowed by policies like any other', async () => {
    const name = freshName()
    const ask = (credentials: Credentials, operation: string, input: object) =>
      rawCall(contract.ours, 'holdfast', operation, input, { credentials })
    const administrator = await userWith([allow('holdfast:*User', { Resource: `arn:aws:iam::${contract.accountId}:user/${name}` })])
    const nobody = await userWith([allow('kms:*')])
    const denied = await ask(nobody, 'CreateUser', { UserName: name })
    expect(denied.status).toBe(400)
    expect(denied.json).toEqual({
      __type: 'AccessDeniedException',
      Message: `User: ${nobody.arn} is not authorized to perform: holdfast:CreateUser on resource: arn:aws:iam::${contract.accountId}:user/${name} because no identity-based policy allows the holdfast:CreateUser action`,
    })
    expect((await ask(administrator, 'CreateUser', { UserName: name })).status).toBe(200)
    expect((await ask(administrator, 'CreateUser', { UserName: `${name}-other` })).json['__type']).toBe('AccessDeniedException')
    expect((await ask(administrator, 'PutUserPolicy', { UserName: name, PolicyName: 'p', PolicyDocument: '{}' })).json['__type']).toBe(
      'AccessDeniedException',
    )
    expect((await ask(administrator, 'DeleteUser', { UserName: name })).status).toBe(200)
  })

  test('make access keys in pairs at most', async () => {
    const user = await userWith()
    await administer(contract.ours, 'CreateAccessKey', { UserName: user.name })
    const third = await rawCall(contract.ours, 'holdfast', 'CreateAccessKey', { UserName: user.name })
    expect(third.json['__type']).toBe('LimitExceededException')
    const { AccessKeyMetadata } = await administer<{ AccessKeyMetadata: Readonly<Record<string, unknown>>[] }>(
      contract.ours,
      'ListAccessKeys',
      { UserName: user.name },
    )
    expect(AccessKeyMetadata).toHaveLength(2)
    for (const entry of AccessKeyMetadata) expect(Object.keys(entry).sort()).toEqual(['AccessKeyId', 'CreateDate', 'Status', 'UserName'])
  })
})
