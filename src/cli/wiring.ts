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

/** What `holdfast doctor` found. */
export interface Examination {
  /** For a person. */
  readonly text: string
  /** For a script. */
  readonly report: unknown
  readonly healthy: boolean
}

export interface Wiring {
  /** Resolves when whoever reads has room for more. */
  print(text: string): Promise<void>
  printError(text: string): Promise<void>
  /** All of standard input. */
  readInput(): Promise<string>
  nowMs(): number

  /** Runs the service until it is told to stop; answers the exit code. */
  serve(): Promise<number>
  /** Examines configuration, token and store. */
  doctor(): Promise<Examination>
  clientSettings(): ClientSettings
  /** The configuration in force, as JSON. */
  effectiveConfig(): unknown
  /** The table of all settings, in Markdown. */
  settingsTable(): string
  /** The file of the audit trail. */
  readonly auditTrail: () => string
  /** Measures this machine with a service and a token of its own; with `grants`, what that many more of them cost. */
  bench(options: {
    readonly seconds: number
    readonly connections: number
    readonly grants?: number
    readonly keys?: number
  }): Promise<unknown>
}
