/** Custom key stores in the database. */

import { keyStoreRow } from './schema.ts'
import { StoreConflict } from './store.ts'
import type { KeyStoreRecord, KeyStores } from './store.ts'
import { one, swapped, type Writing } from './writing.ts'

export function openKeyStores({ sql, view, write, attempted, untilSwapped, changed }: Writing): KeyStores {
  return {
    async insertKeyStore(keyStore, most) {
      const { id, accountId, region } = keyStore
      const last = sql.selectFrom('key_stores').select('id').where('account_id', '=', accountId).where('region', '=', region).limit(1)
      const done = await attempted(`insert key store ${id}`, [
        // Counted where nobody comes between, as access keys are.
        { query: last.offset(most - 1).compile(), rows: 0 },
        { query: sql.insertInto('key_stores').values(keyStoreRow(keyStore)).compile() },
        changed('key-store', id),
      ])
      if (!done) throw new StoreConflict(`insert key store ${id}: too many, or its name or backing is another's`)
    },
    updateKeyStore: (id, change) =>
      untilSwapped(`key store ${id}`, async () => {
        const current = view.keyStore(id)
        if (!current) throw new StoreConflict(`update key store ${id}: does not exist`)
        const after: KeyStoreRecord = Object.freeze({ ...current, ...change(current), version: current.version + 1 })
        const query = sql
          .updateTable('key_stores')
          .set(keyStoreRow(after))
          .where('id', '=', id)
          .where('version', '=', current.version)
          .compile()
        return (await swapped(write(`update key store ${id}`, [one(query), changed('key-store', id)]))) ? after : undefined
      }),
    async deleteKeyStore(id) {
      const query = sql.deleteFrom('key_stores').where('id', '=', id).where('state', '=', 'DISCONNECTED').compile()
      const done = await attempted(`delete key store ${id}`, [one(query), changed('key-store', id)])
      if (!done) throw new StoreConflict(`delete key store ${id}: it has keys, is not disconnected, or is not there`)
    },
  }
}
