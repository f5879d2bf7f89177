/**
 * One caller of node:crypto, a process of its own: started once, it does operation after operation as it is told. As many of them run side by side as
 * there are callers, but no more than the machine has cores.
 *
 * Started by fork; answers every SoftwareOrder with SoftwareResult, ends when its parent does.
 */

import { Durations, type PackedDurations } from './histogram.ts'
import { softwareOperations, type SoftwareOperation } from './software.ts'

export interface SoftwareOrder {
  readonly operation: SoftwareOperation
  readonly warmupMs: number
  readonly durationMs: number
}

export interface SoftwareResult {
  readonly elapsedMs: number
  readonly durations: PackedDurations
}

/** A key is made once: what it costs is an operation of its own. */
const open = new Map<SoftwareOperation, () => void>()

process.on('message', ({ operation, warmupMs, durationMs }: SoftwareOrder) => {
  let call = open.get(operation)
  if (!call) open.set(operation, (call = softwareOperations[operation]()))
  const warmUntil = performance.now() + warmupMs
  while (performance.now() < warmUntil) call()
  const durations = new Durations()
  const startedAt = performance.now()
  let before = startedAt
  while (before - startedAt < durationMs) {
    call()
    const now = performance.now()
    durations.add(now - before)
    before = now
  }
  process.send?.({ elapsedMs: before - startedAt, durations: durations.pack() } satisfies SoftwareResult)
})
process.once('disconnect', () => process.exit(0))
