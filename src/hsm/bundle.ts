/**
 * A thread's program as one script. What has been made JavaScript beforehand is imported as it is. A source is bundled: a thread has no loader for
 * TypeScript of its own, and giving it one costs 120 ms, 20 MB and a further thread each; this costs 15 ms once, and it is the agent's time to recover.
 */
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

/** To be run by `new Worker(…, { eval: true })`. */
export function bundleThread(entry: URL): string {
  if (entry.href.endsWith('.js')) return `import(${JSON.stringify(entry.href)})`
  const require = createRequire(import.meta.url)
  // Loaded only here: that alone takes longer than the rest of an agent's modules.
  const { buildSync } = require('esbuild') as typeof import('esbuild')
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
  const resolveFrom = JSON.stringify(require.resolve('pkcs11js'))
  return `((require) => {${file.text}})(require('node:module').createRequire(${resolveFrom}))`
}
