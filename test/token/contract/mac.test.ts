/** HMAC keys: what GenerateMac makes and VerifyMac takes, and everything that is no MAC. */
import { randomBytes } from 'node:crypto'
import {
  DecryptCommand,
  DescribeKeyCommand,
  EncryptCommand,
  GenerateMacCommand,
  SignCommand,
  VerifyMacCommand,
  type GenerateMacCommandInput,
  type VerifyMacCommandInput,
} from '@aws-sdk/client-kms'
import { describe, expect, test } from 'vitest'
import { useKeys } from './key-pairs.ts'
import { expectProblems, expectRefusal, given, useContract, withoutMetadata } from './kit.ts'

const contract = useContract()
const keys = useKeys(contract)

const kinds = ([224, 256, 384, 512] as const).map((bits) => ({
  spec: `HMAC_${bits}` as const,
  algorithm: `HMAC_SHA_${bits}` as const,
  bytes: bits / 8,
}))
const named = async ({ spec, algorithm }: (typeof kinds)[number]) => ({
  KeyId: (await keys.key(spec, 'GENERATE_VERIFY_MAC')).KeyId,
  MacAlgorithm: algorithm,
})
const [hmac224] = kinds
if (!hmac224) throw new Error('there are four kinds')

const generate = async (input: GenerateMacCommandInput) => Buffer.from(given((await contract.kms.send(new GenerateMacCommand(input))).Mac))
const check = (input: VerifyMacCommandInput) => contract.kms.send(new VerifyMacCommand(input))

describe.each(kinds)('A key of spec $spec', (kind) => {
  const { spec, algorithm, bytes } = kind

  test('shows its one algorithm and no key material', async () => {
    const key = await keys.key(spec, 'GENERATE_VERIFY_MAC')
    const { KeyMetadata } = await contract.kms.send(new DescribeKeyCommand({ KeyId: key.KeyId }))
    expect(KeyMetadata).toEqual(key)
    expect(KeyMetadata).toMatchObject({
      KeySpec: spec,
      CustomerMasterKeySpec: spec,
      KeyUsage: 'GENERATE_VERIFY_MAC',
      MacAlgorithms: [algorithm],
    })
    expect(KeyMetadata).not.toHaveProperty('CurrentKeyMaterialId')
    expect(KeyMetadata).not.toHaveProperty('EncryptionAlgorithms')
  })

  test('makes the same MAC of the same message, of the hash’s length, and another of another', async () => {
    const request = await named(kind)
    for (const Message of [Buffer.of(0), randomBytes(64), randomBytes(4096)]) {
      const answer = withoutMetadata(await contract.kms.send(new GenerateMacCommand({ ...request, Message })))
      expect(answer).toEqual({
        Mac: expect.any(Uint8Array),
        MacAlgorithm: algorithm,
        KeyId: (await keys.key(spec, 'GENERATE_VERIFY_MAC')).Arn,
      })
      expect(answer.Mac).toHaveLength(bytes)
      expect(await generate({ ...request, Message })).toEqual(Buffer.from(given(answer.Mac)))
      expect(
        await generate({ ...request, Message: Buffer.concat([Message.subarray(0, -1), Buffer.of(given(Message.at(-1)) ^ 1)]) }),
      ).not.toEqual(Buffer.from(given(answer.Mac)))
    }
  })

  test('verifies it, and nothing else', async () => {
    const request = { ...(await named(kind)), Message: randomBytes(100) }
    const Mac = await generate(request)
    expect(withoutMetadata(await check({ ...request, Mac }))).toEqual({
      KeyId: (await keys.key(spec, 'GENERATE_VERIFY_MAC')).Arn,
      MacValid: true,
      MacAlgorithm: algorithm,
    })
    const turned = Buffer.from(Mac)
    turned[bytes - 1] = given(turned[bytes - 1]) ^ 0x80
    for (const wrong of [
      turned,
      Mac.subarray(0, -1),
      Mac.subarray(0, 16),
      Mac.subarray(0, 1),
      Buffer.concat([Mac, Buffer.of(0)]),
      randomBytes(6144),
    ]) {
      await expectRefusal(check({ ...request, Mac: wrong }), 'KMSInvalidMacException', '')
    }
    await expectRefusal(check({ ...request, Message: randomBytes(100), Mac }), 'KMSInvalidMacException', '')
    const other = await contract.key({ KeySpec: spec, KeyUsage: 'GENERATE_VERIFY_MAC' })
    await expectRefusal(check({ ...request, KeyId: other.KeyId, Mac }), 'KMSInvalidMacException', '')
  })

  test('refuses the algorithms of the others', async () => {
    const { KeyId } = await named(kind)
    for (const other of kinds.filter((each) => each !== kind)) {
      const request = { KeyId, MacAlgorithm: other.algorithm, Message: Buffer.of(1) }
      const words = `Algorithm ${other.algorithm} is incompatible with key spec ${spec}.`
      await expectRefusal(generate(request), 'InvalidKeyUsageException', words)
      await expectRefusal(check({ ...request, Mac: Buffer.alloc(other.bytes) }), 'InvalidKeyUsageException', words)
    }
  })
})

describe('GenerateMac and VerifyMac', () => {
  test('refuse keys of another usage', async () => {
    const symmetric = await contract.key()
    const request = { KeyId: symmetric.KeyId, MacAlgorithm: 'HMAC_SHA_256' as const, Message: Buffer.of(1) }
    const words = (operation: string) => `${symmetric.Arn} key usage is ENCRYPT_DECRYPT which is not valid for ${operation}.`
    await expectRefusal(generate(request), 'InvalidKeyUsageException', words('GenerateMac'))
    await expectRefusal(check({ ...request, Mac: Buffer.alloc(32) }), 'InvalidKeyUsageException', words('VerifyMac'))
  })

  test('refuse messages, MACs and algorithms that no key could take', async () => {
    const { KeyId } = await named(hmac224)
    const tooLong = (member: string, bytes: number) =>
      `Value at '${member}' failed to satisfy constraint: Member must have length less than or equal to ${bytes}`
    const listed =
      "Value 'HMAC_SHA_1' at 'macAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [HMAC_SHA_384, HMAC_SHA_256, HMAC_SHA_224, HMAC_SHA_512]"
    const MacAlgorithm = 'HMAC_SHA_1' as never
    await expectProblems(generate({ KeyId, MacAlgorithm, Message: Buffer.alloc(4097) }), [tooLong('message', 4096), listed])
    await expectProblems(check({ KeyId, MacAlgorithm, Message: Buffer.alloc(4097), Mac: Buffer.alloc(6145) }), [
      tooLong('message', 4096),
      listed,
      tooLong('mac', 6144),
    ])
  })

  test('of a dry run answer as the call would have been answered', async () => {
    const request = { ...(await named(hmac224)), Message: Buffer.of(1) }
    const succeeded = 'The request would have succeeded, but the DryRun option is set.'
    await expectRefusal(generate({ ...request, DryRun: true }), 'DryRunOperationException', succeeded)
    const Mac = await generate(request)
    await expectRefusal(check({ ...request, Mac, DryRun: true }), 'DryRunOperationException', succeeded)
    await expectRefusal(check({ ...request, Mac: Buffer.alloc(28), DryRun: true }), 'KMSInvalidMacException', '')
  })
})

describe('An HMAC key', () => {
  test('does nothing else', async () => {
    const key = await keys.key('HMAC_224', 'GENERATE_VERIFY_MAC')
    const words = (operation: string) => `${key.Arn} key usage is GENERATE_VERIFY_MAC which is not valid for ${operation}.`
    await expectRefusal(
      contract.kms.send(new EncryptCommand({ KeyId: key.KeyId, Plaintext: Buffer.of(1) })),
      'InvalidKeyUsageException',
      words('Encrypt'),
    )
    await expectRefusal(
      contract.kms.send(new SignCommand({ KeyId: key.KeyId, Message: Buffer.of(1), SigningAlgorithm: 'ECDSA_SHA_256' })),
      'InvalidKeyUsageException',
      words('Sign'),
    )
    const symmetric = await contract.key()
    const { CiphertextBlob } = await contract.kms.send(new EncryptCommand({ KeyId: symmetric.KeyId, Plaintext: Buffer.of(1) }))
    await expectRefusal(
      contract.kms.send(new DecryptCommand({ KeyId: key.KeyId, CiphertextBlob })),
      'IncorrectKeyException',
      'The key ID in the request does not identify a CMK that can perform this operation.',
    )
  })
})
