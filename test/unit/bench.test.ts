/** What of the bench is arithmetic and drawing; that it measures and what comes of it is shown by test/token/bench.test.ts. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { drawBars, drawLines, linearScale, logScale } from '../../src/bench/chart.ts'
import { sizesTo } from '../../src/bench/growth.ts'
import { Durations } from '../../src/bench/histogram.ts'
import { kneeOf } from '../../src/bench/latency.ts'
import { figure, inShortTurns, inTurns, median, ratioOf, untilSteady, type PartContext, type Side } from '../../src/bench/part.ts'
import { renderReport } from '../../src/bench/report.ts'
import { planFor, runParts, type Bench, type Machine } from '../../src/bench/run.ts'
import { splitUp } from '../../src/bench/service.ts'
import { summarize } from '../../src/bench/summary.ts'
import { showFigure, showSpread } from '../../src/bench/text.ts'
import { ladder } from '../../src/bench/token.ts'
import { Spans, timed } from '../../src/base/spans.ts'
import { someMachine } from './bench-machine.ts'
import type { Clock } from '../../src/base/clock.ts'

/** Whose names a report must not take for its own. */
const machine: Machine = { ...someMachine, token: { ...someMachine.token, manufacturer: '<b>A&B</b>', model: '"M"' } }
const clock: Clock = { now: () => 1_800_000_000_000 }

/** Sides that note when it was their turn. */
function turnTakers(): { readonly order: readonly string[]; readonly side: (name: string) => Side } {
  const order: string[] = []
  const side = (name: string): Side => ({
    name,
    measure: async () => {
      order.push(name)
      return { at: order.length }
    },
  })
  return { order, side }
}

describe('durations', () => {
  const duration = fc.double({ min: 1e-4, max: 1e6, noNaN: true })

  test('a share of any durations is told to within two per cent', () => {
    fc.assert(
      fc.property(fc.array(duration, { minLength: 1, maxLength: 200 }), fc.constantFrom(0.5, 0.9, 0.99, 1), (all, share) => {
        const durations = new Durations()
        for (const ms of all) durations.add(ms)
        const exact = all.toSorted((a, b) => a - b)[Math.max(1, Math.ceil(share * all.length)) - 1] ?? 0
        expect(durations.count).toBe(all.length)
        expect(Math.abs(durations.at(share) / exact - 1)).toBeLessThan(0.02)
      }),
    )
  })

  test('what several processes counted adds up to what one would have counted', () => {
    fc.assert(
      fc.property(fc.array(duration, { minLength: 1 }), fc.array(duration), (some, others) => {
        const [one, first, second] = [new Durations(), new Durations(), new Durations()]
        for (const ms of [...some, ...others]) one.add(ms)
        for (const ms of some) first.add(ms)
        for (const ms of others) second.add(ms)
        const { counts, sumMs } = second.pack()
        first.addAll(new Durations(counts, sumMs))
        expect(first.count).toBe(one.count)
        expect(first.at(0.5)).toBe(one.at(0.5))
        expect(first.meanMs).toBeCloseTo(one.meanMs, 6)
      }),
    )
  })
})

describe('figures', () => {
  test('a ratio is taken pair by pair within a round', () => {
    const of = figure('calls/s', 'higher', [10, 40, 90])
    const by = figure('calls/s', 'higher', [10, 20, 30])
    expect(ratioOf(of, by).rounds).toEqual([1, 2, 3])
    expect(ratioOf(of, by).median).toBe(2)
  })

  test('a round without a number is an error, never left out', () => {
    expect(() => figure('ms', 'lower', [1, Number.NaN])).toThrow(/no number/)
    expect(() => figure('ms', 'lower', [])).toThrow(/no number/)
    expect(() => ratioOf(figure('ms', 'lower', [1, 2]), figure('ms', 'lower', [1]))).toThrow(/no number/)
  })

  test('the median of an even number lies between the middle two', () => {
    expect(median([4, 1, 3, 2])).toBe(2.5)
    expect(median([3, 1, 2])).toBe(2)
  })

  test('sides take turns, in the other order every second round, and nothing of a round is lost', async () => {
    const { order, side } = turnTakers()
    const plan = { ...planFor({ level: 'quick' }), rounds: 3 }
    const numbers = await inTurns({ plan, progress: () => undefined }, [side('a'), side('b')], 'letters')
    expect(order).toEqual(['a', 'b', 'b', 'a', 'a', 'b'])
    expect(numbers.get('a/at')).toEqual([1, 4, 5])
    expect(numbers.get('b/at')).toEqual([2, 3, 6])
  })

  test('sides whose ratio is asked for take turns four times in a round, first and last alike, and a round is their mean', async () => {
    const { order, side } = turnTakers()
    const plan = { ...planFor({ level: 'quick' }), rounds: 2 }
    const numbers = await inShortTurns({ plan, progress: () => undefined }, [side('a'), side('b')], 'letters')
    expect(order.join('')).toBe('abbaabba'.repeat(2))
    expect(numbers.get('a/at')).toEqual([(1 + 4 + 5 + 8) / 4, (9 + 12 + 13 + 16) / 4])
    expect(numbers.get('b/at')).toEqual([(2 + 3 + 6 + 7) / 4, (10 + 11 + 14 + 15) / 4])
  })

  test('callers go from one by doubling to the sessions, and to many more', () => {
    expect(ladder(1, 'standard')).toEqual([1, 32])
    expect(ladder(6, 'standard')).toEqual([1, 2, 4, 6, 48])
    expect(ladder(16, 'quick')).toEqual([1, 128])
  })

  test('growth goes by tens to its end, and there is none without room for it', () => {
    expect(sizesTo(2500)).toEqual([10, 100, 1000, 2500])
    expect(sizesTo(64)).toEqual([10, 64])
    expect(sizesTo(0)).toEqual([])
  })

  test('the knee is the fewest that give nine tenths of the most', () => {
    const points = [10, 70, 91, 100, 95].map((perSecond, index) => ({ index, perSecond }))
    expect(kneeOf(points).index).toBe(2)
  })

  test.each([
    ['goes on while each window is faster, and two windows longer', [100, 200, 300, 305, 290, 900], 5],
    ['is not ended by one window that something else slowed down', [100, 50, 200, 150, 210, 900], 5],
    ['ends in time on a machine that goes on getting faster', [1, 2, 4, 8, 16, 32, 64, 128, 256, 512], 8],
  ])('a warm-up %s', async (_does, rates, windows) => {
    const run: number[] = []
    await untilSteady(
      async (forMs) => {
        run.push(forMs)
        return rates[run.length - 1] ?? 0
      },
      { windowMs: 500, longestMs: 4000 },
    )
    expect(run).toEqual(Array.from({ length: windows }, () => 500))
  })

  test('the layers of a call add up to what it took its caller', () => {
    const split = splitUp(1, { total: 0.8, sigv4: 0.1, authorization: 0.05, device: 0.2, audit: 0.3 })
    expect(split).toEqual({
      sigv4: 100,
      authorization: 50,
      device: 200,
      audit: 300,
      rest: expect.closeTo(150, 6),
      http: expect.closeTo(200, 6),
    })
  })
})

describe('spans', () => {
  test('what promises take goes to their layer, for each call, and is told once', async () => {
    const spans = new Spans()
    const room = timed(
      { slow: () => Promise.resolve('answer'), fast: () => 'now', other: (word: string) => word },
      ['slow', 'fast'],
      spans,
      'device',
    )
    expect(await room.slow()).toBe('answer')
    expect(room.fast()).toBe('now')
    expect(room.other('word')).toBe('word')
    spans.add('audit', 8)
    spans.add('total', 10)
    spans.add('total', 20)
    const means = spans.take()
    expect(means).toMatchObject({ total: 15, audit: 4 })
    expect(means.device).toBeGreaterThanOrEqual(0)
    expect(spans.take()).toEqual({})
  })

  test('a call that fails fails as before, and its time counts', async () => {
    const spans = new Spans()
    const room = timed({ fails: () => Promise.reject(new Error('no')) }, ['fails'], spans, 'device')
    await expect(room.fails()).rejects.toThrow('no')
    spans.add('total', 1)
    expect(spans.take().device).toBeGreaterThanOrEqual(0)
  })
})

describe('charts', () => {
  test('a scale holds every value, and its ticks are round numbers', () => {
    fc.assert(
      fc.property(fc.double({ min: 1e-6, max: 1e9, noNaN: true }), fc.double({ min: 1, max: 1e6, noNaN: true }), (low, times) => {
        const high = low * times
        for (const scale of [linearScale(high), logScale(low, high)]) {
          expect(scale.at(low)).toBeGreaterThanOrEqual(0)
          expect(scale.at(high)).toBeLessThanOrEqual(1 + 1e-9)
          expect(scale.ticks.length).toBeGreaterThan(1)
          expect(scale.ticks.length).toBeLessThan(25)
        }
      }),
    )
    expect(linearScale(8700).ticks).toEqual([0, 5000, 10_000])
    expect(logScale(3, 400).ticks).toEqual([1, 10, 100, 1000])
    expect(logScale(20, 90).ticks).toEqual([10, 20, 50, 100])
  })

  const figures = { a: figure('calls/s', 'higher', [10, 20, 30]), b: figure('calls/s', 'higher', [200]) }

  test('a line goes through its medians, with a mark for each and what the rounds spread over', () => {
    const { svg, legend } = drawLines(
      {
        kind: 'lines',
        title: 'T',
        x: { label: 'x', scale: 'log' },
        y: { label: 'y', scale: 'log' },
        lines: [
          {
            name: 'one',
            points: [
              { x: 1, figure: 'a' },
              { x: 64, figure: 'b' },
            ],
          },
        ],
      },
      figures,
    )
    expect(svg.match(/<circle/g)).toHaveLength(2)
    expect(svg.match(/class="line"/g)).toHaveLength(1)
    expect(svg).toContain('one, 1: 20.0/s (10.0–30.0/s)')
    expect(svg).toContain('cx="0.000%"')
    expect(svg).toContain('cx="100.000%"')
    expect(legend).toHaveLength(1)
  })

  test('a bar for each figure; parts of a whole lie one behind the other', () => {
    const groups = [
      {
        name: 'g',
        bars: [
          { name: 'first', figure: 'a' },
          { name: 'second', figure: 'b' },
        ],
      },
    ]
    const plain = drawBars({ kind: 'bars', title: 'T', y: { label: 'y' }, groups }, figures).svg
    expect(plain.match(/<rect/g)).toHaveLength(2)
    const stacked = drawBars({ kind: 'bars', title: 'T', y: { label: 'y' }, stacked: true, groups }, figures).svg
    const [first, second] = [...stacked.matchAll(/x="([\d.]+)%" y="\d+" width="([\d.]+)%"/g)].map(([, x, width]) => ({
      x: Number(x),
      width: Number(width),
    }))
    expect(second?.x).toBeCloseTo((first?.x ?? 0) + (first?.width ?? 0), 2)
    expect(stacked).toContain('220/s')
  })
})

describe('a run', () => {
  const aRun = (): Promise<Bench> =>
    runParts(
      [
        {
          name: 'good',
          title: 'Good',
          run: async () => ({
            about: ['About.'],
            figures: { 'x/throughput': figure('calls/s', 'higher', [100, 110, 120]) },
            views: [{ kind: 'table', title: 'Table', columns: ['', 'X'], rows: [['<i>row</i>', { figure: 'x/throughput' }]] }],
            lacking: ['Nothing.'],
            headlines: ['Encrypt: 0.50 of bare'],
          }),
        },
        {
          name: 'bad',
          title: 'Bad',
          run: async () => {
            throw new Error('the cable is out')
          },
        },
      ],
      () => ({}) as PartContext,
      planFor({ level: 'standard', seconds: 2, rounds: 7, keys: 20 }),
      machine,
      clock,
    )

  test('a wish overrules the plan of its level', () => {
    expect(planFor({ level: 'standard', seconds: 2, rounds: 7, keys: 20 })).toMatchObject({
      rounds: 7,
      durationMs: 2000,
      keys: 20,
      connections: 64,
    })
  })

  test('a part that stops says why, in the file, in the table and in the report, and the others are whole', async () => {
    const bench = await aRun()
    expect(bench.parts.map(({ failure }) => failure)).toEqual([null, 'the cable is out'])
    expect(summarize(bench)).toContain('It stopped: the cable is out')
    expect(summarize(bench)).toContain('110/s')
    expect(summarize(bench)).toContain('Encrypt: 0.50 of bare')
    expect(renderReport(bench)).toContain('This part stopped: the cable is out')
  })

  test('what a token calls itself and what rows are called is text in the report, never markup', async () => {
    const report = renderReport(await aRun())
    expect(report).toContain('&lt;b&gt;A&amp;B&lt;/b&gt; &quot;M&quot;')
    expect(report).toContain('&lt;i&gt;row&lt;/i&gt;')
    expect(report).not.toMatch(/<b>A|<i>row|<script|https?:\/\//)
  })
})

test('a number has three figures that mean something, and a short time its own unit', () => {
  expect(showFigure(figure('calls/s', 'higher', [12_345.6]))).toBe('12,346/s')
  expect(showFigure(figure('ms', 'lower', [0.0423]))).toBe('42.3 µs')
  expect(showFigure(figure('ms', 'lower', [7.25]))).toBe('7.25 ms')
  expect(showFigure(figure('ratio', 'higher', [0.4567]))).toBe('0.46×')
  expect(showFigure(figure('count', 'none', [0]))).toBe('0')
  expect(showFigure(figure('calls', 'lower', [3]))).toBe('3')
  expect(showFigure(figure('calls', 'lower', [3, 4]))).toBe('3.50')
  expect(showFigure(figure('calls', 'lower', [1234]))).toBe('1,234')
  expect(showSpread(figure('calls', 'lower', [3, 4]))).toBe('3–4')
})
