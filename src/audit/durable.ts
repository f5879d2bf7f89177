/**
 * Which batches of records are durable, told by the append thread in shared memory. Whoever waits for one may look at any time; a message is heard
 * only when the event loop's turn is over, and a turn of a busy service takes longer than a commit.
 */

/** More than are ever under way: the number of a batch stands in its place until one that is so many later takes it. */
const places = 8

/** Shared by two threads. Batches are numbered from 1 on; numbers are 32 bits long and go round. */
export type DurableBatches = Int32Array

export const newDurableBatches = (): DurableBatches => new Int32Array(new SharedArrayBuffer(places * Int32Array.BYTES_PER_ELEMENT))

export const nextBatch = (batch: number): number => (batch + 1) | 0

export const setDurable = (durable: DurableBatches, batch: number): void => void Atomics.store(durable, placeOf(batch), batch)

export const isDurable = (durable: DurableBatches, batch: number): boolean => Atomics.load(durable, placeOf(batch)) === batch

/** The remainder also of a negative number. */
const placeOf = (batch: number): number => batch & (places - 1)
