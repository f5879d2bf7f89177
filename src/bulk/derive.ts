/** From data keys to the keys of messages (the specification's framework/algorithm-suites.md, client-apis/encrypt.md), and the header's tag. */

import { createCipheriv, createHmac, timingSafeEqual } from 'node:crypto'
import { encodePairs, ivBytes, MessageError, type EncryptionContext, type WrittenHeader } from './message.ts'
import type { Suite } from './suites.ts'

export interface MessageKeys {
  /** Seals header and frames; the caller wipes it. */
  readonly key: Buffer
  readonly commitment: Buffer | undefined
}

const deriveKey = Buffer.from('DERIVEKEY')
const commitKey = Buffer.from('COMMITKEY')
const one = Buffer.of(1)

/** HKDF (RFC 5869) of one block: no key here is longer than its hash. */
export function deriveKeys(suite: Suite, dataKey: Buffer, messageId: Buffer): MessageKeys {
  if (dataKey.length !== suite.keyBytes)
    throw new RangeError(`the data key has ${dataKey.length} bytes; ${suite.name} takes ${suite.keyBytes}`)
  const { derivation, keyBytes, commits } = suite
  if (!derivation) return { key: Buffer.from(dataKey), commitment: undefined }
  const id = Buffer.of(suite.id >> 8, suite.id & 0xff)
  const extracted = createHmac(derivation, commits ? messageId : Buffer.alloc(0))
    .update(dataKey)
    .digest()
  const expand = (...info: Buffer[]): Buffer => {
    const hmac = createHmac(derivation, extracted)
    for (const part of info) hmac.update(part)
    const block = hmac.update(one).digest()
    const key = Buffer.allocUnsafeSlow(keyBytes)
    block.copy(key)
    block.fill(0)
    return key
  }
  const keys = commits
    ? { key: expand(id, deriveKey), commitment: expand(commitKey) }
    : { key: expand(id, messageId), commitment: undefined }
  extracted.fill(0)
  return keys
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

/** The one IV of a version 2 header. */
export const zeroIv = Buffer.alloc(ivBytes)
