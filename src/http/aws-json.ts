/**
 * AWS JSON 1.1, the protocol of KMS and CloudTrail and of our own administration: the operation in `X-Amz-Target`, a
 * JSON object each way, errors by their bare name in `__type`. A content type other than AWS's is tolerated.
 */

import type { KmsError } from '../kms/errors.ts'
import { kmsError } from '../kms/errors.ts'
import type { Api } from '../kms/operations/index.ts'
import { readJsonBody } from './json-body.ts'
import type { Protocol, Rendered, Row } from './protocol.ts'

const contentType = 'application/x-amz-json-1.1'

/** Opens the protocol over the APIs that have a target. */
export function awsJson(apis: readonly Api[]): Protocol {
  const rows = new Map<string, Row>()
  for (const api of apis) {
    if (api.target === undefined) continue
    for (const target of [api.target, api.otherTarget ?? api.target]) {
      for (const [name, operation] of api.operations) rows.set(`${target}.${name}`, { operation, signingName: api.signingName })
    }
  }
  return {
    find(headers) {
      const target = headers['x-amz-target']
      const row = typeof target === 'string' ? rows.get(target) : undefined
      if (!row) throw kmsError('UnknownOperationException')
      return row
    },
    readBody: (_operation, body) => readJsonBody(body),
    // Of what answers nothing AWS KMS sends no body; our own clients read one.
    encodeAnswer: ({ output, eventSource }, answer) => ({
      status: 200,
      contentType,
      text: output.length === 0 && eventSource === 'kms.amazonaws.com' ? '' : JSON.stringify(answer),
    }),
    encodeError: encodeJsonError,
  }
}

/** `__type` is the bare name: some clients compare it whole. Errors without words carry it alone; AccessDeniedException spells its text `Message`. */
export function encodeJsonError(error: KmsError): Rendered {
  const text: Record<string, string> = { __type: error.code }
  if (error.message !== '') text[error.code === 'AccessDeniedException' ? 'Message' : 'message'] = error.message
  return { status: error.status, contentType, text: JSON.stringify(text) }
}
