/** GenerateRandom: bytes from the device's generator. */

import { kmsError } from '../errors.ts'
import type { Token } from '../../hsm/token.ts'
import { findKeyStore, wrongState } from '../key-stores.ts'
import { operation, type Call } from '../operation.ts'
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
    refuseRecipient(input.Recipient)
    const token = input.CustomKeyStoreId === undefined ? call.service.token : await keyStoreToken(call, input.CustomKeyStoreId)
    const bytes = await token.random(input.NumberOfBytes)
    const text = bytes.toString('base64')
    bytes.fill(0)
    return { Plaintext: text }
  },
})

/** Only a key store that is a token has a generator. */
async function keyStoreToken(call: Call, id: string): Promise<Token> {
  const keyStore = findKeyStore(call.service, { accountId: call.principal.accountId, region: call.region }, id)
  if (keyStore.backing.type !== 'AWS_CLOUDHSM') {
    throw kmsError('UnsupportedOperationException', 'An external key store generates no random bytes.')
  }
  if (keyStore.state !== 'CONNECTED') throw wrongState(keyStore.state, 'generate random bytes')
  await call.service.keyStores.openTokenOf(keyStore)
  return call.service.keyStores.tokenOf(id)
}
