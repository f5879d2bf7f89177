/** Opens the store: a database below, its records in memory above (`feed.ts`), and its writes by what they concern. */

import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import { openAliases } from './aliases.ts'
import type { Backend } from './backend.ts'
import { openFeed } from './feed.ts'
import { openGrants, type GrantStore } from './grants.ts'
import { openIdentities } from './identities.ts'
import { openInstances } from './instances.ts'
import { openKeyStores } from './key-stores.ts'
import { openKeys } from './keys.ts'
import { openMaterials } from './materials.ts'
import { migrate, requireVersion } from './migrations.ts'
import { openSqlite } from './sqlite.ts'
import type { Store } from './store.ts'
import { openUsageTables } from './usage.ts'
import { openView } from './view.ts'
import { openWriting, type Writing } from './writing.ts'
import { openXksStores } from './xks-stores.ts'

export interface StoreOptions {
  /** The SQLite file; made with its directory if missing. */
  readonly file: string
  readonly clock: Clock
  readonly log?: Log
  /** How often to look for changes of other processes. */
  readonly pollMs?: number
  /** After each write that the view follows, before its caller goes on: so that others may be told of it. Never rejects. */
  readonly onWritten?: () => Promise<void>
  /** The file must exist and be of this program's version; it is not changed, and every write fails. */
  readonly readOnly?: boolean
  /** How many changes are kept for the others to catch up by; one that fell further behind loads everything again. */
  readonly keptChanges?: number
}

/**
 * Opens the store, migrating the database first unless it is only to be read.
 * @throws StoreFailure when the file cannot be opened, belongs to a newer program, or is only to be read and belongs to an older one.
 */
export async function openStore(options: StoreOptions): Promise<Store> {
  const backend = await openSqlite({ file: options.file, pollMs: options.pollMs ?? 200, readOnly: options.readOnly ?? false })
  try {
    return await openStoreOn(backend, options)
  } catch (error) {
    await backend.close()
    throw error
  }
}

/** The store on a back end that is open. Owns it from here on. */
export async function openStoreOn(backend: Backend, options: Omit<StoreOptions, 'file' | 'pollMs'>): Promise<Store> {
  const { clock, log } = options
  if (options.readOnly) await requireVersion(backend)
  else await migrate(backend, clock)

  const view = openView()
  // Grants are written like everything else, and what is kept of them in memory is forgotten by the feed: a circle, closed here.
  const grants: GrantStore = openGrants(backend, (what, steps) => writing.write(what, steps))
  const feed = openFeed(backend, view, grants, log)
  const writing: Writing = openWriting(backend, view, feed, {
    log,
    keptChanges: options.keptChanges ?? 20_000,
    onWritten: options.onWritten,
  })
  const usage = openUsageTables(backend)
  await feed.start()

  return {
    view,
    grants,
    ...usage,
    ...openIdentities(writing),
    ...openKeys(writing, clock, grants, usage),
    ...openMaterials(backend, writing),
    ...openAliases(writing),
    ...openKeyStores(writing),
    ...openXksStores(writing),
    ...openInstances(backend, writing, feed.follow),

    refresh: feed.follow,
    async ping() {
      await backend.read([backend.sql.selectFrom('migrations').select('version').limit(1).compile()])
    },
    close() {
      feed.stop()
      return backend.close()
    },
  }
}
