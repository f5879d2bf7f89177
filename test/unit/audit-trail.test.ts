import { chmodSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { verifyTrail } from '../../src/audit/verify.ts'
import type { LookupQuery, Trail } from '../../src/audit/trail.ts'
import { accountId, linesUntilKilled, makeSigner, makeTrail, region, sampleRecord, startMs, startProgram } from './audit-suite.ts'
import type { TestTrail } from './audit-suite.ts'

const signer = makeSigner()
let at: TestTrail
beforeEach(() => {
  at = makeTrail(signer)
})
afterEach(() => at.drop())

const appendMany = (trail: Trail, count: number, values: (i: number) => Record<string, unknown> = () => ({})) =>
  Promise.all(Array.from({ length: count }, (_, i) => trail.append(sampleRecord(values(i)))))

/** Looks up page by page. */
async function lookupAll(trail: Trail, query: Partial<LookupQuery>, limit = 50) {
  const records = []
  for (let before: number | undefined; ;) {
    const page = await trail.lookup({ accountId, region, limit, ...(before !== undefined && { before }), ...query })
    records.push(...page.events.map(({ record }) => record))
    if (page.next === undefined) return records
    before = page.next
  }
}

describe('appending', () => {
  test('records that arrive together are one commit, in the order in which they came', async () => {
    const commits: number[] = []
    const trail = await at.open({ onCommit: (records) => commits.push(records) })
    await appendMany(trail, 100, (i) => ({ eventID: String(i) }))
    expect(commits).toEqual([100])
    const records = await lookupAll(trail, {})
    expect(records.map(({ eventID }) => eventID)).toEqual(Array.from({ length: 100 }, (_, i) => String(99 - i)))
  })

  test('a record is in the file when append returns, exactly as it was serialised', async () => {
    const trail = await at.open()
    const record = sampleRecord({ errorMessage: 'lone surrogate \ud800, NUL \0, line\nfeed' })
    await trail.append(record)
    const database = new Database(at.file, { readonly: true })
    expect(database.prepare('SELECT record FROM records').pluck().all()).toEqual([JSON.stringify(record)])
    database.close()
  })

  test('more than may wait is refused, and what was taken is written all the same', async () => {
    const trail = await at.open({ maxPending: 10 })
    const outcomes = await Promise.allSettled(Array.from({ length: 15 }, () => trail.append(sampleRecord())))
    expect(outcomes.map(({ status }) => status)).toEqual([...Array<string>(10).fill('fulfilled'), ...Array<string>(5).fill('rejected')])
    expect(trail.pending()).toBe(0)
    await trail.append(sampleRecord())
    expect(await lookupAll(trail, {})).toHaveLength(11)
  })

  test('what cannot be written rejects, and appending goes on when the disk does', async () => {
    const trail = await at.open()
    await trail.append(sampleRecord({ eventID: 'before' }))
    // A full disk, as SQLite sees it.
    const database = new Database(at.file)
    database.exec("CREATE TRIGGER full BEFORE INSERT ON records BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END")
    const outcomes = await Promise.allSettled([
      trail.append(sampleRecord({ eventID: 'lost' })),
      trail.append(sampleRecord({ eventID: 'lost' })),
    ])
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    expect(trail.pending()).toBe(0)
    database.exec('DROP TRIGGER full')
    database.close()
    await trail.append(sampleRecord({ eventID: 'after' }))
    expect((await lookupAll(trail, {})).map(({ eventID }) => eventID)).toEqual(['after', 'before'])
    await trail.seal()
    expect((await verifyTrail(at.file)).problems).toEqual([])
  })

  test('how much no seal covers is told for all processes on the file', async () => {
    const [trail, other] = [await at.open(), await at.open()]
    expect(await trail.sealed()).toEqual({ unsealed: 0, lastSealMs: undefined })
    await appendMany(trail, 3)
    await appendMany(other, 2)
    expect(await trail.sealed()).toEqual({ unsealed: 5, lastSealMs: undefined })
    await other.seal()
    expect(await trail.sealed()).toEqual({ unsealed: 0, lastSealMs: expect.any(Number) as number })
    await appendMany(trail, 1)
    expect((await other.sealed()).unsealed).toBe(1)
  })

  test('a file held by another writer for too long rejects instead of losing the record', async () => {
    const trail = await at.open()
    const database = new Database(at.file)
    database.exec('BEGIN IMMEDIATE')
    const outcome = trail.append(sampleRecord())
    await expect(outcome).rejects.toThrow('locked')
    database.exec('ROLLBACK')
    database.close()
    await trail.append(sampleRecord())
    expect(await lookupAll(trail, {})).toHaveLength(1)
  })

  test('a file that cannot be opened is refused with its name', async () => {
    await expect(at.open({ file: at.directory })).rejects.toThrow(at.directory)
  })

  test('a closed trail takes nothing', async () => {
    const trail = await at.open()
    await trail.close()
    await expect(trail.append(sampleRecord())).rejects.toThrow('closed')
    await trail.close()
  })

  test('only its owner can read the files', async () => {
    const trail = await at.open()
    await trail.append(sampleRecord())
    for (const name of readdirSync(at.directory)) expect([name, statSync(join(at.directory, name)).mode & 0o777]).toEqual([name, 0o600])
    await trail.close()
    chmodSync(at.file, 0o644)
    await at.open()
    expect(statSync(at.file).mode & 0o777).toBe(0o600)
  })
})

describe('processes', () => {
  test('of a process that is killed every record whose append returned is there, and the chain holds', async () => {
    const child = startProgram('audit-appender.ts', at.file, 'a', '0', '20')
    const acknowledged = await linesUntilKilled(child, (lines) => lines.length >= 1000)
    expect(acknowledged.length).toBeGreaterThanOrEqual(1000)
    const trail = await at.open()
    const found = new Set((await lookupAll(trail, {}, 1000)).map(({ eventID }) => eventID))
    expect(acknowledged.filter((id) => !found.has(id))).toEqual([])
    await trail.append(sampleRecord())
    await trail.seal()
    const verdict = await verifyTrail(at.file)
    expect(verdict.problems).toEqual([])
    expect(verdict.sealedSequence).toBe(verdict.records)
  })

  test('two processes extend one chain', async () => {
    const trail = await at.open()
    const child = startProgram('audit-appender.ts', at.file, 'child', '300', '3')
    const done = linesUntilKilled(child, () => false)
    let own = 0
    const ended = new AbortController()
    void done.then(() => ended.abort())
    while (!ended.signal.aborted) {
      await trail.append(sampleRecord({ eventID: `own-${own++}` }))
      await trail.seal()
    }
    expect(await done).toHaveLength(300)
    await trail.seal()
    const ids = (await lookupAll(trail, {}, 1000)).map(({ eventID }) => eventID)
    expect(ids.filter((id) => id.startsWith('child')).length).toBe(300)
    expect(ids.filter((id) => id.startsWith('own')).length).toBe(own)
    const verdict = await verifyTrail(at.file)
    expect(verdict.problems).toEqual([])
    expect(verdict.records).toBe(300 + own)
    expect(verdict.keys).toHaveLength(2)
  })
})

describe('sealing', () => {
  test('seal covers what was appended before it, and is made once', async () => {
    const trail = await at.open()
    void appendMany(trail, 30)
    await Promise.all([trail.seal(), trail.seal()])
    const verdict = await verifyTrail(at.file)
    expect(verdict).toMatchObject({ records: 30, seals: 1, sealedSequence: 30, problems: [] })
    await trail.seal()
    expect((await verifyTrail(at.file)).seals).toBe(1)
  })

  test('records are sealed by themselves after their number and after their time', async () => {
    const trail = await at.open({ sealEveryRecords: 10 })
    await appendMany(trail, 10)
    await vi.waitFor(async () => expect((await verifyTrail(at.file)).sealedSequence).toBe(10), { timeout: 30_000 })
    const other = await at.open({ sealEveryMs: 20 })
    await other.append(sampleRecord())
    await vi.waitFor(async () => expect((await verifyTrail(at.file)).sealedSequence).toBe(11), { timeout: 30_000 })
  })

  test('close seals', async () => {
    const trail = await at.open()
    await appendMany(trail, 3)
    await trail.close()
    expect((await verifyTrail(at.file)).sealedSequence).toBe(3)
  })

  test('without the HSM appending goes on, and the next seal covers everything', async () => {
    let up = false
    const trail = await at.open({ sign: (digest) => (up ? signer.sign(digest) : Promise.reject(new Error('token is down'))) })
    await appendMany(trail, 3)
    await expect(trail.seal()).rejects.toThrow('token is down')
    await appendMany(trail, 3)
    up = true
    await trail.seal()
    expect(await verifyTrail(at.file)).toMatchObject({ seals: 1, sealedSequence: 6, problems: [] })
  })

  test('a signature that does not verify is not stored', async () => {
    const stranger = makeSigner()
    const trail = await at.open({ sign: (digest) => stranger.sign(digest) })
    await trail.append(sampleRecord())
    await expect(trail.seal()).rejects.toThrow('does not verify')
    expect((await verifyTrail(at.file)).seals).toBe(0)
  })
})

describe('lookups', () => {
  const identities = {
    root: { type: 'Root', principalId: accountId, arn: `arn:aws:iam::${accountId}:root`, accountId, accessKeyId: 'AKIAROOT' },
    session: {
      type: 'AssumedRole',
      principalId: 'AROAEXAMPLE:deploy',
      arn: `arn:aws:sts::${accountId}:assumed-role/Builder/deploy`,
      accountId,
      accessKeyId: 'ASIASESSION',
      sessionContext: { sessionIssuer: { type: 'Role', userName: 'Builder' } },
    },
  }
  const key = (id: string) => ({ accountId, type: 'AWS::KMS::Key', ARN: `arn:aws:kms:${region}:${accountId}:key/${id}` })
  const special = [
    { eventID: 'root', userIdentity: identities.root, eventName: 'CreateKey', readOnly: false, resources: [key('one')] },
    { eventID: 'session', userIdentity: identities.session, eventSource: 'sts.amazonaws.com', resources: [key('one'), key('two')] },
    { eventID: 'alias', resources: [{ accountId, type: 'AWS::KMS::Alias', ARN: `arn:aws:kms:${region}:${accountId}:alias/a"b\\c` }] },
    { eventID: 'unknown', userIdentity: { type: 'Unknown' }, resources: undefined, errorCode: 'UnrecognizedClientException' },
    { eventID: 'elsewhere', awsRegion: 'eu-west-1', eventName: 'CreateKey' },
    { eventID: 'theirs', recipientAccountId: '999999999999', eventName: 'CreateKey' },
  ]
  const wanted: readonly (readonly [NonNullable<LookupQuery['attribute']>['name'], string, readonly string[]])[] = [
    ['EventId', 'alias', ['alias']],
    ['EventName', 'CreateKey', ['root']],
    ['ReadOnly', 'false', ['root']],
    ['Username', 'root', ['root']],
    ['Username', 'deploy', ['session']],
    ['Username', 'Builder', []],
    ['ResourceType', 'AWS::KMS::Alias', ['alias']],
    ['ResourceName', key('one').ARN, ['session', 'root']],
    ['ResourceName', key('two').ARN, ['session']],
    ['ResourceName', `arn:aws:kms:${region}:${accountId}:alias/a"b\\c`, ['alias']],
    ['EventSource', 'sts.amazonaws.com', ['session']],
    ['AccessKeyId', 'ASIASESSION', ['session']],
    ['EventName', 'NoSuchEvent', []],
    ['EventId', 'theirs', []],
  ]

  test('each attribute finds its records in the caller’s account and region, newest first', async () => {
    const trail = await at.open()
    await appendMany(trail, 20)
    await appendMany(trail, special.length, (i) => special[i] ?? {})
    await appendMany(trail, 20)
    for (const [name, value, expected] of wanted) {
      const found = await lookupAll(trail, { attribute: { name, value } }, 1)
      expect([name, value, found.map(({ eventID }) => eventID)]).toEqual([name, value, expected])
    }
    expect((await lookupAll(trail, { region: 'eu-west-1' })).map(({ eventID }) => eventID)).toEqual(['elsewhere'])
    expect((await lookupAll(trail, { accountId: '999999999999' })).map(({ eventID }) => eventID)).toEqual(['theirs'])
    expect(await lookupAll(trail, { accountId: '000000000000' })).toEqual([])
  })

  test('blocks that were filed answer as unfiled ones do', async () => {
    const trail = await at.open()
    const ids = Array.from({ length: 5000 }, (_, i) => `id-${i}`)
    await appendMany(trail, 5000, (i) => ({
      eventID: ids[i],
      eventTime: new Date(startMs + i * 1000).toISOString(),
      ...special[(i - 1500) / 7],
    }))
    const look = async () => {
      const answers: unknown[] = []
      for (const [name, value] of wanted)
        answers.push((await lookupAll(trail, { attribute: { name, value } })).map(({ eventID }) => eventID))
      for (const i of [0, 1, 1022, 1023, 1024, 2047, 4999]) {
        answers.push((await lookupAll(trail, { attribute: { name: 'EventId', value: ids[i] ?? '' } })).length)
      }
      const inTime = await lookupAll(trail, { startMs: startMs + 1_000_000, endMs: startMs + 1_100_000 })
      answers.push(inTime.length, inTime[0]?.eventID, inTime.at(-1)?.eventID)
      answers.push((await lookupAll(trail, { endMs: startMs - 1 })).length)
      return answers
    }
    const unfiled = await look()
    await trail.seal()
    const database = new Database(at.file, { readonly: true })
    expect(database.prepare('SELECT count(*) FROM blocks').pluck().get()).toBe(4)
    database.close()
    const filed = await look()
    expect(filed).toEqual(unfiled)
    expect(filed.slice(-4)).toEqual([101, 'id-1100', 'id-1000', 0])
    expect((await verifyTrail(at.file)).problems).toEqual([])
  })

  test('pages neither repeat nor omit while records are appended', async () => {
    const trail = await at.open()
    await appendMany(trail, 25, (i) => ({ eventID: String(i) }))
    const first = await trail.lookup({ accountId, region, limit: 10 })
    await appendMany(trail, 7)
    const second = await trail.lookup({ accountId, region, limit: 15, before: first.next ?? 0 })
    expect([...first.events, ...second.events].map(({ record }) => record.eventID)).toEqual(
      Array.from({ length: 25 }, (_, i) => String(24 - i)),
    )
    expect(second.next).toBeUndefined()
  })
})

describe('retention', () => {
  test('removes what was sealed before the time, keeps a signed statement, and the rest verifies', async () => {
    const trail = await at.open()
    await appendMany(trail, 3000)
    await trail.seal()
    at.clock.advance(1000)
    await appendMany(trail, 50)
    await trail.seal()
    await appendMany(trail, 5)
    await expect(trail.prune(startMs)).resolves.toEqual({ records: 0, sequence: 0 })
    await expect(trail.prune(startMs + 1)).resolves.toEqual({ records: 3000, sequence: 3000 })
    await expect(trail.prune(startMs + 1)).resolves.toEqual({ records: 0, sequence: 3000 })
    expect(await lookupAll(trail, {})).toHaveLength(55)
    const verdict = await verifyTrail(at.file, { publicKeyPem: signer.pem })
    expect(verdict).toMatchObject({ problems: [], firstSequence: 3001, lastSequence: 3055, prunedSequence: 3000, sealedSequence: 3050 })
  })

  test('again and again leaves seals without a gap', async () => {
    const trail = await at.open()
    for (let day = 1; day <= 6; day++) {
      for (let i = 0; i < 3; i++) {
        await appendMany(trail, 10)
        await trail.seal()
        at.clock.advance(1000)
      }
      if (day % 2 === 0) await trail.prune(startMs + (day - 1) * 3000 - 500)
      expect((await verifyTrail(at.file)).problems).toEqual([])
    }
    const verdict = await verifyTrail(at.file)
    expect(verdict).toMatchObject({ prunedSequence: 150, firstSequence: 151, lastSequence: 180, sealedSequence: 180 })
    const database = new Database(at.file, { readonly: true })
    expect(database.prepare('SELECT count(*) FROM seals').pluck().get()).toBeLessThan(10)
    database.close()
  })

  test('a trail pruned to its last record goes on where it was', async () => {
    const trail = await at.open()
    await appendMany(trail, 10)
    await trail.seal()
    await expect(trail.prune(startMs + 1)).resolves.toEqual({ records: 10, sequence: 10 })
    expect(await verifyTrail(at.file)).toMatchObject({ problems: [], records: 0, prunedSequence: 10, sealedSequence: 10 })
    const other = await at.open()
    await other.append(sampleRecord())
    await trail.append(sampleRecord())
    await trail.seal()
    expect(await verifyTrail(at.file)).toMatchObject({ problems: [], firstSequence: 11, lastSequence: 12, sealedSequence: 12 })
  })

  test('a removal that was interrupted verifies, and the next one finishes it', async () => {
    const trail = await at.open()
    await appendMany(trail, 100)
    await trail.seal()
    await appendMany(trail, 100)
    await trail.seal()
    const before = new Database(at.file)
    const records = before.prepare('SELECT * FROM records WHERE sequence BETWEEN 50 AND 100').all() as {
      sequence: number
      hash: Buffer
      record: string
    }[]
    before.close()
    at.clock.advance(1)
    await appendMany(trail, 1)
    await trail.prune(startMs + 1)
    const database = new Database(at.file)
    for (const { sequence, hash, record } of records) database.prepare('INSERT INTO records VALUES (?, ?, ?)').run(sequence, hash, record)
    database.close()
    expect(await verifyTrail(at.file)).toMatchObject({ problems: [], firstSequence: 50, prunedSequence: 200, records: 52 })
    await expect(trail.prune(startMs + 1)).resolves.toEqual({ records: 51, sequence: 200 })
    expect(await verifyTrail(at.file)).toMatchObject({ problems: [], firstSequence: 201, records: 1 })
  })
})
