/**
 * Throw-away tokens for tests: real PKCS#11 modules, never mocks. SoftHSM2 in a directory of its own; openCryptoki's
 * soft token, which has no AES-GCM; a software TPM, which cannot generate secret keys.
 *
 * On a machine without the packages a maker answers undefined and says so loudly; with HOLDFAST_REQUIRE_LAB=1 it throws.
 * What a maker started or changed on the machine, `remove()` ends and undoes. When a test run is killed the system ends
 * its daemons, and the next run clears away the token.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { findLibrary, readProfile } from '../../src/hsm/profile.ts'
import { findSoftHsm } from '../../softhsm/find.mjs'
import { provisionSoftHsm } from '../../softhsm/provision.mjs'

export interface LabToken {
  readonly library: string
  readonly label: string
  /** The user PIN, alone in the file. */
  readonly pinFile: string
  readonly soPinFile: string
  /** What a process that loads the library must find in its environment. */
  readonly env: Readonly<Record<string, string>>
  /** Scratch space that goes away with the token. */
  readonly dir: string
  remove(): Promise<void>
}

function missing(what: string, packages: string): undefined {
  const message = `${what} is not here, so nothing is tested against it; run: apt-get install -y --no-install-recommends ${packages}`
  if (process.env['HOLDFAST_REQUIRE_LAB'] === '1') throw new Error(message)
  console.warn(`\n*** SKIPPED: ${message} ***\n`)
  return undefined
}

function findProgram(name: string): string | undefined {
  const directories = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin']
  return directories.map((directory) => join(directory, name)).find((path) => existsSync(path))
}

async function until(what: string, isSo: () => boolean | Promise<boolean>, withinMs = 60_000): Promise<void> {
  const deadline = performance.now() + withinMs
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new Error(`waited ${withinMs} ms in vain for ${what}`)
    await sleep(50)
  }
}

/** Starts a daemon that the system ends when this process dies, however it dies (prctl PR_SET_PDEATHSIG). */
function startDaemon(program: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): ChildProcess {
  const setpriv = findProgram('setpriv')
  const guarded = setpriv === undefined ? [program, ...args] : [setpriv, '--pdeathsig', 'TERM', program, ...args]
  const [command = program, ...rest] = guarded
  return spawn(command, rest, { env, stdio: 'ignore' })
}

/** Ends a daemon that a maker started, and waits until it is gone. */
async function stop(daemon: ChildProcess): Promise<void> {
  if (daemon.exitCode !== null || daemon.signalCode !== null) return
  const gone = new Promise((resolve) => daemon.once('exit', resolve))
  daemon.kill('SIGTERM')
  const killer = setTimeout(() => daemon.kill('SIGKILL'), 20_000)
  await gone
  clearTimeout(killer)
}

const digits = (count: number): string => Array.from({ length: count }, () => randomInt(10)).join('')

/**
 * A SoftHSM2 token in a new directory. SoftHSM is the one module the tests cannot do without: without it this throws.
 */
export async function makeSoftHsmToken(options: { readonly label?: string } = {}): Promise<LabToken> {
  const library = findSoftHsm()
  if (library === undefined) throw new Error('the tests need SoftHSM2; run: apt-get install -y --no-install-recommends softhsm2')
  const dir = mkdtempSync(join(tmpdir(), 'holdfast-softhsm-'))
  const token = await provisionSoftHsm({ dir: join(dir, 'token'), label: options.label ?? 'holdfast-test', library })
  return {
    ...token,
    env: { ...token.env },
    dir,
    remove: async () => rmSync(dir, { recursive: true, force: true, maxRetries: 5 }),
  }
}

const openCryptokiState = '/var/lib/opencryptoki/swtok'
const openCryptokiLabel = 'holdfast-lab'
const openCryptokiLock = '/tmp/holdfast-lab-opencryptoki.pid'
/** The soft token's slot in the configuration that the packages install. */
const openCryptokiSlot = '3'

/**
 * openCryptoki's soft token. Its daemon and its token directory belong to the whole machine, so that one test run at a
 * time can have it, only root (or the group pkcs11) can use it, and a token that is not ours is left alone.
 */
export async function makeOpenCryptokiToken(): Promise<LabToken | undefined> {
  const library = findLibrary(readProfile('opencryptoki'))
  const daemonProgram = findProgram('pkcsslotd')
  const pkcsconf = findProgram('pkcsconf')
  if (library === undefined || daemonProgram === undefined || pkcsconf === undefined) return missing('openCryptoki', 'opencryptoki')
  if (process.getuid?.() !== 0) return missing('the right to use openCryptoki (run the tests as root)', 'opencryptoki')

  const release = await takeMachineLock(openCryptokiLock)
  let daemon: ChildProcess | undefined
  const dir = mkdtempSync(join(tmpdir(), 'holdfast-opencryptoki-'))
  const conf = (args: readonly string[], input = ''): string =>
    execFileSync(pkcsconf, args, { input, encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe'] })
  const tokenText = (): string => conf(['-t', '-c', openCryptokiSlot])
  const answers = (): boolean => {
    try {
      return tokenText().includes('Label')
    } catch {
      return false
    }
  }
  const isOurs = (): boolean => tokenText().includes(openCryptokiLabel)
  const isInitialized = (): boolean => /Flags:.*\bTOKEN_INITIALIZED\b/.test(tokenText())
  const startSlotDaemon = async (): Promise<ChildProcess> => {
    const started = startDaemon(daemonProgram, ['-f'])
    await until('pkcsslotd to answer', answers)
    return started
  }
  const undo = async (): Promise<void> => {
    if (daemon !== undefined) {
      await stop(daemon)
      wipeOpenCryptoki()
    }
    rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
    release()
  }

  try {
    // Debian's package does not make these; the daemon's own start script would.
    for (const path of [`${openCryptokiState}/TOK_OBJ`, '/run/lock/opencryptoki/swtok']) {
      execFileSync('install', ['-d', '-g', 'pkcs11', '-m', '0770', path])
    }
    if (!answers()) daemon = await startSlotDaemon()
    if (isInitialized()) {
      if (!isOurs()) {
        await undoDaemonOnly(daemon)
        rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
        release()
        return missing("a free soft token (openCryptoki's is in use on this machine and is left alone)", 'opencryptoki')
      }
      // Left by a run that was killed. Its PINs are lost, so the files go; the daemon must not hold them meanwhile.
      if (daemon === undefined) throw new Error('pkcsslotd runs with a token of a killed test run; stop pkcsslotd and try again')
      await stop(daemon)
      wipeOpenCryptoki()
      daemon = await startSlotDaemon()
    }
    // PINs have at most 8 characters here, and both must be changed once. They guard nothing but this test's token.
    const [soPin, firstPin, pin] = [digits(8), digits(8), digits(8)]
    conf(['-I', '-c', openCryptokiSlot, '-S', '87654321'], `${openCryptokiLabel}\n`)
    conf(['-P', '-c', openCryptokiSlot, '-S', '87654321', '-n', soPin])
    conf(['-u', '-c', openCryptokiSlot, '-S', soPin, '-n', firstPin])
    conf(['-p', '-c', openCryptokiSlot, '-U', firstPin, '-n', pin])
    const pinFile = join(dir, 'pin')
    const soPinFile = join(dir, 'so-pin')
    writeFileSync(pinFile, pin, { mode: 0o600 })
    writeFileSync(soPinFile, soPin, { mode: 0o600 })
    return { library, label: openCryptokiLabel, pinFile, soPinFile, env: {}, dir, remove: undo }
  } catch (error) {
    await undo()
    throw error
  }
}

async function undoDaemonOnly(daemon: ChildProcess | undefined): Promise<void> {
  if (daemon !== undefined) await stop(daemon)
}

/** Removes the token that this file made; only called once its label, or its maker, says that it is ours. */
function wipeOpenCryptoki(): void {
  for (const entry of readdirSync(openCryptokiState)) {
    if (entry === 'TOK_OBJ')
      for (const object of readdirSync(join(openCryptokiState, entry))) rmSync(join(openCryptokiState, entry, object))
    else rmSync(join(openCryptokiState, entry), { recursive: true, maxRetries: 5 })
  }
}

/** Waits a while for another test file or run to end; a lock whose process is gone is taken over. */
async function takeMachineLock(path: string): Promise<() => void> {
  const take = (): boolean => {
    try {
      writeFileSync(path, String(process.pid), { flag: 'wx', mode: 0o600 })
      return true
    } catch {
      const holder = Number(existsSync(path) ? readFileSync(path, 'utf8') : 0)
      if (holder > 0 && !existsSync(`/proc/${holder}`)) rmSync(path, { force: true })
      return false
    }
  }
  await until(`the test run that holds ${path} to end`, take, 240_000)
  return () => rmSync(path, { force: true })
}

/** Two neighbouring ports on the loopback address, as swtpm's TCTI wants: commands on the first, control on the next. */
async function freePortPair(): Promise<number> {
  const isFree = (port: number): Promise<boolean> =>
    new Promise((resolve) => {
      const server = createServer()
      server.once('error', () => resolve(false))
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
    })
  for (;;) {
    const port = randomInt(20_000, 60_000)
    if ((await isFree(port)) && (await isFree(port + 1))) return port
  }
}

const tpm2Packages =
  'swtpm swtpm-tools libtpm2-pkcs11-1 libtpm2-pkcs11-tools tpm2-tools tpm2-abrmd libtss2-tcti-swtpm0 libtss2-tcti-tabrmd0 dbus'

/**
 * tpm2-pkcs11 on a software TPM with a resource manager on a message bus of its own: three daemons, all in the token's
 * directory and on the loopback address, so that any number can run side by side. No root needed.
 */
export async function makeTpm2Token(): Promise<LabToken | undefined> {
  const library = findLibrary(readProfile('tpm2'))
  const [swtpm, dbus, abrmd, ptool] = ['swtpm', 'dbus-daemon', 'tpm2-abrmd', 'tpm2_ptool'].map(findProgram)
  if (library === undefined || swtpm === undefined || dbus === undefined || abrmd === undefined || ptool === undefined) {
    return missing('tpm2-pkcs11 with swtpm', tpm2Packages)
  }
  const dir = mkdtempSync(join(tmpdir(), 'holdfast-tpm2-'))
  const daemons: ChildProcess[] = []
  const remove = async (): Promise<void> => {
    for (const daemon of daemons.toReversed()) await stop(daemon)
    rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  }
  try {
    for (const name of ['state', 'store']) mkdirSync(join(dir, name), { mode: 0o700 })
    const socket = join(dir, 'bus.sock')
    writeFileSync(
      join(dir, 'bus.conf'),
      `<busconfig>
  <type>custom</type>
  <listen>unix:path=${socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
`,
    )
    const port = await freePortPair()
    const env = {
      DBUS_SESSION_BUS_ADDRESS: `unix:path=${socket}`,
      TPM2TOOLS_TCTI: 'tabrmd:bus_type=session',
      TPM2_PKCS11_TCTI: 'tabrmd:bus_type=session',
      TPM2_PKCS11_STORE: join(dir, 'store'),
      TPM2_PKCS11_LOG_LEVEL: '0',
    }
    const whole = { ...process.env, ...env }
    const start = (program: string, args: readonly string[]): void => {
      daemons.push(startDaemon(program, args, whole))
    }
    const listen = (port: number): string => `type=tcp,port=${port},bindaddr=127.0.0.1`
    start(swtpm, [
      'socket',
      '--tpm2',
      '--tpmstate',
      `dir=${join(dir, 'state')}`,
      '--server',
      listen(port),
      '--ctrl',
      listen(port + 1),
      '--flags',
      'not-need-init,startup-clear',
    ])
    start(dbus, [`--config-file=${join(dir, 'bus.conf')}`, '--nofork'])
    await until('the message bus', () => existsSync(socket))
    const isRoot = process.getuid?.() === 0
    // tpm2-pkcs11 keeps a context for every key it generated until its process ends; the default is 27.
    const rules = ['--session', '--flush-all', '--max-transients=100']
    start(abrmd, [...(isRoot ? ['--allow-root'] : []), ...rules, `--tcti=swtpm:host=127.0.0.1,port=${port}`])

    const run = (args: readonly string[]): void => {
      execFileSync(ptool, args, { env: whole, stdio: ['ignore', 'ignore', 'pipe'] })
    }
    // The first command that needs the resource manager waits for it to be on the bus.
    await until('tpm2_ptool init', () => {
      try {
        run(['init'])
        return true
      } catch {
        return false
      }
    })
    const [pin, soPin] = [digits(12), digits(12)]
    run(['addtoken', '--pid=1', '--label=holdfast-lab', `--sopin=${soPin}`, `--userpin=${pin}`])
    const pinFile = join(dir, 'pin')
    const soPinFile = join(dir, 'so-pin')
    writeFileSync(pinFile, pin, { mode: 0o600 })
    writeFileSync(soPinFile, soPin, { mode: 0o600 })
    return { library, label: 'holdfast-lab', pinFile, soPinFile, env, dir, remove }
  } catch (error) {
    await remove()
    throw error
  }
}
