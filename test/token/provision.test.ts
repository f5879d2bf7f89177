import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { findSoftHsm } from '../../softhsm/find.mjs'
import { provisionSoftHsm, type ProvisionedToken } from '../../softhsm/provision.mjs'
import { RawModule } from './raw-module.ts'

const root = mkdtempSync(join(tmpdir(), 'holdfast-provision-'))
let library: string
let dir: string
let count = 0

beforeAll(() => {
  const found = findSoftHsm()
  if (found === undefined) throw new Error('the tests need SoftHSM2; run: apt-get install -y --no-install-recommends softhsm2')
  library = found
})
beforeEach(() => {
  dir = join(root, String(++count), 'token')
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

const provision = (label = 'test'): Promise<ProvisionedToken> => provisionSoftHsm({ dir, label, library })

/** Every file and directory below a path with its bytes: what "untouched" means. (SoftHSM itself renews a file's time when it reads.) */
function everything(path: string): readonly string[] {
  return readdirSync(path, { recursive: true, encoding: 'utf8' })
    .sort()
    .map((name) => {
      const stat = statSync(join(path, name))
      const content = stat.isFile() ? readFileSync(join(path, name)).toString('hex') : ''
      return `${name} ${stat.mode.toString(8)} ${content}`
    })
}

test('who may not make a token is told that there is none, and nothing is written', async () => {
  await expect(provisionSoftHsm({ dir, label: 'test', library, make: false })).rejects.toThrow(`There is no SoftHSM2 token in ${dir} yet`)
  expect(existsSync(join(dir, '..'))).toBe(false)
  await provision()
  expect((await provisionSoftHsm({ dir, label: 'test', library, make: false })).label).toBe('test')
})

async function canLogIn(token: ProvisionedToken): Promise<boolean> {
  const module = new RawModule(token.library, token.env)
  try {
    return (await module.login(token.label, readFileSync(token.pinFile, 'utf8'))).length > 0
  } finally {
    await module.end()
  }
}

describe('a new token', () => {
  test('opens with the PIN in its file, and everything of it is its owner’s alone', async () => {
    const token = await provision()
    expect(token).toEqual({
      library,
      label: 'test',
      pinFile: join(dir, 'pin'),
      soPinFile: join(dir, 'so-pin'),
      env: { SOFTHSM2_CONF: join(dir, 'softhsm2.conf') },
    })
    expect(await canLogIn(token)).toBe(true)
    for (const name of ['.', ...readdirSync(dir, { recursive: true, encoding: 'utf8' })]) {
      const stat = statSync(join(dir, name))
      expect(`${name} ${(stat.mode & 0o777).toString(8)}`).toBe(`${name} ${stat.isDirectory() ? '700' : '600'}`)
    }
  })

  test('has random PINs of 192 bits that no other token has', async () => {
    const pins = []
    for (let made = 0; made < 3; made++) {
      dir = join(root, `random-${made}`)
      const token = await provision()
      pins.push(readFileSync(token.pinFile, 'utf8'), readFileSync(token.soPinFile, 'utf8'))
    }
    expect(new Set(pins).size).toBe(6)
    for (const pin of pins) expect(pin).toMatch(/^[\w-]{32}$/)
  })

  test('refuses a label or a path that SoftHSM would change', async () => {
    await expect(provision('x'.repeat(33))).rejects.toThrow('1 to 32 bytes')
    await expect(provision('ü'.repeat(17))).rejects.toThrow('1 to 32 bytes')
    await expect(provision(' x')).rejects.toThrow('without blanks')
    await expect(provisionSoftHsm({ dir: join(root, 'a#b'), label: 'x', library })).rejects.toThrow('a path with #')
  })

  test('is not made, and nothing is left behind, when the library cannot be loaded', async () => {
    await expect(provisionSoftHsm({ dir, label: 'x', library: '/nowhere/lib.so' })).rejects.toThrow('SoftHSM (/nowhere/lib.so) failed: ')
    expect(readdirSync(join(dir, '..'))).toEqual([])
  })
})

describe('an existing token', () => {
  test('is found and not touched', async () => {
    const first = await provision()
    const before = everything(dir)
    expect(await provision()).toEqual(first)
    expect(everything(dir)).toEqual(before)
  })

  test('with another label is refused, and not touched', async () => {
    await provision('one')
    const before = everything(dir)
    await expect(provision('two')).rejects.toThrow(`${dir} holds the token "one", not "two"`)
    expect(everything(dir)).toEqual(before)
  })

  test.each(['pin', 'so-pin', 'softhsm2.conf', 'tokens'])('that lost its %s is refused with what to do, never replaced', async (name) => {
    await provision()
    renameSync(join(dir, name), join(root, `kept-${name}`))
    const before = everything(dir)
    await expect(provision()).rejects.toThrow(`${dir} is not a whole token: ${name} missing. Restore it from a backup`)
    expect(everything(dir)).toEqual(before)
    rmSync(join(root, `kept-${name}`), { recursive: true })
  })

  test('that was moved is refused with the line to correct', async () => {
    await provision()
    const moved = `${dir}-moved`
    cpSync(dir, moved, { recursive: true })
    await expect(provisionSoftHsm({ dir: moved, label: 'test', library })).rejects.toThrow(
      `this token was moved. Set directories.tokendir = ${join(moved, 'tokens')}`,
    )
  })

  test('may be someone else’s directory with other things in it: that is left alone', async () => {
    mkdirSync(dir, { recursive: true })
    writeFileSync(join(dir, 'notes'), 'mine')
    await expect(provision()).rejects.toThrow('is not a whole token')
    expect(readdirSync(dir)).toEqual(['notes'])
  })
})

describe('a token half made', () => {
  test('by a process that was killed is cleared away and made anew', async () => {
    // The number of a process that ended.
    const { pid } = spawnSync('true')
    const left = `${dir}.making-${pid}-0a1b2c3d`
    mkdirSync(join(left, 'tokens'), { recursive: true })
    writeFileSync(join(left, 'pin'), 'half')
    const token = await provision()
    expect(existsSync(left)).toBe(false)
    expect(await canLogIn(token)).toBe(true)
  })

  test('by a process still at it is left to it', async () => {
    const working = `${dir}.making-${process.pid}-0a1b2c3d`
    mkdirSync(working, { recursive: true })
    await provision()
    expect(existsSync(working)).toBe(true)
  })

  test('leaves either no token or a whole one, wherever SIGKILL falls', async () => {
    const script = fileURLToPath(new URL('../../softhsm/provision.mjs', import.meta.url))
    for (const timeout of [60, 90, 120, 150, 180, 210, 240]) {
      dir = join(root, `killed-${timeout}`)
      spawnSync(process.execPath, [script, dir, 'test'], { timeout, killSignal: 'SIGKILL', stdio: 'ignore' })
      expect(await canLogIn(await provision())).toBe(true)
    }
  })

  test('is not seen when several processes make it at once: all get the same token', async () => {
    const made = await Promise.all([provision(), provision(), provision()])
    expect(new Set(made.map((token) => readFileSync(token.pinFile, 'utf8'))).size).toBe(1)
    expect(readdirSync(join(dir, '..'))).toEqual(['token'])
    expect(await canLogIn(await provision())).toBe(true)
  })
})
