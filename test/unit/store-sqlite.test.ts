import { chmodSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { openStore, openStoreOn } from '../../src/store/open.ts'
import { openSqlite } from '../../src/store/sqlite.ts'
import type { Store } from '../../src/store/store.ts'
import { linesUntilKilled, startProgram } from './audit-suite.ts'
import { accountId, clock, region, sampleAccessKey, sampleAlias, sampleBackingKey, sampleKey } from './store-suite.ts'

let directory: string
let file: string
const opened: Store[] = []
const open = async () => {
  const store = await openStore({ file, clock, pollMs: 20 })
  opened.push(store)
  return store
}
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'holdfast-store-'))
  file = join(directory, 'data', 'store.sqlite')
})
afterEach(async () => {
  await Promise.all(opened.splice(0).map((store) => store.close()))
  rmSync(directory, { recursive: true, maxRetries: 5 })
})

describe('the file', () => {
  test('only its owner can read it, its log and its directory', async () => {
    const store = await open()
    await store.insertKey(sampleKey(), undefined)
    const names = readdirSync(join(directory, 'data')).toSorted()
    expect(names).toEqual(['store.sqlite', 'store.sqlite-shm', 'store.sqlite-wal'])
    for (const name of names) expect([name, statSync(join(directory, 'data', name)).mode & 0o777]).toEqual([name, 0o600])
    expect(statSync(join(directory, 'data')).mode & 0o777).toBe(0o700)
    await store.close()
    chmodSync(file, 0o644)
    await open()
    expect(statSync(file).mode & 0o777).toBe(0o600)
  })

  test('of a newer program is refused with the way out, and not touched', async () => {
    const store = await open()
    await store.close()
    const database = new Database(file)
    database.prepare("INSERT INTO migrations VALUES (99, 'from the future', 0)").run()
    database.close()
    await expect(open()).rejects.toThrow(/newer version of this program \(schema 99, .*: start that version, or restore a backup/)
  })

  test('of the first schema is brought up to date: its keys are in the token there was, each with its material', async () => {
    mkdirSync(join(directory, 'data'))
    const old = new Database(file)
    // In order of name: tables come before those they refer to.
    old.pragma('foreign_keys = OFF')
    old.exec(readFileSync(new URL('store-v1.sql', import.meta.url), 'utf8'))
    old.close()
    const store = await open()
    for (const [at, n] of [
      ['us-east-1', '1'],
      ['eu-west-1', '2'],
    ] as const) {
      const key = store.view.keyById(at, `0000000${n}-0000-4000-8000-000000000000`)
      expect(key).toMatchObject({ state: 'Enabled', token: 'default', multiRegion: false, primaryRegion: null, materialId: n.repeat(64) })
      const arn = key?.arn ?? ''
      expect(store.view.backingKey(arn, n.repeat(64))).toMatchObject({
        keyArn: arn,
        ckaId: `${n}${n}`,
        state: 'ready',
        encryptionsReserved: 65_536,
      })
      await store.reserveEncryptions(n.repeat(64), 1, 2 ** 32)
      await expect.poll(() => store.view.backingKey(arn, n.repeat(64))?.encryptionsReserved).toBe(65_537)
    }
  })

  test('can be opened to be read only: nothing is migrated, written or made, and only the version of this program is read', async () => {
    const readOnly = async () => {
      const store = await openStore({ file, clock, readOnly: true })
      opened.push(store)
      return store
    }
    await expect(readOnly()).rejects.toThrow(file)
    expect(readdirSync(directory)).toEqual([])
    const writer = await open()
    const { arn } = sampleKey({ keyId: 'kept' })
    await writer.insertKey(sampleKey({ keyId: 'kept' }), undefined)
    const reader = await readOnly()
    expect([...reader.view.allKeys()].map((key) => key.arn)).toEqual([arn])
    await expect(reader.deleteKey(arn)).rejects.toThrow(/readonly/)
    await Promise.all([writer.close(), reader.close()])
    const database = new Database(file)
    database.exec('DELETE FROM migrations')
    database.close()
    await expect(readOnly()).rejects.toThrow(/older version of this program \(schema 0, /)
    const again = new Database(file)
    expect(again.prepare('SELECT count(*) FROM migrations').pluck().get()).toBe(0)
    again.close()
  })

  test('that is no database is refused with its name', async () => {
    const store = await open()
    await store.close()
    writeFileSync(file, 'this is not a database, it is a text that is long enough to be looked at'.repeat(20))
    await expect(open()).rejects.toThrow(file)
  })

  test('is made once by many that start together', async () => {
    const stores = await Promise.all(Array.from({ length: 6 }, open))
    await stores[0]?.insertKey(sampleKey(), undefined)
    await Promise.all(stores.map((store) => vi.waitFor(() => expect(store.view.keyCount()).toBe(1), { timeout: 30_000 })))
  })

  test('a write that the disk refuses rejects, leaves the view alone, and the next one works', async () => {
    const store = await open()
    const database = new Database(file)
    database.exec("CREATE TRIGGER full BEFORE INSERT ON backing_keys BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END")
    const key = sampleKey()
    await expect(store.insertKey(key, sampleBackingKey(key))).rejects.toMatchObject({
      name: 'StoreFailure',
      code: 'SQLITE_CONSTRAINT_TRIGGER',
    })
    expect(store.view.key(key.arn)).toBeUndefined()
    database.exec('DROP TRIGGER full')
    database.close()
    await store.insertKey(key, sampleBackingKey(key))
    expect(store.view.key(key.arn)).toEqual(key)
  })

  test('errors name what was written and never the values', async () => {
    const store = await open()
    const root = sampleAccessKey(`arn:aws:iam::${accountId}:root`, 'AKIATWICE')
    const secret = { ...root, sealedSecret: Buffer.from('sealed-secret-bytes') }
    await store.insertAccessKey(secret)
    const message = await store.insertAccessKey(secret).catch((error: Error) => error.message)
    expect(message).toContain('AKIATWICE')
    expect(message).not.toContain('sealed-secret')
  })
})

describe('a second real process', () => {
  test('sees what this one writes and is seen by it', async () => {
    const store = await open()
    const key = sampleKey()
    const other = startProgram('store-writer.ts', file, 'follow', key.arn)
    const ended = new Promise((resolve) => other.once('close', resolve))
    await new Promise((resolve) => other.stdout?.once('data', resolve))
    await store.insertKey(key, undefined)
    expect(await ended).toBe(0)
    await vi.waitFor(
      () => expect(store.view.aliasesOf(key.arn)).toEqual([expect.objectContaining({ name: 'alias/from-the-other-process' })]),
      {
        timeout: 30_000,
      },
    )
  })

  test('that is killed has lost nothing that it was told is done, and leaves no half of a write', async () => {
    for (const many of [50, 300]) {
      const lines = await linesUntilKilled(startProgram('store-writer.ts', file, 'keys'), (sofar) => sofar.length >= many)
      const { view } = await open()
      for (const line of lines) {
        const [what, arn = ''] = line.split(' ')
        const key = view.key(arn)
        const [backing] = view.backingKeys(arn)
        expect(backing?.keyArn).toBe(arn)
        expect(what === 'inserted' || (key?.state === 'Enabled' && key.materialId === backing?.materialId)).toBe(true)
      }
      for (const key of view.allKeys()) {
        const backing = view.backingKeys(key.arn)
        expect(backing).toHaveLength(1)
        // Both halves of a promotion, or none.
        expect([key.state, backing[0]?.state]).toEqual(key.materialId === null ? ['Creating', 'creating'] : ['Enabled', 'ready'])
      }
    }
  })
})

test('what is committed is not told as failed because it cannot be read back; it comes into the view when it can', async () => {
  const backend = await openSqlite({ file, pollMs: 60_000 })
  let failures = 0
  const read: typeof backend.read = (queries) => (failures-- > 0 ? Promise.reject(new Error('no memory')) : backend.read(queries))
  const store = await openStoreOn({ ...backend, read }, { clock })
  opened.push(store)
  const [once, thrice] = [sampleKey(), sampleKey()]
  failures = 1
  await store.insertKey(once, undefined)
  expect(store.view.key(once.arn)).toBeDefined()
  failures = 3
  await store.insertKey(thrice, undefined)
  expect(store.view.key(thrice.arn)).toBeUndefined()
  await vi.waitFor(() => expect(store.view.key(thrice.arn)).toBeDefined(), { timeout: 30_000 })
})

describe('ten thousand keys', () => {
  test('load, page through and change', async () => {
    const store = await open()
    const keys = Array.from({ length: 10_000 }, () => sampleKey())
    await Promise.all(keys.map((key) => store.insertKey(key, sampleBackingKey(key))))
    const again = await open()
    expect(again.view.keyCount()).toBe(10_000)
    const listed: string[] = []
    for (let after: string | undefined; ;) {
      const page = again.view.listKeys(accountId, region, after, 1000)
      listed.push(...page.items.map(({ keyId }) => keyId))
      if (page.next === undefined) break
      after = page.next
    }
    expect(listed).toEqual(keys.map(({ keyId }) => keyId).toSorted())
    const key = keys[5000] ?? sampleKey()
    await again.insertAlias(sampleAlias(key, 'middle'))
    await vi.waitFor(() => expect(store.view.aliasesOf(key.arn)).toHaveLength(1), { timeout: 30_000 })
  })
})
