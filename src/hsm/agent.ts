/**
 * The agent: a process of its own that loads the vendor's library, started by `client.ts`, one per token.
 *
 * The main thread selects the token, logs in on an anchor session that it keeps for nothing else, proves what the token
 * can do, and starts the worker threads that serve requests (`worker.ts`). After that it only logs in again when the
 * login was lost. It alone reads the PIN file, at the moment of the login.
 *
 * Refuses to log in when the token says that a wrong PIN would be the last try, and to read a PIN file that
 * everyone may read. A PIN that was refused is never tried again here, and the service never starts another agent then.
 *
 * Ends when the service does: by the IPC channel's end, and, should this thread hang in a vendor's call, by a thread
 * that watches a pipe and kills the process. Signals from the terminal are the service's to handle.
 */
import { readFileSync, statSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { PKCS11 } from 'pkcs11js'
import { programOf } from '../base/program.ts'
import { bundleThread } from './bundle.ts'
import { canaryId, findCanary, isCanary, makeCanary, useCanary } from './canary.ts'
import { CKF, CKR, CKU_USER, statesNoLimit } from './constants.ts'
import { classify, findDeviceError } from './errors.ts'
import { HandleCache, openJournal } from './handles.ts'
import { proveToken, type Proof } from './probe.ts'
import { matchProfile, ProfileError, readProfile, type ProviderProfile } from './profile.ts'
import { DeviceSession, noObjects, placeOf, type Handle, type KeyObjects } from './session.ts'
import { template } from './template.ts'
import { canaryLabel, type TokenInfo } from './token.ts'
import { noTurns, openTurns, takeTurns } from './turns.ts'
import type { AgentConfig, FailureCause, FromAgent, ToAgent } from './wire.ts'
import type { FromWorker, WorkerTask } from './worker.ts'

/** What keeps this agent from working. */
class StartFailure extends Error {
  readonly cause_: FailureCause
  readonly code: string | undefined
  readonly env: Record<string, string>
  constructor(cause: FailureCause, message: string, code?: string, env: Record<string, string> = {}) {
    super(message)
    this.cause_ = cause
    this.code = code
    this.env = env
  }
}

/** How long a process without its service may take to log out before it is killed. */
const farewellMs = 5000

function send(message: FromAgent, then?: () => void): void {
  if (process.connected) process.send?.(message, undefined, {}, () => then?.())
  else then?.()
}

function log(level: 'info' | 'warn' | 'error', message: string, fields: Record<string, unknown> = {}): void {
  send({ type: 'log', level, message, fields })
}

/** Kills the process when the service has been gone for a while, whatever the other threads hang in. */
function watchLifeline(descriptor: number): void {
  const source = `
    const { readSync } = require('node:fs')
    const { workerData } = require('node:worker_threads')
    try { while (readSync(workerData.descriptor, Buffer.alloc(1)) > 0); } catch {}
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, workerData.farewellMs)
    process.kill(process.pid, 'SIGKILL')`
  new Worker(source, { eval: true, workerData: { descriptor, farewellMs }, execArgv: [] }).unref()
}

const trimmed = (text: string): string => text.replaceAll('\0', ' ').trim()

interface FoundToken {
  readonly slot: Handle
  readonly info: TokenInfo
  readonly flags: number
  readonly sessionLimit: number
}

function findToken(library: PKCS11, config: AgentConfig): FoundToken {
  const seen: string[] = []
  const fitting: FoundToken[] = []
  for (const slot of library.C_GetSlotList(true)) {
    let token
    try {
      token = library.C_GetTokenInfo(slot)
    } catch (error) {
      // A slot whose token cannot be read is no reason to leave the others.
      if (findDeviceError(error) === undefined) throw error
      continue
    }
    const label = trimmed(token.label)
    const serial = trimmed(token.serialNumber)
    seen.push(`"${label}" (serial ${serial})`)
    if (label !== config.tokenLabel || (config.tokenSerial !== null && serial !== config.tokenSerial)) continue
    const manufacturer = trimmed(token.manufacturerID)
    const model = trimmed(token.model)
    const firmware = `${token.firmwareVersion.major}.${token.firmwareVersion.minor}`
    const info = { profile: '', library: config.library, label, serial, manufacturer, model, firmware }
    fitting.push({ slot, info, flags: token.flags, sessionLimit: token.maxSessionCount })
  }
  const [only, another] = fitting
  if (only === undefined) {
    const wanted = `"${config.tokenLabel}"${config.tokenSerial === null ? '' : ` with serial ${config.tokenSerial}`}`
    throw new StartFailure('device', `no token ${wanted} is present; ${seen.length === 0 ? 'no token is' : `present: ${seen.join(', ')}`}`)
  }
  if (another !== undefined) {
    throw new StartFailure('config', `several tokens are labelled "${config.tokenLabel}": set the serial number too (${seen.join(', ')})`)
  }
  return only
}

function readPin(path: string): string {
  let mode
  let pin
  try {
    ;({ mode } = statSync(path))
    pin = readFileSync(path, 'utf8')
  } catch (error) {
    throw new StartFailure('config', `the PIN file cannot be read: ${error instanceof Error ? error.message : 'unknown reason'}`)
  }
  if ((mode & 0o007) !== 0) throw new StartFailure('config', `everyone may read the PIN file ${path}: chmod 600 it`)
  // More than the line would be a wrong PIN, and tries are few.
  pin = pin.split(/\r?\n/, 1)[0] ?? ''
  if (pin === '') throw new StartFailure('config', `the PIN file ${path} is empty`)
  return pin
}

class Agent {
  readonly #config: AgentConfig
  readonly #library = new PKCS11()
  #slot: Handle | undefined
  #anchor: DeviceSession | undefined
  #profile: ProviderProfile | undefined
  #cache: HandleCache | undefined
  #journal: SharedArrayBuffer | undefined
  #turns: SharedArrayBuffer | undefined
  /** 1 while a worker writes answers. */
  readonly #writing = new SharedArrayBuffer(4)
  /** No login is tried any more. */
  #stopped = false
  #workers = 0

  constructor(config: AgentConfig) {
    this.#config = config
  }

  start(earlier: { readonly identity: string; readonly proof: Proof } | undefined): void {
    const config = this.#config
    try {
      this.#library.load(config.library)
    } catch (error) {
      throw new StartFailure(
        'config',
        `the PKCS#11 library ${config.library} cannot be loaded: ${error instanceof Error ? error.message : ''}`,
      )
    }
    this.#library.C_Initialize({ flags: CKF.CKF_OS_LOCKING_OK })
    const token = findToken(this.#library, config)
    this.#slot = token.slot

    const { manufacturer, model } = token.info
    const profile = config.profile === null ? matchProfile({ manufacturer, model, library: config.library }) : readProfile(config.profile)
    this.#profile = profile
    const lacking = Object.entries(profile.requiredEnv).filter(([name]) => !config.setEnv.includes(name))
    if (lacking.length > 0) {
      throw new StartFailure('env', 'the profile wants another environment', undefined, Object.fromEntries(lacking))
    }

    if (!profile.searchesDuringCreation) this.#turns = openTurns()
    this.#anchor = DeviceSession.open(this.#library, token.slot, this.#turns ? takeTurns(this.#turns) : noTurns)
    this.#login(token.flags)
    const keys = this.#readKeys()
    const canary = this.#requireCanary(config.provision, keys)

    const info: TokenInfo = { ...token.info, profile: profile.name }
    const identity = JSON.stringify(info)
    const proof = earlier?.identity === identity ? earlier.proof : this.#prove(canary)

    this.#journal = openJournal(keys.size)
    this.#cache = new HandleCache(this.#journal)
    this.#cache.renew(keys)
    this.#cache.follow()

    const room = statesNoLimit(token.sessionLimit) ? config.sockets : Math.max(1, token.sessionLimit - 1)
    this.#workers = Math.min(config.sessions ?? profile.limits.sessions, config.sockets, room)
    send({ type: 'ready', info, proof: { identity, proof }, workers: this.#workers })
    const program = bundleThread(programOf(new URL('worker.ts', import.meta.url)))
    for (let index = 0; index < this.#workers; index += 1) this.#startWorker(index, proof, program)
  }

  #session(): DeviceSession {
    if (this.#anchor === undefined) throw new Error('no anchor session')
    return this.#anchor
  }

  #ownProfile(): ProviderProfile {
    if (this.#profile === undefined) throw new Error('no profile')
    return this.#profile
  }

  #pin(): string {
    const { pin, pinFile } = this.#config
    if (pin !== null) return pin
    if (pinFile === null) throw new StartFailure('config', 'no PIN is given')
    return readPin(pinFile)
  }

  /** @param flags CK_TOKEN_INFO.flags, read just now */
  #login(flags: number): void {
    const anchor = this.#session()
    if (anchor.loggedIn()) return
    if ((flags & CKF.CKF_USER_PIN_LOCKED) !== 0) throw new StartFailure('pin', 'the token says that the PIN is locked', 'CKR_PIN_LOCKED')
    if ((flags & CKF.CKF_USER_PIN_FINAL_TRY) !== 0) {
      throw new StartFailure(
        'pin',
        'the token says that one more wrong PIN locks it: log in once by hand with the right PIN, then restart',
        'CKF_USER_PIN_FINAL_TRY',
      )
    }
    const pin = this.#pin()
    try {
      anchor.login(CKU_USER, pin)
    } catch (error) {
      const device = findDeviceError(error)
      if (device === undefined) throw error
      if (device.code === CKR.CKR_USER_ALREADY_LOGGED_IN) return
      if (classify(device.code, false, { authFailed: [], gone: [] }).class === 'pin') {
        this.#stopped = true
        throw new StartFailure(
          'pin',
          this.#config.pinFile === null
            ? `the token refused the PIN (${device.codeName})`
            : `the token refused the PIN in ${this.#config.pinFile} (${device.codeName}): correct it, then restart`,
          device.codeName,
        )
      }
      throw device
    }
  }

  /**
   * @param provision a token that has none gets one; else it is the wrong token, or not there
   * @param keys what the token showed just now; it gets the canary that was made
   */
  #requireCanary(provision: boolean, keys: Map<string, KeyObjects>): KeyObjects {
    const anchor = this.#session()
    const profile = this.#ownProfile()
    const id = canaryId(profile).toString('hex')
    let canary = keys.get(id)
    if (canary !== undefined && !isCanary(anchor, canary)) canary = findCanary(anchor, profile)
    if (canary === undefined && provision) {
      makeCanary(anchor, profile)
      log('info', 'made the canary key on the token', { label: canaryLabel })
      canary = findCanary(anchor, profile)
      if (canary !== undefined) keys.set(id, canary)
    }
    if (canary === undefined) {
      throw new StartFailure(
        'config',
        `the token has no key labelled ${canaryLabel}: it is another token, or it was never provisioned; to make the key, start with provisioning allowed`,
      )
    }
    useCanary(anchor, canary)
    return canary
  }

  #prove(canary: KeyObjects): Proof {
    if (this.#slot === undefined) throw new Error('no slot')
    const profile = this.#ownProfile()
    const session = DeviceSession.open(this.#library, this.#slot)
    try {
      const random = (bytes: number): Buffer => {
        const buffer = Buffer.alloc(bytes)
        this.#session().random(buffer, profile.limits.singleOpBytes)
        return buffer
      }
      // With the handle that is known, which a token that went away refuses: a search takes longer the more objects the token has.
      const alive = (): void => {
        try {
          useCanary(this.#session(), canary)
        } catch (error) {
          if (findDeviceError(error) === undefined) throw error
          throw new StartFailure(
            'device',
            `the token went away during the self-test (${error instanceof Error ? error.message : 'unknown'})`,
          )
        }
      }
      return proveToken(this.#library, this.#slot, session, profile, random, alive)
    } finally {
      session.close()
    }
  }

  /** One pass over all keys: what makes the first call with each key cheap. */
  #readKeys(): Map<string, KeyObjects> {
    const keys = new Map<string, { -readonly [K in keyof KeyObjects]: KeyObjects[K] }>()
    const anchor = this.#session()
    // One search for all classes: each costs as much as the token has objects, however few it finds.
    for (const handle of anchor.find(template({ CKA_TOKEN: true }))) {
      let kind
      try {
        kind = anchor.kind(handle)
      } catch (error) {
        // Destroyed by another process a moment ago, or of a sort that is none of ours.
        if (findDeviceError(error) === undefined) throw error
        continue
      }
      const place = placeOf(kind.objectClass, kind.keyType)
      const ckaId = kind.ckaId.toString('hex')
      if (place === undefined || ckaId === '') continue
      const objects = keys.get(ckaId) ?? { ...noObjects }
      objects[place] ??= handle
      keys.set(ckaId, objects)
    }
    return keys
  }

  #startWorker(index: number, proof: Proof, program: string): void {
    if (this.#slot === undefined || this.#journal === undefined) throw new Error('not started')
    const workerData: WorkerTask = {
      library: this.#config.library,
      slot: this.#slot,
      index,
      socket: this.#config.firstSocket + index,
      answers: this.#config.answers,
      writing: this.#writing,
      journal: this.#journal,
      turns: this.#turns,
      profile: this.#ownProfile(),
      proof,
    }
    const worker = new Worker(program, { eval: true, workerData, execArgv: [] })
    worker.on('message', (message: FromWorker) => this.#hear(index, message))
    worker.on('error', (error) => {
      // A bug of ours or of the binding: nothing in this process is trusted any more.
      fail(new StartFailure('device', `worker ${index} broke down: ${error instanceof Error ? (error.stack ?? error.message) : 'unknown'}`))
    })
    worker.on('exit', () => {
      this.#workers -= 1
      if (this.#workers === 0) this.end()
    })
  }

  #hear(index: number, message: FromWorker): void {
    switch (message.type) {
      case 'open':
        send({ type: 'worker', index })
        return
      case 'no-session':
        log('warn', 'the token gave no session to a worker; fewer will serve', { worker: index, code: message.code })
        if (index === 0) fail(new StartFailure('device', `the token gives no session (${message.code})`, message.code))
        return
      case 'login-lost':
        this.#loginAgain(message.epoch)
        return
      case 'broken-promise':
        log('error', 'the device did what it must not', { operation: message.operation, reason: message.message })
        return
      case 'bug':
        log('error', 'a worker failed inside', { operation: message.operation, error: message.error })
        return
      case 'trouble':
        log('warn', 'the device answered with an error', { ...message, type: undefined })
        return
    }
  }

  /** Several workers notice the same loss; the first one's message is acted upon. */
  #loginAgain(epoch: number): void {
    const cache = this.#cache
    if (cache === undefined || this.#stopped) return
    cache.follow()
    if (cache.epoch !== epoch) return
    try {
      const anchor = this.#session()
      try {
        anchor.loggedIn()
      } catch (error) {
        if (findDeviceError(error) === undefined) throw error
        anchor.reopen()
      }
      if (this.#slot === undefined) throw new Error('no slot')
      this.#login(this.#library.C_GetTokenInfo(this.#slot).flags)
      const keys = this.#readKeys()
      this.#requireCanary(false, keys)
      cache.renew(keys)
      log('warn', 'logged in again: the login had been lost')
    } catch (error) {
      fail(error)
    }
  }

  /** All workers have ended, because the service closed their sockets: leave the token in order. */
  end(): void {
    try {
      this.#anchor?.logout()
      this.#anchor?.close()
      this.#library.C_Finalize()
    } catch (error) {
      if (findDeviceError(error) === undefined) log('error', 'logging out failed', { error: String(error) })
    }
    process.exit(0)
  }
}

/** Tells the service why and ends. A worker may hang in the library, so the end is not left to an orderly exit. */
function fail(error: unknown): void {
  let failure: StartFailure
  if (error instanceof StartFailure) failure = error
  else if (error instanceof ProfileError) failure = new StartFailure('config', error.message)
  else {
    const device = findDeviceError(error)
    failure =
      device === undefined
        ? new StartFailure('device', error instanceof Error ? (error.stack ?? error.message) : 'unknown error')
        : new StartFailure('device', device.message, device.codeName)
  }
  const { cause_: cause, message, code, env } = failure
  send({ type: 'failed', cause, message, code, env }, () => process.kill(process.pid, 'SIGKILL'))
}

process.on('SIGINT', () => {})
process.on('SIGTERM', () => {})
process.on('SIGHUP', () => {})
process.on('uncaughtException', fail)
process.on('unhandledRejection', fail)

let agent: Agent | undefined
process.on('message', (message: ToAgent) => {
  watchLifeline(message.config.lifeline)
  agent = new Agent(message.config)
  try {
    agent.start(message.proof as { identity: string; proof: Proof } | undefined)
  } catch (error) {
    fail(error)
  }
})
process.on('disconnect', () => {
  if (agent === undefined) process.exit(0)
})
