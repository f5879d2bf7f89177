/** Whom policies mean: users and roles by their unique ids, whoever has their names. In every process, and in stores of before. */
import { CreateGrantCommand, CreateKeyCommand, EncryptCommand, GetKeyPolicyCommand, PutKeyPolicyCommand } from '@aws-sdk/client-kms'
import { AssumeRoleCommand, STSClient } from '@aws-sdk/client-sts'
import { expect, test } from 'vitest'
import { administer, makeUser, type Credentials } from '../holdfast.ts'
import { describeOurs, expectRefusal, given, refusalOf, useContract } from './kit.ts'

// Two processes, whatever the token makes of it: nothing here is about keys' material.
const contract = useContract({ env: { HOLDFAST_PROCESSES: '2' } })

type Statement = Readonly<Record<string, unknown>>
const policyOf = (...statements: readonly Statement[]): string => JSON.stringify({ Version: '2012-10-17', Statement: statements }, null, 3)
const all = (): Statement => ({
  Effect: 'Allow',
  Principal: { AWS: `arn:aws:iam::${contract.accountId}:root` },
  Action: 'kms:*',
  Resource: '*',
})
const encryptBy = (principal: unknown, more: Statement = {}): Statement => ({
  Effect: 'Allow',
  Principal: { AWS: principal },
  Action: 'kms:Encrypt',
  Resource: '*',
  ...more,
})
const trust = (principal: unknown): string => policyOf({ Effect: 'Allow', Principal: { AWS: principal }, Action: 'sts:AssumeRole' })

let names = 0
const freshName = (): string => `principal-${++names}`
const idOfUser = async (UserName: string): Promise<string> =>
  (await administer<{ User: { UserId: string } }>(contract.ours, 'GetUser', { UserName })).User.UserId
const makeRole = async (RoleName: string, principal: string): Promise<{ readonly Arn: string; readonly RoleId: string }> =>
  (
    await administer<{ Role: { Arn: string; RoleId: string } }>(contract.ours, 'CreateRole', {
      RoleName,
      AssumeRolePolicyDocument: trust(principal),
    })
  ).Role
const shownTrust = async (RoleName: string): Promise<string> =>
  (await administer<{ Role: { AssumeRolePolicyDocument: string } }>(contract.ours, 'GetRole', { RoleName })).Role.AssumeRolePolicyDocument

/** On connections enough to have some with every process. */
async function encrypts(credentials: Credentials, KeyId: string): Promise<readonly string[]> {
  const clients = Array.from({ length: 6 }, () => contract.client({ credentials }))
  return Promise.all(
    clients.map((kms) =>
      kms.send(new EncryptCommand({ KeyId, Plaintext: Buffer.from('x') })).then(
        () => 'allowed',
        (error: unknown) => (error as Error).name,
      ),
    ),
  )
}
const six = (word: string): readonly string[] => Array.from({ length: 6 }, () => word)

const deleteUser = (UserName: string): Promise<unknown> => administer(contract.ours, 'DeleteUser', { UserName })
const get = async (KeyId: string): Promise<string> => given((await contract.kms.send(new GetKeyPolicyCommand({ KeyId }))).Policy)
const put = (KeyId: string, Policy: string): Promise<unknown> => contract.kms.send(new PutKeyPolicyCommand({ KeyId, Policy }))

/** One after the other: SoftHSM2 does not always show one process what another made at the same time. */
async function madeInTurn(policies: readonly string[]): Promise<readonly string[]> {
  const ids: string[] = []
  for (const Policy of policies) ids.push((await contract.key({ Policy })).KeyId)
  return ids
}

async function sessionOf(who: Credentials, RoleArn: string, RoleSessionName = 'ss'): Promise<Credentials> {
  const sts = new STSClient({ endpoint: contract.ours.endpoint, region: contract.region, credentials: who, maxAttempts: 1 })
  const { Credentials: made } = await sts.send(new AssumeRoleCommand({ RoleArn, RoleSessionName }))
  sts.destroy()
  return {
    accessKeyId: given(made?.AccessKeyId),
    secretAccessKey: given(made?.SecretAccessKey),
    sessionToken: given(made?.SessionToken),
  }
}

describeOurs('a key policy', () => {
  test('does not mean the user who is made again under the name of one that it named, in any process', async () => {
    const name = freshName()
    const first = await makeUser(contract.ours, name, {}, { path: '/team/' })
    const id = await idOfUser(name)
    // The name in a condition is a text like any other.
    const text = policyOf(
      all(),
      encryptBy([first.arn], { Condition: { ArnLike: { 'aws:PrincipalArn': first.arn }, StringEquals: { 'aws:username': [name] } } }),
    )
    const { KeyId } = await contract.key({ Policy: text })
    expect(await get(KeyId)).toBe(text)
    expect(await encrypts(first, KeyId)).toEqual(six('allowed'))

    await deleteUser(name)
    expect(await get(KeyId)).toBe(text.replace(JSON.stringify(first.arn), JSON.stringify(id)))
    const second = await makeUser(contract.ours, name, {}, { path: '/team/' })
    expect(second.arn).toBe(first.arn)
    expect(await get(KeyId)).toContain(`"${id}"`)
    expect(await encrypts(second, KeyId)).toEqual(six('AccessDeniedException'))

    await expectRefusal(
      put(KeyId, await get(KeyId)),
      'MalformedPolicyDocumentException',
      'Policy contains a statement with one or more invalid principals.',
    )
    await put(KeyId, text)
    expect(await get(KeyId)).toBe(text)
    expect(await encrypts(second, KeyId)).toEqual(six('allowed'))
  })

  test('takes the unique id of one who exists, and shows the name', async () => {
    const name = freshName()
    const user = await makeUser(contract.ours, name)
    const { KeyId } = await contract.key({ Policy: policyOf(all(), encryptBy(await idOfUser(name))) })
    expect(await encrypts(user, KeyId)).toEqual(six('allowed'))
    expect(await get(KeyId)).toBe(policyOf(all(), encryptBy(user.arn)))
    await expectRefusal(
      contract.kms.send(new CreateKeyCommand({ Policy: policyOf(all(), encryptBy('AIDAQQQQQQQQQQQQQQQQQ')) })),
      'MalformedPolicyDocumentException',
      'Policy contains a statement with one or more invalid principals.',
    )
  })

  test('does not mean the sessions of a role that is made again, neither by the role nor by the session', async () => {
    const user = await makeUser(contract.ours, freshName())
    const [RoleName, other] = [freshName(), freshName()]
    const role = await makeRole(RoleName, user.arn)
    await makeRole(other, user.arn)
    const session = `arn:aws:sts::${contract.accountId}:assumed-role/${RoleName}/ss`
    const denied = policyOf(all(), {
      ...encryptBy(`arn:aws:iam::${contract.accountId}:root`),
      Principal: undefined,
      NotPrincipal: { AWS: [role.Arn, session, `arn:aws:iam::${contract.accountId}:root`] },
      Effect: 'Deny',
    })
    const [byRole = '', bySession = '', butFor = ''] = await madeInTurn([
      policyOf(all(), encryptBy(role.Arn)),
      policyOf(all(), encryptBy(session)),
      denied,
    ])
    const mayEncrypt = (): Promise<unknown> =>
      administer(contract.ours, 'PutRolePolicy', {
        RoleName,
        PolicyName: 'p',
        PolicyDocument: policyOf({ Effect: 'Allow', Action: 'kms:Encrypt', Resource: `arn:aws:kms:*:*:key/${butFor}` }),
      })
    await mayEncrypt()
    expect(await get(bySession)).toBe(policyOf(all(), encryptBy(session)))
    const before = await sessionOf(user, role.Arn)
    for (const KeyId of [byRole, bySession, butFor]) expect(await encrypts(before, KeyId)).toEqual(six('allowed'))
    expect(await encrypts(await sessionOf(user, role.Arn, 'another'), bySession)).toEqual(six('AccessDeniedException'))

    await administer(contract.ours, 'DeleteRole', { RoleName })
    const again = await makeRole(RoleName, user.arn)
    expect(again.Arn).toBe(role.Arn)
    await mayEncrypt()
    const after = await sessionOf(user, again.Arn)
    for (const KeyId of [byRole, bySession, butFor]) expect(await encrypts(after, KeyId)).toEqual(six('AccessDeniedException'))
    expect(await get(bySession)).toBe(policyOf(all(), encryptBy(`${role.RoleId}:ss`)))
  })
})

describeOurs('a role’s trust policy', () => {
  test('does not mean the user who is made again under the name of one that it named', async () => {
    const name = freshName()
    const first = await makeUser(contract.ours, name)
    const id = await idOfUser(name)
    const RoleName = freshName()
    const role = await makeRole(RoleName, first.arn)
    expect(await shownTrust(RoleName)).toBe(trust(first.arn))
    await sessionOf(first, role.Arn)
    await deleteUser(name)
    const second = await makeUser(contract.ours, name)
    expect(await shownTrust(RoleName)).toBe(trust(id))
    expect((await refusalOf(sessionOf(second, role.Arn))).name).toBe('AccessDenied')
    await administer(contract.ours, 'UpdateAssumeRolePolicy', { RoleName, PolicyDocument: trust(second.arn) })
    await sessionOf(second, role.Arn)
  })

  test('names nobody who does not exist', async () => {
    const nobody = `arn:aws:iam::${contract.accountId}:user/nobody-at-all`
    await expect(makeRole(freshName(), nobody)).rejects.toThrow(
      /MalformedPolicyDocumentException.*Invalid principal in policy: .*nobody-at-all/,
    )
    const RoleName = freshName()
    await makeRole(RoleName, contract.accountId)
    await expect(administer(contract.ours, 'UpdateAssumeRolePolicy', { RoleName, PolicyDocument: trust(nobody) })).rejects.toThrow(
      /MalformedPolicyDocumentException/,
    )
    expect(await shownTrust(RoleName)).toBe(trust(contract.accountId))
  })
})

describeOurs('a grant', () => {
  test('does not mean the user who is made again under the name of its grantee, in any process', async () => {
    const name = freshName()
    const first = await makeUser(contract.ours, name)
    const { KeyId } = await contract.key()
    await contract.kms.send(
      new CreateGrantCommand({ KeyId, GranteePrincipal: first.arn, RetiringPrincipal: first.arn, Operations: ['Encrypt'] }),
    )
    expect(await encrypts(first, KeyId)).toEqual(six('allowed'))
    await deleteUser(name)
    const second = await makeUser(contract.ours, name)
    expect(await encrypts(second, KeyId)).toEqual(six('AccessDeniedException'))
  })
})
