/** The command line: what it takes, what it refuses, and what it says then. */

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { commands, runCommandLine } from '../../src/cli/commands.ts'
import type { ClientSettings, Wiring } from '../../src/cli/wiring.ts'
import { readAuthorization } from '../../src/auth/sigv4.ts'
import { scratch } from './http-fixture.ts'

interface Ran {
  readonly code: number
  readonly out: string
  readonly err: string
}

async function runCli(words: readonly string[], wiring: Partial<Wiring> = {}): Promise<Ran> {
  let out = ''
  let err = ''
  const unused = (): never => {
    throw new Error('this command must not need it')
  }
  const code = await runCommandLine(words, {
    print: async (text) => void (out += text),
    printError: async (text) => void (err += text),
    readInput: unused,
    streams: { input: unused, write: unused, outputIsTerminal: unused, errorIsTerminal: unused, interruption: unused },
    nowMs: () => 1_800_000_000_000,
    serve: unused,
    doctor: unused,
    rootKey: unused,
    clientSettings: unused,
    effectiveConfig: unused,
    xksDoctor: unused,
    settingsTable: unused,
    auditTrail: unused,
    bench: unused,
    compareBenches: unused,
    ...wiring,
  })
  return { code, out, err }
}

interface Received {
  readonly target: string
  readonly body: unknown
  readonly authorization: ReturnType<typeof readAuthorization>
}

/** A service that answers each call with the next answer, and remembers what it got. */
async function fakeService(
  ...answers: readonly (readonly [status: number, body: unknown])[]
): Promise<{ readonly received: Received[]; readonly settings: ClientSettings }> {
  const received: Received[] = []
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const body = Buffer.concat(chunks)
      const { method = '', url = '', headers } = request
      received.push({
        target: String(headers['x-amz-target']),
        body: JSON.parse(body.toString()),
        authorization: readAuthorization({ method, path: url, query: '', headers, body }, 1_800_000_000_000, {
          services: new Set(['holdfast']),
        }),
      })
      const [status, answer] = answers[received.length - 1] ?? [500, {}]
      response.writeHead(status).end(JSON.stringify(answer))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  const files = scratch()
  onTestFinished(() => files.remove())
  return {
    received,
    settings: {
      endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      isOwnService: false,
      region: 'eu-west-1',
      credentials: { accessKeyId: 'AKIAEXAMPLEEXAMPLE', secretAccessKey: 'secret' },
      credentialsFile: `${files.dir}/credentials`,
      awsCredentialsFile: `${files.dir}/aws-credentials`,
      profile: 'default',
      callRegion: 'eu-west-1',
      trust: undefined,
    },
  }
}

test('help lists every command, and each command has its own help that names every flag', async () => {
  const overview = await runCli(['help'])
  expect(overview.code).toBe(0)
  for (const command of commands) {
    expect(overview.out).toContain(`  ${command.name} `)
    for (const words of [
      ['help', ...command.name.split(' ')],
      [...command.name.split(' '), '--help'],
    ]) {
      const { code, out } = await runCli(words)
      expect(code).toBe(0)
      expect(out).toContain(`holdfast ${command.name}`)
      expect(out).toContain(command.summary)
      for (const flag of Object.keys(command.flags ?? {})) expect(out).toContain(`--${flag}`)
    }
  }
})

test('the commands that were promised are there', () => {
  const names = commands.map(({ name }) => name)
  expect(names).toEqual(
    expect.arrayContaining([
      'serve',
      'doctor',
      'user create',
      'role create',
      'access-key create',
      'policy put',
      'account create',
      'keys attest',
      'usage',
      'audit verify',
      'audit export',
      'config',
      'bench',
    ]),
  )
  expect(new Set(names).size).toBe(names.length)
})

test.each([
  [[], /holdfast: an AWS-KMS-compatible/],
  [['serv'], /Did you mean serve\?/],
  [['nonsense'], /There is no command "nonsense"\. See holdfast help\./],
  [['user'], /holdfast user needs one of: create, get, list, delete\./],
  [['user', 'crate'], /Did you mean user create\?/],
  [['user', 'create'], /user create needs USER\./],
  [['user', 'create', 'a', 'b'], /takes 1 argument; "b" is one too many/],
  [['user', 'create', 'a', '--pth', '/x/'], /has no flag --pth\. Did you mean --path\?/],
  [['user', 'create', 'a', '--path'], /--path needs a value: --path \/PATH\//],
  [['user', 'create', 'a', '--path', '--tag', 'a=b'], /--path needs a value/],
  [['user', 'create', 'a', '--path=/x/', '--path', '/y/'], /--path may be given once/],
  [['user', 'create', 'a', '-j'], /has no flag -j/],
  [['user', 'create', 'a', '--json=1'], /--json takes no value/],
  [['user', 'create', 'a', '--tag', 'novalue'], /--tag must be KEY=VALUE/],
  [['user', 'create', 'a', '--constructor'], /has no flag --constructor/],
  [['role', 'create', 'r'], /role create needs --trust-policy DOCUMENT/],
  [['role', 'create', 'r', '--trust-policy', '/does/not/exist'], /which cannot be read/],
  [['role', 'create', 'r', '--trust-policy', '{}', '--max-session-seconds', '1h'], /must be a whole number/],
  [['policy', 'list'], /Say whose policy: --user USER or --role ROLE/],
  [['policy', 'list', '--user', 'a', '--role', 'b'], /Say whose policy/],
  [['access-key', 'create', '--save-profile', 'a\nb'], /--save-profile must be/],
  [['bench', '--seconds', '0'], /--seconds must be a number from 0\.01 to 600/],
  [['bench', '--rounds', '1.5'], /--rounds must be a whole number from 1 to 100/],
  [['bench', '--quick', '--full'], /--quick or --full, not both/],
  [['bench', '--compare', 'a.json'], /compares two files: --compare A\.json B\.json/],
  [['bench', '--grants', 'many'], /--grants must be a whole number from 0 to 10000000/],
  [['audit', 'export', '--from', 'yesterday'], /--from must be a time/],
] as const)('%j is a usage error with exit code 2', async (words, message) => {
  const { code, out, err } = await runCli(words)
  expect(code).toBe(2)
  expect(err).toMatch(message)
  expect(out).toBe('')
})

test('an administrative command is one signed call with the members of its operation', async () => {
  const { received, settings } = await fakeService([200, { User: { UserName: 'bob', CreateDate: 1_800_000_000.5 } }])
  const { code, out } = await runCli(['user', 'create', 'bob', '--path', '/ops/', '--tag', 'a=b=c', '--tag', 'd='], {
    clientSettings: () => settings,
  })
  expect(code).toBe(0)
  expect(received).toMatchObject([
    {
      target: 'Holdfast.CreateUser',
      body: {
        UserName: 'bob',
        Path: '/ops/',
        Tags: [
          { Key: 'a', Value: 'b=c' },
          { Key: 'd', Value: '' },
        ],
      },
      authorization: { service: 'holdfast', region: 'eu-west-1', accessKeyId: 'AKIAEXAMPLEEXAMPLE' },
    },
  ])
  expect(out).toBe('UserName    bob\nCreateDate  2027-01-15T08:00:00.500Z\n')
})

test.each([
  [
    ['policy', 'put', 'p', '--user', 'u', '--document', '{"a":1}'],
    'PutUserPolicy',
    { UserName: 'u', PolicyName: 'p', PolicyDocument: '{"a":1}' },
  ],
  [['policy', 'get', 'p', '--role', 'r'], 'GetRolePolicy', { RoleName: 'r', PolicyName: 'p' }],
  [['policy', 'delete', 'p', '--user', 'u'], 'DeleteUserPolicy', { UserName: 'u', PolicyName: 'p' }],
  [['role', 'trust', 'r', '--document', '-'], 'UpdateAssumeRolePolicy', { RoleName: 'r', PolicyDocument: 'from standard input' }],
  [['access-key', 'deactivate', 'AKIA1'], 'UpdateAccessKey', { AccessKeyId: 'AKIA1', Status: 'Inactive' }],
  [['keys', 'attest', 'alias/a', '--json'], 'AttestKey', { KeyId: 'alias/a' }],
  [['keys', 'transport', '--region', 'eu-west-1', '--json'], 'GetTransportKey', { Region: 'eu-west-1' }],
] as const)('%j calls %s', async (words, operation, members) => {
  const { received, settings } = await fakeService([200, {}])
  expect((await runCli(words, { clientSettings: () => settings, readInput: async () => 'from standard input' })).code).toBe(0)
  expect(received).toMatchObject([{ target: `Holdfast.${operation}`, body: members }])
  expect(Object.keys(received[0]?.body as object).sort()).toEqual(Object.keys(members).sort())
})

test('a document may be a file', async () => {
  const files = scratch()
  onTestFinished(() => files.remove())
  const { received, settings } = await fakeService([200, {}])
  await runCli(['role', 'create', 'r', '--trust-policy', `file://${files.write('trust.json', '{"Version":"2012-10-17"}')}`], {
    clientSettings: () => settings,
  })
  expect(received[0]?.body).toEqual({ RoleName: 'r', AssumeRolePolicyDocument: '{"Version":"2012-10-17"}' })
})

test('a listing fetches all pages', async () => {
  const { received, settings } = await fakeService(
    [200, { Users: [{ UserName: 'a' }], Truncated: true, NextMarker: 'm' }],
    [200, { Users: [{ UserName: 'bb', Path: '/' }], Truncated: false }],
  )
  const { out } = await runCli(['user', 'list'], { clientSettings: () => settings })
  expect(received.map(({ body }) => body)).toEqual([{}, { Marker: 'm' }])
  expect(out).toBe('UserName  Path\na\nbb        /\n')
})

test('usage shows its estimate, which the first page has, above the rows of all pages', async () => {
  const { received, settings } = await fakeService(
    [
      200,
      {
        StartDate: '2026-01-01',
        EndDate: '2026-01-31',
        Estimate: { Currency: 'USD', TotalCost: 1.5 },
        Usage: [{ Date: '2026-01-02', Region: 'us-east-1', KeyId: 'k', Operation: 'Encrypt', Calls: 10, Cost: 0.00003 }],
        Truncated: true,
        NextMarker: 'm',
      },
    ],
    [
      200,
      {
        StartDate: '2026-01-01',
        EndDate: '2026-01-31',
        Usage: [{ Date: '2026-01-03', Region: 'us-east-1', Operation: 'ListKeys', Calls: 1, Cost: 0.000003 }],
        Truncated: false,
      },
    ],
  )
  const words = ['usage', '--start', '2026-01-01', '--end', '2026-01-31', '--key', 'k', '--daily']
  const { out, code } = await runCli(words, { clientSettings: () => settings })
  expect(code).toBe(0)
  const asked = { StartDate: '2026-01-01', EndDate: '2026-01-31', KeyId: 'k', Granularity: 'DAILY' }
  expect(received.map(({ target, body }) => [target, body])).toEqual([
    ['Holdfast.GetUsage', asked],
    ['Holdfast.GetUsage', { ...asked, Marker: 'm' }],
  ])
  expect(out.split('\n')).toEqual([
    'StartDate  2026-01-01',
    'EndDate    2026-01-31',
    'Currency   USD',
    'TotalCost  1.5',
    'Date        Region     KeyId  Operation  Calls  Cost',
    '2026-01-02  us-east-1  k      Encrypt    10     0.00003',
    '2026-01-03  us-east-1         ListKeys   1      0.000003',
    '',
  ])
})

test('--json prints the answer itself', async () => {
  const { settings } = await fakeService([200, { Users: [], Truncated: false }])
  expect(JSON.parse((await runCli(['user', 'list', '--json'], { clientSettings: () => settings })).out)).toEqual({ Users: [] })
})

test('a refusal by the service is its code and words, exit code 1', async () => {
  const { settings } = await fakeService([400, { __type: 'AccessDeniedException', Message: 'no' }])
  expect(await runCli(['user', 'list'], { clientSettings: () => settings })).toEqual({
    code: 1,
    out: '',
    err: 'AccessDeniedException: no\n',
  })
})

test('no service, or no credentials, is exit code 1 with what to do', async () => {
  const { settings } = await fakeService()
  const nobody = await runCli(['user', 'list'], { clientSettings: () => ({ ...settings, endpoint: 'http://127.0.0.1:1' }) })
  expect(nobody).toMatchObject({
    code: 1,
    err: expect.stringMatching(/Nothing answers at http:\/\/127\.0\.0\.1:1\. Is the service running/),
  })
  const keyless = await runCli(['user', 'list'], { clientSettings: () => ({ ...settings, credentials: undefined }) })
  expect(keyless).toMatchObject({ code: 1, err: expect.stringMatching(/There is no profile \[default\]/) })
})

describe('over plain HTTP to another machine', () => {
  const elsewhere = { endpoint: 'http://kms.example:8480' }

  test.each([
    ['user', 'list'],
    ['access-key', 'create', '--user', 'bob'],
    ['xks', 'store', 'create', '--prefix', '/p'],
    ['encrypt', '--key', 'alias/app'],
    ['decrypt'],
    ['rewrap', '--key', 'alias/app'],
  ])('%s %s is refused before anything is read, sent or made', async (...words) => {
    const { settings, received } = await fakeService()
    // Whatever else it asked for would fail the test: credentials, streams.
    const asked = { ...settings, ...elsewhere, credentials: undefined }
    const { code, out, err } = await runCli(words, { clientSettings: () => asked })
    expect({ code, out }).toEqual({ code: 2, out: '' })
    expect(err).toBe(
      'http://kms.example:8480 is plain HTTP to another machine: data keys and secrets in the answers could be read on the way. ' +
        'Use https://, or --allow-plain-http where a tunnel keeps them secret.\n',
    )
    expect(received).toEqual([])
  })

  test('a call goes there where that is allowed, or where it is the service that runs here', async () => {
    const { settings, received } = await fakeService([200, {}], [200, {}])
    // To Linux this is the machine itself, though no loopback address.
    const endpoint = settings.endpoint.replace('127.0.0.1', '0.0.0.0')
    const list = (words: readonly string[], more: Partial<ClientSettings>) =>
      runCli(['user', 'list', ...words], { clientSettings: () => ({ ...settings, endpoint, ...more }) })
    expect(await list([], {})).toMatchObject({ code: 2 })
    expect(await list(['--allow-plain-http'], {})).toMatchObject({ code: 0 })
    expect(await list([], { isOwnService: true })).toMatchObject({ code: 0 })
    expect(received).toHaveLength(2)
  })

  test('an endpoint that a command names is not the service that runs here', async () => {
    const { settings } = await fakeService()
    const { code, err } = await runCli(['encrypt', '--key', 'k', '--endpoint', 'http://10.0.0.1:8480'], {
      clientSettings: () => ({ ...settings, isOwnService: true }),
    })
    expect({ code, err }).toEqual({ code: 2, err: expect.stringContaining('http://10.0.0.1:8480 is plain HTTP to another machine') })
  })

  test('every command that calls a service can be told to go there, and no other', () => {
    const others = commands.filter(({ flags = {} }) => !('allow-plain-http' in flags)).map(({ name }) => name)
    expect(others.filter((name) => !name.startsWith('audit '))).toEqual([
      'serve',
      'doctor',
      'config',
      'inspect',
      'account root-key',
      'xks doctor',
      'bench',
    ])
  })
})

test('a new access key is shown once and may be saved as a profile', async () => {
  const { settings } = await fakeService([200, { AccessKey: { AccessKeyId: 'AKIANEW', SecretAccessKey: 'once' } }], [200, {}])
  const made = await runCli(['access-key', 'create', '--user', 'bob', '--save-profile', 'bob'], { clientSettings: () => settings })
  expect(made.out).toMatch(/SecretAccessKey {2}once/)
  const again = await runCli(['user', 'list'], { clientSettings: () => ({ ...settings, credentials: undefined, profile: 'bob' }) })
  expect(again.code).toBe(0)
})

test('config prints what is in force, doctor says by its exit code whether all is well', async () => {
  expect(JSON.parse((await runCli(['config'], { effectiveConfig: () => ({ port: 1 }) })).out)).toEqual({ port: 1 })
  const examination = { text: 'words', report: { a: 1 }, healthy: false }
  expect(await runCli(['doctor'], { doctor: async () => examination })).toEqual({ code: 1, out: 'words', err: '' })
  expect(await runCli(['doctor', '--json'], { doctor: async () => ({ ...examination, healthy: true }) })).toEqual({
    code: 0,
    out: '{\n  "a": 1\n}\n',
    err: '',
  })
})

test('a trail that is not there is said so', async () => {
  expect(await runCli(['audit', 'verify'], { auditTrail: () => '/does/not/exist' })).toEqual({
    code: 1,
    out: '',
    err: 'There is no audit trail at /does/not/exist.\n',
  })
})
