/** How figures are written, in the report and on the terminal alike. */

import type { Figure } from './part.ts'

/** Three figures that mean something, thousands apart. */
export function showNumber(value: number): string {
  const size = Math.abs(value)
  if (size === 0) return '0'
  if (size >= 1e6) return `${trim((value / 1e6).toPrecision(3))} M`
  if (size >= 100) return Math.round(value).toLocaleString('en-GB')
  return trim(value.toPrecision(size >= 10 ? 3 : 2 + (size >= 1 ? 1 : 0)))
}

const trim = (digits: string): string => (digits.includes('e') ? String(Number(digits)) : digits)

const suffix: Readonly<Record<Figure['unit'], string>> = {
  'calls/s': '/s',
  ms: ' ms',
  µs: ' µs',
  'MB/s': ' MB/s',
  GB: ' GB',
  bytes: ' B',
  ratio: '×',
  calls: '',
  s: ' s',
  count: '',
}

/** Bytes in the unit that makes a short number of them. */
function showBytes(bytes: number): string {
  const [size, unit] = bytes >= 2 ** 30 ? [2 ** 30, 'GiB'] : bytes >= 2 ** 20 ? [2 ** 20, 'MiB'] : bytes >= 1024 ? [1024, 'KiB'] : [1, 'B']
  return `${showNumber(bytes / size)} ${unit}`
}

/** What is counted has no decimals, but the middle of two. */
const showValue = (unit: Figure['unit'], value: number): string =>
  unit === 'calls' && Number.isInteger(value) ? value.toLocaleString('en-GB') : showNumber(value)

/** `4,120 /s`; a millisecond that is none is said in microseconds. */
export function showFigure({ unit, median }: Pick<Figure, 'unit' | 'median'>): string {
  if (unit === 'ms' && Math.abs(median) < 1) return `${showNumber(median * 1000)} µs`
  if (unit === 'bytes') return showBytes(median)
  return `${showValue(unit, median)}${suffix[unit]}`
}

/** `4,020–4,310 /s` */
export function showSpread({ unit, low, high }: Pick<Figure, 'unit' | 'low' | 'high'>): string {
  if (unit === 'ms' && Math.abs(high) < 1) return `${showNumber(low * 1000)}–${showNumber(high * 1000)} µs`
  if (unit === 'bytes') return `${showBytes(low)}–${showBytes(high)}`
  return `${showValue(unit, low)}–${showValue(unit, high)}${suffix[unit]}`
}

/** Columns as wide as what stands in them; the first to the left, the others to the right. */
export function layOut(rows: readonly (readonly string[])[]): string {
  const widths: number[] = []
  for (const row of rows) row.forEach((cell, column) => (widths[column] = Math.max(widths[column] ?? 0, cell.length)))
  return rows
    .map((row) =>
      row
        .map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}
