/**
 * Reads the configuration. A setting is taken from the environment, else from the file named by HOLDFAST_CONFIG, else from the table. All of it
 * is validated before anything starts; every problem is reported, each with what to write instead. Zero settings work: the defaults are a service
 * on this machine with a SoftHSM2 token of its own.
 *
 * This file alone reads `process.env`.
 */

import { accessSync, constants, readFileSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { didYouMean } from '../base/closest.ts'
import { isLoopback } from '../base/loopback.ts'
import { Expected, isRecord, path, type Source } from './kinds.ts'
import { rows, settings, type Config, type Row } from './settings.ts'

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
  checkTogether(config, (name) => whereOf.get(name) ?? name, problems)
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

/** What no single setting can see. */
function checkTogether(config: Config, where: (name: string) => string, problems: string[]): void {
  const { pkcs11, tls, tokens, regionTokens, keyStoreTokens, xks, xksProxy } = config
  if ((tls.certFile === undefined) !== (tls.keyFile === undefined)) {
    const missing = tls.certFile === undefined ? 'tls.certFile' : 'tls.keyFile'
    problems.push(`${where(missing)} is missing: TLS needs a certificate file and a key file. Set both, or neither.`)
  }
  if ((xksProxy.certFile === undefined) !== (xksProxy.keyFile === undefined)) {
    const missing = xksProxy.certFile === undefined ? 'xksProxy.certFile' : 'xksProxy.keyFile'
    problems.push(`${where(missing)} is missing: TLS needs a certificate file and a key file. Set both, or neither.`)
  }
  if ((xksProxy.clientCaFile === undefined) !== (xksProxy.clientNames === undefined)) {
    const missing = xksProxy.clientCaFile === undefined ? 'xksProxy.clientCaFile' : 'xksProxy.clientNames'
    problems.push(
      `${where(missing)} is missing: client certificates are checked for their authority and for their name. Set both, or neither.`,
    )
  }
  const xksHasTls = (xksProxy.certFile ?? tls.certFile) !== undefined
  if (xksProxy.clientCaFile !== undefined && !xksHasTls) {
    problems.push(
      `${where('xksProxy.clientCaFile')} is set, but the XKS proxy has no TLS: set HOLDFAST_XKS_PROXY_TLS_CERT and HOLDFAST_XKS_PROXY_TLS_KEY.`,
    )
  }
  const files = [
    { name: 'tls.certFile', file: tls.certFile, secret: false },
    { name: 'tls.keyFile', file: tls.keyFile, secret: true },
    { name: 'pkcs11.pinFile', file: pkcs11.pinFile, secret: true },
    { name: 'pkcs11.library', file: pkcs11.library, secret: false },
    { name: 'xks.caFile', file: xks.caFile, secret: false },
    { name: 'xksProxy.certFile', file: xksProxy.certFile, secret: false },
    { name: 'xksProxy.keyFile', file: xksProxy.keyFile, secret: true },
    { name: 'xksProxy.clientCaFile', file: xksProxy.clientCaFile, secret: false },
    ...Object.values(keyStoreTokens).map(({ library }) => ({ name: 'keyStoreTokens', file: library, secret: false })),
    ...Object.values(tokens).flatMap(({ pinFile, library }) => [
      { name: 'tokens', file: pinFile, secret: true },
      { name: 'tokens', file: library, secret: false },
    ]),
  ]
  for (const [region, token] of Object.entries(regionTokens)) {
    if (!config.regions.includes(region)) {
      problems.push(`${where('regionTokens')} names the region ${region}, which is not served.${didYouMean(region, config.regions)}`)
    }
    if (token !== 'default' && !Object.hasOwn(tokens, token)) {
      problems.push(
        `${where('regionTokens')} names the token ${token}, which is not in tokens.${didYouMean(token, ['default', ...Object.keys(tokens)])}`,
      )
    }
  }
  for (const { name, file, secret } of files) {
    if (file === undefined) continue
    const mode = readableFileMode(file)
    if (mode === undefined) problems.push(`${where(name)} names ${file}, which is not a file this process can read.`)
    else if (secret && (mode & 0o007) !== 0)
      problems.push(`${where(name)} names ${file}, which everybody on this machine may open: chmod 600 it.`)
  }
  if (isOpenToAll(config.dataDir)) {
    problems.push(
      `${where('dataDir')} is ${config.dataDir}, where everybody on this machine may put files in the place of ours: chmod o-w it, or choose another.`,
    )
  }
  for (const [name, address, hasTls] of [
    ['host', config.host, tls.certFile !== undefined],
    ['opsHost', config.opsHost, tls.certFile !== undefined],
    ['xksProxy.host', xksProxy.port === undefined ? undefined : xksProxy.host, xksHasTls],
  ] as const) {
    if (address === undefined || isLoopback(address) || hasTls || tls.allowPlainHttp) continue
    problems.push(
      `${where(name)} is ${address}: plain HTTP is for loopback only. Set HOLDFAST_TLS_CERT and HOLDFAST_TLS_KEY, ` +
        'or HOLDFAST_ALLOW_PLAIN_HTTP=true if something in front of it speaks TLS.',
    )
  }
  if (config.port !== 0 && config.port === config.opsPort && (config.opsHost ?? config.host) === config.host) {
    problems.push(`${where('opsPort')} is ${config.opsPort}, which is the main port: give it another one.`)
  }
  const taken = [
    ['the main port', config.port, config.host],
    ['the operations port', config.opsPort, config.opsHost ?? config.host],
  ] as const
  for (const [what, port, address] of taken) {
    if (xksProxy.port === undefined || xksProxy.port === 0 || xksProxy.port !== port || (xksProxy.host ?? config.host) !== address) continue
    problems.push(`${where('xksProxy.port')} is ${port}, which is ${what}: give it another one.`)
  }
  if (pkcs11.library === undefined) {
    for (const member of ['tokenSerial', 'pinFile'] as const) {
      if (pkcs11[member] === undefined) continue
      problems.push(`${where(`pkcs11.${member}`)} is set but no module is: set HOLDFAST_PKCS11_LIBRARY too, or remove it to use SoftHSM2.`)
    }
  } else {
    if (pkcs11.pinFile === undefined)
      problems.push(`${where('pkcs11.pinFile')} is missing: put the token's user PIN into a file of mode 0600 and name it here.`)
    if (pkcs11.tokenLabel === undefined) problems.push(`${where('pkcs11.tokenLabel')} is missing: say which token, by its label.`)
  }
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

/** The permission bits of a file this process may read; undefined when it is none. */
function readableFileMode(file: string): number | undefined {
  try {
    accessSync(file, constants.R_OK)
    const found = statSync(file)
    return found.isFile() ? found.mode & 0o777 : undefined
  } catch {
    return undefined
  }
}

/** A directory that is not there, or cannot be looked at, is somebody else's complaint. */
function isOpenToAll(directory: string): boolean {
  try {
    return (statSync(directory).mode & 0o002) !== 0
  } catch {
    return false
  }
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
