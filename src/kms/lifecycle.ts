/**
 * What happens by itself: keys whose waiting period has ended are destroyed, keys whose rotation is due get new material, what a dead process
 * left half done is finished or undone, imported material expires, keys whose objects are back become usable. One instance at a time does it, under a lease; each step
 * may be stopped anywhere.
 *
 * Which instances are dead is a guess (a process may only have been asleep), so nothing rests on it: what is taken from one is
 * taken in the store first, and a sleeper that wakes up finds that it no longer holds it.
 */

import { setImmediate as turn } from 'node:timers/promises'
import { isRunning } from '../base/running.ts'
import type { Token } from '../hsm/token.ts'
import type { BackingKeyRecord, ImportObject, KeyRecord } from '../store/store.ts'
import { expireMaterial, isLeftImport, removeLeftImports } from './import.ts'
import { reachOf } from './key-stores.ts'
import { removeTogether } from './leftovers.ts'
import { discardNameless } from './managed-keys.ts'
import {
  claimMaterial,
  destroyKey,
  isShown,
  isWhole,
  removeMaterial,
  shownObjects,
  type ClaimedMaterial,
  type ShownObjects,
} from './material.ts'
import { hasReplicas } from './multi-region.ts'
import { bindStoredPolicies } from './policy-principals.ts'
import { keyEvent } from './record.ts'
import { recordRotations, rotateDue } from './rotation.ts'
import type { Service } from './service.ts'

const dayMs = 86_400_000
const leaseName = 'lifecycle'
const heartbeatMs = 5_000
/** An instance that has not been heard of for so long is dead, wherever it ran. */
const deadAfterMs = 30_000
/** At least this long, so that a lease outlives a slow step; it is renewed before each. */
const minLeaseMs = 60_000
/** So many leftovers are removed at once, and between two such lots the lease is renewed. */
const togetherAtMost = 256
/** So many keys are looked at before calls have their turn. */
const keysAtATime = 250

export interface Lifecycle {
  /** One round now: the same at start-up, on the timer and in tests. Rounds never overlap. */
  run(): Promise<void>
  stop(): Promise<void>
}

export function startLifecycle(service: Service): Lifecycle {
  const { store, clock, config, log, instance } = service
  let round: Promise<void> = Promise.resolve()
  let waiting = 0

  const holdLease = (): Promise<boolean> => {
    const now = clock.now()
    return store.acquireLease(leaseName, instance.id, now + Math.max(minLeaseMs, 2 * config.lifecycleIntervalMs), now)
  }
  const oneRound = async (): Promise<void> => {
    const dead = await deadInstances(service)
    // On one host a death is known at once, long before the lease ends.
    for (const id of dead.known) await store.releaseLease(leaseName, id)
    // Each process has its own logins.
    await service.keyStores.follow(dead.isDead)
    if (!(await holdLease())) return
    /** What is to be done about each key by itself. @returns whether we still hold the lease */
    const each = async (steps: readonly Step[]): Promise<boolean> => {
      for (const step of steps) {
        let looked = 0
        for (const { arn } of store.view.allKeys()) {
          if (++looked % keysAtATime === 0) await turn()
          const due = (): { key: KeyRecord; work: () => Promise<void> } | undefined => {
            const key = store.view.key(arn)
            const work = key && step(service, key)
            return work && { key, work }
          }
          if (!due()) continue
          if (!(await holdLease())) return false
          // Asked again: what another holder has done since is in the view now.
          const now = due()
          if (now) await attempt(service, now.key.arn, now.work)
        }
      }
      return true
    }
    /** The same for what is done about many together. */
    const together = async <T>(found: readonly T[], isStill: (one: T) => boolean, work: (some: readonly T[]) => Promise<void>) => {
      for (let from = 0; from < found.length; from += togetherAtMost) {
        if (!(await holdLease())) return false
        await work(found.slice(from, from + togetherAtMost).filter(isStill))
      }
      return true
    }
    const isLeft = (object: ImportObject): boolean => isLeftImport(service, object, dead.isDead)
    const steps: readonly (() => Promise<boolean>)[] = [
      () => each([discardNameless, recoverDead(dead.isDead)]),
      // What has been finished since it was found shows when it is claimed.
      async () =>
        together(
          await leftMaterial(service, dead.isDead),
          () => true,
          (left) => removeLeftMaterial(service, left),
        ),
      () => each([destroyDue, releasePrimary, expireMaterial, reviveUnavailable(), rotateDue, recordRotations]),
      async () => together((await store.importObjects()).filter(isLeft), isLeft, (left) => removeLeftImports(service, left)),
    ]
    for (const step of steps) if (!(await step())) return
    await bindStoredPolicies(store, instance.id, dead.others)
    for (const id of dead.known) await store.removeInstance(id)
  }
  const run = (): Promise<void> => {
    waiting++
    // After the one before, whatever became of that one.
    round = round.then(oneRound, oneRound).finally(() => waiting--)
    return round
  }
  const guarded = (what: string, work: () => Promise<void>) => () => {
    work().catch((error: unknown) => log.error({ err: error }, `${what} failed; it is tried again`))
  }
  const beat = guarded('the heartbeat', () => store.heartbeat({ ...instance, heartbeatAt: clock.now() }))
  // A round that takes longer than the interval is not followed by a queue of others.
  const tick = guarded('the lifecycle round', () => (waiting > 0 ? Promise.resolve() : run()))
  const timers = [setInterval(tick, config.lifecycleIntervalMs), setInterval(beat, heartbeatMs)]
  for (const timer of timers) timer.unref()

  return {
    run,
    async stop() {
      for (const timer of timers) clearInterval(timer)
      await round.catch(() => undefined)
      await store.releaseLease(leaseName, instance.id)
    },
  }
}

interface Dead {
  /** Those that the store still lists. */
  readonly known: readonly string[]
  /** One that the store does not list has ended, or was found dead before. */
  readonly isDead: (id: string) => boolean
  /** The others, without the one that asks. */
  readonly others: ReadonlySet<string>
}

export async function deadInstances({ store, instance, clock }: Pick<Service, 'store' | 'instance' | 'clock'>): Promise<Dead> {
  const listed = await store.instances()
  const known = listed
    .filter(({ id, host, pid, heartbeatAt }) => {
      if (id === instance.id) return false
      return clock.now() - heartbeatAt > deadAfterMs || (host === instance.host && !isRunning(pid))
    })
    .map(({ id }) => id)
  const others = new Set(listed.map(({ id }) => id).filter((id) => id !== instance.id && !known.includes(id)))
  return { known, isDead: (id) => id !== instance.id && !others.has(id), others }
}

/** What is to be done about a key, undefined for nothing. */
export type Step = (service: Service, key: KeyRecord) => (() => Promise<void>) | undefined

/** Finishes or undoes what was begun and left: by instances that are no more, and by this one when the token or the store failed. */
function recoverDead(isDead: (id: string) => boolean): Step {
  return (service, key) => {
    if (key.state === 'Destroying') return reachOf(service, key) === 'changing' ? undefined : () => finishDestruction(service, key)
    return isLeftAlone(service, key, isDead) ? () => service.store.deleteKey(key.arn, key.createdAt) : undefined
  }
}

interface LeftMaterial {
  readonly key: KeyRecord
  readonly left: readonly BackingKeyRecord[]
}

async function leftMaterial(service: Service, isDead: (id: string) => boolean): Promise<readonly LeftMaterial[]> {
  const { store, instance, making } = service
  const isLeft = ({ state, creator, ckaId }: BackingKeyRecord): boolean =>
    state === 'creating' && (creator === instance.id ? !making.has(ckaId) : creator === null || isDead(creator))
  const found: LeftMaterial[] = []
  let looked = 0
  for (const key of store.view.allKeys()) {
    if (++looked % keysAtATime === 0) await turn()
    const left = key.state === 'Destroying' ? [] : store.view.backingKeys(key.arn).filter(isLeft)
    if (left.length > 0 && reachOf(service, key) === 'connected') found.push({ key, left })
  }
  return found
}

function removeLeftMaterial(service: Service, found: readonly LeftMaterial[]): Promise<void> {
  return removeTogether<LeftMaterial, readonly ClaimedMaterial[]>(service, found, {
    arnOf: ({ key }) => key.arn,
    claim: ({ left }) => Promise.all(left.map((backing) => claimMaterial(service, backing))),
    async remove({ key }, claimed) {
      if (await removeMaterial(service, key, claimed))
        service.log.warn({ key: key.arn, state: key.state }, 'key material whose making was interrupted has been removed')
    },
  })
}

/** A key whose making was interrupted when it had no material: a replica that waits for an import. */
function isLeftAlone({ store, instance, making }: Service, { arn, state, creator }: KeyRecord, isDead: (id: string) => boolean): boolean {
  if (state !== 'Creating' || store.view.backingKeys(arn).length > 0) return false
  return creator === instance.id ? !making.has(arn) : creator === null || isDead(creator)
}

/** The last replica has gone: the waiting period of the primary begins. */
const releasePrimary: Step = (service, key) => {
  if (key.state !== 'PendingReplicaDeletion' || hasReplicas(service, key)) return undefined
  return async () => {
    const { state, deletionAt } = await service.store.updateKey(key.arn, (current) =>
      current.state === 'PendingReplicaDeletion' && !hasReplicas(service, current)
        ? {
            state: 'PendingDeletion',
            deletionAt: service.clock.now() + (current.deletionWindowDays ?? 30) * dayMs,
            deletionWindowDays: null,
          }
        : {},
    )
    if (state === 'PendingDeletion')
      service.log.info({ key: key.arn, deletionAt }, 'the last replica is gone: the waiting period has begun')
  }
}

const destroyDue: Step = (service, key) => {
  const isDue = ({ state, deletionAt }: KeyRecord): boolean =>
    state === 'PendingDeletion' && deletionAt !== null && deletionAt <= service.clock.now()
  if (!isDue(key) || reachOf(service, key) === 'changing') return undefined
  return async () => {
    // What the token does not show now could not be destroyed, and might come back after its key was forgotten.
    if (reachOf(service, key) !== 'gone' && !(await isWhole(service, key))) {
      service.log.error(
        { key: key.arn },
        'the waiting period has ended, but the token does not show the objects of this key: nothing is destroyed',
      )
      return
    }
    // From here on it cannot be cancelled; a cancellation that came first is seen by the callback and wins.
    const doomed = await service.store.updateKey(key.arn, (current) => (isDue(current) ? { state: 'Destroying' } : {}))
    if (doomed.state === 'Destroying') await finishDestruction(service, doomed)
  }
}

async function finishDestruction(service: Service, key: KeyRecord): Promise<void> {
  // As at AWS, a key goes when it is due, whether its key store is connected or not. What is left in the token is in the trail, by name.
  if (reachOf(service, key) === 'gone') return forgetKey(service, key)
  const destroyed = await destroyKey(service, key, (count) => recordDestruction(service, key, count))
  if (destroyed > 0) service.log.info({ key: key.arn, objects: destroyed }, 'the waiting period has ended: the key is destroyed')
  else service.log.warn({ key: key.arn }, `the waiting period has ended and ${noneFound}: the key is forgotten`)
}

async function forgetKey(service: Service, key: KeyRecord): Promise<void> {
  const left = service.store.view.backingKeys(key.arn).map(({ ckaId, label }) => ({ ckaId, label }))
  const additional = { customKeyStoreId: key.customKeyStoreId, backingKeysNotDestroyed: left }
  await service.trail.append(keyEvent(service.clock.now(), key, 'DeleteKey', { additional }))
  await service.store.deleteKey(key.arn, key.createdAt)
  service.log.warn(
    { key: key.arn, left },
    'the waiting period has ended and the key store is not connected: the key is forgotten, its objects are left',
  )
}

/** Said when nothing was left to destroy. A fresh agent has looked too: see `Token.destroyKey`. */
const noneFound = 'the token shows no object of this key, which an interrupted run may have destroyed'

async function recordDestruction(service: Service, key: KeyRecord, destroyed: number): Promise<void> {
  const additional = { objectsDestroyed: destroyed, ...(destroyed === 0 && { note: noneFound }) }
  await service.trail.append(keyEvent(service.clock.now(), key, 'DeleteKey', { additional }))
}

/** What the token shows is asked once in a round, and only if a key waits for it: looked for one by one, each missing key would cost an agent. */
function reviveUnavailable(): Step {
  const shown = new Map<Token, Promise<ShownObjects>>()
  return (service, key) => {
    if (key.state !== 'Unavailable' || reachOf(service, key) !== 'connected') return undefined
    return async () => {
      const token = service.tokenOf(key)
      const objects = shown.get(token) ?? token.allObjects().then(shownObjects)
      shown.set(token, objects)
      if (!isShown(service, key, await objects)) return
      await service.store.updateKey(key.arn, (current) => (current.state === 'Unavailable' ? { state: 'Enabled' } : {}))
      service.log.info({ key: key.arn }, 'the objects of this key are back: it is Enabled again')
    }
  }
}

/** Every key is its own attempt: one that fails does not hold up the rest. */
async function attempt(service: Service, arn: string, work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch (error) {
    service.log.error({ key: arn, err: error }, 'a lifecycle step failed; it is tried again')
  }
}
