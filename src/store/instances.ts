/** What the processes that share the database agree on: settings, leases, and which of them are there. */

import type { Backend } from './backend.ts'
import type { Instances } from './store.ts'
import { one, swapped, type Writing } from './writing.ts'

export function openInstances(
  backend: Pick<Backend, 'read' | 'write'>,
  { sql, attempted, changed }: Writing,
  follow: () => Promise<void>,
): Instances {
  return {
    compareAndSetSetting(name, expected, value) {
      const query =
        expected === undefined
          ? sql.insertInto('settings').values({ name, value }).compile()
          : sql.updateTable('settings').set({ value }).where('name', '=', name).where('value', '=', expected).compile()
      return attempted(`set ${name}`, [one(query), changed('setting', name)])
    },

    async acquireLease(name, holder, untilMs, nowMs) {
      const query = sql
        .insertInto('leases')
        .values({ name, holder, until_ms: untilMs })
        .onConflict((conflict) =>
          conflict
            .column('name')
            .doUpdateSet({ holder, until_ms: untilMs })
            .where((eb) => eb.or([eb('leases.holder', '=', holder), eb('leases.until_ms', '<=', nowMs)])),
        )
        .compile()
      const taken = await swapped(backend.write(`take lease ${name}`, [one(query)]))
      if (taken) await follow()
      return taken
    },
    async releaseLease(name, holder) {
      await backend.write(`release lease ${name}`, [
        { query: sql.deleteFrom('leases').where('name', '=', name).where('holder', '=', holder).compile() },
      ])
    },
    async heartbeat({ id, host, pid, heartbeatAt }) {
      const values = { host, pid, heartbeat_at: heartbeatAt }
      await backend.write(`heartbeat of ${id}`, [
        {
          query: sql
            .insertInto('instances')
            .values({ id, ...values })
            .onConflict((conflict) => conflict.column('id').doUpdateSet(values))
            .compile(),
        },
      ])
    },
    async instances() {
      const [rows] = await backend.read([sql.selectFrom('instances').selectAll().orderBy('id').compile()])
      return rows.map(({ id, host, pid, heartbeat_at }) => ({ id, host, pid, heartbeatAt: heartbeat_at }))
    },
    async removeInstance(id) {
      await backend.write(`remove instance ${id}`, [{ query: sql.deleteFrom('instances').where('id', '=', id).compile() }])
    },
  }
}
