/** What a request may look like: every bound of AWS's model at its edge and one beyond, what is required, several problems at once. */
import * as kms from '@aws-sdk/client-kms'
import type { KMSClient } from '@aws-sdk/client-kms'
import { beforeAll, describe, expect, test } from 'vitest'
import {
  bodyWith,
  edgesOf,
  leastInput,
  nullProblem,
  operationNames,
  problemsOfText,
  wirePath,
  withoutListedValues,
} from '../../unit/kms-model.ts'
import { rawCall } from '../holdfast.ts'
import { absentKeyId, describeOurs, expectProblems, given, refusalOf, useContract, type TestKey } from './kit.ts'

const contract = useContract()
let key: TestKey
let blob: Uint8Array
beforeAll(async () => {
  key = await contract.key()
  blob = given((await contract.kms.send(new kms.EncryptCommand({ KeyId: key.KeyId, Plaintext: Buffer.from('x') }))).CiphertextBlob)
})

type Body = Readonly<Record<string, unknown>>

/** A call by the operation's name; the SDK sends what it is given without judging it. */
function send(operation: string, input: Body): Promise<unknown> {
  const Command = (kms as unknown as Readonly<Record<string, new (input: Body) => Parameters<KMSClient['send']>[0]>>)[`${operation}Command`]
  if (!Command) throw new Error(`the SDK has no ${operation}Command`)
  return contract.kms.send(new Command(input))
}

/** What these are allowed to do happens without a key that is there. */
const isFree = (name: string): boolean =>
  ['CreateKey', 'GenerateRandom', 'DescribeCustomKeyStores'].includes(name) || name.startsWith('List')

describe.each(operationNames)('%s', (operation) => {
  // Where it would happen only what is refused is tried.
  const edges = edgesOf(operation).filter(({ problems }) => problems.length > 0 || !isFree(operation))

  test('takes each member up to its bounds and names what is beyond', async () => {
    const told = edges.map(async ({ member, what, value }) => {
      const call = send(operation, { ...leastInput(operation), ...bodyWith(operation, member, value) })
      const { name, message } = await refusalOf(call)
      const problems = name === 'ValidationException' ? problemsOfText(message) : []
      // Where the member is allowed the call fails for another reason: the key is not there, the policy no policy.
      const places = [member, member.replace(/\[\]$/, '')].map((path) => ` at '${wirePath(path)}' `)
      return { member, what, told: problems.some((problem) => places.some((place) => problem.includes(place))) ? problems : [] }
    })
    const expected = edges.map(({ member, what, problems }) => ({ member, what, told: problems.map(withoutListedValues).toSorted() }))
    expect(await Promise.all(told)).toEqual(expected)
  })

  test('wants each of its required members', async () => {
    const required = Object.keys(leastInput(operation))
    for (const member of required) {
      const { [member]: _left, ...input } = leastInput(operation)
      await expectProblems(send(operation, input), [nullProblem(member)])
    }
    if (required.length > 0) await expectProblems(send(operation, {}), required.map(nullProblem))
  })
})

test.each(['Decrypt', 'ReEncrypt'])('%s can do without a blob in a dry run that says so, and in no other call', async (operation) => {
  const { DestinationKeyId } = leastInput(operation)
  const named = DestinationKeyId === undefined ? {} : { DestinationKeyId }
  for (const input of [named, { ...named, DryRun: true }]) await expectProblems(send(operation, input), [nullProblem('CiphertextBlob')])
})

describe('several problems', () => {
  test('are told in one error, each in its words', async () => {
    await expectProblems(
      send('Encrypt', {
        KeyId: '',
        Plaintext: Buffer.alloc(4097),
        EncryptionAlgorithm: 'ROT13',
        GrantTokens: ['', ...Array.from({ length: 10 }, () => 'x')],
      }),
      [
        "Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1",
        "Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096",
        "Value 'ROT13' at 'encryptionAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [SYMMETRIC_DEFAULT, RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256, SM2PKE]",
        "Value at 'grantTokens' failed to satisfy constraint: Member must have length less than or equal to 10",
        "Value at 'grantTokens' failed to satisfy constraint: Member must satisfy constraint: [Member must have length less than or equal to 8192, Member must have length greater than or equal to 1]",
      ],
    )
  })

  test('of one member are told each', async () => {
    await expectProblems(send('CreateAlias', { AliasName: '', TargetKeyId: key.KeyId }), [
      "Value '' at 'aliasName' failed to satisfy constraint: Member must have length greater than or equal to 1",
      "Value '' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$",
    ])
  })

  test('of enumerations name what is allowed', async () => {
    const { name, message } = await refusalOf(send('CreateKey', { KeySpec: 'DES', KeyUsage: 'HOPE', Origin: 'MOON' }))
    expect(name).toBe('ValidationException')
    expect(message).toMatch(/^3 validation errors detected: /)
    for (const [member, value] of [
      ['keySpec', 'DES'],
      ['keyUsage', 'HOPE'],
      ['origin', 'MOON'],
    ]) {
      expect(message).toContain(`Value '${value}' at '${member}' failed to satisfy constraint: Member must satisfy enum value set: [`)
    }
  })

  test('come before the key is looked for', async () => {
    await expectProblems(send('GenerateDataKey', { KeyId: absentKeyId, NumberOfBytes: 0 }), [
      "Value '0' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1",
    ])
  })
})

describeOurs('a body on the wire', () => {
  const call = (operation: string, body: unknown) => rawCall(contract.ours, 'kms', operation, body)

  test.each([
    { what: 'a blob that is no base64', operation: 'Encrypt', body: () => ({ KeyId: key.KeyId, Plaintext: 'not base64!' }) },
    { what: 'a blob with base64 cut short', operation: 'Decrypt', body: () => ({ CiphertextBlob: 'QQ' }) },
  ])('with $what is refused by type alone', async ({ operation, body }) => {
    const answer = await call(operation, body())
    expect(answer.status).toBe(400)
    expect(answer.json).toEqual({ __type: 'SerializationException' })
  })

  test.each([
    { what: 'a number for a text', operation: 'DescribeKey', body: { KeyId: 5 } },
    { what: 'a text for a number', operation: 'ListKeys', body: { Limit: '5' } },
    { what: 'a text for a list', operation: 'UntagResource', body: { KeyId: 'x', TagKeys: 'a' } },
    { what: 'a list for a map', operation: 'Encrypt', body: { KeyId: 'x', Plaintext: 'eA==', EncryptionContext: [] } },
    { what: 'a number in a map', operation: 'Encrypt', body: { KeyId: 'x', Plaintext: 'eA==', EncryptionContext: { a: 1 } } },
    { what: 'a null in a map', operation: 'Encrypt', body: { KeyId: 'x', Plaintext: 'eA==', EncryptionContext: { a: null } } },
    { what: 'a text for a boolean', operation: 'Encrypt', body: { KeyId: 'x', Plaintext: 'eA==', DryRun: 'true' } },
    { what: 'a list for a structure', operation: 'TagResource', body: { KeyId: 'x', Tags: [[]] } },
    { what: 'a number for a blob', operation: 'Encrypt', body: { KeyId: 'x', Plaintext: 7 } },
    { what: 'text that is no JSON', operation: 'ListKeys', body: '{"Limit":' },
    { what: 'a JSON list', operation: 'ListKeys', body: '[]' },
    { what: 'a name twice', operation: 'ListKeys', body: '{"Limit":1,"Limit":2}' },
  ])('with $what is a SerializationException', async ({ operation, body }) => {
    const answer = await call(operation, body)
    expect(answer.status).toBe(400)
    expect(answer.json['__type']).toBe('SerializationException')
  })

  test('may be empty, may have null for what is left out, and may have members that nobody knows', async () => {
    for (const body of ['', '{}', { Limit: null, Marker: null }, { Limit: 10, Unknown: { deep: [1] } }]) {
      expect((await call('ListKeys', body)).status).toBe(200)
    }
  })

  test('with null in a list names the place', async () => {
    const answer = await call('UntagResource', { KeyId: key.KeyId, TagKeys: ['a', null] })
    expect(answer.json).toEqual({
      __type: 'ValidationException',
      message: "1 validation error detected: Value null at 'tagKeys.2.member' failed to satisfy constraint: Member must not be null",
    })
  })

  test('answers with every number of bytes that base64 can pad', async () => {
    const answer = await call('Decrypt', { CiphertextBlob: Buffer.from(blob).toString('base64') })
    expect(answer.json).toMatchObject({ Plaintext: 'eA==', KeyId: key.Arn })
  })
})
