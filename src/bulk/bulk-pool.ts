/** Threads that seal and open the frames of messages, and hash what is signed. */

export interface BulkPool {
  /** As many frames' runs are worked on at once. */
  readonly threads: number
  /** Ends the threads; streams under way fail. */
  close(): Promise<void>
}
