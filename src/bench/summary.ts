/** A run for the terminal: what it was taken on, the lines that matter most, each part's tables. */

import type { Bench, PartRun } from './run.ts'
import { layOut, showFigure } from './text.ts'

export function summarize(run: Bench): string {
  const { machine, plan } = run
  const { token } = machine
  return [
    `${machine.cpu}, ${machine.cores} cores · ${token.manufacturer} ${token.model} ${token.firmware}, ${token.sessions} session${token.sessions === 1 ? '' : 's'} · Node ${machine.versions.node}`,
    `${plan.level} run: ${plan.rounds} rounds of ${plan.durationMs / 1000} s, ${Math.round(run.seconds)} s in all. Figures are medians; the report has their spread.`,
    ...run.parts.flatMap(describePart),
    '',
    ...run.parts.flatMap(({ headlines }) => headlines),
    '',
  ].join('\n')
}

function describePart({ title, views, figures, lacking, failure }: PartRun): readonly string[] {
  const tables = views.flatMap((view) => {
    if (view.kind !== 'table') return []
    const rows = view.rows.map((row) =>
      row.map((cell) => {
        if (typeof cell === 'string') return cell
        const figure = figures[cell.figure]
        return figure ? showFigure(figure) : '–'
      }),
    )
    return ['', `  ${view.title}`, layOut([view.columns, ...rows]).replace(/^/gm, '    ')]
  })
  return [
    '',
    title,
    ...(failure === null ? [] : ['', `  It stopped: ${failure}`]),
    ...tables,
    ...lacking.flatMap((line, index) => (index === 0 ? ['', `  Not measured: ${line}`] : [`  Not measured: ${line}`])),
  ]
}
