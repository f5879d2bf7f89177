/**
 * What signals do to a service: SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reads the TLS certificates again; SIGUSR2 replaces the processes
 * of a service that has several. Part of the wiring.
 */

import type { OpenLog } from './base/log.ts'
import { exitCodes } from './cli/command.ts'

export interface Signals {
  /** Resolves with the signal's name at the first SIGTERM or SIGINT. A later one ends the process at once. */
  readonly stop: Promise<string>
  /** What SIGHUP does. */
  onReload(reload: () => void): void
  /** What SIGUSR2 does. */
  onRestart(restart: () => void): void
  close(): void
}

export function listenForSignals(log: OpenLog): Signals {
  let reload: (() => void) | undefined
  let restart: (() => void) | undefined
  let askedAt: number | undefined
  let stopped = (_reason: string): void => undefined
  const stop = new Promise<string>((resolve) => (stopped = resolve))
  const onStop = (signal: NodeJS.Signals): void => {
    // Ctrl-C under npm arrives twice: from the terminal and passed on by npm.
    if (askedAt !== undefined && performance.now() - askedAt < 1000) return
    if (askedAt !== undefined) {
      log.warn({ signal }, 'told again: ending at once')
      log.flush()
      process.exit(exitCodes.failed)
    }
    askedAt = performance.now()
    stopped(signal)
  }
  const onHangup = (): void => {
    // A terminal that closes sends it too; a service that was started in one goes with it.
    if (reload) reload()
    else if (process.stdout.isTTY) onStop('SIGHUP')
  }
  process.on('SIGTERM', onStop)
  process.on('SIGINT', onStop)
  process.on('SIGHUP', onHangup)
  const onRestart = (): void => {
    if (restart) restart()
    else
      log.warn(
        {},
        'SIGUSR2 replaces the processes of a service that has several (HOLDFAST_PROCESSES); this one has not, or has not started yet',
      )
  }
  process.on('SIGUSR2', onRestart)
  return {
    stop,
    onReload(next) {
      reload = next
    },
    onRestart(next) {
      restart = next
    },
    close() {
      process.off('SIGTERM', onStop)
      process.off('SIGINT', onStop)
      process.off('SIGHUP', onHangup)
      process.off('SIGUSR2', onRestart)
    },
  }
}
