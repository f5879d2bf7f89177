/** Imported key material (BYOK): its wrapping keys, its import, its deletion. What they do is in `kms/import.ts`. */

import type { KeyRecord } from '../../store/store.ts'
import { kmsError, type KmsError } from '../errors.ts'
import {
  checkImport,
  deleteMaterial,
  importAlgorithms,
  importMaterial,
  makeParameters,
  wrappingKeySpecs,
  type WrappingKeySpec,
} from '../import.ts'
import { admit, keyFrom, unlessGone } from '../keys.ts'
import { seconds } from '../metadata.ts'
import { operation, type Call } from '../operation.ts'
import { wrongOrigin } from '../rotation.ts'
import { blob, keyId, oneOf, optional, string, timestamp } from '../shape.ts'
import { isSymmetric } from '../specs.ts'

const maxValidMs = 365 * 86_400_000

const unsupported = (message: string): KmsError => kmsError('UnsupportedOperationException', message)

function requireImported(key: KeyRecord): void {
  if (key.origin !== 'EXTERNAL') throw wrongOrigin(key)
}

const key = keyFrom('KeyId', { verify: requireImported })

const materialId = optional(string({ min: 64, max: 64, pattern: /^[a-f0-9]+$/ }))

/** As the token knows them. @throws KmsError for those that AWS's model has and this service does not take. */
function readWrapping(algorithm: string, spec: string) {
  const known = importAlgorithms.find((name) => name === algorithm)
  if (algorithm === 'RSAES_PKCS1_V1_5') {
    throw unsupported('The RSAES_PKCS1_V1_5 wrapping algorithm has been deprecated. Use an RSAES_OAEP or RSA_AES_KEY_WRAP algorithm.')
  }
  if (!known) throw unsupported(`WrappingAlgorithm ${algorithm} is not supported.`)
  if (!wrappingKeySpecs.includes(spec as WrappingKeySpec)) throw unsupported(`WrappingKeySpec ${spec} is not supported.`)
  return { algorithm: known, spec: spec as WrappingKeySpec }
}

export const GetParametersForImport = operation({
  input: {
    KeyId: keyId,
    WrappingAlgorithm: oneOf(
      'RSAES_PKCS1_V1_5',
      'RSAES_OAEP_SHA_1',
      'RSAES_OAEP_SHA_256',
      'RSA_AES_KEY_WRAP_SHA_1',
      'RSA_AES_KEY_WRAP_SHA_256',
      'SM2PKE',
    ),
    WrappingKeySpec: oneOf('RSA_2048', 'RSA_3072', 'RSA_4096', 'SM2'),
  },
  output: ['KeyId', 'ImportToken', 'PublicKey', 'ParametersValidTo'],
  keys: { key },
  // As CloudTrail says of it, although it makes a wrapping key: nothing of the KMS key changes.
  readOnly: true,
  async run({ service }, input, { key }) {
    const { algorithm, spec } = readWrapping(input.WrappingAlgorithm, input.WrappingKeySpec)
    checkImport(service.tokenOf(key), key, algorithm, spec)
    const { importToken, publicKey, validTo } = await makeParameters(service, key, algorithm, spec)
    return {
      KeyId: key.arn,
      ImportToken: importToken.toString('base64'),
      PublicKey: publicKey.toString('base64'),
      ParametersValidTo: seconds(validTo),
    }
  },
})

/** When the material expires, null for never. */
function readExpiration(call: Call, model: string, validTo: number | undefined): number | null {
  if (model === 'KEY_MATERIAL_DOES_NOT_EXPIRE') {
    if (validTo === undefined) return null
    throw kmsError('ValidationException', 'A validTo date must not be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE')
  }
  if (validTo === undefined) {
    throw kmsError('ValidationException', 'A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES')
  }
  if (validTo <= call.nowMs || validTo > call.nowMs + maxValidMs) {
    throw kmsError('ValidationException', 'The validTo date must be in the future, and within 365 days of the request.')
  }
  return validTo
}

export const ImportKeyMaterial = operation({
  input: {
    KeyId: keyId,
    ImportToken: blob({ min: 1, max: 6144 }),
    EncryptedKeyMaterial: blob({ min: 1, max: 6144 }),
    ValidTo: optional(timestamp),
    ExpirationModel: optional(oneOf('KEY_MATERIAL_EXPIRES', 'KEY_MATERIAL_DOES_NOT_EXPIRE'), 'KEY_MATERIAL_EXPIRES'),
    ImportType: optional(oneOf('NEW_KEY_MATERIAL', 'EXISTING_KEY_MATERIAL')),
    KeyMaterialDescription: optional(string({ min: 0, max: 256, pattern: /^[a-zA-Z0-9:/_\s.-]+$/ })),
    KeyMaterialId: materialId,
  },
  output: ['KeyId', 'KeyMaterialId'],
  keys: { key },
  readOnly: false,
  responseElements: ({ KeyId, KeyMaterialId }) => ({ keyId: KeyId, keyMaterialId: KeyMaterialId }),
  async run(call, input, { key }) {
    const validTo = readExpiration(call, input.ExpirationModel ?? 'KEY_MATERIAL_EXPIRES', input.ValidTo)
    for (const member of ['ImportType', 'KeyMaterialDescription', 'KeyMaterialId'] as const) {
      if (input[member] !== undefined && !isSymmetric(key)) throw unsupported(`${member} is not supported for key spec ${key.spec}.`)
    }
    if (input.ImportType === 'NEW_KEY_MATERIAL' && input.KeyMaterialId !== undefined) {
      throw kmsError('ValidationException', 'KeyMaterialId cannot be specified when ImportType is NEW_KEY_MATERIAL.')
    }
    const wanted = {
      importToken: input.ImportToken,
      wrapped: input.EncryptedKeyMaterial,
      validTo,
      type: input.ImportType,
      description: input.KeyMaterialDescription,
      materialId: input.KeyMaterialId,
    }
    const tell = (exposed: boolean): void => {
      call.note['keyMaterialExposedInMemory'] = exposed
    }
    const imported = await unlessGone(
      call,
      key,
      importMaterial(call.service, key, wanted, (current) => admit(call, current), tell),
    )
    return { KeyId: key.arn, ...(isSymmetric(key) && { KeyMaterialId: imported }) }
  },
})

export const DeleteImportedKeyMaterial = operation({
  input: { KeyId: keyId, KeyMaterialId: materialId },
  output: ['KeyId', 'KeyMaterialId'],
  keys: { key },
  readOnly: false,
  responseElements: ({ KeyId, KeyMaterialId }) => ({ keyId: KeyId, keyMaterialId: KeyMaterialId }),
  async run(call, input, { key }) {
    if (input.KeyMaterialId !== undefined && !isSymmetric(key))
      throw unsupported(`KeyMaterialId is not supported for key spec ${key.spec}.`)
    const ended = await unlessGone(
      call,
      key,
      deleteMaterial(call.service, key, input.KeyMaterialId, (current) => admit(call, current)),
    )
    return { KeyId: key.arn, ...(ended !== undefined && isSymmetric(key) && { KeyMaterialId: ended }) }
  },
})
