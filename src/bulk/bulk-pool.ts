/**
 * Threads that seal and open the frames of messages, and hash what is signed. They start when they are needed and end when they have not been for a
 * while. What is worked on lies in slabs of shared memory, which are lent to streams and used again.
 */

import { availableParallelism } from 'node:os'
import { MessageChannel, type MessagePort } from 'node:worker_threads'
import type { NotaryAnswer, NotaryOrder, NotaryQuestion, RunAnswer, RunOrder, WipeOrder } from './bulk-worker.ts'
import { SourceFailure } from './chunks.ts'
import { zero, type OpenRun, type SealRun } from './frames.ts'
import { MessageError } from './message.ts'
import type { SignatureKind } from './suites.ts'
import { openThreads, type Threads } from './threads.ts'

export interface BulkPool {
  /** So many runs are worked on at once. */
  readonly threads: number
  /** Seals a run onto its slab. @throws SourceFailure, PoolFailure */
  seal(order: RunOrder<SealRun>): Promise<number>
  /** Opens a run onto its slab. @throws MessageError, SourceFailure, PoolFailure */
  open(order: RunOrder<OpenRun>): Promise<number>
  /** One for every signed message; it must be closed. @throws MessageError for a public key that is none, PoolFailure */
  notary(kind: SignatureKind, publicKey?: Uint8Array): Promise<Notary>
  /** SHA-256 of bytes as they pass; it must be closed. @throws PoolFailure */
  hasher(): Promise<Hasher>
  /** Memory to work on: of `slabBytes` and `longSlabBytes` it is kept from stream to stream; what was in it is wiped. */
  takeSlab(bytes: number): Slab
  /** Wipes a long slab in a thread: the event loop would stand still for a millisecond. What was not wiped so is when it is given back. */
  wipe(slab: Slab): Promise<void>
  /** Back from a stream that has left it. */
  giveSlab(slab: Slab): void
  /** Ends the threads; streams under way fail. */
  close(): Promise<void>
}

/** Hashes a message in order, in a thread, and signs or judges it. What it is given must not change before it has answered. @throws PoolFailure */
export interface Notary {
  /** Of a new pair, compressed; nothing when it verifies. */
  readonly publicKey: Uint8Array | undefined
  update(bytes: Uint8Array | { readonly slab: SharedArrayBuffer; readonly length: number }): Promise<void>
  /** DER. */
  sign(): Promise<Uint8Array>
  verify(signature: Uint8Array): Promise<boolean>
  close(): void
}

/** The same without a signature. */
export interface Hasher extends Pick<Notary, 'update' | 'close'> {
  digest(): Promise<Uint8Array>
}

/** A thread ended before its work did, or the pool was closed. The message it worked on is not at fault. */
export class PoolFailure extends Error {
  override readonly name = 'PoolFailure'
}

export interface Slab {
  readonly shared: SharedArrayBuffer
  /** The same memory. */
  readonly memory: Buffer
  /** What may have been written to, from the beginning on. */
  touched: number
}

export interface BulkPoolOptions {
  /** As many as there are processors, unless given. */
  readonly threads?: number
  /**
   * 0 (unless given) to 19: how far the threads stand back for whatever else wants a processor, as `nice` has it. For a service whose event loop is to
   * stay quick. On Linux, where threads have priorities of their own; elsewhere it does nothing.
   */
  readonly niceness?: number
}

/** A run: long enough that handing it over costs little, short enough that several lie in the processor's cache. */
export const slabBytes = 2 ** 20 + 4096

/** For runs whose bytes are not copied to them. Threads have their caches for themselves then, and handing over is what is left to save. */
export const longSlabBytes = (threads: number): number => slabBytes * Math.min(4, Math.max(1, Math.floor(16 / threads)))

/** Of all that are kept together. */
const spareBytes = 32 * slabBytes

export function openBulkPool({ threads = availableParallelism(), niceness = 0 }: BulkPoolOptions = {}): BulkPool {
  // Two runs for each thread: the next one lies there when it is done with the first.
  const sealers = openBulkThreads(threads, niceness, { concurrentTasksPerWorker: 2 })
  // A notary waits for its stream most of the time: many share a thread, and no stream waits for another's end.
  const notaries = openBulkThreads(threads, niceness, {
    concurrentTasksPerWorker: 2 ** 20,
    loadBalancer: (_task, workers) => {
      const least = workers.reduce<(typeof workers)[number] | null>((a, b) => (a && a.currentUsage <= b.currentUsage ? a : b), null)
      return least && least.currentUsage > 0 && workers.length < threads ? null : least
    },
  })
  const spare: Slab[] = []
  const kept = [slabBytes, longSlabBytes(threads)]
  const spared = (): number => spare.reduce((sum, { memory }) => sum + memory.length, 0)
  return {
    threads,
    seal: async (order) => answered(await sealers.run<RunAnswer>('seal', order)),
    open: async (order) => answered(await sealers.run<RunAnswer>('open', order)),
    notary: (kind, publicKey) => openNotary(notaries.run, kind, publicKey),
    async hasher() {
      const notary = await openNotary(notaries.run, 'sha256')
      return { update: (bytes) => notary.update(bytes), digest: () => notary.sign(), close: () => notary.close() }
    },
    takeSlab(bytes) {
      const at = spare.findLastIndex(({ memory }) => memory.length === bytes)
      const [slab] = at < 0 ? [] : spare.splice(at, 1)
      if (slab) return slab
      try {
        const shared = new SharedArrayBuffer(bytes)
        return { shared, memory: Buffer.from(shared), touched: 0 }
      } catch (cause) {
        throw new RangeError(`there is no memory for ${bytes} bytes in one piece: the frames are too long for this machine`, { cause })
      }
    },
    async wipe(slab) {
      if (slab.touched <= slabBytes) return
      const order: WipeOrder = { slab: slab.shared, bytes: slab.touched }
      const isWiped = await sealers.run('wipe', order).then(
        () => true,
        () => false,
      )
      if (isWiped) slab.touched = 0
    },
    giveSlab(slab) {
      zero(slab.memory, slab.touched)
      slab.touched = 0
      if (!kept.includes(slab.memory.length)) return
      spare.push(slab)
      // The oldest go, of whichever size: what is asked for changes.
      while (spared() > spareBytes) spare.shift()
    },
    async close() {
      await Promise.all([sealers.close(), notaries.close()])
    },
  }
}

function answered(answer: RunAnswer): number {
  if (typeof answer !== 'object') return answer
  throw answer.fault === 'source' ? new SourceFailure(answer.message) : new MessageError(answer.fault, answer.message)
}

let shared: BulkPool | undefined
/** The program's own, for who names no other. It does not keep a program running. */
export const sharedPool = (): BulkPool => (shared ??= openBulkPool())

type Run = Threads['run']

function openBulkThreads(
  threads: number,
  niceness: number,
  options: Parameters<typeof openThreads>[1],
): { readonly run: Run; readonly close: () => Promise<void> } {
  const pool = openThreads(new URL('./bulk-worker.ts', import.meta.url), { workerData: { niceness }, maxThreads: threads, ...options })
  let closed = false
  return {
    async run<Answer>(task: string, input: unknown, transferList?: MessagePort[]): Promise<Answer> {
      if (closed) throw new PoolFailure('the pool of threads is closed')
      try {
        return await pool.run<Answer>(task, input, transferList)
      } catch (cause) {
        throw new PoolFailure('a thread that worked on the message ended before its work was done; trying again may help', { cause })
      }
    },
    close() {
      closed = true
      return pool.close()
    },
  }
}

async function openNotary(run: Run, kind: NotaryOrder['kind'], publicKey?: Uint8Array): Promise<Notary> {
  const { port1: port, port2 } = new MessageChannel()
  const asked: { readonly resolve: (answer: NotaryAnswer) => void; readonly reject: (cause: unknown) => void }[] = []
  let failed: { readonly cause: unknown } | undefined
  const expect = (): Promise<NotaryAnswer> =>
    new Promise((resolve, reject) => {
      if (failed) reject(failed.cause)
      else asked.push({ resolve, reject })
    })
  const ask = (question: NotaryQuestion): Promise<NotaryAnswer> => {
    port.postMessage(question)
    return expect()
  }
  const fail = (cause: unknown): void => {
    failed = { cause }
    for (const { reject } of asked.splice(0)) reject(cause)
  }
  port.on('message', (answer: NotaryAnswer) => asked.shift()?.resolve(answer))
  const first = expect()
  const order: NotaryOrder = { kind, publicKey: publicKey && own(publicKey), port: port2 }
  run<void>('notary', order, [port2]).then(() => fail(new PoolFailure("the signature's thread ended")), fail)
  try {
    const answer = await first
    if (answer && typeof answer === 'object' && 'fault' in answer) throw new MessageError(answer.fault, answer.message)
    return {
      publicKey: answer instanceof Uint8Array ? answer : undefined,
      async update(bytes) {
        await ask(bytes instanceof Uint8Array ? { bytes: own(bytes) } : bytes)
      },
      sign: async () => (await ask('sign')) as Uint8Array,
      verify: async (signature) => (await ask({ signature })) === true,
      close: () => port.close(),
    }
  } catch (error) {
    port.close()
    throw error
  }
}

/** In memory of its own: what a view of a larger one is sent as is all of that, whatever else is in it. */
export const own = (bytes: Uint8Array): Uint8Array => new Uint8Array(bytes)
