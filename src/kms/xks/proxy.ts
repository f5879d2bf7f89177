/**
 * The inside of the XKS proxy (AWS KMS External Key Store Proxy API Specification 1.0.3): what one request means once the door has its bytes.
 *
 * The door (`http/`) does TLS, HTTP/1.1 and HTTP/2, the routes, 405 and the body's cap; everything after is here, in this order: signature (401), fields
 * (400), the store's own switch (400), its quota (429), its policy (403), key (404), the key's state (400) and usage (400), sizes (501), device.
 * Then the audit record is made durable, and only then does the answer leave.
 */

import { randomUUID } from 'node:crypto'
import type { AuditRecord } from '../../audit/trail.ts'
import { within } from '../../base/within.ts'
import type { KeyRecord, KeyState, XksStoreRecord } from '../../store/store.ts'
import { compileXksPolicy, type XksPolicy } from '../../xks/policy.ts'
import { errorBody, errorStatuses, type Health } from '../../xks/protocol.ts'
import {
  decryptedBody,
  encryptedBody,
  externalKeyBody,
  oversized,
  readDecrypt,
  readEncrypt,
  readMembers,
  readMetadata,
  toldMetadata,
  type AskedMetadata,
  type Members,
} from '../../xks/requests.ts'
import { stateOf } from '../key-stores.ts'
import { eventTime } from '../record.ts'
import type { Service } from '../service.ts'
import type { Stranger } from '../strangers.ts'
import { decryptUnder, encryptUnder } from './cipher.ts'
import { openXksAuthentication, type Signer } from './credentials.ts'
import { ofDevice, toRefusal, XksRefusal } from './refusal.ts'

export type XksApi = 'health' | 'metadata' | 'encrypt' | 'decrypt'

/** One request, after routing, method and body cap. */
export interface XksRequest {
  /** The store's: '' or `/tenant`, one that `has` knows. */
  readonly prefix: string
  readonly api: XksApi
  /** Of the spec's alphabet, 1 to 128 characters; undefined for health alone. */
  readonly externalKeyId: string | undefined
  /** As on the wire, for the signature: with a query string if there was one. */
  readonly method: string
  readonly path: string
  /** Names in lower case; with `host`, which is `:authority` where HTTP/2 has no other. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly body: Buffer
  /** When its first byte was there, in ms since 1970. */
  readonly receivedAt: number
  /** When its answer is too late, in ms since 1970. */
  readonly deadline: number
  readonly remoteAddress: string
}

/** What is sent: JSON, `application/json`. */
export interface XksAnswer {
  readonly status: number
  readonly body: string
}

export interface XksProxy {
  /** Whether a URI path prefix ('' or '/tenant') is a store's. An unknown one is 404 InvalidUriPathException, before authentication. */
  has(prefix: string): boolean
  /**
   * Authenticates, reads, authorizes, does it, records it, answers. Never throws. The audit record is durable when it resolves; of requests that
   * nobody has signed so many have one in each second, and the rest are counted (kms/strangers.ts).
   */
  answer(request: XksRequest): Promise<XksAnswer>
  /** One that ended at the door, with the door's word for it: the audit will have their number. `prefix` is undefined where the path names none. */
  refusedAtDoor(prefix: string | undefined, code: string, remoteAddress: string): void
  /** Resolves when no request is under way, nor what one that came to its deadline has left in a device. */
  close(): Promise<void>
}

/** GetHealthStatus' answer, from a round trip on the canary key that is at most 20 s old. Never throws: what cannot be reached is UNAVAILABLE. */
export type HealthSource = () => Promise<Health>

/** A request on its way. The audit record is made from it, once. */
interface Asked {
  readonly request: XksRequest
  /** As it was when its request came, or when its secret was open. */
  store: XksStoreRecord
  signer: Signer | undefined
  /** What it says about itself, valid or not. */
  told: Partial<AskedMetadata>
  key: KeyRecord | undefined
  /** What becomes `additionalEventData`. */
  readonly note: Record<string, unknown>
  /** Wiped when neither the answer nor the device needs them any more. */
  readonly secrets: Buffer[]
  /** Settles when the device is done with it; never rejects. */
  inDevice: Promise<void> | undefined
}

const operations: Readonly<Record<XksApi, string>> = {
  health: 'GetHealthStatus',
  metadata: 'GetKeyMetadata',
  encrypt: 'Encrypt',
  decrypt: 'Decrypt',
}

/** Calls that were given up and are still in a device: beyond so many, no further call goes there until it answers. */
const maxAbandoned = 64
/** With less time left than this a call is not begun. */
const leastForDeviceMs = 10

const stateWords: Readonly<Record<Exclude<KeyState, 'Enabled'>, string>> = {
  Creating: 'is being created',
  Disabled: 'is disabled',
  PendingDeletion: 'is pending deletion',
  PendingReplicaDeletion: 'is pending deletion',
  PendingImport: 'has no key material',
  Unavailable: 'is unavailable: the key manager does not show it',
  Destroying: 'is being deleted',
}

export function openXksProxy(service: Service, options: { readonly health: HealthSource }): XksProxy {
  const { store: records, clock, log, metrics, trail } = service
  const authentication = openXksAuthentication(service)
  const count = metrics.calls('holdfast_xks_proxy_requests', 'Requests of external key stores, by URI path prefix and operation', [
    'prefix',
    'operation',
  ])
  metrics.gauge(
    'holdfast_xks_proxy_credential_last_use_age_seconds',
    'How long ago a credential last signed a request to this process.',
    () =>
      authentication
        .lastUses()
        .map(({ prefix, accessKeyId, at }) => ({ labels: { prefix, credential: accessKeyId }, value: (clock.now() - at) / 1000 })),
    'min',
  )

  const asStranger = (prefix: string | undefined, errorCode: string, sourceIp: string): Stranger => ({
    eventSource: 'xks.holdfast',
    ...(prefix !== undefined && { prefix }),
    accountId: (prefix === undefined ? undefined : records.view.xksStore(prefix))?.accountId ?? service.config.accountId,
    errorCode,
    sourceIp,
  })

  const charge = ({ prefix, requestRate }: XksStoreRecord): void => {
    if (service.buckets.take(`xks ${prefix}`, requestRate, clock.now())) return
    throw new XksRefusal('ThrottlingException', `The key store is over its quota of ${requestRate} requests a second.`)
  }

  const policies = new WeakMap<XksStoreRecord, XksPolicy>()
  const judge = ({ request, store, note }: Asked, metadata: AskedMetadata, { region }: Signer): void => {
    if (store.policy === null) return
    let policy = policies.get(store)
    if (!policy) policies.set(store, (policy = compileXksPolicy(store.policy)))
    const decision = policy.decide({ metadata, region, externalKeyId: request.externalKeyId ?? '' })
    if (!decision) return
    const { allowed, statement } = decision
    const dryRun = store.policyMode === 'DRY_RUN'
    note['policy'] = { statement, effect: allowed ? 'Allow' : 'Deny', dryRun }
    const { kmsRequestId, kmsOperation, awsPrincipalArn: principal, kmsKeyArn } = metadata
    const event = { prefix: store.prefix, kmsRequestId, kmsOperation, principal, kmsKeyArn, statement, dryRun }
    if (allowed) return log.debug(event, 'allowed by the policy of the XKS store')
    log.info(event, 'denied by the policy of the XKS store')
    if (!dryRun) throw new XksRefusal('AccessDeniedException', `Statement ${statement} of the key store's policy denies it.`)
  }

  const requireEnabled = ({ store }: Asked): void => {
    if (!store.enabled) throw new XksRefusal('InvalidStateException', 'The key store is disabled.')
  }

  /** What is decided before any key is looked at. */
  const admit = (asked: Asked, metadata: AskedMetadata, signer: Signer): void => {
    requireEnabled(asked)
    charge(asked.store)
    judge(asked, metadata, signer)
  }

  const findKey = (asked: Asked): KeyRecord => {
    const { prefix, externalKeyId = '' } = asked.request
    const shown = records.view.xksKey(prefix, externalKeyId)
    if (!shown) throw new XksRefusal('KeyNotFoundException', 'The key store has no key with this external key id.')
    const key = records.view.key(shown.keyArn)
    if (!key || key.state === 'Creating')
      throw new XksRefusal('KeyNotFoundException', 'The key with this external key id has been deleted.')
    asked.key = key
    return key
  }

  const findUsableKey = (asked: Asked): KeyRecord => {
    const key = findKey(asked)
    const state = stateOf(service, key)
    if (state !== 'Enabled') throw new XksRefusal('InvalidStateException', `The key ${stateWords[state]}.`)
    if (key.usage !== 'ENCRYPT_DECRYPT' || key.spec !== 'SYMMETRIC_DEFAULT') {
      throw new XksRefusal('InvalidKeyUsageException', `A key of spec ${key.spec} for ${key.usage} does no AES-256-GCM.`)
    }
    return key
  }

  /** By token. */
  const abandoned = new Map<string, number>()
  const underWay = new Set<Promise<unknown>>()
  const keepUntilDone = (work: Promise<unknown>): void => {
    underWay.add(work)
    void work.then(() => underWay.delete(work))
  }

  /** Work in the key's device, waited for until the deadline. */
  const onDevice = async <T>(asked: Asked, key: KeyRecord, work: () => Promise<T>): Promise<T> => {
    const { token: name } = key
    const leftMs = asked.request.deadline - clock.now()
    if (leftMs < leastForDeviceMs) throw new XksRefusal('ThrottlingException', 'The proxy has too much to do to answer in time.')
    if ((abandoned.get(name) ?? 0) >= maxAbandoned)
      throw new XksRefusal('DependencyTimeoutException', 'The key manager has not been answering for a while.')
    const begin = async (): Promise<T> => {
      await service.keyStores.ready(key)
      return work()
    }
    const working = begin()
    let late = false
    const settled = (): void => {
      if (late) abandoned.set(name, (abandoned.get(name) ?? 1) - 1)
    }
    asked.inDevice = working.then(settled, settled)
    keepUntilDone(asked.inDevice)
    try {
      return await within(leftMs, working, () => {
        late = true
        abandoned.set(name, (abandoned.get(name) ?? 0) + 1)
        return tooLate()
      })
    } catch (error) {
      throw deviceError(key, error)
    }
  }

  const deviceError = (key: KeyRecord, error: unknown): unknown => {
    try {
      return ofDevice(error, service.tokenOf(key))
    } catch {
      // There is no such token, which is what the error says.
      return error
    }
  }

  const perform: Readonly<Record<XksApi, (asked: Asked, members: Members, signer: Signer) => Promise<string> | string>> = {
    // Neither quota nor policy: it is how KMS finds out whether the rest is worth trying.
    async health(asked, members) {
      readMetadata(members, 'health')
      requireEnabled(asked)
      return JSON.stringify(await options.health())
    },
    metadata(asked, members, signer) {
      admit(asked, readMetadata(members, 'metadata'), signer)
      return externalKeyBody(stateOf(service, findKey(asked)) === 'Enabled')
    },
    async encrypt(asked, members, signer) {
      const metadata = readMetadata(members, 'encrypt')
      const wanted = readEncrypt(members)
      asked.secrets.push(wanted.plaintext)
      admit(asked, metadata, signer)
      const key = findUsableKey(asked)
      refuseOversized(wanted.plaintext, wanted.aad)
      const { outer, integrity, materialId } = await onDevice(asked, key, () => encryptUnder(service, key, wanted))
      asked.note['keyMaterialId'] = materialId
      return encryptedBody(outer, integrity)
    },
    async decrypt(asked, members, signer) {
      const metadata = readMetadata(members, 'decrypt')
      const wanted = readDecrypt(members)
      admit(asked, metadata, signer)
      const key = findUsableKey(asked)
      refuseOversized(wanted.outer.ciphertext, wanted.aad)
      const { plaintext, materialId } = await onDevice(asked, key, async () => {
        const opened = await decryptUnder(service, key, wanted)
        asked.secrets.push(opened.plaintext)
        return opened
      })
      asked.note['keyMaterialId'] = materialId
      return decryptedBody(plaintext)
    },
  }

  const authenticate = (asked: Asked): Signer | Promise<Signer> => {
    const { request, store } = asked
    const [path = '', ...query] = request.path.split('?')
    const { method, headers, body } = request
    const signed = authentication.authenticate(store, { method, path, query: query.join('?'), headers, body })
    return signed instanceof Promise ? whenOpened(asked, signed) : signed
  }

  /** Once a day the HSM has to open the secret. It may hang, and the store may change: be switched off perhaps, or rid of this credential. */
  const whenOpened = async (asked: Asked, signed: Promise<Signer>): Promise<Signer> => {
    const { request, store } = asked
    const signer = await within(request.deadline - clock.now(), signed, tooLate)
    const current = records.view.xksStore(request.prefix)
    if (current === store) return signer
    if (!current) throw noStore()
    asked.store = current
    return authenticate(asked)
  }

  const answerTo = async (asked: Asked): Promise<string> => {
    const { request } = asked
    const signed = authenticate(asked)
    const signer = signed instanceof Promise ? await signed : signed
    asked.signer = signer
    const members = readMembers(request.body)
    asked.told = toldMetadata(members)
    return perform[request.api](asked, members, signer)
  }

  const record = async (asked: Asked, refusal: XksRefusal | undefined, startedAt: number): Promise<void> => {
    const { prefix, remoteAddress } = asked.request
    if (refusal && !asked.signer && !service.strangers.isRecorded(asStranger(prefix, refusal.errorName, remoteAddress))) return
    asked.note['latencyMs'] = Math.round((performance.now() - startedAt) * 1000) / 1000
    const entry = buildRecord(asked, refusal, service.config)
    await trail.append(entry)
    const { request, key } = asked
    if (refusal || !key || request.api === 'metadata') return
    service.usage.used({
      keyArn: key.arn,
      operation: operations[request.api],
      at: request.receivedAt,
      eventId: entry.eventID,
      requestId: entry['requestID'] as string,
    })
  }

  const logRefusal = ({ request, told }: Asked, { errorName, message, cause }: XksRefusal): void => {
    const event = { prefix: request.prefix, api: request.api, kmsRequestId: told.kmsRequestId, errorName, detail: message }
    if (errorName === 'InternalException') log.error({ ...event, err: cause }, 'an XKS request failed')
    else log.info({ ...event, ...(cause instanceof Error && { cause: cause.message }) }, 'an XKS request was refused')
  }

  const answer = async (request: XksRequest): Promise<XksAnswer> => {
    const startedAt = performance.now()
    const store = records.view.xksStore(request.prefix)
    // It has been removed since the door asked for it.
    if (!store) {
      service.strangers.count(asStranger(undefined, noStore().errorName, request.remoteAddress))
      return refused(noStore())
    }
    const asked: Asked = {
      request,
      store,
      signer: undefined,
      told: {},
      key: undefined,
      note: {},
      secrets: [],
      inDevice: undefined,
    }
    let outcome: string | XksRefusal = await answerTo(asked).catch(toRefusal)
    if (typeof outcome !== 'string') logRefusal(asked, outcome)
    wipe(asked)
    try {
      await record(asked, typeof outcome === 'string' ? undefined : outcome, startedAt)
    } catch (error) {
      log.error({ prefix: request.prefix, api: request.api, err: error }, 'the audit record could not be written; the request fails')
      outcome = new XksRefusal('InternalException', 'The request could not be recorded and was not answered.')
    }
    const code = typeof outcome === 'string' ? 'ok' : outcome.errorName
    count({ prefix: request.prefix, operation: operations[request.api] }, code, performance.now() - startedAt)
    return typeof outcome === 'string' ? { status: 200, body: outcome } : refused(outcome)
  }

  const has = (prefix: string): boolean => records.view.xksStore(prefix) !== undefined
  return {
    has,
    refusedAtDoor(prefix, code, remoteAddress) {
      // Of prefixes that are nobody's a caller could make up more and more.
      const known = prefix !== undefined && has(prefix) ? prefix : undefined
      service.strangers.count(asStranger(known, code, remoteAddress))
    },
    answer(request) {
      const answering = answer(request)
      keepUntilDone(answering)
      return answering
    },
    async close() {
      while (underWay.size > 0) await Promise.all(underWay)
    },
  }
}

const noStore = (): XksRefusal => new XksRefusal('InvalidUriPathException', 'There is no key store at this URI path.')
const tooLate = (): XksRefusal => new XksRefusal('DependencyTimeoutException', 'The key manager did not answer in time.')

const refused = ({ errorName, message }: XksRefusal): XksAnswer => ({
  status: errorStatuses[errorName],
  body: errorBody(errorName, message),
})

function refuseOversized(text: Uint8Array, aad: Uint8Array): void {
  const problem = oversized(text, aad)
  if (problem !== undefined) throw new XksRefusal('UnsupportedOperationException', problem)
}

function wipe({ secrets, inDevice }: Asked): void {
  const wipeAll = (): void => {
    for (const secret of secrets) secret.fill(0)
  }
  // What was given up at the deadline is still being worked with.
  if (inDevice) void inDevice.then(wipeAll)
  else wipeAll()
}

/** CloudTrail's limit on a caller's texts. ARNs may be longer. */
const short = (text: string | undefined, most = 1024): string | undefined => text?.slice(0, most)

/** Shaped as the records of all calls are (kms/record.ts); what was encrypted or decrypted is in none of its members. */
function buildRecord(
  { request, store, signer, told, key, note }: Asked,
  refusal: XksRefusal | undefined,
  { regions }: { readonly regions: readonly string[] },
): AuditRecord {
  const { api, headers } = request
  const userAgent = headers['user-agent']
  const requestMetadata = Object.fromEntries(Object.entries(told).map(([name, text]) => [name, short(text, 2048)]))
  return {
    eventVersion: '1.11',
    userIdentity: signer ? { type: 'XksCredential', accountId: store.accountId, accessKeyId: signer.accessKeyId } : { type: 'Unknown' },
    eventTime: eventTime(request.receivedAt),
    eventSource: 'xks.holdfast',
    eventName: operations[api],
    awsRegion: key?.region ?? regions[0] ?? '',
    sourceIPAddress: request.remoteAddress,
    userAgent: typeof userAgent === 'string' ? short(userAgent) : undefined,
    ...(refusal && { errorCode: refusal.errorName, errorMessage: short(refusal.message) }),
    requestParameters: {
      uriPathPrefix: store.prefix,
      ...(request.externalKeyId !== undefined && { externalKeyId: request.externalKeyId }),
      ...(signer && { signedRegion: signer.region }),
      ...(signer && { requestMetadata }),
    },
    responseElements: null,
    additionalEventData: note,
    // What joins it with CloudTrail's record of the call that KMS had.
    requestID: short(told.kmsRequestId, 128) ?? randomUUID(),
    eventID: randomUUID(),
    readOnly: true,
    ...(key && { resources: [{ accountId: key.accountId, type: 'AWS::KMS::Key', ARN: key.arn }] }),
    eventType: 'AwsApiCall',
    managementEvent: true,
    recipientAccountId: store.accountId,
    eventCategory: 'Management',
  }
}
