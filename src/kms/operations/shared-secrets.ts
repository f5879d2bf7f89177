/** Secrets that two parties come to share: by ECDH in the token, and by ML-KEM, for which no token here can make a key. */

import { TokenError } from '../../hsm/token.ts'
import type { KeyRecord } from '../../store/store.ts'
import { kmsError } from '../errors.ts'
import { keyFrom } from '../keys.ts'
import { withMaterial } from '../material.ts'
import { dryRunSucceeded, operation } from '../operation.ts'
import { blob, keyId, oneOf } from '../shape.ts'
import { checkAlgorithm, noMechanism } from '../specs.ts'
import { recipient, refuseRecipient } from './encryption.ts'
import { dryRun, grantTokens } from './members.ts'

export const DeriveSharedSecret = operation({
  input: {
    KeyId: keyId,
    KeyAgreementAlgorithm: oneOf('ECDH'),
    PublicKey: blob({ min: 1, max: 8192 }),
    GrantTokens: grantTokens,
    DryRun: dryRun,
    Recipient: recipient,
  },
  output: ['KeyId', 'SharedSecret', 'CiphertextForRecipient', 'KeyAgreementAlgorithm', 'KeyOrigin'],
  keys: { key: keyFrom('KeyId', { alias: true, crossAccount: true, usage: 'KEY_AGREEMENT' }) },
  readOnly: true,
  dryRunInside: true,
  async run(call, input, { key }) {
    checkAlgorithm(key, input.KeyAgreementAlgorithm)
    refuseRecipient(input.Recipient)
    const secret = await withMaterial(call.service, key, async (token, ckaId) => {
      try {
        return await token.deriveSharedSecret(ckaId, input.PublicKey)
      } catch (error) {
        // AWS tells nothing of what is wrong with the other party's key.
        if (error instanceof TokenError && error.failure === 'rejected') throw kmsError('ValidationException', '', { cause: error })
        throw error
      }
    })
    const text = secret.toString('base64')
    secret.fill(0)
    // Whether the call would succeed only the token could say.
    if (input.DryRun) throw dryRunSucceeded()
    return { KeyId: key.arn, SharedSecret: text, KeyAgreementAlgorithm: input.KeyAgreementAlgorithm, KeyOrigin: key.origin }
  },
})

const encapsulationKey = keyFrom('KeyId', { alias: true, crossAccount: true, usage: 'ENCAPSULATE_DECAPSULATE' })
const encapsulation = { KeyId: keyId, EncapsulationAlgorithm: oneOf('ML_KEM'), GrantTokens: grantTokens, DryRun: dryRun } as const

/** The road lets only a key of this usage come so far, and none can be made; one that a later version made is told apart from a defect. */
function refuse(key: KeyRecord): never {
  throw noMechanism(key.spec)
}

export const Encapsulate = operation({
  input: encapsulation,
  output: ['KeyId', 'SharedSecret', 'SharedSecretCiphertextBlob', 'EncapsulationAlgorithm'],
  keys: { key: encapsulationKey },
  readOnly: true,
  run: (_call, _input, { key }) => refuse(key),
})

export const Decapsulate = operation({
  input: { ...encapsulation, SharedSecretCiphertextBlob: blob({ min: 1, max: 6144 }) },
  output: ['KeyId', 'SharedSecret', 'EncapsulationAlgorithm'],
  keys: { key: encapsulationKey },
  readOnly: true,
  run: (_call, _input, { key }) => refuse(key),
})
