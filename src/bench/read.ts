/**
 * A run as it stands in a file. It is read strictly, by the shape of docs/bench.schema.json: whoever shows or compares a run need not doubt any of it.
 */

import { readFileSync } from 'node:fs'
import { isRecord } from '../base/is-record.ts'
import { OperatorError } from '../base/operator-error.ts'
import type { BarChart, Figure, LineChart, Plan, Table, View } from './part.ts'
import { format, type Bench, type Machine, type PartRun } from './run.ts'

/** @throws OperatorError naming the file, and the first thing in it that is not as it must be. */
export function readBench(file: string): Bench {
  let value: unknown
  try {
    value = JSON.parse(readFileSync(file, 'utf8'))
  } catch (error) {
    throw new OperatorError(`${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`)
  }
  try {
    return benchFrom(value)
  } catch (error) {
    if (!(error instanceof Misshapen)) throw error
    throw new OperatorError(`${file} is not what holdfast bench writes: ${error.message}.`)
  }
}

/** A file of before methods had numbers has none: it is of the first. */
function benchFrom(value: unknown): Bench {
  if (isRecord(value) && value['format'] !== undefined && value['format'] !== format)
    throw new Misshapen(`its format is ${shown(value['format'])}, and this version reads ${format}`)
  const { method = 1, ...run } = bench(value, '')
  return { ...run, method }
}

class Misshapen extends Error {}

/** Answers the value when it is as it must be. `at` is where it stands: `parts[0].title`, '' for the whole. */
type Reader<T> = (value: unknown, at: string) => T

const shown = (value: unknown): string => {
  if (Array.isArray(value)) return 'a list'
  if (isRecord(value)) return 'an object'
  if (value === undefined) return 'missing'
  const text = typeof value === 'number' ? String(value) : JSON.stringify(value)
  return text.length > 60 ? `${text.slice(0, 60)}…` : text
}

function wrong(at: string, must: string, value: unknown): Misshapen {
  return new Misshapen(`${at || 'it'} must be ${must} and is ${shown(value)}`)
}

const named = (at: string, name: string): string =>
  /^[A-Za-z]\w*$/.test(name) ? `${at}${at && '.'}${name}` : `${at}[${JSON.stringify(name)}]`

/** Exactly these members; those in `optional` may be left out. */
function object<T extends object>(
  fields: { readonly [K in keyof T]-?: Reader<Exclude<T[K], undefined>> },
  optional: readonly (keyof T & string)[] = [],
): Reader<T> {
  const readers = Object.entries<Reader<unknown>>(fields)
  return (value, at) => {
    if (!isRecord(value)) throw wrong(at, 'an object', value)
    for (const [name, read] of readers) {
      if (Object.hasOwn(value, name)) read(value[name], named(at, name))
      else if (!optional.some((one) => one === name)) throw new Misshapen(`${named(at, name)} is missing`)
    }
    const unknown = Object.keys(value).find((name) => !Object.hasOwn(fields, name))
    if (unknown !== undefined) throw new Misshapen(`${named(at, unknown)} is nothing that this version knows`)
    return value as T
  }
}

function list<T>(item: Reader<T>, atLeast = 0): Reader<readonly T[]> {
  return (value, at) => {
    if (!Array.isArray(value) || value.length < atLeast) throw wrong(at, atLeast === 0 ? 'a list' : 'a list that is not empty', value)
    return value.map((each, index) => item(each, `${at}[${index}]`))
  }
}

function map<T>(item: Reader<T>): Reader<Readonly<Record<string, T>>> {
  return (value, at) => {
    if (!isRecord(value)) throw wrong(at, 'an object', value)
    for (const [name, each] of Object.entries(value)) item(each, named(at, name))
    return value as Readonly<Record<string, T>>
  }
}

function text(must = 'a text', pattern = /^/): Reader<string> {
  return (value, at) => {
    if (typeof value !== 'string' || !pattern.test(value)) throw wrong(at, must, value)
    return value
  }
}

function number(must = 'a number', holds: (value: number) => boolean = () => true): Reader<number> {
  return (value, at) => {
    // A number that no double holds is read as infinite.
    if (typeof value !== 'number' || !Number.isFinite(value) || !holds(value)) throw wrong(at, must, value)
    return value
  }
}

const from0 = number('a number that is not negative', (value) => value >= 0)
const whole = (least: 0 | 1): Reader<number> =>
  number(`a whole number from ${least} on`, (value) => Number.isInteger(value) && value >= least)

/** The words as members, so that none of the type's can be forgotten. */
function oneOf<T extends string>(words: Readonly<Record<T, true>>): Reader<T> {
  const must = Object.keys(words).join(' or ')
  return (value, at) => {
    if (typeof value !== 'string' || !Object.hasOwn(words, value)) throw wrong(at, must, value)
    return value as T
  }
}

const yesOrNo: Reader<boolean> = (value, at) => {
  if (typeof value !== 'boolean') throw wrong(at, 'true or false', value)
  return value
}

const orNull =
  <T>(of: Reader<T>): Reader<T | null> =>
  (value, at) =>
    value === null ? null : of(value, at)

const lines = list(text('a text that is not empty', /[^]/))

const figure = object<Figure>({
  unit: oneOf({ 'calls/s': true, ms: true, µs: true, 'MB/s': true, GB: true, bytes: true, ratio: true, calls: true, s: true, count: true }),
  better: oneOf({ higher: true, lower: true, none: true }),
  rounds: list(number(), 1),
  median: number(),
  low: number(),
  high: number(),
})

const cellOfFigure = object<{ readonly figure: string }>({ figure: text() })

const table = object<Table>(
  {
    kind: oneOf({ table: true }),
    title: text(),
    about: text(),
    columns: list(text(), 1),
    rows: list(list<Table['rows'][number][number]>((value, at) => (typeof value === 'string' ? value : cellOfFigure(value, at)), 1)),
  },
  ['about'],
)

const scale = oneOf({ linear: true, log: true })

const lineChart = object<LineChart>(
  {
    kind: oneOf({ lines: true }),
    title: text(),
    about: text(),
    x: object<LineChart['x']>({ label: text(), scale }),
    y: object<LineChart['y']>({ label: text(), scale }, ['scale']),
    lines: list(
      object<LineChart['lines'][number]>(
        {
          name: text(),
          dashed: yesOrNo,
          points: list(object<LineChart['lines'][number]['points'][number]>({ x: number(), figure: text() })),
        },
        ['dashed'],
      ),
    ),
  },
  ['about'],
)

const barChart = object<BarChart>(
  {
    kind: oneOf({ bars: true }),
    title: text(),
    about: text(),
    y: object<BarChart['y']>({ label: text(), scale }, ['scale']),
    stacked: yesOrNo,
    groups: list(
      object<BarChart['groups'][number]>({
        name: text(),
        bars: list(object<BarChart['groups'][number]['bars'][number]>({ name: text(), figure: text() })),
      }),
    ),
  },
  ['about', 'stacked'],
)

const views: { readonly [K in View['kind']]: Reader<View> } = { table, lines: lineChart, bars: barChart }
const kindOfView = oneOf<View['kind']>({ table: true, lines: true, bars: true })
const view: Reader<View> = (value, at) => {
  if (!isRecord(value)) throw wrong(at, 'an object', value)
  return views[kindOfView(value['kind'], named(at, 'kind'))](value, at)
}

const part = object<PartRun>(
  {
    name: text('a name of small letters', /^[a-z][a-z0-9-]*$/),
    title: text(),
    seconds: from0,
    failure: orNull(text()),
    about: lines,
    figures: map(figure),
    controls: list(text()),
    views: list(view),
    lacking: lines,
    headlines: lines,
  },
  ['controls'],
)

const plan = object<Plan>({
  level: oneOf({ quick: true, standard: true, full: true }),
  rounds: whole(1),
  durationMs: number('a number above 0', (value) => value > 0),
  warmupMs: from0,
  connections: whole(1),
  keys: whole(0),
  grants: whole(0),
})

const machine = object<Machine>({
  cpu: text(),
  cores: whole(1),
  memoryBytes: whole(1),
  platform: text(),
  versions: object<Machine['versions']>({ holdfast: text(), commit: orNull(text()), node: text(), openssl: text() }),
  token: object<Machine['token']>({
    library: text(),
    profile: text(),
    manufacturer: text(),
    model: text(),
    firmware: text(),
    sessions: whole(1),
    wrapScheme: orNull(text()),
    wrapSchemes: list(text()),
  }),
})

const bench = object<Omit<Bench, 'method'> & { readonly method?: number }>(
  {
    format: oneOf({ [format]: true }),
    method: whole(1),
    startedAt: text('a time like 2026-01-31T12:00:00.000Z', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
    seconds: from0,
    plan,
    machine,
    parts: list(part),
  },
  ['method'],
)
