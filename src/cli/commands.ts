/** Every command, in the order of the help, and running a command line. */

import { didYouMean } from '../base/closest.ts'
import { adminCommands } from './admin.ts'
import { auditCommands } from './audit.ts'
import { envelopeCommands } from './envelope.ts'
import { CommandFailure, describeCommand, exitCodes, parseArguments, UsageError, type Arguments, type Command } from './command.ts'
import type { BenchOptions, Wiring } from './wiring.ts'
import { xksDoctor } from './xks-doctor.ts'
import { xksStoreCommands } from './xks-stores.ts'

const json = { about: 'Prints JSON.' }

const serve: Command = {
  name: 'serve',
  summary: 'Runs the service in this terminal until Ctrl-C or SIGTERM.',
  detail:
    'A first Ctrl-C or SIGTERM lets calls under way finish; a second one ends at once. SIGHUP reads the TLS certificate again.\n' +
    'All settings come from the environment and the file named by HOLDFAST_CONFIG: see holdfast config.',
  run: (_args, wiring) => wiring.serve(),
}

const doctor: Command = {
  name: 'doctor',
  summary: 'Examines configuration, token and database, and says what this token can do. Exit code 1 if something is wrong.',
  flags: { json },
  async run({ flags }, wiring) {
    const { text, report, healthy } = await wiring.doctor()
    await wiring.print(flags['json'] ? `${JSON.stringify(report, undefined, 2)}\n` : text)
    return healthy ? exitCodes.done : exitCodes.failed
  },
}

const rootKey: Command = {
  name: 'account root-key',
  summary: "Makes an access key of an account's root, on the service's host: the way back when the last one is deleted or lost.",
  detail:
    'Opens the token and the database itself, with the configuration of the service, which may run meanwhile. The secret goes into the credentials file ' +
    'only. It is also the way into an account whose "account create" was interrupted before it was answered.',
  positionals: [{ name: 'ACCOUNT-ID', optional: true }],
  flags: {
    'save-profile': {
      value: 'NAME',
      about: 'The profile in the credentials file; default for the home account, root-ACCOUNT-ID for others.',
    },
    replace: { about: 'Removes the access keys that the root has.' },
  },
  async run({ flags, positionals }, wiring) {
    const accountId = positionals['ACCOUNT-ID']
    if (accountId !== undefined && !/^\d{12}$/.test(accountId)) throw new UsageError('ACCOUNT-ID is 12 digits.')
    const [profile] = flags['save-profile'] ?? []
    const options = { ...(accountId !== undefined && { accountId }), ...(profile !== undefined && { profile }) }
    await wiring.print(await wiring.rootKey({ ...options, replace: flags['replace'] !== undefined }))
    return exitCodes.done
  },
}

const config: Command = {
  name: 'config',
  summary: 'Shows the configuration in force, or with --markdown every setting there is.',
  flags: { markdown: { about: "The README's table of settings." } },
  async run({ flags }, wiring) {
    await wiring.print(flags['markdown'] ? wiring.settingsTable() : `${JSON.stringify(wiring.effectiveConfig(), undefined, 2)}\n`)
    return exitCodes.done
  },
}

/** A number from 0.1 for seconds, whole numbers for the rest. */
function benchNumber(flags: Arguments['flags'], name: string, least: number, most: number): Record<string, number> {
  const text = flags[name]?.[0]
  if (text === undefined) return {}
  const whole = Number.isInteger(least)
  const number = (whole ? /^\d{1,8}$/ : /^\d{1,4}(?:\.\d{1,3})?$/).test(text) ? Number(text) : Number.NaN
  if (!(number >= least && number <= most))
    throw new UsageError(`--${name} must be a ${whole ? 'whole ' : ''}number from ${least} to ${most}.`)
  return { [name]: number }
}

const bench: Command = {
  name: 'bench',
  summary: 'Measures what keeping keys in the configured token costs, and the service around it; writes a report.',
  detail:
    'Runs some twenty minutes (--parts and --quick take less) and writes report.html and bench.json into the output directory. Without a configured PKCS#11 module the token is a SoftHSM2 ' +
    'token of the bench itself. In a configured token it makes keys of its own and destroys them at the end; nothing else there is touched. ' +
    'The key holdfast/canary, by which the service knows its token, is made if it is not there, and stays.\n' +
    'A first Ctrl-C or SIGTERM ends the run with what it has measured, and takes away what it made; a second one ends it at once.\n' +
    'With --compare A.json B.json it measures nothing and shows two runs side by side: two devices, or two versions. ' +
    'What is better or worse it can tell of runs with --rounds 5.',
  positionals: [{ name: 'B.json', optional: true }],
  flags: {
    quick: { about: 'Ends within a minute: fewer numbers of callers, shorter and fewer rounds, no growth.' },
    full: { about: 'Longer and more rounds, up to 10,000 keys and a million grants; takes an hour.' },
    output: { value: 'DIR', about: 'Where the report and the figures go; bench-report unless given.' },
    parts: { value: 'NAMES', about: 'Only these parts, comma-separated: token, latency, service, xks, bulk, streams, growth.' },
    seconds: { value: 'N', about: 'How long each side is measured in each round.' },
    rounds: { value: 'N', about: 'How many rounds.' },
    connections: { value: 'N', about: 'Connections at once, where one number of them is measured; 64 unless given.' },
    keys: { value: 'N', about: 'How many keys the growth part goes up to.' },
    grants: { value: 'N', about: 'How many grants the growth part goes up to.' },
    json: { about: 'Prints the figures as JSON instead of the table.' },
    markdown: { about: 'Prints the tables in Markdown, for a document.' },
    compare: { value: 'A.json', about: 'Shows the run in A.json beside the one in B.json.' },
  },
  async run({ flags, positionals }, wiring) {
    const [first] = flags['compare'] ?? []
    const second = positionals['B.json']
    if (first !== undefined || second !== undefined) {
      if (first === undefined || second === undefined) throw new UsageError('bench compares two files: --compare A.json B.json.')
      await wiring.print(await wiring.compareBenches(first, second))
      return exitCodes.done
    }
    if (flags['quick'] && flags['full']) throw new UsageError('bench takes --quick or --full, not both.')
    const options: BenchOptions = {
      level: flags['quick'] ? 'quick' : flags['full'] ? 'full' : 'standard',
      output: flags['output']?.[0] ?? 'bench-report',
      ...(flags['parts'] && { parts: flags['parts'][0]?.split(',').map((name) => name.trim()) ?? [] }),
      ...benchNumber(flags, 'seconds', 0.01, 600),
      ...benchNumber(flags, 'rounds', 1, 100),
      ...benchNumber(flags, 'connections', 1, 4096),
      ...benchNumber(flags, 'keys', 0, 1_000_000),
      ...benchNumber(flags, 'grants', 0, 10_000_000),
    }
    const isDone = await wiring.bench(options, ({ text, json, markdown }) =>
      wiring.print(flags['json'] ? json : flags['markdown'] ? markdown : text),
    )
    return isDone ? exitCodes.done : exitCodes.failed
  },
}

/** The table. */
export const commands: readonly Command[] = [
  serve,
  doctor,
  config,
  ...envelopeCommands,
  ...adminCommands,
  rootKey,
  ...auditCommands,
  ...xksStoreCommands,
  xksDoctor,
  bench,
]

const exitCodesHelp = 'Exit codes: 0 done, 1 it did not work or is not well, 2 the command line is wrong.'

function overview(): string {
  const width = Math.max(...commands.map(({ name }) => name.length))
  return [
    'holdfast: an AWS-KMS-compatible key service whose master keys live in your own HSM',
    '',
    ...commands.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`),
    `  ${'help'.padEnd(width)}  Says this, or with a command's name what that command does.`,
    '',
    'holdfast help COMMAND, or holdfast COMMAND --help, says more about one. ' + exitCodesHelp,
    '',
  ].join('\n')
}

/** The command whose name the words begin with, and the words after it. @throws UsageError */
function findCommand(words: readonly string[]): { command: Command; rest: readonly string[] } {
  const lengthOf = ({ name }: Command): number => name.split(' ').length
  const [command] = commands
    .filter((each) => words.slice(0, lengthOf(each)).join(' ') === each.name)
    .sort((one, other) => lengthOf(other) - lengthOf(one))
  if (command) return { command, rest: words.slice(lengthOf(command)) }
  const [first = ''] = words
  const { said, group } = findGroup(words)
  if (group.length > 0) {
    const next = words[said.split(' ').length] ?? ''
    if (next === '' || next === '--help') throw new UsageError(`holdfast ${said} needs one of: ${group.join(', ')}.`)
    const near = didYouMean(next, [...group, ...group.map((name) => name.split(' ')[0] ?? '')], `${said} `)
    throw new UsageError(`holdfast ${said} has no ${JSON.stringify(next)}, only ${group.join(', ')}.${near}`)
  }
  const near = didYouMean(first, [...commands.map(({ name }) => name), ...commands.map(({ name }) => name.split(' ')[0] ?? ''), 'help'])
  throw new UsageError(`There is no command ${JSON.stringify(first)}.${near || ' See holdfast help.'}`)
}

/** As many of the words as some command's name begins with, and what may follow them. */
function findGroup(words: readonly string[]): { readonly said: string; readonly group: readonly string[] } {
  let said = ''
  let group: readonly string[] = []
  for (const word of words) {
    const longer = said === '' ? word : `${said} ${word}`
    const found = commands.filter(({ name }) => name.startsWith(`${longer} `)).map(({ name }) => name.slice(longer.length + 1))
    if (found.length === 0) break
    said = longer
    group = found
  }
  return { said, group }
}

/** Runs a command line (without the program's name) and answers the exit code. Prints every outcome; throws for defects only. */
export async function runCommandLine(words: readonly string[], wiring: Wiring): Promise<number> {
  try {
    if (words.length === 0) {
      await wiring.printError(overview())
      return exitCodes.usage
    }
    if (['help', '--help', '-h'].includes(words[0] ?? '')) {
      await wiring.print(words.length === 1 ? overview() : describeCommand(findCommand(words.slice(1)).command))
      return exitCodes.done
    }
    const { command, rest } = findCommand(words)
    const args = parseArguments(command, rest)
    if (args.flags['help']) {
      await wiring.print(describeCommand(command))
      return exitCodes.done
    }
    return await command.run(args, wiring)
  } catch (error) {
    if (error instanceof UsageError) {
      await wiring.printError(`${error.message}\n`)
      return exitCodes.usage
    }
    if (error instanceof CommandFailure) {
      await wiring.printError(`${error.message}\n`)
      return exitCodes.failed
    }
    throw error
  }
}
