/** The program as a process: how it starts, what it says, how signals end it, what it leaves behind. */

import { spawn, type ChildProcess } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as tlsConnect } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { rawConnection, rawRequest, selfSigned } from '../unit/http-fixture.ts'
import { cleanEnvironment } from './environment.ts'
import { oneToken } from './holdfast.ts'

const program = fileURLToPath(new URL('../../scripts/holdfast.mjs', import.meta.url))

interface Program {
  readonly child: ChildProcess
  out(): string
  err(): string
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>
  /** The event of that message in the log, once it is there. */
  event(message: string): Promise<Readonly<Record<string, unknown>>>
}

const started = new Set<ChildProcess>()
afterAll(() => {
  for (const child of started) child.kill('SIGKILL')
})

function start(words: readonly string[], dir: string, env: Readonly<Record<string, string>> = {}, detached = false): Program {
  const child = spawn(process.execPath, [program, ...words], {
    cwd: dir,
    env: {
      ...cleanEnvironment(),
      HOLDFAST_DATA_DIR: join(dir, 'data'),
      HOLDFAST_PORT: '0',
      HOLDFAST_OPS_PORT: '0',
      HOLDFAST_PROCESSES: '1',
      ...oneToken(env),
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached,
  })
  started.add(child)
  let out = ''
  let err = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text))
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) =>
    child.once('close', (code, signal) => {
      started.delete(child)
      resolve({ code, signal })
    }),
  )
  const find = (message: string) =>
    out
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as Readonly<Record<string, unknown>>)
      .find(({ msg }) => msg === message)
  return {
    child,
    out: () => out,
    err: () => err,
    ended,
    async event(message) {
      await expect.poll(() => find(message) !== undefined || child.exitCode !== null, { timeout: 60_000 }).toBe(true)
      const found = find(message)
      if (!found) throw new Error(`the program ended without saying ${JSON.stringify(message)}:\n${out}\n${err}`)
      return found
    },
  }
}

/** Runs a command to its end. */
async function run(words: readonly string[], dir: string, env: Readonly<Record<string, string>> = {}) {
  const command = start(words, dir, env)
  const { code } = await command.ended
  return { code, out: command.out(), err: command.err() }
}

const isRunning = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    // A process that has ended and that nobody has waited for is no longer running.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

/** The processes that a process started. */
const childrenOf = (pid: number): readonly number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter(
      (name) =>
        existsSync(`/proc/${name}/status`) && new RegExp(`^PPid:\\s+${pid}$`, 'm').test(readFileSync(`/proc/${name}/status`, 'utf8')),
    )
    .map(Number)

let dir: string
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'holdfast-serve-'))
})
afterAll(() => rmSync(dir, { recursive: true, force: true, maxRetries: 5 }))

describe('one data directory, from its first start on', () => {
  test('the first start makes everything, for the owner only, and says how to use it', async () => {
    const service = start(['serve'], dir)
    const { url, opsUrl } = await service.event('ready')
    const data = join(dir, 'data')
    expect(JSON.parse(readFileSync(join(data, 'endpoint.json'), 'utf8'))).toEqual({ url, opsUrl, pid: service.child.pid })
    expect(service.err()).toContain(
      `AWS_SHARED_CREDENTIALS_FILE=data/credentials aws --endpoint-url ${String(url)} --region us-east-1 kms create-key`,
    )
    expect(statSync(data).mode & 0o777).toBe(0o700)
    for (const file of ['credentials', 'holdfast.db', 'audit.db', 'softhsm/pin', 'softhsm/so-pin'])
      expect(statSync(join(data, file)).mode & 0o777, file).toBe(0o600)
    const secret = /aws_secret_access_key = (\S+)/.exec(readFileSync(join(data, 'credentials'), 'utf8'))?.[1] ?? ''
    expect(secret).toHaveLength(40)
    for (const kept of [secret, readFileSync(join(data, 'softhsm/pin'), 'utf8')]) expect(service.out() + service.err()).not.toContain(kept)

    expect((await fetch(`${String(url)}/healthz`)).status).toBe(200)
    expect(await (await fetch(`${String(opsUrl)}/readyz`)).json()).toMatchObject({
      ready: true,
      checks: { token: { ok: true }, store: { ok: true } },
    })
    const metrics = await (await fetch(`${String(opsUrl)}/metrics`)).text()
    for (const name of [
      'holdfast_token_up{token="default"} 1',
      'holdfast_token_queue',
      'holdfast_token_sessions',
      'holdfast_token_respawns_total',
      'holdfast_token_calls_total{token="default",operation="check"}',
      'holdfast_audit_pending',
      'holdfast_audit_unsealed',
      'holdfast_gcm_budget_share',
      'holdfast_gcm_rotations_total 0',
      'nodejs_eventloop_lag_p99_seconds',
    ])
      expect(metrics).toContain(name)

    service.child.kill('SIGTERM')
    expect(await service.ended).toEqual({ code: 0, signal: null })
    expect(service.out()).toContain('"msg":"stopped"')
    expect(existsSync(join(data, 'endpoint.json'))).toBe(false)
  })

  test('a second start finds all of it, and the administrative commands work on it', async () => {
    const before = readFileSync(join(dir, 'data/credentials'), 'utf8')
    const service = start(['serve'], dir)
    await service.event('ready')
    expect(readFileSync(join(dir, 'data/credentials'), 'utf8')).toBe(before)
    expect(service.out()).not.toContain('the account was made')

    expect(await run(['user', 'create', 'ann', '--json'], dir)).toMatchObject({
      code: 0,
      out: expect.stringContaining('"arn:aws:iam::111122223333:user/ann"'),
    })
    expect(await run(['access-key', 'create', '--user', 'ann', '--save-profile', 'ann'], dir)).toMatchObject({ code: 0 })
    expect(await run(['user', 'list'], dir, { AWS_PROFILE: 'ann' })).toMatchObject({
      code: 1,
      err: expect.stringMatching(/^AccessDeniedException: .*user\/ann is not authorized to perform: holdfast:ListUsers/),
    })
    expect(
      await run(
        [
          'policy',
          'put',
          'admin',
          '--user',
          'ann',
          '--document',
          '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"holdfast:List*","Resource":"*"}]}',
        ],
        dir,
      ),
    ).toMatchObject({ code: 0 })
    expect(await run(['user', 'list'], dir, { AWS_PROFILE: 'ann' })).toMatchObject({ code: 0, out: expect.stringContaining('user/ann') })

    const doctor = await run(['doctor', '--json'], dir)
    expect(doctor.code).toBe(0)
    expect(JSON.parse(doctor.out)).toMatchObject({
      inventory: { keysWithoutObjects: [], keysWithHalfTheirObjects: [], objectsWithoutKeys: [], leftovers: [] },
      problems: [],
      processes: { count: 1, why: expect.any(String) },
    })

    service.child.kill('SIGINT')
    expect(await service.ended).toMatchObject({ code: 0 })
    const verified = await run(['audit', 'verify'], dir)
    expect(verified).toMatchObject({ code: 0, out: expect.stringContaining('The trail is intact.') })
    expect((await run(['audit', 'export'], dir)).out).toContain('"eventName":"PutUserPolicy"')
  })

  test('a signal that arrives twice at once drains; one that comes later ends the process', async () => {
    const service = start(['serve'], dir)
    const { url } = await service.event('ready')
    // A call that has not arrived whole keeps the drain waiting.
    const slow = await rawConnection(Number(new URL(String(url)).port))
    slow.send('POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: TrentService.ListKeys\r\nContent-Length: 10\r\n\r\n{')
    await expect.poll(async () => (await fetch(`${String(url)}/healthz`)).status).toBe(200)
    service.child.kill('SIGINT')
    service.child.kill('SIGINT')
    await service.event('stopping: calls under way are finished')
    await new Promise((resolve) => setTimeout(resolve, 1200))
    expect(service.child.exitCode).toBeNull()
    service.child.kill('SIGINT')
    expect(await service.ended).toMatchObject({ code: 1 })
    slow.socket.destroy()
  })

  test('a service that is killed leaves no agent, and starts again on what it left', async () => {
    const service = start(['serve'], dir)
    await service.event('ready')
    const children = childrenOf(service.child.pid ?? 0)
    expect(children.length).toBeGreaterThan(0)
    service.child.kill('SIGKILL')
    await service.ended
    await expect.poll(() => children.filter(isRunning), { timeout: 30_000 }).toEqual([])
    const again = start(['serve'], dir)
    await again.event('ready')
    again.child.kill('SIGTERM')
    expect(await again.ended).toMatchObject({ code: 0 })
  })

  test('another service on the same port is told what to do, and the first one goes on', async () => {
    const service = start(['serve'], dir)
    const { url } = await service.event('ready')
    const second = await run(['serve'], dir, { HOLDFAST_PORT: new URL(String(url)).port })
    expect(second).toMatchObject({ code: 1, err: expect.stringMatching(/is in use: stop what listens there, or set HOLDFAST_PORT/) })
    expect((await fetch(`${String(url)}/healthz`)).status).toBe(200)
    expect(JSON.parse(readFileSync(join(dir, 'data/endpoint.json'), 'utf8'))).toMatchObject({ url })
    service.child.kill('SIGTERM')
    expect(await service.ended).toMatchObject({ code: 0 })
  })
})

test('SIGHUP brings a new certificate to new connections, and open ones go on', async () => {
  const files = mkdtempSync(join(tmpdir(), 'holdfast-tls-'))
  onTestFinished(() => rmSync(files, { recursive: true, force: true, maxRetries: 5 }))
  const [old, renewed] = [selfSigned('old'), selfSigned('renewed')]
  const [certFile, keyFile] = [join(files, 'cert.pem'), join(files, 'key.pem')]
  const install = ({ cert, key }: { readonly cert: string; readonly key: string }): void => {
    writeFileSync(certFile, cert)
    writeFileSync(keyFile, key, { mode: 0o600 })
  }
  install(old)
  const service = start(['serve'], dir, { HOLDFAST_TLS_CERT: certFile, HOLDFAST_TLS_KEY: keyFile })
  const { url } = await service.event('ready')
  const port = Number(new URL(String(url)).port)
  expect(service.err()).toContain(
    `AWS_CA_BUNDLE=${certFile} AWS_SHARED_CREDENTIALS_FILE=data/credentials aws --endpoint-url https://127.0.0.1:${port} `,
  )

  const open = tlsConnect({ host: '127.0.0.1', port, ca: old.cert })
  let received = ''
  open.setEncoding('latin1').on('data', (text: string) => (received += text))
  open.write(rawRequest('ListKeys', '{}'))
  await expect.poll(() => received).toContain('MissingAuthenticationTokenException')

  install(renewed)
  service.child.kill('SIGHUP')
  await service.event('the certificate was read again')
  await new Promise<void>((resolve, reject) => {
    const fresh = tlsConnect({ host: '127.0.0.1', port, ca: renewed.cert }, () => {
      fresh.destroy()
      resolve()
    })
    fresh.on('error', reject)
  })
  received = ''
  open.write(rawRequest('ListKeys', '{}'))
  await expect.poll(() => received).toContain('MissingAuthenticationTokenException')
  open.destroy()
  expect(await run(['user', 'list'], dir, { HOLDFAST_TLS_CERT: certFile, HOLDFAST_TLS_KEY: keyFile })).toMatchObject({ code: 0 })
  service.child.kill('SIGTERM')
  expect(await service.ended).toMatchObject({ code: 0 })
})

test('a configuration that is wrong is told whole, and nothing is made', async () => {
  const empty = mkdtempSync(join(tmpdir(), 'holdfast-empty-'))
  onTestFinished(() => rmSync(empty, { recursive: true, force: true, maxRetries: 5 }))
  const { code, out, err } = await run(['serve'], empty, { HOLDFAST_HOST: '0.0.0.0', HOLDFAST_ACCOUNT_ID: 'x' })
  expect(code).toBe(1)
  expect(err).toMatch(/The configuration has 2 problems:/)
  expect(out).toBe('')
  expect(readdirSync(empty)).toEqual([])
})
