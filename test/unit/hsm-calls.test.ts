import type { Socket } from 'node:net'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Calls, newLane, Received, type Answered, type Crew, type Lane } from '../../src/hsm/calls.ts'
import { TokenError, type TokenFailure } from '../../src/hsm/token.ts'
import { encodeAnswer, findFrame, headerBytes, machineMs, parseRequest, type Operation, type Request } from '../../src/hsm/wire.ts'

/** A worker that answers when it is told to, and says what time it took. */
class Worker {
  readonly lane: Lane
  readonly asked: Request[] = []
  constructor() {
    const socket = { write: (batch: Buffer): boolean => this.#read(Buffer.from(batch)) }
    this.lane = newLane(socket as unknown as Socket)
    this.lane.open = true
  }
  #read(batch: Buffer): boolean {
    for (let at = 0; at < batch.length;) {
      const bytes = findFrame(batch, at, batch.length) ?? 0
      this.asked.push(parseRequest(batch, at, bytes))
      at += bytes
    }
    return true
  }
}

const slow = 'decryptOaep'
const cheap = 'mac'
const took: Partial<Record<Operation, number>> = { [slow]: 2000, [cheap]: 10 }

describe('calls to workers', () => {
  let workers: readonly Worker[]
  let crew: Crew
  let calls: Calls<Crew>
  let stop = (): void => {}
  let failures: string[]
  let drains: Set<Crew>

  const begin = (count: number, limits: { queueLimit?: number; deadlineMs?: number } = {}): void => {
    workers = Array.from({ length: count }, () => new Worker())
    stop()
    const own: Crew = { lanes: workers.map(({ lane }) => lane), received: new Received() }
    crew = own
    failures = []
    drains = new Set()
    const owner = {
      current: () => own,
      draining: () => drains,
      failed: (failed: Crew, reason: string): void => {
        failures.push(reason)
        calls.abandonCrew(failed, reason)
        for (const lane of failed.lanes) lane.underWay.length = 0
      },
      idle: () => {},
    }
    stop = () => calls.stop()
    calls = new Calls(owner, { queueLimit: 100, deadlineMs: 1000, ...limits })
  }
  const ask = (operation: Operation, deadlineMs = 1000): Promise<Answered> => {
    const call = calls.add({ operation, scheme: 0, ckaId: '', aad: Buffer.alloc(0), data: Buffer.of(1) }, deadlineMs)
    call.catch(() => {})
    return call
  }
  /** The first call that a worker has. */
  const answerOf = (worker: Worker | undefined, microseconds?: number, failure?: TokenFailure): Buffer => {
    const request = worker?.asked.shift()
    if (worker === undefined || request === undefined) throw new Error('the worker has nothing to answer')
    const tookUs = microseconds ?? took[request.operation] ?? 0
    const head = { id: request.id, worker: workers.indexOf(worker), failure, number: 0, fatal: false, microseconds: tookUs }
    const data = Buffer.from(failure === undefined ? request.operation : '{"message":"refused"}')
    const frame = Buffer.alloc(headerBytes + data.length)
    encodeAnswer(head, data, frame, 0)
    return frame
  }
  const answer = (worker: Worker | undefined, microseconds?: number, failure?: TokenFailure): void =>
    calls.hear(crew, answerOf(worker, microseconds, failure))
  /** So many calls one after the other. */
  const makeCalls = async (operation: Operation, count: number, microseconds?: number, failure?: TokenFailure): Promise<void> => {
    for (let made = 0; made < count; made += 1) {
      void ask(operation)
      await turn()
      answer(
        workers.find(({ asked }) => asked.length > 0),
        microseconds,
        failure,
      )
    }
  }
  const given = (): string[][] => workers.map(({ asked }) => asked.map(({ operation }) => operation))

  beforeEach(() => {
    Object.assign(took, { [slow]: 2000, [cheap]: 10 })
    begin(2)
  })
  afterEach(() => stop())

  test('cheap ones go to one worker together, slow ones to as many as there are', async () => {
    for (let count = 0; count < 4; count += 1) void ask(cheap)
    await turn()
    expect(given()).toEqual([[cheap, cheap, cheap, cheap], []])
    begin(2)
    for (let count = 0; count < 2; count += 1) void ask(slow)
    await turn()
    expect(given()).toEqual([[slow], [slow]])
  })

  test('cheap ones are not sent behind a slow one while another worker has none', async () => {
    void ask(slow)
    await turn()
    for (let count = 0; count < 3; count += 1) void ask(cheap)
    await turn()
    expect(given()).toEqual([[cheap, cheap, cheap], [slow]])
  })

  test('short slow ones wait with a worker, so that none runs dry, and the first has few of them', async () => {
    for (let count = 0; count < 9; count += 1) void ask(slow)
    await turn()
    expect(given()).toEqual([[slow], [slow, slow]])
    begin(2)
    took[slow] = 700
    for (let count = 0; count < 200; count += 1) {
      void ask(slow)
      await turn()
      answer(workers.find(({ asked }) => asked.length > 0))
    }
    for (let count = 0; count < 20; count += 1) void ask(slow)
    await turn()
    // 3 ms for the first, 5 ms for the other.
    const [first = [], second = []] = given()
    expect(first.length).toBeGreaterThanOrEqual(2)
    expect(first.length * 700).toBeLessThanOrEqual(3000)
    expect(second.length).toBeGreaterThan(first.length)
    expect(second.length * 700).toBeLessThanOrEqual(5000)
    // What comes between them finds no more than that before it, however many of them wait.
    const passing = ask(cheap)
    for (let left = first.length; left > 0; left -= 1) {
      answer(workers[0])
      await turn()
    }
    expect(given()[0]?.[0]).toBe(cheap)
    answer(workers[0])
    expect((await passing).data.toString()).toBe(cheap)
  })

  test('cheap ones pass slow ones that wait', async () => {
    for (let count = 0; count < 6; count += 1) void ask(slow)
    await turn()
    // Two for the second worker, so that it never waits for its next one; one for the first, which is there for the others.
    expect(given()).toEqual([[slow], [slow, slow]])
    await sleep(30)
    const passing = ask(cheap)
    await turn()
    answer(workers[0])
    await turn()
    expect(given()[0]?.[0]).toBe(cheap)
    answer(workers[0])
    expect((await passing).data.toString()).toBe(cheap)
  })

  test('slow ones are not starved by cheap ones for long', async () => {
    const flood = (): void => {
      while (calls.outstanding < 95) void ask(cheap)
    }
    flood()
    await turn()
    void ask(slow)
    const until = performance.now() + 5000
    while (!workers.some(({ asked }) => asked.some(({ operation }) => operation === slow))) {
      expect(performance.now()).toBeLessThan(until)
      for (const worker of workers) if (worker.asked.length > 0) answer(worker, 60)
      flood()
      await turn()
    }
  })

  test('a slow one of seconds never goes to the first worker', async () => {
    for (let count = 0; count < 3; count += 1) void ask('generateKey')
    await turn()
    expect(given()).toEqual([[], ['generateKey', 'generateKey']])
  })

  test('a device that makes every call wait has all its workers for them, and what computes for long keeps the first one free as ever', async () => {
    for (const waitsUs of [1100, 5000, 20_000]) {
      begin(3)
      Object.assign(took, { [cheap]: waitsUs, [slow]: waitsUs - 100, sign: waitsUs + 9000 })
      for (const operation of [cheap, slow, 'sign'] as const) await makeCalls(operation, 600)
      const made = [ask(cheap), ask(slow), ask(cheap)]
      await turn()
      expect(given().map((each) => each.length)).toEqual([1, 1, 1])
      // Each has its next one; a short wait leaves room for more.
      for (let count = 0; count < 60; count += 1) void ask(cheap)
      await turn()
      expect(given().map((each) => each.length)).toEqual(waitsUs === 1100 ? [4, 4, 4] : [2, 2, 2])
      for (const worker of workers) while (worker.asked.length > 0) answer(worker)
      await Promise.all(made)
      while (calls.outstanding > 0) {
        await turn()
        for (const worker of workers) while (worker.asked.length > 0) answer(worker)
      }
      for (let count = 0; count < 9; count += 1) void ask('sign')
      await turn()
      expect(given().map((each) => each.length)).toEqual([0, 2, 2])
    }
  })

  test.each([
    ['a look at the device now and then', 'check', undefined, undefined],
    ['what it refuses at once', cheap, 1, 'rejected'],
    ['what it had no time for', cheap, 0, 'unavailable'],
  ] as const)('%s does not change that', async (_what, operation, microseconds, failure) => {
    Object.assign(took, { [cheap]: 5000, check: 5000 })
    await makeCalls('check', 1)
    await makeCalls(cheap, 600)
    await makeCalls(operation, failure === undefined ? 1 : 100, microseconds, failure)
    for (let count = 0; count < 9; count += 1) void ask(cheap)
    await turn()
    expect(given()).toEqual([
      [cheap, cheap],
      [cheap, cheap],
    ])
  })

  test('the only worker takes what there is, in order', async () => {
    begin(1)
    void ask(slow)
    await turn()
    void ask(cheap)
    void ask(slow)
    await turn()
    while (workers[0]?.asked.length !== 0) {
      answer(workers[0])
      await turn()
    }
    expect(calls.outstanding).toBe(0)
  })

  test('slow and cheap ones do not wait for each other when what was slow turns out to be quick', async () => {
    begin(1)
    const serve = async (): Promise<void> => {
      while (workers[0]?.asked.length) {
        answer(workers[0], 0)
        await turn()
      }
    }
    // Just slow enough to be thought slow, so that one more answer makes it quick.
    for (let count = 0; count < 10; count += 1) {
      void ask(slow)
      await turn()
      await serve()
    }
    const asked = Array.from({ length: 12 }, () => ask(slow))
    await turn()
    asked.push(ask(cheap))
    await turn()
    expect(workers[0]?.asked.length).toBeLessThan(asked.length)
    // Longer than slow ones let themselves be passed.
    await sleep(25)
    await serve()
    expect(await Promise.all(asked)).toHaveLength(13)
  })

  test('are counted by operation when a worker has them, and not before', async () => {
    for (let count = 0; count < 3; count += 1) void ask(cheap)
    void ask(slow)
    expect([...calls.given]).toEqual([])
    await turn()
    expect(Object.fromEntries(calls.given)).toEqual({ [cheap]: 3, [slow]: 1 })
  })

  test('learn what each operation takes', async () => {
    // The first guess for a MAC is cheap; this device takes its time.
    for (let count = 0; count < 200; count += 1) {
      void ask(cheap)
      await turn()
      answer(
        workers.find(({ asked }) => asked.length > 0),
        5000,
      )
    }
    void ask(cheap)
    void ask(cheap)
    await turn()
    expect(given()).toEqual([[cheap], [cheap]])
  })

  test('are refused as busy when as many wait as may', async () => {
    begin(1, { queueLimit: 3 })
    const made = Array.from({ length: 4 }, () => ask(slow))
    await expect(made[3]).rejects.toMatchObject({ failure: 'busy' })
    expect(calls.outstanding).toBe(3)
  })

  test('end by their deadline, and a worker that hangs in one ends its agent', async () => {
    begin(1, { deadlineMs: 80 })
    const until = performance.now() + 5000
    const made = [ask(slow, 80), ask(slow, 80), ask(slow, 80)]
    for (const call of made) await expect(call).rejects.toMatchObject({ failure: 'unavailable' })
    while (failures.length === 0 && performance.now() < until) await sleep(10)
    expect(failures[0]).toBe('decryptOaep did not return within 80 ms')
    expect(calls.outstanding).toBe(0)
  })

  test('that make or destroy objects are not given up once a worker has them: it tells whether they began in time', async () => {
    begin(1, { deadlineMs: 5000 })
    const until = performance.now() + 5000
    const longer = ask('publicKey', 4000)
    await turn()
    const made = ask('generateKey', 60)
    const read = ask('mac', 60)
    await turn()
    await expect(read).rejects.toMatchObject({ failure: 'unavailable' })
    // Both are overdue, and one of them is still waited for.
    const [worker] = workers
    const asked = worker?.asked.map(({ operation, dueMs }) => ({ operation, isOverdue: dueMs < machineMs(performance.now()) }))
    expect(asked).toEqual([
      { operation: 'publicKey', isOverdue: false },
      { operation: 'mac', isOverdue: true },
      { operation: 'generateKey', isOverdue: true },
    ])
    expect(calls.outstanding).toBe(2)
    for (let left = 3; left > 0; left -= 1) answer(worker)
    expect((await longer).data.toString()).toBe('publicKey')
    expect((await made).data.toString()).toBe('generateKey')
    expect(performance.now()).toBeLessThan(until)
    expect(failures).toEqual([])
  })

  test('of an agent that is gone end as unavailable', async () => {
    const made = [ask(slow), ask(cheap)]
    await turn()
    const waiting = ask(cheap)
    calls.abandonCrew(crew, 'the agent ended')
    calls.abandonQueue('the agent ended')
    for (const call of [...made, waiting]) {
      await expect(call).rejects.toEqual(new TokenError('unavailable', 'the agent ended'))
    }
  })

  test('answers of several workers come in one piece or in many, torn anywhere, and each ends its own call', async () => {
    for (const pieceBytes of [1000, headerBytes + 3, headerBytes - 1, 1]) {
      begin(3)
      // Slow ones have the second and the third worker, the cheap one the first.
      const made = [ask(slow), ask(slow), ask(cheap)]
      await turn()
      const all = Buffer.concat(workers.toReversed().map((worker) => answerOf(worker)))
      for (let at = 0; at < all.length; at += pieceBytes) calls.hear(crew, Buffer.from(all.subarray(at, at + pieceBytes)))
      expect((await Promise.all(made)).map(({ data }) => data.toString())).toEqual([slow, slow, cheap])
      expect([calls.outstanding, failures]).toEqual([0, []])
    }
  })

  test('an answer of megabytes comes in many pieces, and others behind it', async () => {
    const made = [ask('allObjects'), ask(cheap)]
    await turn()
    const { id } = workers[1]?.asked[0] ?? { id: 0 }
    const long = Buffer.alloc(5 * 2 ** 20, 'objects ')
    const head = { id, worker: 1, failure: undefined, number: 7, fatal: false, microseconds: 1 }
    const frame = Buffer.alloc(headerBytes + long.length)
    encodeAnswer(head, long, frame, 0)
    const all = Buffer.concat([frame, answerOf(workers[0])])
    const piece = 65_536
    for (let at = 0; at < all.length; at += piece) calls.hear(crew, Buffer.from(all.subarray(at, at + piece)))
    const [objects, other] = await Promise.all(made)
    expect([objects?.number, objects?.data.equals(long), other?.data.toString(), calls.outstanding]).toEqual([7, true, cheap, 0])
    expect(failures).toEqual([])
  })

  test.each([
    ['of a call that was never made', 4711, 0],
    ['of another worker than the call is with', 1, 1],
    ['of a worker that there is not', 1, 200],
  ])('an answer %s ends the agent, not the service', async (_of, id, worker) => {
    void ask(cheap)
    await turn()
    expect(given()).toEqual([[cheap], []])
    const frame = Buffer.alloc(headerBytes)
    encodeAnswer({ id, worker, failure: undefined, number: 0, fatal: false, microseconds: 1 }, Buffer.alloc(0), frame, 0)
    calls.hear(crew, frame)
    expect(failures).toEqual(['its answers cannot be read: an answer that belongs to no call'])
  })
})
