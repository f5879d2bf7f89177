/**
 * The service key, in generations. Under each no more is sealed than AES-GCM with random IVs allows (NIST SP 800-38D 8.3): seals are counted in the
 * store in blocks before they are made, so that a stop can only make the count too high. At `rotateAt` another generation is made, and seals come from that
 * one; what earlier ones sealed is opened by them for ever. Seals of before the count began are within what lies between `rotateAt` and the
 * ceiling of the standard limits.
 *
 * Generation 0 is the system key `service`, generation n is `service/n`. Each is made as every system key: of several processes one makes it,
 * and the next start, or the next block, removes what a stopped one left.
 */

import type { Log } from '../base/log.ts'
import type { Metrics } from '../base/metrics.ts'
import type { Token } from '../hsm/token.ts'
import type { Store } from '../store/store.ts'
import { standardBudget, type BudgetLimits } from './budget.ts'
import { ensureSystemKey, findSystemKey, type ServiceKeyName, type SystemKey } from './system-keys.ts'

export interface ServiceKey {
  /** What to seal with, one seal taken from its budget. Synchronous but once in a block. */
  draw(): SealingKey | Promise<SealingKey>
  /** Undefined for a generation that there is not. */
  find(generation: number): SystemKey | undefined | Promise<SystemKey | undefined>
}

export interface SealingKey extends SystemKey {
  readonly generation: number
}

interface Rooms {
  readonly token: Token
  readonly store: Store
  readonly log: Pick<Log, 'info' | 'error'>
  readonly metrics?: Pick<Metrics, 'count' | 'gauge'>
}

interface Seals {
  readonly generation: number
  /** Made or reserved with it. */
  readonly seals: number
}

const setting = 'service-key/seals'

const nameOf = (generation: number): ServiceKeyName => (generation === 0 ? 'service' : `service/${generation}`)

const readSeals = ({ view }: Pick<Store, 'view'>): Seals => JSON.parse(view.setting(setting) ?? '{"generation":0,"seals":0}') as Seals

/** All generations that there are, the first one first. */
export function serviceKeyNames(store: Pick<Store, 'view'>): readonly ServiceKeyName[] {
  const names: ServiceKeyName[] = []
  while (findSystemKey(store, nameOf(names.length))) names.push(nameOf(names.length))
  return names
}

/** Makes or finds the key. @throws OperatorError when the token does not show the one that is in use. */
export async function openServiceKey(rooms: Rooms, limits: BudgetLimits = standardBudget): Promise<ServiceKey> {
  const { store, log } = rooms
  const failed = rooms.metrics?.count(
    'holdfast_service_key_rotation_failures_total',
    'Attempts to make another service key when one had used its budget of seals; until one succeeds the budget runs out.',
  )
  rooms.metrics?.gauge(
    'holdfast_service_key_budget_share',
    'The share of its budget of seals that the service key has used; another one is made at 0.5, and nothing is sealed at 1.',
    () => readSeals(store).seals / limits.ceiling,
    'max',
  )
  rooms.metrics?.gauge(
    'holdfast_service_key_generation',
    'How often the service key was replaced.',
    () => readSeals(store).generation,
    'max',
  )

  const known = new Map<number, SystemKey>()
  const ensure = async (generation: number): Promise<SystemKey> => {
    const key = await ensureSystemKey(rooms, nameOf(generation), 'wrapping')
    known.set(generation, key)
    return key
  }
  const recall = (generation: number): SystemKey | undefined => {
    const key = known.get(generation) ?? findSystemKey(store, nameOf(generation))
    if (key) known.set(generation, key)
    return key
  }

  await ensure(readSeals(store).generation)

  const account: { key: SealingKey | undefined; left: number; reserving: Promise<void> | undefined } = {
    key: undefined,
    left: 0,
    reserving: undefined,
  }

  /** Another generation, once this one is half used. Undefined when that failed and there is time to try again. */
  const replaced = async ({ generation, seals }: Seals): Promise<Seals | undefined> => {
    if (seals < limits.rotateAt) return undefined
    try {
      await ensure(generation + 1)
      log.info({ generation: generation + 1 }, 'a new service key was made: the one before had used its budget')
      return { generation: generation + 1, seals: 0 }
    } catch (error) {
      failed?.()
      if (seals + limits.block > limits.ceiling) throw error
      log.error(
        { err: error },
        'making a new service key failed, half of the budget of the present one is used; the next block tries again',
      )
      return undefined
    }
  }
  const reserve = async (): Promise<void> => {
    for (;;) {
      const text = store.view.setting(setting)
      const before = readSeals(store)
      const { generation, seals } = (await replaced(before)) ?? before
      if (!(await store.compareAndSetSetting(setting, text, JSON.stringify({ generation, seals: seals + limits.block })))) continue
      const key = recall(generation)
      if (!key) throw new Error(`the store lost its setting of the system key ${nameOf(generation)}`)
      account.key = { ...key, generation }
      account.left = limits.block
      return
    }
  }
  const drawSlowly = async (): Promise<SealingKey> => {
    while (!account.key || account.left === 0) await (account.reserving ??= reserve().finally(() => (account.reserving = undefined)))
    account.left -= 1
    return account.key
  }
  return {
    draw() {
      if (!account.key || account.left === 0) return drawSlowly()
      account.left -= 1
      return account.key
    },
    find(generation) {
      const key = recall(generation)
      // Another process may have made the next one a moment ago.
      if (key || generation !== readSeals(store).generation + 1) return key
      return store.refresh().then(() => recall(generation))
    },
  }
}
