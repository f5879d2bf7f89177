/**
 * The configuration: one table that says, for every setting, its place in the JSON file, its environment variable,
 * what it accepts, its default and what it is for. The type, the reading, the messages and the README's table all
 * follow from it. This file alone reads `process.env`.
 *
 * A setting is taken from the environment, else from the file named by HOLDFAST_CONFIG, else from the table. All of it
 * is validated before anything starts; every problem is reported, each with what to write instead. Zero settings work:
 * the defaults are a service on this machine with a SoftHSM2 token of its own.
 */

import { accessSync, constants, readFileSync, statSync } from 'node:fs'
import { isIP } from 'node:net'
import { homedir } from 'node:os'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { closest } from './base/closest.ts'
import { logLevels } from './base/log.ts'
import { standardRates, standardResources, type RequestRates } from './kms/quotas.ts'
import { standardUsage } from './kms/usage.ts'

/** What one setting accepts: `read` takes a JSON value or an environment string and throws an Expected. */
interface Kind<T> {
  /** For the table: `integer 1–65535`. */
  readonly accepts: string
  read(value: unknown, from: Source): T
}

/** Relative paths in a file are relative to that file's folder; in the environment, to where the service is started. */
interface Source {
  readonly baseDir: string
}

interface Setting<T> {
  readonly env: string
  readonly kind: Kind<T>
  readonly fallback: T
  readonly about: string
}

/** Thrown by a kind: the sentence ends "must be …". */
class Expected extends Error {}

function setting<T>(env: string, kind: Kind<T>, fallback: NoInfer<T>, about: string): Setting<T> {
  return { env: `HOLDFAST_${env}`, kind, fallback, about }
}

const text = (accepts: string, pattern: RegExp): Kind<string> => ({
  accepts,
  read(value) {
    if (typeof value !== 'string' || !pattern.test(value)) throw new Expected(accepts)
    return value
  },
})

/** Absent unless set; an empty environment variable counts as not set. */
const orAbsent = <T>(kind: Kind<T>): Kind<T | undefined> => kind

const path: Kind<string> = {
  accepts: 'a path',
  read(value, from) {
    if (typeof value !== 'string' || value === '' || value.includes('\0')) throw new Expected('a path')
    const expanded = value.startsWith('~/') ? join(homedir(), value.slice(2)) : value
    return isAbsolute(expanded) ? expanded : resolve(from.baseDir, expanded)
  },
}

function integer(min: number, max: number, unit = ''): Kind<number> {
  const accepts = `a whole number${unit && ` of ${unit}`} from ${min} to ${max}`
  return {
    accepts,
    read(value) {
      const number = typeof value === 'number' ? value : typeof value === 'string' && /^-?\d{1,15}$/.test(value) ? Number(value) : NaN
      if (!Number.isSafeInteger(number) || number < min || number > max) throw new Expected(accepts)
      return number
    },
  }
}

/** US dollars. */
const price: Kind<number> = {
  accepts: 'a number from 0 to 1000000',
  read(value) {
    const number =
      typeof value === 'number' ? value : typeof value === 'string' && /^\d{1,7}(?:\.\d{1,9})?$/.test(value) ? Number(value) : NaN
    if (!(number >= 0 && number <= 1_000_000)) throw new Expected(this.accepts)
    return number
  },
}

const flag: Kind<boolean> = {
  accepts: 'true or false',
  read(value) {
    if (value === true || value === 'true' || value === '1') return true
    if (value === false || value === 'false' || value === '0') return false
    throw new Expected('true or false')
  },
}

function oneOf<const T extends string>(values: readonly T[]): Kind<T> {
  const accepts = `one of ${values.join(', ')}`
  return {
    accepts,
    read(value) {
      const found = values.find((allowed) => allowed === value)
      if (found === undefined) throw new Expected(accepts)
      return found
    },
  }
}

/** AWS's own names and whatever else has their form; the form is what clients' ARN patterns accept. */
const regionList: Kind<readonly string[]> = {
  accepts: 'a comma-separated list of region names such as eu-west-1, each once',
  read(value) {
    const names = typeof value === 'string' ? value.split(',').map((name) => name.trim()) : value
    const valid = (name: unknown): name is string =>
      typeof name === 'string' && /^[a-z][a-z0-9]*(-[a-z0-9]+)*-\d{1,2}$/.test(name) && name.length <= 32
    if (!Array.isArray(names) || names.length === 0 || !names.every(valid) || new Set(names).size !== names.length) {
      throw new Expected(this.accepts)
    }
    return names
  },
}

const host: Kind<string> = {
  accepts: 'an IP address or host name of this machine',
  read(value) {
    if (typeof value !== 'string') throw new Expected(this.accepts)
    const bare = value.replace(/^\[(.*)\]$/, '$1')
    if (isIP(bare) === 0 && !/^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/i.test(bare))
      throw new Expected(this.accepts)
    return bare
  },
}

/** `region=token`, comma-separated; in a file an object may stand in its place. */
const regionTokens: Kind<Readonly<Record<string, string>>> = {
  accepts: 'a list of region=token such as eu-west-1=frankfurt, or in a file an object of them',
  read(value) {
    const pairs =
      typeof value === 'string'
        ? value.split(',').map((pair) => pair.split('=').map((part) => part.trim()))
        : isRecord(value)
          ? Object.entries(value)
          : []
    const named = pairs.filter((pair): pair is [string, string] => pair.length === 2 && tokenName.test(String(pair[1])) && pair[0] !== '')
    if (named.length === 0 || named.length !== pairs.length || new Set(named.map(([region]) => region)).size !== named.length) {
      throw new Expected(this.accepts)
    }
    return Object.fromEntries(named)
  },
}

/** What a token is called in the configuration, in the database and in metrics. */
const tokenName = /^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$/

/** What `pkcs11` says of the token `default`, for a further one. */
export interface TokenSettings {
  readonly library: string
  readonly tokenLabel: string
  readonly tokenSerial: string | undefined
  readonly pinFile: string
  readonly profile: string | undefined
  readonly sessions: number | undefined
  readonly queueLength: number | undefined
  readonly deadlineMs: number | undefined
}

/** What a table of tokens asks of each. */
interface TokenTableRule {
  readonly accepts: string
  readonly needed: readonly (keyof TokenSettings)[]
  /** What the names must be, in words. */
  readonly names: string
  readonly fits: RegExp
  /** Says why a member has no place here. */
  readonly refused?: Readonly<Record<string, string>>
}

/** Tokens by name. Each member is read as the one of `pkcs11` that has its name. */
function tokenTableOf<T extends Partial<TokenSettings>>(rule: TokenTableRule): Kind<Readonly<Record<string, T>>> {
  return {
    accepts: rule.accepts,
    read(value, from) {
      const table = typeof value === 'string' ? parsedJson(value) : value
      if (!isRecord(table)) throw new Expected(this.accepts)
      return Object.fromEntries(
        Object.entries(table).map(([name, given]): [string, T] => {
          const refuse = (what: string): never => {
            throw new Expected(`${this.accepts}; in "${name}" ${what}`)
          }
          if (!rule.fits.test(name)) refuse(`the name must be ${rule.names}`)
          if (name === 'default') refuse('the name is taken: the token of that name is what pkcs11 describes')
          if (!isRecord(given)) return refuse('there must be an object')
          const read: Record<string, unknown> = {}
          for (const [member, text] of Object.entries(given)) {
            const row: Setting<unknown> | undefined = Object.hasOwn(settings.pkcs11, member)
              ? settings.pkcs11[member as keyof typeof settings.pkcs11]
              : undefined
            if (!row) return refuse(`${member} is not a setting.${hint(member, Object.keys(settings.pkcs11))}`)
            if (rule.refused && Object.hasOwn(rule.refused, member)) refuse(`${member} has no place: ${rule.refused[member]}`)
            try {
              read[member] = row.kind.read(text, from)
            } catch (error) {
              if (!(error instanceof Expected)) throw error
              refuse(`${member} must be ${error.message}`)
            }
          }
          for (const member of rule.needed) if (read[member] === undefined) refuse(`${member} is missing`)
          return [name, read as unknown as T]
        }),
      )
    },
  }
}

const tokenTable = tokenTableOf<TokenSettings>({
  accepts: 'a JSON object: names of tokens, each with library, tokenLabel, pinFile and whatever else `pkcs11` has',
  needed: ['library', 'tokenLabel', 'pinFile'],
  names: '1 to 64 letters, digits, dots, dashes and underscores',
  fits: tokenName,
})

/** A token that may become a custom key store: its PIN is the KeyStorePassword. */
export type KeyStoreTokenSettings = Omit<TokenSettings, 'pinFile'>

const keyStoreTokenTable = tokenTableOf<KeyStoreTokenSettings>({
  accepts: 'a JSON object: CloudHsmClusterIds, each with library, tokenLabel and whatever else `pkcs11` has but pinFile',
  needed: ['library', 'tokenLabel'],
  // AWS's own, which SDKs and the model keep to.
  names: '`cluster-` and 11 to 16 letters or digits from 2 to 7, as CloudHsmClusterId has them',
  fits: /^cluster-[2-7a-zA-Z]{11,16}$/,
  refused: { pinFile: 'the PIN is the KeyStorePassword of CreateCustomKeyStore' },
})

const hostName = /^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*$/

/** `name=host:port`, comma-separated; in a file an object may stand in its place. */
const connectTo: Kind<Readonly<Record<string, { readonly host: string; readonly port: number }>>> = {
  accepts: 'a list of name=host:port such as proxy.example.com=10.1.2.3:8443, or in a file an object of them',
  read(value) {
    const pairs =
      typeof value === 'string'
        ? value.split(',').map((pair) => pair.split('=').map((part) => part.trim()))
        : isRecord(value)
          ? Object.entries(value)
          : []
    const read = pairs.map((pair): [string, { host: string; port: number }] => {
      const [name, place] = pair
      const [, address = '', port = ''] = /^(.+):(\d{1,5})$/.exec(String(place)) ?? []
      const target = address.replace(/^\[(.*)\]$/, '$1')
      const fits = typeof name === 'string' && hostName.test(name) && (isIP(target) !== 0 || hostName.test(target))
      if (pair.length !== 2 || !fits || Number(port) < 1 || Number(port) > 65_535) throw new Expected(this.accepts)
      return [name.toLowerCase(), { host: target, port: Number(port) }]
    })
    if (read.length === 0 || new Set(read.map(([name]) => name)).size !== read.length) throw new Expected(this.accepts)
    return Object.fromEntries(read)
  },
}

const nameList: Kind<readonly string[]> = {
  accepts: 'a comma-separated list of names such as cks.kms.eu-west-1.amazonaws.com, each once',
  read(value) {
    const names = typeof value === 'string' ? value.split(',').map((name) => name.trim()) : value
    const valid = (name: unknown): name is string => typeof name === 'string' && /^[\x21-\x2b\x2d-\x7e]{1,253}$/.test(name)
    if (!Array.isArray(names) || names.length === 0 || !names.every(valid) || new Set(names).size !== names.length)
      throw new Expected(this.accepts)
    return names
  },
}

function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Principals by service. An object of lists in the file, `s3=arn:…,s3=arn:…` in the environment. */
const awsServices: Kind<Readonly<Record<string, readonly string[]>>> = {
  accepts: 'services and who they are, such as s3=arn:aws:iam::111122223333:role/storage, each user or role once',
  read(value) {
    const pairs =
      typeof value === 'string'
        ? value.split(',').map((entry) => entry.split('=', 2).map((part) => part.trim()))
        : isRecord(value)
          ? Object.entries(value).flatMap(([name, arns]) => (Array.isArray(arns) ? arns.map((arn: unknown) => [name, arn]) : [[name]]))
          : [[]]
    const services: Record<string, string[]> = {}
    const seen = new Set<string>()
    for (const [name, arn] of pairs) {
      const valid =
        typeof name === 'string' &&
        typeof arn === 'string' &&
        /^[a-z][a-z0-9-]{0,62}$/.test(name) &&
        /^arn:aws:iam::\d{12}:(?:user|role)\/[\w+=,.@/-]{1,512}$/.test(arn)
      if (!valid || seen.has(arn)) throw new Expected(this.accepts)
      seen.add(arn)
      ;(services[name] ??= []).push(arn)
    }
    return services
  },
}

/** Overrides of AWS's request quotas. An object in the file, `CreateKey=50,symmetric=20000` in the environment. */
const requestRates: Kind<'off' | RequestRates> = {
  accepts: `off, or requests a second by class such as CreateKey=50,symmetric=20000`,
  read(value) {
    if (value === 'off') return value
    const given =
      typeof value === 'string'
        ? value.split(',').map((entry) => entry.split('=', 2).map((part) => part.trim()) as [string, string | undefined])
        : isRecord(value)
          ? Object.entries(value)
          : []
    const rates = given.map(([name, rate]) => [name, typeof rate === 'string' && rate !== '' ? Number(rate) : rate] as const)
    const valid = ([name, rate]: readonly [string, unknown]): boolean =>
      Object.hasOwn(standardRates, name) && typeof rate === 'number' && rate > 0 && rate <= 1e9
    if (rates.length === 0 || !rates.every(valid)) throw new Expected(this.accepts)
    return Object.fromEntries(rates) as RequestRates
  },
}

const label = text('1 to 32 printable characters', /^[\x20-\x7e]{1,32}$/)

/** The table. A section is an object in the JSON file; the order is the README's. */
export const settings = {
  dataDir: setting('DATA_DIR', path, './data', 'Where the database, the credentials file and a SoftHSM2 token of our own live.'),
  host: setting('HOST', host, '127.0.0.1', 'Address to listen on.'),
  port: setting('PORT', integer(0, 65535), 8480, 'Port of the KMS, STS and CloudTrail endpoint. 0 takes a free one.'),
  opsPort: setting('OPS_PORT', integer(0, 65535), 8481, 'Port of `/readyz` and `/metrics`. 0 takes a free one.'),
  opsHost: setting('OPS_HOST', orAbsent(host), undefined, 'Address for the operations port, where it is not `host`.'),
  accountId: setting(
    'ACCOUNT_ID',
    text('12 digits', /^\d{12}$/),
    '111122223333',
    'The account that is made at the first start; it stays the same afterwards.',
  ),
  regions: setting(
    'REGIONS',
    regionList,
    ['us-east-1', 'eu-west-1'],
    'Regions the endpoint answers for; the first is home. The caller chooses by the region it signs for.',
  ),
  regionTokens: setting(
    'REGION_TOKENS',
    regionTokens,
    {},
    'Which token of `tokens` keeps the keys of a region; `default` is the one of `pkcs11`. Where a region has none: `default`, but without a ' +
      'configured module a SoftHSM2 token of its own. A key stays in the token that it was made in.',
  ),
  tokens: setting(
    'TOKENS',
    tokenTable,
    {},
    'Further tokens by name, for regions: `{"frankfurt": {"library": …, "tokenLabel": …, "pinFile": …}}`, ' +
      'each with what `pkcs11` has. The names are kept with the keys: do not change them.',
  ),
  keyStoreTokens: setting(
    'KEY_STORE_TOKENS',
    keyStoreTokenTable,
    {},
    'Tokens that a custom key store of type AWS_CLOUDHSM may be, by CloudHsmClusterId: `{"cluster-abcdefghijk": {"library": …, "tokenLabel": …}}`, ' +
      'each with what `pkcs11` has but the PIN, which is the KeyStorePassword.',
  ),
  xks: {
    caFile: setting(
      'XKS_CA',
      orAbsent(path),
      undefined,
      'PEM certificates of authorities that proxies of external key stores may have theirs from, besides the public ones.',
    ),
    connectTo: setting(
      'XKS_CONNECT_TO',
      connectTo,
      {},
      'Where to connect for the host of an XksProxyUriEndpoint, instead of that host on port 443. Its certificate is still checked for the name of the endpoint.',
    ),
    deadlineMs: setting(
      'XKS_DEADLINE_MS',
      integer(50, 10_000, 'milliseconds'),
      250,
      'What one try of a call to the proxy of an external key store may take; the protocol says 250. There are two tries at most.',
    ),
  },
  xksProxy: {
    port: setting(
      'XKS_PROXY_PORT',
      orAbsent(integer(0, 65535)),
      undefined,
      'Port of the XKS proxy, by which AWS KMS uses keys of this service as external keys; AWS calls port 443. 0 takes a free one. Absent: there is none.',
    ),
    host: setting('XKS_PROXY_HOST', orAbsent(host), undefined, 'Address for the XKS proxy, where it is not `host`.'),
    certFile: setting(
      'XKS_PROXY_TLS_CERT',
      orAbsent(path),
      undefined,
      'PEM certificate chain for the XKS proxy, whose host name AWS checks. Absent: that of `tls`.',
    ),
    keyFile: setting('XKS_PROXY_TLS_KEY', orAbsent(path), undefined, 'PEM private key of that certificate. SIGHUP reads both again.'),
    clientCaFile: setting(
      'XKS_PROXY_CLIENT_CA',
      orAbsent(path),
      undefined,
      'PEM certificates of authorities: with it, and `clientNames`, only clients with a certificate of theirs are spoken with. AWS has deprecated it.',
    ),
    clientNames: setting(
      'XKS_PROXY_CLIENT_NAMES',
      orAbsent(nameList),
      undefined,
      'Whom a client certificate must be for, by a DNS name of its subjectAltName or its common name: `cks.kms.<region>.amazonaws.com` is AWS KMS.',
    ),
    deadlineMs: setting(
      'XKS_PROXY_DEADLINE_MS',
      integer(50, 10_000, 'milliseconds'),
      200,
      'When a call to the XKS proxy must be answered, from its first byte; AWS KMS waits for 250, the network included.',
    ),
    maxCalls: setting(
      'XKS_PROXY_MAX_CALLS',
      integer(1, 4096),
      64,
      'Calls to the XKS proxy at work at once; others wait, stores taking turns, for half of the deadline at most (then ThrottlingException).',
    ),
  },
  awsServices: setting(
    'AWS_SERVICES',
    awsServices,
    {},
    'Users and roles that count as services of AWS: the key `alias/aws/<service>` is theirs, and `kms:ViaService` says so for their calls.',
  ),
  logLevel: setting('LOG_LEVEL', oneOf(logLevels), 'info', 'Lines below it are not written.'),
  processes: setting(
    'PROCESSES',
    orAbsent(integer(1, 64)),
    undefined,
    'API processes on the ports, each with sessions of its own on every token. Absent: one less than there are processors, and one with SoftHSM2, whose processes at times do not see the keys that others make.',
  ),
  pkcs11: {
    library: setting(
      'PKCS11_LIBRARY',
      orAbsent(path),
      undefined,
      "The HSM vendor's PKCS#11 module. Absent: SoftHSM2 with a token in `dataDir`.",
    ),
    tokenLabel: setting('PKCS11_TOKEN_LABEL', orAbsent(label), undefined, 'Which token, by its label.'),
    tokenSerial: setting(
      'PKCS11_TOKEN_SERIAL',
      orAbsent(text('1 to 16 printable characters', /^[\x20-\x7e]{1,16}$/)),
      undefined,
      'Which token, by its serial number; decides between tokens of one label.',
    ),
    pinFile: setting(
      'PKCS11_PIN_FILE',
      orAbsent(path),
      undefined,
      "File with the user PIN (first line); refused when everyone may read it. `user:password` where the vendor's PIN has that form.",
    ),
    profile: setting(
      'PKCS11_PROFILE',
      orAbsent(text('a name, or the absolute path of a JSON file', /^(?:[a-z0-9-]{1,32}|\/.+\.json)$/)),
      undefined,
      'What to expect of the device: a name from `native-config/`, or a file of the same form. Absent: recognised by the token.',
    ),
    sessions: setting('PKCS11_SESSIONS', orAbsent(integer(1, 256)), undefined, 'Sessions to work with. Absent: what the profile says.'),
    queueLength: setting(
      'PKCS11_QUEUE_LENGTH',
      integer(1, 1_000_000),
      4096,
      'Calls that may wait for the device; the next one is told to try again (ThrottlingException).',
    ),
    deadlineMs: setting(
      'PKCS11_DEADLINE_MS',
      integer(100, 600_000, 'milliseconds'),
      10_000,
      'How long one call to the device may take before its process is taken for hung and replaced.',
    ),
  },
  tls: {
    certFile: setting(
      'TLS_CERT',
      orAbsent(path),
      undefined,
      'PEM certificate chain. With it and `keyFile` both ports speak TLS 1.2 or later only.',
    ),
    keyFile: setting('TLS_KEY', orAbsent(path), undefined, 'PEM private key of that certificate. SIGHUP reads both again.'),
    allowPlainHttp: setting(
      'ALLOW_PLAIN_HTTP',
      flag,
      false,
      'Allows plain HTTP on an address other than loopback, where something in front speaks TLS.',
    ),
  },
  http: {
    maxBodyBytes: setting(
      'HTTP_MAX_BODY_BYTES',
      integer(65_536, 16_777_216, 'bytes'),
      1_048_576,
      'Largest request body; a longer one is refused before it is read.',
    ),
    maxConnections: setting('HTTP_MAX_CONNECTIONS', integer(1, 1_000_000), 10_000, 'Connections open at once; further ones are closed.'),
    maxConcurrentCalls: setting(
      'HTTP_MAX_CONCURRENT_CALLS',
      integer(1, 1_000_000),
      4096,
      'Calls under way at once; the next one is told to try again (ThrottlingException).',
    ),
    headersTimeoutMs: setting(
      'HTTP_HEADERS_TIMEOUT_MS',
      integer(100, 600_000, 'milliseconds'),
      10_000,
      'How long a request line and headers may take to arrive.',
    ),
    requestTimeoutMs: setting(
      'HTTP_REQUEST_TIMEOUT_MS',
      integer(100, 600_000, 'milliseconds'),
      30_000,
      'How long a whole request may take to arrive.',
    ),
    idleTimeoutMs: setting(
      'HTTP_IDLE_TIMEOUT_MS',
      integer(1000, 3_600_000, 'milliseconds'),
      120_000,
      'How long an idle connection is kept for its next request.',
    ),
    drainTimeoutMs: setting(
      'HTTP_DRAIN_TIMEOUT_MS',
      integer(0, 600_000, 'milliseconds'),
      20_000,
      'At the end, how long calls under way may take to finish.',
    ),
  },
  envelope: {
    maxStreams: setting(
      'ENVELOPE_MAX_STREAMS',
      integer(1, 10_000),
      32,
      'Streams of `/envelope/encrypt` and `/envelope/decrypt` at once, in each API process; the next one is told to try again (ThrottlingException). Each needs some MiB of memory, and up to 80 where frames have 16 MiB.',
    ),
    maxStreamsPerCaller: setting('ENVELOPE_MAX_STREAMS_PER_CALLER', integer(1, 10_000), 8, 'The same for one user or role session.'),
    idleTimeoutMs: setting(
      'ENVELOPE_IDLE_TIMEOUT_MS',
      integer(100, 600_000, 'milliseconds'),
      30_000,
      'How long nothing may move in a stream, in either direction, before it ends.',
    ),
    totalTimeoutMs: setting(
      'ENVELOPE_TOTAL_TIMEOUT_MS',
      integer(1000, 86_400_000, 'milliseconds'),
      3_600_000,
      'How long a stream may take in all.',
    ),
    threads: setting(
      'ENVELOPE_THREADS',
      orAbsent(integer(1, 256)),
      undefined,
      'Threads that encrypt and decrypt streams, in each API process. Absent: as many as there are processors.',
    ),
    cacheMaxAgeMs: setting(
      'ENVELOPE_CACHE_MAX_AGE_MS',
      orAbsent(integer(1, 86_400_000, 'milliseconds')),
      undefined,
      'How long a data key of a stream serves further messages of the same caller, keys and context. Absent: every message has its own.',
    ),
    cacheMaxMessages: setting('ENVELOPE_CACHE_MAX_MESSAGES', integer(1, 4_294_967_296), 1000, 'Messages under one such data key.'),
    cacheMaxBytes: setting(
      'ENVELOPE_CACHE_MAX_BYTES',
      integer(1, Number.MAX_SAFE_INTEGER, 'bytes'),
      68_719_476_736,
      'Plaintext under one such data key.',
    ),
    cacheCapacity: setting('ENVELOPE_CACHE_CAPACITY', integer(1, 1_000_000), 1000, 'Such data keys at once, in each API process.'),
  },
  audit: {
    sealIntervalMs: setting(
      'AUDIT_SEAL_INTERVAL_MS',
      integer(1000, 86_400_000, 'milliseconds'),
      60_000,
      'How often new audit records are sealed by a signature made in the HSM.',
    ),
    retentionDays: setting(
      'AUDIT_RETENTION_DAYS',
      orAbsent(integer(1, 36_500, 'days')),
      undefined,
      'How long audit records are kept. Absent: for ever.',
    ),
  },
  quotas: {
    requestRates: setting(
      'REQUEST_RATES',
      requestRates,
      {},
      "Requests a second that an account may make in a region, by class, where they are not AWS's published defaults (`src/kms/quotas.ts`); `off` limits nobody.",
    ),
    keys: setting('QUOTA_KEYS', integer(1, 100_000_000), standardResources.keys, 'KMS keys of an account in a region.'),
    aliasesPerKey: setting('QUOTA_ALIASES_PER_KEY', integer(1, 100_000), standardResources.aliasesPerKey, 'Aliases of a KMS key.'),
    grantsPerKey: setting('QUOTA_GRANTS_PER_KEY', integer(1, 100_000_000), standardResources.grantsPerKey, 'Grants of a KMS key.'),
    policyBytes: setting('QUOTA_POLICY_BYTES', integer(1024, 131_072, 'bytes'), standardResources.policyBytes, 'Length of a key policy.'),
    tagsPerKey: setting('QUOTA_TAGS_PER_KEY', integer(1, 1000), standardResources.tagsPerKey, 'Tags of a KMS key.'),
    customKeyStores: setting(
      'QUOTA_CUSTOM_KEY_STORES',
      integer(1, 10_000),
      standardResources.customKeyStores,
      'Custom key stores of an account in a region.',
    ),
    onDemandRotations: setting(
      'QUOTA_ON_DEMAND_ROTATIONS',
      integer(1, 10_000),
      standardResources.onDemandRotations,
      'How often a KMS key can be rotated on demand.',
    ),
  },
  lifecycle: {
    intervalMs: setting(
      'LIFECYCLE_INTERVAL_MS',
      integer(1000, 86_400_000, 'milliseconds'),
      60_000,
      'How often due work is looked for: keys whose waiting period has ended, rotations.',
    ),
  },
  usage: {
    flushIntervalMs: setting(
      'USAGE_FLUSH_INTERVAL_MS',
      integer(100, 3_600_000, 'milliseconds'),
      standardUsage.flushIntervalMs,
      'How often counted calls are written; a process that dies loses what it counted since.',
    ),
    retentionDays: setting(
      'USAGE_RETENTION_DAYS',
      integer(31, 36_500, 'days'),
      standardUsage.retentionDays,
      'How long counts by day are kept.',
    ),
    pricePerKeyMonth: setting(
      'USAGE_PRICE_KEY_MONTH',
      price,
      standardUsage.prices.keyMonth,
      'For the estimate of `holdfast usage`, in US dollars: a key for a month.',
    ),
    pricePerRequests: setting('USAGE_PRICE_REQUESTS', price, standardUsage.prices.requests.standard, 'The same for 10,000 requests.'),
    pricePerAsymmetricRequests: setting(
      'USAGE_PRICE_ASYMMETRIC_REQUESTS',
      price,
      standardUsage.prices.requests.asymmetric,
      'The same for 10,000 cryptographic requests on asymmetric keys other than RSA_2048.',
    ),
    pricePerEccKeyPairs: setting(
      'USAGE_PRICE_ECC_KEY_PAIRS',
      price,
      standardUsage.prices.requests.eccKeyPair,
      'The same for 10,000 data key pairs of elliptic curves.',
    ),
    pricePerRsaKeyPairs: setting(
      'USAGE_PRICE_RSA_KEY_PAIRS',
      price,
      standardUsage.prices.requests.rsaKeyPair,
      'The same for 10,000 data key pairs of RSA.',
    ),
  },
} as const satisfies Record<string, Setting<unknown> | Record<string, Setting<unknown>>>

type Read<Table> = { readonly [K in keyof Table]: Table[K] extends Setting<infer T> ? T : Read<Table[K]> }

/** The whole configuration, validated; paths are absolute. What each member means: `settings`. */
export type Config = Read<typeof settings>

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

interface Row {
  readonly path: readonly string[]
  readonly setting: Setting<unknown>
}

const rows: readonly Row[] = Object.entries(settings).flatMap(([name, entry]): Row[] =>
  'env' in entry
    ? [{ path: [name], setting: entry }]
    : Object.entries(entry).map(([inner, nested]) => ({ path: [name, inner], setting: nested as Setting<unknown> })),
)

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
      problems.push(`${where('regionTokens')} names the region ${region}, which is not served.${hint(region, config.regions)}`)
    }
    if (token !== 'default' && !Object.hasOwn(tokens, token)) {
      problems.push(
        `${where('regionTokens')} names the token ${token}, which is not in tokens.${hint(token, ['default', ...Object.keys(tokens)])}`,
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
      if (entry === undefined) problems.push(`"${name}" in ${file} is not a setting.${hint(name, Object.keys(settings))}`)
      else if (!isRecord(entry)) continue
      else if ('env' in entry) continue
      else if (!isRecord(value)) problems.push(`"${name}" in ${file} must be an object with any of ${Object.keys(entry).join(', ')}.`)
      else {
        for (const member of Object.keys(value)) {
          if (!Object.hasOwn(entry, member))
            problems.push(`"${name}.${member}" in ${file} is not a setting.${hint(member, Object.keys(entry))}`)
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
    .map((name) => `${name} is not a setting and is ignored.${hint(name, known)}`)
}

function hint(name: string, known: readonly string[]): string {
  const near = closest(name, known)
  return near === undefined ? '' : ` Did you mean ${near}?`
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
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

/** 127.0.0.0/8, ::1 and the name localhost. */
function isLoopback(address: string): boolean {
  return address === '::1' || address.toLowerCase() === 'localhost' || /^127\.\d+\.\d+\.\d+$/.test(address)
}

/** The README's table: every setting with its place in the file, its variable, what it accepts, its default and what it is for. */
export function settingsTable(): string {
  const cell = (value: string): string => value.replaceAll('|', '\\|')
  const fallback = (value: unknown): string =>
    value === undefined || (isRecord(value) && Object.keys(value).length === 0)
      ? ''
      : `\`${typeof value === 'string' ? value : Array.isArray(value) ? value.join(',') : JSON.stringify(value)}\``
  return [
    '| in the file | environment | default | accepts | what it is |',
    '|---|---|---|---|---|',
    ...rows.map(({ path: at, setting: { env, kind, fallback: value, about } }) =>
      [`| \`${at.join('.')}\``, `\`${env}\``, fallback(value), cell(kind.accepts), `${cell(about)} |`].join(' | '),
    ),
    '',
  ].join('\n')
}

/** Where things are in the data directory. */
export function placesIn(dataDir: string) {
  return {
    database: join(dataDir, 'holdfast.db'),
    auditTrail: join(dataDir, 'audit.db'),
    credentials: join(dataDir, 'credentials'),
    softhsm: join(dataDir, 'softhsm'),
    /** The SoftHSM2 token of a region other than home. */
    softhsmOf: (region: string) => join(dataDir, `softhsm-${region}`),
    /** Which SoftHSM2 tokens have been introduced to each other. */
    softhsmTrust: join(dataDir, 'softhsm-trust.json'),
    /** Where the running service listens: `{ url, opsUrl, xksUrl, pid }`. */
    endpoint: join(dataDir, 'endpoint.json'),
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
