/** Origin EXTERNAL: the caller imports the material (BYOK). */

import { kmsError, type KmsError } from '../errors.ts'
import type { Origin } from './origin.ts'

const unsupported = (): KmsError => kmsError('UnsupportedOperationException', 'Origin EXTERNAL is not supported.')

export const external: Origin = {
  check() {
    throw unsupported()
  },
  create() {
    throw unsupported()
  },
}
