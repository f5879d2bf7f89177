/**
 * The one road by which a change reaches memory.
 *
 * Every transaction that changes a record also writes a row of `changes`. `follow` reads the rows that came after the
 * last one it saw, with the records they name, on one snapshot, and applies them to the view. It runs after each write
 * of our own and when the back end says that another process wrote: there is no second way into the view, so ours and
 * theirs cannot be applied differently or out of order.
 */

import type { Kysely, Selectable } from 'kysely'
import type { Log } from '../base/log.ts'
import type { Backend } from './backend.ts'
import type { GrantStore } from './grants.ts'
import {
  readAccessKey,
  readAccount,
  readAlias,
  readBackingKey,
  readKey,
  readKeyStore,
  readPrincipal,
  readXksKey,
  readXksStore,
} from './schema.ts'
import type { ChangeKind, Tables } from './schema.ts'
import type { Delta, MutableView } from './view.ts'

/** A table of records that the view holds. */
interface Source<R = unknown> {
  readonly table: string
  /** What `changes` calls them, and the column that it names them by. */
  readonly kind: ChangeKind
  readonly id: string
  /** A column that the view sorts them by: it takes them fastest in that order. */
  readonly order: string | undefined
  readonly read: (row: Readonly<Record<string, unknown>>) => R
}

const sources: { readonly [M in keyof Omit<Delta, 'gone'>]: Source<Delta[M][number]> } = {
  accounts: source('accounts', 'account', 'account_id', readAccount),
  keys: source('keys', 'key', 'arn', readKey, 'key_id'),
  backingKeys: source('backing_keys', 'backing', 'id', readBackingKey),
  aliases: source('aliases', 'alias', 'arn', readAlias, 'name'),
  principals: source('principals', 'principal', 'arn', readPrincipal, 'name'),
  accessKeys: source('access_keys', 'access-key', 'access_key_id', readAccessKey),
  keyStores: source('key_stores', 'key-store', 'id', readKeyStore, 'name'),
  xksStores: source('xks_stores', 'xks-store', 'prefix', readXksStore, 'prefix'),
  xksKeys: source('xks_keys', 'xks-key', 'id', readXksKey, 'id'),
  settings: source('settings', 'setting', 'name', (row) => row),
}

function source<T extends keyof Tables, R>(
  table: T,
  kind: ChangeKind,
  id: keyof Tables[T] & string,
  read: (row: Selectable<Tables[T]>) => R,
  order?: keyof Tables[T] & string,
): Source<R> {
  return { table, kind, id, order, read: read as unknown as Source<R>['read'] }
}

/** What the query builder knows where the table is any of these; `source` has seen to the names. */
type AnyTable = Kysely<Record<string, Record<string, unknown>>>

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

  /**
   * All records, or those that changed after `from`; with the changes, of which `from` undefined brings only the newest. On one snapshot.
   * `present` names those that changed and are there, as changes do.
   */
  const readRecords = async (from?: number) => {
    const all = from === undefined
    const changesRows = sql.selectFrom('changes').selectAll()
    const changed = (kind: ChangeKind) =>
      sql
        .selectFrom('changes')
        .select('id')
        .where('seq', '>', from ?? 0)
        .where('kind', '=', kind)
    const [[floor], changes, ...answers] = await backend.read([
      sql.selectFrom('changes_floor').select('seq').compile(),
      (all ? changesRows.orderBy('seq', 'desc').limit(1) : changesRows.where('seq', '>', from).orderBy('seq')).compile(),
      ...Object.values<Source>(sources).map(({ table, kind, id, order }) =>
        (sql as unknown as AnyTable)
          .selectFrom(table)
          .selectAll()
          .$if(!all, (query) => query.where(id, 'in', changed(kind)))
          .$if(order !== undefined, (query) => query.orderBy(order ?? ''))
          .compile(),
      ),
    ])
    const records: Record<string, readonly unknown[]> = {}
    const present = new Set<string>()
    for (const [index, [member, { kind, id, read }]] of Object.entries<Source>(sources).entries()) {
      const rows = answers[index] ?? []
      records[member] = rows.map(read)
      if (!all) for (const row of rows) present.add(`${kind} ${String(row[id])}`)
    }
    return { floor: floor?.seq ?? 0, changes, present, records: records as unknown as Omit<Delta, 'gone'> }
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
    const { floor, changes, present, records } = await readRecords(seen)
    if (floor > seen) return load()
    const last = changes.at(-1)
    if (!last) return
    const gone: { kind: ChangeKind; id: string }[] = []
    for (const { kind, id } of changes) {
      if (kind === 'grant') grants.forget(id)
      else if (!present.has(`${kind} ${id}`)) gone.push({ kind, id })
    }
    // Its grants went with it, unsaid; and a replica may come back under the same ARN.
    const remade = records.keys.filter(({ arn, createdAt }) => (view.key(arn)?.createdAt ?? createdAt) !== createdAt)
    const keysGone = [...gone.flatMap(({ kind, id }) => (kind === 'key' ? [id] : [])), ...remade.map(({ arn }) => arn)]
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
