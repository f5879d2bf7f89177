/**
 * Holdfast's own operations (action prefix `holdfast:`): accounts, users, roles, access keys, identity policies, attestation of a key. They take
 * the same road as every other call: signature, policies, audit. Names and members are those of AWS IAM where it has them.
 */

import { createHash } from 'node:crypto'
import { compilePolicy } from '../../auth/policy.ts'
import { StoreConflict, type AccessKeyRecord, type PrincipalRecord } from '../../store/store.ts'
import { permitResource } from '../access.ts'
import { rootArn } from '../arn.ts'
import { kmsError, type KmsError } from '../errors.ts'
import { createAccount, uniqueName } from '../identity.ts'
import { keyFrom } from '../keys.ts'
import { seconds } from '../metadata.ts'
import { operation, type Call, type Unnamed } from '../operation.ts'
import { page, pageOf } from '../page.ts'
import { integer, keyId, list, oneOf, optional, string, structure } from '../shape.ts'
import { marker } from './members.ts'
import { readTags, refuseRepeatedNames } from './tags.ts'

const name = string({ min: 1, max: 64, pattern: /[\w+=,.@-]+/ })
const policyName = string({ min: 1, max: 128, pattern: /[\w+=,.@-]+/ })
const policyDocument = string({ min: 1, max: 131_072 })
const path = optional(string({ min: 1, max: 512, pattern: /(\u002F)|(\u002F[\u0021-\u007E]+\u002F)/ }))
const accessKeyId = string({ min: 16, max: 128, pattern: /[\w]+/ })
const tags = optional(list(structure({ Key: string({ min: 1, max: 128 }), Value: string({ max: 256 }) }), { max: 50 }))
const listing = { Limit: optional(integer({ min: 1, max: 1000 })), Marker: marker } as const

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

function getPrincipal(call: Call, kind: Kind, called: string): PrincipalRecord {
  const record = findPrincipal(call, kind, called)
  if (!record) throw missing(kind, called)
  return record
}

const missing = (kind: Kind, called: string): KmsError => kmsError('NotFoundException', `The ${kind} with name ${called} cannot be found.`)

/** Where policies are matched: the one that exists, or the one that would be made. */
const resourceArn = (call: Call, kind: Kind, called: string): string =>
  findPrincipal(call, kind, called)?.arn ?? principalArn(call.principal.accountId, kind, '/', called)

function touch(call: Call, record: Pick<PrincipalRecord, 'arn' | 'accountId' | 'kind'>): void {
  call.touched.push({ arn: record.arn, accountId: record.accountId, type: `AWS::IAM::${titles[record.kind]}` })
}

function shown(record: PrincipalRecord): Readonly<Record<string, unknown>> {
  const title = titles[record.kind]
  return {
    [`${title}Name`]: record.name,
    [`${title}Id`]: record.uniqueId,
    Arn: record.arn,
    Path: record.path,
    CreateDate: seconds(record.createdAt),
    Tags: record.tags.map(({ key, value }) => ({ Key: key, Value: value })),
    ...(record.kind === 'role' && { AssumeRolePolicyDocument: record.trustPolicy, MaxSessionDuration: record.maxSessionSeconds }),
  }
}

async function orConflict<T>(work: Promise<T>, error: () => KmsError): Promise<T> {
  try {
    return await work
  } catch (cause) {
    throw cause instanceof StoreConflict ? error() : cause
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
      () => missing(kind, record.name),
    )
  }
  const policyMissing = (called: string) => kmsError('NotFoundException', `The ${kind} policy with name ${called} cannot be found.`)

  return {
    get: operation({
      input: named,
      output: [title],
      resources,
      readOnly: true,
      run: (call, input) => ({ [title]: shown(present(call, input)) }),
    }),
    remove: operation({
      input: named,
      output: [],
      resources,
      readOnly: false,
      async run(call, input) {
        const record = present(call, input)
        await orConflict(call.service.store.deletePrincipal(record.arn), () => missing(kind, record.name))
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
        const { items, rest } = page(call, 100, (after, limit) => view.listPrincipals(call.principal.accountId, kind, after, limit), shown)
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
    compilePolicy(input.AssumeRolePolicyDocument, 'trust')
    return {
      Role: shown(
        await createPrincipal(call, 'role', {
          name: input.RoleName,
          path: input.Path,
          tags: input.Tags,
          trustPolicy: input.AssumeRolePolicyDocument,
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
    compilePolicy(input.PolicyDocument, 'trust')
    await orConflict(
      call.service.store.updatePrincipal(record.arn, () => ({ trustPolicy: input.PolicyDocument })),
      () => missing('role', record.name),
    )
    return {}
  },
})

/** AWS IAM's quota. */
const maxAccessKeys = 2

const quotaReached = (): KmsError => kmsError('LimitExceededException', `Cannot exceed quota for AccessKeysPerUser: ${maxAccessKeys}`)

/** Whose access keys: the named user's, else the caller's own. */
function keyOwner(
  call: Call,
  userName: string | undefined,
): { readonly accountId: string; readonly arn: string; readonly userName?: string } {
  const { accountId } = call.principal
  if (userName !== undefined) {
    const user = getPrincipal(call, 'user', userName)
    return { accountId, arn: user.arn, userName }
  }
  if (call.principal.type === 'AssumedRole')
    throw kmsError('ValidationException', 'Must specify userName when calling with non-User credentials')
  return { accountId, arn: call.principal.arn, ...(call.principal.userName !== undefined && { userName: call.principal.userName }) }
}

const ownerResource = (call: Call, userName: string | undefined): string =>
  userName === undefined ? call.principal.arn : resourceArn(call, 'user', userName)

function shownAccessKey(call: Call, key: AccessKeyRecord): Readonly<Record<string, unknown>> {
  const user = call.service.store.view.principal(key.principalArn)
  return {
    ...(user && { UserName: user.name }),
    AccessKeyId: key.accessKeyId,
    Status: key.active ? 'Active' : 'Inactive',
    CreateDate: seconds(key.createdAt),
  }
}

export const CreateAccessKey = operation({
  input: { UserName: optional(name) },
  output: ['AccessKey'],
  resources: (call, input) => [ownerResource(call, input.UserName)],
  readOnly: false,
  responseElements: ({ AccessKey }) => {
    const { SecretAccessKey: _secret, ...rest } = AccessKey as Readonly<Record<string, unknown>>
    return { accessKey: rest }
  },
  async run(call, input) {
    const owner = keyOwner(call, input.UserName)
    if (call.service.store.view.accessKeysOf(owner.arn).length >= maxAccessKeys) throw quotaReached()
    // Of calls that counted together the store lets in as many as there is room for.
    const made = await orConflict(
      call.service.identities.createAccessKey({ accountId: owner.accountId, principalArn: owner.arn, most: maxAccessKeys }),
      quotaReached,
    )
    return {
      AccessKey: {
        ...(owner.userName !== undefined && { UserName: owner.userName }),
        AccessKeyId: made.accessKeyId,
        SecretAccessKey: made.secretAccessKey,
        Status: 'Active',
        CreateDate: seconds(call.nowMs),
      },
    }
  },
})

export const ListAccessKeys = operation({
  input: { UserName: optional(name) },
  output: ['AccessKeyMetadata'],
  resources: (call, input) => [ownerResource(call, input.UserName)],
  readOnly: true,
  run: (call, input) => ({
    AccessKeyMetadata: call.service.store.view.accessKeysOf(keyOwner(call, input.UserName).arn).map((key) => shownAccessKey(call, key)),
  }),
})

/** The access key and its owner's permission, for the two operations that name a key by its id. */
function admitAccessKey(call: Call, input: { readonly AccessKeyId: string; readonly UserName?: string }): AccessKeyRecord {
  const key = call.service.store.view.accessKey(input.AccessKeyId)
  const own = key?.accountId === call.principal.accountId ? key : undefined
  permitResource(call, call.operation.action, own?.principalArn ?? ownerResource(call, input.UserName))
  if (!own || (input.UserName !== undefined && own.principalArn !== getPrincipal(call, 'user', input.UserName).arn)) {
    throw missingAccessKey(input.AccessKeyId)
  }
  return own
}

const missingAccessKey = (id: string): KmsError => kmsError('NotFoundException', `The Access Key with id ${id} cannot be found.`)

export const UpdateAccessKey = operation({
  input: { AccessKeyId: accessKeyId, Status: oneOf('Active', 'Inactive'), UserName: optional(name) },
  output: [],
  readOnly: false,
  async run(call, input) {
    const { accessKeyId: id } = admitAccessKey(call, input)
    await orConflict(call.service.store.setAccessKeyActive(id, input.Status === 'Active'), () => missingAccessKey(id))
    return {}
  },
})

export const DeleteAccessKey = operation({
  input: { AccessKeyId: accessKeyId, UserName: optional(name) },
  output: [],
  readOnly: false,
  async run(call, input) {
    const { accessKeyId: id } = admitAccessKey(call, input)
    await orConflict(call.service.store.deleteAccessKey(id), () => missingAccessKey(id))
    return {}
  },
})

/** Accounts are the operator's: only the account of the configuration makes and lists them. */
function requireHomeAccount(call: Call): void {
  if (call.principal.accountId === call.service.config.accountId) return
  throw kmsError(
    'AccessDeniedException',
    `User: ${call.principal.arn} is not authorized to perform: ${call.operation.action} because only account ${call.service.config.accountId} administers accounts`,
  )
}

export const CreateAccount = operation({
  input: { AccountId: string({ min: 12, max: 12, pattern: /[0-9]{12}/ }) },
  output: ['Account', 'AccessKey'],
  resources: () => ['*'],
  readOnly: false,
  responseElements: ({ Account }) => ({ account: Account }),
  async run(call, { AccountId: accountId }) {
    requireHomeAccount(call)
    const made = await createAccount(call.service, accountId, call.nowMs)
    if (!made) throw kmsError('AlreadyExistsException', `Account ${accountId} already exists.`)
    return {
      Account: { AccountId: accountId, Arn: rootArn(accountId), CreateDate: seconds(call.nowMs) },
      AccessKey: {
        AccessKeyId: made.accessKeyId,
        SecretAccessKey: made.secretAccessKey,
        Status: 'Active',
        CreateDate: seconds(call.nowMs),
      },
    }
  },
})

export const ListAccounts = operation({
  input: listing,
  output: ['Accounts', 'NextMarker', 'Truncated'],
  resources: () => ['*'],
  readOnly: true,
  run(call) {
    requireHomeAccount(call)
    const { items, rest } = page(
      call,
      100,
      (after, limit) => call.service.store.view.listAccounts(after, limit),
      (account) => ({ AccountId: account.accountId, Arn: rootArn(account.accountId), CreateDate: seconds(account.createdAt) }),
    )
    return { Accounts: items, ...rest }
  },
})

/** The attributes of a key's objects as the token shows them now, signed by the audit key. Whoever may describe a key may have this of it. */
export const AttestKey = operation({
  input: { KeyId: keyId },
  output: ['Attestation', 'SignatureAlgorithm', 'Signature', 'PublicKey'],
  keys: { key: keyFrom('KeyId', { alias: true, action: 'kms:DescribeKey' }) },
  readOnly: true,
  async run(call, _input, { key }) {
    const { token, store, auditKey } = call.service
    const backingKeys = []
    for (const backing of store.view.backingKeys(key.arn)) {
      backingKeys.push({
        keyMaterialId: backing.materialId,
        current: backing.materialId === key.materialId,
        ckaId: backing.ckaId,
        // Imported material that was deleted has none.
        objects: backing.state === 'absent' ? [] : await call.service.tokenOf(key).objects(backing.ckaId),
      })
    }
    const attestation = JSON.stringify({
      format: 'holdfast-attestation-1',
      time: new Date(call.service.clock.now()).toISOString(),
      keyArn: key.arn,
      keyState: key.state,
      token: call.service.tokenOf(key).info(),
      backingKeys,
    })
    const digest = createHash('sha256').update(attestation).digest()
    const { algorithm, signature } = await token.sign(auditKey.ckaId, digest)
    return {
      Attestation: attestation,
      SignatureAlgorithm: algorithm,
      Signature: signature.toString('base64'),
      PublicKey: (await token.publicKey(auditKey.ckaId)).toString('base64'),
    }
  },
})

/**
 * The public half of the transport key of the region's token, for the ceremony that lets another token's keys come here (docs/replication.md).
 * The fingerprint is SHA-256 of the DER encoding, in hex, as OpenSSL and the officer's tool show it.
 */
export const GetTransportKey = operation({
  input: { Region: optional(string({ min: 1, max: 32, pattern: /^([a-z]+-){2,3}\d+$/ })) },
  output: ['PublicKey', 'Fingerprint', 'TokenLabel', 'TokenSerial'],
  resources: () => ['*'],
  readOnly: true,
  async run(call, { Region = call.region }) {
    requireHomeAccount(call)
    const { service } = call
    if (!service.config.regions.includes(Region)) throw kmsError('UnsupportedOperationException', `Region ${Region} is not served here.`)
    const token = service.tokenOf({ token: service.tokenName(Region) })
    const spki = await token.transportKey()
    if (!spki) throw kmsError('NotFoundException', `The token of ${Region} has no transport key: docs/replication.md says how to make it.`)
    const { label, serial } = token.info()
    const base64 = spki.toString('base64').replaceAll(/.{64}(?=.)/g, '$&\n')
    return {
      PublicKey: `-----BEGIN PUBLIC KEY-----\n${base64}\n-----END PUBLIC KEY-----\n`,
      Fingerprint: createHash('sha256').update(spki).digest('hex'),
      TokenLabel: label,
      TokenSerial: serial,
    }
  },
})
