/**
 * The program: finds the command and gives it what it needs. The files of this folder alone wire the rooms together:
 * `serve.ts` the service, `doctor.ts` the examination, `root-key.ts` the way back in, and this one the commands. Rooms are loaded when a command wants
 * them. `scripts/holdfast.mjs` and `scripts/start.mjs` call `run`.
 */

import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { text as readStream } from 'node:stream/consumers'
import { ProvisionError } from '../softhsm/provision.mjs'
import { OperatorError } from './base/operator-error.ts'
import { systemClock } from './base/clock.ts'
import { exitCodes } from './cli/command.ts'
import { runCommandLine } from './cli/commands.ts'
import type { ClientSettings, Wiring } from './cli/wiring.ts'
import { placesIn } from './config/places.ts'
import { ConfigError, readClientEnvironment, readConfig } from './config/read.ts'
import { settingsTable } from './config/settings.ts'
import { TokenError } from './hsm/token.ts'

/** Runs a command line and answers the exit code. A command that a signal ended ends the program by that signal. */
export async function run(words: readonly string[]): Promise<number> {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)
  const code = await runCommandLine(words, wiring).catch((error: unknown) => {
    // What an operator can mend comes as words; a defect comes with its stack.
    if (!isForOperator(error)) throw error
    process.stderr.write(`${error.message}\n`)
    return exitCodes.failed
  })
  // So the shell is told, and nothing is waited for: to exit, Node waits for its threads, and one of them may be reading a pipe that nobody writes to.
  if (interruptedBy && code !== exitCodes.done) process.kill(process.pid, interruptedBy)
  return code
}

/** System errors (a port in use, a file that is missing, a disk that is read-only) carry their `syscall`. */
const isForOperator = (error: unknown): error is Error =>
  error instanceof ConfigError ||
  error instanceof ProvisionError ||
  error instanceof TokenError ||
  error instanceof OperatorError ||
  (error instanceof Error && (error.name === 'StoreFailure' || 'syscall' in error))

function clientSettings(): ClientSettings {
  const { config } = readConfig()
  const from = readClientEnvironment()
  const places = placesIn(config.dataDir)
  const { accessKeyId, secretAccessKey, sessionToken } = from
  const scheme = config.tls.certFile === undefined ? 'http' : 'https'
  const trusted = [config.tls.certFile, from.caFile].filter((name) => name !== undefined)
  return {
    endpoint: from.endpoint ?? announcedUrl(places.endpoint) ?? `${scheme}://${config.host}:${config.port}`,
    isOwnService: from.endpoint === undefined,
    region: config.regions[0] ?? '',
    credentials:
      accessKeyId !== undefined && secretAccessKey !== undefined
        ? { accessKeyId, secretAccessKey, ...(sessionToken !== undefined && { sessionToken }) }
        : undefined,
    credentialsFile: from.credentialsFile ?? places.credentials,
    awsCredentialsFile: from.credentialsFile ?? join(homedir(), '.aws', 'credentials'),
    profile: from.profile ?? 'default',
    callRegion: from.region ?? config.regions[0] ?? '',
    trust: trusted.length === 0 ? undefined : trusted.map((name) => readFileSync(name, 'utf8')).join('\n'),
  }
}

function announcedUrl(file: string): string | undefined {
  try {
    const { url } = JSON.parse(readFileSync(file, 'utf8')) as { readonly url?: unknown }
    return typeof url === 'string' ? url : undefined
  } catch {
    return undefined
  }
}

/** A reader that has gone (`holdfast audit export | head`) is no defect: what is written then goes nowhere. */
function write(stream: NodeJS.WriteStream, text: string): Promise<void> {
  return new Promise((resolve) => stream.write(text, () => resolve()))
}

/** The signal that a command was told to end by. */
let interruptedBy: NodeJS.Signals | undefined

/** A second signal within this time is the first one still: Ctrl-C under npm arrives twice, from the terminal and passed on by npm. */
const oneSignalWithinMs = 1000

function interruption(): { readonly signal: AbortSignal; close(): void } {
  const controller = new AbortController()
  const signals = ['SIGINT', 'SIGTERM'] as const
  const close = (): void => {
    for (const signal of signals) process.off(signal, stop)
  }
  const stop = (signal: NodeJS.Signals): void => {
    setTimeout(close, oneSignalWithinMs).unref()
    interruptedBy ??= signal
    controller.abort()
  }
  for (const signal of signals) process.on(signal, stop)
  return { signal: controller.signal, close }
}

const wiring: Wiring = {
  print: (text) => write(process.stdout, text),
  printError: (text) => write(process.stderr, text),
  streams: {
    input: () => process.stdin,
    write: (bytes) => new Promise((resolve, reject) => process.stdout.write(bytes, (error) => (error ? reject(error) : resolve()))),
    outputIsTerminal: () => process.stdout.isTTY,
    errorIsTerminal: () => process.stderr.isTTY,
    interruption,
  },
  readInput: () => readStream(process.stdin),
  nowMs: () => systemClock.now(),
  serve: async () => (await import('./serve.ts')).serve(),
  rootKey: async (options) => (await import('./root-key.ts')).makeRootKey(readConfig().config, options),
  async doctor() {
    const { config } = readConfig()
    const places = placesIn(config.dataDir)
    const [{ planTokens }, { planProcesses }, { examine }] = await Promise.all([
      import('./tokens.ts'),
      import('./processes.ts'),
      import('./doctor.ts'),
    ])
    return examine({ tokens: (await planTokens(config, false)).tokens, database: places.database, processes: planProcesses(config) })
  },
  async xksDoctor(options) {
    const { describeProxy, examineProxy } = await import('./xks/doctor.ts')
    const report = await examineProxy({ ...options, clock: systemClock })
    return { text: describeProxy(report), report, healthy: report.healthy }
  },
  async bench(options, show) {
    const { bench } = await import('./bench-command.ts')
    const told = interruption()
    try {
      return await bench(readConfig().config, options, { terminal: process.stderr, stop: told.signal, show })
    } finally {
      told.close()
    }
  },
  compareBenches: async (first, second) => (await import('./bench-command.ts')).compare(first, second),
  clientSettings,
  auditTrail: () => placesIn(readConfig().config.dataDir).auditTrail,
  effectiveConfig: () => readConfig().config,
  settingsTable,
}
