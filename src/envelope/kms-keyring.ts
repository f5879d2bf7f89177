/**
 * A keyring over KMS keys, as the AWS Encryption SDK's KMS keyrings are (its specification, framework/aws-kms/): the first key makes the data
 * key, the further ones encrypt it too, and any of them gives it back.
 *
 * Strict where keys are named: nothing else is asked to decrypt. A key of several Regions is known by any of its replicas. Discovery where none
 * are: whatever key a message names is asked, within a filter. What a KMS answers counts only when it says that the key that was meant did it.
 */

import type { Keyring } from '../bulk/keyring.ts'
import { defaultHeaderLimits, type EncryptedDataKey, type EncryptionContext } from '../bulk/message.ts'
import { encodeKeyArn, isMultiRegion, isSameKey, parseKeyArn } from './arn.ts'
import { KmsFailure, type Kms, type Regions } from './kms.ts'

export interface KmsKeyringOptions {
  readonly kms: Regions
  /** The region of keys that are named without one: by alias or key id. */
  readonly region: string
  /** Ids, ARNs, aliases or alias ARNs. The first generates data keys. Empty for discovery. */
  readonly keys: readonly string[]
  /** Only without keys. */
  readonly discovery?: Discovery | undefined
  readonly grantTokens?: readonly string[] | undefined
}

/** Which of a message's keys may be asked. What is absent is not looked at. */
export interface Discovery {
  readonly partition?: string | undefined
  readonly accounts?: readonly string[] | undefined
  /** Only these are called, a multi-Region key by its replica in them. */
  readonly regions?: readonly string[] | undefined
}

/** No key of a message could be had; `failures` says why, for each that was asked. */
export class DataKeyError extends Error {
  override readonly name = 'DataKeyError'
  readonly failures: readonly KeyFailure[]
  constructor(message: string, failures: readonly KeyFailure[] = []) {
    super(message, failures.length > 0 ? { cause: failures[0]?.error } : undefined)
    this.failures = failures
  }
}

/** Also encrypts a data key that is there already, for a message that moves to other keys. */
export interface KmsKeyring extends Keyring {
  /** Who would be asked to decrypt, in this order. */
  asks(encryptedDataKeys: readonly EncryptedDataKey[]): readonly Attempt[]
  wrapping(request: { readonly dataKey: Buffer; readonly context: EncryptionContext }): Promise<readonly EncryptedDataKey[]>
}

export interface KeyFailure {
  /** As it was asked for. */
  readonly key: string
  readonly error: Error
}

const providerId = 'aws-kms'

/** A message names its keys, and each costs a call: whoever made one could name thousands. */
const maxAsked = 32

/** Each costs a call for every message, and of a message under more nobody here would read the header. */
const maxKeys = defaultHeaderLimits.maxEncryptedDataKeys

/** @throws DataKeyError when the keys cannot be meant so. */
export function kmsKeyring({ kms, region, keys, discovery, grantTokens = [] }: KmsKeyringOptions): KmsKeyring {
  checkKeys(keys, discovery)

  const kmsIn = (where: string): Kms => {
    const found = kms(where)
    if (!found) throw new DataKeyError(`There is no KMS to call in ${where}.`)
    return found
  }
  const regionOf = (key: string): string => parseKeyArn(key)?.region ?? region

  const carry = (key: string, answer: { readonly keyId: string; readonly ciphertext: Buffer }): EncryptedDataKey => {
    requireAnswerOf(key, regionOf(key), answer.keyId)
    return { providerId, providerInfo: Buffer.from(answer.keyId), ciphertext: answer.ciphertext }
  }

  /** All have ended when it returns, whatever becomes of one: the data key may be wiped then. */
  const wrapUnder = async (
    names: readonly string[],
    plaintext: Buffer,
    context: EncryptionContext,
  ): Promise<readonly EncryptedDataKey[]> => {
    const wrapping = names.map(async (key) =>
      carry(key, await naming(key, kmsIn(regionOf(key)).encrypt({ keyId: key, plaintext, context, grantTokens }))),
    )
    await Promise.allSettled(wrapping)
    return Promise.all(wrapping)
  }

  const attempts = (encryptedDataKeys: readonly EncryptedDataKey[]): readonly Attempt[] =>
    encryptedDataKeys.flatMap((carried) => attemptsFor(carried, { region, keys, discovery }))

  return {
    asks: (encryptedDataKeys) => attempts(encryptedDataKeys).slice(0, maxAsked),

    async wrapping({ dataKey, context }) {
      if (keys.length === 0) throw new DataKeyError('Nothing says which key to encrypt under: name one.')
      return wrapUnder(keys, dataKey, context)
    },

    async encrypting({ suite, context }) {
      const [generator, ...others] = keys
      if (generator === undefined) throw new DataKeyError('Nothing says which key to encrypt under: name one.')
      const generated = await naming(
        generator,
        kmsIn(regionOf(generator)).generateDataKey({ keyId: generator, bytes: suite.keyBytes, context, grantTokens }),
      )
      const { plaintext } = generated
      try {
        requireLength(generator, plaintext, suite.keyBytes)
        const first = carry(generator, generated)
        return { dataKey: plaintext, encryptedDataKeys: [first, ...(await wrapUnder(others, plaintext, context))] }
      } catch (error) {
        plaintext.fill(0)
        throw error
      }
    },

    async decrypting({ suite, context, encryptedDataKeys }) {
      const possible = attempts(encryptedDataKeys)
      if (possible.length === 0) throw noneOf(encryptedDataKeys, keys)
      const failures: KeyFailure[] = []
      for (const { keyId, region: where, carried, arn } of possible.slice(0, maxAsked)) {
        try {
          const { plaintext, keyId: answered } = await kmsIn(where).decrypt({ keyId, ciphertext: carried.ciphertext, context, grantTokens })
          try {
            requireAnswerOf(keyId, where, answered)
            if (!isSameKey(answered, arn)) throw new KmsFailure('MalformedAnswer', `The KMS says that ${answered} decrypted it.`)
            requireLength(keyId, plaintext, suite.keyBytes)
            return { dataKey: plaintext, from: carried }
          } catch (error) {
            plaintext.fill(0)
            throw error
          }
        } catch (error) {
          failures.push({ key: keyId, error: error as Error })
        }
      }
      const unasked = possible.length - failures.length
      throw new DataKeyError(
        `No key gave the data key: ${failures.map(sayFailure).join('; ')}${unasked > 0 ? `; ${unasked} more were not asked` : ''}`,
        failures,
      )
    },
  }
}

function checkKeys(keys: readonly string[], discovery: Discovery | undefined): void {
  if (discovery && keys.length > 0) throw new DataKeyError('Keys are either named or discovered, not both.')
  if (keys.length === 0 && !discovery) throw new DataKeyError('Name a key, or ask for discovery.')
  if (keys.length > maxKeys) throw new DataKeyError(`${keys.length} keys are named; a message is under ${maxKeys} at the most.`)
  for (const [name, list] of Object.entries({ accounts: discovery?.accounts, regions: discovery?.regions })) {
    if (list?.length === 0) throw new DataKeyError(`A discovery filter without any ${name} lets nothing through.`)
  }
  for (const key of keys) {
    if (key === '' || (key.startsWith('arn:') ? !parseKeyArn(key) : !/^(?:alias\/)?[\w/-]+$/.test(key)))
      throw new DataKeyError(`${JSON.stringify(key)} is no key id, key ARN, alias or alias ARN.`)
  }
  // Two replicas would hold the data key twice under one key, and look like more than that (aws-kms-mrk-are-unique.md).
  const twice = keys.filter((key, at) => keys.some((other, before) => before < at && isSameKey(key, other)))
  if (twice.length > 0) throw new DataKeyError(`${twice.join(', ')} is named twice, or is a replica of another key that is named.`)
}

export interface Attempt {
  /** What Decrypt is told. */
  readonly keyId: string
  readonly region: string
  readonly carried: EncryptedDataKey
  /** The key that the message names. */
  readonly arn: string
}

/** Whom to ask for one encrypted data key; nobody where it is not ours to open. */
function attemptsFor(
  carried: EncryptedDataKey,
  { region, keys, discovery }: Pick<KmsKeyringOptions, 'region' | 'keys' | 'discovery'>,
): readonly Attempt[] {
  const arn = carried.providerInfo.toString('utf8')
  const named = carried.providerId === providerId ? parseKeyArn(arn) : undefined
  if (named?.type !== 'key') return []
  const ask = (keyId: string, where: string): Attempt => ({ keyId, region: where, carried, arn })
  if (discovery) {
    const { partition = named.partition, accounts = [named.accountId], regions = [named.region] } = discovery
    if (named.partition !== partition || !accounts.includes(named.accountId)) return []
    return regions
      .filter((where) => where === named.region || isMultiRegion(named))
      .map((where) => ask(encodeKeyArn({ ...named, region: where }), where))
  }
  return keys.flatMap((key) => {
    const given = parseKeyArn(key)
    if (given?.type === 'key') return isSameKey(key, arn) ? [ask(key, given.region)] : []
    const where = given?.region ?? region
    if (where !== named.region && !isMultiRegion(named)) return []
    // Which key an alias means only the KMS knows; it refuses what another key encrypted.
    const isPossible = given ? given.accountId === named.accountId : key.startsWith('alias/') || key === named.id
    return isPossible ? [ask(key, where)] : []
  })
}

/** @throws KmsFailure unless a key answered that may be what was asked for. */
function requireAnswerOf(asked: string, region: string, answered: string): void {
  const arn = parseKeyArn(answered)
  const given = parseKeyArn(asked)
  const isIt =
    arn?.type === 'key' &&
    arn.region === region &&
    (given === undefined || (given.partition === arn.partition && given.accountId === arn.accountId)) &&
    (given?.type === 'key' || (given === undefined && !asked.startsWith('alias/')) ? arn.id === (given?.id ?? asked) : true)
  if (!isIt) throw new KmsFailure('MalformedAnswer', `The KMS was asked for ${asked} and answered for ${JSON.stringify(answered)}.`)
}

function requireLength(key: string, dataKey: Buffer, bytes: number): void {
  if (dataKey.length !== bytes) {
    throw new KmsFailure(
      'MalformedAnswer',
      `The KMS answered for ${key} with a data key of ${dataKey.length} bytes; the suite needs ${bytes}.`,
    )
  }
}

/** The same failure, and which key it is about. */
async function naming<T>(key: string, call: Promise<T>): Promise<T> {
  try {
    return await call
  } catch (error) {
    const failure = { key, error: error as Error }
    throw new DataKeyError(sayFailure(failure), [failure])
  }
}

const sayFailure = ({ key, error }: KeyFailure): string => {
  const code = 'code' in error && typeof error.code === 'string' ? error.code : undefined
  // The key's name, which the KMS may repeat, can come out of a message.
  return obeyedByNone(`${key.slice(0, maxShown)}: ${[code, error.message].filter(Boolean).join(': ')}`)
}

function noneOf(encryptedDataKeys: readonly EncryptedDataKey[], keys: readonly string[]): DataKeyError {
  const carried = encryptedDataKeys
    .slice(0, maxAsked)
    .map(({ providerId: provider, providerInfo }) =>
      provider === providerId ? printable(providerInfo) : `a key of ${printable(provider)}`,
    )
  const wanted = keys.length > 0 ? `not ${keys.join(' or ')}` : 'which the discovery filter leaves out'
  return new DataKeyError(`The message is under ${carried.join(', ')}, ${wanted}.`)
}

const maxShown = 256

/** What a message says of itself, for a person's eyes: anybody can have written it. */
export const printable = (text: Buffer | string): string => obeyedByNone(text.toString().slice(0, maxShown))

/** Terminals obey control characters, and readers what turns the direction of text. */
const obeyedByNone = (text: string): string => text.replace(/[\p{Cc}\p{Bidi_Control}]/gu, '?')
