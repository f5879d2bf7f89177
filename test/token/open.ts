/** Opens lab tokens as the service does, and remembers what was logged. */
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { openToken, type TokenConfig, type TokenLog } from '../../src/hsm/client.ts'
import { TokenError, type Token } from '../../src/hsm/token.ts'
import type { LabToken } from './lab.ts'

export class CapturedLog implements TokenLog {
  readonly lines: { readonly level: string; readonly message: string; readonly fields: unknown }[] = []
  info(fields: unknown, message: string): void {
    this.lines.push({ level: 'info', message, fields })
  }
  warn(fields: unknown, message: string): void {
    this.lines.push({ level: 'warn', message, fields })
  }
  error(fields: unknown, message: string): void {
    this.lines.push({ level: 'error', message, fields })
  }
  text(): string {
    return JSON.stringify(this.lines)
  }
}

/** The token through an agent of its own, provisioned. Libraries here print what belongs to nobody, so the log is kept apart. */
export function openLab(lab: LabToken, more: Partial<TokenConfig> = {}, log: TokenLog = new CapturedLog()): Promise<Token> {
  const { env = {}, ...rest } = more
  return openToken(
    {
      library: lab.library,
      tokenLabel: lab.label,
      pinFile: lab.pinFile,
      provision: true,
      startTimeoutMs: 180_000,
      ...rest,
      env: { PATH: process.env['PATH'] ?? '', ...lab.env, ...env },
    },
    { log },
  )
}

/** A copy of a product's profile with other values, each `{ field: value }`; answers its path. */
export function writeProfile(lab: LabToken, base: string, changes: Readonly<Record<string, unknown>>): string {
  const profile = JSON.parse(readFileSync(new URL(`../../native-config/${base}.json`, import.meta.url), 'utf8')) as Record<string, unknown>
  for (const [field, value] of Object.entries(changes)) profile[field] = { value, why: 'Set by a test.' }
  const path = join(lab.dir, `profile-${randomBytes(4).toString('hex')}.json`)
  writeFileSync(path, JSON.stringify(profile))
  return path
}

export const newCkaId = (bytes = 16): string => randomBytes(bytes).toString('hex')

/** The kind of failure that a call ends in; `done` when it succeeds. Anything but a TokenError is a defect. */
export async function outcome(call: Promise<unknown>): Promise<string> {
  try {
    await call
    return 'done'
  } catch (error) {
    if (error instanceof TokenError) return error.failure
    throw error
  }
}

/** Waits until the token does real crypto again. */
export async function recovered(token: Token, withinMs = 60_000): Promise<void> {
  const deadline = performance.now() + withinMs
  for (;;) {
    const failure = await outcome(token.check())
    if (failure === 'done') return
    if (performance.now() > deadline) throw new Error(`still ${failure} after ${withinMs} ms: ${token.health().detail}`)
    await sleep(50)
  }
}
