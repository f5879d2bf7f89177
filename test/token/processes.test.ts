/** Several API processes on one listener, as one service: real processes on a real token, and callers on connections to each. */

import { Agent } from 'node:http'
import { join } from 'node:path'
import {
  CreateAliasCommand,
  CreateGrantCommand,
  CreateKeyCommand,
  DecryptCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EncryptCommand,
  KMSClient,
  ListKeysCommand,
  RevokeGrantCommand,
  UpdateKeyDescriptionCommand,
} from '@aws-sdk/client-kms'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { verifyTrail } from '../../src/audit/verify.ts'
import { startHoldfast, type Holdfast } from './holdfast.ts'

const plaintext = Buffer.from('between processes')

let holdfast: Holdfast
/** Each on one connection of its own, some with either process. */
let clients: readonly KMSClient[]
beforeAll(async () => {
  holdfast = await startHoldfast({ env: { HOLDFAST_PROCESSES: '2' } })
  clients = await clientsOfBoth()
})
afterAll(async () => {
  for (const client of clients) client.destroy()
  await holdfast.remove()
})

function newClient(maxAttempts: number, keepAlive: boolean): KMSClient {
  const { endpoint, region, credentials } = holdfast
  const httpAgent = new Agent({ keepAlive, maxSockets: 1 })
  return new KMSClient({ endpoint, region, credentials, maxAttempts, requestHandler: { httpAgent } })
}

/** Which process takes a connection is up to the system. */
async function clientsOfBoth(): Promise<readonly KMSClient[]> {
  const made: KMSClient[] = []
  for (;;) {
    const more = Array.from({ length: 8 }, () => newClient(1, true))
    await Promise.all(more.map((client) => client.send(new ListKeysCommand({}))))
    made.push(...more)
    const open = [...(await metrics()).matchAll(/^holdfast_connections\{process="\d+"\} (\d+)$/gm)].map(([, count]) => Number(count))
    if (open.length === 2 && open.every((count) => count > 0)) return made
  }
}

const metrics = async (): Promise<string> => (await fetch(`${holdfast.opsEndpoint}/metrics`)).text()

/** Those that serve, by what the supervisor says. */
function serving(): readonly number[] {
  const said = (message: string): readonly number[] =>
    holdfast
      .log()
      .split('\n')
      .filter((line) => line.includes(`"msg":"${message}"`))
      .map((line) => (JSON.parse(line) as { readonly pid: number }).pid)
  const ended = new Set(said('a process has ended by itself'))
  return said('a process serves').filter((pid) => !ended.has(pid))
}

const processesCheck = async (): Promise<unknown> => {
  const { checks } = (await (await fetch(`${holdfast.opsEndpoint}/readyz`)).json()) as { readonly checks: Record<string, unknown> }
  return checks['processes']
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

test('a process that is killed is replaced, and the others serve meanwhile', { timeout: 120_000 }, async () => {
  const patient = newClient(10, false)
  const { KeyMetadata } = await patient.send(new CreateKeyCommand({}))
  // The supervisor's lines come over a pipe.
  await expect.poll(serving, { timeout: 30_000 }).toHaveLength(2)
  const before = serving()
  expect(before).not.toContain(holdfast.pid)
  process.kill(before[0] ?? 0, 'SIGKILL')
  for (let n = 0; n < 10; n++) {
    const { CiphertextBlob } = await patient.send(new EncryptCommand({ KeyId: KeyMetadata?.KeyId, Plaintext: plaintext }))
    expect(Buffer.from((await patient.send(new DecryptCommand({ CiphertextBlob }))).Plaintext ?? [])).toEqual(plaintext)
  }
  const replaced = (): boolean => serving().length === 2 && !serving().includes(before[0] ?? 0)
  await expect.poll(replaced, { timeout: 90_000, interval: 200 }).toBe(true)
  await expect.poll(processesCheck, { timeout: 90_000, interval: 200 }).toEqual({ ok: true, detail: 'ok' })
  expect(serving()).toContain(before[1])
  patient.destroy()
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
