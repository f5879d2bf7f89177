/**
 * A PKCS#11 module in a process of its own, called function by function: for tests that look at what a module itself
 * does, and that must survive its crash.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** A call that the module answered with an error code. */
export class RawError extends Error {
  readonly code: number
  constructor(message: string, code: number) {
    super(message)
    this.code = code
  }
}

/** The module's process is gone; how it went is in `signal`. */
export class RawExit extends Error {
  readonly signal: NodeJS.Signals | null
  constructor(signal: NodeJS.Signals | null, code: number | null) {
    super(`the module's process ended with ${signal ?? code}`)
    this.signal = signal
  }
}

interface Answer {
  readonly result?: unknown
  readonly problem?: { readonly message: string; readonly code: number }
  /** The arguments after the call: a module may have written into their Buffers. */
  readonly args: readonly unknown[]
  /** The arguments of the last `…Init` call as they are now: some modules write into them at the call that follows. */
  readonly held: readonly unknown[]
}

export class RawModule {
  readonly #child: ChildProcess
  #held: unknown[] = []
  #waiting: { resolve: (answer: Answer) => void; reject: (error: Error) => void } | undefined

  constructor(library: string, env: Readonly<Record<string, string>>) {
    this.#child = fork(fileURLToPath(new URL('raw-process.mjs', import.meta.url)), [library], {
      execArgv: [],
      env: { PATH: process.env['PATH'], ...env },
      serialization: 'advanced',
    })
    this.#child.on('message', (answer) => this.#waiting?.resolve(answer as Answer))
    this.#child.once('exit', (code, signal) => this.#waiting?.reject(new RawExit(signal, code)))
  }

  /** Calls a method of the binding; one at a time. Buffers among the arguments get what the module wrote into them. */
  async call<T = unknown>(method: string, ...args: unknown[]): Promise<T> {
    const answer = await new Promise<Answer>((resolve, reject) => {
      this.#waiting = { resolve, reject }
      this.#child.send({ method, args })
    })
    if (method.endsWith('Init')) this.#held = args
    copyBack(args, answer.args)
    copyBack(this.#held, answer.held)
    if (answer.problem !== undefined) throw new RawError(answer.problem.message, answer.problem.code)
    return revive(answer.result) as T
  }

  /** The code that a call is answered with, 0 for success. */
  async code(method: string, ...args: unknown[]): Promise<number> {
    try {
      await this.call(method, ...args)
      return 0
    } catch (error) {
      if (error instanceof RawError) return error.code
      throw error
    }
  }

  /** Opens a session on the token with this label, logged in as its user. */
  async login(label: string, pin: string): Promise<Buffer> {
    await this.call('C_Initialize', { flags: 2 })
    for (const slot of await this.call<Buffer[]>('C_GetSlotList', true)) {
      const info = await this.call<{ label: string }>('C_GetTokenInfo', slot)
      if (info.label.trim() !== label) continue
      const session = await this.call<Buffer>('C_OpenSession', slot, 6)
      await this.call('C_Login', session, 1, pin)
      return session
    }
    throw new Error(`the module shows no token "${label}"`)
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const gone = new Promise((resolve) => this.#child.once('close', resolve))
    this.#child.kill('SIGKILL')
    await gone
  }
}

/** Structured clones turn a Buffer into a plain Uint8Array. */
function revive(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  if (Array.isArray(value)) return value.map(revive)
  return value
}

function copyBack(into: unknown, from: unknown): void {
  if (into instanceof Uint8Array && from instanceof Uint8Array) into.set(from)
  else if (typeof into === 'object' && into !== null && typeof from === 'object' && from !== null) {
    for (const [key, value] of Object.entries(into)) copyBack(value, (from as Record<string, unknown>)[key])
  }
}
