/** Why a request of KMS is not done, in the protocol's words; and which of them a failure behind the proxy is. */

import { SignatureError } from '../../auth/sigv4.ts'
import { TokenError, type Token, type TokenFailure } from '../../hsm/token.ts'
import type { ErrorName } from '../../xks/protocol.ts'
import { InvalidRequest } from '../../xks/requests.ts'
import { KmsError, type ErrorCode } from '../errors.ts'

/** `message` is for whoever reads KMS's or our log: printable ASCII, nothing secret. */
export class XksRefusal extends Error {
  override readonly name = 'XksRefusal'
  readonly errorName: ErrorName
  constructor(errorName: ErrorName, message: string, options?: ErrorOptions) {
    super(message, options)
    this.errorName = errorName
  }
}

/**
 * KMS tries again only after ThrottlingException, InternalException and DependencyTimeoutException, so whatever may pass by itself is one of these; and a
 * ciphertext is called bad only when a device in good health has said so.
 */
export function toRefusal(error: unknown): XksRefusal {
  if (error instanceof XksRefusal) return error
  if (error instanceof InvalidRequest) return new XksRefusal('ValidationException', error.message)
  if (error instanceof SignatureError) return new XksRefusal('AuthenticationFailedException', error.message)
  if (error instanceof TokenError) return ofToken(error)
  if (error instanceof KmsError) return new XksRefusal(kmsErrors[error.code] ?? 'InternalException', error.message, { cause: error })
  return new XksRefusal('InternalException', 'The proxy failed. Its log says why.', { cause: error })
}

const kmsErrors: Partial<Record<ErrorCode, ErrorName>> = {
  DependencyTimeoutException: 'DependencyTimeoutException',
  DisabledException: 'InvalidStateException',
  InvalidCiphertextException: 'InvalidCiphertextException',
  InvalidKeyUsageException: 'InvalidKeyUsageException',
  KMSInvalidStateException: 'InvalidStateException',
  // The material may not encrypt any more, and only its owner has other.
  LimitExceededException: 'InvalidStateException',
  NotFoundException: 'KeyNotFoundException',
  ThrottlingException: 'ThrottlingException',
  UnsupportedOperationException: 'UnsupportedOperationException',
}

const tokenFailures: Readonly<Record<TokenFailure, readonly [name: ErrorName, message: string]>> = {
  rejected: ['InvalidCiphertextException', 'The ciphertext, its metadata or the additional authenticated data is not what was made here.'],
  missing: ['InvalidStateException', 'The key manager does not show the key.'],
  busy: ['ThrottlingException', 'The key manager is busy.'],
  unsupported: ['UnsupportedOperationException', 'The key manager has no mechanism for this.'],
  unavailable: ['InternalException', 'The key manager is not reachable.'],
}

function ofToken(cause: TokenError): XksRefusal {
  const isUsage = cause.failure === 'rejected' && cause.code === 'CKR_KEY_FUNCTION_NOT_PERMITTED'
  const [name, message] = isUsage
    ? (['InvalidKeyUsageException', 'The key manager does not permit this use of the key.'] as const)
    : tokenFailures[cause.failure]
  return new XksRefusal(name, cause.code === undefined ? message : `${message.slice(0, -1)} (${cause.code}).`, { cause })
}

/** The same for a device that is there and did not answer in time, which the error alone does not tell. */
export function ofDevice(error: unknown, token: Pick<Token, 'health'>): unknown {
  if (!(error instanceof TokenError) || error.failure !== 'unavailable' || token.health().state !== 'up') return error
  return new XksRefusal('DependencyTimeoutException', 'The key manager did not answer in time.', { cause: error })
}

export const tooLate = (): XksRefusal => new XksRefusal('DependencyTimeoutException', 'The key manager did not answer in time.')
