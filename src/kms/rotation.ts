/**
 * Rotation: the same key, new material. A key gets it when its rotation is due, when somebody asks, and when the old material has used its
 * budget of encryptions. What the old material encrypted stays readable.
 *
 * Material and key change in one write (see `material.ts`); that it happened is recorded after it. A rotation that was completed and not
 * recorded says so in its row until it is: whoever stops in between leaves it to the lifecycle job, so it is recorded at least once.
 */

import { StoreConflict, type BackingKeyRecord, type KeyChange, type KeyRecord, type RotationType } from '../store/store.ts'
import { kmsError, type KmsError } from './errors.ts'
import type { Step } from './lifecycle.ts'
import { rotateMaterial } from './material.ts'
import { rotateEverywhere } from './replication.ts'
import { hasReplicas } from './multi-region.ts'
import { keyEvent, synchronization } from './record.ts'
import type { Service } from './service.ts'

const dayMs = 86_400_000
/** One that is longer overdue (its key was disabled meanwhile) is not made up for: the period begins anew. */
const lateMs = dayMs
/** As long as this whoever completed a rotation has time to record it. */
const recordWithinMs = 30_000

/** Why a rotation was made, in AWS's words: it knows none for the budget, which nobody asks for either. */
export const wireType = (type: RotationType): 'AUTOMATIC' | 'ON_DEMAND' => (type === 'ON_DEMAND' ? 'ON_DEMAND' : 'AUTOMATIC')

export const wrongOrigin = (key: KeyRecord): KmsError =>
  kmsError('UnsupportedOperationException', `${key.arn} origin is ${key.origin} which is not valid for this operation.`)

/** Imported material that waits to become the current one: younger than the current one, and never rotated to. It may have expired. */
export function pendingRotation(key: KeyRecord, materials: readonly BackingKeyRecord[]): BackingKeyRecord | undefined {
  const current = materials.find(({ materialId }) => materialId === key.materialId)
  return materials.find(
    ({ state, rotatedAt, ordinal }) => state === 'ready' && rotatedAt === null && ordinal > (current?.ordinal ?? ordinal),
  )
}

/** Imported material whose time has come is not there any more, whenever the lifecycle job destroys it. */
export const hasExpired = ({ validTo }: BackingKeyRecord, nowMs: number): boolean => validTo !== null && validTo <= nowMs

/** Gives a key new material made by the token. @throws StoreConflict as `rotateMaterial`. */
export async function rotate(
  service: Service,
  key: KeyRecord,
  type: RotationType,
  change?: (current: KeyRecord) => KeyChange,
): Promise<KeyRecord> {
  const rotated = await (key.multiRegion ? rotateEverywhere(service, key, type, change) : rotateMaterial(service, key, type, change))
  await recordRotation(service, rotated)
  return rotated
}

/** Records that a key has come to its current material. Where that fails, the lifecycle job does it. */
export async function recordRotation(service: Service, key: KeyRecord): Promise<void> {
  const { store, log } = service
  try {
    const backing = store.view.backingKeys(key.arn).find(({ materialId }) => materialId === key.materialId)
    if (backing && isUnrecorded(backing)) await record(service, key, backing)
  } catch (error) {
    log.error({ key: key.arn, err: error }, 'a rotation was completed and could not be recorded; it is tried again')
  }
}

const isUnrecorded = ({ state, rotatedAt, rotationRecorded }: BackingKeyRecord): boolean =>
  state !== 'creating' && rotatedAt !== null && !rotationRecorded

/** CloudTrail's RotateKey. */
async function record({ store, trail }: Service, key: KeyRecord, backing: BackingKeyRecord): Promise<void> {
  const { rotationType, rotatedAt, materialId, ordinal } = backing
  if (rotationType === null || rotatedAt === null) return
  const previous = store.view.backingKeys(key.arn).findLast((other) => other.ordinal < ordinal && other.state !== 'creating')
  const rotation = keyEvent(rotatedAt, key, 'RotateKey', {
    service: {
      rotationType: wireType(rotationType),
      keyOrigin: key.origin,
      ...(previous && { previousKeyMaterialId: previous.materialId }),
      currentKeyMaterialId: materialId,
    },
    ...(rotationType === 'BUDGET' && { additional: { reason: 'the former key material has used half of its budget of encryptions' } }),
  })
  await trail.append(rotation)
  if (hasReplicas({ store }, key)) await trail.append(synchronization(rotatedAt, key))
  await store.changeMaterial(key.arn, (_current, materials) => {
    const newest = materials.find((other) => other.materialId === materialId)
    if (!newest) throw new StoreConflict(`record the rotation of ${key.arn}: material ${materialId} is gone`)
    return { key: {}, put: { ...newest, rotationRecorded: true } }
  })
}

/** Records what another could not. */
export const recordRotations: Step = (service, key) => {
  const before = service.clock.now() - recordWithinMs
  const left = service.store.view
    .backingKeys(key.arn)
    .filter((backing) => isUnrecorded(backing) && (backing.rotatedAt ?? 0) <= before && !service.making.has(backing.ckaId))
  if (left.length === 0) return undefined
  return async () => {
    for (const backing of left) await record(service, key, backing)
  }
}

/** Keys that cannot be used keep their date and are rotated when they can be again. */
export const rotateDue: Step = (service, key) => {
  const now = service.clock.now()
  const isDue = ({ state, nextRotationAt }: KeyRecord): boolean => state === 'Enabled' && nextRotationAt !== null && nextRotationAt <= now
  if (!isDue(key)) return undefined
  return async () => {
    await rotate(service, key, 'AUTOMATIC', (current) => {
      if (!isDue(current)) throw new StoreConflict(`rotate ${key.arn}: it is no longer due`)
      return { nextRotationAt: nextAfter(current, now) }
    })
    service.log.info({ key: key.arn }, 'the rotation was due: the key has new material')
  }
}

function nextAfter({ nextRotationAt, rotationPeriodDays }: KeyRecord, now: number): number {
  const from = nextRotationAt !== null && now - nextRotationAt < lateMs ? nextRotationAt : now
  return from + (rotationPeriodDays ?? defaultPeriodDays) * dayMs
}

/** AWS's. */
export const defaultPeriodDays = 365

/** What EnableKeyRotation makes of a key. With the same period as before, the next date stays: a script that asks every day postpones nothing. */
export function scheduled(current: KeyRecord, rotationPeriodDays: number, now: number): KeyChange {
  if (current.nextRotationAt !== null && rotationPeriodDays === current.rotationPeriodDays) return {}
  return { rotationPeriodDays, nextRotationAt: now + rotationPeriodDays * dayMs }
}
