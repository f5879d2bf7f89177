/** RSAES-OAEP: Encrypt, Decrypt and ReEncrypt with RSA keys, against OpenSSL both ways, and ciphertexts that are none. */
import { constants, publicEncrypt, randomBytes } from 'node:crypto'
import {
  DecryptCommand,
  DescribeKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GenerateDataKeyPairCommand,
  ReEncryptCommand,
  type DecryptCommandInput,
  type EncryptCommandInput,
  type ReEncryptCommandInput,
} from '@aws-sdk/client-kms'
import { describe, expect, test } from 'vitest'
import { useKeys } from './key-pairs.ts'
import { expectRefusal, given, useContract, withoutMetadata, type TestKey } from './kit.ts'

const contract = useContract()
const keys = useKeys(contract)

const sizes = [
  { spec: 'RSA_2048', bytes: 256 },
  { spec: 'RSA_3072', bytes: 384 },
  { spec: 'RSA_4096', bytes: 512 },
] as const
const algorithms = [
  { algorithm: 'RSAES_OAEP_SHA_1', oaepHash: 'sha1', padding: 42 },
  { algorithm: 'RSAES_OAEP_SHA_256', oaepHash: 'sha256', padding: 66 },
] as const
const every = sizes.flatMap((size) => algorithms.map((algorithm) => ({ ...size, ...algorithm })))

const encrypt = (input: EncryptCommandInput) => contract.kms.send(new EncryptCommand(input))
const decrypt = (input: DecryptCommandInput) => contract.kms.send(new DecryptCommand(input))
const reEncrypt = (input: ReEncryptCommandInput) => contract.kms.send(new ReEncryptCommand(input))
const rsa = (spec: (typeof sizes)[number]['spec'] = 'RSA_2048'): Promise<TestKey> => keys.key(spec, 'ENCRYPT_DECRYPT')
const noContext = 'EncryptionContext is not supported when encrypting/decrypting with asymmetric CMKs.'

describe.each(every)('$algorithm with a $spec', ({ spec, bytes, algorithm, oaepHash, padding }) => {
  const most = bytes - padding

  test('encrypts so that Decrypt gives it back, with the answers of AWS', async () => {
    const key = await rsa(spec)
    for (const length of [1, 32, most]) {
      const Plaintext = randomBytes(length)
      const made = withoutMetadata(await encrypt({ KeyId: key.KeyId, Plaintext, EncryptionAlgorithm: algorithm }))
      expect(made).toEqual({ CiphertextBlob: expect.any(Uint8Array), KeyId: key.Arn, EncryptionAlgorithm: algorithm })
      expect(made.CiphertextBlob).toHaveLength(bytes)
      const opened = withoutMetadata(await decrypt({ KeyId: key.Arn, CiphertextBlob: made.CiphertextBlob, EncryptionAlgorithm: algorithm }))
      expect({ ...opened, Plaintext: Buffer.from(given(opened.Plaintext)) }).toEqual({
        KeyId: key.Arn,
        Plaintext,
        EncryptionAlgorithm: algorithm,
      })
    }
  })

  test('decrypts what OpenSSL encrypted, nothing at all included', async () => {
    const { KeyId } = await rsa(spec)
    const publicKey = { key: await keys.publicKey(spec, 'ENCRYPT_DECRYPT'), padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }
    for (const plaintext of [Buffer.of(0), Buffer.alloc(most), randomBytes(most), randomBytes(17)]) {
      const opened = await decrypt({ KeyId, CiphertextBlob: publicEncrypt(publicKey, plaintext), EncryptionAlgorithm: algorithm })
      expect(Buffer.from(given(opened.Plaintext))).toEqual(plaintext)
    }
  })

  test(`refuses more than ${most} bytes`, async () => {
    const { KeyId } = await rsa(spec)
    for (const length of [most + 1, bytes, 4096]) {
      for (const DryRun of [false, true]) {
        await expectRefusal(
          encrypt({ KeyId, Plaintext: Buffer.alloc(length), EncryptionAlgorithm: algorithm, DryRun }),
          'ValidationException',
          `Algorithm ${algorithm} and key spec ${spec} cannot encrypt data larger than ${most} bytes.`,
        )
      }
    }
  })
})

test.each(sizes)('a $spec for encryption shows its two algorithms', async ({ spec }) => {
  const { KeyMetadata } = await contract.kms.send(new DescribeKeyCommand({ KeyId: (await rsa(spec)).KeyId }))
  expect(KeyMetadata?.EncryptionAlgorithms).toEqual(['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'])
})

describe.each(algorithms)('A ciphertext that is none of $algorithm', ({ algorithm, oaepHash }) => {
  test('is refused without a word, whatever is wrong with it', async () => {
    const { KeyId } = await rsa()
    const key = await keys.publicKey('RSA_2048', 'ENCRYPT_DECRYPT')
    const modulus = Buffer.from(given(key.export({ format: 'jwk' }).n), 'base64url')
    const raw = (encoded: Buffer) => publicEncrypt({ key, padding: constants.RSA_NO_PADDING }, encoded)
    const good = publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, randomBytes(32))
    const turned = Buffer.from(good)
    turned[100] = given(turned[100]) ^ 1
    const otherHash = oaepHash === 'sha1' ? 'sha256' : 'sha1'
    const other = await keys.publicKey('RSA_2048', 'SIGN_VERIFY')
    const withByte = (at: number, value: number) => {
      const encoded = Buffer.concat([Buffer.of(0), randomBytes(255)])
      encoded[at] = value
      return raw(encoded)
    }
    for (const CiphertextBlob of [
      turned,
      good.subarray(0, -1),
      good.subarray(1),
      Buffer.concat([good, Buffer.of(0)]),
      Buffer.concat([Buffer.of(0), good]),
      Buffer.of(1),
      Buffer.alloc(256),
      Buffer.alloc(256, 0xff),
      modulus,
      randomBytes(6144),
      // Padding of other kinds.
      publicEncrypt({ key, padding: constants.RSA_PKCS1_PADDING }, randomBytes(32)),
      publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: otherHash }, randomBytes(32)),
      publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash, oaepLabel: Buffer.of(1) }, randomBytes(32)),
      publicEncrypt({ key: other, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, randomBytes(32)),
      // The first byte, which Manger's attack asks about, and rubbish behind a good one.
      withByte(0, 1),
      withByte(1, 0),
      raw(Buffer.concat([Buffer.alloc(255), Buffer.of(1)])),
    ]) {
      await expectRefusal(decrypt({ KeyId, CiphertextBlob, EncryptionAlgorithm: algorithm }), 'InvalidCiphertextException', '')
    }
  })
})

describe('Encrypt and Decrypt with RSA keys refuse', () => {
  test('an encryption context', async () => {
    const { KeyId } = await rsa()
    const EncryptionContext = { a: 'b' }
    const algorithm = 'RSAES_OAEP_SHA_256' as const
    await expectRefusal(
      encrypt({ KeyId, Plaintext: Buffer.of(1), EncryptionAlgorithm: algorithm, EncryptionContext }),
      'ValidationException',
      noContext,
    )
    await expectRefusal(
      decrypt({ KeyId, CiphertextBlob: Buffer.alloc(256), EncryptionAlgorithm: algorithm, EncryptionContext }),
      'ValidationException',
      noContext,
    )
    // None in it is none.
    await encrypt({ KeyId, Plaintext: Buffer.of(1), EncryptionAlgorithm: algorithm, EncryptionContext: {} })
  })

  test('algorithms that are not the key’s', async () => {
    const key = await rsa()
    const symmetric = await contract.key()
    const words = (algorithm: string, spec: string) => `Algorithm ${algorithm} is incompatible with key spec ${spec}.`
    const Plaintext = Buffer.of(1)
    await expectRefusal(encrypt({ KeyId: key.KeyId, Plaintext }), 'InvalidKeyUsageException', words('SYMMETRIC_DEFAULT', 'RSA_2048'))
    await expectRefusal(
      encrypt({ KeyId: key.KeyId, Plaintext, EncryptionAlgorithm: 'SM2PKE' }),
      'InvalidKeyUsageException',
      words('SM2PKE', 'RSA_2048'),
    )
    await expectRefusal(
      decrypt({ KeyId: symmetric.KeyId, CiphertextBlob: Buffer.alloc(256), EncryptionAlgorithm: 'RSAES_OAEP_SHA_1' }),
      'InvalidKeyUsageException',
      words('RSAES_OAEP_SHA_1', 'SYMMETRIC_DEFAULT'),
    )
    await expectRefusal(
      contract.kms.send(new GenerateDataKeyCommand({ KeyId: key.KeyId, KeySpec: 'AES_256' })),
      'InvalidKeyUsageException',
      words('SYMMETRIC_DEFAULT', 'RSA_2048'),
    )
    await expectRefusal(
      contract.kms.send(new GenerateDataKeyPairCommand({ KeyId: key.KeyId, KeyPairSpec: 'ECC_NIST_P256' })),
      'InvalidKeyUsageException',
      words('SYMMETRIC_DEFAULT', 'RSA_2048'),
    )
  })

  test('a ciphertext whose key is not named, or that is another key’s', async () => {
    const key = await rsa()
    const symmetric = await contract.key()
    const EncryptionAlgorithm = 'RSAES_OAEP_SHA_256' as const
    const { CiphertextBlob } = await encrypt({ KeyId: key.KeyId, Plaintext: Buffer.of(1), EncryptionAlgorithm })
    const { CiphertextBlob: symmetricBlob } = await encrypt({ KeyId: symmetric.KeyId, Plaintext: Buffer.of(1) })
    await expectRefusal(decrypt({ CiphertextBlob, EncryptionAlgorithm }), 'ValidationException', 'KeyId must not be null')
    await expectRefusal(decrypt({ CiphertextBlob }), 'InvalidCiphertextException', '')
    // Without its algorithm it is read as a blob that says its key.
    await expectRefusal(decrypt({ KeyId: key.KeyId, CiphertextBlob }), 'InvalidCiphertextException', '')
    await expectRefusal(
      decrypt({ KeyId: key.KeyId, CiphertextBlob: symmetricBlob }),
      'IncorrectKeyException',
      'The key ID in the request does not identify a CMK that can perform this operation.',
    )
    const signing = await keys.key('RSA_2048', 'SIGN_VERIFY')
    await expectRefusal(
      decrypt({ KeyId: signing.KeyId, CiphertextBlob, EncryptionAlgorithm }),
      'InvalidKeyUsageException',
      `${signing.Arn} key usage is SIGN_VERIFY which is not valid for Decrypt.`,
    )
    await expectRefusal(
      encrypt({ KeyId: signing.KeyId, Plaintext: Buffer.of(1), EncryptionAlgorithm }),
      'InvalidKeyUsageException',
      `${signing.Arn} key usage is SIGN_VERIFY which is not valid for Encrypt.`,
    )
  })

  test('a dry run as the call would have been answered', async () => {
    const { KeyId } = await rsa()
    const EncryptionAlgorithm = 'RSAES_OAEP_SHA_256' as const
    const { CiphertextBlob } = await encrypt({ KeyId, Plaintext: Buffer.of(1), EncryptionAlgorithm })
    await expectRefusal(encrypt({ KeyId, Plaintext: Buffer.of(1), EncryptionAlgorithm, DryRun: true }), 'DryRunOperationException', /./)
    await expectRefusal(decrypt({ KeyId, CiphertextBlob, EncryptionAlgorithm, DryRun: true }), 'DryRunOperationException', /./)
    await expectRefusal(
      decrypt({ KeyId, CiphertextBlob: Buffer.alloc(256, 7), EncryptionAlgorithm, DryRun: true }),
      'InvalidCiphertextException',
      '',
    )
    await expectRefusal(
      decrypt({ KeyId, EncryptionAlgorithm, DryRun: true, DryRunModifiers: ['IGNORE_CIPHERTEXT'] }),
      'DryRunOperationException',
      /./,
    )
  })
})

describe('ReEncrypt', () => {
  test('goes from RSA to symmetric, back, and from one RSA key to another', async () => {
    const [small, large, symmetric] = [await rsa(), await rsa('RSA_3072'), await contract.key()]
    const plaintext = Buffer.from('carried along')
    const first = await encrypt({ KeyId: small.KeyId, Plaintext: plaintext, EncryptionAlgorithm: 'RSAES_OAEP_SHA_1' })
    const second = withoutMetadata(
      await reEncrypt({
        CiphertextBlob: first.CiphertextBlob,
        SourceKeyId: small.KeyId,
        SourceEncryptionAlgorithm: 'RSAES_OAEP_SHA_1',
        DestinationKeyId: symmetric.KeyId,
        DestinationEncryptionContext: { a: 'b' },
      }),
    )
    expect(second).toEqual({
      CiphertextBlob: expect.any(Uint8Array),
      SourceKeyId: small.Arn,
      KeyId: symmetric.Arn,
      SourceEncryptionAlgorithm: 'RSAES_OAEP_SHA_1',
      DestinationEncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
      DestinationKeyMaterialId: symmetric.CurrentKeyMaterialId,
    })
    const third = withoutMetadata(
      await reEncrypt({
        CiphertextBlob: second.CiphertextBlob,
        SourceEncryptionContext: { a: 'b' },
        DestinationKeyId: large.KeyId,
        DestinationEncryptionAlgorithm: 'RSAES_OAEP_SHA_256',
      }),
    )
    expect(third).toEqual({
      CiphertextBlob: expect.any(Uint8Array),
      SourceKeyId: symmetric.Arn,
      KeyId: large.Arn,
      SourceEncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
      DestinationEncryptionAlgorithm: 'RSAES_OAEP_SHA_256',
      SourceKeyMaterialId: symmetric.CurrentKeyMaterialId,
    })
    const fourth = await reEncrypt({
      CiphertextBlob: third.CiphertextBlob,
      SourceKeyId: large.KeyId,
      SourceEncryptionAlgorithm: 'RSAES_OAEP_SHA_256',
      DestinationKeyId: small.KeyId,
      DestinationEncryptionAlgorithm: 'RSAES_OAEP_SHA_256',
    })
    const opened = await decrypt({ KeyId: small.KeyId, CiphertextBlob: fourth.CiphertextBlob, EncryptionAlgorithm: 'RSAES_OAEP_SHA_256' })
    expect(Buffer.from(given(opened.Plaintext))).toEqual(plaintext)
  })

  test('refuses what the other key has no room for, what is not named, and contexts', async () => {
    const [small, symmetric] = [await rsa(), await contract.key()]
    const { CiphertextBlob } = await encrypt({ KeyId: symmetric.KeyId, Plaintext: Buffer.alloc(191) })
    const to = { DestinationKeyId: small.KeyId, DestinationEncryptionAlgorithm: 'RSAES_OAEP_SHA_256' } as const
    await expectRefusal(
      reEncrypt({ CiphertextBlob, ...to }),
      'ValidationException',
      'Algorithm RSAES_OAEP_SHA_256 and key spec RSA_2048 cannot encrypt data larger than 190 bytes.',
    )
    await expectRefusal(reEncrypt({ CiphertextBlob, ...to, DestinationEncryptionContext: { a: 'b' } }), 'ValidationException', noContext)
    await expectRefusal(
      reEncrypt({ CiphertextBlob, DestinationKeyId: symmetric.KeyId, SourceEncryptionAlgorithm: 'RSAES_OAEP_SHA_256' }),
      'ValidationException',
      'SourceKeyId must not be null',
    )
  })
})
