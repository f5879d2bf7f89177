/** What a failure that is not yet a KmsError means to the caller. Everything is said to the log, little to the outside. */

import { PolicyError } from '../auth/policy.ts'
import { SignatureError } from '../auth/sigv4.ts'
import { Busy } from '../base/busy.ts'
import { TokenError, type TokenFailure } from '../hsm/token.ts'
import { isErrorCode, KmsError, kmsError, type ErrorCode } from './errors.ts'
import type { Operation, RequestFacts } from './operation.ts'
import type { Service } from './service.ts'

/** The device's failures as AWS's errors. The retryable ones are those where trying again can help. */
const tokenFailures: Record<TokenFailure, { readonly code: ErrorCode; readonly message: string }> = {
  rejected: { code: 'InvalidCiphertextException', message: '' },
  missing: { code: 'KMSInvalidStateException', message: 'The key material is unavailable.' },
  busy: { code: 'ThrottlingException', message: 'Rate exceeded' },
  unavailable: { code: 'DependencyTimeoutException', message: 'The key store did not answer in time. Retry the request.' },
  unsupported: { code: 'UnsupportedOperationException', message: 'The connected token has no mechanism for this operation.' },
}

export function toKmsError(service: Service, operation: Operation, facts: RequestFacts, cause: unknown): KmsError {
  if (cause instanceof KmsError) return cause
  if (cause instanceof SignatureError && isErrorCode(cause.code)) return kmsError(cause.code, cause.message, { cause })
  if (cause instanceof PolicyError) return kmsError('MalformedPolicyDocumentException', cause.message, { cause })
  if (cause instanceof Busy) return kmsError('ThrottlingException', 'Rate exceeded', { cause })
  if (cause instanceof TokenError) {
    const { code, message } = tokenFailures[cause.failure]
    if (cause.failure !== 'rejected') {
      service.log.warn(
        { requestId: facts.requestId, operation: operation.name, failure: cause.failure, ckr: cause.code, detail: cause.message },
        'the token did not do it',
      )
    }
    return kmsError(code, message, { cause })
  }
  service.log.error({ requestId: facts.requestId, operation: operation.name, err: cause }, 'internal failure')
  return kmsError('KMSInternalException', 'The request failed because of an internal error. Retry the request.', { cause })
}
