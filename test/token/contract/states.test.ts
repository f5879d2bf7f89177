/**
 * AWS's table "Key states of KMS keys": which operation a key allows while it is enabled, disabled or pending deletion. What is refused in the other
 * states as well: test/token/bad-input.test.ts.
 */
import {
  CancelKeyDeletionCommand,
  CreateAliasCommand,
  CreateGrantCommand,
  DecryptCommand,
  DeleteAliasCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  DisableKeyRotationCommand,
  EnableKeyCommand,
  EnableKeyRotationCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GenerateDataKeyPairCommand,
  GenerateDataKeyPairWithoutPlaintextCommand,
  GenerateDataKeyWithoutPlaintextCommand,
  GetKeyLastUsageCommand,
  GetKeyPolicyCommand,
  GetKeyRotationStatusCommand,
  ListAliasesCommand,
  ListGrantsCommand,
  ListKeyPoliciesCommand,
  ListKeyRotationsCommand,
  ListResourceTagsCommand,
  PutKeyPolicyCommand,
  ReEncryptCommand,
  RetireGrantCommand,
  RevokeGrantCommand,
  RotateKeyOnDemandCommand,
  ScheduleKeyDeletionCommand,
  TagResourceCommand,
  UntagResourceCommand,
  UpdateAliasCommand,
  UpdateKeyDescriptionCommand,
} from '@aws-sdk/client-kms'
import { beforeAll, describe, expect, test } from 'vitest'
import { membersOf, operationNames } from '../../unit/kms-model.ts'
import { expectRefusal, freshAlias, given, useContract, type TestKey } from './kit.ts'

const contract = useContract()

const states = ['Enabled', 'Disabled', 'PendingDeletion'] as const
type State = (typeof states)[number]

/** A key with an alias and a blob of its own, brought into a state. */
interface Subject extends TestKey {
  readonly alias: string
  readonly blob: Uint8Array
  readonly policy: string
  readonly grantId: string
}

const rootArn = (): string => `arn:aws:iam::${contract.accountId}:root`

async function subjectIn(state: State): Promise<Subject> {
  const { kms } = contract
  const key = await contract.key()
  const KeyId = key.KeyId
  const alias = freshAlias()
  await kms.send(new CreateAliasCommand({ AliasName: alias, TargetKeyId: KeyId }))
  const blob = given((await kms.send(new EncryptCommand({ KeyId, Plaintext: Buffer.from('x') }))).CiphertextBlob)
  const policy = given((await kms.send(new GetKeyPolicyCommand({ KeyId }))).Policy)
  const grantId = given((await kms.send(new CreateGrantCommand({ KeyId, GranteePrincipal: rootArn(), Operations: ['Encrypt'] }))).GrantId)
  if (state === 'Disabled') await kms.send(new DisableKeyCommand({ KeyId }))
  if (state === 'PendingDeletion') await kms.send(new ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: 7 }))
  return { ...key, alias, blob, policy, grantId }
}

let bystander: Subject
beforeAll(async () => {
  bystander = await subjectIn('Enabled')
})

interface Row {
  readonly operation: string
  readonly call: (key: Subject) => Promise<unknown>
  /** States in which AWS lets the call through. */
  readonly allowed: readonly State[]
}

const kms = () => contract.kms
const onlyEnabled = ['Enabled'] as const
const notDoomed = ['Enabled', 'Disabled'] as const

const rows: readonly Row[] = [
  { operation: 'DescribeKey', allowed: states, call: ({ KeyId }) => kms().send(new DescribeKeyCommand({ KeyId })) },
  { operation: 'GetKeyPolicy', allowed: states, call: ({ KeyId }) => kms().send(new GetKeyPolicyCommand({ KeyId })) },
  {
    operation: 'PutKeyPolicy',
    allowed: states,
    call: ({ KeyId, policy }) => kms().send(new PutKeyPolicyCommand({ KeyId, Policy: policy })),
  },
  { operation: 'ListKeyPolicies', allowed: states, call: ({ KeyId }) => kms().send(new ListKeyPoliciesCommand({ KeyId })) },
  { operation: 'ListAliases', allowed: states, call: ({ KeyId }) => kms().send(new ListAliasesCommand({ KeyId })) },
  { operation: 'ListResourceTags', allowed: states, call: ({ KeyId }) => kms().send(new ListResourceTagsCommand({ KeyId })) },
  { operation: 'GetKeyLastUsage', allowed: states, call: ({ KeyId }) => kms().send(new GetKeyLastUsageCommand({ KeyId })) },
  { operation: 'GetKeyRotationStatus', allowed: states, call: ({ KeyId }) => kms().send(new GetKeyRotationStatusCommand({ KeyId })) },
  { operation: 'ListKeyRotations', allowed: states, call: ({ KeyId }) => kms().send(new ListKeyRotationsCommand({ KeyId })) },
  { operation: 'ListGrants', allowed: states, call: ({ KeyId }) => kms().send(new ListGrantsCommand({ KeyId })) },
  {
    operation: 'CreateGrant',
    allowed: onlyEnabled,
    call: ({ KeyId }) => kms().send(new CreateGrantCommand({ KeyId, GranteePrincipal: rootArn(), Operations: ['Decrypt'] })),
  },
  {
    operation: 'RevokeGrant',
    allowed: states,
    call: ({ KeyId, grantId }) => kms().send(new RevokeGrantCommand({ KeyId, GrantId: grantId })),
  },
  {
    operation: 'RetireGrant',
    allowed: states,
    call: ({ KeyId, grantId }) => kms().send(new RetireGrantCommand({ KeyId, GrantId: grantId })),
  },
  { operation: 'EnableKeyRotation', allowed: onlyEnabled, call: ({ KeyId }) => kms().send(new EnableKeyRotationCommand({ KeyId })) },
  { operation: 'DisableKeyRotation', allowed: onlyEnabled, call: ({ KeyId }) => kms().send(new DisableKeyRotationCommand({ KeyId })) },
  { operation: 'RotateKeyOnDemand', allowed: onlyEnabled, call: ({ KeyId }) => kms().send(new RotateKeyOnDemandCommand({ KeyId })) },
  { operation: 'EnableKey', allowed: notDoomed, call: ({ KeyId }) => kms().send(new EnableKeyCommand({ KeyId })) },
  { operation: 'DisableKey', allowed: notDoomed, call: ({ KeyId }) => kms().send(new DisableKeyCommand({ KeyId })) },
  {
    operation: 'UpdateKeyDescription',
    allowed: notDoomed,
    call: ({ KeyId }) => kms().send(new UpdateKeyDescriptionCommand({ KeyId, Description: 'd' })),
  },
  {
    operation: 'TagResource',
    allowed: notDoomed,
    call: ({ KeyId }) => kms().send(new TagResourceCommand({ KeyId, Tags: [{ TagKey: 'a', TagValue: 'b' }] })),
  },
  { operation: 'UntagResource', allowed: notDoomed, call: ({ KeyId }) => kms().send(new UntagResourceCommand({ KeyId, TagKeys: ['a'] })) },
  { operation: 'ScheduleKeyDeletion', allowed: notDoomed, call: ({ KeyId }) => kms().send(new ScheduleKeyDeletionCommand({ KeyId })) },
  {
    operation: 'CreateAlias',
    allowed: notDoomed,
    call: ({ KeyId }) => kms().send(new CreateAliasCommand({ AliasName: freshAlias(), TargetKeyId: KeyId })),
  },
  {
    operation: 'UpdateAlias, to the key',
    allowed: notDoomed,
    async call({ KeyId }) {
      const AliasName = freshAlias()
      await kms().send(new CreateAliasCommand({ AliasName, TargetKeyId: bystander.KeyId }))
      return kms().send(new UpdateAliasCommand({ AliasName, TargetKeyId: KeyId }))
    },
  },
  {
    operation: 'UpdateAlias, away from the key',
    allowed: states,
    call: ({ alias }) => kms().send(new UpdateAliasCommand({ AliasName: alias, TargetKeyId: bystander.KeyId })),
  },
  { operation: 'DeleteAlias', allowed: states, call: ({ alias }) => kms().send(new DeleteAliasCommand({ AliasName: alias })) },
  {
    operation: 'Encrypt',
    allowed: onlyEnabled,
    call: ({ KeyId }) => kms().send(new EncryptCommand({ KeyId, Plaintext: Buffer.from('x') })),
  },
  {
    operation: 'Encrypt, by the alias',
    allowed: onlyEnabled,
    call: ({ alias }) => kms().send(new EncryptCommand({ KeyId: alias, Plaintext: Buffer.from('x') })),
  },
  { operation: 'Decrypt', allowed: onlyEnabled, call: ({ blob }) => kms().send(new DecryptCommand({ CiphertextBlob: blob })) },
  {
    operation: 'Decrypt, the key named',
    allowed: onlyEnabled,
    call: ({ KeyId, blob }) => kms().send(new DecryptCommand({ KeyId, CiphertextBlob: blob })),
  },
  {
    operation: 'ReEncrypt, from the key',
    allowed: onlyEnabled,
    call: ({ blob }) => kms().send(new ReEncryptCommand({ CiphertextBlob: blob, DestinationKeyId: bystander.KeyId })),
  },
  {
    operation: 'ReEncrypt, to the key',
    allowed: onlyEnabled,
    call: ({ KeyId }) => kms().send(new ReEncryptCommand({ CiphertextBlob: bystander.blob, DestinationKeyId: KeyId })),
  },
  {
    operation: 'GenerateDataKey',
    allowed: onlyEnabled,
    call: ({ KeyId }) => kms().send(new GenerateDataKeyCommand({ KeyId, KeySpec: 'AES_256' })),
  },
  {
    operation: 'GenerateDataKeyWithoutPlaintext',
    allowed: onlyEnabled,
    call: ({ KeyId }) => kms().send(new GenerateDataKeyWithoutPlaintextCommand({ KeyId, KeySpec: 'AES_256' })),
  },
  {
    operation: 'GenerateDataKeyPair',
    allowed: onlyEnabled,
    call: ({ KeyId }) => kms().send(new GenerateDataKeyPairCommand({ KeyId, KeyPairSpec: 'ECC_NIST_P256' })),
  },
  {
    operation: 'GenerateDataKeyPairWithoutPlaintext',
    allowed: onlyEnabled,
    call: ({ KeyId }) => kms().send(new GenerateDataKeyPairWithoutPlaintextCommand({ KeyId, KeyPairSpec: 'ECC_NIST_P256' })),
  },
]

/** Name and words of the refusal in a state. */
const refusals: Readonly<Record<Exclude<State, 'Enabled'>, { readonly name: string; readonly text: string }>> = {
  Disabled: { name: 'DisabledException', text: 'is disabled.' },
  PendingDeletion: { name: 'KMSInvalidStateException', text: 'is pending deletion.' },
}

const allowed = rows.flatMap((row) => row.allowed.map((state) => ({ ...row, state })))
const refused = rows.flatMap((row) =>
  (['Disabled', 'PendingDeletion'] as const).filter((state) => !row.allowed.includes(state)).map((state) => ({ ...row, state })),
)

describe('a key', () => {
  test.each(allowed)('that is $state allows $operation', async ({ call, state }) => {
    await expect(call(await subjectIn(state))).resolves.toBeDefined()
  })

  test.each(refused)('that is $state refuses $operation', async ({ call, state }) => {
    const key = await subjectIn(state)
    const { name, text } = refusals[state]
    await expectRefusal(call(key), name, `${key.Arn} ${text}`)
  })

  test('that is not pending deletion refuses CancelKeyDeletion, and one that is allows it', async () => {
    const cancel = ({ KeyId }: Subject) => kms().send(new CancelKeyDeletionCommand({ KeyId }))
    for (const state of notDoomed) {
      const key = await subjectIn(state)
      await expectRefusal(cancel(key), 'KMSInvalidStateException', `${key.Arn} is not pending deletion.`)
    }
    await expect(cancel(await subjectIn('PendingDeletion'))).resolves.toBeDefined()
  })

  test('that is enabled again after a cancelled deletion opens what it had encrypted', async () => {
    const key = await subjectIn('PendingDeletion')
    await kms().send(new CancelKeyDeletionCommand({ KeyId: key.KeyId }))
    await expectRefusal(kms().send(new DecryptCommand({ CiphertextBlob: key.blob })), 'DisabledException', `${key.Arn} is disabled.`)
    await kms().send(new EnableKeyCommand({ KeyId: key.KeyId }))
    expect(Buffer.from(given((await kms().send(new DecryptCommand({ CiphertextBlob: key.blob }))).Plaintext)).toString()).toBe('x')
  })
})

test('a key that waits for its material allows all that needs none', async () => {
  const key = await contract.key({ Origin: 'EXTERNAL' })
  const alias = freshAlias()
  await kms().send(new CreateAliasCommand({ AliasName: alias, TargetKeyId: key.KeyId }))
  const policy = given((await kms().send(new GetKeyPolicyCommand({ KeyId: key.KeyId }))).Policy)
  const subject: Subject = { ...key, alias, blob: new Uint8Array(), policy, grantId: '' }
  // The last of them schedules its deletion.
  const allowed = rows.filter(({ operation }) => /^(?:Describe|PutKeyPolicy|List|Update|Tag|Untag|CreateAlias|DeleteAlias)/.test(operation))
  const last = rows.filter(({ operation }) => operation === 'ScheduleKeyDeletion')
  for (const { call } of [...allowed, ...last]) await expect(call(subject)).resolves.toBeDefined()
  await kms().send(new CancelKeyDeletionCommand({ KeyId: key.KeyId }))
  const { KeyMetadata } = await kms().send(new DescribeKeyCommand({ KeyId: key.KeyId }))
  expect(KeyMetadata?.KeyState).toBe('PendingImport')
})

test('every operation that works on symmetric keys made here is tried', () => {
  const tried = new Set(rows.map(({ operation }) => operation.split(',')[0]))
  // Theirs are key pairs, HMAC keys, imported material or multi-Region keys.
  const others = /Sign|Verify|Mac$|DeriveSharedSecret|capsulate|GetPublicKey|Import|ReplicateKey|UpdatePrimaryRegion/
  const onKeys = operationNames.filter((name) => membersOf(name).some(({ shapeName }) => shapeName === 'KeyIdType'))
  expect(onKeys.filter((name) => !others.test(name) && !tried.has(name))).toEqual(['CancelKeyDeletion'])
})
