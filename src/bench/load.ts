/**
 * Load on a server: signed requests from a process of its own, on so many connections, each asking again as soon as it is answered. An answer that is
 * not 200 fails the bench: its figures would mean nothing.
 */

import type { ChildProcess } from 'node:child_process'
import { signRequest, type SigningCredentials } from '../auth/sigv4.ts'
import type { BareOrder } from './bare-process.ts'
import { ask, endChild, startChild } from './child.ts'
import type { LoadOrder, LoadResult } from './load-process.ts'
import { untilSteady, type BenchService, type Plan } from './part.ts'

interface Signer {
  readonly host: string
  readonly region: string
  readonly credentials: SigningCredentials
  readonly timeMs: number
}

const kms = { target: 'TrentService', signingName: 'kms' } as const
export const holdfastApi = { target: 'Holdfast', signingName: 'holdfast' } as const
type Api = typeof kms | typeof holdfastApi

/** As many as are signed beforehand; a request may come again and again, as its clock allows. */
const signedRequests = 64

/** A whole request, as the AWS CLI would send it. */
function wireRequest(operation: string, input: object, { host, region, credentials, timeMs }: Signer, api: Api): Buffer {
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

const signerOf = ({ endpoint, region, credentials, now }: BenchService): Signer => ({
  host: endpoint.host,
  region,
  credentials,
  timeMs: now(),
})

/** Requests signed now, each with an input of its own. */
export const requestsFor = (service: BenchService, operation: string, input: (n: number) => object): readonly Uint8Array[] =>
  Array.from({ length: signedRequests }, (_, n) => wireRequest(operation, input(n), signerOf(service), kms))

/** One call. @throws when the answer is an error. */
export async function call(service: BenchService, operation: string, input: object, api: Api = kms): Promise<Record<string, unknown>> {
  const request = wireRequest(operation, input, signerOf(service), api).toString()
  const [head = '', body = ''] = request.split('\r\n\r\n')
  const headers = Object.fromEntries(
    head
      .split('\r\n')
      .slice(1)
      .map((line) => line.split(': ') as [string, string])
      .filter(([name]) => name !== 'host' && name !== 'content-length'),
  )
  const response = await fetch(service.endpoint, { method: 'POST', headers, body })
  const answer = await response.text()
  if (!response.ok) throw new Error(`the service answered ${operation} with ${response.status} ${answer}`)
  // Of what answers nothing there is no body.
  return answer === '' ? {} : (JSON.parse(answer) as Record<string, unknown>)
}

export async function createKey(service: BenchService, input: object = {}): Promise<string> {
  const { KeyMetadata } = await call(service, 'CreateKey', { Description: 'bench', ...input })
  return (KeyMetadata as { readonly KeyId: string }).KeyId
}

/** A user without a policy, and how it signs. */
export async function createUser(service: BenchService, name: string): Promise<{ readonly arn: string; readonly as: BenchService }> {
  const { User } = await call(service, 'CreateUser', { UserName: name }, holdfastApi)
  const { AccessKey } = await call(service, 'CreateAccessKey', { UserName: name }, holdfastApi)
  const { AccessKeyId, SecretAccessKey } = AccessKey as { readonly AccessKeyId: string; readonly SecretAccessKey: string }
  const credentials = { accessKeyId: AccessKeyId, secretAccessKey: SecretAccessKey }
  return { arn: (User as { readonly Arn: string }).Arn, as: { ...service, credentials } }
}

/** What the service compiles while calls come is no figure of it: it gets as fast as it will within some fifteen seconds of load. */
const steadyWithin = { windowMs: 1500, longestMs: 18_000 }

/** Calls until the server gets no faster; in a quick run a moment only. */
export async function warmUp(
  at: { readonly hostname: string; readonly port: string },
  { level, warmupMs }: Pick<Plan, 'level' | 'warmupMs'>,
  order: Pick<LoadOrder, 'connections' | 'requests'>,
): Promise<void> {
  const run = async (durationMs: number): Promise<number> => (await load(at, { warmupMs: 0, durationMs }, order)).perSecond
  if (level === 'quick') await run(4 * warmupMs)
  else await untilSteady(run, steadyWithin)
}

/** Keeps the server busy for the plan's time, after its warm-up. */
export async function load(
  at: { readonly hostname: string; readonly port: string },
  { warmupMs, durationMs }: Pick<Plan, 'warmupMs' | 'durationMs'>,
  { connections, requests }: Pick<LoadOrder, 'connections' | 'requests'>,
): Promise<LoadResult> {
  const result = await flood(at, { warmupMs, durationMs }, { connections, requests })
  if (result.failed > 0) throw new Error(`${result.failed} of ${result.answered} answers were errors: the figures mean nothing`)
  return result
}

/** The processes that make load. Each compiles its code for itself, which takes from the service what it uses: who has nothing to do is used again. */
const loaders = new Set<ChildProcess>()
const resting: ChildProcess[] = []

function startLoader(): ChildProcess {
  const process = startChild('load-process.ts')
  loaders.add(process)
  // One that failed has ended, and so may one that has nothing to do.
  process.once('exit', () => {
    loaders.delete(process)
    if (resting.includes(process)) resting.splice(resting.indexOf(process), 1)
  })
  return process
}

/** Ends them, once they are done. */
export async function endLoad(): Promise<void> {
  resting.length = 0
  await Promise.all([...loaders].map(endChild))
}

/** The same, whatever the server answers, over TLS too, and with rests. */
export async function flood(
  at: { readonly hostname: string; readonly port: string },
  { warmupMs, durationMs }: Pick<Plan, 'warmupMs' | 'durationMs'>,
  order: Pick<LoadOrder, 'connections' | 'requests' | 'ca' | 'restMs'>,
): Promise<LoadResult> {
  const process = resting.pop() ?? startLoader()
  try {
    return await ask<LoadResult>(process, { ...order, host: at.hostname, port: Number(at.port), warmupMs, durationMs } satisfies LoadOrder)
  } finally {
    if (loaders.has(process)) resting.push(process)
  }
}

/** The bare server while `run` runs: it answers `answer` to whoever signs with this secret. */
export async function withBare<T>(
  order: BareOrder,
  run: (at: { readonly hostname: string; readonly port: string }) => Promise<T>,
): Promise<T> {
  const bare = startChild('bare-process.ts')
  try {
    const { port } = await ask<{ readonly port: number }>(bare, order)
    return await run({ hostname: '127.0.0.1', port: String(port) })
  } finally {
    await endChild(bare)
  }
}
