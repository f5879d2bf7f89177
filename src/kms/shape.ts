/**
 * Request shapes: what a member must look like, said once; read by the validator, the compiler, the audit (which never
 * records a blob) and the test that holds every shape against the SDK's own schema.
 *
 * A value of the wrong JSON type is a SerializationException at once, as AWS's deserialiser answers it; what has the right
 * type and breaks a constraint is collected, so that one ValidationException names every problem.
 */

import { isRecord } from '../base/is-record.ts'
import { kmsError, type KmsError } from './errors.ts'

export type MemberKind = 'string' | 'boolean' | 'integer' | 'timestamp' | 'blob' | 'list' | 'map' | 'structure'

/** One member. `read` returns the typed value, adding to `problems` what breaks a constraint. */
export interface Member<T, Optional extends boolean = false> {
  readonly optional: Optional
  readonly kind: MemberKind
  /** Never recorded, never logged: blobs and credentials. */
  readonly sensitive: boolean
  /** Members of a structure, or of a list's items. */
  readonly fields?: Shape
  /** Of a scalar: everything that it must be, in the words of messages; a list of such values tells all of it when one of them is not so. */
  readonly rules?: readonly string[]
  /** What a request that leaves the member out has said: policies see it and the audit records it. */
  readonly fallback?: unknown
  read(value: unknown, path: string, problems: string[]): T
}

// The element type is recovered by Input<>; `never` would refuse every member.
// oxlint-disable-next-line typescript/no-explicit-any
export type Shape = Readonly<Record<string, Member<any, boolean>>>

type OptionalNames<S extends Shape> = { [K in keyof S]: S[K]['optional'] extends true ? K : never }[keyof S]
type ValueOf<M> = M extends Member<infer T, boolean> ? T : never
export type Input<S extends Shape> = { readonly [K in Exclude<keyof S, OptionalNames<S>>]: ValueOf<S[K]> } & {
  readonly [K in OptionalNames<S>]?: ValueOf<S[K]>
}

/** What AWS's JSON reader calls the value it met instead. */
function wrongType(value: unknown, wanted: string): KmsError {
  if (Array.isArray(value)) return kmsError('SerializationException', 'Start of list found where not expected')
  if (typeof value === 'object' && value !== null)
    return kmsError('SerializationException', 'Start of structure or map found where not expected')
  const met = value === true ? 'TRUE_VALUE' : value === false ? 'FALSE_VALUE' : typeof value === 'number' ? 'NUMBER_VALUE' : 'STRING_VALUE'
  return kmsError('SerializationException', `${met} cannot be converted to ${wanted}`)
}

function member<T>(
  kind: MemberKind,
  read: Member<T>['read'],
  { sensitive = false, ...more }: { sensitive?: boolean; fields?: Shape; rules?: readonly string[] } = {},
): Member<T> {
  return { optional: false, kind, sensitive, ...more, read }
}

export function optional<T>(of: Member<T, boolean>, fallback?: NoInfer<T>): Member<T, true> {
  return { ...of, optional: true, ...(fallback !== undefined && { fallback }) }
}

interface Constraint {
  readonly min?: number
  readonly max?: number
  /** As text where AWS's spelling is not that of a regular expression here, which escapes every slash: messages show it. */
  readonly pattern?: RegExp | string
  /** A credential: a problem with it is told without its value. */
  readonly secret?: boolean
}

export function string(limits: Constraint = {}): Member<string> {
  // A pattern constrains the whole value even where the model leaves the anchors out.
  const { source, flags } =
    typeof limits.pattern === 'string' ? { source: limits.pattern, flags: '' } : (limits.pattern ?? { source: '', flags: '' })
  const whole = new RegExp(`^(?:${source})$`, flags)
  const { min, max, pattern } = limits
  const rules: (readonly [rule: string, isMet: (value: string) => boolean])[] = []
  if (max !== undefined) rules.push([`Member must have length less than or equal to ${max}`, ({ length }) => length <= max])
  if (min !== undefined) rules.push([`Member must have length greater than or equal to ${min}`, ({ length }) => length >= min])
  if (pattern !== undefined) rules.push([`Member must satisfy regular expression pattern: ${source}`, (value) => whole.test(value)])
  return member(
    'string',
    (value, path, problems) => {
      if (typeof value !== 'string') throw wrongType(value, 'String')
      for (const [rule, isMet] of rules) {
        if (!isMet(value)) problems.push(`Value${limits.secret ? '' : ` '${value}'`} at '${path}' failed to satisfy constraint: ${rule}`)
      }
      return value
    },
    { sensitive: limits.secret ?? false, rules: rules.map(([rule]) => rule) },
  )
}

/** The message lists the values in the order given. */
export function oneOf<const T extends string>(...values: readonly T[]): Member<T> {
  const set: ReadonlySet<string> = new Set(values)
  const rule = `Member must satisfy enum value set: [${values.join(', ')}]`
  return member(
    'string',
    (value, path, problems) => {
      if (typeof value !== 'string') throw wrongType(value, 'String')
      if (!set.has(value)) problems.push(`Value '${value}' at '${path}' failed to satisfy constraint: ${rule}`)
      return value as T
    },
    { rules: [rule] },
  )
}

export const boolean: Member<boolean> = member('boolean', (value) => {
  if (typeof value !== 'boolean') throw wrongType(value, 'Boolean')
  return value
})

/** In the words of messages, the bound that a number does not keep. */
function boundBroken(value: number, { min, max }: { readonly min?: number; readonly max?: number }): string | undefined {
  if (max !== undefined && value > max) return `less than or equal to ${max}`
  return min !== undefined && value < min ? `greater than or equal to ${min}` : undefined
}

export function integer(limits: { readonly min?: number; readonly max?: number } = {}): Member<number> {
  return member('integer', (value, path, problems) => {
    if (typeof value !== 'number') throw wrongType(value, 'Integer')
    // AWS's reader takes 7.0 and truncates 7.9; anything beyond 32 bits it cannot convert.
    const whole = Math.trunc(value)
    if (Math.abs(whole) > 0x7fffffff) throw wrongType(value, 'Integer')
    const bound = boundBroken(whole, limits)
    if (bound) problems.push(`Value '${whole}' at '${path}' failed to satisfy constraint: Member must have value ${bound}`)
    return whole
  })
}

/** Seconds since the epoch on the wire, milliseconds inside. */
export const timestamp: Member<number> = member('timestamp', (value) => {
  const seconds = typeof value === 'number' ? value : Number.NaN
  if (!Number.isFinite(seconds) || Math.abs(seconds) > 1e12) throw wrongType(value, 'Timestamp')
  return Math.round(seconds * 1000)
})

const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/

/** Base64 on the wire. Its value is never echoed, logged or recorded. */
export function blob(limits: { readonly min: number; readonly max: number }): Member<Buffer> {
  return member(
    'blob',
    (value, path, problems) => {
      if (typeof value !== 'string' || !base64.test(value)) throw kmsError('SerializationException')
      const bytes = Buffer.from(value, 'base64')
      const bound = boundBroken(bytes.length, limits)
      if (bound) problems.push(`Value at '${path}' failed to satisfy constraint: Member must have length ${bound}`)
      return bytes
    },
    { sensitive: true },
  )
}

/** A list may have thousands of bad items: all are counted, and as many told as somebody would read. */
const problemsTold = 50

export function list<T>(of: Member<T, boolean>, limits: { readonly min?: number; readonly max?: number } = {}): Member<readonly T[]> {
  return member(
    'list',
    (value, path, problems) => {
      if (!Array.isArray(value)) throw wrongType(value, 'List')
      if (limits.max !== undefined && value.length > limits.max) {
        problems.push(`Value at '${path}' failed to satisfy constraint: Member must have length less than or equal to ${limits.max}`)
      }
      if (limits.min !== undefined && value.length < limits.min) {
        problems.push(`Value at '${path}' failed to satisfy constraint: Member must have length greater than or equal to ${limits.min}`)
      }
      const broken: string[] = []
      const items = value.map((item: unknown, index) => {
        const itemPath = `${path}.${index + 1}.member`
        if (item === null || item === undefined) {
          problems.push(`Value null at '${itemPath}' failed to satisfy constraint: Member must not be null`)
          return undefined as T
        }
        return of.read(item, itemPath, of.rules ? broken : problems)
      })
      // AWS tells it of the list as a whole, with all that the model asks of an item.
      if (of.rules && broken.length > 0) {
        const shown = of.sensitive ? '' : ` '[${value.slice(0, problemsTold).join(', ')}${value.length > problemsTold ? ', …' : ''}]'`
        problems.push(`Value${shown} at '${path}' failed to satisfy constraint: Member must satisfy constraint: [${of.rules.join(', ')}]`)
      }
      return items
    },
    { sensitive: of.sensitive, ...(of.fields && { fields: of.fields }) },
  )
}

/** Text to text, with a null prototype: the names are the caller's. */
export const stringMap: Member<Readonly<Record<string, string>>> = member('map', (value) => {
  if (!isRecord(value)) throw wrongType(value, 'Map')
  const map: Record<string, string> = Object.create(null) as Record<string, string>
  for (const name of Object.keys(value)) {
    const text = value[name]
    if (typeof text !== 'string')
      throw text === null ? kmsError('SerializationException', 'Map value cannot be null') : wrongType(text, 'String')
    map[name] = text
  }
  return map
})

export function structure<S extends Shape>(fields: S): Member<Input<S>> {
  return member(
    'structure',
    (value, path, problems) => {
      if (!isRecord(value)) throw wrongType(value, 'Structure')
      return readMembers(fields, value, `${path}.`, problems)
    },
    { fields },
  )
}

export const keyId = string({ min: 1, max: 2048 })

const shownNames = new Map<string, string>()

/** A member as messages and records spell it: `keyId`. Kept for each, since every call asks for all of its members; the names are our shapes' own. */
export function shownName(member: string): string {
  let shown = shownNames.get(member)
  if (shown === undefined) shownNames.set(member, (shown = member.charAt(0).toLowerCase() + member.slice(1)))
  return shown
}

function readMembers<S extends Shape>(shape: S, body: Readonly<Record<string, unknown>>, prefix: string, problems: string[]): Input<S> {
  const input: Record<string, unknown> = {}
  for (const name in shape) {
    const rule = shape[name]
    if (rule === undefined) continue
    const value = Object.hasOwn(body, name) ? body[name] : undefined
    if (value === undefined || value === null) {
      if (!rule.optional) problems.push(`Value null at '${prefix}${shownName(name)}' failed to satisfy constraint: Member must not be null`)
      if (rule.fallback !== undefined) input[name] = rule.fallback
      continue
    }
    input[name] = rule.read(value, prefix === '' ? shownName(name) : prefix + shownName(name), problems)
  }
  return input as Input<S>
}

/**
 * Reads a whole request body; members that the shape does not name are ignored, as AWS does.
 * @throws KmsError SerializationException, or one ValidationException that names every problem.
 */
export function readInput<S extends Shape>(shape: S, body: Readonly<Record<string, unknown>>): Input<S> {
  const problems: string[] = []
  const input = readMembers(shape, body, '', problems)
  if (problems.length > 0) throw validationError(problems)
  return input
}

export function validationError(problems: readonly string[]): KmsError {
  const count = `${problems.length} validation error${problems.length > 1 ? 's' : ''} detected: `
  return kmsError('ValidationException', count + problems.slice(0, problemsTold).join('; '))
}
