/** Key pairs for use outside: made by OpenSSL, with its generator, in a thread; the private half comes back encrypted under a KMS key. */

import type { KeyRecord } from '../../store/store.ts'
import { keyFrom } from '../keys.ts'
import { encrypt } from '../cipher.ts'
import { dryRunSucceeded, operation, type Call } from '../operation.ts'
import { wrongOrigin } from '../rotation.ts'
import { keyId, oneOf, type Input, type Shape } from '../shape.ts'
import { checkAlgorithm, checkPairSpec, pairSpecNames } from '../specs.ts'
import { context, recipient, refuseRecipient } from './encryption.ts'
import { dryRun, grantTokens } from './members.ts'

const pairInput = {
  EncryptionContext: context,
  KeyId: keyId,
  KeyPairSpec: oneOf(...pairSpecNames),
  GrantTokens: grantTokens,
  DryRun: dryRun,
} as const satisfies Shape

const pairUse = keyFrom('KeyId', { alias: true, crossAccount: true, usage: 'ENCRYPT_DECRYPT' })

/** Not under keys of custom key stores (developer guide, both kinds of store). The caller wipes the private key. */
async function generatePair(call: Call, input: Input<typeof pairInput>, key: KeyRecord) {
  checkAlgorithm(key, 'SYMMETRIC_DEFAULT')
  if (key.customKeyStoreId !== null) throw wrongOrigin(key)
  const spec = checkPairSpec(input.KeyPairSpec)
  if (input.DryRun) throw dryRunSucceeded()
  const { privateKey, publicKey } = await call.service.offload.keyPair(spec)
  try {
    const { blob, materialId } = await encrypt(call, key, privateKey, input.EncryptionContext)
    call.note['keyMaterialId'] = materialId
    const answer = {
      PrivateKeyCiphertextBlob: blob.toString('base64'),
      PublicKey: publicKey.toString('base64'),
      KeyId: key.arn,
      KeyPairSpec: spec,
      KeyMaterialId: materialId,
    }
    return { privateKey, answer }
  } catch (error) {
    privateKey.fill(0)
    throw error
  }
}

export const GenerateDataKeyPair = operation({
  input: { ...pairInput, Recipient: recipient },
  output: [
    'PrivateKeyCiphertextBlob',
    'PrivateKeyPlaintext',
    'PublicKey',
    'KeyId',
    'KeyPairSpec',
    'CiphertextForRecipient',
    'KeyMaterialId',
  ],
  keys: { key: pairUse },
  readOnly: true,
  dryRunInside: true,
  async run(call, input, { key }) {
    refuseRecipient(input.Recipient)
    const { privateKey, answer } = await generatePair(call, input, key)
    const text = privateKey.toString('base64')
    privateKey.fill(0)
    return { ...answer, PrivateKeyPlaintext: text }
  },
})

export const GenerateDataKeyPairWithoutPlaintext = operation({
  input: pairInput,
  output: ['PrivateKeyCiphertextBlob', 'PublicKey', 'KeyId', 'KeyPairSpec', 'KeyMaterialId'],
  keys: { key: pairUse },
  readOnly: true,
  dryRunInside: true,
  async run(call, input, { key }) {
    const { privateKey, answer } = await generatePair(call, input, key)
    privateKey.fill(0)
    return answer
  },
})
