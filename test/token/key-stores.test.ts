/** Custom key stores over time and over deaths: what the jobs do with them, and what a process that died left. */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { CreateCustomKeyStoreCommand, CreateKeyCommand, KMSClient, ScheduleKeyDeletionCommand, type OriginType } from '@aws-sdk/client-kms'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { openToken } from '../../src/hsm/client.ts'
import type { Token } from '../../src/hsm/token.ts'
import { sealSecret } from '../../src/kms/key-store-secrets.ts'
import type { KeyStoreRecord } from '../../src/store/store.ts'
import { openXksClient } from '../../src/xks/client.ts'
import { silentLog } from '../../src/base/log.ts'
import { newExternalKey, startXksProxy, type XksProxy } from '../xks-proxy.ts'
import { cleanEnvironment } from './environment.ts'
import { openInProcess, type InProcess } from './holdfast.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'

const clusterId = 'cluster-thefirsttoken'
const otherClusterId = 'cluster-anothertoken'
const dayMs = 86_400_000
/** Rounds of the jobs in other tests, which move the clock by days, ask no proxy by the way: what they count would not be theirs. */
const healthIntervalMs = 100 * dayMs

let ours: InProcess
/** Signs by the service's clock. A client for each call: it would set its own clock by the Date of the answers, which is the machine's. */
const kms = {
  send: ((command: CreateKeyCommand) => {
    const { endpoint, region, credentials, clock } = ours
    return new KMSClient({ endpoint, region, credentials, maxAttempts: 1, systemClockOffset: clock.now() - Date.now() }).send(command)
  }) as KMSClient['send'],
}
let lab: LabToken
let other: LabToken
let proxy: XksProxy
/** What was opened for key stores, in order. */
const tokens: Token[] = []

const opener = (of: LabToken) => async (pin: string) => {
  const { library, label, env } = of
  const token = await openToken(
    { library, tokenLabel: label, pin, sessions: 1, env: { ...cleanEnvironment(), ...env }, provision: true },
    { log: silentLog },
  )
  tokens.push(token)
  return token
}

beforeAll(async () => {
  ;[lab, other, proxy] = await Promise.all([
    makeSoftHsmToken({ label: 'first' }),
    makeSoftHsmToken({ label: 'another' }),
    startXksProxy({ region: 'us-east-1' }),
  ])
  ours = await openInProcess({
    keyStoreRooms: ({ clock }) => ({
      keyStoreTokens: new Map([
        [clusterId, opener(lab)],
        [otherClusterId, opener(other)],
      ]),
      xks: openXksClient({
        caFile: proxy.caFile,
        connectTo: new Map([[proxy.hostName, { host: '127.0.0.1', port: proxy.port }]]),
        // The machine may be busy; no proxy hangs here.
        deadlineMs: 20_000,
        clock,
      }),
      healthIntervalMs,
    }),
  })
})
afterAll(async () => {
  await ours?.close()
  await Promise.all([lab?.remove(), other?.remove(), proxy?.close()])
})

const record = (id: string): KeyStoreRecord => {
  const found = ours.store.view.keyStore(id)
  if (!found) throw new Error(`no key store ${id}`)
  return found
}
async function connected(id: string): Promise<KeyStoreRecord> {
  await ours.service.keyStores.connect(id, 'a test')
  while (record(id).state === 'CONNECTING') await sleep(10)
  return record(id)
}
async function keyIn(id: string, Origin: OriginType, XksKeyId?: string): Promise<string> {
  const { KeyMetadata } = await kms.send(new CreateKeyCommand({ CustomKeyStoreId: id, Origin, XksKeyId }))
  return KeyMetadata?.Arn ?? ''
}
async function doom(arn: string): Promise<void> {
  await kms.send(new ScheduleKeyDeletionCommand({ KeyId: arn, PendingWindowInDays: 7 }))
}
async function afterTheWait(): Promise<void> {
  ours.clock.advance(8 * dayMs)
  await ours.service.runLifecycle()
}
const lastEvent = async (name: string) => {
  const { accountId, region } = ours
  const { events } = await ours.service.trail.lookup({ accountId, region, attribute: { name: 'EventName', value: name }, limit: 1 })
  return events[0]?.record
}

let id = ''

test('a key in a token goes from it when it is due; while the key store is not connected it is forgotten, and the trail names what is left', async () => {
  const { CustomKeyStoreId = '' } = await kms.send(
    new CreateCustomKeyStoreCommand({
      CustomKeyStoreName: 'a token',
      CloudHsmClusterId: clusterId,
      KeyStorePassword: readFileSync(lab.pinFile, 'utf8'),
      TrustAnchorCertificate: 'none',
    }),
  )
  id = CustomKeyStoreId
  expect(await connected(id)).toMatchObject({ state: 'CONNECTED', holder: null })
  const [kept, first, second] = [await keyIn(id, 'AWS_CLOUDHSM'), await keyIn(id, 'AWS_CLOUDHSM'), await keyIn(id, 'AWS_CLOUDHSM')]
  const labelOf = (arn: string): string => ours.store.view.backingKeys(arn)[0]?.label ?? 'none'
  const [keptLabel, firstLabel, secondLabel] = [kept, first, second].map(labelOf)
  const shown = async (): Promise<readonly string[]> => ((await tokens[0]?.allObjects()) ?? []).map(({ label }) => label)

  await doom(first)
  await afterTheWait()
  expect(ours.store.view.key(first)).toBeUndefined()
  expect(await shown()).toEqual(expect.arrayContaining([keptLabel, secondLabel]))
  expect(await shown()).not.toContain(firstLabel)

  await doom(second)
  await ours.service.keyStores.disconnect(id)
  await afterTheWait()
  expect(ours.store.view.key(second)).toBeUndefined()
  expect(await lastEvent('DeleteKey')).toMatchObject({
    additionalEventData: { customKeyStoreId: id, backingKeysNotDestroyed: [{ ckaId: expect.any(String), label: secondLabel }] },
  })
  expect(ours.store.view.key(kept)?.state).toBe('Enabled')
})

test.each([
  ['a process that died', () => 'a process that is no more'],
  ['this one, whose store failed it,', () => ours.service.instance.id],
])('what %s left connecting has failed, and what it left disconnecting is disconnected', async (_who, holder) => {
  const left = (state: KeyStoreRecord['state']) => ours.store.updateKeyStore(id, () => ({ state, holder: holder(), connection: 'its own' }))
  await left('CONNECTING')
  const before = tokens.length
  await ours.service.runLifecycle()
  expect(record(id)).toMatchObject({ state: 'FAILED', errorCode: 'INTERNAL_ERROR', holder: null })
  await ours.service.keyStores.disconnect(id)
  await left('DISCONNECTING')
  await ours.service.runLifecycle()
  expect(record(id)).toMatchObject({ state: 'DISCONNECTED', holder: null, connection: null })
  // Nobody knows whether that token refused the password: it was not asked.
  expect(tokens.length).toBe(before)
})

test('a process logs in to what another one has connected, and out of what that one has disconnected', async () => {
  await ours.store.updateKeyStore(id, () => ({ state: 'CONNECTED', connection: 'by another process' }))
  expect(ours.service.keyStores.isOpen(id)).toBe(false)
  await ours.service.runLifecycle()
  while (!ours.service.keyStores.isOpen(id)) await sleep(10)
  const token = ours.service.keyStores.tokenOf(id)
  await token.check()
  await ours.store.updateKeyStore(id, () => ({ state: 'DISCONNECTED', connection: null }))
  expect(() => ours.service.keyStores.tokenOf(id)).toThrow('not connected')
  await ours.service.runLifecycle()
  await expect(token.check()).rejects.toThrow(/closed/)
})

test('a token that has none of the keys is not taken for the one that they were made in', async () => {
  const wrong = readFileSync(other.pinFile, 'utf8')
  const sealed = { right: record(id).sealedSecret, wrong: await sealSecret(ours.service, id, wrong) }
  const at = (clusterId: string, sealedSecret: Uint8Array) =>
    ours.store.updateKeyStore(id, ({ backing }) => ({ backing: { ...backing, clusterId } as KeyStoreRecord['backing'], sealedSecret }))
  await at(otherClusterId, sealed.wrong)
  expect(await connected(id)).toMatchObject({ state: 'FAILED', errorCode: 'CLUSTER_NOT_FOUND' })
  await ours.service.keyStores.disconnect(id)
  await at(clusterId, sealed.right)
})

test('a key with an external key takes with it, when it is due, what it had in our token, and asks the proxy for nothing', async () => {
  proxy.keys.set('outside', newExternalKey())
  const { CustomKeyStoreId = '' } = await kms.send(
    new CreateCustomKeyStoreCommand({
      CustomKeyStoreName: 'outside',
      CustomKeyStoreType: 'EXTERNAL_KEY_STORE',
      XksProxyConnectivity: 'VPC_ENDPOINT_SERVICE',
      XksProxyVpcEndpointServiceName: 'com.amazonaws.vpce.us-east-1.vpce-svc-1',
      XksProxyUriEndpoint: `https://${proxy.hostName}`,
      XksProxyUriPath: proxy.path,
      XksProxyAuthenticationCredential: proxy.credential,
    }),
  )
  // Signed by a clock that was moved: the proxy refuses it, as it should.
  expect(await connected(CustomKeyStoreId)).toMatchObject({ state: 'FAILED', errorCode: 'INVALID_CREDENTIALS' })
  await ours.service.keyStores.disconnect(CustomKeyStoreId)
  proxy.clockOffsetMs = ours.clock.now() - Date.now()
  expect((await connected(CustomKeyStoreId)).state).toBe('CONNECTED')
  const arn = await keyIn(CustomKeyStoreId, 'EXTERNAL_KEY_STORE', 'outside')
  const { ckaId = '' } = ours.store.view.backingKeys(arn)[0] ?? {}
  expect(await ours.token.objects(ckaId)).not.toEqual([])
  await doom(arn)
  await ours.service.keyStores.disconnect(CustomKeyStoreId)
  proxy.seen.length = 0
  await afterTheWait()
  expect(ours.store.view.key(arn)).toBeUndefined()
  expect(await ours.token.objects(ckaId)).toEqual([])
  expect(proxy.seen).toEqual([])
  // The external key is free for another KMS key again.
  expect(ours.store.view.keyByExternalKey(CustomKeyStoreId, 'outside')).toBeUndefined()
})

test('a connected proxy is asked for its health when that is due, and what it says changes nothing but what is shown', async () => {
  proxy.clockOffsetMs = ours.clock.now() - Date.now()
  proxy.seen.length = 0
  const id = [...ours.store.view.allKeyStores()].find(({ name }) => name === 'outside')?.id ?? ''
  const { keyStores } = ours.service
  const look = async (): Promise<void> => {
    const before = proxy.seen.length
    ours.clock.advance(healthIntervalMs)
    proxy.clockOffsetMs = ours.clock.now() - Date.now()
    await ours.service.runLifecycle()
    while (proxy.seen.length === before) await sleep(10)
  }
  await connected(id)
  proxy.seen.length = 0
  await ours.service.runLifecycle()
  expect([proxy.seen, keyStores.health()]).toEqual([[], []])

  const found = (health: unknown) => vi.waitFor(() => expect(keyStores.health()).toEqual(health), { timeout: 30_000 })
  const shown = (isServing: boolean, managers: Readonly<Record<string, number>> | undefined) => [
    { keyStore: { id, accountId: ours.accountId, region: ours.region }, isServing, managers },
  ]
  await look()
  await found(shown(true, { ACTIVE: 1, DEGRADED: 0, UNAVAILABLE: 0 }))
  expect(proxy.seen).toEqual([
    expect.objectContaining({
      path: `${proxy.path}/health`,
      body: { requestMetadata: { kmsRequestId: expect.any(String), kmsOperation: 'KmsHealthCheck' } },
    }),
  ])
  proxy.healthStatus = 'UNAVAILABLE'
  await look()
  await found(shown(false, { ACTIVE: 0, DEGRADED: 0, UNAVAILABLE: 1 }))
  proxy.faults.push({ kind: 'answer', status: 500, body: '{"errorName":"InternalException"}' })
  await look()
  await found(shown(false, undefined))
  expect(record(id).state).toBe('CONNECTED')
  proxy.healthStatus = 'DEGRADED'
  await look()
  await found(shown(true, { ACTIVE: 0, DEGRADED: 1, UNAVAILABLE: 0 }))
  await keyStores.disconnect(id)
  expect(keyStores.health()).toEqual([])
})
