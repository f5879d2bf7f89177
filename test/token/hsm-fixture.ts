/**
 * What the tests of the device layer share: a token opened through the real agent, and waiting for what happens in
 * another process.
 */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { openToken, type TokenConfig } from '../../src/hsm/client.ts'
import { TokenError, type Token } from '../../src/hsm/token.ts'
import type { LabToken } from './lab.ts'

export interface LogLine {
  readonly level: string
  readonly message: string
  readonly fields: Readonly<Record<string, unknown>>
}

export interface OpenedToken {
  readonly token: Token
  readonly log: LogLine[]
  /** Process ids of the agents that became ready, the present one last. */
  pids(): readonly number[]
  pid(): number
}

export function configFor(lab: LabToken, overrides: Partial<TokenConfig> = {}): TokenConfig {
  return {
    library: lab.library,
    tokenLabel: lab.label,
    pinFile: lab.pinFile,
    env: lab.env,
    provision: true,
    sessions: 2,
    startTimeoutMs: 180_000,
    ...overrides,
  }
}

export async function open(lab: LabToken, overrides: Partial<TokenConfig> = {}): Promise<OpenedToken> {
  const lines: LogLine[] = []
  const write =
    (level: string) =>
    (fields: Readonly<Record<string, unknown>>, message: string): void => {
      lines.push({ level, fields, message })
    }
  const log = { info: write('info'), warn: write('warn'), error: write('error') }
  const pids = (): readonly number[] =>
    lines.filter(({ message }) => message === 'the token is ready').map(({ fields }) => Number(fields['pid']))
  const token = await openToken(configFor(lab, overrides), { log })
  return { token, log: lines, pids, pid: () => pids().at(-1) ?? 0 }
}

export const freshId = (bytes = 16): string => randomBytes(bytes).toString('hex')

export async function makeWrappingKey(token: Token): Promise<string> {
  const ckaId = freshId(token.capabilities().keyIdBytes)
  await token.generateKey({ kind: 'wrapping', ckaId, label: `kms/${ckaId}/1` })
  return ckaId
}

/** How a call failed; an error that is no TokenError is thrown on. */
export async function failureOf(call: Promise<unknown>): Promise<string> {
  try {
    await call
    return 'none'
  } catch (error) {
    if (error instanceof TokenError) return error.failure
    throw error
  }
}

export async function until(what: string, isSo: () => boolean | Promise<boolean>, withinMs = 60_000): Promise<void> {
  const deadline = performance.now() + withinMs
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new Error(`waited ${withinMs} ms in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** Whether a process runs. One that ended and that nobody has asked for its exit code does not, though it has a number still. */
export function lives(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.startsWith('Z') === false
  } catch {
    return false
  }
}
