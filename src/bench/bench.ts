/**
 * `npm run bench`: what a signed, authorized, audited Encrypt of 32 bytes costs over HTTP, beside a bare server and beside the token alone, all in one run.
 *
 * Method: load comes from a separate process; the measured sides take turns in several rounds, each after a warm-up, so that a machine whose
 * speed drifts hurts them alike; medians are reported, and ratios pair by pair within a round. No answer is dropped: one that is not 200
 * fails the bench.
 */

import { fork, type ChildProcess } from 'node:child_process'
import { signRequest, type SigningCredentials } from '../auth/sigv4.ts'
import type { BareOrder } from './bare-process.ts'
import type { LoadOrder, LoadResult } from './load-process.ts'

export interface BenchOptions {
  readonly seconds: number
  readonly connections: number
  readonly rounds?: number
}

/** What is measured, brought up and taken down by who wires the house. */
export interface BenchSubjects {
  /** A running service with a token of its own. */
  readonly service: {
    readonly endpoint: URL
    readonly region: string
    readonly credentials: SigningCredentials
    readonly now: () => number
  }
  /** Encryptions of 32 bytes a second by a raw single-threaded loop on the token, measured for so long. */
  readonly rawLoop: (durationMs: number) => Promise<number>
}

export interface BenchReport {
  readonly connections: number
  readonly secondsPerRound: number
  readonly rounds: readonly { readonly service: LoadResult; readonly bare: LoadResult; readonly rawPerSecond: number }[]
  readonly median: {
    readonly servicePerSecond: number
    readonly barePerSecond: number
    readonly rawPerSecond: number
    readonly serviceOfBare: number
    readonly serviceOfRaw: number
    readonly p50Ms: number
    readonly p99Ms: number
  }
}

const warmupMs = 3000
const signedRequests = 64

function child(file: string): ChildProcess {
  return fork(new URL(file, import.meta.url), [], {
    execArgv: [...process.execArgv, '--import', import.meta.resolve('tsx')],
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
}

/** The next message of a child, or an error when it ends first. */
function message<T>(from: ChildProcess): Promise<T> {
  return new Promise((resolve, reject) => {
    from.once('message', (value) => resolve(value as T))
    from.once('exit', (code) => reject(new Error(`a bench process ended with code ${code}`)))
  })
}

async function load(order: Omit<LoadOrder, 'warmupMs'>): Promise<LoadResult> {
  const process = child('./load-process.ts')
  const answer = message<LoadResult>(process)
  process.send({ ...order, warmupMs } satisfies LoadOrder)
  const result = await answer
  if (result.failed > 0) throw new Error(`${result.failed} of ${result.answered} answers were errors: the figures mean nothing`)
  return result
}

interface Signer {
  readonly host: string
  readonly region: string
  readonly credentials: SigningCredentials
  readonly timeMs: number
}

/** A whole request, as the AWS CLI would send it. */
function wireRequest(operation: string, input: object, { host, region, credentials, timeMs }: Signer): Buffer {
  const body = JSON.stringify(input)
  const headers = signRequest({
    method: 'POST',
    url: `http://${host}/`,
    headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amz-target': `TrentService.${operation}` },
    body,
    service: 'kms',
    region,
    credentials,
    timeMs,
  })
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  return Buffer.from(`POST / HTTP/1.1\r\n${lines.join('')}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
}

async function post(endpoint: URL, request: Buffer): Promise<Record<string, unknown>> {
  const text = request.toString()
  const [head = '', body = ''] = text.split('\r\n\r\n')
  const headers = Object.fromEntries(
    head
      .split('\r\n')
      .slice(1)
      .map((line) => line.split(': ') as [string, string])
      .filter(([name]) => name !== 'host' && name !== 'content-length'),
  )
  const response = await fetch(endpoint, { method: 'POST', headers, body })
  const answer = await response.text()
  if (!response.ok) throw new Error(`the service answered ${response.status} ${answer}`)
  return JSON.parse(answer) as Record<string, unknown>
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0

export async function runBench({ service, rawLoop }: BenchSubjects, options: BenchOptions): Promise<BenchReport> {
  const { connections, rounds: roundCount = 3 } = options
  const durationMs = options.seconds * 1000
  const { endpoint, region, credentials } = service
  const signer = (): Signer => ({ host: endpoint.host, region, credentials, timeMs: service.now() })
  const created = await post(endpoint, wireRequest('CreateKey', { Description: 'bench' }, signer()))
  const { KeyId } = created['KeyMetadata'] as { readonly KeyId: string }
  const encrypt = (n: number): Buffer =>
    wireRequest(
      'Encrypt',
      { KeyId, Plaintext: Buffer.alloc(32, n).toString('base64'), EncryptionContext: { app: 'bench', n: `${n}` } },
      signer(),
    )
  const answer = JSON.stringify(await post(endpoint, encrypt(0)))

  const bare = child('./bare-process.ts')
  const rounds: BenchReport['rounds'][number][] = []
  try {
    bare.send({ secretAccessKey: credentials.secretAccessKey, answer } satisfies BareOrder)
    const { port: barePort } = await message<{ readonly port: number }>(bare)
    for (let round = 0; round < roundCount; round++) {
      const requests = Array.from({ length: signedRequests }, (_, n) => encrypt(n))
      const host = endpoint.hostname
      rounds.push({
        bare: await load({ host: '127.0.0.1', port: barePort, connections, durationMs, requests }),
        service: await load({ host, port: Number(endpoint.port), connections, durationMs, requests }),
        rawPerSecond: await rawLoop(Math.min(durationMs, 2000)),
      })
    }
  } finally {
    bare.disconnect()
  }
  return {
    connections,
    secondsPerRound: options.seconds,
    rounds,
    median: {
      servicePerSecond: Math.round(median(rounds.map((round) => round.service.perSecond))),
      barePerSecond: Math.round(median(rounds.map((round) => round.bare.perSecond))),
      rawPerSecond: Math.round(median(rounds.map((round) => round.rawPerSecond))),
      serviceOfBare: Number(median(rounds.map((round) => round.service.perSecond / round.bare.perSecond)).toFixed(3)),
      serviceOfRaw: Number(median(rounds.map((round) => round.service.perSecond / round.rawPerSecond)).toFixed(3)),
      p50Ms: Number(median(rounds.map((round) => round.service.p50Ms)).toFixed(2)),
      p99Ms: Number(median(rounds.map((round) => round.service.p99Ms)).toFixed(2)),
    },
  }
}
