/** What the commands need from the rest of the house. `main.ts` provides it, so that no command loads a store or a token it does not use. */

import type { ProfileCredentials } from './credentials-file.ts'

/** Where and as whom the administrative commands call. */
export interface ClientSettings {
  readonly endpoint: string
  /** Home region: what requests are signed for. */
  readonly region: string
  /** From the environment, if it has a key and a secret. */
  readonly credentials: ProfileCredentials | undefined
  readonly credentialsFile: string
  readonly profile: string
  /** PEM of the certificate to trust besides the system's, where the endpoint is our own with TLS. */
  readonly trust: string | undefined
}

/** One line of `holdfast doctor`. */
export interface Finding {
  readonly area: string
  readonly name: string
  readonly outcome: 'ok' | 'missing' | 'problem'
  readonly detail: string
}

/** A defect of the audit trail, or none. */
export interface AuditVerdict {
  readonly intact: boolean
  readonly records: number
  readonly detail: readonly string[]
}

export interface ExportFilter {
  readonly fromMs?: number
  readonly toMs?: number
}

export interface Wiring {
  print(text: string): void
  printError(text: string): void
  /** All of standard input. */
  readInput(): Promise<string>
  nowMs(): number

  /** Runs the service until it is told to stop; answers the exit code. */
  serve(): Promise<number>
  /** Examines configuration, token and store. */
  doctor(): Promise<readonly Finding[]>
  clientSettings(): ClientSettings
  /** The configuration in force, as JSON. */
  effectiveConfig(): unknown
  /** The table of all settings, in Markdown. */
  settingsTable(): string
  /** Reads the whole trail of the database, with the service running or not. */
  auditVerify(): Promise<AuditVerdict>
  /** Hands over records oldest first, one JSON object each. */
  auditExport(filter: ExportFilter, write: (record: string) => Promise<void>): Promise<number>
  /** Measures this machine; arguments as given. */
  bench(options: { readonly seconds: number; readonly connections: number }): Promise<unknown>
}
