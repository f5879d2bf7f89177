/**
 * Does a call cost the same when there is much? Encrypt by a service that grows (keys, aliases, grants, audit records), in turn with one that stays small;
 * and how long the grown one takes to start.
 */

import { call, createKey, createUser, load, requestsFor } from './load.ts'
import {
  figure,
  inTurns,
  ratioOf,
  type BenchService,
  type Figure,
  type FigureId,
  type Part,
  type PartContext,
  type PartReport,
  type Plan,
  type Side,
  type View,
} from './part.ts'

const few = 10
const madeAtOnce = 16
/** Items of a listed page: as many as there are where there are few. */
const pageOf = few
/** So far into a listing pages are asked for. */
const pagesWalked = 50

/** 10, 100, 1000 … and the last. */
export function sizesTo(most: number): readonly number[] {
  const sizes: number[] = []
  for (let size = few; size < most; size *= 10) sizes.push(size)
  return most < few ? [] : [...sizes, most]
}

/** Does `make` so often, some at once. */
async function times(count: number, make: (n: number) => Promise<unknown>): Promise<void> {
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < count) await make(next++)
  }
  await Promise.all(Array.from({ length: Math.min(count, madeAtOnce) }, worker))
}

/** A service with keys, and what is sent to it. It may be another one after a start. */
interface Subject {
  service: BenchService
  readonly keyIds: string[]
  /** Who sends them, where it is not the root. */
  as?: BenchService
  /** How many of its aliases there are; none, and keys are named by their ids. */
  aliases: number
}

const open = (service: BenchService): Subject => ({ service, keyIds: [], aliases: 0 })

async function addKeys({ service, keyIds }: Subject, count: number): Promise<void> {
  await times(count, async () => keyIds.push(await createKey(service)))
}

/** Requests on a few of its keys or aliases, picked all over. */
function requestsTo(subject: Subject): readonly Uint8Array[] {
  const { service, as = service, keyIds, aliases } = subject
  const names = aliases > 0 ? Array.from({ length: aliases }, (_, n) => aliasOf(n)) : keyIds
  const used = Array.from({ length: few }, (_, n) => names[Math.floor((n * names.length) / few)])
  return requestsFor({ ...as, endpoint: service.endpoint }, 'Encrypt', (n) => ({
    KeyId: used[n % few],
    Plaintext: Buffer.alloc(32, n).toString('base64'),
  }))
}

const aliasOf = (n: number): string => `alias/bench-${n}`

/** A listing by pages, which must cost a page. */
interface Listing {
  readonly operation: string
  /** Of a whole page, at AWS. */
  readonly largest: number
  readonly input: (subject: Subject) => object
  /** Gives few as many as a page has, where they have fewer. */
  readonly fill?: (few: Subject, context: PartContext) => void
}

interface Growth {
  readonly id: string
  readonly noun: string
  readonly title: string
  readonly listing?: Listing
  /** How far it goes, by the plan. */
  readonly most: (context: PartContext) => number
  /** Both begin with this. */
  readonly begin: (subject: Subject) => Promise<void>
  /** Makes it as large as that. */
  readonly grow: (subject: Subject, size: number, before: number, context: PartContext) => Promise<void>
  readonly startsAgain?: boolean
}

const growths: readonly Growth[] = [
  {
    id: 'keys',
    noun: 'keys',
    title: 'Keys',
    listing: { operation: 'ListKeys', largest: 1000, input: () => ({}) },
    most: ({ plan, means }) => (means.maxObjects === null ? plan.keys : Math.min(plan.keys, Math.floor(means.maxObjects / 4))),
    begin: (subject) => addKeys(subject, few),
    grow: (subject, size, before) => addKeys(subject, size - before),
    startsAgain: true,
  },
  {
    id: 'aliases',
    noun: 'aliases',
    title: 'Aliases',
    most: ({ plan }) => Math.min(plan.grants, 2000),
    async begin(subject) {
      await addKeys(subject, few * 5)
      await growAliases(subject, few, 0)
    },
    grow: growAliases,
  },
  {
    id: 'grants',
    noun: 'grants',
    title: 'Grants (the call is allowed by one)',
    listing: {
      operation: 'ListGrants',
      largest: 100,
      input: ({ keyIds }) => ({ KeyId: keyIds[0] }),
      fill: ({ service, keyIds }, { means }) => means.fillGrants(service.database, pageOf * keyIds.length, 0),
    },
    most: ({ plan }) => plan.grants,
    async begin(subject) {
      await addKeys(subject, few)
      const { arn, as } = await createUser(subject.service, 'bench')
      subject.as = as
      await times(few, (n) =>
        call(subject.service, 'CreateGrant', { KeyId: subject.keyIds[n], GranteePrincipal: arn, Operations: ['Encrypt'] }),
      )
    },
    async grow({ service }, size, before, { means }) {
      // Ten of them are those of the calls.
      means.fillGrants(service.database, size - before, before - few)
    },
  },
  {
    id: 'audit',
    noun: 'audit records',
    title: 'Audit records',
    // Each is of a call that was made.
    most: ({ plan }) => Math.min(plan.grants, 200_000),
    begin: (subject) => addKeys(subject, few),
    async grow(subject, size, before) {
      let durationMs = 500
      for (let missing = size - before; missing > 0;) {
        const order = { connections: 64, requests: requestsTo(subject) }
        const { answered, perSecond } = await load(subject.service.endpoint, { warmupMs: 0, durationMs }, order)
        missing -= answered
        durationMs = Math.min(10_000, Math.max(500, (missing * 1000) / perSecond))
      }
    },
  },
]

async function growAliases(subject: Subject, size: number, before: number): Promise<void> {
  const { service, keyIds } = subject
  await times(size - before, (n) =>
    call(service, 'CreateAlias', { AliasName: aliasOf(before + n), TargetKeyId: keyIds[(before + n) % keyIds.length] }),
  )
  subject.aliases = size
}

async function run(context: PartContext): Promise<PartReport> {
  const { plan, means } = context
  const figures: Record<FigureId, Figure> = {}
  const views: View[] = []
  const lacking: string[] = []
  for (const growth of growths) {
    const most = growth.most(context)
    const sizes = sizesTo(most)
    if (sizes.length < 2) {
      lacking.push(`${growth.title}: not in a run of this length; --keys and --grants say how many there are to be.`)
      continue
    }
    if (growth.id === 'keys' && most < plan.keys)
      lacking.push(`Keys: no more than ${most}, a quarter of the ${means.maxObjects} objects that this token holds.`)
    views.push(...(await measureGrowth(context, growth, sizes, figures)))
  }
  if (plan.level !== 'full' && plan.keys > 0) {
    lacking.push(`Up to ${plan.keys} keys and ${plan.grants} grants: with --full, or --keys and --grants, there are more.`)
  }
  const headlines = growths.flatMap((growth) => {
    const most = growth.most(context)
    const flat = figures[`${growth.id}/${most}/ratio`]
    return flat ? [`Encrypt with ${most.toLocaleString('en-GB')} ${growth.noun}: ${flat.median.toFixed(2)} of the rate with ${few}`] : []
  })
  const start = figures[`keys/${growths[0]?.most(context)}/start`]
  if (start) headlines.push(`A start with ${growths[0]?.most(context).toLocaleString('en-GB')} keys: ${(start.median / 1000).toFixed(1)} s`)
  return {
    about: [
      'Encrypt by two services in turn: one that stays small, with ten keys, and one that grows, each with its own token where that is SoftHSM2. What counts ' +
        'is the ratio: 1 is a call that costs the same. Keys are made by CreateKey, one object in the token each; grants are written into the database.',
    ],
    figures,
    views,
    lacking,
    headlines,
  }
}

function sideOf(plan: Plan, name: string, subject: Subject): Side {
  return {
    name,
    async measure() {
      const { service } = subject
      const { connections } = plan
      const before = service.cpuSeconds()
      const { perSecond, p99Ms } = await load(service.endpoint, plan, { connections, requests: requestsTo(subject) })
      const after = service.cpuSeconds()
      const calls = (perSecond * (plan.warmupMs + plan.durationMs)) / 1000
      const cpu = before !== undefined && after !== undefined ? { cpu: ((after - before) * 1e6) / calls } : {}
      return { perSecond, p99: p99Ms, ...cpu }
    },
  }
}

/** Ends its processes and starts them again; answers how many ms it took. */
async function startAgain(subject: Subject): Promise<number> {
  const { tookMs, endpoint } = await subject.service.restart()
  subject.service = { ...subject.service, endpoint }
  return tookMs
}

/** What first calls take is the compiler's. */
async function warmUp({ warmupMs, connections }: Plan, subject: Subject): Promise<void> {
  await load(subject.service.endpoint, { warmupMs: 0, durationMs: 8 * warmupMs }, { connections, requests: requestsTo(subject) })
}

async function measureGrowth(
  context: PartContext,
  { id, title, listing, begin, grow, startsAgain }: Growth,
  sizes: readonly number[],
  figures: Record<FigureId, Figure>,
): Promise<readonly View[]> {
  const { plan, withService, progress } = context
  await withService((first) =>
    withService(async (second) => {
      const [small, large] = [open(first), open(second)]
      await begin(small)
      await begin(large)
      let before = few
      for (const size of sizes) {
        progress(`${title}: making ${size}`)
        const startedAt = performance.now()
        if (size > before) await grow(large, size, before, context)
        if (size > before && startsAgain)
          figures[`${id}/${size}/making`] = figure('calls/s', 'higher', [((size - before) * 1000) / (performance.now() - startedAt)])
        before = size
        const starts: number[] = []
        // Where it begins and ends is what counts.
        const often = size === few || size === sizes.at(-1) ? Math.min(plan.rounds, 3) : 1
        for (let round = 0; round < often; round++) {
          progress(`${title}: a start with ${size}`)
          starts.push(await startAgain(large))
        }
        // Both are measured as old as each other: a process has to have run for a while before it is as fast as it can be.
        await startAgain(small)
        figures[`${id}/${size}/start`] = figure('ms', 'lower', starts)
        for (const subject of [small, large]) await warmUp(plan, subject)
        const rounds = await inTurns(context, [sideOf(plan, 'few', small), sideOf(plan, 'many', large)], `${title}: ${size}`)
        const many = figure('calls/s', 'higher', rounds.get('many/perSecond') ?? [])
        figures[`${id}/${size}/throughput`] = many
        figures[`${id}/${size}/p99`] = figure('ms', 'lower', rounds.get('many/p99') ?? [])
        figures[`${id}/${size}/ratio`] = ratioOf(many, figure('calls/s', 'higher', rounds.get('few/perSecond') ?? []))
        const [cpuOfMany, cpuOfFew] = [rounds.get('many/cpu'), rounds.get('few/cpu')]
        if (cpuOfMany && cpuOfFew) {
          const cpu = figure('µs', 'lower', cpuOfMany)
          figures[`${id}/${size}/cpu`] = cpu
          figures[`${id}/${size}/cpu-ratio`] = ratioOf(cpu, figure('µs', 'lower', cpuOfFew), 'lower')
        }
        if (listing && size === sizes.at(-1)) Object.assign(figures, await measureListing(context, id, listing, small, large))
      }
    }),
  )
  const making = startsAgain ? ['New keys'] : []
  return [
    {
      kind: 'lines',
      title: `${title}: calls a second, many beside few`,
      about: 'The service that grew, as a share of the one that stayed small. A level line is what one wants to see.',
      x: { label: title.toLowerCase().replace(/ \(.*/, ''), scale: 'log' },
      y: { label: 'share of the rate with few' },
      lines: [{ name: 'many ÷ few', points: sizes.map((x) => ({ x, figure: `${id}/${x}/ratio` })) }],
    },
    {
      kind: 'table',
      title: `${title}, in numbers`,
      about:
        'The processor time is of all threads of the service and of its agent, and says more than the rate where the machine does other work.',
      columns: ['How many', 'Encrypt', 'p99', 'Many ÷ few', 'CPU a call', 'Many ÷ few', 'Start', ...making],
      rows: sizes.map((size) => [
        size.toLocaleString('en-GB'),
        ...['throughput', 'p99', 'ratio', 'cpu', 'cpu-ratio', 'start', ...(startsAgain ? ['making'] : [])].map((what) => {
          const name = `${id}/${size}/${what}`
          return figures[name] ? { figure: name } : '–'
        }),
      ]),
    },
    ...(listing
      ? [
          {
            kind: 'table' as const,
            title: `${title}: a page of a listing`,
            about: 'The first pages where there are few, pages all over the listing where there are many.',
            columns: [`${pageOf} items`, 'Few', 'Many', 'Many ÷ few'],
            rows: [[listing.operation, ...['few', 'many', 'ratio'].map((what) => ({ figure: `${id}/list/${what}` }))]],
          },
        ]
      : []),
  ]
}

/** Where pages of a listing begin, from its start on. */
async function markersOf({ service }: Subject, { operation, largest }: Listing, input: object): Promise<readonly string[]> {
  const markers: string[] = []
  while (markers.length < pagesWalked) {
    const answer = await call(service, operation, { ...input, Limit: largest, ...(markers.length > 0 && { Marker: markers.at(-1) }) })
    if (typeof answer['NextMarker'] !== 'string') break
    markers.push(answer['NextMarker'])
  }
  return markers
}

/** The same page of few and of many, in turn. */
async function measureListing(
  context: PartContext,
  id: string,
  listing: Listing,
  small: Subject,
  large: Subject,
): Promise<Readonly<Record<FigureId, Figure>>> {
  const { plan, progress } = context
  const { connections } = plan
  const side = async (name: string, subject: Subject): Promise<Side> => {
    progress(`${listing.operation}: ${name}`)
    const input = listing.input(subject)
    // A page that the last marker begins may not be whole.
    const markers = (await markersOf(subject, listing, input)).slice(0, -1)
    const { service } = subject
    return {
      name,
      async measure() {
        const requests = requestsFor(service, listing.operation, (n) => ({
          ...input,
          Limit: pageOf,
          ...(markers.length > 0 && { Marker: markers[n % markers.length] }),
        }))
        const { perSecond } = await load(service.endpoint, plan, { connections, requests })
        return { perSecond }
      },
    }
  }
  listing.fill?.(small, context)
  const rounds = await inTurns(context, [await side('few', small), await side('many', large)], listing.operation)
  const [few, many] = ['few', 'many'].map((name) => figure('calls/s', 'higher', rounds.get(`${name}/perSecond`) ?? []))
  if (!few || !many) throw new Error('two sides were measured')
  return { [`${id}/list/few`]: few, [`${id}/list/many`]: many, [`${id}/list/ratio`]: ratioOf(many, few) }
}

export const growthPart: Part = { name: 'growth', title: 'Growth', run }
