/** When a key was last used. */

import { keyFrom } from '../keys.ts'
import { seconds } from '../metadata.ts'
import { operation } from '../operation.ts'
import { keyId } from '../shape.ts'

export const GetKeyLastUsage = operation({
  input: { KeyId: keyId },
  output: ['KeyId', 'KeyLastUsage', 'TrackingStartDate', 'KeyCreationDate'],
  keys: { key: keyFrom('KeyId') },
  readOnly: true,
  async run(call, _input, { key }) {
    const { usage } = call.service
    const last = await usage.lastUse(key.arn)
    return {
      KeyId: key.keyId,
      KeyLastUsage: last
        ? { Operation: last.operation, Timestamp: seconds(last.at), CloudTrailEventId: last.eventId, KmsRequestId: last.requestId }
        : {},
      TrackingStartDate: seconds(Math.max(usage.trackedSince(), key.createdAt)),
      KeyCreationDate: seconds(key.createdAt),
    }
  },
})
