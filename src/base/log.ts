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
  /** The same line as `info` writes of them, for what happens thousands of times a second: at least one field, none of those that are blanked. */
  event(fields: Readonly<Record<string, string | number | undefined>>, message: string): void
  /** A log whose every line carries `fields` too. */
  child(fields: LogFields): Log
}

export interface OpenLog extends Log {
  /** Writes out what is buffered, blocking; for the last moments of the process. */
  flush(): void
}

const charactersPerWrite = 65_536
/** Before the destination gets a line; it keeps it for as long again. */
const longestWaitMs = 50

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
    minLength: charactersPerWrite,
    // sonic-boom wants it above the length that it waits for.
    maxWrite: 2 * charactersPerWrite,
    periodicFlush: 50,
  })
  const lines = new Lines((text) => destination.write(text))
  const logger = pino(
    {
      level: options.level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: pino.stdSerializers.err },
      redact: { paths: secretFields, censor: '[secret]' },
    },
    lines,
  )
  const flush = (): void => {
    try {
      // In two parts: together they may be long enough for the destination to begin a write that nobody waits for.
      destination.flushSync()
      lines.pass()
      destination.flushSync()
    } catch {
      // Standard output is closed, or was never opened: there is nobody left to tell.
    }
  }
  // A reader that went away (`holdfast serve | head`) must not bring the service down.
  destination.on('error', () => undefined)
  process.on('exit', flush)
  const log: OpenLog = { ...logOver(logger), event: eventsTo(lines, logger), flush }
  return log
}

/** Lines on their way to the destination, handed over many at a time: with each piece it measures anew, from the beginning, all that it holds. */
class Lines {
  readonly #write: (text: string) => void
  #waiting: string[] = []
  #characters = 0
  #timer: NodeJS.Timeout | undefined
  constructor(write: (text: string) => void) {
    this.#write = write
  }
  write(line: string): void {
    this.#waiting.push(line)
    this.#characters += line.length
    if (this.#characters >= charactersPerWrite) this.pass()
    else this.#timer ??= setTimeout(() => this.pass(), longestWaitMs)
  }
  /** Hands on what waits. */
  pass(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#waiting.length === 0) return
    const text = this.#waiting.join('')
    this.#waiting = []
    this.#characters = 0
    this.#write(text)
  }
}

/** The line is the one that pino would make. */
function eventsTo(lines: Lines, logger: pino.Logger): Log['event'] {
  if (!logger.isLevelEnabled('info')) return () => undefined
  let lastMs = -1
  let time = ''
  return (fields, message) => {
    const now = Date.now()
    if (now !== lastMs) {
      lastMs = now
      time = new Date(now).toISOString()
    }
    lines.write(`{"level":"info","time":"${time}",${JSON.stringify(fields).slice(1, -1)},"msg":${JSON.stringify(message)}}\n`)
  }
}

function logOver(logger: pino.Logger): Log {
  return {
    debug: (fields, message) => logger.debug(fields, message),
    info: (fields, message) => logger.info(fields, message),
    warn: (fields, message) => logger.warn(fields, message),
    error: (fields, message) => logger.error(fields, message),
    event: (fields, message) => logger.info(fields, message),
    child: (fields) => logOver(logger.child(fields)),
  }
}

/** A log that keeps nothing: for tests and for commands that print their own result. */
export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  event: () => undefined,
  child: () => silentLog,
}
