/**
 * A JSON request body, from bytes to an object, strictly: RFC 8259 in UTF-8, one object, nested no deeper than AWS's
 * requests ever are, no name twice, no lone surrogates.
 *
 * Refuses what `JSON.parse` would let through in silence: with a name given twice two readers of one signed body can
 * see two requests, and text that is not well formed Unicode collapses to the same bytes when it becomes additional
 * authenticated data.
 */

import { isUtf8 } from 'node:buffer'
import { isRecord } from '../base/is-record.ts'
import { kmsError } from '../kms/errors.ts'

/** The deepest request of the APIs we answer has 5 levels. */
const maxDepth = 32

const quote = 0x22
const backslash = 0x5c
const colon = 0x3a
const openBrace = 0x7b
const closeBrace = 0x7d
const openBracket = 0x5b
const closeBracket = 0x5d

/**
 * Reads a body; an empty one is an empty request, as it is to AWS.
 * @throws KmsError SerializationException.
 */
export function readJsonBody(bytes: Buffer): Readonly<Record<string, unknown>> {
  if (bytes.length === 0) return {}
  if (!isUtf8(bytes)) throw kmsError('SerializationException', 'The request body is not UTF-8.')
  const names = countNames(bytes)
  const text = bytes.toString('utf8')
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw kmsError('SerializationException', 'The request body is not valid JSON.')
  }
  if (!isRecord(value)) throw kmsError('SerializationException', 'The request body is not a JSON object.')
  // JSON.parse keeps the last of two equal names, so a repetition shows as a name that went missing.
  if (countKept(value) !== names) throw kmsError('SerializationException', 'The request body has a name twice.')
  // Bytes that are UTF-8 hold no surrogate; only an escape can make one.
  if (text.includes('\\u')) JSON.stringify(value, refuseLoneSurrogate)
  return value
}

/** A replacer, because JSON.stringify shows it every name and every string. */
function refuseLoneSurrogate(name: string, value: unknown): unknown {
  if (/\p{Surrogate}/u.test(name) || (typeof value === 'string' && /\p{Surrogate}/u.test(value))) {
    throw kmsError('SerializationException', 'The request body has text that is not well-formed Unicode.')
  }
  return value
}

/** Names in the document: colons outside strings. Also the guard on depth, before anything recurses. */
function countNames(bytes: Buffer): number {
  let names = 0
  let depth = 0
  let inString = false
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]
    if (inString) {
      if (byte === backslash) at++
      else if (byte === quote) inString = false
    } else if (byte === quote) inString = true
    else if (byte === colon) names++
    else if (byte === openBrace || byte === openBracket) {
      if (++depth > maxDepth) throw kmsError('SerializationException', 'The request body is nested too deeply.')
    } else if (byte === closeBrace || byte === closeBracket) depth--
  }
  return names
}

function countKept(value: object): number {
  if (Array.isArray(value)) {
    let names = 0
    for (const item of value as readonly unknown[]) if (typeof item === 'object' && item !== null) names += countKept(item)
    return names
  }
  const kept = Object.keys(value)
  let names = kept.length
  for (const name of kept) {
    const inner = (value as Readonly<Record<string, unknown>>)[name]
    if (typeof inner === 'object' && inner !== null) names += countKept(inner)
  }
  return names
}
