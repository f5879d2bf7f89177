/**
 * Policy documents: read as strictly as AWS reads them, compiled once, evaluated many times.
 *
 * `parsePolicy` makes every element a list and refuses what it does not know: an element silently dropped could be the one
 * that denies. `compilePolicy` turns the statements into matchers and indexes them by action on first use, so that a call
 * looks only at statements that speak of it. Texts of PolicyError are AWS's where they are known.
 *
 * Spec: IAM user guide, "Grammar of the IAM JSON policy language"; KMS developer guide, "Key policies".
 */

import { isRecord } from '../base/is-record.ts'
import { compileConditions, ConditionError, conditionsHold, type Condition, type ConditionBlock } from './conditions.ts'
import {
  compileArnPattern,
  compilePattern,
  PatternError,
  splitArn,
  type ArnMatcher,
  type ConditionContext,
  type PolicyVersion,
} from './pattern.ts'
import type { Principal } from './principal.ts'

/** What a policy is attached to: a key, a user or role, a role's trust, an assumed session. */
export type PolicyKind = 'key' | 'identity' | 'trust' | 'session'

/** A policy that AWS would refuse; `message` is the text of MalformedPolicyDocumentException. */
export class PolicyError extends Error {
  override readonly name = 'PolicyError'
}

export interface PolicyPrincipals {
  /** `*`, account ids, ARNs and unique ids, as written; of a session's the id goes on with its name, `AROA…:NAME`. */
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
  readonly condition?: ConditionBlock
}

/** A parsed policy: what may be one or many is a list. */
export interface PolicyDocument {
  readonly version: PolicyVersion
  readonly id?: string
  readonly statements: readonly PolicyStatement[]
}

/** A policy ready to be evaluated. Immutable for its user; make it with compilePolicy and keep it. */
export interface CompiledPolicy {
  /** The statements that speak of this action (lower-case), in order. */
  applicable(lowerCaseAction: string): ApplicableStatements
}

export interface ApplicableStatements {
  readonly deny: readonly CompiledStatement[]
  readonly allow: readonly CompiledStatement[]
}

export interface CompiledStatement {
  /** Place in the document, from 0. */
  readonly index: number
  readonly sid: string | undefined
  /** Undefined where the kind of policy has no principals. */
  readonly matchPrincipal: ((principal: Principal) => PrincipalMatch) | undefined
  readonly matchResource: (question: ResourceQuestion) => boolean
  readonly conditions: readonly Condition[]
}

/**
 * How a statement's principal element names the caller: as its account, as everybody, by the role behind its session, or as
 * itself, by ARN or unique id. What follows from it differs, see `authorize`.
 */
export type PrincipalMatch = 'none' | 'account' | 'anyone' | 'role' | 'exact'

export interface ResourceQuestion {
  readonly arn: string
  readonly segments: readonly string[] | undefined
  readonly context: ConditionContext
}

const syntaxError = 'Syntax errors in policy.'
const noVendor = 'Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.'
const invalidPrincipals = 'Policy contains a statement with one or more invalid principals.'

/** The wire's own bound for every policy member. */
const maxPolicyCharacters = 131_072

/** @throws PolicyError, and nothing else */
export function parsePolicy(text: string, kind: PolicyKind): PolicyDocument {
  if (text.length > maxPolicyCharacters) throw new PolicyError('Policy document is too long.')
  const root = parseJson(text, kind)
  const { Version, Id, Statement, ...unknown } = object(root)
  refuseUnknown(unknown)
  const version = Version ?? '2008-10-17'
  if (version !== '2008-10-17' && version !== '2012-10-17') throw new PolicyError(syntaxError)
  if (Id !== undefined && typeof Id !== 'string') throw new PolicyError(syntaxError)
  const list = Array.isArray(Statement) ? (Statement as unknown[]) : [Statement]
  if (list.length === 0) throw new PolicyError(syntaxError)
  const statements = list.map((statement) => parseStatement(statement, kind))
  if (kind === 'identity' || kind === 'session') {
    const sids = statements.flatMap(({ sid }) => (sid === undefined ? [] : [sid]))
    if (new Set(sids).size !== sids.length) throw new PolicyError('Statement IDs (SID) in a single policy must be unique.')
  }
  return { version, ...(Id === undefined ? {} : { id: Id }), statements }
}

/** @throws PolicyError, and nothing else */
export function compilePolicy(text: string, kind: PolicyKind): CompiledPolicy {
  const { version, statements: parsed } = parsePolicy(text, kind)
  const statements = parsed.map((statement, index) => compileStatement(statement, index, version, kind))
  const index = new Map<string, ApplicableStatements>()
  return {
    applicable(action) {
      const known = index.get(action)
      if (known) return known
      const matching = statements.filter(({ matchesAction }) => matchesAction(action))
      const applicable = {
        deny: matching.filter(({ effect }) => effect === 'Deny').map(({ compiled }) => compiled),
        allow: matching.filter(({ effect }) => effect === 'Allow').map(({ compiled }) => compiled),
      }
      // The service's actions are few; the bound only keeps a caller of this function honest.
      if (index.size < 1024) index.set(action, applicable)
      return applicable
    },
  }
}

// ---- evaluation ----

export interface PolicyQuestion extends ResourceQuestion {
  readonly lowerCaseAction: string
}

/** The first statement of these policies that denies, else the first that allows. For policies without principals. */
export function evaluatePolicies(
  policies: readonly CompiledPolicy[],
  question: PolicyQuestion,
): { readonly effect: 'Deny' | 'Allow'; readonly by: CompiledStatement } | undefined {
  let allowed: CompiledStatement | undefined
  for (const policy of policies) {
    const { deny, allow } = policy.applicable(question.lowerCaseAction)
    for (const statement of deny) if (applies(statement, question)) return { effect: 'Deny', by: statement }
    if (allowed) continue
    allowed = allow.find((statement) => applies(statement, question))
  }
  return allowed && { effect: 'Allow', by: allowed }
}

/** What a policy with principals says about one of them. */
export interface ResourceVerdict {
  readonly deny: CompiledStatement | undefined
  /** Names the caller itself. */
  readonly exact: CompiledStatement | undefined
  /** Names its role, or everybody. */
  readonly direct: CompiledStatement | undefined
  /** Names the account: leaves it to the account's identity policies. */
  readonly account: CompiledStatement | undefined
}

/** For key and trust policies. */
export function evaluateResourcePolicy(policy: CompiledPolicy, principal: Principal, question: PolicyQuestion): ResourceVerdict {
  const { deny, allow } = policy.applicable(question.lowerCaseAction)
  for (const statement of deny) {
    if (matchOf(statement, principal) !== 'none' && applies(statement, question)) {
      return { deny: statement, exact: undefined, direct: undefined, account: undefined }
    }
  }
  let exact: CompiledStatement | undefined
  let direct: CompiledStatement | undefined
  let account: CompiledStatement | undefined
  for (const statement of allow) {
    const match = matchOf(statement, principal)
    if (match === 'none') continue
    const found = match === 'exact' ? exact : match === 'account' ? account : direct
    if (found || !applies(statement, question)) continue
    if (match === 'exact') exact = statement
    else if (match === 'account') account = statement
    else direct = statement
  }
  return { deny: undefined, exact, direct, account }
}

function matchOf(statement: CompiledStatement, principal: Principal): PrincipalMatch {
  return statement.matchPrincipal === undefined ? 'none' : statement.matchPrincipal(principal)
}

function applies(statement: CompiledStatement, question: PolicyQuestion): boolean {
  return statement.matchResource(question) && conditionsHold(statement.conditions, question.context)
}

// ---- compiling ----

interface IndexedStatement {
  readonly effect: 'Allow' | 'Deny'
  readonly matchesAction: (lowerCaseAction: string) => boolean
  readonly compiled: CompiledStatement
}

function compileStatement(statement: PolicyStatement, index: number, version: PolicyVersion, kind: PolicyKind): IndexedStatement {
  try {
    return {
      effect: statement.effect,
      matchesAction: isWhole(statement, kind) ? compileActions(statement) : () => false,
      compiled: {
        index,
        sid: statement.sid,
        matchPrincipal: compilePrincipals(statement),
        matchResource: compileResources(statement, version, kind),
        conditions: compileConditions(statement.condition ?? {}, version),
      },
    }
  } catch (error) {
    if (error instanceof ConditionError || error instanceof PatternError) throw new PolicyError(error.message)
    throw error
  }
}

/**
 * A statement of a key policy without actions or resources is kept and has no effect: "the PutKeyPolicy API request succeeds, even though the
 * policy statement is ineffective" (KMS API reference). Other policies are refused before they come here.
 */
function isWhole(statement: PolicyStatement, kind: PolicyKind): boolean {
  return (
    kind !== 'key' ||
    ((statement.action ?? statement.notAction) !== undefined && (statement.resource ?? statement.notResource) !== undefined)
  )
}

function compileActions({ action, notAction }: PolicyStatement): (lowerCaseAction: string) => boolean {
  // Variables mean nothing in an action, so the old version's reading serves.
  const compile = (text: string) => compilePattern(text === '*:*' ? '*' : text.toLowerCase(), { wildcards: true, version: '2008-10-17' })
  const none: ConditionContext = () => undefined
  const matchers = (action ?? notAction ?? []).map(compile)
  const listed = (name: string): boolean => matchers.some((matches) => matches(name, none))
  return action ? listed : (name) => !listed(name)
}

function compileResources(
  { resource, notResource }: PolicyStatement,
  version: PolicyVersion,
  kind: PolicyKind,
): CompiledStatement['matchResource'] {
  // A trust policy has no resource: it is about the role it belongs to.
  const patterns = resource ?? notResource
  if (!patterns) return () => true
  const matchers = patterns.map((text): ArnMatcher => {
    if (text === '*') return () => true
    return compileArnPattern(text, { version, expand: kind !== 'key' || text.includes('*') })
  })
  const listed = ({ arn, segments, context }: ResourceQuestion): boolean => {
    for (const matches of matchers) if (matches(arn, segments, context)) return true
    return false
  }
  return resource ? listed : (question) => !listed(question)
}

function compilePrincipals({ effect, principal, notPrincipal }: PolicyStatement): CompiledStatement['matchPrincipal'] {
  const named = principal ?? notPrincipal
  if (!named) return undefined
  const anyone = named.aws.includes('*')
  const accounts = new Set(named.aws.flatMap((text) => accountOf(text) ?? []))
  const names = new Set(named.aws)
  // Services, federated identities and canonical users are read and shown, and match nobody: no such caller exists here.
  const match = (caller: Principal): PrincipalMatch => {
    if (names.has(caller.arn) || names.has(caller.principalId)) return 'exact'
    if (caller.session && (names.has(caller.session.roleArn) || names.has(caller.session.roleId))) return 'role'
    if (anyone) return 'anyone'
    return accounts.has(caller.accountId) ? 'account' : 'none'
  }
  if (principal) return match
  // "Deny everybody but Bob" lists Bob's account too, as it must, and still denies the account's other users: an account in the list of
  // a Deny spares its root and nobody else (user guide, "NotPrincipal").
  const spares = (found: PrincipalMatch): boolean => found !== 'none' && !(effect === 'Deny' && found === 'account')
  return (caller) => (spares(match(caller)) ? 'none' : 'anyone')
}

function accountOf(text: string): string | undefined {
  if (/^\d{12}$/.test(text)) return text
  const segments = splitArn(text)
  return segments?.[2] === 'iam' && segments[5] === 'root' ? segments[4] : undefined
}

// ---- parsing ----

type JsonObject = Readonly<Record<string, unknown>>

function parseJson(text: string, kind: PolicyKind): unknown {
  let root: unknown
  try {
    root = JSON.parse(text)
  } catch {
    throw new PolicyError(kind === 'trust' ? 'This policy contains invalid Json' : syntaxError)
  }
  if (hasDuplicateKeys(text)) throw new PolicyError(syntaxError)
  return root
}

/**
 * "Individual elements must not contain multiple instances of the same key": JSON.parse would keep the last one only, and
 * the one it drops may be a Deny. The text is known to be JSON, so only strings and brackets matter.
 */
function hasDuplicateKeys(text: string): boolean {
  const open: (Set<string> | undefined)[] = []
  for (let index = 0; index < text.length; index++) {
    const character = text[index]
    if (character === '{') open.push(new Set())
    else if (character === '[') open.push(undefined)
    else if (character === '}' || character === ']') open.pop()
    else if (character === '"') {
      const from = index
      for (index++; text[index] !== '"'; index++) if (text[index] === '\\') index++
      const keys = open.at(-1)
      if (!keys || !isKey(text, index + 1)) continue
      const key = JSON.parse(text.slice(from, index + 1)) as string
      if (keys.has(key)) return true
      keys.add(key)
    }
  }
  return false
}

/**
 * The text with other principals of AWS in its Principal and NotPrincipal elements, and otherwise to the letter as it was.
 *
 * @param text has passed `parsePolicy`
 * @param change answers what to write instead, or the same
 */
export function mapPrincipals(text: string, change: (principal: string) => string): string {
  /** The keys that lead to where we are; a list adds none. */
  const path: (string | undefined)[] = []
  const pieces: string[] = []
  let copied = 0
  for (let index = 0; index < text.length; index++) {
    const character = text[index]
    if (character === '{' || character === '[') path.push(undefined)
    else if (character === '}' || character === ']') path.pop()
    else if (character === '"') {
      const from = index
      for (index++; text[index] !== '"'; index++) if (text[index] === '\\') index++
      const value = JSON.parse(text.slice(from, index + 1)) as string
      if (isKey(text, index + 1)) path[path.length - 1] = value
      else if (/^Statement (?:Not)?Principal AWS$/.test(path.filter((key) => key !== undefined).join(' '))) {
        const changed = change(value)
        if (changed === value) continue
        pieces.push(text.slice(copied, from), JSON.stringify(changed))
        copied = index + 1
      }
    }
  }
  return pieces.join('') + text.slice(copied)
}

/** Does a colon follow? */
function isKey(text: string, from: number): boolean {
  let index = from
  while (text.charCodeAt(index) <= 0x20) index++
  return text[index] === ':'
}

function object(value: unknown): JsonObject {
  if (!isRecord(value)) throw new PolicyError(syntaxError)
  return value
}

function refuseUnknown(rest: JsonObject): void {
  if (Object.keys(rest).length > 0) throw new PolicyError(syntaxError)
}

/** A string or a list of them. */
function strings(value: unknown): readonly string[] {
  const list = Array.isArray(value) ? (value as unknown[]) : [value]
  if (!list.every((item) => typeof item === 'string')) throw new PolicyError(syntaxError)
  return list
}

function parseStatement(value: unknown, kind: PolicyKind): PolicyStatement {
  const { Sid, Effect, Principal, NotPrincipal, Action, NotAction, Resource, NotResource, Condition, ...unknown } = object(value)
  refuseUnknown(unknown)
  if (Effect !== 'Allow' && Effect !== 'Deny') throw new PolicyError(syntaxError)
  return {
    effect: Effect,
    ...parseSid(Sid, kind),
    ...parsePrincipalElement(Principal, NotPrincipal, kind),
    ...parseActionElement(Action, NotAction, kind),
    ...parseResourceElement(Resource, NotResource, kind),
    ...(Condition === undefined ? {} : { condition: parseCondition(Condition) }),
  }
}

function parseSid(sid: unknown, kind: PolicyKind): Pick<PolicyStatement, 'sid'> {
  if (sid === undefined) return {}
  if (typeof sid !== 'string') throw new PolicyError(syntaxError)
  // Policies of resources may have spaces and more in it, as the default key policy has.
  if ((kind === 'identity' || kind === 'session') && !/^[0-9A-Za-z]*$/.test(sid)) {
    throw new PolicyError('Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression [0-9A-Za-z]*')
  }
  return { sid }
}

function parseActionElement(action: unknown, notAction: unknown, kind: PolicyKind): Pick<PolicyStatement, 'action' | 'notAction'> {
  if (action !== undefined && notAction !== undefined) throw new PolicyError(syntaxError)
  if (action === undefined && notAction === undefined) {
    if (kind === 'key') return {}
    throw new PolicyError('Policy statement must contain actions.')
  }
  const list = strings(action ?? notAction)
  if (list.length === 0) throw new PolicyError('Policy statement must contain actions.')
  for (const item of list) checkAction(item, kind)
  return action === undefined ? { notAction: list } : { action: list }
}

function checkAction(action: string, kind: PolicyKind): void {
  if (kind === 'trust' && !/^sts:/i.test(action)) throw new PolicyError('AssumeRole policy may only specify STS AssumeRole actions.')
  if (action === '*' || action === '*:*') return
  const [vendor = '', name, ...more] = action.split(':')
  if (name === undefined || name === '') throw new PolicyError(noVendor)
  if (more.length > 0) throw new PolicyError('Actions/Condition can contain only one colon.')
  if (!/^[A-Za-z0-9-]+$/.test(vendor)) throw new PolicyError(`Vendor ${vendor.slice(0, 64)} is not valid`)
  if (!/^[A-Za-z0-9*?_-]+$/.test(name)) throw new PolicyError(syntaxError)
}

function parseResourceElement(
  resource: unknown,
  notResource: unknown,
  kind: PolicyKind,
): Pick<PolicyStatement, 'resource' | 'notResource'> {
  if (resource !== undefined && notResource !== undefined) throw new PolicyError(syntaxError)
  if (kind === 'trust') {
    if (resource !== undefined || notResource !== undefined) throw new PolicyError('Has prohibited field Resource')
    return {}
  }
  if (resource === undefined && notResource === undefined) {
    if (kind === 'key') return {}
    throw new PolicyError('Policy statement must contain resources.')
  }
  const list = strings(resource ?? notResource)
  if (list.length === 0) throw new PolicyError('Policy statement must contain resources.')
  for (const item of list) checkResource(item, kind)
  return resource === undefined ? { notResource: list } : { resource: list }
}

function checkResource(resource: string, kind: PolicyKind): void {
  if (resource === '*') return
  if (!resource.startsWith('arn:')) throw new PolicyError(`Resource ${resource.slice(0, 256)} must be in ARN format or "*".`)
  const [, partition = '', service] = resource.split(':')
  if (!/^aws(?:-[a-z]+)*$|[*?]/.test(partition)) {
    throw new PolicyError(`Partition "${partition.slice(0, 64)}" is not valid for resource "${resource.slice(0, 256)}".`)
  }
  if (kind !== 'key' && !/^[A-Za-z0-9-]+$/.test(service ?? '')) {
    throw new PolicyError('Resource vendor must be fully qualified and cannot contain regexes.')
  }
}

function parsePrincipalElement(
  principal: unknown,
  notPrincipal: unknown,
  kind: PolicyKind,
): Pick<PolicyStatement, 'principal' | 'notPrincipal'> {
  const given = principal ?? notPrincipal
  if (kind === 'identity' || kind === 'session') {
    if (given !== undefined) throw new PolicyError('Policy document should not specify a principal.')
    return {}
  }
  if (principal !== undefined && notPrincipal !== undefined) throw new PolicyError(syntaxError)
  if (given === undefined)
    throw new PolicyError(kind === 'trust' ? 'Missing required field Principal' : 'Policy statement must contain principals.')
  const parsed = parsePrincipals(given)
  return principal === undefined ? { notPrincipal: parsed } : { principal: parsed }
}

function parsePrincipals(value: unknown): PolicyPrincipals {
  if (value === '*') return { aws: ['*'], service: [], federated: [], canonicalUser: [] }
  const { AWS, Service, Federated, CanonicalUser, ...unknown } = typeof value === 'string' ? refusePrincipals() : object(value)
  if (Object.keys(unknown).length > 0) throw new PolicyError(invalidPrincipals)
  const list = (given: unknown): readonly string[] => (given === undefined ? [] : strings(given))
  const principals = { aws: list(AWS), service: list(Service), federated: list(Federated), canonicalUser: list(CanonicalUser) }
  if (!principals.aws.every(isAwsPrincipal) || !principals.service.every((name) => /^[a-z0-9.-]+$/.test(name))) refusePrincipals()
  if (principals.aws.length + principals.service.length + principals.federated.length + principals.canonicalUser.length === 0)
    refusePrincipals()
  return principals
}

function refusePrincipals(): never {
  throw new PolicyError(invalidPrincipals)
}

/**
 * `*`, an account, its root, a user, a role, a session, or the unique id that AWS leaves behind when a user or role is gone.
 * Wildcards within an ARN are not allowed here; whether the principal exists is for the caller to check.
 */
function isAwsPrincipal(text: string): boolean {
  return (
    text === '*' ||
    /^\d{12}$/.test(text) ||
    /^arn:aws:iam::\d{12}:(?:root|(?:user|role)\/[\x21-\x29\x2b-\x3e\x40-\x7e]+)$/.test(text) ||
    /^arn:aws:sts::\d{12}:(?:assumed-role\/[\w+=,.@-]+\/[\w+=,.@-]+|federated-user\/[\w+=,.@-]+)$/.test(text) ||
    /^A(?:IDA[A-Z0-9]{8,124}|ROA[A-Z0-9]{8,124}(?::[\w+=,.@-]+)?)$/.test(text)
  )
}

function parseCondition(value: unknown): ConditionBlock {
  // Without prototypes: names come from the policy, and `__proto__` must not vanish.
  const block = Object.create(null) as Record<string, Readonly<Record<string, readonly string[]>>>
  for (const [operator, entries] of Object.entries(object(value))) {
    const keys = Object.create(null) as Record<string, readonly string[]>
    for (const [key, values] of Object.entries(object(entries))) {
      if (!/^[A-Za-z0-9-]+:./.test(key)) throw new PolicyError(noVendor)
      keys[key] = conditionValues(values)
    }
    block[operator] = keys
  }
  return block
}

function conditionValues(value: unknown): readonly string[] {
  const list = Array.isArray(value) ? (value as unknown[]) : [value]
  return list.map((item) => {
    if (typeof item === 'string') return item
    if (typeof item === 'boolean' || typeof item === 'number') return String(item)
    throw new PolicyError(syntaxError)
  })
}
