/**
 * Our evaluator held against an independent one (@cloud-copilot/iam-simulate) over generated policies and requests.
 *
 * Both answer Allowed, ImplicitlyDenied or ExplicitlyDenied. Where the simulator is known to read something otherwise, a
 * named rewrite below says so with the reason, and puts the same question to it in words that it reads as AWS does: after
 * the rewrites that apply, the answers must be equal. A disagreement that no rewrite removes fails the test.
 *
 * AUTH_SEED repeats a run; each run prints its seed.
 */

import { runSimulation, type Simulation } from '@cloud-copilot/iam-simulate'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { authorize, authorizeAssumeRole, principalContext, type Decision } from '../../src/auth/authorize.ts'
import { compilePolicy, type PolicyKind } from '../../src/auth/policy.ts'
import type { Principal } from '../../src/auth/principal.ts'

const seed = Number(process.env['AUTH_SEED'] ?? Math.floor(Math.random() * 2 ** 31))

type Answer = 'Allowed' | 'ImplicitlyDenied' | 'ExplicitlyDenied'

interface JsonStatement {
  Sid?: string
  Effect: 'Allow' | 'Deny'
  Principal?: unknown
  NotPrincipal?: unknown
  Action?: string[]
  NotAction?: string[]
  Resource?: string[]
  NotResource?: string[]
  Condition?: Record<string, Record<string, string[]>>
}

interface JsonPolicy {
  Version: '2012-10-17' | '2008-10-17'
  Statement: JsonStatement[]
}

interface Case {
  caller: Omit<Principal, 'identityPolicies' | 'sessionPolicies'>
  action: string
  arn: string
  resourceAccount: string
  resourcePolicy: JsonPolicy | undefined
  identityPolicies: JsonPolicy[]
  sessionPolicy: JsonPolicy | undefined
  context: Record<string, string | string[]>
}

// ---- the world ----

const home = '111122223333'
const other = '444455556666'
const keyId = '1234abcd-12ab-34cd-56ef-1234567890ab'
const keyArn = `arn:aws:kms:us-east-1:${home}:key/${keyId}`
const aliasArn = `arn:aws:kms:us-east-1:${home}:alias/app/main`

function user(accountId: string, name: string, tags: Record<string, string>): Case['caller'] {
  return {
    type: 'IAMUser',
    arn: `arn:aws:iam::${accountId}:user/${name}`,
    accountId,
    principalId: `AIDA${name.toUpperCase()}EXAMPLE`,
    accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
    userName: name,
    tags: new Map(Object.entries(tags)),
  }
}

function session(accountId: string, rolePath: string, roleName: string, sessionName: string, tags: Record<string, string>): Case['caller'] {
  const roleId = `AROA${roleName.toUpperCase()}EXAMPLE`
  return {
    type: 'AssumedRole',
    arn: `arn:aws:sts::${accountId}:assumed-role/${roleName}/${sessionName}`,
    accountId,
    principalId: `${roleId}:${sessionName}`,
    accessKeyId: 'ASIAIOSFODNN7EXAMPLE',
    session: {
      roleArn: `arn:aws:iam::${accountId}:role/${rolePath}${roleName}`,
      roleId,
      roleName,
      sessionName,
      issuedAt: Date.UTC(2026, 0, 1),
      expiresAt: Date.UTC(2026, 0, 2),
    },
    tags: new Map(Object.entries(tags)),
  }
}

function root(accountId: string): Case['caller'] {
  return {
    type: 'Root',
    arn: `arn:aws:iam::${accountId}:root`,
    accountId,
    principalId: accountId,
    accessKeyId: 'AKIAIOSFODNN7ROOT',
    tags: new Map(),
  }
}

const callers = [
  user(home, 'alice', { team: 'blue', key: keyId, Empty: '', star: '*' }),
  user(home, 'bob', {}),
  user(other, 'carol', { team: 'red' }),
  session(home, '', 'Admin', 's1', { team: 'blue' }),
  session(home, 'team/', 'Deploy', 'ci', { team: 'red', key: 'other' }),
  session(other, '', 'Admin', 's1', {}),
  root(home),
  root(other),
]

const principalKeys = [
  'aws:PrincipalArn',
  'aws:PrincipalAccount',
  'aws:PrincipalType',
  'aws:PrincipalIsAWSService',
  'aws:userid',
  'aws:username',
  'aws:MultiFactorAuthPresent',
  'aws:TokenIssueTime',
  'aws:PrincipalTag/team',
  'aws:PrincipalTag/key',
  'aws:PrincipalTag/Empty',
  'aws:PrincipalTag/star',
  'kms:CallerAccount',
]

// ---- generating ----

const effect = fc.constantFrom('Allow' as const, 'Allow' as const, 'Allow' as const, 'Deny' as const)
const keyActions = ['kms:Encrypt', 'kms:Decrypt', 'kms:GenerateDataKey', 'kms:DescribeKey', 'kms:ScheduleKeyDeletion']
const actionPattern = fc.constantFrom(
  'kms:*',
  'kms:*',
  'kms:*',
  'kms:*',
  'kms:*',
  'kms:*',
  '*',
  '*',
  '*',
  ...keyActions,
  'KMS:encrypt',
  'kms:*crypt',
  'kms:En?rypt',
  'kms:GenerateDataKey*',
  'kms:D*',
  'kms:????????',
  's3:*',
  'kms:CreateAlias',
  'kms:*Alias',
  'kms:List*',
  'kms:Create*',
  'kms:GenerateRandom',
  'sts:*',
  'sts:AssumeRole',
)
const resourcePattern = fc.constantFrom(
  '*',
  '*',
  '*',
  '*',
  '*',
  '*',
  '*',
  '*',
  '*',
  '*',
  keyArn,
  keyArn,
  keyArn,
  aliasArn,
  `arn:aws:kms:us-east-1:${home}:key/*`,
  `arn:aws:kms:*:${home}:key/*`,
  `arn:aws:kms:*:*:*`,
  `arn:aws:kms:us-east-?:*:key/1234*ab`,
  `arn:aws:kms:us-east-1:${home}:key/*-*-34cd-????-*`,
  `arn:aws:kms:us-east-1:${home}:key/ffff*`,
  `arn:aws:kms:us-east-1:${home}:alias/*`,
  `arn:aws:kms:us-east-1:${home}:alias/app/ma??`,
  `arn:aws:kms:*:${other}:key/*`,
  'arn:aws:kms',
  'arn:aws:kms:us-east-1',
  'arn:aws:kms:*',
  `arn:aws:kms:us-east-1:${home}`,
  `arn:aws:kms:eu-*:${home}`,
  `arn:aws:kms:us-east-1:${home}:key/\${aws:PrincipalTag/key}`,
  `arn:aws:kms:us-east-1:${home}:key/\${aws:PrincipalTag/none, '${keyId}'}`,
  `arn:aws:kms:us-east-1:${home}:key/\${aws:PrincipalTag/star}`,
  `arn:aws:kms:us-east-1:${home}:key/\${aws:PrincipalTag/Empty}*`,
  `arn:aws:kms:us-east-1:${home}:key/\${*}`,
  `arn:aws:kms:us-east-1:${home}:alias/app/\${aws:PrincipalTag/team}*`,
  `arn:aws:iam::${home}:role/*`,
)
const awsPrincipal = fc.constantFrom(
  '*',
  home,
  other,
  `arn:aws:iam::${home}:root`,
  `arn:aws:iam::${home}:root`,
  `arn:aws:iam::${other}:root`,
  ...callers.filter(({ type }) => type !== 'Root').map(({ arn }) => arn),
  ...callers.flatMap((caller) => (caller.session ? [caller.session.roleArn, caller.session.roleArn] : [])),
  `arn:aws:iam::${home}:role/Deploy`,
  `arn:aws:sts::${home}:assumed-role/Admin/s2`,
  'AIDAALICEEXAMPLE',
  'AROAADMINEXAMPLE',
  'AIDANOBODYEXAMPLE',
)
const principalElement = fc.oneof(
  { weight: 1, arbitrary: fc.constant('*') },
  { weight: 8, arbitrary: fc.uniqueArray(awsPrincipal, { minLength: 1, maxLength: 3 }).map((AWS) => ({ AWS })) },
  { weight: 1, arbitrary: fc.constant({ Service: ['s3.amazonaws.com'] }) },
  { weight: 1, arbitrary: awsPrincipal.map((AWS) => ({ AWS, Service: 'lambda.amazonaws.com', Federated: 'accounts.google.com' })) },
)

const text = fc.constantFrom(
  'pay',
  'PAY',
  'pay*',
  'p?y',
  '*',
  'a*b',
  '${*}',
  'a${*}b',
  '${?}',
  '${$}',
  '',
  'blue',
  'red',
  'x',
  '${aws:username}',
  '${aws:PrincipalTag/team}',
  "${aws:PrincipalTag/team, 'pay'}",
  "${aws:PrincipalTag/none, 'blue'}",
  'p${aws:PrincipalTag/Empty}ay',
  '${aws:PrincipalTag/none}',
  '${aws:RequestTag/App}',
  '${aws:TagKeys}',
  '${aws:PrincipalTag/star}',
)
const arnText = fc.constantFrom(
  keyArn,
  `arn:aws:iam::${home}:user/alice`,
  `arn:aws:iam::${home}:user/*`,
  `arn:aws:iam::*:role/*`,
  `arn:aws:iam::${home}:role/Admin`,
  `arn:*:iam::*:*`,
  `arn:aws:s3:::bucket`,
  'arn:aws:s3:::buck*',
  'arn:aws:s3:*:*:b?cket',
  `arn:aws:iam::${home}:user/\${aws:username}`,
  `arn:aws:iam::${other}:root`,
  '*',
  'arn:aws:*',
  `arn:aws:iam::\${aws:PrincipalAccount}:*`,
)
const numberText = fc.constantFrom('7', '07', '30', '29.5', '-1', '8')
const dateText = fc.constantFrom(
  '2026-01-01T00:00:00Z',
  '2026-06-01',
  '2025-12-31T23:59:59Z',
  '2026-01-01T01:00:00+01:00',
  '1767225600',
  '1780000000',
)
const addressText = fc.constantFrom(
  '10.0.0.0/8',
  '10.1.2.3',
  '10.1.2.3/32',
  '192.168.0.0/16',
  '0.0.0.0/0',
  '2001:db8::/32',
  '2001:db8::1',
  '::/0',
  '10.1.2.0/25',
)
const booleanText = fc.constantFrom('true', 'false', 'TRUE')

const stringKeys = [
  'aws:RequestTag/App',
  'aws:REQUESTTAG/app',
  'kms:EncryptionContext:App',
  'aws:PrincipalTag/team',
  'aws:username',
  'kms:ViaService',
  'aws:PrincipalType',
  'aws:userid',
  'kms:EncryptionContextKeys',
  'aws:TagKeys',
  'aws:SourceIp',
]
const families: { operators: string[]; keys: string[]; values: fc.Arbitrary<string> }[] = [
  {
    operators: [
      'StringEquals',
      'StringNotEquals',
      'StringEqualsIgnoreCase',
      'StringNotEqualsIgnoreCase',
      'StringLike',
      'StringNotLike',
      'stringlike',
    ],
    keys: stringKeys,
    values: text,
  },
  { operators: ['ArnEquals', 'ArnNotEquals', 'ArnLike', 'ArnNotLike'], keys: ['aws:PrincipalArn', 'aws:SourceArn'], values: arnText },
  {
    operators: [
      'NumericEquals',
      'NumericNotEquals',
      'NumericLessThan',
      'NumericLessThanEquals',
      'NumericGreaterThan',
      'NumericGreaterThanEquals',
    ],
    keys: ['kms:ScheduleKeyDeletionPendingWindowInDays', 'aws:RequestTag/App'],
    values: numberText,
  },
  {
    operators: ['DateEquals', 'DateNotEquals', 'DateLessThan', 'DateLessThanEquals', 'DateGreaterThan', 'DateGreaterThanEquals'],
    keys: ['aws:CurrentTime', 'aws:EpochTime', 'aws:TokenIssueTime', 'kms:ViaService'],
    values: dateText,
  },
  { operators: ['Bool'], keys: ['aws:SecureTransport', 'aws:MultiFactorAuthPresent', 'kms:ViaService'], values: booleanText },
  { operators: ['IpAddress', 'NotIpAddress'], keys: ['aws:SourceIp', 'kms:ViaService'], values: addressText },
]
const entry = fc.constantFrom(...families, ...families.slice(0, 2), ...families.slice(0, 1)).chain(({ operators, keys, values }) =>
  fc.record({
    operator: fc
      .tuple(
        fc.constantFrom('', '', '', 'ForAllValues:', 'ForAnyValue:'),
        fc.constantFrom(...operators),
        fc.constantFrom('', '', 'IfExists'),
      )
      .map((parts) => parts.join('')),
    key: fc.constantFrom(...keys),
    values: fc.uniqueArray(values, { minLength: 1, maxLength: 3 }),
  }),
)
const nullEntry = fc.record({
  operator: fc.constant('Null'),
  key: fc.constantFrom(...stringKeys),
  values: booleanText.map((value) => [value]),
})
const condition = fc
  .array(fc.oneof({ weight: 9, arbitrary: entry }, { weight: 1, arbitrary: nullEntry }), { minLength: 1, maxLength: 2 })
  .map((entries) => {
    const block: Record<string, Record<string, string[]>> = {}
    for (const { operator, key, values } of entries) block[operator] = { ...block[operator], [key]: values }
    return block
  })

function statement(kind: PolicyKind): fc.Arbitrary<JsonStatement> {
  const actions = kind === 'trust' ? fc.constantFrom('sts:AssumeRole', 'sts:*', 'sts:Assume*', 'sts:TagSession') : actionPattern
  return fc
    .record({
      Effect: effect,
      actions: fc.uniqueArray(actions, { minLength: 1, maxLength: 3 }),
      notAction: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
      resources: fc.uniqueArray(resourcePattern, { minLength: 1, maxLength: 3 }),
      notResource: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
      principals: principalElement,
      notPrincipal: fc.integer({ min: 0, max: 11 }).map((n) => n === 0),
      Condition: fc.option(condition, { freq: 2, nil: undefined }),
    })
    .map((parts) => ({
      Effect: parts.Effect,
      ...(parts.notAction ? { NotAction: parts.actions } : { Action: parts.actions }),
      ...(kind === 'trust' ? {} : parts.notResource ? { NotResource: parts.resources } : { Resource: parts.resources }),
      ...(kind !== 'key' && kind !== 'trust'
        ? {}
        : parts.notPrincipal
          ? { NotPrincipal: parts.principals }
          : { Principal: parts.principals }),
      ...(parts.Condition === undefined ? {} : { Condition: parts.Condition }),
    }))
}

function policy(kind: PolicyKind): fc.Arbitrary<JsonPolicy> {
  return fc.record({
    Version: fc.constantFrom(
      '2012-10-17' as const,
      '2012-10-17' as const,
      '2012-10-17' as const,
      '2012-10-17' as const,
      '2008-10-17' as const,
    ),
    Statement: fc.array(statement(kind), { minLength: 1, maxLength: 4 }),
  })
}

const optional = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(arbitrary, { freq: 4, nil: undefined })
const requestContext = fc
  .record({
    'aws:RequestTag/App': optional(
      fc.constantFrom('pay', 'PAY', 'a*b', 'axb', '*', '?', '$', '', 'blue', 'p*y', 'alice', '30', 'pay\nroll'),
    ),
    'kms:EncryptionContext:App': optional(fc.constantFrom('pay', 'blue')),
    'kms:EncryptionContextKeys': optional(fc.uniqueArray(fc.constantFrom('pay', 'PAY', 'blue', 'x'), { maxLength: 3 })),
    'aws:TagKeys': optional(fc.uniqueArray(fc.constantFrom('pay', 'red', 'x', 'alice'), { maxLength: 2 })),
    'kms:ViaService': optional(fc.constantFrom('pay', 'x', 'blue', 'true')),
    'aws:SourceIp': optional(fc.constantFrom('10.1.2.3', '10.1.2.200', '192.168.1.9', '2001:db8::1', '2001:db9::1')),
    'aws:SecureTransport': optional(fc.constantFrom('true', 'false')),
    'aws:CurrentTime': optional(fc.constantFrom('2026-01-01T00:00:00Z', '2026-03-04T05:06:07Z')),
    'aws:EpochTime': optional(fc.constantFrom('1767225600', '1772600000')),
    'kms:ScheduleKeyDeletionPendingWindowInDays': optional(fc.constantFrom('7', '30', '8')),
    'aws:SourceArn': optional(fc.constantFrom('arn:aws:s3:::bucket', 'arn:aws:s3:us-east-1:1:b:cket', keyArn, 'no-arn')),
  })
  .map((keys): Case['context'] =>
    Object.fromEntries(Object.entries(keys).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]]))),
  )

function withPrincipalKeys(caller: Case['caller'], context: Case['context']): Case['context'] {
  const own = principalContext({ ...caller, identityPolicies: [] })
  const keys = principalKeys.flatMap((key) => {
    const value = own(key.toLowerCase())
    return value === undefined ? [] : [[key, value]]
  })
  return { ...context, ...(Object.fromEntries(keys) as Case['context']) }
}

const keyCase: fc.Arbitrary<Case> = fc
  .record({
    caller: fc.constantFrom(...callers),
    onKey: fc.integer({ min: 0, max: 5 }).map((n) => n > 0),
    keyAction: fc.constantFrom(...keyActions, 'kms:Encrypt', 'kms:Encrypt'),
    keyPolicy: policy('key'),
    identityPolicies: fc.array(policy('identity'), { maxLength: 2 }),
    context: requestContext,
  })
  .map(({ caller, onKey, keyAction, keyPolicy, identityPolicies, context }) => ({
    caller,
    action: onKey ? keyAction : 'kms:CreateAlias',
    arn: onKey ? keyArn : aliasArn,
    resourceAccount: home,
    resourcePolicy: onKey ? keyPolicy : undefined,
    identityPolicies: caller.type === 'Root' ? [] : identityPolicies,
    sessionPolicy: undefined,
    context: withPrincipalKeys(caller, context),
  }))

const sessionCase: fc.Arbitrary<Case> = fc
  .tuple(keyCase, fc.constantFrom(...callers.filter(({ session }) => session)), policy('session'))
  .map(([generated, caller, sessionPolicy]) => ({
    ...generated,
    caller,
    sessionPolicy,
    context: withPrincipalKeys(caller, withoutPrincipalKeys(generated.context)),
  }))

/** Actions that have no resource. */
const wildcardCase: fc.Arbitrary<Case> = fc
  .tuple(keyCase, fc.constantFrom('kms:CreateKey', 'kms:ListKeys', 'kms:GenerateRandom'))
  .map(([generated, action]) => ({
    ...generated,
    action,
    arn: '*',
    resourceAccount: generated.caller.accountId,
    resourcePolicy: undefined,
  }))

/** Root may not assume roles, which the simulator does not know. */
const assumeRoleCase: fc.Arbitrary<Case> = fc
  .tuple(keyCase, fc.constantFrom(...callers.filter(({ type }) => type !== 'Root')), policy('trust'))
  .map(([generated, caller, trustPolicy]) => ({
    ...generated,
    caller,
    action: 'sts:AssumeRole',
    arn: `arn:aws:iam::${home}:role/Admin`,
    resourcePolicy: trustPolicy,
    context: withPrincipalKeys(caller, withoutPrincipalKeys(generated.context)),
  }))

function withoutPrincipalKeys(context: Case['context']): Case['context'] {
  return Object.fromEntries(Object.entries(context).filter(([key]) => !principalKeys.includes(key)))
}

const anyCase = fc.oneof(
  { weight: 14, arbitrary: keyCase },
  { weight: 3, arbitrary: sessionCase },
  { weight: 1, arbitrary: wildcardCase },
  { weight: 2, arbitrary: assumeRoleCase },
)

// ---- both evaluators ----

function ours(generated: Case): Answer {
  const principal: Principal = {
    ...generated.caller,
    identityPolicies: generated.identityPolicies.map((json) => compilePolicy(JSON.stringify(json), 'identity')),
    ...(generated.sessionPolicy ? { sessionPolicies: [compilePolicy(JSON.stringify(generated.sessionPolicy), 'session')] } : {}),
  }
  const context = new Map(Object.entries(generated.context).map(([key, value]) => [key.toLowerCase(), value]))
  const trust = generated.action === 'sts:AssumeRole'
  const compiled = generated.resourcePolicy && compilePolicy(JSON.stringify(generated.resourcePolicy), trust ? 'trust' : 'key')
  if (trust && compiled) {
    const role = { arn: generated.arn, accountId: generated.resourceAccount, trustPolicy: compiled }
    return answerOf(authorizeAssumeRole({ principal, role, context: (key) => context.get(key) }))
  }
  return answerOf(
    authorize({
      principal,
      action: generated.action,
      resource: { arn: generated.arn, accountId: generated.resourceAccount, ...(compiled ? { policy: compiled } : {}) },
      context: (key) => context.get(key),
    }),
  )
}

function answerOf({ allowed, reason }: Decision): Answer {
  if (allowed) return 'Allowed'
  return reason.startsWith('ExplicitDeny') ? 'ExplicitlyDenied' : 'ImplicitlyDenied'
}

function toSimulation(generated: Case): Simulation {
  const allowAll: JsonPolicy = { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: ['*'], Resource: ['*'] }] }
  // The simulator has no root user; at AWS root is an identity to which its account allows everything.
  const identityPolicies = generated.caller.type === 'Root' ? [allowAll] : generated.identityPolicies
  return {
    request: {
      principal: generated.caller.arn,
      action: generated.action,
      resource: { resource: generated.arn, accountId: generated.resourceAccount },
      contextVariables: generated.context,
    },
    identityPolicies: identityPolicies.map((json, index) => ({ name: `identity${index}`, policy: json })),
    serviceControlPolicies: [],
    resourceControlPolicies: [],
    ...(generated.resourcePolicy ? { resourcePolicy: generated.resourcePolicy } : {}),
    ...(generated.sessionPolicy ? { sessionPolicy: generated.sessionPolicy } : {}),
  }
}

async function theirs(generated: Case): Promise<{ answer: Answer; ignored: readonly string[] }> {
  const outcome = await runSimulation(toSimulation(generated), {})
  if (outcome.resultType !== 'single') throw new Error(JSON.stringify(outcome))
  return { answer: outcome.overallResult, ignored: outcome.result.ignoredContextKeys ?? [] }
}

// ---- where the simulator reads something otherwise ----

interface Rewrite {
  readonly name: string
  /** What AWS does, and what the simulator does instead. */
  readonly reason: string
  readonly apply: (generated: Case) => Case
}

type PolicyPart = 'resource' | 'identity' | 'session'

function mapStatements(generated: Case, change: (statement: JsonStatement, part: PolicyPart, policy: JsonPolicy) => JsonStatement): Case {
  const map = (json: JsonPolicy, part: PolicyPart): JsonPolicy => ({
    ...json,
    Statement: json.Statement.map((item) => change(item, part, json)),
  })
  return {
    ...generated,
    resourcePolicy: generated.resourcePolicy && map(generated.resourcePolicy, 'resource'),
    identityPolicies: generated.identityPolicies.map((json) => map(json, 'identity')),
    sessionPolicy: generated.sessionPolicy && map(generated.sessionPolicy, 'session'),
  }
}

/** Undefined drops the value: it is one that matches nothing. */
function mapResources(generated: Case, change: (text: string, part: PolicyPart, policy: JsonPolicy) => string | undefined): Case {
  const matchesNothing = 'arn:aws:s3:::matches-nothing'
  return mapStatements(generated, (item, part, json) => {
    const map = (list: string[]): string[] => {
      const kept = list.flatMap((text) => change(text, part, json) ?? [])
      return kept.length > 0 ? kept : [matchesNothing]
    }
    return {
      ...item,
      ...(item.Resource ? { Resource: map(item.Resource) } : {}),
      ...(item.NotResource ? { NotResource: map(item.NotResource) } : {}),
    }
  })
}

function mapConditionValues(
  generated: Case,
  change: (text: string, operator: string, policy: JsonPolicy) => string | string[] | undefined,
): Case {
  return mapStatements(generated, (item, _part, json) => {
    if (!item.Condition) return item
    const Condition = Object.fromEntries(
      Object.entries(item.Condition).map(([operator, entries]) => [
        operator,
        Object.fromEntries(
          Object.entries(entries).map(([key, values]) => [key, values.flatMap((text) => change(text, operator.toLowerCase(), json) ?? [])]),
        ),
      ]),
    )
    return { ...item, Condition }
  })
}

function mapPrincipals(generated: Case, change: (text: string) => string): Case {
  const map = (element: unknown): unknown => {
    if (typeof element !== 'object' || element === null || !('AWS' in element)) return element
    return { ...element, AWS: [element.AWS].flat().map((text) => change(String(text))) }
  }
  return mapStatements(generated, (item) => ({
    ...item,
    ...(item.Principal === undefined ? {} : { Principal: map(item.Principal) }),
    ...(item.NotPrincipal === undefined ? {} : { NotPrincipal: map(item.NotPrincipal) }),
  }))
}

const takesVariables = /(?:string|arn|bool)/

/** A variable's value, a default, or undefined: written again here so as not to trust what is under test. */
function variableValue(inside: string, generated: Case): string | undefined {
  const [, key = '', fallback] = /^([^,]+)(?:, '(.*)')?$/.exec(inside) ?? []
  const entry = Object.entries(generated.context).find(([name]) => name.toLowerCase() === key.toLowerCase())
  return typeof entry?.[1] === 'string' ? entry[1] : fallback
}

function isUnresolved(text: string, json: JsonPolicy, generated: Case): boolean {
  const variables = [...text.matchAll(/\$\{([^}]*)\}/g)].map((match) => match[1] ?? '')
  if (variables.length === 0) return false
  if (json.Version === '2008-10-17') return true
  return variables.some((inside) => !'*?$'.includes(inside) && variableValue(inside, generated) === undefined)
}

const rewrites: readonly Rewrite[] = [
  {
    name: 'variable without value',
    reason:
      'Nothing equals a variable without value: no resource matches it, so that NotResource holds, and negated operators hold ' +
      '(user guide, "Policy variables with no value"). Before 2012-10-17 a variable is plain text, which no value here is. ' +
      'The simulator substitutes in every version and lets neither NotResource nor negated operators hold.',
    apply: (generated) =>
      mapConditionValues(
        mapResources(generated, (text, _part, json) => (isUnresolved(text, json, generated) ? undefined : text)),
        (text, operator, json) => (takesVariables.test(operator) && isUnresolved(text, json, generated) ? undefined : text),
      ),
  },
  {
    name: 'variable with an empty value',
    reason: 'An empty tag value is a value. The simulator takes it for a missing one.',
    apply: (generated) => {
      const fill = (text: string): string =>
        text.replaceAll(/\$\{([^}]*)\}/g, (whole, inside: string) => (variableValue(inside, generated) === '' ? '' : whole))
      return mapConditionValues(mapResources(generated, fill), (text, operator) => (takesVariables.test(operator) ? fill(text) : text))
    },
  },
  {
    name: 'escapes in operators without wildcards',
    reason: '${*}, ${?} and ${$} stand for the character in every string. The simulator leaves them as written under StringEquals.',
    apply: (generated) =>
      mapConditionValues(generated, (text, operator, json) =>
        json.Version === '2012-10-17' && operator.includes('equals') && operator.includes('string')
          ? text.replaceAll(/\$\{([*?$])\}/g, '$1')
          : text,
      ),
  },
  {
    name: 'short ARN in NotResource',
    reason: 'Missing segments are wildcards wherever the ARN stands. The simulator does not invert the mismatch of a short ARN.',
    apply: (generated) =>
      mapResources(generated, (text, part) => {
        const missing = 6 - text.split(':').length
        if (text === '*' || missing <= 0) return text
        if (part === 'resource' && !text.includes('*')) return undefined
        return text + ':*'.repeat(missing)
      }),
  },
  {
    name: 'unique id as principal',
    reason:
      'AWS turns the ARNs of users and roles into unique ids and shows them when the identity is gone; they go on matching. The simulator does not know them.',
    apply: (generated) =>
      mapPrincipals(generated, (text) => {
        const { caller } = generated
        if (text === caller.principalId && caller.type === 'IAMUser') return caller.arn
        return text === caller.session?.roleId ? caller.session.roleArn : text
      }),
  },
  {
    name: 'account in the NotPrincipal of a Deny',
    reason:
      'Who is to be spared is listed with the account, and the other users of that account are denied: an account in the list spares its root ' +
      'alone (user guide, "NotPrincipal"). The simulator spares everybody in it, and calls that untested.',
    apply: (generated) => {
      if (generated.caller.type === 'Root') return generated
      const isAccount = (text: unknown): boolean => /^\d{12}$|:root$/.test(String(text))
      return mapStatements(generated, (item) => {
        const { NotPrincipal } = item
        if (item.Effect !== 'Deny' || typeof NotPrincipal !== 'object' || NotPrincipal === null || !('AWS' in NotPrincipal)) return item
        return {
          ...item,
          NotPrincipal: { ...NotPrincipal, AWS: [NotPrincipal.AWS].flat().map((text) => (isAccount(text) ? '999999999999' : text)) },
        }
      })
    },
  },
  {
    name: 'role without its path',
    reason: 'A role is named by its whole ARN, path included. The simulator compares the last part of the path only.',
    apply: (generated) =>
      mapPrincipals(generated, (text) => {
        const name = generated.caller.session?.roleName ?? ''
        return text.endsWith(`/${name}`) && text.includes(':role/') && text !== generated.caller.session?.roleArn
          ? text.replace(/[^/]+$/, 'Nobody')
          : text
      }),
  },
  {
    name: 'line break in a value',
    reason: 'Wildcards match every character. The simulator matches by regular expressions whose dot excludes line breaks.',
    apply: (generated) => ({
      ...generated,
      context: Object.fromEntries(
        Object.entries(generated.context).map(([key, value]) => [key, typeof value === 'string' ? value.replaceAll('\n', '~') : value]),
      ),
    }),
  },
  {
    name: 'no ARN under a negated ARN operator',
    reason: 'A policy value of fewer than six segments is like no ARN, so that ArnNotLike holds. The simulator lets neither hold.',
    apply: (generated) =>
      mapConditionValues(generated, (text, operator) => (operator.includes('arnnot') && text.split(':').length < 6 ? undefined : text)),
  },
  {
    name: 'variable before the last segment of an ARN',
    reason: 'The colon in a variable is no colon of the ARN. The simulator splits ARN conditions before it looks for variables.',
    apply: (generated) =>
      mapConditionValues(generated, (text, operator, json) =>
        operator.includes('arn') && json.Version === '2012-10-17'
          ? text.replaceAll(/\$\{([^}*?$]+)\}/g, (whole, inside: string) => variableValue(inside, generated) ?? whole)
          : text,
      ),
  },
  {
    name: 'range of all IPv4 addresses',
    reason: '0.0.0.0/0 holds every address. The simulator shifts by 32 bits, which in JavaScript is no shift.',
    apply: (generated) =>
      mapConditionValues(generated, (text, operator) =>
        operator.includes('ipaddress') && text === '0.0.0.0/0' ? ['0.0.0.0/1', '128.0.0.0/1'] : text,
      ),
  },
  {
    name: 'empty set of values',
    reason: 'A key without values is absent ("resolves to a null data set"). The simulator takes it for present.',
    apply: (generated) => ({
      ...generated,
      context: Object.fromEntries(Object.entries(generated.context).filter(([, value]) => value.length > 0 || value === '')),
    }),
  },
  {
    name: 'granted to the session itself',
    reason:
      'What a key policy allows to a session by its own ARN is not limited by the lack of an Allow in its session policy (user guide, ' +
      '"Session policies"). The simulator lets session policies limit everything.',
    apply: (generated) => {
      const { resourcePolicy, sessionPolicy, caller } = generated
      if (!resourcePolicy || !sessionPolicy) return generated
      const byItsArn = resourcePolicy.Statement.filter(
        ({ Effect, Principal }) => Effect === 'Deny' || JSON.stringify(Principal ?? '').includes(`"${caller.arn}"`),
      )
      const granted =
        byItsArn.length > 0 &&
        caller.accountId === generated.resourceAccount &&
        ours({
          ...generated,
          identityPolicies: [],
          sessionPolicy: undefined,
          resourcePolicy: { ...resourcePolicy, Statement: byItsArn },
        }) === 'Allowed'
      if (!granted) return generated
      const allow: JsonStatement = { Effect: 'Allow', Action: ['*'], Resource: ['*'] }
      return { ...generated, sessionPolicy: { ...sessionPolicy, Statement: [...sessionPolicy.Statement, allow] } }
    },
  },
  {
    name: 'dates as seconds',
    reason: 'Dates may be seconds since the epoch. The simulator compares them with milliseconds.',
    apply: (generated) => {
      const iso = (text: string): string => (/^\d{5,}$/.test(text) ? new Date(Number(text) * 1000).toISOString() : text)
      return {
        ...mapConditionValues(generated, (text, operator) => (operator.includes('date') ? iso(text) : text)),
        context: Object.fromEntries(
          Object.entries(generated.context).map(([key, value]) => [
            key,
            typeof value === 'string' && key === 'aws:EpochTime' ? iso(value) : value,
          ]),
        ),
      }
    },
  },
  {
    name: 'single address of the other family',
    reason: 'An IPv6 caller is not 10.1.2.3, so that NotIpAddress holds. The simulator says so for ranges but not for single addresses.',
    apply: (generated) =>
      mapConditionValues(generated, (text, operator) => {
        if (!operator.includes('ipaddress') || text.includes('/')) return text
        return text.includes(':') ? `${text}/128` : `${text}/32`
      }),
  },
]

interface Tally {
  readonly answers: Record<Answer, number>
  /** Disagreements by what explains them. */
  readonly explained: Map<string, number>
  readonly unexplained: string[]
}

async function compare(generated: Case, tally: Tally): Promise<void> {
  const first = await theirs(generated)
  // The simulator gives an action only the keys that AWS documents for it: so do we.
  const context = Object.fromEntries(Object.entries(generated.context).filter(([key]) => !first.ignored.includes(key)))
  const fair = { ...generated, context }
  const expected = ours(fair)
  tally.answers[expected]++
  if (first.answer === expected) return
  const explanation = await explain(fair, expected)
  if (explanation === undefined) tally.unexplained.push(`ours ${expected}, theirs ${first.answer}: ${JSON.stringify(fair)}`)
  else tally.explained.set(explanation, (tally.explained.get(explanation) ?? 0) + 1)
}

/**
 * The rewrite after which the simulator agrees, or all of them together. A rewrite that would change our own answer explains nothing and is
 * left out.
 */
async function explain(generated: Case, expected: Answer): Promise<string | undefined> {
  const keeping = (start: Case, apply: (from: Case) => Case): Case | undefined => {
    const rewritten = apply(start)
    return ours(rewritten) === expected ? rewritten : undefined
  }
  for (const { name, apply } of rewrites) {
    const rewritten = keeping(generated, apply)
    if (rewritten && (await theirs(rewritten)).answer === expected) return name
  }
  const all = rewrites.reduce((current, { apply }) => keeping(current, apply) ?? current, generated)
  return (await theirs(all)).answer === expected ? 'several of these' : undefined
}

const numCases = 12_000

describe('the evaluator and an independent one', () => {
  it(`agree over ${numCases} generated policies and requests, or the difference has a name`, { timeout: 240_000 }, async () => {
    const tally: Tally = { answers: { Allowed: 0, ImplicitlyDenied: 0, ExplicitlyDenied: 0 }, explained: new Map(), unexplained: [] }
    for (const generated of fc.sample(anyCase, { numRuns: numCases, seed })) await compare(generated, tally)
    console.info(`AUTH_SEED=${seed}`, tally.answers, Object.fromEntries(tally.explained))
    expect(tally.unexplained.slice(0, 3), `AUTH_SEED=${seed}`).toEqual([])
    // A run in which everything is denied would compare nothing.
    for (const count of Object.values(tally.answers)) expect(count).toBeGreaterThan(numCases / 20)
  })
})
