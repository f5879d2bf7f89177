/** A run in words: what it was taken on, each part's tables, the lines that matter most. For the terminal, and in Markdown for a document. */

import type { Figure, Table } from './part.ts'
import type { Bench, PartRun } from './run.ts'
import { layOut, showFigure, showSpread } from './text.ts'

export function summarize(run: Bench): string {
  const { plan } = run
  return [
    describeMachine(run),
    `${plan.level} run: ${plan.rounds} rounds of ${plan.durationMs / 1000} s, ${Math.round(run.seconds)} s in all. Figures are medians; the report has their spread.`,
    ...run.parts.flatMap(describePart),
    '',
    ...run.parts.flatMap(({ headlines }) => headlines),
    '',
  ].join('\n')
}

function describeMachine({ machine }: Bench): string {
  const { token, versions } = machine
  const device = [token.manufacturer, token.model, token.firmware].filter((word) => word !== '').join(' ')
  return `${machine.cpu}, ${machine.cores} cores · ${device}, ${token.sessions} session${token.sessions === 1 ? '' : 's'} · Node ${versions.node}`
}

const textOf = ({ figures }: PartRun, cell: Table['rows'][number][number], show: (figure: Figure) => string): string => {
  if (typeof cell === 'string') return cell
  const figure = figures[cell.figure]
  return figure ? show(figure) : '–'
}

const tablesOf = ({ views }: PartRun): readonly Table[] => views.filter((view) => view.kind === 'table')

function describePart(part: PartRun): readonly string[] {
  const tables = tablesOf(part).flatMap(({ title, columns, rows }) => {
    const shown = rows.map((row) => row.map((cell) => textOf(part, cell, showFigure)))
    return ['', `  ${title}`, layOut([columns, ...shown]).replace(/^/gm, '    ')]
  })
  return [
    '',
    part.title,
    ...(part.failure === null ? [] : ['', `  It stopped: ${part.failure}`]),
    ...tables,
    ...(part.lacking.length === 0 ? [] : ['']),
    ...part.lacking.map((line) => `  Not measured: ${line}`),
  ]
}

/** Medians, with what the rounds spread over in brackets. */
export function renderMarkdown(run: Bench): string {
  const withSpread = (figure: Figure): string =>
    figure.rounds.length > 1 ? `${showFigure(figure)} (${showSpread(figure)})` : showFigure(figure)
  const line = (cells: readonly string[]): string => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
  return [
    `${describeMachine(run)}; a ${run.plan.level} run of ${run.plan.rounds} rounds, ${run.startedAt.slice(0, 10)}.`,
    '',
    ...run.parts.flatMap((part) => [
      `### ${part.title}`,
      '',
      ...part.headlines.flatMap((headline) => [`${headline}.`, '']),
      ...tablesOf(part).flatMap(({ title, columns, rows }) => [
        `${title}:`,
        '',
        line(columns),
        line(columns.map((_name, column) => (column === 0 ? '---' : '--:'))),
        ...rows.map((row) => line(row.map((cell) => textOf(part, cell, withSpread)))),
        '',
      ]),
    ]),
  ].join('\n')
}
