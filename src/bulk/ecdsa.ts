/**
 * ECDSA verification from a digest on. Node hands OpenSSL no digest, it always hashes; so what OpenSSL cannot be asked for in one piece is put
 * together here from what it can: multiples of points. Pure functions, milliseconds long on the larger curves. Nothing here is secret.
 */

import { createECDH } from 'node:crypto'

interface Curve {
  /** OpenSSL's. */
  readonly name: string
  /** Of a coordinate. */
  readonly bytes: number
  /** The field's prime and the order of the base point. */
  readonly p: bigint
  readonly n: bigint
}

/** SEC 2 2.4.1, 2.4.2, 2.5.1 and 2.6.1. */
const curves: ReadonlyMap<string, Curve> = new Map(
  [
    {
      name: 'prime256v1',
      bytes: 32,
      p: 2n ** 256n - 2n ** 224n + 2n ** 192n + 2n ** 96n - 1n,
      n: 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n,
    },
    {
      name: 'secp384r1',
      bytes: 48,
      p: 2n ** 384n - 2n ** 128n - 2n ** 96n + 2n ** 32n - 1n,
      n: 0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973n,
    },
    {
      name: 'secp521r1',
      bytes: 66,
      p: 2n ** 521n - 1n,
      n: 0x1fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409n,
    },
    {
      name: 'secp256k1',
      bytes: 32,
      p: 2n ** 256n - 2n ** 32n - 977n,
      n: 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n,
    },
  ].map((curve) => [curve.name, curve]),
)

/** A signature to be judged. All numbers big-endian, coordinates and the halves of the signature as long as the curve's field. */
export interface EcdsaQuestion {
  /** OpenSSL's name. */
  readonly curve: string
  readonly x: Uint8Array
  readonly y: Uint8Array
  /** No longer than the field. */
  readonly digest: Uint8Array
  readonly r: Uint8Array
  readonly s: Uint8Array
}

const readNumber = (bytes: Uint8Array): bigint => BigInt(`0x${Buffer.from(bytes).toString('hex')}`)
const writeNumber = (value: bigint, bytes: number): Buffer => Buffer.from(value.toString(16).padStart(bytes * 2, '0'), 'hex')

/** The number in 0…m-1 that `value` is. */
const modulo = (value: bigint, m: bigint): bigint => ((value % m) + m) % m

/** By Euclid, for a prime `m` and 0 < value < m. */
function inverse(value: bigint, m: bigint): bigint {
  let [a, b, u, v] = [value, m, 1n, 0n]
  while (a > 1n) {
    const q = b / a
    ;[a, b, u, v] = [b - q * a, a, v - q * u, u]
  }
  return modulo(u, m)
}

/**
 * FIPS 186-5 6.4.2 from the digest e on: r is the x of e/s·G + r/s·Q. Written r/s·(Q + e/r·G), it is a multiple of one point, whose x is what
 * OpenSSL's ECDH answers; only the sum in the brackets is made here.
 */
export function isEcdsaSignature(question: EcdsaQuestion): boolean {
  const curve = curves.get(question.curve)
  if (!curve) throw new Error(`no such curve: ${question.curve}`)
  const { name, bytes, n } = curve
  const [e, r, s] = [readNumber(question.digest), readNumber(question.r), readNumber(question.s)]
  if (r === 0n || r >= n || s === 0n || s >= n) return false
  const point = add(curve, { x: readNumber(question.x), y: readNumber(question.y) }, modulo(e * inverse(r, n), n))
  if (!point) return false
  const ecdh = createECDH(name)
  ecdh.setPrivateKey(writeNumber(modulo(r * inverse(s, n), n), bytes))
  const x = ecdh.computeSecret(Buffer.concat([Buffer.of(4), writeNumber(point.x, bytes), writeNumber(point.y, bytes)]))
  return modulo(readNumber(x), n) === r
}

interface Point {
  readonly x: bigint
  readonly y: bigint
}

/** q + scalar·G (SEC 1 2.2.1); undefined for the point at infinity. */
function add(curve: Curve, q: Point, scalar: bigint): Point | undefined {
  const { p, n } = curve
  if (scalar === 0n) return q
  const g = baseMultiple(curve, scalar)
  if (g.x === q.x) return g.y === q.y ? baseMultiple(curve, modulo(2n * scalar, n)) : undefined
  const slope = modulo(modulo(g.y - q.y, p) * inverse(modulo(g.x - q.x, p), p), p)
  const x = modulo(slope * slope - g.x - q.x, p)
  return { x, y: modulo(slope * (q.x - x) - q.y, p) }
}

/** scalar·G, 0 < scalar < n. */
function baseMultiple({ name, bytes }: Curve, scalar: bigint): Point {
  const ecdh = createECDH(name)
  ecdh.setPrivateKey(writeNumber(scalar, bytes))
  const point = ecdh.getPublicKey()
  return { x: readNumber(point.subarray(1, 1 + bytes)), y: readNumber(point.subarray(1 + bytes)) }
}
