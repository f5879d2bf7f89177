/** Aliases in the database. */

import type { Step } from './backend.ts'
import { aliasRow } from './schema.ts'
import { StoreConflict } from './store.ts'
import type { Aliases } from './store.ts'
import { one, type Writing } from './writing.ts'

export function openAliases({ sql, write, attempted, changed }: Writing): Aliases {
  /** Counted where nobody comes between. */
  const roomAt = (targetKeyArn: string, arn: string, most: number | undefined): readonly Step[] => {
    if (most === undefined) return []
    const others = sql.selectFrom('aliases').select('arn').where('target_key_arn', '=', targetKeyArn).where('arn', '!=', arn)
    return [
      {
        query: others
          .limit(1)
          .offset(most - 1)
          .compile(),
        rows: 0,
      },
    ]
  }
  return {
    async insertAlias(alias, most) {
      const done = await attempted(`insert alias ${alias.arn}`, [
        ...roomAt(alias.targetKeyArn, alias.arn, most),
        { query: sql.insertInto('aliases').values(aliasRow(alias)).compile() },
        changed('alias', alias.arn),
      ])
      if (!done) throw new StoreConflict(`insert alias ${alias.arn}: it exists, or its key has as many as it may, or is not there`)
    },
    async updateAlias(arn, targetKeyArn, updatedAt, most) {
      const set = { target_key_arn: targetKeyArn, updated_at: updatedAt }
      const done = await attempted(`update alias ${arn}`, [
        ...roomAt(targetKeyArn, arn, most),
        one(sql.updateTable('aliases').set(set).where('arn', '=', arn).compile()),
        changed('alias', arn),
      ])
      if (!done) throw new StoreConflict(`update alias ${arn}: it is gone, or its key has as many as it may, or is not there`)
    },
    async deleteAlias(arn) {
      await write(`delete alias ${arn}`, [one(sql.deleteFrom('aliases').where('arn', '=', arn).compile()), changed('alias', arn)])
    },
  }
}
