/** Encrypt, Decrypt, ReEncrypt and the data keys: symmetric encryption inside the token, bound to an encryption context. */

import { kmsError, type KmsError } from '../errors.ts'
import { parseCiphertext, type Ciphertext } from '../ciphertext.ts'
import { findKey, keyFrom } from '../keys.ts'
import { decrypt, encrypt, type EncryptionContext } from '../material.ts'
import { dryRunSucceeded, operation, type Call, type FoundKey, type KeyUse } from '../operation.ts'
import { blob, integer, keyId, list, oneOf, optional, stringMap, structure, validationError, type Input, type Shape } from '../shape.ts'
import { dryRun, encryptionAlgorithm, grantTokens } from './members.ts'
import type { KeyRecord } from '../../store/store.ts'

const ciphertextBlob = blob({ min: 1, max: 6144 })
const algorithm = optional(encryptionAlgorithm, 'SYMMETRIC_DEFAULT')
const modifiers = optional(list(oneOf('IGNORE_CIPHERTEXT')))
const numberOfBytes = integer({ min: 1, max: 1024 })
export const recipient = optional(
  structure({
    KeyEncryptionAlgorithm: optional(oneOf('RSAES_OAEP_SHA_256')),
    AttestationDocument: optional(blob({ min: 1, max: 262_144 })),
  }),
)

/**
 * Bytes of names and values, each pair with its two length fields (ciphertext.ts). AWS binds about as much; with the longest plaintext
 * it still fits the single calls of every device.
 */
const maxContextBytes = 8192

/** Bounded when it is read, before policies see it: a condition looks through the whole context, and there may be hundreds of conditions. */
const context = optional<EncryptionContext>({
  ...stringMap,
  read(value, path, problems) {
    const given = stringMap.read(value, path, problems)
    let bytes = 0
    for (const [name, text] of Object.entries(given)) bytes += Buffer.byteLength(name) + Buffer.byteLength(text) + 8
    if (bytes > maxContextBytes) {
      problems.push(`Value at '${path}' failed to satisfy constraint: Member must have length less than or equal to ${maxContextBytes}`)
    }
    return given
  },
})

function checkAlgorithm(key: KeyRecord, algorithm: string | undefined): void {
  if (algorithm !== undefined && algorithm !== 'SYMMETRIC_DEFAULT') {
    throw kmsError('InvalidKeyUsageException', `Algorithm ${algorithm} is incompatible with key spec ${key.spec}.`)
  }
}

export function refuseRecipient(given: unknown): void {
  if (given !== undefined) {
    throw kmsError('UnsupportedOperationException', 'Recipient is not supported: this service attests no enclaves.')
  }
}

/** There are no grants to be named by a token yet, so none can be valid. */
function refuseGrantTokens(tokens: readonly string[] | undefined): void {
  if (tokens && tokens.length > 0) throw kmsError('InvalidGrantTokenException', 'The grant token is invalid.')
}

const unseenCiphertext = (): KmsError =>
  kmsError(
    'AccessDeniedException',
    'The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.',
  )

function readCiphertext(bytes: Buffer): Ciphertext {
  const ciphertext = parseCiphertext(bytes)
  if (!ciphertext) throw kmsError('InvalidCiphertextException')
  return ciphertext
}

interface CiphertextInput {
  readonly CiphertextBlob?: Buffer
  readonly DryRun?: boolean
  readonly DryRunModifiers?: readonly string[]
}

/** CiphertextBlob may be left out only by a dry run that says so. */
function checkCiphertextGiven(input: CiphertextInput): void {
  const ignored = input.DryRunModifiers?.includes('IGNORE_CIPHERTEXT') ?? false
  if (ignored && input.DryRun !== true) throw kmsError('ValidationException', 'DryRunModifiers can be used only with DryRun.')
  if (input.CiphertextBlob === undefined && !ignored) {
    throw validationError([`Value null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null`])
  }
}

/**
 * The key that made a blob, checked against the one that the caller names, if any. A symmetric blob says its key; naming one is the
 * caller's own safeguard. What is denied without having been named looks like what is not there.
 */
function keyOfCiphertext<M extends string>(
  member: M,
  rule: Omit<KeyUse<unknown>, 'find' | 'denied' | 'verify'>,
): KeyUse<CiphertextInput & { readonly [P in M]?: string }> {
  return {
    ...rule,
    denied: (input) => (input[member] === undefined ? unseenCiphertext() : undefined),
    find(call, input): FoundKey {
      checkCiphertextGiven(input)
      const ciphertext = input.CiphertextBlob && readCiphertext(input.CiphertextBlob)
      const name = input[member]
      const named = name === undefined ? undefined : findKey(call, name, 'key or alias', rule.action)
      if (!ciphertext) {
        // Only a dry run that ignores the ciphertext comes here, and it must say which key it is about.
        if (!named) throw kmsError('ValidationException', `${member} is required when the ciphertext is ignored.`)
        return named
      }
      if (named) return named
      const record = call.service.store.view.keyById(call.region, ciphertext.keyId)
      if (!record || record.state === 'Creating') throw unseenCiphertext()
      return { record, alias: undefined }
    },
    verify(key, input) {
      if (input.CiphertextBlob && readCiphertext(input.CiphertextBlob).keyId !== key.keyId) {
        throw kmsError('IncorrectKeyException', 'The key ID in the request does not identify a CMK that can perform this operation.')
      }
    },
  }
}

export const Encrypt = operation({
  input: {
    KeyId: keyId,
    Plaintext: blob({ min: 1, max: 4096 }),
    EncryptionContext: context,
    GrantTokens: grantTokens,
    EncryptionAlgorithm: algorithm,
    DryRun: dryRun,
  },
  output: ['CiphertextBlob', 'KeyId', 'EncryptionAlgorithm'],
  keys: { key: keyFrom('KeyId', { alias: true, crossAccount: true, usage: 'ENCRYPT_DECRYPT' }) },
  readOnly: true,
  dryRunInside: true,
  async run(call, input, { key }) {
    checkAlgorithm(key, input.EncryptionAlgorithm)
    refuseGrantTokens(input.GrantTokens)
    if (input.DryRun) throw dryRunSucceeded()
    const { blob: made, materialId } = await encrypt(call.service, key, input.Plaintext, input.EncryptionContext)
    call.note['keyMaterialId'] = materialId
    return { CiphertextBlob: made.toString('base64'), KeyId: key.arn, EncryptionAlgorithm: 'SYMMETRIC_DEFAULT' }
  },
})

export const Decrypt = operation({
  input: {
    CiphertextBlob: optional(ciphertextBlob),
    EncryptionContext: context,
    GrantTokens: grantTokens,
    KeyId: optional(keyId),
    EncryptionAlgorithm: algorithm,
    Recipient: recipient,
    DryRun: dryRun,
    DryRunModifiers: modifiers,
  },
  output: ['KeyId', 'Plaintext', 'EncryptionAlgorithm', 'CiphertextForRecipient', 'KeyMaterialId'],
  keys: {
    key: keyOfCiphertext('KeyId', { crossAccount: true, usage: 'ENCRYPT_DECRYPT' }),
  },
  readOnly: true,
  dryRunInside: true,
  async run(call, input, { key }) {
    checkAlgorithm(key, input.EncryptionAlgorithm)
    refuseGrantTokens(input.GrantTokens)
    refuseRecipient(input.Recipient)
    if (!input.CiphertextBlob) throw dryRunSucceeded()
    const ciphertext = readCiphertext(input.CiphertextBlob)
    call.note['keyMaterialId'] = ciphertext.materialId
    const plaintext = await decrypt(call.service, key, ciphertext, input.EncryptionContext)
    try {
      // Whether the call would succeed only the token could say.
      if (input.DryRun) throw dryRunSucceeded()
      return {
        KeyId: key.arn,
        Plaintext: plaintext.toString('base64'),
        EncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
        KeyMaterialId: ciphertext.materialId,
      }
    } finally {
      plaintext.fill(0)
    }
  },
})

export const ReEncrypt = operation({
  input: {
    CiphertextBlob: optional(ciphertextBlob),
    SourceEncryptionContext: context,
    SourceKeyId: optional(keyId),
    DestinationKeyId: keyId,
    DestinationEncryptionContext: context,
    SourceEncryptionAlgorithm: algorithm,
    DestinationEncryptionAlgorithm: algorithm,
    GrantTokens: grantTokens,
    DryRun: dryRun,
    DryRunModifiers: modifiers,
  },
  output: [
    'CiphertextBlob',
    'SourceKeyId',
    'KeyId',
    'SourceEncryptionAlgorithm',
    'DestinationEncryptionAlgorithm',
    'SourceKeyMaterialId',
    'DestinationKeyMaterialId',
  ],
  keys: {
    source: keyOfCiphertext('SourceKeyId', {
      action: 'kms:ReEncryptFrom',
      crossAccount: true,
      usage: 'ENCRYPT_DECRYPT',
      members: { context: 'SourceEncryptionContext', algorithm: 'SourceEncryptionAlgorithm' },
    }),
    destination: keyFrom('DestinationKeyId', {
      alias: true,
      action: 'kms:ReEncryptTo',
      crossAccount: true,
      usage: 'ENCRYPT_DECRYPT',
      members: { context: 'DestinationEncryptionContext', algorithm: 'DestinationEncryptionAlgorithm' },
    }),
  },
  readOnly: true,
  dryRunInside: true,
  async run(call, input, { source, destination }) {
    checkAlgorithm(source, input.SourceEncryptionAlgorithm)
    checkAlgorithm(destination, input.DestinationEncryptionAlgorithm)
    refuseGrantTokens(input.GrantTokens)
    if (!input.CiphertextBlob) throw dryRunSucceeded()
    const ciphertext = readCiphertext(input.CiphertextBlob)
    const plaintext = await decrypt(call.service, source, ciphertext, input.SourceEncryptionContext)
    try {
      if (input.DryRun) throw dryRunSucceeded()
      const { blob: made, materialId } = await encrypt(call.service, destination, plaintext, input.DestinationEncryptionContext)
      Object.assign(call.note, { sourceKeyMaterialId: ciphertext.materialId, destinationKeyMaterialId: materialId })
      return {
        CiphertextBlob: made.toString('base64'),
        SourceKeyId: source.arn,
        KeyId: destination.arn,
        SourceEncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
        DestinationEncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
        SourceKeyMaterialId: ciphertext.materialId,
        DestinationKeyMaterialId: materialId,
      }
    } finally {
      plaintext.fill(0)
    }
  },
})

const dataKeyInput = {
  KeyId: keyId,
  EncryptionContext: context,
  NumberOfBytes: optional(numberOfBytes),
  KeySpec: optional(oneOf('AES_256', 'AES_128')),
  GrantTokens: grantTokens,
  DryRun: dryRun,
} as const satisfies Shape

const dataKeyUse = keyFrom('KeyId', {
  alias: true,
  crossAccount: true,
  usage: 'ENCRYPT_DECRYPT',
})

/** A data key from the device's generator, and the same key encrypted. The caller wipes the first. */
async function generateDataKey(call: Call, input: Input<typeof dataKeyInput>, key: KeyRecord) {
  if ((input.KeySpec === undefined) === (input.NumberOfBytes === undefined)) {
    throw kmsError('ValidationException', 'Please specify either number of bytes or key spec.')
  }
  refuseGrantTokens(input.GrantTokens)
  if (input.DryRun) throw dryRunSucceeded()
  const plaintext = await call.service.token.random(input.NumberOfBytes ?? (input.KeySpec === 'AES_128' ? 16 : 32))
  try {
    const { blob: made, materialId } = await encrypt(call.service, key, plaintext, input.EncryptionContext)
    call.note['keyMaterialId'] = materialId
    return { plaintext, answer: { CiphertextBlob: made.toString('base64'), KeyId: key.arn, KeyMaterialId: materialId } }
  } catch (error) {
    plaintext.fill(0)
    throw error
  }
}

export const GenerateDataKey = operation({
  input: { ...dataKeyInput, Recipient: recipient },
  output: ['CiphertextBlob', 'Plaintext', 'KeyId', 'CiphertextForRecipient', 'KeyMaterialId'],
  keys: { key: dataKeyUse },
  readOnly: true,
  dryRunInside: true,
  async run(call, input, { key }) {
    refuseRecipient(input.Recipient)
    const { plaintext, answer } = await generateDataKey(call, input, key)
    const text = plaintext.toString('base64')
    plaintext.fill(0)
    return { ...answer, Plaintext: text }
  },
})

export const GenerateDataKeyWithoutPlaintext = operation({
  input: dataKeyInput,
  output: ['CiphertextBlob', 'KeyId', 'KeyMaterialId'],
  keys: { key: dataKeyUse },
  readOnly: true,
  dryRunInside: true,
  async run(call, input, { key }) {
    const { plaintext, answer } = await generateDataKey(call, input, key)
    plaintext.fill(0)
    return answer
  },
})
