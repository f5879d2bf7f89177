/**
 * The AWS shared-credentials format: profiles in brackets, three names each. Read for the command line's own calls,
 * written for the root access key at the first start and for keys that are saved as a profile.
 *
 * A file is replaced whole: written beside, flushed, renamed, mode 0600, so that nobody ever reads half of one and a
 * secret that was announced survives a power cut.
 */

import { randomUUID } from 'node:crypto'
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'

export interface ProfileCredentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string
}

/** Reads profiles; what is no profile with a key and a secret is left out. */
export function parseCredentials(text: string): ReadonlyMap<string, ProfileCredentials> {
  const profiles = new Map<string, ProfileCredentials>()
  for (const { name, lines } of sections(text)) {
    const value = (wanted: string): string | undefined =>
      lines.map((line) => /^\s*([a-z_]+)\s*=\s*(.*?)\s*$/.exec(line)).find((match) => match?.[1] === wanted)?.[2]
    const accessKeyId = value('aws_access_key_id')
    const secretAccessKey = value('aws_secret_access_key')
    const sessionToken = value('aws_session_token')
    if (name === undefined || !accessKeyId || !secretAccessKey) continue
    profiles.set(name, { accessKeyId, secretAccessKey, ...(sessionToken && { sessionToken }) })
  }
  return profiles
}

/** `text` with one profile set, the others and every comment as they were. */
export function encodeProfile(text: string, profile: string, credentials: ProfileCredentials): string {
  const written = [
    `[${profile}]`,
    `aws_access_key_id = ${credentials.accessKeyId}`,
    `aws_secret_access_key = ${credentials.secretAccessKey}`,
    ...(credentials.sessionToken === undefined ? [] : [`aws_session_token = ${credentials.sessionToken}`]),
    '',
  ]
  const kept = sections(text)
    .filter(({ name }) => name !== profile)
    .flatMap(({ name, lines }) => (name === undefined ? lines : [`[${name}]`, ...lines]))
  while (kept.length > 0 && kept.at(-1)?.trim() === '') kept.pop()
  return [...kept, ...(kept.length > 0 ? [''] : []), ...written].join('\n')
}

/** The file in pieces: what stands before the first profile (without a name), then each profile. */
function sections(text: string): readonly { readonly name: string | undefined; readonly lines: readonly string[] }[] {
  const found: { name: string | undefined; lines: string[] }[] = [{ name: undefined, lines: [] }]
  for (const line of text.split(/\r?\n/)) {
    const name = /^\s*\[\s*([^\]]*?)\s*\]\s*$/.exec(line)?.[1]
    if (name === undefined) found.at(-1)?.lines.push(line)
    else found.push({ name, lines: [] })
  }
  return found.filter(({ name, lines }) => name !== undefined || lines.some((line) => line.trim() !== ''))
}

/** The file's text, empty when there is none. */
export async function readCredentialsText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return ''
    throw error
  }
}

/** Sets one profile in a credentials file, durable on return. Makes the folder (0700) if need be. */
export async function saveProfile(file: string, profile: string, credentials: ProfileCredentials): Promise<void> {
  const text = encodeProfile(await readCredentialsText(file), profile, credentials)
  const folder = dirname(file)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const beside = join(folder, `.credentials-${randomUUID()}`)
  try {
    const handle = await open(beside, 'wx', 0o600)
    try {
      await handle.writeFile(text)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(beside, file)
  } catch (error) {
    await rm(beside, { force: true })
    throw error
  }
  const directory = await open(folder, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}
