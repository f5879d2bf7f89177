/** What the store asks of its SQLite thread. */

/** What the thread is started with. */
export interface SqliteThreadData {
  readonly file: string
  readonly readOnly: boolean
}

export interface WireStatement {
  readonly sql: string
  readonly parameters: readonly unknown[]
  /** As in `Step.rows`. */
  readonly rows?: number
}

/** Answered with each statement's rows; `watch` with nothing, and from then on with notices. */
export type SqliteRequest =
  | { readonly kind: 'read' | 'write'; readonly statements: readonly WireStatement[] }
  | { readonly kind: 'watch'; readonly everyMs: number; readonly probe: string }

/** The code of the error that stands for a StoreConflict. */
export const conflictCode = 'CONFLICT'
