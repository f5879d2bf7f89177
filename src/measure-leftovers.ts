/** What a run of the bench makes in a configured token and in the data directory, and how it is taken away again: by this run, or by the next one if this was killed. */

import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { isRunning } from './base/running.ts'
import { placesIn } from './config/places.ts'
import type { Token } from './hsm/token.ts'
import { objectsNamedIn, type NamedObject } from './store/token-objects.ts'

export const sitePrefix = 'bench-'
export const journalOf = (dir: string): string => join(dir, 'keys')

/** Whose directory it is, and which token has its keys. */
export interface Owner {
  readonly pid: number
  readonly token?: { readonly library: string; readonly label: string; readonly serial: string }
}

/** @param library the module that it was opened with */
export const identify = (token: Token, library: string): NonNullable<Owner['token']> => ({
  library,
  label: token.info().label,
  serial: token.info().serial,
})

export function namedIn(dir: string): readonly NamedObject[] {
  const listed = existsSync(journalOf(dir)) ? readFileSync(journalOf(dir), 'utf8').split('\n') : []
  const services = readdirSync(dir).filter((name) => name.startsWith('service-'))
  return [
    // A line that was not finished names a key that was not made.
    ...listed.filter((line) => line.endsWith('}')).map((line) => JSON.parse(line) as NamedObject),
    ...services.flatMap((name) => objectsNamedIn(placesIn(join(dir, name)).database)),
  ]
}

/** Destroys what is there of these objects, each by its CKA_ID and its label. Nothing else in the token is touched. */
export async function destroyNamed(token: Token, named: readonly NamedObject[]): Promise<void> {
  if (named.length === 0) return
  const name = ({ ckaId, label }: NamedObject): string => `${ckaId} ${label}`
  const ours = new Map(named.map((object) => [name(object), object]))
  const there = new Set((await token.allObjects()).map(name))
  for (const [each, { ckaId, label }] of ours) if (there.has(each)) await token.destroyKey(ckaId, label)
}

/** Directories of runs that are over but were killed. */
function leftovers(dataDir: string): readonly { readonly dir: string; readonly owner: Owner }[] {
  return readdirSync(dataDir)
    .filter((name) => name.startsWith(sitePrefix))
    .flatMap((name) => {
      const dir = join(dataDir, name)
      const file = join(dir, 'owner.json')
      if (!existsSync(file)) return []
      try {
        const owner = JSON.parse(readFileSync(file, 'utf8')) as Owner
        return isRunning(owner.pid) ? [] : [{ dir, owner }]
      } catch {
        return []
      }
    })
}

export function removeLeftovers(dataDir: string): void {
  for (const { dir, owner } of leftovers(dataDir)) if (!owner.token) rmSync(dir, { recursive: true, force: true })
}

export async function clearLeftovers(dataDir: string, token: Token, library: string): Promise<void> {
  removeLeftovers(dataDir)
  const here = JSON.stringify(identify(token, library))
  for (const { dir, owner } of leftovers(dataDir)) {
    if (JSON.stringify(owner.token) !== here) continue
    await destroyNamed(token, namedIn(dir))
    rmSync(dir, { recursive: true, force: true })
  }
}
