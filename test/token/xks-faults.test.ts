/**
 * What AWS KMS is told when the device is in trouble, by a running service whose PKCS#11 module misbehaves on demand. KMS tries again only after
 * ThrottlingException, InternalException and DependencyTimeoutException: no trouble of the device may be any other, and none a bad ciphertext.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { signRequest } from '../../src/auth/sigv4.ts'
import { CKR } from '../../src/hsm/constants.ts'
import { askHttp1 } from '../http-client.ts'
import { administer, rawCall, startHoldfast, type Holdfast } from './holdfast.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { FaultFile, buildShim, shimEnv, type Fault } from './shim.ts'
import { metadata, type ConsoleFile, type StoreCredential } from './xks-kit.ts'

const shim = buildShim()
const region = 'us-east-1'
const plaintext = 'a data key that KMS has encrypted'

describe.skipIf(shim === undefined)('the XKS proxy before a device', () => {
  let lab: LabToken
  let faults: FaultFile
  let holdfast: Holdfast
  let credential: StoreCredential
  let xksUrl: string
  let made: Readonly<Record<string, unknown>>

  beforeAll(async () => {
    lab = await makeSoftHsmToken()
    faults = new FaultFile(lab.dir)
    holdfast = await startHoldfast({
      env: {
        ...lab.env,
        ...shimEnv({ module: lab.library, faults }),
        HOLDFAST_PKCS11_LIBRARY: shim ?? '',
        HOLDFAST_PKCS11_TOKEN_LABEL: lab.label,
        HOLDFAST_PKCS11_PIN_FILE: lab.pinFile,
        // One worker: a fault meets the call that it is meant for.
        HOLDFAST_PKCS11_SESSIONS: '1',
        HOLDFAST_PKCS11_DEADLINE_MS: '4000',
        HOLDFAST_XKS_PROXY_PORT: '0',
        HOLDFAST_XKS_PROXY_DEADLINE_MS: '2000',
        HOLDFAST_LOG_LEVEL: 'info',
      },
    })
    ;({ xksUrl } = JSON.parse(readFileSync(join(holdfast.dir, 'endpoint.json'), 'utf8')) as { readonly xksUrl: string })
    const store = await administer<ConsoleFile>(holdfast, 'CreateXksStore', { UriPathPrefix: '/tenant', Regions: [region] })
    credential = store.XksProxyAuthenticationCredential
    const { KeyMetadata } = (await rawCall(holdfast, 'kms', 'CreateKey', {})).json as { KeyMetadata: { readonly Arn: string } }
    await administer(holdfast, 'AddXksKey', { UriPathPrefix: '/tenant', ExternalKeyId: 'one', KeyId: KeyMetadata.Arn })
    made = (await encrypt()).json
  })
  afterEach(() => faults.set())
  afterAll(async () => {
    faults?.set()
    await holdfast?.remove()
    await lab?.remove()
  })

  async function send(call: string, body: object): Promise<{ readonly status: number; readonly json: Readonly<Record<string, unknown>> }> {
    const path = `/tenant/kms/xks/v1${call}`
    const text = JSON.stringify(body)
    const headers = signRequest({
      method: 'POST',
      url: xksUrl + path,
      headers: { 'content-type': 'application/json' },
      body: text,
      service: 'kms-xks-proxy',
      region,
      credentials: { accessKeyId: credential.AccessKeyId, secretAccessKey: credential.RawSecretAccessKey },
      timeMs: Date.now(),
    })
    const answer = await askHttp1({ url: xksUrl }, { path, headers, body: text })
    return { status: answer.status, json: JSON.parse(answer.text) as Readonly<Record<string, unknown>> }
  }
  const members = { requestMetadata: metadata, encryptionAlgorithm: 'AES_GCM' }
  const encrypt = () =>
    send('/keys/one/encrypt', {
      ...members,
      plaintext: Buffer.from(plaintext).toString('base64'),
      ciphertextDataIntegrityValueAlgorithm: 'SHA_256',
    })
  const decrypt = () => {
    const { ciphertext, initializationVector, authenticationTag, ciphertextMetadata } = made
    return send('/keys/one/decrypt', { ...members, ciphertext, initializationVector, authenticationTag, ciphertextMetadata })
  }
  const outcome = async ({ status, json }: Awaited<ReturnType<typeof send>>): Promise<string> =>
    status === 200 ? 'done' : `${status} ${String(json['errorName'])}`
  const healthOf = async (): Promise<unknown> => {
    const { json } = await send('/health', { requestMetadata: { kmsRequestId: 'r', kmsOperation: 'KmsHealthCheck' } })
    return (json['ekmFleetDetails'] as readonly { readonly healthStatus: string }[] | undefined)?.[0]?.healthStatus
  }
  /** It serves again, and opens what it made before. */
  async function heals(): Promise<void> {
    faults.set()
    await expect.poll(async () => outcome(await encrypt()), { timeout: 40_000, interval: 100 }).toBe('done')
    expect((await decrypt()).json['plaintext']).toBe(Buffer.from(plaintext).toString('base64'))
  }

  test.each([CKR.CKR_DEVICE_MEMORY, CKR.CKR_SESSION_COUNT, CKR.CKR_HOST_MEMORY])(
    'that is busy (0x%s): 429, to be tried again',
    async (rv) => {
      faults.set({ function: 'C_EncryptInit', rv, count: 'always' }, { function: 'C_DecryptInit', rv, count: 'always' })
      expect(await outcome(await encrypt())).toBe('429 ThrottlingException')
      expect(await outcome(await decrypt())).toBe('429 ThrottlingException')
      await heals()
    },
  )

  test('that is slow, and in time: the answer', async () => {
    faults.set({ function: 'C_Encrypt', delayMs: 150, count: 1 }, { function: 'C_Decrypt', delayMs: 150, count: 'always' })
    expect(await outcome(await encrypt())).toBe('done')
    expect(await outcome(await decrypt())).toBe('done')
    await heals()
  })

  test.each<[string, Fault]>([
    ['stumbles once in an encryption', { function: 'C_Encrypt', rv: CKR.CKR_DEVICE_ERROR }],
    ['loses its sessions', { function: 'C_EncryptInit', rv: 'close-all' }],
    ['loses its login', { function: 'C_DecryptInit', rv: 'logout' }],
    ['stumbles once in a decryption, in the words that it has for a bad ciphertext', { function: 'C_Decrypt', rv: CKR.CKR_GENERAL_ERROR }],
  ])('that %s: nothing that KMS does not try again, and never a bad ciphertext', async (_what, fault) => {
    const retried = ['done', '429 ThrottlingException', '500 InternalException', '503 DependencyTimeoutException']
    for (const ask of [encrypt, decrypt]) {
      faults.set(fault)
      expect(retried).toContain(await outcome(await ask()))
    }
    await heals()
  })

  test('that dies in a call: 500, and the service lives', async () => {
    faults.set({ function: 'C_Encrypt', rv: 'segv' })
    expect(await outcome(await encrypt())).toBe('500 InternalException')
    await heals()
    await expect.poll(healthOf, { timeout: 30_000 }).toBe('DEGRADED')
  })

  test('that is gone: 500, its health UNAVAILABLE, and DEGRADED once it is back', async () => {
    faults.set({ function: '*', rv: CKR.CKR_DEVICE_REMOVED, count: 'always' })
    expect(await outcome(await encrypt())).toBe('500 InternalException')
    expect(await outcome(await decrypt())).toBe('500 InternalException')
    await expect.poll(healthOf, { timeout: 30_000 }).toBe('UNAVAILABLE')
    await heals()
    await expect.poll(healthOf, { timeout: 30_000 }).toBe('DEGRADED')
  })

  test('that hangs: 503 at the deadline, not when the device is given up, and the health says so', async () => {
    faults.set({ function: 'C_Encrypt', rv: 'hang' })
    expect(await outcome(await encrypt())).toBe('503 DependencyTimeoutException')
    await expect.poll(healthOf, { timeout: 30_000, interval: 50 }).toBe('UNAVAILABLE')
    await heals()
  })

  test('of all that was asked while it was in trouble nothing is in the log that was to be secret', () => {
    expect(holdfast.log()).toContain('DependencyTimeoutException')
    for (const secret of [plaintext, Buffer.from(plaintext).toString('base64'), credential.RawSecretAccessKey])
      expect(holdfast.log()).not.toContain(secret)
  })
})
