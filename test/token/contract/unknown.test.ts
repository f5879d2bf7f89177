/** Operations that nobody knows. */
import { expect, test } from 'vitest'
import { rawCall } from '../holdfast.ts'
import { describeOurs, useContract } from './kit.ts'

const contract = useContract()

describeOurs('an operation', () => {
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
