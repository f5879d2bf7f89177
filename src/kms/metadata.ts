/** KeyMetadata as DescribeKey and CreateKey answer it. */

import type { KeyRecord } from '../store/store.ts'
import { expirationOf } from './import.ts'
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
  return {
    AWSAccountId: key.accountId,
    KeyId: key.keyId,
    Arn: key.arn,
    CreationDate: seconds(key.createdAt),
    Enabled: key.state === 'Enabled',
    Description: key.description,
    KeyUsage: key.usage,
    // Destruction under way is still "pending" to a caller: there is no AWS state beyond it.
    KeyState: key.state === 'Destroying' ? 'PendingDeletion' : key.state,
    ...(key.deletionAt !== null && { DeletionDate: seconds(key.deletionAt) }),
    Origin: key.origin,
    ...importedMetadata(service, key),
    KeyManager: 'CUSTOMER',
    CustomerMasterKeySpec: key.spec,
    KeySpec: key.spec,
    [algorithmMembers[key.usage as KeyUsage]]: algorithmsOf(key),
    MultiRegion: key.multiRegion,
    ...(key.materialId !== null && isSymmetric(key) && { CurrentKeyMaterialId: key.materialId }),
  }
}

/** Of keys with imported material, while they have it. */
function importedMetadata(service: Service, key: KeyRecord): Readonly<Record<string, unknown>> {
  const expiration = expirationOf(service, key)
  if (!expiration) return {}
  const { validTo } = expiration
  return validTo === null
    ? { ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE' }
    : { ExpirationModel: 'KEY_MATERIAL_EXPIRES', ValidTo: seconds(validTo) }
}
