/**
 * The log: JSON lines on standard output, written by pino through a buffer that is flushed within 100 ms and at exit.
 *
 * A line is an event with fields, not a sentence with values in it. Whoever logs names the fields one by one, so a
 * request, a header block or a configuration object never lands here whole; as a second belt the names under which a
 * secret would travel are blanked.
 */

import pino from 'pino'

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
export type LogLevel = (typeof logLevels)[number]

/** An `err` field may hold an Error; its message, stack and causes are written. */
export type LogFields = Readonly<Record<string, unknown>>

export interface Log {
  debug(fields: LogFields, message: string): void
  info(fields: LogFields, message: string): void
  warn(fields: LogFields, message: string): void
  error(fields: LogFields, message: string): void
  /** A log whose every line carries `fields` too. */
  child(fields: LogFields): Log
}

export interface OpenLog extends Log {
  /** Writes out what is buffered, blocking; for the last moments of the process. */
  flush(): void
}

/** Names under which a secret could travel; blanked at the top level of a line. */
const secretFields = ['pin', 'soPin', 'secret', 'secretAccessKey', 'sessionToken', 'authorization', 'plaintext', 'Plaintext', 'password']

/**
 * Opens the log.
 * @param options.level lines below it are not written; `silent` writes none.
 * @param options.destination file descriptor or path; standard output unless given.
 */
export function openLog(options: { readonly level: LogLevel; readonly destination?: number | string }): OpenLog {
  const destination = pino.destination({
    dest: options.destination ?? 1,
    // Buffered: a write costs more than a hundred lines do; at rest a line is out within 100 ms.
    sync: false,
    minLength: 65_536,
    // sonic-boom wants it above the length that it waits for.
    maxWrite: 131_072,
    periodicFlush: 100,
  })
  const logger = pino(
    {
      level: options.level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: pino.stdSerializers.err },
      redact: { paths: secretFields, censor: '[secret]' },
    },
    destination,
  )
  const flush = (): void => {
    try {
      destination.flushSync()
    } catch {
      // Standard output is closed, or was never opened: there is nobody left to tell.
    }
  }
  // A reader that went away (`holdfast serve | head`) must not bring the service down.
  destination.on('error', () => undefined)
  process.on('exit', flush)
  return Object.assign(logOver(logger), { flush })
}

function logOver(logger: pino.Logger): Log {
  return {
    debug: (fields, message) => logger.debug(fields, message),
    info: (fields, message) => logger.info(fields, message),
    warn: (fields, message) => logger.warn(fields, message),
    error: (fields, message) => logger.error(fields, message),
    child: (fields) => logOver(logger.child(fields)),
  }
}

/** A log that keeps nothing: for tests and for commands that print their own result. */
export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLog,
}
