/**
 * Takes off the padding of RSAES-OAEP (RFC 8017 section 7.1.2 step 3, with an empty label) from what raw RSA answered, for devices that do not know
 * the hash themselves.
 *
 * Whoever could tell the ways apart in which a block is wrong could decrypt any ciphertext (Manger, CRYPTO 2001). So every byte is looked at in every
 * case, nothing branches on what it finds nor uses it as an index, and there is one error. JavaScript promises no constant time; what
 * differs here is the value of small integers in arithmetic, not the path or the memory touched.
 */
import { createHash } from 'node:crypto'
import type { OaepHash } from './profile.ts'
import { Rejected } from './wrap.ts'

/** 1 when the byte is 0, else 0. */
const isZero = (byte: number): number => ((byte - 1) >>> 31) & 1

/** XORs MGF1 (RFC 8017 appendix B.2.1) of `seed` into `target`, in place. */
function unmask(target: Buffer, seed: Buffer, hash: OaepHash): void {
  const counter = Buffer.alloc(4)
  for (let at = 0, block = 0; at < target.length; block += 1) {
    counter.writeUInt32BE(block)
    const mask = createHash(hash).update(seed).update(counter).digest()
    const end = Math.min(target.length, at + mask.length)
    for (let index = 0; at < end; at += 1, index += 1) target[at] = (target[at] ?? 0) ^ (mask[index] ?? 0)
    mask.fill(0)
  }
}

/**
 * @param block as long as the modulus; worked on in place, for the caller to wipe
 * @throws Rejected
 */
export function unpadOaep(block: Buffer, hash: OaepHash): Buffer {
  const labelHash = createHash(hash).digest()
  const { length } = labelHash
  // Public: the sizes of key and hash.
  if (block.length < 2 * length + 2) throw new Rejected('the key is too short for this padding')
  const seed = block.subarray(1, 1 + length)
  const data = block.subarray(1 + length)
  unmask(seed, data, hash)
  unmask(data, seed, hash)

  let wrong = block[0] ?? 1
  for (let index = 0; index < length; index += 1) wrong |= (data[index] ?? 0) ^ (labelHash[index] ?? 0)
  // Behind the hash: zeros, a one, the message. `searching` is 1 until the first byte that is not zero.
  let searching = 1
  let padding = 0
  for (let index = length; index < data.length; index += 1) {
    const byte = data[index] ?? 0
    const zero = isZero(byte)
    // The first byte that is not zero must be one.
    wrong |= searching & (1 - zero) & (1 - isZero(byte ^ 1))
    searching &= zero
    padding += searching
  }
  wrong |= searching
  if (wrong !== 0) throw new Rejected('the padding is wrong')
  return Buffer.from(data.subarray(length + padding + 1))
}
