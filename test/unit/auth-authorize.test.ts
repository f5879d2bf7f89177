import { describe, expect, it } from 'vitest'
import {
  accessDeniedMessage,
  authorize,
  authorizeAssumeRole,
  authorizeRetireGrant,
  principalContext,
  wouldLockOut,
  type AuthorizationRequest,
  type Decision,
  type DecisionReason,
} from '../../src/auth/authorize.ts'
import type { PartyMatch } from '../../src/auth/grants.ts'
import { compilePolicy, type CompiledPolicy, type PolicyKind } from '../../src/auth/policy.ts'
import type { Principal } from '../../src/auth/principal.ts'

const home = '111122223333'
const other = '444455556666'
const arn = `arn:aws:kms:us-east-1:${home}:key/1234abcd-12ab-34cd-56ef-1234567890ab`
const rootOf = (account: string): string => `arn:aws:iam::${account}:root`

function policy(kind: PolicyKind, ...statements: Record<string, unknown>[]): CompiledPolicy {
  const defaults = kind === 'trust' ? { Action: 'sts:AssumeRole' } : { Action: 'kms:*', Resource: '*' }
  const withAction = (statement: Record<string, unknown>) => ('NotAction' in statement ? { Resource: '*' } : defaults)
  return compilePolicy(
    JSON.stringify({
      Version: '2012-10-17',
      Statement: statements.map((statement) => ({ Effect: 'Allow', ...withAction(statement), ...statement })),
    }),
    kind,
  )
}

const delegating = policy('key', { Sid: 'Enable IAM User Permissions', Principal: { AWS: rootOf(home) } })
const allowAll = policy('identity', { Sid: 'All' })
const denyAll = policy('identity', { Sid: 'None', Effect: 'Deny' })

function user(name: string, changes: Partial<Principal> = {}): Principal {
  const accountId = changes.accountId ?? home
  return {
    type: 'IAMUser',
    arn: `arn:aws:iam::${accountId}:user/${name}`,
    accountId,
    principalId: `AIDA${name.toUpperCase()}EXAMPLE`,
    accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
    userName: name,
    tags: new Map(),
    identityPolicies: [],
    ...changes,
  }
}

function session(changes: Partial<Principal> = {}): Principal {
  const accountId = changes.accountId ?? home
  return {
    type: 'AssumedRole',
    arn: `arn:aws:sts::${accountId}:assumed-role/Admin/s1`,
    accountId,
    principalId: 'AROAADMINEXAMPLE:s1',
    accessKeyId: 'ASIAIOSFODNN7EXAMPLE',
    session: {
      roleArn: `arn:aws:iam::${accountId}:role/team/Admin`,
      roleId: 'AROAADMINEXAMPLE',
      roleName: 'Admin',
      sessionName: 's1',
      issuedAt: Date.UTC(2026, 0, 1, 0, 0, 0, 123),
      expiresAt: Date.UTC(2026, 0, 2),
    },
    tags: new Map(),
    identityPolicies: [],
    ...changes,
  }
}

function root(accountId: string): Principal {
  return {
    type: 'Root',
    arn: rootOf(accountId),
    accountId,
    principalId: accountId,
    accessKeyId: 'AKIAROOT',
    tags: new Map(),
    identityPolicies: [],
  }
}

function decide(principal: Principal, keyPolicy: CompiledPolicy | undefined, changes: Partial<AuthorizationRequest> = {}): Decision {
  return authorize({
    principal,
    action: 'kms:Encrypt',
    resource: { arn, accountId: home, ...(keyPolicy ? { policy: keyPolicy } : {}) },
    context: () => undefined,
    ...changes,
  })
}

const reason = (...args: Parameters<typeof decide>): DecisionReason => decide(...args).reason

describe('a key and a caller of its account', () => {
  it('the key policy that names the caller suffices, and says which statement did', () => {
    const named = policy('key', { Principal: { AWS: rootOf(other) } }, { Sid: 'Alice', Principal: { AWS: user('alice').arn } })
    expect(decide(user('alice'), named)).toEqual({
      allowed: true,
      reason: 'AllowedByResourcePolicy',
      statement: { policy: 'resource', sid: 'Alice', index: 1 },
    })
    expect(reason(user('bob', { identityPolicies: [allowAll] }), named)).toBe('NoResourcePolicyAllows')
  })

  it('the key policy that names the account leaves it to identity policies', () => {
    expect(decide(user('alice', { identityPolicies: [allowAll] }), delegating)).toEqual({
      allowed: true,
      reason: 'AllowedByIdentityPolicy',
      statement: { policy: 'identity', sid: 'All', index: 0 },
    })
    expect(reason(user('alice'), delegating)).toBe('NoIdentityPolicyAllows')
    expect(reason(user('alice', { identityPolicies: [allowAll] }), policy('key', { Principal: { AWS: home } }))).toBe(
      'AllowedByIdentityPolicy',
    )
  })

  it('without delegation identity policies count for nothing', () => {
    const onlyBob = policy('key', { Principal: { AWS: user('bob').arn } })
    expect(reason(user('alice', { identityPolicies: [allowAll] }), onlyBob)).toBe('NoResourcePolicyAllows')
  })

  it('delegation reaches as far as the statement that delegates', () => {
    const readOnly = policy('key', { Principal: { AWS: rootOf(home) }, Action: 'kms:Describe*' })
    const alice = user('alice', { identityPolicies: [allowAll] })
    expect(reason(alice, readOnly)).toBe('NoResourcePolicyAllows')
    expect(reason(alice, readOnly, { action: 'kms:DescribeKey' })).toBe('AllowedByIdentityPolicy')
  })

  it('everybody means everybody, without identity policies', () => {
    for (const Principal of ['*', { AWS: '*' }]) expect(reason(user('alice'), policy('key', { Principal }))).toBe('AllowedByResourcePolicy')
  })

  it('an explicit deny anywhere wins, and is found before any allow', () => {
    const alice = user('alice', { identityPolicies: [allowAll] })
    expect(reason(alice, policy('key', { Principal: '*' }, { Effect: 'Deny', Principal: { AWS: alice.arn } }))).toBe(
      'ExplicitDenyInResourcePolicy',
    )
    expect(reason(alice, policy('key', { Principal: '*' }, { Effect: 'Deny', Principal: { AWS: home } }))).toBe(
      'ExplicitDenyInResourcePolicy',
    )
    expect(reason(user('alice', { identityPolicies: [allowAll, denyAll] }), policy('key', { Principal: { AWS: alice.arn } }))).toBe(
      'ExplicitDenyInIdentityPolicy',
    )
    expect(decide(user('alice', { identityPolicies: [denyAll] }), delegating, { grants: () => 'itself' }).statement).toEqual({
      policy: 'identity',
      sid: 'None',
      index: 0,
    })
  })

  it('services and federated users in a policy match nobody', () => {
    const services = policy('key', { Principal: { Service: 's3.amazonaws.com', Federated: 'accounts.google.com' } })
    expect(reason(user('alice', { identityPolicies: [allowAll] }), services)).toBe('NoResourcePolicyAllows')
  })

  it('NotPrincipal with Deny spares whom it lists; of an account that it lists, the root alone', () => {
    const listed = [user('alice').arn, rootOf(home), rootOf(other)]
    const spared = policy('key', { Principal: '*' }, { Effect: 'Deny', NotPrincipal: { AWS: listed } })
    expect(reason(user('alice'), spared)).toBe('AllowedByResourcePolicy')
    expect(reason(root(home), spared)).toBe('AllowedByResourcePolicy')
    expect(reason(root(other), spared)).toBe('AllowedByResourcePolicy')
    expect(reason(user('bob'), spared)).toBe('ExplicitDenyInResourcePolicy')
    expect(reason(session(), spared)).toBe('ExplicitDenyInResourcePolicy')
    expect(reason(user('carol', { accountId: other, identityPolicies: [allowAll] }), spared)).toBe('ExplicitDenyInResourcePolicy')
  })

  it('NotAction and NotResource turn the list around', () => {
    const alice = user('alice', { identityPolicies: [policy('identity', { NotAction: 'kms:Decrypt', Resource: '*' })] })
    expect(reason(alice, delegating)).toBe('AllowedByIdentityPolicy')
    expect(reason(alice, delegating, { action: 'kms:decrypt' })).toBe('NoIdentityPolicyAllows')
    const notThis = user('alice', { identityPolicies: [policy('identity', { Resource: undefined, NotResource: arn })] })
    expect(reason(notThis, delegating)).toBe('NoIdentityPolicyAllows')
  })

  it('a unique id in the policy goes on matching its user or role', () => {
    expect(reason(user('alice'), policy('key', { Principal: { AWS: 'AIDAALICEEXAMPLE' } }))).toBe('AllowedByResourcePolicy')
    expect(reason(session(), policy('key', { Principal: { AWS: 'AROAADMINEXAMPLE' } }))).toBe('AllowedByResourcePolicy')
  })
})

describe('the root of an account', () => {
  it('may whatever the key policy leaves to its account', () => {
    expect(decide(root(home), delegating)).toMatchObject({ allowed: true, reason: 'AllowedByResourcePolicy' })
  })

  it('is locked out of a key whose policy does not mention the account', () => {
    expect(reason(root(home), policy('key', { Principal: { AWS: user('alice').arn } }))).toBe('NoResourcePolicyAllows')
  })

  it('may what needs no key, in its own account only', () => {
    expect(decide(root(home), undefined, { action: 'kms:CreateKey', resource: { arn: '*', accountId: home } })).toEqual({
      allowed: true,
      reason: 'AllowedByAccountRoot',
    })
    expect(decide(root(home), undefined, { action: 'kms:CreateKey', resource: { arn: '*', accountId: other } }).allowed).toBe(false)
  })

  it('is denied by a key policy as everybody is', () => {
    expect(reason(root(home), policy('key', { Principal: '*' }, { Effect: 'Deny', Principal: { AWS: rootOf(home) } }))).toBe(
      'ExplicitDenyInResourcePolicy',
    )
  })
})

describe('a caller of another account', () => {
  const carol = (identityPolicies: CompiledPolicy[]) => user('carol', { accountId: other, identityPolicies })

  it('needs both sides', () => {
    for (const Principal of [{ AWS: rootOf(other) }, { AWS: other }, { AWS: `arn:aws:iam::${other}:user/carol` }, '*']) {
      expect(reason(carol([allowAll]), policy('key', { Principal }))).toBe('AllowedByIdentityPolicy')
      expect(reason(carol([]), policy('key', { Principal }))).toBe('NoIdentityPolicyAllows')
    }
    expect(reason(carol([allowAll]), delegating)).toBe('NoResourcePolicyAllows')
  })

  it('root needs only the key policy, its own side allows it everything', () => {
    expect(reason(root(other), policy('key', { Principal: { AWS: other } }))).toBe('AllowedByResourcePolicy')
    expect(reason(root(other), delegating)).toBe('NoResourcePolicyAllows')
  })

  it('reaches nothing that has no policy of its own', () => {
    const alias = { arn: `arn:aws:kms:us-east-1:${home}:alias/x`, accountId: home }
    expect(reason(carol([allowAll]), undefined, { action: 'kms:CreateAlias', resource: alias })).toBe('NoResourcePolicyAllows')
  })
})

describe('actions without a key', () => {
  it('are up to identity policies, on the resource given or *', () => {
    const create = policy('identity', { Action: ['kms:CreateKey', 'kms:ListKeys'] })
    const alias = policy('identity', { Action: 'kms:CreateAlias', Resource: `arn:aws:kms:us-east-1:${home}:alias/app/*` })
    const alice = user('alice', { identityPolicies: [create, alias] })
    const on = (action: string, resourceArn: string) =>
      reason(alice, undefined, { action, resource: { arn: resourceArn, accountId: home } })
    expect(on('kms:CreateKey', '*')).toBe('AllowedByIdentityPolicy')
    expect(on('kms:GenerateRandom', '*')).toBe('NoIdentityPolicyAllows')
    expect(on('kms:CreateAlias', `arn:aws:kms:us-east-1:${home}:alias/app/main`)).toBe('AllowedByIdentityPolicy')
    expect(on('kms:CreateAlias', `arn:aws:kms:us-east-1:${home}:alias/other`)).toBe('NoIdentityPolicyAllows')
  })

  it('* as resource is met by a statement on * only', () => {
    const narrow = user('alice', { identityPolicies: [policy('identity', { Resource: `arn:aws:kms:*:${home}:key/*` })] })
    expect(reason(narrow, undefined, { action: 'kms:ListKeys', resource: { arn: '*', accountId: home } })).toBe('NoIdentityPolicyAllows')
  })
})

describe('a session of an assumed role', () => {
  const narrow = policy('session', { Action: 'kms:Decrypt' })
  const wide = policy('session', {})

  it('is named by its role ARN or its own', () => {
    for (const AWS of [`arn:aws:iam::${home}:role/team/Admin`, `arn:aws:sts::${home}:assumed-role/Admin/s1`]) {
      expect(reason(session(), policy('key', { Principal: { AWS } }))).toBe('AllowedByResourcePolicy')
    }
    for (const AWS of [
      `arn:aws:iam::${home}:role/Admin`,
      `arn:aws:sts::${home}:assumed-role/Admin/s2`,
      `arn:aws:iam::${other}:role/team/Admin`,
    ]) {
      expect(reason(session(), policy('key', { Principal: { AWS } }))).toBe('NoResourcePolicyAllows')
    }
  })

  it('may what its identity and its session policies both allow', () => {
    const limited = session({ identityPolicies: [allowAll], sessionPolicies: [narrow] })
    expect(reason(limited, delegating)).toBe('NoSessionPolicyAllows')
    expect(reason(limited, delegating, { action: 'kms:Decrypt' })).toBe('AllowedByIdentityPolicy')
    expect(reason(session({ sessionPolicies: [wide] }), delegating)).toBe('NoIdentityPolicyAllows')
    expect(reason(session({ identityPolicies: [allowAll], sessionPolicies: [narrow, wide] }), delegating)).toBe('AllowedByIdentityPolicy')
    expect(reason(session({ identityPolicies: [allowAll], sessionPolicies: [] }), delegating)).toBe('NoSessionPolicyAllows')
  })

  it('session policies limit what the key policy gives to the role or to everybody, not what it gives to the session', () => {
    const limited = session({ sessionPolicies: [narrow] })
    expect(reason(limited, policy('key', { Principal: { AWS: `arn:aws:iam::${home}:role/team/Admin` } }))).toBe('NoSessionPolicyAllows')
    expect(reason(limited, policy('key', { Principal: '*' }))).toBe('NoSessionPolicyAllows')
    expect(reason(limited, policy('key', { Principal: { AWS: limited.arn } }))).toBe('AllowedByResourcePolicy')
  })

  it('a deny in a session policy wins over everything', () => {
    const denied = session({ sessionPolicies: [policy('session', {}, { Effect: 'Deny', Sid: 'no' })] })
    expect(decide(denied, policy('key', { Principal: { AWS: denied.arn } }))).toEqual({
      allowed: false,
      reason: 'ExplicitDenyInSessionPolicy',
      statement: { policy: 'session', sid: 'no', index: 1 },
    })
  })

  it('from another account needs all three', () => {
    const theirs = policy('key', { Principal: { AWS: `arn:aws:sts::${other}:assumed-role/Admin/s1` } })
    const foreign = (changes: Partial<Principal>) => session({ accountId: other, ...changes })
    expect(reason(foreign({}), theirs)).toBe('NoIdentityPolicyAllows')
    expect(reason(foreign({ identityPolicies: [allowAll], sessionPolicies: [narrow] }), theirs)).toBe('NoSessionPolicyAllows')
    expect(reason(foreign({ identityPolicies: [allowAll], sessionPolicies: [wide] }), theirs)).toBe('AllowedByIdentityPolicy')
  })
})

describe('grants', () => {
  it('are asked only when nothing denies and nothing else allows', () => {
    let asked = 0
    const grants = (): PartyMatch => {
      asked++
      return 'itself'
    }
    expect(reason(user('alice', { identityPolicies: [allowAll] }), delegating, { grants })).toBe('AllowedByIdentityPolicy')
    expect(reason(user('alice', { identityPolicies: [denyAll] }), delegating, { grants })).toBe('ExplicitDenyInIdentityPolicy')
    expect(asked).toBe(0)
    expect(reason(user('alice'), delegating, { grants })).toBe('AllowedByGrant')
    expect(reason(user('carol', { accountId: other }), delegating, { grants })).toBe('AllowedByGrant')
    expect(reason(user('alice'), delegating, { grants: () => undefined })).toBe('NoIdentityPolicyAllows')
    expect(reason(session({ sessionPolicies: [policy('session', { Action: 'kms:List*' })] }), delegating, { grants })).toBe(
      'NoSessionPolicyAllows',
    )
  })

  it('to an account are for its root, and for whom its identity policies let', () => {
    const grants = (): PartyMatch => 'account'
    expect(reason(user('alice'), delegating, { grants })).toBe('NoIdentityPolicyAllows')
    expect(reason(user('carol', { accountId: other }), delegating, { grants })).toBe('NoResourcePolicyAllows')
    expect(reason(user('carol', { accountId: other, identityPolicies: [allowAll] }), delegating, { grants })).toBe('AllowedByGrant')
    expect(reason(root(other), delegating, { grants })).toBe('AllowedByGrant')
  })
})

describe('retiring a grant', () => {
  const retire = (principal: Principal, match: PartyMatch | undefined) =>
    authorizeRetireGrant({ principal, keyArn: arn, context: () => undefined, match }).reason

  it('is for whom the grant names, whatever policies do not say, and for an account to pass on', () => {
    expect(retire(user('alice'), 'itself')).toBe('AllowedByGrant')
    expect(retire(user('alice'), 'account')).toBe('NoIdentityPolicyAllows')
    expect(retire(user('alice', { identityPolicies: [policy('identity', { Action: 'kms:RetireGrant' })] }), 'account')).toBe(
      'AllowedByGrant',
    )
    expect(retire(root(home), 'account')).toBe('AllowedByGrant')
  })

  it('is for nobody else, whatever policies allow', () => {
    expect(retire(user('alice', { identityPolicies: [allowAll] }), undefined)).toBe('NoGrantAllows')
    expect(retire(root(home), undefined)).toBe('NoGrantAllows')
  })

  it('can be denied, and session policies limit it', () => {
    expect(retire(user('alice', { identityPolicies: [denyAll] }), 'itself')).toBe('ExplicitDenyInIdentityPolicy')
    expect(retire(session({ sessionPolicies: [policy('session', { Effect: 'Deny' })] }), 'itself')).toBe('ExplicitDenyInSessionPolicy')
    expect(retire(session({ sessionPolicies: [policy('session', { Action: 'kms:List*' })] }), 'itself')).toBe('NoSessionPolicyAllows')
  })
})

describe('conditions in policies', () => {
  it('see the keys of the request and of the principal, and a request cannot forge the latter', () => {
    const conditional = policy('key', {
      Principal: '*',
      Condition: { StringEquals: { 'aws:PrincipalTag/Team': 'blue', 'kms:EncryptionContext:App': 'pay' } },
    })
    const context = (values: Record<string, string>) => (key: string) => values[key]
    const blue = user('alice', { tags: new Map([['team', 'blue']]) })
    expect(decide(blue, conditional, { context: context({ 'kms:encryptioncontext:app': 'pay' }) }).allowed).toBe(true)
    expect(decide(blue, conditional).allowed).toBe(false)
    const forged = context({ 'kms:encryptioncontext:app': 'pay', 'aws:principaltag/team': 'blue' })
    expect(decide(user('bob'), conditional, { context: forged }).allowed).toBe(false)
    expect(decide(user('bob', { tags: new Map([['Team', 'red']]) }), conditional, { context: forged }).allowed).toBe(false)
  })

  it('may use the principal in resources', () => {
    const own = policy('identity', {
      Action: 'kms:CreateAlias',
      Resource: `arn:aws:kms:*:\${aws:PrincipalAccount}:alias/\${aws:username}/*`,
    })
    const on = (name: string, owner: string) =>
      decide(user(name, { identityPolicies: [own] }), undefined, {
        action: 'kms:CreateAlias',
        resource: { arn: `arn:aws:kms:us-east-1:${home}:alias/${owner}/x`, accountId: home },
      }).allowed
    expect(on('alice', 'alice')).toBe(true)
    expect(on('alice', 'bob')).toBe(false)
    expect(on('*', 'bob')).toBe(false)
  })
})

describe('the keys of a principal', () => {
  const names = [
    'aws:principalarn',
    'aws:principalaccount',
    'aws:principaltype',
    'aws:principalisawsservice',
    'aws:userid',
    'aws:username',
    'aws:multifactorauthpresent',
    'aws:tokenissuetime',
    'kms:calleraccount',
    'aws:principaltag/team',
    'aws:sourceip',
  ]
  const keys = (principal: Principal): (string | readonly string[] | undefined)[] => names.map((name) => principalContext(principal)(name))

  it('of a user, of a session and of root', () => {
    const tags = new Map([['Team', 'blue']])
    expect(keys(user('alice', { tags }))).toEqual([
      user('alice').arn,
      home,
      'User',
      'false',
      'AIDAALICEEXAMPLE',
      'alice',
      undefined,
      undefined,
      home,
      'blue',
      undefined,
    ])
    expect(keys(session({ tags }))).toEqual([
      `arn:aws:iam::${home}:role/team/Admin`,
      home,
      'AssumedRole',
      'false',
      'AROAADMINEXAMPLE:s1',
      undefined,
      'false',
      '2026-01-01T00:00:00Z',
      home,
      'blue',
      undefined,
    ])
    expect(keys(root(home))).toEqual([
      rootOf(home),
      home,
      'Account',
      'false',
      home,
      undefined,
      undefined,
      undefined,
      home,
      undefined,
      undefined,
    ])
  })
})

describe('sts:AssumeRole', () => {
  const roleArn = `arn:aws:iam::${home}:role/Admin`
  const assume = (principal: Principal, trustPolicy: CompiledPolicy, context: Record<string, string> = {}): DecisionReason =>
    authorizeAssumeRole({ principal, role: { arn: roleArn, accountId: home, trustPolicy }, context: (key) => context[key] }).reason
  const mayAssume = policy('identity', { Action: 'sts:AssumeRole', Resource: roleArn })

  it('is allowed by a trust policy that names the caller, or the account and an identity policy', () => {
    expect(assume(user('alice'), policy('trust', { Principal: { AWS: user('alice').arn } }))).toBe('AllowedByResourcePolicy')
    expect(assume(user('alice'), policy('trust', { Principal: { AWS: home } }))).toBe('NoIdentityPolicyAllows')
    expect(assume(user('alice', { identityPolicies: [mayAssume] }), policy('trust', { Principal: { AWS: home } }))).toBe(
      'AllowedByIdentityPolicy',
    )
    expect(assume(user('alice', { identityPolicies: [mayAssume] }), policy('trust', { Principal: { AWS: user('bob').arn } }))).toBe(
      'NoTrustPolicyAllows',
    )
  })

  it('from another account needs both sides', () => {
    const carol = (identityPolicies: CompiledPolicy[]) => user('carol', { accountId: other, identityPolicies })
    const trusting = policy('trust', { Principal: { AWS: carol([]).arn } })
    expect(assume(carol([]), trusting)).toBe('NoIdentityPolicyAllows')
    expect(assume(carol([mayAssume]), trusting)).toBe('AllowedByIdentityPolicy')
  })

  it('is refused by a deny in the trust policy, by its conditions, and to root', () => {
    const denying = policy('trust', { Principal: '*' }, { Effect: 'Deny', Principal: { AWS: user('alice').arn } })
    expect(assume(user('alice'), denying)).toBe('ExplicitDenyInTrustPolicy')
    const external = policy('trust', { Principal: { AWS: user('alice').arn }, Condition: { StringEquals: { 'sts:ExternalId': 'x' } } })
    expect(assume(user('alice'), external)).toBe('NoTrustPolicyAllows')
    expect(assume(user('alice'), external, { 'sts:externalid': 'x' })).toBe('AllowedByResourcePolicy')
    expect(assume(root(home), policy('trust', { Principal: '*' }))).toBe('RootMayNotAssumeRoles')
  })
})

describe('the lockout safety check', () => {
  const check = (principal: Principal, keyPolicy: CompiledPolicy): boolean =>
    wouldLockOut(keyPolicy, principal, { arn, accountId: home }, () => undefined)

  it('passes when the policy names the caller or leaves it to its account, whatever the identity policies', () => {
    expect(check(user('alice'), delegating)).toBe(false)
    expect(check(root(home), delegating)).toBe(false)
    expect(check(user('alice'), policy('key', { Principal: { AWS: user('alice').arn }, Action: ['kms:Encrypt', 'kms:Put*'] }))).toBe(false)
    expect(check(session(), policy('key', { Principal: { AWS: `arn:aws:iam::${home}:role/team/Admin` } }))).toBe(false)
  })

  it('fails when nobody of the caller could call kms:PutKeyPolicy', () => {
    expect(check(user('alice'), policy('key', { Principal: { AWS: user('bob').arn } }))).toBe(true)
    expect(check(user('alice'), policy('key', { Principal: { AWS: home }, Action: 'kms:Encrypt' }))).toBe(true)
    expect(check(user('alice'), policy('key', { Principal: '*' }, { Effect: 'Deny', Principal: '*', Action: 'kms:PutKeyPolicy' }))).toBe(
      true,
    )
    expect(
      check(user('alice'), policy('key', { Principal: { AWS: home }, Resource: 'arn:aws:kms:us-east-1:111122223333:key/other' })),
    ).toBe(true)
    expect(check(root(home), policy('key', { Principal: { AWS: other } }))).toBe(true)
  })
})

describe('what a refused caller is told', () => {
  const denied = { principalArn: user('alice').arn, action: 'kms:Encrypt', resourceArn: arn }
  it.each([
    ['NoIdentityPolicyAllows', 'because no identity-based policy allows the kms:Encrypt action'],
    ['NoResourcePolicyAllows', 'because no resource-based policy allows the kms:Encrypt action'],
    ['NoSessionPolicyAllows', 'because no session policy allows the kms:Encrypt action'],
    ['ExplicitDenyInIdentityPolicy', 'with an explicit deny in an identity-based policy'],
    ['ExplicitDenyInResourcePolicy', 'with an explicit deny in a resource-based policy'],
    ['ExplicitDenyInSessionPolicy', 'with an explicit deny in a session policy'],
  ] as const)('%s', (reason, ending) => {
    expect(accessDeniedMessage({ ...denied, reason })).toBe(
      `User: arn:aws:iam::${home}:user/alice is not authorized to perform: kms:Encrypt on resource: ${arn} ${ending}`,
    )
  })

  it('trust policies and root have their own words, and a resource may be left out', () => {
    const assume = { principalArn: user('alice').arn, action: 'sts:AssumeRole' }
    expect(accessDeniedMessage({ ...assume, reason: 'NoTrustPolicyAllows' })).toBe(
      `User: ${user('alice').arn} is not authorized to perform: sts:AssumeRole because no role trust policy allows the sts:AssumeRole action`,
    )
    expect(accessDeniedMessage({ ...assume, reason: 'RootMayNotAssumeRoles' })).toBe('Roles may not be assumed by root accounts.')
  })
})
