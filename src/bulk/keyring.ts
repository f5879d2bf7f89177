/**
 * Where the data keys of messages come from. What calls a key service is made elsewhere, for this interface; a key that the caller holds itself
 * (the SDK's raw AES keyring) is here.
 */

import type { EncryptionContext, EncryptedDataKey } from './message.ts'
import type { Suite } from './suites.ts'

export interface DataKeyRequest {
  readonly suite: Suite
  /** The whole of it: what the caller gave, kept out of the message or not, and `aws-crypto-public-key` of a signed one. */
  readonly context: EncryptionContext
}

export interface Keyring {
  /**
   * A data key of `suite.keyBytes` bytes, and what the message is to carry of it: at least one. The bytes are the asker's, who wipes them: a cache hands
   * out a copy.
   */
  encrypting(request: DataKeyRequest): Promise<{ readonly dataKey: Buffer; readonly encryptedDataKeys: readonly EncryptedDataKey[] }>
  /** The data key that one of them holds; the asker wipes it. @throws when none of them can be opened, saying why for each. */
  decrypting(request: DataKeyRequest & { readonly encryptedDataKeys: readonly EncryptedDataKey[] }): Promise<{ readonly dataKey: Buffer }>
}
