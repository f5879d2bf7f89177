/** Several API processes on one listener, as one service: real processes on a real token, and callers on connections to each. */

import { X509Certificate } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { Agent } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as tlsConnect, type TLSSocket } from 'node:tls'
import {
  CreateAliasCommand,
  CreateGrantCommand,
  CreateKeyCommand,
  DecryptCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EncryptCommand,
  KMSClient,
  ListAliasesCommand,
  ListKeysCommand,
  paginateListGrants,
  RevokeGrantCommand,
  UpdateKeyDescriptionCommand,
} from '@aws-sdk/client-kms'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { verifyTrail } from '../../src/audit/verify.ts'
import { makeAuthority, type Authority } from '../certificates.ts'
import { askHttp1 } from '../http-client.ts'
import { startHoldfast, type Holdfast } from './holdfast.ts'

const plaintext = Buffer.from('between processes')
/** Of ListAliases a second; what the tests otherwise call has as much as it wants. */
const rate = 5
const rates = ['CreateKey', 'CreateAlias', 'DisableKey', 'UpdateKeyDescription', 'CreateGrant', 'RevokeGrant'].map(
  (name) => `${name}=10000`,
)

let holdfast: Holdfast
let folder: string
let authority: Authority
/** Each on one connection of its own, some with either process. */
let clients: readonly KMSClient[]
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-processes-'))
  authority = makeAuthority()
  newCertificate()
  writeFileSync(configFile(), '{}')
  holdfast = await startHoldfast({
    env: {
      HOLDFAST_PROCESSES: '2',
      HOLDFAST_CONFIG: configFile(),
      HOLDFAST_TLS_CERT: join(folder, 'cert.pem'),
      HOLDFAST_TLS_KEY: join(folder, 'key.pem'),
      HOLDFAST_REQUEST_RATES: [...rates, `ListAliases=${rate}`].join(','),
    },
  })
  clients = await clientsOfBoth()
})
afterAll(async () => {
  for (const client of clients) client.destroy()
  await holdfast.remove()
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  authority.remove()
})

const configFile = (): string => join(folder, 'holdfast.json')

/** Puts another one where the service reads it. */
function newCertificate(): string {
  const { cert, key } = authority.issue('localhost', ['localhost'])
  writeFileSync(join(folder, 'cert.pem'), cert)
  writeFileSync(join(folder, 'key.pem'), key, { mode: 0o600 })
  return cert
}

function newClient(maxAttempts: number, keepAlive: boolean): KMSClient {
  const { endpoint, region, credentials } = holdfast
  const httpsAgent = new Agent({ keepAlive, maxSockets: 1, ca: authority.ca, servername: 'localhost' })
  return new KMSClient({ endpoint, region, credentials, maxAttempts, requestHandler: { httpsAgent } })
}

/** Which process takes a connection is up to the system. */
async function clientsOfBoth(): Promise<readonly KMSClient[]> {
  const made: KMSClient[] = []
  for (;;) {
    const more = Array.from({ length: 8 }, () => newClient(1, true))
    await Promise.all(more.map((client) => client.send(new ListKeysCommand({}))))
    made.push(...more)
    const open = [...(await ops('/metrics')).matchAll(/^holdfast_connections\{process="\d+"\} (\d+)$/gm)].map(([, count]) => Number(count))
    if (open.length === 2 && open.every((count) => count > 0)) return made
  }
}

const ops = async (path: string): Promise<string> =>
  (await askHttp1({ url: holdfast.opsEndpoint, ca: authority.ca, name: 'localhost' }, { method: 'GET', path })).text

/** The lines of the log, of all processes, that say so. */
const said = (message: string): readonly { readonly pid: number }[] =>
  holdfast
    .log()
    .split('\n')
    .filter((line) => line.includes(`"msg":"${message}"`))
    .map((line) => JSON.parse(line) as { readonly pid: number })

/** Those that serve, by what the supervisor says. */
function serving(): readonly number[] {
  const ended = new Set([...said('a process has ended by itself'), ...said('a process was told to end and has')].map(({ pid }) => pid))
  return said('a process serves').flatMap(({ pid }) => (ended.has(pid) ? [] : [pid]))
}

const processesCheck = async (): Promise<unknown> => {
  const { checks } = JSON.parse(await ops('/readyz')) as { readonly checks: Record<string, unknown> }
  return checks['processes']
}

const total = (page: string, name: string): number =>
  [...page.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'gm'))].reduce((sum, [, value]) => sum + Number(value), 0)

/** In the metrics. */
const grantsCounted = String.raw`holdfast_calls_total\{operation="CreateGrant",code="ok"[^}]*\}`

interface Load {
  /** Of the grants that were answered. */
  readonly grants: string[]
  /** Answers what failed. */
  stop(): Promise<readonly string[]>
}

/**
 * Calls on new connections, one after the other in each of two lanes, none of them tried again, until told to stop. All are under one key that was there
 * before: a new one SoftHSM2 shows to other processes late, and they would be busy with looking for it.
 */
function keepCalling(KeyId: string): Load {
  let going = true
  const failures: string[] = []
  const grants: string[] = []
  const GranteePrincipal = `arn:aws:iam::${holdfast.accountId}:root`
  const lane = async (): Promise<void> => {
    // oxlint-disable-next-line no-unmodified-loop-condition -- stop() does, while a call is waited for
    while (going) {
      const kms = newClient(1, false)
      try {
        grants.push((await kms.send(new CreateGrantCommand({ KeyId, GranteePrincipal, Operations: ['Decrypt'] }))).GrantId ?? '')
        const { CiphertextBlob } = await kms.send(new EncryptCommand({ KeyId, Plaintext: plaintext }))
        const { Plaintext } = await kms.send(new DecryptCommand({ CiphertextBlob }))
        if (!plaintext.equals(Plaintext ?? Buffer.alloc(0))) failures.push('another plaintext')
      } catch (error) {
        failures.push(String(error))
      }
      kms.destroy()
    }
  }
  const running = Promise.all([lane(), lane()])
  const stop = async (): Promise<readonly string[]> => {
    going = false
    await running
    return failures
  }
  onTestFinished(async () => void (await stop()))
  return { grants, stop }
}

/** A key that all processes know: each has used it. */
async function sharedKey(): Promise<string> {
  const KeyId = (await clients[0]?.send(new CreateKeyCommand({})))?.KeyMetadata?.KeyId ?? ''
  await Promise.all(clients.map((kms) => kms.send(new EncryptCommand({ KeyId, Plaintext: plaintext }))))
  return KeyId
}

async function grantsOf(kms: KMSClient, KeyId: string): Promise<ReadonlySet<string | undefined>> {
  const ids = new Set<string | undefined>()
  for await (const { Grants = [] } of paginateListGrants({ client: kms, pageSize: 1000 }, { KeyId }))
    for (const { GrantId } of Grants) ids.add(GrantId)
  return ids
}

test('what one process did, the others know by the time that it is answered', async () => {
  /** By a client after the other, told to all at once. */
  const toAll = <T>(call: (kms: KMSClient) => Promise<T>): Promise<readonly T[]> => Promise.all(clients.map(call))
  for (const [round, kms] of clients.entries()) {
    const KeyId = (await kms.send(new CreateKeyCommand({}))).KeyMetadata?.KeyId
    const AliasName = `alias/round-${round}`
    await kms.send(new CreateAliasCommand({ AliasName, TargetKeyId: KeyId }))
    const blobs = await toAll((each) => each.send(new EncryptCommand({ KeyId: AliasName, Plaintext: plaintext })))
    const CiphertextBlob = blobs[0]?.CiphertextBlob
    await toAll(async (each) =>
      expect(Buffer.from((await each.send(new DecryptCommand({ CiphertextBlob }))).Plaintext ?? [])).toEqual(plaintext),
    )
    await kms.send(new UpdateKeyDescriptionCommand({ KeyId, Description: `${round}` }))
    await toAll(async (each) => expect((await each.send(new DescribeKeyCommand({ KeyId }))).KeyMetadata?.Description).toBe(`${round}`))
    await kms.send(new DisableKeyCommand({ KeyId }))
    await toAll((each) => expect(each.send(new DecryptCommand({ CiphertextBlob }))).rejects.toMatchObject({ name: 'DisabledException' }))
  }
})

test('a grant that one process revoked no other knows', async () => {
  const [any] = clients
  const KeyId = (await any?.send(new CreateKeyCommand({})))?.KeyMetadata?.KeyId
  const GranteePrincipal = `arn:aws:iam::${holdfast.accountId}:root`
  for (const kms of clients) {
    const { GrantId } = await kms.send(new CreateGrantCommand({ KeyId, GranteePrincipal, Operations: ['Decrypt'] }))
    await kms.send(new RevokeGrantCommand({ KeyId, GrantId }))
    for (const each of clients)
      await expect(each.send(new RevokeGrantCommand({ KeyId, GrantId }))).rejects.toMatchObject({ name: 'NotFoundException' })
  }
})

test('a request quota is one for all processes', async () => {
  const startedAt = performance.now()
  const elapsed = (): number => (performance.now() - startedAt) / 1000
  const outcomes = new Set<string>()
  const counts = await Promise.all(
    clients.map(async (kms) => {
      let allowed = 0
      while (elapsed() < 4) {
        const outcome = await kms.send(new ListAliasesCommand({})).then(
          () => 'allowed',
          (error: unknown) => (error as Error).name,
        )
        outcomes.add(outcome)
        if (outcome === 'allowed') allowed += 1
      }
      return allowed
    }),
  )
  expect(outcomes).toEqual(new Set(['allowed', 'ThrottlingException']))
  const allowed = counts.reduce((sum, one) => sum + one, 0)
  // At first a bucketful of each; what the second was too much is owed. Each for itself they would allow twice of 5 and 20 and more.
  const ofOne = rate + rate * elapsed()
  expect(allowed).toBeLessThanOrEqual(ofOne + 2 * rate)
  expect(allowed).toBeGreaterThanOrEqual(rate)
  expect(await ops('/metrics')).toMatch(/^holdfast_throttled_total\{.*class="ListAliases".*process="\d+".*\} \d+$/m)
})

test('the metrics are of each process, and of all together', async () => {
  const each = await ops('/metrics')
  const overall = await ops('/metrics/overall')
  const listed = [...each.matchAll(/^holdfast_calls_total\{operation="CreateKey",code="ok",process="(\d+)"\} \d+$/gm)].map(
    ([, name]) => name,
  )
  expect(listed).toHaveLength(2)
  expect(overall).not.toContain('process=')
  expect(total(overall, 'holdfast_calls_total')).toBe(total(each, 'holdfast_calls_total'))
  // There is one token and one set of keys, however many look at them.
  expect(overall).toMatch(/^holdfast_token_up\{token="default"\} 1$/m)
  expect(total(overall, 'holdfast_keys')).toBe(total(each, 'holdfast_keys') / 2)
  expect(overall).toMatch(/^holdfast_processes 2$/m)
})

/** A connection of its own to the main port. */
function connectOverTls(): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const { port } = new URL(holdfast.endpoint)
    const socket = tlsConnect({ port: Number(port), host: '127.0.0.1', servername: 'localhost', ca: authority.ca }, () => resolve(socket))
    socket.once('error', reject)
  })
}

test('SIGHUP has all processes show the new certificate; connections that are open go on', async () => {
  const certificate = newCertificate()
  const readAgain = (): number => said('the certificate was read again').length
  const before = readAgain()
  process.kill(holdfast.pid, 'SIGHUP')
  // Each process has a main port, the supervisor the operations port.
  await expect.poll(readAgain).toBe(before + 3)
  const shown = await Promise.all(
    Array.from({ length: 30 }, async () => {
      const socket = await connectOverTls()
      const { fingerprint256 } = socket.getPeerCertificate()
      socket.destroy()
      return fingerprint256
    }),
  )
  expect(new Set(shown)).toEqual(new Set([new X509Certificate(certificate).fingerprint256]))
  for (const kms of clients) await kms.send(new ListKeysCommand({}))
})

test('SIGUSR2 replaces all processes, one after the other, and every call is answered meanwhile', { timeout: 180_000 }, async () => {
  await expect.poll(serving, { timeout: 30_000 }).toHaveLength(2)
  const before = serving()
  const KeyId = await sharedKey()
  const counted: number[] = []
  const count = async (): Promise<void> => void counted.push(total(await ops('/metrics/overall'), grantsCounted))
  await count()
  const load = keepCalling(KeyId)
  process.kill(holdfast.pid, 'SIGUSR2')
  const hasEnded = async (): Promise<number> => {
    await count()
    return said('replacing the processes has ended').length
  }
  await expect.poll(hasEnded, { timeout: 120_000, interval: 200 }).toBe(1)
  expect(await load.stop()).toEqual([])
  expect(load.grants.length).toBeGreaterThan(0)
  await expect.poll(() => serving().filter((pid) => !before.includes(pid))).toHaveLength(2)
  expect(serving()).toHaveLength(2)
  expect(await processesCheck()).toEqual({ ok: true, detail: 'ok' })
  // What those counted that have ended is not lost, and nothing is counted twice.
  await count()
  expect(counted).toEqual(counted.toSorted((a, b) => a - b))
  expect((counted.at(-1) ?? 0) - (counted[0] ?? 0)).toBe(load.grants.length)
  expect(total(await ops('/metrics'), grantsCounted)).toBeLessThan(counted.at(-1) ?? 0)
  for (const client of clients) client.destroy()
  clients = await clientsOfBoth()
  const [any] = clients
  const known = any && (await grantsOf(any, KeyId))
  expect(load.grants.filter((id) => !known?.has(id))).toEqual([])
})

test('a process that is killed is replaced, and the others serve meanwhile', { timeout: 180_000 }, async () => {
  const patient = newClient(10, false)
  const KeyId = await sharedKey()
  const load = keepCalling(KeyId)
  // The supervisor's lines come over a pipe.
  await expect.poll(serving, { timeout: 30_000 }).toHaveLength(2)
  const before = serving()
  expect(before).not.toContain(holdfast.pid)
  process.kill(before[0] ?? 0, 'SIGKILL')
  for (let n = 0; n < 10; n++) {
    const { CiphertextBlob } = await patient.send(new EncryptCommand({ KeyId, Plaintext: plaintext }))
    expect(Buffer.from((await patient.send(new DecryptCommand({ CiphertextBlob }))).Plaintext ?? [])).toEqual(plaintext)
  }
  const replaced = (): boolean => serving().length === 2 && !serving().includes(before[0] ?? 0)
  await expect.poll(replaced, { timeout: 90_000, interval: 200 }).toBe(true)
  await expect.poll(processesCheck, { timeout: 90_000, interval: 200 }).toEqual({ ok: true, detail: 'ok' })
  expect(serving()).toContain(before[1])
  // Who was with the one that was killed saw a broken connection; whoever had an answer can rely on it.
  await load.stop()
  const known = await grantsOf(patient, KeyId)
  expect(load.grants.filter((id) => !known.has(id))).toEqual([])
  expect(await ops('/metrics/overall')).toMatch(/^holdfast_process_failures_total [1-9]\d*$/m)
  patient.destroy()
})

test('what cannot start is tried again and again, loudly after five times; those that serve go on', { timeout: 240_000 }, async () => {
  await expect.poll(serving, { timeout: 30_000 }).toHaveLength(2)
  const before = serving()
  writeFileSync(configFile(), '{"nonsense": true}')
  // Told to replace them, it finds that it cannot, and leaves them as they are.
  process.kill(holdfast.pid, 'SIGUSR2')
  await expect
    .poll(() => said('a new process could not start: those that serve go on as they are').length, { timeout: 60_000, interval: 200 })
    .toBe(1)
  expect(serving()).toEqual(before)
  const patient = newClient(10, false)
  process.kill(before[0] ?? 0, 'SIGKILL')
  const loud = 'API processes keep ending, one after the other: see what they said before they did'
  await expect.poll(() => said(loud).length, { timeout: 90_000, interval: 200 }).toBeGreaterThan(0)
  expect(await processesCheck()).toEqual({
    ok: false,
    detail: expect.stringMatching(/^1 of 2 processes serve: \d+ have ended one after the other, the last with exit code 1$/),
  })
  await patient.send(new ListKeysCommand({}))
  patient.destroy()
  writeFileSync(configFile(), '{}')
  await expect.poll(processesCheck, { timeout: 90_000, interval: 200 }).toEqual({ ok: true, detail: 'ok' })
})

test('told to stop, all finish what is under way and end; the trail of all of them is whole', async () => {
  const kms = newClient(3, false)
  const { KeyMetadata } = await kms.send(new CreateKeyCommand({}))
  const calls = [kms, ...Array.from({ length: 15 }, () => newClient(1, false))].map(async (each) => {
    try {
      await each.send(new EncryptCommand({ KeyId: KeyMetadata?.KeyId, Plaintext: plaintext }))
      return 'answered'
    } catch (error) {
      return (error as Error).name
    }
  })
  await Promise.race(calls)
  expect(await holdfast.stop()).toBe(0)
  expect(await Promise.all(calls)).toContain('answered')
  const { problems } = await verifyTrail(join(holdfast.dir, 'audit.db'))
  expect(problems).toEqual([])
})
