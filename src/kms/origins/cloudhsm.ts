/** Origin AWS_CLOUDHSM: the material is made in a custom key store of type AWS_CLOUDHSM, another token. */

import { kmsError, type KmsError } from '../errors.ts'
import type { Origin } from './origin.ts'

const unsupported = (): KmsError => kmsError('UnsupportedOperationException', 'Origin AWS_CLOUDHSM is not supported.')

export const cloudHsm: Origin = {
  check() {
    throw unsupported()
  },
  create() {
    throw unsupported()
  },
}
