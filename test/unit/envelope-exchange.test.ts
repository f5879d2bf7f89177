/** A stream as HTTP has it: the turns that it leaves to others, and what its writer hears of a connection that ends. */

import { EventEmitter } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { BulkPool } from '../../src/bulk/bulk-pool.ts'
import { Exchange, Gone } from '../../src/http/envelope-exchange.ts'

const limits = { idleTimeoutMs: 60_000, totalTimeoutMs: 60_000 }
const facts = {} as Exchange['facts']
const event: Exchange['event'] = { requestId: 'r', sourceIp: '', direction: 'encrypt', bytesIn: 0, bytesOut: 0 }
const pool = {} as BulkPool

/** The answer's side: takes pieces, at once or when it is told. */
class Answer extends EventEmitter {
  readonly taken: number[] = []
  readonly waiting: (() => void)[] = []
  readonly isSlow: boolean
  writableFinished = false
  isDestroyed = false
  constructor(isSlow: boolean) {
    super()
    this.isSlow = isSlow
  }
  write(bytes: Uint8Array, done: () => void): void {
    this.taken.push(bytes.length)
    if (this.isSlow) this.waiting.push(done)
    else queueMicrotask(done)
  }
  destroy(): void {
    this.isDestroyed = true
  }
}

function open({ chunks = [], isSlow = false }: { readonly chunks?: readonly Buffer[]; readonly isSlow?: boolean }) {
  const request = Readable.from(chunks) as unknown as IncomingMessage
  Object.assign(request, { headers: { 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD' } })
  // Node's own says nothing where nobody listens.
  request.on('error', () => undefined)
  const answer = new Answer(isSlow)
  const exchange = new Exchange(request, answer as unknown as ServerResponse, facts, event, limits)
  onTestFinished(() => exchange.close())
  return { exchange, answer }
}

describe('turns of the event loop', () => {
  /** How much was done in each turn until the work ended. */
  async function perTurn(work: readonly Promise<unknown>[], done: () => number): Promise<readonly number[]> {
    const state = { isOver: false }
    const all = Promise.all(work).then(() => (state.isOver = true))
    const counts: number[] = []
    for (let before = done(); !state.isOver; before = done()) {
      await nextTurn()
      counts.push(done() - before)
    }
    await all
    return counts
  }

  test('all bodies together have two pieces to a turn', async () => {
    let read = 0
    const chunks = Array.from({ length: 40 }, () => Buffer.alloc(10))
    const consume = async ({ exchange }: ReturnType<typeof open>): Promise<void> => {
      for await (const _piece of exchange.body(pool, () => read++));
    }
    const counts = await perTurn([consume(open({ chunks })), consume(open({ chunks })), consume(open({ chunks }))], () => read)
    expect(read).toBe(120)
    expect(Math.max(...counts)).toBeLessThanOrEqual(2)
  })

  test('a long piece of an answer is written in pieces of 128 KiB, and these take turns, too', async () => {
    const { exchange, answer } = open({})
    const counts = await perTurn([exchange.write(Buffer.alloc(16 * 131_072 + 1))], () => answer.taken.length)
    expect(answer.taken).toEqual([...Array.from({ length: 16 }, () => 131_072), 1])
    expect(Math.max(...counts)).toBeLessThanOrEqual(2)
  })
})

test('what was received is freed when the next of it is asked for', async () => {
  const chunks = [10_000, 20_000, 100].map((length) => Buffer.alloc(length, 1))
  const seen: (readonly number[])[] = []
  for await (const _chunk of open({ chunks }).exchange.body(pool, () => undefined)) seen.push(chunks.map(({ length }) => length))
  expect(seen).toEqual([
    [10_000, 20_000, 100],
    [0, 20_000, 100],
    [0, 0, 100],
  ])
})

test('who writes to a caller who goes away is told, once it waits and ever after', async () => {
  const { exchange, answer } = open({ isSlow: true })
  // Of what was before, the pieces of this turn may be used up.
  await nextTurn()
  const written = exchange.write(Buffer.from('text'))
  answer.emit('close')
  await expect(written).rejects.toThrow(Gone)
  expect(answer.isDestroyed).toBe(true)
  await expect(exchange.write(Buffer.from('more'))).rejects.toThrow('CallerGone')
  expect(answer.taken).toEqual([4])
})
