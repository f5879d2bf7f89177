/**
 * The durable state of the service and its view in memory. Opened by `openStore` in `open.ts`.
 *
 * What it promises: a write that returned is durable and already in `view`; two processes may share one database, and
 * a change made by the other one is in `view` within a second; what two may change at once is compare-and-swap. Reads on the hot path
 * are synchronous look-ups in `view`. Records are immutable: a change replaces the object, so an identity check or a
 * WeakMap keyed by a record is a safe cache key.
 */

export type KeyState =
  | 'Creating'
  | 'Enabled'
  | 'Disabled'
  | 'PendingDeletion'
  /** A primary whose deletion is scheduled and that still has replicas. */
  | 'PendingReplicaDeletion'
  | 'PendingImport'
  | 'Unavailable'
  /** Inside only: destruction in the token has begun and can no longer be cancelled. */
  | 'Destroying'

export interface Tag {
  readonly key: string
  readonly value: string
}

export interface KeyRecord {
  readonly arn: string
  readonly region: string
  readonly accountId: string
  readonly keyId: string
  readonly state: KeyState
  readonly spec: string
  readonly usage: string
  readonly origin: string
  /** The custom key store that it lives in, null for none. Set once. */
  readonly customKeyStoreId: string | null
  /** The external key behind it (Origin EXTERNAL_KEY_STORE), by its proxy's name for it; unique in its key store. Set once. */
  readonly xksKeyId: string | null
  readonly description: string
  readonly multiRegion: boolean
  /** Where the primary of a multi-Region key is: the same for all keys of that id. Null for single-Region keys. */
  readonly primaryRegion: string | null
  /** The configured token that holds this key's material, by its name in the configuration (`default`). Set once. */
  readonly token: string
  readonly createdAt: number
  /** When destruction is due (PendingDeletion), else null. */
  readonly deletionAt: number | null
  /** The waiting period of a primary that waits for its replicas to go first (PendingReplicaDeletion), else null. */
  readonly deletionWindowDays: number | null
  /** Users and roles are in it by their unique ids: see kms/policy-principals.ts. */
  readonly policy: string
  readonly tags: readonly Tag[]
  /** The backing key that encrypts, null while there is none. */
  readonly materialId: string | null
  /** Who is creating it (`InstanceRecord.id`), null once created. */
  readonly creator: string | null
  /** Days between automatic rotations, as last set; null while never set. */
  readonly rotationPeriodDays: number | null
  /** When the next automatic rotation is due; null while automatic rotation is off. */
  readonly nextRotationAt: number | null
  /** The service whose AWS managed key this is (`s3`), null for customer managed keys. Set once. */
  readonly managedBy: string | null
  readonly version: number
}

/** Why a key got new material: its rotation was due, somebody asked for it, or the old material had used its budget of encryptions. */
export type RotationType = 'AUTOMATIC' | 'ON_DEMAND' | 'BUDGET'

/** One generation of key material of one key: one CKA_ID in the token. Related multi-Region keys have the same material, each in its token. */
export interface BackingKeyRecord {
  /** 64 hex characters; the KeyMaterialId that AWS's API shows. */
  readonly materialId: string
  readonly keyArn: string
  readonly ckaId: string
  /** CKA_LABEL, `kms/<the 32 digits of the key id>/<ordinal>`. */
  readonly label: string
  readonly ordinal: number
  /** `absent`: imported, then deleted or expired. The token has no object of it until the same material is imported again. */
  readonly state: 'creating' | 'ready' | 'absent'
  readonly createdAt: number
  /** Encryptions handed out so far in reserved blocks: never below the true count. */
  readonly encryptionsReserved: number
  readonly creator: string | null
  /** When imported material expires, null for never. */
  readonly validTo: number | null
  /** What was said of it when it was imported. */
  readonly description: string | null
  /** What made it, or is making it, the current one; null for a key's first material and for material that waits for a rotation. */
  readonly rotationType: RotationType | null
  /** When that rotation was completed, else null. */
  readonly rotatedAt: number | null
  /** That rotation is in the audit trail. */
  readonly rotationRecorded: boolean
}

/**
 * An object of an import that may be in the token and that no key has as its material: a key pair that wraps what is to be imported, material
 * that is being imported, material that is being destroyed. Read from the database, not from the view.
 */
export interface ImportObject {
  readonly ckaId: string
  readonly label: string
  readonly keyArn: string
  readonly accountId: string
  /** The configured token that it is in, as `KeyRecord.token`. */
  readonly token: string
  /** `expired`: material whose time was over, which is recorded when it is gone. */
  readonly kind: 'wrapping' | 'material' | 'expired'
  readonly createdAt: number
  /** When it is to go, null while it is being made into something else. */
  readonly dueAt: number | null
  /** Who is making it (`InstanceRecord.id`), null once it is made. */
  readonly creator: string | null
}

/** What becomes of a key and one of its materials, all or nothing. */
export interface MaterialChange {
  readonly key: KeyChange
  /** A new material, or an old one's row as it shall be; what has been encrypted with it stays counted. */
  readonly put?: BackingKeyRecord
  /** A material whose row goes. */
  readonly drop?: string
  /** The import object that `put` takes over: it must still be its creator's. */
  readonly adopt?: Pick<ImportObject, 'ckaId' | 'creator'>
  /** The object that no material has from now on. */
  readonly release?: ImportObject
}

/** What names a backing key. */
export type BackingName = Pick<BackingKeyRecord, 'keyArn' | 'materialId'>

/** What happens to several keys at once. */
export interface KeysPlan {
  readonly changes: readonly { readonly arn: string; readonly change: KeyChange }[]
  /** Unfinished backing keys of `creator` that become ready. */
  readonly ready?: readonly BackingName[]
  /** Rows of backing keys as they shall be; what has been encrypted with them stays counted. */
  readonly put?: readonly BackingKeyRecord[]
  readonly creator?: string | null
}

export interface AliasRecord {
  /** arn:aws:kms:REGION:ACCOUNT:alias/NAME */
  readonly arn: string
  readonly region: string
  readonly accountId: string
  /** With its prefix, `alias/…`. */
  readonly name: string
  readonly targetKeyArn: string
  readonly createdAt: number
  readonly updatedAt: number
}

export interface AccountRecord {
  readonly accountId: string
  readonly createdAt: number
  /** What asked for it, where that may be asked again: a hash, and the access key that is the answer. */
  readonly request?: { readonly hash: string; readonly accessKeyId: string }
}

export interface PrincipalRecord {
  /** arn:aws:iam::ACCOUNT:user/PATH/NAME or …:role/PATH/NAME */
  readonly arn: string
  readonly kind: 'user' | 'role'
  readonly accountId: string
  readonly name: string
  readonly path: string
  /** AIDA… or AROA… */
  readonly uniqueId: string
  readonly tags: readonly Tag[]
  /** Inline identity policies by name. */
  readonly policies: Readonly<Record<string, string>>
  /** Roles only. Users and roles are in it by their unique ids, as in a key's policy. */
  readonly trustPolicy: string | null
  readonly maxSessionSeconds: number | null
  readonly createdAt: number
  readonly version: number
}

export interface AccessKeyRecord {
  readonly accessKeyId: string
  readonly accountId: string
  /** A user's ARN or arn:aws:iam::ACCOUNT:root */
  readonly principalArn: string
  /** The secret, encrypted under the service key in the HSM. */
  readonly sealedSecret: Uint8Array
  readonly active: boolean
  readonly createdAt: number
}

export interface CloudHsmBacking {
  readonly type: 'AWS_CLOUDHSM'
  /** The token, by its name in the configuration. */
  readonly clusterId: string
  readonly trustAnchor: string
  /** The token refused the password that is stored: it is not tried again. */
  readonly passwordRefused: boolean
}

export interface ExternalBacking {
  readonly type: 'EXTERNAL_KEY_STORE'
  readonly connectivity: 'PUBLIC_ENDPOINT' | 'VPC_ENDPOINT_SERVICE'
  readonly uriEndpoint: string
  readonly uriPath: string
  readonly accessKeyId: string
  readonly vpcEndpointServiceName: string | null
  readonly vpcEndpointServiceOwner: string | null
}

export type ConnectionState = 'CONNECTED' | 'CONNECTING' | 'FAILED' | 'DISCONNECTED' | 'DISCONNECTING'

/** A custom key store: another token, or an external key manager behind an XKS proxy. */
export interface KeyStoreRecord {
  /** `cks-` and 17 hex digits. */
  readonly id: string
  readonly accountId: string
  readonly region: string
  /** Unique in its account and region. */
  readonly name: string
  readonly createdAt: number
  readonly state: ConnectionState
  /** AWS's ConnectionErrorCode (FAILED), else null. */
  readonly errorCode: string | null
  /** Another one for each connection: what a process opened for an earlier one is not for this. */
  readonly connection: string | null
  /** Who connects or disconnects it (`InstanceRecord.id`), null when nobody does. */
  readonly holder: string | null
  readonly backing: CloudHsmBacking | ExternalBacking
  /** The password of the token, or the secret for the proxy, encrypted under the service key in the HSM. */
  readonly sealedSecret: Uint8Array
  readonly version: number
}

export type KeyStoreChange = Partial<
  Pick<KeyStoreRecord, 'name' | 'state' | 'errorCode' | 'connection' | 'holder' | 'backing' | 'sealedSecret'>
>

/** What signs for a store of the XKS proxy. */
export interface XksCredential {
  readonly accessKeyId: string
  /** The secret, encrypted under the service key in the HSM. */
  readonly sealedSecret: Uint8Array
  readonly createdAt: number
}

/** A store of the XKS proxy: what AWS KMS knows as an external key store, behind a URI path prefix of its own. */
export interface XksStoreRecord {
  /** '' or `/tenant`; no two stores have the same, whosoever they are. */
  readonly prefix: string
  readonly accountId: string
  readonly createdAt: number
  /** False: every request is refused. */
  readonly enabled: boolean
  /** Of AWS: whose KMS may call. */
  readonly regions: readonly string[]
  /** Requests a second, for each process. */
  readonly requestRate: number
  /** On who may ask for what (xks/policy.ts); null for none. */
  readonly policy: string | null
  /** Whether a denial of the policy is one, or only told. */
  readonly policyMode: 'ENFORCE' | 'DRY_RUN'
  readonly credentials: readonly XksCredential[]
  readonly version: number
}

/** A prefix may become another account's while a call of the first is under way. */
export type XksStoreName = Pick<XksStoreRecord, 'prefix' | 'accountId'>
export type XksStoreChange = Partial<Pick<XksStoreRecord, 'enabled' | 'regions' | 'requestRate' | 'policy' | 'policyMode' | 'credentials'>>

/** A key as a store of the XKS proxy shows it. It outlives its KMS key: then it names nothing. */
export interface XksKeyRecord {
  readonly prefix: string
  readonly externalKeyId: string
  readonly keyArn: string
  readonly createdAt: number
}

export interface GrantConstraints {
  readonly encryptionContextEquals?: Readonly<Record<string, string>>
  readonly encryptionContextSubset?: Readonly<Record<string, string>>
  readonly sourceArn?: string
}

export interface GrantRecord {
  /** 64 hex characters. */
  readonly grantId: string
  readonly keyArn: string
  /** An ARN, or the name of a service, which is never an ARN. */
  readonly grantee: string
  /** The unique id that the user or role of that name had, null for what has none. */
  readonly granteeId: string | null
  readonly retiring: string | null
  readonly retiringId: string | null
  /** Whose principal made it. */
  readonly issuingAccountId: string
  readonly name: string | null
  readonly operations: readonly string[]
  readonly constraints: GrantConstraints
  readonly createdAt: number
}

export type GrantFilter =
  | { readonly keyArn: string; readonly grantee?: string }
  /** Whoever had this name before is somebody else; null for what has no id. */
  | { readonly retiring: string; readonly retiringId: string | null; readonly region: string }

/** What a caller wants a grant to allow. */
export interface GrantLook {
  readonly operation: string
  /** The caller's unique id, its role's for a session: grants to an earlier holder of its name are not its own. */
  readonly granteeId: string
  readonly sourceArn: string | undefined
  /** The encryption context that a grant's constraint must meet; undefined when constraints on it do not matter. */
  readonly context: Readonly<Record<string, string>> | undefined
  /** Of CreateGrant: the operations of the grant that is to be made. */
  readonly passing: readonly string[]
}

/** Grants on keys. They are not in the view, however hot: `find` remembers what it read until it changes. */
export interface Grants {
  /** Throws StoreConflict when the key is gone, has `most` grants, or has this one already: see `sameAs`. */
  insert(grant: GrantRecord, most: number): Promise<void>
  /** Throws StoreConflict when it is gone. */
  delete(grant: GrantRecord): Promise<void>
  get(grantId: string): Promise<GrantRecord | undefined>
  /** The grant that has this one's name and is equal but for its id and time; undefined for one without a name. */
  sameAs(grant: GrantRecord): Promise<GrantRecord | undefined>
  /** How many there are on a key. */
  count(keyArn: string): Promise<number>
  /** In order of grant id. */
  list(filter: GrantFilter, after: string | undefined, limit: number): Promise<Page<GrantRecord>>
  /**
   * For authorization: a grant on this key to this grantee that is accepted. Answers at once when it was asked lately.
   * @param look leaves out grants that cannot be accepted, before they are read; who accepts judges the rest.
   */
  find(
    keyArn: string,
    grantee: string,
    look: GrantLook,
    accept: (grant: GrantRecord) => boolean,
  ): GrantRecord | undefined | Promise<GrantRecord | undefined>
}

/** So many calls of an operation on a day. */
export interface UsageRow {
  readonly accountId: string
  /** `2026-01-31`, UTC; empty where days are summed up. */
  readonly day: string
  readonly region: string
  /** Empty for calls that name no key. */
  readonly keyId: string
  readonly operation: string
  /** The class of prices that the calls belong to. */
  readonly price: string
  readonly calls: number
}

/** The last cryptographic operation of a key. */
export interface LastUse {
  readonly keyArn: string
  readonly operation: string
  readonly at: number
  /** Of its audit record. */
  readonly eventId: string
  readonly requestId: string
}

/** From when to when a key was there that is no more. */
export interface KeyLife {
  readonly keyArn: string
  readonly accountId: string
  readonly beganAt: number
  readonly endedAt: number
  /** The first times that it was rotated, as many as a price depends on. */
  readonly rotations: readonly number[]
}

/** Days are inclusive. */
export interface UsageQuery {
  readonly accountId: string
  readonly fromDay: string
  readonly toDay: string
  readonly keyId?: string
}

export interface UsageStore {
  /** Adds to what is there, which other processes do too; a last use yields to a later one. All or nothing. */
  addUsage(counts: readonly UsageRow[], uses: readonly LastUse[]): Promise<void>
  /** A page of counts, by day or summed up over the days. */
  usage(query: UsageQuery, byDay: boolean, after: string | undefined, limit: number): Promise<Page<UsageRow>>
  usageTotals(query: UsageQuery): Promise<readonly Pick<UsageRow, 'price' | 'calls'>[]>
  lastUse(keyArn: string): Promise<LastUse | undefined>
  /** Keys that ended after this. */
  keyLives(accountId: string, endedAfterMs: number): Promise<readonly KeyLife[]>
  pruneUsage(beforeDay: string, beforeMs: number): Promise<void>
}

/** One page of a listing. `next` is the last item's key, to be handed back as `after`. */
export interface Page<T> {
  readonly items: readonly T[]
  readonly next: string | undefined
}

/** Synchronous reads from memory; cost does not grow with the number of records, listings cost a page. */
export interface View {
  account(accountId: string): AccountRecord | undefined
  /** In order of account id. */
  listAccounts(after: string | undefined, limit: number): Page<AccountRecord>
  key(arn: string): KeyRecord | undefined
  keyById(region: string, keyId: string): KeyRecord | undefined
  /** In order of key id; keys in state Creating and Destroying included. */
  listKeys(accountId: string, region: string, after: string | undefined, limit: number): Page<KeyRecord>
  /** Every key: for start-up and jobs only. */
  allKeys(): Iterable<KeyRecord>
  keyCount(): number
  /** Of an account in a region, in whatever state; without AWS managed keys. */
  keyCountOf(accountId: string, region: string): number
  /** All keys of this id, in order of region: a multi-Region key with its replicas, whatever their state. Nothing for single-Region keys. */
  multiRegionKeys(accountId: string, keyId: string): readonly KeyRecord[]
  backingKey(keyArn: string, materialId: string): BackingKeyRecord | undefined
  /** In order of ordinal. */
  backingKeys(keyArn: string): readonly BackingKeyRecord[]
  alias(arn: string): AliasRecord | undefined
  aliasesOf(keyArn: string): readonly AliasRecord[]
  listAliases(
    accountId: string,
    region: string,
    targetKeyArn: string | undefined,
    after: string | undefined,
    limit: number,
  ): Page<AliasRecord>
  principal(arn: string): PrincipalRecord | undefined
  /** Names are unique within an account and kind, whatever their path. */
  principalByName(accountId: string, kind: 'user' | 'role', name: string): PrincipalRecord | undefined
  principalById(uniqueId: string): PrincipalRecord | undefined
  listPrincipals(accountId: string, kind: 'user' | 'role', after: string | undefined, limit: number): Page<PrincipalRecord>
  accessKey(accessKeyId: string): AccessKeyRecord | undefined
  accessKeysOf(principalArn: string): readonly AccessKeyRecord[]
  keyStore(id: string): KeyStoreRecord | undefined
  /** Every custom key store: a handful for each account. For administration and jobs. */
  allKeyStores(): readonly KeyStoreRecord[]
  /** In order of ARN, up to `limit`. */
  keysIn(keyStoreId: string, limit: number): readonly KeyRecord[]
  keyByExternalKey(keyStoreId: string, xksKeyId: string): KeyRecord | undefined
  xksStore(prefix: string): XksStoreRecord | undefined
  /** Every store of the XKS proxy: a handful for each account. For administration and metrics. */
  allXksStores(): readonly XksStoreRecord[]
  xksKey(prefix: string, externalKeyId: string): XksKeyRecord | undefined
  /** In order of external key id. */
  listXksKeys(prefix: string, after: string | undefined, limit: number): Page<XksKeyRecord>
  /** What shows this key, in whatever store. */
  xksKeysOf(keyArn: string): readonly XksKeyRecord[]
  setting(name: string): string | undefined
}

/** A write lost a race or met a name that exists. Nothing was written. */
export class StoreConflict extends Error {
  override readonly name = 'StoreConflict'
}

/**
 * The database did not do what it was asked: the disk is full, the file is locked or gone, the store is closed. Whether
 * a write happened is unknown only when its COMMIT itself failed or the database's thread died under it.
 */
export class StoreFailure extends Error {
  override readonly name = 'StoreFailure'
  /** `SQLITE_…` where the database gave a code; `ENDED`, `OPEN`, `NEWER` or `OLDER` of our own. */
  readonly code: string
  constructor(message: string, code: string) {
    super(message)
    this.code = code
  }
}

/** A running service process that shares the database, so that what a dead one left can be told from what a live one is doing. */
export interface InstanceRecord {
  readonly id: string
  readonly host: string
  readonly pid: number
  readonly heartbeatAt: number
}

export type KeyChange = Partial<Omit<KeyRecord, 'arn' | 'region' | 'accountId' | 'keyId' | 'version' | 'createdAt'>>

/** Accounts, users and roles, access keys. */
export interface Identities {
  insertAccount(account: AccountRecord): Promise<void>

  insertPrincipal(principal: PrincipalRecord): Promise<void>
  updatePrincipal(
    arn: string,
    change: (current: PrincipalRecord) => Partial<Pick<PrincipalRecord, 'tags' | 'policies' | 'trustPolicy' | 'maxSessionSeconds'>>,
  ): Promise<PrincipalRecord>
  /** With its access keys. */
  deletePrincipal(arn: string): Promise<void>
  /**
   * Throws StoreConflict when the principal has `most` access keys already.
   * @param ownerId the unique id of the user it is for: nobody else of that name gets it, and it is a StoreConflict
   */
  insertAccessKey(key: AccessKeyRecord, most?: number, ownerId?: string): Promise<void>
  setAccessKeyActive(accessKeyId: string, active: boolean): Promise<void>
  deleteAccessKey(accessKeyId: string): Promise<void>
}

export interface Keys {
  /**
   * All rows or none. Throws StoreConflict if the key exists or ever existed; a replica may come back, since its id belongs to the primary. What
   * has been encrypted with a replica's material elsewhere is counted in its rows from the start. `view` has what it met.
   * @param most as many keys of its own may the account have in the region: when it has them already, that is a StoreConflict too
   */
  insertKey(key: KeyRecord, backing: BackingKeyRecord | readonly BackingKeyRecord[] | undefined, most?: number): Promise<void>
  /**
   * Read-modify-write: `change` gets the newest record and answers what to change, or throws to leave it. It is run
   * again when another writer came between. Answers the new record.
   * @throws StoreConflict when the key does not exist.
   */
  updateKey(arn: string, change: (current: KeyRecord) => KeyChange): Promise<KeyRecord>
  /**
   * The same for several keys, in one transaction. `plan` is asked under the newest view, and again when another writer changed one of these keys
   * meanwhile; it throws to leave everything as it is.
   * @param name of what they have in common
   * @throws StoreConflict when a key of the plan does not exist, or an unfinished backing key is no longer `creator`'s.
   */
  updateKeys(name: string, plan: () => KeysPlan): Promise<readonly KeyRecord[]>
  /**
   * Removes the key, its backing keys and aliases; keeps a tombstone, so that the id never comes back.
   * @param createdAt of the one that is meant: a replica that was made anew since is none of the caller's, and it is a StoreConflict
   */
  deleteKey(arn: string, createdAt?: number): Promise<void>
}

/** Key materials, and the objects of imports. */
export interface Materials {
  insertBackingKey(backing: BackingKeyRecord): Promise<void>
  /**
   * In one transaction: marks the backing key ready and makes it the key's current one, and applies `change`. May be repeated.
   * @throws StoreConflict when it is unfinished and no longer `creator`'s: see `claimBackingKey`.
   */
  promoteBackingKey(backing: BackingName, creator: string | null, change: (current: KeyRecord) => KeyChange): Promise<KeyRecord>
  /**
   * Takes an unfinished backing key over from a creator that is thought dead. From then on that one, should it live after all, can no longer
   * promote it. Answers false when it is finished, gone, or another's by now; `view` is up to date then.
   */
  claimBackingKey(backing: BackingName, from: string | null, to: string): Promise<boolean>
  /** Removes a backing key that never became ready. */
  deleteBackingKey(backing: BackingName): Promise<void>
  /** Adds `count` durably for all keys that have this material, and answers the new total; throws StoreConflict when it would pass `ceiling`. */
  reserveEncryptions(materialId: string, count: number, ceiling: number): Promise<number>
  /**
   * Read-modify-write of a key with its materials, as `updateKey`: what `change` is told of is the newest. Every change of imported material comes
   * this way.
   * @throws StoreConflict when the key does not exist, or what is to be adopted is another's by now.
   */
  changeMaterial(keyArn: string, change: (key: KeyRecord, materials: readonly BackingKeyRecord[]) => MaterialChange): Promise<KeyRecord>

  insertImportObject(object: ImportObject): Promise<void>
  /** All, or those of one account. In order of creation. */
  importObjects(accountId?: string): Promise<readonly ImportObject[]>
  importObject(ckaId: string): Promise<ImportObject | undefined>
  /** From one creator to another, to null when it is made; false when it is gone or another's by now; `view` is up to date then. */
  claimImportObject(ckaId: string, from: string | null, to: string | null): Promise<boolean>
  deleteImportObject(ckaId: string): Promise<void>
}

export interface Aliases {
  /** Throws StoreConflict when the name exists, or the key has `most` aliases already (`view` has it then). */
  insertAlias(alias: AliasRecord, most?: number): Promise<void>
  /** Throws StoreConflict when there is no such alias, or the key has `most` already, this one aside. */
  updateAlias(arn: string, targetKeyArn: string, updatedAt: number, most?: number): Promise<void>
  deleteAlias(arn: string): Promise<void>
}

/** Custom key stores. */
export interface KeyStores {
  /** Throws StoreConflict when the account has `most` in this region already, or another one has this name or the same backing (`view` has it then). */
  insertKeyStore(keyStore: KeyStoreRecord, most: number): Promise<void>
  /** As `updateKey`. What `change` throws leaves it as it was; a name or backing that another has is a StoreConflict. */
  updateKeyStore(id: string, change: (current: KeyStoreRecord) => KeyStoreChange): Promise<KeyStoreRecord>
  /** Only one that is DISCONNECTED and has no keys; else StoreConflict. */
  deleteKeyStore(id: string): Promise<void>
}

/** Stores of the XKS proxy and their keys. */
export interface XksStores {
  /** Throws StoreConflict when the prefix is taken or the account has `most`. */
  insertXksStore(store: XksStoreRecord, most: number): Promise<void>
  /** As `updateKey`. Of this and what follows: a store of another account under the same prefix is as if there were none. */
  updateXksStore(of: XksStoreName, change: (current: XksStoreRecord) => XksStoreChange): Promise<XksStoreRecord>
  /** With its keys' entries. Only one that is not enabled; else StoreConflict. */
  deleteXksStore(of: XksStoreName): Promise<void>
  /** Throws StoreConflict when the store does not exist or has this external key id. */
  insertXksKey(of: XksStoreName, key: Omit<XksKeyRecord, 'prefix'>): Promise<void>
  deleteXksKey(of: XksStoreName, externalKeyId: string): Promise<void>
}

/** What processes that share the database agree on. */
export interface Instances {
  /** Writes only if the present value is `expected` (undefined: absent); answers whether it did. Either way `view` has the newest. */
  compareAndSetSetting(name: string, expected: string | undefined, value: string): Promise<boolean>

  /** Takes or renews a lease; false while another holder's runs. The one who has it sees in `view` all that earlier holders did. Times in ms since the epoch. */
  acquireLease(name: string, holder: string, untilMs: number, nowMs: number): Promise<boolean>
  releaseLease(name: string, holder: string): Promise<void>
  heartbeat(instance: InstanceRecord): Promise<void>
  instances(): Promise<readonly InstanceRecord[]>
  removeInstance(id: string): Promise<void>
}

/**
 * Every write resolves when it is durable and in `view`; where it cannot be read back, it resolves and comes into `view` as soon as
 * it can be, since it has happened. It throws StoreConflict with nothing written when a name
 * exists, a row to change or to delete does not, or a row it refers to does not (an alias onto a key that was just deleted).
 */
export interface Store extends Identities, Keys, Materials, Aliases, KeyStores, XksStores, Instances, UsageStore {
  readonly view: View
  readonly grants: Grants

  /** Reads what other processes have written so far, instead of hearing of it in a moment. */
  refresh(): Promise<void>
  /** Answers when the database really answered. */
  ping(): Promise<void>
  close(): Promise<void>
}
