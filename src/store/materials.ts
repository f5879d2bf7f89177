/** Key materials in the database: those that the service makes, those that are imported, and the objects of imports that no key has yet or any more. */

import type { Backend } from './backend.ts'
import { heldBy, keyStepsOf } from './key-steps.ts'
import { backingId, importObjectRow, readImportObject, type ChangeKind } from './schema.ts'
import { StoreConflict } from './store.ts'
import type { Materials } from './store.ts'
import { one, swapped, type Writing } from './writing.ts'

export function openMaterials(backend: Pick<Backend, 'read' | 'write'>, writing: Writing): Materials {
  const { sql, view, write, attempted, untilSwapped, changed } = writing
  const { keyUpdate, getKey, keyInView, backingSteps, readySteps, putSteps, checkHeld, shareCounts } = keyStepsOf(writing)

  const objectOf = (ckaId: string) => sql.selectFrom('import_objects').selectAll().where('cka_id', '=', ckaId)

  return {
    async insertBackingKey(backing) {
      const isShared = view.key(backing.keyArn)?.multiRegion ?? false
      const steps = [...backingSteps(backing), ...(isShared ? [shareCounts(backing.keyArn)] : [])]
      await write(`insert backing key ${backing.materialId}`, steps)
    },
    promoteBackingKey: (backing, creator, change) =>
      untilSwapped(`key ${backing.keyArn}`, async () => {
        checkHeld(backing, creator)
        const current = getKey(backing.keyArn)
        const { after, steps } = keyUpdate(current, { ...change(current), materialId: backing.materialId })
        const done = await swapped(write(`promote backing key ${backing.materialId}`, [...steps, ...readySteps(backing, creator)]))
        return done ? keyInView(after) : undefined
      }),
    claimBackingKey: (backing, from, to) =>
      attempted(`claim backing key ${backing.materialId}`, [
        one(
          sql
            .updateTable('backing_keys')
            .set({ creator: to })
            .where('id', '=', backingId(backing))
            .where((eb) => heldBy(eb, from))
            .compile(),
        ),
        changed('backing', backingId(backing)),
      ]),
    async deleteBackingKey(backing) {
      await write(`delete backing key ${backing.materialId}`, [
        one(sql.deleteFrom('backing_keys').where('id', '=', backingId(backing)).where('state', '=', 'creating').compile()),
        changed('backing', backingId(backing)),
      ])
    },
    async reserveEncryptions(materialId, count, ceiling) {
      const ofMaterial = sql.selectFrom('backing_keys').where('material_id', '=', materialId)
      const [, , , rows] = await write(`reserve ${count} encryptions of ${materialId}`, [
        one(ofMaterial.select('id').limit(1).compile()),
        {
          query: ofMaterial
            .select('id')
            .where('encryptions_reserved', '>', ceiling - count)
            .limit(1)
            .compile(),
          rows: 0,
        },
        {
          query: sql
            .insertInto('changes')
            .columns(['kind', 'id'])
            .expression(ofMaterial.select((eb) => [eb.val<ChangeKind>('backing').as('kind'), 'id']))
            .compile(),
        },
        {
          query: sql
            .updateTable('backing_keys')
            .set((eb) => ({ encryptions_reserved: eb('encryptions_reserved', '+', count) }))
            .where('material_id', '=', materialId)
            .returning('encryptions_reserved')
            .compile(),
        },
      ])
      return (rows as readonly { readonly encryptions_reserved: number }[])[0]?.encryptions_reserved as number
    },

    changeMaterial: (keyArn, change) =>
      untilSwapped(`key ${keyArn}`, async () => {
        const current = getKey(keyArn)
        const { key, put, drop, adopt, release } = change(current, view.backingKeys(keyArn))
        const { after, steps } = keyUpdate(current, key)
        // First: what is put may take its ordinal.
        if (drop !== undefined) {
          const id = backingId({ keyArn, materialId: drop })
          steps.push(one(sql.deleteFrom('backing_keys').where('id', '=', id).compile()), changed('backing', id))
        }
        if (put && view.backingKey(keyArn, put.materialId)) steps.push(...putSteps(put))
        else if (put) steps.push(...backingSteps(put), ...(current.multiRegion ? [shareCounts(keyArn)] : []))
        if (release) steps.push({ query: sql.insertInto('import_objects').values(importObjectRow(release)).compile() })
        if (adopt) {
          // Taken over by another it is lost for good; anything else that came between is seen at the next try.
          const [[held]] = await backend.read([objectOf(adopt.ckaId).compile()])
          if (!held || held.creator !== adopt.creator)
            throw new StoreConflict(`adopt import object ${adopt.ckaId}: another has taken it over`)
          const mine = sql.deleteFrom('import_objects').where('cka_id', '=', adopt.ckaId)
          steps.push(one(mine.where('creator', 'is not distinct from', adopt.creator).compile()))
        }
        return (await swapped(write(`change material of ${keyArn}`, steps))) ? keyInView(after) : undefined
      }),

    async insertImportObject(object) {
      await backend.write(`insert import object ${object.ckaId}`, [
        { query: sql.insertInto('import_objects').values(importObjectRow(object)).compile() },
      ])
    },
    async importObjects(accountId) {
      const all = sql.selectFrom('import_objects').selectAll().orderBy('created_at').orderBy('cka_id')
      const [rows] = await backend.read([
        all.$if(accountId !== undefined, (query) => query.where('account_id', '=', accountId ?? '')).compile(),
      ])
      return rows.map(readImportObject)
    },
    async importObject(ckaId) {
      const [[row]] = await backend.read([objectOf(ckaId).compile()])
      return row && readImportObject(row)
    },
    claimImportObject: (ckaId, from, to) =>
      attempted(`claim import object ${ckaId}`, [
        one(
          sql
            .updateTable('import_objects')
            .set({ creator: to })
            .where('cka_id', '=', ckaId)
            .where('creator', 'is not distinct from', from)
            .compile(),
        ),
      ]),
    async deleteImportObject(ckaId) {
      await backend.write(`delete import object ${ckaId}`, [one(sql.deleteFrom('import_objects').where('cka_id', '=', ckaId).compile())])
    },
  }
}
