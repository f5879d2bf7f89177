/**
 * The bench for real, as short as it can be: what it prints and writes, its figures against their schema, its report in a browser, and that it takes away what it
 * made in a token that is not its own.
 */

import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Ajv } from 'ajv'
import { chromium, type Browser, type Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Bench } from '../../src/bench/run.ts'
import { builtProgram } from '../programs.ts'
import { cleanEnvironment } from './environment.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { openLab } from './open.ts'

const schema = JSON.parse(readFileSync(new URL('../../docs/bench.schema.json', import.meta.url), 'utf8')) as object

/** The others have tests of their own. */
const measured = ['token', 'latency', 'service', 'xks', 'growth']

let dir: string
let output: string
let ran: Ran
let figures: Bench
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'holdfast-bench-'))
  output = join(dir, 'out')
  ran = await bench(['--quick', '--rounds', '1', '--seconds', '0.02', '--keys', '20', '--parts', measured.join(), '--output', output])
  figures = JSON.parse(readFileSync(join(output, 'bench.json'), 'utf8')) as Bench
}, 500_000)
afterAll(() => rmSync(dir, { recursive: true, force: true, maxRetries: 5 }))

interface Ran {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

/** `holdfast bench` in a process of its own, as it is in earnest. */
function bench(words: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [builtProgram('test/token/main-program.ts'), 'bench', ...words], {
      env: { ...cleanEnvironment(), HOLDFAST_DATA_DIR: join(dir, 'data'), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let [out, err] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text))
    child.once('error', reject)
    child.once('close', (code) => resolve({ code, out, err }))
  })
}

test('a run measures the parts that it is told, tells on its way what it does, and prints what matters most', () => {
  expect(figures.parts.flatMap(({ name, failure }) => (failure === null ? [] : [`${name}: ${failure}`]))).toEqual([])
  expect(ran).toMatchObject({ code: 0 })
  expect(ran.out).toMatch(/^Encrypt 32 B over HTTP: \d+\.\d\d of bare baseline$/m)
  expect(figures.parts.map(({ name }) => name)).toEqual(measured)
  for (const name of measured) expect(ran.err).toMatch(new RegExp(`^\\d+:\\d\\d ${name} · `, 'm'))
  expect(figures.machine.token).toMatchObject({ profile: 'softhsm2', wrapScheme: 'gcm-iv-in', sessions: 2 })
})

test('nothing is left of it in the data directory', () => {
  expect(readdirSync(join(dir, 'data'))).toEqual([])
})

test('its figures are as their schema says, and a change of them is not', () => {
  const ajv = new Ajv({ allErrors: true, allowUnionTypes: true })
  const holds = ajv.compile(schema)
  expect(holds(figures), JSON.stringify(holds.errors)).toBe(true)
  expect(holds({ ...figures, format: 'holdfast-bench/0' })).toBe(false)
  expect(
    holds({
      ...figures,
      parts: [{ ...figures.parts[0], figures: { x: { unit: 'ms', better: 'lower', rounds: [], median: 0, low: 0, high: 0 } } }],
    }),
  ).toBe(false)
})

test('a view shows only figures that its part has, and every figure has a number for every round', () => {
  for (const { figures: own, views, name } of figures.parts) {
    const shown = views.flatMap((view) => {
      if (view.kind === 'lines') return view.lines.flatMap(({ points }) => points.map(({ figure }) => figure))
      if (view.kind === 'bars') return view.groups.flatMap(({ bars }) => bars.map(({ figure }) => figure))
      return view.rows.flatMap((row) => row.flatMap((cell) => (typeof cell === 'string' ? [] : [cell.figure])))
    })
    expect(
      shown.filter((id) => !Object.hasOwn(own, id)),
      name,
    ).toEqual([])
    const torn = views.filter((view) => view.kind === 'table' && view.rows.some((row) => row.length !== view.columns.length))
    expect(torn, name).toEqual([])
    for (const [id, { rounds, median, low, high }] of Object.entries(own)) {
      expect(low <= median && median <= high, `${name} ${id}`).toBe(true)
      expect(rounds.length, `${name} ${id}`).toBeGreaterThan(0)
    }
  }
})

test('token and software are measured for every operation of a quick run, and what it leaves out is said', () => {
  const part = figures.parts.find(({ name }) => name === 'token')
  const operations = [
    'wrap-gcm',
    'unwrap-gcm',
    'gcm-4k',
    'hmac-256',
    'ecdsa-p256',
    'ecdsa-p384',
    'rsa-2048',
    'oaep-2048',
    'new-aes',
    'random-32',
    'random-32k',
  ]
  const wanted = operations.flatMap((id) =>
    ['1', 'most'].flatMap((callers) =>
      ['token', 'software'].flatMap((side) => ['throughput', 'p50', 'p99'].map((what) => `${id}/${callers}/${side}/${what}`)),
    ),
  )
  expect(
    wanted.filter((id) => !((part?.figures[id]?.median ?? 0) > 0)),
    part?.lacking.join('\n'),
  ).toEqual([])
  expect(part?.lacking.join()).toContain('RSA-4096, signature: takes too long for a quick run.')
  const { wrapSchemes } = figures.machine.token
  expect(part?.lacking).toContain(
    `Wrapping by ${wrapSchemes.filter((scheme) => scheme !== 'gcm-iv-in').join(' and ')}: a quick run measures only the scheme in use, gcm-iv-in.`,
  )
})

test('the latency model says at how many sessions the event loop was late, and knows no knee of two points', () => {
  const views = figures.parts.find(({ name }) => name === 'latency')?.views ?? []
  const tables = views.filter((view) => view.kind === 'table')
  expect(tables.map(({ columns }) => columns)).toEqual([['Latency of a call', '1 session', '8 sessions', 'Event loop, 8 sessions']])
})

test('token and service name rates that the machine alone decides, each of them a figure', () => {
  const controls = figures.parts.map(({ name, controls = [] }) => [name, controls] as const)
  expect(new Map(controls).get('service')).toContain('bare/64/throughput')
  expect(new Map(controls).get('token')).toEqual(
    expect.arrayContaining(['gcm-4k/1/software/throughput', 'gcm-4k/most/software/throughput']),
  )
  for (const { figures: own, controls: named = [] } of figures.parts) for (const id of named) expect(own[id]?.unit, id).toBe('calls/s')
})

test('a run beside itself differs in nothing', async () => {
  const file = join(output, 'bench.json')
  const { code, out } = await bench(['--compare', file, file])
  expect(code).toBe(0)
  expect(out).toMatch(/encrypt\/64\/throughput .* 1\.00×/)
  expect(out).not.toMatch(/They differ|better|worse/)
})

test('what is no run of the bench cannot be compared', async () => {
  const file = join(dir, 'other.json')
  writeFileSync(file, '{}')
  expect(await bench(['--compare', join(output, 'bench.json'), file])).toMatchObject({
    code: 1,
    err: expect.stringContaining('is not what holdfast bench writes'),
  })
})

describe('on a token that somebody else uses', () => {
  let lab: LabToken
  beforeAll(async () => {
    lab = await makeSoftHsmToken({ label: 'somebody' })
  })
  afterAll(() => lab.remove())

  test('it destroys what it made, and what a killed run left there, and touches nothing else', async () => {
    const data = join(dir, 'configured')
    const token = await openLab(lab)
    const key = (label: string) => ({ kind: 'wrapping' as const, ckaId: randomBytes(16).toString('hex'), label })
    const [theirs, left] = [key('kms/theirs/0'), key('holdfast/bench')]
    await token.generateKey(theirs)
    await token.generateKey(left)
    // What a run that was killed leaves: who it was, on which token, and which keys it was about to make there.
    const dead = join(data, 'bench-dead')
    mkdirSync(dead, { recursive: true })
    const { label, serial } = token.info()
    writeFileSync(join(dead, 'owner.json'), JSON.stringify({ pid: 2 ** 22 + 1, token: { library: lab.library, label, serial } }))
    writeFileSync(
      join(dead, 'keys'),
      `${JSON.stringify({ ckaId: left.ckaId, label: left.label })}\n${JSON.stringify({ ckaId: theirs.ckaId, label: 'another' })}\n{"ckaId":"hal`,
    )

    const { code, err } = await bench(
      [
        '--quick',
        '--rounds',
        '1',
        '--seconds',
        '0.01',
        '--connections',
        '4',
        '--parts',
        'service',
        '--output',
        join(dir, 'configured-out'),
      ],
      {
        HOLDFAST_DATA_DIR: data,
        HOLDFAST_PKCS11_LIBRARY: lab.library,
        HOLDFAST_PKCS11_TOKEN_LABEL: lab.label,
        HOLDFAST_PKCS11_PIN_FILE: lab.pinFile,
        SOFTHSM2_CONF: lab.env['SOFTHSM2_CONF'] ?? '',
      },
    )
    expect(code, err).toBe(0)
    const names = (await token.allObjects()).map((object) => `${object.ckaId} ${object.label}`)
    await token.close()
    expect(names.filter((name) => !name.endsWith(' holdfast/canary'))).toEqual([`${theirs.ckaId} ${theirs.label}`])
    expect(readdirSync(data)).toEqual([])
  })
})

function findBrowser(): string | undefined {
  for (const name of ['chromium', 'chromium-browser', 'google-chrome'])
    for (const folder of (process.env['PATH'] ?? '').split(delimiter)) if (existsSync(join(folder, name))) return join(folder, name)
  const message = 'no browser is here, so nobody looks at the report of the bench; run: apt-get install -y --no-install-recommends chromium'
  if (process.env['HOLDFAST_REQUIRE_CLIENTS'] === '1') throw new Error(message)
  console.warn(`\n*** SKIPPED: ${message} ***\n`)
  return undefined
}

const executablePath = findBrowser()

describe.skipIf(executablePath === undefined)('the report in a browser', () => {
  let browser: Browser
  beforeAll(async () => {
    // Its own sandbox needs rights that root in a container does not have; what is opened is our own file.
    browser = await chromium.launch({
      executablePath: executablePath ?? '',
      args: ['--no-sandbox', '--disable-dev-shm-usage'],
      timeout: 110_000,
    })
  })
  afterAll(() => browser.close())

  /** The report as a reader with this screen has it, with everything that went wrong on the way. */
  async function opened(width: number, colorScheme: 'light' | 'dark'): Promise<{ readonly page: Page; readonly said: readonly string[] }> {
    const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme })
    const said: string[] = []
    page.on('console', (message) => said.push(message.text()))
    page.on('pageerror', (error) => said.push(error.message))
    page.on('request', (request) => {
      if (!request.url().startsWith('file:') && !request.url().startsWith('data:')) said.push(`asked for ${request.url()}`)
    })
    await page.goto(pathToFileURL(join(output, 'report.html')).href)
    return { page, said }
  }

  test.each([1280, 400])('at %d px everything fits, every chart is drawn, and nothing is asked of anybody', async (width) => {
    const { page, said } = await opened(width, 'light')
    expect(said).toEqual([])
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBeLessThanOrEqual(width)
    const charts = figures.parts.flatMap(({ views }) => views.filter(({ kind }) => kind !== 'table'))
    const sizes = await page.evaluate<readonly { readonly width: number; readonly marks: number; readonly label: string }[]>(
      "[...document.querySelectorAll('svg')].map((svg) => ({ width: svg.getBoundingClientRect().width, marks: [...svg.querySelectorAll('rect, circle')].filter((mark) => mark.getBoundingClientRect().width > 0).length, label: svg.getAttribute('aria-label') }))",
    )
    expect(sizes).toHaveLength(charts.length)
    for (const { width: wide, marks, label } of sizes) {
      expect(wide, label).toBeGreaterThan(width / 2)
      expect(marks, label).toBeGreaterThan(0)
    }
    // No word of a chart leaves its screen, and none is too small to read.
    const words = await page.evaluate<
      readonly { readonly word: string; readonly left: number; readonly right: number; readonly size: number }[]
    >(
      "[...document.querySelectorAll('svg text')].map((text) => { const box = text.getBoundingClientRect(); return { word: text.textContent, left: box.left, right: box.right, size: parseFloat(getComputedStyle(text).fontSize) } })",
    )
    expect(words.filter(({ left, right, size }) => left < 0 || right > width || size < 11)).toEqual([])
    await page.close()
  })

  test('every number has a table with headings for its row and its column', async () => {
    const { page } = await opened(1280, 'light')
    const tables = figures.parts.flatMap(({ views }) => views.filter(({ kind }) => kind === 'table'))
    expect(await page.locator('table').count()).toBe(tables.length)
    expect(await page.locator('table:not(:has(thead th[scope=col]))').count()).toBe(0)
    expect(await page.locator('tbody tr:not(:has(> th[scope=row]))').count()).toBe(0)
    await page.close()
  })

  test('it is light or dark as its reader is, and ink stands out from paper in both', async () => {
    const brightness = async (scheme: 'light' | 'dark'): Promise<{ readonly paper: number; readonly ink: number }> => {
      const { page } = await opened(1280, scheme)
      const colours = await page.evaluate<readonly string[]>(
        "['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name])",
      )
      await page.close()
      const [paper = 0, ink = 0] = colours.map(
        (colour) => (colour.match(/\d+/g) ?? []).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 765,
      )
      return { paper, ink }
    }
    const [light, dark] = [await brightness('light'), await brightness('dark')]
    expect(light.paper - light.ink).toBeGreaterThan(0.7)
    expect(dark.ink - dark.paper).toBeGreaterThan(0.7)
  })
})
