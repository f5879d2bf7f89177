/**
 * Several API processes on one listener: a supervisor that starts them, keeps them alive and speaks for them, and what each of them is told. Part of
 * the wiring.
 *
 * The processes share the listening sockets (node:cluster) and the database; each has agents, sessions and connections of its own. Whoever of them has
 * time takes the next connection: were they dealt out by the supervisor, one that is dealt to a process just killed would be lost without a word. The
 * first is started alone, so that there is one that makes what a first start makes. One that ends is replaced, after 0.25 s and then
 * twice as long each time up to 30 s; its callers see a broken connection, as when a service of one process is restarted.
 *
 * What one process wrote the others must not deny: a caller that was told of a new key may use it on its next connection. So a write ends only when
 * the other processes have read it, too.
 */

import cluster, { type Worker } from 'node:cluster'
import { OperatorError } from './base/operator-error.ts'
import { joinMetrics, type MetricsPage, type MetricValues } from './base/metrics.ts'
import type { Log } from './base/log.ts'
import { shuttingDown, type Readiness } from './http/ops.ts'

const backOff = { firstMs: 250, longestMs: 30_000, forgottenAfterMs: 10_000 }

/** Longer than this nobody waits for a process that does not say whether it has read what was written: it then does so with its next poll. */
const readByAllWithinMs = 2000
/** How long a process may take to say how it is. */
const tellWithinMs = 5500

export interface Address {
  readonly url: string
  readonly xksUrl: string | undefined
}

type ToMember =
  | { readonly type: 'stop' }
  | { readonly type: 'reload' }
  /** Read what another wrote, then say so. */
  | { readonly type: 'refresh'; readonly id: number }
  | { readonly type: 'ask'; readonly id: number; readonly what: 'readiness' | 'metrics' }
  /** All others have read it. */
  | { readonly type: 'read'; readonly id: number }

type FromMember =
  | { readonly type: 'ready'; readonly address: Address }
  | { readonly type: 'wrote'; readonly id: number }
  | { readonly type: 'answer'; readonly id: number; readonly value: unknown }

// ---- one of the processes ----

/** Whether this process is one of several, started by a supervisor. */
export const isMember = (): boolean => cluster.isWorker

/** What a member has to say about itself. */
export interface MemberRooms {
  readonly readiness: () => Promise<Readiness>
  readonly metricValues: () => Promise<MetricValues>
  readonly reload: (() => void) | undefined
}

export interface Membership {
  /** For the metrics. */
  readonly name: string
  /** After each write. Resolves when the others have read it. Never rejects. */
  readonly tellWritten: () => Promise<void>
  /** What to do when another wrote. */
  onWritten(refresh: () => Promise<void>): void
  /** Serves from now on. */
  ready(address: Address, rooms: MemberRooms): void
  /** Resolves when the supervisor says so. */
  readonly stop: Promise<string>
  /** Nothing keeps this process from ending any more. */
  leave(): void
}

/** Joins the supervisor that started this process. Signals are the supervisor's to act upon. */
export function joinProcesses(log: Log): Membership {
  let refresh: (() => Promise<void>) | undefined
  let rooms: MemberRooms | undefined
  let stopped = (_reason: string): void => undefined
  const stop = new Promise<string>((resolve) => (stopped = resolve))
  const send = (message: FromMember): void => void (process.connected && process.send?.(message))

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

  const answer = async (id: number, work: () => Promise<unknown>): Promise<void> => {
    try {
      send({ type: 'answer', id, value: await work() })
    } catch (error) {
      log.warn({ err: error }, 'a question of the supervisor could not be answered')
      send({ type: 'answer', id, value: undefined })
    }
  }
  process.on('message', (message: ToMember) => {
    switch (message.type) {
      case 'stop':
        return stopped('the supervisor stops')
      case 'reload':
        return rooms?.reload?.()
      case 'refresh':
        return void answer(message.id, async () => refresh?.())
      case 'ask': {
        const { what } = message
        return void answer(message.id, async () => (what === 'readiness' ? rooms?.readiness() : rooms?.metricValues()))
      }
      case 'read':
        return awaited.get(message.id)?.()
    }
  })
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => undefined)
  return {
    name: `${cluster.worker?.id ?? 0}`,
    tellWritten,
    onWritten: (then) => void (refresh = then),
    ready(address, own) {
      rooms = own
      send({ type: 'ready', address })
    },
    stop,
    leave: () => void cluster.worker?.disconnect(),
  }
}

// ---- the supervisor ----

export interface Processes {
  readonly address: Address
  readiness(): Promise<Readiness>
  page(): Promise<MetricsPage>
  /** All read their certificates again. */
  reload(): void
  /** All turn callers away, finish calls under way, and end. */
  close(): Promise<void>
}

class Member {
  readonly worker: Worker
  readonly startedAt = performance.now()
  address: Address | undefined
  constructor(worker: Worker) {
    this.worker = worker
  }
  get isReady(): boolean {
    return this.address !== undefined
  }
  tell(message: ToMember): boolean {
    if (!this.worker.isConnected()) return false
    this.worker.send(message)
    return true
  }
}

/**
 * Starts as many processes as told of the program that this one is, with its arguments.
 * @param drainWithinMs what a process may take to end when it is told to; then it is killed
 * @throws OperatorError when the first one cannot start, which then has said why
 */
export async function superviseProcesses(count: number, drainWithinMs: number, log: Log): Promise<Processes> {
  cluster.schedulingPolicy = cluster.SCHED_NONE
  const members = new Set<Member>()
  const questions = new Map<number, { readonly member: Member; readonly settle: (value: unknown) => void }>()
  const restarts = new Set<NodeJS.Timeout>()
  let lastId = 0
  let failures = 0
  let closing = false

  /** Undefined when it does not say in time, or ends. */
  const ask = (member: Member, question: (id: number) => ToMember, withinMs: number): Promise<unknown> =>
    new Promise((resolve) => {
      const id = ++lastId
      const settle = (value: unknown): void => {
        clearTimeout(timer)
        questions.delete(id)
        resolve(value)
      }
      const timer = setTimeout(() => settle(undefined), withinMs)
      questions.set(id, { member, settle })
      if (!member.tell(question(id))) settle(undefined)
    })

  const spread = async (from: Member, id: number): Promise<void> => {
    const others = [...members].filter((member) => member !== from)
    await Promise.all(others.map((member) => ask(member, (question) => ({ type: 'refresh', id: question }), readByAllWithinMs)))
    from.tell({ type: 'read', id })
  }

  const replace = (): void => {
    const delayMs = Math.min(backOff.longestMs, backOff.firstMs * 2 ** failures)
    failures += 1
    const timer = setTimeout(() => {
      restarts.delete(timer)
      void startOne()
    }, delayMs)
    restarts.add(timer)
  }

  /** Resolves when it serves, with nothing when it ended before. */
  const startOne = (): Promise<Member | undefined> => {
    const worker = cluster.fork()
    const member = new Member(worker)
    members.add(member)
    return new Promise((resolve) => {
      worker.on('message', (message: FromMember) => {
        switch (message.type) {
          case 'ready':
            member.address = message.address
            log.info({ process: worker.id, pid: worker.process.pid }, 'a process serves')
            return resolve(member)
          case 'wrote':
            return void spread(member, message.id)
          case 'answer':
            return questions.get(message.id)?.settle(message.value)
        }
      })
      worker.once('exit', (code: number | null, signal: string | null) => {
        members.delete(member)
        for (const { member: asked, settle } of questions.values()) if (asked === member) settle(undefined)
        resolve(undefined)
        if (closing) return
        log.error({ process: worker.id, pid: worker.process.pid, code, signal }, 'a process has ended by itself')
        if (member.isReady && performance.now() - member.startedAt > backOff.forgottenAfterMs) failures = 0
        if (member !== first) replace()
      })
    })
  }

  // Until it serves it is not replaced: what it cannot start for has been said.
  let first: Member | undefined
  const starting = startOne()
  first = [...members][0]
  const started = await starting
  first = undefined
  if (started?.address === undefined) throw new OperatorError('The service could not start.')
  const { address } = started
  await Promise.all(Array.from({ length: count - 1 }, startOne))

  const serving = (): readonly Member[] => [...members].filter(({ isReady }) => isReady)
  return {
    address,
    async readiness() {
      if (closing) return shuttingDown
      const asked = serving()
      const answers = await Promise.all(
        asked.map(
          async (member) => (await ask(member, (id) => ({ type: 'ask', id, what: 'readiness' }), tellWithinMs)) as Readiness | undefined,
        ),
      )
      const known = answers.filter((one) => one !== undefined)
      // One that is being replaced does not keep the others from serving.
      const detail = known.length === count ? 'ok' : `${known.length} of ${count} processes serve`
      const ill = known.find(({ ready }) => !ready) ?? known[0]
      return {
        ready: known.some(({ ready }) => ready),
        checks: { ...ill?.checks, processes: { ok: known.length === count, detail } },
      }
    },
    async page() {
      const values = await Promise.all(
        serving().map(
          async (member) => (await ask(member, (id) => ({ type: 'ask', id, what: 'metrics' }), tellWithinMs)) as MetricValues | undefined,
        ),
      )
      return joinMetrics(values.filter((one) => one !== undefined))
    },
    reload: () => members.forEach((member) => member.tell({ type: 'reload' })),
    async close() {
      closing = true
      for (const timer of restarts) clearTimeout(timer)
      await Promise.all(
        [...members].map(async (member) => {
          const { worker } = member
          if (worker.isDead()) return
          const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()))
          if (!member.tell({ type: 'stop' })) worker.process.kill('SIGKILL')
          const kill = setTimeout(() => {
            log.error({ process: worker.id }, 'a process did not end in time and is killed')
            worker.process.kill('SIGKILL')
          }, drainWithinMs)
          await ended
          clearTimeout(kill)
        }),
      )
    },
  }
}
