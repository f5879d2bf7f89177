/** KMS keys: made, shown, listed, enabled, disabled, scheduled for deletion. */

import { compilePolicy, parsePolicy } from '../../auth/policy.ts'
import { wouldLockOut } from '../../auth/authorize.ts'
import type { KeyRecord } from '../../store/store.ts'
import { permitResource, requestContext } from '../access.ts'
import { keyArn } from '../arn.ts'
import { orConflict } from '../conflict.ts'
import { kmsError } from '../errors.ts'
import { restingState } from '../import.ts'
import { changeKey, keyFrom } from '../keys.ts'
import { keyMetadata, seconds } from '../metadata.ts'
import { checkMultiRegion, hasReplicas, isPrimary, newKeyId } from '../multi-region.ts'
import { namesKey, operation, type Call } from '../operation.ts'
import { originNames, origins } from '../origins/table.ts'
import { page } from '../page.ts'
import { bindPrincipals } from '../policy-principals.ts'
import { boolean, integer, keyId, oneOf, optional, string } from '../shape.ts'
import { checkUsage, keySpecs, keyUsages } from '../specs.ts'
import { customerMasterKeySpecs, grantTokens, listing, policyText, tagList } from './members.ts'
import { readTags } from './tags.ts'

const dayMs = 86_400_000

/** What AWS gives a key whose creator names no policy: the account decides, through its identity policies. */
export const defaultPolicy = (accountId: string): string => `{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {
      "AWS" : "arn:aws:iam::${accountId}:root"
    },
    "Action" : "kms:*",
    "Resource" : "*"
  } ]
}`

/**
 * The policy as it is to be stored. Refuses one that is malformed, too long, names users or roles that do not exist, or would lock its author out.
 * Who exists must be known when it is stored (KMS API reference, PutKeyPolicy): a name misspelt today could be somebody's tomorrow.
 */
export function readKeyPolicy(call: Call, text: string, key: Pick<KeyRecord, 'arn' | 'accountId'>, bypassLockoutCheck: boolean): string {
  const { policyBytes } = call.service.config.quotas
  if (Buffer.byteLength(text) > policyBytes) {
    throw kmsError('LimitExceededException', `The key policy is longer than the limit of ${policyBytes} bytes.`)
  }
  parsePolicy(text, 'key')
  const stored = bindPrincipals(call.service.store.view, text, () => {
    throw kmsError('MalformedPolicyDocumentException', 'Policy contains a statement with one or more invalid principals.')
  })
  const compiled = compilePolicy(stored, 'key')
  if (!bypassLockoutCheck && wouldLockOut(compiled, call.principal, key, requestContext(call, undefined))) {
    throw kmsError('MalformedPolicyDocumentException', 'The new key policy will not allow you to update the key policy in the future.')
  }
  return stored
}

/** AWS managed keys do not count (KMS developer guide, "Resource quotas"). @throws KmsError when the caller's account has as many keys in the call's region as it may. */
export function checkKeyQuota({ service, principal, region }: Call): void {
  const { keys } = service.config.quotas
  if (service.store.view.keyCountOf(principal.accountId, region) >= keys) {
    throw kmsError('LimitExceededException', `The account has ${keys} KMS keys in ${region}, which is its quota.`)
  }
}

export const CreateKey = operation({
  input: {
    Policy: optional(policyText),
    Description: optional(string({ max: 8192 })),
    KeyUsage: optional(oneOf(...keyUsages)),
    CustomerMasterKeySpec: optional(oneOf(...customerMasterKeySpecs)),
    KeySpec: optional(oneOf(...keySpecs)),
    Origin: optional(oneOf(...originNames)),
    CustomKeyStoreId: optional(string({ min: 1, max: 64 })),
    BypassPolicyLockoutSafetyCheck: optional(boolean, false),
    Tags: optional(tagList),
    MultiRegion: optional(boolean),
    XksKeyId: optional(string({ min: 1, max: 128, pattern: /^[a-zA-Z0-9-_.]+$/ })),
  },
  output: ['KeyMetadata'],
  resources: () => ['*'],
  readOnly: false,
  responseElements: ({ KeyMetadata }) => ({ keyMetadata: KeyMetadata }),
  async run(call, input) {
    if (input.KeySpec !== undefined && input.CustomerMasterKeySpec !== undefined) {
      throw kmsError(
        'ValidationException',
        'You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.',
      )
    }
    const spec = input.KeySpec ?? input.CustomerMasterKeySpec ?? 'SYMMETRIC_DEFAULT'
    if (spec !== 'SYMMETRIC_DEFAULT' && input.KeyUsage === undefined) {
      throw kmsError('ValidationException', 'You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.')
    }
    const usage = input.KeyUsage ?? 'ENCRYPT_DECRYPT'
    checkUsage(spec, usage)
    const wanted = {
      spec,
      usage,
      multiRegion: input.MultiRegion ?? false,
      customKeyStoreId: input.CustomKeyStoreId,
      xksKeyId: input.XksKeyId,
    }
    const origin = input.Origin ?? 'AWS_KMS'
    checkMultiRegion(wanted)
    origins[origin].check(call, wanted)

    const { accountId } = call.principal
    checkKeyQuota(call)
    const id = newKeyId(wanted)
    const arn = keyArn(call.region, accountId, id)
    const tags = readTags(input.Tags ?? [], [], call.service.config.quotas.tagsPerKey)
    if (tags.length > 0) permitResource(call, 'kms:TagResource', arn)
    const given = input.Policy ?? defaultPolicy(accountId)
    const policy = readKeyPolicy(call, given, { arn, accountId }, input.BypassPolicyLockoutSafetyCheck ?? false)
    const draft: KeyRecord = {
      arn,
      region: call.region,
      accountId,
      keyId: id,
      state: 'Creating',
      spec,
      usage,
      origin,
      customKeyStoreId: input.CustomKeyStoreId ?? null,
      xksKeyId: input.XksKeyId ?? null,
      description: input.Description ?? '',
      multiRegion: wanted.multiRegion,
      primaryRegion: wanted.multiRegion ? call.region : null,
      token: call.service.tokenName(call.region),
      createdAt: call.nowMs,
      deletionAt: null,
      deletionWindowDays: null,
      policy,
      tags,
      materialId: null,
      creator: call.service.instance.id,
      rotationPeriodDays: null,
      nextRotationAt: null,
      managedBy: null,
      version: 1,
    }
    // Calls that counted together the store lets in as many of as there is room for.
    const key = await orConflict(origins[origin].create(call, draft, wanted), () => checkKeyQuota(call))
    call.touched.push({ arn, accountId, type: 'AWS::KMS::Key' })
    return { KeyMetadata: keyMetadata(call.service, key) }
  },
})

export const DescribeKey = operation({
  input: { KeyId: keyId, GrantTokens: grantTokens },
  output: ['KeyMetadata'],
  keys: { key: keyFrom('KeyId', { alias: true, crossAccount: true }) },
  readOnly: true,
  run: ({ service }, _input, { key }) => ({ KeyMetadata: keyMetadata(service, key) }),
})

export const ListKeys = operation({
  input: listing,
  output: ['Keys', 'NextMarker', 'Truncated'],
  resources: () => ['*'],
  readOnly: true,
  run(call) {
    const { items, rest } = page(
      call,
      100,
      (after, limit) => call.service.store.view.listKeys(call.principal.accountId, call.region, after, limit),
      (key) => (key.state === 'Creating' ? [] : [{ KeyId: key.keyId, KeyArn: key.arn }]),
    )
    return { Keys: items.flat(), ...rest }
  },
})

export const EnableKey = operation({
  input: { KeyId: keyId },
  output: [],
  keys: { key: keyFrom('KeyId') },
  readOnly: false,
  responseElements: namesKey,
  async run(call, _input, { key }) {
    await changeKey(call, key, () => ({ state: 'Enabled' }))
    return {}
  },
})

export const DisableKey = operation({
  input: { KeyId: keyId },
  output: [],
  keys: { key: keyFrom('KeyId') },
  readOnly: false,
  responseElements: namesKey,
  async run(call, _input, { key }) {
    await changeKey(call, key, () => ({ state: 'Disabled' }))
    return {}
  },
})

export const UpdateKeyDescription = operation({
  input: { KeyId: keyId, Description: string({ max: 8192 }) },
  output: [],
  keys: { key: keyFrom('KeyId') },
  readOnly: false,
  async run(call, { Description: description }, { key }) {
    await changeKey(call, key, () => ({ description }))
    return {}
  },
})

export const ScheduleKeyDeletion = operation({
  input: { KeyId: keyId, PendingWindowInDays: optional(integer({ min: 1, max: 365 }), 30) },
  output: ['KeyId', 'DeletionDate', 'KeyState', 'PendingWindowInDays'],
  keys: { key: keyFrom('KeyId') },
  readOnly: false,
  responseElements: ({ KeyId, DeletionDate, KeyState, PendingWindowInDays }) => ({
    keyId: KeyId,
    keyState: KeyState,
    deletionDate: DeletionDate,
    pendingWindowInDays: PendingWindowInDays,
  }),
  async run(call, input, { key }) {
    const days = input.PendingWindowInDays ?? 30
    if (days < 7 || days > 30) {
      throw kmsError('ValidationException', `PendingWindowInDays must be between 7 and 30 days, inclusive; it is ${days}.`)
    }
    // A primary waits for its replicas to go; its own waiting period begins then.
    const { arn, state, deletionAt } = await changeKey(call, key, (current) =>
      isPrimary(current) && hasReplicas(call.service, current)
        ? { state: 'PendingReplicaDeletion', deletionWindowDays: days }
        : { state: 'PendingDeletion', deletionAt: call.nowMs + days * dayMs },
    )
    warnOfXksStores(call, key)
    return {
      KeyId: arn,
      ...(deletionAt !== null && { DeletionDate: seconds(deletionAt) }),
      KeyState: state,
      PendingWindowInDays: days,
    }
  },
})

/** Whoever schedules the deletion may not know that AWS KMS works with the key: the record names the stores, and so does the log. */
function warnOfXksStores(call: Call, { arn }: KeyRecord): void {
  const shown = call.service.store.view.xksKeysOf(arn).map(({ prefix, externalKeyId }) => ({ uriPathPrefix: prefix, externalKeyId }))
  if (shown.length === 0) return
  call.note['xksKeys'] = shown.slice(0, 100)
  call.service.log.warn(
    { key: arn, xksKeys: shown.slice(0, 100) },
    'a key that is shown in XKS stores is pending deletion: AWS KMS cannot use it any more',
  )
}

export const CancelKeyDeletion = operation({
  input: { KeyId: keyId },
  output: ['KeyId'],
  keys: { key: keyFrom('KeyId') },
  readOnly: false,
  responseElements: ({ KeyId }) => ({ keyId: KeyId }),
  async run(call, _input, { key }) {
    const { arn } = await changeKey(call, key, (current) => ({
      state: restingState(call.service, current),
      deletionAt: null,
      deletionWindowDays: null,
    }))
    return { KeyId: arn }
  },
})
