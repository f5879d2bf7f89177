/**
 * Who may do what: one decision from principal, action, resource, context and policies. No I/O, no clock, no look-ups.
 *
 * The order is AWS's: an explicit deny anywhere ends it. Then the resource's own policy: what names the caller (its ARN, its
 * role, everybody) allows within the account by itself; what names the account leaves it to the account's identity policies.
 * A key knows no other way in: without either, identity policies count for nothing. From another account both sides must
 * allow. Session policies limit all of it, except what names the session by its own ARN.
 *
 * Spec: IAM user guide, "Policy evaluation logic" and "Cross-account policy evaluation logic"; KMS developer guide, "Key
 * policies" and "Troubleshooting key access".
 */

import type { PartyMatch } from './grants.ts'
import type { ConditionContext } from './pattern.ts'
import { splitArn } from './pattern.ts'
import {
  evaluatePolicies,
  evaluateResourcePolicy,
  type CompiledPolicy,
  type CompiledStatement,
  type PolicyQuestion,
  type ResourceVerdict,
} from './policy.ts'
import type { Principal } from './principal.ts'

export type { ConditionContext } from './pattern.ts'

export type DecisionReason =
  | 'AllowedByResourcePolicy'
  | 'AllowedByIdentityPolicy'
  | 'AllowedByAccountRoot'
  | 'AllowedByGrant'
  | 'ExplicitDenyInResourcePolicy'
  | 'ExplicitDenyInIdentityPolicy'
  | 'ExplicitDenyInSessionPolicy'
  | 'ExplicitDenyInTrustPolicy'
  | 'NoGrantAllows'
  | 'NoResourcePolicyAllows'
  | 'NoIdentityPolicyAllows'
  | 'NoSessionPolicyAllows'
  | 'NoTrustPolicyAllows'
  | 'RootMayNotAssumeRoles'

export interface AuthorizationRequest {
  readonly principal: Principal
  /** As AWS writes it: kms:Encrypt. Case does not matter. */
  readonly action: string
  readonly resource: {
    /** The ARN, or `*` for actions without a resource. */
    readonly arn: string
    readonly accountId: string
    /** The key policy; absent for what has none (aliases, CreateKey, ListKeys …). */
    readonly policy?: CompiledPolicy
  }
  /** The request's keys, asked with lower-case names. The principal's own keys are added by `authorize` and win. */
  readonly context: ConditionContext
  /** Asked last, only when no policy denies and none allows: does a grant allow it, and to whom? */
  readonly grants?: () => PartyMatch | undefined
}

export interface Decision {
  readonly allowed: boolean
  readonly reason: DecisionReason
  /** What decided, for logs: absent when the lack of a statement did. */
  readonly statement?: {
    readonly policy: 'resource' | 'identity' | 'session' | 'trust'
    readonly sid: string | undefined
    /** Place in its document, from 0. */
    readonly index: number
  }
}

/** Decides one action on one resource. Never throws for any input that its types allow. */
export function authorize(request: AuthorizationRequest): Decision {
  const { principal, resource } = request
  const question = ask(request.action, resource.arn, principal, request.context)
  return decide(principal, resource.accountId, resource.policy, question, 'resource', request.grants)
}

/**
 * sts:AssumeRole: the role's trust policy in the place of the key policy, with the same meaning. The account's root may not
 * assume roles, as at AWS.
 */
export function authorizeAssumeRole(request: {
  readonly principal: Principal
  readonly role: { readonly arn: string; readonly accountId: string; readonly trustPolicy: CompiledPolicy }
  readonly context: ConditionContext
  /** Session tags need their own permission in the trust policy. */
  readonly action?: 'sts:AssumeRole' | 'sts:TagSession'
}): Decision {
  const { principal, role } = request
  if (principal.type === 'Root') return { allowed: false, reason: 'RootMayNotAssumeRoles' }
  const question = ask(request.action ?? 'sts:AssumeRole', role.arn, principal, request.context)
  return decide(principal, role.accountId, role.trustPolicy, question, 'trust', undefined)
}

function ask(action: string, arn: string, principal: Principal, requestContext: ConditionContext): PolicyQuestion {
  const keys = keysOf(principal)
  return {
    lowerCaseAction: action.toLowerCase(),
    arn,
    segments: splitArn(arn),
    context: (key) => {
      const known = keys.get(key) ?? learnKey(keys, principal, key)
      return known === askRequest ? requestContext(key) : known.value
    },
  }
}

function decide(
  principal: Principal,
  resourceAccountId: string,
  resourcePolicy: CompiledPolicy | undefined,
  question: PolicyQuestion,
  policyName: 'resource' | 'trust',
  grants: (() => PartyMatch | undefined) | undefined,
): Decision {
  const sameAccount = principal.accountId === resourceAccountId
  const resourceSide = resourcePolicy && evaluateResourcePolicy(resourcePolicy, principal, question)
  if (resourceSide?.deny) {
    return decided(
      false,
      policyName === 'trust' ? 'ExplicitDenyInTrustPolicy' : 'ExplicitDenyInResourcePolicy',
      policyName,
      resourceSide.deny,
    )
  }
  const identitySide = evaluatePolicies(principal.identityPolicies, question)
  if (identitySide?.effect === 'Deny') return decided(false, 'ExplicitDenyInIdentityPolicy', 'identity', identitySide.by)
  const sessionSide = principal.sessionPolicies && evaluatePolicies(principal.sessionPolicies, question)
  if (sessionSide?.effect === 'Deny') return decided(false, 'ExplicitDenyInSessionPolicy', 'session', sessionSide.by)
  const withinSession = principal.sessionPolicies === undefined || sessionSide?.effect === 'Allow'

  const allowed = decideAllow(principal, sameAccount, resourceSide, identitySide?.by, withinSession, policyName)
  if (allowed.allowed || !resourcePolicy) return allowed
  return allowParty(principal, grants?.(), identitySide?.by, withinSession) ?? allowed
}

/**
 * What a grant gives to whom it names needs no policy beside it, in the key's account or another; a session policy still limits it. What it
 * gives to an account the account's identity policies pass on, as with a key policy that names the account.
 */
function allowParty(
  principal: Principal,
  match: PartyMatch | undefined,
  identityAllow: CompiledStatement | undefined,
  withinSession: boolean,
): Decision | undefined {
  if (match === undefined || (match === 'account' && principal.type !== 'Root' && !identityAllow)) return undefined
  return withinSession ? { allowed: true, reason: 'AllowedByGrant' } : { allowed: false, reason: 'NoSessionPolicyAllows' }
}

/**
 * kms:RetireGrant: the grant says who may, and no key policy is asked. An identity or session policy can deny it to anybody; allow it can only
 * to principals of an account that may.
 *
 * @param request.match how the caller is one of those who may retire the grant
 */
export function authorizeRetireGrant(request: {
  readonly principal: Principal
  readonly keyArn: string
  readonly context: ConditionContext
  readonly match: PartyMatch | undefined
}): Decision {
  const { principal, match } = request
  const question = ask('kms:RetireGrant', request.keyArn, principal, request.context)
  const identitySide = evaluatePolicies(principal.identityPolicies, question)
  if (identitySide?.effect === 'Deny') return decided(false, 'ExplicitDenyInIdentityPolicy', 'identity', identitySide.by)
  const sessionSide = principal.sessionPolicies && evaluatePolicies(principal.sessionPolicies, question)
  if (sessionSide?.effect === 'Deny') return decided(false, 'ExplicitDenyInSessionPolicy', 'session', sessionSide.by)
  const withinSession = principal.sessionPolicies === undefined || sessionSide?.effect === 'Allow'
  return (
    allowParty(principal, match, identitySide?.by, withinSession) ?? {
      allowed: false,
      reason: match === undefined ? 'NoGrantAllows' : 'NoIdentityPolicyAllows',
    }
  )
}

/** Nothing denies: does enough allow? */
function decideAllow(
  principal: Principal,
  sameAccount: boolean,
  resourceSide: ResourceVerdict | undefined,
  identityAllow: CompiledStatement | undefined,
  withinSession: boolean,
  policyName: 'resource' | 'trust',
): Decision {
  const noResourcePolicy = policyName === 'trust' ? 'NoTrustPolicyAllows' : 'NoResourcePolicyAllows'
  const isRoot = principal.type === 'Root'
  if (sameAccount && resourceSide) {
    // Granted to the session itself: neither its session policies nor its role's identity policies limit that.
    if (resourceSide.exact) return decided(true, 'AllowedByResourcePolicy', policyName, resourceSide.exact)
    if (resourceSide.direct && withinSession) return decided(true, 'AllowedByResourcePolicy', policyName, resourceSide.direct)
    if (resourceSide.direct) return { allowed: false, reason: 'NoSessionPolicyAllows' }
  }
  if (resourceSide) {
    const opens = resourceSide.account ?? resourceSide.direct ?? resourceSide.exact
    if (!opens) return { allowed: false, reason: noResourcePolicy }
    if (isRoot) return decided(true, 'AllowedByResourcePolicy', policyName, opens)
  } else if (!sameAccount) {
    // Nothing on the other side could let a stranger in.
    return { allowed: false, reason: noResourcePolicy }
  } else if (isRoot) {
    return { allowed: true, reason: 'AllowedByAccountRoot' }
  }
  if (!identityAllow) return { allowed: false, reason: 'NoIdentityPolicyAllows' }
  if (!withinSession) return { allowed: false, reason: 'NoSessionPolicyAllows' }
  return decided(true, 'AllowedByIdentityPolicy', 'identity', identityAllow)
}

function decided(
  allowed: boolean,
  reason: DecisionReason,
  policy: NonNullable<Decision['statement']>['policy'],
  statement: CompiledStatement,
): Decision {
  return { allowed, reason, statement: { policy, sid: statement.sid, index: statement.index } }
}

// ---- lockout ----

/**
 * The lockout safety check: would this key policy leave the caller no way to kms:PutKeyPolicy?
 * As at AWS only the key policy is asked: one that names the caller's account leaves a way, since the account can still
 * give the permission, even if this caller does not have it (kms:CreateKey alone suffices to create a key).
 *
 * @param resource the key's ARN and account; `context` the request's condition keys
 */
export function wouldLockOut(
  policy: CompiledPolicy,
  principal: Principal,
  resource: { readonly arn: string; readonly accountId: string },
  context: ConditionContext,
): boolean {
  const verdict = evaluateResourcePolicy(policy, principal, ask('kms:PutKeyPolicy', resource.arn, principal, context))
  return verdict.deny !== undefined || !(verdict.exact ?? verdict.direct ?? verdict.account)
}

// ---- what the principal itself says ----

/** The condition keys that come from the principal alone. Asked with lower-case names, as every context. */
export function principalContext(principal: Principal): ConditionContext {
  return (key) => principalKey(principal, key)
}

const principalTagPrefix = 'aws:principaltag/'

/** Keys that a request must never supply, also where this principal does not have them. */
const principalKeys: ReadonlySet<string> = new Set([
  'aws:multifactorauthpresent',
  'aws:principalaccount',
  'aws:principalarn',
  'aws:principalisawsservice',
  'aws:principaltype',
  'aws:tokenissuetime',
  'aws:userid',
  'aws:username',
  'kms:calleraccount',
])

function isPrincipalKey(key: string): boolean {
  return principalKeys.has(key) || key.startsWith(principalTagPrefix)
}

interface PrincipalKey {
  readonly value: string | undefined
}

/** Not a key of the principal: the request may have it. */
const askRequest: PrincipalKey = { value: undefined }

/** Per principal what its keys are, filled as policies ask. A principal never changes: a changed user is another object. */
const knownKeys = new WeakMap<Principal, Map<string, PrincipalKey>>()
const maxKnownKeys = 256

function keysOf(principal: Principal): Map<string, PrincipalKey> {
  let keys = knownKeys.get(principal)
  if (!keys) knownKeys.set(principal, (keys = new Map()))
  return keys
}

function learnKey(keys: Map<string, PrincipalKey>, principal: Principal, key: string): PrincipalKey {
  const known = isPrincipalKey(key) ? { value: principalKey(principal, key) } : askRequest
  if (keys.size < maxKnownKeys) keys.set(key, known)
  return known
}

function principalKey(principal: Principal, key: string): string | undefined {
  switch (key) {
    case 'aws:principalarn':
      // For a session it is the role: policies written for the role hold for each of its sessions.
      return principal.session?.roleArn ?? principal.arn
    case 'aws:principalaccount':
    case 'kms:calleraccount':
      return principal.accountId
    case 'aws:principaltype':
      return principal.type === 'Root' ? 'Account' : principal.type === 'IAMUser' ? 'User' : 'AssumedRole'
    case 'aws:principalisawsservice':
      return 'false'
    case 'aws:userid':
      return principal.principalId
    case 'aws:username':
      return principal.type === 'IAMUser' ? principal.userName : undefined
    case 'aws:multifactorauthpresent':
      // Present in requests with temporary credentials only. No MFA exists here.
      return principal.session ? 'false' : undefined
    case 'aws:tokenissuetime':
      return principal.session && new Date(principal.session.issuedAt).toISOString().replace(/\.\d+Z$/, 'Z')
    default:
      return key.startsWith(principalTagPrefix) ? principalTag(principal.tags, key.slice(principalTagPrefix.length)) : undefined
  }
}

/** Tag keys of users and roles do not depend on case. */
function principalTag(tags: ReadonlyMap<string, string>, lowerCaseKey: string): string | undefined {
  for (const [key, value] of tags) if (key.toLowerCase() === lowerCaseKey) return value
  return undefined
}

// ---- what the caller is told ----

/**
 * The text of AWS's AccessDeniedException: "User: … is not authorized to perform: … on resource: … because …".
 *
 * @param denied `resourceArn` is left out of the text when absent
 */
export function accessDeniedMessage(denied: {
  readonly principalArn: string
  readonly action: string
  readonly resourceArn?: string
  readonly reason: DecisionReason
}): string {
  if (denied.reason === 'RootMayNotAssumeRoles') return 'Roles may not be assumed by root accounts.'
  const resource = denied.resourceArn === undefined ? '' : ` on resource: ${denied.resourceArn}`
  const cause = causes[denied.reason]?.replace('{action}', denied.action)
  return `User: ${denied.principalArn} is not authorized to perform: ${denied.action}${resource}${cause === undefined ? '' : ` ${cause}`}`
}

const causes: Readonly<Partial<Record<DecisionReason, string>>> = {
  ExplicitDenyInResourcePolicy: 'with an explicit deny in a resource-based policy',
  ExplicitDenyInIdentityPolicy: 'with an explicit deny in an identity-based policy',
  ExplicitDenyInSessionPolicy: 'with an explicit deny in a session policy',
  ExplicitDenyInTrustPolicy: 'with an explicit deny in the role trust policy',
  NoGrantAllows: 'because no grant allows the {action} action',
  NoResourcePolicyAllows: 'because no resource-based policy allows the {action} action',
  NoIdentityPolicyAllows: 'because no identity-based policy allows the {action} action',
  NoSessionPolicyAllows: 'because no session policy allows the {action} action',
  NoTrustPolicyAllows: 'because no role trust policy allows the {action} action',
}
