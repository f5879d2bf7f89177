/**
 * Runs of frames, sealed and opened in place: plaintext in, frames out, in the same memory, and the other way round. Synchronous; what the threads of
 * the pool do, and the event loop for messages of a few KiB.
 *
 * OpenSSL, as Node has it, writes its output into memory of its own. It is asked for 64 KiB at a time, which are copied back here while the processor
 * has them at hand, and freed.
 */

import { createCipheriv, createDecipheriv, type CipherGCM, type DecipherGCM } from 'node:crypto'
import { discardAll } from '../base/discard.ts'
import { Cursor, type RunPart } from './chunks.ts'
import {
  bodyAad,
  fillBodyAad,
  frameOverhead,
  ivBytes,
  lastFrameMark,
  lastFrameOverhead,
  MessageError,
  singleHeadBytes,
  tagBytes,
} from './message.ts'
import type { Suite } from './suites.ts'

export interface RunKeys {
  readonly cipher: Suite['cipher']
  readonly key: Uint8Array
  readonly messageId: Uint8Array
}

export interface SealRun {
  /** What the plaintext is put together from, unless all of it is in the run's memory. */
  readonly parts?: readonly RunPart[]
  /** Where plaintext in the run's memory begins: behind room for what sealing adds, `sealRoom` bytes, so that a frame is never written over plaintext that is still to be read. */
  readonly at: number
  readonly plaintextBytes: number
  readonly frameLength: number
  readonly firstSequence: number
  /** The message ends with it: its last frame is of 0 to `frameLength` bytes. Otherwise all are whole. */
  readonly last: boolean
}

/** Whole frames, and what ends the message. */
export interface OpenRun {
  /** What they are put together from, unless all is in the run's memory, from its beginning on. */
  readonly parts?: readonly RunPart[]
  readonly wholeFrames: number
  readonly frameLength: number
  readonly firstSequence: number
  /** What follows the whole frames: nothing, the message's last frame, or (there are none) a body without frames. */
  readonly end: 'none' | 'last' | 'single'
  /** Of plaintext in that. */
  readonly endBytes: number
}

/** A few µs of work are done where they are: handing them over would cost more. */
export const isFewUs = (bytes: number, frames: number): boolean => bytes <= 16_384 && frames <= 8

/** What sealing a run of so many frames adds. */
export const sealRoom = (frames: number): number => frames * frameOverhead + (lastFrameOverhead - frameOverhead)

const pieceBytes = 65_536

/** The message's next bytes, from the memory's beginning on: so many. @throws SourceFailure */
export function sealRun(keys: RunKeys, memory: Buffer, run: SealRun): number {
  const plaintext = new Cursor(memory, run.at, run.parts ?? [run.plaintextBytes], run.frameLength)
  try {
    return sealFrames(keys, plaintext, memory, run)
  } finally {
    plaintext.wipe()
    freeHeld()
  }
}

function sealFrames(
  keys: RunKeys,
  plaintext: Cursor,
  memory: Buffer,
  { plaintextBytes, frameLength, firstSequence, last }: SealRun,
): number {
  const whole = last ? Math.max(0, Math.ceil(plaintextBytes / frameLength) - 1) : plaintextBytes / frameLength
  const iv = Buffer.alloc(ivBytes)
  let written = 0
  if (whole > 0) {
    const aad = bodyAad(keys.messageId, 'frame')
    for (let n = 0; n < whole; n++) {
      const sequence = firstSequence + n
      memory.writeUInt32BE(sequence, written)
      written = sealFrame(keys, plaintext, memory, { written: written + 4, bytes: frameLength, sequence, iv, aad, lengthBytes: 0 })
    }
  }
  if (last) {
    const bytes = plaintextBytes - whole * frameLength
    const sequence = firstSequence + whole
    const aad = bodyAad(keys.messageId, 'last')
    written = memory.writeUInt32BE(sequence, memory.writeUInt32BE(lastFrameMark, written))
    written = sealFrame(keys, plaintext, memory, { written, bytes, sequence, iv, aad, lengthBytes: 4 })
  }
  return written
}

interface Sealing {
  /** Behind the sequence number. */
  readonly written: number
  readonly bytes: number
  readonly sequence: number
  readonly iv: Buffer
  readonly aad: Buffer
  /** Of the length that follows the IV. */
  readonly lengthBytes: 0 | 4
}

/** Where the next frame is written. */
function sealFrame(
  { cipher, key }: RunKeys,
  plaintext: Cursor,
  memory: Buffer,
  { written, bytes, sequence, iv, aad, lengthBytes }: Sealing,
): number {
  iv.writeUInt32BE(sequence, ivBytes - 4)
  const lengthAt = written + ivBytes
  const begin = lengthAt + lengthBytes
  // The head, before the plaintext that may lie right behind it is read.
  copyInto(memory, written, iv)
  if (lengthBytes > 0) memory.writeUInt32BE(bytes, lengthAt)
  const gcm = createCipheriv(cipher, key, iv)
  gcm.setAAD(fillBodyAad(aad, sequence, bytes))
  transform(gcm, plaintext, memory, begin, bytes, 'frames')
  gcm.final()
  copyInto(memory, begin + bytes, gcm.getAuthTag())
  return begin + bytes + tagBytes
}

/** The plaintext, from the memory's beginning on: so many bytes. @throws MessageError and then nothing of it may be used; SourceFailure */
export function openRun(keys: RunKeys, memory: Buffer, run: OpenRun): number {
  const stride = run.frameLength + frameOverhead
  const frames = new Cursor(memory, 0, run.parts ?? [memory.length], stride)
  try {
    return openFrames(keys, frames, memory, run)
  } finally {
    frames.wipe()
    freeHeld()
  }
}

function openFrames(
  keys: RunKeys,
  frames: Cursor,
  memory: Buffer,
  { wholeFrames, frameLength, firstSequence, end, endBytes }: OpenRun,
): number {
  if (end === 'single') {
    const iv = Buffer.from(frames.take(ivBytes))
    frames.take(singleHeadBytes - ivBytes)
    const aad = fillBodyAad(bodyAad(keys.messageId, 'single'), 1, endBytes)
    openPiece(keys, frames, memory, { iv, written: 0, bytes: endBytes, aad }, 0)
    return endBytes
  }
  if (wholeFrames > 0) {
    const aad = bodyAad(keys.messageId, 'frame')
    for (let n = 0; n < wholeFrames; n++) {
      const sequence = firstSequence + n
      const found = frames.uint32()
      if (found === lastFrameMark) throw new MessageError('trailing', `bytes follow frame ${sequence}, which says that it is the last`)
      expectSequence(found, sequence)
      const iv = frames.take(ivBytes)
      const opening = { iv, written: n * frameLength, bytes: frameLength, aad: fillBodyAad(aad, sequence, frameLength) }
      openPiece(keys, frames, memory, opening, sequence)
    }
  }
  const written = wholeFrames * frameLength
  if (end === 'none') return written
  const sequence = firstSequence + wholeFrames
  if (frames.uint32() !== lastFrameMark) throw truncated(`in frame ${sequence}`)
  expectSequence(frames.uint32(), sequence)
  const iv = Buffer.from(frames.take(ivBytes))
  const bytes = frames.uint32()
  if (bytes > frameLength) throw tooLongALast(bytes, frameLength)
  if (bytes > endBytes) throw truncated(`in frame ${sequence}`)
  if (bytes < endBytes) throw new MessageError('trailing', 'bytes follow the message')
  const aad = fillBodyAad(bodyAad(keys.messageId, 'last'), sequence, endBytes)
  openPiece(keys, frames, memory, { iv, written, bytes: endBytes, aad }, sequence)
  return written + endBytes
}

export const truncated = (where: string): MessageError => new MessageError('truncated', `the message ends too soon, ${where}`)

export const tooLongALast = (bytes: number, frameLength: number): MessageError =>
  new MessageError('malformed', `the last frame claims ${bytes} bytes; frames have ${frameLength} at the most`)

interface Opening {
  readonly iv: Buffer
  /** Where the plaintext is to be. */
  readonly written: number
  readonly bytes: number
  readonly aad: Buffer
}

function openPiece({ cipher, key }: RunKeys, frames: Cursor, memory: Buffer, { iv, written, bytes, aad }: Opening, sequence: number): void {
  const gcm = createDecipheriv(cipher, key, iv)
  gcm.setAAD(aad)
  transform(gcm, frames, memory, written, bytes, 'plaintext')
  gcm.setAuthTag(frames.take(tagBytes))
  try {
    gcm.final()
  } catch (error) {
    const what = sequence === 0 ? 'the body' : `frame ${sequence}`
    throw new MessageError('unauthentic', `${what} is not authentic: it was changed, or belongs to another message`, { cause: error })
  }
}

function expectSequence(found: number, sequence: number): void {
  if (found !== sequence) throw new MessageError('malformed', `frame ${sequence} is missing: the message goes on with frame ${found}`)
}

/**
 * Copies. `set` copies shared memory byte by byte, at 2 GB/s, unless both sides happen to be aligned; filling with exactly as many bytes as there is
 * room for is memcpy, at 20 to 40.
 */
export function copyInto(target: Buffer, at: number, bytes: Uint8Array): void {
  if (bytes.length > tagBytes) target.fill(bytes, at, at + bytes.length)
  else for (let n = 0; n < bytes.length; n++) target[at + n] = bytes[n] ?? 0
}

const zeroes = Buffer.alloc(2 ** 16)

/** Wipes memory from its beginning on. Shared memory is filled with a byte word by word, and with bytes several times as fast. */
export function zero(memory: Buffer, bytes: number): void {
  if (bytes > 0) memory.fill(zeroes, 0, bytes)
}

/** In place, in any overlap that reads ahead of where it writes. */
function transform(
  gcm: CipherGCM | DecipherGCM,
  from: Cursor,
  memory: Buffer,
  to: number,
  bytes: number,
  makes: 'plaintext' | 'frames',
): void {
  for (let done = 0; done < bytes;) {
    const piece = gcm.update(from.some(Math.min(bytes - done, pieceBytes)))
    copyInto(memory, to + done, piece)
    done += piece.length
    if (makes === 'plaintext') piece.fill(0)
    free(piece)
  }
}

/** A smaller block costs less to leave to the collector. */
const freedBytes = 1024
let freesAtOnce = false
/** Blocks to be freed together, 256 KiB of them: they are still in the processor's cache, and one message costs as much as several blocks. */
const heldAtMost = 2 ** 18
let held: ArrayBuffer[] = []
let heldBytes = 0

/**
 * In this thread, from now on, the cipher's output is freed as soon as it was copied. Left to the collector, 32 MiB of it pile up before they are freed
 * together: every block is then new, cold to the processor's caches and mapped in afresh, which takes as long as the cipher.
 */
export function freeAtOnce(): void {
  freesAtOnce = true
}

function free({ buffer, length }: Buffer): void {
  if (!freesAtOnce || length < freedBytes || length !== buffer.byteLength || !(buffer instanceof ArrayBuffer)) return
  held.push(buffer)
  heldBytes += length
  if (heldBytes >= heldAtMost) freeHeld()
}

/** With the end of a run. */
function freeHeld(): void {
  if (heldBytes === 0) return
  discardAll(held)
  held = []
  heldBytes = 0
}
