/** Runs that are read back from their files: all that docs/bench.schema.json allows is read, and nothing else. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readBench } from '../../src/bench/read.ts'
import { method } from '../../src/bench/run.ts'
import { OperatorError } from '../../src/base/operator-error.ts'
import { someMachine } from './bench-machine.ts'

const figure = { unit: 'calls/s', better: 'higher', rounds: [1, 2], median: 1.5, low: 1, high: 2 }
const run = {
  format: 'holdfast-bench/1',
  method,
  startedAt: '2026-01-31T12:00:00.000Z',
  seconds: 1.5,
  plan: { level: 'quick', rounds: 2, durationMs: 20, warmupMs: 0, connections: 64, keys: 0, grants: 0 },
  machine: { ...someMachine, token: { ...someMachine.token, manufacturer: '' } },
  parts: [
    {
      name: 'good',
      title: 'Good',
      seconds: 1,
      failure: null,
      about: ['About.'],
      figures: { 'x/throughput': figure },
      controls: ['x/throughput'],
      views: [
        { kind: 'table', title: 'T', about: '', columns: ['', 'X'], rows: [['row', { figure: 'x/throughput' }]] },
        {
          kind: 'lines',
          title: 'L',
          x: { label: 'x', scale: 'log' },
          y: { label: 'y' },
          lines: [{ name: 'one', dashed: true, points: [{ x: 1, figure: 'x/throughput' }] }],
        },
        {
          kind: 'bars',
          title: 'B',
          y: { label: 'y', scale: 'linear' },
          stacked: false,
          groups: [{ name: 'g', bars: [{ name: 'b', figure: 'x/throughput' }] }],
        },
      ],
      lacking: [],
      headlines: ['One.'],
    },
    { name: 'bad', title: 'Bad', seconds: 0, failure: 'the cable is out', about: [], figures: {}, views: [], lacking: [], headlines: [] },
  ],
}

let dir: string
let file: string
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'holdfast-bench-read-'))
  file = join(dir, 'b.json')
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const read = (text: string): ReturnType<typeof readBench> => {
  writeFileSync(file, text)
  return readBench(file)
}

test('what was written is read as it was', () => {
  expect(read(JSON.stringify(run))).toEqual(run)
})

test('a file without the number of a method is of the first', () => {
  const { method: _, ...before } = run
  expect(read(JSON.stringify(before)).method).toBe(1)
})

describe('what the bench did not write is refused by one sentence with the file and what is wrong in it', () => {
  const set = (path: readonly (string | number)[], value: unknown): string => JSON.stringify(change(run, path, value))
  test.each([
    ['null', 'null', /b\.json is not what holdfast bench writes: it must be an object and is null\.$/],
    ['a list', '[]', /it must be an object and is a list\.$/],
    ['an object of something else', '{}', /: format is missing\.$/],
    ['a format and nothing else', '{"format":"holdfast-bench/1"}', /: startedAt is missing\.$/],
    ['a later format', '{"format":"holdfast-bench/2"}', /its format is "holdfast-bench\/2", and this version reads holdfast-bench\/1\.$/],
    ['half a file', JSON.stringify(run).slice(0, 200), /b\.json cannot be read: /],
    [
      'a figure without rounds',
      set(['parts', 0, 'figures', 'x/throughput', 'rounds'], []),
      /: parts\[0\]\.figures\["x\/throughput"\]\.rounds must be a list that is not empty and is a list\.$/,
    ],
    ['a text for a number', set(['machine', 'cores'], '2'), /: machine\.cores must be a whole number from 1 on and is "2"\.$/],
    [
      'a view of no kind',
      set(['parts', 0, 'views', 1, 'kind'], 'pie'),
      /: parts\[0\]\.views\[1\]\.kind must be table or lines or bars and is "pie"\.$/,
    ],
    ['a member of its own', set(['plan', 'speed'], 1), /: plan\.speed is nothing that this version knows\.$/],
    [
      'a number that no double holds',
      JSON.stringify(run).replace('"median":1.5', '"median":1e999'),
      /median must be a number and is Infinity\.$/,
    ],
  ])('%s', (_what, text, says) => {
    expect(() => read(text)).toThrow(OperatorError)
    expect(() => read(text)).toThrow(says)
  })

  test('a file that is not there, or is a directory', () => {
    expect(() => readBench(join(dir, 'none.json'))).toThrow(/none\.json cannot be read: ENOENT/)
    expect(() => readBench(dir)).toThrow(/cannot be read: EISDIR/)
  })
})

test('a file is read exactly when its schema holds, whatever is changed in it', () => {
  const ajv = new Ajv({ allowUnionTypes: true })
  const holds = ajv.compile(JSON.parse(readFileSync(new URL('../../docs/bench.schema.json', import.meta.url), 'utf8')) as object)
  expect(holds(run)).toBe(true)
  const places = pathsIn(run)
  const gone = Symbol('gone')
  const value = fc.constantFrom<unknown>(gone, null, true, 0, 1, -1, 1.5, '', 'x', 'log', 'table', [], ['x'], {}, figure)
  fc.assert(
    fc.property(
      fc.constantFrom(...places),
      fc.option(fc.constantFrom('extra', 'about', 'stacked', 'scale', 'controls')),
      value,
      (path, name, to) => {
        const changed = JSON.parse(
          JSON.stringify(change(run, name === null ? path : [...path, name], to === gone ? undefined : to)),
        ) as unknown
        const refused = refusalOf(JSON.stringify(changed))
        expect(refused === undefined || refused instanceof OperatorError, String(refused)).toBe(true)
        expect(refused === undefined).toBe(holds(changed))
      },
    ),
    { numRuns: 2000 },
  )
})

function refusalOf(text: string): unknown {
  try {
    read(text)
    return undefined
  } catch (error) {
    return error
  }
}

/** Every value in it but the whole. */
function pathsIn(value: unknown, at: readonly (string | number)[] = []): readonly (readonly (string | number)[])[] {
  if (typeof value !== 'object' || value === null) return [at]
  const inside = Object.entries(value).flatMap(([name, each]) => pathsIn(each, [...at, Array.isArray(value) ? Number(name) : name]))
  return at.length === 0 ? inside : [at, ...inside]
}

/** A copy with another value there; undefined takes it away. Where nothing can have a member, nothing changes. */
function change(value: unknown, [first, ...rest]: readonly (string | number)[], to: unknown): unknown {
  if (first === undefined) return to
  if (typeof value !== 'object' || value === null) return value
  const copy = structuredClone(value) as Record<string | number, unknown>
  const changed = change(copy[first], rest, to)
  if (changed !== undefined) copy[first] = changed
  else if (Array.isArray(copy)) copy.splice(Number(first), 1)
  else delete copy[first]
  return copy
}
