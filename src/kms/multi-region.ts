/** Multi-Region keys: one key id, one material, in several regions. */

import { randomBytes, randomUUID } from 'node:crypto'
import { kmsError } from './errors.ts'
import type { WantedKey } from './origins/origin.ts'

/** Held against CreateKey's MultiRegion before the origin is asked. @throws KmsError where such a key cannot be. */
export function checkMultiRegion(wanted: WantedKey): void {
  if (wanted.multiRegion) throw kmsError('UnsupportedOperationException', 'Multi-Region keys are not supported.')
}

/** A new key's id: it says at once whether the key is a multi-Region one. */
export const newKeyId = ({ multiRegion }: Pick<WantedKey, 'multiRegion'>): string =>
  multiRegion ? `mrk-${randomBytes(16).toString('hex')}` : randomUUID()
