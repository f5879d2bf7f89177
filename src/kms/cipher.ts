/**
 * Symmetric encryption under a KMS key, wherever it lives. Of a key in an external key store the token encrypts first, under material of our
 * own, and the external key encrypts what came of it: neither side can open it alone.
 */

import { TokenError } from '../hsm/token.ts'
import type { KeyRecord } from '../store/store.ts'
import { XksError } from '../xks/client.ts'
import type { RequestMetadata } from '../xks/protocol.ts'
import { encodeContext, encodeOuter, parseOuter, type Ciphertext } from './ciphertext.ts'
import { KmsError, kmsError } from './errors.ts'
import { unwrapUnder, wrapUnder, type EncryptionContext } from './material.ts'
import type { Call } from './operation.ts'
import { xksKmsError } from './xks-failures.ts'

type Caller = Pick<Call, 'service' | 'operation' | 'facts' | 'principal'>

/** Encrypts 1…4096 bytes under the key's current material. */
export async function encrypt(
  call: Caller,
  key: KeyRecord,
  plaintext: Uint8Array,
  context: EncryptionContext | undefined,
): Promise<{ readonly blob: Buffer; readonly materialId: string }> {
  const { header, body, materialId } = await wrapUnder(call.service, key, plaintext, context)
  const outer = key.origin === 'EXTERNAL_KEY_STORE' ? await encryptOutside(call, key, body, context) : body
  return { blob: Buffer.concat([header, outer]), materialId }
}

/** The reverse. The caller wipes the answer. */
export async function decrypt(
  call: Caller,
  key: KeyRecord,
  ciphertext: Ciphertext,
  context: EncryptionContext | undefined,
): Promise<Buffer> {
  if (ciphertext.doubly !== (key.origin === 'EXTERNAL_KEY_STORE')) throw kmsError('InvalidCiphertextException')
  if (!ciphertext.doubly) return unwrapUnder(call.service, key, ciphertext, context)
  const body = await decryptOutside(call, key, ciphertext.body, context)
  try {
    return await unwrapUnder(call.service, key, { ...ciphertext, body }, context)
  } catch (error) {
    const isRejected =
      error instanceof TokenError ? error.failure === 'rejected' : error instanceof KmsError && error.code === 'InvalidCiphertextException'
    if (!isRejected) throw error
    throw kmsError(
      'KMSInvalidStateException',
      'The ciphertext that the external key store proxy submitted for decryption, or the encryption context, is corrupted, missing, or otherwise invalid.',
      { cause: error },
    )
  }
}

const noContext = Buffer.alloc(0)
const contextBytes = (context: EncryptionContext | undefined): Buffer => (context ? encodeContext(context) : noContext)

async function encryptOutside(call: Caller, key: KeyRecord, body: Buffer, context: EncryptionContext | undefined): Promise<Buffer> {
  const { xks, proxy, externalKeyId } = await outside(call, key)
  return encodeOuter(await told(call, key, xks.encrypt(proxy, externalKeyId, metadata(call, key), body, contextBytes(context))))
}

async function decryptOutside(call: Caller, key: KeyRecord, body: Buffer, context: EncryptionContext | undefined): Promise<Buffer> {
  const outer = parseOuter(body)
  if (!outer) throw kmsError('InvalidCiphertextException')
  const { xks, proxy, externalKeyId } = await outside(call, key)
  return told(call, key, xks.decrypt(proxy, externalKeyId, metadata(call, key), outer, contextBytes(context)))
}

async function outside({ service }: Caller, { arn, customKeyStoreId, xksKeyId }: KeyRecord) {
  const keyStore = service.store.view.keyStore(customKeyStoreId ?? '')
  if (!keyStore || xksKeyId === null) throw new Error(`${arn} has no external key`)
  return { xks: service.keyStores.xks, proxy: await service.keyStores.proxyOf(keyStore), externalKeyId: xksKeyId }
}

const metadata = ({ facts, operation, principal }: Caller, key: KeyRecord): RequestMetadata => ({
  awsPrincipalArn: principal.arn,
  kmsKeyArn: key.arn,
  kmsOperation: operation.name,
  kmsRequestId: facts.requestId,
})

async function told<T>({ service, facts, operation }: Caller, key: KeyRecord, work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    if (!(error instanceof XksError)) throw error
    service.log.warn(
      {
        requestId: facts.requestId,
        operation: operation.name,
        keyStore: key.customKeyStoreId,
        failure: error.failure,
        detail: error.message,
      },
      'the proxy of an external key store did not do it',
    )
    throw xksKmsError(error, 'use')
  }
}
