/** A listener on loopback with the real door and the real road behind it; only what stands behind the road is small. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as tlsConnect } from 'node:tls'
import type { AuditRecord } from '../../src/audit/trail.ts'
import type { Principal } from '../../src/auth/principal.ts'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { openMetrics, type Metrics } from '../../src/base/metrics.ts'
export { selfSigned } from '../../src/bench/certificate.ts'
import { openApp } from '../../src/http/app.ts'
import { openDoor } from '../../src/http/door.ts'
import { listen, type Listener, type ListenOptions } from '../../src/http/server.ts'
import { kmsError } from '../../src/kms/errors.ts'
import { operation } from '../../src/kms/operation.ts'
import type { Api } from '../../src/kms/operations/index.ts'
import type { Service } from '../../src/kms/service.ts'
import { Buckets, openThrottle } from '../../src/kms/quotas.ts'
import { openStrangers, type Strangers } from '../../src/kms/strangers.ts'
import { boolean, integer, list, optional, string, structure } from '../../src/kms/shape.ts'

const tags = optional(list(structure({ Key: string(), Value: string() })))
const input = {
  Text: optional(string()),
  Number: optional(integer()),
  Flag: optional(boolean),
  Tags: tags,
  Names: optional(list(string())),
}

/** Waits to be let go, so that a test can hold a call under way. */
export interface Gate {
  readonly reached: Promise<void>
  open(): void
}

export interface TestServer {
  readonly listener: Listener
  readonly records: AuditRecord[]
  readonly metrics: Metrics
  readonly strangers: Strangers
  readonly calls: () => number
  /** The next `Wait` call stops at the gate. */
  gate(): Gate
  close(): Promise<void>
}

export const testLimits = {
  maxConnections: 1000,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 10_000,
  idleTimeoutMs: 60_000,
  drainTimeoutMs: 10_000,
}

/** Operations that give back what they got, under a JSON target and under the query protocol. */
function testApis(gates: (() => Promise<void>)[]): readonly Api[] {
  const echo = operation({ input, output: ['Input', 'When'], readOnly: true, run: (_call, given) => ({ Input: { ...given } }) })
  const wait = operation({
    input: {},
    output: ['Waited'],
    readOnly: true,
    async run() {
      await gates.shift()?.()
      return { Waited: true }
    },
  })
  const deny = operation({
    input: { Code: string(), Message: optional(string()) },
    output: [],
    readOnly: true,
    run(_call, { Code, Message }) {
      if (Code === 'Broken') throw new Error('a defect with a secret in it')
      throw kmsError(Code as 'AccessDeniedException', Message)
    },
  })
  const api = { name: 'kms', signingName: 'kms', eventSource: 'kms.amazonaws.com', actionPrefix: 'kms' } as const
  const rows = { Echo: echo, Wait: wait, Deny: deny }
  const operations = new Map(Object.entries(rows).map(([name, row]) => [name, row(name, api)]))
  return [
    { ...api, target: 'TrentService', operations },
    { ...api, name: 'sts', signingName: 'sts', target: undefined, operations },
  ]
}

const caller: Principal = {
  type: 'Root',
  arn: 'arn:aws:iam::111122223333:root',
  accountId: '111122223333',
  principalId: '111122223333',
  accessKeyId: 'AKIAEXAMPLE',
  tags: new Map(),
  identityPolicies: [],
}

export async function openTestServer(
  options: Partial<ListenOptions> & {
    readonly maxBodyBytes?: number
    readonly maxConcurrentCalls?: number
    readonly maxLongBodiesBytes?: number
  } = {},
): Promise<TestServer> {
  const records: AuditRecord[] = []
  const gates: (() => Promise<void>)[] = []
  const metrics = openMetrics()
  const trail = { append: async (record: AuditRecord) => void records.push(record) }
  const strangers = openStrangers({ trail, clock: systemClock, log: silentLog, metrics, region: 'us-east-1', summariseAfterMs: 3_600_000 })
  const service = {
    config: { regions: ['us-east-1'], accountId: '111122223333' },
    clock: systemClock,
    log: silentLog,
    metrics,
    trail,
    throttle: openThrottle({}, new Buckets()),
    strangers,
    usage: { count: () => undefined },
    identities: { authenticate: () => ({ principal: caller, region: 'us-east-1' }) },
  } as unknown as Service
  const door = openDoor({
    service,
    apis: testApis(gates),
    clock: systemClock,
    log: silentLog,
    metrics,
    maxBodyBytes: options.maxBodyBytes ?? 65_536,
    maxConcurrentCalls: options.maxConcurrentCalls ?? 1000,
    ...(options.maxLongBodiesBytes !== undefined && { maxLongBodiesBytes: options.maxLongBodiesBytes }),
    otherwise: openApp(silentLog),
  })
  const listener = await listen({
    name: 'kms',
    host: '127.0.0.1',
    port: 0,
    tls: undefined,
    ...testLimits,
    handle: (request, response) => door.handle(request, response),
    log: silentLog,
    ...options,
  })
  return {
    listener,
    records,
    metrics,
    strangers,
    calls: () => door.calls(),
    gate() {
      let open = (): void => undefined
      let reach = (): void => undefined
      const opened = new Promise<void>((resolve) => (open = resolve))
      const reached = new Promise<void>((resolve) => (reach = resolve))
      gates.push(() => {
        reach()
        return opened
      })
      return { reached, open: () => open() }
    },
    close: () => listener.close(),
  }
}

/** A raw connection that collects what comes back. */
export interface RawConnection {
  readonly socket: Socket
  send(text: string): void
  /** Everything received, once it satisfies `enough` or the other side has ended. */
  received(enough?: (text: string) => boolean): Promise<string>
  readonly ended: Promise<void>
}

export async function rawConnection(port: number): Promise<RawConnection> {
  const socket = connect(port, '127.0.0.1')
  await new Promise<void>((resolve) => socket.once('connect', () => resolve()))
  return collecting(socket)
}

/** The same over TLS, its handshake done; on a connection that is there already when `over` is given. */
export async function secureConnection(port: number, ca: string, over?: Socket): Promise<RawConnection> {
  const socket = tlsConnect({ host: '127.0.0.1', port, ca, servername: 'localhost', ...(over && { socket: over }) })
  await new Promise<void>((resolve, reject) => socket.once('secureConnect', () => resolve()).once('error', reject))
  return collecting(socket)
}

function collecting(socket: Socket): RawConnection {
  let text = ''
  let over = false
  const waiters = new Set<() => void>()
  const wake = (): void => {
    for (const waiter of waiters) waiter()
  }
  socket.setEncoding('latin1')
  socket.on('data', (chunk: string) => {
    text += chunk
    wake()
  })
  const ended = new Promise<void>((resolve) => {
    const end = (): void => {
      over = true
      wake()
      resolve()
    }
    socket.on('end', end)
    socket.on('close', end)
    socket.on('error', end)
  })
  return {
    socket,
    send: (bytes) => void socket.write(bytes),
    ended,
    received: (enough = () => false) =>
      new Promise((resolve) => {
        const look = (): void => {
          if (!over && !enough(text)) return
          waiters.delete(look)
          resolve(text)
        }
        waiters.add(look)
        look()
      }),
  }
}

/** A request as bytes. */
export function rawRequest(operationName: string, body: string, headers: readonly string[] = []): string {
  const lines = [
    'POST / HTTP/1.1',
    'Host: 127.0.0.1',
    `X-Amz-Target: TrentService.${operationName}`,
    'Content-Type: application/x-amz-json-1.1',
  ]
  return [...lines, `Content-Length: ${Buffer.byteLength(body)}`, ...headers, '', body].join('\r\n')
}

/** A folder that goes away with `remove`. */
export function scratch(): { readonly dir: string; write(name: string, text: string): string; remove(): void } {
  const dir = mkdtempSync(join(tmpdir(), 'holdfast-test-'))
  return {
    dir,
    write(name, text) {
      writeFileSync(join(dir, name), text, { mode: 0o600 })
      return join(dir, name)
    },
    remove: () => rmSync(dir, { recursive: true, force: true, maxRetries: 5 }),
  }
}
