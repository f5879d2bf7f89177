/** AWS managed keys: `alias/aws/<service>`, for who the configuration says is that service. */

import {
  CreateAliasCommand,
  DecryptCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GetKeyPolicyCommand,
  GetKeyRotationStatusCommand,
  KMSClient,
  ListAliasesCommand,
  PutKeyPolicyCommand,
  ScheduleKeyDeletionCommand,
} from '@aws-sdk/client-kms'
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { createKey } from '../../src/kms/material.ts'
import type { BackingKeyRecord, KeyRecord } from '../../src/store/store.ts'
import { makeUser, openInProcess, type Credentials, type InProcess } from './holdfast.ts'

const everything = { Version: '2012-10-17', Statement: { Effect: 'Allow', Action: '*', Resource: '*' } }

let holdfast: InProcess
let storage: KMSClient
let root: KMSClient
let person: KMSClient

const client = (credentials: Credentials): KMSClient =>
  new KMSClient({ endpoint: holdfast.endpoint, region: 'us-east-1', credentials, maxAttempts: 1 })

beforeAll(async () => {
  holdfast = await openInProcess({
    awsServices: { s3: ['arn:aws:iam::111122223333:user/storage'], ebs: ['arn:aws:iam::111122223333:user/blocks'] },
  })
  storage = client(await makeUser(holdfast, 'storage', { everything }))
  person = client(await makeUser(holdfast, 'person', { everything }))
  root = client(holdfast.credentials)
})
afterAll(async () => {
  await holdfast.close()
})

test('nobody but the service makes its key, and only its own', async () => {
  await expect(root.send(new DescribeKeyCommand({ KeyId: 'alias/aws/s3' }))).rejects.toMatchObject({ name: 'NotFoundException' })
  await expect(storage.send(new GenerateDataKeyCommand({ KeyId: 'alias/aws/ebs', KeySpec: 'AES_256' }))).rejects.toMatchObject({
    name: 'NotFoundException',
  })
  await expect(root.send(new CreateAliasCommand({ AliasName: 'alias/aws/s3', TargetKeyId: 'x' }))).rejects.toMatchObject({
    name: 'NotAuthorizedException',
  })
})

test('a dry run does not make it', async () => {
  const dryRun = new EncryptCommand({ KeyId: 'alias/aws/s3', Plaintext: Buffer.from('text'), DryRun: true })
  await expect(storage.send(dryRun)).rejects.toMatchObject({ name: 'NotFoundException' })
  expect([...holdfast.store.view.allKeys()]).toEqual([])
})

test('the first calls of a service that name its key make it, once, whoever comes first', async () => {
  const calls = Array.from({ length: 6 }, () => storage.send(new GenerateDataKeyCommand({ KeyId: 'alias/aws/s3', KeySpec: 'AES_256' })))
  const made = await Promise.all(calls)
  expect(new Set(made.map(({ KeyId }) => KeyId)).size).toBe(1)
  const { KeyMetadata } = await root.send(new DescribeKeyCommand({ KeyId: 'alias/aws/s3' }))
  expect(KeyMetadata).toMatchObject({ KeyManager: 'AWS', Arn: made[0]?.KeyId, KeyState: 'Enabled', KeySpec: 'SYMMETRIC_DEFAULT' })
  const { Aliases } = await root.send(new ListAliasesCommand({}))
  expect(Aliases?.map(({ AliasName }) => AliasName)).toEqual(['alias/aws/s3'])
  const rotation = await root.send(new GetKeyRotationStatusCommand({ KeyId: KeyMetadata?.KeyId }))
  expect(rotation).toMatchObject({ KeyRotationEnabled: true, RotationPeriodInDays: 365 })
})

test('the key is used through the service and by nobody directly', async () => {
  const { CiphertextBlob } = await storage.send(new EncryptCommand({ KeyId: 'alias/aws/s3', Plaintext: Buffer.from('text') }))
  const { Plaintext } = await storage.send(new DecryptCommand({ CiphertextBlob }))
  expect(Buffer.from(Plaintext ?? [])).toEqual(Buffer.from('text'))
  for (const someone of [root, person]) {
    await expect(someone.send(new EncryptCommand({ KeyId: 'alias/aws/s3', Plaintext: Buffer.from('text') }))).rejects.toMatchObject({
      name: 'AccessDeniedException',
    })
    await expect(someone.send(new DecryptCommand({ CiphertextBlob }))).rejects.toMatchObject({ name: 'AccessDeniedException' })
  }
})

test('the account may look at the key and change nothing of it', async () => {
  const { KeyMetadata } = await root.send(new DescribeKeyCommand({ KeyId: 'alias/aws/s3' }))
  const KeyId = KeyMetadata?.KeyId ?? ''
  const { Policy } = await root.send(new GetKeyPolicyCommand({ KeyId }))
  expect(JSON.parse(Policy ?? '')).toMatchObject({ Id: 'auto-s3-2' })
  const changes = [
    new DisableKeyCommand({ KeyId }),
    new ScheduleKeyDeletionCommand({ KeyId }),
    new PutKeyPolicyCommand({ KeyId, Policy: JSON.stringify(everything) }),
    new CreateAliasCommand({ AliasName: 'alias/mine', TargetKeyId: KeyId }),
  ]
  for (const someone of [root, person, storage]) {
    for (const change of changes) await expect(someone.send(change as never)).rejects.toMatchObject({ name: 'AccessDeniedException' })
  }
})

test('a key whose maker lost the name to another is destroyed, and the named one is used', async () => {
  const { service, store, token } = holdfast
  const blocks = client(await makeUser(holdfast, 'blocks', { everything }))
  const ofBlocks = () => [...store.view.allKeys()].filter(({ managedBy }) => managedBy === 'ebs')
  const objectsOf = async (backing: readonly BackingKeyRecord[]) =>
    (await Promise.all(backing.map(({ ckaId }) => token.objects(ckaId)))).flat().length
  const makeAnother = (like: KeyRecord) => {
    const keyId = randomUUID()
    const arn = like.arn.replace(like.keyId, keyId)
    return createKey(service, { ...like, arn, keyId, state: 'Creating', materialId: null, creator: service.instance.id, version: 1 })
  }
  // As when its lease runs out while the token makes the key: who holds the lease then makes one too, and is first to name it.
  const insertAlias = store.insertAlias.bind(store)
  vi.spyOn(store, 'insertAlias').mockImplementationOnce(async (alias) => {
    const [slow] = ofBlocks()
    await insertAlias({ ...alias, targetKeyArn: (await makeAnother(slow as KeyRecord)).arn })
    return insertAlias(alias)
  })
  const encrypt = () => blocks.send(new EncryptCommand({ KeyId: 'alias/aws/ebs', Plaintext: Buffer.from('text') }))
  const { KeyId, CiphertextBlob } = await encrypt()
  const [lost, ...more] = ofBlocks().filter(({ arn }) => arn !== KeyId)
  expect([lost?.state, more]).toEqual(['Destroying', []])
  // And as when the one that lost has ended before it saw that.
  const left = await makeAnother(store.view.key(KeyId ?? '') as KeyRecord)
  const backing = [...store.view.backingKeys(lost?.arn ?? ''), ...store.view.backingKeys(left.arn)]
  expect(await objectsOf(backing)).toBeGreaterThanOrEqual(2)

  await service.runLifecycle()
  expect(ofBlocks().map(({ arn, state }) => [arn, state])).toEqual([[KeyId, 'Enabled']])
  expect(await objectsOf(backing)).toBe(0)
  expect((await encrypt()).KeyId).toBe(KeyId)
  const { Plaintext } = await blocks.send(new DecryptCommand({ CiphertextBlob }))
  expect(Buffer.from(Plaintext ?? []).toString()).toBe('text')
})
