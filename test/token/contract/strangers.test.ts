/** What callers try who may do little: to learn of what is not theirs, to have more rights by odd requests, to cost more than they should. */
import {
  CreateAliasCommand,
  CreateKeyCommand,
  DecryptCommand,
  EncryptCommand,
  ListResourceTagsCommand,
  ReEncryptCommand,
  TagResourceCommand,
  type KMSClient,
} from '@aws-sdk/client-kms'
import { CloudTrailClient, LookupEventsCommand } from '@aws-sdk/client-cloudtrail'
import { AssumeRoleCommand, STSClient, type Tag } from '@aws-sdk/client-sts'
import { beforeAll, expect, test } from 'vitest'
import { administer, makeAccount, makeUser, rawCall, type Credentials } from '../holdfast.ts'
import { absentKeyId, describeOurs, expectProblems, freshAlias, given, refusalOf, useContract } from './kit.ts'

const contract = useContract()
const Plaintext = Buffer.from('a secret')

type Statement = Readonly<Record<string, unknown>>
const document = (...statements: readonly Statement[]) => ({ Version: '2012-10-17', Statement: statements })
const allow = (Action: string | readonly string[], more: Statement = {}): Statement => ({ Effect: 'Allow', Action, Resource: '*', ...more })
const deny = (Action: string | readonly string[], more: Statement = {}): Statement => ({ Effect: 'Deny', Action, Resource: '*', ...more })

let names = 0
const freshName = (): string => `s${process.pid}-${++names}`
const userWith = (statements: readonly Statement[], more: Parameters<typeof makeUser>[3] = {}) =>
  makeUser(contract.ours, freshName(), statements.length > 0 ? { inline: document(...statements) } : {}, more)
const stsOf = (credentials: Credentials) =>
  new STSClient({ endpoint: contract.ours.endpoint, region: contract.region, credentials, maxAttempts: 1 })
const assume = (who: Credentials, RoleArn: string, Tags: Tag[] = []) =>
  stsOf(who).send(new AssumeRoleCommand({ RoleArn, RoleSessionName: 'session-1', ...(Tags.length > 0 && { Tags }) }))

describeOurs('another account', () => {
  let guest: Credentials
  let guestKms: KMSClient
  beforeAll(async () => {
    guest = await makeAccount(contract.ours, '444455557777')
    guestKms = contract.client({ credentials: guest })
  })

  test('cannot tell a key or an alias of ours from one that is not there, with a blob of its own in hand', async () => {
    const [ours, own] = [await contract.key(), await contract.key({}, guestKms)]
    const alias = freshAlias()
    await contract.kms.send(new CreateAliasCommand({ AliasName: alias, TargetKeyId: ours.KeyId }))
    const { CiphertextBlob } = await guestKms.send(new EncryptCommand({ KeyId: own.KeyId, Plaintext }))
    const malformed = Buffer.from('no blob')
    const here = ours.Arn.slice(0, ours.Arn.indexOf('key/'))
    // A policy of its own that cannot judge a request must not make the difference either.
    const judge = await userWith([allow('kms:*', { Condition: { StringNotEquals: { 'kms:EncryptionContext:a': 'x' } } })], {
      credentials: guest,
    })
    const judgeKms = contract.client({ credentials: judge })
    for (const [present, absent] of [
      [ours.Arn, `${here}key/${absentKeyId}`],
      [here + alias, `${here}${alias}-not-there`],
    ] as const) {
      for (const ask of [
        (KeyId: string) => guestKms.send(new DecryptCommand({ KeyId, CiphertextBlob })),
        (KeyId: string) => guestKms.send(new DecryptCommand({ KeyId, CiphertextBlob: malformed })),
        (SourceKeyId: string) => guestKms.send(new ReEncryptCommand({ SourceKeyId, CiphertextBlob, DestinationKeyId: own.KeyId })),
        (DestinationKeyId: string) => guestKms.send(new ReEncryptCommand({ CiphertextBlob, DestinationKeyId })),
        (KeyId: string) => guestKms.send(new EncryptCommand({ KeyId, Plaintext, GrantTokens: ['nonsense'] })),
        (KeyId: string) => judgeKms.send(new EncryptCommand({ KeyId, Plaintext, EncryptionContext: { a: '1', A: '2' } })),
      ]) {
        expect(await refusalOf(ask(present))).toEqual(await refusalOf(ask(absent)))
      }
    }
  })

  test('is told by its own trail of no key that the answers do not tell of', async () => {
    const { KeyId, Arn } = await contract.key()
    const alias = freshAlias()
    await contract.kms.send(new CreateAliasCommand({ AliasName: alias, TargetKeyId: KeyId }))
    const { CiphertextBlob } = await contract.kms.send(new EncryptCommand({ KeyId, Plaintext }))
    await refusalOf(guestKms.send(new EncryptCommand({ KeyId: Arn.slice(0, Arn.indexOf('key/')) + alias, Plaintext })))
    await refusalOf(guestKms.send(new DecryptCommand({ CiphertextBlob })))
    const trail = new CloudTrailClient({ endpoint: contract.ours.endpoint, region: contract.region, credentials: guest, maxAttempts: 1 })
    const { Events = [] } = await trail.send(new LookupEventsCommand({ MaxResults: 2 }))
    trail.destroy()
    expect(Events.map(({ EventName }) => EventName)).toEqual(['Decrypt', 'Encrypt'])
    expect(Events.map(({ CloudTrailEvent }) => CloudTrailEvent).join('\n')).not.toContain(KeyId)
  })

  test('cannot tell a role of ours from one that is not there, by no policy of its own', async () => {
    const RoleName = freshName()
    const trust = document({ Effect: 'Allow', Principal: { AWS: contract.accountId }, Action: 'sts:AssumeRole' })
    const { Role } = await administer<{ Role: { Arn: string } }>(contract.ours, 'CreateRole', {
      RoleName,
      AssumeRolePolicyDocument: JSON.stringify(trust),
    })
    const may = await userWith([allow('sts:*')], { credentials: guest })
    const mayNot = await userWith([deny('sts:*')], { credentials: guest })
    for (const who of [guest, may, mayNot]) {
      const [present, absent] = [await refusalOf(assume(who, Role.Arn)), await refusalOf(assume(who, `${Role.Arn}-not-there`))]
      expect(present.name).toBe('AccessDenied')
      expect({ ...absent, message: absent.message.replace('-not-there', '') }).toEqual(present)
    }
  })
})

describeOurs('a tag given twice', () => {
  test('does not show the trust policy one value and the session another', async () => {
    const user = await userWith([])
    const RoleName = freshName()
    const trust = document({
      Effect: 'Allow',
      Principal: { AWS: user.arn },
      Action: ['sts:AssumeRole', 'sts:TagSession'],
      Condition: { StringEquals: { 'aws:RequestTag/team': 'guests' } },
    })
    const { Role } = await administer<{ Role: { Arn: string } }>(contract.ours, 'CreateRole', {
      RoleName,
      AssumeRolePolicyDocument: JSON.stringify(trust),
      Tags: [{ Key: 'Team', Value: 'nobody' }],
    })
    const forTeam = (team: string) => allow('kms:ListKeys', { Condition: { StringEquals: { 'aws:PrincipalTag/team': team } } })
    await administer(contract.ours, 'PutRolePolicy', {
      RoleName,
      PolicyName: 'p',
      PolicyDocument: JSON.stringify(document(forTeam('guests'))),
    })
    const tag = (Key: string, Value: string): Tag => ({ Key, Value })
    for (const second of [tag('team', 'admins'), tag('TEAM', 'admins')]) {
      expect(await refusalOf(assume(user, Role.Arn, [tag('team', 'guests'), second]))).toMatchObject({ name: 'ValidationError' })
    }
    expect(await refusalOf(assume(user, Role.Arn, [tag('aws:team', 'guests')]))).toMatchObject({ status: 400 })
    // More than a token can hold is said to be that.
    const many = Array.from({ length: 20 }, (_, index) => tag(`tag-${index}`, 'v'.repeat(256)))
    expect((await refusalOf(assume(user, Role.Arn, [tag('team', 'guests'), ...many]))).name).toBe('PackedPolicyTooLargeException')
    // One tag is taken, and overrides the role's own of that name.
    const { Credentials: made } = await assume(user, Role.Arn, [tag('team', 'guests')])
    const credentials = {
      accessKeyId: given(made?.AccessKeyId),
      secretAccessKey: given(made?.SecretAccessKey),
      sessionToken: given(made?.SessionToken),
    }
    expect((await rawCall(contract.ours, 'kms', 'ListKeys', {}, { credentials })).status).toBe(200)
  })

  test('of a user or a role is refused, whatever its case', async () => {
    const Tags = [
      { Key: 'team', Value: 'a' },
      { Key: 'Team', Value: 'b' },
    ]
    const answer = await rawCall(contract.ours, 'holdfast', 'CreateUser', { UserName: freshName(), Tags })
    expect(answer.json['__type']).toBe('ValidationException')
  })

  test('in another case does not pass a policy on the tags of a request', async () => {
    const user = await userWith([
      allow('kms:TagResource'),
      deny('kms:TagResource', { Condition: { StringEquals: { 'aws:RequestTag/env': 'prod' } } }),
    ])
    const kms = contract.client({ credentials: user })
    const { KeyId } = await contract.key()
    const tags = (...Tags: { TagKey: string; TagValue: string }[]) => kms.send(new TagResourceCommand({ KeyId, Tags }))
    const prod = { TagKey: 'env', TagValue: 'prod' }
    expect((await refusalOf(tags(prod))).name).toBe('AccessDeniedException')
    expect((await refusalOf(tags({ TagKey: 'Env', TagValue: 'test' }, prod))).name).toBe('ValidationException')
    expect((await contract.kms.send(new ListResourceTagsCommand({ KeyId }))).Tags).toEqual([])
    await tags({ TagKey: 'Env', TagValue: 'test' })
  })
})

describeOurs('a key made with tags', () => {
  test('is asked about as the key that it will be, so that what is denied on keys is denied', async () => {
    const onKeys = { Resource: `arn:aws:kms:*:${contract.accountId}:key/*` }
    const [may, mayNot] = [
      await userWith([allow('kms:CreateKey'), allow('kms:TagResource', onKeys)]),
      await userWith([allow('kms:*'), deny('kms:TagResource', onKeys)]),
    ]
    const create = (credentials: Credentials) =>
      contract.client({ credentials }).send(new CreateKeyCommand({ Tags: [{ TagKey: 'env', TagValue: 'prod' }] }))
    await expect(create(may)).resolves.toBeDefined()
    expect((await refusalOf(create(mayNot))).name).toBe('AccessDeniedException')
  })
})

describeOurs('a user without any permission', () => {
  test('has no policy look through an encryption context that is longer than any can be', async () => {
    const user = await userWith([])
    const { KeyId } = await contract.key()
    const EncryptionContext = Object.fromEntries(Array.from({ length: 2000 }, (_, index) => [`name-${index}`, '']))
    await expectProblems(contract.client({ credentials: user }).send(new EncryptCommand({ KeyId, Plaintext, EncryptionContext })), [
      `Value at 'encryptionContext' failed to satisfy constraint: Member must have length less than or equal to 8192`,
    ])
  })
})

describeOurs('a user', () => {
  test('has no third access key, however many are asked for at once', async () => {
    const UserName = freshName()
    await administer(contract.ours, 'CreateUser', { UserName })
    await Promise.all(Array.from({ length: 6 }, () => rawCall(contract.ours, 'holdfast', 'CreateAccessKey', { UserName })))
    const { AccessKeyMetadata: keys } = await administer<{ AccessKeyMetadata: readonly unknown[] }>(contract.ours, 'ListAccessKeys', {
      UserName,
    })
    expect(keys.length).toBeLessThanOrEqual(2)
  })
})
