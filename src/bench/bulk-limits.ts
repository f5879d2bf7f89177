/** What bounds bulk encryption: the cipher, the copies, handing over to threads, OpenSSL alone; and how much memory a long stream takes. */

import { spawn } from 'node:child_process'
import { createCipheriv } from 'node:crypto'
import { once } from 'node:events'
import { slabBytes } from '../bulk/bulk-pool.ts'
import { copyInto, sealRoom } from '../bulk/frames.ts'
import { decryptStream, encryptStream } from '../bulk/stream.ts'
import { unsignedSuite } from '../bulk/suites.ts'
import { cellsOf, measureRates, mebi, setRatio, type Figures, type Subject } from './bulk-kit.ts'
import type { PartContext, Table } from './part.ts'

/** Where the time goes, at 64 KiB: the cipher into memory that is used again, the copies, handing runs to threads and back. Each for the same bytes, in one thread. */
export async function measureParts(subject: Subject): Promise<void> {
  const { source, pool, figures } = subject
  const slab = pool.takeSlab(slabBytes)
  const cipher = createCipheriv('aes-256-gcm', Buffer.alloc(32, 1), Buffer.alloc(12))
  const piece = source.subarray(0, 65_536)
  const key = new SharedArrayBuffer(32)
  const runs = Math.ceil(source.length / mebi)
  const nothing = {
    cipher: unsignedSuite.cipher,
    key,
    messageId: new Uint8Array(32),
    slab: slab.shared,
    run: { at: 40, plaintextBytes: 0, frameLength: 65_536, firstSequence: 1, last: true },
  }
  const frames = mebi / piece.length
  const full = { at: sealRoom(frames), plaintextBytes: mebi, frameLength: piece.length, firstSequence: 1, last: false }
  const slabs = Array.from({ length: 2 * pool.threads }, () => pool.takeSlab(slabBytes))
  await measureRates(subject, 'parts', runs * mebi, [
    {
      name: 'threads',
      run: async () => {
        let left = runs
        await Promise.all(
          slabs.map(async ({ shared }) => {
            while (left-- > 0) await pool.seal({ ...nothing, slab: shared, run: full })
          }),
        )
      },
    },
    {
      name: 'cipher',
      run: async () => {
        for (let n = 0; n < runs * 16; n++) cipher.update(piece)
      },
    },
    {
      name: 'copy-in',
      run: async () => {
        for (let n = 0; n < runs; n++) copyInto(slab.memory, 520, source.subarray(n * mebi, (n + 1) * mebi))
      },
    },
    {
      name: 'copy-back',
      run: async () => {
        for (let n = 0; n < runs * 16; n++) copyInto(slab.memory, 16 + (n % 16) * 65_568, piece)
      },
    },
    {
      name: 'hand-over',
      run: async () => {
        for (let n = 0; n < runs; n++) await pool.seal(nothing)
      },
    },
  ])
  for (const used of [slab, ...slabs]) pool.giveSlab(used)
  setRatio(figures, 'parts/threads-by-one-thread', 'parts/threads', '65536/one-thread')
}

/** How much memory more the process has at the most while a long stream passes, in bytes; once, the stream being long. */
export async function growth(
  { part: { progress }, keyring, pool }: Pick<Subject, 'part' | 'keyring' | 'pool'>,
  bytes: number,
): Promise<readonly number[]> {
  progress(`bulk encryption: a stream of ${bytes / mebi} MiB`)
  const chunk = Buffer.alloc(mebi, 3)
  function* source() {
    for (let given = 0; given < bytes; given += chunk.length) yield chunk
  }
  const before = process.memoryUsage.rss()
  let most = before
  let seen = 0
  for await (const piece of decryptStream(encryptStream(source(), { keyring, pool, lend: true }), { keyring, pool, lend: true })) {
    seen += piece.length
    if (seen % (64 * mebi) < piece.length) most = Math.max(most, process.memoryUsage.rss())
  }
  if (seen !== bytes) throw new Error(`of ${bytes} bytes ${seen} came back`)
  return [Math.max(0, Math.max(most, process.memoryUsage.rss()) - before)]
}

/** MB/s of one thread, without Node; undefined where there is no such command. */
export async function opensslSpeed({ plan, progress }: PartContext): Promise<readonly number[] | undefined> {
  progress('bulk encryption: openssl speed')
  const rounds: number[] = []
  while (rounds.length < plan.rounds) {
    const child = spawn('openssl', ['speed', '-seconds', '1', '-bytes', '65536', '-mr', '-evp', 'aes-256-gcm'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
    try {
      await once(child, 'close')
    } catch {
      return undefined
    }
    const rate = Number(/^\+F:\d+:[^:]*:([\d.]+)/m.exec(text)?.[1])
    if (!Number.isFinite(rate)) return undefined
    rounds.push(rate / 1e6)
  }
  return rounds
}

export function partsView(figures: Readonly<Figures>): Table {
  const cell = cellsOf(figures)
  return {
    kind: 'table',
    title: 'Where the time goes at 64 KiB, in one thread',
    about:
      'The cipher alone, the copy into shared memory on the main thread, the copy back from OpenSSL in the threads, and handing a run of 1 MiB to a thread and back, waiting for it; and what bounds all of it, the threads sealing slabs that nobody fills.',
    columns: ['', 'rate'],
    rows: [
      ['the cipher (one GCM, 64 KiB at a time)', cell('parts/cipher')],
      ['copying in', cell('parts/copy-in')],
      ['copying back', cell('parts/copy-back')],
      ['handing over', cell('parts/hand-over')],
      ['the threads, nobody filling or reading', cell('parts/threads')],
      ['times one thread of node:crypto', cell('parts/threads-by-one-thread')],
      ['OpenSSL alone', cell('openssl')],
      ['memory more for the longest stream', cell('rss/growth')],
    ],
  }
}
