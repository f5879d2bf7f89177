/** The same message by pools of one thread, two, four and so on: how far more of them help, by frame length and suite. */

import { availableParallelism } from 'node:os'
import { openBulkPool, type BulkPool } from '../bulk/bulk-pool.ts'
import { decryptStream, encrypt, encryptStream } from '../bulk/stream.ts'
import { signedSuite, unsignedSuite } from '../bulk/suites.ts'
import {
  cellsOf,
  context,
  directions,
  dropped,
  frameLengths,
  measureRates,
  setRatio,
  showLength,
  type Figures,
  type Subject,
} from './bulk-kit.ts'
import type { LineChart, Table, View } from './part.ts'

const suites = { unsigned: unsignedSuite, signed: signedSuite } as const
type SuiteName = keyof typeof suites
const suiteNames = Object.keys(suites) as readonly SuiteName[]

/** One main thread feeds some four: more than these tell nothing. */
const most = 32

/** 1, 2, 4 and so on, up to twice as many as there are processors. */
export function threadCounts(processors = availableParallelism()): readonly number[] {
  const counts = [1]
  for (let count = 2; count <= Math.max(2, Math.min(2 * processors, most)); count *= 2) counts.push(count)
  return counts
}

const at = (frameLength: number, suite: SuiteName): string => `threads/${frameLength}/${suite}`

/** All frame lengths and both suites; in a quick run unsigned frames of 64 KiB. */
export async function measureThreads(subject: Subject): Promise<void> {
  const pools = threadCounts().map((threads) => openBulkPool({ threads }))
  const isQuick = subject.part.plan.level === 'quick'
  try {
    for (const frameLength of isQuick ? [65_536] : frameLengths)
      for (const suite of suiteNames.slice(0, isQuick ? 1 : undefined)) await measurePools(subject, pools, frameLength, suite)
  } finally {
    await Promise.all(pools.map((pool) => pool.close()))
  }
}

async function measurePools(subject: Subject, pools: readonly BulkPool[], frameLength: number, suite: SuiteName): Promise<void> {
  const { keyring, figures } = subject
  // Nothing signed goes faster than its hash: a quarter of the bytes will do.
  const source = suite === 'signed' ? subject.source.subarray(0, subject.source.length / 4) : subject.source
  const options = { keyring, context, frameLength, suite: suites[suite], lend: true }
  const message = await encrypt(source, { ...options, pool: subject.pool })
  const prefix = at(frameLength, suite)
  await measureRates(
    subject,
    prefix,
    source.length,
    pools.flatMap((pool) => [
      { name: `${pool.threads}/encrypt`, run: () => dropped(encryptStream([source], { ...options, pool })) },
      { name: `${pool.threads}/decrypt`, run: () => dropped(decryptStream([message], { ...options, pool })) },
    ]),
  )
  for (const { threads } of pools.slice(1))
    for (const way of directions)
      setRatio(figures, `${prefix}/${threads}/${way}-by-one`, `${prefix}/${threads}/${way}`, `${prefix}/1/${way}`)
}

export function threadViews(figures: Readonly<Figures>): readonly View[] {
  const counts = threadCounts()
  const cell = cellsOf(figures)
  const measured = frameLengths.flatMap((length) =>
    suiteNames
      .filter((suite) => `${at(length, suite)}/1/encrypt` in figures)
      .map((suite) => ({ length, suite, prefix: at(length, suite) })),
  )
  const table: Table = {
    kind: 'table',
    title: 'By threads',
    about:
      'The same message by pools with so many threads. The main thread fills and reads what they work on, and with a signature one thread hashes all of it, in order.',
    columns: ['', '1 thread', ...counts.slice(1).flatMap((count) => [`${count} threads`, 'times one'])],
    rows: measured.flatMap(({ length, suite, prefix }) =>
      directions.map((way) => [
        `${showLength(length)}, ${way}, ${suite}`,
        cell(`${prefix}/1/${way}`),
        ...counts.slice(1).flatMap((count) => [cell(`${prefix}/${count}/${way}`), cell(`${prefix}/${count}/${way}-by-one`)]),
      ]),
    ),
  }
  const chart: LineChart = {
    kind: 'lines',
    title: 'Unsigned messages by threads',
    x: { label: 'threads', scale: 'log' },
    y: { label: 'MB/s' },
    lines: measured
      .filter(({ suite }) => suite === 'unsigned')
      .flatMap(({ length, prefix }) =>
        directions.map((way) => ({
          name: `${showLength(length)}, ${way}`,
          points: counts.map((count) => ({ x: count, figure: `${prefix}/${count}/${way}` })),
        })),
      ),
  }
  return [table, chart]
}
