/** The parts of the bench, in the order of the report. A new part is a file with its `Part` and one line here. */

import { bulkPart } from './bulk.ts'
import { growthPart } from './growth.ts'
import { latencyPart } from './latency.ts'
import type { Part } from './part.ts'
import { servicePart } from './service.ts'
import { streamsPart } from './streams.ts'
import { tokenPart } from './token.ts'
import { xksPart } from './xks.ts'

export const parts: readonly Part[] = [tokenPart, latencyPart, servicePart, xksPart, bulkPart, streamsPart, growthPart]
