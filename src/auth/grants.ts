/**
 * Grants: what one allows, to whom, and which grants may be made out of one. Pure functions; who looks the grants up, and what else must
 * allow the call, is not decided here.
 *
 * Spec: KMS developer guide, "Grants in AWS KMS", "Creating grants", "Retiring and revoking grants".
 */

import type { Principal } from './principal.ts'

/** In the order of AWS's model: messages list them so. */
export const grantOperations = [
  'Decrypt',
  'Encrypt',
  'GenerateDataKey',
  'GenerateDataKeyWithoutPlaintext',
  'ReEncryptFrom',
  'ReEncryptTo',
  'Sign',
  'Verify',
  'GetPublicKey',
  'CreateGrant',
  'RetireGrant',
  'DescribeKey',
  'GenerateDataKeyPair',
  'GenerateDataKeyPairWithoutPlaintext',
  'GenerateMac',
  'VerifyMac',
  'DeriveSharedSecret',
  'Encapsulate',
  'Decapsulate',
] as const

/** Operations that carry an encryption context, and so can be limited by one. */
export const contextOperations: ReadonlySet<string> = new Set([
  'Decrypt',
  'Encrypt',
  'GenerateDataKey',
  'GenerateDataKeyWithoutPlaintext',
  'GenerateDataKeyPair',
  'GenerateDataKeyPairWithoutPlaintext',
  'ReEncryptFrom',
  'ReEncryptTo',
])

export type Pairs = Readonly<Record<string, string>>

/** Of the two on the encryption context a grant has one at most. */
export interface Constraints {
  readonly encryptionContextEquals?: Pairs
  readonly encryptionContextSubset?: Pairs
  readonly sourceArn?: string
}

/** Somebody whom a grant names. */
export interface Party {
  readonly arn: string
  /** The unique id of the user or role that had this ARN when the grant was made; null for what has none. */
  readonly id: string | null
}

export interface Permission {
  readonly operations: readonly string[]
  readonly constraints: Constraints
}

export interface GrantRequest {
  /** Without `kms:`. */
  readonly operation: string
  readonly encryptionContext: Pairs
  readonly sourceArn: string | undefined
  /** Of CreateGrant: what the new grant would permit. */
  readonly child?: Permission
}

/** How a grant names the caller: itself (or its role), or its account, which may pass the permission on to it. */
export type PartyMatch = 'itself' | 'account'

/** The names under which a grant can mean this caller. */
export function partyNames(principal: Principal): readonly string[] {
  const names = [principal.arn]
  if (principal.session) names.push(principal.session.roleArn)
  if (principal.type !== 'Root') names.push(accountRoot(principal.accountId))
  return names
}

/** The unique id that a grant to this caller itself has, if it has one. */
export const partyId = ({ session, principalId }: Principal): string => session?.roleId ?? principalId

/** A user or role that was made anew under an old name is not whom the grant meant. */
export function matchParty(party: Party, principal: Principal): PartyMatch | undefined {
  if (party.arn === accountRoot(principal.accountId)) return 'account'
  if (party.arn !== principal.arn && party.arn !== principal.session?.roleArn) return undefined
  return party.id === null || party.id === partyId(principal) ? 'itself' : undefined
}

const accountRoot = (accountId: string): string => `arn:aws:iam::${accountId}:root`

/** Does the grant allow its grantee this? */
export function grantAllows(grant: Permission, request: GrantRequest): boolean {
  const { operation, encryptionContext } = request
  const { encryptionContextEquals: equals, encryptionContextSubset: subset, sourceArn } = grant.constraints
  if (!grant.operations.includes(operation)) return false
  if (sourceArn !== undefined && operation !== 'RetireGrant' && sourceArn !== request.sourceArn) return false
  if (operation === 'CreateGrant') return request.child !== undefined && isWithin(grant, request.child)
  if (!contextOperations.has(operation)) return true
  if (equals) return samePairs(equals, encryptionContext)
  return subset === undefined || hasPairs(encryptionContext, subset)
}

/** A grant made with the permission of another: no operation that the parent has not, and constraints at least as strict. */
function isWithin(parent: Permission, child: Permission): boolean {
  const of = parent.constraints
  const to = child.constraints
  if (!child.operations.every((operation) => parent.operations.includes(operation))) return false
  if (of.sourceArn !== undefined && to.sourceArn !== of.sourceArn) return false
  if (of.encryptionContextEquals) {
    return to.encryptionContextEquals !== undefined && samePairs(of.encryptionContextEquals, to.encryptionContextEquals)
  }
  if (!of.encryptionContextSubset) return true
  const pairs = to.encryptionContextEquals ?? to.encryptionContextSubset
  return pairs !== undefined && hasPairs(pairs, of.encryptionContextSubset)
}

/** All of `wanted`, by case. */
function hasPairs(pairs: Pairs, wanted: Pairs): boolean {
  return Object.keys(wanted).every((name) => Object.hasOwn(pairs, name) && pairs[name] === wanted[name])
}

function samePairs(one: Pairs, other: Pairs): boolean {
  return Object.keys(one).length === Object.keys(other).length && hasPairs(one, other)
}
