/**
 * The latency model: SoftHSM2 behind a module of our own that makes every call wait as an HSM on a bus, in the same building or far away would. It shows how many
 * sessions such a device needs, and that waiting for it does not stand in the way of anything else. It says nothing about how fast a device computes.
 */

import { monitorEventLoopDelay } from 'node:perf_hooks'
import { createKey, load, requestsFor, warmUp } from './load.ts'
import {
  figure,
  inTurns,
  ratioOf,
  untilSteady,
  type Figure,
  type Part,
  type PartContext,
  type PartReport,
  type Side,
  type View,
} from './part.ts'

/** What stands for what, ms for each call of the device. */
const devices = [
  { ms: 0, name: 'no latency' },
  { ms: 0.2, name: '0.2 ms, a card on the bus' },
  { ms: 1, name: '1 ms, the same building' },
  { ms: 5, name: '5 ms, the same region' },
  { ms: 20, name: '20 ms, far away' },
] as const

const aad = Buffer.alloc(96, 1)
const plaintext = Buffer.alloc(32, 2)
const resolutionMs = 1

/**
 * Every thread of an agent compiles its code for itself, and with a device that waits all of them have calls: the first few thousand of each are the
 * compiler's. At this latency the first threads cannot do the work of all.
 */
const warmingMs = 1
const steadyWithin = { windowMs: 500, longestMs: 6000 }

/** Of the service over the model, as the road's own numbers are stated: 16 sessions, 256 connections. */
const serviceSessions = 16
const serviceConnections = 256

async function run(context: PartContext): Promise<PartReport> {
  const { plan, means } = context
  if (means.noModel !== undefined) return { about, figures: {}, views: [], lacking: [means.noModel], headlines: [] }
  const quick = plan.level === 'quick'
  const latencies = quick ? devices.filter(({ ms }) => ms === 0 || ms === 1) : devices
  const sessions = quick ? [1, 8] : [1, 2, 4, 8, 16, 32]
  const sides = sessions.map((count): Side => ({ name: String(count), measure: () => measureSessions(context, count, latencies) }))
  const rounds = await inTurns(context, sides, 'sessions', quick ? 1 : plan.rounds)
  const read = (count: number, ms: number, what: string): readonly number[] => rounds.get(`${count}/${ms}/${what}`) ?? []
  const figures: Record<string, Figure> = {}
  for (const count of sessions) {
    for (const { ms } of latencies) {
      const id = `wrap/${ms}ms/${count}`
      figures[`${id}/throughput`] = figure('calls/s', 'higher', read(count, ms, 'perSecond'))
      figures[`${id}/eventLoop`] = figure('ms', 'lower', read(count, ms, 'eventLoop'))
      // What so many sessions can do at most, each waiting so long for each call.
      if (ms > 0)
        figures[`${id}/ofModel`] = figure(
          'ratio',
          'higher',
          read(count, ms, 'perSecond').map((perSecond) => perSecond / ((count * 1000) / ms)),
        )
    }
  }
  const knees: View = {
    kind: 'table',
    title: 'Where the knee is',
    about: 'The fewest sessions that gave nine tenths of the most that any number of sessions gave.',
    columns: ['Latency of a call', 'Sessions'],
    rows: latencies.map(({ ms, name }) => {
      const at = kneeOf(sessions.map((count) => ({ count, perSecond: figures[`wrap/${ms}ms/${count}/throughput`]?.median ?? 0 })))
      return [name, at.count === sessions.at(-1) ? `beyond ${at.count}` : String(at.count)]
    }),
  }
  const service = quick ? undefined : await measureService(context)
  Object.assign(figures, service?.figures)
  return {
    about,
    figures,
    views: [
      {
        kind: 'lines',
        title: 'Encryptions a second by sessions (a model)',
        about:
          'Both axes are logarithmic. A line that rises straight is a device that is waited for; where it bends, something else is the limit.',
        x: { label: 'sessions', scale: 'log' },
        y: { label: 'calls a second', scale: 'log' },
        lines: latencies.map(({ ms, name }) => ({
          name,
          points: sessions.map((x) => ({ x, figure: `wrap/${ms}ms/${x}/throughput` })),
        })),
      },
      // Two points have no knee.
      ...(quick ? [] : [knees]),
      {
        kind: 'table',
        title: 'Encryptions a second, and how late the event loop of their caller was (99th percentile)',
        columns: [
          'Latency of a call',
          ...sessions.map((count) => `${count} session${count === 1 ? '' : 's'}`),
          `Event loop, ${sessions.at(-1)} sessions`,
        ],
        rows: latencies.map(({ ms, name }) => [
          name,
          ...sessions.map((count) => ({ figure: `wrap/${ms}ms/${count}/throughput` })),
          { figure: `wrap/${ms}ms/${sessions.at(-1)}/eventLoop` },
        ]),
      },
      ...(service?.views ?? []),
    ],
    lacking: quick ? ['Where the knee is, and the service over the model: a longer run measures them.'] : [],
    headlines: service?.headlines ?? [],
  }
}

const about = [
  'A model, not a device: SoftHSM2 of this machine, behind a module that adds the same wait to every PKCS#11 call. Calls that only prepare (C_EncryptInit) add none, as in ' +
    'devices that send them with what follows, so that an encryption waits once. What such a device computes, and how fast, is not in the model.',
]

/** Opens the model with so many sessions, and measures each latency in turn. */
function measureSessions(
  { plan, withToken }: PartContext,
  sessions: number,
  latencies: readonly { readonly ms: number }[],
): Promise<Readonly<Record<string, number>>> {
  return withToken(
    async (bench) => {
      const key = bench.newKey()
      await bench.token.generateKey({ kind: 'wrapping', ...key })
      const callers = Math.max(32, 8 * sessions)
      /** Answers how many calls a second it made. */
      const keepBusy = async (forMs: number): Promise<number> => {
        const startedAt = performance.now()
        let calls = 0
        let lastAt = startedAt
        const caller = async (): Promise<void> => {
          do {
            await bench.token.wrap(key.ckaId, aad, plaintext)
            calls++
            lastAt = performance.now()
          } while (lastAt - startedAt < forMs)
        }
        await Promise.all(Array.from({ length: callers }, caller))
        return (calls * 1000) / (lastAt - startedAt)
      }
      if (plan.level !== 'quick') {
        bench.setLatency(warmingMs)
        await untilSteady(keepBusy, steadyWithin)
      }
      const numbers: Record<string, number> = {}
      const delay = monitorEventLoopDelay({ resolution: resolutionMs })
      for (const { ms } of latencies) {
        bench.setLatency(ms)
        await keepBusy(plan.warmupMs)
        delay.reset()
        delay.enable()
        numbers[`${ms}/perSecond`] = await keepBusy(plan.durationMs)
        delay.disable()
        numbers[`${ms}/eventLoop`] = Math.max(0, delay.percentile(99) / 1e6 - resolutionMs)
      }
      bench.setLatency(0)
      await bench.token.destroyKey(key.ckaId, key.label)
      return numbers
    },
    { sessions, model: true },
  )
}

/** The fewest that gave nine tenths of the most. */
export function kneeOf<T extends { readonly perSecond: number }>(points: readonly T[]): T {
  const most = Math.max(...points.map(({ perSecond }) => perSecond))
  const knee = points.find(({ perSecond }) => perSecond >= 0.9 * most)
  if (!knee) throw new Error('a curve without points has no knee')
  return knee
}

/** Encrypt over HTTP, with a device that waits 1 ms and with one that does not, in turn. */
async function measureService(
  context: PartContext,
): Promise<{ readonly figures: Record<string, Figure>; readonly views: readonly View[]; readonly headlines: readonly string[] }> {
  const { plan, withService } = context
  const options = { sessions: serviceSessions }
  // So many connections take a while to get going.
  const atLeast = { warmupMs: Math.max(plan.warmupMs, 500), durationMs: Math.max(plan.durationMs, 500) }
  const rounds = await withService(
    (waiting) =>
      withService(
        async (instant) => {
          const side = async (name: string, service: typeof waiting): Promise<Side> => {
            const KeyId = await createKey(service)
            const first = requestsFor(service, 'Encrypt', () => ({ KeyId, Plaintext: Buffer.alloc(32).toString('base64') }))
            await warmUp(service.endpoint, plan, { connections: serviceConnections, requests: first })
            return {
              name,
              async measure() {
                const requests = requestsFor(service, 'Encrypt', (n) => ({ KeyId, Plaintext: Buffer.alloc(32, n).toString('base64') }))
                await service.observe()
                const before = service.cpuSeconds()
                const { perSecond } = await load(service.endpoint, atLeast, { connections: serviceConnections, requests })
                const after = service.cpuSeconds()
                const { eventLoopDelayP99Ms } = await service.observe()
                const calls = (perSecond * (atLeast.warmupMs + atLeast.durationMs)) / 1000
                const cpu = before === undefined || after === undefined ? {} : { cpu: ((after - before) * 1e6) / calls }
                return { perSecond, eventLoop: eventLoopDelayP99Ms, ...cpu }
              },
            }
          }
          return inTurns(
            context,
            [await side('1ms', waiting), await side('0ms', instant)],
            `Encrypt over HTTP, ${serviceSessions} sessions`,
          )
        },
        { ...options, latencyMs: 0 },
      ),
    { ...options, latencyMs: 1 },
  )
  const figures: Record<string, Figure> = {}
  for (const { name: side } of sidesOfService) {
    figures[`service/${side}/throughput`] = figure('calls/s', 'higher', rounds.get(`${side}/perSecond`) ?? [])
    figures[`service/${side}/eventLoop`] = figure('ms', 'lower', rounds.get(`${side}/eventLoop`) ?? [])
    const cpu = rounds.get(`${side}/cpu`)
    if (cpu) figures[`service/${side}/cpu`] = figure('µs', 'lower', cpu)
  }
  const [waiting, instant] = [figures['service/1ms/throughput'], figures['service/0ms/throughput']]
  if (!waiting || !instant) throw new Error('the service over the model was not measured')
  figures['service/ratio'] = ratioOf(waiting, instant)
  Object.assign(figures, await measureLoops(context))
  return {
    figures,
    views: [
      {
        kind: 'table',
        title: `Encrypt over HTTP with ${serviceSessions} sessions and ${serviceConnections} connections`,
        about:
          `A device that waits 1 ms can answer ${serviceSessions},000 calls a second at most. Without latency the processors of this machine are the limit. ` +
          'Beside it a loop on the same model, with as many threads and nothing of this service around them: what a thread that has waited needs of the processors ' +
          'beyond one that has not is the price of waiting here, whoever waits.',
        columns: [
          'Latency of a call',
          'Calls',
          'Of no latency',
          'Event loop of the service, 99th percentile',
          'CPU a call',
          'A loop of its own',
          'CPU a call',
        ],
        rows: sidesOfService.map(({ name, ms }) => [
          ms === 0 ? 'no latency' : `${ms} ms`,
          { figure: `service/${name}/throughput` },
          ms === 0 ? '' : { figure: 'service/ratio' },
          { figure: `service/${name}/eventLoop` },
          figures[`service/${name}/cpu`] ? { figure: `service/${name}/cpu` } : '–',
          { figure: `loop/${name}/throughput` },
          { figure: `loop/${name}/cpu` },
        ]),
      },
    ],
    headlines: [
      `Encrypt with a device that waits 1 ms, ${serviceSessions} sessions: ${figures['service/ratio'].median.toFixed(2)} of one that does not`,
    ],
  }
}

const sidesOfService = [
  { name: '0ms', ms: 0 },
  { name: '1ms', ms: 1 },
] as const

/** Threads that wait are slow to get warm: see `warmingMs`. */
const loopTimes = { warmupMs: 4000, durationMs: 1000 }

async function measureLoops(context: PartContext): Promise<Readonly<Record<string, Figure>>> {
  const sides = sidesOfService.map(({ name, ms }): Side => ({
    name,
    async measure() {
      const result = await context.means.rawLoop({ operation: 'encrypt-alone', sessions: serviceSessions, latencyMs: ms, ...loopTimes })
      if (!result) throw new Error('the loop on the model ended without an answer')
      return { ...result }
    },
  }))
  const rounds = await inTurns(context, sides, `a loop of ${serviceSessions} threads`)
  const figures: Record<string, Figure> = {}
  for (const { name } of sidesOfService) {
    figures[`loop/${name}/throughput`] = figure('calls/s', 'higher', rounds.get(`${name}/perSecond`) ?? [])
    figures[`loop/${name}/cpu`] = figure('µs', 'lower', rounds.get(`${name}/cpuMicroseconds`) ?? [])
  }
  return figures
}

export const latencyPart: Part = { name: 'latency', title: 'How far away may the HSM be? A model', run }
