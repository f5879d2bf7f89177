/** The JSON door over raw sockets: what a client sees on the wire, byte by byte where clients compare bytes. */

import { afterAll, beforeAll, expect, test } from 'vitest'
import { openTestServer, rawConnection, rawRequest, type TestServer } from './http-fixture.ts'

let server: TestServer
beforeAll(async () => {
  server = await openTestServer()
})
afterAll(() => server.close())

/** Sends one request on its own connection and answers all that came back. */
async function exchange(request: string, port = server.listener.port): Promise<string> {
  const connection = await rawConnection(port)
  connection.send(request)
  const text = await connection.received(isWhole)
  connection.socket.destroy()
  return text
}

const isWhole = (text: string): boolean => {
  const at = text.indexOf('\r\n\r\n')
  return at >= 0 && text.length - at - 4 >= Number(/content-length: (\d+)/i.exec(text)?.[1] ?? 0)
}
const bodyOf = (text: string): unknown => JSON.parse(text.slice(text.indexOf('\r\n\r\n') + 4))
const statusOf = (text: string): number => Number(text.split(' ', 2)[1])

test('an answer carries the headers that clients read, spelt as AWS spells them, and no others that could confuse them', async () => {
  const before = Date.now()
  const text = await exchange(rawRequest('Echo', '{"Text":"hé"}'))
  expect(statusOf(text)).toBe(200)
  const headers = text.slice(0, text.indexOf('\r\n\r\n')).split('\r\n').slice(1)
  expect(headers.map((line) => line.split(':')[0])).toEqual([
    'x-amzn-RequestId',
    'Cache-Control',
    'Content-Type',
    'Content-Length',
    'Date',
    'Connection',
    'Keep-Alive',
  ])
  expect(text).toContain('\r\nContent-Type: application/x-amz-json-1.1\r\n')
  expect(text).toMatch(/\r\nx-amzn-RequestId: [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\r\n/)
  expect(Math.abs(Date.parse(/\r\nDate: (.*)\r\n/.exec(text)?.[1] ?? '') - before)).toBeLessThan(60_000)
  expect(text).toContain(`\r\nContent-Length: ${Buffer.byteLength('{"Input":{"Text":"hé"}}')}\r\n`)
  expect(JSON.parse(Buffer.from(text.slice(text.indexOf('\r\n\r\n') + 4), 'latin1').toString('utf8'))).toEqual({ Input: { Text: 'hé' } })
})

test('the request id of the answer is the one in the audit record', async () => {
  server.records.length = 0
  const text = await exchange(rawRequest('Echo', '{}'))
  expect(server.records.map((record) => record['requestID'])).toEqual([/x-amzn-RequestId: (\S+)/.exec(text)?.[1]])
})

test('an error is its bare name and its words; AccessDeniedException spells them Message; without words there is only the name', async () => {
  const deny = async (code: string, message?: string): Promise<unknown> =>
    bodyOf(await exchange(rawRequest('Deny', JSON.stringify({ Code: code, ...(message !== undefined && { Message: message }) }))))
  expect(await deny('NotFoundException', 'not there')).toEqual({ __type: 'NotFoundException', message: 'not there' })
  expect(await deny('AccessDeniedException', 'no')).toEqual({ __type: 'AccessDeniedException', Message: 'no' })
  expect(await deny('InvalidCiphertextException')).toEqual({ __type: 'InvalidCiphertextException' })
})

test('a defect is a 500 that tells nothing outside', async () => {
  const text = await exchange(rawRequest('Deny', '{"Code":"Broken"}'))
  expect(statusOf(text)).toBe(500)
  expect(bodyOf(text)).toMatchObject({ __type: 'KMSInternalException' })
  expect(text).not.toContain('secret')
})

test.each(['TrentService.Nonsense', 'TrentService.', 'TrentService', 'Echo', '', 'trentservice.Echo', 'TrentService.constructor', 'a, b'])(
  'the target %j is an unknown operation, in JSON, status 400',
  async (target) => {
    const text = await exchange(`POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: ${target}\r\nContent-Length: 2\r\n\r\n{}`)
    expect(statusOf(text)).toBe(400)
    expect(bodyOf(text)).toEqual({ __type: 'UnknownOperationException' })
  },
)

test('what is no operation is in the audit as a number', async () => {
  server.records.length = 0
  for (const target of ['TrentService.Nonsense', 'Echo'])
    await exchange(`POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: ${target}\r\nContent-Length: 2\r\n\r\n{}`)
  await server.strangers.close()
  expect(server.records).toHaveLength(1)
  expect(server.records[0]).toMatchObject({ eventName: 'UnrecordedRequests', eventSource: 'kms.amazonaws.com' })
  const details: unknown = server.records[0]?.['serviceEventDetails']
  const { requests, byErrorCode } = details as { requests: number; byErrorCode: Record<string, number> }
  expect(byErrorCode['UnknownOperationException']).toBeGreaterThanOrEqual(2)
  expect(requests).toBe(Object.values(byErrorCode).reduce((sum, count) => sum + count, 0))
})

test('a POST without a target is an unknown operation', async () => {
  const text = await exchange('POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n')
  expect(statusOf(text)).toBe(400)
  expect(bodyOf(text)).toEqual({ __type: 'UnknownOperationException' })
})

test.each(['application/x-amz-json-1.0', 'application/json', 'text/plain', ''])('the content type %j is tolerated', async (type) => {
  const text = await exchange(
    `POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\nContent-Type: ${type}\r\nContent-Length: 12\r\n\r\n{"Text":"x"}`,
  )
  expect(bodyOf(text)).toEqual({ Input: { Text: 'x' } })
})

test.each(['{', '[]', '"x"', 'null', '{"Text":"a","Text":"b"}', '{"Text":"\\ud800"}', `{"Text":${'['.repeat(100)}${']'.repeat(100)}}`])(
  'the body %j is a SerializationException, recorded like every call',
  async (body) => {
    server.records.length = 0
    const text = await exchange(rawRequest('Echo', body))
    expect(statusOf(text)).toBe(400)
    expect(bodyOf(text)).toMatchObject({ __type: 'SerializationException' })
    expect(server.records).toHaveLength(1)
    expect(server.records[0]).toMatchObject({ eventName: 'Echo', errorCode: 'SerializationException' })
  },
)

test('a body in many small chunks arrives whole', async () => {
  const connection = await rawConnection(server.listener.port)
  connection.send('POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\nTransfer-Encoding: chunked\r\n\r\n')
  for (const character of '{"Text":"in pieces"}') connection.send(`1\r\n${character}\r\n`)
  connection.send('0\r\n\r\n')
  expect(bodyOf(await connection.received(isWhole))).toEqual({ Input: { Text: 'in pieces' } })
  connection.socket.destroy()
})

test('pipelined requests are answered in order', async () => {
  const connection = await rawConnection(server.listener.port)
  connection.send(Array.from({ length: 20 }, (_, number) => rawRequest('Echo', `{"Number":${number}}`)).join(''))
  const text = await connection.received((all) => all.split('HTTP/1.1 200').length === 21 && all.includes('"Number":19}'))
  expect([...text.matchAll(/"Number":(\d+)/g)].map((match) => Number(match[1]))).toEqual(Array.from({ length: 20 }, (_, number) => number))
  connection.socket.destroy()
})

test('a request that offers h2c by Upgrade is served as it stands', async () => {
  const text = await exchange(
    rawRequest('Echo', '{"Text":"x"}', [
      'Connection: Upgrade, HTTP2-Settings',
      'Upgrade: h2c',
      'HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA',
    ]),
  )
  expect(statusOf(text)).toBe(200)
  expect(bodyOf(text)).toEqual({ Input: { Text: 'x' } })
})

test('a body longer than the limit is refused by its announced length, before it is sent', async () => {
  server.records.length = 0
  const connection = await rawConnection(server.listener.port)
  connection.send('POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\nContent-Length: 65537\r\n\r\n')
  const text = await connection.received(isWhole)
  expect(statusOf(text)).toBe(413)
  expect(bodyOf(text)).toMatchObject({ __type: 'RequestEntityTooLargeException' })
  expect(server.records).toEqual([])
  // What was announced may still come; the connection is then good for the next request.
  connection.send('x'.repeat(65_537))
  connection.send(rawRequest('Echo', '{"Text":"next"}'))
  expect(await connection.received((all) => all.includes('next'))).toContain('{"Input":{"Text":"next"}}')
  connection.socket.destroy()
})

/** Sends a long body without reading, whatever comes back meanwhile; then reads. */
async function sendThenRead(port: number, head: string, bytes: number): Promise<string> {
  const connection = await rawConnection(port)
  const { socket } = connection
  socket.pause()
  const send = (text: string): Promise<void> => new Promise((resolve) => socket.write(text, () => resolve()))
  await send(head)
  const chunk = 'x'.repeat(4096)
  for (let sent = 0; sent < bytes && !socket.destroyed; sent += chunk.length) {
    await send(chunk)
    // What a reset does to a sender shows with the next write but one.
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
  socket.resume()
  return connection.received(isWhole)
}

test('who still sends a body that is too long finds the answer, though the connection ends with it', async () => {
  const head = 'POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n'
  const text = await sendThenRead(server.listener.port, head, 80_000)
  expect(statusOf(text)).toBe(413)
  expect(bodyOf(text)).toMatchObject({ __type: 'RequestEntityTooLargeException' })
})

test('of a body that is too long only so much is read: its sender is held up, then the connection ends', async () => {
  const connection = await rawConnection(server.listener.port)
  connection.send('POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\nContent-Length: 1000000000000\r\n\r\n')
  let sent = 0
  const chunk = 'x'.repeat(65_536)
  const pour = (): void => {
    if (connection.socket.destroyed) return
    connection.socket.write(chunk, () => {
      sent += chunk.length
      pour()
    })
  }
  pour()
  await connection.ended
  // What lies in the buffers of the system between the two has been sent, too.
  expect(sent).toBeLessThan(32 * 1_048_576)
})

test('a chunked body is refused as soon as it is too long', async () => {
  const connection = await rawConnection(server.listener.port)
  connection.send('POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\nTransfer-Encoding: chunked\r\n\r\n')
  for (let sent = 0; sent <= 65_536; sent += 4096) connection.send(`1000\r\n${'x'.repeat(4096)}\r\n`)
  expect(statusOf(await connection.received(isWhole))).toBe(413)
  connection.socket.destroy()
})

test('a body of exactly the limit is read', async () => {
  const body = `{"Text":"${'x'.repeat(65_536 - 11)}"}`
  expect(body).toHaveLength(65_536)
  expect(statusOf(await exchange(rawRequest('Echo', body)))).toBe(200)
})

test('Expect: 100-continue is told to go on only with a body that will be read', async () => {
  const asking = (length: number): string =>
    `POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\nExpect: 100-continue\r\nContent-Length: ${length}\r\n\r\n`
  const good = await rawConnection(server.listener.port)
  good.send(asking(12))
  expect(await good.received((text) => text.includes('\r\n\r\n'))).toBe('HTTP/1.1 100 Continue\r\n\r\n')
  good.send('{"Text":"x"}')
  expect(await good.received()).toContain('{"Input":{"Text":"x"}}')
  const long = await rawConnection(server.listener.port)
  long.send(asking(65_537))
  const refused = await long.received()
  expect(statusOf(refused)).toBe(413)
  expect(refused).toContain('\r\nConnection: close\r\n')
})

test('unfinished long bodies share one room; who finds it full is told to try again, and ordinary requests need none of it', async () => {
  const small = await openTestServer({ maxBodyBytes: 300_000, maxLongBodiesBytes: 150_000 })
  const { port } = small.listener
  const long = `{"Text":"${'x'.repeat(199_989)}"}`
  const head = 'POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\n'
  const unfinished = await rawConnection(port)
  unfinished.send(`${head}Content-Length: 200000\r\n\r\n${long.slice(0, -1)}`)
  // The room is taken once the bytes have come; until then the other one finds it empty.
  await expect.poll(async () => bodyOf(await exchange(rawRequest('Echo', long), port))).toMatchObject({ __type: 'ThrottlingException' })
  expect(statusOf(await exchange(rawRequest('Echo', `{"Text":"${'x'.repeat(60_000)}"}`), port))).toBe(200)
  unfinished.send(long.slice(-1))
  expect(statusOf(await unfinished.received(isWhole))).toBe(200)
  unfinished.socket.destroy()
  // Finished and abandoned bodies give the room back.
  const abandoned = await rawConnection(port)
  abandoned.send(`${head}Content-Length: 200000\r\n\r\n${long.slice(0, -1)}`)
  abandoned.socket.destroy()
  await expect.poll(async () => statusOf(await exchange(rawRequest('Echo', long), port))).toBe(200)
  await small.close()
})

test('a long body that comes in the smallest chunks arrives whole', async () => {
  const text = Array.from({ length: 5000 }, (_, index) => String(index % 10)).join('')
  const connection = await rawConnection(server.listener.port)
  const chunks = `{"Text":"${text}"}`.replaceAll(/./g, '1\r\n$&\r\n')
  connection.send(`POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}0\r\n\r\n`)
  expect(bodyOf(await connection.received(isWhole))).toEqual({ Input: { Text: text } })
  connection.socket.destroy()
})

test('more calls at once than the limit are told to try again', async () => {
  const small = await openTestServer({ maxConcurrentCalls: 1 })
  const gate = small.gate()
  const first = await rawConnection(small.listener.port)
  first.send(rawRequest('Wait', '{}'))
  await gate.reached
  const text = await exchange(rawRequest('Echo', '{}'), small.listener.port)
  expect(statusOf(text)).toBe(400)
  expect(bodyOf(text)).toEqual({ __type: 'ThrottlingException', message: 'Rate exceeded' })
  gate.open()
  expect(bodyOf(await first.received(isWhole))).toEqual({ Waited: true })
  expect(statusOf(await exchange(rawRequest('Echo', '{}'), small.listener.port))).toBe(200)
  first.socket.destroy()
  await small.close()
})

test('a caller that goes away in the middle of its body leaves nothing behind', async () => {
  server.records.length = 0
  const connection = await rawConnection(server.listener.port)
  connection.send('POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.Echo\r\nContent-Length: 100\r\n\r\n{"Te')
  connection.socket.end()
  await connection.ended
  await expect.poll(() => server.calls()).toBe(0)
  expect(server.records).toEqual([])
})

test('GET and HEAD /healthz are answered; anything else is 404 in JSON', async () => {
  const get = await exchange('GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n')
  expect(statusOf(get)).toBe(200)
  expect(bodyOf(get)).toEqual({ status: 'ok' })
  const head = await rawConnection(server.listener.port)
  head.send('HEAD /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n')
  const headText = await head.received()
  expect(statusOf(headText)).toBe(200)
  expect(headText.endsWith('\r\n\r\n')).toBe(true)
  for (const line of ['GET / HTTP/1.1', 'GET /metrics HTTP/1.1', 'POST /elsewhere HTTP/1.1', 'GET /%zz HTTP/1.1', 'DELETE / HTTP/1.1']) {
    const text = await exchange(`${line}\r\nHost: h\r\nContent-Length: 0\r\n\r\n`)
    expect([400, 404]).toContain(statusOf(text))
    expect(text.toLowerCase()).toContain('content-type: application/json')
    expect(text).not.toContain('X-Powered-By')
    expect(bodyOf(text)).toHaveProperty('message')
  }
})

test('the page of metrics counts calls that reached the road and calls that did not', async () => {
  const own = await openTestServer()
  await exchange(rawRequest('Echo', '{}'), own.listener.port)
  await exchange(rawRequest('Nonsense', '{}'), own.listener.port)
  const { text } = await own.metrics.page()
  expect(text).toContain('holdfast_calls_total{operation="Echo",code="ok"} 1')
  expect(text).toContain('holdfast_calls_total{operation="none",code="UnknownOperationException"} 1')
  await own.close()
})
