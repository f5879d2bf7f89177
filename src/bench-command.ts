/** What `holdfast bench` does around the measurement: progress on the terminal, and the files. Part of the wiring. */

import { closeSync, existsSync, mkdirSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { WriteStream } from 'node:tty'
import { OperatorError } from './base/operator-error.ts'
import { compareRuns } from './bench/compare.ts'
import { readBench } from './bench/read.ts'
import { renderReport } from './bench/report.ts'
import type { Bench } from './bench/run.ts'
import { renderMarkdown, summarize } from './bench/summary.ts'
import type { BenchOptions, BenchShown } from './cli/wiring.ts'
import type { Config } from './config/settings.ts'
import { measure } from './measure.ts'

type Terminal = Pick<WriteStream, 'write' | 'isTTY' | 'columns'>

/** What surrounds a run. */
export interface Surroundings {
  /** Is told what is being measured, and what goes wrong. */
  readonly terminal: Terminal
  /** Ends the run; what has been measured until then is kept. */
  readonly stop: AbortSignal
  readonly show: (run: BenchShown) => Promise<void>
}

/** @returns whether everything was measured, written, and taken away again */
export async function bench(config: Config, options: BenchOptions, { terminal, stop, show }: Surroundings): Promise<boolean> {
  // Before anything is measured: a report that cannot be written is found out at once.
  const files = openOutput(resolve(options.output))
  const progress = showProgress(terminal)
  const tell = (sentence: string): void => {
    progress.end()
    terminal.write(`${sentence}\n`)
  }
  const onStop = (): void =>
    tell('Stopping: what this run made is taken away. Told again, it ends at once, and the next run takes away what is left.')
  stop.addEventListener('abort', onStop)
  let isDone = true
  const keep = async (run: Bench): Promise<void> => {
    progress.end()
    isDone = run.parts.every(({ failure }) => failure === null)
    const json = `${JSON.stringify(run, undefined, 1)}\n`
    let where = 'No part was measured: no report is written.'
    if (run.parts.some(({ failure }) => failure === null)) {
      try {
        writeFileSync(files.figures, json)
        writeFileSync(files.report, renderReport(run))
        where = `Report: ${files.report}\nFigures: ${files.figures}`
      } catch (error) {
        isDone = false
        where = `The report could not be written: ${reasonOf(error)}.`
        tell(where)
      }
    }
    await show({ text: `${summarize(run)}\n${where}\n`, json, markdown: renderMarkdown(run) })
  }
  try {
    await measure(config, options, {
      progress: progress.line,
      stop,
      keep,
      leave(left) {
        isDone = false
        tell(left)
      },
    })
    return isDone
  } finally {
    progress.end()
    stop.removeEventListener('abort', onStop)
  }
}

/**
 * Finds out whether the report can be written, and makes its directory. What is there already stays as it is.
 *
 * @throws OperatorError
 */
function openOutput(dir: string): { readonly figures: string; readonly report: string } {
  const files = { figures: join(dir, 'bench.json'), report: join(dir, 'report.html') }
  let path = dir
  try {
    mkdirSync(dir, { recursive: true })
    for (path of Object.values(files)) {
      const isNew = !existsSync(path)
      closeSync(openSync(path, 'a'))
      if (isNew) rmSync(path)
    }
  } catch (error) {
    throw new OperatorError(`The report cannot be written to ${path}: ${reasonOf(error)}. Name another directory with --output.`)
  }
  return files
}

const reasons: Readonly<Record<string, string>> = {
  EEXIST: 'it is a file, not a directory',
  ENOTDIR: 'part of the path is a file, not a directory',
  EISDIR: 'it is a directory, not a file',
  EACCES: 'this user may not write there',
  EPERM: 'this user may not write there',
  EROFS: 'the file system is read-only',
  ENOSPC: 'the file system is full',
}

function reasonOf(error: unknown): string {
  const { code } = error as NodeJS.ErrnoException
  return reasons[code ?? ''] ?? (error instanceof Error ? error.message : String(error))
}

/** One line that is written over where there is a terminal, else one line for each part and a sign of life every ten seconds. */
function showProgress(terminal: Terminal): {
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
