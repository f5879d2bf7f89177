import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { beforeAll, expect, onTestFinished, test } from 'vitest'
import type { BulkPool } from '../../src/bulk/bulk-pool.ts'
import { bulkPart } from '../../src/bench/bulk.ts'
import { measureCache, totalOf } from '../../src/bench/bulk-cache.ts'
import { threadCounts } from '../../src/bench/bulk-threads.ts'
import type { BenchService, PartContext, PartReport } from '../../src/bench/part.ts'

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

test('signed messages are measured at each frame length, against the SDK with the same suite', () => {
  const { figures } = report
  for (const at of ['signed/4096', 'signed', 'signed/1048576']) {
    for (const way of ['encrypt', 'decrypt']) {
      const [own, sdk, ratio] = [`${at}/${way}`, `${at}/sdk-${way}`, `${at}/${way}-by-sdk`].map((id) => figures[id]?.median ?? Number.NaN)
      expect(own).toBeGreaterThan(0)
      expect(ratio).toBeCloseTo((own ?? 0) / (sdk ?? 0), 6)
    }
  }
})

test('pools of one thread, of two and of more are measured, each against one; a quick run says what of it is left out', () => {
  const { figures } = report
  for (const count of threadCounts().slice(1)) {
    for (const way of ['encrypt', 'decrypt']) {
      const [own, one] = [`${count}/${way}`, `1/${way}`].map((id) => figures[`threads/65536/unsigned/${id}`]?.median ?? Number.NaN)
      expect(own).toBeGreaterThan(0)
      expect(figures[`threads/65536/unsigned/${count}/${way}-by-one`]?.median).toBeCloseTo((own ?? 0) / (one ?? 0), 6)
    }
  }
  expect(report.lacking.join()).toMatch(/cache of data keys .* other than 64 KiB .* signed messages, are measured in a longer run/)
})

test.each([
  [1, [1, 2]],
  [2, [1, 2, 4]],
  [3, [1, 2, 4]],
  [4, [1, 2, 4, 8]],
  [64, [1, 2, 4, 8, 16, 32]],
])(
  'on %i processors the threads go by doubling to twice as many, and no further than what one main thread can feed',
  (processors, counts) => {
    expect(threadCounts(processors)).toEqual(counts)
  },
)

test('what the service counted is added up over the operations that are meant, and nothing else', () => {
  const page = [
    '# TYPE holdfast_token_calls_total counter',
    'holdfast_token_calls_total{token="default",operation="wrap"} 3',
    'holdfast_token_calls_total{token="other",operation="wrap"} 4',
    'holdfast_token_calls_total{token="default",operation="unwrap"} 50',
    'holdfast_token_calls_total_more{operation="wrap"} 600',
    'holdfast_calls_total{operation="wrap",code="ok"} 7000',
  ].join('\n')
  expect(totalOf(page, 'holdfast_token_calls_total', /operation="wrap"/)).toBe(7)
  expect(totalOf(page, 'holdfast_token_calls_total', /operation="(?:wrap|unwrap)"/)).toBe(57)
  expect(totalOf('', 'holdfast_token_calls_total', /operation="wrap"/)).toBe(0)
})

test('a token that can make no key for data keys has no figures of the cache, and the report says so', async () => {
  const server = createServer((_request, response) => response.writeHead(400).end('{"__type":"UnsupportedOperationException"}'))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  onTestFinished(() => void server.close())
  const service = {
    endpoint: new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}`),
    region: 'us-east-1',
    credentials: { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'secret' },
    now: () => 0,
  } as unknown as BenchService
  const lacking: string[] = []
  const figures = {}
  const context = { withService: (run: (service: BenchService) => Promise<unknown>) => run(service) } as unknown as PartContext
  await measureCache(context, {} as BulkPool, figures, lacking)
  expect({ figures, lacking }).toEqual({
    figures: {},
    lacking: ['What a cache of data keys saves the device: this token can make no key for them.'],
  })
})

test('every figure that is shown is there, and rows are as wide as their tables', () => {
  const shown = report.views.flatMap((view) =>
    view.kind === 'table'
      ? view.rows.flatMap((row) => row.flatMap((cell) => (typeof cell === 'string' ? [] : [cell.figure])))
      : view.kind === 'bars'
        ? view.groups.flatMap(({ bars }) => bars.map((bar) => bar.figure))
        : view.lines.flatMap(({ points }) => points.map((point) => point.figure)),
  )
  expect(shown.filter((id) => !(id in report.figures))).toEqual([])
  const torn = report.views.filter((view) => view.kind === 'table' && view.rows.some((row) => row.length !== view.columns.length))
  expect(torn).toEqual([])
  expect(report.headlines).toHaveLength(4)
  expect(report.headlines.join()).not.toMatch(/–|NaN|wanted/)
  expect(said.length).toBeGreaterThan(0)
})
