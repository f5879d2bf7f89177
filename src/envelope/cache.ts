/**
 * Data keys that serve several messages, as the AWS Encryption SDK's caching materials manager has them: fewer calls to the KMS and the HSM,
 * for keys that live longer. Off unless somebody opens one.
 *
 * A key serves the messages of one key set, context and suite, up to an age, a number of messages and a number of bytes; what would take it
 * beyond a limit gets a key of its own. Bytes are wiped when an entry goes. A signed message is bound to a key pair of its own, and a
 * stream of unknown length to no number of bytes: both are encrypted under keys that are not kept.
 */

import { createHash } from 'node:crypto'
import type { DataKeyRequest, Keyring } from '../bulk/keyring.ts'
import type { EncryptedDataKey, EncryptionContext } from '../bulk/message.ts'

export interface CacheLimits {
  /** How long a data key is used, from its making. */
  readonly maxAgeMs: number
  /** Messages encrypted under one data key; 2^32 at the most, as in the SDK. */
  readonly maxMessages: number
  /** Plaintext encrypted under one data key. */
  readonly maxBytes: number
  /** Data keys that are kept; the one that was not used for longest goes first. */
  readonly capacity: number
}

export interface CacheOptions extends CacheLimits {
  /** A clock that only goes forward, in milliseconds; the process's own unless told. */
  readonly now?: () => number
}

/** What one message says about itself to the cache. */
export interface CachedUse {
  /** Whose keys these are: the same text for the same keys asked by the same caller, and for nothing else. */
  readonly keySet: string
  /** Of plaintext, where it is known before it is encrypted. */
  readonly plaintextBytes?: number | undefined
  /**
   * Called before a kept data key is used; throws when it may not be. The cache saves the device's work, and who may use a key is asked
   * each time where somebody can be asked.
   */
  readonly permit?: ((request: KeptUse) => Promise<void>) | undefined
}

export interface KeptUse extends DataKeyRequest {
  /** Of a new message all that it will carry; of one that is decrypted the one that the data key came out of. */
  readonly encryptedDataKeys: readonly EncryptedDataKey[]
  /** To encrypt another message. */
  readonly isNew: boolean
}

export interface CacheFigures {
  readonly entries: number
  readonly hits: number
  readonly misses: number
  /** Requests for which nothing is kept. */
  readonly bypassed: number
}

export interface DataKeyCache {
  /** The keyring for one message. */
  wrap(keyring: Keyring, use: CachedUse): Keyring
  figures(): CacheFigures
  /** Wipes everything. */
  close(): void
}

interface Entry {
  readonly dataKey: Buffer
  readonly encryptedDataKeys: readonly EncryptedDataKey[]
  readonly expiresAt: number
  messages: number
  bytes: number
  timer: NodeJS.Timeout
}

export function openDataKeyCache({ maxAgeMs, maxMessages, maxBytes, capacity, now = () => performance.now() }: CacheOptions): DataKeyCache {
  for (const [name, value, most] of [
    ['maxAgeMs', maxAgeMs, 2 ** 31 - 1],
    ['maxMessages', maxMessages, 2 ** 32],
    ['maxBytes', maxBytes, Number.MAX_SAFE_INTEGER],
    ['capacity', capacity, 1_000_000],
  ] as const) {
    if (!Number.isSafeInteger(value) || value < 1 || value > most) throw new RangeError(`${name} must be a whole number from 1 to ${most}`)
  }
  /** The one used longest ago comes first. */
  const entries = new Map<string, Entry>()
  let [hits, misses, bypassed] = [0, 0, 0]
  let closed = false

  const drop = (name: string): void => {
    const entry = entries.get(name)
    if (!entry) return
    clearTimeout(entry.timer)
    entry.dataKey.fill(0)
    entries.delete(name)
  }

  /** The entry, if it may serve one more message of so many bytes; otherwise another takes its place. */
  const find = (name: string, bytes: number): Entry | undefined => {
    const entry = entries.get(name)
    return entry && now() < entry.expiresAt && entry.messages < maxMessages && entry.bytes + bytes <= maxBytes ? entry : undefined
  }

  const keep = (name: string, dataKey: Buffer, encryptedDataKeys: readonly EncryptedDataKey[], madeAt: number, bytes: number): void => {
    drop(name)
    const expiresAt = madeAt + maxAgeMs
    const left = expiresAt - now()
    if (left <= 0 || closed) return
    const timer = setTimeout(() => drop(name), left)
    timer.unref()
    entries.set(name, { dataKey: copyOf(dataKey), encryptedDataKeys, expiresAt, messages: 1, bytes, timer })
    for (const oldest of entries.keys()) {
      if (entries.size <= capacity) break
      drop(oldest)
    }
  }

  /**
   * A copy of a kept data key for the asker to wipe; undefined when its time was over before the use was permitted. The use is counted
   * before anybody waits, so that what runs beside it finds it counted.
   */
  const take = async (name: string, entry: Entry, bytes: number, permit: () => Promise<void> | undefined): Promise<Buffer | undefined> => {
    entry.messages++
    entry.bytes += bytes
    entries.delete(name)
    entries.set(name, entry)
    await permit()
    // It may have been wiped meanwhile.
    if (entries.get(name) !== entry || now() >= entry.expiresAt) return undefined
    hits++
    return copyOf(entry.dataKey)
  }

  return {
    wrap: (keyring, { keySet, plaintextBytes, permit }) => ({
      async encrypting(request) {
        if (plaintextBytes === undefined || plaintextBytes > maxBytes || request.suite.signature || !request.suite.derivation) {
          bypassed++
          return keyring.encrypting(request)
        }
        const name = nameOf('encrypt', keySet, request, [])
        const entry = find(name, plaintextBytes)
        if (entry) {
          const { encryptedDataKeys } = entry
          const dataKey = await take(name, entry, plaintextBytes, () => permit?.({ ...request, encryptedDataKeys, isNew: true }))
          if (dataKey) return { dataKey, encryptedDataKeys }
        }
        misses++
        const madeAt = now()
        const made = await keyring.encrypting(request)
        keep(name, made.dataKey, made.encryptedDataKeys, madeAt, plaintextBytes)
        return made
      },

      async decrypting(request) {
        if (!request.suite.derivation) {
          bypassed++
          return keyring.decrypting(request)
        }
        const name = nameOf('decrypt', keySet, request, request.encryptedDataKeys)
        const entry = entries.get(name)
        if (entry && now() < entry.expiresAt) {
          const { encryptedDataKeys } = entry
          const dataKey = await take(name, entry, 0, () => permit?.({ ...request, encryptedDataKeys, isNew: false }))
          if (dataKey) return { dataKey }
        }
        misses++
        const madeAt = now()
        const found = await keyring.decrypting(request)
        keep(name, found.dataKey, found.from ? [found.from] : request.encryptedDataKeys, madeAt, 0)
        return found
      },
    }),
    figures: () => ({ entries: entries.size, hits, misses, bypassed }),
    close() {
      closed = true
      for (const name of entries.keys()) drop(name)
    },
  }
}

/** In memory of its own: what comes out of Node's pool lies beside whatever else is in it. */
function copyOf(dataKey: Buffer): Buffer {
  const copy = Buffer.alloc(dataKey.length)
  dataKey.copy(copy)
  return copy
}

/** A digest over everything that must be equal, each part with its length, so that no two requests have one name. */
function nameOf(
  what: 'encrypt' | 'decrypt',
  keySet: string,
  { suite, context }: { readonly suite: { readonly id: number }; readonly context: EncryptionContext },
  encryptedDataKeys: readonly EncryptedDataKey[],
): string {
  const hash = createHash('sha512')
  const part = (bytes: Buffer): void => {
    const length = Buffer.alloc(4)
    length.writeUInt32BE(bytes.length)
    hash.update(length).update(bytes)
  }
  const pairs = Object.entries(context).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
  for (const text of [what, keySet, String(suite.id), String(pairs.length), ...pairs.flat()]) part(Buffer.from(text))
  for (const { providerId, providerInfo, ciphertext } of encryptedDataKeys) {
    part(Buffer.from(providerId))
    part(providerInfo)
    part(ciphertext)
  }
  return hash.digest('base64')
}
