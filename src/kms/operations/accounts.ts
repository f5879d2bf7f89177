/** Our own operations on accounts. */

import { rootArn } from '../arn.ts'
import { kmsError } from '../errors.ts'
import { createAccount } from '../identity.ts'
import { seconds } from '../metadata.ts'
import { operation, type Call } from '../operation.ts'
import { page } from '../page.ts'
import { string } from '../shape.ts'
import { listing } from './members.ts'

/** Accounts are the operator's: only the account of the configuration makes and lists them. */
export function requireHomeAccount(call: Call): void {
  if (call.principal.accountId === call.service.config.accountId) return
  throw kmsError(
    'AccessDeniedException',
    `User: ${call.principal.arn} is not authorized to perform: ${call.operation.action} because only account ${call.service.config.accountId} administers accounts`,
  )
}

export const CreateAccount = operation({
  input: { AccountId: string({ min: 12, max: 12, pattern: /[0-9]{12}/ }) },
  output: ['Account', 'AccessKey'],
  resources: () => ['*'],
  readOnly: false,
  responseElements: ({ Account }) => ({ account: Account }),
  async run(call, { AccountId: accountId }) {
    requireHomeAccount(call)
    const made = await createAccount(call.service, accountId, call.nowMs)
    if (!made) throw kmsError('AlreadyExistsException', `Account ${accountId} already exists.`)
    return {
      Account: { AccountId: accountId, Arn: rootArn(accountId), CreateDate: seconds(call.nowMs) },
      AccessKey: {
        AccessKeyId: made.accessKeyId,
        SecretAccessKey: made.secretAccessKey,
        Status: 'Active',
        CreateDate: seconds(call.nowMs),
      },
    }
  },
})

export const ListAccounts = operation({
  input: listing,
  output: ['Accounts', 'NextMarker', 'Truncated'],
  resources: () => ['*'],
  readOnly: true,
  run(call) {
    requireHomeAccount(call)
    const { items, rest } = page(
      call,
      100,
      (after, limit) => call.service.store.view.listAccounts(after, limit),
      (account) => ({ AccountId: account.accountId, Arn: rootArn(account.accountId), CreateDate: seconds(account.createdAt) }),
    )
    return { Accounts: items, ...rest }
  },
})
