/**
 * Two callers of the bulk service in a process of their own: one has a long body encrypted, the other has the message that came of it decrypted, again
 * and again until they are told to stop. Bodies are in memory and answers are counted and dropped, so that they take little from what they measure.
 *
 * Started by fork; takes a StreamsOrder, has the message made, answers Prepared; then one answer to each StreamsStep. Ends with its parent.
 */

import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'

/** Heads of requests lack what follows from their body: Content-Length and the empty line. */
export interface StreamsOrder {
  readonly host: string
  readonly port: number
  /** What is encrypted is `repeats` times this. */
  readonly chunk: Uint8Array
  readonly repeats: number
  /** Of the request that makes the message. */
  readonly head: string
}

export interface Prepared {
  /** SHA-256 of the message, in hex. */
  readonly messageHash: string
}

export type StreamsStep =
  /** Answered when bytes come back on both streams: with nothing. */
  | { readonly start: { readonly encrypt: string; readonly decrypt: string } }
  /** Answered with what came back since the step before, and both streams are broken off. */
  | 'stop'
  /** From here on it is counted. Answered at once. */
  | 'mark'

export interface Moved {
  readonly bytes: number
  readonly ms: number
}

const writtenAtOnce = 1_048_576
const headEnd = Buffer.from('\r\n\r\n')
const tailBytes = 256

interface Body {
  readonly length: number
  at(from: number): Uint8Array
}

/** One request on a connection of its own. Resolves with the end of the answer when the connection ends. */
async function exchange(
  { host, port }: Pick<StreamsOrder, 'host' | 'port'>,
  head: string,
  body: Body,
  hooks: { readonly onBytes: (bytes: Buffer) => void; readonly onSocket?: (socket: Socket) => void },
): Promise<string> {
  const socket = connect(port, host)
  hooks.onSocket?.(socket)
  let tail = Buffer.alloc(0)
  socket.on('data', (bytes: Buffer) => {
    hooks.onBytes(bytes)
    tail = bytes.length >= tailBytes ? Buffer.from(bytes.subarray(-tailBytes)) : Buffer.concat([tail, bytes]).subarray(-tailBytes)
  })
  // What a broken connection means, its end says.
  socket.on('error', () => undefined)
  const closed = once(socket, 'close')
  socket.write(`${head}content-length: ${body.length}\r\nconnection: close\r\n\r\n`)
  let sent = 0
  const send = (): void => {
    while (sent < body.length && !socket.destroyed) {
      const piece = body.at(sent)
      sent += piece.length
      if (!socket.write(piece)) return void socket.once('drain', send)
    }
  }
  send()
  await closed
  return tail.toString('latin1')
}

const isWhole = (tail: string): boolean => /\r\n0\r\nx-holdfast-outcome: complete\r\n\r\n$/i.test(tail)

/** The answer's body without its chunked coding. @throws when the answer is no whole message */
function decode(answer: Buffer): Buffer {
  const begin = answer.indexOf(headEnd)
  const head = answer.toString('latin1', 0, Math.max(0, begin))
  if (!head.startsWith('HTTP/1.1 200 ')) throw new Error(`the service answered ${answer.toString('latin1', 0, 400)}`)
  const chunks: Buffer[] = []
  for (let at = begin + headEnd.length; ;) {
    const lineEnd = answer.indexOf('\r\n', at)
    const length = Number.parseInt(answer.toString('latin1', at, lineEnd), 16)
    if (!(length >= 0)) throw new Error('the answer is not in chunks')
    if (length === 0) return Buffer.concat(chunks)
    chunks.push(answer.subarray(lineEnd + 2, lineEnd + 2 + length))
    at = lineEnd + 2 + length + 2
  }
}

async function serve(order: StreamsOrder): Promise<void> {
  const chunk = Buffer.from(order.chunk)
  const plaintext: Body = { length: chunk.length * order.repeats, at: (from) => chunk.subarray(from % chunk.length) }
  const received: Buffer[] = []
  const tail = await exchange(order, order.head, plaintext, { onBytes: (bytes) => received.push(bytes) })
  if (!isWhole(tail)) throw new Error(`the message was not made: ${Buffer.concat(received).toString('latin1', 0, 400)}`)
  const message = decode(Buffer.concat(received.splice(0)))
  const sealed: Body = { length: message.length, at: (from) => message.subarray(from, from + writtenAtOnce) }

  let moved = 0
  let since = performance.now()
  let running: Promise<unknown> = Promise.resolve()
  let sockets: Socket[] = []
  const state = { isStopped: true }

  /** One after the other, each as soon as the last is whole. Resolves with the first bytes. */
  const keepGoing = (lane: number, head: string, body: Body): { readonly flowing: Promise<void>; readonly over: Promise<void> } => {
    let flows = (): void => undefined
    const flowing = new Promise<void>((resolve) => (flows = resolve))
    const go = async (): Promise<void> => {
      while (!state.isStopped) {
        const ended = await exchange(order, head, body, {
          onBytes: (bytes) => {
            moved += bytes.length
            flows()
          },
          onSocket: (socket) => (sockets[lane] = socket),
        })
        if (!state.isStopped && !isWhole(ended)) throw new Error(`a stream was broken off: ${ended}`)
      }
    }
    return { flowing, over: go() }
  }

  const step = async (wanted: StreamsStep): Promise<object> => {
    if (wanted === 'mark') {
      moved = 0
      since = performance.now()
      return {}
    }
    if (wanted === 'stop') {
      const result: Moved = { bytes: moved, ms: performance.now() - since }
      state.isStopped = true
      for (const socket of sockets) socket.destroy()
      sockets = []
      await running
      return result
    }
    state.isStopped = false
    const lanes = [keepGoing(0, wanted.start.encrypt, plaintext), keepGoing(1, wanted.start.decrypt, sealed)]
    running = Promise.all(lanes.map(({ over }) => over))
    await Promise.race([Promise.all(lanes.map(({ flowing }) => flowing)), running])
    return {}
  }

  process.on('message', (wanted: StreamsStep) => {
    step(wanted).then((answer) => process.send?.(answer), fail)
  })
  process.send?.({ messageHash: createHash('sha256').update(message).digest('hex') } satisfies Prepared)
  await once(process, 'disconnect')
  process.exit()
}

function fail(error: unknown): void {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
  process.exit(1)
}

process.once('message', (order: StreamsOrder) => void serve(order).catch(fail))
