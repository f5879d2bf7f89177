/**
 * `holdfast account root-key`: an access key for an account's root, made by whoever is on the service's host and can use its token. It is the way
 * back when the last access key of a root is deleted or lost, and into an account whose CreateAccount was interrupted before it was answered.
 * Part of the wiring, since it opens token, store and trail. The service may run meanwhile: it is one more process on its database.
 */

import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { openTrail } from './audit/open.ts'
import { systemClock } from './base/clock.ts'
import { silentLog } from './base/log.ts'
import { OperatorError } from './base/operator-error.ts'
import { saveProfile } from './cli/credentials-file.ts'
import type { RootKeyOptions } from './cli/wiring.ts'
import { placesIn } from './config/places.ts'
import type { Config } from './config/settings.ts'
import { openToken } from './hsm/client.ts'
import { rootArn } from './kms/arn.ts'
import { makeAccessKey } from './kms/identity.ts'
import { eventTime } from './kms/record.ts'
import { openServiceKey } from './kms/service-key.ts'
import { findSystemKey } from './kms/system-keys.ts'
import { openStore } from './store/open.ts'
import { homeToken, planTokens } from './tokens.ts'

const mostKeys = 2

/**
 * Writes the new key into the credentials file and answers a sentence for the operator.
 * @throws OperatorError when there is no such account, or its root has as many keys as it may.
 */
export async function makeRootKey(config: Config, { accountId = config.accountId, profile, replace }: RootKeyOptions): Promise<string> {
  const places = placesIn(config.dataDir)
  if (!existsSync(places.database))
    throw new OperatorError(`There is no database in ${config.dataDir}: set HOLDFAST_DATA_DIR to the service's.`)
  const home = (await planTokens(config, false)).tokens.find(({ name }) => name === homeToken)
  if (!home) throw new Error('no home token is planned')
  const closers: (() => Promise<void>)[] = []
  try {
    const clock = systemClock
    const store = await openStore({ file: places.database, clock, log: silentLog })
    closers.push(() => store.close())
    if (!store.view.account(accountId))
      throw new OperatorError(`There is no account ${accountId}: "holdfast account list" shows those there are.`)
    const root = rootArn(accountId)
    const present = store.view.accessKeysOf(root)
    if (present.length >= mostKeys && !replace) {
      throw new OperatorError(
        `The root of account ${accountId} has ${present.length} access keys, as many as it may. Delete one ("holdfast access-key delete"), or give --replace if they are lost.`,
      )
    }
    const token = await openToken({ ...home.config, sessions: 1, provision: false }, { log: silentLog })
    closers.push(() => token.close())
    const auditKey = findSystemKey(store, 'audit')
    if (!auditKey) throw new OperatorError(`The service in ${config.dataDir} has never started: start it first.`)
    const trail = await openTrail({
      file: places.auditTrail,
      clock,
      log: silentLog,
      sign: (digest) => token.sign(auditKey.ckaId, digest),
      publicKey: () => token.publicKey(auditKey.ckaId),
    })
    closers.push(() => trail.close())

    const record = (eventName: 'CreateAccessKey' | 'DeleteAccessKey', accessKeyId: string): Promise<unknown> =>
      trail.append({
        eventVersion: '1.11',
        userIdentity: { type: 'Root', principalId: accountId, arn: root, accountId },
        eventTime: eventTime(clock.now()),
        eventSource: 'holdfast',
        eventName,
        awsRegion: config.regions[0] ?? '',
        sourceIPAddress: 'the service’s host',
        userAgent: 'holdfast account root-key',
        requestParameters: { accessKeyId },
        responseElements: null,
        requestID: randomUUID(),
        eventID: randomUUID(),
        readOnly: false,
        eventType: 'AwsServiceEvent',
        managementEvent: true,
        recipientAccountId: accountId,
        eventCategory: 'Management',
      })
    // What is recorded may yet not happen; what happens is recorded.
    for (const { accessKeyId } of replace ? present : []) {
      await record('DeleteAccessKey', accessKeyId)
      await store.deleteAccessKey(accessKeyId)
    }
    const name = profile ?? (accountId === config.accountId ? 'default' : `root-${accountId}`)
    const { accessKeyId } = await makeAccessKey(
      { token, store, clock, serviceKey: await openServiceKey({ token, store, log: silentLog }) },
      { accountId, principalArn: root, most: mostKeys },
      async (credential) => {
        await record('CreateAccessKey', credential.accessKeyId)
        await saveProfile(places.credentials, name, credential)
      },
    )
    return `${accessKeyId} is an access key of the root of account ${accountId}; it is in ${places.credentials} as profile ${name}.\n`
  } finally {
    for (const close of closers.reverse()) await close()
  }
}
