#!/usr/bin/env node
/** The `holdfast` program: the TypeScript sources run as they are, through tsx. `holdfast help` lists the commands. */
import { argv } from 'node:process'
import { checkNode, lockfileInstalled, Missing, orSayWhatIsMissing, root } from './machine.mjs'

await orSayWhatIsMissing(async () => {
  checkNode()
  if (!lockfileInstalled(root, { dev: false })) throw new Missing(`npm packages are missing: run "npm start" or "npm ci" in ${root}`)
  const { register } = await import('tsx/esm/api')
  register()
  const { run } = await import('../src/main.ts')
  process.exitCode = await run(argv.slice(2))
})
