/**
 * How what was begun in the token and not finished is removed. First it is taken over in the store, so that nobody, not even a process that was only
 * thought dead, can finish it; then its objects are destroyed; then its rows go. It may be stopped anywhere and begun again.
 *
 * What the token does not show is believed to be gone only after a fresh agent has looked, which takes seconds. So all that there is to remove is
 * taken over before the first of it is looked for, and looked for together: then one agent does for all.
 */

import type { Service } from './service.ts'

/** Whose it is: ours from now on; another's who took it over in the same intention; or it turned out to be finished, and stays. */
export type Claim = 'ours' | 'theirs' | 'finished'

export interface Removal<T, C> {
  /** Of the key that it belongs to, for the log. */
  readonly arnOf: (left: T) => string
  readonly claim: (left: T) => Promise<C>
  readonly remove: (left: T, claimed: C) => Promise<void>
}

/** Each is its own attempt: one that fails does not hold up the rest, and is tried again in the next round. */
export async function removeTogether<T, C>({ log }: Service, left: readonly T[], removal: Removal<T, C>): Promise<void> {
  const claims = await Promise.allSettled(left.map((one) => removal.claim(one)))
  const removals = await Promise.allSettled(
    left.map(async (one, index) => {
      const claim = claims[index]
      if (claim?.status === 'fulfilled') await removal.remove(one, claim.value)
      else throw claim?.reason
    }),
  )
  for (const [index, one] of left.entries()) {
    const removed = removals[index]
    if (removed?.status === 'rejected')
      log.error(
        { key: removal.arnOf(one), err: removed.reason as unknown },
        'what was left unfinished could not be removed; it is tried again',
      )
  }
}
