/** Grants: made, used, limited, listed and ended, through the AWS SDK; and the tokens that name them. */
import { randomBytes } from 'node:crypto'
import {
  CreateGrantCommand,
  CreateKeyCommand,
  DecryptCommand,
  DescribeKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  ListGrantsCommand,
  ListRetirableGrantsCommand,
  PutKeyPolicyCommand,
  ReEncryptCommand,
  RetireGrantCommand,
  RevokeGrantCommand,
  ScheduleKeyDeletionCommand,
  type CreateGrantCommandInput,
  type GrantListEntry,
  type KMSClient,
} from '@aws-sdk/client-kms'
import { AssumeRoleCommand, STSClient } from '@aws-sdk/client-sts'
import { LookupEventsCommand, CloudTrailClient } from '@aws-sdk/client-cloudtrail'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { grantOperations } from '../../../src/auth/grants.ts'
import { administer, makeAccount, makeUser, type Credentials } from '../holdfast.ts'
import { absentKeyId, describeOurs, expectProblems, expectRefusal, given, refusalOf, useContract, withoutMetadata } from './kit.ts'

const grantsPerKey = 6
/** Whose calls count as made through the service. */
const storage = 'storage-service'
const contract = useContract({
  env: {
    HOLDFAST_QUOTA_GRANTS_PER_KEY: `${grantsPerKey}`,
    HOLDFAST_AWS_SERVICES: `s3=arn:aws:iam::111122223333:user/${storage}`,
  },
})
const secret = Buffer.from('a secret')

interface User extends Credentials {
  readonly arn: string
  readonly kms: KMSClient
}

let names = 0
const freshName = (): string => `g${process.pid}-${++names}`

type Statement = Readonly<Record<string, unknown>>
const allow = (Action: string | readonly string[], more: Statement = {}): Statement => ({ Effect: 'Allow', Action, Resource: '*', ...more })
const deny = (Action: string | readonly string[], more: Statement = {}): Statement => ({ Effect: 'Deny', Action, Resource: '*', ...more })
const document = (...statements: readonly Statement[]) => ({ Version: '2012-10-17', Statement: statements })

async function userWith(statements: readonly Statement[] = [], more: Parameters<typeof makeUser>[3] = {}): Promise<User> {
  const made = await makeUser(contract.ours, freshName(), statements.length > 0 ? { inline: document(...statements) } : {}, more)
  return { ...made, kms: contract.client({ credentials: made }) }
}

const grant = (input: CreateGrantCommandInput, kms = contract.kms) => kms.send(new CreateGrantCommand(input))
const encrypt = (kms: KMSClient, KeyId: string, EncryptionContext?: Record<string, string>, GrantTokens?: string[]) =>
  kms.send(
    new EncryptCommand({ KeyId, Plaintext: secret, ...(EncryptionContext && { EncryptionContext }), ...(GrantTokens && { GrantTokens }) }),
  )
const describeKey = (kms: KMSClient, KeyId: string) => kms.send(new DescribeKeyCommand({ KeyId }))
const grantsOf = async (KeyId: string, more: object = {}): Promise<readonly GrantListEntry[]> =>
  given((await contract.kms.send(new ListGrantsCommand({ KeyId, ...more }))).Grants)

async function isAllowed(call: Promise<unknown>): Promise<boolean> {
  try {
    await call
    return true
  } catch (error) {
    if ((error as Error).name === 'AccessDeniedException') return false
    throw error
  }
}

const grantId = /^[0-9a-f]{64}$/

describeOurs('a grant', () => {
  test('lets its grantee do what it names, at once, and nothing else', async () => {
    const { KeyId, Arn } = await contract.key()
    const alice = await userWith()
    const bob = await userWith()
    expect(await isAllowed(encrypt(alice.kms, KeyId))).toBe(false)
    const made = await grant({ KeyId, GranteePrincipal: alice.arn, Operations: ['Encrypt', 'DescribeKey'] })
    expect(withoutMetadata(made)).toEqual({
      GrantId: expect.stringMatching(grantId),
      GrantToken: expect.stringMatching(/^[A-Za-z0-9+/]+={0,2}$/),
    })
    const { CiphertextBlob } = await encrypt(alice.kms, KeyId)
    expect((await describeKey(alice.kms, KeyId)).KeyMetadata?.Arn).toBe(Arn)
    await expectRefusal(
      alice.kms.send(new DecryptCommand({ CiphertextBlob, KeyId })),
      'AccessDeniedException',
      `User: ${alice.arn} is not authorized to perform: kms:Decrypt on resource: ${Arn} because no identity-based policy allows the kms:Decrypt action`,
    )
    expect(await isAllowed(encrypt(bob.kms, KeyId))).toBe(false)
  })

  test('is nothing against a deny, of the key’s policy or of the grantee’s own', async () => {
    const { KeyId } = await contract.key()
    const denied = await userWith([deny('kms:Encrypt')])
    const alice = await userWith()
    for (const { arn } of [denied, alice]) await grant({ KeyId, GranteePrincipal: arn, Operations: ['Encrypt'] })
    expect([await isAllowed(encrypt(denied.kms, KeyId)), await isAllowed(encrypt(alice.kms, KeyId))]).toEqual([false, true])
    const everything = { ...allow('kms:*'), Principal: { AWS: `arn:aws:iam::${contract.accountId}:root` } }
    const notAlice = { ...deny('kms:Encrypt'), Principal: { AWS: alice.arn } }
    await contract.kms.send(new PutKeyPolicyCommand({ KeyId, Policy: JSON.stringify(document(everything, notAlice)) }))
    expect(await isAllowed(encrypt(alice.kms, KeyId))).toBe(false)
  })

  test('works on both keys of a ReEncrypt, each by its own grant', async () => {
    const [source, destination] = [await contract.key(), await contract.key()]
    const alice = await userWith()
    const { CiphertextBlob } = await encrypt(contract.kms, source.KeyId)
    const reEncrypt = () => alice.kms.send(new ReEncryptCommand({ CiphertextBlob, DestinationKeyId: destination.KeyId }))
    await grant({ KeyId: source.KeyId, GranteePrincipal: alice.arn, Operations: ['ReEncryptFrom'] })
    expect(await isAllowed(reEncrypt())).toBe(false)
    await grant({ KeyId: destination.KeyId, GranteePrincipal: alice.arn, Operations: ['ReEncryptTo'] })
    expect((await reEncrypt()).KeyId).toBe(destination.Arn)
  })

  test('ends when it is revoked, and is no longer listed', async () => {
    const { KeyId } = await contract.key()
    const alice = await userWith()
    const { GrantId } = await grant({ KeyId, GranteePrincipal: alice.arn, Operations: ['Encrypt'] })
    expect(await isAllowed(encrypt(alice.kms, KeyId))).toBe(true)
    expect(withoutMetadata(await contract.kms.send(new RevokeGrantCommand({ KeyId, GrantId })))).toEqual({})
    expect(await isAllowed(encrypt(alice.kms, KeyId))).toBe(false)
    expect(await grantsOf(KeyId)).toEqual([])
    await expectRefusal(
      contract.kms.send(new RevokeGrantCommand({ KeyId, GrantId })),
      'NotFoundException',
      `Grant ID ${given(GrantId)} not found`,
    )
  })

  test('is not for a user who was made anew under the old name', async () => {
    const { KeyId } = await contract.key()
    const UserName = freshName()
    const first = await makeUser(contract.ours, UserName)
    const { GrantId } = await grant({ KeyId, GranteePrincipal: first.arn, RetiringPrincipal: first.arn, Operations: ['Encrypt'] })
    const retirable = () => contract.kms.send(new ListRetirableGrantsCommand({ RetiringPrincipal: first.arn }))
    expect((await retirable()).Grants?.map((each) => each.GrantId)).toEqual([GrantId])
    expect(await isAllowed(encrypt(contract.client({ credentials: first }), KeyId))).toBe(true)
    await administer(contract.ours, 'DeleteUser', { UserName })
    await expectRefusal(retirable(), 'InvalidArnException', `ARN does not refer to a valid principal: ${first.arn}`)
    const second = await makeUser(contract.ours, UserName)
    expect(second.arn).toBe(first.arn)
    expect(await isAllowed(encrypt(contract.client({ credentials: second }), KeyId))).toBe(false)
    expect((await retirable()).Grants).toEqual([])
    expect(await isAllowed(contract.client({ credentials: second }).send(new RetireGrantCommand({ KeyId, GrantId })))).toBe(false)
  })

  test('to a role is for its sessions, and one to a session for that session alone; a session policy limits both', async () => {
    const { KeyId } = await contract.key()
    const alice = await userWith()
    const RoleName = freshName()
    const { Role } = await administer<{ Role: { Arn: string } }>(contract.ours, 'CreateRole', {
      RoleName,
      AssumeRolePolicyDocument: JSON.stringify(document({ Effect: 'Allow', Principal: { AWS: alice.arn }, Action: 'sts:AssumeRole' })),
    })
    const sts = new STSClient({ endpoint: contract.ours.endpoint, region: contract.region, credentials: alice, maxAttempts: 1 })
    const session = async (RoleSessionName: string, Policy?: object): Promise<KMSClient> => {
      const { Credentials: made } = await sts.send(
        new AssumeRoleCommand({ RoleArn: Role.Arn, RoleSessionName, ...(Policy && { Policy: JSON.stringify(Policy) }) }),
      )
      const credentials = {
        accessKeyId: given(made?.AccessKeyId),
        secretAccessKey: given(made?.SecretAccessKey),
        sessionToken: given(made?.SessionToken),
      }
      return contract.client({ credentials })
    }
    const [one, two, limited] = [await session('one'), await session('two'), await session('one', document(allow('kms:DescribeKey')))]
    const mayEncrypt = async (): Promise<readonly boolean[]> =>
      Promise.all([one, two, limited].map((kms) => isAllowed(encrypt(kms, KeyId))))
    const sessionArn = `arn:aws:sts::${contract.accountId}:assumed-role/${RoleName}/one`
    const { GrantId } = await grant({ KeyId, GranteePrincipal: sessionArn, Operations: ['Encrypt'] })
    expect(await mayEncrypt()).toEqual([true, false, false])
    await contract.kms.send(new RevokeGrantCommand({ KeyId, GrantId }))
    await grant({ KeyId, GranteePrincipal: Role.Arn, Operations: ['Encrypt', 'DescribeKey'] })
    expect(await mayEncrypt()).toEqual([true, true, false])
    expect(await isAllowed(describeKey(limited, KeyId))).toBe(true)
    sts.destroy()
  })

  test('goes with its key', async () => {
    const { KeyId } = await contract.key()
    const alice = await userWith()
    const { GrantToken } = await grant({ KeyId, GranteePrincipal: alice.arn, RetiringPrincipal: alice.arn, Operations: ['Encrypt'] })
    await contract.kms.send(new ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: 7 }))
    // A grant can be seen and ended, and makes nothing possible, while its key waits.
    expect(await grantsOf(KeyId)).toHaveLength(1)
    await expectRefusal(encrypt(alice.kms, KeyId), 'KMSInvalidStateException', /is pending deletion\.$/)
    await expectRefusal(
      grant({ KeyId, GranteePrincipal: alice.arn, Operations: ['Encrypt'] }),
      'KMSInvalidStateException',
      /is pending deletion\.$/,
    )
    await alice.kms.send(new RetireGrantCommand({ GrantToken }))
    expect(await grantsOf(KeyId)).toEqual([])
  })

  test('cannot be made on a disabled key', async () => {
    const { KeyId, Arn } = await contract.disabledKey()
    const root = `arn:aws:iam::${contract.accountId}:root`
    await expectRefusal(grant({ KeyId, GranteePrincipal: root, Operations: ['Encrypt'] }), 'DisabledException', `${Arn} is disabled.`)
  })
})

describeOurs('a grant to another account', () => {
  const theirs = '444455556666'
  let root: Credentials
  let carol: User
  let dave: User
  beforeAll(async () => {
    root = await makeAccount(contract.ours, theirs)
    const there = { credentials: root }
    carol = await userWith([], there)
    dave = await userWith([allow('kms:Encrypt')], there)
  })

  test('needs no policy there when it names the user', async () => {
    const { Arn } = await contract.key()
    await grant({ KeyId: Arn, GranteePrincipal: carol.arn, Operations: ['Encrypt'] })
    expect((await encrypt(carol.kms, Arn)).KeyId).toBe(Arn)
    expect(await isAllowed(encrypt(dave.kms, Arn))).toBe(false)
  })

  test('is for that account to pass on when it names the account', async () => {
    const { Arn } = await contract.key()
    await grant({ KeyId: Arn, GranteePrincipal: `arn:aws:iam::${theirs}:root`, Operations: ['Encrypt'] })
    const may = [contract.client({ credentials: root }), dave.kms, carol.kms].map((kms) => isAllowed(encrypt(kms, Arn)))
    expect(await Promise.all(may)).toEqual([true, true, false])
  })

  test('is found by its retiring principal there, who can retire it', async () => {
    const { Arn } = await contract.key()
    const { GrantId } = await grant({ KeyId: Arn, GranteePrincipal: dave.arn, RetiringPrincipal: carol.arn, Operations: ['Decrypt'] })
    const list = (kms: KMSClient, RetiringPrincipal: string) => kms.send(new ListRetirableGrantsCommand({ RetiringPrincipal }))
    const there = contract.client({ credentials: root })
    expect((await list(there, carol.arn)).Grants?.map((each) => [each.GrantId, each.KeyId])).toEqual([[GrantId, Arn]])
    await expectRefusal(list(contract.kms, carol.arn), 'AccessDeniedException', /is not authorized to perform: kms:ListRetirableGrants/)
    expect(await isAllowed(list(carol.kms, carol.arn))).toBe(false)
    expect(await isAllowed(dave.kms.send(new RetireGrantCommand({ KeyId: Arn, GrantId })))).toBe(false)
    await carol.kms.send(new RetireGrantCommand({ KeyId: Arn, GrantId }))
    expect(await grantsOf(Arn)).toEqual([])
  })

  test('is retired by the account that issued it, and by nobody there without its leave', async () => {
    const key = await contract.key({
      Policy: JSON.stringify(
        document(
          { ...allow('kms:*'), Principal: { AWS: `arn:aws:iam::${contract.accountId}:root` } },
          { ...allow('kms:CreateGrant'), Principal: { AWS: `arn:aws:iam::${theirs}:root` } },
        ),
      ),
    })
    const there = contract.client({ credentials: root })
    const may = await userWith([allow('kms:RetireGrant')], { credentials: root })
    const make = async () =>
      (await grant({ KeyId: key.Arn, GranteePrincipal: `arn:aws:iam::${contract.accountId}:root`, Operations: ['Encrypt'] }, there)).GrantId
    const retire = (kms: KMSClient, GrantId: string | undefined) => isAllowed(kms.send(new RetireGrantCommand({ KeyId: key.Arn, GrantId })))
    const [one, two] = [await make(), await make()]
    expect([await retire(carol.kms, one), await retire(there, one), await retire(may.kms, two)]).toEqual([false, true, true])
    const ours = (await grant({ KeyId: key.Arn, GranteePrincipal: carol.arn, Operations: ['Encrypt'] })).GrantId
    expect(await retire(there, ours)).toBe(false)
    expect(await grantsOf(key.Arn)).toHaveLength(1)
  })

  test('is not told of to strangers: neither its key nor its id seem to exist', async () => {
    const { Arn } = await contract.key()
    const { GrantId } = await grant({ KeyId: Arn, GranteePrincipal: dave.arn, Operations: ['Decrypt'] })
    const absent = `arn:aws:kms:${contract.region}:${contract.accountId}:key/${absentKeyId}`
    const words = async (KeyId: string, id: string) =>
      (await refusalOf(carol.kms.send(new RetireGrantCommand({ KeyId, GrantId: id })))).message
    const told = await Promise.all([words(Arn, given(GrantId)), words(Arn, '0'.repeat(64)), words(absent, given(GrantId))])
    expect(new Set(told).size).toBe(1)
    expect(told[0]).toMatch(/because the resource does not exist in this Region/)
    expect(await isAllowed(carol.kms.send(new ListGrantsCommand({ KeyId: Arn })))).toBe(false)
  })
})

describeOurs('a constraint', () => {
  const department = { Department: 'IT' }
  const more = { Department: 'IT', Purpose: 'Test' }

  test('EncryptionContextEquals wants the very same pairs, by case', async () => {
    const { KeyId } = await contract.key()
    const alice = await userWith()
    await grant({
      KeyId,
      GranteePrincipal: alice.arn,
      Operations: ['Encrypt', 'DescribeKey'],
      Constraints: { EncryptionContextEquals: department },
    })
    const contexts = [department, more, { department: 'IT' }, { Department: 'it' }, {}, undefined]
    expect(await Promise.all(contexts.map((context) => isAllowed(encrypt(alice.kms, KeyId, context))))).toEqual([
      true,
      false,
      false,
      false,
      false,
      false,
    ])
    // It does not limit what has no encryption context.
    expect(await isAllowed(describeKey(alice.kms, KeyId))).toBe(true)
  })

  test('EncryptionContextSubset wants its pairs among others', async () => {
    const { KeyId } = await contract.key()
    const alice = await userWith()
    await grant({
      KeyId,
      GranteePrincipal: alice.arn,
      Operations: ['Encrypt', 'GenerateDataKey'],
      Constraints: { EncryptionContextSubset: more },
    })
    const contexts = [more, { ...more, x: 'y' }, department, { ...more, Purpose: 'test' }, undefined]
    expect(await Promise.all(contexts.map((context) => isAllowed(encrypt(alice.kms, KeyId, context))))).toEqual([
      true,
      true,
      false,
      false,
      false,
    ])
    const dataKey = (EncryptionContext: Record<string, string>) =>
      alice.kms.send(new GenerateDataKeyCommand({ KeyId, KeySpec: 'AES_256', EncryptionContext }))
    expect([await isAllowed(dataKey(more)), await isAllowed(dataKey(department))]).toEqual([true, false])
  })

  test('SourceArn is never met by a caller that is no service', async () => {
    const { KeyId } = await contract.key()
    const alice = await userWith()
    await grant({
      KeyId,
      GranteePrincipal: alice.arn,
      Operations: ['Encrypt', 'DescribeKey'],
      Constraints: { SourceArn: `arn:aws:dynamodb:us-east-1:${contract.accountId}:table/x` },
    })
    expect([await isAllowed(encrypt(alice.kms, KeyId)), await isAllowed(describeKey(alice.kms, KeyId))]).toEqual([false, false])
  })

  test('is refused where it could mean nothing', async () => {
    const { KeyId } = await contract.key()
    const root = `arn:aws:iam::${contract.accountId}:root`
    const on = (Constraints: CreateGrantCommandInput['Constraints']) =>
      grant({ KeyId, GranteePrincipal: root, Operations: ['Encrypt'], Constraints })
    await expectRefusal(
      on({ EncryptionContextEquals: department, EncryptionContextSubset: department }),
      'ValidationException',
      'You can specify either EncryptionContextEquals or EncryptionContextSubset, but not both.',
    )
    const nine = Object.fromEntries(Array.from({ length: 9 }, (_, index) => [`k${index}`, 'v']))
    await expectProblems(on({ EncryptionContextSubset: nine }), [
      "Value at 'constraints.encryptionContextSubset' failed to satisfy constraint: Member must have length less than or equal to 8",
    ])
    await expectProblems(on({ EncryptionContextEquals: { k: 'v'.repeat(385) } }), [
      "Value at 'constraints.encryptionContextEquals' failed to satisfy constraint: Map value must satisfy constraint: [Member must have length less than or equal to 384]",
    ])
    await on({ EncryptionContextEquals: { k: 'v'.repeat(384) } })
  })
})

describeOurs('a grant with CreateGrant', () => {
  test('lets its grantee pass on what it has, and no more', async () => {
    const { KeyId } = await contract.key()
    const alice = await userWith()
    const bob = await userWith()
    const subset = { Department: 'IT' }
    await grant({
      KeyId,
      GranteePrincipal: alice.arn,
      Operations: ['GenerateDataKey', 'Decrypt', 'CreateGrant'],
      Constraints: { EncryptionContextSubset: subset },
    })
    const child = (Operations: CreateGrantCommandInput['Operations'], Constraints?: CreateGrantCommandInput['Constraints']) =>
      isAllowed(
        grant({ KeyId, GranteePrincipal: bob.arn, Operations, Constraints, DryRun: true }, alice.kms).catch((error: unknown) => {
          if ((error as Error).name !== 'DryRunOperationException') throw error
        }),
      )
    expect(await child(['Decrypt'], { EncryptionContextSubset: subset })).toBe(true)
    expect(await child(['Decrypt', 'CreateGrant'], { EncryptionContextSubset: { ...subset, more: 'x' } })).toBe(true)
    expect(await child(['Decrypt'], { EncryptionContextEquals: subset })).toBe(true)
    expect(await child(['Decrypt'])).toBe(false)
    expect(await child(['Decrypt'], { EncryptionContextSubset: { Department: 'HR' } })).toBe(false)
    expect(await child(['Decrypt', 'Encrypt'], { EncryptionContextSubset: subset })).toBe(false)
    expect(await child(['Decrypt', 'RetireGrant'], { EncryptionContextSubset: subset })).toBe(false)
    // The child of a child is bound as its parent is.
    await grant(
      { KeyId, GranteePrincipal: bob.arn, Operations: ['Decrypt', 'CreateGrant'], Constraints: { EncryptionContextEquals: subset } },
      alice.kms,
    )
    const grandchild = (Constraints: CreateGrantCommandInput['Constraints']) =>
      isAllowed(grant({ KeyId, GranteePrincipal: alice.arn, Operations: ['Decrypt'], Constraints }, bob.kms))
    expect(await grandchild({ EncryptionContextSubset: subset })).toBe(false)
    expect(await grandchild({ EncryptionContextEquals: subset })).toBe(true)
  })

  test('alone is refused, as no operation at all is', async () => {
    const { KeyId } = await contract.key()
    const root = `arn:aws:iam::${contract.accountId}:root`
    await expectRefusal(
      grant({ KeyId, GranteePrincipal: root, Operations: ['CreateGrant'] }),
      'ValidationException',
      'Grants must not contain only the CreateGrant operation.',
    )
    await expectRefusal(
      grant({ KeyId, GranteePrincipal: root, Operations: [] }),
      'ValidationException',
      'Grants must contain at least one operation.',
    )
  })
})

describeOurs('CreateGrant', () => {
  let root: string
  beforeAll(() => {
    root = `arn:aws:iam::${contract.accountId}:root`
  })

  test('with a name makes one grant of equal requests, each with a token of its own, and another of an unequal one', async () => {
    const [one, two] = [await contract.key(), await contract.key()]
    const request = {
      KeyId: one.KeyId,
      GranteePrincipal: root,
      Operations: ['Encrypt', 'Decrypt'],
      Name: 'app/one',
    } satisfies CreateGrantCommandInput
    const first = await grant(request)
    const again = await grant({ ...request, KeyId: one.Arn, Operations: ['Decrypt', 'Encrypt', 'Decrypt'] })
    expect(again.GrantId).toBe(first.GrantId)
    expect(again.GrantToken).not.toBe(first.GrantToken)
    const others = [
      await grant({ ...request, Operations: ['Encrypt'] }),
      await grant({ ...request, KeyId: two.KeyId }),
      await grant({ ...request, Name: 'app/two' }),
    ]
    expect(new Set([first, ...others].map((each) => each.GrantId)).size).toBe(4)
    // Both tokens name the one grant.
    await contract.kms.send(new RetireGrantCommand({ GrantToken: first.GrantToken }))
    await expectRefusal(contract.kms.send(new RetireGrantCommand({ GrantToken: again.GrantToken })), 'NotFoundException', /not found$/)
    expect((await grant(request)).GrantId).not.toBe(first.GrantId)
  })

  test('without a name makes as many grants as it is called', async () => {
    const { KeyId } = await contract.key()
    const request = { KeyId, GranteePrincipal: root, Operations: ['Encrypt'] } satisfies CreateGrantCommandInput
    expect((await grant(request)).GrantId).not.toBe((await grant(request)).GrantId)
    expect(await grantsOf(KeyId)).toHaveLength(2)
  })

  test('of several equal requests at once makes one grant', async () => {
    const { KeyId } = await contract.key()
    const request = { KeyId, GranteePrincipal: root, Operations: ['Encrypt'], Name: 'one' } satisfies CreateGrantCommandInput
    const made = await Promise.all(Array.from({ length: 8 }, () => grant(request)))
    expect(new Set(made.map((each) => each.GrantId)).size).toBe(1)
    expect(await grantsOf(KeyId)).toHaveLength(1)
  })

  test('is refused beyond the grants that a key may have; ending one makes room, and a repeated one needs none', async () => {
    const { KeyId, Arn } = await contract.key()
    const request = (index: number) =>
      ({ KeyId, GranteePrincipal: root, Operations: ['Encrypt'], Name: `n${index}` }) satisfies CreateGrantCommandInput
    for (let index = 0; index < grantsPerKey; index++) await grant(request(index))
    await expectRefusal(
      grant(request(grantsPerKey)),
      'LimitExceededException',
      `${Arn} has ${grantsPerKey} grants, which is the quota of a KMS key.`,
    )
    await expectRefusal(grant({ ...request(grantsPerKey), DryRun: true }), 'LimitExceededException', /which is the quota of a KMS key\.$/)
    await expectRefusal(grant({ ...request(0), DryRun: true }), 'DryRunOperationException', /would have succeeded/)
    const { GrantId } = await grant(request(0))
    await contract.kms.send(new RevokeGrantCommand({ KeyId, GrantId }))
    await grant(request(grantsPerKey))
    await expectRefusal(grant(request(0)), 'LimitExceededException', /which is the quota of a KMS key\.$/)
  })

  test('answers a dry run without making a grant', async () => {
    const { KeyId } = await contract.key()
    await expectRefusal(
      grant({ KeyId, GranteePrincipal: root, Operations: ['Encrypt'], DryRun: true }),
      'DryRunOperationException',
      'The request would have succeeded, but the DryRun option is set.',
    )
    expect(await grantsOf(KeyId)).toEqual([])
    await expectRefusal(
      grant({ KeyId, GranteePrincipal: root, Operations: ['Sign'], DryRun: true }),
      'ValidationException',
      /cannot be granted/,
    )
  })

  test('refuses who is nobody', async () => {
    const { KeyId } = await contract.key()
    const { accountId } = contract
    for (const nobody of [
      `arn:aws:iam::${accountId}:user/nobody`,
      `arn:aws:iam::${accountId}:role/nobody`,
      `arn:aws:iam::${accountId}:group/admins`,
      `arn:aws:sts::${accountId}:assumed-role/nobody/session`,
      `arn:aws:sts::${accountId}:federated-user/x`,
      `arn:aws:s3:::bucket`,
      accountId,
      'alice',
      'ec2.amazonaws.com',
    ]) {
      const words = `ARN does not refer to a valid principal: ${nobody}`
      await expectRefusal(grant({ KeyId, GranteePrincipal: nobody, Operations: ['Encrypt'] }), 'InvalidArnException', words)
      await expectRefusal(
        grant({ KeyId, GranteePrincipal: root, RetiringPrincipal: nobody, Operations: ['Encrypt'] }),
        'InvalidArnException',
        words,
      )
    }
    expect(await grantsOf(KeyId)).toEqual([])
  })

  test('takes a service as grantee with a SourceArn and somebody who retires the grant', async () => {
    const { KeyId } = await contract.key()
    const service = 'dynamodb.us-east-1.amazonaws.com'
    const SourceArn = `arn:aws:dynamodb:us-east-1:${contract.accountId}:table/x`
    const whole = {
      KeyId,
      GranteeServicePrincipal: service,
      RetiringServicePrincipal: service,
      Operations: ['Encrypt'],
      Constraints: { SourceArn, EncryptionContextSubset: { a: 'b' } },
    } satisfies CreateGrantCommandInput
    const lacking =
      'When you specify a GranteeServicePrincipal, you must also specify a SourceArn grant constraint, and either a RetiringPrincipal or a RetiringServicePrincipal.'
    await expectRefusal(grant({ ...whole, Constraints: { EncryptionContextSubset: { a: 'b' } } }), 'ValidationException', lacking)
    await expectRefusal(grant({ ...whole, RetiringServicePrincipal: undefined }), 'ValidationException', lacking)
    await expectRefusal(
      grant({ ...whole, GranteePrincipal: root }),
      'ValidationException',
      'You can specify either GranteePrincipal or GranteeServicePrincipal, but not both.',
    )
    await expectRefusal(
      grant({ ...whole, RetiringPrincipal: root }),
      'ValidationException',
      'You can specify either RetiringPrincipal or RetiringServicePrincipal, but not both.',
    )
    await expectRefusal(
      grant({ KeyId, Operations: ['Encrypt'] }),
      'ValidationException',
      'You must specify either GranteePrincipal or GranteeServicePrincipal, but not both.',
    )
    const { GrantId } = await grant(whole)
    expect(await grantsOf(KeyId)).toEqual([
      expect.objectContaining({
        GrantId,
        GranteeServicePrincipal: service,
        RetiringServicePrincipal: service,
        Constraints: { SourceArn, EncryptionContextSubset: { a: 'b' } },
      }),
    ])
  })

  test('for a service can be listed and retired by that service, under both of its names', async () => {
    const { KeyId } = await contract.key()
    const made = await makeUser(contract.ours, storage, { inline: document(allow(['kms:ListGrants', 'kms:ListRetirableGrants'])) })
    const kms = contract.client({ credentials: made })
    const stranger = await userWith([allow(['kms:ListGrants', 'kms:ListRetirableGrants'])])
    const SourceArn = `arn:aws:s3:us-east-1:${contract.accountId}:bucket/b`
    for (const service of ['s3.us-east-1.amazonaws.com', 's3.eu-west-1.amazonaws.com']) {
      await grant({
        KeyId,
        GranteeServicePrincipal: service,
        RetiringServicePrincipal: service,
        Operations: ['Encrypt'],
        Constraints: { SourceArn },
      })
    }
    const name = 's3.us-east-1.amazonaws.com'
    const list = (by: KMSClient) => by.send(new ListGrantsCommand({ KeyId, GranteeServicePrincipal: name }))
    const retirable = (by: KMSClient, service = name) => by.send(new ListRetirableGrantsCommand({ RetiringServicePrincipal: service }))
    const [one] = given((await list(kms)).Grants)
    expect((await retirable(kms)).Grants?.map(({ GrantId }) => GrantId)).toEqual([one?.GrantId])
    expect((await refusalOf(list(stranger.kms))).name).toBe('AccessDeniedException')
    expect((await refusalOf(retirable(stranger.kms))).name).toBe('AccessDeniedException')
    expect((await refusalOf(retirable(kms, 'ec2.us-east-1.amazonaws.com'))).name).toBe('AccessDeniedException')
    await expectRefusal(
      kms.send(new ListGrantsCommand({ KeyId, GranteeServicePrincipal: name, GranteePrincipal: root })),
      'ValidationException',
      'You can specify either GranteePrincipal or GranteeServicePrincipal, but not both.',
    )
    const [elsewhere] = given((await retirable(kms, 's3.eu-west-1.amazonaws.com')).Grants)
    const retire = (by: KMSClient, entry: GrantListEntry | undefined) =>
      isAllowed(by.send(new RetireGrantCommand({ KeyId, GrantId: entry?.GrantId })))
    expect([await retire(stranger.kms, one), await retire(kms, elsewhere), await retire(kms, one)]).toEqual([false, false, true])
  })

  test('refuses operations that the key is not for', async () => {
    const { KeyId, Arn } = await contract.key()
    for (const name of [
      'Sign',
      'Verify',
      'GetPublicKey',
      'GenerateMac',
      'VerifyMac',
      'DeriveSharedSecret',
      'Encapsulate',
      'Decapsulate',
    ] as const) {
      await expectRefusal(
        grant({ KeyId, GranteePrincipal: root, Operations: ['Encrypt', name] }),
        'ValidationException',
        `The operation ${name} cannot be granted on ${Arn}: its key spec is SYMMETRIC_DEFAULT and its key usage ENCRYPT_DECRYPT.`,
      )
    }
  })

  test('names every broken bound at once', async () => {
    await expectProblems(
      contract.kms.send(
        new CreateGrantCommand({
          KeyId: '',
          GranteePrincipal: 'a b',
          Operations: ['ScheduleKeyDeletion' as never],
          Name: 'no space',
          Constraints: { SourceArn: 'short' },
          GranteeServicePrincipal: 'one.two',
        }),
      ),
      [
        "Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1",
        "Value 'a b' at 'granteePrincipal' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[\\w+=,.@:/-]+$",
        `Value '[ScheduleKeyDeletion]' at 'operations' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy enum value set: [${grantOperations.join(', ')}]]`,
        "Value 'no space' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$",
        "Value 'short' at 'constraints.sourceArn' failed to satisfy constraint: Member must have length greater than or equal to 20",
        "Value 'short' at 'constraints.sourceArn' failed to satisfy constraint: Member must satisfy regular expression pattern: ^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$",
        "Value 'one.two' at 'granteeServicePrincipal' failed to satisfy constraint: Member must satisfy regular expression pattern: ^([A-Za-z0-9\\-]+)\\.([A-Za-z0-9\\-]+)(\\.[A-Za-z0-9\\-]+)+$",
      ],
    )
  })

  test('needs its own permission, which policies can narrow by what the grant would be', async () => {
    const { KeyId, Arn } = await contract.key()
    const bob = await userWith()
    const none = await userWith([allow('kms:Encrypt')])
    expect(await isAllowed(grant({ KeyId, GranteePrincipal: bob.arn, Operations: ['Encrypt'] }, none.kms))).toBe(false)
    const may = async (Condition: Statement, more: Partial<CreateGrantCommandInput> = {}): Promise<boolean> => {
      const alice = await userWith([allow('kms:CreateGrant', { Condition })])
      const request = { KeyId, GranteePrincipal: bob.arn, Operations: ['Encrypt'], DryRun: true, ...more } as CreateGrantCommandInput
      const { name } = await refusalOf(grant(request, alice.kms))
      if (!['DryRunOperationException', 'AccessDeniedException'].includes(name)) throw new Error(name)
      return name === 'DryRunOperationException'
    }
    const equals = (key: string, value: string) => ({ StringEquals: { [key]: value } })
    expect(await may(equals('kms:GranteePrincipal', bob.arn))).toBe(true)
    expect(await may(equals('kms:GranteePrincipal', root))).toBe(false)
    expect(await may(equals('kms:RetiringPrincipal', root))).toBe(false)
    expect(await may(equals('kms:RetiringPrincipal', root), { RetiringPrincipal: root })).toBe(true)
    const only = { 'ForAllValues:StringEquals': { 'kms:GrantOperations': ['Encrypt', 'DescribeKey'] } }
    expect(await may(only)).toBe(true)
    expect(await may(only, { Operations: ['Encrypt', 'Decrypt'] })).toBe(false)
    const type = equals('kms:GrantConstraintType', 'EncryptionContextEquals')
    expect(await may(type)).toBe(false)
    expect(await may(type, { Constraints: { EncryptionContextSubset: { a: 'b' } } })).toBe(false)
    expect(await may(type, { Constraints: { EncryptionContextEquals: { a: 'b' } } })).toBe(true)
    expect(await may(equals('kms:EncryptionContext:a', 'b'), { Constraints: { EncryptionContextEquals: { a: 'b' } } })).toBe(true)
    expect(await may(equals('kms:EncryptionContext:a', 'c'), { Constraints: { EncryptionContextEquals: { a: 'b' } } })).toBe(false)
    expect(await may({ Bool: { 'kms:GrantIsForAWSResource': 'true' } })).toBe(false)
    expect(await may({ Bool: { 'kms:GrantIsForAWSResource': 'false' } })).toBe(true)
    const source = `arn:aws:s3:us-east-1:${contract.accountId}:bucket/b`
    const like = { ArnLike: { 'kms:GrantConstraintSourceArn': `arn:aws:s3:us-east-1:${contract.accountId}:bucket/*` } }
    expect(await may(like, { Constraints: { SourceArn: source } })).toBe(true)
    expect(await may(like)).toBe(false)
    expect((await grantsOf(Arn)).length).toBe(0)
  })
})

describeOurs('the grants of a key', () => {
  test('are listed with all that was said of them, in pages, and by id or grantee', async () => {
    const { KeyId, Arn } = await contract.key()
    const [alice, bob] = [await userWith(), await userWith()]
    const before = Date.now()
    const whole = await grant({
      KeyId,
      GranteePrincipal: alice.arn,
      RetiringPrincipal: bob.arn,
      Operations: ['Encrypt', 'Decrypt'],
      Constraints: { EncryptionContextSubset: { a: 'b' } },
      Name: 'named',
    })
    const bare = await grant({ KeyId, GranteePrincipal: bob.arn, Operations: ['DescribeKey'] })
    for (let index = 0; index < 3; index++) await grant({ KeyId, GranteePrincipal: bob.arn, Operations: ['DescribeKey'] })

    const all: GrantListEntry[] = []
    let Marker: string | undefined
    const sizes: number[] = []
    do {
      const answer = await contract.kms.send(new ListGrantsCommand({ KeyId: Arn, Limit: 2, ...(Marker !== undefined && { Marker }) }))
      all.push(...given(answer.Grants))
      sizes.push(given(answer.Grants).length)
      expect(answer.Truncated).toBe(answer.NextMarker !== undefined)
      Marker = answer.NextMarker
    } while (Marker !== undefined)
    expect(sizes).toEqual([2, 2, 1])
    const ids = all.map((each) => given(each.GrantId))
    expect(ids).toEqual([...new Set(ids)].sort())

    const common = { KeyId: Arn, CreationDate: expect.any(Date), IssuingAccount: `arn:aws:iam::${contract.accountId}:root` }
    expect(all.find((each) => each.GrantId === whole.GrantId)).toEqual({
      ...common,
      GrantId: whole.GrantId,
      Name: 'named',
      GranteePrincipal: alice.arn,
      RetiringPrincipal: bob.arn,
      Operations: ['Encrypt', 'Decrypt'],
      Constraints: { EncryptionContextSubset: { a: 'b' } },
    })
    expect(all.find((each) => each.GrantId === bare.GrantId)).toEqual({
      ...common,
      GrantId: bare.GrantId,
      Name: '',
      GranteePrincipal: bob.arn,
      Operations: ['DescribeKey'],
    })
    expect(Math.abs(given(all[0]?.CreationDate).getTime() - before)).toBeLessThan(60_000)

    const listed = async (more: object) => (await grantsOf(KeyId, more)).map((each) => each.GrantId)
    expect(await listed({ GranteePrincipal: alice.arn })).toEqual([whole.GrantId])
    expect(await listed({ GrantId: bare.GrantId })).toEqual([bare.GrantId])
    expect(await listed({ GrantId: bare.GrantId, GranteePrincipal: alice.arn })).toEqual([])
    expect(await listed({ GrantId: '0'.repeat(64) })).toEqual([])
    const other = await contract.key()
    expect(await grantsOf(other.KeyId, { GrantId: bare.GrantId })).toEqual([])
  })

  test('are asked for with AWS’s errors', async () => {
    const { KeyId } = await contract.key()
    const list = (input: object) => contract.kms.send(new ListGrantsCommand({ KeyId, ...input }))
    await expectRefusal(list({ KeyId: absentKeyId }), 'NotFoundException', /^Key 'arn:aws:kms:.*' does not exist$/)
    await expectRefusal(list({ KeyId: 'alias/x' }), 'NotFoundException', "Invalid keyId 'alias/x'")
    await expectRefusal(list({ GrantId: 'nonsense' }), 'InvalidGrantIdException', "Invalid grant ID 'nonsense'")
    for (const more of [{}, { GrantId: '0'.repeat(64) }])
      await expectRefusal(list({ Marker: 'nonsense', ...more }), 'InvalidMarkerException', 'Could not deserialize marker')
    await expectRefusal(list({ GranteePrincipal: 'alice' }), 'InvalidArnException', 'ARN does not refer to a valid principal: alice')
    expect((await refusalOf(list({ GranteeServicePrincipal: 'ec2.us-east-1.amazonaws.com' }))).name).toBe('AccessDeniedException')
    await expectProblems(list({ Limit: 0 }), [
      "Value '0' at 'limit' failed to satisfy constraint: Member must have value greater than or equal to 1",
    ])
  })

  test('that somebody may retire are found across keys, by whom his account lets', async () => {
    const [one, two] = [await contract.key(), await contract.key()]
    const retiring = await userWith()
    const root = `arn:aws:iam::${contract.accountId}:root`
    for (const { KeyId } of [one, two, one])
      await grant({ KeyId, GranteePrincipal: root, RetiringPrincipal: retiring.arn, Operations: ['Encrypt'] })
    const list = (kms: KMSClient, input: object = {}) =>
      kms.send(new ListRetirableGrantsCommand({ RetiringPrincipal: retiring.arn, ...input }))
    const first = await list(contract.kms, { Limit: 2 })
    const second = await list(contract.kms, { Limit: 2, Marker: first.NextMarker })
    const found = [...given(first.Grants), ...given(second.Grants)]
    expect([first.Truncated, second.Truncated]).toEqual([true, false])
    expect(found.map((each) => given(each.KeyId)).toSorted()).toEqual([one.Arn, one.Arn, two.Arn].toSorted())
    // The resource that a policy speaks of is the retiring principal.
    const [mine, others] = [retiring.arn, root].map((Resource) => userWith([allow('kms:ListRetirableGrants', { Resource })]))
    expect(await isAllowed(list((await given(mine)).kms))).toBe(true)
    expect(await isAllowed(list((await given(others)).kms))).toBe(false)
    const elsewhere = contract.client({ region: contract.otherRegion })
    expect((await list(elsewhere)).Grants).toEqual([])
    await expectRefusal(
      contract.kms.send(new ListRetirableGrantsCommand({})),
      'ValidationException',
      'You must specify either RetiringPrincipal or RetiringServicePrincipal, but not both.',
    )
    await expectRefusal(
      list(contract.kms, { RetiringPrincipal: 'bob' }),
      'InvalidArnException',
      'ARN does not refer to a valid principal: bob',
    )
  })
})

describeOurs('a grant is retired', () => {
  test('by its retiring principal, by its grantee if it says so, and by the account of the key', async () => {
    const { KeyId, Arn } = await contract.key()
    const [grantee, retiring, stranger] = [await userWith(), await userWith(), await userWith()]
    const may = await userWith([allow('kms:RetireGrant')])
    const denied = await userWith([deny('kms:RetireGrant')])
    const retire = (kms: KMSClient, GrantId: string | undefined) => isAllowed(kms.send(new RetireGrantCommand({ KeyId: Arn, GrantId })))
    const make = async (more: Partial<CreateGrantCommandInput> = {}) =>
      (await grant({ KeyId, GranteePrincipal: grantee.arn, Operations: ['Encrypt'], ...more })).GrantId

    const plain = await make({ RetiringPrincipal: retiring.arn })
    expect(await retire(stranger.kms, plain)).toBe(false)
    expect(await retire(grantee.kms, plain)).toBe(false)
    expect(await retire(retiring.kms, plain)).toBe(true)
    // A constraint does not limit who may retire.
    const byGrantee = await make({ Operations: ['Encrypt', 'RetireGrant'], Constraints: { EncryptionContextEquals: { a: 'b' } } })
    expect(await retire(grantee.kms, byGrantee)).toBe(true)
    expect(await retire(may.kms, await make())).toBe(true)
    expect(await retire(contract.kms, await make())).toBe(true)
    expect(await retire(denied.kms, await make({ RetiringPrincipal: denied.arn }))).toBe(false)
    expect(await grantsOf(KeyId)).toHaveLength(1)
  })

  test('by token, or by key and id, and not by half of either', async () => {
    const { KeyId } = await contract.key()
    const root = `arn:aws:iam::${contract.accountId}:root`
    const { GrantId, GrantToken } = await grant({ KeyId, GranteePrincipal: root, Operations: ['Encrypt'] })
    const retire = (input: object) => contract.kms.send(new RetireGrantCommand(input))
    for (const input of [{}, { KeyId }, { GrantId }, { GrantToken, KeyId }, { GrantToken, GrantId, KeyId }]) {
      await expectRefusal(retire(input), 'ValidationException', 'You must specify either a grant token, or both a key ID and a grant ID.')
    }
    await expectRefusal(retire({ KeyId, GrantId: 'x' }), 'InvalidGrantIdException', "Invalid grant ID 'x'")
    await expectRefusal(retire({ KeyId, GrantId: '0'.repeat(64) }), 'NotFoundException', `Grant ID ${'0'.repeat(64)} not found`)
    const other = await contract.key()
    await expectRefusal(retire({ KeyId: other.KeyId, GrantId }), 'NotFoundException', `Grant ID ${given(GrantId)} not found`)
    await expectRefusal(retire({ GrantToken, DryRun: true }), 'DryRunOperationException', /would have succeeded/)
    expect(await grantsOf(KeyId)).toHaveLength(1)
    expect(withoutMetadata(await retire({ GrantToken }))).toEqual({})
    expect(await grantsOf(KeyId)).toEqual([])
  })
})

describeOurs('a grant token', () => {
  let key: string
  let token: string
  let alice: User
  beforeAll(async () => {
    key = (await contract.key()).KeyId
    alice = await userWith()
    token = given((await grant({ KeyId: key, GranteePrincipal: alice.arn, Operations: ['Encrypt'] })).GrantToken)
  })

  test('may be given with every call that takes tokens, up to ten', async () => {
    expect(await isAllowed(encrypt(alice.kms, key, undefined, [token]))).toBe(true)
    expect(
      await isAllowed(
        encrypt(
          contract.kms,
          key,
          undefined,
          Array.from({ length: 10 }, () => token),
        ),
      ),
    ).toBe(true)
  })

  test('makes nobody else the grantee, and its grant no other', async () => {
    const bob = await userWith()
    expect(await isAllowed(encrypt(bob.kms, key, undefined, [token]))).toBe(false)
    const other = await contract.key()
    expect(await isAllowed(encrypt(alice.kms, other.KeyId, undefined, [token]))).toBe(false)
  })

  test('that this service did not make is refused, even where no grant is needed', async () => {
    const bytes = Buffer.from(token, 'base64')
    const flipped = [0, 1, 20, bytes.length - 40, bytes.length - 1].map((at) => {
      const copy = Buffer.from(bytes)
      copy[at] = (copy[at] ?? 0) ^ 1
      return copy.toString('base64')
    })
    const forged = [
      'nonsense',
      ' ',
      `${token} `,
      token.slice(0, -4),
      bytes.subarray(0, 60).toString('base64'),
      randomBytes(150).toString('base64'),
      'A'.repeat(8192),
      ...flipped,
    ]
    for (const each of forged) {
      await expectRefusal(encrypt(contract.kms, key, undefined, [token, each]), 'InvalidGrantTokenException', 'The grant token is invalid.')
      await expectRefusal(
        contract.kms.send(new RetireGrantCommand({ GrantToken: each })),
        'InvalidGrantTokenException',
        'The grant token is invalid.',
      )
    }
  })
})

describeOurs('the trail', () => {
  let trail: CloudTrailClient
  beforeAll(() => {
    trail = new CloudTrailClient({
      endpoint: contract.ours.endpoint,
      region: contract.region,
      credentials: contract.ours.credentials,
      maxAttempts: 1,
    })
  })
  afterAll(() => trail.destroy())

  test('says what was granted and what became of it, and never the token', async () => {
    const { KeyId, Arn } = await contract.key()
    const root = `arn:aws:iam::${contract.accountId}:root`
    const request = {
      KeyId,
      GranteePrincipal: root,
      Operations: ['Encrypt', 'RetireGrant'],
      Constraints: { EncryptionContextSubset: { Department: 'IT' } },
      Name: 'n',
    } satisfies CreateGrantCommandInput
    const { GrantId, GrantToken = '' } = await grant(request)
    await encrypt(contract.kms, KeyId, undefined, [GrantToken])
    await contract.kms.send(new ListGrantsCommand({ KeyId }))
    await contract.kms.send(new RetireGrantCommand({ GrantToken }))
    const other = await grant(request)
    await contract.kms.send(new RevokeGrantCommand({ KeyId, GrantId: other.GrantId }))
    const { Events = [] } = await trail.send(
      new LookupEventsCommand({ LookupAttributes: [{ AttributeKey: 'ResourceName', AttributeValue: Arn }] }),
    )
    const texts = Events.map((event) => given(event.CloudTrailEvent))
    const records = texts.map((text) => JSON.parse(text) as Readonly<Record<string, unknown>>).reverse()
    expect(texts.join('\n')).not.toContain(GrantToken)
    const shown = records.map(({ eventName, readOnly, requestParameters, responseElements, additionalEventData }) => ({
      eventName,
      readOnly,
      requestParameters,
      responseElements,
      additionalEventData,
    }))
    const parameters = {
      keyId: KeyId,
      granteePrincipal: root,
      operations: ['Encrypt', 'RetireGrant'],
      constraints: { encryptionContextSubset: { Department: 'IT' } },
      name: 'n',
    }
    expect(shown.slice(1)).toEqual([
      { eventName: 'CreateGrant', readOnly: false, requestParameters: parameters, responseElements: { grantId: GrantId, keyId: Arn } },
      expect.objectContaining({ eventName: 'Encrypt', requestParameters: { keyId: KeyId, encryptionAlgorithm: 'SYMMETRIC_DEFAULT' } }),
      { eventName: 'ListGrants', readOnly: true, requestParameters: { keyId: KeyId }, responseElements: null },
      {
        eventName: 'RetireGrant',
        readOnly: false,
        requestParameters: {},
        responseElements: null,
        additionalEventData: { grantId: GrantId },
      },
      {
        eventName: 'CreateGrant',
        readOnly: false,
        requestParameters: parameters,
        responseElements: { grantId: other.GrantId, keyId: Arn },
      },
      { eventName: 'RevokeGrant', readOnly: false, requestParameters: { keyId: KeyId, grantId: other.GrantId }, responseElements: null },
    ])
  })
})

describeOurs('grants on other keys than symmetric ones', () => {
  test('permit what such a key is for, and take no encryption context', async () => {
    const { KeyMetadata } = await contract.kms.send(new CreateKeyCommand({ KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' }))
    const KeyId = given(KeyMetadata?.KeyId)
    const root = `arn:aws:iam::${contract.accountId}:root`
    await grant({ KeyId, GranteePrincipal: root, Operations: ['Sign', 'Verify', 'GetPublicKey', 'DescribeKey'] })
    await expectRefusal(
      grant({ KeyId, GranteePrincipal: root, Operations: ['Encrypt'] }),
      'ValidationException',
      /Encrypt cannot be granted/,
    )
    await expectRefusal(
      grant({ KeyId, GranteePrincipal: root, Operations: ['Sign'], Constraints: { EncryptionContextEquals: { a: 'b' } } }),
      'ValidationException',
      /have no encryption context/,
    )
  })
})
