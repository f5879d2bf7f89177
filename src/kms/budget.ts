/**
 * The GCM budget: how many encryptions one backing key has made. AES-GCM with random 96-bit IVs stays safe for 2^32 messages under one
 * key (NIST SP 800-38D 8.3). The count is reserved in the store in blocks before it is used, so a crash can only make it too
 * high. At `rotateAt` the key gets a new backing key by itself; `ceiling` is never passed.
 */

import type { Metrics } from '../base/metrics.ts'
import { type BackingKeyRecord, type KeyRecord, StoreConflict } from '../store/store.ts'
import { kmsError } from './errors.ts'
import { keyMissing } from './keys.ts'
import { primaryOf } from './multi-region.ts'
import { rotate } from './rotation.ts'
import type { Service } from './service.ts'

export interface BudgetLimits {
  readonly block: number
  readonly rotateAt: number
  readonly ceiling: number
}

export const standardBudget: BudgetLimits = { block: 65_536, rotateAt: 2 ** 31, ceiling: 2 ** 32 }

export interface Budget {
  /** The backing key to encrypt with, one encryption taken from its budget. Synchronous but once in a block. */
  draw(key: KeyRecord): BackingKeyRecord | Promise<BackingKeyRecord>
  /** Waits for rotations under way. */
  close(): Promise<void>
}

interface Account {
  left: number
  /** A reservation under way, shared by all who wait for it. */
  reserving: Promise<void> | undefined
}

export function openBudget(service: () => Service, limits: BudgetLimits, metrics: Pick<Metrics, 'count'>): Budget {
  const rotated = metrics.count('holdfast_gcm_rotations_total', 'Rotations because a key had used its budget of encryptions.')
  const failed = metrics.count(
    'holdfast_gcm_rotation_failures_total',
    'Such rotations that failed; until one succeeds the budget runs out.',
  )
  const accounts = new Map<string, Account>()
  const rotations = new Map<string, Promise<void>>()

  const current = (arn: string): { readonly key: KeyRecord; readonly materialId: string } => {
    const key = service().store.view.key(arn)
    if (!key) throw keyMissing(arn)
    if (key.materialId === null) throw kmsError('KMSInvalidStateException', `${arn} is unavailable.`)
    return { key, materialId: key.materialId }
  }

  const backing = (arn: string, materialId: string): BackingKeyRecord => {
    const record = service().store.view.backingKey(arn, materialId)
    if (!record) throw new Error(`the store has no backing key ${materialId}`)
    return record
  }

  /** Away from `materialId`, unless that has happened already. One rotation of a key at a time. */
  const rotateFrom = async (arn: string, materialId: string): Promise<void> => {
    // Related multi-Region keys use up one budget, and rotate as one.
    const owner = primaryOf(service(), current(arn).key)
    // Only its owner has new material for it.
    if (owner.origin === 'EXTERNAL') {
      throw kmsError(
        'LimitExceededException',
        `The key material of ${arn} has encrypted as often as it safely can. Import new key material and rotate the key on demand.`,
      )
    }
    let running = rotations.get(owner.arn)
    if (!running) {
      if (current(arn).materialId !== materialId) return
      running = rotate(service(), owner, 'BUDGET')
        .then(
          () => rotated(),
          (error: unknown) => {
            // Another rotation came first, for whatever reason: it does as well.
            if (error instanceof StoreConflict && current(arn).materialId !== materialId) return
            failed()
            throw error
          },
        )
        .finally(() => rotations.delete(owner.arn))
      rotations.set(owner.arn, running)
    }
    await running
    accounts.delete(materialId)
  }

  const reserve = async (arn: string, materialId: string, account: Account): Promise<void> => {
    const total = await service().store.reserveEncryptions(materialId, limits.block, limits.ceiling)
    account.left += limits.block
    if (total < limits.rotateAt) return
    // The key goes on working meanwhile: between rotateAt and the ceiling lies as much again.
    rotateFrom(arn, materialId).catch((error: unknown) =>
      service().log.error({ key: arn, err: error }, 'rotating a key whose GCM budget is half used failed; the next block tries again'),
    )
  }

  const drawSlowly = async (arn: string, materialId: string, account: Account): Promise<BackingKeyRecord> => {
    while (account.left === 0) {
      account.reserving ??= reserve(arn, materialId, account).finally(() => (account.reserving = undefined))
      try {
        await account.reserving
      } catch (error) {
        if (!(error instanceof StoreConflict)) throw error
        // The ceiling: nothing more may be encrypted with this one, so the caller waits for the next.
        return drawAfterRotation(arn, materialId)
      }
    }
    account.left -= 1
    return backing(arn, materialId)
  }

  const drawAfterRotation = async (arn: string, materialId: string): Promise<BackingKeyRecord> => {
    try {
      await rotateFrom(arn, materialId)
    } catch (error) {
      // Another process is at it.
      if (error instanceof StoreConflict) throw kmsError('ThrottlingException', 'Rate exceeded', { cause: error })
      throw error
    }
    return drawFrom(arn)
  }

  const drawFrom = (arn: string): BackingKeyRecord | Promise<BackingKeyRecord> => {
    const { materialId } = current(arn)
    let account = accounts.get(materialId)
    if (!account) accounts.set(materialId, (account = { left: 0, reserving: undefined }))
    if (account.left === 0) return drawSlowly(arn, materialId, account)
    account.left -= 1
    return backing(arn, materialId)
  }

  return {
    // What the store has now decides, not what the caller saw.
    draw: (key) => drawFrom(key.arn),
    async close() {
      await Promise.allSettled(rotations.values())
    },
  }
}
