/**
 * Memory that is freed as soon as nobody reads it any more. Blocks that Node fills, with what was received for one, are left to V8's collector otherwise:
 * for every 32 MiB of them or so it goes through the whole heap.
 */

import { MessageChannel, type MessagePort } from 'node:worker_threads'

/** What is handed to it goes with it: that alone frees memory in JavaScript. */
let closed: MessagePort | undefined

/** Shorter ones cost less to leave to the collector. */
const leastBytes = 4096

/** Of a block that has memory of its own, which is wiped; others stay as they are. Nobody may want to read it any more: it has no bytes then. */
export function discard(bytes: Uint8Array): void {
  const { buffer, length } = bytes
  if (length < leastBytes || length !== buffer.byteLength || !(buffer instanceof ArrayBuffer)) return
  bytes.fill(0)
  discardAll([buffer])
}

/** All that is there of each, in one go, as it is. */
export function discardAll(blocks: readonly ArrayBuffer[]): void {
  closed ??= closedPort()
  closed.postMessage(undefined, blocks)
}

function closedPort(): MessagePort {
  const { port1, port2 } = new MessageChannel()
  port1.close()
  port2.close()
  return port1
}
