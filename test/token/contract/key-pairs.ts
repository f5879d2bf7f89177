/** What the contract tests of key pairs share: one key of each kind per file, since RSA keys are slow to make, and its public half for OpenSSL. */

import { createPublicKey, type KeyObject } from 'node:crypto'
import { GetPublicKeyCommand, type KeySpec, type KeyUsageType } from '@aws-sdk/client-kms'
import { given, type Contract, type TestKey } from './kit.ts'

export interface Keys {
  key(spec: KeySpec, usage: KeyUsageType): Promise<TestKey>
  publicKey(spec: KeySpec, usage: KeyUsageType): Promise<KeyObject>
}

export function useKeys(contract: Contract): Keys {
  const made = new Map<string, Promise<TestKey>>()
  const key: Keys['key'] = (spec, usage) => {
    const name = `${spec} ${usage}`
    const found = made.get(name) ?? contract.key({ KeySpec: spec, KeyUsage: usage })
    made.set(name, found)
    return found
  }
  return {
    key,
    async publicKey(spec, usage) {
      const { KeyId } = await key(spec, usage)
      const { PublicKey } = await contract.kms.send(new GetPublicKeyCommand({ KeyId }))
      return createPublicKey({ key: Buffer.from(given(PublicKey)), format: 'der', type: 'spki' })
    },
  }
}
