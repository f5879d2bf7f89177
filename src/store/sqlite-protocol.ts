/** What the store's main thread and its SQLite worker say to each other. */

export interface WireStatement {
  readonly sql: string
  readonly parameters: readonly unknown[]
  readonly rows?: number
}

export type WorkerRequest =
  | { readonly id: number; readonly kind: 'read' | 'write'; readonly statements: readonly WireStatement[] }
  | { readonly kind: 'watch'; readonly everyMs: number; readonly probe: string }
  | { readonly kind: 'close' }

export type WorkerAnswer =
  | { readonly id: number; readonly rows: readonly (readonly unknown[])[] }
  | { readonly id: number; readonly failure: 'conflict' | 'failed'; readonly code: string; readonly message: string }
  | { readonly changed: true }
  | { readonly opened: true }
  | { readonly refused: string }
