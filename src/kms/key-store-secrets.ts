/**
 * The secrets of custom key stores: the PIN of a token, the secret access key for a proxy. Each is sealed for its key store and nothing else, and opened
 * once for each record of it.
 */

import type { KeyStoreRecord } from '../store/store.ts'
import { seal, unseal } from './seal.ts'
import type { Service } from './service.ts'

const purpose = (keyStoreId: string) => `key-store/${keyStoreId}` as const

export const sealSecret = (service: Service, keyStoreId: string, secret: string): Promise<Buffer> =>
  seal(service, Buffer.from(secret), purpose(keyStoreId))

export type SecretOf = (keyStore: KeyStoreRecord) => Promise<string>

export function openKeyStoreSecrets(service: () => Service): SecretOf {
  const secrets = new WeakMap<KeyStoreRecord, Promise<string>>()
  const open = async ({ id, sealedSecret }: KeyStoreRecord): Promise<string> => {
    const bytes = await unseal(service(), sealedSecret, purpose(id))
    if (!bytes) throw new Error(`the secret of ${id} was not sealed here`)
    const text = bytes.toString()
    bytes.fill(0)
    return text
  }
  return (keyStore) => {
    let secret = secrets.get(keyStore)
    if (!secret) {
      secrets.set(keyStore, (secret = open(keyStore)))
      // The device may have been busy: the next one asks again.
      secret.catch(() => secrets.delete(keyStore))
    }
    return secret
  }
}
