/** `holdfast xks doctor`: what AWS KMS would find at an XKS proxy. */

import { readFile } from 'node:fs/promises'
import { CommandFailure, exitCodes, UsageError, type Command, type Flag } from './command.ts'
import type { Wiring } from './wiring.ts'

const flags = {
  endpoint: { value: 'URL', required: true, about: 'XksProxyUriEndpoint: https:// and the host name that AWS KMS connects to.' },
  credential: {
    value: 'FILE',
    required: true,
    about: 'The JSON file of the store with its path and credential, as the AWS console takes it; - for standard input.',
  },
  key: { value: 'EXTERNAL_ID', about: 'An external key id of the store. Without it no call on a key is made.' },
  region: { value: 'REGION', about: 'Of the AWS KMS that calls; the first of HOLDFAST_REGIONS unless given.' },
  connect: { value: 'HOST:PORT', about: "Where to connect, instead of the endpoint's own address." },
  ca: { value: 'FILE', about: 'PEM certificates of authorities to trust besides the public ones.' },
  'client-cert': { value: 'FILE', about: 'PEM certificate to show, where the proxy asks for one.' },
  'client-key': { value: 'FILE', about: 'PEM private key of that certificate.' },
  calls: { value: 'N', about: 'How many calls of each kind are timed; 200 unless given.' },
  json: { about: 'Prints JSON.' },
} as const satisfies Readonly<Record<string, Flag>>

export const xksDoctor: Command = {
  name: 'xks doctor',
  summary: 'Holds the conversation of AWS KMS with an XKS proxy, and says what AWS would find. Exit code 1 if something is wrong.',
  detail:
    'Good calls and bad ones, each judged by the specification; latencies against the 250 ms that AWS KMS waits; the certificate and the days it is good for.\n' +
    'It encrypts random bytes of its own with the key, and changes nothing. Its requests are in the audit as the role holdfast-doctor.',
  flags,
  async run(args, wiring) {
    const flag = (name: keyof typeof flags): string | undefined => args.flags[name]?.[0]
    const endpoint = readEndpoint(flag('endpoint') ?? '')
    const { path, credentials } = readCredential(await readText('credential', flag('credential') ?? '', wiring))
    const read = async (name: 'ca' | 'client-cert' | 'client-key'): Promise<string | undefined> => {
      const named = flag(name)
      return named === undefined ? undefined : readText(name, named, wiring)
    }
    const [ca, cert, key] = [await read('ca'), await read('client-cert'), await read('client-key')]
    if ((cert === undefined) !== (key === undefined)) throw new UsageError('--client-cert and --client-key go together.')
    const connectTo = flag('connect')
    const externalKeyId = flag('key')
    const { text, report, healthy } = await wiring.xksDoctor({
      endpoint,
      path,
      credentials,
      calls: readCount(flag('calls') ?? '200'),
      region: flag('region') ?? wiring.clientSettings().region,
      ...(connectTo !== undefined && { connectTo: readPlace(connectTo) }),
      ...(externalKeyId !== undefined && { externalKeyId }),
      ...(ca !== undefined && { ca }),
      ...(cert !== undefined && key !== undefined && { client: { cert, key } }),
    })
    await wiring.print(flag('json') === undefined ? text : `${JSON.stringify(report, undefined, 2)}\n`)
    return healthy ? exitCodes.done : exitCodes.failed
  },
}

function readEndpoint(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (!url || !/^https?:$/.test(url.protocol) || url.pathname !== '/' || url.search !== '' || url.username !== '') {
    throw new UsageError(`--endpoint must be https:// and a host name, without a path; it is ${JSON.stringify(text)}.`)
  }
  return url
}

function readPlace(text: string): { readonly host: string; readonly port: number } {
  const [, host = '', port = ''] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text)?.filter((part) => part !== undefined) ?? []
  if (host === '' || Number(port) < 1 || Number(port) > 65_535)
    throw new UsageError(`--connect must be HOST:PORT; it is ${JSON.stringify(text)}.`)
  return { host, port: Number(port) }
}

function readCount(text: string): number {
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new UsageError(`--calls must be a whole number from 1 to 999999; it is ${JSON.stringify(text)}.`)
  return Number(text)
}

async function readText(name: string, file: string, wiring: Wiring): Promise<string> {
  if (file === '-') return wiring.readInput()
  try {
    return await readFile(file, 'utf8')
  } catch (cause) {
    throw new UsageError(`--${name} names ${file}, which cannot be read: ${cause instanceof Error ? cause.message : ''}.`, { cause })
  }
}

/** The file for the AWS console: `XksProxyUriPath` and `XksProxyAuthenticationCredential`. */
function readCredential(text: string): { readonly path: string; readonly credentials: { accessKeyId: string; secretAccessKey: string } } {
  let file: {
    readonly XksProxyUriPath?: unknown
    readonly XksProxyAuthenticationCredential?: { readonly AccessKeyId?: unknown; readonly RawSecretAccessKey?: unknown }
  }
  try {
    file = (JSON.parse(text) ?? {}) as typeof file
  } catch {
    // Its text may be a secret.
    throw new CommandFailure('The file of --credential is not JSON: it is what "holdfast xks store credentials add" prints.')
  }
  const { AccessKeyId, RawSecretAccessKey } = file.XksProxyAuthenticationCredential ?? {}
  if (typeof file.XksProxyUriPath !== 'string' || typeof AccessKeyId !== 'string' || typeof RawSecretAccessKey !== 'string') {
    throw new CommandFailure(
      'The file of --credential must have XksProxyUriPath, and XksProxyAuthenticationCredential with AccessKeyId and RawSecretAccessKey: it is what "holdfast xks store credentials add" prints.',
    )
  }
  return { path: file.XksProxyUriPath, credentials: { accessKeyId: AccessKeyId, secretAccessKey: RawSecretAccessKey } }
}
