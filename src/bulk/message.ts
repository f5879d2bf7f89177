/**
 * Messages of the AWS Encryption SDK, byte by byte: header, frames, footer. A format file: no I/O, no keys.
 */

import type { Suite } from './suites.ts'

export type EncryptionContext = Readonly<Record<string, string>>

export interface EncryptedDataKey {
  /** `aws-kms`, or the namespace of whoever made it. */
  readonly providerId: string
  /** For `aws-kms` the key's ARN. */
  readonly providerInfo: Buffer
  readonly ciphertext: Buffer
}

export interface MessageHeader {
  readonly suite: Suite
  readonly messageId: Buffer
  /** What the message carries: pairs that were kept out are not here. */
  readonly context: EncryptionContext
  readonly encryptedDataKeys: readonly EncryptedDataKey[]
  /** Of plaintext; 0 = the body is one piece without frames (version 1 only). */
  readonly frameLength: number
  /** Of the committing suites: 32 bytes. */
  readonly commitment: Buffer | undefined
}

export interface HeaderLimits {
  /** 64 unless given. */
  readonly maxEncryptedDataKeys: number
}
