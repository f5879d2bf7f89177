/** Which directories of earlier runs of the bench a run takes away; that keys in a token go with them is shown by test/token/bench.test.ts. */

import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { makeSite, removeLeftovers, removeSite, sayOwner } from '../../src/measure-leftovers.ts'

/** No process of Linux has it. */
const gone = 2 ** 22 + 1
const token = { library: '/lib/hsm.so', label: 'theirs', serial: '1' }

let data: string
beforeAll(() => {
  data = mkdtempSync(join(tmpdir(), 'holdfast-leftovers-'))
})
afterAll(() => rmSync(data, { recursive: true, force: true }))

/** @param files their contents by name */
function place(name: string, files: Readonly<Record<string, string>>): string {
  mkdirSync(join(data, name))
  for (const [file, content] of Object.entries(files)) writeFileSync(join(data, name, file), content)
  return name
}

test('a run takes away what runs left that are surely over, said whose they were or not, and nothing else', async () => {
  const own = makeSite(data)
  sayOwner(own, { pid: process.pid })
  writeFileSync(join(own, 'keys'), '{"ckaId":"01","label":"holdfast/bench"}\n')
  const begun = basename(makeSite(data))
  const stay = [
    basename(own),
    // Not said yet whose it is: its process runs.
    begun,
    place('bench-elder', {}),
    place(`bench-${gone}-keys`, { keys: '{"ckaId":"02","label":"holdfast/bench"}\n' }),
    place(`bench-${gone}-token`, { 'owner.json': JSON.stringify({ pid: gone, token }) }),
    place('benchmark', {}),
  ]
  place(`bench-${gone}-begun`, {})
  place(`bench-${gone}-nokey`, { keys: '{"ckaId":"hal', 'owner.json.new': '{"pid":' })
  place(`bench-${gone}-said`, { 'owner.json': JSON.stringify({ pid: gone }), keys: '{"ckaId":"03","label":"holdfast/bench"}\n' })
  place('bench-old', { 'owner.json': JSON.stringify({ pid: gone }) })
  await removeLeftovers(data)
  expect(readdirSync(data).sort()).toEqual(stay.sort())
  await removeSite(own)
  expect(readdirSync(data)).not.toContain(basename(own))
})
