/** Where the checkout is, with a slash at its end. */
export const root: string

/** Something a person must do. */
export class Missing extends Error {}

export interface PackageManager {
  readonly command: string
  readonly refresh?: readonly string[]
  readonly install: readonly string[]
  readonly packages: Readonly<Record<'compiler' | 'softhsm' | 'others', readonly string[]>>
}
export const packageManagers: readonly PackageManager[]

export function checkNode(version?: string): void
export function findProgram(name: string): string | undefined
export function lockfileInstalled(folder: string, options: { readonly dev: boolean }): boolean
export function ownHeaders(): string | undefined
export function withInstallLock<T>(work: () => T, lock?: string): T
