/**
 * JavaScript of the sources, made once for each state of them: file by file, in `build/<digest of the sources>/`, laid out as the repository is, so
 * that whatever a program looks for beside itself is there. Reading TypeScript anew would cost every start, and every agent and thread, some tenths of
 * a second, and the helpers that a loader puts around functions cost each call a little.
 *
 * A build appears whole or not at all. It stays as long as a process that uses it runs, which starts its agents from there; each process leaves its
 * number in `build/<digest>/users`. Where the folder cannot be written the sources run as they are, through tsx.
 */
import { createHash, randomBytes } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import process from 'node:process'
import { pathToFileURL } from 'node:url'
import { build } from 'esbuild'
import { isRunning, root } from './machine.mjs'

const youngMs = 60_000
const beside = ['native-config', 'softhsm', 'package.json']

/** Imports one of the programs in `src/`, by its name there without `.ts`. */
export async function importProgram(name) {
  const dir = await (found ??= buildOf(root))
  if (dir !== undefined) return import(pathToFileURL(join(dir, 'src', `${name}.js`)).href)
  const { register } = await import('tsx/esm/api')
  register()
  return import(new URL(`../src/${name}.ts`, import.meta.url).href)
}

let found

/**
 * The build of the sources in `folder`, signed by this process until it ends.
 * @returns its folder; undefined where none can be kept
 */
export async function buildOf(folder) {
  const home = join(folder, 'build')
  const sources = filesIn(join(folder, 'src'))
  const dir = join(home, digestOf(folder, sources))
  try {
    if (!existsSync(dir)) await make(folder, dir, sources)
    sign(dir)
    clearOthers(home, dir)
    return dir
  } catch (error) {
    // ENOENT: it was old, and has just been cleared by a process that uses another.
    if (['EACCES', 'EPERM', 'EROFS', 'ENOSPC', 'EDQUOT', 'ENOENT'].includes(error.code)) return undefined
    throw error
  }
}

const filesIn = (folder) =>
  readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.path, entry.name))
    .sort()

function digestOf(folder, sources) {
  const hash = createHash('sha256')
  const others = beside.map((name) => join(folder, name)).flatMap((path) => (statSync(path).isDirectory() ? filesIn(path) : [path]))
  for (const file of [...sources, ...others]) {
    const content = readFileSync(file)
    hash.update(`${relative(folder, file)}\n${content.length}\n`).update(content)
  }
  return hash.digest('hex').slice(0, 32)
}

async function make(folder, dir, sources) {
  const making = join(dirname(dir), `.making-${process.pid}-${randomBytes(4).toString('hex')}`)
  const copyTo = (from) => cpSync(from, join(making, relative(folder, from)), { recursive: true })
  try {
    await build({
      entryPoints: sources.filter((file) => file.endsWith('.ts')),
      outbase: folder,
      outdir: making,
      bundle: true,
      packages: 'external',
      plugins: [mirror],
      format: 'esm',
      platform: 'node',
      target: 'node20',
      sourcemap: 'linked',
      sourcesContent: false,
      logLevel: 'warning',
    })
    for (const file of sources.filter((each) => !each.endsWith('.ts'))) copyTo(file)
    for (const each of beside) copyTo(join(folder, each))
    mkdirSync(join(making, 'users'))
    renameSync(making, dir)
  } catch (error) {
    rmSync(making, { recursive: true, force: true })
    // Another process was first: its build is as good.
    if (!existsSync(dir)) throw error
  }
}

/** For esbuild: every import stays an import, of the JavaScript that is made of what it names. */
export const mirror = {
  name: 'mirror',
  setup(bundle) {
    bundle.onResolve({ filter: /^\.\.?\// }, ({ kind, path }) =>
      kind === 'entry-point' ? undefined : { path: path.replace(/\.ts$/, '.js'), external: true },
    )
  },
}

function sign(dir) {
  const name = join(dir, 'users', String(process.pid))
  writeFileSync(name, '')
  process.once('exit', () => rmSync(name, { force: true }))
}

/** Builds of other states of the sources that nobody uses, and what killed processes left half made. */
function clearOthers(home, dir) {
  for (const name of readdirSync(home)) {
    const other = join(home, name)
    if (other === dir) continue
    try {
      // Somebody may just have made it, and not have signed yet.
      if (Date.now() - statSync(other).mtimeMs < youngMs) continue
      const users = name.startsWith('.making-') ? [name.split('-')[1]] : readdirSync(join(other, 'users'))
      if (!users.some((pid) => isRunning(Number(pid)))) rmSync(other, { recursive: true, force: true, maxRetries: 3 })
    } catch (error) {
      // Another process clears it, too.
      if (!['ENOENT', 'ENOTEMPTY'].includes(error.code)) throw error
    }
  }
}
