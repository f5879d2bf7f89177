/** The operations port. */

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { silentLog, type Log } from '../../src/base/log.ts'
import { joinMetrics, openMetrics } from '../../src/base/metrics.ts'
import { openOps, openReadiness, type OpsOptions, type ReadinessOptions } from '../../src/http/ops.ts'

async function opsAt({
  metrics = openMetrics(),
  log = silentLog,
  ...options
}: Partial<ReadinessOptions> & { readonly metrics?: OpsOptions['metrics']; readonly log?: Log }): Promise<string> {
  const readiness = openReadiness({ checks: {}, draining: () => false, ...options })
  const server = createServer(openOps({ metrics, readiness, log }))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const ok = (): Promise<void> => Promise.resolve()

test('ready is 200 only when every check is well; what is not says why', async () => {
  const well = await fetch(`${await opsAt({ checks: { token: ok, store: ok } })}/readyz`)
  expect(well.status).toBe(200)
  expect(await well.json()).toEqual({ ready: true, checks: { token: { ok: true, detail: 'ok' }, store: { ok: true, detail: 'ok' } } })
  const part = await fetch(
    `${await opsAt({ checks: { token: ok }, parts: () => ({ other: () => Promise.reject(new Error('off')) }) })}/readyz`,
  )
  expect(part.status).toBe(200)
  expect(await part.json()).toEqual({ ready: true, checks: { other: { ok: false, detail: 'off' }, token: { ok: true, detail: 'ok' } } })
  const ill = await fetch(`${await opsAt({ checks: { token: () => Promise.reject(new Error('no login')), store: ok } })}/readyz`)
  expect(ill.status).toBe(503)
  // A balancer in front asks again.
  expect(ill.headers.get('cache-control')).toBe('no-store')
  expect(await ill.json()).toMatchObject({ ready: false, checks: { token: { ok: false, detail: 'no login' }, store: { ok: true } } })
})

test('a check that hangs, or throws at once, is not ready', async () => {
  const url = await opsAt({
    checkTimeoutMs: 50,
    checks: {
      token: () => new Promise(() => undefined),
      store: () => {
        throw new Error('broken')
      },
    },
  })
  expect(await (await fetch(`${url}/readyz`)).json()).toMatchObject({
    ready: false,
    checks: { token: { detail: 'no answer within 50 ms' }, store: { detail: 'broken' } },
  })
})

test('many askers at once cause one check', async () => {
  let checks = 0
  const url = await opsAt({ checks: { token: async () => void checks++ } })
  await Promise.all(Array.from({ length: 20 }, () => fetch(`${url}/readyz`)))
  expect(checks).toBe(1)
})

test('a service that goes down is not ready, but alive', async () => {
  const url = await opsAt({ checks: { token: ok }, draining: () => true })
  expect((await fetch(`${url}/readyz`)).status).toBe(503)
  expect((await fetch(`${url}/healthz`)).status).toBe(200)
})

test('the page of metrics is in the text format, with readings taken when it is asked for', async () => {
  const metrics = openMetrics()
  let value = 1
  metrics.gauge('holdfast_test', 'A reading.', () => value)
  metrics.gauge('holdfast_test_labelled', 'Readings.', () => [{ labels: { key: 'k' }, value: 5 }])
  metrics.gauge('holdfast_test_later', 'A promise.', async () => 7)
  metrics.total('holdfast_test_total', 'A total.', () => 9)
  metrics.call('Encrypt', 'ok', 3)
  metrics.call('Encrypt', 'NotFoundException', 3)
  metrics.seconds('holdfast_test_seconds', 'Waits.')(0.02)
  metrics.count('holdfast_test_count', 'Events.')()
  const url = await opsAt({ metrics })
  value = 2
  const response = await fetch(`${url}/metrics`)
  expect(response.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/)
  const text = await response.text()
  for (const line of [
    'holdfast_test 2',
    'holdfast_test_labelled{key="k"} 5',
    'holdfast_test_later 7',
    'holdfast_test_total 9',
    '# TYPE holdfast_test_total counter',
    'holdfast_calls_total{operation="Encrypt",code="ok"} 1',
    'holdfast_calls_total{operation="Encrypt",code="NotFoundException"} 1',
    'holdfast_call_seconds_count{operation="Encrypt"} 2',
    'holdfast_test_seconds_count 1',
    'holdfast_test_count 1',
    '# TYPE nodejs_eventloop_lag_p99_seconds gauge',
  ]) {
    expect(text.split('\n')).toContain(line)
  }
})

test('a page that cannot be made says so in the log, and outside nothing but that it failed', async () => {
  const logged: unknown[] = []
  const log = { ...silentLog, error: (...line: unknown[]) => void logged.push(line) }
  const reason = new Error('a reading with a secret in it')
  const response = await fetch(`${await opsAt({ log, metrics: { page: () => Promise.reject(reason) } })}/metrics`)
  expect([response.status, await response.json()]).toEqual([500, { message: 'The request failed.' }])
  expect(logged).toEqual([[{ method: 'GET', path: '/metrics', err: reason }, 'a request that is no call failed']])
})

test('the page is of all processes together only where that is asked for', async () => {
  const url = await opsAt({ metrics: { page: async (overall) => ({ contentType: 'text/plain', text: overall ? 'overall' : 'each' }) } })
  expect(await (await fetch(`${url}/metrics`)).text()).toBe('each')
  expect(await (await fetch(`${url}/metrics/overall`)).text()).toBe('overall')
})

test('anything else is 404 in JSON', async () => {
  const response = await fetch(`${await opsAt({})}/nothing`)
  expect(response.status).toBe(404)
  expect(await response.json()).toEqual({ message: 'There is nothing at GET /nothing.' })
})

test('the pages of several processes become one, on which each value says of which process it is', async () => {
  const processes = ['1', '2'].map((name) => {
    const metrics = openMetrics(name)
    metrics.call('Encrypt', 'ok', Number(name))
    metrics.gauge('holdfast_test', 'A reading.', () => Number(name) * 10)
    return metrics
  })
  const { contentType, text } = await joinMetrics(await Promise.all(processes.map((metrics) => metrics.values())))
  expect(contentType).toMatch(/^text\/plain; version=0\.0\.4/)
  const lines = text.split('\n')
  for (const line of [
    'holdfast_test{process="1"} 10',
    'holdfast_test{process="2"} 20',
    'holdfast_calls_total{operation="Encrypt",code="ok",process="1"} 1',
    'holdfast_calls_total{operation="Encrypt",code="ok",process="2"} 1',
  ])
    expect(lines.filter((each) => each === line)).toHaveLength(1)
  expect(lines.filter((line) => line === '# TYPE holdfast_calls_total counter')).toHaveLength(1)
})
