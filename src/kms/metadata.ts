/** KeyMetadata as DescribeKey and CreateKey answer it. */

import type { KeyRecord } from '../store/store.ts'
import { expirationOf, isExpired } from './import.ts'
import { stateOf } from './key-stores.ts'
import { multiRegionConfiguration } from './multi-region.ts'
import type { Service } from './service.ts'
import { algorithmsOf, isSymmetric, type KeyUsage } from './specs.ts'

/** Seconds since the epoch, as dates travel in AWS's JSON. */
export const seconds = (ms: number): number => ms / 1000

/** The one list of algorithms that a key's answers have, by its usage. */
export const algorithmMembers: Readonly<Record<KeyUsage, string>> = {
  ENCRYPT_DECRYPT: 'EncryptionAlgorithms',
  SIGN_VERIFY: 'SigningAlgorithms',
  GENERATE_VERIFY_MAC: 'MacAlgorithms',
  KEY_AGREEMENT: 'KeyAgreementAlgorithms',
  ENCAPSULATE_DECAPSULATE: 'EncapsulationAlgorithms',
}

export function keyMetadata(service: Service, key: KeyRecord): Readonly<Record<string, unknown>> {
  const state = stateOf(service, key)
  return {
    AWSAccountId: key.accountId,
    KeyId: key.keyId,
    Arn: key.arn,
    CreationDate: seconds(key.createdAt),
    Enabled: state === 'Enabled',
    Description: key.description,
    KeyUsage: key.usage,
    // Destruction under way is still "pending" to a caller: there is no AWS state beyond it.
    KeyState: state === 'Destroying' ? 'PendingDeletion' : state,
    ...(key.deletionAt !== null && { DeletionDate: seconds(key.deletionAt) }),
    ...(key.deletionWindowDays !== null && { PendingDeletionWindowInDays: key.deletionWindowDays }),
    Origin: key.origin,
    ...keyStoreMetadata(service, key),
    ...importedMetadata(service, key),
    KeyManager: key.managedBy === null ? 'CUSTOMER' : 'AWS',
    CustomerMasterKeySpec: key.spec,
    KeySpec: key.spec,
    [algorithmMembers[key.usage as KeyUsage]]: algorithmsOf(key),
    MultiRegion: key.multiRegion,
    ...(key.multiRegion && { MultiRegionConfiguration: multiRegionConfiguration(service, key) }),
    // Of a key in a custom key store AWS shows none.
    ...(key.materialId !== null && isSymmetric(key) && key.customKeyStoreId === null && { CurrentKeyMaterialId: key.materialId }),
  }
}

/** Of keys in a custom key store. */
function keyStoreMetadata({ store }: Service, { customKeyStoreId, xksKeyId }: KeyRecord): Readonly<Record<string, unknown>> {
  if (customKeyStoreId === null) return {}
  const backing = store.view.keyStore(customKeyStoreId)?.backing
  return {
    CustomKeyStoreId: customKeyStoreId,
    ...(backing?.type === 'AWS_CLOUDHSM' && { CloudHsmClusterId: backing.clusterId }),
    ...(xksKeyId !== null && { XksKeyConfiguration: { Id: xksKeyId } }),
  }
}

/** Of keys with imported material, while they have it. */
function importedMetadata(service: Service, key: KeyRecord): Readonly<Record<string, unknown>> {
  const expiration = expirationOf(service, key)
  if (!expiration || isExpired(service, key)) return {}
  const { validTo } = expiration
  return validTo === null
    ? { ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE' }
    : { ExpirationModel: 'KEY_MATERIAL_EXPIRES', ValidTo: seconds(validTo) }
}
