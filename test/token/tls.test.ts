/** The whole service over TLS: the SDK as a client, the policy that wants TLS, and what the trail says of the connection. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { Agent } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CloudTrailClient, LookupEventsCommand } from '@aws-sdk/client-cloudtrail'
import { CreateKeyCommand, DecryptCommand, EncryptCommand, KMSClient } from '@aws-sdk/client-kms'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { selfSigned } from '../unit/http-fixture.ts'
import { startHoldfast, type Holdfast } from './holdfast.ts'

let holdfast: Holdfast
let folder: string
let certificate: string
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-tls-'))
  const made = selfSigned('localhost')
  certificate = made.cert
  writeFileSync(join(folder, 'cert.pem'), made.cert)
  writeFileSync(join(folder, 'key.pem'), made.key, { mode: 0o600 })
  holdfast = await startHoldfast({
    env: { HOLDFAST_TLS_CERT: join(folder, 'cert.pem'), HOLDFAST_TLS_KEY: join(folder, 'key.pem'), HOLDFAST_LOG_LEVEL: 'warn' },
  })
})
afterAll(async () => {
  await holdfast?.remove()
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
})

/** What a client needs to reach it: the certificate is nobody's but its own. */
const clientOptions = () => ({
  endpoint: holdfast.endpoint,
  region: holdfast.region,
  credentials: holdfast.credentials,
  maxAttempts: 1,
  requestHandler: { httpsAgent: new Agent({ ca: certificate }) },
})

test('the SDK reaches it by a certificate it trusts, and not without', async () => {
  expect(holdfast.endpoint).toMatch(/^https:/)
  const kms = new KMSClient(clientOptions())
  const key = await kms.send(new CreateKeyCommand({}))
  const { CiphertextBlob } = await kms.send(new EncryptCommand({ KeyId: key.KeyMetadata?.KeyId, Plaintext: Buffer.from('x') }))
  expect(Buffer.from((await kms.send(new DecryptCommand({ CiphertextBlob }))).Plaintext ?? []).toString()).toBe('x')
  const distrustful = new KMSClient({ ...clientOptions(), requestHandler: {} })
  await expect(distrustful.send(new CreateKeyCommand({}))).rejects.toThrow(/self-signed certificate|unable to verify/)
})

test('a policy can want TLS, and the trail says which it was', async () => {
  const kms = new KMSClient(clientOptions())
  const root = `arn:aws:iam::${holdfast.accountId}:root`
  const policyThat = (wants: string) =>
    JSON.stringify({
      Version: '2012-10-17',
      Statement: [
        { Effect: 'Allow', Principal: { AWS: root }, Action: 'kms:*', Resource: '*' },
        { Effect: 'Deny', Principal: '*', Action: 'kms:Encrypt', Resource: '*', Condition: { Bool: { 'aws:SecureTransport': wants } } },
      ],
    })
  const encryptWith = async (policy: string) => {
    const key = await kms.send(new CreateKeyCommand({ Policy: policy }))
    return kms.send(new EncryptCommand({ KeyId: key.KeyMetadata?.KeyId, Plaintext: Buffer.from('x') }))
  }
  await expect(encryptWith(policyThat('true'))).rejects.toThrow(/explicit deny in a resource-based policy/)
  const { $metadata } = await encryptWith(policyThat('false'))

  const trail = new CloudTrailClient(clientOptions())
  const { Events = [] } = await trail.send(
    new LookupEventsCommand({ LookupAttributes: [{ AttributeKey: 'EventName', AttributeValue: 'Encrypt' }] }),
  )
  const records = Events.map(({ CloudTrailEvent = '{}' }) => JSON.parse(CloudTrailEvent) as Readonly<Record<string, unknown>>)
  expect(records.find(({ requestID }) => requestID === $metadata.requestId)).toMatchObject({
    tlsDetails: {
      tlsVersion: 'TLSv1.3',
      cipherSuite: expect.stringMatching(/^TLS_/),
      clientProvidedHostHeader: new URL(holdfast.endpoint).host,
    },
  })
})

test('plain HTTP on its port is no call', async () => {
  await expect(fetch(holdfast.endpoint.replace('https:', 'http:'), { method: 'POST', body: '{}' })).rejects.toThrow('fetch failed')
})
