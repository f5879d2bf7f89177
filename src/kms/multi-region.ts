/**
 * Multi-Region keys: keys of one id in several regions, with the same material, each in its region's token. One of them is the primary; the
 * others are its replicas. How material comes to them: `replication.ts`.
 */

import { randomBytes, randomUUID } from 'node:crypto'
import type { KeyRecord } from '../store/store.ts'
import { keyArn } from './arn.ts'
import { kmsError, type KmsError } from './errors.ts'
import type { WantedKey } from './origins/origin.ts'
import type { Service } from './service.ts'

/** Held against CreateKey's MultiRegion before the origin is asked. @throws KmsError where such a key cannot be. */
export function checkMultiRegion(wanted: WantedKey): void {
  if (wanted.multiRegion && wanted.customKeyStoreId !== undefined) {
    throw kmsError('UnsupportedOperationException', 'Multi-Region keys are not supported in custom key stores.')
  }
}

/** A new key's id: it says at once whether the key is a multi-Region one. */
export const newKeyId = ({ multiRegion }: Pick<WantedKey, 'multiRegion'>): string =>
  multiRegion ? `mrk-${randomBytes(16).toString('hex')}` : randomUUID()

export const isReplica = (key: KeyRecord): boolean => key.primaryRegion !== null && key.primaryRegion !== key.region

export const isPrimary = (key: KeyRecord): boolean => key.primaryRegion === key.region

/** What rotation, replication and the like belong to: the primary of a multi-Region key, any other key itself. */
export function primaryOf({ store }: Pick<Service, 'store'>, key: KeyRecord): KeyRecord {
  if (!isReplica(key)) return key
  return store.view.key(keyArn(key.primaryRegion ?? '', key.accountId, key.keyId)) ?? key
}

/** All keys of a multi-Region key that there are to a caller, in order of region. */
export const relatedKeys = ({ store }: Pick<Service, 'store'>, { accountId, keyId }: KeyRecord): readonly KeyRecord[] =>
  store.view.multiRegionKeys(accountId, keyId).filter(({ state }) => state !== 'Creating')

/** Of another region: each waits for the primary's deletion, in whatever state. */
export const hasReplicas = ({ store }: Pick<Service, 'store'>, { accountId, keyId }: KeyRecord): boolean =>
  store.view.multiRegionKeys(accountId, keyId).length > 1

export const notPrimary = (arn: string): KmsError => kmsError('UnsupportedOperationException', `${arn} is not a multi-region primary key.`)

/** MultiRegionConfiguration of KeyMetadata. */
export function multiRegionConfiguration(service: Service, key: KeyRecord): Readonly<Record<string, unknown>> {
  const related = relatedKeys(service, key)
  const all = related.some(({ arn }) => arn === key.arn) ? related : [...related, key]
  const shown = ({ arn, region }: KeyRecord) => ({ Arn: arn, Region: region })
  const primaryArn = keyArn(key.primaryRegion ?? '', key.accountId, key.keyId)
  return {
    MultiRegionKeyType: isPrimary(key) ? 'PRIMARY' : 'REPLICA',
    PrimaryKey: { Arn: primaryArn, Region: key.primaryRegion },
    ReplicaKeys: all.filter(isReplica).map(shown),
  }
}
