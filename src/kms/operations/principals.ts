/** Our own operations on users and roles and their identity policies. Names and members are those of AWS IAM. */

import { compilePolicy } from '../../auth/policy.ts'
import type { PrincipalRecord } from '../../store/store.ts'
import { orConflict } from '../conflict.ts'
import { kmsError, type KmsError } from '../errors.ts'
import { uniqueName } from '../identity.ts'
import { seconds } from '../metadata.ts'
import { operation, type Call, type Unnamed } from '../operation.ts'
import { page, pageOf } from '../page.ts'
import { bindPrincipals, showPrincipals } from '../policy-principals.ts'
import { integer, list, optional, string, structure } from '../shape.ts'
import { listing, principalName as name } from './members.ts'
import { readTags, refuseRepeatedNames } from './tags.ts'

const policyName = string({ min: 1, max: 128, pattern: /[\w+=,.@-]+/ })
const policyDocument = string({ min: 1, max: 131_072 })
const path = optional(string({ min: 1, max: 512, pattern: /(\u002F)|(\u002F[\u0021-\u007E]+\u002F)/ }))
const tags = optional(list(structure({ Key: string({ min: 1, max: 128 }), Value: string({ max: 256 }) }), { max: 50 }))

/** AWS IAM's quota on the inline policies of one user or role together, in characters as JavaScript counts them (UTF-16 units); white space does not count. */
const maxPolicyCharacters = 10_240

type Kind = 'user' | 'role'
const titles = { user: 'User', role: 'Role' } as const

const principalArn = (accountId: string, kind: Kind, at: string, called: string): string =>
  `arn:aws:iam::${accountId}:${kind}${at}${called}`

/** By name within the caller's account: names are unique whatever their path, as in IAM. */
function findPrincipal(call: Call, kind: Kind, called: string): PrincipalRecord | undefined {
  const { view } = call.service.store
  const { accountId } = call.principal
  return view.principal(principalArn(accountId, kind, '/', called)) ?? view.principalByName(accountId, kind, called)
}

export function getPrincipal(call: Call, kind: Kind, called: string): PrincipalRecord {
  const record = findPrincipal(call, kind, called)
  if (!record) throw principalMissing(kind, called)
  return record
}

export const principalMissing = (kind: Kind, called: string): KmsError =>
  kmsError('NotFoundException', `The ${kind} with name ${called} cannot be found.`)

/** Where policies are matched: the one that exists, or the one that would be made. */
export const resourceArn = (call: Call, kind: Kind, called: string): string =>
  findPrincipal(call, kind, called)?.arn ?? principalArn(call.principal.accountId, kind, '/', called)

/** As it is to be stored. Whom it names must exist, as in a key's policy. */
function readTrustPolicy(call: Call, text: string): string {
  compilePolicy(text, 'trust')
  return bindPrincipals(call.service.store.view, text, (principal) => {
    throw kmsError('MalformedPolicyDocumentException', `Invalid principal in policy: "AWS":"${principal}"`)
  })
}

function touch(call: Call, record: Pick<PrincipalRecord, 'arn' | 'accountId' | 'kind'>): void {
  call.touched.push({ arn: record.arn, accountId: record.accountId, type: `AWS::IAM::${titles[record.kind]}` })
}

function shown(call: Call, record: PrincipalRecord): Readonly<Record<string, unknown>> {
  const title = titles[record.kind]
  return {
    [`${title}Name`]: record.name,
    [`${title}Id`]: record.uniqueId,
    Arn: record.arn,
    Path: record.path,
    CreateDate: seconds(record.createdAt),
    Tags: record.tags.map(({ key, value }) => ({ Key: key, Value: value })),
    ...(record.trustPolicy !== null && {
      AssumeRolePolicyDocument: showPrincipals(call.service.store.view, record.trustPolicy),
      MaxSessionDuration: record.maxSessionSeconds,
    }),
  }
}

async function createPrincipal(
  call: Call,
  kind: Kind,
  given: {
    readonly name: string
    readonly path: string | undefined
    readonly tags: readonly { readonly Key: string; readonly Value: string }[] | undefined
    readonly trustPolicy: string | null
    readonly maxSessionSeconds: number | null
  },
): Promise<PrincipalRecord> {
  const exists = () => kmsError('AlreadyExistsException', `${titles[kind]} with name ${given.name} already exists.`)
  if (findPrincipal(call, kind, given.name)) throw exists()
  if (given.tags) refuseRepeatedNames(given.tags.map(({ Key }) => Key))
  const at = given.path ?? '/'
  const record: PrincipalRecord = {
    arn: principalArn(call.principal.accountId, kind, at, given.name),
    kind,
    accountId: call.principal.accountId,
    name: given.name,
    path: at,
    uniqueId: (kind === 'user' ? 'AIDA' : 'AROA') + (await uniqueName(call.service.token, 17)),
    tags: readTags(
      (given.tags ?? []).map(({ Key, Value }) => ({ TagKey: Key, TagValue: Value })),
      [],
    ),
    policies: {},
    trustPolicy: given.trustPolicy,
    maxSessionSeconds: given.maxSessionSeconds,
    createdAt: call.nowMs,
    version: 1,
  }
  touch(call, record)
  await orConflict(call.service.store.insertPrincipal(record), exists)
  return record
}

/** The rows that users and roles share; the member that carries the name is the only difference. */
function rowsFor(
  kind: Kind,
): Readonly<Record<'get' | 'remove' | 'list' | 'putPolicy' | 'getPolicy' | 'deletePolicy' | 'listPolicies', Unnamed>> {
  const title = titles[kind]
  const member = `${title}Name` as const
  const named = { [member]: name } as Record<typeof member, typeof name>
  const nameOf = (input: unknown): string => (input as Readonly<Record<string, string>>)[member] ?? ''
  const resources = (call: Call, input: unknown) => [resourceArn(call, kind, nameOf(input))]
  const present = (call: Call, input: unknown): PrincipalRecord => {
    const record = getPrincipal(call, kind, nameOf(input))
    touch(call, record)
    return record
  }
  const change = async (
    call: Call,
    record: PrincipalRecord,
    policies: (current: PrincipalRecord['policies']) => PrincipalRecord['policies'],
  ): Promise<void> => {
    const { store } = call.service
    await orConflict(
      store.updatePrincipal(record.arn, (current) => ({ policies: policies(current.policies) })),
      () => principalMissing(kind, record.name),
    )
  }
  const policyMissing = (called: string) => kmsError('NotFoundException', `The ${kind} policy with name ${called} cannot be found.`)

  return {
    get: operation({
      input: named,
      output: [title],
      resources,
      readOnly: true,
      run: (call, input) => ({ [title]: shown(call, present(call, input)) }),
    }),
    remove: operation({
      input: named,
      output: [],
      resources,
      readOnly: false,
      async run(call, input) {
        const record = present(call, input)
        await orConflict(call.service.store.deletePrincipal(record.arn), () => principalMissing(kind, record.name))
        return {}
      },
    }),
    list: operation({
      input: listing,
      output: [`${title}s`, 'NextMarker', 'Truncated'],
      resources: () => ['*'],
      readOnly: true,
      run(call) {
        const { view } = call.service.store
        const { items, rest } = page(
          call,
          100,
          (after, limit) => view.listPrincipals(call.principal.accountId, kind, after, limit),
          (record) => shown(call, record),
        )
        return { [`${title}s`]: items, ...rest }
      },
    }),
    putPolicy: operation({
      input: { ...named, PolicyName: policyName, PolicyDocument: policyDocument },
      output: [],
      resources,
      readOnly: false,
      async run(call, input) {
        const record = present(call, input)
        compilePolicy(input.PolicyDocument, 'identity')
        await change(call, record, (current) => {
          const policies = { ...current, [input.PolicyName]: input.PolicyDocument }
          const characters = Object.values(policies).reduce((sum, text) => sum + text.replaceAll(/\s/g, '').length, 0)
          if (characters > maxPolicyCharacters) {
            throw kmsError(
              'LimitExceededException',
              `Maximum policy size of ${maxPolicyCharacters} characters without white space exceeded for ${kind} ${record.name}`,
            )
          }
          return policies
        })
        return {}
      },
    }),
    getPolicy: operation({
      input: { ...named, PolicyName: policyName },
      output: [member, 'PolicyName', 'PolicyDocument'],
      resources,
      readOnly: true,
      run(call, input) {
        const record = present(call, input)
        if (!Object.hasOwn(record.policies, input.PolicyName)) throw policyMissing(input.PolicyName)
        return { [member]: record.name, PolicyName: input.PolicyName, PolicyDocument: record.policies[input.PolicyName] }
      },
    }),
    deletePolicy: operation({
      input: { ...named, PolicyName: policyName },
      output: [],
      resources,
      readOnly: false,
      async run(call, input) {
        await change(call, present(call, input), (current) => {
          if (!Object.hasOwn(current, input.PolicyName)) throw policyMissing(input.PolicyName)
          const { [input.PolicyName]: _removed, ...rest } = current
          return rest
        })
        return {}
      },
    }),
    listPolicies: operation({
      input: { ...named, ...listing },
      output: ['PolicyNames', 'NextMarker', 'Truncated'],
      resources,
      readOnly: true,
      run(call, input) {
        const names = Object.keys(present(call, input).policies).sort()
        const { items, rest } = page(
          call,
          100,
          (after, limit) => pageOf(names, (text) => text, after, limit),
          (text) => text,
        )
        return { PolicyNames: items, ...rest }
      },
    }),
  }
}

const users = rowsFor('user')
const roles = rowsFor('role')

export const CreateUser = operation({
  input: { UserName: name, Path: path, Tags: tags },
  output: ['User'],
  resources: (call, input) => [principalArn(call.principal.accountId, 'user', input.Path ?? '/', input.UserName)],
  readOnly: false,
  responseElements: ({ User }) => ({ user: User }),
  async run(call, input) {
    return {
      User: shown(
        call,
        await createPrincipal(call, 'user', {
          name: input.UserName,
          path: input.Path,
          tags: input.Tags,
          trustPolicy: null,
          maxSessionSeconds: null,
        }),
      ),
    }
  },
})
export const GetUser = users.get
export const DeleteUser = users.remove
export const ListUsers = users.list
export const PutUserPolicy = users.putPolicy
export const GetUserPolicy = users.getPolicy
export const DeleteUserPolicy = users.deletePolicy
export const ListUserPolicies = users.listPolicies

export const CreateRole = operation({
  input: {
    RoleName: name,
    AssumeRolePolicyDocument: policyDocument,
    MaxSessionDuration: optional(integer({ min: 3600, max: 43_200 })),
    Path: path,
    Tags: tags,
  },
  output: ['Role'],
  resources: (call, input) => [principalArn(call.principal.accountId, 'role', input.Path ?? '/', input.RoleName)],
  readOnly: false,
  responseElements: ({ Role }) => ({ role: Role }),
  async run(call, input) {
    const trustPolicy = readTrustPolicy(call, input.AssumeRolePolicyDocument)
    return {
      Role: shown(
        call,
        await createPrincipal(call, 'role', {
          name: input.RoleName,
          path: input.Path,
          tags: input.Tags,
          trustPolicy,
          maxSessionSeconds: input.MaxSessionDuration ?? 3600,
        }),
      ),
    }
  },
})
export const GetRole = roles.get
export const DeleteRole = roles.remove
export const ListRoles = roles.list
export const PutRolePolicy = roles.putPolicy
export const GetRolePolicy = roles.getPolicy
export const DeleteRolePolicy = roles.deletePolicy
export const ListRolePolicies = roles.listPolicies

export const UpdateAssumeRolePolicy = operation({
  input: { RoleName: name, PolicyDocument: policyDocument },
  output: [],
  resources: (call, input) => [resourceArn(call, 'role', input.RoleName)],
  readOnly: false,
  async run(call, input) {
    const record = getPrincipal(call, 'role', input.RoleName)
    touch(call, record)
    const trustPolicy = readTrustPolicy(call, input.PolicyDocument)
    await orConflict(
      call.service.store.updatePrincipal(record.arn, () => ({ trustPolicy })),
      () => principalMissing('role', record.name),
    )
    return {}
  },
})
