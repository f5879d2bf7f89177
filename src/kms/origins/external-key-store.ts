/**
 * Origin EXTERNAL_KEY_STORE: an external key behind an XKS proxy, and material of our own in the region's token: every ciphertext needs both
 * (cipher.ts). The external key is looked at when the KMS key is made, and never changed.
 */

import { XksError } from '../../xks/client.ts'
import type { ExternalKey } from '../../xks/protocol.ts'
import { orConflict } from '../conflict.ts'
import { kmsError, type KmsError } from '../errors.ts'
import { createKey } from '../material.ts'
import type { Call } from '../operation.ts'
import { checkKind } from '../specs.ts'
import { xksKmsError } from '../xks-failures.ts'
import { connectedKeyStore } from './custom-key-store.ts'
import type { Origin, WantedKey } from './origin.ts'

const type = 'EXTERNAL_KEY_STORE'

export const externalKeyStore: Origin = {
  check(call, wanted) {
    if (wanted.xksKeyId === undefined) {
      throw kmsError('ValidationException', `You must specify an XksKeyId for a KMS key with Origin ${type}.`)
    }
    const { id } = connectedKeyStore(call, wanted, type)
    if (call.service.store.view.keyByExternalKey(id, wanted.xksKeyId)) throw alreadyInUse(wanted.xksKeyId)
    checkKind(call.service.tokenOf({ token: call.service.tokenName(call.region) }), wanted)
  },
  async create(call, key, wanted) {
    const keyStore = connectedKeyStore(call, wanted, type)
    const { xksKeyId = '' } = wanted
    checkExternalKey(await lookAt(call, wanted))
    // Another call may have been first, meanwhile.
    const isTaken = (): boolean => call.service.store.view.keyByExternalKey(keyStore.id, xksKeyId) !== undefined
    return orConflict(createKey(call.service, key), () => (isTaken() ? alreadyInUse(xksKeyId) : undefined))
  },
}

const alreadyInUse = (xksKeyId: string): KmsError =>
  kmsError(
    'XksKeyAlreadyInUseException',
    `The external key ${xksKeyId} is already associated with another KMS key in this external key store.`,
  )

async function lookAt(call: Call, wanted: WantedKey): Promise<ExternalKey> {
  const { keyStores } = call.service
  const about = { kmsRequestId: call.facts.requestId, kmsOperation: call.operation.name, awsPrincipalArn: call.principal.arn }
  try {
    return await keyStores.xks.externalKey(await keyStores.proxyOf(connectedKeyStore(call, wanted, type)), wanted.xksKeyId ?? '', about)
  } catch (error) {
    if (!(error instanceof XksError)) throw error
    throw xksKmsError(error, 'create')
  }
}

/** AWS's requirements, in its words. */
function checkExternalKey({ keySpec, keyUsage, keyStatus }: ExternalKey): void {
  const unfit = (message: string): KmsError => kmsError('XksKeyInvalidConfigurationException', message)
  if (keySpec !== 'AES_256') {
    throw unfit(`The key spec of the external key must be AES_256. The key spec of specified external key is ${shown(keySpec)}.`)
  }
  if (keyStatus !== 'ENABLED') {
    throw unfit(`The status of the external key must be ENABLED. The status of specified external key is ${shown(keyStatus)}.`)
  }
  if (!keyUsage.includes('ENCRYPT') || !keyUsage.includes('DECRYPT')) {
    throw unfit(
      `The key usage of the external key must include ENCRYPT and DECRYPT. The key use of specified external key is ${shown(keyUsage.join(', '))}.`,
    )
  }
}

/** The proxy's words come from outside. */
const shown = (text: string): string => text.slice(0, 128).replace(/[^\x20-\x7e]/g, '?')
