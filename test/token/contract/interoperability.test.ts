/**
 * Every algorithm both ways: what OpenSSL makes with a key pair of its owner's, AWS's clients verify, decrypt and agree with here, and the other way
 * round. The private halves are imported, so both sides have the same key. An Ed25519 key no token here imports: asymmetric.test.ts has one way of it.
 */
import {
  constants,
  createHash,
  createHmac,
  diffieHellman,
  generateKeyPairSync,
  privateDecrypt,
  publicEncrypt,
  randomBytes,
  sign,
  verify,
  type KeyObject,
} from 'node:crypto'
import {
  DecryptCommand,
  DeriveSharedSecretCommand,
  EncryptCommand,
  GenerateMacCommand,
  GetParametersForImportCommand,
  GetPublicKeyCommand,
  ImportKeyMaterialCommand,
  SignCommand,
  VerifyCommand,
  VerifyMacCommand,
  type KeySpec,
  type KeyUsageType,
  type SigningAlgorithmSpec,
} from '@aws-sdk/client-kms'
import { beforeAll, describe, expect, test } from 'vitest'
import { makeEc, makeRsa, wrapMaterial, type OwnKey } from '../import-kit.ts'
import { expectRefusal, given, useContract } from './kit.ts'

const contract = useContract()
const Message = Buffer.from('what both sides have')

/** The id of a key with this material. */
async function importedKey(
  KeySpec: KeySpec,
  KeyUsage: KeyUsageType,
  material: Uint8Array,
  wrapping: 'RSAES_OAEP_SHA_256' | 'RSA_AES_KEY_WRAP_SHA_256',
) {
  const { KeyId } = await contract.key({ Origin: 'EXTERNAL', KeySpec, KeyUsage })
  const parameters = await contract.kms.send(
    new GetParametersForImportCommand({ KeyId, WrappingAlgorithm: wrapping, WrappingKeySpec: 'RSA_2048' }),
  )
  await contract.kms.send(
    new ImportKeyMaterialCommand({
      KeyId,
      ImportToken: parameters.ImportToken,
      EncryptedKeyMaterial: wrapMaterial(given(parameters.PublicKey), wrapping, material),
      ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
    }),
  )
  return KeyId
}

interface Shared {
  readonly KeyId: string
  readonly own: OwnKey
}

async function sharedPair(KeySpec: KeySpec, KeyUsage: KeyUsageType, own: OwnKey): Promise<Shared> {
  const KeyId = await importedKey(KeySpec, KeyUsage, own.material, 'RSA_AES_KEY_WRAP_SHA_256')
  const { PublicKey } = await contract.kms.send(new GetPublicKeyCommand({ KeyId }))
  expect(Buffer.from(given(PublicKey))).toEqual(own.publicKey.export({ format: 'der', type: 'spki' }))
  return { KeyId, own }
}

const curves = [
  { spec: 'ECC_NIST_P256', curve: 'prime256v1', bits: 256 },
  { spec: 'ECC_NIST_P384', curve: 'secp384r1', bits: 384 },
  { spec: 'ECC_NIST_P521', curve: 'secp521r1', bits: 512 },
  { spec: 'ECC_SECG_P256K1', curve: 'secp256k1', bits: 256 },
] as const

interface Signing {
  readonly spec: KeySpec
  readonly algorithm: SigningAlgorithmSpec
  readonly hash: string
  /** What OpenSSL is told beside the key. */
  readonly how: Readonly<Record<string, number>>
}
const pss = (saltLength: number) => ({ padding: constants.RSA_PKCS1_PSS_PADDING, saltLength })
const signings: readonly Signing[] = [
  ...([256, 384, 512] as const).flatMap((bits): readonly Signing[] => [
    { spec: 'RSA_2048', algorithm: `RSASSA_PSS_SHA_${bits}`, hash: `sha${bits}`, how: pss(bits / 8) },
    {
      spec: 'RSA_2048',
      algorithm: `RSASSA_PKCS1_V1_5_SHA_${bits}`,
      hash: `sha${bits}`,
      how: { padding: constants.RSA_PKCS1_PADDING },
    },
  ]),
  ...curves.map(({ spec, bits }): Signing => ({ spec, algorithm: `ECDSA_SHA_${bits}`, hash: `sha${bits}`, how: {} })),
]

describe('signatures', () => {
  const pairs = new Map<KeySpec, Shared>()
  beforeAll(async () => {
    const owns = [['RSA_2048', makeRsa(2048)], ...curves.map(({ spec, curve }) => [spec, makeEc(curve)] as const)] as const
    for (const [spec, own] of owns) pairs.set(spec, await sharedPair(spec, 'SIGN_VERIFY', own))
  })

  test.each(signings)('$algorithm by $spec: each side takes the other’s, of a message and of its digest', async (row) => {
    const { KeyId, own } = given(pairs.get(row.spec))
    const SigningAlgorithm = row.algorithm
    const digest = createHash(row.hash).update(Message).digest()
    const key = (half: KeyObject) => ({ key: half, ...row.how })
    for (const form of [{ Message }, { Message: digest, MessageType: 'DIGEST' as const }]) {
      const { Signature } = await contract.kms.send(new SignCommand({ KeyId, SigningAlgorithm, ...form }))
      expect(verify(row.hash, Message, key(own.publicKey), given(Signature))).toBe(true)
      for (let i = 0; i < 4; i++) {
        const theirs = sign(row.hash, Message, key(own.privateKey))
        const answer = await contract.kms.send(new VerifyCommand({ KeyId, SigningAlgorithm, Signature: theirs, ...form }))
        expect(answer.SignatureValid).toBe(true)
      }
    }
  })

  test.each([0, 20, 31, 33, 222])('of PSS with a salt of %i bytes, which OpenSSL can make, are none', async (saltLength) => {
    const { KeyId, own } = given(pairs.get('RSA_2048'))
    const Signature = sign('sha256', Message, { key: own.privateKey, ...pss(saltLength) })
    for (const form of [{ Message }, { Message: createHash('sha256').update(Message).digest(), MessageType: 'DIGEST' as const }]) {
      const call = contract.kms.send(new VerifyCommand({ KeyId, SigningAlgorithm: 'RSASSA_PSS_SHA_256', Signature, ...form }))
      await expectRefusal(call, 'KMSInvalidSignatureException', '')
    }
  })

  test.each(curves)('of $spec over another hash, or as two numbers side by side, are none', async ({ spec, bits }) => {
    const { KeyId, own } = given(pairs.get(spec))
    const signatures = [
      sign(bits === 384 ? 'sha256' : 'sha384', Message, own.privateKey),
      sign(`sha${bits}`, Message, { key: own.privateKey, dsaEncoding: 'ieee-p1363' }),
    ]
    for (const Signature of signatures) {
      const call = contract.kms.send(new VerifyCommand({ KeyId, SigningAlgorithm: `ECDSA_SHA_${bits}`, Signature, Message }))
      await expectRefusal(call, 'KMSInvalidSignatureException', '')
    }
  })
})

describe('RSAES-OAEP', () => {
  let pair: Shared
  beforeAll(async () => void (pair = await sharedPair('RSA_2048', 'ENCRYPT_DECRYPT', makeRsa(2048))))

  test.each([
    ['RSAES_OAEP_SHA_1', 'sha1', 214],
    ['RSAES_OAEP_SHA_256', 'sha256', 190],
  ] as const)('%s: each side decrypts the other’s', async (EncryptionAlgorithm, oaepHash, most) => {
    const { KeyId, own } = pair
    const how = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }
    for (const Plaintext of [Buffer.of(0), randomBytes(32), randomBytes(most)]) {
      const { CiphertextBlob } = await contract.kms.send(new EncryptCommand({ KeyId, EncryptionAlgorithm, Plaintext }))
      expect(privateDecrypt({ key: own.privateKey, ...how }, given(CiphertextBlob))).toEqual(Plaintext)
      const theirs = publicEncrypt({ key: own.publicKey, ...how }, Plaintext)
      const opened = await contract.kms.send(new DecryptCommand({ KeyId, EncryptionAlgorithm, CiphertextBlob: theirs }))
      expect(Buffer.from(given(opened.Plaintext))).toEqual(Plaintext)
    }
  })
})

describe('HMAC', () => {
  test.each([224, 256, 384, 512] as const)('HMAC_SHA_%i: each side makes what the other makes', async (bits) => {
    const material = randomBytes(bits / 8)
    const KeyId = await importedKey(`HMAC_${bits}`, 'GENERATE_VERIFY_MAC', material, 'RSAES_OAEP_SHA_256')
    const MacAlgorithm = `HMAC_SHA_${bits}` as const
    for (const message of [Buffer.of(0), Message, randomBytes(4096)]) {
      const theirs = createHmac(`sha${bits}`, material).update(message).digest()
      const { Mac } = await contract.kms.send(new GenerateMacCommand({ KeyId, MacAlgorithm, Message: message }))
      expect(Buffer.from(given(Mac))).toEqual(theirs)
      const { MacValid } = await contract.kms.send(new VerifyMacCommand({ KeyId, MacAlgorithm, Message: message, Mac: theirs }))
      expect(MacValid).toBe(true)
    }
  })
})

describe('ECDH', () => {
  test.each(curves.slice(0, 3))('with a $spec that both sides have, they come to one secret with a third', async ({ spec, curve }) => {
    const { KeyId, own } = await sharedPair(spec, 'KEY_AGREEMENT', makeEc(curve))
    const peer = generateKeyPairSync('ec', { namedCurve: curve })
    const answer = await contract.kms.send(
      new DeriveSharedSecretCommand({
        KeyId,
        KeyAgreementAlgorithm: 'ECDH',
        PublicKey: peer.publicKey.export({ format: 'der', type: 'spki' }),
      }),
    )
    expect(answer.KeyOrigin).toBe('EXTERNAL')
    const secret = Buffer.from(given(answer.SharedSecret))
    expect(secret).toEqual(diffieHellman({ privateKey: own.privateKey, publicKey: peer.publicKey }))
    expect(secret).toEqual(diffieHellman({ privateKey: peer.privateKey, publicKey: own.publicKey }))
  })
})
