/**
 * Data keys for the streams of one caller: the real operations of KMS, called in this process as that caller, so that policies, grants, quotas, key
 * states and the audit trail are those of any call.
 */

import type { Keyring } from '../bulk/keyring.ts'
import { parseKeyArn } from '../envelope/arn.ts'
import type { CachedUse, DataKeyCache } from '../envelope/cache.ts'
import type { KeyRequest, Kms } from '../envelope/kms.ts'
import { kmsKeyring, type Discovery, type KmsKeyring } from '../envelope/kms-keyring.ts'
import { aliasArn } from '../kms/arn.ts'
import { kmsError, KmsError } from '../kms/errors.ts'
import { execute, type Authenticated, type Operation, type RequestFacts } from '../kms/operation.ts'
import type { Service } from '../kms/service.ts'

export type KeyOperations = Readonly<Record<'GenerateDataKey' | 'Encrypt' | 'Decrypt', Operation>>

type Answer = Readonly<Record<string, unknown>>

/** The calls that one request makes, one audit record each. */
export interface CallerKms {
  /** The KMS of a region that this service serves; undefined for others. */
  of(region: string): Kms | undefined
  /** Whether the caller could make the call now: decided, counted and recorded like the call, without the work in the device. @throws KmsError */
  permit(region: string, name: 'GenerateDataKey' | 'Decrypt' | 'Encrypt', input: Answer): Promise<void>
  /** What ended before any operation was called is recorded as a failure of this one. @throws KmsError, always */
  fail(name: keyof KeyOperations, error: unknown): Promise<never>
  /** How many operations were called. */
  readonly calls: number
}

export function openCallerKms(service: Service, operations: KeyOperations, facts: RequestFacts, caller: () => Authenticated): CallerKms {
  let calls = 0
  const call = (region: string, name: keyof KeyOperations, input: Answer): Promise<Answer> => {
    calls++
    return execute(service, operations[name], { facts, authenticate: () => ({ ...caller(), region }), body: () => input })
  }
  return {
    of(region) {
      if (!service.config.regions.includes(region)) return undefined
      return {
        async generateDataKey({ bytes, ...request }) {
          const { Plaintext, CiphertextBlob, KeyId } = await call(region, 'GenerateDataKey', { ...members(request), NumberOfBytes: bytes })
          return { plaintext: bytesOf(Plaintext), ciphertext: bytesOf(CiphertextBlob), keyId: String(KeyId) }
        },
        async encrypt({ plaintext, ...request }) {
          const { CiphertextBlob, KeyId } = await call(region, 'Encrypt', { ...members(request), Plaintext: plaintext.toString('base64') })
          return { ciphertext: bytesOf(CiphertextBlob), keyId: String(KeyId) }
        },
        async decrypt({ ciphertext, ...request }) {
          const input = { ...members(request), CiphertextBlob: Buffer.from(ciphertext).toString('base64') }
          const { Plaintext, KeyId } = await call(region, 'Decrypt', input)
          return { plaintext: bytesOf(Plaintext), keyId: String(KeyId) }
        },
      }
    },
    async permit(region, name, input) {
      try {
        await call(region, name, { ...input, DryRun: true })
      } catch (error) {
        if (error instanceof KmsError && error.code === 'DryRunOperationException') return
        throw error
      }
    },
    async fail(name, error) {
      calls++
      await execute(service, operations[name], {
        facts,
        authenticate: () => caller(),
        body: () => {
          throw error
        },
      })
      // The road throws what it is given.
      throw error
    },
    get calls() {
      return calls
    },
  }
}

const members = ({ keyId, context, grantTokens }: KeyRequest): Answer => ({
  KeyId: keyId,
  ...(Object.keys(context).length > 0 && { EncryptionContext: context }),
  ...(grantTokens.length > 0 && { GrantTokens: grantTokens }),
})

/** In memory of its own, which can be wiped. */
function bytesOf(base64: unknown): Buffer {
  const text = String(base64)
  const bytes = Buffer.alloc(Buffer.byteLength(text, 'base64'))
  bytes.write(text, 'base64')
  return bytes
}

/** Which keys a request is about. */
export interface KeyChoice {
  readonly keys: readonly string[]
  readonly discovery: Discovery | undefined
  readonly grantTokens: readonly string[]
}

/** The keyring for one stream; over data keys that are kept, where there is a cache. @throws DataKeyError */
export function callerKeyring(
  service: Service,
  kms: CallerKms,
  { principal, region }: Authenticated,
  choice: KeyChoice,
  cached: { readonly cache: DataKeyCache; readonly plaintextBytes: number | undefined } | undefined,
): Keyring {
  const keyring = kmsKeyring({ kms: (where) => kms.of(where), region, ...choice })
  if (!cached) return keyring
  const { view } = service.store
  /** An alias that came to mean another key has other data keys. */
  const meant = choice.keys.map((key) => {
    const arn = parseKeyArn(key)
    const name = key.startsWith('alias/') ? aliasArn(region, principal.accountId, key) : arn?.type === 'alias' ? key : undefined
    return name === undefined ? undefined : view.alias(name)?.targetKeyArn
  })
  const { arn, accessKeyId } = principal
  return cached.cache.wrap(keyring, {
    keySet: JSON.stringify([arn, accessKeyId, region, choice, meant]),
    plaintextBytes: cached.plaintextBytes,
    permit: (request) => permitKept(kms, keyring, choice, region, request),
  })
}

/** Who may no longer call for a data key may not use one that is kept, either. @throws KmsError */
async function permitKept(
  kms: CallerKms,
  keyring: KmsKeyring,
  { keys, grantTokens }: KeyChoice,
  home: string,
  { suite, context, encryptedDataKeys, isNew }: Parameters<NonNullable<CachedUse['permit']>>[0],
): Promise<void> {
  const regionOf = (key: string): string => parseKeyArn(key)?.region ?? home
  if (isNew) {
    const [generator = '', ...others] = keys
    await kms.permit(regionOf(generator), 'GenerateDataKey', {
      ...members({ keyId: generator, context, grantTokens }),
      NumberOfBytes: suite.keyBytes,
    })
    const stand = Buffer.alloc(suite.keyBytes).toString('base64')
    for (const key of others)
      await kms.permit(regionOf(key), 'Encrypt', { ...members({ keyId: key, context, grantTokens }), Plaintext: stand })
    return
  }
  let refused: unknown
  for (const { keyId, region, carried } of keyring.asks(encryptedDataKeys)) {
    // With the ciphertext, so that a key which the message also names, or which is named beside the right one, permits nothing.
    const CiphertextBlob = carried.ciphertext.toString('base64')
    try {
      return await kms.permit(region, 'Decrypt', { ...members({ keyId, context, grantTokens }), CiphertextBlob })
    } catch (error) {
      refused ??= error
    }
  }
  throw refused ?? kmsError('AccessDeniedException')
}
