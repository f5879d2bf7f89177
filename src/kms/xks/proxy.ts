/**
 * The inside of the XKS proxy (AWS KMS External Key Store Proxy API Specification 1.0.3): what one request means once the door has its bytes.
 *
 * The door (`http/`) does TLS, HTTP/1.1 and HTTP/2, the routes, 405 and the body's cap; everything after is here: the signature (401), then the operation
 * (`operations`), with its work in the device (`device`). Then the audit record is made durable, and only then does the answer leave.
 */

import { within } from '../../base/within.ts'
import { errorBody, errorStatuses } from '../../xks/protocol.ts'
import { readMembers, toldMetadata } from '../../xks/requests.ts'
import type { Service } from '../service.ts'
import type { Stranger } from '../strangers.ts'
import { openXksAuthentication, type Signer, type XksAuthentication } from './credentials.ts'
import { openXksDevices } from './device.ts'
import type { HealthSource } from './health.ts'
import { xksOperations } from './operations.ts'
import { buildRecord } from './record.ts'
import { tooLate, toRefusal, XksRefusal } from './refusal.ts'
import { newAsked, operationNames, wipe, type Asked, type XksRequest } from './request.ts'

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

export function openXksProxy(service: Service, options: { readonly health: HealthSource }): XksProxy {
  const { store: records, log } = service
  const authentication = openXksAuthentication(service)
  const count = openXksMetrics(service, authentication)
  const devices = openXksDevices(service)
  const operations = xksOperations(service, { devices, health: options.health })
  const underWay = new Set<Promise<XksAnswer>>()

  const perform = async (asked: Asked): Promise<string> => {
    const { request } = asked
    const signed = authenticate(service, authentication, asked)
    const signer = signed instanceof Promise ? await signed : signed
    asked.signer = signer
    const members = readMembers(request.body)
    asked.told = toldMetadata(members)
    return operations[request.api](asked, members, signer)
  }

  const answer = async (request: XksRequest): Promise<XksAnswer> => {
    const startedAt = performance.now()
    const store = records.view.xksStore(request.prefix)
    // It has been removed since the door asked for it.
    if (!store) {
      service.strangers.count(asStranger(service, undefined, noStore().errorName, request.remoteAddress))
      return refused(noStore())
    }
    const asked = newAsked(request, store)
    let outcome: string | XksRefusal = await perform(asked).catch(toRefusal)
    if (typeof outcome !== 'string') logRefusal(service, asked, outcome)
    wipe(asked)
    try {
      await record(service, asked, typeof outcome === 'string' ? undefined : outcome, startedAt)
    } catch (error) {
      log.error({ prefix: request.prefix, api: request.api, err: error }, 'the audit record could not be written; the request fails')
      outcome = new XksRefusal('InternalException', 'The request could not be recorded and was not answered.')
    }
    const code = typeof outcome === 'string' ? 'ok' : outcome.errorName
    count({ prefix: request.prefix, operation: operationNames[request.api] }, code, performance.now() - startedAt)
    return typeof outcome === 'string' ? { status: 200, body: outcome } : refused(outcome)
  }

  const has = (prefix: string): boolean => records.view.xksStore(prefix) !== undefined
  return {
    has,
    refusedAtDoor(prefix, code, remoteAddress) {
      // Of prefixes that are nobody's a caller could make up more and more.
      const known = prefix !== undefined && has(prefix) ? prefix : undefined
      service.strangers.count(asStranger(service, known, code, remoteAddress))
    },
    answer(request) {
      const answering = answer(request)
      underWay.add(answering)
      void answering.then(() => underWay.delete(answering))
      return answering
    },
    async close() {
      while (underWay.size > 0) await Promise.all(underWay)
      await devices.close()
    },
  }
}

/** Counts requests as it is told. */
function openXksMetrics({ metrics, clock }: Service, authentication: XksAuthentication) {
  metrics.gauge(
    'holdfast_xks_proxy_credential_last_use_age_seconds',
    'How long ago a credential last signed a request to this process.',
    () =>
      authentication
        .lastUses()
        .map(({ prefix, accessKeyId, at }) => ({ labels: { prefix, credential: accessKeyId }, value: (clock.now() - at) / 1000 })),
    'min',
  )
  return metrics.calls('holdfast_xks_proxy_requests', 'Requests of external key stores, by URI path prefix and operation', [
    'prefix',
    'operation',
  ])
}

function authenticate(service: Service, authentication: XksAuthentication, asked: Asked): Signer | Promise<Signer> {
  const { request, store } = asked
  const [path = '', ...query] = request.path.split('?')
  const { method, headers, body } = request
  const signed = authentication.authenticate(store, { method, path, query: query.join('?'), headers, body })
  if (!(signed instanceof Promise)) return signed
  /** Once a day the HSM has to open the secret. It may hang, and the store may change: be switched off perhaps, or rid of this credential. */
  const whenOpened = async (): Promise<Signer> => {
    const signer = await within(request.deadline - service.clock.now(), signed, tooLate)
    const current = service.store.view.xksStore(request.prefix)
    if (current === store) return signer
    if (!current) throw noStore()
    asked.store = current
    return authenticate(service, authentication, asked)
  }
  return whenOpened()
}

/** In the audit, and as a key's last use. */
async function record(service: Service, asked: Asked, refusal: XksRefusal | undefined, startedAt: number): Promise<void> {
  const { request, signer, key } = asked
  const { prefix, remoteAddress } = request
  if (refusal && !signer && !service.strangers.isRecorded(asStranger(service, prefix, refusal.errorName, remoteAddress))) return
  asked.note['latencyMs'] = Math.round((performance.now() - startedAt) * 1000) / 1000
  const entry = buildRecord(asked, refusal, service.config)
  await service.trail.append(entry)
  if (refusal || !key || request.api === 'metadata') return
  service.usage.used({
    keyArn: key.arn,
    operation: operationNames[request.api],
    at: request.receivedAt,
    eventId: entry.eventID,
    requestId: entry['requestID'] as string,
  })
}

function asStranger({ store, config }: Service, prefix: string | undefined, errorCode: string, sourceIp: string): Stranger {
  return {
    eventSource: 'xks.holdfast',
    ...(prefix !== undefined && { prefix }),
    accountId: (prefix === undefined ? undefined : store.view.xksStore(prefix))?.accountId ?? config.accountId,
    errorCode,
    sourceIp,
  }
}

function logRefusal({ log }: Service, { request, told }: Asked, { errorName, message, cause }: XksRefusal): void {
  const event = { prefix: request.prefix, api: request.api, kmsRequestId: told.kmsRequestId, errorName, detail: message }
  if (errorName === 'InternalException') log.error({ ...event, err: cause }, 'an XKS request failed')
  else log.info({ ...event, ...(cause instanceof Error && { cause: cause.message }) }, 'an XKS request was refused')
}

const noStore = (): XksRefusal => new XksRefusal('InvalidUriPathException', 'There is no key store at this URI path.')

const refused = ({ errorName, message }: XksRefusal): XksAnswer => ({
  status: errorStatuses[errorName],
  body: errorBody(errorName, message),
})
