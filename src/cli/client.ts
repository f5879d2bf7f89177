/**
 * A signed call to a running service, as any AWS client makes it: JSON 1.1 over HTTP. Administration has no other way in,
 * so it is authorized and recorded like everything else.
 */

import { signRequest } from '../auth/sigv4.ts'
import { isRecord } from '../base/is-record.ts'
import { PlainHttpError, post, refusePlainHttp, type PostOptions } from '../base/post.ts'
import { CommandFailure, UsageError, type Arguments, type Flag } from './command.ts'
import { parseCredentials, readCredentialsText, type ProfileCredentials } from './credentials-file.ts'
import type { ClientSettings, Wiring } from './wiring.ts'

const timeoutMs = 30_000
const maxAnswerBytes = 64 * 1024 * 1024

export type Answer = Readonly<Record<string, unknown>>

/** Of every command that calls a service. */
export const plainHttpFlag = {
  'allow-plain-http': { about: 'Calls another machine over http://, where data keys and secrets can be read on the way.' },
} as const satisfies Readonly<Record<string, Flag>>

/**
 * Before anything is done: whether the service may be called there. One that runs here and was found by its data directory may.
 * @param url that it is called at
 * @returns whether plain HTTP is allowed
 * @throws UsageError
 */
export function readPlainHttp({ flags }: Pick<Arguments, 'flags'>, url: URL, isOwnService: boolean): boolean {
  const isAllowed = isOwnService || flags['allow-plain-http'] !== undefined
  try {
    refusePlainHttp(url, isAllowed)
  } catch (cause) {
    if (!(cause instanceof PlainHttpError)) throw cause
    throw new UsageError(`${cause.message}, or --allow-plain-http where a tunnel keeps them secret.`, { cause })
  }
  return isAllowed
}

/**
 * Calls one administrative operation.
 * @param args of the command, which may allow plain HTTP
 * @throws UsageError for an endpoint where secrets could be read on the way, CommandFailure with the service's error, or with what to do when
 *   none answers.
 */
export async function call(
  wiring: Wiring,
  args: Pick<Arguments, 'flags'>,
  operation: string,
  input: Readonly<Record<string, unknown>>,
): Promise<Answer> {
  const settings = wiring.clientSettings()
  const url = new URL('/', settings.endpoint)
  const allowPlainHttp = readPlainHttp(args, url, settings.isOwnService)
  const credentials = settings.credentials ?? (await credentialsFromFile(settings))
  const body = JSON.stringify(input)
  const headers = signRequest({
    method: 'POST',
    url,
    headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amz-target': `Holdfast.${operation}` },
    body,
    service: 'holdfast',
    region: settings.region,
    credentials,
    timeMs: wiring.nowMs(),
  })
  const { status, text } = await send(url, { headers, body, trust: settings.trust, allowPlainHttp })
  const answer = parseAnswer(text)
  if (status !== 200 || !answer) {
    const code = typeof answer?.['__type'] === 'string' ? answer['__type'] : `HTTP ${status}`
    const message = answer?.['message'] ?? answer?.['Message']
    throw new CommandFailure(typeof message === 'string' ? `${code}: ${message}` : code)
  }
  return answer
}

/** Calls a listing until it has no more pages; answers all its items under the listing's own name, after what else the first page says. */
export async function callAllPages(
  wiring: Wiring,
  args: Pick<Arguments, 'flags'>,
  operation: string,
  input: Readonly<Record<string, unknown>>,
  items: string,
): Promise<Answer> {
  const all: unknown[] = []
  let first: Answer | undefined
  let marker: unknown
  do {
    const {
      [items]: some,
      NextMarker: next,
      Truncated: _more,
      ...rest
    } = await call(wiring, args, operation, {
      ...input,
      ...(marker !== undefined && { Marker: marker }),
    })
    first ??= rest
    all.push(...((some ?? []) as unknown[]))
    marker = next
  } while (marker !== undefined && marker !== null)
  return { ...first, [items]: all }
}

export async function credentialsFromFile({ credentialsFile, profile }: ClientSettings): Promise<ProfileCredentials> {
  const credentials = parseCredentials(await readCredentialsText(credentialsFile)).get(profile)
  if (credentials) return credentials
  throw new CommandFailure(
    `There is no profile [${profile}] with an access key in ${credentialsFile}. Start the service once to have it made, ` +
      'or set AWS_SHARED_CREDENTIALS_FILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.',
  )
}

async function send(
  url: URL,
  options: Pick<PostOptions, 'headers' | 'body' | 'trust' | 'allowPlainHttp'>,
): Promise<{ status: number; text: string }> {
  try {
    const answer = await post(url, { ...options, timeoutMs, maxAnswerBytes })
    return { status: answer.status, text: answer.body.toString('utf8') }
  } catch (error) {
    throw callFailure(url.origin, error as Error & { readonly code?: string })
  }
}

/** What an operator can do about a call that nobody answered. */
export function callFailure(origin: string, cause: Error & { readonly code?: string }): CommandFailure {
  return new CommandFailure(
    cause.code === 'ECONNREFUSED' || cause.code === 'ENOENT'
      ? `Nothing answers at ${origin}. Is the service running (holdfast serve)? Another address goes into AWS_ENDPOINT_URL.`
      : `The call to ${origin} failed: ${cause.message}.`,
    { cause },
  )
}

function parseAnswer(text: string): Answer | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isRecord(value) ? value : undefined
  } catch {
    return undefined
  }
}
