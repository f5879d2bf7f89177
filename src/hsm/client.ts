/**
 * A token as the service uses it: keeps one agent process alive, and talks to its worker threads (see `calls.ts`).
 *
 * A call never hangs. It ends by an answer, by its deadline, or by the death of the agent. The one call a worker is busy
 * with decides: if it outlives its deadline, the device hangs, and the agent is killed and another started, after
 * 0.25 s and then twice as long each time up to 30 s. Without an agent that is ready, calls are refused at once.
 *
 * A token that does not show a key gets one new agent before the key is called missing: on SoftHSM 2.6.1 a process may
 * never see what another one generated at the same time. The new agent is made ready first, so that other calls go on.
 *
 * After a refused PIN there is no agent and there will be none: see `health`.
 */
import { fork, type ChildProcess } from 'node:child_process'
import type { Socket } from 'node:net'
import type { Log } from '../base/log.ts'
import { loaderFlags, programOf } from '../base/program.ts'
import { Calls, newLane, Received, type Answered, type Crew, type Lane, type Owner } from './calls.ts'
import { PrefetchedRandom } from './prefetched.ts'
import {
  TokenError,
  wrapSchemes,
  type Capabilities,
  type ImportAlgorithm,
  type Imported,
  type MacAlgorithm,
  type OaepAlgorithm,
  type SigningAlgorithm,
  type Token,
  type TokenHealth,
  type TokenInfo,
  type TokenKeyKind,
  type TokenObject,
  type WrapScheme,
} from './token.ts'
import {
  keyKindNumbers,
  macNumbers,
  oaepNumbers,
  signatureNumbers,
  signingNumbers,
  type AgentConfig,
  type FromAgent,
  type Operation,
  type ToAgent,
} from './wire.ts'
import { findScheme, maxAadBytes, maxBodyBytes, maxPlaintextBytes, maxWrapBytes } from './wrap.ts'

export interface TokenConfig {
  /** Absolute path of the PKCS#11 module. */
  readonly library: string
  /** A profile of native-config/; by default the one that fits the token's own description. */
  readonly profile?: string
  readonly tokenLabel: string
  /** Needed where several tokens have one label. */
  readonly tokenSerial?: string
  /** Its first line is the user PIN; not readable by everyone. */
  readonly pinFile?: string
  /** The PIN itself, for a token without a PIN file. Stays in this process's memory, since every new agent logs in. */
  readonly pin?: string
  /** Worker threads, each with a session; by default as many as the profile says. */
  readonly sessions?: number
  /** The environment of the agent process, complete: it inherits nothing of the service's. */
  readonly env?: Readonly<Record<string, string>>
  /** Calls that may wait or be under way; one more is refused as `busy`. Default 2048. */
  readonly queueLimit?: number
  /** Default 10,000. Key generation and listings have 60,000. */
  readonly deadlineMs?: number
  /** It may be out of reach when it is opened: `openToken` then answers a token that goes on trying, whatever the reason. */
  readonly mayBeDown?: boolean
  /** How long `openToken` tries. Default 30,000. */
  readonly startTimeoutMs?: number
  /** The canary key may be made if the token has none. */
  readonly provision: boolean
}

export type TokenLog = Pick<Log, 'info' | 'warn' | 'error'>

/**
 * An agent that served for `forgottenAfterMs` was sound, and the next failure is a first one. One that at least became
 * ready proves that the token is there: its successors do not wait longer than 250 ms twice doubled.
 */
const backOff = { firstMs: 250, longestMs: 30_000, forgottenAfterMs: 10_000, doublingsWhenReady: 2 }

const slowDeadlineMs = 60_000
const slowOperations: ReadonlySet<Operation> = new Set<Operation>([
  'generateKey',
  'importKey',
  'adoptKey',
  'destroyKey',
  'allObjects',
  'objects',
])

/** Sockets made for an agent: at most as many workers as it can have. */
const defaultSockets = 16

/** A key that a new agent did not see either is not looked for by yet another agent within this time. */
const missingForgottenMs = 600_000
const maxMissingRemembered = 10_000

/** The longest key material: PKCS#8 of RSA-4096, wrapped, behind an RSA ciphertext. AWS takes 6144 bytes. */
const maxWrappedBytes = 6144

const nothing = Buffer.alloc(0)

type AgentState = 'starting' | 'ready' | 'draining' | 'ended'

class AgentProcess implements Crew {
  readonly child: ChildProcess
  readonly lanes: Lane[]
  readonly answers: Socket
  readonly received = new Received()
  readonly startedAt = performance.now()
  state: AgentState = 'starting'
  failure: Extract<FromAgent, { type: 'failed' }> | undefined
  constructor(child: ChildProcess, lanes: Lane[]) {
    this.child = child
    this.lanes = lanes
    // Node's own types know no descriptor beyond the fifth.
    this.answers = (child.stdio as readonly unknown[])[answersDescriptor] as Socket
  }
  get sessions(): number {
    return this.lanes.filter((lane) => lane.open).length
  }
}

const agentProgram = programOf(new URL('agent.ts', import.meta.url))
const lifelineDescriptor = 4
const answersDescriptor = 5
const firstSocket = 6

/**
 * Starts the agent, logs in, proves the token.
 *
 * @throws TokenError `unavailable` when the token cannot be used: its message says what to do. A refused PIN has been
 *   tried once and has code `CKR_PIN_…`.
 */
export async function openToken(config: TokenConfig, deps: { readonly log: TokenLog; readonly selfTest?: SelfTestMemory }): Promise<Token> {
  const client = new TokenClient(config, deps.log, deps.selfTest)
  try {
    await client.start()
  } catch (error) {
    if (!config.mayBeDown) {
      await client.close()
      throw error
    }
    deps.log.error({ token: config.tokenLabel, err: error }, 'a token is out of reach: the keys in it are unavailable until it is back')
  }
  return client
}

/**
 * Where the outcome of the self-test is kept for the next process on the very same token. The service keeps none: each of its starts makes the
 * self-test anew. It is for who starts a hundred processes on one token.
 */
export interface SelfTestMemory {
  readonly recall: () => unknown
  readonly keep: (proof: unknown) => void
}

class TokenClient implements Token {
  readonly #config: TokenConfig
  readonly #log: TokenLog
  readonly #deadlineMs: number

  /** The agent that new calls go to. */
  #agent: AgentProcess | undefined
  /** Its successor while it is being made ready; the current one goes on meanwhile, if there is one. */
  #successor: AgentProcess | undefined
  readonly #draining = new Set<AgentProcess>()
  #env: Record<string, string> = {}
  #proof: unknown
  readonly #selfTest: SelfTestMemory | undefined
  #info: TokenInfo | undefined
  #capabilities: Capabilities | undefined

  #stopped: { readonly message: string; readonly code: string | undefined } | undefined
  #lastFailure = 'not started'
  #failures = 0
  #respawns = 0
  #restart: NodeJS.Timeout | undefined
  #closing = false

  /** Who waits for the next agent to become ready, or for the news that it does not. */
  #waiting: { resolve: () => void; reject: (error: TokenError) => void }[] = []
  /** When a key was destroyed here, or found missing by an agent that was started to look for it. */
  readonly #missing = new Map<string, number>()

  readonly #calls: Calls<AgentProcess>
  readonly #random = new PrefetchedRandom((bytes) => this.#fetchRandom(bytes))

  constructor(config: TokenConfig, log: TokenLog, selfTest?: SelfTestMemory) {
    this.#config = config
    this.#log = log
    this.#selfTest = selfTest
    this.#proof = selfTest?.recall() ?? null
    this.#deadlineMs = config.deadlineMs ?? 10_000
    const owner: Owner<AgentProcess> = {
      current: () => this.#agent,
      draining: () => this.#draining,
      failed: (agent, reason) => this.#fail(agent, reason),
      idle: (agent) => this.#endIfIdle(agent),
    }
    this.#calls = new Calls(owner, { queueLimit: config.queueLimit ?? 2048, deadlineMs: this.#deadlineMs })
  }

  async start(): Promise<void> {
    const timeoutMs = this.#config.startTimeoutMs ?? 30_000
    const timeout = setTimeout(() => {
      this.#settleWaiting(new TokenError('unavailable', `the token did not become ready within ${timeoutMs} ms: ${this.#lastFailure}`))
    }, timeoutMs)
    try {
      const ready = this.#nextReady()
      this.#spawn()
      await ready
    } finally {
      clearTimeout(timeout)
    }
  }

  // What the service asks

  info(): TokenInfo {
    if (this.#info === undefined) throw new TokenError('unavailable', 'the token has never been reached')
    return this.#info
  }

  capabilities(): Capabilities {
    if (this.#capabilities === undefined) throw new TokenError('unavailable', 'the token has never been reached')
    return this.#capabilities
  }

  health(): TokenHealth {
    const numbers = { queued: this.#calls.outstanding, sessions: this.#agent?.sessions ?? 0, respawns: this.#respawns }
    if (this.#stopped !== undefined) return { state: 'stopped-pin', detail: this.#stopped.message, ...numbers }
    if (this.#agent !== undefined) return { state: 'up', detail: '', ...numbers }
    if (this.#successor !== undefined && this.#failures === 0) return { state: 'starting', detail: '', ...numbers }
    return { state: 'down', detail: this.#lastFailure, ...numbers }
  }

  asked(): ReadonlyMap<string, number> {
    return this.#calls.given
  }

  async generateKey(request: { kind: TokenKeyKind; ckaId: string; label: string; replicable?: boolean }): Promise<readonly TokenObject[]> {
    const { kind, ckaId, label, replicable = false } = request
    const data = Buffer.from(JSON.stringify({ label, replicable }))
    return readJson(
      (await this.#callKey('generateKey', numberOf(keyKindNumbers, kind), ckaId, nothing, data)).data,
    ) as readonly TokenObject[]
  }

  async destroyKey(ckaId: string, label: string): Promise<number> {
    try {
      const destroyed = await this.#json<number>('destroyKey', ckaId, label)
      // Not seeing it from now on is what was asked for, no reason to try another agent.
      if (destroyed > 0) this.#rememberMissing(ckaId)
      return destroyed
    } catch (error) {
      if (error instanceof TokenError && error.failure === 'missing') return 0
      throw error
    }
  }

  async objects(ckaId: string): Promise<readonly TokenObject[]> {
    try {
      return await this.#json<readonly TokenObject[]>('objects', ckaId, '')
    } catch (error) {
      if (error instanceof TokenError && error.failure === 'missing') return []
      throw error
    }
  }

  async allObjects(): Promise<readonly TokenObject[]> {
    return await this.#json<readonly TokenObject[]>('allObjects', '', '')
  }

  async #json<T>(operation: Operation, ckaId: string, data: string): Promise<T> {
    return readJson((await this.#callKey(operation, 0, ckaId, nothing, Buffer.from(data))).data) as T
  }

  /** `aad` and `plaintext` must stay as they are until the promise settles. */
  async wrap(ckaId: string, aad: Uint8Array, plaintext: Uint8Array): Promise<{ scheme: WrapScheme; body: Buffer }> {
    refuseUnless(plaintext.length >= 1 && plaintext.length <= maxWrapBytes, `a plaintext of ${plaintext.length} bytes`)
    refuseUnless(aad.length <= maxAadBytes, `additional data of ${aad.length} bytes`)
    const { number, data } = await this.#callKey('wrap', 0, ckaId, aad, plaintext)
    const scheme = findScheme(number)
    if (scheme === undefined) throw new TokenError('unavailable', `the agent answered scheme ${number}`)
    return { scheme, body: data }
  }

  async unwrap(ckaId: string, scheme: WrapScheme, aad: Uint8Array, body: Uint8Array): Promise<Buffer> {
    refuseUnless(body.length >= 1 && body.length <= maxBodyBytes, `a body of ${body.length} bytes`)
    refuseUnless(aad.length <= maxAadBytes, `additional data of ${aad.length} bytes`)
    return (await this.#callKey('unwrap', wrapSchemes[scheme], ckaId, aad, body)).data
  }

  async sign(ckaId: string, digest: Uint8Array): Promise<{ algorithm: 'ECDSA_SHA_256' | 'RSASSA_PKCS1_V1_5_SHA_256'; signature: Buffer }> {
    refuseUnless(digest.length === 32, `a digest of ${digest.length} bytes`)
    const { number, data } = await this.#callKey('sign', 0, ckaId, nothing, digest)
    const algorithm = signatureNumbers[number]
    if (algorithm === undefined) throw new TokenError('unavailable', `the agent answered signature algorithm ${number}`)
    return { algorithm, signature: data }
  }

  async publicKey(ckaId: string): Promise<Buffer> {
    return (await this.#callKey('publicKey', 0, ckaId, nothing, nothing)).data
  }

  async signMessage(ckaId: string, algorithm: SigningAlgorithm, form: 'message' | 'digest', message: Uint8Array): Promise<Buffer> {
    refuseUnless(message.length >= 1 && message.length <= maxPlaintextBytes, `a signature of ${message.length} bytes`)
    const number = signingNumbers.findIndex((each) => each[0] === algorithm && each[1] === form)
    refuseUnless(number >= 0, `signatures by ${algorithm}`)
    return (await this.#callKey('signMessage', number, ckaId, nothing, message)).data
  }

  async decryptOaep(ckaId: string, algorithm: OaepAlgorithm, ciphertext: Uint8Array): Promise<Buffer> {
    refuseUnless(ciphertext.length >= 1 && ciphertext.length <= maxPlaintextBytes, `a ciphertext of ${ciphertext.length} bytes`)
    return (await this.#callKey('decryptOaep', numberOf(oaepNumbers, algorithm), ckaId, nothing, ciphertext)).data
  }

  async mac(ckaId: string, algorithm: MacAlgorithm, message: Uint8Array): Promise<Buffer> {
    refuseUnless(message.length >= 1 && message.length <= maxPlaintextBytes, `a MAC of ${message.length} bytes`)
    return (await this.#callKey('mac', numberOf(macNumbers, algorithm), ckaId, nothing, message)).data
  }

  async deriveSharedSecret(ckaId: string, publicKey: Uint8Array): Promise<Buffer> {
    refuseUnless(publicKey.length >= 1 && publicKey.length <= maxPlaintextBytes, `a public key of ${publicKey.length} bytes`)
    return (await this.#callKey('deriveSharedSecret', 0, ckaId, nothing, publicKey)).data
  }

  async importKey(request: {
    kind: TokenKeyKind
    ckaId: string
    label: string
    wrappingCkaId: string
    algorithm: ImportAlgorithm
    wrapped: Uint8Array
  }): Promise<Imported> {
    const { kind, ckaId, label, wrappingCkaId, algorithm, wrapped } = request
    refuseUnless(wrapped.length >= 1 && wrapped.length <= maxWrappedBytes, `key material of ${wrapped.length} bytes`)
    const particulars = Buffer.from(JSON.stringify({ label, wrappingCkaId, algorithm }))
    return readJson((await this.#callKey('importKey', numberOf(keyKindNumbers, kind), ckaId, particulars, wrapped)).data) as Imported
  }

  async exportKey(ckaId: string, transportPublicKey: Uint8Array): Promise<{ wrapped: Buffer }> {
    refuseUnless(transportPublicKey.length >= 1 && transportPublicKey.length <= maxPlaintextBytes, 'such a transport key')
    return { wrapped: (await this.#callKey('exportKey', 0, ckaId, nothing, transportPublicKey)).data }
  }

  async adoptKey(request: { kind: TokenKeyKind; ckaId: string; label: string; wrapped: Uint8Array }): Promise<readonly TokenObject[]> {
    const { kind, ckaId, label, wrapped } = request
    refuseUnless(wrapped.length >= 1 && wrapped.length <= maxWrappedBytes, `key material of ${wrapped.length} bytes`)
    const particulars = Buffer.from(JSON.stringify({ label }))
    return readJson(
      (await this.#callKey('adoptKey', numberOf(keyKindNumbers, kind), ckaId, particulars, wrapped)).data,
    ) as readonly TokenObject[]
  }

  async transportKey(): Promise<Buffer | undefined> {
    const { data } = await this.#call('transportKey', 0, '', nothing, nothing)
    return data.length === 0 ? undefined : data
  }

  async check(): Promise<void> {
    await this.#call('check', 0, '', nothing, nothing)
  }

  async random(bytes: number): Promise<Buffer> {
    refuseUnless(Number.isInteger(bytes) && bytes >= 1 && bytes <= 1024 * 1024, `${bytes} random bytes`)
    return await this.#random.take(bytes, () => this.#agent !== undefined && !this.#closing)
  }

  async #fetchRandom(bytes: number): Promise<Buffer> {
    const count = Buffer.alloc(4)
    count.writeUInt32LE(bytes)
    const { data } = await this.#call('random', 0, '', nothing, count)
    if (data.length !== bytes) throw new TokenError('unavailable', `the agent answered ${data.length} random bytes for ${bytes}`)
    return data
  }

  async close(): Promise<void> {
    if (!this.#closing) {
      this.#closing = true
      clearTimeout(this.#restart)
      this.#settleWaiting(new TokenError('unavailable', 'the token is being closed'))
      while (this.#calls.outstanding > 0 && this.#agent !== undefined) await new Promise((resolve) => setTimeout(resolve, 5))
      this.#random.wipe()
    }
    const agents = [this.#agent, this.#successor, ...this.#draining].filter((agent) => agent !== undefined)
    this.#agent = undefined
    this.#successor = undefined
    await Promise.all(agents.map((agent) => this.#end(agent)))
    this.#calls.stop()
  }

  // Calls

  /**
   * A call on a key. When the token does not show it, a new agent is asked once more.
   */
  async #callKey(operation: Operation, scheme: number, ckaId: string, aad: Uint8Array, data: Uint8Array): Promise<Answered> {
    const asked = this.#agent
    try {
      return await this.#call(operation, scheme, ckaId, aad, data)
    } catch (error) {
      if (!(error instanceof TokenError) || error.failure !== 'missing') throw error
      const since = this.#missing.get(ckaId)
      if (since !== undefined && performance.now() - since < missingForgottenMs) throw error
      await this.#replace(asked, `it does not show ${ckaId}`)
    }
    try {
      const answer = await this.#call(operation, scheme, ckaId, aad, data)
      this.#missing.delete(ckaId)
      return answer
    } catch (error) {
      if (error instanceof TokenError && error.failure === 'missing') this.#rememberMissing(ckaId)
      throw error
    }
  }

  #rememberMissing(ckaId: string): void {
    if (this.#missing.size >= maxMissingRemembered) this.#missing.clear()
    this.#missing.set(ckaId, performance.now())
  }

  // oxlint-disable-next-line typescript/promise-function-async -- an async function would add a promise to every call
  #call(operation: Operation, scheme: number, ckaId: string, aad: Uint8Array, data: Uint8Array): Promise<Answered> {
    if (this.#agent === undefined || this.#closing) return Promise.reject(this.#refusal())
    const deadlineMs = slowOperations.has(operation) ? Math.max(slowDeadlineMs, this.#deadlineMs) : this.#deadlineMs
    return this.#calls.add({ operation, scheme, ckaId, aad, data }, deadlineMs)
  }

  /** Why there is nobody to ask now. */
  #refusal(): TokenError {
    if (this.#stopped !== undefined) return new TokenError('unavailable', this.#stopped.message, this.#stopped.code)
    if (this.#closing) return new TokenError('unavailable', 'the token is being closed')
    return new TokenError('unavailable', `the token is not reachable: ${this.#lastFailure}`)
  }

  // Agents

  #spawn(): void {
    const config = this.#config
    const sockets = Math.max(1, config.sessions ?? defaultSockets)
    const child = fork(agentProgram, {
      execArgv: [...loaderFlags],
      env: { ...this.#env, ...config.env },
      serialization: 'json',
      stdio: ['ignore', 'pipe', 'pipe', 'ipc', 'pipe', 'pipe', ...Array.from({ length: sockets }, () => 'pipe' as const)],
    })
    const lanes = Array.from({ length: sockets }, (_, index): Lane => {
      return newLane(child.stdio[firstSocket + index] as Socket)
    })
    const agent = new AgentProcess(child, lanes)
    this.#successor = agent
    agent.answers.on('data', (chunk: Buffer) => this.#calls.hear(agent, chunk))
    // A socket that breaks belongs to a process that ends: `exit` tells.
    for (const socket of [agent.answers, child.stdio[lifelineDescriptor], ...lanes.map((lane) => lane.socket)])
      socket?.on('error', () => {})
    for (const [name, stream] of [
      ['stdout', child.stdout],
      ['stderr', child.stderr],
    ] as const) {
      stream?.on('data', (text: Buffer) => {
        for (const line of text.toString().split('\n')) {
          if (line.trim() !== '') this.#log.warn({ stream: name, pid: child.pid }, `agent: ${line.slice(0, 1000)}`)
        }
      })
    }
    child.on('message', (message: FromAgent) => this.#news(agent, message))
    child.on('error', (error) => this.#exited(agent, error.message))
    child.on('exit', (code, signal) => this.#exited(agent, `the agent ended (${signal ?? `exit code ${code}`})`))
    // After the last of its bytes: of an agent that was asked to end, with calls under way, nobody else tells them.
    child.on('close', () => this.#calls.abandonCrew(agent, 'the agent ended'))
    const agentConfig: AgentConfig = {
      library: config.library,
      profile: config.profile ?? null,
      tokenLabel: config.tokenLabel,
      // Once seen, it is this token and no other of the same label.
      tokenSerial: config.tokenSerial ?? this.#info?.serial ?? null,
      pinFile: config.pinFile ?? null,
      pin: config.pin ?? null,
      sessions: config.sessions ?? null,
      provision: config.provision && this.#info === undefined,
      setEnv: Object.keys({ ...this.#env, ...config.env }),
      lifeline: lifelineDescriptor,
      answers: answersDescriptor,
      firstSocket,
      sockets,
    }
    child.send({ type: 'start', config: agentConfig, proof: this.#proof } satisfies ToAgent, () => {})
    // A device may also hang before it is ready.
    const patience = setTimeout(() => {
      if (agent.state === 'starting') this.#fail(agent, `the token did not become ready within ${slowDeadlineMs} ms`)
    }, slowDeadlineMs)
    child.on('exit', () => clearTimeout(patience))
    patience.unref()
  }

  #news(agent: AgentProcess, message: FromAgent): void {
    switch (message.type) {
      case 'log':
        this.#log[message.level](message.fields, message.message)
        return
      case 'ready': {
        this.#proof = message.proof
        this.#selfTest?.keep(message.proof)
        this.#info = message.info as TokenInfo
        this.#capabilities = (message.proof as { proof: { capabilities: Capabilities } }).proof.capabilities
        for (const lane of agent.lanes.slice(message.workers)) lane.socket.destroy()
        return
      }
      case 'worker': {
        const lane = agent.lanes[message.index]
        if (lane !== undefined) lane.open = true
        if (agent === this.#successor) this.#promote(agent)
        else this.#calls.flush()
        return
      }
      case 'failed':
        agent.failure = message
        if (message.cause === 'pin') this.#stop(message.message, message.code)
        this.#fail(agent, message.message)
        return
    }
  }

  /** The first worker is up: new calls go to this agent, a former one finishes what it has. */
  #promote(agent: AgentProcess): void {
    const former = this.#agent
    this.#successor = undefined
    this.#agent = agent
    agent.state = 'ready'
    this.#failures = Math.min(this.#failures, backOff.doublingsWhenReady)
    if (former !== undefined) {
      former.state = 'draining'
      this.#draining.add(former)
      this.#endIfIdle(former)
    }
    this.#log.info({ pid: agent.child.pid, token: this.#info?.label, profile: this.#info?.profile }, 'the token is ready')
    this.#settleWaiting(undefined)
    this.#calls.flush()
  }

  #endIfIdle(agent: AgentProcess): void {
    if (agent.lanes.every((lane) => lane.underWay.length === 0)) void this.#end(agent)
  }

  /** Asks an agent to log out and end; kills it if it takes long. */
  async #end(agent: AgentProcess): Promise<void> {
    this.#draining.delete(agent)
    const wasReady = agent.state !== 'starting'
    agent.state = 'ended'
    const { child } = agent
    if (child.exitCode !== null || child.signalCode !== null) return
    const exited = new Promise<void>((resolve) => {
      child.once('exit', () => resolve())
    })
    // Before it has workers it has nothing to finish, and may hang.
    if (wasReady) {
      for (const lane of agent.lanes) lane.socket.end()
      ;(child.stdio[lifelineDescriptor] as Socket).end()
    } else child.kill('SIGKILL')
    const kill = setTimeout(() => child.kill('SIGKILL'), 5000)
    await exited
    clearTimeout(kill)
  }

  /** An agent that cannot be trusted any more: killed, its calls refused. */
  #fail(agent: AgentProcess, reason: string): void {
    if (agent.state === 'ended') return
    this.#log.error({ pid: agent.child.pid, reason }, 'the agent process is given up')
    agent.child.kill('SIGKILL')
    this.#exited(agent, reason)
  }

  #exited(agent: AgentProcess, reason: string): void {
    if (agent.state === 'ended') return
    const wasCurrent = agent === this.#agent
    const wasSuccessor = agent === this.#successor
    const env = agent.failure?.cause === 'env' ? agent.failure.env : undefined
    agent.state = 'ended'
    this.#draining.delete(agent)
    if (wasCurrent) this.#agent = undefined
    if (wasSuccessor) this.#successor = undefined
    this.#calls.abandonCrew(agent, reason)
    for (const { socket } of agent.lanes) socket.destroy()
    agent.answers.destroy()
    if (wasCurrent) {
      this.#calls.abandonQueue(reason)
      if (performance.now() - agent.startedAt > backOff.forgottenAfterMs) this.#failures = 0
    }
    if (this.#closing || this.#stopped !== undefined) return
    if (env !== undefined && Object.keys(env).some((name) => !(name in this.#env))) {
      this.#env = { ...this.#env, ...env }
      this.#spawn()
      return
    }
    this.#lastFailure = reason
    if (!wasCurrent && !wasSuccessor) return
    this.#log.warn({ pid: agent.child.pid, reason }, 'the token is not reachable')
    if (wasSuccessor) {
      // What is not there yet may come; whoever waits for it hears of the first failure.
      const awaited = this.#config.mayBeDown === true && this.#info === undefined
      if (awaited) this.#settleWaiting(new TokenError('unavailable', reason, agent.failure?.code))
      const hopeless = agent.failure?.cause === 'config' && this.#info === undefined && !awaited
      // A successor that failed leaves the current agent in its place.
      if (hopeless || this.#agent !== undefined) this.#settleWaiting(new TokenError('unavailable', reason, agent.failure?.code))
      if (hopeless || this.#agent !== undefined) return
    }
    this.#planRespawn()
  }

  #planRespawn(): void {
    if (this.#restart !== undefined || this.#successor !== undefined || this.#closing || this.#stopped !== undefined) return
    const delayMs = Math.min(backOff.longestMs, backOff.firstMs * 2 ** this.#failures)
    this.#failures += 1
    this.#restart = setTimeout(() => {
      this.#restart = undefined
      if (this.#closing || this.#successor !== undefined) return
      this.#respawns += 1
      this.#spawn()
    }, delayMs)
  }

  /** The PIN was refused. There is no way back from here but a restart of the service. */
  #stop(message: string, code: string | undefined): void {
    this.#stopped = { message, code }
    this.#log.error({ code }, message)
    clearTimeout(this.#restart)
    this.#restart = undefined
    this.#settleWaiting(new TokenError('unavailable', message, code))
    if (this.#agent !== undefined) this.#fail(this.#agent, message)
  }

  /** A new agent in place of `asked`, which keeps serving until the new one is ready. */
  async #replace(asked: AgentProcess | undefined, reason: string): Promise<void> {
    if (this.#agent !== asked && this.#agent !== undefined) return
    if (this.#agent === undefined) throw this.#refusal()
    const ready = this.#nextReady()
    if (this.#successor === undefined) {
      this.#log.warn({ pid: this.#agent.child.pid, reason }, 'the agent process is replaced')
      this.#respawns += 1
      this.#spawn()
    }
    await ready
  }

  // oxlint-disable-next-line typescript/promise-function-async -- the promise is made here
  #nextReady(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
    })
  }

  #settleWaiting(error: TokenError | undefined): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const { resolve, reject } of waiting) {
      if (error === undefined) resolve()
      else reject(error)
    }
  }
}

const readJson = (data: Buffer): unknown => JSON.parse(data.toString())

function numberOf<T extends string>(names: readonly T[], name: T): number {
  const number = names.indexOf(name)
  refuseUnless(number >= 0, name)
  return number
}

function refuseUnless(holds: boolean, what: string): void {
  if (!holds) throw new TokenError('rejected', `the token is not asked for ${what}`)
}
