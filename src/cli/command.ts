/**
 * What a command is, and reading a command line against one. Refuses what it does not know, with the nearest thing it
 * does know; never takes a misspelt flag for a value.
 */

import { didYouMean } from '../base/closest.ts'
import type { Wiring } from './wiring.ts'

export interface Flag {
  /** What stands for the value in the help; a flag without is a switch. */
  readonly value?: string
  readonly about: string
  /** May be given several times. */
  readonly repeated?: boolean
  readonly required?: boolean
}

export interface Positional {
  readonly name: string
  readonly optional?: boolean
}

/** What a command line said. */
export interface Arguments {
  /** Values of the positionals, by name; absent ones are undefined. */
  readonly positionals: Readonly<Record<string, string | undefined>>
  /** Values of flags given, in order; a switch has one empty value. */
  readonly flags: Readonly<Record<string, readonly string[]>>
}

export interface Command {
  /** One word or two: `serve`, `user create`. */
  readonly name: string
  readonly summary: string
  /** Further paragraphs of its help. */
  readonly detail?: string
  readonly positionals?: readonly Positional[]
  readonly flags?: Readonly<Record<string, Flag>>
  /** Answers the exit code. */
  run(args: Arguments, wiring: Wiring): Promise<number>
}

/** 0: done. 1: it did not work, or what was asked about is not well. 2: the command line is wrong. */
export const exitCodes = { done: 0, failed: 1, usage: 2 } as const

/** The command line cannot be understood; exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** The command did not work, in words for the operator; exit code 1. */
export class CommandFailure extends Error {
  override readonly name = 'CommandFailure'
}

/** Every command has these. */
export const commonFlags: Readonly<Record<string, Flag>> = {
  help: { about: 'Says what the command does and which flags it has.' },
}

/** Reads what follows a command's name. @throws UsageError */
export function parseArguments(command: Command, words: readonly string[]): Arguments {
  const known = { ...command.flags, ...commonFlags }
  const wanted = command.positionals ?? []
  const positionals: Record<string, string | undefined> = {}
  const flags: Record<string, string[]> = {}
  let onlyPositionals = false
  let found = 0
  for (let at = 0; at < words.length; at++) {
    const word = words[at] ?? ''
    if (word === '--' && !onlyPositionals) {
      onlyPositionals = true
      continue
    }
    if (onlyPositionals || !word.startsWith('-') || word === '-') {
      const positional = wanted[found++]
      if (!positional) throw new UsageError(`${command.name} takes ${count(wanted.length)}; ${JSON.stringify(word)} is one too many.`)
      positionals[positional.name] = word
      continue
    }
    const [, name, inline] = /^--?([^=]+)(?:=(.*))?$/s.exec(word) ?? []
    const flag = name !== undefined && word.startsWith('--') && Object.hasOwn(known, name) ? known[name] : undefined
    if (name === undefined || !flag) {
      throw new UsageError(`${command.name} has no flag ${word.split('=', 1)[0]}.${didYouMean(name ?? word, Object.keys(known), '--')}`)
    }
    const values = (flags[name] ??= [])
    if (values.length > 0 && !flag.repeated) throw new UsageError(`--${name} may be given once.`)
    if (flag.value === undefined) {
      if (inline !== undefined) throw new UsageError(`--${name} takes no value.`)
      values.push('')
      continue
    }
    const value = inline ?? words[++at]
    if (value === undefined || (inline === undefined && value.startsWith('--')))
      throw new UsageError(`--${name} needs a value: --${name} ${flag.value}.`)
    values.push(value)
  }
  if ('help' in flags) return { positionals, flags }
  const missing = wanted.filter(({ name, optional }) => !optional && positionals[name] === undefined).map(({ name }) => name)
  if (missing.length > 0) throw new UsageError(`${command.name} needs ${missing.join(' and ')}.`)
  for (const [name, { required, value }] of Object.entries(known)) {
    if (required && flags[name] === undefined) throw new UsageError(`${command.name} needs --${name} ${value}.`)
  }
  return { positionals, flags }
}

const count = (arguments_: number): string => (arguments_ === 0 ? 'no arguments' : `${arguments_} argument${arguments_ === 1 ? '' : 's'}`)

/** The help of one command. */
export function describeCommand(command: Command): string {
  const positionals = (command.positionals ?? []).map(({ name, optional }) => (optional ? `[${name}]` : name))
  const flags = Object.entries({ ...command.flags, ...commonFlags })
  const spelled = flags.map(([name, flag]) => ({ name: `--${name}${flag.value === undefined ? '' : ` ${flag.value}`}`, flag }))
  const required = spelled.filter(({ flag }) => flag.required).map(({ name }) => name)
  const width = Math.max(...spelled.map(({ name }) => name.length))
  return [
    `holdfast ${[command.name, ...positionals, ...required, '[flags]'].join(' ')}`,
    '',
    command.summary,
    ...(command.detail === undefined ? [] : ['', command.detail]),
    '',
    'Flags',
    ...spelled.map(
      ({ name, flag }) =>
        `  ${name.padEnd(width)}  ${flag.about}${flag.repeated ? ' May be repeated.' : ''}${flag.required ? ' Required.' : ''}`,
    ),
    '',
  ].join('\n')
}
