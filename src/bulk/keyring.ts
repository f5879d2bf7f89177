/**
 * Where the data keys of messages come from. What calls a key service is made elsewhere, for this interface; a key that the caller holds itself
 * (the SDK's raw AES keyring) is here.
 */

import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import { encodePairs, MessageError, type EncryptedDataKey, type EncryptionContext } from './message.ts'
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
  decrypting(request: DataKeyRequest & { readonly encryptedDataKeys: readonly EncryptedDataKey[] }): Promise<FoundDataKey>
}

export interface FoundDataKey {
  readonly dataKey: Buffer
  /** The one that it was in, where that matters to a cache: who may no longer open it may not use what is kept. */
  readonly from?: EncryptedDataKey
}

const ivBits = 96
const tagBits = 128

/**
 * The SDK's raw AES keyring (its specification, framework/raw-aes-keyring.md): data keys are wrapped under a key that the caller holds, AES-256-GCM. Each
 * message has a data key of its own.
 */
export function rawAesKeyring({
  namespace,
  name,
  key,
}: {
  readonly namespace: string
  readonly name: string
  readonly key: Uint8Array
}): Keyring {
  if (namespace === 'aws-kms') throw new RangeError("the namespace aws-kms is the key service's own")
  if (key.length !== 32) throw new RangeError(`the wrapping key has ${key.length} bytes, not 32`)
  const prefix = Buffer.alloc(Buffer.byteLength(name) + 8)
  prefix.write(name)
  prefix.writeUInt32BE(tagBits, prefix.length - 8)
  prefix.writeUInt32BE(ivBits / 8, prefix.length - 4)
  return {
    async encrypting({ suite, context }) {
      const dataKey = randomBytes(suite.keyBytes)
      const iv = randomBytes(ivBits / 8)
      const gcm = createCipheriv('aes-256-gcm', key, iv)
      gcm.setAAD(encodePairs(context))
      const ciphertext = Buffer.concat([gcm.update(dataKey), gcm.final(), gcm.getAuthTag()])
      return { dataKey, encryptedDataKeys: [{ providerId: namespace, providerInfo: Buffer.concat([prefix, iv]), ciphertext }] }
    },
    async decrypting({ suite, context, encryptedDataKeys }) {
      const mine = encryptedDataKeys.filter(
        ({ providerId, providerInfo, ciphertext }) =>
          providerId === namespace &&
          providerInfo.length === prefix.length + ivBits / 8 &&
          providerInfo.subarray(0, prefix.length).equals(prefix) &&
          ciphertext.length === suite.keyBytes + tagBits / 8,
      )
      for (const { providerInfo, ciphertext } of mine) {
        const gcm = createDecipheriv('aes-256-gcm', key, providerInfo.subarray(prefix.length))
        gcm.setAAD(encodePairs(context))
        gcm.setAuthTag(ciphertext.subarray(suite.keyBytes))
        const dataKey = gcm.update(ciphertext.subarray(0, suite.keyBytes))
        try {
          gcm.final()
          return { dataKey }
        } catch {
          // Another key of the same name, or another context.
        }
      }
      throw new MessageError(
        'unauthentic',
        `none of the message's ${encryptedDataKeys.length} encrypted data keys can be opened with the key "${name}" and this encryption context`,
      )
    },
  }
}
