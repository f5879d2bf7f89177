/** The bench's part on bulk encryption, as short as it can be with all that it measures: its figures against their schema, and data keys from a real service. */

import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import { beforeAll, expect, test } from 'vitest'
import type { Bench, PartRun } from '../../src/bench/run.ts'
import { builtProgram } from '../programs.ts'
import { cleanEnvironment } from './environment.ts'

const schema = JSON.parse(readFileSync(new URL('../../docs/bench.schema.json', import.meta.url), 'utf8')) as object
const frameLengths = [4096, 65_536, 1_048_576]

let run: Bench
let part: PartRun
let out = ''
beforeAll(async () => {
  const dir = mkdtempSync(join(tmpdir(), 'holdfast-bench-bulk-'))
  const words = ['--parts', 'bulk', '--rounds', '1', '--seconds', '0.01', '--output', join(dir, 'out')]
  try {
    const child = spawn(process.execPath, [builtProgram('test/token/main-program.ts'), 'bench', ...words], {
      env: { ...cleanEnvironment(), HOLDFAST_DATA_DIR: join(dir, 'data') },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let err = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text))
    const code = await new Promise((resolve, reject) => {
      child.once('error', reject)
      child.once('close', resolve)
    })
    if (code !== 0) throw new Error(`the bench ended with ${String(code)}: ${out}${err}`)
    run = JSON.parse(readFileSync(join(dir, 'out', 'bench.json'), 'utf8')) as Bench
  } finally {
    rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  }
  const [first] = run.parts
  if (!first) throw new Error('there is no part')
  part = first
}, 300_000)

const medianOf = (id: string): number => part.figures[id]?.median ?? Number.NaN

test('its figures are as their schema says, and nothing is left out but what the machine lacks', () => {
  const holds = new Ajv({ allErrors: true, allowUnionTypes: true }).compile(schema)
  expect(holds(run), JSON.stringify(holds.errors)).toBe(true)
  expect(part.lacking.filter((line) => !line.includes('openssl'))).toEqual([])
})

test('every frame length is measured with every suite by one thread, by two and by more', () => {
  for (const length of frameLengths)
    for (const suite of ['unsigned', 'signed'])
      for (const way of ['encrypt', 'decrypt'])
        for (const threads of [1, 2]) {
          const id = `threads/${length}/${suite}/${threads}/${way}`
          expect(medianOf(id), id).toBeGreaterThan(0)
        }
})

test.each([65_536, 1_048_576])(
  'messages of %i bytes: with a cache the service is called once for a hundred, and it says so itself',
  (bytes) => {
    const messages = 200
    for (const way of ['encrypt', 'decrypt']) {
      const [plain, cached] = [`cache/${bytes}/${way}/plain`, `cache/${bytes}/${way}/cached`]
      expect(medianOf(`${plain}/kms-calls`)).toBe(messages)
      expect(medianOf(`${cached}/kms-calls`)).toBe(messages / 100)
      // A data key is wrapped in the device, or unwrapped, each by itself. Random bytes come many at a time, and the service may need the device for itself.
      expect(medianOf(`${plain}/hsm-calls`)).toBeGreaterThanOrEqual(messages)
      expect(medianOf(`${plain}/hsm-calls`)).toBeLessThan(2 * messages)
      expect(medianOf(`${cached}/hsm-calls`)).toBeGreaterThanOrEqual(messages / 100)
      expect(medianOf(`${cached}/hsm-calls`)).toBeLessThan(messages / 10)
      for (const id of [plain, cached]) {
        expect(part.figures[`${id}/per-hsm-call`]?.unit).toBe('GB')
        expect(medianOf(`${id}/per-hsm-call`)).toBeCloseTo((messages * bytes) / 1e9 / medianOf(`${id}/hsm-calls`), 9)
        expect(medianOf(`${id}/messages`)).toBeGreaterThan(0)
      }
    }
    expect(out).toMatch(
      /^Bulk, messages of 1 MiB, .*: [\d.]+\/[\d.]+ GB per HSM call without a cache of data keys, [\d.]+\/[\d.]+ GB with one/m,
    )
  },
)

test('the machine is known by the rates of others, none of which is ours or a ratio', () => {
  const { controls = [] } = part
  expect(controls).toEqual(
    expect.arrayContaining(['65536/sdk-encrypt', '65536/one-thread', '65536/one-thread-shared', 'signed/sdk-decrypt']),
  )
  expect(controls.map((id) => part.figures[id]?.unit).filter((unit) => unit !== 'MB/s' && unit !== 'calls/s')).toEqual([])
})

test('a view shows only figures that there are, and its rows are as wide as their table', () => {
  const shown = part.views.flatMap((view) => {
    if (view.kind === 'lines') return view.lines.flatMap(({ points }) => points.map(({ figure }) => figure))
    if (view.kind === 'bars') return view.groups.flatMap(({ bars }) => bars.map(({ figure }) => figure))
    return view.rows.flatMap((row) => row.flatMap((cell) => (typeof cell === 'string' ? [] : [cell.figure])))
  })
  expect(shown.filter((id) => !Object.hasOwn(part.figures, id))).toEqual([])
  expect(part.views.filter((view) => view.kind === 'table' && view.rows.some((row) => row.length !== view.columns.length))).toEqual([])
})
