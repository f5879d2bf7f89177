/**
 * The service under test, two ways. `startHoldfast` runs the program as a process of its own, over real ports and a data directory
 * of its own, with a real SoftHSM2 token in it. `openInProcess` wires the same rooms here, so that a test can hold the clock.
 *
 * What was started ends with the test run at the latest; what was made is below the directory that `remove()` deletes.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { get as getPlainly } from 'node:http'
import { get as getOverTls } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { openTrail } from '../../src/audit/open.ts'
import { signRequest } from '../../src/auth/sigv4.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { silentLog, type Log } from '../../src/base/log.ts'
import { openMetrics } from '../../src/base/metrics.ts'
import { openCryptoPool } from '../../src/bulk/crypto-pool.ts'
import { parseCredentials } from '../../src/cli/credentials-file.ts'
import { openToken } from '../../src/hsm/client.ts'
import type { Token } from '../../src/hsm/token.ts'
import { openApp } from '../../src/http/app.ts'
import { openDoor } from '../../src/http/door.ts'
import { listen } from '../../src/http/server.ts'
import { standardBudget, type BudgetLimits } from '../../src/kms/budget.ts'
import { bootstrapAccount } from '../../src/kms/identity.ts'
import { apis } from '../../src/kms/operations/index.ts'
import type { AwsServices } from '../../src/kms/managed-keys.ts'
import { standardResources, type RequestRates, type ResourceQuotas } from '../../src/kms/quotas.ts'
import type { KeyStoreRooms } from '../../src/kms/connected-key-stores.ts'
import { openService, type Service } from '../../src/kms/service.ts'
import { ensureSystemKey } from '../../src/kms/system-keys.ts'
import { standardUsage } from '../../src/kms/usage.ts'
import { openStore } from '../../src/store/open.ts'
import type { Store } from '../../src/store/store.ts'
import { builtProgram } from '../programs.ts'
import { cleanEnvironment } from './environment.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'

export interface Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string
}

/** Where a service answers, whoever runs it. */
export interface Endpoint {
  readonly endpoint: string
  readonly region: string
  readonly accountId: string
  /** Of the account's root. */
  readonly credentials: Credentials
}

export interface Holdfast extends Endpoint {
  /** `/readyz` and `/metrics`. */
  readonly opsEndpoint: string
  /** The data directory. */
  readonly dir: string
  readonly pid: number
  /** Everything the process has written, standard output and error in order of arrival, all runs of it. */
  log(): string
  /** SIGKILL, and waits until the process is gone. */
  kill9(): Promise<void>
  /** SIGTERM; answers the exit code, null if it had to be killed. */
  stop(): Promise<number | null>
  /** Starts on the same data directory again; ends what still runs first. Ports and pid may be others then. */
  restart(options?: { readonly env?: Readonly<Record<string, string>> }): Promise<void>
  /** Ends the process and deletes the data directory. */
  remove(): Promise<void>
}

const startsWithinMs = 180_000
const stopsWithinMs = 90_000

const children = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
})

/** Both regions on one token: a second one costs every start some time, and few tests care. */
export const oneToken = (env: Readonly<Record<string, string>>): Record<string, string> =>
  env['HOLDFAST_REGIONS'] === undefined ? { HOLDFAST_REGION_TOKENS: 'eu-west-1=default' } : {}

/**
 * Starts `holdfast serve` and waits until it is ready.
 * @param options.env more settings, `HOLDFAST_…`
 * @param options.dir a data directory that exists; made if absent, and then deleted by `remove`
 * @throws with everything the process said, if it ends or is not ready within three minutes
 */
export async function startHoldfast(
  options: { readonly env?: Readonly<Record<string, string>>; readonly dir?: string } = {},
): Promise<Holdfast> {
  const madeHere = options.dir === undefined
  const root = options.dir ?? mkdtempSync(join(tmpdir(), 'holdfast-test-'))
  const dir = madeHere ? join(root, 'data') : root
  if (!madeHere) mkdirSync(dir, { recursive: true })
  let env = options.env ?? {}
  let said = ''
  let running = await launch(dir, env, (text) => (said += text))

  const end = async (signal: 'SIGKILL' | 'SIGTERM'): Promise<number | null> => {
    const { child, exited } = running
    if (child.exitCode !== null || child.signalCode !== null) return child.exitCode
    child.kill(signal)
    const killer = setTimeout(() => child.kill('SIGKILL'), stopsWithinMs)
    const code = await exited
    clearTimeout(killer)
    return code
  }
  return {
    get endpoint() {
      return running.url
    },
    get opsEndpoint() {
      return running.opsUrl
    },
    get pid() {
      return running.child.pid ?? 0
    },
    get credentials() {
      return readRootCredentials(dir)
    },
    get region() {
      return (env['HOLDFAST_REGIONS'] ?? 'us-east-1').split(',')[0] ?? ''
    },
    get accountId() {
      return env['HOLDFAST_ACCOUNT_ID'] ?? '111122223333'
    },
    dir,
    log: () => said,
    async kill9() {
      await end('SIGKILL')
    },
    stop: () => end('SIGTERM'),
    async restart(again = {}) {
      await end('SIGTERM')
      env = again.env ?? env
      running = await launch(dir, env, (text) => (said += text))
    },
    async remove() {
      await end('SIGTERM')
      rmSync(madeHere ? root : dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 })
    },
  }
}

function readRootCredentials(dir: string): Credentials {
  const profile = parseCredentials(readFileSync(join(dir, 'credentials'), 'utf8')).get('default')
  if (!profile) throw new Error(`${dir}/credentials has no profile "default"`)
  return profile
}

interface Launched {
  readonly child: ChildProcess
  readonly url: string
  readonly opsUrl: string
  readonly exited: Promise<number | null>
}

async function launch(dir: string, env: Readonly<Record<string, string>>, hear: (text: string) => void): Promise<Launched> {
  const announcement = join(dir, 'endpoint.json')
  // What a killed process left says where nobody answers any more.
  rmSync(announcement, { force: true })
  const child = spawn(process.execPath, [builtProgram('test/token/main-program.ts'), 'serve'], {
    env: {
      ...cleanEnvironment(),
      HOLDFAST_PORT: '0',
      HOLDFAST_OPS_PORT: '0',
      HOLDFAST_DATA_DIR: dir,
      ...oneToken(env),
      HOLDFAST_REQUEST_RATES: 'off',
      // By default that depends on the machine.
      HOLDFAST_PROCESSES: '1',
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.add(child)
  let said = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8')
    stream.on('data', (text: string) => {
      said += text
      hear(text)
    })
  }
  const exited = new Promise<number | null>((resolve) => {
    // 'close', not 'exit': what it said last is there then.
    child.once('close', (code) => {
      children.delete(child)
      resolve(code)
    })
  })
  const deadline = performance.now() + startsWithinMs
  for (;;) {
    if (child.exitCode !== null || child.signalCode !== null) {
      await exited
      throw new Error(`holdfast serve ended before it was ready:\n${said}`)
    }
    const at = existsSync(announcement) ? announced(announcement, child.pid) : undefined
    if (at && (await isReady(at.opsUrl))) return { child, exited, ...at }
    if (performance.now() > deadline) {
      child.kill('SIGKILL')
      throw new Error(`holdfast serve was not ready within ${startsWithinMs} ms:\n${said}`)
    }
    await sleep(50)
  }
}

/** The file is renamed into place, so that it is whole when it is there. */
function announced(file: string, pid: number | undefined): { readonly url: string; readonly opsUrl: string } | undefined {
  const found = JSON.parse(readFileSync(file, 'utf8')) as { readonly url: string; readonly opsUrl: string; readonly pid: number }
  return found.pid === pid ? found : undefined
}

/** Whose certificate answers is not the question here. */
function isReady(opsUrl: string): Promise<boolean> {
  return new Promise((resolve) => {
    const get = opsUrl.startsWith('https:') ? getOverTls : getPlainly
    const request = get(`${opsUrl}/readyz`, { rejectUnauthorized: false, agent: false }, (answer) => {
      answer.resume()
      resolve(answer.statusCode === 200)
    })
    request.on('error', () => resolve(false))
  })
}

export interface InProcess extends Endpoint {
  readonly service: Service
  readonly token: Token
  readonly store: Store
  readonly clock: ManualClock
  readonly dir: string
  close(): Promise<void>
}

/**
 * Opens the service in this process on a SoftHSM2 token of its own, with a clock that stands still until the test moves it. Lifecycle
 * rounds run when the test calls `service.runLifecycle()`: the timer's interval is a day.
 */
export async function openInProcess(
  options: {
    readonly clock?: ManualClock
    readonly budget?: BudgetLimits
    readonly log?: Log
    readonly regions?: readonly string[]
    readonly requestRates?: RequestRates
    readonly quotas?: ResourceQuotas
    readonly keyStoreRooms?: (rooms: { readonly clock: ManualClock }) => KeyStoreRooms
    readonly awsServices?: AwsServices
  } = {},
): Promise<InProcess> {
  const { clock = new ManualClock(), log = silentLog, regions = ['us-east-1', 'eu-west-1'] } = options
  const accountId = '111122223333'
  const lab: LabToken = await makeSoftHsmToken()
  const closers: (() => Promise<void>)[] = [() => lab.remove()]
  const close = async (): Promise<void> => {
    for (const closeOne of closers.splice(0).reverse()) await closeOne()
  }
  try {
    const metrics = openMetrics()
    const token = await openToken(
      {
        library: lab.library,
        tokenLabel: lab.label,
        pinFile: lab.pinFile,
        env: { ...cleanEnvironment(), ...lab.env },
        provision: true,
        startTimeoutMs: 180_000,
      },
      { log },
    )
    closers.push(() => token.close())
    const store = await openStore({ file: join(lab.dir, 'holdfast.db'), clock, log })
    closers.push(() => store.close())
    const auditKey = await ensureSystemKey({ token, store }, 'audit', 'signing')
    const trail = await openTrail({
      file: join(lab.dir, 'audit.db'),
      clock,
      log,
      sign: (digest) => token.sign(auditKey.ckaId, digest),
      publicKey: () => token.publicKey(auditKey.ckaId),
    })
    closers.push(() => trail.close())
    const offload = openCryptoPool()
    closers.push(() => offload.close())
    const config = {
      regions,
      accountId,
      lifecycleIntervalMs: 86_400_000,
      budget: options.budget ?? standardBudget,
      requestRates: options.requestRates ?? {},
      quotas: options.quotas ?? standardResources,
      awsServices: options.awsServices ?? {},
      usage: standardUsage,
    }
    const service = await openService({
      config,
      token,
      store,
      trail,
      offload,
      auditKey,
      clock,
      log,
      metrics,
      ...(options.keyStoreRooms && { keyStoreRooms: options.keyStoreRooms({ clock }) }),
    })
    closers.push(() => service.close())
    let credentials: Credentials | undefined
    await bootstrapAccount(service, async (made) => void (credentials = made))
    if (!credentials) throw new Error('a new store has no account')
    const door = openDoor({
      service,
      apis,
      clock,
      log,
      metrics,
      maxBodyBytes: 1_048_576,
      maxConcurrentCalls: 4096,
      otherwise: openApp(log),
    })
    const listener = await listen({
      name: 'test',
      host: '127.0.0.1',
      port: 0,
      tls: undefined,
      maxConnections: 1000,
      headersTimeoutMs: 10_000,
      requestTimeoutMs: 30_000,
      idleTimeoutMs: 120_000,
      drainTimeoutMs: 5_000,
      handle: (request, response) => door.handle(request, response),
      log,
    })
    closers.push(() => listener.close())
    return { endpoint: listener.url, region: regions[0] ?? '', accountId, credentials, service, token, store, clock, dir: lab.dir, close }
  } catch (error) {
    await close()
    throw error
  }
}

// ---- calls without an SDK ----

const targets = {
  kms: 'TrentService',
  holdfast: 'Holdfast',
  cloudtrail: 'com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101',
} as const

export interface RawAnswer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  /** The body as JSON; an empty object where it is none. */
  readonly json: Readonly<Record<string, unknown>>
}

/**
 * One signed AWS JSON 1.1 call. `body` as text is sent as it is; anything else is made JSON.
 * @param options.nowMs the signer's clock, for services whose clock is not the machine's
 */
export async function rawCall(
  at: Endpoint,
  api: keyof typeof targets,
  operation: string,
  body: unknown,
  options: { readonly credentials?: Credentials; readonly region?: string; readonly nowMs?: number } = {},
): Promise<RawAnswer> {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  const headers = signRequest({
    method: 'POST',
    url: `${at.endpoint}/`,
    headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amz-target': `${targets[api]}.${operation}` },
    body: text,
    service: api,
    region: options.region ?? at.region,
    credentials: options.credentials ?? at.credentials,
    timeMs: options.nowMs ?? Date.now(),
  })
  const answer = await fetch(`${at.endpoint}/`, { method: 'POST', headers, body: text })
  const answered = await answer.text()
  return { status: answer.status, headers: answer.headers, text: answered, json: readJson(answered) }
}

function readJson(text: string): Readonly<Record<string, unknown>> {
  try {
    return JSON.parse(text) as Readonly<Record<string, unknown>>
  } catch {
    return {}
  }
}

/** One of Holdfast's own operations. @throws with the answer if it is an error. */
export async function administer<T = Readonly<Record<string, unknown>>>(
  at: Endpoint,
  operation: string,
  input: Readonly<Record<string, unknown>> = {},
  options: { readonly credentials?: Credentials; readonly region?: string; readonly nowMs?: number } = {},
): Promise<T> {
  const answer = await rawCall(at, 'holdfast', operation, input, options)
  if (answer.status !== 200) throw new Error(`holdfast:${operation} answered ${answer.status} ${answer.text}`)
  return answer.json as T
}

/** Credentials of a new user that has these identity policies. */
export async function makeUser(
  at: Endpoint,
  name: string,
  policies: Readonly<Record<string, unknown>> = {},
  more: { readonly tags?: Readonly<Record<string, string>>; readonly path?: string; readonly credentials?: Credentials } = {},
): Promise<Credentials & { readonly arn: string }> {
  const by = more.credentials === undefined ? {} : { credentials: more.credentials }
  const tags = Object.entries(more.tags ?? {}).map(([Key, Value]) => ({ Key, Value }))
  const { User } = await administer<{ User: { Arn: string } }>(
    at,
    'CreateUser',
    { UserName: name, ...(more.path !== undefined && { Path: more.path }), ...(tags.length > 0 && { Tags: tags }) },
    by,
  )
  for (const [policyName, document] of Object.entries(policies)) {
    await administer(at, 'PutUserPolicy', { UserName: name, PolicyName: policyName, PolicyDocument: JSON.stringify(document) }, by)
  }
  return { ...(await makeAccessKey(at, { UserName: name }, by)), arn: User.Arn }
}

/** A further account with its root's credentials. */
export async function makeAccount(at: Endpoint, accountId: string): Promise<Credentials> {
  return credentialsIn(await administer<Made>(at, 'CreateAccount', { AccountId: accountId }))
}

interface Made {
  readonly AccessKey: { readonly AccessKeyId: string; readonly SecretAccessKey: string }
}
const credentialsIn = ({ AccessKey }: Made): Credentials => ({
  accessKeyId: AccessKey.AccessKeyId,
  secretAccessKey: AccessKey.SecretAccessKey,
})

async function makeAccessKey(
  at: Endpoint,
  input: Readonly<Record<string, unknown>>,
  by: { readonly credentials?: Credentials },
): Promise<Credentials> {
  return credentialsIn(await administer<Made>(at, 'CreateAccessKey', input, by))
}
