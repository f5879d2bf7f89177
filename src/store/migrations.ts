/**
 * How the database got its present shape: forwards only, one transaction per step, each recorded in `migrations`.
 *
 * Processes that start together race for the record's primary key; the loser finds the step done. A database that a
 * newer program has migrated is refused: this program does not know what its columns mean.
 */

import { sql as raw } from 'kysely'
import type { CompiledQuery } from 'kysely'
import type { Clock } from '../base/clock.ts'
import type { Backend } from './backend.ts'
import { StoreConflict, StoreFailure } from './store.ts'

interface Migration {
  readonly name: string
  readonly up: (backend: Backend) => readonly CompiledQuery[]
}

/** Version n is the n-th entry. Never edit one that was released: add another. */
const migrations: readonly Migration[] = [
  { name: 'keys, principals, leases', up: firstTables },
  { name: 'imported key material', up: importedMaterial },
  { name: 'several tokens, multi-Region keys', up: severalTokens },
  { name: 'rotation', up: rotation },
  { name: 'usage by day', up: usageByDay },
  { name: 'custom key stores', up: keyStores },
  { name: 'grants', up: grants },
  { name: 'AWS managed keys', up: managedKeys },
  { name: 'grants by operation', up: grantOperations },
  { name: 'stores of the XKS proxy', up: xksStores },
  { name: 'accounts asked for once', up: accountRequests },
]

/** Up to which migration the database has come. @throws StoreFailure `NEWER` when it is beyond this program. */
async function readVersion(backend: Backend): Promise<number> {
  const [[newest]] = await backend.read([
    backend.sql
      .selectFrom('migrations')
      .select((eb) => eb.fn.coalesce(eb.fn.max('version'), eb.lit(0)).as('version'))
      .compile(),
  ])
  const version = newest?.version ?? 0
  if (version > migrations.length) {
    throw new StoreFailure(
      `${backend.name} was last used by a newer version of this program (schema ${version}, this one knows ${migrations.length}): ` +
        'start that version, or restore a backup made before the upgrade',
      'NEWER',
    )
  }
  return version
}

/** For who only reads. @throws StoreFailure `NEWER` or `OLDER` when the database is not of this program's version. */
export async function requireVersion(backend: Backend): Promise<void> {
  const version = await readVersion(backend)
  if (version === migrations.length) return
  throw new StoreFailure(
    `${backend.name} was last used by an older version of this program (schema ${version}, this one knows ${migrations.length}): ` +
      'the service brings it up to date when it starts',
    'OLDER',
  )
}

/** Brings the database to this program's version. @throws StoreFailure `NEWER` when it is already beyond. */
export async function migrate(backend: Backend, clock: Clock): Promise<void> {
  const { sql } = backend
  await backend.write('create the table of migrations', [
    {
      query: sql.schema
        .createTable('migrations')
        .ifNotExists()
        .addColumn('version', 'integer', (column) => column.primaryKey())
        .addColumn('name', 'text', (column) => column.notNull())
        .addColumn('applied_at', 'bigint', (column) => column.notNull())
        .compile(),
    },
  ])
  for (;;) {
    const version = await readVersion(backend)
    const next = migrations[version]
    if (!next) return
    const record = { version: version + 1, name: next.name, applied_at: clock.now() }
    try {
      await backend.write(`migration ${version + 1} (${next.name})`, [
        { query: sql.insertInto('migrations').values(record).compile() },
        ...next.up(backend).map((query) => ({ query })),
      ])
    } catch (error) {
      // Another process was faster: look again.
      if (!(error instanceof StoreConflict)) throw error
    }
  }
}

function firstTables({ sql, types }: Backend): readonly CompiledQuery[] {
  const { schema } = sql
  return [
    schema
      .createTable('accounts')
      .addColumn('account_id', 'text', (column) => column.primaryKey())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .compile(),
    schema
      .createTable('keys')
      .addColumn('arn', 'text', (column) => column.primaryKey())
      .addColumn('region', 'text', (column) => column.notNull())
      .addColumn('account_id', 'text', (column) => column.notNull())
      .addColumn('key_id', 'text', (column) => column.notNull())
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('spec', 'text', (column) => column.notNull())
      .addColumn('usage', 'text', (column) => column.notNull())
      .addColumn('origin', 'text', (column) => column.notNull())
      .addColumn('description', 'text', (column) => column.notNull())
      .addColumn('multi_region', 'integer', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('deletion_at', 'bigint')
      .addColumn('policy', 'text', (column) => column.notNull())
      .addColumn('tags', 'text', (column) => column.notNull())
      .addColumn('material_id', 'text')
      .addColumn('creator', 'text')
      .addColumn('version', 'integer', (column) => column.notNull())
      .addUniqueConstraint('keys_by_id', ['region', 'key_id'])
      .compile(),
    schema
      .createTable('backing_keys')
      .addColumn('material_id', 'text', (column) => column.primaryKey())
      .addColumn('key_arn', 'text', (column) => column.notNull().references('keys.arn'))
      .addColumn('cka_id', 'text', (column) => column.notNull().unique())
      .addColumn('label', 'text', (column) => column.notNull())
      .addColumn('ordinal', 'integer', (column) => column.notNull())
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('encryptions_reserved', 'bigint', (column) => column.notNull())
      .addColumn('creator', 'text')
      .addUniqueConstraint('backing_keys_by_ordinal', ['key_arn', 'ordinal'])
      .compile(),
    schema
      .createTable('aliases')
      .addColumn('arn', 'text', (column) => column.primaryKey())
      .addColumn('region', 'text', (column) => column.notNull())
      .addColumn('account_id', 'text', (column) => column.notNull())
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('target_key_arn', 'text', (column) => column.notNull().references('keys.arn'))
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('updated_at', 'bigint', (column) => column.notNull())
      .compile(),
    schema.createIndex('aliases_by_target').on('aliases').column('target_key_arn').compile(),
    schema
      .createTable('principals')
      .addColumn('arn', 'text', (column) => column.primaryKey())
      .addColumn('kind', 'text', (column) => column.notNull())
      .addColumn('account_id', 'text', (column) => column.notNull())
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('path', 'text', (column) => column.notNull())
      .addColumn('unique_id', 'text', (column) => column.notNull().unique())
      .addColumn('tags', 'text', (column) => column.notNull())
      .addColumn('policies', 'text', (column) => column.notNull())
      .addColumn('trust_policy', 'text')
      .addColumn('max_session_seconds', 'integer')
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('version', 'integer', (column) => column.notNull())
      .compile(),
    // IAM names are unique in their account whatever the path and the case.
    schema
      .createIndex('principals_by_name')
      .on('principals')
      .unique()
      .columns(['account_id', 'kind'])
      .expression(raw`lower(name)`)
      .compile(),
    schema
      .createTable('access_keys')
      .addColumn('access_key_id', 'text', (column) => column.primaryKey())
      .addColumn('account_id', 'text', (column) => column.notNull())
      .addColumn('principal_arn', 'text', (column) => column.notNull())
      .addColumn('user_arn', 'text', (column) => column.references('principals.arn'))
      .addColumn('sealed_secret', types.bytes, (column) => column.notNull())
      .addColumn('active', 'integer', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .compile(),
    schema.createIndex('access_keys_by_principal').on('access_keys').column('principal_arn').compile(),
    schema.createIndex('access_keys_by_user').on('access_keys').column('user_arn').compile(),
    schema
      .createTable('settings')
      .addColumn('name', 'text', (column) => column.primaryKey())
      .addColumn('value', 'text', (column) => column.notNull())
      .compile(),
    schema
      .createTable('tombstones')
      .addColumn('arn', 'text', (column) => column.primaryKey())
      .addColumn('deleted_at', 'bigint', (column) => column.notNull())
      .compile(),
    schema
      .createTable('leases')
      .addColumn('name', 'text', (column) => column.primaryKey())
      .addColumn('holder', 'text', (column) => column.notNull())
      .addColumn('until_ms', 'bigint', (column) => column.notNull())
      .compile(),
    schema
      .createTable('instances')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('host', 'text', (column) => column.notNull())
      .addColumn('pid', 'integer', (column) => column.notNull())
      .addColumn('heartbeat_at', 'bigint', (column) => column.notNull())
      .compile(),
    // Autoincrement: a pruned number must never come back, or a process that saw it would miss its successor.
    schema
      .createTable('changes')
      .addColumn('seq', types.sequence, (column) => column.primaryKey().autoIncrement())
      .addColumn('kind', 'text', (column) => column.notNull())
      .addColumn('id', 'text', (column) => column.notNull())
      .compile(),
    schema
      .createTable('changes_floor')
      .addColumn('id', 'integer', (column) => column.primaryKey())
      .addColumn('seq', 'bigint', (column) => column.notNull())
      .compile(),
    sql.insertInto('changes_floor').values({ id: 1, seq: 0 }).compile(),
  ]
}

function importedMaterial({ sql: { schema } }: Backend): readonly CompiledQuery[] {
  const backing = schema.alterTable('backing_keys')
  return [
    backing.addColumn('valid_to', 'bigint').compile(),
    backing.addColumn('description', 'text').compile(),
    // Without a reference to the key: what may still be in the token outlives it.
    schema
      .createTable('import_objects')
      .addColumn('cka_id', 'text', (column) => column.primaryKey())
      .addColumn('label', 'text', (column) => column.notNull())
      .addColumn('key_arn', 'text', (column) => column.notNull())
      .addColumn('account_id', 'text', (column) => column.notNull())
      .addColumn('token', 'text', (column) => column.notNull())
      .addColumn('kind', 'text', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('due_at', 'bigint')
      .addColumn('creator', 'text')
      .compile(),
    schema.createIndex('import_objects_by_account').on('import_objects').column('account_id').compile(),
  ]
}

/** Until now all keys were in the one token there was, which is the one that the configuration calls `default`. */
function severalTokens({ sql }: Backend): readonly CompiledQuery[] {
  const { schema } = sql
  const keys = schema.alterTable('keys')
  return [
    keys.addColumn('token', 'text', (column) => column.notNull().defaultTo('default')).compile(),
    keys.addColumn('primary_region', 'text').compile(),
    keys.addColumn('deletion_window_days', 'integer').compile(),
    // One material may have a row for each of several keys: its id alone no longer names a row.
    schema.alterTable('backing_keys').renameColumn('material_id', 'id').compile(),
    schema
      .alterTable('backing_keys')
      .addColumn('material_id', 'text', (column) => column.notNull().defaultTo(''))
      .compile(),
    sql
      .updateTable('backing_keys')
      .set((eb) => ({ material_id: eb.ref('id'), id: raw`id || ' ' || key_arn` }))
      .compile(),
    schema.createIndex('backing_keys_by_material').on('backing_keys').unique().columns(['material_id', 'key_arn']).compile(),
  ]
}

function rotation({ sql }: Backend): readonly CompiledQuery[] {
  const { schema } = sql
  const backing = schema.alterTable('backing_keys')
  return [
    schema.alterTable('keys').addColumn('rotation_period_days', 'integer').compile(),
    schema.alterTable('keys').addColumn('next_rotation_at', 'bigint').compile(),
    backing.addColumn('rotation_type', 'text').compile(),
    backing.addColumn('rotated_at', 'bigint').compile(),
    backing.addColumn('rotation_recorded', 'integer', (column) => column.notNull().defaultTo(0)).compile(),
    // Until now there was one reason to rotate.
    sql
      .updateTable('backing_keys')
      .set((eb) => ({ rotation_type: 'BUDGET', rotated_at: eb.ref('created_at') }))
      .where('ordinal', '>', 1)
      .compile(),
  ]
}

function usageByDay({ sql: { schema } }: Backend): readonly CompiledQuery[] {
  return [
    schema
      .createTable('usage_days')
      .addColumn('account_id', 'text', (column) => column.notNull())
      .addColumn('day', 'text', (column) => column.notNull())
      .addColumn('region', 'text', (column) => column.notNull())
      .addColumn('key_id', 'text', (column) => column.notNull())
      .addColumn('operation', 'text', (column) => column.notNull())
      .addColumn('price', 'text', (column) => column.notNull())
      .addColumn('calls', 'bigint', (column) => column.notNull())
      .addPrimaryKeyConstraint('usage_days_key', ['account_id', 'day', 'region', 'key_id', 'operation', 'price'])
      .compile(),
    schema.createIndex('usage_days_by_day').on('usage_days').column('day').compile(),
    schema
      .createTable('last_uses')
      .addColumn('key_arn', 'text', (column) => column.primaryKey())
      .addColumn('operation', 'text', (column) => column.notNull())
      .addColumn('used_at', 'bigint', (column) => column.notNull())
      .addColumn('event_id', 'text', (column) => column.notNull())
      .addColumn('request_id', 'text', (column) => column.notNull())
      .compile(),
    // What a key that is gone would have cost. Of keys that went earlier nobody knows it any more.
    schema
      .createTable('key_lives')
      .addColumn('key_arn', 'text', (column) => column.notNull())
      .addColumn('account_id', 'text', (column) => column.notNull())
      .addColumn('began_at', 'bigint', (column) => column.notNull())
      .addColumn('ended_at', 'bigint', (column) => column.notNull())
      .addColumn('rotations', 'text', (column) => column.notNull())
      .addPrimaryKeyConstraint('key_lives_key', ['key_arn', 'began_at'])
      .compile(),
    schema.createIndex('key_lives_by_account').on('key_lives').columns(['account_id', 'ended_at']).compile(),
  ]
}

function keyStores({ sql: { schema }, types }: Backend): readonly CompiledQuery[] {
  const keys = schema.alterTable('keys')
  return [
    schema
      .createTable('key_stores')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('account_id', 'text', (column) => column.notNull())
      .addColumn('region', 'text', (column) => column.notNull())
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('place', 'text', (column) => column.notNull().unique())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('error_code', 'text')
      .addColumn('connection', 'text')
      .addColumn('holder', 'text')
      .addColumn('backing', 'text', (column) => column.notNull())
      .addColumn('sealed_secret', types.bytes, (column) => column.notNull())
      .addColumn('version', 'integer', (column) => column.notNull())
      .addUniqueConstraint('key_stores_by_name', ['account_id', 'region', 'name'])
      .compile(),
    // The reference is what keeps a key store that has keys.
    keys.addColumn('custom_key_store_id', 'text', (column) => column.references('key_stores.id')).compile(),
    keys.addColumn('xks_key_id', 'text').compile(),
    schema.createIndex('keys_by_external_key').on('keys').unique().columns(['custom_key_store_id', 'xks_key_id']).compile(),
  ]
}

function grants({ sql: { schema } }: Backend): readonly CompiledQuery[] {
  return [
    schema
      .createTable('grants')
      .addColumn('grant_id', 'text', (column) => column.primaryKey())
      .addColumn('key_arn', 'text', (column) => column.notNull().references('keys.arn'))
      .addColumn('region', 'text', (column) => column.notNull())
      .addColumn('grantee', 'text', (column) => column.notNull())
      .addColumn('grantee_id', 'text')
      .addColumn('retiring', 'text')
      .addColumn('retiring_id', 'text')
      .addColumn('issuing_account_id', 'text', (column) => column.notNull())
      .addColumn('name', 'text')
      .addColumn('operations', 'text', (column) => column.notNull())
      .addColumn('constraints', 'text', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('anchor', 'text', (column) => column.notNull())
      .addColumn('identity', 'text', (column) => column.unique())
      .compile(),
    schema.createIndex('grants_by_key').on('grants').columns(['key_arn', 'grant_id']).compile(),
    schema.createIndex('grants_by_grantee').on('grants').columns(['key_arn', 'grantee', 'grant_id']).compile(),
    schema.createIndex('grants_by_anchor').on('grants').columns(['key_arn', 'grantee', 'anchor', 'grant_id']).compile(),
    schema.createIndex('grants_by_retiring').on('grants').columns(['retiring', 'region', 'grant_id']).compile(),
    schema
      .createTable('grant_counts')
      .addColumn('key_arn', 'text', (column) => column.primaryKey())
      .addColumn('grants', 'integer', (column) => column.notNull())
      .compile(),
  ]
}

function managedKeys({ sql: { schema } }: Backend): readonly CompiledQuery[] {
  return [schema.alterTable('keys').addColumn('managed_by', 'text').compile()]
}

/** What grants.ts looks grants up by. A row is in its primary key alone: there are several for each grant. */
function grantOperations({ sql }: Backend): readonly CompiledQuery[] {
  const { schema } = sql
  return [
    schema
      .createTable('grant_operations')
      .addColumn('key_arn', 'text', (column) => column.notNull())
      .addColumn('grantee', 'text', (column) => column.notNull())
      .addColumn('needs', 'text', (column) => column.notNull())
      .addColumn('anchor', 'text', (column) => column.notNull())
      .addColumn('grant_id', 'text', (column) => column.notNull())
      .addColumn('passes', 'text', (column) => column.notNull())
      .addPrimaryKeyConstraint('grant_operations_key', ['key_arn', 'grantee', 'needs', 'anchor', 'grant_id'])
      .modifyEnd(raw`without rowid`)
      .compile(),
    raw`
      INSERT INTO grant_operations (key_arn, grantee, needs, anchor, grant_id, passes)
      SELECT DISTINCT key_arn, grantee,
        value || ' ' || coalesce(grantee_id, '') || ' ' || coalesce(json_extract(constraints, '$.sourceArn'), ''),
        anchor, grant_id, CASE value WHEN 'CreateGrant' THEN operations ELSE '' END
      FROM grants, json_each(operations)`.compile(sql),
    schema.dropIndex('grants_by_anchor').compile(),
  ]
}

function xksStores({ sql: { schema } }: Backend): readonly CompiledQuery[] {
  return [
    schema
      .createTable('xks_stores')
      .addColumn('prefix', 'text', (column) => column.primaryKey())
      .addColumn('account_id', 'text', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('enabled', 'integer', (column) => column.notNull())
      .addColumn('regions', 'text', (column) => column.notNull())
      .addColumn('request_rate', 'integer', (column) => column.notNull())
      .addColumn('policy', 'text')
      .addColumn('policy_mode', 'text', (column) => column.notNull())
      .addColumn('credentials', 'text', (column) => column.notNull())
      .addColumn('version', 'integer', (column) => column.notNull())
      .compile(),
    schema.createIndex('xks_stores_by_account').on('xks_stores').column('account_id').compile(),
    // Without a reference to the KMS key: who encrypted with one that is gone is to be told so, and its destruction waits for nobody.
    schema
      .createTable('xks_keys')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('prefix', 'text', (column) => column.notNull().references('xks_stores.prefix'))
      .addColumn('external_key_id', 'text', (column) => column.notNull())
      .addColumn('key_arn', 'text', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .compile(),
    schema.createIndex('xks_keys_by_store').on('xks_keys').column('prefix').compile(),
  ]
}

function accountRequests({ sql: { schema } }: Backend): readonly CompiledQuery[] {
  return [schema.alterTable('accounts').addColumn('request', 'text').compile()]
}
