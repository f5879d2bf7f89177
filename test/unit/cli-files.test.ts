/** What the commands for messages write: targets that are there whole or not at all, and progress. */

import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { describeProgress, openProgress } from '../../src/cli/progress.ts'
import { openTargetFile } from '../../src/cli/target-file.ts'
import { scratch } from './http-fixture.ts'

function folder(): string {
  const files = scratch()
  onTestFinished(() => files.remove())
  return files.dir
}

describe('a target', () => {
  test('is there when it is committed, not before, for its owner alone', async () => {
    const dir = folder()
    const target = await openTargetFile(join(dir, 'new'), false)
    await target.write(Buffer.from('some'))
    await target.write(Buffer.from('thing'))
    expect(readdirSync(dir)).toEqual([expect.stringMatching(/^\.new\.[0-9a-f]{12}\.part$/)])
    await target.commit()
    expect(readdirSync(dir)).toEqual(['new'])
    expect([readFileSync(join(dir, 'new'), 'utf8'), statSync(join(dir, 'new')).mode & 0o777]).toEqual(['something', 0o600])
  })

  test('leaves nothing when it is abandoned', async () => {
    const dir = folder()
    const target = await openTargetFile(join(dir, 'new'), false)
    await target.write(Buffer.from('something'))
    await target.abandon()
    expect(readdirSync(dir)).toEqual([])
  })

  test('does not take the place of what came there meanwhile', async () => {
    const dir = folder()
    const target = await openTargetFile(join(dir, 'new'), false)
    writeFileSync(join(dir, 'new'), 'precious')
    await expect(target.commit()).rejects.toThrow('is there already')
    await target.abandon()
    expect([readdirSync(dir), readFileSync(join(dir, 'new'), 'utf8')]).toEqual([['new'], 'precious'])
  })

  test('that is to be replaced is what it was until the end', async () => {
    const dir = folder()
    writeFileSync(join(dir, 'old'), 'precious')
    const target = await openTargetFile(join(dir, 'old'), true)
    await target.write(Buffer.from('new'))
    expect(readFileSync(join(dir, 'old'), 'utf8')).toBe('precious')
    await target.commit()
    expect([readdirSync(dir), readFileSync(join(dir, 'old'), 'utf8')]).toEqual([['old'], 'new'])
  })

  test.each([
    ['a folder', (path: string) => mkdirSync(path), 'is no regular file'],
    ['a link', (path: string) => symlinkSync('/dev/null', path), 'is no regular file'],
    ['in a folder that is not there', () => undefined, 'cannot be written'],
  ])('that is %s is refused', async (what, make, message) => {
    const dir = folder()
    const path = join(dir, what.startsWith('in') ? 'absent/new' : 'place')
    make(path)
    await expect(openTargetFile(path, true)).rejects.toThrow(message)
  })
})

describe('progress', () => {
  test('is one line that is written over, and is gone at the end', () => {
    vi.useFakeTimers()
    onTestFinished(() => void vi.useRealTimers())
    const printed: string[] = []
    const progress = openProgress(1000, (text) => printed.push(text))
    progress.add(100)
    vi.advanceTimersByTime(200)
    progress.add(400)
    vi.advanceTimersByTime(200)
    progress.close()
    vi.advanceTimersByTime(1000)
    expect(printed).toEqual([
      '\r 10 %  100 B of 1000 B  500 B/s  2 s left\u001b[K',
      '\r 50 %  500 B of 1000 B  1.2 KiB/s  1 s left\u001b[K',
      '\r\u001b[K',
    ])
  })

  const MiB = 1_048_576
  test.each([
    [{ done: 0, totalBytes: 100 * MiB, bytesPerSecond: 0 }, '  0 %  0 B of 100 MiB  0 B/s'],
    [{ done: 42 * MiB, totalBytes: 100 * MiB, bytesPerSecond: 20 * MiB }, ' 42 %  42 MiB of 100 MiB  20 MiB/s  3 s left'],
    [
      { done: 1.5 * 1024 * MiB, totalBytes: 3 * 1024 * MiB, bytesPerSecond: 10 * MiB },
      ' 50 %  1.5 GiB of 3.0 GiB  10 MiB/s  2 min 34 s left',
    ],
    [{ done: MiB, totalBytes: 100_000 * MiB, bytesPerSecond: MiB }, '  0 %  1.0 MiB of 98 GiB  1.0 MiB/s  27 h 46 min left'],
    [{ done: 0, totalBytes: 0, bytesPerSecond: 0 }, '100 %  0 B of 0 B  0 B/s'],
    [{ done: 42 * MiB, totalBytes: undefined, bytesPerSecond: 900 }, '42 MiB  900 B/s'],
    [{ done: 2 * MiB, totalBytes: MiB, bytesPerSecond: MiB }, '2.0 MiB  1.0 MiB/s'],
  ])('%j', (state, text) => {
    expect(describeProgress(state)).toBe(text)
  })
})
