/** The door of the XKS proxy, with a small inside: routes, methods, sizes, time and turns, over HTTP, TLS and HTTP/2. */

import { connect as connectHttp2, constants } from 'node:http2'
import { connect as tlsConnect, type ConnectionOptions } from 'node:tls'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog, type LogFields } from '../../src/base/log.ts'
import { openMetrics } from '../../src/base/metrics.ts'
import { listen, type Listener, type TlsFiles } from '../../src/http/server.ts'
import { maxXksBodyBytes, openXksDoor, readTarget, xksSuites, type XksDoorOptions } from '../../src/http/xks.ts'
import type { XksAnswer, XksProxy } from '../../src/kms/xks/proxy.ts'
import type { XksRequest } from '../../src/kms/xks/request.ts'
import { makeAuthority } from '../certificates.ts'
import { askHttp1 as overHttp1, askHttp2 as overHttp2, type Asked, type HttpAnswer, type Server } from '../http-client.ts'
import { rawConnection, scratch, selfSigned, testLimits } from './http-fixture.ts'

const files = scratch()
const { cert, key } = selfSigned('xks')
const pair: TlsFiles = { certFile: files.write('cert.pem', cert), keyFile: files.write('key.pem', key) }
afterAll(() => files.remove())

interface Door {
  readonly listener: Listener
  readonly seen: XksRequest[]
  readonly logged: LogFields[]
  /** What the inside was told of: prefix, word and address. */
  readonly refused: (readonly [string | undefined, string, string])[]
  readonly metrics: () => Promise<string>
}

/** @param answer what the inside says; by default 200 and the length of the body */
async function openDoor(
  options: Partial<XksDoorOptions> & {
    readonly tls?: TlsFiles
    readonly answer?: (request: XksRequest) => Promise<XksAnswer> | XksAnswer
    readonly headersTimeoutMs?: number
    readonly drainTimeoutMs?: number
    readonly maxConnections?: number
  } = {},
): Promise<Door> {
  const {
    tls,
    answer = ({ body }) => ({ status: 200, body: JSON.stringify({ bytes: body.length }) }),
    headersTimeoutMs,
    drainTimeoutMs,
    maxConnections = testLimits.maxConnections,
    ...more
  } = options
  const seen: XksRequest[] = []
  const logged: LogFields[] = []
  const refused: (readonly [string | undefined, string, string])[] = []
  const metrics = openMetrics()
  const proxy: XksProxy = {
    has: (prefix) => ['', '/tenant', '/a/b'].includes(prefix),
    async answer(request) {
      seen.push({ ...request, body: Buffer.from(request.body) })
      return answer(request)
    },
    refusedAtDoor: (...told) => void refused.push(told),
    close: async () => undefined,
  }
  const log = { ...silentLog, info: (fields: LogFields) => void logged.push({ ...fields }) }
  const door = openXksDoor({
    proxy,
    clock: systemClock,
    log,
    metrics,
    deadlineMs: 10_000,
    maxCalls: 64,
    bodyTimeoutMs: 10_000,
    holdMs: 0,
    ...more,
  })
  const listener = await listen({
    name: 'xks',
    host: '127.0.0.1',
    port: 0,
    tls,
    ...testLimits,
    maxConnections,
    ...(headersTimeoutMs !== undefined && { headersTimeoutMs }),
    ...(drainTimeoutMs !== undefined && { drainTimeoutMs }),
    handle: (request, response) => door.handle(request, response),
    handleHttp2: (request, response) => door.handle(request, response),
    log: silentLog,
  })
  return { listener, seen, logged, refused, metrics: async () => (await metrics.page()).text }
}

const at = ({ listener }: Door): Server => ({ url: listener.url, ca: cert })
const askHttp1 = (door: Door, asked: Asked): Promise<HttpAnswer> => overHttp1(at(door), asked)
const askHttp2 = (door: Door, asked: Asked): Promise<HttpAnswer> => overHttp2(at(door), asked)
type Ask = typeof askHttp1

const transports: readonly { readonly name: string; readonly tls: TlsFiles | undefined; readonly ask: Ask }[] = [
  { name: 'HTTP', tls: undefined, ask: askHttp1 },
  { name: 'TLS', tls: pair, ask: askHttp1 },
  { name: 'HTTP/2', tls: pair, ask: askHttp2 },
]

describe.each(transports)('over $name', ({ tls, ask }) => {
  let door: Door
  beforeAll(async () => {
    door = await openDoor(tls ? { tls } : {})
  })
  afterAll(() => door.listener.close())

  test.each([
    ['/kms/xks/v1/health', { prefix: '', api: 'health', externalKeyId: undefined }],
    ['/tenant/kms/xks/v1/health', { prefix: '/tenant', api: 'health', externalKeyId: undefined }],
    ['/a/b/kms/xks/v1/keys/Key-1._x/metadata', { prefix: '/a/b', api: 'metadata', externalKeyId: 'Key-1._x' }],
    ['/kms/xks/v1/keys/k/encrypt', { prefix: '', api: 'encrypt', externalKeyId: 'k' }],
    [`/kms/xks/v1/keys/${'k'.repeat(128)}/decrypt`, { prefix: '', api: 'decrypt', externalKeyId: 'k'.repeat(128) }],
  ])('POST %s reaches the inside', async (path, target) => {
    door.seen.length = 0
    const answer = await ask(door, { path, body: '{"a":1}', headers: { 'x-amz-date': '20260101T000000Z' } })
    expect(answer).toMatchObject({
      status: 200,
      text: '{"bytes":7}',
      headers: { 'content-type': 'application/json', 'cache-control': 'no-store' },
    })
    expect(door.seen).toHaveLength(1)
    const [request] = door.seen
    expect(request).toMatchObject({ ...target, method: 'POST', path, remoteAddress: '127.0.0.1' })
    // What is signed as the host, whatever HTTP's version calls it.
    expect(request?.headers).toMatchObject({ host: `127.0.0.1:${door.listener.port}`, 'x-amz-date': '20260101T000000Z' })
    expect(Object.keys(request?.headers ?? {}).filter((name) => name.startsWith(':'))).toEqual([])
    expect(request?.body.toString()).toBe('{"a":1}')
    expect((request?.deadline ?? 0) - (request?.receivedAt ?? 0)).toBe(10_000)
  })

  test.each([
    '/',
    '/health',
    '/kms/xks/v2/health',
    '/kms/xks/v1/health/',
    '/kms/xks/v1/Health',
    '/kms/xks/v1/health?x=1',
    '/kms/xks/v1/health?',
    '/kms/xks/v1/health#x',
    '/stranger/kms/xks/v1/health',
    '//kms/xks/v1/health',
    '/tenant//kms/xks/v1/health',
    '/tenant/../kms/xks/v1/health',
    '/tenant/./kms/xks/v1/health',
    '/%74enant/kms/xks/v1/health',
    '/kms/xks/v1/keys//encrypt',
    '/kms/xks/v1/keys/k',
    '/kms/xks/v1/keys/k/sign',
    '/kms/xks/v1/keys/a%2Fb/encrypt',
    '/kms/xks/v1/keys/a+b/encrypt',
    '/kms/xks/v1/keys/a:b/encrypt',
    `/kms/xks/v1/keys/${'k'.repeat(129)}/encrypt`,
    `/${'p'.repeat(600)}/kms/xks/v1/health`,
    '/kms/xks/v1/keys/k/encrypt/../decrypt',
  ])('%s is no URI path of a store: 404 before anything else', async (path) => {
    door.seen.length = 0
    door.refused.length = 0
    for (const method of ['POST', 'GET']) {
      const answer = await ask(door, { method, path })
      expect(answer.status).toBe(404)
      expect(JSON.parse(answer.text)).toEqual({
        errorName: 'InvalidUriPathException',
        errorMessage: expect.stringMatching(/^[\x20-\x7e]{1,511}$/),
      })
    }
    // The audit is to have the number of them.
    expect(door.refused.map(([, ...told]) => told)).toEqual(Array.from({ length: 2 }, () => ['InvalidUriPathException', '127.0.0.1']))
    expect(door.seen).toEqual([])
  })

  test.each(['/kms/xks/v1/health', '/tenant/kms/xks/v1/keys/k/metadata', '/kms/xks/v1/keys/k/encrypt', '/kms/xks/v1/keys/k/decrypt'])(
    'only POST is allowed at %s: 405',
    async (path) => {
      door.refused.length = 0
      door.seen.length = 0
      for (const method of ['GET', 'PUT', 'DELETE', 'OPTIONS', 'HEAD', 'PATCH']) {
        expect(await ask(door, { method, path })).toMatchObject({ status: 405, text: '', headers: { allow: 'POST' } })
      }
      expect(door.refused).toEqual(Array.from({ length: 6 }, () => [readTarget(path)?.prefix, '405', '127.0.0.1']))
      expect(door.seen).toEqual([])
    },
  )

  test('a body of the longest length passes, one byte more is 501 before anybody has looked at the signature', async () => {
    door.seen.length = 0
    const path = '/kms/xks/v1/keys/k/encrypt'
    expect(await ask(door, { path, body: Buffer.alloc(maxXksBodyBytes, 0x20) })).toMatchObject({
      status: 200,
      text: `{"bytes":${maxXksBodyBytes}}`,
    })
    const answer = await ask(door, { path, body: Buffer.alloc(maxXksBodyBytes + 1, 0x20) })
    expect(answer.status).toBe(501)
    expect(JSON.parse(answer.text)).toMatchObject({ errorName: 'UnsupportedOperationException' })
    expect(door.seen).toHaveLength(1)
  })

  test('GET /ping answers a load balancer, and says nothing', async () => {
    expect(await ask(door, { method: 'GET', path: '/ping' })).toMatchObject({ status: 200, text: 'pong\n' })
    expect(await ask(door, { method: 'HEAD', path: '/ping' })).toMatchObject({ status: 200, text: '' })
    expect((await ask(door, { method: 'POST', path: '/ping' })).status).toBe(404)
  })
})

/** A call that waits inside until it is let go. */
function gate(): {
  readonly answer: (request: XksRequest) => Promise<XksAnswer>
  readonly reached: (count: number) => Promise<void>
  open(): void
} {
  let arrived = 0
  const waiting: (() => void)[] = []
  const watchers: (() => void)[] = []
  return {
    answer: () => {
      arrived++
      for (const watcher of watchers) watcher()
      return new Promise((resolve) => waiting.push(() => resolve({ status: 200, body: '{}' })))
    },
    reached: (count) =>
      new Promise((resolve) => {
        const look = (): void => void (arrived >= count && resolve())
        watchers.push(look)
        look()
      }),
    open: () => waiting.shift()?.(),
  }
}

const health = '/kms/xks/v1/health'

describe('what is no proper request', () => {
  test.each([
    ['a length that is no number', ['Content-Length: 1x'], '{}', 400],
    ['a negative length', ['Content-Length: -2'], '{}', 400],
    ['two lengths', ['Content-Length: 2', 'Content-Length: 2'], '{}', 400],
    ['a length and chunks', ['Content-Length: 2', 'Transfer-Encoding: chunked'], '2\r\n{}\r\n0\r\n\r\n', 400],
    ['two hosts', ['Host: another', 'Content-Length: 2'], '{}', 400],
    ['two signatures', ['Authorization: a', 'Authorization: b', 'Content-Length: 2'], '{}', 400],
    ['headers without end', [`A: ${'x'.repeat(40_000)}`], '', 431],
    ['a length above the cap, and no body', [`Content-Length: ${maxXksBodyBytes + 1}`], '', 501],
    ['a length above what numbers hold', [`Content-Length: ${'9'.repeat(30)}`], '', 400],
    [
      'chunks above the cap',
      ['Transfer-Encoding: chunked'],
      `${(maxXksBodyBytes + 1).toString(16)}\r\n${'x'.repeat(maxXksBodyBytes + 1)}\r\n0\r\n\r\n`,
      501,
    ],
  ])('%s is refused over HTTP/1.1', async (_what, headers, body, status) => {
    const door = await openDoor()
    onTestFinished(() => door.listener.close())
    const connection = await rawConnection(door.listener.port)
    connection.send([`POST ${health} HTTP/1.1`, 'Host: h', ...headers, '', body].join('\r\n'))
    expect(await connection.received((text) => text.includes('\r\n\r\n'))).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
    expect(door.seen).toEqual([])
    connection.socket.destroy()
  })

  test('chunks of no length end the connection', async () => {
    const door = await openDoor()
    onTestFinished(() => door.listener.close())
    const connection = await rawConnection(door.listener.port)
    connection.send(`POST ${health} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n{}\r\n0\r\n\r\n`)
    expect(await connection.received()).toBe('')
    expect(door.seen).toEqual([])
  })

  test('after a body that was too long the connection serves the next request, and one without end loses it', async () => {
    const door = await openDoor()
    onTestFinished(() => door.listener.close())
    const connection = await rawConnection(door.listener.port)
    const long = 'x'.repeat(100_000)
    connection.send(`POST ${health} HTTP/1.1\r\nHost: h\r\nContent-Length: ${long.length}\r\n\r\n${long}`)
    connection.send(`POST ${health} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}`)
    expect(await connection.received((text) => text.includes('{"bytes":2}'))).toMatch(/^HTTP\/1\.1 501 [^]*HTTP\/1\.1 200 /)
    connection.send(`POST ${health} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n`)
    const pump = (): void => {
      if (!connection.socket.destroyed) connection.socket.write(`10000\r\n${'x'.repeat(65_536)}\r\n`, () => setImmediate(pump))
    }
    pump()
    await connection.ended
    connection.socket.destroy()
  })

  test('a body that comes too slowly ends in 408, and the connection with it', async () => {
    const door = await openDoor({ bodyTimeoutMs: 100 })
    onTestFinished(() => door.listener.close())
    const connection = await rawConnection(door.listener.port)
    connection.send(`POST ${health} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{`)
    expect(await connection.received()).toMatch(/^HTTP\/1\.1 408 /)
    expect(door.seen).toEqual([])
  })

  test('over HTTP/2 a body above the cap is 501 and its rest is not wanted; one that comes too slowly is 408', async () => {
    const door = await openDoor({ tls: pair, bodyTimeoutMs: 300 })
    const session = connectHttp2(door.listener.url, { ca: cert })
    onTestFinished(async () => {
      session.destroy()
      await door.listener.close()
    })
    const ask = (headers: Record<string, string>, body: string): Promise<{ status: number; code: number }> =>
      new Promise((resolve) => {
        let status = 0
        const stream = session.request({ ':method': 'POST', ':path': health, ...headers })
        stream.on('response', (answer) => (status = Number(answer[':status'])))
        stream.on('error', () => undefined)
        stream.on('close', () => resolve({ status, code: stream.rstCode }))
        stream.resume()
        // It never ends.
        stream.write(body)
      })
    expect(await ask({}, 'x'.repeat(maxXksBodyBytes + 1))).toEqual({ status: 501, code: constants.NGHTTP2_NO_ERROR })
    expect(await ask({ 'content-length': '900000' }, 'x')).toEqual({ status: 501, code: constants.NGHTTP2_NO_ERROR })
    expect((await ask({}, '{')).status).toBe(408)
    expect(door.seen).toEqual([])
    // The connection goes on.
    expect(await askHttp2(door, { path: health, body: '{}' })).toMatchObject({ status: 200 })
  })

  test('over HTTP/2 a host that is not :authority is refused, and headers beyond the limit never become a request', async () => {
    const door = await openDoor({ tls: pair })
    onTestFinished(() => door.listener.close())
    const session = connectHttp2(door.listener.url, { ca: cert })
    const stream = session.request({ ':method': 'POST', ':path': health, ':authority': 'one', host: 'another' })
    expect(await new Promise((resolve) => stream.once('response', (headers) => resolve(headers[':status'])))).toBe(400)
    session.destroy()
    expect(door.seen).toEqual([])
    const flooded = Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`x-${n}`, 'x'.repeat(50)]))
    const outcome = await askHttp2(door, { path: health, headers: flooded, body: '{}' }).then(
      ({ status }) => status,
      () => 'no answer',
    )
    expect([431, 0, 'no answer']).toContain(outcome)
    expect(door.seen).toEqual([])
  })

  test('no path but those of the grammar names a call', () => {
    const piece = fc.constantFrom(
      '/',
      '//',
      'kms',
      'xks',
      'v1',
      'v2',
      'health',
      'keys',
      'k',
      '.',
      '..',
      'encrypt',
      'metadata',
      '%2e',
      '?',
      '#',
      'tenant',
      ' ',
      '\\',
      'é',
      '',
    )
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 14 }), (pieces) => {
        const path = pieces.join('')
        const target = readTarget(path)
        if (!target) return
        const { prefix, api, externalKeyId } = target
        expect(`${prefix}/kms/xks/v1/${api === 'health' ? 'health' : `keys/${externalKeyId}/${api}`}`).toBe(path)
        expect(prefix).toMatch(/^(?:\/[A-Za-z0-9_-]+)*$/)
      }),
    )
  })
})

describe('time and turns', () => {
  test('an answer that does not come within the deadline is 503, and what the inside says later goes nowhere', async () => {
    const inside = gate()
    const door = await openDoor({ deadlineMs: 50, answer: inside.answer })
    onTestFinished(() => door.listener.close())
    const answer = await askHttp1(door, { path: health, body: '{}' })
    expect(answer.status).toBe(503)
    expect(JSON.parse(answer.text)).toMatchObject({ errorName: 'DependencyTimeoutException' })
    inside.open()
    expect(await askHttp1(door, { method: 'GET', path: '/ping' })).toMatchObject({ status: 200 })
    expect(door.logged.filter(({ status }) => status === 503)).toHaveLength(1)
  })

  test('an inside that breaks its promise is 500 and tells nothing', async () => {
    const door = await openDoor({ answer: () => Promise.reject(new Error('a secret')) })
    onTestFinished(() => door.listener.close())
    const answer = await askHttp1(door, { path: health, body: '{}' })
    expect(answer.status).toBe(500)
    expect(JSON.parse(answer.text)).toEqual({ errorName: 'InternalException', errorMessage: expect.not.stringContaining('secret') })
  })

  test('who waits longer than half of the deadline for a turn is told to come again: 429', async () => {
    const inside = gate()
    const door = await openDoor({ maxCalls: 1, deadlineMs: 400, answer: inside.answer })
    onTestFinished(() => door.listener.close())
    const first = askHttp1(door, { path: health, body: '{}' })
    await inside.reached(1)
    const answer = await askHttp1(door, { path: health, body: '{}' })
    expect(answer.status).toBe(429)
    expect(JSON.parse(answer.text)).toMatchObject({ errorName: 'ThrottlingException' })
    inside.open()
    await first
    expect(door.seen).toHaveLength(1)
    expect(await door.metrics()).toMatch(/^holdfast_xks_proxy_refused_total\{kind="429"\} 1$/m)
  })

  test.each([401, 429])('who is answered %i waits for it a moment, and holds up nobody meanwhile', async (status) => {
    let told = 0
    const door = await openDoor({
      maxCalls: 1,
      holdMs: 9000,
      drainTimeoutMs: 50,
      answer: ({ prefix }) => ({ status: prefix === '/tenant' ? status : 200, body: `{"turn":${(told += 1)}}` }),
    })
    const order: number[] = []
    const slow = askHttp1(door, { path: '/tenant/kms/xks/v1/health', body: '{}' }).then(
      (answer) => order.push(answer.status),
      () => 'the test has ended',
    )
    await expect.poll(() => told).toBe(1)
    await askHttp1(door, { path: health, body: '{}' }).then((answer) => order.push(answer.status))
    expect(order).toEqual([200])
    await door.listener.close()
    await slow
  })

  test('who is refused by the inside is told its words, after that moment', async () => {
    const door = await openDoor({ holdMs: 20, answer: () => ({ status: 429, body: '{"errorName":"ThrottlingException"}' }) })
    onTestFinished(() => door.listener.close())
    expect(await askHttp1(door, { path: health, body: '{}' })).toMatchObject({ status: 429, text: '{"errorName":"ThrottlingException"}' })
  })

  test('stores take turns: one call of a calm store passes those that wait for a busy one', async () => {
    const inside = gate()
    const door = await openDoor({ maxCalls: 1, answer: inside.answer })
    onTestFinished(() => door.listener.close())
    const order: string[] = []
    const ask = (prefix: string): Promise<void> =>
      askHttp1(door, { path: `${prefix}/kms/xks/v1/health`, body: '{}' }).then(() => void order.push(prefix))
    const busy = Array.from({ length: 10 }, () => ask('/tenant'))
    await inside.reached(1)
    await expect.poll(() => door.metrics()).toMatch(/^holdfast_xks_proxy_waiting 9$/m)
    const calm = ask('/a/b')
    await expect.poll(() => door.metrics()).toMatch(/^holdfast_xks_proxy_waiting 10$/m)
    for (let turn = 1; turn <= 11; turn++) {
      await inside.reached(turn)
      inside.open()
    }
    await Promise.all([...busy, calm])
    expect(door.seen.map(({ prefix }) => prefix).indexOf('/a/b')).toBeLessThanOrEqual(2)
  })

  test('connections over HTTP/2 that ask for nothing give way when places run out; one that is being answered stays', async () => {
    const inside = gate()
    const door = await openDoor({ tls: pair, maxConnections: 32, answer: inside.answer })
    const sessions: ReturnType<typeof connectHttp2>[] = []
    onTestFinished(async () => {
      inside.open()
      for (const session of sessions) session.destroy()
      await door.listener.close()
    })
    const busy = askHttp2(door, { path: '/kms/xks/v1/health', body: '{}' })
    await expect.poll(() => door.seen.length).toBe(1)
    for (let n = 0; n < 60; n++) {
      const session = connectHttp2(door.listener.url, { ca: cert })
      session.on('error', () => undefined)
      sessions.push(session)
      await new Promise<void>((resolve) => session.once('connect', () => resolve()))
    }
    expect(door.listener.sentAway()).toBeGreaterThanOrEqual(28)
    inside.open()
    expect(await busy).toMatchObject({ status: 200 })
    expect(await askHttp2(door, { method: 'GET', path: '/ping' })).toMatchObject({ status: 200 })
  })

  test('a connection has so many requests under way and no more', async () => {
    const inside = gate()
    const door = await openDoor({ maxCalls: 1000, answer: inside.answer })
    onTestFinished(() => door.listener.close())
    const connection = await rawConnection(door.listener.port)
    // Pipelined: HTTP/1.1 lets a client do so.
    connection.send(`POST ${health} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}`.repeat(130))
    await inside.reached(128)
    await expect.poll(() => door.metrics()).toMatch(/^holdfast_xks_proxy_refused_total\{kind="429"\} 2$/m)
    expect(door.seen).toHaveLength(128)
    connection.socket.destroy()
    for (let turn = 0; turn < 128; turn++) inside.open()
  })

  test('what was reset over HTTP/2 and is still being worked at counts for its connection', async () => {
    const inside = gate()
    const door = await openDoor({ tls: pair, maxCalls: 1000, answer: inside.answer })
    const session = connectHttp2(door.listener.url, { ca: cert })
    onTestFinished(async () => {
      session.destroy()
      await door.listener.close()
    })
    const ask = () => {
      const stream = session.request({ ':method': 'POST', ':path': health })
      stream.on('error', () => undefined)
      stream.end('{}')
      return stream
    }
    const streams = Array.from({ length: 128 }, ask)
    await inside.reached(128)
    for (const stream of streams) stream.close(constants.NGHTTP2_CANCEL)
    const status = await new Promise((resolve) => ask().once('response', (headers) => resolve(headers[':status'])))
    expect(status).toBe(429)
    expect(door.seen).toHaveLength(128)
    for (let turn = 0; turn < 128; turn++) inside.open()
  })

  test('bodies that are left unfinished keep nobody out: the oldest of them goes', async () => {
    const door = await openDoor({ maxOpen: 2 })
    onTestFinished(() => door.listener.close())
    const unfinished = []
    for (const length of [2, 3]) {
      const connection = await rawConnection(door.listener.port)
      // The second time it is asked, the first time's bytes have been read: they came before on the same connection.
      connection.send(`GET /ping HTTP/1.1\r\nHost: h\r\n\r\nPOST ${health} HTTP/1.1\r\nHost: h\r\nContent-Length: ${length}\r\n\r\n{`)
      await connection.received((text) => text.includes('pong'))
      unfinished.push(connection)
    }
    expect(await askHttp1(door, { path: health, body: '{}' })).toMatchObject({ status: 200, text: '{"bytes":2}' })
    expect(await unfinished[0]?.received()).toMatch(/HTTP\/1\.1 408 /)
    unfinished[1]?.send(' }')
    expect(await unfinished[1]?.received((text) => text.includes('bytes'))).toMatch(/\{"bytes":3\}/)
    unfinished[1]?.socket.destroy()
  })

  test('closing finishes what is under way on HTTP/1.1 and HTTP/2, and takes nothing more', async () => {
    const inside = gate()
    const door = await openDoor({ tls: pair, answer: inside.answer })
    const answers = [askHttp1(door, { path: health, body: '{}' }), askHttp2(door, { path: health, body: '{}' })]
    await inside.reached(2)
    const idle = connectHttp2(door.listener.url, { ca: cert })
    await new Promise((resolve) => idle.once('connect', resolve))
    const gone = new Promise((resolve) => idle.once('close', resolve))
    const closed = door.listener.close()
    await gone
    await expect(askHttp1(door, { method: 'GET', path: '/ping' })).rejects.toThrow(/ECONNREFUSED/)
    inside.open()
    inside.open()
    expect((await Promise.all(answers)).map(({ status }) => status)).toEqual([200, 200])
    await closed
  })

  test('closing ends what outlives the time to finish, on HTTP/2 too', async () => {
    const inside = gate()
    const door = await openDoor({ tls: pair, answer: inside.answer, drainTimeoutMs: 100 })
    const answer = askHttp2(door, { path: health, body: '{}' }).then(
      ({ status }) => status,
      () => 'no answer',
    )
    await inside.reached(1)
    await door.listener.close()
    expect([0, 'no answer']).toContain(await answer)
    inside.open()
  })
})

/** What a TLS client comes to: what it negotiated and the first line of an answer to GET /ping, or how it was turned away. */
function greet(port: number, options: ConnectionOptions): Promise<string> {
  return new Promise((resolve) => {
    const socket = tlsConnect({ host: '127.0.0.1', port, rejectUnauthorized: false, ...options })
    let text = ''
    socket.setEncoding('latin1')
    socket.on('secureConnect', () => socket.write('GET /ping HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n'))
    socket.on('data', (chunk: string) => (text += chunk))
    socket.on('error', () => undefined)
    socket.on('close', () => resolve(text === '' ? 'turned away' : text.slice(0, text.indexOf('\r\n'))))
  })
}
const served = 'HTTP/1.1 200 OK'

describe('TLS', () => {
  test.each([
    ['TLS_AES_256_GCM_SHA384', { minVersion: 'TLSv1.3', ciphers: 'TLS_AES_256_GCM_SHA384' }, served],
    ['TLS_CHACHA20_POLY1305_SHA256', { minVersion: 'TLSv1.3', ciphers: 'TLS_CHACHA20_POLY1305_SHA256' }, served],
    ['ECDHE-ECDSA-AES256-GCM-SHA384', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES256-GCM-SHA384' }, served],
    ['ECDHE-ECDSA-AES128-GCM-SHA256', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256' }, 'turned away'],
    ['ECDHE-ECDSA-AES256-SHA', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES256-SHA' }, 'turned away'],
    ['AES256-GCM-SHA384', { maxVersion: 'TLSv1.2', ciphers: 'AES256-GCM-SHA384' }, 'turned away'],
    ['TLS 1.1', { minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }, 'turned away'],
  ] as const)('the suites are those of the specification: %s', async (_name, options, outcome) => {
    const door = await openDoor({ tls: { ...pair, suites: xksSuites } })
    onTestFinished(() => door.listener.close())
    expect(await greet(door.listener.port, options)).toBe(outcome)
  })

  test('a new certificate is served after a reload, on HTTP/2 too, with the same suites', async () => {
    const [old, renewed] = [selfSigned('old'), selfSigned('renewed')]
    const tls = { certFile: files.write('reload.pem', old.cert), keyFile: files.write('reload.key', old.key), suites: xksSuites }
    const door = await openDoor({ tls })
    const session = connectHttp2(door.listener.url, { ca: old.cert })
    onTestFinished(async () => {
      session.destroy()
      await door.listener.close()
    })
    await new Promise((resolve) => session.once('connect', resolve))
    files.write('reload.pem', renewed.cert)
    files.write('reload.key', renewed.key)
    expect(door.listener.reloadCertificate()).toBe(true)
    expect(await greet(door.listener.port, { ca: renewed.cert, rejectUnauthorized: true })).toBe(served)
    expect(await greet(door.listener.port, { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256' })).toBe('turned away')
    // The connection that was open goes on.
    const stream = session.request({ ':method': 'GET', ':path': '/ping' })
    expect(await new Promise((resolve) => stream.once('response', (headers) => resolve(headers[':status'])))).toBe(200)
  })

  test('clients are asked for a certificate where that is wanted: of the right authority and for a right name, in SAN or CN', async () => {
    const [right, wrong] = [makeAuthority('Right'), makeAuthority('Wrong')]
    const tls = { ...pair, clients: { caFile: right.caFile, names: ['cks.kms.us-east-1.amazonaws.com', 'second.example'] } }
    const door = await openDoor({ tls })
    onTestFinished(async () => {
      await door.listener.close()
      right.remove()
      wrong.remove()
    })
    const name = 'cks.kms.us-east-1.amazonaws.com'
    const cases = [
      ['CN', right.issue(name), served],
      ['SAN', right.issue('another', ['x.example', 'SECOND.example']), served],
      ['neither', right.issue('another', ['x.example']), 'turned away'],
      ['a name below it', right.issue(`x.${name}`, [`x.${name}`]), 'turned away'],
      ['an authority that is not ours', wrong.issue(name), 'turned away'],
      ['no certificate', undefined, 'turned away'],
    ] as const
    for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
      for (const [what, issued, outcome] of cases) {
        const options = { minVersion: version, maxVersion: version, ...(issued && { cert: issued.cert, key: issued.key }) }
        expect([version, what, await greet(door.listener.port, options)]).toEqual([version, what, outcome])
      }
    }
    const stranger = connectHttp2(door.listener.url, { ca: cert, ...right.issue('another') })
    const ended = new Promise((resolve) => stranger.once('close', resolve))
    stranger.on('error', () => undefined)
    const stream = stranger.request({ ':method': 'GET', ':path': '/ping' })
    let answered = false
    stream.on('response', () => (answered = true))
    stream.on('error', () => undefined)
    await ended
    expect(answered).toBe(false)
  })
})
