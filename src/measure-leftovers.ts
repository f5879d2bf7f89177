/** What a run of the bench makes in a configured token and in the data directory, and how it is taken away again: by this run, or by the next one if this was killed. */

import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { isRunning } from './base/running.ts'
import { placesIn } from './config/places.ts'
import type { Token } from './hsm/token.ts'
import { objectsNamedIn, type NamedObject } from './store/token-objects.ts'

const sitePrefix = 'bench-'
const ownerFile = 'owner.json'
export const journalOf = (dir: string): string => join(dir, 'keys')

/** Whose directory it is, and which token has its keys. */
export interface Owner {
  readonly pid: number
  readonly token?: { readonly library: string; readonly label: string; readonly serial: string }
}

/** A directory for one run. Whose it is its name says, too. */
export const makeSite = (dataDir: string): string => mkdtempSync(join(dataDir, `${sitePrefix}${process.pid}-`))

/** Whole or not at all. */
export function sayOwner(dir: string, owner: Owner): void {
  const written = join(dir, `${ownerFile}.new`)
  writeFileSync(written, JSON.stringify(owner))
  renameSync(written, join(dir, ownerFile))
}

/** When nothing that it names is in a token any more. The owner goes last: it says what is left there when this is stopped half way. */
export async function removeSite(dir: string): Promise<void> {
  for (const name of readdirSync(dir)) if (name !== ownerFile) await rm(join(dir, name), { recursive: true, force: true })
  await rm(dir, { recursive: true, force: true })
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
      const owner = ownerOf(dir)
      return owner === undefined || isRunning(owner.pid) ? [] : [{ dir, owner }]
    })
}

function ownerOf(dir: string): Owner | undefined {
  try {
    return JSON.parse(readFileSync(join(dir, ownerFile), 'utf8')) as Owner
  } catch {
    // It was killed before it could say, or when it had removed nearly all. One that names keys has lost in which token they are, and stays.
    const pid = /^bench-(\d+)-/.exec(basename(dir))?.[1]
    return pid !== undefined && namesNothing(dir) ? { pid: Number(pid) } : undefined
  }
}

function namesNothing(dir: string): boolean {
  try {
    return namedIn(dir).length === 0
  } catch {
    return false
  }
}

export async function removeLeftovers(dataDir: string): Promise<void> {
  for (const { dir, owner } of leftovers(dataDir)) if (!owner.token) await removeSite(dir)
}

export async function clearLeftovers(dataDir: string, token: Token, library: string): Promise<void> {
  await removeLeftovers(dataDir)
  const here = JSON.stringify(identify(token, library))
  for (const { dir, owner } of leftovers(dataDir)) {
    if (JSON.stringify(owner.token) !== here) continue
    await destroyNamed(token, namedIn(dir))
    await removeSite(dir)
  }
}
