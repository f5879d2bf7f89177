/**
 * What the service counts, in Prometheus' text format on the operations port.
 *
 * Two ways in. What happens (a call, a wait) is counted as it happens, on children that are looked up once per label
 * set. What is (a queue's length, a session count) is read when somebody asks for the page, so the hot path pays
 * nothing for it. Labels hold names from our own tables and error codes, never a caller's words: a caller cannot make
 * the page grow.
 */

import { AggregatorRegistry, Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'

/** One value of a labelled reading. */
export interface Sample {
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

type Reading = () => number | readonly Sample[] | undefined | Promise<number | undefined>

export interface Metrics {
  /** Counts a finished call and how long it took. `code` is an error's fixed code, `ok` for success. */
  call(operation: string, code: string, durationMs: number): void
  /**
   * The same for another kind of call: makes `NAME_total` and `NAME_seconds`, with the labels given and `code` on the total. Every combination of
   * values stays for good: there must be few.
   */
  calls<L extends string>(
    name: string,
    help: string,
    labelNames: readonly L[],
  ): (labels: Readonly<Record<L, string>>, code: string, durationMs: number) => void
  /** Makes a histogram of seconds and answers the function that observes. */
  seconds(name: string, help: string): (seconds: number) => void
  /** Makes a counter and answers the function that adds (1 unless told). */
  count(name: string, help: string): (by?: number) => void
  /**
   * A value that goes up and down, read when the page is asked for; undefined leaves it out.
   * @param overall what is said of several processes together; their sum unless told
   */
  gauge(name: string, help: string, read: Reading, overall?: 'sum' | 'max' | 'min'): void
  /** A total that only grows and is kept elsewhere, read when the page is asked for. */
  total(name: string, help: string, read: Reading): void
  page(): Promise<MetricsPage>
  /** All values as plain data, for `joinMetrics` in another process. */
  values(): Promise<MetricValues>
}

export interface MetricsPage {
  readonly contentType: string
  readonly text: string
}

export type MetricValues = readonly object[]

/**
 * One page of the values of several processes, each of which says with every value which process it is of.
 * @param overall what is of one kind added up (or the highest of them, where adding makes no sense), and nothing said of processes
 */
export async function joinMetrics(processes: readonly MetricValues[], overall = false): Promise<MetricsPage> {
  const joined = AggregatorRegistry.aggregate(overall ? processes.map(withoutProcess) : [...processes])
  return { contentType: joined.contentType, text: await joined.metrics() }
}

/**
 * What the processes of one service have said that they count: of each what it said last, and of those that have ended their totals. A process is in it
 * once, whatever ends while it is asked, and what was counted does not become less.
 */
export class ProcessFigures<Process> {
  readonly #last = new Map<Process, MetricValues>()
  readonly #done = new Set<Process>()
  #ended: MetricValues = []

  began(process: Process): void {
    this.#last.set(process, [])
  }

  /** What is heard of one that has ended, or has said its last, comes too late. */
  said(process: Process, values: MetricValues, when?: 'last'): void {
    if (!this.#last.has(process) || this.#done.has(process)) return
    this.#last.set(process, values)
    if (when === 'last') this.#done.add(process)
  }

  ended(process: Process): void {
    this.#ended = totalsOf([this.#ended, this.#last.get(process) ?? []])
    this.#last.delete(process)
    this.#done.delete(process)
  }

  /** @param answering those that have just said it; of others it is not known what they have, only what they counted */
  overall(answering: ReadonlySet<Process>): readonly MetricValues[] {
    return [this.#ended, ...[...this.#last].map(([process, values]) => (answering.has(process) ? values : totalsOf([values])))]
  }
}

/** Of values what was counted, added up, as plain data. */
function totalsOf(processes: readonly MetricValues[]): MetricValues {
  const counted = new Map<string, PlainMetric>()
  for (const metric of (processes as readonly (readonly PlainMetric[])[]).flat()) {
    if (metric.type === 'gauge') continue
    const known = counted.get(metric.name)
    const sums = new Map<string, PlainValue>()
    for (const one of [...(known?.values ?? []), ...metric.values]) {
      const labels = labelsWithoutProcess(one.labels)
      const place = JSON.stringify([one.metricName, Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1))])
      sums.set(place, { ...one, labels, value: (sums.get(place)?.value ?? 0) + one.value })
    }
    counted.set(metric.name, { ...metric, values: [...sums.values()] })
  }
  return [...counted.values()]
}

/** As prom-client gives them out. */
interface PlainMetric {
  readonly name: string
  readonly type: string
  readonly values: readonly PlainValue[]
}
interface PlainValue {
  readonly value: number
  readonly labels: Readonly<Record<string, string | number>>
  readonly metricName?: string
}

const labelsWithoutProcess = ({ process: _process, ...labels }: PlainValue['labels']): PlainValue['labels'] => labels

const withoutProcess = (values: MetricValues): PlainMetric[] =>
  (values as readonly PlainMetric[]).map((metric) => ({
    ...metric,
    values: metric.values.map((one) => ({ ...one, labels: labelsWithoutProcess(one.labels) })),
  }))

/** 100 µs to 10 s: a cached answer takes tenths of a millisecond, a network HSM tens, a stalled one seconds. */
const secondsBuckets = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

/** @param processName put on every value as the label `process`, where there are several of this program */
export function openMetrics(processName?: string): Metrics {
  const registry = new Registry()
  if (processName !== undefined) registry.setDefaultLabels({ process: processName })
  // Process, heap, garbage collection and event-loop delay (nodejs_eventloop_lag_*, reset at each scrape).
  collectDefaultMetrics({ register: registry })

  const calls = new Counter({
    name: 'holdfast_calls_total',
    help: 'Finished calls by operation and error code (ok for success).',
    labelNames: ['operation', 'code'],
    registers: [registry],
  })
  const durations = new Histogram({
    name: 'holdfast_call_seconds',
    help: 'How long calls took, from a complete request to its durable audit record.',
    labelNames: ['operation'],
    buckets: secondsBuckets,
    registers: [registry],
  })
  /** By operation, then by code. */
  const callChildren = new Map<string, Map<string, Counter.Internal>>()
  const durationChildren = new Map<string, Histogram.Internal<'operation'>>()

  /** A metric whose value is read at each scrape. Both kinds of reading are gauges inside; only the declared type differs. */
  const read = (
    type: 'gauge' | 'counter',
    name: string,
    help: string,
    reading: Reading,
    aggregator: 'sum' | 'max' | 'min' = 'sum',
  ): void => {
    const fill = async (set: (labels: Record<string, string>, value: number) => void): Promise<void> => {
      const value = await reading()
      if (value === undefined) return
      if (typeof value === 'number') return set({}, value)
      for (const sample of value) set(sample.labels, sample.value)
    }
    // prom-client wants label names up front; what a reading may carry is decided by its samples, so all of ours are named.
    const labelNames = [
      'key',
      'region',
      'kind',
      'state',
      'device',
      'account',
      'class',
      'token',
      'prefix',
      'credential',
      'store',
      'operation',
    ] as const
    if (type === 'gauge') {
      const gauge: Gauge = new Gauge({
        name,
        help,
        labelNames,
        aggregator,
        registers: [registry],
        async collect() {
          gauge.reset()
          await fill((labels, v) => gauge.set(labels, v))
        },
      })
    } else {
      const counter: Counter = new Counter({
        name,
        help,
        labelNames,
        registers: [registry],
        async collect() {
          counter.reset()
          await fill((labels, v) => counter.inc(labels, v))
        },
      })
    }
  }

  return {
    call(operation, code, durationMs) {
      let byCode = callChildren.get(operation)
      if (!byCode) callChildren.set(operation, (byCode = new Map()))
      let counter = byCode.get(code)
      if (!counter) byCode.set(code, (counter = calls.labels(operation, code)))
      counter.inc()
      let histogram = durationChildren.get(operation)
      if (!histogram) durationChildren.set(operation, (histogram = durations.labels(operation)))
      histogram.observe(durationMs / 1000)
    },
    calls(name, help, labelNames) {
      const total = new Counter({
        name: `${name}_total`,
        help: `${help}, by error code (ok for success).`,
        labelNames: [...labelNames, 'code'],
        registers: [registry],
      })
      const seconds = new Histogram({
        name: `${name}_seconds`,
        help: `How long it took: ${help.charAt(0).toLowerCase()}${help.slice(1)}.`,
        labelNames: [...labelNames],
        buckets: secondsBuckets,
        registers: [registry],
      })
      const totals = new Map<string, Counter.Internal>()
      const histograms = new Map<string, Histogram.Internal<string>>()
      return (labels, code, durationMs) => {
        const values = labelNames.map((label) => labels[label])
        const place = values.join('\n')
        const coded = `${place}\n${code}`
        let counter = totals.get(coded)
        if (!counter) totals.set(coded, (counter = total.labels(...values, code)))
        counter.inc()
        let histogram = histograms.get(place)
        if (!histogram) histograms.set(place, (histogram = seconds.labels(...values)))
        histogram.observe(durationMs / 1000)
      }
    },
    seconds(name, help) {
      const histogram = new Histogram({ name, help, buckets: secondsBuckets, registers: [registry] })
      return (seconds) => histogram.observe(seconds)
    },
    count(name, help) {
      const counter = new Counter({ name, help, registers: [registry] })
      return (by = 1) => counter.inc(by)
    },
    gauge: (name, help, reading, overall) => read('gauge', name, help, reading, overall),
    total: (name, help, reading) => read('counter', name, help, reading),
    page: async () => ({ contentType: registry.contentType, text: await registry.metrics() }),
    values: () => registry.getMetricsAsJSON(),
  }
}
