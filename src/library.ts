/**
 * The library, `import … from 'holdfast'`: messages of the AWS Encryption SDK in a program's own process, at the speed of its processors, with data
 * keys from Holdfast or AWS KMS. `scripts/library.mjs` makes plain JavaScript and declarations of it.
 *
 * A stream goes in and comes out as any async iterable does:
 *
 *     const keyring = kmsKeyring({ endpoint, region, credentials, keys: ['alias/app'] })
 *     await pipeline(createReadStream('big.img'), (source) => encryptStream(source, { keyring }), createWriteStream('big.img.enc'))
 */

import { openKmsClients, type KmsClientOptions } from './envelope/kms.ts'
import { kmsKeyring as keyringOver, type KmsKeyring, type KmsKeyringOptions } from './envelope/kms-keyring.ts'

export { decrypt, decryptStream, encrypt, encryptStream, readHeader } from './bulk/stream.ts'
export type { CommitmentPolicy, ReadLimits } from './bulk/header.ts'
export type { DecryptOptions, EncryptOptions, MessageStream } from './bulk/stream.ts'
export { openBulkPool, PoolFailure, type BulkPool, type BulkPoolOptions } from './bulk/bulk-pool.ts'
export { SourceFailure } from './bulk/chunks.ts'
export type { Source } from './bulk/reader.ts'
export { rawAesKeyring, type DataKeyRequest, type Keyring } from './bulk/keyring.ts'
export { MessageError, type EncryptedDataKey, type EncryptionContext, type MessageFault, type MessageHeader } from './bulk/message.ts'
export { signedSuite, suites, unsignedSuite, type Suite } from './bulk/suites.ts'
export {
  openDataKeyCache,
  type CachedUse,
  type CacheFigures,
  type CacheLimits,
  type CacheOptions,
  type DataKeyCache,
} from './envelope/cache.ts'
export { KmsFailure } from './envelope/kms.ts'
export { DataKeyError, type Discovery, type KeyFailure } from './envelope/kms-keyring.ts'

export interface KmsOptions extends KmsClientOptions, Pick<KmsKeyringOptions, 'region' | 'grantTokens'> {
  /** Ids, ARNs, aliases or alias ARNs; the first generates data keys, and only these are asked to decrypt. Without them: discovery. */
  readonly keys?: readonly string[]
  /** Which of a message's keys may be asked, where none are named; all of them unless given. */
  readonly discovery?: KmsKeyringOptions['discovery']
}

/** A keyring over KMS keys, called with signed requests over connections of its own. @throws DataKeyError when the keys cannot be meant so */
export function kmsKeyring(options: KmsOptions): KmsKeyring & { /** Ends idle connections. */ close(): void } {
  const { keys = [], discovery, region, grantTokens } = options
  const clients = openKmsClients(options)
  const keyring = keyringOver({ kms: clients.of, region, keys, grantTokens, discovery: discovery ?? (keys.length > 0 ? undefined : {}) })
  return { ...keyring, close: () => clients.close() }
}
