/** The listener's limits, its certificate and its end. */

import { request as httpsRequest } from 'node:https'
import { connect as tlsConnect, type TLSSocket } from 'node:tls'
import { expect, onTestFinished, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { listen } from '../../src/http/server.ts'
import { openTestServer, rawConnection, rawRequest, scratch, selfSigned, testLimits } from './http-fixture.ts'

test('headers that do not arrive in time end the connection', async () => {
  const server = await openTestServer({ headersTimeoutMs: 200 })
  onTestFinished(() => server.close())
  const connection = await rawConnection(server.listener.port)
  connection.send('POST / HTTP/1.1\r\nHost: h\r\nX-Slow: ')
  expect(await connection.received()).toMatch(/^HTTP\/1\.1 408 Request Timeout\r\n/)
})

test('a body that does not arrive in time ends the connection', async () => {
  const server = await openTestServer({ headersTimeoutMs: 200, requestTimeoutMs: 400 })
  onTestFinished(() => server.close())
  const connection = await rawConnection(server.listener.port)
  connection.send('POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\nContent-Length: 100\r\n\r\n{')
  await connection.ended
  expect(server.records).toEqual([])
})

test.each([
  ['no HTTP at all', '\u0016\u0003\u0001\u0000garbage\r\n\r\n', 400],
  ['no Host', 'GET /healthz HTTP/1.1\r\n\r\n', 400],
  ['two lengths', 'POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx', 400],
  ['length and chunks', 'POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', 400],
  ['a header with a line break in it', 'GET /healthz HTTP/1.1\r\nHost: h\r\nA: b\nc: d\0\r\n\r\n', 400],
  ['headers without end', `GET /healthz HTTP/1.1\r\nHost: h\r\nA: ${'x'.repeat(40_000)}\r\n\r\n`, 431],
])('%s is refused and the connection ends', async (_what, bytes, status) => {
  const server = await openTestServer()
  onTestFinished(() => server.close())
  const connection = await rawConnection(server.listener.port)
  connection.send(bytes)
  expect(await connection.received()).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
})

test('connections beyond the limit are closed, and the others go on', async () => {
  const server = await openTestServer({ maxConnections: 1 })
  onTestFinished(() => server.close())
  const first = await rawConnection(server.listener.port)
  first.send(rawRequest('Echo', '{"Text":"one"}'))
  await first.received((text) => text.includes('one'))
  const second = await rawConnection(server.listener.port)
  expect(await second.received()).toBe('')
  first.send(rawRequest('Echo', '{"Text":"two"}'))
  expect(await first.received((text) => text.includes('two'))).toContain('{"Input":{"Text":"two"}}')
  first.socket.destroy()
})

test('closing stops accepting, finishes what is under way with Connection: close, and ends idle connections', async () => {
  const server = await openTestServer()
  const gate = server.gate()
  const busy = await rawConnection(server.listener.port)
  busy.send(rawRequest('Wait', '{}'))
  await gate.reached
  const idle = await rawConnection(server.listener.port)
  idle.send(rawRequest('Echo', '{}'))
  await idle.received((text) => text.includes('Input'))

  const closed = server.close()
  await idle.ended
  await expect(fetch(`${server.listener.url}/healthz`)).rejects.toThrow('fetch failed')
  gate.open()
  const answer = await busy.received()
  expect(answer).toContain('{"Waited":true}')
  expect(answer).toContain('\r\nConnection: close\r\n')
  await closed
})

test('closing ends a call that outlives the time to finish', async () => {
  const server = await openTestServer({ drainTimeoutMs: 100 })
  const gate = server.gate()
  const busy = await rawConnection(server.listener.port)
  busy.send(rawRequest('Wait', '{}'))
  await gate.reached
  await server.close()
  await busy.ended
  gate.open()
  expect(await busy.received()).toBe('')
})

test('a port that is taken is an error that says what to do', async () => {
  const server = await openTestServer()
  onTestFinished(() => server.close())
  const again = listen({
    ...testLimits,
    name: 'ops',
    host: '127.0.0.1',
    port: server.listener.port,
    tls: undefined,
    handle: () => undefined,
    log: silentLog,
  })
  await expect(again).rejects.toThrow(/is in use.*HOLDFAST_OPS_PORT/)
})

/** The certificate's subject on a new connection. */
function subjectAt(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket: TLSSocket = tlsConnect({ host: '127.0.0.1', port, rejectUnauthorized: false }, () => {
      const { CN } = socket.getPeerCertificate().subject
      resolve(Array.isArray(CN) ? CN.join() : (CN ?? ''))
      socket.destroy()
    })
    socket.on('error', reject)
  })
}

test('a new certificate serves new connections, one that is open goes on, and bad files change nothing', async () => {
  const files = scratch()
  const [old, renewed, other] = [selfSigned('old'), selfSigned('renewed'), selfSigned('other')]
  const tls = { certFile: files.write('cert.pem', old.cert), keyFile: files.write('key.pem', old.key) }
  const server = await openTestServer({ tls })
  onTestFinished(async () => {
    await server.close()
    files.remove()
  })
  const { port } = server.listener
  expect(server.listener.url).toBe(`https://127.0.0.1:${port}`)

  const open = tlsConnect({ host: '127.0.0.1', port, ca: old.cert })
  open.setEncoding('latin1')
  let received = ''
  open.on('data', (chunk: string) => (received += chunk))
  open.write(rawRequest('Echo', '{"Text":"before"}'))
  await expect.poll(() => received).toContain('before')

  files.write('cert.pem', renewed.cert)
  expect(server.listener.reloadCertificate(), 'a certificate whose key is not there yet').toBe(false)
  expect(await subjectAt(port)).toBe('old')
  files.write('key.pem', renewed.key)
  expect(server.listener.reloadCertificate()).toBe(true)
  expect(await subjectAt(port)).toBe('renewed')
  files.write('key.pem', other.key)
  expect(server.listener.reloadCertificate()).toBe(false)
  files.write('key.pem', 'no PEM')
  expect(server.listener.reloadCertificate()).toBe(false)
  expect(await subjectAt(port)).toBe('renewed')

  open.write(rawRequest('Echo', '{"Text":"after"}'))
  await expect.poll(() => received).toContain('after')
  open.destroy()
})

test('TLS below 1.2 is refused; what was negotiated is in the audit record', async () => {
  const files = scratch()
  const { cert, key } = selfSigned('tls')
  const server = await openTestServer({ tls: { certFile: files.write('cert.pem', cert), keyFile: files.write('key.pem', key) } })
  onTestFinished(async () => {
    await server.close()
    files.remove()
  })
  const { port } = server.listener
  await expect(
    new Promise((resolve, reject) => {
      const socket = tlsConnect(
        { host: '127.0.0.1', port, ca: cert, minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' },
        () => resolve(socket.getProtocol()),
      )
      socket.on('error', reject)
    }),
  ).rejects.toThrow(/alert protocol version|unsupported protocol|no protocols available/)
  await new Promise((resolve, reject) => {
    const request = httpsRequest(
      { port, host: '127.0.0.1', ca: cert, method: 'POST', agent: false, headers: { 'x-amz-target': 'TrentService.Echo' } },
      (response) => {
        response.resume().on('end', resolve)
      },
    )
    request.on('error', reject)
    request.end('{}')
  })
  expect(server.records[0]).toMatchObject({
    tlsDetails: { tlsVersion: 'TLSv1.3', cipherSuite: expect.stringMatching(/^TLS_/), clientProvidedHostHeader: `127.0.0.1:${port}` },
  })
})

test('a certificate that cannot be used is refused at the start', async () => {
  const files = scratch()
  onTestFinished(() => files.remove())
  const tls = { certFile: files.write('cert.pem', selfSigned('a').cert), keyFile: files.write('key.pem', selfSigned('b').key) }
  await expect(openTestServer({ tls })).rejects.toThrow(/cannot be used together/)
})
