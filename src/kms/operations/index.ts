/** Every operation of every API that the endpoint answers for. An operation's name is its export's name, written once. */

import type { Operation, Unnamed } from '../operation.ts'
import * as accessKeys from './access-keys.ts'
import * as accounts from './accounts.ts'
import * as aliases from './aliases.ts'
import * as attestation from './attestation.ts'
import * as dataKeyPairs from './data-key-pairs.ts'
import * as encryption from './encryption.ts'
import * as imports from './import.ts'
import * as grants from './grants.ts'
import * as keyStores from './key-stores.ts'
import * as keyPolicies from './key-policies.ts'
import * as keys from './keys.ts'
import * as macs from './macs.ts'
import * as lastUsage from './last-usage.ts'
import * as multiRegion from './multi-region.ts'
import * as principals from './principals.ts'
import * as random from './random.ts'
import * as rotation from './rotation.ts'
import * as sharedSecrets from './shared-secrets.ts'
import * as signing from './signing.ts'
import * as sts from './sts.ts'
import * as tags from './tags.ts'
import * as trail from './trail.ts'
import * as usage from './usage.ts'
import * as xksStores from './xks-stores.ts'

export interface Api {
  readonly name: 'kms' | 'sts' | 'cloudtrail' | 'holdfast'
  /** What stands before the dot of X-Amz-Target; undefined for the query protocol. */
  readonly target: string | undefined
  /** The same in the words of SDKs that spell it otherwise. */
  readonly otherTarget?: string
  /** The service of the credential scope. */
  readonly signingName: string
  readonly eventSource: string
  readonly actionPrefix: string
  readonly operations: ReadonlyMap<string, Operation>
}

function open(api: Omit<Api, 'operations'>, rows: Readonly<Record<string, unknown>>): Api {
  const operations = new Map<string, Operation>()
  for (const [name, row] of Object.entries(rows)) {
    // AWS's names start with a capital; what else a module exports is its own affair.
    if (/^[A-Z]/.test(name)) operations.set(name, (row as Unnamed)(name, api))
  }
  return { ...api, operations }
}

export const apis: readonly Api[] = [
  open(
    { name: 'kms', target: 'TrentService', signingName: 'kms', eventSource: 'kms.amazonaws.com', actionPrefix: 'kms' },
    {
      ...keys,
      ...aliases,
      ...tags,
      ...keyPolicies,
      ...keyStores,
      ...encryption,
      ...grants,
      ...dataKeyPairs,
      ...signing,
      ...macs,
      ...sharedSecrets,
      ...imports,
      ...random,
      ...rotation,
      ...lastUsage,
      ...multiRegion,
    },
  ),
  open({ name: 'sts', target: undefined, signingName: 'sts', eventSource: 'sts.amazonaws.com', actionPrefix: 'sts' }, sts),
  open(
    {
      name: 'cloudtrail',
      target: 'com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101',
      // botocore and the CLI write the long one, the SDK for JavaScript this.
      otherTarget: 'CloudTrail_20131101',
      signingName: 'cloudtrail',
      eventSource: 'cloudtrail.amazonaws.com',
      actionPrefix: 'cloudtrail',
    },
    trail,
  ),
  open(
    { name: 'holdfast', target: 'Holdfast', signingName: 'holdfast', eventSource: 'holdfast', actionPrefix: 'holdfast' },
    { ...accounts, ...principals, ...accessKeys, ...attestation, ...usage, ...xksStores },
  ),
]
