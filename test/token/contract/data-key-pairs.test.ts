/** Key pairs for use outside: whole, of the kind asked for, and the private half opens again under the key and the context that it was made with. */
import { createPrivateKey, createPublicKey, sign, verify } from 'node:crypto'
import {
  DecryptCommand,
  EnableKeyCommand,
  GenerateDataKeyPairCommand,
  GenerateDataKeyPairWithoutPlaintextCommand,
  type GenerateDataKeyPairCommandInput,
} from '@aws-sdk/client-kms'
import { beforeAll, describe, expect, test } from 'vitest'
import { useKeys } from './key-pairs.ts'
import { describeOurs, expectProblems, expectRefusal, given, useContract, withoutMetadata, type TestKey } from './kit.ts'

const contract = useContract()
const keys = useKeys(contract)
let key: TestKey
beforeAll(async () => {
  key = await contract.key()
})

const kinds = [
  { spec: 'RSA_2048', type: 'rsa', details: { modulusLength: 2048, publicExponent: 65_537n } },
  { spec: 'RSA_3072', type: 'rsa', details: { modulusLength: 3072, publicExponent: 65_537n } },
  { spec: 'RSA_4096', type: 'rsa', details: { modulusLength: 4096, publicExponent: 65_537n } },
  { spec: 'ECC_NIST_P256', type: 'ec', details: { namedCurve: 'prime256v1' } },
  { spec: 'ECC_NIST_P384', type: 'ec', details: { namedCurve: 'secp384r1' } },
  { spec: 'ECC_NIST_P521', type: 'ec', details: { namedCurve: 'secp521r1' } },
  { spec: 'ECC_SECG_P256K1', type: 'ec', details: { namedCurve: 'secp256k1' } },
  { spec: 'ECC_NIST_EDWARDS25519', type: 'ed25519', details: {} },
] as const

const generate = (input: Partial<GenerateDataKeyPairCommandInput> = {}) =>
  contract.kms.send(new GenerateDataKeyPairCommand({ KeyId: key.KeyId, KeyPairSpec: 'ECC_NIST_P256', ...input }))
const generateWithout = (input: Partial<GenerateDataKeyPairCommandInput> = {}) =>
  contract.kms.send(new GenerateDataKeyPairWithoutPlaintextCommand({ KeyId: key.KeyId, KeyPairSpec: 'ECC_NIST_P256', ...input }))
const open = async (blob: Uint8Array | undefined, EncryptionContext?: Record<string, string>) =>
  Buffer.from(
    given(
      (await contract.kms.send(new DecryptCommand({ CiphertextBlob: blob, ...(EncryptionContext && { EncryptionContext }) }))).Plaintext,
    ),
  )
const privateOf = (der: Uint8Array) => createPrivateKey({ key: Buffer.from(der), format: 'der', type: 'pkcs8' })
const publicOf = (der: Uint8Array | undefined) => createPublicKey({ key: Buffer.from(given(der)), format: 'der', type: 'spki' })

describe.each(kinds)('A pair of spec $spec', ({ spec, type, details }) => {
  test('is PKCS#8 and SPKI of one pair, and the blob holds the private half', async () => {
    const answer = withoutMetadata(await generate({ KeyPairSpec: spec }))
    expect(answer).toEqual({
      PrivateKeyCiphertextBlob: expect.any(Uint8Array),
      PrivateKeyPlaintext: expect.any(Uint8Array),
      PublicKey: expect.any(Uint8Array),
      KeyId: key.Arn,
      KeyPairSpec: spec,
      KeyMaterialId: key.CurrentKeyMaterialId,
    })
    const [privateKey, publicKey] = [privateOf(given(answer.PrivateKeyPlaintext)), publicOf(answer.PublicKey)]
    expect({ type: publicKey.asymmetricKeyType, details: publicKey.asymmetricKeyDetails }).toEqual({ type, details })
    expect(createPublicKey(privateKey).export({ format: 'der', type: 'spki' })).toEqual(Buffer.from(given(answer.PublicKey)))
    const hash = type === 'ed25519' ? undefined : 'sha256'
    expect(verify(hash, Buffer.from('text'), publicKey, sign(hash, Buffer.from('text'), privateKey))).toBe(true)
    expect(await open(answer.PrivateKeyCiphertextBlob)).toEqual(Buffer.from(given(answer.PrivateKeyPlaintext)))
  })
})

describe('GenerateDataKeyPair and GenerateDataKeyPairWithoutPlaintext', () => {
  test('without plaintext, all the rest is there', async () => {
    const answer = withoutMetadata(await generateWithout())
    expect(answer).toEqual({
      PrivateKeyCiphertextBlob: expect.any(Uint8Array),
      PublicKey: expect.any(Uint8Array),
      KeyId: key.Arn,
      KeyPairSpec: 'ECC_NIST_P256',
      KeyMaterialId: key.CurrentKeyMaterialId,
    })
    const opened = privateOf(await open(answer.PrivateKeyCiphertextBlob))
    expect(createPublicKey(opened).export({ format: 'der', type: 'spki' })).toEqual(Buffer.from(given(answer.PublicKey)))
  })

  test('no two pairs are alike, however many are made together', async () => {
    const made = await Promise.all(Array.from({ length: 40 }, () => generateWithout()))
    expect(new Set(made.map(({ PublicKey }) => Buffer.from(given(PublicKey)).toString('hex'))).size).toBe(40)
  })

  test('bind the private half to the encryption context', async () => {
    const EncryptionContext = { for: 'one' }
    const { PrivateKeyCiphertextBlob, PrivateKeyPlaintext } = await generate({ EncryptionContext })
    expect(await open(PrivateKeyCiphertextBlob, EncryptionContext)).toEqual(Buffer.from(given(PrivateKeyPlaintext)))
    await expectRefusal(open(PrivateKeyCiphertextBlob, { for: 'two' }), 'InvalidCiphertextException', '')
    await expectRefusal(open(PrivateKeyCiphertextBlob), 'InvalidCiphertextException', '')
  })

  test('refuse keys that cannot encrypt it', async () => {
    const signing = await keys.key('ECC_NIST_P256', 'SIGN_VERIFY')
    const words = (operation: string) => `${signing.Arn} key usage is SIGN_VERIFY which is not valid for ${operation}.`
    await expectRefusal(generate({ KeyId: signing.KeyId }), 'InvalidKeyUsageException', words('GenerateDataKeyPair'))
    await expectRefusal(generateWithout({ KeyId: signing.KeyId }), 'InvalidKeyUsageException', words('GenerateDataKeyPairWithoutPlaintext'))
    const disabled = await contract.disabledKey()
    await expectRefusal(generate({ KeyId: disabled.KeyId }), 'DisabledException', `${disabled.Arn} is disabled.`)
    await contract.kms.send(new EnableKeyCommand({ KeyId: disabled.KeyId }))
  })

  test('refuse specs that no list has', async () => {
    await expectProblems(generate({ KeyPairSpec: 'RSA_1024' as never }), [
      "Value 'RSA_1024' at 'keyPairSpec' failed to satisfy constraint: Member must satisfy enum value set: [RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521, ECC_SECG_P256K1, SM2, ECC_NIST_EDWARDS25519, ML_KEM_512, ML_KEM_768, ML_KEM_1024]",
    ])
  })

  test('of a dry run make nothing', async () => {
    const succeeded = 'The request would have succeeded, but the DryRun option is set.'
    await expectRefusal(generate({ DryRun: true, KeyPairSpec: 'RSA_4096' }), 'DryRunOperationException', succeeded)
    await expectRefusal(generateWithout({ DryRun: true }), 'DryRunOperationException', succeeded)
  })

  describeOurs('of what is not made here', () => {
    test.each(['SM2', 'ML_KEM_512', 'ML_KEM_768', 'ML_KEM_1024'] as const)('refuse %s as unsupported', async (spec) => {
      await expectRefusal(generate({ KeyPairSpec: spec }), 'UnsupportedOperationException', `KeyPairSpec ${spec} is not supported.`)
      await expectRefusal(generateWithout({ KeyPairSpec: spec, DryRun: true }), 'UnsupportedOperationException', /./)
    })

    test('refuse a recipient: nothing is answered in the clear', async () => {
      const Recipient = { KeyEncryptionAlgorithm: 'RSAES_OAEP_SHA_256' as const, AttestationDocument: Buffer.of(1) }
      await expectRefusal(generate({ Recipient }), 'UnsupportedOperationException', /./)
    })
  })
})
