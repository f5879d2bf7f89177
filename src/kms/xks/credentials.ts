/**
 * Who signs for a store of the XKS proxy. A secret is opened by the HSM to derive a day's signing key, which is kept; the secret itself is not.
 *
 * Spec, "Request authentication": SigV4 for the service kms-xks-proxy in a region of the store, host and x-amz-date signed, five minutes of skew. An access key
 * id that the store does not have is checked like one that it has, under a secret that nobody knows, and refused in the same words.
 */

import { randomBytes } from 'node:crypto'
import {
  readAuthorization,
  SignatureError,
  SigningKeyCache,
  verifySignature,
  type ReceivedSignature,
  type SignedRequest,
} from '../../auth/sigv4.ts'
import { TokenError } from '../../hsm/token.ts'
import type { XksCredential, XksStoreRecord } from '../../store/store.ts'
import { signingService } from '../../xks/protocol.ts'
import { seal, unseal } from '../seal.ts'
import type { Service } from '../service.ts'

type Rooms = Pick<Service, 'token' | 'serviceKey' | 'store' | 'clock' | 'log'>

export interface Signer {
  readonly accessKeyId: string
  /** Of the credential scope. */
  readonly region: string
}

export interface XksAuthentication {
  /** @throws SignatureError; TokenError where a secret has to be opened and cannot be. */
  authenticate(store: XksStoreRecord, request: SignedRequest): Signer | Promise<Signer>
  /** When each credential last signed a request here, in ms since 1970. */
  lastUses(): readonly { readonly prefix: string; readonly accessKeyId: string; readonly at: number }[]
}

const purpose = (prefix: string, accessKeyId: string) => `xks-credential/${prefix}/${accessKeyId}` as const

/** Wipes `secret`. */
export async function sealCredential(
  service: Pick<Service, 'token' | 'serviceKey'>,
  prefix: string,
  accessKeyId: string,
  secret: Buffer,
  createdAt: number,
): Promise<XksCredential> {
  return { accessKeyId, sealedSecret: await seal(service, secret, purpose(prefix, accessKeyId)), createdAt }
}

/** What one credential's signing keys are kept by, as long as a store has it. */
interface Known {
  readonly keys: SigningKeyCache
  opening: Promise<string> | undefined
  usedAt: number
}

const services: ReadonlySet<string> = new Set([signingService])
const decoyId = 'DECOY'
/** A day's key for each Region that a store can have, and around midnight those of the next day. */
const keysOfOne = 100

export function openXksAuthentication(rooms: Rooms): XksAuthentication {
  /** Of a store there are two or three. By record, then by what outlives the record. */
  const byRecord = new WeakMap<XksCredential, Known>()
  let known = new Map<string, Known>()
  const expectations = new WeakMap<XksStoreRecord, { readonly services: ReadonlySet<string>; readonly regions: ReadonlySet<string> }>()
  const decoys = new SigningKeyCache(256)
  const decoySecret = randomBytes(32).toString('base64')

  const nameOf = (prefix: string, { accessKeyId, sealedSecret }: XksCredential): string =>
    `${prefix} ${accessKeyId} ${Buffer.from(sealedSecret).toString('base64')}`

  const knownOf = (prefix: string, credential: XksCredential): Known => {
    let found = byRecord.get(credential)
    if (!found) {
      // The record is new, which happens seldom: what no store has any more is forgotten on the way.
      const kept = new Map<string, Known>()
      for (const store of rooms.store.view.allXksStores()) {
        for (const each of store.credentials) {
          const name = nameOf(store.prefix, each)
          kept.set(name, known.get(name) ?? { keys: new SigningKeyCache(keysOfOne), opening: undefined, usedAt: 0 })
        }
      }
      known = kept
      found = known.get(nameOf(prefix, credential)) ?? { keys: new SigningKeyCache(keysOfOne), opening: undefined, usedAt: 0 }
      byRecord.set(credential, found)
    }
    return found
  }

  const openSecret = async (prefix: string, { accessKeyId, sealedSecret }: XksCredential): Promise<string> => {
    const bytes = await unseal(rooms, sealedSecret, purpose(prefix, accessKeyId)).catch((error: unknown) => {
      // Of the service's own key, not of the one that was asked for.
      throw error instanceof TokenError && error.failure === 'missing' ? new Error(error.message, { cause: error }) : error
    })
    if (!bytes) throw new Error(`the stored secret of the XKS credential ${accessKeyId} does not open under the service key`)
    const text = bytes.toString('latin1')
    bytes.fill(0)
    return text
  }

  const finish = (request: SignedRequest, received: ReceivedSignature, signingKey: Buffer, of: Known): Signer => {
    verifySignature(request, received, signingKey)
    of.usedAt = rooms.clock.now()
    return { accessKeyId: received.accessKeyId, region: received.region }
  }

  return {
    authenticate(store, request) {
      let expected = expectations.get(store)
      if (!expected) expectations.set(store, (expected = { services, regions: new Set(store.regions) }))
      const received = readAuthorization(request, rooms.clock.now(), expected)
      if (!received.signedHeaders.includes('x-amz-date')) {
        throw new SignatureError('InvalidSignatureException', "'X-Amz-Date' must be a 'SignedHeader' in the AWS Authorization.")
      }
      const credential = store.credentials.find(({ accessKeyId }) => accessKeyId === received.accessKeyId)
      if (!credential) {
        const key = decoys.get({ ...received, accessKeyId: decoyId }, () => decoySecret)
        verifySignature(request, received, key)
        throw SignatureError.mismatch()
      }
      const of = knownOf(store.prefix, credential)
      const signingKey = of.keys.find(received)
      if (signingKey) return finish(request, received, signingKey, of)
      // Once a day, for all who come meanwhile.
      of.opening ??= openSecret(store.prefix, credential).finally(() => (of.opening = undefined))
      return of.opening.then((secret) =>
        finish(
          request,
          received,
          of.keys.get(received, () => secret),
          of,
        ),
      )
    },
    lastUses: () =>
      [...known]
        .filter(([, { usedAt }]) => usedAt > 0)
        .map(([name, { usedAt }]) => {
          const [prefix = '', accessKeyId = ''] = name.split(' ')
          return { prefix, accessKeyId, at: usedAt }
        }),
  }
}
