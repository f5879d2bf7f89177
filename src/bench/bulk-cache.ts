/**
 * What a cache of data keys saves the device: many messages under data keys of a running service, one after the other, with `openDataKeyCache` and
 * without. How often the service was called and how often it asked the device, the service itself counts (/metrics).
 */

import type { BulkPool } from '../bulk/bulk-pool.ts'
import type { Keyring } from '../bulk/keyring.ts'
import { decrypt, encrypt } from '../bulk/stream.ts'
import { openDataKeyCache, type CacheLimits } from '../envelope/cache.ts'
import { kmsKeyring } from '../envelope/kms-keyring.ts'
import { openKmsClients } from '../envelope/kms.ts'
import { cellsOf, context, directions, mebi, setRatio, showLength, type Figures } from './bulk-kit.ts'
import { createKey } from './load.ts'
import { figure, inTurns, untilSteady, type BenchService, type Figure, type PartContext, type Plan, type Side, type Table } from './part.ts'
import { showNumber } from './text.ts'

/** An age and an amount of bytes that no run reaches: the number of messages is the limit. */
const limits: CacheLimits = { maxAgeMs: 600_000, maxMessages: 100, maxBytes: 2 ** 40, capacity: 10 }
const messageLengths = [65_536, mebi] as const

/** Some data keys' worth of messages: two in a standard run, six in a full one. */
const messagesOf = ({ durationMs }: Plan): number => limits.maxMessages * Math.max(2, Math.round(durationMs / 500))

const kinds = { plain: 'no cache', cached: 'a cache' } as const
type Kind = keyof typeof kinds
const kindNames = Object.keys(kinds) as readonly Kind[]
type Direction = (typeof directions)[number]

const at = (bytes: number, way: Direction, kind: Kind): string => `cache/${bytes}/${way}/${kind}`

/** What one side of a round came to. */
interface Done {
  readonly bytes: number
  readonly messages: number
  readonly ms: number
  readonly kmsCalls: number
  readonly deviceCalls: number
}

/** What a service counted up to now. */
interface Counted {
  readonly kms: number
  readonly device: number
}

async function count(service: BenchService): Promise<Counted> {
  const page = await service.metrics()
  return {
    kms: totalOf(page, 'holdfast_calls_total', /operation="(?:GenerateDataKey|Decrypt)"/),
    device: totalOf(page, 'holdfast_token_calls_total', /operation="(?:wrap|unwrap|random)"/),
  }
}

/** The sum of a metric over those label sets. Nothing is said of what has not happened yet. */
export function totalOf(page: string, name: string, labels: RegExp): number {
  let total = 0
  for (const line of page.split('\n')) {
    const [, itsLabels, value] = /^([^{\s]+\{[^}]*\}) (\S+)$/.exec(line) ?? []
    if (itsLabels?.startsWith(`${name}{`) && labels.test(itsLabels)) total += Number(value)
  }
  return total
}

interface Subject {
  readonly service: BenchService
  readonly pool: BulkPool
  /** Each use is a call of the service. */
  readonly keyring: Keyring
  readonly messages: number
}

/** Runs `use` once for each message, with the keyring for it, and asks the service what that took. */
async function through(
  { service, keyring, messages }: Subject,
  bytes: number,
  kind: Kind,
  use: (keyring: Keyring, n: number) => Promise<unknown>,
): Promise<Done> {
  const cache = kind === 'cached' ? openDataKeyCache(limits) : undefined
  const before = await count(service)
  const begin = performance.now()
  try {
    for (let n = 0; n < messages; n++) await use(cache?.wrap(keyring, { keySet: 'bench', plaintextBytes: bytes }) ?? keyring, n)
  } finally {
    cache?.close()
  }
  const ms = performance.now() - begin
  const after = await count(service)
  return { bytes: messages * bytes, messages, ms, kmsCalls: after.kms - before.kms, deviceCalls: after.device - before.device }
}

function numbersOf({ bytes, messages, ms, kmsCalls, deviceCalls }: Done): Readonly<Record<string, number>> {
  // The cache is empty at first: without a call, what was counted is not what was done.
  if (kmsCalls === 0 || deviceCalls === 0)
    throw new Error(`${messages} messages, and the service counted ${kmsCalls} calls and ${deviceCalls} of the device`)
  return {
    messages: (messages * 1000) / ms,
    'kms-calls': kmsCalls,
    'hsm-calls': deviceCalls,
    'per-kms-call': bytes / 1e9 / kmsCalls,
    'per-hsm-call': bytes / 1e9 / deviceCalls,
  }
}

const units: Readonly<Record<string, readonly [Figure['unit'], Figure['better']]>> = {
  messages: ['calls/s', 'higher'],
  'kms-calls': ['calls', 'lower'],
  'hsm-calls': ['calls', 'lower'],
  'per-kms-call': ['GB', 'higher'],
  'per-hsm-call': ['GB', 'higher'],
}

/** Both directions of messages of one length, with a cache and without. */
async function sidesOf(subject: Subject, bytes: number): Promise<readonly Side[]> {
  const { pool, keyring, messages } = subject
  const source = Buffer.alloc(bytes, 'what is encrypted ')
  // As they would be written with the cache: so many under one data key. One of each is enough to decrypt, again and again.
  const written: Buffer[] = []
  for (let n = 0; n < messages; n += limits.maxMessages) written.push(await encrypt(source, { keyring, pool, context }))
  const uses: Readonly<Record<Direction, (own: Keyring, n: number) => Promise<void>>> = {
    async encrypt(own) {
      await encrypt(source, { keyring: own, pool, context })
    },
    async decrypt(own, n) {
      const message = written[Math.floor(n / limits.maxMessages)]
      if (!message || (await decrypt(message, { keyring: own, pool, context })).plaintext.length !== bytes)
        throw new Error('a message did not come back as it was')
    },
  }
  return directions.flatMap((way) =>
    kindNames.map((kind) => ({
      name: at(bytes, way, kind),
      measure: async () => numbersOf(await through(subject, bytes, kind, uses[way])),
    })),
  )
}

/** Calls until the service gets no faster: a message without a cache is as fast as it is. */
async function warmUp({ keyring, pool }: Subject, { warmupMs }: Plan): Promise<void> {
  const source = Buffer.alloc(1024)
  await untilSteady(
    async (forMs) => {
      let done = 0
      for (const until = performance.now() + forMs; performance.now() < until; done++)
        await decrypt(await encrypt(source, { keyring, pool, context }), { keyring, pool, context })
      return (done * 1000) / forMs
    },
    { windowMs: 2 * warmupMs, longestMs: 16 * warmupMs },
  )
}

/** Undefined where the token can make none. */
async function newKey(service: BenchService): Promise<string | undefined> {
  try {
    return await createKey(service)
  } catch (error) {
    if (error instanceof Error && error.message.includes('UnsupportedOperationException')) return undefined
    throw error
  }
}

export async function measureCache(part: PartContext, pool: BulkPool, figures: Figures, lacking: string[]): Promise<void> {
  await part.withService(async (service) => {
    const { endpoint, region, credentials, now } = service
    const keyId = await newKey(service)
    if (keyId === undefined) {
      lacking.push('What a cache of data keys saves the device: this token can make no key for them.')
      return
    }
    const clients = openKmsClients({ endpoint: endpoint.href, credentials, now })
    try {
      const keyring = kmsKeyring({ kms: clients.of, region, keys: [keyId] })
      const subject: Subject = { service, pool, keyring, messages: messagesOf(part.plan) }
      part.progress('bulk encryption with data keys of the service: it gets warm')
      await warmUp(subject, part.plan)
      const sides = (await Promise.all(messageLengths.map((bytes) => sidesOf(subject, bytes)))).flat()
      for (const [id, rounds] of await inTurns(part, sides, 'bulk encryption with data keys of the service')) {
        const [unit, better] = units[id.slice(id.lastIndexOf('/') + 1)] ?? ['count', 'none']
        figures[id] = figure(unit, better, rounds)
      }
    } finally {
      clients.close()
    }
  })
  for (const bytes of messageLengths)
    for (const way of directions)
      for (const what of ['messages', 'per-hsm-call'])
        setRatio(
          figures,
          `cache/${bytes}/${way}/${what}-by-plain`,
          `${at(bytes, way, 'cached')}/${what}`,
          `${at(bytes, way, 'plain')}/${what}`,
        )
}

const isMeasured = (figures: Readonly<Figures>): boolean => `${at(mebi, 'encrypt', 'cached')}/per-hsm-call` in figures

/** None where it was not measured. */
export function cacheViews(figures: Readonly<Figures>, plan: Plan): readonly Table[] {
  if (!isMeasured(figures)) return []
  const cell = cellsOf(figures)
  const table: Table = {
    kind: 'table',
    title: 'What a cache of data keys saves the HSM',
    about:
      `${messagesOf(plan)} messages, one after the other, whose data keys come from the service over HTTP. With the cache a data key serves ${limits.maxMessages} messages, and then another one is asked for; each round begins with an empty cache. ` +
      'HSM calls are what the service asked of the device (it fetches random bytes for many data keys at a time), as it counts them itself.',
    columns: ['', 'Messages', 'Calls of the service', 'HSM calls', 'Per HSM call'],
    rows: messageLengths.flatMap((bytes) =>
      directions.flatMap((way) =>
        kindNames.map((kind) => [
          `${showLength(bytes)}, ${way}, ${kinds[kind]}`,
          ...['messages', 'kms-calls', 'hsm-calls', 'per-hsm-call'].map((what) => cell(`${at(bytes, way, kind)}/${what}`)),
        ]),
      ),
    ),
  }
  return [table]
}

/** In a sentence; none where it was not measured. */
export function cacheHeadlines(figures: Readonly<Figures>): readonly string[] {
  const of = (way: Direction, kind: Kind): string => showNumber(figures[`${at(mebi, way, kind)}/per-hsm-call`]?.median ?? 0)
  if (!isMeasured(figures)) return []
  return [
    `Bulk, messages of 1 MiB, encrypting/decrypting: ${of('encrypt', 'plain')}/${of('decrypt', 'plain')} GB per HSM call without a cache of data keys, ${of('encrypt', 'cached')}/${of('decrypt', 'cached')} GB with one that uses a data key for ${limits.maxMessages} messages`,
  ]
}
