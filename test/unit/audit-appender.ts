/**
 * Appends records to a trail from a process of its own and prints each one's event id when it is durable.
 * Arguments: file, name (prefix of event ids), how many (0: until killed), how many at once.
 */

import { systemClock } from '../../src/base/clock.ts'
import { openTrail } from '../../src/audit/open.ts'
import { makeSigner, sampleRecord } from './audit-suite.ts'

const [file = '', name = '', count = '0', width = '1'] = process.argv.slice(2)
const trail = await openTrail({ file, clock: systemClock, sealEveryMs: 3_600_000, ...makeSigner() })
const last = Number(count) || Number.MAX_SAFE_INTEGER
let next = 1
const client = async (): Promise<void> => {
  while (next <= last) {
    const eventID = `${name}-${next++}`
    await trail.append(sampleRecord({ eventID }))
    process.stdout.write(`${eventID}\n`)
  }
}
await Promise.all(Array.from({ length: Number(width) }, client))
await trail.close()
