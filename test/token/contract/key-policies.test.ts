/** Key policies as documents: read, written, refused. What they decide is in access.test.ts. */
import {
  CreateKeyCommand,
  DescribeKeyCommand,
  GetKeyPolicyCommand,
  ListKeyPoliciesCommand,
  PutKeyPolicyCommand,
  type PutKeyPolicyCommandInput,
} from '@aws-sdk/client-kms'
import { describe, expect, test } from 'vitest'
import { expectProblems, expectRefusal, useContract, withoutMetadata } from './kit.ts'

const contract = useContract()
const root = () => `arn:aws:iam::${contract.accountId}:root`
const all = () => ({ Effect: 'Allow', Principal: { AWS: root() }, Action: 'kms:*', Resource: '*' })
const policyOf = (...statements: unknown[]) => JSON.stringify({ Version: '2012-10-17', Statement: statements })
const put = (KeyId: string, Policy: string, more: Partial<PutKeyPolicyCommandInput> = {}) =>
  contract.kms.send(new PutKeyPolicyCommand({ KeyId, Policy, ...more }))
const get = async (KeyId: string) => (await contract.kms.send(new GetKeyPolicyCommand({ KeyId }))).Policy

const lockOut = 'The new key policy will not allow you to update the key policy in the future.'

describe('GetKeyPolicy', () => {
  test('of a key made without one answers the default policy: the account decides', async () => {
    const { KeyId, Arn } = await contract.key()
    for (const input of [{ KeyId }, { KeyId: Arn, PolicyName: 'default' }]) {
      const answer = await contract.kms.send(new GetKeyPolicyCommand(input))
      expect(JSON.parse(answer.Policy ?? '')).toEqual({
        Version: '2012-10-17',
        Id: 'key-default-1',
        Statement: [{ Sid: 'Enable IAM User Permissions', Effect: 'Allow', Principal: { AWS: root() }, Action: 'kms:*', Resource: '*' }],
      })
      expect(answer.PolicyName).toBe('default')
    }
  })

  test('knows no policy by another name', async () => {
    const { KeyId } = await contract.key()
    await expectRefusal(contract.kms.send(new GetKeyPolicyCommand({ KeyId, PolicyName: 'other' })), 'NotFoundException', /./)
    await expectProblems(contract.kms.send(new GetKeyPolicyCommand({ KeyId, PolicyName: 'invalid-name' })), [
      String.raw`Value 'invalid-name' at 'policyName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w]+`,
    ])
  })
})

describe('ListKeyPolicies', () => {
  test('names the one there is', async () => {
    const { KeyId } = await contract.key()
    for (const Limit of [undefined, 1, 1000]) {
      const answer = await contract.kms.send(new ListKeyPoliciesCommand({ KeyId, ...(Limit !== undefined && { Limit }) }))
      expect(withoutMetadata(answer)).toEqual({ PolicyNames: ['default'], Truncated: false })
    }
  })
})

describe('PutKeyPolicy', () => {
  test('keeps the text to the letter, with or without the policy’s name, and answers nothing', async () => {
    const { KeyId, Arn } = await contract.key()
    const texts = [policyOf(all()), `{\n\t"Version" : "2012-10-17",\r\n "Id":"é ÿ",\n "Statement": [ ${JSON.stringify(all())} ] }`]
    for (const text of texts) {
      expect(withoutMetadata(await put(Arn, text))).toEqual({})
      expect(await get(KeyId)).toBe(text)
    }
    await put(KeyId, texts[0] ?? '', { PolicyName: 'default' })
    expect(await get(KeyId)).toBe(texts[0])
    await expectRefusal(put(KeyId, texts[1] ?? '', { PolicyName: 'other' }), 'NotFoundException', /./)
  })

  test('wants a policy', async () => {
    const { KeyId } = await contract.key()
    await expectProblems(contract.kms.send(new PutKeyPolicyCommand({ KeyId, Policy: undefined })), [
      "Value null at 'policy' failed to satisfy constraint: Member must not be null",
    ])
  })

  test.each([
    { what: 'is not JSON', text: '{"Version": "2012-10-17",' },
    { what: 'is no object', text: '[]' },
    { what: 'has no statement', text: '{"Version":"2012-10-17"}' },
    { what: 'has an unknown version', text: '{"Version":"2020-01-01","Statement":[]}' },
  ])('refuses a text that $what', async ({ text }) => {
    const { KeyId } = await contract.key()
    const before = await get(KeyId)
    await expectRefusal(put(KeyId, text), 'MalformedPolicyDocumentException', /./)
    expect(await get(KeyId)).toBe(before)
  })

  test.each([
    { what: 'has no principal', statement: { Effect: 'Allow', Action: 'kms:*', Resource: '*' } },
    { what: 'has an effect that is none', statement: { Effect: 'Permit', Principal: '*', Action: 'kms:*', Resource: '*' } },
    { what: 'has an unknown element', statement: { Effect: 'Allow', Principal: '*', Action: 'kms:*', Resource: '*', Unknown: 1 } },
    {
      what: 'has an unknown condition operator',
      statement: { Effect: 'Allow', Principal: '*', Action: 'kms:*', Resource: '*', Condition: { Like: { 'aws:username': 'x' } } },
    },
    {
      what: 'has both Principal and NotPrincipal',
      statement: { Effect: 'Deny', Principal: '*', NotPrincipal: '*', Action: 'kms:*', Resource: '*' },
    },
    { what: 'has an action of no service', statement: { Effect: 'Allow', Principal: '*', Action: 'Encrypt', Resource: '*' } },
  ])('refuses a statement that $what', async ({ statement }) => {
    const { KeyId } = await contract.key()
    await expectRefusal(put(KeyId, policyOf(all(), statement)), 'MalformedPolicyDocumentException', /./)
  })

  test('refuses principals that do not exist', async () => {
    const { KeyId } = await contract.key()
    for (const principal of [
      `arn:aws:iam::${contract.accountId}:user/nobody-of-this-name`,
      `arn:aws:iam::${contract.accountId}:role/none`,
      'nonsense',
    ]) {
      await expectRefusal(
        put(KeyId, policyOf(all(), { ...all(), Principal: { AWS: principal } })),
        'MalformedPolicyDocumentException',
        'Policy contains a statement with one or more invalid principals.',
      )
    }
  })

  test('accepts a statement without action or resource, which then has no effect', async () => {
    const { KeyId } = await contract.key()
    const text = policyOf(
      all(),
      { Effect: 'Deny', Principal: '*', Resource: '*' },
      { Effect: 'Deny', Principal: '*', Action: 'kms:DescribeKey' },
    )
    await put(KeyId, text)
    expect(await get(KeyId)).toBe(text)
    await contract.kms.send(new DescribeKeyCommand({ KeyId }))
  })

  test('refuses a policy that would lock its author out, unless told that this is meant', async () => {
    const { KeyId } = await contract.key()
    const before = await get(KeyId)
    for (const statements of [
      [{ ...all(), Action: ['kms:Get*', 'kms:Describe*'] }],
      [all(), { Effect: 'Deny', Principal: '*', Action: 'kms:PutKeyPolicy', Resource: '*' }],
    ]) {
      await expectRefusal(put(KeyId, policyOf(...statements)), 'MalformedPolicyDocumentException', lockOut)
      expect(await get(KeyId)).toBe(before)
    }
    const locked = policyOf({ ...all(), Action: ['kms:GetKeyPolicy', 'kms:ScheduleKeyDeletion'] })
    await put(KeyId, locked, { BypassPolicyLockoutSafetyCheck: true })
    expect(await get(KeyId)).toBe(locked)
    await expectRefusal(put(KeyId, policyOf(all())), 'AccessDeniedException', /is not authorized to perform: kms:PutKeyPolicy/)
  })

  test('CreateKey makes the same check, and the same exception from it', async () => {
    const locked = policyOf({ ...all(), Action: ['kms:DescribeKey', 'kms:ScheduleKeyDeletion'] })
    await expectRefusal(contract.kms.send(new CreateKeyCommand({ Policy: locked })), 'MalformedPolicyDocumentException', lockOut)
    const key = await contract.key({ Policy: locked, BypassPolicyLockoutSafetyCheck: true })
    await contract.kms.send(new DescribeKeyCommand({ KeyId: key.KeyId }))
  })

  test('refuses a policy longer than 32 KiB', async () => {
    const { KeyId } = await contract.key()
    const sized = (bytes: number) => {
      const text = policyOf(all())
      return text.slice(0, -1) + ' '.repeat(bytes - text.length) + text.slice(-1)
    }
    await put(KeyId, sized(32_768))
    await expectRefusal(put(KeyId, sized(32_769)), 'LimitExceededException', /./)
  })
})
