/**
 * A thread of the agent process: one session on the token, one socket that its requests come from, and the pipe that all threads answer by.
 *
 * It reads requests from its socket with blocking reads, does them one after another with synchronous calls, and writes
 * the answers: no event loop, no hop through another thread. It ends when its socket does.
 *
 * All recovery that needs no new process happens here: a new session, a look for a handle that moved, a new login (made
 * by the main thread, which alone reads the PIN). What cannot be healed is answered with the mark that the agent must
 * be replaced. Only what is harmless to repeat is repeated, and at most once for each class of trouble.
 */
import { readSync, writeSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { PKCS11 } from 'pkcs11js'
import { findSignature } from './algorithms.ts'
import { canaryId, findCanary, useCanary } from './canary.ts'
import { CKO, nameOf } from './constants.ts'
import { encodeEcdsaSignature } from './der.ts'
import { classify, findDeviceError, materialRefused, type ErrorClass, type ErrorDialect } from './errors.ts'
import { HandleCache } from './handles.ts'
import { importKey, type Importer, type Installed } from './import.ts'
import { keyTypeOf, makeKey, sortObjects, Unprotected } from './keys.ts'
import { schemePreference, type Proof } from './probe.ts'
import type { ProviderProfile } from './profile.ts'
import { DeviceSession, type Handle, type KeyObjects } from './session.ts'
import { template } from './template.ts'
import { adoptKey, exportKey, findTransportKey } from './transport.ts'
import {
  wrapSchemes,
  type ImportAlgorithm,
  type Imported,
  type TokenAlgorithm,
  type TokenFailure,
  type TokenKeyKind,
  type TokenObject,
  type WrapScheme,
} from './token.ts'
import { noTurns, takeTurns } from './turns.ts'
import { decryptOaep, deriveSecret, mac, publicKeyOf, sign } from './uses.ts'
import {
  encodeAnswer,
  findFrame,
  headerBytes,
  keyKindNumbers,
  machineMs,
  macNumbers,
  oaepNumbers,
  operations,
  parseRequest,
  signatureNumbers,
  signingNumbers,
  type AnswerHead,
  type Operation,
  type Request,
} from './wire.ts'
import { canUse, findScheme, findUsableScheme, Rejected, schemes, Unsupported, Untrustworthy, type WrapDevice } from './wrap.ts'

/** What the agent's main thread hands to each worker. */
export interface WorkerTask {
  readonly library: string
  readonly slot: Uint8Array
  readonly index: number
  /** Descriptors: requests come from one, answers go to the other, which all workers write to. */
  readonly socket: number
  readonly answers: number
  /** 1 while one of them does. */
  readonly writing: SharedArrayBuffer
  readonly journal: SharedArrayBuffer
  /** Undefined where no session has to wait for another. */
  readonly turns: SharedArrayBuffer | undefined
  readonly profile: ProviderProfile
  readonly proof: Proof
}

/** What a worker tells the main thread. */
export type FromWorker =
  | { readonly type: 'open' }
  /** The token has no session left for this worker. */
  | { readonly type: 'no-session'; readonly code: string }
  | { readonly type: 'login-lost'; readonly epoch: number }
  /** The device did what it must not. */
  | { readonly type: 'broken-promise'; readonly operation: string; readonly message: string }
  | { readonly type: 'bug'; readonly operation: string; readonly error: string }
  | { readonly type: 'trouble'; readonly operation: string; readonly class: string; readonly code: string; readonly outcome: string }

/** How long the main thread may take to log in again. */
const loginTimeoutMs = 20_000

/** Answers wait for each other at most this long before they are written. */
const flushAfterMs = 0.5

/** Random ids of so many bytes never meet. */
const uniqueIdBytes = 16

/** The token, healthy and logged in or not, showed no object. */
class Missing extends Error {}

/** Something that no mistake of the device explains: refused before it was asked. */
class BadRequest extends Error {}

/** Random bytes for IVs, nonces and inner keys, fetched in batches: each byte is given out once and wiped here. */
class RandomPool {
  readonly #bytes: Buffer
  #used: number
  constructor(size: number) {
    this.#bytes = Buffer.allocUnsafeSlow(size)
    this.#used = size
  }
  take(count: number, refill: (target: Buffer) => void): Buffer {
    if (this.#used + count > this.#bytes.length) {
      this.#used = this.#bytes.length
      refill(this.#bytes)
      this.#used = 0
    }
    const taken = Buffer.allocUnsafe(count)
    this.#bytes.copy(taken, 0, this.#used, this.#used + count)
    this.#bytes.fill(0, this.#used, this.#used + count)
    this.#used += count
    return taken
  }
}

interface Answer {
  readonly number: number
  readonly data: Buffer
}

const empty = Buffer.alloc(0)

/** Operations whose input may be what the device objects to. */
const checksInput: ReadonlySet<Operation> = new Set<Operation>(['unwrap', 'decryptOaep', 'importKey', 'adoptKey'])

/** Of these, those whose input becomes a key: devices have more ways to say no to it. */
const takesMaterial: ReadonlySet<Operation> = new Set<Operation>(['importKey', 'adoptKey'])

interface ImportParticulars {
  readonly label: string
  readonly wrappingCkaId: string
  readonly algorithm: ImportAlgorithm
}

class Server {
  readonly #task: WorkerTask
  readonly #session: DeviceSession
  readonly #cache: HandleCache
  readonly #dialect: ErrorDialect
  readonly #materialDialect: ErrorDialect
  readonly #device: WrapDevice
  readonly #preference: readonly WrapScheme[]
  readonly #canaryId: string
  /** The operation under way has done something that must not be done twice. */
  #committed = false

  constructor(task: WorkerTask, library: PKCS11) {
    this.#task = task
    this.#session = DeviceSession.open(library, Buffer.from(task.slot), task.turns ? takeTurns(task.turns) : noTurns)
    this.#cache = new HandleCache(task.journal)
    this.#dialect = { authFailed: [...task.profile.errors.authFailed, ...task.proof.authFailed], gone: task.profile.errors.gone }
    this.#materialDialect = { ...this.#dialect, authFailed: [...this.#dialect.authFailed, ...materialRefused] }
    this.#preference = schemePreference(task.proof.capabilities)
    this.#canaryId = canaryId(task.profile).toString('hex')
    const pool = new RandomPool(Math.min(4096, task.profile.limits.singleOpBytes))
    const refill = (target: Buffer): void => this.#session.random(target, task.profile.limits.singleOpBytes)
    this.#device = { session: this.#session, random: (bytes) => pool.take(bytes, refill), oaepHash: task.profile.oaepHash }
  }

  close(): void {
    this.#session.close()
  }

  /** Never throws for anything the device does. */
  serve(
    request: Request & { readonly aad: Buffer; readonly data: Buffer },
  ): Answer & { failure: TokenFailure | undefined; fatal: boolean } {
    let tried: Set<ErrorClass | 'missing'> | undefined
    for (;;) {
      this.#cache.follow()
      this.#committed = false
      try {
        const { number, data } = this.#run(request)
        return { failure: undefined, fatal: false, number, data }
      } catch (error) {
        tried ??= new Set()
        const refusal = this.#recover(request, error, tried)
        if (refusal !== undefined) {
          const { failure, message, code, fatal = false } = refusal
          return { failure, fatal, number: 0, data: Buffer.from(JSON.stringify({ message, code })) }
        }
      }
    }
  }

  // oxlint-disable-next-line typescript/consistent-return -- the compiler knows that the switch is exhaustive
  #run({ operation, scheme, ckaId, aad, data }: Request & { readonly aad: Buffer; readonly data: Buffer }): Answer {
    switch (operation) {
      case 'wrap': {
        let keys = this.#keys(ckaId)
        let chosen = findUsableScheme(this.#preference, keys)
        if (chosen === undefined) {
          keys = this.#search(ckaId)
          chosen = findUsableScheme(this.#preference, keys)
        }
        if (chosen === undefined) throw new Untrustworthy('no wrap scheme of this token can use what is under this CKA_ID')
        return { number: wrapSchemes[chosen], data: schemes[chosen].wrap(this.#device, keys, aad, data) }
      }
      case 'unwrap': {
        const chosen = findScheme(scheme)
        if (chosen === undefined) throw new Rejected('no such scheme')
        let keys = this.#keys(ckaId)
        if (!canUse(chosen, keys)) keys = this.#search(ckaId)
        if (!canUse(chosen, keys)) throw new Rejected('the key has no objects for this scheme')
        return { number: 0, data: schemes[chosen].unwrap(this.#device, keys, aad, data) }
      }
      case 'random': {
        const bytes = Buffer.allocUnsafeSlow(data.readUInt32LE(0))
        this.#session.random(bytes, this.#task.profile.limits.singleOpBytes)
        return { number: 0, data: bytes }
      }
      case 'sign':
        return this.#sign(ckaId, data)
      case 'publicKey':
        return { number: 0, data: this.#publicKey(ckaId) }
      case 'check':
        useCanary(this.#session, this.#keys(this.#canaryId))
        return { number: 0, data: empty }
      case 'generateKey':
        return json(
          this.#generate(ckaId, named(keyKindNumbers, scheme), JSON.parse(data.toString()) as { label: string; replicable: boolean }),
        )
      case 'destroyKey':
        return json(this.#destroy(ckaId, data.toString()))
      case 'objects':
        return json(this.#found(this.#session.findById(Buffer.from(ckaId, 'hex'))).map((handle) => this.#session.describe(handle)))
      case 'allObjects':
        return json(this.#allObjects())
      case 'signMessage': {
        const [algorithm, form] = named(signingNumbers, scheme)
        this.#require(algorithm)
        return { number: 0, data: sign(this.#session, this.#key(ckaId, 'privateKey'), algorithm, form, data) }
      }
      case 'mac': {
        const algorithm = named(macNumbers, scheme)
        this.#require(algorithm)
        return { number: 0, data: mac(this.#session, this.#key(ckaId, 'mac'), algorithm, data) }
      }
      case 'decryptOaep': {
        const algorithm = named(oaepNumbers, scheme)
        const way = this.#task.proof.oaepWays[algorithm]
        if (way === undefined) throw new Unsupported(`the token does not do ${algorithm}`)
        return { number: 0, data: decryptOaep(this.#session, this.#key(ckaId, 'privateKey'), algorithm, way, data) }
      }
      case 'deriveSharedSecret':
        this.#require('ECDH')
        return { number: 0, data: deriveSecret(this.#session, this.#key(ckaId, 'privateKey'), data, this.#task.profile) }
      case 'importKey':
        return json(this.#import(ckaId, named(keyKindNumbers, scheme), JSON.parse(aad.toString()) as ImportParticulars, data))
      case 'adoptKey':
        return json(this.#adopt(ckaId, named(keyKindNumbers, scheme), JSON.parse(aad.toString()) as { label: string }, data))
      case 'exportKey':
        return { number: 0, data: exportKey(this.#session, this.#task.profile, this.#search(ckaId), data) }
      case 'transportKey':
        return { number: 0, data: findTransportKey(this.#session)?.spki ?? empty }
    }
  }

  /** The key's handles: from the cache, else by a search. */
  #keys(ckaId: string): KeyObjects {
    return this.#cache.find(ckaId) ?? this.#search(ckaId)
  }

  /** What the token shows now. A key of two objects may have been seen when it had only one. */
  #search(ckaId: string): KeyObjects {
    const objects = sortObjects(this.#session, this.#found(this.#session.findById(Buffer.from(ckaId, 'hex'))))
    this.#cache.put(ckaId, objects)
    return objects
  }

  #found(handles: Handle[]): Handle[] {
    if (handles.length === 0) throw new Missing()
    return handles
  }

  readonly #keyTypes = new WeakMap<Handle, number>()

  #sign(ckaId: string, digest: Buffer): Answer {
    const key = this.#keys(ckaId).privateKey
    if (key === undefined) throw new Missing()
    let keyType = this.#keyTypes.get(key)
    if (keyType === undefined) {
      keyType = keyTypeOf(this.#session, key)
      this.#keyTypes.set(key, keyType)
    }
    const row = findSignature(keyType)
    if (row === undefined) throw new BadRequest(`a key of type ${nameOf('CKK', keyType)} does not sign here`)
    if (digest.length !== row.digestBytes) throw new BadRequest(`a digest of ${digest.length} bytes`)
    const signature = this.#session.sign(row.mechanism, key, Buffer.concat([row.prefix, digest]))
    return { number: signatureNumbers.indexOf(row.algorithm), data: row.rawPair ? encodeEcdsaSignature(signature) : Buffer.from(signature) }
  }

  #publicKey(ckaId: string): Buffer {
    const keys = this.#keys(ckaId)
    // A key whose public half was not there yet when another thread looked.
    const encoded = publicKeyOf(this.#session, keys) ?? publicKeyOf(this.#session, this.#search(ckaId))
    if (encoded === undefined) throw new Missing()
    return encoded
  }

  /** One object of the key. */
  #key(ckaId: string, place: 'privateKey' | 'mac'): Handle {
    const key = this.#keys(ckaId)[place]
    if (key === undefined) throw new Rejected('the key has no object for this')
    return key
  }

  #require(algorithm: TokenAlgorithm): void {
    if (!this.#task.proof.capabilities.algorithms.includes(algorithm)) throw new Unsupported(`the token does not do ${algorithm}`)
  }

  /** What an import works with, and what it makes, once it is known that nothing has this CKA_ID. */
  #bringIn<T extends Installed>(ckaId: string, bring: (importer: Importer, id: Buffer) => T): T {
    const { profile, proof } = this.#task
    const id = this.#freeId(ckaId)
    const commit = (): void => {
      this.#committed = true
    }
    const brought = bring({ session: this.#session, profile, ways: proof.importWays, commit }, id)
    this.#cache.put(ckaId, sortObjects(this.#session, brought.handles))
    if (profile.settleMs > 0) sleep(profile.settleMs)
    return brought
  }

  #import(ckaId: string, kind: TokenKeyKind, { label, wrappingCkaId, algorithm }: ImportParticulars, wrapped: Buffer): Imported {
    // Searched for, not remembered: a wrapping key is used once or twice.
    const wrappingKey = sortObjects(this.#session, this.#found(this.#session.findById(Buffer.from(wrappingCkaId, 'hex')))).privateKey
    if (wrappingKey === undefined) throw new Missing()
    const { objects, fingerprint, exposed } = this.#bringIn(ckaId, (importer, id) =>
      importKey(importer, wrappingKey, this.#task.proof.rows[kind] ?? [], {
        kind,
        algorithm,
        wrapped,
        naming: { token: true, ckaId: id, label },
      }),
    )
    return { objects, fingerprint, exposed }
  }

  #adopt(ckaId: string, kind: TokenKeyKind, { label }: { label: string }, wrapped: Buffer): readonly TokenObject[] {
    return this.#bringIn(ckaId, (importer, id) =>
      adoptKey(importer, kind, this.#task.proof.rows[kind] ?? [], { token: true, ckaId: id, label }, wrapped),
    ).objects
  }

  /**
   * Tells, too, whether session and login hold, before anything is done that must not be repeated.
   *
   * Whether the CKA_ID is free is asked of the token only where chance might give the same one twice, or where it is known to be used: a search costs
   * as much as the token has objects, and with it every new key would cost more than the one before.
   */
  #freeId(ckaId: string): Buffer {
    const { keyIdBytes } = this.#task.profile
    const id = Buffer.from(ckaId, 'hex')
    if (id.length !== keyIdBytes) throw new BadRequest(`this token wants a CKA_ID of ${keyIdBytes} bytes`)
    if (!this.#session.loggedIn()) this.#loginAgain()
    const mayBeUsed = keyIdBytes < uniqueIdBytes || this.#cache.find(ckaId) !== undefined
    if (mayBeUsed && this.#session.findById(id).length > 0) throw new BadRequest(`the token already has an object with CKA_ID ${ckaId}`)
    return id
  }

  #generate(ckaId: string, kind: TokenKeyKind, { label, replicable }: { label: string; replicable: boolean }): readonly TokenObject[] {
    const { profile, proof } = this.#task
    const rows = proof.rows[kind]
    if (rows === undefined) throw new Unsupported(`the token can make no ${kind} key`)
    const id = this.#freeId(ckaId)
    this.#committed = true
    const { handles, objects } = makeKey(this.#session, rows, { token: true, ckaId: id, label, replicable }, profile)
    this.#cache.put(ckaId, sortObjects(this.#session, handles))
    if (profile.settleMs > 0) sleep(profile.settleMs)
    return objects
  }

  #destroy(ckaId: string, label: string): number {
    const handles = this.#found(this.#session.findById(Buffer.from(ckaId, 'hex'), label))
    this.#committed = true
    for (const handle of handles) this.#session.destroy(handle)
    this.#cache.forget(ckaId)
    return handles.length
  }

  #allObjects(): readonly TokenObject[] {
    return [CKO.CKO_SECRET_KEY, CKO.CKO_PRIVATE_KEY].flatMap((objectClass) =>
      this.#session.find(template({ CKA_CLASS: objectClass, CKA_TOKEN: true })).map((handle) => this.#session.describe(handle)),
    )
  }

  /** Undefined: try again. Otherwise what to answer. */
  // oxlint-disable-next-line typescript/consistent-return -- the compiler knows that the switch is exhaustive
  #recover(request: Request, error: unknown, tried: Set<ErrorClass | 'missing'>): Refusal | undefined {
    if (error instanceof Unsupported || error instanceof Rejected) {
      // A key that was tried out may have left its operation active.
      this.#renewSession()
      return { failure: error instanceof Rejected ? 'rejected' : 'unsupported', message: error.message }
    }
    if (error instanceof BadRequest) return { failure: 'rejected', message: error.message }
    if (error instanceof Untrustworthy || error instanceof Unprotected) {
      tell({ type: 'broken-promise', operation: request.operation, message: error.message })
      return { failure: 'unsupported', message: error.message }
    }

    const { operation } = request
    const device = findDeviceError(error)
    if (device === undefined && !(error instanceof Missing)) {
      // A mistake of ours. It costs this call, not the thread: an input that provokes it must not stop the others.
      tell({ type: 'bug', operation, error: error instanceof Error ? (error.stack ?? error.message) : 'unknown' })
      this.#renewSession()
      return { failure: 'unavailable', message: 'the agent failed inside' }
    }
    const code = device?.codeName
    const unwraps = checksInput.has(operation)
    const dialect = takesMaterial.has(operation) ? this.#materialDialect : this.#dialect
    const verdict = device === undefined ? { class: 'missing' as const, confirm: true } : classify(device.code, unwraps, dialect)
    const first = !tried.has(verdict.class) && !this.#committed
    tried.add(verdict.class)
    const message = device?.message ?? `the token shows no object with CKA_ID ${request.ckaId}`

    const told = (outcome: string): void => {
      tell({ type: 'trouble', operation, class: verdict.class, code: code ?? 'no object', outcome })
    }
    const giveUp = (): Refusal => {
      told('the agent must be replaced')
      return { failure: 'unavailable', message, code, fatal: true }
    }
    const again = (): Refusal | undefined => {
      told(first ? 'repeated' : 'given up')
      return first ? undefined : { failure: 'unavailable', message, code }
    }
    /** Goes on only if the token still does real crypto for this login. */
    // oxlint-disable-next-line typescript/consistent-return -- the compiler knows that the switch is exhaustive
    const confirmed = (then: () => Refusal | undefined): Refusal | undefined => {
      switch (this.#confirm()) {
        case 'fine':
          return then()
        case 'renewed':
          return again()
        case 'busy':
          return { failure: 'busy', message: 'the device has no session left', code }
        case 'gone':
          return giveUp()
      }
    }

    if (this.#session.doubtful && verdict.class !== 'caller' && verdict.class !== 'stale') tried.add('session')
    switch (verdict.class) {
      case 'missing':
        // The login may have been lost when it was looked for, and have been made again by now for another thread: only a search
        // after the confirmation says anything.
        return confirmed(() => (first ? undefined : { failure: 'missing', message }))
      case 'caller': {
        // "Your ciphertext is bad" is for ever: it is said only of what was refused twice. Not logged, since anyone can cause it.
        if (first && unwraps) return undefined
        // Nothing else has an input that could be at fault.
        if (first) return confirmed(again)
        const refusal: Refusal = { failure: 'rejected', message, code }
        // Anyone can send a bad ciphertext, so the confirmation must be cheap: a search comes only after it failed.
        return !verdict.confirm || this.#canaryWorks() ? refusal : confirmed(() => refusal)
      }
      case 'stale': {
        const stale = this.#cache.find(request.ckaId)
        this.#cache.forget(request.ckaId)
        if (operation === 'check' || stale === undefined) return confirmed(again)
        return first ? again() : confirmed(again)
      }
      case 'session':
        try {
          this.#session.reopen()
        } catch (failure) {
          return this.#classOf(failure) === 'busy' ? { failure: 'busy', message: 'the device has no session left', code } : giveUp()
        }
        return again()
      case 'login':
        if (!this.#loginAgain()) return giveUp()
        // The operation that the device broke off may still be active.
        this.#renewSession()
        return again()
      case 'pin':
        return giveUp()
      case 'busy':
        return { failure: 'busy', message, code }
      case 'unsupported': {
        this.#renewSession()
        // It did work when it was proved: what is the device's answer the second time?
        if (first) return unwraps ? undefined : again()
        // A scheme or an algorithm that is known to work here refuses this body, not the mechanism.
        const scheme = operation === 'unwrap' ? findScheme(request.scheme) : undefined
        const works = operation === 'decryptOaep' || (scheme !== undefined && this.#task.proof.capabilities.wrapSchemes.includes(scheme))
        return { failure: works ? 'rejected' : 'unsupported', message, code }
      }
      case 'gone':
        return confirmed(again)
    }
  }

  #classOf(error: unknown): ErrorClass | undefined {
    const device = findDeviceError(error)
    if (device === undefined) throw error
    return classify(device.code, false, this.#dialect).class
  }

  /** After an operation that may still be active. A failure shows in the next operation. */
  #renewSession(): void {
    if (!this.#session.doubtful) return
    try {
      this.#session.reopen()
    } catch (error) {
      if (findDeviceError(error) === undefined) throw error
    }
  }

  /** One operation with the handle that is known. */
  #canaryWorks(): boolean {
    try {
      useCanary(this.#session, this.#keys(this.#canaryId))
      return true
    } catch (error) {
      if (!(error instanceof Missing) && findDeviceError(error) === undefined) throw error
      return false
    }
  }

  /** Whether the token, asked with a fresh session, still is ours and computes. */
  #confirm(): 'fine' | 'renewed' | 'busy' | 'gone' {
    try {
      this.#session.reopen()
      if (!this.#session.loggedIn()) return this.#loginAgain() ? 'renewed' : 'gone'
      const canary = findCanary(this.#session, this.#task.profile)
      if (canary === undefined) return 'gone'
      useCanary(this.#session, canary)
      this.#cache.put(this.#canaryId, canary)
      return 'fine'
    } catch (error) {
      const errorClass = this.#classOf(error)
      if (errorClass === 'login') return this.#loginAgain() ? 'renewed' : 'gone'
      return errorClass === 'busy' ? 'busy' : 'gone'
    }
  }

  /** Asks the main thread, which has the PIN, and waits. */
  #loginAgain(): boolean {
    const { epoch } = this.#cache
    tell({ type: 'login-lost', epoch })
    const renewed = this.#cache.waitForLogin(epoch, loginTimeoutMs)
    this.#cache.follow()
    return renewed
  }
}

interface Refusal {
  readonly failure: TokenFailure
  readonly message: string
  readonly code?: string | undefined
  readonly fatal?: boolean
}

function json(value: unknown): Answer {
  return { number: 0, data: Buffer.from(JSON.stringify(value)) }
}

/** What the client put into the request as a number. */
function named<T>(names: readonly T[], number: number): T {
  const name = names[number]
  if (name === undefined) throw new BadRequest(`nothing has number ${number}`)
  return name
}

function sleep(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds)
}

function tell(message: FromWorker): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, not a window
  parentPort?.postMessage(message)
}

/** Answers that wait to be written. Wiped after every write: they hold plaintext. */
class Outbox {
  #bytes = Buffer.allocUnsafeSlow(256 * 1024)
  #used = 0
  readonly #answers: number
  readonly #writing: Int32Array
  constructor({ answers, writing }: WorkerTask) {
    this.#answers = answers
    this.#writing = new Int32Array(writing)
  }
  put(head: AnswerHead, data: Buffer): void {
    const needed = headerBytes + data.length
    if (this.#used + needed > this.#bytes.length) this.flush()
    if (needed > this.#bytes.length) this.#bytes = Buffer.allocUnsafeSlow(needed)
    this.#used = encodeAnswer(head, data, this.#bytes, this.#used)
  }
  flush(): void {
    if (this.#used === 0) return
    // One after the other: what is longer than the pipe has room for would be torn.
    while (Atomics.compareExchange(this.#writing, 0, 0, 1) !== 0) Atomics.wait(this.#writing, 0, 1)
    for (let written = 0; written < this.#used;) written += writeSync(this.#answers, this.#bytes, written, this.#used - written)
    Atomics.store(this.#writing, 0, 0)
    Atomics.notify(this.#writing, 0, 1)
    this.#bytes.fill(0, 0, this.#used)
    this.#used = 0
  }
}

/** What nobody waits for any more is not begun. */
const tooLate = {
  failure: 'unavailable' as const,
  fatal: false,
  number: 0,
  data: Buffer.from(JSON.stringify({ message: 'the token had no time for the call before its deadline' })),
}

/** Reads, serves and answers until the service ends the socket. */
function run(server: Server, task: WorkerTask): void {
  const { socket, index } = task
  const outbox = new Outbox(task)
  // Room for many requests; the service makes none that does not fit (see the limits in wrap.ts).
  const bytes = Buffer.allocUnsafeSlow(256 * 1024)
  let used = 0
  // What calls of each operation and algorithm took when they were last made.
  const tookMs = new Float64Array((Object.keys(operations).length + 1) << 8).fill(Infinity)
  for (;;) {
    if (used === bytes.length) throw new RangeError('a request that is longer than any can be')
    const read = readSync(socket, bytes, used, bytes.length - used, null)
    if (read === 0) return
    used += read
    let at = 0
    let flushed = performance.now()
    for (;;) {
      const length = findFrame(bytes, at, used)
      if (length === undefined) break
      const request = parseRequest(bytes, at, length)
      // Nobody should wait for a slow neighbour's answer.
      const place = (operations[request.operation] << 8) | request.scheme
      if ((tookMs[place] ?? 0) > flushAfterMs) outbox.flush()
      const begun = performance.now()
      const { failure, fatal, number, data } = machineMs(begun) > request.dueMs ? tooLate : server.serve(request)
      const now = performance.now()
      tookMs[place] = now - begun
      outbox.put({ id: request.id, worker: index, failure, number, fatal, microseconds: Math.round((now - begun) * 1000) }, data)
      if (failure === undefined && request.operation !== 'wrap') data.fill(0)
      if (now - flushed > flushAfterMs) {
        outbox.flush()
        flushed = now
      }
      at += length
    }
    outbox.flush()
    bytes.copy(bytes, 0, at, used)
    bytes.fill(0, used - at, used)
    used -= at
  }
}

const task = workerData as WorkerTask
const library = new PKCS11()
library.load(task.library)
let server: Server | undefined
try {
  server = new Server(task, library)
} catch (error) {
  const device = findDeviceError(error)
  if (device === undefined) throw error
  tell({ type: 'no-session', code: device.codeName })
}
if (server !== undefined) {
  tell({ type: 'open' })
  run(server, task)
  server.close()
}
