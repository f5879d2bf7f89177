/**
 * What Verify takes for a signature, where a token cannot make what is to be judged. Ed25519ph: the vector of RFC 8032, whose message AWS's callers
 * send as a digest. RSA: encodings of every sort under a key of our own, as those who forge signatures make them.
 */
import { constants, createHash, createPublicKey, generateKeyPairSync, privateEncrypt, sign } from 'node:crypto'
import { afterAll, describe, expect, test } from 'vitest'
import { openCryptoPool } from '../../src/bulk/crypto-pool.ts'
import { isSignature } from '../../src/kms/signatures.ts'
import { signingRows } from '../../src/kms/specs.ts'

const offload = openCryptoPool()
afterAll(() => offload.close())

test('a signature by Ed25519ph is one of its message and of no other', async () => {
  // RFC 8032 section 7.3.
  const x = Buffer.from('ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf', 'hex')
  const signature = Buffer.from(
    '98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae4131f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406',
    'hex',
  )
  const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: x.toString('base64url') }, format: 'jwk' })
  const asked = { key, row: signingRows.ED25519_PH_SHA_512, form: 'message', message: Buffer.from('abc'), signature } as const
  expect(await isSignature({ offload }, asked)).toBe(true)
  expect(await isSignature({ offload }, { ...asked, message: Buffer.from('abd') })).toBe(false)
  expect(await isSignature({ offload }, { ...asked, message: createHash('sha512').update('abc').digest() })).toBe(false)
  expect(await isSignature({ offload }, { ...asked, signature: signature.subarray(1) })).toBe(false)
  // Of Ed25519 without a digest it is none.
  expect(await isSignature({ offload }, { ...asked, row: signingRows.ED25519_SHA_512 })).toBe(false)
})

test('a signature by Ed25519 is refused when its second half is not below the order', async () => {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519')
  const message = Buffer.from('abc')
  const signature = sign(null, message, privateKey)
  const asked = { key: publicKey, row: signingRows.ED25519_SHA_512, form: 'message', message, signature } as const
  expect(await isSignature({ offload }, asked)).toBe(true)
  const order = 2n ** 252n + 27742317777372353535851937790883648493n
  const scalar = BigInt(`0x${Buffer.from(signature.subarray(32)).reverse().toString('hex')}`)
  const more = Buffer.from((scalar + order).toString(16).padStart(64, '0'), 'hex').reverse()
  expect(await isSignature({ offload }, { ...asked, signature: Buffer.concat([signature.subarray(0, 32), more]) })).toBe(false)
})

describe('of RSA', () => {
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const message = Buffer.from('the message')
  const digest = createHash('sha256').update(message).digest()
  /** The signature that holds these bytes. */
  const holding = (encoded: Buffer): Buffer => privateEncrypt({ key: privateKey, padding: constants.RSA_NO_PADDING }, encoded)
  /** By message and by digest it must be the same. */
  async function isTaken(algorithm: 'RSASSA_PKCS1_V1_5_SHA_256' | 'RSASSA_PSS_SHA_256', encoded: Buffer): Promise<boolean> {
    const asked = { key: publicKey, row: signingRows[algorithm], signature: holding(encoded) } as const
    const byMessage = await isSignature({ offload }, { ...asked, form: 'message', message })
    expect(await isSignature({ offload }, { ...asked, form: 'digest', message: digest })).toBe(byMessage)
    return byMessage
  }

  const hex = (text: string): Buffer => Buffer.from(text, 'hex')
  const info = '3031300d060960864801650304020105000420'
  const pkcs1 = (content: Buffer, change: { head?: Buffer; filler?: number; end?: Buffer; behind?: Buffer } = {}): Buffer => {
    const { head = hex('0001'), filler = 0xff, end = hex('00'), behind = Buffer.alloc(0) } = change
    const bytes = 256 - head.length - end.length - content.length - behind.length
    return Buffer.concat([head, Buffer.alloc(bytes, filler), end, content, behind])
  }
  const ofDigest = (before: string, after = ''): Buffer => Buffer.concat([hex(before), digest, hex(after)])

  test('PKCS #1 has one encoding', async () => {
    const algorithm = 'RSASSA_PKCS1_V1_5_SHA_256'
    expect(await isTaken(algorithm, pkcs1(ofDigest(info)))).toBe(true)
    const shortFiller = Buffer.concat([hex('0001'), Buffer.alloc(8, 0xff), hex('00'), ofDigest(info)])
    const holed = pkcs1(ofDigest(info))
    holed[100] = 0xfe
    const others: Readonly<Record<string, Buffer>> = {
      'no NULL among the parameters': pkcs1(ofDigest('302f300b06096086480165030402010420')),
      'another NULL': pkcs1(ofDigest('3032300e06096086480165030402010581000420')),
      'a long form of the outer length': pkcs1(ofDigest('308131300d060960864801650304020105000420')),
      'an indefinite length': pkcs1(ofDigest('3080300d060960864801650304020105000420', '0000')),
      'a long form of the digest’s length': pkcs1(ofDigest('3032300d06096086480165030402010500048120')),
      'the object identifier of SHA-512': pkcs1(ofDigest('3031300d060960864801650304020305000420')),
      'the digest alone': pkcs1(digest),
      'the digest of another message': pkcs1(Buffer.concat([hex(info), createHash('sha256').update('another').digest()])),
      'bytes in the SEQUENCE behind the digest': pkcs1(ofDigest('3033300d060960864801650304020105000420', '0500')),
      'bytes behind the digest': pkcs1(ofDigest(info), { behind: hex('0500') }),
      'rubbish behind a short filler': Buffer.concat([shortFiller, Buffer.alloc(256 - shortFiller.length, 0xab)]),
      'zeros behind a short filler': Buffer.concat([shortFiller, Buffer.alloc(256 - shortFiller.length)]),
      'a hole in the filler': holed,
      'a filler of zeros': pkcs1(ofDigest(info), { filler: 0 }),
      'block type 0': pkcs1(ofDigest(info), { head: hex('0000'), filler: 0 }),
      'block type 2': pkcs1(ofDigest(info), { head: hex('0002') }),
      'a filler without an end': pkcs1(ofDigest(info), { end: Buffer.alloc(0) }),
      'a filler that begins a byte late': pkcs1(ofDigest(info), { head: hex('000001') }),
    }
    for (const [what, encoded] of Object.entries(others)) {
      expect(encoded.length).toBe(256)
      expect(`${what}: ${await isTaken(algorithm, encoded)}`).toBe(`${what}: false`)
    }
  })

  function mask(hash: string, seed: Buffer, bytes: number): Buffer {
    const block = (index: number) =>
      createHash(hash)
        .update(seed)
        .update(hex(index.toString(16).padStart(8, '0')))
        .digest()
    return Buffer.concat(Array.from({ length: 16 }, (_, index) => block(index))).subarray(0, bytes)
  }
  /** EMSA-PSS (RFC 8017 9.1.1), and what could be in its place. */
  function pss(
    saltBytes: number,
    change: { maskHash?: string; trailer?: number; filler?: number; one?: number; over?: Buffer } = {},
  ): Buffer {
    const salt = Buffer.alloc(saltBytes, 7)
    const h = createHash('sha256')
      .update(Buffer.alloc(8))
      .update(change.over ?? digest)
      .update(salt)
      .digest()
    const db = Buffer.concat([Buffer.alloc(256 - 32 - 2 - saltBytes, change.filler ?? 0), Buffer.of(change.one ?? 1), salt])
    const stretched = mask(change.maskHash ?? 'sha256', h, db.length)
    const masked = Buffer.from(db.map((byte, index) => byte ^ (stretched[index] ?? 0)))
    masked[0] = (masked[0] ?? 0) & 0x7f
    return Buffer.concat([masked, h, Buffer.of(change.trailer ?? 0xbc)])
  }

  test('PSS has a salt as long as the digest, and nothing that can be chosen', async () => {
    const algorithm = 'RSASSA_PSS_SHA_256'
    expect(await isTaken(algorithm, pss(32))).toBe(true)
    const others: Readonly<Record<string, Buffer>> = {
      'no salt': pss(0),
      'a salt of 20 bytes': pss(20),
      'a salt one byte short': pss(31),
      'a salt one byte long': pss(33),
      'the longest salt': pss(222),
      'a mask by SHA-1': pss(32, { maskHash: 'sha1' }),
      'a mask by SHA-512': pss(32, { maskHash: 'sha512' }),
      'another trailer': pss(32, { trailer: 0xcc }),
      'a filler that is not zero': pss(32, { filler: 1 }),
      'no one behind the filler': pss(32, { one: 0 }),
      'another byte behind the filler': pss(32, { one: 2 }),
      'the digest of another message': pss(32, { over: createHash('sha256').update('another').digest() }),
      zeros: Buffer.alloc(256),
    }
    for (const [what, encoded] of Object.entries(others)) {
      expect(encoded.length).toBe(256)
      expect(`${what}: ${await isTaken(algorithm, encoded)}`).toBe(`${what}: false`)
    }
  })
})
