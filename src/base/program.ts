/**
 * Programs of our own, which run in processes and threads beside the one that starts them. They are TypeScript, and Node 20 carries the loader
 * that reads it neither into a process nor into a thread, so that each is given it; what has been made JavaScript of beforehand needs none.
 * A program comes in the form of this very file.
 */

const isSource = import.meta.url.endsWith('.ts')

/** What to start, for a program's source: a URL that ends in `.ts`. */
export const programOf = (source: URL): URL => (isSource ? source : new URL(source.href.replace(/\.ts$/, '.js')))

/** Flags of Node for a process that is to run such a program. */
export const loaderFlags: readonly string[] = isSource ? ['--import', import.meta.resolve('tsx')] : []

/** The first line, in JavaScript, of a thread that is to import such a program. */
export const loaderLine: string = isSource
  ? `import { register } from ${JSON.stringify(import.meta.resolve('tsx/esm/api'))}; register();`
  : ''
