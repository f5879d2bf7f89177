/** What the bench's figures were taken on. */

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { basename, isAbsolute } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Machine } from './bench/run.ts'
import type { Token } from './hsm/token.ts'

export function describeToken(token: Token, library: string, sessions: number): Machine['token'] {
  const { profile, manufacturer, model, firmware } = token.info()
  const { wrapScheme, wrapSchemes } = token.capabilities()
  return {
    library: basename(library),
    profile: isAbsolute(profile) ? basename(profile) : profile,
    manufacturer,
    model,
    firmware,
    sessions,
    wrapScheme: wrapScheme ?? null,
    wrapSchemes,
  }
}

export function describeMachine(token: Machine['token']): Machine {
  const all = cpus()
  const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { readonly version: string }
  return {
    cpu: all[0]?.model.trim() ?? 'unknown',
    cores: all.length,
    memoryBytes: totalmem(),
    platform: `${process.platform} ${process.arch} ${release()}`,
    versions: { holdfast: manifest.version, commit: commit(), node: process.versions.node, openssl: process.versions.openssl },
    token,
  }
}

/** Which version of the sources, where they are a working copy of git. */
function commit(): string | null {
  try {
    const cwd = fileURLToPath(new URL('..', import.meta.url))
    return execFileSync('git', ['rev-parse', '--short=12', 'HEAD'], { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return null
  }
}
