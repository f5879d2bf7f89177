/** What was answered is in the trail, whatever becomes of the process: the real program, real ports, SIGKILL with calls under way. */

import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { exportTrail } from '../../src/audit/export.ts'
import { verifyTrail } from '../../src/audit/verify.ts'
import { rawCall, startHoldfast, type Holdfast, type RawAnswer } from './holdfast.ts'

let holdfast: Holdfast
beforeAll(async () => {
  holdfast = await startHoldfast()
})
afterAll(() => holdfast.remove())

const wanted = 1000
const atOnce = 32

async function recordedRequests(file: string): Promise<ReadonlyMap<string, Readonly<Record<string, unknown>>>> {
  const found = new Map<string, Readonly<Record<string, unknown>>>()
  for await (const line of exportTrail(file)) {
    const { record } = JSON.parse(line) as { readonly record?: Readonly<Record<string, unknown>> | string }
    const read = typeof record === 'string' ? (JSON.parse(record) as Readonly<Record<string, unknown>>) : record
    if (read) found.set(String(read['requestID']), read)
  }
  return found
}

test('a thousand calls that were answered before SIGKILL are all in the trail, and the trail verifies', { timeout: 300_000 }, async () => {
  const made = await rawCall(holdfast, 'kms', 'CreateKey', {})
  const { KeyId: keyId } = made.json['KeyMetadata'] as { readonly KeyId: string }
  const blob = (await rawCall(holdfast, 'kms', 'Encrypt', { KeyId: keyId, Plaintext: 'QUFB' })).json['CiphertextBlob']
  /** Calls of every outcome: answered, refused by its shape, denied by what it names, unreadable. */
  const kinds = [
    ['Encrypt', { KeyId: keyId, Plaintext: 'QUFB', EncryptionContext: { a: 'b' } }],
    ['Decrypt', { CiphertextBlob: blob }],
    ['GenerateDataKey', { KeyId: keyId, KeySpec: 'AES_256' }],
    ['DescribeKey', { KeyId: 'alias/nobody' }],
    ['Encrypt', { KeyId: '', Plaintext: '' }],
    ['Decrypt', { CiphertextBlob: 'AAAA' }],
    ['ListKeys', 'this is no JSON'],
  ] as const

  const answered = new Map<string, { readonly operation: string; readonly answer: RawAnswer }>()
  let sent = 0
  let killed = false
  const caller = async (): Promise<void> => {
    while (!killed) {
      const [operation, body] = kinds[sent++ % kinds.length] ?? kinds[0]
      try {
        const answer = await rawCall(holdfast, 'kms', operation, body)
        answered.set(answer.headers.get('x-amzn-requestid') ?? '', { operation, answer })
      } catch {
        // The process is gone, and with it this answer.
        return
      }
      if (answered.size >= wanted && !killed) {
        // Others are under way now.
        killed = true
        await holdfast.kill9()
      }
    }
  }
  await Promise.all(Array.from({ length: atOnce }, caller))

  expect(answered.size).toBeGreaterThanOrEqual(wanted)
  const file = join(holdfast.dir, 'audit.db')
  const check = async (): Promise<void> => {
    const recorded = await recordedRequests(file)
    const lost = [...answered].filter(([id, { operation, answer }]) => {
      const record = recorded.get(id)
      return record?.['eventName'] !== operation || record['errorCode'] !== answer.json['__type']
    })
    expect(lost).toEqual([])
    const verdict = await verifyTrail(file)
    expect(verdict.problems).toEqual([])
    expect(verdict.records).toBeGreaterThanOrEqual(answered.size)
  }
  // As the dead process left it, and after the next one has opened and sealed it.
  await check()
  await holdfast.restart()
  expect((await rawCall(holdfast, 'kms', 'Decrypt', { CiphertextBlob: blob })).json['Plaintext']).toBe('QUFB')
  await check()
})
