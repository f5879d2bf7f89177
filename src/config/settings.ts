/**
 * The settings: one table that says, for each, its place in the JSON file, its environment variable, what it accepts, its default and what it is
 * for. The type, the reading (`read.ts`), the messages and the README's table all follow from it.
 */

import { isRecord } from '../base/is-record.ts'
import { logLevels } from '../base/log.ts'
import {
  awsServices,
  connectTo,
  flag,
  host,
  integer,
  keyStoreTokenTable,
  label,
  nameList,
  oneOf,
  orAbsent,
  path,
  price,
  regionList,
  regionTokens,
  requestRates,
  text,
  tokenTable,
  type Kind,
} from './kinds.ts'
import { standardResources } from '../kms/quotas.ts'
import { standardUsage } from '../kms/usage.ts'

interface Setting<T> {
  readonly env: string
  readonly kind: Kind<T>
  readonly fallback: T
  readonly about: string
}

function setting<T>(env: string, kind: Kind<T>, fallback: NoInfer<T>, about: string): Setting<T> {
  return { env: `HOLDFAST_${env}`, kind, fallback, about }
}

/** The token `default`; further ones have the same members. */
const pkcs11 = {
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
} as const

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
    tokenTable(pkcs11),
    {},
    'Further tokens by name, for regions: `{"frankfurt": {"library": …, "tokenLabel": …, "pinFile": …}}`, ' +
      'each with what `pkcs11` has. The names are kept with the keys: do not change them.',
  ),
  keyStoreTokens: setting(
    'KEY_STORE_TOKENS',
    keyStoreTokenTable(pkcs11),
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
    healthIntervalMs: setting(
      'XKS_HEALTH_INTERVAL_MS',
      integer(0, 86_400_000, 'milliseconds'),
      300_000,
      'How often the proxies of connected external key stores are asked for their health, for the metrics; looked at in each round of `lifecycle.intervalMs`. 0 for never.',
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
  pkcs11,
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
    maxConnections: setting(
      'HTTP_MAX_CONNECTIONS',
      integer(1, 1_000_000),
      10_000,
      'Connections open at once, on each port, of all API processes together. When nearly all are taken, those that have been idle longest are closed for new ones.',
    ),
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
      'How long a TLS handshake may take, and a request line with its headers to arrive.',
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
      'Threads that encrypt and decrypt streams, in each API process. Absent: one less than there are processors, and one at least.',
    ),
    bufferBytes: setting(
      'ENVELOPE_BUFFER_BYTES',
      integer(1, 4_294_967_296, 'bytes'),
      67_108_864,
      'What may be held of one signed message with `x-holdfast-buffer` until its signature is verified; a longer one is refused (RequestEntityTooLargeException).',
    ),
    totalBufferBytes: setting(
      'ENVELOPE_TOTAL_BUFFER_BYTES',
      integer(1, 1_099_511_627_776, 'bytes'),
      268_435_456,
      'The same of all of them together, in each API process; who has no room is told to try again (ThrottlingException).',
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

export interface Row {
  readonly path: readonly string[]
  readonly setting: Setting<unknown>
}

export const rows: readonly Row[] = Object.entries(settings).flatMap(([name, entry]): Row[] =>
  'env' in entry
    ? [{ path: [name], setting: entry }]
    : Object.entries(entry).map(([inner, nested]) => ({ path: [name, inner], setting: nested as Setting<unknown> })),
)

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
