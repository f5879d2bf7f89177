/** Our own operations on accounts. */

import { createHash } from 'node:crypto'
import { rootArn } from '../arn.ts'
import { kmsError } from '../errors.ts'
import { createAccount } from '../identity.ts'
import { seconds } from '../metadata.ts'
import { operation, type Call } from '../operation.ts'
import { page } from '../page.ts'
import { optional, string } from '../shape.ts'
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
  input: {
    AccountId: string({ min: 12, max: 12, pattern: /[0-9]{12}/ }),
    /** As EC2's: who makes the same request again gets the same answer. */
    ClientToken: optional(string({ min: 1, max: 64, pattern: /[\u0021-\u007E]+/, secret: true })),
  },
  output: ['Account', 'AccessKey'],
  resources: () => ['*'],
  readOnly: false,
  responseElements: ({ Account }) => ({ account: Account }),
  async run(call, { AccountId: accountId, ClientToken: token }) {
    requireHomeAccount(call)
    // Nobody else's request is the same.
    const by = call.principal.session?.roleId ?? call.principal.principalId
    const hash =
      token === undefined
        ? undefined
        : createHash('sha256')
            .update(JSON.stringify([by, token]))
            .digest('base64')
    const made = await createAccount(call.service, accountId, call.nowMs, hash)
    if (!made) throw kmsError('AlreadyExistsException', `Account ${accountId} already exists.`)
    return {
      Account: { AccountId: accountId, Arn: rootArn(accountId), CreateDate: seconds(made.createdAt) },
      AccessKey: {
        AccessKeyId: made.credential.accessKeyId,
        SecretAccessKey: made.credential.secretAccessKey,
        Status: 'Active',
        CreateDate: seconds(made.createdAt),
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
