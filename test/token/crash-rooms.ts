/**
 * What the crash tests share: the real rooms (token, store, trail, service) with a tripwire in front of every write, the operations under
 * test, and the inspection that must come out clean after whatever happened.
 *
 * A tripwire first records which calls to the token, the store and the trail an operation makes; then it is armed at one of them after the
 * other, where the call fails before anything happened, fails after it happened, or the process is killed. So every step there is
 * gets visited, without a list of steps that could be forgotten.
 */

import { randomUUID } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import { join } from 'node:path'
import { openTrail } from '../../src/audit/open.ts'
import type { AuditRecord, Trail } from '../../src/audit/trail.ts'
import { verifyTrail } from '../../src/audit/verify.ts'
import type { Principal } from '../../src/auth/principal.ts'
import type { ManualClock } from '../../src/base/clock.ts'
import { silentLog, type Log } from '../../src/base/log.ts'
import { openMetrics } from '../../src/base/metrics.ts'
import { openCryptoPool } from '../../src/bulk/crypto-pool.ts'
import { openToken, type SelfTestMemory } from '../../src/hsm/client.ts'
import { TokenError, type Token } from '../../src/hsm/token.ts'
import { standardBudget, type BudgetLimits } from '../../src/kms/budget.ts'
import { aliasArn } from '../../src/kms/arn.ts'
import { bootstrapAccount } from '../../src/kms/identity.ts'
import { execute } from '../../src/kms/operation.ts'
import { apis } from '../../src/kms/operations/index.ts'
import { standardResources } from '../../src/kms/quotas.ts'
import { openService, type Service } from '../../src/kms/service.ts'
import { serviceKeyNames } from '../../src/kms/service-key.ts'
import { ensureSystemKey } from '../../src/kms/system-keys.ts'
import { standardUsage } from '../../src/kms/usage.ts'
import { openStore } from '../../src/store/open.ts'
import { StoreFailure, type Store } from '../../src/store/store.ts'
import { cleanEnvironment } from './environment.ts'
import type { LabToken } from './lab.ts'

export const accountId = '111122223333'
export const region = 'us-east-1'
export const otherRegion = 'eu-west-1'
export const dayMs = 86_400_000

// ---- tripwires ----

/**
 * `before`, `after`: the call fails, without or with its effect. `cut`: this call and all after it fail, as if the process had ended before it.
 * `kill`: SIGKILL before the call. `kill-during`: SIGKILL when it has just been sent.
 */
export type Mishap = 'before' | 'after' | 'cut' | 'kill' | 'kill-during'

export class Tripwire {
  #target: string | undefined
  #mishap: Mishap = 'before'
  #counts: Map<string, number> | undefined
  #steps: string[] = []
  #fired = false

  /** Counts from here on. A step is a call's name and which one of that name it is: `store.insertKey 1`. Without one nothing goes off. */
  arm(step?: string, mishap: Mishap = 'before'): void {
    this.#target = step
    this.#mishap = mishap
    this.#counts = new Map()
    this.#steps = []
    this.#fired = false
  }
  /** Stops counting; answers the steps that were taken, and whether it went off. */
  disarm(): { readonly steps: readonly string[]; readonly fired: boolean } {
    this.#counts = undefined
    return { steps: this.#steps, fired: this.#fired }
  }

  async pass<T>(name: string, failure: () => Error, call: () => Promise<T>): Promise<T> {
    if (!this.#counts) return call()
    if (this.#fired && this.#mishap === 'cut') throw failure()
    const count = (this.#counts.get(name) ?? 0) + 1
    this.#counts.set(name, count)
    const step = `${name} ${count}`
    this.#steps.push(step)
    if (step !== this.#target) return call()
    this.#fired = true
    if (this.#mishap === 'kill') process.kill(process.pid, 'SIGKILL')
    if (this.#mishap === 'kill-during') {
      // Sent to the database's thread or the token's process, which may or may not get to it.
      void call().catch(() => undefined)
      await setImmediate()
      process.kill(process.pid, 'SIGKILL')
    }
    if (this.#mishap === 'after') await call()
    throw failure()
  }
}

/** Not steps of an operation: they tell the time, say how things are, or end them. */
const passedOver = new Set([
  'view',
  'info',
  'capabilities',
  'health',
  'heartbeat',
  'refresh',
  'ping',
  'check',
  'lookup',
  'pending',
  'seal',
  'prune',
  'addUsage',
  'pruneUsage',
  'close',
])

function wired<T extends object>(room: T, name: string, wire: Tripwire, failure: () => Error): T {
  return new Proxy(room, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target)
      if (typeof value !== 'function' || typeof property !== 'string') return value
      const method = value.bind(target) as (...values: unknown[]) => Promise<unknown>
      if (passedOver.has(property)) return method
      return (...values: unknown[]) => wire.pass(`${name}.${property}`, failure, () => method(...values))
    },
  })
}

export const wiredToken = (token: Token, wire: Tripwire): Token =>
  wired(token, 'token', wire, () => new TokenError('unavailable', 'a mishap that the test made'))
const wiredStore = (store: Store, wire: Tripwire): Store =>
  wired(store, 'store', wire, () => new StoreFailure('a mishap that the test made', 'TEST'))
const wiredTrail = (trail: Trail, wire: Tripwire): Trail => wired(trail, 'trail', wire, () => new Error('a mishap that the test made'))

// ---- rooms ----

export const openLabToken = (lab: LabToken, log: Log = silentLog): Promise<Token> =>
  openToken(
    {
      library: lab.library,
      tokenLabel: lab.label,
      pinFile: lab.pinFile,
      env: { ...cleanEnvironment(), ...lab.env },
      provision: true,
      // One thread is enough, and opens faster.
      sessions: 1,
      // Of a machine that is busy with other tests nothing is known.
      startTimeoutMs: 180_000,
    },
    { log, selfTest: selfTestOf(lab) },
  )

/** But the one with which a token is proved to be ours. */
export async function destroyAllKeys(token: Token): Promise<void> {
  for (const { ckaId, label } of await token.allObjects()) if (label !== 'holdfast/canary') await token.destroyKey(ckaId, label)
}

/** Each token is tested once: its many processes are about what comes after. */
const selfTestOf = ({ dir }: LabToken): SelfTestMemory => {
  const file = join(dir, 'self-test.json')
  return {
    recall: () => (existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as unknown) : null),
    keep: (proof) => writeFileSync(file, JSON.stringify(proof)),
  }
}

export interface Rooms {
  readonly token: Token
  /** All there are. */
  readonly tokens: readonly Token[]
  readonly store: Store
  readonly trail: Trail
  readonly service: Service
  readonly clock: ManualClock
  readonly wire: Tripwire
  readonly dir: string
  /** Closes all but the token. */
  close(): Promise<void>
}

export interface RoomOptions {
  readonly dir: string
  readonly token: Token
  readonly clock: ManualClock
  /** The token of the other region, where it has its own. */
  readonly otherToken?: Token
  readonly wire?: Tripwire
  readonly budget?: BudgetLimits
  /** Of the service key. */
  readonly sealBudget?: BudgetLimits
  readonly log?: Log
  readonly published?: (credential: { readonly accessKeyId: string; readonly secretAccessKey: string }) => Promise<void>
}

/** Opens a service as the house does: system keys, trail, what was left half done, the account. */
export async function openRooms(options: RoomOptions): Promise<Rooms> {
  const { dir, clock, wire = new Tripwire(), log = silentLog, published = async () => undefined } = options
  const token = wiredToken(options.token, wire)
  const other = options.otherToken && wiredToken(options.otherToken, wire)
  const tokens = new Map([['default', token], ...(other ? ([['other', other]] as const) : [])])
  const regionTokens = new Map(other && [[otherRegion, 'other']])
  const closers: (() => Promise<void>)[] = []
  const close = async (): Promise<void> => {
    wire.disarm()
    for (const closeOne of closers.splice(0).reverse()) await closeOne()
  }
  try {
    const store = wiredStore(await openStore({ file: join(dir, 'holdfast.db'), clock, log, pollMs: 50 }), wire)
    closers.push(() => store.close())
    const auditKey = await ensureSystemKey({ token, store }, 'audit', 'signing')
    const trail = wiredTrail(
      await openTrail({
        file: join(dir, 'audit.db'),
        clock,
        log,
        // Sealing is not a step of a call: the seals' signatures go past the wire.
        sign: (digest) => options.token.sign(auditKey.ckaId, digest),
        publicKey: () => options.token.publicKey(auditKey.ckaId),
      }),
      wire,
    )
    closers.push(() => trail.close())
    const config = {
      regions: [region, otherRegion],
      accountId,
      lifecycleIntervalMs: dayMs,
      budget: options.budget ?? standardBudget,
      sealBudget: options.sealBudget ?? standardBudget,
      requestRates: {},
      quotas: standardResources,
      awsServices: {},
      usage: standardUsage,
    }
    const offload = openCryptoPool()
    closers.push(() => offload.close())
    const service = await openService({
      config,
      token,
      tokens,
      regionTokens,
      store,
      trail,
      offload,
      auditKey,
      clock,
      log,
      metrics: openMetrics(),
    })
    closers.push(() => service.close())
    await bootstrapAccount(service, (credential) =>
      wire.pass(
        'credentials file',
        () => new Error('a mishap that the test made'),
        () => published(credential),
      ),
    )
    return { token, tokens: [...tokens.values()], store, trail, service, clock, wire, dir, close }
  } catch (error) {
    await close()
    throw error
  }
}

// ---- calls ----

const root: Principal = {
  type: 'Root',
  arn: `arn:aws:iam::${accountId}:root`,
  accountId,
  principalId: accountId,
  accessKeyId: 'AKIATEST',
  tags: new Map(),
  identityPolicies: [],
}

const operations = new Map(apis.flatMap((api) => [...api.operations]))

export type Output = Readonly<Record<string, unknown>>

/** A call as its caller remembers it. */
export interface Entry {
  readonly requestId: string
  readonly operation: string
  readonly input: Output
  /** Absent while there is no answer; then nobody knows what became of it. */
  readonly output?: Output
}

/** What the callers of a service remember, in order; the truth that the service is held against. */
export class Journal {
  readonly entries: Entry[] = []
  readonly #tell: ((entry: Entry) => void) | undefined
  /** @param tell hears of each call before it is made and again when it is answered */
  constructor(tell?: (entry: Entry) => void) {
    this.#tell = tell
  }
  note(entry: Entry): void {
    const at = this.entries.findIndex(({ requestId }) => requestId === entry.requestId)
    if (at < 0) this.entries.push(entry)
    else this.entries[at] = entry
    this.#tell?.(entry)
  }
}

/** One call down the whole road, by the account's root. */
export async function callRoad(rooms: Rooms, operation: string, input: Output, journal?: Journal, at = region): Promise<Output> {
  const row = operations.get(operation)
  if (!row) throw new Error(`no operation is called ${operation}`)
  const requestId = randomUUID()
  journal?.note({ requestId, operation, input })
  const output = await execute(rooms.service, row, {
    facts: { requestId, sourceIp: '127.0.0.1', userAgent: 'test', tls: undefined, host: 'test', receivedAt: rooms.clock.now() },
    authenticate: () => ({ principal: root, region: at }),
    body: () => input,
  })
  journal?.note({ requestId, operation, input, output })
  return output
}

export const keyIdOf = (output: Output): string => (output['KeyMetadata'] as { readonly KeyId: string }).KeyId

// ---- what is tried ----

export interface Scenario {
  readonly budget?: BudgetLimits
  /** Everything up to the step under test, without mishaps. */
  prepare(rooms: Rooms, journal: Journal): Promise<unknown>
  /** The step under test; `prepared` is what `prepare` answered. */
  attempt(rooms: Rooms, journal: Journal, prepared: unknown): Promise<unknown>
}

const makeKey = async (rooms: Rooms, journal: Journal): Promise<string> => keyIdOf(await callRoad(rooms, 'CreateKey', {}, journal))

const aliasName = 'alias/crash'
const findAlias = (rooms: Rooms) => rooms.store.view.alias(aliasArn(region, accountId, aliasName))

/** Small enough that a few calls reserve, rotate and come to the ceiling. */
export const smallBudget: BudgetLimits = { block: 2, rotateAt: 4, ceiling: 8 }

export const scenarios: Readonly<Record<string, Scenario>> = {
  CreateKey: {
    prepare: async () => undefined,
    attempt: (rooms, journal) => makeKey(rooms, journal),
  },
  destruction: {
    async prepare(rooms, journal) {
      const keyId = await makeKey(rooms, journal)
      await callRoad(rooms, 'CreateAlias', { AliasName: `alias/doomed-${keyId}`, TargetKeyId: keyId }, journal)
      await callRoad(rooms, 'ScheduleKeyDeletion', { KeyId: keyId, PendingWindowInDays: 7 }, journal)
      rooms.clock.advance(7 * dayMs)
    },
    attempt: (rooms) => rooms.service.runLifecycle(),
  },
  rotation: {
    budget: smallBudget,
    prepare: makeKey,
    async attempt(rooms, journal, keyId) {
      // The third encryption takes the block that reaches the half, and the key rotates while calls go on; the fifth is under new material.
      for (let i = 1; i <= 5; i++) {
        if (i === 5) await rooms.service.budget.close()
        await callRoad(rooms, 'Encrypt', { KeyId: keyId, Plaintext: Buffer.from(`text ${i}`).toString('base64') }, journal)
      }
    },
  },
  CreateAlias: {
    async prepare(rooms, journal) {
      if (findAlias(rooms)) await callRoad(rooms, 'DeleteAlias', { AliasName: aliasName }, journal)
      return makeKey(rooms, journal)
    },
    attempt: (rooms, journal, keyId) => callRoad(rooms, 'CreateAlias', { AliasName: aliasName, TargetKeyId: keyId }, journal),
  },
  UpdateAlias: {
    async prepare(rooms, journal) {
      const from = await makeKey(rooms, journal)
      await callRoad(rooms, findAlias(rooms) ? 'UpdateAlias' : 'CreateAlias', { AliasName: aliasName, TargetKeyId: from }, journal)
      return makeKey(rooms, journal)
    },
    attempt: (rooms, journal, keyId) => callRoad(rooms, 'UpdateAlias', { AliasName: aliasName, TargetKeyId: keyId }, journal),
  },
  DeleteAlias: {
    async prepare(rooms, journal) {
      const keyId = await makeKey(rooms, journal)
      await callRoad(rooms, findAlias(rooms) ? 'UpdateAlias' : 'CreateAlias', { AliasName: aliasName, TargetKeyId: keyId }, journal)
    },
    attempt: (rooms, journal) => callRoad(rooms, 'DeleteAlias', { AliasName: aliasName }, journal),
  },
}

/** Those that need two tokens. */
export const replicationScenarios: Readonly<Record<string, Scenario>> = {
  ReplicateKey: {
    async prepare(rooms, journal) {
      const keyId = keyIdOf(await callRoad(rooms, 'CreateKey', { MultiRegion: true }, journal))
      await callRoad(rooms, 'RotateKeyOnDemand', { KeyId: keyId }, journal)
      return keyId
    },
    attempt: (rooms, journal, keyId) => callRoad(rooms, 'ReplicateKey', { KeyId: keyId, ReplicaRegion: otherRegion }, journal),
  },
}

// ---- what must be so afterwards ----

async function allRecords(trail: Trail): Promise<readonly AuditRecord[]> {
  const records: AuditRecord[] = []
  let before: number | undefined
  do {
    const page = await trail.lookup({ accountId, region, limit: 1000, ...(before !== undefined && { before }) })
    records.push(...page.events.map(({ record }) => record))
    before = page.next
  } while (before !== undefined)
  return records
}

/**
 * Everything that is not as it must be, in words; empty when nothing is lost and nothing orphaned.
 * @param journal every call since the store was new
 */
export async function inspect(rooms: Rooms, journal: Journal): Promise<readonly string[]> {
  const problems: string[] = []
  const { store, tokens, clock } = rooms
  const { view } = store

  // The tokens and the store name the same objects.
  const inToken = (await Promise.all(tokens.map((token) => token.allObjects())))
    .flat()
    .filter(({ label }) => !/^holdfast\/(?:canary|transport)/.test(label))
    .map(({ ckaId, label }) => `${label} ${ckaId}`)
  const inStore: string[] = []
  for (const key of view.allKeys()) {
    if (key.state === 'Creating' || key.state === 'Destroying') problems.push(`${key.arn} is still ${key.state}`)
    for (const backing of view.backingKeys(key.arn)) {
      if (backing.state === 'absent' && key.state === 'PendingImport') continue
      if (backing.state !== 'ready') problems.push(`${backing.label} is still ${backing.state}`)
      if ((backing.validTo ?? Infinity) <= clock.now()) problems.push(`${backing.label} has expired and is not destroyed`)
      inStore.push(`${backing.label} ${backing.ckaId}`)
    }
    const lacks = key.materialId === null || view.backingKey(key.arn, key.materialId)?.state !== 'ready'
    if (lacks !== (key.state === 'PendingImport')) problems.push(`${key.arn} has no material to encrypt with`)
  }
  for (const name of [...serviceKeyNames(store), 'audit']) {
    const setting = JSON.parse(view.setting(`system-key/${name}`) ?? '{}') as {
      readonly key?: { readonly ckaId: string; readonly label: string }
      readonly candidates?: readonly unknown[]
    }
    if (setting.key) inStore.push(`${setting.key.label} ${setting.key.ckaId}`)
    if (setting.candidates?.length !== 0) problems.push(`the setting of the ${name} key names leftovers`)
  }
  for (const { kind, label, ckaId, creator, dueAt } of await store.importObjects()) {
    inStore.push(`${label} ${ckaId}`)
    if (kind !== 'wrapping' || creator !== null || (dueAt ?? 0) <= clock.now()) problems.push(`${label} of an import is left`)
  }
  const shown = new Set(inToken)
  const known = new Set(inStore)
  for (const object of known) if (!shown.has(object)) problems.push(`lost: ${object}`)
  for (const object of shown) if (!known.has(object)) problems.push(`orphaned: ${object}`)

  // One account, one access key of its root.
  if (!view.account(accountId)) problems.push('there is no account')
  if (view.accessKeysOf(`arn:aws:iam::${accountId}:root`).length !== 1) problems.push('the root has not one access key')

  // Every answered call is in the trail and is what happened.
  const records = await allRecords(rooms.trail)
  const recorded = new Set(records.map((record) => record['requestID']))
  const destroyed = new Set(
    records
      .filter(({ eventName }) => eventName === 'DeleteKey')
      .map((record) => (record['serviceEventDetails'] as { readonly keyId: string }).keyId),
  )
  /** Where each alias may point: to what the last answered call made of it, or to what a later one without an answer may have. */
  const aliases = new Map<string, Set<string | undefined>>()
  const encryptions = new Map<string, number>()
  for (const { requestId, operation, input, output } of journal.entries) {
    if (output && !recorded.has(requestId)) problems.push(`${operation} ${requestId} was answered and is not in the trail`)
    if (operation.endsWith('Alias')) {
      const name = input['AliasName'] as string
      const target = input['TargetKeyId'] as string | undefined
      aliases.set(name, output ? new Set([target]) : new Set([...(aliases.get(name) ?? [undefined]), target]))
    }
    if (!output) continue
    if (operation === 'CreateKey') {
      const keyId = keyIdOf(output)
      if (!view.keyById(region, keyId) && !destroyed.has(keyId)) problems.push(`key ${keyId} was answered for and is gone`)
    }
    if (operation === 'Encrypt' && view.key(String(output['KeyId']))?.state !== 'PendingImport') {
      const opened = await callRoad(rooms, 'Decrypt', { CiphertextBlob: output['CiphertextBlob'] })
      if (opened['Plaintext'] !== input['Plaintext'])
        problems.push(`a blob of ${String(output['KeyId'])} does not open to what was encrypted`)
      const material = opened['KeyMaterialId'] as string
      encryptions.set(material, (encryptions.get(material) ?? 0) + 1)
    }
  }
  for (const [name, possible] of aliases) {
    const target = view.alias(aliasArn(region, accountId, name))?.targetKeyArn.split('/')[1]
    // With a key its aliases go.
    const expected = new Set([...possible].map((keyId) => (keyId !== undefined && destroyed.has(keyId) ? undefined : keyId)))
    if (!expected.has(target)) problems.push(`${name} points to ${target ?? 'nothing'}, not to ${[...expected].join(' or ')}`)
  }
  for (const [material, count] of encryptions) {
    const holders = [...view.allKeys()].flatMap(({ arn }) => view.backingKey(arn, material) ?? [])
    const reserved = Math.min(...holders.map(({ encryptionsReserved }) => encryptionsReserved))
    if (reserved < count) problems.push(`${material} has made ${count} encryptions and ${reserved} are reserved`)
  }

  // Every key that should work works, and every key whose time has come is gone.
  for (const key of view.allKeys()) {
    if (key.state === 'PendingDeletion' && (key.deletionAt ?? 0) <= clock.now()) problems.push(`${key.arn} is due and not destroyed`)
    if (key.state !== 'Enabled') continue
    const { CiphertextBlob: blob } = await callRoad(rooms, 'Encrypt', { KeyId: key.arn, Plaintext: 'dGV4dA==' }, undefined, key.region)
    const { Plaintext: text } = await callRoad(rooms, 'Decrypt', { CiphertextBlob: blob }, undefined, key.region)
    if (text !== 'dGV4dA==') problems.push(`${key.arn} does not decrypt what it encrypts`)
  }
  const { problems: inTrail } = await verifyTrail(join(rooms.dir, 'audit.db'))
  problems.push(...inTrail.map(({ what, sequence }) => `trail at ${sequence}: ${what}`))
  return problems
}
