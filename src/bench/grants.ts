/**
 * `holdfast bench --grants N`: Encrypt by a user whom nothing but a grant allows it, with a few grants in one store and very many in another. Two
 * services take turns, so that a machine whose speed drifts hurts both alike; the ratio is the median of the rounds'.
 */

import type { SigningCredentials } from '../auth/sigv4.ts'
import {
  createKey,
  loadService,
  median,
  post,
  signedRequests,
  signerOf,
  wireRequest,
  type BenchOptions,
  type BenchService,
} from './bench.ts'

export interface GrantsSubjects {
  readonly few: BenchService
  readonly many: BenchService
  /** Puts so many grants into the store of `many`. */
  readonly fill: (count: number) => void
}

export interface GrantsReport {
  readonly few: number
  readonly many: number
  readonly connections: number
  readonly secondsPerRound: number
  readonly rounds: readonly { readonly fewPerSecond: number; readonly manyPerSecond: number }[]
  readonly manyOfFew: number
}

/** As many grants as the store with few of them has. */
const few = 10

const holdfast = { target: 'Holdfast', signingName: 'holdfast' } as const

/** A key, a user without a policy, and grants on the key, one of them for the user. Answers the requests of that user. */
async function prepare(service: BenchService): Promise<() => readonly Buffer[]> {
  const administer = (operation: string, input: object) =>
    post(service.endpoint, wireRequest(operation, input, signerOf(service), holdfast))
  const { User } = await administer('CreateUser', { UserName: 'bench' })
  const { AccessKey } = await administer('CreateAccessKey', { UserName: 'bench' })
  const { Arn } = User as { readonly Arn: string }
  const { AccessKeyId, SecretAccessKey } = AccessKey as { readonly AccessKeyId: string; readonly SecretAccessKey: string }
  const credentials: SigningCredentials = { accessKeyId: AccessKeyId, secretAccessKey: SecretAccessKey }
  const KeyId = await createKey(service, {})
  const root = Arn.replace(/:user\/.*$/, ':root')
  for (let made = 0; made < few; made++) {
    const grant = { KeyId, GranteePrincipal: made === 0 ? Arn : root, Operations: made === 0 ? ['Encrypt'] : ['DescribeKey'] }
    await post(service.endpoint, wireRequest('CreateGrant', grant, signerOf(service)))
  }
  const asUser = { ...service, credentials }
  return () =>
    Array.from({ length: signedRequests }, (_, n) =>
      wireRequest('Encrypt', { KeyId, Plaintext: Buffer.alloc(32, n).toString('base64') }, signerOf(asUser)),
    )
}

export async function runGrantsBench(subjects: GrantsSubjects, grants: number, options: BenchOptions): Promise<GrantsReport> {
  const { connections, seconds, rounds: roundCount = 3 } = options
  const requests = { few: await prepare(subjects.few), many: await prepare(subjects.many) }
  subjects.fill(grants)
  const measured = async (side: 'few' | 'many'): Promise<number> =>
    (await loadService(subjects[side], { connections, durationMs: seconds * 1000, requests: [...requests[side]()] })).perSecond
  const rounds: { readonly fewPerSecond: number; readonly manyPerSecond: number }[] = []
  for (let round = 0; round < roundCount; round++)
    rounds.push({ fewPerSecond: await measured('few'), manyPerSecond: await measured('many') })
  return {
    few,
    many: few + grants,
    connections,
    secondsPerRound: seconds,
    rounds: rounds.map(({ fewPerSecond, manyPerSecond }) => ({
      fewPerSecond: Math.round(fewPerSecond),
      manyPerSecond: Math.round(manyPerSecond),
    })),
    manyOfFew: Number(median(rounds.map(({ fewPerSecond, manyPerSecond }) => manyPerSecond / fewPerSecond)).toFixed(3)),
  }
}
