/** How far a long command has come, on the last line of a terminal: share, bytes, rate, time left. */

const intervalMs = 200
/** The rate is that of the last so many moments, so that it follows what happens now. */
const remembered = 25

export interface Progress {
  /** So many bytes more are done. */
  add(bytes: number): void
  /** Removes the line. */
  close(): void
}

/**
 * @param totalBytes where it is known
 * @param print writes to the terminal, at once
 */
export function openProgress(totalBytes: number | undefined, print: (text: string) => void): Progress {
  let done = 0
  const moments: { readonly at: number; readonly done: number }[] = [{ at: performance.now(), done: 0 }]
  const timer = setInterval(() => {
    moments.push({ at: performance.now(), done })
    if (moments.length > remembered) moments.shift()
    const [first, last] = [moments[0], moments.at(-1)]
    const seconds = first && last ? (last.at - first.at) / 1000 : 0
    const rate = first && last && seconds > 0 ? (last.done - first.done) / seconds : 0
    print(`\r${describeProgress({ done, totalBytes, bytesPerSecond: rate })}\x1b[K`)
  }, intervalMs)
  timer.unref()
  return {
    add: (bytes) => void (done += bytes),
    close() {
      clearInterval(timer)
      if (moments.length > 1) print('\r\x1b[K')
    },
  }
}

/** ` 42 %  1.3 GiB of 3.0 GiB  850 MiB/s  2 s left`; without a total what is known. */
export function describeProgress(state: {
  readonly done: number
  readonly totalBytes: number | undefined
  readonly bytesPerSecond: number
}): string {
  const { done, totalBytes, bytesPerSecond } = state
  const rate = `${describeBytes(bytesPerSecond)}/s`
  if (totalBytes === undefined || totalBytes < done) return `${describeBytes(done)}  ${rate}`
  const share = totalBytes === 0 ? 100 : Math.floor((100 * done) / totalBytes)
  const left = bytesPerSecond > 0 ? `  ${describeSeconds((totalBytes - done) / bytesPerSecond)} left` : ''
  return `${String(share).padStart(3)} %  ${describeBytes(done)} of ${describeBytes(totalBytes)}  ${rate}${left}`
}

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const

function describeBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? Math.round(value) : value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`
}

function describeSeconds(seconds: number): string {
  const whole = Math.ceil(seconds)
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}
