/** The parts of the bench, in the order of the report. A new part is a file with its `Part` and one line here. */

import type { Part } from './part.ts'
import { tokenPart } from './token.ts'

export const parts: readonly Part[] = [tokenPart]
