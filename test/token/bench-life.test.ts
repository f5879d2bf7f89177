/** How a run of the bench ends before it is done: killed, told to stop, with a PIN that is refused, with nowhere to write. Nothing of it may be left. */

import { spawn, type ChildProcess } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Bench } from '../../src/bench/run.ts'
import { CKR } from '../../src/hsm/constants.ts'
import { canaryLabel } from '../../src/hsm/token.ts'
import { builtProgram } from '../programs.ts'
import { cleanEnvironment } from './environment.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { openLab } from './open.ts'
import { buildShim, FaultFile, shimEnv, type Fault } from './shim.ts'

let dir: string
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'holdfast-bench-life-'))
})
afterAll(() => rmSync(dir, { recursive: true, force: true, maxRetries: 5 }))

const running = new Set<ChildProcess>()
afterEach(() => {
  for (const child of running) child.kill('SIGKILL')
})

interface Ran {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly out: string
  readonly err: string
}

interface Running {
  readonly child: ChildProcess
  /** Resolves when it has said so, on either of its outputs. */
  said(what: RegExp): Promise<void>
  readonly ended: Promise<Ran>
}

function start(program: string, words: readonly string[], env: Readonly<Record<string, string>>): Running {
  const child = spawn(process.execPath, [builtProgram(program), ...words], {
    env: { ...cleanEnvironment(), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.add(child)
  let [out, err] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text))
  const ended = new Promise<Ran>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => {
      running.delete(child)
      resolve({ code, signal, out, err })
    })
  })
  return {
    child,
    ended,
    said: (what) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          if (what.test(`${out}\n${err}`)) resolve()
        }
        child.stdout.on('data', look)
        child.stderr.on('data', look)
        child.once('close', () => reject(new Error(`it ended and never said ${what}: ${out}\n${err}`)))
        look()
      }),
  }
}

const short = ['--seconds', '0.02']

/** A run that is short where it is not told to end. */
const bench = (words: readonly string[], env: Readonly<Record<string, string>>): Running =>
  start('test/token/main-program.ts', ['bench', '--quick', '--rounds', '1', '--connections', '4', ...words], env)

const onToken = (lab: LabToken, data: string): Record<string, string> => ({
  ...lab.env,
  HOLDFAST_DATA_DIR: data,
  HOLDFAST_PKCS11_LIBRARY: lab.library,
  HOLDFAST_PKCS11_TOKEN_LABEL: lab.label,
  HOLDFAST_PKCS11_PIN_FILE: lab.pinFile,
})

async function labelsOn(lab: LabToken): Promise<readonly string[]> {
  const token = await openLab(lab)
  try {
    return [...new Set((await token.allObjects()).map(({ label }) => label))]
  } finally {
    await token.close()
  }
}

const readRun = (output: string): Bench => JSON.parse(readFileSync(join(output, 'bench.json'), 'utf8')) as Bench

/** State and parent of a process; undefined when it has ended, whether or not anybody has asked how. */
function look(pid: number): { readonly parent: number } | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return state === 'Z' || state === 'X' ? undefined : { parent: Number(parent) }
  } catch {
    return undefined
  }
}

function startedBy(pid: number): readonly number[] {
  const all = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
  const children = all.filter((each) => look(each)?.parent === pid)
  return [...children, ...children.flatMap(startedBy)]
}

test('of a bench that is killed no process stays: not its services, in one process or in several, nor their agents', async () => {
  const data = join(dir, 'killed')
  mkdirSync(data)
  const parent = start('test/token/bench-parent.ts', [], { HOLDFAST_DATA_DIR: data, HOLDFAST_PORT: '0', HOLDFAST_OPS_PORT: '0' })
  await parent.said(/both serve/)
  const pids = startedBy(parent.child.pid ?? 0)
  // A service and its agent; a supervisor, two processes, and their agents.
  expect(pids.length).toBeGreaterThanOrEqual(7)
  parent.child.kill('SIGKILL')
  await parent.ended
  await expect.poll(() => pids.filter((pid) => look(pid) !== undefined), { timeout: 120_000 }).toEqual([])
})

describe('on a configured token', () => {
  let lab: LabToken
  beforeAll(async () => {
    lab = await makeSoftHsmToken({ label: 'bench-life' })
  })
  afterAll(() => lab.remove())

  test('Ctrl-C ends the part under way, keeps what was measured before, and takes away what was made', async () => {
    const signal = 'SIGINT'
    const [data, output] = [join(dir, 'data-told'), join(dir, 'out-told')]
    const run = bench(['--parts', 'token,service,growth', ...short, '--output', output], onToken(lab, data))
    await run.said(/ service · /)
    run.child.kill(signal)
    // Ctrl-C under npm arrives twice.
    run.child.kill(signal)
    const ended = await run.ended
    expect(ended).toMatchObject({ code: null, signal, err: expect.stringContaining('Stopping: ') })
    const failures = Object.fromEntries(readRun(output).parts.map(({ name, failure }) => [name, failure]))
    expect(failures).toEqual({ token: null, service: 'the run was told to stop', growth: 'the run was told to stop' })
    expect(ended.out).toContain(`Report: ${join(output, 'report.html')}`)
    expect(readdirSync(data)).toEqual([])
    expect(await labelsOn(lab)).toEqual([canaryLabel])
  })

  test('a run that is told to stop before it has measured a part leaves the report of another as it is', async () => {
    const [data, output] = [join(dir, 'data-early'), join(dir, 'out-early')]
    mkdirSync(output)
    writeFileSync(join(output, 'bench.json'), 'of another run')
    // A side that is measured for ten minutes does not end by itself.
    const run = bench(['--parts', 'token', '--seconds', '600', '--output', output], onToken(lab, data))
    await run.said(/ token · /)
    run.child.kill('SIGTERM')
    expect(await run.ended).toMatchObject({ signal: 'SIGTERM', out: expect.stringContaining('No part was measured') })
    expect(readFileSync(join(output, 'bench.json'), 'utf8')).toBe('of another run')
    expect(readdirSync(output)).toEqual(['bench.json'])
    expect(readdirSync(data)).toEqual([])
    expect(await labelsOn(lab)).toEqual([canaryLabel])
  })
})

const shim = buildShim()

describe.skipIf(shim === undefined)('on a token that begins to refuse the PIN', () => {
  let lab: LabToken
  beforeAll(async () => {
    lab = await makeSoftHsmToken({ label: 'bench-pin' })
  })
  afterAll(() => lab.remove())

  const refusal: Fault = { function: 'C_Login', rv: CKR.CKR_PIN_INCORRECT, count: 100 }

  test.each<readonly [string, string, readonly Fault[]]>([
    ['of a part that begins', 'token,service,xks,growth', [refusal]],
    // Its agent has to log in anew: the device has forgotten the first login.
    ['of a service under way', 'service,xks,growth', [refusal, { function: 'C_Encrypt', rv: 'logout' }]],
  ])('the run ends at a refused login %s, tries no other, and the next run takes away what it names', async (what, parts, faulty) => {
    const [data, output] = [join(dir, `data ${what}`), join(dir, `out ${what}`)]
    const faults = new FaultFile(lab.dir)
    const env = { ...onToken(lab, data), HOLDFAST_PKCS11_LIBRARY: shim ?? '', ...shimEnv({ module: lab.library, faults }) }
    const run = bench(['--parts', parts, ...short, '--json', '--output', output], env)
    await run.said(/ (?:token|service) · /)
    faults.set(...faulty)
    const { code, out, err } = await run.ended
    expect(code).toBe(1)
    expect(faults.left()[0]).toBe(99)
    const [left = ''] = readdirSync(data)
    expect(err).toContain('keys of this run are still in the token "bench-pin"')
    expect(err).toContain(join(data, left))
    const failures = (JSON.parse(out) as Bench).parts.map(({ failure }) => failure)
    expect(failures.slice(-3)).toEqual(failures.slice(-3).map(() => expect.stringContaining('CKR_PIN_INCORRECT')))
    faults.set()

    const next = await bench(['--parts', 'growth', ...short, '--output', output], env).ended
    expect(next.code, next.err).toBe(0)
    expect(readdirSync(data)).toEqual([])
    expect(await labelsOn(lab)).toEqual([canaryLabel])
  })
})

describe('where the report cannot be written', () => {
  test.each<readonly [string, (output: string) => void, string]>([
    ['is a file', (output) => writeFileSync(output, ''), 'it is a file, not a directory'],
    ['is below a file', (output) => writeFileSync(join(output, '..'), ''), 'part of the path is a file, not a directory'],
    [
      'has a directory named bench.json',
      (output) => mkdirSync(join(output, 'bench.json'), { recursive: true }),
      'it is a directory, not a file',
    ],
  ])('an --output that %s is refused before anything is measured', async (what, prepare, why) => {
    const data = join(dir, `data ${what}`)
    const output = join(dir, what, 'out')
    if (what === 'is a file') mkdirSync(join(output, '..'))
    prepare(output)
    const { code, err } = await bench(['--parts', 'growth', ...short, '--output', output], { HOLDFAST_DATA_DIR: data }).ended
    expect(code).toBe(1)
    expect(err).toMatch(new RegExp(`^The report cannot be written to .*: ${why}\\. Name another directory with --output\\.\n$`))
    expect(existsSync(data)).toBe(false)
  })

  test('what cannot be written in the end is printed nevertheless, and what was made is taken away', async () => {
    const [data, output] = [join(dir, 'data-late'), join(dir, 'out-late')]
    const run = bench(['--parts', 'token', ...short, '--output', output], { HOLDFAST_DATA_DIR: data })
    await run.said(/ token · /)
    mkdirSync(join(output, 'bench.json'))
    const { code, out, err } = await run.ended
    expect(code).toBe(1)
    expect(out).toMatch(/Data key, new and wrapped \(AES-GCM\) .*\d/)
    for (const told of [out, err]) expect(told).toContain('The report could not be written: it is a directory, not a file.')
    expect(readdirSync(data)).toEqual([])
  })
})
