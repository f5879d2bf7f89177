/** Origin EXTERNAL_KEY_STORE: the material stays with an external key manager behind an XKS proxy. */

import { kmsError, type KmsError } from '../errors.ts'
import type { Origin } from './origin.ts'

const unsupported = (): KmsError => kmsError('UnsupportedOperationException', 'Origin EXTERNAL_KEY_STORE is not supported.')

export const externalKeyStore: Origin = {
  check() {
    throw unsupported()
  },
  create() {
    throw unsupported()
  },
}
