/**
 * Messages of the AWS Encryption SDK made and read as they pass: `encryptStream`, `decryptStream`, and the same for bytes.
 */

import type { BulkPool } from './bulk-pool.ts'
import type { Keyring } from './keyring.ts'
import type { EncryptionContext, HeaderLimits, MessageHeader } from './message.ts'
import type { Suite } from './suites.ts'

/** A Readable, a generator, an array of chunks: read one by one, never ahead of what can be worked on. */
export type Source = AsyncIterable<Uint8Array> | Iterable<Uint8Array>

/** What comes out, in order, each piece as soon as it may be seen. To stop early is to `return` (as leaving a `for await` does, or destroying a Readable made of it). */
export interface MessageStream extends AsyncIterableIterator<Buffer> {
  /** As soon as it is made or believed (decrypting: the data key was found and the header's tag verified). Rejected with what went wrong before. */
  readonly header: Promise<MessageHeader>
}

interface Common {
  readonly keyring: Keyring
  /** The threads that do the work; those that the program shares, unless given. */
  readonly pool?: BulkPool
  /**
   * The pieces that come out are views of memory that is used again once the next is asked for: right for who has written each away before
   * (`await file.write(piece)`), wrong for who keeps them or queues them (pipeline, Readable.from). Without it each piece is memory of its own.
   */
  readonly lend?: boolean
}

export interface EncryptOptions extends Common {
  readonly context?: EncryptionContext
  /** Names of pairs of `context` that are not written into the message: who decrypts must know them ("required encryption context"). */
  readonly keptOut?: readonly string[]
  readonly suite?: Suite
  /** Of plaintext, 1 to 2^32-1; 64 KiB unless given. */
  readonly frameLength?: number
}

export interface DecryptOptions extends Common {
  /** What the message must have been encrypted with. Pairs that it does not carry are taken for kept out, and authenticated with it. */
  readonly context?: EncryptionContext
  /** Messages of the older suites, which do not commit to their key, are refused unless `REQUIRE_ENCRYPT_ALLOW_DECRYPT` (or the SDK's oldest, `FORBID_ENCRYPT_ALLOW_DECRYPT`). */
  readonly commitmentPolicy?: CommitmentPolicy
  readonly limits?: Partial<ReadLimits>
  /**
   * Signed messages: nothing comes out before the signature is verified; so many bytes are held for it at the most. Without it frames come out as
   * they are authenticated, the last ones after the signature, and a wrong one is an error at the end. Messages that are not signed do not change by it.
   */
  readonly holdBytes?: number
}

export type CommitmentPolicy = 'REQUIRE_ENCRYPT_REQUIRE_DECRYPT' | 'REQUIRE_ENCRYPT_ALLOW_DECRYPT' | 'FORBID_ENCRYPT_ALLOW_DECRYPT'

export interface ReadLimits extends HeaderLimits {
  /** What is held in memory until its tag is verified: the longest frame, or body without frames. 64 MiB unless given. */
  readonly maxFrameLength: number
}

export declare function encryptStream(source: Source, options: EncryptOptions): MessageStream
export declare function decryptStream(source: Source, options: DecryptOptions): MessageStream
