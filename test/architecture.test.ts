/**
 * The house's rules on who may import whom, read from the imports themselves. A new arrow is an edit of this table, in
 * plain sight.
 */

import { readFileSync, readdirSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { describe, expect, test } from 'vitest'

/** Folder by folder: which others it may import. The files of src/ itself wire, and may import everything. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  base: [],
  hsm: ['base'],
  store: ['base'],
  auth: ['base'],
  audit: ['base', 'store'],
  bulk: ['base'],
  // The XKS proxy protocol: it signs as a client of AWS does.
  xks: ['base', 'auth'],
  // Keyrings over a KMS: it signs as a client of AWS does.
  envelope: ['base', 'auth', 'bulk'],
  kms: ['base', 'hsm', 'store', 'auth', 'audit', 'xks'],
  http: ['base', 'auth', 'kms', 'xks', 'bulk', 'envelope'],
  cli: ['base', 'auth', 'bulk', 'envelope', 'audit'],
  // What a setting's default is, and what its names may be, is KMS's to say.
  config: ['base', 'kms'],
  // The load on the XKS proxy speaks its protocol; bulk encryption is measured where it is, with data keys of a service as the library has them.
  bench: ['base', 'auth', 'bulk', 'envelope', 'xks'],
}

/** What a folder may import besides, if only for its types. */
const mayImportTypes: Readonly<Record<string, readonly string[]>> = { cli: ['kms'], bench: ['hsm'] }

/** Each package lives in one folder. */
const onlyIn: Readonly<Record<string, string>> = {
  pkcs11js: 'hsm',
  'graphene-pk11': 'hsm',
  // Bundles the workers of the agent.
  esbuild: 'hsm',
  'better-sqlite3': 'store',
  kysely: 'store',
  pg: 'store',
  express: 'http',
  piscina: 'bulk',
  // What bulk encryption is measured against; for development only.
  '@aws-crypto/client-node': 'bench',
  pino: 'base',
  'prom-client': 'base',
}

/** Expressions that live in one place. */
const onlyWhere: readonly { readonly what: RegExp; readonly where: RegExp; readonly instead: string }[] = [
  { what: /\bDate\.now\(|\bnew Date\(\)/, where: /^base\//, instead: 'a Clock that is handed in' },
  { what: /\bprocess\.env\b/, where: /^config\/read\.ts$/, instead: 'the configuration' },
  {
    what: /=== 'object' && \w+ !== null && !Array\.isArray\(|!== 'object' \|\| \w+ === null \|\| Array\.isArray\(/,
    where: /^base\/is-record\.ts$/,
    instead: 'isRecord',
  },
  { what: /\bconsole\.\w+\(/, where: /^$/, instead: 'the log, or the print function of the commands' },
]

const src = new URL('../src', import.meta.url).pathname
const files = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .sort()
const folderOf = (file: string): string => (file.includes('/') ? file.slice(0, file.indexOf('/')) : 'main')

interface Import {
  readonly from: string
  readonly typeOnly: boolean
}

/** Static, dynamic and re-exporting imports alike. */
function importsOf(text: string): readonly Import[] {
  const statements = [...text.matchAll(/^\s*(?:import|export)\b([^'";]*?\bfrom\s*)?\s*'([^']+)'/gm)].map(([whole, , from]): Import => ({
    from: from ?? '',
    typeOnly: /^\s*(?:import|export)\s+type\b/.test(whole),
  }))
  const calls = [...text.matchAll(/\bimport\(\s*'([^']+)'\s*\)/g)].map(([, from]): Import => ({ from: from ?? '', typeOnly: false }))
  return [...statements, ...calls]
}

/** `// …` and block comments do not count. */
const withoutComments = (text: string): string => text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|[^:'"`])\/\/.*$/gm, '$1')

/** Files by what they need when they run; types are gone by then. */
const needs = new Map(
  files.map((file) => {
    const imports = importsOf(withoutComments(readFileSync(join(src, file), 'utf8')))
    const ours = imports.filter(({ from, typeOnly }) => from.startsWith('.') && !typeOnly)
    return [file, ours.map(({ from }) => relative(src, join(src, dirname(file), from)))] as const
  }),
)

test('no file needs itself, by whatever way round', () => {
  const whole = new Set<string>()
  const circleFrom = (file: string, way: readonly string[]): readonly string[] | undefined => {
    if (way.includes(file)) return [...way.slice(way.indexOf(file)), file]
    if (whole.has(file)) return undefined
    for (const needed of needs.get(file) ?? []) {
      const circle = circleFrom(needed, [...way, file])
      if (circle) return circle
    }
    whole.add(file)
    return undefined
  }
  expect(files.map((file) => circleFrom(file, [])).filter((circle) => circle !== undefined)).toEqual([])
})

test('every folder has its row', () => {
  expect([...new Set(files.map(folderOf))].filter((folder) => folder !== 'main' && !(folder in mayImport))).toEqual([])
})

describe.each(files)('%s', (file) => {
  const text = withoutComments(readFileSync(join(src, file), 'utf8'))
  const imports = importsOf(text)
  const folder = folderOf(file)

  test('imports only what its folder may', () => {
    const allowed = [folder, ...(mayImport[folder] ?? [])]
    const allowedTypes = [...allowed, ...(mayImportTypes[folder] ?? [])]
    const wrong = imports.filter(({ from, typeOnly }) => {
      if (!from.startsWith('.') || folder === 'main') return false
      const target = relative(src, join(src, dirname(file), from))
      const targetFolder = target.startsWith('..') ? target : folderOf(target)
      return !(typeOnly ? allowedTypes : allowed).includes(targetFolder)
    })
    expect(wrong).toEqual([])
  })

  test('names its imports with their suffix', () => {
    expect(imports.filter(({ from }) => from.startsWith('.') && !/\.(?:ts|mjs)$/.test(from))).toEqual([])
  })

  test('uses no package that lives elsewhere', () => {
    const packages = imports.map(({ from }) => from).filter((from) => !from.startsWith('.') && !from.startsWith('node:'))
    const names = packages.map((from) =>
      from
        .split('/')
        .slice(0, from.startsWith('@') ? 2 : 1)
        .join('/'),
    )
    expect(names.filter((name) => onlyIn[name] !== folder)).toEqual([])
  })

  test.each(onlyWhere)('has no $what: $instead', ({ what, where }) => {
    if (where.test(file)) return
    expect(text.split('\n').filter((line) => what.test(line))).toEqual([])
  })
})
