/** What time does to imports: material that expires, wrapping keys whose day is over. The clock is moved by the test; token and database are real. */
import { randomBytes } from 'node:crypto'
import {
  CreateKeyCommand,
  DecryptCommand,
  DeleteImportedKeyMaterialCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EncryptCommand,
  GetParametersForImportCommand,
  ImportKeyMaterialCommand,
  KMSClient,
  ListKeyRotationsCommand,
  RotateKeyOnDemandCommand,
  ScheduleKeyDeletionCommand,
  type ImportKeyMaterialCommandInput,
} from '@aws-sdk/client-kms'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { TokenError } from '../../src/hsm/token.ts'
import { standardBudget } from '../../src/kms/budget.ts'
import { expectRefusal, given } from './contract/kit.ts'
import { openInProcess, type InProcess } from './holdfast.ts'
import { wrapMaterial } from './import-kit.ts'

const hourMs = 3_600_000
const dayMs = 24 * hourMs
let holdfast: InProcess
let kms: KMSClient
const advance = (ms: number): void => holdfast.clock.advance(ms)

/** The SDK sets its clock by the answers' dates, which are the machine's; the service's is moved. */
function onServiceTime(client: KMSClient): KMSClient {
  client.middlewareStack.add(
    (next) => (args) => {
      client.config.systemClockOffset = holdfast.clock.now() - Date.now()
      return next(args)
    },
    { step: 'initialize' },
  )
  return client
}
const settings = () => ({ endpoint: holdfast.endpoint, region: holdfast.region, credentials: holdfast.credentials, maxAttempts: 1 })

beforeAll(async () => {
  holdfast = await openInProcess()
  kms = onServiceTime(new KMSClient(settings()))
})
afterAll(async () => {
  kms.destroy()
  await holdfast.close()
})

const makeKey = async () => {
  const { KeyMetadata } = await kms.send(new CreateKeyCommand({ Origin: 'EXTERNAL' }))
  return { keyId: given(KeyMetadata?.KeyId), arn: given(KeyMetadata?.Arn) }
}
const ask = (keyId: string) =>
  kms.send(new GetParametersForImportCommand({ KeyId: keyId, WrappingAlgorithm: 'RSAES_OAEP_SHA_256', WrappingKeySpec: 'RSA_2048' }))
type Parameters = Awaited<ReturnType<typeof ask>>

async function bring(
  keyId: string,
  material: Uint8Array,
  more: Partial<ImportKeyMaterialCommandInput> = {},
  parameters?: Parameters,
): Promise<string> {
  const { ImportToken, PublicKey } = parameters ?? (await ask(keyId))
  const { KeyMaterialId } = await kms.send(
    new ImportKeyMaterialCommand({
      KeyId: keyId,
      ImportToken,
      EncryptedKeyMaterial: wrapMaterial(given(PublicKey), 'RSAES_OAEP_SHA_256', material),
      ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
      ...more,
    }),
  )
  return given(KeyMaterialId)
}
const within = (ms: number) =>
  ({ ExpirationModel: 'KEY_MATERIAL_EXPIRES', ValidTo: new Date(Math.floor((holdfast.clock.now() + ms) / 1000) * 1000) }) as const

const stateOf = async (keyId: string) => (await kms.send(new DescribeKeyCommand({ KeyId: keyId }))).KeyMetadata?.KeyState
const encrypt = async (keyId: string) =>
  (await kms.send(new EncryptCommand({ KeyId: keyId, Plaintext: Buffer.from('a secret') }))).CiphertextBlob
const decrypt = async (blob: Uint8Array | undefined) =>
  Buffer.from(given((await kms.send(new DecryptCommand({ CiphertextBlob: blob }))).Plaintext)).toString()
/** Objects of a key's material, by their ids. */
const objectsOf = async (keyId: string) =>
  (await holdfast.token.allObjects()).filter(({ label }) => label.startsWith(`kms/${keyId.replaceAll('-', '')}/`)).map(({ ckaId }) => ckaId)
const wrappingKeys = async () => (await holdfast.token.allObjects()).filter(({ label }) => label === 'holdfast/import').length

test('material is destroyed in the token when its time is over, and its return revives what it encrypted', async () => {
  const { keyId, arn } = await makeKey()
  const material = randomBytes(32)
  const materialId = await bring(keyId, material, within(hourMs))
  const blob = await encrypt(keyId)
  advance(hourMs - 2000)
  await holdfast.service.runLifecycle()
  expect(await decrypt(blob)).toBe('a secret')
  expect(await objectsOf(keyId)).toHaveLength(1)

  advance(2000)
  // From that moment on, however long the job takes to come.
  expect(await objectsOf(keyId)).toHaveLength(1)
  await expectRefusal(decrypt(blob), 'KMSInvalidStateException', `${arn} is pending import.`)
  await expectRefusal(kms.send(new DisableKeyCommand({ KeyId: keyId })), 'KMSInvalidStateException', `${arn} is pending import.`)
  const { KeyMetadata } = await kms.send(new DescribeKeyCommand({ KeyId: keyId }))
  expect(KeyMetadata).toMatchObject({ KeyState: 'PendingImport', Enabled: false })
  expect(KeyMetadata).not.toHaveProperty('ValidTo')
  await holdfast.service.runLifecycle()
  expect(await stateOf(keyId)).toBe('PendingImport')
  expect(await objectsOf(keyId)).toEqual([])
  await expectRefusal(decrypt(blob), 'KMSInvalidStateException', `${arn} is pending import.`)
  const { Rotations } = await kms.send(new ListKeyRotationsCommand({ KeyId: keyId, IncludeKeyMaterial: 'ALL_KEY_MATERIAL' }))
  expect(Rotations).toEqual([expect.objectContaining({ KeyMaterialId: materialId, ImportState: 'PENDING_IMPORT' })])

  const lookUp = async () => {
    const { accountId, region, service } = holdfast
    const attribute = { name: 'EventName', value: 'DeleteExpiredKeyMaterial' } as const
    return (await service.trail.lookup({ accountId, region, attribute, limit: 50 })).events.map(({ record }) => record)
  }
  expect(await lookUp()).toEqual([
    expect.objectContaining({
      eventType: 'AwsServiceEvent',
      resources: [{ accountId: holdfast.accountId, type: 'AWS::KMS::Key', ARN: arn }],
      serviceEventDetails: { keyMaterialId: materialId, keyId },
    }),
  ])
  // Once and for all.
  await holdfast.service.runLifecycle()
  expect(await lookUp()).toHaveLength(1)

  expect(await bring(keyId, material)).toBe(materialId)
  expect(await decrypt(blob)).toBe('a secret')
  advance(400 * dayMs)
  await holdfast.service.runLifecycle()
  expect(await decrypt(blob)).toBe('a secret')
})

test('a key with several materials stops when any of them expires; one that waits for its rotation is forgotten', async () => {
  const { keyId, arn } = await makeKey()
  const [first, second] = [randomBytes(32), randomBytes(32)]
  await bring(keyId, first, within(2.5 * hourMs))
  const old = await encrypt(keyId)
  const fresh = { ImportType: 'NEW_KEY_MATERIAL' } as const
  await bring(keyId, randomBytes(32), { ...fresh, ...within(hourMs) })
  expect(await objectsOf(keyId)).toHaveLength(2)
  advance(hourMs)
  const expectNonePending = async (): Promise<void> => {
    await expectRefusal(
      kms.send(new RotateKeyOnDemandCommand({ KeyId: keyId })),
      'KMSInvalidStateException',
      `No available key material pending rotation for the key: ${arn}.`,
    )
    const all = await kms.send(new ListKeyRotationsCommand({ KeyId: keyId, IncludeKeyMaterial: 'ALL_KEY_MATERIAL' }))
    expect(all.Rotations?.map(({ KeyMaterialState }) => KeyMaterialState)).toEqual(['CURRENT'])
  }
  // Whether the job has been there or not; and what is imported meanwhile takes its place.
  await expectNonePending()
  await bring(keyId, randomBytes(32), { ...fresh, ...within(hourMs / 2) })
  expect(await objectsOf(keyId)).toHaveLength(2)
  advance(hourMs / 2)
  await expectNonePending()
  await holdfast.service.runLifecycle()
  expect(await objectsOf(keyId)).toHaveLength(1)
  expect(await stateOf(keyId)).toBe('Enabled')
  await expectNonePending()

  await bring(keyId, second, fresh)
  await kms.send(new RotateKeyOnDemandCommand({ KeyId: keyId }))
  const metadata = (await kms.send(new DescribeKeyCommand({ KeyId: keyId }))).KeyMetadata
  // The earliest of all that the key needs.
  expect(metadata).toMatchObject({ ExpirationModel: 'KEY_MATERIAL_EXPIRES', ValidTo: expect.any(Date) })
  advance(hourMs)
  await holdfast.service.runLifecycle()
  expect(await stateOf(keyId)).toBe('PendingImport')
  await bring(keyId, first)
  expect(await stateOf(keyId)).toBe('Enabled')
  expect(await decrypt(old)).toBe('a secret')
})

test('a wrapping key and its token are good for a day; then the job destroys the key', async () => {
  const { keyId } = await makeKey()
  const before = await wrappingKeys()
  const parameters = await ask(keyId)
  expect(await wrappingKeys()).toBe(before + 1)
  expect(given(parameters.ParametersValidTo).getTime()).toBe(holdfast.clock.now() + dayMs)
  const material = randomBytes(32)
  advance(dayMs - 1000)
  await holdfast.service.runLifecycle()
  await bring(keyId, material, {}, parameters)
  advance(1000)
  await expectRefusal(bring(keyId, material, {}, parameters), 'ExpiredImportTokenException', '')
  await holdfast.service.runLifecycle()
  expect(await wrappingKeys()).toBe(0)
  expect(await holdfast.store.importObjects()).toEqual([])
})

test('the wrapping keys of a key that was destroyed go before their time', async () => {
  const { keyId } = await makeKey()
  await kms.send(new ScheduleKeyDeletionCommand({ KeyId: keyId, PendingWindowInDays: 7 }))
  advance(7 * dayMs - hourMs)
  const other = await makeKey()
  await ask(other.keyId)
  await kms.send(new ScheduleKeyDeletionCommand({ KeyId: other.keyId, PendingWindowInDays: 7 }))
  // As if its days were over at once.
  await holdfast.store.updateKey(other.arn, () => ({ deletionAt: holdfast.clock.now() }))
  expect(await wrappingKeys()).toBe(1)
  await holdfast.service.runLifecycle()
  expect(await wrappingKeys()).toBe(0)
  await expectRefusal(stateOf(other.keyId), 'NotFoundException', /does not exist/)
  expect(await stateOf(keyId)).toBe('PendingDeletion')
})

test('a call that is under way while its material goes and comes back fails, and the key stays enabled', async () => {
  const { keyId, arn } = await makeKey()
  const material = randomBytes(32)
  await bring(keyId, material)
  const blob = await encrypt(keyId)
  const unwrap = holdfast.token.unwrap.bind(holdfast.token)
  const late = vi.spyOn(holdfast.token, 'unwrap').mockImplementationOnce(async (...request) => {
    await kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: keyId }))
    await bring(keyId, material)
    return unwrap(...request)
  })
  // Import tokens are opened by the same method.
  late.mockImplementation((...request) => unwrap(...request))
  await expectRefusal(decrypt(blob), 'KMSInvalidStateException', `${arn} is pending import.`)
  late.mockRestore()
  expect(await stateOf(keyId)).toBe('Enabled')
  expect(await decrypt(blob)).toBe('a secret')
})

test('imported material never gives way to material made here, however much it has encrypted', async () => {
  const { keyId, arn } = await makeKey()
  const materialId = await bring(keyId, randomBytes(32))
  const { ceiling } = standardBudget
  await holdfast.store.reserveEncryptions(materialId, ceiling, ceiling)
  await expectRefusal(encrypt(keyId), 'LimitExceededException', new RegExp(`^The key material of ${arn} has encrypted as often`))
  await bring(keyId, randomBytes(32), { ImportType: 'NEW_KEY_MATERIAL' })
  await kms.send(new RotateKeyOnDemandCommand({ KeyId: keyId }))
  expect(await decrypt(await encrypt(keyId))).toBe('a secret')
})

test('material that the token lost comes back by an import', async () => {
  const { keyId } = await makeKey()
  const material = randomBytes(32)
  await bring(keyId, material)
  const blob = await encrypt(keyId)
  const [backing] = holdfast.store.view.backingKeys(given(holdfast.store.view.keyById(holdfast.region, keyId)).arn)
  await holdfast.token.destroyKey(given(backing).ckaId, given(backing).label)
  await decrypt(blob).catch(() => undefined)
  expect(await stateOf(keyId)).toBe('Unavailable')
  await bring(keyId, material)
  expect(await stateOf(keyId)).toBe('Enabled')
  expect(await decrypt(blob)).toBe('a secret')
  expect(await objectsOf(keyId)).toHaveLength(1)
})

test('a deletion that the token did not answer is finished when it is asked for again', async () => {
  const { keyId } = await makeKey()
  await bring(keyId, randomBytes(32))
  const remove = () => kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: keyId }))
  const down = vi.spyOn(holdfast.token, 'destroyKey').mockRejectedValueOnce(new TokenError('unavailable', 'down'))
  await expect(remove()).rejects.toMatchObject({ name: 'DependencyTimeoutException' })
  down.mockRestore()
  expect(await stateOf(keyId)).toBe('PendingImport')
  expect(await objectsOf(keyId)).toHaveLength(1)
  await remove()
  expect(await objectsOf(keyId)).toEqual([])
})

test('callers wait for a wrapping key in a short queue, and an account has so many and no more', { timeout: 60_000 }, async () => {
  const { keyId, arn } = await makeKey()
  const outcomes = await Promise.all(
    Array.from({ length: 12 }, () =>
      ask(keyId).then(
        () => 'answered',
        (error: unknown) => (error as Error).name,
      ),
    ),
  )
  expect(new Set(outcomes)).toEqual(new Set(['answered', 'ThrottlingException']))
  expect(outcomes.filter((outcome) => outcome === 'answered').length).toBeGreaterThanOrEqual(8)
  expect((await holdfast.store.importObjects()).filter((object) => object.keyArn === arn)).toHaveLength(4)
  for (let i = 0; i < 100; i++) {
    await holdfast.store.insertImportObject({
      ckaId: randomBytes(16).toString('hex'),
      label: 'holdfast/import',
      keyArn: `${arn}/of another key`,
      accountId: holdfast.accountId,
      token: 'default',
      kind: 'wrapping',
      createdAt: holdfast.clock.now(),
      dueAt: holdfast.clock.now() + dayMs,
      creator: null,
    })
  }
  const { keyId: other } = await makeKey()
  await expectRefusal(ask(other), 'LimitExceededException', /wrapping keys/)
})
