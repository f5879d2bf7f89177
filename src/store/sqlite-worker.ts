/**
 * The thread that owns the store's SQLite connection.
 *
 * Runs as a worker of `sqlite.ts`; takes lists of statements and answers in the order they came. Writes that wait
 * together share one transaction, each in a savepoint of its own, so that they share one fsync and still fail alone.
 * An answer to a write leaves only after COMMIT.
 */

import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import type { Database, Statement } from 'better-sqlite3'
import { openSqliteFile, openSqliteFileReadOnly } from './sqlite-file.ts'
import { conflictCode } from './sqlite-protocol.ts'
import type { SqliteRequest, SqliteThreadData, WireStatement } from './sqlite-protocol.ts'
import type { ThreadCall, ThreadWord } from './worker.ts'

interface Work {
  readonly id: number
  readonly statements: readonly WireStatement[]
}

/** More than this many writes in one transaction would let the first wait too long for the last. */
const writesPerCommit = 64

const port = parentPort
if (!port) throw new Error('sqlite-worker.ts runs as a worker thread only')

/** A conflict found by counting rows, not by a constraint. */
class RowCount extends Error {}

function serve(database: Database): void {
  const statements = new Map<string, Statement>()
  const prepare = (sql: string): Statement => {
    let statement = statements.get(sql)
    // The store's statements are a fixed set but for the CREATEs of a migration; the bound is a belt.
    if (statements.size > 500) statements.clear()
    if (!statement) statements.set(sql, (statement = database.prepare(sql)))
    return statement
  }
  const begin = { read: database.prepare('BEGIN'), write: database.prepare('BEGIN IMMEDIATE') }
  const commit = database.prepare('COMMIT')
  const rollback = database.prepare('ROLLBACK')

  const run = ({ sql, parameters, rows: expected }: WireStatement): readonly unknown[] => {
    const statement = prepare(sql)
    const rows = statement.reader ? statement.all(...parameters) : []
    const touched = statement.reader ? rows.length : statement.run(...parameters).changes
    if (expected !== undefined && touched !== expected) throw new RowCount(`${touched} rows where ${expected} were expected`)
    return rows
  }

  const read = (work: Work): ThreadWord => {
    try {
      begin.read.run()
      const answer = work.statements.map(run)
      commit.run()
      return { id: work.id, answer }
    } catch (error) {
      if (database.inTransaction) rollback.run()
      return failure(work.id, error)
    }
  }

  const write = (group: readonly Work[]): readonly ThreadWord[] => {
    try {
      begin.write.run()
      const answers = group.map((work): ThreadWord => {
        prepare('SAVEPOINT one').run()
        try {
          const answer = work.statements.map(run)
          prepare('RELEASE one').run()
          return { id: work.id, answer }
        } catch (error) {
          // A full disk or an I/O error has undone the whole transaction already: then all of the group failed.
          if (!database.inTransaction) throw error
          prepare('ROLLBACK TO one').run()
          prepare('RELEASE one').run()
          return failure(work.id, error)
        }
      })
      commit.run()
      return answers
    } catch (error) {
      if (database.inTransaction) rollback.run()
      return group.map((work) => failure(work.id, error))
    }
  }

  let watching: NodeJS.Timeout | undefined
  const watch = (everyMs: number, probe: string): void => {
    // data_version moves only when another connection commits, and reading it touches no page; the probe then tells
    // a change that the store follows from one that it does not (a heartbeat).
    const versionOf = (): unknown => database.pragma('data_version', { simple: true })
    const newest = (): unknown => database.prepare(probe).pluck().get()
    let version = versionOf()
    let last = newest()
    watching = setInterval(() => {
      try {
        const now = versionOf()
        if (now === version) return
        version = now
        const latest = newest()
        if (latest === last) return
        last = latest
        port?.postMessage({ notice: 'changed' } satisfies ThreadWord)
      } catch {
        // Locked or unreadable for a moment: the next tick asks again, and `ping` tells of a lasting fault.
      }
    }, everyMs)
  }

  port?.on('message', (first: ThreadCall<SqliteRequest>) => {
    const waiting = [first]
    while (waiting.length < writesPerCommit) {
      const more = receiveMessageOnPort(port)
      if (!more) break
      waiting.push(more.message as ThreadCall<SqliteRequest>)
    }
    for (let i = 0; i < waiting.length; i++) {
      const { id = 0, request } = waiting[i] ?? {}
      if (request?.kind === 'write') {
        const group: Work[] = [{ id, statements: request.statements }]
        for (let next = waiting[i + 1]; next?.request?.kind === 'write'; next = waiting[i + 1]) {
          group.push({ id: next.id, statements: next.request.statements })
          i++
        }
        for (const word of write(group)) port.postMessage(word)
      } else if (request?.kind === 'read') {
        port.postMessage(read({ id, statements: request.statements }))
      } else if (request?.kind === 'watch') {
        watch(request.everyMs, request.probe)
        port.postMessage({ id, answer: undefined } satisfies ThreadWord)
      } else {
        clearInterval(watching)
        database.close()
        port.close()
        return
      }
    }
  })
}

function failure(id: number, error: unknown): ThreadWord {
  const code = (error as { code?: string }).code ?? 'ERROR'
  const conflict = error instanceof RowCount || /^SQLITE_CONSTRAINT_(UNIQUE|PRIMARYKEY|FOREIGNKEY)$/.test(code)
  // SQLite's messages name tables and columns, never values.
  return { id, error: { code: conflict ? conflictCode : code, message: (error as Error).message } }
}

try {
  const { file, readOnly } = workerData as SqliteThreadData
  serve(readOnly ? openSqliteFileReadOnly(file) : openSqliteFile(file))
  port.postMessage({ opened: true } satisfies ThreadWord)
} catch (error) {
  port.postMessage({ refused: (error as Error).message } satisfies ThreadWord)
  port.close()
}
