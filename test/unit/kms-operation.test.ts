/** The end of the road: what is recorded, what is counted, and what its caller hears. */

import { expect, test } from 'vitest'
import type { AuditRecord } from '../../src/audit/trail.ts'
import type { Principal } from '../../src/auth/principal.ts'
import { openMetrics } from '../../src/base/metrics.ts'
import { kmsError } from '../../src/kms/errors.ts'
import { execute, operation, type Incoming } from '../../src/kms/operation.ts'
import type { Service } from '../../src/kms/service.ts'

const principal: Principal = {
  type: 'Root',
  arn: 'arn:aws:iam::111122223333:root',
  accountId: '111122223333',
  principalId: '111122223333',
  accessKeyId: 'AKIAEXAMPLE',
  tags: new Map(),
  identityPolicies: [],
}
const api = { name: 'kms', eventSource: 'kms.amazonaws.com', actionPrefix: 'kms' } as const
const answering = operation({ input: {}, output: ['Done'], readOnly: true, run: () => ({ Done: true }) })('Answer', api)

/** A service whose trail and count do as they are told. */
function serviceThat({
  append,
  count,
  strangersRecorded = true,
}: {
  readonly append?: () => Promise<void>
  readonly count?: () => void
  readonly strangersRecorded?: boolean
}) {
  const records: AuditRecord[] = []
  const logged: string[] = []
  const service = {
    config: { regions: ['us-east-1'], accountId: '111122223333' },
    log: { error: (_fields: unknown, message: string) => void logged.push(message) },
    metrics: openMetrics(),
    throttle: { charge: () => undefined },
    strangers: { isRecorded: () => strangersRecorded },
    trail: { append: async (record: AuditRecord) => (append ? append() : void records.push(record)) },
    usage: { count: count ?? (() => undefined) },
  } as unknown as Service
  return { service, records, logged }
}

const incoming: Incoming = {
  facts: { requestId: 'r', sourceIp: '127.0.0.1', userAgent: 'test', tls: undefined, host: 'test', receivedAt: 0 },
  authenticate: () => ({ principal, region: 'us-east-1' }),
  body: () => ({}),
}

test('a call that was done and recorded is answered, though it could not be counted; the log says that and no more', async () => {
  const { service, records, logged } = serviceThat({
    count: () => {
      throw new Error('a defect')
    },
  })
  expect(await execute(service, answering, incoming)).toEqual({ Done: true })
  expect(records).toEqual([expect.objectContaining({ eventName: 'Answer' })])
  expect(logged).toEqual(['the call could not be counted'])
})

test('a call that could not be recorded fails and is not counted', async () => {
  let counted = 0
  const { service, logged } = serviceThat({ append: () => Promise.reject(new Error('a full disk')), count: () => void counted++ })
  await expect(execute(service, answering, incoming)).rejects.toMatchObject({ code: 'KMSInternalException' })
  expect(logged).toEqual(['the audit record could not be written; the call fails'])
  expect(counted).toBe(0)
})

test('a caller that is not known has a record of its own only while there are few of them; one that is has it always', async () => {
  const stranger: Incoming = {
    ...incoming,
    authenticate: () => {
      throw kmsError('UnrecognizedClientException', 'The security token included in the request is invalid.')
    },
  }
  for (const strangersRecorded of [true, false]) {
    const { service, records } = serviceThat({ strangersRecorded })
    await expect(execute(service, answering, stranger)).rejects.toMatchObject({ code: 'UnrecognizedClientException' })
    expect(records).toHaveLength(strangersRecorded ? 1 : 0)
    await execute(service, answering, incoming)
    expect(records.at(-1)).toMatchObject({ userIdentity: { type: 'Root' } })
    expect(records).toHaveLength(strangersRecorded ? 2 : 1)
  }
})
