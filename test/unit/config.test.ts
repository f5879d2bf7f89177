/** The configuration: read whole, judged whole. */

import { chmodSync, existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { childEnvironment, ConfigError, readClientEnvironment, readConfig, type Environment } from '../../src/config/read.ts'
import { settingsTable } from '../../src/config/settings.ts'
import { scratch } from './http-fixture.ts'

const read = (environment: Environment, workingDir = '/somewhere') => readConfig(environment, workingDir)

/** The problems of a configuration, one line each. */
function problemsOf(environment: Environment, workingDir?: string): readonly string[] {
  try {
    read(environment, workingDir)
  } catch (error) {
    if (error instanceof ConfigError) return error.problems
    throw error
  }
  return []
}

test('no setting at all is a service on this machine', () => {
  const { config, warnings } = read({})
  expect(config).toMatchObject({
    dataDir: '/somewhere/data',
    host: '127.0.0.1',
    port: 8480,
    opsPort: 8481,
    accountId: '111122223333',
    regions: ['us-east-1', 'eu-west-1'],
  })
  expect(config.pkcs11.library).toBeUndefined()
  expect(warnings).toEqual([])
})

test('what follows the first = of a pair is its value: roles may have one in their names, rates may not', () => {
  const arn = 'arn:aws:iam::111122223333:role/storage=blue'
  expect(read({ HOLDFAST_AWS_SERVICES: `s3=${arn}, ebs = ${arn}2` }).config.awsServices).toEqual({ s3: [arn], ebs: [`${arn}2`] })
  expect(problemsOf({ HOLDFAST_AWS_SERVICES: 's3' })).toEqual([expect.stringContaining('HOLDFAST_AWS_SERVICES must be services')])
  expect(problemsOf({ HOLDFAST_REQUEST_RATES: 'CreateKey=50=60' })).toEqual([expect.stringContaining('HOLDFAST_REQUEST_RATES must be off')])
})

test('a price is a number of dollars and cents or less, from the environment as from a file', () => {
  const { config } = read({ HOLDFAST_USAGE_PRICE_REQUESTS: '0.05', HOLDFAST_USAGE_PRICE_KEY_MONTH: '0' })
  expect(config.usage).toMatchObject({ pricePerRequests: 0.05, pricePerKeyMonth: 0, pricePerRsaKeyPairs: 12 })
  const folder = scratch()
  onTestFinished(() => folder.remove())
  const file = folder.write('holdfast.json', JSON.stringify({ usage: { pricePerKeyMonth: 2.5 } }))
  expect(read({ HOLDFAST_CONFIG: file }).config.usage.pricePerKeyMonth).toBe(2.5)
  for (const wrong of ['-1', 'free', '1e3', '0x10', '1000000.1', '.5']) {
    expect(problemsOf({ HOLDFAST_USAGE_PRICE_REQUESTS: wrong })).toEqual([
      `HOLDFAST_USAGE_PRICE_REQUESTS must be a number from 0 to 1000000; it is ${JSON.stringify(wrong)}.`,
    ])
  }
})

test('all problems are told at once, each with the setting and what it accepts', () => {
  const problems = problemsOf({
    HOLDFAST_PORT: 'tcp://10.0.0.1:80',
    HOLDFAST_OPS_PORT: '65536',
    HOLDFAST_HOST: '0.0.0.0',
    HOLDFAST_ACCOUNT_ID: '123',
    HOLDFAST_REGIONS: 'us-east-1,us-east-1',
    HOLDFAST_LOG_LEVEL: 'loud',
    HOLDFAST_ALLOW_PLAIN_HTTP: 'yes',
    HOLDFAST_TLS_CERT: 'missing.pem',
    HOLDFAST_PKCS11_PIN_FILE: 'pin',
    HOLDFAST_PKCS11_SESSIONS: '0',
  })
  const expected = [
    /^HOLDFAST_PORT must be a whole number from 0 to 65535; it is "tcp/,
    /^HOLDFAST_OPS_PORT must be a whole number from 0 to 65535/,
    /^HOLDFAST_ACCOUNT_ID must be 12 digits; it is "123"/,
    /^HOLDFAST_REGIONS must be .* each once/,
    /^HOLDFAST_LOG_LEVEL must be one of trace, debug/,
    /^HOLDFAST_ALLOW_PLAIN_HTTP must be true or false/,
    /^HOLDFAST_PKCS11_SESSIONS must be a whole number from 1 to 256/,
    /^HOLDFAST_TLS_KEY is missing: TLS needs/,
    /^HOLDFAST_TLS_CERT names \/somewhere\/missing\.pem, which is not a file/,
    /^HOLDFAST_PKCS11_PIN_FILE names \/somewhere\/pin/,
    /^HOLDFAST_PKCS11_PIN_FILE is set but no module is/,
  ]
  for (const pattern of expected)
    expect(
      problems.filter((problem) => pattern.test(problem)),
      String(pattern),
    ).toHaveLength(1)
  expect(problems).toHaveLength(expected.length)
})

test('a data directory in which everybody may write is refused', () => {
  const folder = scratch()
  onTestFinished(() => folder.remove())
  const open = folder.dir
  chmodSync(open, 0o777)
  expect(problemsOf({ HOLDFAST_DATA_DIR: open }).join()).toMatch(/may put files in the place of ours: chmod o-w it/)
  chmodSync(open, 0o755)
  expect(problemsOf({ HOLDFAST_DATA_DIR: open })).toEqual([])
})

test('plain HTTP is for loopback, unless it is allowed or there is TLS', () => {
  const files = scratch()
  onTestFinished(() => files.remove())
  const tls = { HOLDFAST_TLS_CERT: files.write('cert', 'x'), HOLDFAST_TLS_KEY: files.write('key', 'x') }
  for (const host of ['127.0.0.1', '127.8.9.10', '::1', '[::1]', 'localhost']) expect(problemsOf({ HOLDFAST_HOST: host })).toEqual([])
  for (const host of ['0.0.0.0', '::', '192.0.2.1', 'hsm.example.org', '127.0.0.1.example.org']) {
    expect(problemsOf({ HOLDFAST_HOST: host }).join()).toMatch(/plain HTTP is for loopback only\. Set HOLDFAST_TLS_CERT/)
    expect(problemsOf({ HOLDFAST_HOST: host, HOLDFAST_ALLOW_PLAIN_HTTP: 'true' })).toEqual([])
    expect(problemsOf({ HOLDFAST_HOST: host, ...tls })).toEqual([])
  }
  expect(problemsOf({ HOLDFAST_OPS_HOST: '0.0.0.0' }).join()).toContain('HOLDFAST_OPS_HOST is 0.0.0.0')
})

test('a module needs a token and a PIN file that others cannot open', () => {
  const files = scratch()
  onTestFinished(() => files.remove())
  const library = files.write('module.so', '')
  const pin = files.write('pin', '1234')
  const set = { HOLDFAST_PKCS11_LIBRARY: library, HOLDFAST_PKCS11_TOKEN_LABEL: 'kms', HOLDFAST_PKCS11_PIN_FILE: pin }
  expect(read(set).config.pkcs11).toMatchObject({ library, tokenLabel: 'kms', pinFile: pin })
  expect(problemsOf({ HOLDFAST_PKCS11_LIBRARY: library })).toHaveLength(2)
  chmodSync(pin, 0o604)
  expect(problemsOf(set)).toEqual([expect.stringMatching(/everybody on this machine may open: chmod 600/)])
})

test('a token that may be a key store is named as AWS names clusters, and has no PIN here', () => {
  const files = scratch()
  onTestFinished(() => files.remove())
  const library = files.write('module.so', '')
  const token = { library, tokenLabel: 'payroll', sessions: 2 }
  const tokens = (table: unknown) => ({ HOLDFAST_KEY_STORE_TOKENS: JSON.stringify(table) })
  expect(read(tokens({ 'cluster-payrollhsms': token })).config.keyStoreTokens).toEqual({ 'cluster-payrollhsms': token })
  const refused: readonly [unknown, RegExp][] = [
    [{ payroll: token }, /the name must be `cluster-`/],
    [{ 'cluster-payrollhsms': { ...token, pinFile: '/etc/pin' } }, /pinFile has no place: the PIN is the KeyStorePassword/],
    [{ 'cluster-payrollhsms': { library } }, /tokenLabel is missing/],
    [{ 'cluster-payrollhsms': { ...token, library: '/nowhere.so' } }, /not a file this process can read/],
    [[], /a JSON object/],
  ]
  for (const [table, message] of refused) expect(problemsOf(tokens(table)).join()).toMatch(message)
})

test('where to connect for a proxy is a host and a port for each name', () => {
  const connectTo = (value: string) => read({ HOLDFAST_XKS_CONNECT_TO: value }).config.xks.connectTo
  expect(connectTo('Proxy.example.com=10.1.2.3:8443, two.example.com=[::1]:443')).toEqual({
    'proxy.example.com': { host: '10.1.2.3', port: 8443 },
    'two.example.com': { host: '::1', port: 443 },
  })
  for (const wrong of ['proxy', 'proxy=host', 'proxy=host:0', 'proxy=host:65536', 'pro xy=host:1', '=host:1', 'a=b:1,a=c:2', 'a=b:1=c']) {
    expect(problemsOf({ HOLDFAST_XKS_CONNECT_TO: wrong }).join(), wrong).toMatch(/must be a list of name=host:port/)
  }
})

test('the environment goes before the file, the file before the default; paths in the file are relative to it', () => {
  const files = scratch()
  onTestFinished(() => files.remove())
  const file = files.write(
    'config.json',
    JSON.stringify({ port: 9000, opsPort: 9001, dataDir: 'state', regions: ['eu-west-1'], http: { maxBodyBytes: 100_000 } }),
  )
  const { config } = read({ HOLDFAST_CONFIG: file, HOLDFAST_PORT: '9100', HOLDFAST_OPS_PORT: '' })
  expect(config).toMatchObject({ port: 9100, opsPort: 9001, dataDir: join(files.dir, 'state'), regions: ['eu-west-1'] })
  expect(config.http).toMatchObject({ maxBodyBytes: 100_000, maxConnections: 10_000 })
})

test('a name in the file that is no setting is a problem, with the nearest one', () => {
  const files = scratch()
  onTestFinished(() => files.remove())
  const file = files.write(
    'config.json',
    JSON.stringify({ prot: 1, pkcs11: { libary: 'x' }, tls: 'on', port: '80x', __proto__x: 1, constructor: 2 }),
  )
  const problems = problemsOf({ HOLDFAST_CONFIG: file }).join('\n')
  expect(problems).toContain(`"prot" in ${file} is not a setting. Did you mean port?`)
  expect(problems).toContain(`"pkcs11.libary" in ${file} is not a setting. Did you mean library?`)
  expect(problems).toContain(`"tls" in ${file} must be an object with any of certFile, keyFile, allowPlainHttp.`)
  expect(problems).toContain(`"port" in ${file} must be a whole number`)
  expect(problems).toContain('"constructor"')
})

test.each(['{', '[]', 'null', '"x"'])('the file %s is a problem, not a crash', (text) => {
  const files = scratch()
  onTestFinished(() => files.remove())
  expect(problemsOf({ HOLDFAST_CONFIG: files.write('config.json', text) })).toEqual([
    expect.stringMatching(/^HOLDFAST_CONFIG names .*cannot be read/),
  ])
})

test('a file that is not there is a problem', () => {
  expect(problemsOf({ HOLDFAST_CONFIG: 'nowhere.json' })).toEqual([expect.stringContaining('/somewhere/nowhere.json')])
})

test('a misspelt variable is warned of; what an orchestrator adds does not stop the start', () => {
  const { warnings } = read({ HOLDFAST_PROT: '1', HOLDFAST_SERVICE_HOST: '10.0.0.1', HOLDFAST_TEST_X: '', HOLDFAST_REQUIRE_LAB: '1' })
  expect(warnings).toEqual([
    'HOLDFAST_PROT is not a setting and is ignored. Did you mean HOLDFAST_PORT?',
    'HOLDFAST_SERVICE_HOST is not a setting and is ignored.',
  ])
})

test('both ports may be 0, but not the same one', () => {
  expect(problemsOf({ HOLDFAST_PORT: '0', HOLDFAST_OPS_PORT: '0' })).toEqual([])
  expect(problemsOf({ HOLDFAST_OPS_PORT: '8480' })).toEqual([expect.stringMatching(/is the main port/)])
})

test('a profile is named, or is a file of one’s own', () => {
  const read = (profile: string) => readConfig({ HOLDFAST_PKCS11_PROFILE: profile }).config.pkcs11.profile
  expect(read('yubihsm2')).toBe('yubihsm2')
  expect(read('/etc/holdfast/old-yubihsm.json')).toBe('/etc/holdfast/old-yubihsm.json')
  for (const neither of ['own.json', '../own.json', '/etc/holdfast/own']) expect(() => read(neither)).toThrow(ConfigError)
})

test('a child process gets the environment without credentials', () => {
  expect(
    childEnvironment({ PATH: '/bin', AWS_SECRET_ACCESS_KEY: 's', AWS_SESSION_TOKEN: 't', SOFTHSM2_CONF: 'c', UNSET: undefined }),
  ).toEqual({ PATH: '/bin', SOFTHSM2_CONF: 'c' })
})

test('a client takes the names that the AWS tools use', () => {
  expect(readClientEnvironment({ AWS_ENDPOINT_URL: 'http://a', AWS_ENDPOINT_URL_KMS: 'http://b', AWS_PROFILE: '' })).toMatchObject({
    endpoint: 'http://b',
    profile: undefined,
  })
})

const readme = new URL('../../README.md', import.meta.url).pathname
test.skipIf(!existsSync(readme))("the README's table of settings is the one that the code makes", () => {
  expect(readFileSync(readme, 'utf8'), 'put what "npx holdfast config --markdown" prints into README.md').toContain(settingsTable())
})

describe('tokens', () => {
  const files = scratch()
  afterAll(() => files.remove())
  const library = files.write('module.so', '')
  const pinFile = files.write('pin', '1234')
  const frankfurt = { library, tokenLabel: 'frankfurt', pinFile, sessions: 2 }

  test('are named in the file or in the environment, and regions are bound to them', () => {
    const file = files.write('config.json', JSON.stringify({ tokens: { frankfurt }, regionTokens: { 'eu-west-1': 'frankfurt' } }))
    const fromFile = read({ HOLDFAST_CONFIG: file }).config
    const fromEnvironment = read({
      HOLDFAST_TOKENS: JSON.stringify({ frankfurt }),
      HOLDFAST_REGION_TOKENS: 'eu-west-1=frankfurt, us-east-1=default',
    }).config
    expect(fromFile.tokens).toEqual({ frankfurt })
    expect(fromFile.regionTokens).toEqual({ 'eu-west-1': 'frankfurt' })
    expect(fromEnvironment.tokens).toEqual({ frankfurt })
    expect(fromEnvironment.regionTokens).toEqual({ 'eu-west-1': 'frankfurt', 'us-east-1': 'default' })
  })

  test.each([
    ['{', /must be a JSON object/],
    [JSON.stringify({ default: frankfurt }), /in "default" the name is taken/],
    [JSON.stringify({ 'a b': frankfurt }), /in "a b" the name must be/],
    [JSON.stringify({ a: { ...frankfurt, pinFile: undefined } }), /in "a" pinFile is missing/],
    [JSON.stringify({ a: { ...frankfurt, libary: 'x' } }), /in "a" libary is not a setting\. Did you mean library\?/],
    [JSON.stringify({ a: { ...frankfurt, sessions: 0 } }), /in "a" sessions must be a whole number from 1 to 256/],
    [JSON.stringify({ a: { ...frankfurt, library: '/no/where.so' } }), /HOLDFAST_TOKENS names \/no\/where\.so, which is not a file/],
    [JSON.stringify({ a: 'frankfurt' }), /in "a" there must be an object/],
  ])('%s is a problem', (tokens, message) => {
    expect(problemsOf({ HOLDFAST_TOKENS: tokens })).toEqual([expect.stringMatching(message)])
  })

  test('a region that is not served and a token that is not there are problems, each with the nearest name', () => {
    expect(problemsOf({ HOLDFAST_REGION_TOKENS: 'eu-west-2=defautl' })).toEqual([
      'HOLDFAST_REGION_TOKENS names the region eu-west-2, which is not served. Did you mean eu-west-1?',
      'HOLDFAST_REGION_TOKENS names the token defautl, which is not in tokens. Did you mean default?',
    ])
    expect(problemsOf({ HOLDFAST_REGION_TOKENS: 'eu-west-1' })).toEqual([expect.stringMatching(/must be a list of region=token/)])
  })
})

test('the XKS proxy is off unless it has a port; its certificates and names come in pairs, and its port is its own', () => {
  expect(read({}).config.xksProxy).toMatchObject({ port: undefined, deadlineMs: 200 })
  const folder = scratch()
  onTestFinished(() => folder.remove())
  const file = folder.write('some.pem', 'PEM')
  const { xksProxy } = read({
    HOLDFAST_XKS_PROXY_PORT: '0',
    HOLDFAST_XKS_PROXY_HOST: '0.0.0.0',
    HOLDFAST_XKS_PROXY_TLS_CERT: file,
    HOLDFAST_XKS_PROXY_TLS_KEY: file,
    HOLDFAST_XKS_PROXY_CLIENT_CA: file,
    HOLDFAST_XKS_PROXY_CLIENT_NAMES: 'cks.kms.eu-west-1.amazonaws.com, cks.kms.us-east-1.amazonaws.com',
  }).config
  expect(xksProxy).toMatchObject({ port: 0, clientNames: ['cks.kms.eu-west-1.amazonaws.com', 'cks.kms.us-east-1.amazonaws.com'] })
  expect(problemsOf({ HOLDFAST_XKS_PROXY_PORT: '8480' })).toEqual([expect.stringMatching(/is 8480, which is the main port/)])
  expect(problemsOf({ HOLDFAST_XKS_PROXY_PORT: '443', HOLDFAST_XKS_PROXY_HOST: '0.0.0.0' })).toEqual([
    expect.stringMatching(/HOLDFAST_XKS_PROXY_HOST is 0\.0\.0\.0: plain HTTP is for loopback only/),
  ])
  expect(problemsOf({ HOLDFAST_XKS_PROXY_TLS_CERT: file })).toEqual([expect.stringMatching(/HOLDFAST_XKS_PROXY_TLS_KEY is missing/)])
  expect(problemsOf({ HOLDFAST_XKS_PROXY_CLIENT_NAMES: 'one' })).toEqual([expect.stringMatching(/HOLDFAST_XKS_PROXY_CLIENT_CA is missing/)])
  expect(problemsOf({ HOLDFAST_XKS_PROXY_CLIENT_NAMES: 'one', HOLDFAST_XKS_PROXY_CLIENT_CA: file })).toEqual([
    expect.stringMatching(/the XKS proxy has no TLS/),
  ])
  expect(problemsOf({ HOLDFAST_XKS_PROXY_CLIENT_NAMES: 'one,one' })).toEqual([expect.stringMatching(/each once/)])
})
