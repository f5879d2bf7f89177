/** Policy documents, compiled once. */

export type PolicyKind = 'key' | 'identity' | 'trust' | 'session'

/** A policy that AWS would refuse; `message` is the text of MalformedPolicyDocumentException. */
export class PolicyError extends Error {
  override readonly name = 'PolicyError'
}

export interface PolicyPrincipals {
  readonly aws: readonly string[]
  readonly service: readonly string[]
  readonly federated: readonly string[]
  readonly canonicalUser: readonly string[]
}

export interface PolicyStatement {
  readonly sid?: string
  readonly effect: 'Allow' | 'Deny'
  readonly principal?: PolicyPrincipals
  readonly notPrincipal?: PolicyPrincipals
  readonly action?: readonly string[]
  readonly notAction?: readonly string[]
  readonly resource?: readonly string[]
  readonly notResource?: readonly string[]
  /** operator -> key -> values, as written. */
  readonly condition?: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>
}

/** A parsed policy: every element present is a list. */
export interface PolicyDocument {
  readonly version: '2008-10-17' | '2012-10-17'
  readonly id?: string
  readonly statements: readonly PolicyStatement[]
}

/** A policy ready to be evaluated. Immutable; make it with compilePolicy and keep it. */
export interface CompiledPolicy {
  readonly text: string
  readonly kind: PolicyKind
  readonly document: PolicyDocument
}

/** @throws PolicyError */
export function parsePolicy(_text: string, _kind?: PolicyKind): PolicyDocument {
  throw new Error('not built')
}

/** @throws PolicyError */
export function compilePolicy(_source: string, _kind: PolicyKind): CompiledPolicy {
  throw new Error('not built')
}
