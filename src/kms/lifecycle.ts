/**
 * What happens by itself: keys whose waiting period has ended are destroyed, what a dead process left half done is finished or undone, keys whose
 * objects are back become usable. One instance at a time does it, under a lease; each step may be stopped anywhere.
 */

import { randomUUID } from 'node:crypto'
import type { KeyRecord } from '../store/store.ts'
import { destroyKey, undoCreation, undoRotation } from './material.ts'
import { eventTime } from './record.ts'
import type { Service } from './service.ts'

const leaseName = 'lifecycle'
const heartbeatMs = 5_000
/** An instance that has not been heard of for so long is dead, wherever it ran. */
const deadAfterMs = 30_000

export interface Lifecycle {
  /** One round now. Rounds never overlap. */
  run(): Promise<void>
  /** What must be done before the first call: finishing what was left, with or without the lease. */
  recover(): Promise<void>
  stop(): Promise<void>
}

export function startLifecycle(service: Service): Lifecycle {
  const { store, clock, config, log, instance } = service
  let round: Promise<void> = Promise.resolve()

  const oneRound = async (): Promise<void> => {
    const now = clock.now()
    if (!(await store.acquireLease(leaseName, instance.id, now + Math.max(60_000, 2 * config.lifecycleIntervalMs), now))) return
    await recoverDead(service)
    await destroyDue(service)
    await reviveUnavailable(service)
  }
  const run = (): Promise<void> => {
    // After the one before, whatever became of that one.
    round = round.then(oneRound, oneRound)
    return round
  }
  const guarded = (what: string, work: () => Promise<void>) => () => {
    work().catch((error: unknown) => log.error({ err: error }, `${what} failed; it is tried again`))
  }
  const beat = guarded('the heartbeat', () => store.heartbeat({ ...instance, heartbeatAt: clock.now() }))
  const timers = [setInterval(guarded('the lifecycle round', run), config.lifecycleIntervalMs), setInterval(beat, heartbeatMs)]
  for (const timer of timers) timer.unref()

  return {
    run,
    recover: () => recoverDead(service),
    async stop() {
      for (const timer of timers) clearInterval(timer)
      await round.catch(() => undefined)
      await store.releaseLease(leaseName, instance.id)
    },
  }
}

/** Ids of instances that are certainly or very probably gone. */
async function deadInstances(service: Service): Promise<(id: string) => boolean> {
  const instances = new Map((await service.store.instances()).map((record) => [record.id, record]))
  const { instance, clock } = service
  return (id) => {
    if (id === instance.id) return false
    const record = instances.get(id)
    if (!record || clock.now() - record.heartbeatAt > deadAfterMs) return true
    return record.host === instance.host && !isRunning(record.pid)
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Finishes or undoes what instances that are no more had begun. Every key is its own attempt: one that fails does not hold up the rest. */
async function recoverDead(service: Service): Promise<void> {
  const { store } = service
  const isDead = await deadInstances(service)
  for (const key of store.view.allKeys()) {
    await attempt(service, key, async () => {
      if (key.state === 'Creating' && key.creator !== null && isDead(key.creator)) {
        await undoCreation(service, key)
        service.log.warn({ key: key.arn }, 'a key whose creation was interrupted before it was answered has been removed')
        return
      }
      if (key.state === 'Creating') return
      if (key.state === 'Destroying') return finishDestruction(service, key)
      for (const backing of store.view.backingKeys(key.arn)) {
        if (backing.state === 'creating' && backing.creator !== null && isDead(backing.creator)) await undoRotation(service, backing)
      }
    })
  }
}

async function destroyDue(service: Service): Promise<void> {
  const now = service.clock.now()
  for (const key of service.store.view.allKeys()) {
    if (key.state !== 'PendingDeletion' || key.deletionAt === null || key.deletionAt > now) continue
    await attempt(service, key, async () => {
      // From here on it cannot be cancelled; a cancellation that came first is seen by the callback and wins.
      const doomed = await service.store.updateKey(key.arn, (current) =>
        current.state === 'PendingDeletion' && current.deletionAt !== null && current.deletionAt <= now ? { state: 'Destroying' } : {},
      )
      if (doomed.state === 'Destroying') await finishDestruction(service, doomed)
    })
  }
}

async function finishDestruction(service: Service, key: KeyRecord): Promise<void> {
  const destroyed = await destroyKey(service, key, (count) => recordDestruction(service, key, count))
  service.log.info({ key: key.arn, objects: destroyed }, 'the waiting period has ended: the key is destroyed')
}

/** CloudTrail's DeleteKey: an event of the service, not a call. */
async function recordDestruction(service: Service, key: KeyRecord, destroyed: number): Promise<void> {
  await service.trail.append({
    eventVersion: '1.11',
    userIdentity: { accountId: key.accountId, invokedBy: 'AWS Internal' },
    eventTime: eventTime(service.clock.now()),
    eventSource: 'kms.amazonaws.com',
    eventName: 'DeleteKey',
    awsRegion: key.region,
    sourceIPAddress: 'AWS Internal',
    userAgent: 'AWS Internal',
    requestParameters: null,
    responseElements: null,
    additionalEventData: { objectsDestroyed: destroyed },
    eventID: randomUUID(),
    readOnly: false,
    resources: [{ accountId: key.accountId, type: 'AWS::KMS::Key', ARN: key.arn }],
    eventType: 'AwsServiceEvent',
    managementEvent: true,
    recipientAccountId: key.accountId,
    serviceEventDetails: { keyId: key.keyId },
    eventCategory: 'Management',
  })
}

async function reviveUnavailable(service: Service): Promise<void> {
  const { store, token } = service
  for (const key of store.view.allKeys()) {
    if (key.state !== 'Unavailable') continue
    await attempt(service, key, async () => {
      for (const backing of store.view.backingKeys(key.arn)) {
        if (backing.state === 'ready' && (await token.objects(backing.ckaId)).length === 0) return
      }
      await store.updateKey(key.arn, (current) => (current.state === 'Unavailable' ? { state: 'Enabled' } : {}))
      service.log.info({ key: key.arn }, 'the objects of this key are back: it is Enabled again')
    })
  }
}

async function attempt(service: Service, key: KeyRecord, work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch (error) {
    service.log.error({ key: key.arn, err: error }, 'a lifecycle step failed; it is tried again')
  }
}
