/**
 * The Condition element: operators as a table, compiled once per policy into functions of the request's context.
 *
 * All entries must hold (AND); of an entry's values one must match (OR), for a negated operator none may (NOR). Key names
 * do not depend on case, values do. An absent key fails a positive operator and satisfies a negated one, `…IfExists` and
 * `ForAllValues:`; it fails `ForAnyValue:` whatever follows. A multi-valued key needs a set operator: a plain one never
 * matches it, as at AWS.
 *
 * Refused when compiled: unknown operators and values that their operator cannot read. A condition that can never match
 * would make a Deny silently powerless.
 *
 * Spec: IAM user guide, "IAM JSON policy elements: Condition operators" and "Set operators for multivalued context keys".
 */

import { Buffer } from 'node:buffer'
import { isIPv4, isIPv6 } from 'node:net'
import { compileArnPattern, compilePattern, splitArn, type ConditionContext, type PolicyVersion } from './pattern.ts'

export type Condition = (context: ConditionContext) => boolean

/** operator -> key -> values */
export type ConditionBlock = Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>

/** The Condition element cannot be compiled. `message` as AWS says it. */
export class ConditionError extends Error {
  override readonly name = 'ConditionError'
}

/**
 * Does a request's value match one value of the policy? `undefined`: the request's value is not of the operator's type, and
 * the entry does not match, whether negated or not. A variable without value is no such case: nothing equals it, so that a
 * negated operator holds (user guide, "Policy variables with no value").
 */
type ValueTest = (value: string, context: ConditionContext) => boolean | undefined

interface Operator {
  readonly negated: boolean
  compile(policyValue: string, version: PolicyVersion): ValueTest
}

/** @throws ConditionError, PatternError */
export function compileConditions(block: ConditionBlock, version: PolicyVersion): readonly Condition[] {
  const conditions: Condition[] = []
  for (const [operator, entries] of Object.entries(block)) {
    for (const [key, values] of Object.entries(entries)) conditions.push(compileEntry(operator, key, values, version))
  }
  return conditions
}

export function conditionsHold(conditions: readonly Condition[], context: ConditionContext): boolean {
  for (const condition of conditions) if (!condition(context)) return false
  return true
}

function compileEntry(name: string, key: string, values: readonly string[], version: PolicyVersion): Condition {
  const { operator, set, ifExists } = findOperator(name)
  const lowerKey = key.toLowerCase()
  if (operator === 'Null') return compileNull(lowerKey, values)
  const tests = values.map((value) => operator.compile(value, version))
  const { negated } = operator
  const matches = (value: string, context: ConditionContext): boolean => {
    let matched = false
    for (const test of tests) {
      const result = test(value, context)
      if (result === undefined && negated) return false
      if (result === true) {
        if (!negated) return true
        matched = true
      }
    }
    return negated && !matched
  }
  if (set === 'ForAllValues') {
    return (context) => {
      const value = context(lowerKey)
      return isAbsent(value) || (typeof value === 'string' ? matches(value, context) : value.every((item) => matches(item, context)))
    }
  }
  if (set === 'ForAnyValue') {
    return (context) => {
      const value = context(lowerKey)
      if (isAbsent(value)) return false
      return typeof value === 'string' ? matches(value, context) : value.some((item) => matches(item, context))
    }
  }
  return (context) => {
    const value = context(lowerKey)
    if (isAbsent(value)) return negated || ifExists
    return typeof value === 'string' && matches(value, context)
  }
}

/** A multi-valued key without values is as absent as one that the request does not have. */
function isAbsent(value: readonly string[] | string | undefined): value is undefined {
  return value === undefined || (typeof value !== 'string' && value.length === 0)
}

interface FoundOperator {
  readonly operator: Operator | 'Null'
  readonly set: 'ForAllValues' | 'ForAnyValue' | undefined
  readonly ifExists: boolean
}

function findOperator(name: string): FoundOperator {
  let rest = name.toLowerCase()
  let set: FoundOperator['set']
  if (rest.startsWith('forallvalues:')) set = 'ForAllValues'
  else if (rest.startsWith('foranyvalue:')) set = 'ForAnyValue'
  if (set) rest = rest.slice(set.length + 1)
  const ifExists = rest.endsWith('ifexists')
  if (ifExists) rest = rest.slice(0, -'ifexists'.length)
  if (rest === 'null' && !set && !ifExists) return { operator: 'Null', set: undefined, ifExists: false }
  const operator = operators.get(rest)
  if (!operator) throw new ConditionError(`Invalid Condition type : ${name.slice(0, 64)}`)
  return { operator, set, ifExists }
}

/** Null: "true" holds when the key is absent, "false" when it is there. */
function compileNull(key: string, values: readonly string[]): Condition {
  const wanted = values.map((value) => readBoolean(value, 'Null'))
  return (context) => wanted.includes(isAbsent(context(key)))
}

function pair(name: string, negatedName: string, compile: Operator['compile']): readonly (readonly [string, Operator])[] {
  return [
    [name.toLowerCase(), { negated: false, compile }],
    [negatedName.toLowerCase(), { negated: true, compile }],
  ]
}

function single(name: string, compile: Operator['compile']): readonly [string, Operator] {
  return [name.toLowerCase(), { negated: false, compile }]
}

const operators: ReadonlyMap<string, Operator> = new Map([
  ...pair('StringEquals', 'StringNotEquals', stringTest({ wildcards: false })),
  ...pair('StringEqualsIgnoreCase', 'StringNotEqualsIgnoreCase', stringTest({ wildcards: false, ignoreCase: true })),
  ...pair('StringLike', 'StringNotLike', stringTest({ wildcards: true })),
  // ArnEquals has always matched like ArnLike.
  ...pair('ArnEquals', 'ArnNotEquals', compileArn),
  ...pair('ArnLike', 'ArnNotLike', compileArn),
  ...pair(
    'NumericEquals',
    'NumericNotEquals',
    orderTest('Numeric', readNumber, (order) => order === 0),
  ),
  single(
    'NumericLessThan',
    orderTest('Numeric', readNumber, (order) => order < 0),
  ),
  single(
    'NumericLessThanEquals',
    orderTest('Numeric', readNumber, (order) => order <= 0),
  ),
  single(
    'NumericGreaterThan',
    orderTest('Numeric', readNumber, (order) => order > 0),
  ),
  single(
    'NumericGreaterThanEquals',
    orderTest('Numeric', readNumber, (order) => order >= 0),
  ),
  ...pair(
    'DateEquals',
    'DateNotEquals',
    orderTest('Date', readDate, (order) => order === 0),
  ),
  single(
    'DateLessThan',
    orderTest('Date', readDate, (order) => order < 0),
  ),
  single(
    'DateLessThanEquals',
    orderTest('Date', readDate, (order) => order <= 0),
  ),
  single(
    'DateGreaterThan',
    orderTest('Date', readDate, (order) => order > 0),
  ),
  single(
    'DateGreaterThanEquals',
    orderTest('Date', readDate, (order) => order >= 0),
  ),
  single('Bool', compileBool),
  single('BinaryEquals', compileBinary),
  ...pair('IpAddress', 'NotIpAddress', compileAddress),
])

// ---- strings and ARNs: the operators that know policy variables ----

function stringTest(options: { readonly wildcards: boolean; readonly ignoreCase?: boolean }): Operator['compile'] {
  return (policyValue, version) => {
    const matcher = compilePattern(policyValue, { ...options, version })
    return matcher
  }
}

function compileArn(policyValue: string, version: PolicyVersion): ValueTest {
  const matcher = compileArnPattern(policyValue, { version, expand: false })
  return (value, context) => {
    const segments = splitArn(value)
    return segments && matcher(value, segments, context)
  }
}

function compileBool(policyValue: string, version: PolicyVersion): ValueTest {
  if (version === '2008-10-17' || !policyValue.includes('${')) readBoolean(policyValue, 'Bool')
  const matcher = compilePattern(policyValue, { wildcards: false, ignoreCase: true, version })
  return (value, context) => /^(?:true|false)$/i.test(value) && matcher(value, context)
}

function readBoolean(text: string, operator: string): boolean {
  const lower = text.toLowerCase()
  if (lower !== 'true' && lower !== 'false') throw new ConditionError(`Invalid value for ${operator} condition: must be true or false.`)
  return lower === 'true'
}

// ---- ordered values ----

function orderTest(
  kind: string,
  read: (text: string) => number | undefined,
  holds: (order: number) => boolean,
): (policyValue: string) => ValueTest {
  return (policyValue) => {
    const limit = read(policyValue)
    if (limit === undefined) throw new ConditionError(`Invalid value for ${kind} condition: ${policyValue.slice(0, 64)}`)
    return (value) => {
      const number = read(value)
      return number === undefined ? undefined : holds(number - limit)
    }
  }
}

function readNumber(text: string): number | undefined {
  return /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?$/.test(text) ? Number(text) : undefined
}

/** W3C date-time (the ISO 8601 forms of IAM, a date alone included) or seconds since the epoch. In ms. */
function readDate(text: string): number | undefined {
  if (/^\d{5,}$/.test(text)) return Number(text) * 1000
  if (!/^\d{4}(?:-\d{2}(?:-\d{2}(?:T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:\d{2})?)?)?)?$/.test(text)) return undefined
  const day = text.slice(0, 10)
  // The 30th of February would roll over to March.
  if (day.length === 10 && (Number.isNaN(Date.parse(day)) || !new Date(day).toISOString().startsWith(day))) return undefined
  // Without a zone it is UTC, wherever the service runs.
  const time = Date.parse(text.includes('T') && !/(?:Z|[+-]\d{2}:\d{2})$/.test(text) ? `${text}Z` : text)
  return Number.isNaN(time) ? undefined : time
}

// ---- bytes and addresses ----

function compileBinary(policyValue: string): ValueTest {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(policyValue)) throw new ConditionError('Invalid value for Binary condition: must be Base64.')
  const wanted = Buffer.from(policyValue, 'base64')
  return (value) => wanted.equals(Buffer.from(value, 'base64'))
}

/** An address or a range; a v4 address is never in a v6 range and the other way round. */
function compileAddress(policyValue: string): ValueTest {
  const slash = policyValue.indexOf('/')
  const base = readAddress(slash < 0 ? policyValue : policyValue.slice(0, slash))
  const length = slash < 0 ? (base?.length ?? 0) * 8 : readPrefixLength(policyValue.slice(slash + 1))
  if (!base || length === undefined || length > base.length * 8)
    throw new ConditionError(`Invalid value for IpAddress condition: ${policyValue.slice(0, 64)}`)
  return (value) => {
    const address = readRequestAddress(value)
    return address && address.length === base.length && samePrefix(address, base, length)
  }
}

/** A request has one source address and a policy may ask about it fifty times. */
let lastAddress: { readonly text: string; readonly bytes: Uint8Array | undefined } = { text: '', bytes: undefined }

function readRequestAddress(text: string): Uint8Array | undefined {
  if (lastAddress.text !== text) lastAddress = { text, bytes: readAddress(text) }
  return lastAddress.bytes
}

function readPrefixLength(text: string): number | undefined {
  return /^\d{1,3}$/.test(text) ? Number(text) : undefined
}

/** 4 or 16 bytes. An IPv4 address mapped into IPv6, as a dual-stack socket reports it, is the IPv4 address. */
function readAddress(text: string): Uint8Array | undefined {
  if (isIPv4(text)) return Uint8Array.from(text.split('.'), Number)
  if (!isIPv6(text) || text.includes('%')) return undefined
  const bytes = new Uint8Array(16)
  const [head = '', tail] = text.split('::', 2)
  writeGroups(bytes, 0, head)
  if (tail !== undefined) writeGroups(bytes, 16 - groupBytes(tail), tail)
  const mapped = bytes[10] === 0xff && bytes[11] === 0xff && bytes.subarray(0, 10).every((byte) => byte === 0)
  return mapped ? bytes.slice(12) : bytes
}

function groupBytes(groups: string): number {
  if (groups === '') return 0
  return groups.split(':').reduce((sum, group) => sum + (group.includes('.') ? 4 : 2), 0)
}

function writeGroups(bytes: Uint8Array, from: number, groups: string): void {
  if (groups === '') return
  let at = from
  for (const group of groups.split(':')) {
    if (group.includes('.')) {
      for (const part of group.split('.')) bytes[at++] = Number(part)
      continue
    }
    const value = Number.parseInt(group, 16)
    bytes[at++] = value >>> 8
    bytes[at++] = value & 0xff
  }
}

function samePrefix(a: Uint8Array, b: Uint8Array, bits: number): boolean {
  for (let index = 0; index < a.length; index++) {
    const remaining = bits - index * 8
    if (remaining <= 0) return true
    const mask = remaining >= 8 ? 0xff : (0xff << (8 - remaining)) & 0xff
    if ((((a[index] ?? 0) ^ (b[index] ?? 0)) & mask) !== 0) return false
  }
  return true
}
