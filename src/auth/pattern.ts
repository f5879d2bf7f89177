/**
 * Text patterns of policies: `*`, `?` and policy variables, compiled once and matched without regular expressions.
 *
 * A pattern is parsed to tokens; what can be decided then is. Matching is greedy piece by piece, in time linear in the
 * value for every pattern a person writes; a piece that is long or has a `?` is searched bit-parallel, so that no policy can
 * make the service burn time (no back-tracking over more than one piece, ever).
 *
 * A value that came out of a variable is text: a `*` in it matches only a `*` (IAM user guide, "Policy variables").
 * Characters are UTF-16 units.
 */

/** A request's condition keys. Asked with lower-case names. A string is a single value, an array a multi-valued key, undefined an absent one. */
export type ConditionContext = (lowerCaseKey: string) => readonly string[] | string | undefined

export type PolicyVersion = '2008-10-17' | '2012-10-17'

/** The text is no pattern: an unfinished or malformed `${…}`. */
export class PatternError extends Error {
  override readonly name = 'PatternError'
}

const star = Symbol('*')
const one = Symbol('?')

interface Variable {
  readonly key: string
  readonly fallback: string | undefined
}

type Resolved = string | typeof star | typeof one
type Token = Resolved | Variable

/** Answers whether the value matches; `context` fills in variables. */
export type Matcher = (value: string, context: ConditionContext) => boolean

export interface PatternOptions {
  /** Are `*` and `?` special? */
  readonly wildcards: boolean
  /** `${…}` is only special since version 2012-10-17. */
  readonly version: PolicyVersion
  readonly ignoreCase?: boolean
}

/**
 * Compiles text for comparison with single values.
 * A variable that has no value and no default makes the pattern match nothing.
 * @throws PatternError
 */
export function compilePattern(text: string, options: PatternOptions): Matcher {
  const fold = options.ignoreCase === true ? (value: string): string => value.toLowerCase() : (value: string): string => value
  const tokens = parseTokens(text, options)
  const constant = withoutVariables(tokens)
  if (constant) {
    const glob = compileGlob(constant.map((token) => (typeof token === 'string' ? fold(token) : token)))
    return options.ignoreCase === true ? (value) => glob(value.toLowerCase()) : glob
  }
  const globOf = remembering((resolved) => compileGlob(resolved.map((token) => (typeof token === 'string' ? fold(token) : token))))
  return (value, context) => {
    const resolved = resolve(tokens, context)
    return resolved !== undefined && globOf(resolved)(fold(value))
  }
}

/**
 * Keeps what was compiled last: one request asks a pattern with the same variables for each of its values, and compiling costs twenty
 * times what matching does.
 */
function remembering<T>(compile: (resolved: readonly Resolved[]) => T): (resolved: readonly Resolved[]) => T {
  let last: { readonly resolved: readonly Resolved[]; readonly compiled: T } | undefined
  return (resolved) => {
    // Of one pattern the tokens are always as many; only the texts of variables differ.
    if (!last?.resolved.every((token, index) => token === resolved[index])) last = { resolved, compiled: compile(resolved) }
    return last.compiled
  }
}

/** Segments of an ARN; the sixth holds the rest with its colons. Undefined if there are fewer than six. */
export function splitArn(arn: string): readonly string[] | undefined {
  const segments: string[] = []
  let from = 0
  for (let index = 0; index < 5; index++) {
    const colon = arn.indexOf(':', from)
    if (colon < 0) return undefined
    segments.push(arn.slice(from, colon))
    from = colon + 1
  }
  segments.push(arn.slice(from))
  return segments
}

/** Answers whether the ARN matches; `segments` are its own, from splitArn. A variable without value matches no ARN. */
export type ArnMatcher = (arn: string, segments: readonly string[] | undefined, context: ConditionContext) => boolean

/**
 * Compiles an ARN pattern: six segments, each matched for itself, so that a wildcard does not run over a colon (except in
 * the last). With `expand`, segments missing at the end are `*`, as in the Resource element of identity policies.
 * @throws PatternError
 */
export function compileArnPattern(text: string, options: { readonly version: PolicyVersion; readonly expand: boolean }): ArnMatcher {
  const tokens = parseTokens(text, { wildcards: true, version: options.version })
  const constant = withoutVariables(tokens)
  if (!constant) {
    const matchesOf = remembering((resolved) => compileArnTokens(resolved, options.expand))
    return (_arn, segments, context) => {
      const resolved = resolve(tokens, context)
      return resolved !== undefined && matchesOf(resolved)(segments)
    }
  }
  if (constant.every((token) => typeof token === 'string')) {
    const literal = constant.join('')
    if (splitArn(literal)) return (arn) => arn === literal
  }
  const matches = compileArnTokens(constant, options.expand)
  return (_arn, segments) => matches(segments)
}

function compileArnTokens(tokens: readonly Resolved[], expand: boolean): (segments: readonly string[] | undefined) => boolean {
  const parts = splitTokens(tokens)
  if (parts.length < 6 && !expand) return () => false
  while (parts.length < 6) parts.push([star])
  // Most patterns differ in the resource, so it is compared first; `*` need not be compared at all.
  const globs = parts
    .map((part, index) => ({ index, matches: compileGlob(part), anything: part.every((token) => token === star) && part.length > 0 }))
    .filter(({ anything }) => !anything)
    .reverse()
  return (segments) => {
    if (segments === undefined) return false
    for (const { index, matches } of globs) if (!matches(segments[index] ?? '')) return false
    return true
  }
}

function splitTokens(tokens: readonly Resolved[]): Resolved[][] {
  const parts: Resolved[][] = [[]]
  for (const token of tokens) {
    if (typeof token !== 'string') {
      parts.at(-1)?.push(token)
      continue
    }
    let rest = token
    while (parts.length < 6 && rest.includes(':')) {
      const colon = rest.indexOf(':')
      parts.at(-1)?.push(rest.slice(0, colon))
      parts.push([])
      rest = rest.slice(colon + 1)
    }
    parts.at(-1)?.push(rest)
  }
  return parts
}

// ---- parsing ----

function parseTokens(text: string, options: PatternOptions): readonly Token[] {
  const tokens: Token[] = []
  let literal = ''
  const push = (token: Token): void => {
    if (literal !== '') tokens.push(literal)
    literal = ''
    tokens.push(token)
  }
  for (let index = 0; index < text.length; index++) {
    const character = text.charAt(index)
    if (options.wildcards && character === '*') push(star)
    else if (options.wildcards && character === '?') push(one)
    else if (character === '$' && text[index + 1] === '{' && options.version === '2012-10-17') {
      const end = text.indexOf('}', index + 2)
      if (end < 0) throw new PatternError(`The policy variable in "${text}" is not closed.`)
      const inside = text.slice(index + 2, end)
      if (inside === '*' || inside === '?' || inside === '$') literal += inside
      else push(parseVariable(inside))
      index = end
    } else literal += character
  }
  if (literal !== '' || tokens.length === 0) tokens.push(literal)
  return tokens
}

/** `key` or `key, 'default'` */
function parseVariable(inside: string): Variable {
  const comma = inside.indexOf(',')
  const key = (comma < 0 ? inside : inside.slice(0, comma)).trim()
  if (key === '') throw new PatternError('A policy variable names no key.')
  if (comma < 0) return { key: key.toLowerCase(), fallback: undefined }
  const quoted = inside.slice(comma + 1).trim()
  if (quoted.length < 2 || !quoted.startsWith(`'`) || !quoted.endsWith(`'`)) {
    throw new PatternError(`The default value in the policy variable "${inside}" must be in single quotes.`)
  }
  return { key: key.toLowerCase(), fallback: quoted.slice(1, -1) }
}

function withoutVariables(tokens: readonly Token[]): readonly Resolved[] | undefined {
  return tokens.every((token): token is Resolved => typeof token !== 'object') ? tokens : undefined
}

/** Undefined if a variable has neither a value nor a default; a multi-valued key has no value to put here. */
function resolve(tokens: readonly Token[], context: ConditionContext): readonly Resolved[] | undefined {
  const resolved: Resolved[] = []
  for (const token of tokens) {
    if (typeof token !== 'object') {
      resolved.push(token)
      continue
    }
    const value = context(token.key)
    const text = typeof value === 'string' ? value : token.fallback
    if (text === undefined) return undefined
    resolved.push(text)
  }
  return resolved
}

// ---- matching ----

interface Piece {
  readonly text: string
  /** 1 where any character will do. Undefined: nowhere. */
  readonly any: Uint8Array | undefined
}

function compileGlob(tokens: readonly Resolved[]): (value: string) => boolean {
  const pieces = toPieces(tokens)
  const [first, ...others] = pieces
  const last = others.pop()
  if (first === undefined) return (value) => value === ''
  if (last === undefined) {
    if (first.any === undefined) {
      const { text } = first
      return (value) => value === text
    }
    return (value) => value.length === first.text.length && matchesAt(first, value, 0)
  }
  if (others.length === 0 && first.any === undefined && last.any === undefined) {
    const prefix = first.text
    const suffix = last.text
    if (prefix === '' && suffix === '') return () => true
    if (suffix === '') return (value) => value.startsWith(prefix)
    return (value) => value.length >= prefix.length + suffix.length && value.startsWith(prefix) && value.endsWith(suffix)
  }
  return (value) => {
    const end = value.length - last.text.length
    if (first.text.length > end || !matchesAt(first, value, 0) || !matchesAt(last, value, end)) return false
    let at = first.text.length
    // The leftmost place for each piece leaves the most room for the next: no need to come back.
    for (const piece of others) {
      const found = findPiece(piece, value, at, end)
      if (found < 0) return false
      at = found + piece.text.length
    }
    return true
  }
}

/** What stands between the stars. */
function toPieces(tokens: readonly Resolved[]): readonly Piece[] {
  const pieces: Piece[] = []
  let text = ''
  let wild: number[] = []
  const finish = (): void => {
    let any: Uint8Array | undefined
    if (wild.length > 0) {
      any = new Uint8Array(text.length)
      for (const index of wild) any[index] = 1
    }
    pieces.push({ text, any })
    text = ''
    wild = []
  }
  for (const token of tokens) {
    if (token === star) finish()
    else if (token === one) {
      wild.push(text.length)
      text += '?'
    } else text += token
  }
  finish()
  // `a**b` is `a*b`.
  return pieces.filter((piece, index) => index === 0 || index === pieces.length - 1 || piece.text !== '')
}

function matchesAt({ text, any }: Piece, value: string, at: number): boolean {
  if (any === undefined) return value.startsWith(text, at)
  for (let index = 0; index < text.length; index++) {
    if (any[index] === 0 && value.charCodeAt(at + index) !== text.charCodeAt(index)) return false
  }
  return true
}

/** Beyond these, a bit for each character takes more than a word, and the engine's search could cost piece x value. */
const wordPiece = 32
const longPiece = 64

/** The leftmost place in [from, end) where the whole piece fits, or -1. */
function findPiece(piece: Piece, value: string, from: number, end: number): number {
  const { text, any } = piece
  if (text.length > (any === undefined ? longPiece : wordPiece)) return findLongPiece(piece, value, from, end)
  if (any !== undefined) return findWordPiece(piece, value, from, end)
  const found = value.indexOf(text, from)
  return found <= end - text.length ? found : -1
}

/** By character below 128, the places of the piece that is being searched for; empty in between. */
const places = new Int32Array(128)

/** Shift-And, for a piece of at most 32 characters: a bit for each. */
function findWordPiece({ text, any }: Piece, value: string, from: number, end: number): number {
  let always = 0
  let others: Map<number, number> | undefined
  for (let index = 0; index < text.length; index++) {
    const bit = 1 << index
    const code = text.charCodeAt(index)
    if (any?.[index] === 1) always |= bit
    else if (code < 128) places[code] = (places[code] ?? 0) | bit
    else (others ??= new Map<number, number>()).set(code, (others.get(code) ?? 0) | bit)
  }
  const lastBit = 1 << (text.length - 1)
  let found = -1
  for (let at = from, state = 0; at < end && found < 0; at++) {
    const code = value.charCodeAt(at)
    const here = code < 128 ? (places[code] ?? 0) : (others?.get(code) ?? 0)
    state = ((state << 1) | 1) & (here | always)
    if ((state & lastBit) !== 0) found = at - text.length + 1
  }
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index)
    if (code < 128) places[code] = 0
  }
  return found
}

/** Shift-And: one bit per character of the piece, 32 of them in a step. */
function findLongPiece({ text, any }: Piece, value: string, from: number, end: number): number {
  const words = (text.length + 31) >>> 5
  const always = new Uint32Array(words)
  const masks = new Map<number, Uint32Array>()
  for (let index = 0; index < text.length; index++) {
    const bit = 1 << (index & 31)
    const word = index >>> 5
    if (any?.[index] === 1) {
      always[word] = (always[word] ?? 0) | bit
      continue
    }
    const code = text.charCodeAt(index)
    let mask = masks.get(code)
    if (mask === undefined) masks.set(code, (mask = new Uint32Array(words)))
    mask[word] = (mask[word] ?? 0) | bit
  }
  const state = new Uint32Array(words)
  const lastWord = (text.length - 1) >>> 5
  const lastBit = 1 << ((text.length - 1) & 31)
  for (let at = from; at < end; at++) {
    const mask = masks.get(value.charCodeAt(at))
    let carry = 1
    for (let word = 0; word < words; word++) {
      const before = state[word] ?? 0
      state[word] = ((before << 1) | carry) & ((mask?.[word] ?? 0) | (always[word] ?? 0))
      carry = before >>> 31
    }
    if (((state[lastWord] ?? 0) & lastBit) !== 0) return at - text.length + 1
  }
  return -1
}
