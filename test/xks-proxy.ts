/**
 * An XKS proxy for tests, written from the specification (AWS KMS External Key Store Proxy API 1.0.3) and strict with its caller: HTTPS with a
 * certificate of an authority of its own, SigV4 checked by another implementation than ours, requests with anything missing or
 * malformed refused, real AES-256-GCM with the AAD and metadata bound as the specification says. What goes wrong is for the test to say.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes } from 'node:crypto'
import { createServer } from 'node:https'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { SignatureV4 } from '@smithy/signature-v4'
import { makeAuthority } from './certificates.ts'

export interface ProxyCredential {
  readonly AccessKeyId: string
  readonly RawSecretAccessKey: string
}

export interface SeenRequest {
  readonly path: string
  readonly body: Readonly<Record<string, unknown>>
  readonly authorization: string
}

/** What becomes of the next request, instead of or after its answer. */
export type Fault =
  | { readonly kind: 'slow'; readonly ms: number }
  /** The connection breaks before an answer. */
  | { readonly kind: 'reset' }
  | { readonly kind: 'answer'; readonly status: number; readonly body: string }
  /** The right answer with members changed; undefined takes one out. */
  | { readonly kind: 'change'; readonly change: (answer: Readonly<Record<string, unknown>>) => unknown }

export interface ExternalKey {
  readonly bytes: Buffer
  readonly keySpec: string
  readonly keyUsage: readonly string[]
  readonly keyStatus: string
}

export interface XksProxy {
  /** Where it listens on this machine. The certificate is for `hostName`. */
  readonly port: number
  readonly hostName: string
  /** PEM of the authority. */
  readonly caFile: string
  readonly credential: ProxyCredential
  /** The path that it answers at; others are InvalidUriPathException. */
  readonly path: string
  readonly keys: Map<string, ExternalKey>
  /** Every request whose signature held, in order. */
  readonly seen: SeenRequest[]
  /** For the next requests, one each. */
  readonly faults: Fault[]
  /** Credentials that are accepted besides the first. */
  readonly moreCredentials: ProxyCredential[]
  healthStatus: string
  /** How far its clock is from the machine's. */
  clockOffsetMs: number
  close(): Promise<void>
}

export const newCredential = (): ProxyCredential => ({
  AccessKeyId: [...randomBytes(24)].map((byte) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.charAt(byte % 32)).join(''),
  RawSecretAccessKey: randomBytes(32).toString('base64'),
})

export const newExternalKey = (values: Partial<ExternalKey> = {}): ExternalKey => ({
  bytes: randomBytes(32),
  keySpec: 'AES_256',
  keyUsage: ['ENCRYPT', 'DECRYPT'],
  keyStatus: 'ENABLED',
  ...values,
})

/** An error of the specification's table. */
class Refusal extends Error {
  readonly status: number
  readonly errorName: string
  constructor(status: number, errorName: string, message = '') {
    super(message)
    this.status = status
    this.errorName = errorName
  }
}

/** @param options.alsoNamed further names that the certificate is for */
export async function startXksProxy(options: {
  readonly region: string
  readonly hostName?: string
  readonly alsoNamed?: readonly string[]
  readonly path?: string
}): Promise<XksProxy> {
  const { region, hostName = 'proxy.xks.test', alsoNamed = [], path = '/kms/xks/v1' } = options
  const authority = makeAuthority()
  const { cert, key } = authority.issue(hostName, [hostName, ...alsoNamed])
  const credential = newCredential()
  const proxy = {
    hostName,
    caFile: authority.caFile,
    credential,
    path,
    keys: new Map<string, ExternalKey>(),
    seen: [] as SeenRequest[],
    faults: [] as Fault[],
    moreCredentials: [] as ProxyCredential[],
    healthStatus: 'ACTIVE',
    clockOffsetMs: 0,
  }

  const answer = async (request: IncomingMessage, body: Buffer): Promise<Record<string, unknown>> => {
    const at = request.url ?? ''
    if (!at.startsWith(`${path}/`)) throw new Refusal(404, 'InvalidUriPathException')
    if (request.method !== 'POST') throw new Refusal(405, 'ValidationException')
    await checkSignature(request, body, region, [credential, ...proxy.moreCredentials], Date.now() + proxy.clockOffsetMs)
    const read: unknown = JSON.parse(body.toString())
    if (typeof read !== 'object' || read === null) throw new Refusal(400, 'ValidationException', 'no object')
    const members = read as Readonly<Record<string, unknown>>
    proxy.seen.push({ path: at, body: members, authorization: request.headers.authorization ?? '' })
    return perform(at.slice(path.length), members, proxy)
  }

  const respond = async (request: IncomingMessage, response: ServerResponse, body: Buffer): Promise<void> => {
    let status = 200
    let content: unknown
    try {
      content = await answer(request, body)
    } catch (error) {
      const refusal = error instanceof Refusal ? error : new Refusal(500, 'InternalException', String(error))
      status = refusal.status
      content = { errorName: refusal.errorName, errorMessage: refusal.message }
    }
    const fault = proxy.faults.shift()
    if (fault?.kind === 'reset') return void request.socket.destroy()
    if (fault?.kind === 'slow') await new Promise((resolve) => setTimeout(resolve, fault.ms))
    if (fault?.kind === 'change') content = fault.change(content as Readonly<Record<string, unknown>>)
    const text = fault?.kind === 'answer' ? fault.body : JSON.stringify(content)
    response.writeHead(fault?.kind === 'answer' ? fault.status : status, { 'content-type': 'application/json' })
    response.end(text)
  }

  const server = createServer({ cert, key, minVersion: 'TLSv1.2' }, (request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => void respond(request, response, Buffer.concat(chunks)))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return Object.assign(proxy, {
    port: (server.address() as AddressInfo).port,
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
      authority.remove()
    },
  })
}

/** Signs the same request again, with the SDK's own signer, and compares. */
async function checkSignature(
  request: IncomingMessage,
  body: Buffer,
  region: string,
  accepted: readonly ProxyCredential[],
  nowMs: number,
): Promise<void> {
  const refused = new Refusal(401, 'AuthenticationFailedException')
  const { authorization = '', 'x-amz-date': date } = request.headers
  const parts =
    /^AWS4-HMAC-SHA256 Credential=([A-Z2-7]{20,30})\/(\d{8})\/([a-z0-9-]+)\/kms-xks-proxy\/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=[0-9a-f]{64}$/.exec(
      authorization,
    )
  if (!parts || typeof date !== 'string' || !/^\d{8}T\d{6}Z$/.test(date)) throw refused
  const [, accessKeyId, day, signedRegion, names = ''] = parts
  const credential = accepted.find(({ AccessKeyId }) => AccessKeyId === accessKeyId)
  const signedNames = names.split(';')
  if (!credential || day !== date.slice(0, 8) || signedRegion !== region) throw refused
  if (!signedNames.includes('host') || !signedNames.includes('x-amz-date')) throw refused
  const signedAt = new Date(date.replace(/^(....)(..)(..)T(..)(..)(..)Z$/, '$1-$2-$3T$4:$5:$6Z'))
  if (Math.abs(nowMs - signedAt.getTime()) > 300_000) throw refused
  const signer = new SignatureV4({
    service: 'kms-xks-proxy',
    region,
    credentials: { accessKeyId: credential.AccessKeyId, secretAccessKey: credential.RawSecretAccessKey },
    sha256: Hash,
    applyChecksum: false,
  })
  const again = await signer.sign(
    {
      method: 'POST',
      protocol: 'https:',
      hostname: request.headers.host ?? '',
      path: request.url ?? '',
      query: {},
      headers: Object.fromEntries(signedNames.map((name) => [name, String(request.headers[name])])),
      body,
    },
    { signingDate: signedAt },
  )
  if (again.headers['authorization'] !== authorization) throw refused
}

/** What the signer wants of a hash: SHA-256, with a secret HMAC. */
class Hash {
  readonly #hash
  constructor(secret?: unknown) {
    this.#hash = secret === undefined ? createHash('sha256') : createHmac('sha256', secret as Buffer)
  }
  update(data: string | Uint8Array): void {
    this.#hash.update(data)
  }
  digest(): Promise<Uint8Array> {
    return Promise.resolve(new Uint8Array(this.#hash.digest()))
  }
}

function perform(
  call: string,
  body: Readonly<Record<string, unknown>>,
  proxy: Pick<XksProxy, 'keys' | 'healthStatus'>,
): Record<string, unknown> {
  const metadata = body['requestMetadata'] as Readonly<Record<string, unknown>> | undefined
  const isHealth = call === '/health'
  const [, id = '', action = ''] = /^\/keys\/([A-Za-z0-9._-]{1,128})\/(metadata|encrypt|decrypt)$/.exec(call) ?? []
  if (!isHealth && action === '') throw new Refusal(404, 'InvalidUriPathException')
  const needed = ['kmsRequestId', 'kmsOperation', ...(isHealth ? [] : ['awsPrincipalArn']), ...(/crypt/.test(action) ? ['kmsKeyArn'] : [])]
  for (const name of needed)
    if (typeof metadata?.[name] !== 'string' || metadata[name] === '') throw new Refusal(400, 'ValidationException', name)
  if (isHealth) {
    return {
      xksProxyFleetSize: 1,
      xksProxyVendor: 'Test',
      xksProxyModel: 'Proxy 1',
      ekmVendor: 'Test',
      ekmFleetDetails: [{ id: 'one', model: 'Soft', healthStatus: proxy.healthStatus }],
    }
  }
  const key = proxy.keys.get(id)
  if (!key) throw new Refusal(404, 'KeyNotFoundException')
  if (action === 'metadata') return { keySpec: key.keySpec, keyUsage: key.keyUsage, keyStatus: key.keyStatus }
  if (key.keyStatus !== 'ENABLED') throw new Refusal(400, 'InvalidStateException')
  if (!key.keyUsage.includes(action.toUpperCase())) throw new Refusal(400, 'InvalidKeyUsageException')
  if (body['encryptionAlgorithm'] !== 'AES_GCM') throw new Refusal(400, 'ValidationException', 'encryptionAlgorithm')
  return action === 'encrypt' ? encrypt(key.bytes, body) : decrypt(key.bytes, body)
}

const ciphertextMetadata = Buffer.from('v=1')

function encrypt(key: Buffer, body: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const plaintext = bytesOf(body, 'plaintext', 1, 4300)
  const aad = optionalBytesOf(body, 'additionalAuthenticatedData', 8192)
  const iv = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(framed(aad, ciphertextMetadata))
  const ciphertext = Buffer.concat([cipher.update(plaintext), cipher.final()])
  const tag = cipher.getAuthTag()
  const cdiv = createHash('sha256')
    .update(Buffer.concat([aad, ciphertextMetadata, iv, ciphertext, tag]))
    .digest('base64')
  return {
    ciphertext: ciphertext.toString('base64'),
    initializationVector: iv.toString('base64'),
    authenticationTag: tag.toString('base64'),
    ciphertextMetadata: ciphertextMetadata.toString('base64'),
    ...(body['ciphertextDataIntegrityValueAlgorithm'] === 'SHA_256' && { ciphertextDataIntegrityValue: cdiv }),
  }
}

function decrypt(key: Buffer, body: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const aad = optionalBytesOf(body, 'additionalAuthenticatedData', 8192)
  const metadata = optionalBytesOf(body, 'ciphertextMetadata', 20)
  const iv = bytesOf(body, 'initializationVector', 12, 16)
  const tag = bytesOf(body, 'authenticationTag', 16, 16)
  const ciphertext = bytesOf(body, 'ciphertext', 1, 4300)
  try {
    const decipher = createDecipheriv('aes-256-gcm', key, iv).setAAD(framed(aad, metadata)).setAuthTag(tag)
    return { plaintext: Buffer.concat([decipher.update(ciphertext), decipher.final()]).toString('base64') }
  } catch {
    throw new Refusal(400, 'InvalidCiphertextException')
  }
}

/** Section "Encrypt" of the specification: lengths keep AAD and metadata apart. */
const framed = (aad: Buffer, metadata: Buffer): Buffer => {
  const length = Buffer.alloc(2)
  length.writeUInt16BE(aad.length)
  return Buffer.concat([length, aad, Buffer.from([metadata.length]), metadata])
}

const optionalBytesOf = (body: Readonly<Record<string, unknown>>, name: string, most: number): Buffer =>
  body[name] === undefined ? Buffer.alloc(0) : bytesOf(body, name, 1, most)

function bytesOf(body: Readonly<Record<string, unknown>>, name: string, least: number, most: number): Buffer {
  const text = body[name]
  const bytes = Buffer.from(typeof text === 'string' ? text : '', 'base64')
  if (typeof text !== 'string' || bytes.toString('base64') !== text || bytes.length < least || bytes.length > most) {
    throw new Refusal(400, 'ValidationException', name)
  }
  return bytes
}
