import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { StoreConflict } from '../../src/store/store.ts'
import type { Store } from '../../src/store/store.ts'
import type { TestDatabase } from './store-suite.ts'
import {
  accountId,
  backEnds,
  clock,
  region,
  sampleAccessKey,
  sampleAlias,
  sampleBackingKey,
  sampleImportObject,
  sampleKey,
  sampleKeyStore,
  samplePrincipal,
  sampleXksStore,
} from './store-suite.ts'

describe.each(backEnds)('a store on $name', ({ make }) => {
  let database: TestDatabase
  let store: Store
  beforeEach(async () => {
    database = make()
    store = await database.open()
  })
  afterEach(() => database.drop())

  /** What a process that starts now sees. */
  const reopened = async () => (await database.open()).view

  test('a key and its backing key are in the view when the insert returns, and after a restart', async () => {
    const key = sampleKey({
      description: 'naïve ☃',
      tags: [{ key: 'a', value: 'b' }],
      multiRegion: true,
      deletionAt: 5,
      creator: 'me',
      rotationPeriodDays: 90,
      nextRotationAt: 9,
    })
    const backing = sampleBackingKey(key, { rotationType: 'ON_DEMAND', rotatedAt: 7, rotationRecorded: true, creator: 'me' })
    await store.insertKey(key, backing)
    for (const view of [store.view, await reopened()]) {
      expect(view.key(key.arn)).toEqual(key)
      expect(view.keyById(region, key.keyId)).toBe(view.key(key.arn))
      expect(view.backingKey(backing.keyArn, backing.materialId)).toEqual(backing)
      expect(view.backingKeys(key.arn)).toEqual([backing])
      expect(view.keyCount()).toBe(1)
      expect([...view.allKeys()]).toEqual([key])
    }
  })

  test('of a key whose backing key cannot be inserted nothing is written', async () => {
    const first = sampleKey()
    const backing = sampleBackingKey(first)
    await store.insertKey(first, backing)
    const second = sampleKey()
    await expect(store.insertKey(second, { ...sampleBackingKey(second), ckaId: backing.ckaId })).rejects.toThrow(StoreConflict)
    expect(store.view.key(second.arn)).toBeUndefined()
    expect((await reopened()).key(second.arn)).toBeUndefined()
  })

  test('a key that exists, or that was deleted, cannot be inserted', async () => {
    const key = sampleKey()
    await store.insertKey(key, undefined)
    await expect(store.insertKey(key, undefined)).rejects.toThrow(StoreConflict)
    await store.deleteKey(key.arn)
    await expect(store.insertKey(key, undefined)).rejects.toThrow(StoreConflict)
  })

  test('updateKey replaces the record, counts its version and leaves the old object as it was', async () => {
    const key = sampleKey()
    await store.insertKey(key, undefined)
    const before = store.view.key(key.arn)
    const after = await store.updateKey(key.arn, () => ({ description: 'new', tags: [{ key: 'k', value: 'v' }] }))
    expect(after).toEqual({ ...key, description: 'new', tags: [{ key: 'k', value: 'v' }], version: 2 })
    expect(store.view.key(key.arn)).toBe(after)
    expect(before).toEqual(key)
    expect((await reopened()).key(key.arn)).toEqual(after)
  })

  test('what changes nothing of a record leaves the object in the view', async () => {
    const key = sampleKey()
    const other = sampleKey()
    await store.insertKey(key, undefined)
    const before = store.view.key(key.arn)
    await store.insertKey(other, undefined)
    await store.insertAlias(sampleAlias(key, 'a'))
    expect(store.view.key(key.arn)).toBe(before)
  })

  test('records cannot be changed by those who read them', async () => {
    const key = sampleKey({ tags: [{ key: 'k', value: 'v' }] })
    await store.insertKey(key, undefined)
    expect(() => Object.assign(store.view.key(key.arn) ?? {}, { state: 'Disabled' })).toThrow(TypeError)
    expect(() => Object.assign(store.view.key(key.arn)?.tags[0] ?? {}, { value: 'x' })).toThrow(TypeError)
  })

  test('a change that throws leaves the key alone and its error reaches the caller', async () => {
    const key = sampleKey()
    await store.insertKey(key, undefined)
    const refuse = () => {
      throw new RangeError('not in this state')
    }
    await expect(store.updateKey(key.arn, refuse)).rejects.toThrow(RangeError)
    expect(store.view.key(key.arn)).toEqual(key)
  })

  test('updateKey of a key that does not exist is a conflict', async () => {
    await expect(store.updateKey(sampleKey().arn, () => ({}))).rejects.toThrow(StoreConflict)
  })

  test('no update is lost when two processes change one key at once', async () => {
    const key = sampleKey({ description: '' })
    await store.insertKey(key, undefined)
    const other = await database.open()
    const append = (to: Store, letter: string) => to.updateKey(key.arn, (current) => ({ description: current.description + letter }))
    const letters = 'abcdefghijklmnopqrstuvwxyz'.split('')
    await Promise.all(letters.flatMap((letter) => [append(store, letter), append(other, letter.toUpperCase())]))
    const { description, version } = (await reopened()).key(key.arn) ?? {}
    expect((description ?? '').split('').toSorted()).toEqual([...letters.map((letter) => letter.toUpperCase()), ...letters])
    expect(version).toBe(53)
  })

  test('updateKey hands the newest record to the change, also when another process wrote it a moment ago', async () => {
    const key = sampleKey()
    await store.insertKey(key, undefined)
    const other = await database.open()
    await store.updateKey(key.arn, () => ({ state: 'Disabled' }))
    const states: string[] = []
    await other.updateKey(key.arn, ({ state }) => {
      states.push(state)
      return {}
    })
    expect(states[0]).toBe('Disabled')
  })

  test('deleteKey takes backing keys and aliases along', async () => {
    const key = sampleKey()
    const kept = sampleKey()
    const backing = sampleBackingKey(key)
    await store.insertKey(key, backing)
    await store.insertKey(kept, undefined)
    await store.insertAlias(sampleAlias(key, 'gone'))
    await store.insertAlias(sampleAlias(kept, 'kept'))
    await store.deleteKey(key.arn)
    for (const view of [store.view, await reopened()]) {
      expect(view.key(key.arn)).toBeUndefined()
      expect(view.keyById(region, key.keyId)).toBeUndefined()
      expect(view.backingKey(backing.keyArn, backing.materialId)).toBeUndefined()
      expect(view.backingKeys(key.arn)).toEqual([])
      expect(view.aliasesOf(key.arn)).toEqual([])
      expect(view.listAliases(accountId, region, undefined, undefined, 10).items.map(({ name }) => name)).toEqual(['alias/kept'])
      expect(view.listKeys(accountId, region, undefined, 10).items).toEqual([kept])
    }
    await expect(store.deleteKey(key.arn)).rejects.toThrow(StoreConflict)
  })

  test('promoteBackingKey makes it ready and current in one step, and may be repeated', async () => {
    const key = sampleKey({ state: 'Creating', creator: 'me' })
    const backing = sampleBackingKey(key, { creator: 'me' })
    await store.insertKey(key, backing)
    const after = await store.promoteBackingKey(backing, 'me', () => ({ state: 'Enabled', creator: null }))
    expect(after).toEqual({ ...key, state: 'Enabled', creator: null, materialId: backing.materialId, version: 2 })
    await store.promoteBackingKey(backing, 'anyone', () => ({}))
    for (const view of [store.view, await reopened()]) {
      expect(view.key(key.arn)).toMatchObject({ state: 'Enabled', materialId: backing.materialId, version: 3 })
      expect(view.backingKey(backing.keyArn, backing.materialId)).toEqual({ ...backing, state: 'ready', creator: null })
    }
    await expect(store.promoteBackingKey({ keyArn: key.arn, materialId: '00' }, null, () => ({}))).rejects.toThrow(StoreConflict)
  })

  test('an unfinished backing key has one holder: whoever lost it can no longer finish it', async () => {
    const key = sampleKey({ state: 'Creating', creator: 'slow' })
    const backing = sampleBackingKey(key, { creator: 'slow' })
    await store.insertKey(key, backing)
    const other = await database.open()
    expect(await store.claimBackingKey(backing, 'somebody else', 'me')).toBe(false)
    expect(await store.claimBackingKey(backing, 'slow', 'me')).toBe(true)
    // The other process has not been told yet; the claim holds against it all the same.
    await expect(other.promoteBackingKey(backing, 'slow', () => ({ state: 'Enabled' }))).rejects.toThrow(StoreConflict)
    expect(await other.claimBackingKey(backing, 'slow', 'too late')).toBe(false)
    expect(other.view.backingKey(backing.keyArn, backing.materialId)?.creator).toBe('me')
    expect(store.view.key(key.arn)).toEqual(key)
    await store.promoteBackingKey(backing, 'me', () => ({ state: 'Enabled' }))
    expect(await store.claimBackingKey(backing, 'me', 'me')).toBe(false)
    expect(await store.claimBackingKey({ keyArn: key.arn, materialId: '00' }, null, 'me')).toBe(false)
  })

  test('only a backing key that never became ready can be deleted', async () => {
    const key = sampleKey()
    const ready = sampleBackingKey(key)
    const creating = sampleBackingKey(key, { ordinal: 2 })
    await store.insertKey(key, ready)
    await store.insertBackingKey(creating)
    await store.promoteBackingKey(ready, null, () => ({}))
    await store.deleteBackingKey(creating)
    await expect(store.deleteBackingKey(ready)).rejects.toThrow(StoreConflict)
    expect(store.view.backingKeys(key.arn).map(({ materialId }) => materialId)).toEqual([ready.materialId])
  })

  test('backing keys come in order of ordinal, and one ordinal is given once', async () => {
    const key = sampleKey()
    await store.insertKey(key, undefined)
    for (const ordinal of [10, 2, 1]) await store.insertBackingKey(sampleBackingKey(key, { ordinal }))
    expect(store.view.backingKeys(key.arn).map(({ ordinal }) => ordinal)).toEqual([1, 2, 10])
    await expect(store.insertBackingKey(sampleBackingKey(key, { ordinal: 2 }))).rejects.toThrow(StoreConflict)
  })

  test('encryptions are reserved once each, by whichever process, and never beyond the ceiling', async () => {
    const key = sampleKey()
    const backing = sampleBackingKey(key)
    await store.insertKey(key, backing)
    const other = await database.open()
    const totals = await Promise.all([store, other, store, other].map((one) => one.reserveEncryptions(backing.materialId, 10, 45)))
    expect(totals.toSorted((a, b) => a - b)).toEqual([10, 20, 30, 40])
    await expect(store.reserveEncryptions(backing.materialId, 10, 45)).rejects.toThrow(StoreConflict)
    await expect(store.reserveEncryptions(backing.materialId, 5, 45)).resolves.toBe(45)
    expect(store.view.backingKey(backing.keyArn, backing.materialId)?.encryptionsReserved).toBe(45)
    expect((await reopened()).backingKey(backing.keyArn, backing.materialId)?.encryptionsReserved).toBe(45)
    await expect(store.reserveEncryptions('00', 1, 45)).rejects.toThrow(StoreConflict)
  })

  describe('of a multi-Region key', () => {
    const keyId = `mrk-${'0'.repeat(32)}`
    const inRegion = (at: string, values = {}) => sampleKey({ keyId, region: at, multiRegion: true, primaryRegion: region, ...values })
    const [primary, replica] = [inRegion(region), inRegion('eu-west-1')]
    const first = sampleBackingKey(primary, { state: 'ready' })
    const copy = sampleBackingKey(replica, { materialId: first.materialId })
    const reservedOf = ({ keyArn, materialId }: typeof first) => store.view.backingKey(keyArn, materialId)?.encryptionsReserved

    test('one material has a row for each key, and one count for all', async () => {
      await store.insertKey(primary, first)
      await store.reserveEncryptions(first.materialId, 10, 100)
      // Stale by the time it is written: what counts is what has been encrypted by then.
      await store.insertKey(replica, [copy])
      for (const view of [store.view, await reopened()]) {
        expect(view.multiRegionKeys(accountId, keyId).map((key) => key.region)).toEqual(['eu-west-1', region])
        expect([first, copy].map(({ keyArn, materialId }) => view.backingKey(keyArn, materialId)?.keyArn)).toEqual([
          primary.arn,
          replica.arn,
        ])
      }
      expect([first, copy].map(reservedOf)).toEqual([10, 10])
      await store.reserveEncryptions(first.materialId, 80, 100)
      expect([first, copy].map(reservedOf)).toEqual([90, 90])
      await expect(store.reserveEncryptions(first.materialId, 20, 100)).rejects.toThrow(StoreConflict)
      // With a replica its count does not go.
      await store.deleteKey(replica.arn)
      expect([first, copy].map(reservedOf)).toEqual([90, undefined])
      expect(store.view.multiRegionKeys(accountId, keyId)).toEqual([primary])
    })

    test('a replica that was deleted can come back, a primary cannot', async () => {
      await store.insertKey(primary, first)
      for (let i = 0; i < 2; i++) {
        await store.insertKey({ ...replica, createdAt: clock.now() + i }, [copy])
        await store.deleteKey(replica.arn)
      }
      await store.deleteKey(primary.arn)
      await expect(store.insertKey(primary, undefined)).rejects.toThrow(StoreConflict)
    })

    test('one that comes back is not changed or deleted by who means the one before', async () => {
      const behind = await database.open({ pollMs: 1_000_000 })
      await behind.insertKey(primary, first)
      await behind.insertKey(replica, [copy])
      const other = await database.open()
      await other.deleteKey(replica.arn)
      const made = { ...replica, createdAt: replica.createdAt + 1, description: 'made anew' }
      await other.insertKey(made, [copy])
      expect([behind.view.key(replica.arn)?.createdAt, made.version]).toEqual([replica.createdAt, replica.version])

      await behind.updateKey(replica.arn, ({ description }) => ({ description: `${description}, and changed` }))
      await other.refresh()
      expect(other.view.key(replica.arn)).toEqual({ ...made, description: 'made anew, and changed', version: 2 })
      await expect(behind.deleteKey(replica.arn, replica.createdAt)).rejects.toThrow(StoreConflict)
      await other.refresh()
      expect(other.view.key(replica.arn)?.createdAt).toBe(made.createdAt)
      expect(other.view.backingKeys(replica.arn)).toHaveLength(1)
      await behind.deleteKey(replica.arn, made.createdAt)
      expect(behind.view.key(replica.arn)).toBeUndefined()
    })

    test('its keys change together, under what they are at that moment, or not at all', async () => {
      const other = await database.open()
      await store.insertKey(primary, first)
      await store.insertKey(inRegion('eu-west-1', { state: 'Creating', creator: 'me' }), [{ ...copy, creator: 'me' }])
      let asked = 0
      const after = await store.updateKeys(keyId, () => {
        // Another process comes between the question and the write, once.
        if (asked++ === 0) void other.updateKey(primary.arn, () => ({ description: 'from elsewhere' }))
        return {
          changes: [
            { arn: primary.arn, change: { primaryRegion: 'eu-west-1' } },
            { arn: replica.arn, change: { primaryRegion: 'eu-west-1', state: 'Enabled', creator: null, materialId: copy.materialId } },
          ],
          ready: [copy],
          creator: 'me',
        }
      })
      expect(after.map((key) => key.primaryRegion)).toEqual(['eu-west-1', 'eu-west-1'])
      await expect.poll(() => store.view.key(primary.arn)?.description).toBe('from elsewhere')
      expect(store.view.key(primary.arn)?.primaryRegion).toBe('eu-west-1')
      expect(store.view.backingKey(replica.arn, copy.materialId)?.state).toBe('ready')

      const before = store.view.multiRegionKeys(accountId, keyId)
      const change = { description: 'never' }
      const refused = [
        () => ({
          changes: [
            { arn: primary.arn, change },
            { arn: 'no such key', change },
          ],
        }),
        () => ({ changes: [{ arn: primary.arn, change }], ready: [{ keyArn: replica.arn, materialId: '00' }] }),
        (): never => {
          throw new StoreConflict('changed its mind')
        },
      ]
      for (const plan of refused) await expect(store.updateKeys(keyId, plan)).rejects.toThrow(StoreConflict)
      expect(store.view.multiRegionKeys(accountId, keyId)).toEqual(before)
    })

    test('of what another has taken over nothing becomes ready', async () => {
      await store.insertKey(inRegion('eu-west-1', { state: 'Creating', creator: 'slow' }), [{ ...copy, creator: 'slow' }])
      const other = await database.open()
      await other.claimBackingKey(copy, 'slow', 'me')
      const plan = () => ({ changes: [{ arn: replica.arn, change: { state: 'Enabled' as const } }], ready: [copy], creator: 'slow' })
      await expect(store.updateKeys(keyId, plan)).rejects.toThrow(StoreConflict)
      expect(store.view.key(replica.arn)?.state).toBe('Creating')
    })
  })

  test('reservations count beyond 2^32', async () => {
    const key = sampleKey()
    const backing = sampleBackingKey(key, { encryptionsReserved: 2 ** 40 })
    await store.insertKey(key, backing)
    await expect(store.reserveEncryptions(backing.materialId, 1, 2 ** 41)).resolves.toBe(2 ** 40 + 1)
  })

  test('imported material, its key and its object change together or not at all', async () => {
    const key = sampleKey({ state: 'PendingImport', origin: 'EXTERNAL' })
    await store.insertKey(key, undefined)
    const object = sampleImportObject(key, { creator: 'me', dueAt: null })
    await store.insertImportObject(object)
    const material = sampleBackingKey(key, {
      state: 'ready',
      ckaId: object.ckaId,
      validTo: clock.now() + 1,
      description: 'from the vault',
    })
    const imported = {
      key: { state: 'Enabled', materialId: material.materialId },
      put: material,
      adopt: { ckaId: object.ckaId, creator: 'me' },
    } as const
    const other = await database.open()
    await other.changeMaterial(key.arn, (current, materials) => {
      expect([current, materials]).toEqual([key, []])
      return imported
    })
    await expect(store.changeMaterial(key.arn, () => imported)).rejects.toThrow(StoreConflict)
    expect(await store.importObjects()).toEqual([])
    for (const view of [store.view, await reopened()]) {
      expect(view.key(key.arn)).toEqual({ ...key, ...imported.key, version: 2 })
      expect(view.backingKeys(key.arn)).toEqual([material])
    }

    await store.reserveEncryptions(material.materialId, 10, 100)
    await store.changeMaterial(key.arn, (_current, [current]) => ({
      key: { state: 'PendingImport' },
      put: { ...(current ?? material), state: 'absent', validTo: null, encryptionsReserved: 0 },
      release: { ...object, creator: null, dueAt: 7 },
    }))
    expect(await other.importObject(object.ckaId)).toEqual({ ...object, creator: null, dueAt: 7 })
    for (const view of [store.view, await reopened()]) {
      expect(view.key(key.arn)?.state).toBe('PendingImport')
      // What was encrypted stays counted: the same key may come back.
      expect(view.backingKey(material.keyArn, material.materialId)).toEqual({
        ...material,
        state: 'absent',
        validTo: null,
        encryptionsReserved: 10,
      })
    }

    await store.changeMaterial(key.arn, () => ({ key: { materialId: null }, drop: material.materialId }))
    for (const view of [store.view, await reopened()]) expect(view.backingKeys(key.arn)).toEqual([])
    await expect(store.changeMaterial('arn:none', () => ({ key: {} }))).rejects.toThrow(StoreConflict)
  })

  test('an object of an import has one holder, and outlives its key until somebody deletes it', async () => {
    const key = sampleKey()
    await store.insertKey(key, undefined)
    const object = sampleImportObject(key, { creator: 'slow', dueAt: null })
    await store.insertImportObject(object)
    await expect(store.insertImportObject(object)).rejects.toThrow(StoreConflict)
    expect(await store.claimImportObject(object.ckaId, 'somebody else', 'me')).toBe(false)
    expect(await store.claimImportObject(object.ckaId, 'slow', 'me')).toBe(true)
    const adopt = { ckaId: object.ckaId, creator: 'slow' }
    await expect(store.changeMaterial(key.arn, () => ({ key: {}, put: sampleBackingKey(key), adopt }))).rejects.toThrow(StoreConflict)
    expect(store.view.backingKeys(key.arn)).toEqual([])
    expect(await store.claimImportObject(object.ckaId, 'me', null)).toBe(true)
    await store.deleteKey(key.arn)
    expect(await store.importObjects(accountId)).toEqual([{ ...object, creator: null }])
    expect(await store.importObjects('999999999999')).toEqual([])
    await store.deleteImportObject(object.ckaId)
    await expect(store.deleteImportObject(object.ckaId)).rejects.toThrow(StoreConflict)
    expect(await store.importObject(object.ckaId)).toBeUndefined()
  })

  test('an alias names one key, moves and goes', async () => {
    const [one, two] = [sampleKey(), sampleKey()]
    await store.insertKey(one, undefined)
    await store.insertKey(two, undefined)
    const alias = sampleAlias(one, 'x')
    await store.insertAlias(alias)
    await expect(store.insertAlias({ ...alias, targetKeyArn: two.arn })).rejects.toThrow(StoreConflict)
    await store.updateAlias(alias.arn, two.arn, 77)
    expect(store.view.alias(alias.arn)).toEqual({ ...alias, targetKeyArn: two.arn, updatedAt: 77 })
    expect(store.view.aliasesOf(one.arn)).toEqual([])
    expect(store.view.aliasesOf(two.arn)).toHaveLength(1)
    expect((await reopened()).aliasesOf(two.arn)).toHaveLength(1)
    await store.deleteAlias(alias.arn)
    expect(store.view.alias(alias.arn)).toBeUndefined()
    expect(store.view.aliasesOf(two.arn)).toEqual([])
    await expect(store.deleteAlias(alias.arn)).rejects.toThrow(StoreConflict)
    await expect(store.updateAlias(alias.arn, two.arn, 78)).rejects.toThrow(StoreConflict)
  })

  test('an alias cannot be put on a key that is gone', async () => {
    const key = sampleKey()
    const kept = sampleKey()
    await store.insertKey(key, undefined)
    await store.insertKey(kept, undefined)
    const alias = sampleAlias(kept, 'y')
    await store.insertAlias(alias)
    await store.deleteKey(key.arn)
    await expect(store.insertAlias(sampleAlias(key, 'x'))).rejects.toThrow(StoreConflict)
    await expect(store.updateAlias(alias.arn, key.arn, 1)).rejects.toThrow(StoreConflict)
    expect(store.view.alias(alias.arn)).toEqual(alias)
  })

  test('listings come in pages, in order, each scope for itself, and go on after a name that is gone', async () => {
    const ids = ['b', 'a', 'd', 'c', 'e']
    for (const keyId of ids) await store.insertKey(sampleKey({ keyId }), undefined)
    await store.insertKey(sampleKey({ keyId: 'aa', region: 'eu-west-1' }), undefined)
    const { view } = store
    const first = view.listKeys(accountId, region, undefined, 2)
    expect(first.items.map(({ keyId }) => keyId)).toEqual(['a', 'b'])
    await store.deleteKey(first.items[1]?.arn ?? '')
    const second = view.listKeys(accountId, region, first.next, 2)
    expect(second.items.map(({ keyId }) => keyId)).toEqual(['c', 'd'])
    const third = view.listKeys(accountId, region, second.next, 2)
    expect(third.items.map(({ keyId }) => keyId)).toEqual(['e'])
    expect(third.next).toBeUndefined()
    expect(view.listKeys(accountId, region, undefined, 4).next).toBeUndefined()
    expect(view.listKeys('999999999999', region, undefined, 4)).toEqual({ items: [], next: undefined })
  })

  test('aliases and principals are listed by name, one name never hides another that begins with it', async () => {
    const key = sampleKey()
    const other = sampleKey()
    await store.insertKey(key, undefined)
    await store.insertKey(other, undefined)
    for (const name of ['a/b', 'a', 'ab', 'a-b', 'B']) await store.insertAlias(sampleAlias(name === 'ab' ? other : key, name))
    for (const name of ['x.y', 'x', 'xy']) await store.insertPrincipal(samplePrincipal(name, { path: name === 'xy' ? '/a/' : '/z/' }))
    await store.insertPrincipal(samplePrincipal('x', { kind: 'role' }))
    const names = (list: (after: string | undefined) => { items: readonly { name: string }[]; next: string | undefined }) => {
      const all: string[] = []
      let after: string | undefined
      do {
        const page = list(after)
        all.push(...page.items.map(({ name }) => name))
        after = page.next
      } while (after !== undefined)
      return all
    }
    for (const view of [store.view, await reopened()]) {
      expect(names((after) => view.listAliases(accountId, region, undefined, after, 1))).toEqual([
        'alias/B',
        'alias/a',
        'alias/a-b',
        'alias/a/b',
        'alias/ab',
      ])
      expect(names((after) => view.listAliases(accountId, region, key.arn, after, 2))).toEqual([
        'alias/B',
        'alias/a',
        'alias/a-b',
        'alias/a/b',
      ])
      expect(names((after) => view.listPrincipals(accountId, 'user', after, 1))).toEqual(['x', 'x.y', 'xy'])
    }
  })

  test('whoever was made under the name of a principal that is gone has nothing of its record, and no access key that was meant for it', async () => {
    const behind = await database.open({ pollMs: 1_000_000 })
    const old = samplePrincipal('renamed', { policies: { old: '{}' } })
    await behind.insertPrincipal(old)
    const other = await database.open()
    await other.deletePrincipal(old.arn)
    const made = samplePrincipal('renamed')
    expect([made.arn, made.version]).toEqual([old.arn, old.version])
    await other.insertPrincipal(made)
    // It has not heard of it.
    expect(behind.view.principal(old.arn)?.uniqueId).toBe(old.uniqueId)
    await expect(behind.insertAccessKey(sampleAccessKey(old.arn), 2, old.uniqueId)).rejects.toThrow(StoreConflict)
    await behind.updatePrincipal(old.arn, ({ policies }) => ({ policies: { ...policies, added: '{}' } }))
    await other.refresh()
    expect(other.view.principal(old.arn)).toEqual({ ...made, policies: { added: '{}' }, version: 2 })
    expect(other.view.accessKeysOf(old.arn)).toEqual([])
    await other.insertAccessKey(sampleAccessKey(old.arn), 2, made.uniqueId)
    expect(other.view.accessKeysOf(old.arn)).toHaveLength(1)
  })

  test('a principal changes by compare-and-swap and takes its access keys along', async () => {
    const user = samplePrincipal('Alice', {
      tags: [{ key: 'team', value: 'red' }],
      policies: { ['__proto__']: '{}', two: '{"Version":"2012-10-17"}' },
    })
    await store.insertPrincipal(user)
    const [one, two] = [sampleAccessKey(user.arn, 'AKIA1'), sampleAccessKey(user.arn, 'AKIA2')]
    await store.insertAccessKey(two)
    await store.insertAccessKey(one)
    for (const view of [store.view, await reopened()]) {
      expect(view.principal(user.arn)).toEqual(user)
      expect(view.accessKeysOf(user.arn)).toEqual([one, two])
    }
    const after = await store.updatePrincipal(user.arn, (current) => ({ policies: { ...current.policies, three: '{}' } }))
    expect(after.version).toBe(2)
    expect(Object.keys(store.view.principal(user.arn)?.policies ?? {})).toContain('three')
    await store.deletePrincipal(user.arn)
    for (const view of [store.view, await reopened()]) {
      expect(view.principal(user.arn)).toBeUndefined()
      expect(view.accessKey('AKIA1')).toBeUndefined()
      expect(view.accessKeysOf(user.arn)).toEqual([])
      expect(view.listPrincipals(accountId, 'user', undefined, 10).items).toEqual([])
    }
    await expect(store.updatePrincipal(user.arn, () => ({}))).rejects.toThrow(StoreConflict)
    await expect(store.deletePrincipal(user.arn)).rejects.toThrow(StoreConflict)
  })

  test('a name differs from another in more than case and path, users and roles apart', async () => {
    await store.insertPrincipal(samplePrincipal('Alice'))
    await expect(store.insertPrincipal(samplePrincipal('alice', { path: '/team/' }))).rejects.toThrow(StoreConflict)
    await store.insertPrincipal(samplePrincipal('alice', { kind: 'role' }))
  })

  test('an access key belongs to the root or to a user that exists', async () => {
    const root = sampleAccessKey(`arn:aws:iam::${accountId}:root`)
    await store.insertAccessKey(root)
    await store.setAccessKeyActive(root.accessKeyId, false)
    expect(store.view.accessKey(root.accessKeyId)).toEqual({ ...root, active: false })
    expect((await reopened()).accessKey(root.accessKeyId)).toEqual({ ...root, active: false })
    await expect(store.insertAccessKey(sampleAccessKey(samplePrincipal('nobody').arn))).rejects.toThrow(StoreConflict)
    await store.deleteAccessKey(root.accessKeyId)
    expect(store.view.accessKey(root.accessKeyId)).toBeUndefined()
    await expect(store.setAccessKeyActive(root.accessKeyId, true)).rejects.toThrow(StoreConflict)
  })

  test('of access keys that come together as many are inserted as there is room for', async () => {
    const user = samplePrincipal('Alice')
    await store.insertPrincipal(user)
    const stores = [store, await database.open()]
    const inserts = await Promise.allSettled(
      ['AKIA1', 'AKIA2', 'AKIA3', 'AKIA4'].map(async (id, index) => stores[index % 2]?.insertAccessKey(sampleAccessKey(user.arn, id), 2)),
    )
    expect(inserts.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'fulfilled', 'rejected', 'rejected'])
    const reasons: readonly unknown[] = inserts.flatMap((insert) => (insert.status === 'rejected' ? [insert.reason] : []))
    expect(reasons.every((reason) => reason instanceof StoreConflict)).toBe(true)
    expect((await reopened()).accessKeysOf(user.arn)).toHaveLength(2)
  })

  test('of keys that come together as many are inserted as the account has room for in the region; managed ones do not count', async () => {
    const stores = [store, await database.open()]
    await store.insertKey(sampleKey({ managedBy: 's3' }), undefined)
    const inserts = await Promise.allSettled(
      Array.from({ length: 6 }, async (_, index) => stores[index % 2]?.insertKey(sampleKey(), undefined, 4)),
    )
    expect(inserts.map(({ status }) => status).toSorted()).toEqual([...Array(4).fill('fulfilled'), 'rejected', 'rejected'])
    const reasons: readonly unknown[] = inserts.flatMap((insert) => (insert.status === 'rejected' ? [insert.reason] : []))
    expect(reasons.every((reason) => reason instanceof StoreConflict)).toBe(true)
    const { region } = sampleKey()
    expect((await reopened()).keyCountOf(accountId, region)).toBe(4)
    // Who lost sees why.
    for (const { view } of stores) expect(view.keyCountOf(accountId, region)).toBe(4)
    await store.insertKey(sampleKey({ managedBy: 'ebs' }), undefined)
  })

  test('of aliases that come to a key together as many are made or moved as it has room for', async () => {
    const [key, other] = [sampleKey(), sampleKey()]
    for (const each of [key, other]) await store.insertKey(each, undefined)
    const stores = [store, await database.open()]
    const moving = sampleAlias(other, 'moving')
    await store.insertAlias(moving, 3)
    await store.insertAlias(sampleAlias(key, 'there'), 3)
    const tries = await Promise.allSettled([
      ...['a', 'b', 'c'].map(async (name, index) => stores[index % 2]?.insertAlias(sampleAlias(key, name), 3)),
      store.updateAlias(moving.arn, key.arn, 9, 3),
    ])
    expect(tries.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'fulfilled', 'rejected', 'rejected'])
    expect((await reopened()).aliasesOf(key.arn)).toHaveLength(3)
    // Where it is already it takes no further room.
    await store.updateAlias(sampleAlias(key, 'there').arn, key.arn, 10, 3)
  })

  test('an account is inserted once', async () => {
    await store.insertAccount({ accountId, createdAt: 1 })
    await expect(store.insertAccount({ accountId, createdAt: 2 })).rejects.toThrow(StoreConflict)
    for (const view of [store.view, await reopened()]) expect(view.account(accountId)).toEqual({ accountId, createdAt: 1 })
  })

  test('a setting is written only over what the writer expects', async () => {
    await expect(store.compareAndSetSetting('a', 'x', 'y')).resolves.toBe(false)
    await expect(store.compareAndSetSetting('a', undefined, '1')).resolves.toBe(true)
    await expect(store.compareAndSetSetting('a', undefined, '2')).resolves.toBe(false)
    await expect(store.compareAndSetSetting('a', '1', '2')).resolves.toBe(true)
    expect(store.view.setting('a')).toBe('2')
    expect((await reopened()).setting('a')).toBe('2')
  })

  test('of many who take a lease one gets it; it is renewed by its holder and taken by another when it has run out', async () => {
    const other = await database.open()
    const now = clock.now()
    const takers = Array.from({ length: 8 }, (_, i) => (i % 2 ? store : other).acquireLease('job', `holder ${i}`, now + 100, now))
    const won = await Promise.all(takers)
    expect(won.filter(Boolean)).toHaveLength(1)
    const holder = `holder ${won.indexOf(true)}`
    await expect(store.acquireLease('job', holder, now + 200, now)).resolves.toBe(true)
    await expect(store.acquireLease('job', 'late', now + 300, now + 199)).resolves.toBe(false)
    await store.releaseLease('job', 'late')
    await expect(store.acquireLease('job', 'late', now + 300, now + 199)).resolves.toBe(false)
    await expect(store.acquireLease('job', 'late', now + 300, now + 200)).resolves.toBe(true)
    await store.releaseLease('job', 'late')
    await expect(store.acquireLease('job', 'next', now + 300, now)).resolves.toBe(true)
  })

  test('instances are the last heartbeat of each', async () => {
    const instance = { id: 'i-1', host: 'here', pid: 7, heartbeatAt: 1 }
    await store.heartbeat(instance)
    await store.heartbeat({ ...instance, heartbeatAt: 2 })
    await store.heartbeat({ ...instance, id: 'i-0' })
    expect(await store.instances()).toEqual([
      { ...instance, id: 'i-0' },
      { ...instance, heartbeatAt: 2 },
    ])
    await store.removeInstance('i-0')
    expect(await store.instances()).toHaveLength(1)
  })

  test('a custom key store is kept, changed under its newest record, and found again', async () => {
    const keyStore = sampleKeyStore()
    await store.insertKeyStore(keyStore, 10)
    const other = await database.open()
    await Promise.all([
      store.updateKeyStore(keyStore.id, () => ({ state: 'CONNECTING', holder: 'me', connection: 'c' })),
      other.updateKeyStore(keyStore.id, () => ({ name: 'renamed', sealedSecret: new Uint8Array([9]) })),
    ])
    const changed = { ...keyStore, state: 'CONNECTING', holder: 'me', connection: 'c', name: 'renamed', version: 3 }
    await vi.waitFor(() => expect(store.view.keyStore(keyStore.id)).toMatchObject({ ...changed, sealedSecret: expect.anything() }), {
      timeout: 30_000,
    })
    const again = await reopened()
    expect(again.allKeyStores()).toEqual([expect.objectContaining({ ...changed, sealedSecret: expect.anything() })])
    expect([...(again.keyStore(keyStore.id)?.sealedSecret ?? [])]).toEqual([9])
    await expect(store.updateKeyStore('cks-none', () => ({}))).rejects.toThrow(StoreConflict)
  })

  test('of custom key stores there are so many, and no two with one name or one place', async () => {
    const first = sampleKeyStore()
    await store.insertKeyStore(first, 2)
    await expect(store.insertKeyStore(sampleKeyStore({ name: first.name }), 2)).rejects.toThrow(StoreConflict)
    await expect(store.insertKeyStore(sampleKeyStore({ backing: first.backing }), 2)).rejects.toThrow(StoreConflict)
    const second = sampleKeyStore()
    await store.insertKeyStore(second, 2)
    await expect(store.insertKeyStore(sampleKeyStore(), 2)).rejects.toThrow(StoreConflict)
    await store.insertKeyStore(sampleKeyStore({ region: 'eu-west-3' }), 2)
    await expect(store.updateKeyStore(second.id, () => ({ name: first.name }))).rejects.toThrow(StoreConflict)
    expect(store.view.keyStore(second.id)).toEqual(second)
  })

  test('a custom key store stays while it is connected or has keys, and an external key is of one key', async () => {
    const keyStore = sampleKeyStore({ state: 'CONNECTED' })
    await store.insertKeyStore(keyStore, 10)
    await expect(store.deleteKeyStore(keyStore.id)).rejects.toThrow(StoreConflict)
    const inside = (xksKeyId: string | null) => sampleKey({ customKeyStoreId: keyStore.id, xksKeyId })
    const key = inside('external')
    await store.insertKey(key, undefined)
    await expect(store.insertKey(inside('external'), undefined)).rejects.toThrow(StoreConflict)
    const without = inside(null)
    await store.insertKey(without, undefined)
    await store.insertKey(inside(null), undefined)
    await expect(store.insertKey(sampleKey({ customKeyStoreId: 'cks-none' }), undefined)).rejects.toThrow(StoreConflict)
    await store.updateKeyStore(keyStore.id, () => ({ state: 'DISCONNECTED' }))
    for (const view of [store.view, await reopened()]) {
      expect(view.keyByExternalKey(keyStore.id, 'external')).toEqual(key)
      expect(view.keysIn(keyStore.id, 2)).toHaveLength(2)
    }
    await expect(store.deleteKeyStore(keyStore.id)).rejects.toThrow(StoreConflict)
    for (const each of store.view.keysIn(keyStore.id, 10)) await store.deleteKey(each.arn)
    await store.deleteKeyStore(keyStore.id)
    for (const view of [store.view, await reopened()]) {
      expect([view.allKeyStores(), view.keysIn(keyStore.id, 1), view.keyByExternalKey(keyStore.id, 'external')]).toEqual([
        [],
        [],
        undefined,
      ])
    }
  })

  test('a store of the XKS proxy is kept whole, changed under its newest record, and seen by other processes', async () => {
    const root = sampleXksStore({ prefix: '', policy: '{}', policyMode: 'DRY_RUN', regions: ['eu-west-1', 'us-east-1'] })
    await store.insertXksStore(root, 10)
    const other = await database.open()
    expect(other.view.xksStore('')).toEqual(root)
    await Promise.all([
      store.updateXksStore(root, () => ({ enabled: false })),
      other.updateXksStore(root, ({ credentials }) => ({ credentials: [...credentials, { ...credentials[0]!, accessKeyId: 'B' }] })),
    ])
    await vi.waitFor(() => {
      for (const { view } of [store, other]) expect(view.xksStore('')).toMatchObject({ enabled: false, version: 3 })
    }, 30_000)
    expect((await reopened()).allXksStores()).toEqual([
      { ...root, enabled: false, version: 3, credentials: [root.credentials[0], { ...root.credentials[0], accessKeyId: 'B' }] },
    ])
    await expect(store.updateXksStore({ ...root, prefix: '/none' }, () => ({}))).rejects.toThrow(StoreConflict)
  })

  test('of stores of the XKS proxy an account has so many, and nobody has the prefix of another', async () => {
    const first = sampleXksStore()
    await store.insertXksStore(first, 2)
    await expect(store.insertXksStore(sampleXksStore({ prefix: first.prefix, accountId: '999999999999' }), 2)).rejects.toThrow(
      StoreConflict,
    )
    await store.insertXksStore(sampleXksStore(), 2)
    await expect(store.insertXksStore(sampleXksStore(), 2)).rejects.toThrow(StoreConflict)
    expect(store.view.allXksStores()).toHaveLength(2)
  })

  test('an external key id is one key in its store, is found by store and by key, and goes with the store, which must be disabled', async () => {
    const [here, there] = [sampleXksStore({ prefix: '' }), sampleXksStore({ prefix: '/there' })]
    for (const each of [here, there]) await store.insertXksStore(each, 10)
    const shown = (prefix: string, externalKeyId: string, keyArn = 'arn:one') => ({ prefix, externalKeyId, keyArn, createdAt: 1 })
    for (const key of [shown('', 'b'), shown('', 'a'), shown('', 'c', 'arn:two')]) await store.insertXksKey(here, key)
    await store.insertXksKey(there, shown('/there', 'a'))
    await expect(store.insertXksKey(here, shown('', 'a', 'arn:two'))).rejects.toThrow(StoreConflict)
    await expect(store.insertXksKey({ ...here, prefix: '/none' }, shown('/none', 'a'))).rejects.toThrow(StoreConflict)
    for (const view of [store.view, await reopened()]) {
      expect(view.xksKey('', 'a')).toEqual(shown('', 'a'))
      expect(view.xksKey('', 'd')).toBeUndefined()
      expect(view.listXksKeys('', undefined, 2)).toEqual({ items: [shown('', 'a'), shown('', 'b')], next: 'b' })
      expect(view.listXksKeys('', 'b', 2)).toEqual({ items: [shown('', 'c', 'arn:two')], next: undefined })
      expect(view.xksKeysOf('arn:one')).toEqual([shown('', 'a'), shown('', 'b'), shown('/there', 'a')])
    }
    await store.deleteXksKey(here, 'b')
    await expect(store.deleteXksKey(here, 'b')).rejects.toThrow(StoreConflict)
    await expect(store.deleteXksStore(here)).rejects.toThrow(StoreConflict)
    expect(store.view.xksKey('', 'a')).toEqual(shown('', 'a'))
    await store.updateXksStore(here, () => ({ enabled: false }))
    await store.deleteXksStore(here)
    for (const view of [store.view, await reopened()]) {
      expect([view.xksStore(''), view.xksKey('', 'a'), view.listXksKeys('', undefined, 9).items]).toEqual([undefined, undefined, []])
      expect(view.xksKeysOf('arn:one')).toEqual([shown('/there', 'a')])
    }
    await expect(store.deleteXksStore(here)).rejects.toThrow(StoreConflict)
  })

  test('what an account still has under way with a store that it has deleted touches no store that another makes under the same prefix', async () => {
    const [theirs, ours] = ['999999999999', '888888888888'].map((accountId) =>
      sampleXksStore({ prefix: '/moves', accountId, createdAt: 5 }),
    )
    if (!theirs || !ours) throw new Error('not reached')
    const other = await database.open()
    await store.insertXksStore({ ...theirs, enabled: false }, 10)
    await store.deleteXksStore(theirs)
    await store.insertXksStore({ ...ours, enabled: false }, 10)
    const key = { externalKeyId: 'a', keyArn: 'arn:one', createdAt: 1 }
    await store.insertXksKey(ours, key)
    for (const late of [store, other]) {
      await expect(late.updateXksStore(theirs, () => ({ credentials: theirs.credentials }))).rejects.toThrow(StoreConflict)
      await expect(late.insertXksKey(theirs, { ...key, externalKeyId: 'b' })).rejects.toThrow(StoreConflict)
      await expect(late.deleteXksKey(theirs, 'a')).rejects.toThrow(StoreConflict)
      await expect(late.deleteXksStore(theirs)).rejects.toThrow(StoreConflict)
    }
    const view = await reopened()
    expect([view.xksStore('/moves'), view.xksKeysOf('arn:one')]).toEqual([{ ...ours, enabled: false }, [{ ...key, prefix: '/moves' }]])
  })

  test('a change by another process comes into the view by itself', async () => {
    const other = await database.open()
    const [one, two] = [sampleKey(), sampleKey()]
    await other.insertKey(one, undefined)
    await other.insertKey(two, undefined)
    await other.insertAlias(sampleAlias(one, 'a'))
    await vi.waitFor(() => expect(store.view.aliasesOf(one.arn)).toHaveLength(1), { timeout: 30_000 })
    await other.updateAlias(sampleAlias(one, 'a').arn, two.arn, 9)
    await other.deleteKey(one.arn)
    await vi.waitFor(() => expect(store.view.key(one.arn)).toBeUndefined(), { timeout: 30_000 })
    expect(store.view.aliasesOf(two.arn)).toHaveLength(1)
  })

  test('a process that fell behind the kept changes loads everything again', async () => {
    const other = await database.open({ keptChanges: 3 })
    const keys = Array.from({ length: 12 }, () => sampleKey())
    for (const key of keys) await other.insertKey(key, undefined)
    await other.deleteKey(keys[0]?.arn ?? '')
    // Eleven keys alone would also be the view before the last insert; without the first they are the end.
    const settled = () => [store.view.keyCount(), store.view.key(keys[0]?.arn ?? '')]
    await vi.waitFor(() => expect(settled()).toEqual([11, undefined]), { timeout: 30_000 })
    for (const key of keys.slice(1)) expect(store.view.key(key.arn)).toEqual(key)
    expect((await reopened()).keyCount()).toBe(11)
  })

  test('a closed store refuses everything', async () => {
    await store.ping()
    await store.close()
    await expect(store.ping()).rejects.toThrow('closed')
    await expect(store.insertKey(sampleKey(), undefined)).rejects.toThrow('closed')
    await store.close()
  })
})
