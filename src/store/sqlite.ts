/**
 * The SQLite back end: compiles on this thread, runs in a worker (`sqlite-worker.ts`).
 *
 * Refuses work after its thread has ended, whatever the reason; the process then has no store and says so in `ping`.
 */

import { DummyDriver, Kysely, SqliteAdapter, SqliteIntrospector, SqliteQueryCompiler } from 'kysely'
import type { CompiledQuery } from 'kysely'
import type { Answers, Backend, Step } from './backend.ts'
import type { Tables } from './schema.ts'
import type { WireStatement, WorkerAnswer, WorkerRequest } from './sqlite-protocol.ts'
import { StoreConflict, StoreFailure } from './store.ts'
import { startWorker } from './worker.ts'

interface Waiting {
  readonly what: string
  readonly resolve: (rows: readonly (readonly unknown[])[]) => void
  readonly reject: (error: Error) => void
}

/** @param options.pollMs how often the thread looks for commits of other processes. */
export async function openSqlite(options: { readonly file: string; readonly pollMs: number }): Promise<Backend> {
  const { file, pollMs } = options
  const worker = startWorker(new URL('./sqlite-worker.ts', import.meta.url), { file })
  const waiting = new Map<number, Waiting>()
  let nextId = 1
  let ended: string | undefined
  let onChange: (() => void) | undefined
  let onOpen: ((refusal: string | undefined) => void) | undefined

  const end = (why: string): void => {
    ended ??= why
    onOpen?.(why)
    for (const { what, reject } of waiting.values()) reject(new StoreFailure(`${what}: ${ended}`, 'ENDED'))
    waiting.clear()
  }
  worker.on('message', (answer: WorkerAnswer) => {
    if ('id' in answer) {
      const one = waiting.get(answer.id)
      waiting.delete(answer.id)
      if ('rows' in answer) one?.resolve(answer.rows)
      else if (answer.failure === 'conflict') one?.reject(new StoreConflict(`${one.what}: ${answer.message}`))
      else one?.reject(new StoreFailure(`${one.what}: ${answer.message}`, answer.code))
    } else if ('changed' in answer) onChange?.()
    else onOpen?.('refused' in answer ? answer.refused : undefined)
  })
  worker.on('error', (error) => end(`the database thread failed: ${error.message}`))
  const exited = new Promise<void>((resolve) =>
    worker.once('exit', () => {
      end('the database is closed')
      resolve()
    }),
  )

  const post = (request: WorkerRequest): void => worker.postMessage(request, [])
  const send = (kind: 'read' | 'write', what: string, statements: readonly WireStatement[]): Promise<readonly (readonly unknown[])[]> => {
    if (ended !== undefined) return Promise.reject(new StoreFailure(`${what}: ${ended}`, 'ENDED'))
    const id = nextId++
    return new Promise((resolve, reject) => {
      waiting.set(id, { what, resolve, reject })
      post({ id, kind, statements })
    })
  }

  const refusal = await new Promise<string | undefined>((resolve) => (onOpen = resolve))
  onOpen = undefined
  if (refusal !== undefined) {
    await exited
    throw new StoreFailure(`cannot open ${file}: ${refusal}`, 'OPEN')
  }

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
    ...(rows === undefined ? {} : { rows }),
  })

  return {
    name: file,
    sql,
    types: { bytes: 'blob', sequence: 'integer' },
    async read<const Q extends readonly CompiledQuery[]>(queries: Q): Promise<Answers<Q>> {
      return (await send(
        'read',
        'read',
        queries.map((query) => wire(query)),
      )) as Answers<Q>
    },
    write: (what: string, steps: readonly Step[]) =>
      send(
        'write',
        what,
        steps.map(({ query, rows }) => wire(query, rows)),
      ),
    watch(listener) {
      onChange = listener
      post({
        kind: 'watch',
        everyMs: pollMs,
        probe: sql
          .selectFrom('changes')
          .select((eb) => eb.fn.max('seq').as('seq'))
          .compile().sql,
      })
    },
    async close() {
      if (ended === undefined) post({ kind: 'close' })
      await exited
    },
  }
}
