/**
 * Compiles `p11shim.c`, a PKCS#11 module that stands before another one and behaves like hardware that is not at hand: slow, failing, or with an
 * opinion on IVs. For tests, and for the bench's latency model.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { arch, pid } from 'node:process'

const source = fileURLToPath(new URL('p11shim.c', import.meta.url))
const flags = ['-std=c11', '-Wall', '-Wextra', '-Wno-unused-parameter', '-Werror', '-O1', '-fPIC', '-shared']

/** The compiled module in `directory`, made once for each version of its source. Undefined without a C compiler. */
export function compileShim(directory) {
  const code = readFileSync(source)
  const library = join(directory, `p11shim-${createHash('sha256').update(code).digest('hex').slice(0, 16)}-${arch}.so`)
  if (existsSync(library)) return library
  mkdirSync(directory, { recursive: true })
  // Compiled beside and renamed, so that two at once never load half a file.
  const unfinished = `${library}.${pid}`
  try {
    execFileSync('cc', [...flags, '-o', unfinished, source, '-ldl', '-lpthread'], { stdio: ['ignore', 2, 2] })
    renameSync(unfinished, library)
    return library
  } catch (error) {
    rmSync(unfinished, { force: true })
    // A compiler that is there and refuses the source is a defect, not a missing tool.
    if (error.code !== 'ENOENT') throw error
    return undefined
  }
}
