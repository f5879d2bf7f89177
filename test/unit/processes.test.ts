/** How many processes there are, and what is said of them together. */

import { availableParallelism } from 'node:os'
import { describe, expect, test } from 'vitest'
import { joinMetrics, openMetrics, ProcessFigures } from '../../src/base/metrics.ts'
import { tooManySessions } from '../../src/doctor.ts'
import { planProcesses } from '../../src/processes.ts'

describe('the number of processes', () => {
  const processors = availableParallelism()
  const plan = (processes: number | undefined, library: string | undefined) => planProcesses({ processes, pkcs11: { library } })

  test('is what the setting says', () => {
    expect(plan(7, '/usr/lib/softhsm/libsofthsm2.so')).toEqual({
      count: 7,
      why: `HOLDFAST_PROCESSES says so; this machine has ${processors} processors`,
    })
  })
  test('is one with SoftHSM2, and says why', () => {
    for (const library of [undefined, '/usr/lib/softhsm/libsofthsm2.so'])
      expect(plan(undefined, library)).toMatchObject({ count: 1, why: expect.stringContaining('SoftHSM2') })
  })
  test('is one less than the processors otherwise, and one at least', () => {
    expect(plan(undefined, '/opt/hsm/libpkcs11.so')).toEqual({
      count: Math.max(1, processors - 1),
      why: `one less than the ${processors} processors; HOLDFAST_PROCESSES overrides it`,
    })
  })
  test('is too large for a token that has not as many sessions as all of them would take', () => {
    expect(tooManySessions(2, 7, 16)).toEqual([])
    expect(tooManySessions(4, 7, null)).toEqual([])
    // One process takes what there is.
    expect(tooManySessions(1, 64, 16)).toEqual([])
    expect(tooManySessions(3, 8, 16)).toEqual([
      '3 processes would take 27 sessions, and the token allows 16: set HOLDFAST_PKCS11_SESSIONS to 4, or HOLDFAST_PROCESSES to less.',
    ])
    expect(tooManySessions(10, 8, 16)).toEqual([
      '10 processes would take 90 sessions, and the token allows 16: set HOLDFAST_PROCESSES to less.',
    ])
  })
})

describe('the metrics of several processes', () => {
  const openOne = (name: string, calls: number) => {
    const metrics = openMetrics(name)
    for (let n = 0; n < calls; n++) metrics.call('Encrypt', 'ok', 1)
    metrics.gauge('test_open', 'Adds up.', () => calls)
    metrics.gauge('test_up', 'The least counts.', () => (name === '1' ? 1 : 0), 'min')
    metrics.gauge('test_keys', 'All see the same.', () => 10, 'max')
    metrics.total('test_total', 'Read elsewhere.', () => [{ labels: { kind: 'a' }, value: calls }])
    return metrics
  }

  test('are of each by itself, or added up, and then nothing is said of processes', async () => {
    const values = await Promise.all([openOne('1', 3).values(), openOne('2', 4).values()])
    const each = (await joinMetrics(values)).text
    expect(each).toMatch(/^test_open\{process="1"\} 3$/m)
    expect(each).toMatch(/^test_open\{process="2"\} 4$/m)
    const overall = (await joinMetrics(values, true)).text
    expect(overall).not.toContain('process=')
    expect(overall).toMatch(/^test_open 7$/m)
    expect(overall).toMatch(/^test_up 0$/m)
    expect(overall).toMatch(/^test_keys 10$/m)
    expect(overall).toMatch(/^test_total\{kind="a"\} 7$/m)
    expect(overall).toMatch(/^holdfast_calls_total\{operation="Encrypt",code="ok"\} 7$/m)
    expect(overall).toMatch(/^holdfast_call_seconds_count\{operation="Encrypt"\} 7$/m)
  })

  /** The page of all together, when these say what they count. */
  const pageOf = async (figures: ProcessFigures<string>, answering: readonly string[]): Promise<string> =>
    (await joinMetrics(figures.overall(new Set(answering)), true)).text

  test('do not become less when a process ends: what it counted is kept, what it had is not', async () => {
    const figures = new ProcessFigures<string>()
    for (const [name, calls] of [
      ['1', 3],
      ['2', 4],
      ['3', 1],
    ] as const) {
      figures.began(name)
      figures.said(name, await openOne(name, calls).values())
      if (name !== '3') figures.ended(name)
    }
    const text = await pageOf(figures, ['3'])
    expect(text).toMatch(/^holdfast_calls_total\{operation="Encrypt",code="ok"\} 8$/m)
    expect(text).toMatch(/^holdfast_call_seconds_count\{operation="Encrypt"\} 8$/m)
    expect(text).toMatch(/^holdfast_call_seconds_bucket\{le="0\.001",operation="Encrypt"\} 8$/m)
    expect(text).toMatch(/^test_total\{kind="a"\} 8$/m)
    expect(text).toMatch(/^test_open 1$/m)
    expect(text).toMatch(/^test_keys 10$/m)
  })

  test('have a process once that ends while it is asked, with what it said last', async () => {
    const figures = new ProcessFigures<string>()
    figures.began('1')
    figures.said('1', await openOne('1', 3).values())
    figures.said('1', await openOne('1', 6).values(), 'last')
    // An answer that was on its way.
    figures.said('1', await openOne('1', 5).values())
    expect(await pageOf(figures, ['1'])).toMatch(/^test_total\{kind="a"\} 6$/m)
    figures.ended('1')
    expect(await pageOf(figures, ['1'])).toMatch(/^test_total\{kind="a"\} 6$/m)
    figures.said('1', await openOne('1', 5).values())
    figures.ended('1')
    expect(await pageOf(figures, ['1'])).toMatch(/^test_total\{kind="a"\} 6$/m)
  })

  test('have of a process that does not answer what it counted, and nothing of what it had', async () => {
    const figures = new ProcessFigures<string>()
    for (const name of ['1', '2']) {
      figures.began(name)
      figures.said(name, await openOne(name, 3).values())
    }
    const text = await pageOf(figures, ['2'])
    expect(text).toMatch(/^test_total\{kind="a"\} 6$/m)
    expect(text).toMatch(/^test_open 3$/m)
    expect(text).toMatch(/^test_up 0$/m)
  })
})
