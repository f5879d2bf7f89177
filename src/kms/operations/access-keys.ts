/** Our own operations on access keys. Names and members are those of AWS IAM. */

import type { AccessKeyRecord } from '../../store/store.ts'
import { permitResource } from '../access.ts'
import { orConflict } from '../conflict.ts'
import { kmsError, type KmsError } from '../errors.ts'
import { seconds } from '../metadata.ts'
import { operation, type Call } from '../operation.ts'
import { oneOf, optional, string } from '../shape.ts'
import { principalName as name } from './members.ts'
import { getPrincipal, principalMissing, resourceArn } from './principals.ts'

const accessKeyId = string({ min: 16, max: 128, pattern: /[\w]+/ })

/** AWS IAM's quota. */
const maxAccessKeys = 2

const quotaReached = (): KmsError => kmsError('LimitExceededException', `Cannot exceed quota for AccessKeysPerUser: ${maxAccessKeys}`)

/** Whose access keys: the named user's, else the caller's own. */
function keyOwner(
  call: Call,
  userName: string | undefined,
): { readonly accountId: string; readonly arn: string; readonly userName?: string; readonly ownerId?: string } {
  const { accountId } = call.principal
  if (userName !== undefined) {
    const user = getPrincipal(call, 'user', userName)
    return { accountId, arn: user.arn, userName, ownerId: user.uniqueId }
  }
  if (call.principal.type === 'AssumedRole')
    throw kmsError('ValidationException', 'Must specify userName when calling with non-User credentials')
  const { arn, userName: own, principalId } = call.principal
  return { accountId, arn, ...(own !== undefined && { userName: own, ownerId: principalId }) }
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
    const { view } = call.service.store
    if (view.accessKeysOf(owner.arn).length >= maxAccessKeys) throw quotaReached()
    // Of calls that counted together the store lets in as many as there is room for; and none for who has the name of a user that is gone.
    const { accountId, arn: principalArn, ownerId } = owner
    const made = await orConflict(
      call.service.identities.createAccessKey({ accountId, principalArn, most: maxAccessKeys, ...(ownerId !== undefined && { ownerId }) }),
      () =>
        ownerId === undefined || view.principal(principalArn)?.uniqueId === ownerId
          ? quotaReached()
          : principalMissing('user', owner.userName ?? ''),
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
