/** Grants in the store: what `Grants` promises, with two openings of one database; and that none of it grows with the number of grants. */

import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import type { CompiledQuery } from 'kysely'
import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { grantAllows } from '../../src/auth/grants.ts'
import type { Backend } from '../../src/store/backend.ts'
import { anchorOf, anchorsMetBy, operationRows } from '../../src/store/grants.ts'
import { openStore, openStoreOn } from '../../src/store/open.ts'
import { openSqlite } from '../../src/store/sqlite.ts'
import { StoreConflict } from '../../src/store/store.ts'
import type { GrantLook, GrantRecord, KeyRecord, Store } from '../../src/store/store.ts'
import { accountId, backEnds, clock, region, sampleKey, type TestDatabase } from './store-suite.ts'

const alice = `arn:aws:iam::${accountId}:user/alice`
const bob = `arn:aws:iam::${accountId}:user/bob`
const most = 1_000_000

function sampleGrant(key: KeyRecord, values: Partial<GrantRecord> = {}): GrantRecord {
  return {
    grantId: randomBytes(32).toString('hex'),
    keyArn: key.arn,
    grantee: alice,
    granteeId: 'AIDAALICE',
    retiring: null,
    retiringId: null,
    issuingAccountId: accountId,
    name: null,
    operations: ['Encrypt', 'Decrypt'],
    constraints: {},
    createdAt: clock.now(),
    ...values,
  }
}

const any = (): boolean => true
/** Alice wants to encrypt. */
const looking = (context: GrantLook['context'] = {}, values: Partial<GrantLook> = {}): GrantLook => ({
  operation: 'Encrypt',
  granteeId: 'AIDAALICE',
  sourceArn: undefined,
  context,
  passing: [],
  ...values,
})
/** As a call asks for it: what the look-up leaves out, `grantAllows` would too. */
const asking =
  (look: GrantLook) =>
  (grant: GrantRecord): boolean =>
    grantAllows(grant, { operation: look.operation, encryptionContext: look.context ?? {}, sourceArn: look.sourceArn })
/** What a look-up answers, whether at once or later. */
const found = async (store: Store, keyArn: string, grantee: string, accept: (grant: GrantRecord) => boolean = any) =>
  await store.grants.find(keyArn, grantee, looking(), accept)

describe.each(backEnds)('grants on $name', ({ make }) => {
  let database: TestDatabase
  let store: Store
  let key: KeyRecord
  beforeAll(async () => {
    database = make()
    store = await database.open()
  })
  beforeEach(async () => {
    key = sampleKey()
    await store.insertKey(key, undefined)
  })
  afterAll(() => database.drop())

  test('of a replica that was deleted and made anew are neither honoured nor removed for the one before', async () => {
    const keyId = `mrk-${randomBytes(16).toString('hex')}`
    const replica = sampleKey({
      keyId,
      arn: `arn:aws:kms:${region}:${accountId}:key/${keyId}`,
      multiRegion: true,
      primaryRegion: 'eu-west-1',
      createdAt: 5,
    })
    const behind = await database.open({ pollMs: 1_000_000 })
    await behind.insertKey(replica, undefined)
    await behind.grants.insert(sampleGrant(replica), most)
    expect(await found(behind, replica.arn, alice)).toBeDefined()

    // All of it before the other one looks again.
    await store.refresh()
    await store.deleteKey(replica.arn, 5)
    await store.insertKey({ ...replica, createdAt: 6 }, undefined)
    await store.grants.insert(sampleGrant(replica, { grantee: bob }), most)
    await expect(behind.deleteKey(replica.arn, 5)).rejects.toThrow(StoreConflict)
    expect(await found(store, replica.arn, bob)).toBeDefined()
    await behind.refresh()
    expect(await found(behind, replica.arn, alice)).toBeUndefined()
    expect(await found(behind, replica.arn, bob)).toBeDefined()
    await behind.close()
  })

  test('come back as they were put in, after a restart too', async () => {
    const names = JSON.parse('{"__proto__":"x","naïve ☃":"","A":"1"}') as Record<string, string>
    const whole = sampleGrant(key, {
      retiring: bob,
      retiringId: 'AIDABOB',
      name: 'a/name',
      constraints: { encryptionContextSubset: names, sourceArn: 'arn:aws:s3:::b' },
    })
    await store.grants.insert(whole, most)
    for (const each of [store, await database.open()]) {
      expect(await each.grants.get(whole.grantId)).toEqual(whole)
      expect(await each.grants.find(key.arn, alice, looking(names), any)).toEqual(whole)
      expect(Object.keys((await each.grants.get(whole.grantId))?.constraints.encryptionContextSubset ?? {})).toEqual(Object.keys(names))
    }
    expect(await store.grants.get('0'.repeat(64))).toBeUndefined()
  })

  test('are on a key that is there, and go with it', async () => {
    const grant = sampleGrant(key)
    await expect(store.grants.insert(sampleGrant(sampleKey()), most)).rejects.toThrow(StoreConflict)
    await store.grants.insert(grant, most)
    expect(await found(store, key.arn, alice)).toEqual(grant)
    await store.deleteKey(key.arn)
    expect(await store.grants.get(grant.grantId)).toBeUndefined()
    expect(await found(store, key.arn, alice)).toBeUndefined()
    await expect(store.grants.insert(sampleGrant(key), most)).rejects.toThrow(StoreConflict)
  })

  test('that are deleted are gone, and cannot be deleted twice or on another key', async () => {
    const grant = sampleGrant(key)
    await store.grants.insert(grant, most)
    const other = sampleKey()
    await store.insertKey(other, undefined)
    await expect(store.grants.delete({ ...grant, keyArn: other.arn })).rejects.toThrow(StoreConflict)
    await store.grants.delete(grant)
    await expect(store.grants.delete(grant)).rejects.toThrow(StoreConflict)
    expect(await found(store, key.arn, alice)).toBeUndefined()
  })

  test('of one name are the same when they are equal but for id, time and the order of operations', async () => {
    const grant = sampleGrant(key, { name: 'n', constraints: { encryptionContextEquals: { a: '1', b: '2' } } })
    await store.grants.insert(grant, most)
    const equal = sampleGrant(key, {
      ...grant,
      grantId: randomBytes(32).toString('hex'),
      createdAt: grant.createdAt + 1,
      operations: ['Decrypt', 'Encrypt'],
      constraints: { encryptionContextEquals: { b: '2', a: '1' } },
    })
    await expect(store.grants.insert(equal, most)).rejects.toThrow(StoreConflict)
    expect(await store.grants.sameAs(equal)).toEqual(grant)
    const unequal: readonly Partial<GrantRecord>[] = [
      { name: 'm' },
      { grantee: bob },
      { granteeId: 'AIDAOTHER' },
      { retiring: bob },
      { issuingAccountId: '444455556666' },
      { operations: ['Encrypt'] },
      { constraints: { encryptionContextSubset: { a: '1', b: '2' } } },
      { constraints: { encryptionContextEquals: { a: '1' } } },
      { constraints: { encryptionContextEquals: { a: '1', b: '2' }, sourceArn: 'arn:aws:s3:::b' } },
    ]
    for (const values of unequal) {
      const different = { ...equal, ...values, grantId: randomBytes(32).toString('hex') }
      expect(await store.grants.sameAs(different)).toBeUndefined()
      await store.grants.insert(different, most)
    }
    expect(await store.grants.count(grant.keyArn)).toBe(1 + unequal.length)
    expect(await store.grants.count(`${grant.keyArn}-none`)).toBe(0)
    // Without a name nothing is the same.
    const bare = sampleGrant(key)
    await store.grants.insert(bare, most)
    expect(await store.grants.sameAs({ ...bare, grantId: randomBytes(32).toString('hex') })).toBeUndefined()
    await store.grants.insert({ ...bare, grantId: randomBytes(32).toString('hex') }, most)
  })

  test('are counted: no more than the limit, with two processes at it at once, and an ended one makes room', async () => {
    const other = await database.open()
    const attempts = Array.from({ length: 12 }, (_, index) => (index % 2 ? store : other).grants.insert(sampleGrant(key), 5))
    const done = await Promise.allSettled(attempts)
    expect(done.filter(({ status }) => status === 'fulfilled')).toHaveLength(5)
    const { items } = await store.grants.list({ keyArn: key.arn }, undefined, 100)
    expect(items).toHaveLength(5)
    await other.grants.delete(items[0] as GrantRecord)
    await store.grants.insert(sampleGrant(key), 5)
    await expect(store.grants.insert(sampleGrant(key), 5)).rejects.toThrow(StoreConflict)
    // Another key has its own count.
    const second = sampleKey()
    await store.insertKey(second, undefined)
    await store.grants.insert(sampleGrant(second), 5)
  })

  test('are listed in order of their ids, by key, by grantee and by retiring principal of a region', async () => {
    const carol = `arn:aws:iam::${accountId}:user/carol`
    const elsewhere = sampleKey({ region: 'eu-west-1' })
    const second = sampleKey()
    for (const each of [elsewhere, second]) await store.insertKey(each, undefined)
    const all = [
      ...Array.from({ length: 7 }, (_, index) =>
        sampleGrant(key, { grantee: index < 4 ? alice : bob, ...(index % 2 && { retiring: carol, retiringId: 'AIDACAROL' }) }),
      ),
      sampleGrant(second, { retiring: carol, retiringId: 'AIDACAROL' }),
      sampleGrant(second, { retiring: carol, retiringId: 'AIDACAROLBEFORE' }),
      sampleGrant(elsewhere, { retiring: carol, retiringId: 'AIDACAROL' }),
    ]
    for (const each of all) await store.grants.insert(each, most)
    const pages = async (filter: Parameters<Store['grants']['list']>[0], limit: number): Promise<readonly (readonly string[])[]> => {
      const ids: string[][] = []
      let after: string | undefined
      do {
        const page = await store.grants.list(filter, after, limit)
        ids.push(page.items.map(({ grantId }) => grantId))
        after = page.next
      } while (after !== undefined)
      return ids
    }
    const ids = (some: readonly GrantRecord[]) => some.map(({ grantId }) => grantId).sort()
    const ofKey = all.filter(({ keyArn }) => keyArn === key.arn)
    const listed = await pages({ keyArn: key.arn }, 3)
    expect(listed.map((page) => page.length)).toEqual([3, 3, 1])
    expect(listed.flat()).toEqual(ids(ofKey))
    expect((await pages({ keyArn: key.arn, grantee: bob }, 3)).flat()).toEqual(ids(ofKey.filter(({ grantee }) => grantee === bob)))
    expect((await pages({ keyArn: key.arn, grantee: alice }, 4)).map((page) => page.length)).toEqual([4])
    const ofCarol = all.filter(({ retiring, keyArn }) => retiring === carol && keyArn !== elsewhere.arn)
    expect((await pages({ retiring: carol, retiringId: null, region }, 2)).flat()).toEqual(ids(ofCarol))
    expect((await pages({ retiring: carol, retiringId: 'AIDACAROL', region }, 2)).flat()).toEqual(
      ids(ofCarol.filter(({ retiringId }) => retiringId === 'AIDACAROL')),
    )
    expect(await pages({ keyArn: 'none' }, 3)).toEqual([[]])
  })

  test('that were looked up lately are answered at once, and so is that there are none', async () => {
    const look = (grantee: string) => store.grants.find(key.arn, grantee, looking(), any)
    const grant = sampleGrant(key)
    await store.grants.insert(grant, most)
    for (const [grantee, answer] of [
      [alice, grant],
      [bob, undefined],
    ] as const) {
      const first = look(grantee)
      expect(first).toBeInstanceOf(Promise)
      expect(await first).toEqual(answer)
      expect(look(grantee)).toEqual(answer)
    }
  })

  test('of one process are seen there at once, and by another within a second', async () => {
    const other = await database.open()
    const grant = sampleGrant(key)
    for (const each of [store, other]) expect(await found(each, key.arn, alice)).toBeUndefined()
    await store.grants.insert(grant, most)
    expect(await found(store, key.arn, alice)).toEqual(grant)
    await vi.waitFor(async () => expect(await found(other, key.arn, alice)).toEqual(grant), { timeout: 30_000, interval: 5 })
    await other.grants.delete(grant)
    expect(await found(other, key.arn, alice)).toBeUndefined()
    await vi.waitFor(async () => expect(await found(store, key.arn, alice)).toBeUndefined(), { timeout: 30_000, interval: 5 })
    await store.deleteKey(key.arn)
    await vi.waitFor(() => expect(other.view.key(key.arn)).toBeUndefined(), { timeout: 30_000, interval: 5 })
  })

  test('that are kept stay kept when another key goes', async () => {
    const other = await database.open()
    const [doomed, grant] = [sampleKey(), sampleGrant(key)]
    await store.insertKey(doomed, undefined)
    await store.grants.insert(grant, most)
    await store.grants.insert(sampleGrant(doomed), most)
    await vi.waitFor(() => expect(other.view.key(doomed.arn)).toBeDefined(), { timeout: 30_000, interval: 5 })
    // What is looked up while the other process still hears of the grants is not kept: this is heard after them.
    await store.updateKey(key.arn, () => ({ description: 'heard' }))
    await vi.waitFor(() => expect(other.view.key(key.arn)?.description).toBe('heard'), { timeout: 30_000, interval: 5 })
    for (const each of [store, other]) {
      for (const { arn } of [key, doomed]) expect(await found(each, arn, alice)).toBeDefined()
    }
    await store.deleteKey(doomed.arn)
    await vi.waitFor(() => expect(other.view.key(doomed.arn)).toBeUndefined(), { timeout: 30_000, interval: 5 })
    for (const each of [store, other]) {
      // At once: nothing is read.
      expect(each.grants.find(key.arn, alice, looking(), any)).toEqual(grant)
      const gone = each.grants.find(doomed.arn, alice, looking(), any)
      expect(gone).toBeInstanceOf(Promise)
      expect(await gone).toBeUndefined()
    }
  })

  test('that a process fell behind on are read again', async () => {
    const behind = await database.open({ keptChanges: 1 })
    const grant = sampleGrant(key)
    expect(await found(behind, key.arn, alice)).toBeUndefined()
    // More changes than are kept, in one go: the other has to load everything.
    const few = await database.open({ keptChanges: 1 })
    await few.grants.insert(grant, most)
    for (let index = 0; index < 4; index++) await few.updateKey(key.arn, () => ({ description: `${index}` }))
    await vi.waitFor(async () => expect(await found(behind, key.arn, alice)).toEqual(grant), { timeout: 30_000, interval: 5 })
  })

  test('a look-up that began before a change is not kept', async () => {
    const early = store.grants.find(key.arn, alice, looking(), any)
    const grant = sampleGrant(key)
    const written = store.grants.insert(grant, most)
    await Promise.all([early, written])
    expect(await found(store, key.arn, alice)).toEqual(grant)
  })
})

// ---- many ----

/** Ids in the order of their numbers, as no grant of ours has them. */
const numbered = (prefix: string, index: number): string => prefix + index.toString(16).padStart(64 - prefix.length, '0')

describe('a hundred thousand grants', () => {
  const many = 100_000
  const ofAlice = 30_000
  const ofDoomed = 5000
  let directory: string
  let store: Store
  let key: KeyRecord
  let doomed: KeyRecord
  let plain: Database.Database
  const queries: CompiledQuery[] = []
  let rowsRead = 0

  let insertGrant: Database.Statement
  let insertOperation: Database.Statement
  /** Without being counted, and unsaid. */
  const put = (grant: GrantRecord): void => {
    const { grantId, keyArn, grantee, granteeId, retiring, operations, constraints } = grant
    const parts = [accountId, JSON.stringify(operations), JSON.stringify(constraints), anchorOf(constraints)] as const
    insertGrant.run(grantId, keyArn, region, grantee, granteeId, retiring, ...parts)
    for (const row of operationRows(grant)) insertOperation.run(row)
  }

  const aboutGrants = ({ sql }: CompiledQuery): boolean => /"grants"|"grant_counts"|"grant_operations"/.test(sql)
  /** Remembers what is asked of the database, and how many grants it answers. */
  const watched = (backend: Backend): Backend => ({
    ...backend,
    async read(asked) {
      const answers = await backend.read(asked)
      queries.push(...asked)
      const rows = answers as readonly (readonly unknown[])[]
      rowsRead += asked.reduce((sum, query, index) => sum + (aboutGrants(query) ? (rows[index]?.length ?? 0) : 0), 0)
      return answers
    },
    write(what, steps) {
      queries.push(...steps.map(({ query }) => query))
      return backend.write(what, steps)
    },
  })
  const watch = async <T>(
    task: () => Promise<T> | T,
  ): Promise<{ readonly answer: T; readonly rows: number; readonly plans: readonly string[] }> => {
    queries.length = 0
    rowsRead = 0
    const answer = await task()
    const plans = queries.filter(aboutGrants).flatMap(({ sql, parameters }) => {
      const rows = plain.prepare(`EXPLAIN QUERY PLAN ${sql}`).all(...parameters) as readonly { readonly detail: string }[]
      return rows.map(({ detail }) => detail)
    })
    return { answer, rows: rowsRead, plans }
  }
  const contextOf = (index: number) => ({ volume: `vol-${index}`, tenant: 'one' })

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'holdfast-grants-'))
    const file = join(directory, 'store.sqlite')
    key = sampleKey()
    doomed = sampleKey()
    const first = await openStore({ file, clock })
    for (const each of [key, doomed]) {
      await first.insertKey(each, undefined)
      await first.grants.insert(sampleGrant(each, { grantee: bob }), most)
    }
    await first.close()
    plain = new Database(file)
    plain.pragma('synchronous = OFF')
    insertGrant = plain.prepare(
      `INSERT INTO grants (grant_id, key_arn, region, grantee, grantee_id, retiring, issuing_account_id, operations, constraints, created_at, anchor)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)`,
    )
    insertOperation = plain.prepare(
      `INSERT INTO grant_operations (key_arn, grantee, needs, anchor, grant_id, passes)
       VALUES (:key_arn, :grantee, :needs, :anchor, :grant_id, :passes)`,
    )
    plain.transaction(() => {
      for (let index = 0; index < many; index++) {
        const mine = index < ofAlice
        put(
          sampleGrant(index < many - ofDoomed ? key : doomed, {
            grantId: numbered('0', index),
            grantee: mine ? alice : `${alice}-${index}`,
            granteeId: mine ? 'AIDAALICE' : null,
            retiring: index % 10 === 0 ? bob : null,
            operations: ['Encrypt'],
            constraints: mine ? { encryptionContextSubset: contextOf(index) } : {},
          }),
        )
      }
      const count = plain.prepare('UPDATE grant_counts SET grants = grants + ? WHERE key_arn = ?')
      count.run(many - ofDoomed, key.arn)
      count.run(ofDoomed, doomed.arn)
    })()
    store = await openStoreOn(watched(await openSqlite({ file, pollMs: 20 })), { clock })
  }, 60_000)
  afterAll(async () => {
    plain.close()
    await store.close()
    rmSync(directory, { recursive: true, maxRetries: 5 })
  })

  /** Each step of each query goes by an index: nothing is looked through, nothing is sorted. */
  const expectIndexed = (plans: readonly string[]): void => {
    expect(plans.length).toBeGreaterThan(0)
    for (const plan of plans) expect(plan).not.toMatch(/^SCAN (?!CONSTANT)|TEMP B-TREE/)
  }

  test('are not read when the store is opened, or follows changes', async () => {
    const { rows, plans } = await watch(async () => {
      const again = await openStoreOn(watched(await openSqlite({ file: join(directory, 'store.sqlite'), pollMs: 20 })), { clock })
      await again.updateKey(key.arn, () => ({ description: 'x' }))
      await again.close()
    })
    expect(plans).toEqual([])
    expect(rows).toBe(0)
  })

  test('cost a page to list', async () => {
    for (const filter of [{ keyArn: key.arn }, { keyArn: key.arn, grantee: alice }, { retiring: bob, retiringId: null, region }]) {
      const { answer, rows, plans } = await watch(() => store.grants.list(filter, numbered('0', 5000), 50))
      expect(answer.items).toHaveLength(50)
      expect(rows).toBe(51)
      expectIndexed(plans)
    }
  })

  test('cost one indexed read to look one grantee up among them, and then none', async () => {
    const look = () => store.grants.find(key.arn, `${alice}-70000`, looking(), any)
    const first = await watch(look)
    expect([first.answer?.grantId, first.rows]).toEqual([numbered('0', 70_000), 1])
    expectIndexed(first.plans)
    expect((await watch(look)).rows).toBe(0)
    expect(look()).toEqual(first.answer)
  })

  test('of one grantee are looked up by what the request has in common with their constraints', async () => {
    const look = (context: Record<string, string>) => () => store.grants.find(key.arn, alice, looking(context), asking(looking(context)))
    // The first look finds that there are many.
    await look({})()
    const { answer, rows, plans } = await watch(look({ ...contextOf(12_345), more: 'x' }))
    expect(answer?.grantId).toBe(numbered('0', 12_345))
    expect(rows).toBeLessThanOrEqual(3)
    expectIndexed(plans)
    expect((await watch(look({ volume: 'none', tenant: 'one' }))).answer).toBeUndefined()
    expect((await watch(look({}))).answer).toBeUndefined()
    // Where constraints do not matter the first page has one.
    const unconstrained: GrantLook = { ...looking(), context: undefined }
    const any = await watch(() => store.grants.find(key.arn, alice, unconstrained, (grant) => grant.operations.includes('Encrypt')))
    expect(any.answer).toBeDefined()
    expect(any.rows).toBeLessThanOrEqual(500)
    expectIndexed(any.plans)
    const none = await watch(() => store.grants.find(key.arn, alice, unconstrained, () => false))
    expect([none.answer, none.rows]).toEqual([undefined, ofAlice])
    expectIndexed(none.plans)
  })

  test('cost a request that none of them allows a seek: another operation, another holder of the name, another source', async () => {
    const elsewhere = sampleKey()
    await store.insertKey(elsewhere, undefined)
    const root = `arn:aws:iam::${accountId}:root`
    const kinds: readonly Partial<GrantRecord>[] = [
      { operations: ['Decrypt', 'DescribeKey'] },
      { operations: ['CreateGrant', 'Decrypt'] },
      { operations: ['Sign'], granteeId: 'AIDAEARLIER' },
      { operations: ['Sign'], constraints: { sourceArn: 'arn:aws:s3:::one' } },
      { grantee: root, granteeId: null, operations: ['Decrypt'] },
    ]
    plain.transaction(() => {
      for (let index = 0; index < 1500 * kinds.length; index++) {
        put(sampleGrant(elsewhere, { ...kinds[index % kinds.length], grantId: numbered('e', index) }))
      }
    })()
    const refused: readonly Partial<GrantLook>[] = [
      {},
      { operation: 'GenerateDataKey' },
      { operation: 'GetPublicKey', context: undefined },
      { operation: 'Sign', context: undefined },
      { operation: 'Sign', context: undefined, sourceArn: 'arn:aws:s3:::other' },
      { operation: 'CreateGrant', passing: ['Encrypt'] },
      { operation: 'CreateGrant', passing: ['Decrypt', 'DescribeKey'] },
    ]
    const lookAs = (grantee: string, values: Partial<GrantLook>) => {
      const look = looking({}, values)
      return watch(() => store.grants.find(elsewhere.arn, grantee, look, (grant) => grant.operations.includes(look.operation)))
    }
    for (const grantee of [alice, root]) {
      // The first look finds that there are many.
      await lookAs(grantee, {})
      for (const values of refused) {
        const { answer, rows, plans } = await lookAs(grantee, values)
        // Not the store's own look for changes, which goes on meanwhile.
        expect([answer, rows, queries.filter(aboutGrants).length]).toEqual([undefined, 0, values.sourceArn === undefined ? 2 : 4])
        expectIndexed(plans)
        for (const plan of plans.filter((each) => each.includes('allowed')))
          expect(plan).toMatch(/USING PRIMARY KEY \(key_arn=\? AND grantee=\? AND needs=\? AND (?:anchor=\?|\(anchor,grant_id\)>)/)
      }
    }
    // And what is allowed is found among them.
    const allowed: readonly Partial<GrantLook>[] = [
      { operation: 'Decrypt' },
      { operation: 'DescribeKey', context: undefined },
      { operation: 'Sign', context: undefined, granteeId: 'AIDAEARLIER' },
      { operation: 'Sign', context: undefined, sourceArn: 'arn:aws:s3:::one' },
      { operation: 'CreateGrant', passing: ['Decrypt'] },
    ]
    for (const values of allowed) {
      const { answer, plans } = await lookAs(alice, values)
      expect(answer?.operations).toContain(values.operation)
      expectIndexed(plans)
    }
    const one = (await lookAs(alice, { operation: 'CreateGrant', passing: ['Decrypt'] })).answer as GrantRecord
    const rowsOf = plain.prepare('SELECT count(*) FROM grant_operations WHERE key_arn = ? AND grant_id = ?').pluck()
    expect(rowsOf.get(elsewhere.arn, one.grantId)).toBe(2)
    plain.prepare('INSERT INTO grant_counts VALUES (?, ?)').run(elsewhere.arn, 1500 * kinds.length)
    expectIndexed((await watch(() => store.grants.delete(one))).plans)
    expect(rowsOf.get(elsewhere.arn, one.grantId)).toBe(0)
  })

  test('cost a request with hundreds of pairs one query, and are all found, page after page', async () => {
    const crowded = sampleKey()
    await store.insertKey(crowded, undefined)
    const constraintsOf = (index: number): GrantRecord['constraints'] =>
      index < 1200 ? { encryptionContextSubset: { a: '1' } } : index < 1300 ? {} : { encryptionContextSubset: { b: String(index) } }
    plain.transaction(() => {
      for (let index = 0; index < 2000; index++) {
        put(sampleGrant(crowded, { grantId: numbered('c', index), constraints: constraintsOf(index) }))
      }
    })()
    const few = { a: '1', b: '1700' }
    const wide = { ...few, ...Object.fromEntries(Array.from({ length: 600 }, (_, index) => [`name-${index}`, ''])) }
    await store.grants.find(crowded.arn, alice, looking(), any)
    for (const context of [few, wide]) {
      const seen = new Set<string>()
      const { plans } = await watch(() => store.grants.find(crowded.arn, alice, looking(context), ({ grantId }) => !seen.add(grantId)))
      expect(seen.size).toBe(1301)
      expect(queries.filter(aboutGrants).length).toBeLessThan(8)
      expectIndexed(plans)
    }
  })

  test('are counted without looking at them', async () => {
    const made = await watch(() => store.grants.insert(sampleGrant(key, { name: 'x' }), most))
    expect(made.rows).toBe(0)
    // An insert has no plan to speak of but for what is inserted.
    expect(made.plans).toEqual(['SCAN 2-ROW VALUES CLAUSE'])
    const grant = sampleGrant(key)
    await store.grants.insert(grant, most)
    expectIndexed((await watch(() => store.grants.delete(grant))).plans)
    await expect(store.grants.insert(sampleGrant(key), many - ofDoomed)).rejects.toThrow(StoreConflict)
    expectIndexed((await watch(() => store.grants.sameAs(sampleGrant(key, { name: 'y' })))).plans)
    expectIndexed((await watch(() => store.grants.get('0'.repeat(64)))).plans)
    const counting = await watch(() => store.grants.count(key.arn))
    expect(counting.rows).toBe(1)
    expectIndexed(counting.plans)
  })

  test('go with their key, a part in each transaction', async () => {
    const writes = await watch(() => store.deleteKey(doomed.arn))
    expectIndexed(writes.plans)
    expect(queries.filter(({ sql }) => sql.startsWith('delete from "grants"')).length).toBeGreaterThan(ofDoomed / 2000)
    expect(queries.filter(({ sql }) => sql.startsWith('delete from "grant_operations"')).length).toBeGreaterThan(ofDoomed / 2000)
    for (const table of ['grants', 'grant_operations'])
      expect(plain.prepare(`SELECT count(*) FROM ${table} WHERE key_arn = ?`).pluck().get(doomed.arn)).toBe(0)
    expect(plain.prepare('SELECT count(*) FROM grants').pluck().get()).toBeGreaterThan(many - ofDoomed)
  })
})

// ---- older databases ----

test('grants from before they were looked up by operation are looked up like those that are made now', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'holdfast-grants-'))
  const file = join(directory, 'store.sqlite')
  const store = await openStore({ file, clock })
  const key = sampleKey()
  await store.insertKey(key, undefined)
  const kinds: readonly Partial<GrantRecord>[] = [
    {},
    { granteeId: null, operations: ['CreateGrant', 'Decrypt', 'Decrypt'] },
    { constraints: { encryptionContextEquals: { a: '1' }, sourceArn: 'arn:aws:s3:::"it\'s ☃"' } },
  ]
  for (const values of kinds) await store.grants.insert(sampleGrant(key, values), most)
  await store.close()
  const rows = () => {
    const plain = new Database(file)
    const all = plain.prepare('SELECT * FROM grant_operations ORDER BY grant_id, needs').all()
    plain.close()
    return all
  }
  const made = rows()
  expect(made).toHaveLength(6)
  const plain = new Database(file)
  // That migration and what came after it.
  plain.exec(`ALTER TABLE accounts DROP COLUMN request; DROP TABLE xks_keys; DROP TABLE xks_stores;
              DROP TABLE grant_operations; CREATE INDEX grants_by_anchor ON grants (key_arn, grantee, anchor, grant_id);
              DELETE FROM migrations WHERE version >= (SELECT version FROM migrations WHERE name = 'grants by operation')`)
  plain.close()
  await (await openStore({ file, clock })).close()
  expect(rows()).toEqual(made)
  rmSync(directory, { recursive: true, maxRetries: 5 })
})

// ---- anchors ----

describe('the anchor of a constraint', () => {
  const pairs = fc.dictionary(fc.constantFrom('a', 'b', 'c', '__proto__'), fc.constantFrom('1', '2', ''), { maxKeys: 4 })
  const constraints = fc.oneof(
    fc.constant({}),
    pairs.filter((some) => Object.keys(some).length > 0).map((some) => ({ encryptionContextEquals: some })),
    pairs.filter((some) => Object.keys(some).length > 0).map((some) => ({ encryptionContextSubset: some })),
  )

  test('is among those of every request that meets the constraint', () => {
    let met = 0
    fc.assert(
      fc.property(constraints, pairs, (given, context) => {
        const request = { operation: 'Encrypt', encryptionContext: context, sourceArn: undefined }
        if (!grantAllows({ operations: ['Encrypt'], constraints: given }, request)) return true
        met++
        return anchorsMetBy(context).includes(anchorOf(given))
      }),
      { numRuns: 1000 },
    )
    expect(met).toBeGreaterThan(50)
  })

  test('is among those of every constraint that a grant made of the grant may have', () => {
    let met = 0
    fc.assert(
      fc.property(constraints, constraints, (given, made) => {
        const child = { operations: ['Encrypt'], constraints: made }
        const parent = { operations: ['Encrypt', 'CreateGrant'], constraints: given }
        const encryptionContext = Object.values(made)[0] ?? {}
        if (!grantAllows(parent, { operation: 'CreateGrant', encryptionContext, sourceArn: undefined, child })) return true
        met++
        return anchorsMetBy(encryptionContext).includes(anchorOf(given))
      }),
      { numRuns: 1000 },
    )
    expect(met).toBeGreaterThan(50)
  })

  test('does not depend on the order in which pairs are written, and says nothing of them', () => {
    expect(anchorOf({ encryptionContextEquals: { a: '1', b: '2' } })).toBe(anchorOf({ encryptionContextEquals: { b: '2', a: '1' } }))
    const digest = createHash('sha256')
      .update(JSON.stringify(['secret', 'value']))
      .digest('base64url')
    expect(anchorOf({ encryptionContextSubset: { secret: 'value' } })).toBe(`one ${digest}`)
  })
})
