/**
 * What the store needs of a database: compile queries, run a list of them as one transaction, hear of other writers.
 *
 * There are no interactive transactions: a transaction is a list of statements, each with the number of rows it must
 * touch, sent in one piece. So no lock is ever held while JavaScript decides something, and a back end over a thread
 * or a network pays one round trip per transaction.
 */

import type { CompiledQuery, Kysely } from 'kysely'
import type { Tables } from './schema.ts'

/** One statement of a write. */
export interface Step {
  readonly query: CompiledQuery
  /** How many rows it must change (or answer, if it answers rows). Anything else undoes the whole list. */
  readonly rows?: number
}

/** Each query's rows, in the order of the queries. */
export type Answers<Q extends readonly CompiledQuery[]> = {
  readonly [I in keyof Q]: Q[I] extends CompiledQuery<infer Row> ? readonly Row[] : never
}

/** Where the databases' SQL differs; everything else is the query builder's business. */
export interface ColumnTypes {
  readonly bytes: 'blob' | 'bytea'
  /** The sequence column of `changes`: assigned in the order in which transactions commit. */
  readonly sequence: 'integer' | 'bigint'
}

export interface Backend {
  /** Where the data is, for messages. */
  readonly name: string
  /** Builds and compiles queries; executing one through it does nothing. */
  readonly sql: Kysely<Tables>
  readonly types: ColumnTypes
  /** Runs queries on one snapshot. */
  read<const Q extends readonly CompiledQuery[]>(queries: Q): Promise<Answers<Q>>
  /**
   * Runs the steps as one transaction: durable when it resolves, nothing written when it throws.
   * @param what names the write in errors.
   * @returns each step's rows.
   * @throws StoreConflict on a name that exists, a reference to a row that does not, or an unexpected row count.
   */
  write(what: string, steps: readonly Step[]): Promise<readonly (readonly unknown[])[]>
  /** From when this resolves, calls `listener` soon after another process wrote; may call it for nothing. Once per back end. */
  watch(listener: () => void): Promise<void>
  close(): Promise<void>
}
