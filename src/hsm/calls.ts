/**
 * Calls that wait for an agent's worker threads or are under way with them: who gets which, in what pieces, and what became of it.
 *
 * Calls of one turn of the event loop travel together in one write per worker. The first worker is given work until
 * what it has would take longer than a fraction of a millisecond, then the next: a fast device is served by few
 * threads with large batches, a slow one by all of them at once.
 *
 * What a call of each operation and algorithm takes is measured. Calls that compute for long (RSA, key generation) have all workers but the first, and a few
 * milliseconds of that one while none of the others waits; the others go where none of these is, and pass those that wait. A device that is far
 * away makes every call wait: that alone makes none of them a long one, and they have all workers.
 */
import type { Socket } from 'node:net'
import { TokenError, type TokenFailure } from './token.ts'
import {
  encodeRequest,
  findFrame,
  headerBytes,
  machineMs,
  operations,
  parseAnswerHead,
  requestBytes,
  wantedBytes,
  type AnswerHead,
  type Operation,
} from './wire.ts'

/** Calls that take less than this are not worth waking another thread for while one is awake. */
const cheapCallUs = 100
/** As many cheap calls go to a worker in one piece while it is busy; all of them together would leave it and us waiting for each other. */
const batchCalls = 8
/** Work given to one worker before the next one gets some, of calls that take less than `longCallUs`. */
const workerBacklogUs = 2000
const longCallUs = 500
/** So much work of longer calls a worker may have before it: it must not run dry while the service is busy with the answers of others. */
const longBacklogUs = 5000
/** A call that takes so much longer than any call to this device takes is one that others should not be sent behind. */
const slowCallUs = 500
/** So much work of slow ones the first worker may have before it, which is there for the others: it is what one of these may find before it. */
const firstBacklogUs = 3000
/** A single slow call that takes so much longer at the most goes to the first worker when it has nothing to do. */
const shortSlowCallUs = 5000
/** As long a slow call that found no worker with room is passed by others; after that the others have only the first worker. */
const passedMs = 20
/** How long a worker rests for which the device had no room. */
const busyRestMs = 500

/** They compute next to nothing: what they take is what it takes to reach the device. */
const basicOperations: ReadonlySet<Operation> = new Set<Operation>(['wrap', 'unwrap', 'mac', 'check'])

/** A guess for the first call of each kind, in microseconds; after that the measured time, smoothed. */
const firstGuessUs: Readonly<Record<Operation, number>> = {
  wrap: 50,
  unwrap: 50,
  random: 100,
  sign: 200,
  publicKey: 200,
  check: 50,
  generateKey: 100_000,
  destroyKey: 20_000,
  objects: 20_000,
  allObjects: 200_000,
  signMessage: 1000,
  decryptOaep: 2000,
  mac: 50,
  deriveSharedSecret: 1000,
  importKey: 20_000,
  exportKey: 20_000,
  adoptKey: 20_000,
  transportKey: 20_000,
}

/**
 * Once these are with a worker only it can tell whether they begin in time: who is told that they did not may clear away after them, and must not be
 * overtaken. They are answered when the worker comes to them, or end with its agent.
 */
const leavesObjects: ReadonlySet<Operation> = new Set<Operation>(['generateKey', 'destroyKey', 'importKey', 'adoptKey'])

export interface Asked {
  readonly operation: Operation
  readonly scheme: number
  readonly ckaId: string
  readonly aad: Uint8Array
  readonly data: Uint8Array
}

export interface Answered {
  readonly number: number
  readonly data: Buffer
}

interface Call extends Asked {
  readonly resolve: (answer: Answered) => void
  readonly reject: (error: TokenError) => void
  readonly deadlineMs: number
  readonly due: number
  readonly dueMs: number
  id: number
  expectedUs: number
  isSlow: boolean
  settled: boolean
}

/** One worker thread of an agent, seen from here. */
export interface Lane {
  readonly socket: Socket
  open: boolean
  /** In the order sent, which is the order of the answers. The first is what the worker is busy with. */
  readonly underWay: Call[]
  busyUs: number
  /** How many of `underWay` take long. */
  slow: number
  /** When the first of `underWay` became the first. */
  since: number
  /** The end of `underWay` that is not written yet. */
  outgoing: Call[]
  /** Gets no work before, if others can: the device had no session or memory for it. */
  restUntil: number
}

export const newLane = (socket: Socket): Lane => ({
  socket,
  open: false,
  underWay: [],
  busyUs: 0,
  slow: 0,
  since: 0,
  outgoing: [],
  restUntil: 0,
})

/** Pieces of an answer, joined when all of it is there: one may be megabytes long, and comes in pieces of 64 KiB. */
export class Received {
  #pieces: Buffer[] = []
  #bytes = 0
  /** So many bytes are worth looking at. */
  #wanted = 0

  /** What is there now, undefined while it is no answer yet. */
  add(piece: Buffer): Buffer | undefined {
    this.#pieces.push(piece)
    this.#bytes += piece.length
    if (this.#bytes < this.#wanted) return undefined
    const all = this.#pieces.length === 1 ? piece : Buffer.concat(this.#pieces, this.#bytes)
    if (all !== piece) for (const each of this.#pieces) each.fill(0)
    this.#pieces = []
    this.#bytes = 0
    return all
  }

  /** The rest of what `add` answered. */
  keep(rest: Buffer): void {
    this.#wanted = wantedBytes(rest, 0, rest.length)
    if (rest.length > 0) this.#pieces.push(Buffer.from(rest))
    this.#bytes = rest.length
  }
}

/** The lanes of one agent process. */
export interface Crew {
  readonly lanes: readonly Lane[]
  /** The beginning of an answer whose rest has not come. */
  readonly received: Received
}

/** Who owns the agents. */
export interface Owner<C extends Crew> {
  /** The one that new calls go to. */
  current(): C | undefined
  /** Those that finish what they have. */
  draining(): ReadonlySet<C>
  /** It cannot be trusted any more. */
  failed(crew: C, reason: string): void
  /** One that drains has nothing under way. */
  idle(crew: C): void
}

/**
 * Whether what is kept for a worker may go to it. While it has cheap calls to answer, further ones wait and go together: waking a thread
 * costs as much as a call or two. A call that takes its time is sent at once, so that the worker finds it ready.
 */
function mayWrite(lane: Lane): boolean {
  const { outgoing } = lane
  // Calls that take their time come last in a turn.
  const [first, last] = [outgoing[0], outgoing.at(-1)]
  if (first === undefined || last === undefined) return false
  if (outgoing.length === lane.underWay.length || outgoing.length >= batchCalls) return true
  return first.expectedUs >= cheapCallUs || last.expectedUs >= cheapCallUs
}

function write(lane: Lane): void {
  const calls = lane.outgoing
  lane.outgoing = []
  let bytes = 0
  for (const call of calls) bytes += requestBytes(call)
  const batch = Buffer.allocUnsafeSlow(bytes)
  let at = 0
  for (const call of calls) at = encodeRequest(call, batch, at)
  // Plaintext does not stay behind.
  lane.socket.write(batch, () => batch.fill(0))
}

/** Two calls in any case, so that none waits for its next one. */
const hasRoom = (lane: Lane, costUs: number): boolean =>
  lane.busyUs + costUs <= Math.max(costUs < longCallUs ? workerBacklogUs : longBacklogUs, 2 * costUs)

function isUsable(lane: Lane): boolean {
  if (!lane.open) return false
  if (lane.restUntil === 0) return true
  if (lane.restUntil > performance.now()) return false
  lane.restUntil = 0
  return true
}

/** What a call is expected to take. */
interface Cost {
  readonly us: number
  /** Beyond what it takes to reach the device. */
  readonly ownUs: number
  readonly isSlow: boolean
}

/** The first lane has slow calls only when they are short, and few. */
const firstHasRoom = (first: Lane, { us, ownUs }: Cost): boolean =>
  first.busyUs + us <= firstBacklogUs || (first.underWay.length === 0 && ownUs <= shortSlowCallUs)

/**
 * Which lane a call of this cost goes to now.
 *
 * @param kept calls that are not slow wait while slow ones do: of the lanes these have all but the first, and the others the first
 */
function findLane(lanes: readonly Lane[], cost: Cost, kept: boolean): Lane | undefined {
  const usable = lanes.filter(isUsable)
  const [first] = usable
  if (first === undefined) return lanes.find((lane) => lane.open && lane.underWay.length === 0)
  const { us, isSlow } = cost
  if (usable.length === 1) return (kept && !isSlow) || !hasRoom(first, us) ? undefined : first
  if (!isSlow) {
    if (kept) return hasRoom(first, us) ? first : undefined
    const spreads = us >= cheapCallUs
    let withRoom: Lane | undefined
    for (const lane of usable) {
      if (lane.underWay.length === 0 && (withRoom === undefined || spreads)) return lane
      if (lane.slow > 0 || !hasRoom(lane, us)) continue
      if (withRoom === undefined || (spreads && lane.busyUs < withRoom.busyUs)) withRoom = lane
    }
    return withRoom ?? usable.find((lane) => hasRoom(lane, us))
  }
  // The first one last of those that have as little to do.
  let least: Lane | undefined
  for (const lane of [...usable.slice(1), ...(kept ? [] : [first])]) {
    const isOpen = lane === first ? firstHasRoom(lane, cost) : hasRoom(lane, us)
    if (isOpen && (least === undefined || lane.busyUs < least.busyUs)) least = lane
  }
  return least
}

/** Falls quickly and rises slowly: what a thread waited for a processor says nothing about the device. */
const smoothed = (known: number, measured: number): number => known + (measured - known) / (measured < known ? 8 : 64)

/** Where the cost of calls like this one is kept. */
const costPlace = ({ operation, scheme }: Asked): number => (operations[operation] << 8) | scheme

export class Calls<C extends Crew> {
  readonly #owner: Owner<C>
  readonly #limit: number
  readonly #sweepMs: number
  readonly #quick: Call[] = []
  readonly #slow: Call[] = []
  readonly #given = new Map<Operation, number>()
  #nextId = 1
  #outstanding = 0
  #flushPlanned = false
  #sweeper: NodeJS.Timeout | undefined
  readonly #costUs = new Float64Array(Object.keys(operations).length * 256 + 256)
  /** What basic operations take. */
  #reachUs: number | undefined

  constructor(owner: Owner<C>, limits: { readonly queueLimit: number; readonly deadlineMs: number }) {
    this.#owner = owner
    this.#limit = limits.queueLimit
    this.#sweepMs = Math.max(20, Math.min(250, limits.deadlineMs / 4))
    for (const [operation, guess] of Object.entries(firstGuessUs)) {
      const from = operations[operation as Operation] << 8
      this.#costUs.fill(guess, from, from + 256)
    }
  }

  /** Calls that wait or are under way. */
  get outstanding(): number {
    return this.#outstanding
  }

  /** How many were given to a worker, by operation, since this was made. */
  get given(): ReadonlyMap<Operation, number> {
    return this.#given
  }

  /** There is an agent to ask. */
  // oxlint-disable-next-line typescript/promise-function-async -- an async function would add a promise to every call
  add(asked: Asked, deadlineMs: number): Promise<Answered> {
    return new Promise((resolve, reject) => {
      if (this.#outstanding >= this.#limit) {
        reject(new TokenError('busy', `${this.#outstanding} calls to the token are waiting`))
        return
      }
      const { operation, scheme, ckaId, aad, data } = asked
      const due = performance.now() + deadlineMs
      const queue = this.#cost(asked).isSlow ? this.#slow : this.#quick
      const dueMs = machineMs(due)
      queue.push({
        operation,
        scheme,
        ckaId,
        aad,
        data,
        resolve,
        reject,
        deadlineMs,
        due,
        dueMs,
        id: 0,
        expectedUs: 0,
        isSlow: false,
        settled: false,
      })
      this.#outstanding += 1
      this.#planFlush()
    })
  }

  #planFlush(): void {
    if (this.#flushPlanned) return
    this.#flushPlanned = true
    setImmediate(() => {
      this.#flushPlanned = false
      this.flush()
    })
  }

  /** Hands waiting calls to workers with room, and writes what each was given in one piece. */
  flush(): void {
    const lanes = this.#owner.current()?.lanes
    if (lanes === undefined) return
    const [longest] = this.#slow
    const passed = longest !== undefined && performance.now() - (longest.due - longest.deadlineMs) > passedMs
    this.#place(this.#quick, lanes, passed)
    // Who still waits then is not to find more slow work in the first worker.
    this.#place(this.#slow, lanes, this.#quick.length > 0)
    for (const lane of lanes) if (mayWrite(lane)) write(lane)
    this.#sweeper ??= setInterval(() => this.#sweep(), this.#sweepMs)
  }

  /** As many as find a lane, in order. */
  #place(queue: Call[], lanes: readonly Lane[], kept: boolean): void {
    let placed = 0
    for (const call of queue) {
      if (!call.settled) {
        const learnt = this.#cost(call)
        // What waits among the slow ones is slow, whatever has been learnt since: else each queue could wait for the other for ever.
        const cost = queue === this.#slow ? { ...learnt, isSlow: true } : learnt
        const lane = findLane(lanes, cost, kept)
        if (lane === undefined) break
        this.#give(lane, call, cost)
      }
      placed += 1
    }
    if (placed > 0) queue.splice(0, placed)
  }

  #cost(asked: Asked): Cost {
    const us = this.#costUs[costPlace(asked)] ?? 0
    const ownUs = us - (this.#reachUs ?? 0)
    return { us, ownUs, isSlow: ownUs >= slowCallUs }
  }

  #give(lane: Lane, call: Call, { us, isSlow }: Cost): void {
    call.id = this.#nextId
    this.#nextId = this.#nextId === 0xffff_ffff ? 1 : this.#nextId + 1
    call.expectedUs = us
    call.isSlow = isSlow
    lane.busyUs += us
    if (isSlow) lane.slow += 1
    if (lane.underWay.length === 0) lane.since = performance.now()
    lane.underWay.push(call)
    lane.outgoing.push(call)
    this.#given.set(call.operation, (this.#given.get(call.operation) ?? 0) + 1)
  }

  /** Bytes of an agent whose memory the vendor's library may have spoilt: what is no answer ends that agent, never the service. */
  hear(crew: C, chunk: Buffer): void {
    try {
      this.#answers(crew, chunk)
    } catch (error) {
      this.#owner.failed(crew, `its answers cannot be read: ${error instanceof Error ? error.message : 'unknown reason'}`)
    }
  }

  #answers(crew: C, chunk: Buffer): void {
    const buffer = crew.received.add(chunk)
    if (buffer === undefined) return
    let at = 0
    for (;;) {
      const bytes = findFrame(buffer, at, buffer.length)
      if (bytes === undefined) break
      const head = parseAnswerHead(buffer, at)
      // Until it is settled it stays where the agent's end would find it.
      const lane = crew.lanes[head.worker]
      const call = lane?.underWay[0]
      if (lane === undefined || call?.id !== head.id) throw new RangeError('an answer that belongs to no call')
      lane.busyUs -= call.expectedUs
      if (call.isSlow) lane.slow -= 1
      lane.since = performance.now()
      // A refusal may have cost the device nothing.
      if (head.failure === undefined) this.#learn(call, head.microseconds)
      if (head.failure === 'busy') lane.restUntil = performance.now() + busyRestMs
      this.#settle(crew, call, head, buffer.subarray(at + headerBytes, at + bytes))
      lane.underWay.shift()
      at += bytes
    }
    crew.received.keep(buffer.subarray(at))
    buffer.fill(0)
    if (this.#owner.draining().has(crew)) {
      for (const lane of crew.lanes) if (mayWrite(lane)) write(lane)
      this.#owner.idle(crew)
    } else this.#planFlush()
  }

  #learn(call: Call, microseconds: number): void {
    const place = costPlace(call)
    this.#costUs[place] = smoothed(this.#costUs[place] ?? 0, microseconds)
    if (basicOperations.has(call.operation)) this.#reachUs = smoothed(this.#reachUs ?? microseconds, microseconds)
  }

  #settle(crew: C, call: Call, head: AnswerHead, data: Buffer): void {
    if (!call.settled) {
      if (head.failure === undefined) {
        this.#finish(call)
        call.resolve({ number: head.number, data: Buffer.from(data) })
      } else {
        const { message, code } = JSON.parse(data.toString()) as { message: string; code?: string }
        this.#finish(call)
        call.reject(new TokenError(head.failure, message, code))
      }
    }
    if (head.fatal) this.#owner.failed(crew, 'the device is gone')
  }

  #finish(call: Call): void {
    call.settled = true
    this.#outstanding -= 1
  }

  #abandon(call: Call, failure: TokenFailure, message: string): void {
    if (call.settled) return
    this.#finish(call)
    call.reject(new TokenError(failure, message))
  }

  /** The crew will not answer any more. */
  abandonCrew(crew: C, reason: string): void {
    for (const lane of crew.lanes) for (const call of lane.underWay) this.#abandon(call, 'unavailable', reason)
  }

  /** Nobody will take what waits. */
  abandonQueue(reason: string): void {
    for (const queue of [this.#quick, this.#slow]) {
      for (const call of queue) this.#abandon(call, 'unavailable', reason)
      queue.length = 0
    }
  }

  stop(): void {
    clearInterval(this.#sweeper)
  }

  /** Ends calls that are overdue, and agents whose device hangs. */
  #sweep(): void {
    const now = performance.now()
    for (const crew of [this.#owner.current(), ...this.#owner.draining()]) {
      for (const lane of crew?.lanes ?? []) {
        const first = lane.underWay[0]
        if (crew !== undefined && first !== undefined && now - lane.since > first.deadlineMs) {
          this.#owner.failed(crew, `${first.operation} did not return within ${first.deadlineMs} ms`)
          break
        }
        for (const call of lane.underWay) {
          if (call.due < now && !leavesObjects.has(call.operation))
            this.#abandon(call, 'unavailable', `no answer within ${call.deadlineMs} ms`)
        }
      }
    }
    for (const call of [...this.#quick, ...this.#slow]) {
      if (call.due < now) this.#abandon(call, 'unavailable', `the token had no time for the call within ${call.deadlineMs} ms`)
    }
    // What was given up may still be what a worker hangs in.
    const busy = this.#owner.current()?.lanes.some((lane) => lane.underWay.length > 0) === true
    if (this.#outstanding === 0 && !busy && this.#owner.draining().size === 0) {
      clearInterval(this.#sweeper)
      this.#sweeper = undefined
    }
  }
}
