/**
 * The audit trail: one CloudTrail-shaped record per call, durable before the call's answer leaves, chained by hashes
 * and sealed at intervals by a signature made in the HSM. Opened by `openTrail` in `open.ts`. Format: docs/audit-format.md.
 */

/** A record as CloudTrail shapes it; serialised once, hashed and stored as those bytes. */
export type AuditRecord = Readonly<Record<string, unknown>> & {
  readonly eventID: string
  readonly eventName: string
  readonly eventSource: string
  /** ISO 8601, seconds, `Z`. */
  readonly eventTime: string
  readonly readOnly: boolean
  readonly awsRegion: string
  readonly recipientAccountId: string
}

export interface LookupQuery {
  readonly accountId: string
  readonly region: string
  readonly attribute?: {
    readonly name: 'EventId' | 'EventName' | 'ReadOnly' | 'Username' | 'ResourceType' | 'ResourceName' | 'EventSource' | 'AccessKeyId'
    readonly value: string
  }
  readonly startMs?: number
  readonly endMs?: number
  /** Continue below this sequence number. */
  readonly before?: number
  readonly limit: number
}

export interface LookupPage {
  /** Newest first. */
  readonly events: readonly { readonly sequence: number; readonly record: AuditRecord }[]
  readonly next: number | undefined
}

export interface Trail {
  /** Resolves when the record is durable (group commit). Rejects when it cannot be: the call must then fail. */
  append(record: AuditRecord): Promise<void>
  lookup(query: LookupQuery): Promise<LookupPage>
  /** Records waiting to become durable: for metrics. */
  pending(): number
  /** Of all processes on the file: records that no seal covers yet, and when the last seal was made (ms since the epoch). */
  sealed(): Promise<{ readonly unsealed: number; readonly lastSealMs: number | undefined }>
  /** Seals what is not sealed yet; called at intervals and on close. */
  seal(): Promise<void>
  /**
   * Retention: removes the records up to the newest seal made before `beforeMs`, leaving a signed statement that says so.
   * Answers how many went, and up to which sequence number records are gone now.
   */
  prune(beforeMs: number): Promise<{ readonly records: number; readonly sequence: number }>
  close(): Promise<void>
}
