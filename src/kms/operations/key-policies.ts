/** Key policies: the one policy of each key, named `default`. */

import { kmsError } from '../errors.ts'
import { changeKey, keyFrom } from '../keys.ts'
import { operation } from '../operation.ts'
import { page, pageOf } from '../page.ts'
import { showPrincipals } from '../policy-principals.ts'
import { boolean, keyId, optional, string } from '../shape.ts'
import { readKeyPolicy } from './keys.ts'
import { listing, policyText } from './members.ts'

const policyName = optional(string({ min: 1, max: 128, pattern: /[\w]+/ }))

function refuseOtherNames(name: string | undefined): void {
  if (name !== undefined && name !== 'default') throw kmsError('NotFoundException', 'No such policy exists')
}

export const GetKeyPolicy = operation({
  input: { KeyId: keyId, PolicyName: policyName },
  output: ['Policy', 'PolicyName'],
  keys: { key: keyFrom('KeyId') },
  readOnly: true,
  run(call, input, { key }) {
    refuseOtherNames(input.PolicyName)
    return { Policy: showPrincipals(call.service.store.view, key.policy), PolicyName: 'default' }
  },
})

export const PutKeyPolicy = operation({
  input: { KeyId: keyId, PolicyName: policyName, Policy: policyText, BypassPolicyLockoutSafetyCheck: optional(boolean, false) },
  output: [],
  keys: { key: keyFrom('KeyId') },
  readOnly: false,
  async run(call, input, { key }) {
    refuseOtherNames(input.PolicyName)
    const policy = readKeyPolicy(call, input.Policy, key, input.BypassPolicyLockoutSafetyCheck ?? false)
    await changeKey(call, key, () => ({ policy }))
    return {}
  },
})

export const ListKeyPolicies = operation({
  input: { KeyId: keyId, ...listing },
  output: ['PolicyNames', 'NextMarker', 'Truncated'],
  keys: { key: keyFrom('KeyId') },
  readOnly: true,
  run(call) {
    const { items, rest } = page(
      call,
      100,
      (after, limit) => pageOf(['default'], (name) => name, after, limit),
      (name) => name,
    )
    return { PolicyNames: items, ...rest }
  },
})
