/** Imported key material: its wrapping keys, its import, its deletion, its coming back. The owner's side is node:crypto. */
import { createHmac, constants, publicEncrypt, randomBytes, verify } from 'node:crypto'
import {
  CancelKeyDeletionCommand,
  DecryptCommand,
  DeleteImportedKeyMaterialCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EnableKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GenerateMacCommand,
  GetParametersForImportCommand,
  GetPublicKeyCommand,
  ImportKeyMaterialCommand,
  ListKeyRotationsCommand,
  PutKeyPolicyCommand,
  ReplicateKeyCommand,
  RotateKeyOnDemandCommand,
  ScheduleKeyDeletionCommand,
  SignCommand,
  type CreateKeyCommandInput,
  type ImportKeyMaterialCommandInput,
  type KMSClient,
  type WrappingKeySpec,
} from '@aws-sdk/client-kms'
import { CloudTrailClient, LookupEventsCommand } from '@aws-sdk/client-cloudtrail'
import { describe, expect, test } from 'vitest'
import { makeEc, makeRsa, wrapMaterial, wrappingAlgorithms, type WrappingAlgorithm } from '../import-kit.ts'
import { describeOurs, expectRefusal, given, useContract, withoutMetadata, type TestKey } from './kit.ts'

const contract = useContract()

const text = Buffer.from('a secret')
const hourMs = 3_600_000
const externalKey = (input: CreateKeyCommandInput = {}): Promise<TestKey> => contract.key({ Origin: 'EXTERNAL', ...input })
const metadataOf = async (keyId: string) => given((await contract.kms.send(new DescribeKeyCommand({ KeyId: keyId }))).KeyMetadata)

interface Parameters {
  readonly token: Uint8Array
  readonly publicKey: Uint8Array
  readonly validTo: Date
  readonly arn: string
}

const parametersFor = async (
  keyId: string,
  algorithm: WrappingAlgorithm = 'RSAES_OAEP_SHA_256',
  spec: WrappingKeySpec = 'RSA_2048',
  kms: KMSClient = contract.kms,
): Promise<Parameters> => {
  const answer = await kms.send(new GetParametersForImportCommand({ KeyId: keyId, WrappingAlgorithm: algorithm, WrappingKeySpec: spec }))
  return {
    token: given(answer.ImportToken),
    publicKey: given(answer.PublicKey),
    validTo: given(answer.ParametersValidTo),
    arn: given(answer.KeyId),
  }
}

interface HowToImport {
  readonly algorithm?: WrappingAlgorithm
  readonly spec?: WrappingKeySpec
  readonly parameters?: Parameters
  readonly kms?: KMSClient
  readonly input?: Partial<ImportKeyMaterialCommandInput>
}

async function importInto(
  keyId: string,
  material: Uint8Array,
  how: HowToImport = {},
): Promise<{ readonly keyId: string; readonly materialId: string }> {
  const algorithm = how.algorithm ?? 'RSAES_OAEP_SHA_256'
  const { token, publicKey } = how.parameters ?? (await parametersFor(keyId, algorithm, how.spec, how.kms))
  const answer = await (how.kms ?? contract.kms).send(
    new ImportKeyMaterialCommand({
      KeyId: keyId,
      ImportToken: token,
      EncryptedKeyMaterial: wrapMaterial(publicKey, algorithm, material),
      ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
      ...how.input,
    }),
  )
  return { keyId: given(answer.KeyId), materialId: answer.KeyMaterialId ?? '' }
}

const encrypt = async (keyId: string): Promise<Uint8Array> =>
  given((await contract.kms.send(new EncryptCommand({ KeyId: keyId, Plaintext: text }))).CiphertextBlob)
const decrypt = async (blob: Uint8Array) => {
  const { Plaintext, KeyMaterialId } = await contract.kms.send(new DecryptCommand({ CiphertextBlob: blob }))
  return { text: Buffer.from(given(Plaintext)).toString(), materialId: KeyMaterialId }
}
const pendingImport = (arn: string): string => `${arn} is pending import.`

describe('a key whose origin is EXTERNAL', () => {
  test('waits for its material, and is enabled by it', async () => {
    const key = await externalKey()
    expect(key).toMatchObject({ Origin: 'EXTERNAL', KeyState: 'PendingImport', Enabled: false, KeySpec: 'SYMMETRIC_DEFAULT' })
    expect(Object.keys(key)).not.toEqual(
      expect.arrayContaining([expect.stringMatching(/^(?:CurrentKeyMaterialId|ExpirationModel|ValidTo)$/)]),
    )
    await expectRefusal(encrypt(key.KeyId), 'KMSInvalidStateException', pendingImport(key.Arn))
    await expectRefusal(contract.kms.send(new EnableKeyCommand({ KeyId: key.KeyId })), 'KMSInvalidStateException', pendingImport(key.Arn))

    const { keyId, materialId } = await importInto(key.KeyId, randomBytes(32))
    expect(keyId).toBe(key.Arn)
    expect(materialId).toMatch(/^[0-9a-f]{64}$/)
    expect(await metadataOf(key.KeyId)).toEqual({
      ...key,
      KeyState: 'Enabled',
      Enabled: true,
      CurrentKeyMaterialId: materialId,
      ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
    })
    const blob = await encrypt(key.KeyId)
    expect(await decrypt(blob)).toEqual({ text: text.toString(), materialId })
    const { Plaintext, CiphertextBlob } = await contract.kms.send(new GenerateDataKeyCommand({ KeyId: key.KeyId, KeySpec: 'AES_256' }))
    const opened = await contract.kms.send(new DecryptCommand({ CiphertextBlob }))
    expect(opened.Plaintext).toEqual(Plaintext)
  })

  test.each([
    ...wrappingAlgorithms.map((algorithm) => [algorithm, 'RSA_2048'] as const),
    ['RSAES_OAEP_SHA_256', 'RSA_3072'] as const,
    ['RSA_AES_KEY_WRAP_SHA_256', 'RSA_4096'] as const,
  ])('takes material wrapped with %s under %s', { timeout: 60_000 }, async (algorithm, spec) => {
    const key = await externalKey()
    await importInto(key.KeyId, randomBytes(32), { algorithm, spec })
    expect((await decrypt(await encrypt(key.KeyId))).text).toBe(text.toString())
  })

  test('makes the MACs that its material makes', async () => {
    for (const [spec, bytes, hash] of [
      ['HMAC_224', 28, 'sha224'],
      ['HMAC_256', 32, 'sha256'],
      ['HMAC_384', 48, 'sha384'],
      ['HMAC_512', 64, 'sha512'],
    ] as const) {
      const key = await externalKey({ KeySpec: spec, KeyUsage: 'GENERATE_VERIFY_MAC' })
      const material = randomBytes(bytes)
      expect((await importInto(key.KeyId, material)).materialId).toBe('')
      const { Mac } = await contract.kms.send(
        new GenerateMacCommand({ KeyId: key.KeyId, Message: text, MacAlgorithm: `HMAC_SHA_${bytes * 8}` as 'HMAC_SHA_256' }),
      )
      expect(Buffer.from(given(Mac))).toEqual(createHmac(hash, material).update(text).digest())
    }
  })

  test.each([
    ['ECC_NIST_P256', 'prime256v1', 'ECDSA_SHA_256', 'sha256'],
    ['ECC_NIST_P384', 'secp384r1', 'ECDSA_SHA_384', 'sha384'],
    ['ECC_NIST_P521', 'secp521r1', 'ECDSA_SHA_512', 'sha512'],
    ['ECC_SECG_P256K1', 'secp256k1', 'ECDSA_SHA_256', 'sha256'],
  ] as const)('signs with its owner’s %s key', { timeout: 60_000 }, async (spec, curve, algorithm, hash) => {
    const key = await externalKey({ KeySpec: spec, KeyUsage: 'SIGN_VERIFY' })
    const own = makeEc(curve)
    await importInto(key.KeyId, own.material, { algorithm: 'RSA_AES_KEY_WRAP_SHA_256' })
    const { Signature } = await contract.kms.send(new SignCommand({ KeyId: key.KeyId, Message: text, SigningAlgorithm: algorithm }))
    expect(verify(hash, text, own.publicKey, given(Signature))).toBe(true)
    const { PublicKey } = await contract.kms.send(new GetPublicKeyCommand({ KeyId: key.KeyId }))
    expect(Buffer.from(given(PublicKey))).toEqual(own.publicKey.export({ format: 'der', type: 'spki' }))
  })

  test('takes an elliptic curve key that RSA encrypts directly', async () => {
    const key = await externalKey({ KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' })
    const own = makeEc('prime256v1')
    await importInto(key.KeyId, own.material, { algorithm: 'RSAES_OAEP_SHA_256' })
    const { Signature } = await contract.kms.send(new SignCommand({ KeyId: key.KeyId, Message: text, SigningAlgorithm: 'ECDSA_SHA_256' }))
    expect(verify('sha256', text, own.publicKey, given(Signature))).toBe(true)
  })

  test('decrypts what was encrypted for its owner’s RSA key', { timeout: 60_000 }, async () => {
    for (const [bits, algorithm] of [
      [4096, 'RSA_AES_KEY_WRAP_SHA_1'],
      [2048, 'RSA_AES_KEY_WRAP_SHA_256'],
    ] as const) {
      const key = await externalKey({ KeySpec: `RSA_${bits}`, KeyUsage: 'ENCRYPT_DECRYPT' })
      const own = makeRsa(bits)
      await importInto(key.KeyId, own.material, { algorithm })
      const encrypted = publicEncrypt({ key: own.publicKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' }, text)
      const { Plaintext } = await contract.kms.send(
        new DecryptCommand({ KeyId: key.KeyId, CiphertextBlob: encrypted, EncryptionAlgorithm: 'RSAES_OAEP_SHA_256' }),
      )
      expect(Buffer.from(given(Plaintext))).toEqual(text)
      if (bits === 4096) continue
      // The same comes back, another does not.
      await contract.kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: key.KeyId }))
      await expectRefusal(importInto(key.KeyId, makeRsa(bits).material, { algorithm }), 'IncorrectKeyMaterialException', '')
      await importInto(key.KeyId, own.material, { algorithm })
      expect(await metadataOf(key.KeyId)).toMatchObject({ KeyState: 'Enabled' })
    }
  })
})

describe('GetParametersForImport', () => {
  test('answers a fresh RSA public key of the size asked for, good for a day', async () => {
    const key = await externalKey()
    const before = Date.now()
    const [one, two] = [await parametersFor(key.KeyId), await parametersFor(key.KeyId)]
    expect(one.arn).toBe(key.Arn)
    expect(Buffer.from(one.publicKey)).not.toEqual(Buffer.from(two.publicKey))
    expect(Math.abs(one.validTo.getTime() - before - 24 * hourMs)).toBeLessThan(300_000)
    // 2048 bits of modulus in a SubjectPublicKeyInfo with exponent 65537.
    expect(one.publicKey).toHaveLength(294)
  })

  test('has nothing for keys whose material is made here', async () => {
    const key = await contract.key()
    const refused = `${key.Arn} origin is AWS_KMS which is not valid for this operation.`
    await expectRefusal(parametersFor(key.KeyId), 'UnsupportedOperationException', refused)
    await expectRefusal(
      contract.kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: key.KeyId })),
      'UnsupportedOperationException',
      refused,
    )
    await expectRefusal(
      contract.kms.send(
        new ImportKeyMaterialCommand({
          KeyId: key.KeyId,
          ImportToken: text,
          EncryptedKeyMaterial: text,
          ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
        }),
      ),
      'UnsupportedOperationException',
      refused,
    )
  })

  test('refuses the wrapping that ended, SM2, and RSA keys without AES between', async () => {
    const key = await externalKey()
    const ask = (
      WrappingAlgorithm: 'RSAES_PKCS1_V1_5' | 'SM2PKE' | 'RSAES_OAEP_SHA_256',
      WrappingKeySpec: WrappingKeySpec,
      keyId = key.KeyId,
    ) => contract.kms.send(new GetParametersForImportCommand({ KeyId: keyId, WrappingAlgorithm, WrappingKeySpec }))
    await expectRefusal(ask('RSAES_PKCS1_V1_5', 'RSA_2048'), 'UnsupportedOperationException', /RSAES_PKCS1_V1_5/)
    await expectRefusal(ask('SM2PKE', 'RSA_2048'), 'UnsupportedOperationException', /SM2PKE/)
    await expectRefusal(ask('RSAES_OAEP_SHA_256', 'SM2'), 'UnsupportedOperationException', /SM2/)
    const rsa = await externalKey({ KeySpec: 'RSA_2048', KeyUsage: 'SIGN_VERIFY' })
    await expectRefusal(ask('RSAES_OAEP_SHA_256', 'RSA_4096', rsa.KeyId), 'UnsupportedOperationException', /RSAES_OAEP_SHA_256/)
    const long = await externalKey({ KeySpec: 'ECC_NIST_P521', KeyUsage: 'SIGN_VERIFY' })
    await expectRefusal(ask('RSAES_OAEP_SHA_256', 'RSA_2048', long.KeyId), 'UnsupportedOperationException', /ECC_NIST_P521/)
    // Of AES key wrap a token may tell blocks of 8 bytes only, and 28 are none.
    const short = await externalKey({ KeySpec: 'HMAC_224', KeyUsage: 'GENERATE_VERIFY_MAC' })
    for (const algorithm of ['RSA_AES_KEY_WRAP_SHA_1', 'RSA_AES_KEY_WRAP_SHA_256'] as const)
      await expectRefusal(parametersFor(short.KeyId, algorithm), 'UnsupportedOperationException', /HMAC_224/)
  })

  test('is for keys that are not about to be deleted', async () => {
    const key = await externalKey()
    await contract.kms.send(new ScheduleKeyDeletionCommand({ KeyId: key.KeyId, PendingWindowInDays: 7 }))
    await expectRefusal(parametersFor(key.KeyId), 'KMSInvalidStateException', `${key.Arn} is pending deletion.`)
    // Without material it does not come back as one that could be enabled.
    await contract.kms.send(new CancelKeyDeletionCommand({ KeyId: key.KeyId }))
    expect(await metadataOf(key.KeyId)).toMatchObject({ KeyState: 'PendingImport' })
  })
})

describeOurs('the wrapping keys of a key', () => {
  test('are few: a further one ends the oldest, whose token has then expired', { timeout: 60_000 }, async () => {
    const key = await externalKey()
    const all = []
    for (let i = 0; i < 5; i++) all.push(await parametersFor(key.KeyId))
    const importWith = ({ token, publicKey }: { readonly token: Uint8Array; readonly publicKey: Uint8Array }) =>
      contract.kms.send(
        new ImportKeyMaterialCommand({
          KeyId: key.KeyId,
          ImportToken: token,
          EncryptedKeyMaterial: wrapMaterial(publicKey, 'RSAES_OAEP_SHA_256', randomBytes(32)),
          ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
        }),
      )
    await expectRefusal(importWith(given(all[0])), 'ExpiredImportTokenException', '')
    await importWith(given(all[1]))
  })
})

describe('ImportKeyMaterial', () => {
  test('wants a date of expiry where the material expires, and none where it does not', async () => {
    const key = await externalKey()
    const attempt = (input: Partial<ImportKeyMaterialCommandInput>) =>
      contract.kms.send(new ImportKeyMaterialCommand({ KeyId: key.KeyId, ImportToken: text, EncryptedKeyMaterial: text, ...input }))
    const missing = 'A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES'
    await expectRefusal(attempt({}), 'ValidationException', missing)
    await expectRefusal(attempt({ ExpirationModel: 'KEY_MATERIAL_EXPIRES' }), 'ValidationException', missing)
    const soon = new Date(Date.now() + hourMs)
    await expectRefusal(attempt({ ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE', ValidTo: soon }), 'ValidationException', /validTo/)
    await expectRefusal(attempt({ ValidTo: new Date(Date.now() - hourMs) }), 'ValidationException', /validTo/)
    await expectRefusal(attempt({ ValidTo: new Date(Date.now() + 366 * 24 * hourMs) }), 'ValidationException', /validTo/)
  })

  test('shows when the material expires, to the second', async () => {
    const key = await externalKey()
    const validTo = new Date(Math.floor(Date.now() / 1000) * 1000 + hourMs)
    const { materialId } = await importInto(key.KeyId, randomBytes(32), {
      input: { ExpirationModel: 'KEY_MATERIAL_EXPIRES', ValidTo: validTo },
    })
    expect(await metadataOf(key.KeyId)).toMatchObject({
      KeyState: 'Enabled',
      ExpirationModel: 'KEY_MATERIAL_EXPIRES',
      ValidTo: validTo,
      CurrentKeyMaterialId: materialId,
    })
  })

  test('takes the token that came with the public key, and no other', async () => {
    const [key, other] = [await externalKey(), await externalKey()]
    const mine = await parametersFor(key.KeyId)
    const wrapped = wrapMaterial(mine.publicKey, 'RSAES_OAEP_SHA_256', randomBytes(32))
    const attempt = (keyId: string, token: Uint8Array, material: Uint8Array = wrapped) =>
      contract.kms.send(
        new ImportKeyMaterialCommand({
          KeyId: keyId,
          ImportToken: token,
          EncryptedKeyMaterial: material,
          ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
        }),
      )
    await expectRefusal(attempt(key.KeyId, text), 'InvalidImportTokenException', '')
    const flipped = Buffer.from(mine.token)
    flipped.writeUInt8(flipped.readUInt8(flipped.length - 1) ^ 1, flipped.length - 1)
    await expectRefusal(attempt(key.KeyId, flipped), 'InvalidImportTokenException', '')
    await expectRefusal(attempt(other.KeyId, mine.token), 'InvalidImportTokenException', '')
    const theirs = await parametersFor(key.KeyId)
    await expectRefusal(attempt(key.KeyId, theirs.token), 'InvalidCiphertextException', '')
    await expectRefusal(attempt(key.KeyId, mine.token, randomBytes(256)), 'InvalidCiphertextException', '')
    await expectRefusal(attempt(key.KeyId, mine.token, wrapped.subarray(1)), 'InvalidCiphertextException', '')
    expect(await metadataOf(key.KeyId)).toMatchObject({ KeyState: 'PendingImport' })
    await attempt(key.KeyId, mine.token)
    // A day long it is good for bringing the same again.
    await attempt(key.KeyId, mine.token)
  })

  test('refuses what is not 32 bytes for a symmetric key', async () => {
    const key = await externalKey()
    const parameters = await parametersFor(key.KeyId)
    for (const bytes of [1, 16, 24, 31, 33, 64]) {
      await expectRefusal(importInto(key.KeyId, randomBytes(bytes), { parameters }), 'InvalidCiphertextException', '')
    }
    expect(await metadataOf(key.KeyId)).toMatchObject({ KeyState: 'PendingImport' })
  })

  test('refuses a private key of another kind than the key’s', { timeout: 60_000 }, async () => {
    const key = await externalKey({ KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' })
    const algorithm = 'RSA_AES_KEY_WRAP_SHA_256'
    const parameters = await parametersFor(key.KeyId, algorithm)
    for (const material of [makeEc('secp384r1').material, makeEc('secp256k1').material, makeRsa(2048).material, randomBytes(32)]) {
      await expectRefusal(importInto(key.KeyId, material, { algorithm, parameters }), 'InvalidCiphertextException', '')
    }
  })

  test('knows of new and existing material only where a key can have several', async () => {
    const key = await externalKey({ KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' })
    for (const input of [{ ImportType: 'NEW_KEY_MATERIAL' }, { KeyMaterialDescription: 'x' }, { KeyMaterialId: '0'.repeat(64) }] as const) {
      await expectRefusal(importInto(key.KeyId, randomBytes(32), { input }), 'UnsupportedOperationException', /not supported/)
    }
    const symmetric = await externalKey()
    await expectRefusal(
      importInto(symmetric.KeyId, randomBytes(32), { input: { ImportType: 'NEW_KEY_MATERIAL', KeyMaterialId: '0'.repeat(64) } }),
      'ValidationException',
      /KeyMaterialId/,
    )
  })
})

describe('deleted material', () => {
  test('stops the key, and the same bytes revive it with everything it ever encrypted', async () => {
    const key = await externalKey()
    const material = randomBytes(32)
    const first = await importInto(key.KeyId, material, { input: { KeyMaterialDescription: 'from the vault' } })
    const blob = await encrypt(key.KeyId)

    expect(withoutMetadata(await contract.kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: key.KeyId })))).toEqual({
      KeyId: key.Arn,
      KeyMaterialId: first.materialId,
    })
    const stopped = await metadataOf(key.KeyId)
    expect(stopped).toMatchObject({ KeyState: 'PendingImport', Enabled: false, CurrentKeyMaterialId: first.materialId })
    expect(stopped).not.toHaveProperty('ExpirationModel')
    await expectRefusal(encrypt(key.KeyId), 'KMSInvalidStateException', pendingImport(key.Arn))
    await expectRefusal(decrypt(blob), 'KMSInvalidStateException', pendingImport(key.Arn))
    // It is gone already.
    await contract.kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: key.KeyId }))

    for (const input of [{}, { ImportType: 'EXISTING_KEY_MATERIAL' }] as const) {
      await expectRefusal(importInto(key.KeyId, randomBytes(32), { input }), 'IncorrectKeyMaterialException', '')
    }
    await expectRefusal(importInto(key.KeyId, material, { input: { ImportType: 'NEW_KEY_MATERIAL' } }), 'IncorrectKeyMaterialException', '')
    await expectRefusal(importInto(key.KeyId, material, { input: { KeyMaterialId: '0'.repeat(64) } }), 'IncorrectKeyMaterialException', '')
    const again = await importInto(key.KeyId, material, {
      algorithm: 'RSA_AES_KEY_WRAP_SHA_256',
      input: { KeyMaterialId: first.materialId },
    })
    expect(again.materialId).toBe(first.materialId)
    expect(await decrypt(blob)).toEqual({ text: text.toString(), materialId: first.materialId })
    const { Rotations } = await contract.kms.send(new ListKeyRotationsCommand({ KeyId: key.KeyId, IncludeKeyMaterial: 'ALL_KEY_MATERIAL' }))
    expect(Rotations).toEqual([
      expect.objectContaining({
        KeyMaterialId: first.materialId,
        KeyMaterialState: 'CURRENT',
        ImportState: 'IMPORTED',
        KeyMaterialDescription: 'from the vault',
      }),
    ])
  })

  test('comes back with another date of expiry; while it is there, too', async () => {
    const key = await externalKey()
    const material = randomBytes(32)
    await importInto(key.KeyId, material)
    const blob = await encrypt(key.KeyId)
    const validTo = new Date(Math.floor(Date.now() / 1000) * 1000 + hourMs)
    await importInto(key.KeyId, material, { input: { ExpirationModel: 'KEY_MATERIAL_EXPIRES', ValidTo: validTo } })
    expect(await metadataOf(key.KeyId)).toMatchObject({ ExpirationModel: 'KEY_MATERIAL_EXPIRES', ValidTo: validTo, KeyState: 'Enabled' })
    await importInto(key.KeyId, material)
    expect(await metadataOf(key.KeyId)).toMatchObject({ ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE' })
    expect((await decrypt(blob)).text).toBe(text.toString())
  })

  test('of a key that waits for its deletion leaves it waiting; cancelled, it waits for material', async () => {
    const key = await externalKey()
    const material = randomBytes(32)
    await importInto(key.KeyId, material)
    const blob = await encrypt(key.KeyId)
    await contract.kms.send(new ScheduleKeyDeletionCommand({ KeyId: key.KeyId, PendingWindowInDays: 7 }))
    await contract.kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: key.KeyId }))
    expect(await metadataOf(key.KeyId)).toMatchObject({ KeyState: 'PendingDeletion' })
    await contract.kms.send(new CancelKeyDeletionCommand({ KeyId: key.KeyId }))
    expect(await metadataOf(key.KeyId)).toMatchObject({ KeyState: 'PendingImport' })
    await importInto(key.KeyId, material)
    expect((await decrypt(blob)).text).toBe(text.toString())
  })

  test('does not enable what was disabled on purpose while it was there', async () => {
    const key = await externalKey()
    const material = randomBytes(32)
    await importInto(key.KeyId, material)
    await contract.kms.send(new DisableKeyCommand({ KeyId: key.KeyId }))
    await importInto(key.KeyId, material)
    expect(await metadataOf(key.KeyId)).toMatchObject({ KeyState: 'Disabled' })
  })
})

describe('new material for a key that has some', () => {
  test('waits for the rotation; then both open what they encrypted, and the key needs both', async () => {
    const key = await externalKey()
    const rotate = () => contract.kms.send(new RotateKeyOnDemandCommand({ KeyId: key.KeyId }))
    await expectRefusal(rotate(), 'KMSInvalidStateException', pendingImport(key.Arn))
    const [one, two] = [randomBytes(32), randomBytes(32)]
    const first = await importInto(key.KeyId, one)
    await expectRefusal(rotate(), 'KMSInvalidStateException', `No available key material pending rotation for the key: ${key.Arn}.`)
    const old = await encrypt(key.KeyId)

    const second = await importInto(key.KeyId, two, { input: { ImportType: 'NEW_KEY_MATERIAL', KeyMaterialDescription: 'second' } })
    expect(second.materialId).not.toBe(first.materialId)
    expect(await metadataOf(key.KeyId)).toMatchObject({ CurrentKeyMaterialId: first.materialId })
    const third = importInto(key.KeyId, randomBytes(32), { input: { ImportType: 'NEW_KEY_MATERIAL' } })
    await expectRefusal(
      third,
      'KMSInvalidStateException',
      new RegExp(
        `^New key material \\(id: [0-9a-f]{64}\\) cannot be imported into KMS key ${key.Arn}, because another key material \\(id: ${second.materialId}\\) is pending rotation\\.$`,
      ),
    )
    await rotate()
    expect(await metadataOf(key.KeyId)).toMatchObject({ CurrentKeyMaterialId: second.materialId, KeyState: 'Enabled' })
    const fresh = await encrypt(key.KeyId)
    expect(await decrypt(old)).toEqual({ text: text.toString(), materialId: first.materialId })
    expect(await decrypt(fresh)).toEqual({ text: text.toString(), materialId: second.materialId })

    // The one that is not current is named; without it the key stops all the same.
    await contract.kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: key.KeyId, KeyMaterialId: first.materialId }))
    await expectRefusal(decrypt(fresh), 'KMSInvalidStateException', pendingImport(key.Arn))
    await contract.kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: key.KeyId }))
    await importInto(key.KeyId, two)
    expect(await metadataOf(key.KeyId)).toMatchObject({ KeyState: 'PendingImport' })
    await importInto(key.KeyId, one)
    expect(await metadataOf(key.KeyId)).toMatchObject({ KeyState: 'Enabled', CurrentKeyMaterialId: second.materialId })
    expect((await decrypt(old)).text).toBe(text.toString())
    expect((await decrypt(fresh)).text).toBe(text.toString())
  })

  test('is forgotten when it is deleted before the rotation, and the key works on', async () => {
    const key = await externalKey()
    await importInto(key.KeyId, randomBytes(32))
    const input = { ImportType: 'NEW_KEY_MATERIAL' } as const
    const { materialId } = await importInto(key.KeyId, randomBytes(32), { input })
    await contract.kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: key.KeyId, KeyMaterialId: materialId }))
    expect(await metadataOf(key.KeyId)).toMatchObject({ KeyState: 'Enabled' })
    await expectRefusal(
      contract.kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: key.KeyId, KeyMaterialId: materialId })),
      'NotFoundException',
      /does not exist/,
    )
    await importInto(key.KeyId, randomBytes(32), { input })
  })
})

describe('imported material of a multi-Region key', () => {
  test('comes to the primary first, then to its replica, under one id; what one encrypts the other decrypts', async () => {
    const primary = await externalKey({ MultiRegion: true })
    const there = contract.client({ region: contract.otherRegion })
    await contract.kms.send(new ReplicateKeyCommand({ KeyId: primary.KeyId, ReplicaRegion: contract.otherRegion }))
    const material = randomBytes(32)
    await expectRefusal(importInto(primary.KeyId, material, { kms: there }), 'IncorrectKeyMaterialException', '')
    const { materialId } = await importInto(primary.KeyId, material)
    await expectRefusal(importInto(primary.KeyId, randomBytes(32), { kms: there }), 'IncorrectKeyMaterialException', '')
    expect((await importInto(primary.KeyId, material, { kms: there })).materialId).toBe(materialId)
    const replica = given((await there.send(new DescribeKeyCommand({ KeyId: primary.KeyId }))).KeyMetadata)
    expect(replica).toMatchObject({ KeyState: 'Enabled', Origin: 'EXTERNAL' })
    const { Plaintext } = await there.send(new DecryptCommand({ CiphertextBlob: await encrypt(primary.KeyId) }))
    expect(Buffer.from(given(Plaintext))).toEqual(text)

    // What the primary gives up before its rotation, the replica gives up too; then something else may come in its place.
    const input = { ImportType: 'NEW_KEY_MATERIAL' } as const
    const abandoned = randomBytes(32)
    const pending = await importInto(primary.KeyId, abandoned, { input })
    await importInto(primary.KeyId, abandoned, { kms: there })
    await contract.kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: primary.KeyId, KeyMaterialId: pending.materialId }))
    const listed = await there.send(new ListKeyRotationsCommand({ KeyId: primary.KeyId, IncludeKeyMaterial: 'ALL_KEY_MATERIAL' }))
    expect(given(listed.Rotations).map(({ KeyMaterialId }) => KeyMaterialId)).toEqual([materialId])
    const second = randomBytes(32)
    await importInto(primary.KeyId, second, { input })
    await importInto(primary.KeyId, second, { kms: there })
  })
})

describeOurs('policies and records', () => {
  test('a key policy may say how material is wrapped and when it expires', async () => {
    const key = await externalKey()
    const statement = (more: object) => ({ Principal: { AWS: `arn:aws:iam::${contract.accountId}:root` }, Resource: '*', ...more })
    const deny = (Action: string, Condition: object) => statement({ Effect: 'Deny', Action, Condition })
    const inAWeek = new Date(Date.now() + 7 * 24 * hourMs)
    const policy = {
      Version: '2012-10-17',
      Statement: [
        statement({ Effect: 'Allow', Action: 'kms:*' }),
        deny('kms:GetParametersForImport', { StringNotEquals: { 'kms:WrappingAlgorithm': 'RSA_AES_KEY_WRAP_SHA_256' } }),
        deny('kms:GetParametersForImport', { StringEquals: { 'kms:WrappingKeySpec': 'RSA_3072' } }),
        deny('kms:ImportKeyMaterial', { StringEquals: { 'kms:ExpirationModel': 'KEY_MATERIAL_DOES_NOT_EXPIRE' } }),
        deny('kms:ImportKeyMaterial', { DateGreaterThan: { 'kms:ValidTo': inAWeek.toISOString() } }),
      ],
    }
    await contract.kms.send(new PutKeyPolicyCommand({ KeyId: key.KeyId, Policy: JSON.stringify(policy) }))
    const denied = /explicit deny/
    await expectRefusal(parametersFor(key.KeyId, 'RSAES_OAEP_SHA_256'), 'AccessDeniedException', denied)
    await expectRefusal(parametersFor(key.KeyId, 'RSA_AES_KEY_WRAP_SHA_256', 'RSA_3072'), 'AccessDeniedException', denied)
    const how = (input: Partial<ImportKeyMaterialCommandInput>) => ({ algorithm: 'RSA_AES_KEY_WRAP_SHA_256', input }) as const
    await expectRefusal(importInto(key.KeyId, randomBytes(32), how({})), 'AccessDeniedException', denied)
    const expires = (hours: number) => how({ ExpirationModel: 'KEY_MATERIAL_EXPIRES', ValidTo: new Date(Date.now() + hours * hourMs) })
    await expectRefusal(importInto(key.KeyId, randomBytes(32), expires(8 * 24)), 'AccessDeniedException', denied)
    await importInto(key.KeyId, randomBytes(32), expires(6 * 24))
  })

  test('an import is recorded with the material’s id and whether it was ever in memory, and with none of its bytes', async () => {
    const key = await externalKey()
    const material = randomBytes(32)
    const { materialId } = await importInto(key.KeyId, material)
    const trail = new CloudTrailClient({
      endpoint: contract.ours.endpoint,
      region: contract.region,
      credentials: contract.ours.credentials,
    })
    const { Events } = await trail.send(
      new LookupEventsCommand({ LookupAttributes: [{ AttributeKey: 'ResourceName', AttributeValue: key.Arn }] }),
    )
    trail.destroy()
    const records = given(Events).map((event) => JSON.parse(given(event.CloudTrailEvent)) as Record<string, unknown>)
    const named = (name: string) => given(records.find(({ eventName }) => eventName === name))
    expect(named('ImportKeyMaterial')).toMatchObject({
      readOnly: false,
      requestParameters: { keyId: key.KeyId, expirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE' },
      responseElements: { keyId: key.Arn, keyMaterialId: materialId },
      additionalEventData: { keyMaterialExposedInMemory: expect.any(Boolean) },
    })
    expect(named('GetParametersForImport')).toMatchObject({
      readOnly: true,
      requestParameters: { keyId: key.KeyId, wrappingAlgorithm: 'RSAES_OAEP_SHA_256', wrappingKeySpec: 'RSA_2048' },
      responseElements: null,
    })
    const all = JSON.stringify(records)
    for (const form of ['hex', 'base64'] as const) expect(all).not.toContain(material.toString(form).slice(0, 40))
    expect(all).not.toMatch(/importToken|encryptedKeyMaterial/i)
  })
})
