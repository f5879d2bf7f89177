/**
 * Two runs side by side: two devices, or two versions. A ratio is second by first; its spread is from the least to the most that any round of the one and any round of
 * the other give, since rounds of different runs are no pairs. Where that spread holds 1, the two cannot be told apart.
 */

import type { Figure } from './part.ts'
import type { Bench } from './run.ts'
import { layOut, showFigure, showNumber } from './text.ts'

export interface NamedRun {
  readonly name: string
  readonly run: Bench
}

export interface Compared {
  readonly ratio: number
  readonly low: number
  readonly high: number
  /** `same` while the spread holds 1. */
  readonly verdict: 'better' | 'worse' | 'same' | 'other'
}

export function compareFigures(first: Figure, second: Figure): Compared | undefined {
  if (first.unit !== second.unit || first.median === 0 || first.low <= 0) return undefined
  const [ratio, low, high] = [second.median / first.median, second.low / first.high, second.high / first.low]
  const apart = low > 1 || high < 1
  const better = first.better === 'higher' ? ratio > 1 : ratio < 1
  return { ratio, low, high, verdict: !apart ? 'same' : first.better === 'none' ? 'other' : better ? 'better' : 'worse' }
}

const signs: Readonly<Record<Compared['verdict'], string>> = { better: 'better', worse: 'worse', same: '', other: 'differs' }

export function compareRuns(first: NamedRun, second: NamedRun): string {
  const differences = describeDifferences(first.run, second.run)
  const lines = [
    `A  ${first.name}: ${describe(first.run)}`,
    `B  ${second.name}: ${describe(second.run)}`,
    ...differences.map((line) => `   ${line}`),
  ]
  for (const part of first.run.parts) {
    const other = second.run.parts.find(({ name }) => name === part.name)
    if (!other) {
      lines.push('', part.title, '  Only A has this part.')
      continue
    }
    const rows = Object.entries(part.figures).flatMap(([id, figure]) => {
      const counterpart = other.figures[id]
      const compared = counterpart && compareFigures(figure, counterpart)
      if (!counterpart || !compared) return []
      const { ratio, low, high, verdict } = compared
      return [
        [
          id,
          showFigure(figure),
          showFigure(counterpart),
          `${showNumber(ratio)}×`,
          `${showNumber(low)}–${showNumber(high)}`,
          signs[verdict],
        ],
      ]
    })
    const lonely = (own: typeof part, beside: typeof part): number =>
      Object.keys(own.figures).filter((id) => !Object.hasOwn(beside.figures, id)).length
    lines.push('', part.title, layOut([['Figure', 'A', 'B', 'B ÷ A', 'spread', ''], ...rows]).replace(/^/gm, '  '))
    for (const [name, lonelyOnes] of [
      ['A', lonely(part, other)],
      ['B', lonely(other, part)],
    ] as const)
      if (lonelyOnes > 0) lines.push(`  ${lonelyOnes} further figure${lonelyOnes === 1 ? ' is' : 's are'} in ${name} only.`)
  }
  for (const part of second.run.parts)
    if (!first.run.parts.some(({ name }) => name === part.name)) lines.push('', part.title, '  Only B has this part.')
  return `${lines.join('\n')}\n`
}

function describe({ machine, plan, startedAt }: Bench): string {
  const { token, versions } = machine
  return `${token.manufacturer} ${token.model} ${token.firmware} on ${machine.cpu}, ${machine.cores} cores; Holdfast ${versions.holdfast}${versions.commit === null ? '' : ` (${versions.commit})`}; ${plan.level}, ${startedAt}`
}

/** What makes the ratios say something else than the one thing that was to be compared. */
function describeDifferences(first: Bench, second: Bench): readonly string[] {
  const said: string[] = []
  const compare = (what: string, a: string | number, b: string | number): void => {
    if (a !== b) said.push(`They differ in ${what}: ${a} and ${b}.`)
  }
  compare('the processor', first.machine.cpu, second.machine.cpu)
  compare('cores', first.machine.cores, second.machine.cores)
  compare('sessions', first.machine.token.sessions, second.machine.token.sessions)
  compare('the length of a measurement, ms', first.plan.durationMs, second.plan.durationMs)
  compare('rounds', first.plan.rounds, second.plan.rounds)
  compare('the version of Node', first.machine.versions.node, second.machine.versions.node)
  return said
}
