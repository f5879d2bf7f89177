/**
 * What a request to encrypt or decrypt a stream says in its headers: all begin with `x-holdfast-`, each is known, and each has one meaning.
 */

import type { IncomingMessage } from 'node:http'
import type { CommitmentPolicy } from '../bulk/header.ts'
import type { EncryptionContext } from '../bulk/message.ts'
import { suites } from '../bulk/suites.ts'
import { kmsError, type KmsError } from '../kms/errors.ts'
import type { KeyChoice } from './envelope-keys.ts'
import { readJsonBody } from './json-body.ts'

export type Direction = 'encrypt' | 'decrypt'

/** A longer one would be held in memory whole, by every stream that has one. */
export const maxFrameLength = 16 * 1_048_576

export interface Wanted {
  readonly choice: KeyChoice
  readonly encrypt: {
    readonly context: EncryptionContext
    readonly keptOut: readonly string[]
    readonly suite?: NonNullable<ReturnType<typeof suites.get>>
    readonly frameLength?: number
  }
  readonly decrypt: { readonly context: EncryptionContext; readonly commitmentPolicy?: CommitmentPolicy }
  /** Of a signed message nothing is answered before the signature is verified. */
  readonly isBuffered: boolean
}

const commitmentPolicies: ReadonlySet<string> = new Set<CommitmentPolicy>([
  'REQUIRE_ENCRYPT_REQUIRE_DECRYPT',
  'REQUIRE_ENCRYPT_ALLOW_DECRYPT',
  'FORBID_ENCRYPT_ALLOW_DECRYPT',
])

/** What may be said, by direction. Whatever else begins with `x-holdfast-` is refused, not ignored. */
const known: Readonly<Record<Direction, readonly string[]>> = {
  encrypt: ['key', 'grant-tokens', 'context', 'kept-out', 'suite', 'frame-length'],
  decrypt: ['key', 'grant-tokens', 'context', 'accounts', 'commitment-policy', 'buffer'],
}

/** @param region that keys without one are in @throws KmsError ValidationException */
export function readWanted(direction: Direction, request: IncomingMessage, region: string): Wanted {
  if (request.httpVersion === '1.0') throw invalid('HTTP/1.1 is needed: an answer of HTTP/1.0 that was cut short looks whole.')
  const unknown = Object.keys(request.headers).find(
    (name) => name.startsWith(prefix) && !known[direction].includes(name.slice(prefix.length)),
  )
  if (unknown !== undefined) throw invalid(`The header ${unknown} means nothing here. Known: ${known[direction].join(', ')}.`)
  // Somebody meant to say something: a key that is no longer named would otherwise be discovered.
  const empty = known[direction].find((name) => request.headers[prefix + name] === '')
  if (empty !== undefined) throw invalid(`The header ${prefix}${empty} is empty: say what it is to be, or leave it out.`)
  const header = (name: string): string | undefined => {
    const value = request.headers[prefix + name]
    return typeof value === 'string' ? value : undefined
  }
  const list = (name: string): readonly string[] =>
    header(name)
      ?.split(',')
      .map((item) => item.trim()) ?? []
  const keys = list('key')
  const accounts = header('accounts') === undefined ? undefined : list('accounts')
  if (direction === 'encrypt' && keys.length === 0)
    throw invalid('Say which keys to encrypt under: x-holdfast-key, ids, ARNs or aliases with commas between them.')
  if (keys.length > 0 && accounts) throw invalid('x-holdfast-accounts is for keys that are not named.')
  const context = readContext(header('context'), 'context')
  const keptOut = readContext(header('kept-out'), 'kept-out')
  const twice = Object.keys(keptOut).find((name) => name in context)
  if (twice !== undefined) throw invalid(`${JSON.stringify(twice)} is in x-holdfast-context and in x-holdfast-kept-out.`)
  const suite = readSuite(header('suite'))
  const frameLength = header('frame-length')
  if (frameLength !== undefined && !(/^\d{1,8}$/.test(frameLength) && Number(frameLength) >= 1 && Number(frameLength) <= maxFrameLength))
    throw invalid(`x-holdfast-frame-length must be a whole number from 1 to ${maxFrameLength}.`)
  const commitmentPolicy = header('commitment-policy')
  if (commitmentPolicy !== undefined && !commitmentPolicies.has(commitmentPolicy))
    throw invalid(`x-holdfast-commitment-policy must be one of ${[...commitmentPolicies].join(', ')}.`)
  const buffer = header('buffer')
  if (buffer !== undefined && buffer !== 'true' && buffer !== 'false') throw invalid('x-holdfast-buffer must be true or false.')
  return {
    isBuffered: buffer === 'true',
    choice: { keys, grantTokens: list('grant-tokens'), discovery: keys.length > 0 ? undefined : { accounts, regions: [region] } },
    encrypt: {
      context: { ...context, ...keptOut },
      keptOut: Object.keys(keptOut),
      ...(suite && { suite }),
      ...(frameLength !== undefined && { frameLength: Number(frameLength) }),
    },
    decrypt: { context, ...(commitmentPolicy !== undefined && { commitmentPolicy: commitmentPolicy as CommitmentPolicy }) },
  }
}

const prefix = 'x-holdfast-'
const invalid = (message: string): KmsError => kmsError('ValidationException', message)

function readSuite(text: string | undefined): ReturnType<typeof suites.get> {
  if (text === undefined) return undefined
  const suite = /^0x[0-9a-f]{4}$/i.test(text) ? suites.get(Number(text)) : undefined
  if (!suite?.commits) throw invalid('x-holdfast-suite must be 0x0478 (not signed) or 0x0578 (signed).')
  return suite
}

/** Base64 of a JSON object of text, as S3 has it in `x-amz-server-side-encryption-context`. */
function readContext(text: string | undefined, name: string): EncryptionContext {
  const context = Object.create(null) as Record<string, string>
  if (text === undefined) return context
  const wrong = (cause?: unknown): KmsError =>
    kmsError('ValidationException', `${prefix}${name} must be the base64 of a JSON object whose values are text.`, { cause })
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text)) throw wrong()
  let pairs: Readonly<Record<string, unknown>>
  try {
    pairs = readJsonBody(Buffer.from(text, 'base64'))
  } catch (cause) {
    throw wrong(cause)
  }
  for (const [key, value] of Object.entries(pairs)) {
    if (typeof value !== 'string') throw wrong()
    context[key] = value
  }
  return context
}

export const encodeContext = (context: EncryptionContext): string => Buffer.from(JSON.stringify(context)).toString('base64')
