/** The statements that changes of keys and of their materials have in common. */

import type { ExpressionBuilder } from 'kysely'
import type { Step } from './backend.ts'
import { backingId, backingKeyRow, keyRow, type Tables } from './schema.ts'
import { StoreConflict } from './store.ts'
import type { BackingKeyRecord, BackingName, KeyChange, KeyRecord } from './store.ts'
import { one, type Writing } from './writing.ts'

export function keyStepsOf({ sql, view, changed }: Pick<Writing, 'sql' | 'view' | 'changed'>) {
  const keyUpdate = (current: KeyRecord, change: KeyChange) => {
    const after: KeyRecord = Object.freeze({ ...current, ...change, version: current.version + 1 })
    const query = sql
      .updateTable('keys')
      .set(keyRow(after))
      .where('arn', '=', current.arn)
      // A replica that was made anew counts its versions anew.
      .where('created_at', '=', current.createdAt)
      .where('version', '=', current.version)
      .compile()
    return { after, steps: [one(query), changed('key', current.arn)] }
  }
  const getKey = (arn: string): KeyRecord => {
    const key = view.key(arn)
    if (!key) throw new StoreConflict(`key ${arn}: does not exist`)
    return key
  }
  /** The view's own object where it is the same version, so that caches by identity hold. */
  const keyInView = (after: KeyRecord): KeyRecord => {
    const key = view.key(after.arn)
    return key?.version === after.version ? key : after
  }

  const backingSteps = (backing: BackingKeyRecord): Step[] => [
    { query: sql.insertInto('backing_keys').values(backingKeyRow(backing)).compile() },
    changed('backing', backingId(backing)),
  ]
  const readySteps = (backing: BackingName, creator: string | null): Step[] => [
    one(
      sql
        .updateTable('backing_keys')
        .set({ state: 'ready', creator: null })
        .where('id', '=', backingId(backing))
        .where((eb) => eb.or([eb('state', '=', 'ready'), heldBy(eb, creator)]))
        .compile(),
    ),
    changed('backing', backingId(backing)),
  ]
  const putSteps = (backing: BackingKeyRecord): Step[] => {
    const { encryptions_reserved: _counted, ...row } = backingKeyRow(backing)
    const id = backingId(backing)
    return [one(sql.updateTable('backing_keys').set(row).where('id', '=', id).compile()), changed('backing', id)]
  }
  /** @throws StoreConflict when it cannot become ready by this creator any more. */
  const checkHeld = (backing: BackingName, creator: string | null): void => {
    const found = view.backingKey(backing.keyArn, backing.materialId)
    if (!found) throw new StoreConflict(`promote backing key ${backing.materialId}: it is gone`)
    if (found.state === 'creating' && found.creator !== creator)
      throw new StoreConflict(`promote backing key ${backing.materialId}: another has taken it over`)
  }
  /** What has been encrypted with a replica's material is the same in all its rows. */
  const shareCounts = (arn: string): Step => ({
    query: sql
      .updateTable('backing_keys')
      .set((eb) => ({
        encryptions_reserved: eb
          .selectFrom('backing_keys as same')
          .select((same) => same.fn.max('same.encryptions_reserved').as('most'))
          .whereRef('same.material_id', '=', 'backing_keys.material_id'),
      }))
      .where('key_arn', '=', arn)
      .compile(),
  })

  return { keyUpdate, getKey, keyInView, backingSteps, readySteps, putSteps, checkHeld, shareCounts }
}

/** An unfinished backing key of this creator. */
export const heldBy = (eb: ExpressionBuilder<Tables, 'backing_keys'>, creator: string | null) =>
  eb.and([eb('state', '=', 'creating'), eb('creator', 'is not distinct from', creator)])
