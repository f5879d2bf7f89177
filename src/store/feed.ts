/**
 * The one road by which a change reaches memory.
 *
 * Every transaction that changes a record also writes a row of `changes`. `follow` reads the rows that came after the
 * last one it saw, with the records they name, on one snapshot, and applies them to the view. It runs after each write
 * of our own and when the back end says that another process wrote: there is no second way into the view, so ours and
 * theirs cannot be applied differently or out of order.
 */

import type { Log } from '../base/log.ts'
import type { Backend } from './backend.ts'
import type { GrantStore } from './grants.ts'
import {
  backingId,
  readAccessKey,
  readAccount,
  readAlias,
  readBackingKey,
  readKey,
  readKeyStore,
  readPrincipal,
  readXksKey,
  readXksStore,
  xksKeyName,
} from './schema.ts'
import type { ChangeKind } from './schema.ts'
import type { MutableView } from './view.ts'

/** How soon the view tries again to read what is committed. */
const catchUpMs = 250

export interface Feed {
  /** From when this resolves, all that is committed is in the view, and all that others commit comes into it. Once. */
  start(): Promise<void>
  /** Brings into the view what was committed before the call. */
  readonly follow: () => Promise<void>
  /** The same after a write of our own: what has happened must not be told as a failure because reading it again failed, so that is tried again by itself. */
  followCommitted(): Promise<void>
  /** The last change that is in the view. */
  seen(): number
  stop(): void
}

export function openFeed(
  backend: Pick<Backend, 'sql' | 'read' | 'watch'>,
  view: MutableView,
  grants: Pick<GrantStore, 'forget' | 'forgetAll' | 'forgetKeys'>,
  log: Log | undefined,
): Feed {
  const { sql } = backend
  /** The last change that is in the view. */
  let seen = 0
  let closed = false

  /** All records, or those that changed after `from`; with the changes, of which `from` undefined brings only the newest. On one snapshot. */
  const readRecords = async (from?: number) => {
    const all = from === undefined
    const changed = (kind: ChangeKind) =>
      sql
        .selectFrom('changes')
        .select('id')
        .where('seq', '>', from ?? 0)
        .where('kind', '=', kind)
    const changesRows = sql.selectFrom('changes').selectAll()
    const [[floor], changes, accounts, keys, backingKeys, aliases, principals, accessKeys, keyStores, xksStores, xksKeys, settings] =
      await backend.read([
        sql.selectFrom('changes_floor').select('seq').compile(),
        (all ? changesRows.orderBy('seq', 'desc').limit(1) : changesRows.where('seq', '>', from).orderBy('seq')).compile(),
        sql
          .selectFrom('accounts')
          .selectAll()
          .$if(!all, (query) => query.where('account_id', 'in', changed('account')))
          .compile(),
        sql
          .selectFrom('keys')
          .selectAll()
          .$if(!all, (query) => query.where('arn', 'in', changed('key')))
          .orderBy('key_id')
          .compile(),
        sql
          .selectFrom('backing_keys')
          .selectAll()
          .$if(!all, (query) => query.where('id', 'in', changed('backing')))
          .compile(),
        sql
          .selectFrom('aliases')
          .selectAll()
          .$if(!all, (query) => query.where('arn', 'in', changed('alias')))
          .orderBy('name')
          .compile(),
        sql
          .selectFrom('principals')
          .selectAll()
          .$if(!all, (query) => query.where('arn', 'in', changed('principal')))
          .orderBy('name')
          .compile(),
        sql
          .selectFrom('access_keys')
          .selectAll()
          .$if(!all, (query) => query.where('access_key_id', 'in', changed('access-key')))
          .compile(),
        sql
          .selectFrom('key_stores')
          .selectAll()
          .$if(!all, (query) => query.where('id', 'in', changed('key-store')))
          .orderBy('name')
          .compile(),
        sql
          .selectFrom('xks_stores')
          .selectAll()
          .$if(!all, (query) => query.where('prefix', 'in', changed('xks-store')))
          .orderBy('prefix')
          .compile(),
        sql
          .selectFrom('xks_keys')
          .selectAll()
          .$if(!all, (query) => query.where('id', 'in', changed('xks-key')))
          .orderBy('id')
          .compile(),
        sql
          .selectFrom('settings')
          .selectAll()
          .$if(!all, (query) => query.where('name', 'in', changed('setting')))
          .compile(),
      ])
    return {
      floor: floor?.seq ?? 0,
      changes,
      records: {
        accounts: accounts.map(readAccount),
        keys: keys.map(readKey),
        backingKeys: backingKeys.map(readBackingKey),
        aliases: aliases.map(readAlias),
        principals: principals.map(readPrincipal),
        accessKeys: accessKeys.map(readAccessKey),
        keyStores: keyStores.map(readKeyStore),
        xksStores: xksStores.map(readXksStore),
        xksKeys: xksKeys.map(readXksKey),
        settings,
      },
    }
  }

  const load = async (): Promise<void> => {
    const { floor, changes, records } = await readRecords()
    view.clear()
    view.apply({ ...records, gone: [] })
    grants.forgetAll()
    // The floor counts too: all changes may have been pruned.
    seen = Math.max(floor, changes[0]?.seq ?? 0)
  }

  const followOnce = async (): Promise<void> => {
    const { floor, changes, records } = await readRecords(seen)
    if (floor > seen) return load()
    const last = changes.at(-1)
    if (!last) return
    const { accounts, keys, backingKeys, aliases, principals, accessKeys, keyStores, xksStores, xksKeys, settings } = records
    const present = new Set([
      ...accounts.map(({ accountId }) => `account ${accountId}`),
      ...keys.map(({ arn }) => `key ${arn}`),
      ...backingKeys.map((backing) => `backing ${backingId(backing)}`),
      ...aliases.map(({ arn }) => `alias ${arn}`),
      ...principals.map(({ arn }) => `principal ${arn}`),
      ...accessKeys.map(({ accessKeyId }) => `access-key ${accessKeyId}`),
      ...keyStores.map(({ id }) => `key-store ${id}`),
      ...xksStores.map(({ prefix }) => `xks-store ${prefix}`),
      ...xksKeys.map(({ prefix, externalKeyId }) => `xks-key ${xksKeyName(prefix, externalKeyId)}`),
      ...settings.map(({ name }) => `setting ${name}`),
    ])
    const gone: { kind: ChangeKind; id: string }[] = []
    for (const { kind, id } of changes) {
      if (kind === 'grant') grants.forget(id)
      else if (!present.has(`${kind} ${id}`)) gone.push({ kind, id })
    }
    // Its grants went with it, unsaid; and a replica may come back under the same ARN.
    const keysGone = gone.flatMap(({ kind, id }) => (kind === 'key' ? [id] : []))
    if (keysGone.length > 0) grants.forgetKeys(new Set(keysGone))
    view.apply({ ...records, gone })
    seen = last.seq
  }

  // Callers that come while one pass runs share the next one: the running pass may have read before their commit.
  let running: Promise<void> | undefined
  let next: Promise<void> | undefined
  const start = (): Promise<void> => (running = followOnce().finally(() => (running = undefined)))
  const follow = (): Promise<void> => {
    if (!running) return start()
    next ??= running
      .catch(() => undefined)
      .then(() => {
        next = undefined
        return start()
      })
    return next
  }

  /** Until the view has what was committed: what has happened must not be told as a failure because reading it again failed. */
  let catchingUp: NodeJS.Timeout | undefined
  const followCommitted = async (): Promise<void> => {
    try {
      await follow().catch(follow)
    } catch (error) {
      log?.error({ err: error }, 'a change was written and could not be read back; it is read again until it can be')
      if (closed) return
      clearTimeout(catchingUp)
      catchingUp = setTimeout(() => void followCommitted(), catchUpMs).unref()
    }
  }

  return {
    async start() {
      // First the watch, then the load: nothing can be committed between them unseen.
      await backend.watch(() => {
        follow().catch((error: unknown) => log?.warn({ err: error }, 'changes of other processes not read; the next one brings them'))
      })
      await load()
    },
    follow,
    followCommitted,
    seen: () => seen,
    stop() {
      closed = true
      clearTimeout(catchingUp)
    },
  }
}
