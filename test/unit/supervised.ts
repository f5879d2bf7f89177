/**
 * A service of two processes that do nothing, for supervisor.test.ts, whose messages say what the supervisor is to do. So that a test can stop in between,
 * a process that is told to end waits for a SIGTERM, too, unless it was started as an obedient one, and one that is held waits for it before it serves.
 */

import { openLog } from '../../src/base/log.ts'
import { isMember, joinProcesses, leaveProcesses } from '../../src/processes.ts'
import { superviseProcesses } from '../../src/supervisor.ts'

export type Order =
  | { readonly type: 'restart' | 'close' | 'hold' | 'hold no more' | 'obey' }
  | { readonly type: 'start with'; readonly execPath: string }

const log = openLog({ level: 'info' })
await (isMember() ? serve() : supervise())
log.flush()

async function serve(): Promise<void> {
  const told = new Promise<void>((resolve) => process.once('SIGTERM', () => resolve()))
  const membership = joinProcesses(log)
  await membership.join()
  if (process.env['SUPERVISED_IS_HELD']) {
    log.info({ pid: process.pid }, 'held')
    await told
  }
  membership.ready(
    { url: 'http://127.0.0.1', xksUrl: undefined },
    {
      readiness: async () => ({ ready: true, checks: {} }),
      metricValues: async () => [],
      reload: undefined,
      shared: {
        takings: () => [],
        takenElsewhere: () => undefined,
        missing: () => [],
        connections: () => ({}),
        connectionsElsewhere: () => undefined,
      },
    },
  )
  await Promise.all([membership.stop, process.env['SUPERVISED_OBEYS'] ? undefined : told])
  leaveProcesses()
}

async function supervise(): Promise<void> {
  const processes = await superviseProcesses(2, 60_000, log)
  await new Promise<void>((resolve) => {
    process.on('message', (order: Order) => {
      log.info({}, `told to ${order.type}`)
      switch (order.type) {
        case 'restart':
          void processes.restart()
          break
        case 'hold':
          process.env['SUPERVISED_IS_HELD'] = 'yes'
          break
        case 'hold no more':
          delete process.env['SUPERVISED_IS_HELD']
          break
        case 'obey':
          process.env['SUPERVISED_OBEYS'] = 'yes'
          break
        case 'start with':
          process.execPath = order.execPath
          break
        case 'close':
          void processes.close().then(resolve)
      }
    })
  })
  process.disconnect()
}
