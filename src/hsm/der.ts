/**
 * The few DER encodings (X.690) between what a token answers and what the world reads: public keys as
 * SubjectPublicKeyInfo (RFC 5280 section 4.1, RFC 5480, RFC 8017 appendix A.1) and ECDSA signatures (RFC 3279
 * section 2.2.3). Reads the point that a token gives in an OCTET STRING, and the one private key that no device unwraps (PKCS#8 of EC).
 */

const SEQUENCE = 0x30
const INTEGER = 0x02
const BIT_STRING = 0x03
const OCTET_STRING = 0x04
const OBJECT_IDENTIFIER = 0x06

function encode(tag: number, ...parts: readonly Buffer[]): Buffer {
  const content = Buffer.concat(parts)
  const { length } = content
  let head: number[]
  if (length < 0x80) head = [tag, length]
  else if (length < 0x100) head = [tag, 0x81, length]
  else head = [tag, 0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.from(head), content])
}

/** A non-negative number: shortest form, with a zero in front where the first bit would read as a sign. */
function encodeUnsigned(bytes: Buffer): Buffer {
  let start = 0
  while (start < bytes.length - 1 && bytes[start] === 0) start += 1
  const shortest = bytes.subarray(start)
  return encode(INTEGER, (shortest[0] ?? 0) >= 0x80 ? Buffer.concat([Buffer.of(0), shortest]) : shortest)
}

const rsaEncryption = Buffer.from('300d06092a864886f70d0101010500', 'hex')
const ecPublicKey = Buffer.from('06072a8648ce3d0201', 'hex')

export function encodeRsaPublicKey(modulus: Buffer, exponent: Buffer): Buffer {
  const key = encode(SEQUENCE, encodeUnsigned(modulus), encodeUnsigned(exponent))
  return encode(SEQUENCE, rsaEncryption, encode(BIT_STRING, Buffer.of(0), key))
}

/**
 * @param parameters CKA_EC_PARAMS: the curve's OBJECT IDENTIFIER
 * @param point uncompressed
 */
export function encodeEcPublicKey(parameters: Buffer, point: Buffer): Buffer {
  const algorithm = encode(SEQUENCE, ecPublicKey, parameters)
  return encode(SEQUENCE, algorithm, encode(BIT_STRING, Buffer.of(0), point))
}

/** CKA_EC_POINT of an uncompressed point. */
export function encodeEcPoint(point: Buffer): Buffer {
  return encode(OCTET_STRING, point)
}

const edwards25519 = Buffer.from('300506032b6570', 'hex')

/** Ed25519 (RFC 8410). @param ecPoint CKA_EC_POINT: an OCTET STRING around the 32 bytes (PKCS#11 v3.0 section 2.3.5), or, on some tokens, these alone */
export function encodeEdwardsPublicKey(ecPoint: Buffer): Buffer {
  const bytes = ecPoint.length === 34 && ecPoint[0] === OCTET_STRING && ecPoint[1] === 32 ? ecPoint.subarray(2) : ecPoint
  return encode(SEQUENCE, edwards25519, encode(BIT_STRING, Buffer.of(0), bytes))
}

/** Uncompressed points of P-256 and secp256k1, P-384, P-521. */
const pointLengths: readonly number[] = [65, 97, 133]

const uncompressed = 4

/**
 * The uncompressed point in CKA_EC_POINT: an OCTET STRING around it (PKCS#11 v2.40 section 2.3.3), or, on some tokens, the bare point. Undefined for a
 * point in any other form: with one at infinity node:crypto ends the process.
 */
export function readEcPoint(value: Buffer): Buffer | undefined {
  // A bare point begins with 04 as well, and its next byte may be any length: the length of all tells.
  const bare = pointLengths.includes(value.length) ? value : undefined
  const point = bare ?? pointLengths.map((length) => value.subarray(-length)).find((inside) => encodeEcPoint(inside).equals(value))
  return point?.[0] === uncompressed ? point : undefined
}

/** @param raw r and s, each half of the bytes */
export function encodeEcdsaSignature(raw: Buffer): Buffer {
  const half = raw.length / 2
  return encode(SEQUENCE, encodeUnsigned(raw.subarray(0, half)), encodeUnsigned(raw.subarray(half)))
}

interface Element {
  readonly tag: number
  readonly whole: Buffer
  readonly content: Buffer
}

/** The elements of DER one after another; undefined when the bytes are no such row to their very end. */
function readElements(der: Buffer): readonly Element[] | undefined {
  const elements: Element[] = []
  for (let at = 0; at < der.length;) {
    const tag = der[at] ?? 0
    const first = der[at + 1] ?? 0xff
    const lengthBytes = first < 0x80 ? 0 : first - 0x80
    // Nothing that is read here has more than 64 KiB.
    if (lengthBytes > 2 || first === 0x80 || at + 2 + lengthBytes > der.length) return undefined
    const start = at + 2 + lengthBytes
    const end = start + (lengthBytes === 0 ? first : der.readUIntBE(at + 2, lengthBytes))
    if (end > der.length) return undefined
    elements.push({ tag, whole: der.subarray(at, end), content: der.subarray(start, end) })
    at = end
  }
  return elements
}

/** What is in the one element that the bytes are, if that is a SEQUENCE that begins with these tags. */
function readInside(der: Buffer, tags: readonly number[]): readonly Element[] | undefined {
  const [sequence, another] = readElements(der) ?? []
  if (sequence?.tag !== SEQUENCE || another !== undefined) return undefined
  const inside = readElements(sequence.content)
  return inside !== undefined && tags.every((tag, index) => inside[index]?.tag === tag) ? inside : undefined
}

/**
 * Curve and secret number in a PKCS#8 of an EC key (RFC 5208 section 5, RFC 5480, RFC 5915 section 3), as views into it; undefined when it is none.
 * Whether the number fits the curve is the device's to judge. By OpenSSL there would be copies that only the garbage collector ends.
 */
export function readEcPrivateKey(pkcs8: Buffer): { readonly parameters: Buffer; readonly secret: Buffer } | undefined {
  const [version, algorithm, octets] = readInside(pkcs8, [INTEGER, SEQUENCE, OCTET_STRING]) ?? []
  // 1: RFC 5958, with the public key behind.
  if (version?.content.length !== 1 || (version.content[0] ?? 2) > 1 || algorithm === undefined || octets === undefined) return undefined
  const [name, parameters] = readInside(algorithm.whole, [OBJECT_IDENTIFIER, OBJECT_IDENTIFIER]) ?? []
  if (name === undefined || parameters === undefined || !name.whole.equals(ecPublicKey)) return undefined
  const [keyVersion, secret] = readInside(octets.content, [INTEGER, OCTET_STRING]) ?? []
  if (keyVersion === undefined || secret === undefined || !keyVersion.content.equals(Buffer.of(1))) return undefined
  return { parameters: parameters.whole, secret: secret.content }
}
