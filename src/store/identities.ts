/** Accounts, users and roles, and their access keys in the database. */

import { accessKeyRow, accountRow, principalRow, type ChangeKind } from './schema.ts'
import { StoreConflict } from './store.ts'
import type { Identities, PrincipalRecord } from './store.ts'
import { one, swapped, type Writing } from './writing.ts'

export function openIdentities({ sql, view, write, untilSwapped, changed }: Writing): Identities {
  return {
    async insertAccount(account) {
      await write(`insert account ${account.accountId}`, [
        { query: sql.insertInto('accounts').values(accountRow(account)).compile() },
        changed('account', account.accountId),
      ])
    },

    async insertPrincipal(principal) {
      await write(`insert principal ${principal.arn}`, [
        { query: sql.insertInto('principals').values(principalRow(principal)).compile() },
        changed('principal', principal.arn),
      ])
    },
    updatePrincipal: (arn, change) =>
      untilSwapped(`principal ${arn}`, async () => {
        const current = view.principal(arn)
        if (!current) throw new StoreConflict(`update principal ${arn}: does not exist`)
        const after: PrincipalRecord = { ...current, ...change(current), version: current.version + 1 }
        const query = sql
          .updateTable('principals')
          .set(principalRow(after))
          .where('arn', '=', arn)
          .where('version', '=', current.version)
          // Another one that was made under the name since has a version like it.
          .where('unique_id', '=', current.uniqueId)
          .compile()
        if (!(await swapped(write(`update principal ${arn}`, [one(query), changed('principal', arn)])))) return undefined
        const inView = view.principal(arn)
        return inView?.version === after.version ? inView : after
      }),
    async deletePrincipal(arn) {
      const keys = sql
        .selectFrom('access_keys')
        .select((eb) => [eb.val<ChangeKind>('access-key').as('kind'), 'access_key_id as id'])
        .where('principal_arn', '=', arn)
      await write(`delete principal ${arn}`, [
        { query: sql.insertInto('changes').columns(['kind', 'id']).expression(keys).compile() },
        { query: sql.deleteFrom('access_keys').where('principal_arn', '=', arn).compile() },
        one(sql.deleteFrom('principals').where('arn', '=', arn).compile()),
        changed('principal', arn),
      ])
    },
    async insertAccessKey(key, most, ownerId) {
      const last = sql.selectFrom('access_keys').select('access_key_id').where('principal_arn', '=', key.principalArn).limit(1)
      await write(`insert access key ${key.accessKeyId}`, [
        // Counted where nobody comes between: there must be no key in the last place.
        ...(most === undefined ? [] : [{ query: last.offset(most - 1).compile(), rows: 0 }]),
        ...(ownerId === undefined
          ? []
          : [
              one(
                sql.selectFrom('principals').select('arn').where('arn', '=', key.principalArn).where('unique_id', '=', ownerId).compile(),
              ),
            ]),
        { query: sql.insertInto('access_keys').values(accessKeyRow(key)).compile() },
        changed('access-key', key.accessKeyId),
      ])
    },
    async setAccessKeyActive(accessKeyId, active) {
      await write(`update access key ${accessKeyId}`, [
        one(
          sql
            .updateTable('access_keys')
            .set({ active: active ? 1 : 0 })
            .where('access_key_id', '=', accessKeyId)
            .compile(),
        ),
        changed('access-key', accessKeyId),
      ])
    },
    async deleteAccessKey(accessKeyId) {
      await write(`delete access key ${accessKeyId}`, [
        one(sql.deleteFrom('access_keys').where('access_key_id', '=', accessKeyId).compile()),
        changed('access-key', accessKeyId),
      ])
    },
  }
}
