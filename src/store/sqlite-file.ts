/**
 * Opens SQLite files the way this house wants them: durable on commit, readable by nobody else.
 *
 * Runs in worker threads and command-line programs only, never on a server's event loop: better-sqlite3 is synchronous
 * and a commit waits for the disk.
 */

import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import Database from 'better-sqlite3'

/** How long a statement waits for another process's write transaction before it fails with SQLITE_BUSY. */
const busyTimeoutMs = 5_000

/**
 * Opens `file` for reading and writing, creating it (0600) and its directory (0700) if missing.
 * WAL: readers never wait for the writer. synchronous=FULL: COMMIT returns when the log is on the disk.
 * @param pageBytes of a file that is new; one that exists keeps its own.
 */
export function openSqliteFile(file: string, pageBytes = 4096): Database.Database {
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
  // Made here and not by SQLite, for the mode; its -wal and -shm then inherit it.
  closeSync(openSync(file, 'a', 0o600))
  chmodSync(file, 0o600)
  const database = new Database(file, { timeout: busyTimeoutMs })
  try {
    database.pragma(`page_size = ${pageBytes}`)
    enterWal(database)
    // The log is moved into the file at about 4 MB, whatever the page.
    database.pragma(`wal_autocheckpoint = ${Math.ceil((4 * 1024 * 1024) / pageBytes)}`)
    database.pragma('synchronous = FULL')
    database.pragma('foreign_keys = ON')
    return database
  } catch (error) {
    database.close()
    throw error
  }
}

/** Opens an existing file for reading only. */
export function openSqliteFileReadOnly(file: string): Database.Database {
  return new Database(file, { readonly: true, fileMustExist: true, timeout: busyTimeoutMs })
}

/**
 * The change to WAL needs the file for itself and does not wait its turn as statements do, so two processes that
 * start together on a new file may have to try again.
 */
function enterWal(database: Database.Database): void {
  for (let attempt = 1; ; attempt++) {
    try {
      const mode = database.pragma('journal_mode = WAL', { simple: true })
      if (mode !== 'wal') throw new Error(`SQLite cannot use write-ahead logging on ${database.name} (journal mode stays ${String(mode)})`)
      return
    } catch (error) {
      if (attempt === 100 || (error as { code?: unknown }).code !== 'SQLITE_BUSY') throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
    }
  }
}
