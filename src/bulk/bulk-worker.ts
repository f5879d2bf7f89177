/** What the threads of the bulk pool do. */

import { createHash, createSign, createVerify, createPublicKey, ECDH, generateKeyPairSync, type KeyObject } from 'node:crypto'
import { getPriority, setPriority } from 'node:os'
import { isMainThread, workerData, type MessagePort } from 'node:worker_threads'
import { SourceFailure } from './chunks.ts'
import { freeAtOnce, openRun, sealRun, zero, type OpenRun, type SealRun } from './frames.ts'
import { MessageError, type MessageFault } from './message.ts'
import type { SignatureKind, Suite } from './suites.ts'

/** As `nice` counts. */
const leastPriority = 19

// To Linux process 0 is the thread that asks; elsewhere it would be the whole program.
if (!isMainThread && process.platform === 'linux') {
  const { niceness } = workerData as { readonly niceness: number }
  if (niceness > 0) setPriority(Math.min(leastPriority, getPriority() + niceness))
}
if (!isMainThread) freeAtOnce()

/** A run of frames and where it lies. The key is in memory that its stream shares, and wipes; nothing here keeps it. */
export interface RunOrder<Run> {
  readonly cipher: Suite['cipher']
  readonly key: SharedArrayBuffer
  readonly messageId: Uint8Array
  readonly slab: SharedArrayBuffer
  readonly run: Run
}

/** Bytes written to the slab; or what is wrong with the message, or with the file that it is read from: classes do not pass between threads. */
export type RunAnswer = number | { readonly fault: MessageFault | 'source'; readonly message: string }

const keysOf = ({ cipher, key, messageId }: RunOrder<unknown>) => ({ cipher, key: new Uint8Array(key), messageId })

export const seal = (order: RunOrder<SealRun>): RunAnswer => answer(() => sealRun(keysOf(order), Buffer.from(order.slab), order.run))
export const open = (order: RunOrder<OpenRun>): RunAnswer => answer(() => openRun(keysOf(order), Buffer.from(order.slab), order.run))

function answer(run: () => number): RunAnswer {
  try {
    return run()
  } catch (error) {
    if (error instanceof MessageError) return { fault: error.fault, message: error.message }
    if (error instanceof SourceFailure) return { fault: 'source', message: error.message }
    throw error
  }
}

/** Zeroes, from the slab's beginning on. */
export function wipe({ slab, bytes }: WipeOrder): null {
  zero(Buffer.from(slab), bytes)
  return null
}

export interface WipeOrder {
  readonly slab: SharedArrayBuffer
  readonly bytes: number
}

/** Does nothing; for what starts a thread. */
export const wake = (): null => null

/** What a notary is asked, in order. */
export type NotaryQuestion =
  | { readonly bytes: Uint8Array }
  | { readonly slab: SharedArrayBuffer; readonly length: number }
  | 'sign'
  | { readonly signature: Uint8Array }
/** What it says first: the public key of its new pair, compressed, or nothing; then an answer to every question, in order. */
export type NotaryAnswer = Uint8Array | boolean | null | { readonly fault: MessageFault; readonly message: string }

export interface NotaryOrder {
  /** Or a hash alone: what is asked to `sign` answers the digest. */
  readonly kind: SignatureKind | 'sha256'
  /** Compressed, to verify by; none to sign with a new pair. */
  readonly publicKey: Uint8Array | undefined
  readonly port: MessagePort
}

/**
 * Hashes one message as it passes, then signs or verifies: from the first byte to the last in this thread, since a hash under way cannot move. The
 * private key never leaves it. Ends when the other end of the port is closed.
 */
export async function notary({ kind, publicKey, port }: NotaryOrder): Promise<void> {
  const say = (answer: NotaryAnswer): void => port.postMessage(answer)
  const judge = kind === 'sha256' ? hasher(kind) : publicKey ? verifier(kind, publicKey) : signer(kind)
  if (!judge) {
    say({ fault: 'malformed', message: 'the public key in the encryption context is none of the suite' })
    return
  }
  const closed = new Promise<void>((resolve) => port.once('close', resolve))
  port.on('message', (question: NotaryQuestion) => {
    if (question === 'sign') say(judge.end(undefined))
    else if ('signature' in question) say(judge.end(question.signature))
    else {
      judge.update('bytes' in question ? question.bytes : new Uint8Array(question.slab, 0, question.length))
      say(null)
    }
  })
  say(judge.publicKey)
  await closed
}

interface Judge {
  readonly publicKey: Uint8Array | null
  update(bytes: Uint8Array): void
  end(signature: Uint8Array | undefined): Uint8Array | boolean
}

function hasher(algorithm: 'sha256'): Judge {
  const hash = createHash(algorithm)
  return { publicKey: null, update: (bytes) => void hash.update(bytes), end: () => hash.digest() }
}

function signer({ curve, hash, fieldBytes }: SignatureKind): Judge {
  const pair = generateKeyPairSync('ec', { namedCurve: curve })
  const sign = createSign(hash)
  return {
    publicKey: compressed(pair.publicKey, fieldBytes),
    update: (bytes) => void sign.update(bytes),
    end: () => sign.sign(pair.privateKey),
  }
}

function verifier({ curve, hash }: SignatureKind, publicKey: Uint8Array): Judge | undefined {
  let key: KeyObject
  try {
    key = createPublicKey({ key: publicKeyInfo(curve, publicKey), format: 'der', type: 'spki' })
  } catch {
    return undefined
  }
  const verify = createVerify(hash)
  return {
    publicKey: null,
    update: (bytes) => void verify.update(bytes),
    end: (signature) => verify.verify(key, signature ?? Buffer.alloc(0)),
  }
}

/** SEC 1 2.3.3: the sign of y, and x. A SubjectPublicKeyInfo ends with the uncompressed point. */
function compressed(publicKey: KeyObject, fieldBytes: number): Buffer {
  const point = publicKey.export({ type: 'spki', format: 'der' }).subarray(-2 * fieldBytes)
  return Buffer.concat([Buffer.of(2 + ((point.at(-1) ?? 0) & 1)), point.subarray(0, fieldBytes)])
}

/** SubjectPublicKeyInfo of a named curve with an uncompressed point, up to the point (RFC 5480 2). */
const infoPrefixes: Readonly<Record<SignatureKind['curve'], string>> = {
  prime256v1: '3059301306072a8648ce3d020106082a8648ce3d030107034200',
  secp384r1: '3076301006072a8648ce3d020106052b81040022036200',
}
const publicKeyInfo = (curve: SignatureKind['curve'], point: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from(infoPrefixes[curve], 'hex'), ECDH.convertKey(point, curve, undefined, undefined, 'uncompressed') as Buffer])
