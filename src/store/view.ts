/**
 * The store's records in memory, for synchronous reads.
 *
 * `apply` puts rows in and takes them out; nothing else changes the view, whoever wrote the rows. It runs to its end
 * without yielding, so a reader never sees half a transaction.
 */

import { backingId, xksKeyName, type ChangeKind } from './schema.ts'
import type {
  AccessKeyRecord,
  AccountRecord,
  AliasRecord,
  BackingKeyRecord,
  KeyRecord,
  KeyStoreRecord,
  Page,
  PrincipalRecord,
  View,
  XksKeyRecord,
  XksStoreRecord,
} from './store.ts'

/** Rows as the database has them now, and the ids of those it no longer has. */
export interface Delta {
  readonly accounts: readonly AccountRecord[]
  readonly keys: readonly KeyRecord[]
  readonly backingKeys: readonly BackingKeyRecord[]
  readonly aliases: readonly AliasRecord[]
  readonly principals: readonly PrincipalRecord[]
  readonly accessKeys: readonly AccessKeyRecord[]
  readonly keyStores: readonly KeyStoreRecord[]
  readonly xksStores: readonly XksStoreRecord[]
  readonly xksKeys: readonly XksKeyRecord[]
  readonly settings: readonly { readonly name: string; readonly value: string }[]
  readonly gone: readonly { readonly kind: ChangeKind; readonly id: string }[]
}

export interface MutableView extends View {
  apply(delta: Delta): void
  /** Forgets everything, before a full load. */
  clear(): void
}

/** Strings in ascending order of UTF-16 units. An insert moves what comes after it: 80 KB at 10,000 keys, some microseconds. */
class SortedNames {
  readonly #names: string[] = []

  get size(): number {
    return this.#names.length
  }

  /** Index of the first name that is not below `name`. */
  #find(name: string): number {
    let low = 0
    let high = this.#names.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#names[middle] as string) < name) low = middle + 1
      else high = middle
    }
    return low
  }

  add(name: string): void {
    // Rows loaded in order, the usual case at start, land at the end without a search.
    const last = this.#names.at(-1)
    if (last === undefined || last < name) {
      this.#names.push(name)
      return
    }
    const at = this.#find(name)
    if (this.#names[at] !== name) this.#names.splice(at, 0, name)
  }

  remove(name: string): void {
    const at = this.#find(name)
    if (this.#names[at] === name) this.#names.splice(at, 1)
  }

  /** Up to `limit` names above `after`. */
  page(after: string | undefined, limit: number): { readonly names: readonly string[]; readonly more: boolean } {
    let from = 0
    if (after !== undefined) {
      from = this.#find(after)
      if (this.#names[from] === after) from++
    }
    const names = this.#names.slice(from, from + limit)
    return { names, more: from + names.length < this.#names.length }
  }
}

/** Sorted names by group; an empty group is forgotten. */
class Groups {
  readonly #groups = new Map<string, SortedNames>()

  add(group: string, name: string): void {
    let names = this.#groups.get(group)
    if (!names) this.#groups.set(group, (names = new SortedNames()))
    names.add(name)
  }

  remove(group: string, name: string): void {
    const names = this.#groups.get(group)
    names?.remove(name)
    if (names?.size === 0) this.#groups.delete(group)
  }

  page<T>(group: string, after: string | undefined, limit: number, find: (name: string) => T | undefined): Page<T> {
    const page = this.#groups.get(group)?.page(after, limit)
    if (!page) return { items: [], next: undefined }
    const items = page.names.map((name) => find(name)).filter((item) => item !== undefined)
    return { items, next: page.more ? page.names.at(-1) : undefined }
  }

  size(group: string): number {
    return this.#groups.get(group)?.size ?? 0
  }

  all<T>(group: string, find: (name: string) => T | undefined): readonly T[] {
    return this.page(group, undefined, Number.MAX_SAFE_INTEGER, find).items
  }

  clear(): void {
    this.#groups.clear()
  }
}

/** No part of a group's name holds a line feed. */
const group = (...parts: readonly string[]): string => parts.join('\n')

/**
 * What a record is sorted by, then how it is found: `alias/x` and its ARN, an ordinal and its material. The line feed
 * sorts below everything that a name may hold, so order by the whole is order by its first part.
 */
const entry = (sortedBy: string, found: string): string => `${sortedBy}\n${found}`
const foundOf = (entry: string): string => entry.slice(entry.indexOf('\n') + 1)
const sortedByOf = (entry: string): string => entry.slice(0, entry.indexOf('\n'))
/** The place right behind the one entry that is sorted by `sortedBy`. */
const behind = (sortedBy: string | undefined): string | undefined => (sortedBy === undefined ? undefined : entry(sortedBy, '\uffff'))

const backingEntry = (backing: BackingKeyRecord): string => entry(String(backing.ordinal).padStart(10, '0'), backing.materialId)
const aliasEntry = (alias: AliasRecord): string => entry(alias.name, alias.arn)
const principalEntry = (principal: PrincipalRecord): string => entry(principal.name, principal.arn)

export function openView(): MutableView {
  const accounts = new Map<string, AccountRecord>()
  const keys = new Map<string, KeyRecord>()
  /** By `backingId`. */
  const backingKeys = new Map<string, BackingKeyRecord>()
  /** By key, then by material: without making a string on the hot path. */
  const materialsOf = new Map<string, Map<string, BackingKeyRecord>>()
  const aliases = new Map<string, AliasRecord>()
  const principals = new Map<string, PrincipalRecord>()
  const accessKeys = new Map<string, AccessKeyRecord>()
  const keyStores = new Map<string, KeyStoreRecord>()
  const xksStores = new Map<string, XksStoreRecord>()
  /** By store, then by external key id: without making a string on the hot path. */
  const xksKeys = new Map<string, Map<string, XksKeyRecord>>()
  const settings = new Map<string, string>()

  const accountIds = new Groups()
  const keyArnById = new Map<string, string>()
  const keyArnsByScope = new Groups()
  const managedKeysByScope = new Groups()
  const multiRegionArns = new Groups()
  const backingByKey = new Groups()
  const aliasesByScope = new Groups()
  const aliasesByTarget = new Groups()
  const principalsByScope = new Groups()

  const principalArnByName = new Map<string, string>()
  const principalArnById = new Map<string, string>()
  const accessKeysByPrincipal = new Groups()
  const keyArnsByStore = new Groups()
  const keyArnByExternalKey = new Map<string, string>()
  const xksKeysByStore = new Groups()
  const xksKeysByKey = new Groups()

  const aliasAt = (place: string): AliasRecord | undefined => aliases.get(foundOf(place))
  const principalAt = (place: string): PrincipalRecord | undefined => principals.get(foundOf(place))

  const forgetAccount = (accountId: string): void => {
    accounts.delete(accountId)
    accountIds.remove('', accountId)
  }
  const forgetKey = (arn: string): void => {
    const old = keys.get(arn)
    if (!old) return
    keys.delete(arn)
    keyArnById.delete(group(old.region, old.keyId))
    keyArnsByScope.remove(group(old.accountId, old.region), old.keyId)
    if (old.managedBy !== null) managedKeysByScope.remove(group(old.accountId, old.region), old.keyId)
    if (old.customKeyStoreId !== null) {
      keyArnsByStore.remove(old.customKeyStoreId, arn)
      keyArnByExternalKey.delete(group(old.customKeyStoreId, old.xksKeyId ?? ''))
    }
    if (old.multiRegion) multiRegionArns.remove(group(old.accountId, old.keyId), arn)
  }
  const forgetBacking = (id: string): void => {
    const old = backingKeys.get(id)
    if (!old) return
    backingKeys.delete(id)
    backingByKey.remove(old.keyArn, backingEntry(old))
    const materials = materialsOf.get(old.keyArn)
    materials?.delete(old.materialId)
    if (materials?.size === 0) materialsOf.delete(old.keyArn)
  }
  const forgetAlias = (arn: string): void => {
    const old = aliases.get(arn)
    if (!old) return
    aliases.delete(arn)
    aliasesByScope.remove(group(old.accountId, old.region), aliasEntry(old))
    aliasesByTarget.remove(old.targetKeyArn, aliasEntry(old))
  }
  const forgetPrincipal = (arn: string): void => {
    const old = principals.get(arn)
    if (!old) return
    principals.delete(arn)
    principalsByScope.remove(group(old.accountId, old.kind), principalEntry(old))
    principalArnByName.delete(group(old.accountId, old.kind, old.name))
    principalArnById.delete(old.uniqueId)
  }
  const forgetAccessKey = (id: string): void => {
    const old = accessKeys.get(id)
    if (!old) return
    accessKeys.delete(id)
    accessKeysByPrincipal.remove(old.principalArn, id)
  }
  const xksKeyNamed = (name: string): XksKeyRecord | undefined => {
    const space = name.indexOf(' ')
    return xksKeys.get(name.slice(0, space))?.get(name.slice(space + 1))
  }
  const forgetXksKey = (name: string): void => {
    const old = xksKeyNamed(name)
    if (!old) return
    const ofStore = xksKeys.get(old.prefix)
    ofStore?.delete(old.externalKeyId)
    if (ofStore?.size === 0) xksKeys.delete(old.prefix)
    xksKeysByStore.remove(old.prefix, old.externalKeyId)
    xksKeysByKey.remove(old.keyArn, name)
  }
  const forget: Record<ChangeKind, (id: string) => void> = {
    account: forgetAccount,
    key: forgetKey,
    backing: forgetBacking,
    alias: forgetAlias,
    principal: forgetPrincipal,
    'access-key': forgetAccessKey,
    'key-store': (id) => keyStores.delete(id),
    'xks-store': (id) => xksStores.delete(id),
    'xks-key': forgetXksKey,
    setting: (id) => settings.delete(id),
  }

  return {
    apply(delta) {
      for (const { kind, id } of delta.gone) forget[kind](id)
      for (const account of delta.accounts) {
        accounts.set(account.accountId, account)
        accountIds.add('', account.accountId)
      }
      for (const key of delta.keys) {
        // What names a key never changes, so a known key keeps its places and only the record is exchanged.
        if (!keys.has(key.arn)) {
          keyArnById.set(group(key.region, key.keyId), key.arn)
          keyArnsByScope.add(group(key.accountId, key.region), key.keyId)
          if (key.managedBy !== null) managedKeysByScope.add(group(key.accountId, key.region), key.keyId)
          if (key.customKeyStoreId !== null) {
            keyArnsByStore.add(key.customKeyStoreId, key.arn)
            if (key.xksKeyId !== null) keyArnByExternalKey.set(group(key.customKeyStoreId, key.xksKeyId), key.arn)
          }
          if (key.multiRegion) multiRegionArns.add(group(key.accountId, key.keyId), key.arn)
        }
        keys.set(key.arn, key)
      }
      for (const backing of delta.backingKeys) {
        const id = backingId(backing)
        forgetBacking(id)
        backingKeys.set(id, backing)
        backingByKey.add(backing.keyArn, backingEntry(backing))
        let materials = materialsOf.get(backing.keyArn)
        if (!materials) materialsOf.set(backing.keyArn, (materials = new Map()))
        materials.set(backing.materialId, backing)
      }
      for (const alias of delta.aliases) {
        forgetAlias(alias.arn)
        aliases.set(alias.arn, alias)
        aliasesByScope.add(group(alias.accountId, alias.region), aliasEntry(alias))
        aliasesByTarget.add(alias.targetKeyArn, aliasEntry(alias))
      }
      for (const principal of delta.principals) {
        forgetPrincipal(principal.arn)
        principals.set(principal.arn, principal)
        principalsByScope.add(group(principal.accountId, principal.kind), principalEntry(principal))
        principalArnByName.set(group(principal.accountId, principal.kind, principal.name), principal.arn)
        principalArnById.set(principal.uniqueId, principal.arn)
      }
      for (const key of delta.accessKeys) {
        forgetAccessKey(key.accessKeyId)
        accessKeys.set(key.accessKeyId, key)
        accessKeysByPrincipal.add(key.principalArn, key.accessKeyId)
      }
      for (const keyStore of delta.keyStores) keyStores.set(keyStore.id, keyStore)
      for (const store of delta.xksStores) xksStores.set(store.prefix, store)
      for (const key of delta.xksKeys) {
        const name = xksKeyName(key.prefix, key.externalKeyId)
        forgetXksKey(name)
        let ofStore = xksKeys.get(key.prefix)
        if (!ofStore) xksKeys.set(key.prefix, (ofStore = new Map()))
        ofStore.set(key.externalKeyId, key)
        xksKeysByStore.add(key.prefix, key.externalKeyId)
        xksKeysByKey.add(key.keyArn, name)
      }
      for (const { name, value } of delta.settings) settings.set(name, value)
    },
    clear() {
      for (const map of [
        accounts,
        keys,
        backingKeys,
        materialsOf,
        aliases,
        principals,
        accessKeys,
        keyStores,
        xksStores,
        xksKeys,
        settings,
        keyArnByExternalKey,
        keyArnById,
        principalArnByName,
        principalArnById,
      ])
        map.clear()
      for (const groups of [
        accountIds,
        keyArnsByScope,
        managedKeysByScope,
        keyArnsByStore,
        multiRegionArns,
        backingByKey,
        aliasesByScope,
        aliasesByTarget,
        principalsByScope,
        accessKeysByPrincipal,
        xksKeysByStore,
        xksKeysByKey,
      ])
        groups.clear()
    },

    account: (accountId) => accounts.get(accountId),
    listAccounts: (after, limit) => accountIds.page('', after, limit, (id) => accounts.get(id)),
    key: (arn) => keys.get(arn),
    keyById(region, keyId) {
      const arn = keyArnById.get(group(region, keyId))
      return arn === undefined ? undefined : keys.get(arn)
    },
    listKeys: (accountId, region, after, limit) =>
      keyArnsByScope.page(group(accountId, region), after, limit, (keyId) => keys.get(keyArnById.get(group(region, keyId)) ?? '')),
    // A snapshot: a job may await between two keys while writes go on.
    allKeys: () => [...keys.values()],
    keyCount: () => keys.size,
    keyCountOf(accountId, region) {
      const scope = group(accountId, region)
      return keyArnsByScope.size(scope) - managedKeysByScope.size(scope)
    },
    multiRegionKeys: (accountId, keyId) => multiRegionArns.all(group(accountId, keyId), (arn) => keys.get(arn)),
    backingKey: (keyArn, materialId) => materialsOf.get(keyArn)?.get(materialId),
    backingKeys: (keyArn) => backingByKey.all(keyArn, (place) => materialsOf.get(keyArn)?.get(foundOf(place))),
    alias: (arn) => aliases.get(arn),
    aliasesOf: (keyArn) => aliasesByTarget.all(keyArn, aliasAt),
    listAliases: (accountId, region, targetKeyArn, after, limit) =>
      byName(
        targetKeyArn === undefined
          ? aliasesByScope.page(group(accountId, region), behind(after), limit, aliasAt)
          : aliasesByTarget.page(targetKeyArn, behind(after), limit, aliasAt),
      ),
    principal: (arn) => principals.get(arn),
    principalByName: (accountId, kind, name) => principals.get(principalArnByName.get(group(accountId, kind, name)) ?? ''),
    principalById: (uniqueId) => principals.get(principalArnById.get(uniqueId) ?? ''),
    listPrincipals: (accountId, kind, after, limit) =>
      byName(principalsByScope.page(group(accountId, kind), behind(after), limit, principalAt)),
    accessKey: (accessKeyId) => accessKeys.get(accessKeyId),
    accessKeysOf: (principalArn) => accessKeysByPrincipal.all(principalArn, (id) => accessKeys.get(id)),
    keyStore: (id) => keyStores.get(id),
    allKeyStores: () => [...keyStores.values()],
    keysIn: (keyStoreId, limit) => keyArnsByStore.page(keyStoreId, undefined, limit, (arn) => keys.get(arn)).items,
    keyByExternalKey: (keyStoreId, xksKeyId) => keys.get(keyArnByExternalKey.get(group(keyStoreId, xksKeyId)) ?? ''),
    xksStore: (prefix) => xksStores.get(prefix),
    allXksStores: () => [...xksStores.values()],
    xksKey: (prefix, externalKeyId) => xksKeys.get(prefix)?.get(externalKeyId),
    listXksKeys: (prefix, after, limit) => xksKeysByStore.page(prefix, after, limit, (id) => xksKeys.get(prefix)?.get(id)),
    xksKeysOf: (keyArn) => xksKeysByKey.all(keyArn, xksKeyNamed),
    setting: (name) => settings.get(name),
  }
}

/** A name is unique in its group, so the name alone continues a listing. */
const byName = <T>({ items, next }: Page<T>): Page<T> => ({ items, next: next === undefined ? undefined : sortedByOf(next) })
