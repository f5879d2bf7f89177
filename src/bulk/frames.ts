/**
 * Runs of frames, sealed and opened in place: plaintext in, frames out, in the same memory, and the other way round. Synchronous; what the threads of
 * the pool do, and the event loop for messages of a few KiB.
 *
 * OpenSSL, as Node has it, writes its output into memory of its own, which is copied back here. It is asked for it in pieces of 64 KiB: memory
 * of this size is used again and again, larger blocks are mapped anew each time, which costs more than the cipher.
 */

import { createCipheriv, createDecipheriv, type CipherGCM, type DecipherGCM } from 'node:crypto'
import {
  bodyAad,
  fillBodyAad,
  frameHeadBytes,
  frameOverhead,
  ivBytes,
  lastFrameHeadBytes,
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
  /** Where the plaintext begins: behind room for what sealing adds, `sealRoom` bytes, so that a frame is never written over plaintext that is still to be read. */
  readonly at: number
  readonly plaintextBytes: number
  readonly frameLength: number
  readonly firstSequence: number
  /** The message ends with it: its last frame is of 0 to `frameLength` bytes. Otherwise all are whole. */
  readonly last: boolean
}

/** From the beginning of the memory: whole frames, and what ends the message. */
export interface OpenRun {
  readonly wholeFrames: number
  readonly frameLength: number
  readonly firstSequence: number
  /** What follows the whole frames: nothing, the message's last frame, or (there are none) a body without frames. */
  readonly end: 'none' | 'last' | 'single'
  /** Of plaintext in that. */
  readonly endBytes: number
}

/** What sealing a run of so many frames adds. */
export const sealRoom = (frames: number): number => frames * frameOverhead + (lastFrameOverhead - frameOverhead)

const pieceBytes = 65_536

/** The message's next bytes, from the memory's beginning on: so many. */
export function sealRun(
  { cipher, key, messageId }: RunKeys,
  memory: Buffer,
  { at, plaintextBytes, frameLength, firstSequence, last }: SealRun,
): number {
  const iv = Buffer.alloc(ivBytes)
  let read = at
  let written = 0
  let sequence = firstSequence
  const seal = (aad: Buffer, bytes: number): void => {
    iv.writeUInt32BE(sequence, ivBytes - 4)
    memory.writeUInt32BE(sequence, written)
    written += 4
    memory.set(iv, written)
    written += ivBytes
    if (aad === lastAad) written = memory.writeUInt32BE(bytes, written)
    const gcm = createCipheriv(cipher, key, iv)
    gcm.setAAD(fillBodyAad(aad, sequence, bytes))
    transform(gcm, memory, read, written, bytes)
    gcm.final()
    read += bytes
    written += bytes
    memory.set(gcm.getAuthTag(), written)
    written += tagBytes
    sequence++
  }
  const frameAad = bodyAad(messageId, 'frame')
  const lastAad = bodyAad(messageId, 'last')
  const whole = last ? Math.max(0, Math.ceil(plaintextBytes / frameLength) - 1) : plaintextBytes / frameLength
  for (let n = 0; n < whole; n++) seal(frameAad, frameLength)
  if (last) {
    written = memory.writeUInt32BE(lastFrameMark, written)
    seal(lastAad, at + plaintextBytes - read)
  }
  return written
}

/** The plaintext, from the memory's beginning on: so many bytes. @throws MessageError and then nothing of it may be used */
export function openRun(
  { cipher, key, messageId }: RunKeys,
  memory: Buffer,
  { wholeFrames, frameLength, firstSequence, end, endBytes }: OpenRun,
): number {
  let read = 0
  let written = 0
  let sequence = firstSequence
  /** A piece whose IV is at `ivAt` and whose ciphertext is at `read`. */
  const open = (what: string, ivAt: number, aad: Buffer, bytes: number): void => {
    const gcm = createDecipheriv(cipher, key, memory.subarray(ivAt, ivAt + ivBytes))
    gcm.setAAD(aad)
    gcm.setAuthTag(memory.subarray(read + bytes, read + bytes + tagBytes))
    transform(gcm, memory, read, written, bytes)
    try {
      gcm.final()
    } catch (error) {
      throw new MessageError('unauthentic', `${what} is not authentic: it was changed, or belongs elsewhere`, { cause: error })
    }
    read += bytes + tagBytes
    written += bytes
  }
  const frame = (aad: Buffer, headAt: number, headBytes: number, bytes: number): void => {
    const found = memory.readUInt32BE(headAt)
    if (found !== sequence) throw new MessageError('malformed', `frame ${sequence} is missing: the message goes on with frame ${found}`)
    read += headBytes
    open(`frame ${sequence}`, headAt + 4, fillBodyAad(aad, sequence, bytes), bytes)
    sequence++
  }
  const frameAad = bodyAad(messageId, 'frame')
  for (let n = 0; n < wholeFrames; n++) frame(frameAad, read, frameHeadBytes, frameLength)
  if (end === 'last') frame(bodyAad(messageId, 'last'), read + 4, lastFrameHeadBytes, endBytes)
  if (end === 'single') {
    read = singleHeadBytes
    open('the body', 0, fillBodyAad(bodyAad(messageId, 'single'), 1, endBytes), endBytes)
  }
  return written
}

/**
 * Copies. `set` copies shared memory byte by byte, at 2 GB/s, unless both sides happen to be aligned; filling with exactly as many bytes as there is
 * room for is memcpy, at 20 to 40.
 */
export function copyInto(target: Buffer, at: number, bytes: Uint8Array): void {
  if (bytes.length > 0) target.fill(bytes, at, at + bytes.length)
}

/** In place, in any overlap that reads ahead of where it writes. */
function transform(gcm: CipherGCM | DecipherGCM, memory: Buffer, from: number, to: number, bytes: number): void {
  for (let done = 0; done < bytes; done += pieceBytes)
    copyInto(memory, to + done, gcm.update(memory.subarray(from + done, from + Math.min(bytes, done + pieceBytes))))
}
