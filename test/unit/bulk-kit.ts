/** What the tests of bulk encryption share: one wrapping key, as ours and as the AWS Encryption SDK's, and messages taken apart. */

import { createCipheriv, createHash, randomBytes } from 'node:crypto'
import {
  AlgorithmSuiteIdentifier,
  buildClient,
  CommitmentPolicy,
  RawAesKeyringNode,
  RawAesWrappingSuiteIdentifier,
} from '@aws-crypto/client-node'
import { headerTag } from '../../src/bulk/derive.ts'
import { rawAesKeyring } from '../../src/bulk/keyring.ts'
import { encodeHeaderBody, MessageError, parseHeader, type MessageHeader, type WrittenHeader } from '../../src/bulk/message.ts'
import type { Suite } from '../../src/bulk/suites.ts'

export const wrappingKey = createHash('sha256').update('the wrapping key of the tests').digest()
export const names = { namespace: 'holdfast-tests', name: 'wrapping key' }
export const keyring = rawAesKeyring({ ...names, key: wrappingKey })
export const sdkKeyring = new RawAesKeyringNode({
  keyNamespace: names.namespace,
  keyName: names.name,
  // The SDK wants memory that is the key's alone.
  unencryptedMasterKey: new Uint8Array(wrappingKey),
  wrappingSuite: RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING,
})
export const sdk = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
/** It writes the suites that do not commit to their key. */
export const olderSdk = buildClient(CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT)
export function sdkSuite(id: number): AlgorithmSuiteIdentifier {
  const suite = Object.values(AlgorithmSuiteIdentifier).find((value): value is AlgorithmSuiteIdentifier => Number(value) === id)
  if (suite === undefined) throw new Error(`the SDK has no suite ${id}`)
  return suite
}

/** Bytes that repeat nowhere near. */
export function bytes(length: number, seed = 'bytes'): Buffer {
  const block = createHash('sha512').update(seed).digest()
  const out = Buffer.alloc(length)
  for (let at = 0; at < length; at += 61) block.copy(out, at)
  for (let at = 0; at + 4 <= length; at += 4096) out.writeUInt32BE(at, at)
  return out
}

export function* inChunks(whole: Uint8Array, length: number): Generator<Uint8Array> {
  for (let at = 0; at < whole.length; at += length) yield whole.subarray(at, at + length)
}

/** What came out, copied at once, and what went wrong then. */
export async function drain(
  stream: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<{ readonly out: Buffer; readonly error: unknown }> {
  const pieces: Buffer[] = []
  try {
    for await (const piece of stream) pieces.push(Buffer.from(piece))
    return { out: Buffer.concat(pieces), error: undefined }
  } catch (error) {
    return { out: Buffer.concat(pieces), error }
  }
}

/** The fault of a MessageError, or whatever else it is. */
export const faultOf = (error: unknown): unknown => (error instanceof MessageError ? error.fault : error)

export function headerOf(message: Buffer): WrittenHeader {
  const written = parseHeader(message, { maxEncryptedDataKeys: 64 })
  if ('needs' in written) throw new Error('this is less than a header')
  return written
}

/** A message of whole frames and a last one, in its parts. */
export function takeApart(message: Buffer): { readonly head: Buffer; readonly frames: readonly Buffer[]; readonly footer: Buffer } {
  const { header, byteLength } = headerOf(message)
  const frames: Buffer[] = []
  let at = byteLength
  for (; message.readUInt32BE(at) !== 0xffffffff; at += header.frameLength + 32)
    frames.push(message.subarray(at, at + header.frameLength + 32))
  const end = at + 24 + message.readUInt32BE(at + 20) + 16
  return { head: message.subarray(0, byteLength), frames: [...frames, message.subarray(at, end)], footer: message.subarray(end) }
}

/** As early versions of the SDK wrote them; the last of a body is its tag. */
export async function withoutFrames(suite: Suite, plaintext: Buffer): Promise<Buffer> {
  const { dataKey, encryptedDataKeys } = await keyring.encrypting({ suite, context: {} })
  const messageId = randomBytes(16)
  const header: MessageHeader = { suite, messageId, context: {}, encryptedDataKeys, frameLength: 0, commitment: undefined }
  const body = encodeHeaderBody(header)
  const [headerIv, iv, length, aadLength] = [randomBytes(12), randomBytes(12), Buffer.alloc(8), Buffer.alloc(12)]
  length.writeBigUInt64BE(BigInt(plaintext.length))
  aadLength.writeUInt32BE(1)
  length.copy(aadLength, 4)
  const gcm = createCipheriv(suite.cipher, dataKey, iv)
  gcm.setAAD(Buffer.concat([messageId, Buffer.from('AWSKMSEncryptionClient Single Block'), aadLength]))
  const sealed = Buffer.concat([gcm.update(plaintext), gcm.final(), gcm.getAuthTag()])
  return Buffer.concat([body, headerIv, headerTag(suite, dataKey, headerIv, body, {}), iv, length, sealed])
}
