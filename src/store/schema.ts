/**
 * The tables as the query builder knows them, and each row's way to its record and back.
 *
 * Portable between the databases: times are milliseconds in 64-bit integers, booleans 0 or 1, tags and policies JSON
 * text. Records leave here frozen: they are shared by everything that reads the view.
 */

import type { Generated, Insertable, Selectable } from 'kysely'
import type {
  AccessKeyRecord,
  AccountRecord,
  AliasRecord,
  BackingKeyRecord,
  BackingName,
  GrantRecord,
  ImportObject,
  KeyRecord,
  KeyStoreRecord,
  KeyState,
  PrincipalRecord,
  Tag,
  XksKeyRecord,
  XksStoreRecord,
} from './store.ts'

interface KeyTable {
  arn: string
  region: string
  account_id: string
  key_id: string
  state: string
  spec: string
  usage: string
  origin: string
  custom_key_store_id: string | null
  xks_key_id: string | null
  description: string
  multi_region: number
  primary_region: string | null
  token: string
  created_at: number
  deletion_at: number | null
  deletion_window_days: number | null
  policy: string
  tags: string
  material_id: string | null
  creator: string | null
  rotation_period_days: number | null
  next_rotation_at: number | null
  managed_by: string | null
  version: number
}

interface BackingKeyTable {
  /** See `backingId`. */
  id: string
  material_id: string
  key_arn: string
  cka_id: string
  label: string
  ordinal: number
  state: string
  created_at: number
  encryptions_reserved: number
  creator: string | null
  valid_to: number | null
  description: string | null
  rotation_type: string | null
  rotated_at: number | null
  rotation_recorded: number
}

interface ImportObjectTable {
  cka_id: string
  label: string
  key_arn: string
  account_id: string
  token: string
  kind: string
  created_at: number
  due_at: number | null
  creator: string | null
}

interface AliasTable {
  arn: string
  region: string
  account_id: string
  name: string
  target_key_arn: string
  created_at: number
  updated_at: number
}

export interface GrantTable {
  grant_id: string
  key_arn: string
  /** The key's, for listings across keys. */
  region: string
  grantee: string
  grantee_id: string | null
  retiring: string | null
  retiring_id: string | null
  issuing_account_id: string
  name: string | null
  operations: string
  constraints: string
  created_at: number
  /** Made from the constraints: see grants.ts. */
  anchor: string
  /** Made from everything but id and time where there is a name: see grants.ts. */
  identity: string | null
}

/** A grant once for each operation that it allows: see grants.ts. */
interface GrantOperationTable {
  key_arn: string
  grantee: string
  /** The operation, and who must ask for it from where. */
  needs: string
  anchor: string
  grant_id: string
  /** Of CreateGrant the operations that may be passed on, else empty. */
  passes: string
}

interface AccountTable {
  account_id: string
  created_at: number
  request: string | null
}

interface PrincipalTable {
  arn: string
  kind: string
  account_id: string
  name: string
  path: string
  unique_id: string
  tags: string
  policies: string
  trust_policy: string | null
  max_session_seconds: number | null
  created_at: number
  version: number
}

interface AccessKeyTable {
  access_key_id: string
  account_id: string
  principal_arn: string
  /** `principal_arn` again for users, null for the root: what the foreign key holds on to. */
  user_arn: string | null
  sealed_secret: Uint8Array
  active: number
  created_at: number
}

interface KeyStoreTable {
  id: string
  account_id: string
  region: string
  name: string
  /** What no other key store may be connected to: see `placeOf`. */
  place: string
  created_at: number
  state: string
  error_code: string | null
  connection: string | null
  holder: string | null
  backing: string
  sealed_secret: Uint8Array
  version: number
}

interface XksStoreTable {
  prefix: string
  account_id: string
  created_at: number
  enabled: number
  regions: string
  request_rate: number
  policy: string | null
  policy_mode: string
  credentials: string
  version: number
}

interface XksKeyTable {
  /** See `xksKeyName`. */
  id: string
  prefix: string
  external_key_id: string
  key_arn: string
  created_at: number
}

export interface Tables {
  migrations: { version: number; name: string; applied_at: number }
  accounts: AccountTable
  keys: KeyTable
  backing_keys: BackingKeyTable
  import_objects: ImportObjectTable
  aliases: AliasTable
  principals: PrincipalTable
  access_keys: AccessKeyTable
  key_stores: KeyStoreTable
  xks_stores: XksStoreTable
  xks_keys: XksKeyTable
  settings: { name: string; value: string }
  grants: GrantTable
  grant_operations: GrantOperationTable
  /** How many grants a key has; no row for none. */
  grant_counts: { key_arn: string; grants: number }
  /** Keys that are gone. Their ids never come back. */
  tombstones: { arn: string; deleted_at: number }
  usage_days: {
    account_id: string
    day: string
    region: string
    key_id: string
    operation: string
    price: string
    calls: number
  }
  last_uses: { key_arn: string; operation: string; used_at: number; event_id: string; request_id: string }
  /** Keys that are gone, for as long as their cost is asked for. */
  key_lives: { key_arn: string; account_id: string; began_at: number; ended_at: number; rotations: string }
  leases: { name: string; holder: string; until_ms: number }
  instances: { id: string; host: string; pid: number; heartbeat_at: number }
  /** What changed, in the order of commits; how processes that share the database follow each other. */
  changes: { seq: Generated<number>; kind: ChangeKind | 'grant'; id: string }
  /** One row: changes up to `seq` have been pruned. */
  changes_floor: { id: number; seq: number }
}

/** Kinds of changes of records in the view; each names the table whose primary key the change's id is. A grant's is `grantChange`. */
export type ChangeKind =
  | 'account'
  | 'key'
  | 'backing'
  | 'alias'
  | 'principal'
  | 'access-key'
  | 'key-store'
  | 'xks-store'
  | 'xks-key'
  | 'setting'

const parseTags = (json: string): readonly Tag[] => Object.freeze((JSON.parse(json) as Tag[]).map((tag) => Object.freeze(tag)))

export const readAccount = (row: Selectable<AccountTable>): AccountRecord =>
  Object.freeze({
    accountId: row.account_id,
    createdAt: row.created_at,
    ...(row.request !== null && { request: Object.freeze(JSON.parse(row.request) as NonNullable<AccountRecord['request']>) }),
  })

export const accountRow = (account: AccountRecord): Insertable<AccountTable> => ({
  account_id: account.accountId,
  created_at: account.createdAt,
  request: account.request ? JSON.stringify(account.request) : null,
})

export const readKey = (row: Selectable<KeyTable>): KeyRecord =>
  Object.freeze({
    arn: row.arn,
    region: row.region,
    accountId: row.account_id,
    keyId: row.key_id,
    state: row.state as KeyState,
    spec: row.spec,
    usage: row.usage,
    origin: row.origin,
    customKeyStoreId: row.custom_key_store_id,
    xksKeyId: row.xks_key_id,
    description: row.description,
    multiRegion: row.multi_region !== 0,
    primaryRegion: row.primary_region,
    token: row.token,
    createdAt: row.created_at,
    deletionAt: row.deletion_at,
    deletionWindowDays: row.deletion_window_days,
    policy: row.policy,
    tags: parseTags(row.tags),
    materialId: row.material_id,
    creator: row.creator,
    rotationPeriodDays: row.rotation_period_days,
    nextRotationAt: row.next_rotation_at,
    managedBy: row.managed_by,
    version: row.version,
  })

export const keyRow = (key: KeyRecord): Insertable<KeyTable> => ({
  arn: key.arn,
  region: key.region,
  account_id: key.accountId,
  key_id: key.keyId,
  state: key.state,
  spec: key.spec,
  usage: key.usage,
  origin: key.origin,
  custom_key_store_id: key.customKeyStoreId,
  xks_key_id: key.xksKeyId,
  description: key.description,
  multi_region: key.multiRegion ? 1 : 0,
  primary_region: key.primaryRegion,
  token: key.token,
  created_at: key.createdAt,
  deletion_at: key.deletionAt,
  deletion_window_days: key.deletionWindowDays,
  policy: key.policy,
  tags: JSON.stringify(key.tags),
  material_id: key.materialId,
  creator: key.creator,
  rotation_period_days: key.rotationPeriodDays,
  next_rotation_at: key.nextRotationAt,
  managed_by: key.managedBy,
  version: key.version,
})

export const readBackingKey = (row: Selectable<BackingKeyTable>): BackingKeyRecord =>
  Object.freeze({
    materialId: row.material_id,
    keyArn: row.key_arn,
    ckaId: row.cka_id,
    label: row.label,
    ordinal: row.ordinal,
    state: row.state as BackingKeyRecord['state'],
    createdAt: row.created_at,
    encryptionsReserved: row.encryptions_reserved,
    creator: row.creator,
    validTo: row.valid_to,
    description: row.description,
    rotationType: row.rotation_type as BackingKeyRecord['rotationType'],
    rotatedAt: row.rotated_at,
    rotationRecorded: row.rotation_recorded !== 0,
  })

/** What a backing key's row is called, among others in `changes`: one material may belong to several keys. */
export const backingId = ({ keyArn, materialId }: BackingName): string => `${materialId} ${keyArn}`

export const backingKeyRow = (backing: BackingKeyRecord): Insertable<BackingKeyTable> => ({
  id: backingId(backing),
  material_id: backing.materialId,
  key_arn: backing.keyArn,
  cka_id: backing.ckaId,
  label: backing.label,
  ordinal: backing.ordinal,
  state: backing.state,
  created_at: backing.createdAt,
  encryptions_reserved: backing.encryptionsReserved,
  creator: backing.creator,
  valid_to: backing.validTo,
  description: backing.description,
  rotation_type: backing.rotationType,
  rotated_at: backing.rotatedAt,
  rotation_recorded: backing.rotationRecorded ? 1 : 0,
})

export const readImportObject = (row: Selectable<ImportObjectTable>): ImportObject =>
  Object.freeze({
    ckaId: row.cka_id,
    label: row.label,
    keyArn: row.key_arn,
    accountId: row.account_id,
    token: row.token,
    kind: row.kind as ImportObject['kind'],
    createdAt: row.created_at,
    dueAt: row.due_at,
    creator: row.creator,
  })

export const importObjectRow = (object: ImportObject): Insertable<ImportObjectTable> => ({
  cka_id: object.ckaId,
  label: object.label,
  key_arn: object.keyArn,
  account_id: object.accountId,
  token: object.token,
  kind: object.kind,
  created_at: object.createdAt,
  due_at: object.dueAt,
  creator: object.creator,
})

export const readAlias = (row: Selectable<AliasTable>): AliasRecord =>
  Object.freeze({
    arn: row.arn,
    region: row.region,
    accountId: row.account_id,
    name: row.name,
    targetKeyArn: row.target_key_arn,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  })

export const aliasRow = (alias: AliasRecord): Insertable<AliasTable> => ({
  arn: alias.arn,
  region: alias.region,
  account_id: alias.accountId,
  name: alias.name,
  target_key_arn: alias.targetKeyArn,
  created_at: alias.createdAt,
  updated_at: alias.updatedAt,
})

export const readPrincipal = (row: Selectable<PrincipalTable>): PrincipalRecord =>
  Object.freeze({
    arn: row.arn,
    kind: row.kind as PrincipalRecord['kind'],
    accountId: row.account_id,
    name: row.name,
    path: row.path,
    uniqueId: row.unique_id,
    tags: parseTags(row.tags),
    // Entries and not an object literal: a policy may be called `__proto__`.
    policies: Object.freeze(Object.fromEntries(JSON.parse(row.policies) as [string, string][])),
    trustPolicy: row.trust_policy,
    maxSessionSeconds: row.max_session_seconds,
    createdAt: row.created_at,
    version: row.version,
  })

export const principalRow = (principal: PrincipalRecord): Insertable<PrincipalTable> => ({
  arn: principal.arn,
  kind: principal.kind,
  account_id: principal.accountId,
  name: principal.name,
  path: principal.path,
  unique_id: principal.uniqueId,
  tags: JSON.stringify(principal.tags),
  policies: JSON.stringify(Object.entries(principal.policies)),
  trust_policy: principal.trustPolicy,
  max_session_seconds: principal.maxSessionSeconds,
  created_at: principal.createdAt,
  version: principal.version,
})

export const readAccessKey = (row: Selectable<AccessKeyTable>): AccessKeyRecord =>
  Object.freeze({
    accessKeyId: row.access_key_id,
    accountId: row.account_id,
    principalArn: row.principal_arn,
    sealedSecret: row.sealed_secret,
    active: row.active !== 0,
    createdAt: row.created_at,
  })

export const accessKeyRow = (key: AccessKeyRecord): Insertable<AccessKeyTable> => ({
  access_key_id: key.accessKeyId,
  account_id: key.accountId,
  principal_arn: key.principalArn,
  user_arn: isRoot(key.principalArn) ? null : key.principalArn,
  sealed_secret: key.sealedSecret,
  active: key.active ? 1 : 0,
  created_at: key.createdAt,
})

export const readGrant = (row: Selectable<GrantTable>): GrantRecord =>
  Object.freeze({
    grantId: row.grant_id,
    keyArn: row.key_arn,
    grantee: row.grantee,
    granteeId: row.grantee_id,
    retiring: row.retiring,
    retiringId: row.retiring_id,
    issuingAccountId: row.issuing_account_id,
    name: row.name,
    operations: Object.freeze(JSON.parse(row.operations) as string[]),
    constraints: Object.freeze(JSON.parse(row.constraints) as GrantRecord['constraints']),
    createdAt: row.created_at,
  })

export const grantRow = (grant: GrantRecord, anchor: string, identity: string | null): Insertable<GrantTable> => ({
  grant_id: grant.grantId,
  key_arn: grant.keyArn,
  region: grant.keyArn.split(':')[3] ?? '',
  grantee: grant.grantee,
  grantee_id: grant.granteeId,
  retiring: grant.retiring,
  retiring_id: grant.retiringId,
  issuing_account_id: grant.issuingAccountId,
  name: grant.name,
  operations: JSON.stringify(grant.operations),
  constraints: JSON.stringify(grant.constraints),
  created_at: grant.createdAt,
  anchor,
  identity,
})

const isRoot = (principalArn: string): boolean => principalArn.endsWith(':root')

export const readKeyStore = (row: Selectable<KeyStoreTable>): KeyStoreRecord =>
  Object.freeze({
    id: row.id,
    accountId: row.account_id,
    region: row.region,
    name: row.name,
    createdAt: row.created_at,
    state: row.state as KeyStoreRecord['state'],
    errorCode: row.error_code,
    connection: row.connection,
    holder: row.holder,
    backing: Object.freeze(JSON.parse(row.backing) as KeyStoreRecord['backing']),
    sealedSecret: row.sealed_secret,
    version: row.version,
  })

export const keyStoreRow = (keyStore: KeyStoreRecord): Insertable<KeyStoreTable> => ({
  id: keyStore.id,
  account_id: keyStore.accountId,
  region: keyStore.region,
  name: keyStore.name,
  place: placeOf(keyStore),
  created_at: keyStore.createdAt,
  state: keyStore.state,
  error_code: keyStore.errorCode,
  connection: keyStore.connection,
  holder: keyStore.holder,
  backing: JSON.stringify(keyStore.backing),
  sealed_secret: keyStore.sealedSecret,
  version: keyStore.version,
})

/** A token serves one key store of an account, an address of a proxy one of a region, whosoever. */
const placeOf = ({ accountId, region, backing }: KeyStoreRecord): string =>
  backing.type === 'AWS_CLOUDHSM' ? `${accountId} ${backing.clusterId}` : `${region} ${backing.uriEndpoint}${backing.uriPath}`

interface StoredCredential {
  readonly accessKeyId: string
  /** In base64. */
  readonly sealedSecret: string
  readonly createdAt: number
}

export const readXksStore = (row: Selectable<XksStoreTable>): XksStoreRecord =>
  Object.freeze({
    prefix: row.prefix,
    accountId: row.account_id,
    createdAt: row.created_at,
    enabled: row.enabled !== 0,
    regions: Object.freeze(JSON.parse(row.regions) as string[]),
    requestRate: row.request_rate,
    policy: row.policy,
    policyMode: row.policy_mode as XksStoreRecord['policyMode'],
    credentials: Object.freeze(
      (JSON.parse(row.credentials) as StoredCredential[]).map((credential) =>
        Object.freeze({ ...credential, sealedSecret: Buffer.from(credential.sealedSecret, 'base64') }),
      ),
    ),
    version: row.version,
  })

export const xksStoreRow = (store: XksStoreRecord): Insertable<XksStoreTable> => ({
  prefix: store.prefix,
  account_id: store.accountId,
  created_at: store.createdAt,
  enabled: store.enabled ? 1 : 0,
  regions: JSON.stringify(store.regions),
  request_rate: store.requestRate,
  policy: store.policy,
  policy_mode: store.policyMode,
  credentials: JSON.stringify(
    store.credentials.map(({ accessKeyId, sealedSecret, createdAt }): StoredCredential => ({
      accessKeyId,
      sealedSecret: Buffer.from(sealedSecret).toString('base64'),
      createdAt,
    })),
  ),
  version: store.version,
})

/** What the row is called, among others in `changes`. A prefix has no space. */
export const xksKeyName = (prefix: string, externalKeyId: string): string => `${prefix} ${externalKeyId}`

export const readXksKey = (row: Selectable<XksKeyTable>): XksKeyRecord =>
  Object.freeze({ prefix: row.prefix, externalKeyId: row.external_key_id, keyArn: row.key_arn, createdAt: row.created_at })

export const xksKeyRow = (key: XksKeyRecord): Insertable<XksKeyTable> => ({
  id: xksKeyName(key.prefix, key.externalKeyId),
  prefix: key.prefix,
  external_key_id: key.externalKeyId,
  key_arn: key.keyArn,
  created_at: key.createdAt,
})
