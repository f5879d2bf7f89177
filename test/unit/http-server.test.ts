/** The listener's limits, its certificate and its end. */

import { connect as http2Connect } from 'node:http2'
import { request as httpsRequest } from 'node:https'
import { connect as tcpConnect, type Socket } from 'node:net'
import { connect as tlsConnect, type TLSSocket } from 'node:tls'
import { describe, expect, onTestFinished, test } from 'vitest'
import { silentLog, type Log } from '../../src/base/log.ts'
import { listen, type ListenOptions } from '../../src/http/server.ts'
import {
  openTestServer,
  rawConnection,
  rawRequest,
  scratch,
  secureConnection,
  selfSigned,
  testLimits,
  type RawConnection,
  type TestServer,
} from './http-fixture.ts'

/** With these whoever is waited for is waited for beyond the end of a test. */
const patient = { headersTimeoutMs: 600_000, requestTimeoutMs: 600_000, drainTimeoutMs: 600_000 }

function heardWarnings(): { readonly warnings: unknown[]; readonly log: Log } {
  const warnings: unknown[] = []
  const log = Object.create(silentLog, { warn: { value: (...said: unknown[]) => void warnings.push(said) } }) as Log
  return { warnings, log }
}

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
  ['chunks under another coding', 'POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n', 400],
  ['a space before a colon', 'POST / HTTP/1.1\r\nHost: h\r\nContent-Length : 1\r\n\r\nx', 400],
  ['a length with a sign', 'POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\nx', 400],
  ['lines that end with LF alone', 'POST / HTTP/1.1\nHost: h\nContent-Length: 0\n\n', 400],
  ['headers without end', `GET /healthz HTTP/1.1\r\nHost: h\r\nA: ${'x'.repeat(40_000)}\r\n\r\n`, 431],
])('%s is refused and the connection ends', async (_what, bytes, status) => {
  const server = await openTestServer()
  onTestFinished(() => server.close())
  const connection = await rawConnection(server.listener.port)
  connection.send(bytes)
  expect(await connection.received()).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
})

test.each([
  ['a coding that is not quite chunked', 'Transfer-Encoding: xchunked', '0\r\n\r\n'],
  ['a chunk size that is no number', 'Transfer-Encoding: chunked', 'zz\r\n'],
  ['a chunk that is longer than it says', 'Transfer-Encoding: chunked', '1\r\n{}\r\n0\r\n\r\n'],
])('where the body ends is not guessed: with %s the connection ends, and what follows is no request', async (_what, header, body) => {
  const server = await openTestServer()
  onTestFinished(() => server.close())
  const connection = await rawConnection(server.listener.port)
  connection.send(`POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\n${header}\r\n\r\n${body}${rawRequest('Echo', '{}')}`)
  expect(await connection.received()).toBe('')
  expect(server.records).toEqual([])
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

describe('when nearly all places are taken', () => {
  const answerOf = (text: string): string => rawRequest('Echo', JSON.stringify({ Text: text }))
  /** 32 places, of which 2 are kept free. */
  async function openCrowded(): Promise<{ readonly server: TestServer; readonly connect: () => Promise<RawConnection> }> {
    const server = await openTestServer({ maxConnections: 32 })
    const opened: RawConnection[] = []
    onTestFinished(async () => {
      for (const { socket } of opened) socket.destroy()
      await server.close()
    })
    const connect = async (): Promise<RawConnection> => {
      const connection = await rawConnection(server.listener.port)
      opened.push(connection)
      return connection
    }
    return { server, connect }
  }

  test('who has been idle longest goes, so that whoever comes is served; who asks now and then stays', async () => {
    const { server, connect } = await openCrowded()
    const regular = await connect()
    const idle: RawConnection[] = []
    for (let n = 0; n < 100; n++) {
      idle.push(await connect())
      regular.send(answerOf(`round ${n}.`))
      await regular.received((text) => text.includes(`round ${n}.`))
    }
    const late = await connect()
    late.send(answerOf('late'))
    expect(await late.received((text) => text.includes('late'))).toContain('200 OK')
    await idle[0]?.ended
    expect(regular.socket.destroyed).toBe(false)
    await expect.poll(() => server.listener.connections()).toBeLessThanOrEqual(30)
    expect(server.listener.sentAway()).toBeGreaterThanOrEqual(70)
  })

  test('and none is idle, those go whose requests do not arrive; who is being answered stays', async () => {
    const { server, connect } = await openCrowded()
    const gate = server.gate()
    const answered = await connect()
    answered.send(rawRequest('Wait', '{}'))
    await gate.reached
    const slow: RawConnection[] = []
    for (let n = 0; n < 40; n++) {
      const connection = await connect()
      connection.send('POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\nContent-Length: 100\r\n\r\n{')
      slow.push(connection)
      await expect.poll(() => server.calls() + server.listener.sentAway()).toBeGreaterThanOrEqual(n + 2)
    }
    const late = await connect()
    late.send(answerOf('late'))
    expect(await late.received((text) => text.includes('late'))).toContain('200 OK')
    gate.open()
    expect(await answered.received((text) => text.includes('Waited'))).toContain('200 OK')
    expect(slow.some(({ socket }) => socket.destroyed)).toBe(true)
  })

  test('by other processes, there is less room here', async () => {
    const { server, connect } = await openCrowded()
    server.listener.connectionsElsewhere(31)
    const first = await connect()
    first.send(answerOf('one'))
    await first.received((text) => text.includes('one'))
    expect(await (await connect()).received()).toBe('')
    // Never is all of it theirs.
    server.listener.connectionsElsewhere(1000)
    first.send(answerOf('two'))
    await first.received((text) => text.includes('two'))
    server.listener.connectionsElsewhere(0)
    const second = await connect()
    second.send(answerOf('three'))
    await second.received((text) => text.includes('three'))
  })
})

describe('a TLS handshake that does not end', () => {
  /** 32 places, of which 2 are kept free. */
  async function openSecure(options: Partial<ListenOptions> = {}) {
    const files = scratch()
    const { cert, key } = selfSigned('localhost')
    const tls = { certFile: files.write('cert.pem', cert), keyFile: files.write('key.pem', key) }
    const server = await openTestServer({ maxConnections: 32, tls, ...options })
    const opened: Socket[] = []
    onTestFinished(async () => {
      for (const socket of opened) socket.destroy()
      await server.close()
      files.remove()
    })
    /** Connects and says nothing. */
    const begin = async (): Promise<RawConnection> => {
      const connection = await rawConnection(server.listener.port)
      opened.push(connection.socket)
      return connection
    }
    /** Connects and ends the handshake; where `over` has begun it, on that. */
    const connect = async (over?: Socket): Promise<RawConnection> => {
      const connection = await secureConnection(server.listener.port, cert, over)
      opened.push(connection.socket)
      return connection
    }
    return { server, begin, connect }
  }

  test('in time is the end of the connection', async () => {
    const { server, begin } = await openSecure({ headersTimeoutMs: 200 })
    await (
      await begin()
    ).ended
    await expect.poll(() => server.listener.connections()).toBe(0)
  })

  const answerOn = (connection: RawConnection): Promise<string> => {
    connection.send(rawRequest('Echo', '{"Text":"still here"}'))
    return connection.received((text) => text.includes('still here'))
  }

  test('takes few places: with more than a quarter it goes before those who are idle, and whoever comes is served', async () => {
    const { server, begin, connect } = await openSecure()
    const regulars: RawConnection[] = []
    for (let n = 0; n < 28; n++) regulars.push(await connect())
    for (let n = 0; n < 100; n++) await begin()
    const late = await connect()
    for (const connection of [...regulars.slice(8), late]) expect(await answerOn(connection)).toContain('200 OK')
    expect(server.listener.sentAway()).toBeGreaterThanOrEqual(98)
  })

  test('is not lost for those who stay idle: while it is of a quarter, who has been idle longest goes for those who come', async () => {
    const { server, begin, connect } = await openSecure()
    const idle: RawConnection[] = []
    for (let n = 0; n < 40; n++) idle.push(await connect())
    const slow = tcpConnect(server.listener.port, '127.0.0.1')
    onTestFinished(() => void slow.destroy())
    await new Promise<void>((resolve, reject) => slow.once('connect', resolve).once('error', reject))
    // Of 30 places 7 and more are for handshakes.
    for (let n = 0; n < 6; n++) await begin()
    await idle[10]?.ended
    expect(await answerOn(await connect(slow))).toContain('200 OK')
    expect(await answerOn(idle[39] as RawConnection)).toContain('200 OK')
  })

  test('goes when they are more than half of the places, also where others are free', async () => {
    const { server, begin, connect } = await openSecure()
    const regular = await connect()
    const first = await begin()
    for (let n = 0; n < 39; n++) await begin()
    await first.ended
    await expect.poll(() => server.listener.connections()).toBe(17)
    await expect.poll(() => server.listener.established()).toBe(1)
    expect(regular.socket.destroyed).toBe(false)
  })

  test('is not waited for when the listener closes; the call beside it is, and gets its answer', async () => {
    const { warnings, log } = heardWarnings()
    const { server, begin, connect } = await openSecure({ ...patient, log })
    const [silent, busy, done, arriving] = [await begin(), await connect(), await connect(), await connect()]
    arriving.send(rawRequest('Echo', '{"Text":"in two parts"}').slice(0, 20))
    const gate = server.gate()
    busy.send(rawRequest('Wait', '{}'))
    await gate.reached
    await expect.poll(() => server.listener.connections()).toBe(4)
    const closed = server.close()
    await silent.ended
    // Its handshake is over, and nothing has come since.
    await done.ended
    arriving.send(rawRequest('Echo', '{"Text":"in two parts"}').slice(20))
    expect(await arriving.received()).toContain('in two parts')
    gate.open()
    expect(await busy.received()).toContain('{"Waited":true}')
    await closed
    expect(warnings).toEqual([])
  })
})

test('who speaks HTTP/2 and has asked for nothing is told that the listener closes', async () => {
  const files = scratch()
  const { cert, key } = selfSigned('localhost')
  const tls = { certFile: files.write('cert.pem', cert), keyFile: files.write('key.pem', key) }
  const server = await openTestServer({ ...patient, tls, handleHttp2: (_request, response) => response.end() })
  const session = http2Connect(server.listener.url, { ca: cert, servername: 'localhost' })
  onTestFinished(async () => {
    session.destroy()
    await server.close()
    files.remove()
  })
  await new Promise<void>((resolve, reject) => session.once('error', reject).once('connect', () => session.ping(() => resolve())))
  const told = new Promise<number>((resolve, reject) => session.once('goaway', resolve).once('close', () => reject(new Error('no GOAWAY'))))
  await server.close()
  expect(await told).toBe(0)
})

test('who connects and says nothing is not waited for when the listener closes; whose request has begun to arrive is answered', async () => {
  const { warnings, log } = heardWarnings()
  const server = await openTestServer({ ...patient, log })
  const silent = await rawConnection(server.listener.port)
  const arriving = await rawConnection(server.listener.port)
  await expect.poll(() => server.listener.connections()).toBe(2)
  arriving.send(rawRequest('Echo', '{"Text":"in two parts"}').slice(0, 20))
  // What another sends after it has been read after it.
  const after = await rawConnection(server.listener.port)
  after.send(rawRequest('Echo', '{"Text":"after"}'))
  await after.received((text) => text.includes('after'))
  const closed = server.close()
  await silent.ended
  arriving.send(rawRequest('Echo', '{"Text":"in two parts"}').slice(20))
  expect(await arriving.received()).toContain('in two parts')
  await closed
  expect(warnings).toEqual([])
})

test('of who sends request after request without waiting 256 are served at once; with more the connection ends', async () => {
  const server = await openTestServer()
  onTestFinished(() => server.close())
  const one = await rawConnection(server.listener.port)
  one.send(Array.from({ length: 256 }, (_, n) => rawRequest('Echo', `{"Text":"number ${n}."}`)).join(''))
  const text = await one.received((all) => all.includes('number 255.'))
  expect(text.match(/HTTP\/1\.1 200 OK/g)).toHaveLength(256)
  one.socket.destroy()
  const gate = server.gate()
  const other = await rawConnection(server.listener.port)
  other.send(rawRequest('Wait', '{}'))
  await gate.reached
  other.send(Array.from({ length: 5000 }, () => rawRequest('Echo', '{}')).join(''))
  await other.ended
  expect(server.calls()).toBeLessThanOrEqual(256)
  gate.open()
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
