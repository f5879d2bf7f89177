/**
 * The open connections of a listener: how many, on which nothing is being answered, and who has to go when there are too many.
 *
 * Whoever reaches the port can open connections and leave them: a place that is kept for somebody who asks for nothing is one that a caller does not
 * get. So when nearly all are taken, the one that has been idle longest goes for each that comes; when none is idle, those whose request is still
 * arriving. Who is being answered stays. Only when nobody can go are new connections closed.
 *
 * Over TLS a connection begins with a handshake, and who never ends it has shown even less. Handshakes have half of the places at most. When places are
 * short, of what those have who do nothing a quarter is for handshakes and the rest for the idle: who has more than that goes first. So neither who
 * begins handshakes can drive out the idle, nor who stays idle the handshakes: one is lost only when as many as a quarter come while it goes on.
 */

import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

export interface ConnectionsOptions {
  /** Of this process and the others on the port together. */
  readonly max: number
  /** Whether a request is being worked on while it arrives. */
  readonly takesLong: ((socket: Socket) => boolean) | undefined
  /** How many may be open here now. */
  readonly onLimit: (limit: number) => void
}

/** Requests of one connection that are not answered yet: clients of AWS send one after the other, and doors may allow less. */
const maxPipelined = 256
/** With fewer places none are kept free. */
const fewestToMakeRoomFor = 16
/** So many idle ones go for one that found no place. */
const sentAwayForOne = 8

interface Asked {
  /** To its last request, while that is not answered. */
  answer: ServerResponse | undefined
  unanswered: number
}

export class Connections {
  readonly #options: ConnectionsOptions
  /** TLS handshakes that go on, longest first. By the peer, which is what the socket before the handshake and the one after it have in common. */
  readonly #handshakes = new Map<string, Socket>()
  /** Longest first. */
  readonly #idle = new Set<Socket>()
  // By connection, of which there are few new ones: in a set of the answers themselves each would be one, and what the set has outgrown keeps the
  // old ones, with all that they hold, until the heap is looked through as a whole.
  readonly #asked = new Map<Socket, Asked>()
  /** Those whose end is waited for: once each, however often they idle and ask. */
  readonly #known = new WeakSet<Socket>()
  readonly #onAnswered: (this: ServerResponse) => void
  #limit: number
  #open = 0
  #leaving = 0
  /** Sent away to make room, since the start. */
  sentAway = 0

  constructor(options: ConnectionsOptions) {
    this.#options = options
    this.#limit = options.max
    const answered = (answer: ServerResponse): void => this.#answered(answer)
    this.#onAnswered = function () {
      answered(this)
    }
  }

  /** So many are open in other processes. Never are all places theirs. */
  elsewhere(count: number): void {
    const limit = Math.max(1, this.#options.max - count)
    if (limit === this.#limit) return
    this.#limit = limit
    this.#options.onLimit(limit)
  }

  /** One came, and `idles` or `handshakes` next. */
  opened(socket: Socket): void {
    this.#open += 1
    socket.once('close', () => (this.#open -= 1))
    this.#makeRoom()
  }

  /** Its TLS handshake begins; with `idles` it is over. */
  handshakes(socket: Socket): void {
    const peer = peerOf(socket)
    // Gone already.
    if (peer === undefined) return
    this.#handshakes.set(peer, socket)
    socket.once('close', () => {
      if (this.#handshakes.get(peer) === socket) this.#handshakes.delete(peer)
    })
    const [longest] = this.#handshakesBeyond(Math.ceil(this.#limit / 2))
    if (longest) this.#sendAway(longest)
  }

  /** How many there are, without those that leave and those whose handshake goes on. */
  get established(): number {
    return this.#open - this.#leaving - this.#handshakes.size
  }

  /**
   * Ends every handshake that goes on, and who has said nothing since he came: none of them is owed an answer. For the end of the listener: Node takes a
   * connection without a first request for one whose request is arriving, and would wait for it.
   */
  endSilent(): void {
    for (const socket of this.#handshakes.values()) socket.destroy()
    for (const socket of this.#idle) if (socket.bytesRead === 0) socket.destroy()
  }

  /**
   * One came for which there was no place, and has been closed. When other processes have taken the places meanwhile, the limit here may be below what is
   * open: some that do nothing go for those that come next. Not when enough are leaving: many that come at once would drive out everybody.
   */
  dropped(): void {
    let left = Math.min(sentAwayForOne, this.#tooMany + 1)
    if (this.#options.max < fewestToMakeRoomFor || left <= 0) return
    for (const socket of this.#idlers()) {
      this.#sendAway(socket)
      if (--left === 0) return
    }
  }

  /** It may ask now, and has not yet, or is answered. */
  idles(socket: Socket): void {
    if (socket.destroyed) return
    this.#know(socket)
    this.#idle.add(socket)
  }

  /** It is being answered, by others than `asks` knows of. */
  works(socket: Socket): void {
    this.#idle.delete(socket)
  }

  /** A request came. False when it asks for too much at once: the connection has been ended then. */
  asks(socket: Socket, answer: ServerResponse): boolean {
    if (socket.destroyed) return false
    let asked = this.#asked.get(socket)
    if (!asked) {
      this.#know(socket)
      this.#asked.set(socket, (asked = { answer, unanswered: 0 }))
    }
    if (asked.unanswered >= maxPipelined) {
      socket.destroy()
      return false
    }
    asked.answer = answer
    asked.unanswered += 1
    this.#idle.delete(socket)
    answer.on('close', this.#onAnswered)
    return true
  }

  /** Whether it has ever asked. */
  hasAsked(socket: Socket): boolean {
    return this.#asked.has(socket)
  }

  /** Answers that are owed, of each connection the last. */
  *owed(): Iterable<ServerResponse> {
    for (const { answer } of this.#asked.values()) if (answer) yield answer
  }

  #answered(answer: ServerResponse): void {
    const { socket } = answer.req
    const asked = this.#asked.get(socket)
    if (!asked) return
    asked.unanswered -= 1
    if (asked.answer === answer) asked.answer = undefined
    if (asked.unanswered === 0 && !socket.destroyed) this.#idle.add(socket)
  }

  #know(socket: Socket): void {
    if (this.#known.has(socket)) return
    this.#known.add(socket)
    if (this.#handshakes.size > 0) this.#handshakes.delete(peerOf(socket) ?? '')
    socket.once('close', () => this.#forget(socket))
  }

  #forget(socket: Socket): void {
    this.#idle.delete(socket)
    this.#asked.delete(socket)
  }

  /** Beside the limit some places are kept free: what is sent away takes a moment to go. */
  get #reserve(): number {
    return Math.min(64, Math.floor(this.#limit / fewestToMakeRoomFor))
  }

  /** Who does nothing, in the order of going. Whoever is given out has to be sent away before the next. */
  *#idlers(): Iterable<Socket> {
    yield* this.#handshakesBeyond(this.#sparedHandshakes)
    for (const socket of this.#idle) {
      yield socket
      yield* this.#handshakesBeyond(this.#sparedHandshakes)
    }
  }

  /** One for three who are idle. The last few in any case, where nobody is: they are who room is made for. */
  get #sparedHandshakes(): number {
    return Math.max(this.#reserve, Math.floor(this.#idle.size / 3))
  }

  /** All but the `spared` that came last. What is given out is no longer kept. */
  *#handshakesBeyond(spared: number): Iterable<Socket> {
    for (const [peer, socket] of this.#handshakes) {
      if (this.#handshakes.size <= spared) return
      this.#handshakes.delete(peer)
      yield socket
    }
  }

  get #tooMany(): number {
    return this.#open - this.#leaving - (this.#limit - this.#reserve)
  }

  #makeRoom(): void {
    const reserve = this.#reserve
    let tooMany = this.#tooMany
    if (reserve === 0 || tooMany <= 0) return
    for (const socket of this.#idlers()) {
      this.#sendAway(socket)
      if (--tooMany === 0) return
    }
    // One look through all of them is for many that come.
    tooMany += reserve
    for (const [socket, { answer, unanswered }] of this.#asked) {
      if (!answer || unanswered > 1 || answer.req.complete || this.#options.takesLong?.(socket)) continue
      this.#sendAway(socket)
      if (--tooMany === 0) return
    }
  }

  #sendAway(socket: Socket): void {
    this.#idle.delete(socket)
    if (socket.destroyed) return
    this.#leaving += 1
    this.sentAway += 1
    socket.once('close', () => (this.#leaving -= 1))
    socket.destroy()
  }
}

/** Undefined when it has gone. */
function peerOf({ remoteAddress, remotePort, localAddress }: Socket): string | undefined {
  return remotePort === undefined ? undefined : `${remoteAddress} ${remotePort} ${localAddress}`
}
