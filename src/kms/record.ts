/**
 * The audit record of one call, shaped as CloudTrail shapes it (event version 1.11). The encryption context is recorded in clear, as AWS does;
 * blobs and credentials never are: every member that its shape marks sensitive is left out, so no operation can forget to.
 */

import { randomUUID } from 'node:crypto'
import type { AuditRecord } from '../audit/trail.ts'
import type { Principal } from '../auth/principal.ts'
import type { KeyRecord } from '../store/store.ts'
import type { KmsError } from './errors.ts'
import type { Call } from './operation.ts'
import { shownName, type Shape } from './shape.ts'

/** A call that may have failed before anything but its operation was known. */
export type RecordedCall = Omit<Call, 'principal' | 'input'> & {
  readonly principal: Principal | undefined
  readonly input: Readonly<Record<string, unknown>> | undefined
}

export function buildRecord(
  call: RecordedCall,
  output: Readonly<Record<string, unknown>> | undefined,
  error: KmsError | undefined,
): AuditRecord {
  const { operation, facts, principal, touched, note } = call
  // Members that a record lacks are undefined, and not written: one form of object serves all records, and spreads are slow.
  return {
    eventVersion: '1.11',
    userIdentity: userIdentity(principal),
    eventTime: eventTime(call.nowMs),
    eventSource: operation.eventSource,
    eventName: operation.name,
    awsRegion: call.region,
    sourceIPAddress: facts.sourceIp,
    userAgent: short(facts.userAgent),
    errorCode: error?.code,
    errorMessage: short(error?.message) || undefined,
    requestParameters: requestParameters(call, error),
    responseElements: visibleAnswer(output && operation.responseElements?.(output, call)),
    additionalEventData: isEmpty(note) ? undefined : note,
    requestID: facts.requestId,
    eventID: randomUUID(),
    readOnly: operation.readOnly,
    resources: touched.length > 0 ? resourcesOf(touched) : undefined,
    eventType: 'AwsApiCall',
    managementEvent: true,
    recipientAccountId: principal?.accountId ?? call.service.config.accountId,
    sharedEventID: undefined,
    eventCategory: 'Management',
    tlsDetails: facts.tls && {
      tlsVersion: facts.tls.version,
      cipherSuite: facts.tls.cipherSuite,
      clientProvidedHostHeader: short(facts.host),
    },
  }
}

/**
 * The records of one call: that of its caller's account, and one for each other account whose key it came to, so that the owner of a key sees who uses
 * it (KMS developer guide: "logged in both the caller account and the KMS key owner account"). They have one `sharedEventID`; an owner's
 * names the caller's account and unique id alone, as CloudTrail does, and of what it was about only what is the owner's.
 */
export function buildRecords(
  call: RecordedCall,
  output: Readonly<Record<string, unknown>> | undefined,
  error: KmsError | undefined,
): readonly [AuditRecord, ...AuditRecord[]] {
  const record = buildRecord(call, output, error)
  const { principal, touched } = call
  const foreign = touched.filter(({ accountId }) => accountId !== record.recipientAccountId)
  if (foreign.length === 0 || !principal) return [record]
  const sharedEventID = randomUUID()
  const userIdentity = { type: 'AWSAccount', principalId: principal.principalId, accountId: principal.accountId }
  const ofOwner = (recipientAccountId: string): AuditRecord => ({
    ...record,
    userIdentity,
    eventID: randomUUID(),
    resources: resourcesOf(foreign.filter(({ accountId }) => accountId === recipientAccountId)),
    recipientAccountId,
    sharedEventID,
  })
  const owners = new Set(foreign.map(({ accountId }) => accountId))
  return [{ ...record, sharedEventID }, ...[...owners].map(ofOwner)]
}

const resourcesOf = (touched: RecordedCall['touched']): readonly object[] =>
  touched.map(({ accountId, type, arn }) => ({ accountId, type, ARN: arn }))

function isEmpty(object: object): boolean {
  for (const _name in object) return false
  return true
}

/** What the service does or says by itself, as CloudTrail shows it: an event of the service, not a call. */
export function serviceEvent(
  nowMs: number,
  where: Pick<KeyRecord, 'accountId' | 'region'>,
  eventSource: string,
  eventName: string,
): AuditRecord {
  return {
    eventVersion: '1.11',
    userIdentity: { accountId: where.accountId, invokedBy: 'AWS Internal' },
    eventTime: eventTime(nowMs),
    eventSource,
    eventName,
    awsRegion: where.region,
    sourceIPAddress: 'AWS Internal',
    userAgent: 'AWS Internal',
    requestParameters: null,
    responseElements: null,
    eventID: randomUUID(),
    readOnly: true,
    eventType: 'AwsServiceEvent',
    managementEvent: true,
    recipientAccountId: where.accountId,
    eventCategory: 'Management',
  }
}

/** What the service does by itself with a key. */
export function keyEvent(
  nowMs: number,
  key: Pick<KeyRecord, 'arn' | 'accountId' | 'region' | 'keyId'>,
  eventName: string,
  details: { readonly service?: Readonly<Record<string, unknown>>; readonly additional?: Readonly<Record<string, unknown>> },
): AuditRecord {
  return {
    ...serviceEvent(nowMs, key, 'kms.amazonaws.com', eventName),
    ...(details.additional && { additionalEventData: details.additional }),
    readOnly: false,
    resources: [{ accountId: key.accountId, type: 'AWS::KMS::Key', ARN: key.arn }],
    serviceEventDetails: { ...details.service, keyId: key.keyId },
  }
}

/** What a call has changed in another region, as a record of that region: KMS did it in the caller's name (developer guide, UpdatePrimaryRegion). */
export function recordElsewhere(
  call: RecordedCall,
  { arn, accountId, region }: Pick<KeyRecord, 'arn' | 'accountId' | 'region'>,
  requestParameters: Readonly<Record<string, unknown>>,
): AuditRecord {
  return {
    ...buildRecord(call, {}, undefined),
    userIdentity: { ...userIdentity(call.principal), invokedBy: 'kms.amazonaws.com' },
    awsRegion: region,
    requestParameters,
    responseElements: { keyId: arn },
    resources: resourcesOf([{ accountId, type: 'AWS::KMS::Key', arn }]),
  }
}

/** The replicas of a multi-Region key have what its primary has: CloudTrail's SynchronizeMultiRegionKey, of the primary in its region. */
export function synchronization(nowMs: number, primary: Pick<KeyRecord, 'arn' | 'accountId' | 'region'>): AuditRecord {
  return {
    ...serviceEvent(nowMs, primary, 'kms.amazonaws.com', 'SynchronizeMultiRegionKey'),
    responseElements: { keyId: primary.arn },
    readOnly: false,
    resources: resourcesOf([{ ...primary, type: 'AWS::KMS::Key' }]),
    eventType: 'AwsApiCall',
    requestID: randomUUID(),
  }
}

/**
 * A call that failed changed nothing, and anybody with an access key can make one with a body of a megabyte: of such a call the record keeps
 * who, what and why. What a call that succeeded was asked is kept whole; its operation has bounded it.
 */
const maxFailedCharacters = 16_384

function requestParameters({ operation, input }: RecordedCall, error: KmsError | undefined): unknown {
  if (!input) return null
  const shown = visible(operation.input, input)
  if (!error) return shown
  const characters = JSON.stringify(shown).length
  return characters > maxFailedCharacters ? { omitted: `${characters} characters` } : shown
}

/** CloudTrail's limit on these two, and the reason is the same here: what a caller made up must not fill the trail. */
const maxTextCharacters = 1024

const short = (text: string | undefined): string | undefined => text?.slice(0, maxTextCharacters)

let lastSecond = -1
let lastText = ''

/** ISO 8601 with seconds. Within one second it is the same text. */
export function eventTime(ms: number): string {
  const second = Math.floor(ms / 1000)
  if (second !== lastSecond) {
    lastSecond = second
    lastText = `${new Date(second * 1000).toISOString().slice(0, 19)}Z`
  }
  return lastText
}

const identities = new WeakMap<Principal, Readonly<Record<string, unknown>>>()

function userIdentity(principal: Principal | undefined): Readonly<Record<string, unknown>> {
  if (!principal) return { type: 'Unknown' }
  let identity = identities.get(principal)
  if (!identity) {
    const { session } = principal
    identity = {
      type: principal.type,
      principalId: principal.principalId,
      arn: principal.arn,
      accountId: principal.accountId,
      accessKeyId: principal.accessKeyId,
      ...(principal.userName !== undefined && { userName: principal.userName }),
      ...(session && {
        sessionContext: {
          sessionIssuer: {
            type: 'Role',
            principalId: session.roleId,
            arn: session.roleArn,
            accountId: principal.accountId,
            userName: session.roleName,
          },
          attributes: { creationDate: new Date(session.issuedAt).toISOString(), mfaAuthenticated: 'false' },
        },
      }),
    }
    identities.set(principal, identity)
  }
  return identity
}

function visible(shape: Shape, input: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const shown: Record<string, unknown> = {}
  for (const name in shape) {
    const rule = shape[name]
    const value = input[name]
    if (value === undefined || !rule || rule.sensitive) continue
    shown[shownName(name)] = rule.fields
      ? visibleNested(rule.fields, value)
      : rule.kind === 'timestamp'
        ? new Date(value as number).toISOString()
        : value
  }
  return shown
}

/** An answer's elements: names as the request's are written, dates as text. On the wire dates are seconds. */
function visibleAnswer(value: unknown, name = ''): unknown {
  if (Array.isArray(value)) return value.map((item) => visibleAnswer(item))
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(
      Object.entries(value).map(([inner, item]) => [inner.charAt(0).toLowerCase() + inner.slice(1), visibleAnswer(item, inner)]),
    )
  }
  return typeof value === 'number' && name.endsWith('Date') ? new Date(value * 1000).toISOString() : (value ?? null)
}

function visibleNested(fields: Shape, value: unknown): unknown {
  return Array.isArray(value)
    ? value.map((item) => visibleNested(fields, item))
    : visible(fields, value as Readonly<Record<string, unknown>>)
}
