/**
 * `holdfast bench --keys N`: Encrypt with few keys in one service and very many in another, in turn, and how long the second one takes to start.
 * Its keys are made as any caller makes them, one object in the token each.
 */

import { createKey, loadService, median, signedRequests, signerOf, wireRequest, type BenchOptions, type BenchService } from './bench.ts'

export interface KeysSubjects {
  readonly few: BenchService
  readonly many: BenchService
  /** Stops the service with many keys and starts it again; answers how long it took from its process to its port, in ms. */
  readonly restart: () => Promise<number>
}

export interface KeysReport {
  readonly few: number
  readonly many: number
  readonly connections: number
  readonly secondsPerRound: number
  readonly rounds: readonly { readonly fewPerSecond: number; readonly manyPerSecond: number }[]
  readonly manyOfFew: number
  readonly startMs: number
}

const few = 10
const madeAtOnce = 16

/** Makes keys and answers requests on `few` of them, picked all over. */
async function prepare(service: BenchService, count: number): Promise<() => Buffer[]> {
  const keyIds: string[] = []
  let left = count
  const make = async (): Promise<void> => {
    while (left-- > 0) keyIds.push(await createKey(service, {}))
  }
  await Promise.all(Array.from({ length: madeAtOnce }, make))
  const used = Array.from({ length: few }, (_, n) => keyIds[Math.floor((n * keyIds.length) / few)])
  return () =>
    Array.from({ length: signedRequests }, (_, n) =>
      wireRequest('Encrypt', { KeyId: used[n % few], Plaintext: Buffer.alloc(32, n).toString('base64') }, signerOf(service)),
    )
}

export async function runKeysBench(subjects: KeysSubjects, keys: number, options: BenchOptions): Promise<KeysReport> {
  const { connections, seconds, rounds: roundCount = 3 } = options
  const requests = { few: await prepare(subjects.few, few), many: await prepare(subjects.many, keys) }
  const measured = async (side: 'few' | 'many'): Promise<number> =>
    (await loadService(subjects[side], { connections, durationMs: seconds * 1000, requests: requests[side]() })).perSecond
  const rounds: { readonly fewPerSecond: number; readonly manyPerSecond: number }[] = []
  for (let round = 0; round < roundCount; round++)
    rounds.push({ fewPerSecond: Math.round(await measured('few')), manyPerSecond: Math.round(await measured('many')) })
  return {
    few,
    many: keys,
    connections,
    secondsPerRound: seconds,
    rounds,
    manyOfFew: Number(median(rounds.map(({ fewPerSecond, manyPerSecond }) => manyPerSecond / fewPerSecond)).toFixed(3)),
    startMs: Math.round(await subjects.restart()),
  }
}
