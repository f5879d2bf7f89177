/**
 * What bulk encryption gives: messages of the AWS Encryption SDK by Holdfast and by that SDK's implementation for Node, of the same bytes, with the same
 * raw AES keyring, in turn. Beside them what the machine can do: one thread of node:crypto, and OpenSSL alone. By frame length, by suite, by threads
 * (`bulk-messages.ts`, `bulk-threads.ts`), and what a cache of data keys saves the device (`bulk-cache.ts`).
 *
 * The source is in memory, in shared memory or in a file, the same for each side; what comes out is counted and dropped. Holdfast lends its pieces, as a writer
 * to a file takes them.
 */

import { randomBytes } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { openBulkPool } from '../bulk/bulk-pool.ts'
import { rawAesKeyring } from '../bulk/keyring.ts'
import { cacheHeadlines, cacheViews, measureCache } from './bulk-cache.ts'
import { frameLengths, mebi, names, openSdk, showLength, type Figures, type Subject } from './bulk-kit.ts'
import { growth, measureParts, opensslSpeed, partsView } from './bulk-limits.ts'
import { measureMessages, messageViews } from './bulk-messages.ts'
import { measureThreads, threadViews } from './bulk-threads.ts'
import { figure, median, type Part, type PartReport, type Plan } from './part.ts'
import { showNumber } from './text.ts'

/** The length of one message follows from how long a side is to be measured: 256 MiB in a full run, with a long stream of 4 GiB. */
const sizesOf = ({ durationMs }: Plan) => {
  const mebibytes = 2 ** Math.max(0, Math.floor(Math.log2(durationMs / 10)))
  return { bytes: mebibytes * mebi, longBytes: 16 * mebibytes * mebi }
}

/** Rates of the SDK, of one thread of node:crypto, of OpenSSL: a change of them is one of the machine. */
const isOfOthers = /(?:^|\/)(?:sdk-[a-z-]+|one-thread(?:-[a-z]+)?|openssl)$/

export const bulkPart: Part = {
  name: 'bulk',
  title: 'Bulk encryption',
  async run(part): Promise<PartReport> {
    const { bytes, longBytes } = sizesOf(part.plan)
    const isQuick = part.plan.level === 'quick'
    const figures: Figures = {}
    const lacking: string[] = []
    const key = randomBytes(32)
    const sdk = await openSdk(key)
    if (!sdk) lacking.push('The AWS Encryption SDK: the package @aws-crypto/client-node is not installed.')
    const keyring = rawAesKeyring({ ...names, key })
    const pool = openBulkPool()
    try {
      // The largest first: memory that is mapped once is there for all that follows.
      figures['rss/growth'] = figure('bytes', 'lower', await growth({ part, keyring, pool }, longBytes))
      const source = Buffer.alloc(bytes, 'what is encrypted ')
      const subject: Subject = { part, source, keyring, pool, figures, sdk }
      await measureMessages(subject)
      await measureThreads(subject)
      await measureParts(subject)
      const openssl = await opensslSpeed(part)
      if (openssl === undefined) lacking.push('What OpenSSL does alone: there is no `openssl` command.')
      else figures['openssl'] = figure('MB/s', 'higher', openssl)
      if (!isQuick) await measureCache(part, pool, figures, lacking)
    } finally {
      await pool.close()
    }
    if (isQuick)
      lacking.push(
        'What a cache of data keys saves the device, and pools of more and fewer threads for frames other than 64 KiB and for signed messages, are measured in a longer run.',
      )
    return {
      about: about(bytes),
      figures,
      views: [...messageViews(figures), ...threadViews(figures), ...cacheViews(figures, part.plan), partsView(figures)],
      lacking,
      controls: Object.keys(figures).filter((id) => isOfOthers.test(id)),
      headlines: [...headlines(figures), ...cacheHeadlines(figures)],
    }
  },
}

const about = (bytes: number): readonly string[] => [
  `Messages of ${showLength(bytes)}, suite 0x0478 (AES-256-GCM, HKDF, key commitment), by Holdfast with ${availableParallelism()} threads and by the AWS Encryption SDK for JavaScript, whose data keys come from one raw AES key. The source is in memory, the output is counted and dropped. Holdfast's pieces are lent, as to a writer that awaits each write; "whole" is bytes in, bytes out, in memory of their own.`,
  'One thread is node:crypto sealing frames one by one into fresh memory, on the main thread. OpenSSL alone is `openssl speed -evp aes-256-gcm` in blocks of 64 KiB, one thread.',
]

function headlines(figures: Readonly<Figures>): readonly string[] {
  const of = (id: string): string => (figures[id] ? showNumber(figures[id].median) : '–')
  const byLength = frameLengths.map(
    (length) => `${of(`${length}/encrypt-by-sdk`)}/${of(`${length}/decrypt-by-sdk`)}× at ${showLength(length)}`,
  )
  const shared = frameLengths.map((length) => `${of(`${length}/encrypt-shared-by-sdk`)}/${of(`${length}/decrypt-shared-by-sdk`)}×`)
  const byThread = ['', '-shared', '-file'].map((kind) => `${of(`65536/encrypt${kind}-by-one-thread`)}×`)
  const isBesideSdk = figures['65536/encrypt-by-sdk'] !== undefined
  return [
    ...(isBesideSdk
      ? [
          `Bulk, encrypting/decrypting against the AWS Encryption SDK: ${byLength.join(', ')}; out of shared memory ${shared.join(', ')}`,
          `Bulk, messages of 1 KiB: ${of('small/encrypt-by-sdk')}/${of('small/decrypt-by-sdk')}× the SDK`,
        ]
      : []),
    `Bulk, encrypting out of memory, shared memory, a file: ${byThread.join(', ')} one thread`,
    `Bulk, a long stream takes ${showNumber(median(figures['rss/growth']?.rounds ?? []) / mebi)} MiB more memory`,
  ]
}
