/**
 * Makes JavaScript of the sources once for a run of the tests, so that the many processes, agents and threads which tests start need no loader:
 * it would cost each of them some tenths of a second. What is made mirrors the repository, file by file, so that whatever a program looks for
 * beside itself is there; the programs that are started by the hundred are one file each. `npm start` and `holdfast`
 * make and find their own (scripts/programs.mjs), and the tests that start those (serve.test.ts) with them.
 */
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { build, type BuildOptions, type Plugin as BuildPlugin } from 'esbuild'
import type { Plugin } from 'vitest/config'
import { mirror } from '../scripts/programs.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const prefix = 'programs-'
const work = join(root, 'test/.work')

/** One for each run: others may be under way on the same files. */
export const programs = join(work, `${prefix}${process.pid}`)

const made = (source: string): string => join(programs, relative(root, source).replace(/\.ts$/, '.js'))

/** A source takes itself for what was made of it: then it finds what was made of others. */
const moved = (code: string, source: string): string =>
  code.replaceAll(/(?<!')import\.meta\.url/g, JSON.stringify(pathToFileURL(made(source)).href))

/** Whole programs: only packages stay imports, and JavaScript of our own. */
const whole: BuildPlugin = {
  name: 'whole',
  setup(bundle) {
    bundle.onResolve({ filter: /^\.\.?\/.*\.mjs$/ }, ({ path, resolveDir }) => ({ path: made(resolve(resolveDir, path)), external: true }))
    bundle.onLoad({ filter: /\.ts$/ }, async ({ path }) => ({ contents: moved(await readFile(path, 'utf8'), path), loader: 'ts' }))
  },
}
const wholePrograms = [
  'src/hsm/agent.ts',
  'src/store/sqlite-worker.ts',
  'src/audit/worker.ts',
  'test/token/main-program.ts',
  'test/token/crash-child.ts',
]

const common: BuildOptions = {
  outbase: root,
  outdir: programs,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  logLevel: 'warning',
}

/** For vitest, which calls it once for each of its projects: before the first test. Answers what is to be done after the last. */
export default async function buildPrograms(): Promise<(() => void) | undefined> {
  const run = globalThis as { holdfastPrograms?: string }
  if (run.holdfastPrograms === programs) return undefined
  run.holdfastPrograms = programs
  mkdirSync(work, { recursive: true })
  // Of runs that were killed.
  for (const name of readdirSync(work)) if (name.startsWith(prefix) && !runs(Number(name.slice(prefix.length)))) remove(join(work, name))
  const sources = ['src', 'test'].flatMap((folder) => filesIn(join(root, folder)))
  await build({
    ...common,
    entryPoints: sources.filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts')),
    packages: 'external',
    plugins: [mirror],
  })
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { readonly dependencies: object }
  await build({
    ...common,
    entryPoints: wholePrograms.map((file) => join(root, file)),
    // Kysely is two hundred files. The SDK that the bench asks for cannot be put together.
    external: [...Object.keys(dependencies).filter((name) => name !== 'kysely'), '@aws-crypto/client-node'],
    plugins: [whole],
    // What cannot be put together stays in parts, and the tests that start it say what is wrong.
  }).catch((error: unknown) => console.warn(error))
  for (const source of sources.filter((file) => file.endsWith('.mjs'))) {
    mkdirSync(dirname(made(source)), { recursive: true })
    cpSync(source, made(source))
  }
  for (const folder of ['native-config', 'softhsm', 'package.json']) cpSync(join(root, folder), join(programs, folder), { recursive: true })
  return () => remove(programs)
}

/** Without what runs of the tests make, which may go at any time. */
const filesIn = (folder: string): readonly string[] =>
  readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name)
    if (!entry.isDirectory()) return [path]
    return path === work ? [] : filesIn(path)
  })

const remove = (dir: string): void => rmSync(dir, { recursive: true, force: true, maxRetries: 5 })

const runs = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** For vitest: sources that a test imports start what was made, too. */
export const inTheBuild: Plugin = {
  name: 'in-the-build',
  enforce: 'pre',
  transform(code, id) {
    if (!id.startsWith(join(root, 'src/')) || !id.endsWith('.ts')) return undefined
    return { code: moved(code, id), map: null }
  },
}
