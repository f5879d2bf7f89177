/**
 * `holdfast doctor`: the token as its library shows it and as the self-test proved it, then the database held against it.
 * Part of the wiring, since it opens token and store. It changes nothing: it makes no token, no key and no database.
 */

import { existsSync } from 'node:fs'
import { silentLog } from './base/log.ts'
import { systemClock } from './base/clock.ts'
import type { Examination } from './cli/wiring.ts'
import { openToken, type TokenConfig } from './hsm/client.ts'
import { diagnose, DoctorError, inspectModule, renderDoctor, type DoctorReport } from './hsm/doctor.ts'
import { readProfile } from './hsm/profile.ts'
import { TokenError, type Token, type TokenObject } from './hsm/token.ts'
import { openStore } from './store/open.ts'
import type { Store } from './store/store.ts'

/** The database against the token: what one has and the other does not show. */
interface Inventory {
  readonly keys: number
  readonly keysWithoutObjects: readonly { readonly keyArn: string; readonly ckaId: string; readonly label: string }[]
  readonly objectsWithoutKeys: readonly { readonly ckaId: string; readonly label: string; readonly objectClass: string }[]
}

/** The labels that key objects get; other objects on the token are none of our business. */
const ourLabel = /^kms\//

export async function examine(request: {
  readonly tokenConfig: Omit<TokenConfig, 'provision'>
  readonly database: string
}): Promise<Examination> {
  const { tokenConfig, database } = request
  let text = ''
  let device: DoctorReport | undefined
  let inventory: Inventory | undefined
  const problems: string[] = []
  try {
    const library = await inspectModule({ library: tokenConfig.library, ...(tokenConfig.env && { env: tokenConfig.env }) })
    device = diagnose(library)
    const token = await openToken({ ...tokenConfig, provision: false }, { log: silentLog })
    try {
      const info = token.info()
      device = diagnose(library, { info, capabilities: token.capabilities(), profile: readProfile(tokenConfig.profile ?? info.profile) })
      if (existsSync(database)) inventory = await takeInventory(token, database)
    } finally {
      await token.close()
    }
  } catch (error) {
    if (!(error instanceof TokenError || error instanceof DoctorError)) throw error
    problems.push(error.message)
  }
  if (device) text += renderDoctor(device)
  if (inventory) text += `\n${renderInventory(inventory)}`
  for (const problem of problems) text += `\nPROBLEM: ${problem}\n`
  return {
    text,
    report: { device, inventory, problems },
    healthy: problems.length === 0 && device?.healthy === true && (inventory?.keysWithoutObjects.length ?? 0) === 0,
  }
}

async function takeInventory(token: Token, database: string): Promise<Inventory> {
  const store = await openStore({ file: database, clock: systemClock })
  try {
    return compare(store, await token.allObjects())
  } finally {
    await store.close()
  }
}

/** Only private and secret key objects count: they hold the key. */
export function compare(store: Pick<Store, 'view'>, objects: readonly TokenObject[]): Inventory {
  const shown = new Set(objects.map(({ ckaId }) => ckaId))
  const known = new Set<string>()
  const keysWithoutObjects: { keyArn: string; ckaId: string; label: string }[] = []
  let keys = 0
  for (const { arn } of store.view.allKeys()) {
    keys++
    for (const { ckaId, label, state } of store.view.backingKeys(arn)) {
      known.add(ckaId)
      if (state === 'ready' && !shown.has(ckaId)) keysWithoutObjects.push({ keyArn: arn, ckaId, label })
    }
  }
  const objectsWithoutKeys = objects
    .filter(({ ckaId, label }) => ourLabel.test(label) && !known.has(ckaId))
    .map(({ ckaId, label, objectClass }) => ({ ckaId, label, objectClass }))
  return { keys, keysWithoutObjects, objectsWithoutKeys }
}

function renderInventory({ keys, keysWithoutObjects, objectsWithoutKeys }: Inventory): string {
  return [
    `Keys in the database: ${keys}`,
    ...keysWithoutObjects.map(
      ({ keyArn, ckaId, label }) =>
        `  PROBLEM: ${keyArn} has no object on the token (CKA_ID ${ckaId}, label ${label}). Restore it from the token's backup.`,
    ),
    ...objectsWithoutKeys.map(
      ({ ckaId, label, objectClass }) =>
        `  note: the token has ${objectClass} ${label} (CKA_ID ${ckaId}), which no key of this database uses.`,
    ),
    '',
  ].join('\n')
}
