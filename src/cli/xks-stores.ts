/**
 * `holdfast xks store …`: the stores through which AWS KMS uses keys as those of an external key store. All of them are signed calls to the running
 * service. A secret is printed once, as the JSON file that AWS's console takes, and never taken from the command line in silence: arguments can be
 * read by every user of a machine.
 */

import { open, readFile, rm, type FileHandle } from 'node:fs/promises'
import { administrative, Words, type Row } from './admin.ts'
import { call, plainHttpFlag, type Answer } from './client.ts'
import { CommandFailure, exitCodes, UsageError, type Command, type Flag } from './command.ts'
import { showAnswer } from './show.ts'
import type { Wiring } from './wiring.ts'

const prefix: Flag = { value: 'PREFIX', required: true, about: 'The URI path prefix of the store, /tenant; / for the store without one.' }
const region: Flag = { value: 'REGION', repeated: true, about: 'An AWS Region whose KMS may call.' }
const rate: Flag = { value: 'N', about: 'Requests a second.' }
const credential: Flag = {
  value: 'FILE',
  about:
    "A credential that was made elsewhere: a file, or - for standard input, with ID:SECRET or AWS's JSON; ID:SECRET itself is taken too.",
}
const output: Flag = { value: 'FILE', about: 'Writes the JSON with the credential to this new file (0600), not to standard output.' }

/** `tenant`, `/tenant` and `/tenant/` are one; `/` and nothing are the store without a prefix. */
function prefixOf(words: Words): string {
  const name = (words.flag('prefix') ?? '').replace(/^\/|\/$/g, '')
  return name === '' ? '' : `/${name}`
}

const named = (words: Words) => ({ UriPathPrefix: prefixOf(words) })

const rows: readonly Row[] = [
  {
    name: 'xks store list',
    summary: 'Lists the stores of the XKS proxy.',
    operation: 'ListXksStores',
    items: 'XksStores',
    show: showStores,
  },
  {
    name: 'xks store update',
    summary: 'Changes which AWS Regions may call, or how many requests a second are taken.',
    flags: { prefix, region: { ...region, about: `${region.about} All that may are to be named.` }, rate },
    operation: 'UpdateXksStore',
    input: (words) => ({ ...named(words), Regions: words.all('region'), RequestRate: words.integer('rate') }),
  },
  {
    name: 'xks store disable',
    summary: 'The kill switch: within a second AWS KMS can use no key of the store, until it is enabled again.',
    flags: { prefix },
    operation: 'DisableXksStore',
    input: named,
  },
  {
    name: 'xks store enable',
    summary: 'Lets AWS KMS use the store again.',
    flags: { prefix },
    operation: 'EnableXksStore',
    input: named,
  },
  {
    name: 'xks store delete',
    summary: 'Removes a disabled store with its credentials, policy and external key ids. The keys stay.',
    flags: { prefix },
    operation: 'DeleteXksStore',
    input: named,
  },
  {
    name: 'xks store credentials remove',
    summary: 'Removes a credential: whatever it signs is refused from now on.',
    positionals: [{ name: 'ACCESS-KEY-ID' }],
    flags: { prefix },
    operation: 'RemoveXksCredential',
    input: (words) => ({ ...named(words), AccessKeyId: words.positional('ACCESS-KEY-ID') }),
  },
  {
    name: 'xks store keys add',
    summary: 'Shows a key in a store, under the external key id by which AWS KMS is to know it.',
    positionals: [{ name: 'EXTERNAL_ID' }, { name: 'KEY' }],
    flags: { prefix },
    operation: 'AddXksKey',
    input: (words) => ({ ...named(words), ExternalKeyId: words.positional('EXTERNAL_ID'), KeyId: words.positional('KEY') }),
  },
  {
    name: 'xks store keys remove',
    summary: 'Takes a key out of a store. The key stays; AWS KMS cannot use it until it is added again under the same external key id.',
    positionals: [{ name: 'EXTERNAL_ID' }],
    flags: { prefix },
    operation: 'RemoveXksKey',
    input: (words) => ({ ...named(words), ExternalKeyId: words.positional('EXTERNAL_ID') }),
  },
  {
    name: 'xks store keys list',
    summary: 'Lists the keys of a store with their state.',
    flags: { prefix },
    operation: 'ListXksKeys',
    items: 'XksKeys',
    input: named,
  },
  {
    name: 'xks store policy put',
    summary: 'Sets the policy on who may have AWS KMS ask for what.',
    detail: 'Statements are read from the top and the first that matches decides; what none matches is allowed. See docs/xks-proxy.md.',
    flags: {
      prefix,
      document: { value: 'DOCUMENT', required: true, about: 'JSON, a file, or - for standard input.' },
      'dry-run': { about: 'Denies nothing: log and audit say what would be denied.' },
    },
    operation: 'PutXksPolicy',
    input: async (words) => ({
      ...named(words),
      Policy: await words.document('document'),
      Mode: words.has('dry-run') ? 'DRY_RUN' : 'ENFORCE',
    }),
  },
  { name: 'xks store policy get', summary: 'Shows the policy of a store.', flags: { prefix }, operation: 'GetXksPolicy', input: named },
  {
    name: 'xks store policy delete',
    summary: 'Removes the policy of a store: whatever AWS KMS asks for is allowed.',
    flags: { prefix },
    operation: 'DeleteXksPolicy',
    input: named,
  },
]

function showStores(answer: Answer): string {
  const stores = (answer['XksStores'] ?? []) as readonly Readonly<Record<string, unknown>>[]
  return showAnswer({
    XksStores: stores.map(({ UriPathPrefix, Regions, Credentials, ...rest }) => ({
      UriPathPrefix: UriPathPrefix === '' ? '/' : UriPathPrefix,
      ...rest,
      Regions: (Regions as readonly string[]).join(' '),
      Credentials: (Credentials as readonly { readonly AccessKeyId: string }[]).map(({ AccessKeyId }) => AccessKeyId).join(' '),
    })),
  })
}

interface CredentialRow extends Pick<Command, 'name' | 'summary'> {
  readonly flags: Readonly<Record<string, Flag>>
  readonly operation: string
  readonly input: (words: Words) => Readonly<Record<string, unknown>>
}

/** The two whose answer is a secret. */
const credentialRows: readonly CredentialRow[] = [
  {
    name: 'xks store create',
    summary: 'Makes a store with a credential, which is printed once as the JSON file that the AWS console takes.',
    flags: { prefix, region: { ...region, about: `${region.about} The one that the call is for unless given.` }, rate, credential, output },
    operation: 'CreateXksStore',
    input: (words) => ({ ...named(words), Regions: words.all('region'), RequestRate: words.integer('rate') }),
  },
  {
    name: 'xks store credentials add',
    summary: 'Adds a credential, which is printed once as the JSON file that the AWS console takes. The others go on.',
    flags: { prefix, credential, output },
    operation: 'AddXksCredential',
    input: named,
  },
]

const withCredential = ({ name, summary, flags, operation, input }: CredentialRow): Command => ({
  name,
  summary,
  flags: { ...flags, ...plainHttpFlag },
  async run(args, wiring) {
    const words = new Words(args, wiring)
    const given = await readCredential(words.flag('credential'), wiring)
    const file = words.flag('output')
    const made = await openNew(file)
    let answer: Answer
    try {
      answer = await call(wiring, args, operation, { ...input(words), ...(given && { XksProxyAuthenticationCredential: given }) })
    } catch (error) {
      await made?.close()
      if (file !== undefined) await rm(file, { force: true })
      throw error
    }
    const text = `${JSON.stringify(answer, undefined, 2)}\n`
    if (!made || file === undefined) await wiring.print(text)
    else await keep(made, file, text, wiring)
    return exitCodes.done
  },
})

/** Before anything is made: a file that cannot be written is found out while nothing has happened. */
async function openNew(file: string | undefined): Promise<FileHandle | undefined> {
  if (file === undefined) return undefined
  try {
    return await open(file, 'wx', 0o600)
  } catch (cause) {
    throw new UsageError(`--output names ${file}, which cannot be made: ${cause instanceof Error ? cause.message : ''}.`, { cause })
  }
}

async function keep(made: FileHandle, file: string, text: string, wiring: Wiring): Promise<void> {
  try {
    await made.writeFile(text)
    await made.sync()
    await wiring.printError(`The credential is in ${file}. It is shown nowhere else.\n`)
  } catch (cause) {
    // Nobody else has it: what cannot be kept is shown.
    await wiring.print(text)
    throw new CommandFailure(`${file} could not be written: ${cause instanceof Error ? cause.message : ''}.`, { cause })
  } finally {
    await made.close()
  }
}

interface Given {
  readonly AccessKeyId: string
  readonly RawSecretAccessKey: string
}

const pair = /^([A-Z2-7]{20,30}):([A-Za-z0-9/+=]{43,64})$/
const wanted =
  'ID:SECRET, or the JSON file of the AWS console: an access key id of 20 to 30 of A-Z 2-7, a secret of 43 to 64 of A-Z a-z 0-9 / + ='

async function readCredential(word: string | undefined, wiring: Wiring): Promise<Given | undefined> {
  if (word === undefined) return undefined
  if (pair.test(word)) {
    await wiring.printError(
      'The secret was given as an argument, which other users of this machine can see: give it as a file or on standard input (-), or have one made.\n',
    )
    return parseCredential(word)
  }
  if (word === '-') return parseCredential(await wiring.readInput())
  try {
    return parseCredential(await readFile(word, 'utf8'))
  } catch (cause) {
    if (cause instanceof UsageError) throw cause
    // It may be a secret that was misspelt: not said again.
    throw new UsageError(`--credential is no file that can be read, and not ${wanted}.`)
  }
}

function parseCredential(text: string): Given {
  const [, AccessKeyId, RawSecretAccessKey] = pair.exec(text.trim()) ?? pair.exec(pairOf(text)) ?? []
  if (AccessKeyId === undefined || RawSecretAccessKey === undefined) throw new UsageError(`--credential is not ${wanted}.`)
  return { AccessKeyId, RawSecretAccessKey }
}

function pairOf(text: string): string {
  try {
    const file = JSON.parse(text) as { readonly XksProxyAuthenticationCredential?: Partial<Given> } | null
    const { AccessKeyId = '', RawSecretAccessKey = '' } = file?.XksProxyAuthenticationCredential ?? {}
    return `${AccessKeyId}:${RawSecretAccessKey}`
  } catch {
    return ''
  }
}

export const xksStoreCommands: readonly Command[] = [...credentialRows.map(withCredential), ...rows.map(administrative)]
