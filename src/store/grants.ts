/**
 * Grants in the database: there may be millions, so they are not in the view. Every read goes by an index, and what was read for
 * authorization is kept, for a bounded number of grants, until a change of it is seen in `changes`.
 *
 * What is kept is all grants on one key to one grantee, and that there are none. A grantee with very many grants on one key is not kept:
 * its grants are found by what a request must be to be allowed by them. For each of its operations a grant has a row in `grant_operations` with
 * two texts: `needs`, which are the operation, who asks and from where; and `anchor`, made of the constraint on the encryption context. So a
 * request that no grant allows costs a few seeks, however many grants allow something else.
 */

import { createHash } from 'node:crypto'
import { sql as raw, type CompiledQuery, type Selectable } from 'kysely'
import type { Backend, Step } from './backend.ts'
import { grantRow, readGrant } from './schema.ts'
import type { GrantTable } from './schema.ts'
import type { GrantConstraints, GrantFilter, GrantLook, GrantRecord, Grants, Page } from './store.ts'

type Pairs = Readonly<Record<string, string>>

/** A grantee with more grants on one key than this is looked up by anchors. */
const keptPerGrantee = 1000
/** Kept in all: grants, and look-ups that found none. A long constraint counts as several. */
const keptInAll = 100_000
const charactersOfOne = 256
/** Rows of one read where there may be very many, so that no read holds up the others. */
const rowsPerRead = 500
/** Grants of a key that goes are removed so many at a time. */
const deletedPerWrite = 2000

/** What a change of a grant is called in `changes`: whose authorization it concerns. No ARN holds a line feed. */
export const grantChange = (grant: Pick<GrantRecord, 'keyArn' | 'grantee'>): string => placeOf(grant.keyArn, grant.grantee)
const placeOf = (keyArn: string, grantee: string): string => `${keyArn}\n${grantee}`

export interface GrantStore extends Grants {
  /** Another look is needed at what this change names. */
  forget(change: string): void
  forgetAll(): void
  /** Keys that are gone: their grants went with them, unsaid. */
  forgetKeys(keyArns: ReadonlySet<string>): void
  /** Before the key itself goes: many grants go in many transactions. */
  deleteMost(keyArn: string, createdAt?: number): Promise<void>
  /** What is left of them, in the transaction in which the key goes. */
  deleteRest(keyArn: string): readonly Step[]
}

type Kept = readonly GrantRecord[] | 'many'

/** @param write as in `writing.ts`: when it resolves, what was changed is forgotten here. */
export function openGrants(
  { sql, read }: Pick<Backend, 'sql' | 'read'>,
  write: (what: string, steps: readonly Step[]) => Promise<readonly (readonly unknown[])[]>,
): GrantStore {
  /** Least lately used first. */
  const kept = new Map<string, Kept>()
  const reading = new Map<string, Promise<Kept>>()
  let weight = 0

  const weightOf = (found: Kept): number => (found === 'many' ? 1 : found.reduce((sum, grant) => sum + grantWeight(grant), 1))
  const drop = (place: string): void => {
    const old = kept.get(place)
    if (old === undefined) return
    kept.delete(place)
    weight -= weightOf(old)
  }
  const keep = (place: string, found: Kept): void => {
    drop(place)
    kept.set(place, found)
    weight += weightOf(found)
    for (const oldest of kept.keys()) {
      if (weight <= keptInAll) return
      drop(oldest)
    }
  }

  const toGrantee = (keyArn: string, grantee: string) =>
    sql.selectFrom('grants').selectAll().where('key_arn', '=', keyArn).where('grantee', '=', grantee)

  const readSome = async (query: CompiledQuery<Selectable<GrantTable>>): Promise<Kept> => {
    const [rows] = await read([query])
    return rows.length > keptPerGrantee ? 'many' : rows.map(readGrant)
  }
  const readKept = (keyArn: string, grantee: string): Promise<Kept> => {
    const place = placeOf(keyArn, grantee)
    const underWay = reading.get(place)
    if (underWay) return underWay
    const query = toGrantee(keyArn, grantee)
      .limit(keptPerGrantee + 1)
      .compile()
    const answer = readSome(query)
    reading.set(place, answer)
    // Whoever was forgotten meanwhile has read too early to be kept.
    const finish = (found: Kept | undefined): void => {
      if (reading.get(place) !== answer) return
      reading.delete(place)
      if (found !== undefined) keep(place, found)
    }
    answer.then(finish, () => finish(undefined))
    return answer
  }

  /** Grants of one need behind a place; with anchors only those that have one of them. Many anchors are one query: a context may have hundreds of pairs. */
  interface Part {
    readonly needs: string
    readonly anchors: readonly string[] | undefined
    readonly after: { readonly anchor: string; readonly grant_id: string }
  }
  const start = { anchor: '', grant_id: '' }
  const readPart = (keyArn: string, grantee: string, passing: readonly string[], { needs, anchors, after }: Part) => {
    const allowing = sql
      .selectFrom('grant_operations as allowed')
      .innerJoin('grants', 'grants.grant_id', 'allowed.grant_id')
      .selectAll('grants')
      .where('allowed.key_arn', '=', keyArn)
      .where('allowed.grantee', '=', grantee)
      .where('allowed.needs', '=', needs)
      .where((eb) => eb.and(passing.map((operation) => raw<boolean>`instr(allowed.passes, ${JSON.stringify(operation)}) > 0`)))
    const behind = anchors
      ? allowing.where('allowed.anchor', 'in', anchors).where('allowed.grant_id', '>', after.grant_id)
      : allowing.where((eb) => eb(eb.refTuple('allowed.anchor', 'allowed.grant_id'), '>', eb.tuple(after.anchor, after.grant_id)))
    return behind.orderBy('allowed.anchor').orderBy('allowed.grant_id').limit(rowsPerRead).compile()
  }
  /** What is left where a page of a part was full: of its last anchor, and of the anchors behind that. */
  const leftOf = ({ needs, anchors }: Part, last: Part['after']): readonly Part[] => {
    if (!anchors) return [{ needs, anchors, after: last }]
    const behind = anchors.filter((anchor) => anchor > last.anchor)
    return [{ needs, anchors: [last.anchor], after: last }, ...(behind.length > 0 ? [{ needs, anchors: behind, after: start }] : [])]
  }

  /** Page after page, until one grant is accepted. */
  const findAmongMany = async (
    keyArn: string,
    grantee: string,
    look: GrantLook,
    accept: (grant: GrantRecord) => boolean,
  ): Promise<GrantRecord | undefined> => {
    const anchors = look.context && anchorsMetBy(look.context)
    let open: readonly Part[] = needsMetBy(look).map((needs) => ({ needs, anchors, after: start }))
    while (open.length > 0) {
      const pages = await read(open.map((part) => readPart(keyArn, grantee, look.passing, part)))
      for (const rows of pages) {
        for (const row of rows) {
          const grant = readGrant(row)
          if (accept(grant)) return grant
        }
      }
      open = open.flatMap((part, index) => {
        const rows = pages[index] ?? []
        const last = rows.at(-1)
        return last && rows.length === rowsPerRead ? leftOf(part, last) : []
      })
    }
    return undefined
  }

  const filtered = (filter: GrantFilter) => {
    const all = sql.selectFrom('grants').selectAll()
    if ('retiring' in filter) {
      const { retiring, retiringId, region } = filter
      const named = all.where('retiring', '=', retiring).where('region', '=', region)
      return retiringId === null ? named : named.where('retiring_id', '=', retiringId)
    }
    const ofKey = all.where('key_arn', '=', filter.keyArn)
    return filter.grantee === undefined ? ofKey : ofKey.where('grantee', '=', filter.grantee)
  }

  const countDown = (keyArn: string, by: number): Step => ({
    query: sql
      .updateTable('grant_counts')
      .set((eb) => ({ grants: eb('grants', '-', by) }))
      .where('key_arn', '=', keyArn)
      .compile(),
    rows: 1,
  })

  return {
    async insert(grant, most) {
      const { keyArn } = grant
      await write(`insert grant ${grant.grantId}`, [
        // Counted, not looked through; the count is written only where it stays within the limit.
        {
          query: sql
            .insertInto('grant_counts')
            .values({ key_arn: keyArn, grants: 1 })
            .onConflict((conflict) =>
              conflict
                .column('key_arn')
                .doUpdateSet((eb) => ({ grants: eb('grant_counts.grants', '+', 1) }))
                .where('grant_counts.grants', '<', most),
            )
            .compile(),
          rows: 1,
        },
        {
          query: sql
            .insertInto('grants')
            .values(grantRow(grant, anchorOf(grant.constraints), identityOf(grant)))
            .compile(),
        },
        { query: sql.insertInto('grant_operations').values(operationRows(grant)).compile() },
        {
          query: sql
            .insertInto('changes')
            .values({ kind: 'grant', id: grantChange(grant) })
            .compile(),
        },
      ])
    },
    async delete(grant) {
      await write(`delete grant ${grant.grantId}`, [
        { query: sql.deleteFrom('grants').where('grant_id', '=', grant.grantId).where('key_arn', '=', grant.keyArn).compile(), rows: 1 },
        {
          query: sql
            .deleteFrom('grant_operations')
            .where('key_arn', '=', grant.keyArn)
            .where('grantee', '=', grant.grantee)
            .where('needs', 'in', [...new Set(grant.operations.map((operation) => needsOf(operation, grant)))])
            .where('anchor', '=', anchorOf(grant.constraints))
            .where('grant_id', '=', grant.grantId)
            .compile(),
        },
        countDown(grant.keyArn, 1),
        {
          query: sql
            .insertInto('changes')
            .values({ kind: 'grant', id: grantChange(grant) })
            .compile(),
        },
      ])
    },
    async get(grantId) {
      const [[row]] = await read([sql.selectFrom('grants').selectAll().where('grant_id', '=', grantId).compile()])
      return row && readGrant(row)
    },
    async sameAs(grant) {
      const identity = identityOf(grant)
      if (identity === null) return undefined
      const [[row]] = await read([sql.selectFrom('grants').selectAll().where('identity', '=', identity).compile()])
      return row && readGrant(row)
    },
    async count(keyArn) {
      const [[row]] = await read([sql.selectFrom('grant_counts').select('grants').where('key_arn', '=', keyArn).compile()])
      return row?.grants ?? 0
    },
    async list(filter, after, limit): Promise<Page<GrantRecord>> {
      const [rows] = await read([
        filtered(filter)
          .where('grant_id', '>', after ?? '')
          .orderBy('grant_id')
          .limit(limit + 1)
          .compile(),
      ])
      const items = rows.slice(0, limit).map(readGrant)
      return { items, next: rows.length > limit ? items.at(-1)?.grantId : undefined }
    },
    find(keyArn, grantee, look, accept) {
      const place = placeOf(keyArn, grantee)
      const lookIn = (found: Kept) => (found === 'many' ? findAmongMany(keyArn, grantee, look, accept) : found.find(accept))
      const found = kept.get(place)
      if (found === undefined) return readKept(keyArn, grantee).then(lookIn)
      kept.delete(place)
      kept.set(place, found)
      return lookIn(found)
    },

    forget(change) {
      reading.delete(change)
      drop(change)
    },
    forgetAll() {
      reading.clear()
      kept.clear()
      weight = 0
    },
    forgetKeys(keyArns) {
      const isGone = (place: string): boolean => keyArns.has(place.slice(0, place.indexOf('\n')))
      for (const place of reading.keys()) if (isGone(place)) reading.delete(place)
      for (const place of kept.keys()) if (isGone(place)) drop(place)
    },
    async deleteMost(keyArn, createdAt) {
      // Of that key alone: another one may be here by now, under the same ARN.
      const key = sql.selectFrom('keys').select('arn').where('arn', '=', keyArn)
      const keys = createdAt === undefined ? key : key.where('created_at', '=', createdAt)
      const someOperations = sql
        .selectFrom('grant_operations')
        .select(['key_arn', 'grantee', 'needs', 'anchor', 'grant_id'])
        .where('key_arn', '=', keyArn)
        .where((eb) => eb.exists(keys))
        .limit(deletedPerWrite)
      const deleteSome = sql
        .deleteFrom('grant_operations')
        .where((eb) =>
          eb(
            eb.refTuple('key_arn', 'grantee', 'needs', 'anchor', 'grant_id'),
            'in',
            someOperations.$asTuple('key_arn', 'grantee', 'needs', 'anchor', 'grant_id'),
          ),
        )
        .returning('grant_id')
        .compile()
      const some = sql
        .selectFrom('grants')
        .select('grant_id')
        .where('key_arn', '=', keyArn)
        .where((eb) => eb.exists(keys))
        .orderBy('grant_id')
        .limit(deletedPerWrite)
      const deletions = [deleteSome, sql.deleteFrom('grants').where('grant_id', 'in', some).returning('grant_id').compile()]
      for (const query of deletions) {
        let deleted: number
        do {
          const [rows] = await write(`delete grants of ${keyArn}`, [{ query }])
          deleted = (rows ?? []).length
        } while (deleted === deletedPerWrite)
      }
    },
    deleteRest: (keyArn) => [
      { query: sql.deleteFrom('grant_operations').where('key_arn', '=', keyArn).compile() },
      { query: sql.deleteFrom('grants').where('key_arn', '=', keyArn).compile() },
      { query: sql.deleteFrom('grant_counts').where('key_arn', '=', keyArn).compile() },
    ],
  }
}

function grantWeight({ constraints: { encryptionContextEquals: equals, encryptionContextSubset: subset } }: GrantRecord): number {
  const characters = Object.entries(equals ?? subset ?? {}).reduce((sum, [name, value]) => sum + name.length + value.length, 0)
  return 1 + Math.floor(characters / charactersOfOne)
}

const hash = (text: string): string => createHash('sha256').update(text).digest('base64url')
const sorted = (pairs: Pairs): readonly (readonly [string, string])[] => Object.entries(pairs).sort(([a], [b]) => (a < b ? -1 : 1))

const anchorOfAll = (pairs: Pairs): string => `all ${hash(JSON.stringify(sorted(pairs)))}`
const anchorOfOne = (pair: readonly [string, string]): string => `one ${hash(JSON.stringify(pair))}`

/** What a request must have in common with the constraint: all of its pairs, one of them, or nothing. */
export function anchorOf({ encryptionContextEquals: equals, encryptionContextSubset: subset }: GrantConstraints): string {
  if (equals) return anchorOfAll(equals)
  // Of several pairs the longest value is the most likely to be one grant's own.
  const [first, ...rest] = subset ? sorted(subset) : []
  return first ? anchorOfOne(rest.reduce((best, pair) => (pair[1].length > best[1].length ? pair : best), first)) : ''
}

/** The anchors of every constraint that this encryption context could meet. */
export const anchorsMetBy = (context: Pairs): readonly string[] => ['', anchorOfAll(context), ...Object.entries(context).map(anchorOfOne)]

/** What else than the encryption context a request must bring. */
const needs = (operation: string, granteeId: string, sourceArn: string): string => `${operation} ${granteeId} ${sourceArn}`
const needsOf = (operation: string, { granteeId, constraints }: Pick<GrantRecord, 'granteeId' | 'constraints'>): string =>
  needs(operation, granteeId ?? '', constraints.sourceArn ?? '')

/** The needs of every grant that could allow this: it may name whoever has the name, or ask for no source. */
function needsMetBy({ operation, granteeId, sourceArn }: GrantLook): readonly string[] {
  const sources = sourceArn === undefined ? [''] : ['', sourceArn]
  return ['', granteeId].flatMap((id) => sources.map((source) => needs(operation, id, source)))
}

/** A grant as it is looked up. The statement of a migration makes the same of old grants. */
export function operationRows(grant: Pick<GrantRecord, 'grantId' | 'keyArn' | 'grantee' | 'granteeId' | 'operations' | 'constraints'>) {
  return [...new Set(grant.operations)].map((operation) => ({
    key_arn: grant.keyArn,
    grantee: grant.grantee,
    needs: needsOf(operation, grant),
    anchor: anchorOf(grant.constraints),
    grant_id: grant.grantId,
    passes: operation === 'CreateGrant' ? JSON.stringify(grant.operations) : '',
  }))
}

/** Equal for equal requests that carry the same name; null for a grant without a name, which is never the same as another. */
function identityOf(grant: GrantRecord): string | null {
  if (grant.name === null) return null
  const { encryptionContextEquals: equals, encryptionContextSubset: subset, sourceArn } = grant.constraints
  return hash(
    JSON.stringify([
      grant.keyArn,
      grant.name,
      grant.issuingAccountId,
      [grant.grantee, grant.granteeId],
      [grant.retiring, grant.retiringId],
      [...new Set(grant.operations)].sort(),
      equals ? sorted(equals) : null,
      subset ? sorted(subset) : null,
      sourceArn ?? null,
    ]),
  )
}
