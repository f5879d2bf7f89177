/**
 * The few DER encodings (X.690) between what a token answers and what the world reads: public keys as
 * SubjectPublicKeyInfo (RFC 5280 section 4.1, RFC 5480, RFC 8017 appendix A.1) and ECDSA signatures (RFC 3279
 * section 2.2.3). Only encodes, save for the point that a token gives in an OCTET STRING.
 */

const SEQUENCE = 0x30
const INTEGER = 0x02
const BIT_STRING = 0x03
const OCTET_STRING = 0x04

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
 * @param ecPoint CKA_EC_POINT: an OCTET STRING around the point (PKCS#11 v2.40 section 2.3.3), or, on some tokens, the bare point
 */
export function encodeEcPublicKey(parameters: Buffer, ecPoint: Buffer): Buffer {
  const algorithm = encode(SEQUENCE, ecPublicKey, parameters)
  return encode(SEQUENCE, algorithm, encode(BIT_STRING, Buffer.of(0), readPoint(ecPoint)))
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

function readPoint(value: Buffer): Buffer {
  // A bare uncompressed point begins with 04 as well, and its next byte may be any length: only what is inside tells.
  if (value[0] !== OCTET_STRING) return value
  if (value[1] === value.length - 2 && pointLengths.includes(value.length - 2)) return value.subarray(2)
  if (value[1] === 0x81 && value[2] === value.length - 3 && pointLengths.includes(value.length - 3)) return value.subarray(3)
  return value
}

/** @param raw r and s, each half of the bytes */
export function encodeEcdsaSignature(raw: Buffer): Buffer {
  const half = raw.length / 2
  return encode(SEQUENCE, encodeUnsigned(raw.subarray(0, half)), encodeUnsigned(raw.subarray(half)))
}
