/**
 * Makes a SoftHSM2 token for development and tests: a directory of mode 0700 that holds SoftHSM's configuration, the
 * token itself, and the random user and SO PIN, each in a file of mode 0600.
 *
 * A token appears whole or not at all: it is made in a directory beside, flushed to disk, and renamed to its place.
 * What a crash left beside is cleared away the next time. A directory that is there is read and never written.
 *
 * Tokens between which keys are to be replicated are made each in a directory of its own, and then introduced to each other
 * by `trustTransportKeys`: on a real HSM that is the security officers' ceremony.
 *
 * Runs on plain Node, by itself too: `node softhsm/provision.mjs <directory> [label]`. The PKCS#11 calls are made in a
 * child process, which gets the PINs over its message channel: in a command line or an environment every user of the
 * machine could read them.
 */
import { fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { argv, env, stdout } from 'node:process'
import { fileURLToPath } from 'node:url'
import { findSoftHsm } from './find.mjs'
import { usableLabelIn } from './token-file.mjs'

export class ProvisionError extends Error {
  name = 'ProvisionError'
}

/** The files of a token directory. */
const files = (dir) => ({
  conf: join(dir, 'softhsm2.conf'),
  tokens: join(dir, 'tokens'),
  pin: join(dir, 'pin'),
  soPin: join(dir, 'so-pin'),
})

export async function provisionSoftHsm({ dir, label, library, make: mayMake = true }) {
  const home = resolve(dir)
  // SoftHSM reads its configuration line by line, takes `#` for a comment and trims blanks at the ends.
  if (/[\n\r#]/.test(home)) throw new ProvisionError(`SoftHSM cannot keep a token in a path with # or a line break: ${home}`)
  if (label.trim() !== label || label === '' || Buffer.byteLength(label) > 32) {
    throw new ProvisionError(`a token's label is 1 to 32 bytes without blanks at the ends, not "${label}"`)
  }
  if (!mayMake) {
    if (isEmpty(home)) throw new ProvisionError(`There is no SoftHSM2 token in ${home} yet: the service makes one when it starts.`)
  } else {
    clearUnfinished(home)
    if (isEmpty(home)) await make(home, label, library)
  }

  const { conf, tokens, pin, soPin } = files(home)
  const missing = [conf, tokens, pin, soPin].filter((path) => !existsSync(path))
  if (missing.length > 0) {
    throw new ProvisionError(
      `${home} is not a whole token: ${missing.map((path) => basename(path)).join(', ')} missing. ` +
        'Restore it from a backup; or, if no key in it is needed, move the directory away to have a new one made.',
    )
  }
  if (!readFileSync(conf, 'utf8').includes(`directories.tokendir = ${tokens}\n`)) {
    throw new ProvisionError(`${conf} names another place: this token was moved. Set directories.tokendir = ${tokens} in it.`)
  }
  // The library's word is asked for only where the files do not say yes: it looks at every object, and with many keys half of a start were this.
  const labels = labelsIn(tokens).includes(label) ? [label] : await tokenProcess({ action: 'list', library }, conf)
  if (!labels.includes(label)) {
    const held = labels.length === 0 ? 'no usable token' : `the token ${labels.map((name) => `"${name}"`).join(', ')}`
    throw new ProvisionError(`${home} holds ${held}, not "${label}". Correct the label, or choose another directory.`)
  }
  return { library, label, pinFile: pin, soPinFile: soPin, env: { SOFTHSM2_CONF: conf } }
}

export async function trustTransportKeys(tokens) {
  if (tokens.length < 2) return
  const run = (token, request) => tokenProcess({ library: token.library, label: token.label, ...request }, token.env.SOFTHSM2_CONF)
  const keys = await Promise.all(
    tokens.map(async (token) => ({
      label: token.label,
      ...(await run(token, { action: 'transport', pin: readFileSync(token.pinFile, 'utf8') })),
    })),
  )
  await Promise.all(
    tokens.map(async (token, index) => {
      const others = keys.filter((_, other) => other !== index)
      await run(token, { action: 'trust', soPin: readFileSync(token.soPinFile, 'utf8'), others })
      // What was made now, or by a process that died before it came here.
      flush(files(dirname(token.env.SOFTHSM2_CONF)).tokens)
    }),
  )
}

/** What the tokens in SoftHSM's directory are called, as far as their files can be read and say that a user can log in. */
function labelsIn(tokens) {
  try {
    return readdirSync(tokens).flatMap((name) => usableLabelIn(readFileSync(join(tokens, name, 'token.object'))) ?? [])
  } catch {
    // What is there is no token of SoftHSM's, or none that we can read: the library says what it is.
    return []
  }
}

/** Absent, or a directory with nothing in it, which a rename may replace. */
function isEmpty(dir) {
  return !existsSync(dir) || readdirSync(dir).length === 0
}

async function make(home, label, library) {
  mkdirSync(dirname(home), { recursive: true, mode: 0o700 })
  const unfinished = `${home}.making-${process.pid}-${randomBytes(4).toString('hex')}`
  try {
    const making = files(unfinished)
    mkdirSync(making.tokens, { recursive: true, mode: 0o700 })
    // Base64url of 24 bytes: 192 random bits in 32 characters, of the 4 to 255 that SoftHSM allows.
    const pin = randomBytes(24).toString('base64url')
    const soPin = randomBytes(24).toString('base64url')
    writeFileSync(making.pin, pin, { mode: 0o600 })
    writeFileSync(making.soPin, soPin, { mode: 0o600 })
    writeConf(making.conf, making.tokens)
    await tokenProcess({ action: 'make', library, label, pin, soPin }, making.conf)
    // From here on the token is to be found where it will stand.
    writeConf(making.conf, files(home).tokens)
    flush(unfinished)
    renameSync(unfinished, home)
    flushDirectory(dirname(home))
  } catch (error) {
    rmSync(unfinished, { recursive: true, force: true })
    // Another process was first: its token is as good.
    if ((error.code === 'ENOTEMPTY' || error.code === 'EEXIST') && existsSync(files(home).conf)) return
    throw error
  }
}

function writeConf(path, tokens) {
  const lines = [`directories.tokendir = ${tokens}`, 'objectstore.backend = file', 'log.level = ERROR', 'slots.removable = false']
  writeFileSync(path, `${lines.join('\n')}\n`, { mode: 0o600 })
}

/** Removes what a process that no longer runs left half made. */
function clearUnfinished(home) {
  const prefix = `${basename(home)}.making-`
  const parent = dirname(home)
  if (!existsSync(parent)) return
  for (const name of readdirSync(parent)) {
    if (!name.startsWith(prefix)) continue
    if (isRunning(Number.parseInt(name.slice(prefix.length), 10))) continue
    try {
      rmSync(join(parent, name), { recursive: true, force: true })
    } catch (error) {
      // The library's process can outlive the one that was killed, and writes on until its call returns: the next start clears it.
      if (error.code !== 'ENOTEMPTY') throw error
    }
  }
}

function isRunning(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === 'EPERM'
  }
}

/** A token whose files are only in the kernel's memory would be lost with the power, and the keys in it. */
function flush(dir) {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name)
    if (entry.isDirectory()) flush(path)
    else flushFile(path)
  }
  flushDirectory(dir)
}

function flushFile(path) {
  let file
  try {
    file = openSync(path, 'r+')
  } catch (error) {
    // A service at work with this token has destroyed the object meanwhile.
    if (error.code === 'ENOENT') return
    throw error
  }
  try {
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

function flushDirectory(path) {
  const directory = openSync(path, 'r')
  try {
    fsyncSync(directory)
  } finally {
    closeSync(directory)
  }
}

/** Runs one request in a process of its own, where a defect of the library can end nothing else. */
function tokenProcess(request, conf) {
  return new Promise((done, fail) => {
    const child = fork(fileURLToPath(new URL('token-process.mjs', import.meta.url)), [], {
      execArgv: [],
      // Nothing of ours but where the token is: the library needs no other secret or setting of this process.
      env: { PATH: env.PATH ?? '', SOFTHSM2_CONF: conf },
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    let answer
    child.once('message', (message) => {
      answer = message
    })
    child.once('error', fail)
    // 'close', not 'exit': the end of the process can be seen before the last message it sent has been read.
    child.once('close', (code, signal) => {
      if (answer?.result !== undefined) done(answer.result)
      else fail(new ProvisionError(`SoftHSM (${request.library}) failed: ${answer?.problem ?? `its process ended with ${signal ?? code}`}`))
    })
    child.send(request, (error) => {
      if (error !== null) fail(error)
    })
  })
}

if (argv[1] !== undefined && resolve(argv[1]) === fileURLToPath(import.meta.url)) {
  const [dir, label = 'holdfast'] = argv.slice(2)
  const library = findSoftHsm()
  if (dir === undefined || library === undefined) {
    console.error(
      dir === undefined ? 'usage: node softhsm/provision.mjs <directory> [label]' : 'SoftHSM2 is not installed: apt-get install softhsm2',
    )
    process.exitCode = 2
  } else {
    const token = await provisionSoftHsm({ dir, label, library })
    stdout.write(`${JSON.stringify(token, undefined, 2)}\n`)
  }
}
