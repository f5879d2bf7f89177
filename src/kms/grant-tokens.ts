/**
 * Grant tokens: a grant named by a text that only this service can make. A token permits nothing by itself; it lets the grantee use a grant,
 * and whoever may retire it retire it, before every process has seen it.
 *
 * base64 of: version (1 byte), what makes each token another (16), grant id (32), key ARN, HMAC-SHA-256 of all before it (32). The key is made
 * once, kept in the store sealed under the service key, and opened by each process at its start.
 */

import { createHmac, createSecretKey, randomBytes, timingSafeEqual, type KeyObject } from 'node:crypto'
import { kmsError, type KmsError } from './errors.ts'
import { seal, unseal } from './seal.ts'
import type { Service } from './service.ts'

export interface NamedGrant {
  readonly grantId: string
  readonly keyArn: string
}

export interface GrantTokens {
  issue(grant: NamedGrant): string
  /** @throws KmsError InvalidGrantTokenException for what this service did not make. */
  read(token: string): NamedGrant
}

const version = 1
const nonceBytes = 16
const idBytes = 32
const macBytes = 32
const head = 1 + nonceBytes + idBytes

const invalid = (): KmsError => kmsError('InvalidGrantTokenException', 'The grant token is invalid.')

type Rooms = Pick<Service, 'token' | 'store' | 'serviceKey'>

export async function openGrantTokens(rooms: Rooms): Promise<GrantTokens> {
  const key = await macKey(rooms)
  const mac = (body: Buffer): Buffer => createHmac('sha256', key).update(body).digest()
  return {
    issue({ grantId, keyArn }) {
      const body = Buffer.concat([Buffer.of(version), randomBytes(nonceBytes), Buffer.from(grantId, 'hex'), Buffer.from(keyArn)])
      return Buffer.concat([body, mac(body)]).toString('base64')
    },
    read(token) {
      const bytes = Buffer.from(token, 'base64')
      const body = bytes.subarray(0, -macBytes)
      // Node skips what is no base64, so only what encodes back to the same text is a token of ours.
      if (bytes.toString('base64') !== token || body.length <= head || body[0] !== version) throw invalid()
      if (!timingSafeEqual(mac(body), bytes.subarray(-macBytes))) throw invalid()
      return { grantId: body.subarray(head - idBytes, head).toString('hex'), keyArn: body.subarray(head).toString() }
    },
  }
}

const setting = 'grant-token-key'
const purpose = 'grant-token-key'

/** Of processes that start together one makes it, and the others read what that one wrote. */
async function macKey(rooms: Rooms): Promise<KeyObject> {
  const { store } = rooms
  if (store.view.setting(setting) === undefined) {
    const sealed = await seal(rooms, await rooms.token.random(32), purpose)
    await store.compareAndSetSetting(setting, undefined, sealed.toString('base64'))
  }
  const bytes = await unseal(rooms, Buffer.from(store.view.setting(setting) ?? '', 'base64'), purpose)
  if (!bytes) throw new Error(`the store's setting ${setting} was not sealed under this service key`)
  try {
    return createSecretKey(bytes)
  } finally {
    bytes.fill(0)
  }
}
