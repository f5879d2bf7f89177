/** Who may do what: one decision from principal, action, resource, context and policies. */

import type { CompiledPolicy } from './policy.ts'
import type { Principal } from './principal.ts'

/** A request's condition keys. Asked with lower-case names; undefined = the key is absent. */
export type ConditionContext = (lowerCaseKey: string) => readonly string[] | string | undefined

export type DecisionReason =
  | 'AllowedByResourcePolicy'
  | 'AllowedByIdentityPolicy'
  | 'AllowedByAccountRoot'
  | 'AllowedByGrant'
  | 'ExplicitDenyInResourcePolicy'
  | 'ExplicitDenyInIdentityPolicy'
  | 'ExplicitDenyInSessionPolicy'
  | 'ExplicitDenyInTrustPolicy'
  | 'NoResourcePolicyAllows'
  | 'NoIdentityPolicyAllows'
  | 'NoSessionPolicyAllows'
  | 'NoTrustPolicyAllows'
  | 'RootMayNotAssumeRoles'

export interface AuthorizationRequest {
  readonly principal: Principal
  /** As AWS writes it: kms:Encrypt. */
  readonly action: string
  readonly resource: {
    /** The ARN, or `*` for actions without a resource. */
    readonly arn: string
    readonly accountId: string
    /** The key policy; absent for what has none (aliases, CreateKey, ListKeys …). */
    readonly policy?: CompiledPolicy
  }
  /** The request's keys; the principal's own are added by authorize and win. */
  readonly context: ConditionContext
  /** Asked last, only when no policy denies and none allows: does a grant? */
  readonly grants?: () => boolean
}

export interface Decision {
  readonly allowed: boolean
  readonly reason: DecisionReason
  /** What decided, for logs: absent when the absence of a statement did. */
  readonly statement?: {
    readonly sid: string | undefined
    readonly policy: 'resource' | 'identity' | 'session' | 'trust'
    readonly index: number
  }
}

export function authorize(_request: AuthorizationRequest): Decision {
  throw new Error('not built')
}

/** sts:AssumeRole: the role's trust policy and, where it delegates or another account asks, the caller's identity policies. */
export function authorizeAssumeRole(_request: {
  readonly principal: Principal
  readonly role: { readonly arn: string; readonly accountId: string; readonly trustPolicy: CompiledPolicy }
  readonly context: ConditionContext
}): Decision {
  throw new Error('not built')
}

/** The keys that come from the principal alone: aws:PrincipalArn, aws:PrincipalTag/…, aws:username, kms:CallerAccount … */
export function principalContext(_principal: Principal): ConditionContext {
  throw new Error('not built')
}

/** Would this key policy keep the caller from calling kms:PutKeyPolicy afterwards? (The lockout safety check.) */
export function wouldLockOut(
  _policy: CompiledPolicy,
  _principal: Principal,
  _resource: { readonly arn: string; readonly accountId: string },
  _context: ConditionContext,
): boolean {
  throw new Error('not built')
}

/** The text of AWS's AccessDeniedException. */
export function accessDeniedMessage(_denied: {
  readonly principalArn: string
  readonly action: string
  /** Left out of the text when absent. */
  readonly resourceArn?: string
  readonly reason: DecisionReason
}): string {
  throw new Error('not built')
}
