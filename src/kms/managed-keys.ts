/**
 * AWS managed keys, `alias/aws/<service>`: made in an account when a service first names one, shown to the account, and not to be changed by it.
 *
 * A service is whom the configuration says it is: users or roles whose calls count as made through it. Only they can use the key, and for
 * their calls `kms:ViaService` is `<service>.<region>.amazonaws.com` (KMS developer guide, "AWS managed keys" and "kms:ViaService").
 * That nobody can change or delete such a key follows from its policy, which allows the account to look and nothing else.
 */

import { randomUUID } from 'node:crypto'
import type { Principal } from '../auth/principal.ts'
import { StoreConflict, type KeyRecord } from '../store/store.ts'
import { aliasArn, keyArn } from './arn.ts'
import { kmsError } from './errors.ts'
import { createKey } from './material.ts'
import type { Call } from './operation.ts'
import { scheduled } from './rotation.ts'
import type { Service } from './service.ts'

/** ARNs of users and roles by the service that they are: `s3`. */
export type AwsServices = Readonly<Record<string, readonly string[]>>

export interface ManagedKeys {
  /** The service that a caller is, undefined for anybody else. */
  serviceOf(principal: Principal): string | undefined
  /** Makes the key that this call names, if the call is its service's and the key is not there; nothing to wait for otherwise. */
  prepare(call: Call): Promise<void> | undefined
}

const prefix = 'alias/aws/'
/** Members that may name a key by its alias. */
const naming = ['KeyId', 'DestinationKeyId'] as const
/** Long enough for the slowest device to make a key. */
const leaseMs = 60_000
const rotationDays = 365

/** What AWS gives its managed keys: whoever may use the service may use the key through it. */
const policyOf = (accountId: string, region: string, name: string): string =>
  JSON.stringify({
    Version: '2012-10-17',
    Id: `auto-${name}-2`,
    Statement: [
      {
        Sid: `Allow access through ${name} for all principals in the account that are authorized to use ${name}`,
        Effect: 'Allow',
        Principal: { AWS: '*' },
        Action: ['kms:Encrypt', 'kms:Decrypt', 'kms:ReEncrypt*', 'kms:GenerateDataKey*', 'kms:CreateGrant', 'kms:DescribeKey'],
        Resource: '*',
        Condition: { StringEquals: { 'kms:CallerAccount': accountId, 'kms:ViaService': viaService(name, region) } },
      },
      {
        Sid: 'Allow direct access to key metadata to the account',
        Effect: 'Allow',
        Principal: { AWS: `arn:aws:iam::${accountId}:root` },
        Action: ['kms:Describe*', 'kms:Get*', 'kms:List*', 'kms:RevokeGrant'],
        Resource: '*',
      },
    ],
  })

/** The value of `kms:ViaService`. */
export const viaService = (name: string, region: string): string => `${name}.${region}.amazonaws.com`

/** Whether it was made and not named, and another one has the name: nobody was ever told of it, and nothing was encrypted with it. */
function isNameless({ store: { view } }: Service, { arn, region, accountId, managedBy, state }: KeyRecord): boolean {
  if (managedBy === null || state !== 'Enabled') return false
  const named = view.alias(aliasArn(region, accountId, prefix + managedBy))
  return named !== undefined && named.targetKeyArn !== arn && view.backingKeys(arn).every((backing) => backing.encryptionsReserved === 0)
}

/** From here on the lifecycle job destroys it. */
async function discard(service: Service, { arn }: KeyRecord): Promise<void> {
  const { state } = await service.store.updateKey(arn, (current) => (isNameless(service, current) ? { state: 'Destroying' } : {}))
  if (state === 'Destroying') service.log.warn({ key: arn }, 'an AWS managed key was made twice: the one without the name is destroyed')
}

/** For the lifecycle job: what a maker that lost the name and then ended has left. */
export const discardNameless = (service: Service, key: KeyRecord): (() => Promise<void>) | undefined =>
  isNameless(service, key) ? () => discard(service, key) : undefined

export function openManagedKeys(service: () => Service, services: AwsServices): ManagedKeys {
  const byPrincipal = new Map(Object.entries(services).flatMap(([name, arns]) => arns.map((arn) => [arn, name] as const)))
  const under = new Map<string, Promise<void>>()
  const serviceOf = (principal: Principal): string | undefined => byPrincipal.get(principal.session?.roleArn ?? principal.arn)

  const make = async (call: Call, name: string, alias: string): Promise<void> => {
    const { store, instance, clock } = service()
    const lease = `managed key ${alias}`
    // Who gets the lease sees what its earlier holders did: one key, however many instances are asked at once.
    if (!(await store.acquireLease(lease, instance.id, clock.now() + leaseMs, clock.now())))
      throw kmsError('ThrottlingException', 'Rate exceeded')
    try {
      if (store.view.alias(alias)) return
      const { accountId } = call.principal
      const { region, nowMs } = call
      const keyId = randomUUID()
      const draft: KeyRecord = {
        arn: keyArn(region, accountId, keyId),
        region,
        accountId,
        keyId,
        state: 'Creating',
        spec: 'SYMMETRIC_DEFAULT',
        usage: 'ENCRYPT_DECRYPT',
        origin: 'AWS_KMS',
        customKeyStoreId: null,
        xksKeyId: null,
        description: `Default key that protects my ${name} data when no other key is defined`,
        multiRegion: false,
        primaryRegion: null,
        token: service().tokenName(region),
        createdAt: nowMs,
        deletionAt: null,
        deletionWindowDays: null,
        policy: policyOf(accountId, region, name),
        tags: [],
        materialId: null,
        creator: instance.id,
        rotationPeriodDays: null,
        nextRotationAt: null,
        managedBy: name,
        version: 1,
      }
      // One that an interrupted run made and did not name.
      const left = [...store.view.allKeys()].find(
        (key) => key.managedBy === name && key.accountId === accountId && key.region === region && key.state === 'Enabled',
      )
      const key = left ?? (await createKey(service(), { ...draft, ...scheduled(draft, rotationDays, nowMs) }))
      try {
        await store.insertAlias({
          arn: alias,
          region,
          accountId,
          name: prefix + name,
          targetKeyArn: key.arn,
          createdAt: nowMs,
          updatedAt: nowMs,
        })
      } catch (error) {
        // The lease ran out, and its next holder has named another key: that is the one, and what this one made goes.
        if (!(error instanceof StoreConflict)) throw error
        await discard(service(), key)
      }
    } finally {
      await store.releaseLease(lease, instance.id)
    }
  }

  return {
    serviceOf,
    prepare(call) {
      // Who only wants to know whether a call would succeed makes nothing.
      if (byPrincipal.size === 0 || call.input['DryRun'] === true) return undefined
      const name = serviceOf(call.principal)
      if (name === undefined) return undefined
      const alias = aliasArn(call.region, call.principal.accountId, prefix + name)
      const isNamed = naming.some((member) => call.input[member] === prefix + name || call.input[member] === alias)
      if (!isNamed || service().store.view.alias(alias)) return undefined
      let making = under.get(alias)
      if (!making) under.set(alias, (making = make(call, name, alias).finally(() => under.delete(alias))))
      return making
    },
  }
}
