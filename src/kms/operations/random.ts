/** GenerateRandom: bytes from the device's generator. */

import { kmsError } from '../errors.ts'
import { operation } from '../operation.ts'
import { integer, optional, string } from '../shape.ts'
import { recipient, refuseRecipient } from './encryption.ts'

export const GenerateRandom = operation({
  input: {
    NumberOfBytes: optional(integer({ min: 1, max: 1024 })),
    CustomKeyStoreId: optional(string({ min: 1, max: 64 })),
    Recipient: recipient,
  },
  output: ['Plaintext', 'CiphertextForRecipient'],
  resources: () => ['*'],
  readOnly: true,
  async run(call, input) {
    if (input.NumberOfBytes === undefined) throw kmsError('ValidationException', 'NumberOfBytes is required.')
    if (input.CustomKeyStoreId !== undefined) {
      throw kmsError('CustomKeyStoreNotFoundException', `Custom key store ${input.CustomKeyStoreId} does not exist.`)
    }
    refuseRecipient(input.Recipient)
    const bytes = await call.service.token.random(input.NumberOfBytes)
    const text = bytes.toString('base64')
    bytes.fill(0)
    return { Plaintext: text }
  },
})
