/** Quotas through the door: how fast an account may call, and how much it may have. */

import {
  CreateAliasCommand,
  CreateKeyCommand,
  DescribeKeyCommand,
  EncryptCommand,
  KMSClient,
  PutKeyPolicyCommand,
  TagResourceCommand,
} from '@aws-sdk/client-kms'
import { CloudTrailClient, LookupEventsCommand } from '@aws-sdk/client-cloudtrail'
import { AssumeRoleCommand, GetCallerIdentityCommand, STSClient } from '@aws-sdk/client-sts'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { standardRates, standardResources } from '../../src/kms/quotas.ts'
import { makeAccount, makeUser, openInProcess, type Credentials, type InProcess } from './holdfast.ts'

const clock = new ManualClock(Date.now())
let holdfast: InProcess
let kms: KMSClient

const client = (credentials: Credentials, region = 'us-east-1'): KMSClient =>
  new KMSClient({ endpoint: holdfast.endpoint, region, credentials, maxAttempts: 1 })

beforeAll(async () => {
  holdfast = await openInProcess({
    clock,
    requestRates: { CreateKey: 2, DescribeKey: 0.25, symmetric: 3, AssumeRole: 1, LookupEvents: standardRates['LookupEvents'] ?? 0 },
    quotas: { ...standardResources, keys: 3, aliasesPerKey: 1, tagsPerKey: 2, policyBytes: 1024 },
    awsServices: { s3: ['arn:aws:iam::111122223333:user/storage'] },
  })
  kms = client(holdfast.credentials)
})
afterAll(async () => {
  await holdfast.close()
})

const throttled = {
  name: 'ThrottlingException',
  message: 'You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.',
}

test('an account may call as often in a second as its quota says, each region and class of operations apart', async () => {
  const made = await Promise.all([kms.send(new CreateKeyCommand({})), kms.send(new CreateKeyCommand({}))])
  await expect(kms.send(new CreateKeyCommand({}))).rejects.toMatchObject(throttled)
  const KeyId = made[0]?.KeyMetadata?.KeyId
  const encrypt = () => kms.send(new EncryptCommand({ KeyId, Plaintext: Buffer.from('x') }))
  await Promise.all([encrypt(), encrypt(), encrypt()])
  await expect(encrypt()).rejects.toMatchObject(throttled)
  await client(holdfast.credentials, 'eu-west-1').send(new CreateKeyCommand({}))
  clock.advance(500)
  await kms.send(new CreateKeyCommand({}))
  await expect(kms.send(new CreateKeyCommand({}))).rejects.toMatchObject(throttled)
})

test('a rate below one a second lets one call through and fills again', async () => {
  clock.advance(10_000)
  const { Keys } = { Keys: holdfast.service.store.view.listKeys('111122223333', 'us-east-1', undefined, 1).items }
  const known = () => kms.send(new DescribeKeyCommand({ KeyId: Keys[0]?.keyId }))
  await known()
  await expect(known()).rejects.toMatchObject(throttled)
  clock.advance(4000)
  await known()
})

test('one account over its quota does not slow another, and metrics name it', async () => {
  clock.advance(10_000)
  const other = client(await makeAccount(holdfast, '444455556666'))
  await Promise.all([other.send(new CreateKeyCommand({})), other.send(new CreateKeyCommand({}))])
  await expect(other.send(new CreateKeyCommand({}))).rejects.toMatchObject(throttled)
  expect(holdfast.service.throttle.throttled()).toContainEqual({ accountId: '444455556666', className: 'CreateKey', count: 1 })
  // This account has three keys, which is all it may have: it is that quota that speaks.
  await expect(kms.send(new CreateKeyCommand({}))).rejects.toMatchObject({ name: 'LimitExceededException' })
})

test('calls that are refused count alike, whether their key is there or not, and take nothing from the quota of its kind', async () => {
  clock.advance(10_000)
  const guest = client(await makeAccount(holdfast, '444455556667'))
  const [ours] = holdfast.service.store.view.listKeys('111122223333', 'us-east-1', undefined, 1).items
  const present = ours?.arn ?? ''
  const absent = present.replace(/[^/]+$/, '00000000-0000-4000-8000-000000000000')
  const encrypt = (KeyId: string) => guest.send(new EncryptCommand({ KeyId, Plaintext: Buffer.from('x') }))
  for (const KeyId of [present, absent]) {
    for (let call = 0; call < 3; call++) await expect(encrypt(KeyId)).rejects.toMatchObject({ name: 'AccessDeniedException' })
    for (const each of [present, absent]) await expect(encrypt(each)).rejects.toMatchObject(throttled)
    clock.advance(10_000)
  }
})

test('sessions and lookups in the trail have a rate too, and are refused in the words of their services', async () => {
  clock.advance(10_000)
  const { endpoint, credentials } = holdfast
  const sts = new STSClient({ endpoint, region: 'us-east-1', credentials, maxAttempts: 1 })
  const assume = () => sts.send(new AssumeRoleCommand({ RoleArn: 'arn:aws:iam::111122223333:role/none', RoleSessionName: 'session' }))
  await expect(assume()).rejects.toMatchObject({ name: 'AccessDenied' })
  await expect(assume()).rejects.toMatchObject({ name: 'Throttling', message: 'Rate exceeded' })
  // Who one is may be asked as often as one likes.
  for (let call = 0; call < 3; call++) await sts.send(new GetCallerIdentityCommand({}))
  const trailOf = (region: string) => new CloudTrailClient({ endpoint, region, credentials, maxAttempts: 1 })
  const lookUp = (region: string) => trailOf(region).send(new LookupEventsCommand({ MaxResults: 1 }))
  await Promise.all([lookUp('us-east-1'), lookUp('us-east-1')])
  await expect(lookUp('us-east-1')).rejects.toMatchObject({ name: 'ThrottlingException', message: 'Rate exceeded' })
  await lookUp('eu-west-1')
  clock.advance(500)
  await lookUp('us-east-1')
})

test('a key has as many aliases, tags and bytes of policy as the quotas say', async () => {
  const [key] = holdfast.service.store.view.listKeys('111122223333', 'us-east-1', undefined, 1).items
  const KeyId = key?.keyId
  await kms.send(new CreateAliasCommand({ AliasName: 'alias/one', TargetKeyId: KeyId }))
  await expect(kms.send(new CreateAliasCommand({ AliasName: 'alias/two', TargetKeyId: KeyId }))).rejects.toMatchObject({
    name: 'LimitExceededException',
  })
  const Tags = ['a', 'b', 'c'].map((TagKey) => ({ TagKey, TagValue: '' }))
  await expect(kms.send(new TagResourceCommand({ KeyId, Tags }))).rejects.toMatchObject({ name: 'TagException', message: 'Too many tags' })
  await expect(kms.send(new PutKeyPolicyCommand({ KeyId, Policy: `{"Id":"${'x'.repeat(1024)}"}` }))).rejects.toMatchObject({
    name: 'LimitExceededException',
  })
})

test('of calls that come together as many are answered as there is room for', async () => {
  const guest = client(await makeAccount(holdfast, '444455556668'))
  const outcomes = async (calls: readonly Promise<unknown>[]) =>
    (await Promise.allSettled(calls)).map((one) => (one.status === 'fulfilled' ? 'done' : (one.reason as Error).name)).toSorted()
  clock.advance(10_000)
  await Promise.all([guest.send(new CreateKeyCommand({})), guest.send(new CreateKeyCommand({}))])
  clock.advance(10_000)
  const origins = ['AWS_KMS', 'EXTERNAL'] as const
  expect(await outcomes(origins.map((Origin) => guest.send(new CreateKeyCommand({ Origin }))))).toEqual(['LimitExceededException', 'done'])
  const [key] = holdfast.service.store.view.listKeys('444455556668', 'us-east-1', undefined, 1).items
  const name = (AliasName: string) => guest.send(new CreateAliasCommand({ AliasName, TargetKeyId: key?.keyId }))
  expect(await outcomes([name('alias/one'), name('alias/two')])).toEqual(['LimitExceededException', 'done'])
})

test('AWS managed keys do not count as the account’s keys', async () => {
  const everything = { Version: '2012-10-17', Statement: { Effect: 'Allow', Action: '*', Resource: '*' } }
  const storage = client(await makeUser(holdfast, 'storage', { everything }), 'eu-west-1')
  await storage.send(new EncryptCommand({ KeyId: 'alias/aws/s3', Plaintext: Buffer.from('x') }))
  const keys = () => holdfast.service.store.view.listKeys('111122223333', 'eu-west-1', undefined, 10).items
  expect(keys().filter(({ managedBy }) => managedBy === 's3')).toHaveLength(1)
  const make = () => client(holdfast.credentials, 'eu-west-1').send(new CreateKeyCommand({}))
  for (let own = keys().length - 1; own < 3; own++) {
    clock.advance(1000)
    await make()
  }
  clock.advance(1000)
  await expect(make()).rejects.toMatchObject({ name: 'LimitExceededException' })
  expect(keys()).toHaveLength(4)
})
