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
  type View,
} from './part.ts'

const few = 10
const madeAtOnce = 16

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

interface Growth {
  readonly id: string
  readonly title: string
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
    title: 'Keys',
    most: ({ plan, means }) => (means.maxObjects === null ? plan.keys : Math.min(plan.keys, Math.floor(means.maxObjects / 4))),
    begin: (subject) => addKeys(subject, few),
    grow: (subject, size, before) => addKeys(subject, size - before),
    startsAgain: true,
  },
  {
    id: 'aliases',
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
    title: 'Grants (the call is allowed by one)',
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
    title: 'Audit records',
    most: ({ plan }) => plan.grants,
    begin: (subject) => addKeys(subject, few),
    async grow(subject, size, before) {
      for (let missing = size - before; missing > 0;) {
        const { answered } = await load(
          subject.service.endpoint,
          { warmupMs: 0, durationMs: 500 },
          { connections: 64, requests: requestsTo(subject) },
        )
        missing -= answered
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
    lacking.push(
      `Up to ${plan.keys} keys and ${plan.grants} grants: with --full there are 10,000 and a million. On SoftHSM2 a new key takes the longer the more there are.`,
    )
  }
  const flat = figures[`keys/${growths[0]?.most(context)}/ratio`]
  return {
    about: [
      'Encrypt by two services in turn: one that stays small, with ten keys, and one that grows. What counts is the ratio: 1 is a call that costs the same. ' +
        'Keys are made by CreateKey, one object in the token each; grants are written into the database.',
    ],
    figures,
    views,
    lacking,
    headlines: flat ? [`Encrypt with ${growths[0]?.most(context)} keys: ${flat.median.toFixed(2)} of the rate with 10`] : [],
  }
}

async function measureGrowth(
  context: PartContext,
  { id, title, begin, grow, startsAgain }: Growth,
  sizes: readonly number[],
  figures: Record<FigureId, Figure>,
): Promise<readonly View[]> {
  const { plan, withService, progress } = context
  const { connections } = plan
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
        const side = (name: string, subject: Subject) => ({
          name,
          async measure() {
            const { perSecond, p99Ms } = await load(subject.service.endpoint, plan, { connections, requests: requestsTo(subject) })
            return { perSecond, p99: p99Ms }
          },
        })
        const rounds = await inTurns(context, [side('few', small), side('many', large)], `${title}: ${size}`)
        const many = figure('calls/s', 'higher', rounds.get('many/perSecond') ?? [])
        figures[`${id}/${size}/throughput`] = many
        figures[`${id}/${size}/p99`] = figure('ms', 'lower', rounds.get('many/p99') ?? [])
        figures[`${id}/${size}/ratio`] = ratioOf(many, figure('calls/s', 'higher', rounds.get('few/perSecond') ?? []))
        const starts: number[] = []
        for (let round = 0; round < Math.min(plan.rounds, 3); round++) {
          progress(`${title}: a start with ${size}`)
          const { tookMs, endpoint } = await large.service.restart()
          large.service = { ...large.service, endpoint }
          starts.push(tookMs)
        }
        figures[`${id}/${size}/start`] = figure('ms', 'lower', starts)
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
      columns: ['How many', 'Encrypt', 'p99', 'Many ÷ few', 'Start', ...making],
      rows: sizes.map((size) => [
        size.toLocaleString('en-GB'),
        ...['throughput', 'p99', 'ratio', 'start'].map((what) => ({ figure: `${id}/${size}/${what}` })),
        ...(startsAgain ? [figures[`${id}/${size}/making`] ? { figure: `${id}/${size}/making` } : ''] : []),
      ]),
    },
  ]
}

export const growthPart: Part = { name: 'growth', title: 'Growth', run }
