/**
 * What the usage of a time would have cost on AWS KMS: an estimate, by AWS's published list prices ("AWS KMS pricing") and nothing else: no
 * free tier, no discounts, no taxes. It tells the order of a bill, and which key or operation is most of it.
 */

import { isSymmetric } from './specs.ts'

export type PriceClass = 'standard' | 'asymmetric' | 'eccKeyPair' | 'rsaKeyPair'

/** In US dollars. */
export interface Prices {
  readonly keyMonth: number
  /** Of ten thousand. */
  readonly requests: Readonly<Record<PriceClass, number>>
}

export const standardPrices: Prices = {
  keyMonth: 1,
  requests: { standard: 0.03, asymmetric: 0.15, eccKeyPair: 0.1, rsaKeyPair: 12 },
}

const asymmetricOperations: ReadonlySet<string> = new Set([
  'Encrypt',
  'Decrypt',
  'ReEncrypt',
  'Sign',
  'Verify',
  'GetPublicKey',
  'DeriveSharedSecret',
  'Encapsulate',
  'Decapsulate',
])

/**
 * @param spec of the key, undefined for calls without one
 * @param pairSpec of the data key pair that was asked for
 */
export function priceClass(operation: string, spec: string | undefined, pairSpec: string | undefined): PriceClass {
  if (pairSpec !== undefined) return pairSpec.startsWith('RSA_') ? 'rsaKeyPair' : 'eccKeyPair'
  // AWS takes RSA_2048 for the price of symmetric keys.
  const isDear = spec !== undefined && !isSymmetric({ spec }) && !spec.startsWith('HMAC_') && spec !== 'RSA_2048'
  return isDear && asymmetricOperations.has(operation) ? 'asymmetric' : 'standard'
}

/** What a class was called when it was counted may be one that is no more. */
export const requestCost = ({ requests }: Prices, price: string, calls: number): number =>
  (requests[Object.hasOwn(requests, price) ? (price as PriceClass) : 'standard'] * calls) / 10_000

const hourMs = 3_600_000

/** How many months lie between two times: each month's hours, begun ones counted whole, as a share of all that it has. */
export function months(fromMs: number, toMs: number): number {
  let sum = 0
  for (let from = fromMs; from < toMs;) {
    const date = new Date(from)
    const begin = Date.UTC(date.getUTCFullYear(), date.getUTCMonth(), 1)
    const end = Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 1)
    const until = Math.min(end, toMs)
    sum += Math.ceil((until - from) / hourMs) / ((end - begin) / hourMs)
    from = until
  }
  return sum
}

/** A key, or what is left of one. */
export interface Life {
  readonly beganAt: number
  readonly endedAt: number
  /** The first times it was rotated. */
  readonly rotations: readonly number[]
}

/** Months that are paid for a key between two times: its own, and one more for each of its first two rotations from then on. */
export function keyMonths({ beganAt, endedAt, rotations }: Life, fromMs: number, toMs: number): number {
  const end = Math.min(endedAt, toMs)
  return [beganAt, ...rotations].reduce((sum, since) => sum + months(Math.max(since, fromMs), end), 0)
}

/** To a millionth of a dollar: what remains of sums of fractions is noise. */
export const rounded = (amount: number): number => Math.round(amount * 1e6) / 1e6
