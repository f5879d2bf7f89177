/** What a write that lost a race, or met a name that exists, means to the caller. */

import { StoreConflict } from '../store/store.ts'
import type { KmsError } from './errors.ts'

/**
 * Waits for the write. `meaning` is asked when it changed nothing because of a conflict: by then `view` has what came before it.
 * @param meaning answers the caller's error, or throws it; undefined leaves the conflict as it is.
 */
export async function orConflict<T>(write: Promise<T>, meaning: (cause: StoreConflict) => KmsError | undefined | void): Promise<T> {
  try {
    return await write
  } catch (error) {
    throw (error instanceof StoreConflict && meaning(error)) || error
  }
}
