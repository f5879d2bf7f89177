/**
 * Every object that a store's service may have made in a token, by the rows that name them: those of keys, of unfinished keys, and of the service itself.
 * For who takes a whole service away again, such as the bench. Read while nobody writes. Synchronous, for command-line programs only.
 */

import { existsSync } from 'node:fs'
import { openSqliteFile } from './sqlite-file.ts'

export interface NamedObject {
  /** CKA_ID in hex. */
  readonly ckaId: string
  readonly label: string
}

/** None where there is no database yet. */
export function objectsNamedIn(file: string): readonly NamedObject[] {
  if (!existsSync(file)) return []
  const database = openSqliteFile(file)
  try {
    const tables = database.prepare("SELECT count(*) AS tables FROM sqlite_master WHERE name IN ('backing_keys', 'settings')").get() as {
      readonly tables: number
    }
    // A start that was stopped before it had made the tables has made no object either.
    if (tables.tables < 2) return []
    const keys = database.prepare('SELECT cka_id AS ckaId, label FROM backing_keys').all() as readonly NamedObject[]
    const settings = database.prepare("SELECT value FROM settings WHERE name LIKE 'system-key/%'").all() as readonly {
      readonly value: string
    }[]
    const own = settings.flatMap(({ value }) => {
      const { key, candidates } = JSON.parse(value) as { readonly key?: NamedObject; readonly candidates?: readonly NamedObject[] }
      return [...(key ? [key] : []), ...(candidates ?? [])]
    })
    return [...keys, ...own].map(({ ckaId, label }) => ({ ckaId, label }))
  } finally {
    database.close()
  }
}
