/**
 * The four operations of the XKS proxy, from a request that is authenticated to the body of its answer. Fields first (400), then what is decided before any
 * key is looked at: the store's own switch (400), its quota (429), its policy (403); then the key (404), its state (400) and usage (400), sizes (501), device.
 */

import type { KeyRecord, KeyState, XksStoreRecord } from '../../store/store.ts'
import { compileXksPolicy, type XksPolicy } from '../../xks/policy.ts'
import {
  decryptedBody,
  encryptedBody,
  externalKeyBody,
  oversized,
  readDecrypt,
  readEncrypt,
  readMetadata,
  type AskedMetadata,
  type Members,
} from '../../xks/requests.ts'
import { stateOf } from '../key-stores.ts'
import type { Service } from '../service.ts'
import { decryptUnder, encryptUnder } from './cipher.ts'
import type { Signer } from './credentials.ts'
import type { XksDevices } from './device.ts'
import type { HealthSource } from './health.ts'
import { XksRefusal } from './refusal.ts'
import type { Asked, XksApi } from './request.ts'

/** @throws XksRefusal, or what `toRefusal` makes one of */
export type XksOperation = (asked: Asked, members: Members, signer: Signer) => Promise<string> | string

export function xksOperations(
  service: Service,
  { devices, health }: { readonly devices: XksDevices; readonly health: HealthSource },
): Readonly<Record<XksApi, XksOperation>> {
  return {
    // Neither quota nor policy: it is how KMS finds out whether the rest is worth trying.
    async health(asked, members) {
      readMetadata(members, 'health')
      requireEnabled(asked.store)
      return JSON.stringify(await health())
    },
    metadata(asked, members, signer) {
      admit(service, asked, readMetadata(members, 'metadata'), signer)
      return externalKeyBody(stateOf(service, findKey(service, asked)) === 'Enabled')
    },
    async encrypt(asked, members, signer) {
      const metadata = readMetadata(members, 'encrypt')
      const wanted = readEncrypt(members)
      asked.secrets.push(wanted.plaintext)
      admit(service, asked, metadata, signer)
      const key = findUsableKey(service, asked)
      refuseOversized(wanted.plaintext, wanted.aad)
      const { outer, integrity, materialId } = await devices.use(asked, key, () => encryptUnder(service, key, wanted))
      asked.note['keyMaterialId'] = materialId
      return encryptedBody(outer, integrity)
    },
    async decrypt(asked, members, signer) {
      const metadata = readMetadata(members, 'decrypt')
      const wanted = readDecrypt(members)
      admit(service, asked, metadata, signer)
      const key = findUsableKey(service, asked)
      refuseOversized(wanted.outer.ciphertext, wanted.aad)
      const { plaintext, materialId } = await devices.use(asked, key, async () => {
        const opened = await decryptUnder(service, key, wanted)
        asked.secrets.push(opened.plaintext)
        return opened
      })
      asked.note['keyMaterialId'] = materialId
      return decryptedBody(plaintext)
    },
  }
}

/** What is decided before any key is looked at. */
function admit(service: Service, asked: Asked, metadata: AskedMetadata, signer: Signer): void {
  requireEnabled(asked.store)
  charge(service, asked.store)
  judge(service, asked, metadata, signer)
}

function requireEnabled({ enabled }: XksStoreRecord): void {
  if (!enabled) throw new XksRefusal('InvalidStateException', 'The key store is disabled.')
}

function charge({ buckets, clock }: Service, { prefix, requestRate }: XksStoreRecord): void {
  if (buckets.take(`xks ${prefix}`, requestRate, clock.now())) return
  throw new XksRefusal('ThrottlingException', `The key store is over its quota of ${requestRate} requests a second.`)
}

const policies = new WeakMap<XksStoreRecord, XksPolicy>()

function judge({ log }: Service, { request, store, note }: Asked, metadata: AskedMetadata, { region }: Signer): void {
  if (store.policy === null) return
  let policy = policies.get(store)
  if (!policy) policies.set(store, (policy = compileXksPolicy(store.policy)))
  const decision = policy.decide({ metadata, region, externalKeyId: request.externalKeyId ?? '' })
  if (!decision) return
  const { allowed, statement } = decision
  const dryRun = store.policyMode === 'DRY_RUN'
  note['policy'] = { statement, effect: allowed ? 'Allow' : 'Deny', dryRun }
  const { kmsRequestId, kmsOperation, awsPrincipalArn: principal, kmsKeyArn } = metadata
  const event = { prefix: store.prefix, kmsRequestId, kmsOperation, principal, kmsKeyArn, statement, dryRun }
  if (allowed) return log.debug(event, 'allowed by the policy of the XKS store')
  log.info(event, 'denied by the policy of the XKS store')
  if (!dryRun) throw new XksRefusal('AccessDeniedException', `Statement ${statement} of the key store's policy denies it.`)
}

function findKey({ store: { view } }: Service, asked: Asked): KeyRecord {
  const { prefix, externalKeyId = '' } = asked.request
  const shown = view.xksKey(prefix, externalKeyId)
  if (!shown) throw new XksRefusal('KeyNotFoundException', 'The key store has no key with this external key id.')
  const key = view.key(shown.keyArn)
  if (!key || key.state === 'Creating') throw new XksRefusal('KeyNotFoundException', 'The key with this external key id has been deleted.')
  asked.key = key
  return key
}

const stateWords: Readonly<Record<Exclude<KeyState, 'Enabled'>, string>> = {
  Creating: 'is being created',
  Disabled: 'is disabled',
  PendingDeletion: 'is pending deletion',
  PendingReplicaDeletion: 'is pending deletion',
  PendingImport: 'has no key material',
  Unavailable: 'is unavailable: the key manager does not show it',
  Destroying: 'is being deleted',
}

function findUsableKey(service: Service, asked: Asked): KeyRecord {
  const key = findKey(service, asked)
  const state = stateOf(service, key)
  if (state !== 'Enabled') throw new XksRefusal('InvalidStateException', `The key ${stateWords[state]}.`)
  if (key.usage !== 'ENCRYPT_DECRYPT' || key.spec !== 'SYMMETRIC_DEFAULT') {
    throw new XksRefusal('InvalidKeyUsageException', `A key of spec ${key.spec} for ${key.usage} does no AES-256-GCM.`)
  }
  return key
}

function refuseOversized(text: Uint8Array, aad: Uint8Array): void {
  const problem = oversized(text, aad)
  if (problem !== undefined) throw new XksRefusal('UnsupportedOperationException', problem)
}
