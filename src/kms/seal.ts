/** What the service hands out or stores so that only it can open it again: sealed under its own key in the HSM, for one purpose each. */

import { TokenError, wrapSchemes, type WrapScheme } from '../hsm/token.ts'
import type { Service } from './service.ts'

type Rooms = Pick<Service, 'token' | 'serviceKey'>

/** Authenticated with what is sealed: a secret never opens as a session. */
export type SealPurpose =
  | 'session'
  | 'import'
  | 'grant-token-key'
  | `access-key/${string}`
  | `key-store/${string}`
  | `xks-credential/${string}`

const purposeBytes = (purpose: SealPurpose): Buffer => Buffer.from(`holdfast/${purpose}`)

/** One byte that says the wrap scheme, then what the token made. Wipes `plaintext`. */
export async function seal({ token, serviceKey }: Rooms, plaintext: Buffer, purpose: SealPurpose): Promise<Buffer> {
  try {
    const { scheme, body } = await token.wrap(serviceKey.ckaId, purposeBytes(purpose), plaintext)
    return Buffer.concat([Buffer.from([wrapSchemes[scheme]]), body])
  } finally {
    plaintext.fill(0)
  }
}

/** The reverse; undefined for what was not sealed here for this purpose. The caller wipes the answer. */
export async function unseal({ token, serviceKey }: Rooms, sealed: Uint8Array, purpose: SealPurpose): Promise<Buffer | undefined> {
  const scheme = (Object.keys(wrapSchemes) as WrapScheme[]).find((name) => wrapSchemes[name] === sealed[0])
  if (!scheme || sealed.length < 2) return undefined
  try {
    return await token.unwrap(serviceKey.ckaId, scheme, purposeBytes(purpose), sealed.subarray(1))
  } catch (error) {
    if (error instanceof TokenError && error.failure === 'rejected') return undefined
    throw error
  }
}
