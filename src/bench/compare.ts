/**
 * Two runs side by side: two devices, or two versions. A ratio is second by first; its spread is from the least to the most that any round of the one and any round of
 * the other give, since rounds of different runs are no pairs.
 *
 * Two figures are told apart when no round of the one reaches a round of the other. Of n and m rounds that are all alike so many ways of dividing them, C(n + m, n), are
 * equally likely, and two of them do that: of two rounds a side every third figure, of three every tenth. So nothing is told before chance does it in one figure of 35 at the
 * most, which is four rounds a side; and how many of those that were told apart may be chance's is said.
 *
 * What was otherwise during the whole of one run, such as the speed of a virtual machine, is in the spread of neither. A part's controls (`part.ts`) show it: where more of them are
 * apart than chance explains, though it is one machine, only ratios are judged, whose sides took turns within a run.
 */

import type { Figure } from './part.ts'
import type { Bench, PartRun } from './run.ts'
import { layOut, showFigure, showNumber, showSpread } from './text.ts'

export interface NamedRun {
  readonly name: string
  readonly run: Bench
}

/** `other`: they differ, and neither way is better. `few`: too few rounds to tell. `unlike`: not of one unit. `machine`: it was not equally fast. */
type Verdict = 'better' | 'worse' | 'other' | 'same' | 'few' | 'unlike' | 'machine'

export interface Compared {
  /** Undefined where a quotient says nothing: not of one unit, or a round that is not above 0. */
  readonly ratio: { readonly median: number; readonly low: number; readonly high: number } | undefined
  readonly verdict: Verdict
}

/** Of four and four: two in 70 are one in 35. */
const enoughWays = 70

/** In how many ways so many can be divided into these two numbers. */
function waysToDivide(n: number, m: number): number {
  let ways = 1
  for (let k = 1; k <= n; k++) ways = (ways * (m + k)) / k
  return Math.round(ways)
}

const waysOf = (first: Figure, second: Figure): number => waysToDivide(first.rounds.length, second.rounds.length)

export function compareFigures(first: Figure, second: Figure): Compared {
  if (first.unit !== second.unit) return { ratio: undefined, verdict: 'unlike' }
  const ratio =
    first.low > 0 && second.low > 0
      ? { median: second.median / first.median, low: second.low / first.high, high: second.high / first.low }
      : undefined
  return { ratio, verdict: waysOf(first, second) < enoughWays ? 'few' : judge(first, second) }
}

function judge(first: Figure, second: Figure): Verdict {
  const [higher, lower] = [second.low > first.high, second.high < first.low]
  if (!higher && !lower) return 'same'
  if (first.better === 'none') return 'other'
  return higher === (first.better === 'higher') ? 'better' : 'worse'
}

const signs: Readonly<Record<Verdict, string>> = {
  better: 'better',
  worse: 'worse',
  other: 'differs',
  same: '',
  few: 'too few rounds to tell',
  unlike: 'not of one unit',
  machine: 'the machine differs',
}
const apart: ReadonlySet<Verdict> = new Set(['better', 'worse', 'other'])

/** Of this many on the average, how likely so many or more are (Poisson). */
function chanceOf(count: number, average: number): number {
  let fewer = 0
  let term = Math.exp(-average)
  for (let k = 0; k < count; k++) {
    fewer += term
    term *= average / (k + 1)
  }
  return 1 - fewer
}

/** Less likely than this, it was not chance. */
const unlikely = 0.01

/** How many of the controls that both have are apart, of how many; undefined where chance explains it. */
function driftBetween(part: PartRun, other: PartRun): { readonly apart: number; readonly of: number } | undefined {
  const pairs = (part.controls ?? []).flatMap((id) => {
    const [first, second] = [part.figures[id], other.figures[id]]
    return first && second && waysOf(first, second) >= enoughWays ? [[first, second] as const] : []
  })
  const moved = pairs.filter(([first, second]) => apart.has(compareFigures(first, second).verdict)).length
  const byChance = pairs.reduce((sum, [first, second]) => sum + 2 / waysOf(first, second), 0)
  return moved > 0 && chanceOf(moved, byChance) < unlikely ? { apart: moved, of: pairs.length } : undefined
}

export function compareRuns(first: NamedRun, second: NamedRun): string {
  const methods = [first.run.method, second.run.method] as const
  const comparable = methods[0] === methods[1]
  const lines = [`A  ${first.name}: ${describe(first.run)}`, `B  ${second.name}: ${describe(second.run)}`]
  if (!comparable)
    lines.push(
      '',
      `NOT COMPARABLE: A was measured by method ${methods[0]} and B by method ${methods[1]} (docs/performance.md). The change of method alone moves figures, so nothing is called better or worse.`,
      'Measure both with one version of Holdfast.',
      '',
    )
  lines.push(...differencesOf(first.run, second.run).map((line) => `   ${line}`))

  const isOneMachine = machineOf.every((of) => of(first.run) === of(second.run))
  const told = new Tally()
  for (const part of first.run.parts) {
    const other = second.run.parts.find(({ name }) => name === part.name)
    lines.push('', part.title)
    if (other) lines.push(...compareParts(part, other, { comparable, isOneMachine, told }).map((line) => `  ${line}`))
    else lines.push('  Only A has this part.')
  }
  for (const part of second.run.parts)
    if (!first.run.parts.some(({ name }) => name === part.name)) lines.push('', part.title, '  Only B has this part.')
  return `${[...lines, '', ...(comparable ? told.describe() : [])].join('\n').trimEnd()}\n`
}

function compareParts(
  part: PartRun,
  other: PartRun,
  { comparable, isOneMachine, told }: { readonly comparable: boolean; readonly isOneMachine: boolean; readonly told: Tally },
): readonly string[] {
  const lines: string[] = []
  const sides = [
    ['A', part, other],
    ['B', other, part],
  ] as const
  for (const [name, { failure }] of sides) if (failure !== null) lines.push(`In ${name} it stopped: ${failure}`)
  const drift = isOneMachine && comparable ? driftBetween(part, other) : undefined
  if (drift)
    lines.push(
      `The machine was not equally fast in both: ${drift.apart} of ${drift.of} rates differ in which neither the token nor Holdfast has a part. So only ratios within a run are judged here.`,
    )
  const rows = Object.entries(part.figures).flatMap(([id, figure]) => {
    const counterpart = Object.hasOwn(other.figures, id) ? other.figures[id] : undefined
    if (!counterpart) return []
    const { ratio, verdict: byRounds } = compareFigures(figure, counterpart)
    const verdict = drift && figure.unit !== 'ratio' && apart.has(byRounds) ? 'machine' : byRounds
    told.add(verdict, waysOf(figure, counterpart))
    const sign = comparable ? signs[verdict] : ''
    return ratio
      ? [
          [
            id,
            showFigure(figure),
            showFigure(counterpart),
            `${showNumber(ratio.median)}×`,
            `${showNumber(ratio.low)}–${showNumber(ratio.high)}`,
            sign,
          ],
        ]
      : [[id, withSpread(figure), withSpread(counterpart), '–', '–', sign]]
  })
  if (rows.length > 0) lines.push(...layOut([['Figure', 'A', 'B', 'B ÷ A', 'spread', ''], ...rows]).split('\n'))
  for (const [name, own, beside] of sides) {
    const lonely = Object.keys(own.figures).filter((id) => !Object.hasOwn(beside.figures, id)).length
    if (lonely > 0) lines.push(`${lonely} further figure${lonely === 1 ? ' is' : 's are'} in ${name} only.`)
  }
  return lines
}

/** By its values, where it has no ratio. */
const withSpread = (figure: Figure): string =>
  figure.low === figure.high ? showFigure(figure) : `${showFigure(figure)} (${showSpread(figure)})`

/** What became of the figures that both runs have. */
class Tally {
  readonly #of = new Map<Verdict, number>()
  /** How many of those that were judged chance alone would tell apart, were the two runs alike. */
  #byChance = 0

  add(verdict: Verdict, ways: number): void {
    this.#of.set(verdict, this.#count(verdict) + 1)
    if (ways >= enoughWays && verdict !== 'unlike' && verdict !== 'machine') this.#byChance += 2 / ways
  }

  #count(...verdicts: readonly Verdict[]): number {
    return verdicts.reduce((sum, verdict) => sum + (this.#of.get(verdict) ?? 0), 0)
  }

  describe(): readonly string[] {
    const all = [...this.#of.values()].reduce((sum, count) => sum + count, 0)
    const judged = this.#count('better', 'worse', 'other', 'same')
    const lines: string[] = []
    if (all === 0) return lines
    const counts = [
      [this.#count('better'), 'better in B'],
      [this.#count('worse'), 'worse in B'],
      [this.#count('other'), 'different, neither way better'],
      [this.#count('same'), 'not to be told apart'],
      [this.#count('few'), 'untold, for too few rounds'],
      [this.#count('machine'), 'untold, since the machine was not equally fast'],
      [this.#count('unlike'), 'not of one unit'],
    ] as const
    lines.push(
      `${all} figure${all === 1 ? '' : 's'} in both: ${counts.flatMap(([count, what]) => (count === 0 ? [] : [`${count} ${what}`])).join(', ')}.`,
    )
    if (this.#count('few') > 0)
      lines.push(
        'Of two runs that are alike chance tells every third figure apart with 2 rounds, every tenth with 3, one in 35 with 4, one in 126 with 5. Take both with --rounds 5.',
      )
    if (this.#count('better', 'worse', 'other') > 0)
      lines.push(`Were the two runs alike, chance would tell some ${Math.ceil(this.#byChance)} of these ${judged} apart.`)
    return lines
  }
}

function describe({ machine, plan, startedAt }: Bench): string {
  const { token, versions } = machine
  return `${token.manufacturer} ${token.model} ${token.firmware} on ${machine.cpu}, ${machine.cores} cores; Holdfast ${versions.holdfast}${versions.commit === null ? '' : ` (${versions.commit})`}; ${plan.level}, ${startedAt}`
}

/** All that a run says of itself besides what it measured. */
const circumstances: readonly (readonly [what: string, of: (run: Bench) => string | number])[] = [
  ['the manufacturer of the token', ({ machine }) => machine.token.manufacturer || 'none'],
  ['the model of the token', ({ machine }) => machine.token.model || 'none'],
  ['the firmware of the token', ({ machine }) => machine.token.firmware || 'none'],
  ['the PKCS#11 module', ({ machine }) => machine.token.library],
  ['the device profile', ({ machine }) => machine.token.profile],
  ['sessions', ({ machine }) => machine.token.sessions],
  ['the wrap scheme in use', ({ machine }) => machine.token.wrapScheme ?? 'none'],
  ['the wrap schemes of the token', ({ machine }) => machine.token.wrapSchemes.join(' ') || 'none'],
  ['the processor', ({ machine }) => machine.cpu],
  ['cores', ({ machine }) => machine.cores],
  ['memory, GiB', ({ machine }) => (machine.memoryBytes / 2 ** 30).toFixed(1)],
  ['the operating system', ({ machine }) => machine.platform],
  ['the version of Holdfast', ({ machine }) => machine.versions.holdfast],
  ['the commit of Holdfast', ({ machine }) => machine.versions.commit ?? 'unknown'],
  ['the version of Node', ({ machine }) => machine.versions.node],
  ['the version of OpenSSL', ({ machine }) => machine.versions.openssl],
  ['the level', ({ plan }) => plan.level],
  ['rounds', ({ plan }) => plan.rounds],
  ['the length of a measurement, ms', ({ plan }) => plan.durationMs],
  ['the warm-up, ms', ({ plan }) => plan.warmupMs],
  ['connections', ({ plan }) => plan.connections],
  ['keys of the growth part', ({ plan }) => plan.keys],
  ['grants of the growth part', ({ plan }) => plan.grants],
]

/** What makes it one machine: only then is a difference of its speed nobody's doing. */
const machineOf: readonly ((run: Bench) => string | number)[] = [
  ({ machine }) => machine.cpu,
  ({ machine }) => machine.cores,
  ({ machine }) => machine.versions.node,
  ({ machine }) => machine.versions.openssl,
]

/** What makes the ratios say something else than the one thing that was to be compared. */
function differencesOf(first: Bench, second: Bench): readonly string[] {
  return circumstances.flatMap(([what, of]) => {
    const [a, b] = [of(first), of(second)]
    return a === b ? [] : [`They differ in ${what}: ${a} and ${b}.`]
  })
}
