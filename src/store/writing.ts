/** What every write of the store is made of: a list of steps that is one transaction, and compare-and-swap on a record's version. */

import type { CompiledQuery } from 'kysely'
import type { Log } from '../base/log.ts'
import type { Backend, Step } from './backend.ts'
import type { Feed } from './feed.ts'
import type { ChangeKind } from './schema.ts'
import { StoreConflict, type View } from './store.ts'

/** Of two racing processes one always wins, so this many losses in a row mean a fault and not a race. */
const maxSwapTries = 100

export interface Writing {
  readonly sql: Backend['sql']
  readonly view: View
  /** Runs the steps as one transaction; when it resolves, what was written is in the view and told to others. */
  readonly write: (what: string, steps: readonly Step[]) => Promise<readonly (readonly unknown[])[]>
  /** A compare-and-swap whose answer is whether it went through. Whoever lost is to see what won. */
  readonly attempted: (what: string, steps: readonly Step[]) => Promise<boolean>
  /** Compare-and-swap on `version`, again and again: `attempt` answers undefined when another process came between. */
  readonly untilSwapped: <T>(id: string, attempt: () => Promise<T | undefined>) => Promise<T>
  /** Tells that this record changed. */
  readonly changed: (kind: ChangeKind, id: string) => Step
}

export interface WritingOptions {
  readonly log: Log | undefined
  readonly keptChanges: number
  readonly onWritten: (() => Promise<void>) | undefined
}

export function openWriting(backend: Backend, view: View, feed: Feed, { log, keptChanges, onWritten }: WritingOptions): Writing {
  const { sql } = backend
  let prunedAt = 0
  const write = async (what: string, steps: readonly Step[]): Promise<readonly (readonly unknown[])[]> => {
    const answers = await backend.write(what, steps)
    await feed.followCommitted()
    await onWritten?.()
    const seen = feed.seen()
    if (seen - prunedAt > keptChanges) {
      prunedAt = seen
      const upTo = seen - keptChanges
      backend
        .write('prune changes', [
          { query: sql.updateTable('changes_floor').set({ seq: upTo }).where('seq', '<', upTo).compile() },
          { query: sql.deleteFrom('changes').where('seq', '<=', upTo).compile() },
        ])
        .catch((error: unknown) => log?.warn({ err: error }, 'changes not pruned'))
    }
    return answers
  }

  /** Runs read-modify-write tasks on one record one after the other; only other processes are left to race with. */
  const tails = new Map<string, Promise<unknown>>()
  const inTurn = <T>(id: string, task: () => Promise<T>): Promise<T> => {
    const turn = (tails.get(id) ?? Promise.resolve()).then(task, task)
    tails.set(id, turn)
    const leave = (): void => {
      if (tails.get(id) === turn) tails.delete(id)
    }
    turn.then(leave, leave)
    return turn
  }

  const untilSwapped = <T>(id: string, attempt: () => Promise<T | undefined>): Promise<T> =>
    inTurn(id, async () => {
      for (let tries = 0; tries < maxSwapTries; tries++) {
        await feed.follow()
        const done = await attempt()
        if (done !== undefined) return done
      }
      throw new StoreConflict(`update ${id}: other processes changed it ${maxSwapTries} times in a row`)
    })

  return {
    sql,
    view,
    write,
    untilSwapped,
    async attempted(what, steps) {
      const done = await swapped(write(what, steps))
      if (!done) await feed.follow()
      return done
    },
    changed: (kind, id) => ({ query: sql.insertInto('changes').values({ kind, id }).compile() }),
  }
}

/** For a step that must touch exactly one row. */
export const one = (query: CompiledQuery): Step => ({ query, rows: 1 })

/** Whether a compare-and-swap went through; a conflict is its answer, not an error. */
export async function swapped(write: Promise<unknown>): Promise<boolean> {
  try {
    await write
    return true
  } catch (error) {
    if (error instanceof StoreConflict) return false
    throw error
  }
}
