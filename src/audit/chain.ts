/**
 * The byte-exact part of the trail: how a record is hashed onto the chain and what a seal signs. Pure functions, no I/O.
 * Described for others in docs/audit-format.md; a change here is a new format.
 */

import * as crypto from 'node:crypto'

/** The end of a chain. */
export interface ChainHead {
  readonly sequence: number
  readonly hash: Uint8Array
}

export interface SealStatement {
  /** 32 hex characters. */
  readonly trailId: string
  readonly number: number
  readonly kind: 'seal' | 'prune'
  readonly sequence: number
  readonly hash: Uint8Array
  readonly timeMs: number
  /** SHA-256 of the SubjectPublicKeyInfo, 64 hex characters. */
  readonly keyId: string
}

const hashBytes = 32
const recordTag = Buffer.from('holdfast audit record v1\n')
const trailTag = Buffer.from('holdfast audit trail v1\n')
const sequenceAt = recordTag.length + hashBytes
const textAt = sequenceAt + 8

/** One-shot hashing where Node has it (20.12). Asked for hex it takes half the time that it takes for a Buffer, so the hex is turned into one here. */
export const sha256: (bytes: Uint8Array) => Buffer =
  'hash' in crypto
    ? (bytes) => Buffer.from(crypto.hash('sha256', bytes, 'hex'), 'hex')
    : (bytes) => (crypto as { createHash: (name: string) => crypto.Hash }).createHash('sha256').update(bytes).digest()

/** What the first record is chained to: SHA-256(tag ‖ trail id). A trail's records fit no other trail. */
export const chainStart = (trailId: string): ChainHead => ({
  sequence: 0,
  hash: sha256(Buffer.concat([trailTag, Buffer.from(trailId, 'hex')])),
})

let scratch = Buffer.alloc(64 * 1024)
recordTag.copy(scratch)

/** The next record's hash: SHA-256(tag ‖ hash before it ‖ its sequence number, 8 bytes big-endian ‖ its bytes in UTF-8). */
export function recordHash(previous: ChainHead, text: string): Buffer {
  // Three bytes of UTF-8 per UTF-16 unit is the most there can be.
  if (scratch.length < textAt + text.length * 3) {
    scratch = Buffer.alloc(textAt + text.length * 3)
    recordTag.copy(scratch)
  }
  scratch.set(previous.hash, recordTag.length)
  const sequence = previous.sequence + 1
  scratch.writeUInt32BE(Math.floor(sequence / 2 ** 32), sequenceAt)
  scratch.writeUInt32BE(sequence >>> 0, sequenceAt + 4)
  return sha256(scratch.subarray(0, textAt + scratch.write(text, textAt)))
}

/** The text whose SHA-256 is signed: eight lines, each ended by a line feed. */
export function encodeSealStatement(seal: SealStatement): string {
  return [
    'holdfast audit seal v1',
    `trail ${seal.trailId}`,
    `number ${seal.number}`,
    `kind ${seal.kind}`,
    `sequence ${seal.sequence}`,
    `hash ${Buffer.from(seal.hash).toString('hex')}`,
    `time ${new Date(seal.timeMs).toISOString()}`,
    `key ${seal.keyId}`,
    '',
  ].join('\n')
}

/** The name of a public key: SHA-256 of its SubjectPublicKeyInfo. */
export const keyIdOf = (spki: Uint8Array): string => sha256(spki).toString('hex')

/** Whether `signature` is the key's over the statement. False for anything that is not, also for a key or algorithm unknown here. */
export function verifySeal(
  seal: SealStatement & { readonly algorithm: string; readonly signature: Uint8Array },
  spki: Uint8Array,
): boolean {
  if (seal.algorithm !== 'ECDSA_SHA_256' && seal.algorithm !== 'RSASSA_PKCS1_V1_5_SHA_256') return false
  try {
    const key = crypto.createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' })
    if (key.asymmetricKeyType !== (seal.algorithm === 'ECDSA_SHA_256' ? 'ec' : 'rsa')) return false
    return crypto.verify('sha256', Buffer.from(encodeSealStatement(seal)), key, seal.signature)
  } catch {
    return false
  }
}
