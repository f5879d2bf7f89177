/** The client of KMS: what it sends, what it tries again, and which answers it takes. */

import { createServer, type IncomingMessage } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { readAuthorization, deriveSigningKey, verifySignature } from '../../src/auth/sigv4.ts'
import { makeAuthority } from '../certificates.ts'
import { endpointOf, KmsFailure, openKmsClients, type KmsClientOptions } from '../../src/envelope/kms.ts'

const now = 1_800_000_000_000
const credentials = { accessKeyId: 'AKIAEXAMPLE', secretAccessKey: 'secret' }
const good = { KeyId: 'arn', Plaintext: 'AAECAw==', CiphertextBlob: 'BAUG' }

interface Received {
  readonly target: string
  readonly region: string
  readonly input: Readonly<Record<string, unknown>>
}

/** Answers each call with the next answer, the last one again and again; a text breaks the connection off. */
async function fakeKms(...answers: readonly (readonly [status: number, body: unknown] | 'hang up')[]) {
  const received: Received[] = []
  const server = createServer((request: IncomingMessage, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const body = Buffer.concat(chunks)
      const signed = { method: 'POST', path: request.url ?? '', query: '', headers: request.headers, body }
      const authorization = readAuthorization(signed, now, { services: new Set(['kms']) })
      verifySignature(signed, authorization, deriveSigningKey('secret', authorization.date, authorization.region, 'kms'))
      received.push({
        target: String(request.headers['x-amz-target']),
        region: authorization.region,
        input: JSON.parse(body.toString()) as Received['input'],
      })
      const answer = answers[Math.min(received.length, answers.length) - 1]
      if (answer === undefined || answer === 'hang up') request.socket.destroy()
      else response.writeHead(answer[0]).end(typeof answer[1] === 'string' ? answer[1] : JSON.stringify(answer[1]))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  const open = (options: Partial<KmsClientOptions> = {}, region = 'eu-west-1') => {
    const clients = openKmsClients({
      endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      credentials,
      now: () => now,
      ...options,
    })
    onTestFinished(() => clients.close())
    const kms = clients.of(region)
    if (!kms) throw new Error('every region has a client')
    return kms
  }
  return { received, open }
}

const request = { keyId: 'alias/app', context: { app: 'db' }, grantTokens: ['token'] }

describe('what is sent', () => {
  test('is signed for the region and has what is there to say', async () => {
    const { received, open } = await fakeKms([200, good])
    const kms = open({ credentials: async () => credentials })
    const generated = await kms.generateDataKey({ ...request, bytes: 32 })
    expect({ ...generated }).toEqual({ keyId: 'arn', plaintext: Buffer.of(0, 1, 2, 3), ciphertext: Buffer.of(4, 5, 6) })
    await kms.encrypt({ keyId: 'k', context: {}, grantTokens: [], plaintext: Buffer.of(1) })
    await kms.decrypt({ ...request, ciphertext: Buffer.of(2) })
    const common = { KeyId: 'alias/app', EncryptionContext: { app: 'db' }, GrantTokens: ['token'] }
    expect(received).toEqual([
      { target: 'TrentService.GenerateDataKey', region: 'eu-west-1', input: { ...common, NumberOfBytes: 32 } },
      { target: 'TrentService.Encrypt', region: 'eu-west-1', input: { KeyId: 'k', Plaintext: 'AQ==' } },
      { target: 'TrentService.Decrypt', region: 'eu-west-1', input: { ...common, CiphertextBlob: 'Ag==' } },
    ])
  })

  test.each([
    [undefined, 'eu-west-1', 'https://kms.eu-west-1.amazonaws.com/'],
    [undefined, 'cn-north-1', 'https://kms.cn-north-1.amazonaws.com.cn/'],
    ['http://127.0.0.1:8480', 'eu-west-1', 'http://127.0.0.1:8480/'],
    ['https://kms.{region}.example:8480/some/path', 'eu-west-1', 'https://kms.eu-west-1.example:8480/'],
  ])('to the endpoint %s for %s goes to %s', (endpoint, region, url) => {
    expect(endpointOf(endpoint, region).href).toBe(url)
  })

  test.each(['evil.example/', 'a.b', 'EU', ''])('never goes to %j, which is no region', async (region) => {
    const { received, open } = await fakeKms([200, good])
    await expect(open({}, region).decrypt({ ...request, ciphertext: Buffer.of(2) })).rejects.toThrow('is no name of a region')
    expect(received).toEqual([])
  })
})

describe('plain HTTP', () => {
  test.each([
    'http://kms.example',
    'http://10.0.0.1:8480',
    'http://127.0.0.1.example',
    'http://localhost.example',
    'http://[::ffff:10.0.0.1]',
    'http://[fe80::1]',
    'http://{region}.example',
  ])('to %s, another machine, carries nothing', async (endpoint) => {
    const { open } = await fakeKms([200, good])
    const failure = await open({ endpoint })
      .generateDataKey({ ...request, bytes: 32 })
      .catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(KmsFailure)
    expect((failure as KmsFailure).code).toBe('PlainHttp')
    expect((failure as KmsFailure).message).toMatch(/is plain HTTP to another machine: .* Use https:\/\/, or say allowPlainHttp\.$/)
  })

  test('to another address than loopback is spoken where the program says so', async () => {
    const server = createServer((asked, response) => {
      asked.resume()
      asked.on('end', () => response.end(JSON.stringify(good)))
    })
    await new Promise<void>((resolve) => server.listen(0, '0.0.0.0', resolve))
    onTestFinished(() => void server.close())
    // To Linux this is the machine itself.
    const endpoint = `http://0.0.0.0:${(server.address() as AddressInfo).port}`
    const ask = async (allowPlainHttp: boolean) => {
      const clients = openKmsClients({ endpoint, credentials, allowPlainHttp, now: () => now })
      onTestFinished(() => clients.close())
      return clients.of('eu-west-1')?.encrypt({ ...request, plaintext: Buffer.of(1) })
    }
    expect(await ask(true)).toMatchObject({ keyId: 'arn' })
    await expect(ask(false)).rejects.toThrow('plain HTTP to another machine')
  })
})

test('over TLS only a certificate of the public authorities, or of the one that is trusted, is spoken with', async () => {
  const authority = makeAuthority()
  onTestFinished(() => authority.remove())
  const { cert, key } = authority.issue('localhost', ['localhost'])
  const server = createTlsServer({ cert, key }, (request, response) => {
    request.resume()
    request.on('end', () => response.end(JSON.stringify(good)))
  })
  await new Promise<void>((resolve) => server.listen(0, resolve))
  onTestFinished(() => void server.close())
  const endpoint = `https://localhost:${(server.address() as AddressInfo).port}`
  const ask = async (trust: string | undefined) => {
    const clients = openKmsClients({ endpoint, credentials, trust, now: () => now })
    onTestFinished(() => clients.close())
    return clients.of('eu-west-1')?.encrypt({ ...request, plaintext: Buffer.of(1) })
  }
  expect(await ask(authority.ca)).toMatchObject({ keyId: 'arn' })
  await expect(ask(undefined)).rejects.toThrow(/certificate/)
})

describe('what comes back', () => {
  test.each<[string, readonly [number, unknown] | 'hang up']>([
    ['a quota', [400, { __type: 'ThrottlingException' }]],
    ['a key that is unavailable', [500, { __type: 'KeyUnavailableException' }]],
    ['a failure without a name', [503, 'busy']],
    ['a broken connection', 'hang up'],
  ])('%s is tried again, and may come to a good end', async (_what, answer) => {
    const { received, open } = await fakeKms(answer, answer, [200, good])
    expect((await open().encrypt({ ...request, plaintext: Buffer.of(1) })).keyId).toBe('arn')
    expect(received).toHaveLength(3)
  })

  test('three tries are enough', async () => {
    const { received, open } = await fakeKms([400, { __type: 'ThrottlingException', message: 'Rate exceeded' }])
    await expect(open().encrypt({ ...request, plaintext: Buffer.of(1) })).rejects.toThrow('Rate exceeded')
    expect(received).toHaveLength(3)
  })

  test.each([
    ['AccessDeniedException', { __type: 'AccessDeniedException', Message: 'not you' }, 'not you'],
    ['NotFoundException', { __type: 'com.amazonaws.kms#NotFoundException', message: 'no such key' }, 'no such key'],
    ['HTTP 404', 'a page', ''],
  ])('%s is said at once', async (code, body, message) => {
    const { received, open } = await fakeKms([code === 'HTTP 404' ? 404 : 400, body])
    const failure = await open()
      .decrypt({ ...request, ciphertext: Buffer.of(1) })
      .catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(KmsFailure)
    expect({ code: (failure as KmsFailure).code, message: (failure as KmsFailure).message }).toEqual({ code, message })
    expect(received).toHaveLength(1)
  })

  test.each([
    ['without a plaintext', { KeyId: 'arn' }],
    ['with a plaintext that is no text', { KeyId: 'arn', Plaintext: 7 }],
    ['without a key', { Plaintext: 'AAECAw==' }],
  ])('an answer %s is none', async (_what, body) => {
    const { open } = await fakeKms([200, body])
    await expect(open().decrypt({ ...request, ciphertext: Buffer.of(1) })).rejects.toThrow(/without a usable (?:Plaintext|KeyId)/)
  })
})
