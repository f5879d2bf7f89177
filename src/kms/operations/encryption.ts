/**
 * Encrypt, Decrypt, ReEncrypt and the data keys: symmetric encryption inside the token, bound to an encryption context, or RSAES-OAEP, for which
 * the token only decrypts.
 */

import type { OaepAlgorithm } from '../../hsm/token.ts'
import type { KeyRecord } from '../../store/store.ts'
import { keyArn } from '../arn.ts'
import { decrypt, encrypt } from '../cipher.ts'
import { kmsError, type KmsError } from '../errors.ts'
import { parseCiphertext, type Ciphertext } from '../ciphertext.ts'
import { findKey, keyFrom, keyMissing } from '../keys.ts'
import { withMaterial, type EncryptionContext } from '../material.ts'
import { dryRunSucceeded, operation, type Call, type FoundKey, type KeyUse } from '../operation.ts'
import { encryptOaep, publicKeyOf } from '../public-keys.ts'
import { blob, integer, keyId, list, oneOf, optional, stringMap, structure, validationError, type Input, type Shape } from '../shape.ts'
import { checkAlgorithm, checkOaepLength } from '../specs.ts'
import { dryRun, encryptionAlgorithm, grantTokens } from './members.ts'

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
export const context = optional<EncryptionContext>({
  ...stringMap,
  read(value, path, problems) {
    const given = stringMap.read(value, path, problems)
    let bytes = 0
    for (const name in given) bytes += Buffer.byteLength(name) + Buffer.byteLength(given[name] ?? '') + 8
    if (bytes > maxContextBytes) {
      problems.push(`Value at '${path}' failed to satisfy constraint: Member must have length less than or equal to ${maxContextBytes}`)
    }
    return given
  },
})

/** The algorithm that a request means for a key, and nothing else in it that does not go with it. @throws KmsError */
function readAlgorithm(
  key: KeyRecord,
  given: string | undefined,
  encryptionContext: EncryptionContext | undefined,
): 'SYMMETRIC_DEFAULT' | OaepAlgorithm {
  const wanted = given ?? 'SYMMETRIC_DEFAULT'
  checkAlgorithm(key, wanted)
  if (wanted === 'SYMMETRIC_DEFAULT') return wanted
  if (encryptionContext && Object.keys(encryptionContext).length > 0) {
    throw kmsError('ValidationException', 'EncryptionContext is not supported when encrypting/decrypting with asymmetric CMKs.')
  }
  return wanted as OaepAlgorithm
}

export function refuseRecipient(given: unknown): void {
  if (given !== undefined) {
    throw kmsError('UnsupportedOperationException', 'Recipient is not supported: this service attests no enclaves.')
  }
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

/** The blob to be opened; undefined for a dry run that says that it is not to be looked at, whether or not there is one. */
function ciphertextOf({ CiphertextBlob: given, DryRun, DryRunModifiers }: CiphertextInput): Buffer | undefined {
  if (DryRunModifiers?.includes('IGNORE_CIPHERTEXT')) {
    if (DryRun !== true) throw kmsError('ValidationException', 'DryRunModifiers can be used only with DryRun.')
    return undefined
  }
  if (!given) throw validationError([`Value null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null`])
  return given
}

interface Opened {
  /** The caller wipes it. */
  readonly plaintext: Buffer
  /** Of symmetric keys. */
  readonly materialId?: string
}

/** Every reason why it cannot be opened is one InvalidCiphertextException. */
async function openCiphertext(
  call: Call,
  key: KeyRecord,
  algorithm: 'SYMMETRIC_DEFAULT' | OaepAlgorithm,
  bytes: Buffer,
  encryptionContext: EncryptionContext | undefined,
): Promise<Opened> {
  if (algorithm !== 'SYMMETRIC_DEFAULT') {
    return { plaintext: await withMaterial(call.service, key, (token, ckaId) => token.decryptOaep(ckaId, algorithm, bytes)) }
  }
  const ciphertext = readCiphertext(bytes)
  return { plaintext: await decrypt(call, key, ciphertext, encryptionContext), materialId: ciphertext.materialId }
}

async function makeCiphertext(
  call: Call,
  key: KeyRecord,
  algorithm: 'SYMMETRIC_DEFAULT' | OaepAlgorithm,
  plaintext: Buffer,
  encryptionContext: EncryptionContext | undefined,
): Promise<{ readonly blob: Buffer; readonly materialId?: string }> {
  if (algorithm === 'SYMMETRIC_DEFAULT') return encrypt(call, key, plaintext, encryptionContext)
  return { blob: encryptOaep(await publicKeyOf(call.service, key), algorithm, plaintext) }
}

/**
 * What symmetric encryption made says its key, so the key of another account may be named by its bare id, which elsewhere means a key of one's
 * own (API reference, Decrypt and ReEncrypt).
 */
function sharedKey({ service, region, principal }: Call, name: string, ciphertext: Ciphertext | undefined): FoundKey | undefined {
  const record = ciphertext?.keyId === name ? service.store.view.keyById(region, name) : undefined
  return record && record.accountId !== principal.accountId && record.state !== 'Creating' ? { record, alias: undefined } : undefined
}

/**
 * The key that made a blob, checked against the one that the caller names, if any. A symmetric blob says its key; naming one is the
 * caller's own safeguard. What RSA made says nothing, so its key must be named. What is denied without having been named looks like what is not there.
 */
function keyOfCiphertext<M extends string>(
  member: M,
  rule: Omit<KeyUse<unknown>, 'find' | 'denied' | 'verify'>,
): KeyUse<CiphertextInput & { readonly [P in M]?: string }> {
  const algorithmMember = rule.members?.algorithm ?? 'EncryptionAlgorithm'
  const isSymmetric = (input: object): boolean => (input as Readonly<Record<string, unknown>>)[algorithmMember] === 'SYMMETRIC_DEFAULT'
  return {
    ...rule,
    denied({ region, principal }, { record }, input) {
      if (input[member] === undefined) return unseenCiphertext()
      // As if there were none: by its bare id one's own key is meant first.
      const isShared = record.accountId !== principal.accountId && input[member] === record.keyId
      return isShared ? keyMissing(keyArn(region, principal.accountId, record.keyId)) : undefined
    },
    find(call, input): FoundKey {
      const bytes = ciphertextOf(input)
      const name = input[member]
      if (!isSymmetric(input) && name === undefined) throw kmsError('ValidationException', `${member} must not be null`)
      const ciphertext = bytes && isSymmetric(input) ? readCiphertext(bytes) : undefined
      const named = name === undefined ? undefined : (sharedKey(call, name, ciphertext) ?? findKey(call, name, 'key or alias', rule.action))
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
      const bytes = ciphertextOf(input)
      if (bytes && isSymmetric(input) && readCiphertext(bytes).keyId !== key.keyId) {
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
    const algorithm = readAlgorithm(key, input.EncryptionAlgorithm, input.EncryptionContext)
    if (algorithm !== 'SYMMETRIC_DEFAULT') checkOaepLength(key, algorithm, input.Plaintext)
    if (input.DryRun) throw dryRunSucceeded()
    const { blob: made, materialId } = await makeCiphertext(call, key, algorithm, input.Plaintext, input.EncryptionContext)
    if (materialId !== undefined) call.note['keyMaterialId'] = materialId
    return { CiphertextBlob: made.toString('base64'), KeyId: key.arn, EncryptionAlgorithm: algorithm }
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
    const algorithm = readAlgorithm(key, input.EncryptionAlgorithm, input.EncryptionContext)
    refuseRecipient(input.Recipient)
    const bytes = ciphertextOf(input)
    if (!bytes) throw dryRunSucceeded()
    const { plaintext, materialId } = await openCiphertext(call, key, algorithm, bytes, input.EncryptionContext)
    try {
      if (materialId !== undefined) call.note['keyMaterialId'] = materialId
      // Whether the call would succeed only the token could say.
      if (input.DryRun) throw dryRunSucceeded()
      return {
        KeyId: key.arn,
        Plaintext: plaintext.toString('base64'),
        EncryptionAlgorithm: algorithm,
        ...(materialId !== undefined && { KeyMaterialId: materialId }),
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
    const from = readAlgorithm(source, input.SourceEncryptionAlgorithm, input.SourceEncryptionContext)
    const to = readAlgorithm(destination, input.DestinationEncryptionAlgorithm, input.DestinationEncryptionContext)
    const bytes = ciphertextOf(input)
    if (!bytes) throw dryRunSucceeded()
    const opened = await openCiphertext(call, source, from, bytes, input.SourceEncryptionContext)
    try {
      if (to !== 'SYMMETRIC_DEFAULT') checkOaepLength(destination, to, opened.plaintext)
      if (input.DryRun) throw dryRunSucceeded()
      const made = await makeCiphertext(call, destination, to, opened.plaintext, input.DestinationEncryptionContext)
      if (opened.materialId !== undefined) call.note['sourceKeyMaterialId'] = opened.materialId
      if (made.materialId !== undefined) call.note['destinationKeyMaterialId'] = made.materialId
      return {
        CiphertextBlob: made.blob.toString('base64'),
        SourceKeyId: source.arn,
        KeyId: destination.arn,
        SourceEncryptionAlgorithm: from,
        DestinationEncryptionAlgorithm: to,
        ...(opened.materialId !== undefined && { SourceKeyMaterialId: opened.materialId }),
        ...(made.materialId !== undefined && { DestinationKeyMaterialId: made.materialId }),
      }
    } finally {
      opened.plaintext.fill(0)
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
  checkAlgorithm(key, 'SYMMETRIC_DEFAULT')
  if (input.DryRun) throw dryRunSucceeded()
  const plaintext = await call.service.token.random(input.NumberOfBytes ?? (input.KeySpec === 'AES_128' ? 16 : 32))
  try {
    const { blob: made, materialId } = await encrypt(call, key, plaintext, input.EncryptionContext)
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
