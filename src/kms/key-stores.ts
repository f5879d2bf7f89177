/** What a custom key store means to the keys in it, and to whoever asks for them. How it comes to be connected is told in `key-store-connections`. */

import type { KeyRecord, KeyState, KeyStoreRecord } from '../store/store.ts'
import { kmsError, type KmsError } from './errors.ts'
import { isExpired } from './import.ts'
import type { Call } from './operation.ts'
import type { Service } from './service.ts'

export const keyStoreMissing = (id: string): KmsError =>
  kmsError('CustomKeyStoreNotFoundException', `The custom key store with ID ${id} was not found.`)

/** What AWS's look like; no configured token has such a name. */
export const isKeyStoreId = (name: string): boolean => /^cks-[0-9a-f]{17}$/.test(name)

/** A key store of the caller's account and region. */
export function findKeyStore(
  { store }: Pick<Service, 'store'>,
  { accountId, region }: { readonly accountId: string; readonly region: string },
  id: string,
): KeyStoreRecord {
  const found = store.view.keyStore(id)
  if (found?.accountId !== accountId || found.region !== region) throw keyStoreMissing(id)
  return found
}

/** States that a disconnected key store hides: which of them it is shows again when it is connected. */
const hidden: ReadonlySet<KeyState> = new Set<KeyState>(['Enabled', 'Disabled'])

/**
 * A key's state as it is to callers: Unavailable while its key store is not connected, whatever it is then, unless its deletion is scheduled. What has
 * expired is not used any more, though the lifecycle job, which ends it, may come later.
 */
export function stateOf(service: Pick<Service, 'store' | 'clock'>, key: KeyRecord): KeyState {
  if (key.origin === 'EXTERNAL' && isExpired(service, key)) return 'PendingImport'
  if (key.customKeyStoreId === null || !hidden.has(key.state)) return key.state
  return service.store.view.keyStore(key.customKeyStoreId)?.state === 'CONNECTED' ? key.state : 'Unavailable'
}

/**
 * Whether a key's material can be got at: always, but for keys in a token that is a key store. `changing` is over soon, and `gone` may last.
 */
export function reachOf(service: Service, { origin, customKeyStoreId }: KeyRecord): 'connected' | 'changing' | 'gone' {
  if (origin !== 'AWS_CLOUDHSM' || customKeyStoreId === null) return 'connected'
  const state = service.store.view.keyStore(customKeyStoreId)?.state
  if (state === 'CONNECTED') return service.keyStores.isOpen(customKeyStoreId) ? 'connected' : 'changing'
  return state === 'CONNECTING' || state === 'DISCONNECTING' ? 'changing' : 'gone'
}

/** What a cryptographic operation answers then, and whatever else cannot be done. */
export const keyStoreNotConnected = ({ arn, origin }: KeyRecord): KmsError =>
  kmsError('KMSInvalidStateException', origin === 'EXTERNAL_KEY_STORE' ? proxyNotConnected : `${arn} is unavailable.`)

export const proxyNotConnected =
  'This KMS key is in a custom key store that is not connected to its external key store proxy. Connect the external key store and try the request again.'

/** Which key store had a part in a cryptographic operation is in its record, whatever became of it. */
export function noteKeyStore(call: Pick<Call, 'note'>, key: KeyRecord): void {
  if (key.customKeyStoreId === null) return
  call.note['customKeyStoreId'] = key.customKeyStoreId
  if (key.xksKeyId !== null) call.note['xksKeyId'] = key.xksKeyId
}

export const wrongState = (state: KeyStoreRecord['state'], what: string): KmsError =>
  kmsError('CustomKeyStoreInvalidStateException', `The custom key store cannot ${what} while its connection state is ${state}.`)
