/** Key pairs that sign, and the public half of every pair. */

import { TokenError, type SigningAlgorithm } from '../../hsm/token.ts'
import type { KeyRecord } from '../../store/store.ts'
import { kmsError } from '../errors.ts'
import { keyFrom } from '../keys.ts'
import { withMaterial } from '../material.ts'
import { algorithmMembers } from '../metadata.ts'
import { dryRunSucceeded, operation } from '../operation.ts'
import { publicKeyOf } from '../public-keys.ts'
import { blob, keyId, oneOf, optional, type Input, type Shape } from '../shape.ts'
import { isSignature } from '../signatures.ts'
import { algorithmsOf, checkAlgorithm, isKeyPair, messageTypes, signingRows, type KeyUsage, type SigningRow } from '../specs.ts'
import { dryRun, grantTokens } from './members.ts'

export const GetPublicKey = operation({
  input: { KeyId: keyId, GrantTokens: grantTokens },
  output: [
    'KeyId',
    'PublicKey',
    'CustomerMasterKeySpec',
    'KeySpec',
    'KeyUsage',
    'EncryptionAlgorithms',
    'SigningAlgorithms',
    'KeyAgreementAlgorithms',
    'EncapsulationAlgorithms',
  ],
  keys: { key: keyFrom('KeyId', { alias: true, crossAccount: true }) },
  readOnly: true,
  async run(call, _input, { key }) {
    if (!isKeyPair(key)) throw kmsError('UnsupportedOperationException')
    const { spki } = await publicKeyOf(call.service, key)
    return {
      KeyId: key.arn,
      PublicKey: spki.toString('base64'),
      CustomerMasterKeySpec: key.spec,
      KeySpec: key.spec,
      KeyUsage: key.usage,
      [algorithmMembers[key.usage as KeyUsage]]: algorithmsOf(key),
    }
  },
})

const signedInput = {
  KeyId: keyId,
  Message: blob({ min: 1, max: 4096 }),
  MessageType: optional(oneOf(...messageTypes), 'RAW'),
  GrantTokens: grantTokens,
  SigningAlgorithm: oneOf(
    'RSASSA_PSS_SHA_256',
    'RSASSA_PSS_SHA_384',
    'RSASSA_PSS_SHA_512',
    'RSASSA_PKCS1_V1_5_SHA_256',
    'RSASSA_PKCS1_V1_5_SHA_384',
    'RSASSA_PKCS1_V1_5_SHA_512',
    'ECDSA_SHA_256',
    'ECDSA_SHA_384',
    'ECDSA_SHA_512',
    'SM2DSA',
    'ML_DSA_SHAKE_256',
    'ED25519_SHA_512',
    'ED25519_PH_SHA_512',
  ),
  DryRun: dryRun,
} as const satisfies Shape

const signingKey = keyFrom('KeyId', { alias: true, crossAccount: true, usage: 'SIGN_VERIFY' })

interface Signing {
  readonly algorithm: SigningAlgorithm
  readonly row: SigningRow
  readonly form: 'message' | 'digest'
}

/** What Sign and Verify check alike, in AWS's order. @throws KmsError */
function readSigning(key: KeyRecord, input: Input<typeof signedInput>): Signing {
  checkAlgorithm(key, input.SigningAlgorithm)
  // Of keys that can be, no other algorithms are left.
  const algorithm = input.SigningAlgorithm as SigningAlgorithm
  const row = signingRows[algorithm]
  const type = input.MessageType ?? 'RAW'
  if (!row.messageTypes.includes(type)) {
    throw kmsError('ValidationException', `Message type ${type} is incompatible with key spec ${key.spec}.`)
  }
  if (type === 'DIGEST' && input.Message.length !== row.digestBytes) {
    throw kmsError('ValidationException', `Digest is invalid length for algorithm ${algorithm}.`)
  }
  // AWS hashes what comes as the digest for prehashed EdDSA once more: it is the message of FIPS 186-5 7.8.
  return { algorithm, row, form: type === 'DIGEST' && row.scheme !== 'eddsa-prehashed' ? 'digest' : 'message' }
}

export const Sign = operation({
  input: signedInput,
  output: ['KeyId', 'Signature', 'SigningAlgorithm'],
  keys: { key: signingKey },
  readOnly: true,
  dryRunInside: true,
  async run(call, input, { key }) {
    const { algorithm, form } = readSigning(key, input)
    if (input.DryRun) {
      // The token can make the key and lack one of its algorithms.
      if (!call.service.tokenOf(key).capabilities().algorithms.includes(algorithm)) throw new TokenError('unsupported', algorithm)
      throw dryRunSucceeded()
    }
    const signature = await withMaterial(call.service, key, (token, ckaId) => token.signMessage(ckaId, algorithm, form, input.Message))
    return { KeyId: key.arn, Signature: signature.toString('base64'), SigningAlgorithm: algorithm }
  },
})

export const Verify = operation({
  input: { ...signedInput, Signature: blob({ min: 1, max: 6144 }) },
  output: ['KeyId', 'SignatureValid', 'SigningAlgorithm'],
  keys: { key: signingKey },
  readOnly: true,
  dryRunInside: true,
  async run(call, input, { key }) {
    const { algorithm, row, form } = readSigning(key, input)
    const { key: publicKey } = await publicKeyOf(call.service, key)
    const question = { key: publicKey, row, form, message: input.Message, signature: input.Signature }
    if (!(await isSignature(call.service, question))) throw kmsError('KMSInvalidSignatureException')
    if (input.DryRun) throw dryRunSucceeded()
    return { KeyId: key.arn, SignatureValid: true, SigningAlgorithm: algorithm }
  },
})
