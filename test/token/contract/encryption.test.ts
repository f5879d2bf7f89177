/** Encrypt, Decrypt, ReEncrypt, the data keys and random bytes: symmetric encryption bound to a context. */
import {
  CreateAliasCommand,
  DecryptCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GenerateDataKeyWithoutPlaintextCommand,
  GenerateRandomCommand,
  ReEncryptCommand,
  type DecryptCommandInput,
  type EncryptCommandInput,
  type ReEncryptCommandInput,
} from '@aws-sdk/client-kms'
import { randomBytes } from 'node:crypto'
import { beforeAll, describe, expect, test } from 'vitest'
import {
  describeOurs,
  expectProblems,
  expectRefusal,
  freshAlias,
  given,
  refusalOf,
  useContract,
  withoutMetadata,
  type TestKey,
} from './kit.ts'

const contract = useContract()
let key: TestKey
let other: TestKey
beforeAll(async () => {
  key = await contract.key()
  other = await contract.key()
})

const encrypt = (input: Partial<EncryptCommandInput> = {}) =>
  contract.kms.send(new EncryptCommand({ KeyId: key.KeyId, Plaintext: Buffer.from('a secret'), ...input }))
const blobOf = async (input: Partial<EncryptCommandInput> = {}) => given((await encrypt(input)).CiphertextBlob)
const decrypt = (input: DecryptCommandInput) => contract.kms.send(new DecryptCommand(input))
const textOf = async (input: DecryptCommandInput) => Buffer.from(given((await decrypt(input)).Plaintext)).toString()
const reEncrypt = (input: Partial<ReEncryptCommandInput>) =>
  contract.kms.send(new ReEncryptCommand({ DestinationKeyId: other.KeyId, ...input }))

const wrongKey = 'The key ID in the request does not identify a CMK that can perform this operation.'
const unseen =
  'The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.'
const dryRunSucceeded = 'The request would have succeeded, but the DryRun option is set.'
const tooLong = (member: string, bytes: number) =>
  `Value at '${member}' failed to satisfy constraint: Member must have length less than or equal to ${bytes}`
const tooShort = (member: string) => `Value at '${member}' failed to satisfy constraint: Member must have length greater than or equal to 1`

describe('Encrypt', () => {
  test('answers a blob, the key’s ARN and the algorithm, and nothing else', async () => {
    for (const more of [
      {},
      { EncryptionAlgorithm: 'SYMMETRIC_DEFAULT' as const },
      { EncryptionContext: { a: 'b' } },
      { GrantTokens: [] },
      { DryRun: false },
    ]) {
      expect(withoutMetadata(await encrypt(more))).toEqual({
        CiphertextBlob: expect.any(Uint8Array),
        KeyId: key.Arn,
        EncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
      })
    }
  })

  test.each([1, 2, 15, 16, 17, 32, 1000, 4095, 4096])('takes %i bytes, and Decrypt gives them back', async (bytes) => {
    const plaintext = randomBytes(bytes)
    const blob = await blobOf({ Plaintext: plaintext })
    expect(Buffer.from(given((await decrypt({ CiphertextBlob: blob })).Plaintext))).toEqual(plaintext)
    expect(blob.length).toBeLessThanOrEqual(6144)
  })

  test('refuses nothing at all and more than 4096 bytes, without showing them', async () => {
    await expectProblems(encrypt({ Plaintext: Buffer.alloc(0) }), [tooShort('plaintext')])
    await expectProblems(encrypt({ Plaintext: Buffer.alloc(4097) }), [tooLong('plaintext', 4096)])
  })

  test('makes another blob every time, under 400 bytes for a data key of 32', async () => {
    const blobs = await Promise.all(Array.from({ length: 20 }, () => blobOf({ Plaintext: Buffer.alloc(32) })))
    expect(new Set(blobs.map((blob) => Buffer.from(blob).toString('hex'))).size).toBe(20)
    for (const blob of blobs) expect(blob.length).toBeLessThan(400)
  })

  test('keeps neither plaintext nor context in the blob', async () => {
    const blob = Buffer.from(
      await blobOf({ Plaintext: Buffer.from('PLAINTEXT-MARKER'), EncryptionContext: { 'CONTEXT-MARKER': 'VALUE-MARKER' } }),
    )
    for (const marker of ['PLAINTEXT-MARKER', 'CONTEXT-MARKER', 'VALUE-MARKER']) expect(blob.includes(marker)).toBe(false)
  })

  test('refuses an algorithm that this key has not', async () => {
    await expectRefusal(encrypt({ EncryptionAlgorithm: 'RSAES_OAEP_SHA_256' }), 'InvalidKeyUsageException', /RSAES_OAEP_SHA_256/)
  })

  test('refuses a grant token that nobody gave', async () => {
    await expectRefusal(encrypt({ GrantTokens: ['nonsense'] }), 'InvalidGrantTokenException', /./)
  })
})

describe('Decrypt', () => {
  test('answers plaintext, key ARN, algorithm and key material; the key need not be named', async () => {
    const blob = await blobOf()
    for (const more of [{}, { KeyId: key.KeyId }, { KeyId: key.Arn }, { EncryptionAlgorithm: 'SYMMETRIC_DEFAULT' as const }]) {
      const answer = withoutMetadata(await decrypt({ CiphertextBlob: blob, ...more }))
      expect({ ...answer, Plaintext: Buffer.from(given(answer.Plaintext)).toString() }).toEqual({
        Plaintext: 'a secret',
        KeyId: key.Arn,
        EncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
        KeyMaterialId: key.CurrentKeyMaterialId,
      })
    }
  })

  test('of a blob that another key made is refused, whoever is named', async () => {
    const blob = await blobOf()
    const name = freshAlias()
    await contract.kms.send(new CreateAliasCommand({ AliasName: name, TargetKeyId: other.KeyId }))
    for (const KeyId of [other.KeyId, other.Arn, name])
      await expectRefusal(decrypt({ CiphertextBlob: blob, KeyId }), 'IncorrectKeyException', wrongKey)
  })

  test('wants the blob', async () => {
    await expectProblems(decrypt({ CiphertextBlob: undefined }), [
      "Value null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null",
    ])
    await expectProblems(decrypt({ CiphertextBlob: Buffer.alloc(0) }), [tooShort('ciphertextBlob')])
    await expectProblems(decrypt({ CiphertextBlob: Buffer.alloc(6145) }), [tooLong('ciphertextBlob', 6144)])
  })

  test('refuses an algorithm that this key has not', async () => {
    await expectRefusal(
      decrypt({ KeyId: key.KeyId, CiphertextBlob: await blobOf(), EncryptionAlgorithm: 'RSAES_OAEP_SHA_1' }),
      'InvalidKeyUsageException',
      /RSAES_OAEP_SHA_1/,
    )
  })
})

describe('a blob that was tampered with', () => {
  test('in any one byte is refused in the same words, with the key named and without', async () => {
    const blob = Buffer.from(await blobOf({ EncryptionContext: { purpose: 'test' } }))
    const outcomes = await Promise.all(
      Array.from(blob, async (byte, index) => {
        const changed = Buffer.from(blob)
        changed[index] = byte ^ (1 << (index % 8))
        const input = { CiphertextBlob: changed, EncryptionContext: { purpose: 'test' } }
        return [await refusalOf(decrypt(input)), await refusalOf(decrypt({ ...input, KeyId: key.KeyId }))]
      }),
    )
    expect(outcomes.flat()).toEqual(outcomes.flat().map(() => ({ name: 'InvalidCiphertextException', message: '', status: 400 })))
  })

  test('by shortening it anywhere or lengthening it is refused', async () => {
    const blob = Buffer.from(await blobOf())
    const lengths = [...Array(blob.length - 1).keys()].map((index) => index + 1)
    const changed = [
      ...lengths.map((length) => blob.subarray(0, length)),
      ...lengths.map((length) => blob.subarray(length)),
      ...[1, 16, 100].flatMap((more) => [Buffer.concat([blob, Buffer.alloc(more)]), Buffer.concat([Buffer.alloc(more), blob])]),
    ]
    const outcomes = await Promise.all(changed.map((CiphertextBlob) => refusalOf(decrypt({ CiphertextBlob }))))
    expect(outcomes).toEqual(outcomes.map(() => ({ name: 'InvalidCiphertextException', message: '', status: 400 })))
  })

  test('is refused when it is foreign, random, or put together from two', async () => {
    const [one, two] = [Buffer.from(await blobOf()), Buffer.from(await blobOf())]
    const foreign = [
      randomBytes(100),
      Buffer.alloc(184, 1),
      Buffer.concat([Buffer.from('0102020078', 'hex'), randomBytes(179)]),
      Buffer.from('not a blob at all'),
      Buffer.concat([one.subarray(0, 60), two.subarray(60)]).subarray(0, one.length - 1),
      ...[62, 70, 75].map((at) => Buffer.concat([one.subarray(0, at), two.subarray(at)])),
    ]
    for (const CiphertextBlob of foreign) await expectRefusal(decrypt({ CiphertextBlob }), 'InvalidCiphertextException', '')
    await expectRefusal(reEncrypt({ CiphertextBlob: given(foreign[0]) }), 'InvalidCiphertextException', '')
  })

  test('is refused by ReEncrypt in the same words', async () => {
    const blob = Buffer.from(await blobOf())
    const last = Buffer.from(blob)
    last[last.length - 1] = given(last.at(-1)) ^ 1
    for (const CiphertextBlob of [last, blob.subarray(1), Buffer.concat([blob, Buffer.alloc(1)])]) {
      await expectRefusal(reEncrypt({ CiphertextBlob }), 'InvalidCiphertextException', '')
    }
  })
})

describe('the encryption context', () => {
  test('is a set: the order of its pairs does not matter, and an empty one is none', async () => {
    const blob = await blobOf({ EncryptionContext: { a: '1', b: '2', c: '3' } })
    expect(await textOf({ CiphertextBlob: blob, EncryptionContext: { c: '3', a: '1', b: '2' } })).toBe('a secret')
    expect(await textOf({ CiphertextBlob: await blobOf({ EncryptionContext: {} }) })).toBe('a secret')
    expect(await textOf({ CiphertextBlob: await blobOf(), EncryptionContext: {} })).toBe('a secret')
  })

  test.each<{ readonly what: string; readonly context: Record<string, string> | undefined }>([
    { what: 'is missing', context: undefined },
    { what: 'is empty', context: {} },
    { what: 'has another value', context: { Purpose: 'x', Stage: 'y' } },
    { what: 'differs in the case of a value', context: { Purpose: 'Test', Stage: 'y' } },
    { what: 'differs in the case of a name', context: { purpose: 'test', Stage: 'y' } },
    { what: 'lacks a pair', context: { Purpose: 'test' } },
    { what: 'has a pair more', context: { Purpose: 'test', Stage: 'y', More: '' } },
    { what: 'has the values exchanged', context: { Purpose: 'y', Stage: 'test' } },
    { what: 'has names and values exchanged', context: { test: 'Purpose', y: 'Stage' } },
    { what: 'has a value’s letters moved to its name', context: { Purposet: 'est', Stage: 'y' } },
    { what: 'has white space', context: { Purpose: 'test ', Stage: 'y' } },
  ])('that $what opens nothing', async ({ context }) => {
    const blob = await blobOf({ EncryptionContext: { Purpose: 'test', Stage: 'y' } })
    const given = { CiphertextBlob: blob, ...(context && { EncryptionContext: context }) }
    await expectRefusal(decrypt(given), 'InvalidCiphertextException', '')
    await expectRefusal(
      reEncrypt({ CiphertextBlob: blob, ...(context && { SourceEncryptionContext: context }) }),
      'InvalidCiphertextException',
      '',
    )
  })

  test('may have any text: other scripts, empty values, the names of a language’s own machinery', async () => {
    const contexts: Record<string, string>[] = [
      { größe: '☃', '\u{1f511}': '\u{1f512}' },
      { empty: '' },
      JSON.parse('{"__proto__":"x","constructor":"y","toString":"z","hasOwnProperty":"w"}') as Record<string, string>,
      { 'aws:x-amz-cek-alg': 'AES/GCM/NoPadding' },
      { 'new\nline': '\t"\\' },
      Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`name-${i}`, `value-${i}`])),
    ]
    for (const EncryptionContext of contexts) {
      const blob = await blobOf({ EncryptionContext })
      expect(await textOf({ CiphertextBlob: blob, EncryptionContext })).toBe('a secret')
      await expectRefusal(decrypt({ CiphertextBlob: blob }), 'InvalidCiphertextException', '')
    }
  })

  test('tells apart texts that look alike', async () => {
    const composed = { name: 'é' }
    const decomposed = { name: 'e\u0301' }
    const blob = await blobOf({ EncryptionContext: composed })
    expect(await textOf({ CiphertextBlob: blob, EncryptionContext: composed })).toBe('a secret')
    await expectRefusal(decrypt({ CiphertextBlob: blob, EncryptionContext: decomposed }), 'InvalidCiphertextException', '')
  })

  test('binds data keys as it binds what Encrypt made', async () => {
    const EncryptionContext = { volume: '7' }
    for (const command of [
      new GenerateDataKeyCommand({ KeyId: key.KeyId, KeySpec: 'AES_256', EncryptionContext }),
      new GenerateDataKeyWithoutPlaintextCommand({ KeyId: key.KeyId, KeySpec: 'AES_256', EncryptionContext }),
    ]) {
      const { CiphertextBlob } = await contract.kms.send(command)
      await expectRefusal(decrypt({ CiphertextBlob: given(CiphertextBlob) }), 'InvalidCiphertextException', '')
      expect((await decrypt({ CiphertextBlob: given(CiphertextBlob), EncryptionContext })).Plaintext).toHaveLength(32)
    }
  })
})

describe('ReEncrypt', () => {
  test('moves a blob to another key and context; the old one opens as before', async () => {
    const blob = await blobOf({ EncryptionContext: { from: '1' } })
    const answer = withoutMetadata(
      await reEncrypt({ CiphertextBlob: blob, SourceEncryptionContext: { from: '1' }, DestinationEncryptionContext: { to: '2' } }),
    )
    expect(answer).toEqual({
      CiphertextBlob: expect.any(Uint8Array),
      SourceKeyId: key.Arn,
      KeyId: other.Arn,
      SourceEncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
      DestinationEncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
      SourceKeyMaterialId: key.CurrentKeyMaterialId,
      DestinationKeyMaterialId: other.CurrentKeyMaterialId,
    })
    const moved = given(answer.CiphertextBlob)
    expect(await textOf({ CiphertextBlob: moved, EncryptionContext: { to: '2' }, KeyId: other.KeyId })).toBe('a secret')
    await expectRefusal(decrypt({ CiphertextBlob: moved, EncryptionContext: { from: '1' } }), 'InvalidCiphertextException', '')
    expect(await textOf({ CiphertextBlob: blob, EncryptionContext: { from: '1' } })).toBe('a secret')
  })

  test('to the same key makes another blob of the same plaintext', async () => {
    const blob = await blobOf()
    const answer = await reEncrypt({ CiphertextBlob: blob, DestinationKeyId: key.KeyId, SourceKeyId: key.KeyId })
    expect(answer.SourceKeyId).toBe(answer.KeyId)
    expect(Buffer.from(given(answer.CiphertextBlob)).equals(blob)).toBe(false)
    expect(await textOf({ CiphertextBlob: given(answer.CiphertextBlob) })).toBe('a secret')
  })

  test('refuses a source key that did not make the blob', async () => {
    await expectRefusal(reEncrypt({ CiphertextBlob: await blobOf(), SourceKeyId: other.KeyId }), 'IncorrectKeyException', wrongKey)
  })

  test('refuses algorithms that the keys have not', async () => {
    const CiphertextBlob = await blobOf()
    for (const member of ['SourceEncryptionAlgorithm', 'DestinationEncryptionAlgorithm'] as const) {
      const request = reEncrypt({ CiphertextBlob, SourceKeyId: key.KeyId, [member]: 'RSAES_OAEP_SHA_256' })
      await expectRefusal(request, 'InvalidKeyUsageException', /RSAES_OAEP_SHA_256/)
    }
  })

  test('wants blob and destination, and says so at once', async () => {
    await expectProblems(reEncrypt({ CiphertextBlob: Buffer.alloc(0), DestinationKeyId: undefined }), [
      tooShort('ciphertextBlob'),
      "Value null at 'destinationKeyId' failed to satisfy constraint: Member must not be null",
    ])
    await expectProblems(reEncrypt({}), ["Value null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null"])
  })
})

describe('GenerateDataKey', () => {
  test.each([
    { input: { KeySpec: 'AES_256' as const }, bytes: 32 },
    { input: { KeySpec: 'AES_128' as const }, bytes: 16 },
    { input: { NumberOfBytes: 1 }, bytes: 1 },
    { input: { NumberOfBytes: 64 }, bytes: 64 },
    { input: { NumberOfBytes: 1024 }, bytes: 1024 },
  ])('with $input makes $bytes bytes, plain and encrypted, or encrypted only', async ({ input, bytes }) => {
    const answer = withoutMetadata(await contract.kms.send(new GenerateDataKeyCommand({ KeyId: key.KeyId, ...input })))
    expect(answer).toEqual({
      CiphertextBlob: expect.any(Uint8Array),
      Plaintext: expect.any(Uint8Array),
      KeyId: key.Arn,
      KeyMaterialId: key.CurrentKeyMaterialId,
    })
    expect(answer.Plaintext).toHaveLength(bytes)
    expect((await decrypt({ CiphertextBlob: given(answer.CiphertextBlob) })).Plaintext).toEqual(answer.Plaintext)

    const hidden = withoutMetadata(await contract.kms.send(new GenerateDataKeyWithoutPlaintextCommand({ KeyId: key.KeyId, ...input })))
    expect(hidden).toEqual({ CiphertextBlob: expect.any(Uint8Array), KeyId: key.Arn, KeyMaterialId: key.CurrentKeyMaterialId })
    expect((await decrypt({ CiphertextBlob: given(hidden.CiphertextBlob) })).Plaintext).toHaveLength(bytes)
  })

  test('makes another one every time', async () => {
    const answers = await Promise.all(
      Array.from({ length: 50 }, () => contract.kms.send(new GenerateDataKeyCommand({ KeyId: key.KeyId, KeySpec: 'AES_256' }))),
    )
    expect(new Set(answers.map(({ Plaintext }) => Buffer.from(given(Plaintext)).toString('hex'))).size).toBe(50)
  })

  test('wants to be told the size once', async () => {
    for (const Command of [GenerateDataKeyCommand, GenerateDataKeyWithoutPlaintextCommand]) {
      const call = (input: object) => contract.kms.send(new Command({ KeyId: key.KeyId, ...input }))
      const text = 'Please specify either number of bytes or key spec.'
      await expectRefusal(call({}), 'ValidationException', text)
      await expectRefusal(call({ KeySpec: 'AES_256', NumberOfBytes: 32 }), 'ValidationException', text)
    }
  })

  test('refuses sizes that it does not make, in the words of the model', async () => {
    const call = (input: object) => contract.kms.send(new GenerateDataKeyCommand({ KeyId: key.KeyId, ...input }))
    await expectProblems(call({ NumberOfBytes: 1025 }), [
      "Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024",
    ])
    await expectProblems(call({ NumberOfBytes: 0 }), [
      "Value '0' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1",
    ])
    await expectProblems(call({ KeySpec: 'AES_512' }), [
      "Value 'AES_512' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [AES_256, AES_128]",
    ])
  })
})

describe('GenerateRandom', () => {
  test.each([1, 32, 1024])('makes %i bytes', async (bytes) => {
    const answer = withoutMetadata(await contract.kms.send(new GenerateRandomCommand({ NumberOfBytes: bytes })))
    expect(Object.keys(answer)).toEqual(['Plaintext'])
    expect(answer.Plaintext).toHaveLength(bytes)
  })

  test('makes others every time', async () => {
    const made = await Promise.all(Array.from({ length: 50 }, () => contract.kms.send(new GenerateRandomCommand({ NumberOfBytes: 16 }))))
    expect(new Set(made.map(({ Plaintext }) => Buffer.from(given(Plaintext)).toString('hex'))).size).toBe(50)
  })

  test('wants to be told how many, between 1 and 1024', async () => {
    const call = (NumberOfBytes: number | undefined) => contract.kms.send(new GenerateRandomCommand({ NumberOfBytes }))
    await expectRefusal(call(undefined), 'ValidationException', 'NumberOfBytes is required.')
    await expectProblems(call(1025), [
      "Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024",
    ])
    await expectProblems(call(0), [
      "Value '0' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1",
    ])
  })

  test('from a custom key store that is not there is refused', async () => {
    await expectRefusal(
      contract.kms.send(new GenerateRandomCommand({ NumberOfBytes: 16, CustomKeyStoreId: 'cks-1234567890abcdef0' })),
      'CustomKeyStoreNotFoundException',
      /./,
    )
  })
})

describe('DryRun', () => {
  const each: readonly {
    readonly operation: string
    readonly call: (DryRun: boolean, KeyId: string, blob: Uint8Array) => Promise<unknown>
  }[] = [
    { operation: 'Encrypt', call: (DryRun, KeyId) => encrypt({ DryRun, KeyId }) },
    { operation: 'Decrypt', call: (DryRun, _KeyId, CiphertextBlob) => decrypt({ DryRun, CiphertextBlob }) },
    { operation: 'ReEncrypt', call: (DryRun, DestinationKeyId, CiphertextBlob) => reEncrypt({ DryRun, CiphertextBlob, DestinationKeyId }) },
    {
      operation: 'GenerateDataKey',
      call: (DryRun, KeyId) => contract.kms.send(new GenerateDataKeyCommand({ KeyId, KeySpec: 'AES_256', DryRun })),
    },
    {
      operation: 'GenerateDataKeyWithoutPlaintext',
      call: (DryRun, KeyId) => contract.kms.send(new GenerateDataKeyWithoutPlaintextCommand({ KeyId, NumberOfBytes: 8, DryRun })),
    },
  ]

  test.each(each)('$operation says that it would have succeeded', async ({ call }) => {
    const blob = await blobOf()
    await expectRefusal(call(true, key.KeyId, blob), 'DryRunOperationException', dryRunSucceeded)
    await expect(call(false, key.KeyId, blob)).resolves.toBeDefined()
  })

  test.each(each.filter(({ operation }) => operation !== 'Decrypt'))('$operation says what would have failed', async ({ call }) => {
    const disabled = await contract.disabledKey()
    await expectRefusal(call(true, disabled.KeyId, await blobOf()), 'DisabledException', `${disabled.Arn} is disabled.`)
  })

  test('of Decrypt and ReEncrypt says that the blob would not have opened', async () => {
    const blob = Buffer.from(await blobOf())
    await expectRefusal(decrypt({ CiphertextBlob: blob.subarray(1), DryRun: true }), 'InvalidCiphertextException', '')
    await expectRefusal(decrypt({ CiphertextBlob: blob, EncryptionContext: { a: 'b' }, DryRun: true }), 'InvalidCiphertextException', '')
    await expectRefusal(decrypt({ CiphertextBlob: blob, KeyId: other.KeyId, DryRun: true }), 'IncorrectKeyException', wrongKey)
    await expectRefusal(reEncrypt({ CiphertextBlob: blob.subarray(1), DryRun: true }), 'InvalidCiphertextException', '')
  })

  test('may ignore the blob when it is told the key', async () => {
    const DryRunModifiers = ['IGNORE_CIPHERTEXT' as const]
    await expectRefusal(
      decrypt({ CiphertextBlob: undefined, KeyId: key.KeyId, DryRun: true, DryRunModifiers }),
      'DryRunOperationException',
      dryRunSucceeded,
    )
    await expectRefusal(reEncrypt({ SourceKeyId: key.KeyId, DryRun: true, DryRunModifiers }), 'DryRunOperationException', dryRunSucceeded)
    // One that is there is not looked at either, so it does not say the key.
    for (const CiphertextBlob of [Buffer.of(1), await blobOf()]) {
      const ignoring = { CiphertextBlob, DryRun: true, DryRunModifiers }
      await expectRefusal(decrypt({ ...ignoring, KeyId: other.KeyId }), 'DryRunOperationException', dryRunSucceeded)
      await expectRefusal(reEncrypt({ ...ignoring, SourceKeyId: other.KeyId }), 'DryRunOperationException', dryRunSucceeded)
      await expectRefusal(decrypt(ignoring), 'ValidationException', 'KeyId is required when the ciphertext is ignored.')
      await expectRefusal(reEncrypt(ignoring), 'ValidationException', 'SourceKeyId is required when the ciphertext is ignored.')
    }
    await expectRefusal(decrypt({ CiphertextBlob: undefined, KeyId: key.KeyId, DryRunModifiers }), 'ValidationException', /./)
    await expectRefusal(decrypt({ CiphertextBlob: undefined, DryRun: true, DryRunModifiers }), 'ValidationException', /./)
    const disabled = await contract.disabledKey()
    await expectRefusal(
      decrypt({ CiphertextBlob: undefined, KeyId: disabled.KeyId, DryRun: true, DryRunModifiers }),
      'DisabledException',
      `${disabled.Arn} is disabled.`,
    )
  })
})

describe('a blob of a key that cannot be seen', () => {
  test('from another region is refused like one of a key that is gone', async () => {
    const elsewhere = contract.client({ region: contract.otherRegion })
    const there = await contract.key({}, elsewhere)
    const { CiphertextBlob } = await elsewhere.send(new EncryptCommand({ KeyId: there.KeyId, Plaintext: Buffer.from('x') }))
    await expectRefusal(decrypt({ CiphertextBlob: given(CiphertextBlob) }), 'AccessDeniedException', unseen)
    await expectRefusal(reEncrypt({ CiphertextBlob: given(CiphertextBlob) }), 'AccessDeniedException', unseen)
    expect((await elsewhere.send(new DecryptCommand({ CiphertextBlob }))).KeyId).toBe(there.Arn)
  })
})

describeOurs('a recipient in an enclave', () => {
  test('is refused, never ignored: what it asks for is not to be answered in the clear', async () => {
    const Recipient = { KeyEncryptionAlgorithm: 'RSAES_OAEP_SHA_256' as const, AttestationDocument: Buffer.from('document') }
    const CiphertextBlob = await blobOf()
    await expectRefusal(decrypt({ CiphertextBlob, Recipient }), 'UnsupportedOperationException', /./)
    await expectRefusal(
      contract.kms.send(new GenerateDataKeyCommand({ KeyId: key.KeyId, KeySpec: 'AES_256', Recipient })),
      'UnsupportedOperationException',
      /./,
    )
    await expectRefusal(contract.kms.send(new GenerateRandomCommand({ NumberOfBytes: 8, Recipient })), 'UnsupportedOperationException', /./)
  })
})
