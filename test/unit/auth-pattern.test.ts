import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { compileArnPattern, compilePattern, PatternError, splitArn, type ConditionContext } from '../../src/auth/pattern.ts'

const nothing: ConditionContext = () => undefined
const like = (pattern: string, value: string, context: ConditionContext = nothing): boolean =>
  compilePattern(pattern, { wildcards: true, version: '2012-10-17' })(value, context)
const arnLike = (pattern: string, arn: string, context: ConditionContext = nothing, expand = false): boolean =>
  compileArnPattern(pattern, { version: '2012-10-17', expand })(arn, splitArn(arn), context)

/** The obvious matcher: a table over all prefixes. */
function naive(pattern: string, value: string): boolean {
  let row = Array.from({ length: value.length + 1 }, (_, index) => index === 0)
  for (let at = 0; at < pattern.length; at++) {
    const character = pattern[at]
    const next: boolean[] = [character === '*' && row[0] === true]
    for (let index = 1; index <= value.length; index++) {
      if (character === '*') next.push(row[index] === true || next[index - 1] === true)
      else next.push(row[index - 1] === true && (character === '?' || character === value[index - 1]))
    }
    row = next
  }
  return row[value.length] === true
}

describe('wildcards', () => {
  it('match as the obvious table does', () => {
    const letters = fc.constantFrom('a', 'a', 'a', 'b', 'c', '\n')
    const pattern = fc.array(fc.oneof(letters, letters, fc.constantFrom('*', '?')), { maxLength: 14 }).map((parts) => parts.join(''))
    const value = fc.array(letters, { maxLength: 18 }).map((parts) => parts.join(''))
    fc.assert(
      fc.property(pattern, value, (pattern, value) => {
        expect(like(pattern, value)).toBe(naive(pattern, value))
      }),
      { numRuns: 5000 },
    )
  })

  it('match as the obvious table does when a piece between stars is long', () => {
    const long = fc
      .array(fc.constantFrom('a', 'a', 'a', 'a', 'a', 'a', 'a', 'b', '?'), { minLength: 60, maxLength: 140 })
      .map((parts) => parts.join(''))
    const around = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 40 })
    fc.assert(
      fc.property(long, around, around, fc.nat(), fc.boolean(), (piece, before, after, at, spoil) => {
        const filled = piece.replaceAll('?', 'b')
        const index = at % filled.length
        const middle = spoil ? `${filled.slice(0, index)}c${filled.slice(index + 1)}` : filled
        const value = before + middle + after
        expect(like(`*${piece}*`, value)).toBe(naive(`*${piece}*`, value))
        expect(like(`${before}*${piece}*b`, value)).toBe(naive(`${before}*${piece}*b`, value))
      }),
      { numRuns: 400 },
    )
  })

  it('match as the obvious table does when a piece between stars has a ?', () => {
    const letters = ['a', 'a', 'a', 'b', 'é'] as const
    const piece = fc.array(fc.constantFrom(...letters, '?'), { minLength: 1, maxLength: 36 }).map((parts) => parts.join(''))
    const around = fc.string({ unit: fc.constantFrom(...letters, '€'), maxLength: 40 })
    fc.assert(
      fc.property(piece, around, around, fc.nat(), fc.boolean(), (piece, before, after, at, spoil) => {
        const filled = piece.replaceAll('?', '€')
        const index = at % filled.length
        const middle = spoil ? `${filled.slice(0, index)}c${filled.slice(index + 1)}` : filled
        const value = before + middle + after
        expect(like(`*${piece}*`, value)).toBe(naive(`*${piece}*`, value))
        expect(like(`*${piece}*?${piece}*`, value + value)).toBe(naive(`*${piece}*?${piece}*`, value + value))
      }),
      { numRuns: 1000 },
    )
  })

  it('no pattern makes matching slow: the worst that fits into a policy takes a bounded number of steps', () => {
    // Back-tracking matchers need the power of the stars for these; the test ends or it does not.
    const value = 'a'.repeat(8192)
    expect(like(`${'*a'.repeat(8000)}*b`, value)).toBe(false)
    expect(like(`*${'a'.repeat(4000)}b*`, value)).toBe(false)
    expect(like(`*${'a?'.repeat(4000)}b*`, value)).toBe(false)
    expect(like(`${'*?a'.repeat(2000)}*`, value)).toBe(true)
  })

  it('nothing is special in a value, in a key name or in a regular expression', () => {
    expect(like('a.c', 'abc')).toBe(false)
    expect(like('(a|b)+[c]{2}^$\\', '(a|b)+[c]{2}^$\\')).toBe(true)
    expect(like('a', '*')).toBe(false)
  })
})

describe('policy variables', () => {
  const context: ConditionContext = (key) =>
    new Map<string, string | string[]>([
      ['aws:username', 'alice'],
      ['aws:principaltag/empty', ''],
      ['aws:principaltag/star', '*'],
      ['aws:tagkeys', ['a']],
    ]).get(key)

  it.each([
    ['home/${aws:username}/*', 'home/alice/x', true],
    ['home/${AWS:UserName}/*', 'home/alice/x', true],
    ['home/${ aws:username }/*', 'home/alice/x', true],
    ['home/${aws:username}/*', 'home/bob/x', false],
    ['${aws:none}', '', false],
    ['${aws:none}*', 'anything', false],
    ["${aws:none, 'x y'}", 'x y', true],
    ["${aws:none, ''}", '', true],
    ["${aws:username, 'x'}", 'alice', true],
    ['a${aws:PrincipalTag/empty}b', 'ab', true],
    ['${aws:PrincipalTag/star}', '*', true],
    ['${aws:PrincipalTag/star}', 'anything', false],
    ['${aws:TagKeys}', 'a', false],
    ["${aws:TagKeys, 'b'}", 'b', true],
    ['${*}${?}${$}', '*?$', true],
    ['${*}', 'anything', false],
    ['${$}{aws:username}', '${aws:username}', true],
    ['$', '$', true],
    ['a$b', 'a$b', true],
  ])('%s against "%s": %s', (pattern, value, matches) => {
    expect(like(pattern, value, context)).toBe(matches)
  })

  it('are what they are for each caller in turn, also in ARNs: nothing of the one before is kept', () => {
    const callers = ['alice', 'bob', undefined, 'alice', '*', 'bob'].map((name) => ({ name, context: (): string | undefined => name }))
    const path = compilePattern('home/${aws:username}/?', { wildcards: true, version: '2012-10-17' })
    const arn = compileArnPattern('arn:aws:kms:*:*:key/${aws:username}-?', { version: '2012-10-17', expand: false })
    for (const { name, context: ask } of callers) {
      for (const wanted of ['alice', 'bob', '*', 'carol']) {
        const resource = `arn:aws:kms:r:a:key/${wanted}-1`
        expect(path(`home/${wanted}/x`, ask)).toBe(wanted === name)
        expect(arn(resource, splitArn(resource), ask)).toBe(wanted === name)
      }
    }
  })

  it('are plain text before version 2012-10-17', () => {
    const old = compilePattern('${aws:username}', { wildcards: true, version: '2008-10-17' })
    expect(old('alice', context)).toBe(false)
    expect(old('${aws:username}', context)).toBe(true)
  })

  it('a `*` in the policy is text where wildcards are off', () => {
    const exact = compilePattern('a*', { wildcards: false, version: '2012-10-17' })
    expect(exact('a*', nothing)).toBe(true)
    expect(exact('ab', nothing)).toBe(false)
  })

  it('case is ignored on request, of variables too', () => {
    const fold = compilePattern('X${aws:username}', { wildcards: false, version: '2012-10-17', ignoreCase: true })
    expect(fold('xALICE', context)).toBe(true)
  })

  it.each(['${aws:username', '${}', '${ }', '${, x}', '${aws:username, x}', "${aws:username, 'x}", "${aws:username, '}"])(
    '%s is refused',
    (pattern) => {
      expect(() => compilePattern(pattern, { wildcards: true, version: '2012-10-17' })).toThrow(PatternError)
    },
  )
})

describe('ARN patterns', () => {
  const key = 'arn:aws:kms:us-east-1:111122223333:key/1234'
  it.each([
    [key, key, true],
    ['arn:aws:kms:us-east-1:111122223333:key/*', key, true],
    ['arn:aws:kms:*:111122223333:key/*', key, true],
    ['arn:aws:kms:us-*-?:*:key/1*4', key, true],
    ['arn:aws:kms:*:key/1234', key, false],
    ['arn:aws:*', key, false],
    ['*', key, false],
    ['arn:aws:kms:us-east-1:111122223333:*', key, true],
    ['arn:aws:s3:::a*:c', 'arn:aws:s3:::a:b:c', true],
    ['arn:aws:kms:us-east-1:111122223333:KEY/1234', key, false],
    ['arn:aws:s3:::x', 'no arn', false],
  ])('%s against %s: %s', (pattern, arn, matches) => {
    expect(arnLike(pattern, arn)).toBe(matches)
  })

  it('segments missing at the end are wildcards in Resource elements', () => {
    for (const short of ['arn:aws', 'arn:aws:kms', 'arn:aws:kms:us-east-1', 'arn:aws:kms:us-east-1:111122223333', 'arn:aws:kms:*']) {
      expect(arnLike(short, key, nothing, true)).toBe(true)
      expect(arnLike(short, key)).toBe(false)
    }
    expect(arnLike('arn:aws:s3', key, nothing, true)).toBe(false)
  })

  it('a variable may hold a segment or the whole ARN, and its wildcards are text', () => {
    const context: ConditionContext = (name) => ({ 'aws:principalaccount': '111122223333', 'aws:principalarn': key, 'aws:x': '*' })[name]
    expect(arnLike('arn:aws:kms:us-east-1:${aws:PrincipalAccount}:key/*', key, context)).toBe(true)
    expect(arnLike('${aws:PrincipalArn}', key, context)).toBe(true)
    expect(arnLike('arn:aws:kms:us-east-1:111122223333:key/${aws:x}', key, context)).toBe(false)
    expect(arnLike('arn:aws:kms:us-east-1:111122223333:key/${aws:none}', key, context)).toBe(false)
  })

  it('match segment by segment as the obvious table does', () => {
    const part = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?'), maxLength: 4 })
    const valuePart = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 4 })
    const six = (of: fc.Arbitrary<string>) => fc.array(of, { minLength: 6, maxLength: 6 })
    fc.assert(
      fc.property(six(part), six(valuePart), (pattern, value) => {
        const expected = pattern.every((text, index) => naive(text, value[index] ?? ''))
        expect(arnLike(pattern.join(':'), value.join(':'))).toBe(expected)
      }),
      { numRuns: 2000 },
    )
  })
})
