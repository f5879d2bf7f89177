/** What the tests start: programs as `build.ts` has made them for this run. */
import { join } from 'node:path'

/** Where a program is, by its source's path in the repository. It needs no flags of Node. */
export function builtProgram(source: string): string {
  const programs = process.env['HOLDFAST_TEST_PROGRAMS']
  if (programs === undefined) throw new Error('programs are made by test/build.ts: run vitest with test/vitest.config.ts')
  return join(programs, source.replace(/\.ts$/, '.js'))
}
