/** Who is calling, as the signature and the store established it. Authorization reads nothing else about the caller. */

import type { CompiledPolicy } from './policy.ts'

export interface Principal {
  readonly type: 'Root' | 'IAMUser' | 'AssumedRole'
  /** arn:aws:iam::ACCOUNT:root, …:user/NAME, or arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION */
  readonly arn: string
  readonly accountId: string
  /** Account id, AIDA…, or AROA…:SESSION */
  readonly principalId: string
  readonly accessKeyId: string
  readonly userName?: string
  /** Assumed roles only: the role behind the session. */
  readonly session?: {
    readonly roleArn: string
    readonly roleId: string
    readonly roleName: string
    readonly sessionName: string
    readonly issuedAt: number
    readonly expiresAt: number
  }
  readonly tags: ReadonlyMap<string, string>
  readonly identityPolicies: readonly CompiledPolicy[]
  /** Limits of an assumed session: it may do what these and its identity policies both allow. */
  readonly sessionPolicies?: readonly CompiledPolicy[]
}
