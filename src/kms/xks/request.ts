/** A request of KMS to the XKS proxy: as the door hands it over, and what becomes known of it on its way. */

import type { KeyRecord, XksStoreRecord } from '../../store/store.ts'
import type { AskedMetadata } from '../../xks/requests.ts'
import type { Signer } from './credentials.ts'

export type XksApi = 'health' | 'metadata' | 'encrypt' | 'decrypt'

/** One request, after routing, method and body cap. */
export interface XksRequest {
  /** The store's: '' or `/tenant`, one that the proxy `has`. */
  readonly prefix: string
  readonly api: XksApi
  /** Of the spec's alphabet, 1 to 128 characters; undefined for health alone. */
  readonly externalKeyId: string | undefined
  /** As on the wire, for the signature: with a query string if there was one. */
  readonly method: string
  readonly path: string
  /** Names in lower case; with `host`, which is `:authority` where HTTP/2 has no other. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly body: Buffer
  /** When its first byte was there, in ms since 1970. */
  readonly receivedAt: number
  /** When its answer is too late, in ms since 1970. */
  readonly deadline: number
  readonly remoteAddress: string
}

/** In the audit, the metrics and the usage. */
export const operationNames: Readonly<Record<XksApi, string>> = {
  health: 'GetHealthStatus',
  metadata: 'GetKeyMetadata',
  encrypt: 'Encrypt',
  decrypt: 'Decrypt',
}

/** A request on its way. The audit record is made from it, once. */
export interface Asked {
  readonly request: XksRequest
  /** As it was when its request came, or when its secret was open. */
  store: XksStoreRecord
  signer: Signer | undefined
  /** What it says about itself, valid or not. */
  told: Partial<AskedMetadata>
  key: KeyRecord | undefined
  /** What becomes `additionalEventData`. */
  readonly note: Record<string, unknown>
  /** Wiped when neither the answer nor the device needs them any more. */
  readonly secrets: Buffer[]
  /** Settles when the device is done with it; never rejects. */
  inDevice: Promise<void> | undefined
}

export const newAsked = (request: XksRequest, store: XksStoreRecord): Asked => ({
  request,
  store,
  signer: undefined,
  told: {},
  key: undefined,
  note: {},
  secrets: [],
  inDevice: undefined,
})

export function wipe({ secrets, inDevice }: Asked): void {
  const wipeAll = (): void => {
    for (const secret of secrets) secret.fill(0)
  }
  // What was given up at the deadline is still being worked with.
  if (inDevice) void inDevice.then(wipeAll)
  else wipeAll()
}
