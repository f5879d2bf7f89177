/** What a wire protocol must do for a call: find its operation, read its body, and put answers and errors into bytes. */

import type { IncomingHttpHeaders } from 'node:http'
import type { KmsError } from '../kms/errors.ts'
import type { Operation } from '../kms/operation.ts'

/** An operation and the service name that callers sign it for. */
export interface Row {
  readonly operation: Operation
  readonly signingName: string
}

export interface Rendered {
  readonly status: number
  readonly contentType: string
  readonly text: string
}

export interface Protocol {
  /** Answers the operation's row. @throws KmsError UnknownOperationException. */
  find(headers: IncomingHttpHeaders, body: Buffer): Row
  /** @throws KmsError SerializationException. */
  readBody(operation: Operation, body: Buffer): Readonly<Record<string, unknown>>
  encodeAnswer(operation: Operation, answer: Readonly<Record<string, unknown>>, requestId: string): Rendered
  encodeError(error: KmsError, requestId: string): Rendered
}
