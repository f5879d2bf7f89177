/** Runs the parts one after the other and puts together what they measured: the JSON file of `holdfast bench`. Its schema is docs/bench.schema.json. */

import type { Clock } from '../base/clock.ts'
import type { Part, PartContext, PartReport, Plan } from './part.ts'

/** What the figures were taken on. */
export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memoryBytes: number
  /** Operating system, architecture, kernel. */
  readonly platform: string
  readonly versions: { readonly holdfast: string; readonly commit: string | null; readonly node: string; readonly openssl: string }
  readonly token: {
    /** The module's file name. */
    readonly library: string
    readonly profile: string
    readonly manufacturer: string
    readonly model: string
    readonly firmware: string
    readonly sessions: number
    readonly wrapScheme: string | null
    readonly wrapSchemes: readonly string[]
  }
}

export interface PartRun extends PartReport {
  readonly name: string
  readonly title: string
  readonly seconds: number
  /** Why it stopped; null when it did not. */
  readonly failure: string | null
}

export const format = 'holdfast-bench/1'

/**
 * How figures are taken. It is raised when figures of the version before cannot be held against those of this one: when a part warms up otherwise, or its load
 * comes otherwise. Every number and what changed stand in docs/performance.md.
 */
export const method = 2

export interface Bench {
  readonly format: typeof format
  /** What `method` was when it was taken. */
  readonly method: number
  /** ISO 8601. */
  readonly startedAt: string
  readonly seconds: number
  readonly plan: Plan
  readonly machine: Machine
  readonly parts: readonly PartRun[]
}

export interface PlanWishes {
  readonly level: Plan['level']
  readonly seconds?: number
  readonly rounds?: number
  readonly connections?: number
  readonly keys?: number
  readonly grants?: number
}

const plans: Readonly<Record<Plan['level'], Omit<Plan, 'level' | 'connections' | 'keys' | 'grants'>>> = {
  quick: { rounds: 2, durationMs: 100, warmupMs: 50 },
  standard: { rounds: 3, durationMs: 700, warmupMs: 250 },
  full: { rounds: 5, durationMs: 3000, warmupMs: 1000 },
}

const growthOf: Readonly<Record<Plan['level'], Pick<Plan, 'keys' | 'grants'>>> = {
  quick: { keys: 0, grants: 0 },
  standard: { keys: 300, grants: 20_000 },
  full: { keys: 10_000, grants: 1_000_000 },
}

export function planFor({ level, seconds, rounds, connections, keys, grants }: PlanWishes): Plan {
  return {
    level,
    connections: connections ?? 64,
    ...plans[level],
    ...growthOf[level],
    ...(seconds !== undefined && { durationMs: seconds * 1000 }),
    ...(rounds !== undefined && { rounds }),
    ...(keys !== undefined && { keys }),
    ...(grants !== undefined && { grants }),
  }
}

const nothing: PartReport = { about: [], figures: {}, views: [], lacking: [], headlines: [] }

const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/**
 * A part that fails says why in its place, and the others go on.
 *
 * @param ending when it is aborted no further part is begun; its reason is an error that says why
 */
export async function runParts(
  parts: readonly Part[],
  context: (part: string) => PartContext,
  plan: Plan,
  machine: Machine,
  clock: Clock,
  ending: AbortSignal = new AbortController().signal,
): Promise<Bench> {
  const startedAt = clock.now()
  const since = performance.now()
  const runs: PartRun[] = []
  for (const { name, title, run } of parts) {
    const partSince = performance.now()
    let report = nothing
    let failure: string | null = null
    try {
      ending.throwIfAborted()
      report = await run(context(name))
    } catch (error) {
      failure = reasonOf(error)
    }
    // What a part says when everything is taken from under it explains nothing.
    if (ending.aborted) failure = reasonOf(ending.reason)
    runs.push({ name, title, seconds: (performance.now() - partSince) / 1000, failure, ...report })
  }
  return {
    format,
    method,
    startedAt: new Date(startedAt).toISOString(),
    seconds: (performance.now() - since) / 1000,
    plan,
    machine,
    parts: runs,
  }
}
