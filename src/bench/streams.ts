/**
 * Calls of KMS beside long streams: while one caller has a gigabyte encrypted and another has one decrypted, how many calls are answered still, how
 * long they take, and how late the event loop is that both share.
 *
 * Bodies are signed by their hash, which costs the service more than UNSIGNED-PAYLOAD. Calls alone and calls beside streams take turns.
 */

import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { signRequest } from '../auth/sigv4.ts'
import { ask, endChild, startChild } from './child.ts'
import { createKey, load, requestsFor } from './load.ts'
import {
  figure,
  inTurns,
  ratioOf,
  type BenchService,
  type Figure,
  type Part,
  type PartContext,
  type PartReport,
  type Plan,
  type Side,
} from './part.ts'
import type { Moved, Prepared, StreamsOrder, StreamsStep } from './streams-process.ts'

const mebi = 2 ** 20

/** A stream is to outlast what is measured beside it: 1 GiB in a full run. */
const mebibytesOf = ({ durationMs }: Plan): number => 4 * 2 ** Math.max(0, Math.floor(Math.log2(durationMs / 10)))

type Direction = 'encrypt' | 'decrypt'

/** The head of a request, but for what follows from its body. */
function headOf({ endpoint, region, credentials, now }: BenchService, direction: Direction, keyId: string, payload: string): string {
  const path = `/envelope/${direction}`
  const headers = signRequest({
    method: 'POST',
    url: new URL(path, endpoint),
    headers: { 'x-amz-content-sha256': payload, 'x-holdfast-key': keyId },
    service: 'kms',
    region,
    credentials,
    timeMs: now(),
  })
  return [`POST ${path} HTTP/1.1`, ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`), ''].join('\r\n')
}

interface Streams {
  /** Both streams flow while it runs. Answers MB/s that came back in both together. */
  during<T>(run: () => Promise<T>): Promise<{ readonly result: T; readonly rate: number }>
}

async function withStreams<T>(service: BenchService, mebibytes: number, run: (streams: Streams) => Promise<T>): Promise<T> {
  const chunk = Buffer.alloc(mebi, 'what is encrypted ')
  const hash = createHash('sha256')
  for (let n = 0; n < mebibytes; n++) hash.update(chunk)
  const payload = hash.digest('hex')
  const keyId = await createKey(service)
  const child = startChild('streams-process.ts')
  const tell = <Answer>(step: StreamsStep): Promise<Answer> => ask<Answer>(child, step as object)
  try {
    const { hostname, port } = service.endpoint
    const order: StreamsOrder = {
      host: hostname,
      port: Number(port),
      chunk,
      repeats: mebibytes,
      head: headOf(service, 'encrypt', keyId, payload),
    }
    const { messageHash } = await ask<Prepared>(child, order)
    return await run({
      async during(work) {
        await tell({
          start: { encrypt: headOf(service, 'encrypt', keyId, payload), decrypt: headOf(service, 'decrypt', keyId, messageHash) },
        })
        await tell('mark')
        const result = await work()
        const { bytes, ms } = await tell<Moved>('stop')
        return { result, rate: bytes / 1000 / ms }
      },
    })
  } finally {
    await endChild(child)
  }
}

async function run(context: PartContext): Promise<PartReport> {
  const { plan, withService } = context
  if (plan.level === 'quick')
    return { about: [], figures: {}, views: [], lacking: ['Calls beside long streams are measured in a longer run.'], headlines: [] }
  const steps = [...new Set([16, plan.connections])].sort((a, b) => a - b)
  const mebibytes = mebibytesOf(plan)
  return withService((service) =>
    withStreams(service, mebibytes, async (streams) => {
      const keyId = await createKey(service)
      const requests = (): readonly Uint8Array[] =>
        requestsFor(service, 'Encrypt', (n) => ({ KeyId: keyId, Plaintext: Buffer.alloc(32, n).toString('base64') }))
      // What its first calls and streams take is the compiler's.
      await streams.during(() =>
        load(service.endpoint, { warmupMs: 0, durationMs: 4 * plan.warmupMs }, { connections: plan.connections, requests: requests() }),
      )
      const calls = async (connections: number): Promise<Readonly<Record<string, number>>> => {
        await service.observe()
        const { perSecond, p50Ms, p99Ms } = await load(service.endpoint, plan, { connections, requests: requests() })
        const { eventLoopDelayP99Ms: eventLoop } = await service.observe()
        return { perSecond, p50: p50Ms, p99: p99Ms, eventLoop }
      }
      const sides = steps.flatMap((connections): readonly Side[] => [
        { name: `alone/${connections}`, measure: () => calls(connections) },
        {
          name: `beside/${connections}`,
          async measure() {
            const { result, rate } = await streams.during(() => calls(connections))
            return { ...result, rate }
          },
        },
      ])
      const only: Side = {
        name: 'streams',
        async measure() {
          const { result, rate } = await streams.during(async () => {
            await service.observe()
            await sleep(plan.warmupMs + plan.durationMs)
            return service.observe()
          })
          return { rate, eventLoop: result.eventLoopDelayP99Ms }
        },
      }
      return describe(await inTurns(context, [only, ...sides], 'calls beside streams'), steps, mebibytes)
    }),
  )
}

function describe(rounds: ReadonlyMap<string, readonly number[]>, steps: readonly number[], mebibytes: number): PartReport {
  const figures: Record<string, Figure> = {}
  const put = (id: string, unit: Figure['unit'], better: Figure['better'], from: string): Figure =>
    (figures[id] = figure(unit, better, rounds.get(from) ?? []))
  put('streams/rate', 'MB/s', 'higher', 'streams/rate')
  put('streams/eventLoop', 'ms', 'lower', 'streams/eventLoop')
  for (const connections of steps) {
    for (const side of ['alone', 'beside'] as const) {
      const from = `${side}/${connections}`
      put(`${from}/throughput`, 'calls/s', 'higher', `${from}/perSecond`)
      put(`${from}/p50`, 'ms', 'lower', `${from}/p50`)
      put(`${from}/p99`, 'ms', 'lower', `${from}/p99`)
      put(`${from}/eventLoop`, 'ms', 'lower', `${from}/eventLoop`)
    }
    put(`beside/${connections}/rate`, 'MB/s', 'higher', `beside/${connections}/rate`)
    const [alone, beside] = [figures[`alone/${connections}/throughput`], figures[`beside/${connections}/throughput`]]
    if (alone && beside) figures[`${connections}/kept`] = ratioOf(beside, alone)
  }
  const cell = (id: string): { readonly figure: string } => ({ figure: id })
  const most = steps.at(-1) ?? 0
  const kept = figures[`${most}/kept`]?.median ?? 0
  const late = figures[`beside/${most}/eventLoop`]?.median ?? 0
  return {
    about: [
      `One caller has ${mebibytes} MiB encrypted by POST /envelope/encrypt, again and again, another has as much decrypted, both with bodies that are signed by their hash. ` +
        'Beside them Encrypt is called as in the part on the service. Clients and load share the processors with the service.',
    ],
    figures,
    views: [
      {
        kind: 'table',
        title: 'Encrypt beside two streams',
        about: 'MB/s is what came back of both streams together. The event loop is that of the API process, 99th percentile.',
        columns: ['Connections', 'Alone', 'Beside', 'Kept', 'p99 alone', 'p99 beside', 'Loop late alone', 'Loop late beside', 'Streams'],
        rows: [
          ...steps.map((connections) => [
            String(connections),
            cell(`alone/${connections}/throughput`),
            cell(`beside/${connections}/throughput`),
            cell(`${connections}/kept`),
            cell(`alone/${connections}/p99`),
            cell(`beside/${connections}/p99`),
            cell(`alone/${connections}/eventLoop`),
            cell(`beside/${connections}/eventLoop`),
            cell(`beside/${connections}/rate`),
          ]),
          ['none', '', '', '', '', '', '', cell('streams/eventLoop'), cell('streams/rate')],
        ],
      },
    ],
    lacking: [],
    headlines: [`Beside two streams: ${kept.toFixed(2)} of Encrypt's rate, event loop ${late.toFixed(1)} ms late at p99`],
  }
}

export const streamsPart: Part = { name: 'streams', title: 'Calls beside long streams', run }
