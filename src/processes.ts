/**
 * Several API processes on one listener, as one of them sees it: how many there are, what each and the supervisor above them (supervisor.ts) tell each
 * other, and how one of them joins. Part of the wiring.
 *
 * The processes share the listening sockets (node:cluster) and the database; each has agents, sessions and connections of its own. Whoever of them has
 * time takes the next connection: were they dealt out by the supervisor, one that is dealt to a process just killed would be lost without a word.
 *
 * What one process wrote the others must not deny: a caller that was told of a new key may use it on its next connection. So a write ends only when
 * the other processes have read it, too. What is limited for the service as a whole (requests of an account, connections) each process counts for
 * itself and hears of from the others, a moment later.
 */

import cluster from 'node:cluster'
import { availableParallelism } from 'node:os'
import { basename } from 'node:path'
import type { MetricValues } from './base/metrics.ts'
import type { Log } from './base/log.ts'
import type { Taking } from './kms/quotas.ts'
import type { Readiness } from './http/ops.ts'

/** Longer than this nobody waits for a process that does not say whether it has read what was written: it then does so with its next poll. */
export const readByAllWithinMs = 2000
/** How often a process tells the others what it took of what they share. */
const shareEveryMs = 50

/** How many processes share the ports, and why so many. */
export function planProcesses({
  processes,
  pkcs11,
}: {
  readonly processes: number | undefined
  readonly pkcs11: { readonly library: string | undefined }
}): { readonly count: number; readonly why: string } {
  const processors = availableParallelism()
  if (processes !== undefined) return { count: processes, why: `HOLDFAST_PROCESSES says so; this machine has ${processors} processors` }
  if (pkcs11.library === undefined || /softhsm/i.test(basename(pkcs11.library)))
    return { count: 1, why: 'SoftHSM2 at times never shows one process what another made; HOLDFAST_PROCESSES overrides it' }
  return { count: Math.max(1, processors - 1), why: `one less than the ${processors} processors; HOLDFAST_PROCESSES overrides it` }
}

export interface Address {
  readonly url: string
  readonly xksUrl: string | undefined
}

export type ToMember =
  | { readonly type: 'stop' }
  | { readonly type: 'reload' }
  /** Read what another wrote, then say so. */
  | { readonly type: 'refresh'; readonly id: number }
  | { readonly type: 'ask'; readonly id: number; readonly what: Question }
  | { readonly type: 'share'; readonly takings: readonly Taking[]; readonly connections: Counts }
  /** All others have read it. */
  | { readonly type: 'read'; readonly id: number }
  /** From now on writes wait for it. */
  | { readonly type: 'joined' }

export type FromMember =
  | { readonly type: 'joins' }
  | { readonly type: 'ready'; readonly address: Address }
  | { readonly type: 'wrote'; readonly id: number }
  | { readonly type: 'answer'; readonly id: number; readonly value: unknown }
  /** In the end, when no more calls come. */
  | { readonly type: 'counted'; readonly values: MetricValues }
  | { readonly type: 'share'; readonly takings: readonly Taking[]; readonly connections: Counts }

export type Question = 'readiness' | 'metrics' | 'missing'
/** By listener. */
export type Counts = Readonly<Record<string, number>>

/** Whether this process is one of several, started by a supervisor. */
export const isMember = (): boolean => cluster.isWorker

/** Nothing keeps this process from ending any more: what a supervisor started would wait for its words for ever. */
export const leaveProcesses = (): void => void cluster.worker?.disconnect()

/** What a member has to say about itself. */
export interface MemberRooms {
  readonly readiness: () => Promise<Readiness>
  readonly metricValues: () => Promise<MetricValues>
  readonly reload: (() => void) | undefined
  readonly shared: Shared
}

/** What is limited for all processes together. */
export interface Shared {
  /** Of quotas, since it was last asked. */
  takings(): readonly Taking[]
  takenElsewhere(takings: readonly Taking[]): void
  /** All that quotas lack here. */
  missing(): readonly Taking[]
  connections(): Counts
  connectionsElsewhere(counts: Counts): void
}

export interface Membership {
  /** For the metrics. */
  readonly name: string
  /** After each write. Resolves when the others have read it. Never rejects. */
  readonly tellWritten: () => Promise<void>
  /** What to do when another wrote. */
  onWritten(refresh: () => Promise<void>): void
  /** Before it listens: until then nobody's write waits for it to be read here. Resolves when all that was written before has been. */
  join(): Promise<void>
  /** Serves from now on. */
  ready(address: Address, rooms: MemberRooms): void
  /** Says what it has counted, when no more calls come and its rooms are still open. */
  close(): Promise<void>
  /** Resolves when the supervisor says so. */
  readonly stop: Promise<string>
}

/** Joins the supervisor that started this process. Signals are the supervisor's to act upon. */
export function joinProcesses(log: Log): Membership {
  let refresh: (() => Promise<void>) | undefined
  let rooms: MemberRooms | undefined
  let stopped = (_reason: string): void => undefined
  const stop = new Promise<string>((resolve) => (stopped = resolve))
  let stopping = false
  let joined = (): void => undefined
  /** Without its supervisor a process ends; that a message did not arrive says no more. */
  const send = (message: FromMember, sent = (): void => undefined): void => {
    if (process.connected) process.send?.(message, undefined, undefined, sent)
    else sent()
  }

  const awaited = new Map<number, () => void>()
  let lastId = 0
  const tellOnce = (): Promise<void> => {
    const id = ++lastId
    return new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        awaited.delete(id)
        log.warn({}, 'another process did not say whether it has read what was written here')
        resolve()
      }, readByAllWithinMs)
      awaited.set(id, () => {
        clearTimeout(timer)
        awaited.delete(id)
        resolve()
      })
      send({ type: 'wrote', id })
    })
  }
  // Writes that end while one is being told share the next telling.
  let running: Promise<void> | undefined
  let next: Promise<void> | undefined
  const start = (): Promise<void> => (running = tellOnce().finally(() => (running = undefined)))
  const tellWritten = (): Promise<void> => {
    if (!running) return start()
    next ??= running.then(() => {
      next = undefined
      return start()
    })
    return next
  }

  let toldConnections = '{}'
  const share = (shared: Shared): void => {
    const open = shared.connections()
    const taken = shared.takings()
    const text = JSON.stringify(open)
    if (taken.length === 0 && text === toldConnections) return
    toldConnections = text
    send({ type: 'share', takings: taken, connections: open })
  }

  const answers: Readonly<Record<Question, () => unknown>> = {
    readiness: () => rooms?.readiness(),
    metrics: () => rooms?.metricValues(),
    missing: () => rooms?.shared.missing(),
  }
  const answer = async (id: number, work: () => Promise<unknown>): Promise<void> => {
    try {
      send({ type: 'answer', id, value: await work() })
    } catch (error) {
      // Towards its end what it would have to be asked about is closed.
      if (!stopping) log.warn({ err: error }, 'a question of the supervisor could not be answered')
      send({ type: 'answer', id, value: undefined })
    }
  }
  process.on('message', (message: ToMember) => {
    switch (message.type) {
      case 'stop':
        stopping = true
        return stopped('the supervisor stops')
      case 'reload':
        return rooms?.reload?.()
      case 'refresh':
        return void answer(message.id, async () => refresh?.())
      case 'ask':
        return void answer(message.id, async () => answers[message.what]())
      case 'share':
        rooms?.shared.takenElsewhere(message.takings)
        return rooms?.shared.connectionsElsewhere(message.connections)
      case 'read':
        return awaited.get(message.id)?.()
      case 'joined':
        return joined()
    }
  })
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR2'] as const) process.on(signal, () => undefined)
  return {
    name: `${cluster.worker?.id ?? 0}`,
    tellWritten,
    onWritten: (then) => void (refresh = then),
    async join() {
      await new Promise<void>((resolve) => {
        joined = resolve
        send({ type: 'joins' })
      })
      await refresh?.()
    },
    ready(address, own) {
      rooms = own
      send({ type: 'ready', address })
      const tell = (): void => {
        try {
          share(own.shared)
        } catch (error) {
          log.warn({ err: error }, 'what the processes share could not be told')
        }
      }
      setInterval(tell, shareEveryMs).unref()
    },
    async close() {
      const values = await rooms?.metricValues()
      if (values) await new Promise<void>((resolve) => send({ type: 'counted', values }, resolve))
    },
    stop,
  }
}
