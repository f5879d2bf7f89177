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
  readonly description: string
  readonly multiRegion: boolean
  readonly createdAt: number
  /** When destruction is due (PendingDeletion), else null. */
  readonly deletionAt: number | null
  readonly policy: string
  readonly tags: readonly Tag[]
  /** The backing key that encrypts, null while there is none. */
  readonly materialId: string | null
  /** Who is creating it (`InstanceRecord.id`), null once created. */
  readonly creator: string | null
  readonly version: number
}

/** One generation of key material: one CKA_ID in the token. */
export interface BackingKeyRecord {
  /** 64 hex characters; the KeyMaterialId that AWS's API shows. */
  readonly materialId: string
  readonly keyArn: string
  readonly ckaId: string
  /** CKA_LABEL, `kms/<the 32 digits of the key id>/<ordinal>`. */
  readonly label: string
  readonly ordinal: number
  readonly state: 'creating' | 'ready'
  readonly createdAt: number
  /** Encryptions handed out so far in reserved blocks: never below the true count. */
  readonly encryptionsReserved: number
  readonly creator: string | null
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
  /** Roles only. */
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
  backingKey(materialId: string): BackingKeyRecord | undefined
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
  listPrincipals(accountId: string, kind: 'user' | 'role', after: string | undefined, limit: number): Page<PrincipalRecord>
  accessKey(accessKeyId: string): AccessKeyRecord | undefined
  accessKeysOf(principalArn: string): readonly AccessKeyRecord[]
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

/**
 * Every write resolves when it is durable and in `view`; where it cannot be read back, it resolves and comes into `view` as soon as
 * it can be, since it has happened. It throws StoreConflict with nothing written when a name
 * exists, a row to change or to delete does not, or a row it refers to does not (an alias onto a key that was just deleted).
 */
export interface Store {
  readonly view: View

  insertAccount(account: AccountRecord): Promise<void>
  /** Both rows or none. Throws StoreConflict if the key exists or ever existed. */
  insertKey(key: KeyRecord, backing: BackingKeyRecord | undefined): Promise<void>
  /**
   * Read-modify-write: `change` gets the newest record and answers what to change, or throws to leave it. It is run
   * again when another writer came between. Answers the new record.
   * @throws StoreConflict when the key does not exist.
   */
  updateKey(arn: string, change: (current: KeyRecord) => KeyChange): Promise<KeyRecord>
  /** Removes the key, its backing keys and aliases; keeps a tombstone, so that the id never comes back. */
  deleteKey(arn: string): Promise<void>

  insertBackingKey(backing: BackingKeyRecord): Promise<void>
  /**
   * In one transaction: marks the backing key ready and makes it the key's current one, and applies `change`. May be repeated.
   * @throws StoreConflict when it is unfinished and no longer `creator`'s: see `claimBackingKey`.
   */
  promoteBackingKey(materialId: string, creator: string | null, change: (current: KeyRecord) => KeyChange): Promise<KeyRecord>
  /**
   * Takes an unfinished backing key over from a creator that is thought dead. From then on that one, should it live after all, can no longer
   * promote it. Answers false when it is finished, gone, or another's by now; `view` is up to date then.
   */
  claimBackingKey(materialId: string, from: string | null, to: string): Promise<boolean>
  /** Removes a backing key that never became ready. */
  deleteBackingKey(materialId: string): Promise<void>
  /** Adds `count` durably and answers the new total; throws StoreConflict when it would pass `ceiling`. */
  reserveEncryptions(materialId: string, count: number, ceiling: number): Promise<number>

  /** Throws StoreConflict when the name exists. */
  insertAlias(alias: AliasRecord): Promise<void>
  updateAlias(arn: string, targetKeyArn: string, updatedAt: number): Promise<void>
  deleteAlias(arn: string): Promise<void>

  insertPrincipal(principal: PrincipalRecord): Promise<void>
  updatePrincipal(
    arn: string,
    change: (current: PrincipalRecord) => Partial<Pick<PrincipalRecord, 'tags' | 'policies' | 'trustPolicy' | 'maxSessionSeconds'>>,
  ): Promise<PrincipalRecord>
  /** With its access keys. */
  deletePrincipal(arn: string): Promise<void>
  /** Throws StoreConflict when the principal has `most` access keys already. */
  insertAccessKey(key: AccessKeyRecord, most?: number): Promise<void>
  setAccessKeyActive(accessKeyId: string, active: boolean): Promise<void>
  deleteAccessKey(accessKeyId: string): Promise<void>

  /** Writes only if the present value is `expected` (undefined: absent); answers whether it did. Either way `view` has the newest. */
  compareAndSetSetting(name: string, expected: string | undefined, value: string): Promise<boolean>

  /** Takes or renews a lease; false while another holder's runs. The one who has it sees in `view` all that earlier holders did. Times in ms since the epoch. */
  acquireLease(name: string, holder: string, untilMs: number, nowMs: number): Promise<boolean>
  releaseLease(name: string, holder: string): Promise<void>
  heartbeat(instance: InstanceRecord): Promise<void>
  instances(): Promise<readonly InstanceRecord[]>
  removeInstance(id: string): Promise<void>

  /** Answers when the database really answered. */
  ping(): Promise<void>
  close(): Promise<void>
}
