/**
 * The supervisor of several API processes (processes.ts): starts them, keeps them alive and speaks for them. Part of the wiring.
 *
 * The first is started alone, so that there is one that makes what a first start makes. One that ends is replaced, after 0.25 s and then
 * twice as long each time up to 30 s; its callers see a broken connection, as when a service of one process is restarted. All can be replaced while
 * callers are served: a new one first, then an old one is told to end, and so on.
 */

import cluster, { type Worker } from 'node:cluster'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Log } from './base/log.ts'
import { joinMetrics, openMetrics, ProcessFigures, type MetricsPage, type MetricValues } from './base/metrics.ts'
import { OperatorError } from './base/operator-error.ts'
import { shuttingDown, type Readiness } from './http/ops.ts'
import type { Taking } from './kms/quotas.ts'
import { readByAllWithinMs, type Address, type Counts, type FromMember, type Question, type ToMember } from './processes.ts'

const backOff = { firstMs: 250, longestMs: 30_000, forgottenAfterMs: 10_000 }
/** So many that ended one after the other are no accident any more. */
const tooManyInARow = 5
/** How long a process may take to say how it is. */
const tellWithinMs = 5500
/** How often a process that is to replace one that serves is started before the others go on as they are. */
const mostTries = 3

export interface Processes {
  readonly address: Address
  readiness(): Promise<Readiness>
  /** @param overall the processes' values added up, instead of each by itself */
  page(overall: boolean): Promise<MetricsPage>
  /** All read their certificates again. */
  reload(): void
  /** Replaces all, one after the other, while callers are served. Resolves when it is done, or has been given up, which the log says. Never rejects. */
  restart(): Promise<void>
  /** All turn callers away, finish calls under way, and end. */
  close(): Promise<void>
}

/** One of the processes, as the supervisor sees it. */
class Member {
  readonly worker: Worker
  readonly startedAt = performance.now()
  address: Address | undefined
  /** Whether it reads what others write, and is waited for. One that starts reads everything anyway, and is too busy to say so. */
  reads = false
  connections: Counts = {}
  isTold = false
  readonly #questions = new Map<number, (value: unknown) => void>()
  #lastId = 0
  constructor(worker: Worker) {
    this.worker = worker
  }
  get isServing(): boolean {
    return this.address !== undefined && !this.isTold
  }
  /** How long it has been there, if it ever served. */
  get servedMs(): number {
    return this.address === undefined ? 0 : performance.now() - this.startedAt
  }
  /** For the log. */
  get who(): { readonly process: number; readonly pid: number | undefined } {
    return { process: this.worker.id, pid: this.worker.process.pid }
  }

  tell(message: ToMember): boolean {
    if (!this.worker.isConnected()) return false
    // It may be ending at this moment, which its exit says; unheard, the error would end the supervisor.
    this.worker.process.send(message, () => undefined)
    return true
  }
  /** Undefined when it does not say in time, or ends. */
  ask(question: (id: number) => ToMember, withinMs: number): Promise<unknown> {
    return new Promise((resolve) => {
      const id = ++this.#lastId
      const settle = (value: unknown): void => {
        clearTimeout(timer)
        this.#questions.delete(id)
        resolve(value)
      }
      const timer = setTimeout(() => settle(undefined), withinMs)
      this.#questions.set(id, settle)
      if (!this.tell(question(id))) settle(undefined)
    })
  }
  askWhat(what: Question): Promise<unknown> {
    return this.ask((id) => ({ type: 'ask', id, what }), tellWithinMs)
  }
  answered(id: number, value: unknown): void {
    this.#questions.get(id)?.(value)
  }
  /** It has ended: nobody waits for what it would have said. */
  gone(): void {
    for (const settle of this.#questions.values()) settle(undefined)
  }

  /** Tells it to finish what is under way and end; resolves when it has ended. */
  async retire(drainWithinMs: number, log: Log): Promise<void> {
    const { worker } = this
    this.isTold = true
    if (worker.isDead()) return
    const exit = new Promise<void>((resolve) => worker.once('exit', () => resolve()))
    if (!this.tell({ type: 'stop' })) worker.process.kill('SIGKILL')
    const kill = setTimeout(() => {
      log.error({ process: worker.id }, 'a process did not end in time and is killed')
      worker.process.kill('SIGKILL')
    }, drainWithinMs)
    await exit
    clearTimeout(kill)
  }
}

const servingOf = (members: ReadonlySet<Member>): readonly Member[] => [...members].filter(({ isServing }) => isServing)

/** Has the others read what `from` wrote, and tells it when they have. */
async function spread(members: ReadonlySet<Member>, from: Member, id: number): Promise<void> {
  const others = [...members].filter((member) => member !== from && member.reads)
  await Promise.all(others.map((member) => member.ask((question) => ({ type: 'refresh', id: question }), readByAllWithinMs)))
  from.tell({ type: 'read', id })
}

/** Tells what `from` took, and how many connections each has to count with. */
function share(members: ReadonlySet<Member>, from: Member | undefined, takings: readonly Taking[]): void {
  for (const to of members) {
    if (to === from) continue
    const connections: Record<string, number> = {}
    for (const other of members)
      if (other !== to) for (const [name, open] of Object.entries(other.connections)) connections[name] = (connections[name] ?? 0) + open
    to.tell({ type: 'share', takings, connections })
  }
}

/** What was used up before it came is used up for it, too. */
async function initiate(members: ReadonlySet<Member>, member: Member): Promise<void> {
  const [other] = servingOf(members).filter((one) => one !== member)
  const missing = other && ((await other.askWhat('missing')) as readonly Taking[] | undefined)
  if (missing) member.tell({ type: 'share', takings: missing, connections: {} })
  share(members, undefined, [])
}

/** Processes that end one after the other: each is replaced after a longer while than the one before, and in the end it is said loudly. */
class Failures {
  #inARow = 0
  #last = ''
  /** @param how it ended */
  add(how: string, servedMs: number): void {
    this.#last = how
    // One that has served for a while says nothing of those before it.
    if (servedMs > backOff.forgottenAfterMs) this.#inARow = 0
  }
  nextDelayMs(log: Log): number {
    const delayMs = Math.min(backOff.longestMs, backOff.firstMs * 2 ** this.#inARow)
    this.#inARow += 1
    if (this.#inARow >= tooManyInARow)
      log.error(
        { failures: this.#inARow, lastFailure: this.#last, nextInMs: delayMs },
        'API processes keep ending, one after the other: see what they said before they did',
      )
    return delayMs
  }
  /** For who asks why so few serve; empty when it is no more than an accident. */
  get why(): string {
    return this.#inARow >= tooManyInARow ? `: ${this.#inARow} have ended one after the other, the last with ${this.#last}` : ''
  }
}

/** Starts processes and keeps so many of them alive, until it is closed. */
class Crew {
  readonly failures = new Failures()
  readonly figures = new ProcessFigures<Member>()
  readonly #members = new Set<Member>()
  readonly #count: number
  readonly #drainWithinMs: number
  readonly #countFailure: () => void
  readonly #log: Log
  readonly #replacements = new Set<NodeJS.Timeout>()
  /** Where the first serves. Until it does none is replaced: what it cannot start for has been said. */
  #address: Address | undefined
  #isClosing = false
  #isReplacing = false

  constructor(count: number, drainWithinMs: number, countFailure: () => void, log: Log) {
    this.#count = count
    this.#drainWithinMs = drainWithinMs
    this.#countFailure = countFailure
    this.#log = log
  }
  get members(): ReadonlySet<Member> {
    return this.#members
  }
  get isClosing(): boolean {
    return this.#isClosing
  }

  /** The first alone, then the others. Answers where they serve. */
  async start(): Promise<Address> {
    const first = await this.#startOne()
    if (first?.address === undefined) throw new OperatorError('The service could not start.')
    await Promise.all(Array.from({ length: this.#count - 1 }, () => this.#startOne()))
    return first.address
  }

  /** Resolves when it serves, with nothing when it ended before. */
  async #startOne(): Promise<Member | undefined> {
    try {
      return await this.#begin(cluster.fork())
    } catch (error) {
      this.#wasRefused(error)
      return undefined
    }
  }

  /** @throws what the system says that has no room for another process: some of it is an event, and some `fork` throws */
  #begin(worker: Worker): Promise<Member | undefined> {
    const member = new Member(worker)
    this.#members.add(member)
    this.figures.began(member)
    return new Promise((resolve, reject) => {
      worker.on('message', (message: FromMember) => {
        if (message.type !== 'ready') this.#hear(member, message)
        else if (this.#isAccepted(member, message.address)) resolve(member)
      })
      // Comes after all that it has said, which its exit may not.
      worker.once('disconnect', () => this.figures.ended(member))
      worker.once('exit', (code: number | null, signal: string | null) => {
        this.#hasEnded(member, code, signal)
        resolve(undefined)
      })
      worker.on('error', (error) => {
        // What one cannot be told any more that is just ending its exit says. There is none of one that never was.
        if (worker.process.pid !== undefined) return
        this.figures.ended(member)
        this.#members.delete(member)
        member.gone()
        reject(error)
      })
    })
  }

  #hear(member: Member, message: Exclude<FromMember, { readonly type: 'ready' }>): void {
    switch (message.type) {
      case 'joins':
        member.reads = true
        member.tell({ type: 'joined' })
        // What it was told before it could hear is lost.
        if (member.isTold) member.tell({ type: 'stop' })
        return undefined
      case 'wrote':
        return void spread(this.#members, member, message.id)
      case 'answer':
        return member.answered(message.id, message.value)
      case 'counted':
        return this.figures.said(member, message.values, 'last')
      case 'share':
        member.connections = message.connections
        return share(this.#members, member, message.takings)
    }
  }

  /** One that has come up where the others are not is told to end; one that has been told already does so. */
  #isAccepted(member: Member, wanted: Address): boolean {
    if (member.isTold) return false
    const serving = this.#address
    if (serving && (wanted.url !== serving.url || wanted.xksUrl !== serving.xksUrl)) {
      this.#log.error({ serving, wanted }, 'the ports have been changed since the service started: stop and start it')
      void this.#retire(member)
      return false
    }
    member.address = wanted
    this.#address ??= wanted
    this.#log.info(member.who, 'a process serves')
    void initiate(this.#members, member)
    return true
  }

  #hasEnded(member: Member, code: number | null, signal: string | null): void {
    this.#members.delete(member)
    member.gone()
    if (this.#isClosing) return
    share(this.#members, undefined, [])
    if (member.isTold) this.#log.info(member.who, 'a process was told to end and has')
    else {
      this.#countFailure()
      this.failures.add(signal === null ? `exit code ${code}` : signal, member.servedMs)
      this.#log.error({ ...member.who, code, signal }, 'a process has ended by itself')
    }
    this.#replaceLater()
  }

  #wasRefused(error: unknown): void {
    this.#log.error({ err: error }, 'a process could not be started')
    if (this.#isClosing) return
    this.#countFailure()
    this.failures.add(String(error), 0)
    this.#replaceLater()
  }

  #replaceLater(): void {
    if (this.#address === undefined || this.#members.size >= this.#count) return
    const timer = setTimeout(() => {
      this.#replacements.delete(timer)
      if (this.#members.size < this.#count) void this.#startOne()
    }, this.failures.nextDelayMs(this.#log))
    this.#replacements.add(timer)
  }

  /** Replaces all, one after the other; see `Processes`. */
  async replaceAll(): Promise<void> {
    if (this.#isReplacing || this.#isClosing) return this.#log.warn({}, 'the processes are being replaced already, or end')
    this.#isReplacing = true
    this.#log.info({ processes: this.#members.size }, 'all processes are replaced, one after the other')
    for (const old of [...this.#members].filter(({ isTold }) => !isTold)) {
      // One that has ended meanwhile is replaced as ever.
      if (!this.#members.has(old)) continue
      const next = await this.#startSurely()
      if (this.#isClosing) break
      if (!next) {
        this.#log.error({}, 'a new process could not start: those that serve go on as they are')
        break
      }
      await this.#retire(old)
    }
    this.#isReplacing = false
    this.#log.info({ processes: servingOf(this.#members).length }, 'replacing the processes has ended')
  }

  /** Starts one, and again where a device that is being used meanwhile kept it from starting. */
  async #startSurely(): Promise<Member | undefined> {
    // One that begins when the others have been told to end would never hear of it.
    for (let tries = 1; !this.#isClosing; tries++) {
      const member = await this.#startOne()
      if (member || this.#isClosing || tries === mostTries) return member
      await sleep(backOff.firstMs * 2 ** tries)
    }
    return undefined
  }

  #retire(member: Member): Promise<void> {
    return member.retire(this.#drainWithinMs, this.#log)
  }

  async close(): Promise<void> {
    this.#isClosing = true
    for (const timer of this.#replacements) clearTimeout(timer)
    await Promise.all([...this.#members].map((member) => this.#retire(member)))
  }
}

/** What they have counted, of those that say so; it is kept for when they have ended. */
async function askValues({ members, figures }: Crew): Promise<ReadonlyMap<Member, MetricValues>> {
  const said = new Map<Member, MetricValues>()
  await Promise.all(
    [...members].map(async (member) => {
      const values = (await member.askWhat('metrics')) as MetricValues | undefined
      if (!values) return
      said.set(member, values)
      figures.said(member, values)
    }),
  )
  return said
}

/** The service is ready as long as one process is. */
async function askReadiness({ members, failures }: Crew, count: number): Promise<Readiness> {
  const answers = await Promise.all(servingOf(members).map(async (member) => (await member.askWhat('readiness')) as Readiness | undefined))
  const known = answers.filter((one) => one !== undefined)
  // One that is being replaced does not keep the others from serving.
  const ok = known.length >= count
  const ill = known.find(({ ready }) => !ready) ?? known[0]
  return {
    ready: known.some(({ ready }) => ready),
    checks: { ...ill?.checks, processes: { ok, detail: ok ? 'ok' : `${known.length} of ${count} processes serve${failures.why}` } },
  }
}

/**
 * Starts as many processes as told of the program that this one is, with its arguments.
 * @param drainWithinMs what a process may take to end when it is told to; then it is killed
 * @throws OperatorError when the first one cannot start, which then has said why
 */
export async function superviseProcesses(count: number, drainWithinMs: number, log: Log): Promise<Processes> {
  cluster.schedulingPolicy = cluster.SCHED_NONE
  const metrics = openMetrics('supervisor')
  const countFailure = metrics.count(
    'holdfast_process_failures_total',
    'API processes that ended without having been told to, or could not be started.',
  )
  const crew = new Crew(count, drainWithinMs, countFailure, log)
  metrics.gauge('holdfast_processes', 'API processes that serve.', () => servingOf(crew.members).length)
  return {
    address: await crew.start(),
    readiness: async () => (crew.isClosing ? shuttingDown : askReadiness(crew, count)),
    async page(overall) {
      const said = await askValues(crew)
      const own = await metrics.values()
      // From here on nothing is waited for: who ends meanwhile is in the figures once.
      return joinMetrics([own, ...(overall ? crew.figures.overall(new Set(said.keys())) : said.values())], overall)
    },
    reload: () => crew.members.forEach((member) => member.tell({ type: 'reload' })),
    restart: () => crew.replaceAll(),
    close: () => crew.close(),
  }
}
