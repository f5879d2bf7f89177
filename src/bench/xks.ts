/**
 * The XKS proxy as AWS KMS has it: signed, audited calls over TLS on connections that are kept, 300 bytes, Encrypt with an integrity value (which
 * decrypts what it encrypted) and Decrypt, with 10 keys on the token and with 500 (50 in a quick run). Then a calm key store beside one that is flooded.
 */

import { randomBytes } from 'node:crypto'
import { Agent, request } from 'node:https'
import { signRequest, type SigningCredentials } from '../auth/sigv4.ts'
import {
  decryptBody,
  encryptBody,
  paths,
  readEncrypted,
  signingService,
  type ExternalCiphertext,
  type RequestMetadata,
} from '../xks/protocol.ts'
import { call, createKey, flood, holdfastApi } from './load.ts'
import type { LoadResult } from './load-process.ts'
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

/** What AWS allows itself for one key store, and what it waits for an answer. */
const awsPerSecond = 1800
const awsDeadlineMs = 250
const fewKeys = 10
/** A quarter of what the token holds at the most: other parts make keys, too. */
const manyKeys = ({ plan: { level }, means: { maxObjects } }: PartContext): number =>
  Math.max(fewKeys, Math.min(level === 'quick' ? 50 : 500, maxObjects === null ? Infinity : Math.floor(maxObjects / 4)))
const keysAtOnce = 16
const plaintextBytes = 300
/** A calm store: so many connections, each asking again after a rest. */
const calm = { connections: 8, restMs: 20 }
const floodConnections = 128
/** A third of what AWS allows itself: on a small machine two full ones are more than there is. */
const floodedRate = 600
const aad = Buffer.alloc(40, 1)

interface XksStore {
  /** XksProxyUriPath. */
  readonly path: string
  readonly credentials: SigningCredentials
}

type Proxied = BenchService & { readonly xks: NonNullable<BenchService['xks']> }

function withProxy(service: BenchService): Proxied {
  if (!service.xks) throw new Error('the service has no XKS proxy')
  return { ...service, xks: service.xks }
}

/** Of its own key store, with a quota that is `rate`. */
async function createStore(service: BenchService, prefix: string, rate: number): Promise<XksStore> {
  const made = await call(service, 'CreateXksStore', { UriPathPrefix: prefix, Regions: [service.region], RequestRate: rate }, holdfastApi)
  const { AccessKeyId, RawSecretAccessKey } = made['XksProxyAuthenticationCredential'] as Readonly<Record<string, string>>
  return {
    path: String(made['XksProxyUriPath']),
    credentials: { accessKeyId: AccessKeyId ?? '', secretAccessKey: RawSecretAccessKey ?? '' },
  }
}

/** Shows keys `from` to `to` in the store, as `key-N`. */
async function addKeys(service: BenchService, prefix: string, from: number, to: number): Promise<void> {
  const add = async (n: number): Promise<void> => {
    await call(service, 'AddXksKey', { UriPathPrefix: prefix, ExternalKeyId: `key-${n}`, KeyId: await createKey(service) }, holdfastApi)
  }
  for (let n = from; n < to; n += keysAtOnce) {
    await Promise.all(Array.from({ length: Math.min(keysAtOnce, to - n) }, (_, each) => add(n + each)))
  }
}

const metadataFor = ({ region }: BenchService, kmsOperation: string): RequestMetadata => ({
  kmsRequestId: randomBytes(16).toString('hex'),
  kmsOperation,
  awsPrincipalArn: 'arn:aws:iam::111122223333:role/bench',
  kmsKeyArn: `arn:aws:kms:${region}:111122223333:key/00000000-0000-4000-8000-000000000000`,
})

interface Signed {
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

function sign(service: Proxied, { path: at, credentials }: XksStore, callPath: string, body: string): Signed {
  const path = at + callPath
  const headers = signRequest({
    method: 'POST',
    url: service.xks.endpoint.origin + path,
    headers: { 'content-type': 'application/json' },
    body,
    service: signingService,
    region: service.region,
    credentials,
    timeMs: service.now(),
  })
  return { path, headers, body }
}

function onTheWire({ path, headers, body }: Signed): Buffer {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  return Buffer.from(`POST ${path} HTTP/1.1\r\n${lines.join('')}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
}

/** Signed now, over all keys alike. */
const encryptions = (service: Proxied, store: XksStore, keys: number): readonly Uint8Array[] =>
  Array.from({ length: Math.max(64, keys) }, (_, n) =>
    onTheWire(
      sign(
        service,
        store,
        paths.encrypt(`key-${n % keys}`),
        encryptBody(metadataFor(service, 'GenerateDataKey'), randomBytes(plaintextBytes), aad),
      ),
    ),
  )

/** The same for decryptions of what the proxy encrypts here and now, once under each key. */
async function decryptions(service: Proxied, store: XksStore, keys: number): Promise<() => readonly Uint8Array[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: keysAtOnce, ca: service.xks.ca })
  const encryptOnce = async (n: number): Promise<ExternalCiphertext> => {
    const body = encryptBody(metadataFor(service, 'Encrypt'), randomBytes(plaintextBytes), aad)
    return readEncrypted(await askUntilAnswered(service, agent, sign(service, store, paths.encrypt(`key-${n}`), body)), plaintextBytes, aad)
  }
  const made = await Promise.all(Array.from({ length: keys }, (_, n) => encryptOnce(n))).finally(() => agent.destroy())
  return () =>
    Array.from({ length: Math.max(64, keys) }, (_, n) => {
      const outer = made[n % keys]
      if (!outer) throw new Error('a key without a ciphertext')
      return onTheWire(sign(service, store, paths.decrypt(`key-${n % keys}`), decryptBody(metadataFor(service, 'Decrypt'), outer, aad)))
    })
}

/** What is too late is asked again, as AWS would: this is before anything is measured. */
async function askUntilAnswered(service: Proxied, agent: Agent, signed: Signed): Promise<unknown> {
  for (let left = 20; ; left--) {
    const { status, text } = await ask(service, agent, signed)
    if (status === 200) return JSON.parse(text)
    if (left === 0 || (status !== 429 && status < 500)) throw new Error(`the XKS proxy answered ${status} ${text}`)
  }
}

function ask({ xks }: Proxied, agent: Agent, { path, headers, body }: Signed): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = xks.endpoint
    const asking = request({
      agent,
      hostname,
      port,
      path,
      method: 'POST',
      headers: { ...headers, 'content-length': Buffer.byteLength(body) },
    })
    asking.on('error', reject)
    asking.on('response', (answer) => {
      let text = ''
      answer.setEncoding('utf8')
      answer.on('data', (chunk: string) => (text += chunk))
      answer.on('error', reject)
      answer.on('end', () => resolve({ status: answer.statusCode ?? 0, text }))
    })
    asking.end(body)
  })
}

/** Long enough for the 99th percentile to be more than a handful of calls. */
const timesOf = (plan: Plan): Plan => ({ ...plan, durationMs: Math.max(plan.durationMs, 300), warmupMs: Math.max(plan.warmupMs, 150) })

/** The rate is of calls that were served; how long a call takes is told of refused ones, too. */
const numbersOf = ({ perSecond, p50Ms, p99Ms, failed, answered }: LoadResult): Readonly<Record<string, number>> => ({
  throughput: (perSecond * (answered - failed)) / answered,
  p50: p50Ms,
  p99: p99Ms,
  refused: failed,
})

async function run(context: PartContext): Promise<PartReport> {
  const own: PartContext = { ...context, plan: timesOf(context.plan) }
  const figures: Record<string, Figure> = {}
  const many = manyKeys(context)
  try {
    await context.withService(
      async (started) => {
        const service = withProxy(started)
        await measureCalls(own, service, figures)
        await measureFlood(own, service, figures)
      },
      { xks: true },
    )
  } catch (error) {
    // The proxy's keys are AES-GCM in the token, which not every one has.
    if (!(error instanceof Error) || !error.message.includes('UnsupportedOperationException')) throw error
    return {
      about: [],
      figures: {},
      views: [],
      lacking: ['This token has no AES-GCM, which the keys of an external key store need.'],
      headlines: [],
    }
  }
  const at = (id: string): Figure => figures[id] ?? figure('count', 'none', [0])
  const cell = (id: string) => ({ figure: id })
  const rows = [...new Set([fewKeys, many])].flatMap((keys) =>
    ['encrypt', 'decrypt'].map((kind) => {
      const id = `${keys}-keys/${kind}`
      return [
        `${kind === 'encrypt' ? 'Encrypt with CDIV' : 'Decrypt'}, ${keys} keys`,
        cell(`${id}/throughput`),
        cell(`${id}/p50`),
        cell(`${id}/p99`),
        cell(`${id}/refused`),
      ] as const
    }),
  )
  const round = (value: number): string => (value >= 100 ? Math.round(value).toLocaleString('en-GB') : value.toFixed(1))
  return {
    about: [
      `As AWS KMS would call it: ${plaintextBytes} bytes, SigV4, TLS, connections that are kept, every call in the audit trail before it is answered. ` +
        'Encrypt decrypts what it encrypted and compares before it answers with an integrity value. The load shares the processors with the service.',
      `AWS KMS allows itself ${awsPerSecond.toLocaleString('en-GB')} calls a second for a key store and waits ${awsDeadlineMs} ms for an answer.`,
      `The calm key store makes ${calm.connections * (1000 / calm.restMs)} calls a second at most; the other one is asked by ${floodConnections} connections as fast as they are answered, and has a quota of ${floodedRate}.`,
    ],
    figures,
    views: [
      { kind: 'table', title: 'Calls of one key store', columns: ['Call', 'Calls/s', 'p50', 'p99', 'Refused'], rows },
      {
        kind: 'table',
        title: 'A calm key store beside one that is flooded',
        columns: ['Calm store', 'Calls/s', 'p50', 'p99', 'Refused'],
        rows: ['alone', 'beside'].map((side) => [
          side === 'alone' ? 'Alone' : 'Beside the flood',
          ...['throughput', 'p50', 'p99', 'refused'].map((name) => cell(`calm/${side}/${name}`)),
        ]),
      },
    ],
    lacking: [],
    headlines: [
      ...['encrypt', 'decrypt'].map((kind) => {
        const id = `${many}-keys/${kind}`
        return `XKS ${kind === 'encrypt' ? 'Encrypt with CDIV' : 'Decrypt'}, ${many} keys: ${round(at(`${id}/throughput`).median)} calls/s, p99 ${round(at(`${id}/p99`).median)} ms`
      }),
      `XKS, a calm store beside a flooded one: p99 ${round(at('calm/beside/p99').median)} ms, alone ${round(at('calm/alone/p99').median)} ms`,
    ],
  }
}

/** With few keys on the token, then with many. */
async function measureCalls(context: PartContext, service: Proxied, figures: Record<string, Figure>): Promise<void> {
  const { plan, progress } = context
  const prefix = '/bench'
  // Without a quota: what the service can do is the question.
  const store = await createStore(service, prefix, 1_000_000)
  let made = 0
  for (const keys of new Set([fewKeys, manyKeys(context)])) {
    progress(`${keys} keys are made`)
    await addKeys(service, prefix, made, keys)
    made = keys
    const decrypting = await decryptions(service, store, keys)
    const side = (name: string, requests: () => readonly Uint8Array[]): Side => ({
      name,
      measure: async () =>
        numbersOf(
          await flood(service.xks.endpoint, plan, {
            connections: Math.min(plan.connections, 32),
            requests: requests(),
            ca: service.xks.ca,
          }),
        ),
    })
    const sides = [side('encrypt', () => encryptions(service, store, keys)), side('decrypt', decrypting)]
    keep(figures, `${keys}-keys/`, await inTurns(context, sides, `XKS with ${keys} keys`))
  }
}

async function measureFlood(context: PartContext, service: Proxied, figures: Record<string, Figure>): Promise<void> {
  const { plan } = context
  const [calmStore, busyStore] = [await createStore(service, '/calm', awsPerSecond), await createStore(service, '/busy', floodedRate)]
  await addKeys(service, '/calm', 0, 1)
  await addKeys(service, '/busy', 0, 1)
  const { endpoint, ca } = service.xks
  const times = { ...plan, durationMs: Math.max(plan.durationMs, 500) }
  const calmly = (): Promise<LoadResult> => flood(endpoint, times, { ...calm, requests: encryptions(service, calmStore, 1), ca })
  const sides: readonly Side[] = [
    { name: 'alone', measure: async () => numbersOf(await calmly()) },
    {
      name: 'beside',
      async measure() {
        const longer = { warmupMs: times.warmupMs, durationMs: times.durationMs + 500 }
        const flooding = flood(endpoint, longer, { connections: floodConnections, requests: encryptions(service, busyStore, 1), ca })
        const [found, flooded] = [await calmly(), await flooding]
        return { ...numbersOf(found), flood: flooded.perSecond, 'flood-refused': flooded.failed }
      },
    },
  ]
  keep(figures, 'calm/', await inTurns(context, sides, 'XKS, calm beside flood'))
  const [alone, beside] = [figures['calm/alone/p99'], figures['calm/beside/p99']]
  if (alone && beside) figures['calm/p99-ratio'] = ratioOf(beside, alone, 'lower')
}

const units: Readonly<Record<string, readonly [Figure['unit'], Figure['better']]>> = {
  throughput: ['calls/s', 'higher'],
  p50: ['ms', 'lower'],
  p99: ['ms', 'lower'],
  refused: ['calls', 'lower'],
  flood: ['calls/s', 'none'],
  'flood-refused': ['calls', 'none'],
}

function keep(figures: Record<string, Figure>, before: string, numbers: ReadonlyMap<string, readonly number[]>): void {
  for (const [id, rounds] of numbers) {
    const [unit, better] = units[id.slice(id.lastIndexOf('/') + 1)] ?? ['count', 'none']
    figures[before + id] = figure(unit, better, rounds)
  }
}

export const xksPart: Part = { name: 'xks', title: 'External key store', run }
