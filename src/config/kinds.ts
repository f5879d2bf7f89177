/**
 * What a value of a setting may be: each kind says it in words, for messages and the README's table, and reads it from a JSON value or from the
 * string of an environment variable.
 */

import { isIP } from 'node:net'
import { homedir } from 'node:os'
import { isAbsolute, join, resolve } from 'node:path'
import { didYouMean } from '../base/closest.ts'
import { isRecord } from '../base/is-record.ts'
import { standardRates, type RequestRates } from '../kms/quotas.ts'

/** What one setting accepts: `read` takes a JSON value or an environment string and throws an Expected. */
export interface Kind<T> {
  /** For the table: `integer 1–65535`. */
  readonly accepts: string
  read(value: unknown, from: Source): T
}

/** Relative paths in a file are relative to that file's folder; in the environment, to where the service is started. */
export interface Source {
  readonly baseDir: string
}

/** Thrown by a kind: the sentence ends "must be …". */
export class Expected extends Error {}

export const text = (accepts: string, pattern: RegExp): Kind<string> => ({
  accepts,
  read(value) {
    if (typeof value !== 'string' || !pattern.test(value)) throw new Expected(accepts)
    return value
  },
})

/** Absent unless set; an empty environment variable counts as not set. */
export const orAbsent = <T>(kind: Kind<T>): Kind<T | undefined> => kind

export const path: Kind<string> = {
  accepts: 'a path',
  read(value, from) {
    if (typeof value !== 'string' || value === '' || value.includes('\0')) throw new Expected('a path')
    const expanded = value.startsWith('~/') ? join(homedir(), value.slice(2)) : value
    return isAbsolute(expanded) ? expanded : resolve(from.baseDir, expanded)
  },
}

export function integer(min: number, max: number, unit = ''): Kind<number> {
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
export const price: Kind<number> = {
  accepts: 'a number from 0 to 1000000',
  read(value) {
    const number =
      typeof value === 'number' ? value : typeof value === 'string' && /^\d{1,7}(?:\.\d{1,9})?$/.test(value) ? Number(value) : NaN
    if (!(number >= 0 && number <= 1_000_000)) throw new Expected(this.accepts)
    return number
  },
}

export const flag: Kind<boolean> = {
  accepts: 'true or false',
  read(value) {
    if (value === true || value === 'true' || value === '1') return true
    if (value === false || value === 'false' || value === '0') return false
    throw new Expected('true or false')
  },
}

export function oneOf<const T extends string>(values: readonly T[]): Kind<T> {
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

/** A list in the file, comma-separated in the environment. */
const listOf = (what: string, fits: RegExp): Kind<readonly string[]> => ({
  accepts: `a comma-separated list of ${what}, each once`,
  read(value) {
    const names: unknown = typeof value === 'string' ? value.split(',').map((name) => name.trim()) : value
    const valid = (name: unknown): name is string => typeof name === 'string' && fits.test(name)
    if (!Array.isArray(names) || names.length === 0 || !names.every(valid) || new Set(names).size !== names.length)
      throw new Expected(this.accepts)
    return names
  },
})

/** AWS's own names and whatever else has their form; the form is what clients' ARN patterns accept. */
export const regionList = listOf('region names such as eu-west-1', /^(?=.{1,32}$)[a-z][a-z0-9]*(-[a-z0-9]+)*-\d{1,2}$/)

export const nameList = listOf('names such as cks.kms.eu-west-1.amazonaws.com', /^[\x21-\x2b\x2d-\x7e]{1,253}$/)

type Pair = readonly [name: string, value: unknown]

/** The members of an object in the file, `name=value,name=value` in the environment. Nothing for anything else. */
function pairsIn(value: unknown): readonly Pair[] {
  if (typeof value !== 'string') return isRecord(value) ? Object.entries(value) : []
  return value.split(',').map((pair) => {
    const [name = '', ...rest] = pair.split('=')
    // What follows the first = is the value, whatever it holds.
    return [name.trim(), rest.length === 0 ? undefined : rest.join('=').trim()]
  })
}

const areDistinct = (pairs: readonly Pair[]): boolean => new Set(pairs.map(([name]) => name)).size === pairs.length

export const host: Kind<string> = {
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
export const regionTokens: Kind<Readonly<Record<string, string>>> = {
  accepts: 'a list of region=token such as eu-west-1=frankfurt, or in a file an object of them',
  read(value) {
    const pairs = pairsIn(value)
    const fits = (pair: Pair): pair is [string, string] => pair[0] !== '' && typeof pair[1] === 'string' && tokenName.test(pair[1])
    if (pairs.length === 0 || !pairs.every(fits) || !areDistinct(pairs)) throw new Expected(this.accepts)
    return Object.fromEntries(pairs)
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

/** What each member of a token may be, by its name: the rows of `pkcs11`. */
type TokenMembers = Readonly<Record<string, { readonly kind: Kind<unknown> }>>

/** Tokens by name. */
function tokenTableOf<T extends Partial<TokenSettings>>(members: TokenMembers, rule: TokenTableRule): Kind<Readonly<Record<string, T>>> {
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
            const row = Object.hasOwn(members, member) ? members[member] : undefined
            if (!row) return refuse(`${member} is not a setting.${didYouMean(member, Object.keys(members))}`)
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

export const tokenTable = (members: TokenMembers) =>
  tokenTableOf<TokenSettings>(members, {
    accepts: 'a JSON object: names of tokens, each with library, tokenLabel, pinFile and whatever else `pkcs11` has',
    needed: ['library', 'tokenLabel', 'pinFile'],
    names: '1 to 64 letters, digits, dots, dashes and underscores',
    fits: tokenName,
  })

/** A token that may become a custom key store: its PIN is the KeyStorePassword. */
export type KeyStoreTokenSettings = Omit<TokenSettings, 'pinFile'>

export const keyStoreTokenTable = (members: TokenMembers) =>
  tokenTableOf<KeyStoreTokenSettings>(members, {
    accepts: 'a JSON object: CloudHsmClusterIds, each with library, tokenLabel and whatever else `pkcs11` has but pinFile',
    needed: ['library', 'tokenLabel'],
    // AWS's own, which SDKs and the model keep to.
    names: '`cluster-` and 11 to 16 letters or digits from 2 to 7, as CloudHsmClusterId has them',
    fits: /^cluster-[2-7a-zA-Z]{11,16}$/,
    refused: { pinFile: 'the PIN is the KeyStorePassword of CreateCustomKeyStore' },
  })

const hostName = /^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*$/

/** `name=host:port`, comma-separated; in a file an object may stand in its place. */
export const connectTo: Kind<Readonly<Record<string, { readonly host: string; readonly port: number }>>> = {
  accepts: 'a list of name=host:port such as proxy.example.com=10.1.2.3:8443, or in a file an object of them',
  read(value) {
    const read = pairsIn(value).map(([name, place]): [string, { host: string; port: number }] => {
      const [, address = '', port = ''] = /^(.+):(\d{1,5})$/.exec(String(place)) ?? []
      const target = address.replace(/^\[(.*)\]$/, '$1')
      const fits = hostName.test(name) && (isIP(target) !== 0 || hostName.test(target))
      if (!fits || Number(port) < 1 || Number(port) > 65_535) throw new Expected(this.accepts)
      return [name.toLowerCase(), { host: target, port: Number(port) }]
    })
    if (read.length === 0 || !areDistinct(read)) throw new Expected(this.accepts)
    return Object.fromEntries(read)
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
export const awsServices: Kind<Readonly<Record<string, readonly string[]>>> = {
  accepts: 'services and who they are, such as s3=arn:aws:iam::111122223333:role/storage, each user or role once',
  read(value) {
    if (typeof value !== 'string' && !isRecord(value)) throw new Expected(this.accepts)
    // In a file each service has a list.
    const pairs = pairsIn(value).flatMap(([name, arns]) =>
      (Array.isArray(arns) ? arns : [arns]).map((arn: unknown) => [name, arn] as const),
    )
    const services: Record<string, string[]> = {}
    const seen = new Set<string>()
    for (const [name, arn] of pairs) {
      const isArn = typeof arn === 'string' && /^arn:aws:iam::\d{12}:(?:user|role)\/[\w+=,.@/-]{1,512}$/.test(arn)
      if (!isArn || !/^[a-z][a-z0-9-]{0,62}$/.test(name) || seen.has(arn)) throw new Expected(this.accepts)
      seen.add(arn)
      ;(services[name] ??= []).push(arn)
    }
    return services
  },
}

/** Overrides of AWS's request quotas. An object in the file, `CreateKey=50,symmetric=20000` in the environment. */
export const requestRates: Kind<'off' | RequestRates> = {
  accepts: `off, or requests a second by class such as CreateKey=50,symmetric=20000`,
  read(value) {
    if (value === 'off') return value
    const rates = pairsIn(value).map(([name, rate]) => [name, typeof rate === 'string' && rate !== '' ? Number(rate) : rate] as const)
    const valid = ([name, rate]: readonly [string, unknown]): boolean =>
      Object.hasOwn(standardRates, name) && typeof rate === 'number' && rate > 0 && rate <= 1e9
    if (rates.length === 0 || !rates.every(valid)) throw new Expected(this.accepts)
    return Object.fromEntries(rates) as RequestRates
  },
}

export const label = text('1 to 32 printable characters', /^[\x20-\x7e]{1,32}$/)
