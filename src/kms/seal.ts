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

/**
 * What is sealed:
 *
 *   1 | wrap scheme; with the highest bit set, then
 *   4 | generation of the service key, big-endian; without them it is the first one, 0
 *   n | what the token made
 */
const hasGeneration = 0x80
const generationBytes = 4

/** Wipes `plaintext`. */
export async function seal({ token, serviceKey }: Rooms, plaintext: Buffer, purpose: SealPurpose): Promise<Buffer> {
  try {
    const { ckaId, generation } = await serviceKey.draw()
    const { scheme, body } = await token.wrap(ckaId, purposeBytes(purpose), plaintext)
    return Buffer.concat([encodeHead(wrapSchemes[scheme], generation), body])
  } finally {
    plaintext.fill(0)
  }
}

function encodeHead(scheme: number, generation: number): Buffer {
  if (generation === 0) return Buffer.of(scheme)
  const head = Buffer.of(hasGeneration | scheme, 0, 0, 0, 0)
  head.writeUInt32BE(generation, 1)
  return head
}

/** The reverse; undefined for what was not sealed here for this purpose. The caller wipes the answer. */
export async function unseal({ token, serviceKey }: Rooms, sealed: Uint8Array, purpose: SealPurpose): Promise<Buffer | undefined> {
  const bytes = Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength)
  const [first = 0] = bytes
  const head = first & hasGeneration ? 1 + generationBytes : 1
  if (bytes.length <= head) return undefined
  const generation = head === 1 ? 0 : bytes.readUInt32BE(1)
  const scheme = (Object.keys(wrapSchemes) as WrapScheme[]).find((name) => wrapSchemes[name] === (first & ~hasGeneration))
  // There is one way to write each.
  if (!scheme || (head > 1 && generation === 0)) return undefined
  const key = await serviceKey.find(generation)
  if (!key) return undefined
  try {
    return await token.unwrap(key.ckaId, scheme, purposeBytes(purpose), bytes.subarray(head))
  } catch (error) {
    if (error instanceof TokenError && error.failure === 'rejected') return undefined
    throw error
  }
}
