/**
 * On CI a test that fails is tried once more, so that a race in a test does not stop what has nothing to do with it. That it failed is said loudly
 * at the end: a test that is listed there is to be mended.
 */
import type { Reporter, TestCase } from 'vitest/node'

export class FlakyReporter implements Reporter {
  readonly #lines: string[] = []
  readonly #write: (text: string) => unknown
  constructor(write: (text: string) => unknown = (text) => process.stderr.write(text)) {
    this.#write = write
  }
  onTestCaseResult(test: Pick<TestCase, 'diagnostic' | 'fullName' | 'module' | 'result'>): void {
    if (test.diagnostic()?.flaky !== true) return
    const [reason] = test.result().errors?.map(({ message }) => message.split('\n', 1)[0]) ?? []
    this.#lines.push(
      `FLAKY: ${test.module.relativeModuleId} > ${test.fullName}: passed only at its second attempt; the first: ${reason ?? ''}`,
    )
  }
  onTestRunEnd(): void {
    if (this.#lines.length > 0) this.#write(`\n${this.#lines.join('\n')}\n${this.#lines.length} FLAKY: to be mended.\n`)
  }
}
