/** Policy documents, compiled once. */
export interface CompiledPolicy {
  readonly text: string
}
