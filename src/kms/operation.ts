/**
 * The one road that every call takes: authenticate, read the input, find each key, authorize, check state and usage, run,
 * record. Nothing else writes an audit record, checks a permission or turns a failure into an answer.
 *
 * An operation is one row (`operation({…})`); its export name is the wire name, the action, the audit's eventName and the
 * metric's label.
 */

import type { Principal } from '../auth/principal.ts'
import type { KeyRecord } from '../store/store.ts'
import { permitKey, permitResource } from './access.ts'
import { kmsError, type KmsError } from './errors.ts'
import { buildRecords } from './record.ts'
import type { Service } from './service.ts'
import { readInput, type Input, type Shape } from './shape.ts'
import type { KeyUsage } from './specs.ts'
import { keyStoreNotConnected, noteKeyStore, stateOf } from './key-stores.ts'
import { allowedStates, refusal, showsLater, type KeyOperationName } from './states.ts'
import { toKmsError } from './failure.ts'

/** What the door knows about a request. */
export interface RequestFacts {
  readonly requestId: string
  readonly sourceIp: string
  readonly userAgent: string | undefined
  readonly tls: { readonly version: string; readonly cipherSuite: string } | undefined
  readonly host: string
  /** Milliseconds since the epoch. */
  readonly receivedAt: number
}

export interface Authenticated {
  readonly principal: Principal
  /** The region of the credential scope: one endpoint serves them all. */
  readonly region: string
}

/** A request as a door hands it over. Both functions throw KmsError. */
export interface Incoming {
  readonly facts: RequestFacts
  authenticate(): Promise<Authenticated> | Authenticated
  body(): Readonly<Record<string, unknown>>
}

/** One call under way. The road and the operation fill it; the audit record is made from it, once. */
export interface Call {
  readonly service: Service
  readonly operation: Operation
  readonly facts: RequestFacts
  readonly principal: Principal
  readonly region: string
  readonly nowMs: number
  readonly input: Readonly<Record<string, unknown>>
  /** What becomes `additionalEventData`. */
  readonly note: Record<string, unknown>
  /** ARNs of keys and aliases that the call was about. */
  readonly touched: { readonly arn: string; readonly accountId: string; readonly type: string }[]
}

export interface FoundKey {
  readonly record: KeyRecord
  /** The alias that the caller used, with its prefix. */
  readonly alias: string | undefined
}

/** One key that an operation works on: how it is found and what it must be. */
export interface KeyUse<I> {
  /** Throws KmsError when the request names no such key; answers undefined when it names none and need not. */
  readonly find: (call: Call, input: I) => FoundKey | undefined
  readonly usage?: KeyUsage
  /** Where it is not `kms:` and the operation's name. */
  readonly action?: string
  /** AWS allows the call on a key of another account, if both accounts' policies do. */
  readonly crossAccount?: boolean
  /** The key may be in any state here, whatever the operation's row in states.ts says. */
  readonly anyState?: boolean
  /** What is held against the key once the caller is known to be allowed: said earlier, it would tell strangers about the key. */
  readonly verify?: (key: KeyRecord, input: I) => void
  /** The members that carry this key's encryption context and algorithm, where a request has two of each. */
  readonly members?: { readonly context: string; readonly algorithm: string }
  /** Decides instead of the policies who may; throws KmsError, at once or later. */
  readonly permit?: (call: Call, found: FoundKey, input: I) => Promise<void>
  /** What to answer instead of AccessDeniedException's usual text; undefined for the usual. */
  readonly denied?: (call: Call, found: FoundKey, input: I) => KmsError | undefined
}

type ResponseElements = (output: Readonly<Record<string, unknown>>, call: Pick<Call, 'touched'>) => unknown

/**
 * For what changes a key and answers nothing: CloudTrail names the key all the same (developer guide, "Finding AWS KMS log entries in CloudTrail", of
 * December 2022, which lists the operations). Of two keys it is the last, the one that an alias comes to.
 */
export const namesKey = (_output: unknown, { touched }: Pick<Call, 'touched'>): { readonly keyId: string | undefined } => ({
  keyId: touched.findLast(({ type }) => type === 'AWS::KMS::Key')?.arn,
})

interface Definition<S extends Shape, K extends string, O extends string> {
  readonly input: S
  /** Every member that the answer can have. */
  readonly output: readonly O[]
  readonly keys?: Readonly<Record<K, KeyUse<Input<S>>>>
  /** Resources without a policy of their own that the caller's identity policies must allow: `*`, alias ARNs. */
  readonly resources?: (call: Call, input: Input<S>) => readonly string[]
  readonly readOnly: boolean
  /** CloudTrail shows these answers as responseElements; the others are null. */
  readonly responseElements?: ResponseElements
  /** `run` answers a DryRun itself, after work that decides whether the call would succeed. */
  readonly dryRunInside?: boolean
  run(
    call: Call,
    input: Input<S>,
    keys: Readonly<Record<K, KeyRecord>>,
  ): Promise<Readonly<Partial<Record<O, unknown>>>> | Readonly<Partial<Record<O, unknown>>>
}

/** A definition whose types are sealed inside, so that a table can hold all of them. `name` is set by the registry. */
export interface Operation {
  readonly name: string
  /** `kms:Encrypt`. */
  readonly action: string
  /** `kms.amazonaws.com`. */
  readonly eventSource: string
  readonly readOnly: boolean
  readonly input: Shape
  readonly output: readonly string[]
  readonly worksOnKeys: boolean
  readonly responseElements: ResponseElements | undefined
  read(body: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>>
  perform(call: Call): Promise<Readonly<Record<string, unknown>>>
}

/** An operation before the registry gave it its name. */
export type Unnamed = (
  name: string,
  api: { readonly name: string; readonly actionPrefix: string; readonly eventSource: string },
) => Operation

export function operation<const S extends Shape, K extends string = never, const O extends string = never>(
  definition: Definition<S, K, O>,
): Unnamed {
  const uses = Object.entries(definition.keys ?? {}) as unknown as readonly (readonly [K, KeyUse<Input<S>>])[]
  return (name, api) => {
    const action = `${api.actionPrefix}:${name}`
    if (uses.length > 0 && !Object.hasOwn(allowedStates, name)) throw new Error(`states.ts has no row for ${name}`)
    // Who administers the service is not held up.
    const isCharged = api.name !== 'holdfast'
    const states: readonly string[] = uses.length > 0 ? allowedStates[name as KeyOperationName] : []
    return {
      name,
      action,
      eventSource: api.eventSource,
      readOnly: definition.readOnly,
      input: definition.input,
      output: definition.output,
      worksOnKeys: uses.length > 0,
      responseElements: definition.responseElements,
      read: (body) => readInput(definition.input, body),
      async perform(call) {
        const input = call.input as Input<S>
        const keys = {} as Record<K, KeyRecord>
        const admitted: [KeyUse<Input<S>>, FoundKey][] = []
        try {
          for (const resource of definition.resources?.(call, input) ?? []) permitResource(call, action, resource)
          // Whether it is needed or not, a token that is not ours is an error by itself; told only of keys that are there, it would tell of them.
          const named = (call.input['GrantTokens'] as readonly string[] | undefined)?.map((token) => call.service.grantTokens.read(token))
          const preparing = uses.length > 0 ? call.service.managedKeys.prepare(call) : undefined
          if (preparing) await preparing
          for (const [keyName, use] of uses) {
            const found = use.find(call, input)
            if (!found) continue
            keys[keyName] = found.record
            admitted.push([use, found])
            call.touched.push({ arn: found.record.arn, accountId: found.record.accountId, type: 'AWS::KMS::Key' })
          }
          const permittingAt = call.service.spans && performance.now()
          for (const [use, found] of admitted) {
            const waiting = use.permit ? use.permit(call, found, input) : permitKey(call, use.action ?? action, found, use, named)
            // Only where grants have to be read: what policies allow waits for nothing.
            if (waiting) await waiting
          }
          if (permittingAt !== undefined) call.service.spans?.add('authorization', performance.now() - permittingAt)
        } catch (error) {
          // Neither the record, which its caller's account can read, nor the quota tells of a key that the answer does not tell of.
          forgetForeign(call)
          if (isCharged) call.service.throttle.charge(call, [])
          throw error
        }
        if (isCharged) {
          call.service.throttle.charge(
            call,
            admitted.map(([, { record }]) => record),
          )
        }
        for (const [use, { record: key }] of admitted) {
          use.verify?.(key, input)
          if (use.usage !== undefined) noteKeyStore(call, key)
        }
        for (const [use, { record: key }] of admitted) {
          const state = stateOf(call.service, key)
          const isHidden = key.customKeyStoreId !== null && state !== key.state
          const isAllowed = use.anyState || states.includes(state) || (isHidden && showsLater.has(name))
          if (!isAllowed) throw isHidden ? keyStoreNotConnected(key) : refusal(key.arn, state, name)
          if (use.usage !== undefined && key.usage !== use.usage) {
            throw kmsError('InvalidKeyUsageException', `${key.arn} key usage is ${key.usage} which is not valid for ${name}.`)
          }
        }
        if (call.input['DryRun'] === true && !definition.dryRunInside) throw dryRunSucceeded()
        for (const [use, { record: key }] of admitted) {
          const loggingIn = use.usage === undefined ? undefined : call.service.keyStores.ready(key)
          if (loggingIn) await loggingIn
        }
        const running = definition.run(call, input, keys)
        return running instanceof Promise ? await running : running
      },
    }
  }
}

function forgetForeign({ touched, principal }: Call): void {
  touched.splice(0, touched.length, ...touched.filter(({ accountId }) => accountId === principal.accountId))
}

export const dryRunSucceeded = (): KmsError =>
  kmsError('DryRunOperationException', 'The request would have succeeded, but the DryRun option is set.')

/** What a caller sent to be encrypted does not stay in memory, whatever became of the call. */
function wipeBlobs(shape: Shape, input: Readonly<Record<string, unknown>>): void {
  for (const name in shape) {
    const value = shape[name]?.kind === 'blob' ? input[name] : undefined
    if (Buffer.isBuffer(value)) value.fill(0)
  }
}

/** It was done and is recorded: a defect in counting changes nothing for its caller. */
function countUse(call: Call, [record, ...ofOwners]: ReturnType<typeof buildRecords>): void {
  const { service, facts, operation } = call
  try {
    service.usage.count(call, record.eventID, ofOwners)
  } catch (cause) {
    service.log.error({ requestId: facts.requestId, operation: operation.name, err: cause }, 'the call could not be counted')
  }
}

/** Whether a call whose caller could not be established has a record of its own: anybody can make such calls. */
const isRecorded = ({ service, facts }: Pick<Call, 'service' | 'facts'>, error: KmsError | undefined): boolean =>
  service.strangers.isRecorded({
    eventSource: 'kms.amazonaws.com',
    accountId: service.config.accountId,
    errorCode: error?.code ?? '',
    sourceIp: facts.sourceIp,
  })

/**
 * Runs one call from signature to record. Resolves with the answer, or rejects with a KmsError and nothing else; either way the
 * audit record is durable by then (of callers that are not known only the first in each second have one: strangers.ts). If it cannot be written the
 * call fails, whatever it had come to.
 */
export async function execute(service: Service, operation: Operation, incoming: Incoming): Promise<Readonly<Record<string, unknown>>> {
  const startedAt = performance.now()
  const call: { -readonly [P in keyof Call]: Call[P] | (P extends 'principal' | 'input' ? undefined : never) } = {
    service,
    operation,
    facts: incoming.facts,
    principal: undefined,
    region: service.config.regions[0] ?? '',
    nowMs: incoming.facts.receivedAt,
    input: undefined,
    note: {},
    touched: [],
  }
  let output: Readonly<Record<string, unknown>> | undefined
  let error: KmsError | undefined
  try {
    const authenticating = incoming.authenticate()
    const { principal, region } = authenticating instanceof Promise ? await authenticating : authenticating
    service.spans?.add('sigv4', performance.now() - startedAt)
    call.principal = principal
    call.region = region
    call.input = operation.read(incoming.body())
    output = await operation.perform(call as Call)
  } catch (cause) {
    error = toKmsError(service, operation, call.facts, cause)
  }
  let records: ReturnType<typeof buildRecords> | undefined
  try {
    if (call.principal || isRecorded(call, error)) {
      records = buildRecords(call, output, error)
      const [record, ...ofOwners] = records
      const appending = service.trail.append(record)
      await (ofOwners.length === 0 ? appending : Promise.all([appending, ...ofOwners.map((each) => service.trail.append(each))]))
    }
  } catch (cause) {
    service.log.error(
      { requestId: call.facts.requestId, operation: operation.name, err: cause },
      'the audit record could not be written; the call fails',
    )
    error = kmsError('KMSInternalException', 'The request could not be recorded and was not answered.', { cause })
  }
  if (!error && records) countUse(call as Call, records)
  if (call.input) wipeBlobs(operation.input, call.input)
  service.metrics.call(operation.name, error?.code ?? 'ok', performance.now() - startedAt)
  if (error) throw error
  return output ?? {}
}
