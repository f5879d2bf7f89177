/** What the inside of the XKS proxy makes of KMS' requests, on a real token: every line of the specification that is not the door's. */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { TokenError, type Token } from '../../src/hsm/token.ts'
import type { AuditRecord } from '../../src/audit/trail.ts'
import { verifyTrail } from '../../src/audit/verify.ts'
import { runCommandLine } from '../../src/cli/commands.ts'
import type { Wiring } from '../../src/cli/wiring.ts'
import { encodeHeader } from '../../src/kms/ciphertext.ts'
import { rotate } from '../../src/kms/rotation.ts'
import { openStore } from '../../src/store/open.ts'
import { authenticatedData } from '../../src/xks/protocol.ts'
import { wrapMaterial } from './import-kit.ts'
import { administer, makeAccount, makeUser, openInProcess, rawCall, type InProcess } from './holdfast.ts'
import {
  aws,
  base64,
  healthy,
  makeStore,
  metadata,
  openXks,
  type Answered,
  type Asking,
  type ConsoleFile,
  type StoreCredential,
} from './xks-kit.ts'

let ours: InProcess
let xks: ReturnType<typeof openXks>
let credential: StoreCredential
let keyArn = ''

const at = () => ({ nowMs: ours.clock.now() })
const own = <T = Readonly<Record<string, unknown>>>(operation: string, input: Readonly<Record<string, unknown>>, more = {}): Promise<T> =>
  administer<T>(ours, operation, input, { ...at(), ...more })
async function kms(operation: string, input: Readonly<Record<string, unknown>>): Promise<Readonly<Record<string, unknown>>> {
  const { status, json } = await rawCall(ours, 'kms', operation, input, at())
  if (status !== 200) throw new Error(`${operation} answered ${JSON.stringify(json)}`)
  return json
}
async function newKey(input: Readonly<Record<string, unknown>> = {}): Promise<string> {
  return ((await kms('CreateKey', input))['KeyMetadata'] as { readonly Arn: string }).Arn
}
async function show(externalId: string, arn: string, prefix = ''): Promise<void> {
  await own('AddXksKey', { UriPathPrefix: prefix, ExternalKeyId: externalId, KeyId: arn })
}

const encryptBody = (more: Readonly<Record<string, unknown>> = {}) => ({
  requestMetadata: metadata,
  plaintext: base64(Buffer.from('a secret')),
  encryptionAlgorithm: 'AES_GCM',
  ...more,
})
const encrypt = (more: Readonly<Record<string, unknown>> = {}, asking: Partial<Asking> = {}, id = 'one'): Promise<Answered> =>
  xks.send('encrypt', id, encryptBody(more), { credential, ...asking })
const decryptBody = ({ body }: Answered, more: Readonly<Record<string, unknown>> = {}) => ({
  requestMetadata: { ...metadata, kmsOperation: 'Decrypt' },
  encryptionAlgorithm: 'AES_GCM',
  ciphertext: body['ciphertext'],
  initializationVector: body['initializationVector'],
  authenticationTag: body['authenticationTag'],
  ciphertextMetadata: body['ciphertextMetadata'],
  ...more,
})
const decrypt = (of: Answered, more: Readonly<Record<string, unknown>> = {}, asking: Partial<Asking> = {}, id = 'one'): Promise<Answered> =>
  xks.send('decrypt', id, decryptBody(of, more), { credential, ...asking })
const bytes = (answer: Answered, name: string): Buffer => Buffer.from(answer.body[name] as string, 'base64')

async function lastRecord(): Promise<AuditRecord> {
  const { events } = await ours.service.trail.lookup({
    accountId: ours.accountId,
    region: 'us-east-1',
    attribute: { name: 'EventSource', value: 'xks.holdfast' },
    limit: 1,
  })
  const record = events[0]?.record
  if (!record) throw new Error('nothing was recorded')
  return record
}

beforeAll(async () => {
  ours = await openInProcess()
  xks = openXks(ours)
  credential = await makeStore(ours, '')
  keyArn = await newKey()
  await show('one', keyArn)
})
afterAll(async () => {
  await xks?.proxy.close()
  await ours?.close()
})

describe('encrypt and decrypt', () => {
  test.each([
    ['without AAD', {}],
    ['with AAD', { additionalAuthenticatedData: base64(Buffer.from('department=x')) }],
    [
      'with the longest AAD and plaintext',
      { additionalAuthenticatedData: base64(Buffer.alloc(8192, 7)), plaintext: base64(Buffer.alloc(4300, 8)) },
    ],
    ['of one byte', { plaintext: 'AA==' }],
  ])(
    'what was encrypted %s is decrypted, with lengths as the specification has them',
    async (_what, more: Readonly<Record<string, string>>) => {
      const made = await encrypt({ ...more, ciphertextDataIntegrityValueAlgorithm: 'SHA_256' })
      expect(made).toMatchObject({ status: 200 })
      const plaintext = more['plaintext'] ?? encryptBody().plaintext
      const length = Buffer.from(plaintext, 'base64').length
      expect(
        ['ciphertext', 'initializationVector', 'authenticationTag', 'ciphertextMetadata', 'ciphertextDataIntegrityValue'].map(
          (name) => bytes(made, name).length,
        ),
      ).toEqual([length, 12, 16, 17, 32])
      const aad = more['additionalAuthenticatedData']
      const opened = await decrypt(made, aad === undefined ? {} : { additionalAuthenticatedData: aad })
      expect(opened).toEqual({ status: 200, errorName: undefined, body: { plaintext } })
      const hashed = [
        Buffer.from(aad ?? '', 'base64'),
        ...['ciphertextMetadata', 'initializationVector', 'ciphertext', 'authenticationTag'].map((name) => bytes(made, name)),
      ]
      expect(bytes(made, 'ciphertextDataIntegrityValue')).toEqual(createHash('sha256').update(Buffer.concat(hashed)).digest())
    },
  )

  test('an integrity value is there only when it was asked for', async () => {
    expect((await encrypt()).body).not.toHaveProperty('ciphertextDataIntegrityValue')
  })

  test('two encryptions of the same have different IVs', async () => {
    const made = await Promise.all(Array.from({ length: 20 }, () => encrypt()))
    expect(new Set(made.map(({ body }) => body['initializationVector'])).size).toBe(20)
  })

  test('the metadata is a format byte and which key material it was', async () => {
    const made = bytes(await encrypt(), 'ciphertextMetadata')
    const { materialId } = ours.store.view.key(keyArn) ?? {}
    expect([made[0], made.toString('hex', 1)]).toEqual([1, materialId?.slice(0, 32)])
  })

  test('the key authenticates exactly what the specification says: the AAD behind its length, the metadata behind its length', async () => {
    const aad = Buffer.from('aad')
    const made = await encrypt({ additionalAuthenticatedData: base64(aad) })
    const [iv, ciphertext, tag, bound] = ['initializationVector', 'ciphertext', 'authenticationTag', 'ciphertextMetadata'].map((name) =>
      bytes(made, name),
    )
    const { ckaId = '' } = ours.store.view.backingKeys(keyArn)[0] ?? {}
    const body = Buffer.concat([Buffer.from([12]), iv ?? aad, ciphertext ?? aad, tag ?? aad])
    const framed = Buffer.concat([Buffer.from([0, 3]), aad, Buffer.from([17]), bound ?? aad])
    expect(await ours.token.unwrap(ckaId, 'gcm-iv-in', framed, body)).toEqual(Buffer.from('a secret'))
  })

  test.each(['ciphertext', 'initializationVector', 'authenticationTag', 'ciphertextMetadata', 'additionalAuthenticatedData'])(
    'a changed %s is InvalidCiphertextException',
    async (member) => {
      const aad = base64(Buffer.from('aad'))
      const made = await encrypt({ additionalAuthenticatedData: aad })
      const good = decryptBody(made, { additionalAuthenticatedData: aad })
      expect((await xks.send('decrypt', 'one', good, { credential })).status).toBe(200)
      const changed = Buffer.from(String((good as Readonly<Record<string, unknown>>)[member]), 'base64')
      changed[changed.length - 1] = (changed.at(-1) ?? 0) ^ 1
      expect(await xks.send('decrypt', 'one', { ...good, [member]: base64(changed) }, { credential })).toMatchObject({
        status: 400,
        errorName: 'InvalidCiphertextException',
      })
    },
  )

  test.each([
    ['no metadata', undefined],
    ['empty metadata', ''],
    ['metadata of another format', base64(Buffer.concat([Buffer.from([2]), Buffer.alloc(16)]))],
    ['metadata of another length', base64(Buffer.from([1]))],
  ])('%s is InvalidCiphertextException', async (_what, ciphertextMetadata) => {
    expect(await decrypt(await encrypt(), { ciphertextMetadata })).toMatchObject({ status: 400, errorName: 'InvalidCiphertextException' })
  })

  test('another implementation, with the key material at hand, opens what is encrypted and makes what is decrypted, with either length of IV', async () => {
    const material = randomBytes(32)
    const arn = await newKey({ Origin: 'EXTERNAL' })
    const { ImportToken, PublicKey } = await kms('GetParametersForImport', {
      KeyId: arn,
      WrappingAlgorithm: 'RSAES_OAEP_SHA_256',
      WrappingKeySpec: 'RSA_2048',
    })
    const EncryptedKeyMaterial = base64(wrapMaterial(Buffer.from(PublicKey as string, 'base64'), 'RSAES_OAEP_SHA_256', material))
    await kms('ImportKeyMaterial', { KeyId: arn, ImportToken, EncryptedKeyMaterial, ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE' })
    await show('imported', arn)
    const aad = Buffer.from('department=y')
    const made = await encrypt({ additionalAuthenticatedData: base64(aad) }, {}, 'imported')
    const bound = bytes(made, 'ciphertextMetadata')
    const framed = Buffer.concat([Buffer.from([0, aad.length]), aad, Buffer.from([bound.length]), bound])
    const decipher = createDecipheriv('aes-256-gcm', material, bytes(made, 'initializationVector')).setAAD(framed)
    decipher.setAuthTag(bytes(made, 'authenticationTag'))
    expect(Buffer.concat([decipher.update(bytes(made, 'ciphertext')), decipher.final()]).toString()).toBe('a secret')
    for (const ivBytes of [12, 16]) {
      const iv = randomBytes(ivBytes)
      const cipher = createCipheriv('aes-256-gcm', material, iv).setAAD(framed)
      const ciphertext = Buffer.concat([cipher.update('from elsewhere'), cipher.final()])
      const foreign = { initializationVector: base64(iv), ciphertext: base64(ciphertext), authenticationTag: base64(cipher.getAuthTag()) }
      const opened = await decrypt(made, { ...foreign, additionalAuthenticatedData: base64(aad) }, {}, 'imported')
      expect(opened).toMatchObject({ status: 200, body: { plaintext: base64(Buffer.from('from elsewhere')) } })
    }
  })

  test('an IV of 16 bytes with which nothing was made is InvalidCiphertextException', async () => {
    const made = await encrypt()
    expect(await decrypt(made, { initializationVector: base64(Buffer.alloc(16, 1)) })).toMatchObject({
      status: 400,
      errorName: 'InvalidCiphertextException',
    })
  })

  test('after a rotation new ciphertexts are of the new material, and the old ones are read', async () => {
    const arn = await newKey()
    await show('rotating', arn)
    const before = await encrypt({}, {}, 'rotating')
    const key = ours.store.view.key(arn)
    if (!key) throw new Error('no key')
    await rotate(ours.service, key, 'ON_DEMAND')
    const after = await encrypt({}, {}, 'rotating')
    expect(after.body['ciphertextMetadata']).not.toBe(before.body['ciphertextMetadata'])
    for (const made of [before, after]) expect(await decrypt(made, {}, {}, 'rotating')).toMatchObject({ status: 200 })
  })

  test('every encryption takes one from the budget of its key, as those of our own API do', async () => {
    const drawn = vi.spyOn(ours.service.budget, 'draw')
    await encrypt({ ciphertextDataIntegrityValueAlgorithm: 'SHA_256' })
    expect(drawn).toHaveBeenCalledTimes(1)
    drawn.mockRestore()
  })

  test('what one external key made the other does not open, and no ciphertext blob of the same key passes for one', async () => {
    await show('other', await newKey())
    const made = await encrypt()
    expect(await decrypt(made, {}, {}, 'other')).toMatchObject({ errorName: 'InvalidCiphertextException' })
    // The framing of a blob's additional data would be an AAD of 0x4801 bytes, which nobody can ask for.
    const header = encodeHeader({
      scheme: 'gcm-iv-in',
      keyId: '00000000-0000-4000-8000-000000000000',
      materialId: '0'.repeat(64),
      doubly: false,
    })
    expect(header.readUInt16BE(0)).toBeGreaterThan(8192)
    expect(authenticatedData(Buffer.alloc(8192), Buffer.alloc(20)).readUInt16BE(0)).toBe(8192)
  })
})

describe('metadata and health', () => {
  const ask = (externalId: string) =>
    xks.send('metadata', externalId, { requestMetadata: { ...metadata, kmsOperation: 'CreateKey' } }, { credential })

  test('an Enabled key is AES_256 for both, ENABLED', async () => {
    expect(await ask('one')).toMatchObject({
      status: 200,
      body: { keySpec: 'AES_256', keyUsage: ['ENCRYPT', 'DECRYPT'], keyStatus: 'ENABLED' },
    })
  })

  test.each(['DisableKey', 'ScheduleKeyDeletion'])(
    'after %s it is DISABLED, and nothing is encrypted or decrypted with it',
    async (operation) => {
      const arn = await newKey()
      await show(operation, arn)
      const made = await encrypt({}, {}, operation)
      await kms(operation, { KeyId: arn })
      expect(await ask(operation)).toMatchObject({ status: 200, body: { keyStatus: 'DISABLED' } })
      for (const answer of [await encrypt({}, {}, operation), await decrypt(made, {}, {}, operation)]) {
        expect(answer).toMatchObject({ status: 400, errorName: 'InvalidStateException' })
      }
    },
  )

  test('of a key that is shown in a store, the record of its scheduled deletion says so', async () => {
    const arn = await newKey()
    await show('doomed', arn)
    await kms('ScheduleKeyDeletion', { KeyId: arn })
    const { events } = await ours.service.trail.lookup({
      accountId: ours.accountId,
      region: 'us-east-1',
      attribute: { name: 'EventName', value: 'ScheduleKeyDeletion' },
      limit: 1,
    })
    expect(events[0]?.record).toMatchObject({ additionalEventData: { xksKeys: [{ uriPathPrefix: '', externalKeyId: 'doomed' }] } })
  })

  test('health is what the device showed, whatever policy and quota say', async () => {
    const body = { requestMetadata: { kmsRequestId: 'x', kmsOperation: 'KmsHealthCheck' } }
    const strict = await makeStore(ours, '/strict', { RequestRate: 1 })
    await own('PutXksPolicy', { UriPathPrefix: '/strict', Policy: '{"Statement":[{"Effect":"Deny","Principal":"*"}]}' })
    for (let times = 0; times < 3; times++) {
      expect(await xks.send('health', undefined, body, { credential: strict, prefix: '/strict' })).toEqual({
        status: 200,
        errorName: undefined,
        body: await healthy(),
      })
    }
  })
})

describe('authentication', () => {
  const body = encryptBody()
  const refused = { status: 401, errorName: 'AuthenticationFailedException' }
  const send = (asking: Partial<Asking>): Promise<Answered> => xks.send('encrypt', 'one', body, { credential, ...asking })

  test('five minutes of skew are none too many', async () => {
    for (const skewMs of [-290_000, 290_000]) expect(await send({ skewMs })).toMatchObject({ status: 200 })
    for (const skewMs of [-310_000, 310_000]) expect(await send({ skewMs })).toMatchObject(refused)
  })

  test.each<[string, () => Partial<Asking>]>([
    ['another secret', () => ({ credential: { ...credential, RawSecretAccessKey: 'x'.repeat(43) } })],
    ['an unknown access key id', () => ({ credential: { ...credential, AccessKeyId: 'A'.repeat(24) } })],
    ['an access key id of no form', () => ({ credential: { ...credential, AccessKeyId: 'InvalidBETWEEN2and7andLongerThan30x' } })],
    ['another service', () => ({ service: 'kms' })],
    ['a region that is not the store’s', () => ({ region: 'us-west-2' })],
    ['another body', () => ({ change: () => ({ body: Buffer.from(JSON.stringify(encryptBody({ plaintext: 'AAAA' }))) }) })],
    ['another path', () => ({ change: ({ path }) => ({ path: path.replace('one', 'two'), externalKeyId: 'two' }) })],
    ['a query', () => ({ change: ({ path }) => ({ path: `${path}?a=b` }) })],
    ['another host', () => ({ change: ({ headers }) => ({ headers: { ...headers, host: 'other.xks.test' } }) })],
    ['no Authorization', () => ({ change: ({ headers: { authorization: _gone, ...headers } }) => ({ headers }) })],
    ['an Authorization that is none', () => ({ change: ({ headers }) => ({ headers: { ...headers, authorization: 'Basic x' } }) })],
    [
      'x-amz-date outside of the signature',
      () => ({
        change: ({ headers }) => ({
          headers: { ...headers, authorization: String(headers['authorization']).replace(';x-amz-date', '') },
        }),
      }),
    ],
    [
      'host outside of the signature',
      () => ({
        change: ({ headers }) => ({ headers: { ...headers, authorization: String(headers['authorization']).replace('host;', '') } }),
      }),
    ],
  ])('%s is 401', async (_what, asking) => {
    expect(await send(asking())).toMatchObject(refused)
  })

  test('an unknown access key id and a wrong secret are refused in the same words', async () => {
    const unknown = await send({ credential: { ...credential, AccessKeyId: 'A'.repeat(24) } })
    const wrong = await send({ credential: { ...credential, RawSecretAccessKey: 'x'.repeat(43) } })
    expect(unknown).toEqual(wrong)
  })

  test('more headers may be signed', async () => {
    expect(await send({ headers: { 'x-custom': 'a  b', accept: '*/*' } })).toMatchObject({ status: 200 })
  })

  test('a bad signature is told before a bad body, an unknown key or a disabled store', async () => {
    const wrong = { ...credential, RawSecretAccessKey: 'x'.repeat(43) }
    expect(await xks.send('encrypt', 'none', 'no json', { credential: wrong })).toMatchObject(refused)
  })

  test('a credential is of one store alone', async () => {
    await makeStore(ours, '/apart')
    expect(await xks.send('encrypt', 'one', body, { credential, prefix: '/apart' })).toMatchObject(refused)
  })

  test('what failed is recorded without anything that its sender made up', async () => {
    // What was refused before has used up this second's records.
    ours.clock.advance(1000)
    await send({ credential: { ...credential, RawSecretAccessKey: 'x'.repeat(43) } })
    const record = await lastRecord()
    expect(record).toMatchObject({
      userIdentity: { type: 'Unknown' },
      errorCode: 'AuthenticationFailedException',
      requestParameters: { uriPathPrefix: '', externalKeyId: 'one' },
    })
    expect(JSON.stringify(record)).not.toContain('Alice')
  })

  test('who floods a store without a credential does not fill the audit: ten records a second, and one that says how many there were', async () => {
    const theirs = await makeStore(ours, '/flooded')
    const recorded = async () =>
      (
        await ours.service.trail.lookup({
          accountId: ours.accountId,
          region: 'us-east-1',
          attribute: { name: 'EventSource', value: 'xks.holdfast' },
          limit: 50,
        })
      ).events
        .map(({ record }) => record)
        .filter((record) => (record['requestParameters'] as { uriPathPrefix?: string } | null)?.uriPathPrefix === '/flooded')
    const wrong = { prefix: '/flooded', credential: { ...theirs, RawSecretAccessKey: 'x'.repeat(43) } }
    for (let request = 0; request < 25; request++) expect(await xks.send('encrypt', 'one', body, wrong)).toMatchObject(refused)
    expect(await recorded()).toHaveLength(10)
    // Who has one is recorded whatever the others do.
    const health = { requestMetadata: { kmsRequestId: 'r', kmsOperation: 'KmsHealthCheck' } }
    expect(await xks.send('health', undefined, health, { prefix: '/flooded', credential: theirs })).toMatchObject({ status: 200 })
    expect((await recorded())[0]).toMatchObject({ eventName: 'GetHealthStatus' })
    expect(await recorded()).toHaveLength(11)
    expect((await ours.service.metrics.page()).text).toMatch(/^holdfast_audit_unrecorded_total\{kind="xks",prefix="\/flooded"\} 15$/m)
    await ours.service.strangers.close()
    const { events } = await ours.service.trail.lookup({
      accountId: ours.accountId,
      region: 'us-east-1',
      attribute: { name: 'EventName', value: 'UnrecordedRequests' },
      limit: 50,
    })
    expect(events.map(({ record }) => record['serviceEventDetails'])).toContainEqual(
      expect.objectContaining({ uriPathPrefix: '/flooded', requests: 15, byErrorCode: { AuthenticationFailedException: 15 } }),
    )
  })
})

describe('fields', () => {
  const invalid = { status: 400, errorName: 'ValidationException' }
  const without = (name: string) => JSON.parse(JSON.stringify({ ...encryptBody(), [name]: undefined })) as unknown
  const { kmsKeyArn: _arn, ...withoutArn } = metadata
  const long = base64(Buffer.alloc(21))

  test.each<[string, unknown]>([
    ['no JSON', '{'],
    ['no object', '[]'],
    ['no UTF-8', Buffer.from([0x22, 0xff]).toString('latin1')],
    ['nothing', ''],
    ['no requestMetadata', without('requestMetadata')],
    ['empty requestMetadata', encryptBody({ requestMetadata: {} })],
    ['requestMetadata of another type', encryptBody({ requestMetadata: 'x' })],
    ['no kmsKeyArn', encryptBody({ requestMetadata: withoutArn })],
    ['a principal of another type', encryptBody({ requestMetadata: { ...metadata, awsPrincipalArn: 7 } })],
    ['an optional member of another type', encryptBody({ requestMetadata: { ...metadata, kmsViaService: 7 } })],
    ['a principal of 2049 characters', encryptBody({ requestMetadata: { ...metadata, awsPrincipalArn: 'x'.repeat(2049) } })],
    ['no plaintext', without('plaintext')],
    ['empty plaintext', encryptBody({ plaintext: '' })],
    ['plaintext of another type', encryptBody({ plaintext: 5 })],
    ['plaintext that is no base64', encryptBody({ plaintext: 'a-_b' })],
    ['plaintext with a space', encryptBody({ plaintext: 'AA ==' })],
    ['plaintext without its padding', encryptBody({ plaintext: 'AA' })],
    ['no algorithm', without('encryptionAlgorithm')],
    ['another algorithm', encryptBody({ encryptionAlgorithm: 'AES_CBC' })],
    ['another integrity algorithm', encryptBody({ ciphertextDataIntegrityValueAlgorithm: 'SHA_512' })],
    ['AAD that is no base64', encryptBody({ additionalAuthenticatedData: '*' })],
  ])('of Encrypt: %s is ValidationException', async (_what, body) => {
    expect(await xks.send('encrypt', 'one', body, { credential })).toMatchObject(invalid)
  })

  test.each([
    ['no ciphertext', { ciphertext: undefined }],
    ['no tag', { authenticationTag: undefined }],
    ['no IV', { initializationVector: undefined }],
    ['a tag of 15 bytes', { authenticationTag: base64(Buffer.alloc(15)) }],
    ['an IV of 13 bytes', { initializationVector: base64(Buffer.alloc(13)) }],
    ['metadata of 21 bytes', { ciphertextMetadata: long }],
    ['no algorithm', { encryptionAlgorithm: undefined }],
  ])('of Decrypt: %s is ValidationException', async (_what, more) => {
    expect(await decrypt(await encrypt(), more)).toMatchObject(invalid)
  })

  test.each([
    ['{}', {}],
    ['empty requestMetadata', { requestMetadata: {} }],
    ['no kmsOperation', { requestMetadata: { kmsRequestId: 'x' } }],
  ])('of health: %s is ValidationException', async (_what, body) => {
    expect(await xks.send('health', undefined, body, { credential })).toMatchObject(invalid)
  })

  test('what the specification may have one day is taken: members, operations, long ARNs, principals that are no ARN', async () => {
    for (const awsPrincipalArn of ['AWS Internal', 'ec2.amazonaws.com', `arn:aws:iam::123456789012:user/${'x'.repeat(2010)}`]) {
      const requestMetadata = {
        ...metadata,
        awsPrincipalArn,
        kmsOperation: 'InventedLater',
        sourceIdentity: 'x',
        awsSourceVpc: null,
        kmsRequestId: '',
      }
      expect(await encrypt({ requestMetadata, kmsRecipientAttestation: { a: [1] } })).toMatchObject({ status: 200 })
    }
  })

  test('an error message is printable ASCII of less than 512 characters', async () => {
    const answer = await xks.send('encrypt', 'one', encryptBody({ encryptionAlgorithm: 'ü'.repeat(1000) }), { credential })
    expect(answer.body['errorMessage']).toMatch(/^[\x20-\x7e]{1,511}$/)
  })
})

describe('the order of refusals', () => {
  const denied = '{"Statement":[{"Sid":"NotBob","Effect":"Deny","Principal":"*user/Bob"}]}'
  const bob = { requestMetadata: { ...metadata, awsPrincipalArn: 'arn:aws:iam::123456789012:user/Bob' } }
  const tooMuch = { plaintext: base64(Buffer.alloc(4301)) }

  beforeAll(async () => {
    await own('PutXksPolicy', { UriPathPrefix: '', Policy: denied })
    const arn = await newKey()
    await show('disabled', arn)
    await kms('DisableKey', { KeyId: arn })
  })
  afterAll(() => own('DeleteXksPolicy', { UriPathPrefix: '' }))

  test.each<[string, string, Readonly<Record<string, unknown>>, number, string]>([
    ['fields before the policy', 'none', { ...bob, plaintext: '*' }, 400, 'ValidationException'],
    ['the policy before the key', 'none', { ...bob, ...tooMuch }, 403, 'AccessDeniedException'],
    ['the key before its state and sizes', 'none', tooMuch, 404, 'KeyNotFoundException'],
    ['its state before sizes', 'disabled', tooMuch, 400, 'InvalidStateException'],
    ['sizes before the device', 'one', tooMuch, 501, 'UnsupportedOperationException'],
    ['AAD has a size too', 'one', { additionalAuthenticatedData: base64(Buffer.alloc(8193)) }, 501, 'UnsupportedOperationException'],
  ])('%s', async (_rule, id, more, status, errorName) => {
    expect(await encrypt(more, {}, id)).toMatchObject({ status, errorName })
  })

  test('of Decrypt the same sizes count', async () => {
    const made = await encrypt()
    for (const more of [{ ciphertext: base64(Buffer.alloc(4301)) }, { additionalAuthenticatedData: base64(Buffer.alloc(8193)) }]) {
      expect(await decrypt(made, more)).toMatchObject({ status: 501, errorName: 'UnsupportedOperationException' })
    }
  })

  test('a denial names its statement, in the answer and in the record', async () => {
    const answer = await encrypt(bob)
    expect(answer.body['errorMessage']).toContain('NotBob')
    expect(await lastRecord()).toMatchObject({
      errorCode: 'AccessDeniedException',
      additionalEventData: { policy: { statement: 'NotBob', effect: 'Deny', dryRun: false } },
    })
  })

  test('a policy on trial denies nothing, and the record says what it would have done', async () => {
    await own('PutXksPolicy', { UriPathPrefix: '', Policy: denied, Mode: 'DRY_RUN' })
    expect(await encrypt(bob)).toMatchObject({ status: 200 })
    expect(await lastRecord()).toMatchObject({ additionalEventData: { policy: { statement: 'NotBob', effect: 'Deny', dryRun: true } } })
    expect(await own('GetXksPolicy', { UriPathPrefix: '' })).toEqual({ Policy: denied, Mode: 'DRY_RUN' })
  })

  test('a key that has been destroyed is not found', async () => {
    await ours.store.insertXksKey(
      { prefix: '', accountId: ours.accountId },
      { externalKeyId: 'destroyed', keyArn: `${keyArn}0`, createdAt: 0 },
    )
    expect(await encrypt({}, {}, 'destroyed')).toMatchObject({ status: 404, errorName: 'KeyNotFoundException' })
    expect(
      ((await own('ListXksKeys', { UriPathPrefix: '' }))['XksKeys'] as readonly { readonly ExternalKeyId: string }[]).find(
        ({ ExternalKeyId }) => ExternalKeyId === 'destroyed',
      ),
    ).toMatchObject({
      KeyState: 'Deleted',
    })
  })
})

describe('a store', () => {
  test('is off for everything with one command, and on again', async () => {
    const switched = await makeStore(ours, '/switched')
    await show('one', keyArn, '/switched')
    const asking = { credential: switched, prefix: '/switched' }
    const health = { requestMetadata: { kmsRequestId: 'x', kmsOperation: 'KmsHealthCheck' } }
    const describing = { requestMetadata: { ...metadata, kmsOperation: 'CreateKey' } }
    const everything = async () => [
      await encrypt({}, asking),
      await xks.send('health', undefined, health, asking),
      await xks.send('metadata', 'one', describing, asking),
    ]
    for (const answer of await everything()) expect(answer).toMatchObject({ status: 200 })
    await own('DisableXksStore', { UriPathPrefix: '/switched' })
    for (const answer of await everything()) expect(answer).toMatchObject({ status: 400, errorName: 'InvalidStateException' })
    // The others go on.
    expect(await encrypt()).toMatchObject({ status: 200 })
    await own('EnableXksStore', { UriPathPrefix: '/switched' })
    for (const answer of await everything()) expect(answer).toMatchObject({ status: 200 })
  })

  test('has two credentials at once, added and removed while it runs; the last one stays', async () => {
    const first = await makeStore(ours, '/rotating')
    await show('one', keyArn, '/rotating')
    const named = { UriPathPrefix: '/rotating' }
    const second = await own<ConsoleFile>('AddXksCredential', named)
    expect(second).toEqual({
      XksProxyUriPath: '/rotating/kms/xks/v1',
      XksProxyAuthenticationCredential: {
        AccessKeyId: expect.stringMatching(/^[A-Z2-7]{20,30}$/),
        RawSecretAccessKey: expect.stringMatching(/^[A-Za-z0-9/+=]{43,64}$/),
      },
    })
    const both = [first, second.XksProxyAuthenticationCredential]
    for (const each of both) expect(await encrypt({}, { credential: each, prefix: '/rotating' })).toMatchObject({ status: 200 })
    await own('RemoveXksCredential', { ...named, AccessKeyId: first.AccessKeyId })
    expect(await encrypt({}, { credential: first, prefix: '/rotating' })).toMatchObject({ status: 401 })
    expect(await encrypt({}, { credential: both[1] ?? first, prefix: '/rotating' })).toMatchObject({ status: 200 })
    await expect(own('RemoveXksCredential', { ...named, AccessKeyId: both[1]?.AccessKeyId })).rejects.toThrow(
      /ConflictException.*last credential/,
    )
    await expect(own('RemoveXksCredential', { ...named, AccessKeyId: first.AccessKeyId })).rejects.toThrow(/NotFoundException/)
  })

  test('takes a credential that was made elsewhere, and keeps no secret in the clear', async () => {
    const mine = { AccessKeyId: 'B'.repeat(20), RawSecretAccessKey: `elsewhere/${'y'.repeat(33)}` }
    expect(await makeStore(ours, '/given', { XksProxyAuthenticationCredential: mine })).toEqual(mine)
    await show('one', keyArn, '/given')
    expect(await encrypt({}, { credential: mine, prefix: '/given' })).toMatchObject({ status: 200 })
    const record = ours.store.view.xksStore('/given')
    expect(Buffer.from(record?.credentials[0]?.sealedSecret ?? []).includes('elsewhere')).toBe(false)
    expect(JSON.stringify(await own('ListXksStores', {}))).not.toContain('elsewhere')
    const { events } = await ours.service.trail.lookup({
      accountId: ours.accountId,
      region: 'us-east-1',
      attribute: { name: 'EventName', value: 'CreateXksStore' },
      limit: 50,
    })
    expect(events.length).toBeGreaterThan(2)
    expect(JSON.stringify(events)).not.toContain('elsewhere')
    expect(JSON.stringify(events)).not.toMatch(/RawSecretAccessKey|rawSecretAccessKey/)
  })

  test('has a quota of its own: one that is over it does not slow another', async () => {
    const slow = await makeStore(ours, '/slow', { RequestRate: 2 })
    await show('one', keyArn, '/slow')
    const asking = { credential: slow, prefix: '/slow' }
    const statuses = []
    for (let times = 0; times < 3; times++) statuses.push((await encrypt({}, asking)).status)
    expect(statuses).toEqual([200, 200, 429])
    expect(await encrypt()).toMatchObject({ status: 200 })
    expect(await lastRecord()).toMatchObject({ requestParameters: { uriPathPrefix: '' } })
    await own('UpdateXksStore', { UriPathPrefix: '/slow', RequestRate: 1000, Regions: ['us-west-2', aws] })
    expect(await encrypt({}, asking)).toMatchObject({ status: 200 })
    expect(await encrypt({}, { ...asking, region: 'us-west-2' })).toMatchObject({ status: 200 })
  })

  test('that is not there is InvalidUriPathException', async () => {
    expect([xks.proxy.has(''), xks.proxy.has('/nobody')]).toEqual([true, false])
    expect(await xks.send('encrypt', 'one', encryptBody(), { credential, prefix: '/nobody' })).toMatchObject({
      status: 404,
      errorName: 'InvalidUriPathException',
    })
  })

  test.each([
    ['CreateXksStore', { UriPathPrefix: '' }, /AlreadyExistsException/],
    ['CreateXksStore', { UriPathPrefix: 'x' }, /ValidationException/],
    ['CreateXksStore', { UriPathPrefix: '/x/' }, /ValidationException/],
    ['CreateXksStore', { UriPathPrefix: `/${'x'.repeat(117)}` }, /ValidationException/],
    ['CreateXksStore', { UriPathPrefix: '/r', Regions: ['nowhere'] }, /ValidationException/],
    [
      'CreateXksStore',
      { UriPathPrefix: '/c', XksProxyAuthenticationCredential: { AccessKeyId: 'short', RawSecretAccessKey: 'secret' } },
      /ValidationException/,
    ],
    ['UpdateXksStore', { UriPathPrefix: '' }, /Nothing to change/],
    ['UpdateXksStore', { UriPathPrefix: '/nobody', RequestRate: 5 }, /NotFoundException/],
    ['DisableXksStore', { UriPathPrefix: '/nobody' }, /NotFoundException/],
    ['DeleteXksStore', { UriPathPrefix: '' }, /ConflictException.*enabled/],
    ['AddXksKey', { UriPathPrefix: '', ExternalKeyId: 'alias/x', KeyId: 'x' }, /ValidationException/],
    ['AddXksKey', { UriPathPrefix: '', ExternalKeyId: '..', KeyId: 'x' }, /ValidationException/],
    ['AddXksKey', { UriPathPrefix: '', ExternalKeyId: 'x', KeyId: 'alias/none' }, /NotFoundException/],
    ['RemoveXksKey', { UriPathPrefix: '', ExternalKeyId: 'nobody' }, /NotFoundException/],
    [
      'PutXksPolicy',
      { UriPathPrefix: '', Policy: '{"Statement":[{"Effect":"Perhaps","Principal":"*"}]}' },
      /MalformedPolicyDocumentException.*Effect/,
    ],
    ['GetXksPolicy', { UriPathPrefix: '' }, /NotFoundException.*no policy/],
  ] as const)('%s %j is refused in words that say why', async (operation, input, words) => {
    await expect(own(operation, input)).rejects.toThrow(words)
  })

  test('shows each external key id once, and only symmetric keys of its own account that the caller may use', async () => {
    await expect(show('one', keyArn)).rejects.toThrow(/AlreadyExistsException/)
    await expect(show('rsa', await newKey({ KeySpec: 'RSA_2048', KeyUsage: 'ENCRYPT_DECRYPT' }))).rejects.toThrow(
      /ValidationException.*RSA_2048/,
    )
    await expect(show('mac', await newKey({ KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' }))).rejects.toThrow(
      /ValidationException|InvalidKeyUsage/,
    )
    const disabled = await newKey()
    await kms('DisableKey', { KeyId: disabled })
    await expect(show('off', disabled)).rejects.toThrow(/DisabledException/)
    const statement = (Action: readonly string[]) => ({ Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action, Resource: '*' }] })
    const half = await makeUser(ours, 'half', { p: statement(['holdfast:AddXksKey', 'kms:Encrypt']) })
    const input = { UriPathPrefix: '', ExternalKeyId: 'theirs', KeyId: keyArn }
    await expect(own('AddXksKey', input, { credentials: half })).rejects.toThrow(/AccessDenied.*kms:Decrypt/)
    const user = await makeUser(ours, 'user', { p: statement(['holdfast:AddXksKey', 'kms:Encrypt', 'kms:Decrypt']) })
    await expect(own('AddXksKey', input, { credentials: user })).rejects.toThrow(/AccessDenied.*kms:CreateGrant/)
    // What a store could do is what a policy is asked about; no service is its user.
    const limited = (condition: Readonly<Record<string, unknown>>) => ({
      Version: '2012-10-17',
      Statement: [
        { Effect: 'Allow', Action: ['holdfast:AddXksKey', 'kms:Encrypt', 'kms:Decrypt'], Resource: '*' },
        { Effect: 'Allow', Action: 'kms:CreateGrant', Resource: '*', Condition: condition },
      ],
    })
    const forServices = await makeUser(ours, 'services', { p: limited({ Bool: { 'kms:GrantIsForAWSResource': 'true' } }) })
    await expect(own('AddXksKey', input, { credentials: forServices })).rejects.toThrow(/AccessDenied.*kms:CreateGrant/)
    const encrypting = await makeUser(ours, 'encrypting', {
      p: limited({ 'ForAllValues:StringEquals': { 'kms:GrantOperations': 'Encrypt' } }),
    })
    await expect(own('AddXksKey', input, { credentials: encrypting })).rejects.toThrow(/AccessDenied.*kms:CreateGrant/)
    const both = { 'ForAllValues:StringEquals': { 'kms:GrantOperations': ['Encrypt', 'Decrypt'] } }
    await own('AddXksKey', input, { credentials: await makeUser(ours, 'both', { p: limited(both) }) })
    const neither = await makeUser(ours, 'neither', { p: statement(['kms:*']) })
    await expect(own('AddXksKey', input, { credentials: neither })).rejects.toThrow(/AccessDenied.*holdfast:AddXksKey/)
  })

  test('is a resource of its own to identity policies: whoever may switch one off may do nothing to another', async () => {
    for (const prefix of ['/mine', '/yours']) await makeStore(ours, prefix)
    const Statement = [
      { Effect: 'Allow', Action: 'holdfast:DisableXksStore', Resource: `arn:aws:holdfast::${ours.accountId}:xks-store/mine` },
    ]
    const operator = await makeUser(ours, 'operator', { p: { Version: '2012-10-17', Statement } })
    await own('DisableXksStore', { UriPathPrefix: '/mine' }, { credentials: operator })
    await expect(own('EnableXksStore', { UriPathPrefix: '/mine' }, { credentials: operator })).rejects.toThrow(
      /AccessDenied.*EnableXksStore/,
    )
    for (const UriPathPrefix of ['/yours', '', '/nobody']) {
      await expect(own('DisableXksStore', { UriPathPrefix }, { credentials: operator })).rejects.toThrow(/AccessDenied.*DisableXksStore/)
    }
  })

  test('is nobody else’s, goes when it is disabled, and its prefix is free then', async () => {
    const other = await makeAccount(ours, '999999999999')
    await makeStore(ours, '/going')
    for (const operation of ['DisableXksStore', 'DeleteXksStore', 'ListXksKeys', 'AddXksCredential']) {
      await expect(own(operation, { UriPathPrefix: '/going' }, { credentials: other })).rejects.toThrow(/NotFoundException/)
    }
    expect(await own('ListXksStores', {}, { credentials: other })).toMatchObject({ XksStores: [] })
    await own('DisableXksStore', { UriPathPrefix: '/going' })
    await own('DeleteXksStore', { UriPathPrefix: '/going' })
    expect(xks.proxy.has('/going')).toBe(false)
    await own('CreateXksStore', { UriPathPrefix: '/going' }, { credentials: other })
    expect(((await own('ListXksStores', {}, { credentials: other }))['XksStores'] as readonly unknown[])[0]).toMatchObject({
      UriPathPrefix: '/going',
      XksProxyUriPath: '/going/kms/xks/v1',
      Status: 'Enabled',
      Regions: ['us-east-1'],
      RequestRate: 1800,
    })
  })

  test('is disabled here when another process disables it', async () => {
    const elsewhere = await openStore({ file: `${ours.dir}/holdfast.db`, clock: ours.clock })
    try {
      await elsewhere.updateXksStore({ prefix: '', accountId: ours.accountId }, () => ({ enabled: false }))
      await vi.waitFor(async () => expect(await encrypt()).toMatchObject({ errorName: 'InvalidStateException' }), { timeout: 20_000 })
      await elsewhere.updateXksStore({ prefix: '', accountId: ours.accountId }, () => ({ enabled: true }))
      await vi.waitFor(async () => expect(await encrypt()).toMatchObject({ status: 200 }), { timeout: 20_000 })
    } finally {
      await elsewhere.close()
    }
  })
})

describe('the record', () => {
  test('of a request that was done says who asked KMS for what, and never what was encrypted', async () => {
    const secret = base64(Buffer.from('nobody must read this'))
    const made = await encrypt({ plaintext: secret })
    const record = await lastRecord()
    expect(record).toMatchObject({
      eventSource: 'xks.holdfast',
      eventName: 'Encrypt',
      readOnly: true,
      userIdentity: { type: 'XksCredential', accessKeyId: credential.AccessKeyId },
      sourceIPAddress: '192.0.2.7',
      userAgent: 'test',
      requestID: metadata.kmsRequestId,
      requestParameters: { uriPathPrefix: '', externalKeyId: 'one', signedRegion: aws, requestMetadata: metadata },
      additionalEventData: { latencyMs: expect.any(Number), keyMaterialId: ours.store.view.key(keyArn)?.materialId },
      resources: [{ type: 'AWS::KMS::Key', ARN: keyArn }],
      recipientAccountId: ours.accountId,
    })
    expect(record).not.toHaveProperty('errorCode')
    const text = JSON.stringify(record)
    for (const hidden of [secret, made.body['ciphertext'] as string, 'nobody must read']) expect(text).not.toContain(hidden)
  })

  test('of one that was refused says why, and what is invalid is recorded as far as it goes', async () => {
    await encrypt({ encryptionAlgorithm: 'x', requestMetadata: { ...metadata, kmsKeyArn: 7 } })
    expect(await lastRecord()).toMatchObject({
      errorCode: 'ValidationException',
      errorMessage: expect.stringContaining('kmsKeyArn'),
      requestParameters: { requestMetadata: { kmsRequestId: metadata.kmsRequestId, awsPrincipalArn: metadata.awsPrincipalArn } },
    })
  })

  test('holds whatever a request says of itself: the trail with half characters, zeros and ends of lines in it verifies', async () => {
    for (const text of ['\ud800', 'a\u0000b', '\u2028\n{"eventID":"x"}', `${'x'.repeat(127)}\u{1f600}`, '","resources":[]']) {
      const requestMetadata = { ...metadata, kmsRequestId: text, awsPrincipalArn: text, kmsViaService: text }
      expect(await encrypt({ requestMetadata })).toMatchObject({ status: 200 })
      expect(await lastRecord()).toMatchObject({ requestID: text.slice(0, 128), requestParameters: { requestMetadata } })
    }
    await ours.service.trail.seal()
    expect((await verifyTrail(join(ours.dir, 'audit.db'))).problems).toEqual([])
  })

  test('must be durable: without it there is no answer but InternalException', async () => {
    const failing = { ...ours.service.trail, append: () => Promise.reject(new Error('the disk is full')) }
    const proxy = openXks({ ...ours, service: { ...ours.service, metrics: quiet, trail: failing } })
    const answer = await proxy.send('encrypt', 'one', encryptBody(), { credential })
    expect(answer).toMatchObject({ status: 500, errorName: 'InternalException' })
    expect(answer.body).not.toHaveProperty('ciphertext')
  })

  test('a key’s last use is told of uses through a store', async () => {
    const arn = await newKey()
    await show('used', arn)
    await encrypt({}, {}, 'used')
    const record = await lastRecord()
    expect(await ours.service.usage.lastUse(arn)).toMatchObject({
      operation: 'Encrypt',
      eventId: record.eventID,
      requestId: metadata.kmsRequestId,
    })
  })

  test('metrics count by store, operation and outcome', async () => {
    const { text } = await ours.service.metrics.page()
    expect(text).toMatch(/holdfast_xks_proxy_requests_total\{prefix="",operation="Encrypt",code="ok"\} \d+/)
    expect(text).toMatch(
      /holdfast_xks_proxy_requests_total\{prefix="\/switched",operation="GetHealthStatus",code="InvalidStateException"\} 1/,
    )
    expect(text).toMatch(/holdfast_xks_proxy_requests_seconds_count\{prefix="",operation="Decrypt"\} \d+/)
    expect(text).toMatch(new RegExp(`holdfast_xks_proxy_credential_last_use_age_seconds\\{.*credential="${credential.AccessKeyId}".*\\} 0`))
  })
})

/** A second proxy on the same service would count under the same names. */
const quiet = { calls: () => () => undefined, gauge: () => undefined, total: () => undefined } as unknown as InProcess['service']['metrics']

describe('a device', () => {
  /** The proxy on a token with other answers. */
  const on = (changes: Partial<Token>) => {
    const token: Token = Object.assign(Object.create(ours.token) as Token, {
      wrap: ours.token.wrap.bind(ours.token),
      unwrap: ours.token.unwrap.bind(ours.token),
      health: ours.token.health.bind(ours.token),
      capabilities: ours.token.capabilities.bind(ours.token),
      ...changes,
    })
    return openXks({ ...ours, service: { ...ours.service, metrics: quiet, tokenOf: () => token } })
  }
  const failing = (failure: TokenError['failure'], code?: string) => () => Promise.reject(new TokenError(failure, 'a test', code))
  const down = () => ({ ...ours.token.health(), state: 'down' as const })

  test.each<[string, Partial<Token>, number, string]>([
    ['busy', { wrap: failing('busy', 'CKR_SESSION_COUNT'), unwrap: failing('busy') }, 429, 'ThrottlingException'],
    ['slow', { wrap: failing('unavailable'), unwrap: failing('unavailable') }, 503, 'DependencyTimeoutException'],
    ['gone', { wrap: failing('unavailable'), unwrap: failing('unavailable'), health: down }, 500, 'InternalException'],
    ['without the mechanism', { wrap: failing('unsupported'), unwrap: failing('unsupported') }, 501, 'UnsupportedOperationException'],
  ])('that is %s is never a bad ciphertext, and retryable where a retry can help', async (_what, changes, status, errorName) => {
    const made = await encrypt()
    const { send } = on(changes)
    expect(await send('encrypt', 'one', encryptBody(), { credential })).toMatchObject({ status, errorName })
    expect(await send('decrypt', 'one', decryptBody(made), { credential })).toMatchObject({ status, errorName })
  })

  test('that does not permit the use of the key is InvalidKeyUsageException', async () => {
    const { send } = on({ wrap: failing('rejected', 'CKR_KEY_FUNCTION_NOT_PERMITTED') })
    expect(await send('encrypt', 'one', encryptBody(), { credential })).toMatchObject({
      status: 400,
      errorName: 'InvalidKeyUsageException',
    })
  })

  test('that decrypts to something else than was encrypted is found out; a second try may succeed', async () => {
    const asked = encryptBody({ ciphertextDataIntegrityValueAlgorithm: 'SHA_256' })
    for (const wrong of [() => Promise.resolve(Buffer.from('another!')), failing('rejected')]) {
      const never = on({ unwrap: wrong })
      expect(await never.send('encrypt', 'one', asked, { credential })).toMatchObject({ status: 500, errorName: 'InternalException' })
      let times = 0
      const once = on({ unwrap: (...args) => (times++ === 0 ? wrong() : ours.token.unwrap(...args)) })
      expect(await once.send('encrypt', 'one', asked, { credential })).toMatchObject({ status: 200 })
    }
  })

  test('that hangs is DependencyTimeoutException at the deadline; beyond so many calls none is sent to it, and when it answers all is well', async () => {
    const release: (() => void)[] = []
    let asked = 0
    let hangs = false
    const { send, proxy } = on({
      async wrap(...args) {
        asked += 1
        if (hangs) await new Promise<void>((resolve) => release.push(resolve))
        return ours.token.wrap(...args)
      },
    })
    // From here on none waits for a secret or the database.
    expect(await send('encrypt', 'one', encryptBody(), { credential })).toMatchObject({ status: 200 })
    asked = 0
    hangs = true
    const hang = () => send('encrypt', 'one', encryptBody(), { credential, deadlineMs: 30 })
    const answers = await Promise.all(Array.from({ length: 64 }, hang))
    expect(new Set(answers.map(({ errorName }) => errorName))).toEqual(new Set(['DependencyTimeoutException']))
    expect(await hang()).toMatchObject({ status: 503, errorName: 'DependencyTimeoutException' })
    expect(asked).toBe(64)
    for (const each of release) each()
    await proxy.close()
    const again = send('encrypt', 'one', encryptBody(), { credential })
    await vi.waitFor(() => expect(release).toHaveLength(65))
    release[64]?.()
    expect(await again).toMatchObject({ status: 200 })
  })

  test('is waited for by a proxy that is closed, even for what was given up', async () => {
    let release: (() => void) | undefined
    const held = new Promise<void>((resolve) => (release = resolve))
    const wrap = vi.fn<Token['wrap']>((...args) => ours.token.wrap(...args))
    const { send, proxy } = on({ wrap })
    expect(await send('encrypt', 'one', encryptBody(), { credential })).toMatchObject({ status: 200 })
    wrap.mockImplementation((...args) => held.then(() => ours.token.wrap(...args)))
    expect(await send('encrypt', 'one', encryptBody(), { credential, deadlineMs: 20 })).toMatchObject({ status: 503 })
    expect(wrap).toHaveBeenCalledTimes(2)
    let closed = false
    const closing = proxy.close().then(() => (closed = true))
    await new Promise((resolve) => setImmediate(resolve))
    expect(closed).toBe(false)
    release?.()
    expect(await closing).toBe(true)
  })

  test('is not asked when there is no time left', async () => {
    const wrap = vi.fn<Token['wrap']>((...args) => ours.token.wrap(...args))
    const { send } = on({ wrap })
    const ask = (deadlineMs: number) => send('encrypt', 'one', encryptBody(), { credential, deadlineMs })
    // The secret of the credential is open then.
    expect(await ask(10_000)).toMatchObject({ status: 200 })
    expect(await ask(5)).toMatchObject({ status: 429, errorName: 'ThrottlingException' })
    expect(wrap).toHaveBeenCalledTimes(1)
  })

  test('that hangs, or has lost the service’s key, when a secret is to be opened is not taken for a bad signature', async () => {
    const opening = (unwrap: Token['unwrap']) =>
      openXks({
        ...ours,
        service: { ...ours.service, metrics: quiet, token: Object.assign(Object.create(ours.token) as Token, { unwrap }) },
      })
    let release: (() => void) | undefined
    const held = new Promise<void>((resolve) => (release = resolve))
    const hanging = opening((...args) => held.then(() => ours.token.unwrap(...args)))
    expect(await hanging.send('encrypt', 'one', encryptBody(), { credential, deadlineMs: 20 })).toMatchObject({
      status: 503,
      errorName: 'DependencyTimeoutException',
    })
    release?.()
    const lost = opening(failing('missing'))
    expect(await lost.send('encrypt', 'one', encryptBody(), { credential })).toMatchObject({ status: 500, errorName: 'InternalException' })
  })

  test('what has happened to the store while a secret was being opened counts: it is off, the credential is gone, or the store itself', async () => {
    const first = await makeStore(ours, '/meanwhile')
    const second = (await own<ConsoleFile>('AddXksCredential', { UriPathPrefix: '/meanwhile' })).XksProxyAuthenticationCredential
    await show('one', keyArn, '/meanwhile')
    const asked = async (as: StoreCredential, change: () => Promise<unknown>): Promise<Answered> => {
      let [begin, release] = [(): void => undefined, (): void => undefined]
      const begun = new Promise<void>((resolve) => (begin = resolve))
      const held = new Promise<void>((resolve) => (release = resolve))
      const unwrap: Token['unwrap'] = (...args) => {
        begin()
        return held.then(() => ours.token.unwrap(...args))
      }
      const token = Object.assign(Object.create(ours.token) as Token, { unwrap })
      const proxy = openXks({ ...ours, service: { ...ours.service, metrics: quiet, token } })
      const answer = proxy.send('encrypt', 'one', encryptBody(), { credential: as, prefix: '/meanwhile' })
      await begun
      await change()
      release()
      return answer
    }
    const named = { UriPathPrefix: '/meanwhile' }
    const removed = await asked(second, () => own('RemoveXksCredential', { ...named, AccessKeyId: second.AccessKeyId }))
    expect(removed.errorName).toBe('AuthenticationFailedException')
    expect((await asked(first, () => own('UpdateXksStore', { ...named, RequestRate: 7 }))).status).toBe(200)
    expect((await asked(first, () => own('DisableXksStore', named))).errorName).toBe('InvalidStateException')
    expect((await asked(first, () => own('DeleteXksStore', named))).errorName).toBe('InvalidUriPathException')
  })

  test('what is asked for the secret of a credential is asked once for all who wait for it', async () => {
    const fresh = await makeStore(ours, '/fresh')
    await show('one', keyArn, '/fresh')
    const unwrap = vi.spyOn(ours.service.token, 'unwrap')
    const serviceKey = await ours.service.serviceKey.find(0)
    const answers = await Promise.all(Array.from({ length: 8 }, () => encrypt({}, { credential: fresh, prefix: '/fresh' })))
    expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 8 }, () => 200))
    expect(unwrap.mock.calls.filter(([ckaId]) => ckaId === serviceKey?.ckaId)).toHaveLength(1)
    await own('UpdateXksStore', { UriPathPrefix: '/fresh', RequestRate: 7 })
    await encrypt({}, { credential: fresh, prefix: '/fresh' })
    expect(unwrap.mock.calls.filter(([ckaId]) => ckaId === serviceKey?.ckaId)).toHaveLength(1)
    unwrap.mockRestore()
  })
})

describe('the command line', () => {
  const said: { out: string; err: string } = { out: '', err: '' }
  const run = async (words: string, input = ''): Promise<{ readonly code: number; readonly out: string; readonly err: string }> => {
    Object.assign(said, { out: '', err: '' })
    const wiring = {
      print: async (text: string) => void (said.out += text),
      printError: async (text: string) => void (said.err += text),
      readInput: async () => input,
      nowMs: () => ours.clock.now(),
      clientSettings: () => ({
        endpoint: ours.endpoint,
        region: ours.region,
        credentials: ours.credentials,
        credentialsFile: '',
        profile: '',
        trust: undefined,
      }),
    } as unknown as Wiring
    return { code: await runCommandLine(words.split(' '), wiring), ...said }
  }
  const done = async (words: string, input?: string): Promise<string> => {
    const { code, out, err } = await run(words, input)
    if (code !== 0) throw new Error(`${words}: ${err}`)
    return out
  }

  test('makes a store, shows it a key, adds and removes credentials, switches it off and on: AWS KMS sees each of it', async () => {
    const first = JSON.parse(await done(`xks store create --prefix cli --region ${aws} --rate 500`)) as ConsoleFile
    expect(first).toMatchObject({
      XksProxyUriPath: '/cli/kms/xks/v1',
      XksProxyAuthenticationCredential: { AccessKeyId: expect.any(String) },
    })
    await done(`xks store keys add by.hand ${keyArn} --prefix /cli`)
    const encryptWith = ({ XksProxyAuthenticationCredential: each }: ConsoleFile) =>
      xks.send('encrypt', 'by.hand', encryptBody(), { credential: each, prefix: '/cli' })
    expect(await encryptWith(first)).toMatchObject({ status: 200 })
    const second = JSON.parse(await done('xks store credentials add --prefix /cli/')) as ConsoleFile
    expect(await encryptWith(second)).toMatchObject({ status: 200 })
    await done(`xks store credentials remove ${first.XksProxyAuthenticationCredential.AccessKeyId} --prefix /cli`)
    expect(await encryptWith(first)).toMatchObject({ status: 401 })
    await done('xks store disable --prefix /cli')
    expect(await encryptWith(second)).toMatchObject({ errorName: 'InvalidStateException' })
    expect(await done('xks store list')).toMatch(
      new RegExp(`/cli +/cli/kms/xks/v1 +Disabled +500 .*${aws} +${second.XksProxyAuthenticationCredential.AccessKeyId}`),
    )
    await done('xks store enable --prefix /cli')
    expect(await encryptWith(second)).toMatchObject({ status: 200 })
    expect(await done('xks store keys list --prefix /cli')).toMatch(/by\.hand +arn:aws:kms:.* +Enabled/)
    await done('xks store policy put --prefix /cli --document -', '{"Statement":[{"Sid":"None","Effect":"Deny","Principal":"*"}]}')
    expect(await encryptWith(second)).toMatchObject({ errorName: 'AccessDeniedException' })
    expect(await done('xks store policy get --prefix /cli')).toMatch(/ENFORCE/)
    await done('xks store policy delete --prefix /cli')
    await done(`xks store update --prefix /cli --region us-west-2 --region ${aws}`)
    expect(await encryptWith(second)).toMatchObject({ status: 200 })
    await done('xks store keys remove by.hand --prefix /cli')
    expect(await encryptWith(second)).toMatchObject({ errorName: 'KeyNotFoundException' })
    await done('xks store disable --prefix /cli')
    await done('xks store delete --prefix /cli')
    expect(xks.proxy.has('/cli')).toBe(false)
  })

  test('a credential of one’s own comes by a file or standard input; as an argument it is taken with a warning that does not say it again', async () => {
    const secretOf = (letter: string): string => letter.repeat(43)
    const id = 'C'.repeat(20)
    const argument = await run(`xks store create --prefix /own --credential ${id}:${secretOf('a')}`)
    expect(argument).toMatchObject({ code: 0, err: expect.stringContaining('other users of this machine can see') })
    expect(argument.err).not.toContain(secretOf('a'))
    expect(JSON.parse(argument.out)).toMatchObject({
      XksProxyAuthenticationCredential: { AccessKeyId: id, RawSecretAccessKey: secretOf('a') },
    })
    const byInput = await run('xks store credentials add --prefix /own --credential -', `${'D'.repeat(20)}:${secretOf('b')}\n`)
    expect(byInput).toMatchObject({ code: 0, err: '' })
    const file = join(ours.dir, 'console.json')
    expect(await run(`xks store credentials add --prefix /own --output ${file}`)).toMatchObject({ code: 0, out: '' })
    expect(statSync(file).mode & 0o777).toBe(0o600)
    const kept = JSON.parse(readFileSync(file, 'utf8')) as ConsoleFile
    // The file that one store was given is one that another takes.
    expect(JSON.parse(await done(`xks store create --prefix /own2 --credential ${file}`))).toMatchObject({
      XksProxyUriPath: '/own2/kms/xks/v1',
      XksProxyAuthenticationCredential: kept.XksProxyAuthenticationCredential,
    })
    expect(await run(`xks store credentials add --prefix /own --output ${file}`)).toMatchObject({
      code: 2,
      err: expect.stringMatching(/--output names .*EEXIST/),
    })
    expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual(kept)
    const lost = join(ours.dir, 'lost.json')
    expect(await run(`xks store credentials add --prefix /nobody --output ${lost}`)).toMatchObject({
      code: 1,
      err: expect.stringMatching(/NotFoundException/),
    })
    expect(existsSync(lost)).toBe(false)
    for (const wrong of [`${id}:short`, '/does/not/exist']) {
      const refused = await run(`xks store create --prefix /wrong --credential ${wrong}`)
      expect(refused).toMatchObject({ code: 2, err: expect.stringContaining('--credential is no file that can be read') })
      expect(refused.err).not.toContain('short')
    }
    expect(await run('xks store create --prefix /wrong --credential -', 'nonsense')).toMatchObject({ code: 2 })
  })

  test.each([
    ['xks', /needs one of: .*store create/],
    ['xks store', /holdfast xks store needs one of: create, /],
    ['xks store keys', /holdfast xks store keys needs one of: add, remove, list\./],
    ['xks store keys ad x', /Did you mean xks store keys add\?/],
    ['xks store disable', /needs --prefix PREFIX/],
  ])('%s is a usage error that says how to go on', async (words, message) => {
    expect(await run(words)).toMatchObject({ code: 2, err: expect.stringMatching(message) })
  })
})
