/**
 * Reads the configuration. A setting is taken from the environment, else from the file named by HOLDFAST_CONFIG, else from the table. All of it
 * is validated before anything starts; every problem is reported, each with what to write instead. Zero settings work: the defaults are a service
 * on this machine with a SoftHSM2 token of its own.
 *
 * This file alone reads `process.env`.
 */

import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { didYouMean } from '../base/closest.ts'
import { isRecord } from '../base/is-record.ts'
import { Expected, path, type Source } from './kinds.ts'
import { rows, settings, type Config, type Row } from './settings.ts'
import { problemsTogether } from './together.ts'

/** Everything that is wrong with the configuration; `message` is a list for the operator. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly problems: readonly string[]
  constructor(problems: readonly string[]) {
    super(
      `The configuration has ${problems.length} problem${problems.length === 1 ? '' : 's'}:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`,
    )
    this.problems = problems
  }
}

export type Environment = Readonly<Record<string, string | undefined>>

/**
 * Reads the configuration from the environment and the file it names.
 * @throws ConfigError with every problem.
 */
export function readConfig(
  environment: Environment = process.env,
  workingDir: string = process.cwd(),
): { config: Config; warnings: readonly string[] } {
  const problems: string[] = []
  const file = readConfigFile(environment['HOLDFAST_CONFIG'], workingDir, problems)
  const values = new Map<Row, unknown>()
  const whereOf = new Map<string, string>()
  for (const row of rows) {
    const name = row.path.join('.')
    const fromEnvironment = environment[row.setting.env]
    const fromFile = row.path.reduce<unknown>((at, member) => (isRecord(at) ? at[member] : undefined), file?.content)
    const useEnvironment = fromEnvironment !== undefined && fromEnvironment !== ''
    const value = useEnvironment ? fromEnvironment : (fromFile ?? undefined)
    const where = useEnvironment || !file ? row.setting.env : `"${name}" in ${file.path}`
    whereOf.set(name, where)
    const source: Source = { baseDir: useEnvironment || !file ? workingDir : dirname(file.path) }
    try {
      // A default path is relative to where the service is started, also when a file gives other settings.
      if (value !== undefined) values.set(row, row.setting.kind.read(value, source))
      else if (row.setting.fallback !== undefined && row.setting.kind === path)
        values.set(row, path.read(row.setting.fallback, { baseDir: workingDir }))
      else values.set(row, row.setting.fallback)
    } catch (error) {
      if (!(error instanceof Expected)) throw error
      problems.push(`${where} must be ${error.message}; it is ${JSON.stringify(value)}.`)
      values.set(row, row.setting.fallback)
    }
  }
  const config = assemble(values)
  problems.push(...problemsTogether(config, (name) => whereOf.get(name) ?? name))
  if (problems.length > 0) throw new ConfigError(problems)
  return { config, warnings: unknownVariables(environment) }
}

function assemble(values: ReadonlyMap<Row, unknown>): Config {
  const config: Record<string, unknown> = {}
  for (const [{ path: at }, value] of values) {
    const [section, member] = at as [string, string | undefined]
    if (member === undefined) config[section] = value
    else ((config[section] ??= {}) as Record<string, unknown>)[member] = value
  }
  return config as Config
}

function readConfigFile(
  named: string | undefined,
  workingDir: string,
  problems: string[],
): { path: string; content: Readonly<Record<string, unknown>> } | undefined {
  if (named === undefined || named === '') return undefined
  const file = resolve(workingDir, named)
  try {
    const content: unknown = JSON.parse(readFileSync(file, 'utf8'))
    if (!isRecord(content)) throw new Error('it must hold one JSON object')
    for (const [name, value] of Object.entries(content)) {
      const entry: unknown = Object.hasOwn(settings, name) ? settings[name as keyof typeof settings] : undefined
      if (entry === undefined) problems.push(`"${name}" in ${file} is not a setting.${didYouMean(name, Object.keys(settings))}`)
      else if (!isRecord(entry)) continue
      else if ('env' in entry) continue
      else if (!isRecord(value)) problems.push(`"${name}" in ${file} must be an object with any of ${Object.keys(entry).join(', ')}.`)
      else {
        for (const member of Object.keys(value)) {
          if (!Object.hasOwn(entry, member))
            problems.push(`"${name}.${member}" in ${file} is not a setting.${didYouMean(member, Object.keys(entry))}`)
        }
      }
    }
    return { path: file, content }
  } catch (error) {
    problems.push(`HOLDFAST_CONFIG names ${file}, which cannot be read: ${error instanceof Error ? error.message : String(error)}.`)
    return undefined
  }
}

/** A misspelt variable would be ignored in silence. A warning only: orchestrators add variables of their own (HOLDFAST_SERVICE_HOST). */
function unknownVariables(environment: Environment): readonly string[] {
  const known = ['HOLDFAST_CONFIG', ...rows.map((row) => row.setting.env)]
  return Object.keys(environment)
    .filter((name) => name.startsWith('HOLDFAST_') && !/^HOLDFAST_(?:TEST|REQUIRE)_/.test(name) && !known.includes(name))
    .map((name) => `${name} is not a setting and is ignored.${didYouMean(name, known)}`)
}

/** What a client of a running service may take from the environment, under the names the AWS tools use. */
export interface ClientEnvironment {
  readonly accessKeyId: string | undefined
  readonly secretAccessKey: string | undefined
  readonly sessionToken: string | undefined
  readonly credentialsFile: string | undefined
  readonly profile: string | undefined
  readonly endpoint: string | undefined
  readonly region: string | undefined
  /** PEM of authorities to trust besides the public ones. */
  readonly caFile: string | undefined
}

export function readClientEnvironment(environment: Environment = process.env): ClientEnvironment {
  const value = (name: string): string | undefined => environment[name] || undefined
  return {
    accessKeyId: value('AWS_ACCESS_KEY_ID'),
    secretAccessKey: value('AWS_SECRET_ACCESS_KEY'),
    sessionToken: value('AWS_SESSION_TOKEN'),
    credentialsFile: value('AWS_SHARED_CREDENTIALS_FILE'),
    profile: value('AWS_PROFILE'),
    endpoint: value('AWS_ENDPOINT_URL_KMS') ?? value('AWS_ENDPOINT_URL'),
    region: value('AWS_REGION') ?? value('AWS_DEFAULT_REGION'),
    caFile: value('AWS_CA_BUNDLE'),
  }
}

/**
 * The environment for a child process that loads a vendor's library: what that library may be configured by, without
 * anybody's AWS credentials.
 */
export function childEnvironment(environment: Environment = process.env): Readonly<Record<string, string>> {
  const kept = Object.entries(environment).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && !entry[0].startsWith('AWS_'),
  )
  return Object.fromEntries(kept)
}
