/**
 * Which operation is allowed on a key in which state, and what the others answer: AWS's table "Key states of KMS keys", read across.
 * With an operation that works on keys and has no row here the program does not start (see operation.ts).
 */

import type { KeyState } from '../store/store.ts'
import { kmsError, type KmsError } from './errors.ts'

const usable = ['Enabled'] as const
const settled = ['Enabled', 'Disabled', 'PendingImport', 'Unavailable'] as const
const any = ['Enabled', 'Disabled', 'PendingDeletion', 'PendingReplicaDeletion', 'PendingImport', 'Unavailable', 'Destroying'] as const

export const allowedStates = {
  CancelKeyDeletion: ['PendingDeletion', 'PendingReplicaDeletion'],
  CreateAlias: settled,
  CreateGrant: ['Enabled', 'Unavailable'],
  Decapsulate: usable,
  Decrypt: usable,
  DeleteAlias: any,
  DeleteImportedKeyMaterial: ['Enabled', 'Disabled', 'PendingDeletion', 'PendingReplicaDeletion', 'PendingImport', 'Unavailable'],
  DeriveSharedSecret: usable,
  DescribeKey: any,
  DisableKey: ['Enabled', 'Disabled'],
  DisableKeyRotation: usable,
  EnableKey: ['Enabled', 'Disabled'],
  EnableKeyRotation: usable,
  Encapsulate: usable,
  Encrypt: usable,
  GenerateDataKey: usable,
  GenerateDataKeyPair: usable,
  GenerateDataKeyPairWithoutPlaintext: usable,
  GenerateDataKeyWithoutPlaintext: usable,
  GenerateMac: usable,
  GetKeyLastUsage: any,
  GetKeyPolicy: any,
  GetParametersForImport: settled,
  GetPublicKey: usable,
  GetKeyRotationStatus: any,
  ImportKeyMaterial: settled,
  ListGrants: any,
  ListKeyPolicies: any,
  ListKeyRotations: any,
  ListResourceTags: any,
  PutKeyPolicy: any,
  ReEncrypt: usable,
  // A primary with imported material can be replicated before it has any.
  ReplicateKey: ['Enabled', 'PendingImport'],
  RetireGrant: any,
  RevokeGrant: any,
  RotateKeyOnDemand: usable,
  ScheduleKeyDeletion: settled,
  Sign: usable,
  TagResource: settled,
  UntagResource: settled,
  UpdateAlias: settled,
  UpdateKeyDescription: settled,
  UpdatePrimaryRegion: usable,
  Verify: usable,
  VerifyMac: usable,
  // Our own.
  AddXksKey: usable,
  AttestKey: any,
} as const satisfies Record<string, readonly KeyState[]>

/** Allowed on a key whose key store is not connected, with effect when it is again (note 12 of AWS's table). */
export const showsLater: ReadonlySet<string> = new Set<KeyOperationName>(['DisableKey', 'EnableKey'])

export type KeyOperationName = keyof typeof allowedStates

/** What a state is called in "<arn> is …." and the code it goes with. The wording is API: clients search it. */
const refusals: Record<KeyState, { readonly code: 'DisabledException' | 'KMSInvalidStateException'; readonly text: string }> = {
  Creating: { code: 'KMSInvalidStateException', text: 'is creating.' },
  Enabled: { code: 'KMSInvalidStateException', text: 'is enabled.' },
  Disabled: { code: 'DisabledException', text: 'is disabled.' },
  PendingDeletion: { code: 'KMSInvalidStateException', text: 'is pending deletion.' },
  PendingReplicaDeletion: { code: 'KMSInvalidStateException', text: 'is pending replica deletion.' },
  PendingImport: { code: 'KMSInvalidStateException', text: 'is pending import.' },
  Unavailable: { code: 'KMSInvalidStateException', text: 'is unavailable.' },
  Destroying: { code: 'KMSInvalidStateException', text: 'is pending deletion.' },
}

export function refusal(arn: string, state: KeyState, operation: string): KmsError {
  // A cancellation is about the one state that the key is not in.
  if (operation === 'CancelKeyDeletion' && state !== 'Destroying')
    return kmsError('KMSInvalidStateException', `${arn} is not pending deletion.`)
  const { code, text } = refusals[state]
  return kmsError(code, `${arn} ${text}`)
}
