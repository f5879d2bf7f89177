/** What runs before our own code can: the checks of a machine. */

import { spawn, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, onTestFinished, test } from 'vitest'
import {
  checkNode,
  findProgram,
  lockfileInstalled,
  Missing,
  ownHeaders,
  packageManagers,
  root,
  withInstallLock,
} from '../../scripts/machine.mjs'
import { buildOf } from '../../scripts/programs.mjs'
import { scratch } from './http-fixture.ts'

function temporary() {
  const files = scratch()
  onTestFinished(() => files.remove())
  return files
}

test('Node below 20 is refused with the version that is needed', () => {
  expect(() => checkNode('18.20.4')).toThrow(/Node 20 or later is needed; this is 18\.20\.4/)
  expect(() => checkNode('20.0.0')).not.toThrow()
  expect(() => checkNode('100.1.0')).not.toThrow()
  expect(() => checkNode()).not.toThrow()
})

const packages = {
  '': { version: '1.0.0' },
  'node_modules/a': { version: '1.0.0', integrity: 'sha512-a' },
  'node_modules/d': { version: '2.0.0', integrity: 'sha512-d', dev: true },
  'node_modules/o': { version: '3.0.0', integrity: 'sha512-o', optional: true },
}

function folderWith(installed: object | string | undefined): string {
  const files = temporary()
  const { dir } = files
  files.write('package-lock.json', JSON.stringify({ packages }))
  mkdirSync(join(dir, 'node_modules'))
  if (installed !== undefined)
    writeFileSync(
      join(dir, 'node_modules/.package-lock.json'),
      typeof installed === 'string' ? installed : JSON.stringify({ packages: installed }),
    )
  return dir
}

test('an install counts when every package of the lockfile is there in its version', () => {
  const { 'node_modules/a': a, 'node_modules/d': d } = packages
  expect(lockfileInstalled(folderWith({ 'node_modules/a': a, 'node_modules/d': d }), { dev: true })).toBe(true)
  expect(lockfileInstalled(folderWith({ 'node_modules/a': a }), { dev: false })).toBe(true)
  expect(lockfileInstalled(folderWith({ 'node_modules/a': a }), { dev: true })).toBe(false)
  expect(lockfileInstalled(folderWith({ 'node_modules/a': { ...a, version: '1.0.1' } }), { dev: false })).toBe(false)
  expect(lockfileInstalled(folderWith({ 'node_modules/a': { ...a, integrity: 'sha512-x' } }), { dev: false })).toBe(false)
})

test('an install that stopped half way does not count', () => {
  expect(lockfileInstalled(folderWith(undefined), { dev: false })).toBe(false)
  expect(lockfileInstalled(folderWith('{"packages":'), { dev: false })).toBe(false)
})

test('this checkout is installed by its own lockfile', () => {
  expect(lockfileInstalled(root, { dev: true })).toBe(true)
})

test('the lockfile has the optional packages of every platform, as npm ci wants it', () => {
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    readonly packages: Readonly<Record<string, { readonly optionalDependencies?: Readonly<Record<string, string>> }>>
  }
  const missing = Object.entries(lock.packages).flatMap(([path, { optionalDependencies = {} }]) =>
    Object.keys(optionalDependencies).filter(
      (name) => !(`node_modules/${name}` in lock.packages) && !(`${path}/node_modules/${name}` in lock.packages),
    ),
  )
  expect(missing).toEqual([])
})

test('one install at a time: the second waits for the first, and takes over from one that died', async () => {
  const { dir } = temporary()
  const lock = join(dir, 'lock')
  const program = `import { withInstallLock } from ${JSON.stringify(join(root, 'scripts/machine.mjs'))}
    import { appendFileSync } from 'node:fs'
    withInstallLock(() => {
      appendFileSync(${JSON.stringify(join(dir, 'order'))}, '<')
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200)
      appendFileSync(${JSON.stringify(join(dir, 'order'))}, '>')
    }, ${JSON.stringify(lock)})`
  const run = (): Promise<number | null> =>
    new Promise((resolve) => spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: 'ignore' }).on('exit', resolve))
  // A process id that cannot be running.
  writeFileSync(lock, '4194305')
  expect(await Promise.all([run(), run(), run()])).toEqual([0, 0, 0])
  expect(readFileSync(join(dir, 'order'), 'utf8')).toBe('<><><>')
  expect(existsSync(lock)).toBe(false)
})

test('the lock is given back when the work fails', () => {
  const { dir } = temporary()
  const lock = join(dir, 'lock')
  const fail = () =>
    withInstallLock(() => {
      throw new Missing('no')
    }, lock)
  expect(fail).toThrow('no')
  expect(existsSync(lock)).toBe(false)
})

test('every package manager knows what to install for everything that can be missing', () => {
  for (const { packages } of packageManagers) {
    expect(packages.compiler).toContain('make')
    expect(packages.softhsm).toHaveLength(1)
    expect(packages.others.length).toBeGreaterThan(0)
  }
})

test('programs are found in the path, and what is not there is not', () => {
  expect(findProgram('sh')).toMatch(/\/sh$/)
  expect(findProgram('no-such-program-anywhere')).toBeUndefined()
})

test("Node's own headers are used only when they are of this version", () => {
  const prefix = ownHeaders()
  if (prefix === undefined) return
  const header = readFileSync(join(prefix, 'include/node/node_version.h'), 'utf8')
  expect(header).toContain(`#define NODE_MAJOR_VERSION ${process.versions.node.split('.')[0]}`)
})

describe('JavaScript of the sources', () => {
  function folderWithSources() {
    const files = temporary()
    for (const name of ['src/hsm', 'native-config', 'softhsm']) mkdirSync(join(files.dir, name), { recursive: true })
    files.write('src/main.ts', "import { told } from './hsm/inner.ts'\nexport const here: string = told + import.meta.url\n")
    files.write('src/hsm/inner.ts', "export const told: string = 'told at '\n")
    files.write('src/boot.mjs', 'export {}\n')
    files.write('native-config/p.json', '{}')
    files.write('package.json', '{"type":"module"}')
    return files
  }
  const built = async (folder: string): Promise<string> => {
    const dir = await buildOf(folder)
    if (dir === undefined) throw new Error('no build')
    return dir
  }

  test('is made once for each state of them, and has beside it what they have', async () => {
    const { dir } = folderWithSources()
    const [one, two] = await Promise.all([built(dir), built(dir)])
    expect(two).toBe(one)
    const { here } = (await import(pathToFileURL(join(one, 'src/main.js')).href)) as { readonly here: string }
    expect(here).toBe(`told at ${pathToFileURL(join(one, 'src/main.js')).href}`)
    for (const name of ['src/boot.mjs', 'native-config/p.json', 'softhsm', 'package.json']) expect(existsSync(join(one, name))).toBe(true)
    expect(readdirSync(join(dir, 'build'))).toHaveLength(1)
  })

  test('stays as long as a process uses it, and goes when another state is used', async () => {
    const files = folderWithSources()
    const first = await built(files.dir)
    files.write('src/hsm/inner.ts', "export const told: string = 'another '\n")
    const second = await built(files.dir)
    expect(second).not.toBe(first)
    const age = (name: string): void => utimesSync(name, 0, 0)
    for (const name of [first, second]) age(name)
    files.write('native-config/p.json', '{"a":1}')
    const third = await built(files.dir)
    expect(readdirSync(join(files.dir, 'build'))).toHaveLength(3)
    // The first is in use; who used the second has died, and so has who made a third by half.
    writeFileSync(join(first, 'users', String(process.pid)), '')
    rmSync(join(second, 'users', String(process.pid)))
    const { pid } = spawnSync('true')
    writeFileSync(join(second, 'users', String(pid)), '')
    mkdirSync(join(files.dir, 'build', `.making-${pid}-0a`))
    for (const name of [first, second, join(files.dir, 'build', `.making-${pid}-0a`)]) age(name)
    expect(await built(files.dir)).toBe(third)
    expect(readdirSync(join(files.dir, 'build')).sort()).toEqual([basename(first), basename(third)].sort())
  })
})

/** Runs the command of `npm run bench` in a copy that has these packages, with an npm that only notes what it is told and fails. */
function benchWith(installed: object | undefined): { readonly told: string; readonly err: string } {
  const files = temporary()
  const copy = join(files.dir, 'copy')
  for (const name of ['scripts', 'softhsm', 'package.json', 'package-lock.json'])
    cpSync(join(root, name), join(copy, name), { recursive: true })
  if (installed) {
    mkdirSync(join(copy, 'node_modules'))
    writeFileSync(join(copy, 'node_modules/.package-lock.json'), JSON.stringify({ packages: installed }))
  }
  const npm = files.write(
    'npm-cli.js',
    "require('node:fs').writeFileSync(__dirname + '/told', process.argv.slice(2).join(' ')); process.exit(1)",
  )
  const { scripts } = JSON.parse(readFileSync(join(copy, 'package.json'), 'utf8')) as { readonly scripts: { readonly bench: string } }
  const [program, ...words] = scripts.bench.split(' ')
  expect(program).toBe('node')
  const { stderr } = spawnSync(process.execPath, words, { cwd: copy, env: { ...process.env, npm_execpath: npm }, encoding: 'utf8' })
  return { told: readFileSync(join(files.dir, 'told'), 'utf8'), err: stderr }
}

test('the bench of a fresh clone installs all packages; where those for development were left out they stay so', () => {
  const fresh = benchWith(undefined)
  expect(fresh.told).toMatch(/^ci --include=dev /)
  expect(fresh.err).toContain('installing npm packages')
  const { packages: all } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    readonly packages: Readonly<Record<string, { readonly dev?: boolean }>>
  }
  const forProduction = Object.fromEntries(Object.entries(all).filter(([, { dev }]) => !dev))
  // Only the addons are looked at then, which are not there.
  expect(benchWith(forProduction).told).toMatch(/^rebuild /)
})
