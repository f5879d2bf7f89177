/** Key pairs that sign or agree: what GetPublicKey shows, signatures and secrets against OpenSSL both ways, and everything that is no signature. */
import {
  constants,
  createECDH,
  createHash,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  randomBytes,
  verify,
  type KeyObject,
} from 'node:crypto'
import {
  DeriveSharedSecretCommand,
  DescribeKeyCommand,
  DecapsulateCommand,
  DisableKeyCommand,
  GenerateMacCommand,
  ScheduleKeyDeletionCommand,
  VerifyMacCommand,
  EncapsulateCommand,
  GetPublicKeyCommand,
  SignCommand,
  VerifyCommand,
  type KeySpec,
  type SignCommandInput,
  type SigningAlgorithmSpec,
  type VerifyCommandInput,
} from '@aws-sdk/client-kms'
import { describe, expect, test } from 'vitest'
import { useKeys } from './key-pairs.ts'
import { describeOurs, expectProblems, expectRefusal, given, refusalOf, useContract, withoutMetadata } from './kit.ts'

const contract = useContract()
const keys = useKeys(contract)

const rsaSpecs = ['RSA_2048', 'RSA_3072', 'RSA_4096'] as const
const rsaAlgorithms = [
  'RSASSA_PKCS1_V1_5_SHA_256',
  'RSASSA_PKCS1_V1_5_SHA_384',
  'RSASSA_PKCS1_V1_5_SHA_512',
  'RSASSA_PSS_SHA_256',
  'RSASSA_PSS_SHA_384',
  'RSASSA_PSS_SHA_512',
] as const
const curves = [
  { spec: 'ECC_NIST_P256', algorithm: 'ECDSA_SHA_256', curve: 'prime256v1', bytes: 32 },
  { spec: 'ECC_NIST_P384', algorithm: 'ECDSA_SHA_384', curve: 'secp384r1', bytes: 48 },
  { spec: 'ECC_NIST_P521', algorithm: 'ECDSA_SHA_512', curve: 'secp521r1', bytes: 66 },
  { spec: 'ECC_SECG_P256K1', algorithm: 'ECDSA_SHA_256', curve: 'secp256k1', bytes: 32 },
] as const
const agreeing = curves.filter(({ spec }) => spec !== 'ECC_SECG_P256K1')

interface Case {
  readonly spec: KeySpec
  readonly algorithm: SigningAlgorithmSpec
}
const hashed: readonly Case[] = [
  ...rsaSpecs.flatMap((spec) => rsaAlgorithms.map((algorithm) => ({ spec, algorithm }))),
  ...curves.map(({ spec, algorithm }) => ({ spec, algorithm })),
]
const ed25519 = { spec: 'ECC_NIST_EDWARDS25519', algorithm: 'ED25519_SHA_512' } as const

const hashOf = (algorithm: string): string => `sha${algorithm.slice(-3)}`
const digestOf = (algorithm: string, message: Buffer): Buffer => createHash(hashOf(algorithm)).update(message).digest()

/** OpenSSL's word on it. */
function opensslVerifies(key: KeyObject, algorithm: string, message: Buffer, signature: Uint8Array): boolean {
  if (algorithm === 'ED25519_SHA_512') return verify(undefined, message, key, signature)
  const padding = algorithm.includes('PSS') ? { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: Number(algorithm.slice(-3)) / 8 } : {}
  return verify(hashOf(algorithm), message, { key, ...padding }, signature)
}

const sign = async (input: SignCommandInput) => Buffer.from(given((await contract.kms.send(new SignCommand(input))).Signature))
const check = (input: VerifyCommandInput) => contract.kms.send(new VerifyCommand(input))
/** Refused as no signature: AWS never answers SignatureValid false. */
const expectInvalid = (input: VerifyCommandInput) => expectRefusal(check(input), 'KMSInvalidSignatureException', '')

describe('CreateKey and DescribeKey of key pairs', () => {
  test.each([
    ...rsaSpecs.map((spec) => ({ spec, usage: 'SIGN_VERIFY' as const, lists: { SigningAlgorithms: rsaAlgorithms } })),
    {
      spec: 'RSA_2048' as const,
      usage: 'ENCRYPT_DECRYPT' as const,
      lists: { EncryptionAlgorithms: ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'] },
    },
    ...curves.map(({ spec, algorithm }) => ({ spec, usage: 'SIGN_VERIFY' as const, lists: { SigningAlgorithms: [algorithm] } })),
    ...agreeing.map(({ spec }) => ({ spec, usage: 'KEY_AGREEMENT' as const, lists: { KeyAgreementAlgorithms: ['ECDH'] } })),
    {
      spec: ed25519.spec,
      usage: 'SIGN_VERIFY' as const,
      lists: { SigningAlgorithms: ['ED25519_PH_SHA_512', 'ED25519_SHA_512'] },
    },
  ])('a $spec for $usage shows its one list of algorithms, in AWS’s order, and no key material', async ({ spec, usage, lists }) => {
    const key = await keys.key(spec, usage)
    const { KeyMetadata } = await contract.kms.send(new DescribeKeyCommand({ KeyId: key.KeyId }))
    expect(KeyMetadata).toEqual({
      AWSAccountId: contract.accountId,
      KeyId: key.KeyId,
      Arn: key.Arn,
      CreationDate: expect.any(Date),
      Enabled: true,
      Description: '',
      KeyUsage: usage,
      KeyState: 'Enabled',
      Origin: 'AWS_KMS',
      KeyManager: 'CUSTOMER',
      CustomerMasterKeySpec: spec,
      KeySpec: spec,
      MultiRegion: false,
      ...lists,
    })
    expect(KeyMetadata).toEqual(key)
  })

  describeOurs('of what the token cannot make', () => {
    test.each([
      { spec: 'SM2', usage: 'SIGN_VERIFY' },
      { spec: 'ML_DSA_44', usage: 'SIGN_VERIFY' },
      { spec: 'ML_DSA_87', usage: 'SIGN_VERIFY' },
      { spec: 'ML_KEM_768', usage: 'ENCAPSULATE_DECAPSULATE' },
    ] as const)('refuses a $spec, and says why', async ({ spec, usage }) => {
      await expectRefusal(
        contract.key({ KeySpec: spec, KeyUsage: usage }),
        'UnsupportedOperationException',
        `KeySpec ${spec} is not supported: the connected token has no mechanism for it.`,
      )
    })
  })
})

describe('GetPublicKey', () => {
  test.each([
    { spec: 'RSA_2048', usage: 'SIGN_VERIFY', type: 'rsa', details: { modulusLength: 2048, publicExponent: 65_537n } },
    { spec: 'RSA_2048', usage: 'ENCRYPT_DECRYPT', type: 'rsa', details: { modulusLength: 2048, publicExponent: 65_537n } },
    { spec: 'RSA_4096', usage: 'SIGN_VERIFY', type: 'rsa', details: { modulusLength: 4096, publicExponent: 65_537n } },
    ...curves.map(({ spec, curve }) => ({ spec, usage: 'SIGN_VERIFY' as const, type: 'ec', details: { namedCurve: curve } })),
    { spec: 'ECC_NIST_P384', usage: 'KEY_AGREEMENT', type: 'ec', details: { namedCurve: 'secp384r1' } },
    { spec: 'ECC_NIST_EDWARDS25519', usage: 'SIGN_VERIFY', type: 'ed25519', details: {} },
  ] as const)('of a $spec for $usage answers what OpenSSL reads and writes alike', async ({ spec, usage, type, details }) => {
    const key = await keys.key(spec, usage)
    const { PublicKey, ...answer } = withoutMetadata(await contract.kms.send(new GetPublicKeyCommand({ KeyId: key.Arn })))
    const { SigningAlgorithms, EncryptionAlgorithms, KeyAgreementAlgorithms } = key
    expect(answer).toEqual({
      KeyId: key.Arn,
      CustomerMasterKeySpec: spec,
      KeySpec: spec,
      KeyUsage: usage,
      ...(SigningAlgorithms && { SigningAlgorithms }),
      ...(EncryptionAlgorithms && { EncryptionAlgorithms }),
      ...(KeyAgreementAlgorithms && { KeyAgreementAlgorithms }),
    })
    const read = createPublicKey({ key: Buffer.from(given(PublicKey)), format: 'der', type: 'spki' })
    expect({ type: read.asymmetricKeyType, details: read.asymmetricKeyDetails }).toEqual({ type, details })
    expect(read.export({ format: 'der', type: 'spki' })).toEqual(Buffer.from(given(PublicKey)))
  })

  test('of keys that have no public half is unsupported', async () => {
    const symmetric = await contract.key()
    await expectRefusal(contract.kms.send(new GetPublicKeyCommand({ KeyId: symmetric.KeyId })), 'UnsupportedOperationException', '')
    const hmac = await contract.key({ KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' })
    await expectRefusal(contract.kms.send(new GetPublicKeyCommand({ KeyId: hmac.KeyId })), 'UnsupportedOperationException', '')
  })
})

// Ed25519 signs messages only.
describe.each(hashed)('Sign with $algorithm and a $spec, of a digest', ({ spec, algorithm }) => {
  const named = async () => ({ KeyId: (await keys.key(spec, 'SIGN_VERIFY')).KeyId, SigningAlgorithm: algorithm })

  test('signs a digest as it signs the message', async () => {
    const message = randomBytes(5000)
    const digested = { ...(await named()), Message: digestOf(algorithm, message), MessageType: 'DIGEST' as const }
    const Signature = await sign(digested)
    expect(opensslVerifies(await keys.publicKey(spec, 'SIGN_VERIFY'), algorithm, message, Signature)).toBe(true)
    await expect(check({ ...digested, Signature })).resolves.toMatchObject({ SignatureValid: true })
    const short = message.subarray(0, 4096)
    const plain = await sign({ ...(await named()), Message: short })
    await expect(check({ ...digested, Message: digestOf(algorithm, short), Signature: plain })).resolves.toMatchObject({
      SignatureValid: true,
    })
    // Its digest is not the message.
    await expectInvalid({ ...(await named()), Message: digestOf(algorithm, short), Signature: plain })
  })
})

describe.each([...hashed, ed25519])('Sign with $algorithm and a $spec', ({ spec, algorithm }) => {
  const named = async () => ({ KeyId: (await keys.key(spec, 'SIGN_VERIFY')).KeyId, SigningAlgorithm: algorithm })

  test('makes signatures of a message that OpenSSL and Verify accept', async () => {
    const Message = randomBytes(200)
    const Signature = await sign({ ...(await named()), Message })
    expect(opensslVerifies(await keys.publicKey(spec, 'SIGN_VERIFY'), algorithm, Message, Signature)).toBe(true)
    expect(withoutMetadata(await check({ ...(await named()), Message, Signature }))).toEqual({
      KeyId: (await keys.key(spec, 'SIGN_VERIFY')).Arn,
      SignatureValid: true,
      SigningAlgorithm: algorithm,
    })
  })

  test('takes messages of 1 and of 4096 bytes', async () => {
    for (const Message of [Buffer.of(7), randomBytes(4096)]) {
      const Signature = await sign({ ...(await named()), Message })
      expect(opensslVerifies(await keys.publicKey(spec, 'SIGN_VERIFY'), algorithm, Message, Signature)).toBe(true)
    }
  })
})

describe.each([
  { spec: 'RSA_2048', algorithm: 'RSASSA_PKCS1_V1_5_SHA_256' },
  { spec: 'RSA_2048', algorithm: 'RSASSA_PSS_SHA_384' },
  { spec: 'ECC_NIST_P256', algorithm: 'ECDSA_SHA_256' },
  { spec: 'ECC_NIST_P521', algorithm: 'ECDSA_SHA_512' },
  { spec: 'ECC_SECG_P256K1', algorithm: 'ECDSA_SHA_256' },
  ed25519,
] as const)('Verify with $algorithm and a $spec', ({ spec, algorithm }) => {
  const asked = async () => {
    const Message = randomBytes(64)
    const request = { KeyId: (await keys.key(spec, 'SIGN_VERIFY')).KeyId, SigningAlgorithm: algorithm, Message }
    return { ...request, Signature: await sign(request) }
  }
  /** The same question about the digest, where there is one. */
  const bothForms = (request: VerifyCommandInput & { readonly Message: Buffer }): readonly VerifyCommandInput[] =>
    algorithm === 'ED25519_SHA_512'
      ? [request]
      : [request, { ...request, Message: digestOf(algorithm, request.Message), MessageType: 'DIGEST' }]

  test('refuses another message, and a signature with any bit turned', async () => {
    const request = await asked()
    for (const form of bothForms({ ...request, Message: randomBytes(64) })) await expectInvalid(form)
    for (const at of [0, 1, 7, request.Signature.length >> 1, request.Signature.length - 1]) {
      const Signature = Buffer.from(request.Signature)
      Signature[at] = given(Signature[at]) ^ 1
      for (const form of bothForms({ ...request, Signature })) await expectInvalid(form)
    }
  })

  test('refuses a signature that is too short or too long', async () => {
    const request = await asked()
    for (const Signature of [
      request.Signature.subarray(0, -1),
      request.Signature.subarray(1),
      request.Signature.subarray(0, 1),
      Buffer.concat([request.Signature, Buffer.of(0)]),
      Buffer.concat([Buffer.of(0), request.Signature]),
      randomBytes(6144),
    ]) {
      for (const form of bothForms({ ...request, Signature })) await expectInvalid(form)
    }
  })

  test('refuses what another key of the same kind signed', async () => {
    const request = await asked()
    const other = await contract.key({ KeySpec: spec, KeyUsage: 'SIGN_VERIFY' })
    for (const form of bothForms({ ...request, KeyId: other.KeyId })) await expectInvalid(form)
  })
})

describe('Verify of ECDSA', () => {
  test.each(curves)(
    'of $spec refuses every encoding but the one of DER, and numbers out of range',
    async ({ spec, algorithm, curve, bytes }) => {
      const Message = randomBytes(32)
      const request = { KeyId: (await keys.key(spec, 'SIGN_VERIFY')).KeyId, SigningAlgorithm: algorithm, Message }
      const der = await sign(request)
      const header = der[1] === 0x81 ? 3 : 2
      const content = der.subarray(header)
      const rBytes = given(content[1])
      const [r, s] = [content.subarray(2, 2 + rBytes), content.subarray(4 + rBytes)]
      const order = orderOf(curve, bytes)
      const integer = (value: Buffer) => Buffer.concat([Buffer.of(2, value.length), value])
      const sequence = (...parts: readonly Buffer[]) => {
        const all = Buffer.concat(parts)
        return Buffer.concat([Buffer.from(all.length < 128 ? [0x30, all.length] : [0x30, 0x81, all.length]), all])
      }
      expect(sequence(integer(r), integer(s))).toEqual(der)
      const zero = Buffer.of(0)
      for (const Signature of [
        sequence(integer(zero), integer(s)),
        sequence(integer(r), integer(zero)),
        sequence(integer(zero), integer(zero)),
        sequence(integer(order), integer(s)),
        sequence(integer(r), integer(order)),
        sequence(integer(plus(r, order)), integer(s)),
        sequence(integer(r), integer(plus(s, order))),
        // Longer than need be.
        sequence(integer(Buffer.concat([zero, r])), integer(s)),
        sequence(integer(r), integer(Buffer.concat([zero, s]))),
        // Lengths of BER: indefinite, and in more bytes than need be.
        Buffer.concat([Buffer.of(0x30, 0x80), content, Buffer.of(0, 0)]),
        Buffer.concat([Buffer.of(0x30, 0x82, 0, content.length), content]),
        // Something behind the second number, inside and outside.
        sequence(integer(r), integer(s), Buffer.of(5, 0)),
        Buffer.concat([der, Buffer.of(5, 0)]),
        sequence(integer(r)),
        sequence(),
        // Side by side, as other standards write them.
        Buffer.concat([padded(r, bytes), padded(s, bytes)]),
      ]) {
        await expectInvalid({ ...request, Signature })
        await expectInvalid({ ...request, Signature, Message: digestOf(algorithm, Message), MessageType: 'DIGEST' })
      }
    },
  )
})

describe('Verify of RSA', () => {
  test('refuses the other padding and another hash', async () => {
    const Message = randomBytes(32)
    const KeyId = (await keys.key('RSA_2048', 'SIGN_VERIFY')).KeyId
    const signatures = await Promise.all(
      rsaAlgorithms.map(async (SigningAlgorithm) => ({ SigningAlgorithm, Signature: await sign({ KeyId, SigningAlgorithm, Message }) })),
    )
    for (const { Signature, SigningAlgorithm: by } of signatures) {
      for (const SigningAlgorithm of rsaAlgorithms) {
        const request = { KeyId, SigningAlgorithm, Message, Signature }
        if (by === SigningAlgorithm) await check(request)
        else await expectInvalid(request)
      }
    }
  })

  test('refuses numbers that are no smaller than the modulus, and zero', async () => {
    const KeyId = (await keys.key('RSA_2048', 'SIGN_VERIFY')).KeyId
    const { n } = (await keys.publicKey('RSA_2048', 'SIGN_VERIFY')).export({ format: 'jwk' })
    for (const SigningAlgorithm of ['RSASSA_PSS_SHA_256', 'RSASSA_PKCS1_V1_5_SHA_256'] as const) {
      for (const Signature of [Buffer.alloc(256, 0xff), Buffer.from(given(n), 'base64url'), Buffer.alloc(256)]) {
        await expectInvalid({ KeyId, SigningAlgorithm, Message: Buffer.of(1), Signature })
      }
    }
  })
})

describe('Sign and Verify refuse', () => {
  const commands = { Sign: (input: SignCommandInput) => new SignCommand(input), Verify: verifyCommand }
  function verifyCommand(input: SignCommandInput): VerifyCommand {
    return new VerifyCommand({ ...input, Signature: Buffer.alloc(64) })
  }
  const send = (name: keyof typeof commands, input: SignCommandInput): Promise<unknown> =>
    name === 'Sign' ? contract.kms.send(commands.Sign(input)) : contract.kms.send(commands.Verify(input))
  const each = (['Sign', 'Verify'] as const).map((name) => ({ name }))

  test.each(each)('$name: an algorithm that the key has not, before the length of the digest is looked at', async ({ name }) => {
    const KeyId = (await keys.key('ECC_NIST_P256', 'SIGN_VERIFY')).KeyId
    for (const MessageType of ['RAW', 'DIGEST'] as const) {
      for (const SigningAlgorithm of ['ECDSA_SHA_384', 'RSASSA_PSS_SHA_256', 'ED25519_SHA_512', 'SM2DSA', 'ML_DSA_SHAKE_256'] as const) {
        await expectRefusal(
          send(name, { KeyId, Message: Buffer.alloc(5), MessageType, SigningAlgorithm }),
          'InvalidKeyUsageException',
          `Algorithm ${SigningAlgorithm} is incompatible with key spec ECC_NIST_P256.`,
        )
      }
    }
  })

  test.each(each)('$name: a digest of another length than the algorithm’s', async ({ name }) => {
    for (const { spec, algorithm } of hashed.filter((_, index) => index < 6 || index > 17)) {
      const KeyId = (await keys.key(spec, 'SIGN_VERIFY')).KeyId
      const bytes = Number(algorithm.slice(-3)) / 8
      for (const length of [1, bytes - 1, bytes + 1, 4096]) {
        await expectRefusal(
          send(name, { KeyId, Message: Buffer.alloc(length), MessageType: 'DIGEST', SigningAlgorithm: algorithm }),
          'ValidationException',
          `Digest is invalid length for algorithm ${algorithm}.`,
        )
      }
    }
  })

  test.each(each)('$name: a type of message that is not for the key', async ({ name }) => {
    for (const { spec, algorithm, type } of [
      { spec: 'ECC_NIST_P256', algorithm: 'ECDSA_SHA_256', type: 'EXTERNAL_MU' },
      { spec: 'RSA_2048', algorithm: 'RSASSA_PSS_SHA_256', type: 'EXTERNAL_MU' },
      { spec: 'ECC_NIST_EDWARDS25519', algorithm: 'ED25519_SHA_512', type: 'DIGEST' },
      { spec: 'ECC_NIST_EDWARDS25519', algorithm: 'ED25519_PH_SHA_512', type: 'RAW' },
    ] as const) {
      const KeyId = (await keys.key(spec, 'SIGN_VERIFY')).KeyId
      await expectRefusal(
        send(name, { KeyId, Message: Buffer.alloc(64), MessageType: type, SigningAlgorithm: algorithm }),
        'ValidationException',
        `Message type ${type} is incompatible with key spec ${spec}.`,
      )
    }
  })

  test.each(each)('$name: a key of another usage', async ({ name }) => {
    for (const { spec, usage } of [
      { spec: 'RSA_2048', usage: 'ENCRYPT_DECRYPT' },
      { spec: 'ECC_NIST_P256', usage: 'KEY_AGREEMENT' },
    ] as const) {
      const key = await keys.key(spec, usage)
      await expectRefusal(
        send(name, { KeyId: key.KeyId, Message: Buffer.alloc(5), SigningAlgorithm: 'ECDSA_SHA_256' }),
        'InvalidKeyUsageException',
        `${key.Arn} key usage is ${usage} which is not valid for ${name}.`,
      )
    }
  })

  test.each(each)('$name: no message, one of more than 4096 bytes, and values that no list has', async ({ name }) => {
    const KeyId = (await keys.key('ECC_NIST_P256', 'SIGN_VERIFY')).KeyId
    const lists =
      'RSASSA_PSS_SHA_256, RSASSA_PSS_SHA_384, RSASSA_PSS_SHA_512, RSASSA_PKCS1_V1_5_SHA_256, RSASSA_PKCS1_V1_5_SHA_384, ' +
      'RSASSA_PKCS1_V1_5_SHA_512, ECDSA_SHA_256, ECDSA_SHA_384, ECDSA_SHA_512, SM2DSA, ML_DSA_SHAKE_256, ED25519_SHA_512, ED25519_PH_SHA_512'
    await expectProblems(send(name, { KeyId, Message: Buffer.alloc(0), SigningAlgorithm: 'ECDSA_SHA_256' }), [
      "Value at 'message' failed to satisfy constraint: Member must have length greater than or equal to 1",
    ])
    await expectProblems(
      send(name, { KeyId, Message: Buffer.alloc(4097), SigningAlgorithm: 'NONE' as never, MessageType: 'DIGESTED' as never }),
      [
        "Value at 'message' failed to satisfy constraint: Member must have length less than or equal to 4096",
        `Value 'NONE' at 'signingAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [${lists}]`,
        "Value 'DIGESTED' at 'messageType' failed to satisfy constraint: Member must satisfy enum value set: [RAW, DIGEST, EXTERNAL_MU]",
      ],
    )
  })

  describeOurs('what the token cannot do', () => {
    test('a signature by Ed25519ph; it verifies one as it does every other', async () => {
      const KeyId = (await keys.key('ECC_NIST_EDWARDS25519', 'SIGN_VERIFY')).KeyId
      const request = { KeyId, Message: Buffer.alloc(64), MessageType: 'DIGEST', SigningAlgorithm: 'ED25519_PH_SHA_512' } as const
      await expectRefusal(sign(request), 'UnsupportedOperationException', 'The connected token has no mechanism for this operation.')
      const plain = await sign({ KeyId, Message: request.Message, SigningAlgorithm: 'ED25519_SHA_512' })
      for (const Signature of [plain, plain.subarray(1), Buffer.alloc(64)]) await expectInvalid({ ...request, Signature })
    })
  })

  test('a dry run as the call would have been answered', async () => {
    const succeeded = 'The request would have succeeded, but the DryRun option is set.'
    const request = {
      KeyId: (await keys.key('ECC_NIST_P256', 'SIGN_VERIFY')).KeyId,
      Message: Buffer.alloc(5),
      SigningAlgorithm: 'ECDSA_SHA_256' as const,
    }
    await expectRefusal(sign({ ...request, DryRun: true }), 'DryRunOperationException', succeeded)
    const Signature = await sign(request)
    await expectRefusal(check({ ...request, Signature, DryRun: true }), 'DryRunOperationException', succeeded)
    await expectRefusal(check({ ...request, Message: Buffer.alloc(6), Signature, DryRun: true }), 'KMSInvalidSignatureException', '')
    await expectRefusal(sign({ ...request, SigningAlgorithm: 'ECDSA_SHA_512', DryRun: true }), 'InvalidKeyUsageException', /ECDSA_SHA_512/)
  })
})

describe('DeriveSharedSecret', () => {
  const derive = (KeyId: string, PublicKey: Buffer, more: object = {}) =>
    contract.kms.send(new DeriveSharedSecretCommand({ KeyId, KeyAgreementAlgorithm: 'ECDH', PublicKey, ...more }))
  const spkiOf = (key: KeyObject): Buffer => key.export({ format: 'der', type: 'spki' })

  test.each(agreeing)('with a $spec comes to what OpenSSL comes to', async ({ spec, curve, bytes }) => {
    const key = await keys.key(spec, 'KEY_AGREEMENT')
    const ours = await keys.publicKey(spec, 'KEY_AGREEMENT')
    // Often enough that one of the secrets begins with a zero now and then: it must not be cut off.
    for (let i = 0; i < 8; i++) {
      const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: curve })
      const answer = withoutMetadata(await derive(key.KeyId, spkiOf(publicKey)))
      expect({ ...answer, SharedSecret: Buffer.from(given(answer.SharedSecret)) }).toEqual({
        KeyId: key.Arn,
        SharedSecret: diffieHellman({ privateKey, publicKey: ours }),
        KeyAgreementAlgorithm: 'ECDH',
        KeyOrigin: 'AWS_KMS',
      })
      expect(given(answer.SharedSecret)).toHaveLength(bytes)
    }
  })

  test('of two keys gives both sides the same', async () => {
    const [a, b] = await Promise.all([
      contract.key({ KeySpec: 'ECC_NIST_P256', KeyUsage: 'KEY_AGREEMENT' }),
      keys.key('ECC_NIST_P256', 'KEY_AGREEMENT'),
    ])
    const [ofA, ofB] = await Promise.all([a, b].map(({ KeyId }) => contract.kms.send(new GetPublicKeyCommand({ KeyId }))))
    const one = await derive(a.KeyId, Buffer.from(given(ofB?.PublicKey)))
    const two = await derive(b.KeyId, Buffer.from(given(ofA?.PublicKey)))
    expect(Buffer.from(given(one.SharedSecret))).toEqual(Buffer.from(given(two.SharedSecret)))
  })

  test('refuses a public key that is none of the curve, without a word', async () => {
    const { KeyId } = await keys.key('ECC_NIST_P256', 'KEY_AGREEMENT')
    const good = spkiOf(generateKeyPairSync('ec', { namedCurve: 'prime256v1' }).publicKey)
    const turned = Buffer.from(good)
    turned[turned.length - 1] = given(turned.at(-1)) ^ 1
    const infinity = Buffer.concat([Buffer.from('3019301306072a8648ce3d020106082a8648ce3d030107030200', 'hex'), Buffer.of(0)])
    for (const bad of [
      Buffer.of(1),
      randomBytes(91),
      good.subarray(0, -1),
      Buffer.concat([good, Buffer.of(0)]),
      turned,
      infinity,
      spkiOf(generateKeyPairSync('ec', { namedCurve: 'secp384r1' }).publicKey),
      spkiOf(generateKeyPairSync('ec', { namedCurve: 'secp256k1' }).publicKey),
      spkiOf(generateKeyPairSync('ed25519').publicKey),
      spkiOf(generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey),
      createECDH('prime256v1').generateKeys(),
    ]) {
      await expectRefusal(derive(KeyId, bad), 'ValidationException', '')
    }
  })

  test('refuses keys of another usage, other algorithms, and a recipient', async () => {
    const good = spkiOf(generateKeyPairSync('ec', { namedCurve: 'prime256v1' }).publicKey)
    const signing = await keys.key('ECC_NIST_P256', 'SIGN_VERIFY')
    await expectRefusal(
      derive(signing.KeyId, good),
      'InvalidKeyUsageException',
      `${signing.Arn} key usage is SIGN_VERIFY which is not valid for DeriveSharedSecret.`,
    )
    const { KeyId } = await keys.key('ECC_NIST_P256', 'KEY_AGREEMENT')
    await expectProblems(derive(KeyId, good, { KeyAgreementAlgorithm: 'DH' }), [
      "Value 'DH' at 'keyAgreementAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [ECDH]",
    ])
    await expectRefusal(derive(KeyId, good, { DryRun: true }), 'DryRunOperationException', /./)
    await expectRefusal(derive(KeyId, Buffer.of(1), { DryRun: true }), 'ValidationException', '')
    const Recipient = { KeyEncryptionAlgorithm: 'RSAES_OAEP_SHA_256' as const, AttestationDocument: Buffer.of(1) }
    const { name } = await refusalOf(derive(KeyId, good, { Recipient }))
    expect(['UnsupportedOperationException', 'ValidationException']).toContain(name)
  })
})

describe('A key that is not enabled', () => {
  test('signs, verifies, agrees and makes MACs for nobody, and does not show its public half', async () => {
    const kms = contract.kms
    const [signing, agreeing, hmac] = await Promise.all([
      contract.key({ KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' }),
      contract.key({ KeySpec: 'ECC_NIST_P256', KeyUsage: 'KEY_AGREEMENT' }),
      contract.key({ KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' }),
    ])
    const text = { Message: Buffer.of(1) }
    const by = { SigningAlgorithm: 'ECDSA_SHA_256', MacAlgorithm: 'HMAC_SHA_256', KeyAgreementAlgorithm: 'ECDH' } as const
    const calls = [
      { key: signing, call: (KeyId: string) => kms.send(new SignCommand({ KeyId, ...text, ...by })) },
      { key: signing, call: (KeyId: string) => kms.send(new VerifyCommand({ KeyId, ...text, ...by, Signature: Buffer.alloc(70) })) },
      { key: signing, call: (KeyId: string) => kms.send(new GetPublicKeyCommand({ KeyId })) },
      { key: agreeing, call: (KeyId: string) => kms.send(new DeriveSharedSecretCommand({ KeyId, PublicKey: Buffer.alloc(91), ...by })) },
      { key: hmac, call: (KeyId: string) => kms.send(new GenerateMacCommand({ KeyId, ...text, ...by })) },
      { key: hmac, call: (KeyId: string) => kms.send(new VerifyMacCommand({ KeyId, ...text, ...by, Mac: Buffer.alloc(32) })) },
      // The state comes before the usage.
      { key: hmac, call: (KeyId: string) => kms.send(new SignCommand({ KeyId, ...text, ...by })) },
    ]
    for (const { KeyId } of [signing, agreeing, hmac]) await kms.send(new DisableKeyCommand({ KeyId }))
    for (const { key, call } of calls) await expectRefusal(call(key.KeyId), 'DisabledException', `${key.Arn} is disabled.`)
    for (const { KeyId } of [signing, agreeing, hmac]) await kms.send(new ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: 7 }))
    for (const { key, call } of calls) await expectRefusal(call(key.KeyId), 'KMSInvalidStateException', `${key.Arn} is pending deletion.`)
  })
})

describe('Encapsulate and Decapsulate', () => {
  test('refuse every key that is not for it', async () => {
    for (const key of [await contract.key(), await keys.key('ECC_NIST_P256', 'KEY_AGREEMENT')]) {
      const words = (operation: string) => `${key.Arn} key usage is ${key.KeyUsage} which is not valid for ${operation}.`
      const named = { KeyId: key.KeyId, EncapsulationAlgorithm: 'ML_KEM' } as const
      await expectRefusal(contract.kms.send(new EncapsulateCommand(named)), 'InvalidKeyUsageException', words('Encapsulate'))
      await expectRefusal(
        contract.kms.send(new DecapsulateCommand({ ...named, SharedSecretCiphertextBlob: Buffer.alloc(1088) })),
        'InvalidKeyUsageException',
        words('Decapsulate'),
      )
    }
  })
})

// ---- numbers ----

const orders: Readonly<Record<string, string>> = {
  prime256v1: 'ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551',
  secp384r1: 'ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973',
  secp521r1:
    '01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409',
  secp256k1: 'fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141',
}

/** As a DER INTEGER's content. */
function asInteger(value: bigint): Buffer {
  const hex = value.toString(16)
  const bytes = Buffer.from(hex.padStart(hex.length + (hex.length % 2), '0'), 'hex')
  return given(bytes[0]) >= 0x80 ? Buffer.concat([Buffer.of(0), bytes]) : bytes
}
const orderOf = (curve: string, bytes: number): Buffer => asInteger(BigInt(`0x${given(orders[curve]).padStart(bytes * 2, '0')}`))
const plus = (a: Buffer, b: Buffer): Buffer => asInteger(BigInt(`0x${a.toString('hex')}`) + BigInt(`0x${b.toString('hex')}`))
const padded = (integer: Buffer, bytes: number): Buffer => {
  const value = integer[0] === 0 ? integer.subarray(1) : integer
  return Buffer.concat([Buffer.alloc(bytes - value.length), value])
}
