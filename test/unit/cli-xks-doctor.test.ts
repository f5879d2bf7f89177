/** The words of `holdfast xks doctor`, and what becomes of them. */

import { afterAll, expect, test } from 'vitest'
import { runCommandLine } from '../../src/cli/commands.ts'
import type { Wiring, XksDoctorOptions } from '../../src/cli/wiring.ts'
import { scratch } from './http-fixture.ts'

const files = scratch()
afterAll(() => files.remove())
const secret = 'a-secret-that-is-not-to-be-shown'
const credential = files.write(
  'store.json',
  JSON.stringify({
    XksProxyUriPath: '/p/kms/xks/v1',
    XksProxyAuthenticationCredential: { AccessKeyId: 'A'.repeat(24), RawSecretAccessKey: secret },
  }),
)

async function doctor(words: readonly string[], healthy = true) {
  let asked: XksDoctorOptions | undefined
  let said = ''
  const wiring = {
    print: async (text: string) => void (said += text),
    printError: async (text: string) => void (said += text),
    readInput: async () =>
      '{"XksProxyUriPath":"/in/kms/xks/v1","XksProxyAuthenticationCredential":{"AccessKeyId":"I","RawSecretAccessKey":"S"}}',
    clientSettings: () => ({ region: 'eu-west-1' }),
    xksDoctor: async (options: XksDoctorOptions) => {
      asked = options
      return { text: 'the text\n', report: { the: 'report' }, healthy }
    },
  } as unknown as Wiring
  const code = await runCommandLine(['xks', 'doctor', ...words], wiring)
  return { code, said, asked }
}

test('its options come from the flags, the credential from its file or from standard input', async () => {
  const ca = files.write('ca.pem', 'PEM')
  const where = ['--endpoint', 'https://xks.example.com', '--connect', '[::1]:8443', '--ca', ca, '--client-cert', ca, '--client-key', ca]
  const what = ['--credential', credential, '--key', 'k', '--region', 'us-west-2', '--calls', '7']
  const { code, said, asked } = await doctor([...where, ...what])
  expect([code, said]).toEqual([0, 'the text\n'])
  expect(asked).toEqual({
    endpoint: new URL('https://xks.example.com'),
    path: '/p/kms/xks/v1',
    credentials: { accessKeyId: 'A'.repeat(24), secretAccessKey: secret },
    externalKeyId: 'k',
    region: 'us-west-2',
    connectTo: { host: '::1', port: 8443 },
    ca: 'PEM',
    client: { cert: 'PEM', key: 'PEM' },
    calls: 7,
  })
  const short = await doctor(['--endpoint', 'https://xks.example.com', '--credential', '-', '--json'])
  expect(JSON.parse(short.said)).toEqual({ the: 'report' })
  expect(short.asked).toEqual({
    endpoint: new URL('https://xks.example.com'),
    path: '/in/kms/xks/v1',
    credentials: { accessKeyId: 'I', secretAccessKey: 'S' },
    region: 'eu-west-1',
    calls: 200,
  })
})

test('it ends with 1 when something is wrong', async () => {
  expect((await doctor(['--endpoint', 'https://xks.example.com', '--credential', credential], false)).code).toBe(1)
})

test.each<[string, readonly string[], number, RegExp]>([
  ['an endpoint with a path', ['--endpoint', 'https://xks.example.com/p', '--credential', credential], 2, /--endpoint must be https/],
  ['an endpoint that is no URL', ['--endpoint', 'xks.example.com', '--credential', credential], 2, /--endpoint must be https/],
  ['no port to connect to', ['--endpoint', 'https://h', '--credential', credential, '--connect', 'h'], 2, /--connect must be HOST:PORT/],
  [
    'a port that is none',
    ['--endpoint', 'https://h', '--credential', credential, '--connect', 'h:70000'],
    2,
    /--connect must be HOST:PORT/,
  ],
  ['no calls', ['--endpoint', 'https://h', '--credential', credential, '--calls', '0'], 2, /--calls must be a whole number/],
  ['half a client certificate', ['--endpoint', 'https://h', '--credential', credential, '--client-cert', credential], 2, /go together/],
  ['a file that is not there', ['--endpoint', 'https://h', '--credential', '/no/such/file'], 2, /cannot be read/],
  [
    'a credential that is not JSON',
    ['--endpoint', 'https://h', '--credential', files.write('bad.json', `not JSON, and ${secret}`)],
    1,
    /is not JSON/,
  ],
  [
    'one that lacks a member',
    ['--endpoint', 'https://h', '--credential', files.write('short.json', `{"RawSecretAccessKey":"${secret}"}`)],
    1,
    /must have XksProxyUriPath/,
  ],
  ['one that is null', ['--endpoint', 'https://h', '--credential', files.write('null.json', 'null')], 1, /must have XksProxyUriPath/],
])('%s is refused, with nothing of a secret', async (_what, words, code, message) => {
  const outcome = await doctor(words)
  expect(outcome.code).toBe(code)
  expect(outcome.said).toMatch(message)
  expect(outcome.said).not.toContain(secret)
  expect(outcome.asked).toBeUndefined()
})
