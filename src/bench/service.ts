/**
 * The service as its callers have it: signed, authorized, audited calls over HTTP, at 1 to 256 connections, beside a bare server that only parses
 * the JSON and verifies one signature, and beside the token alone. Then where the time of a call goes, by what the service itself times.
 */

import { authorize } from '../auth/authorize.ts'
import { compilePolicy } from '../auth/policy.ts'
import type { Principal } from '../auth/principal.ts'
import { layers, type Layer } from '../base/spans.ts'
import { call, createKey, load, requestsFor, warmUp, withBare } from './load.ts'
import {
  figure,
  inShortTurns,
  inTurns,
  ratioOf,
  type BarChart,
  type BenchService,
  type Figure,
  type Part,
  type PartContext,
  type PartReport,
  type Plan,
  type RawOperation,
  type ServiceOptions,
  type Side,
  type View,
} from './part.ts'

/** One kind of call that is measured. */
interface Kind {
  readonly id: string
  readonly title: string
  readonly key: object
  readonly operation: string
  readonly input: (keyId: string, n: number, ciphertext: string) => object
  /** The raw loop that it stands beside, on one session or on all. */
  readonly raw?: { readonly operation: RawOperation; readonly sessions: 'one' | 'all' }
}

const bytes32 = (n: number): string => Buffer.alloc(32, n).toString('base64')
const signing = (id: string, title: string, spec: string, algorithm: string, raw: RawOperation): Kind => ({
  id,
  title,
  key: { KeySpec: spec, KeyUsage: 'SIGN_VERIFY' },
  operation: 'Sign',
  input: (KeyId, n) => ({ KeyId, Message: bytes32(n), MessageType: 'DIGEST', SigningAlgorithm: algorithm }),
  raw: { operation: raw, sessions: 'all' },
})

const kinds: readonly Kind[] = [
  {
    id: 'encrypt',
    title: 'Encrypt 32 B',
    key: {},
    operation: 'Encrypt',
    input: (KeyId, n) => ({ KeyId, Plaintext: bytes32(n), EncryptionContext: { app: 'bench', n: `${n}` } }),
    raw: { operation: 'encrypt', sessions: 'one' },
  },
  {
    id: 'decrypt',
    title: 'Decrypt 32 B',
    key: {},
    operation: 'Decrypt',
    input: (KeyId, _n, CiphertextBlob) => ({ KeyId, CiphertextBlob }),
  },
  {
    id: 'generate-data-key',
    title: 'GenerateDataKey',
    key: {},
    operation: 'GenerateDataKey',
    input: (KeyId, n) => ({ KeyId, KeySpec: 'AES_256', EncryptionContext: { app: 'bench', n: `${n}` } }),
  },
  signing('sign-p256', 'Sign, ECC_NIST_P256', 'ECC_NIST_P256', 'ECDSA_SHA_256', 'sign-ecdsa-p256'),
  signing('sign-rsa', 'Sign, RSA_2048', 'RSA_2048', 'RSASSA_PKCS1_V1_5_SHA_256', 'sign-rsa-2048'),
]

/** A kind with its key: answers requests signed now. */
interface Prepared {
  readonly kind: Kind
  readonly requests: () => readonly Uint8Array[]
}

async function prepare(service: BenchService, wanted: readonly Kind[], lacking: string[]): Promise<readonly Prepared[]> {
  const prepared: Prepared[] = []
  for (const kind of wanted) {
    try {
      const keyId = await createKey(service, kind.key)
      const ciphertext =
        kind.id === 'decrypt' ? String((await call(service, 'Encrypt', { KeyId: keyId, Plaintext: bytes32(1) }))['CiphertextBlob']) : ''
      const requests = (): readonly Uint8Array[] => requestsFor(service, kind.operation, (n) => kind.input(keyId, n, ciphertext))
      await call(service, kind.operation, kind.input(keyId, 0, ciphertext))
      prepared.push({ kind, requests })
    } catch (error) {
      if (!(error instanceof Error) || !error.message.includes('UnsupportedOperationException')) throw error
      lacking.push(`${kind.title}: this token cannot do it.`)
    }
  }
  return prepared
}

/** A machine that answers thousands of calls a second needs some hundreds of milliseconds to show how many. */
const timesOf = (plan: Plan): Plan => ({ ...plan, durationMs: Math.max(plan.durationMs, 300), warmupMs: Math.max(plan.warmupMs, 150) })

interface Found {
  readonly figures: Record<string, Figure>
  readonly views: readonly View[]
  readonly headlines: readonly string[]
}

async function run(context: PartContext): Promise<PartReport> {
  const quick = context.plan.level === 'quick'
  const lacking: string[] = []
  const own: PartContext = { ...context, plan: timesOf(context.plan) }
  const found: Found[] = [
    await sweep(own, lacking),
    await measureLayers(own, lacking),
    measureAuthorization(own),
    ...(quick ? [] : [await measureAudit(own), await measureProcesses(own, lacking)]),
  ]
  if (quick) lacking.push('Signatures with RSA, several API processes, and the audit switched off, are measured in a longer run.')
  const figures = Object.assign({}, ...found.map(({ figures }) => figures)) as Record<string, Figure>
  return {
    about: [
      'Every call is signed with SigV4, authorized by the policies of its key, done in the token and recorded in the audit trail before it is answered. ' +
        'The load comes from a process of its own with requests that were signed beforehand. It shares the processors with the service: what it uses the service lacks.',
    ],
    figures,
    controls: Object.keys(figures).filter((id) => /^bare\/\d+\/throughput$/.test(id)),
    views: found.flatMap(({ views }) => views),
    lacking,
    headlines: found.flatMap(({ headlines }) => headlines),
  }
}

// ---- calls over HTTP by connections ----

async function sweep(context: PartContext, lacking: string[]): Promise<Found> {
  const { plan, withService, means, progress } = context
  const steps = plan.level === 'quick' ? [plan.connections] : [...new Set([1, 4, 16, plan.connections, 256])].sort((a, b) => a - b)
  return withService(async (service) => {
    // A new RSA key and its few signatures take as long as all the others.
    const prepared = await prepare(service, plan.level === 'quick' ? kinds.filter(({ id }) => id !== 'sign-rsa') : kinds, lacking)
    const [first] = prepared
    if (!first) return { figures: {}, views: [], headlines: [] }
    const keyId = await createKey(service)
    const answer = JSON.stringify(await call(service, 'Encrypt', { KeyId: keyId, Plaintext: bytes32(1) }))
    const { secretAccessKey } = service.credentials
    return withBare({ secretAccessKey, answer }, async (bare) => {
      for (const { kind, requests } of prepared) {
        progress(`over HTTP: ${kind.title} gets warm`)
        await warmUp(service.endpoint, plan, { connections: plan.connections, requests: requests() })
      }
      progress('over HTTP: the bare server gets warm')
      await warmUp(bare, plan, { connections: plan.connections, requests: first.requests() })
      const sides = steps.flatMap((connections): readonly Side[] => [
        {
          name: `bare/${connections}`,
          measure: async () => numbersOf(await load(bare, plan, { connections, requests: first.requests() })),
        },
        ...prepared.map(({ kind, requests }): Side => ({
          name: `${kind.id}/${connections}`,
          async measure() {
            await service.observe()
            const before = service.cpuSeconds()
            const result = await load(service.endpoint, plan, { connections, requests: requests() })
            const after = service.cpuSeconds()
            const { eventLoopDelayP99Ms: eventLoop } = await service.observe()
            const calls = (result.perSecond * (plan.warmupMs + plan.durationMs)) / 1000
            return {
              ...numbersOf(result),
              eventLoop,
              ...(before !== undefined && after !== undefined && { cpu: ((after - before) * 1e6) / calls }),
            }
          },
        })),
      ])
      const raw = prepared.flatMap(({ kind: { id, raw: beside } }): readonly Side[] =>
        beside
          ? [
              {
                name: `raw/${id}`,
                async measure() {
                  const result = await means.rawLoop({
                    operation: beside.operation,
                    sessions: beside.sessions === 'one' ? 1 : means.sessions,
                    durationMs: plan.durationMs,
                  })
                  return result === undefined ? {} : { perSecond: result.perSecond }
                },
              },
            ]
          : [],
      )
      const rounds = await inTurns(context, [...sides, ...(plan.level === 'quick' ? [] : raw)], 'over HTTP')
      const { figures, views } = describeSweep(rounds, prepared, steps, plan)
      if (first.kind.id !== 'encrypt') return { figures, views, headlines: [] }
      if (plan.level !== 'quick') {
        const [bareRate, rate] = await beside(context, 'Encrypt beside the bare server', [
          { name: 'bare', at: bare, requests: first.requests },
          { name: 'Encrypt', at: service.endpoint, requests: first.requests },
        ])
        figures[ofBare(plan)] = ratioOf(rate, bareRate)
      }
      const ratio = figures[ofBare(plan)]
      return { figures, views, headlines: ratio ? [`Encrypt 32 B over HTTP: ${ratio.median.toFixed(2)} of bare baseline`] : [] }
    })
  })
}

/** The one ratio that everybody asks for. In all but quick runs it is of short turns, and not of the rates beside it. */
const ofBare = ({ connections }: Plan): string => `encrypt/${connections}/ofBare`

const numbersOf = ({ perSecond, p50Ms, p99Ms }: Awaited<ReturnType<typeof load>>): Readonly<Record<string, number>> => ({
  perSecond,
  p50: p50Ms,
  p99: p99Ms,
})

function describeSweep(
  rounds: ReadonlyMap<string, readonly number[]>,
  prepared: readonly Prepared[],
  steps: readonly number[],
  plan: Plan,
): Pick<Found, 'figures' | 'views'> {
  const figures: Record<string, Figure> = {}
  const put = (id: string, unit: Figure['unit'], better: Figure['better'], from: string): Figure | undefined => {
    const given = rounds.get(from)
    return given ? (figures[id] = figure(unit, better, given)) : undefined
  }
  const ids = ['bare', ...prepared.map(({ kind }) => kind.id)]
  for (const id of ids) {
    for (const connections of steps) {
      const at = `${id}/${connections}`
      const throughput = put(`${at}/throughput`, 'calls/s', 'higher', `${at}/perSecond`)
      put(`${at}/p50`, 'ms', 'lower', `${at}/p50`)
      put(`${at}/p99`, 'ms', 'lower', `${at}/p99`)
      put(`${at}/cpu`, 'µs', 'lower', `${at}/cpu`)
      put(`${at}/eventLoop`, 'ms', 'lower', `${at}/eventLoop`)
      const bare = figures[`bare/${connections}/throughput`]
      if (id !== 'bare' && throughput && bare) figures[`${at}/ofBare`] = ratioOf(throughput, bare)
    }
    const raw = put(`${id}/raw`, 'calls/s', 'higher', `raw/${id}/perSecond`)
    const throughput = figures[`${id}/${plan.connections}/throughput`]
    if (raw && throughput) figures[`${id}/ofRaw`] = ratioOf(throughput, raw)
  }
  const at = plan.connections
  const has = (id: string): { readonly figure: string } | string => (figures[id] ? { figure: id } : '–')
  const hasCpu = figures[`encrypt/${at}/cpu`] !== undefined
  const hasRaw = prepared.some(({ kind }) => figures[`${kind.id}/raw`])
  return {
    figures,
    views: [
      ...(steps.length > 1
        ? ([
            {
              kind: 'lines',
              title: 'Calls a second by connections',
              x: { label: 'connections', scale: 'log' },
              y: { label: 'calls a second' },
              lines: [{ id: 'bare', title: 'Bare server' }, ...prepared.map(({ kind }) => kind)].map(({ id, title }) => ({
                name: title,
                ...(id === 'bare' && { dashed: true }),
                points: steps.map((x) => ({ x, figure: `${id}/${x}/throughput` })),
              })),
            },
          ] as const)
        : []),
      {
        kind: 'table',
        title: `At ${at} connections`,
        about:
          'The bare server is a node:http server that parses the body and verifies one signature with a key it has. ' +
          (plan.level === 'quick'
            ? ''
            : 'Encrypt has its part of it by a measurement of its own, in which the two take short turns, since the speed of a machine may change from one second to the next. ') +
          (hasCpu ? 'CPU is what all processes of the service used for a call, those of the token among them. ' : '') +
          (hasRaw
            ? 'The token alone is a loop in C calls with nothing of ours around it: one thread for Encrypt, one for each session for signatures, with all processors to itself.'
            : ''),
        columns: ['', 'Calls', 'p50', 'p99', 'Of bare', ...(hasCpu ? ['CPU a call'] : []), ...(hasRaw ? ['Token alone', 'Of token'] : [])],
        rows: [
          [
            'Bare server',
            has(`bare/${at}/throughput`),
            has(`bare/${at}/p50`),
            has(`bare/${at}/p99`),
            '',
            ...(hasCpu ? [''] : []),
            ...(hasRaw ? ['', ''] : []),
          ],
          ...prepared.map(({ kind: { id, title } }) => [
            title,
            has(`${id}/${at}/throughput`),
            has(`${id}/${at}/p50`),
            has(`${id}/${at}/p99`),
            has(`${id}/${at}/ofBare`),
            ...(hasCpu ? [has(`${id}/${at}/cpu`)] : []),
            ...(hasRaw ? [has(`${id}/raw`), has(`${id}/ofRaw`)] : []),
          ]),
        ],
      },
      ...(steps.length > 1
        ? ([
            {
              kind: 'table',
              title: 'How long a call takes, by connections (median, 99th percentile)',
              columns: ['Connections', ...prepared.flatMap(({ kind: { title } }) => [title, 'p99'])],
              rows: steps.map((connections) => [
                String(connections),
                ...prepared.flatMap(({ kind: { id } }) => [has(`${id}/${connections}/p50`), has(`${id}/${connections}/p99`)]),
              ]),
            },
            {
              kind: 'table',
              title: 'How late the event loop of the API process was (99th percentile)',
              columns: ['Connections', ...prepared.map(({ kind: { title } }) => title)],
              rows: steps.map((connections) => [
                String(connections),
                ...prepared.map(({ kind: { id } }) => has(`${id}/${connections}/eventLoop`)),
              ]),
            },
          ] as const)
        : []),
    ],
  }
}

// ---- where the time goes ----

/** What of a call is outside of the service's own clock, and what of it nobody timed. */
const shownLayers = {
  sigv4: 'SigV4',
  authorization: 'Authorization',
  device: 'Device',
  audit: 'Audit',
  rest: 'The rest of the road',
  http: 'HTTP',
} as const
type ShownLayer = keyof typeof shownLayers
const shownLayerNames = Object.keys(shownLayers) as readonly ShownLayer[]

async function measureLayers(context: PartContext, lacking: string[]): Promise<Found> {
  const { plan, withService } = context
  const some = plan.level === 'quick' ? kinds.slice(0, 1) : kinds
  return withService(
    async (service) => {
      const prepared = await prepare(service, some, lacking)
      for (const { requests } of prepared)
        await load(service.endpoint, { warmupMs: 0, durationMs: 4 * plan.warmupMs }, { connections: 8, requests: requests() })
      const sides = prepared.map(({ kind, requests }): Side => ({
        name: kind.id,
        async measure() {
          await load(service.endpoint, { warmupMs: 0, durationMs: plan.warmupMs }, { connections: 1, requests: requests() })
          await service.observe()
          const { meanMs } = await load(service.endpoint, { ...plan, warmupMs: 0 }, { connections: 1, requests: requests() })
          return splitUp(meanMs, (await service.observe()).spans)
        },
      }))
      const rounds = await inTurns(context, sides, 'layers')
      const figures: Record<string, Figure> = {}
      for (const { kind } of prepared)
        for (const layer of shownLayerNames)
          figures[`layers/${kind.id}/${layer}`] = figure('µs', 'lower', rounds.get(`${kind.id}/${layer}`) ?? [])
      const chart: BarChart = {
        kind: 'bars',
        title: 'Where the time of one call goes',
        about:
          'One connection, so that nothing waits for anything but its own work; mean of all calls. The service times its layers itself. ' +
          'HTTP is what a caller waits beyond that: sockets, the parser, and the way there and back.',
        y: { label: 'microseconds' },
        stacked: true,
        groups: prepared.map(({ kind }) => ({
          name: kind.title,
          bars: shownLayerNames.map((layer) => ({ name: shownLayers[layer], figure: `layers/${kind.id}/${layer}` })),
        })),
      }
      return {
        figures,
        views: [
          chart,
          {
            kind: 'table',
            title: 'Where the time of one call goes, in numbers',
            columns: ['', ...shownLayerNames.map((layer) => shownLayers[layer])],
            rows: prepared.map(({ kind }) => [kind.title, ...shownLayerNames.map((layer) => ({ figure: `layers/${kind.id}/${layer}` }))]),
          },
        ],
        headlines: [],
      }
    },
    { spans: true },
  )
}

/** Microseconds by layer, of a call that took its caller so many milliseconds. */
export function splitUp(meanMs: number, spans: Readonly<Partial<Record<Layer, number>>>): Readonly<Record<ShownLayer, number>> {
  const of = (layer: Layer): number => (spans[layer] ?? 0) * 1000
  const parts = layers.filter((layer) => layer !== 'total')
  const named = parts.reduce((sum, layer) => sum + of(layer), 0)
  return {
    sigv4: of('sigv4'),
    authorization: of('authorization'),
    device: of('device'),
    audit: of('audit'),
    rest: Math.max(0, of('total') - named),
    http: Math.max(0, meanMs * 1000 - of('total')),
  }
}

// ---- authorization by itself ----

const account = '111122223333'
const user = `arn:aws:iam::${account}:user/bench`
const keyArn = `arn:aws:kms:us-east-1:${account}:key/11111111-2222-3333-4444-555555555555`

/** Statements for other actions, other callers and other contexts, and at the end the one that fits. */
function longPolicy(statements: number, kind: 'key' | 'identity'): string {
  const principal = (n: number) =>
    kind === 'key' ? { Principal: { AWS: n === 0 ? user : `arn:aws:iam::${account}:role/other-${n}` } } : {}
  const Statement = Array.from({ length: statements }, (_, index) => {
    const n = statements - 1 - index
    return {
      Sid: `s${n}`,
      Effect: 'Allow',
      ...principal(n),
      Action: n % 3 === 1 ? ['kms:Describe*', 'kms:List*'] : ['kms:Encrypt', 'kms:GenerateDataKey*'],
      Resource: kind === 'key' || n === 0 ? '*' : `arn:aws:kms:*:${account}:key/other-${n}-*`,
      ...(n > 0 && { Condition: { StringEquals: { 'kms:EncryptionContext:app': [`other-${n}`, `another-${n}`] } } }),
    }
  })
  return JSON.stringify({ Version: '2012-10-17', Statement })
}

const authorizationCalls = 20_000

function measureAuthorization({ plan, progress }: PartContext): Found {
  progress('authorization, 20 statements of a key policy and 50 of identity policies')
  const policy = compilePolicy(longPolicy(20, 'key'), 'key')
  const principal: Principal = {
    type: 'IAMUser',
    arn: user,
    accountId: account,
    principalId: 'AIDABENCH',
    accessKeyId: 'AKIABENCH',
    userName: 'bench',
    tags: new Map(),
    identityPolicies: Array.from({ length: 5 }, () => compilePolicy(longPolicy(10, 'identity'), 'identity')),
  }
  const decide = (n: number): boolean => {
    const app = `app-${n % 64}`
    return authorize({
      principal,
      action: 'kms:Encrypt',
      resource: { arn: keyArn, accountId: account, policy },
      context: (name) => (name === 'kms:encryptioncontext:app' ? app : undefined),
    }).allowed
  }
  const once = (): number => {
    const startedAt = performance.now()
    for (let n = 0; n < authorizationCalls; n++) if (!decide(n)) throw new Error('the policies of the bench allow nothing')
    return ((performance.now() - startedAt) * 1000) / authorizationCalls
  }
  once()
  const figures = { 'authorization/20+50': figure('µs', 'lower', Array.from({ length: Math.max(3, plan.rounds) }, once)) }
  return {
    figures,
    views: [
      {
        kind: 'table',
        title: 'Authorization by itself',
        about:
          'A decision over compiled policies, of which the last statement fits. The layer above has also the look-up of what is asked about.',
        columns: ['', 'A call'],
        rows: [['20 statements in the key policy, 50 in five identity policies', { figure: 'authorization/20+50' }]],
      },
    ],
    headlines: [`Authorization with 20 and 50 statements: ${figures['authorization/20+50'].median.toFixed(1)} µs a call`],
  }
}

// ---- two servers in turn ----

/** One that answers, warm. */
interface Server {
  readonly name: string
  readonly at: { readonly hostname: string; readonly port: string }
  readonly requests: () => readonly Uint8Array[]
}

/** How many calls a second each answers, measured in short turns. */
async function beside(context: PartContext, what: string, servers: readonly [Server, Server]): Promise<readonly [Figure, Figure]> {
  const { connections, ...times } = context.plan
  const short = { ...times, durationMs: Math.max(300, times.durationMs / 2) }
  const sides = servers.map(({ name, at, requests }): Side => ({
    name,
    measure: async () => numbersOf(await load(at, short, { connections, requests: requests() })),
  }))
  const rounds = await inShortTurns(context, sides, what)
  const rateOf = ({ name }: Server): Figure => figure('calls/s', 'higher', rounds.get(`${name}/perSecond`) ?? [])
  return [rateOf(servers[0]), rateOf(servers[1])]
}

/** A service, warm, to be asked for Encrypt. */
async function encrypting({ plan, progress }: PartContext, name: string, service: BenchService): Promise<Server> {
  progress(`${name} gets warm`)
  const KeyId = await createKey(service)
  const requests = (): readonly Uint8Array[] => requestsFor(service, 'Encrypt', (n) => ({ KeyId, Plaintext: bytes32(n) }))
  await warmUp(service.endpoint, plan, { connections: plan.connections, requests: requests() })
  return { name, at: service.endpoint, requests }
}

interface Wanted {
  readonly name: string
  readonly options: ServiceOptions
}

/** The same with services of their own, the first of which is started first. */
function besideServices(
  context: PartContext,
  what: string,
  first: Wanted,
  second: Wanted,
): Promise<readonly [first: Figure, second: Figure]> {
  const { withService } = context
  return withService(
    (one) =>
      withService(
        async (other) => beside(context, what, [await encrypting(context, first.name, one), await encrypting(context, second.name, other)]),
        second.options,
      ),
    first.options,
  )
}

async function measureAudit(context: PartContext): Promise<Found> {
  const { plan } = context
  const audited: Wanted = { name: 'with audit', options: { audit: 'on' } }
  const silent: Wanted = { name: 'without audit', options: { audit: 'off' } }
  // Of two services that are alike the one that was started first can be faster, or slower, by a sixth for as long as both run.
  const [onFirst, offSecond] = await besideServices(context, 'the audit', audited, silent)
  const [offFirst, onSecond] = await besideServices(context, 'the audit, the other way', silent, audited)
  const both = (a: Figure, b: Figure): Figure => figure('calls/s', 'higher', [...a.rounds, ...b.rounds])
  const [on, off] = [both(onFirst, onSecond), both(offSecond, offFirst)]
  const ratio = ratioOf(on, off)
  return {
    figures: { 'audit/on': on, 'audit/off': off, 'audit/ratio': ratio },
    views: [
      {
        kind: 'table',
        title: 'What the audit costs',
        about:
          `Encrypt at ${plan.connections} connections. Without a record is a switch of the bench: the service has no such setting. Half of the rounds are of services of ` +
          'which the one with the audit was started first, half of others, where it was the other one: which comes first can make a sixth by itself.',
        columns: ['A record, durable before the answer', 'No record', 'With ÷ without'],
        rows: [[{ figure: 'audit/on' }, { figure: 'audit/off' }, { figure: 'audit/ratio' }]],
      },
    ],
    headlines: [`Durable audit: ${ratio.median.toFixed(2)} of the throughput without`],
  }
}

async function measureProcesses(context: PartContext, lacking: string[]): Promise<Found> {
  const many = context.means.manyProcesses
  try {
    return await measureSeveral(context, many)
  } catch (error) {
    // Not every device takes logins from several processes; SoftHSM's do not always see what others made.
    lacking.push(`Several API processes: ${error instanceof Error ? error.message : String(error)}.`)
    return { figures: {}, views: [], headlines: [] }
  }
}

async function measureSeveral(context: PartContext, many: number): Promise<Found> {
  const { plan, withService } = context
  const steps = [...new Set([1, 16, plan.connections, 256])].sort((a, b) => a - b)
  const figures: Record<string, Figure> = {}
  await withService((single) =>
    withService(
      async (multiple) => {
        const [one, several] = [await encrypting(context, 'one process', single), await encrypting(context, `${many} processes`, multiple)]
        for (const connections of steps) {
          const at = { ...context, plan: { ...plan, connections } }
          const [oneRate, severalRate] = await beside(at, `API processes, ${connections} connections`, [one, several])
          Object.assign(figures, {
            [`processes/${connections}/1`]: oneRate,
            [`processes/${connections}/${many}`]: severalRate,
            [`processes/${connections}/ratio`]: ratioOf(severalRate, oneRate),
          })
        }
      },
      { processes: many },
    ),
  )
  return {
    figures,
    views: [
      {
        kind: 'table',
        title: 'Several API processes',
        about: 'Encrypt, on the same listener. Each process has its own way to the device.',
        columns: ['Connections', 'One process', `${many} processes`, 'Ratio'],
        rows: steps.map((connections) => [
          String(connections),
          ...['1', String(many), 'ratio'].map((what) => ({ figure: `processes/${connections}/${what}` })),
        ]),
      },
    ],
    headlines: [],
  }
}

export const servicePart: Part = { name: 'service', title: 'The service', run }
