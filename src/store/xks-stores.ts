/** The stores of the XKS proxy and their keys, in the database. */

import type { Step } from './backend.ts'
import { xksKeyName, xksKeyRow, xksStoreRow, type ChangeKind } from './schema.ts'
import { StoreConflict } from './store.ts'
import type { XksStoreName, XksStoreRecord, XksStores } from './store.ts'
import { one, swapped, type Writing } from './writing.ts'

export function openXksStores({ sql, view, write, attempted, untilSwapped, changed }: Writing): XksStores {
  const xksStoreIsThere = ({ prefix, accountId }: XksStoreName): Step =>
    one(sql.selectFrom('xks_stores').select('prefix').where('prefix', '=', prefix).where('account_id', '=', accountId).compile())

  return {
    async insertXksStore(store, most) {
      const { prefix, accountId } = store
      const last = sql.selectFrom('xks_stores').select('prefix').where('account_id', '=', accountId).limit(1)
      const done = await attempted(`insert XKS store ${prefix}`, [
        { query: last.offset(most - 1).compile(), rows: 0 },
        { query: sql.insertInto('xks_stores').values(xksStoreRow(store)).compile() },
        changed('xks-store', prefix),
      ])
      if (!done) throw new StoreConflict(`insert XKS store ${prefix}: too many, or its prefix is another's`)
    },
    updateXksStore: ({ prefix, accountId }, change) =>
      untilSwapped(`XKS store ${prefix}`, async () => {
        const current = view.xksStore(prefix)
        if (current?.accountId !== accountId) throw new StoreConflict(`update XKS store ${prefix}: does not exist`)
        const after: XksStoreRecord = Object.freeze({ ...current, ...change(current), version: current.version + 1 })
        const query = sql
          .updateTable('xks_stores')
          .set(xksStoreRow(after))
          .where('prefix', '=', prefix)
          // One that was made anew counts its versions anew.
          .where('account_id', '=', accountId)
          .where('created_at', '=', current.createdAt)
          .where('version', '=', current.version)
          .compile()
        return (await swapped(write(`update XKS store ${prefix}`, [one(query), changed('xks-store', prefix)]))) ? after : undefined
      }),
    async deleteXksStore({ prefix, accountId }) {
      const keys = sql
        .selectFrom('xks_keys')
        .select((eb) => [eb.val<ChangeKind>('xks-key').as('kind'), 'id'])
        .where('prefix', '=', prefix)
      const store = sql.deleteFrom('xks_stores').where('prefix', '=', prefix).where('account_id', '=', accountId).where('enabled', '=', 0)
      const done = await attempted(`delete XKS store ${prefix}`, [
        { query: sql.insertInto('changes').columns(['kind', 'id']).expression(keys).compile() },
        { query: sql.deleteFrom('xks_keys').where('prefix', '=', prefix).compile() },
        one(store.compile()),
        changed('xks-store', prefix),
      ])
      if (!done) throw new StoreConflict(`delete XKS store ${prefix}: it is enabled, or is not there`)
    },
    async insertXksKey(of, key) {
      const name = xksKeyName(of.prefix, key.externalKeyId)
      const done = await attempted(`insert XKS key ${name}`, [
        xksStoreIsThere(of),
        {
          query: sql
            .insertInto('xks_keys')
            .values(xksKeyRow({ ...key, prefix: of.prefix }))
            .compile(),
        },
        changed('xks-key', name),
      ])
      if (!done) throw new StoreConflict(`insert XKS key ${name}: it is there, or its store is not`)
    },
    async deleteXksKey(of, externalKeyId) {
      const name = xksKeyName(of.prefix, externalKeyId)
      const done = await attempted(`delete XKS key ${name}`, [
        xksStoreIsThere(of),
        one(sql.deleteFrom('xks_keys').where('id', '=', name).compile()),
        changed('xks-key', name),
      ])
      if (!done) throw new StoreConflict(`delete XKS key ${name}: it is not there, or its store is not`)
    },
  }
}
