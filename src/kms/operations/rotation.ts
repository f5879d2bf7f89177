/** Rotation of key material, on a schedule and on demand. */

import type { BackingKeyRecord, KeyChange, KeyRecord, KeyState } from '../../store/store.ts'
import { orConflict } from '../conflict.ts'
import { kmsError, type KmsError } from '../errors.ts'
import { changeKey, keyFrom, keyMissing } from '../keys.ts'
import { seconds } from '../metadata.ts'
import { namesKey, operation, type Call } from '../operation.ts'
import { page, pageOf } from '../page.ts'
import { isReplica, primaryOf, relatedKeys } from '../multi-region.ts'
import { defaultPeriodDays, hasExpired, pendingRotation, recordRotation, rotate, scheduled, wireType, wrongOrigin } from '../rotation.ts'
import { integer, keyId, oneOf, optional } from '../shape.ts'
import { isSymmetric } from '../specs.ts'
import { refusal } from '../states.ts'
import { listing } from './members.ts'

/** Schedules are for material that is made here: AWS's table of key states says so in every state. */
function requireOwnMaterial(key: KeyRecord): void {
  if (key.origin !== 'AWS_KMS') throw wrongOrigin(key)
}

/** @throws KmsError for asymmetric and HMAC keys, and for replicas, whose primary it is. */
function requireRotatable(key: KeyRecord): void {
  if (!isSymmetric(key)) throw kmsError('UnsupportedOperationException')
  if (isReplica(key)) throw kmsError('UnsupportedOperationException', `${key.arn} is not a multi-region primary key.`)
}

export const EnableKeyRotation = operation({
  input: { KeyId: keyId, RotationPeriodInDays: optional(integer({ min: 90, max: 2560 }), defaultPeriodDays) },
  output: [],
  keys: { key: keyFrom('KeyId', { verify: requireOwnMaterial }) },
  readOnly: false,
  responseElements: namesKey,
  async run(call, { RotationPeriodInDays: periodDays = defaultPeriodDays }, { key }) {
    requireRotatable(key)
    await changeKey(call, key, (current) => scheduled(current, periodDays, call.nowMs))
    return {}
  },
})

export const DisableKeyRotation = operation({
  input: { KeyId: keyId },
  output: [],
  keys: { key: keyFrom('KeyId', { verify: requireOwnMaterial }) },
  readOnly: false,
  async run(call, _input, { key }) {
    // Of a key that never rotates it is true already.
    if (!isSymmetric(key)) return {}
    requireRotatable(key)
    await changeKey(call, key, () => ({ nextRotationAt: null }))
    return {}
  },
})

/** Here no key rotates, and its schedule is shown as off until its deletion is cancelled. */
const goingStates: readonly KeyState[] = ['PendingDeletion', 'PendingReplicaDeletion', 'Destroying']

export const GetKeyRotationStatus = operation({
  input: { KeyId: keyId },
  output: ['KeyRotationEnabled', 'KeyId', 'RotationPeriodInDays', 'NextRotationDate', 'OnDemandRotationStartDate'],
  keys: { key: keyFrom('KeyId', { crossAccount: true, verify: requireOwnMaterial }) },
  readOnly: true,
  run(call, _input, { key }) {
    const { nextRotationAt, rotationPeriodDays } = primaryOf(call.service, key)
    const underWay = call.service.store.view
      .backingKeys(key.arn)
      .find(({ state, rotationType }) => state === 'creating' && rotationType === 'ON_DEMAND')
    const isOn = nextRotationAt !== null && !goingStates.includes(key.state)
    return {
      KeyId: key.keyId,
      KeyRotationEnabled: isOn,
      ...(isOn && { RotationPeriodInDays: rotationPeriodDays, NextRotationDate: seconds(nextRotationAt) }),
      ...(underWay && { OnDemandRotationStartDate: seconds(underWay.createdAt) }),
    }
  },
})

/** AWS's: an automatic rotation so near is not to be met. */
const nearMs = 20 * 60_000

const inTheWay = (options?: ErrorOptions): KmsError =>
  kmsError(
    'ConflictException',
    'An automatic rotation of this key is currently in progress or scheduled to begin within the next 20 minutes.',
    options,
  )

export const RotateKeyOnDemand = operation({
  input: { KeyId: keyId },
  output: ['KeyId'],
  keys: { key: keyFrom('KeyId') },
  readOnly: false,
  responseElements: ({ KeyId }) => ({ keyId: KeyId }),
  async run(call, _input, { key }) {
    requireRotatable(key)
    if (key.origin !== 'AWS_KMS' && key.origin !== 'EXTERNAL') throw wrongOrigin(key)
    const { service } = call
    const { store } = service
    const admit = (current: KeyRecord): KeyChange => {
      checkOnDemand(call, current, store.view.backingKeys(key.arn))
      return {}
    }
    admit(key)
    const rotateNow = async (): Promise<void> => {
      if (key.origin === 'AWS_KMS') await rotate(service, key, 'ON_DEMAND', admit)
      else await recordRotation(service, await rotateToImported(call, key))
    }
    await orConflict(rotateNow(), (cause) => (store.view.key(key.arn) ? inTheWay({ cause }) : keyMissing(key.arn)))
    return { KeyId: key.arn }
  },
})

/** Asked before anything is made, and again under the newest record. */
function checkOnDemand(call: Call, current: KeyRecord, materials: readonly BackingKeyRecord[]): void {
  const { state, nextRotationAt, arn } = current
  if (state !== 'Enabled') throw refusal(arn, state, call.operation.name)
  if (nextRotationAt !== null && nextRotationAt - call.nowMs <= nearMs) throw inTheWay()
  const made = materials.filter((backing) => backing.rotationType === 'ON_DEMAND' && backing.state !== 'creating')
  if (made.length >= call.service.config.quotas.onDemandRotations) {
    throw kmsError(
      'LimitExceededException',
      `The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations can be performed for this key: ${arn}`,
    )
  }
}

/** Imported material that waits for it becomes the current one, of a multi-Region key everywhere at once. */
async function rotateToImported(call: Call, key: KeyRecord): Promise<KeyRecord> {
  const { store, clock } = call.service
  const [rotated] = await store.updateKeys(key.keyId, () => {
    const current = store.view.key(key.arn)
    if (!current) throw keyMissing(key.arn)
    requireRotatable(current)
    const materials = store.view.backingKeys(key.arn)
    checkOnDemand(call, current, materials)
    const pending = pendingRotation(current, materials)
    if (!pending || hasExpired(pending, clock.now())) {
      throw kmsError('KMSInvalidStateException', `No available key material pending rotation for the key: ${key.arn}.`)
    }
    const { materialId } = pending
    const held = holdersOf(call, current, materialId)
    if (!held) {
      throw kmsError(
        'KMSInvalidStateException',
        `The key material (id: ${materialId}) is not imported into every replica of the key: ${key.arn}.`,
      )
    }
    const others = held.filter(({ keyArn }) => keyArn !== key.arn)
    const facts = { rotationType: 'ON_DEMAND', rotatedAt: clock.now() } as const
    return {
      changes: [{ arn: key.arn, change: { materialId } }, ...others.map(({ keyArn }) => ({ arn: keyArn, change: { materialId } }))],
      // It is the primary that records it.
      put: [{ ...pending, ...facts }, ...others.map((backing) => ({ ...backing, ...facts, rotationRecorded: true }))],
    }
  })
  return rotated ?? key
}

/** The material as the key and all keys related to it have it; undefined where one of them lacks it. */
function holdersOf({ service }: Call, key: KeyRecord, materialId: string): readonly BackingKeyRecord[] | undefined {
  const related = key.multiRegion ? relatedKeys(service, key).filter(({ state }) => state !== 'Destroying') : [key]
  const held = related.flatMap(({ arn }) => service.store.view.backingKey(arn, materialId) ?? [])
  const isThere = (backing: BackingKeyRecord): boolean => backing.state === 'ready' && !hasExpired(backing, service.clock.now())
  return held.length === related.length && held.every(isThere) ? held : undefined
}

/** What only keys with imported material have. */
const importFacts = ({ state, validTo, description }: BackingKeyRecord): Readonly<Record<string, unknown>> => ({
  ImportState: state === 'absent' ? 'PENDING_IMPORT' : 'IMPORTED',
  ExpirationModel: validTo === null ? 'KEY_MATERIAL_DOES_NOT_EXPIRE' : 'KEY_MATERIAL_EXPIRES',
  ...(validTo !== null && { ValidTo: seconds(validTo) }),
  ...(description !== null && { KeyMaterialDescription: description }),
})

export const ListKeyRotations = operation({
  input: {
    KeyId: keyId,
    IncludeKeyMaterial: optional(oneOf('ALL_KEY_MATERIAL', 'ROTATIONS_ONLY'), 'ROTATIONS_ONLY'),
    ...listing,
  },
  output: ['Rotations', 'NextMarker', 'Truncated'],
  keys: { key: keyFrom('KeyId') },
  readOnly: true,
  run(call, input, { key }) {
    if (!isSymmetric(key)) throw kmsError('UnsupportedOperationException')
    if (key.origin !== 'AWS_KMS' && key.origin !== 'EXTERNAL') throw wrongOrigin(key)
    const made = call.service.store.view.backingKeys(key.arn).filter(({ state }) => state !== 'creating')
    const abandoned = pendingRotation(key, made)
    // What has expired is shown as it will be when the lifecycle job has been there.
    const all = made.flatMap((backing) => {
      if (!hasExpired(backing, call.service.clock.now())) return [backing]
      return backing === abandoned ? [] : [{ ...backing, state: 'absent', validTo: null } as const]
    })
    const pending = pendingRotation(key, all)
    const waiting = pending && !holdersOf(call, key, pending.materialId) ? 'PENDING_MULTI_REGION_IMPORT_AND_ROTATION' : 'PENDING_ROTATION'
    const listed = input.IncludeKeyMaterial === 'ALL_KEY_MATERIAL' ? all : all.filter(({ rotatedAt }) => rotatedAt !== null)
    const { items, rest } = page(
      call,
      100,
      (after, limit) => pageOf(listed, ({ ordinal }) => String(ordinal).padStart(10, '0'), after, limit),
      (backing) => ({
        KeyId: key.keyId,
        KeyMaterialId: backing.materialId,
        KeyMaterialState: backing.materialId === key.materialId ? 'CURRENT' : backing === pending ? waiting : 'NON_CURRENT',
        ...(key.origin === 'EXTERNAL' && importFacts(backing)),
        ...(backing.rotatedAt !== null && { RotationDate: seconds(backing.rotatedAt) }),
        ...(backing.rotationType !== null && { RotationType: wireType(backing.rotationType) }),
      }),
    )
    return { Rotations: items, ...rest }
  },
})
