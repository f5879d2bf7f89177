import { beforeAll, expect, test } from 'vitest'
import { bulkPart } from '../../src/bench/bulk.ts'
import type { PartContext, PartReport } from '../../src/bench/part.ts'

let report: PartReport
const said: string[] = []
beforeAll(async () => {
  const plan = { level: 'quick', rounds: 1, durationMs: 10, warmupMs: 0, connections: 1, keys: 0, grants: 0 } as const
  const none = () => Promise.reject(new Error('no service, no token'))
  report = await bulkPart.run({
    plan,
    progress: (line) => said.push(line),
    withService: none,
    withToken: none,
    means: {} as PartContext['means'],
  })
})

test('both directions are measured at each frame length, against the SDK and against one thread', () => {
  const { figures } = report
  for (const length of [4096, 65_536, 1_048_576]) {
    for (const way of ['encrypt', 'decrypt']) {
      const [own, sdk, ratio] = [`${length}/${way}`, `${length}/sdk-${way}`, `${length}/${way}-by-sdk`].map(
        (id) => figures[id]?.median ?? Number.NaN,
      )
      expect(own).toBeGreaterThan(0)
      expect(ratio).toBeCloseTo((own ?? 0) / (sdk ?? 0), 6)
    }
    for (const kind of ['', '-shared', '-file']) {
      const [own, one, ratio] = [`${length}/encrypt${kind}`, `${length}/one-thread${kind}`, `${length}/encrypt${kind}-by-one-thread`].map(
        (id) => figures[id]?.median ?? Number.NaN,
      )
      expect(own).toBeGreaterThan(0)
      expect(ratio).toBeCloseTo((own ?? 0) / (one ?? 0), 6)
      expect(figures[`${length}/decrypt${kind}`]?.median).toBeGreaterThan(0)
    }
  }
  for (const id of [
    'signed/encrypt-by-sdk',
    'signed/decrypt-by-sdk',
    'small/encrypt-by-sdk-cached',
    'small/decrypt-by-sdk',
    'parts/cipher',
    'rss/growth',
  ])
    expect(Number.isFinite(figures[id]?.median), id).toBe(true)
})

test('every figure that is shown is there, and rows are as wide as their tables', () => {
  const shown = report.views.flatMap((view) =>
    view.kind === 'table'
      ? view.rows.flatMap((row) => row.flatMap((cell) => (typeof cell === 'string' ? [] : [cell.figure])))
      : view.kind === 'bars'
        ? view.groups.flatMap(({ bars }) => bars.map((bar) => bar.figure))
        : [],
  )
  expect(shown.filter((id) => !(id in report.figures))).toEqual([])
  const torn = report.views.filter((view) => view.kind === 'table' && view.rows.some((row) => row.length !== view.columns.length))
  expect(torn).toEqual([])
  expect(report.headlines).toHaveLength(2)
  expect(report.headlines.join()).not.toMatch(/–|NaN/)
  expect(said.length).toBeGreaterThan(0)
})
