/** The bench's part on calls beside long streams, as short as it can be: a service, two streams and the load are processes of their own, as in earnest. */

import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import { expect, onTestFinished, test } from 'vitest'
import type { Bench } from '../../src/bench/run.ts'
import { builtProgram } from '../programs.ts'
import { cleanEnvironment } from './environment.ts'

const schema = JSON.parse(readFileSync(new URL('../../docs/bench.schema.json', import.meta.url), 'utf8')) as object

async function bench(...words: readonly string[]): Promise<{ readonly out: string; readonly figures: Bench }> {
  const dir = mkdtempSync(join(tmpdir(), 'holdfast-bench-streams-'))
  onTestFinished(() => rmSync(dir, { recursive: true, force: true, maxRetries: 5 }))
  const child = spawn(
    process.execPath,
    [builtProgram('test/token/main-program.ts'), 'bench', '--parts', 'streams', '--rounds', '1', '--output', join(dir, 'out'), ...words],
    { env: { ...cleanEnvironment(), HOLDFAST_DATA_DIR: join(dir, 'data') }, stdio: ['ignore', 'pipe', 'pipe'] },
  )
  let [out, err] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text))
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  expect({ code, failed: code === 0 ? '' : `${out}${err}` }).toEqual({ code: 0, failed: '' })
  return { out, figures: JSON.parse(readFileSync(join(dir, 'out', 'bench.json'), 'utf8')) as Bench }
}

test('calls alone and calls beside two streams are measured in turn, and both streams move', async () => {
  const { out, figures: run } = await bench('--seconds', '0.02', '--connections', '4')
  const holds = new Ajv({ allErrors: true, allowUnionTypes: true }).compile(schema)
  expect(holds(run), JSON.stringify(holds.errors)).toBe(true)
  const [part] = run.parts
  if (!part) throw new Error('there is no part')
  const { figures, views } = part
  for (const connections of [4, 16]) {
    const [alone, beside, kept] = [`alone/${connections}/throughput`, `beside/${connections}/throughput`, `${connections}/kept`].map(
      (id) => figures[id]?.median ?? Number.NaN,
    )
    expect(kept).toBeCloseTo((beside ?? 0) / (alone ?? 0), 6)
    for (const id of [`beside/${connections}/rate`, `beside/${connections}/p99`]) expect(figures[id]?.median, id).toBeGreaterThan(0)
    expect(figures[`beside/${connections}/eventLoop`]?.median).toBeGreaterThanOrEqual(0)
  }
  expect(figures['streams/rate']?.median).toBeGreaterThan(0)
  const shown = views
    .flatMap((view) => (view.kind === 'table' ? view.rows.flat() : []))
    .flatMap((cell) => (typeof cell === 'string' ? [] : [cell.figure]))
  expect(shown.filter((id) => !Object.hasOwn(figures, id))).toEqual([])
  expect(out).toMatch(/^Beside two streams: \d+\.\d\d of Encrypt's rate, event loop \d+\.\d ms late at p99$/m)
}, 300_000)

test('a quick run leaves it out and says so', async () => {
  const { out, figures } = await bench('--quick')
  expect(out).toContain('Not measured: Calls beside long streams are measured in a longer run.')
  expect(figures.parts.map(({ failure, figures: measured }) => ({ failure, measured }))).toEqual([{ failure: null, measured: {} }])
}, 300_000)
