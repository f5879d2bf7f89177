/**
 * Grants by the million, for measuring: written in SQL into the file of a store that may be in use, on the keys that it has, each for a grantee of
 * its own. A process that runs keeps none of them, and hears of none: they are as those that were there before it started.
 *
 * Synchronous, for command-line programs only.
 */

import { operationRows } from './grants.ts'
import { openSqliteFile } from './sqlite-file.ts'

/** So that who else writes waits for a moment only. */
const grantsPerWrite = 10_000

/** @param first how many there are of them already */
export function fillGrants(file: string, count: number, first = 0): void {
  const database = openSqliteFile(file)
  try {
    const keys = database.prepare('SELECT arn, region, account_id AS account FROM keys ORDER BY arn').all() as readonly {
      readonly arn: string
      readonly region: string
      readonly account: string
    }[]
    const [anyKey] = keys
    if (!anyKey) throw new Error('the store has no key to grant anything on')
    const insert = database.prepare(
      `INSERT INTO grants (grant_id, key_arn, region, grantee, issuing_account_id, operations, constraints, created_at, anchor)
       VALUES (?, ?, ?, ?, ?, '["Encrypt","Decrypt"]', '{}', 0, '')`,
    )
    const allowed = database.prepare(
      `INSERT INTO grant_operations (key_arn, grantee, needs, anchor, grant_id, passes)
       VALUES (:key_arn, :grantee, :needs, :anchor, :grant_id, :passes)`,
    )
    const counted = database.prepare(
      `INSERT INTO grant_counts (key_arn, grants) SELECT key_arn, count(*) FROM grants WHERE true GROUP BY key_arn
       ON CONFLICT (key_arn) DO UPDATE SET grants = excluded.grants`,
    )
    const write = database.transaction((from: number, to: number) => {
      for (let index = from; index < to; index++) {
        const { arn, region, account } = keys[index % keys.length] ?? anyKey
        const grantId = index.toString(16).padStart(64, '0')
        const grantee = `arn:aws:iam::${account}:role/filled-${index}`
        insert.run(grantId, arn, region, grantee, account)
        const grant = { grantId, keyArn: arn, grantee, granteeId: null, operations: ['Encrypt', 'Decrypt'], constraints: {} }
        for (const row of operationRows(grant)) allowed.run(row)
      }
    })
    const end = first + count
    for (let from = first; from < end; from += grantsPerWrite) write.immediate(from, Math.min(end, from + grantsPerWrite))
    database.transaction(() => counted.run()).immediate()
  } finally {
    database.close()
  }
}
