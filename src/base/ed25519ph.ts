/**
 * Checks signatures by Ed25519ph (RFC 8032 section 5.1, the digest in place of the message, no context), which OpenSSL 3.0 does not know. Only for what
 * is public: nothing here takes the same time for different numbers. For Verify, in a thread, since it takes milliseconds; and for the self-test of
 * a device, that must tell one that signs so from one that ignores being asked to.
 */
import { createHash } from 'node:crypto'

const p = 2n ** 255n - 19n
/** The order of the base point. */
const order = 2n ** 252n + 27742317777372353535851937790883648493n

const mod = (value: bigint): bigint => ((value % p) + p) % p

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n
  for (let square = base, left = exponent; left > 0n; left >>= 1n, square = mod(square * square)) {
    if ((left & 1n) === 1n) result = mod(result * square)
  }
  return result
}

const inverse = (value: bigint): bigint => power(value, p - 2n)
const d = mod(-121665n * inverse(121666n))
const rootOfMinusOne = power(2n, (p - 1n) / 4n)

/** Extended coordinates (section 5.1.4): x = X/Z, y = Y/Z, T = XY/Z. */
interface Point {
  readonly X: bigint
  readonly Y: bigint
  readonly Z: bigint
  readonly T: bigint
}
const neutral: Point = { X: 0n, Y: 1n, Z: 1n, T: 0n }

function add(a: Point, b: Point): Point {
  const A = mod((a.Y - a.X) * (b.Y - b.X))
  const B = mod((a.Y + a.X) * (b.Y + b.X))
  const C = mod(2n * d * a.T * b.T)
  const D = mod(2n * a.Z * b.Z)
  const [E, F, G, H] = [B - A, D - C, D + C, B + A]
  return { X: mod(E * F), Y: mod(G * H), Z: mod(F * G), T: mod(E * H) }
}

const areEqual = (a: Point, b: Point): boolean => mod(a.X * b.Z - b.X * a.Z) === 0n && mod(a.Y * b.Z - b.Y * a.Z) === 0n

function multiply(point: Point, factor: bigint): Point {
  let result = neutral
  for (let double = point, left = factor; left > 0n; left >>= 1n, double = add(double, double)) {
    if ((left & 1n) === 1n) result = add(result, double)
  }
  return result
}

const readNumber = (bytes: Buffer): bigint => BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`)

/** Section 5.1.3. */
function readPoint(bytes: Buffer): Point | undefined {
  const number = readNumber(bytes)
  const sign = number >> 255n
  const y = number & (2n ** 255n - 1n)
  if (y >= p) return undefined
  const square = mod((y * y - 1n) * inverse(mod(d * y * y + 1n)))
  let x = power(square, (p + 3n) / 8n)
  if (mod(x * x) !== square) x = mod(x * rootOfMinusOne)
  if (mod(x * x) !== square || (x === 0n && sign === 1n)) return undefined
  if ((x & 1n) !== sign) x = p - x
  return { X: x, Y: y, Z: 1n, T: mod(x * y) }
}

const base = readPoint(Buffer.from(`58${'66'.repeat(31)}`, 'hex')) ?? neutral
const domain = Buffer.concat([Buffer.from('SigEd25519 no Ed25519 collisions'), Buffer.of(1, 0)])

/**
 * @param publicKey its 32 bytes
 * @param digest SHA-512 of the message
 */
export function verifyEd25519ph(publicKey: Buffer, digest: Buffer, signature: Buffer): boolean {
  if (publicKey.length !== 32 || signature.length !== 64) return false
  const key = readPoint(publicKey)
  const commitment = readPoint(signature.subarray(0, 32))
  const scalar = readNumber(signature.subarray(32))
  if (key === undefined || commitment === undefined || scalar >= order) return false
  const hash = createHash('sha512').update(domain).update(signature.subarray(0, 32)).update(publicKey).update(digest).digest()
  return areEqual(multiply(base, scalar), add(commitment, multiply(key, readNumber(hash) % order)))
}
