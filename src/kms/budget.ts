/**
 * The GCM budget: how many encryptions one backing key has made. AES-GCM with random 96-bit IVs stays safe for 2^32 messages under one
 * key (NIST SP 800-38D 8.3). The count is reserved in the store in blocks before it is used, so a crash can only make it too
 * high. At `rotateAt` the key gets a new backing key by itself; `ceiling` is never passed.
 */

import { type BackingKeyRecord, type KeyRecord, StoreConflict } from '../store/store.ts'
import { kmsError } from './errors.ts'
import { rotateMaterial } from './material.ts'
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
}

interface Account {
  left: number
  /** A reservation under way, shared by all who wait for it. */
  reserving: Promise<void> | undefined
}

export function openBudget(service: () => Service, limits: BudgetLimits): Budget {
  const accounts = new Map<string, Account>()
  const rotations = new Map<string, Promise<KeyRecord>>()

  /** One rotation of a key at a time. */
  const rotate = (key: KeyRecord): Promise<KeyRecord> => {
    let running = rotations.get(key.arn)
    if (!running) {
      running = rotateMaterial(service(), key).finally(() => rotations.delete(key.arn))
      rotations.set(key.arn, running)
    }
    return running
  }

  const reserve = async (key: KeyRecord, materialId: string, account: Account): Promise<void> => {
    const total = await service().store.reserveEncryptions(materialId, limits.block, limits.ceiling)
    account.left += limits.block
    if (total < limits.rotateAt) return
    // The key goes on working meanwhile: between rotateAt and the ceiling lies as much again.
    rotate(key).then(
      () => accounts.delete(materialId),
      (error: unknown) =>
        service().log.error(
          { key: key.arn, err: error },
          'rotating a key whose GCM budget is half used failed; the next block tries again',
        ),
    )
  }

  const drawSlowly = async (key: KeyRecord, materialId: string, account: Account): Promise<BackingKeyRecord> => {
    while (account.left === 0) {
      account.reserving ??= reserve(key, materialId, account).finally(() => (account.reserving = undefined))
      try {
        await account.reserving
      } catch (error) {
        if (!(error instanceof StoreConflict)) throw error
        // The ceiling: nothing more may be encrypted with this one, so the caller waits for the next.
        return draw(await rotate(key))
      }
    }
    account.left -= 1
    return backing(materialId)
  }

  const backing = (materialId: string): BackingKeyRecord => {
    const record = service().store.view.backingKey(materialId)
    if (!record) throw new Error(`the store has no backing key ${materialId}`)
    return record
  }

  const draw = (key: KeyRecord): BackingKeyRecord | Promise<BackingKeyRecord> => {
    // Rotated since the caller looked: the newest decides.
    const materialId = service().store.view.key(key.arn)?.materialId ?? key.materialId
    if (materialId === null) throw kmsError('KMSInvalidStateException', `${key.arn} is unavailable.`)
    let account = accounts.get(materialId)
    if (!account) accounts.set(materialId, (account = { left: 0, reserving: undefined }))
    if (account.left === 0) return drawSlowly(key, materialId, account)
    account.left -= 1
    return backing(materialId)
  }

  return { draw }
}
