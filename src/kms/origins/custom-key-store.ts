/** What the two origins of custom key stores have in common: the key store that CreateKey names, and what can live in one. */

import type { KeyStoreRecord } from '../../store/store.ts'
import { kmsError } from '../errors.ts'
import { findKeyStore, proxyNotConnected, wrongState } from '../key-stores.ts'
import type { Call } from '../operation.ts'
import type { WantedKey } from './origin.ts'

/** For the origins whose keys live in no key store. */
export function refuseKeyStore(call: Call, wanted: WantedKey, origin: string): void {
  const { customKeyStoreId } = wanted
  if (customKeyStoreId !== undefined) {
    const { backing } = findKeyStore(call.service, { accountId: call.principal.accountId, region: call.region }, customKeyStoreId)
    throw kmsError('ValidationException', `Origin ${origin} is not valid for a custom key store of type ${backing.type}.`)
  }
  refuseExternalKey(wanted)
}

export function refuseExternalKey({ xksKeyId }: WantedKey): void {
  if (xksKeyId !== undefined) {
    throw kmsError('ValidationException', 'XksKeyId is valid only with Origin EXTERNAL_KEY_STORE and a CustomKeyStoreId.')
  }
}

/** @throws KmsError unless it is there, of this type, and connected. */
export function connectedKeyStore(call: Call, wanted: WantedKey, type: KeyStoreRecord['backing']['type']): KeyStoreRecord {
  if (wanted.customKeyStoreId === undefined) {
    throw kmsError('ValidationException', `You must specify a CustomKeyStoreId for a KMS key with Origin ${type}.`)
  }
  if (wanted.spec !== 'SYMMETRIC_DEFAULT') {
    throw kmsError('UnsupportedOperationException', `KeySpec ${wanted.spec} is not supported in a custom key store.`)
  }
  if (wanted.multiRegion) throw kmsError('UnsupportedOperationException', 'Multi-Region keys are not supported in a custom key store.')
  const keyStore = findKeyStore(call.service, { accountId: call.principal.accountId, region: call.region }, wanted.customKeyStoreId)
  if (keyStore.backing.type !== type) {
    throw kmsError('ValidationException', `Origin ${type} is not valid for a custom key store of type ${keyStore.backing.type}.`)
  }
  if (keyStore.state !== 'CONNECTED') {
    throw type === 'EXTERNAL_KEY_STORE'
      ? kmsError('CustomKeyStoreInvalidStateException', proxyNotConnected)
      : wrongState(keyStore.state, 'create KMS keys')
  }
  return keyStore
}
