/** Whether a process of this machine still runs. One that belongs to somebody else does, too: it may only not be signalled. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
