/** The two STS operations that KMS clients lean on: who am I, and credentials for a role. API version 2011-06-15. */

import { accessDeniedMessage, authorizeAssumeRole } from '../../auth/authorize.ts'
import { requestContext, sessionPolicy, trustPolicy } from '../access.ts'
import { kmsError } from '../errors.ts'
import { operation } from '../operation.ts'
import { integer, list, optional, string, structure } from '../shape.ts'
import { refuseRepeatedNames } from './tags.ts'

const roleArnPattern = /^arn:aws:iam::([0-9]{12}):role\/(?:[\w+=,.@/-]*\/)?([\w+=,.@-]+)$/

/** AWS needs no permission for it: whoever signs may learn who signed. */
export const GetCallerIdentity = operation({
  input: {},
  output: ['UserId', 'Account', 'Arn'],
  readOnly: true,
  run: ({ principal }) => ({ UserId: principal.principalId, Account: principal.accountId, Arn: principal.arn }),
})

export const AssumeRole = operation({
  input: {
    RoleArn: string({
      min: 20,
      max: 2048,
      pattern: /[\u0009\u000A\u000D\u0020-\u007E\u0085\u00A0-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]+/u,
    }),
    RoleSessionName: string({ min: 2, max: 64, pattern: /[\w+=,.@-]*/ }),
    Policy: optional(string({ min: 1, max: 2048 })),
    PolicyArns: optional(list(structure({ arn: optional(string({ min: 20, max: 2048 })) }))),
    DurationSeconds: optional(integer({ min: 900, max: 43_200 })),
    Tags: optional(list(structure({ Key: string({ min: 1, max: 128 }), Value: string({ max: 256 }) }), { max: 50 })),
    TransitiveTagKeys: optional(list(string({ min: 1, max: 128 }), { max: 50 })),
    ExternalId: optional(string({ min: 2, max: 1224, pattern: /[\w+=,.@:/-]*/ })),
    SerialNumber: optional(string({ min: 9, max: 256, pattern: /[\w+=/:,.@-]*/ })),
    TokenCode: optional(string({ min: 6, max: 6, pattern: /[\d]*/, secret: true })),
    SourceIdentity: optional(string({ min: 2, max: 64, pattern: /[\w+=,.@-]*/ })),
    ProvidedContexts: optional(list(structure({ ProviderArn: optional(string()), ContextAssertion: optional(string()) }), { max: 5 })),
    MinimumSessionTokenSize: optional(integer({ min: 0, max: 4096 })),
  },
  output: ['Credentials', 'AssumedRoleUser', 'PackedPolicySize', 'SourceIdentity', 'SessionTokenUtilization', 'SessionTokenSize'],
  readOnly: true,
  responseElements: ({ Credentials, AssumedRoleUser }) => {
    const { AccessKeyId, Expiration } = Credentials as { readonly AccessKeyId: string; readonly Expiration: Date }
    return { credentials: { accessKeyId: AccessKeyId, expiration: Expiration.toISOString() }, assumedRoleUser: AssumedRoleUser }
  },
  async run(call, input) {
    for (const member of ['PolicyArns', 'SerialNumber', 'TokenCode', 'SourceIdentity', 'ProvidedContexts', 'TransitiveTagKeys'] as const) {
      if (input[member] !== undefined) throw kmsError('ValidationException', `${member} is not supported.`)
    }
    // 0 is AWS's own way to say that it does not matter.
    if ((input.MinimumSessionTokenSize ?? 0) > 0) throw kmsError('ValidationException', 'MinimumSessionTokenSize is not supported.')
    if (input.Tags) refuseRepeatedNames(input.Tags.map(({ Key }) => Key))
    const denied = (reason: Parameters<typeof accessDeniedMessage>[0]['reason'], action = 'sts:AssumeRole') =>
      kmsError(
        'AccessDeniedException',
        accessDeniedMessage({ principalArn: call.principal.arn, action, resourceArn: input.RoleArn, reason }),
      )
    const [, roleAccountId] = roleArnPattern.exec(input.RoleArn) ?? []
    if (roleAccountId === undefined) throw kmsError('ValidationException', `${input.RoleArn} is invalid`)
    // Before the role is looked for: what holds for all of them tells nothing of this one.
    if (call.principal.type === 'Root') throw denied('RootMayNotAssumeRoles')
    const role = call.service.store.view.principal(input.RoleArn)
    // A role that is not there is denied like one that does not trust the caller.
    const policy = role?.kind === 'role' ? trustPolicy(role) : undefined
    if (!role || !policy) throw denied('NoTrustPolicyAllows')
    call.touched.push({ arn: role.arn, accountId: role.accountId, type: 'AWS::IAM::Role' })
    const trust = { arn: role.arn, accountId: role.accountId, trustPolicy: policy }
    const context = requestContext(call, undefined)
    const actions = (input.Tags?.length ?? 0) > 0 ? (['sts:AssumeRole', 'sts:TagSession'] as const) : (['sts:AssumeRole'] as const)
    for (const action of actions) {
      const decision = authorizeAssumeRole({ principal: call.principal, role: trust, context, action })
      // Another account learns nothing from the reason, which might be that the role is not there.
      if (!decision.allowed) throw denied(role.accountId === call.principal.accountId ? decision.reason : 'NoTrustPolicyAllows', action)
    }
    const durationSeconds = input.DurationSeconds ?? 3600
    // A session that was itself assumed lasts an hour at most (AWS's role chaining limit).
    const longest = call.principal.type === 'AssumedRole' ? 3600 : (role.maxSessionSeconds ?? 3600)
    if (durationSeconds > longest) {
      throw kmsError('ValidationException', 'The requested DurationSeconds exceeds the MaxSessionDuration set for this role.')
    }
    if (input.Policy !== undefined) sessionPolicy(input.Policy)
    const expiresAt = call.nowMs + durationSeconds * 1000
    const session = await call.service.identities.issueSession({
      roleArn: role.arn,
      roleId: role.uniqueId,
      sessionName: input.RoleSessionName,
      issuedAt: call.nowMs,
      expiresAt,
      ...(input.Policy !== undefined && { policy: input.Policy }),
      tags: Object.fromEntries((input.Tags ?? []).map((tag) => [tag.Key, tag.Value])),
    })
    return {
      Credentials: {
        AccessKeyId: session.accessKeyId,
        SecretAccessKey: session.secretAccessKey,
        SessionToken: session.sessionToken,
        Expiration: new Date(expiresAt),
      },
      AssumedRoleUser: {
        AssumedRoleId: `${role.uniqueId}:${input.RoleSessionName}`,
        Arn: `arn:aws:sts::${role.accountId}:assumed-role/${role.name}/${input.RoleSessionName}`,
      },
      SessionTokenSize: session.sessionToken.length,
    }
  },
})
