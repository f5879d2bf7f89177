/**
 * `npm pack` begins with this: makes plain JavaScript of the library, for programs that have no loader for TypeScript, and its declarations, into
 * `dist/`. The folder's name may be given.
 */
import { spawnSync } from 'node:child_process'
import { copyFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { argv, execPath } from 'node:process'
import { build } from 'esbuild'
import { Missing, orSayWhatIsMissing, root } from './machine.mjs'

await orSayWhatIsMissing(async () => {
  const to = resolve(root, argv[2] ?? 'dist')
  rmSync(to, { recursive: true, force: true })
  await build({
    // What threads run lies beside what starts them, as in the sources.
    entryPoints: [join(root, 'src/library.ts'), join(root, 'src/bulk/bulk-worker.ts')],
    entryNames: '[name]',
    outdir: to,
    bundle: true,
    packages: 'external',
    format: 'esm',
    platform: 'node',
    target: 'node20',
    logLevel: 'warning',
  })
  copyFileSync(join(root, 'src/bulk/boot.mjs'), join(to, 'boot.mjs'))
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  const declared = spawnSync(execPath, [tsc, '-p', join(root, 'scripts/library.tsconfig.json'), '--outDir', join(to, 'types')], {
    cwd: root,
    stdio: ['ignore', 2, 2],
  })
  if (declared.status !== 0) throw new Missing('the declarations could not be made')
})
