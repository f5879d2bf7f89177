/**
 * The material of a multi-Region key goes from token to token: wrapped by the one for a transport key of the other that its security officer
 * trusts, unwrapped inside the other. It is never in our memory in the clear.
 *
 * What holds at every moment: every key of a multi-Region key that a caller can see has every material that the primary ever encrypted with,
 * and all of them have the same current one. So what one of them encrypts all of them decrypt. Whatever could break this goes through one write
 * (`Store.updateKeys`) over all of these keys, which compares each of them: of a replica and a rotation that are made at once, one
 * sees the other, fetches what it lacks and tries again.
 *
 * Rows come first here too (see `material.ts`): each names an object before it exists, and a stop at any point leaves rows in state
 * `creating`, whose objects the lifecycle job removes. A replica stays `Creating` until it is whole, and goes if it was not finished.
 */

import { TokenError } from '../hsm/token.ts'
import { StoreConflict, type BackingKeyRecord, type KeyChange, type KeyRecord, type KeyState, type RotationType } from '../store/store.ts'
import { kmsError, type KmsError } from './errors.ts'
import { abandonLoudly, generate, newBacking, onToken } from './material.ts'
import { primaryOf, relatedKeys } from './multi-region.ts'
import type { Service } from './service.ts'
import { tokenKind } from './specs.ts'
import { refusal } from './states.ts'
import { newCkaId } from './system-keys.ts'

/** A material of one of the keys, with the key that has it. */
interface Held {
  readonly key: KeyRecord
  readonly backing: BackingKeyRecord
}

/** Something came between: these are to be brought over too before it is tried again. */
class Behind extends Error {
  readonly missing: readonly Held[]
  constructor(missing: readonly Held[]) {
    super('material came between')
    this.missing = missing
  }
}

/** The row of the same material for another key, and an object of its own. */
function copyFor(service: Service, key: KeyRecord, backing: BackingKeyRecord): Held {
  const copy: BackingKeyRecord = {
    ...backing,
    keyArn: key.arn,
    ckaId: newCkaId(service.tokenOf(key)),
    state: 'creating',
    creator: service.instance.id,
    // It is the primary that rotates, and records it.
    rotationRecorded: true,
  }
  return { key, backing: copy }
}

/** From token to token. */
async function bring(service: Service, from: Held, { key, backing }: Held): Promise<void> {
  const target = service.tokenOf(key)
  const transportKey = await target.transportKey()
  if (!transportKey) throw cannotBring(`the token of ${key.region} has no transport key`)
  const { wrapped } = await onToken(service, from.key, () =>
    reasoned(service.tokenOf(from.key).exportKey(from.backing.ckaId, transportKey)),
  )
  await reasoned(target.adoptKey({ kind: tokenKind(key), ckaId: backing.ckaId, label: backing.label, wrapped }))
}

/** What a device cannot or will not do here the caller is told: somebody has to set the tokens up, or choose another kind of key. */
async function reasoned<T>(work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    const isRefused = error instanceof TokenError && (error.failure === 'unsupported' || error.failure === 'rejected')
    throw isRefused ? cannotBring(error.message, error) : error
  }
}

const cannotBring = (why: string, cause?: unknown): KmsError =>
  kmsError('UnsupportedOperationException', `The key material cannot be copied from token to token: ${why}.`, { cause })

/** Runs `work` with the means to make copies; what was begun and is not finished afterwards is removed again. */
async function withCopies<T>(service: Service, work: (copies: Copies) => Promise<T>): Promise<T> {
  const inserted: Held[] = []
  const making: string[] = []
  const insert: Copies['insert'] = async (held, write) => {
    for (const { backing } of held) {
      making.push(backing.ckaId)
      service.making.add(backing.ckaId)
    }
    await write()
    inserted.push(...held)
  }
  try {
    return await work({ inserted, insert })
  } finally {
    for (const { key, backing } of inserted) {
      const state = service.store.view.backingKey(key.arn, backing.materialId)?.state
      if (state !== 'ready') await abandonLoudly(service, key, backing)
    }
    for (const ckaId of making) service.making.delete(ckaId)
  }
}

interface Copies {
  readonly inserted: readonly Held[]
  /** `write` makes their rows. From then on there may be objects. */
  readonly insert: (held: readonly Held[], write: () => Promise<void>) => Promise<void>
}

/**
 * Makes a replica with all material of its primary. `replica` comes in state Creating and goes Enabled.
 * @throws StoreConflict when there is a key of this id in its region already.
 * @throws KmsError when the primary comes into a state in which it is not replicated.
 */
export async function createReplica(service: Service, replica: KeyRecord): Promise<KeyRecord> {
  const { store, making, log } = service
  let isInserted = false
  // Imported material is imported everywhere.
  const isImported = replica.origin === 'EXTERNAL'
  const materialsOf = ({ arn }: KeyRecord): readonly BackingKeyRecord[] =>
    isImported ? [] : store.view.backingKeys(arn).filter(({ state }) => state === 'ready')
  making.add(replica.arn)
  const work = withCopies(service, async ({ inserted, insert }) => {
    let missing: readonly Held[] = materialsOf(primaryOf(service, replica)).map((backing) => copyFor(service, replica, backing))
    const rows = missing.map(({ backing }) => backing)
    await insert(missing, () => store.insertKey(replica, rows, service.config.quotas.keys))
    isInserted = true
    for (;;) {
      for (const copy of missing) {
        const key = primaryOf(service, replica)
        const backing = store.view.backingKey(key.arn, copy.backing.materialId)
        if (!backing) throw new StoreConflict(`replicate ${key.arn}: material ${copy.backing.materialId} is gone`)
        await bring(service, { key, backing }, copy)
      }
      try {
        const keys = await store.updateKeys(replica.keyId, () => {
          const primary = primaryOf(service, store.view.key(replica.arn) ?? replica)
          if (!mayGainReplica.has(primary.state)) throw refusal(primary.arn, primary.state, 'ReplicateKey')
          const later = materialsOf(primary).filter(({ materialId }) => !inserted.some(({ backing }) => backing.materialId === materialId))
          if (later.length > 0) throw new Behind(later.map((backing) => copyFor(service, replica, backing)))
          const others = relatedKeys(service, replica).map(({ arn }) => ({ arn, change: {} }))
          const whole: KeyChange = isImported ? { state: 'PendingImport' } : { state: 'Enabled', materialId: primary.materialId }
          return {
            changes: [{ arn: replica.arn, change: { ...whole, creator: null } }, ...others],
            ready: inserted.map(({ backing }) => backing),
            creator: service.instance.id,
          }
        })
        return keys[0] ?? replica
      } catch (error) {
        if (!(error instanceof Behind)) throw error
        missing = error.missing
        await insertAll(service, missing, insert)
      }
    }
  })
  try {
    return await work
  } finally {
    // One without material went with none.
    const left = store.view.key(replica.arn)
    if (isInserted && left?.state === 'Creating' && store.view.backingKeys(replica.arn).length === 0) {
      await store
        .deleteKey(replica.arn, replica.createdAt)
        .catch((error: unknown) => log.warn({ key: replica.arn, err: error }, 'a replica that failed could not be removed yet'))
    }
    making.delete(replica.arn)
  }
}

/** One that is disabled in the meantime gets the replica that was begun; one whose deletion has begun gets none. */
const mayGainReplica: ReadonlySet<KeyState> = new Set(['Enabled', 'Disabled', 'PendingImport', 'Unavailable'])

async function insertAll(service: Service, missing: readonly Held[], insert: Copies['insert']): Promise<void> {
  for (const held of missing) await insert([held], () => service.store.insertBackingKey(held.backing))
}

/**
 * Gives a multi-Region key new material, everywhere at once: nobody encrypts with it before everybody can decrypt.
 * @param key any key of it: the primary's is made first
 * @param change what becomes of the primary with it; throws to leave all as it is
 * @returns the primary
 * @throws StoreConflict when another rotation came first, or the primary is being destroyed.
 */
export function rotateEverywhere(
  service: Service,
  key: KeyRecord,
  type: RotationType,
  change: (current: KeyRecord) => KeyChange = () => ({}),
): Promise<KeyRecord> {
  const { store } = service
  const before = primaryOf(service, key)
  const ordinal = (store.view.backingKeys(before.arn).at(-1)?.ordinal ?? 0) + 1
  const made: Held = { key: before, backing: newBacking(service, before, ordinal, type) }
  const { materialId } = made.backing
  return withCopies(service, async ({ inserted, insert }) => {
    await insertAll(service, [made], insert)
    await generate(service, before, made.backing)
    for (;;) {
      try {
        const keys = await store.updateKeys(before.keyId, () => {
          const all = relatedKeys(service, before).filter(({ state }) => state !== 'Destroying')
          const primary = all.find(({ arn }) => arn === before.arn)
          if (!primary || primaryOf(service, primary) !== primary)
            throw new StoreConflict(`rotate ${before.arn}: it is no longer a primary`)
          if (primary.materialId !== before.materialId) throw new StoreConflict(`rotate ${before.arn}: another rotation came first`)
          const holder = (arn: string): Held | undefined => inserted.find((copy) => copy.key.arn === arn)
          const behind = all.filter(({ arn }) => !holder(arn))
          if (behind.length > 0) throw new Behind(behind.map((each) => copyFor(service, each, made.backing)))
          const replicas = all.filter((each) => each !== primary)
          return {
            changes: [
              { arn: primary.arn, change: { ...change(primary), materialId } },
              ...replicas.map(({ arn }) => ({ arn, change: { materialId } })),
            ],
            ready: all.flatMap(({ arn }) => holder(arn)?.backing ?? []),
            creator: service.instance.id,
          }
        })
        return keys[0] ?? before
      } catch (error) {
        if (!(error instanceof Behind)) throw error
        await insertAll(service, error.missing, insert)
        for (const copy of error.missing) await bring(service, made, copy)
      }
    }
  })
}
