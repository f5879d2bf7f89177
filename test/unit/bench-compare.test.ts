/** What two runs beside each other say: only what their rounds are enough for, and everything that differs. */

import { describe, expect, test } from 'vitest'
import { compareFigures, compareRuns } from '../../src/bench/compare.ts'
import { figure, type Figure } from '../../src/bench/part.ts'
import { planFor, type Bench, type Machine, type PartRun } from '../../src/bench/run.ts'
import { someMachine as machine } from './bench-machine.ts'

const rate = (...rounds: readonly number[]): Figure => figure('calls/s', 'higher', rounds)

const partOf = (figures: Readonly<Record<string, Figure>>, failure: string | null = null, name = 'part'): PartRun => ({
  name,
  title: `The ${name}`,
  seconds: 1,
  failure,
  about: [],
  figures,
  views: [],
  lacking: [],
  headlines: [],
})

const runOf = (parts: readonly PartRun[], more: Partial<Bench> = {}): Bench => ({
  format: 'holdfast-bench/1',
  method: 2,
  startedAt: '2026-01-31T12:00:00.000Z',
  seconds: 1,
  plan: planFor({ level: 'standard' }),
  machine,
  parts,
  ...more,
})

const compare = (first: Bench, second: Bench): string => compareRuns({ name: 'a.json', run: first }, { name: 'b.json', run: second })
const beside = (first: Readonly<Record<string, Figure>>, second: Readonly<Record<string, Figure>>): string =>
  compare(runOf([partOf(first)]), runOf([partOf(second)]))

describe('two figures', () => {
  test('are told apart where no round of the one reaches a round of the other', () => {
    const first = rate(100, 110, 105, 102)
    expect(compareFigures(first, rate(105, 130, 140, 150))).toMatchObject({ verdict: 'same' })
    expect(compareFigures(first, rate(120, 130, 125, 124))).toEqual({
      ratio: { median: 124.5 / 103.5, low: 120 / 110, high: 130 / 100 },
      verdict: 'better',
    })
    expect(compareFigures(first, rate(50, 60, 55, 51))).toMatchObject({ verdict: 'worse' })
  })

  test.each([
    ['ms', 'lower', 'better'],
    ['calls/s', 'higher', 'worse'],
    ['count', 'none', 'other'],
  ] as const)('in %s, of which %s is better, are %s when they fall', (unit, better, verdict) => {
    expect(compareFigures(figure(unit, better, [4, 5, 6, 7]), figure(unit, better, [1, 2, 3, 3]))).toMatchObject({ verdict })
  })

  test.each([
    [2, 2, 'few'],
    [3, 3, 'few'],
    [4, 4, 'better'],
    [5, 5, 'better'],
    // Two in 56, and two in 84.
    [3, 5, 'few'],
    [3, 6, 'better'],
    [1, 9, 'few'],
  ] as const)('of %d and %d rounds that do not reach each other are called %s', (n, m, verdict) => {
    const [low, high] = [rate(...Array.from({ length: n }, (_, k) => 1 + k)), rate(...Array.from({ length: m }, (_, k) => 100 + k))]
    expect(compareFigures(low, high).verdict).toBe(verdict)
    expect(compareFigures(low, high).ratio).toMatchObject({ low: 100 / n, high: 99 + m })
  })

  test('from which no ratio can be taken are judged by their values', () => {
    const refused = (...rounds: readonly number[]): Figure => figure('count', 'lower', rounds)
    expect(compareFigures(refused(0, 0, 0, 0), refused(400, 450, 470, 500))).toEqual({ ratio: undefined, verdict: 'worse' })
    expect(compareFigures(refused(400, 450, 470, 500), refused(0, 0, 0, 0))).toEqual({ ratio: undefined, verdict: 'better' })
    expect(compareFigures(refused(0, 0, 0, 0), refused(0, 0, 0, 0))).toEqual({ ratio: undefined, verdict: 'same' })
  })

  test('of two units are no pair', () => {
    expect(compareFigures(rate(1, 2, 3, 4), figure('ms', 'lower', [5, 6, 7, 8]))).toEqual({ ratio: undefined, verdict: 'unlike' })
  })
})

describe('a comparison', () => {
  test('names both runs, and every figure that both have', () => {
    const text = beside({ 'x/throughput': rate(100, 110, 120) }, { 'x/throughput': rate(100, 110, 120) })
    expect(text).toMatch(/^A {2}a\.json: .*\nB {2}b\.json: /)
    expect(text).toMatch(/x\/throughput +110\/s +110\/s +1\.00× +0\.83–1\.20 +too few rounds to tell$/m)
  })

  test('of two or three rounds calls nothing better or worse, and says how many figures are untold and what to do', () => {
    const [first, second] = [
      { a: rate(1, 2, 3), b: rate(1, 2) },
      { a: rate(11, 12, 13), b: rate(11, 12) },
    ]
    const text = beside(first, second)
    expect(text).not.toMatch(/better|worse/)
    expect(text).toContain('2 figures in both: 2 untold, for too few rounds.')
    expect(text).toContain('Take both with --rounds 5.')
  })

  test('counts what became of its figures, and says how many chance would tell apart', () => {
    const [low, high] = [rate(1, 2, 3, 4), rate(11, 12, 13, 14)]
    const text = beside({ a: low, b: high, c: low, d: rate(1) }, { a: high, b: low, c: low, d: rate(2) })
    expect(text).toContain('4 figures in both: 1 better in B, 1 worse in B, 1 not to be told apart, 1 untold, for too few rounds.')
    expect(text).toContain('chance would tell some 1 of these 3 apart')
  })

  describe('of one machine that was slower during one of the runs', () => {
    const [low, high] = [rate(1, 2, 3, 4), rate(11, 12, 13, 14)]
    const share = (...rounds: readonly number[]): Figure => figure('ratio', 'lower', rounds)
    const [first, second] = [
      { x: low, y: low, cost: share(1, 1.1, 1.2, 1.3), s1: low, s2: low, s3: low },
      { x: high, y: low, cost: share(2, 2.1, 2.2, 2.3), s1: high, s2: high, s3: low },
    ]
    const controls = ['s1', 's2', 's3']
    const runs = (more: Partial<Bench> = {}, moved = second): string =>
      compare(runOf([{ ...partOf(first), controls }]), runOf([{ ...partOf(moved), controls }], more))

    test('judges only ratios, and says why', () => {
      const text = runs()
      expect(text).toContain('The machine was not equally fast in both: 2 of 3 rates differ')
      expect(text).toMatch(/ x .* the machine differs$/m)
      expect(text).toMatch(/ s1 .* the machine differs$/m)
      expect(text).toMatch(/ cost .* worse$/m)
      expect(text).toContain('6 figures in both: 1 worse in B, 2 not to be told apart, 3 untold, since the machine was not equally fast.')
    })

    test('goes on judging where chance explains what software does', () => {
      const text = runs({}, { ...second, s2: low })
      expect(text).not.toContain('equally fast')
      expect(text).toMatch(/ x .* better$/m)
    })

    test.each<readonly [string, Partial<Machine>]>([
      ['another processor', { cpu: 'another' }],
      ['another OpenSSL', { versions: { ...machine.versions, openssl: '3.5.0' } }],
    ])('but not where the machine is not the same: %s', (_what, other) => {
      const text = runs({ machine: { ...machine, ...other } })
      expect(text).not.toContain('equally fast')
      expect(text).toMatch(/ x .* better$/m)
    })
  })

  test('shows by its values a figure that has no ratio', () => {
    const refused = (...rounds: readonly number[]): Figure => figure('count', 'lower', rounds)
    const text = beside({ 'x/refused': refused(0, 0, 0, 0) }, { 'x/refused': refused(400, 450, 470, 500) })
    expect(text).toMatch(/x\/refused +0 +460 \(400–500\) +– +– +worse$/m)
    expect(text).toContain('1 figure in both: 1 worse in B.')
    const units = beside({ x: rate(1, 2) }, { x: figure('ms', 'lower', [3]) })
    expect(units).toMatch(/x +1\.50\/s \(1\.00–2\.00\/s\) +3\.00 ms +– +– +not of one unit$/m)
  })

  test('tells why a part stopped, with no table where there are no figures', () => {
    const good = partOf({ a: rate(1) })
    const text = compare(runOf([good]), runOf([partOf({}, 'the cable is out')]))
    expect(text).toContain('In B it stopped: the cable is out')
    expect(text).toContain('1 further figure is in A only.')
    expect(text).not.toContain('B ÷ A')
    expect(compare(runOf([partOf({}, 'the cable is out')]), runOf([good]))).toContain('In A it stopped: the cable is out')
  })

  test('says which parts only one of them has', () => {
    const [one, other] = [partOf({}, null, 'one'), partOf({}, null, 'other')]
    expect(compare(runOf([one]), runOf([other]))).toMatch(/The one\n {2}Only A has this part\.\n\nThe other\n {2}Only B has this part\.\n$/)
  })

  const { plan } = runOf([])
  test.each<readonly [string, Partial<Bench>]>([
    ['the level: standard and full', { plan: { ...plan, level: 'full' } }],
    ['rounds: 3 and 5', { plan: { ...plan, rounds: 5 } }],
    ['the length of a measurement, ms: 700 and 20', { plan: { ...plan, durationMs: 20 } }],
    ['the warm-up, ms: 250 and 0', { plan: { ...plan, warmupMs: 0 } }],
    ['connections: 64 and 8', { plan: { ...plan, connections: 8 } }],
    ['keys of the growth part: 300 and 0', { plan: { ...plan, keys: 0 } }],
    ['grants of the growth part: 20000 and 0', { plan: { ...plan, grants: 0 } }],
    ['the processor: a processor and another', { machine: { ...machine, cpu: 'another' } }],
    ['cores: 2 and 8', { machine: { ...machine, cores: 8 } }],
    ['memory, GiB: 8.0 and 4.0', { machine: { ...machine, memoryBytes: 2 ** 32 } }],
    ['the operating system: linux x64 6.1 and linux x64 6.8', { machine: { ...machine, platform: 'linux x64 6.8' } }],
    ['the version of Holdfast: 0.1.0 and 0.2.0', { machine: { ...machine, versions: { ...machine.versions, holdfast: '0.2.0' } } }],
    ['the commit of Holdfast: unknown and abc', { machine: { ...machine, versions: { ...machine.versions, commit: 'abc' } } }],
    ['the version of Node: 20.20.2 and 22.0.0', { machine: { ...machine, versions: { ...machine.versions, node: '22.0.0' } } }],
    ['the version of OpenSSL: 3.0.19 and 3.5.0', { machine: { ...machine, versions: { ...machine.versions, openssl: '3.5.0' } } }],
    ['the manufacturer of the token: A and none', { machine: { ...machine, token: { ...machine.token, manufacturer: '' } } }],
    ['the model of the token: M and N', { machine: { ...machine, token: { ...machine.token, model: 'N' } } }],
    ['the firmware of the token: 1.0 and 2.0', { machine: { ...machine, token: { ...machine.token, firmware: '2.0' } } }],
    ['the PKCS#11 module: lib.so and other.so', { machine: { ...machine, token: { ...machine.token, library: 'other.so' } } }],
    ['the device profile: generic and luna', { machine: { ...machine, token: { ...machine.token, profile: 'luna' } } }],
    ['sessions: 1 and 16', { machine: { ...machine, token: { ...machine.token, sessions: 16 } } }],
    ['the wrap scheme in use: cbc-hmac and none', { machine: { ...machine, token: { ...machine.token, wrapScheme: null } } }],
    [
      'the wrap schemes of the token: cbc-hmac and cbc-hmac rsa-oaep',
      { machine: { ...machine, token: { ...machine.token, wrapSchemes: ['cbc-hmac', 'rsa-oaep'] } } },
    ],
  ])('tells that the runs differ in %s, and nothing else', (sentence, more) => {
    const said = compare(runOf([]), runOf([], more)).match(/They differ in .*/g)
    expect(said).toEqual([`They differ in ${sentence}.`])
  })

  test('of two methods says loudly that they are not comparable, and calls nothing better or worse', () => {
    const figures = [{ a: rate(1, 2, 3, 4) }, { a: rate(11, 12, 13, 14) }] as const
    const text = compare(runOf([partOf(figures[0])], { method: 1 }), runOf([partOf(figures[1])]))
    expect(text).toMatch(/^NOT COMPARABLE: A was measured by method 1 and B by method 2/m)
    expect(text).toMatch(/a +2\.50\/s +12\.5\/s +5\.00× +2\.75–14\.0$/m)
    expect(text).not.toMatch(/ (?:better|worse)$/m)
    expect(text).not.toMatch(/ figures? in both: /)
  })
})
