/**
 * Clients with nothing of ours in them: the AWS CLI and boto3, as they come. The commands are the ones a user would paste.
 *
 * Absent clients are skipped and said so; with HOLDFAST_REQUIRE_CLIENTS=1 their absence fails.
 */
import { execFile, execFileSync } from 'node:child_process'
import { accessSync, constants, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { cleanEnvironment } from './environment.ts'
import { startHoldfast, type Holdfast } from './holdfast.ts'

const run = promisify(execFile)

/** Every program of this name: the distribution's, and others that are earlier on the path. */
function programs(name: string): readonly string[] {
  const folders = ['/usr/bin', ...(process.env['PATH'] ?? '').split(delimiter)]
  const found = folders
    .map((folder) => join(folder, name))
    .filter((path) => {
      try {
        accessSync(path, constants.X_OK)
        return true
      } catch {
        return false
      }
    })
  return [...new Set(found)]
}

/** What a program says to these arguments; undefined when it fails. */
function ask(program: string, args: readonly string[]): string | undefined {
  try {
    return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], env: cleanEnvironment() }).trim()
  } catch {
    return undefined
  }
}

interface Client {
  readonly program: string
  readonly version: string
}

/** One of each version. */
function clientsOf(name: string, args: readonly string[]): readonly Client[] {
  const found = new Map<string, Client>()
  for (const program of programs(name)) {
    const version = ask(program, args)
    if (version !== undefined && !found.has(version)) found.set(version, { program, version: version.split(/[\s]/)[0] ?? version })
  }
  return [...found.values()]
}

const awsClis = clientsOf('aws', ['--version'])
const botos = clientsOf('python3', ['-c', 'import boto3; print("boto3/" + boto3.__version__)'])

for (const { what, packages, found } of [
  { what: 'the AWS CLI', packages: 'awscli', found: awsClis },
  { what: 'boto3', packages: 'python3-boto3', found: botos },
]) {
  if (found.length > 0) continue
  const message = `${what} is not here, so nothing is tested with it; run: apt-get install -y --no-install-recommends ${packages}`
  if (process.env['HOLDFAST_REQUIRE_CLIENTS'] === '1') throw new Error(message)
  console.warn(`\n*** SKIPPED: ${message} ***\n`)
}

let holdfast: Holdfast
let scratch: string
beforeAll(async () => {
  holdfast = await startHoldfast({ env: { HOLDFAST_LOG_LEVEL: 'warn' } })
  scratch = mkdtempSync(join(tmpdir(), 'holdfast-clients-'))
})
afterAll(async () => {
  await holdfast?.remove()
  rmSync(scratch, { recursive: true, force: true, maxRetries: 5 })
})

/** As the service's greeting says: the credentials file of the data directory, and an endpoint. */
const environment = () => ({
  ...cleanEnvironment(),
  AWS_SHARED_CREDENTIALS_FILE: join(holdfast.dir, 'credentials'),
  AWS_CONFIG_FILE: '/dev/null',
  AWS_PAGER: '',
})

describe.skipIf(awsClis.length === 0).each(awsClis.length > 0 ? awsClis : [{ program: '', version: 'the AWS CLI' }])(
  '$version',
  ({ program }) => {
    /** `aws … --output json`, parsed; empty output is an empty object. */
    async function aws(service: string, ...words: string[]): Promise<Record<string, unknown>> {
      const { stdout } = await run(
        program,
        ['--endpoint-url', holdfast.endpoint, '--region', 'us-east-1', '--output', 'json', service, ...words],
        {
          env: environment(),
        },
      )
      return stdout.trim() === '' ? {} : (JSON.parse(stdout) as Record<string, unknown>)
    }
    /** What a command that fails prints. */
    async function complaint(service: string, ...words: string[]): Promise<string> {
      try {
        await aws(service, ...words)
      } catch (error) {
        return String((error as { readonly stderr?: unknown }).stderr)
      }
      throw new Error(`aws ${service} ${words.join(' ')} was to fail`)
    }
    /** `--cli-binary-format raw-in-base64-out` is the second version's; the first takes text as it is. Both take files. */
    const blob = (bytes: Uint8Array): string => {
      const file = join(scratch, `blob-${Math.random().toString(36).slice(2)}`)
      writeFileSync(file, bytes)
      return `fileb://${file}`
    }
    const bytes = (text: unknown): Buffer => Buffer.from(String(text), 'base64')

    test('makes a key and uses it through its whole life', async () => {
      const { KeyMetadata: key } = (await aws(
        'kms',
        'create-key',
        '--description',
        'from the CLI',
        '--tags',
        'TagKey=team,TagValue=a',
      )) as {
        KeyMetadata: Record<string, string>
      }
      const keyId = String(key['KeyId'])
      const alias = `alias/cli-${keyId.slice(0, 8)}`
      expect(key).toMatchObject({ Description: 'from the CLI', KeyState: 'Enabled', KeySpec: 'SYMMETRIC_DEFAULT' })
      expect(await aws('kms', 'create-alias', '--alias-name', alias, '--target-key-id', keyId)).toEqual({})
      expect((await aws('kms', 'describe-key', '--key-id', alias))['KeyMetadata']).toMatchObject({
        Arn: key['Arn'],
        CreationDate: expect.anything(),
      })

      const dataKey = await aws('kms', 'generate-data-key', '--key-id', alias, '--key-spec', 'AES_256', '--encryption-context', 'volume=7')
      expect(bytes(dataKey['Plaintext'])).toHaveLength(32)
      expect(dataKey['KeyId']).toBe(key['Arn'])
      const opened = await aws(
        'kms',
        'decrypt',
        '--ciphertext-blob',
        blob(bytes(dataKey['CiphertextBlob'])),
        '--encryption-context',
        'volume=7',
      )
      expect(opened['Plaintext']).toBe(dataKey['Plaintext'])

      const encrypted = await aws('kms', 'encrypt', '--key-id', keyId, '--plaintext', blob(Buffer.from('from the CLI')))
      const other = ((await aws('kms', 'create-key'))['KeyMetadata'] as Record<string, string>)['KeyId'] ?? ''
      const moved = await aws(
        'kms',
        're-encrypt',
        '--ciphertext-blob',
        blob(bytes(encrypted['CiphertextBlob'])),
        '--destination-key-id',
        other,
      )
      expect(moved).toMatchObject({ SourceKeyId: key['Arn'], KeyId: expect.stringContaining(other) })
      const plain = await aws('kms', 'decrypt', '--ciphertext-blob', blob(bytes(moved['CiphertextBlob'])), '--key-id', other)
      expect(bytes(plain['Plaintext']).toString()).toBe('from the CLI')

      expect(await aws('kms', 'get-key-policy', '--key-id', keyId, '--policy-name', 'default')).toMatchObject({
        Policy: expect.stringContaining('kms:*'),
      })
      expect(await aws('kms', 'list-resource-tags', '--key-id', keyId)).toMatchObject({ Tags: [{ TagKey: 'team', TagValue: 'a' }] })
      const doomed = await aws('kms', 'schedule-key-deletion', '--key-id', keyId, '--pending-window-in-days', '7')
      expect(doomed).toMatchObject({ KeyId: key['Arn'], KeyState: 'PendingDeletion', PendingWindowInDays: 7 })
      expect(await complaint('kms', 'encrypt', '--key-id', keyId, '--plaintext', blob(Buffer.from('x')))).toContain(
        `(KMSInvalidStateException) when calling the Encrypt operation: ${key['Arn']} is pending deletion.`,
      )
      expect(await aws('kms', 'cancel-key-deletion', '--key-id', keyId)).toEqual({ KeyId: key['Arn'] })
      expect(await aws('kms', 'enable-key', '--key-id', keyId)).toEqual({})
    })

    test('lists page by page by itself', async () => {
      await Promise.all([1, 2, 3].map(() => aws('kms', 'create-key')))
      const [all, some] = (await Promise.all([
        aws('kms', 'list-keys', '--page-size', '1'),
        aws('kms', 'list-keys', '--max-items', '2'),
      ])) as {
        Keys: { KeyId: string }[]
        NextToken?: string
      }[]
      const ids = (all?.Keys ?? []).map(({ KeyId }) => KeyId)
      expect(ids.length).toBeGreaterThanOrEqual(3)
      expect(new Set(ids).size).toBe(ids.length)
      expect(some?.Keys).toHaveLength(2)
      const rest = (await aws('kms', 'list-keys', '--starting-token', String(some?.NextToken))) as { Keys: { KeyId: string }[] }
      expect([...(some?.Keys ?? []), ...rest.Keys].map(({ KeyId }) => KeyId)).toEqual(ids)
    })

    test('is told AWS’s errors', async () => {
      expect(await complaint('kms', 'describe-key', '--key-id', 'alias/none')).toContain(
        `(NotFoundException) when calling the DescribeKey operation: Alias arn:aws:kms:us-east-1:${holdfast.accountId}:alias/none is not found.`,
      )
      expect(await complaint('kms', 'create-alias', '--alias-name', 'none', '--target-key-id', 'x')).toContain(
        'Alias must start with the prefix "alias/"',
      )
      expect(await complaint('kms', 'list-grants', '--key-id', 'x')).toContain(
        "(NotFoundException) when calling the ListGrants operation: Invalid keyId 'x'",
      )
    })

    test('asks who it is and what was done', async () => {
      expect(await aws('sts', 'get-caller-identity')).toEqual({
        UserId: holdfast.accountId,
        Account: holdfast.accountId,
        Arn: `arn:aws:iam::${holdfast.accountId}:root`,
      })
      const { Events: events } = (await aws(
        'cloudtrail',
        'lookup-events',
        '--lookup-attributes',
        'AttributeKey=EventName,AttributeValue=CreateKey',
        '--max-items',
        '2',
      )) as { Events: Record<string, unknown>[] }
      expect(events.length).toBeGreaterThan(0)
      for (const event of events) {
        expect(event).toMatchObject({
          EventName: 'CreateKey',
          Username: 'root',
          EventSource: 'kms.amazonaws.com',
          EventTime: expect.anything(),
        })
        expect(JSON.parse(String(event['CloudTrailEvent']))).toMatchObject({
          eventName: 'CreateKey',
          userAgent: expect.stringContaining('aws-cli'),
        })
      }
    })

    test('assumes a role', async () => {
      const name = `cli-${Math.random().toString(36).slice(2)}`
      const holdfastCommand = (...words: string[]) =>
        run(process.execPath, ['scripts/holdfast.mjs', ...words], { env: { ...cleanEnvironment(), HOLDFAST_DATA_DIR: holdfast.dir } })
      await holdfastCommand('user', 'create', name)
      await holdfastCommand('access-key', 'create', '--user', name, '--save-profile', name)
      const trust = JSON.stringify({
        Version: '2012-10-17',
        Statement: [{ Effect: 'Allow', Principal: { AWS: `arn:aws:iam::${holdfast.accountId}:user/${name}` }, Action: 'sts:AssumeRole' }],
      })
      await holdfastCommand('role', 'create', name, '--trust-policy', trust)
      const role = `arn:aws:iam::${holdfast.accountId}:role/${name}`
      const { stdout } = await run(
        program,
        [
          '--profile',
          name,
          '--endpoint-url',
          holdfast.endpoint,
          '--region',
          'us-east-1',
          '--output',
          'json',
          'sts',
          'assume-role',
          '--role-arn',
          role,
          '--role-session-name',
          's1',
        ],
        { env: environment() },
      )
      const { Credentials: made, AssumedRoleUser: assumed } = JSON.parse(stdout) as {
        Credentials: Record<string, string>
        AssumedRoleUser: Record<string, string>
      }
      expect(assumed['Arn']).toBe(`arn:aws:sts::${holdfast.accountId}:assumed-role/${name}/s1`)
      const identity = await run(
        program,
        ['--endpoint-url', holdfast.endpoint, '--region', 'us-east-1', '--output', 'json', 'sts', 'get-caller-identity'],
        {
          env: {
            ...cleanEnvironment(),
            AWS_CONFIG_FILE: '/dev/null',
            AWS_SHARED_CREDENTIALS_FILE: '/dev/null',
            AWS_PAGER: '',
            AWS_ACCESS_KEY_ID: made['AccessKeyId'],
            AWS_SECRET_ACCESS_KEY: made['SecretAccessKey'],
            AWS_SESSION_TOKEN: made['SessionToken'],
          },
        },
      )
      expect(JSON.parse(identity.stdout)).toMatchObject({ Arn: assumed['Arn'] })
    })
  },
)

describe.skipIf(botos.length === 0).each(botos.length > 0 ? botos : [{ program: '', version: 'boto3' }])('$version', ({ program }) => {
  /** Runs a script with `kms`, `sts` and `trail` clients made; it prints one JSON value. */
  async function python(lines: readonly string[]): Promise<unknown> {
    const script = [
      'import boto3, json, sys',
      'from botocore.exceptions import ClientError',
      `at = dict(endpoint_url=${JSON.stringify(holdfast.endpoint)}, region_name="us-east-1")`,
      'kms, sts, trail = (boto3.client(name, **at) for name in ("kms", "sts", "cloudtrail"))',
      'def show(value): print(json.dumps(value, default=lambda v: v.hex() if isinstance(v, bytes) else str(v)))',
      ...lines,
    ].join('\n')
    const { stdout } = await run(program, ['-c', script], { env: environment() })
    return JSON.parse(stdout)
  }

  test('makes a key, gives it a name, and gets back what it encrypted', async () => {
    const outcome = await python([
      'key = kms.create_key(Description="from boto3", Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]',
      'alias = "alias/boto3-" + key["KeyId"][:8]',
      'kms.create_alias(AliasName=alias, TargetKeyId=key["KeyId"])',
      'blob = kms.encrypt(KeyId=alias, Plaintext=b"from boto3", EncryptionContext={"a": "b"})["CiphertextBlob"]',
      'plain = kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "b"})',
      'data = kms.generate_data_key(KeyId=key["Arn"], NumberOfBytes=64)',
      'again = kms.decrypt(CiphertextBlob=data["CiphertextBlob"])["Plaintext"] == data["Plaintext"]',
      'other = kms.create_key()["KeyMetadata"]["KeyId"]',
      'moved = kms.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext={"a": "b"}, DestinationKeyId=other)',
      'text = kms.decrypt(CiphertextBlob=moved["CiphertextBlob"], KeyId=other)["Plaintext"].decode()',
      'date = kms.schedule_key_deletion(KeyId=key["KeyId"], PendingWindowInDays=7)["DeletionDate"]',
      'show([plain["Plaintext"].decode(), plain["KeyId"] == key["Arn"], len(data["Plaintext"]), again, text, len(blob) < 400, date.year > 2000, key["CreationDate"].year > 2000])',
    ])
    expect(outcome).toEqual(['from boto3', true, 64, true, 'from boto3', true, true, true])
  })

  test('pages, catches AWS’s errors by their codes, and asks who it is and what was done', async () => {
    const outcome = (await python([
      'made = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(3)]',
      'pages = list(kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2}))',
      'ids = [key["KeyId"] for page in pages for key in page["Keys"]]',
      'def code(call):',
      '    try: call()',
      '    except ClientError as error: return [error.response["Error"]["Code"], error.response["Error"]["Message"], error.response["ResponseMetadata"]["HTTPStatusCode"]]',
      'errors = [code(lambda: kms.describe_key(KeyId="fake-key-id")), code(lambda: kms.decrypt(CiphertextBlob=b"garbage")), code(lambda: kms.list_grants(KeyId="x"))]',
      'try:',
      '    kms.describe_key(KeyId="alias/none")',
      'except kms.exceptions.NotFoundException: caught = True',
      'events = trail.lookup_events(LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "ListKeys"}])["Events"]',
      'show([set(made) <= set(ids), len(ids) == len(set(ids)), len(pages) > 1, errors, caught, sts.get_caller_identity()["Arn"], len(events) > 0, events[0]["Username"]])',
    ])) as unknown[]
    expect(outcome).toEqual([
      true,
      true,
      true,
      [
        ['NotFoundException', "Invalid keyId 'fake-key-id'", 400],
        ['InvalidCiphertextException', expect.any(String), 400],
        ['NotFoundException', "Invalid keyId 'x'", 400],
      ],
      true,
      `arn:aws:iam::${holdfast.accountId}:root`,
      true,
      'root',
    ])
  })
})
