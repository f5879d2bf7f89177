/** Finding keys by what a caller may write for one (key id, key ARN, alias name, alias ARN), by AWS's rules and words; and changing them. */

import type { KeyChange, KeyRecord } from '../store/store.ts'
import { foreignKeyUnseen } from './access.ts'
import { aliasArn, isKeyId, keyArn, parseKmsArn } from './arn.ts'
import { orConflict } from './conflict.ts'
import { keyUses } from './cryptographic.ts'
import { kmsError, type KmsError } from './errors.ts'
import type { Call, FoundKey, KeyUse } from './operation.ts'
import { allowedStates, refusal, type KeyOperationName } from './states.ts'

/** A key that is being created was never answered for, so to a caller it is not there. */
const visible = (key: KeyRecord | undefined): KeyRecord | undefined => (key?.state === 'Creating' ? undefined : key)

export const keyMissing = (arn: string): KmsError => kmsError('NotFoundException', `Key '${arn}' does not exist`)

/** To some operations AWS's model gives no InvalidArnException: what is no key's ARN is not found. */
const knowsInvalidArn = (operation: string): boolean =>
  !keyUses.has(operation) && operation !== 'CreateAlias' && operation !== 'UpdateAlias'

/**
 * @param action the one that is asked once the key is found, so that a key that is not there is denied in the same words
 * @throws KmsError NotFoundException with AWS's wording; for a key of another account the denial that does not say whether it exists.
 */
export function findKey(call: Call, reference: string, accepts: 'key' | 'key or alias', action = call.operation.action): FoundKey {
  const { view } = call.service.store
  const arn = reference.startsWith('arn:') ? parseKmsArn(reference) : undefined
  if (reference.startsWith('arn:') && !arn) {
    const code = knowsInvalidArn(call.operation.name) ? 'InvalidArnException' : 'NotFoundException'
    throw kmsError(code, `Invalid arn ${reference}`)
  }
  if (arn && arn.region !== call.region) throw kmsError('NotFoundException', `Invalid arn ${arn.region}`)
  const accountId = arn?.accountId ?? call.principal.accountId
  const name = arn?.name ?? reference

  if (arn?.kind === 'alias' || (!arn && reference.startsWith('alias/'))) {
    if (accepts === 'key') throw kmsError('NotFoundException', `Invalid keyId '${reference}'`)
    const alias = view.alias(aliasArn(call.region, accountId, name))
    const record = alias && visible(view.key(alias.targetKeyArn))
    if (record) return { record, alias: name }
    if (accountId !== call.principal.accountId) throw foreignKeyUnseen(call, action)
    throw kmsError('NotFoundException', `Alias ${aliasArn(call.region, accountId, name)} is not found.`)
  }

  const wanted = keyArn(call.region, accountId, name)
  const record = visible(view.key(wanted))
  if (record) return { record, alias: undefined }
  if (!isKeyId(name)) throw kmsError('NotFoundException', `Invalid keyId '${name}'`)
  if (accountId !== call.principal.accountId) throw foreignKeyUnseen(call, action)
  throw keyMissing(wanted)
}

/** The common case of a row's `keys`: the key is what a member names, if it is there. */
export function keyFrom<M extends string>(
  member: M,
  rule: Omit<KeyUse<unknown>, 'find' | 'denied'> & { readonly alias?: boolean } = {},
): KeyUse<{ readonly [P in M]?: string }> {
  return {
    ...rule,
    find: (call, input) => {
      const text = input[member]
      return text === undefined ? undefined : findKey(call, text, rule.alias ? 'key or alias' : 'key', rule.action)
    },
  }
}

/** Changes a key under its newest record: the state is checked again there, since another call may have come between. */
export function changeKey(call: Call, key: KeyRecord, change: (current: KeyRecord) => KeyChange): Promise<KeyRecord> {
  const update = call.service.store.updateKey(key.arn, (current) => {
    admit(call, current)
    return change(current)
  })
  return unlessGone(call, key, update)
}

/** @throws KmsError when the key is not in a state for this call. */
export function admit({ operation: { name } }: Call, { arn, state }: KeyRecord): void {
  const states: readonly string[] = allowedStates[name as KeyOperationName]
  if (!states.includes(state)) throw refusal(arn, state, name)
}

/** A write that lost because the key's destruction was finished meanwhile found no key. */
export const unlessGone = <T>(call: Call, key: KeyRecord, write: Promise<T>): Promise<T> =>
  orConflict(write, () => (call.service.store.view.key(key.arn) ? undefined : keyMissing(key.arn)))
