/** Every origin, by the name that CreateKey takes. */

import { awsKms } from './aws-kms.ts'
import { cloudHsm } from './cloudhsm.ts'
import { externalKeyStore } from './external-key-store.ts'
import { external } from './external.ts'
import type { Origin } from './origin.ts'

/** In the order of AWS's model. */
export const origins = {
  AWS_KMS: awsKms,
  EXTERNAL: external,
  AWS_CLOUDHSM: cloudHsm,
  EXTERNAL_KEY_STORE: externalKeyStore,
} as const satisfies Record<string, Origin>

export type OriginName = keyof typeof origins
export const originNames = Object.keys(origins) as readonly OriginName[]
