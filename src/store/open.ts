/**
 * Opens the store: a database below, its records in memory above, and the one road by which a change reaches memory.
 *
 * Every transaction that changes a record also writes a row of `changes`. `follow` reads the rows that came after the
 * last one it saw, with the records they name, on one snapshot, and applies them to the view. It runs after each write
 * of our own and when the back end says that another process wrote: there is no second way into the view, so ours and
 * theirs cannot be applied differently or out of order.
 */

import type { CompiledQuery, ExpressionBuilder, Insertable } from 'kysely'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { Backend, Step } from './backend.ts'
import { openGrants } from './grants.ts'
import { migrate, requireVersion } from './migrations.ts'
import {
  accessKeyRow,
  accountRow,
  aliasRow,
  backingId,
  backingKeyRow,
  importObjectRow,
  keyRow,
  keyStoreRow,
  principalRow,
  readAccessKey,
  readAccount,
  readAlias,
  readBackingKey,
  readImportObject,
  readKey,
  readKeyStore,
  readPrincipal,
  readXksKey,
  readXksStore,
  xksKeyName,
  xksKeyRow,
  xksStoreRow,
} from './schema.ts'
import type { ChangeKind, Tables } from './schema.ts'
import { openSqlite } from './sqlite.ts'
import { StoreConflict } from './store.ts'
import type {
  BackingKeyRecord,
  BackingName,
  KeyChange,
  KeyRecord,
  KeyStoreRecord,
  PrincipalRecord,
  Store,
  XksStoreName,
  XksStoreRecord,
} from './store.ts'
import { openUsageTables } from './usage.ts'
import { openView } from './view.ts'

/** Of two racing processes one always wins, so this many losses in a row mean a fault and not a race. */
const maxSwapTries = 100

/** How soon the view tries again to read what is committed. */
const catchUpMs = 250

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
  const { clock, log, keptChanges = 20_000 } = options
  const { sql } = backend
  if (options.readOnly) await requireVersion(backend)
  else await migrate(backend, clock)

  const view = openView()
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

  const changed = (kind: ChangeKind, id: string): Step => ({ query: sql.insertInto('changes').values({ kind, id }).compile() })
  /** For a step that must touch exactly one row. */
  const one = (query: CompiledQuery): Step => ({ query, rows: 1 })

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

  let prunedAt = 0
  const write = async (what: string, steps: readonly Step[]): Promise<readonly (readonly unknown[])[]> => {
    const answers = await backend.write(what, steps)
    await followCommitted()
    await options.onWritten?.()
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

  /** Compare-and-swap on `version`, again and again: `attempt` answers undefined when another process came between. */
  const untilSwapped = <T>(id: string, attempt: () => Promise<T | undefined>): Promise<T> =>
    inTurn(id, async () => {
      for (let tries = 0; tries < maxSwapTries; tries++) {
        await follow()
        const done = await attempt()
        if (done !== undefined) return done
      }
      throw new StoreConflict(`update ${id}: other processes changed it ${maxSwapTries} times in a row`)
    })

  const keyUpdate = (current: KeyRecord, change: KeyChange) => {
    const after: KeyRecord = Object.freeze({ ...current, ...change, version: current.version + 1 })
    const query = sql.updateTable('keys').set(keyRow(after)).where('arn', '=', current.arn).where('version', '=', current.version).compile()
    return { after, steps: [one(query), changed('key', current.arn)] }
  }
  const getKey = (arn: string): KeyRecord => {
    const key = view.key(arn)
    if (!key) throw new StoreConflict(`key ${arn}: does not exist`)
    return key
  }
  /** The view's own object where it is the same version, so that caches by identity hold. */
  const keyInView = (after: KeyRecord): KeyRecord => {
    const key = view.key(after.arn)
    return key?.version === after.version ? key : after
  }

  const backingSteps = (row: Insertable<Tables['backing_keys']>): Step[] => [
    { query: sql.insertInto('backing_keys').values(row).compile() },
    changed('backing', row.id),
  ]
  const readySteps = (backing: BackingName, creator: string | null): Step[] => [
    one(
      sql
        .updateTable('backing_keys')
        .set({ state: 'ready', creator: null })
        .where('id', '=', backingId(backing))
        .where((eb) => eb.or([eb('state', '=', 'ready'), heldBy(eb, creator)]))
        .compile(),
    ),
    changed('backing', backingId(backing)),
  ]
  const putSteps = (backing: BackingKeyRecord): Step[] => {
    const { encryptions_reserved: _counted, ...row } = backingKeyRow(backing)
    const id = backingId(backing)
    return [one(sql.updateTable('backing_keys').set(row).where('id', '=', id).compile()), changed('backing', id)]
  }
  /** @throws StoreConflict when it cannot become ready by this creator any more. */
  const checkHeld = (backing: BackingName, creator: string | null): void => {
    const found = view.backingKey(backing.keyArn, backing.materialId)
    if (!found) throw new StoreConflict(`promote backing key ${backing.materialId}: it is gone`)
    if (found.state === 'creating' && found.creator !== creator)
      throw new StoreConflict(`promote backing key ${backing.materialId}: another has taken it over`)
  }
  /** What has been encrypted with a replica's material is the same in all its rows. */
  const shareCounts = (arn: string): Step => ({
    query: sql
      .updateTable('backing_keys')
      .set((eb) => ({
        encryptions_reserved: eb
          .selectFrom('backing_keys as same')
          .select((same) => same.fn.max('same.encryptions_reserved').as('most'))
          .whereRef('same.material_id', '=', 'backing_keys.material_id'),
      }))
      .where('key_arn', '=', arn)
      .compile(),
  })

  const objectOf = (ckaId: string) => sql.selectFrom('import_objects').selectAll().where('cka_id', '=', ckaId)

  /** A compare-and-swap whose answer is whether it went through. Whoever lost is to see what won. */
  const xksStoreIsThere = ({ prefix, accountId }: XksStoreName): Step =>
    one(sql.selectFrom('xks_stores').select('prefix').where('prefix', '=', prefix).where('account_id', '=', accountId).compile())

  const attempted = async (what: string, steps: readonly Step[]): Promise<boolean> => {
    const done = await swapped(write(what, steps))
    if (!done) await follow()
    return done
  }

  const grants = openGrants(backend, write)
  const usage = openUsageTables(backend)

  // First the watch, then the load: nothing can be committed between them unseen.
  await backend.watch(() => {
    follow().catch((error: unknown) => log?.warn({ err: error }, 'changes of other processes not read; the next one brings them'))
  })
  await load()

  return {
    view,
    grants,
    ...usage,

    async insertAccount(account) {
      await write(`insert account ${account.accountId}`, [
        { query: sql.insertInto('accounts').values(accountRow(account)).compile() },
        changed('account', account.accountId),
      ])
    },

    async insertKey(key, backing) {
      const isReplica = key.primaryRegion !== null && key.primaryRegion !== key.region
      const backings: readonly BackingKeyRecord[] = backing === undefined ? [] : 'keyArn' in backing ? [backing] : backing
      // Who lost a race is to see what won: another key may have taken the same external key.
      const done = await attempted(`insert key ${key.arn}`, [
        ...(isReplica ? [] : [{ query: sql.selectFrom('tombstones').select('arn').where('arn', '=', key.arn).compile(), rows: 0 }]),
        { query: sql.insertInto('keys').values(keyRow(key)).compile() },
        changed('key', key.arn),
        ...backings.flatMap((each) => backingSteps(backingKeyRow(each))),
        ...(isReplica ? [shareCounts(key.arn)] : []),
      ])
      if (!done) throw new StoreConflict(`insert key ${key.arn}: it exists or existed, or has what another one has`)
    },
    updateKey: (arn, change) =>
      untilSwapped(`key ${arn}`, async () => {
        const current = getKey(arn)
        const { after, steps } = keyUpdate(current, change(current))
        return (await swapped(write(`update key ${arn}`, steps))) ? keyInView(after) : undefined
      }),
    updateKeys: (name, plan) =>
      untilSwapped(`keys ${name}`, async () => {
        const { changes, ready = [], put = [], creator = null } = plan()
        for (const backing of ready) checkHeld(backing, creator)
        const updates = changes.map(({ arn, change }) => keyUpdate(getKey(arn), change))
        const rows = [...ready.flatMap((backing) => readySteps(backing, creator)), ...put.flatMap(putSteps)]
        const steps = [...updates.flatMap((update) => update.steps), ...rows]
        return (await swapped(write(`update keys ${name}`, steps))) ? updates.map(({ after }) => keyInView(after)) : undefined
      }),
    async deleteKey(arn) {
      const aliases = sql
        .selectFrom('aliases')
        .select((eb) => [eb.val<ChangeKind>('alias').as('kind'), 'arn as id'])
        .where('target_key_arn', '=', arn)
      const backing = sql
        .selectFrom('backing_keys')
        .select((eb) => [eb.val<ChangeKind>('backing').as('kind'), 'id'])
        .where('key_arn', '=', arn)
      await grants.deleteMost(arn)
      const key = view.key(arn)
      await write(`delete key ${arn}`, [
        ...grants.deleteRest(arn),
        ...(key && key.state !== 'Creating' ? usage.endLife(key, view.backingKeys(arn), clock.now()) : []),
        { query: sql.insertInto('changes').columns(['kind', 'id']).expression(aliases).compile() },
        { query: sql.insertInto('changes').columns(['kind', 'id']).expression(backing).compile() },
        { query: sql.deleteFrom('aliases').where('target_key_arn', '=', arn).compile() },
        { query: sql.deleteFrom('backing_keys').where('key_arn', '=', arn).compile() },
        one(sql.deleteFrom('keys').where('arn', '=', arn).compile()),
        {
          query: sql
            .insertInto('tombstones')
            .values({ arn, deleted_at: clock.now() })
            // A replica may have been here before.
            .onConflict((conflict) => conflict.column('arn').doUpdateSet({ deleted_at: clock.now() }))
            .compile(),
        },
        changed('key', arn),
      ])
    },

    async insertBackingKey(backing) {
      const isShared = view.key(backing.keyArn)?.multiRegion ?? false
      const steps = [...backingSteps(backingKeyRow(backing)), ...(isShared ? [shareCounts(backing.keyArn)] : [])]
      await write(`insert backing key ${backing.materialId}`, steps)
    },
    promoteBackingKey: (backing, creator, change) =>
      untilSwapped(`key ${backing.keyArn}`, async () => {
        checkHeld(backing, creator)
        const current = getKey(backing.keyArn)
        const { after, steps } = keyUpdate(current, { ...change(current), materialId: backing.materialId })
        const done = await swapped(write(`promote backing key ${backing.materialId}`, [...steps, ...readySteps(backing, creator)]))
        return done ? keyInView(after) : undefined
      }),
    claimBackingKey: (backing, from, to) =>
      attempted(`claim backing key ${backing.materialId}`, [
        one(
          sql
            .updateTable('backing_keys')
            .set({ creator: to })
            .where('id', '=', backingId(backing))
            .where((eb) => heldBy(eb, from))
            .compile(),
        ),
        changed('backing', backingId(backing)),
      ]),
    async deleteBackingKey(backing) {
      await write(`delete backing key ${backing.materialId}`, [
        one(sql.deleteFrom('backing_keys').where('id', '=', backingId(backing)).where('state', '=', 'creating').compile()),
        changed('backing', backingId(backing)),
      ])
    },
    async reserveEncryptions(materialId, count, ceiling) {
      const ofMaterial = sql.selectFrom('backing_keys').where('material_id', '=', materialId)
      const [, , , rows] = await write(`reserve ${count} encryptions of ${materialId}`, [
        one(ofMaterial.select('id').limit(1).compile()),
        {
          query: ofMaterial
            .select('id')
            .where('encryptions_reserved', '>', ceiling - count)
            .limit(1)
            .compile(),
          rows: 0,
        },
        {
          query: sql
            .insertInto('changes')
            .columns(['kind', 'id'])
            .expression(ofMaterial.select((eb) => [eb.val<ChangeKind>('backing').as('kind'), 'id']))
            .compile(),
        },
        {
          query: sql
            .updateTable('backing_keys')
            .set((eb) => ({ encryptions_reserved: eb('encryptions_reserved', '+', count) }))
            .where('material_id', '=', materialId)
            .returning('encryptions_reserved')
            .compile(),
        },
      ])
      return (rows as readonly { readonly encryptions_reserved: number }[])[0]?.encryptions_reserved as number
    },

    changeMaterial: (keyArn, change) =>
      untilSwapped(`key ${keyArn}`, async () => {
        const current = getKey(keyArn)
        const { key, put, drop, adopt, release } = change(current, view.backingKeys(keyArn))
        const { after, steps } = keyUpdate(current, key)
        // First: what is put may take its ordinal.
        if (drop !== undefined) {
          const id = backingId({ keyArn, materialId: drop })
          steps.push(one(sql.deleteFrom('backing_keys').where('id', '=', id).compile()), changed('backing', id))
        }
        if (put && view.backingKey(keyArn, put.materialId)) steps.push(...putSteps(put))
        else if (put) steps.push(...backingSteps(backingKeyRow(put)), ...(current.multiRegion ? [shareCounts(keyArn)] : []))
        if (release) steps.push({ query: sql.insertInto('import_objects').values(importObjectRow(release)).compile() })
        if (adopt) {
          // Taken over by another it is lost for good; anything else that came between is seen at the next try.
          const [[held]] = await backend.read([objectOf(adopt.ckaId).compile()])
          if (!held || held.creator !== adopt.creator)
            throw new StoreConflict(`adopt import object ${adopt.ckaId}: another has taken it over`)
          const mine = sql.deleteFrom('import_objects').where('cka_id', '=', adopt.ckaId)
          steps.push(one(mine.where('creator', 'is not distinct from', adopt.creator).compile()))
        }
        return (await swapped(write(`change material of ${keyArn}`, steps))) ? keyInView(after) : undefined
      }),

    async insertImportObject(object) {
      await backend.write(`insert import object ${object.ckaId}`, [
        { query: sql.insertInto('import_objects').values(importObjectRow(object)).compile() },
      ])
    },
    async importObjects(accountId) {
      const all = sql.selectFrom('import_objects').selectAll().orderBy('created_at').orderBy('cka_id')
      const [rows] = await backend.read([
        all.$if(accountId !== undefined, (query) => query.where('account_id', '=', accountId ?? '')).compile(),
      ])
      return rows.map(readImportObject)
    },
    async importObject(ckaId) {
      const [[row]] = await backend.read([objectOf(ckaId).compile()])
      return row && readImportObject(row)
    },
    claimImportObject: (ckaId, from, to) =>
      attempted(`claim import object ${ckaId}`, [
        one(
          sql
            .updateTable('import_objects')
            .set({ creator: to })
            .where('cka_id', '=', ckaId)
            .where('creator', 'is not distinct from', from)
            .compile(),
        ),
      ]),
    async deleteImportObject(ckaId) {
      await backend.write(`delete import object ${ckaId}`, [one(sql.deleteFrom('import_objects').where('cka_id', '=', ckaId).compile())])
    },

    async insertAlias(alias) {
      await write(`insert alias ${alias.arn}`, [
        { query: sql.insertInto('aliases').values(aliasRow(alias)).compile() },
        changed('alias', alias.arn),
      ])
    },
    async updateAlias(arn, targetKeyArn, updatedAt) {
      const set = { target_key_arn: targetKeyArn, updated_at: updatedAt }
      await write(`update alias ${arn}`, [one(sql.updateTable('aliases').set(set).where('arn', '=', arn).compile()), changed('alias', arn)])
    },
    async deleteAlias(arn) {
      await write(`delete alias ${arn}`, [one(sql.deleteFrom('aliases').where('arn', '=', arn).compile()), changed('alias', arn)])
    },

    async insertPrincipal(principal) {
      await write(`insert principal ${principal.arn}`, [
        { query: sql.insertInto('principals').values(principalRow(principal)).compile() },
        changed('principal', principal.arn),
      ])
    },
    updatePrincipal: (arn, change) =>
      untilSwapped(`principal ${arn}`, async () => {
        const current = view.principal(arn)
        if (!current) throw new StoreConflict(`update principal ${arn}: does not exist`)
        const after: PrincipalRecord = { ...current, ...change(current), version: current.version + 1 }
        const query = sql
          .updateTable('principals')
          .set(principalRow(after))
          .where('arn', '=', arn)
          .where('version', '=', current.version)
          .compile()
        if (!(await swapped(write(`update principal ${arn}`, [one(query), changed('principal', arn)])))) return undefined
        const inView = view.principal(arn)
        return inView?.version === after.version ? inView : after
      }),
    async deletePrincipal(arn) {
      const keys = sql
        .selectFrom('access_keys')
        .select((eb) => [eb.val<ChangeKind>('access-key').as('kind'), 'access_key_id as id'])
        .where('principal_arn', '=', arn)
      await write(`delete principal ${arn}`, [
        { query: sql.insertInto('changes').columns(['kind', 'id']).expression(keys).compile() },
        { query: sql.deleteFrom('access_keys').where('principal_arn', '=', arn).compile() },
        one(sql.deleteFrom('principals').where('arn', '=', arn).compile()),
        changed('principal', arn),
      ])
    },
    async insertAccessKey(key, most) {
      const last = sql.selectFrom('access_keys').select('access_key_id').where('principal_arn', '=', key.principalArn).limit(1)
      await write(`insert access key ${key.accessKeyId}`, [
        // Counted where nobody comes between: there must be no key in the last place.
        ...(most === undefined ? [] : [{ query: last.offset(most - 1).compile(), rows: 0 }]),
        { query: sql.insertInto('access_keys').values(accessKeyRow(key)).compile() },
        changed('access-key', key.accessKeyId),
      ])
    },
    async setAccessKeyActive(accessKeyId, active) {
      await write(`update access key ${accessKeyId}`, [
        one(
          sql
            .updateTable('access_keys')
            .set({ active: active ? 1 : 0 })
            .where('access_key_id', '=', accessKeyId)
            .compile(),
        ),
        changed('access-key', accessKeyId),
      ])
    },
    async deleteAccessKey(accessKeyId) {
      await write(`delete access key ${accessKeyId}`, [
        one(sql.deleteFrom('access_keys').where('access_key_id', '=', accessKeyId).compile()),
        changed('access-key', accessKeyId),
      ])
    },

    async insertKeyStore(keyStore, most) {
      const { id, accountId, region } = keyStore
      const last = sql.selectFrom('key_stores').select('id').where('account_id', '=', accountId).where('region', '=', region).limit(1)
      const done = await attempted(`insert key store ${id}`, [
        // Counted where nobody comes between, as access keys are.
        { query: last.offset(most - 1).compile(), rows: 0 },
        { query: sql.insertInto('key_stores').values(keyStoreRow(keyStore)).compile() },
        changed('key-store', id),
      ])
      if (!done) throw new StoreConflict(`insert key store ${id}: too many, or its name or backing is another's`)
    },
    updateKeyStore: (id, change) =>
      untilSwapped(`key store ${id}`, async () => {
        const current = view.keyStore(id)
        if (!current) throw new StoreConflict(`update key store ${id}: does not exist`)
        const after: KeyStoreRecord = Object.freeze({ ...current, ...change(current), version: current.version + 1 })
        const query = sql
          .updateTable('key_stores')
          .set(keyStoreRow(after))
          .where('id', '=', id)
          .where('version', '=', current.version)
          .compile()
        return (await swapped(write(`update key store ${id}`, [one(query), changed('key-store', id)]))) ? after : undefined
      }),
    async deleteKeyStore(id) {
      const query = sql.deleteFrom('key_stores').where('id', '=', id).where('state', '=', 'DISCONNECTED').compile()
      const done = await attempted(`delete key store ${id}`, [one(query), changed('key-store', id)])
      if (!done) throw new StoreConflict(`delete key store ${id}: it has keys, is not disconnected, or is not there`)
    },

    async insertXksStore(store, most) {
      const { prefix, accountId } = store
      const last = sql.selectFrom('xks_stores').select('prefix').where('account_id', '=', accountId).limit(1)
      const done = await attempted(`insert XKS store ${prefix}`, [
        { query: last.offset(most - 1).compile(), rows: 0 },
        { query: sql.insertInto('xks_stores').values(xksStoreRow(store)).compile() },
        changed('xks-store', prefix),
      ])
      if (!done) throw new StoreConflict(`insert XKS store ${prefix}: too many, or its prefix is another's`)
    },
    updateXksStore: ({ prefix, accountId }, change) =>
      untilSwapped(`XKS store ${prefix}`, async () => {
        const current = view.xksStore(prefix)
        if (current?.accountId !== accountId) throw new StoreConflict(`update XKS store ${prefix}: does not exist`)
        const after: XksStoreRecord = Object.freeze({ ...current, ...change(current), version: current.version + 1 })
        const query = sql
          .updateTable('xks_stores')
          .set(xksStoreRow(after))
          .where('prefix', '=', prefix)
          // One that was made anew counts its versions anew.
          .where('account_id', '=', accountId)
          .where('created_at', '=', current.createdAt)
          .where('version', '=', current.version)
          .compile()
        return (await swapped(write(`update XKS store ${prefix}`, [one(query), changed('xks-store', prefix)]))) ? after : undefined
      }),
    async deleteXksStore({ prefix, accountId }) {
      const keys = sql
        .selectFrom('xks_keys')
        .select((eb) => [eb.val<ChangeKind>('xks-key').as('kind'), 'id'])
        .where('prefix', '=', prefix)
      const store = sql.deleteFrom('xks_stores').where('prefix', '=', prefix).where('account_id', '=', accountId).where('enabled', '=', 0)
      const done = await attempted(`delete XKS store ${prefix}`, [
        { query: sql.insertInto('changes').columns(['kind', 'id']).expression(keys).compile() },
        { query: sql.deleteFrom('xks_keys').where('prefix', '=', prefix).compile() },
        one(store.compile()),
        changed('xks-store', prefix),
      ])
      if (!done) throw new StoreConflict(`delete XKS store ${prefix}: it is enabled, or is not there`)
    },
    async insertXksKey(of, key) {
      const name = xksKeyName(of.prefix, key.externalKeyId)
      const done = await attempted(`insert XKS key ${name}`, [
        xksStoreIsThere(of),
        {
          query: sql
            .insertInto('xks_keys')
            .values(xksKeyRow({ ...key, prefix: of.prefix }))
            .compile(),
        },
        changed('xks-key', name),
      ])
      if (!done) throw new StoreConflict(`insert XKS key ${name}: it is there, or its store is not`)
    },
    async deleteXksKey(of, externalKeyId) {
      const name = xksKeyName(of.prefix, externalKeyId)
      const done = await attempted(`delete XKS key ${name}`, [
        xksStoreIsThere(of),
        one(sql.deleteFrom('xks_keys').where('id', '=', name).compile()),
        changed('xks-key', name),
      ])
      if (!done) throw new StoreConflict(`delete XKS key ${name}: it is not there, or its store is not`)
    },

    compareAndSetSetting(name, expected, value) {
      const query =
        expected === undefined
          ? sql.insertInto('settings').values({ name, value }).compile()
          : sql.updateTable('settings').set({ value }).where('name', '=', name).where('value', '=', expected).compile()
      return attempted(`set ${name}`, [one(query), changed('setting', name)])
    },

    async acquireLease(name, holder, untilMs, nowMs) {
      const query = sql
        .insertInto('leases')
        .values({ name, holder, until_ms: untilMs })
        .onConflict((conflict) =>
          conflict
            .column('name')
            .doUpdateSet({ holder, until_ms: untilMs })
            .where((eb) => eb.or([eb('leases.holder', '=', holder), eb('leases.until_ms', '<=', nowMs)])),
        )
        .compile()
      const taken = await swapped(backend.write(`take lease ${name}`, [one(query)]))
      if (taken) await follow()
      return taken
    },
    async releaseLease(name, holder) {
      await backend.write(`release lease ${name}`, [
        { query: sql.deleteFrom('leases').where('name', '=', name).where('holder', '=', holder).compile() },
      ])
    },
    async heartbeat({ id, host, pid, heartbeatAt }) {
      const values = { host, pid, heartbeat_at: heartbeatAt }
      await backend.write(`heartbeat of ${id}`, [
        {
          query: sql
            .insertInto('instances')
            .values({ id, ...values })
            .onConflict((conflict) => conflict.column('id').doUpdateSet(values))
            .compile(),
        },
      ])
    },
    async instances() {
      const [rows] = await backend.read([sql.selectFrom('instances').selectAll().orderBy('id').compile()])
      return rows.map(({ id, host, pid, heartbeat_at }) => ({ id, host, pid, heartbeatAt: heartbeat_at }))
    },
    async removeInstance(id) {
      await backend.write(`remove instance ${id}`, [{ query: sql.deleteFrom('instances').where('id', '=', id).compile() }])
    },

    refresh: follow,
    async ping() {
      await backend.read([sql.selectFrom('migrations').select('version').limit(1).compile()])
    },
    close() {
      closed = true
      clearTimeout(catchingUp)
      return backend.close()
    },
  }
}

/** An unfinished backing key of this creator. */
const heldBy = (eb: ExpressionBuilder<Tables, 'backing_keys'>, creator: string | null) =>
  eb.and([eb('state', '=', 'creating'), eb('creator', 'is not distinct from', creator)])

/** Whether a compare-and-swap went through; a conflict is its answer, not an error. */
async function swapped(write: Promise<unknown>): Promise<boolean> {
  try {
    await write
    return true
  } catch (error) {
    if (error instanceof StoreConflict) return false
    throw error
  }
}
