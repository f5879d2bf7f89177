/**
 * What one HSM product does differently, as data: a file in `native-config/` per product, each value with its reason
 * beside it. Code never asks which product it talks to; it reads the profile, and the agent then holds the profile
 * against the token's own mechanism list and a self-test, because both data sheets and mechanism flags can be wrong.
 *
 * Refuses a file with an unknown or missing field, a value out of range, or a value without a reason: every problem
 * is reported at once, each with the field and what to write instead.
 */
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { basename, isAbsolute } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isRecord } from '../base/is-record.ts'
import { wrapSchemes, type WrapScheme } from './token.ts'

/** Hashes of RSAES-OAEP, in node:crypto's spelling. The mask generation function uses the same hash. */
export const oaepHashNames = ['sha1', 'sha224', 'sha256', 'sha384', 'sha512'] as const
export type OaepHash = (typeof oaepHashNames)[number]

/** Patterns that must all match; an absent one matches anything. */
export interface ProfileMatch {
  /** Against CK_TOKEN_INFO.manufacturerID without its padding. */
  readonly manufacturer?: RegExp
  /** Against CK_TOKEN_INFO.model without its padding. */
  readonly model?: RegExp
  /** Against the path the library was loaded from. */
  readonly library?: RegExp
}

export interface ProviderProfile {
  readonly name: string
  /** The product as an operator knows it. */
  readonly product: string
  /** Alternatives; the profile fits when one of them does. */
  readonly match: readonly ProfileMatch[]
  /** Where the vendor's packages install the module, most usual first. */
  readonly libraryPaths: readonly string[]
  /** The scheme for new blobs. `probe`: the first of the schemes, in the order of `wrapSchemes`, that passes the self-test. */
  readonly wrap: WrapScheme | 'probe'
  /** The hash that the `rsa-oaep` scheme uses for new blobs. */
  readonly oaepHash: OaepHash
  /** The hashes for which the device does OAEP decryption itself. */
  readonly oaepHashes: readonly OaepHash[]
  /** The device does raw RSA (CKM_RSA_X_509), so that OAEP with another hash can be unpadded outside it. */
  readonly rawFallback: boolean
  /** The mechanism number that performs AES key wrap with padding (RFC 5649) here; null where there is none. */
  readonly kwp: number | null
  /** ECDH gives the raw shared secret (CKD_NULL). */
  readonly ecdhRawZ: boolean
  /** Length of the CKA_ID given to new keys. */
  readonly keyIdBytes: number
  readonly limits: {
    /** Sessions the agent opens, beside the one that keeps the login. */
    readonly sessions: number
    /** Token objects the product holds at most; null where only its memory is the limit. */
    readonly objects: number | null
    /** Bytes in one C_Encrypt, C_Decrypt or C_Sign call. */
    readonly singleOpBytes: number
  }
  readonly template: {
    /** CKA_ numbers never to send: this product refuses them even at their default. */
    readonly omit: readonly number[]
    /** CKA_ numbers that C_UnwrapKey ignores in its template and C_SetAttributeValue must set afterwards. */
    readonly setAfterUnwrap: readonly number[]
  }
  /** C_GenerateKey makes secret keys. Without it only key pairs can be generated. */
  readonly generate: boolean
  readonly errors: {
    /** CKR_ codes by which a decrypt or unwrap says that the input is bad, besides what the self-test finds. */
    readonly authFailed: readonly number[]
    /** CKR_ codes that mean the device is gone, besides those that mean it everywhere. */
    readonly gone: readonly number[]
  }
  /** A session may search while another one makes a token object. */
  readonly searchesDuringCreation: boolean
  /** Milliseconds to allow after a key was generated until every member of a cluster shows it. */
  readonly settleMs: number
  /** Environment variables the vendor's library must find in its process. The operator's own value wins. */
  readonly requiredEnv: Readonly<Record<string, string>>
  /** For operators: how the PIN file is written for this product. */
  readonly loginFormat: string
  /** The reason beside each value, by field name (`limits.sessions`). Starts with `Unverified` where nobody measured it. */
  readonly reasons: ReadonlyMap<string, string>
}

/** A profile that cannot be used. The message names the file, every bad field and the fix. */
export class ProfileError extends Error {
  override readonly name = 'ProfileError'
}

const profileDirectory = fileURLToPath(new URL('../../native-config/', import.meta.url))

type Fields = Readonly<Record<string, unknown>>

/** A reader turns a value into what the profile holds, or throws a sentence that says what was expected. */
type Reader<T> = (value: unknown) => T

class Expected extends Error {}

function expected(what: string): never {
  throw new Expected(what)
}

const text: Reader<string> = (value) => (typeof value === 'string' && value.trim() !== '' ? value : expected('a non-empty string'))

const flag: Reader<boolean> = (value) => (typeof value === 'boolean' ? value : expected('true or false'))

function integer(minimum: number, maximum: number): Reader<number> {
  return (value) =>
    typeof value === 'number' && Number.isInteger(value) && value >= minimum && value <= maximum
      ? value
      : expected(`an integer from ${minimum} to ${maximum}`)
}

/** PKCS#11 constants are 32 bits wide here; JSON has no hexadecimal, so that `"0x210A"` is accepted beside 8458. */
const constant: Reader<number> = (value) => {
  const number = typeof value === 'string' && /^0x[0-9a-fA-F]{1,8}$/.test(value) ? Number(value) : value
  return typeof number === 'number' && Number.isInteger(number) && number >= 0 && number <= 0xffffffff
    ? number
    : expected('a PKCS#11 number, written 8458 or "0x210A"')
}

function orNull<T>(read: Reader<T>): Reader<T | null> {
  return (value) => (value === null ? null : read(value))
}

function listOf<T>(read: Reader<T>): Reader<readonly T[]> {
  return (value) => (Array.isArray(value) ? value.map((item) => read(item)) : expected('a list'))
}

function oneOf<T extends string>(words: readonly T[]): Reader<T> {
  return (value) => words.find((word) => word === value) ?? expected(`one of ${words.join(', ')}`)
}

const pattern: Reader<RegExp> = (value) => {
  try {
    return new RegExp(text(value), 'i')
  } catch (error) {
    return expected(`a regular expression (${error instanceof Error ? error.message : 'unreadable'})`)
  }
}

const matchFields = ['manufacturer', 'model', 'library'] as const

const match: Reader<ProfileMatch> = (value) => {
  if (!isRecord(value)) return expected('an object with manufacturer, model or library')
  const unknown = Object.keys(value).find((key) => !matchFields.some((field) => field === key))
  if (unknown !== undefined) return expected(`only ${matchFields.join(', ')} in an alternative, not "${unknown}"`)
  return Object.fromEntries(matchFields.filter((field) => value[field] !== undefined).map((field) => [field, pattern(value[field])]))
}

const environment: Reader<Readonly<Record<string, string>>> = (value) => {
  if (!isRecord(value)) return expected('an object of environment variables')
  for (const [name, setting] of Object.entries(value)) {
    if (!/^[A-Za-z_]\w*$/.test(name) || typeof setting !== 'string') return expected('environment variables with string values')
  }
  return value as Readonly<Record<string, string>>
}

/** Takes the fields of one file apart and remembers everything that is wrong with them. */
class ProfileReader {
  readonly problems: string[] = []
  readonly reasons = new Map<string, string>()

  group(parent: Fields, path: string, known: readonly string[]): Fields {
    const value = path === '' ? parent : parent[path]
    if (!isRecord(value)) {
      this.problems.push(`${path}: missing; write an object with ${known.join(', ')}`)
      return {}
    }
    for (const key of Object.keys(value)) {
      if (!known.includes(key))
        this.problems.push(`${path === '' ? key : `${path}.${key}`}: unknown field; remove it (known: ${known.join(', ')})`)
    }
    return value
  }

  /** Reads `{ "value": …, "why": "…" }`. */
  value<T>(parent: Fields, path: string, read: Reader<T>): T {
    const entry = parent[path.slice(path.lastIndexOf('.') + 1)]
    const shape = 'write { "value": …, "why": "the reason" }'
    if (!isRecord(entry) || !('value' in entry)) {
      this.problems.push(`${path}: ${entry === undefined ? 'missing' : 'has no value'}; ${shape}`)
      return undefined as T
    }
    const extra = Object.keys(entry).find((key) => key !== 'value' && key !== 'why')
    if (extra !== undefined) this.problems.push(`${path}.${extra}: unknown field; ${shape}`)
    const why = entry['why']
    if (typeof why === 'string' && why.trim() !== '') this.reasons.set(path, why)
    else this.problems.push(`${path}.why: missing; say in a sentence why the value is what it is`)
    return this.plain(entry['value'], path, read)
  }

  plain<T>(value: unknown, path: string, read: Reader<T>): T {
    try {
      return read(value)
    } catch (error) {
      if (!(error instanceof Expected)) throw error
      this.problems.push(`${path}: expected ${error.message}, found ${JSON.stringify(value) ?? 'nothing'}`)
      return undefined as T
    }
  }
}

const topFields = [
  'name',
  'product',
  'match',
  'libraryPaths',
  'wrap',
  'oaepHash',
  'oaepHashes',
  'rawFallback',
  'kwp',
  'ecdhRawZ',
  'keyIdBytes',
  'limits',
  'template',
  'generate',
  'errors',
  'searchesDuringCreation',
  'settleMs',
  'requiredEnv',
  'loginFormat',
]

/**
 * Reads the JSON text of a profile. `file` is only for the message.
 * @throws ProfileError with every problem found
 */
export function parseProfile(json: string, file: string): ProviderProfile {
  let document: unknown
  try {
    document = JSON.parse(json)
  } catch (error) {
    throw new ProfileError(`HSM profile ${file} is not JSON: ${error instanceof Error ? error.message : 'unreadable'}`, { cause: error })
  }
  if (!isRecord(document)) throw new ProfileError(`HSM profile ${file} is not a JSON object`)

  const read = new ProfileReader()
  const top = read.group(document, '', topFields)
  const limits = read.group(top, 'limits', ['sessions', 'objects', 'singleOpBytes'])
  const template = read.group(top, 'template', ['omit', 'setAfterUnwrap'])
  const errors = read.group(top, 'errors', ['authFailed', 'gone'])
  const schemes = ['probe', ...(Object.keys(wrapSchemes) as WrapScheme[])] as const

  const profile: ProviderProfile = {
    name: read.plain(top['name'], 'name', text),
    product: read.plain(top['product'], 'product', text),
    match: read.value(top, 'match', listOf(match)),
    libraryPaths: read.value(top, 'libraryPaths', listOf(text)),
    wrap: read.value(top, 'wrap', oneOf(schemes)),
    oaepHash: read.value(top, 'oaepHash', oneOf(oaepHashNames)),
    oaepHashes: read.value(top, 'oaepHashes', listOf(oneOf(oaepHashNames))),
    rawFallback: read.value(top, 'rawFallback', flag),
    kwp: read.value(top, 'kwp', orNull(constant)),
    ecdhRawZ: read.value(top, 'ecdhRawZ', flag),
    keyIdBytes: read.value(top, 'keyIdBytes', integer(2, 32)),
    limits: {
      sessions: read.value(limits, 'limits.sessions', integer(1, 256)),
      objects: read.value(limits, 'limits.objects', orNull(integer(2, 100_000_000))),
      // A wrapped inner key with its HMAC input has to fit whatever the scheme.
      singleOpBytes: read.value(limits, 'limits.singleOpBytes', integer(256, 0x7fffffff)),
    },
    template: {
      omit: read.value(template, 'template.omit', listOf(constant)),
      setAfterUnwrap: read.value(template, 'template.setAfterUnwrap', listOf(constant)),
    },
    generate: read.value(top, 'generate', flag),
    errors: {
      authFailed: read.value(errors, 'errors.authFailed', listOf(constant)),
      gone: read.value(errors, 'errors.gone', listOf(constant)),
    },
    searchesDuringCreation: read.value(top, 'searchesDuringCreation', flag),
    settleMs: read.value(top, 'settleMs', integer(0, 60_000)),
    requiredEnv: read.value(top, 'requiredEnv', environment),
    loginFormat: read.value(top, 'loginFormat', text),
    reasons: read.reasons,
  }

  if (read.problems.length === 0) {
    if (profile.wrap !== 'probe' && profile.wrap !== 'rsa-oaep' && !profile.generate) {
      read.problems.push(`wrap: "${profile.wrap}" needs secret keys, and generate is false; write "rsa-oaep", or correct generate`)
    }
    if (!profile.oaepHashes.includes(profile.oaepHash)) {
      read.problems.push(`oaepHash: "${profile.oaepHash}" is not in oaepHashes; choose one of ${profile.oaepHashes.join(', ') || 'them'}`)
    }
  }
  if (read.problems.length > 0) throw new ProfileError(`HSM profile ${file} cannot be used:\n  ${read.problems.join('\n  ')}`)
  return profile
}

/** The names of the profiles that come with the program, `generic` last. */
export function profileNames(): readonly string[] {
  return readdirSync(profileDirectory)
    .filter((file) => file.endsWith('.json'))
    .map((file) => basename(file, '.json'))
    .sort((a, b) => Number(a === 'generic') - Number(b === 'generic') || a.localeCompare(b))
}

/**
 * Reads a profile by its name in `native-config/`, or, for a product that has none there, by the absolute path of a
 * file of the same form.
 * @throws ProfileError when there is no such profile or it is not valid
 */
export function readProfile(name: string): ProviderProfile {
  const own = isAbsolute(name)
  if (!own && !profileNames().includes(name)) {
    throw new ProfileError(
      `there is no HSM profile "${name}"; use ${profileNames().join(', ')}, or the absolute path of your own profile file`,
    )
  }
  const file = own ? name : `${profileDirectory}${name}.json`
  let json: string
  try {
    json = readFileSync(file, 'utf8')
  } catch (error) {
    throw new ProfileError(`HSM profile ${file} cannot be read: ${error instanceof Error ? error.message : 'unreadable'}`, { cause: error })
  }
  const profile = parseProfile(json, file)
  if (!own && profile.name !== name)
    throw new ProfileError(`HSM profile ${file} cannot be used:\n  name: write "${name}", the name of the file`)
  return profile
}

/**
 * The profile for a token, by what the token says of itself and where its library was loaded from; `generic` when no
 * product fits.
 */
export function matchProfile(token: { readonly manufacturer: string; readonly model: string; readonly library: string }): ProviderProfile {
  for (const name of profileNames()) {
    if (name === 'generic') continue
    const profile = readProfile(name)
    const fits = profile.match.some((alternative) =>
      matchFields.every((field) => alternative[field]?.test(token[field].replaceAll('\0', '').trim()) ?? true),
    )
    if (fits) return profile
  }
  return readProfile('generic')
}

/** The first installed module of this product, at the places where its vendor puts it. */
export function findLibrary(profile: ProviderProfile): string | undefined {
  return profile.libraryPaths.find((path) => existsSync(path))
}
