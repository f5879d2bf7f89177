/** Custom key stores and the keys in them: another token, and an external key manager behind an XKS proxy. */
import { readFileSync, readdirSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  CancelKeyDeletionCommand,
  ConnectCustomKeyStoreCommand,
  CreateCustomKeyStoreCommand,
  CreateKeyCommand,
  DecryptCommand,
  DeleteCustomKeyStoreCommand,
  DescribeCustomKeyStoresCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  DisconnectCustomKeyStoreCommand,
  EnableKeyCommand,
  EnableKeyRotationCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GenerateDataKeyPairCommand,
  GenerateDataKeyPairWithoutPlaintextCommand,
  GenerateRandomCommand,
  GetParametersForImportCommand,
  ReEncryptCommand,
  RotateKeyOnDemandCommand,
  ScheduleKeyDeletionCommand,
  UpdateCustomKeyStoreCommand,
  type CreateCustomKeyStoreCommandInput,
  type CustomKeyStoresListEntry,
} from '@aws-sdk/client-kms'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { integrityValue } from '../../../src/xks/protocol.ts'
import { newCredential, newExternalKey, startXksProxy, type Fault } from '../../xks-proxy.ts'
import { makeUser } from '../holdfast.ts'
import { makeSoftHsmToken } from '../lab.ts'
import { openLab } from '../open.ts'
import { describeOurs, expectRefusal, given, refusalOf, useContract, type TestKey } from './kit.ts'

const region = 'us-east-1'
const deadlineMs = 800
const clusterId = 'cluster-keystoretoken'
const absentToken = 'cluster-nosuchtoken'
const lab = await makeSoftHsmToken({ label: 'key-store' })
const password = readFileSync(lab.pinFile, 'utf8')
const proxy = await startXksProxy({ region, alsoNamed: ['second.xks.test'] })
const stranger = await startXksProxy({ region, hostName: 'stranger.xks.test' })
afterAll(() => Promise.all([lab.remove(), proxy.close(), stranger.close()]))

/** Clients keep the port over a restart. */
const port = await new Promise<number>((resolve) => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address() as AddressInfo
    server.close(() => resolve(port))
  })
})
const at = (port: number): string => `127.0.0.1:${port}`
const contract = useContract({
  env: {
    HOLDFAST_REGIONS: region,
    HOLDFAST_PORT: String(port),
    // Where the library of the second token finds it; that of the home token is told its own.
    ...lab.env,
    HOLDFAST_KEY_STORE_TOKENS: JSON.stringify({
      [clusterId]: { library: lab.library, tokenLabel: lab.label, sessions: 1 },
      [absentToken]: { library: lab.library, tokenLabel: 'not-there', sessions: 1 },
    }),
    HOLDFAST_XKS_CA: proxy.caFile,
    HOLDFAST_XKS_DEADLINE_MS: String(deadlineMs),
    HOLDFAST_XKS_CONNECT_TO: [
      `${proxy.hostName}=${at(proxy.port)}`,
      `second.xks.test=${at(proxy.port)}`,
      // The certificate is for another name.
      `misnamed.xks.test=${at(proxy.port)}`,
      // Of an authority that nobody trusts.
      `${stranger.hostName}=${at(stranger.port)}`,
      'nobody.xks.test=127.0.0.1:1',
    ].join(','),
  },
})

let names = 0
const freshName = (): string => `key store ${++names}`
const cloudHsm = (more: Partial<CreateCustomKeyStoreCommandInput> = {}): CreateCustomKeyStoreCommandInput => ({
  CustomKeyStoreName: freshName(),
  CloudHsmClusterId: clusterId,
  KeyStorePassword: password,
  TrustAnchorCertificate: 'a certificate',
  ...more,
})
const external = (more: Partial<CreateCustomKeyStoreCommandInput> = {}): CreateCustomKeyStoreCommandInput => ({
  CustomKeyStoreName: freshName(),
  CustomKeyStoreType: 'EXTERNAL_KEY_STORE',
  XksProxyConnectivity: 'PUBLIC_ENDPOINT',
  XksProxyUriEndpoint: `https://${proxy.hostName}`,
  XksProxyUriPath: proxy.path,
  XksProxyAuthenticationCredential: proxy.credential,
  ...more,
})

const create = async (input: CreateCustomKeyStoreCommandInput): Promise<string> =>
  given((await contract.kms.send(new CreateCustomKeyStoreCommand(input))).CustomKeyStoreId)
const entry = async (id: string): Promise<CustomKeyStoresListEntry> =>
  given((await contract.kms.send(new DescribeCustomKeyStoresCommand({ CustomKeyStoreId: id }))).CustomKeyStores?.[0])
/** Connects, and waits for what comes of it. */
const connect = async (id: string): Promise<CustomKeyStoresListEntry> => {
  await contract.kms.send(new ConnectCustomKeyStoreCommand({ CustomKeyStoreId: id }))
  for (;;) {
    const now = await entry(id)
    if (now.ConnectionState !== 'CONNECTING') return now
    await sleep(20)
  }
}
const connected = async (id: string): Promise<void> => {
  const { ConnectionState, ConnectionErrorCode } = await connect(id)
  if (ConnectionState !== 'CONNECTED') throw new Error(`${id} is ${ConnectionState} (${ConnectionErrorCode})`)
}
const disconnect = (id: string) => contract.kms.send(new DisconnectCustomKeyStoreCommand({ CustomKeyStoreId: id }))
const remove = (id: string) => contract.kms.send(new DeleteCustomKeyStoreCommand({ CustomKeyStoreId: id }))
const encrypt = async (key: TestKey, text: string, context?: Record<string, string>): Promise<Uint8Array> =>
  given(
    (await contract.kms.send(new EncryptCommand({ KeyId: key.Arn, Plaintext: Buffer.from(text), EncryptionContext: context })))
      .CiphertextBlob,
  )
const decrypt = async (blob: Uint8Array, context?: Record<string, string>): Promise<string> => {
  const { Plaintext } = await contract.kms.send(new DecryptCommand({ CiphertextBlob: blob, EncryptionContext: context }))
  return Buffer.from(given(Plaintext)).toString()
}
/** Data key pairs are not made under keys of custom key stores. */
const expectNoPairs = async ({ KeyId, Arn, Origin }: TestKey): Promise<void> => {
  const input = { KeyId, KeyPairSpec: 'ECC_NIST_P256' } as const
  const message = `${Arn} origin is ${Origin} which is not valid for this operation.`
  await expectRefusal(contract.kms.send(new GenerateDataKeyPairCommand(input)), 'UnsupportedOperationException', message)
  await expectRefusal(contract.kms.send(new GenerateDataKeyPairWithoutPlaintextCommand(input)), 'UnsupportedOperationException', message)
}
const stateOf = async (key: TestKey) => (await contract.kms.send(new DescribeKeyCommand({ KeyId: key.KeyId }))).KeyMetadata?.KeyState

describeOurs('CreateCustomKeyStore and DescribeCustomKeyStores', () => {
  test.each([
    ['no cluster', { CloudHsmClusterId: undefined }, 'CloudHsmClusterId is required'],
    ['no password', { KeyStorePassword: undefined }, 'KeyStorePassword is required'],
    ['no trust anchor', { TrustAnchorCertificate: undefined }, 'TrustAnchorCertificate is required'],
    ['a member of the other type', { XksProxyUriPath: '/kms/xks/v1' }, 'XksProxyUriPath is not valid'],
  ])('a key store of type AWS_CLOUDHSM with %s is refused', async (_what, change, message) => {
    await expectRefusal(create(cloudHsm(change)), 'ValidationException', new RegExp(message))
  })

  test.each([
    ['no endpoint', { XksProxyUriEndpoint: undefined }, 'XksProxyUriEndpoint is required'],
    ['no path', { XksProxyUriPath: undefined }, 'XksProxyUriPath is required'],
    ['no credential', { XksProxyAuthenticationCredential: undefined }, 'XksProxyAuthenticationCredential is required'],
    ['no connectivity', { XksProxyConnectivity: undefined }, 'XksProxyConnectivity is required'],
    ['a member of the other type', { KeyStorePassword: 'password' }, 'KeyStorePassword is not valid'],
    ['a VPC and no name of its service', { XksProxyConnectivity: 'VPC_ENDPOINT_SERVICE' }, 'XksProxyVpcEndpointServiceName is required'],
    ['a service and no VPC', { XksProxyVpcEndpointServiceName: 'com.amazonaws.vpce.us-east-1.vpce-svc-1' }, 'is valid only when'],
  ] as const)('one of type EXTERNAL_KEY_STORE with %s is refused', async (_what, change, message) => {
    await expectRefusal(create(external(change)), 'ValidationException', new RegExp(message))
  })

  test('a cluster that is not configured is not found', async () => {
    const unknown = 'cluster-unknownunknown'
    await expectRefusal(
      create(cloudHsm({ CloudHsmClusterId: unknown })),
      'CloudHsmClusterNotFoundException',
      `The CloudHSM cluster with ID ${unknown} was not found.`,
    )
  })

  test('a proxy is asked for its health first, and what is wrong with it is told', async () => {
    const cases: readonly [CreateCustomKeyStoreCommandInput, string, RegExp][] = [
      [
        external({ XksProxyAuthenticationCredential: newCredential() }),
        'XksProxyIncorrectAuthenticationCredentialException',
        /could not authenticate AWS KMS/,
      ],
      [external({ XksProxyUriPath: '/elsewhere/kms/xks/v1' }), 'XksProxyInvalidConfigurationException', /invalid URI path/],
      [external({ XksProxyUriPath: '/kms/xks/v2' }), 'XksProxyInvalidConfigurationException', /version/],
      [external({ XksProxyUriEndpoint: 'https://127.0.0.1' }), 'XksProxyInvalidConfigurationException', /DNS name/],
      [external({ XksProxyUriEndpoint: 'https://nobody.xks.test' }), 'XksProxyUriUnreachableException', /cannot communicate/],
      [external({ XksProxyUriEndpoint: 'https://misnamed.xks.test' }), 'XksProxyInvalidConfigurationException', /TLS connection/],
      [
        external({ XksProxyUriEndpoint: `https://${stranger.hostName}`, XksProxyAuthenticationCredential: stranger.credential }),
        'XksProxyInvalidConfigurationException',
        /TLS connection/,
      ],
    ]
    for (const [input, name, message] of cases) await expectRefusal(create(input), name, message)
    expect(stranger.seen).toEqual([])
    proxy.healthStatus = 'UNAVAILABLE'
    await expectRefusal(create(external()), 'XksProxyUriUnreachableException', /in an unhealthy state/)
    proxy.healthStatus = 'DEGRADED'
    const id = await create(external())
    proxy.healthStatus = 'ACTIVE'
    expect(proxy.seen.at(-1)?.body).toEqual({
      requestMetadata: { kmsRequestId: expect.any(String), kmsOperation: 'CreateCustomKeyStore' },
    })
    await remove(id)
  })

  test('shows what it was given but the secrets, by id, by name, and in pages', async () => {
    const names = { token: freshName(), external: freshName() }
    const token = await create(cloudHsm({ CustomKeyStoreName: names.token }))
    const outside = await create(external({ CustomKeyStoreName: names.external }))
    for (const id of [token, outside]) expect(id).toMatch(/^cks-[0-9a-f]{17}$/)
    expect(await entry(token)).toEqual({
      CustomKeyStoreId: token,
      CustomKeyStoreName: names.token,
      CustomKeyStoreType: 'AWS_CLOUDHSM',
      CloudHsmClusterId: clusterId,
      TrustAnchorCertificate: 'a certificate',
      ConnectionState: 'DISCONNECTED',
      CreationDate: expect.any(Date),
    })
    const byName = await contract.kms.send(new DescribeCustomKeyStoresCommand({ CustomKeyStoreName: names.external }))
    expect(byName.CustomKeyStores).toEqual([
      {
        CustomKeyStoreId: outside,
        CustomKeyStoreName: names.external,
        CustomKeyStoreType: 'EXTERNAL_KEY_STORE',
        ConnectionState: 'DISCONNECTED',
        CreationDate: expect.any(Date),
        XksProxyConfiguration: {
          Connectivity: 'PUBLIC_ENDPOINT',
          AccessKeyId: proxy.credential.AccessKeyId,
          UriEndpoint: `https://${proxy.hostName}`,
          UriPath: proxy.path,
        },
      },
    ])
    const first = await contract.kms.send(new DescribeCustomKeyStoresCommand({ Limit: 1 }))
    const second = await contract.kms.send(new DescribeCustomKeyStoresCommand({ Limit: 1, Marker: first.NextMarker }))
    const seen = [first, second].map(({ CustomKeyStores, Truncated }) => [CustomKeyStores?.[0]?.CustomKeyStoreId, Truncated])
    expect(seen).toEqual([token, outside].sort().map((id, index) => [id, index === 0]))

    // What no two of them may have in common.
    await expectRefusal(create(cloudHsm()), 'CloudHsmClusterInUseException', /already associated/)
    await expectRefusal(create(cloudHsm({ CustomKeyStoreName: names.external })), 'CustomKeyStoreNameInUseException', /already in use/)
    await expectRefusal(create(external()), 'XksProxyUriInUseException', /already associated with another external key store/)
    const viaVpc = {
      XksProxyConnectivity: 'VPC_ENDPOINT_SERVICE',
      XksProxyVpcEndpointServiceName: 'com.amazonaws.vpce.us-east-1.vpce-svc-1',
    } as const
    await expectRefusal(create(external(viaVpc)), 'XksProxyUriEndpointInUseException', /already associated/)
    const vpc = await create(external({ ...viaVpc, XksProxyUriEndpoint: 'https://nobody.xks.test' }))
    expect((await entry(vpc)).XksProxyConfiguration).toMatchObject({
      Connectivity: 'VPC_ENDPOINT_SERVICE',
      VpcEndpointServiceName: 'com.amazonaws.vpce.us-east-1.vpce-svc-1',
      VpcEndpointServiceOwner: contract.accountId,
    })
    await expectRefusal(
      create(external({ ...viaVpc, XksProxyUriEndpoint: 'https://third.xks.test' })),
      'XksProxyVpcEndpointServiceInUseException',
      /already associated/,
    )
    for (const id of [token, outside, vpc]) await remove(id)
  })

  test('goes from a public endpoint to a VPC endpoint service and back, each time with an endpoint and what belongs to it', async () => {
    const id = await create(external())
    const change = (more: object) => contract.kms.send(new UpdateCustomKeyStoreCommand({ CustomKeyStoreId: id, ...more }))
    const configuration = async () => (await entry(id)).XksProxyConfiguration
    const service = { XksProxyVpcEndpointServiceName: 'com.amazonaws.vpce.us-east-1.vpce-svc-2' }
    const [publicly, privately] = [`https://${proxy.hostName}`, 'https://nobody.xks.test']
    const viaVpc = { XksProxyConnectivity: 'VPC_ENDPOINT_SERVICE', ...service }
    await expectRefusal(change(viaVpc), 'ValidationException', /^XksProxyUriEndpoint is required when XksProxyConnectivity changes/)
    await expectRefusal(
      change({ XksProxyConnectivity: 'VPC_ENDPOINT_SERVICE', XksProxyUriEndpoint: privately }),
      'ValidationException',
      /^XksProxyVpcEndpointServiceName is required/,
    )
    await change({ ...viaVpc, XksProxyUriEndpoint: privately })
    expect(await configuration()).toMatchObject({
      Connectivity: 'VPC_ENDPOINT_SERVICE',
      UriEndpoint: privately,
      VpcEndpointServiceOwner: contract.accountId,
    })
    await change({ XksProxyVpcEndpointServiceOwner: '999999999999' })
    await change({ XksProxyUriPath: '/prefix/kms/xks/v1' })
    expect(await configuration()).toMatchObject({ VpcEndpointServiceOwner: '999999999999', UriPath: '/prefix/kms/xks/v1' })
    await expectRefusal(change({ XksProxyConnectivity: 'PUBLIC_ENDPOINT' }), 'ValidationException', /^XksProxyUriEndpoint is required/)
    await change({ XksProxyConnectivity: 'PUBLIC_ENDPOINT', XksProxyUriEndpoint: publicly, XksProxyUriPath: proxy.path })
    expect(await configuration()).toEqual({
      Connectivity: 'PUBLIC_ENDPOINT',
      AccessKeyId: proxy.credential.AccessKeyId,
      UriEndpoint: publicly,
      UriPath: proxy.path,
    })
    await remove(id)
  })

  test('what is not there is not found, whatever is to be done with it, and in another account neither', async () => {
    const CustomKeyStoreId = 'cks-00000000000000000'
    for (const command of [
      new DescribeCustomKeyStoresCommand({ CustomKeyStoreId }),
      new ConnectCustomKeyStoreCommand({ CustomKeyStoreId }),
      new DisconnectCustomKeyStoreCommand({ CustomKeyStoreId }),
      new DeleteCustomKeyStoreCommand({ CustomKeyStoreId }),
      new UpdateCustomKeyStoreCommand({ CustomKeyStoreId, NewCustomKeyStoreName: 'another' }),
      new CreateKeyCommand({ CustomKeyStoreId, Origin: 'AWS_CLOUDHSM' }),
    ]) {
      await expectRefusal(contract.kms.send(command as ConnectCustomKeyStoreCommand), 'CustomKeyStoreNotFoundException', /was not found/)
    }
    await expectRefusal(
      contract.kms.send(new DescribeCustomKeyStoresCommand({ CustomKeyStoreName: 'nobody' })),
      'CustomKeyStoreNotFoundException',
      /was not found/,
    )
    await expectRefusal(
      contract.kms.send(new DescribeCustomKeyStoresCommand({ CustomKeyStoreName: 'nobody', CustomKeyStoreId })),
      'ValidationException',
      /not both/,
    )
  })

  test('an account has ten of them in a region', async () => {
    const vpc = (index: number) =>
      create(
        external({
          XksProxyConnectivity: 'VPC_ENDPOINT_SERVICE',
          XksProxyVpcEndpointServiceName: `com.amazonaws.vpce.us-east-1.vpce-svc-q${index}`,
          XksProxyUriEndpoint: `https://quota${index}.xks.test`,
        }),
      )
    const outcomes = await Promise.allSettled(Array.from({ length: 12 }, (_, index) => vpc(index)))
    const made = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []))
    const refused = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [(outcome.reason as Error).name] : []))
    expect([made.length, refused]).toEqual([10, ['LimitExceededException', 'LimitExceededException']])
    for (const id of made) await remove(id)
  })

  test('a user needs a policy that allows it for *', async () => {
    const user = await makeUser(contract.ours, 'key-store-reader', {
      own: { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: 'kms:DescribeCustomKeyStores', Resource: '*' }] },
    })
    const kms = contract.client({ credentials: user })
    expect((await kms.send(new DescribeCustomKeyStoresCommand({}))).CustomKeyStores).toEqual([])
    await expectRefusal(kms.send(new CreateCustomKeyStoreCommand(cloudHsm())), 'AccessDeniedException', /kms:CreateCustomKeyStore/)
  })
})

/** A login to a token takes seconds, so these tests follow one key store through its life. */
describeOurs('a key store that is another token', () => {
  let id = ''
  let key: TestKey
  let doomed: TestKey
  let blob: Uint8Array
  const inside = () => ({ CustomKeyStoreId: id, Origin: 'AWS_CLOUDHSM' }) as const
  const update = (more: object) => contract.kms.send(new UpdateCustomKeyStoreCommand({ CustomKeyStoreId: id, ...more }))

  beforeAll(async () => {
    id = await create(cloudHsm())
    await expectRefusal(contract.key(inside()), 'CustomKeyStoreInvalidStateException', /connection state is DISCONNECTED/)
    await connected(id)
    key = await contract.key(inside())
    doomed = await contract.key(inside())
  })

  test('keeps the material of its keys in that token', async () => {
    expect(key).toMatchObject({ Origin: 'AWS_CLOUDHSM', CustomKeyStoreId: id, CloudHsmClusterId: clusterId, KeyState: 'Enabled' })
    expect(key).not.toHaveProperty('CurrentKeyMaterialId')
    const token = await openLab(lab, { sessions: 1 })
    const labels = (await token.allObjects()).map(({ label }) => label)
    await token.close()
    expect(labels).toContain(`kms/${key.KeyId.replaceAll('-', '')}/1`)
  })

  test('encrypts and decrypts as any other', async () => {
    blob = await encrypt(key, 'kept elsewhere', { a: 'b' })
    expect(await decrypt(blob, { a: 'b' })).toBe('kept elsewhere')
    expect((await refusalOf(decrypt(blob))).name).toBe('InvalidCiphertextException')
    const { Plaintext, CiphertextBlob } = await contract.kms.send(new GenerateDataKeyCommand({ KeyId: key.KeyId, KeySpec: 'AES_256' }))
    const opened = await contract.kms.send(new DecryptCommand({ CiphertextBlob }))
    expect(opened.Plaintext).toEqual(Plaintext)
    const random = await contract.kms.send(new GenerateRandomCommand({ NumberOfBytes: 24, CustomKeyStoreId: id }))
    expect(random.Plaintext).toHaveLength(24)
    await expectNoPairs(key)
  })

  test('has symmetric encryption keys of one region only, and none of them rotates or is imported', async () => {
    const refused: readonly [Promise<unknown>, string][] = [
      [contract.key({ ...inside(), KeySpec: 'RSA_2048', KeyUsage: 'SIGN_VERIFY' }), 'UnsupportedOperationException'],
      [contract.key({ ...inside(), KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' }), 'UnsupportedOperationException'],
      [contract.key({ ...inside(), MultiRegion: true }), 'UnsupportedOperationException'],
      [contract.key({ ...inside(), XksKeyId: 'x' }), 'ValidationException'],
      [contract.key({ Origin: 'AWS_CLOUDHSM' }), 'ValidationException'],
      [contract.key({ CustomKeyStoreId: id }), 'ValidationException'],
      [contract.key({ CustomKeyStoreId: id, Origin: 'EXTERNAL' }), 'ValidationException'],
      [contract.key({ CustomKeyStoreId: id, Origin: 'EXTERNAL_KEY_STORE', XksKeyId: 'x' }), 'ValidationException'],
      [contract.kms.send(new EnableKeyRotationCommand({ KeyId: key.KeyId })), 'UnsupportedOperationException'],
      [contract.kms.send(new RotateKeyOnDemandCommand({ KeyId: key.KeyId })), 'UnsupportedOperationException'],
      [
        contract.kms.send(
          new GetParametersForImportCommand({ KeyId: key.KeyId, WrappingAlgorithm: 'RSAES_OAEP_SHA_256', WrappingKeySpec: 'RSA_2048' }),
        ),
        'UnsupportedOperationException',
      ],
    ]
    expect(await Promise.all(refused.map(async ([call]) => (await refusalOf(call)).name))).toEqual(refused.map(([, name]) => name))
  })

  test('connected, may be renamed and nothing else, and not deleted; connecting it again changes nothing', async () => {
    const NewCustomKeyStoreName = freshName()
    await update({ NewCustomKeyStoreName })
    await contract.kms.send(new ConnectCustomKeyStoreCommand({ CustomKeyStoreId: id }))
    expect(await entry(id)).toMatchObject({ CustomKeyStoreName: NewCustomKeyStoreName, ConnectionState: 'CONNECTED' })
    const message = /cannot be updated while its connection state is CONNECTED/
    await expectRefusal(update({ KeyStorePassword: 'another one' }), 'CustomKeyStoreInvalidStateException', message)
    await expectRefusal(update({}), 'ValidationException', /at least one/)
    await expectRefusal(update({ XksProxyUriPath: '/kms/xks/v1' }), 'ValidationException', /not valid/)
    await expectRefusal(remove(id), 'CustomKeyStoreInvalidStateException', /cannot be deleted while its connection state is CONNECTED/)
  })

  test('disconnected, makes its keys unavailable, but for those whose deletion is scheduled, and is kept for their sake', async () => {
    await contract.kms.send(new ScheduleKeyDeletionCommand({ KeyId: doomed.KeyId, PendingWindowInDays: 7 }))
    await disconnect(id)
    await expectRefusal(disconnect(id), 'CustomKeyStoreInvalidStateException', /connection state is DISCONNECTED/)
    expect([await stateOf(key), await stateOf(doomed)]).toEqual(['Unavailable', 'PendingDeletion'])
    await expectRefusal(encrypt(key, 'now'), 'KMSInvalidStateException', `${key.Arn} is unavailable.`)
    await expectRefusal(contract.key(inside()), 'CustomKeyStoreInvalidStateException', /connection state is DISCONNECTED/)
    const random = new GenerateRandomCommand({ NumberOfBytes: 1, CustomKeyStoreId: id })
    await expectRefusal(contract.kms.send(random), 'CustomKeyStoreInvalidStateException', /connection state is DISCONNECTED/)
    await contract.kms.send(new DisableKeyCommand({ KeyId: key.KeyId }))
    await contract.kms.send(new CancelKeyDeletionCommand({ KeyId: doomed.KeyId }))
    expect([await stateOf(key), await stateOf(doomed)]).toEqual(['Unavailable', 'Unavailable'])
    await expectRefusal(remove(id), 'CustomKeyStoreHasCMKsException', /contains KMS keys/)
  })

  /** The log comes over a pipe: what was written before is here a little later, and then nothing comes. */
  const loggedSoFar = async (): Promise<void> => {
    const { ours } = contract
    for (let seen = -1; seen !== ours.log().length; await sleep(500)) seen = ours.log().length
  }

  test('does not try a password again that the token refused, until it is changed', async () => {
    const tries = (): number => contract.ours.log().split('the token refused the PIN').length - 1
    await update({ KeyStorePassword: 'wrong password' })
    expect(await connect(id)).toMatchObject({ ConnectionState: 'FAILED', ConnectionErrorCode: 'INVALID_CREDENTIALS' })
    await vi.waitFor(() => expect(tries()).toBeGreaterThan(0), { timeout: 30_000 })
    await loggedSoFar()
    const once = tries()
    expect(await stateOf(key)).toBe('Unavailable')
    await expectRefusal(
      contract.kms.send(new ConnectCustomKeyStoreCommand({ CustomKeyStoreId: id })),
      'CustomKeyStoreInvalidStateException',
      /cannot be connected while its connection state is FAILED/,
    )
    for (let again = 0; again < 2; again++) {
      await disconnect(id)
      await update({ CloudHsmClusterId: clusterId })
      expect(await connect(id)).toMatchObject({ ConnectionState: 'FAILED', ConnectionErrorCode: 'INVALID_CREDENTIALS' })
    }
    await loggedSoFar()
    expect(tries()).toBe(once)
    await disconnect(id)
    await update({ KeyStorePassword: password })
  })

  test('connected again, also over a restart, gives its keys back as they were or were changed meanwhile', async () => {
    expect((await connect(id)).ConnectionState).toBe('CONNECTED')
    expect([await stateOf(key), await stateOf(doomed)]).toEqual(['Disabled', 'Disabled'])
    await contract.kms.send(new EnableKeyCommand({ KeyId: key.KeyId }))
    expect(await decrypt(blob, { a: 'b' })).toBe('kept elsewhere')
    await contract.ours.restart()
    expect((await entry(id)).ConnectionState).toBe('CONNECTED')
    expect(await decrypt(blob, { a: 'b' })).toBe('kept elsewhere')
  })
})

describeOurs('a key store behind an XKS proxy', () => {
  const path = proxy.path
  let id = ''
  let key: TestKey
  const inside = (XksKeyId: string) => ({ CustomKeyStoreId: id, Origin: 'EXTERNAL_KEY_STORE', XksKeyId }) as const
  beforeAll(async () => {
    proxy.keys.set('main', newExternalKey())
    id = await create(external())
    const message = /^This KMS key is in a custom key store that is not connected to its external key store proxy\./
    await expectRefusal(contract.key(inside('main')), 'CustomKeyStoreInvalidStateException', message)
    await connected(id)
    key = await contract.key(inside('main'))
  })

  test('takes an external key that is there, fits, and is no other KMS key’s', async () => {
    expect(key).toMatchObject({
      Origin: 'EXTERNAL_KEY_STORE',
      CustomKeyStoreId: id,
      XksKeyConfiguration: { Id: 'main' },
      KeyState: 'Enabled',
    })
    const look = proxy.seen.find(({ path: at }) => at === `${path}/keys/main/metadata`)
    expect(look?.body).toEqual({
      requestMetadata: {
        awsPrincipalArn: `arn:aws:iam::${contract.accountId}:root`,
        kmsOperation: 'CreateKey',
        kmsRequestId: expect.any(String),
      },
    })
    proxy.keys.set('short', newExternalKey({ keySpec: 'AES_128' }))
    proxy.keys.set('off', newExternalKey({ keyStatus: 'DISABLED' }))
    proxy.keys.set('half', newExternalKey({ keyUsage: ['ENCRYPT', 'WRAP'] }))
    const cases = [
      ['main', 'XksKeyAlreadyInUseException', /already associated with another KMS key/],
      [
        'absent',
        'XksKeyNotFoundException',
        'The external key store proxy rejected the request because it could not find the external key.',
      ],
      [
        'short',
        'XksKeyInvalidConfigurationException',
        'The key spec of the external key must be AES_256. The key spec of specified external key is AES_128.',
      ],
      [
        'off',
        'XksKeyInvalidConfigurationException',
        'The status of the external key must be ENABLED. The status of specified external key is DISABLED.',
      ],
      [
        'half',
        'XksKeyInvalidConfigurationException',
        'The key usage of the external key must include ENCRYPT and DECRYPT. The key use of specified external key is ENCRYPT, WRAP.',
      ],
    ] as const
    for (const [xksKeyId, name, message] of cases) await expectRefusal(contract.key(inside(xksKeyId)), name, message)
    await expectRefusal(contract.key({ CustomKeyStoreId: id, Origin: 'EXTERNAL_KEY_STORE' }), 'ValidationException', /XksKeyId/)
    proxy.keys.set('raced', newExternalKey())
    const raced = await Promise.allSettled([contract.key(inside('raced')), contract.key(inside('raced'))])
    expect(raced.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
    expect(raced.flatMap((one) => (one.status === 'rejected' ? [(one.reason as Error).name] : []))).toEqual(['XksKeyAlreadyInUseException'])
  })

  test('encrypts twice: the proxy gets what our token made, with the context to authenticate, and never the plaintext', async () => {
    proxy.seen.length = 0
    const blob = await encrypt(key, 'a secret', { tenant: 'blue' })
    const [request] = proxy.seen
    expect(proxy.seen).toHaveLength(1)
    expect(request?.path).toBe(`${path}/keys/main/encrypt`)
    expect(request?.body).toEqual({
      requestMetadata: {
        awsPrincipalArn: `arn:aws:iam::${contract.accountId}:root`,
        kmsKeyArn: key.Arn,
        kmsOperation: 'Encrypt',
        kmsRequestId: expect.any(String),
      },
      plaintext: expect.any(String),
      encryptionAlgorithm: 'AES_GCM',
      additionalAuthenticatedData: Buffer.from('\0\0\0\x06tenant\0\0\0\x04blue').toString('base64'),
      ciphertextDataIntegrityValueAlgorithm: 'SHA_256',
    })
    expect(Buffer.from(String(request?.body['plaintext']), 'base64').includes('a secret')).toBe(false)
    expect(await decrypt(blob, { tenant: 'blue' })).toBe('a secret')
    expect(proxy.seen[1]?.body['requestMetadata']).toMatchObject({ kmsOperation: 'Decrypt', kmsKeyArn: key.Arn })
    // The format, as docs/ciphertext-blob.md has it.
    expect([...blob.subarray(0, 3)]).toEqual([0x48, 2, 1])
    expect([...blob.subarray(60, 65)]).toEqual([3, ...Buffer.from('v=1'), 12])
  })

  test('takes the longest plaintext and context, data keys, and moves what it has to another key and back', async () => {
    const context = { k: 'x'.repeat(8192 - 9) }
    const longest = 'p'.repeat(4096)
    expect(await decrypt(await encrypt(key, longest, context), context)).toBe(longest)
    const { Plaintext, CiphertextBlob } = await contract.kms.send(new GenerateDataKeyCommand({ KeyId: key.KeyId, KeySpec: 'AES_256' }))
    const opened = await contract.kms.send(new DecryptCommand({ CiphertextBlob }))
    expect(opened.Plaintext).toEqual(Plaintext)
    const other = await contract.key()
    const there = await contract.kms.send(new ReEncryptCommand({ CiphertextBlob, DestinationKeyId: other.KeyId }))
    const back = await contract.kms.send(new ReEncryptCommand({ CiphertextBlob: there.CiphertextBlob, DestinationKeyId: key.KeyId }))
    expect((await contract.kms.send(new DecryptCommand({ CiphertextBlob: back.CiphertextBlob }))).Plaintext).toEqual(Plaintext)
    await expectNoPairs(key)
  })

  test('a changed blob and another context are refused as AWS does, wherever it is noticed', async () => {
    const blob = Buffer.from(await encrypt(key, 'whole', { a: 'b' }))
    const rejected = /^The external key store proxy rejected the request because the specified ciphertext or additional authenticated data/
    await expectRefusal(decrypt(blob, { a: 'c' }), 'KMSInvalidStateException', rejected)
    await expectRefusal(decrypt(blob), 'KMSInvalidStateException', rejected)
    const changedAt = (index: number): Buffer => Buffer.from(blob.map((byte, position) => (position === index ? byte ^ 1 : byte)))
    for (const index of [61, 66, 80, 100, blob.length - 1])
      await expectRefusal(decrypt(changedAt(index), { a: 'b' }), 'KMSInvalidStateException', rejected)
    for (const broken of [changedAt(1), changedAt(5), changedAt(60), blob.subarray(0, 90)]) {
      expect((await refusalOf(decrypt(broken, { a: 'b' }))).name).toBe('InvalidCiphertextException')
    }
    // The body of another KMS key's ciphertext, of an external key of its own.
    proxy.keys.set('other', newExternalKey())
    const other = Buffer.from(await encrypt(await contract.key(inside('other')), 'other', { a: 'b' }))
    await expectRefusal(
      decrypt(Buffer.concat([blob.subarray(0, 60), other.subarray(60)]), { a: 'b' }),
      'KMSInvalidStateException',
      rejected,
    )
  })

  const answer = (status: number, errorName: string): Fault => ({
    kind: 'answer',
    status,
    body: JSON.stringify({ errorName, errorMessage: 'told' }),
  })
  const change = (changes: Readonly<Record<string, unknown>>): Fault => ({ kind: 'change', change: (right) => ({ ...right, ...changes }) })
  const uninterpretable = /^AWS KMS cannot interpret the response from the external key store proxy\./

  test.each<readonly [string, Fault, RegExp]>([
    ['ValidationException', answer(400, 'ValidationException'), uninterpretable],
    ['InvalidStateException', answer(400, 'InvalidStateException'), /the external key is not enabled in the external key manager\.$/],
    ['InvalidKeyUsageException', answer(400, 'InvalidKeyUsageException'), /does not support the requested operation\.$/],
    ['AuthenticationFailedException', answer(401, 'AuthenticationFailedException'), /could not authenticate AWS KMS/],
    ['AccessDeniedException', answer(403, 'AccessDeniedException'), /denied access to the operation/],
    ['KeyNotFoundException', answer(404, 'KeyNotFoundException'), /could not find the external key\.$/],
    ['InvalidUriPathException', answer(404, 'InvalidUriPathException'), /because of an invalid URI path/],
    ['ThrottlingException', answer(429, 'ThrottlingException'), /due to a very high request rate/],
    ['InternalException', answer(500, 'InternalException'), /cannot communicate with the external key manager/],
    [
      'UnsupportedOperationException',
      answer(501, 'UnsupportedOperationException'),
      /does not support the requested cryptographic operation\.$/,
    ],
    ['DependencyTimeoutException', answer(503, 'DependencyTimeoutException'), /did not respond to the request in the time allotted/],
    ['an error that the protocol does not have', answer(400, 'OutOfPaperException'), uninterpretable],
    ['an error that is no JSON', { kind: 'answer', status: 502, body: '<html>Bad Gateway</html>' }, uninterpretable],
    ['an answer that is no JSON', { kind: 'answer', status: 200, body: '{' }, uninterpretable],
    ['an answer that is no object', { kind: 'answer', status: 200, body: '[]' }, uninterpretable],
    ['an answer without end', { kind: 'answer', status: 200, body: ' '.repeat(70_000) }, uninterpretable],
    ['no ciphertext', change({ ciphertext: undefined }), uninterpretable],
    ['a ciphertext of another length', change({ ciphertext: 'AAAA' }), uninterpretable],
    ['a ciphertext that is no base64', change({ ciphertext: '!' }), uninterpretable],
    ['an IV of 13 bytes', change({ initializationVector: Buffer.alloc(13).toString('base64') }), uninterpretable],
    ['a tag of 12 bytes', change({ authenticationTag: Buffer.alloc(12).toString('base64') }), uninterpretable],
    ['metadata of 21 bytes', change({ ciphertextMetadata: Buffer.alloc(21).toString('base64') }), uninterpretable],
    ['no integrity value', change({ ciphertextDataIntegrityValue: undefined }), uninterpretable],
    [
      'an integrity value of something else',
      change({ ciphertextDataIntegrityValue: Buffer.alloc(32).toString('base64') }),
      uninterpretable,
    ],
    ['a tag that was changed on the way', change({ authenticationTag: Buffer.alloc(16).toString('base64') }), uninterpretable],
  ])(
    'Encrypt answers KMSInvalidStateException and AWS’s words when the proxy answers %s, and does not ask again',
    async (_what, fault, message) => {
      proxy.seen.length = 0
      proxy.faults.push(fault)
      await expectRefusal(encrypt(key, 'x'), 'KMSInvalidStateException', message)
      expect(proxy.seen).toHaveLength(1)
      expect(proxy.faults).toEqual([])
    },
  )

  test('a proxy that makes another ciphertext of ours is found out, even with an integrity value that fits', async () => {
    const forged = (right: Readonly<Record<string, unknown>>) => {
      const part = (name: string) => Buffer.from(String(right[name]), 'base64')
      const outer = {
        ciphertext: Buffer.alloc(part('ciphertext').length),
        initializationVector: part('initializationVector'),
        authenticationTag: part('authenticationTag'),
        ciphertextMetadata: part('ciphertextMetadata'),
      }
      const value = integrityValue(outer, Buffer.alloc(0)).toString('base64')
      return { ...right, ciphertext: outer.ciphertext.toString('base64'), ciphertextDataIntegrityValue: value }
    }
    proxy.faults.push({ kind: 'change', change: forged })
    const blob = await encrypt(key, 'forged')
    await expectRefusal(decrypt(blob), 'KMSInvalidStateException', /^The external key store proxy rejected the request/)
    const right = await encrypt(key, 'right')
    proxy.faults.push({
      kind: 'change',
      change: ({ plaintext }) => ({ plaintext: Buffer.alloc(Buffer.from(String(plaintext), 'base64').length).toString('base64') }),
    })
    await expectRefusal(
      decrypt(right),
      'KMSInvalidStateException',
      'The ciphertext that the external key store proxy submitted for decryption, or the encryption context, is corrupted, missing, or otherwise invalid.',
    )
    expect(await decrypt(right)).toBe('right')
  })

  test('a call that the network let down is tried once more, and not a third time', async () => {
    proxy.seen.length = 0
    proxy.faults.push({ kind: 'reset' })
    expect(await decrypt(await encrypt(key, 'again'))).toBe('again')
    expect(proxy.seen).toHaveLength(3)
    proxy.faults.push({ kind: 'reset' }, { kind: 'reset' })
    await expectRefusal(encrypt(key, 'x'), 'KMSInvalidStateException', /^AWS KMS cannot communicate with the external key store proxy\./)
    expect(proxy.seen).toHaveLength(5)
    const slow = { kind: 'slow', ms: deadlineMs * 2 } as const
    proxy.faults.push(slow)
    expect(await encrypt(key, 'slow once')).toBeDefined()
    proxy.faults.push(slow, slow)
    await expectRefusal(
      encrypt(key, 'x'),
      'KMSInvalidStateException',
      /^AWS KMS rejected the request because the external key store proxy did not respond in time\./,
    )
    expect(proxy.seen).toHaveLength(9)
  })

  test('path, credential and name change while it is connected, once the proxy agrees; the endpoint does not', async () => {
    const next = newCredential()
    const update = (more: object) => contract.kms.send(new UpdateCustomKeyStoreCommand({ CustomKeyStoreId: id, ...more }))
    await expectRefusal(
      update({ XksProxyAuthenticationCredential: next }),
      'XksProxyIncorrectAuthenticationCredentialException',
      /could not authenticate AWS KMS/,
    )
    expect(await decrypt(await encrypt(key, 'still'))).toBe('still')
    proxy.moreCredentials.push(next)
    await update({ XksProxyAuthenticationCredential: next })
    expect((await entry(id)).XksProxyConfiguration?.AccessKeyId).toBe(next.AccessKeyId)
    await encrypt(key, 'x')
    expect(proxy.seen.at(-1)?.authorization).toContain(next.AccessKeyId)
    await expectRefusal(update({ XksProxyUriPath: '/wrong/kms/xks/v1' }), 'XksProxyInvalidConfigurationException', /invalid URI path/)
    const elsewhere = { XksProxyUriEndpoint: 'https://second.xks.test' }
    await expectRefusal(
      update(elsewhere),
      'CustomKeyStoreInvalidStateException',
      /cannot be updated while its connection state is CONNECTED/,
    )
    await disconnect(id)
    await update(elsewhere)
    expect((await connect(id)).ConnectionState).toBe('CONNECTED')
    expect(await decrypt(await encrypt(key, 'there'))).toBe('there')
    await disconnect(id)
    await update({ XksProxyUriEndpoint: `https://${proxy.hostName}`, XksProxyAuthenticationCredential: proxy.credential })
    await connect(id)
  })

  test.each<readonly [string, () => void, string]>([
    ['refuses the credential', () => proxy.faults.push(answer(401, 'AuthenticationFailedException')), 'INVALID_CREDENTIALS'],
    ['denies access', () => proxy.faults.push(answer(403, 'AccessDeniedException')), 'XKS_PROXY_ACCESS_DENIED'],
    ['knows no such path', () => proxy.faults.push(answer(404, 'InvalidUriPathException')), 'XKS_PROXY_INVALID_CONFIGURATION'],
    ['makes no sense', () => proxy.faults.push({ kind: 'answer', status: 200, body: '{}' }), 'XKS_PROXY_INVALID_RESPONSE'],
    ['lists no key manager', () => proxy.faults.push(change({ ekmFleetDetails: [] })), 'XKS_PROXY_INVALID_RESPONSE'],
    ['has a fleet of none', () => proxy.faults.push(change({ xksProxyFleetSize: 0 })), 'XKS_PROXY_INVALID_RESPONSE'],
    ['has no key manager that works', () => void (proxy.healthStatus = 'UNAVAILABLE'), 'XKS_PROXY_NOT_REACHABLE'],
    ['breaks off', () => proxy.faults.push({ kind: 'reset' }, { kind: 'reset' }), 'XKS_PROXY_NOT_REACHABLE'],
    [
      'does not answer',
      () => proxy.faults.push({ kind: 'slow', ms: 2 * deadlineMs }, { kind: 'slow', ms: 2 * deadlineMs }),
      'XKS_PROXY_TIMED_OUT',
    ],
  ])('when the proxy %s connecting fails, and says why', async (_what, arrange, code) => {
    await disconnect(id)
    arrange()
    expect(await connect(id)).toMatchObject({ ConnectionState: 'FAILED', ConnectionErrorCode: code })
    proxy.healthStatus = 'ACTIVE'
    await disconnect(id)
    const connected = await connect(id)
    expect(connected.ConnectionState).toBe('CONNECTED')
    expect(connected).not.toHaveProperty('ConnectionErrorCode')
  })

  test('nothing is asked of the proxy while it is not connected', async () => {
    const blob = await encrypt(key, 'x')
    await disconnect(id)
    proxy.seen.length = 0
    const message =
      'This KMS key is in a custom key store that is not connected to its external key store proxy. Connect the external key store and try the request again.'
    await expectRefusal(encrypt(key, 'x'), 'KMSInvalidStateException', message)
    await expectRefusal(decrypt(blob), 'KMSInvalidStateException', message)
    expect(await stateOf(key)).toBe('Unavailable')
    expect(proxy.seen).toEqual([])
    await connect(id)
    expect(await decrypt(blob)).toBe('x')
  })

  test('its keys do not rotate, and are scheduled for deletion without a word to the proxy', async () => {
    for (const command of [new EnableKeyRotationCommand({ KeyId: key.KeyId }), new RotateKeyOnDemandCommand({ KeyId: key.KeyId })]) {
      expect((await refusalOf(contract.kms.send(command))).name).toBe('UnsupportedOperationException')
    }
    const random = contract.kms.send(new GenerateRandomCommand({ NumberOfBytes: 1, CustomKeyStoreId: id }))
    expect((await refusalOf(random)).name).toBe('UnsupportedOperationException')
    proxy.seen.length = 0
    await contract.kms.send(new ScheduleKeyDeletionCommand({ KeyId: key.KeyId, PendingWindowInDays: 7 }))
    expect(await stateOf(key)).toBe('PendingDeletion')
    expect(proxy.seen).toEqual([])
  })
})

describeOurs('what is secret', () => {
  test('is in no log, no trail and no database', async () => {
    const { ours } = contract
    await ours.stop()
    const files = readdirSync(ours.dir, { recursive: true, encoding: 'utf8' }).filter((file) => /\.db|\.json|credentials/.test(file))
    expect(files).toEqual(expect.arrayContaining(['holdfast.db', 'audit.db']))
    const written = Buffer.concat([...files.map((file) => readFileSync(join(ours.dir, file))), Buffer.from(ours.log())])
    const secrets = [password, proxy.credential.RawSecretAccessKey, 'wrong password', 'another one', 'a secret']
    expect(secrets.filter((secret) => written.includes(secret))).toEqual([])
    // The trail has the calls themselves, the trust anchor aside.
    const trail = readFileSync(join(ours.dir, 'audit.db'))
    expect([trail.includes('CreateCustomKeyStore'), trail.includes('xksKeyId'), trail.includes('a certificate')]).toEqual([
      true,
      true,
      false,
    ])
  })
})
