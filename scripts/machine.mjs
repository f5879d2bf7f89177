/**
 * What Holdfast needs on a machine before its own code can run: Node's version, a compiler for two native addons, the
 * npm packages of the lockfile, SoftHSM2 where no other module is configured. Plain Node, no package needed.
 *
 * What is there is left alone. What is missing is installed: npm packages always, system packages when running as root;
 * otherwise the one command to run is printed. Installs by two processes at once, or ones that stopped half way, end well.
 *
 * By itself: `node scripts/machine.mjs` prepares a machine for running, `node scripts/machine.mjs tests` for everything
 * that the tests can use.
 */
import { spawnSync } from 'node:child_process'
import { accessSync, closeSync, constants, existsSync, linkSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { argv, env, execPath, exit, getuid, kill, pid, stderr, versions } from 'node:process'
import { fileURLToPath } from 'node:url'
import { findSoftHsm } from '../softhsm/find.mjs'

export const root = fileURLToPath(new URL('..', import.meta.url))
const oldestNode = 20

/** Something a person must do; printed without a stack. */
export class Missing extends Error {}

const say = (line) => stderr.write(`holdfast: ${line}\n`)

export function checkNode(version = versions.node) {
  if (Number.parseInt(version, 10) >= oldestNode) return
  throw new Missing(`Node ${oldestNode} or later is needed; this is ${version}.`)
}

/**
 * System packages by what they are for, as each package manager names them. `compiler` builds the native addons;
 * `others` are further tokens and clients and a browser, which tests use where they are.
 */
export const packageManagers = [
  {
    command: 'apt-get',
    refresh: ['update'],
    install: ['install', '-y', '--no-install-recommends'],
    packages: {
      compiler: ['make', 'g++', 'python3'],
      softhsm: ['softhsm2'],
      // openCryptoki and a TPM 2.0 in software as further tokens, the AWS CLI and boto3 as clients, a browser.
      others: [
        'opencryptoki',
        'swtpm',
        'swtpm-tools',
        'libtpm2-pkcs11-1',
        'libtpm2-pkcs11-tools',
        'tpm2-tools',
        'tpm2-abrmd',
        'libtss2-tcti-swtpm0',
        'libtss2-tcti-tabrmd0',
        'dbus',
        'awscli',
        'python3-boto3',
        // Opens the report of the bench.
        'chromium',
        'fonts-dejavu-core',
      ],
    },
  },
  {
    command: 'dnf',
    install: ['install', '-y'],
    packages: { compiler: ['make', 'gcc-c++', 'python3'], softhsm: ['softhsm'], others: ['opencryptoki', 'awscli2', 'python3-boto3'] },
  },
  {
    command: 'apk',
    install: ['add'],
    packages: { compiler: ['make', 'g++', 'python3'], softhsm: ['softhsm'], others: ['aws-cli', 'py3-boto3'] },
  },
  {
    command: 'pacman',
    install: ['-Sy', '--noconfirm', '--needed'],
    packages: { compiler: ['make', 'gcc', 'python'], softhsm: ['softhsm'], others: ['aws-cli', 'python-boto3'] },
  },
]

/** The full path of a program, or undefined. Daemons are found too, which an ordinary user's path leaves out. */
export function findProgram(name) {
  for (const folder of [...(env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']) {
    const path = join(folder, name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // Not here.
    }
  }
  return undefined
}

/** Installs what `purpose` needs, or throws Missing with the command to run. */
function installSystemPackages(purpose, why) {
  const manager = packageManagers.find(({ command }) => findProgram(command))
  if (!manager) throw new Missing(`${why}. Install it with this system's package manager.`)
  const names = manager.packages[purpose]
  if (getuid?.() !== 0) throw new Missing(`${why}. Run: sudo ${[manager.command, ...manager.install, ...names].join(' ')}`)
  say(`${why}: installing ${names.join(' ')}`)
  if (manager.refresh) run(manager.command, manager.refresh)
  run(manager.command, [...manager.install, ...names])
}

/** What installers print is no part of our output. */
const installing = { cwd: root, stdio: ['ignore', 2, 2] }

function run(command, args, options = {}) {
  const { status, signal, error } = spawnSync(command, args, {
    ...installing,
    ...options,
    env: { ...env, DEBIAN_FRONTEND: 'noninteractive', ...options.env },
  })
  if (status !== 0) throw new Missing(`"${command} ${args.join(' ')}" failed (${error?.message ?? signal ?? `exit code ${status}`}).`)
}

export function ensureCompiler() {
  const missing = [['make'], ['g++', 'c++', 'clang++'], ['python3']].filter((names) => !names.some(findProgram)).map(([name]) => name)
  if (missing.length > 0) installSystemPackages('compiler', `${missing.join(', ')} missing: needed to build the native addons`)
}

export function ensureSoftHsm() {
  if (findSoftHsm()) return
  installSystemPackages('softhsm', 'SoftHSM2 is not installed and no PKCS#11 module is configured (HOLDFAST_PKCS11_LIBRARY)')
  if (!findSoftHsm())
    throw new Missing('SoftHSM2 was installed but its module is in none of the usual places: name it in HOLDFAST_PKCS11_LIBRARY.')
}

/** Only the configuration knows whether a module is named. What is wrong with it, the command says better. */
export function usesSoftHsm(readConfig) {
  try {
    return readConfig().config.pkcs11.library === undefined
  } catch {
    return false
  }
}

/** Other tokens and clients. None is needed: a test that wants one says so and is skipped. */
export function ensureOtherTools() {
  const manager = packageManagers.find(({ command }) => findProgram(command))
  if (getuid?.() !== 0 || !manager) {
    say('not root: no further tokens and clients are installed; the tests that want them are skipped')
    return
  }
  say('installing further tokens and clients for tests')
  const attempt = (...args) =>
    spawnSync(manager.command, args, { ...installing, env: { ...env, DEBIAN_FRONTEND: 'noninteractive' } }).status === 0
  if (manager.refresh) attempt(...manager.refresh)
  const { others } = manager.packages
  if (attempt(...manager.install, ...others)) return
  // Not every distribution has all of them: then one by one.
  const lacking = others.filter((name) => !attempt(...manager.install, name))
  if (lacking.length > 0) say(`not to be had here: ${lacking.join(' ')}; the tests that want them are skipped`)
}

/**
 * The npm packages of the lockfile, with those for development if `dev`. Answers once they are whole and their native
 * parts load in this Node.
 */
export function ensureDependencies({ dev }) {
  if (lockfileInstalled(root, { dev }) && addonsLoad()) return
  withInstallLock(() => {
    if (!lockfileInstalled(root, { dev })) {
      ensureCompiler()
      say(`installing npm packages${dev ? ', those for development too' : ''} (once)`)
      npm(['ci', dev ? '--include=dev' : '--omit=dev', '--no-audit', '--no-fund'])
    }
    if (!addonsLoad()) {
      ensureCompiler()
      say(`building the native addons for Node ${versions.node}`)
      npm(['rebuild', ...addons])
      if (!addonsLoad()) throw new Missing(`The native addons ${addons.join(' and ')} do not load. Remove node_modules and start again.`)
    }
  })
}

/**
 * Whether every package of package-lock.json is installed in its version. npm writes `node_modules/.package-lock.json`
 * as the last step of an install, so one that stopped half way does not count.
 */
export function lockfileInstalled(folder, { dev }) {
  // Where npm installed Holdfast as a package, it has seen to what that needs, and left the lockfile out.
  if (!existsSync(join(folder, 'package-lock.json'))) return true
  let installed
  try {
    installed = JSON.parse(readFileSync(join(folder, 'node_modules/.package-lock.json'), 'utf8')).packages
  } catch {
    return false
  }
  const { packages } = JSON.parse(readFileSync(join(folder, 'package-lock.json'), 'utf8'))
  return Object.entries(packages).every(([path, wanted]) => {
    // Optional ones depend on the platform; npm chose.
    if (path === '' || wanted.optional || wanted.devOptional || (wanted.dev && !dev)) return true
    const found = installed[path]
    return found?.version === wanted.version && found.integrity === wanted.integrity
  })
}

const addons = ['better-sqlite3', 'pkcs11js']

/** Tried in a process of its own: an addon built for another Node can take its process with it. */
function addonsLoad() {
  const program = "const Database = require('better-sqlite3'); new Database(':memory:').close(); require('pkcs11js')"
  return spawnSync(execPath, ['-e', program], { cwd: root, stdio: 'ignore' }).status === 0
}

function npm(args) {
  const nodedir = ownHeaders()
  const options = { env: nodedir && !env.npm_config_nodedir ? { npm_config_nodedir: nodedir } : {} }
  // The npm that runs us, else the one beside this Node, else the first of the path.
  const cli = env.npm_execpath?.endsWith('npm-cli.js') ? env.npm_execpath : undefined
  if (cli) return run(execPath, [cli, ...args], options)
  const beside = join(dirname(execPath), 'npm')
  return run(existsSync(beside) ? beside : 'npm', args, options)
}

/** The prefix of this Node when its headers are installed there, so that building an addon downloads none. */
export function ownHeaders() {
  const prefix = dirname(dirname(execPath))
  try {
    const header = readFileSync(join(prefix, 'include/node/node_version.h'), 'utf8')
    const version = ['MAJOR', 'MINOR', 'PATCH'].map((part) => new RegExp(`#define NODE_${part}_VERSION (\\d+)`).exec(header)?.[1]).join('.')
    return version === versions.node ? prefix : undefined
  } catch {
    return undefined
  }
}

/** Runs `work` while no other process installs into this folder. A lock whose holder is gone is taken over. */
export function withInstallLock(work, lock = join(root, '.install.lock')) {
  let told = false
  while (!takeLock(lock)) {
    const holder = Number(readIfThere(lock))
    if (holder > 0 && !isRunning(holder)) {
      breakLock(lock, holder)
      continue
    }
    if (!told) say(`waiting for another install (process ${holder || 'unknown'}; ${lock})`)
    told = true
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300)
  }
  try {
    return work()
  } finally {
    rmSync(lock, { force: true })
  }
}

/** The file appears with its holder's process id in it, never empty. */
function takeLock(lock) {
  const beside = `${lock}.${pid}`
  writeFileSync(beside, String(pid))
  try {
    linkSync(beside, lock)
    return true
  } catch (error) {
    if (error.code !== 'EEXIST') throw error
    return false
  } finally {
    rmSync(beside, { force: true })
  }
}

/** One process at a time, which looks again: otherwise the second would remove the lock that the first has just taken. */
function breakLock(lock, deadHolder) {
  const guard = `${lock}.breaking`
  try {
    closeSync(openSync(guard, 'wx'))
  } catch (error) {
    if (error.code !== 'EEXIST') throw error
    // Breaking a lock takes no time: an old guard is of a process that died over it.
    const { mtimeMs } = statSync(guard, { throwIfNoEntry: false }) ?? { mtimeMs: 0 }
    if (Date.now() - mtimeMs > 10_000) rmSync(guard, { force: true })
    return
  }
  try {
    if (Number(readIfThere(lock)) === deadHolder) rmSync(lock, { force: true })
  } finally {
    rmSync(guard, { force: true })
  }
}

function readIfThere(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

export function isRunning(process) {
  try {
    kill(process, 0)
    return true
  } catch (error) {
    return error.code === 'EPERM'
  }
}

/** Runs `main`; a Missing is printed as one line, exit code 1. */
export async function orSayWhatIsMissing(main) {
  try {
    await main()
  } catch (error) {
    if (!(error instanceof Missing)) throw error
    say(error.message)
    exit(1)
  }
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  await orSayWhatIsMissing(() => {
    checkNode()
    const tests = argv[2] === 'tests'
    ensureSoftHsm()
    if (tests) {
      ensureCompiler()
      ensureOtherTools()
    }
    ensureDependencies({ dev: tests })
  })
}
