/**
 * What a failure of an XKS proxy means to the caller: AWS's words for each (developer guide, "Troubleshooting external key stores"; XKS proxy
 * API specification, "Error codes"), the exception by what was being done, and the code that a failed connection shows.
 * The proxy's own text is for the log only.
 */

import type { XksError, XksFailure } from '../xks/client.ts'
import { kmsError, type ErrorCode, type KmsError } from './errors.ts'

interface Meaning {
  readonly message: string
  /** Of CreateCustomKeyStore and UpdateCustomKeyStore. */
  readonly manage: ErrorCode
  /** Of CreateKey. */
  readonly create: ErrorCode
  /** ConnectionErrorCode. */
  readonly connect: string
}

const create = 'CustomKeyStoreInvalidStateException'

const uninterpretable: Meaning = {
  message:
    'AWS KMS cannot interpret the response from the external key store proxy. If you see this error repeatedly, report it to your external key store proxy administrator.',
  manage: 'XksProxyInvalidResponseException',
  create,
  connect: 'XKS_PROXY_INVALID_RESPONSE',
}

const meanings: Record<XksFailure, Meaning> = {
  ValidationException: uninterpretable,
  'invalid-response': uninterpretable,
  InvalidStateException: {
    message: 'The external key store proxy rejected the request because the external key is not enabled in the external key manager.',
    manage: 'XksProxyInvalidConfigurationException',
    create: 'XksKeyInvalidConfigurationException',
    connect: 'XKS_PROXY_INVALID_CONFIGURATION',
  },
  InvalidCiphertextException: {
    message:
      'The external key store proxy rejected the request because the specified ciphertext or additional authenticated data is corrupted, missing, or otherwise invalid.',
    manage: 'XksProxyInvalidResponseException',
    create,
    connect: 'XKS_PROXY_INVALID_RESPONSE',
  },
  InvalidKeyUsageException: {
    message: 'The external key store proxy rejected the request because the external key does not support the requested operation.',
    manage: 'XksProxyInvalidResponseException',
    create: 'XksKeyInvalidConfigurationException',
    connect: 'XKS_PROXY_INVALID_RESPONSE',
  },
  AuthenticationFailedException: {
    message:
      'The external key store proxy rejected the request because it could not authenticate AWS KMS. Verify the credentials for your external key store and update if necessary.',
    manage: 'XksProxyIncorrectAuthenticationCredentialException',
    create,
    connect: 'INVALID_CREDENTIALS',
  },
  AccessDeniedException: {
    message:
      'The external key store proxy denied access to the operation. Verify that the user and the external key are both authorized for this operation, and try the request again.',
    manage: 'XksProxyInvalidConfigurationException',
    create,
    connect: 'XKS_PROXY_ACCESS_DENIED',
  },
  KeyNotFoundException: {
    message: 'The external key store proxy rejected the request because it could not find the external key.',
    manage: 'XksProxyInvalidResponseException',
    create: 'XksKeyNotFoundException',
    connect: 'XKS_PROXY_INVALID_RESPONSE',
  },
  InvalidUriPathException: {
    message:
      'The external key store proxy rejected the request because of an invalid URI path. Verify the URI path for your external key store and update if necessary.',
    manage: 'XksProxyInvalidConfigurationException',
    create,
    connect: 'XKS_PROXY_INVALID_CONFIGURATION',
  },
  UnsupportedOperationException: {
    message: 'The external key store proxy rejected the request because it does not support the requested cryptographic operation.',
    manage: 'XksProxyInvalidResponseException',
    create: 'UnsupportedOperationException',
    connect: 'XKS_PROXY_INVALID_RESPONSE',
  },
  DependencyTimeoutException: {
    message:
      'The external key store proxy did not respond to the request in the time allotted. Retry the request. If you see this error repeatedly, report it to your external key store proxy administrator.',
    manage: 'XksProxyUriUnreachableException',
    create,
    connect: 'XKS_PROXY_TIMED_OUT',
  },
  ThrottlingException: {
    message:
      'The external key store proxy rejected the request due to a very high request rate. Reduce the frequency of your calls using KMS keys in this external key store.',
    manage: 'XksProxyUriUnreachableException',
    create,
    connect: 'XKS_PROXY_NOT_REACHABLE',
  },
  InternalException: {
    message:
      'The external key store proxy rejected the request because it cannot communicate with the external key manager. Verify that the external key store proxy configuration is correct and that the external key manager is available.',
    manage: 'XksProxyInvalidResponseException',
    create,
    connect: 'XKS_PROXY_NOT_REACHABLE',
  },
  unreachable: {
    message:
      'AWS KMS cannot communicate with the external key store proxy. This might be a transient network issue. If you see this error repeatedly, verify that your external key store proxy is active and is connected to the network, and that its endpoint URI is correct in your external key store.',
    manage: 'XksProxyUriUnreachableException',
    create,
    connect: 'XKS_PROXY_NOT_REACHABLE',
  },
  timeout: {
    message:
      'AWS KMS rejected the request because the external key store proxy did not respond in time. Retry the request. If you see this error repeatedly, report it to your external key store proxy administrator.',
    manage: 'XksProxyUriUnreachableException',
    create,
    connect: 'XKS_PROXY_TIMED_OUT',
  },
  tls: {
    message:
      'AWS KMS cannot establish a TLS connection to the external key store proxy. Verify the TLS configuration, including its certificate.',
    manage: 'XksProxyInvalidConfigurationException',
    create,
    connect: 'XKS_PROXY_INVALID_TLS_CONFIGURATION',
  },
  unhealthy: {
    message:
      'The external key store proxy is in an unhealthy state. If you see this message repeatedly, notify your external key store proxy administrator.',
    manage: 'XksProxyUriUnreachableException',
    create,
    connect: 'XKS_PROXY_NOT_REACHABLE',
  },
}

/** Cryptographic operations have one exception for all of it. */
export function xksKmsError(error: XksError, during: 'manage' | 'create' | 'use'): KmsError {
  const meaning = meanings[error.failure]
  return kmsError(during === 'use' ? 'KMSInvalidStateException' : meaning[during], meaning.message, { cause: error })
}

export const connectionErrorCode = (error: XksError): string => meanings[error.failure].connect
