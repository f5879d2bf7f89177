/** Aliases: names for keys, each in one account and region. Both the alias and the key must allow what is done to them. */

import type { AliasRecord, KeyRecord } from '../../store/store.ts'
import { foreignKeyUnseen } from '../access.ts'
import { aliasArn } from '../arn.ts'
import { orConflict } from '../conflict.ts'
import { kmsError, type KmsError } from '../errors.ts'
import { findKey, keyMissing } from '../keys.ts'
import { seconds } from '../metadata.ts'
import { namesKey, operation, type Call } from '../operation.ts'
import { page } from '../page.ts'
import { keyId, optional, string } from '../shape.ts'
import { isKeyPair, isSymmetric } from '../specs.ts'
import { listing } from './members.ts'

const aliasName = string({ min: 1, max: 256, pattern: /^[a-zA-Z0-9:/_-]+$/ })

/** A name that a customer may give. @throws KmsError */
function readAliasName(name: string): string {
  if (!name.startsWith('alias/')) {
    throw kmsError(
      'ValidationException',
      'Alias must start with the prefix "alias/". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html',
    )
  }
  if (name.startsWith('alias/aws/')) throw kmsError('NotAuthorizedException')
  if (name.includes(':')) throw kmsError('ValidationException', `${name} contains invalid characters for an alias`)
  if (name === 'alias/') throw kmsError('ValidationException', 'Alias must have a name after the prefix "alias/".')
  return name
}

const arnOf = (call: Call, name: string): string => aliasArn(call.region, call.principal.accountId, readAliasName(name))

const missing = (arn: string): KmsError => kmsError('NotFoundException', `Alias ${arn} is not found.`)

function presentAlias(call: Call, name: string): AliasRecord {
  const arn = arnOf(call, name)
  const alias = call.service.store.view.alias(arn)
  if (!alias) throw missing(arn)
  return alias
}

/** The key that a present alias points to. Whatever its state, it can be left. */
const presentTarget = {
  anyState: true,
  find(call: Call, input: { readonly AliasName: string }) {
    const alias = presentAlias(call, input.AliasName)
    const record = call.service.store.view.key(alias.targetKeyArn)
    return record && { record, alias: alias.name }
  },
} as const

/** The key that an alias is to point to: never named by an alias, never of another account. */
function newTarget(call: Call, reference: string) {
  if (reference.startsWith('alias/') || /^arn:[^:]*:kms:[^:]*:[^:]*:alias\//.test(reference)) {
    throw kmsError('ValidationException', 'Aliases must refer to keys. Not aliases')
  }
  return findKey(call, reference, 'key')
}

function touchAlias(call: Call, arn: string): void {
  call.touched.push({ arn, accountId: call.principal.accountId, type: 'AWS::KMS::Alias' })
}

function refuseOverQuota({ service }: Call, targetArn: string): undefined {
  const { aliasesPerKey } = service.config.quotas
  if (service.store.view.aliasesOf(targetArn).length >= aliasesPerKey) {
    throw kmsError('LimitExceededException', `${targetArn} has ${aliasesPerKey} aliases, which is the quota of a KMS key.`)
  }
}

export const CreateAlias = operation({
  input: { AliasName: aliasName, TargetKeyId: keyId },
  output: [],
  resources: (call, input) => [arnOf(call, input.AliasName)],
  keys: { target: { find: (call, input) => newTarget(call, input.TargetKeyId) } },
  readOnly: false,
  responseElements: namesKey,
  async run(call, input, { target }) {
    const arn = arnOf(call, input.AliasName)
    touchAlias(call, arn)
    refuseOverQuota(call, target.arn)
    const now = call.nowMs
    const alias: AliasRecord = {
      arn,
      region: call.region,
      accountId: call.principal.accountId,
      name: input.AliasName,
      targetKeyArn: target.arn,
      createdAt: now,
      updatedAt: now,
    }
    const { store, config } = call.service
    // The name exists, or the key was destroyed meanwhile, or others came first.
    await orConflict(store.insertAlias(alias, config.quotas.aliasesPerKey), (cause) => {
      if (!store.view.key(target.arn)) return keyMissing(target.arn)
      if (store.view.alias(arn)) return kmsError('AlreadyExistsException', `An alias with the name ${arn} already exists`, { cause })
      return refuseOverQuota(call, target.arn)
    })
    return {}
  },
})

export const UpdateAlias = operation({
  input: { AliasName: aliasName, TargetKeyId: keyId },
  output: [],
  resources: (call, input) => [arnOf(call, input.AliasName)],
  keys: { present: presentTarget, target: { find: (call, input) => newTarget(call, input.TargetKeyId) } },
  readOnly: false,
  responseElements: namesKey,
  async run(call, input, { present, target }) {
    const arn = arnOf(call, input.AliasName)
    touchAlias(call, arn)
    if (present.usage !== target.usage) {
      throw kmsError(
        'ValidationException',
        `Alias ${input.AliasName} cannot be changed from a CMK with key usage ${present.usage} to a CMK with key usage ${target.usage}. The key usage of the current CMK and the new CMK must be the same.`,
      )
    }
    // A symmetric and an RSA key can have one usage and answer the same calls differently.
    if (typeOf(present) !== typeOf(target)) {
      throw kmsError(
        'ValidationException',
        `Alias ${input.AliasName} cannot be changed from ${typeOf(present)} CMK to ${typeOf(target)} CMK. The type of the current CMK and the new CMK must be the same.`,
      )
    }
    if (present.arn !== target.arn) refuseOverQuota(call, target.arn)
    const { store, config } = call.service
    // Another call may have removed it since it was found, or the key, or others came first.
    await orConflict(store.updateAlias(arn, target.arn, call.nowMs, config.quotas.aliasesPerKey), () => {
      if (!store.view.alias(arn)) return missing(arn)
      return store.view.key(target.arn) ? refuseOverQuota(call, target.arn) : keyMissing(target.arn)
    })
    return {}
  },
})

/** KMS API reference, UpdateAlias: "both symmetric or both asymmetric or both HMAC". */
const typeOf = (key: KeyRecord): string => (isKeyPair(key) ? 'an asymmetric' : isSymmetric(key) ? 'a symmetric' : 'an HMAC')

export const DeleteAlias = operation({
  input: { AliasName: aliasName },
  output: [],
  resources: (call, input) => [arnOf(call, input.AliasName)],
  keys: { present: presentTarget },
  readOnly: false,
  responseElements: namesKey,
  async run(call, input) {
    const arn = arnOf(call, input.AliasName)
    touchAlias(call, arn)
    await orConflict(call.service.store.deleteAlias(arn), () => missing(arn))
    return {}
  },
})

export const ListAliases = operation({
  input: { KeyId: optional(keyId), ...listing },
  output: ['Aliases', 'NextMarker', 'Truncated'],
  resources: () => ['*'],
  readOnly: true,
  run(call, input) {
    const target = input.KeyId === undefined ? undefined : findKey(call, input.KeyId, 'key').record
    // The permission is on the caller's own listing, so a key of another account is none to be asked about.
    if (target && target.accountId !== call.principal.accountId) throw foreignKeyUnseen(call)
    const { items, rest } = page(
      call,
      50,
      (after, limit) => call.service.store.view.listAliases(call.principal.accountId, call.region, target?.arn, after, limit),
      (alias) => ({
        AliasName: alias.name,
        AliasArn: alias.arn,
        TargetKeyId: alias.targetKeyArn.slice(alias.targetKeyArn.lastIndexOf('/') + 1),
        CreationDate: seconds(alias.createdAt),
        LastUpdatedDate: seconds(alias.updatedAt),
      }),
    )
    return { Aliases: items, ...rest }
  },
})
