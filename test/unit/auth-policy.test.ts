import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { compilePolicy, parsePolicy, PolicyError, type PolicyKind } from '../../src/auth/policy.ts'

const account = '111122223333'
const kinds: readonly PolicyKind[] = ['key', 'identity', 'trust', 'session']
const identityStatement = { Effect: 'Allow', Action: 'kms:Encrypt', Resource: '*' }
const keyStatement = { ...identityStatement, Principal: { AWS: `arn:aws:iam::${account}:root` } }
const trustStatement = { Effect: 'Allow', Action: 'sts:AssumeRole', Principal: { AWS: account } }

function document(statement: unknown, more: Record<string, unknown> = {}): string {
  return JSON.stringify({ Version: '2012-10-17', ...more, Statement: statement })
}

function refusal(text: string, kind: PolicyKind): string {
  try {
    compilePolicy(text, kind)
  } catch (error) {
    if (error instanceof PolicyError) return error.message
    throw error
  }
  return 'accepted'
}

describe('a policy that is accepted', () => {
  it('the default key policy of KMS', () => {
    const text = JSON.stringify({
      Version: '2012-10-17',
      Id: 'key-default-1',
      Statement: [
        {
          Sid: 'Enable IAM User Permissions',
          Effect: 'Allow',
          Principal: { AWS: `arn:aws:iam::${account}:root` },
          Action: 'kms:*',
          Resource: '*',
        },
      ],
    })
    expect(parsePolicy(text, 'key')).toEqual({
      version: '2012-10-17',
      id: 'key-default-1',
      statements: [
        {
          sid: 'Enable IAM User Permissions',
          effect: 'Allow',
          principal: { aws: [`arn:aws:iam::${account}:root`], service: [], federated: [], canonicalUser: [] },
          action: ['kms:*'],
          resource: ['*'],
        },
      ],
    })
  })

  it('has one statement or many, the old version if it names none, and lists where there may be many', () => {
    expect(parsePolicy(JSON.stringify({ Statement: identityStatement }), 'identity').version).toBe('2008-10-17')
    const statement = { Effect: 'Deny', NotAction: ['kms:a', 'kms:b'], NotResource: 'arn:aws:kms:us-east-1:111122223333:key/*' }
    expect(parsePolicy(document([statement, identityStatement]), 'identity').statements).toHaveLength(2)
    expect(parsePolicy(document(statement), 'session').statements[0]).toEqual({
      effect: 'Deny',
      notAction: ['kms:a', 'kms:b'],
      notResource: ['arn:aws:kms:us-east-1:111122223333:key/*'],
    })
  })

  it('has condition values of any scalar type', () => {
    const [statement] = parsePolicy(
      document({ ...identityStatement, Condition: { Bool: { 'aws:SecureTransport': true }, NumericLessThan: { 'kms:x': [7, '8'] } } }),
      'identity',
    ).statements
    expect(statement?.condition?.['Bool']?.['aws:SecureTransport']).toEqual(['true'])
    expect(statement?.condition?.['NumericLessThan']?.['kms:x']).toEqual(['7', '8'])
  })

  it.each([
    '*',
    { AWS: '*' },
    { AWS: account },
    { AWS: [`arn:aws:iam::${account}:user/path/to/alice`, `arn:aws:iam::${account}:role/x+=,.@-_y`] },
    { AWS: `arn:aws:sts::${account}:assumed-role/Admin/alice@example.com` },
    { AWS: `arn:aws:sts::${account}:federated-user/bob` },
    { AWS: ['AIDACKCEVSQ6C2EXAMPLE', 'AROADBQP57FF2AEXAMPLE'] },
    { Service: ['kms.amazonaws.com', 's3.us-east-1.amazonaws.com'], AWS: account },
    { Federated: 'cognito-identity.amazonaws.com' },
    { CanonicalUser: '79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be' },
  ])('names the principal %j', (Principal) => {
    expect(refusal(document({ ...keyStatement, Principal }), 'key')).toBe('accepted')
  })
})

describe('a policy that is refused', () => {
  const syntax = 'Syntax errors in policy.'
  const vendor = 'Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.'
  const table: [text: string, message: string][] = [
    ['', syntax],
    ['{', syntax],
    ['null', syntax],
    ['[]', syntax],
    ['"*"', syntax],
    [document(identityStatement, { Version: '2012-10-18' }), syntax],
    [document(identityStatement, { Version: 20121017 }), syntax],
    [document(identityStatement, { Id: {} }), syntax],
    [document(identityStatement, { Extra: 'x' }), syntax],
    [document([]), syntax],
    [document(undefined), syntax],
    [document('x'), syntax],
    [document({ ...identityStatement, Extra: 'x' }), syntax],
    [document({ ...identityStatement, effect: 'Deny' }), syntax],
    [document({ ...identityStatement, Effect: 'allow' }), syntax],
    [document({ Action: 'kms:*', Resource: '*' }), syntax],
    [document({ Effect: 'Allow', Resource: '*' }), 'Policy statement must contain actions.'],
    [document({ ...identityStatement, Action: [] }), 'Policy statement must contain actions.'],
    [document({ ...identityStatement, NotAction: 'kms:*' }), syntax],
    [document({ ...identityStatement, Action: 7 }), syntax],
    [document({ ...identityStatement, Action: [['kms:*']] }), syntax],
    [document({ ...identityStatement, Action: 'Encrypt' }), vendor],
    [document({ ...identityStatement, Action: '' }), vendor],
    [document({ ...identityStatement, Action: 'kms:' }), vendor],
    [document({ ...identityStatement, Action: 'k ms:Encrypt' }), 'Vendor k ms is not valid'],
    [document({ ...identityStatement, Action: 'k*:Encrypt' }), 'Vendor k* is not valid'],
    [document({ ...identityStatement, Action: 'kms:a:b' }), 'Actions/Condition can contain only one colon.'],
    [document({ ...identityStatement, Action: 'kms:En crypt' }), syntax],
    [document({ Effect: 'Allow', Action: 'kms:*' }), 'Policy statement must contain resources.'],
    [document({ ...identityStatement, Resource: [] }), 'Policy statement must contain resources.'],
    [document({ ...identityStatement, NotResource: '*' }), syntax],
    [document({ ...identityStatement, Resource: 'key' }), 'Resource key must be in ARN format or "*".'],
    [document({ ...identityStatement, Resource: '**' }), 'Resource ** must be in ARN format or "*".'],
    [document({ ...identityStatement, Resource: 'arn:red:kms:::x' }), 'Partition "red" is not valid for resource "arn:red:kms:::x".'],
    [document({ ...identityStatement, Resource: 'arn:aws' }), 'Resource vendor must be fully qualified and cannot contain regexes.'],
    [document({ ...identityStatement, Resource: 'arn:aws:*:::x' }), 'Resource vendor must be fully qualified and cannot contain regexes.'],
    [
      document({ ...identityStatement, Resource: 'arn:aws:kms:::key/${aws:username' }),
      'The policy variable in "arn:aws:kms:::key/${aws:username" is not closed.',
    ],
    [document({ ...identityStatement, Principal: '*' }), 'Policy document should not specify a principal.'],
    [document({ ...identityStatement, NotPrincipal: '*' }), 'Policy document should not specify a principal.'],
    [
      document({ ...identityStatement, Sid: 'with space' }),
      'Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression [0-9A-Za-z]*',
    ],
    [document({ ...identityStatement, Sid: 7 }), syntax],
    [
      document([
        { ...identityStatement, Sid: 'a' },
        { ...identityStatement, Sid: 'a' },
      ]),
      'Statement IDs (SID) in a single policy must be unique.',
    ],
    [document({ ...identityStatement, Condition: [] }), syntax],
    [document({ ...identityStatement, Condition: { StringEquals: 'x' } }), syntax],
    [document({ ...identityStatement, Condition: { StringEquals: { 'aws:x': {} } } }), syntax],
    [document({ ...identityStatement, Condition: { StringEquals: { 'aws:x': null } } }), syntax],
    [document({ ...identityStatement, Condition: { StringEquals: { x: 'y' } } }), vendor],
    [document({ ...identityStatement, Condition: { StringIs: { 'aws:x': 'y' } } }), 'Invalid Condition type : StringIs'],
    [document({ ...identityStatement, Condition: { NumericEquals: { 'aws:x': 'y' } } }), 'Invalid value for Numeric condition: y'],
    ['x'.repeat(131_073), 'Policy document is too long.'],
  ]
  it.each(table)('%.120s', (text, message) => {
    expect(refusal(text, 'identity')).toBe(message)
    expect(refusal(text, 'session')).toBe(message)
  })

  it('one that says the same element twice, which a JSON parser would drop', () => {
    const twice = [
      '{"Statement":{"Effect":"Deny","Effect":"Allow","Action":"kms:*","Resource":"*"}}',
      '{"Statement":{"Effect":"Deny","Eff\\u0065ct" : "Allow","Action":"kms:*","Resource":"*"}}',
      '{"Statement":{"Effect":"Deny","Action":"kms:*","Resource":"*"},"Statement"\n\t:{"Effect":"Allow","Action":"kms:*","Resource":"*"}}',
      '{"Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*","Condition":{"Bool":{"aws:a":"true","aws:a":"false"}}}}',
      `{"Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*"${' '.repeat(100)}},"Statement"${' '.repeat(100)}:[]}`,
    ]
    for (const text of twice) expect(refusal(text, 'identity')).toBe(syntax)
    const strings =
      '{"Statement":{"Effect":"Allow","Action":["kms:*","kms:*"],"Resource":"*","Condition":{"StringLike":{"aws:a":"\\"aws:a\\":{\\\\"}}}}'
    expect(refusal(strings, 'identity')).toBe('accepted')
  })

  it('one whose names would change a prototype instead of being read', () => {
    const condition = '{"Statement":{"Effect":"Deny","Action":"kms:*","Resource":"*","Condition":{"__proto__":{"aws:a":"b"}}}}'
    expect(refusal(condition, 'identity')).toBe('Invalid Condition type : __proto__')
    expect(refusal('{"__proto__":1,"Statement":{"Effect":"Deny","Action":"kms:*","Resource":"*"}}', 'identity')).toBe(syntax)
  })

  it('a key policy without principal, or with one that AWS would not take', () => {
    expect(refusal(document(identityStatement), 'key')).toBe('Policy statement must contain principals.')
    const bad = [
      {},
      { AWS: [] },
      { AWS: 7 },
      { aws: account },
      { AWS: `arn:aws:iam::${account}:user/*` },
      { AWS: `arn:aws:iam::${account}:role/a?b` },
      { AWS: `arn:aws:iam::${account}:group/x` },
      { AWS: 'arn:aws:iam::123:root' },
      { AWS: '1111222233334' },
      { AWS: `arn:aws:kms:us-east-1:${account}:key/x` },
      { AWS: 'alice' },
      { AWS: ['*', 'alice'] },
      { Service: 'KMS' },
      'alice',
    ]
    for (const Principal of bad) {
      expect(refusal(document({ ...keyStatement, Principal }), 'key')).toMatch(
        /^(?:Policy contains a statement with one or more invalid principals\.|Syntax errors in policy\.)$/,
      )
    }
    expect(refusal(document({ ...keyStatement, NotPrincipal: '*' }), 'key')).toBe(syntax)
  })

  it('no statement of a key policy for want of actions or resources: it has no effect, whatever it says', () => {
    for (const effect of ['Allow', 'Deny']) {
      for (const lacking of ['Action', 'Resource']) {
        const text = document({ ...keyStatement, Effect: effect, [lacking]: undefined })
        expect(refusal(text, 'key')).toBe('accepted')
        expect(compilePolicy(text, 'key').applicable('kms:encrypt')).toEqual({ allow: [], deny: [] })
      }
    }
  })

  it('a trust policy with resources, without principal, or about anything but STS', () => {
    expect(refusal(document(trustStatement), 'trust')).toBe('accepted')
    expect(refusal('{', 'trust')).toBe('This policy contains invalid Json')
    expect(refusal(document({ ...trustStatement, Resource: '*' }), 'trust')).toBe('Has prohibited field Resource')
    expect(refusal(document({ ...trustStatement, Principal: undefined }), 'trust')).toBe('Missing required field Principal')
    expect(refusal(document({ ...trustStatement, Action: 'kms:*' }), 'trust')).toBe(
      'AssumeRole policy may only specify STS AssumeRole actions.',
    )
    expect(refusal(document({ ...trustStatement, Action: '*' }), 'trust')).toBe(
      'AssumeRole policy may only specify STS AssumeRole actions.',
    )
  })
})

describe('whatever is sent as a policy', () => {
  const outcome = (text: string, kind: PolicyKind): string => {
    try {
      compilePolicy(text, kind)
      return 'accepted'
    } catch (error) {
      return error instanceof PolicyError ? 'refused' : String(error)
    }
  }

  it('text of any kind is accepted or refused with a PolicyError', () => {
    const json = fc.json({ maxDepth: 5 })
    const broken = fc
      .tuple(fc.constant(document(keyStatement)), fc.nat(), fc.string({ maxLength: 4, unit: 'binary' }))
      .map(([text, at, noise]) => {
        const index = at % text.length
        return text.slice(0, index) + noise + text.slice(index + 1)
      })
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), json, broken), fc.constantFrom(...kinds), (text, kind) => {
        expect(outcome(text, kind)).toMatch(/^(?:accepted|refused)$/)
      }),
      { numRuns: 3000 },
    )
  })

  it('so are documents with the right names and any values', () => {
    const value: fc.Arbitrary<unknown> = fc.oneof(
      fc.constantFrom(
        '*',
        'Allow',
        'Deny',
        'kms:*',
        'sts:AssumeRole',
        'arn:aws:kms:us-east-1:1:key/*',
        '2012-10-17',
        account,
        '${aws:username}',
        "${a:b, 'c'}",
        '${',
        '',
      ),
      fc.anything({
        maxDepth: 3,
        withNullPrototype: true,
        key: fc.constantFrom('AWS', 'Service', 'StringEquals', 'Bool', 'aws:x', '__proto__', 'toString'),
      }),
    )
    const names = (...list: string[]) => fc.constantFrom(...list, '__proto__', 'constructor')
    const statement = fc.dictionary(
      names('Sid', 'Effect', 'Principal', 'NotPrincipal', 'Action', 'NotAction', 'Resource', 'NotResource', 'Condition'),
      fc.oneof(value, fc.array(value, { maxLength: 2 })),
    )
    const policy = fc.record(
      { Version: value, Id: value, Statement: fc.oneof(statement, fc.array(statement, { maxLength: 3 }), value) },
      { requiredKeys: ['Statement'] },
    )
    fc.assert(
      fc.property(policy, fc.constantFrom(...kinds), (json, kind) => {
        const text = JSON.stringify(json, (_key, item: unknown) => (typeof item === 'bigint' ? String(item) : item))
        expect(outcome(text, kind)).toMatch(/^(?:accepted|refused)$/)
      }),
      { numRuns: 3000 },
    )
  })

  it('deep nesting is refused, not a stack overflow', () => {
    for (const text of ['['.repeat(100_000), '{"a":'.repeat(20_000), `${'['.repeat(60_000)}${']'.repeat(60_000)}`]) {
      expect(outcome(text, 'key')).toBe('refused')
    }
  })
})

describe('the index by action', () => {
  it('holds the statements that speak of the action, whatever its case, in order', () => {
    const policy = compilePolicy(
      document([
        { Effect: 'Allow', Action: ['KMS:enCRYPT', 's3:*'], Resource: '*' },
        { Effect: 'Deny', NotAction: 'kms:De*', Resource: '*' },
        { Effect: 'Allow', Action: '*', Resource: '*' },
        { Effect: 'Allow', Action: '*:*', Resource: '*' },
        { Effect: 'Allow', Action: 'kms:?ncrypt', Resource: '*' },
        { Effect: 'Allow', Action: 'kms:Encrypt2', Resource: '*' },
      ]),
      'identity',
    )
    const places = (action: string) => {
      const { allow, deny } = policy.applicable(action)
      return { allow: allow.map(({ index }) => index), deny: deny.map(({ index }) => index) }
    }
    expect(places('kms:encrypt')).toEqual({ allow: [0, 2, 3, 4], deny: [1] })
    expect(places('kms:decrypt')).toEqual({ allow: [2, 3], deny: [] })
    expect(policy.applicable('kms:encrypt')).toBe(policy.applicable('kms:encrypt'))
  })
})
