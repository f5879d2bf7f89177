import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, sign } from 'node:crypto'
import { expect, test } from 'vitest'
import { verifyEd25519ph } from '../../src/base/ed25519ph.ts'

// RFC 8032 section 7.3
const seed = Buffer.from('833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42', 'hex')
const signature = Buffer.from(
  '98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae4131f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406',
  'hex',
)
const pkcs8 = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed])
const privateKey = createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' })
const publicKey = createPublicKey(privateKey).export({ format: 'der', type: 'spki' }).subarray(-32)
const digest = createHash('sha512').update('abc').digest()

test('the signature of RFC 8032 is accepted', () => {
  expect(verifyEd25519ph(publicKey, digest, signature)).toBe(true)
})

test('a signature by plain Ed25519 is not, over the message or its digest', () => {
  for (const message of [Buffer.from('abc'), digest]) {
    expect(verifyEd25519ph(publicKey, digest, sign(null, message, privateKey))).toBe(false)
  }
})

test('nor is one of another digest, key or signature, nor anything of another form', () => {
  const flipped = (buffer: Buffer, at: number): Buffer => {
    const copy = Buffer.from(buffer)
    copy[at] = (copy[at] ?? 0) ^ 1
    return copy
  }
  const other = generateKeyPairSync('ed25519').publicKey.export({ format: 'der', type: 'spki' }).subarray(-32)
  expect(verifyEd25519ph(other, digest, signature)).toBe(false)
  for (const at of [0, 31, 63]) {
    expect(verifyEd25519ph(publicKey, flipped(digest, at), signature)).toBe(false)
    expect(verifyEd25519ph(publicKey, digest, flipped(signature, at))).toBe(false)
  }
  // S and S + L are the same number of the group: only the smaller is a signature.
  const order = 2n ** 252n + 27742317777372353535851937790883648493n
  const scalar = BigInt(`0x${Buffer.from(signature.subarray(32)).reverse().toString('hex')}`) + order
  const larger = Buffer.from(scalar.toString(16).padStart(64, '0'), 'hex').reverse()
  expect(verifyEd25519ph(publicKey, digest, Buffer.concat([signature.subarray(0, 32), larger]))).toBe(false)
  expect(verifyEd25519ph(publicKey, digest, signature.subarray(1))).toBe(false)
  expect(verifyEd25519ph(publicKey.subarray(1), digest, signature)).toBe(false)
  expect(verifyEd25519ph(Buffer.alloc(32, 255), digest, signature)).toBe(false)
})
