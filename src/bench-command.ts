/** What `holdfast bench` does around the measurement: progress on the terminal, and the files. Part of the wiring. */

import { mkdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { WriteStream } from 'node:tty'
import { compareRuns } from './bench/compare.ts'
import { readBench } from './bench/read.ts'
import { renderReport } from './bench/report.ts'
import { renderMarkdown, summarize } from './bench/summary.ts'
import type { BenchOptions, BenchOutcome } from './cli/wiring.ts'
import type { Config } from './config/settings.ts'
import { measure } from './measure.ts'

export async function bench(
  config: Config,
  options: BenchOptions,
  terminal: Pick<WriteStream, 'write' | 'isTTY' | 'columns'>,
): Promise<BenchOutcome> {
  // Before anything is measured: a report that cannot be written is found out at once.
  const output = resolve(options.output)
  mkdirSync(output, { recursive: true })
  const progress = showProgress(terminal)
  const { text, markdown, json, report, complete } = await measure(config, options, progress.line)
    .finally(() => progress.end())
    .then((run) => ({
      text: summarize(run),
      markdown: renderMarkdown(run),
      json: `${JSON.stringify(run, undefined, 1)}\n`,
      report: renderReport(run),
      complete: run.parts.every(({ failure }) => failure === null),
    }))
  const files = { figures: join(output, 'bench.json'), report: join(output, 'report.html') }
  writeFileSync(files.figures, json)
  writeFileSync(files.report, report)
  return { text: `${text}\nReport: ${files.report}\nFigures: ${files.figures}\n`, json, markdown, complete }
}

/** One line that is written over where there is a terminal, else one line for each part and a sign of life every ten seconds. */
function showProgress(terminal: Pick<WriteStream, 'write' | 'isTTY' | 'columns'>): {
  readonly line: (part: string, text: string) => void
  readonly end: () => void
} {
  const since = performance.now()
  let lastPart = ''
  let lastAt = 0
  return {
    line(part, text) {
      const now = performance.now()
      const seconds = Math.floor((now - since) / 1000)
      const line = `${String(Math.floor(seconds / 60))}:${String(seconds % 60).padStart(2, '0')} ${part} · ${text}`
      if (terminal.isTTY) terminal.write(`\r\u001b[2K${line.slice(0, Math.max(20, terminal.columns - 1))}`)
      else if (part !== lastPart || now - lastAt > 10_000) {
        terminal.write(`${line}\n`)
        lastAt = now
      }
      lastPart = part
    },
    end() {
      if (terminal.isTTY) terminal.write('\r\u001b[2K')
    },
  }
}

export const compare = async (first: string, second: string): Promise<string> =>
  compareRuns({ name: first, run: readBench(first) }, { name: second, run: readBench(second) })
