/** The pieces of a body on its way, so that what they hold is about what they are long. */

/**
 * Adds a piece. A body may come byte by byte, and a piece costs more than a hundred bytes however short it is: beyond a few, equals are made one. Those
 * that were joined are wiped.
 */
export function addChunk(chunks: Buffer[], chunk: Buffer): void {
  let last = chunk
  while (chunks.length >= 16 && (chunks.at(-1)?.length ?? 0) <= last.length) {
    const pieces = [chunks.pop() ?? nothing, last]
    last = Buffer.concat(pieces)
    for (const piece of pieces) piece.fill(0)
  }
  chunks.push(last)
}

const nothing = Buffer.alloc(0)
