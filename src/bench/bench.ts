/**
 * `npm run bench`: what signed, authorized, audited calls cost over HTTP, beside a bare server and beside the token alone, all in one run.
 *
 * Method: load comes from a separate process; the measured sides take turns in several rounds, each after a warm-up, so that a machine whose
 * speed drifts hurts them alike; medians are reported, and ratios pair by pair within a round. No answer is dropped: one that is not 200
 * fails the bench.
 */

import { fork, type ChildProcess } from 'node:child_process'
import { signRequest, type SigningCredentials } from '../auth/sigv4.ts'
import { loaderFlags, programOf } from '../base/program.ts'
import type { BareOrder } from './bare-process.ts'
import type { LoadOrder, LoadResult } from './load-process.ts'

export interface BenchOptions {
  readonly seconds: number
  readonly connections: number
  readonly rounds?: number
}

/** A running service, and how to sign for it. */
export interface BenchService {
  readonly endpoint: URL
  readonly region: string
  readonly credentials: SigningCredentials
  readonly now: () => number
}

/** What is measured, brought up and taken down by who wires the house. */
export interface BenchSubjects {
  /** With a token of its own. */
  readonly service: BenchService
  /** The sessions that the service has on its token. */
  readonly sessions: number
  /** Calls a second by raw loops on the token, one thread to a session, measured for so long. */
  readonly rawLoop: (order: { readonly operation: RawOperation; readonly sessions: number; readonly durationMs: number }) => Promise<number>
}

export type RawOperation = 'encrypt' | 'sign-rsa-2048' | 'sign-ecdsa-p256'

/** One kind of call that is measured: its key, its requests, and the raw loop that it stands beside. */
interface Measured {
  readonly key: object
  readonly operation: string
  readonly input: (keyId: string, n: number) => object
  /** `one`: beside a single session; `all`: beside as many as the service has. */
  readonly rawSessions: 'one' | 'all'
}

const digest = (n: number): string => Buffer.alloc(32, n).toString('base64')
const sign = (keySpec: string, algorithm: string): Measured => ({
  key: { KeySpec: keySpec, KeyUsage: 'SIGN_VERIFY' },
  operation: 'Sign',
  input: (KeyId, n) => ({ KeyId, Message: digest(n), MessageType: 'DIGEST', SigningAlgorithm: algorithm }),
  rawSessions: 'all',
})

const measured: Readonly<Record<RawOperation, Measured>> = {
  encrypt: {
    key: {},
    operation: 'Encrypt',
    input: (KeyId, n) => ({ KeyId, Plaintext: digest(n), EncryptionContext: { app: 'bench', n: `${n}` } }),
    rawSessions: 'one',
  },
  'sign-rsa-2048': sign('RSA_2048', 'RSASSA_PKCS1_V1_5_SHA_256'),
  'sign-ecdsa-p256': sign('ECC_NIST_P256', 'ECDSA_SHA_256'),
}
const measuredNames = Object.keys(measured) as readonly RawOperation[]

interface Side {
  readonly service: LoadResult
  readonly rawPerSecond: number
}

interface Round {
  readonly bare: LoadResult
  readonly sides: Readonly<Record<RawOperation, Side>>
}

interface Summary {
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly rawPerSecond: number
  readonly ofRaw: number
}

export interface BenchReport {
  readonly connections: number
  readonly secondsPerRound: number
  /** What each round gave, for who wants to see how far it spread. */
  readonly rounds: readonly { readonly barePerSecond: number; readonly perSecond: Readonly<Record<RawOperation, number>> }[]
  readonly barePerSecond: number
  /** Encrypt beside the bare server. */
  readonly encryptOfBare: number
  /** ECDSA beside the lower of its raw loop and Encrypt's own rate: an elliptic curve may be faster than the road to it. */
  readonly ecdsaOfLower: number
  readonly sessions: number
  readonly median: Readonly<Record<RawOperation, Summary>>
}

const warmupMs = 3000
export const signedRequests = 64

function child(file: string): ChildProcess {
  return fork(programOf(new URL(file, import.meta.url)), [], {
    execArgv: [...process.execArgv, ...loaderFlags],
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
export function wireRequest(
  operation: string,
  input: object,
  { host, region, credentials, timeMs }: Signer,
  api: { readonly target: string; readonly signingName: string } = { target: 'TrentService', signingName: 'kms' },
): Buffer {
  const body = JSON.stringify(input)
  const headers = signRequest({
    method: 'POST',
    url: `http://${host}/`,
    headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amz-target': `${api.target}.${operation}` },
    body,
    service: api.signingName,
    region,
    credentials,
    timeMs,
  })
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  return Buffer.from(`POST / HTTP/1.1\r\n${lines.join('')}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
}

export async function post(endpoint: URL, request: Buffer): Promise<Record<string, unknown>> {
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

export const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0

export async function runBench({ service, sessions, rawLoop }: BenchSubjects, options: BenchOptions): Promise<BenchReport> {
  const { connections, rounds: roundCount = 3 } = options
  const durationMs = options.seconds * 1000
  const { endpoint, credentials } = service
  const keyIds = {} as Record<RawOperation, string>
  for (const name of measuredNames) keyIds[name] = await createKey(service, measured[name].key)
  const requestsOf = (name: RawOperation): Buffer[] =>
    Array.from({ length: signedRequests }, (_, n) =>
      wireRequest(measured[name].operation, measured[name].input(keyIds[name], n), signerOf(service)),
    )
  const answer = JSON.stringify(await post(endpoint, requestsOf('encrypt')[0] ?? Buffer.alloc(0)))

  const bare = child('./bare-process.ts')
  const rounds: Round[] = []
  try {
    bare.send({ secretAccessKey: credentials.secretAccessKey, answer } satisfies BareOrder)
    const { port: barePort } = await message<{ readonly port: number }>(bare)
    for (let round = 0; round < roundCount; round++) {
      const bareLoad = await load({ host: '127.0.0.1', port: barePort, connections, durationMs, requests: requestsOf('encrypt') })
      const sides = {} as Record<RawOperation, Side>
      for (const name of measuredNames) {
        sides[name] = {
          service: await loadService(service, { connections, durationMs, requests: requestsOf(name) }),
          rawPerSecond: await rawLoop({
            operation: name,
            sessions: measured[name].rawSessions === 'all' ? sessions : 1,
            durationMs: Math.min(durationMs, 2000),
          }),
        }
      }
      rounds.push({ bare: bareLoad, sides })
    }
  } finally {
    bare.disconnect()
  }
  const ratio = (of: (round: Round) => number): number => Number(median(rounds.map(of)).toFixed(3))
  const { encrypt: encryptName, ecdsa } = { encrypt: 'encrypt', ecdsa: 'sign-ecdsa-p256' } as const
  return {
    connections,
    secondsPerRound: options.seconds,
    rounds: rounds.map((round) => ({
      barePerSecond: Math.round(round.bare.perSecond),
      perSecond: byName((name) => Math.round(round.sides[name].service.perSecond)),
    })),
    barePerSecond: Math.round(median(rounds.map((round) => round.bare.perSecond))),
    encryptOfBare: ratio((round) => round.sides[encryptName].service.perSecond / round.bare.perSecond),
    ecdsaOfLower: ratio(
      ({ sides }) => sides[ecdsa].service.perSecond / Math.min(sides[ecdsa].rawPerSecond, sides[encryptName].service.perSecond),
    ),
    sessions,
    median: byName((name) => ({
      perSecond: Math.round(median(rounds.map(({ sides }) => sides[name].service.perSecond))),
      p50Ms: ratio(({ sides }) => sides[name].service.p50Ms),
      p99Ms: ratio(({ sides }) => sides[name].service.p99Ms),
      rawPerSecond: Math.round(median(rounds.map(({ sides }) => sides[name].rawPerSecond))),
      ofRaw: ratio(({ sides }) => sides[name].service.perSecond / sides[name].rawPerSecond),
    })),
  }
}

function byName<T>(of: (name: RawOperation) => T): Readonly<Record<RawOperation, T>> {
  return Object.fromEntries(measuredNames.map((name) => [name, of(name)])) as Record<RawOperation, T>
}

export const signerOf = ({ endpoint, region, credentials, now }: BenchService): Signer => ({
  host: endpoint.host,
  region,
  credentials,
  timeMs: now(),
})

export async function createKey(service: BenchService, input: object): Promise<string> {
  const created = await post(service.endpoint, wireRequest('CreateKey', { Description: 'bench', ...input }, signerOf(service)))
  return (created['KeyMetadata'] as { readonly KeyId: string }).KeyId
}

export const loadService = (
  { endpoint }: BenchService,
  order: Pick<LoadOrder, 'connections' | 'durationMs' | 'requests'>,
): Promise<LoadResult> => load({ host: endpoint.hostname, port: Number(endpoint.port), ...order })
