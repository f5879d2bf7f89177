/** The pages: what they refer to is there. */

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { commonFlags } from '../../src/cli/command.ts'
import { commands } from '../../src/cli/commands.ts'
import { rows } from '../../src/config/settings.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const inDocs = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'))
const pages = ['README.md', 'CHANGELOG.md', 'SECURITY.md', ...inDocs.map((name) => `docs/${name}`)]
const textOf = (page: string): string => readFileSync(join(root, page), 'utf8')
const linksOf = (page: string): readonly string[] =>
  [...textOf(page).matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = '']) => target).filter((target) => !/^[a-z]+:/.test(target))

/** As GitHub makes them of headings. */
const anchorsOf = (page: string): readonly string[] =>
  [...textOf(page).matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .trim()
      .replaceAll(/\s/g, '-'),
  )

/** Command lines in blocks and in the middle of a sentence, without what a shell does with them. */
const commandLinesOf = (page: string): readonly string[] =>
  [...textOf(page).matchAll(/(?:^|`|\s)(?:npx )?holdfast ([a-z][^`\n]*)/gm)]
    .map(([, line = '']) => line.replace(/\s(?:#|\||>|2>|&&).*$/, '').trim())
    .filter((line) => commands.some(({ name }) => line.split(' ')[0] === name.split(' ')[0]))

describe.each(pages)('%s', (page) => {
  test('links to files that are there, and to headings that they have', () => {
    const broken = linksOf(page).filter((target) => {
      const [file = '', anchor] = target.split('#')
      const at = file === '' ? page : relative(root, join(root, dirname(page), file))
      return !existsSync(join(root, at)) || (anchor !== undefined && !anchorsOf(at).includes(anchor))
    })
    expect(broken).toEqual([])
  })

  test('names files that are there', () => {
    const named = [...textOf(page).matchAll(/`((?:src|test|scripts|softhsm|native-config|docs)\/[\w./-]*)`/g)].map(([, path = '']) => path)
    expect(named.filter((path) => !existsSync(join(root, path)) && !existsSync(join(root, `${path}.ts`)))).toEqual([])
  })

  test('names settings that there are', () => {
    const known = ['HOLDFAST_CONFIG', ...rows.map(({ setting }) => setting.env)]
    const named = [...textOf(page).matchAll(/\bHOLDFAST_[A-Z0-9_]*[A-Z0-9]\b/g)].map(([name]) => name)
    expect(named.filter((name) => !known.includes(name) && !/^HOLDFAST_(?:TEST|REQUIRE)_/.test(name))).toEqual([])
  })

  test('shows commands that there are, with flags that they have', () => {
    const wrong = commandLinesOf(page).filter((line) => {
      const words = line.split(/\s+/)
      const command = commands
        .filter(({ name }) => `${words.join(' ')} `.startsWith(`${name} `))
        .toSorted((one, other) => other.name.length - one.name.length)[0]
      if (!command) return !commands.some(({ name }) => name.startsWith(`${words[0]} `)) || words.some((word) => word.startsWith('--'))
      const flags = words.filter((word) => word.startsWith('--')).map((word) => word.slice(2).replace(/[=.,)].*$/, ''))
      return flags.some((flag) => !Object.hasOwn({ ...commonFlags, ...command.flags }, flag))
    })
    expect(wrong).toEqual([])
  })
})

test('the README leads to every page', () => {
  const reached = linksOf('README.md').map((target) => target.split('#')[0])
  expect(pages.filter((page) => page !== 'README.md' && !reached.includes(page))).toEqual([])
})
