/** The `holdfast` program without its loader: what `scripts/holdfast.mjs` does once the sources can be read. */
import { run } from '../../src/main.ts'

process.exitCode = await run(process.argv.slice(2))
