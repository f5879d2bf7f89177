/**
 * The beginning of a message: made when there is a data key, and believed when one was found. The same for messages that pass as streams and for those
 * that are there.
 */

import { checkCommitment, checkHeaderTag, deriveKeys, headerTag, newMessageId, zeroIv, type MessageKeys } from './derive.ts'
import type { Keyring } from './keyring.ts'
import {
  encodeHeaderBody,
  MessageError,
  publicKeyName,
  type EncryptionContext,
  type HeaderLimits,
  type MessageHeader,
  type WrittenHeader,
} from './message.ts'
import type { Suite } from './suites.ts'

export type CommitmentPolicy = 'REQUIRE_ENCRYPT_REQUIRE_DECRYPT' | 'REQUIRE_ENCRYPT_ALLOW_DECRYPT' | 'FORBID_ENCRYPT_ALLOW_DECRYPT'

export interface ReadLimits extends HeaderLimits {
  /** What is held in memory until its tag is verified: the longest frame, or body without frames. 64 MiB unless given. */
  readonly maxFrameLength: number
}

interface Begun {
  readonly header: MessageHeader
  /** The header and its tag, as they are written. */
  readonly head: Buffer
  /** Of the message; the caller wipes it. */
  readonly key: Buffer
}

/** What a header is made for. */
export interface HeaderWish {
  readonly keyring: Keyring
  readonly suite: Suite
  readonly context: EncryptionContext
  readonly keptOut: readonly string[]
  readonly frameLength: number
}

/** @throws RangeError for what no message can hold; what the keyring throws */
export async function makeHeader({ keyring, suite, context, keptOut, frameLength }: HeaderWish): Promise<Begun> {
  const { dataKey, encryptedDataKeys } = await keyring.encrypting({ suite, context })
  const messageId = newMessageId(suite.messageIdBytes)
  const { key, commitment } = deriveAndWipe(suite, dataKey, messageId)
  try {
    const [keptPairs, writtenPairs] = split(context, keptOut)
    const header: MessageHeader = { suite, messageId, context: writtenPairs, encryptedDataKeys, frameLength, commitment }
    const body = encodeHeaderBody(header)
    return { header, head: Buffer.concat([body, headerTag(suite, key, zeroIv, body, keptPairs)]), key }
  } catch (error) {
    key.fill(0)
    throw error
  }
}

/** What a header is believed by. */
export interface Believing {
  readonly keyring: Keyring
  readonly context: EncryptionContext | undefined
  readonly commitmentPolicy: CommitmentPolicy | undefined
  readonly limits: ReadLimits
}

/** The key of a message whose header is authentic; the caller wipes it. @throws MessageError, what the keyring throws */
export async function believeHeader(
  written: WrittenHeader,
  { keyring, context = {}, commitmentPolicy = 'REQUIRE_ENCRYPT_REQUIRE_DECRYPT', limits }: Believing,
): Promise<Buffer> {
  const { header } = written
  const { suite, encryptedDataKeys } = header
  checkHeader(header, commitmentPolicy, limits)
  const keptPairs = keptOutOf(header.context, context)
  const whole = keptPairs === none ? header.context : { ...header.context, ...keptPairs }
  const { dataKey } = await keyring.decrypting({ suite, context: whole, encryptedDataKeys })
  const keys = deriveAndWipe(suite, dataKey, header.messageId)
  try {
    checkCommitment(header, keys)
    checkHeaderTag(written, keys.key, keptPairs)
    return keys.key
  } catch (error) {
    keys.key.fill(0)
    throw error
  }
}

/** @throws MessageError for a suite that the policy does not let be read */
export function checkPolicy({ commits, name }: Suite, policy: CommitmentPolicy): void {
  if (!commits && policy === 'REQUIRE_ENCRYPT_REQUIRE_DECRYPT')
    throw new MessageError(
      'policy',
      `${name} does not commit to its key: it is read under the commitment policy REQUIRE_ENCRYPT_ALLOW_DECRYPT only`,
    )
}

/** What can be said of a message before any key is asked for. @throws MessageError */
function checkHeader({ suite, context, frameLength }: MessageHeader, policy: CommitmentPolicy, limits: ReadLimits): void {
  checkPolicy(suite, policy)
  if (frameLength > limits.maxFrameLength) throw tooLong(`frames of ${frameLength} bytes`, limits)
  const hasKey = publicKeyName in context
  if (hasKey && !suite.signature)
    throw new MessageError('malformed', `${suite.name} has no signature, but the encryption context has a public key for one`)
  if (!hasKey && suite.signature)
    throw new MessageError('malformed', `${suite.name} is signed, but the encryption context lacks the public key`)
}

export const tooLong = (what: string, { maxFrameLength }: ReadLimits): MessageError =>
  new MessageError('limit', `the message has ${what}, which must be held in memory; ${maxFrameLength} are allowed (maxFrameLength)`)

function deriveAndWipe(suite: Suite, dataKey: Buffer, messageId: Buffer): MessageKeys {
  try {
    return deriveKeys(suite, dataKey, messageId)
  } finally {
    dataKey.fill(0)
  }
}

/** The pairs of these names, and the others. */
function split(context: EncryptionContext, names: readonly string[]): readonly [EncryptionContext, EncryptionContext] {
  if (names.length === 0) return [none, context]
  const pairs = Object.entries(context)
  return [
    Object.fromEntries(pairs.filter(([name]) => names.includes(name))),
    Object.fromEntries(pairs.filter(([name]) => !names.includes(name))),
  ]
}

const none: EncryptionContext = {}

/** Of what the caller names, the pairs that the message does not carry. @throws MessageError when it carries another value */
export function keptOutOf(written: EncryptionContext, named: EncryptionContext): EncryptionContext {
  const other = Object.keys(named).find((name) => name in written && written[name] !== named[name])
  if (other !== undefined)
    throw new MessageError('context', `the message was encrypted with another value of "${other}" in its encryption context`)
  const kept = Object.entries(named).filter(([name]) => !(name in written))
  return kept.length === 0 ? none : Object.fromEntries(kept)
}
