/**
 * Messages of a few KiB that are there as a whole: sealed and opened where they are called, in one step once the data key is there, by what streams are
 * made of, too. A stream's memory, queues and promises would cost as much again.
 *
 * Only what is as it should be goes this way. Of a message that is cut off, goes on, or is built in another way streams say what is wrong.
 */

import { copyInto, isFewUs, openRun, sealRoom, sealRun, type OpenRun } from './frames.ts'
import { believeHeader, makeHeader, type Believing, type HeaderWish } from './header.ts'
import {
  frameOverhead,
  lastFrameHeadBytes,
  lastFrameMark,
  lastFrameOverhead,
  parseHeader,
  tagBytes,
  type HeaderLimits,
  type MessageHeader,
  type WrittenHeader,
} from './message.ts'

/** What is no bytes streams refuse, too. */
export const isShort = (plaintext: Uint8Array, { suite, frameLength }: HeaderWish): boolean =>
  plaintext instanceof Uint8Array && !suite.signature && isFewUs(plaintext.length, Math.ceil(plaintext.length / frameLength))

/** For what `isShort`. @throws RangeError, what the keyring throws */
export async function sealShort(plaintext: Uint8Array, wish: HeaderWish): Promise<Buffer> {
  const { suite, frameLength } = wish
  const { header, head, key } = await makeHeader(wish)
  try {
    const at = sealRoom(Math.max(1, Math.ceil(plaintext.length / frameLength)))
    const message = Buffer.allocUnsafe(head.length + at + plaintext.length)
    copyInto(message, 0, head)
    const body = message.subarray(head.length)
    copyInto(body, at, plaintext)
    const keys = { cipher: suite.cipher, key, messageId: header.messageId }
    sealRun(keys, body, { at, plaintextBytes: plaintext.length, frameLength, firstSequence: 1, last: true })
    return message
  } finally {
    key.fill(0)
  }
}

interface Short {
  readonly written: WrittenHeader
  /** In memory of its own. */
  readonly body: Buffer
  readonly run: OpenRun
}

/** Undefined for what streams are for. @throws MessageError for a header that is none */
export function readShort(message: Uint8Array, limits: HeaderLimits): Short | undefined {
  if (!(message instanceof Uint8Array) || !isFewUs(message.length, 1)) return undefined
  // The header keeps this memory; plaintext will not be in it.
  const bytes = Buffer.from(message)
  const written = parseHeader(bytes, limits)
  if ('needs' in written || written.header.suite.signature || written.header.frameLength === 0) return undefined
  const body = bytes.subarray(written.byteLength)
  const run = runOf(body, written.header.frameLength)
  return run && isFewUs(body.length, run.wholeFrames + 1) ? { written, body: Buffer.from(body), run } : undefined
}

/** @throws MessageError, what the keyring throws */
export async function openShort(
  { written, body, run }: Short,
  believing: Believing,
): Promise<{ readonly plaintext: Buffer; readonly header: MessageHeader }> {
  const { header } = written
  const key = await believeHeader(written, believing)
  try {
    const plaintext = body.subarray(0, openRun({ cipher: header.suite.cipher, key, messageId: header.messageId }, body, run))
    return { plaintext, header }
  } catch (error) {
    body.fill(0)
    throw error
  } finally {
    key.fill(0)
  }
}

/** Frames that fill the body to its end, the last one marked. */
function runOf(body: Buffer, frameLength: number): OpenRun | undefined {
  const stride = frameLength + frameOverhead
  let at = 0
  while (at + lastFrameOverhead <= body.length && body.readUInt32BE(at) !== lastFrameMark) at += stride
  if (at + lastFrameOverhead > body.length) return undefined
  const endBytes = body.readUInt32BE(at + lastFrameHeadBytes - 4)
  const isWhole = endBytes <= frameLength && at + lastFrameHeadBytes + endBytes + tagBytes === body.length
  return isWhole ? { wholeFrames: at / stride, frameLength, firstSequence: 1, end: 'last', endBytes } : undefined
}
