/** Aliases in the database. */

import { aliasRow } from './schema.ts'
import type { Aliases } from './store.ts'
import { one, type Writing } from './writing.ts'

export function openAliases({ sql, write, changed }: Writing): Aliases {
  return {
    async insertAlias(alias) {
      await write(`insert alias ${alias.arn}`, [
        { query: sql.insertInto('aliases').values(aliasRow(alias)).compile() },
        changed('alias', alias.arn),
      ])
    },
    async updateAlias(arn, targetKeyArn, updatedAt) {
      const set = { target_key_arn: targetKeyArn, updated_at: updatedAt }
      await write(`update alias ${arn}`, [one(sql.updateTable('aliases').set(set).where('arn', '=', arn).compile()), changed('alias', arn)])
    },
    async deleteAlias(arn) {
      await write(`delete alias ${arn}`, [one(sql.deleteFrom('aliases').where('arn', '=', arn).compile()), changed('alias', arn)])
    },
  }
}
