/** Regions on tokens of their own: which key is where, what one that is out of reach stops and what it does not. */

import { renameSync } from 'node:fs'
import { join } from 'node:path'
import { CreateKeyCommand, DecryptCommand, EncryptCommand, KMSClient } from '@aws-sdk/client-kms'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { given, refusalOf } from './contract/kit.ts'
import { startHoldfast, type Holdfast } from './holdfast.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'

const [home, other] = ['us-east-1', 'eu-west-1'] as const
const plaintext = Buffer.from('where is my key')

let lab: LabToken
let holdfast: Holdfast
beforeAll(async () => {
  lab = await makeSoftHsmToken({ label: 'frankfurt' })
  // Everything in one token, as a data directory from before has it.
  holdfast = await startHoldfast({ env: { HOLDFAST_LOG_LEVEL: 'warn' } })
})
afterAll(async () => {
  await holdfast.remove()
  await lab.remove()
})

async function inRegion<T>(region: string, use: (client: KMSClient) => Promise<T>): Promise<T> {
  const client = new KMSClient({ endpoint: holdfast.endpoint, region, credentials: holdfast.credentials, maxAttempts: 1 })
  try {
    return await use(client)
  } finally {
    client.destroy()
  }
}
const make = (region: string): Promise<string> =>
  inRegion(region, async (client) => given((await client.send(new CreateKeyCommand({}))).KeyMetadata?.KeyId))
const encrypt = (region: string, keyId: string): Promise<Uint8Array> =>
  inRegion(region, async (client) => given((await client.send(new EncryptCommand({ KeyId: keyId, Plaintext: plaintext }))).CiphertextBlob))
const decrypt = (region: string, blob: Uint8Array): Promise<Buffer> =>
  inRegion(region, async (client) => Buffer.from(given((await client.send(new DecryptCommand({ CiphertextBlob: blob }))).Plaintext)))

async function readiness(): Promise<{ readonly ready: boolean; readonly checks: Readonly<Record<string, { readonly ok: boolean }>> }> {
  const answer = await fetch(`${holdfast.opsEndpoint}/readyz`)
  return (await answer.json()) as Awaited<ReturnType<typeof readiness>>
}

test('a key stays in the token it was made in, and only keys in a token that is out of reach stand still', async () => {
  const [mine, old] = [await make(home), await make(other)]
  const blobs = { mine: await encrypt(home, mine), old: await encrypt(other, old) }

  const { library, label, pinFile } = lab
  const env = {
    HOLDFAST_LOG_LEVEL: 'warn',
    HOLDFAST_TOKENS: JSON.stringify({ frankfurt: { library, tokenLabel: label, pinFile } }),
    HOLDFAST_REGION_TOKENS: `${other}=frankfurt`,
    SOFTHSM2_CONF: lab.env['SOFTHSM2_CONF'] ?? '',
  }
  await holdfast.restart({ env })
  const fresh = await make(other)
  const newBlob = await encrypt(other, fresh)
  expect(await decrypt(other, blobs.old)).toEqual(plaintext)
  expect(await decrypt(other, newBlob)).toEqual(plaintext)
  expect(await readiness()).toMatchObject({ ready: true, checks: { token: { ok: true }, 'token frankfurt': { ok: true } } })

  await holdfast.stop()
  const tokens = join(lab.dir, 'token', 'tokens')
  renameSync(tokens, `${tokens}.away`)
  await holdfast.restart()
  expect(await decrypt(home, blobs.mine)).toEqual(plaintext)
  expect(await decrypt(other, blobs.old)).toEqual(plaintext)
  for (const call of [() => decrypt(other, newBlob), () => make(other)]) {
    expect(await refusalOf(call())).toMatchObject({ name: 'DependencyTimeoutException', status: 503 })
  }
  expect(await readiness()).toMatchObject({ ready: true, checks: { token: { ok: true }, 'token frankfurt': { ok: false } } })
  const metrics = await (await fetch(`${holdfast.opsEndpoint}/metrics`)).text()
  expect(metrics).toContain('holdfast_token_up{token="default"} 1')
  expect(metrics).toContain('holdfast_token_up{token="frankfurt"} 0')

  // Back again, it is found without a restart.
  renameSync(`${tokens}.away`, tokens)
  await expect.poll(() => decrypt(other, newBlob).catch(() => undefined), { timeout: 60_000, interval: 250 }).toEqual(plaintext)
})
