/**
 * A message moved to other KMS keys: its header is made anew, its body stays as it is, byte for byte.
 *
 * The header's tag covers the encrypted data keys and is made under the data key, so that ReEncrypt alone, which never shows the data key, cannot
 * do it: the data key is unwrapped, held for the two tags, and wiped. A signature covers the header too, by a key that nobody has any more: signed
 * messages cannot be moved, only decrypted and encrypted again.
 *
 * In version 2 the IV of the header's tag is fixed, so that the old tag and the new one are two under one key and IV. From both together GCM's
 * authentication key can be computed: whoever has the old header and the new one can change the body unnoticed (`forgeableWithOld`). In version 1
 * the header carries its IV, and the new one is random.
 */

import { randomBytes } from 'node:crypto'
import { checkCommitment, checkHeaderTag, deriveKeys, headerTag } from '../bulk/derive.ts'
import type { Keyring } from '../bulk/keyring.ts'
import { encodeHeaderBody, ivBytes, MessageError, type EncryptionContext, type WrittenHeader } from '../bulk/message.ts'
import { checkPolicy, keptOutOf, type CommitmentPolicy } from '../bulk/header.ts'
import type { Suite } from '../bulk/suites.ts'
import type { KmsKeyring } from './kms-keyring.ts'

export interface RewrapOptions {
  /** Opens one of the message's data keys. */
  readonly from: Keyring
  /** Wraps it again. */
  readonly to: KmsKeyring
  /** What the message must have been encrypted with; pairs that it does not carry are taken for kept out. */
  readonly context: EncryptionContext
  readonly commitmentPolicy?: CommitmentPolicy
  /** The message stays under the keys that it is under, too. */
  readonly add?: boolean
}

/** Whether the old header, beside the new one, lets anybody change the body. */
export const forgeableWithOld = ({ version }: Suite): boolean => version === 2

/**
 * The message's new header, tag included; the body follows it unchanged.
 * @throws MessageError, DataKeyError
 */
export async function rewrapHeader(written: WrittenHeader, options: RewrapOptions): Promise<Buffer> {
  const { from, to, context, add = false, commitmentPolicy = 'REQUIRE_ENCRYPT_REQUIRE_DECRYPT' } = options
  const { header } = written
  const { suite, messageId } = header
  if (suite.signature) {
    throw new MessageError('policy', 'the message is signed, its keys with it: it cannot be moved to others, only encrypted again')
  }
  checkPolicy(suite, commitmentPolicy)
  const keptOut = keptOutOf(header.context, context)
  const whole = { ...header.context, ...keptOut }
  const { dataKey } = await from.decrypting({ suite, context: whole, encryptedDataKeys: header.encryptedDataKeys })
  try {
    const keys = deriveKeys(suite, dataKey, messageId)
    try {
      checkCommitment(header, keys)
      checkHeaderTag(written, keys.key, keptOut)
      const wrapped = await to.wrapping({ dataKey, context: whole })
      const body = encodeHeaderBody({ ...header, encryptedDataKeys: add ? [...header.encryptedDataKeys, ...wrapped] : wrapped })
      if (forgeableWithOld(suite)) return Buffer.concat([body, headerTag(suite, keys.key, written.iv, body, keptOut)])
      const iv = randomBytes(ivBytes)
      return Buffer.concat([body, iv, headerTag(suite, keys.key, iv, body, keptOut)])
    } finally {
      keys.key.fill(0)
    }
  } finally {
    dataKey.fill(0)
  }
}
