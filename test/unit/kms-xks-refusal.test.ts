/** What KMS is told of a failure: what it may try again is what may pass by itself, and nothing else. */
import { describe, expect, test } from 'vitest'
import { SignatureError } from '../../src/auth/sigv4.ts'
import { TokenError, type TokenFailure, type TokenHealth } from '../../src/hsm/token.ts'
import { KmsError, type ErrorCode } from '../../src/kms/errors.ts'
import { ofDevice, toRefusal, XksRefusal } from '../../src/kms/xks/refusal.ts'
import { errorStatuses, type ErrorName } from '../../src/xks/protocol.ts'
import { InvalidRequest } from '../../src/xks/requests.ts'

/** The developer guide's list: KMS tries nothing else again. */
const retryable: ReadonlySet<ErrorName> = new Set<ErrorName>(['ThrottlingException', 'InternalException', 'DependencyTimeoutException'])
const nameOf = (error: unknown): ErrorName => toRefusal(error).errorName

test('every error has the status that the specification gives it', () => {
  expect(errorStatuses).toEqual({
    ValidationException: 400,
    InvalidStateException: 400,
    InvalidCiphertextException: 400,
    InvalidKeyUsageException: 400,
    AuthenticationFailedException: 401,
    AccessDeniedException: 403,
    KeyNotFoundException: 404,
    InvalidUriPathException: 404,
    ThrottlingException: 429,
    InternalException: 500,
    UnsupportedOperationException: 501,
    DependencyTimeoutException: 503,
  })
})

describe('a failure of the device', () => {
  test.each<[TokenFailure, string | undefined, ErrorName]>([
    ['rejected', 'CKR_ENCRYPTED_DATA_INVALID', 'InvalidCiphertextException'],
    ['rejected', 'CKR_GENERAL_ERROR', 'InvalidCiphertextException'],
    ['rejected', 'CKR_KEY_FUNCTION_NOT_PERMITTED', 'InvalidKeyUsageException'],
    ['missing', undefined, 'InvalidStateException'],
    ['busy', 'CKR_SESSION_COUNT', 'ThrottlingException'],
    ['unsupported', 'CKR_MECHANISM_INVALID', 'UnsupportedOperationException'],
    ['unavailable', 'CKR_DEVICE_REMOVED', 'InternalException'],
  ])('%s (%s) is %s', (failure, code, name) => {
    const error = new TokenError(failure, 'detail for the log', code)
    const refusal = toRefusal(error)
    expect(refusal.errorName).toBe(name)
    expect(refusal.message).not.toContain('detail')
    expect(refusal.cause).toBe(error)
    expect(retryable.has(name)).toBe(failure === 'busy' || failure === 'unavailable')
  })

  test('that did not answer in time is DependencyTimeoutException while the device is there, InternalException when it is not', () => {
    const late = new TokenError('unavailable', 'no answer within 10000 ms')
    const health = (state: TokenHealth['state']) => ({ health: () => ({ state, detail: '', queued: 0, sessions: 1, respawns: 0 }) })
    expect(nameOf(ofDevice(late, health('up')))).toBe('DependencyTimeoutException')
    for (const state of ['starting', 'down', 'stopped-pin'] as const)
      expect(nameOf(ofDevice(late, health(state)))).toBe('InternalException')
    const busy = new TokenError('busy', '')
    expect(ofDevice(busy, health('up'))).toBe(busy)
  })
})

test.each<[ErrorCode, ErrorName]>([
  ['DisabledException', 'InvalidStateException'],
  ['KMSInvalidStateException', 'InvalidStateException'],
  ['LimitExceededException', 'InvalidStateException'],
  ['NotFoundException', 'KeyNotFoundException'],
  ['ThrottlingException', 'ThrottlingException'],
  ['DependencyTimeoutException', 'DependencyTimeoutException'],
  ['UnsupportedOperationException', 'UnsupportedOperationException'],
  ['KMSInternalException', 'InternalException'],
  ['KeyUnavailableException', 'InternalException'],
])('%s of our own is %s', (code, name) => {
  expect(nameOf(new KmsError(code, 'words'))).toBe(name)
})

test('what is none of these says nothing outside, and keeps its cause', () => {
  const defect = new TypeError('x of undefined at secret.ts')
  const refusal = toRefusal(defect)
  expect([refusal.errorName, refusal.cause]).toEqual(['InternalException', defect])
  expect(refusal.message).not.toContain('secret')
  expect(nameOf(new InvalidRequest('plaintext is not base64.'))).toBe('ValidationException')
  expect(nameOf(SignatureError.mismatch())).toBe('AuthenticationFailedException')
  const own = new XksRefusal('KeyNotFoundException', 'gone')
  expect(toRefusal(own)).toBe(own)
})
