/** Operations that are known and not built, and ones that nobody knows. */
import * as kms from '@aws-sdk/client-kms'
import type { KMSClient } from '@aws-sdk/client-kms'
import { expect, test } from 'vitest'
import { unsupportedOperations } from '../../../src/kms/operations/index.ts'
import { rawCall } from '../holdfast.ts'
import { describeOurs, refusalOf, useContract } from './kit.ts'

const contract = useContract()
type Command = Parameters<KMSClient['send']>[0]

describeOurs('an operation', () => {
  test.each(unsupportedOperations)('%s is known and not built, and says so', async (name) => {
    const Command = (kms as unknown as Readonly<Record<string, new (input: object) => Command>>)[`${name}Command`]
    if (!Command) throw new Error(`the SDK has no ${name}Command`)
    const refusal = await refusalOf(contract.kms.send(new Command({ KeyId: 'x' })))
    expect(refusal).toEqual({ name: 'UnsupportedOperationException', message: expect.stringMatching(/./), status: 400 })
  })

  test.each(['NoSuchOperation', 'encrypt', 'Encrypt2', '', '__proto__', 'constructor'])('called %j is unknown, in JSON', async (name) => {
    const answer = await rawCall(contract.ours, 'kms', name, {})
    expect(answer.status).toBe(400)
    expect(answer.headers.get('content-type')).toBe('application/x-amz-json-1.1')
    expect(answer.json['__type']).toBe('UnknownOperationException')
  })

  test('of one API is not one of another', async () => {
    expect((await rawCall(contract.ours, 'holdfast', 'Encrypt', {})).json['__type']).toBe('UnknownOperationException')
    expect((await rawCall(contract.ours, 'kms', 'CreateUser', {})).json['__type']).toBe('UnknownOperationException')
  })
})
