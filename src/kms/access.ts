/** May this call do this? Brings the caller, the key, its policy and the condition keys of the request together for `auth/`. */

import {
  accessDeniedMessage,
  authorize,
  authorizeRetireGrant,
  type AuthorizationRequest,
  type ConditionContext,
  type Decision,
} from '../auth/authorize.ts'
import {
  contextOperations,
  grantAllows,
  grantOperations,
  matchParty,
  partyId,
  partyNames,
  type GrantRequest,
  type PartyMatch,
} from '../auth/grants.ts'
import { compilePolicy, type CompiledPolicy } from '../auth/policy.ts'
import type { Principal } from '../auth/principal.ts'
import type { GrantConstraints, GrantLook, GrantRecord, KeyRecord, PrincipalRecord } from '../store/store.ts'
import { kmsError, KmsError } from './errors.ts'
import type { NamedGrant } from './grant-tokens.ts'
import { isPrimary } from './multi-region.ts'
import { viaService } from './managed-keys.ts'
import type { Call, FoundKey, KeyUse } from './operation.ts'

const compiledKeyPolicies = new WeakMap<KeyRecord, CompiledPolicy>()

/** Compiled once for each version of the record; a record that was read is never changed in place. */
export function keyPolicy(key: KeyRecord): CompiledPolicy {
  let compiled = compiledKeyPolicies.get(key)
  if (!compiled) {
    compiled = compilePolicy(key.policy, 'key')
    compiledKeyPolicies.set(key, compiled)
  }
  return compiled
}

const compiledTrust = new WeakMap<PrincipalRecord, CompiledPolicy>()

/** A role's trust policy, compiled once for each version of the record; undefined for what nobody can assume. */
export function trustPolicy(role: PrincipalRecord): CompiledPolicy | undefined {
  if (role.trustPolicy === null) return undefined
  let compiled = compiledTrust.get(role)
  if (!compiled) compiledTrust.set(role, (compiled = compilePolicy(role.trustPolicy, 'trust')))
  return compiled
}

/** The policies that sessions were asked for with lately: the same few again and again. */
const compiledSessions = new Map<string, CompiledPolicy>()
const maxCompiledSessions = 512

/** A session's policy, compiled once while it is in use. @throws as `compilePolicy`. */
export function sessionPolicy(text: string): CompiledPolicy {
  let compiled = compiledSessions.get(text)
  if (!compiled) {
    compiled = compilePolicy(text, 'session')
    if (compiledSessions.size >= maxCompiledSessions) compiledSessions.clear()
    compiledSessions.set(text, compiled)
  }
  return compiled
}

/** AWS's text where it will not say whether the resource exists. */
const unseen = (call: Call, action: string): KmsError =>
  kmsError(
    'AccessDeniedException',
    `User: ${call.principal.arn} is not authorized to perform: ${action} on this resource because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access`,
  )

/**
 * Returns when policies allow it, throws when they deny it. Only where they do neither does it look for a grant, and answers with a promise
 * when the grants have to be read first.
 *
 * @param named grants that the caller names by their tokens
 */
export function permitKey<I>(
  call: Call,
  action: string,
  found: FoundKey,
  use: Admission<I>,
  named: readonly NamedGrant[] = [],
): Promise<void> | undefined {
  const decision = decide(call, action, found, use, undefined)
  if (decision?.allowed) return undefined
  if (!decision || !lacksAllow.has(decision.reason) || !grantable.has(action)) return refuse(call, action, found, use, decision)
  return permitByGrant(call, action, found, use, named, decision)
}

/** What of a row decides who may use its key. */
type Admission<I> = Pick<KeyUse<I>, 'denied' | 'crossAccount' | 'members'>

/** @param match how a grant names the caller. @returns undefined where no key of another account may be used */
function decide<I>(call: Call, action: string, found: FoundKey, use: Admission<I>, match: PartyMatch | undefined): Decision | undefined {
  const key = found.record
  const request: AuthorizationRequest = {
    principal: call.principal,
    action,
    resource: { arn: key.arn, accountId: key.accountId, policy: keyPolicy(key) },
    context: requestContext(call, found, use.members),
    grants: () => match,
  }
  if (key.accountId === call.principal.accountId) return authorize(request)
  return use.crossAccount ? withoutWords(() => authorize(request)) : undefined
}

function refuse<I>(call: Call, action: string, found: FoundKey, use: Admission<I>, decision: Decision | undefined): never {
  const { record: key } = found
  logDenial(call, action, key.arn, decision)
  const special = use.denied?.(call, found, call.input as I)
  if (special) throw special
  if (key.accountId !== call.principal.accountId || !decision) throw unseen(call, action)
  throw denied(call, action, key.arn, decision)
}

function permitByGrant<I>(
  call: Call,
  action: string,
  found: FoundKey,
  use: Admission<I>,
  named: readonly NamedGrant[],
  decision: Decision,
): Promise<void> | undefined {
  const decideAgain = (match: PartyMatch | undefined): undefined => {
    const last = match ? decide(call, action, found, use, match) : decision
    return last?.allowed ? undefined : refuse(call, action, found, use, last)
  }
  const match = findGrant(call, found.record, grantRequest(call, action, found, use.members), named)
  return match instanceof Promise ? match.then(decideAgain) : decideAgain(match)
}

/** Where a grant could still make the difference. */
const lacksAllow: ReadonlySet<string> = new Set(['NoResourcePolicyAllows', 'NoIdentityPolicyAllows'] satisfies Decision['reason'][])
const grantable: ReadonlySet<string> = new Set(grantOperations.map((operation) => `kms:${operation}`))

function grantRequest(call: Call, action: string, found: FoundKey, members: Members = ordinaryMembers): GrantRequest {
  const operation = action.slice('kms:'.length)
  const sourceArn = requestContext(call, found, members)('aws:sourcearn')
  return {
    operation,
    encryptionContext: encryptionContext(call, members),
    sourceArn: typeof sourceArn === 'string' ? sourceArn : undefined,
    ...(operation === 'CreateGrant' && {
      child: { operations: handedOn(call), constraints: givenConstraints(call) },
    }),
  }
}

const granteeOf = (grant: GrantRecord, principal: Principal): PartyMatch | undefined =>
  matchParty({ arn: grant.grantee, id: grant.granteeId }, principal)

/** How a grant on this key names the caller and allows the request; that it is named itself wins. */
function findGrant(
  call: Call,
  key: KeyRecord,
  request: GrantRequest,
  named: readonly NamedGrant[],
): PartyMatch | undefined | Promise<PartyMatch | undefined> {
  const { principal } = call
  const { grants } = call.service.store
  const context = contextOperations.has(request.operation) || request.child ? request.encryptionContext : undefined
  const accept = (grant: GrantRecord): boolean => granteeOf(grant, principal) !== undefined && grantAllows(grant, request)
  const matchOf = (grant: GrantRecord | undefined): PartyMatch | undefined => grant && granteeOf(grant, principal)
  const best = (matches: readonly (PartyMatch | undefined)[]): PartyMatch | undefined =>
    matches.includes('itself') ? 'itself' : matches.includes('account') ? 'account' : undefined

  const look: GrantLook = {
    operation: request.operation,
    granteeId: partyId(principal),
    sourceArn: request.sourceArn,
    context,
    passing: request.child?.operations ?? [],
  }
  const looks = partyNames(principal).map((name) => grants.find(key.arn, name, look, accept))
  const atOnce = best(looks.map((look) => (look instanceof Promise ? undefined : matchOf(look))))
  // What another process granted a moment ago may not be seen here yet; its token names it.
  const ids = new Set(named.filter(({ keyArn }) => keyArn === key.arn).map(({ grantId }) => grantId))
  const isSettled = ids.size === 0 && !looks.some((look) => look instanceof Promise)
  if (atOnce === 'itself' || isSettled) return atOnce
  const byToken = [...ids].map(async (id) => {
    const grant = await grants.get(id)
    return grant && grant.keyArn === key.arn && accept(grant) ? grant : undefined
  })
  return Promise.all([...looks, ...byToken]).then((found) => best(found.map(matchOf)))
}

/** Who may retire a grant the grant says: its retiring principal, its grantee if it may, the account of the key, and the one that issued it. */
export function permitRetirement(call: Call, found: FoundKey, grant: GrantRecord): void {
  const { principal } = call
  const key = found.record
  const service = call.service.managedKeys.serviceOf(principal)
  const services = service === undefined ? [] : [`${service}.amazonaws.com`, viaService(service, call.region)]
  const isParty = (arn: string, id: string | null): PartyMatch | undefined =>
    services.includes(arn) ? 'itself' : matchParty({ arn, id }, principal)
  const matches = [
    grant.retiring === null ? undefined : isParty(grant.retiring, grant.retiringId),
    grant.operations.includes('RetireGrant') ? isParty(grant.grantee, grant.granteeId) : undefined,
    [key.accountId, grant.issuingAccountId].includes(principal.accountId) ? ('account' as const) : undefined,
  ]
  const match = matches.includes('itself') ? 'itself' : matches.find((each) => each !== undefined)
  const decision = authorizeRetireGrant({ principal, keyArn: key.arn, context: requestContext(call, found), match })
  if (decision.allowed) return
  logDenial(call, 'kms:RetireGrant', key.arn, decision)
  throw key.accountId === principal.accountId ? denied(call, 'kms:RetireGrant', key.arn, decision) : unseen(call, 'kms:RetireGrant')
}

/** A request that a policy cannot judge is refused in words of its own; from another account they would say that there is a policy to judge it. */
function withoutWords(decide: () => Decision): Decision | undefined {
  try {
    return decide()
  } catch (error) {
    if (error instanceof KmsError) return undefined
    throw error
  }
}

/**
 * For what has no policy of its own: `*`, an alias.
 * @param like the key that it is about where the request does not describe it
 */
export function permitResource(call: Call, action: string, arn: string, like?: FoundKey): void {
  const decision = authorize({
    principal: call.principal,
    action,
    resource: { arn, accountId: call.principal.accountId },
    context: requestContext(call, like),
  })
  if (decision.allowed) return
  logDenial(call, action, arn, decision)
  throw denied(call, action, arn, decision)
}

/** A key of another account that is not there looks like one that may not be used. */
export const foreignKeyUnseen = (call: Call, action = call.operation.action): KmsError => unseen(call, action)

const denied = (call: Call, action: string, resourceArn: string, decision: Decision): KmsError =>
  kmsError('AccessDeniedException', accessDeniedMessage({ principalArn: call.principal.arn, action, resourceArn, reason: decision.reason }))

function logDenial(call: Call, action: string, resource: string, decision: Decision | undefined): void {
  call.service.log.info(
    {
      requestId: call.facts.requestId,
      principal: call.principal.arn,
      action,
      resource,
      reason: decision?.reason ?? 'NoCrossAccountUse',
      statement: decision?.statement,
    },
    'denied',
  )
}

type Value = string | readonly string[] | undefined
type Pairs = Readonly<Record<string, string>>
interface Tagged {
  readonly TagKey: string
  readonly TagValue?: string
}

const text = (value: unknown): string | undefined =>
  typeof value === 'string' ? value : typeof value === 'boolean' || typeof value === 'number' ? String(value) : undefined

/** Condition keys whose value is a member of the request: the key after `kms:`, and the members that may carry it. */
const memberKeys: Readonly<Record<string, readonly string[]>> = {
  bypasspolicylockoutsafetycheck: ['BypassPolicyLockoutSafetyCheck'],
  datakeypairspec: ['KeyPairSpec'],
  encapsulationalgorithm: ['EncapsulationAlgorithm'],
  keyagreementalgorithm: ['KeyAgreementAlgorithm'],
  macalgorithm: ['MacAlgorithm'],
  messagetype: ['MessageType'],
  primaryregion: ['PrimaryRegion'],
  replicaregion: ['ReplicaRegion'],
  rotationperiodindays: ['RotationPeriodInDays'],
  schedulekeydeletionpendingwindowindays: ['PendingWindowInDays'],
  expirationmodel: ['ExpirationModel'],
  signingalgorithm: ['SigningAlgorithm'],
  wrappingalgorithm: ['WrappingAlgorithm'],
  wrappingkeyspec: ['WrappingKeySpec'],
}

/**
 * The request's condition keys, looked up only when a policy asks for them. Names come in lower case.
 * Source: AWS's "Condition keys for AWS KMS" and "AWS global condition context keys".
 */
export function requestContext(call: Call, found: FoundKey | undefined, members: Members = ordinaryMembers): ConditionContext {
  return (name): Value => {
    if (name.startsWith('kms:')) return kmsKey(call, found, members, name.slice(4))
    if (name.startsWith('aws:')) return globalKey(call, found, name.slice(4))
    if (name.startsWith('sts:')) return stsKey(call, name.slice(4))
    return undefined
  }
}

/** A request with two keys has two contexts; a policy on one key must never be met by the other key's. */
interface Members {
  readonly context: string
  readonly algorithm: string
}
const ordinaryMembers: Members = { context: 'EncryptionContext', algorithm: 'EncryptionAlgorithm' }

function kmsKey(call: Call, found: FoundKey | undefined, members: Members, name: string): Value {
  const { input } = call
  const key = found?.record
  const contextPrefix = 'encryptioncontext:'
  if (name.startsWith(contextPrefix)) {
    // Condition key names ignore case, the names inside an encryption context do not. A policy's question must have one answer: were
    // two names to answer it, a caller could slip past a Deny by adding the second.
    const wanted = name.slice(contextPrefix.length)
    const matching = Object.entries(encryptionContext(call, members)).filter(([key]) => key.toLowerCase() === wanted)
    if (matching.length > 1) {
      throw kmsError(
        'ValidationException',
        'The encryption context has names that differ only by case, and a policy depends on one of them.',
      )
    }
    return matching[0]?.[1]
  }
  switch (name) {
    case 'encryptionalgorithm':
      // Data keys are encrypted without being asked how.
      return text(input[members.algorithm]) ?? (call.operation.name.startsWith('GenerateDataKey') ? 'SYMMETRIC_DEFAULT' : undefined)
    case 'encryptioncontextkeys': {
      const names = Object.keys(encryptionContext(call, members))
      return names.length > 0 ? names : undefined
    }
    // Each has an older name, which works the same way.
    case 'keyspec':
    case 'customermasterkeyspec':
      return key?.spec ?? text(input['KeySpec'] ?? input['CustomerMasterKeySpec']) ?? created(call, 'SYMMETRIC_DEFAULT')
    case 'keyusage':
    case 'customermasterkeyusage':
      return key?.usage ?? text(input['KeyUsage']) ?? created(call, 'ENCRYPT_DECRYPT')
    case 'keyorigin':
      return key?.origin ?? text(input['Origin']) ?? created(call, 'AWS_KMS')
    case 'multiregion':
      return key ? String(key.multiRegion) : (text(input['MultiRegion']) ?? created(call, 'false'))
    case 'multiregionkeytype':
      return key?.multiRegion ? (isPrimary(key) ? 'PRIMARY' : 'REPLICA') : undefined
    case 'validto':
      return typeof input['ValidTo'] === 'number' ? new Date(input['ValidTo']).toISOString() : undefined
    case 'viaservice': {
      const name = call.service.managedKeys.serviceOf(call.principal)
      return name === undefined ? undefined : viaService(name, call.region)
    }
    case 'requestalias':
      return found?.alias
    case 'resourcealiases': {
      const names = key ? call.service.store.view.aliasesOf(key.arn).map((alias) => alias.name) : []
      return names.length > 0 ? names : undefined
    }
    case 'reencryptonsamekey': {
      const arns = call.touched.map(({ arn }) => arn)
      return arns.length > 1 ? String(arns[0] === arns[1]) : undefined
    }
    default: {
      if (name.startsWith('grant') || name.startsWith('retiring')) return grantKey(call, name)
      const carriers = Object.hasOwn(memberKeys, name) ? memberKeys[name] : undefined
      if (!carriers) return undefined
      return carriers.map((member) => text(input[member])).find((value) => value !== undefined)
    }
  }
}

const created = (call: Call, value: string): string | undefined => (call.operation.name === 'CreateKey' ? value : undefined)

/** Of CreateGrant it is the one that the new grant's constraint speaks of. */
function encryptionContext(call: Call, members: Members): Pairs {
  if (call.operation.name === 'CreateGrant') {
    const { encryptionContextEquals, encryptionContextSubset } = givenConstraints(call)
    return encryptionContextEquals ?? encryptionContextSubset ?? {}
  }
  return (call.input[members.context] as Pairs | undefined) ?? {}
}

/** What the grant is to permit. To show a key in an XKS store is to grant AWS KMS both of these, without constraints. */
const handedOn = ({ operation, input }: Call): readonly string[] =>
  operation.name === 'AddXksKey' ? ['Encrypt', 'Decrypt'] : (input['Operations'] as readonly string[])

/** CreateGrant's Constraints. An empty map is none. */
export function givenConstraints({ input }: Call): GrantConstraints {
  const given = input['Constraints'] as
    | { readonly EncryptionContextEquals?: Pairs; readonly EncryptionContextSubset?: Pairs; readonly SourceArn?: string }
    | undefined
  const some = (pairs: Pairs | undefined): Pairs | undefined => (pairs && Object.keys(pairs).length > 0 ? pairs : undefined)
  const equals = some(given?.EncryptionContextEquals)
  const subset = some(given?.EncryptionContextSubset)
  return {
    ...(equals && { encryptionContextEquals: equals }),
    ...(subset && { encryptionContextSubset: subset }),
    ...(given?.SourceArn !== undefined && { sourceArn: given.SourceArn }),
  }
}

/** What a policy may ask about a grant that is to be made; and of those on grants whether a service asks for it. */
function grantKey(call: Call, name: string): Value {
  const { input } = call
  if (name === 'grantisforawsresource') {
    if (!['CreateGrant', 'ListGrants', 'RevokeGrant', 'AddXksKey'].includes(call.operation.name)) return undefined
    return String(call.service.managedKeys.serviceOf(call.principal) !== undefined)
  }
  if (call.operation.name !== 'CreateGrant' && call.operation.name !== 'AddXksKey') return undefined
  const constraints = givenConstraints(call)
  switch (name) {
    case 'grantconstraintsourcearn':
      return constraints.sourceArn
    case 'grantconstrainttype':
      if (constraints.encryptionContextEquals) return 'EncryptionContextEquals'
      if (constraints.encryptionContextSubset) return 'EncryptionContextSubset'
      return constraints.sourceArn === undefined ? undefined : 'SourceArn'
    case 'granteeprincipal':
      return text(input['GranteePrincipal'])
    case 'granteeserviceprincipal':
      return text(input['GranteeServicePrincipal'])
    case 'grantoperations':
      return handedOn(call)
    case 'retiringprincipal':
      return text(input['RetiringPrincipal'])
    case 'retiringserviceprincipal':
      return text(input['RetiringServicePrincipal'])
    default:
      return undefined
  }
}

/** Of a trust policy: what the caller says of the session that it asks for. */
function stsKey({ operation, input }: Call, name: string): Value {
  if (operation.name !== 'AssumeRole') return undefined
  switch (name) {
    case 'externalid':
      return text(input['ExternalId'])
    case 'rolesessionname':
      return text(input['RoleSessionName'])
    default:
      return undefined
  }
}

function globalKey(call: Call, found: FoundKey | undefined, name: string): Value {
  const key = found?.record
  if (name.startsWith('resourcetag/')) {
    const wanted = name.slice('resourcetag/'.length)
    return key?.tags.find((tag) => tag.key.toLowerCase() === wanted)?.value
  }
  if (name.startsWith('requesttag/')) {
    const wanted = name.slice('requesttag/'.length)
    const matching = requestTags(call)?.filter((tag) => tag.TagKey.toLowerCase() === wanted) ?? []
    // As with the encryption context: a second tag whose name differs by case must not hide behind the first.
    if (matching.length > 1) {
      throw kmsError('ValidationException', 'The request has tags whose names differ only by case, and a policy depends on one of them.')
    }
    return matching[0]?.TagValue
  }
  switch (name) {
    case 'currenttime':
      return new Date(call.nowMs).toISOString()
    case 'epochtime':
      return String(Math.floor(call.nowMs / 1000))
    case 'requestedregion':
      return key?.region ?? call.region
    case 'resourceaccount':
      return key?.accountId ?? call.principal.accountId
    case 'securetransport':
      return String(call.facts.tls !== undefined)
    case 'sourceip':
      return call.facts.sourceIp
    case 'tagkeys': {
      const keys = (call.input['TagKeys'] as readonly string[] | undefined) ?? requestTags(call)?.map((tag) => tag.TagKey)
      return keys && keys.length > 0 ? keys : undefined
    }
    case 'useragent':
      return call.facts.userAgent
    case 'viaawsservice':
      // Whom `kms:ViaService` names.
      return String(call.service.managedKeys.serviceOf(call.principal) !== undefined)
    default:
      return undefined
  }
}

function requestTags(call: Call): readonly Tagged[] | undefined {
  const tags = call.input['Tags'] as
    | readonly { readonly TagKey?: string; readonly Key?: string; readonly TagValue?: string; readonly Value?: string }[]
    | undefined
  return tags?.map((tag) => ({ TagKey: tag.TagKey ?? tag.Key ?? '', TagValue: tag.TagValue ?? tag.Value ?? '' }))
}
