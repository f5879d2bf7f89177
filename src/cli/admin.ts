/**
 * Administration: accounts, users, roles, access keys, policies, key attestation. Each command is a row that names its
 * operation and how its words become the operation's members; all of them make one signed call to the running service.
 */

import { readFile } from 'node:fs/promises'
import { call, callAllPages, plainHttpFlag, type Answer } from './client.ts'
import { exitCodes, UsageError, type Arguments, type Command, type Flag, type Positional } from './command.ts'
import { saveProfile } from './credentials-file.ts'
import { showAnswer } from './show.ts'
import type { Wiring } from './wiring.ts'

type Members = Readonly<Record<string, unknown>>

/** One administrative command. */
export interface Row {
  readonly name: string
  readonly summary: string
  readonly detail?: string
  readonly positionals?: readonly Positional[]
  readonly flags?: Readonly<Record<string, Flag>>
  readonly operation: string | ((words: Words) => string)
  /** Listings: the member that holds the items; all pages are fetched. */
  readonly items?: string
  readonly input?: (words: Words) => Members | Promise<Members>
  /** The answer for a person's eyes, where members in lines are not it. */
  readonly show?: (answer: Answer) => string
  /** What to do with a successful answer besides printing it. */
  readonly afterwards?: (answer: Answer, words: Words, wiring: Wiring) => Promise<void>
}

/** A command line's words, by name. Members that are undefined are not sent. */
export class Words {
  readonly #args: Arguments
  readonly #wiring: Wiring
  constructor(args: Arguments, wiring: Wiring) {
    this.#args = args
    this.#wiring = wiring
  }
  positional(name: string): string | undefined {
    return this.#args.positionals[name]
  }
  flag(name: string): string | undefined {
    return this.#args.flags[name]?.[0]
  }
  /** Of a flag that may be repeated. */
  all(name: string): readonly string[] | undefined {
    return this.#args.flags[name]
  }
  has(name: string): boolean {
    return this.#args.flags[name] !== undefined
  }
  integer(name: string): number | undefined {
    const text = this.flag(name)
    if (text === undefined) return undefined
    if (!/^\d{1,9}$/.test(text)) throw new UsageError(`--${name} must be a whole number; it is ${JSON.stringify(text)}.`)
    return Number(text)
  }
  tags(): readonly { readonly Key: string; readonly Value: string }[] | undefined {
    return this.#args.flags['tag']?.map((text) => {
      const at = text.indexOf('=')
      if (at < 1) throw new UsageError(`--tag must be KEY=VALUE; it is ${JSON.stringify(text)}.`)
      return { Key: text.slice(0, at), Value: text.slice(at + 1) }
    })
  }
  /** A document: JSON itself, a file, or `-` for standard input. */
  async document(name: string): Promise<string | undefined> {
    const word = this.flag(name)
    if (word === undefined || word.trimStart().startsWith('{')) return word
    if (word === '-') return this.#wiring.readInput()
    const file = word.startsWith('file://') ? word.slice('file://'.length) : word
    try {
      return await readFile(file, 'utf8')
    } catch (cause) {
      throw new UsageError(`--${name} names ${file}, which cannot be read: ${cause instanceof Error ? cause.message : ''}.`, { cause })
    }
  }
}

const tag: Flag = { value: 'KEY=VALUE', repeated: true, about: 'A tag.' }
const path: Flag = { value: '/PATH/', about: 'The path in its ARN; / unless given.' }
const documentHelp = 'JSON, a file, or - for standard input.'
const user: Flag = { value: 'USER', about: 'The user.' }
const role: Flag = { value: 'ROLE', about: 'The role.' }
const savedAs: Flag = { value: 'NAME', about: 'Also writes the key into the credentials file (0600) as this profile.' }

const rows: readonly Row[] = [
  {
    name: 'user create',
    summary: 'Makes a user. It may do nothing until a policy says so.',
    positionals: [{ name: 'USER' }],
    flags: { path, tag },
    operation: 'CreateUser',
    input: (words) => ({ UserName: words.positional('USER'), Path: words.flag('path'), Tags: words.tags() }),
  },
  { name: 'user get', summary: 'Shows a user.', positionals: [{ name: 'USER' }], operation: 'GetUser', input: userName },
  { name: 'user list', summary: 'Lists the users.', operation: 'ListUsers', items: 'Users' },
  {
    name: 'user delete',
    summary: 'Removes a user with its access keys and policies.',
    positionals: [{ name: 'USER' }],
    operation: 'DeleteUser',
    input: userName,
  },

  {
    name: 'role create',
    summary: 'Makes a role that the principals in its trust policy may assume.',
    positionals: [{ name: 'ROLE' }],
    flags: {
      'trust-policy': { value: 'DOCUMENT', required: true, about: `Who may assume it: ${documentHelp}` },
      'max-session-seconds': { value: 'SECONDS', about: 'The longest session, 3600 to 43200.' },
      path,
      tag,
    },
    operation: 'CreateRole',
    input: async (words) => ({
      RoleName: words.positional('ROLE'),
      AssumeRolePolicyDocument: await words.document('trust-policy'),
      MaxSessionDuration: words.integer('max-session-seconds'),
      Path: words.flag('path'),
      Tags: words.tags(),
    }),
  },
  { name: 'role get', summary: 'Shows a role.', positionals: [{ name: 'ROLE' }], operation: 'GetRole', input: roleName },
  { name: 'role list', summary: 'Lists the roles.', operation: 'ListRoles', items: 'Roles' },
  {
    name: 'role trust',
    summary: "Replaces a role's trust policy.",
    positionals: [{ name: 'ROLE' }],
    flags: { document: { value: 'DOCUMENT', required: true, about: documentHelp } },
    operation: 'UpdateAssumeRolePolicy',
    input: async (words) => ({ RoleName: words.positional('ROLE'), PolicyDocument: await words.document('document') }),
  },
  {
    name: 'role delete',
    summary: 'Removes a role; its sessions end.',
    positionals: [{ name: 'ROLE' }],
    operation: 'DeleteRole',
    input: roleName,
  },

  {
    name: 'access-key create',
    summary: 'Makes an access key. Its secret is shown now and never again.',
    flags: { user: { ...user, about: 'The user whose key it is; your own unless given.' }, 'save-profile': savedAs },
    operation: 'CreateAccessKey',
    input: (words) => ({ UserName: words.flag('user') }),
    afterwards: saveAccessKey,
  },
  {
    name: 'access-key list',
    summary: 'Lists access keys, without their secrets.',
    flags: { user: { ...user, about: 'The user whose keys to list; yours unless given.' } },
    operation: 'ListAccessKeys',
    items: 'AccessKeyMetadata',
    input: (words) => ({ UserName: words.flag('user') }),
  },
  {
    name: 'access-key activate',
    summary: 'Lets an access key sign again.',
    positionals: [{ name: 'ACCESS-KEY-ID' }],
    operation: 'UpdateAccessKey',
    input: (words) => ({ AccessKeyId: words.positional('ACCESS-KEY-ID'), Status: 'Active' }),
  },
  {
    name: 'access-key deactivate',
    summary: 'Stops an access key from signing, until it is activated again.',
    positionals: [{ name: 'ACCESS-KEY-ID' }],
    operation: 'UpdateAccessKey',
    input: (words) => ({ AccessKeyId: words.positional('ACCESS-KEY-ID'), Status: 'Inactive' }),
  },
  {
    name: 'access-key delete',
    summary: 'Removes an access key for good.',
    positionals: [{ name: 'ACCESS-KEY-ID' }],
    operation: 'DeleteAccessKey',
    input: (words) => ({ AccessKeyId: words.positional('ACCESS-KEY-ID') }),
  },

  ...policyRows(),

  {
    name: 'account create',
    summary: 'Makes another account and an access key of its root.',
    positionals: [{ name: 'ACCOUNT-ID' }],
    detail: 'With --client-token the same command, given again within a day because the answer was lost, shows the same access key.',
    flags: {
      'client-token': { value: 'TEXT', about: 'Any text of your own that names this request, up to 64 characters.' },
      'save-profile': savedAs,
    },
    operation: 'CreateAccount',
    input: (words) => ({ AccountId: words.positional('ACCOUNT-ID'), ClientToken: words.flag('client-token') }),
    afterwards: saveAccessKey,
  },
  { name: 'account list', summary: 'Lists the accounts.', operation: 'ListAccounts', items: 'Accounts' },

  {
    name: 'keys attest',
    summary: "Shows a key's attributes as the token has them now, signed by the audit key in the HSM.",
    positionals: [{ name: 'KEY-ID' }],
    detail: 'What is shown for reading; --json has the exact text that is signed, the signature and the public key.',
    operation: 'AttestKey',
    input: (words) => ({ KeyId: words.positional('KEY-ID') }),
    show: ({ Attestation, SignatureAlgorithm }) =>
      `${JSON.stringify(JSON.parse(String(Attestation)), undefined, 2)}\nSigned by the audit key (${String(SignatureAlgorithm)}): --json has the signature.\n`,
  },
  {
    name: 'keys transport',
    summary: "Shows the public half of the transport key of a region's token, for the ceremony that connects two tokens.",
    detail: 'PEM, as OpenSSL and the tools of HSMs read it. The officers compare the fingerprint: docs/replication.md.',
    flags: { region: { value: 'REGION', about: 'Whose token; the first configured Region unless given.' } },
    operation: 'GetTransportKey',
    input: (words) => ({ Region: words.flag('region') }),
    show: ({ TokenLabel, TokenSerial, Fingerprint, PublicKey }) =>
      `Transport key of token ${String(TokenLabel)}, serial ${String(TokenSerial)}\nSHA-256 of its DER encoding: ${String(Fingerprint)}\n${String(PublicKey)}`,
  },

  {
    name: 'usage',
    summary: 'Shows what the account called, and what it would cost on AWS KMS.',
    detail:
      'Successful calls by key and operation, of all regions. The estimate takes the list prices of the settings usage.price…: a month for each key and for\n' +
      'each of its first two rotations, by the hour, and requests. It knows of no free tier, discount or tax.',
    flags: {
      start: { value: 'YYYY-MM-DD', about: "The first day; the first of the last day's month unless given." },
      end: { value: 'YYYY-MM-DD', about: 'The last day; today unless given. Days are UTC.' },
      key: { value: 'KEY-ID', about: 'This key alone.' },
      daily: { about: 'Day by day.' },
    },
    operation: 'GetUsage',
    items: 'Usage',
    input: (words) => ({
      StartDate: words.flag('start'),
      EndDate: words.flag('end'),
      KeyId: words.flag('key'),
      Granularity: words.has('daily') ? 'DAILY' : undefined,
    }),
  },
]

/** `policy put|get|list|delete`: the same four for users and roles, told apart by the flag. */
function policyRows(): readonly Row[] {
  const owner = { user: { ...user, about: 'The user that has the policy.' }, role: { ...role, about: 'The role that has it.' } }
  const name: Positional = { name: 'POLICY' }
  const whose = (words: Words): 'User' | 'Role' => {
    if (words.has('user') === words.has('role')) throw new UsageError('Say whose policy: --user USER or --role ROLE.')
    return words.has('user') ? 'User' : 'Role'
  }
  const input = (words: Words): Members => ({
    [`${whose(words)}Name`]: words.flag('user') ?? words.flag('role'),
    PolicyName: words.positional('POLICY'),
  })
  return [
    {
      name: 'policy put',
      summary: 'Sets an inline policy of a user or role.',
      positionals: [name],
      flags: { ...owner, document: { value: 'DOCUMENT', required: true, about: documentHelp } },
      operation: (words) => `Put${whose(words)}Policy`,
      input: async (words) => ({ ...input(words), PolicyDocument: await words.document('document') }),
    },
    {
      name: 'policy get',
      summary: 'Shows an inline policy.',
      positionals: [name],
      flags: owner,
      operation: (words) => `Get${whose(words)}Policy`,
      input,
    },
    {
      name: 'policy list',
      summary: 'Lists the inline policies of a user or role.',
      flags: owner,
      operation: (words) => `List${whose(words)}Policies`,
      items: 'PolicyNames',
      input,
    },
    {
      name: 'policy delete',
      summary: 'Removes an inline policy.',
      positionals: [name],
      flags: owner,
      operation: (words) => `Delete${whose(words)}Policy`,
      input,
    },
  ]
}

function userName(words: Words): Members {
  return { UserName: words.positional('USER') }
}

function roleName(words: Words): Members {
  return { RoleName: words.positional('ROLE') }
}

/** Appends a new access key to the credentials file, where that was asked for. */
async function saveAccessKey(answer: Answer, words: Words, wiring: Wiring): Promise<void> {
  const profile = words.flag('save-profile')
  if (profile === undefined) return
  const { AccessKeyId: accessKeyId, SecretAccessKey: secretAccessKey } = (answer['AccessKey'] ?? {}) as Members
  if (typeof accessKeyId !== 'string' || typeof secretAccessKey !== 'string') return
  const { credentialsFile } = wiring.clientSettings()
  await saveProfile(credentialsFile, profile, { accessKeyId, secretAccessKey })
  await wiring.printError(`Saved as profile [${profile}] in ${credentialsFile}.\n`)
}

/** A row as a command. */
export const administrative = (row: Row): Command => ({
  name: row.name,
  summary: row.summary,
  ...(row.detail !== undefined && { detail: row.detail }),
  positionals: row.positionals ?? [],
  flags: { ...row.flags, ...plainHttpFlag, json: { about: "Prints the service's answer as JSON." } },
  async run(args, wiring) {
    const words = new Words(args, wiring)
    const profile = words.flag('save-profile')
    if (profile !== undefined && !/^[\w.@-]{1,64}$/.test(profile))
      throw new UsageError('--save-profile must be 1 to 64 letters, digits, or any of _ . @ -')
    const operation = typeof row.operation === 'string' ? row.operation : row.operation(words)
    const input = (await row.input?.(words)) ?? {}
    const answer =
      row.items === undefined ? await call(wiring, args, operation, input) : await callAllPages(wiring, args, operation, input, row.items)
    // The secret of a new key is in nobody's hands yet: print first, whatever becomes of the rest.
    await wiring.print(args.flags['json'] ? `${JSON.stringify(answer, undefined, 2)}\n` : (row.show ?? showAnswer)(answer))
    await row.afterwards?.(answer, words, wiring)
    return exitCodes.done
  },
})

export const adminCommands: readonly Command[] = rows.map(administrative)
