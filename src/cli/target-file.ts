/**
 * A file that is there whole or not at all. It is written beside its place (0600, flushed) and takes the place only when everything went well;
 * whatever ends the program before leaves nothing under the target's name.
 */

import { randomBytes } from 'node:crypto'
import { link, lstat, open, rename, rm, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { CommandFailure } from './command.ts'

export interface TargetFile {
  /** Resolves when the bytes are the system's; they may be used again then. */
  write(bytes: Uint8Array): Promise<void>
  /** Flushes, takes the place, and flushes the folder. @throws CommandFailure when another file has come there meanwhile. */
  commit(): Promise<void>
  /** Removes what was written. */
  abandon(): Promise<void>
}

/**
 * Opens the file beside the target.
 * @param replace takes the place of a regular file that is there
 * @throws CommandFailure when the place is taken, or is no place for a file.
 */
export async function openTargetFile(path: string, replace: boolean): Promise<TargetFile> {
  await requirePlace(path, replace)
  const folder = dirname(path)
  // A name may be as long as the file system allows, in bytes.
  const beside = join(folder, `.${basename(path).slice(0, 32)}.${randomBytes(6).toString('hex')}.part`)
  const handle = await open(beside, 'wx', 0o600).catch((cause: NodeJS.ErrnoException) => {
    throw new CommandFailure(`${path} cannot be written: ${cause.message}.`, { cause })
  })
  const close = onceClosed(handle)
  return {
    async write(bytes) {
      for (let at = 0; at < bytes.length;) at += (await handle.write(bytes, at, bytes.length - at)).bytesWritten
    },
    async commit() {
      await handle.sync()
      await close()
      if (replace) await requirePlace(path, replace)
      await (replace ? rename(beside, path) : takeFreePlace(beside, path))
      await syncFolder(folder)
    },
    async abandon() {
      await close().catch(() => undefined)
      await rm(beside, { force: true })
    },
  }
}

/** A device, a pipe or a folder of that name must not be replaced by a file, with or without --force. */
async function requirePlace(path: string, replace: boolean): Promise<void> {
  const found = await lstat(path).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return undefined
    throw new CommandFailure(`${path} cannot be written: ${cause.message}.`, { cause })
  })
  if (!found) return
  if (!found.isFile())
    throw new CommandFailure(`${path} is no regular file. To write into something else, write to standard output: --output -`)
  if (!replace) throw taken(path)
}

const taken = (path: string): CommandFailure => new CommandFailure(`${path} is there already. --force replaces it.`)

/** Takes the name only if nobody has it: a link cannot replace anything. */
async function takeFreePlace(beside: string, path: string): Promise<void> {
  try {
    await link(beside, path)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'EEXIST') throw taken(path)
    // File systems without hard links.
    if (code !== 'EPERM' && code !== 'ENOTSUP' && code !== 'EOPNOTSUPP' && code !== 'ENOSYS' && code !== 'EMLINK') throw cause
    await requirePlace(path, false)
    return rename(beside, path)
  }
  await rm(beside)
}

async function syncFolder(folder: string): Promise<void> {
  const directory = await open(folder, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

function onceClosed(handle: FileHandle): () => Promise<void> {
  let closing: Promise<void> | undefined
  return () => (closing ??= handle.close())
}
