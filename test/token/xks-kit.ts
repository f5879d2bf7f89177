/** Stores of the XKS proxy for tests, and KMS' side of the conversation: signed requests handed to the inside of the proxy, as its door hands them over. */
import { signRequest } from '../../src/auth/sigv4.ts'
import type { HealthSource } from '../../src/kms/xks/health.ts'
import { openXksProxy, type XksProxy } from '../../src/kms/xks/proxy.ts'
import type { XksApi, XksRequest } from '../../src/kms/xks/request.ts'
import { administer, type InProcess } from './holdfast.ts'

export interface StoreCredential {
  readonly AccessKeyId: string
  readonly RawSecretAccessKey: string
}

/** What the console of AWS is given. */
export interface ConsoleFile {
  readonly XksProxyUriPath: string
  readonly XksProxyAuthenticationCredential: StoreCredential
}

export const healthy: HealthSource = () =>
  Promise.resolve({
    xksProxyFleetSize: 1,
    xksProxyVendor: 'Holdfast',
    xksProxyModel: 'test',
    ekmVendor: 'SoftHSM',
    ekmFleetDetails: [{ id: 'default', model: 'SoftHSM v2', healthStatus: 'ACTIVE' }],
  })

export interface Answered {
  readonly status: number
  readonly body: Readonly<Record<string, unknown>>
  readonly errorName: unknown
}

export interface Asking {
  readonly prefix?: string
  readonly credential: StoreCredential
  readonly region?: string
  readonly service?: string
  /** Of the signature, against the service's clock. */
  readonly skewMs?: number
  readonly headers?: Readonly<Record<string, string>>
  /** Of the request after it was signed. */
  readonly change?: (request: XksRequest) => Partial<XksRequest>
  readonly deadlineMs?: number
}

export const metadata = {
  awsPrincipalArn: 'arn:aws:iam::123456789012:user/Alice',
  kmsKeyArn: 'arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab',
  kmsOperation: 'Encrypt',
  kmsRequestId: '4112f4d6-db54-4af4-ae30-c55a22a8dfae',
  kmsViaService: 'ebs.us-east-1.amazonaws.com',
} as const

export const aws = 'eu-central-1'

/** The proxy on an open service. */
export function openXks(ours: InProcess, health: HealthSource = healthy) {
  const proxy: XksProxy = openXksProxy(ours.service, { health })
  const send = async (api: XksApi, externalKeyId: string | undefined, body: unknown, asking: Asking): Promise<Answered> => {
    const { prefix = '', credential } = asking
    const path = `${prefix}/kms/xks/v1/${api === 'health' ? 'health' : `keys/${externalKeyId}/${api}`}`
    const text = typeof body === 'string' ? body : JSON.stringify(body)
    const nowMs = ours.clock.now()
    const headers = signRequest({
      method: 'POST',
      url: `https://proxy.xks.test${path}`,
      headers: { 'content-type': 'application/json', ...asking.headers },
      body: text,
      service: asking.service ?? 'kms-xks-proxy',
      region: asking.region ?? aws,
      credentials: { accessKeyId: credential.AccessKeyId, secretAccessKey: credential.RawSecretAccessKey },
      timeMs: nowMs + (asking.skewMs ?? 0),
    })
    const request: XksRequest = {
      prefix,
      api,
      externalKeyId: api === 'health' ? undefined : externalKeyId,
      method: 'POST',
      path,
      headers: { ...headers, 'user-agent': 'test' },
      body: Buffer.from(text),
      receivedAt: nowMs,
      deadline: nowMs + (asking.deadlineMs ?? 10_000),
      remoteAddress: '192.0.2.7',
    }
    const answer = await proxy.answer({ ...request, ...asking.change?.(request) })
    const read = JSON.parse(answer.body) as Readonly<Record<string, unknown>>
    return { status: answer.status, body: read, errorName: read['errorName'] }
  }
  return { proxy, send }
}

/** A store with a credential that signs for it. */
export async function makeStore(ours: InProcess, prefix: string, more: Readonly<Record<string, unknown>> = {}): Promise<StoreCredential> {
  const nowMs = ours.clock.now()
  const made = await administer<ConsoleFile>(ours, 'CreateXksStore', { UriPathPrefix: prefix, Regions: [aws], ...more }, { nowMs })
  return made.XksProxyAuthenticationCredential
}

export const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
