/** What the commands need from the rest of the house. `main.ts` provides it, so that no command loads a store or a token it does not use. */

import type { Readable } from 'node:stream'
import type { ProfileCredentials } from './credentials-file.ts'

/** Where and as whom the administrative commands call. */
export interface ClientSettings {
  readonly endpoint: string
  /** It was not named, but found by the data directory: the service that runs here. */
  readonly isOwnService: boolean
  /** Home region: what requests are signed for. */
  readonly region: string
  /** From the environment, if it has a key and a secret. */
  readonly credentials: ProfileCredentials | undefined
  readonly credentialsFile: string
  /** Where AWS's own tools have it. */
  readonly awsCredentialsFile: string
  readonly profile: string
  /** For calls of KMS: AWS_REGION, else home. */
  readonly callRegion: string
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

export interface BenchOptions {
  readonly level: 'quick' | 'standard' | 'full'
  /** A directory; made if need be. */
  readonly output: string
  /** All unless told. */
  readonly parts?: readonly string[]
  readonly seconds?: number
  readonly rounds?: number
  readonly connections?: number
  readonly keys?: number
  readonly grants?: number
}

/** What a run of the bench has measured. */
export interface BenchShown {
  /** For a person. */
  readonly text: string
  /** All figures, as in the file. */
  readonly json: string
  /** The tables, for a document. */
  readonly markdown: string
}

/** What `holdfast xks doctor` is to look at. */
export interface XksDoctorOptions {
  readonly endpoint: URL
  readonly connectTo?: { readonly host: string; readonly port: number }
  /** XksProxyUriPath. */
  readonly path: string
  readonly region: string
  readonly credentials: ProfileCredentials
  readonly externalKeyId?: string
  /** PEM. */
  readonly ca?: string
  readonly client?: { readonly cert: string; readonly key: string }
  readonly calls: number
}

/** For `holdfast account root-key`. */
export interface RootKeyOptions {
  /** The configuration's unless given. */
  readonly accountId?: string
  /** In the credentials file. */
  readonly profile?: string
  /** Removes the keys that the root has. */
  readonly replace: boolean
}

/** The process's own, for commands that pass bytes through. */
export interface Streams {
  input(): Readable
  /** To standard output; the bytes may be used again when it resolves. @throws when nobody reads any more. */
  write(bytes: Uint8Array): Promise<void>
  outputIsTerminal(): boolean
  errorIsTerminal(): boolean
  /** Told by SIGINT or SIGTERM, until it is closed; a second one ends the program at once. */
  interruption(): { readonly signal: AbortSignal; close(): void }
}

export interface Wiring {
  /** Resolves when whoever reads has room for more. */
  print(text: string): Promise<void>
  printError(text: string): Promise<void>
  readonly streams: Streams
  /** All of standard input. */
  readInput(): Promise<string>
  nowMs(): number

  /** Runs the service until it is told to stop; answers the exit code. */
  serve(): Promise<number>
  /** Examines configuration, token and store. */
  doctor(): Promise<Examination>
  /** Holds the conversation of AWS KMS with a running XKS proxy. */
  xksDoctor(options: XksDoctorOptions): Promise<Examination>
  /** Makes an access key of an account's root on the service's host; says where it is. */
  rootKey(options: RootKeyOptions): Promise<string>
  clientSettings(): ClientSettings
  /** The configuration in force, as JSON. */
  effectiveConfig(): unknown
  /** The table of all settings, in Markdown. */
  settingsTable(): string
  /** The file of the audit trail. */
  readonly auditTrail: () => string
  /**
   * Runs the bench, writes its report and figures, has them shown, and takes away what it made; what is being measured, and what could not be
   * taken away, is told on standard error. SIGINT or SIGTERM ends it, with what has been measured until then.
   *
   * @returns whether all of it was done
   */
  bench(options: BenchOptions, show: (run: BenchShown) => Promise<void>): Promise<boolean>
  /** Two files of figures side by side. */
  compareBenches(first: string, second: string): Promise<string>
}
