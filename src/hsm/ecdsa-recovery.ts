/**
 * Finds the public key of an EC private key that the device holds, from signatures that the device made with it (SEC 1 v2.0 section 4.1.6).
 *
 * Some tokens take a private key in and can tell nobody its point: PKCS#8 may leave the public key out, and a private object
 * need not have CKA_EC_POINT. Everything here is public: a signature, a digest, a point. Nothing needs to be constant in time.
 */

/** y² = x³ + ax + b over p, generator g of prime order n; SEC 2 v2.0 and FIPS 186-4. Cofactor 1, p ≡ 3 mod 4. */
export interface Curve {
  readonly p: bigint
  readonly a: bigint
  readonly b: bigint
  readonly n: bigint
  readonly g: readonly [bigint, bigint]
  /** Length of a coordinate. */
  readonly bytes: number
  /** The hash whose digest is not longer than the order, in node:crypto's spelling: nothing of it is cut off. */
  readonly hash: string
}

const hex = (text: string): bigint => BigInt(`0x${text.replaceAll(' ', '')}`)

const p256 = hex('ffffffff 00000001 00000000 00000000 00000000 ffffffff ffffffff ffffffff')
const p384 = 2n ** 384n - 2n ** 128n - 2n ** 96n + 2n ** 32n - 1n
const p521 = 2n ** 521n - 1n

/** By the KMS key spec. */
export const curves = {
  ECC_NIST_P256: {
    p: p256,
    a: p256 - 3n,
    b: hex('5ac635d8 aa3a93e7 b3ebbd55 769886bc 651d06b0 cc53b0f6 3bce3c3e 27d2604b'),
    n: hex('ffffffff 00000000 ffffffff ffffffff bce6faad a7179e84 f3b9cac2 fc632551'),
    g: [
      hex('6b17d1f2 e12c4247 f8bce6e5 63a440f2 77037d81 2deb33a0 f4a13945 d898c296'),
      hex('4fe342e2 fe1a7f9b 8ee7eb4a 7c0f9e16 2bce3357 6b315ece cbb64068 37bf51f5'),
    ],
    bytes: 32,
    hash: 'sha256',
  },
  ECC_NIST_P384: {
    p: p384,
    a: p384 - 3n,
    b: hex('b3312fa7 e23ee7e4 988e056b e3f82d19 181d9c6e fe814112 0314088f 5013875a c656398d 8a2ed19d 2a85c8ed d3ec2aef'),
    n: hex('ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff c7634d81 f4372ddf 581a0db2 48b0a77a ecec196a ccc52973'),
    g: [
      hex('aa87ca22 be8b0537 8eb1c71e f320ad74 6e1d3b62 8ba79b98 59f741e0 82542a38 5502f25d bf55296c 3a545e38 72760ab7'),
      hex('3617de4a 96262c6f 5d9e98bf 9292dc29 f8f41dbd 289a147c e9da3113 b5f0b8c0 0a60b1ce 1d7e819d 7a431d7c 90ea0e5f'),
    ],
    bytes: 48,
    hash: 'sha384',
  },
  ECC_NIST_P521: {
    p: p521,
    a: p521 - 3n,
    b: hex(
      '0051 953eb961 8e1c9a1f 929a21a0 b68540ee a2da725b 99b315f3 b8b48991 8ef109e1 56193951 ec7e937b 1652c0bd 3bb1bf07 3573df88 3d2c34f1 ef451fd4 6b503f00',
    ),
    n: hex(
      '01ff ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff fffffffa 51868783 bf2f966b 7fcc0148 f709a5d0 3bb5c9b8 899c47ae bb6fb71e 91386409',
    ),
    g: [
      hex(
        '00c6 858e06b7 0404e9cd 9e3ecb66 2395b442 9c648139 053fb521 f828af60 6b4d3dba a14b5e77 efe75928 fe1dc127 a2ffa8de 3348b3c1 856a429b f97e7e31 c2e5bd66',
      ),
      hex(
        '0118 39296a78 9a3bc004 5c8a5fb4 2c7d1bd9 98f54449 579b4468 17afbd17 273e662c 97ee7299 5ef42640 c550b901 3fad0761 353c7086 a272c240 88be9476 9fd16650',
      ),
    ],
    bytes: 66,
    hash: 'sha512',
  },
  ECC_SECG_P256K1: {
    p: 2n ** 256n - 2n ** 32n - 977n,
    a: 0n,
    b: 7n,
    n: hex('ffffffff ffffffff ffffffff fffffffe baaedce6 af48a03b bfd25e8c d0364141'),
    g: [
      hex('79be667e f9dcbbac 55a06295 ce870b07 029bfcdb 2dce28d9 59f2815b 16f81798'),
      hex('483ada77 26a3c465 5da4fbfc 0e1108a8 fd17b448 a6855419 9c47d08f fb10d4b8'),
    ],
    bytes: 32,
    hash: 'sha256',
  },
} as const satisfies Record<string, Curve>

const modulo = (value: bigint, modulus: bigint): bigint => {
  const rest = value % modulus
  return rest < 0n ? rest + modulus : rest
}

function power(base: bigint, exponent: bigint, modulus: bigint): bigint {
  let result = 1n
  for (let square = modulo(base, modulus), left = exponent; left > 0n; left >>= 1n) {
    if ((left & 1n) === 1n) result = (result * square) % modulus
    square = (square * square) % modulus
  }
  return result
}

/** The modulus is prime. */
const inverse = (value: bigint, modulus: bigint): bigint => power(value, modulus - 2n, modulus)

/** Jacobian coordinates: x = X/Z², y = Y/Z³; Z = 0 is the point at infinity. */
type Point = readonly [bigint, bigint, bigint]
const infinity: Point = [1n, 1n, 0n]

function double({ p, a }: Curve, [x, y, z]: Point): Point {
  if (z === 0n || y === 0n) return infinity
  const yy = (y * y) % p
  const s = (4n * x * yy) % p
  const zz = (z * z) % p
  const m = (3n * x * x + a * zz * zz) % p
  const x3 = modulo(m * m - 2n * s, p)
  return [x3, modulo(m * (s - x3) - 8n * yy * yy, p), (2n * y * z) % p]
}

function add(curve: Curve, first: Point, second: Point): Point {
  const { p } = curve
  const [x1, y1, z1] = first
  const [x2, y2, z2] = second
  if (z1 === 0n) return second
  if (z2 === 0n) return first
  const zz1 = (z1 * z1) % p
  const zz2 = (z2 * z2) % p
  const u1 = (x1 * zz2) % p
  const s1 = (y1 * zz2 * z2) % p
  const h = modulo(x2 * zz1 - u1, p)
  const r = modulo(y2 * zz1 * z1 - s1, p)
  if (h === 0n) return r === 0n ? double(curve, first) : infinity
  const hh = (h * h) % p
  const hhh = (h * hh) % p
  const v = (u1 * hh) % p
  const x3 = modulo(r * r - hhh - 2n * v, p)
  return [x3, modulo(r * (v - x3) - s1 * hhh, p), (h * z1 * z2) % p]
}

function multiply(curve: Curve, point: Point, scalar: bigint): Point {
  let result = infinity
  for (const bit of scalar.toString(2)) {
    result = double(curve, result)
    if (bit === '1') result = add(curve, result, point)
  }
  return result
}

const readInteger = (bytes: Buffer): bigint => (bytes.length === 0 ? 0n : BigInt(`0x${bytes.toString('hex')}`))
const writeInteger = (value: bigint, bytes: number): Buffer => Buffer.from(value.toString(16).padStart(2 * bytes, '0'), 'hex')

/**
 * The points, uncompressed (SEC 1 section 2.3.3), under which `signature` is one of `digest`: two as a rule, and only a second signature tells
 * which of them it is. None when the numbers are no signature.
 *
 * @param signature r and s, each half of the bytes
 */
export function recoverPublicKeys(curve: Curve, digest: Buffer, signature: Buffer): readonly Buffer[] {
  const { p, a, b, n, bytes } = curve
  const r = readInteger(signature.subarray(0, signature.length / 2))
  const s = readInteger(signature.subarray(signature.length / 2))
  if (signature.length % 2 !== 0 || r === 0n || s === 0n || r >= n || s >= n) return []
  const inverseR = inverse(r, n)
  const generator = multiply(curve, [...curve.g, 1n], modulo(-readInteger(digest) * inverseR, n))
  const found: Buffer[] = []
  // r is an x coordinate modulo n; where n is smaller than p, r + n may be the one.
  for (let x = r; x < p; x += n) {
    const yy = modulo(x * x * x + a * x + b, p)
    const y = power(yy, (p + 1n) / 4n, p)
    if ((y * y) % p !== yy) continue
    for (const sign of [y, p - y]) {
      const [keyX, keyY, z] = add(curve, generator, multiply(curve, [x, sign, 1n], (s * inverseR) % n))
      if (z === 0n) continue
      const inverseZ = inverse(z, p)
      const zz = (inverseZ * inverseZ) % p
      found.push(Buffer.concat([Buffer.of(4), writeInteger((keyX * zz) % p, bytes), writeInteger((keyY * zz * inverseZ) % p, bytes)]))
    }
  }
  return found
}
