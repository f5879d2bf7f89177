/** Multi-Region keys: replicas made, the primary moved. */

import { StoreConflict, type KeyRecord } from '../../store/store.ts'
import { permitResource } from '../access.ts'
import { keyArn } from '../arn.ts'
import { kmsError } from '../errors.ts'
import { keyFrom, keyMissing } from '../keys.ts'
import { keyMetadata } from '../metadata.ts'
import { isPrimary, notPrimary, primaryOf, relatedKeys } from '../multi-region.ts'
import { namesKey, operation, type Call } from '../operation.ts'
import { keyEvent, recordElsewhere, synchronization } from '../record.ts'
import { createReplica } from '../replication.ts'
import { boolean, keyId, optional, string } from '../shape.ts'
import { checkKind } from '../specs.ts'
import { refusal } from '../states.ts'
import { checkKeyQuota, defaultPolicy, readKeyPolicy } from './keys.ts'
import { policyText, tagList } from './members.ts'
import { readTags } from './tags.ts'

const region = string({ min: 1, max: 32, pattern: /^([a-z]+-){2,3}\d+$/ })

const requirePrimary = (key: KeyRecord): void => {
  if (!isPrimary(key)) throw notPrimary(key.arn)
}

export const ReplicateKey = operation({
  input: {
    KeyId: keyId,
    ReplicaRegion: region,
    Policy: optional(policyText),
    BypassPolicyLockoutSafetyCheck: optional(boolean, false),
    Description: optional(string({ max: 8192 })),
    Tags: optional(tagList),
  },
  output: ['ReplicaKeyMetadata', 'ReplicaPolicy', 'ReplicaTags'],
  keys: { primary: keyFrom('KeyId', { verify: requirePrimary }) },
  readOnly: false,
  responseElements: ({ ReplicaKeyMetadata, ReplicaPolicy, ReplicaTags }) => ({
    replicaKeyMetadata: ReplicaKeyMetadata,
    replicaPolicy: ReplicaPolicy,
    replicaTags: ReplicaTags,
  }),
  async run(call, input, { primary }) {
    const { service } = call
    const { accountId } = primary
    const there: Call = { ...call, region: input.ReplicaRegion }
    if (!service.config.regions.includes(there.region)) {
      throw kmsError('UnsupportedOperationException', `Region ${there.region} is not served here.`)
    }
    const arn = keyArn(there.region, accountId, primary.keyId)
    const given = input.Policy ?? defaultPolicy(accountId)
    const draft: KeyRecord = {
      ...primary,
      arn,
      region: there.region,
      state: 'Creating',
      description: input.Description ?? '',
      token: service.tokenName(there.region),
      createdAt: call.nowMs,
      deletionAt: null,
      deletionWindowDays: null,
      policy: '',
      tags: readTags(input.Tags ?? [], [], service.config.quotas.tagsPerKey),
      materialId: null,
      creator: service.instance.id,
      rotationPeriodDays: null,
      nextRotationAt: null,
      version: 1,
    }
    const asCreated = { record: { ...draft, tags: [] }, alias: undefined }
    permitResource(there, 'kms:CreateKey', '*', asCreated)
    if (draft.tags.length > 0) permitResource(there, 'kms:TagResource', arn, asCreated)
    const policy = readKeyPolicy(there, given, { arn, accountId }, input.BypassPolicyLockoutSafetyCheck ?? false)
    const replica: KeyRecord = { ...draft, policy }
    const exists = (cause?: unknown) => kmsError('AlreadyExistsException', `Key '${arn}' already exists`, { cause })
    if (service.store.view.key(arn)) throw exists()
    checkKeyQuota(there)
    checkKind(service.tokenOf(replica), replica)
    try {
      await createReplica(service, replica)
    } catch (error) {
      // Somebody else made it, or is at it.
      if (error instanceof StoreConflict && service.store.view.key(arn)) throw exists(error)
      if (error instanceof StoreConflict) checkKeyQuota(there)
      throw error
    }
    call.touched.push({ arn, accountId, type: 'AWS::KMS::Key' })
    // As at AWS: two events, each in its region.
    const additional = { primaryKeyArn: primary.arn, requestID: call.facts.requestId }
    const now = service.clock.now()
    await Promise.all([
      service.trail.append(keyEvent(now, replica, 'CreateKey', { additional })),
      service.trail.append(synchronization(now, primaryOf(service, replica))),
    ])
    return {
      // As it began: AWS answers so, and clients wait for Enabled from here on.
      ReplicaKeyMetadata: keyMetadata(service, replica),
      ReplicaPolicy: given,
      ReplicaTags: replica.tags.map(({ key, value }) => ({ TagKey: key, TagValue: value })),
    }
  },
})

export const UpdatePrimaryRegion = operation({
  input: { KeyId: keyId, PrimaryRegion: region },
  output: [],
  keys: {
    primary: keyFrom('KeyId', { verify: requirePrimary }),
    next: {
      find(call, input: { readonly KeyId: string; readonly PrimaryRegion: string }) {
        const { record } = keyOf(call, input)
        // What is no primary is told so, whatever region is named; what is another account's is denied before anything is said of it.
        if (!isPrimary(record) || record.accountId !== call.principal.accountId) return undefined
        const arn = keyArn(input.PrimaryRegion, record.accountId, record.keyId)
        const found = relatedKeys(call.service, record).find((each) => each.arn === arn)
        if (!found) throw keyMissing(arn)
        return { record: found, alias: undefined }
      },
    },
  },
  readOnly: false,
  responseElements: namesKey,
  async run(call, input, { primary, next }) {
    const { service } = call
    // In one write over all of them, so that there is never more than one primary, nor none; nobody sees AWS's Updating.
    await service.store.updateKeys(primary.keyId, () => {
      const all = relatedKeys(service, primary)
      const [from, to] = [primary.region, input.PrimaryRegion].map((each) => all.find((key) => key.region === each))
      if (!from) throw keyMissing(primary.arn)
      if (!isPrimary(from)) throw notPrimary(from.arn)
      if (!to) throw keyMissing(keyArn(input.PrimaryRegion, primary.accountId, primary.keyId))
      for (const { arn, state } of [from, to]) if (state !== 'Enabled') throw refusal(arn, state, call.operation.name)
      const { rotationPeriodDays, nextRotationAt } = from
      const unfinished = service.store.view.multiRegionKeys(primary.accountId, primary.keyId).filter(({ state }) => state === 'Creating')
      return {
        changes: [...all, ...unfinished].map(({ arn }) => ({
          arn,
          change: {
            primaryRegion: to.region,
            // The schedule of rotation goes with the primary.
            rotationPeriodDays: arn === to.arn ? rotationPeriodDays : null,
            nextRotationAt: arn === to.arn ? nextRotationAt : null,
          },
        })),
      }
    })
    if (next.arn !== primary.arn) {
      // As at AWS: two events, each of one key, in its region.
      call.touched.splice(0, call.touched.length, ...call.touched.filter(({ arn }) => arn !== next.arn))
      await service.trail.append(recordElsewhere(call, next, { keyId: next.arn, primaryRegion: next.region }))
    }
    return {}
  },
})

const keyOf = (call: Call, input: { readonly KeyId: string }) => {
  const found = keyFrom('KeyId').find(call, input)
  if (!found) throw new Error('KeyId is required')
  return found
}
