/** The hooks of test files that work with rooms (crash-rooms.ts): one SoftHSM2 token for a file, and for each test nothing in it. */

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import type { Token } from '../../src/hsm/token.ts'
import { destroyAllKeys, openLabToken, openRooms, type Rooms } from './crash-rooms.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'

export interface LabOfFile {
  readonly lab: LabToken
  readonly token: Token
  /** The same token in another process of the vendor's library, as a second instance has it. Only where two were asked for. */
  readonly other: Token
}

export function useLab(processes: 1 | 2 = 1): LabOfFile {
  let lab: LabToken
  let tokens: Token[]
  beforeAll(async () => {
    lab = await makeSoftHsmToken()
    tokens = []
    for (let n = 0; n < processes; n++) tokens.push(await openLabToken(lab))
  })
  afterAll(async () => {
    for (const token of tokens) await token.close()
    await lab.remove()
  })
  return {
    get lab() {
      return lab
    },
    get token() {
      return tokens[0] as Token
    },
    get other() {
      return tokens[1] as Token
    },
  }
}

export interface RoomsOfTest extends LabOfFile {
  /** Where this test's database is. */
  readonly dir: string
  readonly clock: ManualClock
  /** Rooms on `token`, in `dir`, by `clock`; they are closed when the test ends. */
  open(options?: Partial<Parameters<typeof openRooms>[0]>): Promise<Rooms>
}

export function useRooms(processes: 1 | 2 = 1): RoomsOfTest {
  const file = useLab(processes)
  let dir: string
  let clock: ManualClock
  let opened: Rooms[]
  let runs = 0
  beforeEach(() => {
    dir = join(file.lab.dir, `run-${++runs}`)
    clock = new ManualClock(Date.UTC(2026, 0, 1))
    opened = []
  })
  afterEach(async () => {
    for (const rooms of opened) await rooms.close()
    await destroyAllKeys(file.token)
    rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  })
  return {
    get lab() {
      return file.lab
    },
    get token() {
      return file.token
    },
    get other() {
      return file.other
    },
    get dir() {
      return dir
    },
    get clock() {
      return clock
    },
    async open(options = {}) {
      const rooms = await openRooms({ dir, token: file.token, clock, ...options })
      opened.push(rooms)
      return rooms
    },
  }
}
