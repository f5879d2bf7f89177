/**
 * The load generator, a process of its own so that it takes nothing from the event loop that it measures. It keeps N connections busy with
 * requests that were signed beforehand, one at a time each, and reads just enough of an answer to know where it ends.
 *
 * Started by fork; takes a LoadOrder, answers a LoadResult, and takes the next. Ends with its parent.
 */

import { connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { Durations } from './histogram.ts'

export interface LoadOrder {
  readonly host: string
  readonly port: number
  readonly connections: number
  readonly warmupMs: number
  readonly durationMs: number
  /** Whole HTTP/1.1 requests, bytes as they go on the wire. */
  readonly requests: readonly Uint8Array[]
  /** PEM of the server's certificate: the connections are TLS. */
  readonly ca?: string
  /** How long a connection rests between an answer and its next request. */
  readonly restMs?: number
}

export interface LoadResult {
  readonly perSecond: number
  readonly answered: number
  /** Answers that were not 200. */
  readonly failed: number
  readonly meanMs: number
  readonly p50Ms: number
  readonly p99Ms: number
}

const headEnd = Buffer.from('\r\n\r\n')

/** Length of the first whole answer in `bytes`, or undefined. */
function answerLength(bytes: Buffer): number | undefined {
  const end = bytes.indexOf(headEnd)
  if (end < 0) return undefined
  const length = /content-length: (\d+)/i.exec(bytes.toString('latin1', 0, end))?.[1]
  if (length === undefined) throw new Error('an answer without Content-Length')
  const total = end + headEnd.length + Number(length)
  return bytes.length < total ? undefined : total
}

/** "2" "0" "0" where the status stands: `HTTP/1.1 200`. */
const isOk = (bytes: Buffer): boolean => bytes[9] === 0x32 && bytes[10] === 0x30 && bytes[11] === 0x30

function run(order: LoadOrder): Promise<LoadResult> {
  return new Promise((resolve, reject) => {
    const startAt = performance.now() + order.warmupMs
    const stopAt = startAt + order.durationMs
    const durations = new Durations()
    let failed = 0
    let open = order.connections
    let lastAt = 0
    let turn = 0

    const finish = (): void => {
      if (--open > 0) return
      resolve({
        perSecond: (durations.count * 1000) / (Math.max(stopAt, lastAt) - startAt),
        answered: durations.count,
        failed,
        meanMs: durations.meanMs,
        p50Ms: durations.at(0.5),
        p99Ms: durations.at(0.99),
      })
    }

    for (let n = 0; n < order.connections; n++) {
      const { host, port, ca, restMs } = order
      const socket = ca === undefined ? connect(port, host) : connectTls({ host, port, ca })
      let sentAt = 0
      let pending: Buffer | undefined
      // Answers to one operation are of one length: one that is whole again need not be read again. What the load costs, the service lacks.
      let usualLength = 0
      const send = (): void => {
        sentAt = performance.now()
        socket.write(order.requests[turn++ % order.requests.length] ?? Buffer.alloc(0))
      }
      socket.setNoDelay(true)
      socket.on(ca === undefined ? 'connect' : 'secureConnect', send)
      socket.on('error', reject)
      socket.on('data', (chunk: Buffer) => {
        pending = pending ? Buffer.concat([pending, chunk]) : chunk
        const length = pending.length === usualLength && isOk(pending) ? usualLength : answerLength(pending)
        if (length === undefined) return
        usualLength = length
        const now = performance.now()
        // A server that answers nobody in all that time is waited for: no answer in so long is no figure.
        if (now >= startAt && (now < stopAt || durations.count === 0)) {
          durations.add(now - sentAt)
          lastAt = now
        }
        if (!isOk(pending)) failed++
        pending = pending.length > length ? pending.subarray(length) : undefined
        if (now < stopAt) return restMs === undefined ? send() : void setTimeout(send, restMs)
        socket.destroy()
        finish()
      })
    }
  })
}

process.on('message', (order: LoadOrder) => {
  run(order).then(
    (result) => process.send?.(result),
    (error: unknown) => {
      process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
      process.exit(1)
    },
  )
})
