/** The service from its start to its end: reads what it is to be, opens the house, in one process or in several, and closes it when a signal says so. */

import { openLog, type Log } from './base/log.ts'
import { joinMetrics } from './base/metrics.ts'
import { exitCodes } from './cli/command.ts'
import { placesIn } from './config/places.ts'
import { readConfig } from './config/read.ts'
import type { Config } from './config/settings.ts'
import { announce, greet } from './endpoint.ts'
import { closeTimeoutMs, makeDataDir, Opened } from './ground.ts'
import { openHouse, type House } from './house.ts'
import { openOpsPort, tlsOf, xksTls } from './ports.ts'
import { isMember, joinProcesses, leaveProcesses, planProcesses } from './processes.ts'
import { listenForSignals } from './signals.ts'
import { superviseProcesses, type Processes } from './supervisor.ts'

/** Runs the service until a signal ends it; answers the exit code. */
export async function serve(): Promise<number> {
  const { config, warnings } = readOwnConfig()
  const log = openLog({ level: config.logLevel })
  const membership = isMember() ? joinProcesses(log) : undefined
  // The supervisor has said them.
  if (!membership) for (const warning of warnings) log.warn({}, warning)
  const signals = membership ? undefined : listenForSignals(log)
  const endOnDefect = (error: unknown): void => {
    log.error({ err: error }, 'a defect: the service ends')
    log.flush()
    process.exit(exitCodes.failed)
  }
  process.on('uncaughtException', endOnDefect)
  process.on('unhandledRejection', endOnDefect)
  try {
    const house = await (!membership && planProcesses(config).count > 1
      ? openProcesses(config, log)
      : openHouse(config, log, { membership }))
    if (house.reload) signals?.onReload(house.reload)
    if (house.restart) signals?.onRestart(house.restart)
    if (!membership) process.stderr.write(house.greeting)
    const reason = await (membership ?? signals)?.stop
    log.info({ reason }, 'stopping: calls under way are finished')
    await house.close()
    log.info({}, 'stopped')
    return exitCodes.done
  } catch (error) {
    log.debug({ err: error }, 'the service could not start')
    throw error
  } finally {
    log.flush()
    signals?.close()
    leaveProcesses()
    process.off('uncaughtException', endOnDefect)
    process.off('unhandledRejection', endOnDefect)
  }
}

/** @throws ConfigError; one of several processes, which reads what may have changed since the first was started, can end then. */
function readOwnConfig(): ReturnType<typeof readConfig> {
  try {
    return readConfig()
  } catch (error) {
    leaveProcesses()
    throw error
  }
}

/** The same as `openHouse`, in several processes. */
async function openProcesses(config: Config, log: Log): Promise<House> {
  const opened = new Opened(config.http.drainTimeoutMs)
  try {
    await makeDataDir(config.dataDir)
    let processes: Processes | undefined
    const ops = opened.add(
      'operations port',
      await openOpsPort(config, log, {
        metrics: { page: (overall) => processes?.page(overall) ?? joinMetrics([]) },
        readiness: async () => processes?.readiness() ?? { ready: false, checks: { service: { ok: false, detail: 'starting' } } },
      }),
    )
    const drainWithinMs = closeTimeoutMs + config.http.drainTimeoutMs
    processes = opened.add('processes', await superviseProcesses(planProcesses(config).count, drainWithinMs, log))
    const { url, xksUrl } = processes.address
    const reloadAll = (): void => processes?.reload()
    const places = placesIn(config.dataDir)
    opened.add('endpoint file', await announce(places.endpoint, { url, opsUrl: ops.url, xksUrl }))
    log.info({ url, opsUrl: ops.url, xksUrl, regions: config.regions, processes: planProcesses(config).count }, 'ready')
    return {
      url,
      opsUrl: ops.url,
      greeting: greet(config, places.credentials, url, ops.url),
      reload:
        (tlsOf(config) ?? xksTls(config)) &&
        (() => {
          ops.reloadCertificate()
          reloadAll()
        }),
      restart: () => void processes?.restart(),
      close: () => opened.close(log),
    }
  } catch (error) {
    await opened.close(log)
    throw error
  }
}
