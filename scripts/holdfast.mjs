#!/usr/bin/env -S node --max-semi-space-size=64
/**
 * The `holdfast` program, made of the TypeScript sources when they have changed (programs.mjs). `holdfast help` lists the commands.
 *
 * The flag above gives V8 more room for what is young: a call waits for the device and for the audit trail, and with the usual 16 MiB much of
 * what a call needs is copied while it waits.
 */
import { argv } from 'node:process'
import { checkNode, lockfileInstalled, Missing, orSayWhatIsMissing, root } from './machine.mjs'

await orSayWhatIsMissing(async () => {
  checkNode()
  if (!lockfileInstalled(root, { dev: false })) throw new Missing(`npm packages are missing: run "npm start" or "npm ci" in ${root}`)
  const { importProgram } = await import('./programs.mjs')
  const { run } = await importProgram('main')
  process.exitCode = await run(argv.slice(2))
})
