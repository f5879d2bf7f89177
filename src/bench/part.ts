/**
 * What a part of the bench is: a row of the table in `parts.ts`. A part gets a plan and the means to bring up what it measures, and gives back
 * figures and views of them. The runner, the report, the JSON file and the comparison of two runs know nothing else of it.
 *
 * Method, for every part: each side warms up before it is measured; the sides take turns in every round, in the other order every second
 * round (`inTurns`), and where their ratio is what is asked for several times in a round (`inShortTurns`); a figure keeps what every round gave, and a
 * ratio is taken pair by pair within a round (`ratioOf`). Nothing is dropped.
 */

import type { SigningCredentials } from '../auth/sigv4.ts'
import type { Layer } from '../base/spans.ts'
import type { Token, WrapScheme } from '../hsm/token.ts'

export interface Part {
  /** One word; the anchor in the report and the name for `--parts`. */
  readonly name: string
  readonly title: string
  readonly run: (context: PartContext) => Promise<PartReport>
}

/** How long and how often. `quick` is for every day: the whole run ends within a minute. `full` may take an hour. */
export interface Plan {
  readonly level: 'quick' | 'standard' | 'full'
  readonly rounds: number
  /** How long one side is measured in one round, and how long it warms up before. */
  readonly durationMs: number
  readonly warmupMs: number
  /** Connections where only one number of them is measured. */
  readonly connections: number
  /** How many keys and grants the growth part goes up to; 0 leaves them out. */
  readonly keys: number
  readonly grants: number
}

export interface PartContext {
  readonly plan: Plan
  /** One line for the terminal: what is being measured now. */
  readonly progress: (text: string) => void
  /** A service of its own, in processes of its own, on the measured token. What it made there is destroyed after `run`. */
  readonly withService: <T>(run: (service: BenchService) => Promise<T>, options?: ServiceOptions) => Promise<T>
  /** The measured token through an agent of its own. */
  readonly withToken: <T>(run: (token: BenchToken) => Promise<T>, options?: TokenOptions) => Promise<T>
  /** Other means that the wiring gives to single parts. */
  readonly means: Means
}

export interface ServiceOptions {
  /** Sessions on the token instead of the profile's. */
  readonly sessions?: number
  /** API processes; 1 unless told. */
  readonly processes?: number
  /** `off`: answers leave without a record. There is no setting for this. */
  readonly audit?: 'on' | 'off'
  /** Records what each layer of a call takes. */
  readonly spans?: boolean
  /** A SoftHSM2 token whose calls take so much longer, instead of the measured one. */
  readonly latencyMs?: number
  /** With an XKS proxy, over TLS. */
  readonly xks?: true
}

export interface TokenOptions {
  readonly sessions?: number
  /** For new blobs, instead of the profile's. */
  readonly scheme?: WrapScheme
  /** The SoftHSM2 token behind the latency model instead of the measured one; starts without latency. */
  readonly model?: true
}

/** A running service, and how to sign for it. */
export interface BenchService {
  readonly endpoint: URL
  readonly region: string
  readonly credentials: SigningCredentials
  /** Where its XKS proxy listens, and the PEM of the certificate; undefined unless it was started with `xks`. */
  readonly xks?: { readonly endpoint: URL; readonly ca: string }
  readonly now: () => number
  /** Ends its processes and starts them again on the same data; answers where it is then, and the ms from the process to the port. */
  restart(): Promise<{ readonly tookMs: number; readonly endpoint: URL }>
  /** Of the database, to be filled while the service runs. */
  readonly database: string
  /** Its /metrics page. */
  metrics(): Promise<string>
  /** What the service noted since it was asked last. */
  observe(): Promise<Observed>
  /** Seconds of CPU that its processes have used, the device's agent among them; undefined where the system does not say. */
  cpuSeconds(): number | undefined
}

export interface Observed {
  /** How late the event loop was, 99th percentile. */
  readonly eventLoopDelayP99Ms: number
  /** Mean ms of a call in each layer; empty unless the service was started with `spans`. */
  readonly spans: Readonly<Partial<Record<Layer, number>>>
}

export interface BenchToken {
  readonly token: Token
  readonly sessions: number
  /** A CKA_ID for a throw-away key, known to the clean-up before the key is made. */
  newKey(): { readonly ckaId: string; readonly label: string }
  /** For a token of the latency model. */
  setLatency(ms: number): void
}

export interface Means {
  /** Why there is no latency model here; undefined where there is one. */
  readonly noModel: string | undefined
  /** Puts so many grants into a service's database, which has `first` of them already. */
  fillGrants(database: string, count: number, first: number): void
  /** The measured token's. */
  readonly sessions: number
  /** As many API processes as are measured beside one. */
  readonly manyProcesses: number
  /** What the token holds at most, by its profile; null where only its memory is the limit. */
  readonly maxObjects: number | null
  /** Raw loops on the token, one thread to a session; undefined where the token has no such mechanism. */
  rawLoop(order: RawOrder): Promise<RawResult | undefined>
}

export interface RawOrder {
  readonly operation: RawOperation
  readonly sessions: number
  readonly durationMs: number
  readonly warmupMs?: number
  /** On a SoftHSM2 token whose calls take so much longer, instead of the measured one. */
  readonly latencyMs?: number
}

/** `encrypt-alone` asks the device once, and not for an IV beforehand. */
export type RawOperation = 'encrypt' | 'encrypt-alone' | 'sign-rsa-2048' | 'sign-ecdsa-p256'

export interface RawResult {
  /** Calls of all sessions together. */
  readonly perSecond: number
  /** Processor time of a call, in all threads together. */
  readonly cpuMicroseconds: number
}

/** One thing that was measured. Numbers only; what they are is said by the unit. */
export interface Figure {
  readonly unit: 'calls/s' | 'ms' | 'µs' | 'MB/s' | 'GB' | 'bytes' | 'ratio' | 'calls' | 's' | 'count'
  /** Which way is better; `none` where neither is. */
  readonly better: 'higher' | 'lower' | 'none'
  /** What each round gave, in order. */
  readonly rounds: readonly number[]
  readonly median: number
  readonly low: number
  readonly high: number
}

/** A figure is named by its id: unique in its part, the same from run to run, so that two runs can be compared. `token/ecdsa-p256/2/throughput`. */
export type FigureId = string

export interface Table {
  readonly kind: 'table'
  readonly title: string
  readonly about?: string
  readonly columns: readonly string[]
  /** The first cell is the row's heading. A cell is a figure of this part, or a text. */
  readonly rows: readonly (readonly (string | { readonly figure: FigureId })[])[]
}

export interface LineChart {
  readonly kind: 'lines'
  readonly title: string
  readonly about?: string
  readonly x: { readonly label: string; readonly scale: 'linear' | 'log' }
  readonly y: { readonly label: string; readonly scale?: 'linear' | 'log' }
  readonly lines: readonly {
    readonly name: string
    /** Drawn in dashes: a model or a baseline. */
    readonly dashed?: boolean
    readonly points: readonly { readonly x: number; readonly figure: FigureId }[]
  }[]
}

export interface BarChart {
  readonly kind: 'bars'
  readonly title: string
  readonly about?: string
  readonly y: { readonly label: string; readonly scale?: 'linear' | 'log' }
  /** `stacked`: a group's bars are parts of one whole. */
  readonly stacked?: boolean
  readonly groups: readonly { readonly name: string; readonly bars: readonly { readonly name: string; readonly figure: FigureId }[] }[]
}

export type View = Table | LineChart | BarChart

export interface PartReport {
  /** Paragraphs: what was measured, how, and what to make of it. */
  readonly about: readonly string[]
  readonly figures: Readonly<Record<FigureId, Figure>>
  /** Rates that the machine alone decides: neither the token nor Holdfast has a part in them. Where they differ between two runs, the machine did. */
  readonly controls?: readonly FigureId[]
  /** In the order of the report. */
  readonly views: readonly View[]
  /** What this token or this machine could not be asked, each in a sentence. */
  readonly lacking: readonly string[]
  /** Lines for the terminal and the head of the report. */
  readonly headlines: readonly string[]
}

// ---- what parts share ----

export const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? (sorted[middle] ?? 0) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
}

/** @throws when a round gave no number: a figure that hides it would be a lie. */
export function figure(unit: Figure['unit'], better: Figure['better'], rounds: readonly number[]): Figure {
  if (rounds.length === 0 || !rounds.every(Number.isFinite))
    throw new Error(`a figure in ${unit} has no number in one of its rounds: ${rounds.join(', ')}`)
  return { unit, better, rounds, median: median(rounds), low: Math.min(...rounds), high: Math.max(...rounds) }
}

/** `of` divided by `by`, pair by pair within each round. */
export function ratioOf(of: Figure, by: Figure, better: Figure['better'] = 'higher'): Figure {
  return figure(
    'ratio',
    better,
    of.rounds.map((value, round) => value / (by.rounds[round] ?? Number.NaN)),
  )
}

/** What is measured in turn. */
export interface Side {
  readonly name: string
  /** Warms up, measures once, and answers its numbers by name. */
  measure(): Promise<Readonly<Record<string, number>>>
}

/** A window that is faster than all before it by less than this has gained nothing. */
const gains = 1.05

/**
 * Runs one window after the other until two in a row have gained nothing: what is measured has been compiled then, and its caches are warm. A machine
 * whose speed drifts ends it no later than `longestMs`.
 *
 * @param run takes ms, answers how much was done in a second
 */
export async function untilSteady(
  run: (forMs: number) => Promise<number>,
  { windowMs, longestMs }: { readonly windowMs: number; readonly longestMs: number },
): Promise<void> {
  let fastest = 0
  let without = 0
  for (let spentMs = 0; without < 2 && spentMs < longestMs; spentMs += windowMs) {
    const perSecond = await run(windowMs)
    without = perSecond > fastest * gains ? 0 : without + 1
    fastest = Math.max(fastest, perSecond)
  }
}

/** Every side once in each round, in the other order every second round. Answers what each round gave, by `side/number`. */
export async function inTurns(
  { plan, progress }: Pick<PartContext, 'plan' | 'progress'>,
  sides: readonly Side[],
  what: string,
  rounds = plan.rounds,
): Promise<ReadonlyMap<string, readonly number[]>> {
  const numbers = new Map<string, number[]>()
  for (let round = 0; round < rounds; round++) {
    for (const side of round % 2 === 0 ? sides : sides.toReversed()) {
      progress(`${what}: ${side.name}, round ${round + 1} of ${rounds}`)
      for (const [name, value] of Object.entries(await side.measure())) {
        const id = `${side.name}/${name}`
        const before = numbers.get(id)
        if (before) before.push(value)
        else numbers.set(id, [value])
      }
    }
  }
  return numbers
}

const turnsInRound = 4

/**
 * The same, of rates whose ratio is asked for: a machine's speed can change from one second to the next, so that within a round each side has
 * `turnsInRound` short turns, first and last alike. A round's number is the mean of them.
 */
export async function inShortTurns(
  { plan, progress }: Pick<PartContext, 'plan' | 'progress'>,
  sides: readonly Side[],
  what: string,
): Promise<ReadonlyMap<string, readonly number[]>> {
  const turns = await inTurns({ plan, progress }, sides, what, plan.rounds * turnsInRound)
  return new Map([...turns].map(([id, numbers]) => [id, meansOf(numbers)]))
}

/** Of so many that follow each other. */
function meansOf(numbers: readonly number[]): readonly number[] {
  const means: number[] = []
  for (let at = 0; at < numbers.length; at += turnsInRound) {
    const together = numbers.slice(at, at + turnsInRound)
    means.push(together.reduce((sum, number) => sum + number, 0) / together.length)
  }
  return means
}
