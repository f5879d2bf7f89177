/** Keys in the database; the several keys of a multi-Region key at once. */

import type { Clock } from '../base/clock.ts'
import type { Step } from './backend.ts'
import type { GrantStore } from './grants.ts'
import { keyStepsOf } from './key-steps.ts'
import { keyRow, type ChangeKind } from './schema.ts'
import { StoreConflict } from './store.ts'
import type { BackingKeyRecord, KeyRecord, Keys } from './store.ts'
import type { UsageTables } from './usage.ts'
import { one, swapped, type Writing } from './writing.ts'

/** More than all processes together can make before each hears of it. */
const uncountedKeys = 1000

export function openKeys(
  writing: Writing,
  clock: Clock,
  grants: Pick<GrantStore, 'deleteMost' | 'deleteRest'>,
  usage: Pick<UsageTables, 'endLife'>,
): Keys {
  const { sql, view, write, attempted, untilSwapped, changed } = writing
  const { keyUpdate, getKey, keyInView, backingSteps, readySteps, putSteps, checkHeld, shareCounts } = keyStepsOf(writing)

  /** Counted where nobody comes between, if the last count was so near that others could have: counting all of many keys takes time. */
  const room = ({ accountId, region }: KeyRecord, most: number | undefined): readonly Step[] => {
    if (most === undefined || view.keyCountOf(accountId, region) < most - uncountedKeys) return []
    const own = sql.selectFrom('keys').select('arn').where('account_id', '=', accountId).where('region', '=', region)
    return [
      {
        query: own
          .where('managed_by', 'is', null)
          .limit(1)
          .offset(most - 1)
          .compile(),
        rows: 0,
      },
    ]
  }

  return {
    async insertKey(key, backing, most) {
      const isReplica = key.primaryRegion !== null && key.primaryRegion !== key.region
      const backings: readonly BackingKeyRecord[] = backing === undefined ? [] : 'keyArn' in backing ? [backing] : backing
      // Who lost a race is to see what won: another key may have taken the same external key.
      const done = await attempted(`insert key ${key.arn}`, [
        ...(isReplica ? [] : [{ query: sql.selectFrom('tombstones').select('arn').where('arn', '=', key.arn).compile(), rows: 0 }]),
        ...room(key, most),
        { query: sql.insertInto('keys').values(keyRow(key)).compile() },
        changed('key', key.arn),
        ...backings.flatMap((each) => backingSteps(each)),
        ...(isReplica ? [shareCounts(key.arn)] : []),
      ])
      if (!done) throw new StoreConflict(`insert key ${key.arn}: it exists or existed, or has what another one has, or is one too many`)
    },
    updateKey: (arn, change) =>
      untilSwapped(`key ${arn}`, async () => {
        const current = getKey(arn)
        const { after, steps } = keyUpdate(current, change(current))
        return (await swapped(write(`update key ${arn}`, steps))) ? keyInView(after) : undefined
      }),
    updateKeys: (name, plan) =>
      untilSwapped(`keys ${name}`, async () => {
        const { changes, ready = [], put = [], creator = null } = plan()
        for (const backing of ready) checkHeld(backing, creator)
        const updates = changes.map(({ arn, change }) => keyUpdate(getKey(arn), change))
        const rows = [...ready.flatMap((backing) => readySteps(backing, creator)), ...put.flatMap(putSteps)]
        const steps = [...updates.flatMap((update) => update.steps), ...rows]
        return (await swapped(write(`update keys ${name}`, steps))) ? updates.map(({ after }) => keyInView(after)) : undefined
      }),
    async deleteKey(arn, createdAt) {
      const gone = sql.deleteFrom('keys').where('arn', '=', arn)
      if (createdAt !== undefined && view.key(arn)?.createdAt !== createdAt) throw new StoreConflict(`delete key ${arn}: it is gone`)
      const aliases = sql
        .selectFrom('aliases')
        .select((eb) => [eb.val<ChangeKind>('alias').as('kind'), 'arn as id'])
        .where('target_key_arn', '=', arn)
      const backing = sql
        .selectFrom('backing_keys')
        .select((eb) => [eb.val<ChangeKind>('backing').as('kind'), 'id'])
        .where('key_arn', '=', arn)
      await grants.deleteMost(arn, createdAt)
      const key = view.key(arn)
      await write(`delete key ${arn}`, [
        ...grants.deleteRest(arn),
        ...(key && key.state !== 'Creating' ? usage.endLife(key, view.backingKeys(arn), clock.now()) : []),
        { query: sql.insertInto('changes').columns(['kind', 'id']).expression(aliases).compile() },
        { query: sql.insertInto('changes').columns(['kind', 'id']).expression(backing).compile() },
        { query: sql.deleteFrom('aliases').where('target_key_arn', '=', arn).compile() },
        { query: sql.deleteFrom('backing_keys').where('key_arn', '=', arn).compile() },
        one((createdAt === undefined ? gone : gone.where('created_at', '=', createdAt)).compile()),
        {
          query: sql
            .insertInto('tombstones')
            .values({ arn, deleted_at: clock.now() })
            // A replica may have been here before.
            .onConflict((conflict) => conflict.column('arn').doUpdateSet({ deleted_at: clock.now() }))
            .compile(),
        },
        changed('key', arn),
      ])
    },
  }
}
