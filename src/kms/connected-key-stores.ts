/**
 * Custom key stores while the service runs: what is connected to what. The record in the store says what a key store's state is; a process follows it
 * (`key-store-connections`). Each process logs in to the token of a connected key store itself (`key-store-logins`), when it starts or when the first call
 * needs it, and asks the proxies for their health (`key-store-health`).
 */

import type { Token } from '../hsm/token.ts'
import type { KeyRecord, KeyStoreRecord } from '../store/store.ts'
import type { ProxySettings, XksClient } from '../xks/client.ts'
import { kmsError } from './errors.ts'
import { openKeyStoreConnections, type KeyStoreConnections } from './key-store-connections.ts'
import { openKeyStoreWatch, type KeyStoreHealth } from './key-store-health.ts'
import { openKeyStoreLogins, type TokenOpeners } from './key-store-logins.ts'
import { openKeyStoreSecrets } from './key-store-secrets.ts'
import type { Service } from './service.ts'

export interface KeyStoreRooms {
  /** Tokens that a key store of type AWS_CLOUDHSM can be. */
  readonly keyStoreTokens: TokenOpeners
  readonly xks: XksClient
  /** How often connected proxies are asked for their health; 0 and absent for never. */
  readonly healthIntervalMs?: number
}

export interface KeyStores extends KeyStoreRooms, Pick<KeyStoreConnections, 'connect' | 'disconnect'> {
  /** The token of a connected key store. @throws KmsError when it is not connected, or not logged in to here: see `ready`. */
  tokenOf(keyStoreId: string): Token
  /** Whether `tokenOf` has it. */
  isOpen(keyStoreId: string): boolean
  /** Logs in to the key store of a key, if it is connected and this process has not yet. At once for other keys. */
  ready(key: KeyRecord): Promise<void> | undefined
  /** The same for a key store that is connected and a token. */
  openTokenOf(keyStore: KeyStoreRecord): Promise<void> | undefined
  /** Where the proxy of a key store is, with its secret. */
  proxyOf(keyStore: KeyStoreRecord): Promise<ProxySettings>
  /** What the proxies of connected external key stores said of their health, as far as this process asked. */
  health(): readonly KeyStoreHealth[]
  /** Does here what the records say by now, and ends what a dead process was at; asks proxies for their health when that is due. */
  follow(isDead: (instance: string) => boolean): Promise<void>
  /** With the client of the proxies. */
  close(): Promise<void>
}

export function openKeyStores(service: () => Service, rooms: KeyStoreRooms): KeyStores {
  const { keyStoreTokens: openers, xks } = rooms
  const secretOf = openKeyStoreSecrets(service)

  const proxyOf = async (keyStore: KeyStoreRecord): Promise<ProxySettings> => {
    const { backing, region } = keyStore
    if (backing.type !== 'EXTERNAL_KEY_STORE') throw new Error(`${keyStore.id} has no proxy`)
    return {
      endpoint: backing.uriEndpoint,
      path: backing.uriPath,
      region,
      accessKeyId: backing.accessKeyId,
      secretAccessKey: await secretOf(keyStore),
    }
  }

  const logins = openKeyStoreLogins(openers, secretOf)
  const connections = openKeyStoreConnections(service, { openers, xks, proxyOf, logins })
  const watch = openKeyStoreWatch(service, { xks, proxyOf, intervalMs: rooms.healthIntervalMs ?? 0 })

  const findConnected = (id: string): KeyStoreRecord | undefined => {
    const keyStore = service().store.view.keyStore(id)
    return keyStore?.state === 'CONNECTED' ? keyStore : undefined
  }
  const findToken = (id: string): Token | undefined => {
    const keyStore = findConnected(id)
    return keyStore && logins.find(keyStore)
  }
  const openTokenOf = (keyStore: KeyStoreRecord): Promise<void> | undefined =>
    findToken(keyStore.id) ? undefined : connections.login(keyStore)

  return {
    ...rooms,
    proxyOf,
    openTokenOf,
    connect: (keyStoreId, requestId) => connections.connect(keyStoreId, requestId),
    disconnect: (keyStoreId) => connections.disconnect(keyStoreId),
    isOpen: (keyStoreId) => findToken(keyStoreId) !== undefined,
    tokenOf(keyStoreId) {
      const token = findToken(keyStoreId)
      if (token) return token
      throw kmsError('KMSInvalidStateException', 'The custom key store of this key is not connected.')
    },
    ready(key) {
      if (key.origin !== 'AWS_CLOUDHSM' || key.customKeyStoreId === null) return undefined
      const keyStore = findConnected(key.customKeyStoreId)
      return keyStore && openTokenOf(keyStore)
    },
    // One that was disconnected since is none to tell of.
    health: () => watch.read().filter(({ keyStore }) => findConnected(keyStore.id) !== undefined),
    async follow(isDead) {
      await connections.follow(isDead)
      watch.lookWhenDue()
    },
    async close() {
      await Promise.all([connections.close(), watch.close()])
      await logins.closeUnless(() => false)
      xks.close()
    },
  }
}
