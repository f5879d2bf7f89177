import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { findSoftHsm } from '../../softhsm/find.mjs'
import { provisionSoftHsm, trustTransportKeys, type ProvisionedToken } from '../../softhsm/provision.mjs'
import { usableLabelIn } from '../../softhsm/token-file.mjs'
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
afterAll(() => rmSync(root, { recursive: true, force: true, maxRetries: 20 }))

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

  test('is known by its own file: with many keys the library would take long to say the same', async () => {
    const token = await provision()
    expect(await provisionSoftHsm({ dir, label: 'test', library: '/nowhere/lib.so' })).toEqual({ ...token, library: '/nowhere/lib.so' })
  })

  test('beside what is no token is asked of the library, and not touched', async () => {
    const token = await provision()
    const beside = join(dir, 'tokens', 'lost+found')
    mkdirSync(beside)
    const before = everything(dir)
    expect(await provision()).toEqual(token)
    await expect(provisionSoftHsm({ dir, label: 'test', library: '/nowhere/lib.so' })).rejects.toThrow('SoftHSM (/nowhere/lib.so) failed: ')
    // The library puts a file of its own into every folder that it finds.
    expect(everything(dir)).toEqual(expect.arrayContaining([...before]))
  })

  test('says in its file what it is called, unless anything in there is not as it should be', async () => {
    await provision('übung 1')
    const [folder = ''] = readdirSync(join(dir, 'tokens'))
    const bytes = readFileSync(join(dir, 'tokens', folder, 'token.object'))
    expect(usableLabelIn(bytes)).toBe('übung 1')
    for (let length = 0; length < bytes.length; length++) expect(usableLabelIn(bytes.subarray(0, length))).toBeUndefined()
    const flagsAt = bytes.indexOf('000000008000534b0000000000000002', 0, 'hex') + 16
    const flags = bytes.readBigUInt64BE(flagsAt)
    for (const lacking of [0x8n, 0x400n]) {
      const without = Buffer.from(bytes)
      without.writeBigUInt64BE(flags & ~lacking, flagsAt)
      expect(usableLabelIn(without)).toBeUndefined()
    }
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 16 }), (more) => usableLabelIn(Buffer.concat([bytes, more])) === undefined),
    )
    fc.assert(fc.property(fc.uint8Array({ maxLength: 512 }), (any) => usableLabelIn(Buffer.from(any)) === undefined))
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

describe('tokens between which keys are replicated', () => {
  const labels = ['one', 'two', 'three']
  const provisionAll = (): Promise<ProvisionedToken[]> =>
    Promise.all(labels.map((label) => provisionSoftHsm({ dir: join(dir, label), label, library })))

  const CKA = {
    CLASS: 0,
    PRIVATE: 2,
    LABEL: 3,
    TRUSTED: 0x86,
    SENSITIVE: 0x103,
    WRAP: 0x106,
    UNWRAP: 0x107,
    MODULUS: 0x120,
    MODIFIABLE: 0x170,
  }
  const CKA_EXTRACTABLE = 0x162
  const CKA_WRAP_WITH_TRUSTED = 0x210
  const publicKey = 2
  const privateKey = 3
  const secretKey = 4

  /** The transport objects of a token, as its user sees them. */
  async function transportObjects(token: ProvisionedToken): Promise<readonly Record<string, string>[]> {
    const module = new RawModule(token.library, token.env)
    try {
      const session = await module.login(token.label, readFileSync(token.pinFile, 'utf8'))
      await module.call('C_FindObjectsInit', session, [])
      const objects = []
      for (const handle of await module.call<Buffer[]>('C_FindObjects', session, 100)) {
        const read = async (type: number): Promise<string> => {
          try {
            const [answer] = await module.call<{ value: Uint8Array }[]>('C_GetAttributeValue', session, handle, [{ type }])
            return Buffer.from(answer?.value ?? []).toString('hex')
          } catch {
            return 'none'
          }
        }
        objects.push({
          class: await read(CKA.CLASS),
          label: Buffer.from(await read(CKA.LABEL), 'hex').toString(),
          modulus: await read(CKA.MODULUS),
          private: await read(CKA.PRIVATE),
          trusted: await read(CKA.TRUSTED),
          sensitive: await read(CKA.SENSITIVE),
          extractable: await read(CKA_EXTRACTABLE),
          wrap: await read(CKA.WRAP),
          unwrap: await read(CKA.UNWRAP),
          wrapWithTrusted: await read(CKA_WRAP_WITH_TRUSTED),
          modifiable: await read(CKA.MODIFIABLE),
        })
      }
      return objects
    } finally {
      await module.end()
    }
  }

  const ofClass = (objects: readonly Record<string, string>[], number: number): readonly Record<string, string>[] =>
    objects.filter((object) => object['class']?.startsWith(`0${number}`))

  test('have each a transport key that never leaves, trust the others’ public halves, and nothing else', async () => {
    const tokens = await provisionAll()
    await trustTransportKeys(tokens)
    const all = await Promise.all(tokens.map(transportObjects))
    const modulus = all.map((objects) => ofClass(objects, privateKey)[0]?.['modulus'])
    expect(new Set(modulus).size).toBe(3)
    for (const [index, objects] of all.entries()) {
      expect(ofClass(objects, privateKey)).toMatchObject([
        { label: 'holdfast/transport', private: '01', sensitive: '01', extractable: '00', unwrap: '01', modifiable: '00' },
      ])
      const trusted = ofClass(objects, publicKey).filter((object) => object['trusted'] === '01')
      expect(new Set(trusted.map((object) => object['modulus']))).toEqual(new Set(modulus.filter((_, other) => other !== index)))
      for (const object of trusted) expect(object).toMatchObject({ private: '00', wrap: '01', modifiable: '00' })
      expect(ofClass(objects, secretKey)).toMatchObject([
        {
          label: 'holdfast/transport-kek',
          trusted: '01',
          sensitive: '01',
          extractable: '01',
          wrapWithTrusted: '01',
          wrap: '01',
          unwrap: '00',
          modifiable: '00',
        },
      ])
    }
  })

  test('are introduced once: again finds what is there, and a new token joins', async () => {
    const [one, two, three] = await provisionAll()
    if (one === undefined || two === undefined || three === undefined) throw new Error('three tokens')
    await trustTransportKeys([one])
    expect(await transportObjects(one)).toEqual([])
    await trustTransportKeys([one, two])
    // SoftHSM counts logins in the file of the token itself.
    const objects = (): readonly string[] => everything(join(dir, 'one')).filter((line) => !line.includes('/token.object '))
    const before = objects()
    await trustTransportKeys([one, two])
    expect(objects()).toEqual(before)
    await trustTransportKeys([two, three, one])
    expect((await transportObjects(one)).map((object) => object['label'] ?? '').sort((a, b) => a.localeCompare(b))).toEqual([
      'holdfast/transport',
      'holdfast/transport',
      'holdfast/transport of three',
      'holdfast/transport of two',
      'holdfast/transport-kek',
    ])
  })

  test('trust each other after the next start, wherever SIGKILL fell', async () => {
    const tokens = await provisionAll()
    const module = fileURLToPath(new URL('../../softhsm/provision.mjs', import.meta.url))
    const script = `import(${JSON.stringify(module)}).then((m) => m.trustTransportKeys(${JSON.stringify(tokens)}))`
    for (const timeout of [200, 450]) {
      spawnSync(process.execPath, ['-e', script], { timeout, killSignal: 'SIGKILL', stdio: 'ignore' })
    }
    await trustTransportKeys(tokens)
    const all = await Promise.all(tokens.map(transportObjects))
    for (const [index, objects] of all.entries()) {
      const trusted = new Set(ofClass(objects, publicKey).flatMap((object) => (object['trusted'] === '01' ? [object['modulus']] : [])))
      for (const [other, { label }] of tokens.entries()) {
        if (other === index) continue
        const held = ofClass(all[other] ?? [], privateKey).filter((object) => object['label'] === 'holdfast/transport')
        expect(
          held.some((object) => trusted.has(object['modulus'])),
          `${label} is trusted`,
        ).toBe(true)
      }
    }
  })
})
