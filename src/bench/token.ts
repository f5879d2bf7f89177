/**
 * What keeping keys in this token costs against software: every operation by the token, through the device layer that the service uses, and by
 * node:crypto, at 1, 2, 4 … callers up to the token's sessions, and at many more, which is when it gives most.
 */

import { constants, createPublicKey, publicEncrypt, randomBytes } from 'node:crypto'
import { cpus } from 'node:os'
import type { ChildProcess } from 'node:child_process'
import type { Capabilities, Token, TokenAlgorithm, TokenKeyKind, WrapScheme } from '../hsm/token.ts'
import { ask, endChild, startChild } from './child.ts'
import { Durations } from './histogram.ts'
import {
  figure,
  inTurns,
  ratioOf,
  type BenchToken,
  type Figure,
  type LineChart,
  type Part,
  type PartContext,
  type PartReport,
  type Side,
  type Table,
} from './part.ts'
import type { SoftwareOrder, SoftwareResult } from './software-process.ts'
import type { SoftwareOperation } from './software.ts'
import { showNumber } from './text.ts'

/** One operation of the token. */
interface Operation {
  readonly id: string
  /** What does the same in software. */
  readonly software: SoftwareOperation
  readonly title: string
  readonly kind: TokenKeyKind | undefined
  readonly algorithm?: TokenAlgorithm
  /** What each call makes anew. */
  readonly makes?: TokenKeyKind
  /** Only with wrapping keys of such schemes. */
  readonly schemes?: readonly WrapScheme[]
  /** Readies what calls need, with a key of `kind`, and answers one call. */
  readonly open: (token: BenchToken, ckaId: string) => Promise<Call>
}

/** An operation with the numbers of callers at which it was measured. */
type Measured = Operation & { readonly steps: readonly number[] }

/** Its figures with so many callers. The many go by one name: how many they are depends on the device's sessions, and devices are compared. */
const idAt = ({ id, steps }: Measured, callers: number): string => `${id}/${callers > 1 && callers === steps.at(-1) ? 'most' : callers}`

interface Call {
  once(): Promise<unknown>
  /** What must be undone after each call, outside the time that is measured. Answers come in the order of calls. */
  readonly after?: (answer: unknown) => Promise<void>
}

const aad = Buffer.alloc(96, 1)
const digest = Buffer.alloc(32, 3)
/** More than the device layer fetches ahead: each call reaches the token. */
export const unbatchedBytes = 32_768
const gcmSchemes: readonly WrapScheme[] = ['gcm-iv-in', 'gcm-iv-back', 'gcm-iv-tail']

const wrapping = (id: SoftwareOperation, title: string, schemes: readonly WrapScheme[], open: Operation['open']): Operation => ({
  id,
  software: id,
  title,
  kind: 'wrapping',
  schemes,
  open,
})
const wrap: Operation['open'] = async ({ token }, ckaId) => ({
  once: async () => token.wrap(ckaId, aad, await token.random(32)),
})
const unwrap: Operation['open'] = async ({ token }, ckaId) => {
  const { scheme, body } = await token.wrap(ckaId, aad, randomBytes(32))
  return { once: () => token.unwrap(ckaId, scheme, aad, body) }
}
const encrypt =
  (bytes: number): Operation['open'] =>
  async ({ token }, ckaId) => {
    const plaintext = Buffer.alloc(bytes, 2)
    return { once: () => token.wrap(ckaId, aad, plaintext) }
  }
const signing = (
  id: SoftwareOperation,
  title: string,
  kind: TokenKeyKind,
  algorithm: Parameters<Token['signMessage']>[1],
  bytes = 32,
): Operation => ({
  id,
  software: id,
  title,
  kind,
  algorithm,
  open: async ({ token }, ckaId) => {
    const digested = bytes === digest.length ? digest : Buffer.alloc(bytes, 3)
    return { once: () => token.signMessage(ckaId, algorithm, 'digest', digested) }
  },
})
const making = (id: SoftwareOperation, title: string, kind: TokenKeyKind): Operation => ({
  id,
  software: id,
  title,
  kind: undefined,
  makes: kind,
  open: async (bench) => ({
    async once() {
      const key = bench.newKey()
      await bench.token.generateKey({ kind, ...key })
      return key
    },
    async after(key) {
      const { ckaId, label } = key as ReturnType<BenchToken['newKey']>
      await bench.token.destroyKey(ckaId, label)
    },
  }),
})
const random = (id: SoftwareOperation, title: string, bytes: number): Operation => ({
  id,
  software: id,
  title,
  kind: undefined,
  open: async ({ token }) => ({ once: () => token.random(bytes) }),
})

/** The table. */
const operations: readonly Operation[] = [
  wrapping('wrap-gcm', 'Data key, new and wrapped (AES-GCM)', gcmSchemes, wrap),
  wrapping('unwrap-gcm', 'Data key, unwrapped (AES-GCM)', gcmSchemes, unwrap),
  wrapping('wrap-cbc-hmac', 'Data key, new and wrapped (AES-CBC and HMAC)', ['cbc-hmac'], wrap),
  wrapping('unwrap-cbc-hmac', 'Data key, unwrapped (AES-CBC and HMAC)', ['cbc-hmac'], unwrap),
  wrapping('wrap-rsa-oaep', 'Data key, new and wrapped (RSA-OAEP)', ['rsa-oaep'], wrap),
  wrapping('unwrap-rsa-oaep', 'Data key, unwrapped (RSA-OAEP)', ['rsa-oaep'], unwrap),
  wrapping('gcm-32', 'AES-256-GCM, 32 B', gcmSchemes, encrypt(32)),
  wrapping('gcm-4k', 'AES-256-GCM, 4 KiB', gcmSchemes, encrypt(4096)),
  {
    id: 'hmac-256',
    software: 'hmac-256',
    title: 'HMAC-SHA-256, 32 B',
    kind: 'HMAC_256 GENERATE_VERIFY_MAC',
    algorithm: 'HMAC_SHA_256',
    open: async ({ token }, ckaId) => ({ once: () => token.mac(ckaId, 'HMAC_SHA_256', digest) }),
  },
  signing('ecdsa-p256', 'ECDSA P-256, signature', 'ECC_NIST_P256 SIGN_VERIFY', 'ECDSA_SHA_256'),
  signing('ecdsa-p384', 'ECDSA P-384, signature', 'ECC_NIST_P384 SIGN_VERIFY', 'ECDSA_SHA_384', 48),
  signing('rsa-2048', 'RSA-2048, signature', 'RSA_2048 SIGN_VERIFY', 'RSASSA_PKCS1_V1_5_SHA_256'),
  signing('rsa-3072', 'RSA-3072, signature', 'RSA_3072 SIGN_VERIFY', 'RSASSA_PKCS1_V1_5_SHA_256'),
  signing('rsa-4096', 'RSA-4096, signature', 'RSA_4096 SIGN_VERIFY', 'RSASSA_PKCS1_V1_5_SHA_256'),
  {
    id: 'oaep-2048',
    software: 'oaep-2048',
    title: 'RSA-2048, OAEP decryption',
    kind: 'RSA_2048 ENCRYPT_DECRYPT',
    algorithm: 'RSAES_OAEP_SHA_256',
    open: async ({ token }, ckaId) => {
      const key = createPublicKey({ key: await token.publicKey(ckaId), format: 'der', type: 'spki' })
      const ciphertext = publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' }, randomBytes(32))
      return { once: () => token.decryptOaep(ckaId, 'RSAES_OAEP_SHA_256', ciphertext) }
    },
  },
  making('new-aes', 'A new symmetric key', 'wrapping'),
  making('new-p256', 'A new P-256 key pair', 'ECC_NIST_P256 SIGN_VERIFY'),
  making('new-rsa-2048', 'A new RSA-2048 key pair', 'RSA_2048 SIGN_VERIFY'),
  random('random-32', '32 random bytes, fetched ahead of need', 32),
  random('random-32k', '32 KiB of random bytes, from the token', unbatchedBytes),
]

/** To make keys for these takes longer than to measure all the others. */
const slowOnes: ReadonlySet<string> = new Set(['rsa-3072', 'rsa-4096', 'new-rsa-2048'])

/**
 * What is measured while new keys are wrapped by which scheme: by the usual one, and all that knows no schemes; then by each of the others. Two schemes can be of one kind
 * (three are AES-GCM): what the second of a kind does has the scheme in its name.
 */
export function inTurnOfSchemes(
  usual: WrapScheme | undefined,
  schemes: readonly WrapScheme[],
): readonly { readonly scheme: WrapScheme | undefined; readonly operations: readonly Operation[] }[] {
  const named = new Set<string>()
  const by = (scheme: WrapScheme): readonly Operation[] =>
    operations
      .filter((operation) => operation.schemes?.includes(scheme))
      .map((operation) => {
        const isFirst = !named.has(operation.id)
        named.add(operation.id)
        return isFirst ? operation : { ...operation, id: `${operation.id}-${scheme}`, title: `${operation.title}, ${scheme}` }
      })
  const first = operations.filter(({ schemes }) => schemes === undefined)
  return [
    { scheme: usual, operations: usual === undefined ? first : [...by(usual), ...first] },
    ...schemes.filter((scheme) => scheme !== usual).map((scheme) => ({ scheme, operations: by(scheme) })),
  ]
}

/** Why this token cannot do it; undefined when it can. */
function lackOf({ kind, makes, algorithm, schemes }: Operation, can: Capabilities): string | undefined {
  if (schemes && !schemes.some((scheme) => can.wrapSchemes.includes(scheme))) return `has no wrap scheme ${schemes.join(' or ')}`
  const wanted = kind ?? makes
  if (wanted !== undefined && !can.keyKinds.includes(wanted)) return `makes no key ${wanted}`
  if (algorithm !== undefined && !can.algorithms.includes(algorithm)) return `does not do ${algorithm}`
  return undefined
}

/** Keeps so many calls under way for a while. What is under way at the end of it counts too: nothing is dropped. */
async function callFor(
  call: Call,
  callers: number,
  durationMs: number,
): Promise<{ readonly perSecond: number; readonly durations: Durations }> {
  const durations = new Durations()
  const startedAt = performance.now()
  let lastAt = startedAt
  const undo: unknown[] = []
  const caller = async (): Promise<void> => {
    do {
      const before = performance.now()
      const answer = await call.once()
      lastAt = performance.now()
      durations.add(lastAt - before)
      if (call.after) undo.push(answer)
    } while (performance.now() - startedAt < durationMs)
  }
  try {
    await Promise.all(Array.from({ length: callers }, caller))
  } finally {
    // When nobody makes anything any more: SoftHSM at times fails the one in one session while another does the other.
    for (const answer of undo) await call.after?.(answer)
  }
  return { perSecond: (durations.count * 1000) / (lastAt - startedAt), durations }
}

const numbers = (perSecond: number, durations: Durations): Readonly<Record<string, number>> => ({
  perSecond,
  p50: durations.at(0.5),
  p99: durations.at(0.99),
})

/** 1, 2, 4 … up to the sessions, and many more. */
export function ladder(sessions: number, level: PartContext['plan']['level']): readonly number[] {
  const steps = [1]
  for (let n = 2; n < sessions; n *= 2) steps.push(n)
  const most = level === 'quick' ? 8 * sessions : Math.max(32, 8 * sessions)
  return level === 'quick' ? [1, most] : [...new Set([...steps, sessions, most])]
}

/** New keys are made one at a time in a session: more callers would only wait. */
const stepsOf = ({ makes }: Operation, steps: readonly number[], sessions: number): readonly number[] =>
  makes === undefined ? steps : [...new Set([...steps.filter((callers) => callers <= sessions), sessions])]

const callersOf = (count: number): string => (count === 1 ? '1 caller' : `${count} callers`)

async function run(context: PartContext): Promise<PartReport> {
  const { plan } = context
  const figures: Record<string, Figure> = {}
  const lacking: string[] = []
  const measured: Measured[] = []
  let steps: readonly number[] = []
  const software = Array.from({ length: cpus().length }, () => startChild('software-process.ts'))
  try {
    const { wrapScheme: usual, wrapSchemes: schemes } = await context.withToken(async ({ token }) => token.capabilities())
    // A token has one scheme for what is new; with the others it is opened again.
    for (const { scheme, operations: chosen } of inTurnOfSchemes(usual, plan.level === 'quick' ? [] : schemes)) {
      await context.withToken(
        async (bench) => {
          const can = bench.token.capabilities()
          steps = ladder(bench.sessions, plan.level)
          for (const operation of chosen) {
            const lack = lackOf(operation, can)
            if (lack !== undefined) {
              lacking.push(`${operation.title}: this token ${lack}.`)
              continue
            }
            if (plan.level === 'quick' && slowOnes.has(operation.id)) {
              lacking.push(`${operation.title}: takes too long for a quick run.`)
              continue
            }
            const own = { ...operation, steps: stepsOf(operation, steps, bench.sessions) }
            try {
              Object.assign(figures, await measure(context, bench, software, own))
              measured.push(own)
            } catch (error) {
              // A token's word against one operation is no reason to keep the others back.
              if (!(error instanceof Error) || error.name !== 'TokenError') throw error
              lacking.push(`${operation.title}: the token failed (${error.message}).`)
            }
          }
        },
        scheme === undefined || scheme === usual ? {} : { scheme },
      )
    }
    const others = schemes.filter((scheme) => scheme !== usual)
    if (plan.level === 'quick' && others.length > 0)
      lacking.push(`Wrapping by ${others.join(' and ')}: a quick run measures only the scheme in use, ${usual ?? 'which is none'}.`)
    for (const operation of operations) {
      const gone = operation.schemes && !operation.schemes.some((scheme) => schemes.includes(scheme))
      if (gone) lacking.push(`${operation.title}: this token has no such wrap scheme.`)
    }
  } finally {
    await Promise.all(software.map(endChild))
  }
  const order = operations.map(({ software }) => software)
  measured.sort((a, b) => order.indexOf(a.software) - order.indexOf(b.software))
  return describe(figures, measured, steps, lacking)
}

async function measure(
  context: PartContext,
  bench: BenchToken,
  software: readonly ChildProcess[],
  operation: Measured,
): Promise<Readonly<Record<string, Figure>>> {
  const { plan } = context
  const { steps } = operation
  const key = operation.kind === undefined ? undefined : bench.newKey()
  if (key && operation.kind !== undefined) await bench.token.generateKey({ kind: operation.kind, ...key })
  try {
    const call = await operation.open(bench, key?.ckaId ?? '')
    const sides = steps.flatMap((callers): readonly Side[] => [
      {
        name: `token/${callers}`,
        async measure() {
          await callFor(call, callers, plan.warmupMs)
          const { perSecond, durations } = await callFor(call, callers, plan.durationMs)
          return numbers(perSecond, durations)
        },
      },
      {
        name: `software/${callers}`,
        async measure() {
          const order: SoftwareOrder = { operation: operation.software, warmupMs: plan.warmupMs, durationMs: plan.durationMs }
          const results = await Promise.all(software.slice(0, callers).map((child) => ask<SoftwareResult>(child, order)))
          const all = new Durations()
          let perSecond = 0
          for (const { durations, elapsedMs } of results) {
            const one = new Durations(durations.counts, durations.sumMs)
            perSecond += (one.count * 1000) / elapsedMs
            all.addAll(one)
          }
          return numbers(perSecond, all)
        },
      },
    ])
    const rounds = await inTurns(context, sides, operation.title)
    const figures: Record<string, Figure> = {}
    for (const callers of steps) {
      for (const side of ['token', 'software'] as const) {
        const read = (name: string): readonly number[] => rounds.get(`${side}/${callers}/${name}`) ?? []
        const id = `${idAt(operation, callers)}/${side}`
        figures[`${id}/throughput`] = figure('calls/s', 'higher', read('perSecond'))
        figures[`${id}/p50`] = figure('ms', 'lower', read('p50'))
        figures[`${id}/p99`] = figure('ms', 'lower', read('p99'))
      }
      const at = (side: string): Figure => figures[`${idAt(operation, callers)}/${side}/throughput`] as Figure
      figures[`${idAt(operation, callers)}/cost`] = ratioOf(at('software'), at('token'), 'lower')
    }
    // One can be the most that there are: a device with one session makes one key at a time.
    if (steps.length === 1)
      for (const [id, only] of Object.entries(figures)) figures[id.replace(`${operation.id}/1/`, `${operation.id}/most/`)] = only
    return figures
  } finally {
    if (key) await bench.token.destroyKey(key.ckaId, key.label)
  }
}

function describe(
  figures: Readonly<Record<string, Figure>>,
  measured: readonly Measured[],
  steps: readonly number[],
  lacking: readonly string[],
): PartReport {
  const most = steps.at(-1) ?? 1
  const mostOf = (operation: Measured): number => operation.steps.at(-1) ?? 1
  const table = (callersFor: (operation: Measured) => number, title: string, about: string): Table => ({
    kind: 'table',
    title,
    about,
    columns: ['Operation', 'Token', 'p50', 'p99', 'Software', 'p50', 'p99', 'Software ÷ token'],
    rows: measured.map((operation) => [
      operation.title,
      ...['token/throughput', 'token/p50', 'token/p99', 'software/throughput', 'software/p50', 'software/p99', 'cost'].map((what) => ({
        figure: `${idAt(operation, callersFor(operation))}/${what}`,
      })),
    ]),
  })
  const curves = (title: string, ids: readonly string[]): readonly LineChart[] => {
    const shown = measured.filter(({ id }) => ids.includes(id))
    if (shown.length === 0 || steps.length < 2) return []
    return [
      {
        kind: 'lines',
        title,
        x: { label: 'callers at once', scale: 'log' },
        y: { label: 'calls a second', scale: 'log' },
        lines: shown.flatMap((operation) =>
          (['token', 'software'] as const).map((side) => ({
            name: `${operation.title}, ${side}`,
            dashed: side === 'software',
            points: steps.map((x) => ({ x, figure: `${idAt(operation, x)}/${side}/throughput` })),
          })),
        ),
      },
    ]
  }
  const head = measured.find(({ id }) => id.startsWith('wrap-'))
  const cost = head && figures[`${idAt(head, most)}/cost`]
  return {
    about: [
      'Each operation by the token and by node:crypto (OpenSSL) with the key in memory, in turn. The token is used through the device layer of the ' +
        'service, with its queue, its checks and its processes, so this is what a caller of the service can have of it. A caller asks again as soon as it is answered. ' +
        `Software has a process for each caller, but no more than the machine has cores (${cpus().length}).`,
      'The last column is what the token costs: how many times more calls software answers in the same time.',
      'Random bytes are fetched from the token in batches, before they are needed: 32 of them are what a caller of the service gets, 32 KiB at once come from the token itself.',
    ],
    figures,
    controls: Object.keys(figures).filter((id) => id.endsWith('/software/throughput')),
    views: [
      {
        kind: 'bars',
        title: `Calls a second, ${callersOf(most)}`,
        about: 'Logarithmic: a step is ten times as much.',
        y: { label: 'calls a second', scale: 'log' },
        groups: measured.map((operation) => ({
          name: operation.title,
          bars: (['token', 'software'] as const).map((side) => ({
            name: side,
            figure: `${idAt(operation, mostOf(operation))}/${side}/throughput`,
          })),
        })),
      },
      table(
        mostOf,
        `All sessions busy: ${callersOf(most)}`,
        'Calls a second, and how long one took. New keys have one caller for each session.',
      ),
      table(() => 1, 'One caller at a time', 'Nobody else is there: what one call takes.'),
      ...curves('Symmetric keys: throughput by callers', ['wrap-gcm', 'unwrap-gcm', 'gcm-4k', 'hmac-256']),
      ...curves('Key pairs: throughput by callers', ['ecdsa-p256', 'rsa-2048', 'rsa-4096']),
    ],
    lacking,
    headlines: cost ? [`A new wrapped data key: ${showNumber(cost.median)} times as many in software, at ${callersOf(most)}`] : [],
  }
}

export const tokenPart: Part = { name: 'token', title: 'Token against software', run }
