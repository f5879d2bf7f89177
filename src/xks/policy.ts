/**
 * The policy of a store of the XKS proxy on who may have KMS ask for what (the spec's secondary authorization): statements on `requestMetadata`,
 * read from the top. The first one that matches decides; where none does, the request is allowed, as AWS recommends.
 *
 *     { "Statement": [
 *       { "Sid": "Backups", "Effect": "Allow", "ViaService": "backup.*.amazonaws.com" },
 *       { "Sid": "NothingElse", "Effect": "Deny", "Principal": "*" }
 *     ] }
 *
 * A statement matches when each of its conditions does, and a condition when one of its patterns does (`*`, `?`). What a request does not say is empty
 * text, which `*` matches and `?*` does not. Metadata is what KMS says: it is as true as KMS is.
 */

import { compilePattern, PatternError, splitArn, type Matcher } from '../auth/pattern.ts'
import { isRecord } from '../base/is-record.ts'
import type { AskedMetadata } from './requests.ts'

/** What a request is judged by. */
export interface PolicyRequest {
  readonly metadata: AskedMetadata
  readonly externalKeyId: string
  /** Of the signature: where KMS calls from. */
  readonly region: string
}

export interface PolicyDecision {
  readonly allowed: boolean
  /** The statement's Sid, or its number (from 1) as `#1`. */
  readonly statement: string
}

export interface XksPolicy {
  /** Undefined when no statement matches: allowed. */
  decide(request: PolicyRequest): PolicyDecision | undefined
}

/** What a text is that is no policy; the message says what to mend. */
export class XksPolicyError extends Error {
  override readonly name = 'XksPolicyError'
}

/** Of a policy's size and the length of what it judges follows how long a request of one store can hold up those of the others. */
export const maxPolicyCharacters = 16_384
const maxStatements = 200
const maxPatterns = 400

/** The account of a principal, or where it has none (a service, `AWS Internal`) that of the KMS key. */
function accountOf({ awsPrincipalArn, kmsKeyArn }: AskedMetadata): string {
  const ofPrincipal = splitArn(awsPrincipalArn ?? '')?.[4] ?? ''
  return ofPrincipal === '' ? (splitArn(kmsKeyArn ?? '')?.[4] ?? '') : ofPrincipal
}

/** Every condition that a statement can have. */
const conditions: Readonly<Record<string, (request: PolicyRequest) => string>> = {
  Principal: ({ metadata }) => metadata.awsPrincipalArn ?? '',
  Account: ({ metadata }) => accountOf(metadata),
  Region: ({ region }) => region,
  ViaService: ({ metadata }) => metadata.kmsViaService ?? '',
  Operation: ({ metadata }) => metadata.kmsOperation,
  Key: ({ metadata }) => metadata.kmsKeyArn ?? '',
  ExternalKeyId: ({ externalKeyId }) => externalKeyId,
  SourceVpc: ({ metadata }) => metadata.awsSourceVpc ?? '',
  SourceVpce: ({ metadata }) => metadata.awsSourceVpce ?? '',
}

interface Statement {
  readonly decision: PolicyDecision
  readonly needs: readonly { readonly value: (request: PolicyRequest) => string; readonly patterns: readonly Matcher[] }[]
}

/** @throws XksPolicyError */
export function compileXksPolicy(text: string): XksPolicy {
  if (text.length > maxPolicyCharacters) throw new XksPolicyError(`The policy is longer than ${maxPolicyCharacters} characters.`)
  let document: unknown
  try {
    document = JSON.parse(text)
  } catch {
    throw new XksPolicyError('The policy is not JSON.')
  }
  const members = membersOf(document, 'The policy')
  refuseOthers(members, ['Statement'], 'The policy')
  const list = members['Statement']
  if (!Array.isArray(list) || list.length === 0 || list.length > maxStatements)
    throw new XksPolicyError(`Statement must be a list of 1 to ${maxStatements} statements.`)
  const statements = list.map((statement: unknown, index) => compileStatement(statement, index + 1))
  const patterns = statements.flatMap(({ needs }) => needs.flatMap((need) => need.patterns)).length
  if (patterns > maxPatterns) throw new XksPolicyError(`The policy has ${patterns} patterns, of at most ${maxPatterns}.`)
  const names = statements.map(({ decision }) => decision.statement)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) throw new XksPolicyError(`Two statements have the Sid ${JSON.stringify(twice)}.`)
  return {
    decide: (request) => statements.find(({ needs }) => needs.every((need) => isMet(need, request)))?.decision,
  }
}

const noVariables = (): undefined => undefined

function isMet({ value, patterns }: Statement['needs'][number], request: PolicyRequest): boolean {
  const text = value(request)
  return patterns.some((matches) => matches(text, noVariables))
}

function compileStatement(value: unknown, number: number): Statement {
  const where = `Statement ${number}`
  const members = membersOf(value, where)
  refuseOthers(members, ['Sid', 'Effect', ...Object.keys(conditions)], where)
  const { Sid: sid, Effect: effect, ...needs } = members
  if (effect !== 'Allow' && effect !== 'Deny') throw new XksPolicyError(`${where}: Effect must be Allow or Deny.`)
  if (sid !== undefined && (typeof sid !== 'string' || !/^[\w.-]{1,64}$/.test(sid)))
    throw new XksPolicyError(`${where}: Sid must be 1 to 64 letters, digits, or any of _ . -`)
  if (Object.keys(needs).length === 0)
    throw new XksPolicyError(`${where} has no condition. "Principal": "*" is one that every request meets.`)
  return {
    decision: { allowed: effect === 'Allow', statement: sid ?? `#${number}` },
    needs: Object.entries(needs).map(([name, patterns]) => {
      const of = conditions[name]
      if (!of) throw new XksPolicyError(`${where} has ${name}, which is no condition.`)
      return { value: of, patterns: patternsOf(patterns, `${where}: ${name}`) }
    }),
  }
}

function patternsOf(value: unknown, where: string): readonly Matcher[] {
  const texts: unknown[] = Array.isArray(value) ? value : [value]
  if (texts.length === 0) throw new XksPolicyError(`${where} is an empty list, which nothing would match.`)
  return texts.map((text) => {
    if (typeof text !== 'string' || text.length > 2048)
      throw new XksPolicyError(`${where} must be text of at most 2048 characters, or a list of such texts.`)
    try {
      // The older version has no variables.
      return compilePattern(text, { wildcards: true, version: '2008-10-17' })
    } catch (error) {
      if (error instanceof PatternError) throw new XksPolicyError(`${where}: ${error.message}`)
      throw error
    }
  })
}

function membersOf(value: unknown, where: string): Readonly<Record<string, unknown>> {
  if (!isRecord(value)) throw new XksPolicyError(`${where} must be a JSON object.`)
  return value
}

function refuseOthers(members: Readonly<Record<string, unknown>>, known: readonly string[], where: string): void {
  const other = Object.keys(members).find((name) => !known.includes(name))
  if (other !== undefined)
    throw new XksPolicyError(`${where} has ${JSON.stringify(other.slice(0, 64))}, which is none of ${known.join(', ')}.`)
}
