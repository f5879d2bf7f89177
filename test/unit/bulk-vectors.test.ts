/** Messages that were written once, by the AWS Encryption SDK, by this program and by hand: whatever changes here, they are read. */

import { readFileSync } from 'node:fs'
import { afterAll, expect, test } from 'vitest'
import { openBulkPool } from '../../src/bulk/bulk-pool.ts'
import { decrypt, decryptStream } from '../../src/bulk/stream.ts'
import { drain, inChunks, keyring } from './bulk-kit.ts'

interface Vector {
  readonly by: string
  readonly suite: string
  readonly keptOut?: Readonly<Record<string, string>>
  readonly message: string
}
const file = JSON.parse(readFileSync(new URL('bulk-vectors.json', import.meta.url), 'utf8')) as {
  readonly plaintext: string
  readonly context: Readonly<Record<string, string>>
  readonly messages: readonly Vector[]
}
const plaintext = Buffer.from(file.plaintext, 'base64')
const pool = openBulkPool({ threads: 1 })
afterAll(() => pool.close())
const options = { keyring, pool, commitmentPolicy: 'REQUIRE_ENCRYPT_ALLOW_DECRYPT' } as const

test.each(file.messages)('$suite by $by is read: whole, byte by byte, and by its context', async ({ suite, message, keptOut = {} }) => {
  const bytes = Buffer.from(message, 'base64')
  const whole = await decrypt(bytes, { ...options, context: keptOut })
  expect(whole.plaintext.equals(plaintext)).toBe(true)
  expect(whole.header.suite.name).toBe(suite)
  expect({ ...whole.header.context, ...keptOut }).toMatchObject(file.context)
  const { out, error } = await drain(decryptStream(inChunks(bytes, 1), { ...options, context: file.context }))
  expect(error).toBeUndefined()
  expect(out.equals(plaintext)).toBe(true)
})

test('every suite is there, and a body without frames', () => {
  expect(new Set(file.messages.map(({ suite }) => suite)).size).toBe(11)
  expect(file.messages.length).toBe(15)
})
