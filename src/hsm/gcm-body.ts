/**
 * The body that the GCM schemes make (wrap.ts), in its parts: for formats that carry IV, ciphertext and tag by themselves. The parts are views of the body.
 */

import type { WrapScheme } from './token.ts'

export interface GcmParts {
  /** 12 or 16 bytes. */
  readonly iv: Buffer
  readonly ciphertext: Buffer
  /** 16 bytes. */
  readonly tag: Buffer
}

const tagBytes = 16
const isGcm = (scheme: WrapScheme): boolean => scheme.startsWith('gcm-')

/** Undefined for a scheme that is not of GCM. The body is one that such a scheme made. */
export function splitGcmBody(scheme: WrapScheme, body: Buffer): GcmParts | undefined {
  if (!isGcm(scheme)) return undefined
  const ivEnd = 1 + (body[0] ?? 0)
  const tagAt = body.length - tagBytes
  return { iv: body.subarray(1, ivEnd), ciphertext: body.subarray(ivEnd, tagAt), tag: body.subarray(tagAt) }
}

/** The body to unwrap, and a scheme that does: one with an IV of this length, whoever gave it. */
export function joinGcmBody({ iv, ciphertext, tag }: GcmParts): { readonly scheme: WrapScheme; readonly body: Buffer } {
  return {
    scheme: iv.length === 16 ? 'gcm-iv-tail' : 'gcm-iv-in',
    body: Buffer.concat([Buffer.from([iv.length]), iv, ciphertext, tag]),
  }
}
