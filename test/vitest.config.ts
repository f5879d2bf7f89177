import { defineConfig } from 'vitest/config'
import { inTheBuild, programs } from './build.ts'
import { FlakyReporter } from './flaky-reporter.ts'
import { LongestFirst } from './longest-first.ts'

/**
 * Two test files at a time: each has its own directories, tokens and ports, and waits about as long as it computes. The time limits are for a
 * machine that is slow and busy: nothing waits for one of them while all is well.
 */
export default defineConfig({
  plugins: [inTheBuild],
  test: {
    root: new URL('..', import.meta.url).pathname,
    globalSetup: new URL('build.ts', import.meta.url).pathname,
    env: { HOLDFAST_TEST_PROGRAMS: programs },
    reporters: ['default', new FlakyReporter()],
    maxWorkers: 2,
    maxConcurrency: 3,
    expect: { poll: { timeout: 30_000 } },
    sequence: { sequencer: LongestFirst },
    // What a property test found is found, whether or not the next inputs find it again.
    ...(process.env['CI'] === 'true' && { retry: { count: 1, condition: /^(?!Property failed)/ } }),
    projects: [
      {
        extends: true,
        test: { name: 'unit', include: ['test/*.test.ts', 'test/unit/**/*.test.ts'], testTimeout: 60_000, hookTimeout: 120_000 },
      },
      { extends: true, test: { name: 'token', include: ['test/token/**/*.test.ts'], testTimeout: 300_000, hookTimeout: 300_000 } },
    ],
  },
})
