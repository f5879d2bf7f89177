/**
 * Threads for what software computes too long for the event loop: key pairs that are made for callers, and the signatures that
 * OpenSSL, as Node has it, cannot be asked about. They start when they
 * are needed and end when they have not been for a while.
 */

import { availableParallelism } from 'node:os'
import { Busy } from '../base/busy.ts'
import type { EcdsaQuestion } from './ecdsa.ts'
import { openThreads } from './threads.ts'

export type PairSpec =
  | 'RSA_2048'
  | 'RSA_3072'
  | 'RSA_4096'
  | 'ECC_NIST_P256'
  | 'ECC_NIST_P384'
  | 'ECC_NIST_P521'
  | 'ECC_SECG_P256K1'
  | 'ECC_NIST_EDWARDS25519'

export interface Ed25519phQuestion {
  /** Its 32 bytes. */
  readonly publicKey: Uint8Array
  /** SHA-512 of the message. */
  readonly digest: Uint8Array
  readonly signature: Uint8Array
}

export interface CryptoPool {
  /** A new pair: PKCS#8 and SubjectPublicKeyInfo, DER. The caller wipes the private one. @throws Busy, or why a thread was lost with what it was at; as do the others */
  keyPair(spec: PairSpec): Promise<{ readonly privateKey: Buffer; readonly publicKey: Buffer }>
  /** @throws Busy */
  isEcdsaSignature(question: EcdsaQuestion): Promise<boolean>
  /** @throws Busy */
  isEd25519phSignature(question: Ed25519phQuestion): Promise<boolean>
  /** Ends the threads, whatever they are at. */
  close(): Promise<void>
}

/** An RSA-4096 pair takes a second or more: behind so many a caller would have given up. */
const maxWaiting = 256

/** Makers of key pairs and judges of signatures have threads of their own: a millisecond's work does not wait behind seconds. */
export function openCryptoPool(): CryptoPool {
  const pairs = openCryptoThreads()
  const judges = openCryptoThreads()
  return {
    async keyPair(spec) {
      const { privateKey, publicKey } = (await pairs.run('keyPair', spec)) as Readonly<Record<'privateKey' | 'publicKey', Uint8Array>>
      return { privateKey: view(privateKey), publicKey: view(publicKey) }
    },
    isEcdsaSignature: async (question) => (await judges.run('isEcdsaSignature', question)) === true,
    isEd25519phSignature: async (question) => (await judges.run('isEd25519phSignature', question)) === true,
    async close() {
      await Promise.all([pairs.close(), judges.close()])
    },
  }
}

function openCryptoThreads() {
  const pool = openThreads(new URL('./crypto-worker.ts', import.meta.url), { maxThreads: Math.max(1, availableParallelism() - 1) })
  return {
    async run(task: string, input: unknown): Promise<unknown> {
      if (pool.waiting() >= maxWaiting) throw new Busy('too many wait for a thread')
      return pool.run(task, input)
    },
    close: pool.close,
  }
}

/** The same memory as a Buffer. */
const view = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
