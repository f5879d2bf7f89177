/**
 * The contract's two sides: a service to call and the words to judge it by. The contract is AWS's behaviour as it was recorded
 * from AWS or is documented by it, with its own words for every error.
 *
 * KMS_ENDPOINT (with KMS_REGION and the usual AWS credentials in the environment) points the same tests at any other KMS. What
 * needs operations or settings of our own is then skipped, and says so.
 */
import {
  CreateKeyCommand,
  DisableKeyCommand,
  KMSClient,
  ScheduleKeyDeletionCommand,
  type CreateKeyCommandInput,
  type KeyMetadata,
} from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect } from 'vitest'
import { startHoldfast, type Credentials, type Holdfast } from '../holdfast.ts'

const foreignEndpoint = process.env['KMS_ENDPOINT'] || undefined

if (foreignEndpoint !== undefined) {
  console.warn(`\n*** The contract is held against ${foreignEndpoint}. What needs Holdfast itself is SKIPPED. ***\n`)
}

/** For what only Holdfast can be asked. */
export const describeOurs: typeof describe = foreignEndpoint === undefined ? describe : (describe.skip as typeof describe)

/** What CreateKey answered. */
export type TestKey = KeyMetadata & { readonly KeyId: string; readonly Arn: string }

export interface Contract {
  /** A client as the account's root, in the home region. */
  readonly kms: KMSClient
  readonly region: string
  readonly otherRegion: string
  readonly accountId: string
  client(as?: { readonly credentials?: Credentials; readonly region?: string }): KMSClient
  /** Throws when the tests run against another KMS: see `describeOurs`. */
  readonly ours: Holdfast
  /** A key of this test. On another KMS it is scheduled for deletion at the end. */
  key(input?: CreateKeyCommandInput, kms?: KMSClient): Promise<TestKey>
  disabledKey(): Promise<TestKey>
  keyPendingDeletion(): Promise<TestKey>
}

/** Opens the service for a test file and closes it after the last test. Call it at the file's top level. */
export function useContract(options: { readonly env?: Readonly<Record<string, string>> } = {}): Contract {
  let holdfast: Holdfast | undefined
  const made: { readonly kms: KMSClient; readonly arn: string }[] = []
  const clients = new Map<string, KMSClient>()
  let accountId = ''

  const region = (): string => (foreignEndpoint === undefined ? ours().region : (process.env['KMS_REGION'] ?? 'us-east-1'))
  const ours = (): Holdfast => {
    if (!holdfast) throw new Error('this test needs Holdfast itself')
    return holdfast
  }
  const client: Contract['client'] = (as = {}) => {
    const at = as.region ?? region()
    const credentials = as.credentials ?? holdfast?.credentials
    const name = JSON.stringify([at, credentials])
    let found = clients.get(name)
    if (!found) {
      found = new KMSClient({
        endpoint: foreignEndpoint ?? ours().endpoint,
        region: at,
        // Without it the SDK finds them in the environment.
        ...(credentials && { credentials }),
        maxAttempts: 1,
      })
      clients.set(name, found)
    }
    return found
  }
  const key: Contract['key'] = async (input = {}, kms = client()) => {
    const { KeyMetadata: metadata } = await kms.send(new CreateKeyCommand(input))
    const { KeyId: keyId, Arn: arn } = metadata ?? {}
    if (!metadata || keyId === undefined || arn === undefined) throw new Error('CreateKey answered without a key')
    made.push({ kms, arn })
    return { ...metadata, KeyId: keyId, Arn: arn }
  }

  beforeAll(async () => {
    if (foreignEndpoint === undefined) holdfast = await startHoldfast({ env: { HOLDFAST_LOG_LEVEL: 'warn', ...options.env } })
    accountId = holdfast?.accountId ?? (await key()).Arn.split(':')[4] ?? ''
  })
  afterAll(async () => {
    if (foreignEndpoint !== undefined) {
      for (const { kms, arn } of made)
        await kms.send(new ScheduleKeyDeletionCommand({ KeyId: arn, PendingWindowInDays: 7 })).catch(() => undefined)
    }
    for (const each of clients.values()) each.destroy()
    await holdfast?.remove()
  })

  return {
    get kms() {
      return client()
    },
    get region() {
      return region()
    },
    get otherRegion() {
      return region() === 'eu-west-1' ? 'us-east-1' : 'eu-west-1'
    },
    get accountId() {
      return accountId
    },
    get ours() {
      return ours()
    },
    client,
    key,
    async disabledKey() {
      const metadata = await key()
      await client().send(new DisableKeyCommand({ KeyId: metadata.KeyId }))
      return metadata
    },
    async keyPendingDeletion() {
      const metadata = await key()
      await client().send(new ScheduleKeyDeletionCommand({ KeyId: metadata.KeyId, PendingWindowInDays: 7 }))
      return metadata
    },
  }
}

// ---- refusals ----

export interface Refusal {
  readonly name: string
  /** Empty where AWS sends none. */
  readonly message: string
  readonly status: number | undefined
}

/** What a call was refused with. @throws when it succeeds. */
export async function refusalOf(call: Promise<unknown>): Promise<Refusal> {
  let answer: unknown
  try {
    answer = await call
  } catch (error) {
    const { name, message, $metadata } = error as Error & { readonly $metadata?: { readonly httpStatusCode?: number } }
    // The SDK's own word for an error that came without one.
    return { name, message: message === 'UnknownError' ? '' : message, status: $metadata?.httpStatusCode }
  }
  throw new Error(`the call was to be refused, but answered ${JSON.stringify(answer)}`)
}

/** The call is refused with this type, these words (all of them, or what the expression matches) and HTTP 400. */
export async function expectRefusal(call: Promise<unknown>, name: string, message: string | RegExp): Promise<void> {
  const refusal = await refusalOf(call)
  expect(refusal).toEqual({ name, message: typeof message === 'string' ? message : expect.stringMatching(message), status: 400 })
}

/** One ValidationException that names these problems, in whatever order. */
export async function expectProblems(call: Promise<unknown>, problems: readonly string[]): Promise<void> {
  const { name, message } = await refusalOf(call)
  const [, count, text] = /^(\d+) validation errors? detected: (.*)$/s.exec(message) ?? []
  expect({ name, message, problems: text?.split('; ').sort() }).toMatchObject({
    name: 'ValidationException',
    problems: [...problems].sort(),
  })
  expect(message.startsWith(`${problems.length} validation error${problems.length === 1 ? '' : 's'} detected: `)).toBe(true)
  expect(Number(count)).toBe(problems.length)
}

export const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** An id of the right form that no key has. */
export const absentKeyId = '00000000-0000-4000-8000-000000000000'

/** A name no other test uses. */
let names = 0
export const freshAlias = (): string => `alias/contract-${process.pid}-${Date.now().toString(36)}-${++names}`

/** An answer without what the SDK adds. */
export function withoutMetadata<T extends { readonly $metadata: unknown }>(answer: T): Omit<T, '$metadata'> {
  const { $metadata: _metadata, ...rest } = answer
  return rest
}

/** The value, or a failed test. */
export function given<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('the answer lacks a member')
  return value
}
