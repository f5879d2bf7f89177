/**
 * Holdfast as its own external key store: the EXTERNAL_KEY_STORE custom key store of one service is a store of the XKS proxy of another, which runs
 * as two processes on one data directory. Everything goes the whole way, from @aws-sdk/client-kms through TLS to the other service's token.
 */
import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  ConnectCustomKeyStoreCommand,
  CreateCustomKeyStoreCommand,
  CreateKeyCommand,
  DecryptCommand,
  DescribeCustomKeyStoresCommand,
  DisableKeyCommand,
  EnableKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  KMSClient,
  ReEncryptCommand,
  RotateKeyOnDemandCommand,
  UpdateCustomKeyStoreCommand,
} from '@aws-sdk/client-kms'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { signRequest } from '../../src/auth/sigv4.ts'
import { makeAuthority, type Authority, type Issued } from '../certificates.ts'
import { askHttp2 } from '../http-client.ts'
import { builtProgram } from '../programs.ts'
import { cleanEnvironment } from './environment.ts'
import { administer, rawCall, startHoldfast, type Holdfast } from './holdfast.ts'
import type { ConsoleFile } from './xks-kit.ts'

const region = 'us-east-1'
const hostName = 'proxy.xks.test'
const prefix = '/first'
/** Long, since the machine may be busy. */
const deadlineMs = '5000'

let authority: Authority
let certificate: Issued
/** The two processes in front of one token, and where their proxies answer. */
let owner: Holdfast
let second: Holdfast
let xksUrls: readonly string[]
/** The service whose keys are at the owner's. */
let user: Holdfast
let ownersKms: KMSClient
let kms: KMSClient
let file: ConsoleFile
let ownersKey = ''
let storeId = ''
let keyId = ''

const xksUrlOf = ({ dir }: Holdfast): string =>
  (JSON.parse(readFileSync(join(dir, 'endpoint.json'), 'utf8')) as { readonly xksUrl: string }).xksUrl
const portOf = (url: string): string => new URL(url).port

beforeAll(async () => {
  authority = makeAuthority()
  certificate = authority.issue(hostName, [hostName])
  const env = {
    HOLDFAST_XKS_PROXY_PORT: '0',
    HOLDFAST_XKS_PROXY_TLS_CERT: certificate.certFile,
    HOLDFAST_XKS_PROXY_TLS_KEY: certificate.keyFile,
    HOLDFAST_XKS_PROXY_DEADLINE_MS: deadlineMs,
    HOLDFAST_LOG_LEVEL: 'warn',
  }
  owner = await startHoldfast({ env })
  const firstUrl = xksUrlOf(owner)
  second = await startHoldfast({ env, dir: owner.dir })
  xksUrls = [firstUrl, xksUrlOf(second)]
  file = await administer<ConsoleFile>(owner, 'CreateXksStore', { UriPathPrefix: prefix, Regions: [region] })
  ownersKms = new KMSClient({ endpoint: owner.endpoint, region, credentials: owner.credentials, maxAttempts: 1 })
  ownersKey = (await ownersKms.send(new CreateKeyCommand({}))).KeyMetadata?.Arn ?? ''
  await administer(owner, 'AddXksKey', { UriPathPrefix: prefix, ExternalKeyId: 'the-key', KeyId: ownersKey })
  user = await startHoldfast({
    env: {
      HOLDFAST_XKS_CA: authority.caFile,
      HOLDFAST_XKS_CONNECT_TO: `${hostName}=127.0.0.1:${portOf(firstUrl)}`,
      HOLDFAST_XKS_DEADLINE_MS: deadlineMs,
      HOLDFAST_XKS_HEALTH_INTERVAL_MS: '1000',
      HOLDFAST_LIFECYCLE_INTERVAL_MS: '1000',
      HOLDFAST_LOG_LEVEL: 'warn',
    },
  })
  kms = new KMSClient({ endpoint: user.endpoint, region, credentials: user.credentials, maxAttempts: 1 })
})
afterAll(async () => {
  kms?.destroy()
  ownersKms?.destroy()
  await user?.remove()
  await second?.stop()
  await owner?.remove()
  authority?.remove()
})

const encrypt = async (text: string, context?: Record<string, string>): Promise<Uint8Array> => {
  const { CiphertextBlob } = await kms.send(new EncryptCommand({ KeyId: keyId, Plaintext: Buffer.from(text), EncryptionContext: context }))
  return CiphertextBlob ?? new Uint8Array()
}
const decrypt = async (blob: Uint8Array, context?: Record<string, string>): Promise<string> => {
  const { Plaintext } = await kms.send(new DecryptCommand({ CiphertextBlob: blob, EncryptionContext: context }))
  return Buffer.from(Plaintext ?? []).toString()
}
const refusalOf = (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => 'done',
    (error: Error) => `${error.name}: ${error.message}`,
  )

test('a custom key store is made of the file for the console, and connects', async () => {
  const { CustomKeyStoreId } = await kms.send(
    new CreateCustomKeyStoreCommand({
      CustomKeyStoreName: 'at the owner’s',
      CustomKeyStoreType: 'EXTERNAL_KEY_STORE',
      XksProxyConnectivity: 'PUBLIC_ENDPOINT',
      XksProxyUriEndpoint: `https://${hostName}`,
      ...file,
    }),
  )
  storeId = CustomKeyStoreId ?? ''
  await kms.send(new ConnectCustomKeyStoreCommand({ CustomKeyStoreId: storeId }))
  const state = async () => (await kms.send(new DescribeCustomKeyStoresCommand({ CustomKeyStoreId: storeId }))).CustomKeyStores?.[0]
  await expect.poll(async () => (await state())?.ConnectionState, { timeout: 30_000 }).not.toBe('CONNECTING')
  expect(await state()).toMatchObject({ ConnectionState: 'CONNECTED' })
})

test('its keys work like any other, and what they encrypt the owner’s token has encrypted', async () => {
  const made = await kms.send(new CreateKeyCommand({ CustomKeyStoreId: storeId, Origin: 'EXTERNAL_KEY_STORE', XksKeyId: 'the-key' }))
  keyId = made.KeyMetadata?.Arn ?? ''
  expect(made.KeyMetadata).toMatchObject({ Origin: 'EXTERNAL_KEY_STORE', XksKeyConfiguration: { Id: 'the-key' }, KeyState: 'Enabled' })
  const blob = await encrypt('one', { for: 'a test' })
  expect(await decrypt(blob, { for: 'a test' })).toBe('one')
  expect(await refusalOf(decrypt(blob))).toMatch(/^KMSInvalidStateException: .*ciphertext or additional authenticated data/)
  const data = await kms.send(new GenerateDataKeyCommand({ KeyId: keyId, KeySpec: 'AES_256' }))
  expect(Buffer.from(await decryptBytes(data.CiphertextBlob))).toEqual(Buffer.from(data.Plaintext ?? []))
  const again = await kms.send(
    new ReEncryptCommand({ CiphertextBlob: blob, SourceEncryptionContext: { for: 'a test' }, DestinationKeyId: keyId }),
  )
  expect(await decrypt(again.CiphertextBlob ?? new Uint8Array())).toBe('one')
})
const decryptBytes = async (blob: Uint8Array | undefined): Promise<Uint8Array> =>
  (await kms.send(new DecryptCommand({ CiphertextBlob: blob }))).Plaintext ?? new Uint8Array()

test('every call is in the owner’s audit by the id that the user’s KMS gave it, with who asked and for which key', async () => {
  const { $metadata } = await kms.send(new EncryptCommand({ KeyId: keyId, Plaintext: Buffer.from('recorded') }))
  const { status, json } = await rawCall(owner, 'cloudtrail', 'LookupEvents', {
    LookupAttributes: [{ AttributeKey: 'EventName', AttributeValue: 'Encrypt' }],
  })
  expect(status).toBe(200)
  const records = (json['Events'] as readonly { readonly CloudTrailEvent: string }[]).map(
    ({ CloudTrailEvent }) => JSON.parse(CloudTrailEvent) as Readonly<Record<string, unknown>>,
  )
  expect(records.find(({ requestID }) => requestID === $metadata.requestId)).toMatchObject({
    eventSource: 'xks.holdfast',
    requestParameters: {
      uriPathPrefix: prefix,
      externalKeyId: 'the-key',
      requestMetadata: { kmsOperation: 'Encrypt', kmsKeyArn: keyId, awsPrincipalArn: `arn:aws:iam::${user.accountId}:root` },
    },
    resources: [{ ARN: ownersKey }],
    additionalEventData: { latencyMs: expect.any(Number) },
  })
})

test('the owner’s key rotates behind its external key id: what was encrypted before is read, by both processes', async () => {
  const before = await encrypt('before')
  await ownersKms.send(new RotateKeyOnDemandCommand({ KeyId: ownersKey }))
  const after = await encrypt('after')
  expect([await decrypt(before), await decrypt(after)]).toEqual(['before', 'after'])
})

/** Health by the second process, over HTTP/2, signed by somebody who has the credential. */
async function askSecond(): Promise<string> {
  const { AccessKeyId, RawSecretAccessKey } = file.XksProxyAuthenticationCredential
  const path = `${file.XksProxyUriPath}/health`
  const body = '{"requestMetadata":{"kmsRequestId":"r","kmsOperation":"KmsHealthCheck"}}'
  const headers = signRequest({
    method: 'POST',
    url: `https://${hostName}${path}`,
    headers: { 'content-type': 'application/json' },
    body,
    service: 'kms-xks-proxy',
    region,
    credentials: { accessKeyId: AccessKeyId, secretAccessKey: RawSecretAccessKey },
    timeMs: Date.now(),
  })
  const answer = await askHttp2({ url: xksUrls[1] ?? '', ca: authority.ca, name: hostName }, { path, headers, body })
  return answer.status === 200 ? 'done' : `${answer.status} ${(JSON.parse(answer.text) as { readonly errorName: string }).errorName}`
}

test('one command stops the store in both processes, and one starts it again', async () => {
  const blob = await encrypt('kept')
  await expect.poll(askSecond).toBe('done')
  await administer(owner, 'DisableXksStore', { UriPathPrefix: prefix })
  // Where it was said it holds at once; the other process hears of it.
  expect(await refusalOf(decrypt(blob))).toMatch(/^KMSInvalidStateException/)
  expect(await refusalOf(encrypt('no'))).toMatch(/^KMSInvalidStateException/)
  const switchedAt = performance.now()
  const allowedAt: number[] = []
  await expect
    .poll(
      async () => {
        const askedAt = performance.now()
        const answer = await askSecond()
        if (answer === 'done') allowedAt.push(askedAt - switchedAt)
        return answer
      },
      { timeout: 10_000, interval: 20 },
    )
    .toBe('400 InvalidStateException')
  // It reads along five times a second, so within a second it holds everywhere; a busy machine is given five.
  expect(Math.max(0, ...allowedAt)).toBeLessThan(5_000)
  for (let n = 0; n < 5; n++) expect(await askSecond()).toBe('400 InvalidStateException')
  await administer(second, 'EnableXksStore', { UriPathPrefix: prefix })
  expect(await askSecond()).toBe('done')
  await expect.poll(() => refusalOf(decrypt(blob)), { timeout: 10_000, interval: 20 }).toBe('done')
})

test('a key that its owner disables is of no use to its user until it is enabled', async () => {
  const blob = await encrypt('kept')
  await ownersKms.send(new DisableKeyCommand({ KeyId: ownersKey }))
  expect(await refusalOf(decrypt(blob))).toMatch(/^KMSInvalidStateException/)
  await ownersKms.send(new EnableKeyCommand({ KeyId: ownersKey }))
  expect(await decrypt(blob)).toBe('kept')
})

test('the user’s metrics show how the owner’s proxy is, and that it was switched off', async () => {
  const metrics = async () => (await fetch(`${user.opsEndpoint}/metrics`)).text()
  const of = `store="${storeId}",account="${user.accountId}",region="${region}"`
  const soon = { timeout: 30_000 }
  await expect.poll(metrics, soon).toContain(`holdfast_xks_up{${of}} 1\n`)
  expect(await metrics()).toContain(`holdfast_xks_key_managers{${of},state="UNAVAILABLE"} 0\n`)
  await administer(owner, 'DisableXksStore', { UriPathPrefix: prefix })
  await expect.poll(metrics, soon).toContain(`holdfast_xks_up{${of}} 0\n`)
  await administer(owner, 'EnableXksStore', { UriPathPrefix: prefix })
  await expect.poll(metrics, soon).toContain(`holdfast_xks_up{${of}} 1\n`)
})

test('credentials change without a pause: the new one is added, taken up, and the old one removed', async () => {
  const next = await administer<ConsoleFile>(owner, 'AddXksCredential', { UriPathPrefix: prefix })
  const { AccessKeyId } = file.XksProxyAuthenticationCredential
  await kms.send(new UpdateCustomKeyStoreCommand({ CustomKeyStoreId: storeId, ...next }))
  await administer(owner, 'RemoveXksCredential', { UriPathPrefix: prefix, AccessKeyId })
  expect(await decrypt(await encrypt('on'))).toBe('on')
  file = next
})

interface Ran {
  readonly code: number
  readonly out: string
}
/** `holdfast xks doctor` against the first process. */
function doctor(credential: ConsoleFile, more: readonly string[] = [], caFile = authority.caFile): Promise<Ran> {
  const credentialFile = join(owner.dir, 'credential.json')
  writeFileSync(credentialFile, JSON.stringify(credential), { mode: 0o600 })
  const at = ['--endpoint', `https://${hostName}`, '--connect', `127.0.0.1:${portOf(xksUrls[0] ?? '')}`, '--ca', caFile]
  const words = ['xks', 'doctor', ...at, '--credential', credentialFile, '--region', region, '--calls', '20', ...more]
  return new Promise((resolve) => {
    const env = { ...cleanEnvironment(), HOLDFAST_DATA_DIR: owner.dir }
    const child = execFile(process.execPath, [builtProgram('test/token/main-program.ts'), ...words], { env }, (_error, out, err) =>
      resolve({ code: child.exitCode ?? -1, out: out + err }),
    )
  })
}

test('the doctor holds the whole conversation and finds nothing wrong', async () => {
  const { code, out } = await doctor(file, ['--key', 'the-key', '--json'])
  const report = JSON.parse(out) as {
    readonly findings: readonly { readonly verdict: string; readonly what: string; readonly detail: string }[]
    readonly connection: unknown
    readonly latency: readonly { readonly call: string; readonly calls: number; readonly p99Ms: number }[]
  }
  // What the machine takes is not the question here.
  const wrong = report.findings.filter(({ verdict, what }) => verdict === 'wrong' && !what.includes('p99'))
  expect(wrong).toEqual([])
  expect(report.connection).toMatchObject({
    commonName: hostName,
    names: [hostName],
    alpn: 'h2',
    tlsVersion: 'TLSv1.3',
    daysLeft: expect.any(Number),
  })
  expect(report.latency.map(({ call, calls }) => [call, calls])).toEqual([
    ['health', 20],
    ['encrypt', 20],
    ['decrypt', 20],
  ])
  expect(code).toBe(report.findings.some(({ verdict }) => verdict === 'wrong') ? 1 : 0)
})

test('the doctor says what is wrong: a credential that signs no more, a key that is disabled, a certificate that nobody trusts', async () => {
  const forged = {
    ...file,
    XksProxyAuthenticationCredential: { ...file.XksProxyAuthenticationCredential, RawSecretAccessKey: 'x'.repeat(64) },
  }
  const unsigned = await doctor(forged)
  expect(unsigned.code).toBe(1)
  expect(unsigned.out).toMatch(/^WRONG {2}health for KmsHealthCheck: 401 AuthenticationFailedException/m)
  expect(unsigned.out).not.toContain(forged.XksProxyAuthenticationCredential.RawSecretAccessKey)

  await ownersKms.send(new DisableKeyCommand({ KeyId: ownersKey }))
  const disabled = await doctor(file, ['--key', 'the-key'])
  await ownersKms.send(new EnableKeyCommand({ KeyId: ownersKey }))
  expect(disabled.code).toBe(1)
  expect(disabled.out).toMatch(/^WRONG {2}the key is AES_256, ENCRYPT and DECRYPT, DISABLED/m)
  expect(disabled.out).toMatch(/^WRONG {2}encrypt of 300 bytes.*400 InvalidStateException/m)

  const other = makeAuthority('Another')
  const distrusted = await doctor(file, [], other.caFile).finally(() => other.remove())
  expect(distrusted.code).toBe(1)
  expect(distrusted.out).toMatch(/^WRONG {2}the certificate is not trusted: /m)
  // The rest is looked at all the same.
  expect(distrusted.out).toMatch(/^ok {5}health for KmsHealthCheck/m)
})

test('a renewed certificate is taken up on SIGHUP, while its user goes on', async () => {
  const blob = await encrypt('kept')
  const renewed = authority.issue(hostName, [hostName], 77)
  writeFileSync(certificate.certFile, renewed.cert)
  writeFileSync(certificate.keyFile, renewed.key)
  process.kill(owner.pid, 'SIGHUP')
  await expect
    .poll(async () => (await doctor(file)).out, { timeout: 30_000 })
    .toMatch(/^ok {5}the certificate is good for 7[67] more days/m)
  expect(await decrypt(blob)).toBe('kept')
})
