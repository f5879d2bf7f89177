/**
 * The AWS query protocol as STS speaks it (version 2011-06-15): a form-encoded POST that names its `Action`, XML back.
 *
 * Lists are `Tags.member.1.Key`; what a parameter means follows from the operation's shape. Refuses a parameter given
 * twice, another version, and anything but UTF-8.
 */

import { isUtf8 } from 'node:buffer'
import { kmsError, type ErrorCode, type KmsError } from '../kms/errors.ts'
import type { Api } from '../kms/operations/index.ts'
import type { Member, Shape } from '../kms/shape.ts'
import type { Protocol, Row } from './protocol.ts'

const version = '2011-06-15'
const namespace = `https://sts.amazonaws.com/doc/${version}/`
const contentType = 'text/xml'
const maxParameters = 1000
const ampersand = 0x26

/** STS has its own words and statuses for what the JSON services call otherwise. */
const errorNames: Partial<Record<ErrorCode, { readonly code: string; readonly status: number }>> = {
  AccessDeniedException: { code: 'AccessDenied', status: 403 },
  ExpiredTokenException: { code: 'ExpiredToken', status: 403 },
  IncompleteSignatureException: { code: 'IncompleteSignature', status: 400 },
  InvalidSignatureException: { code: 'SignatureDoesNotMatch', status: 403 },
  KMSInternalException: { code: 'InternalFailure', status: 500 },
  MalformedPolicyDocumentException: { code: 'MalformedPolicyDocument', status: 400 },
  MissingAuthenticationTokenException: { code: 'MissingAuthenticationToken', status: 403 },
  RequestEntityTooLargeException: { code: 'RequestEntityTooLarge', status: 413 },
  SerializationException: { code: 'MalformedQueryString', status: 400 },
  ThrottlingException: { code: 'Throttling', status: 400 },
  UnknownOperationException: { code: 'InvalidAction', status: 400 },
  UnrecognizedClientException: { code: 'InvalidClientTokenId', status: 403 },
  ValidationException: { code: 'ValidationError', status: 400 },
}

/** Opens the protocol over the APIs that have no JSON target. */
export function awsQuery(apis: readonly Api[]): Protocol {
  const rows = new Map<string, Row>()
  for (const api of apis) {
    if (api.target !== undefined) continue
    for (const [name, operation] of api.operations) rows.set(name, { operation, signingName: api.signingName })
  }
  return {
    find(_headers, body) {
      const form = readForm(body)
      const action = form.get('Action')
      const row = action === undefined ? undefined : rows.get(action)
      if (!row || form.get('Version') !== version) {
        throw kmsError(
          'UnknownOperationException',
          `Could not find operation ${action ?? '(none)'} for version ${form.get('Version') ?? '(none)'}`,
        )
      }
      return row
    },
    readBody: (operation, body) => readParameters(operation.input, readForm(body)),
    encodeAnswer: ({ name }, answer, requestId) => ({
      status: 200,
      contentType,
      text: `<${name}Response xmlns="${namespace}"><${name}Result>${encodeXml(answer)}</${name}Result><ResponseMetadata>${encodeXml({ RequestId: requestId })}</ResponseMetadata></${name}Response>`,
    }),
    encodeError(error: KmsError, requestId) {
      const { code, status } = errorNames[error.code] ?? { code: error.code, status: error.status }
      const fields = { Error: { Type: status < 500 ? 'Sender' : 'Receiver', Code: code, Message: error.message }, RequestId: requestId }
      return { status, contentType, text: `<ErrorResponse xmlns="${namespace}">${encodeXml(fields)}</ErrorResponse>` }
    },
  }
}

function readForm(body: Buffer): ReadonlyMap<string, string> {
  if (!isUtf8(body)) throw kmsError('SerializationException', 'The request body is not UTF-8.')
  const form = new Map<string, string>()
  // Nobody is authenticated yet, and taking a megabyte of pairs apart holds up everybody.
  let pairs = 1
  for (let at = body.indexOf(ampersand); at >= 0 && pairs <= maxParameters; at = body.indexOf(ampersand, at + 1)) pairs++
  if (pairs > maxParameters) throw kmsError('SerializationException', 'The request has too many parameters.')
  for (const [name, value] of new URLSearchParams(body.toString('utf8'))) {
    if (form.has(name)) throw kmsError('SerializationException', 'A parameter is given twice.')
    form.set(name, value)
  }
  return form
}

/** Reads the parameters that a shape names, under `prefix`; others are ignored, as the JSON protocol ignores unknown members. */
function readParameters(shape: Shape, form: ReadonlyMap<string, string>, prefix = ''): Readonly<Record<string, unknown>> {
  const members: Record<string, unknown> = {}
  for (const [name, member] of Object.entries(shape)) {
    const value = readMember(member, form, prefix + name)
    if (value !== undefined) members[name] = value
  }
  return members
}

function readMember(member: Member<unknown, boolean>, form: ReadonlyMap<string, string>, name: string): unknown {
  switch (member.kind) {
    case 'structure':
      return readStructure(member.fields ?? {}, form, name)
    case 'list':
      return readList(member, form, name)
    case 'integer':
    case 'timestamp': {
      const text = form.get(name)
      // A text that is no number stays text, for the shape to refuse in its own words.
      return text !== undefined && /^-?\d{1,15}$/.test(text) ? Number(text) : text
    }
    case 'boolean': {
      const text = form.get(name)
      return text === 'true' ? true : text === 'false' ? false : text
    }
    case 'string':
    case 'blob':
    case 'map':
      // No operation of this protocol takes a map.
      break
  }
  return form.get(name)
}

function readStructure(fields: Shape, form: ReadonlyMap<string, string>, name: string): unknown {
  for (const parameter of form.keys()) if (parameter.startsWith(`${name}.`)) return readParameters(fields, form, `${name}.`)
  return undefined
}

/** `Name.member.1`, `Name.member.2`, …: counted up until one is missing. An empty `Name` is an empty list. */
function readList(member: Member<unknown, boolean>, form: ReadonlyMap<string, string>, name: string): unknown {
  const items: unknown[] = []
  for (;;) {
    const at = `${name}.member.${items.length + 1}`
    const item = member.fields ? readStructure(member.fields, form, at) : form.get(at)
    if (item === undefined) break
    items.push(item)
  }
  return items.length > 0 || form.has(name) ? items : undefined
}

/** Elements for an object's members; dates as ISO 8601, lists as `member` elements. */
function encodeXml(value: Readonly<Record<string, unknown>>): string {
  return Object.entries(value)
    .filter(([, inner]) => inner !== undefined && inner !== null)
    .map(([name, inner]) => `<${name}>${encodeXmlValue(inner)}</${name}>`)
    .join('')
}

function encodeXmlValue(value: unknown): string {
  if (value instanceof Date) return value.toISOString().replace(/\.\d{3}Z$/, 'Z')
  if (Array.isArray(value)) return value.map((item) => `<member>${encodeXmlValue(item)}</member>`).join('')
  if (typeof value === 'object' && value !== null) return encodeXml(value as Readonly<Record<string, unknown>>)
  return escapeXml(typeof value === 'string' ? value : JSON.stringify(value))
}

const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }

/** Text content; characters that XML 1.0 cannot hold at all become U+FFFD. */
function escapeXml(text: string): string {
  return (
    text
      // oxlint-disable-next-line no-control-regex -- control characters are what XML forbids
      .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|\p{Surrogate}/gu, '\ufffd')
      .replace(/[&<>"]/g, (character) => entities[character] ?? character)
  )
}
