/** Every command, in the order of the help, and running a command line. */

import { closest } from '../base/closest.ts'
import { adminCommands } from './admin.ts'
import { auditCommands } from './audit.ts'
import { CommandFailure, describeCommand, exitCodes, parseArguments, UsageError, type Command } from './command.ts'
import type { Wiring } from './wiring.ts'

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

const config: Command = {
  name: 'config',
  summary: 'Shows the configuration in force, or with --markdown every setting there is.',
  flags: { markdown: { about: "The README's table of settings." } },
  async run({ flags }, wiring) {
    await wiring.print(flags['markdown'] ? wiring.settingsTable() : `${JSON.stringify(wiring.effectiveConfig(), undefined, 2)}\n`)
    return exitCodes.done
  },
}

const bench: Command = {
  name: 'bench',
  summary: 'Measures signed, authorized, audited calls beside a bare HTTP server and the bare token, on this machine.',
  flags: {
    seconds: { value: 'N', about: 'How long each part is measured; 5 unless given.' },
    connections: { value: 'N', about: 'Connections at once; 64 unless given.' },
    grants: { value: 'N', about: 'Measures instead a call that a grant allows, with 10 grants in the store and with N more.' },
    keys: { value: 'N', about: 'Measures instead Encrypt with 10 keys and with N, and how long a start takes with N.' },
  },
  async run({ flags }, wiring) {
    const number = (name: string, fallback: number, most = 9999): number => {
      const text = flags[name]?.[0] ?? String(fallback)
      if (!/^[1-9]\d{0,7}$/.test(text) || Number(text) > most) throw new UsageError(`--${name} must be a whole number from 1 to ${most}.`)
      return Number(text)
    }
    const report = await wiring.bench({
      seconds: number('seconds', 5),
      connections: number('connections', 64),
      ...(flags['grants'] && { grants: number('grants', 1, 10_000_000) }),
      ...(flags['keys'] && { keys: number('keys', 1, 1_000_000) }),
    })
    await wiring.print(`${JSON.stringify(report, undefined, 2)}\n`)
    return exitCodes.done
  },
}

/** The table. */
export const commands: readonly Command[] = [serve, doctor, config, ...adminCommands, ...auditCommands, bench]

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
  const [first = '', second = ''] = words
  const two = commands.find(({ name }) => name === `${first} ${second}`)
  if (two) return { command: two, rest: words.slice(2) }
  const one = commands.find(({ name }) => name === first)
  if (one) return { command: one, rest: words.slice(1) }
  const group = commands.filter(({ name }) => name.startsWith(`${first} `)).map(({ name }) => name.slice(first.length + 1))
  if (group.length > 0) {
    if (second === '' || second === '--help') throw new UsageError(`holdfast ${first} needs one of: ${group.join(', ')}.`)
    const near = closest(second, group)
    throw new UsageError(
      `holdfast ${first} has no ${JSON.stringify(second)}, only ${group.join(', ')}.${near === undefined ? '' : ` Did you mean ${first} ${near}?`}`,
    )
  }
  const near = closest(first, [...commands.map(({ name }) => name), ...commands.map(({ name }) => name.split(' ')[0] ?? ''), 'help'])
  throw new UsageError(
    `There is no command ${JSON.stringify(first)}.${near === undefined ? ' See holdfast help.' : ` Did you mean ${near}?`}`,
  )
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
