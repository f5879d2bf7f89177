import { constants, createHash, generateKeyPairSync, privateDecrypt, publicEncrypt, randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { unpadOaep } from '../../src/hsm/oaep.ts'
import type { OaepHash } from '../../src/hsm/profile.ts'
import { Rejected } from '../../src/hsm/wrap.ts'

const hashes: readonly OaepHash[] = ['sha1', 'sha256', 'sha384', 'sha512']
const sizeOf = (hash: OaepHash): number => createHash(hash).digest().length

function mgf1(seed: Buffer, length: number, hash: OaepHash): Buffer {
  const parts: Buffer[] = []
  for (let counter = 0; parts.length * sizeOf(hash) < length; counter += 1) {
    const number = Buffer.alloc(4)
    number.writeUInt32BE(counter)
    parts.push(createHash(hash).update(seed).update(number).digest())
  }
  return Buffer.concat(parts).subarray(0, length)
}

const xor = (a: Buffer, b: Buffer): Buffer => Buffer.from(a.map((byte, index) => byte ^ (b[index] ?? 0)))

/** What encryption makes of a data block (RFC 8017 section 7.1.1 step 2): lHash ‖ 00… ‖ 01 ‖ message, if it is a good one. */
function mask(data: Buffer, hash: OaepHash, first = 0): Buffer {
  const seed = randomBytes(sizeOf(hash))
  const maskedData = xor(data, mgf1(seed, data.length, hash))
  return Buffer.concat([Buffer.of(first), xor(seed, mgf1(maskedData, seed.length, hash)), maskedData])
}

function dataBlock(hash: OaepHash, message: Buffer, blockBytes = 256): Buffer {
  const labelHash = createHash(hash).digest()
  const zeros = Buffer.alloc(blockBytes - 1 - 2 * labelHash.length - 1 - message.length)
  return Buffer.concat([labelHash, zeros, Buffer.of(1), message])
}

const refusal = (block: Buffer, hash: OaepHash): string => {
  try {
    return `no refusal but ${unpadOaep(block, hash).length} bytes`
  } catch (error) {
    if (!(error instanceof Rejected)) throw error
    return error.message
  }
}

const wrong = 'the padding is wrong'

describe.each(hashes)('unpadding OAEP with %s', (hash) => {
  const longest = 256 - 2 * sizeOf(hash) - 2

  test('gives back every message of every length', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: longest }), (bytes) => {
        expect(unpadOaep(mask(dataBlock(hash, Buffer.from(bytes)), hash), hash)).toEqual(Buffer.from(bytes))
      }),
    )
    for (const length of [0, longest]) {
      const message = Buffer.alloc(length)
      expect(unpadOaep(mask(dataBlock(hash, message), hash), hash)).toEqual(message)
    }
  })

  test('reads what OpenSSL encrypted', () => {
    const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
    for (const length of [0, 1, 32, longest]) {
      const message = randomBytes(length)
      const ciphertext = publicEncrypt({ key: publicKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: hash }, message)
      const block = privateDecrypt({ key: privateKey, padding: constants.RSA_NO_PADDING }, ciphertext)
      expect(unpadOaep(block, hash)).toEqual(message)
    }
  })

  test('refuses a first byte that is not zero, whatever it is', () => {
    for (let first = 1; first < 256; first += 1) expect(refusal(mask(dataBlock(hash, Buffer.from('m')), hash, first), hash)).toBe(wrong)
  })

  test('refuses the hash of another label, in each byte of it', () => {
    for (let at = 0; at < sizeOf(hash); at += 1) {
      const data = dataBlock(hash, Buffer.from('m'))
      data[at] = (data[at] ?? 0) ^ (1 << (at % 8))
      expect(refusal(mask(data, hash), hash)).toBe(wrong)
    }
  })

  test('refuses zeros that no one follows, and any other byte in its place', () => {
    const data = dataBlock(hash, Buffer.alloc(0))
    for (let byte = 0; byte < 256; byte += 1) {
      data[data.length - 1] = byte
      expect(refusal(mask(data, hash), hash)).toBe(byte === 1 ? 'no refusal but 0 bytes' : wrong)
    }
    const early = dataBlock(hash, Buffer.from('\u0001 and more'))
    for (const byte of [2, 0x80, 0xff]) {
      early[sizeOf(hash)] = byte
      expect(refusal(mask(early, hash), hash)).toBe(wrong)
    }
  })

  test('refuses every change of one bit of the block, all alike', () => {
    const block = mask(dataBlock(hash, Buffer.from('message')), hash)
    for (let bit = 0; bit < block.length * 8; bit += 1) {
      const changed = Buffer.from(block)
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      expect(refusal(changed, hash)).toBe(wrong)
    }
  })

  test('refuses what random blocks unmask to', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 256, maxLength: 256 }), (bytes) => {
        expect(refusal(Buffer.from(bytes), hash)).toBe(wrong)
      }),
    )
  })

  test('refuses a block that is shorter than the padding', () => {
    for (const length of [0, 1, sizeOf(hash), 2 * sizeOf(hash) + 1]) {
      expect(refusal(Buffer.alloc(length), hash)).toBe('the key is too short for this padding')
    }
  })
})
