/** What the audit trail has of a request to the XKS proxy. */

import { randomUUID } from 'node:crypto'
import type { AuditRecord } from '../../audit/trail.ts'
import { eventTime } from '../record.ts'
import type { XksRefusal } from './refusal.ts'
import { operationNames, type Asked } from './request.ts'

/** CloudTrail's limit on a caller's texts. ARNs may be longer. */
const short = (text: string | undefined, most = 1024): string | undefined => text?.slice(0, most)

/** Shaped as the records of all calls are (kms/record.ts); what was encrypted or decrypted is in none of its members. */
export function buildRecord(
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
    eventName: operationNames[api],
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
