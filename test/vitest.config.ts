import { defineConfig } from 'vitest/config'
import { inTheBuild, programs } from './build.ts'

/** Two projects: `unit` runs in parallel, `token` one file at a time, since its files share one machine's PKCS#11 modules. */
export default defineConfig({
  plugins: [inTheBuild],
  test: {
    root: new URL('..', import.meta.url).pathname,
    globalSetup: new URL('build.ts', import.meta.url).pathname,
    env: { HOLDFAST_TEST_PROGRAMS: programs },
    testTimeout: 30_000,
    hookTimeout: 60_000,
    projects: [
      { extends: true, test: { name: 'unit', include: ['test/*.test.ts', 'test/unit/**/*.test.ts'] } },
      {
        extends: true,
        test: {
          name: 'token',
          include: ['test/token/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
})
