/** From data keys to the keys of messages (the specification's framework/algorithm-suites.md, client-apis/encrypt.md), and the header's tag. */

import { createCipheriv, createHmac, randomFillSync, timingSafeEqual } from 'node:crypto'
import { commitmentBytes, encodePairs, ivBytes, MessageError, type EncryptionContext, type WrittenHeader } from './message.ts'
import type { Suite } from './suites.ts'

export interface MessageKeys {
  /** Seals header and frames; the caller wipes it. */
  readonly key: Buffer
  readonly commitment: Buffer | undefined
}

/** What a block is made of ends with its number, and there is one. */
const commitInfo = Buffer.from('COMMITKEY\x01')

/** HKDF (RFC 5869). */
export function deriveKeys(suite: Suite, dataKey: Buffer, messageId: Buffer): MessageKeys {
  if (dataKey.length !== suite.keyBytes)
    throw new RangeError(`the data key has ${dataKey.length} bytes; ${suite.name} takes ${suite.keyBytes}`)
  const { derivation, keyBytes, commits } = suite
  if (!derivation) return { key: Buffer.from(dataKey), commitment: undefined }
  const id = String.fromCharCode(suite.id >> 8, suite.id & 0xff)
  const info = Buffer.from(`${id}${commits ? 'DERIVEKEY' : messageId.toString('latin1')}\x01`, 'latin1')
  const extracted = createHmac(derivation, commits ? messageId : noSalt)
    .update(dataKey)
    .digest()
  const key = expand(derivation, extracted, keyBytes, info)
  const commitment = commits ? expand(derivation, extracted, commitmentBytes, commitInfo) : undefined
  extracted.fill(0)
  return { key, commitment }
}

const noSalt = Buffer.alloc(0)

/** Of one block: no key here is longer than its hash. */
function expand(hash: string, extracted: Buffer, bytes: number, info: Buffer): Buffer {
  const block = createHmac(hash, extracted).update(info).digest()
  block.fill(0, bytes)
  return block.subarray(0, bytes)
}

/** A message id comes from so many random bytes that were drawn at once. It is no secret. */
const drawn = Buffer.alloc(4096)
let drawnLeft = 0
export function newMessageId(bytes: number): Buffer {
  if (drawnLeft < bytes) {
    randomFillSync(drawn)
    drawnLeft = drawn.length
  }
  drawnLeft -= bytes
  return Buffer.from(drawn.subarray(drawnLeft, drawnLeft + bytes))
}

/** @throws MessageError */
export function checkCommitment(header: WrittenHeader['header'], keys: MessageKeys): void {
  if (!keys.commitment) return
  if (!header.commitment || !timingSafeEqual(header.commitment, keys.commitment))
    throw new MessageError('unauthentic', 'the message commits to another data key than the one that was found')
}

/** `keptOut`: pairs of the context that the message does not carry. */
export function headerTag(suite: Suite, key: Buffer, iv: Buffer, body: Buffer, keptOut: EncryptionContext): Buffer {
  const cipher = createCipheriv(suite.cipher, key, iv)
  cipher.setAAD(Object.keys(keptOut).length === 0 ? body : Buffer.concat([body, encodePairs(keptOut)]))
  cipher.final()
  return cipher.getAuthTag()
}

/** @throws MessageError */
export function checkHeaderTag({ header, iv, body, tag }: WrittenHeader, key: Buffer, keptOut: EncryptionContext): void {
  if (!timingSafeEqual(tag, headerTag(header.suite, key, iv, body, keptOut)))
    throw new MessageError(
      'unauthentic',
      'the header is not authentic: it was changed, or the encryption context has other pairs than the message was made with',
    )
}

/** The IV of a version 2 header, which does not carry it. */
export const zeroIv: Buffer = Buffer.alloc(ivBytes)
