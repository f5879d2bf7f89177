/**
 * The audit trail's tables: records with their chain hashes, seals, the public keys that verify them, and per block of
 * records a filter that says which lookups need not read it. A file of its own, so that audit commits never wait for
 * key writes.
 *
 * Synchronous, for the trail's threads and for command-line programs. Knows SQL and order; what a hash or a seal means is
 * `src/audit`'s. Only ever appends, but for `removeRecords`, which retention calls after it has sealed what it removes.
 */

import type { Database } from 'better-sqlite3'
import { openSqliteFile, openSqliteFileReadOnly } from './sqlite-file.ts'

/** The end of the chain: the newest record's number and hash. */
export interface Head {
  readonly sequence: number
  readonly hash: Uint8Array
}

export interface StoredRecord extends Head {
  readonly text: string
}

export interface StoredSeal {
  /** 1, 2, 3 … over both kinds. */
  readonly number: number
  /** `seal`: the chain up to `sequence`. `prune`: records up to `sequence` were removed on purpose. */
  readonly kind: 'seal' | 'prune'
  readonly sequence: number
  readonly hash: Uint8Array
  readonly timeMs: number
  /** SHA-256 of the public key, hex. */
  readonly keyId: string
  readonly algorithm: string
  readonly signature: Uint8Array
}

export interface StoredKey {
  readonly keyId: string
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: Uint8Array
}

/** What is known of one block of records without reading it. */
export interface StoredBlock {
  readonly number: number
  readonly minMs: number
  readonly maxMs: number
  readonly filter: Uint8Array
}

export interface AuditLogReader {
  /** 32 hex characters, chosen at random when the trail was made. */
  readonly trailId: string
  /** Runs on one snapshot of the database. */
  snapshot<T>(read: () => T): T
  /** Undefined while no record was ever appended. After pruning everything: where the chain goes on. */
  head(): Head | undefined
  firstSequence(): number | undefined
  /** From low to high, at most `limit`. */
  records(from: number, to: number, limit?: number): IterableIterator<StoredRecord>
  /** From high to low; without hashes, for lookups. */
  recordsDown(from: number, to: number): IterableIterator<{ readonly sequence: number; readonly text: string }>
  /** By number. */
  seals(): readonly StoredSeal[]
  /** The newest of kind `seal`. */
  lastSeal(): StoredSeal | undefined
  /** The highest number of either kind; 0 when there is none. */
  lastNumber(): number
  /** The newest of kind `seal` that was made at or before `timeMs`. */
  sealAt(timeMs: number): StoredSeal | undefined
  keys(): readonly StoredKey[]
  block(number: number): StoredBlock | undefined
  close(): void
}

export interface AuditLog extends AuditLogReader {
  /**
   * Appends records in one transaction, durable on return. `hash` is given the newest record's head (undefined on an
   * empty trail) or the last hash it made itself, so that two processes extend one chain.
   */
  append(texts: readonly string[], hash: (previous: Head | undefined, text: string) => Uint8Array): Head
  /** False when the number is taken: another process sealed. */
  insertSeal(seal: StoredSeal, key: StoredKey): boolean
  insertBlock(block: StoredBlock): void
  /** Removes up to `limit` records at or below `sequence` and, with the last of them, the blocks and seals that only they needed; answers how many records. */
  removeRecords(sequence: number, limit: number, recordsPerBlock: number): number
}

/** The tables' version; a file with a higher one is refused. */
const format = 1

/** Holds a dozen records. In pages of 4096 only three fit, with a fifth of the page left empty, and a commit writes half as much again. */
const pageBytes = 16_384

const tables = `
  CREATE TABLE IF NOT EXISTS trail (id INTEGER PRIMARY KEY, trail_id TEXT NOT NULL, format INTEGER NOT NULL, created_at BIGINT NOT NULL);
  CREATE TABLE IF NOT EXISTS records (sequence INTEGER PRIMARY KEY, hash BLOB NOT NULL, record TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS seals (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, sequence BIGINT NOT NULL, hash BLOB NOT NULL, time_ms BIGINT NOT NULL,
    key_id TEXT NOT NULL, algorithm TEXT NOT NULL, signature BLOB NOT NULL
  );
  CREATE TABLE IF NOT EXISTS public_keys (key_id TEXT PRIMARY KEY, spki BLOB NOT NULL);
  CREATE TABLE IF NOT EXISTS blocks (number INTEGER PRIMARY KEY, min_ms BIGINT NOT NULL, max_ms BIGINT NOT NULL, filter BLOB NOT NULL);
`

/**
 * Opens the trail's file, making it if it is missing.
 * @param fresh what a new trail is called and when it was made; ignored for one that exists.
 */
export function openAuditLog(file: string, fresh: { readonly trailId: string; readonly nowMs: number }): AuditLog {
  const database = openSqliteFile(file, pageBytes)
  try {
    database
      .transaction(() => {
        database.exec(tables)
        database
          .prepare('INSERT INTO trail (id, trail_id, format, created_at) VALUES (1, ?, ?, ?) ON CONFLICT DO NOTHING')
          .run(fresh.trailId, format, fresh.nowMs)
      })
      .immediate()
    return writer(database)
  } catch (error) {
    database.close()
    throw error
  }
}

/** Opens an existing trail for reading only, also while a service appends to it: all reads until `close` are of one moment. */
export function openAuditLogReadOnly(file: string): AuditLogReader {
  const database = openSqliteFileReadOnly(file)
  try {
    database.exec('BEGIN')
    return reader(database)
  } catch (error) {
    database.close()
    throw error
  }
}

function reader(database: Database): AuditLogReader {
  const trail = database.prepare('SELECT trail_id AS trailId, format FROM trail WHERE id = 1').get() as
    | { readonly trailId: string; readonly format: number }
    | undefined
  if (!trail) throw new Error(`${database.name} holds no audit trail`)
  if (trail.format > format)
    throw new Error(
      `${database.name} was written by a newer version of this program (trail format ${trail.format}, this one knows ${format})`,
    )

  const sealColumns = 'number, kind, sequence, hash, time_ms AS timeMs, key_id AS keyId, algorithm, signature'
  const statements = {
    head: database.prepare('SELECT sequence, hash FROM records ORDER BY sequence DESC LIMIT 1'),
    // What was pruned to the last record goes on from the statement that says so.
    pruned: database.prepare("SELECT sequence, hash FROM seals WHERE kind = 'prune' ORDER BY sequence DESC LIMIT 1"),
    first: database.prepare('SELECT min(sequence) FROM records').pluck(),
    up: database.prepare('SELECT sequence, hash, record AS text FROM records WHERE sequence BETWEEN ? AND ? ORDER BY sequence LIMIT ?'),
    down: database.prepare('SELECT sequence, record AS text FROM records WHERE sequence BETWEEN ? AND ? ORDER BY sequence DESC'),
    seals: database.prepare(`SELECT ${sealColumns} FROM seals ORDER BY number`),
    lastSeal: database.prepare(`SELECT ${sealColumns} FROM seals WHERE kind = 'seal' ORDER BY number DESC LIMIT 1`),
    lastNumber: database.prepare('SELECT coalesce(max(number), 0) FROM seals').pluck(),
    sealAt: database.prepare(`SELECT ${sealColumns} FROM seals WHERE kind = 'seal' AND time_ms <= ? ORDER BY number DESC LIMIT 1`),
    keys: database.prepare('SELECT key_id AS keyId, spki FROM public_keys ORDER BY key_id'),
    block: database.prepare('SELECT number, min_ms AS minMs, max_ms AS maxMs, filter FROM blocks WHERE number = ?'),
  }
  return {
    trailId: trail.trailId,
    snapshot: (read) => database.transaction(read).deferred(),
    head: () => (statements.head.get() ?? statements.pruned.get()) as Head | undefined,
    firstSequence: () => (statements.first.get() as number | null) ?? undefined,
    records: (from, to, limit = -1) => statements.up.iterate(from, to, limit) as IterableIterator<StoredRecord>,
    recordsDown: (from, to) => statements.down.iterate(from, to) as IterableIterator<StoredRecord>,
    seals: () => statements.seals.all() as StoredSeal[],
    lastSeal: () => statements.lastSeal.get() as StoredSeal | undefined,
    lastNumber: () => statements.lastNumber.get() as number,
    sealAt: (timeMs) => statements.sealAt.get(timeMs) as StoredSeal | undefined,
    keys: () => statements.keys.all() as StoredKey[],
    block: (number) => statements.block.get(number) as StoredBlock | undefined,
    close: () => database.close(),
  }
}

function writer(database: Database): AuditLog {
  const log = reader(database)
  const begin = database.prepare('BEGIN IMMEDIATE')
  const commit = database.prepare('COMMIT')
  const rollback = database.prepare('ROLLBACK')
  const version = database.prepare('PRAGMA data_version').pluck()
  const insert = database.prepare('INSERT INTO records (sequence, hash, record) VALUES (?, ?, ?)')
  const insertSeal = database.prepare(
    'INSERT INTO seals (number, kind, sequence, hash, time_ms, key_id, algorithm, signature) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
  )
  const insertKey = database.prepare('INSERT INTO public_keys (key_id, spki) VALUES (?, ?) ON CONFLICT DO NOTHING')
  const insertBlock = database.prepare('INSERT INTO blocks (number, min_ms, max_ms, filter) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING')
  const remove = database.prepare(
    'DELETE FROM records WHERE sequence IN (SELECT sequence FROM records WHERE sequence <= ? ORDER BY sequence LIMIT ?)',
  )
  const removeBlocks = database.prepare('DELETE FROM blocks WHERE (number + 1) * ? - 1 <= ?')
  // By number, not by sequence: earlier `prune` statements lie between the seals that stay, and numbers must have no gap.
  const removeSeals = database.prepare(
    "DELETE FROM seals WHERE number < (SELECT min(number) FROM seals WHERE kind = 'seal' AND sequence >= ?)",
  )

  // The head as of `seen`; read again only when another connection has committed since.
  let head: Head | undefined
  let seen: unknown

  return {
    ...log,
    append(texts, hash) {
      begin.run()
      try {
        const now = version.get()
        if (now !== seen) {
          head = log.head()
          seen = now
        }
        let last = head
        for (const text of texts) {
          const next = { sequence: (last?.sequence ?? 0) + 1, hash: hash(last, text) }
          insert.run(next.sequence, next.hash, text)
          last = next
        }
        commit.run()
        if (!last) throw new Error('nothing to append')
        head = last
        return last
      } catch (error) {
        if (database.inTransaction) rollback.run()
        seen = undefined
        throw error
      }
    },
    insertSeal: (seal, key) =>
      database
        .transaction(() => {
          insertKey.run(key.keyId, key.spki)
          const { number, kind, sequence, hash, timeMs, keyId, algorithm, signature } = seal
          return insertSeal.run(number, kind, sequence, hash, timeMs, keyId, algorithm, signature).changes === 1
        })
        .immediate(),
    insertBlock({ number, minMs, maxMs, filter }) {
      insertBlock.run(number, minMs, maxMs, filter)
    },
    removeRecords: (sequence, limit, recordsPerBlock) =>
      database
        .transaction(() => {
          const removed = remove.run(sequence, limit).changes
          if (removed < limit) {
            removeBlocks.run(recordsPerBlock, sequence)
            removeSeals.run(sequence)
          }
          seen = undefined
          return removed
        })
        .immediate(),
  }
}
