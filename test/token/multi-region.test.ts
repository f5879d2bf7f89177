/**
 * Multi-Region keys end to end: one service with two regions, each on its own SoftHSM2 token, as `npm start` brings it up; by the real SDK.
 */
import { createHash, createPublicKey, randomBytes } from 'node:crypto'
import {
  CancelKeyDeletionCommand,
  CreateAliasCommand,
  CreateKeyCommand,
  DecryptCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EnableKeyCommand,
  EncryptCommand,
  GenerateMacCommand,
  GetKeyPolicyCommand,
  GetKeyRotationStatusCommand,
  GetParametersForImportCommand,
  GetPublicKeyCommand,
  ImportKeyMaterialCommand,
  KMSClient,
  ListAliasesCommand,
  ListKeyRotationsCommand,
  ListResourceTagsCommand,
  ReplicateKeyCommand,
  RotateKeyOnDemandCommand,
  ScheduleKeyDeletionCommand,
  SignCommand,
  UpdatePrimaryRegionCommand,
  VerifyCommand,
  VerifyMacCommand,
  EnableKeyRotationCommand,
  type CreateKeyCommandInput,
  type KeyMetadata,
} from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { expectRefusal, given, uuid } from './contract/kit.ts'
import { wrapMaterial } from './import-kit.ts'
import { administer, makeUser, rawCall, startHoldfast, type Holdfast } from './holdfast.ts'

const [home, other] = ['us-east-1', 'eu-west-1'] as const
const plaintext = Buffer.from('the same in every region')
const absent = `mrk-${'0'.repeat(32)}`

let holdfast: Holdfast
let here: KMSClient
let there: KMSClient

beforeAll(async () => {
  holdfast = await startHoldfast({ env: { HOLDFAST_LOG_LEVEL: 'warn', HOLDFAST_REGIONS: `${home},${other}` } })
  const clientIn = (region: string) =>
    new KMSClient({ endpoint: holdfast.endpoint, region, credentials: holdfast.credentials, maxAttempts: 1 })
  here = clientIn(home)
  there = clientIn(other)
})
afterAll(async () => {
  here.destroy()
  there.destroy()
  await holdfast.remove()
})

const arnIn = (region: string, keyId: string): string => `arn:aws:kms:${region}:${holdfast.accountId}:key/${keyId}`

async function primaryKey(input: CreateKeyCommandInput = {}): Promise<string> {
  const { KeyMetadata } = await here.send(new CreateKeyCommand({ ...input, MultiRegion: true }))
  return given(KeyMetadata?.KeyId)
}

async function pair(input: CreateKeyCommandInput = {}): Promise<string> {
  const keyId = await primaryKey(input)
  await here.send(new ReplicateKeyCommand({ KeyId: keyId, ReplicaRegion: other }))
  return keyId
}

const describeIn = async (client: KMSClient, keyId: string) =>
  given((await client.send(new DescribeKeyCommand({ KeyId: keyId }))).KeyMetadata)
const encrypt = async (client: KMSClient, keyId: string) =>
  given((await client.send(new EncryptCommand({ KeyId: keyId, Plaintext: plaintext }))).CiphertextBlob)
const decrypt = async (client: KMSClient, blob: Uint8Array) => client.send(new DecryptCommand({ CiphertextBlob: blob }))

test('a key goes its whole way: made, replicated, rotated, its primary moved, deleted', async () => {
  const keyId = await primaryKey()
  expect(keyId).toMatch(/^mrk-[0-9a-f]{32}$/)
  const first = await describeIn(here, keyId)
  expect(first).toMatchObject({
    MultiRegion: true,
    MultiRegionConfiguration: { MultiRegionKeyType: 'PRIMARY', PrimaryKey: { Arn: arnIn(home, keyId), Region: home }, ReplicaKeys: [] },
  })
  const old = await encrypt(here, keyId)
  await expectRefusal(describeIn(there, keyId), 'NotFoundException', `Key '${arnIn(other, keyId)}' does not exist`)

  const { ReplicaKeyMetadata, ReplicaPolicy, ReplicaTags } = await here.send(
    new ReplicateKeyCommand({ KeyId: keyId, ReplicaRegion: other, Tags: [{ TagKey: 'where', TagValue: 'there' }] }),
  )
  const configuration = {
    PrimaryKey: { Arn: arnIn(home, keyId), Region: home },
    ReplicaKeys: [{ Arn: arnIn(other, keyId), Region: other }],
  }
  expect(ReplicaKeyMetadata).toMatchObject({
    KeyId: keyId,
    Arn: arnIn(other, keyId),
    KeyState: 'Creating',
    Enabled: false,
    Description: '',
    MultiRegion: true,
    MultiRegionConfiguration: { MultiRegionKeyType: 'REPLICA', ...configuration },
  })
  expect(ReplicaKeyMetadata).not.toHaveProperty('CurrentKeyMaterialId')
  expect(JSON.parse(given(ReplicaPolicy))).toMatchObject({ Id: 'key-default-1' })
  expect(ReplicaTags).toEqual([{ TagKey: 'where', TagValue: 'there' }])
  expect(await describeIn(there, keyId)).toMatchObject({
    KeyState: 'Enabled',
    CurrentKeyMaterialId: first.CurrentKeyMaterialId,
    MultiRegionConfiguration: { MultiRegionKeyType: 'REPLICA', ...configuration },
  })
  expect((await describeIn(here, keyId)).MultiRegionConfiguration).toEqual({ MultiRegionKeyType: 'PRIMARY', ...configuration })

  const opened = await decrypt(there, old)
  expect(Buffer.from(given(opened.Plaintext))).toEqual(plaintext)
  expect(opened).toMatchObject({ KeyId: arnIn(other, keyId), KeyMaterialId: first.CurrentKeyMaterialId })
  expect(Buffer.from(given((await decrypt(here, await encrypt(there, keyId))).Plaintext))).toEqual(plaintext)

  // Rotated here, it is new there too, and what was encrypted before stays readable.
  await here.send(new RotateKeyOnDemandCommand({ KeyId: keyId }))
  const rotated = await describeIn(here, keyId)
  expect(rotated.CurrentKeyMaterialId).not.toBe(first.CurrentKeyMaterialId)
  expect((await describeIn(there, keyId)).CurrentKeyMaterialId).toBe(rotated.CurrentKeyMaterialId)
  const fresh = await encrypt(here, keyId)
  for (const blob of [old, fresh]) expect(Buffer.from(given((await decrypt(there, blob)).Plaintext))).toEqual(plaintext)

  // The schedule goes with the primary.
  await here.send(new EnableKeyRotationCommand({ KeyId: keyId, RotationPeriodInDays: 100 }))
  await here.send(new UpdatePrimaryRegionCommand({ KeyId: keyId, PrimaryRegion: other }))
  const moved = { PrimaryKey: { Arn: arnIn(other, keyId), Region: other }, ReplicaKeys: [{ Arn: arnIn(home, keyId), Region: home }] }
  expect((await describeIn(there, keyId)).MultiRegionConfiguration).toEqual({ MultiRegionKeyType: 'PRIMARY', ...moved })
  expect((await describeIn(here, keyId)).MultiRegionConfiguration).toEqual({ MultiRegionKeyType: 'REPLICA', ...moved })
  for (const client of [here, there]) {
    expect(await client.send(new GetKeyRotationStatusCommand({ KeyId: keyId }))).toMatchObject({
      KeyRotationEnabled: true,
      RotationPeriodInDays: 100,
    })
  }
  await expectRefusal(
    here.send(new RotateKeyOnDemandCommand({ KeyId: keyId })),
    'UnsupportedOperationException',
    `${arnIn(home, keyId)} is not a multi-region primary key.`,
  )
  await there.send(new RotateKeyOnDemandCommand({ KeyId: keyId }))
  expect(Buffer.from(given((await decrypt(here, await encrypt(there, keyId))).Plaintext))).toEqual(plaintext)

  // The primary waits for its replicas.
  const scheduled = await there.send(new ScheduleKeyDeletionCommand({ KeyId: keyId, PendingWindowInDays: 7 }))
  expect(scheduled).toMatchObject({ KeyId: arnIn(other, keyId), KeyState: 'PendingReplicaDeletion', PendingWindowInDays: 7 })
  expect(scheduled).not.toHaveProperty('DeletionDate')
  expect(await describeIn(there, keyId)).toMatchObject({
    KeyState: 'PendingReplicaDeletion',
    Enabled: false,
    PendingDeletionWindowInDays: 7,
  })
  await expectRefusal(encrypt(there, keyId), 'KMSInvalidStateException', `${arnIn(other, keyId)} is pending replica deletion.`)
  // Its replica goes on meanwhile.
  expect(Buffer.from(given((await decrypt(here, fresh)).Plaintext))).toEqual(plaintext)
  await there.send(new CancelKeyDeletionCommand({ KeyId: keyId }))
  const cancelled = await describeIn(there, keyId)
  expect(cancelled.KeyState).toBe('Disabled')
  expect(cancelled).not.toHaveProperty('PendingDeletionWindowInDays')
  expect(await here.send(new ScheduleKeyDeletionCommand({ KeyId: keyId, PendingWindowInDays: 7 }))).toMatchObject({
    KeyState: 'PendingDeletion',
  })
})

test('the trail of each region has what became of its key, and the primary’s has each time that its replicas were brought level', async () => {
  const trailIn = async (region: string, keyId: string) => {
    const input = { LookupAttributes: [{ AttributeKey: 'ResourceName', AttributeValue: arnIn(region, keyId) }] }
    const { json } = await rawCall(holdfast, 'cloudtrail', 'LookupEvents', input, { region })
    return (json['Events'] as readonly { readonly CloudTrailEvent: string }[])
      .map(({ CloudTrailEvent }) => JSON.parse(CloudTrailEvent) as Readonly<Record<string, unknown>>)
      .reverse()
  }
  const namesIn = async (region: string, keyId: string) => (await trailIn(region, keyId)).map(({ eventName }) => String(eventName))
  const keyId = await primaryKey()
  // Alone, it has nobody to be level with.
  await here.send(new RotateKeyOnDemandCommand({ KeyId: keyId }))
  expect(new Set(await namesIn(home, keyId))).toEqual(new Set(['CreateKey', 'RotateKey', 'RotateKeyOnDemand']))

  await here.send(new ReplicateKeyCommand({ KeyId: keyId, ReplicaRegion: other }))
  await here.send(new RotateKeyOnDemandCommand({ KeyId: keyId }))
  const synchronized = (await trailIn(home, keyId)).filter(({ eventName }) => eventName === 'SynchronizeMultiRegionKey')
  const synchronization = {
    eventVersion: '1.11',
    userIdentity: { accountId: holdfast.accountId, invokedBy: 'AWS Internal' },
    eventTime: expect.any(String),
    eventSource: 'kms.amazonaws.com',
    eventName: 'SynchronizeMultiRegionKey',
    awsRegion: home,
    sourceIPAddress: 'AWS Internal',
    userAgent: 'AWS Internal',
    requestParameters: null,
    responseElements: { keyId: arnIn(home, keyId) },
    requestID: expect.stringMatching(uuid),
    eventID: expect.stringMatching(uuid),
    readOnly: false,
    resources: [{ accountId: holdfast.accountId, type: 'AWS::KMS::Key', ARN: arnIn(home, keyId) }],
    eventType: 'AwsApiCall',
    managementEvent: true,
    recipientAccountId: holdfast.accountId,
    eventCategory: 'Management',
  }
  expect(synchronized).toEqual([synchronization, synchronization])
  expect(await namesIn(other, keyId)).toEqual(['CreateKey'])

  const { $metadata } = await here.send(new UpdatePrimaryRegionCommand({ KeyId: keyId, PrimaryRegion: other }))
  const [mine, theirs] = [(await trailIn(home, keyId)).at(-1), (await trailIn(other, keyId)).at(-1)]
  const of = (region: string) => ({
    eventName: 'UpdatePrimaryRegion',
    awsRegion: region,
    requestID: $metadata.requestId,
    responseElements: { keyId: arnIn(region, keyId) },
    resources: [{ accountId: holdfast.accountId, type: 'AWS::KMS::Key', ARN: arnIn(region, keyId) }],
  })
  const caller = { type: 'Root', arn: `arn:aws:iam::${holdfast.accountId}:root` }
  expect(mine).toMatchObject({ ...of(home), userIdentity: caller, requestParameters: { keyId, primaryRegion: other } })
  expect(theirs).toMatchObject({
    ...of(other),
    userIdentity: { ...caller, invokedBy: 'kms.amazonaws.com' },
    requestParameters: { keyId: arnIn(other, keyId), primaryRegion: other },
  })
  expect(theirs?.['eventID']).not.toBe(mine?.['eventID'])
})

test('what is no shared property is each key’s own', async () => {
  const keyId = await primaryKey({ Description: 'the first', Tags: [{ TagKey: 'a', TagValue: '1' }] })
  const policy = JSON.stringify({
    Version: '2012-10-17',
    Statement: [{ Effect: 'Allow', Principal: { AWS: `arn:aws:iam::${holdfast.accountId}:root` }, Action: 'kms:*', Resource: '*' }],
  })
  await here.send(new ReplicateKeyCommand({ KeyId: keyId, ReplicaRegion: other, Policy: policy, Description: 'the second' }))
  expect((await describeIn(there, keyId)).Description).toBe('the second')
  expect((await there.send(new GetKeyPolicyCommand({ KeyId: keyId }))).Policy).toBe(policy)
  expect((await here.send(new GetKeyPolicyCommand({ KeyId: keyId }))).Policy).not.toBe(policy)
  expect((await there.send(new ListResourceTagsCommand({ KeyId: keyId }))).Tags).toEqual([])
  await there.send(new CreateAliasCommand({ AliasName: 'alias/there-only', TargetKeyId: keyId }))
  expect((await here.send(new ListAliasesCommand({ KeyId: keyId }))).Aliases).toEqual([])
  await there.send(new DisableKeyCommand({ KeyId: keyId }))
  expect((await describeIn(here, keyId)).KeyState).toBe('Enabled')
  await encrypt(here, keyId)
  await expectRefusal(encrypt(there, keyId), 'DisabledException', `${arnIn(other, keyId)} is disabled.`)
  await expectRefusal(
    here.send(new UpdatePrimaryRegionCommand({ KeyId: keyId, PrimaryRegion: other })),
    'DisabledException',
    `${arnIn(other, keyId)} is disabled.`,
  )
  // Rotated while the replica rests, it has the material when it wakes up.
  await here.send(new RotateKeyOnDemandCommand({ KeyId: keyId }))
  const blob = await encrypt(here, keyId)
  await there.send(new EnableKeyCommand({ KeyId: keyId }))
  expect(Buffer.from(given((await decrypt(there, blob)).Plaintext))).toEqual(plaintext)
})

test('a key that was rotated is replicated with all of its material', async () => {
  const keyId = await primaryKey()
  const blobs = [await encrypt(here, keyId)]
  for (let i = 0; i < 2; i++) {
    await here.send(new RotateKeyOnDemandCommand({ KeyId: keyId }))
    blobs.push(await encrypt(here, keyId))
  }
  await here.send(new ReplicateKeyCommand({ KeyId: keyId, ReplicaRegion: other }))
  for (const blob of blobs) expect(Buffer.from(given((await decrypt(there, blob)).Plaintext))).toEqual(plaintext)
})

test('replicas and rotations at once: what either region encrypts the other opens', async () => {
  const keyId = await primaryKey()
  const rotating = (async () => {
    for (let i = 0; i < 3; i++) await here.send(new RotateKeyOnDemandCommand({ KeyId: keyId }))
  })()
  await Promise.all([rotating, here.send(new ReplicateKeyCommand({ KeyId: keyId, ReplicaRegion: other }))])
  const [mine, yours] = [await encrypt(here, keyId), await encrypt(there, keyId)]
  expect((await decrypt(there, mine)).KeyMaterialId).toBe((await decrypt(here, yours)).KeyMaterialId)
})

test.each([
  ['RSA_2048', 'RSASSA_PSS_SHA_256'],
  ['ECC_NIST_P256', 'ECDSA_SHA_256'],
] as const)('a key pair of spec %s signs in both regions as one', async (KeySpec, SigningAlgorithm) => {
  const keyId = await pair({ KeySpec, KeyUsage: 'SIGN_VERIFY' })
  const publicKeys = await Promise.all(
    [here, there].map(async (client) => (await client.send(new GetPublicKeyCommand({ KeyId: keyId }))).PublicKey),
  )
  expect(Buffer.from(given(publicKeys[1]))).toEqual(Buffer.from(given(publicKeys[0])))
  for (const [signer, verifier] of [
    [here, there],
    [there, here],
  ] as const) {
    const { Signature } = await signer.send(new SignCommand({ KeyId: keyId, SigningAlgorithm, Message: plaintext }))
    const verified = await verifier.send(new VerifyCommand({ KeyId: keyId, SigningAlgorithm, Message: plaintext, Signature }))
    expect(verified.SignatureValid).toBe(true)
  }
  expect(await describeIn(there, keyId)).not.toHaveProperty('CurrentKeyMaterialId')
})

test('a kind that the tokens cannot copy is not replicated, and says why', async () => {
  // SoftHSM wraps no Ed25519 keys.
  const keyId = await primaryKey({ KeySpec: 'ECC_NIST_EDWARDS25519', KeyUsage: 'SIGN_VERIFY' })
  await expectRefusal(
    here.send(new ReplicateKeyCommand({ KeyId: keyId, ReplicaRegion: other })),
    'UnsupportedOperationException',
    /^The key material cannot be copied from token to token: /,
  )
  await expectRefusal(describeIn(there, keyId), 'NotFoundException', `Key '${arnIn(other, keyId)}' does not exist`)
  expect(endOf(await describeIn(here, keyId))).toEqual([])
})

test('an HMAC key makes in one region what the other verifies', async () => {
  const keyId = await pair({ KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' })
  const { Mac } = await here.send(new GenerateMacCommand({ KeyId: keyId, MacAlgorithm: 'HMAC_SHA_256', Message: plaintext }))
  const verified = await there.send(new VerifyMacCommand({ KeyId: keyId, MacAlgorithm: 'HMAC_SHA_256', Message: plaintext, Mac }))
  expect(verified).toMatchObject({ MacValid: true, KeyId: arnIn(other, keyId) })
})

test('imported material is imported in every region before it is used in one', async () => {
  const keyId = await pair({ Origin: 'EXTERNAL' })
  const importInto = async (client: KMSClient, material: Uint8Array, ImportType?: 'NEW_KEY_MATERIAL') => {
    const { PublicKey, ImportToken } = await client.send(
      new GetParametersForImportCommand({ KeyId: keyId, WrappingAlgorithm: 'RSAES_OAEP_SHA_1', WrappingKeySpec: 'RSA_2048' }),
    )
    const EncryptedKeyMaterial = wrapMaterial(given(PublicKey), 'RSAES_OAEP_SHA_1', material)
    const ExpirationModel = 'KEY_MATERIAL_DOES_NOT_EXPIRE'
    await client.send(new ImportKeyMaterialCommand({ KeyId: keyId, ImportToken, EncryptedKeyMaterial, ExpirationModel, ImportType }))
  }
  const pendingState = async () => {
    const command = new ListKeyRotationsCommand({ KeyId: keyId, IncludeKeyMaterial: 'ALL_KEY_MATERIAL' })
    return (await here.send(command)).Rotations?.at(-1)?.KeyMaterialState
  }
  const rotate = () => here.send(new RotateKeyOnDemandCommand({ KeyId: keyId }))
  const [first, second] = [randomBytes(32), randomBytes(32)]

  expect((await describeIn(there, keyId)).KeyState).toBe('PendingImport')
  await importInto(here, first)
  await expectRefusal(importInto(there, second), 'IncorrectKeyMaterialException', '')
  await importInto(there, first)
  const old = await encrypt(here, keyId)
  expect(Buffer.from(given((await decrypt(there, old)).Plaintext))).toEqual(plaintext)

  await importInto(here, second, 'NEW_KEY_MATERIAL')
  expect(await pendingState()).toBe('PENDING_MULTI_REGION_IMPORT_AND_ROTATION')
  await expectRefusal(rotate(), 'KMSInvalidStateException', /is not imported into every replica of the key: /)
  await importInto(there, second)
  expect(await pendingState()).toBe('PENDING_ROTATION')
  await rotate()
  expect(await pendingState()).toBe('CURRENT')
  const [mine, yours] = [await describeIn(here, keyId), await describeIn(there, keyId)]
  expect(yours).toMatchObject({ KeyState: 'Enabled', CurrentKeyMaterialId: mine.CurrentKeyMaterialId })
  for (const blob of [old, await encrypt(here, keyId)]) {
    expect(Buffer.from(given((await decrypt(there, blob)).Plaintext))).toEqual(plaintext)
  }
})

test('replicating takes permission on the primary and, in the other region, to make a key', async () => {
  const keyId = await pair()
  const bare = await primaryKey()
  const allow = (Action: string, Condition?: object) => ({ Effect: 'Allow', Action, Resource: '*', ...(Condition && { Condition }) })
  const policy = (...Statement: readonly object[]) => ({ only: { Version: '2012-10-17', Statement } })
  const as = async (name: string, policies: Readonly<Record<string, unknown>>, use: (client: KMSClient) => Promise<unknown>) => {
    const credentials = await makeUser(holdfast, name, policies)
    const client = new KMSClient({ endpoint: holdfast.endpoint, region: home, credentials, maxAttempts: 1 })
    try {
      return await use(client)
    } finally {
      client.destroy()
    }
  }
  const replicate = (client: KMSClient) => client.send(new ReplicateKeyCommand({ KeyId: bare, ReplicaRegion: other }))
  const deniedFor = (action: string) => new RegExp(`is not authorized to perform: ${action} `)
  const creating = allow('kms:CreateKey', { StringEquals: { 'aws:RequestedRegion': other, 'kms:MultiRegionKeyType': 'REPLICA' } })

  await as(
    'no-create',
    policy(allow('kms:ReplicateKey'), allow('kms:CreateKey', { StringEquals: { 'aws:RequestedRegion': home } })),
    (client) => expectRefusal(replicate(client), 'AccessDeniedException', deniedFor('kms:CreateKey')),
  )
  await as('no-replicate', policy(creating), (client) =>
    expectRefusal(replicate(client), 'AccessDeniedException', deniedFor('kms:ReplicateKey')),
  )
  await as('wrong-region', policy(allow('kms:ReplicateKey', { StringEquals: { 'kms:ReplicaRegion': 'ap-south-1' } }), creating), (client) =>
    expectRefusal(replicate(client), 'AccessDeniedException', deniedFor('kms:ReplicateKey')),
  )
  await as('untagged', policy(allow('kms:ReplicateKey'), creating), (client) =>
    expectRefusal(
      client.send(new ReplicateKeyCommand({ KeyId: bare, ReplicaRegion: other, Tags: [{ TagKey: 'a', TagValue: 'b' }] })),
      'AccessDeniedException',
      deniedFor('kms:TagResource'),
    ),
  )
  expect(endOf(await describeIn(here, bare))).toEqual([])
  await as(
    'both',
    policy(allow('kms:ReplicateKey', { StringEquals: { 'kms:ReplicaRegion': other, 'kms:MultiRegionKeyType': 'PRIMARY' } }), creating),
    replicate,
  )
  expect(endOf(await describeIn(here, bare))).toEqual([other])

  // The primary is moved by who may do so with both keys.
  const move = (client: KMSClient) => client.send(new UpdatePrimaryRegionCommand({ KeyId: keyId, PrimaryRegion: other }))
  const moving = (condition: object) => policy(allow('kms:UpdatePrimaryRegion', { StringEquals: condition }))
  await as('one-side', moving({ 'kms:MultiRegionKeyType': 'PRIMARY' }), (client) =>
    expectRefusal(move(client), 'AccessDeniedException', deniedFor('kms:UpdatePrimaryRegion')),
  )
  await as('both-sides', moving({ 'kms:PrimaryRegion': other }), move)
})

/** The regions that have replicas. */
const endOf = ({ MultiRegionConfiguration }: KeyMetadata): readonly (string | undefined)[] =>
  given(MultiRegionConfiguration?.ReplicaKeys).map(({ Region }) => Region)

describe('is refused', () => {
  const replicate = (keyId: string, region: string = other, client = here) =>
    client.send(new ReplicateKeyCommand({ KeyId: keyId, ReplicaRegion: region }))
  const move = (keyId: string, region: string = other, client = here) =>
    client.send(new UpdatePrimaryRegionCommand({ KeyId: keyId, PrimaryRegion: region }))

  test('a second replica in a region, and one beside the primary', async () => {
    const keyId = await pair()
    await expectRefusal(replicate(keyId), 'AlreadyExistsException', `Key '${arnIn(other, keyId)}' already exists`)
    await expectRefusal(replicate(keyId, home), 'AlreadyExistsException', `Key '${arnIn(home, keyId)}' already exists`)
  })
  test('what is no multi-Region primary', async () => {
    const keyId = await pair()
    await expectRefusal(
      replicate(keyId, home, there),
      'UnsupportedOperationException',
      `${arnIn(other, keyId)} is not a multi-region primary key.`,
    )
    await expectRefusal(
      move(keyId, home, there),
      'UnsupportedOperationException',
      `${arnIn(other, keyId)} is not a multi-region primary key.`,
    )
    const { KeyMetadata } = await here.send(new CreateKeyCommand({}))
    const single = given(KeyMetadata?.Arn)
    await expectRefusal(replicate(single), 'UnsupportedOperationException', `${single} is not a multi-region primary key.`)
    await expectRefusal(move(single), 'UnsupportedOperationException', `${single} is not a multi-region primary key.`)
  })
  test('a region that is not served, or has no replica', async () => {
    const keyId = await primaryKey()
    await expectRefusal(replicate(keyId, 'ap-south-1'), 'UnsupportedOperationException', 'Region ap-south-1 is not served here.')
    await expectRefusal(move(keyId), 'NotFoundException', `Key '${arnIn(other, keyId)}' does not exist`)
    await expectRefusal(
      replicate(keyId, 'nowhere'),
      'ValidationException',
      /^1 validation error detected: Value 'nowhere' at 'replicaRegion' failed to satisfy constraint: Member must satisfy regular expression pattern/,
    )
  })
  test('a key that is not there, disabled, or about to go', async () => {
    await expectRefusal(replicate(absent), 'NotFoundException', `Key '${arnIn(home, absent)}' does not exist`)
    const keyId = await primaryKey()
    await here.send(new DisableKeyCommand({ KeyId: keyId }))
    await expectRefusal(replicate(keyId), 'DisabledException', `${arnIn(home, keyId)} is disabled.`)
    await here.send(new ScheduleKeyDeletionCommand({ KeyId: keyId, PendingWindowInDays: 7 }))
    await expectRefusal(replicate(keyId), 'KMSInvalidStateException', `${arnIn(home, keyId)} is pending deletion.`)
  })
})

describe('the transport key of a region', () => {
  type Shown = Readonly<Record<'PublicKey' | 'Fingerprint' | 'TokenLabel', string>>
  const shown = (Region?: string) => administer<Shown>(holdfast, 'GetTransportKey', { Region })

  test('is shown with the fingerprint that the officers compare, each token its own', async () => {
    const [mine, theirs] = [await shown(), await shown(other)]
    for (const { PublicKey, Fingerprint } of [mine, theirs]) {
      const key = createPublicKey(PublicKey)
      expect(key.asymmetricKeyDetails).toMatchObject({ modulusLength: 3072 })
      expect(
        createHash('sha256')
          .update(key.export({ type: 'spki', format: 'der' }))
          .digest('hex'),
      ).toBe(Fingerprint)
    }
    expect(theirs.Fingerprint).not.toBe(mine.Fingerprint)
    expect(theirs.TokenLabel).not.toBe(mine.TokenLabel)
    expect(await shown(home)).toEqual(mine)
  })
  test('is not shown of a region that is not served, or without leave', async () => {
    const answer = await rawCall(holdfast, 'holdfast', 'GetTransportKey', { Region: 'ap-south-1' })
    expect([answer.status, answer.json['message']]).toEqual([400, 'Region ap-south-1 is not served here.'])
    const credentials = await makeUser(holdfast, 'no-officer')
    const denied = await rawCall(holdfast, 'holdfast', 'GetTransportKey', {}, { credentials })
    expect(denied.json['__type']).toBe('AccessDeniedException')
  })
})
