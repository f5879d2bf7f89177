/** Ed25519ph, which no token of the tests signs by: Verify over the vector of RFC 8032, whose message AWS's callers send as a digest. */
import { createHash, createPublicKey, generateKeyPairSync, sign } from 'node:crypto'
import { afterAll, expect, test } from 'vitest'
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
