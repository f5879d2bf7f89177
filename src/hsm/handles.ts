/**
 * Object handles by CKA_ID, shared by the threads of one agent process.
 *
 * A search costs milliseconds that grow with the number of objects; a handle, once known, costs nothing. The agent
 * fills a journal in shared memory by one pass at login; every worker keeps its own map of it and reads on in the
 * journal when it misses a key, so that what one thread generated or found all others have without a search.
 *
 * Handles die with the login they were found under. So the journal belongs to an epoch, which grows with every login,
 * and a map of another epoch is thrown away. An entry may be stale at any time (another process destroyed the object):
 * the device says so, and the entry is replaced.
 */
import { noObjects, type Handle, type KeyObjects } from './session.ts'

const headerInts = 4
const LOCK = 0
const EPOCH = 1
const TAIL = 2

const maxIdBytes = 32
const handleBytes = 8
const entryBytes = 8 + maxIdBytes + 4 * handleBytes
const places = ['aes', 'mac', 'privateKey', 'publicKey'] as const satisfies readonly (keyof KeyObjects)[]

/** Memory for what is there now and as much again in new and replaced entries; beyond that, workers search for themselves. */
export function openJournal(keys: number): SharedArrayBuffer {
  return new SharedArrayBuffer(headerInts * 4 + (2 * keys + 16_384) * entryBytes)
}

export class HandleCache {
  readonly #header: Int32Array
  readonly #entries: Buffer
  readonly #map = new Map<string, KeyObjects>()
  #epoch: number
  #read = 0

  constructor(journal: SharedArrayBuffer) {
    this.#header = new Int32Array(journal, 0, headerInts)
    this.#entries = Buffer.from(journal, headerInts * 4)
    this.#epoch = Atomics.load(this.#header, EPOCH)
  }

  /** The login generation that `find` answers for now. */
  get epoch(): number {
    return this.#epoch
  }

  /** Takes note of a new login; call before using any handle. */
  follow(): void {
    const epoch = Atomics.load(this.#header, EPOCH)
    if (epoch === this.#epoch) return
    this.#epoch = epoch
    this.#map.clear()
    this.#read = 0
  }

  /** The key's objects as last heard of; undefined when this process has not seen the key. */
  find(ckaId: string): KeyObjects | undefined {
    const known = this.#map.get(ckaId)
    if (known !== undefined) return known
    this.#readOn()
    return this.#map.get(ckaId)
  }

  /** Makes the objects known to all threads. */
  put(ckaId: string, objects: KeyObjects): void {
    const id = Buffer.from(ckaId, 'hex')
    if (id.length > maxIdBytes) return
    this.#map.set(ckaId, objects)
    this.#locked(() => {
      // What was found under a former login must not enter the journal of this one.
      if (Atomics.load(this.#header, EPOCH) !== this.#epoch) return
      this.#append(id, objects)
    })
  }

  /** Drops a key here; other threads find out by the device's answer. */
  forget(ckaId: string): void {
    this.#readOn()
    this.#map.delete(ckaId)
  }

  /** A new login: replaces everything by `keys` and wakes who waits for the new epoch. For the agent only. */
  renew(keys: ReadonlyMap<string, KeyObjects>): void {
    this.#locked(() => {
      Atomics.store(this.#header, TAIL, 0)
      for (const [ckaId, objects] of keys) this.#append(Buffer.from(ckaId, 'hex'), objects)
      Atomics.add(this.#header, EPOCH, 1)
    })
    Atomics.notify(this.#header, EPOCH)
  }

  /** Blocks this thread until the epoch is no longer `epoch`; false when it takes too long. */
  waitForLogin(epoch: number, timeoutMs: number): boolean {
    return Atomics.wait(this.#header, EPOCH, epoch, timeoutMs) !== 'timed-out'
  }

  #append(id: Buffer, objects: KeyObjects): void {
    const tail = Atomics.load(this.#header, TAIL)
    const at = tail * entryBytes
    if (id.length > maxIdBytes || at + entryBytes > this.#entries.length) return
    this.#entries.fill(0, at, at + entryBytes)
    this.#entries[at] = id.length
    id.copy(this.#entries, at + 8)
    for (const [index, place] of places.entries()) {
      const handle = objects[place]
      if (handle === undefined) continue
      this.#entries[at + 1 + index] = handle.length
      handle.copy(this.#entries, at + 8 + maxIdBytes + index * handleBytes)
    }
    Atomics.store(this.#header, TAIL, tail + 1)
  }

  #readOn(): void {
    if (Atomics.load(this.#header, TAIL) === this.#read) return
    this.#locked(() => {
      if (Atomics.load(this.#header, EPOCH) !== this.#epoch) return
      const tail = Atomics.load(this.#header, TAIL)
      for (; this.#read < tail; this.#read += 1) {
        const at = this.#read * entryBytes
        const id = this.#entries.toString('hex', at + 8, at + 8 + (this.#entries[at] ?? 0))
        const objects: { -readonly [K in keyof KeyObjects]: Handle | undefined } = { ...noObjects }
        for (const [index, place] of places.entries()) {
          const length = this.#entries[at + 1 + index] ?? 0
          const start = at + 8 + maxIdBytes + index * handleBytes
          // Copied out of shared memory: the binding must not be handed memory that another thread may write.
          if (length > 0) objects[place] = Buffer.from(this.#entries.subarray(start, start + length))
        }
        this.#map.set(id, objects)
      }
    })
  }

  /** Held for microseconds and rarely: a spin is enough. */
  #locked(action: () => void): void {
    while (Atomics.compareExchange(this.#header, LOCK, 0, 1) !== 0) Atomics.wait(this.#header, LOCK, 1, 1)
    try {
      action()
    } finally {
      Atomics.store(this.#header, LOCK, 0)
      Atomics.notify(this.#header, LOCK, 1)
    }
  }
}
