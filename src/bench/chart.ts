/**
 * Charts as inline SVG, drawn without a library and without a script. A chart has no `viewBox`: across it goes in per cent of its box and down in pixels, so that
 * it fills whatever width there is and its words stay as large as the page's. Colours are CSS variables of the report.
 */

import type { BarChart, Figure, FigureId, LineChart } from './part.ts'
import { showFigure, showSpread } from './text.ts'

export type Figures = Readonly<Record<FigureId, Figure>>

const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
export const escape = (text: string): string => text.replace(/[&<>"']/g, (sign) => entities[sign] ?? '')

const hues = 8
const hue = (index: number): string => `var(--c${(index % hues) + 1})`

/** Where a value lies between the ends of a scale, 0 to 1. */
interface Scale {
  readonly at: (value: number) => number
  readonly ticks: readonly number[]
}

/** From zero, in steps of 1, 2 or 5 with zeros. */
export function linearScale(highest: number): Scale {
  const rough = Math.max(highest, Number.MIN_VALUE) / 4
  const ten = 10 ** Math.floor(Math.log10(rough))
  const step = ([1, 2, 5, 10].find((n) => n * ten >= rough) ?? 10) * ten
  const end = Math.ceil(highest / step - 1e-9) * step || step
  return { at: (value) => value / end, ticks: Array.from({ length: Math.round(end / step) + 1 }, (_, n) => n * step) }
}

/** From a power of ten to a power of ten. */
export function logScale(lowest: number, highest: number): Scale {
  const low = Math.floor(Math.log10(Math.max(lowest, 1e-9)) + 1e-9)
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(highest, 1e-9)) - 1e-9))
  return {
    at: (value) => Math.max(0, (Math.log10(Math.max(value, 1e-9)) - low) / (high - low)),
    // Over few decades the twos and fives are needed to read anything.
    ticks: Array.from({ length: high - low + 1 }, (_, n) => 10 ** (low + n)).flatMap((ten) =>
      high - low > 2 || ten === 10 ** high ? [ten] : [ten, 2 * ten, 5 * ten],
    ),
  }
}

const percent = (share: number): string => `${(share * 100).toFixed(3)}%`

export interface Drawn {
  readonly svg: string
  readonly legend: readonly { readonly name: string; readonly colour: string; readonly dashed: boolean }[]
}

const plotHeight = 260

export function drawLines(chart: LineChart, figures: Figures): Drawn {
  const lines = chart.lines.map((line) => ({
    ...line,
    points: line.points.flatMap(({ x, figure: id }) => (figures[id] ? [{ x, figure: figures[id] }] : [])),
  }))
  const all = lines.flatMap(({ points }) => points)
  const values = all.flatMap(({ figure: { low, high } }) => [low, high])
  const y = chart.y.scale === 'log' ? logScale(Math.min(...values), Math.max(...values)) : linearScale(Math.max(...values))
  const xs = [...new Set(all.map(({ x }) => x))].sort((a, b) => a - b)
  const [first = 0, last = 1] = [xs[0], xs.at(-1)]
  const share = (x: number): number =>
    first === last ? 0.5 : chart.x.scale === 'log' ? Math.log(x / first) / Math.log(last / first) : (x - first) / (last - first)
  const across = (x: number): string => percent(share(x))
  const down = (value: number): string => ((1 - y.at(value)) * plotHeight).toFixed(1)

  // Lines whose names differ in what follows the last comma only are of one family and have one colour.
  const family = (name: string): string => name.replace(/, (?:token|software)$/, '')
  const families = [...new Set(lines.map(({ name }) => family(name)))]
  const colourOf = (name: string): string => hue(families.indexOf(family(name)))

  const grid = y.ticks.map(
    (tick) =>
      `<line class="grid" x1="0" x2="100%" y1="${down(tick)}" y2="${down(tick)}"/><text class="tick" x="-8" y="${down(tick)}" dy="0.32em" text-anchor="end">${shortNumber(tick)}</text>`,
  )
  const below = thinned(xs, share).map(
    (x) =>
      `<line class="grid" x1="${across(x)}" x2="${across(x)}" y1="${plotHeight}" y2="${plotHeight + 5}"/><text class="tick" x="${across(x)}" y="${plotHeight + 19}" text-anchor="middle">${shortNumber(x)}</text>`,
  )
  const drawn = lines.map(({ name, dashed, points }) => {
    const segments = points.slice(1).map((point, index) => {
      const from = points[index] ?? point
      return `<line class="line${dashed ? ' dashed' : ''}" x1="${across(from.x)}" y1="${down(from.figure.median)}" x2="${across(point.x)}" y2="${down(point.figure.median)}"/>`
    })
    const marks = points.map(
      ({ x, figure }) =>
        `<g><title>${escape(`${name}, ${x}: ${showFigure(figure)} (${showSpread(figure)})`)}</title>` +
        `<line class="spread" x1="${across(x)}" x2="${across(x)}" y1="${down(figure.low)}" y2="${down(figure.high)}"/>` +
        `<circle cx="${across(x)}" cy="${down(figure.median)}" r="3.5"${dashed ? ' class="hollow"' : ''}/></g>`,
    )
    return `<g style="--c:${colourOf(name)}">${segments.join('')}${marks.join('')}</g>`
  })
  return {
    svg: `<div class="plot"><svg role="img" aria-label="${escape(describeLines(chart, lines))}" width="100%" height="${plotHeight + 26}">${grid.join('')}${below.join('')}${drawn.join('')}</svg></div>`,
    legend: lines.map(({ name, dashed = false }) => ({ name, colour: colourOf(name), dashed })),
  }
}

/** Where two would run into each other on the narrowest screen, the latter is left out; the points stay. */
function thinned(xs: readonly number[], share: (x: number) => number): readonly number[] {
  const kept: number[] = []
  for (const x of xs) if (kept.length === 0 || share(x) - share(kept.at(-1) ?? 0) >= 0.1) kept.push(x)
  return kept
}

function describeLines(
  chart: LineChart,
  lines: readonly { readonly name: string; readonly points: readonly { readonly x: number; readonly figure: Figure }[] }[],
): string {
  const said = lines.map(({ name, points }) => {
    const [from, to] = [points[0], points.at(-1)]
    return from && to ? `${name}: ${showFigure(from.figure)} at ${from.x}, ${showFigure(to.figure)} at ${to.x}` : name
  })
  return `${chart.title}, by ${chart.x.label}. ${said.join('; ')}.`
}

const shortNumber = (value: number): string =>
  value >= 1e6
    ? `${Number((value / 1e6).toPrecision(3))}M`
    : value >= 1e4
      ? `${Number((value / 1e3).toPrecision(3))}k`
      : value >= 1000
        ? value.toLocaleString('en-GB')
        : String(Number(value.toPrecision(3)))

const barHeight = 14
const barGap = 3
const groupGap = 14
const nameHeight = 18

/** Bars lie on their side: names stand above them, whole, however narrow the page is. */
export function drawBars(chart: BarChart, figures: Figures): Drawn {
  const groups = chart.groups.map(({ name, bars }) => ({
    name,
    bars: bars.flatMap(({ name: bar, figure: id }) => (figures[id] ? [{ name: bar, figure: figures[id] }] : [])),
  }))
  const names = [...new Set(groups.flatMap(({ bars }) => bars.map(({ name }) => name)))]
  const colourOf = (name: string): string => hue(names.indexOf(name))
  const total = (bars: readonly { readonly figure: Figure }[]): number => bars.reduce((sum, { figure }) => sum + figure.median, 0)
  const values = groups.flatMap(({ bars }) => (chart.stacked ? [total(bars)] : bars.map(({ figure }) => figure.median)))
  const scale = chart.y.scale === 'log' ? logScale(Math.min(...values), Math.max(...values)) : linearScale(Math.max(...values))
  // To the right of the longest bar there is room for its number.
  const room = 0.8
  const wide = (value: number): number => scale.at(value) * room

  let top = 4
  const drawn: string[] = []
  for (const { name, bars } of groups) {
    drawn.push(`<text class="name" x="0" y="${top + 13}">${escape(name)}</text>`)
    top += nameHeight
    if (chart.stacked) {
      let from = 0
      for (const bar of bars) {
        const width = wide(bar.figure.median)
        drawn.push(
          `<rect style="--c:${colourOf(bar.name)}" x="${percent(from)}" y="${top}" width="${percent(width)}" height="${barHeight + 8}"><title>${escape(`${name}, ${bar.name}: ${showFigure(bar.figure)}`)}</title></rect>`,
        )
        from += width
      }
      const [{ figure } = { figure: undefined }] = bars
      if (figure)
        drawn.push(
          `<text class="value" x="${percent(from)}" dx="6" y="${top + 16}">${escape(showFigure({ unit: figure.unit, median: total(bars) }))}</text>`,
        )
      top += barHeight + 8 + groupGap
    } else {
      for (const bar of bars) {
        const width = Math.max(0.002, wide(bar.figure.median))
        drawn.push(
          `<g style="--c:${colourOf(bar.name)}"><title>${escape(`${name}, ${bar.name}: ${showFigure(bar.figure)} (${showSpread(bar.figure)})`)}</title>` +
            `<rect x="0" y="${top}" width="${percent(width)}" height="${barHeight}" rx="2"/>` +
            `<line class="spread" x1="${percent(wide(bar.figure.low))}" x2="${percent(wide(bar.figure.high))}" y1="${top + barHeight / 2}" y2="${top + barHeight / 2}"/>` +
            `<text class="value" x="${percent(Math.max(width, wide(bar.figure.high)))}" dx="6" y="${top + barHeight - 3}">${escape(showFigure(bar.figure))}</text></g>`,
        )
        top += barHeight + barGap
      }
      top += groupGap
    }
  }
  const bottom = top
  const grid = scale.ticks.map(
    (tick) =>
      `<line class="grid" x1="${percent(wide(tick))}" x2="${percent(wide(tick))}" y1="0" y2="${bottom}"/><text class="tick" x="${percent(wide(tick))}" y="${bottom + 16}" text-anchor="${wide(tick) === 0 ? 'start' : 'middle'}">${shortNumber(tick)}</text>`,
  )
  const said = groups.map(({ name, bars }) => `${name}: ${bars.map((bar) => `${bar.name} ${showFigure(bar.figure)}`).join(', ')}`)
  return {
    svg: `<svg class="bars" role="img" aria-label="${escape(`${chart.title}. ${said.join('; ')}.`)}" width="100%" height="${bottom + 24}">${grid.join('')}${drawn.join('')}</svg>`,
    legend: names.map((name) => ({ name, colour: colourOf(name), dashed: false })),
  }
}
