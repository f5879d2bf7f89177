/**
 * The audit trail as CloudTrail's LookupEvents shows it: a record for every call, with the fields that CloudTrail has, whether the
 * call was answered, refused or not even understood.
 */
import { CloudTrailClient, LookupEventsCommand, type Event, type LookupEventsCommandInput } from '@aws-sdk/client-cloudtrail'
import {
  CancelKeyDeletionCommand,
  CreateAliasCommand,
  CreateKeyCommand,
  DecryptCommand,
  DeleteAliasCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EnableKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GenerateDataKeyWithoutPlaintextCommand,
  GenerateRandomCommand,
  GetKeyLastUsageCommand,
  GetKeyPolicyCommand,
  ListAliasesCommand,
  ListKeyPoliciesCommand,
  ListKeysCommand,
  ListResourceTagsCommand,
  PutKeyPolicyCommand,
  ReEncryptCommand,
  ScheduleKeyDeletionCommand,
  SignCommand,
  TagResourceCommand,
  UntagResourceCommand,
  UpdateAliasCommand,
  UpdateKeyDescriptionCommand,
} from '@aws-sdk/client-kms'
import { AssumeRoleCommand, GetCallerIdentityCommand, STSClient } from '@aws-sdk/client-sts'
import { beforeAll, describe, expect, test } from 'vitest'
import { administer, makeAccount, makeUser, rawCall, type Credentials } from '../holdfast.ts'
import { absentKeyId, describeOurs, freshAlias, given, refusalOf, useContract, uuid, type TestKey } from './kit.ts'

const contract = useContract()

const cloudTrail = (credentials: Credentials = contract.ours.credentials, region = contract.region) =>
  new CloudTrailClient({ endpoint: contract.ours.endpoint, region, credentials, maxAttempts: 1 })
const sts = (credentials: Credentials = contract.ours.credentials) =>
  new STSClient({ endpoint: contract.ours.endpoint, region: contract.region, credentials, maxAttempts: 1 })

async function lookUp(input: LookupEventsCommandInput = {}, client = cloudTrail()): Promise<Event[]> {
  const found: Event[] = []
  let token: string | undefined
  do {
    const page = await client.send(new LookupEventsCommand({ ...input, ...(token !== undefined && { NextToken: token }) }))
    found.push(...(page.Events ?? []))
    token = page.NextToken
  } while (token !== undefined)
  return found
}

type Record = Readonly<{ [name: string]: unknown }>
const recordIn = (event: Event): Record => JSON.parse(given(event.CloudTrailEvent)) as Record

/** The one event of a request. */
async function eventOf(requestId: string | undefined): Promise<Event> {
  const found = (await lookUp()).filter((event) => recordIn(event)['requestID'] === requestId)
  expect(found).toHaveLength(1)
  return given(found[0])
}

/** What a refused call's request id is. */
async function requestIdOf(call: Promise<unknown>): Promise<string | undefined> {
  try {
    await call
  } catch (error) {
    return (error as { readonly $metadata?: { readonly requestId?: string } }).$metadata?.requestId
  }
  throw new Error('the call was to be refused')
}

const marker = 'PLAINTEXT-MARKER-7c1f'
const keyResource = (arn: string) => ({ accountId: contract.accountId, type: 'AWS::KMS::Key', ARN: arn })

describeOurs('a call that is answered', () => {
  /** Every operation once, with what its record must say besides what all records say. */
  let calls: readonly { readonly name: string; readonly requestId: string | undefined; readonly record: Record }[]
  let key: TestKey
  let alias: string
  let aliasResource: Record
  let policy: string

  beforeAll(async () => {
    const { kms } = contract
    const made: { name: string; requestId: string | undefined; record: Record }[] = []
    const note = async <T extends { readonly $metadata: { readonly requestId?: string } }>(
      name: string,
      call: Promise<T>,
      record: (answer: T) => Record,
    ): Promise<T> => {
      const answer = await call
      made.push({ name, requestId: answer.$metadata.requestId, record: record(answer) })
      return answer
    }
    const other = await contract.key()
    const { KeyMetadata } = await note(
      'CreateKey',
      kms.send(new CreateKeyCommand({ Description: 'd', Tags: [{ TagKey: 'a', TagValue: 'b' }] })),
      (answer) => ({
        readOnly: false,
        requestParameters: { bypassPolicyLockoutSafetyCheck: false, description: 'd', tags: [{ tagKey: 'a', tagValue: 'b' }] },
        responseElements: {
          keyMetadata: expect.objectContaining({ arn: answer.KeyMetadata?.Arn, keyId: answer.KeyMetadata?.KeyId, keyState: 'Enabled' }),
        },
        resources: [keyResource(given(answer.KeyMetadata?.Arn))],
      }),
    )
    key = KeyMetadata as TestKey
    const { KeyId } = key
    alias = freshAlias()
    aliasResource = {
      accountId: contract.accountId,
      type: 'AWS::KMS::Alias',
      ARN: `arn:aws:kms:${contract.region}:${contract.accountId}:${alias}`,
    }
    const onKey =
      (readOnly: boolean, requestParameters: Record, more: Record = {}) =>
      () => ({
        readOnly,
        requestParameters,
        responseElements: null,
        resources: [keyResource(key.Arn)],
        ...more,
      })
    const material = { additionalEventData: { keyMaterialId: key.CurrentKeyMaterialId } }
    await note('DescribeKey', kms.send(new DescribeKeyCommand({ KeyId })), onKey(true, { keyId: KeyId }))
    await note('ListKeys', kms.send(new ListKeysCommand({ Limit: 3 })), () => ({
      readOnly: true,
      requestParameters: { limit: 3 },
      responseElements: null,
    }))
    // What manages a key and answers nothing names it all the same.
    const named = { responseElements: { keyId: key.Arn } }
    await note('DisableKey', kms.send(new DisableKeyCommand({ KeyId })), onKey(false, { keyId: KeyId }, named))
    await note('EnableKey', kms.send(new EnableKeyCommand({ KeyId })), onKey(false, { keyId: KeyId }, named))
    await note(
      'UpdateKeyDescription',
      kms.send(new UpdateKeyDescriptionCommand({ KeyId, Description: 'other' })),
      onKey(false, { keyId: KeyId, description: 'other' }),
    )
    const both = { ...named, resources: expect.arrayContaining([keyResource(key.Arn), aliasResource]) }
    await note(
      'CreateAlias',
      kms.send(new CreateAliasCommand({ AliasName: alias, TargetKeyId: KeyId })),
      onKey(false, { aliasName: alias, targetKeyId: KeyId }, both),
    )
    await note(
      'UpdateAlias',
      kms.send(new UpdateAliasCommand({ AliasName: alias, TargetKeyId: KeyId })),
      onKey(false, { aliasName: alias, targetKeyId: KeyId }, both),
    )
    await note('ListAliases', kms.send(new ListAliasesCommand({})), () => ({
      readOnly: true,
      requestParameters: {},
      responseElements: null,
    }))
    await note(
      'TagResource',
      kms.send(new TagResourceCommand({ KeyId, Tags: [{ TagKey: 'c', TagValue: 'd' }] })),
      onKey(false, { keyId: KeyId, tags: [{ tagKey: 'c', tagValue: 'd' }] }, named),
    )
    await note(
      'UntagResource',
      kms.send(new UntagResourceCommand({ KeyId, TagKeys: ['c'] })),
      onKey(false, { keyId: KeyId, tagKeys: ['c'] }, named),
    )
    await note('ListResourceTags', kms.send(new ListResourceTagsCommand({ KeyId })), onKey(true, { keyId: KeyId }))
    policy = given((await note('GetKeyPolicy', kms.send(new GetKeyPolicyCommand({ KeyId })), onKey(true, { keyId: KeyId }))).Policy)
    await note(
      'PutKeyPolicy',
      kms.send(new PutKeyPolicyCommand({ KeyId, Policy: policy })),
      onKey(false, { bypassPolicyLockoutSafetyCheck: false, keyId: KeyId, policy }),
    )
    await note('ListKeyPolicies', kms.send(new ListKeyPoliciesCommand({ KeyId })), onKey(true, { keyId: KeyId }))
    const encryptionContext = { Department: 'Finance' }
    const { CiphertextBlob } = await note(
      'Encrypt',
      kms.send(new EncryptCommand({ KeyId: alias, Plaintext: Buffer.from(marker), EncryptionContext: encryptionContext })),
      onKey(true, { keyId: alias, encryptionContext, encryptionAlgorithm: 'SYMMETRIC_DEFAULT' }, material),
    )
    await note(
      'Decrypt',
      kms.send(new DecryptCommand({ CiphertextBlob, EncryptionContext: encryptionContext })),
      onKey(true, { encryptionContext, encryptionAlgorithm: 'SYMMETRIC_DEFAULT' }, material),
    )
    await note(
      'ReEncrypt',
      kms.send(new ReEncryptCommand({ CiphertextBlob, SourceEncryptionContext: encryptionContext, DestinationKeyId: other.KeyId })),
      onKey(
        true,
        {
          sourceEncryptionContext: encryptionContext,
          sourceEncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
          destinationKeyId: other.KeyId,
          destinationEncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
        },
        {
          resources: [keyResource(key.Arn), keyResource(other.Arn)],
          additionalEventData: { sourceKeyMaterialId: key.CurrentKeyMaterialId, destinationKeyMaterialId: other.CurrentKeyMaterialId },
        },
      ),
    )
    await note(
      'GenerateDataKey',
      kms.send(new GenerateDataKeyCommand({ KeyId, KeySpec: 'AES_256' })),
      onKey(true, { keyId: KeyId, keySpec: 'AES_256' }, material),
    )
    await note(
      'GenerateDataKeyWithoutPlaintext',
      kms.send(new GenerateDataKeyWithoutPlaintextCommand({ KeyId, NumberOfBytes: 8 })),
      onKey(true, { keyId: KeyId, numberOfBytes: 8 }, material),
    )
    await note('GenerateRandom', kms.send(new GenerateRandomCommand({ NumberOfBytes: 8 })), () => ({
      readOnly: true,
      requestParameters: { numberOfBytes: 8 },
      responseElements: null,
    }))
    await note('DeleteAlias', kms.send(new DeleteAliasCommand({ AliasName: alias })), onKey(false, { aliasName: alias }, both))
    await note(
      'ScheduleKeyDeletion',
      kms.send(new ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: 7 })),
      onKey(
        false,
        { keyId: KeyId, pendingWindowInDays: 7 },
        {
          responseElements: {
            keyId: key.Arn,
            keyState: 'PendingDeletion',
            deletionDate: expect.stringMatching(/^\d{4}-\d{2}-\d{2}T/),
            pendingWindowInDays: 7,
          },
        },
      ),
    )
    await note(
      'CancelKeyDeletion',
      kms.send(new CancelKeyDeletionCommand({ KeyId })),
      onKey(false, { keyId: KeyId }, { responseElements: { keyId: key.Arn } }),
    )
    calls = made
  })

  test('is recorded with what CloudTrail records of it, whatever the operation', async () => {
    const events = await lookUp()
    expect(calls).toHaveLength(24)
    for (const { name, requestId, record } of calls) {
      const found = events.map(recordIn).filter((each) => each['requestID'] === requestId)
      expect(found, name).toEqual([
        {
          eventVersion: '1.11',
          userIdentity: {
            type: 'Root',
            principalId: contract.accountId,
            arn: `arn:aws:iam::${contract.accountId}:root`,
            accountId: contract.accountId,
            accessKeyId: contract.ours.credentials.accessKeyId,
          },
          eventTime: expect.stringMatching(/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$/),
          eventSource: 'kms.amazonaws.com',
          eventName: name,
          awsRegion: contract.region,
          sourceIPAddress: '127.0.0.1',
          userAgent: expect.stringMatching(/^aws-sdk-js\//),
          requestID: requestId,
          eventID: expect.stringMatching(uuid),
          eventType: 'AwsApiCall',
          managementEvent: true,
          recipientAccountId: contract.accountId,
          eventCategory: 'Management',
          ...record,
        },
      ])
    }
  })

  test('is shown with CloudTrail’s fields around the record', async () => {
    const { requestId } = given(calls.find(({ name }) => name === 'Encrypt'))
    const event = await eventOf(requestId)
    const record = recordIn(event)
    expect(event).toEqual({
      EventId: record['eventID'],
      EventName: 'Encrypt',
      ReadOnly: 'true',
      AccessKeyId: contract.ours.credentials.accessKeyId,
      EventTime: new Date(String(record['eventTime'])),
      EventSource: 'kms.amazonaws.com',
      Username: 'root',
      Resources: [{ ResourceType: 'AWS::KMS::Key', ResourceName: key.Arn }],
      CloudTrailEvent: event.CloudTrailEvent,
    })
    expect(Math.abs(given(event.EventTime).getTime() - Date.now())).toBeLessThan(300_000)
  })

  test('keeps neither plaintext nor ciphertext, nor the policy that was read', async () => {
    const events = await lookUp()
    const text = events.map((event) => event.CloudTrailEvent).join('\n')
    expect(text).not.toContain(marker)
    expect(text).not.toContain(Buffer.from(marker).toString('base64'))
    expect(text).not.toMatch(/"(?:plaintext|ciphertextBlob)"/i)
    expect(recordIn(given(events.find(({ EventName }) => EventName === 'GetKeyPolicy')))['responseElements']).toBeNull()
  })

  describe('is found', () => {
    test.each(['EventId', 'EventName', 'ReadOnly', 'Username', 'ResourceType', 'ResourceName', 'EventSource', 'AccessKeyId'] as const)(
      'by %s',
      async (AttributeKey) => {
        const { requestId } = given(calls.find(({ name }) => name === 'TagResource'))
        const event = await eventOf(requestId)
        const values = {
          EventId: event.EventId,
          EventName: 'TagResource',
          ReadOnly: 'false',
          Username: 'root',
          ResourceType: 'AWS::KMS::Key',
          ResourceName: key.Arn,
          EventSource: 'kms.amazonaws.com',
          AccessKeyId: contract.ours.credentials.accessKeyId,
        }
        const found = await lookUp({ LookupAttributes: [{ AttributeKey, AttributeValue: values[AttributeKey] }] })
        expect(found.map(({ EventId }) => EventId)).toContain(event.EventId)
        for (const each of found) {
          const shown = AttributeKey.startsWith('Resource')
            ? each.Resources?.map((resource) => resource[AttributeKey as 'ResourceName' | 'ResourceType'])
            : [each[AttributeKey as 'EventId']]
          expect(shown).toContain(values[AttributeKey])
        }
        expect(await lookUp({ LookupAttributes: [{ AttributeKey, AttributeValue: 'no-such-value' }] })).toEqual([])
      },
    )

    test('by time', async () => {
      const { requestId } = given(calls.find(({ name }) => name === 'CreateKey'))
      const event = await eventOf(requestId)
      const at = given(event.EventTime)
      const ids = async (input: LookupEventsCommandInput) => (await lookUp(input)).map(({ EventId }) => EventId)
      expect(await ids({ StartTime: new Date(at.getTime() - 1000), EndTime: new Date(at.getTime() + 1000) })).toContain(event.EventId)
      expect(await ids({ StartTime: new Date(at.getTime() + 3_600_000) })).toEqual([])
      expect(await ids({ EndTime: new Date(at.getTime() - 3_600_000) })).toEqual([])
    })

    test('in pages, newest first, each event once', async () => {
      const first = await cloudTrail().send(new LookupEventsCommand({ MaxResults: 5 }))
      expect(first.Events).toHaveLength(5)
      const second = await cloudTrail().send(new LookupEventsCommand({ MaxResults: 5, NextToken: first.NextToken }))
      const ids = [...given(first.Events), ...given(second.Events)].map(({ EventId }) => EventId)
      expect(new Set(ids).size).toBe(10)
      const times = [...given(first.Events), ...given(second.Events)].map(({ EventTime }) => given(EventTime).getTime())
      expect(times).toEqual([...times].sort((a, b) => b - a))
    })
  })
})

describeOurs('a call that is refused', () => {
  test('is recorded with the error and what was asked, and with what is known of the key', async () => {
    const key = await contract.key()
    const other = await contract.key()
    const { CiphertextBlob } = await contract.kms.send(new EncryptCommand({ KeyId: key.KeyId, Plaintext: Buffer.from(marker) }))
    const cases = [
      {
        call: () => contract.kms.send(new DecryptCommand({ CiphertextBlob, KeyId: other.KeyId })),
        record: {
          eventName: 'Decrypt',
          errorCode: 'IncorrectKeyException',
          errorMessage: 'The key ID in the request does not identify a CMK that can perform this operation.',
          requestParameters: { keyId: other.KeyId, encryptionAlgorithm: 'SYMMETRIC_DEFAULT' },
        },
      },
      {
        call: () => contract.kms.send(new DecryptCommand({ CiphertextBlob, EncryptionContext: { a: 'b' } })),
        record: { eventName: 'Decrypt', errorCode: 'InvalidCiphertextException', resources: [keyResource(key.Arn)] },
      },
      {
        call: () => contract.kms.send(new DescribeKeyCommand({ KeyId: absentKeyId })),
        record: {
          eventName: 'DescribeKey',
          errorCode: 'NotFoundException',
          errorMessage: `Key 'arn:aws:kms:${contract.region}:${contract.accountId}:key/${absentKeyId}' does not exist`,
          requestParameters: { keyId: absentKeyId },
        },
      },
      {
        call: () => contract.kms.send(new EncryptCommand({ KeyId: key.KeyId, Plaintext: Buffer.alloc(4097) })),
        record: { eventName: 'Encrypt', errorCode: 'ValidationException', requestParameters: null },
      },
      {
        call: () => contract.kms.send(new EncryptCommand({ KeyId: key.KeyId, Plaintext: Buffer.from(marker), DryRun: true })),
        record: {
          eventName: 'Encrypt',
          errorCode: 'DryRunOperationException',
          requestParameters: { keyId: key.KeyId, encryptionAlgorithm: 'SYMMETRIC_DEFAULT', dryRun: true },
          resources: [keyResource(key.Arn)],
        },
      },
      {
        call: () =>
          contract.kms.send(new SignCommand({ KeyId: key.KeyId, Message: Buffer.from(marker), SigningAlgorithm: 'ECDSA_SHA_256' })),
        record: {
          eventName: 'Sign',
          errorCode: 'InvalidKeyUsageException',
          requestParameters: { keyId: key.KeyId, messageType: 'RAW', signingAlgorithm: 'ECDSA_SHA_256' },
        },
      },
    ]
    for (const { call, record } of cases) {
      expect(recordIn(await eventOf(await requestIdOf(call())))).toMatchObject({ responseElements: null, ...record })
    }
  })

  test('is recorded when the caller was not allowed, with who it was', async () => {
    const user = await makeUser(contract.ours, 'trail-user')
    const key = await contract.key()
    const id = await requestIdOf(
      contract.client({ credentials: user }).send(new EncryptCommand({ KeyId: key.KeyId, Plaintext: Buffer.from(marker) })),
    )
    const event = await eventOf(id)
    expect(event).toMatchObject({ EventName: 'Encrypt', Username: 'trail-user', AccessKeyId: user.accessKeyId })
    expect(recordIn(event)).toMatchObject({
      errorCode: 'AccessDeniedException',
      errorMessage: expect.stringContaining('is not authorized to perform: kms:Encrypt on resource'),
      userIdentity: {
        type: 'IAMUser',
        principalId: expect.stringMatching(/^AIDA[A-Z2-7]{17}$/),
        arn: user.arn,
        accountId: contract.accountId,
        accessKeyId: user.accessKeyId,
        userName: 'trail-user',
      },
      requestParameters: { keyId: key.KeyId },
      resources: [keyResource(key.Arn)],
    })
  })

  test('is recorded when nobody knows who it was', async () => {
    const strangers = contract.client({ credentials: { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: 'x'.repeat(40) } })
    const forged = contract.client({ credentials: { ...contract.ours.credentials, secretAccessKey: 'x'.repeat(40) } })
    for (const { client, errorCode } of [
      { client: strangers, errorCode: 'UnrecognizedClientException' },
      { client: forged, errorCode: 'InvalidSignatureException' },
    ]) {
      const record = recordIn(await eventOf(await requestIdOf(client.send(new ListKeysCommand({})))))
      expect(record).toMatchObject({
        eventName: 'ListKeys',
        errorCode,
        userIdentity: { type: 'Unknown' },
        requestParameters: null,
        sourceIPAddress: '127.0.0.1',
      })
    }
  })
})

describeOurs('calls of other APIs', () => {
  test('are recorded too, and no secret with them', async () => {
    const user = await makeUser(contract.ours, 'trail-role-user')
    await administer(contract.ours, 'CreateRole', {
      RoleName: 'trail-role',
      AssumeRolePolicyDocument: JSON.stringify({
        Version: '2012-10-17',
        Statement: [{ Effect: 'Allow', Principal: { AWS: user.arn }, Action: 'sts:AssumeRole' }],
      }),
    })
    const RoleArn = `arn:aws:iam::${contract.accountId}:role/trail-role`
    const assumed = await sts(user).send(new AssumeRoleCommand({ RoleArn, RoleSessionName: 'trail-session' }))
    const session: Credentials = {
      accessKeyId: given(assumed.Credentials?.AccessKeyId),
      secretAccessKey: given(assumed.Credentials?.SecretAccessKey),
      sessionToken: given(assumed.Credentials?.SessionToken),
    }
    const identity = await sts(session).send(new GetCallerIdentityCommand({}))

    const assumption = await eventOf(assumed.$metadata.requestId)
    expect(assumption).toMatchObject({ EventName: 'AssumeRole', EventSource: 'sts.amazonaws.com', Username: 'trail-role-user' })
    expect(recordIn(assumption)).toMatchObject({
      requestParameters: { roleArn: RoleArn, roleSessionName: 'trail-session' },
      responseElements: { credentials: { accessKeyId: session.accessKeyId }, assumedRoleUser: { arn: identity.Arn } },
    })

    const whoAmI = await eventOf(identity.$metadata.requestId)
    expect(whoAmI).toMatchObject({
      EventName: 'GetCallerIdentity',
      EventSource: 'sts.amazonaws.com',
      Username: 'trail-session',
      AccessKeyId: session.accessKeyId,
    })
    expect(recordIn(whoAmI)['userIdentity']).toMatchObject({
      type: 'AssumedRole',
      arn: `arn:aws:sts::${contract.accountId}:assumed-role/trail-role/trail-session`,
      accountId: contract.accountId,
      accessKeyId: session.accessKeyId,
      sessionContext: { sessionIssuer: { type: 'Role', arn: RoleArn, accountId: contract.accountId, userName: 'trail-role' } },
    })

    const events = await lookUp()
    expect(new Set(events.map(({ EventName }) => EventName))).toEqual(
      new Set([...events.map(({ EventName }) => EventName), 'CreateUser', 'CreateAccessKey', 'CreateRole', 'LookupEvents']),
    )
    const text = events.map((event) => event.CloudTrailEvent).join('\n')
    for (const secret of [user.secretAccessKey, session.secretAccessKey, session.sessionToken, contract.ours.credentials.secretAccessKey]) {
      expect(text).not.toContain(given(secret))
    }
  })

  test('are seen by their own account and in their own region only', async () => {
    const guest = await makeAccount(contract.ours, '222233334444')
    const guestKms = contract.client({ credentials: guest })
    const { $metadata } = await guestKms.send(new ListKeysCommand({}))
    const ids = async (client: CloudTrailClient) => (await lookUp({}, client)).map((event) => recordIn(event)['requestID'])
    expect(await ids(cloudTrail(guest))).toContain($metadata.requestId)
    expect(await ids(cloudTrail())).not.toContain($metadata.requestId)
    const elsewhere = await contract.client({ region: contract.otherRegion }).send(new ListKeysCommand({}))
    expect(await ids(cloudTrail(undefined, contract.otherRegion))).toContain(elsewhere.$metadata.requestId)
    expect(await ids(cloudTrail())).not.toContain(elsewhere.$metadata.requestId)
  })
})

describeOurs('a key that another account uses', () => {
  const owner = () => contract.accountId
  const guestId = '333344445555'
  let guest: Credentials & { readonly arn: string }
  let key: TestKey

  beforeAll(async () => {
    const root = await makeAccount(contract.ours, guestId)
    const everything = {
      Version: '2012-10-17',
      Statement: [{ Effect: 'Allow', Action: ['kms:*', 'cloudtrail:LookupEvents'], Resource: '*' }],
    }
    guest = await makeUser(contract.ours, 'guest', { everything }, { credentials: root })
    const allow = (account: string, Action: string) => ({
      Effect: 'Allow',
      Principal: { AWS: `arn:aws:iam::${account}:root` },
      Action,
      Resource: '*',
    })
    const Policy = JSON.stringify({ Version: '2012-10-17', Statement: [allow(owner(), 'kms:*'), allow(guestId, 'kms:*crypt*')] })
    key = await contract.key({ Policy })
  })
  const recordsOf = async (requestId: string | undefined, trail: CloudTrailClient) =>
    (await lookUp({}, trail)).map(recordIn).filter((record) => record['requestID'] === requestId)

  test('is in the trail of both: the owner sees that it was used, by which account, and as one event with the caller’s', async () => {
    const guests = contract.client({ credentials: guest })
    const own = await contract.key({}, guests)
    const encryptionContext = { for: 'both' }
    const { CiphertextBlob, $metadata } = await guests.send(
      new EncryptCommand({ KeyId: key.Arn, Plaintext: Buffer.from(marker), EncryptionContext: encryptionContext }),
    )
    const [mine, ...more] = await recordsOf($metadata.requestId, cloudTrail(guest))
    const [theirs, ...others] = await recordsOf($metadata.requestId, cloudTrail())
    expect([more, others]).toEqual([[], []])
    expect(mine).toMatchObject({ userIdentity: { arn: guest.arn }, recipientAccountId: guestId, resources: [keyResource(key.Arn)] })
    expect(theirs).toEqual({
      ...mine,
      userIdentity: { type: 'AWSAccount', principalId: expect.stringMatching(/^AIDA/), accountId: guestId },
      eventID: expect.stringMatching(uuid),
      recipientAccountId: owner(),
    })
    expect(mine?.['sharedEventID']).toEqual(expect.stringMatching(uuid))
    expect(theirs?.['eventID']).not.toBe(mine?.['eventID'])
    // That is the event by which the owner finds its key's last use.
    const { KeyLastUsage } = await contract.kms.send(new GetKeyLastUsageCommand({ KeyId: key.KeyId }))
    expect(KeyLastUsage).toMatchObject({ Operation: 'Encrypt', CloudTrailEventId: theirs?.['eventID'] })

    const moved = await guests.send(
      new ReEncryptCommand({ CiphertextBlob, SourceEncryptionContext: encryptionContext, DestinationKeyId: own.Arn }),
    )
    const [both] = await recordsOf(moved.$metadata.requestId, cloudTrail(guest))
    const [one] = await recordsOf(moved.$metadata.requestId, cloudTrail())
    expect(both?.['resources']).toHaveLength(2)
    expect(one).toMatchObject({ sharedEventID: both?.['sharedEventID'], resources: [keyResource(key.Arn)] })
  })

  test('is in the owner’s when the call failed after its caller was let in, and not when it was not', async () => {
    const guests = contract.client({ credentials: guest })
    await contract.kms.send(new DisableKeyCommand({ KeyId: key.KeyId }))
    const disabled = await requestIdOf(guests.send(new EncryptCommand({ KeyId: key.Arn, Plaintext: Buffer.from(marker) })))
    expect(await recordsOf(disabled, cloudTrail())).toMatchObject([{ errorCode: 'DisabledException', recipientAccountId: owner() }])
    const denied = await requestIdOf(guests.send(new DescribeKeyCommand({ KeyId: key.Arn })))
    expect(await recordsOf(denied, cloudTrail())).toEqual([])
    const [refused] = await recordsOf(denied, cloudTrail(guest))
    expect(refused).toMatchObject({ errorCode: 'AccessDeniedException' })
    expect(refused).not.toHaveProperty('sharedEventID')
  })
})

describeOurs('LookupEvents', () => {
  test('needs its permission', async () => {
    const user = await makeUser(contract.ours, 'trail-reader-not')
    const reader = await makeUser(contract.ours, 'trail-reader', {
      p: { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: 'cloudtrail:LookupEvents', Resource: '*' }] },
    })
    expect((await refusalOf(cloudTrail(user).send(new LookupEventsCommand({})))).name).toBe('AccessDeniedException')
    await expect(
      lookUp({ MaxResults: 5, LookupAttributes: [{ AttributeKey: 'EventName', AttributeValue: 'CreateUser' }] }, cloudTrail(reader)),
    ).resolves.not.toEqual([])
  })

  test.each<{ readonly what: string; readonly input: LookupEventsCommandInput; readonly name: string }>([
    { what: 'more than 50 at once', input: { MaxResults: 51 }, name: 'InvalidMaxResultsException' },
    { what: 'none at all', input: { MaxResults: 0 }, name: 'InvalidMaxResultsException' },
    {
      what: 'two attributes',
      input: {
        LookupAttributes: [
          { AttributeKey: 'EventName', AttributeValue: 'Encrypt' },
          { AttributeKey: 'ReadOnly', AttributeValue: 'true' },
        ],
      },
      name: 'InvalidLookupAttributesException',
    },
    {
      what: 'a time that ends before it starts',
      input: { StartTime: new Date(2e12), EndTime: new Date(1e12) },
      name: 'InvalidTimeRangeException',
    },
    { what: 'a page that no lookup gave', input: { NextToken: 'nonsense' }, name: 'InvalidNextTokenException' },
  ])('refuses $what', async ({ input, name }) => {
    expect(await refusalOf(cloudTrail().send(new LookupEventsCommand(input)))).toMatchObject({ name, status: 400 })
  })

  test('is signed for CloudTrail, not for KMS', async () => {
    const answer = await rawCall(contract.ours, 'cloudtrail', 'LookupEvents', { MaxResults: 1 })
    expect(answer.status).toBe(200)
    expect(answer.json).toEqual({
      Events: [expect.objectContaining({ EventTime: expect.any(Number), ReadOnly: expect.stringMatching(/^(?:true|false)$/) })],
      NextToken: expect.any(String),
    })
  })
})
