/**
 * A thread's program as one script. A thread has no loader for TypeScript of its own, and giving it one costs 120 ms, 20 MB and a further thread each;
 * this costs 15 ms once, and it is the agent's time to recover.
 */
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { buildSync } from 'esbuild'

/** To be run by `new Worker(…, { eval: true })`. */
export function bundleThread(entry: URL): string {
  const bundle = buildSync({
    entryPoints: [fileURLToPath(entry)],
    bundle: true,
    write: false,
    platform: 'node',
    format: 'cjs',
    packages: 'external',
    keepNames: true,
    define: { 'import.meta.url': JSON.stringify(entry.href) },
  })
  const [file] = bundle.outputFiles
  if (file === undefined) throw new Error(`${entry.href} could not be bundled`)
  // Packages are looked for from here, not from the working directory.
  const resolveFrom = JSON.stringify(createRequire(import.meta.url).resolve('pkcs11js'))
  return `((require) => {${file.text}})(require('node:module').createRequire(${resolveFrom}))`
}
