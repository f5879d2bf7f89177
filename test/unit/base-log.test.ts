import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { openLog } from '../../src/base/log.ts'

const dir = mkdtempSync(join(tmpdir(), 'holdfast-log-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const linesOf = (file: string): readonly string[] => readFileSync(file, 'utf8').split('\n').slice(0, -1)
const withoutTime = (line: string): string => line.replace(/"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"/, '"time":""')

describe('the log', () => {
  it('writes an event as it writes any other line of the same fields', () => {
    const file = join(dir, 'event')
    const log = openLog({ level: 'info', destination: openSync(file, 'w') })
    const fields = { requestId: 'a', text: 'quote " backslash \\ line\n é \u2028', status: 200, ms: 0.25, principal: undefined }
    log.info(fields, 'call')
    log.event(fields, 'call')
    log.child({ part: 'x' }).event(fields, 'call')
    log.flush()
    const [ordinary, event, child] = linesOf(file)
    expect(withoutTime(event ?? '')).toBe(withoutTime(ordinary ?? ''))
    expect(JSON.parse(child ?? '')).toMatchObject({ part: 'x', status: 200, msg: 'call' })
  })

  it('keeps lines in their order, whichever way they come', () => {
    const file = join(dir, 'order')
    const log = openLog({ level: 'info', destination: openSync(file, 'w') })
    for (let n = 0; n < 100; n++) {
      log.event({ n }, 'event')
      log.warn({ n }, 'line')
    }
    log.flush()
    const lines = linesOf(file).map((line) => JSON.parse(line) as { n: number; msg: string })
    expect(lines.map(({ n, msg }) => `${n} ${msg}`)).toEqual(Array.from({ length: 100 }, (_, n) => [`${n} event`, `${n} line`]).flat())
  })

  it('writes no events above their level', () => {
    const file = join(dir, 'level')
    const log = openLog({ level: 'warn', destination: openSync(file, 'w') })
    log.event({ n: 1 }, 'event')
    log.warn({ n: 2 }, 'line')
    log.flush()
    expect(linesOf(file)).toHaveLength(1)
  })

  it('blanks what could be a secret', () => {
    const file = join(dir, 'secret')
    const log = openLog({ level: 'info', destination: openSync(file, 'w') })
    log.info({ pin: '1234', plaintext: 'abcd' }, 'line')
    log.flush()
    expect(JSON.parse(linesOf(file)[0] ?? '')).toMatchObject({ pin: '[secret]', plaintext: '[secret]' })
  })
})
