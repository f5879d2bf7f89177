/** Where a service listens, for who is on this machine: in a file of the data directory, and in a terminal. Part of the wiring. */

import { existsSync, readFileSync } from 'node:fs'
import { rename, rm, writeFile } from 'node:fs/promises'
import { relative } from 'node:path'
import type { Config } from './config/settings.ts'

/** Where a caller on this machine reaches what listens on every address. */
const reachable = (url: string): string => url.replace('://0.0.0.0:', '://127.0.0.1:').replace('://[::]:', '://[::1]:')

/** Says in the data directory where this process listens, for as long as it does. What another living process says there stays. */
export async function announce(
  file: string,
  { url, opsUrl, xksUrl }: { readonly url: string; readonly opsUrl: string; readonly xksUrl: string | undefined },
): Promise<{ close(): Promise<void> }> {
  if (announcedByAnother(file)) return { close: async () => undefined }
  const urls = { url: reachable(url), opsUrl: reachable(opsUrl), ...(xksUrl !== undefined && { xksUrl: reachable(xksUrl) }) }
  const text = `${JSON.stringify({ ...urls, pid: process.pid })}\n`
  const beside = `${file}.${process.pid}`
  await writeFile(beside, text)
  await rename(beside, file)
  return {
    async close() {
      // Another instance may have announced itself since.
      if (existsSync(file) && readFileSync(file, 'utf8') === text) await rm(file, { force: true })
    },
  }
}

function announcedByAnother(file: string): boolean {
  try {
    const { pid } = JSON.parse(readFileSync(file, 'utf8')) as { readonly pid?: unknown }
    return typeof pid === 'number' && pid !== process.pid && process.kill(pid, 0)
  } catch {
    // Not there, not ours to read, or of a process that is no more.
    return false
  }
}

/** For whoever started it in a terminal: the first call to try. */
export function greet(config: Config, credentials: string, mainUrl: string, opsUrl: string): string {
  const quoted = (path: string): string => (/^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", String.raw`'\''`)}'`)
  const near = relative(process.cwd(), credentials)
  const file = quoted(near.startsWith('..') ? credentials : near)
  const trust = config.tls.certFile === undefined ? '' : `AWS_CA_BUNDLE=${quoted(config.tls.certFile)} `
  const url = reachable(mainUrl)
  return [
    '',
    `Holdfast answers at ${mainUrl} for ${config.regions.join(', ')}; readiness and metrics at ${opsUrl}. Try:`,
    '',
    `  ${trust}AWS_SHARED_CREDENTIALS_FILE=${file} aws --endpoint-url ${url} --region ${config.regions[0]} kms create-key`,
    '',
    '',
  ].join('\n')
}
