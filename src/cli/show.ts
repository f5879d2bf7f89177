/** Answers for a person's eyes: lists as tables, the rest as aligned lines. `--json` prints the answer itself. */

import { isRecord } from '../base/is-record.ts'
import type { Answer } from './client.ts'

export function showAnswer(answer: Answer): string {
  const lines: string[] = []
  const plain: [string, string][] = []
  for (const [name, value] of Object.entries(answer)) {
    if (Array.isArray(value) && value.length > 0 && value.every(isRecord)) lines.push(...showTable(value))
    else if (Array.isArray(value)) lines.push(...value.map((item) => showValue(item)))
    else if (isRecord(value)) plain.push(...Object.entries(value).map(([inner, text]): [string, string] => [inner, showValue(text, inner)]))
    else plain.push([name, showValue(value, name)])
  }
  const width = Math.max(0, ...plain.map(([name]) => name.length))
  lines.unshift(...plain.map(([name, value]) => `${name.padEnd(width)}  ${value}`))
  return lines.length > 0 ? `${lines.join('\n')}\n` : ''
}

/** A table with a column for every name that occurs. */
export function showTable(rows: readonly Readonly<Record<string, unknown>>[]): readonly string[] {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))]
  const cells = [names, ...rows.map((row) => names.map((name) => showValue(row[name], name)))]
  const widths = names.map((_, column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)))
  return cells.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}

/** Dates are seconds since the epoch on the wire, as AWS has them. */
function showValue(value: unknown, name = ''): string {
  if (value === undefined || value === null) return ''
  if (typeof value === 'number' && name.endsWith('Date')) return new Date(value * 1000).toISOString()
  return typeof value === 'string' ? value : JSON.stringify(value)
}
