import { copyFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { chainStart, recordHash, encodeSealStatement, keyIdOf, sha256 } from '../../src/audit/chain.ts'
import { encodeSeal, exportTrail, findLastSeal, parseSeal } from '../../src/audit/export.ts'
import type { ExportedSeal, ExportRange } from '../../src/audit/export.ts'
import { verifyExport, verifyTrail } from '../../src/audit/verify.ts'
import type { TrailVerdict, VerifyOptions } from '../../src/audit/verify.ts'
import { makeSigner, makeTrail, sampleRecord, startMs } from './audit-suite.ts'
import type { TestTrail } from './audit-suite.ts'

/** Records 1…45, sealed at 10, 25 and 40. */
const sealedAt = [10, 25, 40] as const
const lastSealed = 40
const last = 45
const signer = makeSigner()
let at: TestTrail
let pristine: string
let scratch: string
let kept: ExportedSeal

beforeAll(async () => {
  at = makeTrail(signer)
  scratch = mkdtempSync(join(tmpdir(), 'holdfast-verify-'))
  pristine = join(scratch, 'pristine.sqlite')
  const trail = await at.open()
  for (let i = 1; i <= last; i++) {
    await trail.append(sampleRecord({ eventID: `event-${i}`, eventTime: new Date(startMs + i * 60_000).toISOString() }))
    at.clock.advance(60_000)
    if (sealedAt.some((one) => one === i)) await trail.seal()
  }
  const database = new Database(at.file)
  database.prepare('VACUUM INTO ?').run(pristine)
  database.close()
  kept = findLastSeal(pristine) as ExportedSeal
})
afterAll(async () => {
  await at.drop()
  rmSync(scratch, { recursive: true, maxRetries: 5 })
})

type Row = { sequence: number; hash: Buffer; record: string }

/** A copy of the fixture after `change`. */
function tampered(change: (database: Database.Database) => void): string {
  const file = join(scratch, 'tampered.sqlite')
  for (const suffix of ['', '-wal', '-shm']) rmSync(file + suffix, { force: true })
  copyFileSync(pristine, file)
  const database = new Database(file)
  database.pragma('synchronous = OFF')
  database.transaction(() => change(database))()
  database.close()
  return file
}
const verifyAfter = (change: (database: Database.Database) => void, options: VerifyOptions = {}) =>
  verifyTrail(tampered(change), { publicKeyPem: signer.pem, ...options })

const places = ({ problems }: TrailVerdict) => problems.map(({ sequence }) => sequence)
const recordPlaces = ({ problems }: TrailVerdict) => problems.filter(({ seal }) => seal === undefined).map(({ sequence }) => sequence)
const sealNumbers = ({ problems }: TrailVerdict) => problems.map(({ seal }) => seal).filter((seal) => seal !== undefined)
const rowsOf = (database: Database.Database) => database.prepare('SELECT * FROM records ORDER BY sequence').all() as Row[]
const rowOf = (database: Database.Database, sequence: number) =>
  database.prepare('SELECT * FROM records WHERE sequence = ?').get(sequence) as Row
const setText = (database: Database.Database, sequence: number, text: string | Buffer) =>
  database.prepare('UPDATE records SET record = CAST(? AS TEXT) WHERE sequence = ?').run(text, sequence)
const setHash = (database: Database.Database, sequence: number, hash: Buffer) =>
  database.prepare('UPDATE records SET hash = ? WHERE sequence = ?').run(hash, sequence)
const flipped = (bytes: Buffer, bit: number) => {
  const copy = Buffer.from(bytes)
  const at = bit % (copy.length * 8)
  copy[at >>> 3] = (copy[at >>> 3] ?? 0) ^ (1 << (at & 7))
  return copy
}
/** Makes hashes anew from `from` on, as someone who knows the format would. */
function rehash(database: Database.Database, from: number): void {
  const trailId = database.prepare('SELECT trail_id FROM trail').pluck().get() as string
  let before: { sequence: number; hash: Uint8Array } = from === 1 ? chainStart(trailId) : rowOf(database, from - 1)
  for (const { sequence, record } of rowsOf(database).filter((row) => row.sequence >= from)) {
    before = { sequence, hash: recordHash({ sequence: sequence - 1, hash: before.hash }, record) }
    setHash(database, sequence, Buffer.from(before.hash))
  }
}
/** The seal that covers a record. */
const covering = (sequence: number) => sealedAt.findIndex((one) => one >= sequence) + 1

const anyRecord = fc.integer({ min: 1, max: last })
const sealedRecord = fc.integer({ min: 1, max: lastSealed })
const anyBit = fc.nat(1_000_000)
const runs = { numRuns: 60 }

describe('an untouched trail', () => {
  test('has no problems and says how far it is sealed', async () => {
    const verdict = await verifyTrail(pristine, { publicKeyPem: signer.pem, expectedSeal: kept })
    expect(verdict).toMatchObject({
      problems: [],
      records: last,
      firstSequence: 1,
      lastSequence: last,
      seals: 3,
      sealedSequence: 40,
      prunedSequence: 0,
    })
    expect(verdict.keys).toEqual([{ keyId: kept.keyId, pem: signer.pem, given: true }])
    expect(verdict.lastSeal).toEqual(kept)
  })

  test('may be verified while a service appends to it', async () => {
    expect(await verifyTrail(at.file)).toMatchObject({ problems: [], records: last })
  })
})

describe('what was done to records is found at its place', () => {
  test('any bit of a record changed', () =>
    fc.assert(
      fc.asyncProperty(anyRecord, anyBit, async (sequence, bit) => {
        const verdict = await verifyAfter((database) =>
          setText(database, sequence, flipped(Buffer.from(rowOf(database, sequence).record), bit)),
        )
        expect(places(verdict)).toEqual([sequence])
      }),
      runs,
    ))

  test('any bit of a hash changed', () =>
    fc.assert(
      fc.asyncProperty(anyRecord, anyBit, async (sequence, bit) => {
        const verdict = await verifyAfter((database) => setHash(database, sequence, flipped(rowOf(database, sequence).hash, bit)))
        expect(places(verdict)).toEqual([sequence])
      }),
      runs,
    ))

  test('a record changed with its hash shows at the next one, or at its seal', () =>
    fc.assert(
      fc.asyncProperty(anyRecord, async (sequence) => {
        fc.pre(sequence < last)
        const verdict = await verifyAfter((database) => {
          setText(database, sequence, '{"eventName":"Nothing"}')
          const trailId = database.prepare('SELECT trail_id FROM trail').pluck().get() as string
          const before = sequence === 1 ? chainStart(trailId) : rowOf(database, sequence - 1)
          setHash(database, sequence, recordHash(before, rowOf(database, sequence).record))
        })
        expect(places(verdict)).toContain(sequence + 1)
        expect(recordPlaces(verdict).filter((place) => place !== sequence + 1)).toEqual([])
        expect(sealNumbers(verdict).filter((seal) => seal !== covering(sequence))).toEqual([])
      }),
      runs,
    ))

  test('a record changed and all hashes made anew shows at the seal that covers it, with the stretch it lies in', () =>
    fc.assert(
      fc.asyncProperty(sealedRecord, async (sequence) => {
        const verdict = await verifyAfter((database) => {
          setText(database, sequence, '{"eventName":"Nothing"}')
          rehash(database, sequence)
        })
        const first = verdict.problems[0]
        expect(first?.seal).toBe(covering(sequence))
        expect(first?.sequence).toBe((sealedAt[covering(sequence) - 2] ?? 0) + 1)
        expect(verdict.sealedSequence).toBe(sealedAt[covering(sequence) - 2] ?? 0)
      }),
      runs,
    ))

  test('any stretch removed, unless it is the unsealed end', () =>
    fc.assert(
      fc.asyncProperty(sealedRecord, fc.nat(50), async (from, more) => {
        const to = Math.min(from + more, last)
        const verdict = await verifyAfter((database) =>
          database.prepare('DELETE FROM records WHERE sequence BETWEEN ? AND ?').run(from, to),
        )
        expect(places(verdict)).toEqual([from])
        expect(verdict.problems[0]?.what).toContain('missing')
      }),
      runs,
    ))

  test('a stretch removed and the rest moved up and hashed anew', () =>
    fc.assert(
      fc.asyncProperty(sealedRecord, async (sequence) => {
        const verdict = await verifyAfter((database) => {
          database.prepare('DELETE FROM records WHERE sequence = ?').run(sequence)
          for (let i = sequence + 1; i <= last; i++) database.prepare('UPDATE records SET sequence = ? WHERE sequence = ?').run(i - 1, i)
          rehash(database, sequence)
        })
        expect(verdict.problems[0]?.seal).toBe(covering(sequence))
        expect(verdict.problems[0]?.sequence).toBeLessThanOrEqual(sequence)
      }),
      runs,
    ))

  test('a record put in between, hashed anew or not', () =>
    fc.assert(
      fc.asyncProperty(sealedRecord, fc.boolean(), async (sequence, hashes) => {
        const verdict = await verifyAfter((database) => {
          for (let i = last; i >= sequence; i--) database.prepare('UPDATE records SET sequence = ? WHERE sequence = ?').run(i + 1, i)
          const row = rowOf(database, last + 1)
          database.prepare('INSERT INTO records VALUES (?, ?, ?)').run(sequence, row.hash, row.record)
          if (hashes) rehash(database, sequence)
        })
        const first = verdict.problems[0]
        expect(hashes ? first?.seal : first?.sequence).toBe(hashes ? covering(sequence) : sequence)
      }),
      runs,
    ))

  test('two records exchanged, with their hashes or without', () =>
    fc.assert(
      fc.asyncProperty(anyRecord, anyRecord, fc.boolean(), async (one, two, hashes) => {
        fc.pre(one !== two)
        const verdict = await verifyAfter((database) => {
          const [first, second] = [rowOf(database, one), rowOf(database, two)]
          setText(database, one, second.record)
          setText(database, two, first.record)
          if (hashes) {
            setHash(database, one, second.hash)
            setHash(database, two, first.hash)
          }
        })
        for (const place of [one, two]) expect(places(verdict)).toContain(place)
        expect([one, two, one + 1, two + 1]).toEqual(expect.arrayContaining(recordPlaces(verdict)))
      }),
      runs,
    ))

  test('a record given another number', () =>
    fc.assert(
      fc.asyncProperty(sealedRecord, fc.integer({ min: last + 1, max: 2 ** 40 }), async (sequence, number) => {
        const verdict = await verifyAfter((database) =>
          database.prepare('UPDATE records SET sequence = ? WHERE sequence = ?').run(number, sequence),
        )
        expect(places(verdict)[0]).toBe(sequence)
        expect(places(verdict)).toContain(last + 1)
      }),
      runs,
    ))

  test('values of another type than the format has', async () => {
    for (const set of ['hash = NULL', "hash = 'x'", 'record = 5', "record = x'00'", 'hash = zeroblob(31)']) {
      const verdict = await verifyAfter((database) => {
        database.exec('CREATE TABLE loose AS SELECT * FROM records; DROP TABLE records; ALTER TABLE loose RENAME TO records')
        database.exec(`UPDATE records SET ${set} WHERE sequence = 17`)
      })
      expect(places(verdict)).toContain(17)
    }
  })

  test('records of another trail', async () => {
    const verdict = await verifyAfter((database) => database.prepare('UPDATE trail SET trail_id = ?').run('00'.repeat(16)))
    expect(places(verdict)).toContain(1)
    expect(verdict.seals).toBe(0)
  })

  test('a lookup filter that hides records', async () => {
    const verdict = await verifyAfter((database) => {
      database.prepare('INSERT INTO blocks VALUES (0, 0, 4102444800000, ?)').run(Buffer.alloc(2000))
    })
    expect(places(verdict)).toEqual(Array.from({ length: last }, (_, i) => i + 1))
    const early = await verifyAfter((database) => {
      database.prepare('INSERT INTO blocks VALUES (0, 0, ?, ?)').run(startMs + 44 * 60_000, Buffer.alloc(2000, 0xff))
    })
    expect(places(early)).toEqual([45])
  })

  test('of very many problems the first thousand are listed and the rest counted', async () => {
    const verdict = await verifyAfter((database) => {
      const insert = database.prepare('INSERT INTO records VALUES (?, zeroblob(32), ?)')
      for (let i = last + 1; i < last + 1500; i++) insert.run(i, '{}')
    })
    expect(verdict.problems).toHaveLength(1000)
    expect(verdict.problems.at(-1)?.what).toContain('500 more')
  })
})

describe('what was done to seals is found', () => {
  const columns = {
    hash: Buffer.alloc(32),
    signature: Buffer.alloc(256),
    key_id: 'ab',
    algorithm: 'ECDSA_SHA_256',
    kind: 'prune',
    time_ms: 5,
    sequence: 7,
  }

  test('any bit of a signature or a sealed hash changed', () =>
    fc.assert(
      fc.asyncProperty(fc.constantFrom('hash', 'signature'), fc.integer({ min: 1, max: 3 }), anyBit, async (column, number, bit) => {
        const verdict = await verifyAfter((database) => {
          const value = database.prepare(`SELECT ${column} FROM seals WHERE number = ?`).pluck().get(number) as Buffer
          database.prepare(`UPDATE seals SET ${column} = ? WHERE number = ?`).run(flipped(value, bit), number)
        })
        expect(verdict.problems.map(({ sequence, seal }) => [sequence, seal])).toEqual([[sealedAt[number - 1], number]])
      }),
      runs,
    ))

  test('any other column changed', async () => {
    for (const [column, value] of Object.entries(columns)) {
      const verdict = await verifyAfter((database) => database.prepare(`UPDATE seals SET ${column} = ? WHERE number = 2`).run(value))
      expect([column, verdict.problems.map(({ seal }) => seal)]).toEqual([column, [2]])
    }
    const time = await verifyAfter((database) => database.prepare('UPDATE seals SET time_ms = ? WHERE number = 2').run(2 ** 60))
    expect(time.problems.map(({ seal }) => seal)).toEqual([2])
  })

  test('a seal removed or renumbered, but for the last one', async () => {
    for (const number of [1, 2]) {
      const removed = await verifyAfter((database) => database.prepare('DELETE FROM seals WHERE number = ?').run(number))
      expect(removed.problems).toMatchObject([{ seal: number, sequence: (sealedAt[number - 2] ?? 0) + 1 }])
      const renumbered = await verifyAfter((database) => database.prepare('UPDATE seals SET number = 9 WHERE number = ?').run(number))
      expect(renumbered.problems.length).toBeGreaterThan(0)
    }
  })

  test('a public key changed', async () => {
    const change = (database: Database.Database) => database.prepare('UPDATE public_keys SET spki = zeroblob(20)').run()
    const verdict = await verifyTrail(tampered(change))
    expect(verdict.problems.map(({ seal }) => seal)).toEqual([1, 2, 3])
    // The key that was given is the one that counts.
    expect((await verifyTrail(tampered(change), { publicKeyPem: signer.pem })).problems).toEqual([])
  })

  test('a trail rewritten and sealed anew under another key, when the key is given', async () => {
    const stranger = makeSigner()
    const spki = (await stranger.publicKey()) as Buffer
    const statements = await Promise.all(
      sealedAt.map(async (sequence, i) => {
        const rows = new Database(pristine, { readonly: true })
        const hash = rowOf(rows, sequence).hash
        rows.close()
        const statement = {
          trailId: kept.trailId,
          number: i + 1,
          kind: 'seal' as const,
          sequence,
          hash,
          timeMs: startMs,
          keyId: keyIdOf(spki),
        }
        return { statement, ...(await stranger.sign(sha256(Buffer.from(encodeSealStatement(statement))))) }
      }),
    )
    const change = (database: Database.Database) => {
      database.prepare('INSERT INTO public_keys VALUES (?, ?)').run(keyIdOf(spki), spki)
      for (const { statement, signature } of statements) {
        database
          .prepare('UPDATE seals SET key_id = ?, signature = ?, time_ms = ? WHERE number = ?')
          .run(statement.keyId, signature, statement.timeMs, statement.number)
      }
    }
    expect((await verifyTrail(tampered(change))).problems).toEqual([])
    expect((await verifyAfter(change)).problems.map(({ seal }) => seal)).toEqual([1, 2, 3])
  })
})

describe('what only a seal kept elsewhere shows', () => {
  test('the end cut off together with its seals', async () => {
    const cut = (database: Database.Database) =>
      database.exec('DELETE FROM records WHERE sequence > 20; DELETE FROM seals WHERE sequence > 20')
    expect((await verifyAfter(cut)).problems).toEqual([])
    const verdict = await verifyAfter(cut, { expectedSeal: kept })
    expect(verdict.problems).toMatchObject([{ sequence: 21, seal: 3 }])
  })

  test('the end rewritten without its seals', async () => {
    const rewrite = (database: Database.Database) => {
      database.exec('DELETE FROM seals WHERE sequence > 20')
      setText(database, 30, '{}')
      rehash(database, 30)
    }
    expect((await verifyAfter(rewrite)).problems).toEqual([])
    expect((await verifyAfter(rewrite, { expectedSeal: kept })).problems).toMatchObject([{ sequence: 11, seal: 3 }])
  })

  test('a kept seal that is not of this trail, or not genuine, is itself a problem', async () => {
    const foreign = await verifyTrail(pristine, { expectedSeal: { ...kept, trailId: '11'.repeat(16) } })
    expect(foreign.problems[0]?.what).toContain('belongs to trail')
    const forged = await verifyTrail(pristine, { expectedSeal: { ...kept, hash: Buffer.alloc(32) } })
    expect(forged.problems[0]?.what).toContain('forged')
  })

  test('a seal survives being written down', () => {
    expect(parseSeal(encodeSeal(kept).trimEnd())).toEqual(kept)
    expect(() => parseSeal(encodeSeal(kept).replace('"seal"', '"sael"'))).toThrow('no time')
    expect(() =>
      parseSeal(
        encodeSeal(kept)
          .trimEnd()
          .replace(/"hash":"./, '"hash":"F'),
      ),
    ).toThrow('not as an export has it')
  })
})

describe('the beginning', () => {
  test('cut off without a statement is missing; a statement of another trail or key does not help', async () => {
    const cut = (database: Database.Database) => database.exec('DELETE FROM records WHERE sequence <= 10')
    expect(places(await verifyAfter(cut))).toEqual([1])
    const disguised = await verifyAfter((database) => {
      cut(database)
      database.exec(
        "INSERT INTO seals SELECT 4, 'prune', sequence, hash, time_ms, key_id, algorithm, signature FROM seals WHERE number = 1",
      )
    })
    expect(places(disguised)).toEqual([10, 1])
  })
})

describe('an export', () => {
  const textOf = async (file: string, range: ExportRange = {}) => {
    let text = ''
    for await (const line of exportTrail(file, range)) text += line
    return text
  }
  async function* chunked(text: string, size = 1 << 20): AsyncGenerator<string> {
    for (let i = 0; i < text.length; i += size) yield text.slice(i, i + size)
  }

  test('holds each record as it was hashed and verifies like the trail, however it is cut into chunks', async () => {
    const text = await textOf(pristine)
    const database = new Database(pristine, { readonly: true })
    for (const { record } of rowsOf(database)) expect(text).toContain(`"record":${record}}\n`)
    database.close()
    for (const line of text.trimEnd().split('\n')) expect(() => JSON.parse(line) as unknown).not.toThrow()
    for (const size of [1, 7, 1000, 1 << 20]) {
      const verdict = await verifyExport(chunked(text, size), { publicKeyPem: signer.pem, expectedSeal: kept })
      expect(verdict).toMatchObject({ problems: [], records: last, firstSequence: 1, sealedSequence: 40, seals: 3 })
    }
  })

  test('of a stretch verifies on its own, by number and by time', async () => {
    const middle = await textOf(pristine, { fromSequence: 15, toSequence: 30 })
    expect(await verifyExport(chunked(middle))).toMatchObject({
      problems: [],
      firstSequence: 15,
      lastSequence: 30,
      seals: 1,
      sealedSequence: 25,
    })
    const timed = await textOf(pristine, { fromMs: startMs + 15 * 60_000, toMs: startMs + 30 * 60_000 })
    expect(timed).toBe(middle)
    const nothing = await textOf(pristine, { fromMs: startMs + 1e9 })
    expect(await verifyExport(chunked(nothing))).toMatchObject({ problems: [], records: 0 })
  })

  test('with any bit changed is refused or has a problem', async () => {
    const bytes = Buffer.from(await textOf(pristine, { fromSequence: 8, toSequence: 12 }))
    await fc.assert(
      fc.asyncProperty(fc.nat(bytes.length * 8 - 1), async (bit) => {
        const changed = flipped(bytes, bit).toString()
        const outcome = await verifyExport(chunked(changed)).then(
          ({ problems }) => problems.length,
          (error: Error) => error.name,
        )
        expect(outcome === 'NotAnExport' || Number(outcome) > 0).toBe(true)
      }),
      { numRuns: 1500 },
    )
  })

  test('without any of its sealed records has a problem there', async () => {
    const lines = (await textOf(pristine)).split('\n')
    const firstRecord = lines.findIndex((line) => line.startsWith('{"sequence"'))
    for (const sequence of [1, 2, 10, 24, 25, 40]) {
      const without = lines.toSpliced(firstRecord + sequence - 1, 1).join('\n')
      const verdict = await verifyExport(chunked(without))
      expect(places(verdict)[0]).toBe(sequence)
    }
    const swapped = lines.with(firstRecord, lines[firstRecord + 1] ?? '').with(firstRecord + 1, lines[firstRecord] ?? '')
    expect(places(await verifyExport(chunked(swapped.join('\n'))))).toEqual(expect.arrayContaining([1]))
  })

  test('that is cut off in a line, or is something else, is refused', async () => {
    const text = await textOf(pristine)
    await expect(verifyExport(chunked(text.slice(0, -1)))).rejects.toThrow('cut off')
    await expect(verifyExport(chunked('{}\n'))).rejects.toThrow('not the head')
    await expect(verifyExport(chunked(''))).rejects.toThrow('not JSON')
    await expect(verifyExport(chunked('hello\n'))).rejects.toThrow('not JSON')
  })

  test('of a pruned trail begins where the statement ends', async () => {
    const trail = await at.open()
    await trail.prune(startMs + 26 * 60_000)
    const text = await textOf(at.file)
    expect(await verifyExport(chunked(text), { publicKeyPem: signer.pem })).toMatchObject({
      problems: [],
      firstSequence: 26,
      lastSequence: 45,
      sealedSequence: 40,
    })
    expect(await verifyTrail(at.file, { publicKeyPem: signer.pem })).toMatchObject({ problems: [], prunedSequence: 25 })
  })
})
