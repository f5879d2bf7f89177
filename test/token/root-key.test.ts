/** The way back to an account whose root has lost its access key: a command on the service's host, while the service runs. */

import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { CloudTrailClient, LookupEventsCommand } from '@aws-sdk/client-cloudtrail'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { parseCredentials } from '../../src/cli/credentials-file.ts'
import { builtProgram } from '../programs.ts'
import { cleanEnvironment } from './environment.ts'
import { administer, makeAccount, rawCall, startHoldfast, type Credentials, type Holdfast } from './holdfast.ts'

let holdfast: Holdfast
beforeAll(async () => {
  holdfast = await startHoldfast({ env: { HOLDFAST_LOG_LEVEL: 'warn' } })
})
afterAll(async () => {
  await holdfast.remove()
})

const execute = promisify(execFile)

/** What the program printed, standard output and error. */
async function run(...words: readonly string[]): Promise<{ readonly code: number; readonly said: string }> {
  const env = { ...cleanEnvironment(), HOLDFAST_DATA_DIR: holdfast.dir }
  try {
    const { stdout, stderr } = await execute(
      process.execPath,
      [builtProgram('test/token/main-program.ts'), 'account', 'root-key', ...words],
      { env },
    )
    return { code: 0, said: stdout + stderr }
  } catch (error) {
    const { code, stdout, stderr } = error as { readonly code: number; readonly stdout: string; readonly stderr: string }
    return { code, said: stdout + stderr }
  }
}

const profile = (name: string): Credentials => {
  const found = parseCredentials(readFileSync(join(holdfast.dir, 'credentials'), 'utf8')).get(name)
  if (!found) throw new Error(`there is no profile ${name}`)
  return found
}
const keysOf = async (credentials: Credentials): Promise<readonly string[]> => {
  const { AccessKeyMetadata } = await administer<{ AccessKeyMetadata: { AccessKeyId: string }[] }>(
    holdfast,
    'ListAccessKeys',
    {},
    { credentials },
  )
  return AccessKeyMetadata.map(({ AccessKeyId }) => AccessKeyId)
}
/** The running service hears of what the command wrote in a moment. */
const works = (credentials: Credentials): Promise<unknown> => vi.waitFor(() => keysOf(credentials), { timeout: 30_000 })

test('a root whose last access key is deleted gets a new one on the host, and both are in the trail', async () => {
  const lost = holdfast.credentials
  await administer(holdfast, 'DeleteAccessKey', { AccessKeyId: lost.accessKeyId })
  expect((await rawCall(holdfast, 'holdfast', 'ListUsers', {}, { credentials: lost })).text).toContain('UnrecognizedClientException')

  const { code, said } = await run()
  const found = holdfast.credentials
  expect({ code, said }).toEqual({
    code: 0,
    said: `${found.accessKeyId} is an access key of the root of account 111122223333; it is in ${holdfast.dir}/credentials as profile default.\n`,
  })
  expect(found.accessKeyId).not.toBe(lost.accessKeyId)
  await works(found)
  expect(await keysOf(found)).toEqual([found.accessKeyId])

  const trail = new CloudTrailClient({ endpoint: holdfast.endpoint, region: holdfast.region, credentials: found, maxAttempts: 1 })
  const { Events } = await trail.send(
    new LookupEventsCommand({ LookupAttributes: [{ AttributeKey: 'EventName', AttributeValue: 'CreateAccessKey' }] }),
  )
  expect(Events?.map(({ CloudTrailEvent }) => JSON.parse(CloudTrailEvent ?? '') as unknown)).toEqual([
    expect.objectContaining({
      userIdentity: { type: 'Root', principalId: '111122223333', arn: 'arn:aws:iam::111122223333:root', accountId: '111122223333' },
      userAgent: 'holdfast account root-key',
      eventType: 'AwsServiceEvent',
      requestParameters: { accessKeyId: found.accessKeyId },
    }),
  ])
  expect(JSON.stringify(Events)).not.toContain(found.secretAccessKey)
  trail.destroy()
})

test('a root has two at most, and what is lost is removed when that is asked for', async () => {
  const before = holdfast.credentials
  await administer(holdfast, 'CreateAccessKey')
  const refused = await run('--save-profile', 'other')
  expect(refused).toEqual({
    code: 1,
    said: expect.stringMatching(/^The root of account 111122223333 has 2 access keys, as many as it may\. .*--replace/),
  })
  expect(holdfast.credentials).toEqual(before)

  expect(await run('--replace')).toMatchObject({ code: 0 })
  const found = holdfast.credentials
  await works(found)
  expect(await keysOf(found)).toEqual([found.accessKeyId])
  expect((await rawCall(holdfast, 'holdfast', 'ListUsers', {}, { credentials: before })).status).toBe(400)
})

test('a further account is entered in the same way, as after a CreateAccount that was not answered; one that is not there is not made', async () => {
  await makeAccount(holdfast, '444455556666')
  await expect(makeAccount(holdfast, '444455556666')).rejects.toThrow('AlreadyExistsException')
  expect(await run('444455556666')).toMatchObject({ code: 0, said: expect.stringContaining('profile root-444455556666') })
  await works(profile('root-444455556666'))
  expect(await keysOf(profile('root-444455556666'))).toHaveLength(2)

  expect(await run('777788889999')).toEqual({
    code: 1,
    said: 'There is no account 777788889999: "holdfast account list" shows those there are.\n',
  })
  expect(await run('12')).toMatchObject({ code: 2, said: expect.stringContaining('ACCOUNT-ID is 12 digits.') })
})
