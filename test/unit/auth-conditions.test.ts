import { describe, expect, it } from 'vitest'
import { compileConditions, ConditionError, conditionsHold } from '../../src/auth/conditions.ts'
import type { PolicyVersion } from '../../src/auth/pattern.ts'

type Context = Readonly<Record<string, string | readonly string[]>>

function holds(
  operator: string,
  key: string,
  values: string | readonly string[],
  context: Context,
  version: PolicyVersion = '2012-10-17',
): boolean {
  const list = typeof values === 'string' ? [values] : values
  const lower = new Map(Object.entries(context).map(([name, value]) => [name.toLowerCase(), value]))
  return conditionsHold(compileConditions({ [operator]: { [key]: list } }, version), (name) => lower.get(name))
}

const key = 'aws:x'
const arn = 'arn:aws:iam::111122223333:user/alice'

describe('each operator', () => {
  const table: [operator: string, values: string | string[], value: string, holds: boolean][] = [
    ['StringEquals', 'a', 'a', true],
    ['StringEquals', 'a', 'A', false],
    ['StringEquals', 'a*', 'ab', false],
    ['StringEquals', ['b', 'a'], 'a', true],
    ['stringequals', 'a', 'a', true],
    ['StringNotEquals', 'a', 'a', false],
    ['StringNotEquals', ['b', 'a'], 'a', false],
    ['StringNotEquals', ['b', 'c'], 'a', true],
    ['StringEqualsIgnoreCase', 'aB', 'Ab', true],
    ['StringNotEqualsIgnoreCase', 'aB', 'Ab', false],
    ['StringNotEqualsIgnoreCase', 'aB', 'x', true],
    ['StringLike', 'a*c?', 'abbcd', true],
    ['StringLike', 'A*', 'abc', false],
    ['StringNotLike', 'a*', 'abc', false],
    ['StringNotLike', 'b*', 'abc', true],
    ['ArnEquals', 'arn:aws:iam::*:user/*', arn, true],
    ['ArnLike', 'arn:aws:iam::*:user/bob', arn, false],
    ['ArnLike', 'arn:aws:iam::111122223333:user/*', 'no arn', false],
    ['ArnNotEquals', 'arn:aws:iam::*:user/*', arn, false],
    ['ArnNotLike', 'arn:aws:iam::*:role/*', arn, true],
    ['ArnNotLike', 'arn:aws:iam::*:role/*', 'no arn', false],
    ['NumericEquals', '7', '7.0', true],
    ['NumericEquals', '7', 'seven', false],
    ['NumericNotEquals', '7', '8', true],
    ['NumericNotEquals', '7', 'seven', false],
    ['NumericLessThan', '7', '6.9', true],
    ['NumericLessThan', '7', '7', false],
    ['NumericLessThanEquals', '7', '7', true],
    ['NumericGreaterThan', '-1', '0', true],
    ['NumericGreaterThan', '7', '7', false],
    ['NumericGreaterThanEquals', '7', '7', true],
    ['NumericLessThan', '1e3', '999', true],
    ['DateEquals', '2026-01-01T00:00:00Z', '2026-01-01T01:00:00+01:00', true],
    ['DateEquals', '2026-01-01', '1767225600', true],
    ['DateEquals', '2026-01-01T00:00:00', '2026-01-01T00:00:00Z', true],
    ['DateNotEquals', '2026-01-01', '2026-01-02T00:00:00Z', true],
    ['DateLessThan', '2026-01-01', '2025-12-31T23:59:59Z', true],
    ['DateLessThan', '2026-01-01', '2026-01-01', false],
    ['DateLessThanEquals', '2026-01-01', '2026-01-01', true],
    ['DateGreaterThan', '2026-01-01', '2026-01-01T00:00:00.001Z', true],
    ['DateGreaterThanEquals', '2026-01-01', '2026-01-01', true],
    ['DateGreaterThan', '2026-01-01', 'tomorrow', false],
    ['Bool', 'true', 'TRUE', true],
    ['Bool', 'false', 'true', false],
    ['Bool', 'true', 'yes', false],
    ['BinaryEquals', 'QmluYXJ5', 'QmluYXJ5', true],
    ['BinaryEquals', 'QmluYXJ5', 'qmluYXJ5', false],
    ['IpAddress', '10.0.0.0/8', '10.255.255.255', true],
    ['IpAddress', '10.0.0.0/8', '11.0.0.0', false],
    ['IpAddress', '10.1.2.3', '10.1.2.3', true],
    ['IpAddress', '10.1.2.128/25', '10.1.2.127', false],
    ['IpAddress', '10.1.2.128/25', '10.1.2.128', true],
    ['IpAddress', '0.0.0.0/0', '203.0.113.9', true],
    ['IpAddress', '0.0.0.0/0', '2001:db8::1', false],
    ['IpAddress', '10.0.0.0/8', '::ffff:10.1.2.3', true],
    ['IpAddress', '2001:db8::/32', '2001:0DB8:0:0::1', true],
    ['IpAddress', '2001:db8::1', '2001:db8:0:0:0:0:0:1', true],
    ['IpAddress', '2001:db8::/127', '2001:db8::2', false],
    ['IpAddress', '::/0', '2001:db8::2', true],
    ['IpAddress', '64:ff9b::192.0.2.0/120', '64:ff9b::c000:201', true],
    ['IpAddress', '10.0.0.0/8', 'nowhere', false],
    ['NotIpAddress', '10.0.0.0/8', '11.0.0.0', true],
    ['NotIpAddress', ['10.0.0.0/8', '11.0.0.0/8'], '11.0.0.0', false],
    ['NotIpAddress', '10.1.2.3', '2001:db8::1', true],
    ['NotIpAddress', '10.0.0.0/8', 'nowhere', false],
  ]
  it.each(table)('%s %j against %s: %s', (operator, values, value, expected) => {
    expect(holds(operator, key, values, { [key]: value })).toBe(expected)
  })

  it('key names do not depend on case, values do', () => {
    expect(holds('StringEquals', 'AWS:X', 'a', { 'aws:x': 'a' })).toBe(true)
    expect(holds('StringEquals', 'AWS:X', 'a', { 'aws:x': 'A' })).toBe(false)
  })
})

describe('absent keys', () => {
  it.each(['StringEquals', 'StringLike', 'ArnLike', 'NumericEquals', 'DateLessThan', 'Bool', 'IpAddress', 'BinaryEquals'])(
    '%s fails',
    (operator) => {
      const value = {
        StringEquals: 'a',
        StringLike: '*',
        ArnLike: 'arn:*:*:*:*:*',
        NumericEquals: '1',
        DateLessThan: '2030-01-01',
        Bool: 'false',
        IpAddress: '0.0.0.0/0',
        BinaryEquals: '',
      }
      expect(holds(operator, key, value[operator as keyof typeof value], {})).toBe(false)
      expect(holds(`${operator}IfExists`, key, value[operator as keyof typeof value], {})).toBe(true)
    },
  )

  it('negated operators hold', () => {
    expect(holds('StringNotEquals', key, 'a', {})).toBe(true)
    expect(holds('ArnNotLike', key, arn, {})).toBe(true)
    expect(holds('NumericNotEquals', key, '1', {})).toBe(true)
    expect(holds('DateNotEquals', key, '2026-01-01', {})).toBe(true)
    expect(holds('NotIpAddress', key, '10.0.0.0/8', {})).toBe(true)
  })

  it('IfExists still asks when the key is there', () => {
    expect(holds('StringEqualsIfExists', key, 'a', { [key]: 'b' })).toBe(false)
    expect(holds('BoolIfExists', key, 'true', { [key]: 'false' })).toBe(false)
  })

  it('Null tells presence from absence', () => {
    expect(holds('Null', key, 'true', {})).toBe(true)
    expect(holds('Null', key, 'true', { [key]: '' })).toBe(false)
    expect(holds('Null', key, 'false', { [key]: 'x' })).toBe(true)
    expect(holds('Null', key, 'False', { [key]: ['x'] })).toBe(true)
    expect(holds('Null', key, 'true', { [key]: [] })).toBe(true)
    expect(holds('Null', key, ['true', 'false'], {})).toBe(true)
  })
})

describe('multi-valued keys', () => {
  it('ForAllValues: every value must match, and none is enough', () => {
    expect(holds('ForAllValues:StringEquals', key, ['a', 'b'], { [key]: ['a', 'b', 'a'] })).toBe(true)
    expect(holds('ForAllValues:StringEquals', key, ['a', 'b'], { [key]: ['a', 'c'] })).toBe(false)
    expect(holds('ForAllValues:StringEquals', key, ['a'], { [key]: [] })).toBe(true)
    expect(holds('ForAllValues:StringEquals', key, ['a'], {})).toBe(true)
    expect(holds('ForAllValues:StringEquals', key, ['a'], { [key]: 'a' })).toBe(true)
    expect(holds('ForAllValues:StringNotLike', key, ['a*'], { [key]: ['b', 'ab'] })).toBe(false)
    expect(holds('forallvalues:stringnotlike', key, ['a*'], { [key]: ['b', 'c'] })).toBe(true)
  })

  it('ForAnyValue: one value must match, so that none is not enough, even with IfExists', () => {
    expect(holds('ForAnyValue:StringEquals', key, ['a', 'b'], { [key]: ['c', 'b'] })).toBe(true)
    expect(holds('ForAnyValue:StringEquals', key, ['a'], { [key]: ['c'] })).toBe(false)
    expect(holds('ForAnyValue:StringEquals', key, ['a'], {})).toBe(false)
    expect(holds('ForAnyValue:StringEqualsIfExists', key, ['a'], {})).toBe(false)
    expect(holds('ForAnyValue:StringNotEquals', key, ['a'], { [key]: ['a', 'b'] })).toBe(true)
    expect(holds('ForAnyValue:StringNotEquals', key, ['a'], { [key]: ['a'] })).toBe(false)
    expect(holds('ForAnyValue:StringNotEquals', key, ['a'], {})).toBe(false)
  })

  it('without a set operator they match nothing', () => {
    expect(holds('StringEquals', key, 'a', { [key]: ['a'] })).toBe(false)
    expect(holds('StringNotEquals', key, 'b', { [key]: ['a'] })).toBe(false)
    expect(holds('StringLikeIfExists', key, '*', { [key]: ['a'] })).toBe(false)
  })
})

describe('several conditions', () => {
  it('must all hold', () => {
    const conditions = compileConditions({ StringEquals: { 'aws:a': ['1'], 'aws:b': ['2'] }, Bool: { 'aws:c': ['true'] } }, '2012-10-17')
    const context = { 'aws:a': '1', 'aws:b': '2', 'aws:c': 'true' }
    const check = (change: Partial<typeof context>): boolean =>
      conditionsHold(conditions, (name) => ({ ...context, ...change })[name as 'aws:a'])
    expect(check({})).toBe(true)
    expect(check({ 'aws:a': 'x' })).toBe(false)
    expect(check({ 'aws:b': 'x' })).toBe(false)
    expect(check({ 'aws:c': 'false' })).toBe(false)
  })

  it('an entry without values never matches, and its negation always', () => {
    expect(holds('StringEquals', key, [], { [key]: 'a' })).toBe(false)
    expect(holds('StringNotEquals', key, [], { [key]: 'a' })).toBe(true)
  })
})

describe('variables', () => {
  it('serve in strings, ARNs and booleans, since 2012-10-17', () => {
    expect(holds('StringEquals', key, '${aws:y}', { [key]: 'a', 'aws:y': 'a' })).toBe(true)
    expect(holds('StringEquals', key, '${aws:y}', { [key]: 'a', 'aws:y': 'a' }, '2008-10-17')).toBe(false)
    expect(holds('ArnLike', key, 'arn:aws:iam::${aws:y}:user/*', { [key]: arn, 'aws:y': '111122223333' })).toBe(true)
    expect(holds('Bool', key, '${aws:y}', { [key]: 'true', 'aws:y': 'true' })).toBe(true)
  })

  it('nothing equals one without a value', () => {
    expect(holds('StringEquals', key, '${aws:y}', { [key]: '' })).toBe(false)
    expect(holds('StringNotEquals', key, '${aws:y}', { [key]: 'a' })).toBe(true)
    expect(holds('ArnNotLike', key, 'arn:aws:iam::${aws:y}:user/*', { [key]: arn })).toBe(true)
  })
})

describe('what cannot be read is refused when compiled', () => {
  it.each([
    ['StringEqual', 'a'],
    ['StringEqualsIfExistsIfExists', 'a'],
    ['ForSomeValues:StringEquals', 'a'],
    ['ForAllValues:Null', 'true'],
    ['NullIfExists', 'true'],
    ['__proto__', 'a'],
    ['constructor', 'a'],
    ['Null', 'maybe'],
    ['Bool', 'yes'],
    ['NumericEquals', 'seven'],
    ['NumericEquals', ''],
    ['NumericEquals', '0x10'],
    ['NumericLessThan', '${aws:x}'],
    ['DateEquals', 'tomorrow'],
    ['DateEquals', '2026-13-01'],
    ['DateEquals', '2026-02-30'],
    ['DateEquals', '2026-01-01T25:00:00Z'],
    ['IpAddress', '10.0.0.0/33'],
    ['IpAddress', '2001:db8::/129'],
    ['IpAddress', '10.0.0.0/'],
    ['IpAddress', '10.0.0'],
    ['IpAddress', 'fe80::1%eth0'],
    ['BinaryEquals', '!!'],
  ])('%s "%s"', (operator, value) => {
    const block = Object.fromEntries([[operator, { [key]: [value] }]])
    expect(() => compileConditions(block, '2012-10-17')).toThrow(ConditionError)
  })

  it('with the operator named as AWS names it', () => {
    expect(() => compileConditions({ StringEqualss: { [key]: ['a'] } }, '2012-10-17')).toThrow('Invalid Condition type : StringEqualss')
  })
})
