/**
 * Usage in the database: calls by day, each key's last use, and the lives of keys that are gone. Nothing of it is in the view: it is written
 * now and then, and read when somebody asks.
 *
 * Counts are added to what is there, so that several processes count together.
 */

import { sql as raw, type ExpressionBuilder } from 'kysely'
import type { Backend, Step } from './backend.ts'
import type { Tables } from './schema.ts'
import type { BackingKeyRecord, KeyLife, KeyRecord, LastUse, UsageQuery, UsageStore } from './store.ts'

/** The first ones of a key: no price depends on more. */
const maxRotations = 2

export interface UsageTables extends UsageStore {
  /** What is kept of a key that goes, in the transaction in which it goes. */
  endLife(key: KeyRecord, materials: readonly BackingKeyRecord[], endedAt: number): readonly Step[]
}

export function openUsageTables({ sql, read, write }: Pick<Backend, 'sql' | 'read' | 'write'>): UsageTables {
  const matching = ({ accountId, fromDay, toDay, keyId }: UsageQuery) =>
    sql
      .selectFrom('usage_days')
      .where('account_id', '=', accountId)
      .where('day', '>=', fromDay)
      .where('day', '<=', toDay)
      .$if(keyId !== undefined, (query) => query.where('key_id', '=', keyId ?? ''))

  return {
    async addUsage(counts, uses) {
      const steps: Step[] = counts.map(({ accountId, keyId, ...count }) => ({
        query: sql
          .insertInto('usage_days')
          .values({ account_id: accountId, key_id: keyId, ...count })
          .onConflict((conflict) =>
            conflict
              .columns(['account_id', 'day', 'region', 'key_id', 'operation', 'price'])
              .doUpdateSet((eb) => ({ calls: eb('usage_days.calls', '+', eb.ref('excluded.calls')) })),
          )
          .compile(),
      }))
      for (const { keyArn, operation, at, eventId, requestId } of uses) {
        const use = { operation, used_at: at, event_id: eventId, request_id: requestId }
        steps.push({
          query: sql
            .insertInto('last_uses')
            .values({ key_arn: keyArn, ...use })
            .onConflict((conflict) => conflict.column('key_arn').doUpdateSet(use).where('last_uses.used_at', '<=', at))
            .compile(),
        })
      }
      await write('add usage', steps)
    },

    async usage(query, byDay, after, limit) {
      // One text by which rows are sorted and a page continues; none of its parts holds a space.
      const columns = ['region', 'key_id', 'operation', 'price'] as const
      const place = (eb: ExpressionBuilder<Tables, 'usage_days'>) =>
        raw<string>`${byDay ? eb.ref('day') : raw.lit('')} || ' ' || ${eb.ref('region')} || ' ' || ${eb.ref('key_id')} || ' ' || ${eb.ref('operation')} || ' ' || ${eb.ref('price')}`
      const [rows] = await read([
        matching(query)
          .select(columns)
          .select((eb) => [
            byDay ? eb.ref('day').as('day') : eb.val('').as('day'),
            eb.fn.sum<number>('calls').as('calls'),
            place(eb).as('place'),
          ])
          .$if(after !== undefined, (page) => page.where(place, '>', after ?? ''))
          .groupBy(byDay ? ['day', ...columns] : columns)
          .orderBy('place')
          .limit(limit + 1)
          .compile(),
      ])
      const page = rows.slice(0, limit)
      return {
        items: page.map(({ region, key_id, operation, price, day, calls }) => ({
          accountId: query.accountId,
          day,
          region,
          keyId: key_id,
          operation,
          price,
          calls,
        })),
        next: rows.length > limit ? page.at(-1)?.place : undefined,
      }
    },

    async usageTotals(query) {
      const [rows] = await read([
        matching(query)
          .select('price')
          .select((eb) => eb.fn.sum<number>('calls').as('calls'))
          .groupBy('price')
          .orderBy('price')
          .compile(),
      ])
      return rows
    },

    async lastUse(keyArn) {
      const [[row]] = await read([sql.selectFrom('last_uses').selectAll().where('key_arn', '=', keyArn).compile()])
      return (
        row &&
        ({
          keyArn: row.key_arn,
          operation: row.operation,
          at: row.used_at,
          eventId: row.event_id,
          requestId: row.request_id,
        } satisfies LastUse)
      )
    },

    async keyLives(accountId, endedAfterMs) {
      const [rows] = await read([
        sql
          .selectFrom('key_lives')
          .selectAll()
          .where('account_id', '=', accountId)
          .where('ended_at', '>', endedAfterMs)
          .orderBy('ended_at')
          .compile(),
      ])
      return rows.map((row): KeyLife => ({
        keyArn: row.key_arn,
        accountId: row.account_id,
        beganAt: row.began_at,
        endedAt: row.ended_at,
        rotations: JSON.parse(row.rotations) as number[],
      }))
    },

    async pruneUsage(beforeDay, beforeMs) {
      await write('prune usage', [
        { query: sql.deleteFrom('usage_days').where('day', '<', beforeDay).compile() },
        { query: sql.deleteFrom('key_lives').where('ended_at', '<', beforeMs).compile() },
        // One that was flushed after its key had gone.
        { query: sql.deleteFrom('last_uses').where('key_arn', 'not in', sql.selectFrom('keys').select('arn')).compile() },
      ])
    },

    endLife: (key, materials, endedAt) => [
      { query: sql.deleteFrom('last_uses').where('key_arn', '=', key.arn).compile() },
      {
        query: sql
          .insertInto('key_lives')
          .values({
            key_arn: key.arn,
            account_id: key.accountId,
            began_at: key.createdAt,
            ended_at: endedAt,
            rotations: JSON.stringify(pricedRotations(materials)),
          })
          .compile(),
      },
    ],
  }
}

/** When a key was rotated, as far as it costs anything elsewhere: the budget of encryptions is a matter of this service alone. */
export function pricedRotations(materials: readonly BackingKeyRecord[]): readonly number[] {
  const priced = materials.filter(({ rotationType, state }) => rotationType !== null && rotationType !== 'BUDGET' && state !== 'creating')
  return priced.flatMap(({ rotatedAt }) => (rotatedAt === null ? [] : [rotatedAt])).slice(0, maxRotations)
}
