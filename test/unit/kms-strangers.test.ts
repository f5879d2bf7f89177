/** What is in the audit of requests that nobody has signed, however many there are. */

import { expect, test } from 'vitest'
import type { AuditRecord } from '../../src/audit/trail.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { openMetrics } from '../../src/base/metrics.ts'
import { openStrangers, type Stranger } from '../../src/kms/strangers.ts'

const request: Stranger = {
  eventSource: 'kms.amazonaws.com',
  accountId: '111122223333',
  errorCode: 'InvalidSignatureException',
  sourceIp: '192.0.2.1',
}

/** @param failing appends that fail first */
function open({ failing = 0, summariseAfterMs = 3_600_000 } = {}) {
  const clock = new ManualClock()
  const metrics = openMetrics()
  const records: AuditRecord[] = []
  let left = failing
  const append = async (record: AuditRecord): Promise<void> => {
    if (left-- > 0) throw new Error('a full disk')
    records.push(record)
  }
  const strangers = openStrangers({ trail: { append }, clock, log: silentLog, metrics, region: 'us-east-1', summariseAfterMs })
  const details = () => records.map((record) => record['serviceEventDetails'] as Record<string, unknown>)
  return { strangers, clock, metrics, records, details }
}

test('ten a second of each lane are recorded; one record says how many the others were, of what kind and from where', async () => {
  const { strangers, clock, metrics, records } = open()
  const answers = Array.from({ length: 25 }, () => strangers.isRecorded(request))
  expect(answers).toEqual([...Array<boolean>(10).fill(true), ...Array<boolean>(15).fill(false)])
  const ofStore = { ...request, eventSource: 'xks.holdfast', prefix: '/tenant' }
  expect(strangers.isRecorded(ofStore)).toBe(true)
  const since = new Date(clock.now()).toISOString()
  clock.advance(1000)
  for (let n = 0; n < 10; n++) expect(strangers.isRecorded(request)).toBe(true)
  expect(strangers.isRecorded({ ...request, errorCode: 'UnrecognizedClientException', sourceIp: '192.0.2.2' })).toBe(false)
  strangers.count({ ...ofStore, errorCode: 'ThrottlingException' })
  expect((await metrics.page()).text).toMatch(/^holdfast_audit_unrecorded_total\{kind="kms",prefix=""\} 16$/m)
  expect((await metrics.page()).text).toMatch(/^holdfast_audit_unrecorded_total\{kind="xks",prefix="\/tenant"\} 1$/m)
  expect(records).toEqual([])
  await strangers.close()
  expect(records).toEqual([
    expect.objectContaining({
      eventType: 'AwsServiceEvent',
      eventSource: 'kms.amazonaws.com',
      eventName: 'UnrecordedRequests',
      awsRegion: 'us-east-1',
      recipientAccountId: '111122223333',
      serviceEventDetails: {
        requests: 16,
        since,
        byErrorCode: { InvalidSignatureException: 15, UnrecognizedClientException: 1 },
        bySourceIPAddress: { '192.0.2.1': 15, '192.0.2.2': 1 },
      },
    }),
    expect.objectContaining({
      eventSource: 'xks.holdfast',
      serviceEventDetails: expect.objectContaining({ uriPathPrefix: '/tenant', requests: 1, byErrorCode: { ThrottlingException: 1 } }),
    }),
  ])
})

test('what was said is not said again, and nothing is said of nothing', async () => {
  const { strangers, details } = open()
  strangers.count(request)
  await strangers.close()
  await strangers.close()
  expect(strangers.isRecorded(request)).toBe(true)
  await strangers.close()
  expect(details()).toHaveLength(1)
})

test('it is said by itself after a while, once for all that came until then', async () => {
  const { strangers, details } = open({ summariseAfterMs: 1 })
  for (let n = 0; n < 3; n++) strangers.count(request)
  await expect.poll(details).toEqual([expect.objectContaining({ requests: 3 })])
  strangers.count(request)
  await expect.poll(details).toEqual([expect.objectContaining({ requests: 3 }), expect.objectContaining({ requests: 1 })])
})

test('what could not be said is kept, with what came meanwhile', async () => {
  const { strangers, details } = open({ failing: 1 })
  strangers.count(request)
  const saying = strangers.close()
  await Promise.resolve()
  strangers.count({ ...request, errorCode: 'IncompleteSignatureException', sourceIp: '192.0.2.7' })
  await saying
  expect(details()).toEqual([])
  await strangers.close()
  expect(details()).toEqual([
    expect.objectContaining({
      requests: 2,
      byErrorCode: { InvalidSignatureException: 1, IncompleteSignatureException: 1 },
      bySourceIPAddress: { '192.0.2.1': 1, '192.0.2.7': 1 },
    }),
  ])
})

test('whoever comes from very many addresses does not make the record long', async () => {
  const { strangers, details } = open()
  for (let n = 0; n < 1000; n++) strangers.count({ ...request, sourceIp: `2001:db8::${n.toString(16)}` })
  await strangers.close()
  const addresses = details()[0]?.['bySourceIPAddress'] as Record<string, number>
  expect(Object.keys(addresses)).toHaveLength(17)
  expect(addresses).toMatchObject({ '2001:db8::0': 1, others: 984 })
})
