/**
 * The SQLite back end: compiles on this thread, runs in a worker (`sqlite-worker.ts`).
 *
 * Refuses work after its thread has ended, whatever the reason; the process then has no store and says so in `ping`.
 */

import { DummyDriver, Kysely, SqliteAdapter, SqliteIntrospector, SqliteQueryCompiler } from 'kysely'
import type { CompiledQuery } from 'kysely'
import type { Answers, Backend } from './backend.ts'
import type { Tables } from './schema.ts'
import { conflictCode } from './sqlite-protocol.ts'
import type { SqliteRequest, SqliteThreadData, WireStatement } from './sqlite-protocol.ts'
import { StoreConflict, StoreFailure } from './store.ts'
import { openThread } from './worker.ts'

/**
 * @param options.pollMs how often the thread looks for commits of other processes.
 * @param options.readOnly the file must exist, and every write fails.
 */
export async function openSqlite(options: {
  readonly file: string
  readonly pollMs: number
  readonly readOnly?: boolean
}): Promise<Backend> {
  const { file, pollMs, readOnly = false } = options
  let onChange: (() => void) | undefined
  const program = new URL('./sqlite-worker.ts', import.meta.url)
  const thread = await openThread<SqliteRequest>(program, { file, readOnly } satisfies SqliteThreadData, `the database ${file}`, () =>
    onChange?.(),
  )

  const sql = new Kysely<Tables>({
    dialect: {
      createAdapter: () => new SqliteAdapter(),
      createDriver: () => new DummyDriver(),
      createIntrospector: (db) => new SqliteIntrospector(db),
      createQueryCompiler: () => new SqliteQueryCompiler(),
    },
  })
  const wire = (query: CompiledQuery, rows?: number): WireStatement => ({
    sql: query.sql,
    parameters: query.parameters,
    ...(rows !== undefined && { rows }),
  })
  const run = async (kind: 'read' | 'write', what: string, statements: readonly WireStatement[]) => {
    try {
      return (await thread.call({ kind, statements })) as readonly (readonly unknown[])[]
    } catch (error) {
      const { code, message } = error as StoreFailure
      throw code === conflictCode ? new StoreConflict(`${what}: ${message}`) : new StoreFailure(`${what}: ${message}`, code)
    }
  }

  return {
    name: file,
    sql,
    types: { bytes: 'blob', sequence: 'integer' },
    async read<const Q extends readonly CompiledQuery[]>(queries: Q): Promise<Answers<Q>> {
      const statements = queries.map((query) => wire(query))
      return (await run('read', 'read', statements)) as Answers<Q>
    },
    write: (what, steps) => {
      const statements = steps.map(({ query, rows }) => wire(query, rows))
      return run('write', what, statements)
    },
    async watch(listener) {
      onChange = listener
      const probe = sql.selectFrom('changes').select((eb) => eb.fn.max('seq').as('seq'))
      await thread.call({ kind: 'watch', everyMs: pollMs, probe: probe.compile().sql })
    },
    close: () => thread.close(),
  }
}
