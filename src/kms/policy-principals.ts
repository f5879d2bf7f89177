/**
 * Whom a policy names. A user or role that is named in the policy of a key or in the trust policy of a role is stored there by its unique id, so that
 * another one that is made under the same name later has no part in it; who reads the policy sees the name for as long as there is one that
 * has this id.
 *
 * Source: IAM user guide, "AWS JSON policy elements: Principal": "the ARN transforms to the user's unique principal ID when you save the policy".
 */

import { setImmediate as turn } from 'node:timers/promises'
import { mapPrincipals } from '../auth/policy.ts'
import { StoreConflict, type Store, type View } from '../store/store.ts'

/**
 * The policy as it is stored.
 *
 * @param text has passed `parsePolicy`
 * @param missing is told of a user, role or unique id that does not exist, and answers what to store instead, or throws
 */
export const bindPrincipals = (view: View, text: string, missing: (principal: string) => string): string =>
  mapPrincipals(text, (principal) => idOf(view, principal) ?? missing(principal))

/** A stored policy as it is shown. */
export const showPrincipals = (view: View, text: string): string => mapPrincipals(text, (principal) => nameOf(view, principal))

const sessionArn = /^arn:aws:sts::(\d{12}):assumed-role\/([^/]+)\/(.+)$/
const userOrRoleArn = /^arn:aws:iam::\d{12}:(user|role)\//
const uniqueId = /^(A(?:IDA|ROA)[A-Z0-9]+)(?::(.+))?$/

/** Undefined for one that does not exist; accounts and everybody are taken as they are: who makes accounts is the operator. */
function idOf(view: View, principal: string): string | undefined {
  const session = sessionArn.exec(principal)
  if (session) {
    const [, accountId = '', role = '', name = ''] = session
    const found = view.principalByName(accountId, 'role', role)
    return found && `${found.uniqueId}:${name}`
  }
  if (userOrRoleArn.test(principal)) return view.principal(principal)?.uniqueId
  const id = uniqueId.exec(principal)?.[1]
  return id === undefined || view.principalById(id) ? principal : undefined
}

function nameOf(view: View, principal: string): string {
  const [, id, session] = uniqueId.exec(principal) ?? []
  const found = id === undefined ? undefined : view.principalById(id)
  if (!found) return principal
  return session === undefined ? found.arn : `arn:aws:sts::${found.accountId}:assumed-role/${found.name}/${session}`
}

/** The instances that ran beside the first that bound them, but for those that bind them, too; in the end `all`. */
const boundSetting = 'principals/bound'
const allBound = 'all'
/** So many policies are looked at before calls have their turn. */
const policiesAtATime = 250

/** What stands for a user or role that was gone before its id was kept. Ids have no digit 0. */
const gone = (principal: string): string =>
  userOrRoleArn.exec(principal)?.[1] === 'user' ? 'AIDA00000000000000000' : 'AROA00000000000000000'

/**
 * Policies of before unique ids were stored mean whom their names mean now. Once for each store, and once more when those have ended that ran beside
 * whoever did it first: they may be of a former version, and have stored names since. Who calls this is not, and is not waited for. A stop in between is
 * made up for by the next start.
 * @param self the instance that calls
 * @param others instances on the store that run now, without it
 */
export async function bindStoredPolicies(store: Store, self: string, others: ReadonlySet<string>): Promise<void> {
  const before = store.view.setting(boundSetting)
  if (before === allBound) return
  const beside = before === undefined ? [...others] : before.split(' ').filter((id) => id !== self)
  const areOver = !beside.some((id) => others.has(id))
  if (before === undefined || areOver) await bindAll(store)
  const after = areOver ? allBound : beside.join(' ')
  // Another that did the same meanwhile may have named this one.
  if (after !== before && !(await store.compareAndSetSetting(boundSetting, before, after))) await bindStoredPolicies(store, self, others)
}

async function bindAll(store: Store): Promise<void> {
  const { view } = store
  const bind = (text: string): string => bindPrincipals(view, text, (principal) => (uniqueId.test(principal) ? principal : gone(principal)))
  let looked = 0
  for (const { arn, policy } of view.allKeys()) {
    if (++looked % policiesAtATime === 0) await turn()
    if (bind(policy) !== policy) await unlessGone(store.updateKey(arn, (current) => ({ policy: bind(current.policy) })))
  }
  const all = Number.MAX_SAFE_INTEGER
  for (const { accountId } of view.listAccounts(undefined, all).items) {
    for (const { arn, trustPolicy } of view.listPrincipals(accountId, 'role', undefined, all).items) {
      if (++looked % policiesAtATime === 0) await turn()
      if (trustPolicy === null || bind(trustPolicy) === trustPolicy) continue
      await unlessGone(store.updatePrincipal(arn, (current) => ({ trustPolicy: current.trustPolicy && bind(current.trustPolicy) })))
    }
  }
}

/** Other processes on the store go on meanwhile. */
async function unlessGone(change: Promise<unknown>): Promise<void> {
  try {
    await change
  } catch (error) {
    if (!(error instanceof StoreConflict)) throw error
  }
}
