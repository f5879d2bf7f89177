/**
 * Builds and drives the module in `softhsm/p11shim.c`, which stands between the code and a real PKCS#11 module and
 * behaves like hardware that is not at hand, or that is failing. Its head comment says what it can do.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { compileShim } from '../../softhsm/shim.mjs'

const workDirectory = fileURLToPath(new URL('../.work/', import.meta.url))

/**
 * The path of the compiled shim, built once for each version of its source. Undefined, with a loud message, on a
 * machine without a C compiler; with HOLDFAST_REQUIRE_LAB=1 that is an error.
 */
export function buildShim(): string | undefined {
  const library = compileShim(workDirectory)
  if (library !== undefined) return library
  if (process.env['HOLDFAST_REQUIRE_LAB'] === '1') throw new Error('the PKCS#11 shim needs a C compiler; install gcc')
  console.warn('\n*** SKIPPED: no C compiler (cc), so nothing is tested against faulty and foreign hardware; install gcc ***\n')
  return undefined
}

/** Whose IV AES-GCM encryption takes; see the head of `p11shim.c`. */
export type ShimGcm = 'back-init' | 'back-encrypt' | 'back-never' | 'tail'

/** The environment that makes the shim forward to `module` and behave as asked. It must be set when the process starts. */
export function shimEnv(settings: {
  readonly module: string
  readonly gcm?: ShimGcm
  /** CKM_ numbers that the token is not to have. */
  readonly hide?: readonly number[]
  readonly latencyUs?: number
  readonly faults?: FaultFile
}): Record<string, string> {
  return {
    SHIM_MODULE: settings.module,
    ...(settings.gcm === undefined ? {} : { SHIM_GCM: settings.gcm }),
    ...(settings.hide === undefined ? {} : { SHIM_HIDE: settings.hide.join(',') }),
    ...(settings.latencyUs === undefined ? {} : { SHIM_LATENCY_US: String(settings.latencyUs) }),
    ...(settings.faults === undefined ? {} : { SHIM_FAULTS: settings.faults.path }),
  }
}

export interface Fault {
  /** `C_Encrypt`, or `*` for any function. */
  readonly function: string
  /** A CKR_ number to return, or what else happens. Default `forward`: nothing but the delay or the attribute. */
  readonly rv?: number | 'forward' | 'empty' | 'hang' | 'segv' | 'abort' | 'logout' | 'close-all'
  /** `after`: the module does its work and only the answer is lost. */
  readonly when?: 'before' | 'after'
  /** How often over all processes together. Default 1. */
  readonly count?: number | 'always'
  /** How many fitting calls pass first. Default 0. */
  readonly skip?: number
  readonly delayMs?: number
  /** Fits only while another thread makes a key. */
  readonly whileMaking?: boolean
  /** C_GetAttributeValue reports this CK_BBOOL attribute so, whatever the module says. */
  readonly attribute?: { readonly type: number; readonly value: boolean }
}

/** The file of faults that running processes look at before every call. */
export class FaultFile {
  readonly path: string

  constructor(directory: string) {
    this.path = `${directory}/faults`
    this.set()
  }

  /** Replaces all faults; none given takes them away. In force from the next call of any process on. */
  set(...faults: readonly Fault[]): void {
    const lines = faults.map((fault) => {
      const words = [fault.function, `rv=${typeof fault.rv === 'number' ? `0x${fault.rv.toString(16)}` : (fault.rv ?? 'forward')}`]
      if (fault.whileMaking) words.push('while=making')
      if (fault.when !== undefined) words.push(`when=${fault.when}`)
      words.push(`count=${fault.count ?? 1}`, `skip=${fault.skip ?? 0}`, `delay=${fault.delayMs ?? 0}`)
      if (fault.attribute !== undefined) words.push(`attr=0x${fault.attribute.type.toString(16)}`, `value=${Number(fault.attribute.value)}`)
      return `${words.join(' ')}\n`
    })
    writeFileSync(`${this.path}.new`, lines.join(''))
    renameSync(`${this.path}.new`, this.path)
  }

  /** The counts not yet used up, in the order of the faults; `always` stays so. */
  left(): readonly (number | 'always')[] {
    const lines = readFileSync(this.path, 'utf8').split('\n')
    return lines.flatMap((line) => {
      const count = /\bcount=(\w+)/.exec(line)?.[1]
      return count === undefined ? [] : [count === 'always' ? count : Number(count)]
    })
  }
}
